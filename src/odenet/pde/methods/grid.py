"""Tensor grids on boxes: Chebyshev points along bounded axes, equispaced ones along periodic axes.

Values at the nodes stand for the polynomial, or trigonometric polynomial, through them: derivatives at the nodes are
matrices along each axis, values elsewhere are rows of weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

REAL = torch.float64
Index = tuple[int, ...]


@dataclass(frozen=True)
class Axis(ABC):
    """n nodes on [a, b]."""

    a: float
    b: float
    n: int

    @cached_property
    @abstractmethod
    def nodes(self) -> Tensor:
        """(n,), increasing."""

    @abstractmethod
    def matrix(self, order: int) -> Tensor:
        """(n, n): values at the nodes to values of a derivative there."""

    @abstractmethod
    def rows(self, x: Tensor, order: int) -> Tensor:
        """(N, n): values at the nodes to values of a derivative at x (N,)."""

    @abstractmethod
    def tail(self, values: Tensor) -> float:
        """Size of the last coefficients of values (..., n) over that of the largest."""


@dataclass(frozen=True)
class Chebyshev(Axis):
    """The extrema of the Chebyshev polynomial of degree n - 1, both ends among them."""

    @cached_property
    def _angles(self) -> Tensor:
        return math.pi * torch.arange(self.n, dtype=REAL) / (self.n - 1)

    @cached_property
    def _signs(self) -> Tensor:
        w = 1.0 - 2.0 * (torch.arange(self.n) % 2).to(REAL)
        w[0] /= 2
        w[-1] /= 2
        return w

    @cached_property
    def nodes(self) -> Tensor:
        half = (self.b - self.a) / 2
        x = self.a + 2 * half * torch.sin(self._angles / 2).square()
        x[-1] = self.b
        return x

    @cached_property
    def _matrices(self) -> list[Tensor]:
        """Derivatives of order 0, 1, ... made so far, each from the one before (Welfert 1997)."""
        return [torch.eye(self.n, dtype=REAL)]

    @cached_property
    def _gaps(self) -> Tensor:
        one, other = self._angles[:, None] / 2, self._angles[None, :] / 2
        gaps = (self.b - self.a) * torch.sin(one + other) * torch.sin(one - other)
        return gaps.fill_diagonal_(1.0)

    def matrix(self, order: int) -> Tensor:
        found, ratio = self._matrices, self._signs[None, :] / self._signs[:, None]
        while len(found) <= order:
            k, last = len(found), found[-1]
            D = k / self._gaps * (ratio * last.diagonal()[:, None] - last)
            found.append(D.fill_diagonal_(0.0) - torch.diag(D.sum(1)))
        return found[order]

    def rows(self, x: Tensor, order: int) -> Tensor:
        gaps = x[:, None] - self.nodes
        exact = gaps == 0
        weights = self._signs / torch.where(exact, 1.0, gaps)
        weights = torch.where(exact.any(1, keepdim=True), exact.to(REAL), weights)
        return (weights / weights.sum(1, keepdim=True)) @ self.matrix(order)

    def tail(self, values: Tensor) -> float:
        n = self.n - 1
        table = torch.cos(torch.arange(self.n, dtype=REAL)[:, None] * (math.pi - self._angles))
        half = torch.ones(self.n, dtype=REAL)
        half[0] = half[-1] = 0.5
        return _tail((values * half) @ table.T * half * (2 / n))


@dataclass(frozen=True)
class Fourier(Axis):
    """Equispaced points on a circle, an odd number of them, so that no mode is without its partner."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.n | 1)

    @cached_property
    def nodes(self) -> Tensor:
        return self.a + (self.b - self.a) * torch.arange(self.n, dtype=REAL) / self.n

    @property
    def wave(self) -> float:
        """2 pi over the length."""
        return 2 * math.pi / (self.b - self.a)

    @cached_property
    def _matrices(self) -> dict[int, Tensor]:
        return {}

    def matrix(self, order: int) -> Tensor:
        if order not in self._matrices:
            self._matrices[order] = self.rows(self.nodes, order) if order else torch.eye(self.n, dtype=REAL)
        return self._matrices[order]

    def rows(self, x: Tensor, order: int) -> Tensor:
        k = torch.arange(self.n // 2 + 1, dtype=REAL)
        size = torch.where(k == 0, 1.0, 2.0) * (k * self.wave) ** order / self.n
        here = self.wave * (x[:, None] - self.a) * k + order * math.pi / 2  # a derivative is a quarter further
        return torch.cat([torch.cos(here) * size, torch.sin(here) * size], 1) @ self._waves

    @cached_property
    def _waves(self) -> Tensor:
        """cos and sin of every wave at the nodes, one under the other."""
        phases = self.wave * (self.nodes - self.a) * torch.arange(self.n // 2 + 1, dtype=REAL)[:, None]
        return torch.cat([torch.cos(phases), torch.sin(phases)])

    def tail(self, values: Tensor) -> float:
        return _tail(torch.fft.rfft(values))


def _tail(coefficients: Tensor) -> float:
    size = coefficients.abs().reshape(-1, coefficients.shape[-1]).amax(0)
    last = max(2, len(size) // 8)
    return float(size[-last:].max() / size.max().clamp_min(1e-300))


@dataclass(frozen=True)
class Grid:
    """The product of the axes; none at all is one point, for ordinary equations."""

    axes: tuple[Axis, ...]
    _dense: dict[Index, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes along each axis."""
        return tuple(axis.n for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return math.prod(self.shape)

    @cached_property
    def nodes(self) -> Tensor:
        """(size, dim), the last axis running fastest."""
        if not self.axes:
            return torch.zeros(1, 0, dtype=REAL)
        return torch.stack([c.flatten() for c in torch.meshgrid([a.nodes for a in self.axes], indexing="ij")], 1)

    def derive(self, values: Tensor, index: Sequence[int]) -> Tensor:
        """A derivative at the nodes of values (size,) there."""
        out = values.reshape(self.shape)
        for i, k in enumerate(index):
            if k:
                out = torch.tensordot(self.axes[i].matrix(k), out, ([1], [i])).movedim(0, i)
        return out.reshape(-1)

    def dense(self, index: Index) -> Tensor:
        """The same as one matrix (size, size)."""
        if index not in self._dense:
            out = torch.ones(1, 1, dtype=REAL)
            for axis, k in zip(self.axes, index):
                out = torch.kron(out, axis.matrix(k))
            self._dense[index] = out
        return self._dense[index]

    def rows(self, x: Tensor, index: Sequence[int]) -> list[Tensor]:
        """Axis by axis the weights (N, n) of a derivative at x (N, dim)."""
        return [axis.rows(x[:, i], k) for i, (axis, k) in enumerate(zip(self.axes, index))]

    def at(self, rows: Sequence[Tensor], values: Tensor) -> Tensor:
        """(N, q): with weights for N points, q functions with values (size, q) at the nodes."""
        if not rows:
            return values
        out = rows[0] @ values.reshape(self.shape[0], -1)
        for i, row in enumerate(rows[1:], 1):
            out = torch.einsum("na,naq->nq", row, out.reshape(len(row), self.shape[i], -1))
        return out

    def tail(self, values: Tensor) -> tuple[float, ...]:
        """Of values (..., size), axis by axis, how large the last coefficients are."""
        table = values.reshape(-1, *self.shape)
        return tuple(axis.tail(table.movedim(i + 1, -1)) for i, axis in enumerate(self.axes))
