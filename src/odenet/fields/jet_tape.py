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


def running() -> Tape | None:
    """The tape that records now."""
    return _running.get()


def note(kind: str, weight: Any, entered: Tensor | None, left: Tensor) -> None:
    """Tell the running tape that `weight` acted on the block `entered` and gave the block `left`.

    kind: "linear" (left = entered weight^T), "matmul" (left = entered weight), "mv", "scale", "shift", "spread", or ""
    for what has no rule.
    """
    tape = _running.get()
    if tape is not None and isinstance(weight, Tensor) and weight.requires_grad and left.requires_grad:
        tape.notes.append(_Note(kind, weight, None if entered is None else entered.detach(), left))


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
        self.notes: list[_Note] = []
        self.pulling = False  # whether a reverse pass for cotangents runs, which needs no gradient of weights

    def spread(self, parameter: Tensor, samples: int) -> Tensor:
        """The parameter once for every sample, (N, *shape): so written into a residual, its columns are known too.

        For coefficients outside the network: r = u_t - tape.spread(nu, len(x)) * u_xx.
        """
        whole = parameter.expand(samples, *parameter.shape).clone()
        self.notes.append(_Note("spread", parameter, None, whole))
        return whole

    def jacobian(
        self, r: Tensor, parameters: Iterable[Tensor], check: bool = False, out: Tensor | None = None
    ) -> Tensor:
        """d r / d parameters, (N, R, P) for r (N,) or (N, R): columns are the parameters in order, flattened.

        One reverse pass for a column of r, whose row n depends on sample n of the jets only. A parameter that meets r
        without a jet is not seen: write it as `tape.spread(parameter, N)`, or use `jacobian_by_vmap`.
        check: compare v^T J with the gradient of v^T r for one v, and raise Incompatible where they differ.
        out: (N, R, P) to be written; else a new tensor in which samples are neighbours in memory (J.mT is contiguous
        for R = 1), which is what `J.mT @ J` and the next call with out=J take fastest.
        Raises Incompatible for a weight that acted by an operation without a rule, and for jets of other points.
        """
        own = list(parameters)
        columns = r.unsqueeze(1) if r.dim() == 1 else r
        if columns.dim() != 2 or not columns.requires_grad:
            raise BadInput(f"a residual is (N,) or (N, R) and depends on the parameters, got shape {tuple(r.shape)}.")
        shape = (*columns.shape, sum(p.numel() for p in own))
        if out is not None and out.shape != shape:
            raise BadInput(f"the Jacobian is {shape}, but out is {tuple(out.shape)}.")
        J = r.new_empty(shape[1], shape[2], shape[0]).permute(2, 0, 1) if out is None else out
        each = columns.unbind(1)
        with torch.no_grad():
            for k, column in enumerate(each):
                self._fill(J[:, k].mT, column, own)
        if check:
            _compare(J, columns, own)
        return J

    def _fill(self, rows: Tensor, r: Tensor, parameters: list[Tensor]) -> None:
        """Write d r / d parameters for r (N,), transposed: (P, N)."""
        places = dict(zip(map(id, parameters), rows.split([p.numel() for p in parameters])))
        derived: dict[int, tuple[Tensor, Tensor]] = {}
        untouched = set(places)
        for group in _by_weight(self._contributions(r)):
            w = group[0][0].weight
            root = w if w._base is None else w._base
            key = id(root)
            if key not in places:
                if root.is_leaf:
                    continue
                places[key] = r.new_empty(root.numel(), len(r))
                derived[key] = (root, places[key])
                untouched.add(key)
            if key in untouched and w is not root:
                places[key].zero_()
                untouched.remove(key)
            _add_to(_place(places[key], w, root), group, fresh=key in untouched)
            untouched.discard(key)
        for key in untouched:
            places[key].zero_()
        if derived:
            roots, cotangents = zip(*derived.values())
            pulled = _batched(roots, cotangents, parameters)
            for p, found in zip(parameters, pulled):
                places[id(p)] += found

    def _contributions(self, r: Tensor) -> list[tuple[_Note, Tensor]]:
        """The notes on which r depends, with the cotangents behind them."""
        blocks = list({id(n.left): n.left for n in self.notes}.values())
        if not blocks:
            return []
        self.pulling = True
        try:
            with torch.enable_grad():
                total = r.sum()  # one number: cotangents given to autograd make it import sympy first
            found = torch.autograd.grad(total, blocks, retain_graph=True, allow_unused=True)
        finally:
            self.pulling = False
        cotangents = {id(block): g for block, g in zip(blocks, found)}
        used = [(n, g) for n in self.notes if (g := cotangents[id(n.left)]) is not None]
        for n, g in used:
            samples = g.shape[0] if n.kind == "spread" else g.shape[1]
            if samples != len(r):
                raise Incompatible(
                    f"the residual has {len(r)} rows, but depends on jets of {samples} samples; take the Jacobian of "
                    "every set of points by itself."
                )
        return used


Group = list[tuple[_Note, Tensor]]  # what one weight did, with the cotangents behind it


def _by_weight(used: Group) -> list[Group]:
    """The notes of every weight together; views of the same entries are the same weight."""
    groups: dict[tuple[Any, ...], Group] = {}
    for n, g in used:
        w = n.weight
        root = w if w._base is None else w._base
        groups.setdefault((id(root), w.storage_offset(), w.shape, w.stride(), n.kind), []).append((n, g))
    return list(groups.values())


def _place(target: Tensor, w: Tensor, root: Tensor) -> Tensor:
    """Where the rows (*w.shape, N) of w are in the rows (numel, N) of the tensor that it views."""
    if not root.is_contiguous():
        raise Incompatible("a weight is a view of a tensor that is not contiguous; make it contiguous.")
    step = target.stride(0)
    start = target.storage_offset() + (w.storage_offset() - root.storage_offset()) * step
    return target.as_strided((*w.shape, target.shape[1]), (*(s * step for s in w.stride()), target.stride(1)), start)


def _add_to(target: Tensor, group: Group, fresh: bool) -> None:
    """target (*w.shape, N) = or += d r / d w."""
    kind = group[0][0].kind
    if kind in ("linear", "matmul"):
        sides = [_samples_last(g for _, g in group), _samples_last(n.entered for n, _ in group)]
        left, right = sides if kind == "linear" else sides[::-1]
        _add_products(target, left, right, fresh)
        return
    for n, g in group:
        found = _pointwise(n, g)
        target.copy_(found) if fresh else target.add_(found)
        fresh = False


def _samples_last(blocks: Iterable[Any]) -> list[Tensor]:
    """Blocks (C, N, ..., W) as a list of (W, N), one for each channel and position."""
    return [row for block in blocks for row in block.movedim(1, -1).flatten(0, -3)]


NEIGHBOURS = 2**16  # entries that stay in a core's cache while they are summed up
MANY = 8  # products beyond which a matrix product is faster than adding them one by one


def _add_products(target: Tensor, left: list[Tensor], right: list[Tensor], fresh: bool) -> None:
    """target (o, i, N) = or += sum_k left_k (o, N) right_k (i, N)."""
    samples, cols = target.shape[2], target.shape[1]
    if len(left) > MANY:
        a, b = torch.stack([x.mT for x in left], -1), torch.stack([x.mT for x in right], 1)
        for n in range(0, samples, step := max(1, NEIGHBOURS // target[..., 0].numel())):
            found = torch.bmm(a[n : n + step], b[n : n + step]).movedim(0, -1)
            part = target[..., n : n + step]
            part.copy_(found) if fresh else part.add_(found)
        return
    for o in range(0, len(target), step := max(1, NEIGHBOURS // max(1, cols * samples))):
        part = target[o : o + step]
        for k, (x, y) in enumerate(zip(left, right)):
            if fresh and not k:
                torch.mul(x[o : o + step, None], y, out=part)
            else:
                part.addcmul_(x[o : o + step, None], y)


def _pointwise(n: _Note, g: Tensor) -> Tensor:
    """d r / d w, (*w.shape, N)."""
    kind, w, h, _ = n
    if kind == "mv" and h is not None:
        return (g.unsqueeze(-1) * h).movedim(1, -1).movedim(-2, 0).flatten(1, -2).sum(1)
    if kind == "scale" and h is not None:
        return _reduced((g * h).sum(0), w)
    if kind == "shift":
        return _reduced(g[0], w)
    if kind == "spread":
        return g.movedim(0, -1)
    raise Incompatible(
        "a weight acted on a jet by an operation whose Jacobian is not recorded; write it as y @ W, F.linear, a "
        "product or a sum, or use jacobian_by_vmap."
    )


def _reduced(g: Tensor, w: Tensor) -> Tensor:
    """(N, ...) summed over the axes along which w was repeated: (*w.shape, N)."""
    shape = (1,) * (g.dim() - w.dim()) + tuple(w.shape)
    if shape[0] != 1:
        raise Incompatible("a weight with an axis of samples acted on a jet; use jacobian_by_vmap.")
    axes = [d for d in range(1, g.dim()) if shape[d] == 1 and g.shape[d] != 1]
    return (g.sum(axes) if axes else g).movedim(0, -1).reshape(*w.shape, len(g))


def _compare(J: Tensor, r: Tensor, parameters: Sequence[Tensor]) -> None:
    v = torch.arange(1, len(r) + 1, dtype=r.dtype, device=r.device).cos()  # unequal: rows that share samples differ
    for k in range(r.shape[1]):
        found = torch.autograd.grad(r[:, k] @ v, parameters, retain_graph=True, allow_unused=True)
        whole = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, found)])
        gap = (v @ J[:, k] - whole).abs()
        scale = J[:, k].abs().sum(0).amax() + whole.abs().amax()
        if not bool((gap <= 1e3 * torch.finfo(J.dtype).eps * scale).all()):
            where = _named(int(gap.argmax()), parameters)
            raise Incompatible(
                f"the residual depends on {where} otherwise than through jets, or its rows depend on other samples; "
                "write such a coefficient as tape.spread(parameter, N), or use jacobian_by_vmap."
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
    whole = torch.cat(_batched([flat], [unit], own))
    return whole.mT.reshape(len(r), -1, len(whole))


def _batched(outputs: Sequence[Tensor], cotangents: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of `inputs`, (numel, N), for cotangents (numel, N)."""

    def pull(*rows: Tensor) -> tuple[Tensor, ...]:
        g = [row.reshape(y.shape) for row, y in zip(rows, outputs)]
        found = torch.autograd.grad(outputs, inputs, g, retain_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(p) if x is None else x for p, x in zip(inputs, found))

    return [x.reshape(len(x), -1).mT for x in torch.func.vmap(pull)(*(g.mT.contiguous() for g in cotangents))]
