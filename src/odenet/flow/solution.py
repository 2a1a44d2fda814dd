"""The result of an initial value problem: values, status in words, dense output."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, SolveFailed
from ..integrators.dense import hermite

STATUSES = {
    "success": "the error was controlled to the tolerance, or found small by a second run",
    "completed": "fixed steps, finite; the error was not estimated",
    "suspect": "fixed steps, finite, but h times the local Lipschitz constant is large",
    "inaccurate": "a run with half the step size differs by more than the tolerance",
    "max_steps": "the limit on the number of steps was reached",
    "non_finite": "the state became infinite or NaN",
    "step_underflow": "the step size became too small to advance t",
}
REACHED = frozenset({"success", "completed", "suspect", "inaccurate"})


@dataclass(frozen=True, repr=False)
class Solution:
    """y(t) at the requested times, and how it was obtained.

    y        (T, *state); tuples and dicts of tensors keep their form, each with the axis T in front. After an early
             end only the times that were reached
    t        (T,)
    status   one of STATUSES; message says it in a sentence
    t_last   the last time with a good state
    stats    nfe, accepted, rejected
    """

    y: Any
    t: Tensor
    status: str
    message: str
    t_last: float
    stats: dict[str, int]
    error: float | None = None
    _nodes: list[tuple[float, Tensor]] = field(default_factory=list)
    _f: Callable[[float, Tensor], Tensor] | None = None
    _unpack: Callable[[Tensor], Any] | None = None

    @property
    def success(self) -> bool:
        """Whether the last time was reached with the error controlled."""
        return self.status == "success"

    def __call__(self, t: float) -> Any:
        """Dense output: the cubic Hermite interpolant of the steps, error O(h^4), no gradient.

        Raises BadInput outside the times that were reached.
        """
        times = [s for s, _ in self._nodes]
        forwards = times[-1] >= times[0]
        low, high = (times[0], times[-1]) if forwards else (times[-1], times[0])
        if not low <= t <= high:
            raise BadInput(f"the solution is known on [{low:.6g}, {high:.6g}], not at t = {t}.")
        i = bisect_right(times, t) if forwards else bisect_right([-s for s in times], -t)
        i = min(max(i, 1), len(times) - 1)
        (t0, y0), (t1, y1) = self._nodes[i - 1], self._nodes[i]
        with torch.no_grad():
            y = hermite(t0, y0, self._f(t0, y0), t1, y1, self._f(t1, y1), t)  # type: ignore[misc]
        return self._unpack(y) if self._unpack else y

    def __repr__(self) -> str:
        return (
            f"Solution({self.status}: {self.message} t = {self.t_last:.6g}, "
            + ", ".join(f"{k} {v}" for k, v in self.stats.items())
            + ")"
        )


def failed(solution: Solution) -> SolveFailed:
    """The exception for a solution that ended early."""
    return SolveFailed(solution.message, solution)
