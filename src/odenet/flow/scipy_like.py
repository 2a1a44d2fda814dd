"""`solve_ivp` with scipy's arguments and result, for numpy arrays and for tensors with gradients.

from odenet.flow import solve_ivp    # instead of: from scipy.integrate import solve_ivp
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..errors import BadInput
from ..integrators import Integrator
from ..integrators.adaptive import Controller
from .arrays import Arrays, Given, Tensors, World
from .events import Event
from .options import nearest
from .solution import REACHED, Dense, Solution
from .solve import solve

METHODS = {
    "RK23": "bosh3", "RK45": "dopri5", "DOP853": "dopri8", "Radau": "radau_iia5", "BDF": "bdf",
}  # fmt: skip
NOT_HERE = {
    "jac_sparsity": "Jacobians are dense up to 2000 entries and never formed beyond; leave it out",
    "lband": "Jacobians are dense or never formed; leave it out, or give jac",
    "uband": "Jacobians are dense or never formed; leave it out, or give jac",
    "min_step": "it belongs to LSODA; use odenet.solve(controller=Controller(min_step=...))",
}
MESSAGES = {
    "success": "The end of t_span was reached with the error within tolerance.",
    "completed": "The end of t_span was reached with fixed steps; their error was not estimated.",
    "event": "A terminal event ended the solve.",
}


@dataclass(frozen=True)
class DenseOutput:
    """y(t) for a number, (n,), or for several, (n, m); no gradient. Raises BadInput outside [t_min, t_max]."""

    ts: Any
    _solution: Solution
    _out: Callable[[Tensor], Any]

    @property
    def t_min(self) -> float:
        """The smallest time at which y is known."""
        return min(float(self.ts[0]), float(self.ts[-1]))

    @property
    def t_max(self) -> float:
        """The largest time at which y is known."""
        return max(float(self.ts[0]), float(self.ts[-1]))

    def __call__(self, t: Any) -> Any:
        values = self._solution(t if isinstance(t, Tensor) or not hasattr(t, "tolist") else t.tolist())
        return self._out(values.T if values.dim() > 1 else values)


@dataclass(frozen=True)
class IvpResult:
    """scipy's result, as attributes or as result["y"]: arrays where y0 was one, tensors where y0 was one.

    t        (T,)                   y        (n, T)
    sol      dense output or None   t_events, y_events  per event (k,) and (k, n), or None
    status   0: the end was reached, 1: a terminal event, -1: failure; message says it in a sentence
    """

    message: str
    success: bool
    status: int
    t: Any
    y: Any
    sol: DenseOutput | None
    t_events: list[Any] | None
    y_events: list[Any] | None
    nfev: int
    njev: int
    nlu: int

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """The names of the parts."""
        return [f.name for f in fields(self)]


def solve_ivp(
    fun: Callable[..., Any],
    t_span: Sequence[float],
    y0: Any,
    method: str | Integrator = "RK45",
    t_eval: Any = None,
    dense_output: bool = False,
    events: Any = None,
    vectorized: bool = False,
    args: tuple[Any, ...] | None = None,
    *,
    rtol: float = 1e-3,
    atol: Any = 1e-6,
    first_step: float | None = None,
    max_step: float = math.inf,
    jac: Any = None,
    steps: int | None = None,
    max_steps: int | None = None,
    seconds: float | None = None,
    **options: Any,
) -> IvpResult:
    """scipy.integrate.solve_ivp: y' = fun(t, y, *args) from y0 (n,) at t_span[0] to t_span[1].

    y0:      an array or a sequence of numbers: fun works with numpy arrays in double precision, and so does the result;
             a tensor: fun works with tensors, and t_events and y are differentiable in all that they depend on
    method:  "RK23", "RK45", "DOP853", "Radau", "BDF", or any integrator of odenet
    t_eval:  times of the result; None: the accepted steps
    events:  functions event(t, y, *args) with scipy's attributes `terminal` (False) and `direction` (0); one that is
             zero at t_span[0] is not counted there
    rtol, atol: local error at most atol + rtol |y|; atol may be an array (n,)
    jac:     of implicit methods: matrix, function jac(t, y, *args) or None: exact for tensors, differences for arrays
    steps:   of fixed-step integrators, per interval of t_eval, or over t_span
    max_steps, seconds: budgets, which end with status -1
    Choose it to try another integrator or gradients in a script written for scipy; else `solve`, which has batches.
    Raises BadInput for what cannot be, and for options of scipy that are not here. A failed solve has status -1.
    """
    for name in options:
        why = NOT_HERE.get(name) or nearest(name, inspect.signature(solve_ivp).parameters.keys() - {"options"})
        raise BadInput(f"solve_ivp has no option {name!r} here; {why}")
    scheme = _method(method)
    world: World = Tensors(fun, args, jac) if isinstance(y0, Tensor) else Arrays(fun, args, jac, vectorized)
    start = world.start(y0)
    begin, end = _span(t_span)
    if scheme.adaptive and steps is None:
        if jac is not None and not scheme.implicit:
            warnings.warn(f"jac is not used by {scheme.name!r}, which is explicit.", stacklevel=2)
        pace = _tolerances(rtol, atol, first_step, max_step, start, abs(end - begin))
    else:
        pace = _fixed(scheme, first_step, max_step, steps)
    budget: dict[str, Any] = {"max_steps": max_steps, "seconds": seconds, "gradient": "autograd"}
    task = _Task(world, start, begin, end, _times(t_eval, begin, end), scheme, world.events(events), {**pace, **budget})
    return task.run(dense_output)


def _method(method: Any) -> Integrator:
    if method == "LSODA":
        raise BadInput(
            "method 'LSODA', which switches between Adams and BDF, is not here; write method='adams' where the problem "
            "is not stiff, 'BDF' where it is."
        )
    if isinstance(method, type):
        raise BadInput(f"method is a name such as 'RK45' or an odenet Integrator, got the class {method.__name__}.")
    return integrators.resolve(METHODS.get(method, method) if isinstance(method, str) else method)


def _span(t_span: Any) -> tuple[float, float]:
    _constant(t_span, "t_span")
    span = [float(s) for s in t_span]
    if len(span) != 2 or span[0] == span[1] or not all(map(math.isfinite, span)):
        raise BadInput(f"t_span is (start, end), two different finite times; got {tuple(span)}.")
    return span[0], span[1]


def _constant(t: Any, name: str) -> None:
    if isinstance(t, Tensor) and t.requires_grad:
        raise BadInput(f"{name} takes no gradient in solve_ivp; odenet.solve gives gradients with respect to times.")


def _times(t_eval: Any, begin: float, end: float) -> list[float] | None:
    """t_eval as numbers, checked."""
    if t_eval is None:
        return None
    _constant(t_eval, "t_eval")
    times = [float(s) for s in t_eval]
    low, high = min(begin, end), max(begin, end)
    if not all(low <= s <= high for s in times):
        raise BadInput(
            f"t_eval lies inside t_span, ({begin:.6g}, {end:.6g}); got times from {times[0]} to {times[-1]}."
        )
    if any((b - a) * (end - begin) <= 0 for a, b in pairwise(times)):
        raise BadInput("t_eval goes from the start of t_span to its end, strictly; sort it and drop repeated times.")
    return times


def _tolerances(rtol: Any, atol: Any, first: Any, most: float, y: Tensor, length: float) -> dict[str, Any]:
    """Arguments of `solve` for steps under error control."""
    bounds = torch.as_tensor(atol, dtype=y.real.dtype, device=y.device)
    if bounds.dim() and bounds.shape != y.shape:
        raise BadInput(f"atol is a number or has one entry per component ({len(y)}), got shape {tuple(bounds.shape)}.")
    if not (math.isfinite(rtol) and rtol >= 0 and bool((bounds >= 0).all()) and bool((bounds + rtol > 0).all())):
        raise BadInput(f"rtol and atol are not negative and not both zero; got rtol={rtol}, atol={atol}.")
    if first is not None and not 0 < first <= length:
        raise BadInput(f"first_step lies between 0 and the length of t_span, {length:.6g}; got {first}.")
    if not most > 0:
        raise BadInput(f"max_step is positive, got {most}.")
    least = float(bounds.min())
    control = Controller(rtol, bounds if bounds.dim() else least, max_step=most)  # type: ignore[arg-type]
    return {"rtol": rtol, "atol": least or (0.0 if rtol else 1e-300), "controller": control, "first_step": first}


def _fixed(scheme: Integrator, first: Any, most: float, steps: int | None) -> dict[str, Any]:
    if steps is None:
        raise BadInput(f"{scheme.name!r} takes fixed steps; write steps=100, or method='RK45', which chooses them.")
    if first is not None or most != math.inf:
        raise BadInput("first_step and max_step are for steps under error control; with steps=... leave them out.")
    return {"steps": steps}


@dataclass(frozen=True)
class _Task:
    """One solve, its arguments checked."""

    world: World
    start: Tensor
    begin: float
    end: float
    wanted: list[float] | None
    scheme: Integrator
    events: list[Event] | None
    options: dict[str, Any]

    def run(self, dense_output: bool) -> IvpResult:
        """Solve, and say it in scipy's terms."""
        solution = self._solution()
        stamps, y = self._chosen(solution)
        out, reached = self.world.out, solution.status in REACHED
        sol = None
        if dense_output:
            sol = DenseOutput(out(torch.tensor(self._nodes(solution), dtype=torch.float64)), solution, out)
        hits = None if self.events is None else solution.events
        return IvpResult(
            message=MESSAGES.get(solution.status, solution.message),
            success=reached,
            status=(1 if solution.status == "event" else 0) if reached else -1,
            t=out(stamps),
            y=out(y.T),
            sol=sol,
            t_events=None if hits is None else [out(h.t) for h in hits],
            y_events=None if hits is None else [out(h.y if len(h.t) else h.t) for h in hits],
            nfev=solution.stats["nfe"],
            njev=solution.stats.get("jacobians", 0),
            nlu=solution.stats.get("lu", 0),
        )

    def _solution(self) -> Solution:
        field = Given(self.world)
        if self.wanted is not None:
            inner = [s for s in self.wanted if s not in (self.begin, self.end)]
            return self._solve(field, [self.begin, *inner, self.end])
        if (steps := self.options.get("steps")) is not None:
            nodes = torch.linspace(self.begin, self.end, steps + 1, dtype=torch.float64).tolist()
            return self._solve(field, [*nodes[:-1], self.end], steps=1)
        if not self._differentiable():
            return self._solve(field, [self.begin, self.end])
        with torch.no_grad():  # where the steps end; then the same steps again, with these ends as outputs
            nodes = self._nodes(self._solve(field, [self.begin, self.end]))
        return self._solve(field, [*nodes, *([self.end] if nodes[-1] != self.end else [])])

    def _solve(self, field: Given, times: list[float], **change: Any) -> Solution:
        given = {**self.options, **change}
        return solve(field, self.start, times, self.scheme, events=self.events, on_failure="return", **given)

    def _differentiable(self) -> bool:
        """Whether the result has a graph to keep."""
        if not torch.is_grad_enabled() or isinstance(self.world, Arrays):
            return False
        return self.start.requires_grad or self.world.slope(self.begin, self.start).requires_grad

    def _nodes(self, solution: Solution) -> list[float]:
        """The ends of the steps up to where the solve ended."""
        return [*(s for s, _ in self._inner(solution)), *([solution.t_last] if solution.t_last != self.begin else [])]

    def _inner(self, solution: Solution) -> list[tuple[float, Tensor]]:
        """The start and the steps before the last time that was reached."""
        dense, sign = solution._dense, 1.0 if self.end > self.begin else -1.0
        assert isinstance(dense, Dense)
        nodes = zip(dense.times, dense.states)
        return [(s, y) for s, y in nodes if sign * s < sign * solution.t_last or s == self.begin]

    def _chosen(self, solution: Solution) -> tuple[Tensor, Tensor]:
        """Times and states of the result: those of t_eval that were reached, or the ends of the steps."""
        if self.wanted is not None:
            chosen = set(self.wanted)
            keep = [i for i, s in enumerate(solution.t.detach().tolist()) if s in chosen]
            return solution.t[keep], solution.y[keep]
        if self.options.get("steps") is not None or self._differentiable():
            return solution.t, solution.y
        inner = self._inner(solution)
        times, states = [s for s, _ in inner], [y for _, y in inner]
        if solution.t_last != self.begin:
            assert isinstance(solution._dense, Dense)
            at = dict(zip(solution._dense.times, solution._dense.states))
            times.append(solution.t_last)
            states.append(solution.y[-1] if solution.status in REACHED else at[solution.t_last])
        return torch.tensor(times, dtype=torch.float64), torch.stack(states)
