"""Gradients with respect to the output times, by measuring time in units of the output interval."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import Incompatible
from ..fields import Field
from ..types import Params, State, Time
from .march import CLOCK


def clock(t: Tensor) -> Tensor:
    """(t_n, t_{n+1} - t_n, n) for every interval, (N, 3), differentiable in t."""
    number = torch.arange(len(t) - 1, dtype=t.dtype, device=t.device)
    return torch.stack((t[:-1], t[1:] - t[:-1], number), dim=1)


class Clocked(Field):
    """dy/ds = (t_{n+1} - t_n) f(t_n + (s - n)(t_{n+1} - t_n), y) on the knots s = 0, 1, 2, ...

    The grid becomes a parameter, so every gradient method gives the derivative of what was computed with respect to
    it: with fixed steps all steps of an interval stretch together, with adaptive ones likewise at frozen proportions.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        if "noise" in field.offers:
            raise Incompatible("a path with noise has no derivative with respect to time; write t.detach().")
        self._held = (field,)
        self.offers = field.offers - {"exact"}
        self.axis = field.axis
        self._power = 2 if "second_order" in field.offers else 1
        self.split, self.join = field.split, field.join  # type: ignore[method-assign]

    @property
    def inner(self) -> Field:
        """The field in its own time."""
        return self._held[0]

    def init(self, generator: torch.Generator | None = None) -> Params:
        return {}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self._scaled("forward", t, p, y)

    def kick(self, t: Time, q: State, p: Params) -> State:
        return self._scaled("kick", t, p, q)

    def drift(self, t: Time, p_: State, p: Params) -> State:
        return self._scaled("drift", t, p, p_)

    def explicit(self, t: Time, y: State, p: Params) -> State:
        return self._scaled("explicit", t, p, y)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        return self._scaled("implicit", t, p, y)

    def nonlinear(self, t: Time, y: State, p: Params) -> State:
        return self._scaled("nonlinear", t, p, y)

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        return self._scaled("jacobian", t, p, y)

    def linear(self, p: Params) -> Tensor:
        p = dict(p)
        width = p.pop(CLOCK)[1]
        matrix = self.inner.linear(p)  # type: ignore[operator]
        return matrix * width.to(matrix.dtype)

    def _scaled(self, part: str, s: Time, p: Params, y: State) -> Tensor:
        p = dict(p)
        start, width, n = p.pop(CLOCK).unbind()
        value = getattr(self.inner, part)(start + (s - n) * width, y, p)
        return value * width.to(value.dtype) ** self._power
