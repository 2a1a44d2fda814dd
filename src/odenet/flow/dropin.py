"""torchdiffeq's entry points under its names, arguments, method names and options (version 0.2.5).

    from odenet import odeint            # instead of: from torchdiffeq import odeint

Its method names have a table of their own (its "rk4" is the 3/8 rule); every integrator of odenet that needs no
special field may be named as well. Beyond torchdiffeq: failures are SolveFailed with a sentence and the partial
solution, coarse fixed steps warn, adaptive methods land on the last time instead of interpolating to it, and events are
found to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible, SolveFailed
from .call import Call, callbacks, method_of, rms, warn_of_unknown
from .gradient import Continuous


def odeint(
    func: Any, y0: Any, t: Tensor, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: str | None = None,
    options: dict[str, Any] | None = None, event_fn: Any = None,
) -> Any:  # fmt: skip
    """torchdiffeq's `odeint`: y at the times t, (T, *state); with `event_fn` the pair (event time, (2, *state)).

    func:    f(t, y), t a 0-dim tensor; y0 a tensor or a tuple of tensors
    method:  a name of torchdiffeq's or of odenet's registry; None: "dopri5"
    options: torchdiffeq's (step_size, grid_constructor, interp, perturb; first_step, safety, ifactor, dfactor,
             max_num_steps, step_t, jump_t, min_step, max_step; norm)
    Gradients by autograd through the steps, with respect to everything.
    Raises BadInput, SolveFailed; warns of coarse fixed steps and of options that are not known.
    """
    return Call(func, y0, t, rtol, atol, method, options, event_fn).run()


def odeint_adjoint(
    func: Any, y0: Any, t: Tensor, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: str | None = None,
    options: dict[str, Any] | None = None, event_fn: Any = None, adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None, adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None, adjoint_params: Any = None,
) -> Any:  # fmt: skip
    """torchdiffeq's `odeint_adjoint`: as `odeint`, with gradients by the adjoint equations solved backwards.

    adjoint_params:  what gets a gradient beside y0 and t; None: the parameters of the module `func`
    adjoint_options: of the backward solve; None: `options` without norm. norm="seminorm" leaves the gradients out of
                     the error, a function takes the tuple (of t, *y, *adjoint of y, *of parameters)
    Callbacks of func whose names end in _adjoint are told of the backward steps.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise BadInput(
            "odeint_adjoint takes gradients of the parameters of a module; make func an nn.Module, or name them with "
            "adjoint_params=(...), which may be empty."
        )
    given = func.parameters() if adjoint_params is None else adjoint_params
    parameters = tuple(p for p in given if p.requires_grad)
    if adjoint_options is None and options is not None and adjoint_method not in (None, method):
        raise BadInput("options may not fit an adjoint_method of its own; give adjoint_options too, {} for none.")
    inherited = {k: v for k, v in (options or {}).items() if k != "norm"}
    how = Continuous()
    call = Call(func, y0, t, rtol, atol, method, options, event_fn, how, parameters)
    how.solver = _Backwards(
        call,
        adjoint_method or method,
        inherited if adjoint_options is None else dict(adjoint_options),
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        adjoint_options is not None,
    )
    return call.run()


class _Backwards:
    """The solve backwards of one `odeint_adjoint`, from one output time to the one before."""

    def __init__(
        self, call: Call, method: str | None, options: dict[str, Any], rtol: Any, atol: Any, given: bool
    ) -> None:
        self.call, self.method, self.options = call, method or "dopri5", options
        self.rtol, self.atol = (float(torch.cat([torch.as_tensor(x).reshape(-1) for x in _listed(v)]).min())
                                for v in (rtol, atol))  # fmt: skip
        self.norm = self.options.pop("norm", None)
        if not (self.norm is None or self.norm == "seminorm" or callable(self.norm)):
            raise BadInput(f"adjoint_options=dict(norm=...) is 'seminorm' or a function, got {self.norm!r}.")
        scheme = method_of(self.method)
        if scheme.needs:
            raise Incompatible(f"{scheme.name!r} needs a {min(scheme.needs)} field, which adjoint equations are not.")
        if given:
            warn_of_unknown(scheme, self.options)
        self.calls = callbacks(call.func, "_adjoint")
        fixed = not call.adaptive and call.event_fn is None and set(call.times) <= set(call.knots)
        self._stops = call.times if fixed and not call.t.requires_grad else None

    def lands_on(self, t: float) -> bool:
        """Whether t is an output time, not only a point of the grid."""
        slack = 1e-9 * abs(self.call.times[-1] - self.call.times[0])
        return self._stops is None or min(abs(t - s) for s in self._stops) <= slack

    def __call__(self, slopes: Any, t1: float, t0: float, z: Tensor, parts: Sequence[torch.Size]) -> Tensor:
        """z at t0; the times are the user's, or counts of intervals where the grid has a gradient."""
        call, own = self.call, lambda t, z: slopes(float(t), z)
        if call.clocked:
            n, count = int(min(t0, t1)), float(int(min(t0, t1)))
            origin, width = call.knots[n], call.knots[n + 1] - call.knots[n]
            t1, t0 = origin + (t1 - count) * width, origin + (t0 - count) * width
            own = lambda t, z: slopes(count + (float(t) - origin) / width, z) / width  # noqa: E731
        ends = torch.tensor([t1, t0], dtype=torch.float64, device=z.device)

        def parted(z: Tensor) -> tuple[Tensor, ...]:
            y, a, *rest = (p.reshape(s) for p, s in zip(z.split([s.numel() for s in parts]), parts))
            times = [rest.pop(0)] if call.clocked else []
            return (times[0].abs().max() if times else z.real.new_zeros(()), y, a, *rest)

        try:
            back = Call(own, z, ends, self.rtol, self.atol, self.method, self.options, None,
                        calls=self.calls, norm=lambda ratio: self._measured(parted(ratio)), nest=parted)  # fmt: skip
            return back.end()
        except SolveFailed as problem:
            raise SolveFailed(
                f"the adjoint equations of {problem} They are solved backwards; odeint needs no such solve."
            ) from None

    def _measured(self, parts: tuple[Tensor, ...]) -> float:
        """The norm of an error ratio: the worst of time, state, adjoint and (without seminorm) parameters."""
        t, y, a, *rest = parts
        if callable(self.norm):
            ys, adjoints = ([x] if self.call.form is None else list(self.call.form.nest(x)) for x in (y, a))
            return float(self.norm((t, *ys, *adjoints, *rest)))
        state = self.call.norm or rms
        last = [] if self.norm == "seminorm" else [rms(p) for p in rest]
        return max(float(t), state(y), state(a), *last)


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (tuple, list)) else [x]


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
    given = [s.dtype for s in (t0, t1) if isinstance(s, Tensor) and s.is_floating_point()]
    dtype = given[0] if given else y0.real.dtype if isinstance(y0, Tensor) else torch.get_default_dtype()
    t = torch.stack([torch.as_tensor(s, dtype=dtype).reshape(()) for s in (t0, t1)])
    return Call(func, y0, t, rtol, atol, method, options, None).dense()
