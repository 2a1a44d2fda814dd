"""Boundary values continued smoothly into a box: what `ansatz` starts from where values are met by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .checks import points_on
from .conditions import Condition, number
from .expressions import COORDINATE, Expression, constant, value

if TYPE_CHECKING:
    from .statement import Problem

AXES = 3  # interpolation over k axes holds 3^k copies of the values


def interpolated(problem: Problem, values: Sequence[Condition]) -> Expression | None:
    """A function with all these values, where each holds on whole sides of a box whose corners agree; else None.

    Axis by axis g <- g + (1 - s) (v_low - g at the low side) + s (v_high - g at the high side), s from 0 to 1: linear
    between two sides, transfinite (Gordon & Hall 1973, Numer. Math. 21, 109) between four or six. Unlike an average
    weighted by distances it is smooth at corners.
    """
    sides: dict[int, dict[int, Expression]] = {}
    for c in values:
        for piece in c.pieces:
            place = _side(problem, piece)
            if place is None or place[1] in sides.setdefault(place[0], {}):
                return None
            sides[place[0]][place[1]] = number(c.value, problem.frame)
    if problem.allow_jumps or len(sides) > AXES:
        return None
    g = constant(problem.frame, 0.0)
    for axis, ends in sides.items():
        name = problem.frame.coordinates[axis]
        low, high = problem.domain.bounds[:, axis].tolist()
        missing = {end: v - g.at(**{name: (low, high)[end]}) for end, v in ends.items()}
        if len(missing) == 1:
            g = g + next(iter(missing.values()))
        else:
            s = (Expression(problem.frame, COORDINATE, (name,)) - low) * (1 / (high - low))
            g = g + (1 - s) * missing[0] + s * missing[1]
    return g if all(_met(problem, g, c) for c in values) else None


def _met(problem: Problem, g: Expression, c: Condition) -> bool:
    """Whether g has the values of a condition: it has not where values disagree at a corner."""
    x = torch.cat([points_on(problem, piece) for piece in c.pieces])
    columns = dict(zip(problem.frame.coordinates, x.unbind(-1)))
    wanted = torch.as_tensor(value(number(c.value, problem.frame), columns))
    found = torch.as_tensor(value(g, columns))
    return bool(((found - wanted).abs() <= 1e-9 * (1 + wanted.abs())).all())


def _side(problem: Problem, piece: str) -> tuple[int, int] | None:
    """(axis, end) of a piece that is a whole side of a box; None for other pieces."""
    space = problem.domain.space
    charts = space._faces().get(piece)
    if charts is None or len(charts) != 1:
        return None
    x, bounds = points_on(problem, piece)[:, : space.dim], space.bounds
    for axis in range(space.dim):
        for end in (0, 1):
            if bool((x[:, axis] == bounds[end, axis]).all()):
                width = (bounds[1] - bounds[0]).prod() / (bounds[1] - bounds[0])[axis]
                whole = abs(charts[0].measure - float(width)) < 1e-9 * float(width)
                return (axis, end) if whole else None
    return None
