"""Whether the gradient, as a function of depth, has a limit under refinement.

    oscillation index  |d^2 g|/|g|,  (d^2 g)_j = g_{j+1} - 2 g_j + g_{j-1}

For a smooth g it falls like h^2. The derivatives dL/dc_j of the coefficients are no such function yet: the node at the
end of a piecewise linear theta acts on half an interval, and the two-step midpoint rule weighs every second node with
2 h and the others with 0, so that dL/dc_j / h jumps at every depth however fine it is. The gradient FUNCTION is the
Riesz representative r of the derivative, <r, v> = dL(v) for all v, in an inner product over depth:

    L2 (length = 0)   <u, v> = integral u v dt               (G) r = dL/dc,          G the mass matrix, depth.gram()
    H1 (length = l)   <u, v> = integral u v + l^2 u' v' dt   (G + l^2 S) r = dL/dc,  S the stiffness matrix

L2 removes what unequal weights of nodes put in; H1 also what a method itself puts in between neighbouring nodes, as
the two-step midpoint rule does. Neuberger 1997 (Sobolev gradients); arXiv 2306.02192 corrects leapfrog by averaging.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..depth import Depth
from ..errors import BadInput
from ..flow import Chain, Flow
from .sensitivity import scalar
from .tables import Table
from .unroll import in_double

_FEWEST = 3  # coefficients that have a second difference


def oscillation_index(g: Tensor) -> float:
    """|g_{j+1} - 2 g_j + g_{j-1}|/|g| over the first axis; 0 for g = 0. Raises BadInput for fewer than 3 entries."""
    if len(g) < _FEWEST:
        raise BadInput(f"a second difference needs 3 depths at least, got {len(g)}; use more steps.")
    size = float(g.norm())
    return float((g[2:] - 2 * g[1:-1] + g[:-2]).norm()) / size if size > 0 else 0.0


def stiffness(depth: Depth, knots: Sequence[float]) -> Tensor:
    """S with c^T S c / 2 = depth.penalty(c, "h1"): the integral of theta'^2, by difference quotients of what jumps."""
    count = depth.count(len(knots) - 1)
    c = torch.zeros(count, dtype=torch.float64)
    with torch.enable_grad():
        return torch.autograd.functional.hessian(lambda v: depth.penalty(v, "h1", knots), c)  # type: ignore[no-any-return,no-untyped-call]


def riesz(depth: Depth, knots: Sequence[float], derivative: Tensor, length: float = 0.0) -> Tensor:
    """(G + length^2 S)^{-1} dL/dc, of the shape of dL/dc (count, ...)."""
    G = depth.gram(knots)
    G = G + length**2 * stiffness(depth, knots) if length else G
    flat = derivative.detach().double().cpu().flatten(1)
    return torch.linalg.solve(G, flat).reshape(derivative.shape).to(derivative)


def riesz_gradient(flow: Flow, length: float = 0.0) -> dict[str, Tensor]:
    """The gradient functions of the weights of a flow, from the derivatives that `backward` left in `.grad`.

    length: of the H1 inner product, in units of depth time; 0: L2. Weights without a gradient are left out. Choose it
    in place of `.grad` where weights are to have a limit in depth: multilevel training, penalties on theta', or a
    look at the gradient over depth.
    """
    return {
        name: riesz(flow.depths[name], flow.knots, w.grad, length)
        for name, w in flow.weights.items()
        if w.grad is not None
    }


def oscillation(net: Any, x: Tensor, y: Tensor | None = None, length: float = 0.0, seed: int = 0) -> dict[str, float]:
    """{"plain": index of (1/h) dL/dc, "riesz": index of the Riesz representative}, the largest over the flows.

    L: cross-entropy with labels y, else a random linear function of the output. Over all weights that vary with
    depth, in double precision; empty where no flow has three depths.
    """
    found: dict[str, float] = {}
    twin, x = in_double(net, x)
    if not isinstance(twin, nn.Module):
        return found
    with torch.enable_grad():
        loss = scalar(twin(x), y, seed)
        if not loss.requires_grad:
            return found
        loss.backward()
    for flow in _flows(twin):
        moving = {k: w.grad for k, w in flow.weights.items() if w.grad is not None and len(w) >= _FEWEST}
        if not moving:
            continue
        h = abs(flow.span[1] - flow.span[0]) / flow.steps
        smooth = riesz_gradient(flow, length)
        plain = {k: g / h for k, g in moving.items()}
        for name, parts in (("plain", plain), ("riesz", {k: smooth[k] for k in moving})):
            size = sum(float((g**2).sum()) for g in parts.values())
            jumps = sum(oscillation_index(g) ** 2 * float((g**2).sum()) for g in parts.values())
            found[name] = max(found.get(name, 0.0), (jumps / size) ** 0.5 if size > 0 else 0.0)
    return found


def oscillation_refined(
    net: Any, x: Tensor, y: Tensor | None = None, doublings: int = 2, length: float = 0.0, seed: int = 0
) -> Table:
    """The two indices for the net and for the same theta(t) with 2, 4, ... times as many intervals.

    Columns: factor, plain, riesz. A column that falls by 4 with every doubling belongs to a gradient that has a limit.
    """
    rows = []
    for level in range(doublings + 1):
        found = oscillation(net, x, y, length, seed)
        rows.append((2**level, found.get("plain"), found.get("riesz")))
        net = refined_in_depth(net)
    return Table(("factor", "plain", "riesz"), rows)


def refined_in_depth(net: Any) -> Any:
    """The same theta(t) over twice as many knot intervals, in every flow of a Flow or Chain; other parts are shared."""
    if isinstance(net, Flow):
        return _refined(net)
    if isinstance(net, Chain | nn.Sequential):
        return type(net)(*(refined_in_depth(p) for p in (net.parts if isinstance(net, Chain) else net)))
    return net


def _refined(flow: Flow) -> Flow:
    twin = Flow(
        flow.field,
        flow.integrator,
        depth=flow.depths or "shared",
        span=flow.span,
        steps=2 * flow.steps,
        substeps=None if flow.adaptive else flow.substeps,
        gradient=flow.gradient,
    ).to(next((w for w in flow.parameters()), torch.zeros(())).dtype)
    with torch.no_grad():
        for name, w in flow.weights.items():
            twin.weights[name].copy_(flow.depths[name].prolong(w))
        for name, k in flow.coefficients.items():
            twin.coefficients[name].copy_(k.repeat_interleave(2))
        for name, b in flow.named_buffers(recurse=False):
            getattr(twin, name).copy_(flow.depths[name.removeprefix("stat_")].prolong(b))
    return twin.train(flow.training)


def _flows(net: Any) -> list[Flow]:
    return [m for m in net.modules() if isinstance(m, Flow)] if isinstance(net, nn.Module) else []
