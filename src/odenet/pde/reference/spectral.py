"""Nodes, bases and a table of a solution in space and time: polynomials or waves in space, polynomials in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def chebyshev_nodes(q: int) -> Array:
    """q Chebyshev points of the first kind, increasing in (-1, 1)."""
    return -np.cos(math.pi * (2 * np.arange(q) + 1) / (2 * q))


def chebyshev_lobatto(n: int) -> Array:
    """n + 1 Chebyshev points of the second kind, increasing in [-1, 1]."""
    return np.sin(math.pi * (2 * np.arange(n + 1) - n) / (2 * n))


def chebyshev_matrix(x: Tensor, q: int) -> Tensor:
    """T_0 ... T_{q-1} at x (N,): (N, q), by the recurrence, so that it can be differentiated at the ends too."""
    columns = [torch.ones_like(x), x]
    while len(columns) < q:
        columns.append(2 * x * columns[-1] - columns[-2])
    return torch.stack(columns[:q], 1)


@cache
def chebyshev_transform(q: int) -> Array:
    """(q, q): values at `chebyshev_nodes(q)` to coefficients of T_0 ... T_{q-1}."""
    angles = np.arccos(chebyshev_nodes(q))
    matrix = 2 / q * np.cos(np.outer(np.arange(q), angles))
    matrix[0] /= 2
    return matrix


def barycentric_matrix(nodes: Array, x: Array) -> Array:
    """(len(x), len(nodes)): values at the nodes to values of the interpolating polynomial at x."""
    gaps = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(gaps, 1.0)
    weights = 1 / np.prod(gaps / np.ptp(nodes), axis=1)
    distance = x[:, None] - nodes[None, :]
    exact = distance == 0
    matrix = weights / np.where(exact, 1.0, distance)
    matrix[exact.any(1)] = exact[exact.any(1)]
    return matrix / matrix.sum(1, keepdims=True)


def differentiation(nodes: Array) -> Array:
    """(n, n): values at the nodes to values of the interpolating polynomial's derivative there."""
    gaps = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(gaps, 1.0)
    scale = np.prod(gaps / np.ptp(nodes), axis=1)
    matrix = scale[:, None] / scale[None, :] / gaps
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(1))
    return matrix


def gauss_lobatto(p: int) -> tuple[Array, Array]:
    """p + 1 Gauss-Lobatto-Legendre nodes and weights on [-1, 1], by Newton's method on (1 - x^2) P_p'."""
    x = chebyshev_lobatto(p)
    for _ in range(50):
        before, value = np.ones_like(x), x.copy()
        for k in range(1, p):
            before, value = value, ((2 * k + 1) * x * value - k * before) / (k + 1)
        step = (x * value - before) / ((p + 1) * value)
        x = x - step
        if np.abs(step).max() < 1e-16:
            break
    x = (x - x[::-1]) / 2
    return x, 2 / (p * (p + 1) * value**2)


@cache
def radau(q: int) -> tuple[Array, Array]:
    """Nodes c (q,) of Radau's right rule on (0, 1] and the collocation matrix A (q, q), exact for degree q - 1."""
    difference = np.zeros(q + 1)
    difference[q - 1 :] = (-1.0, 1.0)
    roots = np.sort(np.polynomial.legendre.legroots(difference).real)
    series = np.polynomial.legendre.Legendre(difference)
    for _ in range(3):
        roots = roots - series(roots) / series.deriv()(roots)
    roots[-1] = 1.0
    integrals = [np.polynomial.legendre.Legendre.basis(k).integ(lbnd=-1)(roots) / 2 for k in range(q)]
    matrix = np.linalg.solve(np.polynomial.legendre.legvander(roots, q - 1).T, np.array(integrals)).T
    return (roots + 1) / 2, matrix


def windows_nodes(edges: Array, q: int) -> Array:
    """The q Chebyshev nodes of every window between the edges, in one increasing row."""
    left, right = edges[:-1, None], edges[1:, None]
    return (left + (right - left) * (chebyshev_nodes(q) + 1) / 2).ravel()


def subdivided(edges: Array, parts: int) -> Array:
    """Edges with every gap cut into equal parts."""
    inner = edges[:-1, None] + np.diff(edges)[:, None] * (np.arange(parts) / parts)
    return np.append(inner.ravel(), edges[-1])


def graded(length: float, smallest: float, ratio: float, largest: float) -> Array:
    """Edges 0 = e_0 < e_1 < ... = length whose gaps grow from `smallest` by `ratio` up to `largest`."""
    gaps = [smallest]
    while sum(gaps) < length:
        gaps.append(min(gaps[-1] * ratio, largest))
    edges = np.concatenate([[0.0], np.cumsum(gaps)])
    return edges * (length / edges[-1])


def located(x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(index of the interval between the edges, coordinate in [-1, 1] there) of every x (N,)."""
    which = (torch.searchsorted(edges, x.detach().contiguous(), right=True) - 1).clamp(0, len(edges) - 2)
    left, right = edges[which], edges[which + 1]
    return which, (2 * x - left - right) / (right - left)


def pack_time(values: Array, edges: Array, q: int) -> Tensor:
    """Values (W q, ...) at `windows_nodes(edges, q)` to coefficients in time (W, q, ...)."""
    shaped = values.reshape(len(edges) - 1, q, -1)
    coefficients = np.einsum("jk,wkn->wjn", chebyshev_transform(q), shaped)
    return torch.from_numpy(coefficients.reshape(len(edges) - 1, q, *values.shape[1:]))


def in_time(
    coefficients: Tensor,
    edges: Tensor,
    t: Tensor,
    space: Callable[[Tensor, Tensor], Tensor],
    m: int,
    chunk: int = 2048,
) -> Tensor:
    """Sum over time: space(indices of points in one window, coefficients (q, ...) of it) -> (n, q, m); gives (N, m)."""
    which, s = located(t, edges)
    matrix = chebyshev_matrix(s, coefficients.shape[1])
    out = torch.zeros(len(t), m, dtype=torch.float64, device=t.device)
    for window in which.unique().tolist():
        for here in (which == window).nonzero()[:, 0].split(chunk):
            part = torch.einsum("nq,nqm->nm", matrix[here], space(here, coefficients[window]))
            out = out.index_copy(0, here, part)
    return out


def piecewise(x: Tensor, edges: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """`space` of `in_time` for coefficients (q, elements, p + 1, m) of Chebyshev polynomials on elements."""
    which, s = located(x, edges)
    matrices: dict[int, Tensor] = {}

    def space(here: Tensor, coefficients: Tensor) -> Tensor:
        p = coefficients.shape[2]
        if p not in matrices:
            matrices[p] = chebyshev_matrix(s, p)
        return torch.einsum("np,qnpm->nqm", matrices[p][here], coefficients[:, which[here]])

    return space


def waves(x: Tensor, frequencies: Tensor, kinds: Sequence[str] = ("cos", "sin")) -> Tensor:
    """cos(k x) and sin(k x) side by side, (N, K len(kinds))."""
    phases = x[:, None] * frequencies
    return torch.cat([torch.cos(phases) if kind == "cos" else torch.sin(phases) for kind in kinds], 1)
