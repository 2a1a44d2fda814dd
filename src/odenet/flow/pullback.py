"""The two Functions behind recomputing gradients: replay from checkpoints, and running backwards.

Outside torch.func a segment is differentiated by the autograd engine; inside (seeds as a batch axis) by torch.func.vjp,
since functorch refuses requires_grad_ in a backward pass. Neither is differentiable again: that is said in a sentence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible
from ..integrators.jacobian import leaves
from ..types import Carry, State
from .march import March, Piece
from .record import Mark


def transformed() -> bool:
    """Whether a torch.func transform is running."""
    return torch._C._are_functorch_transforms_active()


def reaches(march: March, out: Tensor) -> bool:
    """Whether the graph of `out` leads to a leaf that the field's module does not own."""
    own = {id(w) for w in march.own}
    return any(id(leaf) not in own for leaf in leaves(out))


class Guard(torch.autograd.Function):
    """The identity on a gradient; differentiating it once more is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name, g, *inputs):  # type: ignore[no-untyped-def, override]
        return g.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx, *_):  # type: ignore[no-untyped-def, override]
        raise Incompatible(
            f'gradient {ctx.name!r} has a first derivative only; use gradient="autograd" where a gradient is '
            "differentiated again."
        )


def guarded(name: str, grads: Sequence[Any], inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    """The gradients, tied to what they depend on by a Guard where somebody may differentiate them."""
    if not torch.is_grad_enabled():
        return tuple(grads)
    return tuple(None if g is None else Guard.apply(name, g, *inputs) for g in grads)


def pull(
    march: March,
    marks: Sequence[Mark],
    piece: Piece,
    own: Sequence[Tensor],
    start: tuple[State, Carry],
    g: tuple[Any, Any, Sequence[Any]],
    tape: Any = None,
) -> tuple[State, Carry, Piece, list[Any]]:
    """Gradients of a stretch of steps in one interval with respect to (state, memory, piece, own weights).

    g: those of (state, memory, outputs) after it; tape: solutions of implicit stages that are known
    """
    (y, carry), (gy, gcarry, gouts) = start, g
    if transformed():
        return _pull_transformed(march, marks, piece, own, y, carry, gy, gcarry, gouts)
    with torch.enable_grad():
        direct = all(a is b for a, b in zip(march.own, own))
        mine = [w if direct and w.requires_grad else w.detach().requires_grad_() for w in own]
        y = y.detach().requires_grad_()
        carry = tuple(c.detach().requires_grad_(c.is_floating_point() or c.is_complex()) for c in carry)
        piece = {k: tuple(v.detach().requires_grad_(v.is_floating_point()) for v in vs) for k, vs in piece.items()}
        seen = piece if direct else {**piece, **march.borrowed(mine)}
        after, memory, outs = march.replay(marks, seen, y, carry, tape)
        gcarry = gcarry if len(gcarry) == len(memory) else (None,) * len(memory)  # a memory that nothing has used
        pairs = [
            (value, cotangent)
            for value, cotangent in zip((after, *memory, *outs), (gy, *gcarry, *gouts))
            if cotangent is not None and value.requires_grad
        ]
        leaves = [y, *carry, *(v for vs in piece.values() for v in vs), *mine]
        wanted = [x for x in leaves if x.requires_grad]
        found = torch.autograd.grad([v for v, _ in pairs], wanted, [c for _, c in pairs], allow_unused=True)
    grads = iter(found)
    flat = [next(grads) if x.requires_grad else None for x in leaves]
    k = 1 + len(carry)
    gy = torch.zeros_like(y) if flat[0] is None else flat[0]
    gmemory: Any = tuple(flat[1 : 1 + len(carry)])
    gpiece: dict[str, tuple[Any, ...]] = {}
    for name, vs in piece.items():
        gpiece[name] = tuple(flat[k : k + len(vs)])
        k += len(vs)
    return gy, gmemory, gpiece, flat[k:]


def _pull_transformed(  # type: ignore[no-untyped-def]
    march: March, marks: Sequence[Mark], piece: Piece, own: Sequence[Tensor], y, carry, gy, gcarry, gouts
):
    def replay(y: State, carry: Carry, piece: Piece, own: tuple[Tensor, ...]) -> Any:
        return march.replay(marks, {**piece, **march.borrowed(own)}, y, carry)

    after, back = torch.func.vjp(replay, y, carry, piece, tuple(own))  # type: ignore[misc]
    _, memory, outs = after
    gcarry = gcarry if len(gcarry) == len(memory) else (None,) * len(memory)
    gcarry = tuple(torch.zeros_like(c) if g is None else g for g, c in zip(gcarry, memory))
    gouts = [torch.zeros_like(o) if g is None else g for g, o in zip(gouts, outs)]
    gy = torch.zeros_like(y) if gy is None else gy
    gy, gcarry, gpiece, gown = back((gy, gcarry, gouts))
    return gy, gcarry, gpiece, list(gown)


def plus(a: Any, b: Any) -> Any:
    """a + b, where None is zero."""
    return b if a is None else a if b is None else a + b


class Tape:
    """Solutions of implicit stages in the order of the solves, step by step: noted by a run, read by its replay.

    Newton's iteration ends near the solution, and where depends on the Jacobian that it had at hand; a replay that
    iterated anew would differentiate other values than those that were computed.
    """

    def __init__(self) -> None:
        self._steps: dict[Any, list[Tensor]] = {}
        self._now: list[Tensor] = []
        self._next: int | None = None  # None while noting

    def begin(self, mark: Mark) -> None:
        """What follows belongs to this step."""
        if self._next is None:
            self._now = self._steps[_key(mark)] = []
        else:
            self._now, self._next = self._steps.get(_key(mark), []), 0

    def note(self, k: Tensor) -> None:
        """A solution, kept unless the tape is being read."""
        if self._next is None:
            self._now.append(k)

    def read(self) -> Tensor | None:
        """The next solution of this step; None where there is none."""
        if self._next is None or self._next >= len(self._now):
            return None
        self._next += 1
        return self._now[self._next - 1]

    def close(self, marks: Sequence[Mark]) -> None:
        """The run is over: keep what belongs to its steps and to those that ended at an event; from now on, read."""
        ends = [mark._replace(h=theta * mark.h) for mark in marks for theta in mark.crossings]
        wanted = {_key(mark) for mark in (*marks, *ends)}
        self._steps, self._next = {key: k for key, k in self._steps.items() if key in wanted}, 0


def _key(mark: Mark) -> Any:
    t, h = (tuple(x.flatten().tolist()) if isinstance(x, Tensor) else x for x in (mark.t, mark.h))
    return mark.n, t, h


class Sum:
    """Gradients of theta and of the module's own weights, summed over the steps: one number for each of theirs, however
    many intervals share it."""

    def __init__(self, march: March, theta: dict[str, Tensor], own: Sequence[Tensor]) -> None:
        self.march, self.theta, self.intervals = march, theta, len(march.knots) - 1
        self.rows: dict[str, list[Any]] = {name: [None] * len(c) for name, c in theta.items()}
        self.own: list[Any] = [None] * len(own)

    def add(self, n: int, piece: Piece, own: list[Any]) -> None:
        for name, rows in self.rows.items():
            for j, g in zip(self.march.depths[name].support(n, self.intervals), piece[name]):
                rows[j] = plus(rows[j], g)
        self.own = [plus(a, b) for a, b in zip(self.own, own)]

    def result(self) -> list[Any]:
        found = []
        for name, c in self.theta.items():
            zero = torch.zeros_like(c[0])
            found.append(torch.stack([zero if g is None else g for g in self.rows[name]]))
        return [*found, *self.own]


def split(g: Tensor, save: bool, marks: Sequence[Mark]) -> tuple[list[list[Any]], Any]:
    """The cotangents of every mark's outputs, and that of the last state where only it is returned."""
    if not save:
        return [[None] * (len(m.stops) + len(m.crossings)) for m in marks], g
    k = 1
    slices: list[list[Any]] = []
    for mark in marks:
        size = len(mark.stops) + len(mark.crossings)
        slices.append(list(g[k : k + size].unbind(0)))
        k += size
    return slices, None


def fresh(tensors: Sequence[Tensor], y0: Tensor) -> list[Tensor]:
    """Tensors that a Function may return: no input and none twice."""
    seen = {id(y0)}
    out = []
    for x in tensors:
        out.append(x.clone() if id(x) in seen or x._base is not None else x)
        seen.add(id(x))
    return out


class Replay(torch.autograd.Function):
    """Forward: run and keep the states before every segment. Backward: segment by segment from its state."""

    generate_vmap_rule = True

    @staticmethod
    def forward(march, name, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        states, _, _ = march.run(y0, dict(zip(names, values)), record=record, watch=watch)
        if record.tape is not None:
            record.tape.close(record.marks)
        kept = [tensor for _, y, carry in record.kept for tensor in (y, *carry)]
        record.kept = [(done, 1 + len(carry)) for done, _, carry in record.kept]  # tensors that belong to each
        return (torch.stack(states) if save else states[-1].clone(), *fresh(kept, y0))

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.march, ctx.name, ctx.save, ctx.record, _, ctx.names, *inner = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.kept = len(output) - 1
        ctx.save_for_backward(*output[1:], *inner)

    @staticmethod
    def backward(ctx, g, *_):  # type: ignore[no-untyped-def, override]
        march, record, saved = ctx.march, ctx.record, ctx.saved_tensors
        if g is None:  # the states were not used
            return (None,) * (6 + len(saved) - ctx.kept)
        kept, (y0, *values) = saved[: ctx.kept], saved[ctx.kept :]
        theta, own = dict(zip(ctx.names, values)), values[len(ctx.names) :]
        with torch.set_grad_enabled(transformed()):
            pieces = march.pieces(theta)
            outs, gy = split(g, ctx.save, record.marks)
            total, end, used = Sum(march, theta, own), len(record.marks), ctx.kept
            gcarry: Carry = ()
            for done, size in reversed(record.kept):
                marks = record.marks[done:end]
                y, *carry = kept[used - size : used]
                gouts = [x for k in range(done, end) for x in outs[k]]
                n, end, used = marks[0].n, done, used - size
                gy, gcarry, gpiece, gown = pull(
                    march, marks, pieces[n], own, (y, tuple(carry)), (gy, gcarry, gouts), record.tape
                )
                total.add(n, gpiece, gown)
            gy = torch.zeros_like(y0) if gy is None else gy
            grads = (gy + g[0] if ctx.save else gy, *total.result())
        return (None,) * 6 + guarded(ctx.name, grads, (g, y0, *values))


def undo(
    march: March,
    marks: Sequence[Mark],
    outs: Sequence[Sequence[Any]],
    pieces: Sequence[Piece],
    own: Sequence[Tensor],
    after: tuple[State, Carry],
    g: tuple[Any, Any],
    total: Sum,
) -> tuple[tuple[State, Carry], tuple[Any, Any]]:
    """(state, memory) before the steps `marks` and their gradients, from those after; each step is undone, then
    differentiated.

    outs: gradients of every step's outputs; total: where the gradients of the weights are added
    """
    (y, carry), (gy, gcarry) = after, g
    for mark, gouts in zip(reversed(marks), reversed(outs)):
        piece = pieces[mark.n]
        y, carry = march.invert(mark, {**piece, **lent(march, own)}, y, carry)
        # a one-step method recomputes what it had remembered, so its memory takes no part in the gradient
        one = mark if march.integrator.history else mark._replace(fresh=True)
        gy, gcarry, gpiece, gown = pull(march, [one], piece, own, (y, carry), (gy, gcarry, gouts))
        total.add(mark.n, gpiece, gown)
        gcarry = gcarry if march.integrator.history else ()
    return (y, carry), (gy, gcarry)


class Backwards(torch.autograd.Function):
    """Forward: run and keep the last state. Backward: undo each step, then differentiate it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(march, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        states, carry, _ = march.run(y0, dict(zip(names, values)), record=record, watch=watch, keep=save)
        memory = tuple(c.clone() for c in carry) if march.integrator.history else ()
        return (torch.stack(states) if save else states[-1].clone(), *memory)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.march, ctx.save, ctx.record, _, ctx.names, *inner = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.count = len(output)
        ctx.save_for_backward(*output, *inner)

    @staticmethod
    def backward(ctx, g, *_):  # type: ignore[no-untyped-def, override]
        march, saved, marks = ctx.march, ctx.saved_tensors, ctx.record.marks
        y, carry = (saved[0][-1] if ctx.save else saved[0]), tuple(saved[1 : ctx.count])
        y0, *values = saved[ctx.count :]
        theta, own = dict(zip(ctx.names, values)), values[len(ctx.names) :]
        with torch.set_grad_enabled(transformed()):
            pieces, total = march.pieces(theta), Sum(march, theta, own)
            outs, gy = split(g, ctx.save, marks)
            end = y
            (y, _), (gy, _) = undo(march, marks, outs, pieces, own, (y, carry), (gy, ()), total)
            gy = torch.zeros_like(y0) if gy is None else gy
            grads = (gy + g[0] if ctx.save else gy, *total.result())
            if not transformed():
                compare(y0, y, end)
        return (None,) * 5 + guarded("reversible", grads, (g, y0, *values))


def lent(march: March, own: Sequence[Tensor]) -> Piece:
    """The weights of the forward pass, where the module holds others by now."""
    return {} if all(a is b for a, b in zip(march.own, own)) else march.borrowed(own)


def compare(y0: State, back: State, end: State | None = None) -> None:
    """Warn or raise where running backwards from `end` did not lead to the start, in units of the start or, where that
    is zero, of the end."""
    size = float(torch.linalg.vector_norm(y0)) or (0.0 if end is None else float(torch.linalg.vector_norm(end)))
    lost = float(torch.linalg.vector_norm(back - y0)) / max(size, 1e-30)
    if lost < 1e3 * torch.finfo(y0.dtype).eps ** 0.75:
        return
    sentence = (
        f"gradient 'reversible' ran the steps backwards and missed the start by {lost:.1e} of its size: the inverse of "
        'a dissipative system amplifies rounding; use gradient="discrete".'
    )
    if not lost < 1e-3:
        raise Incompatible(sentence)
    warnings.warn(sentence, stacklevel=2)
