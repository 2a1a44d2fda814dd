"""Reaction on images with diffusion that couples all pixels at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..types import Params, State, Time
from . import activations, constraints, maps
from .activations import Activation
from .base import Field, probability
from .unit import Unit

# a five-point-like Laplacian of order 2 with equal weight for the diagonals
_LAPLACIAN = ((-1.0, -4.0, -1.0), (-4.0, 20.0, -4.0), (-1.0, -4.0, -1.0))


class ReactionDiffusion(Field):
    """y' = K^T s(N(K y + b)) - L^T L y on images (B, C, H, W): a local reaction and a periodic depthwise diffusion.

    L is a 3x3 stencil for each channel, without mean, so that constants do not diffuse. The field is split: the
    reaction explicit, the diffusion implicit, solved exactly by one FFT, (I + h L^T L)^-1 = F^-1 1/(1 + h |L^|^2) F.
    Under "imex_euler" one step lets every pixel see every other, at any h. K ~ N(0, gain^2/fan_in)
    and L starts as 1/100 of the Laplacian. Choose it where an answer at one pixel
    depends on pixels far away. Haber, Lensink, Treister & Ruthotto 2019 (arXiv 1903.02639).
    """

    axis = 1

    def __init__(
        self,
        dim: int,
        *,
        activation: str | Activation = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        linear = maps.Conv(dim, dim, 3, 2)
        self.unit = Unit(linear, activations.resolve(activation), constraints.Unconstrained(), norm, 0, gain)
        self.dim, self.dropout, self.statistics = dim, probability(dropout), self.unit.statistics
        self.offers = frozenset({"split"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        p = self.unit.init(generator)
        return p | {"L": 1e-2 * torch.tensor(_LAPLACIAN).expand(self.dim, 3, 3).clone() / 6}

    def constrain(self, p: Params) -> Params:
        """Stencils without mean: of L, so that the constant image is at rest."""
        return {**p, "L": p["L"] - p["L"].mean((-2, -1), keepdim=True)}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.explicit(t, y, p) + self.implicit(t, y, p)

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """K^T s(N(K y + b))."""
        return self.unit.transpose(self.unit(y, p, self.training), p)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """-L^T L y."""
        return _multiplied(y, lambda size: -_energy(p["L"], size))

    def implicit_solve(self, scale: Any, y: State, p: Params) -> State:
        """(I + scale L^T L)^-1 y."""
        return _multiplied(y, lambda size: 1.0 / (1.0 + scale * _energy(p["L"], size)))

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.unit.activation.name}, norm={self.unit.norm!r}"


def _multiplied(y: Tensor, symbol: Callable[[tuple[int, int]], Tensor]) -> Tensor:
    """F^-1 (symbol F y) over the two space axes."""
    size = (int(y.shape[-2]), int(y.shape[-1]))
    return torch.fft.irfft2(symbol(size) * torch.fft.rfft2(y), s=size)


def _energy(L: Tensor, size: tuple[int, int]) -> Tensor:
    """|L^|^2 at the frequencies of an image of this size, (C, H, W // 2 + 1)."""
    stencil = torch.zeros(*L.shape[:-2], *size, dtype=L.dtype, device=L.device)
    for i in range(3):
        for j in range(3):
            stencil[..., (i - 1) % size[0], (j - 1) % size[1]] += L[..., i, j]
    return torch.fft.rfft2(stencil).abs() ** 2
