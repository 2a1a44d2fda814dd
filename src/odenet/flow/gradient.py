"""How the derivative of a march is computed: kept by autograd, recomputed from checkpoints, or run backwards.

All three give the derivative of what was computed, step by step. Whatever gets a gradient is in y0 or theta.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from ..errors import BadInput, Incompatible
from ..types import Carry, Params, State
from .march import March, Mark, Piece, Record


class Gradient(ABC):
    """Runs a march so that its result can be differentiated; returns the states at the knots (or the last one)."""

    name: str

    def check(self, march: March) -> None:
        """Raise Incompatible if this march cannot be differentiated this way."""
        return None

    @abstractmethod
    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        """The last state, or with `save` all states at the knots stacked on a new first axis."""


class Autograd(Gradient):
    """Every operation is kept: fastest, memory proportional to depth. The default of `Flow`."""

    name = "autograd"

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        states, _, _ = march.run(y0, theta, record=record, watch=watch)
        return torch.stack(states) if save else states[-1]


class Checkpoint(Gradient):
    """Only states are kept, at every knot or at every accepted step, and each piece is recomputed when its gradient is
    needed: memory O(steps * state) instead of O(graph). Choose it when the graph does not fit.

    Name "checkpoint": every knot; "discrete": every accepted step (the default of `solve`).
    """

    def __init__(self, every: str) -> None:
        self.every = every
        self.name = "checkpoint" if every == "knot" else "discrete"

    def check(self, march: March) -> None:
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled() or _leaves_elsewhere(march, y0, theta, self.name):
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        record.keep = self.every
        return _Replay.apply(march, save, record, watch, tuple(theta), y0, *theta.values())[0]


class Reversible(Gradient):
    """Nothing but the last state is kept; earlier ones are recomputed by the inverse of the step: memory flat in depth.

    Exact up to rounding, which the inverse of a dissipative method amplifies. Choose it for deep nets under verlet,
    symplectic_euler, leapfrog or two_step_midpoint. Raises Incompatible for an integrator without an inverse.
    """

    name = "reversible"

    def check(self, march: March) -> None:
        if not march.integrator.reversible:
            raise Incompatible(
                f"gradient 'reversible' needs an integrator with an inverse; {march.integrator.name!r} has none. "
                'Use integrator="verlet" (separable fields), "leapfrog" (second order) or "two_step_midpoint", '
                'or gradient="checkpoint".'
            )
        if march.tolerance is not None or (march.restart and march.integrator.history):
            raise Incompatible(
                "gradient 'reversible' runs the steps backwards, so they are fixed and a two-step method is not "
                'restarted at the knots: use one step per knot interval, or gradient="checkpoint".'
            )
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled():
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        if _leaves_elsewhere(march, y0, theta, self.name):
            raise Incompatible(
                "gradient 'reversible' sees only the state and the flow's weights, but the field uses other tensors "
                'that require a gradient; give them as weights of the field or use gradient="autograd".'
            )
        return _Backwards.apply(march, save, record, tuple(theta), y0, *theta.values())[0]


def _refuse_stateful(name: str, march: March) -> None:
    why = getattr(march.field, "stateful", lambda: None)()
    if why:
        raise Incompatible(
            f"gradient {name!r} evaluates the field twice, but {why}, so the second evaluation would differ; "
            'use gradient="autograd", or a layer field with norm="batch" or dropout=.'
        )


def _leaves_elsewhere(march: March, y0: State, theta: Params, name: str) -> bool:
    """Whether the field depends on tensors that require a gradient beside y0 and theta.

    Found by one evaluation, in every call: what requires a gradient may change between two of them.
    """
    first = {k: tuple(c.detach() for c in v) for k, v in march.pieces(theta)[0].items()}
    found = march.rhs(0, first)(march.knots[0], y0.detach()).requires_grad
    if found and name != "reversible":
        warnings.warn(
            f"gradient {name!r} sees only the state and the flow's weights, but the field uses other tensors that "
            "require a gradient; 'autograd' is used instead. Give them as weights of the field to avoid this.",
            stacklevel=4,
        )
    return found


GRADIENTS: dict[str, Gradient] = {g.name: g for g in (Autograd(), Checkpoint("knot"), Checkpoint("step"), Reversible())}


def resolve(gradient: str | Gradient) -> Gradient:
    """A gradient method from itself or its name."""
    if isinstance(gradient, Gradient):
        return gradient
    if gradient not in GRADIENTS:
        raise BadInput(f"gradient {gradient!r} is not known; write one of {', '.join(sorted(GRADIENTS))}.")
    return GRADIENTS[gradient]


# ---- the two Functions -----------------------------------------------------------------------------------------------


def _vjp(
    march: March, marks: Sequence[Mark], piece: Piece, y: State, carry: Carry, gy: State, gcarry: Carry
) -> tuple[State, Carry, Piece]:
    """Gradient of a stretch of steps inside one interval with respect to (state, memory, piece)."""
    (_, after), pull = torch.func.vjp(  # type: ignore[misc]
        lambda *a: march.replay(marks, a[2], a[0], a[1]), y, carry, piece
    )
    if len(gcarry) != len(after):  # a memory that nothing after this stretch has used
        gcarry = tuple(torch.zeros_like(c) for c in after)
    return pull((gy, gcarry))


def _add(total: Piece | None, new: Piece) -> Piece:
    if total is None:
        return new
    return {k: tuple(a + b for a, b in zip(total[k], new[k])) for k in total}


class _Replay(torch.autograd.Function):
    """Forward: run and keep the states before every segment. Backward: segment by segment from its state."""

    generate_vmap_rule = True

    @staticmethod
    def forward(march, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        states, _, _ = march.run(y0, dict(zip(names, values)), record=record, watch=watch)
        kept = [tensor for y, carry in record.kept for tensor in (y, *carry)]
        record.kept = [(1 + len(carry),) for _, carry in record.kept]  # how many tensors belong to each
        return (torch.stack(states) if save else states[-1].clone(), *(k.clone() for k in kept))

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.march, ctx.save, ctx.record, _, ctx.names, _, *values = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *values)

    @staticmethod
    def backward(ctx, g, *_):  # type: ignore[no-untyped-def, override]
        march, record, saved = ctx.march, ctx.record, ctx.saved_tensors
        sizes = [size for (size,) in record.kept]
        theta = dict(zip(ctx.names, saved[sum(sizes) :]))
        pieces = march.pieces(theta)
        marks, by = record.marks, (lambda m: m.n) if record.keep == "knot" else None
        segments = [list(group) for _, group in groupby(marks, key=by)]
        end = sum(sizes)
        gy = g[-1] if ctx.save else g
        gcarry: Carry = ()
        grads: list[Any] = [None] * len(pieces)
        for i in range(len(segments) - 1, -1, -1):
            n, start = segments[i][0].n, saved[end - sizes[i] : end]
            end -= sizes[i]
            gy, gcarry, gpiece = _vjp(march, segments[i], pieces[n], start[0], tuple(start[1:]), gy, gcarry)
            grads[n] = _add(grads[n], gpiece)
            if ctx.save and (i == 0 or segments[i - 1][0].n != n):
                gy = gy + g[n]
        return (None,) * 5 + (gy, *march.gather(grads, theta))


class _Backwards(torch.autograd.Function):
    """Forward: run and keep the last state. Backward: undo each step, then differentiate it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(march, save, record, names, y0, *values):  # type: ignore[no-untyped-def, override]
        states, carry, _ = march.run(y0, dict(zip(names, values)), record=record)
        memory = tuple(c.clone() for c in carry) if march.integrator.history else ()
        return (torch.stack(states) if save else states[-1].clone(), *memory)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.march, ctx.save, ctx.record, ctx.names, _, *values = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.count = len(output)
        ctx.save_for_backward(*output, *values)

    @staticmethod
    def backward(ctx, g, *_):  # type: ignore[no-untyped-def, override]
        march, saved, marks = ctx.march, ctx.saved_tensors, ctx.record.marks
        y, carry = (saved[0][-1] if ctx.save else saved[0]), tuple(saved[1 : ctx.count])
        theta = dict(zip(ctx.names, saved[ctx.count :]))
        pieces = march.pieces(theta)
        gy = g[-1] if ctx.save else g
        gcarry: Carry = ()
        grads: list[Any] = [None] * len(pieces)
        for i in range(len(marks) - 1, -1, -1):
            mark, n = marks[i], marks[i].n
            y, carry = march.invert(mark, pieces[n], y, carry)
            # a one-step method recomputes what it had remembered, so its memory takes no part in the gradient
            one = mark if march.integrator.history else mark._replace(fresh=True)
            gy, gcarry, gpiece = _vjp(march, [one], pieces[n], y, carry, gy, gcarry)
            grads[n] = _add(grads[n], gpiece)
            if not march.integrator.history:
                gcarry = ()
            if ctx.save and (i == 0 or marks[i - 1].n != n):
                gy = gy + g[n]
        return (None,) * 4 + (gy, *march.gather(grads, theta))
