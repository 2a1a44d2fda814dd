"""hp-variational nets: the residual against polynomials on the elements of a box, instead of at points."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ... import optimise
from ...errors import Incompatible
from ..ansatz import Ansatz, ansatz
from ..collocation import Block, Collocation, blocks
from ..domain import Brick
from ..expressions import LEAF, Expression, Leaf, constant, key, leaves
from ..solution import Field, Solution
from ..statement import Equation, Problem
from .base import METHODS, Method, Run
from .trained import Model

REAL = torch.float64
AT_ONCE = 2048  # quadrature points of a block
SUSPECT = 10.0  # loss with finer quadrature over that of training above which a solution is not to be trusted


@lru_cache(32)
def tests(degree: int, quadrature: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss points (n,) on [-1, 1], and w v_k and w v_k' (degree, n) of v_k = P_{k+1} - P_{k-1}, k = 1 ... degree.

    v_k is zero at both ends, and v_k' = (2 k + 1) P_k.
    """
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(quadrature)
    P = np.polynomial.legendre.legvander(x, degree + 1).T
    slopes = (2 * np.arange(1, degree + 1)[:, None] + 1) * P[1 : degree + 1]
    return torch.from_numpy(x), torch.from_numpy(w * (P[2:] - P[:-2])), torch.from_numpy(w * slopes)


def elements(low: Sequence[float], high: Sequence[float], counts: Sequence[int]) -> list[list[tuple[float, float]]]:
    """Boxes that tile a box: for each its bounds axis by axis."""
    edges = [[(a + (b - a) * i / n, a + (b - a) * (i + 1) / n) for i in range(n)] for a, b, n in zip(low, high, counts)]
    return [list(box) for box in itertools.product(*edges)]


def measures(
    box: Sequence[tuple[float, float]], degree: int, quadrature: int, along: int | None = None
) -> tuple[Tensor, Tensor]:
    """Points (n, d) of an element and the matrix (Q, n) of integrals against products of test functions.

    along: the axis along which the test function is differentiated, or None
    """
    x, v, slope = tests(degree, quadrature)
    nodes, matrix = [], torch.ones(1, 1, dtype=REAL)
    for i, (a, b) in enumerate(box):
        half = (b - a) / 2
        nodes.append((a + b) / 2 + half * x)
        matrix = torch.kron(matrix, slope if i == along else half * v)
    return torch.stack([c.flatten() for c in torch.meshgrid(*nodes, indexing="ij")], 1), matrix


def by_parts(problem: Problem, e: Expression) -> tuple[tuple[Expression, ...], tuple[int | None, ...]]:
    """The expression without its pure second derivatives, and a u_i for each a u_ii: with (x, along) of `measures`.

    Integral (a u_ii v) = - integral (a u_i v_i) where v vanishes at the ends. Terms whose factor a is no constant stay.
    """
    zero, rest, rows, along = (0,) * problem.dim, e, [], list[int | None]()
    for leaf in leaves([e]):
        if leaf.place is None and sum(leaf.index) == 2 and max(leaf.index) == 2:
            factor = _factor(problem, e, leaf)
            if factor is not None:
                i = leaf.index.index(2)
                index = tuple(int(j == i) for j in range(len(zero)))
                rest = _without(rest, leaf)
                rows.append(-factor * Expression(e.frame, LEAF, (Leaf(leaf.unknown, index),)))
                along.append(i)
    return (rest, *rows), (None, *along)


def _factor(problem: Problem, e: Expression, leaf: Leaf) -> float | None:
    """The constant in front of a leaf, or None."""
    g = torch.Generator().manual_seed(0)
    block = Block("term", (e,), problem.domain.sample(16, g))
    found = []
    for _ in range(2):
        values = {key(v): 0.5 + torch.rand(len(block.x), dtype=REAL, generator=g) for v in block.leaves}
        found.append(block.linearise(values, {})[1][0][key(leaf)])
    both = torch.cat(found)
    return float(both[0]) if torch.allclose(both, both[0].expand(len(both)), rtol=1e-12, atol=1e-14) else None


def _without(e: Expression, leaf: Leaf) -> Expression:
    """The expression with that leaf as zero."""
    if e.function == LEAF:
        return constant(e.frame, 0.0) if key(e.args[0]) == key(leaf) else e
    if isinstance(e.function, str):
        return e
    args = tuple(_without(a, leaf) if isinstance(a, Expression) else a for a in e.args)
    return Expression(e.frame, e.function, args, e.keywords)


@dataclass(frozen=True, kw_only=True)
class Variational(Method):
    """The integrals of all residuals against v_{k_1}(x_1) ... v_{k_d}(x_d) on every element are made small, in float64.

    v_k = P_{k+1} - P_{k-1}, k = 1 ... degree, zero on the edges of its element. Kharazmi, Zhang & Karniadakis (2021),
    hp-VPINNs, with Gauss-Newton.

    elements     along every axis of the box, time included: a number, or one for each axis
    degree       test functions along every axis of an element
    quadrature   Gauss points there; None: degree + 6
    parts        a u_xx v integrated by parts once where a is a constant, so that no second derivative is taken
    width, depth, activation, net, harmonics, maps   of the net, as for gauss_newton
    weight       of conditions that are met by weight; hard: None: met by construction where they can be
    """

    elements: int | tuple[int, ...] = 4
    degree: int = 6
    quadrature: int | None = None
    parts: bool = True
    width: int = 20
    depth: int = 2
    activation: str = "tanh"
    net: str = "mlp"
    harmonics: int = 1
    maps: Mapping[str, Any] | None = None
    hard: bool | None = None
    weight: float = 10.0
    boundary: int | None = None
    optimiser: str = "gauss_newton"
    steps: int | None = None

    when = "Sources that jump or layers: integrals see what points miss, and one derivative fewer is taken."

    def suits(self, problem: Problem) -> str | None:
        space = problem.domain.space
        if not isinstance(space, Brick) or problem.dim > 3:
            return "its elements tile intervals, boxes and their products with time, of three coordinates at most."
        if problem.inverse:
            return "unknown parameters are for gauss_newton."
        if any(e.within is not None for e, _ in problem.traced):
            return "equations on a part of the domain are not for it."
        if any(leaf.place is not None for _, es in problem.traced for leaf in leaves(es)):
            return "the equation looks at other places or times."
        return None

    def blocks(self, problem: Problem, model: Ansatz, generator: torch.Generator, finer: int = 0) -> list[Block]:
        """Test integrals of the equations, and conditions that are not met by construction."""
        found = []
        for b in blocks(problem, 1000, generator, "sobol", model.hard.met, self.boundary):
            if not isinstance(b.source, Equation):
                b.weight *= self.weight
                found.append(b)
        for i, (e, rows) in enumerate(problem.traced):
            for j, row in enumerate(rows):
                name = f"equation {i + 1}.{j + 1}"
                found += self._of_row(problem, name, row, e, (self.quadrature or self.degree + 6) + finer)
        return found

    def _of_row(self, problem: Problem, name: str, row: Expression, e: Equation, n: int) -> list[Block]:
        counts = (self.elements,) * problem.dim if isinstance(self.elements, int) else tuple(self.elements)
        if len(counts) != problem.dim:
            raise Incompatible(f"elements={counts} are {len(counts)} numbers for {problem.dim} coordinates.")
        rows, along = by_parts(problem, row) if self.parts else ((row,), (None,))
        low, high = problem.domain.bounds.tolist()
        boxes = elements(low, high, counts)
        several = max(1, AT_ONCE // n**problem.dim)
        found = []
        for k in range(0, len(boxes), several):
            pieces = [[measures(box, self.degree, n, axis) for axis in along] for box in boxes[k : k + several]]
            x = torch.cat([piece[0][0] for piece in pieces])
            tables = [torch.block_diag(*(piece[r][1] for piece in pieces)) for r in range(len(rows))]
            share = e.weight * len(tables[0]) / (self.degree**problem.dim * len(boxes))
            found.append(Block(f"{name} #{k}", rows, x, {}, share, torch.stack(tables, 2), source=e))
        return found

    def _ansatz(self, problem: Problem, run: Run) -> Ansatz:
        return ansatz(
            problem, run.model, width=self.width, depth=self.depth, activation=self.activation, net=self.net,
            harmonics=self.harmonics, maps=self.maps, wanted=self.hard, seed=run.seed,
        )  # fmt: skip

    def solve(self, problem: Problem, run: Run) -> Solution:
        model = self._ansatz(problem, run)
        system = Collocation(model, self.blocks(problem, model, run.generator()))
        optimiser = optimise.get(self.optimiser)
        state, done, field = optimiser.init(system, system.theta()), 0, Model(model)
        while run.left > 0 and optimiser.status(state) is None and done != self.steps:
            state, done = optimiser.step(system, state), done + 1
            system.put(state["theta"])
            run.log({"loss": float(state["loss"]), "step": float(done)}, problem, field.jet)
        system.put(state["theta"])
        status, message = optimiser.status(state) or ("stopped" if run.stopped else "budget"), ""
        finer = Collocation(model, self.blocks(problem, model, run.generator(1), finer=self.degree))
        ratio = float(finer.value(state["theta"])) / max(float(state["loss"]), 1e-25)
        if ratio > SUSPECT:
            status = "suspect"
            message = f"With more quadrature points the loss is {ratio:.3g} times larger: raise quadrature or elements."
        chosen = {"elements": self.elements, "degree": self.degree, "rows": system.rows, "weights": system.size}
        return Solution(problem, "hp_vpinn", field, run.seed, run.used, status, message, run.history, settings=chosen)

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        model = self._ansatz(problem, run)
        model.trunk.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("trunk.")})
        return Model(model)


METHODS.register("hp_vpinn", Variational)
