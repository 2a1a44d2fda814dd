"""Trunks by name: nets from features to unknowns, made of operations that carry derivative channels, in float64.

    pde.solve(problem, method="gauss_newton", net="pirate", width=32, depth=3)

A trunk is a module from (N, dim_in) to (N, dim_out); `width` and `depth` mean for each what its docstring says. Glorot-
uniform weights; biases of the first layers over [-1, 1], of the others 0.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..registry import Registry


class Sine(nn.Module):
    """sin(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class CubicReLU(nn.Module):
    """max(x, 0)^3: of class C^2, the activation of E & Yu (2018)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.detach() > 0, x * x * x, 0.0)  # relu itself has no second derivative to carry


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sin": Sine,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "relu3": CubicReLU,
}


def activation(name: str) -> nn.Module:
    """A smooth activation by name. Raises BadInput."""
    if name not in ACTIVATIONS:
        raise BadInput(f"no smooth activation is called {name!r} here; there are: {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]()


Trunk = Callable[..., nn.Module]
TRUNKS: Registry[Trunk] = Registry("trunk", "odenet.trunks")


def trunk(name: str, dim_in: int, dim_out: int, **words: Any) -> nn.Module:
    """The trunk called `name`; words: width, depth, act, seed and its own. Raises UnknownName and BadInput."""
    maker = TRUNKS.get(name)
    known = list(inspect.signature(maker).parameters)[2:]
    if extra := [w for w in words if w not in known]:
        raise BadInput(f"the trunk {name!r} has no option {extra[0]!r}; it has: {', '.join(known)}.")
    return maker(dim_in, dim_out, **words)


class _Weights:
    """Layers one after another from one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def linear(self, dim_in: int, dim_out: int, bias: bool = True, spread: float = 0.0) -> nn.Linear:
        """Glorot-uniform weights, biases uniform over [-spread, spread]."""
        layer = nn.Linear(dim_in, dim_out, bias=bias, dtype=torch.float64)
        bound = math.sqrt(6 / (dim_in + dim_out))
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=self.generator)
            if bias:
                layer.bias.uniform_(-spread, spread, generator=self.generator) if spread else layer.bias.zero_()
        return layer

    def linears(self, count: int, dim_in: int, dim_out: int, **words: Any) -> nn.ModuleList:
        """Several alike."""
        return nn.ModuleList(self.linear(dim_in, dim_out, **words) for _ in range(count))


def _chain(make: _Weights, sizes: list[int], act: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [make.linear(a, b, spread=0.0 if layers else 1.0), activation(act)]
    return nn.Sequential(*layers[:-1])


def mlp(dim_in: int, dim_out: int, width: int = 24, depth: int = 3, act: str = "tanh", seed: int = 0) -> nn.Sequential:
    """dim_in -> width x depth -> dim_out. The first choice: smooth solutions without fine scales."""
    return _chain(_Weights(seed), [dim_in, *[width] * depth, dim_out], act)


class FourierFeatures(nn.Module):
    """(cos 2 pi B x, sin 2 pi B x), B (features, dim_in) of independent normal entries with deviation `scale`, fixed.

    M. Tancik et al., NeurIPS 2020, arXiv 2006.10739.
    """

    B: Tensor

    def __init__(self, dim_in: int, features: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        if features < 1 or not scale > 0:
            raise BadInput(f"random Fourier features need features >= 1 and scale > 0, got {features} and {scale}.")
        self.register_buffer(
            "B", scale * torch.randn(features, dim_in, generator=generator, dtype=torch.float64), persistent=True
        )

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * (x @ self.B.mT)
        return torch.cat((torch.cos(angle), torch.sin(angle)), -1)


def fourier(
    dim_in: int,
    dim_out: int,
    width: int = 24,
    depth: int = 3,
    act: str = "tanh",
    seed: int = 0,
    features: int | None = None,
    scale: float = 0.5,
) -> nn.Module:
    """Random Fourier features, then an MLP. For many wavelengths across the domain; scale: about their number / 2.

    features: pairs of cos and sin, `width` unless told; the axes are scaled to [-1, 1] before.
    """
    make = _Weights(seed)
    embed = FourierFeatures(dim_in, features or width, scale, make.generator)
    return nn.Sequential(embed, *_chain(make, [2 * (features or width), *[width] * depth, dim_out], act))


class ModifiedMLP(nn.Module):
    """H <- (1 - Z) U + Z V with Z = act(W H + b), U = act(W_u x + b_u), V = act(W_v x + b_v).

    S. Wang, Y. Teng & P. Perdikaris, SIAM J. Sci. Comput. 43 (2021) A3055.
    """

    def __init__(self, dim_in: int, dim_out: int, width: int, depth: int, act: str, seed: int) -> None:
        super().__init__()
        make = _Weights(seed)
        self.u, self.v, self.first = make.linears(3, dim_in, width, spread=1.0)
        self.hidden = make.linears(depth, width, width)
        self.last, self.act = make.linear(width, dim_out), activation(act)

    def forward(self, x: Tensor) -> Tensor:
        u, v, h = self.act(self.u(x)), self.act(self.v(x)), self.act(self.first(x))
        for layer in self.hidden:
            h = u + self.act(layer(h)) * (v - u)
        return self.last(h)  # type: ignore[no-any-return]


def modified_mlp(
    dim_in: int, dim_out: int, width: int = 24, depth: int = 3, act: str = "tanh", seed: int = 0
) -> nn.Module:
    """An MLP gated by two encoders of the inputs. Products of features: stiff and multiplicative solutions."""
    return ModifiedMLP(dim_in, dim_out, width, depth, act, seed)


class PirateBlock(nn.Module):
    """x <- alpha h + (1 - alpha) x with alpha = 0 at first and two gates between three layers.

    f = act(W1 x + b1), z = f u + (1 - f) v, g = act(W2 z + b2), y = g u + (1 - g) v, h = act(W3 y + b3).
    """

    def __init__(self, size: int, width: int, act: str, make: _Weights) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            make.linear(a, b) for a, b in ((size, width), (width,) * 2, (width, size))
        )
        self.alpha, self.act = nn.Parameter(torch.zeros(1, dtype=torch.float64)), activation(act)

    def forward(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        z = v + self.act(self.first(x)) * (u - v)
        y = v + self.act(self.second(z)) * (u - v)
        return x + self.alpha * (self.act(self.third(y)) - x)


class PirateNet(nn.Module):
    """Random Fourier features, `depth` residual blocks that are the identity at first, a linear layer.

    S. Wang, B. Li, Y. Chen & P. Perdikaris, JMLR 25 (2024), arXiv 2402.00326.
    """

    def __init__(
        self, dim_in: int, dim_out: int, width: int, depth: int, act: str, seed: int, features: int, scale: float
    ) -> None:
        super().__init__()
        make = _Weights(seed)
        self.embed = FourierFeatures(dim_in, features, scale, make.generator)
        self.u, self.v = make.linears(2, 2 * features, width, spread=1.0)
        self.blocks = nn.ModuleList(PirateBlock(2 * features, width, act, make) for _ in range(depth))
        self.last, self.act = make.linear(2 * features, dim_out), activation(act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        u, v = self.act(self.u(x)), self.act(self.v(x))
        for block in self.blocks:
            x = block(x, u, v)
        return self.last(x)  # type: ignore[no-any-return]


def pirate(
    dim_in: int,
    dim_out: int,
    width: int = 24,
    depth: int = 2,
    act: str = "tanh",
    seed: int = 0,
    features: int | None = None,
    scale: float = 0.5,
) -> nn.Module:
    """PirateNet: depth without its troubles, as it starts linear. Deep nets (three blocks are nine layers)."""
    return PirateNet(dim_in, dim_out, width, depth, act, seed, features or max(1, width // 2), scale)


class DGMLayer(nn.Module):
    """S <- (1 - G) H + Z S, where Z, G, R = act(U x + W S + b) and H = act(U x + W (S R) + b)."""

    def __init__(self, dim_in: int, width: int, act: str, make: _Weights) -> None:
        super().__init__()
        self.inputs = make.linears(4, dim_in, width, spread=1.0)
        self.states = make.linears(4, width, width, bias=False)
        self.act = activation(act)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        z, g, r = (self.act(self.inputs[i](x) + self.states[i](s)) for i in range(3))
        h = self.act(self.inputs[3](x) + self.states[3](s * r))
        return (1.0 - g) * h + z * s


class DGM(nn.Module):
    """S = act(W x + b), `depth` gated layers that see x again, a linear layer.

    J. Sirignano & K. Spiliopoulos, J. Comput. Phys. 375 (2018) 1339; the gate G takes the state of its own layer.
    """

    def __init__(self, dim_in: int, dim_out: int, width: int, depth: int, act: str, seed: int) -> None:
        super().__init__()
        make = _Weights(seed)
        self.first = make.linear(dim_in, width, spread=1.0)
        self.layers = nn.ModuleList(DGMLayer(dim_in, width, act, make) for _ in range(depth))
        self.last, self.act = make.linear(width, dim_out), activation(act)

    def forward(self, x: Tensor) -> Tensor:
        s = self.act(self.first(x))
        for layer in self.layers:
            s = layer(x, s)
        return self.last(s)  # type: ignore[no-any-return]


def dgm(dim_in: int, dim_out: int, width: int = 24, depth: int = 2, act: str = "tanh", seed: int = 0) -> nn.Module:
    """Layers gated as an LSTM's. Sharp turns that move in time, free boundaries, many dimensions."""
    return DGM(dim_in, dim_out, width, depth, act, seed)


class RitzBlock(nn.Module):
    """s <- act(W2 act(W1 s + b1) + b2) + s."""

    def __init__(self, width: int, act: str, make: _Weights) -> None:
        super().__init__()
        self.first, self.second, self.act = make.linear(width, width), make.linear(width, width), activation(act)

    def forward(self, s: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(s)))) + s  # type: ignore[no-any-return]


def ritz(dim_in: int, dim_out: int, width: int = 24, depth: int = 2, act: str = "tanh", seed: int = 0) -> nn.Module:
    """A linear map, `depth` residual blocks of two layers, a linear map. Energies; act="relu3" is the paper's.

    W. E & B. Yu, Commun. Math. Stat. 6 (2018) 1.
    """
    make = _Weights(seed)
    blocks = [make.linear(dim_in, width, spread=1.0), *(RitzBlock(width, act, make) for _ in range(depth))]
    return nn.Sequential(*blocks, make.linear(width, dim_out))


for _maker in (mlp, fourier, modified_mlp, pirate, dgm, ritz):
    TRUNKS.register(_maker.__name__, _maker)
