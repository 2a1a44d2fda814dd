"""What a classical code needs for the problems of the PDE bench: the yardstick that nets and features stand beside.

A computed reference is one itself. Where the truth is a formula, evolution problems are solved by the method of lines
and linear ones on a rectangle by collocation at Chebyshev points.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import pde
from ..errors import Incompatible
from ..pde import reference
from ..pde.collocation import Block
from ..pde.domain import Brick
from ..pde.expressions import key
from ..pde.reference.spectral import barycentric_matrix, chebyshev_lobatto, differentiation
from ..pde.solution import relative_error

OTHERWISE = {"poisson_lshape": "l_shape"}  # references called otherwise than their problem
NODES = 28  # along an axis
EDGE = 1e-12


@dataclass(frozen=True)
class Classical:
    """A spectral or finite-element solution of a problem: its error, processor seconds, and how it was made."""

    problem: str
    error: float
    seconds: float
    how: str


def classical(name: str, title: str, arguments: Mapping[str, Any]) -> Classical | None:
    """By a classical code; None where there is none here. Of one problem it is computed once."""
    return _classical(name, title, tuple(sorted(arguments.items())))


@cache
def _classical(name: str, title: str, arguments: tuple[tuple[str, Any], ...]) -> Classical | None:
    known = OTHERWISE.get(name, name)
    if known in reference.names():
        r = reference.get(known, **dict(arguments))
        if r.recipe.solve is not None:
            return Classical(title, r.error, r.seconds, r.how)
    problem = pde.get(name, **dict(arguments))
    if not isinstance(problem, pde.Problem) or problem.inverse:
        return None
    start = time.process_time()
    try:
        if problem.evolves:
            sol = pde.solve(problem, "method_of_lines", 120.0, track=False)
            error, how = sol.rel_l2, "Chebyshev or Fourier collocation in space, Radau IIA of order 5 in time"
        else:
            error, how = collocated(problem, NODES), f"Chebyshev collocation at {NODES + 1} x {NODES + 1} points"
    except Incompatible:
        return None
    return None if error is None else Classical(title, error, time.process_time() - start, how)


def collocated(problem: pde.Problem, n: int) -> float | None:
    """rel_l2 of a linear problem in a rectangle, values given, at (n + 1)^2 Chebyshev points by one dense solve.

    Raises Incompatible for any other problem.
    """
    kinds = {c.kind for c in problem.conditions}
    if not (problem.linear and isinstance(problem.domain, Brick) and problem.dim == 2 and kinds <= {"dirichlet"}):
        raise Incompatible("collocation at Chebyshev points takes linear problems in a rectangle with given values.")
    (low, high), m = problem.domain.bounds, len(problem.unknowns)
    axes = [chebyshev_lobatto(n) for _ in range(2)]
    powers = [_powers(a, float(h - b) / 2) for a, b, h in zip(axes, low, high)]
    grid = torch.cartesian_prod(*(torch.from_numpy(a) for a in axes)) * (high - low) / 2 + (high + low) / 2
    A, b = _rows(problem, grid, powers)
    u = torch.linalg.solve(A, b).reshape(m, n + 1, n + 1)

    def at(x: Tensor) -> Tensor:
        s = (2 * x - low - high) / (high - low)
        rows = [torch.from_numpy(barycentric_matrix(a, s[:, i].numpy())) for i, a in enumerate(axes)]
        return torch.einsum("ni,mij,nj->nm", rows[0], u, rows[1])

    return relative_error(problem, at)


def _powers(nodes: Any, half: float) -> list[Tensor]:
    """Matrices of the derivatives of order 0, 1, 2, ... on an interval of that half length."""
    D = torch.from_numpy(differentiation(nodes)) / half
    return [torch.linalg.matrix_power(D, k) for k in range(5)]


def _rows(problem: pde.Problem, grid: Tensor, powers: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The equations inside and the values on the boundary: A (m n^2, m n^2), b."""
    size, m = len(grid), len(problem.unknowns)
    edge = problem.domain.distance(grid) < EDGE
    (_, equations), A, b = problem.traced[0], torch.zeros(m * size, m * size, dtype=torch.float64), []
    for k, (r, slopes) in enumerate(_linear(equations, grid)):
        for leaf, s in slopes:
            u = problem.unknowns.index(leaf.unknown)
            part = torch.kron(powers[0][leaf.index[0]], powers[1][leaf.index[1]])
            A[k * size : (k + 1) * size, u * size : (u + 1) * size] += s[:, None] * part
        b.append(-r)
    right = torch.cat(b)
    for c, es in problem.required:
        u = problem.unknowns.index(c.unknown or problem.unknowns[0])
        on = edge & (problem.domain.distance(grid, c.pieces) < EDGE)
        at = u * size + on.nonzero()[:, 0]
        A[at] = 0.0
        A[at, at] = 1.0
        ((r, _),) = _linear(es, grid[on])
        right[at] = -r
    return A, right


def _linear(rows: Any, x: Tensor) -> list[tuple[Tensor, list[tuple[Any, Tensor]]]]:
    """Of rows that are linear in the unknowns: their values where all are zero, and slopes by leaf."""
    block = Block("", tuple(rows), x)
    r, slopes = block.linearise({key(leaf): torch.zeros(len(x), dtype=x.dtype) for leaf in block.leaves}, {})
    return [(r[:, k], [(leaf, s[key(leaf)]) for leaf in block.leaves]) for k, s in enumerate(slopes)]


__all__ = ["Classical", "classical", "collocated"]
