"""What a march is asked to keep to, and what it did: marks, tolerance, record, pace."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, NamedTuple

import torch

from ..integrators.adaptive import Controller
from ..types import Carry, State


class Mark(NamedTuple):
    """One step: knot interval n, start t, size h, and whether the method starts with an empty memory.

    Numbers; in an ensemble tensors (B, 1, ...), one value per sample.

    stops:      values in (0, 1] for which y(t + theta h) is an output: by dense output, 1 being the end of the step
    crossings:  values in (0, 1] where an event happens: the output is that of a step of size theta h
    """

    n: int
    t: Any
    h: Any
    fresh: bool
    stops: tuple[Any, ...] = ()
    crossings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Tolerance:
    """What an adaptive march keeps: local error |e| <= atol + rtol max(|y|) in the mean square, and its limits.

    controller: how the step follows the error; None: the default PI controller
    first_step: |h| of the first attempt; None: chosen by `initial_step`
    leading:    how many entries of a flat state the error is taken over (a seminorm); None: all
    """

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int | None = None
    controller: Controller | None = None
    first_step: float | None = None
    leading: int | None = None


class Shelf:
    """Room for states that outlive the run: in blocks of memory of their own, so that the short-lived values between
    them leave no holes, which the system's allocator would not fill again.
    """

    def __init__(self, bytes_per_block: int = 2**23) -> None:
        self._bytes = bytes_per_block
        self._block = torch.empty(0)
        self._used = 0

    def put(self, y: State) -> State:
        """A copy of y on the shelf, by itself: not a view."""
        if self._used + y.numel() > self._block.numel():
            self._block = y.new_empty(max(1, self._bytes // (y.numel() * y.element_size())) * y.numel())
            self._used = 0
        stride = torch.empty(y.shape, device="meta").stride()
        place = y.new_empty(0).set_(self._block.untyped_storage(), self._used, y.shape, stride)
        self._used += y.numel()
        return place.copy_(y)


@dataclass
class Record:
    """What a run did. `status` is "" while all is well, else why it stopped at time `t`.

    keep:      "step" or "knot" to note (number of steps before, state, memory) at the start of segments in `kept`
    stride:    steps per segment where keep is "step"; a segment never crosses a knot
    tape:      where solutions of implicit stages are noted for a replay; None: nowhere
    shelf:     where the states of a run without a graph are put; None: they stay where they are
    most:      number of accepted steps after which an adaptive run stops with status "too_many"; None: no limit
    deadline:  value of time.monotonic() at which the run gives up
    """

    keep: str = ""
    stride: int = 1
    kept: list[Any] = default(default_factory=list)
    marks: list[Mark] = default(default_factory=list)
    rejected: int = 0
    halves: int = 0
    counts: Counter[str] = default(default_factory=Counter)
    status: str = ""
    reason: str = ""
    t: float = math.nan
    h: float = math.nan
    tape: Any = None
    shelf: Shelf | None = None
    most: int | None = None
    deadline: float = math.inf

    def note(self, mark: Mark, y: State, carry: Carry) -> None:
        """Add an accepted step that started from (y, carry)."""
        if self.keep:
            done = len(self.marks)
            new = not self.kept or self.marks[-1].n != mark.n
            if new or (self.keep == "step" and done - self.kept[-1][0] >= self.stride):
                self.kept.append((done, y, () if mark.fresh else carry))
        self.marks.append(mark)

    def stop(self, status: str, t: float, h: float, reason: str = "") -> None:
        """The run ends here."""
        self.status, self.t, self.h, self.reason = status, t, h, reason

    @property
    def nfe(self) -> int:
        """Evaluations of the field; a kick or a drift of a separable one counts half."""
        return -(-self.halves // 2)


@dataclass
class Pace:
    """The next step size and the last errors, carried from interval to interval."""

    h: float | None = None
    errors: tuple[float | None, float | None] = (None, None)

    def accept(self, size: float, err: float, control: Controller, exponent: int) -> None:
        """After a step of this size; one cut short by the end says nothing against a larger h."""
        grown = size * control.factor(err, self.errors[0], exponent, self.errors[1])
        self.h = max(grown, self.h) if self.h is not None and size < self.h else grown
        self.errors = (err, self.errors[0])


def fitting(h: float, gap: float) -> float:
    """A step towards the end: what is nearly one step is one, what is nearly two is halved, so that no sliver stays."""
    if gap <= 1.1 * h:
        return gap
    return gap / 2 if gap < 2 * h else h


def inside(pending: list[float], t: float, after: float, direction: float) -> tuple[float, ...]:
    """The output times in (t, after] as fractions of the step, taken off the list."""
    found = []
    while pending and (after - pending[0]) * direction >= 0.0:
        found.append((pending.pop(0) - t) / (after - t))
    return tuple(found)
