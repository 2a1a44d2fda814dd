"""Dense quasi-Newton methods: BFGS, self-scaled BFGS and self-scaled Broyden, and limited-memory BFGS.

With s the step, y the change of the gradient, H the inverse of B and
    b = s.Bs / s.y,   h = y.Hy / s.y,   a = b h - 1,   v = s / s.y - Hy / y.Hy
one update of the self-scaled Broyden family is
    H+ = (H - Hy (Hy)^T / y.Hy + phi y.Hy v v^T) / tau + s s^T / s.y,      phi = (1 - theta) / (1 + a theta).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput
from . import base
from .base import Objective, Optimiser, State, checked_loss, checked_start, count, number
from .line_search import Probe, checked, strong_wolfe

_EPS = torch.finfo(torch.float64).eps


def bfgs_factors(b: float, h: float, size: int) -> tuple[float, float]:
    """(tau, theta) of BFGS: (1, 0)."""
    return 1.0, 0.0


def ssbfgs_factors(b: float, h: float, size: int) -> tuple[float, float]:
    """(tau, theta) of self-scaled BFGS: tau = min(1, 1 / b), theta = 0.

    Al-Baali's restriction of Oren and Luenberger's factor; Urbán, Stefanou & Pons, J. Comput. Phys. 113656,
    doi:10.1016/j.jcp.2024.113656, equation 11.
    """
    return min(1.0, 1 / b), 0.0


def ssbroyden_factors(b: float, h: float, size: int) -> tuple[float, float]:
    """(tau, theta) of self-scaled Broyden with P = size parameters.

    rho- = min(1, h (1 - sqrt(a / (1 + a)))),   theta = max((rho- - 1) / a, min(1 / rho-, (1 - b) / b)),
    sigma = 1 + a theta,   rho = min(1, 1 / b),
    tau = rho min(sigma^(1 / (1 - P)), 1 / theta) where theta > 0, else min(rho sigma^(1 / (1 - P)), sigma).
    Urbán, Stefanou & Pons, J. Comput. Phys. 113656, doi:10.1016/j.jcp.2024.113656, equations 13-23, after
    Al-Baali.
    """
    a = max(b * h - 1, 0.0)  # not negative, by Cauchy and Schwarz
    low = min(1.0, h * (1 - math.sqrt(a / (1 + a))))
    least = (low - 1) / a if a > 0 else (0.0 if low == 1 else -math.inf)
    theta = max(least, min(1 / low, (1 - b) / b))
    rho, sigma = min(1.0, 1 / b), 1 + a * theta
    power = sigma ** (1 / (1 - size)) if size > 1 else 1.0
    return (rho * min(power, 1 / theta) if theta > 0 else min(rho * power, sigma)), theta


FACTORS = {"bfgs": bfgs_factors, "ssbfgs": ssbfgs_factors, "ssbroyden": ssbroyden_factors}


def updated(H: Tensor, s: Tensor, y: Tensor, Bs: Tensor, method: str) -> Tensor:
    """H+ (P, P) of the family's member `method`, for s.y > 0; (s.y / y.y) I where rounding left H indefinite."""
    Hy = H @ y
    sy, yHy = float(s @ y), float(y @ Hy)
    if not yHy > 0:
        return torch.eye(len(s), dtype=H.dtype, device=H.device) * (sy / float(y @ y))
    b, h = float(s @ Bs) / sy, yHy / sy
    tau, theta = FACTORS[method](b, h, len(s))
    phi = (1 - theta) / (1 + max(b * h - 1, 0.0) * theta)
    across = -phi / (tau * sy)
    middle = H.new_tensor([[1 / sy + phi * h / (tau * sy), across], [across, (phi - 1) / (tau * yHy)]])
    U = torch.stack([s, Hy], 1)
    return torch.addmm(H, U @ middle, U.T, beta=1 / tau)


@dataclass(frozen=True, kw_only=True)
class QuasiNewton(Optimiser):
    """Dense quasi-Newton in float64 with a strong Wolfe line search; memory P^2, one gradient and P^2 work per trial.

    method:   "ssbroyden", "ssbfgs" or "bfgs"
    c1, c2:   constants of the Wolfe conditions      trials: evaluations of one line search
    The first update starts from (s.y / y.y) I (Nocedal & Wright, 6.20). A failed line search restarts from steepest
    descent; the second in a row is "stalled". Raises BadInput for float32 or a loss that is not finite at the start.
    """

    method: str = "ssbroyden"
    c1: float = 1e-4
    c2: float = 0.9
    trials: int = 30

    def __post_init__(self) -> None:
        if self.method not in FACTORS:
            raise BadInput(f"method={self.method!r} is none of {', '.join(FACTORS)}.")
        checked(self.c1, self.c2, self.trials)

    def init(self, problem: Objective, theta: Tensor) -> State:
        state = _started(problem, theta, self.method)
        return {**state, "inverse": torch.eye(problem.size, dtype=theta.dtype, device=theta.device)}

    def refresh(self, problem: Objective, state: State) -> State:
        return _evaluated(problem, state)

    def advance(self, problem: Objective, state: State) -> State:
        fresh, H, g = bool(state["fresh"]), state["inverse"], state["gradient"]
        move = _searched(problem, state, -g if fresh else -(H @ g), self.c1, self.c2, self.trials)
        if not isinstance(move, _Moved):
            return {**move, "inverse": torch.eye(len(g), dtype=g.dtype, device=g.device)}
        if not move.curved:
            return move.state
        Bs, method = -move.length * g, self.method
        if fresh:
            H, Bs, method = H * (move.s @ move.y / (move.y @ move.y)), g, "bfgs"
        move.state["inverse"] = updated(H, move.s, move.y, Bs, method)
        return move.state


def ssbroyden(c1: float = 1e-4, c2: float = 0.9, trials: int = 30) -> QuasiNewton:
    """Self-scaled Broyden; choose it for energies and other losses that are no sum of squares, up to 1e4 parameters."""
    return QuasiNewton(method="ssbroyden", c1=c1, c2=c2, trials=trials)


def ssbfgs(c1: float = 1e-4, c2: float = 0.9, trials: int = 30) -> QuasiNewton:
    """Self-scaled BFGS; choose it where ssbroyden stalls, since its update is the simpler one."""
    return QuasiNewton(method="ssbfgs", c1=c1, c2=c2, trials=trials)


def bfgs(c1: float = 1e-4, c2: float = 0.9, trials: int = 30) -> QuasiNewton:
    """BFGS; choose it as the yardstick of the self-scaled methods."""
    return QuasiNewton(method="bfgs", c1=c1, c2=c2, trials=trials)


@dataclass(frozen=True, kw_only=True)
class LBFGS(Optimiser):
    """Limited-memory BFGS by the two-loop recursion; choose it for more parameters than a P x P matrix can hold.

    memory:   pairs (s, y) kept      c1, c2, trials: as in `QuasiNewton`
    It has no tolerance: it ends only at rounding, after a line search failed along steepest descent too. Nocedal &
    Wright, Numerical Optimization (2nd ed., 2006), algorithm 7.4 with the scaling (7.20).
    """

    memory: int = 100
    c1: float = 1e-4
    c2: float = 0.9
    trials: int = 30

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise BadInput(f"memory={self.memory}: keep one pair or more.")
        checked(self.c1, self.c2, self.trials)

    def init(self, problem: Objective, theta: Tensor) -> State:
        state = _started(problem, theta, "lbfgs")
        empty = state["theta"].new_zeros(self.memory, problem.size)
        return {**state, "S": empty, "Y": empty.clone(), "pairs": count(0, theta)}

    def refresh(self, problem: Objective, state: State) -> State:
        return _evaluated(problem, state)

    def advance(self, problem: Objective, state: State) -> State:
        k = int(state["pairs"])
        p = -_two_loops(state["S"][self.memory - k :], state["Y"][self.memory - k :], state["gradient"])
        move = _searched(problem, state, p, self.c1, self.c2, self.trials)
        if not isinstance(move, _Moved):
            return {**move, "pairs": count(0, state)}
        if move.curved:
            move.state["S"] = torch.cat([state["S"][1:], move.s[None]])
            move.state["Y"] = torch.cat([state["Y"][1:], move.y[None]])
            move.state["pairs"] = count(min(k + 1, self.memory), state)
        return move.state


def _two_loops(S: Tensor, Y: Tensor, g: Tensor) -> Tensor:
    """H g for the pairs in the rows of S and Y, oldest first."""
    if len(S) == 0:
        return g
    q, weights = g, []
    rho = (1 / (S * Y).sum(1)).tolist()
    for s, y, r in zip(S.flip(0), Y.flip(0), rho[::-1]):
        weights.append(r * float(s @ q))
        q = torch.add(q, y, alpha=-weights[-1])
    q = q / (rho[-1] * float(Y[-1] @ Y[-1]))
    for s, y, r, w in zip(S, Y, rho, weights[::-1]):
        q = torch.add(q, s, alpha=w - r * float(y @ q))
    return q


@dataclass(frozen=True)
class _Moved:
    """An accepted step; curved: s.y is positive beyond rounding, so that an update keeps H positive definite."""

    state: State
    s: Tensor
    y: Tensor
    length: float
    curved: bool


def _searched(problem: Objective, state: State, p: Tensor, c1: float, c2: float, trials: int) -> _Moved | State:
    """The step along p; or a state that restarts from steepest descent, or one whose status is set."""
    theta, g = state["theta"], state["gradient"]
    slope, fresh = float(g @ p), bool(state["fresh"])
    if float(g.norm()) == 0:
        return {**state, "status": count(base.GRADIENT, state), "steps": state["steps"] + 1}
    seen = 0

    def at(length: float) -> Probe:
        nonlocal seen
        seen += 1
        value, gradient = problem.value_and_gradient(theta + length * p)
        along = float(gradient @ p)
        return Probe(length, float(value) if math.isfinite(along) else math.inf, gradient, along)

    first = min(1.0, 1 / float(p.norm())) if fresh else 1.0
    found = strong_wolfe(at, Probe(0.0, float(state["loss"]), g, slope), first, c1, c2, trials) if slope < 0 else None
    after = {**state, "steps": state["steps"] + 1, "evaluations": state["evaluations"] + seen}
    if found is None:
        return {**after, "fresh": count(1, state), "status": count(base.SEARCH if fresh else 0, state)}
    s, y = found.step * p, found.gradient - g
    new = theta + s
    after |= {
        "theta": new,
        "loss": number(found.value, state),
        "gradient": found.gradient,
        "gradient_norm": number(float(found.gradient.norm()), state),
        "fresh": count(0, state),
    }
    curved = float(s @ y) > _EPS * float(s.norm() * y.norm())
    if fresh and not curved:
        after["fresh"] = count(1, state)
    return _Moved(after, s, y, found.step, curved)


def _started(problem: Objective, theta: Tensor, name: str) -> State:
    theta = checked_start(problem, theta, name)
    empty = {"theta": theta, "steps": count(0, theta), "evaluations": count(0, theta)}
    return _evaluated(problem, {**empty, "fresh": count(1, theta)})


def _evaluated(problem: Objective, state: State) -> State:
    loss, gradient = problem.value_and_gradient(state["theta"])
    return {
        **state,
        "loss": number(checked_loss(loss), state),
        "gradient": gradient,
        "gradient_norm": number(float(gradient.norm()), state),
        "evaluations": state["evaluations"] + 1,
        "status": count(0, state),
    }
