"""The result of an initial value problem: values, status in words, dense output, events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BadInput, SolveFailed
from ..fields import Rhs
from ..integrators import Integrator, RungeKutta
from ..integrators.dense import between, chord, interpolate

STATUSES = {
    "success": "the error was controlled to the tolerance, or found small by a second run",
    "completed": "fixed steps, finite; the error was not estimated",
    "suspect": "fixed steps, finite, but the steps leave over too much for the result to be trusted",
    "inaccurate": "a run with half the step size differs by more than the tolerance",
    "event": "a terminal event happened",
    "max_steps": "the limit on the number of steps was reached",
    "time_budget": "the limit on the seconds was reached",
    "non_finite": "the state became infinite or NaN",
    "step_underflow": "the step size became too small to advance t",
    "newton_failed": "the equations of an implicit step were not solved",
}
REACHED = frozenset({"success", "completed", "suspect", "inaccurate", "event"})


class Hits(NamedTuple):
    """When and where an event happened: t (n,), y (n, *state) in the form of y0, both differentiable."""

    t: Tensor
    y: Any


@dataclass(frozen=True)
class Dense:
    """What dense output needs: the nodes of the steps and the right-hand side; graph: whether it has a gradient."""

    integrator: Integrator
    rhs: Rhs
    times: list[float]
    states: list[Tensor]
    end: float
    graph: bool = False

    def __call__(self, when: float | Tensor) -> Tensor:
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()):
            return self._at(when, float(when.detach()) if isinstance(when, Tensor) else when)

    def _at(self, when: float | Tensor, t: float) -> Tensor:
        times = self.times
        forwards = times[-1] >= times[0]
        low, high = sorted((times[0], self.end))
        if not low <= t <= high:
            raise BadInput(f"the solution is known on [{low:.6g}, {high:.6g}], not at t = {t}.")
        if len(times) < 2:
            return self.states[0]
        i = bisect_right(times, t) if forwards else bisect_right(times, -t, key=lambda s: -s)
        i = min(max(i, 1), len(times) - 1)
        t0, y0, h = times[i - 1], self.states[i - 1], times[i] - times[i - 1]
        theta = ((when if isinstance(when, Tensor) and when.requires_grad else t) - t0) / h
        if isinstance(self.integrator, RungeKutta):  # its own polynomial needs the stages: the step is taken again
            step = self.integrator.step(self.rhs, t0, y0, h, (), None)
            return interpolate(self.integrator, self.rhs, t0, h, y0, step, theta)
        if "noise" in self.integrator.needs:
            return chord(y0, self.states[i], theta)
        y1, f0, f1 = self.states[i], self.rhs(t0, y0), self.rhs(times[i], self.states[i])
        return between(self.integrator, h, y0, f0, y1, f1, theta)


@dataclass(frozen=True, repr=False)
class Solution:
    """y(t) at the requested times, and how it was obtained.

    y        (T, *state); nests of tensors keep their form, each with the axis T in front. After an early end only the
             times that were reached; after a terminal event its time and state are the last
    t        (T,); with per_sample and times of their own (T, B)
    status   one of STATUSES, a list of B with per_sample; message says it in a sentence
    t_last   the last time with a good state, a list of B with per_sample
    stats    nfe, accepted, rejected; of implicit methods also jacobians, newton (iterations), lu (factorisations)
    events   for every event of `solve(events=...)` its Hits
    error    with check=True the largest difference to half the steps, in units of the tolerance
    """

    y: Any
    t: Tensor
    status: Any
    message: str
    t_last: Any
    stats: dict[str, Any]
    events: Sequence[Hits] = ()
    error: float | None = None
    _dense: Callable[[float | Tensor], Tensor] | None = None
    _nest: Callable[[Tensor], Any] = field(default=lambda y: y)

    @property
    def success(self) -> bool:
        """Whether the last time was reached with the error controlled."""
        return self.status == "success" or (isinstance(self.status, list) and set(self.status) == {"success"})

    @property
    def nodes(self) -> tuple[list[float], list[Tensor]]:
        """Times and states of all steps, the start among them. Raises BadInput where they were not kept."""
        if not isinstance(self._dense, Dense):
            raise BadInput("this solve kept no nodes of its steps; ask for the times in t instead.")
        return self._dense.times, self._dense.states

    def __call__(self, t: float | Sequence[float] | Tensor) -> Any:
        """Dense output at a time, or at several on a new first axis: a Runge-Kutta method's own polynomial, else the
        cubic Hermite interpolant of the steps, of stochastic solves the straight line between them. Differentiable, in
        t too, where the solve had gradient="autograd" and t without one; else it has no gradient.

        Raises BadInput outside the times that were reached, and where the nodes were not kept: per_sample and gradients
        that promise flat memory.
        """
        if self._dense is None:
            raise BadInput("this solve kept no nodes for dense output; ask for the times in t instead.")
        several = isinstance(t, (list, tuple)) or (isinstance(t, Tensor) and t.dim() > 0)
        moments: Any = t if several else [t]
        values = [self._dense(s if isinstance(s, Tensor) else float(s)) for s in moments]
        return self._nest(torch.stack(values) if several else values[0])

    def __repr__(self) -> str:
        status = self.status if isinstance(self.status, str) else ", ".join(sorted(set(self.status)))
        last = f"t = {self.t_last:.6g}, " if isinstance(self.t_last, float) else ""
        counts = ", ".join(f"{k} {v}" for k, v in self.stats.items() if not isinstance(v, Tensor))
        return f"Solution({status}: {self.message} {last}{counts})"


def failed(solution: Solution) -> SolveFailed:
    """The exception for a solution that ended early."""
    return SolveFailed(solution.message, solution)
