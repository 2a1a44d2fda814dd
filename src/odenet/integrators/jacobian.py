"""df/dy in blocks, and the linear systems a y - b J that implicit methods solve with it.

A state (B, D) whose samples do not influence each other has B blocks (D, D); any other state is one block. Whether
samples couple is not assumed: it is seen once per run, from 2 log2(B) derivatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible
from ..types import State, Time

DENSE = 2000  # largest block that is factorised; beyond, Newton-Krylov


def along(f: Callable[[State], State], y: State, v: State) -> State:
    """The directional derivative (df/dy) v at y."""
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        y = y.resolve_conj().resolve_neg().contiguous()  # forward mode refuses what is lazy or expanded
        return torch.func.jvp(f, (y,), (v,))[1]


def generic(y: State) -> State:
    """A direction in the space of y without a pattern that f might cancel: (cos k^2, and i sin k^2 for a complex y)."""
    phases = torch.arange(y.numel(), dtype=torch.float64).square().reshape(y.shape)
    return (torch.polar(torch.ones_like(phases), phases) if y.is_complex() else torch.cos(phases)).to(y)


def samples_couple(f: Callable[[State], State], y: State) -> bool:
    """Whether a sample's slope depends on another sample: exact for linear coupling, else at this y.

    For every bit of the sample number, samples with the bit set are moved and those without are watched, and the
    other way round; two different samples differ in some bit.
    """
    bits = torch.arange((y.shape[0] - 1).bit_length(), device=y.device)[:, None]
    if not len(bits):
        return False
    first = (torch.arange(y.shape[0], device=y.device) >> bits) & 1 == 0
    moved = torch.cat([first, ~first]).reshape(-1, y.shape[0], *([1] * (y.dim() - 1)))
    directions = generic(y) * moved
    found = _backwards(f, y, directions)  # J^T for J: who watches and who is watched change places
    if found is None:
        found = torch.stack([along(f, y, v) for v in directions])
    return bool((found * ~moved).abs().max() > 0)


def in_blocks(f: Any, t: Time, y: State) -> bool:
    """Whether y is (B, D) with samples that do not couple; remembered in the workspace of `f`."""
    if y.dim() < 2 or y.shape[0] == 1:
        return False
    memory = getattr(f, "workspace", {})
    if "in_blocks" not in memory:
        with torch.no_grad():
            memory["in_blocks"] = not samples_couple(lambda x: f(t, x), y.detach())
    return memory["in_blocks"]


@dataclass(frozen=True)
class Blocks:
    """df/dy at a state y as matrices (B, D, D), one per sample, or (1, n, n) for all entries of y together."""

    matrix: Tensor

    def apply(self, v: State) -> State:
        """J v, for v of the shape of y."""
        return (self.matrix @ self.columns(v)).reshape(v.shape)

    def columns(self, v: State) -> Tensor:
        """v as column vectors (B, D, 1)."""
        return v.reshape(*self.matrix.shape[:-1], 1)

    def shifted(self, b: Any) -> Factors:
        """Factors of I - b J; b is a number, or a tensor with one entry per sample."""
        if isinstance(b, Tensor) and b.dim():
            b = b.reshape(-1, 1, 1)
        n = self.matrix.shape[-1]
        return Factors(*torch.linalg.lu_factor(torch.eye(n).to(self.matrix) - b * self.matrix))


@dataclass(frozen=True)
class Factors:
    """L U = P M of the blocks of a linear system."""

    lu: Tensor
    pivots: Tensor

    def solve(self, v: State) -> State:
        """M^-1 v, for v of the shape of y."""
        columns = v.reshape(*self.lu.shape[:-1], 1)
        return torch.linalg.lu_solve(self.lu, self.pivots, columns).reshape(v.shape)


def jacobian(f: Any, t: Time, y: State) -> Blocks:
    """df/dy of f(t, y) at (t, y): the field's own where it offers one, else backwards from one evaluation, or by
    forward mode where there is no way back.

    f: a callable, or an Rhs whose `jacobian(t, y)` gives (B, D, D) or (D, D)
    Differentiable in y and in what f depends on. Raises Incompatible where a block has more than DENSE columns.
    """
    if hasattr(f, "counts"):
        f.counts["jacobians"] += 1
    known = getattr(f, "jacobian", None)
    if known is not None:
        matrix = known(t, y)
        return Blocks(matrix if matrix.dim() == 3 else matrix.unsqueeze(0))
    blocks = in_blocks(f, t, y)
    shape = (y.shape[0], y[0].numel()) if blocks else (1, y.numel())
    if shape[1] > DENSE:
        raise Incompatible(
            f"a dense Jacobian of a state with {shape[1]} coupled entries would have {shape[1] ** 2} numbers; use "
            'Newton-Krylov, or an explicit integrator such as "dopri5".'
        )
    unit = torch.eye(shape[1], dtype=y.dtype, device=y.device)
    directions = unit.unsqueeze(1).expand(shape[1], *shape).reshape(shape[1], *y.shape)
    rows = _backwards(lambda x: f(t, x), y, directions)
    if rows is not None:
        return Blocks(rows.reshape(shape[1], *shape).movedim(0, -2))
    return Blocks(_columns(lambda x: f(t, x), y, directions).reshape(shape[1], *shape).movedim(0, -1))


def _backwards(f: Callable[[State], State], y: State, cotangents: Tensor) -> Tensor | None:
    """(df/dy)^T u for every u, from one evaluation of f: several times as fast as forward mode on small systems.

    None where forward mode is for: inside torch.func, for complex states and for what has no graph from y to f(y).
    """
    if torch._C._are_functorch_transforms_active() or y.is_complex():
        return None
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = y if graph and y.requires_grad else y.detach().requires_grad_()
        try:
            out = f(x)
            if not out.requires_grad:
                return None
            graph = graph and (x is y or any(leaf is not x for leaf in leaves(out)))  # of weights that are learned
            return torch.autograd.grad(
                out, x, cotangents, is_grads_batched=True, create_graph=graph, materialize_grads=True
            )[0]
        except RuntimeError:  # an operation without a second derivative or a batching rule
            return None


def leaves(out: Tensor) -> Iterator[Tensor]:
    """The tensors that require a gradient and from which `out` was computed."""
    if out.requires_grad and out.grad_fn is None:
        yield out
    seen, waiting = set(), [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        waiting += [parent for parent, _ in node.next_functions]


def _columns(f: Callable[[State], State], y: State, directions: Tensor) -> Tensor:
    """(df/dy) v for every v, all at once where f allows it."""
    try:
        return torch.func.vmap(lambda v: along(f, y, v))(directions)
    except RuntimeError as problem:
        if "vmap" not in str(problem):
            raise
    return torch.stack([along(f, y, v) for v in directions])
