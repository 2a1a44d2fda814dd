"""The library's registry: functions of keyword arguments that return a problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...errors import BadInput
from ...registry import Registry
from ..statement import Problem

Maker = Callable[..., Problem]
PDES: Registry[Maker] = Registry("PDE problem", "odenet.pdes")


def pde_problem(function: Maker) -> Maker:
    """Register a function under its own name; its docstring states the problem, its first line is the list's."""
    PDES.register(function.__name__, function)
    return function


def get(name: str, **arguments: Any) -> Problem:
    """A problem of the library by name, with its parameters. Raises UnknownName, BadInput for an unknown parameter."""
    maker = PDES.get(name)
    known = list(inspect.signature(maker).parameters)
    for word in arguments:
        if word not in known:
            raise BadInput(f"the problem {name!r} has no parameter {word!r}; it has: {', '.join(known) or 'none'}.")
    problem = maker(**arguments)
    problem.name = problem.name or name
    problem.about = problem.about or (inspect.getdoc(maker) or "").split("\n")[0]
    problem.facts["arguments"] = {"name": name, **arguments}
    return problem
