"""What the layers keep of the geometry of their field: symplectic form, reversibility, and the gradient of an adjoint.

symplectic defect     |M^T O M - O|_2, M the Jacobian of a step (or of all of them), O = J^{-1} the form that y' = J
                      grad H preserves, [[0, -I], [I, 0]] for J = [[0, I], [-I, 0]]
reversibility         |y_0 - undo(run(y_0))|/|y_0|: what rounding costs a net that stores nothing
gradient angle        between the gradient of another method and that of the computed steps
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Incompatible
from ..fields import Field
from ..flow import Flow
from ..flow import gradient as gradients
from ..flow.record import Record
from ..integrators import TwoStep
from ..types import Carry, State
from .sensitivity import layer_jacobians
from .tables import Table
from .unroll import Interval, Unrolled


@dataclass(frozen=True)
class Symplectic:
    """layers: which were measured; steps: |M^T O M - O|_2 of each, (J, P); whole: of the product over a flow, (P,)."""

    layers: list[int]
    steps: Tensor
    whole: Tensor


def form(width: int, field: Field | None = None) -> Tensor:
    """O = J^{-1} of the canonical J, or of the field's own (`rotate`), (width, width), float64."""
    half, eye = width // 2, torch.eye(width, dtype=torch.float64)
    rotate = getattr(field, "rotate", None)
    if rotate is not None:
        return torch.linalg.inv(rotate(eye).mT)  # rows of eye are unit vectors, so rotate(eye) = J^T
    J = torch.cat((eye[half:], -eye[:half]))
    return -J


def symplectic_defect(M: Tensor, O: Tensor) -> Tensor:
    """|M^T O M - O|_2, (P,), for M (P, D, D); 0 iff M keeps the form O."""
    return torch.linalg.matrix_norm(M.mT @ O @ M - O, ord=2)


def symplectic(unrolled: Unrolled, steps: Sequence[Tensor] | None = None) -> Symplectic | None:
    """Defects of all layers whose field has two halves (q, p) or an energy; None where there is no such layer.

    A two-step method for y'' = f is a map of (y_n, y_{n-1}), whose canonical form is that of (q, p) up to a factor -h,
    so the same O serves. Choose it to see what a discretisation leaves of a Hamiltonian net: a vanishing defect forces
    |dy_N/dy_j| >= 1. Hairer, Lubich & Wanner 2006, VI; Galimberti et al. 2023.
    """
    if not any(_has_form(layer.interval) for layer in unrolled.layers):
        return None
    steps = layer_jacobians(unrolled) if steps is None else steps
    found: dict[int, Tensor] = {}
    whole: list[Tensor] = []
    product: Tensor | None = None
    flow: Flow | None = None
    for n, layer in enumerate(unrolled.layers):
        M, interval = steps[n].double().cpu(), layer.interval
        if interval is None or not _has_form(interval) or M.shape[1] != M.shape[2] or M.shape[1] % 2:
            continue
        O = form(M.shape[1], interval.flow.field)
        found[n] = symplectic_defect(M, O)
        product = M if product is None or interval.flow is not flow else M @ product
        flow = interval.flow
        nxt = unrolled.layers[n + 1].interval if n + 1 < unrolled.depth else None
        if nxt is None or nxt.flow is not flow:
            whole.append(symplectic_defect(product, O))
    if not found:
        return None
    return Symplectic(list(found), torch.stack(list(found.values())), torch.stack(whole).amax(0))


def _has_form(interval: Interval | None) -> bool:
    if interval is None:
        return False
    method = interval.flow.integrator
    if isinstance(method, TwoStep):
        return method.power == 2 and method.k == -1.0
    return method.history == 0 and bool({"separable", "energy"} & interval.flow.march.field.offers)


# ---- running backwards ---------------------------------------------------------------------------------------------


def undoable(flow: Flow) -> bool:
    """Whether the flow's steps can be run backwards, without data that drives them."""
    if flow.controls:
        return False
    try:
        gradients.resolve("reversible").check(flow.march)
    except Incompatible:
        return False
    return True


@torch.no_grad()
def reversibility(flow: Flow, y: State, depths: int = 4) -> Table:
    """Largest |y_0 - undo(run(y_0))|/|y_0| over samples, in single and in double precision, after a 1/depths, ... and
    all of the steps: columns steps, float32, float64.

    Rounding is amplified on the way back by what the steps damp on the way forward. Choose it to see how deep a net
    may be under gradient="reversible". Raises Incompatible for a flow that cannot run backwards.
    """
    gradients.resolve("reversible").check(flow.march)
    columns = {dtype: _residuals(flow, y, dtype, depths) for dtype in (torch.float32, torch.float64)}
    single, double = columns.values()
    return Table(("steps", "float32", "float64"), [(n, single[n], double[n]) for n in single])


def _residuals(flow: Flow, y: State, dtype: torch.dtype, depths: int) -> dict[int, float]:
    twin = copy.deepcopy(flow, {id(flow.integrator): flow.integrator}).eval().to(dtype)
    y0 = twin.lift(y.to(dtype))
    march, theta, record = twin.march, twin.theta(), Record()
    march.run(y0, theta, record=record)
    pieces, marks = march.pieces(theta), record.marks
    wanted = {round(len(marks) * (k + 1) / depths) for k in range(depths)} - {0}
    now: tuple[State, Carry] = (y0, ())
    out: dict[int, float] = {}
    for n, mark in enumerate(marks, 1):
        now = march.replay([mark], pieces[mark.n], now[0], () if mark.fresh else now[1])[:2]
        if n in wanted:
            before = now
            for back in reversed(marks[:n]):
                before = march.invert(back, pieces[back.n], *before)
            gap = (before[0] - y0).flatten(1).norm(dim=1) / y0.flatten(1).norm(dim=1).clamp(min=1e-30)
            out[n] = float(gap.max()) if bool(gap.isfinite().all()) else math.inf
    return out


def gradient_angle(flow: Flow, y: State, gradient: str = "reversible", seed: int = 0) -> float:
    """The angle, in radians, between dL/d(theta, y_0) by `gradient` and by autograd; L = <w, y_N>, w ~ N(0, I).

    0 to rounding for methods that differentiate the computed steps ("reversible", "checkpoint", "discrete");
    "continuous" solves the adjoint equations instead and deviates by the discretisation error. Choose it before
    training with a gradient method that saves memory. Raises Incompatible for a pair that cannot work, BadInput for an
    unknown name.
    """
    a, b = (_gradient(flow, y, name, seed) for name in (gradient, "autograd"))
    u, v = a / a.norm().clamp(min=1e-300), b / b.norm().clamp(min=1e-300)
    return 2.0 * math.atan2(float((u - v).norm()), float((u + v).norm()))  # Kahan: accurate for small angles


def _gradient(flow: Flow, y: State, name: str, seed: int) -> Tensor:
    twin = copy.deepcopy(flow, {id(flow.integrator): flow.integrator}).eval()
    twin.gradient = gradients.resolve(name)
    twin.gradient.check(twin.march)
    start = y.detach().clone().requires_grad_()
    w = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y)
    with torch.enable_grad():
        wanted = [start, *(p for p in twin.parameters() if p.requires_grad)]
        found = torch.autograd.grad((w * twin(start)).sum(), wanted, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(found, wanted)])
