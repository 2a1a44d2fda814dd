"""Truncated Taylor series over a set of multi-indices: products by Leibniz, functions of functions by Faà di Bruno.

A block (C, N, ...) holds one derivative per index: row i is d^a u for a = channels[i]; row 0 is u itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BadInput
from .jet_towers import Tower

Index = tuple[int, ...]
Channels = tuple[Index, ...]
ORDER = 4  # of the highest derivative


def closed(indices: Iterable[Sequence[int]]) -> Channels:
    """The smallest set of multi-indices that contains `indices` and with every index all smaller ones.

    The zero index comes first, then by total order; closed([(2, 0), (0, 1)]) is ((0, 0), (1, 0), (0, 1), (2, 0)).
    Raises BadInput for an empty list, indices of different lengths, and anything but whole numbers >= 0.
    """
    wanted = [tuple(index) for index in indices]
    if not wanted or len({len(index) for index in wanted}) > 1 or not wanted[0]:
        raise BadInput(f"derivatives are multi-indices of one length, such as [(2, 0), (0, 1)], got {wanted}.")
    if any(not isinstance(k, int) or isinstance(k, bool) or k < 0 for index in wanted for k in index):
        raise BadInput(f"a multi-index counts derivatives, whole numbers >= 0, got {wanted}.")
    return _closed(frozenset(wanted))


@lru_cache(maxsize=4096)
def _closed(wanted: frozenset[Index]) -> Channels:
    below = {b for a in wanted for b in product(*(range(k + 1) for k in a))}
    return tuple(sorted(below, key=lambda a: (sum(a), tuple(-k for k in a))))


@lru_cache(maxsize=4096)
def highest(channels: Channels) -> int:
    """The highest total order."""
    return max(sum(a) for a in channels)


# ---- tables --------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """out[i : i + length] += weight * (s_k if k) * prod_f block[f : f + length], f in `factors`."""

    k: int
    weight: float
    out: int
    factors: tuple[int, ...]
    length: int


Term = tuple[int, int, int, tuple[int, ...]]  # k, weight, row, factor rows


def _runs(terms: Iterable[Term]) -> tuple[Run, ...]:
    """Terms of neighbouring rows whose factors are neighbours too become one: one kernel for all of them."""
    last: dict[tuple[Any, ...], Run] = {}
    done: list[Run] = []
    for k, weight, i, factors in terms:
        key = (k, weight, tuple(f - i for f in factors))
        run = last.get(key)
        if run is not None and run.out + run.length == i:
            last[key] = run._replace(length=run.length + 1)
        else:
            done += [run] if run is not None else []
            last[key] = Run(k, float(weight), i, factors, 1)
    return tuple(sorted([*done, *last.values()], key=lambda run: (run.out, run.k)))


@lru_cache(maxsize=1024)
def leibniz(channels: Channels) -> tuple[Run, ...]:
    """d^a (u v) = sum_{b <= a} binom(a, b) d^b u d^(a-b) v, without the terms in which u or v is not differentiated."""
    row = {a: i for i, a in enumerate(channels)}

    def terms() -> Iterator[Term]:
        for a, i in row.items():
            for b in product(*(range(k + 1) for k in a)):
                rest = tuple(k - l for k, l in zip(a, b))
                if any(b) and any(rest):
                    yield 0, math.prod(math.comb(k, l) for k, l in zip(a, b)), i, (row[b], row[rest])

    return _runs(terms())


@lru_cache(maxsize=1024)
def faa_di_bruno(channels: Channels) -> tuple[Run, ...]:
    """d^a s(z) = sum over the partitions of a into k blocks of s^(k) prod d^block z, without k = 1."""
    row = {a: i for i, a in enumerate(channels)}

    def terms() -> Iterator[Term]:
        for a, i in row.items():
            marks = [axis for axis, k in enumerate(a) for _ in range(k)]
            found: Counter[tuple[int, ...]] = Counter()
            for blocks in _partitions(marks):
                if len(blocks) > 1:
                    found[tuple(sorted(row[tuple(b.count(j) for j in range(len(a)))] for b in blocks))] += 1
            for factors, count in sorted(found.items(), key=lambda item: len(item[0])):
                yield len(factors), count, i, factors

    return _runs(terms())


def _partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for blocks in _partitions(rest):
        yield [[first], *blocks]
        for j in range(len(blocks)):
            yield [*blocks[:j], [first, *blocks[j]], *blocks[j + 1 :]]


# ---- products ------------------------------------------------------------------------------------------------------


def transformed() -> bool:
    """Whether a torch.func transform is running; then nothing is written in place."""
    return torch._C._are_functorch_transforms_active()


def _graph(*blocks: Tensor) -> bool:
    return torch.is_grad_enabled() and any(b.requires_grad for b in blocks)


def multiply(u: Tensor, v: Tensor, channels: Channels) -> Tensor:
    """The block of u v."""
    return bilinear(torch.mul, u, v, channels) if transformed() else _Product.apply(u, v, channels)


def bilinear(op: Callable[[Tensor, Tensor], Tensor], u: Tensor, v: Tensor, channels: Channels) -> Tensor:
    """The block of op(u, v), op linear in u and in v."""
    rows = [op(u[0], v[0])] + [op(u[0], v[i]) + op(u[i], v[0]) for i in range(1, len(channels))]
    for run in leibniz(channels):
        a, b = run.factors
        for j in range(run.length):
            rows[run.out + j] = rows[run.out + j] + run.weight * op(u[a + j], v[b + j])
    return torch.stack(rows)


class _Product(torch.autograd.Function):
    """`multiply` in few kernels, forward and backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, channels: Channels) -> Tensor:
        ctx.save_for_backward(u, v)
        ctx.channels = channels
        out = u[0] * v if u.dim() <= v.dim() and u.shape[1:] == v.shape[1:] else torch.mul(u[0].unsqueeze(0), v)
        if len(channels) > 1:
            out[1:].addcmul_(u[1:], v[0])
        for _, weight, i, (a, b), n in leibniz(channels):
            out[i : i + n].addcmul_(u[a : a + n], v[b : b + n], value=weight)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        u, v = ctx.saved_tensors
        if torch.is_grad_enabled() or transformed():
            return *_again(lambda u, v: bilinear(torch.mul, u, v, ctx.channels), (u, v), g), None
        gu = _product_rule(g, v, ctx.channels, 1).sum_to_size(u.shape) if ctx.needs_input_grad[0] else None
        gv = _product_rule(g, u, ctx.channels, 0).sum_to_size(v.shape) if ctx.needs_input_grad[1] else None
        return gu, gv, None


def _product_rule(g: Tensor, other: Tensor, channels: Channels, side: int) -> Tensor:
    """The gradient with respect to one factor, `other` being the one at place `side`."""
    out = g * other[0]
    if len(channels) > 1:
        out[0].add_(_paired(g, other))
    for _, weight, i, factors, n in leibniz(channels):
        a, b = factors[1 - side], factors[side]
        out[a : a + n].addcmul_(g[i : i + n], other[b : b + n], value=weight)
    return out


def _paired(g: Tensor, z: Tensor) -> Tensor:
    """sum_i g_i z_i over the derivatives."""
    total = g[1] * z[1]
    for i in range(2, len(g)):
        total.addcmul_(g[i], z[i])
    return total


def _again(f: Callable[..., Tensor], inputs: tuple[Tensor, ...], g: Tensor) -> list[Tensor | None]:
    """The gradient through the plain operations of f, itself differentiable."""
    with torch.enable_grad():
        own = [x.view_as(x) if x.requires_grad else x.detach() for x in inputs]  # one may be a function of another
        wanted = [x for x in own if x.requires_grad]
        found = iter(torch.autograd.grad(f(*own), wanted, g, create_graph=True, allow_unused=True))
        return [next(found) if x.requires_grad else None for x in own]


# ---- functions of one variable -------------------------------------------------------------------------------------


def compose(z: Tensor, channels: Channels, tower: Tower) -> Tensor:
    """The block of s(z) from the block of z; tower(x, n) gives s(x), s'(x), ..., s^(n)(x)."""
    return _composed(z, channels, tower) if transformed() else _Composition.apply(z, channels, tower)


def _composed(z: Tensor, channels: Channels, tower: Tower) -> Tensor:
    s = tower(z[0], highest(channels))
    rows = [s[0]] + [s[1] * z[i] for i in range(1, len(channels))]
    for k, weight, i, factors, n in faa_di_bruno(channels):
        if s[k] is not None:
            for j in range(n):
                rows[i + j] = rows[i + j] + weight * s[k] * reduce(torch.mul, [z[f + j] for f in factors])
    return torch.stack([row.expand_as(rows[0]) for row in rows])


class _Composition(torch.autograd.Function):
    """`compose` in few kernels, forward and backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, channels: Channels, tower: Tower) -> Tensor:
        needed = ctx.needs_input_grad[0]
        s = tower(z[0], highest(channels) + needed)
        if needed:
            ctx.save_for_backward(z, *s)
            ctx.channels, ctx.tower = channels, tower
        out = torch.empty_like(z)
        out[0] = s[0]
        if len(channels) > 1:
            torch.mul(z[1:], s[1], out=out[1:])
        for k, weight, i, factors, n in faa_di_bruno(channels):
            if s[k] is not None:
                first, *rest = [z[f : f + n] for f in factors]
                out[i : i + n].addcmul_(reduce(torch.mul, rest, first), s[k], value=weight)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        z, *s = ctx.saved_tensors
        if torch.is_grad_enabled() or transformed():
            return *_again(lambda z: _composed(z, ctx.channels, ctx.tower), (z,), g), None, None
        out = g * s[1]
        if len(g) > 1 and s[2] is not None:
            out[0].addcmul_(_paired(g, z), s[2])
        for k, weight, i, factors, n in faa_di_bruno(ctx.channels):
            if s[k] is None:
                continue
            gi, rows = g[i : i + n], Counter(factors)
            gs = None
            for f, times in rows.items():
                others = [z[f2 : f2 + n] for f2 in (rows - Counter([f])).elements()]
                if gs is None:
                    gs = gi * s[k]
                out[f : f + n].addcmul_(reduce(torch.mul, others), gs, value=weight * times)
            if s[k + 1] is not None:
                whole = reduce(torch.mul, [z[f : f + n] for f in factors], gi)
                out[0].addcmul_(whole[0] if n == 1 else whole.sum(0), s[k + 1], value=weight)
        return out, None, None
