"""A problem that evolves, discretised in space: y' = f(t, y), which any integrator steps.

y holds the unknowns and their time derivatives below the highest at the nodes of a grid, but for the nodes that follow
from the boundary conditions. The highest time derivatives come out of the equations at every node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import Incompatible
from ...fields import Field
from ...types import Params, State, Time
from ..collocation import Block
from ..expressions import Leaf, key, leaves, value
from ..statement import Problem
from .boundary_nodes import BoundaryNodes
from .grid import REAL, Grid


class Semidiscrete(Field):
    """f of a problem on a grid, with its Jacobian and, where all equations are of order two, as kick and drift.

    Raises Incompatible, in one sentence, for equations that are not solved for the highest time derivatives.
    """

    def __init__(self, problem: Problem, grid: Grid) -> None:
        super().__init__()
        self.problem, self.grid, self.unknowns = problem, grid, problem.unknowns
        self.rows = tuple(e for _, es in problem.traced for e in es)
        self.leaves = leaves(self.rows)
        self.orders = [problem.time_order[u] for u in self.unknowns]
        checked(problem, self.leaves, self.orders)
        self.columns = dict(zip(problem.frame.spatial, grid.nodes.unbind(1)))
        self.boundary = BoundaryNodes(problem, grid)
        self.free = self.boundary.free
        self._lay_out()
        self.mass = self._mass()
        self.offers = frozenset({"jacobian"} | ({"separable"} if self._newtonian() else set()))

    def _lay_out(self) -> None:
        """Where in y the values (time derivative k, unknown u) are."""
        self.at: dict[tuple[int, int], slice] = {}
        size = 0
        for k in range(max(self.orders)):
            for u, free in enumerate(self.free):
                if self.orders[u] > k:
                    self.at[k, u] = slice(size, size + len(free))
                    size += len(free)
        self.size = size

    def _newtonian(self) -> bool:
        """Whether u_tt = N(t, u) without velocities."""
        return set(self.orders) == {2} and all(leaf.index[-1] != 1 for leaf in self.leaves)

    def init(self, generator: torch.Generator | None = None) -> Params:
        """No weights."""
        return {}

    # ---- values at the nodes -----------------------------------------------------------------------------------------

    def start(self) -> Tensor:
        """y at the first time, from the initial conditions."""
        first = float(self.problem.domain.bounds[0, -1])
        names, zero = self.unknowns, torch.zeros(self.grid.size, dtype=REAL)
        y = torch.zeros(self.size, dtype=REAL)
        for c, es in self.problem.required:
            if c.kind == "initial":
                u = names.index(c.unknown or names[0])
                env = self._env(first) | {key(leaf): zero for leaf in leaves(es)}
                y[self.at[c.order, u]] = -_spread(value(es[0], env), self.grid.size)[self.free[u]]
        return y

    def level(self, t: Time, y: State, k: int) -> Tensor:
        """(m, size): the k-th time derivatives at all nodes, from y; of no meaning for unknowns of order k."""
        given = [y[self.at[k, u]] if (k, u) in self.at else y.new_zeros(len(free)) for u, free in enumerate(self.free)]
        return self.boundary.full(t, torch.cat(given), k)

    def full_slope(self, t: Time, y: State) -> Tensor:
        """(m, size): first time derivatives at all nodes, those that follow from the boundary conditions too."""
        f = self(t, y, {})
        return self.boundary.full(t, torch.cat([f[self.at[0, u]] for u in range(len(self.free))]), 1)

    def _env(self, t: Time) -> dict[Any, Any]:
        return {**self.columns, "t": torch.as_tensor(t, dtype=REAL).expand(self.grid.size)}

    def values(self, t: Time, y: State) -> dict[Any, Tensor]:
        """Every leaf at all nodes; highest time derivatives as zero."""
        levels = {k: self.level(t, y, k) for k in {leaf.index[-1] for leaf in self.leaves if not self._highest(leaf)}}
        found = {}
        for leaf in self.leaves:
            u = self.unknowns.index(leaf.unknown)
            if self._highest(leaf):
                found[key(leaf)] = torch.zeros(self.grid.size, dtype=REAL)
            else:
                found[key(leaf)] = self.grid.derive(levels[leaf.index[-1]][u], leaf.index[:-1])
        return found

    def _highest(self, leaf: Leaf) -> bool:
        return leaf.index[-1] == self.orders[self.unknowns.index(leaf.unknown)]

    # ---- the field ---------------------------------------------------------------------------------------------------

    def accelerations(self, t: Time, y: State) -> Tensor:
        """(m, size): the highest time derivatives that the equations give at all nodes."""
        env, memo = self._env(t) | self.values(t, y), dict[int, Any]()
        r = torch.stack([_spread(value(e, env, memo), self.grid.size) for e in self.rows])
        return -torch.einsum("nue,en->un", self.mass, r)

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self._joined(y, self.accelerations(t, y))

    def _joined(self, y: State, top: Tensor) -> State:
        parts = []
        for k, u in self.at:
            parts.append(y[self.at[k + 1, u]] if (k + 1, u) in self.at else top[u, self.free[u]])
        return torch.cat(parts)

    def kick(self, t: Time, q: State, p: Params) -> State:
        """u_tt for u."""
        top = self.accelerations(t, torch.cat([q, torch.zeros_like(q)]))
        return torch.cat([top[u, free] for u, free in enumerate(self.free)])

    def drift(self, t: Time, velocity: State, p: Params) -> State:
        """u_t."""
        return velocity

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """df/dy, (D, D)."""
        return self.assembled(self.slopes(self.values(t, y), t))

    def slopes(self, values: Mapping[Any, Tensor], t: Time) -> list[dict[Any, Tensor]]:
        """For every equation its derivatives (size,) by leaf."""
        x = torch.cat([self.grid.nodes, torch.full((self.grid.size, 1), float(t), dtype=REAL)], 1)
        with torch.enable_grad():
            return Block("equations", self.rows, x).linearise(values, {})[1]

    def assembled(self, slopes: list[dict[Any, Tensor]]) -> Tensor:
        """(D, D): the linear map that these derivatives are of."""
        out = torch.zeros(self.size, self.size, dtype=REAL)
        for k, u in self.at:
            if (k + 1, u) in self.at:
                out[self.at[k, u], self.at[k + 1, u]] = torch.eye(len(self.free[u]), dtype=REAL)
        for k in range(max(self.orders)):
            wide = self._wide(slopes, k)
            if wide is None:
                continue
            for u, free in enumerate(self.free):
                narrow, top = self.boundary.reduce(wide[u, free]), self.at[self.orders[u] - 1, u]
                for v, columns in enumerate(narrow.split([len(f) for f in self.free], 1)):
                    if (k, v) in self.at:
                        out[top, self.at[k, v]] = columns
        return out

    def _wide(self, slopes: list[dict[Any, Tensor]], k: int) -> Tensor | None:
        """(m, size, m size): highest time derivatives by the k-th ones at all nodes."""
        n, m = self.grid.size, len(self.unknowns)
        here = [leaf for leaf in self.leaves if leaf.index[-1] == k and not self._highest(leaf)]
        if not here:
            return None
        out = torch.zeros(m, n, m * n, dtype=REAL)
        for leaf in here:
            v = self.unknowns.index(leaf.unknown)
            by = torch.stack([slope[key(leaf)] for slope in slopes])  # (equations, size)
            factor = -torch.einsum("nue,en->un", self.mass, by)
            if factor.any():
                out[:, :, v * n : (v + 1) * n] += factor[..., None] * self.grid.dense(leaf.index[:-1])
        return out

    # ---- what the equations say about the highest time derivatives ---------------------------------------------------

    def samples(self, seed: int) -> dict[Any, Tensor]:
        """Leaves of no particular state: what holds at two of them holds at all."""
        g = torch.Generator().manual_seed(seed)
        return {key(leaf): 0.5 + torch.rand(self.grid.size, dtype=REAL, generator=g) for leaf in self.leaves}

    def _mass(self) -> Tensor:
        """(size, m, m): the inverse of the coefficients of the highest time derivatives, unknowns by equations."""
        low, high = (float(v) for v in self.problem.domain.bounds[:, -1])
        found = []
        for seed, t in ((1, low + 0.3 * (high - low)), (2, low + 0.8 * (high - low))):
            slopes = self.slopes(self.samples(seed), t)
            M = torch.zeros(self.grid.size, len(self.rows), len(self.unknowns), dtype=REAL)
            for leaf in self.leaves:
                if self._highest(leaf):
                    for e, slope in enumerate(slopes):
                        M[:, e, self.unknowns.index(leaf.unknown)] = slope[key(leaf)]
            found.append(M)
        if not torch.allclose(found[0], found[1], rtol=1e-10, atol=1e-12):
            raise Incompatible(
                "the factor of the highest time derivative changes with the solution or with time; divide by it."
            )
        M = found[0]
        inner = torch.zeros(self.grid.size, dtype=torch.bool)
        for free in self.free:
            inner[free] = True
        M[~inner] = torch.eye(len(self.rows), dtype=REAL)
        if float((torch.linalg.svdvals(M)[:, -1] / torch.linalg.svdvals(M)[:, 0]).nan_to_num(0.0).min()) < 1e-12:
            raise Incompatible("the equations do not determine the time derivative of every unknown at every point.")
        return torch.linalg.inv(M)


def _spread(found: Any, size: int) -> Tensor:
    return torch.as_tensor(found, dtype=REAL).expand(size)


def checked(problem: Problem, found: tuple[Leaf, ...], orders: list[int]) -> None:
    """Raise Incompatible unless the equations can be of the form (highest time derivatives) = N(t, x, u)."""
    if min(orders) < 1 or sum(len(es) for _, es in problem.traced) != len(orders):
        raise Incompatible("it needs one equation with a time derivative for each unknown.")
    if problem.inverse or any(e.within is not None for e, _ in problem.traced):
        raise Incompatible("unknown parameters and equations on a part of the domain are not for it.")
    for leaf in found:
        highest = leaf.index[-1] == orders[problem.unknowns.index(leaf.unknown)]
        if leaf.place is not None:
            raise Incompatible("the equation looks at other places or times.")
        if highest and any(leaf.index[:-1]):
            raise Incompatible("the highest time derivative is differentiated in space.")
    starts = {(c.unknown or problem.unknowns[0], c.order) for c, _ in problem.required if c.kind == "initial"}
    if starts != {(u, k) for u, p in zip(problem.unknowns, orders) for k in range(p)}:
        raise Incompatible("the initial conditions are not one for each time derivative below the highest.")
