"""Energies: a density whose integral the solution makes smallest, and the check that it belongs to the equation.

E(u) = integral over the domain of L(x, u, grad u, ...) dx;  its Euler-Lagrange equation is
sum over the derivatives D^a u in L of (-1)^|a| D^a (dL / d(D^a u)) = 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..fields import jets
from .expressions import GIVEN, PARAMETER, Expression, Frame, Leaf, key, leaves, used, value
from .operators import trace

if TYPE_CHECKING:
    from .statement import Problem

POINTS = 16  # places at which the Euler-Lagrange equation is compared with the residual
MISSED = 1e-8  # relative gap that counts as another equation
Index = tuple[int, ...]
Columns = Sequence[Tensor]


def traced_energy(function: Callable[..., Any], frame: Frame) -> Expression:
    """The density as an expression. Raises BadInput for several numbers, other places, normals or parameters."""
    found = list(trace(function, frame))
    if len(found) != 1:
        raise BadInput(f"the energy is one density, got {len(found)}; add the parts up.")
    density = found[0]
    if not leaves(density):
        raise BadInput(f"the energy holds no unknown; there are: {', '.join(frame.unknowns)}.")
    if any(leaf.place is not None for leaf in leaves(density)) or used(density, GIVEN) or used(density, PARAMETER):
        raise BadInput("an energy is a density in the unknowns, their derivatives and the coordinates at one point.")
    return density


def energy(problem: Problem, jet: Callable[..., Tensor], points: int = 20_000) -> float:
    """E of a field, jet(x, channels) -> (C, N, m), by the domain's quadrature. Raises BadInput without an energy."""
    if problem.energy is None:
        raise BadInput("this problem has no energy: Problem(..., energy=lambda u: ...).")
    x, w = problem.domain.quadrature(points)
    with torch.no_grad():
        return sum(float(density(problem, jet, a) @ b) for a, b in zip(x.split(4096), w.split(4096)))


def density(problem: Problem, jet: Callable[..., Tensor], x: Tensor) -> Tensor:
    """(N,): the energy's density of a field at points."""
    assert problem.energy is not None
    found = leaves(problem.energy)
    closed = jets.closed([leaf.index for leaf in found])
    parts = jet(x, closed)
    env: dict[Any, Any] = dict(zip(problem.frame.coordinates, x.unbind(-1)))
    for leaf in found:
        env[key(leaf)] = parts[closed.index(leaf.index), :, problem.unknowns.index(leaf.unknown)]
    return torch.as_tensor(value(problem.energy, env), dtype=x.dtype).expand(len(x))


# ---- the check -------------------------------------------------------------------------------------------------------


def check_energy(problem: Problem) -> None:
    """Raise BadInput unless the Euler-Lagrange equations of the energy are the problem's, up to factors at every point.

    Both are evaluated for several random smooth fields at the same points; at each the one must be a fixed linear map
    of the other. For one unknown the energy must also be convex in the highest derivatives: a minimum, no maximum.
    """
    rows = [e for equation, es in problem.traced for e in es if equation.within is None]
    if any(leaf.place is not None for leaf in leaves(rows)) or problem.parameters:
        return
    x = problem.domain.sample(POINTS, torch.Generator().manual_seed(0), "uniform")
    draws = [_compared(problem, rows, x, seed) for seed in range(2 * len(rows) + 2)]
    r, el = torch.stack([d[0] for d in draws], 1), torch.stack([d[1] for d in draws], 1)  # (N, draws, R or m)
    gap = el - r @ (torch.linalg.pinv(r, rtol=1e-10) @ el)
    if float(gap.abs().max()) > MISSED * max(float(el.abs().max()), 1e-300) or not bool(el.abs().max() > 0):
        raise BadInput(
            "the energy does not belong to the equation: where it is smallest another equation holds; for "
            "-Laplace u = f the energy is |grad u|^2 / 2 - f u."
        )
    if min(d[2] for d in draws) < 0:
        raise BadInput("the energy has no minimum, since it is concave in the highest derivatives; take its negative.")


def _compared(problem: Problem, rows: Sequence[Expression], x: Tensor, seed: int) -> tuple[Tensor, Tensor, float]:
    """For one random field: residuals (N, R), Euler-Lagrange (N, m), the smallest curvature over the largest."""
    assert problem.energy is not None
    columns = [c.clone().requires_grad_() for c in x.unbind(-1)]
    fields = _smooth(problem, columns, seed)
    env: dict[Any, Any] = dict(zip(problem.frame.coordinates, columns))
    known = {key(leaf): _derivative(fields[leaf.unknown], columns, leaf.index) for leaf in leaves(rows)}
    r = torch.stack([torch.as_tensor(value(e, env | known)).expand(len(x)) for e in rows], 1).detach()
    own = leaves(problem.energy)
    live = {
        key(leaf): _derivative(fields[leaf.unknown], columns, leaf.index) * 1.0 for leaf in own
    }  # nodes of their own
    L = torch.as_tensor(value(problem.energy, env | live)).expand(len(x))
    slopes = _gradient(L, list(live.values()))
    totals = {u: torch.zeros(len(x), dtype=x.dtype) for u in problem.unknowns}
    for leaf, p in zip(own, slopes):
        totals[leaf.unknown] = totals[leaf.unknown] + (-1) ** sum(leaf.index) * _derivative(p, columns, leaf.index)
    return r, torch.stack([totals[u] for u in problem.unknowns], 1).detach(), _curvature(problem, own, live, slopes)


def _curvature(problem: Problem, own: Sequence[Leaf], live: Mapping[Any, Tensor], slopes: Sequence[Tensor]) -> float:
    top = max(sum(leaf.index) for leaf in own)
    highest = [i for i, leaf in enumerate(own) if sum(leaf.index) == top]
    if len(problem.unknowns) > 1:
        return 0.0
    inputs = [live[key(own[i])] for i in highest]
    H = torch.stack([torch.stack(_gradient(slopes[i], inputs), -1) for i in highest], -1).detach()
    values = torch.linalg.eigvalsh((H + H.mT) / 2)
    return min(0.0, float(values.min()) + 1e-10 * float(values.abs().max()))


def _smooth(problem: Problem, columns: Columns, seed: int) -> dict[str, Tensor]:
    """Sums of sines of random linear functions of the coordinates scaled to [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    low, high = problem.domain.bounds
    found = {}
    for u in problem.unknowns:
        a, b, w = (torch.randn(shape, generator=g, dtype=low.dtype) for shape in ((3,), (3,), (3, len(columns))))
        scaled = [(c - l) * (2 / (h - l)) - 1 for c, l, h in zip(columns, low.tolist(), high.tolist())]
        angles = [sum((w[k, i] * c for i, c in enumerate(scaled)), b[k]) for k in range(3)]
        found[u] = torch.stack([a[k] * torch.sin(angle) for k, angle in enumerate(angles)]).sum(0)
    return found


def _derivative(f: Tensor, columns: Columns, index: Index) -> Tensor:
    for axis, count in enumerate(index):
        for _ in range(count):
            (f,) = _gradient(f, [columns[axis]])
    return f


def _gradient(f: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    if not f.requires_grad:
        return [torch.zeros_like(v) for v in inputs]
    found = torch.autograd.grad(f.sum(), inputs, create_graph=True, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found)]
