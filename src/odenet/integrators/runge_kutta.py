"""Explicit Runge-Kutta methods: one engine over a tableau of exact numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..rational import Number, Rounded, exact_row, is_exact
from ..types import Carry, Params, State, Step, Time
from .base import Integrator, advance, build, later, verify
from .order import TreeConditions, refuse_unless, sparse


@dataclass(frozen=True)
class Tableau:
    """k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j),  y(t + h) = y + h sum_i b_i k_i,  c_i = sum_j a_ij.

    a:           rows below the diagonal, numbers separated by blanks: ("", "1", "1/4 1/4")
    b:           weights; b_low those of an embedded method of order `order_low`, for the error estimate
    order:       a claim, checked at registration
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

    def __post_init__(self) -> None:
        lengths = [len(exact_row(row)) for row in self.a]
        if lengths != list(range(len(self.a))):
            raise BadInput(
                f"row i of an explicit tableau has i entries, starting with an empty row; got rows of length {lengths}."
            )
        for what, row in (("b", self.b), ("b_low", self.b_low)):
            if row is not None and len(exact_row(row)) != len(self.a):
                raise BadInput(
                    f"{what} has {len(exact_row(row))} entries for {len(self.a)} stages; write one per stage."
                )
        if (self.b_low is None) != (self.order_low is None):
            raise BadInput("b_low and order_low belong together; give both or neither.")

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
    def nodes(self) -> tuple[Number, ...]:
        """c, the row sums; one that is a short fraction up to the digits given becomes that fraction."""
        return tuple(_short(sum(row, Fraction(0))) for row in self.matrix)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is f at the new point, so that the next step has its first slope free."""
        return len(self.a) > 1 and self.matrix[-1][:-1] == self.weights[:-1] and not self.weights[-1]

    @property
    def exact(self) -> bool:
        """Whether no coefficient is a rounded decimal."""
        numbers = [x for row in (*self.matrix, self.weights, self.weights_low or ()) for x in row]
        return all(is_exact(x) for x in numbers)

    def conditions(self, weights: tuple[Number, ...]) -> TreeConditions:
        """The order conditions of the method with these weights."""
        return TreeConditions([weights], [sparse(self.matrix)])

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
        self._c = [float(c) for c in tableau.nodes]
        self._a = [_terms(row) for row in tableau.matrix]
        self._b = _terms(tableau.weights)
        low = tableau.weights_low or tableau.weights
        self._d = _terms([b - b_hat for b, b_hat in zip(tableau.weights, low)])
        self._fsal = tableau.fsal

    def step(
        self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None, estimate: bool = True
    ) -> Step:
        """One step; `estimate=False` leaves out the error and the stage that only it and later steps use."""
        k = [carry[0] if carry else f(t, y)]
        for i in range(1, self.stages):
            k.append(f(later(t, self._c[i], h), advance(y, h, self._a[i], k)))
        new = advance(y, h, self._b, k)
        if not (estimate and self.adaptive):
            return Step(new, None, ())
        if self._fsal:
            k.append(f(t + h, new))
        return Step(new, _error(h, self._d, k), (k[-1],) if self._fsal else ())


def _error(h: Time, terms: list[tuple[int, float]], k: list[State]) -> State:
    (i, d), *rest = terms
    if not isinstance(h, Tensor):
        return advance((h * d) * k[i], h, rest, k)
    return advance((h.to(k[i].dtype) * d) * k[i], h, rest, k)


def _terms(row: Any) -> list[tuple[int, float]]:
    return [(j, float(a)) for j, a in enumerate(row) if a]


def _dot(row: Any, vector: Any) -> Any:
    return sum((a * v for a, v in zip(row, vector) if a), Fraction(0))


def _short(x: Number) -> Number:
    """A rounded number that a fraction with denominator <= 1000 explains is that fraction."""
    if not isinstance(x, Rounded):
        return x
    near = Fraction(x.value).limit_denominator(1000)
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
    if tableau.polynomial is not None:
        claimed, derived = list(exact_row(tableau.polynomial)), tableau.stability_polynomial()
        if len(claimed) != len(derived) or any(x - y for x, y in zip(claimed, derived)):
            raise ClaimRefused(
                f"{who} claims R(z) with coefficients {tableau.polynomial}, but its tableau gives "
                f"{' '.join(f'{float(x):.10g}' for x in derived)}."
            )
