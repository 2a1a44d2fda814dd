"""Systems of ordinary equations: collocation at Radau's points with Newton's method, in windows that adapt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import SolveFailed
from .cache import Recipe, Tables, reference
from .spectral import (
    Array,
    barycentric_matrix,
    chebyshev_matrix,
    chebyshev_nodes,
    chebyshev_transform,
    located,
    radau,
)

Slope = Callable[[Array], Array]  # y (q, n) -> (q, n)
NODES = (12, 16)  # of the coarse and of the fine run
TAIL = (1e-11, 1e-14)  # the last coefficients of a window over the largest value of their column
NEWTON = 30


def march(f: Slope, jacobian: Slope, y0: Sequence[float], final: float, level: int, first: float) -> Tables:
    """y' = f(y), y(0) = y0: coefficients of Chebyshev polynomials on windows.

    A window whose series has not decayed is halved, the next one is doubled. jacobian: y (q, n) -> (q, n, n);
    first: length of the first window. Raises SolveFailed where windows shrink to nothing.
    """
    q, tolerance = NODES[level], TAIL[level]
    c, matrix = radau(q)
    fit = chebyshev_transform(q + 1) @ barycentric_matrix(np.append(0.0, c), (chebyshev_nodes(q + 1) + 1) / 2)
    y, largest = np.array(y0, dtype=float), np.abs(np.array(y0, dtype=float)) + 1e-300
    edges, pieces, h = [0.0], [], first
    while edges[-1] < final:
        h = min(h, final - edges[-1])
        stages = _stages(f, jacobian, y, h, matrix)
        if stages is not None:
            table = fit @ np.concatenate([y[None], stages])
            largest = np.maximum(largest, np.abs(stages).max(0))
            if (np.abs(table[-2:]).max(0) < tolerance * largest).all():
                edges.append(final if edges[-1] + h >= final * (1 - 1e-14) else edges[-1] + h)
                pieces.append(table)
                y, h = stages[-1], 2 * h
                continue
        h = h / 2
        if h < 1e-12 * final:
            raise SolveFailed(f"the windows of a reference shrank to nothing at t={edges[-1]:.6g}.")
    return {"edges": torch.tensor(edges, dtype=torch.float64), "pieces": torch.from_numpy(np.array(pieces))}


def _stages(f: Slope, jacobian: Slope, y: Array, h: float, matrix: Array) -> Array | None:
    """Y = y + h A f(Y), (q, n), by Newton's method; None where it does not converge."""
    q, n = len(matrix), len(y)
    stages, before = np.repeat(y[None], q, 0), np.inf
    for _ in range(NEWTON):
        gap = stages - y - h * matrix @ f(stages)
        slopes = np.eye(q * n) - h * np.einsum("ij,jab->iajb", matrix, jacobian(stages)).reshape(q * n, q * n)
        step = np.linalg.solve(slopes, gap.ravel()).reshape(q, n)
        stages = stages - step
        size = float((np.abs(step) / (np.abs(stages).max(0) + 1e-300)).max())
        if not np.isfinite(size):
            return None
        if size < 1e-15 or (size < 1e-11 and size >= before):
            return stages
        before = size
    return None


def evaluate(tables: Tables, x: Tensor) -> Tensor:
    """(N, 1) -> (N, n)."""
    which, s = located(x[:, 0], tables["edges"])
    return torch.einsum("nq,nqm->nm", chebyshev_matrix(s, tables["pieces"].shape[1]), tables["pieces"][which])


HOW = "Radau collocation of 16 nodes with Newton's method in windows halved until their series decay to 1e-14"


@reference()
def lorenz(sigma: float = 10.0, rho: float = 15.0, beta: float = 8 / 3, final: float = 3.0) -> Recipe:
    """Lorenz: x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z, from (-8, 7, 27)."""

    def f(s: Array) -> Array:
        x, y, z = s.T
        return np.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], 1)

    def jacobian(s: Array) -> Array:
        x, y, z = s.T
        one, no = np.ones_like(x), np.zeros_like(x)
        rows = [[-sigma * one, sigma * one, no], [rho - z, -one, -x], [y, x, -beta * one]]
        return np.moveaxis(np.array(rows), -1, 0)

    bounds = ((0.0,), (final,))
    return Recipe(
        evaluate, HOW, bounds, ("x", "y", "z"), lambda level: march(f, jacobian, (-8.0, 7.0, 27.0), final, level, 0.1)
    )


@reference()
def robertson(final: float = 40.0) -> Recipe:
    """Robertson's chemical kinetics, columns a, 1e4 b, c: a' = -0.04 a + 1e4 b c, c' = 3e7 b^2, a + b + c = 1."""

    def f(s: Array) -> Array:
        a, b, c = s[:, 0], s[:, 1] / 1e4, s[:, 2]
        slow, fast, joint = 0.04 * a, 3e7 * b**2, 1e4 * b * c
        return np.stack([joint - slow, 1e4 * (slow - joint - fast), fast], 1)

    def jacobian(s: Array) -> Array:
        b, c = s[:, 1], s[:, 2]
        one, no = np.ones_like(b), np.zeros_like(b)
        rows = [[-0.04 * one, c, b], [400 * one, -1e4 * c - 6e3 * b, -1e4 * b], [no, 0.6 * b, no]]
        return np.moveaxis(np.array(rows), -1, 0)

    bounds = ((0.0,), (final,))
    return Recipe(
        evaluate, HOW, bounds, ("a", "b", "c"), lambda level: march(f, jacobian, (1.0, 0.0, 0.0), final, level, 1e-4)
    )


@reference()
def van_der_pol(mu: float = 20.0, final: float = 20.0) -> Recipe:
    """Van der Pol: u'' = mu (1 - u^2) u' - u, u(0) = 2, u'(0) = 0; the column u."""

    def f(s: Array) -> Array:
        u, v = s.T
        return np.stack([v, mu * (1 - u**2) * v - u], 1)

    def jacobian(s: Array) -> Array:
        u, v = s.T
        rows = [[np.zeros_like(u), np.ones_like(u)], [-2 * mu * u * v - 1, mu * (1 - u**2)]]
        return np.moveaxis(np.array(rows), -1, 0)

    def first(tables: Tables, x: Tensor) -> Tensor:
        return evaluate(tables, x)[:, :1]

    bounds = ((0.0,), (final,))
    return Recipe(first, HOW, bounds, ("u",), lambda level: march(f, jacobian, (2.0, 0.0), final, level, 0.1))
