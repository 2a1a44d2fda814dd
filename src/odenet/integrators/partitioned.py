"""Splitting methods for separable systems q' = g(t, p), p' = f(t, q): kicks and drifts in turn."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from ..errors import BadInput
from ..rational import Number, exact_row
from ..types import Carry, Params, State, Step, Time
from .base import Integrator, build, later, verify
from .order import Sparse, TreeConditions, refuse_unless


@dataclass(frozen=True)
class Partitioned:
    """p <- p + a_1 h f(q),  q <- q + b_1 h g(p),  p <- p + a_2 h f(q), ...

    kicks, drifts: a_1 a_2 ... and b_1 b_2 ..., equally many; zeros are skipped
    A kick is evaluated at t + h (sum of the drifts so far), a drift at t + h (sum of the kicks so far).
    """

    kicks: str
    drifts: str
    order: int
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        if len(exact_row(self.kicks)) != len(exact_row(self.drifts)):
            raise BadInput("kicks and drifts have different lengths; write a zero where one is missing.")

    @cached_property
    def a(self) -> tuple[Number, ...]:
        """The kicks."""
        return exact_row(self.kicks)

    @cached_property
    def b(self) -> tuple[Number, ...]:
        """The drifts."""
        return exact_row(self.drifts)

    def conditions(self) -> TreeConditions:
        """Order conditions of the splitting as a pair of Runge-Kutta methods, on alternating trees."""
        s = range(len(self.a))
        before_kick: Sparse = [[(j, self.b[j]) for j in range(i) if self.b[j]] for i in s]
        before_drift: Sparse = [[(j, self.a[j]) for j in range(i + 1) if self.a[j]] for i in s]
        return TreeConditions([self.a, self.b], [before_kick, before_drift], ("kick", "drift"))


@dataclass(frozen=True)
class _Move:
    """One kick or drift: its coefficient and its stage time, as fractions of h."""

    kick: bool
    weight: float
    at: float


class SymplecticSplitting(Integrator):
    """Engine of a `Partitioned` method: symplectic for Hamiltonian systems, inverted in closed form.

    f offers split(y) -> (q, p), join(q, p) -> y, kick(t, q) = p' and drift(t, p) = q'. Where the last drift
    is zero the last kick is the first of the next step and travels in the carry.
    """

    needs = frozenset({"separable"})
    symplectic = True
    reversible = True

    def __init__(self, method: Partitioned) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.moves = _moves(method)
        self._reuses = len(self.moves) > 1 and self.moves[0].kick and self.moves[-1].kick
        self.stages = sum(move.kick for move in self.moves) - self._reuses

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step of kicks and drifts."""
        return self._compose(f, t, y, h, carry, 1)

    def undo(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """The same moves in the opposite order with the opposite sign."""
        return self._compose(f, t, y, h, carry, -1)

    def _compose(self, f: Any, t: Time, y: State, h: Time, carry: Carry, sign: int) -> Step:
        q, p = f.split(y)
        force = carry[0] if carry and self._reuses else None
        for move in self.moves[::sign]:
            at, weight = later(t, move.at, h), sign * move.weight
            if move.kick:
                force = f.kick(at, q) if force is None else force
                p, last, force = p + (h * weight) * force, force, None
            else:
                q = q + (h * weight) * f.drift(at, p)
        return Step(f.join(q, p), None, (last,) if self._reuses else ())


def _moves(method: Partitioned) -> list[_Move]:
    moves: list[_Move] = []
    kicked: Any = Fraction(0)
    drifted: Any = Fraction(0)
    for a, b in zip(method.a, method.b):
        if a:
            moves.append(_Move(True, float(a), float(drifted)))
            kicked = kicked + a
        if b:
            moves.append(_Move(False, float(b), float(kicked)))
            drifted = drifted + b
    return moves


@build.register
def _(data: Partitioned) -> SymplecticSplitting:
    return SymplecticSplitting(data)


@verify.register
def _(integrator: SymplecticSplitting) -> None:
    refuse_unless(integrator.title, integrator.order, integrator.method.conditions().of_order)
