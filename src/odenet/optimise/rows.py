"""Many small problems at once: L-BFGS on the rows of a matrix, each with a direction and a step length of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Together = Callable[[Tensor], tuple[Tensor, Tensor]]  # theta (N, P) -> values (N,), gradients (N, P)
ARMIJO = 1e-4
CURVED = 1e-10  # smallest s.y over |s||y| of a pair that is kept


def minimise_rows(f: Together, theta: Tensor, steps: int, memory: int = 10, trials: int = 12) -> Tensor:
    """theta (N, P) after so many steps, row n minimising f(theta)[0][n], which depends on row n alone.

    Two-loop recursion for every row (Nocedal & Wright 2006, algorithm 7.4), backtracking until f falls by a share of
    what the slope promises; a row whose search fails stays and starts afresh from its gradient. No row's value rises.
    """
    value, gradient = f(theta)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        p = -_direction(pairs, gradient)
        slope = (p * gradient).sum(1)
        uphill = ~(slope < 0)
        p[uphill], slope[uphill] = -gradient[uphill], -(gradient[uphill] ** 2).sum(1)
        if not pairs:
            p, slope = _scaled(p, slope, gradient)
        moved, found, slopes, done = _searched(f, theta, value, p, slope, trials)
        s, y = moved - theta, slopes - gradient
        y = torch.where(done[:, None], y, torch.zeros_like(y))
        theta = moved
        value, gradient = torch.where(done, found, value), torch.where(done[:, None], slopes, gradient)
        sy, sizes = (s * y).sum(1), s.norm(dim=1) * y.norm(dim=1)
        inverse = torch.where(sy > CURVED * sizes, 1 / sy, torch.zeros_like(sy))
        pairs = [*pairs[1 - memory :], (s, y, torch.where(torch.isfinite(inverse), inverse, torch.zeros_like(sy)))]
        if not bool(done.any()):
            break
    return theta


def _scaled(p: Tensor, slope: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The first step is at most of length one."""
    size = (1 / gradient.norm(dim=1).clamp_min(1e-30)).clamp_max(1.0)
    return p * size[:, None], slope * size


def _direction(pairs: list[tuple[Tensor, Tensor, Tensor]], g: Tensor) -> Tensor:
    """H g by rows; pairs (s, y, 1 / s.y), oldest first, 0 where a row has no such pair."""
    q, weights, scale = g.clone(), [], torch.ones(len(g), dtype=g.dtype, device=g.device)
    for _, y, r in pairs:
        scale = torch.where(r > 0, 1 / (r * (y * y).sum(1)).clamp_min(1e-300), scale)
    for s, y, r in reversed(pairs):
        weights.append(r * (s * q).sum(1))
        q = q - weights[-1][:, None] * y
    q = q * scale[:, None]
    for (s, y, r), w in zip(pairs, reversed(weights)):
        q = q + (w - r * (y * q).sum(1))[:, None] * s
    return q


def _searched(
    f: Together, theta: Tensor, value: Tensor, p: Tensor, slope: Tensor, trials: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rows after their steps, values, gradients, which rows found one): others stay where they are."""
    t, done = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool)
    moved, found, slopes = theta.clone(), value.clone(), torch.zeros_like(theta)
    for _ in range(trials):
        trial = torch.where(done[:, None], moved, theta + t[:, None] * p)
        v, g = f(trial)
        fits = ~done & (v <= value + ARMIJO * t * slope) & torch.isfinite(g).all(1)
        moved, slopes = torch.where(fits[:, None], trial, moved), torch.where(fits[:, None], g, slopes)
        found, done = torch.where(fits, v, found), done | fits
        if bool(done.all()):
            break
        t = torch.where(done, t, 0.5 * t)
    return moved, found, slopes, done
