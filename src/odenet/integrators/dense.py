"""Values between two steps: a method's own polynomial where it has one, else a cubic.

theta is the fraction of the step: a number or 0-dim tensor, giving the shape of the state; several, a list or a tensor
(T,), giving (T, *state); or a tensor that broadcasts to a state of two or more dimensions, one fraction per sample,
giving the shape of the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..types import State, Step, Time
from .base import Integrator, advance

Theta: TypeAlias = float | Sequence[float] | Tensor


class Polynomials:
    """b_i(theta) = p_i1 theta + p_i2 theta^2 + ..., one row p_i per slope; rows of zeros cost nothing."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._used = [i for i, row in enumerate(rows) if any(row)]
        self._rows = [tuple(rows[i]) for i in self._used]
        self.slopes = len(rows)

    @cached_property
    def _matrix(self) -> Tensor:
        with torch.inference_mode(False):  # kept for later calls, which may be differentiated
            return torch.tensor(self._rows, dtype=torch.float64).T

    def at(self, theta: float) -> list[tuple[int, float]]:
        """(i, b_i(theta)) of the rows that are not zero."""
        return [(i, _horner(row, theta)) for i, row in zip(self._used, self._rows)]

    def value(self, y: State, h: Time, slopes: Sequence[State], theta: Theta) -> State:
        """y + h sum_i b_i(theta) k_i, the polynomials in float64 whatever the state is."""
        if isinstance(theta, Sequence):
            theta = torch.tensor(theta, dtype=torch.float64)
        if not isinstance(theta, Tensor):
            return advance(y, h, self.at(theta), slopes)
        theta = theta.to(torch.float64)
        if theta.dim() > 1:
            moved = sum(_horner(row, theta).to(y) * slopes[i] for i, row in zip(self._used, self._rows))
            return y + (h.to(y.dtype) if isinstance(h, Tensor) else h) * moved
        values = self._many(y, h, slopes, theta.reshape(-1, 1))
        return values if theta.dim() else values[0]

    def _many(self, y: State, h: Time, slopes: Sequence[State], theta: Tensor) -> State:
        powers = theta ** torch.arange(1, len(self._matrix) + 1, device=theta.device)
        weights = (powers @ self._matrix.to(theta.device)).to(y)
        k = torch.stack([slopes[i] for i in self._used]).reshape(len(self._used), -1)
        shape = (len(theta), *y.shape)
        if isinstance(h, Tensor):
            return y + h.to(y.dtype) * (weights @ k).reshape(shape)
        return torch.addmm(y.reshape(1, -1), weights, k, alpha=h).reshape(shape)


def _horner(row: Sequence[float], theta: Any) -> Any:
    value = row[-1]
    for p in reversed(row[:-1]):
        value = value * theta + p
    return value * theta


# on (y1 - y0, h f0, h f1) and on (y1 - y0, h^2 a0, h^2 a1)
CHORD = Polynomials(((1,),))
CUBIC = Polynomials(((0, 3, -2), (1, -2, 1), (0, -1, 1)))
CUBIC_OF_SECOND_ORDER = Polynomials(((1, 0, 0), (-1 / 3, 1 / 2, -1 / 6), (-1 / 6, 0, 1 / 6)))


def hermite(t0: Time, y0: State, f0: State, t1: Time, y1: State, f1: State, t: Time) -> State:
    """The cubic with y(t0) = y0, y'(t0) = f0, y(t1) = y1, y'(t1) = f1, at t; error O((t1 - t0)^4).

    t: a number or 0-dim tensor, giving the shape of y0; or a tensor (T,), giving (T, *state).
    """
    h = t1 - t0
    x = (t - t0) / h
    if isinstance(x, Tensor):
        x = x.to(y0.dtype)
        if x.dim() == 1:
            x = x.reshape(-1, *([1] * y0.dim()))
    rest = 1 - x
    # y0 + x (y1 - y0) is the chord; the cubic terms vanish at both ends
    return rest * y0 + x * y1 + (x * rest) * ((2 * x - 1) * (y1 - y0) + (rest * h) * f0 - (x * h) * f1)


def interpolate(integrator: Integrator, f: Any, t: Time, h: Time, y0: State, step: Step, theta: Theta) -> State:
    """y(t + theta h) inside the step from (t, y0) that gave `step`; f is asked only for slopes that it lacks.

    The integrator's own polynomial where it has one (a method `dense` of the same arguments less the first), else the
    cubic of both ends and their slopes, local error O(h^4); for y'' = f the cubic of both ends and their
    accelerations; of a path with noise the chord. Differentiable in y0, in the slopes, in h and in theta.
    """
    if "noise" in integrator.needs:
        return chord(y0, step.y, theta)
    own = getattr(integrator, "dense", None)
    if own is not None:
        return own(f, t, h, y0, step, theta)
    first = step.slopes[0] if step.slopes else f(t, y0)
    return between(integrator, h, y0, first, step.y, f(t + h, step.y), theta)


def chord(y0: State, y1: State, theta: Theta) -> State:
    """y0 + theta (y1 - y0): what is left between two points of a path that has no derivative."""
    return CHORD.value(y0, 1.0, (y1 - y0,), theta)


def between(integrator: Integrator, h: Time, y0: State, f0: State, y1: State, f1: State, theta: Theta) -> State:
    """The cubic through both ends of a step, from what f gives there."""
    size = h.to(y0.dtype) if isinstance(h, Tensor) else h
    if "second_order" in integrator.needs:
        return CUBIC_OF_SECOND_ORDER.value(y0, 1.0, (y1 - y0, size * size * f0, size * size * f1), theta)
    return CUBIC.value(y0, 1.0, (y1 - y0, size * f0, size * f1), theta)
