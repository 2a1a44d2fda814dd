"""A march whose samples have their own time, step size, status and events.

All samples are stepped together with a step size each; a sample whose step was rejected, or that has ended, takes a
step of size zero, which leaves it where it is. So the same marks, with tensors for t and h, can be replayed by every
gradient method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible, StepFailed
from ..fields import Rhs
from ..integrators import RungeKutta
from ..integrators.adaptive import Controller
from ..integrators.dense import interpolate
from ..types import Carry, Params, State, Step
from .events import Event
from .march import March, Piece
from .pullback import Tape
from .record import Mark, Record

RUNNING = "running"
Use = tuple[str, int, Tensor, Any]  # ("output", row) or ("event", k), for which samples, theta of the events


class Ensemble:
    """A march whose samples keep their own time: what a gradient method needs of a `March`, and the run itself.

    times: (T, B) output times of every sample, monotone in T
    A mark's t and h are (B, 1, ...); its stops are (B, 1, ...) too, used by the samples that `assembled` knows of.
    """

    def __init__(
        self,
        march: March,
        y0: State,
        times: Tensor,
        steps: int | None,
        control: Controller,
        events: Sequence[Event],
        nest: Callable[[Tensor], Any],
        first_step: float | None,
        limit: int,
    ) -> None:
        self.march, self.times, self.steps, self.control = march, times, steps, control
        self.events, self.nest, self.first_step, self.limit = events, nest, first_step, limit
        self.integrator, self.field = march.integrator, march.field
        self.pieces, self.depths, self.borrowed = march.pieces, march.depths, march.borrowed
        self.rhs = march.rhs
        self.remembers = steps is not None or isinstance(self.integrator, RungeKutta)  # what a step hands to the next
        self.knots = (broad(times[0], y0), broad(times[-1], y0))
        self.uses: list[list[Use]] = []  # per mark, in the order of its outputs
        self.status: list[str] = []
        self.t_last = times[0].clone()
        self.accepted = torch.zeros(times.shape[1], dtype=torch.int64)
        self.rejected = torch.zeros(times.shape[1], dtype=torch.int64)

    @property
    def own(self) -> tuple[Tensor, ...]:
        """The weights that the field's module owns."""
        return self.march.own

    def replay(
        self, marks: Sequence[Mark], piece: Piece, y: State, carry: Carry, tape: Any = None
    ) -> tuple[State, Carry, list[State]]:
        """The recorded steps, differentiably."""
        rhs, out = self.march.rhs(0, piece), []
        rhs.tape = tape
        for mark in marks:
            step = self.march.step(mark, rhs, piece, y, carry)
            out += self._outputs(mark, rhs, y, carry, step)
            y, carry = step.y, step.carry if self.remembers else ()
        return y, carry, out

    def _outputs(self, mark: Mark, rhs: Rhs, y: State, carry: Carry, step: Step) -> list[State]:
        out = []
        for theta in mark.stops:
            inner = interpolate(self.integrator, rhs, mark.t, mark.h, y, step, theta)
            out.append(torch.where(torch.eq(theta, 1.0), step.y, inner))
        for theta in mark.crossings:
            out.append(self.march.step(mark._replace(h=theta * mark.h), rhs, {}, y, carry).y)
        return out

    def run(
        self, y0: State, theta: Params, *, watch: Any = None, record: Record | None = None
    ) -> tuple[list[State], Carry, Record]:
        """All samples to their last times: y0 and the outputs of the marks in order."""
        record = Record() if record is None else record
        rhs = self.march.rhs(0, {})
        rhs.tape = record.tape
        states = _Adaptive(self, rhs, y0, record).go() if self.steps is None else self._fixed(rhs, y0, record)
        record.halves, record.counts = rhs.halves, rhs.counts
        return [y0, *states], (), record

    def _fixed(self, rhs: Rhs, y: State, record: Record) -> list[State]:
        states: list[State] = []
        carry: Carry = ()
        good = torch.ones(y.shape[0], dtype=torch.bool, device=y.device)
        for row in range(1, len(self.times)):
            h = broad((self.times[row] - self.times[row - 1]) / (self.steps or 1), y)
            for i in range(self.steps or 1):
                last = i == (self.steps or 1) - 1
                t = broad(self.times[row - 1], y) + i * h
                mark = Mark(0, t, h, i == 0, (torch.ones_like(h),) if last else ())
                memory = () if mark.fresh else carry
                step = self.march.step(mark, rhs, {}, y, memory)
                record.note(mark, y, memory)
                states += self._outputs(mark, rhs, y, memory, step)
                y, carry = step.y, step.carry
                finite = _finite(y.detach())
                good &= finite
                self.t_last = torch.where(good, (t + h).flatten(), self.t_last)
                self.uses.append([("output", row, good.clone(), None)] if last else [])
        self.accepted += len(record.marks)
        self.status = ["completed" if ok else "non_finite" for ok in good.tolist()]
        return states


class _Adaptive:
    """The adaptive run of an ensemble: state of the loop, one attempt at a time."""

    def __init__(self, ensemble: Ensemble, rhs: Rhs, y0: State, record: Record) -> None:
        self.e, self.rhs, self.y, self.record = ensemble, rhs, y0, record
        times = ensemble.times
        self.t = times[0].clone()
        self.direction = torch.sign(times[-1] - times[0])
        self.row = torch.ones_like(self.t, dtype=torch.int64)
        self.status = [RUNNING] * len(self.t)
        self.alive = torch.ones_like(self.t, dtype=torch.bool)
        self.previous = torch.zeros_like(self.t)
        self.carry: Carry = ()
        facts = ensemble.integrator.facts
        self.exponent = (ensemble.integrator.order - 1 if facts.order_low is None else facts.order_low) + 1
        self.fsal = isinstance(ensemble.integrator, RungeKutta)
        slope = rhs(broad(self.t, y0), y0)
        self.carry = (slope,) if self.fsal else ()
        with torch.no_grad():
            self.h = self._first(slope.detach()).clamp(max=ensemble.control.max_step)
        self.signs = self._signs(self.t, y0.detach())
        self.count = [torch.zeros_like(self.row) for _ in self.signs]

    def go(self) -> list[State]:
        states: list[State] = []
        attempts = 0
        while bool(self.alive.any()):
            attempts += 1
            if attempts > self.e.limit:
                self._end(self.alive, "max_steps")
            elif time.monotonic() > self.record.deadline:
                self._end(self.alive, "time_budget")
            else:
                states += self._attempt()
        self.e.status = ["success" if s == RUNNING else s for s in self.status]
        self.e.t_last = self.t
        return states

    def _attempt(self) -> list[State]:
        e, y = self.e, self.y
        gap = (e.times[-1] - self.t).abs()
        size = torch.where(gap <= 1.1 * self.h, gap, torch.where(gap < 2 * self.h, gap / 2, self.h))  # see `fitting`
        size = torch.where(size > e.control.max_step, gap / 2, size)
        size = size * self.alive
        tiny = 16 * torch.finfo(torch.float64).eps * torch.maximum(self.t.abs(), e.times[-1].abs() * 1e-8)
        small = self.alive & ~(size > tiny)
        if bool(small.any()):
            self._end(small, "step_underflow")
            return []
        h = broad(size * self.direction, y)
        mark = Mark(0, broad(self.t, y), h, not self.record.marks)
        if torch.is_grad_enabled() and e.integrator.implicit:
            self.rhs.tape = Tape()  # the step with a graph takes the solutions of the attempt
        with torch.no_grad():
            before = y.detach()
            step, err = self._tried(mark, before, tuple(c.detach() for c in self.carry))
            accept = self.alive & (err <= 1.0)
            self._pace(size, err, accept)
        if not bool(accept.any()):
            return []
        after = torch.where(size == gap, e.times[-1], self.t + size * self.direction)
        mark = mark._replace(h=h * broad(accept.to(h.dtype), y))
        with torch.no_grad():
            uses, stops, crossings = self._passed(mark, before, step, accept, after, size)
        mark = mark._replace(stops=tuple(stops), crossings=tuple(crossings))
        carry = self.carry
        if torch.is_grad_enabled() and self.rhs.tape is not None and bool(accept.all()):
            self.rhs.tape.close([mark])
        step = e.march.step(mark, self.rhs, {}, y, carry) if self._again(accept) else step
        self.record.note(mark, y, carry)
        e.uses.append(uses)
        out = e._outputs(mark, self.rhs, y, carry, step)
        self.y, self.carry = step.y, step.carry if self.fsal else ()
        self.t = torch.where(accept & self.alive, after, self.t)
        self._events_end()
        self.alive &= self.row < len(e.times)
        return out

    def _again(self, accept: Tensor) -> bool:
        """Whether the step must be repeated: some samples did not take it, or a graph is wanted."""
        return torch.is_grad_enabled() or not bool(accept.all())

    def _tried(self, mark: Mark, y: State, carry: Carry) -> tuple[Step, Tensor]:
        try:
            step = self.e.march.step(mark, self.rhs, {}, y, carry)
        except StepFailed:
            nan = torch.full_like(self.t, float("nan"))
            return Step(y, torch.zeros_like(y), carry), nan
        assert step.error is not None
        c = self.e.control
        scale = torch.maximum(y.abs(), step.y.abs()).mul_(c.rtol).add_(c.atol)
        err = (step.error.abs() / scale).square().flatten(1).mean(1).sqrt() if y.dim() > 1 else step.error.abs() / scale
        bad = ~_finite(step.y)
        return step, torch.where(bad, torch.nan, err).to(torch.float64)

    def _pace(self, size: Tensor, err: Tensor, accept: Tensor) -> None:
        """The controller, sample by sample."""
        c, p = self.e.control, self.exponent
        e = err.clamp_min(1e-30)
        plain = c.safety * e ** (-1 / p)
        smooth = c.safety * e ** (-c.integral / p) * self.previous.clamp_min(1e-4) ** (c.proportional / p)
        factor = torch.where(accept & (self.previous > 0), smooth, plain).clamp(c.smallest, c.largest)
        factor = torch.where(accept, factor, factor.clamp_max(0.9))
        factor = torch.where(torch.isfinite(err), factor, 0.1)
        grown = size * factor
        kept = torch.where(accept & (size < self.h), torch.maximum(grown, self.h), grown)
        self.h = torch.where(self.alive, kept, self.h).clamp(max=c.max_step)
        self.previous = torch.where(accept, err, self.previous)
        alive = self.alive
        self.e.accepted += accept.cpu()
        self.e.rejected += (alive & ~accept).cpu()
        self.last_bad = alive & ~accept & ~torch.isfinite(err)

    def _first(self, f0: Tensor) -> Tensor:
        """The first step sizes (Hairer, Norsett & Wanner I, section II.4), sample by sample."""
        e, y, c = self.e, self.y.detach(), self.e.control
        if e.first_step is not None:
            return torch.full_like(self.t, e.first_step)
        scale = y.abs().mul(c.rtol).add_(c.atol)

        def norm(x: Tensor) -> Tensor:
            return (x.abs() / scale).square().reshape(len(x), -1).mean(1).sqrt().to(torch.float64)

        d0, d1 = norm(y), norm(f0)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        step = broad(h0 * self.direction, y)
        f1 = self.rhs(broad(self.t, y) + step, y + step.to(y.dtype) * f0)
        steepest = torch.maximum(d1, norm(f1 - f0) / h0)
        h1 = torch.where(steepest > 1e-15, (0.01 / steepest) ** (1 / self.exponent), (h0 * 1e-3).clamp_min(1e-6))
        return torch.where(torch.isfinite(steepest), torch.minimum(100 * h0, h1), h0)

    # ---- outputs and events ----------------------------------------------------------------------------------------

    def _passed(
        self, mark: Mark, y: State, step: Step, accept: Tensor, after: Tensor, size: Tensor
    ) -> tuple[list[Use], list[Tensor], list[Tensor]]:
        """The output times and events inside the accepted steps."""
        e = self.e
        uses: list[Use] = []
        stops: list[Tensor] = []
        crossings: list[Tensor] = []
        until = torch.full_like(self.t, float("inf"))
        events: list[tuple[str, int, Tensor]] = []
        for j, (k, old) in enumerate(self.signs):
            new = _sign(e, k, after, step.y)
            hit = accept & _crosses(old, new, e.events[k].direction)
            self.signs[j] = (k, torch.where(accept, torch.where(new == 0, -old, new), old))
            if bool(hit.any()):
                theta = self._root(k, mark, y, step, hit, old)
                crossings.append(broad(torch.where(hit, theta, 0.0), y))
                self.count[j] += hit
                ends = hit & (self.count[j] >= int(e.events[k].terminal)) & bool(e.events[k].terminal)
                events.append(("event", k, hit))
                until = torch.where(ends, torch.minimum(until, theta), until)
        due = self._due(accept, after)
        while bool(due.any()):
            at = e.times.gather(0, self.row.clamp_max(len(e.times) - 1).unsqueeze(0))[0]
            theta = torch.where(due, (at - self.t).abs() / size.clamp_min(1e-300), 0.0)
            theta = torch.where(due & (at == after), 1.0, theta)
            kept = due & (theta <= until)
            for row in self.row[kept].unique().tolist():
                uses.append(("output", int(row), kept & (self.row == row), None))
                stops.append(broad(theta, y))
            self.row = self.row + due
            due = self._due(accept, after)
        self.until = until
        for (_, k, hit), theta in zip(events, crossings):
            uses.append(("event", k, hit & (theta.flatten() <= until), theta))
        return uses, stops, crossings

    def _due(self, accept: Tensor, after: Tensor) -> Tensor:
        at = self.e.times.gather(0, self.row.clamp_max(len(self.e.times) - 1).unsqueeze(0))[0]
        return accept & (self.row < len(self.e.times)) & ((after - at) * self.direction >= 0)

    def _events_end(self) -> None:
        ended = torch.isfinite(self.until) & self.alive
        if bool(ended.any()):
            self._end(ended, "event")

    def _end(self, which: Tensor, status: str) -> None:
        for i in which.nonzero().flatten().tolist():
            underflow = status == "step_underflow" and bool(getattr(self, "last_bad", which)[i])
            self.status[i] = "non_finite" if underflow else status
        self.alive = self.alive & ~which

    def _signs(self, t: Tensor, y: State) -> list[tuple[int, Tensor]]:
        return [(k, _sign(self.e, k, t, y)) for k in range(len(self.e.events))]

    def _root(self, k: int, mark: Mark, y: State, step: Step, hit: Tensor, old: Tensor) -> Tensor:
        """theta of the crossings: bisection on the dense output, then secant steps on steps that end there."""
        e = self.e

        def g(theta: Tensor, exact: bool) -> Tensor:
            wide = broad(theta, y)
            if exact:
                at = e.march.step(mark._replace(h=wide * mark.h), self.rhs, {}, y, self.carry).y
            else:
                at = interpolate(e.integrator, self.rhs, mark.t, mark.h, y, step, wide)
            return old * value_of(e, k, (mark.t + wide * mark.h).flatten(), at)

        low, high = torch.zeros_like(self.t), torch.ones_like(self.t)
        for _ in range(48):
            middle = (low + high) / 2
            positive = g(middle, False) > 0
            low, high = torch.where(positive, middle, low), torch.where(positive, high, middle)
        theta = (low + high) / 2
        other = (theta - 1e-4).clamp_min(1e-6)
        g_other, g_theta = g(other, True), g(theta, True)
        for _ in range(4):
            slope = (g_theta - g_other) / (theta - other)
            new = torch.where(slope == 0, theta, theta - g_theta / slope).nan_to_num(1.0).clamp(1e-12, 1.0)
            g_new = g(new, True)
            better = g_new.abs() < g_theta.abs()
            other, g_other = torch.where(better, theta, other), torch.where(better, g_theta, g_other)
            theta, g_theta = torch.where(better, new, theta), torch.where(better, g_new, g_theta)
        return torch.where(hit, theta, 1.0)


def value_of(e: Ensemble, k: int, t: Tensor, y: State) -> Tensor:
    """g of event k, one number per sample."""
    value = torch.as_tensor(e.events[k].g(broad(t, y), e.nest(y)))
    if value.numel() != len(t):
        raise Incompatible(
            f"with per_sample=True an event gives one number per sample, but event {k} gave {tuple(value.shape)} for "
            f"{len(t)} samples; return y[:, 0] - 1, for instance."
        )
    return value.reshape(-1)


def _sign(e: Ensemble, k: int, t: Tensor, y: State) -> Tensor:
    with torch.no_grad():
        return value_of(e, k, t, y).sign().to(torch.float64)


def _crosses(old: Tensor, new: Tensor, direction: float) -> Tensor:
    crossed = (old != 0) & (new != old)
    return crossed & (old * direction < 0) if direction else crossed


def broad(x: Tensor, y: State) -> Tensor:
    """(B,) as (B, 1, ...), against a state (B, ...)."""
    return x.reshape(-1, *([1] * (y.dim() - 1)))


def _finite(y: Tensor) -> Tensor:
    return torch.isfinite(y).reshape(len(y), -1).all(1)
