"""Energy natural gradients: the Gauss-Newton direction with a given damping, and a line search over a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput
from . import base
from .base import Objective, Optimiser, State, checked_loss, checked_start, count, number
from .gauss_newton import flat, squares
from .linear import Dual, Primal


@dataclass(frozen=True, kw_only=True)
class EnergyNaturalGradient(Optimiser):
    """theta - eta (J^T J + damping)^+ J^T r with eta the best of 1, 1/2, 1/4, ..., 2^(1 - grid).

    damping:  a number; 0 is the pseudo-inverse with singular values below `rcond` times the largest left out; "loss"
              is min(loss, limit)
    grid:     step lengths tried, all of them in every step
    Choose it to compare with published energy natural gradients; gauss_newton needs fewer evaluations. For a residual
    that is linear in the solution J^T J is the energy's Gram matrix. Müller & Zeinhofer, Achieving high accuracy with
    PINNs via energy natural gradients, ICML 2023 (arXiv:2302.13163).
    """

    damping: float | str = "loss"
    limit: float = 1e-5
    rcond: float = 1e-14
    grid: int = 31

    def __post_init__(self) -> None:
        if isinstance(self.damping, str) and self.damping != "loss":
            raise BadInput(f'damping={self.damping!r} is neither a number nor "loss".')
        if not isinstance(self.damping, str) and not self.damping >= 0:
            raise BadInput(f"damping={self.damping} is negative.")
        if self.grid < 1:
            raise BadInput(f"grid={self.grid}: one step length or more.")

    def init(self, problem: Objective, theta: Tensor) -> State:
        theta = checked_start(problem, theta, "engd")
        empty = {"theta": theta, "steps": count(0, theta), "evaluations": count(0, theta)}
        return self.refresh(problem, {**empty, "gradient_norm": number(math.nan, theta)})

    def refresh(self, problem: Objective, state: State) -> State:
        r = squares(problem, "engd").residual(state["theta"])
        new = {"loss": number(checked_loss(torch.dot(r, r) / 2), state), "rows": count(r.numel(), state)}
        return {**state, **new, "status": count(0, state), "evaluations": state["evaluations"] + 1}

    def advance(self, problem: Objective, state: State) -> State:
        theta = state["theta"]
        least = squares(problem, "engd")
        local = Dual(least, theta) if int(state["rows"]) < problem.size else Primal(least, theta, held=0)
        norm = float(local.gradient.norm())
        new = {**state, "gradient_norm": number(norm, state), "steps": state["steps"] + 1}
        if not math.isfinite(norm):
            return {**new, "status": count(base.BROKEN, state)}
        if flat(local):
            return {**new, "status": count(base.GRADIENT, state)}
        p = self._direction(local, theta)
        lengths = [2.0**-i for i in range(self.grid)]
        losses = [float(problem.value(theta + length * p)) for length in lengths]
        best = min(range(self.grid), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf)
        new["evaluations"] = state["evaluations"] + 1 + self.grid
        if not losses[best] < local.loss:
            return {**new, "status": count(base.SEARCH, state)}
        return {**new, "theta": theta + lengths[best] * p, "loss": number(losses[best], state)}

    def _direction(self, local: Primal | Dual, theta: Tensor) -> Tensor:
        damping = min(local.loss, self.limit) if isinstance(self.damping, str) else float(self.damping)
        while damping > 0:
            move = local.solve(damping, torch.ones_like(theta))
            if move is not None:
                return move.p
            damping *= 10
        if isinstance(local, Primal):
            return -local.gram.pseudo_solve(local.gradient, self.rcond)
        return -(local.J.T @ local.kernel(torch.ones_like(theta)).pseudo_solve(local.r, self.rcond))
