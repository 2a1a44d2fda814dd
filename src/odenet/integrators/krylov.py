"""GMRES for many systems at once, each known by its action on vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RESTART = 40  # basis vectors before a restart
CYCLES = 25


def gmres(apply: Callable[[Tensor], Tensor], right: Tensor, rtol: float) -> Tensor:
    """x (B, N) with |M x - right| <= rtol |right| for every row; NaN rows where `right` is not finite.

    apply: v -> M v for rows v (B, N), each row a system of its own
    Ends without that accuracy after CYCLES restarts: the iteration around it sees how far it came.
    Saad & Schultz 1986; the last residual is computed, not estimated.
    """
    x = torch.zeros_like(right)
    residual = right
    wanted = rtol * torch.linalg.vector_norm(right, dim=1)
    for _ in range(CYCLES):
        size = torch.linalg.vector_norm(residual, dim=1)
        if not bool((size > wanted).any()):
            break
        step = _cycle(apply, residual, wanted)
        new = right - apply(x + step)
        if not bool((torch.linalg.vector_norm(new, dim=1) < size).any()):
            break
        x, residual = x + step, new
    return torch.where(torch.isfinite(wanted)[:, None], x, torch.nan)


def _cycle(apply: Callable[[Tensor], Tensor], residual: Tensor, wanted: Tensor) -> Tensor:
    """The step in the Krylov space of at most RESTART vectors that makes the residual smallest."""
    size = torch.linalg.vector_norm(residual, dim=1)
    basis = [residual / _nonzero(size)[:, None]]
    most = min(RESTART, residual.shape[1])
    hessenberg = residual.new_zeros(residual.shape[0], most + 1, most)
    for j in range(most):
        w = apply(basis[j])
        before = torch.linalg.vector_norm(w, dim=1)
        for _ in range(2):  # twice is enough for orthogonality to rounding
            for i, v in enumerate(basis):
                overlap = torch.linalg.vecdot(v, w)
                hessenberg[:, i, j] += overlap
                w = w - overlap[:, None] * v
        norm = torch.linalg.vector_norm(w, dim=1)
        norm = torch.where(norm > 10 * torch.finfo(norm.dtype).eps * before, norm, 0.0)  # the space is complete
        hessenberg[:, j + 1, j] = norm
        basis.append(torch.where(norm[:, None] > 0, w / _nonzero(norm)[:, None], 0.0))
        weights, left = _least_squares(hessenberg[:, : j + 2, : j + 1], size)
        if not bool((left > 0.5 * wanted).any()):
            break
    return torch.einsum("bj,jbn->bn", weights, torch.stack(basis[: weights.shape[1]]))


def _least_squares(hessenberg: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The weights that minimise |size e_1 - H w|, and that minimum."""
    sound = torch.isfinite(hessenberg).all(-1).all(-1) & torch.isfinite(size)  # LAPACK may crash on what is not finite
    matrix = torch.where(sound[:, None, None], hessenberg, 0.0)
    right = torch.zeros_like(matrix[:, :, 0])
    right[:, 0] = torch.where(sound, size, 0.0).to(right.dtype)
    weights = (torch.linalg.pinv(matrix) @ right.unsqueeze(-1)).squeeze(-1)
    left = torch.linalg.vector_norm(right - (matrix @ weights.unsqueeze(-1)).squeeze(-1), dim=1)
    return weights, left


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)
