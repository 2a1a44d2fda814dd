"""The library's registry: functions of keyword arguments that return a problem.

Facts of a problem (`problem.facts`) are true statements that no method needs:

    shock            {"x": place, "width": width}: where a thin layer lies across a coordinate
    corner           {"at": (x, y), "power": p}: the solution behaves as r^p there
    true_parameters  {"nu": 0.01}: what an inverse problem's measurements were made with
    arguments        name and keyword arguments that make the problem again
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...errors import BadInput
from ...registry import Registry
from ..conditions import Condition, dirichlet
from ..domain import Domain

Maker = Callable[..., Any]  # returns a Problem, or in high dimensions a Semilinear
Made = TypeVar("Made", bound=Maker)
PDES: Registry[Maker] = Registry("PDE problem", "odenet.pdes")


def pde_problem(function: Made) -> Made:
    """Register a function under its own name; its docstring states the problem, its first line is the list's."""
    PDES.register(function.__name__, function)
    return function


def get(name: str, **arguments: Any) -> Any:
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


def computed(name: str, **parameters: Any) -> Callable[[Tensor], Tensor]:
    """The reference of that name as a function of points (N, d); nothing is computed before the first call."""

    @cache
    def found() -> Callable[[Tensor], Tensor]:
        from .. import reference

        return reference.get(name, **parameters)

    return lambda points: found()(points)


def sides(space: Domain, value: Callable[..., Any], unknown: str | None = None) -> list[Condition]:
    """Values on a box, side by side: each a function of the coordinates along its side alone.

    value: of all coordinates, in order. No formula then says what the solution is inside, where methods continue
    boundary values to meet them by construction.
    """
    found = []
    for i, piece in enumerate(space._faces()):
        axis, end = divmod(i, 2)
        found.append(dirichlet(_held(value, axis, float(space.bounds[end, axis])), on=piece, unknown=unknown))
    return found


def _held(value: Callable[..., Any], axis: int, place: float) -> Callable[..., Any]:
    return lambda *x: value(*(c * 0.0 + place if i == axis else c for i, c in enumerate(x)))


def positive(**values: float) -> None:
    """Raise BadInput for the first of these that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise BadInput(f"{name}={value!r}: give a number above zero.")


def count(**values: int) -> None:
    """Raise BadInput for the first of these that is not a whole number above zero."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{name}={value!r}: give a whole number above zero.")


def measured(values: Tensor, noise: float, seed: int) -> Tensor:
    """Values (N,) plus independent normal errors of standard deviation noise * std(values). Raises BadInput."""
    if not noise >= 0:
        raise BadInput(f"noise={noise!r}: give a share of the values' standard deviation, 0.01 for one percent.")
    errors = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=values.dtype)
    return values + noise * values.std() * errors
