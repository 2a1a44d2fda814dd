"""Jacobians with respect to weights from one reverse pass: what entered every weight, and the cotangent behind it.

For z = W h on all channels, d r_n/d W = sum_c g_cn h_cn^T with g = d r_n/d z: row n of r depends on sample n only, so
one reverse pass of sum_n r_n gives the g of all samples at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible

_running: ContextVar[Tape | None] = ContextVar("tape", default=None)


def note(kind: str, weight: Any, entered: Tensor | None, left: Tensor) -> None:
    """Tell the running tape that `weight` acted on the block `entered` and gave the block `left`.

    kind: "linear" (left = entered weight^T), "matmul" (left = entered weight), "mv", "scale", "shift", or "" for what
    has no rule.
    """
    tape = _running.get()
    if tape is not None and isinstance(weight, Tensor) and weight.requires_grad and left.requires_grad:
        tape._notes.append(_Note(kind, weight, None if entered is None else entered.detach(), left))


@contextmanager
def record() -> Iterator[Tape]:
    """Notes what every weight does to jets meanwhile, for `tape.jacobian`."""
    tape = Tape()
    token = _running.set(tape)
    try:
        yield tape
    finally:
        _running.reset(token)


class _Note(NamedTuple):
    kind: str
    weight: Tensor
    entered: Tensor | None
    left: Tensor


class Tape:
    """What weights did to jets; made by `record`. Weights are parameters or anything computed from them."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []

    def jacobian(self, r: Tensor, parameters: Iterable[Tensor], check: bool = False) -> Tensor:
        """d r / d parameters, (N, R, P) for r (N,) or (N, R): columns are the parameters in order, flattened.

        Row n of r depends on sample n of the jets only. A parameter that meets r without a jet, such as a coefficient
        multiplied onto `parts`, is not seen: expand it to (N,) samples, c.expand(N).clone(), take its own column by
        torch.autograd.grad, or use `jacobian_by_vmap`.
        check: compare the sum of the rows with the gradient of r.sum(0), and raise Incompatible where they differ.
        """
        own = list(parameters)
        columns = r.unsqueeze(1) if r.dim() == 1 else r
        if columns.dim() != 2 or not columns.requires_grad:
            raise BadInput(f"a residual is (N,) or (N, R) and depends on the parameters, got shape {tuple(r.shape)}.")
        J = _Columns(own, columns)
        for k in range(columns.shape[1]):
            J.add(k, columns[:, k], self._notes)
        if check:
            _compare(J.whole, columns, own)
        return J.whole


class _Columns:
    """The Jacobian while it is summed up: a view of its columns for every parameter."""

    def __init__(self, parameters: Sequence[Tensor], r: Tensor) -> None:
        self.samples = len(r)
        self.parameters = parameters
        self.whole = r.new_zeros(self.samples, r.shape[1], sum(p.numel() for p in parameters))
        starts = [0]
        for p in parameters:
            starts.append(starts[-1] + p.numel())
        self.columns = {id(p): slice(a, b) for p, a, b in zip(parameters, starts, starts[1:])}

    def add(self, k: int, r: Tensor, notes: Sequence[_Note]) -> None:
        """Column k of the residual."""
        blocks = list({id(n.left): n.left for n in notes}.values())
        found = torch.autograd.grad(r.sum(), blocks, retain_graph=True, allow_unused=True) if blocks else ()
        cotangents = {id(block): g for block, g in zip(blocks, found)}
        derived: dict[int, tuple[Tensor, Tensor]] = {}
        for note in notes:
            g = cotangents[id(note.left)]
            if g is None:
                continue
            if g.shape[1] != self.samples:
                raise Incompatible(
                    f"the residual has {self.samples} rows, but depends on jets of {g.shape[1]} samples; take the "
                    "Jacobian of every set of points by itself."
                )
            root = note.weight if note.weight._base is None else note.weight._base
            if id(root) in self.columns:
                target = self.whole[:, k, self.columns[id(root)]]
            elif root.is_leaf:
                continue
            else:
                _, target = derived.setdefault(id(root), (root, g.new_zeros(self.samples, root.numel())))
            _gather(note, g, root, target)
        if derived:
            self._pull_back(k, list(derived.values()))

    def _pull_back(self, k: int, derived: list[tuple[Tensor, Tensor]]) -> None:
        """From weights that are functions of parameters to these."""
        roots = [root for root, _ in derived]
        rows = [J.reshape(self.samples, *root.shape) for root, J in derived]
        found = _batched(roots, self.parameters, rows)
        for p, J in zip(self.parameters, found):
            self.whole[:, k, self.columns[id(p)]] += J.reshape(self.samples, -1)


def _gather(note: _Note, g: Tensor, root: Tensor, target: Tensor) -> None:
    """Add d r / d weight to the columns of `root`, of which the weight is a view."""
    w = note.weight
    if w is root and root.is_contiguous():
        _add(note, g, target)
        return
    if not root.is_contiguous():
        raise Incompatible("a weight is a view of a tensor that is not contiguous; make it contiguous.")
    start = w.storage_offset() - root.storage_offset()
    if w.is_contiguous():
        _add(note, g, target[:, start : start + w.numel()])
        return
    places = torch.arange(root.numel(), device=g.device).as_strided(w.shape, w.stride(), start).reshape(-1)
    own = g.new_zeros(len(target), w.numel())
    _add(note, g, own)
    target.index_add_(1, places, own)


def _add(note: _Note, g: Tensor, target: Tensor) -> None:
    """target (N, numel) += d r / d weight."""
    kind, w, h, _ = note
    if kind in ("linear", "matmul") and h is not None:
        out = g.movedim(1, 0).flatten(1, -2)  # (N, channels and positions, features)
        into = h.movedim(1, 0).flatten(1, -2)
        left, right = (out, into) if kind == "linear" else (into, out)
        target.unflatten(1, w.shape).baddbmm_(left.mT, right)
    elif kind == "mv" and h is not None:
        target += (g.unsqueeze(-1) * h).movedim(1, 0).flatten(1, -2).sum(1)
    elif kind == "scale" and h is not None:
        target += _reduced((g * h).sum(0), w)
    elif kind == "shift":
        target += _reduced(g[0], w)
    else:
        raise Incompatible(
            "a weight acted on a jet by an operation whose Jacobian is not recorded; write it as y @ W, F.linear, a "
            "product or a sum, or use jacobian_by_vmap."
        )


def _reduced(g: Tensor, w: Tensor) -> Tensor:
    """(N, ...) summed over the axes along which w was repeated: (N, numel)."""
    shape = (1,) * (g.dim() - w.dim()) + tuple(w.shape)
    if shape[0] != 1:
        raise Incompatible("a weight with an axis of samples acted on a jet; use jacobian_by_vmap.")
    axes = [d for d in range(1, g.dim()) if shape[d] == 1 and g.shape[d] != 1]
    return (g.sum(axes) if axes else g).reshape(len(g), -1)


def _compare(J: Tensor, r: Tensor, parameters: Sequence[Tensor]) -> None:
    for k in range(r.shape[1]):
        found = torch.autograd.grad(r[:, k].sum(), parameters, retain_graph=True, allow_unused=True)
        whole = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, found)])
        gap = (J[:, k].sum(0) - whole).abs()
        scale = J[:, k].abs().sum(0).amax() + whole.abs().amax()
        if not bool((gap <= 1e3 * torch.finfo(J.dtype).eps * scale).all()):
            where = _named(int(gap.argmax()), parameters)
            raise Incompatible(
                f"the residual depends on {where} otherwise than through jets, or its rows depend on other samples; "
                "expand such a coefficient to the samples and add its column, or use jacobian_by_vmap."
            )


def _named(column: int, parameters: Sequence[Tensor]) -> str:
    for place, p in enumerate(parameters):
        if column < p.numel():
            return f"parameter {place} of shape {tuple(p.shape)}"
        column -= p.numel()
    raise AssertionError


def jacobian_by_vmap(r: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """d r / d parameters, (N, R, P), by a reverse pass for every entry of r, batched: for any graph, but slow.

    The exact way where `Tape.jacobian` refuses; nothing has to be recorded.
    """
    own = list(parameters)
    flat = r.reshape(-1)
    unit = torch.eye(len(flat), dtype=r.dtype, device=r.device)
    rows = _batched([flat], own, [unit])
    return torch.cat([g.reshape(len(flat), -1) for g in rows], 1).reshape(len(r), -1, sum(p.numel() for p in own))


def _batched(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of `inputs` for every entry of a leading axis of the cotangents."""

    def pull(*g: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(outputs, inputs, g, retain_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(p) if x is None else x for p, x in zip(inputs, found))

    return torch.func.vmap(pull)(*cotangents)
