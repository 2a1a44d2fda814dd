"""Implicit Runge-Kutta methods, diagonally and fully implicit: one engine over a tableau of exact numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..rational import Number, exact_row, is_exact, solve
from ..types import Carry, Params, State, Step, Time
from . import facts_implicit as algebra
from . import newton
from .adaptive import scaled_norm
from .base import Facts, Integrator, advance, build, facts_of, later, verify
from .facts import contractivity_radius
from .krylov import gmres
from .order import TreeConditions, refuse_unless, sparse
from .runge_kutta import nearest_fraction
from .stages import Memory, Stages, recall, with_extras


@dataclass(frozen=True)
class ImplicitTableau:
    """k_i = f(t + c_i h, y + h sum_j a_ij k_j),  y(t + h) = y + h sum_i b_i k_i,  c_i = sum_j a_ij.

    a:           full rows, numbers separated by blanks: ("1/4 0", "1/2 1/4"); a row of zeros is an explicit stage
    b:           weights; b_low those of an embedded method of order `order_low`, for the error estimate
    order:       a claim, checked at registration
    estimate:    how the difference e of the two becomes the error estimate
        difference  e itself, where the embedded method is stable as well
        filtered    (I - h gamma J)^{-1} e with the last diagonal entry gamma, so that stiff parts do not dominate
        slope       without b_low: e = gamma h (f(t, y) + sum_i e_i k_i), where e_i makes it vanish up to h^s,
                    filtered the same; gamma the real eigenvalue of A, or |det A|^(1/s) where s is even. Where e is
                    too large, (t, y + e) takes the place of (t, y), Hairer & Wanner II, (IV.8.19) and (IV.8.20)
    properties:  optional claims, all that hold out of "A-stable L-stable B-stable symplectic symmetric
                 stiffly-accurate", checked at registration
    Numbers are rationals "19372/6561", roots "sqrt(6)/10" or decimals. BadInput for wrong lengths.
    """

    a: tuple[str, ...]
    b: str
    order: int
    b_low: str | None = None
    order_low: int | None = None
    estimate: Literal["difference", "filtered", "slope"] = "difference"
    properties: str | None = None
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        s = len(self.a)
        for what, row in (*((f"row {i + 1} of a", row) for i, row in enumerate(self.a)), ("b", self.b)):
            _check_length(what, row, s)
        if self.b_low is not None:
            _check_length("b_low", self.b_low, s)
        if self.estimate not in ("difference", "filtered", "slope"):
            raise BadInput(f'estimate is "difference", "filtered" or "slope"; got {self.estimate!r}.')
        if (self.order_low is None) != (self.b_low is None and self.estimate != "slope"):
            raise BadInput(
                'order_low belongs to b_low, or to estimate="slope", which has no b_low; give both or neither.'
            )
        if self.estimate == "slope" and (self.b_low is not None or self.diagonal):
            raise BadInput('estimate="slope" derives the embedded weights of a fully implicit method; leave b_low out.')
        if not any(x for i, row in enumerate(self.matrix) for x in row[i:]):
            raise BadInput("no stage of this tableau is implicit; write it as a Tableau, with rows below the diagonal.")

    @cached_property
    def matrix(self) -> tuple[tuple[Number, ...], ...]:
        """A."""
        return tuple(exact_row(row) for row in self.a)

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
        """c, the row sums."""
        return tuple(nearest_fraction(sum(row, Fraction(0))) for row in self.matrix)

    @cached_property
    def diagonal(self) -> bool:
        """Whether stages can be solved one after the other."""
        return not any(x for i, row in enumerate(self.matrix) for x in row[i + 1 :])

    @cached_property
    def stiffly_accurate(self) -> bool:
        """Whether the new point is the last stage: b is the last row of A."""
        return not any(x - y for x, y in zip(self.matrix[-1], self.weights))

    @cached_property
    def fsal(self) -> bool:
        """Whether the first stage is explicit and known from the step before."""
        return self.stiffly_accurate and not any(self.matrix[0])

    @cached_property
    def exact(self) -> bool:
        """Whether no coefficient is a rounded decimal."""
        return all(is_exact(x) for row in (*self.matrix, self.weights, self.weights_low or ()) for x in row)

    def conditions(self, weights: tuple[Number, ...]) -> TreeConditions:
        """The order conditions of the method with these weights."""
        return TreeConditions([weights], [sparse(self.matrix)])

    @cached_property
    def slope_weights(self) -> tuple[Number, ...]:
        """e with f(t, y) + sum_i e_i k_i = O(h^s): sum_i e_i c_i^(q-1) = -1 for q = 1, else 0, q = 1 ... s."""
        s = range(len(self.a))
        powers = [[c**q if q else Fraction(1) for c in self.nodes] for q in s]
        return tuple(solve(powers, [Fraction(-1 if q == 0 else 0) for q in s]))

    def slope_conditions(self) -> TreeConditions:
        """Order conditions of b + e with weight 1 on f(t, y), which hold for every multiple of the difference."""
        rows = [[], *([(j + 1, x) for j, x in row] for row in sparse(self.matrix))]
        return TreeConditions([(Fraction(1), *(b + e for b, e in zip(self.weights, self.slope_weights)))], [rows])

    @cached_property
    def stability_fraction(self) -> tuple[list[Any], list[Any]]:
        """Coefficients of P and Q in R(z) = P(z) / Q(z), from the constants upwards."""
        return algebra.stability_fraction(self.matrix, self.weights)

    @cached_property
    def holds(self) -> frozenset[str]:
        """Which of the named properties the coefficients have."""
        p, q = self.stability_fraction
        stable = algebra.a_stable(p, q, self.order)
        known = {
            "A-stable": stable,
            "L-stable": stable and algebra.at_infinity(p, q) == 0.0,
            "B-stable": algebra.algebraically_stable(self.matrix, self.weights),
            "symplectic": not any(x for row in algebra.algebraic_matrix(self.matrix, self.weights) for x in row),
            "symmetric": algebra.symmetric(self.matrix, self.weights),
            "stiffly-accurate": self.stiffly_accurate,
        }
        return frozenset(name for name, true in known.items() if true)


def _check_length(what: str, row: str, s: int) -> None:
    if len(exact_row(row)) != s:
        raise BadInput(f"{what} has {len(exact_row(row))} entries for {s} stages; write one per stage, zeros included.")


class ImplicitRungeKutta(Integrator):
    """Engine of an `ImplicitTableau`: stages by Newton's iteration, one after the other where A allows it.

    Diagonally implicit: the carry is (k_s,), the last slope, which is the first stage of FSAL methods and a first guess
    else. Fully implicit: the carry is one tensor (s, *y.shape), the derivatives at t + h of the polynomial through the
    slopes, from which the next step guesses its stages.
    """

    implicit = True

    def __init__(self, tableau: ImplicitTableau) -> None:
        self.tableau = tableau
        self.order, self.cite, self.when = tableau.order, tableau.cite, tableau.when
        self.adaptive = tableau.order_low is not None
        self.symplectic = "symplectic" in tableau.holds
        self.reversible = "symmetric" in tableau.holds
        self.stages = len(tableau.a) - tableau.fsal
        self.stability_function = rational_function(*tableau.stability_fraction)  # type: ignore[method-assign]
        self._c = [float(c) for c in tableau.nodes]
        self._a = tuple(tuple(float(x) for x in row) for row in tableau.matrix)
        self._b = _terms(tableau.weights)
        low = tableau.weights_low or tableau.weights
        self._d = _terms([b - b_low for b, b_low in zip(tableau.weights, low)])
        self._predictor = [_lagrange(self._c[:i], self._c[i]) for i in range(len(self._c))]
        self._gamma = next((row[i] for i, row in reversed(list(enumerate(self._a))) if row[i]), 0.0)
        if tableau.estimate == "slope":
            self._gamma = _gamma(self._a)
            self._e = _terms(tableau.slope_weights)

    def step(
        self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None, estimate: bool = True
    ) -> Step:
        """One step; `estimate=False` leaves out the error and what only it needs. Raises StepFailed (see `newton`)."""
        f = with_extras(f)
        memory = recall(f, y)
        if self.tableau.diagonal:
            new, k, after = self._one_by_one(f, t, y, h, carry, memory)
        else:
            new, k, after = self._together(f, t, y, h, carry, memory)
        if not (estimate and self.adaptive):
            return Step(new, None, after)
        if self.tableau.estimate == "slope":
            k = [f(t, y), *k]
            return Step(new, self._slope_error(f, t, y, new, h, k, memory), after, tuple(k))
        error = _weighted(h, self._d, k)
        if self.tableau.estimate == "filtered":
            with torch.no_grad():
                error = _Filter(f, t, y, h, self._gamma, memory)(error.detach())
        return Step(new, error, after, tuple(k) if not any(self._a[0]) else ())

    def undo(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """The state before the step, by a step of -h from t + h: a symmetric method undoes itself, to rounding."""
        return Step(self.step(f, t + h, y, -h, (), coef, estimate=False).y, None, ())

    def _one_by_one(
        self, f: Any, t: Time, y: State, h: Time, carry: Carry, memory: Memory
    ) -> tuple[State, list[State], Carry]:
        k: list[State] = []
        new = y
        for i, row in enumerate(self._a):
            at, base = later(t, self._c[i], h), advance(y, h, _terms(row[:i]), k)
            if not row[i]:
                k.append(carry[0] if carry and self.tableau.fsal and not i else f(at, base))
                continue
            guess = self._extrapolated(i, k) if k else (carry[0].unsqueeze(0) if carry else None)
            stage = Stages(f, (at,), base.unsqueeze(0), h, ((row[i],),), y)
            k.append(newton.solve(stage, guess, memory).squeeze(0))
            new = advance(base, h, [(i, row[i])], k)
        if not self.tableau.stiffly_accurate:
            new = advance(y, h, self._b, k)
        return new, k, (k[-1] if self.tableau.fsal else k[-1].detach(),)

    def _extrapolated(self, i: int, k: list[State]) -> Tensor:
        """The slope at stage i of the line through the two before, (1, *y.shape)."""
        guess = sum(w * k[j].detach() for j, w in self._predictor[i])
        return guess.unsqueeze(0)  # type: ignore[union-attr]

    def _together(
        self, f: Any, t: Time, y: State, h: Time, carry: Carry, memory: Memory
    ) -> tuple[State, list[State], Carry]:
        times = tuple(later(t, c, h) for c in self._c)
        guess = self._guess(carry[0], h) if carry else None
        k = newton.solve(Stages(f, times, y.unsqueeze(0), h, self._a, y), guess, memory)
        return advance(y, h, self._b, list(k)), list(k), (self._derivatives(k, h),)

    def _derivatives(self, k: Tensor, h: Time) -> Tensor:
        """p^(j)(t + h) / j! of the polynomial p with p(t + c_i h) = k_i, stacked; not part of the graph."""
        k, h = k.detach(), h.detach() if isinstance(h, Tensor) else h
        nodes = np.vander([c - 1.0 for c in self._c], increasing=True)
        scaled = torch.tensor(np.linalg.inv(nodes), dtype=k.dtype, device=k.device) @ k.reshape(len(k), -1)
        if isinstance(h, Tensor):
            h = torch.where(h == 0, 1.0, h).to(k.dtype)
        return torch.stack([part.reshape(k.shape[1:]) / h**j for j, part in enumerate(scaled)])

    def _guess(self, derivatives: Tensor, h: Time) -> Tensor:
        """That polynomial at the stages of the next step."""
        h = h.detach().to(derivatives.dtype) if isinstance(h, Tensor) else h
        rows = []
        for c in self._c:
            value = derivatives[-1]
            for part in reversed(list(derivatives[:-1])):
                value = part + (c * h) * value
            rows.append(value)
        return torch.stack(rows)

    def _slope_error(
        self, f: Any, t: Time, y: State, new: State, h: Time, slopes: list[State], memory: Memory
    ) -> State:
        with torch.no_grad():
            first, *k = [x.detach() for x in slopes]
            y, new = y.detach(), new.detach()
            h = h.detach() if isinstance(h, Tensor) else h
            t = t.detach() if isinstance(t, Tensor) else t
            filtered = _Filter(f, t, y, h, self._gamma, memory)
            rest = _weighted(h, [(i, self._gamma * e) for i, e in self._e], k)
            error = filtered(advance(rest, h, [(0, self._gamma)], [first]))
            if f.tolerance is None:
                return error
            large = _too_large(error, y, new, h, *f.tolerance)
            if not bool(large.any()):
                return error
            again = filtered(advance(rest, h, [(0, self._gamma)], [f(t, y + error).detach()]))
            return torch.where(large, again, error)


class _Filter:
    """v -> (I - h gamma J)^{-1} v with the Jacobian that the stages were solved with."""

    def __init__(self, f: Any, t: Time, y: State, h: Time, gamma: float, memory: Memory) -> None:
        self._stage = Stages(f, (t,), y.unsqueeze(0), h, ((gamma,),), y).detached()
        self._memory = memory

    def __call__(self, v: State) -> State:
        stage, blocks = self._stage, self._memory.blocks
        rows = stage.flat(v.unsqueeze(0))
        if blocks is None:
            rows = gmres(stage.operator(torch.zeros_like(v).unsqueeze(0)), rows, 1e-3)
        else:
            rows = self._memory.factorised(stage.f, stage.a, stage.h, lambda: stage.matrix(blocks.unsqueeze(0))).solve(
                rows
            )
        return stage.shaped(rows).squeeze(0)


def _too_large(error: State, y: State, new: State, h: Time, rtol: float, atol: float) -> Tensor:
    """Whether the step would be rejected, one answer or one per sample, so that it broadcasts to y."""
    if not (isinstance(h, Tensor) and h.numel() > 1):
        return scaled_norm(error, y, new, rtol, atol) > 1
    sizes = [scaled_norm(e, u, v, rtol, atol) for e, u, v in zip(error, y, new)]
    return (torch.stack(sizes) > 1).reshape(-1, *([1] * (y.dim() - 1)))


def _gamma(a: tuple[tuple[float, ...], ...]) -> float:
    """The real eigenvalue of A where there is one, else the geometric mean of all."""
    eigenvalues = np.linalg.eigvals(np.array(a))
    real = [float(x.real) for x in eigenvalues if abs(x.imag) < 1e-9]
    return real[0] if real else float(abs(np.linalg.det(np.array(a))) ** (1 / len(a)))


def _lagrange(nodes: list[float], x: float) -> list[tuple[int, float]]:
    """Weights at x of the last two distinct nodes; a line, since more overshoots where a part is stiff."""
    last = {round(c, 9): j for j, c in enumerate(nodes)}
    chosen = sorted(last.values())[-2:]
    return [(j, math.prod((x - nodes[i]) / (nodes[j] - nodes[i]) for i in chosen if i != j)) for j in chosen]


def _weighted(h: Time, terms: list[tuple[int, float]], k: list[State]) -> State:
    """h sum_i d_i k_i."""
    return advance(torch.zeros_like(k[0]), h, terms, k)


def _terms(row: Any) -> list[tuple[int, float]]:
    return [(j, float(a)) for j, a in enumerate(row) if a]


def rational_function(p: list[Any], q: list[Any]) -> Callable[[Tensor], Tensor]:
    """R(z) = P(z) / Q(z) for complex tensors; powers of 1/z where |z| > 1, so that R(inf) is right."""
    n = max(len(p), len(q))
    above, below = ([*map(float, poly), *([0.0] * (n - len(poly)))] for poly in (p, q))

    def horner(coefficients: list[float], x: Tensor) -> Tensor:
        value = torch.zeros_like(x)
        for c in coefficients:
            value = value * x + c
        return value

    def function(z: Tensor) -> Tensor:
        far = ~(z.abs() <= 1)
        w = torch.where(torch.isinf(z), 0.0, 1 / torch.where(far, z, 1.0))
        z = torch.where(far, 0.0, z)
        inside = horner(above[::-1], z) / horner(below[::-1], z)
        return torch.where(far, horner(above, w) / horner(below, w), inside)

    return function


@build.register
def _(data: ImplicitTableau) -> ImplicitRungeKutta:
    return ImplicitRungeKutta(data)


@verify.register
def _(integrator: ImplicitRungeKutta) -> None:
    tableau, who = integrator.tableau, integrator.title
    refuse_unless(who, tableau.order, tableau.conditions(tableau.weights).of_order)
    if tableau.order_low is not None:
        low = tableau.slope_conditions() if tableau.weights_low is None else tableau.conditions(tableau.weights_low)
        refuse_unless(f"the embedded method of {who}", tableau.order_low, low.of_order)
    if tableau.properties is not None and frozenset(tableau.properties.split()) != tableau.holds:
        raise ClaimRefused(
            f'{who} claims the properties "{tableau.properties}", but its coefficients have '
            f'"{" ".join(sorted(tableau.holds))}"; correct one of them.'
        )


@facts_of.register
def _(integrator: ImplicitRungeKutta) -> Facts:
    """Everything that an implicit tableau implies."""
    tableau, (p, q) = integrator.tableau, integrator.tableau.stability_fraction
    leading = tableau.conditions(tableau.weights).of_order(tableau.order + 1)
    a_stable = "A-stable" in tableau.holds
    return Facts(
        order=tableau.order,
        order_low=None if tableau.order_low is None else min(tableau.order, tableau.order_low),
        stages=integrator.stages,
        fsal=tableau.fsal,
        exact=tableau.exact,
        error_constant=math.sqrt(math.fsum(r.weighted**2 for r in leading)),
        symplectic=integrator.symplectic,
        ssp=algebra.absolute_monotonicity(tableau.matrix, tableau.weights, tableau.order),
        contractivity_radius=contractivity_radius(cast(Any, tableau)),
        zero_stable=True,
        real_interval=math.inf if a_stable else algebra.real_interval(p, q),
        imag_interval=math.inf if a_stable else algebra.imaginary_interval(p, q, tableau.order),
        a_stable=a_stable,
        l_stable="L-stable" in tableau.holds,
        b_stable="B-stable" in tableau.holds,
        stiffly_accurate=tableau.stiffly_accurate,
        stage_order=algebra.stage_order(tableau.matrix, tableau.weights, tableau.nodes),
    )
