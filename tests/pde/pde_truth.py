"""Derivatives of a problem's truth by nested automatic differentiation: nothing of the library's own channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odenet import pde
from odenet.pde.collocation import Block, blocks


def truth_channels(problem: pde.Problem, points: Tensor, indices: Sequence[tuple[int, ...]]) -> Tensor:
    """(C, N, m): derivatives of the exact solution or of the reference."""
    x = points.clone().requires_grad_()
    values = problem.truth(x)
    assert values is not None
    known = {(0,) * problem.dim: values}

    def derived(index: tuple[int, ...]) -> Tensor:
        if index not in known:
            axis = next(i for i, k in enumerate(index) if k)
            lower = derived(tuple(k - (i == axis) for i, k in enumerate(index)))
            known[index] = torch.stack([slope(column, x, axis) for column in lower.unbind(1)], 1)
        return known[index]

    return torch.stack([derived(i) for i in indices]).detach()


def slope(column: Tensor, x: Tensor, axis: int) -> Tensor:
    """d column / d x[:, axis]; zero where it does not depend on x."""
    if not column.requires_grad:
        return torch.zeros(len(x), dtype=x.dtype)
    (found,) = torch.autograd.grad(column.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros(len(x), dtype=x.dtype) if found is None else found[:, axis]


def true_blocks(problem: pde.Problem, n: int = 100) -> list[tuple[Block, dict[Any, Tensor], dict[str, Tensor]]]:
    """Equations and conditions at random points, with the truth's derivatives and the true coefficients."""
    true = {k: torch.tensor(v, dtype=torch.float64) for k, v in problem.facts.get("true_parameters", {}).items()}
    found = []
    for block in blocks(problem, n, torch.Generator().manual_seed(7), "uniform"):
        parts = truth_channels(problem, block.points, block.channels)
        found.append((block, block.values(parts, problem.unknowns), true))
    return found


def misses(block: Block, values: dict[Any, Tensor], true: dict[str, Tensor]) -> tuple[float, float]:
    """The largest residual of a block at the truth, and the size of its terms."""
    r, s = block.residual(values, true), block.scale(values, true)
    if block.measure is not None:
        r, s = (block.measure @ r - block.total)[None], (block.measure @ s)[None]
    return float(r.abs().max()), float(s.max())
