"""The classical networks that ODE networks are compared with. Each is an nn.Sequential: a list of layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import activations
from .base import net
from .initialisers import initialise
from .normalisation import normalised
from .pooling import pool
from .sequences import gru, lstm, rnn
from .transformer import Attention, EncoderBlock, attention
from .trees import tree_net

__all__ = [
    "Attention",
    "EncoderBlock",
    "attention",
    "cnn",
    "gru",
    "lstm",
    "mlp",
    "perceptron",
    "perceptron_rule",
    "rnn",
    "tree_net",
]


@net(kind="baseline", cite="F. Rosenblatt, The perceptron, Psychol. Rev. 65 (1958)")
def perceptron(dim_in: int, dim_out: int = 1, seed: int = 0) -> nn.Module:
    """Scores w x + b from zero weights, to be trained by `perceptron_rule`: (B, D) -> (B, dim_out).

    One output is a threshold unit (class 1 where the score is positive), more are one score for each class.
    """
    return nn.Sequential(initialise(nn.Linear(dim_in, dim_out), "zeros"))


@torch.no_grad()
def perceptron_rule(net: nn.Module, x: Tensor, y: Tensor, epochs: int = 100) -> list[int]:
    """Train a perceptron, sample by sample, and return the number of mistakes in each epoch.

    A misclassified sample with label ±1 adds ± (x, 1) to (w, b); with several classes (x, 1) is added to the
    row of the label and taken from the row of the guess. x (B, D), y (B,) class numbers. Ends early after an
    epoch without a mistake. Data of radius R = max |(x, 1)| that some unit vector separates with margin g
    give at most (R / g)^2 mistakes over all epochs (A. Novikoff, 1962), twice as many for several classes (K.
    Crammer & Y. Singer, J. Mach. Learn. Res. 3 (2003)).
    """
    linear = net[0] if isinstance(net, nn.Sequential) else net
    if not isinstance(linear, nn.Linear) or linear.bias is None:
        raise BadInput(f"the perceptron rule trains one linear layer with bias, not {type(net).__name__}.")
    mistakes: list[int] = []
    while len(mistakes) < epochs and (not mistakes or mistakes[-1] > 0):
        mistakes.append(sum(_correct(linear, xi, int(yi)) for xi, yi in zip(x, y)))
    return mistakes


def _correct(linear: nn.Linear, x: Tensor, y: int) -> bool:
    """One step of the perceptron rule; whether the sample was misclassified."""
    score = linear(x)  # (dim_out,)
    if len(score) == 1:
        sign = 1.0 if y > 0 else -1.0
        change, wrong = torch.full_like(score, sign), sign * float(score) <= 0
    else:
        guess = int(score.argmax())
        change, wrong = torch.zeros_like(score), guess != y
        change[y], change[guess] = 1.0, -1.0
    if wrong:
        linear.weight.add_(change[:, None] * x)
        linear.bias.add_(change)
    return wrong


@net(kind="baseline", cite="D. Rumelhart, G. Hinton & R. Williams, Nature 323 (1986)")
def mlp(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    steps: int = 2,
    activation: str = "tanh",
    init: str = "xavier",
    dropout: float = 0.0,
    norm: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """`steps` hidden layers f(W x + b) of equal width, then a linear one: (B, dim_in) -> (B, dim_out).

    norm: None, "batch", "layer" or "weight". The plain net that a residual one is to beat.
    """
    layers: list[nn.Module] = []
    for k in range(steps):
        linear = nn.Linear(width if k else dim_in, width)
        initialise(linear, init)
        layers += [*normalised(linear, norm), activations.layer(activation)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    head = nn.Linear(width if steps else dim_in, dim_out)
    return nn.Sequential(*layers, initialise(head, init))


class AsImage(nn.Module):
    """(B, C H W) or (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.image = (channels, size, size)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) not in (self.image, (self.image[0] * self.image[1] ** 2,)):
            raise BadInput(f"this net takes images {self.image}, flat or not, but was given {tuple(x.shape)}.")
        return x.reshape(len(x), *self.image)

    def extra_repr(self) -> str:
        return f"{self.image}"


@net(kind="baseline", takes="image", cite="Y. LeCun, L. Bottou, Y. Bengio & P. Haffner, Proc. IEEE 86 (1998)")
def cnn(
    channels: int = 1,
    classes: int = 10,
    size: int = 8,
    widths: Sequence[int] = (16, 32),
    hidden: Sequence[int] = (64,),
    kernel: int = 3,
    padding: int | str = "same",
    activation: str = "relu",
    pooling: str = "max",
    norm: str | None = None,
    dropout: float = 0.0,
    init: str = "he",
    seed: int = 0,
) -> nn.Module:
    """Convolution, activation, 2 x 2 pooling for each of `widths`; dense layers `hidden`; class scores.

    (B, C, size, size) or (B, C size^2) -> (B, classes). pooling: "max", "average", "sum", "l2" or
    "stochastic"; norm: None, "batch", "layer", "instance", "group" or "weight", after convolutions. LeNet-5's
    shape is cnn(size=32, widths=(6, 16), hidden=(120, 84), kernel=5, padding=0).
    """
    layers: list[nn.Module] = [AsImage(channels, size)]
    before, side = channels, size
    for width in widths:
        conv = nn.Conv2d(before, width, kernel, padding=padding)
        initialise(conv, init)
        layers += [*normalised(conv, norm), activations.layer(activation), pool(pooling)]
        before, side = width, (side if padding == "same" else side + 2 * int(padding) - kernel + 1) // 2
    if side < 1:
        raise BadInput(f"images of {size} x {size} are too small for {len(widths)} poolings; give fewer widths.")
    layers.append(nn.Flatten())  # (B, widths[-1] side side)
    before *= side * side
    for width in hidden:
        dense = initialise(nn.Linear(before, width), init)
        layers += [dense, activations.layer(activation), *([nn.Dropout(dropout)] if dropout else [])]
        before = width
    return nn.Sequential(*layers, initialise(nn.Linear(before, classes), init))
