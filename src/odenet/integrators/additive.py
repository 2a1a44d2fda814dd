"""Implicit-explicit Runge-Kutta methods: a pair of tableaux for y' = explicit(t, y) + implicit(t, y)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..rational import Number, exact_row, is_exact, rounded
from ..types import Carry, Params, State, Step, Time
from . import facts_implicit, newton
from .base import Facts, Integrator, Terms, advance, build, facts_of, later, verify
from .order import Residual, Sparse, refuse_unless, sparse
from .stages import transformed

Matrix: TypeAlias = tuple[tuple[Number, ...], ...]
COLOURS = ("explicit", "implicit")


@dataclass(frozen=True)
class Additive:
    """Y_i = y + h sum_{j<i} ae_ij f(t_j, Y_j) + h sum_{j<=i} ai_ij g(t_j, Y_j),  f explicit and g implicit,
    y(t + h) = y + h sum_i (be_i f(t_i, Y_i) + bi_i g(t_i, Y_i)),  t_i = t + c_i h.

    explicit:  rows of ae below the diagonal, ("", "1"); implicit: rows of ai with the diagonal, ("0", "0 1")
    b:         weights of both parts, or the pair (be, bi); b_low likewise, of an embedded method of order `order_low`
    order:     a claim about every bi-coloured rooted tree, checked at registration
    rounded:   the rationals are approximations, correct to double precision, of irrational coefficients
    Both parts have the same c_i (the row sums of ae and of ai). Raises BadInput for wrong lengths.
    """

    explicit: tuple[str, ...]
    implicit: tuple[str, ...]
    b: str | tuple[str, str]
    order: int
    b_low: str | tuple[str, str] | None = None
    order_low: int | None = None
    rounded: bool = False
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        s = len(self.explicit)
        for what, rows, first in (("explicit", self.explicit, 0), ("implicit", self.implicit, 1)):
            lengths = [len(exact_row(row)) for row in rows]
            if lengths != list(range(first, s + first)):
                raise BadInput(
                    f"row i of the {what} part has {'i' if first else 'i - 1'} entries, and both parts have {s} rows; "
                    f"got rows of length {lengths}."
                )
        for what, weights in (("b", self.b), ("b_low", self.b_low)):
            found = {len(exact_row(row)) for row in _pair(weights)} if weights is not None else {s}
            if found != {s}:
                raise BadInput(f"{what} has {sorted(found)} entries for {s} stages; write one per stage and part.")
        if (self.b_low is None) != (self.order_low is None):
            raise BadInput("b_low and order_low belong together; give both or neither.")

    def _row(self, text: str) -> tuple[Number, ...]:
        return tuple(rounded(x) if x else x for x in exact_row(text)) if self.rounded else exact_row(text)

    @cached_property
    def matrices(self) -> tuple[Matrix, Matrix]:
        """The matrices ae and ai, square."""
        s = len(self.explicit)
        return tuple(  # type: ignore[return-value]
            tuple((*(row := self._row(text)), *[Fraction(0)] * (s - len(row))) for text in rows)
            for rows in (self.explicit, self.implicit)
        )

    @cached_property
    def weights(self) -> tuple[tuple[Number, ...], ...]:
        """The weights (be, bi)."""
        return tuple(map(self._row, _pair(self.b)))

    @cached_property
    def weights_low(self) -> tuple[tuple[Number, ...], ...] | None:
        """The embedded weights, or None."""
        return None if self.b_low is None else tuple(map(self._row, _pair(self.b_low)))

    @cached_property
    def nodes(self) -> tuple[Number, ...]:
        """c, the row sums of the explicit part."""
        return tuple(sum(row, Fraction(0)) for row in self.matrices[0])

    @property
    def exact(self) -> bool:
        """Whether no coefficient is rounded."""
        numbers = [x for m in self.matrices for row in m for x in row] + [x for w in self.weights for x in w]
        return not self.rounded and all(is_exact(x) for x in numbers)

    def conditions(self, weights: Sequence[Sequence[Number]]) -> ColouredConditions:
        """The order conditions of the pair with these weights."""
        return ColouredConditions(weights, [sparse(m) for m in self.matrices])


def _pair(weights: str | tuple[str, str]) -> tuple[str, str]:
    return (weights, weights) if isinstance(weights, str) else weights


# ------------------------------------------------------------------------------------------- order conditions

ColouredTree: TypeAlias = tuple[int, tuple[Any, ...]]  # (colour of the root, its subtrees)


@cache
def coloured_trees(n: int, colours: int = 2) -> tuple[ColouredTree, ...]:
    """Rooted trees with n vertices, each of one of the colours; with two there are 2, 4, 14, 52, 214."""
    if n == 1:
        return tuple((colour, ()) for colour in range(colours))
    smaller = coloured_trees(n - 1, colours)
    return tuple(sorted({grown for tree in smaller for grown in _with_one_leaf_more(tree, colours)}))


def _with_one_leaf_more(tree: ColouredTree, colours: int) -> Iterator[ColouredTree]:
    colour, children = tree
    for leaf in range(colours):
        yield colour, tuple(sorted((*children, (leaf, ()))))
    for i, child in enumerate(children):
        for grown in _with_one_leaf_more(child, colours):
            yield colour, tuple(sorted((*children[:i], grown, *children[i + 1 :])))


@cache
def _vertices(tree: ColouredTree) -> int:
    return 1 + sum(map(_vertices, tree[1]))


@cache
def _density(tree: ColouredTree) -> int:
    return _vertices(tree) * math.prod(map(_density, tree[1]))


@cache
def _symmetry(tree: ColouredTree) -> int:
    return math.prod(_symmetry(child) ** m * math.factorial(m) for child, m in Counter(tree[1]).items())


def _show(tree: ColouredTree) -> str:
    inner = " ".join(map(_show, tree[1]))
    return "EI"[tree[0]] + (f"[{inner}]" if inner else "")


class ColouredConditions:
    """b^colour . Phi(t) = 1 / gamma(t) for every rooted tree whose vertices are explicit (E) or implicit (I).

    A vertex of colour nu enters the stage below it with the matrix of nu (Hairer et al. I, section II.15; Kennedy &
    Carpenter 2003, section 2).
    """

    def __init__(self, weights: Sequence[Sequence[Number]], rows: Sequence[Sparse]) -> None:
        self._weights, self._rows = weights, rows
        self._stages: dict[ColouredTree, list[Any]] = {}

    def of_order(self, q: int) -> Iterator[Residual]:
        """The conditions of all trees with q vertices."""
        for tree in coloured_trees(q, len(self._rows)):
            phi = self._stage_values(tree)
            value = sum((b * v for b, v in zip(self._weights[tree[0]], phi) if b and v), Fraction(0))
            yield Residual(f"the tree {_show(tree)}", value, Fraction(1, _density(tree)), _symmetry(tree))

    def _stage_values(self, tree: ColouredTree) -> list[Any]:
        if tree not in self._stages:
            values: list[Any] = [Fraction(1)] * len(self._weights[0])
            for child in tree[1]:
                inner = self._stage_values(child)
                sums = [sum((a * inner[j] for j, a in row), Fraction(0)) for row in self._rows[child[0]]]
                values = [v * s for v, s in zip(values, sums)]
            self._stages[tree] = values
        return self._stages[tree]


# ------------------------------------------------------------------------------------------------ the two parts


class Part:
    """One part of a split right-hand side as a right-hand side of its own: the same counts, a workspace of its own."""

    def __init__(self, f: Any, name: str) -> None:
        self.name, self._f, self._call = name, f, getattr(f, name)
        self.counts = getattr(f, "counts", Counter())
        self.tolerance = getattr(f, "tolerance", None)
        self.tape = getattr(f, "tape", None)
        self.workspace: dict[str, Any] = getattr(f, "workspace", {}).setdefault(name, {})
        closed = getattr(f, "mask", None) is None  # a dropout mask would multiply rows of the Jacobian
        self._known = getattr(getattr(f, "field", f), f"{name}_jacobian", None) if closed else None
        self.jacobian = None if self._known is None else self._jacobian

    def __call__(self, t: Time, y: State) -> State:
        return self._call(t, y)

    def _jacobian(self, t: Time, y: State) -> Tensor:
        assert self._known is not None
        return self._known(t, y, weights_of(self._f, t))


def weights_of(f: Any, t: Time) -> Params:
    """The weights of a right-hand side at t; {} of one that has none."""
    ask = getattr(f, "weights", None)
    return {} if ask is None else ask(t)


def implicit_matrix(f: Any, t: Time, y: State) -> Tensor | None:
    """L, (D, D) or (D,), where the field says that its implicit part is L y along the last axis; else None."""
    ask = getattr(getattr(f, "field", f), "implicit_matrix", None)
    if ask is None or getattr(f, "mask", None) is not None:
        return None
    return ask(weights_of(f, t), y)


def closed_solve(f: Any) -> Any:
    """implicit_solve(scale, y, p) = (I - scale G)^-1 y of a field whose implicit part is G y, else None."""
    return None if getattr(f, "mask", None) is not None else getattr(getattr(f, "field", f), "implicit_solve", None)


def factors_of(f: Any, matrix: Tensor, scale: Time, step: dict[str, Any]) -> dict[str, Any]:
    """What was made of (L, scale) before: in this step, or in the run where no gradient goes through it.

    step: the memory of the step; new entries are made by the caller
    """
    differentiated = transformed() or (torch.is_grad_enabled() and matrix.requires_grad)
    lasting = not isinstance(scale, Tensor) and not differentiated
    memory = getattr(f, "workspace", step) if lasting else step
    known = memory.setdefault("factors", [])
    for m, s, found in known:
        if m is matrix and (s is scale or (lasting and s == scale)):
            return found
    known[:] = [*known[-3:], (matrix, scale, {})]
    return known[-1][2]


def solve_shifted(matrix: Tensor, scale: Time, y: State, memory: dict[str, Any]) -> State:
    """(I - scale L)^-1 y along the last axis; scale is a number, or a tensor with one entry per sample."""
    if matrix.dim() == 1:
        return y / (1 - scale * matrix)
    if "lu" not in memory:
        shift = scale.reshape(-1, 1, 1) if isinstance(scale, Tensor) and scale.dim() else scale
        unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        memory["lu"] = torch.linalg.lu_factor_ex(unit - shift * matrix)[:2]
    factors = memory["lu"]
    rows = y.reshape(factors[0].shape[0] if factors[0].dim() == 3 else 1, -1, y.shape[-1])
    return torch.linalg.lu_solve(*factors, rows.mT).mT.reshape(y.shape)


# ----------------------------------------------------------------------------------------------------- engine


class AdditiveRungeKutta(Integrator):
    """Engine of an `Additive` method.

    The slopes of implicit stages are found by Newton's iteration, or by one linear solve where the field says that its
    implicit part is L y. What is not read later is not evaluated. Stiff modes that are driven reduce the order towards
    the stage order: on Prothero & Robinson's problem ars222 to 1 (with a constant as small as 1/stiffness), ars343 and
    kencarp3 to 2, kencarp4 to about 3.
    """

    needs = frozenset({"split"})
    implicit = True

    def __init__(self, method: Additive) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.adaptive = method.weights_low is not None
        self.stages = len(method.explicit)
        explicit, implicit = method.matrices
        self._c = [float(c) for c in method.nodes]
        self._gamma = [float(implicit[i][i]) for i in range(self.stages)]
        self._rows = [(_terms(explicit[i]), _terms(implicit[i][:i])) for i in range(self.stages)]
        self._b = _both(method.weights)
        low = method.weights_low or method.weights
        self._d = _both([[x - x_low for x, x_low in zip(*pair)] for pair in zip(method.weights, low)])
        self._reads = tuple({j for row in (*self._rows, self._b, self._d) for j, _ in row[part]} for part in (0, 1))

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step from (t, y)."""
        stages = _Slopes(f, h, y)
        for i, (row, gamma) in enumerate(zip(self._rows, self._gamma)):
            at, state, slope = later(t, self._c[i], h), stages.combine(y, row), None
            if gamma:
                slope = stages.solve(at, state, gamma)
                state = advance(state, h, [(0, gamma)], [slope])
            elif i in self._reads[1]:
                slope = f.implicit(at, state)
            stages.implicit.append(slope)
            stages.explicit.append(f.explicit(at, state) if i in self._reads[0] else None)
        error = stages.combine(torch.zeros_like(y), self._d) if self.adaptive else None
        first = (stages.explicit[0], stages.implicit[0])
        slopes = () if None in first or self._gamma[0] else (first[0] + first[1],)
        return Step(stages.combine(y, self._b), error, (), slopes)


class _Slopes:
    """The slopes of both parts at the stages of one step; None where one is not needed."""

    def __init__(self, f: Any, h: Time, y: State) -> None:
        self.f, self.h, self.y = f, h, y
        self.explicit: list[Any] = []
        self.implicit: list[Any] = []
        self._stiff: Part | None = None
        self._memory: dict[str, Any] = {}
        self._scales: dict[float, Time] = {}

    def combine(self, y: State, row: Sequence[Terms]) -> State:
        """y + h sum ae_j f_j + h sum ai_j g_j."""
        return advance(advance(y, self.h, row[0], self.explicit), self.h, row[1], self.implicit)

    def solve(self, t: Time, known: State, gamma: float) -> State:
        """k = g(t, known + h gamma k)."""
        closed = closed_solve(self.f)
        if closed is not None:
            return closed(self.h * gamma, self.f.implicit(t, known), weights_of(self.f, t))
        matrix = implicit_matrix(self.f, t, known)
        if matrix is not None:
            if gamma not in self._scales:
                self._scales[gamma] = (self.h.to(known.dtype) if isinstance(self.h, Tensor) else self.h) * gamma
            scale = self._scales[gamma]
            memory = factors_of(self.f, matrix, scale, self._memory)
            if matrix.dim() == 2 and "lu" not in memory:
                getattr(self.f, "counts", Counter())["lu"] += 1
            return solve_shifted(matrix, scale, known * matrix if matrix.dim() == 1 else known @ matrix.mT, memory)
        stiff = self._stiff = self._stiff or Part(self.f, "implicit")
        start = next((k.unsqueeze(0) for k in reversed(self.implicit) if k is not None), None)
        return newton.solve(newton.Stages(stiff, (t,), known.unsqueeze(0), self.h, ((gamma,),), self.y), start)[0]


def _terms(row: Sequence[Number]) -> Terms:
    return [(j, float(a)) for j, a in enumerate(row) if a]


def _both(rows: Sequence[Sequence[Number]]) -> tuple[Terms, ...]:
    return tuple(map(_terms, rows))


@build.register
def _(data: Additive) -> AdditiveRungeKutta:
    return AdditiveRungeKutta(data)


@verify.register
def _(integrator: AdditiveRungeKutta) -> None:
    method, who = integrator.method, integrator.title
    explicit, implicit = (tuple(sum(row, Fraction(0)) for row in m) for m in method.matrices)
    for i, (x, z) in enumerate(zip(explicit, implicit)):
        if x - z:
            raise ClaimRefused(
                f"stage {i} of {who} lies at c = {float(x):.10g} for the explicit and {float(z):.10g} for the implicit "
                "part; both rows have the same sum."
            )
    refuse_unless(who, method.order, method.conditions(method.weights).of_order)
    if method.weights_low is not None and method.order_low is not None:
        refuse_unless(f"the embedded method of {who}", method.order_low, method.conditions(method.weights_low).of_order)


@facts_of.register
def _(integrator: AdditiveRungeKutta) -> Facts:
    """Stability and stage order are those of the implicit part alone; the new point is the last stage in both parts."""
    method = integrator.method
    (explicit, implicit), (b_explicit, b_implicit) = method.matrices, method.weights
    residuals = method.conditions(method.weights).of_order(method.order + 1)
    p, q = facts_implicit.stability_fraction(implicit, b_implicit)
    a_stable = facts_implicit.a_stable(p, q, method.order)
    pairs = [*zip(explicit[-1], b_explicit), *zip(implicit[-1], b_implicit)]
    return Facts(
        order=method.order,
        order_low=method.order_low,
        stages=integrator.stages,
        exact=method.exact,
        error_constant=math.sqrt(math.fsum(r.weighted**2 for r in residuals)),
        zero_stable=True,
        real_interval=facts_implicit.real_interval(p, q),
        imag_interval=facts_implicit.imaginary_interval(p, q, method.order),
        a_stable=a_stable,
        l_stable=a_stable and facts_implicit.at_infinity(p, q) == 0.0,
        stiffly_accurate=not any(x - y for x, y in pairs),
        stage_order=facts_implicit.stage_order(implicit, b_implicit, method.nodes),
    )
