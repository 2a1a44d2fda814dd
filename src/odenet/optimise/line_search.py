"""Strong Wolfe line search: bracketing and zooming with safeguarded cubic interpolation.

    f(a) <= f(0) + c1 a f'(0),      |f'(a)| <= c2 |f'(0)|
Nocedal & Wright, Numerical Optimization (2nd ed., 2006), algorithms 3.5 and 3.6; the cubic is their (3.59).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..errors import BadInput


class Probe(NamedTuple):
    """The function at one step length: f, its gradient (P,) there, and the slope along the search direction."""

    step: float
    value: float
    gradient: Tensor
    slope: float


def checked(c1: float, c2: float, trials: int) -> None:
    """Raises BadInput for constants that no step need satisfy."""
    if not 0 < c1 < c2 < 1:
        raise BadInput(f"c1={c1} and c2={c2}: Wolfe's conditions need 0 < c1 < c2 < 1.")
    if trials < 1:
        raise BadInput(f"trials={trials}: a line search evaluates 1 or more points.")


def strong_wolfe(
    at: Callable[[float], Probe], origin: Probe, first: float, c1: float = 1e-4, c2: float = 0.9, trials: int = 30
) -> Probe | None:
    """A point of both Wolfe conditions; where `trials` do not suffice the lowest point seen; None: nothing lower.

    at(a) evaluates step length a; origin is at(0), whose slope is negative; first is the first length tried.
    A value that is not finite counts as too high.
    """

    def high(p: Probe) -> bool:
        return not p.value <= origin.value + c1 * p.step * origin.slope

    def above(p: Probe, q: Probe) -> bool:  # where two values differ by rounding the slopes decide
        return not p.value <= q.value + 4e-16 * abs(q.value)

    def flat(p: Probe) -> bool:
        return abs(p.slope) <= -c2 * origin.slope

    low, other, step = origin, None, first
    for _ in range(trials):
        here = at(step)
        if other is None:  # no bracket yet
            if high(here) or (low.step > 0 and above(here, low)):
                other = here
            elif flat(here):
                return here
            elif here.slope >= 0:
                low, other = here, low
            else:
                before, low = low, here
                step = _further(before, here)
                continue
        elif high(here) or above(here, low):
            other = here
        elif flat(here):
            return here
        else:
            other = low if here.slope * (other.step - low.step) >= 0 else other
            low = here
        if abs(other.step - low.step) <= 4e-16 * max(abs(other.step), abs(low.step)):
            break
        step = _between(low, other)
    return low if low.step > 0 and low.value < origin.value else None


def _cubic(a: Probe, b: Probe) -> float:
    """Minimiser of the cubic with the values and slopes of a and b; nan where it has none."""
    d = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = d * d - a.slope * b.slope
    if not square >= 0:
        return math.nan
    root = math.copysign(math.sqrt(square), b.step - a.step)
    below = b.slope - a.slope + 2 * root
    return b.step - (b.step - a.step) * (b.slope + root - d) / below if below != 0 else math.nan


def _between(low: Probe, other: Probe) -> float:
    """A step inside the bracket, a tenth of it away from both ends; its middle where the cubic says nothing."""
    if not math.isfinite(other.value):
        return low.step + (other.step - low.step) / 10
    left, right = sorted((low.step, other.step))
    margin = (right - left) / 10
    if abs(other.value - low.value) <= 1e-12 * abs(low.value) and other.slope != low.slope:  # rounding: slopes alone
        step = low.step - low.slope * (other.step - low.step) / (other.slope - low.slope)
    else:
        step = _cubic(low, other)
    return min(max(step, left + margin), right - margin) if math.isfinite(step) else (left + right) / 2


def _further(before: Probe, here: Probe) -> float:
    """A step beyond `here`: where the cubic has its minimum, between twice and ten times as far."""
    step = _cubic(before, here)
    return min(max(step, 2 * here.step), 10 * here.step) if math.isfinite(step) else 4 * here.step
