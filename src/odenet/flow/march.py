"""Stepping a field over the knots: the one loop behind flows and solves.

A march is a sequence of marks (n, t, h, fresh, ...): in knot interval n, one step of size h from t. Steps never cross a
knot, so inside a step the weights are smooth. The march is handed to the gradient method, which may replay any part of
it; it therefore keeps no state of its own: what happened in a run is in its `Record`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..depth import Depth
from ..errors import StepFailed
from ..fields import Field, Rhs
from ..integrators import Integrator, RungeKutta
from ..integrators.adaptive import Controller, initial_step
from ..integrators.dense import interpolate
from ..types import Carry, Params, State, Step
from .record import Mark, Pace, Record, Tolerance, fitting, inside

MASK = "mask"
COEF = "coef/"  # prefix of an integrator's learnable coefficients inside theta
CLOCK = "clock"  # (t_n, t_{n+1} - t_n, n) of an interval, where the grid gets a gradient
Piece = dict[str, tuple[Tensor, ...]]  # per name, the depth coefficients that act in one knot interval


def _coefficients(piece: Piece) -> Params | None:
    """The integrator's learnable coefficients of one interval."""
    return {k[len(COEF) :]: v[0] for k, v in piece.items() if k.startswith(COEF)} or None


# (step, state before, result, right-hand side) -> "" or why to stop
Watch = Callable[[Mark, State, Step, Rhs], str]
At = Callable[[float], State]  # y(t + theta h) of a step
# (step, state before, result, dense output, a step that ends at theta) -> crossings, whether the last one ends the run
Look = Callable[[Mark, State, Step, At, At], tuple[tuple[float, ...], bool]]


class March:
    """An integrator over given knots, for any theta and start.

    depths:     how every entry of theta varies with depth
    substeps:   equal steps per knot interval (ignored when adaptive)
    tolerance:  makes the march adaptive; it then lands on the knots
    restart:    a multistep method starts afresh at every knot, which keeps its order where the weights jump; else its
                history is carried across, as a network with one step per knot wants it (equal intervals only)
    stops:      output times between the knots of an adaptive march, by dense output
    look:       finds events inside a step
    module:     weights that the field's module owns itself: they get gradients without being passed through theta
    own:        the same, where it is not all of a module's parameters
    path:       Brownian path of a stochastic run
    """

    def __init__(
        self,
        field: Field,
        integrator: Integrator,
        depths: Mapping[str, Depth],
        knots: Sequence[float],
        substeps: int = 1,
        tolerance: Tolerance | None = None,
        restart: bool = False,
        *,
        stops: Sequence[float] = (),
        look: Look | None = None,
        module: nn.Module | None = None,
        path: Any = None,
        own: Sequence[Tensor] | None = None,
    ) -> None:
        self.field = field
        self.integrator = integrator
        self.depths = depths
        self.knots = tuple(float(t) for t in knots)
        self.substeps = substeps
        self.tolerance = tolerance
        self.restart = restart or integrator.history == 0
        self.stops = tuple(stops)
        self.look = look
        self.module = module
        self.path = path
        self._own = None if own is None else tuple(own)
        self.limit: int | None = None  # on the number of fixed steps
        self._unneeded = {"estimate": False} if tolerance is None and isinstance(integrator, RungeKutta) else {}
        self._scale = None if tolerance is None else (tolerance.rtol, tolerance.atol)

    # ---- weights -------------------------------------------------------------------------------------------------

    @property
    def own(self) -> tuple[Tensor, ...]:
        """The weights that the field's module owns."""
        if self._own is not None:
            return self._own
        return () if self.module is None else tuple(self.module.parameters())

    def borrowed(self, own: Sequence[Tensor]) -> Piece:
        """`own` as entries of a piece, for a field that must not read its module's weights."""
        if self.module is None:
            return {}
        return {n.replace(".", "/"): (w,) for (n, _), w in zip(self.module.named_parameters(), own)}

    def pieces(self, theta: Params) -> list[Piece]:
        """For every knot interval the coefficients that act in it."""
        if not theta:
            return [{}] * (len(self.knots) - 1)
        parts = {name: self.depths[name].unbind(c) for name, c in theta.items()}
        intervals = len(self.knots) - 1
        return [
            {name: tuple(part[j] for j in self.depths[name].support(n, intervals)) for name, part in parts.items()}
            for n in range(intervals)
        ]

    def rhs(self, n: int, piece: Piece, workspace: dict[str, Any] | None = None) -> Rhs:
        """The field with the weights of interval n."""
        if not piece:
            return Rhs(self.field, {}, None, self._scale, workspace, self.path)
        mask = piece[MASK][0] if MASK in piece else None
        weights = {k: v for k, v in piece.items() if k != MASK and not k.startswith(COEF)}
        fixed = {k: v[0] for k, v in weights.items() if k not in self.depths or self.depths[k].constant}
        moving = {k: v for k, v in weights.items() if k not in fixed}
        if not moving:
            return Rhs(self.field, fixed, mask, self._scale, workspace, self.path)
        start, width, intervals = self.knots[n], self.knots[n + 1] - self.knots[n], len(self.knots) - 1

        def at(t: float | Tensor) -> Params:
            s = (t - start) / width
            return {**fixed, **{k: self.depths[k].value(v, s, n, intervals) for k, v in moving.items()}}

        return Rhs(self.field, at, mask, self._scale, workspace, self.path)

    # ---- steps ---------------------------------------------------------------------------------------------------

    def step(self, mark: Mark, rhs: Rhs, piece: Piece, y: State, carry: Carry) -> Step:
        """One step of the integrator."""
        coef = _coefficients(piece) if piece else None
        if rhs.tape is not None:
            rhs.tape.begin(mark)
        if mark.fresh and not carry:
            carry = self.integrator.init(rhs, mark.t, y, mark.h, coef)
        return self.integrator.step(rhs, mark.t, y, mark.h, carry, coef, **self._unneeded)

    def outputs(self, mark: Mark, rhs: Rhs, piece: Piece, y: State, carry: Carry, step: Step) -> list[State]:
        """The states at the stops and crossings of a step."""
        if mark.stops == (1.0,) and not mark.crossings:
            return [step.y]
        inner = [s for s in mark.stops if s != 1.0]
        out: list[State] = []
        if inner:
            out += interpolate(self.integrator, rhs, mark.t, mark.h, y, step, inner).unbind(0)
        if len(inner) < len(mark.stops):
            out.append(step.y)
        for s in mark.crossings:
            out.append(self.part(mark, rhs, piece, y, carry, step, s))
        return out

    def part(self, mark: Mark, rhs: Rhs, piece: Piece, y: State, carry: Carry, step: Step, theta: float) -> State:
        """y(t + theta h): by a step of that size, or by dense output where the memory of a method forbids it."""
        if theta == 1.0:
            return step.y
        if self.integrator.history or self.path is not None:
            return interpolate(self.integrator, rhs, mark.t, mark.h, y, step, [theta])[0]
        return self.step(mark._replace(h=theta * mark.h), rhs, piece, y, carry).y

    def invert(self, mark: Mark, piece: Piece, y: State, carry: Carry) -> tuple[State, Carry]:
        """State and memory before a step, from those after it."""
        coef = _coefficients(piece)
        memory = carry if self.integrator.history else ()
        before = self.integrator.invert(self.rhs(mark.n, piece), mark.t, y, mark.h, memory, coef)
        return before.y, () if mark.fresh or not self.integrator.history else before.carry

    def replay(
        self, marks: Sequence[Mark], piece: Piece, y: State, carry: Carry, tape: Any = None
    ) -> tuple[State, Carry, list[State]]:
        """Steps inside one knot interval: last state and memory, and the outputs on the way."""
        rhs = self.rhs(marks[0].n, piece)
        rhs.tape = tape
        out: list[State] = []
        for mark in marks:
            step = self.step(mark, rhs, piece, y, carry)
            if mark.stops or mark.crossings:
                out += self.outputs(mark, rhs, piece, y, carry, step)
            y, carry = step.y, step.carry
        return y, carry, out

    def over(
        self, n: int, piece: Piece, y: State, carry: Carry, record: Record | None = None, watch: Watch | None = None
    ) -> tuple[State, Carry]:
        """Fixed steps over knot interval n."""
        record = Record() if record is None else record
        return self._fixed(n, self.rhs(n, piece), piece, y, carry, watch, record, [])

    def run(
        self,
        y0: State,
        theta: Params,
        *,
        watch: Watch | None = None,
        record: Record | None = None,
        carry: Carry = (),
        keep: bool = True,
    ) -> tuple[list[State], Carry, Record]:
        """From the first knot to the last: y0 and the outputs of the marks in order, the last memory, what was done.

        carry: a memory to go on from; keep: else only the last output is returned
        """
        record = Record() if record is None else record
        states, y, pace = [y0], y0, Pace()
        workspace: dict[str, Any] = {}
        for n, piece in enumerate(self.pieces(theta)):
            rhs = self.rhs(n, piece, None if piece else workspace)  # weights that jump make what was kept useless
            rhs.tape = record.tape
            if self.tolerance is None:
                y, carry = self._fixed(n, rhs, piece, y, carry, watch, record, states)
            else:
                pace = Pace() if CLOCK in piece else pace  # its unit is the interval
                y, carry = self._adaptive(n, rhs, piece, y, pace, watch, record, states)
            record.halves += rhs.halves
            record.counts.update(rhs.counts)
            if not keep:
                del states[:-1]
            if record.status:
                break
        return states, carry, record

    def _fixed(
        self,
        n: int,
        rhs: Rhs,
        piece: Piece,
        y: State,
        carry: Carry,
        watch: Watch | None,
        record: Record,
        states: list[State],
    ) -> tuple[State, Carry]:
        a, b = self.knots[n], self.knots[n + 1]
        h, last = (b - a) / self.substeps, self.substeps - 1
        unequal = n > 0 and abs(a - self.knots[n - 1] - (b - a)) > 1e-9 * abs(b - a)
        restart = (n == 0 and not carry) or self.restart or unequal
        hurried = record.deadline < math.inf
        for i in range(self.substeps):
            mark = Mark(n, a + i * h, h, i == 0 and restart, (1.0,) if i == last else ())
            memory = () if mark.fresh else carry
            if self.limit is not None and len(record.marks) >= self.limit:
                record.stop("max_steps", mark.t, h)
                break
            if hurried and time.monotonic() > record.deadline:
                record.stop("time_budget", mark.t, h)
                break
            try:
                step = self.step(mark, rhs, piece, y, memory)
            except StepFailed as problem:
                record.stop(problem.status, mark.t, h, str(problem))
                break
            if record.shelf is not None:
                step = step._replace(y=record.shelf.put(step.y))
            if self.look is not None:
                mark = self._found(mark, rhs, piece, y, memory, step, record)
            if watch is not None and (why := watch(mark, y, step, rhs)):
                record.stop(why, mark.t, h)
                break
            record.note(mark, y, memory)
            if mark.stops or mark.crossings:
                states += self.outputs(mark, rhs, piece, y, memory, step)
            y, carry = step.y, step.carry
            if record.status:
                break
        return y, carry

    def _found(self, mark: Mark, rhs: Rhs, piece: Piece, y: State, carry: Carry, step: Step, record: Record) -> Mark:
        """The mark with its events; after one that ends the run, nothing of the step is an output."""
        assert self.look is not None

        def dense(theta: float) -> State:
            return interpolate(self.integrator, rhs, mark.t, mark.h, y, step, theta)

        def part(theta: float) -> State:
            return self.part(mark, rhs, piece, y, carry, step, theta)

        crossings, ends = self.look(mark, y, step, dense, part)
        if not ends:
            return mark._replace(crossings=crossings)
        last = crossings[-1]
        record.stop("event", mark.t + last * mark.h, mark.h)
        return mark._replace(crossings=crossings, stops=tuple(s for s in mark.stops if s <= last))

    def _adaptive(
        self,
        n: int,
        rhs: Rhs,
        piece: Piece,
        y: State,
        pace: Pace,
        watch: Watch | None,
        record: Record,
        states: list[State],
    ) -> tuple[State, Carry]:
        tolerance, integrator = self.tolerance, self.integrator
        assert tolerance is not None
        control = tolerance.controller or Controller(rtol=tolerance.rtol, atol=tolerance.atol)
        t, end = self.knots[n], self.knots[n + 1]
        direction = 1.0 if end > t else -1.0
        low = integrator.facts.order_low
        low = integrator.order - 1 if low is None else low
        carry: Carry = ()
        known: Carry = ()  # the first slope, where it was evaluated before the step
        if pace.h is None:
            first_stage = isinstance(integrator, RungeKutta)
            with torch.set_grad_enabled(first_stage and torch.is_grad_enabled()):
                slope = rhs(t, y)
            if first_stage:
                known = (slope,)
            with torch.no_grad():
                pace.h = tolerance.first_step or initial_step(
                    rhs, t, y.detach(), direction, low, tolerance.rtol, tolerance.atol, slope.detach()
                )
        fresh, pending = True, [s for s in self.stops if (s - t) * direction > 0.0 < (end - s) * direction]
        seen = slice(tolerance.leading) if tolerance.leading is not None else ...
        size_before = y.detach().abs()[seen]
        while (end - t) * direction > 0.0:
            if tolerance.max_steps is not None and len(record.marks) + record.rejected >= tolerance.max_steps:
                record.stop("max_steps", t, pace.h)
                break
            if record.most is not None and len(record.marks) > record.most:
                record.stop("too_many", t, pace.h)
                break
            if time.monotonic() > record.deadline:
                record.stop("time_budget", t, pace.h)
                break
            gap = abs(end - t)
            size = fitting(min(max(pace.h, control.min_step), control.max_step), gap)
            size = gap / 2 if size > control.max_step else size
            if not size > 16 * math.ulp(max(abs(t), abs(end) * 1e-8)) or size == math.inf:
                record.stop("step_underflow" if size == size else "non_finite", t, size)
                break
            mark = Mark(n, t, direction * size, fresh)
            try:
                step = self.step(mark, rhs, piece, y, carry or known)
                with torch.no_grad():
                    size_after = step.y.detach().abs()[seen]
                    err = control.measure(step.error.detach()[seen], size_before, size_after)  # type: ignore[union-attr]
            except StepFailed as problem:
                record.rejected += 1
                pace.h, pace.errors = 0.25 * size, (None, None)
                if pace.h <= 16 * math.ulp(max(abs(t), abs(end) * 1e-8)) or size <= control.min_step:
                    record.stop(problem.status, t, size, str(problem))
                    break
                continue
            exponent = step.order or low + 1
            if not (err <= 1.0 or (size <= control.min_step and math.isfinite(err))):
                record.rejected += 1
                pace.h = size * min(control.factor(err, None, exponent) if math.isfinite(err) else 0.1, 0.9)
                tiny = pace.h <= 16 * math.ulp(max(abs(t), abs(end) * 1e-8)) or size <= control.min_step
                if not math.isfinite(err) and tiny:
                    record.stop("non_finite", t, pace.h)
                    break
                if isinstance(integrator, RungeKutta):
                    known = step.slopes[:1]
                continue
            after = end if size == gap else t + direction * size
            if record.shelf is not None:
                step = step._replace(y=record.shelf.put(step.y))
            if pending:
                mark = mark._replace(stops=inside(pending, t, after, direction))
            if after == end:
                mark = mark._replace(stops=(*mark.stops, 1.0))
            if self.look is not None:
                mark = self._found(mark, rhs, piece, y, carry, step, record)
            if watch is not None and (why := watch(mark, y, step, rhs)):
                record.stop(why, mark.t, size)
                break
            record.note(mark, y, carry)
            if mark.stops or mark.crossings:
                states += self.outputs(mark, rhs, piece, y, carry, step)
            y, carry, known = step.y, step.carry, ()
            if record.status:
                break
            t, fresh, size_before = after, False, size_after
            pace.accept(size, err, control, exponent)
        return y, carry
