"""Linear multistep methods on equal steps: explicit, implicit and PECE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..rational import Number, exact_row, is_exact
from ..types import Carry, Params, State, Step, Time
from . import newton
from .base import Facts, Integrator, advance, build, facts_of, verify
from .characteristic import characteristic, dominant_root, pece_interval, verify_formula
from .order import attained_order, multistep_conditions, root_condition
from .stages import Stages, recall, with_extras


@dataclass(frozen=True)
class Multistep:
    """sum_{j=0}^{m} alpha_j y_{n+j} = h sum_{j=0}^{m} beta_j f_{n+j}, equal steps h.

    alpha, beta: m + 1 numbers each, oldest first: "0 -1 1" and "-1/2 3/2 0" is Adams-Bashforth 2
    starter:     name of the one-step method that takes the first m - 1 steps, of order >= order - 1; stable where
                 the method is: implicit for an implicit one
    predictor:   beta of an explicit formula with the same alpha. Then the method is PECE: predict, evaluate, correct
                 once, evaluate; no equations are solved. Its order is >= order - 1.
    Without a predictor, beta_m != 0 makes the method implicit: Newton solves y - h beta_m f(t, y) = known.
    Choose BDF formulas for stiff problems, Adams formulas where f is dear and smooth.
    Raises BadInput for wrong lengths. Hairer, Norsett & Wanner I, equation (III.2.1).
    """

    alpha: str
    beta: str
    order: int
    starter: str
    predictor: str | None = None
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        alpha, beta = exact_row(self.alpha), exact_row(self.beta)
        if len(alpha) != len(beta) or len(alpha) < 2:
            raise BadInput(f"alpha has {len(alpha)} and beta {len(beta)} entries; both have m + 1, with m >= 1 steps.")
        if not alpha[-1]:
            raise BadInput("the last alpha is zero, so the new value does not occur; drop it or correct it.")
        if self.predictor is None:
            return
        guess = exact_row(self.predictor)
        if len(guess) != len(alpha) or guess[-1] or not beta[-1]:
            raise BadInput(
                f"a predictor has m + 1 = {len(alpha)} entries, the last 0, and predicts for an implicit formula "
                f"(last beta not 0); got predictor={self.predictor!r}, beta={self.beta!r}."
            )

    @cached_property
    def rho(self) -> tuple[Number, ...]:
        """alpha, scaled so that the last is 1."""
        return self._scaled(self.alpha)

    @cached_property
    def sigma(self) -> tuple[Number, ...]:
        """beta in the same scaling."""
        return self._scaled(self.beta)

    @cached_property
    def sigma_predictor(self) -> tuple[Number, ...]:
        """beta of the predictor in the same scaling; () without one."""
        return () if self.predictor is None else self._scaled(self.predictor)

    @property
    def implicit(self) -> bool:
        """Whether a step solves equations."""
        return bool(self.sigma[-1]) and self.predictor is None

    def _scaled(self, row: str) -> tuple[Number, ...]:
        last = exact_row(self.alpha)[-1]
        return tuple(x / last for x in exact_row(row))


class LinearMultistep(Integrator):
    """Engine of a `Multistep` method without predictor, for equal steps.

    The carry holds what the formula reads of the past, oldest first: slopes f (Adams), states y (BDF), or (y, f)
    alternating in general. While it is short, the starter steps. Raises StepFailed where Newton does not converge.
    """

    def __init__(self, method: Multistep) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.implicit = method.implicit
        self.past = _Past(method)
        self.history = self.past.length
        self._newest = float(method.sigma[-1])
        if method.implicit:
            self.stability_function = self._dominant_root

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step with the same h as the steps that gave `carry`."""
        memory = self.past.with_present(f, t, y, carry)
        if not self.past.full(memory):
            return self.past.begin(f, t, y, h, memory)
        new = self.past.known(y, h, memory)
        if self.implicit:
            gamma = _typed(h, y) * self._newest
            guess = (self.past.extrapolated(y, memory) - new) / gamma
            new = new + gamma * implicit_slope(f, t + h, new, gamma, y, guess)
        return Step(new, None, self.past.without_oldest(memory), self.past.slopes(memory))

    def _dominant_root(self, z: Tensor) -> Tensor:
        return dominant_root(characteristic(self.method, z))


class PredictorCorrector(Integrator):
    """Engine of a `Multistep` method with a predictor, in the mode PECE: two evaluations per step.

    y* = known* ,  y_{n+1} = known + h beta_m f(t_{n+1}, y*) ; f(t_{n+1}, y_{n+1}) is what the next step reads.
    """

    stages = 2

    def __init__(self, method: Multistep) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.past = _Past(method)
        self.history = self.past.length
        self._newest = float(method.sigma[-1])

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step with the same h as the steps that gave `carry`."""
        memory = self.past.with_present(f, t, y, carry)
        if not self.past.full(memory):
            return self.past.begin(f, t, y, h, memory)
        slope = f(t + h, self.past.predicted(y, h, memory))
        new = advance(self.past.known(y, h, memory), h, [(0, self._newest)], [slope])
        return Step(new, None, self.past.without_oldest(memory), self.past.slopes(memory))


class _Past:
    """What a multistep formula reads of the steps before, and the combinations that it takes of it."""

    def __init__(self, method: Multistep) -> None:
        from .registration import get

        self.length = len(method.rho) - 2
        self._alphas = [-float(a) for a in method.rho[:-2]]
        self._now = -float(method.rho[-2])
        self._betas = _terms(method.sigma)
        self._predictor = _terms(method.sigma_predictor)
        self._states = any(self._alphas)
        self._slopes = bool(self._betas or self._predictor)
        self._width = self._states + self._slopes
        self._starter = starter = get(method.starter)
        if starter.history or starter.needs:
            raise BadInput(
                f"starter {method.starter!r} remembers steps or needs a special field; use an explicit Runge-Kutta "
                'method such as "rk4", or an implicit one such as "sdirk2".'
            )

    @property
    def starter_order(self) -> int:
        return self._starter.order

    def with_present(self, f: Any, t: Time, y: State, carry: Carry) -> Carry:
        """The memory with the entries of (t, y) appended."""
        if self._states and self._slopes:
            return (*carry, y, f(t, y))
        return (*carry, f(t, y) if self._slopes else y)

    def full(self, memory: Carry) -> bool:
        return len(memory) > self.length * self._width

    def without_oldest(self, memory: Carry) -> Carry:
        return memory[self._width :]

    def slopes(self, memory: Carry) -> tuple[State, ...]:
        """The newest slope, where one is known."""
        return memory[-1:] if self._slopes else ()

    def begin(self, f: Any, t: Time, y: State, h: Time, memory: Carry) -> Step:
        """A step of the starter."""
        from .runge_kutta import RungeKutta

        if isinstance(self._starter, RungeKutta):
            slopes = self.slopes(memory)  # the first stage, where it is known
            new = self._starter.step(f, t, y, h, slopes, None, estimate=False).y
        else:
            new = self._starter.step(f, t, y, h, (), None).y
        return Step(new, None, memory, self.slopes(memory))

    def known(self, y: State, h: Time, memory: Carry) -> State:
        """-sum_{j<m} alpha_j y_{n+j} + h sum_{j<m} beta_j f_{n+j}."""
        return self._combined(y, h, memory, self._betas)

    def predicted(self, y: State, h: Time, memory: Carry) -> State:
        """The same with the slopes weighed by the predictor."""
        return self._combined(y, h, memory, self._predictor)

    def extrapolated(self, y: State, memory: Carry) -> State:
        """The polynomial through the states that are remembered, one step on: where Newton's iteration starts."""
        states = [*memory[: -self._width : self._width], y] if self._states else [y]
        n = len(states)
        weights = [(-1.0) ** (n - 1 - i) * math.comb(n, i) for i in range(n)]
        return sum((w * state for w, state in zip(weights, states)), torch.zeros_like(y))

    def _combined(self, y: State, h: Time, memory: Carry, betas: list[tuple[int, float]]) -> State:
        total = y if self._now == 1.0 else self._now * y
        if self._states:
            for state, a in zip(memory[:: self._width], self._alphas):
                total = total + a * state if a else total
        return advance(total, h, betas, memory[self._width - 1 :: self._width]) if betas else total


def _typed(h: Time, y: State) -> Time:
    return h.to(y.dtype) if isinstance(h, Tensor) else h


def _terms(sigma: Sequence[Number]) -> list[tuple[int, float]]:
    return [(i, float(b)) for i, b in enumerate(sigma[:-1]) if b]


@build.register
def _(data: Multistep) -> Integrator:
    return LinearMultistep(data) if data.predictor is None else PredictorCorrector(data)


@verify.register
def _(integrator: LinearMultistep) -> None:
    _verify_with_starter(integrator)


@verify.register
def _(integrator: PredictorCorrector) -> None:
    _verify_with_starter(integrator)


def _verify_with_starter(integrator: LinearMultistep | PredictorCorrector) -> None:
    method, who, starter = integrator.method, integrator.title, integrator.past.starter_order
    verify_formula(method, who)
    if integrator.history and starter < method.order - 1:
        raise ClaimRefused(
            f"{who} claims order {method.order} and starts with {method.starter!r} of order "
            f"{starter}; use a starter of order {method.order - 1} or more."
        )


def implicit_slope(f: Any, t: Time, known: State, gamma: Any, y: State, guess: State) -> State:
    """k = f(t, known + gamma k) by Newton's iteration from `guess`; y scales what is left of the error.

    Its derivative is that of the exact solution. Raises StepFailed where the iteration does not contract.
    """
    stages = Stages(with_extras(f), (t,), known.unsqueeze(0), gamma, ((1.0,),), y)
    memory = recall(stages.f, y)
    memory.eta = 1.0  # no contraction is taken for granted: what one step leaves unsolved, all later ones remember
    return newton.solve(stages, guess.unsqueeze(0), memory)[0]


@facts_of.register
def _(integrator: PredictorCorrector) -> Facts:
    method = integrator.method
    conditions = multistep_conditions(method.rho, method.sigma)
    leading = float(list(conditions(method.order + 1))[-1].value)
    predicted = multistep_conditions(method.rho, method.sigma_predictor)
    if attained_order(predicted, at_most=method.order) < method.order:
        leading += float(method.sigma[-1]) * float(list(predicted(method.order))[-1].value)
    return Facts(
        order=method.order,
        stages=2,
        exact=all(is_exact(x) for x in (*method.rho, *method.sigma, *method.sigma_predictor)),
        error_constant=leading / float(sum(method.sigma, Fraction(0))),
        zero_stable=root_condition(method.rho),
        real_interval=pece_interval(method, -1.0),
        imag_interval=pece_interval(method, 1j),
        a_stable=False,
    )
