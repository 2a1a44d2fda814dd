"""Differential dynamic programming: the best controls of a small physical system, and the feedback that keeps to them.

    minimise  J = sum_(n<N) l(x_n, u_n) + phi(x_N)   over u_0 ... u_(N-1),   x_{n+1} = f(x_n, u_n)

Backwards along a trajectory, V standing for the value function at n + 1 (lower indices are derivatives):

    Q_x  = l_x + f_x' V_x                            Q_u  = l_u + f_u' V_x
    Q_uu = l_uu + f_u' V_xx f_u + V_x . f_uu         Q_ux = l_ux + f_u' V_xx f_x + V_x . f_ux         Q_xx alike
    k = -Q_uu^-1 Q_u,     K = -Q_uu^-1 Q_ux          (Q_uu + regularisation I in the place of Q_uu)
    V_x <- Q_x + K' Q_uu k + K' Q_u + Q_ux' k,       V_xx <- Q_xx + K' Q_uu K + K' Q_ux + Q_ux' K

and forwards u_n + s k_n + K_n (x_n' - x_n) with the new states x', s halved until J falls. Mayne, A second-order
gradient method for determining optimal trajectories of non-linear discrete-time systems, Int. J. Control 3 (1966);
without the terms V_x . f_.. it is iLQR: Li & Todorov, ICINCO (2004).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import hessian, jacfwd, vmap

from ...errors import BadInput, Incompatible

Stage = Callable[..., Tensor]  # (x (d,), u (m,)) -> next state (d,), or a cost ()
Final = Callable[[Tensor], Tensor]
Given = Tensor | tuple[Tensor, ...] | None
ARMIJO = 1e-4  # share of the foretold fall of the cost that a step must keep
SEARCHES = 12  # halvings of the step before the regularisation is raised instead
LARGEST = 1e10  # regularisation beyond which there is nothing left to try
DEFAULT = 1e-6  # first regularisation that is not zero


@dataclass(frozen=True)
class Plan:
    """Controls with the feedback that holds a system to its trajectory: u_n + gains[n] (x - states[n]).

    states (N+1, d), controls (N, m), gains (N, m, d), slopes V_x (N+1, d), curvatures V_xx (N+1, d, d)
    costs:   J before every iteration and at the end; it never rises
    status:  "converged", "stalled" (no step lowered J) or "iterations" (all were used)
    """

    states: Tensor
    controls: Tensor
    gains: Tensor
    slopes: Tensor
    curvatures: Tensor
    costs: list[float] = field(repr=False)
    status: str = "iterations"

    def control(self, n: int, x: Tensor) -> Tensor:
        """The control at step n of a system that is at x."""
        return self.controls[n] + self.gains[n] @ (x - self.states[n])


@dataclass(frozen=True)
class _Local:
    """Derivatives along a trajectory by z = (x, u): f_z (N, d, d+m), f_zz or None, l_z, l_zz, and phi's at the end."""

    f: Tensor
    ff: Tensor | None
    cost: Tensor
    curved: Tensor
    end: tuple[Tensor, Tensor]


def ddp(
    dynamics: Stage,
    running: Stage,
    final: Final,
    start: Tensor,
    controls: Tensor,
    *,
    given: Given = None,
    iterations: int = 100,
    second: bool = True,
    tolerance: float = 1e-9,
    regularisation: float = 0.0,
) -> Plan:
    """The controls that minimise a cost along a trajectory, by differential dynamic programming.

    dynamics:  (x, u) -> next x (d,) for u (m,): one step of any integrator, u held over it
    running:   (x, u) -> cost of a step; final: x_N -> cost of the end; start: x_0; controls: first guess (N, m)
    given:     what differs by step, a tensor or a tuple of tensors of N rows: dynamics and running get (x, u, w) with
               its row w of the step: times, points of a path to follow, matrices A_n
    second:    with the second derivatives of the dynamics, so that the last iterations converge quadratically; False
               is iLQR, cheaper, and its Q_uu is positive definite wherever the costs are convex
    tolerance: of the fall that is still foretold, relative to 1 + |J|
    regularisation: the first number that is added to the diagonal of Q_uu; it is raised where Q_uu is not positive
               definite or no step lowers J

    Choose it for a system of up to some twenty numbers whose equations are known, where Newton's speed and the feedback
    gains are wanted; train a net by gradient descent where there are many starts at once. Linear dynamics with
    quadratic costs take one iteration (LQR). Raises BadInput for shapes that do not fit and for a first trajectory that
    is not finite, Incompatible for functions that torch.func cannot differentiate.
    """
    rows = () if given is None else given if isinstance(given, tuple) else (given,)
    start, u = _checked(start, controls, rows, iterations, tolerance, regularisation)
    dynamics, running = _fed(dynamics, given), _fed(running, given)
    x, cost = _rolled(dynamics, running, final, start, u, rows)
    if not math.isfinite(cost):
        raise BadInput("the first controls lead to a cost that is not finite; begin with smaller ones.")
    costs, weight, status = [cost], regularisation, "iterations"
    local = _differentiated(dynamics, running, final, x, u, rows, second)
    back = _backward(local, u.shape[1], weight)
    for _ in range(iterations):
        while back is None and weight <= LARGEST:
            weight = max(DEFAULT, 4 * weight)
            back = _backward(local, u.shape[1], weight)
        if back is None:
            raise Incompatible(
                "Q_uu is not positive definite under any regularisation: the derivatives are not finite somewhere "
                "on the trajectory."
            )
        if back.slope + back.bend / 2 >= -tolerance * (1 + abs(cost)):
            status = "converged"
            break
        found = _searched(dynamics, running, final, x, u, rows, cost, back)
        if found is None and weight > LARGEST:
            status = "stalled"
            break
        if found is None:
            weight = max(DEFAULT, 10 * weight)
        else:
            x, u, cost = found
            costs.append(cost)
            weight = 0.0 if weight <= max(DEFAULT, regularisation) else weight / 4
            local = _differentiated(dynamics, running, final, x, u, rows, second)
        back = _backward(local, u.shape[1], weight)
    else:
        costs = costs[: iterations + 1]
    back = back or _backward(local, u.shape[1], LARGEST)
    assert back is not None
    return Plan(x, u, back.K, back.slopes, back.curvatures, costs, status)


@dataclass(frozen=True)
class _Back:
    """Steps k (N, m), gains K (N, m, d), V_x, V_xx, and s slope + s^2 bend / 2, what a step s k promises of J."""

    k: Tensor
    K: Tensor
    slopes: Tensor
    curvatures: Tensor
    slope: float
    bend: float


def _backward(local: _Local, m: int, weight: float) -> _Back | None:
    """The sweep from the end; None where some Q_uu + weight I is not positive definite."""
    N, d, _ = local.f.shape
    V, W = local.end
    eye = torch.eye(m, dtype=V.dtype, device=V.device)
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # k, K, V_x, V_xx, from the end
    slope, bend = 0.0, 0.0
    for n in reversed(range(N)):
        F = local.f[n]
        q = local.cost[n] + F.T @ V
        Q = local.curved[n] + F.T @ W @ F
        if local.ff is not None:
            Q = Q + torch.einsum("i,ijk->jk", V, local.ff[n])
        Q = (Q + Q.T) / 2
        L, info = torch.linalg.cholesky_ex(Q[d:, d:] + weight * eye)
        if int(info) != 0 or not bool(torch.isfinite(L).all()):
            return None
        solved = -torch.cholesky_solve(torch.cat([q[d:, None], Q[d:, :d]], 1), L)
        k, K = solved[:, 0], solved[:, 1:]
        slope, bend = slope + float(k @ q[d:]), bend + float(k @ Q[d:, d:] @ k)
        V = q[:d] + K.T @ Q[d:, d:] @ k + K.T @ q[d:] + Q[d:, :d].T @ k
        W = Q[:d, :d] + K.T @ Q[d:, d:] @ K + K.T @ Q[d:, :d] + Q[d:, :d].T @ K
        kept.append((k, K, V, W))
    ks, Ks, Vs, Ws = (list(v) for v in zip(*reversed(kept)))
    stack = torch.stack
    return _Back(stack(ks), stack(Ks), stack([*Vs, local.end[0]]), stack([*Ws, local.end[1]]), slope, bend)


@torch.no_grad()
def _searched(
    f: Stage, running: Stage, final: Final, x: Tensor, u: Tensor, rows: Any, cost: float, back: _Back
) -> tuple[Tensor, Tensor, float] | None:
    """New states, controls and cost; None where no step keeps a share of what it promises."""
    s = 1.0
    for _ in range(SEARCHES):
        states, controls = [x[0]], []
        for n in range(len(u)):
            controls.append(u[n] + s * back.k[n] + back.K[n] @ (states[n] - x[n]))
            states.append(f(states[n], controls[n], tuple(w[n] for w in rows)))
        X, U = torch.stack(states), torch.stack(controls)
        found = _cost(running, final, X, U, rows)
        if math.isfinite(found) and found - cost <= ARMIJO * (s * back.slope + s * s * back.bend / 2) < 0:
            return X, U, found
        s /= 2
    return None


def _differentiated(f: Stage, running: Stage, final: Final, x: Tensor, u: Tensor, rows: Any, second: bool) -> _Local:
    d, z = x.shape[1], torch.cat([x[:-1], u], 1)

    def along(derivative: Callable[..., Any], g: Stage) -> Tensor:
        return vmap(derivative(lambda z, w: g(z[:d], z[d:], w)))(z, rows).detach()

    try:
        with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
            warnings.simplefilter("ignore", DeprecationWarning)
            return _Local(
                along(jacfwd, f),
                along(lambda g: jacfwd(jacfwd(g)), f) if second else None,
                along(jacfwd, running),
                along(hessian, running),
                (jacfwd(final)(x[-1]).detach(), hessian(final)(x[-1]).detach()),
            )
    except RuntimeError as problem:
        raise _not_torch(problem) from None


@torch.no_grad()
def _rolled(f: Stage, running: Stage, final: Final, start: Tensor, u: Tensor, rows: Any) -> tuple[Tensor, float]:
    states = [start]
    for n in range(len(u)):
        states.append(f(states[n], u[n], tuple(w[n] for w in rows)))
        if states[-1].shape != start.shape:
            raise BadInput(f"dynamics gives {tuple(states[-1].shape)} for a state {tuple(start.shape)}.")
    x = torch.stack(states)
    return x, _cost(running, final, x, u, rows)


def _cost(running: Stage, final: Final, x: Tensor, u: Tensor, rows: Any) -> float:
    try:
        along, end = vmap(running)(x[:-1], u, rows), final(x[-1])
    except (RuntimeError, ValueError) as problem:
        raise _not_torch(problem) from None
    if along.shape != u.shape[:1] or end.dim() != 0:
        raise BadInput(
            f"running gives {tuple(along.shape[1:])} and final {tuple(end.shape)} where one number each, of shape (), "
            "is wanted."
        )
    return float(along.sum() + end)


def _not_torch(problem: Exception) -> Incompatible:
    return Incompatible(
        f"the dynamics or costs cannot be differentiated by torch.func ({str(problem).splitlines()[0][:150]}); write "
        "them in torch operations, without if on values, .item() or changes in place."
    )


def _fed(g: Stage, given: Given) -> Stage:
    """(x, u, rows of the step as a tuple) -> g(x, u), or g(x, u, w) in the form that was given."""
    if given is None:
        return lambda x, u, w: g(x, u)
    return lambda x, u, w: g(x, u, w if isinstance(given, tuple) else w[0])


def _checked(
    start: Tensor, controls: Tensor, rows: tuple[Tensor, ...], iterations: int, tolerance: float, regularisation: float
) -> tuple[Tensor, Tensor]:
    if not (isinstance(start, Tensor) and isinstance(controls, Tensor) and start.dim() == 1 and controls.dim() == 2):
        raise BadInput("start is a state (d,) and controls are (N, m), one row for each step.")
    if len(controls) < 1 or not controls.is_floating_point() or start.dtype != controls.dtype:
        raise BadInput(
            f"start and controls are of one floating-point dtype, got {start.dtype} and {controls.dtype} for "
            f"{len(controls)} steps."
        )
    if any(len(w) != len(controls) for w in rows):
        raise BadInput(f"given has {[len(w) for w in rows]} rows for {len(controls)} steps; wanted as many.")
    if not isinstance(iterations, int) or iterations < 1 or not tolerance > 0 or not 0 <= regularisation < math.inf:
        raise BadInput(
            f"iterations={iterations!r}, tolerance={tolerance!r}, regularisation={regularisation!r}: wanted one "
            "iteration or more, tolerance > 0 and regularisation >= 0."
        )
    return start.detach().clone(), controls.detach().clone()
