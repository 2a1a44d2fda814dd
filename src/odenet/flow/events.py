"""Events: where a function of (t, y) changes sign along a solution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..fields import Rhs
from ..types import State, Step
from .record import Mark


@dataclass(frozen=True)
class Event:
    """g(t, y) = 0.

    g:          f(t, y) -> tensor of any shape; every entry is an event of its own
    terminal:   end the solve at the first crossing; a number n: at the n-th
    direction:  +1 only where g rises through zero, -1 only where it falls, 0 both
    A g that is zero at the start is no crossing. Functions given bare are terminal, unless they carry scipy's
    attributes `terminal` and `direction`. Raises BadInput for what cannot be.
    """

    g: Callable[..., Tensor]
    terminal: bool | int = True
    direction: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.g):
            raise BadInput(f"an event is a function g(t, y), got {type(self.g).__name__}.")
        if not isinstance(self.direction, (int, float)):
            raise BadInput(f"direction is +1 (rising), -1 (falling) or 0 (both), got {self.direction!r}.")
        if not isinstance(self.terminal, (bool, int)) or self.terminal < 0:
            raise BadInput(f"terminal is True, False or a positive number of crossings, got {self.terminal!r}.")


def resolve(events: Any) -> list[Event]:
    """Events from one or several functions or `Event`s."""
    given = events if isinstance(events, (list, tuple)) else [] if events is None else [events]
    return [
        e if isinstance(e, Event) else Event(e, getattr(e, "terminal", True), getattr(e, "direction", 0.0))
        for e in given
    ]


class Finder:
    """Looks for sign changes of all events in every step, and remembers which crossing belongs to which event.

    own_time: the user's time from the march's, where the two differ
    """

    def __init__(
        self, events: Sequence[Event], nest: Callable[[Tensor], Any], own_time: Callable[[float], float] | None = None
    ) -> None:
        self.events, self.nest, self.own_time = events, nest, own_time or float
        self.found: list[tuple[int, int]] = []  # (event, entry) in the order of the crossings
        self._left = [int(e.terminal) for e in events]
        self._signs: list[Tensor] | None = None

    def value(self, k: int, t: Any, y: State) -> Tensor:
        """g of event k, flat."""
        value = self.events[k].g(t, self.nest(y))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = torch.tensor(float(value), dtype=torch.float64, device=y.device)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise BadInput(
                f"event {k} returned {given}; an event is a real number that changes sign, such as y[0] - 1."
            )
        return value.reshape(-1)

    def _sign(self, k: int, t: float, y: State) -> Tensor:
        """The signs of event k; raises BadInput where it is NaN though the state is finite."""
        value = self.value(k, t, y)
        if bool(torch.isnan(value).any()) and bool(torch.isfinite(y).all()):
            raise BadInput(f"event {k} is NaN at t = {t:.6g}, where the state is finite; make it a number there.")
        return value.sign()

    def look(
        self, mark: Mark, y: State, step: Step, dense: Callable[[float], State], part: Callable[[float], State]
    ) -> tuple[tuple[float, ...], bool]:
        """Crossings inside a step as fractions of it, and whether the last of them ends the solve.

        dense, part: y(t + theta h) by interpolation, and by a step of its own
        """
        with torch.no_grad():
            if self._signs is None:
                self._signs = [self._sign(k, self.own_time(mark.t), y.detach()) for k in range(len(self.events))]
            end, last = self.own_time(mark.t + mark.h), step.y.detach()
            after = [self._sign(k, end, last) for k in range(len(self.events))]
            hits = []
            for k, (old, new) in enumerate(zip(self._signs, after)):
                for i in _changed(old, new, self.events[k].direction):
                    hits.append((self._root(k, i, mark, float(old[i]), dense, part), k, i))
            # a zero hit exactly keeps the old sign, so that the crossing is not counted twice
            self._signs = [torch.where(new == 0, -old, new) for old, new in zip(self._signs, after)]
        return self._kept(sorted(hits))

    def _kept(self, hits: list[tuple[float, int, int]]) -> tuple[tuple[float, ...], bool]:
        thetas = []
        for theta, k, i in hits:
            self.found.append((k, i))
            thetas.append(theta)
            if self._left[k]:
                self._left[k] -= 1
                if self._left[k] == 0:
                    return tuple(thetas), True
        return tuple(thetas), False

    def _root(
        self, k: int, i: int, mark: Mark, sign: float, dense: Callable[[float], State], part: Callable[[float], State]
    ) -> float:
        """theta of the crossing: bracketed on the dense output, then polished by steps that end there."""

        def g(theta: float, at: Callable[[float], State]) -> float:
            t = self.own_time(mark.t + theta * mark.h)
            return sign * float(self.value(k, t, at(theta).detach())[i].detach())

        low, high = 0.0, 1.0
        g_low, g_high = g(low, dense), g(high, dense)
        if g_high >= 0.0:  # zero at the end of the step, up to the rounding of the interpolant
            return 1.0
        theta = _bracketed(lambda x: g(x, dense), low, high, g_low, g_high)
        return _polished(lambda x: g(x, part), theta)


def _changed(old: Tensor, new: Tensor, direction: float) -> list[int]:
    """Entries whose sign goes from plus or minus to zero or beyond, in the wanted direction."""
    crossed = (old != 0) & (new != old)
    if direction:
        crossed &= old * direction < 0
    return crossed.nonzero().flatten().tolist()


def _bracketed(g: Callable[[float], float], low: float, high: float, g_low: float, g_high: float) -> float:
    """A root by regula falsi with the Illinois weights; g_low > 0 > g_high."""
    for _ in range(60):
        x = high - g_high * (high - low) / (g_high - g_low) if g_high != g_low else (low + high) / 2
        if not low < x < high:
            x = (low + high) / 2
        value = g(x)
        if value == 0.0 or high - low < 1e-14:
            return x
        if value > 0.0:
            low, g_low, g_high = x, value, g_high / 2
        else:
            high, g_high, g_low = x, value, g_low / 2
        if high - low < 1e-12 or abs(value) < 1e-15:
            return x
    return (low + high) / 2


def _polished(g: Callable[[float], float], theta: float) -> float:
    """A few secant iterations; a step that leaves (0, 1] or does not help is not taken."""
    width = 1e-4 if theta > 0.5 else -1e-4
    other = min(max(theta - width, 1e-6), 1.0)
    a, g_a, g_b = other, g(other), g(theta)
    best = (abs(g_b), theta)
    for _ in range(6):
        if g_b == g_a or best[0] == 0.0:
            break
        new = theta - g_b * (theta - a) / (g_b - g_a)
        if not 0.0 < new <= 1.0:
            break
        a, g_a, theta = theta, g_b, new
        g_b = g(theta)
        if abs(g_b) >= best[0]:
            break
        best = (abs(g_b), theta)
    return best[1]


def attached(finder: Finder, k: int, i: int, t: float | Tensor, y: State, rhs: Rhs) -> tuple[Tensor, State]:
    """Time and state of an event with their gradients, by the implicit function theorem on g(t, y(t)) = 0.

    dt = -dg / (g_t + g_y f), dy = dy at fixed time + f dt. A crossing that only touches zero has no derivative: a
    warning says so, and the gradient through the time is left out. t is a tensor where y moves with the grid.
    """
    time = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device=y.device)
    t = float(time.detach())
    value = finder.value(k, time, y)[i]
    if not value.requires_grad:
        return time, y
    if rhs.path is not None:
        raise Incompatible(
            "the time at which a path with noise meets an event has no derivative; detach y0 and the weights, or ask "
            "for fixed times."
        )
    with torch.no_grad():
        slope = rhs(t, y.detach())
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        rate = torch.func.jvp(
            lambda s, x: finder.value(k, s, x)[i], (time.detach(), y.detach()), (torch.ones_like(time), slope)
        )[1]
    rate = rate.detach()
    if not float(rate.abs()) > 1e-12 * float(slope.abs().max() + 1e-300):
        warnings.warn(
            f"event {k} touches zero at t = {t:.6g} without crossing it, so its time has no derivative; the gradient "
            "leaves it out.",
            stacklevel=3,
        )
        return time, y
    shift = (value.detach() - value) / rate  # zero, with the derivative of the time
    return time + shift.real, y + slope * shift.to(y.dtype)
