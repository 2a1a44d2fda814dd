"""A call in torchdiffeq's terms as a march: its method names, its options, its tuples."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..depth import PerStep
from ..errors import BadInput, Incompatible, SolveFailed
from ..fields import wrap
from ..integrators import Integrator
from ..integrators.adaptive import Controller
from ..integrators.dense import between, interpolate
from ..types import Params, State, Step, Time
from .adjoint import Adjoint
from .clock import Clocked, clock
from .events import Event, Finder, attached
from .gradient import Autograd, Continuous
from .march import CLOCK, Look, March
from .options import nearest
from .record import Mark, Record, Tolerance
from .solution import Solution
from .solve import ATTEMPTS, check_pair, times_of
from .state import Form, finite, floating
from .told import Calling, Perturbed
from .watch import Watch

METHODS = {
    "dopri5": "dopri5_shampine", "dopri8": "dopri8", "bosh3": "bosh3", "fehlberg2": "fehlberg2",
    "adaptive_heun": "heun_euler", "tsit5": "tsit5", "euler": "euler", "midpoint": "midpoint", "heun2": "heun",
    "heun3": "heun3", "rk4": "rk4_38", "explicit_adams": "ab4", "implicit_adams": "abm4", "fixed_adams": "abm4",
}  # fmt: skip
FIXED = frozenset({"step_size", "grid_constructor", "interp", "perturb"})
ADAPTIVE = frozenset({
    "first_step", "safety", "ifactor", "dfactor", "max_num_steps", "step_t", "jump_t", "min_step", "max_step",
    "dtype",
})  # fmt: skip
FOREVER = 1e10  # how far an event is waited for


class Call:
    """One call in torchdiffeq's terms, as a march.

    calls:  callbacks; None: those of func
    norm:   of the error ratio of the flat state; None: options' norm, or torchdiffeq's
    """

    def __init__(
        self, func: Any, y0: Any, t: Tensor, rtol: Any, atol: Any, method: str | None, options: Any, event_fn: Any,
        how: Continuous | None = None, parameters: tuple[Tensor, ...] = (), *, calls: Any = None, norm: Any = None,
        nest: Callable[[Tensor], Any] | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise BadInput("t is a 1-dim tensor of floating-point times, torch.linspace(0., 1., 10) for instance.")
        if options is not None and method is None:
            raise BadInput("options belong to a method; name it, method='dopri5' for instance.")
        self.func, self.t, self.how, self.parameters = func, t, how, parameters
        self.calls = callbacks(func) if calls is None else calls
        self.options = dict(options or {})
        self.method = method_of(method or "dopri5")
        self.adaptive = self.method.adaptive
        # whether the march counts intervals of the grid, which has a gradient, instead of time
        self.clocked = event_fn is None and t.requires_grad and torch.is_grad_enabled()
        if calls is None:
            warn_of_unknown(self.method, self.options)
        self.form = None if isinstance(y0, Tensor) else Form(y0)
        self.y = floating(y0) if self.form is None else self.form.y0
        finite(self.y)
        self.rtol, self.atol = (self._tolerance(x, y0) for x in (rtol, atol))
        self.event_fn = event_fn
        self.nest = nest or ((lambda y: y) if self.form is None else self.form.nest)
        self.norm = norm or norm_of(self.options.get("norm"), self.nest, self.form is not None)
        field = wrap(self._slope, tensor_time=False)
        check_pair(field, self.method)
        self.field = field
        self.times = times_of(t) if event_fn is None else self._waiting()
        self.start = self._started()
        self.substeps = 1  # per interval of the knots
        self.knots = self._grid()

    # ---- arguments -----------------------------------------------------------------------------------------------

    def _tolerance(self, given: Any, y0: Any) -> Any:
        """A number, or a tensor against the flat state; for tuples one entry per part."""
        if isinstance(given, (tuple, list)):
            if self.form is None or len(given) != len(y0):
                raise BadInput(f"rtol and atol have one entry per part of y0, got {len(given)}.")
            parts = [torch.as_tensor(g, dtype=self.y.dtype).expand(v.shape).reshape(-1) for g, v in zip(given, y0)]
            return torch.cat(parts)
        return float(given) if not isinstance(given, Tensor) or given.numel() == 1 else given.detach()

    def _slope(self, t: Time, y: State) -> State:
        clock = t if isinstance(t, Tensor) else torch.scalar_tensor(t, dtype=self.t.dtype, device=self.t.device)
        if self.form is None:
            return self.func(clock, y)
        return self.form.flat(self.func(clock, self.form.nest(y)))

    def _waiting(self) -> list[float]:
        first = float(self.t[0].detach())
        forwards = len(self.t) < 2 or float(self.t[1].detach()) > first
        return [first, first + (FOREVER if forwards else -FOREVER)]

    def _grid(self) -> list[float]:
        """The knots that the march lands on."""
        if self.adaptive or self.event_fn is not None:
            extra = [float(s) for name in ("step_t", "jump_t") for s in _listed(self.options.get(name))]
            low, high = sorted((self.times[0], self.times[-1]))
            inside = {s for s in extra if low < s < high}
            landed = set(self.times) if self.t.requires_grad and self.event_fn is None else {low, high}
            return sorted(landed | inside, reverse=self.times[-1] < self.times[0])
        size, construct = self.options.get("step_size"), self.options.get("grid_constructor")
        if size is not None and construct is not None:
            raise BadInput("step_size and grid_constructor are two ways to say the same; give one of them.")
        if construct is not None:
            grid = [float(s) for s in construct(self.func, self.nest(self.y), self.t)]
            if grid[0] != self.times[0] or grid[-1] != self.times[-1]:
                raise BadInput(f"grid_constructor returned a grid from {grid[0]} to {grid[-1]}; it has the ends of t.")
            return grid
        if size is None:
            return self.times
        if not self.clocked and (count := _whole(self.times, float(size))):
            self.substeps = count
            return self.times
        return _equal(self.times[0], self.times[-1], float(size))

    def _started(self) -> Tensor:
        """y0, which follows the flow where an event is waited for from a start that has a gradient."""
        if self.event_fn is None or not self.t.requires_grad or not torch.is_grad_enabled():
            return self.y
        with torch.no_grad():
            slope = self._slope(self.times[0], self.y.detach())
        return self.y - slope * (self.t[0] - self.t[0].detach()).to(self.y.dtype)

    # ---- running -------------------------------------------------------------------------------------------------

    def _march(self, finder: Finder | None) -> tuple[March, Params]:
        options, theta, field, knots = self.options, {}, self.field, self.knots
        tolerance = None
        if self.adaptive:
            control = Controller(
                self.rtol, self.atol,
                float(options.get("safety", 0.9)), float(options.get("dfactor", 0.2)),
                float(options.get("ifactor", 10.0)),
                integral=1.0, proportional=0.0, norm=self.norm,
                min_step=float(options.get("min_step", 0.0)) / self.unit,
                max_step=float(options.get("max_step", math.inf)) / self.unit,
            )  # fmt: skip
            first = options.get("first_step")
            first = None if first is None else float(first) / self.unit
            limit = int(options.get("max_num_steps", ATTEMPTS if finder is None else 10 * ATTEMPTS))
            tolerance = Tolerance(self.rtol, self.atol, limit, control, first)
        stops: Sequence[float] = [s for s in self.times if s not in set(self.knots)] if self.adaptive else ()
        substeps = self.substeps
        if self.clocked:
            theta = {CLOCK: clock(self._differentiable_grid())}
            field, knots, stops = Clocked(self.field), [float(n) for n in range(len(knots))], ()
        elif self.event_fn is not None and not self.adaptive:
            size = self.options.get("step_size")
            if size is None:
                raise BadInput("an event with fixed steps needs options=dict(step_size=...).")
            substeps = 10**7
            knots = [self.times[0], self.times[0] + math.copysign(substeps * float(size), self.times[1])]
        method = self.method
        if options.get("perturb") or options.get("jump_t") is not None:
            method = Perturbed(method, self.t)
        if self.calls:
            method = Calling(method, self.calls, self.nest, self.t, self._own_time if theta else None)
        march = March(
            field, method, {CLOCK: PerStep()}, knots, substeps, tolerance,
            stops=stops, look=None if finder is None else _looking(finder, method), own=self.parameters,
        )  # fmt: skip
        return march, theta

    @property
    def unit(self) -> float:
        """The march's unit of time; where intervals are of several lengths, the longest."""
        if not self.clocked:
            return 1.0
        return max(abs(b - a) for a, b in pairwise(self.knots))

    def _own_time(self, s: float) -> float:
        """The user's time from the march's, which counts intervals where the grid has a gradient."""
        n = min(int(s), len(self.knots) - 2)
        return self.knots[n] + (s - n) * (self.knots[n + 1] - self.knots[n])

    def _differentiable_grid(self) -> Tensor:
        """The knots as a tensor: those that are output times carry their gradient."""
        place = {s: i for i, s in enumerate(self.times)}
        return torch.stack([self.t[place[s]] if s in place else self.t.new_tensor(s) for s in self.knots])

    def _states(self, finder: Finder | None, record: Record, watch: Any) -> tuple[Tensor, March]:
        march, theta = self._march(finder)
        if self.how is None or not torch.is_grad_enabled():
            states = Autograd()(march, self.start, theta, save=True, record=record, watch=watch)
        else:
            self.how.check(march)
            states = Adjoint.apply(
                self.how, march, True, record, watch, tuple(theta), self.start, *theta.values(), *march.own
            )
        return states, march

    def end(self) -> Tensor:
        """The flat state at the last time; raises SolveFailed."""
        record = Record()
        states, march = self._states(None, record, None)
        if record.status:
            raise SolveFailed(f"{self.method.name!r} stopped at t = {record.t:.6g} ({record.status}).")
        if isinstance(march.integrator, Calling):
            march.integrator.finish()
        return states[-1]

    def run(self) -> Any:
        """What `odeint` returns."""
        finder = None if self.event_fn is None else Finder([Event(self.event_fn)], self.nest)
        record = Record()
        watch = Watch(
            self.method, self.times[0], self.times[-1], self.y,
            fixed=not self.adaptive, keep=False, progress=False,
        )  # fmt: skip
        states, march = self._states(finder, record, watch)
        record.status = watch.settle() or record.status
        if record.status not in ("", "event"):
            raise self._failed(record, states, watch)
        if not self.adaptive and watch.verdict() == "suspect":
            warnings.warn(
                f"{self.method.name!r}: {watch.reason()}, so the result may be wrong; take smaller steps.",
                stacklevel=4,
            )
        if isinstance(march.integrator, Calling):
            march.integrator.finish()
        if finder is not None:
            return self._event(finder, record, states, march)
        return self.nest(self._at_times(states))

    def _at_times(self, states: Tensor) -> Tensor:
        """The states at the times of t: all of the march's, or some, or between the points of a fixed grid."""
        if len(states) == len(self.times):
            return states
        whole = {*self.knots, *(self.times if self.adaptive else ())}
        place = {s: i for i, s in enumerate(sorted(whole, reverse=self.times[-1] < self.times[0]))}
        if all(s in place for s in self.times):
            return states[[place[s] for s in self.times]]
        return torch.stack([self._between(states, s) for s in self.times])

    def _between(self, states: Tensor, s: float) -> Tensor:
        """The state at a time inside a fixed step: linear, or cubic with interp="cubic", as torchdiffeq has it."""
        sign = 1.0 if self.times[-1] > self.times[0] else -1.0
        i = min(max(bisect_left(self.knots, sign * s, key=lambda k: sign * k), 1), len(self.knots) - 1)
        a, b = self.knots[i - 1], self.knots[i]
        theta, kind = (s - a) / (b - a), self.options.get("interp", "linear")
        if kind == "linear":
            return torch.lerp(states[i - 1], states[i], theta)
        if kind != "cubic":
            raise BadInput(f"interp is 'linear' or 'cubic', got {kind!r}.")
        f = [self._slope(k, y) for k, y in ((a, states[i - 1]), (b, states[i]))]
        return between(self.method, b - a, states[i - 1], f[0], states[i], f[1], theta)

    def _event(self, finder: Finder, record: Record, states: Tensor, march: March) -> Any:
        if record.status != "event":
            raise SolveFailed(
                f"{self.method.name!r}: no event until t = {self.times[-1]:.6g}; check the sign of event_fn."
            )
        mark, (k, i) = record.marks[-1], finder.found[-1]
        when = mark.t + mark.crossings[-1] * mark.h
        time, y = attached(finder, k, i, when, states[-1], march.rhs(0, {}))
        return time.to(self.t), self.nest(torch.stack((self.y, y)))

    def _failed(self, record: Record, states: Tensor, watch: Watch) -> SolveFailed:
        last = watch.t_last
        why = {
            "max_steps": "the limit on the number of steps was reached; raise max_num_steps or use a stiff method",
            "non_finite": "the state became non-finite; the solution may not exist beyond",
            "step_underflow": "the step size underflowed; the solution probably does not exist beyond (a pole)",
            "newton_failed": record.reason,
        }[record.status]
        message = f"{self.method.name!r} stopped at t = {last:.6g} with h = {abs(record.h):.3g}: {why}."
        return SolveFailed(
            message,
            Solution(self.nest(states), self.t[: len(states)], record.status, message, last, {"nfe": record.nfe}),
        )

    def dense(self) -> Callable[[Any], Tensor]:
        """What `odeint_dense` returns."""
        if not self.adaptive:
            raise Incompatible(
                "odeint_dense takes adaptive methods; use dopri5, or odenet.solve, whose result is callable."
            )
        steps: list[tuple[Mark, State, Step]] = []
        march, theta = self._march(None)

        def watch(mark: Mark, before: State, step: Step, rhs: Any) -> str:
            steps.append((mark, before, step))
            return ""

        record = Record()
        march.run(self.y, theta, record=record, watch=watch)
        if record.status:
            raise SolveFailed(f"{self.method.name!r} stopped at t = {record.t:.6g} ({record.status}).")
        sign = 1.0 if self.times[-1] > self.times[0] else -1.0
        starts, rhs = [sign * mark.t for mark, _, _ in steps], march.rhs(0, {})

        def value(t: Any) -> Tensor:
            s = float(t)
            if not sign * self.times[0] <= sign * s <= sign * self.times[-1]:
                raise BadInput(f"the solution is known on [{self.times[0]:.6g}, {self.times[-1]:.6g}], not at t = {s}.")
            mark, y, step = steps[max(bisect_left(starts, sign * s) - 1, 0)]
            return interpolate(self.method, rhs, mark.t, mark.h, y, step, (s - mark.t) / mark.h)

        return value


def method_of(name: Any) -> Integrator:
    """The integrator behind one of torchdiffeq's method names, or odenet's own."""
    if name == "scipy_solver":
        raise BadInput("method 'scipy_solver' cuts gradients and is scipy's; call scipy.integrate.solve_ivp itself.")
    return integrators.resolve(METHODS.get(name, name) if isinstance(name, str) else name)


def _looking(finder: Finder, method: Integrator) -> Look:
    """The finder's look, during which no callback is told of steps."""
    if not isinstance(method, Calling):
        return finder.look

    def look(*given: Any) -> tuple[tuple[float, ...], bool]:
        method.silent = True
        crossings, ends = finder.look(*given)
        method.silent = ends
        return crossings, ends

    return look


def warn_of_unknown(method: Integrator, options: dict[str, Any]) -> None:
    """Warn of options that the method does not use, with the nearest one that it does."""
    known = (ADAPTIVE if method.adaptive else FIXED) | {"norm"}
    if unknown := sorted(options.keys() - known):
        hint = nearest(unknown[0], known)
        warnings.warn(f"{method.name!r}: options {unknown} are not used by this method; {hint}", stacklevel=4)


def _listed(x: Any) -> list[Any]:
    return [] if x is None else x.tolist() if isinstance(x, Tensor) else list(x)


def _equal(start: float, end: float, size: float) -> list[float]:
    """Steps of one size from the start, the last one cut at the end."""
    if not size > 0:
        raise BadInput(f"step_size is positive, got {size}.")
    count = math.ceil(abs(end - start) / size - 1e-9)
    sign = math.copysign(1.0, end - start)
    return [*(start + sign * size * i for i in range(count)), end]


def _whole(times: Sequence[float], size: float) -> int:
    """How many steps of this size fill every interval of the times; 0 where they do not, or not equally many."""
    counts = [abs(b - a) / size if size > 0 else math.nan for a, b in pairwise(times)]
    return round(counts[0]) if all(c > 0.5 and abs(c - round(counts[0])) < 1e-4 for c in counts) else 0


def rms(x: Tensor) -> float:
    """The root mean square."""
    return float(x.abs().square().mean().sqrt()) if x.numel() else 0.0


def norm_of(given: Any, nest: Callable[[Tensor], Any], parted: bool) -> Callable[[Tensor], float] | None:
    """The user's norm on the flat state; else torchdiffeq's: the mean square, of tuples that of the worst part."""
    if given is not None:
        return lambda ratio: float(given(nest(ratio)))
    return (lambda ratio: max(rms(part) for part in nest(ratio))) if parted else None


def callbacks(func: Any, suffix: str = "") -> dict[str, Callable[..., None]]:
    """torchdiffeq's callbacks that func has; suffix "_adjoint": those of the backward solve."""
    names = ("callback_step", "callback_accept_step", "callback_reject_step")
    return {n: getattr(func, n + suffix) for n in names if callable(getattr(func, n + suffix, None))}
