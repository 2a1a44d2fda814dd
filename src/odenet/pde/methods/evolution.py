"""Evolution problems on one time window: features in space, collocation in time, Newton's iteration by eigenvalues.

On a window u = sum_j c_j(t) phi_j(x). The highest time derivative of every unknown is a polynomial through the q Radau
nodes; lower ones follow by the Runge-Kutta matrix A, as (h A)^p. The equations are projected onto the features (least
squares in the discrete L2 product), the boundary conditions hold at every node. With slopes frozen over the window the
eigenvectors of A take the q r unknown numbers apart into q systems of r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..collocation import Block
from ..expressions import Expression, key, leaves
from ..statement import Problem
from ..symmetry import parity
from .feature_space import Space
from .random_feature_basis import REAL, Axis, Index

Coefficients = list[Tensor]
State = list[list[Tensor]]  # by unknown and time derivative: (r,)


class Rule:
    """Radau IIA with q nodes: c (q,), A (q, q), eigenvalues and eigenvectors of A."""

    def __init__(self, q: int) -> None:
        import numpy as np
        from scipy.special import roots_jacobi

        legendre, self.q = np.polynomial.legendre, q
        c = (np.append(roots_jacobi(q - 1, 1, 0)[0], 1.0) + 1) / 2
        integrals = [legendre.legint(row, lbnd=-1.0) for row in np.eye(q)]
        table = np.stack([legendre.legval(2 * c - 1, p) / 2 for p in integrals], 1)
        self.c = torch.from_numpy(c)
        self.legendre = torch.from_numpy(legendre.legvander(2 * c - 1, q - 1))
        self.A = torch.from_numpy(table @ np.linalg.inv(legendre.legvander(2 * c - 1, q - 1)))
        self.values, self.vectors = torch.linalg.eig(self.A)
        self.inverse = torch.linalg.inv(self.vectors)
        self.solved = [i for i in range(q) if self.values[i].imag > -1e-12]  # of each conjugate pair one
        self.partner = [int((self.values - v.conj()).abs().argmin()) for v in self.values]

    @lru_cache(8)  # noqa: B019 - rules live as long as the process
    def power(self, p: int) -> Tensor:
        """A^p."""
        return torch.linalg.matrix_power(self.A, p)

    def interpolate(self, t: Tensor, start: bool, order: int = 0) -> Tensor:
        """(N, q or q + 1): values, or derivatives in units of the window, of the Lagrange polynomials at t in [0, 1].

        start: with the window's beginning as one more, first, node.
        """
        import numpy as np

        legendre = np.polynomial.legendre
        nodes = np.append(0.0, self.c.numpy()) if start else self.c.numpy()
        top = len(nodes) - 1
        inverse = np.linalg.inv(legendre.legvander(2 * nodes - 1, top))
        table = np.eye(top + 1)
        for _ in range(order):
            table = np.stack([np.pad(2 * legendre.legder(row), (0, 1)) for row in table])
        rows = legendre.legvander(2 * t.numpy() - 1, top) @ table.T
        return torch.from_numpy(rows @ inverse)

    def tail(self, K: Tensor) -> float:
        """Size of the last Legendre coefficient of values (q, r) at the nodes."""
        return float(torch.linalg.solve(self.legendre, K)[-1].norm())


@lru_cache(16)
def rule(q: int) -> Rule:
    """The rule with q nodes."""
    return Rule(q)


def at_nodes(rule: Rule, top: int, k: int, K: Tensor, state: Sequence[Tensor], h: float) -> Tensor:
    """(q, r): the k-th time derivative at the nodes from the highest, `top`, and those below it at the start."""
    p, t = top - k, rule.c * h
    if p == 0:
        return K
    out = h**p * (rule.power(p) @ K)
    for j in range(p):
        out = out + (t**j / math.factorial(j))[:, None] * state[k + j]
    return out


@dataclass
class Rows:
    """Equations or conditions at points in space (n, d), to be taken at the nodes of a window."""

    name: str
    rows: tuple[Expression, ...]
    x: Tensor
    normal: Tensor | None
    matrices: dict[Index, Tensor]

    def block(self, times: Tensor, names: Sequence[str]) -> Block:
        """The rows at all points for every time, time by time."""
        n, q = len(self.x), len(times)
        x = torch.cat([self.x.repeat(q, 1), times.repeat_interleave(n)[:, None]], 1)
        given = {}
        if self.normal is not None:
            given = {f"n_{a}": self.normal[:, i].repeat(q) for i, a in enumerate(names[:-1])}
            given[f"n_{names[-1]}"] = torch.zeros(n * q, dtype=REAL)
        return Block(self.name, self.rows, x, given)


class Evolution:
    """A problem that evolves: its time orders, rows, starts."""

    def __init__(self, problem: Problem, nodes: int) -> None:
        self.problem, self.rule = problem, rule(nodes)
        self.names, self.unknowns = problem.frame.coordinates, problem.unknowns
        self.orders = [problem.time_order[u] for u in self.unknowns]
        self.space = problem.domain.space
        (self.first, self.last) = (float(problem.domain.bounds[i, -1]) for i in (0, 1))
        around = {c.axis for c, _ in problem.required if c.kind == "periodic"}
        signs = parity(problem) if len(self.space.names) == 1 and around else {}
        self.axes = tuple(
            Axis(
                float(self.space.bounds[0, i]),
                float(self.space.bounds[1, i]),
                name in around,
                parity=signs.get(name, 0),
            )
            for i, name in enumerate(self.space.names)
        )
        self.equations = tuple(e for _, es in problem.traced for e in es)
        self.sides = [(c, es) for c, es in problem.required if c.kind not in ("periodic", "initial")]
        found = leaves([*self.equations, *(e for _, es in self.sides for e in es)])
        zero = (0,) * len(self.axes)
        self.channels = sorted({leaf.index[:-1] for leaf in found} | {zero})

    @staticmethod
    def suits(problem: Problem) -> str | None:
        """None where windows in time can be marched, else why not."""
        if not problem.evolves or problem.dim < 2:
            return "it does not evolve in space and time"
        orders = problem.time_order
        rows = [(e, es) for e, es in problem.traced]
        if problem.parameters or any(e.within is not None for e, _ in rows):
            return "it has unknown parameters or materials"
        if sum(len(es) for _, es in rows) != len(orders) or min(orders.values()) < 1 or len(set(orders.values())) > 1:
            return "it is not one equation for the same time derivative of each unknown"
        order = next(iter(orders.values()))
        kinds = {"dirichlet", "neumann", "robin", "operator", "periodic", "initial"}
        for c, es in problem.required:
            if c.kind not in kinds or c.points is not None or {"initial", "final"} & (set(c.pieces) - {"initial"}):
                return f"of the condition {c!r}"
            if c.kind == "periodic" and c.unknown is not None and len(orders) > 1:
                return "only some unknowns are periodic"
            if c.kind not in ("periodic", "initial") and any(leaf.index[-1] for leaf in leaves(es)):
                return f"the condition {c!r} holds a time derivative"
        starts = {(c.unknown or problem.unknowns[0], c.order) for c, _ in problem.required if c.kind == "initial"}
        if starts != {(u, k) for u in problem.unknowns for k in range(order)}:
            return "its initial conditions are not one for each time derivative below the highest"
        equations = [e for _, es in rows for e in es]
        sides = [e for c, es in problem.required if c.kind not in ("periodic", "initial") for e in es]
        if any(leaf.place is not None for leaf in leaves(equations + sides)):
            return "it looks at other places or times"
        return None

    def start(self, unknown: int, order: int) -> Any:
        """The initial value as a function of points (N, d) in space."""
        name = self.unknowns[unknown]
        _, es = next(
            (c, es) for c, es in self.problem.required
            if c.kind == "initial" and c.order == order and (c.unknown or self.unknowns[0]) == name
        )  # fmt: skip

        def at(x: Tensor) -> Tensor:
            block = Block("initial", es, torch.cat([x, torch.full((len(x), 1), self.first, dtype=REAL)], 1))
            return -block.residual({key(leaf): torch.zeros(len(x), dtype=REAL) for leaf in block.leaves}, {})[:, 0]

        return at

    def rows(self, space: Space) -> tuple[Rows, list[Rows]]:
        """Equations at the space's points; conditions at points of the boundary."""
        conditions, count = [], 1 if len(self.axes) == 1 else max(24, round(6 * space.width**0.5))
        for c, es in self.sides:
            for piece in c.pieces:
                on = self.space.boundary(piece, count, torch.Generator().manual_seed(1), "sobol")
                indices = sorted({leaf.index[:-1] for leaf in leaves(es)})
                conditions.append(Rows(f"{c.kind} {piece}", es, on.x, on.normal, space(on.x, indices)))
        return Rows("equation", self.equations, space.x, None, space.at_x), conditions

    def coefficients(self, u: int, k: int, K: Coefficients, state: State, h: float) -> Tensor:
        """(q, r): coefficients of the k-th time derivative of unknown u at the nodes."""
        return at_nodes(self.rule, self.orders[u], k, K[u], state[u], h)

    def values(
        self, block: Block, matrices: dict[Index, Tensor], K: Coefficients, state: State, h: float
    ) -> dict[Any, Tensor]:
        """Leaves of a block at the nodes."""
        out = {}
        for leaf in block.leaves:
            table = self.coefficients(self.unknowns.index(leaf.unknown), leaf.index[-1], K, state, h)
            out[key(leaf)] = (table @ matrices[leaf.index[:-1]].T).reshape(-1)
        return out


class Window:
    """Newton's iteration on one window [t, t + h] with frozen slopes."""

    def __init__(self, system: Evolution, space: Space) -> None:
        self.system, self.space, self.rule = system, space, system.rule
        self.equation, self.conditions = system.rows(space)
        self.count = len(system.unknowns)
        self.constraint: Tensor | None = None
        self.factorisations = 0
        self.kept: tuple[float, dict[int, Any]] | None = None

    def residuals(self, K: Coefficients, state: State, t: float, h: float) -> list[Tensor]:
        """Residuals (q, n) of equations and conditions, row by row."""
        out = list[Tensor]()
        for rows in (self.equation, *self.conditions):
            block = rows.block(t + self.rule.c * h, self.system.names)
            r = block.residual(self.system.values(block, rows.matrices, K, state, h), {})
            out += [c.reshape(self.rule.q, -1) for c in r.unbind(1)]
        return out

    def slopes(self, K: Coefficients, state: State, t: float, h: float) -> list[list[dict[Any, Tensor]]]:
        """Slopes (q, n) of equations and of every condition: by row and leaf."""
        out = []
        for rows in (self.equation, *self.conditions):
            block = rows.block(t + self.rule.c * h, self.system.names)
            _, slopes = block.linearise(self.system.values(block, rows.matrices, K, state, h), {})
            out.append([{leaf: s[key(leaf)].reshape(self.rule.q, -1) for leaf in block.leaves} for s in slopes])
        return out

    def _constrain(self, found: Any) -> None:
        """Directions in which the conditions say nothing, from their slopes; the conditions as independent rows."""
        r, rows = self.space.size, []
        for one, tables in zip(self.conditions, found[1:]):
            for slopes in tables:
                wide = torch.zeros(len(one.x), self.count * r, dtype=REAL)
                for leaf, s in slopes.items():
                    u = self.system.unknowns.index(leaf.unknown)
                    wide[:, u * r : (u + 1) * r] += s.mean(0)[:, None] * one.matrices[leaf.index[:-1]]
                rows.append(wide)
        B = torch.cat(rows)
        if self.constraint is not None and torch.allclose(B, self.constraint, rtol=1e-3, atol=1e-10):
            return
        left, s, right = torch.linalg.svd(B, full_matrices=True)
        k = int((s > 1e-10 * s[0]).sum())
        self.constraint, self.free = B, right[k:].T
        self.bound, self.combine = right[:k], left[:, :k].T / s[:k, None]

    def factor(self, found: Any, h: float) -> dict[int, Any]:
        """LU factors of the system of every eigenvalue kept."""
        if self.conditions:
            self._constrain(found)
        r, parts = self.space.size, dict[int, Tensor]()
        for e, slopes in enumerate(found[0]):
            for leaf, s in slopes.items():
                u = self.system.unknowns.index(leaf.unknown)
                p = self.system.orders[u] - leaf.index[-1]
                part = parts.setdefault(p, torch.zeros(self.count * r, self.count * r, dtype=REAL))
                tested = self.space.test.T @ (s.mean(0)[:, None] * self.space.at_x[leaf.index[:-1]])
                part[e * r : (e + 1) * r, u * r : (u + 1) * r] += tested
        self.order = self._pair(parts[0])
        parts = {p: m.reshape(self.count, r, -1)[self.order].reshape(self.count * r, -1) for p, m in parts.items()}
        if self.conditions:
            parts = {p: self.free.T @ m for p, m in parts.items()}
        factors = {}
        for i in self.rule.solved:
            z = self.rule.values[i] * h
            z = z.real if abs(z.imag) < 1e-12 * abs(z) else z
            A = sum(m * z**p for p, m in parts.items())
            if self.conditions:
                A = torch.cat([A, self.bound.to(A.dtype)])
            factors[i] = torch.linalg.lu_factor(A)
        self.factorisations += 1
        self.kept = (h, factors)
        return factors

    def _factors(self, K: Coefficients, state: State, t: float, h: float) -> dict[int, Any]:
        """Those of the window before where it was as long."""
        if self.kept is not None and abs(self.kept[0] / h - 1) < 1e-9:
            return self.kept[1]
        return self.factor(self.slopes(K, state, t, h), h)

    def _pair(self, mass: Tensor) -> list[int]:
        """For every unknown the equation that holds its time derivative."""
        from scipy.optimize import linear_sum_assignment

        r = self.space.size
        size = mass.reshape(self.count, r, self.count, r).abs().sum((1, 3))
        rows, columns = linear_sum_assignment(-torch.log(size + 1e-300).numpy())
        return [int(rows[list(columns).index(u)]) for u in range(self.count)]

    def correct(self, residuals: list[Tensor], factors: dict[int, Any], h: float) -> Coefficients:
        """Newton's correction of K, (q, r) by unknown."""
        tested = [residuals[e] @ self.space.test for e in self.order]
        g = torch.cat(tested, 1)
        if self.conditions:
            sides = torch.cat(residuals[self.count :], 1) @ self.combine.T
            g = torch.cat([g @ self.free, sides], 1)
        g = self.rule.inverse @ g.to(self.rule.inverse.dtype)
        if self.conditions:
            lead = (self.rule.values * h) ** self.system.orders[0]
            g[:, -len(self.bound) :] /= lead[:, None]
        out = torch.zeros(self.rule.q, self.count * self.space.size, dtype=g.dtype)
        for i, (lu, pivots) in factors.items():
            if lu.is_complex():
                out[i] = -torch.linalg.lu_solve(lu, pivots, g[i][:, None])[:, 0]
            else:
                pair = torch.linalg.lu_solve(lu, pivots, torch.view_as_real(g[i]).contiguous())
                out[i] = -torch.view_as_complex(pair.contiguous())
        for i in range(self.rule.q):
            if i not in factors:
                out[i] = out[self.rule.partner[i]].conj()
        d = (self.rule.vectors @ out).real
        return list(d.split(self.space.size, 1))

    def solve(
        self, state: State, t: float, h: float, guess: Coefficients | None, tolerance: float, most: int = 40
    ) -> tuple[Coefficients | None, int]:
        """K on the window, or None where the iteration does not converge; and the number of iterations."""
        K = guess or [torch.zeros(self.rule.q, self.space.size, dtype=REAL) for _ in range(self.count)]
        factors, last, renewed = self._factors(K, state, t, h), math.inf, False
        for i in range(1, most + 1):
            d = self.correct(self.residuals(K, state, t, h), factors, h)
            K = [a + b for a, b in zip(K, d)]
            size = self._size(K, d, state, h)
            if not math.isfinite(size) or size > 1e3:
                return None, i
            if size < max(1e-14, tolerance) or (size < 1e-11 and size > 0.3 * last):
                return K, i
            if self.system.problem.linear and i >= 2 and size < 1e-9:
                return K, i
            if size > 0.9 * last and i > 3:
                return None, i
            if size > 0.2 * last and not renewed and i < 7:
                factors, renewed, last = self.factor(self.slopes(K, state, t, h), h), True, math.inf
            else:
                last = size
        return None, most

    def _size(self, K: Coefficients, d: Coefficients, state: State, h: float) -> float:
        change = whole = 0.0
        for u, p in enumerate(self.system.orders):
            change += float((h**p * (self.rule.power(p) @ d[u])).square().sum())
            whole += float(self.system.coefficients(u, 0, K, state, h).square().sum())
        return (change / max(whole, 1e-300)) ** 0.5
