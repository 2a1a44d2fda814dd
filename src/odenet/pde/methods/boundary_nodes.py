"""Nodes of a grid whose values follow from the boundary conditions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import Incompatible
from ...types import Time
from ..collocation import Block
from ..conditions import Condition
from ..expressions import COORDINATE, Expression, key, leaves, used, value
from ..statement import Problem
from .grid import REAL, Chebyshev, Grid

KINDS = {"dirichlet", "neumann", "robin", "operator"}


@dataclass(frozen=True)
class Row:
    """One boundary condition for one unknown on the face (axis, end)."""

    rows: tuple[Expression, ...]
    unknown: int
    axis: int
    end: int
    plain: bool


class BoundaryNodes:
    """B U + b(t) = 0 at the boundary, solved for as many values U_S as there are conditions: U_S = -K U_F - c(t).

    free: for every unknown the numbers of the nodes whose values are not determined so. An end of an interval with k
    conditions determines the k nodes nearest to it. Raises Incompatible for conditions that are not linear, are too
    many, or hold on a part of a face.
    """

    def __init__(self, problem: Problem, grid: Grid) -> None:
        self.problem, self.grid, self.m = problem, grid, len(problem.unknowns)
        self.columns = grid.nodes
        entries = list(self._entries())
        placed = self._placed(entries)  # (entry, node where it holds, node that follows)
        n = grid.size
        followers = [entries[e].unknown * n + node for e, _, node in placed]
        self.fixed = torch.tensor(followers, dtype=torch.int64)
        kept = torch.ones(self.m * n, dtype=torch.bool)
        kept[self.fixed] = False
        self.kept = kept.nonzero()[:, 0]
        self.free = [self.kept[(self.kept >= u * n) & (self.kept < (u + 1) * n)] - u * n for u in range(self.m)]
        self.order = torch.argsort(torch.cat([self.kept, self.fixed]))
        self.blocks = [(entries[e], torch.tensor([a for f, a, _ in placed if f == e])) for e in range(len(entries))]
        self.blocks = [(entry, nodes) for entry, nodes in self.blocks if len(nodes)]
        self.still = not any("t" in used(entry.rows, COORDINATE) for entry, _ in self.blocks)
        self.known: Tensor | None = None
        if self.blocks:
            self._eliminate()

    def _entries(self) -> Iterator[Row]:
        """Conditions row by row and face by face."""
        space, counts = self.problem.domain.space, dict[tuple[int, int, int], int]()
        for c, es in self.problem.required:
            if c.kind in ("periodic", "initial"):
                continue
            if c.kind not in KINDS or c.points is not None:
                raise Incompatible(f"the condition {c!r} is none of boundary values, slopes or periodicity.")
            faces = list(space._faces())
            for piece in c.pieces:
                for face in space._resolve(piece):
                    axis, end = divmod(faces.index(face), 2)
                    if not isinstance(self.grid.axes[axis], Chebyshev):
                        raise Incompatible(f"the condition {c!r} holds at an end of a periodic axis.")
                    for row in es:
                        u = self._unknown(c, row, axis, end, counts)
                        counts[u, axis, end] = counts.get((u, axis, end), 0) + 1
                        yield Row((row,), u, axis, end, c.kind == "dirichlet")

    def _unknown(self, c: Condition, row: Expression, axis: int, end: int, counts: dict[Any, int]) -> int:
        """The unknown that a row is for: the one it names, else of those in it the one with the fewest rows so far."""
        names = self.problem.unknowns
        inside = [names.index(leaf.unknown) for leaf in leaves([row])]
        if any(leaf.index[-1] or leaf.place is not None for leaf in leaves([row])) or not inside:
            raise Incompatible(f"the condition {c!r} holds a time derivative, another place or no unknown.")
        if c.unknown is not None:
            return names.index(c.unknown)
        return min(inside, key=lambda u: counts.get((u, axis, end), 0))

    def _placed(self, entries: list[Row]) -> list[tuple[int, int, int]]:
        if len(self.grid.axes) == 1:
            return list(self._at_ends(entries))
        return list(self._on_faces(entries))

    def _at_ends(self, entries: list[Row]) -> Iterator[tuple[int, int, int]]:
        n, seen = self.grid.size, dict[tuple[int, int], int]()
        for e, row in enumerate(entries):
            k = seen.get((row.unknown, row.end), 0)
            seen[row.unknown, row.end] = k + 1
            yield e, (0, n - 1)[row.end], (k, n - 1 - k)[row.end]

    def _on_faces(self, entries: list[Row]) -> Iterator[tuple[int, int, int]]:
        numbers = torch.arange(self.grid.size).reshape(self.grid.shape)
        taken: dict[tuple[int, int], int] = {}
        for e, row in sorted(enumerate(entries), key=lambda pair: not pair[1].plain):  # values first: they rule corners
            for node in numbers.select(row.axis, (0, -1)[row.end]).flatten().tolist():
                other = taken.setdefault((row.unknown, node), e)
                if other == e:
                    yield e, node, node
                elif (entries[other].axis, entries[other].end) == (row.axis, row.end):
                    raise Incompatible("two conditions for one unknown on one side of a box are not for it.")

    def _env(self, entry: Row, nodes: Tensor, t: Time) -> dict[Any, Any]:
        names, count = self.problem.frame.coordinates, len(nodes)
        given = {f"n_{a}": torch.zeros(count, dtype=REAL) for a in names}
        given[f"n_{names[entry.axis]}"] += 2.0 * entry.end - 1.0
        columns = dict(zip(names, self.columns[nodes].unbind(1)))
        return {**columns, "t": torch.as_tensor(t, dtype=REAL).expand(count), **given}

    def _eliminate(self) -> None:
        low, high = (float(v) for v in self.problem.domain.bounds[:, -1])
        B, other = self._matrix(1, low + 0.3 * (high - low)), self._matrix(2, low + 0.8 * (high - low))
        if not torch.allclose(B, other, rtol=1e-10, atol=1e-12 * float(B.abs().max())):
            raise Incompatible("a boundary condition is not linear in the unknowns, or its factors change with time.")
        S = B[:, self.fixed]
        if float(torch.linalg.cond(S)) > 1e12:
            raise Incompatible("the boundary conditions contradict each other, or do not determine the boundary.")
        self.factors = torch.linalg.lu_factor(S)
        self.K = torch.linalg.lu_solve(*self.factors, B[:, self.kept])

    def _matrix(self, seed: int, t: float) -> Tensor:
        """B, (conditions, m size)."""
        n, g, out = self.grid.size, torch.Generator().manual_seed(seed), []
        for entry, nodes in self.blocks:
            env = self._env(entry, nodes, t)
            given = {k: v for k, v in env.items() if k.startswith("n_")}
            x = torch.cat([self.columns[nodes], env["t"][:, None]], 1)
            block = Block("side", entry.rows, x, given)
            values = {key(leaf): 0.5 + torch.rand(len(nodes), dtype=REAL, generator=g) for leaf in block.leaves}
            with torch.enable_grad():
                slopes = block.linearise(values, {})[1][0]
            wide = torch.zeros(len(nodes), self.m * n, dtype=REAL)
            for leaf in block.leaves:
                u = self.problem.unknowns.index(leaf.unknown)
                rows = self.grid.dense(leaf.index[:-1])[nodes]
                wide[:, u * n : (u + 1) * n] += slopes[key(leaf)][:, None] * rows
            out.append(wide)
        return torch.cat(out)

    def offset(self, t: Time) -> Tensor:
        """c(t)."""
        if self.known is not None:
            return self.known
        parts = []
        for entry, nodes in self.blocks:
            env = self._env(entry, nodes, t)
            env |= {key(leaf): torch.zeros(len(nodes), dtype=REAL) for leaf in leaves(entry.rows)}
            parts.append(torch.as_tensor(value(entry.rows[0], env), dtype=REAL).expand(len(nodes)))
        found = torch.linalg.lu_solve(*self.factors, torch.cat(parts)[:, None])[:, 0]
        if self.still:
            self.known = found
        return found

    def full(self, t: Time, given: Tensor, k: int) -> Tensor:
        """(m, size): k-th time derivatives at all nodes from those at the free ones."""
        if not self.blocks:
            return given[self.order].reshape(self.m, -1)
        follow = -(self.K @ given)
        if k == 0:
            follow = follow - self.offset(t)
        elif not self.still:
            follow = follow - self._moved(t, k)
        return torch.cat([given, follow])[self.order].reshape(self.m, -1)

    def _moved(self, t: Time, k: int) -> Tensor:
        """The k-th derivative of c."""
        function = self.offset
        for _ in range(k):
            function = _slope(function)
        return function(torch.as_tensor(t, dtype=REAL))

    def reduce(self, wide: Tensor) -> Tensor:
        """A linear map (rows, m size) of all values as one of the free ones."""
        if not self.blocks:
            return wide[:, self.kept]
        return wide[:, self.kept] - wide[:, self.fixed] @ self.K


def _slope(function: Any) -> Any:
    def slope(t: Tensor) -> Tensor:
        return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]  # type: ignore[no-any-return]

    return slope
