"""What can be seen from outside: the order of a method on a problem with known solution, its intervals.

For methods whose coefficients are not known (a user's, another library's) this replaces the algebra.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ClaimRefused
from ..types import Carry, Params, Time
from .base import Facts, Integrator


class KnownSolution(Protocol):
    """A right-hand side together with its solution."""

    def __call__(self, t: Time, y: Tensor) -> Tensor: ...
    def exact(self, t: float) -> Tensor: ...


ROUNDING = 2.5e-15  # per step: thirty times what rounding adds, so that it moves an order by less than 0.05
PHASES = torch.arange(8, dtype=torch.float64) * (math.pi / 4)


class ForcedPair:
    """q' = cos s + 5/2 (sin p - sin cos s),  p' = -sin s - 5/2 (sin q - sin sin s),  s = t + phase.

    Solution q = sin s, p = cos s for eight phases: at one alone the leading error term may nearly vanish.
    Nonlinear, non-autonomous, separable; y = (q, p), shape (2, 8).
    """

    def exact(self, t: float) -> Tensor:
        return torch.stack((torch.sin(t + PHASES), torch.cos(t + PHASES)))

    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y[:1], y[1:]

    def join(self, q: Tensor, p: Tensor) -> Tensor:
        return torch.cat((q, p))

    def kick(self, t: Time, q: Tensor) -> Tensor:
        at = torch.sin(t + PHASES)
        return 2.5 * (torch.sin(at) - torch.sin(q)) - at

    def drift(self, t: Time, p: Tensor) -> Tensor:
        at = torch.cos(t + PHASES)
        return 2.5 * (torch.sin(p) - torch.sin(at)) + at

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        return torch.cat((self.drift(t, y[1:]), self.kick(t, y[:1])))


class ForcedSpring:
    """y'' = -cos t + sin y - sin cos t from rest; solution y = cos t, shape (1,)."""

    def exact(self, t: float) -> Tensor:
        return torch.tensor([math.cos(t)], dtype=torch.float64)

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        at = math.cos(float(t))
        return torch.sin(y) - (at + math.sin(at))


def problem_for(integrator: Integrator) -> KnownSolution:
    """The problem with known solution that offers what the integrator needs."""
    if integrator.needs & {"split", "linear"}:
        from .splitting import ForcedParts

        return ForcedParts()
    return ForcedSpring() if "second_order" in integrator.needs else ForcedPair()


def error_at_one(integrator: Integrator, problem: KnownSolution, steps: int, coef: Params | None = None) -> float:
    """RMS error at t = 1 after equal steps from t = 0."""
    h, y = 1.0 / steps, problem.exact(0.0)
    carry: Carry = ()
    for n in range(steps):
        y, _, carry, *_ = integrator.step(problem, n * h, y, h, carry, coef)
    return float((y - problem.exact(1.0)).square().mean().sqrt())


def observed_order(
    integrator: Integrator,
    problem: KnownSolution | None = None,
    coef: Params | None = None,
    finest: int = 512,
) -> float:
    """log2 of the ratio of the last two errors above rounding, for 2, 4, 8, ... up to `finest` steps."""
    problem = problem or problem_for(integrator)
    above: list[float] = []
    steps = 2
    while steps <= finest:
        error = error_at_one(integrator, problem, steps, coef)
        if error < ROUNDING * steps:
            break
        above.append(error)
        steps *= 2
    return math.log2(above[-2] / above[-1]) if len(above) > 1 else math.inf


def confirm_order(integrator: Integrator, tolerance: float = 0.1) -> None:
    """Raise ClaimRefused unless the observed order is within `tolerance` of the stated one."""
    seen = observed_order(integrator, coef=integrator.mean_coefficients())
    if not abs(seen - integrator.order) <= tolerance:
        raise ClaimRefused(
            f"{integrator.title} claims order {integrator.order}, but halving the step on a "
            f"problem with known solution shows order {seen:.2f}; correct step() or the stated order."
        )


def declared_facts(integrator: Integrator) -> Facts:
    """The declared order, and the stability intervals to three digits from stepping y' = z y."""
    return Facts(
        order=integrator.order,
        stages=integrator.stages,
        symplectic=integrator.symplectic,
        real_interval=_interval(integrator, -1.0),
        imag_interval=_interval(integrator, 1j),
    )


def _interval(integrator: Integrator, direction: complex, reach: float = 50.0, points: int = 50001) -> float:
    x = torch.linspace(0.0, reach, points, dtype=torch.float64)[1:]
    grows = integrator.amplification(x * direction).abs() > 1 + 1e-13
    if not bool(grows.any()):
        return math.inf
    first = int(grows.int().argmax())
    # growth by a high power of x drowns in rounding near 0: so short an interval is none
    return float(x[first - 1]) if first * reach / (points - 1) > 0.05 else 0.0
