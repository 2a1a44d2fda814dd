"""Initial value problems: solve(field, y0, t) with any integrator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..depth import Shared
from ..errors import BadInput, Incompatible, NotBuiltYet
from ..fields import Field, wrap
from ..integrators import Integrator
from ..types import Params, State
from . import gradient as gradients
from .march import March, Mark, Record, Tolerance
from .module import check_pair
from .solution import REACHED, Solution, failed

SUSPECT = 1.0  # h |df|/|dy| over a step; explicit methods leave their stability region between 1 and 3


def solve(
    field: Field | Callable[..., Tensor],
    y0: Any,
    t: Tensor | Sequence[float],
    integrator: str | Integrator | Any = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    steps: int | None = None,
    gradient: str = "discrete",
    events: Any = None,
    max_steps: int | None = None,
    on_failure: str = "raise",
    per_sample: bool = False,
    check: bool = False,
    compile: bool = False,
) -> Solution:
    """y' = f(t, y), y(t[0]) = y0, at the times t (two or more, increasing or decreasing).

    field:      Field without weights, f(t, y), f(y) or nn.Module
    y0:         tensor of any shape, or a tuple, list or dict of tensors
    steps:      equal steps per output interval; needed by fixed-step integrators, makes an adaptive one fixed
    rtol, atol: of adaptive integrators; with `check` also what the comparison is held to
    gradient:   "discrete" (recompute each step), "autograd" or "checkpoint"
    check:      with fixed steps, run twice the steps too: the status becomes "success" or "inaccurate"
    on_failure: "raise" SolveFailed (with `.solution`) or "return" the partial solution

    A second-order field y'' = f(t, y) takes y0 = y (starting at rest) or the pair (y, v).
    Raises BadInput, Incompatible, SolveFailed; NotBuiltYet for events, per_sample and compile.
    """
    for name, value in (("events", events is not None), ("per_sample", per_sample), ("compile", compile)):
        if value:
            raise NotBuiltYet(f"solve(..., {name}=...) is not built in this version; leave {name} out.")
    if on_failure not in ("raise", "return"):
        raise BadInput(f"on_failure is 'raise' or 'return', got {on_failure!r}.")
    method, times = integrators.resolve(integrator), _times(t)
    f = wrap(field)
    if f.init() and getattr(f, "module", None) is None:
        raise BadInput(f"{type(f).__name__} has weights that vary with depth; put it into a Flow, which owns them.")
    if method.learnable:
        raise Incompatible(
            f"{method.name!r} has coefficients that are learned with a network; put it into a Flow, or fix them, "
            "TwoStep(k=-0.5, gain='consistent')."
        )
    adaptive = _pace(method, steps, rtol, atol)
    stepped, y, unpack = _packed(f, method, y0)
    _finite(y)
    theta = _own_weights(f) if stepped is f else {}
    tolerance = Tolerance(rtol, atol, max_steps) if adaptive else None
    march = March(stepped, method, dict.fromkeys(theta, Shared()), times, steps or 1, tolerance)
    watcher = _Watch(march, y, steps is not None, max_steps)
    how = gradients.resolve(gradient)
    how.check(march)
    record = Record()
    states = how(march, y, theta, save=True, record=record, watch=watcher)
    status = record.status or ("success" if adaptive else watcher.verdict())
    error = None
    if check and not adaptive and not record.status:
        error, status = _compared(march, theta, states, times, rtol, atol)
    solution = _solution(f, method, states, t, times, status, record, watcher, unpack, error)
    if status not in REACHED and on_failure == "raise":
        raise failed(solution)
    if status in ("suspect", "inaccurate"):
        warnings.warn(solution.message, stacklevel=2)
    return solution


class _Watch:
    """Looks at every accepted step: stops at a non-finite state, and keeps the nodes and the doubtful step."""

    def __init__(self, march: March, y0: State, fixed: bool, max_steps: int | None) -> None:
        self.march, self.fixed, self.max_steps = march, fixed, max_steps
        self.rhs = march.rhs(0, {})
        self.nodes: list[tuple[float, Tensor]] = [(march.knots[0], y0.detach())]
        self.f: Tensor | None = None
        self.worst, self.where, self.lost = 0.0, (math.nan, math.nan), 0.0

    def __call__(self, mark: Mark, before: State, after: State) -> str:
        y = after.detach()
        if not bool(torch.isfinite(y).all()):
            self.bad = y
            return "non_finite"
        if self.fixed:
            if self.max_steps is not None and len(self.nodes) > self.max_steps:
                return "max_steps"
            self._look(mark, before.detach(), y)
        self.nodes.append((mark.t + mark.h, y))
        return ""

    def _look(self, mark: Mark, before: Tensor, y: Tensor) -> None:
        """h |f(y1) - f(y0)|/|y1 - y0|, the local h * Lipschitz constant, at one evaluation a step."""
        with torch.no_grad():
            f0 = self.rhs(mark.t, before) if self.f is None else self.f
            f1 = self.f = self.rhs(mark.t + mark.h, y)
        second = "second_order" in self.march.integrator.needs
        moved = float(torch.linalg.vector_norm(y - before))
        ratio = float(torch.linalg.vector_norm(f1 - f0)) / moved if moved > 0 else 0.0
        value = abs(mark.h) * (math.sqrt(ratio) if second else ratio)
        if not value <= self.worst:
            self.worst, self.where = value, (mark.t, mark.h)

    def verdict(self) -> str:
        return "completed" if self.worst <= SUSPECT else "suspect"


def _own_weights(f: Field) -> Params:
    """The weights of a wrapped module, so that a gradient method sees them."""
    module = getattr(f, "module", None)
    return {} if module is None else {n.replace(".", "/"): v.unsqueeze(0) for n, v in module.named_parameters()}


def _times(t: Tensor | Sequence[float]) -> list[float]:
    times = [float(v) for v in (t.detach().flatten().tolist() if isinstance(t, Tensor) else t)]
    if len(times) < 2:
        raise BadInput(f"t needs two or more times, the first being that of y0; got {times}.")
    gaps = [b - a for a, b in pairwise(times)]
    if not (all(g > 0 for g in gaps) or all(g < 0 for g in gaps)) or not all(map(math.isfinite, times)):
        raise BadInput(f"t must be strictly increasing or strictly decreasing and finite, got {times[:6]}.")
    return times


def _pace(method: Integrator, steps: int | None, rtol: float, atol: float) -> bool:
    if steps is None and not method.adaptive:
        raise BadInput(
            f"{method.name!r} has no error estimate and takes fixed steps; write steps=100 (steps per output interval) "
            'or use an adaptive integrator such as "dopri5".'
        )
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise BadInput(f"steps is a positive whole number of steps per output interval, got {steps!r}.")
    if not (rtol > 0 and atol >= 0):
        raise BadInput(f"tolerances are positive, got rtol={rtol}, atol={atol}.")
    return steps is None


def _packed(f: Field, method: Integrator, y0: Any) -> tuple[Field, Tensor, Callable[[Tensor], Any] | None]:
    """One tensor for the integrator, and how to give results back in the form of y0."""
    second = "second_order" in f.offers
    if isinstance(y0, Tensor) and not second:
        return check_pair(f, method), _floating(y0), None
    if second:
        stepped = check_pair(f, method)
        if stepped is f:
            if not isinstance(y0, Tensor):
                raise Incompatible(f"{method.name!r} starts at rest; give y0 as a tensor, or use integrator='verlet'.")
            return f, _floating(y0), None
        pair = (y0, torch.zeros_like(y0)) if isinstance(y0, Tensor) else tuple(y0)
        lone = isinstance(y0, Tensor)
        split = stepped.axis if stepped.axis < 0 else stepped.axis + 1

        def halves(y: Tensor) -> Any:
            q, v = y.chunk(2, dim=split)
            return q if lone else (q, v)

        return stepped, stepped.join(*(_floating(v) for v in pair)), halves
    keys = list(y0) if isinstance(y0, dict) else None
    parts = [_floating(v) for v in (y0.values() if keys is not None else y0)]
    shapes, sizes = [v.shape for v in parts], [v.numel() for v in parts]

    def unpack(y: Tensor) -> Any:
        cut = [c.reshape(*y.shape[:-1], *s) for c, s in zip(y.split(sizes, dim=-1), shapes)]
        return dict(zip(keys, cut)) if keys is not None else tuple(cut)

    def flat(value: Any) -> Tensor:
        values = [value[k] for k in keys] if keys is not None else list(value)
        return torch.cat([v.reshape(-1) for v in values])

    inner = f
    packed = wrap(lambda t, y: flat(inner(t, unpack(y), {})))
    if method.needs:
        raise Incompatible(
            f"{method.name!r} needs a field with parts, and y0 as one tensor; got a {type(y0).__name__}."
        )
    return packed, torch.cat([v.reshape(-1) for v in parts]), unpack


def _floating(y: Any) -> Tensor:
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
        given = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise BadInput(f"y0 holds floating-point tensors, got {given}; write torch.tensor([1.0]) or y0.double().")
    return y


def _finite(y: Tensor) -> None:
    if not bool(torch.isfinite(y.detach()).all()):
        index = int((~torch.isfinite(y.detach()).flatten()).nonzero()[0])
        raise BadInput(f"y0 has a NaN or infinite entry (component {index}); give finite initial values.")


def _compared(
    march: March, theta: Params, states: Tensor, times: list[float], rtol: float, atol: float
) -> tuple[float, str]:
    """Largest difference over the trajectory to a run with twice the steps, in units of atol + rtol |y|."""
    twice = March(march.field, march.integrator, march.depths, times, 2 * march.substeps)
    with torch.no_grad():
        finer = torch.stack(twice.run(states[0].detach(), theta)[0])
        scale = atol + rtol * torch.maximum(finer.abs(), states.detach().abs())
        worst = float(((finer - states.detach()).abs() / scale).max())
    return worst, "success" if worst <= 1.0 else "inaccurate"


def _solution(
    f: Field,
    method: Integrator,
    states: Tensor,
    t: Any,
    times: list[float],
    status: str,
    record: Record,
    watch: _Watch,
    unpack: Callable[[Tensor], Any] | None,
    error: float | None,
) -> Solution:
    last = watch.nodes[-1][0] if record.status else times[-1]
    who = f"{method.name!r} on {getattr(f.inner, '__name__', 'the field') if hasattr(f, 'inner') else type(f).__name__}"
    sentences = {
        "success": "reached with the error within tolerance;",
        "completed": "reached with fixed steps, error not estimated;",
        "suspect": f"{who}: h times the local Lipschitz constant is {watch.worst:.2g} at t = {watch.where[0]:.6g} with "
        f"h = {watch.where[1]:.3g}, so the result may be wrong; take more steps, or check=True to find out.",
        "inaccurate": f"{who}: half the step size changes the result by {error or 0:.3g} times the tolerance; take "
        "more steps or an adaptive integrator.",
        "max_steps": f"{who}: the limit of {len(record.marks)} steps was reached at t = {last:.6g} with h = "
        f"{record.h:.3g}; raise max_steps, loosen rtol, or choose a method for stiff problems.",
        "non_finite": f"{who}: the state became non-finite after t = {last:.6g} with h = {record.h:.3g}"
        f"{_culprit(watch)}; the solution may not exist beyond, or the steps are too large: take more steps.",
        "step_underflow": f"{who}: the step size fell to {record.h:.3g} at t = {last:.6g}; the solution probably does "
        "not exist beyond (a pole), or the field jumps there.",
    }
    stats = {
        "nfe": record.nfe + watch.rhs.halves // 2,
        "accepted": len(record.marks),
        "rejected": record.rejected,
    }
    stamps = t.flatten() if isinstance(t, Tensor) else torch.tensor(times, dtype=torch.float64)

    def slope(s: float, y: Tensor) -> Tensor:
        return watch.march.rhs(0, {})(s, y)

    return Solution(
        y=unpack(states) if unpack else states,
        t=stamps[: states.shape[0]],
        status=status,
        message=sentences[status],
        t_last=last,
        stats=stats,
        error=error,
        _nodes=watch.nodes,
        _f=slope,
        _unpack=None if unpack is None else unpack,
    )


def _culprit(watch: _Watch) -> str:
    bad = getattr(watch, "bad", None)
    if bad is None:
        return ""
    index = (~torch.isfinite(bad)).nonzero()[0].tolist()
    if len(index) > 1:
        return f" (first in sample {index[0]}, component {tuple(index[1:]) if len(index) > 2 else index[1]})"
    return f" (first in component {index[0]})" if index else ""
