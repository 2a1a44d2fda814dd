"""y' = L y + N(t, y) with a diagonal L: implicit collocation at Radau's points, window by window."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from ...errors import SolveFailed
from .spectral import Array, barycentric_matrix, radau

SWEEPS = 200


def collocate(
    rates: Array,
    nonlinear: Callable[[Array, Array], Array],
    start: Array,
    edges: Array,
    times: Array,
    q: int = 10,
    tolerance: float = 2e-15,
) -> Array:
    """y (len(times), n) of y' = rates y + nonlinear(t (q,), y (q, n)), y(edges[0]) = start.

    In each window Y_i = y_0 + h sum_j A_ij (L Y_j + N_j): the part with L is solved exactly, mode by mode; N is
    iterated until it stands still. Between its q nodes the solution is the collocation polynomial of degree q.
    rates: (n,) real or complex; start: (n,) or (fields, n), and then rates may be (fields, n); times increasing.
    Raises SolveFailed where a window is too long for the iteration.
    """
    c, a = radau(q)
    out = np.empty((len(times), *start.shape), dtype=start.dtype)
    y, before, previous = start, None, -1.0
    for left, right in pairwise(edges):
        h = right - left
        if abs(h - previous) > 1e-12 * h:
            resolvent = np.linalg.inv(np.eye(q) - h * rates[..., None, None] * a)
            unit, push, before = resolvent.sum(-1), resolvent @ (h * a), None
        stages = _iterated(unit, push, nonlinear, left + c * h, y, before, tolerance)
        here = slice(np.searchsorted(times, left), np.searchsorted(times, right))
        if edges[-1] == right:
            here = slice(here.start, len(times))
        whole = np.concatenate([y[None], stages])
        nodes = np.concatenate([[0.0], c])
        out[here] = np.tensordot(barycentric_matrix(nodes, (times[here] - left) / h), whole, 1)
        before = np.tensordot(barycentric_matrix(nodes, 1 + c), whole, 1) if q <= 12 else None
        y, previous = stages[-1], h
    return out


def _iterated(
    unit: Array,
    push: Array,
    nonlinear: Callable[[Array, Array], Array],
    t: Array,
    y: Array,
    guess: Array | None,
    tolerance: float,
) -> Array:
    """The stages (q, ...) of one window."""
    free = np.moveaxis(unit * y[..., None], -1, 0)
    stages = guess if guess is not None else np.broadcast_to(y, free.shape)
    scale, best, worse = np.abs(y).max() + 1e-300, np.inf, 0
    for _ in range(SWEEPS):
        forces = nonlinear(t, stages)
        new = free + np.moveaxis((push @ np.moveaxis(forces, 0, -1)[..., None])[..., 0], -1, 0)
        change = np.abs(new - stages).max() / scale
        stages = new
        if change < tolerance or (change < 1e-13 and change >= best):
            return stages
        worse = worse + 1 if change >= best else 0
        best = min(best, change)
        if not np.isfinite(change) or worse > 20:
            break
    raise SolveFailed(
        f"the iteration of a reference did not converge in the window from t={t[0]:.6g} to {t[-1]:.6g} (change "
        f"{change:.2g}); shorter windows are needed."
    )
