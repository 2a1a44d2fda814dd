"""torchdiffeq's entry points under its names, arguments, method names and options (version 0.2.5).

    from odenet import odeint            # instead of: from torchdiffeq import odeint

Its method names have a table of their own (its "rk4" is the 3/8 rule); every integrator of odenet that needs no
special field may be named as well. Beyond torchdiffeq: failures are SolveFailed with a sentence and the partial
solution, coarse fixed steps warn, adaptive methods land on the last time instead of interpolating to it, and events are
found to rounding.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
from .march import CLOCK, March
from .record import Mark, Record, Tolerance
from .solution import Solution
from .solve import ATTEMPTS, check_pair, times_of
from .state import Form, finite, floating
from .told import Calling, Perturbed
from .watch import Watch

METHODS = {
    "dopri5": "dopri5", "dopri8": "dopri8", "bosh3": "bosh3", "fehlberg2": "fehlberg2", "adaptive_heun": "heun_euler",
    "tsit5": "tsit5", "euler": "euler", "midpoint": "midpoint", "heun2": "heun", "heun3": "heun3", "rk4": "rk4_38",
    "explicit_adams": "ab4", "implicit_adams": "abm4", "fixed_adams": "abm4",
}  # fmt: skip
FIXED = frozenset({"step_size", "grid_constructor", "interp", "perturb", "max_order", "max_iters"})
ADAPTIVE = frozenset({
    "first_step", "safety", "ifactor", "dfactor", "max_num_steps", "step_t", "jump_t", "min_step", "dtype",
})  # fmt: skip
FOREVER = 1e10  # how far an event is waited for


def odeint(
    func: Any, y0: Any, t: Tensor, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: str | None = None,
    options: dict[str, Any] | None = None, event_fn: Any = None,
) -> Any:  # fmt: skip
    """torchdiffeq's `odeint`: y at the times t, (T, *state); with `event_fn` the pair (event time, (2, *state)).

    func:    f(t, y), t a 0-dim tensor; y0 a tensor or a tuple of tensors
    method:  a name of METHODS or of odenet's registry; None: "dopri5"
    options: torchdiffeq's (step_size, grid_constructor, interp, perturb; first_step, safety, ifactor, dfactor,
             max_num_steps, step_t, jump_t; norm). Gradients by autograd through the steps, with respect to everything.
    Raises BadInput, SolveFailed; warns of coarse fixed steps and of options that are not known.
    """
    return _Call(func, y0, t, rtol, atol, method, options, event_fn).run()


def odeint_adjoint(
    func: Any, y0: Any, t: Tensor, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: str | None = None,
    options: dict[str, Any] | None = None, event_fn: Any = None, adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None, adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None, adjoint_params: Any = None,
) -> Any:  # fmt: skip
    """torchdiffeq's `odeint_adjoint`: as `odeint`, with gradients by the adjoint equations solved backwards.

    adjoint_params:  what gets a gradient beside y0 and t; None: the parameters of the module `func`
    adjoint_options: norm="seminorm"; step_size and others are those of `options` unless given
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise BadInput(
            "odeint_adjoint takes gradients of the parameters of a module; make func an nn.Module, or name them with "
            "adjoint_params=(...), which may be empty."
        )
    given = func.parameters() if adjoint_params is None else adjoint_params
    parameters = tuple(p for p in given if p.requires_grad)
    norm = (adjoint_options or {}).get("norm")
    if norm is not None and norm != "seminorm":
        raise BadInput("adjoint_options=dict(norm=...) knows 'seminorm' only; leave norm out for the full norm.")
    how = Continuous(
        seminorm=norm == "seminorm",
        integrator=None if adjoint_method is None else _method(adjoint_method),
        rtol=adjoint_rtol,
        atol=adjoint_atol,
    )
    return _Call(func, y0, t, rtol, atol, method, options, event_fn, how, parameters).run()


def odeint_event(
    func: Any, y0: Any, t0: Tensor, *, event_fn: Any, reverse_time: bool = False, odeint_interface: Any = odeint,
    **options: Any,
) -> Any:  # fmt: skip
    """torchdiffeq's `odeint_event`: (event time, states at t0 and at the event), the time differentiable.

    event_fn:   g(t, y); any entry that changes sign ends the solve
    odeint_interface: `odeint` or `odeint_adjoint`
    """
    t0 = torch.as_tensor(t0)
    t0 = t0 if t0.is_floating_point() else t0.to(torch.get_default_dtype())
    t = torch.stack((t0.reshape(()), t0.detach().reshape(()) + (-1.0 if reverse_time else 1.0)))
    return odeint_interface(func, y0, t, event_fn=event_fn, **options)


def odeint_dense(
    func: Any, y0: Tensor, t0: Any, t1: Any, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Any], Tensor]:  # fmt: skip
    """torchdiffeq's `odeint_dense`: y(t) on [t0, t1] as a function, differentiable in y0 and the parameters."""
    t = torch.stack([torch.as_tensor(s, dtype=torch.get_default_dtype()).reshape(()) for s in (t0, t1)])
    return _Call(func, y0, t, rtol, atol, method, options, None).dense()


class _Call:
    """One call in torchdiffeq's terms, as a march."""

    def __init__(
        self, func: Any, y0: Any, t: Tensor, rtol: Any, atol: Any, method: str | None, options: Any, event_fn: Any,
        how: Continuous | None = None, parameters: tuple[Tensor, ...] = (),
    ) -> None:  # fmt: skip
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise BadInput("t is a 1-dim tensor of floating-point times, torch.linspace(0., 1., 10) for instance.")
        if options is not None and method is None:
            raise BadInput("options belong to a method; name it, method='dopri5' for instance.")
        self.func, self.t, self.how, self.parameters = func, t, how, parameters
        self.options = dict(options or {})
        self.method = _method(method or "dopri5")
        self.adaptive = self.method.adaptive
        self._warn_of_unknown()
        self.form = None if isinstance(y0, Tensor) else Form(y0)
        self.y = floating(y0) if self.form is None else self.form.y0
        finite(self.y)
        self.rtol, self.atol = (self._tolerance(x, y0) for x in (rtol, atol))
        self.event_fn = event_fn
        self.nest = (lambda y: y) if self.form is None else self.form.nest
        field = wrap(self._slope, tensor_time=False)
        check_pair(field, self.method)
        self.field = field
        self.times = times_of(t) if event_fn is None else self._waiting()
        self.knots = self._grid()

    # ---- arguments -----------------------------------------------------------------------------------------------

    def _warn_of_unknown(self) -> None:
        known = (ADAPTIVE if self.adaptive else FIXED) | {"norm"}
        if unknown := sorted(self.options.keys() - known):
            warnings.warn(f"{self.method.name!r}: options {unknown} are not used by this method.", stacklevel=4)

    def _tolerance(self, given: Any, y0: Any) -> Any:
        """A number, or a tensor against the flat state; for tuples one entry per part."""
        if isinstance(given, (tuple, list)):
            if self.form is None or len(given) != len(y0):
                raise BadInput(f"rtol and atol have one entry per part of y0, got {len(given)}.")
            parts = [torch.as_tensor(g, dtype=self.y.dtype).expand(v.shape).reshape(-1) for g, v in zip(given, y0)]
            return torch.cat(parts)
        return float(given) if not isinstance(given, Tensor) or given.numel() == 1 else given.detach()

    def _slope(self, t: Time, y: State) -> State:
        clock = t if isinstance(t, Tensor) else torch.tensor(t, dtype=self.t.dtype, device=self.t.device)
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
        return self.times if size is None else _equal(self.times[0], self.times[-1], float(size))

    # ---- running -------------------------------------------------------------------------------------------------

    def _march(self, finder: Finder | None) -> tuple[March, Params]:
        options, theta, field, knots = self.options, {}, self.field, self.knots
        tolerance = None
        if self.adaptive:
            control = Controller(
                self.rtol, self.atol,
                float(options.get("safety", 0.9)), float(options.get("dfactor", 0.2)),
                float(options.get("ifactor", 10.0)),
                integral=1.0, proportional=0.0, norm=_norm(options.get("norm"), self.nest),
            )  # fmt: skip
            first = options.get("first_step")
            limit = int(options.get("max_num_steps", ATTEMPTS if finder is None else 10 * ATTEMPTS))
            tolerance = Tolerance(self.rtol, self.atol, limit, control, None if first is None else float(first))
        stops: Sequence[float] = [s for s in self.times if s not in set(self.knots)] if self.adaptive else ()
        substeps = 1
        if self.event_fn is None and self.t.requires_grad and torch.is_grad_enabled():
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
        if calls := _callbacks(self.func):
            method = Calling(method, calls, self.nest, self.t)
        march = March(
            field, method, {CLOCK: PerStep()}, knots, substeps, tolerance,
            stops=stops, look=None if finder is None else finder.look, own=self.parameters,
        )  # fmt: skip
        return march, theta

    def _differentiable_grid(self) -> Tensor:
        """The knots as a tensor: those that are output times carry their gradient."""
        place = {s: i for i, s in enumerate(self.times)}
        return torch.stack([self.t[place[s]] if s in place else self.t.new_tensor(s) for s in self.knots])

    def _states(self, finder: Finder | None, record: Record, watch: Any) -> tuple[Tensor, March]:
        march, theta = self._march(finder)
        if self.how is None or not torch.is_grad_enabled():
            states = Autograd()(march, self.y, theta, save=True, record=record, watch=watch)
        else:
            self.how.check(march)
            states = Adjoint.apply(
                self.how, march, True, record, watch, tuple(theta), self.y, *theta.values(), *march.own
            )
        return states, march

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
                f"{self.method.name!r}: h times the local Lipschitz constant is {watch.worst:.2g} at t = "
                f"{watch.where[0]:.6g} with h = {watch.where[1]:.3g}, so the result may be wrong; take smaller steps.",
                stacklevel=4,
            )
        if finder is not None:
            return self._event(finder, record, states, march)
        if isinstance(march.integrator, Calling):
            march.integrator.finish()
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


def _method(name: Any) -> Integrator:
    if name == "scipy_solver":
        raise BadInput("method 'scipy_solver' cuts gradients and is scipy's; call scipy.integrate.solve_ivp itself.")
    return integrators.resolve(METHODS.get(name, name) if isinstance(name, str) else name)


def _listed(x: Any) -> list[Any]:
    return [] if x is None else x.tolist() if isinstance(x, Tensor) else list(x)


def _equal(start: float, end: float, size: float) -> list[float]:
    """Steps of one size from the start, the last one cut at the end."""
    if not size > 0:
        raise BadInput(f"step_size is positive, got {size}.")
    count = math.ceil(abs(end - start) / size - 1e-9)
    sign = math.copysign(1.0, end - start)
    return [*(start + sign * size * i for i in range(count)), end]


def _norm(norm: Any, nest: Callable[[Tensor], Any]) -> Callable[[Tensor], float] | None:
    return None if norm is None else lambda ratio: float(norm(nest(ratio)))


def _callbacks(func: Any) -> dict[str, Callable[..., None]]:
    names = ("callback_step", "callback_accept_step", "callback_reject_step")
    return {n: getattr(func, n) for n in names if callable(getattr(func, n, None))}
