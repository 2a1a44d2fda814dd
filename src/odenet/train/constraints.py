"""Constraints on weights: after every step of any method the weights are moved to the nearest admissible ones.

    fit(net, data, constraint=box(-1, 1))                      projected gradient descent
    fit(net, data, "sqh", constraint=ball(2.0))                what the argmax finds is projected before the test
    fit(net, data, constraint=step_sizes())                    dt_n >= 0 and sum dt_n = T, with fields.Stretched
    fit(net, data, constraint=[box(-1, 1, on="*K"), step_sizes()])

A set of weights is what one layer has under one name: a row of a flow's stacked weights (N, ...), or a whole parameter
elsewhere; along="depth" is a row of N numbers, one entry of a weight over all knot intervals. Projected are the weights
as they are stored. Bertsekas 1976, IEEE Trans. Automat. Control 21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields.stretched import PACE
from ..flow import Flow


@dataclass(frozen=True)
class Constraint:
    """project: rows (R, d) -> the nearest rows in the set; on: a pattern of parameter names; along: see the module.

    Called with a net it projects in place. Raises BadInput where no weight of the net has such a name.
    """

    project: Callable[[Tensor], Tensor]
    on: str = "*"
    along: str = "weight"

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> nn.Module:
        stacked = {id(w) for flow in net.modules() if isinstance(flow, Flow) for w in flow.weights.values()}
        chosen = [(k, p) for k, p in net.named_parameters() if p.requires_grad and fnmatch(k, self.on)]
        if not chosen:
            raise BadInput(
                f"a constraint is on weights called {self.on!r}, and this net has none such; its weights are "
                f"{', '.join(k for k, _ in net.named_parameters()) or 'none'}."
            )
        for _, p in chosen:
            rows = p.reshape(len(p), -1) if id(p) in stacked else p.reshape(1, -1)
            p.copy_((self.project(rows.mT).mT if self.along == "depth" else self.project(rows)).reshape(p.shape))
        return net


def box(low: float, high: float, on: str = "*") -> Constraint:
    """low <= w <= high, entry by entry. Choose it for weights that hardware or physics bounds."""
    if not low <= high:
        raise BadInput(f"a box has low <= high, got {low!r} and {high!r}.")
    return Constraint(lambda rows: rows.clamp(low, high), on)


def ball(radius: float, on: str = "*") -> Constraint:
    """|w|_2 <= radius for every set of weights. Choose it to bound what a layer can do without drawing it to 0."""
    if not radius > 0:
        raise BadInput(f"the radius of a ball is positive, got {radius!r}.")

    def project(rows: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return torch.where(norms > radius, rows * (radius / norms), rows)

    return Constraint(project, on)


def values(*allowed: float, on: str = "*") -> Constraint:
    """w in a finite set of numbers, each entry the nearest one (of two the smaller).

    Small steps of descent never leave such a point: choose it beside "sqh", or "binary_msa" and "ternary_msa", which
    choose among values by themselves.
    """
    if not allowed:
        raise BadInput("a finite set needs one value or more, such as values(-1, 0, 1).")

    def project(rows: Tensor) -> Tensor:
        points = torch.tensor(sorted(allowed), dtype=rows.dtype, device=rows.device)
        return points[(rows.unsqueeze(-1) - points).abs().argmin(-1)]

    return Constraint(project, on)


def simplex(total: float = 1.0, on: str = "*", along: str = "weight") -> Constraint:
    """w >= 0 with sum w = total. Choose it where weights share something out."""
    if not total > 0:
        raise BadInput(f"the numbers of a simplex add up to a positive total, got {total!r}.")
    if along not in ("weight", "depth"):
        raise BadInput(f"a simplex is along='weight' or along='depth', got {along!r}.")
    return Constraint(lambda rows: to_simplex(rows, total), on, along)


def step_sizes() -> Constraint:
    """dt_n >= 0 and sum dt_n = T for the steps that `fields.Stretched` learns: the mean of the w_n stays 1."""
    return Constraint(lambda rows: to_simplex(rows, rows.shape[1]), f"*{PACE}", "depth")


def to_simplex(rows: Tensor, total: float = 1.0) -> Tensor:
    """The nearest point of {w >= 0, sum w = total} to every row (R, d): max(v - tau, 0), tau by sorting.

    Held, Wolfe & Crowder 1974, Math. Program. 6; O(d log d).
    """
    down = rows.sort(dim=1, descending=True).values
    count = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    tau = (down.cumsum(1) - total) / count  # if so many entries were to stay positive
    kept = (down > tau).sum(1, keepdim=True)
    return (rows - tau.gather(1, (kept - 1).clamp(min=0))).clamp(min=0)


def projected(constraint: Any, net: nn.Module) -> None:
    """Project a net by one constraint or several, one after the other. Raises BadInput for anything else."""
    for one in constraint if isinstance(constraint, Sequence) else (constraint,):
        if not callable(one):
            raise BadInput(f"a constraint is a function that projects a net in place, got {one!r}; write box(-1, 1).")
        one(net)
