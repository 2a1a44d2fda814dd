"""Exponential Runge-Kutta methods: the linear part exactly, by functions phi_k of it; the rest explicitly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import BadInput, ClaimRefused, Incompatible
from ..rational import Number, exact_row, is_exact
from ..types import Carry, Params, State, Step, Time
from .base import Facts, Integrator, build, facts_of, later, verify
from .exponential_order import ColouredConditions, Combination, LinearisedConditions, combination, coupling, surplus
from .jacobian import Blocks
from .linearise import from_real, in_real, linearise, matched
from .observe import PHASES, observed_order
from .order import refuse_unless
from .phi import phi, phi_matrix

KEPT = 8  # step sizes whose functions of h L are kept at once


@dataclass(frozen=True)
class Exponential:
    """U_i = e^(c_i z) y + h sum_j a_ij(z) N(t + c_j h, U_j), the new state likewise with b and c = 1, z = h L.

    For y' = L y + N(t, y), or with L = df/dy(t, y) at every step (Hochbruck & Ostermann 2010).

    c:       stage times, 0 first, rational
    a:       rows below the diagonal, entries such as "1/2*phi1(1/2)", "phi1(1) - phi1(1/2)" or "0", where phi2(1/2)
             stands for phi_2(z/2); sum_j a_ij(z) = c_i phi_1(c_i z)
    b:       weights in the same notation, with sum phi_1(z); b_low those of an embedded method of order `order_low`
    order:   a claim, checked at registration, as is order_low
    about:   "linear", L the part that the right-hand side offers; "jacobian", L = df/dy(t, y)
    Raises BadInput for other notations and lengths.
    """

    c: str
    a: tuple[tuple[str, ...], ...]
    b: tuple[str, ...]
    order: int
    about: Literal["linear", "jacobian"] = "linear"
    b_low: tuple[str, ...] | None = None
    order_low: int | None = None
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        s = len(self.b)
        if [len(row) for row in self.a] != list(range(s)) or len(exact_row(self.c)) != s or exact_row(self.c)[0]:
            raise BadInput(f"{s} weights come with {s} stage times, the first 0, and i - 1 entries in row i of a..")
        if not all(isinstance(c, Fraction) for c in exact_row(self.c)):
            raise BadInput(f"stage times of an exponential method are rational; got {self.c!r}.")
        if (self.b_low is None) != (self.order_low is None) or (self.b_low is not None and len(self.b_low) != s):
            raise BadInput(f"b_low has {s} entries and comes with order_low; give both or neither.")
        if self.about not in ("linear", "jacobian") or (self.about == "jacobian" and self.order > 4):
            raise BadInput(f'about is "linear", or "jacobian" with order 4 at most; got {self.about!r}, {self.order}.')
        _ = self.weights, self.matrix, self.weights_low

    @cached_property
    def nodes(self) -> tuple[Number, ...]:
        """c."""
        return exact_row(self.c)

    @cached_property
    def matrix(self) -> tuple[tuple[Combination, ...], ...]:
        """a, rows below the diagonal."""
        return tuple(tuple(combination(x) for x in row) for row in self.a)

    @cached_property
    def weights(self) -> tuple[Combination, ...]:
        """b."""
        return tuple(combination(x) for x in self.b)

    @cached_property
    def weights_low(self) -> tuple[Combination, ...] | None:
        """b_low, or None."""
        return None if self.b_low is None else tuple(combination(x) for x in self.b_low)

    @property
    def exact(self) -> bool:
        """Whether no coefficient is a rounded decimal."""
        rows = (*self.matrix, self.weights, self.weights_low or ())
        return all(is_exact(w) for row in rows for entry in row for w in entry.values())

    def conditions(self, weights: tuple[Combination, ...]) -> LinearisedConditions | ColouredConditions:
        """The order conditions of the method with these weights."""
        kind = LinearisedConditions if self.about == "jacobian" else ColouredConditions
        return kind(weights, self.matrix, self.nodes)

    @property
    def stiff_order(self) -> int:
        """Order on parabolic problems whatever the size of L, at most 3 (Hochbruck & Ostermann 2005).

        With L = df/dy it equals the order.
        """
        if self.about == "jacobian":
            return self.order
        for q in (1, 2, 3):
            if any(surplus(self.weights, self.nodes, q).values()):
                return q - 1
        return 2 if any(coupling(self.weights, self.matrix, self.nodes).values()) else 3


class ExponentialRungeKutta(Integrator):
    """Engine of an `Exponential` method, in deviations from the linearisation, which keeps equilibria:

    U_i = y + c_i h phi_1(c_i z) f(t, y) + h sum_{j>1} a_ij(z) D_j,  D_j = N(t + c_j h, U_j) - N(t, y),
    and with L = df/dy also c_i^2 h^2 phi_2(c_i z) df/dt. On y' = L y every step is exact. The functions of h L stay in
    the workspace of f while L and h are the same, unless a derivative with respect to L is taken. With L = df/dy a
    complex state is stepped as real and imaginary part where f does not offer its Jacobian, so f need not be
    analytic. Raises Incompatible for an L that does not fit the state, or a block of df/dy too large for a matrix.
    """

    def __init__(self, method: Exponential) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.stages = len(method.b)
        self.adaptive = method.b_low is not None
        self.needs = frozenset({"linear"}) if method.about == "linear" else frozenset()
        if method.about == "jacobian":
            self.stability_function = torch.exp
            self.implicit = True  # as to stiffness: no step size is too long for stability
        self._c = [float(c) for c in method.nodes]
        self._table = _table(method)

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step; the carry is not used, since every step starts afresh."""
        if self.method.about == "linear":
            return self._about_linear(f, t, y, h)
        if y.is_complex() and getattr(f, "jacobian", None) is None:
            return from_real(self.step(*in_real(f, t, y, h), (), coef), y)
        return self._about_jacobian(f, t, y, h)

    def _about_linear(self, f: Any, t: Time, y: State, h: Time) -> Step:
        linear, size = _fitting(f.linear(), y), matched(h, y)
        functions = self._functions(linear, size, getattr(f, "workspace", {}))
        start = f.nonlinear(t, y)

        def deviation(i: int, u: State) -> State:
            return size * (f.nonlinear(later(t, self._c[i], h), u) - start)

        diagonal = linear.dim() == 1
        slope = _along_last(linear.to(y.dtype), y, diagonal) + start
        stages = _Stages(functions, lambda m, v: _along_last(m.to(y.dtype), v, diagonal), y, size * slope)
        return self._assemble(stages, slope, deviation)

    def _about_jacobian(self, f: Any, t: Time, y: State, h: Time) -> Step:
        here, size = linearise(f, t, y, h), matched(h, y)
        blocks, bend = here.jacobian, size * here.drift

        def deviation(i: int, u: State) -> State:  # h D, since the blocks hold h J
            value = size * (f(later(t, self._c[i], h), u) - here.slope)
            return value - blocks.apply(u - y) - self._c[i] * bend

        functions = Functions(self._table, lambda c, k: phi_matrix(c * blocks.matrix, k))
        stages = _Stages(functions, lambda m, v: Blocks(m).apply(v), y, size * here.slope, bend)
        return self._assemble(stages, here.slope, deviation)

    def _assemble(self, stages: _Stages, slope: State, deviation: Callable[[int, State], State]) -> Step:
        for i in range(1, self.stages):
            stages.deviations.append(deviation(i, stages.at(i)))
        error = stages.beyond_linear(self.stages + 1) if self.adaptive else None
        return Step(stages.at(self.stages), error, (), (slope,))

    def _functions(self, linear: Tensor, h: Time, workspace: dict[Any, Any]) -> Functions:
        """Those of h L, kept for the next step where that cannot cut a derivative."""
        constant = isinstance(h, float | int) and _is_constant(linear)
        kept = workspace.setdefault("phi", {}) if constant else {}
        known = kept.get((self.method, h)) if constant else None
        if known is not None and known[0].shape == linear.shape and torch.equal(known[0], linear):
            return known[1]
        made = Functions(self._table, lambda c, k: _phi_of(linear, c, h, k))
        if constant and all(map(_is_constant, made.weights.values())):
            if len(kept) >= KEPT:
                kept.clear()
            kept[self.method, h] = (linear.clone(), made)  # a copy: weights change in place
        return made


Table: TypeAlias = dict[tuple[int, int], tuple[tuple[float, int, float], ...]]


def _table(method: Exponential) -> Table:
    """What stage i takes of term j, as triples (c, k, w) of w phi_k(c z).

    Stage s is the new state and s + 1 the error estimate; term 0 is h f(t, y), j > 0 is h D_j and -1 is h^2 df/dt.
    """
    s, low = len(method.b), method.weights_low or method.weights
    rows = [*method.matrix, method.weights, tuple(_minus_of(b, b_low) for b, b_low in zip(method.weights, low))]
    table: Table = {}
    for i, row in enumerate(rows):
        if 0 < i <= s:
            c = float(method.nodes[i]) if i < s else 1.0
            table[i, 0] = ((c, 1, c),)
            if method.about == "jacobian":
                table[i, -1] = ((c, 2, c * c),)
        for j, entry in enumerate(row[1:], 1):
            if terms := tuple((float(c), k, float(w)) for (k, c), w in entry.items() if w):
                table[i, j] = terms
    return table


def _minus_of(left: Combination, right: Combination) -> Combination:
    return {key: left.get(key, Fraction(0)) - right.get(key, Fraction(0)) for key in left.keys() | right.keys()}


class Functions:
    """The weights of a table at one z: matrices, or the entries of diagonal ones."""

    def __init__(self, table: Table, evaluate: Callable[[float, int], tuple[Tensor, ...]]) -> None:
        highest: dict[float, int] = {}
        for c, k, _ in (term for terms in table.values() for term in terms):
            highest[c] = max(k, highest.get(c, 0))
        values = {c: evaluate(c, k) for c, k in highest.items()}
        self.weights = {key: _sum([w * values[c][k] for c, k, w in terms]) for key, terms in table.items()}


def _sum(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class _Stages:
    """The stages of one step, made one by one from h times the slope, h^2 df/dt and the deviations h D_j."""

    functions: Functions
    apply: Callable[[Tensor, State], State]
    y: State
    push: State
    bend: State | None = None
    deviations: list[State] = field(default_factory=list)

    def at(self, i: int) -> State:
        """U_i."""
        u = self.y + self.apply(self.functions.weights[i, 0], self.push)
        if self.bend is not None:
            u = u + self.apply(self.functions.weights[i, -1], self.bend)
        rest = self.beyond_linear(i)
        return u if rest is None else u + rest

    def beyond_linear(self, i: int) -> State | None:
        """sum_{j>1} of the weights of row i on the deviations."""
        weights = self.functions.weights
        parts = [self.apply(weights[i, j], d) for j, d in enumerate(self.deviations, 1) if (i, j) in weights]
        return _sum(parts) if parts else None


def _phi_of(linear: Tensor, c: float, h: Time, highest: int) -> tuple[Tensor, ...]:
    if linear.dim() == 1:
        return phi((c * h) * linear, highest)
    return phi_matrix((c * h.unsqueeze(-1) if isinstance(h, Tensor) and h.dim() else c * h) * linear, highest)


def _along_last(matrix: Tensor, v: State, diagonal: bool) -> State:
    """The matrix, one or one per sample, on the last axis of v."""
    if diagonal:
        return matrix * v
    return v @ matrix.T if matrix.dim() == 2 else (matrix @ v.unsqueeze(-1)).squeeze(-1)


def _is_constant(x: Tensor) -> bool:
    """Whether no derivative can be taken with respect to x, and no transform of torch.func wraps it."""
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return not x.requires_grad and forward_ad.unpack_dual(x).tangent is None


def _fitting(linear: Tensor, y: State) -> Tensor:
    if linear.dim() not in (1, 2) or linear.shape[-1] != y.shape[-1] or linear.shape[0] != linear.shape[-1]:
        raise Incompatible(
            f"the linear part of an exponential method acts on the last axis of the state, of width {y.shape[-1]}; "
            f"give a diagonal of that length or a square matrix, got the shape {tuple(linear.shape)}."
        )
    if linear.is_complex() and not y.is_complex():
        raise Incompatible("the linear part is complex and the state is real; start from a complex y0.")
    return linear


@build.register
def _(data: Exponential) -> ExponentialRungeKutta:
    return ExponentialRungeKutta(data)


@verify.register
def _(integrator: ExponentialRungeKutta) -> None:
    method, who = integrator.method, integrator.title
    refuse_unless(who, method.order, method.conditions(method.weights).of_order)
    if method.weights_low is not None and method.order_low is not None:
        low = method.conditions(method.weights_low)
        refuse_unless(f"the embedded method of {who}", method.order_low, low.of_order)
    seen = observed_order(integrator, ForcedReaction(), finest=32)
    if not abs(seen - method.order) <= 0.1:
        raise ClaimRefused(f"{who} claims order {method.order}, but halving the step shows order {seen:.2f}.")


@facts_of.register
def _(integrator: ExponentialRungeKutta) -> Facts:
    """With all of the test equation in the linear part; stage_order is the order at any size of L."""
    method = integrator.method
    return Facts(
        order=method.order,
        order_low=method.order_low,
        stages=integrator.stages,
        exact=method.exact,
        zero_stable=True,
        real_interval=math.inf,
        imag_interval=math.inf,
        a_stable=True,
        l_stable=True,
        stage_order=method.stiff_order,
    )


class ForcedReaction:
    """y' = L y + N(t, y) with solution g(t) = (sin s, cos s) / 2 + (0, 1), s = t + phase; y has shape (8, 2).

    N = g' - L g + (5/2) (sin y* - sin g*), y* being y with its components exchanged: neither part commutes.
    """

    matrix = torch.tensor([[-2.0, 1.0], [0.5, -3.0]], dtype=torch.float64)

    def exact(self, t: Time) -> Tensor:
        s = t + PHASES
        return torch.stack((torch.sin(s) / 2, torch.cos(s) / 2 + 1), -1)

    def linear(self) -> Tensor:
        return self.matrix

    def nonlinear(self, t: Time, y: State) -> State:
        g, s = self.exact(t), t + PHASES
        rate = torch.stack((torch.cos(s), -torch.sin(s)), -1) / 2
        return rate - g @ self.matrix.T + 2.5 * (torch.sin(y.flip(-1)) - torch.sin(g.flip(-1)))

    def __call__(self, t: Time, y: State) -> State:
        return y @ self.matrix.T + self.nonlinear(t, y)

    def jacobian(self, t: Time, y: State) -> Tensor:
        return self.matrix + 2.5 * torch.diag_embed(torch.cos(y.flip(-1))).flip(-1)
