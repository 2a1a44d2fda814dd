"""Operator splitting: the flows of the two parts of a split field in turn, each by a method of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, ClaimRefused
from ..rational import Number, exact, is_exact
from ..types import Carry, Params, State, Step, Time
from .additive import Part, factors_of, implicit_matrix
from .base import Facts, Integrator, build, facts_of, later, verify
from .observe import PHASES
from .order import Residual, refuse_unless
from .phi import phi_matrix
from .runge_kutta import RungeKutta

PARTS = ("explicit", "implicit")


@dataclass(frozen=True)
class Splitting:
    """y(t + h) = phi_s(a_s h) o ... o phi_1(a_1 h) y, each phi the flow of y' = explicit(t, y) or y' = implicit(t, y).

    flows:     (part, a) in the order in which they act: (("explicit", "1"), ("implicit", "1")) is Lie's splitting
    order:     a claim about exact flows, checked at registration; the methods of both parts have it at least
    explicit:  one-step method (name, coefficients or Integrator) for the flow of the explicit part
    implicit:  likewise for the implicit part; where the field says that this part is L y, exp(a h L) is used instead
    Each part keeps its own clock, so that both may depend on t. End with the stiff part: on stiff problems that loses
    least of the order (Sportisse 2000). Orders above 2 need negative a (Sheng 1989), which stiff parts do not bear.
    """

    flows: tuple[tuple[str, str], ...]
    order: int
    explicit: Any = "rk4"
    implicit: Any = "sdirk2"
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        unknown = sorted({part for part, _ in self.flows} - set(PARTS))
        if unknown or not self.flows:
            raise BadInput(
                f'the flows of a splitting are pairs ("explicit", "1/2") or ("implicit", "1/2"); got {self.flows!r}.'
            )

    @cached_property
    def fractions(self) -> tuple[Number, ...]:
        """The a_k."""
        return tuple(exact(a) for _, a in self.flows)

    def of_order(self, q: int) -> Iterator[Residual]:
        """Conditions of order q: the coefficient of every word in E, I with q letters in the product of
        exp(a_k h X_k) is that of exp(h (E + I)), which is 1/q! (McLachlan & Quispel 2002, section 3).
        """
        series: dict[str, Any] = {"": Fraction(1)}
        for (part, _), a in zip(self.flows, self.fractions):
            grown: dict[str, Any] = {}
            for word, c in series.items():
                for k in range(q - len(word) + 1):
                    longer = word + part[0].upper() * k
                    grown[longer] = grown.get(longer, Fraction(0)) + c * a**k / math.factorial(k)
            series = grown
        for letters in product("EI", repeat=q):
            word = "".join(letters)
            yield Residual(f"the word {word}", series.get(word, Fraction(0)), Fraction(1, math.factorial(q)))


class OperatorSplitting(Integrator):
    """Engine of a `Splitting`.

    On stiff problems the order drops where the parts do not commute at the boundary: Strang's splitting of diffusion
    with a reaction that does not vanish at a Dirichlet boundary has order near 1 (Einkemmer & Ostermann 2015).
    """

    needs = frozenset({"split"})

    def __init__(self, method: Splitting) -> None:
        self.method = method
        self.order, self.cite, self.when = method.order, method.cite, method.when
        self.inner = {part: _inner(part, getattr(method, part)) for part in PARTS}
        self.implicit = any(inner.implicit for inner in self.inner.values())
        moves = [(part, float(a)) for (part, _), a in zip(method.flows, method.fractions) if a]
        before = dict.fromkeys(PARTS, 0.0)
        self._moves: list[tuple[str, float, float]] = []  # part, a, and its clock when the move starts
        for part, a in moves:
            self._moves.append((part, a, before[part]))
            before[part] += a
        halves = sum(self.inner[part].stages for part, _ in moves)
        self.stages = halves if self.implicit else -(-halves // 2)  # a stage of one part is half an evaluation

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step from (t, y)."""
        memory: dict[str, Any] = {}
        for part, a, clock in self._moves:
            size, at = h * a if a != 1.0 else h, later(t, clock, h)
            matrix = implicit_matrix(f, later(at, 0.5, size), y) if part == "implicit" else None
            if matrix is None:
                y = self._flow(Part(f, part), at, y, size)
            else:
                y = _exponential(matrix, size, y, factors_of(f, matrix, size, memory))
        return Step(y, None, ())

    def _flow(self, f: Part, t: Time, y: State, h: Time) -> State:
        method = self.inner[f.name]
        if isinstance(method, RungeKutta):
            return method.step(f, t, y, h, (), None, estimate=False).y
        return method.step(f, t, y, h, (), None).y

    def stability_function(self, explicit: Tensor, implicit: Tensor) -> Tensor:
        """Product of those of the inner methods, also where exp(a h L) takes the place of the implicit one."""
        z = {"explicit": explicit, "implicit": implicit}
        factors = [self.inner[part].amplification(a * z[part]) for part, a, _ in self._moves]
        return torch.stack(torch.broadcast_tensors(*factors)).prod(0)


def _inner(part: str, method: Any) -> Integrator:
    from .registration import resolve

    found = resolve(method)
    if found.needs or found.history or found.learnable:
        raise BadInput(
            f"the flow of the {part} part needs a one-step method for any field, which {found.title} is not; use one "
            'such as "rk4" or "sdirk2".'
        )
    return found


def _exponential(matrix: Tensor, h: Time, y: State, memory: dict[str, Any]) -> State:
    """exp(h L) y along the last axis; h is a number, or a tensor with one entry per sample."""
    if matrix.dim() == 1:
        size = h.to(y.dtype) if isinstance(h, Tensor) else h
        return torch.exp(size * matrix) * y
    if "exp" not in memory:
        size = h.reshape(-1, 1, 1).to(matrix.dtype) if isinstance(h, Tensor) else h
        memory["exp"] = phi_matrix(size * matrix, 0)[0]
    flow = memory["exp"]
    rows = y.reshape(flow.shape[0] if flow.dim() == 3 else 1, -1, y.shape[-1])
    return (rows @ flow.mT).reshape(y.shape)


class ForcedParts:
    """A problem with known solution for methods that need a split or a linear field; state (8, 2), for eight phases.

    y' = phi' + L (y - phi) + (cos y - cos phi)/2 + 5/2 (sin Py - sin P phi), phi = (sin s, cos s), s = t + phase, P
    the exchange of both components. Implicit: L y + cos(y)/2; linear: L y.
    """

    matrix = torch.tensor([[-2.0, 1.0], [0.5, -3.0]], dtype=torch.float64)

    def __init__(self) -> None:
        self.workspace: dict[str, Any] = {}

    def exact(self, t: Time) -> Tensor:
        s = t + PHASES
        return torch.stack((torch.sin(s), torch.cos(s)), -1)

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        return self.explicit(t, y) + self.implicit(t, y)

    def implicit(self, t: Time, y: Tensor) -> Tensor:
        return y @ self.matrix.mT + 0.5 * torch.cos(y)

    def explicit(self, t: Time, y: Tensor) -> Tensor:
        phi = self.exact(t)
        moved = phi.flip(-1) * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return moved - self.implicit(t, phi) + 2.5 * (torch.sin(y.flip(-1)) - torch.sin(phi.flip(-1)))

    def implicit_jacobian(self, t: Time, y: Tensor, p: Params) -> Tensor:
        return self.matrix - 0.5 * torch.diag_embed(torch.sin(y))

    def linear(self) -> Tensor:
        return self.matrix

    def nonlinear(self, t: Time, y: Tensor) -> Tensor:
        return self(t, y) - y @ self.matrix.mT


@build.register
def _(data: Splitting) -> OperatorSplitting:
    return OperatorSplitting(data)


@verify.register
def _(integrator: OperatorSplitting) -> None:
    method, who = integrator.method, integrator.title
    refuse_unless(who, method.order, method.of_order)
    for part, inner in integrator.inner.items():
        if inner.order < method.order:
            raise ClaimRefused(
                f"{who} claims order {method.order} and follows the {part} part by {inner.name or 'a method'} of order "
                f"{inner.order}; use one of order {method.order} or more."
            )


@facts_of.register
def _(integrator: OperatorSplitting) -> Facts:
    """The error constant is that of exact flows; stability intervals are those of the implicit part."""
    method = integrator.method
    residuals = method.of_order(method.order + 1)
    inner = integrator.inner["implicit"].facts
    longest = max(
        (abs(float(a)) for (part, _), a in zip(method.flows, method.fractions) if part == "implicit"), default=0
    )
    return Facts(
        order=method.order,
        stages=integrator.stages,
        exact=all(is_exact(a) for a in method.fractions),
        error_constant=math.sqrt(math.fsum(r.weighted**2 for r in residuals)),
        zero_stable=True,
        real_interval=_over(inner.real_interval, longest),
        imag_interval=_over(inner.imag_interval, longest),
    )


def _over(interval: float | None, fraction: float) -> float | None:
    return interval / fraction if interval is not None and fraction else None
