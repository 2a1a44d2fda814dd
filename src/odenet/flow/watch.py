"""What `solve` sees of every accepted step: the nodes of dense output, non-finite states, signs of coarse steps."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..fields import Rhs
from ..integrators import Integrator
from ..types import State, Step
from .record import Mark

SUSPECT = 1.0  # explicit methods leave their stability region between 1 and 3
TOGETHER = 16  # steps that are looked at with one host sync


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
        self.halves = 0
        self.bad: Tensor | None = None
        self.worst, self.where = 0.0, (math.nan, math.nan)
        self._second = "second_order" in integrator.needs
        self._silent = integrator.implicit or bool(integrator.needs & {"noise", "separable", "split", "linear"})
        self._window: list[tuple[Mark, Tensor, Tensor | None]] = []
        self._latest: tuple[float, Tensor, Rhs] | None = None
        self._t_last = t0
        self._bar = _Bar(t0, t1) if progress else None

    def restart(self, y0: State) -> None:
        """Forget the run so far; it begins again."""
        self.times, self.states = self.times[:1], [y0.detach()]
        self._window, self._latest, self._t_last = [], None, self.times[0]

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
        self._window.append((mark, before.detach(), step.slopes[0].detach() if step.slopes else None))
        self._latest = (t, y, rhs)
        return self.settle() if mark.stops or mark.crossings or len(self._window) == TOGETHER else ""

    def settle(self) -> str:
        """Look at the steps since the last look."""
        return self._look(*self._latest) if self._window and self._latest else ""

    def _look(self, t: float, y: Tensor, rhs: Rhs) -> str:
        """The steps since the last look: was any state non-finite, was any step coarse."""
        window, self._window = self._window, []
        if not bool(torch.isfinite(y).all()):
            return self._first_bad([*window, (window[-1][0]._replace(t=t), y, None)])
        self._t_last = t
        if not self._silent:
            with torch.no_grad():
                self._judge(window, y, t, rhs)
        return ""

    def _first_bad(self, window: list[tuple[Mark, Tensor, Tensor | None]]) -> str:
        for mark, y, _ in window:
            if not bool(torch.isfinite(y).all()):
                self.bad = y
                break
            self._t_last = mark.t
        while self.keep and (self._t_last - self.times[-1]) * window[0][0].h < 0:
            self.times.pop()
            self.states.pop()
        return "non_finite"

    def _judge(self, window: list[tuple[Mark, Tensor, Tensor | None]], y: Tensor, t: float, rhs: Rhs) -> None:
        """h |f(y1) - f(y0)| / |y1 - y0|, the local h * Lipschitz constant, where the state moves visibly."""
        marks = [mark for mark, _, _ in window]
        states = [before for _, before, _ in window] + [y]
        slopes = [slope for _, _, slope in window]
        if any(slope is None for slope in slopes):  # a method that does not show its slopes: two evaluations a look
            marks, states = marks[-1:], states[-2:]
            slopes = [rhs(marks[0].t, states[0])]
        slopes.append(rhs(t, y))
        moved = torch.stack([_norm(b - a) for a, b in pairwise(states)])
        size = torch.stack([_norm(a) for a in states[:-1]])
        turned = torch.stack([_norm(b - a) for a, b in pairwise(slopes)])  # type: ignore[operator]
        steps = torch.tensor([abs(m.h) for m in marks], dtype=moved.dtype, device=moved.device)
        power = 2 if self._second else 1
        ratio = steps**power * turned / torch.maximum(moved, VISIBLE * size).clamp_min(1e-300)
        values = ratio.nan_to_num(math.inf).tolist()
        k = max(range(len(values)), key=values.__getitem__)
        value = math.sqrt(values[k]) if self._second else values[k]
        if value > self.worst:
            self.worst, self.where = value, (marks[k].t, marks[k].h)

    def verdict(self) -> str:
        """The status of a run with fixed steps that reached its end."""
        return "completed" if self.worst <= SUSPECT else "suspect"

    def close(self) -> None:
        """The run is over."""
        if self._bar is not None:
            self._bar.close()


VISIBLE = 0.5  # smaller moves than this fraction of the state count as that: f may change with t alone


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x).to(torch.float64)


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
