"""A field with its weights bound for one knot interval: the f(t, y) that an integrator sees."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..types import Params, State, Time
from .base import Field


class Rhs:
    """f(t, y) of one knot interval, with the offered parts, counting its evaluations.

    weights:  the parameters, or a function of t where they vary inside the interval
    mask:     dropout mask of the interval, multiplied onto f (None: no dropout)
    halves:   evaluations counted in halves, because a kick or a drift is half a field
    """

    __slots__ = ("_at", "_fixed", "field", "halves", "join", "mask", "split")

    def __init__(self, field: Field, weights: Params | Callable[[Time], Params], mask: Tensor | None = None) -> None:
        self.field = field
        self._fixed: Params | None = None if callable(weights) else weights
        self._at = weights if callable(weights) else None
        self.mask = mask
        self.split = field.split
        self.join = field.join
        self.halves = 0

    def weights(self, t: Time) -> Params:
        return self._fixed if self._fixed is not None else self._at(t)  # type: ignore[misc]

    def __call__(self, t: Time, y: State) -> State:
        self.halves += 2
        f = self.field(t, y, self.weights(t))
        return f if self.mask is None else f * self.mask

    def kick(self, t: Time, q: State) -> State:
        self.halves += 1
        f = self.field.kick(t, q, self.weights(t))  # type: ignore[operator]
        return f if self.mask is None else f * self.split(self.mask)[1]

    def drift(self, t: Time, p: State) -> State:
        self.halves += 1
        f = self.field.drift(t, p, self.weights(t))  # type: ignore[operator]
        return f if self.mask is None else f * self.split(self.mask)[0]
