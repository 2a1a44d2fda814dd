"""Options of a solve: names that are misspelt, values that cannot be."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from ..errors import BadInput

P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for a name that is close to known ones, else a list of them."""
    listed = sorted(known)
    near = difflib.get_close_matches(name, listed, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(listed)}."


def sensible(
    adaptive: bool, max_steps: Any = None, seconds: Any = None, first_step: Any = None, controller: Any = None
) -> None:
    """Raise BadInput for limits and step sizes that cannot be, or that fixed steps would ignore."""
    if max_steps is not None and (isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1):
        raise BadInput(f"max_steps is a positive whole number of steps, or None for the default; got {max_steps!r}.")
    if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
        raise BadInput(f"seconds is a positive time budget, or None for none; got {seconds!r}.")
    if first_step is not None and not (isinstance(first_step, (int, float)) and 0 < first_step < math.inf):
        raise BadInput(f"first_step is a positive step size, also backwards in time; got {first_step!r}.")
    if not adaptive and (first_step is not None or controller is not None):
        what = "first_step" if first_step is not None else "controller"
        raise BadInput(
            f"{what} is for steps under error control, and steps=... makes them fixed; leave one of them out."
        )


def tolerances(rtol: Any, atol: Any) -> None:
    """Raise BadInput unless both are numbers, neither negative and one of them positive."""
    for x in (rtol, atol):
        if isinstance(x, Tensor) and x.numel() > 1:
            raise BadInput("rtol and atol are numbers; one per component goes into controller=Controller(rtol, atol).")
        if not isinstance(x, (int, float, Tensor)):
            raise BadInput(f"rtol and atol are numbers, got {x!r}.")
    if not (rtol >= 0 and atol >= 0 and 0 < rtol + atol < math.inf):
        raise BadInput(f"tolerances are positive, got rtol={rtol}, atol={atol}.")


def spelt(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which answers an unknown keyword argument with BadInput and the nearest known one."""
    known = frozenset(inspect.signature(function).parameters)
    name = function.__name__

    @functools.wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        for option in options:
            if option not in known:
                raise BadInput(f"{name} has no option {option!r}; {nearest(option, known)}")
        return function(*args, **options)

    return checked
