"""Values between two steps."""

from __future__ import annotations

from torch import Tensor

from ..types import State, Time


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
