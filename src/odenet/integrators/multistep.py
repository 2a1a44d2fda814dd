"""Explicit linear multistep methods, and the two-step family: ResNet, momentum, leapfrog, LM-ResNet."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused, NotBuiltYet
from ..rational import Number, exact_row
from ..types import Carry, Params, State, Step, Time
from .base import Integrator, advance, build, verify
from .order import attained_order, multistep_conditions, refuse_unless, root_condition


@dataclass(frozen=True)
class Multistep:
    """sum_{j=0}^{m} alpha_j y_{n+j} = h sum_{j=0}^{m} beta_j f_{n+j}, equal steps h, explicit (beta_m = 0).

    alpha, beta: m + 1 numbers each, oldest first: "0 -1 1" and "-1/2 3/2 0" is Adams-Bashforth 2
    starter:     name of the Runge-Kutta method that takes the first m - 1 steps, of order >= order - 1
    """

    alpha: str
    beta: str
    order: int
    starter: str
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        alpha, beta = exact_row(self.alpha), exact_row(self.beta)
        if len(alpha) != len(beta) or len(alpha) < 2:
            raise BadInput(f"alpha has {len(alpha)} and beta {len(beta)} entries; both have m + 1, with m >= 1 steps.")
        if not alpha[-1]:
            raise BadInput("the last alpha is zero, so the new value does not occur; drop it or correct it.")
        if beta[-1]:
            raise NotBuiltYet("implicit multistep methods (last beta not zero) are not part of this version.")

    @cached_property
    def rho(self) -> tuple[Number, ...]:
        """alpha, scaled so that the last is 1."""
        alpha = exact_row(self.alpha)
        return tuple(a / alpha[-1] for a in alpha)

    @cached_property
    def sigma(self) -> tuple[Number, ...]:
        """beta in the same scaling."""
        last = exact_row(self.alpha)[-1]
        return tuple(b / last for b in exact_row(self.beta))


class LinearMultistep(Integrator):
    """Engine of an explicit `Multistep` method for equal steps.

    The carry holds what the formula reads of the past, oldest first: slopes f for Adams methods, (y, f)
    alternating in general. While it is short, the starter steps.
    """

    def __init__(self, method: Multistep) -> None:
        from .registration import get
        from .runge_kutta import RungeKutta

        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.history = len(method.rho) - 2
        starter = get(method.starter)
        if not isinstance(starter, RungeKutta):
            raise BadInput(f'starter {method.starter!r} is not an explicit Runge-Kutta method; use one such as "rk4".')
        self.starter = starter
        past_states = [-float(a) for a in method.rho[:-2]]
        self._now = -float(method.rho[-2])
        self._states = any(past_states)
        slopes = [(i, float(b)) for i, b in enumerate(method.sigma[:-1]) if b]
        self._slopes, self._past_states = slopes, past_states

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step with the same h as the steps that gave `carry`."""
        slope = f(t, y)
        memory = (*carry, y, slope) if self._states else (*carry, slope)
        width = 2 if self._states else 1
        if len(memory) <= self.history * width:
            return Step(self.starter.step(f, t, y, h, (slope,), None, estimate=False).y, None, memory)
        total = y if self._now == 1.0 else self._now * y
        if self._states:
            for state, a in zip(memory[::2], self._past_states):
                total = total + a * state if a else total
        new = advance(total, h, self._slopes, memory[width - 1 :: width])
        return Step(new, None, memory[width:])


@build.register
def _(data: Multistep) -> LinearMultistep:
    return LinearMultistep(data)


@verify.register
def _(integrator: LinearMultistep) -> None:
    method, who = integrator.method, integrator.title
    refuse_unless(who, method.order, multistep_conditions(method.rho, method.sigma))
    if not root_condition(method.rho):
        raise ClaimRefused(f"{who} has a root of sum_j alpha_j z^j outside the unit disc or twice on it: it diverges.")
    if integrator.starter.order < method.order - 1:
        raise ClaimRefused(
            f"{who} claims order {method.order} and starts with {method.starter!r} of order "
            f"{integrator.starter.order}; use a starter of order {method.order - 1} or more."
        )


class TwoStep(Integrator):
    """y_{n+1} = (1 - k) y_n + k y_{n-1} + gain h^power f(t_n, y_n).

    k:      a number, or "learned": one per step, initially uniform on [-0.1, 0]
    gain:   a number; "paper" = 1 (LM-ResNet as published: for k != 0 inconsistent with y' = f, of order 0);
            "consistent" = 1 + k, the scaling under which the solution is that of y' = f
    power:  1 for y' = f, 2 for y'' = f
    start:  "paper": y_{-1} = y_0, first order; "taylor": y_{-1} from the Taylor polynomial (for power 2 with
            zero initial velocity), second order. Both evaluate f once.
    k = 0 is ResNet, k = -gamma the momentum network v <- gamma v + (1 - gamma) h f (gain "consistent"),
    k = -1 with power 2 leapfrog, k = 1 with gain 2 the two-step midpoint rule. Zero-stable for -1 < k <= 1.
    Reversible for a fixed k != 0; `order` is derived. Steps are equal. Raises BadInput for other arguments.
    """

    def __init__(
        self,
        k: float | Literal["learned"],
        gain: float | Literal["consistent", "paper"] = "consistent",
        power: Literal[1, 2] = 1,
        start: Literal["paper", "taylor"] = "paper",
        cite: str = "",
        when: str = "",
    ) -> None:
        _check_two_step(k, gain, power, start)
        self.k, self.power, self.start, self.cite, self.when = k, power, start, cite, when
        self.gain: float | str = 1.0 if gain == "paper" else gain
        self.history = 1
        if k == "learned":
            self.learnable = {"k": (-0.1, 0.0)}
        else:
            self.reversible = float(k) != 0.0
        if power == 2:
            self.needs = frozenset({"second_order"})
        self.order = _two_step_order(self)
        self.symplectic = power == 2 and k == -1

    def parameters(self, coef: Params | None = None) -> tuple[Any, Any]:
        """(k, gain) of one step."""
        if self.k != "learned":
            k: Any = float(self.k)
        elif coef is None:
            raise BadInput('this two-step method learns k; pass coef={"k": k_n} from coefficients(steps).')
        else:
            k = coef["k"]
        return k, 1 + k if self.gain == "consistent" else self.gain

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step with the same h as the step before; from () it starts itself."""
        k, gain = self.parameters(coef)
        slope = f(t, y)
        if not carry:
            factor = gain if self.start == "paper" else gain - k if self.power == 1 else gain + k / 2
            return Step(y + (factor * h**self.power) * slope, None, (y,))
        return Step(_combine(y, carry[0], slope, k, gain * h**self.power), None, (y,))

    def undo(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """y_{n-1} = (y_{n+1} - (1 - k) y_n - gain h^p f(t_n, y_n)) / k, from y_{n+1} and carry (y_n,)."""
        k, gain = self.parameters(coef)
        (now,) = carry
        slope = f(t, now)
        before = (y - (1 - k) * now - (gain * h**self.power) * slope) / k
        return Step(now, None, (before,))


def _combine(y: State, before: State, slope: State, k: Any, scale: Any) -> State:
    if isinstance(k, Tensor) or isinstance(scale, Tensor):
        return y + k * (before - y) + scale * slope
    if k == 0.0:
        return y + scale * slope
    kept = before if k == 1.0 else torch.add((1 - k) * y, before, alpha=k)
    return kept + scale * slope


def _check_two_step(k: Any, gain: Any, power: Any, start: Any) -> None:
    if not (k == "learned" or isinstance(k, int | float)):
        raise BadInput(f'k is a number or "learned"; got {k!r}.')
    if not (gain in ("consistent", "paper") or isinstance(gain, int | float)):
        raise BadInput(f'gain is a number, "consistent" or "paper"; got {gain!r}.')
    if power not in (1, 2):
        raise BadInput(f"power is 1 for y' = f or 2 for y'' = f; got {power!r}.")
    if start not in ("paper", "taylor"):
        raise BadInput(f'start is "paper" or "taylor"; got {start!r}.')
    if gain == "consistent" and k == -1:
        raise BadInput('gain="consistent" is 1 + k = 0 for k = -1, so f drops out; give the gain as a number.')


def coefficients_of(two_step: TwoStep) -> tuple[list[Fraction], list[Fraction]]:
    """(rho, sigma) of the two-step formula; a learned k at the mean of its initial distribution."""
    k = Fraction(-1, 20) if two_step.k == "learned" else Fraction(str(two_step.k))
    gain = 1 + k if two_step.gain == "consistent" else Fraction(str(two_step.gain))
    return [-k, k - 1, Fraction(1)], [Fraction(0), gain, Fraction(0)]


def is_zero_stable(two_step: TwoStep) -> bool:
    """The root condition; y'' = f allows the double root 1."""
    rho, _ = coefficients_of(two_step)
    return root_condition(rho, double_at_one=two_step.power == 2 and two_step.k == -1)


def _two_step_order(two_step: TwoStep) -> int:
    if not is_zero_stable(two_step):
        return 0
    if two_step.power == 2:  # y_{n+1} - 2 y_n + y_{n-1} = h^2 f is the only consistent member, of order 2
        formula = 2 if (two_step.k, two_step.gain) == (-1, 1) else 0
    else:
        formula = attained_order(multistep_conditions(*coefficients_of(two_step)))
    if two_step.k == 0:  # Euler: y_{-1} does not occur
        return formula
    return min(formula, 2 if two_step.start == "taylor" else 1)


@verify.register
def _(integrator: TwoStep) -> None:
    """The order is derived, so there is no claim; a member whose errors grow at every h is refused."""
    if not is_zero_stable(integrator):
        raise ClaimRefused(
            f"{integrator.title} with k = {integrator.k} is not zero-stable: its errors grow "
            "at every step size; use -1 < k <= 1, or k = -1 with power=2."
        )
