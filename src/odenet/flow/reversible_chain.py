"""One reversible gradient over flows and transfers in a row: only the state after the last one is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Incompatible
from ..types import Carry, Params, State
from . import gradient as gradients
from . import memory
from .module import Flow
from .pullback import Sum, compare, guarded, split, transformed, undo
from .record import Record

REVERSIBLE = gradients.GRADIENTS["reversible"]
Pair = tuple[Any, Any]  # a state and a memory, or their gradients


def why_not(flow: Flow) -> str:
    """Why the steps of this flow cannot be undone; "" if they can."""
    try:
        REVERSIBLE.check(flow.march)
    except Incompatible as problem:
        return str(problem)
    return ""


@dataclass
class Stretch:
    """One part of a run and what backward needs of it: its weights by name, what was done, the memory before."""

    part: Any
    names: tuple[str, ...] = ()
    own: int = 0
    record: Record | None = None
    before: int = 0

    def ahead(self, y: State, carry: Carry, values: Sequence[Tensor]) -> Pair:
        """(y, memory) after the part, without a graph."""
        self.before = len(carry)
        if not isinstance(self.part, Flow):
            return self.part.across(y, carry)
        self.record = Record()
        state, carry = memory.joined(self.part, y, carry)
        theta = dict(zip(self.names, values))
        states, carry, _ = self.part.march.run(state, theta, record=self.record, carry=carry, keep=False)
        return memory.parted(self.part, states[-1], carry)

    def back(self, after: Pair, g: Pair, values: Sequence[Tensor]) -> tuple[Pair, Pair, list[Any]]:
        """(y, memory) before the part, its gradient, and the gradients of the part's weights."""
        if isinstance(self.part, Flow):
            return self._undone(after, g, values)
        before = self.part.back(*after)
        gbefore, gown = _pulled(self.part, before, g, values)
        return before, gbefore, gown

    def _undone(self, after: Pair, g: Pair, values: Sequence[Tensor]) -> tuple[Pair, Pair, list[Any]]:
        flow, record = self.part, self.record
        assert record is not None
        theta, own = dict(zip(self.names, values)), values[len(self.names) :]
        pieces, total = flow.march.pieces(theta), Sum(flow.march, theta, own)
        outs, _ = split(after[0], False, record.marks)  # nothing is output on the way
        start, found = undo(
            flow.march, record.marks, outs, pieces, own, memory.joined(flow, *after), memory.joined(flow, *g), total
        )
        (y, past), (gy, gpast) = memory.parted(flow, *start), memory.parted(flow, *found)
        return (y, past[: self.before]), (gy, gpast[: self.before]), total.result()


def _pulled(transfer: Any, before: Pair, g: Pair, own: Sequence[Tensor]) -> tuple[Pair, list[Any]]:
    """Gradients of a transfer with respect to (y, memory) and its weights."""
    y, past = before

    def again(y: State, *past: State) -> tuple[State, ...]:
        y, past = transfer.across(y, past)
        return (y, *past)

    if transformed():
        return _pulled_transformed(transfer, again, (y, *past), (g[0], *g[1]), own)
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (y, *past)]
        wanted = [*inputs, *(w for w in transfer.parameters() if w.requires_grad)]
        pairs = [(o, c) for o, c in zip(again(*inputs), (g[0], *g[1])) if o.requires_grad]
        found = torch.autograd.grad([o for o, _ in pairs], wanted, [c for _, c in pairs], allow_unused=True)
    gy, *gpast = (torch.zeros_like(x) if f is None else f for f, x in zip(found, inputs))
    weights = iter(found[len(inputs) :])
    return (gy, tuple(gpast)), [next(weights) if w.requires_grad else None for w in transfer.parameters()]


def _pulled_transformed(
    transfer: nn.Module, again: Callable[..., Any], inputs: Sequence[Tensor], g: Sequence[Tensor], own: Sequence[Tensor]
) -> tuple[Pair, list[Any]]:
    if own:
        raise Incompatible(
            f"{type(transfer).__name__} has weights, and a reversible chain inside torch.func takes transfers without; "
            "leave gradient='reversible' out."
        )
    _, back = torch.func.vjp(again, *inputs)  # type: ignore[misc]
    gy, *gpast = back(tuple(g))
    return (gy, tuple(gpast)), []


class Segment(torch.autograd.Function):
    """Forward: run part by part, keep the last state and memory. Backward: undo, then differentiate, from the end."""

    generate_vmap_rule = True

    @staticmethod
    def forward(stretches, count, y0, *tensors):  # type: ignore[no-untyped-def, override]
        y, past, values = y0, tuple(tensors[:count]), tensors[count:]
        for stretch, mine in zip(stretches, _shared(stretches, values)):
            y, past = stretch.ahead(y, past, mine)
            if stretch.record is not None:
                memory.refuse_failed(stretch.part, stretch.record)
        return tuple(x.clone() if x._base is not None else x for x in (y, *past))

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def, override]
        ctx.stretches, ctx.count, *inner = inputs
        ctx.ends = len(output)
        ctx.save_for_backward(*output, *inner)

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def, override]
        saved, count = ctx.saved_tensors, ctx.count
        y, *past = saved[: ctx.ends]
        y0, *tensors = saved[ctx.ends :]
        here: Pair = (y, tuple(past))
        g: Pair = (grads[0], tuple(grads[1:]))
        weights: list[Any] = []
        with torch.set_grad_enabled(transformed()):
            parts = list(zip(ctx.stretches, _shared(ctx.stretches, tensors[count:])))
            for stretch, mine in reversed(parts):
                here, g, found = stretch.back(here, g, mine)
                weights = [*found, *weights]
            if not transformed():
                compare(y0, here[0])
        return None, None, *guarded("reversible", (g[0], *g[1], *weights), (*grads, y0, *tensors))


def _shared(stretches: Sequence[Stretch], values: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The weights of every part, from all in a row."""
    out, at = [], 0
    for s in stretches:
        size = len(s.names) + s.own
        out.append(values[at : at + size])
        at += size
    return out


def through(parts: Sequence[Any], y: State, past: Carry) -> tuple[State, Carry]:
    """(y, memory) after reversible parts, kept nowhere between them."""
    stretches, values, probe = [], [], y.detach()
    for part in parts:
        theta: Params = {}
        if isinstance(part, Flow):
            state = part.lift(memory.admitted(part.field, probe))
            theta = part.theta(state)
            gradients.refuse_elsewhere(part.march, state, theta, "reversible")
            own = list(part.march.own)
        else:
            own = list(part.parameters())
            with torch.no_grad():
                probe = part(probe)
        stretches.append(Stretch(part, tuple(theta), len(own)))
        values += [*theta.values(), *own]
    y, *after = Segment.apply(stretches, len(past), y, *past, *values)
    return y, tuple(after)
