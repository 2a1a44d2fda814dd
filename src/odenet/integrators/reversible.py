"""Reversible methods for any right-hand side: the step before is recovered from the step after, to rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible, StepFailed
from ..types import Carry, Params, State, Step, Time
from .adaptive import scaled_norm
from .base import Facts, Integrator, build, facts_of, later, verify
from .runge_kutta import RungeKutta
from .stages import transformed

APART = 1e3  # tolerances between the two states of an adaptive reversible method, which both are the solution


class AsynchronousLeapfrog(Integrator):
    """y_m = y + h/2 v,  v' = 2 f(t + h/2, y_m) - v,  y' = y_m + h/2 v', from v = f(t, y).

    The carry is (v,). Second order for one evaluation per step, at steps of any size; its eigenvalues are those of
    the two-step midpoint rule, so v of a decaying component picks up an alternating part that grows like
    exp(|lambda| t): choose it for oscillating or weakly damped fields, or over short times.
    Mutze 2013; Zhuang et al. 2021 (MALI), whose damping is left out.
    """

    order = 2
    stages = 1
    history = 1
    reversible = True
    cite = "Mutze 2013; Zhuang, Dvornek, Tatikonda & Duncan 2021 (MALI)"
    when = "Reversible training of any field, one evaluation per step, where little is damped."

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """Half a drift with v, the evaluation, half a drift with its reflection."""
        v = carry[0] if carry else f(t, y)
        half = _half(h, y)
        middle = y + half * v
        v = 2 * f(later(t, 0.5, h), middle) - v
        return Step(middle + half * v, None, (v,))

    def undo(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """The same reflection, backwards. Raises Incompatible without the carry."""
        (v,) = _memory(carry, self)
        half = _half(h, y)
        middle = y - half * v
        v = 2 * f(later(t, 0.5, h), middle) - v
        return Step(middle - half * v, None, (v,))


@dataclass(frozen=True)
class ReversibleWrapper:
    """y' = l y + (1 - l) z + Psi_h(t, z),  z' = z - Psi_{-h}(t + h, y'),  Psi_h(t, y) = base step - y,  z_0 = y_0.

    base:      name of an explicit Runge-Kutta method; its order is kept, its evaluations are doubled
    coupling:  l, in (0, 1]
    Going back divides y by l, so rounding grows by 1/l per step at least: e in 1/(1 - l) steps. Going forwards, a
    component with rate -lambda is damped only while h lambda < -log l (about 1 - l); beyond, y - z grows like
    exp(lambda t), as in every method that remembers everything. With the coupling nearer to 0 more is damped and
    less can be recovered. Oscillations are stable nearly as far as for the base.
    An adaptive base gives the error estimate of Psi_h(t, z), and where y and z are far apart the step is refused with
    StepFailed. McCallum & Foster 2024.
    Raises BadInput for a coupling outside (0, 1].
    """

    base: str = "rk4"
    coupling: float = 0.999
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        if not 0.0 < self.coupling <= 1.0:
            raise BadInput(f"the coupling of a reversible method lies in (0, 1]; got {self.coupling}.")


class Reversible(Integrator):
    """Engine of a `ReversibleWrapper`; the carry is (z,)."""

    history = 1
    reversible = True

    def __init__(self, method: ReversibleWrapper, base: RungeKutta) -> None:
        self.method, self.base, self.coupling = method, base, method.coupling
        self.order, self.adaptive = base.order, base.adaptive
        self.cite, self.when = method.cite, method.when
        self.stages = 2 * base.stages + (base.adaptive and base.tableau.fsal)
        self._increment = [float(c) for c in base.tableau.stability_polynomial()[1:]]

    def step(
        self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None, estimate: bool = True
    ) -> Step:
        """One step; `estimate=False` leaves out the error."""
        z = carry[0] if carry else y
        watched = estimate and self.adaptive and bool(carry)
        if watched:  # no step size helps once they are, so the run ends
            _refuse_apart(f, t, h, y, z, APART)
        there = self.base.step(f, t, z, h, (), None, estimate)
        new = self.coupling * (y - z) + there.y  # l y + (1 - l) z + (there - z)
        after = z - self._back(f, t, h, new)
        if watched:
            _refuse_apart(f, t, h, new, after, 10 * APART)
        return Step(new, there.error, (after,), (), there.order)

    def undo(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """z from z', then y from y'. Raises Incompatible without the carry."""
        (after,) = _memory(carry, self)
        z = after + self._back(f, t, h, y)
        there = self.base.step(f, t, z, h, (), None, False)
        return Step(z + (y - there.y) / self.coupling, None, (z,))

    def stability_function(self, z: Tensor) -> Tensor:
        """Dominant eigenvalue of (y, z) -> (y', z'): 1 + d with d^2 + (1 - l + w) d + w = 0, w = Q(-z) (1 - l + Q(z)).

        Q = R - 1 of the base. The determinant is l.
        """
        w = self._q(-z) * (1 - self.coupling + self._q(z))
        middle = -(1 - self.coupling + w) / 2
        root = torch.sqrt(middle * middle - w)
        pair = torch.stack((1 + (middle + root), 1 + (middle - root)))
        return pair.gather(0, pair.abs().argmax(0, keepdim=True)).squeeze(0)

    def _q(self, z: Tensor) -> Tensor:
        value = torch.zeros_like(z)
        for c in reversed(self._increment):
            value = (value + c) * z
        return value

    def _back(self, f: Any, t: Time, h: Time, y: State) -> State:
        """Psi_{-h}(t + h, y)."""
        return self.base.step(f, t + h, y, -h, (), None, False).y - y


def _refuse_apart(f: Any, t: Time, h: Time, y: State, z: State, most: float) -> None:
    """Raise StepFailed where y and z, both of them the solution, differ by more than so many tolerances."""
    if getattr(f, "tolerance", None) is None or isinstance(h, Tensor) or transformed():
        return
    gap = float(scaled_norm((y - z).detach(), y.detach(), z.detach(), *f.tolerance))
    if gap > most:
        raise StepFailed(
            f"the two states of a reversible method differ by {gap:.3g} tolerances at t = {float(t):.6g}: something is "
            'damped faster than such methods can follow, or the solution ends there; choose one such as "dopri5".'
        )


def _half(h: Time, y: State) -> Time:
    return h.to(y.dtype) * 0.5 if isinstance(h, Tensor) else 0.5 * h


def _memory(carry: Carry, method: Integrator) -> Carry:
    if not carry:
        raise Incompatible(f"{method.title} goes back from a state and the memory that its step left; got none.")
    return carry


@build.register
def _(data: ReversibleWrapper) -> Reversible:
    from .registration import resolve

    base = resolve(data.base)
    if not isinstance(base, RungeKutta):
        raise BadInput(f'base={data.base!r} is no explicit Runge-Kutta method; choose one such as "rk4".')
    return Reversible(data, base)


@verify.register
def _(integrator: Reversible) -> None:
    """Nothing is claimed: the order is that of the base, checked there (McCallum & Foster 2024, theorem 2.1)."""


@facts_of.register
def _(integrator: AsynchronousLeapfrog) -> Facts:
    return Facts(order=2, stages=1, zero_stable=True, real_interval=0.0, imag_interval=1.0)


@facts_of.register
def _(integrator: Reversible) -> Facts:
    return Facts(
        order=integrator.order,
        order_low=integrator.base.facts.order_low,
        stages=integrator.stages,
        zero_stable=True,
        real_interval=_interval(integrator, -1.0),
        imag_interval=_interval(integrator, 1j),
    )


def _interval(method: Reversible, direction: complex, reach: float = 20.0, points: int = 20001) -> float:
    """Where the amplification first exceeds 1 by more than rounding, 1e-12."""

    def grows(x: Tensor) -> Tensor:
        return method.amplification(x * direction).abs() > 1 + 1e-12

    low, width = 0.0, reach
    for _ in range(3):  # ever finer grids
        grid = torch.linspace(low, low + width, points, dtype=torch.float64)
        outside = grows(grid[1:])
        if not bool(outside.any()):
            return math.inf
        low, width = float(grid[int(outside.int().argmax())]), width / (points - 1)
    return low
