"""Reflections that leave a problem as it is: its solution is even or odd across the middle of an axis."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from ..errors import Incompatible
from .collocation import Block
from .conditions import Condition
from .expressions import GIVEN, Expression, key, used
from .statement import Problem

SAMPLES = 40
CLOSE = 1e-10  # relative: rounding of the statement's own terms


def parity(problem: Problem) -> dict[str, int]:
    """Axes of space with 1 or -1: u(..., a + b - x, ...) = u(..., x, ...) or -u, for all unknowns alike.

    Read off the statement: its domain, equations, initial and boundary values are the same, up to the sign of a row,
    when axis and unknowns are reflected, at random points and for random values of all derivatives. Only problems
    whose solution is one are looked at: linear ones and those that evolve; and only with conditions that give values or
    periodicity. A problem without such a symmetry, or with measurements, has an empty answer.
    """
    if not (problem.linear or problem.evolves) or problem.inverse:
        return {}
    if any(c.kind not in ("dirichlet", "initial", "periodic") or c.points is not None for c in problem.conditions):
        return {}
    rows = [e for _, es in (*problem.traced, *problem.required) for e in es]
    if any(e.within is not None for e, _ in problem.traced) or used(rows, GIVEN) - _others(problem):
        return {}
    found = dict[str, int]()
    for i, axis in enumerate(problem.domain.names):
        if axis != "t" and _contained(problem, i):
            with contextlib.suppress(Incompatible):  # no smooth distance says on which piece a point lies
                sign = next((s for s in (1, -1) if _equations(problem, i, s) and _conditions(problem, i, s)), 0)
                found |= {axis: sign} if sign else {}
    return found


def _others(problem: Problem) -> set[str]:
    return {f"other_{c}" for c in problem.frame.coordinates}


def _mirror(problem: Problem, i: int, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, i] = problem.domain.bounds[:, i].sum() - x[:, i]
    return y


def _contained(problem: Problem, i: int) -> bool:
    x = problem.domain.sample(10 * SAMPLES, torch.Generator().manual_seed(1), "uniform")
    return bool(problem.domain.inside(_mirror(problem, i, x)).all())


def _equations(problem: Problem, i: int, sign: int) -> bool:
    generator = torch.Generator().manual_seed(2)
    x = problem.domain.sample(SAMPLES, generator, "uniform")
    for _, es in problem.traced:
        here, there = Block("", es, x), Block("", es, _mirror(problem, i, x))
        if any(leaf.place is not None for leaf in here.leaves):
            return False
        values = {key(leaf): torch.randn(SAMPLES, generator=generator, dtype=torch.float64) for leaf in here.leaves}
        mirrored = {key(leaf): sign * (-1) ** leaf.index[i] * values[key(leaf)] for leaf in here.leaves}
        r, s = here.residual(values, {}), there.residual(mirrored, {})
        if not all(_close(a, b) or _close(a, -b) for a, b in zip(r.T, s.T)):
            return False
    return True


def _conditions(problem: Problem, i: int, sign: int) -> bool:
    generator = torch.Generator().manual_seed(3)
    for c, es in problem.required:
        for piece in c.pieces if c.kind != "periodic" else ():
            x = problem.domain.boundary(piece, SAMPLES, generator, "sobol").x
            y = _mirror(problem, i, x)
            value, covered = sign * _value(es, x), torch.zeros(len(x), dtype=torch.bool)
            for other, others in problem.required:
                if _alike(c, other):
                    on = problem.domain.distance(y, other.pieces) < 1e-9
                    covered |= on
                    if on.any() and not _close(_value(others, y[on]), value[on]):
                        return False
            if not covered.all():
                return False
    return True


def _alike(c: Condition, other: Condition) -> bool:
    return (c.kind, c.unknown, c.order) == (other.kind, other.unknown, other.order)


def _value(es: tuple[Expression, ...], x: Tensor) -> Tensor:
    """What a condition prescribes: its row u - value with u = 0."""
    block = Block("", es, x)
    return -block.residual({key(leaf): torch.zeros(len(x), dtype=x.dtype) for leaf in block.leaves}, {})[:, 0]


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * max(1.0, float(a.abs().max())))


__all__ = ["parity"]
