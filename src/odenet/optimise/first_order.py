"""First-order methods with a learning rate: Adam, and SOAP, which is Adam in the eigenbasis of Shampoo's factors.

The share of the way that a schedule follows is steps / length, or state["progress"] where `length` is None: whoever
knows the time budget writes the share that is spent there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput
from . import base
from .base import Objective, Optimiser, State, checked_loss, checked_start, count, number

SCHEDULES = ("constant", "cosine", "exponential")


def rate(schedule: str, share: float, final: float) -> float:
    """Factor of the learning rate after a share of the way: 1 at the beginning, `final` at the end.

    constant: 1      cosine: final + (1 - final) (1 + cos(pi share)) / 2      exponential: final^share
    """
    share = min(max(share, 0.0), 1.0)
    if schedule == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2
    return final**share if schedule == "exponential" else 1.0


@dataclass(frozen=True, kw_only=True)
class Adam(Optimiser):
    """Adam (Kingma & Ba 2015, algorithm 1); choose it for the first steps, for noisy losses, or for float32.

    lr, betas, eps:  as in torch.optim.Adam      schedule: "constant", "cosine" or "exponential", to lr * final
    length:          steps of the schedule; None: state["progress"] is the share that is done
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: str = "constant"
    length: int | None = None
    final: float = 0.01

    def __post_init__(self) -> None:
        _checked(self.lr, self.betas, self.schedule, self.length, self.final)

    def init(self, problem: Objective, theta: Tensor) -> State:
        theta = checked_start(problem, theta, None)
        return _begun(problem, theta)

    def refresh(self, problem: Objective, state: State) -> State:
        return _evaluated(problem, state)

    def advance(self, problem: Objective, state: State) -> State:
        age, g = int(state["age"]) + 1, state["gradient"]
        first, second = self.betas
        m = state["m"].lerp(g, 1 - first)
        v = (state["v"] * second).addcmul_(g, g, value=1 - second)
        lr = self.lr * rate(self.schedule, _share(self.length, state), self.final)
        below = (v.sqrt() / math.sqrt(1 - second**age)).add_(self.eps)
        theta = state["theta"].addcdiv(m, below, value=-lr / (1 - first**age))
        return _moved(problem, state, {"theta": theta, "m": m, "v": v})


@dataclass(frozen=True, kw_only=True)
class SOAP(Optimiser):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).

    shapes:    shapes of the parameters in the order of theta: matrices are preconditioned from both sides, the rest
               (and everything where no shapes are given) is plain Adam. A tensor of more dimensions is flattened after
               the first.
    frequency: steps between two renewals of the bases, each one power iteration and a QR
    Choose it where Adam is slow and the loss too noisy or the net too large for second-order steps. The bases begin as
    the eigenvectors for the first gradient.
    """

    lr: float = 3e-3
    betas: tuple[float, float] = (0.95, 0.95)
    eps: float = 1e-8
    frequency: int = 10
    shapes: tuple[tuple[int, ...], ...] = ()
    schedule: str = "constant"
    length: int | None = None
    final: float = 0.01

    def __post_init__(self) -> None:
        _checked(self.lr, self.betas, self.schedule, self.length, self.final)
        if self.frequency < 1:
            raise BadInput(f"frequency={self.frequency}: the bases are renewed every 1 or more steps.")

    def _matrices(self) -> list[tuple[slice, int, int]]:
        """(place in theta, rows, columns) of every matrix."""
        out, begin = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            if len(shape) > 1:
                out.append((slice(begin, begin + size), shape[0], size // shape[0]))
            begin += size
        return out

    def init(self, problem: Objective, theta: Tensor) -> State:
        theta = checked_start(problem, theta, None)
        total = sum(math.prod(s) for s in self.shapes)
        if self.shapes and total != problem.size:
            raise BadInput(f"shapes hold {total} numbers and the problem has {problem.size} parameters.")
        state = _begun(problem, theta)
        for k, (place, rows, columns) in enumerate(self._matrices()):
            G = state["gradient"][place].view(rows, columns)
            for side, A in (("left", G @ G.T), ("right", G.T @ G)):
                state[f"{side}_{k}"] = (1 - self.betas[1]) * A
                state[f"{side}_basis_{k}"] = torch.linalg.eigh(A).eigenvectors.flip(1).contiguous()
        return state

    def refresh(self, problem: Objective, state: State) -> State:
        return _evaluated(problem, state)

    def advance(self, problem: Objective, state: State) -> State:
        age, g = int(state["age"]) + 1, state["gradient"]
        first, second = self.betas
        m = state["m"].lerp(g, 1 - first)
        turned = self._turn(state, g, forth=True)
        v = (state["v"] * second).addcmul_(turned, turned, value=1 - second)
        below = (v.sqrt() / math.sqrt(1 - second**age)).add_(self.eps)
        step = self._turn(state, self._turn(state, m, forth=True) / below, forth=False) / (1 - first**age)
        lr = self.lr * rate(self.schedule, _share(self.length, state), self.final)
        new = {"theta": state["theta"] - lr * step, "m": m, "v": v}
        for k, (place, rows, columns) in enumerate(self._matrices()):
            G = g[place].view(rows, columns)
            for side, A in (("left", G @ G.T), ("right", G.T @ G)):
                factor = new[f"{side}_{k}"] = state[f"{side}_{k}"].lerp(A, 1 - second)
                if age % self.frequency == 0:
                    new[f"{side}_basis_{k}"] = _renewed(factor, state[f"{side}_basis_{k}"])
        return _moved(problem, state, new)

    def _turn(self, state: State, x: Tensor, forth: bool) -> Tensor:
        """Q_L^T X Q_R of every matrix in the flat x, or back."""
        out = x.clone()
        for k, (place, rows, columns) in enumerate(self._matrices()):
            L, R = state[f"left_basis_{k}"], state[f"right_basis_{k}"]
            X = x[place].view(rows, columns)
            out[place] = (L.T @ X @ R if forth else L @ X @ R.T).reshape(-1)
        return out


def _renewed(A: Tensor, Q: Tensor) -> Tensor:
    """One power iteration on A from the basis Q, and a QR; a shift at rounding level keeps Q where A is singular."""
    shift = 1e-12 * float(A.diagonal().sum()) if A.dtype == torch.float64 else 1e-6 * float(A.diagonal().sum())
    return torch.linalg.qr(torch.add(A @ Q, Q, alpha=shift)).Q.contiguous()


def _checked(lr: float, betas: tuple[float, float], schedule: str, length: int | None, final: float) -> None:
    if schedule not in SCHEDULES:
        raise BadInput(f"schedule={schedule!r} is none of {', '.join(SCHEDULES)}.")
    if not lr > 0 or not 0 < final <= 1:
        raise BadInput(f"lr={lr} must be positive and final={final} in (0, 1].")
    if not all(0 <= b < 1 for b in betas):
        raise BadInput(f"betas={betas}: both lie in [0, 1).")
    if length is not None and length < 1:
        raise BadInput(f"length={length}: a schedule takes 1 or more steps; None follows state['progress'].")


def _share(length: int | None, state: State) -> float:
    return float(state["progress"]) if length is None else int(state["age"]) / length


def _begun(problem: Objective, theta: Tensor) -> State:
    state = {
        "theta": theta,
        "m": torch.zeros_like(theta),
        "v": torch.zeros_like(theta),
        "age": count(0, theta),
        "progress": number(0.0, theta),
        "steps": count(0, theta),
        "evaluations": count(0, theta),
    }
    return _evaluated(problem, state)


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


def _moved(problem: Objective, state: State, new: State) -> State:
    """The state at new["theta"]; the old one with a status where the loss there is not finite."""
    counts = {k: state[k] + 1 for k in ("steps", "evaluations")}
    if float(state["gradient_norm"]) == 0:
        return {**state, **counts, "status": count(base.GRADIENT, state)}
    loss, gradient = problem.value_and_gradient(new["theta"])
    norm = float(gradient.norm())
    if not math.isfinite(float(loss)) or not math.isfinite(norm):
        return {**state, **counts, "status": count(base.DIVERGED, state)}
    found = {"loss": number(float(loss), state), "gradient": gradient, "gradient_norm": number(norm, state)}
    return {**state, **counts, **new, **found, "age": state["age"] + 1}
