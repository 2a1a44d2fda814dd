"""What `solve` sees of every accepted step: the nodes of dense output, non-finite states, signs of coarse steps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fields import Rhs
from ..integrators import Integrator
from ..types import State, Step
from .defect import Defect
from .march import CLOCK
from .record import Mark
from .state import all_finite

SUSPECT = 0.07  # of the state: an estimated error above it
UNSTABLE = 1.0  # h times the Lipschitz constant, of methods that show no slopes; they turn unstable between 1 and 3
TOGETHER = 16  # steps that are looked at with one host sync, where the state is small
HELD = 2**17  # entries of states held for that


class Watch:
    """Called after every accepted step.

    keep:      whether the nodes are kept for dense output
    fixed:     whether steps are fixed, so that nothing else estimates the error
    """

    def __init__(
        self, integrator: Integrator, t0: float, t1: float, y0: State, *, fixed: bool, keep: bool, progress: bool
    ) -> None:
        self.times: list[float] = [t0]
        self.states: list[Tensor] = [y0.detach()]
        self.keep, self.fixed = keep, fixed
        self._together = max(1, min(TOGETHER, HELD // max(1, y0.numel())))
        self.halves = 0
        self.bad: Tensor | None = None
        self.worst, self.where = 0.0, (math.nan, math.nan)
        self._defect = Defect()
        self._second = "second_order" in integrator.needs
        self._silent = integrator.implicit or bool(integrator.needs & {"noise", "separable", "split", "linear"})
        self._window: list[tuple[Mark, Tensor, Tensor | None, Rhs]] = []
        self._latest: tuple[float, Tensor, Rhs] | None = None
        self._t_last = t0
        self._bar = _Bar(t0, t1) if progress else None

    def restart(self, y0: State) -> None:
        """Forget the run so far; it begins again."""
        self.times, self.states = self.times[:1], [y0.detach()]
        self._window, self._latest, self._t_last = [], None, self.times[0]
        self._defect, self.worst = Defect(), 0.0

    @property
    def t_last(self) -> float:
        """The last time with a good state."""
        return self._t_last

    def __call__(self, mark: Mark, before: State, step: Step, rhs: Rhs) -> str:
        t, y = mark.t + mark.h, step.y.detach()
        if self._bar is not None:
            self._bar.show(t)
        if self.keep:
            self.times.append(t)
            self.states.append(y)
        if not self.fixed:
            self._t_last = t
            return ""
        self._window.append((mark, before.detach(), step.slopes[0].detach() if step.slopes else None, rhs))
        self._latest = (t, y, rhs)
        return self._look() if mark.stops or mark.crossings or len(self._window) > self._together else ""

    def settle(self) -> str:
        """Look at the last steps; the run is over."""
        if not self._window or self._latest is None:
            return ""
        if why := self._look():
            return why
        rhs = self._latest[2]
        before = rhs.halves
        self._judge(last=True)
        self.halves += rhs.halves - before
        return ""

    def _look(self) -> str:
        """Whether a state since the last look was not finite; once enough steps came together, how coarse they were."""
        assert self._latest is not None
        t, y, rhs = self._latest
        if not all_finite(y):
            return self._first_bad([*self._window, (self._window[-1][0]._replace(t=t), y, None, rhs)])
        self._t_last = t
        if len(self._window) > self._together:
            self._judge()
            self._window = self._window[-1:]
        return ""

    def _first_bad(self, window: list[tuple[Mark, Tensor, Tensor | None, Rhs]]) -> str:
        self._window = []
        for mark, y, *_ in window:
            if not all_finite(y):
                self.bad = y
                break
            self._t_last = mark.t
        while self.keep and (self._t_last - self.times[-1]) * window[0][0].h < 0:
            self.times.pop()
            self.states.pop()
        return "non_finite"

    @torch.no_grad()
    def _judge(self, last: bool = False) -> None:
        """Estimate the error from slopes that the steps evaluated; only at the end of the run one more is needed."""
        if self._silent or self._latest is None:
            return
        t, y, rhs = self._latest
        nodes = [(mark.t, *node) for mark, *node in self._window]
        if last:
            nodes.append((t, y, None, rhs))
        shown = not self._second and all(slope is not None for _, _, slope, _ in nodes[:-1])
        times, states, slopes = zip(*(self._in_own_time(*node) for node in nodes[0 if shown else -2 :]))
        if len(states) > 1:
            (self._defect.feed if shown else self._compare)(times, states, slopes)

    def _in_own_time(self, t: float, y: Tensor, slope: Tensor | None, rhs: Rhs) -> tuple[float, Tensor, Tensor]:
        """Time, state and slope of a node; the march counts intervals where the grid has a gradient."""
        slope = rhs(t, y) if slope is None else slope
        clock = rhs.weights(t).get(CLOCK)
        if clock is None:
            return t, y, slope
        start, width, n = clock.tolist()
        return start + (t - n) * width, y, slope / width ** (2 if self._second else 1)

    def _compare(self, times: Sequence[float], states: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """h |f(y1) - f(y0)| / |y1 - y0|, the local h * Lipschitz constant, where the state moves visibly."""
        turned, moved, size = _norms(slopes[1] - slopes[0], states[1] - states[0], states[0])
        h = times[1] - times[0]
        value = abs(h) ** (2 if self._second else 1) * turned / max(moved, VISIBLE * size, 1e-300)
        value = math.inf if math.isnan(value) else math.sqrt(value) if self._second else value
        if value > self.worst:
            self.worst, self.where = value, (times[0], h)

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


VISIBLE = 0.5  # smaller moves than this fraction of the state count as that: f may change with t alone


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
