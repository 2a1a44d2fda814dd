"""What `solve` sees of every accepted step: the nodes of dense output, non-finite states, signs of coarse steps."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from ..fields import Rhs
from ..integrators import Integrator
from ..types import State, Step
from .defect import Defect, sample
from .march import CLOCK
from .record import Mark
from .state import all_finite

SUSPECT = 0.07  # of the state: an estimated error above it
UNSTABLE = 1.0  # h times the Lipschitz constant, of methods that show no slopes; they turn unstable between 1 and 3
VISIBLE = 0.5  # smaller moves than this fraction of the state count as that: f may change with t alone
TOGETHER = 16  # steps that are looked at with one host sync, where the state is small
HELD = 2**17  # entries of states held for that
JUDGED = 64  # steps whose error is estimated together
LARGE = 2**13  # entries of a state above which a sample of them is kept for that


class Watch:
    """Called after every accepted step.

    keep:      whether the nodes are kept for dense output
    graph:     whether they keep their gradient
    fixed:     whether steps are fixed, so that nothing else estimates the error
    """

    def __init__(
        self, integrator: Integrator, t0: float, t1: float, y0: State, *, fixed: bool, keep: bool, progress: bool,
        graph: bool = False,
    ) -> None:  # fmt: skip
        self.times: list[float] = [t0]
        self.states: list[Tensor] = [y0 if graph else y0.detach()]
        self.keep, self.fixed, self.graph = keep, fixed, graph
        self._together = max(1, min(TOGETHER, HELD // max(1, y0.numel())))
        self.halves = 0
        self.bad: Tensor | None = None
        self.worst, self.where = 0.0, (math.nan, math.nan)
        self._defect = Defect()
        self._second = "second_order" in integrator.needs
        self._silent = integrator.implicit or bool(integrator.needs & {"noise", "separable", "split", "linear"})
        self._window: list[tuple[Mark, Tensor]] = []
        self._nodes: list[tuple[float, Tensor, Tensor]] = []
        self._unjudged = 0
        self._clocked: bool | None = None
        self._latest: tuple[Mark, Tensor, float, Tensor, Rhs] | None = None
        self._t_last = t0
        self._bar = _Bar(t0, t1) if progress else None

    def restart(self, y0: State) -> None:
        """Forget the run so far; it begins again."""
        self.times, self.states = self.times[:1], [y0 if self.graph else y0.detach()]
        self._window, self._latest, self._t_last = [], None, self.times[0]
        self._nodes, self._unjudged = [], 0
        self._defect, self.worst = Defect(), 0.0

    @property
    def t_last(self) -> float:
        """The last time with a good state."""
        return self._t_last

    def __call__(self, mark: Mark, before: State, step: Step, rhs: Rhs) -> str:
        t, y = mark.t + mark.h, step.y
        if y.requires_grad:
            y = y.detach()
        if self._bar is not None:
            self._bar.show(t)
        if self.keep:
            self.times.append(t)
            self.states.append(step.y if self.graph else y)
        if not self.fixed:
            self._t_last = t
            return ""
        self._window.append((mark, before))
        self._latest = (mark, before, t, y, rhs)
        why = ""
        if mark.stops or mark.crossings or len(self._window) > self._together:
            why = self._look()
        if not (why or self._silent):
            if step.slopes and not self._second:
                self._nodes.append(self._node(mark.t, before, step.slopes[0], rhs))
            self._unjudged += 1
            if self._unjudged > JUDGED:
                self._judge()
        return why

    def settle(self) -> str:
        """Look at the last steps; the run is over."""
        if self._latest is None:
            return ""
        if self._window and (why := self._look()):
            return why
        rhs = self._latest[-1]
        before = rhs.halves
        if self._unjudged and not self._silent:
            self._judge(last=True)
        self.halves += rhs.halves - before
        return ""

    def _look(self) -> str:
        """Whether a state since the last look was not finite."""
        assert self._latest is not None
        _, _, t, y, _ = self._latest
        window, self._window = self._window, []
        if not all_finite(y):
            return self._first_bad([*window, (window[-1][0]._replace(t=t), y)])
        self._t_last = t
        return ""

    def _first_bad(self, window: list[tuple[Mark, Tensor]]) -> str:
        for mark, y in window:
            if not all_finite(y):
                self.bad = y
                break
            self._t_last = mark.t
        while self.keep and (self._t_last - self.times[-1]) * window[0][0].h < 0:
            self.times.pop()
            self.states.pop()
        self._latest = None
        return "non_finite"

    @torch.no_grad()
    def _judge(self, last: bool = False) -> None:
        """Estimate the error from slopes that the steps evaluated; only at the end of the run one more is needed."""
        assert self._latest is not None
        mark, before, t, y, rhs = self._latest
        self._unjudged = 1
        if not self._nodes:  # slopes that are not shown cost two evaluations
            self._compare(self._node(mark.t, before, rhs(mark.t, before), rhs), self._node(t, y, rhs(t, y), rhs))
            return
        nodes = [*self._nodes, self._node(t, y, rhs(t, y), rhs)] if last else self._nodes
        self._defect.feed(*zip(*nodes))
        self._nodes = nodes[-1:]

    def _node(self, t: float, y: Tensor, slope: Tensor, rhs: Rhs) -> tuple[float, Tensor, Tensor]:
        """Time, state and slope, of a large state some entries; the march counts intervals where the grid has a
        gradient.
        """
        if self._clocked is None:
            self._clocked = CLOCK in rhs.weights(t)
        if self._clocked:
            start, width, n = rhs.weights(t)[CLOCK].tolist()
            t, slope = start + (t - n) * width, slope / width ** (2 if self._second else 1)
        return (t, sample(y), sample(slope)) if y.numel() > LARGE else (t, y, slope)

    def _compare(self, one: tuple[float, Tensor, Tensor], two: tuple[float, Tensor, Tensor]) -> None:
        """h |f(y1) - f(y0)| / |y1 - y0|, the local h * Lipschitz constant, where the state moves visibly."""
        (t, y, f), h = one, two[0] - one[0]
        turned, moved, size = _norms(two[2] - f, two[1] - y, y)
        value = abs(h) ** (2 if self._second else 1) * turned / max(moved, VISIBLE * size, 1e-300)
        value = math.inf if math.isnan(value) else math.sqrt(value) if self._second else value
        if value > self.worst:
            self.worst, self.where = value, (t, h)

    def verdict(self) -> str:
        """The status of a run with fixed steps that reached its end."""
        return "suspect" if self._defect.relative > SUSPECT or self.worst > UNSTABLE else "completed"

    def reason(self) -> str:
        """What makes a run suspect."""
        if self._defect.relative <= SUSPECT:
            t, h = self.where
            return f"h times the local Lipschitz constant is {self.worst:.2g} at t = {t:.6g} with h = {h:.3g}"
        t, h = self._defect.where
        what = f"{self._defect.relative:.1%}" if self._defect.relative < 1 else "more than the whole"
        return f"the error is estimated at {what} of the state, and the worst step at t = {t:.6g} with h = {h:.3g}"

    def close(self) -> None:
        """The run is over."""
        if self._bar is not None:
            self._bar.close()


def _norms(*tensors: Tensor) -> list[float]:
    """The 2-norms of several tensors, with one host sync."""
    return torch.stack(torch._foreach_norm(tensors)).tolist()


class _Bar:
    """A progress bar in t, redrawn ten times a second at most."""

    def __init__(self, t0: float, t1: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns: Any = (TextColumn("t = {task.fields[t]:.4g}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, transient=True)
        self._progress.start()
        self._task = self._progress.add_task("", total=abs(t1 - t0), t=t0)
        self._t0, self._next = t0, 0.0

    def show(self, t: float) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            self._progress.update(self._task, completed=abs(t - self._t0), t=t)

    def close(self) -> None:
        self._progress.stop()
