"""Initial value problems: solve(field, y0, t) with any integrator."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..depth import PerStep
from ..errors import BadInput, Incompatible, NotBuiltYet
from ..fields import Field, wrap
from ..integrators import Integrator
from ..integrators.adaptive import Controller
from ..types import Params
from . import gradient as gradients
from .clock import Clocked, clock
from .events import Finder, attached, resolve
from .march import CLOCK, March
from .module import check_pair
from .options import sensible, spelt, tolerances
from .record import Record, Tolerance
from .solution import REACHED, Dense, Hits, Solution, failed
from .state import Form, all_finite, finite, floating
from .watch import Watch

ATTEMPTS = 100_000  # steps of an adaptive solve that sets no limit of its own


@spelt
def solve(
    field: Field | Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    integrator: str | Integrator | Any = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    steps: int | None = None,
    gradient: str | gradients.Gradient = "discrete",
    events: Any = None,
    max_steps: int | None = None,
    on_failure: str = "raise",
    per_sample: bool = False,
    check: bool = False,
    compile: bool = False,
    *,
    controller: Controller | None = None,
    first_step: float | None = None,
    seconds: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Solution:
    """y' = f(t, y), y(t[0]) = y0, at the times t (two or more, increasing or decreasing).

    field:      Field without weights, f(t, y), f(y) or nn.Module
    y0:         tensor of any shape, real or complex, or a nest of tuples, lists and dicts of tensors
    t:          may require a gradient. Outputs of adaptive integrators come from dense output, unless it does
    steps:      equal steps per output interval; needed by fixed-step integrators, makes an adaptive one fixed
    rtol, atol: of adaptive integrators, |error| <= atol + rtol |y| in the mean square; with `check` also what the
                comparison is held to
    gradient:   "discrete" (recompute each step), "autograd" (fastest, most memory), "checkpoint", "reversible", ...
    events:     functions g(t, y) or `Event`s; the solve ends at a terminal one, found to rounding
    max_steps:  attempts (adaptive, 100 000 if not given) or steps; seconds: time budget. Both end with a status
    per_sample: every sample (first axis) has its own steps, status and events; t may be (T, B)
    check:      with fixed steps, run twice the steps too: the status becomes "success" or "inaccurate"
    on_failure: "raise" SolveFailed (with `.solution`) or "return" the partial solution
    controller, first_step: of adaptive integrators; seed: of the Brownian path of stochastic ones
    progress:   show a bar

    A second-order field y'' = f(t, y) takes y0 = y (starting at rest) or the pair (y, v).
    Raises BadInput, Incompatible, SolveFailed; NotBuiltYet for compile.
    """
    given = dict(locals())
    if compile:
        raise NotBuiltYet("solve(..., compile=...) is not built in this version; leave compile out.")
    if on_failure not in ("raise", "return"):
        raise BadInput(f"on_failure is 'raise' or 'return', got {on_failure!r}.")
    if per_sample:
        from .per_sample import solve_per_sample

        return solve_per_sample(**{k: v for k, v in given.items() if k not in ("per_sample", "compile")})
    try:
        return _Solve(**{k: v for k, v in given.items() if k not in ("per_sample", "compile", "on_failure")})(
            on_failure
        )
    except TypeError as problem:
        if "must be Tensor, not float" not in str(problem) or isinstance(field, Field):
            raise
    given["field"] = wrap(field, tensor_time=True)  # the function wants torch.sin(t)
    return solve(**given)


class _Solve:
    """One solve, its arguments checked."""

    def __init__(
        self, *, field: Any, y0: Any, t: Any, integrator: Any, rtol: float, atol: float, steps: int | None,
        gradient: Any, events: Any, max_steps: int | None, check: bool, controller: Controller | None,
        first_step: float | None, seconds: float | None, seed: int, progress: bool,
    ) -> None:  # fmt: skip
        self.method, self.times = integrators.resolve(integrator), times_of(t)
        self.f = wrap(field)
        admissible(self.f, self.method)
        self.adaptive = pace(self.method, steps, rtol, atol)
        sensible(self.adaptive, max_steps, seconds, first_step, controller)
        self.stepped, self.y, self.nest = packed(self.f, self.method, y0)
        finite(self.y)
        self.t, self.rtol, self.atol, self.check, self.seconds = t, rtol, atol, check, seconds
        module = getattr(self.f, "module", None)
        limit = max_steps or ATTEMPTS
        tolerance = Tolerance(rtol, atol, limit, controller, first_step) if self.adaptive else None
        self.theta: Params = {}
        field_, knots = self.stepped, self.times
        stops: tuple[float, ...] = ()
        if isinstance(t, Tensor) and t.requires_grad and torch.is_grad_enabled():
            self.theta = {CLOCK: clock(t)}
            field_, knots = Clocked(self.stepped), [float(n) for n in range(len(self.times))]
        elif self.adaptive:
            knots, stops = [self.times[0], self.times[-1]], tuple(self.times[1:-1])
        self.finder = (
            Finder(resolve(events), self.nest, self._own_time if self.theta else None) if events is not None else None
        )
        self.march = March(
            field_,
            self.method,
            {CLOCK: PerStep()},
            knots,
            steps or 1,
            tolerance,
            stops=stops,
            look=self.finder.look if self.finder else None,
            module=module,
            path=brownian(self.f, self.y, self.times, seed, steps or 1) if "noise" in self.method.needs else None,
        )
        self.how = gradients.resolve(gradient)
        self.how.check(self.march)
        if not self.adaptive and max_steps is not None and (steps or 1) * (len(self.times) - 1) > max_steps:
            self.march.limit = max_steps
        self.watch = Watch(
            self.method,
            knots[0],
            knots[-1],
            self.y,
            fixed=not self.adaptive,
            keep=not self.how.flat,
            progress=progress,
            graph=self.how.name == "autograd" and not self.theta,
        )

    def __call__(self, on_failure: str) -> Solution:
        record = Record()
        if self.seconds is not None:
            record.deadline = time.monotonic() + self.seconds
        try:
            states = self.how(self.march, self.y, self.theta, save=True, record=record, watch=self.watch)
        finally:
            self.watch.close()
        record.status = self.watch.settle() or record.status
        status = record.status or ("success" if self.adaptive else self.watch.verdict())
        error = None
        if self.adaptive and status in ("success", "event") and not all_finite(states.detach()):
            status = "non_finite"
        if self.check and not self.adaptive and not record.status:
            error, status = self._compared(states)
        solution = self._solution(states, status, record, error)
        if status not in REACHED and on_failure == "raise":
            raise failed(solution)
        if status in ("suspect", "inaccurate"):
            warnings.warn(solution.message, stacklevel=4)
        return solution

    def _compared(self, states: Tensor) -> tuple[float, str]:
        """Largest difference over the trajectory to a run with twice the steps, in units of atol + rtol |y|."""
        march = self.march
        twice = March(march.field, march.integrator, march.depths, march.knots, 2 * march.substeps, path=march.path)
        watch = Watch(self.method, march.knots[0], march.knots[-1], self.y, fixed=True, keep=True, progress=False)
        with torch.no_grad():
            finer, _, record = twice.run(self.y.detach(), self.theta, watch=watch)
            if watch.settle() or record.status or len(finer) != len(states):
                return math.inf, "inaccurate"
            coarse, fine = states.detach(), torch.stack(finer)
            if len(watch.states) == 2 * len(self.watch.states) - 1:  # all steps: an end may be right by symmetry alone
                coarse, fine = torch.stack(self.watch.states), torch.stack(watch.states[::2])
            scale = self.atol + self.rtol * torch.maximum(fine.abs(), coarse.abs())
            worst = float(((fine - coarse).abs() / scale).nan_to_num(math.inf).max())
        return worst, "success" if worst <= 1.0 else "inaccurate"

    def _solution(self, states: Tensor, status: str, record: Record, error: float | None) -> Solution:
        kept, crossed = _sorted(record)
        kept = kept[: len(self.times)]
        stamps = self.t.flatten() if isinstance(self.t, Tensor) else torch.tensor(self.times, dtype=torch.float64)
        stamps, y = stamps[: len(kept)], states[kept] if crossed or len(kept) < len(states) else states
        last = self._own_time(self.watch.t_last) if record.status else self.times[-1]
        rhs = self.march.rhs(0, {}) if not self.theta else March(self.stepped, self.method, {}, self.times).rhs(0, {})
        hits: list[Hits] = []
        if self.finder is not None:
            moments = [(attached(self.finder, k, i, self._moment(s), states[j], rhs), k)
                       for (j, s), (k, i) in zip(crossed, self.finder.found)]  # fmt: skip
            hits = [self._hits([m for m, j in moments if j == k]) for k in range(len(self.finder.events))]
            if status == "event":
                (when, state), _ = moments[-1]
                last = float(when.detach())
                if not (len(stamps) and float(stamps[-1].detach()) == last):
                    stamps = torch.cat((stamps, when.to(stamps).reshape(1)))
                    y = torch.cat((y, state.unsqueeze(0)))
        times = [self._own_time(s) for s in self.watch.times]
        stats = {
            "nfe": record.nfe + self.watch.halves // 2,
            "accepted": len(record.marks),
            "rejected": record.rejected,
            **{k: record.counts[k] for k in ("jacobians", "newton", "lu") if self.method.implicit or record.counts[k]},
        }
        return Solution(
            y=self.nest(y),
            t=stamps,
            status=status,
            message=self._sentence(status, last, record, error),
            t_last=last,
            stats=stats,
            events=hits,
            error=error,
            _dense=None if self.how.flat else Dense(self.method, rhs, times, self.watch.states, last, self.watch.graph),
            _nest=self.nest,
        )

    def _hits(self, moments: list[tuple[Tensor, Tensor]]) -> Hits:
        if not moments:
            none = self.y.detach().new_empty((0, *self.y.shape))
            return Hits(torch.empty(0, dtype=torch.float64), self.nest(none))
        return Hits(torch.stack([t for t, _ in moments]), self.nest(torch.stack([y for _, y in moments])))

    def _own_time(self, s: float) -> float:
        """The user's time from the march's, which counts intervals where the grid has a gradient."""
        if not self.theta:
            return s
        n = min(int(s), len(self.times) - 2)
        return self.times[n] + (s - n) * (self.times[n + 1] - self.times[n])

    def _moment(self, s: float) -> float | Tensor:
        """The same, differentiable in the grid."""
        if not self.theta:
            return s
        start, width, n = self.theta[CLOCK][min(int(s), len(self.times) - 2)].to(torch.float64)
        return start + (s - n) * width

    def _sentence(self, status: str, last: float, record: Record, error: float | None) -> str:
        plain = {
            "success": "reached with the error within tolerance;",
            "completed": "reached with fixed steps, error not estimated;",
            "event": "stopped by a terminal event;",
        }
        if status in plain:
            return plain[status]
        f, watch, h = self.f, self.watch, abs(record.h)
        what = getattr(f.inner, "__name__", "the field") if hasattr(f, "inner") else type(f).__name__
        who = f"{self.method.name!r} on {what}"
        stiff = "" if self.method.implicit else ', or choose a method for stiff problems such as "kvaerno5"'
        sentences = {
            "suspect": f"{who}: {watch.reason()}, so the result may be wrong; take more steps, or "
            "check=True to find out.",
            "inaccurate": f"{who}: half the step size changes the result by {error or 0:.3g} times the tolerance; take "
            "more steps or an adaptive integrator.",
            "max_steps": f"{who}: the limit of {len(record.marks) + record.rejected} steps was reached at t = "
            f"{last:.6g} with h = {h:.3g}; raise max_steps, loosen rtol{stiff}.",
            "time_budget": f"{who}: the budget of {self.seconds} seconds was spent at t = {last:.6g} with h = {h:.3g}; "
            f"raise seconds, loosen rtol{stiff}.",
            "non_finite": f"{who}: the state became non-finite after t = {last:.6g} with h = {h:.3g}"
            f"{_culprit(watch.bad)}; the solution may not exist beyond, or the steps are too large: take more steps.",
            "step_underflow": f"{who}: the step size fell to {h:.3g} at t = {last:.6g}; the solution probably does "
            "not exist beyond (a pole), or the field jumps there.",
            "newton_failed": f"{who}: {record.reason}",
        }
        return sentences[status]


def _sorted(record: Record) -> tuple[list[int], list[tuple[int, float]]]:
    """Which of the stacked states are outputs, and which are events (with their times)."""
    kept, crossed, k = [0], [], 1
    for mark in record.marks:
        kept += range(k, k + len(mark.stops))
        k += len(mark.stops)
        crossed += [(k + j, mark.t + c * mark.h) for j, c in enumerate(mark.crossings)]
        k += len(mark.crossings)
    return kept, crossed


def times_of(t: Tensor | Sequence[float]) -> list[float]:
    """The output times as numbers; raises BadInput unless they are two or more, finite and strictly monotone."""
    given = t.detach().tolist() if isinstance(t, Tensor) else t
    try:
        times = [float(v) for v in given]
    except (TypeError, ValueError):
        raise BadInput("t is one axis of numbers, [0.0, 1.0] for instance; (T, B) goes with per_sample=True.") from None
    if len(times) < 2:
        raise BadInput(f"t needs two or more times, the first being that of y0; got {times}.")
    gaps = [b - a for a, b in pairwise(times)]
    if not (all(g > 0 for g in gaps) or all(g < 0 for g in gaps)) or not all(map(math.isfinite, times)):
        raise BadInput(f"t must be strictly increasing or strictly decreasing and finite, got {times[:6]}.")
    return times


def admissible(f: Field, method: Integrator) -> None:
    """Raise where weights or learned coefficients would need a Flow to own them."""
    if getattr(f, "module", None) is None and f.init():
        raise BadInput(f"{type(f).__name__} has weights that vary with depth; put it into a Flow, which owns them.")
    if method.learnable:
        raise Incompatible(
            f"{method.name!r} has coefficients that are learned with a network; put it into a Flow, or fix them, "
            "TwoStep(k=-0.5, gain='consistent')."
        )


def pace(method: Integrator, steps: int | None, rtol: float, atol: float) -> bool:
    """Whether the steps are adaptive; raises BadInput for steps or tolerances that cannot be."""
    if steps is None and not method.adaptive:
        raise BadInput(
            f"{method.name!r} has no error estimate and takes fixed steps; write steps=100 (steps per output interval) "
            'or use an adaptive integrator such as "dopri5".'
        )
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise BadInput(f"steps is a positive whole number of steps per output interval, got {steps!r}.")
    tolerances(rtol, atol)
    return steps is None


def packed(
    f: Field, method: Integrator, y0: Any, batched: bool = False
) -> tuple[Field, Tensor, Callable[[Tensor], Any]]:
    """The field on one tensor, that tensor, and how to give results back in the form of y0."""
    second = "second_order" in f.offers
    if isinstance(y0, Tensor) and not second:
        return check_pair(f, method), floating(y0), _same
    if second:
        return _second_order(f, method, y0)
    if method.needs:
        raise Incompatible(
            f"{method.name!r} needs a field with parts, and y0 as one tensor; got a {type(y0).__name__}."
        )
    form = Form(y0, batched)
    direct: Any = getattr(f, "direct", None)
    inner = direct({}) if direct else lambda t, y: f(t, y, {})
    return wrap(lambda t, y: form.flat(inner(t, form.nest(y)))), form.y0, form.nest


def _same(y: Tensor) -> Tensor:
    return y


def _second_order(f: Field, method: Integrator, y0: Any) -> tuple[Field, Tensor, Callable[[Tensor], Any]]:
    """y'' = f: from rest or from a pair; in pairs where the method steps the first-order system."""
    stepped = check_pair(f, method)
    if stepped is f:
        if not isinstance(y0, Tensor):
            raise Incompatible(f"{method.name!r} starts at rest; give y0 as a tensor, or use integrator='verlet'.")
        return f, floating(y0), _same
    lone = isinstance(y0, Tensor)
    pair = (y0, torch.zeros_like(floating(y0))) if lone else tuple(y0)
    axis = stepped.axis

    def halves(y: Tensor) -> Any:
        q, v = y.chunk(2, dim=axis if axis < 0 else axis + y.dim() - pair[0].dim())
        return q if lone else (q, v)

    return stepped, stepped.join(*(floating(v) for v in pair)), halves


def brownian(f: Field, y: Tensor, times: Sequence[float], seed: int, steps: int) -> Any:
    """The Brownian path of a stochastic solve, fine enough for twice its steps."""
    from ..integrators.brownian import BrownianPath

    shortest = min(abs(b - a) for a, b in pairwise(times)) / steps
    finest = min(abs(times[-1] - times[0]) / 4096, shortest / 2)
    shape = f.brownian_shape(y)  # type: ignore[operator]
    return BrownianPath(seed, shape, times[0], times[-1], dtype=y.dtype, device=y.device, dt_min=finest)


def _culprit(bad: Tensor | None) -> str:
    if bad is None:
        return ""
    index = (~torch.isfinite(bad)).nonzero()[0].tolist()
    if len(index) > 1:
        return f" (first in sample {index[0]}, component {tuple(index[1:]) if len(index) > 2 else index[1]})"
    return f" (first in component {index[0]})" if index else ""
