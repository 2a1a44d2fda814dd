"""Rules for matrices: linear maps act on all channels of a jet in one product, a bias on the values alone."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Incompatible
from .jet_rules import _add, _channels, _for, _shape
from .jet_series import bilinear, transformed
from .jet_tape import note, running
from .jets import Jet


@_for("linear")
def _linear(x: Any, W: Any, b: Any = None) -> Jet:
    if isinstance(W, Jet) or isinstance(b, Jet):
        product = _matmul(x, W.mT if W.dim() > 1 else W)
        return product if b is None else _add(product, b)
    if x.dim() < 2 or W.dim() != 2:
        raise Incompatible(f"a linear map is a matrix on the last axis of (N, ..., k), got {_shape(W)} on {_shape(x)}.")
    whole = _affine(x.parts, W, b) if transformed() else _Affine.apply(x.parts, W, b, running())
    note("linear", W, x.parts, whole)
    if b is not None:
        note("shift", b, None, whole)
    return Jet(whole, x.channels)


def _affine(parts: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    z = F.linear(parts, W)
    return z if b is None else torch.cat((z[:1] + b, z[1:]))


class _Affine(torch.autograd.Function):
    """x W^T on all channels, + b on the values. Features come before samples in memory, which makes the products of
    narrow layers up to twice as fast."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, W: Tensor, b: Tensor | None, tape: Any) -> Tensor:
        ctx.save_for_backward(parts, W)
        ctx.tape = tape
        out = _applied(W, parts)
        if b is not None:
            out[0] += b
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        parts, W = ctx.saved_tensors
        into, weight, bias, _ = ctx.needs_input_grad
        gx = gw = gb = None
        if into:
            gx = _applied(W.mT, g)
        if ctx.tape is not None and ctx.tape.pulling:  # cotangents of blocks are wanted, no gradient of weights
            return gx, None, None, None
        if weight and g.dim() == 3:
            gw = torch.bmm(g.mT, parts).sum(0)
        elif weight:
            gw = g.reshape(-1, W.shape[0]).mT @ parts.reshape(-1, W.shape[1])
        if bias:
            gb = g[0].sum(tuple(range(g.dim() - 2)))
        return gx, gw, gb, None


def _applied(W: Tensor, parts: Tensor) -> Tensor:
    """parts W^T."""
    if parts.dim() != 3:
        return F.linear(parts, W)
    return torch.bmm(W.expand(len(parts), *W.shape), parts.mT).mT


@_for("matmul", "mm", "bmm", "mv", "dot", "vecdot", "inner")
def _matmul(x: Any, y: Any, *, out: None = None) -> Jet:
    if isinstance(x, Jet) and not isinstance(y, Jet):
        if x.dim() < 2 or (y.dim() > 2 and y.dim() != x.dim()):
            _mixes(x, y)
        if y.dim() == 2:
            whole = torch.matmul(x.parts, y) if transformed() else _Affine.apply(x.parts, y.mT, None, running())
        else:
            whole = torch.matmul(x.parts, y)
        note("matmul" if y.dim() == 2 else "mv" if y.dim() == 1 else "", y, x.parts, whole)
        return Jet(whole, x.channels)
    if y.dim() < 3 or (x.dim() > 2 and x.dim() != y.dim()):
        _mixes(x, y)
    if isinstance(x, Jet):
        if x.dim() != y.dim():
            _mixes(x, y)
        return Jet(bilinear(torch.matmul, x.parts, y.parts, _channels(x, y)), x.channels)
    whole = torch.matmul(x, y.parts)
    note("", x, None, whole)
    return Jet(whole, y.channels)


def _mixes(x: Any, y: Any) -> NoReturn:
    raise Incompatible(
        f"the product of {_shape(x)} and {_shape(y)} would mix samples; a jet (N, ..., k) is multiplied from the right "
        "by a matrix (k, m), y @ W.mT, or from the left where it is a matrix itself, (N, k, l)."
    )


@_for("addmm", "addmv", "addbmm", "baddbmm")
def _addmm(b: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1, out: None = None) -> Any:
    product = _matmul(x, y)
    return (b if beta == 1 else beta * b) + (product if alpha == 1 else alpha * product)


@_for("einsum")
def _einsum(equation: Any, *operands: Any) -> Jet:
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    left, arrow, right = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    where = [i for i, x in enumerate(given) if isinstance(x, Jet)]
    first = {letters[i][:1] for i in where}
    if "." in equation or not arrow or len(where) > 2 or len(first) > 1 or right[:1] not in first or "Z" in equation:
        raise Incompatible(
            f"einsum {equation!r} of jets: write letters for all axes, the samples first, and two jets at most."
        )
    if len(where) == 1:
        i = where[0]
        new = ",".join("Z" + l if j == i else l for j, l in enumerate(letters))
        whole = torch.einsum(f"{new}->Z{right}", *(x.parts if j == i else x for j, x in enumerate(given)))
        for j, x in enumerate(given):
            if j != i:
                note("", x, None, whole)
        return Jet(whole, given[i].channels)
    i, k = where

    def op(u: Tensor, v: Tensor) -> Tensor:
        return torch.einsum(equation, *(u if j == i else v if j == k else x for j, x in enumerate(given)))

    whole = bilinear(op, given[i].parts, given[k].parts, _channels(*given))
    for j, x in enumerate(given):
        if j not in where:
            note("", x, None, whole)
    return Jet(whole, given[i].channels)
