"""solve(..., per_sample=True): every sample has its own time, step size, status and events."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..errors import BadInput, Incompatible, OdenetError
from ..fields import Rhs, wrap
from ..integrators.adaptive import Controller
from ..types import State
from . import gradient as gradients
from .ensemble import Ensemble, broad, value_of
from .events import resolve
from .march import March
from .options import sensible
from .record import Record
from .solution import REACHED, Hits, Solution, failed
from .solve import ATTEMPTS, admissible, finite, pace, packed, times_of


def solve_per_sample(
    *, field: Any, y0: Any, t: Any, integrator: Any, rtol: float, atol: float, steps: int | None, gradient: Any,
    events: Any, max_steps: int | None, on_failure: str, check: bool, controller: Controller | None,
    first_step: float | None, seconds: float | None, seed: int, progress: bool,
) -> Solution:  # fmt: skip
    """`solve` with per_sample=True; its docstring holds the arguments."""
    method, f = integrators.resolve(integrator), wrap(field)
    admissible(f, method)
    adaptive = pace(method, steps, rtol, atol)
    if method.history or "noise" in method.needs or check:
        what = "check=True" if check else f"{method.name!r}"
        raise Incompatible(
            f"per_sample=True steps one-step methods without noise; {what} works for one step size only."
        )
    if isinstance(t, Tensor) and t.requires_grad:
        raise Incompatible("gradients with respect to t need one grid for all samples; leave per_sample out.")
    sensible(adaptive, max_steps, seconds, first_step, controller)
    if isinstance(y0, Tensor) and y0.dim() == 0:
        raise BadInput("per_sample=True takes y0 with a first axis, the samples; got a single number.")
    stepped, y, nest = packed(f, method, y0, batched=True)
    finite(y)
    times = _times(t, y)
    how = gradients.resolve(gradient)
    if how.name not in ("autograd", "discrete", "checkpoint"):
        raise Incompatible(f"per_sample=True has gradients 'discrete' and 'autograd', not {how.name!r}.")
    march = March(stepped, method, {}, [0.0, 1.0], steps or 1, module=getattr(f, "module", None))
    march._unneeded = {} if adaptive else march._unneeded
    march._scale = (rtol, atol) if adaptive else None
    how.check(march)
    control = controller or Controller(rtol, atol)
    if control.norm is not None or control.derivative or control.min_step:
        raise Incompatible("per_sample=True has PI controllers; leave norm, derivative and min_step out.")
    ensemble = Ensemble(
        march, y, times, steps, control, resolve(events), nest, first_step, max_steps or ATTEMPTS
    )  # fmt: skip
    record = Record()
    if seconds is not None:
        record.deadline = time.monotonic() + seconds
    try:
        states = how(ensemble, y, {}, save=True, record=record)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as problem:
        if isinstance(problem, OdenetError) or not _wants_a_number(march.rhs(0, {}), times[0], y.detach()):
            raise
        raise BadInput(_numbers(f, broad(times[0], y), problem)) from problem
    solution = _assembled(ensemble, states, y, record, t)
    lost = [i for i, s in enumerate(solution.status) if s not in REACHED]
    if lost and on_failure == "raise":
        raise failed(solution)
    return solution


def _times(t: Any, y: Tensor) -> Tensor:
    """(T, B) in float64."""
    stamps = torch.as_tensor(t, dtype=torch.float64).detach().to(y.device)
    if stamps.dim() == 2:
        for b in range(stamps.shape[1]):
            times_of(stamps[:, b])
        if stamps.shape[1] != y.shape[0]:
            raise Incompatible(f"t has columns for {stamps.shape[1]} samples, but y0 has {y.shape[0]}.")
        return stamps
    return torch.tensor(times_of(t), dtype=torch.float64, device=y.device)[:, None].expand(-1, y.shape[0])


def _wants_a_number(rhs: Rhs, t: Tensor, y: State) -> bool:
    """Whether f can be evaluated with a number for t, but not with the times (B,) of the samples."""
    for when, accepted in ((float(t[0]), True), (broad(t, y), False)):
        try:
            with torch.no_grad():
                rhs(when, y)
        except (TypeError, ValueError, RuntimeError) as problem:
            return not accepted and not isinstance(problem, OdenetError)
    return False


def _numbers(f: Any, t: Tensor, problem: Exception) -> str:
    who = getattr(getattr(f, "inner", None), "__name__", type(f).__name__)
    return (
        f"per_sample=True calls the right-hand side {who} with a tensor {tuple(t.shape)} for t, the times of the "
        f"samples, but it takes t for one number ({str(problem).splitlines()[0].rstrip('.')}); write torch.cos(t) "
        "for math.cos(t), and torch.where(t < 1, a, b) for a if t < 1 else b."
    )


def _assembled(e: Ensemble, states: Tensor, y0: State, record: Record, t: Any) -> Solution:
    """Outputs and events of all samples, put where they belong."""
    count = len(e.times)
    out: list[Any] = [states[0], *([None] * (count - 1))]
    hits: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in e.events]
    rhs = e.march.rhs(0, {})
    last, j = states[0], 1
    t_last = e.t_last.clone()
    for mark, uses in zip(record.marks, e.uses):
        for what, index, samples, theta in uses:
            value, mine = states[j], broad(samples, y0)
            j += 1
            if what == "output":
                empty = torch.full_like(value, torch.nan) if out[index] is None else out[index]
                out[index] = torch.where(mine, value, empty)
                last = torch.where(mine, value, last)
            else:
                when, at = _attached(e, index, (mark.t + theta * mark.h).flatten(), value, rhs)  # type: ignore[attr-defined]
                hits[index].append((samples, when, at))
                if e.events[index].terminal:
                    last = torch.where(mine, at, last)
                    t_last = torch.where(samples, when.detach(), t_last)
    rows = [torch.full_like(states[0], torch.nan) if v is None else v for v in out]
    ended = torch.tensor([s not in ("success", "completed") for s in e.status], device=y0.device)
    rows[-1] = torch.where(broad(ended, y0), last, rows[-1])
    shared = not (isinstance(t, Tensor) and t.dim() == 2) and not bool(ended.any())
    stamps = (
        e.times[:, 0].clone() if shared else torch.cat((e.times[:-1], torch.where(ended, t_last, e.times[-1])[None]))
    )
    bad = [i for i, s in enumerate(e.status) if s not in REACHED]
    message = "every sample reached its end;"
    if bad:
        message = (
            f"{e.integrator.name!r}: {len(bad)} of {len(e.status)} samples did not reach the end, the first is sample "
            f"{bad[0]} with status {e.status[bad[0]]!r} at t = {float(t_last[bad[0]]):.6g}; see .status and .t_last."
        )
    return Solution(
        y=e.nest(torch.stack(rows)),
        t=stamps,
        status=list(e.status),
        message=message,
        t_last=t_last.tolist(),
        stats={"nfe": record.nfe, "accepted": e.accepted, "rejected": e.rejected},
        events=[_gathered(h, y0, e.nest) for h in hits],
        _nest=e.nest,
    )


def _attached(e: Ensemble, k: int, t: Tensor, y: State, rhs: Rhs) -> tuple[Tensor, State]:
    """Times and states of an event with their gradients (see `events.attached`), sample by sample."""
    value = value_of(e, k, t, y)
    if not value.requires_grad:
        return t, y
    with torch.no_grad():
        slope = rhs(broad(t, y), y.detach())
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        rate = torch.func.jvp(lambda s, x: value_of(e, k, s, x), (t, y.detach()), (torch.ones_like(t), slope))[1]
    shift = (value.detach() - value) / rate.detach()
    return t + shift.real, y + slope * broad(shift, y).to(y.dtype)


def _gathered(hits: list[tuple[Tensor, Tensor, Tensor]], y0: State, nest: Callable[[Tensor], Any]) -> Hits:
    """(n, B) times and (n, B, ...) states: row n holds the n-th crossing of every sample, NaN where there is none."""
    times: list[Tensor] = []
    states: list[Tensor] = []
    number = torch.zeros(y0.shape[0], dtype=torch.int64, device=y0.device)
    for samples, when, at in hits:
        number = number + samples
        while len(times) < int(number.max()):
            times.append(torch.full_like(when.detach(), torch.nan))
            states.append(torch.full_like(at.detach(), torch.nan))
        for n in range(len(times)):
            mine = samples & (number == n + 1)
            times[n] = torch.where(mine, when, times[n])
            states[n] = torch.where(broad(mine, y0), at, states[n])
    if not times:
        return Hits(torch.empty(0, y0.shape[0], dtype=torch.float64), nest(y0.detach().new_empty((0, *y0.shape))))
    return Hits(torch.stack(times), nest(torch.stack(states)))
