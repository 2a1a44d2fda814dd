"""Rosenbrock methods: stiff steps without Newton's iteration, one Jacobian and one factorisation each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused, StepFailed
from ..rational import Number, exact_row, is_exact, solve
from ..types import Carry, Params, State, Step, Time
from .base import Facts, Integrator, advance, build, facts_of, later, verify
from .jacobian import Blocks
from .linearise import from_real, in_real, linearise, matched
from .order import Residual, Tree, density, refuse_unless, show, symmetry, trees
from .polynomials import stays_nonpositive_until
from .runge_kutta import nearest_fraction

Matrix = tuple[tuple[Number, ...], ...]


@dataclass(frozen=True)
class Rosenbrock:
    """k_i = h f(t + alpha_i h, y + sum_j alpha_ij k_j) + h J sum_j gamma_ij k_j + h^2 gamma_i df/dt,  J = df/dy(t, y).

    The new state is y + sum_i b_i k_i; alpha_i and gamma_i are row sums (Hairer & Wanner II, IV.7).

    alpha:        rows below the diagonal, numbers separated by blanks: ("", "1", "1 0")
    gamma:        rows with the diagonal, which is the same number everywhere: ("1/2", "-1 1/2")
    b:            weights; b_low those of an embedded method of order `order_low`, for the error estimate
    order:        a claim, checked at registration, as is order_low
    substituted:  the numbers are those of programs, alpha -> alpha Gamma^-1, b -> b Gamma^-1, and below the diagonal
                  Gamma -> -Gamma^-1 (IV.7); the diagonal is gamma itself
    Raises BadInput for wrong lengths and for a diagonal of different numbers, which would cost a factorisation each.
    """

    alpha: tuple[str, ...]
    gamma: tuple[str, ...]
    b: str
    order: int
    b_low: str | None = None
    order_low: int | None = None
    substituted: bool = False
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        s = len(self.gamma)
        lengths = [len(exact_row(row)) for row in self.gamma]
        if lengths != list(range(1, s + 1)) or [len(exact_row(row)) for row in self.alpha] != list(range(s)):
            raise BadInput(
                f"row i of alpha has i - 1 entries and row i of gamma has i; got gamma rows of length {lengths}."
            )
        for what, row in (("b", self.b), ("b_low", self.b_low)):
            if row is not None and len(exact_row(row)) != s:
                raise BadInput(f"{what} has {len(exact_row(row))} entries for {s} stages; write one per stage.")
        if (self.b_low is None) != (self.order_low is None):
            raise BadInput("b_low and order_low belong together; give both or neither.")
        if any(exact_row(row)[-1] - self.diagonal for row in self.gamma) or not self.diagonal:
            raise BadInput("the last entries of the rows of gamma are one number, not zero: one factorisation a step.")

    @property
    def diagonal(self) -> Number:
        """gamma, the diagonal of Gamma."""
        return exact_row(self.gamma[0])[-1]

    @cached_property
    def gammas(self) -> Matrix:
        """Gamma, square."""
        rows = _lower(self.gamma)
        if not self.substituted:
            return rows
        s = range(len(rows))
        return _inverse([[1 / self.diagonal if i == j else -rows[i][j] for j in s] for i in s])

    @cached_property
    def matrix(self) -> Matrix:
        """alpha, square, zeros filled in."""
        rows = _lower(self.alpha)
        return _product(rows, self.gammas) if self.substituted else rows

    @cached_property
    def betas(self) -> Matrix:
        """alpha + Gamma."""
        return tuple(tuple(a + g for a, g in zip(*rows)) for rows in zip(self.matrix, self.gammas))

    @cached_property
    def weights(self) -> tuple[Number, ...]:
        """b."""
        return self._weights(self.b)

    @cached_property
    def weights_low(self) -> tuple[Number, ...] | None:
        """b_low, or None."""
        return None if self.b_low is None else self._weights(self.b_low)

    def _weights(self, text: str) -> tuple[Number, ...]:
        row = exact_row(text)
        return _product((row,), self.gammas)[0] if self.substituted else row

    @cached_property
    def nodes(self) -> tuple[Number, ...]:
        """alpha_i; one that is a short fraction up to the digits given becomes that fraction."""
        return tuple(nearest_fraction(sum(row, Fraction(0)), 10000) for row in self.matrix)

    @cached_property
    def slants(self) -> tuple[Number, ...]:
        """gamma_i, the row sums of Gamma."""
        return tuple(nearest_fraction(sum(row, Fraction(0)), 10000) for row in self.gammas)

    @cached_property
    def substitution(self) -> tuple[Matrix, Matrix, tuple[Number, ...], tuple[Number, ...] | None]:
        """(alpha Gamma^-1, 1/gamma - Gamma^-1, b Gamma^-1, b_low Gamma^-1), what a program computes with."""
        if self.substituted:
            low = None if self.b_low is None else exact_row(self.b_low)
            s = range(len(self.gamma))
            c = tuple(
                tuple(x if j < i else Fraction(0) for j, x in zip(s, r)) for i, r in enumerate(_lower(self.gamma))
            )
            return _lower(self.alpha), c, exact_row(self.b), low
        inverse = _inverse(self.gammas)
        c = tuple(tuple(Fraction(0) if i == j else -x for j, x in enumerate(r)) for i, r in enumerate(inverse))
        low = None if self.weights_low is None else _product((self.weights_low,), inverse)[0]
        return _product(self.matrix, inverse), c, _product((self.weights,), inverse)[0], low

    @property
    def exact(self) -> bool:
        """Whether no coefficient is a rounded decimal."""
        rows = (*self.matrix, *self.gammas, self.weights, self.weights_low or ())
        return all(is_exact(x) for row in rows for x in row)

    @property
    def stiffly_accurate(self) -> bool:
        """b_i = alpha_si + gamma_si and alpha_s = 1: very stiff components end where f vanishes."""
        return not any(b - x for b, x in zip(self.weights, self.betas[-1])) and not self.nodes[-1] - 1

    def conditions(self, weights: tuple[Number, ...]) -> RosenbrockConditions:
        """The order conditions of the method with these weights."""
        return RosenbrockConditions(weights, self.matrix, self.betas)

    def numerator(self, weights: tuple[Number, ...] | None = None) -> list[Any]:
        """p_0 ... p_s with R(z) = 1 + z b (I - z B)^-1 1 = sum_k p_k z^k / (1 - gamma z)^s, B = alpha + Gamma."""
        weights, s = weights or self.weights, len(self.gamma)
        vector: list[Any] = [Fraction(1)] * s
        series: list[Any] = [Fraction(1)]
        for _ in range(s):
            series.append(_dot(weights, vector))
            vector = [_dot(row, vector) for row in self.betas]
        power = [math.comb(s, k) * (-self.diagonal) ** k if k else Fraction(1) for k in range(s + 1)]
        return [sum((series[i] * power[k - i] for i in range(k + 1)), Fraction(0)) for k in range(s + 1)]

    def at_infinity(self, weights: tuple[Number, ...] | None = None) -> float:
        """R(infinity), exactly 0 where the leading coefficient is."""
        p = self.numerator(weights)
        return float(p[-1]) / float(-self.diagonal) ** len(self.gamma) if p[-1] else 0.0

    @property
    def a_stable(self) -> bool:
        """|R| <= 1 on the left half plane: E(y) = |Q(iy)|^2 - |P(iy)|^2 >= 0 for all y (II, IV.3), and gamma > 0."""
        s = len(self.gamma)
        p = self.numerator()
        q = [math.comb(s, k) * (-self.diagonal) ** k if k else Fraction(1) for k in range(s + 1)]
        excess = [a - b for a, b in zip(_on_imaginary(p), _on_imaginary(q))]
        rational = [Fraction(float(x)) if x else Fraction(0) for x in excess]
        return float(self.diagonal) > 0 and stays_nonpositive_until(rational) == math.inf

    @property
    def l_stable(self) -> bool:
        """A-stable with R(infinity) = 0: what is very stiff is damped at once."""
        return self.a_stable and self.at_infinity() == 0.0


class RosenbrockConditions:
    """Order conditions by rooted trees: alpha at a vertex with several children, beta = alpha + Gamma at one with one.

    sum_i b_i Phi_i(t) = 1 / gamma(t) for all trees up to the order (Hairer & Wanner II, IV.7). df/dt
    enters as the derivative by one more component of the state, so they cover non-autonomous problems.
    """

    def __init__(self, weights: tuple[Number, ...], alpha: Matrix, beta: Matrix) -> None:
        self._weights, self._alpha, self._beta = weights, alpha, beta
        self._stages: dict[Tree, list[Any]] = {}

    def of_order(self, q: int) -> Iterator[Residual]:
        """The conditions of all trees with q vertices."""
        for tree in trees(q):
            value = _dot(self._weights, self._stage_values(tree))
            yield Residual(f"the tree {show(tree)}", value, Fraction(1, density(tree)), symmetry(tree))

    def _stage_values(self, tree: Tree) -> list[Any]:
        if tree not in self._stages:
            rows = self._beta if len(tree) == 1 else self._alpha
            values: list[Any] = [Fraction(1)] * len(rows)
            for child in tree:
                inner = self._stage_values(child)
                values = [v * _dot(row, inner) for v, row in zip(values, rows)]
            self._stages[tree] = values
        return self._stages[tree]


class LinearlyImplicit(Integrator):
    """Engine of a `Rosenbrock` method: (I - h gamma J) u_i = gamma (h f_i + sum_j c_ij u_j + h^2 gamma_i df/dt).

    The Jacobian is exact and taken at every step, so the step is differentiated through it. df/dt comes from forward
    mode, or from values of f at five times in [t, t + h/4] where f turns t into a plain number. A complex state is
    stepped as real and imaginary part, unless f offers its Jacobian: f need not be analytic. Raises Incompatible for
    blocks too large to factorise and StepFailed where I - h gamma J is singular.
    """

    implicit = True

    def __init__(self, method: Rosenbrock) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.adaptive = method.weights_low is not None
        a, c, m, low = method.substitution
        self._gamma = float(method.diagonal)
        self._nodes, self._slants = [float(x) for x in method.nodes], [float(x) for x in method.slants]
        self._a, self._c, self._m = [_terms(row) for row in a], [_terms(row) for row in c], _terms(m)
        self._d = _terms([x - y for x, y in zip(m, low or m)])
        self._fresh = [i for i in range(len(a)) if i == 0 or (self._a[i], self._nodes[i]) != _before(self, i)]
        self.stages = len(self._fresh)
        self.stability_function = self._amplification

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step; the carry is not used, since every step starts afresh."""
        if y.is_complex() and getattr(f, "jacobian", None) is None:
            return from_real(self.step(*in_real(f, t, y, h), (), coef), y)
        here = linearise(f, t, y, h)
        factors = _factors(f, here.jacobian, self._gamma, t)
        u: list[State] = []
        size = matched(h, y)
        value, bend = size * here.slope, size * here.drift
        for i, (a, c, slant) in enumerate(zip(self._a, self._c, self._slants)):
            if i and i in self._fresh:
                value = size * f(later(t, self._nodes[i], h), advance(y, 1.0, a, u))
            right = advance(value, 1.0, c, u) if c else value
            u.append(factors.solve(self._gamma * (right + slant * bend if slant else right)))
        error = _combination(self._d, u) if self.adaptive else None
        return Step(advance(y, 1.0, self._m, u), error, (), (here.slope,))

    def _amplification(self, z: Tensor) -> Tensor:
        """R(z) as a polynomial in 1 / (1 - gamma z), which keeps its digits at large z."""
        w = 1 / (1 - self._gamma * z)
        value = torch.zeros_like(w)
        for q in reversed(_in_resolvent(self.method)):
            value = value * w + q
        return value


def _before(engine: LinearlyImplicit, i: int) -> tuple[Any, float]:
    return engine._a[i - 1], engine._nodes[i - 1]


def _factors(f: Any, scaled: Blocks, gamma: float, t: Time) -> Any:
    if hasattr(f, "counts"):
        f.counts["lu"] += 1
    try:
        return scaled.shifted(gamma)
    except RuntimeError as problem:  # torch raises its LinAlgError for one matrix and its parent for a batch
        if "is zero" not in str(problem):
            raise
        at = f" at t = {float(t):.6g}" if not isinstance(t, Tensor) else ""
        raise StepFailed(f"the matrix I - h gamma J of a Rosenbrock step{at} is singular; shorten the step.") from None


def _combination(terms: list[tuple[int, float]], u: list[State]) -> State:
    (i, d), *rest = terms
    return advance(d * u[i], 1.0, rest, u)


@lru_cache(maxsize=64)
def _in_resolvent(method: Rosenbrock) -> tuple[float, ...]:
    """q_0 ... q_s with R = sum_j q_j w^j, w = 1 / (1 - gamma z), that is z = (w - 1) / (gamma w)."""
    s = len(method.gamma)
    q: list[Any] = [Fraction(0)] * (s + 1)
    for k, p in enumerate(method.numerator()):
        for j in range(k + 1):  # p_k (w - 1)^k w^(s-k) / gamma^k
            q[s - k + j] = q[s - k + j] + p * math.comb(k, j) * (-1) ** (k - j) / method.diagonal**k
    return tuple(float(x) if x else 0.0 for x in q)


def _on_imaginary(p: list[Any]) -> list[Any]:
    """|p(iy)|^2 as a polynomial in y^2: the coefficient of y^(2m) is sum_i (-1)^(m-i) p_i p_(2m-i)."""
    out: list[Any] = [Fraction(0)] * len(p)
    for i, j in product(range(len(p)), repeat=2):
        if (i + j) % 2 == 0:
            out[(i + j) // 2] = out[(i + j) // 2] + (-1) ** abs((i - j) // 2) * p[i] * p[j]
    return out


def _lower(rows: tuple[str, ...]) -> Matrix:
    parsed = [exact_row(row) for row in rows]
    return tuple(row + (Fraction(0),) * (len(rows) - len(row)) for row in parsed)


def _inverse(matrix: Any) -> Matrix:
    """Of a lower triangular matrix: zeros stay zeros."""
    s = len(matrix)
    columns = [solve([list(row) for row in matrix], [Fraction(int(i == j)) for i in range(s)]) for j in range(s)]
    return tuple(tuple(columns[j][i] if j <= i else Fraction(0) for j in range(s)) for i in range(s))


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = list(zip(*right))
    return tuple(tuple(_dot(row, column) for column in columns) for row in left)


def _dot(row: Any, vector: Any) -> Any:
    return sum((a * v for a, v in zip(row, vector) if a and v), Fraction(0))


def _terms(row: Any) -> list[tuple[int, float]]:
    return [(j, float(a)) for j, a in enumerate(row) if a]


@build.register
def _(data: Rosenbrock) -> LinearlyImplicit:
    return LinearlyImplicit(data)


@verify.register
def _(integrator: LinearlyImplicit) -> None:
    method, who = integrator.method, integrator.title
    refuse_unless(who, method.order, method.conditions(method.weights).of_order)
    if method.weights_low is not None and method.order_low is not None:
        low = method.conditions(method.weights_low)
        refuse_unless(f"the embedded method of {who}", method.order_low, low.of_order)
        if method.order_low >= method.order:
            raise ClaimRefused(f"{who} of order {method.order} has an embedded method of order {method.order_low}.")
        if not any(p - q for p, q in zip(method.numerator(), method.numerator(method.weights_low))):
            raise ClaimRefused(
                f"{who} and its embedded method have the same stability function, so that their difference, the error "
                "estimate, is 0 on linear problems; give other weights b_low."
            )


@facts_of.register
def _(integrator: LinearlyImplicit) -> Facts:
    method = integrator.method
    residuals = method.conditions(method.weights).of_order(method.order + 1)
    stable = math.inf if method.a_stable else None
    return Facts(
        order=method.order,
        order_low=method.order_low,
        stages=integrator.stages,
        exact=method.exact,
        error_constant=math.sqrt(math.fsum(r.weighted**2 for r in residuals)),
        zero_stable=True,
        real_interval=stable,
        imag_interval=stable,
        a_stable=method.a_stable,
        l_stable=method.l_stable,
        stiffly_accurate=method.stiffly_accurate,
    )
