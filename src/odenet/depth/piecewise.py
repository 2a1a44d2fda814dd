"""Weights that are polynomials between the knots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from .base import Depth


@dataclass(frozen=True)
class PerStep(Depth):
    """theta(t) = c_n on [t_n, t_{n+1}): a set of weights for every knot interval, as in a plain residual net."""

    constant = True
    local = True
    points = 1

    def count(self, intervals: int) -> int:
        return intervals

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return (n,)

    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        return (1.0,)

    def through(self, values: Tensor) -> Tensor:
        return values

    def prolong(self, c: Tensor) -> Tensor:
        return c.repeat_interleave(2, dim=0)

    def restrict(self, c: Tensor) -> Tensor:
        if c.shape[0] % 2:
            raise BadInput(f"weights over {c.shape[0]} intervals cannot be halved; use an even number of intervals.")
        return 0.5 * (c[0::2] + c[1::2])


@dataclass(frozen=True)
class PiecewiseLinear(Depth):
    """theta(t) = (1 - s) c_n + s c_{n+1}, s = (t - t_n)/h: continuous weights with N + 1 nodes.

    Choose it when the network should have an ODE limit: refinement in depth then converges.
    """

    constant = False
    local = False
    points = 2

    def count(self, intervals: int) -> int:
        return intervals + 1

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return (n, n + 1)

    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        return (1.0 - s, s)

    def through(self, values: Tensor) -> Tensor:
        return values

    def prolong(self, c: Tensor) -> Tensor:
        fine = torch.empty(2 * c.shape[0] - 1, *c.shape[1:], dtype=c.dtype, device=c.device)
        fine[0::2] = c
        fine[1::2] = 0.5 * (c[:-1] + c[1:])
        return fine

    def restrict(self, c: Tensor) -> Tensor:
        if c.shape[0] % 2 == 0:
            raise BadInput(
                f"weights over {c.shape[0] - 1} intervals cannot be halved; use an even number of intervals."
            )
        return c[0::2]
