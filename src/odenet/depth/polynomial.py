"""Weights, or data, that are a polynomial of their own in every knot interval."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from .base import Depth


@dataclass(frozen=True)
class Polynomial(Depth):
    """theta(t) = c_{n,0} + c_{n,1} s + ... + c_{n,d} s^d in knot interval n, s in [0, 1] its relative position.

    (d + 1) N coefficients, interval after interval; theta may jump at the knots. Twice as many intervals contain the
    same theta; half as many take the nearest one in L2. Choose it for inputs that are derivatives of interpolated
    data (neural controlled equations), and for weights that vary inside a step. Raises BadInput for a degree below 0.
    """

    degree: int = 2

    local = True

    def __post_init__(self) -> None:
        if not isinstance(self.degree, int) or self.degree < 0:
            raise BadInput(f"a polynomial in depth has a degree of 0 or more, got {self.degree!r}.")

    @property
    def constant(self) -> bool:  # type: ignore[override]
        """Whether theta is constant in an interval."""
        return self.degree == 0

    @property
    def points(self) -> int:
        return self.degree + 1

    def count(self, intervals: int) -> int:
        return intervals * (self.degree + 1)

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return tuple(range(n * (self.degree + 1), (n + 1) * (self.degree + 1)))

    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        return tuple(s**k if k else 1.0 for k in range(self.degree + 1))

    def through(self, values: Tensor) -> Tensor:
        v = values.unflatten(0, (-1, self.degree + 1))
        return torch.cat((v[:, :1], v[:, 1:] - v[:, :1]), 1).flatten(0, 1)

    def prolong(self, c: Tensor) -> Tensor:
        return self._mapped(c, _halves(self.degree)[0], self.degree + 1)

    def restrict(self, c: Tensor) -> Tensor:
        if c.shape[0] % (2 * self.degree + 2):
            raise BadInput(
                f"polynomials over {c.shape[0] // (self.degree + 1)} intervals cannot be halved; use an even number."
            )
        coarse = self._mapped(c, _halves(self.degree)[1], 2 * self.degree + 2)
        lost = c - self.prolong(coarse)  # takes the rounding of the first product away
        return coarse + self._mapped(lost, _halves(self.degree)[1], 2 * self.degree + 2)

    def _mapped(self, c: Tensor, matrix: Tensor, size: int) -> Tensor:
        groups = c.reshape(-1, size, c[0].numel())
        return (matrix.to(c) @ groups).reshape(-1, *c.shape[1:])


@lru_cache
def _halves(degree: int) -> tuple[Tensor, Tensor]:
    """The coefficients of both halves of an interval from those of the whole, and the projection back."""
    size = degree + 1
    left = torch.diag(torch.tensor([0.5**k for k in range(size)], dtype=torch.float64))
    right = torch.tensor([[comb(j, k) * 0.5**j for j in range(size)] for k in range(size)], dtype=torch.float64)
    split = torch.cat((left, right))
    gram = torch.tensor([[1.0 / (i + j + 1) for j in range(size)] for i in range(size)], dtype=torch.float64)
    weighted = split.mT @ torch.block_diag(gram, gram)
    return split, torch.linalg.solve(weighted @ split, weighted)
