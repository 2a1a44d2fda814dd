"""Penalties on weights and on outputs: added to a loss, or applied as exact proximal maps.

PENALTIES["l1"](net.parameters(), 1e-4)             sum of p(w) over all entries, a scalar
PENALTIES["l1"].prox(v, 1e-4, step)                 argmin over w of (w - v)^2 / 2 + step p(w), entry by entry
max_norm(net, 3.0)                                  a projection, after each step of the optimiser
tangent_prop(net, x, tangents)                      derivatives along directions that keep the answer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import BadInput

SCAD_A, MCP_GAMMA = 3.7, 3.0  # the papers' recommendations


@dataclass(frozen=True)
class Penalty:
    """f(w, weight) = p(w) entry by entry, prox(v, weight, step) likewise; called with tensors it sums p."""

    name: str
    f: Callable[[Tensor, float], Tensor]
    prox: Callable[[Tensor, float, float], Tensor]
    cite: str
    when: str

    def __call__(self, weights: Iterable[Tensor], weight: float) -> Tensor:
        terms = [self.f(w, weight).sum() for w in weights]
        if not terms:
            raise BadInput(f"the penalty {self.name!r} was given no weights; pass net.parameters() once per call.")
        return torch.stack(terms).sum()


def _soft(v: Tensor, threshold: float) -> Tensor:
    return v.sign() * (v.abs() - threshold).clamp(min=0.0)


def _scad(w: Tensor, lam: float) -> Tensor:
    """Slope lam up to lam, falling to 0 at a lam, flat beyond; Fan & Li 2001, eq. (2.7) integrated."""
    a, r = SCAD_A, w.abs()
    middle = (2 * a * lam * r - r * r - lam * lam) / (2 * (a - 1))
    return torch.where(r <= lam, lam * r, middle).where(r <= a * lam, r.new_tensor(lam * lam * (a + 1) / 2))


def _scad_prox(v: Tensor, lam: float, step: float) -> Tensor:
    """For step = 1 the thresholding rule (2.8) of Fan & Li 2001."""
    a, r = SCAD_A, v.abs()
    _convex("scad", step, a - 1)
    middle = ((a - 1) * v - v.sign() * step * a * lam) / (a - 1 - step)
    return torch.where(r <= lam * (1 + step), _soft(v, step * lam), middle).where(r <= a * lam, v)


def _mcp(w: Tensor, lam: float) -> Tensor:
    """Slope lam at 0, falling linearly to 0 at gamma lam, flat beyond; Zhang 2010, eq. (2.1)."""
    r = w.abs()
    return (lam * r - r * r / (2 * MCP_GAMMA)).where(r <= MCP_GAMMA * lam, r.new_tensor(MCP_GAMMA * lam * lam / 2))


def _mcp_prox(v: Tensor, lam: float, step: float) -> Tensor:
    _convex("mcp", step, MCP_GAMMA)
    return (_soft(v, step * lam) / (1 - step / MCP_GAMMA)).where(v.abs() <= MCP_GAMMA * lam, v)


def _convex(name: str, step: float, limit: float) -> None:
    if not 0 < step < limit:
        raise BadInput(f"the proximal map of {name} is one point for 0 < step < {limit:g} only, not step={step:g}.")


_TABLE = (
    Penalty(
        "l1",
        lambda w, lam: lam * w.abs(),
        lambda v, lam, step: _soft(v, step * lam),
        "R. Tibshirani, J. R. Stat. Soc. B 58 (1996)",
        "Many weights should be exactly 0.",
    ),
    Penalty(
        "l2",
        lambda w, lam: 0.5 * lam * w * w,
        lambda v, lam, step: v / (1 + step * lam),
        "A. Hoerl & R. Kennard, Technometrics 12 (1970)",
        "Weights should stay small; lam/2 w^2, so its gradient is weight decay.",
    ),
    Penalty(
        "scad",
        _scad,
        _scad_prox,
        "J. Fan & R. Li, J. Am. Stat. Assoc. 96 (2001)",
        "As l1, without shrinking the large weights; not convex.",
    ),
    Penalty(
        "mcp",
        _mcp,
        _mcp_prox,
        "C.-H. Zhang, Ann. Stat. 38 (2010), arXiv 1002.4734",
        "As scad, with the least concavity for the same threshold.",
    ),
)
PENALTIES: dict[str, Penalty] = {p.name: p for p in _TABLE}


@torch.no_grad()
def max_norm(module: nn.Module, limit: float) -> nn.Module:
    """Shrink the incoming weights of each unit to Euclidean norm <= limit, in place; bias excluded.

    Rows of linear layers, kernels of convolutions. Beside dropout and high learning rates. N. Srebro, J.
    Rennie & T. Jaakkola, NeurIPS 2004; Hinton et al., arXiv 1207.0580. Raises BadInput unless limit > 0.
    """
    if not limit > 0:
        raise BadInput(f"max_norm needs a limit > 0, not {limit!r}.")
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
            norm = torch.linalg.vector_norm(part.weight.flatten(1), dim=1)  # (units,)
            scale = (limit / norm).clamp(max=1.0)
            part.weight.mul_(scale.reshape(-1, *[1] * (part.weight.ndim - 1)))
    return module


def tangent_prop(net: Callable[[Tensor], Tensor], x: Tensor, tangents: Tensor) -> Tensor:
    """Mean over the batch of |J(x) v|^2, J the Jacobian of the net, v directions that keep the answer.

    x (B, D), tangents (B, D) or (K, B, D) -> scalar. One directional derivative for each of the K
    directions. P. Simard, B. Victorri, Y. LeCun & J. Denker, NeurIPS 1991.
    Raises BadInput for tangents of another shape.
    """
    directions = tangents[None] if tangents.ndim == x.ndim else tangents
    if directions.shape[1:] != x.shape:
        given, need = tuple(tangents.shape), tuple(x.shape)
        raise BadInput(f"tangents {given} must have the shape {need} of x, or one axis more in front.")
    changes = [torch.autograd.functional.jvp(net, x, v, create_graph=True)[1] for v in directions]
    return torch.stack([(change**2).flatten(1).sum(dim=1).mean() for change in changes]).sum()
