"""The smoother of multigrid networks: an iteration that lowers the residual of data under a feature map."""

from __future__ import annotations

import torch

from ..types import Params, State, Time
from . import activations
from .activations import Activation
from .base import Field, normal
from .maps import Conv
from .unit import STATISTICS, known, normalised, normaliser


class Smoothing(Field):
    """u' = s(N2(B s(N1 r))), r' = -A u' on images (B, 2 C, H, W) with halves u (features) and r = f - A u (residual).

    With h = 1 forward Euler is MgNet's smoothing u <- u + s(B s(f - A u)), and r stays f - A u exactly. Without norms
    and with the identity as activation it is the iteration u <- u + B (f - A u) of linear multigrid. A is meant to be
    shared in a level, depth={"A": "shared", "*": "per_step"}. Choose it as the block of `nets.mgnet`.
    He & Xu 2019 (arXiv 1901.10415), algorithm 1. Raises BadInput for an unknown norm.
    """

    axis = 1

    def __init__(
        self, dim: int, *, activation: str | Activation = "relu", norm: str = "batch", gain: float = 2.0**0.5
    ) -> None:
        super().__init__()
        self.dim, self.norm, self.gain = 2 * dim, known(norm), gain
        self.map, self.activation = Conv(dim, dim, 3, 2), activations.resolve(activation)
        if norm == "batch":
            self.statistics = frozenset(s + tag for s in STATISTICS for tag in ("1", "2"))

    def init(self, generator: torch.Generator | None = None) -> Params:
        std = self.gain * self.map.fan_in**-0.5
        p = {name: normal(self.map.shape, std, generator) for name in ("A", "B")}
        for tag in ("1", "2") if self.norm != "none" else ():
            p |= normaliser(self.norm, self.map.rows, tag)
        return p

    def forward(self, t: Time, y: State, p: Params) -> State:
        _, residual = self.split(y)
        change = self._activated(self.map.apply(p["B"], self._activated(residual, p, "1")), p, "2")
        return self.join(change, -self.map.apply(p["A"], change))

    def _activated(self, z: State, p: Params, tag: str) -> State:
        return self.activation.f(z if self.norm == "none" else self._normed(z, p, tag))

    def _normed(self, z: State, p: Params, tag: str) -> State:
        return normalised(z, p, self.norm, self.map, tag, self.training)

    def extra_repr(self) -> str:
        return f"{self.dim // 2}, {self.activation.name}, norm={self.norm!r}"
