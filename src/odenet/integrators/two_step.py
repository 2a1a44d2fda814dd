"""The two-step family of networks: ResNet, momentum, leapfrog, the two-step midpoint rule and LM-ResNet."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..types import Carry, Params, State, Step, Time
from .base import Integrator, verify
from .order import attained_order, multistep_conditions, root_condition


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
