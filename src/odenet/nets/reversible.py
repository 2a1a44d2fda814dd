"""Image nets that can be run backwards: what a layer did is computed again from its result, so nothing is stored.

All take `preset` "cifar10", "cifar100" or "stl10", or `channels, classes, size` of the images and `widths` of the
blocks (hyperbolic_cnn: `width` of the first and the number of `levels`); `steps` in every block over `span` (default
(0, steps), so h = 1); `integrator`, `depth`, `activation`, `norm`, `seed`, and `gradient`: "reversible" keeps the last
state of every run of blocks and transfers that can be undone, other words are the gradient method of every block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..errors import BadInput
from ..fields import Antisymmetric, Coupling, Residual, SecondOrder, SeparableHamiltonian
from ..fields import activations as functions
from .base import net
from .images import Downsample
from .stages import Between, Preset, chained, head, plain, shape_of, stages
from .transfer import Haar, PadChannels, Pool
from .zoo import WAVE


def _pooled(halves: int) -> Between:
    return lambda cols, rows, _: [Pool("average"), PadChannels(cols, rows, parts=halves)]


def _residual(cols: int, rows: int, activation: str) -> list[nn.Module]:
    return [Downsample(cols, rows, "preactivation", activation)]


def _haar(cols: int, rows: int, _: str) -> list[nn.Module]:
    return [Haar(history="map")]


def _normalised(shape: Preset, activation: str) -> list[nn.Module]:
    width = shape.widths[-1]
    return [nn.BatchNorm2d(width), functions.layer(activation), head(width, shape.classes)]


def _coupled(width: int, **options: Any) -> Coupling:
    if width % 2:
        raise BadInput(
            f"a reversible residual block has two halves of its channels, so its width is even, not {width}."
        )
    return Coupling(Residual(width // 2, **options), Residual(width // 2, **options))


revnet = stages(
    "revnet", _coupled, ("symplectic_euler", "verlet", "rk4"), "Gomez et al. 2017 (arXiv 1707.04585), eq. 6-8",
    "x1 <- x1 + F(x2), x2 <- x2 + G(x1) on halves of the channels with pre-activation residual branches F, G: a "
    "residual net whose blocks need no stored activations (gradient='reversible'). Those between stages, of stride 2, "
    "do. The choice for deep residual nets on little memory.",
    between=_residual, end=_normalised, norm="batch",
)  # fmt: skip
momentum_cnn = stages(
    "momentum_cnn", Residual, ("momentum", "euler"), "Sander et al. 2021 (arXiv 2102.07870)",
    "v <- gamma v + (1 - gamma) f(x), x <- x + v, gamma = 0.9, with pre-activation residual branches f: a residual net "
    "made reversible without changing its branches, that remembers its velocity within a stage. Undoing a step divides "
    "by gamma, so in floating point rounding grows by 1/gamma per layer.",
    between=_residual, end=_normalised, norm="batch",
)  # fmt: skip
hamiltonian_reversible_cnn = stages(
    "hamiltonian_reversible_cnn", partial(SeparableHamiltonian, map="conv2d"), ("symplectic_euler", "verlet", "rk4"),
    "Chang et al. 2018 (arXiv 1709.03698)",
    "q' = K1^T s(K1 p + b1), p' = -K2^T s(K2 q + b2) on halves of the channels, without normalisation; blocks are "
    "joined by mean pooling and zero channels. The choice where images must keep their signal over hundreds of layers.",
    between=_pooled(2),
)  # fmt: skip
midpoint_cnn = stages(
    "midpoint_cnn", partial(Antisymmetric, map="conv2d", gamma=0.0), ("two_step_midpoint", "rk4"),
    "Chang et al. 2018 (arXiv 1709.03698)",
    "y_{n+1} = y_{n-1} + 2 h s((K - K^T) y_n + b), first step y_0 + h f(y_0): reversible with one convolution per "
    "layer, stable while h |K - K^T| <= 1. The choice where halves of the channels should not be told apart.",
    between=_pooled(1), activation="tanh",
)  # fmt: skip
leapfrog_cnn = stages(
    "leapfrog_cnn", partial(SecondOrder, map="conv2d"), ("leapfrog", "verlet", "rk4"),
    "Chang et al. 2018 (arXiv 1709.03698)",
    "y_{n+1} = 2 y_n - y_{n-1} - h^2 K^T s(K y_n + b), y_{-1} = y_0, without normalisation: the reversible "
    "second-order net, to be chosen where features should travel and no halves of the channels be told apart.",
    between=_pooled(1), scheme=WAVE,
)  # fmt: skip


@net(
    kind="ode",
    takes="image",
    cite="Lensink, Peters & Haber 2019 (arXiv 1905.10484)",
    integrators=("leapfrog", "verlet", "rk4"),
)
def hyperbolic_cnn(
    preset: str | None = None,
    channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    width: int = 8,
    levels: int = 2,
    steps: int = 3,
    integrator: Any = None,
    depth: Any = None,
    gradient: str = "autograd",
    activation: str = "relu",
    norm: str = "tv",
    span: tuple[float, float] | None = None,
    gain: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """y_{n+1} = 2 y_n - y_{n-1} - h^2 K^T s(N(K y_n)), y_{-1} = y_0: one wave through `levels` grids.

    N is the total-variation norm. Between two levels the Haar wavelet transform maps y_n and y_{n-1}, so the wave goes
    on; channels are `width`, 4 width, 16 width, ... All between opening and head can be undone (gradient="reversible":
    nothing in it is stored). Choose it where memory should depend on the images and not on the number of layers.
    """
    if not isinstance(levels, int) or levels < 1 or not isinstance(width, int) or width < 1:
        raise BadInput(f"hyperbolic_cnn got width={width!r}, levels={levels!r}; both are positive whole numbers.")
    shape = shape_of(preset, channels, classes, size, [width * 4**k for k in range(levels)])
    if shape.size % 2 ** (levels - 1):
        raise BadInput(f"images of {shape.size} x {shape.size} cannot be halved {levels - 1} times; give fewer levels.")
    return chained(
        shape,
        partial(SecondOrder, map="conv2d", activation=activation, norm=norm, gain=gain, dropout=dropout),
        WAVE if integrator is None else integrator,
        _haar,
        plain(shape, activation),
        steps=steps,
        span=span,
        depth=depth,
        gradient=gradient,
        activation=activation,
        seed=seed,
    )
