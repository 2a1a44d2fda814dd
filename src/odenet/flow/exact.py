"""Steps in whole numbers, so that running them backwards gives every bit back.

A state is an integer X with y = 2^-bits X, and a slope is rounded to such a number before it is added: what was added
can be subtracted. A velocity that is multiplied by a fraction n/d < 1 loses the remainder of the division; that is kept
in a second integer, packed tightly: log2(d/n) bits per entry and step, .15 for 9/10 (Maclaurin et al. 2015, section 2).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible
from ..fields import Rhs
from ..integrators import Integrator, TwoStep, resolve
from ..integrators.base import later
from ..integrators.partitioned import SymplecticSplitting
from ..types import Carry, State
from .march import March
from .pullback import Sum, guarded, lent, pull, split, transformed
from .record import Mark, Record

ROOM = 2**62  # integers stay below


class Whole(ABC):
    """The integers of a run: X, and beside it what the method remembers.

    bits: after the binary point; y has the dtype of the start
    """

    def __init__(self, integrator: Any, y: State, bits: int) -> None:
        self.integrator, self.bits, self.like = integrator, bits, y[:0]
        self.X = self.whole(y.double() * 2.0**bits)
        self.V = torch.zeros_like(self.X)
        self.R = torch.zeros_like(self.X)
        self.full: list[tuple[int, Tensor]] = []  # remainders put aside, with the step before which they were
        self.steps = 0

    @abstractmethod
    def ahead(self, f: Rhs, mark: Mark) -> None:
        """One step."""

    @abstractmethod
    def back(self, f: Rhs, mark: Mark) -> None:
        """The step undone."""

    @abstractmethod
    def carry(self, mark: Mark) -> Carry:
        """The memory before the step `mark`, after that step was undone."""

    def whole(self, x: Tensor) -> Tensor:
        """The nearest integers. Raises Incompatible where they are too large to be added without overflow."""
        if x.numel() and not float(x.abs().amax()) < ROOM / 16:  # room for the factor of a division, and for sums
            raise Incompatible(
                f"gradient 'exact' keeps {self.bits} bits after the point, and a state or slope reached "
                f"{float(x.abs().amax()) * 2.0**-self.bits:.1e}, too large for 64 bits; write Exact(bits=...) with "
                "fewer, or scale the states."
            )
        return x.round().to(torch.int64)

    def slope(self, f: State, factor: float) -> Tensor:
        """factor f as integers."""
        return self.whole(f.double() * (factor * 2.0**self.bits))

    def number(self, X: Tensor) -> State:
        """The floating-point state of integers, the same on the way back."""
        return (X.double() * 2.0**-self.bits).to(self.like.dtype)

    @property
    def y(self) -> State:
        return self.number(self.X)

    def tensors(self) -> list[Tensor]:
        """All integers, to be kept for the way back."""
        return [self.X, self.V, self.R, *(R for _, R in self.full)]

    def restore(self, tensors: Sequence[Tensor], steps: Sequence[int]) -> None:
        """The integers at the end of the forward run."""
        self.X, self.V, self.R, *full = tensors
        self.full = list(zip(steps, full))


class WholeTwoStep(Whole):
    """v <- -k v + gain h^p f(y), y <- y + v: `TwoStep` in terms of the velocity v_n = y_n - y_{n-1}."""

    def __init__(self, integrator: TwoStep, y: State, bits: int) -> None:
        super().__init__(integrator, y, bits)
        self.sign = -1 if float(integrator.k) > 0 else 1
        self.n, self.d = _fraction(integrator)
        self.largest = 0  # that an entry of R can be

    def ahead(self, f: Rhs, mark: Mark) -> None:
        slope = self.slope(f(mark.t, self.y), self._factor(mark))
        self.V = slope if mark.fresh else self._shrunk() + slope
        self.X = self.X + self.V
        self.steps += 1

    def back(self, f: Rhs, mark: Mark) -> None:
        self.steps -= 1
        self.X = self.X - self.V
        self.V = self.V - self.slope(f(mark.t, self.y), self._factor(mark))
        if not mark.fresh:
            self._grow()

    def carry(self, mark: Mark) -> Carry:
        return () if mark.fresh else (self.number(self.X - self.V),)

    def _factor(self, mark: Mark) -> float:
        k, gain = self.integrator.parameters()
        if mark.fresh and self.integrator.start == "taylor":
            gain = gain - k if self.integrator.power == 1 else gain + k / 2
        return gain * mark.h**self.integrator.power

    def _shrunk(self) -> Tensor:
        """-k V; what the division drops goes into R, and what the multiplication frees is filled from R."""
        if self.n == self.d:
            return self.sign * self.V
        self.largest, fresh = _packed(self.largest, self.n, self.d)
        if fresh:
            self.full.append((self.steps, self.R))
            self.R = torch.zeros_like(self.R)
        R = self.R * self.d + self.V % self.d
        V = (self.V // self.d) * self.n + R % self.n
        self.R = R // self.n
        return self.sign * V

    def _grow(self) -> None:
        """The inverse of `_shrunk`."""
        V = self.sign * self.V
        if self.n != self.d:
            R = self.R * self.n + V % self.n
            V = (V // self.n) * self.d + R % self.d
            self.R = R // self.d
            if self.full and self.full[-1][0] == self.steps:
                self.R = self.full.pop()[1]
        self.V = V


class WholeSplitting(Whole):
    """Kicks and drifts: every one adds a rounded slope to half of the state."""

    def ahead(self, f: Rhs, mark: Mark) -> None:
        self._move(f, mark, 1)

    def back(self, f: Rhs, mark: Mark) -> None:
        self._move(f, mark, -1)

    def carry(self, mark: Mark) -> Carry:
        return ()

    def _move(self, f: Rhs, mark: Mark, sign: int) -> None:
        q, p = f.split(self.X)
        for move in self.integrator.moves[::sign]:
            at = later(mark.t, move.at, mark.h)
            if move.kick:
                p = p + sign * self.slope(f.kick(at, self.number(q)), move.weight * mark.h)
            else:
                q = q + sign * self.slope(f.drift(at, self.number(p)), move.weight * mark.h)
        self.X = f.join(q, p)


@dataclass(frozen=True)
class Remainders:
    """Bits for each entry of a state that a run in whole numbers keeps beside the state and velocity at its end.

    needed: log2(d/n) for every multiplication by n/d; stored: 64 for every integer that they are packed into, of which
            there is one at least
    """

    needed: float
    stored: int


def remainders(integrator: str | Integrator, steps: int) -> Remainders:
    """What gradient="exact" keeps of the divisions of so many steps: none for a splitting or |k| = 1.

    Raises Incompatible for a method that does not step whole numbers.
    """
    method = resolve(integrator)
    if engine(method) is not WholeTwoStep or _fraction(method)[0] == _fraction(method)[1]:
        return Remainders(0.0, 64)
    n, d = _fraction(method)
    largest, words = 0, 1
    for _ in range(steps - 1):  # the first step starts from rest
        largest, fresh = _packed(largest, n, d)
        words += fresh
    return Remainders(max(steps - 1, 0) * math.log2(d / n), 64 * words)


def _fraction(integrator: Any) -> tuple[int, int]:
    """|k| = n/d."""
    k = abs(Fraction(str(integrator.k)))
    return k.numerator, k.denominator


def _packed(largest: int, n: int, d: int) -> tuple[int, bool]:
    """The largest that an entry of the remainders can be after one more division; whether that takes a new integer."""
    fresh = (largest + 1) * d > ROOM
    return ((0 if fresh else largest) * d + d - 1) // n, fresh


def steps_whole(integrator: Integrator) -> bool:
    """Whether this method can step integers."""
    return integrator.reversible and isinstance(integrator, TwoStep | SymplecticSplitting)


def engine(integrator: Integrator) -> type[Whole]:
    """How this method steps integers. Raises Incompatible where it does not."""
    if steps_whole(integrator):
        return WholeTwoStep if isinstance(integrator, TwoStep) else WholeSplitting
    raise Incompatible(
        f"gradient 'exact' steps whole numbers, which two-step methods of fixed k and splittings can; "
        f'{integrator.name!r} is neither. Use "momentum", "leapfrog", "two_step_midpoint", "verlet" or '
        "\"symplectic_euler\", or gradient='reversible'."
    )


def marks_of(march: March) -> list[Mark]:
    """All steps of a march with fixed steps and one start."""
    marks = []
    for n in range(len(march.knots) - 1):
        a, h = march.knots[n], (march.knots[n + 1] - march.knots[n]) / march.substeps
        for i in range(march.substeps):
            last = i + 1 == march.substeps
            marks.append(Mark(n, a + i * h, h, not n and not i, (1.0,) if last else ()))
    return marks


class WholeRun(torch.autograd.Function):
    """Forward: steps in integers. Backward: the same steps undone, every bit of them, and differentiated."""

    @staticmethod
    def forward(march, bits, save, record, names, y0, *values):  # type: ignore[no-untyped-def, override]
        pieces = march.pieces(dict(zip(names, values)))
        run = engine(march.integrator)(march.integrator, y0, bits)
        states, n = [run.y], -1
        rhs: Any = None
        for mark in marks_of(march):
            if mark.n != n:
                n, rhs = mark.n, march.rhs(mark.n, pieces[mark.n])
            halves = rhs.halves
            run.ahead(rhs, mark)
            record.halves += rhs.halves - halves
            record.marks.append(mark)
            states = [*states, run.y] if save and mark.stops else states
        record.kept = [step for step, _ in run.full]
        return (torch.stack(states) if save else run.y, *run.tensors())

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.march, ctx.bits, ctx.save, ctx.record, ctx.names, *inner = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.count = len(output) - 1
        ctx.save_for_backward(*output[1:], *inner)

    @staticmethod
    def backward(ctx, g, *_):  # type: ignore[no-untyped-def, override]
        march, marks, saved = ctx.march, ctx.record.marks, ctx.saved_tensors
        y0, *values = saved[ctx.count :]
        if g is None:
            return (None,) * (6 + len(values))
        theta, own = dict(zip(ctx.names, values)), values[len(ctx.names) :]
        with torch.set_grad_enabled(transformed()):
            pieces, total = march.pieces(theta), Sum(march, theta, own)
            outs, gy = split(g, ctx.save, marks)
            gcarry: Any = ()
            run = engine(march.integrator)(march.integrator, y0, ctx.bits)
            start = run.X
            run.restore(saved[: ctx.count], ctx.record.kept)
            run.steps = len(marks)
            for mark, gouts in zip(reversed(marks), reversed(outs)):
                piece = pieces[mark.n]
                with torch.no_grad():
                    run.back(march.rhs(mark.n, {**piece, **lent(march, own)}), mark)
                one = mark if march.integrator.history else mark._replace(fresh=True)
                gy, gcarry, gpiece, gown = pull(march, [one], piece, own, (run.y, run.carry(mark)), (gy, gcarry, gouts))
                total.add(mark.n, gpiece, gown)
            if not torch.equal(run.X, start):
                raise Incompatible(
                    "gradient 'exact' did not come back to the start, so the field gave other values on the way back; "
                    "let it be deterministic, or use gradient='checkpoint'."
                )
            grads = (gy + g[0] if ctx.save else gy, *total.result())
        return (None,) * 5 + guarded("exact", grads, (g, y0, *values))


def whole_run(march: March, bits: int, save: bool, record: Record, y0: State, theta: dict[str, Tensor]) -> State:
    """The last state of a march in integers, or all at the knots."""
    if transformed():
        raise Incompatible("gradient 'exact' does not run inside torch.func; use gradient='reversible' there.")
    return WholeRun.apply(march, bits, save, record, tuple(theta), y0, *theta.values(), *march.own)[0]
