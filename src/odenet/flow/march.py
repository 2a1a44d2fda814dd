"""Stepping a field over the knots: the one loop behind flows and solves.

A march is a sequence of marks (n, t, h, fresh): in knot interval n, one step of size h from t. Steps never cross a
knot, so inside a step the weights are smooth. The march is handed to the gradient method, which may replay any part of
it; it therefore keeps no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..depth import Depth
from ..fields import Field, Rhs
from ..integrators import Integrator, RungeKutta
from ..integrators.adaptive import Controller, initial_step
from ..types import Carry, Params, State, Step

MASK = "mask"
COEF = "coef/"  # prefix of an integrator's learnable coefficients inside theta
Piece = dict[str, tuple[Tensor, ...]]  # per name, the depth coefficients that act in one knot interval


class Mark(NamedTuple):
    """One step: knot interval n, start t, size h, and whether the method starts with an empty memory."""

    n: int
    t: float
    h: float
    fresh: bool


@dataclass(frozen=True)
class Tolerance:
    """What an adaptive march keeps: local error |e| <= atol + rtol max(|y|) in the mean square, and its limits."""

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int | None = None


@dataclass
class Record:
    """What a run did. `status` is "" while all is well, else why it stopped at time `t`.

    keep:  "step" or "knot" to note (state, memory) before every step or at every knot in `kept`
    """

    keep: str = ""
    kept: list[Any] = default(default_factory=list)
    marks: list[Mark] = default(default_factory=list)
    rejected: int = 0
    halves: int = 0
    status: str = ""
    t: float = math.nan
    h: float = math.nan

    def note(self, mark: Mark, y: State, carry: Carry) -> None:
        """Add an accepted step that started from (y, carry)."""
        if self.keep == "step" or (self.keep == "knot" and (not self.marks or self.marks[-1].n != mark.n)):
            self.kept.append((y, () if mark.fresh else carry))
        self.marks.append(mark)

    @property
    def nfe(self) -> int:
        """Evaluations of the field; a kick or a drift of a separable one counts half."""
        return -(-self.halves // 2)


def _coefficients(piece: Piece) -> Params | None:
    """The integrator's learnable coefficients of one interval."""
    return {k[len(COEF) :]: v[0] for k, v in piece.items() if k.startswith(COEF)} or None


Watch = Callable[[Mark, State, State], str]  # (step, state before, state after) -> "" or why to stop


class March:
    """An integrator over given knots, for any theta and start.

    depths:     how every entry of theta varies with depth
    substeps:   equal steps per knot interval (ignored when adaptive)
    tolerance:  makes the march adaptive; it then lands on the knots
    restart:    a multistep method starts afresh at every knot, which keeps its order where the weights jump; else its
                history is carried across, as a network with one step per knot wants it
    """

    def __init__(
        self,
        field: Field,
        integrator: Integrator,
        depths: Mapping[str, Depth],
        knots: Sequence[float],
        substeps: int = 1,
        tolerance: Tolerance | None = None,
        restart: bool = False,
    ) -> None:
        self.field = field
        self.integrator = integrator
        self.depths = depths
        self.knots = tuple(float(t) for t in knots)
        self.substeps = substeps
        self.tolerance = tolerance
        self.restart = restart or integrator.history == 0
        self._unneeded = {"estimate": False} if tolerance is None and isinstance(integrator, RungeKutta) else {}

    # ---- weights -------------------------------------------------------------------------------------------------

    def pieces(self, theta: Params) -> list[Piece]:
        """For every knot interval the coefficients that act in it."""
        if not theta:
            return [{}] * (len(self.knots) - 1)
        parts = {name: self.depths[name].unbind(c) for name, c in theta.items()}
        return [
            {name: tuple(part[j] for j in self.depths[name].support(n)) for name, part in parts.items()}
            for n in range(len(self.knots) - 1)
        ]

    def gather(self, grads: list[Piece | None], theta: Params) -> list[Tensor]:
        """Transpose of `pieces`: gradients of pieces summed into gradients of theta, in its order."""
        out = []
        for name, c in theta.items():
            parts: list[Tensor | None] = [None] * (c.shape[0])
            for n, piece in enumerate(grads):
                for j, g in zip(self.depths[name].support(n), piece[name] if piece else ()):
                    parts[j] = g if parts[j] is None else parts[j] + g  # type: ignore[operator]
            zero = torch.zeros_like(c[0])
            out.append(torch.stack([zero if g is None else g for g in parts]))
        return out

    def rhs(self, n: int, piece: Piece) -> Rhs:
        """The field with the weights of interval n."""
        mask = piece[MASK][0] if MASK in piece else None
        weights = {k: v for k, v in piece.items() if k != MASK and not k.startswith(COEF)}
        fixed = {k: v[0] for k, v in weights.items() if self.depths[k].constant}
        moving = {k: v for k, v in weights.items() if k not in fixed}
        if not moving:
            return Rhs(self.field, fixed, mask)
        start, width = self.knots[n], self.knots[n + 1] - self.knots[n]

        def at(t: float | Tensor) -> Params:
            s = (t - start) / width
            return {**fixed, **{k: self.depths[k].value(v, s) for k, v in moving.items()}}

        return Rhs(self.field, at, mask)

    # ---- steps ---------------------------------------------------------------------------------------------------

    def step(self, mark: Mark, rhs: Rhs, piece: Piece, y: State, carry: Carry) -> Step:
        """One step of the integrator."""
        coef = _coefficients(piece)
        if mark.fresh:
            carry = self.integrator.init(rhs, mark.t, y, mark.h, coef)
        return self.integrator.step(rhs, mark.t, y, mark.h, carry, coef, **self._unneeded)

    def invert(self, mark: Mark, piece: Piece, y: State, carry: Carry) -> tuple[State, Carry]:
        """State and memory before a step, from those after it."""
        coef = _coefficients(piece)
        memory = carry if self.integrator.history else ()
        before = self.integrator.invert(self.rhs(mark.n, piece), mark.t, y, mark.h, memory, coef)
        return before.y, () if mark.fresh or not self.integrator.history else before.carry

    def replay(self, marks: Sequence[Mark], piece: Piece, y: State, carry: Carry) -> tuple[State, Carry]:
        """Steps inside one knot interval."""
        rhs = self.rhs(marks[0].n, piece)
        for mark in marks:
            y, _, carry = self.step(mark, rhs, piece, y, carry)
        return y, carry

    def over(self, n: int, piece: Piece, y: State, carry: Carry) -> tuple[State, Carry]:
        """Fixed steps over knot interval n."""
        return self._fixed(n, self.rhs(n, piece), piece, y, carry, None, Record())

    def run(
        self, y0: State, theta: Params, *, watch: Watch | None = None, record: Record | None = None
    ) -> tuple[list[State], Carry, Record]:
        """From the first knot to the last: states at the knots reached, the last memory, and what was done."""
        record = Record() if record is None else record
        states, y, h, factor = [y0], y0, None, None
        carry: Carry = ()
        for n, piece in enumerate(self.pieces(theta)):
            rhs = self.rhs(n, piece)
            if self.tolerance is None:
                y, carry = self._fixed(n, rhs, piece, y, carry, watch, record)
            else:
                y, carry, h, factor = self._adaptive(n, rhs, piece, y, h, factor, watch, record)
            record.halves += rhs.halves
            if record.status:
                break
            states.append(y)
        return states, carry, record

    def _fixed(
        self, n: int, rhs: Rhs, piece: Piece, y: State, carry: Carry, watch: Watch | None, record: Record
    ) -> tuple[State, Carry]:
        a, b = self.knots[n], self.knots[n + 1]
        h = (b - a) / self.substeps
        for i in range(self.substeps):
            mark = Mark(n, a + i * h, h, i == 0 and (n == 0 or self.restart))
            before = y
            record.note(mark, y, carry)
            y, _, carry = self.step(mark, rhs, piece, y, carry)
            if watch is not None and (why := watch(mark, before, y)):
                record.status, record.t, record.h = why, mark.t, h
                break
        return y, carry

    def _adaptive(
        self,
        n: int,
        rhs: Rhs,
        piece: Piece,
        y: State,
        h: float | None,
        last: float | None,
        watch: Watch | None,
        record: Record,
    ) -> tuple[State, Carry, float | None, float | None]:
        tolerance, integrator = self.tolerance, self.integrator
        assert tolerance is not None
        control = Controller(rtol=tolerance.rtol, atol=tolerance.atol)
        t, end = self.knots[n], self.knots[n + 1]
        direction = 1.0 if end > t else -1.0
        order = integrator.order - 1 if integrator.facts.order_low is None else integrator.facts.order_low
        if h is None:
            with torch.no_grad():
                h = float(initial_step(rhs, t, y, direction, order, tolerance.rtol, tolerance.atol))
        h = abs(h)
        carry: Carry = ()
        fresh = True
        while (end - t) * direction > 0.0:
            if tolerance.max_steps is not None and len(record.marks) + record.rejected >= tolerance.max_steps:
                record.status, record.t, record.h = "max_steps", t, h
                return y, carry, h, last
            gap = abs(end - t)
            # a remainder that is nearly a step is one step, so that no sliver is left before the knot
            size = gap if gap <= h * 1.0000001 else (gap / 2 if gap < 2 * h and gap > 1.9 * h else h)
            if not math.isfinite(size) or size <= 16 * math.ulp(max(abs(t), abs(end) * 1e-8)):
                record.status, record.t, record.h = (
                    ("step_underflow" if math.isfinite(size) else "non_finite"),
                    t,
                    size,
                )
                return y, carry, h, last
            mark = Mark(n, t, direction * size, fresh)
            new = self.step(mark, rhs, piece, y, carry)
            with torch.no_grad():
                error = float(control.error_norm(new.error, y, new.y))  # type: ignore[arg-type]
            if not error <= 1.0:
                record.rejected += 1
                shrink = control.factor(error, None, order) if math.isfinite(error) else 0.1
                h = size * min(shrink, 0.9)
                if not math.isfinite(error) and h <= 16 * math.ulp(max(abs(t), abs(end) * 1e-8)):
                    record.status, record.t, record.h = "non_finite", t, h
                    return y, carry, h, last
                continue
            record.note(mark, y, carry)
            before, (y, _, carry) = y, new
            t = end if size == gap else t + direction * size
            fresh = False
            grown = size * float(control.factor(error, last, order))
            h = max(grown, h) if size < h else grown  # a step cut short by the knot says nothing against h
            last = error
            if watch is not None and (why := watch(mark, before, y)):
                record.status, record.t, record.h = why, mark.t, size
                break
        return y, carry, h, last
