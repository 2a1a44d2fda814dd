"""The linear part of a semidiscrete problem: L y + N(t, y), for exponential and implicit-explicit integrators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import Incompatible
from ...fields import Field
from ...types import Params, State, Time
from ..expressions import key
from .grid import Fourier
from .semidiscrete import Semidiscrete

CONDITION = 1e6  # of the eigenvectors of a mode, above which its linear part counts as nonlinear


def steady(inner: Semidiscrete) -> list[dict[Any, Tensor]]:
    """For every equation the derivatives (size,) by those leaves in which it is linear with a steady factor.

    Other leaves have derivative zero. Raises Incompatible where nothing is left.
    """
    low, high = (float(v) for v in inner.problem.domain.bounds[:, -1])
    seen = [inner.slopes(inner.samples(i), low + c * (high - low)) for i, c in enumerate((0.2, 0.5, 0.9))]
    found: list[dict[Any, Tensor]] = []
    for rows in zip(*seen):
        same = {k for k in rows[0] if all(torch.allclose(rows[0][k], r[k], rtol=1e-10, atol=1e-13) for r in rows)}
        found.append({k: v if k in same else torch.zeros_like(v) for k, v in rows[0].items()})
    if not any(row[key(leaf)].any() for row in found for leaf in inner.leaves if not inner._highest(leaf)):
        raise Incompatible("the equation has no linear part with steady factors; take an integrator without one.")
    return found


class Split(Field):
    """f = L y + rest with L (D, D): for implicit-explicit and, on bounded axes, exponential integrators."""

    def __init__(self, inner: Semidiscrete) -> None:
        super().__init__()
        self.inner = inner
        self.matrix = inner.assembled(steady(inner))
        self.offers = frozenset({"linear", "split"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        """No weights."""
        return {}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.inner(t, y, p)  # type: ignore[no-any-return]

    def linear(self, p: Params) -> Tensor:
        """L."""
        return self.matrix

    def nonlinear(self, t: Time, y: State, p: Params) -> State:
        """f - L y."""
        return self.inner(t, y, p) - self.matrix @ y  # type: ignore[no-any-return]

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """f - L y."""
        return self.nonlinear(t, y, p)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """L y."""
        return self.matrix @ y

    def implicit_matrix(self, p: Params, y: State) -> Tensor:
        """L."""
        return self.matrix

    def state(self, y: Tensor) -> Tensor:
        """What is stepped, from y."""
        return y

    def values(self, state: Tensor) -> Tensor:
        """y from what is stepped."""
        return state


class Modes(Field):
    """On periodic axes alone: Fourier coefficients in the eigenvectors of every mode, so that L is diagonal.

    A mode without a basis of eigenvectors that is well conditioned has no linear part.
    """

    def __init__(self, inner: Semidiscrete) -> None:
        super().__init__()
        self.inner, self.offers = inner, frozenset({"linear"})
        self.q = sum(inner.orders)
        self.shape = inner.grid.shape
        blocks = self._blocks(steady(inner))
        values, vectors = torch.linalg.eig(blocks)
        bad = ~(torch.linalg.cond(vectors) < CONDITION)
        values[bad], vectors[bad] = 0.0, torch.eye(self.q, dtype=vectors.dtype)
        self.rates, self.vectors, self.inverse = values.flatten(), vectors, torch.linalg.inv(vectors)

    def _blocks(self, slopes: list[dict[Any, Tensor]]) -> Tensor:
        """(modes, q, q): L mode by mode."""
        inner, grid = self.inner, self.inner.grid
        last = len(grid.axes) - 1
        counts = [torch.fft.rfftfreq(a.n, 1 / a.n) if i == last else torch.fft.fftfreq(a.n, 1 / a.n)
                  for i, a in enumerate(grid.axes)]  # fmt: skip
        waves = [2 * math.pi / (a.b - a.a) * k.double() for a, k in zip(grid.axes, counts)]
        table = torch.stack([w.flatten() for w in torch.meshgrid(waves, indexing="ij")], 1)
        places = list(inner.at)
        L = torch.zeros(len(table), self.q, self.q, dtype=torch.complex128)
        for row, (k, u) in enumerate(places):
            if (k + 1, u) in inner.at:
                L[:, row, places.index((k + 1, u))] = 1.0
                continue
            for leaf in inner.leaves:
                v = inner.unknowns.index(leaf.unknown)
                if inner._highest(leaf):
                    continue
                by = torch.stack([s[key(leaf)] for s in slopes])
                factor = -torch.einsum("ne,en->n", inner.mass[:, u], by)
                if (factor - factor[0]).abs().max() > 1e-10 * factor.abs().max():
                    continue  # varies in space: stays in the nonlinear part
                symbol = torch.ones(len(table), dtype=torch.complex128)
                for axis, order in enumerate(leaf.index[:-1]):
                    symbol = symbol * (1j * table[:, axis]) ** order
                L[:, row, places.index((leaf.index[-1], v))] += factor[0] * symbol
        return L

    def init(self, generator: torch.Generator | None = None) -> Params:
        """No weights."""
        return {}

    def state(self, y: Tensor) -> Tensor:
        """Coefficients by eigenvector, complex (modes q,), of y."""
        axes = tuple(range(1, 1 + len(self.shape)))
        found = torch.fft.rfftn(y.reshape(self.q, *self.shape), dim=axes).reshape(self.q, -1) / math.prod(self.shape)
        return torch.einsum("kab,bk->ka", self.inverse, found).flatten()

    def values(self, state: Tensor) -> Tensor:
        """y from what is stepped."""
        found = torch.einsum("kab,kb->ak", self.vectors, state.reshape(-1, self.q)) * math.prod(self.shape)
        half = (*self.shape[:-1], self.shape[-1] // 2 + 1)
        axes = tuple(range(1, 1 + len(self.shape)))
        return torch.fft.irfftn(found.reshape(self.q, *half), s=self.shape, dim=axes).flatten()

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.state(self.inner(t, self.values(y), p))

    def linear(self, p: Params) -> Tensor:
        """L, its diagonal."""
        return self.rates

    def nonlinear(self, t: Time, y: State, p: Params) -> State:
        """f - L y."""
        return self.forward(t, y, p) - self.rates * y


def periodic(inner: Semidiscrete) -> bool:
    """Whether all axes are periodic."""
    return bool(inner.grid.axes) and all(isinstance(axis, Fourier) for axis in inner.grid.axes)
