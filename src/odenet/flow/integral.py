"""Integrals along a flow, int L(t, x(t), theta(t), f) |dt| for every sample, from the steps that the flow takes.

Explicit Runge-Kutta methods sum L over their own stages, h sum_i b_i L(t + c_i h, x_i): the same numbers as if the
integral were one more component of the state, and so of the same order. Other methods of order 2 and more use Simpson's
rule on the cubic through both ends of the step, which is of order min(p, 4); methods of order 1 take h L at its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..fields import Rhs
from ..integrators import RungeKutta
from ..types import Function, Params, State, Step, Time
from . import memory
from .module import Flow
from .record import Mark, Record

# L(t, x, theta, f) -> (B,); theta are the effective weights at t, and f(t, x) is the right-hand side, a `Velocity`
Running = Callable[[Time, State, Params, Function], Tensor]


@dataclass(frozen=True)
class Velocity:
    """f(s, z) as a running cost sees it at (t, x), where its value may be `known`: it is not evaluated again there."""

    rhs: Rhs
    t: float
    x: State
    known: State | None

    def __call__(self, s: Time, z: State) -> State:
        return self.known if self.known is not None and z is self.x and s is self.t else self.rhs(s, z)

    def potential(self, s: Time, z: State) -> Tensor:
        """Phi with f = -grad Phi, (B,). Raises Incompatible for a field without."""
        return self.rhs.potential(s, z)


class Integral:
    """The integral of L over the steps it has been shown; `march.run(..., watch=Integral(flow, L))`.

    total: (B,), with a graph to whatever the steps depend on
    Raises Incompatible for flows with noise, or whose method steps y'' = f: there f is not the velocity.
    """

    def __init__(self, flow: Flow, running: Running) -> None:
        if refused := flow.integrator.needs & {"noise", "second_order"}:
            what = "noise" if "noise" in refused else "a field of second order that it does not write as (y, v)' = f"
            raise Incompatible(
                f"{flow.integrator.name!r} steps {what}, so no running cost is integrated along it; use 'rk4' or "
                "'verlet' on a field without."
            )
        self.running, self.method = running, flow.integrator
        self.total: Tensor = torch.zeros(())

    def __call__(self, mark: Mark, before: State, step: Step, rhs: Rhs) -> str:
        """Add one step; "" as a march wants to hear from a watch."""
        part = self._stages if isinstance(self.method, RungeKutta) else self._simpson
        self.total = self.total + abs(mark.h) * part(mark, before, step, rhs)
        return ""

    def _stages(self, mark: Mark, y: State, step: Step, rhs: Rhs) -> Tensor:
        tableau, terms = self.method.tableau, []  # type: ignore[attr-defined]
        for c, row, b, k in zip(tableau.nodes, tableau.matrix, tableau.weights, step.slopes):
            if b:
                moves = [mark.h * float(a) * other for a, other in zip(row, step.slopes) if a]
                x = torch.stack([y, *moves]).sum(0) if moves else y
                terms.append(float(b) * self._at(mark.t + float(c) * mark.h, x, rhs, k))
        return torch.stack(terms).sum(0)

    def _simpson(self, mark: Mark, y: State, step: Step, rhs: Rhs) -> Tensor:
        t, h, new = mark.t, mark.h, step.y
        f = rhs(t, y)
        first = self._at(t, y, rhs, f)
        if self.method.order < 2:
            return first
        f_new = rhs(t + h, new)
        middle = 0.5 * (y + new) + h / 8 * (f - f_new)
        inner = self._at(t + h / 2, middle, rhs, None)
        return (first + 4 * inner + self._at(t + h, new, rhs, f_new)) / 6

    def _at(self, t: float, x: State, rhs: Rhs, known: State | None) -> Tensor:
        """L at a point of the step; `known` is f there."""
        value = self.running(t, x, rhs.weights(t), Velocity(rhs, t, x, known))
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise BadInput(
                f"a running cost gives one number for each of the {len(x)} samples, (B,), but it returned {given}; "
                "sum over the features, as in x.square().flatten(1).sum(1)."
            )
        return value


def integral(flow: Flow, y: State, running: Running) -> tuple[State, Tensor]:
    """(y(t_N), int L |dt|) with y (B, ...) and the integral (B,), differentiable; fixed or adaptive steps.

    The state that L sees is the one that is stepped, (y, v) where a field of second order is written as one of first
    order. Without dropout, and the graph is kept whole whatever the gradient of the flow. Raises BadInput for L of
    another shape, Incompatible as `Integral`, SolveFailed.
    """
    gathered, record = Integral(flow, running), Record()
    start = flow.lift(memory.admitted(flow.field, y))
    states: list[Any] = flow.march.run(start, flow.theta(), watch=gathered, record=record, keep=False)[0]
    memory.refuse_failed(flow, record)
    return flow.lower(states[-1]), gathered.total
