"""Explicit Runge-Kutta methods: one engine over a tableau of exact numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..rational import Number, Rounded, exact_row, is_exact
from ..types import Carry, Params, State, Step, Time
from .base import Integrator, Terms, advance, build, later, verify
from .dense import Polynomials, Theta, between
from .order import Residual, TreeConditions, density, refuse_unless, show, sparse, trees


@dataclass(frozen=True)
class Tableau:
    """k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j),  y(t + h) = y + h sum_i b_i k_i,  c_i = sum_j a_ij.

    a:           rows below the diagonal, numbers separated by blanks: ("", "1", "1/4 1/4")
    b:           weights; b_low those of an embedded method of order `order_low`, for the error estimate
    order:       a claim, checked at registration
    b_third:     weights of a second embedded method, of order `order_third` < order_low. The estimate is then
                 e |e| / sqrt(|e|^2 + |e_third|^2 / 100), which scales like h^(2 order_low + 1 - order_third)
    dense:       p_i1 p_i2 ... for every stage: y(t + theta h) = y + h sum_i (p_i1 theta + p_i2 theta^2 + ...) k_i,
                 of order `order_dense` at every theta, checked at registration
    a_dense:     rows of further stages that only `dense` uses, evaluated on demand
    polynomial:  optional claim about stability, the coefficients of R(z) upwards: "1 1 1" is 1 + z + z^2
    Numbers are rationals "19372/6561", roots "sqrt(3)/6" or decimals. BadInput for wrong lengths.
    """

    a: tuple[str, ...]
    b: str
    order: int
    b_low: str | None = None
    order_low: int | None = None
    cite: str = ""
    when: str = ""
    polynomial: str | None = None
    b_third: str | None = None
    order_third: int | None = None
    dense: tuple[str, ...] | None = None
    order_dense: int | None = None
    a_dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = [len(exact_row(row)) for row in (*self.a, *self.a_dense)]
        if lengths != list(range(len(lengths))):
            raise BadInput(
                f"row i of an explicit tableau has i entries, starting with an empty row; got rows of length {lengths}."
            )
        for what, row in (("b", self.b), ("b_low", self.b_low), ("b_third", self.b_third)):
            if row is not None and len(exact_row(row)) != len(self.a):
                raise BadInput(
                    f"{what} has {len(exact_row(row))} entries for {len(self.a)} stages; write one per stage."
                )
        if (self.b_low is None) != (self.order_low is None):
            raise BadInput("b_low and order_low belong together; give both or neither.")
        if (self.b_third is None) != (self.order_third is None) or (self.b_third and not self.b_low):
            raise BadInput("b_third and order_third belong together and to b_low; give all or none of them.")
        self._check_dense()

    def _check_dense(self) -> None:
        if (self.dense is None) != (self.order_dense is None) or (self.a_dense and self.dense is None):
            raise BadInput("dense and order_dense belong together, and a_dense to them; give all or none of them.")
        widths = {len(exact_row(row)) for row in self.dense or ("0",)}
        if self.dense is not None and (len(self.dense) != len(self.a) + len(self.a_dense) or len(widths) > 1):
            raise BadInput(
                f"dense has {len(self.dense)} rows of {sorted(widths)} entries for {len(self.a) + len(self.a_dense)} "
                "stages; write one row per stage, all of one length, starting with the coefficient of theta."
            )

    @cached_property
    def matrix(self) -> tuple[tuple[Number, ...], ...]:
        """A, square, zeros filled in."""
        s = len(self.a)
        return tuple(exact_row(row) + (Fraction(0),) * (s - i) for i, row in enumerate(self.a))

    @cached_property
    def weights(self) -> tuple[Number, ...]:
        """b."""
        return exact_row(self.b)

    @cached_property
    def weights_low(self) -> tuple[Number, ...] | None:
        """b_low, or None."""
        return None if self.b_low is None else exact_row(self.b_low)

    @cached_property
    def weights_third(self) -> tuple[Number, ...] | None:
        """b_third, or None."""
        return None if self.b_third is None else exact_row(self.b_third)

    @cached_property
    def matrix_dense(self) -> tuple[tuple[Number, ...], ...]:
        """A with the stages of dense output, square."""
        rows = (*self.a, *self.a_dense)
        return tuple(exact_row(row) + (Fraction(0),) * (len(rows) - i) for i, row in enumerate(rows))

    @cached_property
    def polynomials(self) -> tuple[tuple[Number, ...], ...]:
        """p_i1, p_i2, ... for every stage; empty without dense output."""
        return tuple(exact_row(row) for row in self.dense or ())

    @cached_property
    def nodes(self) -> tuple[Number, ...]:
        """c, the row sums; one that is a short fraction up to the digits given becomes that fraction."""
        return tuple(nearest_fraction(sum(row, Fraction(0))) for row in self.matrix)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is f at the new point, so that the next step has its first slope free."""
        return len(self.a) > 1 and self.matrix[-1][:-1] == self.weights[:-1] and not self.weights[-1]

    @property
    def order_of_error(self) -> int | None:
        """p where the error estimate scales like h^p and p is not order_low + 1: with a second embedded method."""
        if self.order_low is None or self.order_third is None:
            return None
        return 2 * self.order_low + 1 - self.order_third

    @property
    def exact(self) -> bool:
        """Whether no coefficient is a rounded decimal."""
        numbers = [x for row in (*self.matrix, self.weights, self.weights_low or ()) for x in row]
        return all(is_exact(x) for x in numbers)

    def conditions(self, weights: tuple[Number, ...]) -> TreeConditions:
        """The order conditions of the method with these weights."""
        return TreeConditions([weights], [sparse(self.matrix)])

    def dense_conditions(self) -> Callable[[int], Iterator[Residual]]:
        """sum_i b_i(theta) Phi_i(tree) = theta^q / gamma(tree) for all trees with q vertices, power by power."""
        columns = [*zip(*self.polynomials)]
        weights = self.weights + (Fraction(0),) * len(self.a_dense)
        stages = TreeConditions([weights], [sparse(self.matrix_dense)])

        def of_order(q: int) -> Iterator[Residual]:
            if q == 1:  # at theta = 1 it is the step itself
                for i, (row, b) in enumerate(zip(self.polynomials, weights)):
                    yield Residual(f"stage {i + 1} at theta = 1", sum(row, -b), Fraction(0))
            for tree in trees(q):
                for j, column in enumerate(columns, start=1):
                    wanted = Fraction(int(j == q), density(tree))
                    yield Residual(f"theta^{j} on the tree {show(tree)}", stages.weigh(column, tree), wanted)

        return of_order

    def stability_polynomial(self) -> list[Any]:
        """Coefficients of R(z) = 1 + z b (I - z A)^{-1} 1, from the constant upwards: b A^j 1."""
        vector: list[Any] = [Fraction(1)] * len(self.a)
        coefficients: list[Any] = [Fraction(1)]
        for _ in self.a:
            coefficients.append(_dot(self.weights, vector))
            vector = [_dot(row, vector) for row in self.matrix]
        while not coefficients[-1]:
            coefficients.pop()
        return coefficients


class RungeKutta(Integrator):
    """Explicit Runge-Kutta engine of a `Tableau`.

    The carry is (k,), the slope at the new point, for FSAL methods, else (). Any explicit method accepts a
    known first slope as carry.
    """

    def __init__(self, tableau: Tableau) -> None:
        self.tableau = tableau
        self.order, self.cite, self.when = tableau.order, tableau.cite, tableau.when
        self.adaptive = tableau.weights_low is not None
        self.stages = len(tableau.a) - tableau.fsal
        rows = [(float(c), _terms(row)) for c, row in zip(tableau.nodes, tableau.matrix)]
        self._rows = rows[1 : self.stages]
        self._b = _terms(tableau.weights)
        low = tableau.weights_low or tableau.weights
        self._d = _terms([b - b_hat for b, b_hat in zip(tableau.weights, low)])
        third = tableau.weights_third
        self._d_third = _terms([b - b_third for b, b_third in zip(tableau.weights, third)]) if third else None
        self._error_order = tableau.order_of_error
        self._fsal = tableau.fsal
        dense = [[float(p) for p in row] for row in tableau.polynomials]
        self._dense = Polynomials(dense) if dense else None
        more = tableau.matrix_dense[len(rows) :]
        self._more = [(float(nearest_fraction(sum(row, Fraction(0)))), _terms(row)) for row in more]

    def step(
        self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None, estimate: bool = True
    ) -> Step:
        """One step; `estimate=False` leaves out the error and the stage that only it and later steps use."""
        k = [carry[0] if carry else f(t, y)]
        moved = _advancing(h)
        for c, row in self._rows:
            k.append(f(later(t, c, h), moved(y, h, row, k)))
        new = moved(y, h, self._b, k)
        if not (estimate and self.adaptive):
            return Step(new, None, (), tuple(k))
        if self._fsal:
            k.append(f(t + h, new))
        error = _error(h, self._d, k)
        if self._d_third:
            error = _damped(error, _error(h, self._d_third, k), y, new, h, getattr(f, "tolerance", None))
        return Step(new, error, (k[-1],) if self._fsal else (), tuple(k), self._error_order)

    def dense(self, f: Any, t: Time, h: Time, y0: State, step: Step, theta: Theta) -> State:
        """y(t + theta h) by the method's polynomial, else by the cubic of both ends; see `interpolate`."""
        k = self.completed(f, t, h, y0, step).slopes
        if self._dense is not None:
            return self._dense.value(y0, h, k, theta)
        return between(self, h, y0, k[0], step.y, k[-1], theta)

    def completed(self, f: Any, t: Time, h: Time, y0: State, step: Step) -> Step:
        """`step` with all slopes that dense output uses, so that many calls of `interpolate` cost no evaluation."""
        k = list(step.slopes or self.step(f, t, y0, h, (), None).slopes)
        stages = len(self.tableau.a)
        if len(k) < stages or (self._dense is None and not self._fsal and len(k) == stages):
            k.append(step.carry[0] if step.carry else f(t + h, step.y))
        for c, row in self._more[len(k) - stages :]:
            k.append(f(later(t, c, h), advance(y0, h, row, k)))
        return step._replace(slopes=tuple(k))


def _advancing(h: Time) -> Callable[[State, Time, Terms, list[State]], State]:
    """`advance`; bit by bit the same, but in place where autograd does not look on."""
    return advance if isinstance(h, Tensor) or torch.is_grad_enabled() else _advance_in_place


def _advance_in_place(y: State, h: Any, terms: Terms, k: list[State]) -> State:
    if not terms:
        return y
    (i, b), *rest = terms
    if not rest:
        return torch.mul(k[i], h * b).add_(y)
    new = torch.add(y, k[i], alpha=h * b)
    for i, b in rest:
        new.add_(k[i], alpha=h * b)
    return new


def _error(h: Time, terms: Terms, k: list[State]) -> State:
    i, d = terms[0]
    first = ((h.to(k[i].dtype) if isinstance(h, Tensor) else h) * d) * k[i]
    return _advancing(h)(first, h, terms[1:], k)


def _damped(error: State, third: State, y: State, new: State, h: Time, tolerance: tuple[float, float] | None) -> State:
    """e |e| / sqrt(|e|^2 + |e_third|^2 / 100) in the norm of the tolerance, over each sample that has its own h."""
    with torch.no_grad():
        rtol, atol = tolerance or (0.0, 1.0)
        scale = torch.maximum(y.abs(), new.abs()).mul(rtol).add(atol)
        axes = tuple(range(1, y.dim())) if isinstance(h, Tensor) and h.dim() else None
        e, e_third = (torch.linalg.vector_norm(x / scale, dim=axes, keepdim=axes is not None) for x in (error, third))
        both = torch.hypot(e, 0.1 * e_third)
        share = torch.where(both > 0, e / both, 1.0)
    return error * share


def _terms(row: Any) -> tuple[tuple[int, float], ...]:
    return tuple((j, float(a)) for j, a in enumerate(row) if a)


def _dot(row: Any, vector: Any) -> Any:
    return sum((a * v for a, v in zip(row, vector) if a), Fraction(0))


def nearest_fraction(x: Number, largest: int = 1000) -> Number:
    """A rounded number that a fraction with a denominator up to `largest` explains is that fraction."""
    if not isinstance(x, Rounded):
        return x
    near = Fraction(x.value).limit_denominator(largest)
    return near if abs(float(near) - x.value) <= x.radius else x


@build.register
def _(data: Tableau) -> RungeKutta:
    return RungeKutta(data)


@verify.register
def _(integrator: RungeKutta) -> None:
    tableau, who = integrator.tableau, integrator.title
    refuse_unless(who, tableau.order, tableau.conditions(tableau.weights).of_order)
    if tableau.weights_low is not None and tableau.order_low is not None:
        low = tableau.conditions(tableau.weights_low)
        refuse_unless(f"the embedded method of {who}", tableau.order_low, low.of_order)
    if tableau.weights_third is not None and tableau.order_third is not None:
        third = tableau.conditions(tableau.weights_third)
        refuse_unless(f"the second embedded method of {who}", tableau.order_third, third.of_order)
    if tableau.order_dense is not None:
        refuse_unless(f"the dense output of {who}", tableau.order_dense, tableau.dense_conditions())
    if tableau.polynomial is not None:
        claimed, derived = list(exact_row(tableau.polynomial)), tableau.stability_polynomial()
        if len(claimed) != len(derived) or any(x - y for x, y in zip(claimed, derived)):
            raise ClaimRefused(
                f"{who} claims R(z) with coefficients {tableau.polynomial}, but its tableau gives "
                f"{' '.join(f'{float(x):.10g}' for x in derived)}."
            )
