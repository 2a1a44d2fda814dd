"""Derivatives of solved equations by the implicit function theorem, once; a second derivative raises a sentence.

From r(k, theta) = 0 follows dk = -M^{-1} (dr/dtheta) dtheta with M = dr/dk, so k = k* - M^{-1} r(k*, theta) with M held
constant has the value k* and the first derivatives of the solution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible
from .krylov import gmres
from .stages import Stages, factorise, transformed


def attached(stages: Stages, plain: Stages, k: Tensor) -> Tensor:
    """k with the derivatives that the implicit function theorem gives it."""
    r = stages.flat(stages.residual(k))
    x: Tensor
    if plain.dense:
        factors = factorise(stages.f, plain.matrix(plain.slopes_at(k)).detach())
        x = _Solved.apply(r, factors.lu, factors.pivots)  # type: ignore[no-untyped-call]
    elif transformed():
        raise Incompatible(
            f"a state with {plain.size} coupled entries per stage is solved by Newton-Krylov, which torch.func cannot "
            "differentiate; use torch.autograd, or an explicit integrator."
        )
    else:
        x = _SolvedByKrylov.apply(r, plain, k)  # type: ignore[no-untyped-call]
    return k - stages.shaped(x - x.detach())


def _refuse(*_: Any) -> Any:
    raise Incompatible(
        "second derivatives through an implicit step are not available: its stages are differentiated once by the "
        'implicit function theorem; use an explicit integrator such as "dopri5" where second derivatives are needed.'
    )


class _Once(torch.autograd.Function):
    """M^{-1} v or M^{-H} v; r is there only so that a further derivative with respect to anything raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, r: Tensor, lu: Tensor, pivots: Tensor, adjoint: bool) -> Tensor:
        return torch.linalg.lu_solve(lu, pivots, v.unsqueeze(-1), adjoint=adjoint).squeeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    backward = jvp = staticmethod(_refuse)  # type: ignore[assignment]


class _Solved(torch.autograd.Function):
    """x = M^{-1} r with constant M, for rows r (nb, N)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
        return torch.linalg.lu_solve(lu, pivots, r.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Once.apply(g, *ctx.saved_tensors, True), None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, v: Tensor, *_: Any) -> Any:
        return _Once.apply(v, *ctx.saved_tensors, False)  # type: ignore[no-untyped-call]


class _OnceByKrylov(torch.autograd.Function):
    """M^{-H} v by GMRES; a further derivative raises."""

    @staticmethod
    def forward(v: Tensor, r: Tensor, stages: Stages, k: Tensor) -> Tensor:
        with torch.no_grad():
            return gmres(stages.adjoint(k), v, 10 * torch.finfo(v.dtype).eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    backward = staticmethod(_refuse)  # type: ignore[assignment]


class _SolvedByKrylov(torch.autograd.Function):
    """x = M^{-1} r where M has no matrix; only its derivative is used, so the value is 0."""

    @staticmethod
    def forward(r: Tensor, stages: Stages, k: Tensor) -> Tensor:
        return torch.zeros_like(r)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        r, ctx.stages, k = inputs
        ctx.save_for_backward(r, k)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        r, k = ctx.saved_tensors
        return _OnceByKrylov.apply(g, r, ctx.stages, k), None, None  # type: ignore[no-untyped-call]
