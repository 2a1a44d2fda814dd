"""The registry of optimisers: a name stands for a function of options that gives an `Optimiser`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from ..errors import BadInput
from ..registry import Registry
from .base import Optimiser

Make = Callable[..., Optimiser]


def _check(name: str, make: Any) -> Make:
    if not callable(make) or isinstance(make, Optimiser):
        raise BadInput(
            f"optimiser {name!r} is registered as a class or function that takes options and returns an Optimiser; "
            f"got {type(make).__name__}."
        )
    return make


OPTIMISERS: Registry[Make] = Registry("optimiser", "odenet.optimisers", _check)
names, register = OPTIMISERS.names, OPTIMISERS.register


def options(name: str) -> list[str]:
    """The options of the optimiser `name`, sorted."""
    return sorted(
        p.name for p in inspect.signature(OPTIMISERS.get(name)).parameters.values() if p.kind != p.VAR_KEYWORD
    )


def get(name: str, **given: Any) -> Optimiser:
    """The optimiser `name` with these options. Raises UnknownName, and BadInput for an option that it has not."""
    make, known = OPTIMISERS.get(name), options(name)
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
            raise BadInput(f"optimiser {name!r} has no option {option!r}; {hint}")
    return make(**given)
