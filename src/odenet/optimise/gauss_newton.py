"""Levenberg-Marquardt: Gauss-Newton steps whose damping follows how well the linear model foretold the loss.

(J^T J + damping D) p = -J^T r,     gain = (f(theta) - f(theta + p)) / (|r|^2 - |J p + r|^2) * 2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from . import base
from .base import LeastSquares, Objective, Optimiser, State, checked_loss, checked_start, count, number
from .krylov import Krylov
from .linear import HELD, Dual, Local, Primal, Triangular

_EPS = torch.finfo(torch.float64).eps
_LARGE = 4000  # the side of a matrix from which on conjugate gradients are cheaper than its factor
_AHEAD = 0.1  # share of the step over which its second derivative is taken (Transtrum & Sethna)
SOLVERS = ("auto", "primal", "dual", "qr", "cg")
PRECONDITIONERS = ("nystrom", "diagonal", "none")


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Optimiser):
    """Levenberg-Marquardt in float64; choose it first for any residual with up to a few thousand parameters.

    solver:   "auto": "dual" where there are fewer residuals than parameters, else "primal", and "cg" where both exceed
              4000; "qr" does not square the condition number
    damping:  the first damping, relative to the largest diagonal entry of J^T J
    scaling:  "identity" (Levenberg) or "columns" (Marquardt: D = diag of J^T J, its running maximum, so that units of
              the parameters do not matter)
    acceleration: a step p is bent by a = -(J^T J + damping D)^-1 J^T r''/2 with r'' the second derivative of r along
              p, if |a| <= acceleration |p| / 2 in the norm of D, else the damping is raised; 0: no bending. It costs
              one residual and two products with J, and saves most of the steps on nets. Transtrum & Sethna 2012,
              arXiv:1201.5885
    held:     bytes of J kept for these products; beyond that J is made anew, or the problem's own products are used
    trials:   dampings tried per step before it is called stalled
    preconditioner ("nystrom", "diagonal", "none"), rank, tolerance, iterations: of "cg"
    Raises BadInput for float32 or a loss that is not finite at the start, Incompatible for an objective that is no sum
    of squares. After an accepted step the damping is multiplied by max(shrink, 1 - (2 gain - 1)^3), after a refused
    one by 2, 4, 8, ...: Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05 (shrink 1/3 there).
    """

    solver: str = "auto"
    damping: float = 1e-3
    scaling: str = "identity"
    shrink: float = 1 / 3
    trials: int = 40
    acceleration: float = 0.75
    held: int = HELD
    preconditioner: str = "nystrom"
    rank: int = 100
    tolerance: float = 1e-3
    iterations: int = 200

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise BadInput(f"solver={self.solver!r} is none of {', '.join(SOLVERS)}.")
        if not self.acceleration >= 0 or self.held < 0:
            raise BadInput(f"acceleration={self.acceleration} and held={self.held} are not negative.")
        if not self.damping > 0 or not 0 < self.shrink < 1:
            raise BadInput(f"damping={self.damping} must be positive and shrink={self.shrink} between 0 and 1.")
        if self.trials < 1 or self.iterations < 1 or self.rank < 1:
            raise BadInput("trials, iterations and rank are 1 or more.")
        if self.preconditioner not in PRECONDITIONERS:
            raise BadInput(f"preconditioner={self.preconditioner!r} is none of {', '.join(PRECONDITIONERS)}.")
        if self.scaling not in ("identity", "columns"):
            raise BadInput(f'scaling={self.scaling!r} is neither "identity" nor "columns".')

    def init(self, problem: Objective, theta: Tensor) -> State:
        theta = checked_start(problem, theta, "gauss_newton")
        r = squares(problem, "gauss_newton").residual(theta)
        loss = checked_loss(torch.dot(r, r) / 2)
        return {
            "theta": theta,
            "loss": number(loss, theta),
            "gradient_norm": number(math.nan, theta),
            "damping": number(-1.0, theta),  # negative: relative to a Jacobian that is not known yet
            "growth": number(2.0, theta),
            "scale": torch.zeros_like(theta),
            "rows": count(r.numel(), theta),
            "steps": count(0, theta),
            "evaluations": count(1, theta),
            "status": count(0, theta),
        }

    def refresh(self, problem: Objective, state: State) -> State:
        r = squares(problem, "gauss_newton").residual(state["theta"])
        loss = checked_loss(torch.dot(r, r) / 2)
        rows, status = count(r.numel(), state), count(0, state)
        return {**state, "loss": number(loss, state), "rows": rows, "status": status}

    def advance(self, problem: Objective, state: State) -> State:
        theta, least = state["theta"], squares(problem, "gauss_newton")
        local = self._local(least, state)
        norm = float(local.gradient.norm())
        new = {**state, "gradient_norm": number(norm, state), "steps": state["steps"] + 1}
        if not math.isfinite(norm) or not math.isfinite(local.loss):
            return {**new, "status": count(base.BROKEN, state)}
        scale = new["scale"] = self._scale(local, state)
        if flat(local):
            return {**new, "status": count(base.GRADIENT, state)}
        damping, growth = float(state["damping"]), float(state["growth"])
        if damping < 0:
            damping = self.damping * float((local.columns / scale).max())
        status, loss, tried = base.DAMPING, local.loss, 0
        while tried < self.trials:
            tried += 1
            move = local.solve(damping, scale)
            if move is not None and move.predicted <= _EPS * local.loss:
                status = base.REDUCTION
                break
            if move is not None and float(move.p.norm()) <= _EPS * float(theta.norm()):
                status = base.STEP
                break
            bend = tried <= max(1, self.trials // 4)  # at rounding level second derivatives are noise
            p = None if move is None else self._bent(least, theta, local, move.p, scale) if bend else move.p
            if move is not None and p is not None:
                loss = float(problem.value(theta + p))
                gain = (local.loss - loss) / move.predicted
                if gain > 1e-4:
                    new["theta"], status = theta + p, 0
                    damping, growth = damping * max(self.shrink, 1 - (2 * min(gain, 1.0) - 1) ** 3), 2.0
                    break
            damping, growth = damping * growth, growth * 2
        return {
            **new,
            "loss": number(loss if status == 0 else local.loss, state),
            "damping": number(max(damping, 1e-300), state),
            "growth": number(growth, state),
            "evaluations": state["evaluations"] + 1 + (2 if self.acceleration else 1) * tried,
            "status": count(status, state),
        }

    def _local(self, problem: LeastSquares, state: State) -> Local:
        kind, theta, rows = self.solver, state["theta"], int(state["rows"])
        if kind == "auto":
            small = "dual" if rows < problem.size else "primal"
            kind = small if min(rows, problem.size) <= _LARGE else "cg"
        if kind == "cg":
            seed = int(state["steps"])
            cg = (self.preconditioner, self.rank, self.tolerance, self.iterations, self.held, seed)
            return Krylov(problem, theta, *cg)
        if kind == "dual":
            return Dual(problem, theta)
        return Triangular(problem, theta, self.held) if kind == "qr" else Primal(problem, theta, self.held)

    def _bent(self, problem: LeastSquares, theta: Tensor, local: Local, p: Tensor, scale: Tensor) -> Tensor | None:
        """p with its acceleration; None where that is too large for the step to be trusted."""
        if self.acceleration == 0:
            return p
        ahead = (problem.residual(theta + _AHEAD * p) - local.r) / _AHEAD
        a = local.towards((ahead - local.rows.forth(p)) / _AHEAD)
        root = scale.sqrt()
        return p + a if 2 * float((root * a).norm()) <= self.acceleration * float((root * p).norm()) else None

    def _scale(self, local: Local, state: State) -> Tensor:
        if self.scaling == "identity":
            return torch.ones_like(local.columns)
        largest = torch.maximum(state["scale"], local.columns)
        return torch.where(largest > 0, largest, largest.max())


def squares(problem: Objective, name: str) -> LeastSquares:
    """The problem itself; raises Incompatible where it is no sum of squares."""
    if not isinstance(problem, LeastSquares):
        raise Incompatible(
            f"{name} needs a sum of squares and {type(problem).__name__} is none; take ssbroyden or lbfgs for it."
        )
    return problem


def flat(local: Local) -> bool:
    """Whether r is orthogonal to every column of J to rounding, in the sense of MINPACK's gtol."""
    size = (2 * local.loss) ** 0.5 * local.columns.sqrt()
    return bool((local.gradient.abs() <= 4 * _EPS * size).all())
