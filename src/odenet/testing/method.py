"""An integrator on the test bench, and the list of checks it goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible, NotBuiltYet
from ..integrators import Facts, Integrator
from ..integrators.base import facts_of
from ..integrators.external import External
from ..types import Carry, Params, State, Step, Time
from .report import Finding
from .systems import Forced, states

H = 0.1  # step of the checks that want a smooth, ordinary step
EXACT = 1e-12


class Skip(Exception):
    """A check that does not apply; the message says why."""


@dataclass(frozen=True)
class Method:
    """The integrator under test, with the systems that it can be given."""

    integrator: Integrator

    @property
    def needs(self) -> frozenset[str]:
        return self.integrator.needs

    @property
    def foreign(self) -> bool:
        """Whether it is a method of another library."""
        return isinstance(self.integrator, External)

    @cached_property
    def facts(self) -> Facts:
        """The integrator's facts; those of a user's own step without the intervals, which take long to observe."""
        i = self.integrator
        if facts_of.dispatch(type(i)) is facts_of.dispatch(object):
            return Facts(order=i.order, stages=i.stages, symplectic=i.symplectic)
        return i.facts

    @cached_property
    def varying(self) -> bool:
        """Whether its order is chosen anew in every step, from all samples together."""
        return bool(self.integrator.history) and self.steps(self.system(), 0.2, states(1))[0].order is not None

    @cached_property
    def dear(self) -> bool:
        """Whether a step solves or differentiates, or belongs to another library: fewer and larger steps will do."""
        f = self.system()
        self.steps(f, 0.2, states(1), count=1)
        return self.integrator.implicit or self.foreign or bool(f.counts)

    @property
    def full(self) -> int:
        """Steps until its memory is full."""
        return self.integrator.history + 1

    def system(self, **words: Any) -> Forced:
        """The forced system, with the parts that the method needs."""
        return Forced(self.needs, **words)

    def coefficients(self, like: Tensor) -> Params | None:
        """Learnable coefficients at their mean, real, in the precision of `like`."""
        means = self.integrator.mean_coefficients()
        return means and {k: v.to(like.device, like.real.dtype) for k, v in means.items()}

    def step(
        self, f: Any, t: Time, y: State, h: Time = H, carry: Carry = (), coef: Params | None = None
    ) -> Step:  # fmt: skip
        """One step."""
        return self.integrator.step(f, t, y, h, carry, self.coefficients(y) if coef is None else coef)

    def steps(self, f: Any, t: Time, y: State, h: Time = H, count: int = 3, coef: Params | None = None) -> list[Step]:
        """Consecutive steps from an empty memory."""
        if hasattr(f, "workspace"):
            f.workspace.clear()
        made: list[Step] = []
        carry: Carry = ()
        for n in range(count):
            made.append(self.step(f, t + n * h, y, h, carry, coef))
            y, carry = made[-1].y, made[-1].carry
        return made

    def run(self, f: Any, t: Time, y: State, h: Time = H, count: int = 3, coef: Params | None = None) -> Tensor:
        """The states of some steps, flattened into one vector."""
        return torch.cat([s.y.reshape(-1) for s in self.steps(f, t, y, h, count, coef)])


Check = Callable[[Any], Iterator[Finding]]
CHECKS: dict[str, Check] = {}  # of integrators


def check(name: str, checks: dict[str, Check] = CHECKS) -> Callable[[Check], Check]:
    """Add a function to the checks of one kind of plug-in."""

    def add(function: Check) -> Check:
        checks[name] = function
        return function

    return add


def carried_out(name: str, function: Check, subject: Any, needed: bool = False) -> list[Finding]:
    """The findings of one check; what it raises is a finding too. One that is `needed` cannot be refused."""
    made: list[Finding] = []
    try:
        made.extend(function(subject))
    except Skip as why:
        return [*made, Finding(name, None, str(why))]
    except (Incompatible, NotBuiltYet) as refusal:
        return [*made, Finding(name, False if needed else None, f"refused: {refusal}")]
    except Exception as problem:  # whatever a plug-in does wrong belongs in the report
        return [*made, Finding(name, False, f"raised {type(problem).__name__}: {said(problem)}")]
    return made or [Finding(name, None, "nothing to check")]


def said(problem: BaseException) -> str:
    """The first line of what an exception says, without its full stop."""
    return (str(problem).splitlines() or [""])[0].rstrip(".")


def instance(cls: type) -> Any:
    """An object of the class; raises BadInput with what its constructor raises."""
    try:
        return cls()
    except Exception as problem:  # whatever an author's constructor does
        raise BadInput(
            f"{cls.__name__}() raises {type(problem).__name__}: {said(problem)}; check an instance, or correct it."
        ) from None


def difference(a: Tensor, b: Tensor) -> float:
    """max |a - b| relative to max |b|, at least 1; inf where shapes differ or a number is not finite."""
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    a, b = a.detach(), b.detach()
    gap = float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
    return gap if gap == gap else float("inf")


def held(name: str, measured: float, at_most: float, good: str, bad: str) -> Finding:
    """A finding about a number that should be small."""
    ok = measured <= at_most
    return Finding(name, ok, good if ok else bad, measured, f"<= {at_most:.0e}")
