"""A solution on a grid at the nodes of a march: polynomials in time through values and slopes of adjacent nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .grid import REAL, Grid

ALIKE = 5.0  # steps that differ by more are not joined in one polynomial
CHUNK = 2**22  # numbers of a table of weights at once


@dataclass
class History:
    """u at times t (T,): values and slopes (T, m, size) at the nodes of the grid.

    Between two times u is the polynomial that has the values and slopes there and, where the steps are of like length,
    those of one more time on either side: degree 7, 5 or 3.
    """

    grid: Grid
    t: Tensor
    values: Tensor
    slopes: Tensor

    @cached_property
    def _stencils(self) -> tuple[Tensor, Tensor]:
        """First and last node (T - 1,) of the polynomial of every step."""
        h = self.t.diff()
        number = torch.arange(len(h))
        like = torch.maximum(h[1:] / h[:-1], h[:-1] / h[1:]) <= ALIKE
        off = torch.zeros(1, dtype=torch.bool)
        return number - torch.cat([off, like]).long(), number + 1 + torch.cat([like, off]).long()

    @cached_property
    def _inverses(self) -> dict[tuple[int, int], Tensor]:
        """By reach to the left and right: (T - 1, 2k, 2k), from values and slopes to Chebyshev coefficients."""
        first, last = self._stencils
        found, number = {}, torch.arange(len(first))
        for reach in {(int(a), int(b)) for a, b in zip(number - first, last - number)}:
            k = sum(reach) + 1
            here = ((number - first) == reach[0]) & ((last - number) == reach[1])
            nodes = self.t[(first[here, None] + torch.arange(k))]
            middle, half = (nodes[:, :1] + nodes[:, -1:]) / 2, (nodes[:, -1:] - nodes[:, :1]) / 2
            table = chebyshev((nodes - middle) / half, 2 * k, 0)
            slope = chebyshev((nodes - middle) / half, 2 * k, 1) / half[..., None]
            inverse = torch.zeros(len(first), 2 * k, 2 * k, dtype=REAL)
            inverse[here] = torch.linalg.inv(torch.cat([table, slope], 1))
            found[reach] = inverse
        return found

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        m = self.values.shape[1]
        out = torch.zeros(len(channels), len(x), m, dtype=REAL)
        size = max(1, CHUNK // max(1, sum(self.grid.shape)))
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            out[:, part] = self._jet(x[part], channels)
        return out

    def _jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        m, t = self.values.shape[1], x[:, -1].contiguous()
        out = torch.zeros(len(channels), len(x), m, dtype=REAL)
        step = (torch.searchsorted(self.t, t, right=True) - 1).clamp(0, len(self.t) - 2)
        first, last = self._stencils
        rows = {index: self.grid.rows(x, index) for index in {c[:-1] for c in channels}}
        order = torch.argsort(step)
        steps, counts = step[order].unique_consecutive(return_counts=True)
        for s, here in zip(steps.tolist(), order.split(counts.tolist())):
            a, b = int(first[s]), int(last[s])
            middle, half = (self.t[a] + self.t[b]) / 2, (self.t[b] - self.t[a]) / 2
            inverse = self._inverses[s - a, b - s][s]
            data = torch.cat([self.values[a : b + 1], self.slopes[a : b + 1]])  # (2k, m, size)
            flat = data.permute(2, 0, 1).reshape(self.grid.size, -1)
            seen: dict[tuple[int, ...], Tensor] = {}
            for c, index in enumerate(channels):
                if index[:-1] not in seen:
                    found = self.grid.at([row[here] for row in rows[index[:-1]]], flat)
                    seen[index[:-1]] = found.reshape(-1, len(data), m).expand(len(here), -1, -1)
                weights = chebyshev((t[here] - middle) / half, len(data), index[-1]) @ inverse / half ** index[-1]
                out[c, here] = torch.einsum("nk,nkm->nm", weights, seen[index[:-1]])
        return out

    def tensors(self) -> dict[str, Tensor]:
        shape = torch.tensor(self.grid.shape, dtype=torch.int64)
        return {"t": self.t, "values": self.values, "slopes": self.slopes, "shape": shape}


def chebyshev(s: Tensor, count: int, order: int) -> Tensor:
    """(..., count): derivatives of T_0, T_1, ... at s (...)."""
    columns = [torch.ones_like(s), s]
    while len(columns) < count:
        columns.append(2 * s * columns[-1] - columns[-2])
    table = torch.stack(columns[:count], -1)
    for _ in range(order):
        table = table @ _derivative(count).T
    return table


def _derivative(count: int) -> Tensor:
    """(count, count): row n holds the coefficients of T_n' in T_0, T_1, ..."""
    out = torch.zeros(count, count, dtype=REAL)
    for n in range(1, count):
        for k in range(n - 1, -1, -2):
            out[n, k] = n if k == 0 else 2 * n
    return out
