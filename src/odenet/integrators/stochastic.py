"""Methods for stochastic differential equations dy = f dt + g dW, on a Brownian path that replays.

A step reads, beside f(t, y), the parts of the right-hand side: `diffusion(t, y)` = g, `path` (a BrownianPath), and
`field.noise`, `field.interpretation`. A right-hand side without `diffusion` has no noise; each method is then the
ordinary one that its docstring names. A derivative of a step is that of the same path.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from operator import mul
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused, Incompatible
from ..rational import Number, exact_row
from ..types import Carry, Params, State, Step, Time
from .base import Facts, Integrator, advance, build, facts_of, later, verify
from .brownian import KnownPath, observed_strong_order
from .facts import of_tableau
from .jacobian import along, generic, samples_couple
from .observe import confirm_order, declared_facts
from .order import Residual, refuse_unless
from .runge_kutta import Tableau

ITO, STRATONOVICH = "ito", "stratonovich"
_EULER = Tableau(a=("",), b="1", order=1)
_HEUN = Tableau(a=("", "1"), b="1/2 1/2", order=2)


class Stochastic(Integrator, ABC):
    """What a method for dy = f dt + g dW states beside its order, which is that of its limit without noise.

    strong_orders:    noise that it serves -> p with E |y_N - y(T)| = O(h^p) on the same path
    weak_order:       q with E phi(y_N) - E phi(y(T)) = O(h^q) for smooth phi
    interpretations:  senses of the equation that it serves; for additive noise they are one
    limit:            the tableau that it is without noise, where that is a Runge-Kutta method
    own_components:   on diagonal noise it supposes that g_i depends on y_i alone, which is tested once per run
    """

    needs = frozenset({"noise"})
    strong_orders: Mapping[str, float] = {}
    weak_order: float = 1.0
    interpretations: tuple[str, ...] = ()
    limit: Tableau | None = None
    own_components = False

    def __init__(self, cite: str = "", when: str = "") -> None:
        self.cite, self.when = cite, when

    @property
    def strong_order(self) -> float:
        """The least strong order over the kinds of noise that it serves."""
        return min(self.strong_orders.values())

    def noisy(self, f: Any, t: Time, y: State, h: Time) -> bool:
        """Whether f has noise. Raises Incompatible where this method does not serve it, or the path is missing."""
        field: Any = getattr(f, "field", None)
        if getattr(f, "diffusion", None) is None or "noise" not in getattr(field, "offers", {"noise"}):
            return False
        self.serves(field.noise, field.interpretation)
        if f.path is None:
            raise Incompatible(f"{self.title} needs a Brownian path; give solve a seed, or the right-hand side a path.")
        backwards = bool((h < 0).any()) if isinstance(h, Tensor) else h < 0
        if backwards and field.noise != "additive" and field.interpretation == ITO:
            raise Incompatible(
                "an equation in the sense of Ito does not run backwards in time, because its noise would be known in "
                'advance; solve Noisy(...).as_stratonovich() with a method such as "heun_stratonovich".'
            )
        _confirm_noise(self, f, t, y)
        return True

    def serves(self, noise: str, interpretation: str) -> None:
        """Raise Incompatible unless this method serves such noise in that sense."""
        sense = noise == "additive" or interpretation in self.interpretations
        if noise in self.strong_orders and sense:
            return
        what = f"{noise} noise" if noise not in self.strong_orders else f"the sense of {interpretation.title()}"
        other = "" if sense else " (or convert the field by as_stratonovich() or as_ito())"
        raise Incompatible(
            f"{self.title} does not serve {what}; use integrator={suited(noise, interpretation)!r}{other}."
        )


def suited(noise: str, interpretation: str) -> str:
    """The method to take first for such noise in that sense."""
    if noise == "additive":
        return "srk"
    if noise != "general":
        return "milstein"
    return "euler_maruyama" if interpretation == ITO else "heun_stratonovich"


def _confirm_noise(method: Stochastic, f: Any, t: Time, y: State) -> None:
    """Once per run: is the noise what the field says of it, and the path one for this state?"""
    memory = getattr(f, "workspace", {})
    if "noise_confirmed" in memory:
        return
    field, start = f.field, y.detach()
    wanted = tuple(field.brownian_shape(start)) if hasattr(field, "brownian_shape") else f.path.shape
    if tuple(f.path.shape) != wanted:
        raise BadInput(
            f"{field.noise} noise of a state {tuple(y.shape)} needs a Brownian path of shape {wanted}, but got "
            f"one of {tuple(f.path.shape)}; build it with shape=field.brownian_shape(y0)."
        )
    with torch.no_grad():
        if field.noise == "additive":
            _confirm_additive(f, t, start)
        if field.noise == "diagonal" and (method.own_components or getattr(field, "corrected", False)):
            _confirm_own(method, f, t, start)
    memory["noise_confirmed"] = True


def _confirm_additive(f: Any, t: Time, y: State) -> None:
    other = generic(y)
    try:
        changes = bool((f.diffusion(t, y) != f.diffusion(t, y + other)).any())
    except RuntimeError as problem:  # vmap shows no numbers of what it maps; `other` it does not map
        if "vmap" not in str(problem):
            raise
        changes = bool((f.diffusion(t, other) != f.diffusion(t, 2 * other)).any())
    if changes:
        raise Incompatible(
            "the field is said to have additive noise, but its diffusion changes with y; write noise='diagonal', "
            "'scalar' or 'general'."
        )


def _confirm_own(method: Stochastic, f: Any, t: Time, y: State) -> None:
    if y.numel() > 1 and samples_couple(lambda x: f.diffusion(t, x.reshape(y.shape)).flatten(), y.flatten()):
        raise Incompatible(
            f"{method.title} on this field supposes of diagonal noise that g_i depends on y_i alone, but here another "
            'entry of y changes it; write noise="general", with g as a matrix, or do without a conversion between Ito '
            'and Stratonovich and use "euler_maruyama" or "heun_stratonovich", which serve it at strong order 1/2.'
        )


def times(g: Tensor, dw: Tensor, y: State) -> State:
    """g dW, the shape of y; g has the shape of y, or (*y.shape, m) with dw (B, m) or (m,)."""
    if g.dim() == y.dim():
        return g * dw
    return (g @ dw.reshape(*dw.shape[:-1], *(1,) * (y.dim() - dw.dim()), -1, 1)).squeeze(-1)


def _terms(row: Any) -> list[tuple[int, float]]:
    return [(j, float(a)) for j, a in enumerate(row) if a]


class EulerMaruyama(Stochastic):
    """y + h f + g dW: Ito, any noise. Without noise: "euler"."""

    order = 1
    strong_orders: Mapping[str, float] = {"diagonal": 0.5, "scalar": 0.5, "additive": 1.0, "general": 0.5}
    interpretations = (ITO,)
    limit = _EULER

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One evaluation of f and g."""
        new = advance(y, h, [(0, 1.0)], [f(t, y)])
        if self.noisy(f, t, y, h):
            new = new + times(f.diffusion(t, y), f.path(t, t + h), y)
        return Step(new, None, ())


class Milstein(Stochastic):
    """y + h f + g dW + 1/2 (dg/dy) g (dW^2 - h), for Stratonovich without -h; dg/dy by forward mode.

    Ito or Stratonovich; diagonal, scalar or additive noise (general noise needs double integrals of W). Without noise:
    "euler".
    """

    order = 1
    strong_orders: Mapping[str, float] = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0}
    interpretations = (ITO, STRATONOVICH)
    limit = _EULER
    own_components = True

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One evaluation of f and g, and a directional derivative of g."""
        new = advance(y, h, [(0, 1.0)], [f(t, y)])
        if not self.noisy(f, t, y, h):
            return Step(new, None, ())
        dw, g = f.path(t, t + h), f.diffusion(t, y)
        new = new + times(g, dw, y)
        if f.field.noise != "additive":
            square = dw * dw - h if f.field.interpretation == ITO else dw * dw
            new = new + (0.5 * square) * along(lambda x: f.diffusion(t, x), y, g)
        return Step(new, None, ())


class HeunStratonovich(Stochastic):
    """Y = y + h f + g dW,  y + h/2 (f + f(Y)) + 1/2 (g + g(Y)) dW: Stratonovich, any noise. Without noise: "heun".

    General noise has strong order 1/2, or 1 where the columns of g commute.
    """

    order, stages = 2, 2
    strong_orders: Mapping[str, float] = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5}
    interpretations = (STRATONOVICH,)
    limit = _HEUN

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """Two evaluations of f and g."""
        first, noisy = f(t, y), self.noisy(f, t, y, h)
        guess = advance(y, h, [(0, 1.0)], [first])
        if noisy:
            dw, g = f.path(t, t + h), f.diffusion(t, y)
            guess = guess + times(g, dw, y)
        new = advance(y, h, [(0, 0.5), (1, 0.5)], [first, f(t + h, guess)])
        if noisy:
            new = new + times(0.5 * (g + f.diffusion(t + h, guess)), dw, y)
        return Step(new, None, ())


class ReversibleHeun(Stochastic):
    """z' = 2 y - z + h f(z) + g(z) dW,  y' = y + h/2 (f(z) + f(z')) + 1/2 (g(z) + g(z')) dW: Stratonovich, any noise.

    Inverted in closed form: gradient="reversible" keeps no states. The carry is (z, f(z), g(z)), so each step evaluates
    f and g once; weights that jump at a knot act half a step late. Neutral, not damping: |h lambda| <= 1 on the
    imaginary axis and nothing beside it, so rounding grows on stiff or strongly contracting fields. Without noise: the
    two-step method of the same name, of order 2.
    """

    order, history = 2, 1
    reversible = True
    strong_orders: Mapping[str, float] = {"diagonal": 0.5, "scalar": 0.5, "additive": 1.0, "general": 0.5}
    interpretations = (STRATONOVICH,)

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One evaluation of f and g, two in the first step."""
        noisy = self.noisy(f, t, y, h)
        z, *slopes = carry or (y, *self._slopes(f, t, y, noisy))
        dw = f.path(t, t + h) if noisy else None
        later_z = 2 * y - z + _increment(slopes, h, dw, y)
        after = self._slopes(f, t + h, later_z, noisy)
        new = y + _increment([0.5 * (a + b) for a, b in zip(slopes, after)], h, dw, y)
        return Step(new, None, (later_z, *after))

    def undo(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """The formulas solved for (y, z): z = 2 y' - z' - h f(z') - g(z') dW."""
        noisy = self.noisy(f, t, y, h)
        if not carry:
            raise BadInput(f"{self.title} is undone from its memory (z, f, g); pass the carry that step returned.")
        z, *slopes = carry
        dw = f.path(t, t + h) if noisy else None
        before_z = 2 * y - z - _increment(slopes, h, dw, y)
        before = self._slopes(f, t, before_z, noisy)
        old = y - _increment([0.5 * (a + b) for a, b in zip(slopes, before)], h, dw, y)
        return Step(old, None, (before_z, *before))

    @staticmethod
    def _slopes(f: Any, t: Time, z: State, noisy: bool) -> list[Tensor]:
        return [f(t, z), f.diffusion(t, z)] if noisy else [f(t, z)]


def _increment(slopes: list[Tensor], h: Time, dw: Tensor | None, y: State) -> State:
    """h f + g dW."""
    return h * slopes[0] if dw is None else h * slopes[0] + times(slopes[1], dw, y)


# ---- Runge-Kutta methods for additive noise -------------------------------------------------------------------------


@dataclass(frozen=True)
class AdditiveNoise:
    """Y_i = y + h sum_j a_ij f(t + c_i h, Y_j) + u sum_j d_ij g(t + s_j h),  u = Z/h, Z = int (W(r) - W(t)) dr,
    y' = y + h sum_i b_i f(t + c_i h, Y_i) + sum_i (v_i dW + e_i u) g(t + s_i h),  c = A 1.

    a, d:     one string per stage with the coefficients of the stages before it
    b, s:     one number per stage;  v, e: likewise, the weights of dW and of u
    order:    without noise; the strong order is 1.5 and the weak order 2
    Explicit, g free of y. Roessler 2010 (arXiv 0812.2283) calls these coefficients A0, B0, alpha, c1, beta1, beta2.
    """

    a: tuple[str, ...]
    b: str
    d: tuple[str, ...]
    s: str
    v: str
    e: str
    order: int = 2
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        stages, widths = len(self.a), [len(row) for row in self.rows]
        if widths != list(range(stages)) or any(len(exact_row(x)) != stages for x in (self.b, self.s, self.v, self.e)):
            raise BadInput(
                f"a method of {stages} stages has {stages} numbers in each of b, s, v, e and rows of 0, 1, ... in "
                f"d; got rows of {widths}."
            )

    @cached_property
    def drift(self) -> Tableau:
        """The method without noise."""
        return Tableau(a=self.a, b=self.b, order=self.order)

    @cached_property
    def rows(self) -> tuple[tuple[Number, ...], ...]:
        """d, as rows of the length of their stage."""
        return tuple(exact_row(row) for row in self.d)

    def conditions(self) -> list[Residual]:
        """What strong order 1.5 asks beside order 2 without noise, in the expansion by dW, Z and E u^2 = h/3."""
        b, s, v, e = (exact_row(row) for row in (self.b, self.s, self.v, self.e))
        d = [sum(row, Fraction(0)) for row in self.rows]
        return [
            Residual("sum_i v_i", sum(v, Fraction(0)), Fraction(1)),
            Residual("sum_i e_i", sum(e, Fraction(0)), Fraction(0)),
            Residual("sum_i v_i s_i", sum(map(mul, v, s), Fraction(0)), Fraction(1)),
            Residual("sum_i e_i s_i", sum(map(mul, e, s), Fraction(0)), Fraction(-1)),
            Residual("sum_ij b_i d_ij", sum(map(mul, b, d), Fraction(0)), Fraction(1)),
            Residual("sum_i b_i (sum_j d_ij)^2", sum(map(mul, b, map(mul, d, d)), Fraction(0)), Fraction(3, 2)),
        ]


class AdditiveRungeKutta(Stochastic):
    """Engine of an `AdditiveNoise` method: additive noise in either sense; g at each of its times once a step."""

    strong_orders: Mapping[str, float] = {"additive": 1.5}
    weak_order = 2.0
    interpretations = (ITO, STRATONOVICH)

    def __init__(self, method: AdditiveNoise) -> None:
        self.method, self.limit = method, method.drift
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.stages = len(method.a)
        drift = method.drift
        self._c = [float(c) for c in drift.nodes]
        self._a, self._b = [_terms(row) for row in drift.matrix], _terms(drift.weights)
        self._d = [_terms(row) for row in method.rows]
        self._weights = [(float(v), float(e)) for v, e in zip(exact_row(method.v), exact_row(method.e))]
        self._s = [float(s) for s in exact_row(method.s)]

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """As many evaluations of f as stages."""
        if not self.noisy(f, t, y, h):
            return Step(advance(y, h, self._b, self._stages(f, t, y, h, None, {})), None, ())
        dw, z = f.path.with_integral(t, t + h)
        u, g = z / h, {s: f.diffusion(later(t, s, h), y) for s in dict.fromkeys(self._s)}
        new = advance(y, h, self._b, self._stages(f, t, y, h, u, g))
        for s, (v, e) in zip(self._s, self._weights):
            new = new + times(g[s], v * dw + e * u, y) if v or e else new
        return Step(new, None, ())

    def _stages(self, f: Any, t: Time, y: State, h: Time, u: Any, g: dict[float, Tensor]) -> list[State]:
        k: list[State] = []
        for c, row, noise in zip(self._c, self._a, self._d):
            at = advance(y, h, row, k) if row else y
            for j, d in noise if g else ():
                at = at + times(g[self._s[j]], d * u, y)
            k.append(f(later(t, c, h), at))
        return k


@build.register
def _(data: AdditiveNoise) -> AdditiveRungeKutta:
    return AdditiveRungeKutta(data)


# ---- what is checked ------------------------------------------------------------------------------------------------


@verify.register
def _(integrator: AdditiveRungeKutta) -> None:
    """The conditions of strong order 1.5, in exact arithmetic."""
    drift = integrator.method.drift
    refuse_unless(integrator.title, drift.order, drift.conditions(drift.weights).of_order)
    for r in integrator.method.conditions():
        if drift.order < 2 or not r.holds:
            raise ClaimRefused(
                f"{integrator.title} claims strong order 1.5, but {r.condition} gives {float(r.value):.10g} where that "
                f"order asks {r.wanted} (and order 2 without noise); correct the coefficients."
            )


@verify.register
def _(integrator: Stochastic) -> None:
    """The order without noise, and the strong order on a problem with known solution, both by observation."""
    confirm_order(integrator)
    noise = next(n for n in ("diagonal", "additive") if n in integrator.strong_orders)
    seen = observed_strong_order(integrator, KnownPath(noise, integrator.interpretations[0]))
    stated = integrator.strong_orders[noise]
    if not seen > stated - 0.15:
        raise ClaimRefused(
            f"{integrator.title} claims strong order {stated} on {noise} noise, but halving the step on a problem with "
            f"known solution shows {seen:.2f}; correct step() or the stated order."
        )


@facts_of.register
def _(integrator: Stochastic) -> Facts:
    """Those of the method without noise."""
    return declared_facts(integrator) if integrator.limit is None else of_tableau(integrator.limit)
