"""Weights that are smooth across the knots: uniform B-splines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from .base import Depth

DEGREES = range(1, 6)


@dataclass(frozen=True)
class Spline(Depth):
    """theta(t) = sum_j c_j B(x - j), x = n + s the place in knot intervals, B the B-spline of `degree` p on integers.

    N + p coefficients, p + 1 of them in every interval; theta is p - 1 times continuously differentiable (in t where
    the knots are equidistant, as those of a flow are), the B_j sum to 1, and degree 1 is piecewise linear. Twice as
    many intervals contain the same theta (the two-scale relation); half as many take the nearest one in L2.
    Choose it when a method of high order, or an adaptive one, should not feel the knots.
    C. de Boor, A practical guide to splines (1978), ch. IX. Raises BadInput for a degree outside 1 ... 5.
    """

    degree: int = 3

    constant = False
    local = False

    def __post_init__(self) -> None:
        if self.degree not in DEGREES:
            raise BadInput(f"a spline in depth has degree {DEGREES[0]} to {DEGREES[-1]}, got {self.degree!r}.")

    @property
    def points(self) -> int:
        return self.degree + 1

    def count(self, intervals: int) -> int:
        return intervals + self.degree

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return tuple(range(n, n + self.degree + 1))

    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        values: list[Any] = [1.0]
        for d in range(1, self.degree + 1):
            rising = [0.0, *((s + (d - r)) / d * values[r - 1] for r in range(1, d + 1))]
            falling = [*((1.0 + r - s) / d * values[r] for r in range(d)), 0.0]
            values = [a + b for a, b in zip(rising, falling)]
        return tuple(values)

    def through(self, values: Tensor) -> Tensor:
        return values

    def prolong(self, c: Tensor) -> Tensor:
        p, rows = self.degree, c.shape[0]
        fine = c.new_zeros(2 * rows + p, *c.shape[1:])
        for k in range(p + 2):  # B(x) = 2^-p sum_k binomial(p + 1, k) B(2 x - k)
            fine[k : k + 2 * rows : 2] += comb(p + 1, k) / 2**p * c
        return fine[p : 2 * rows]

    def restrict(self, c: Tensor) -> Tensor:
        intervals = c.shape[0] - self.degree
        if intervals < 2 or intervals % 2:
            raise BadInput(f"weights over {intervals} intervals cannot be halved; use an even number of intervals.")
        up, down = (m.to(c) for m in _projection(self, intervals // 2))
        flat = c.reshape(c.shape[0], -1)
        coarse = down @ flat
        coarse = coarse + down @ (flat - up @ coarse)  # takes the rounding of the first product away
        return coarse.reshape(-1, *c.shape[1:])


@lru_cache(maxsize=64)
def _projection(depth: Spline, intervals: int) -> tuple[Tensor, Tensor]:
    """Prolongation P from so many intervals, and (P^T G P)^-1 P^T G with the mass matrix G of the fine ones."""
    up = depth.prolong(torch.eye(depth.count(intervals), dtype=torch.float64))
    weighted = up.mT @ depth.gram([float(n) for n in range(2 * intervals + 1)])
    return up, torch.linalg.solve(weighted @ up, weighted)
