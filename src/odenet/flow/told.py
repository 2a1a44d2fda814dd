"""Integrators in the service of torchdiffeq's options: nudged stage times, and callbacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..integrators import Integrator
from ..types import Carry, Params, State, Step, Time


def _resemble(wrapper: Integrator, inner: Integrator) -> None:
    """Give a wrapper what the march asks of the method inside it."""
    for name in ("order", "stages", "name", "history", "adaptive", "implicit", "needs", "dense", "facts"):
        if hasattr(inner, name):
            setattr(wrapper, name, getattr(inner, name))


class Perturbed(Integrator):
    """Evaluations at the ends of a step happen just inside it, for a right-hand side that jumps at grid points."""

    def __init__(self, inner: Integrator, t: Tensor) -> None:
        self.inner, self.clock = inner, t.detach().reshape(-1)[:1]
        _resemble(self, inner)

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """The inner method's step."""
        ends = self.clock.new_tensor([t, t + h])
        first, last = torch.nextafter(ends, ends.flip(0)).tolist()

        def inside(s: Time, y: State) -> State:
            return f(first if s == t else last if s == t + h else s, y)

        return self.inner.step(inside, t, y, h, carry, coef)


class Calling(Integrator):
    """Tells torchdiffeq's callbacks of every step that is tried, accepted and rejected: (t, y, h)."""

    def __init__(self, inner: Integrator, calls: dict[str, Any], nest: Any, t: Tensor, own_time: Any = None) -> None:
        self.inner, self.calls, self.nest, self.t, self.own_time = inner, calls, nest, t, own_time
        _resemble(self, inner)
        self.silent = False  # while an event is searched for inside a step
        self._tried: tuple[Any, ...] | None = None

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """The inner method's step, after the callbacks."""
        if self.silent:
            return self.inner.step(f, t, y, h, carry, coef)
        own = self.own_time or float
        now = (self.t.new_tensor(own(t)), self.nest(y), self.t.new_tensor(abs(own(t + h) - own(t))))
        if self._tried is not None:
            repeated = float(self._tried[0]) == float(now[0])
            self._tell("callback_reject_step" if repeated else "callback_accept_step", self._tried)
        self._tell("callback_step", now)
        self._tried = now
        return self.inner.step(f, t, y, h, carry, coef)

    def finish(self) -> None:
        """The last step was accepted."""
        if self._tried is not None:
            self._tell("callback_accept_step", self._tried)

    def _tell(self, name: str, given: tuple[Any, ...]) -> None:
        if name in self.calls:
            self.calls[name](*given)
