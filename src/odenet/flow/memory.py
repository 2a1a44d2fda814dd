"""What goes into a flow and comes out of it: the state, and what its method remembers of earlier steps.

A memory is a tuple of tensors of the shape of y: the velocity of a second-order field that is stepped as a system, then
what a multistep method carries (earlier states or slopes). () starts afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import BadInput, Incompatible, SolveFailed
from ..fields import Field
from ..integrators import Integrator
from ..types import Carry, Params, State
from .gradient import Gradient
from .march import March
from .pullback import transformed
from .record import Record

if TYPE_CHECKING:
    from .module import Flow

_NAMED = {"name", "facts", "cite", "when"}  # what says nothing about the steps of a method


def admitted(field: Field, y: Any) -> State:
    """y, if it is a state of this field; else BadInput."""
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
        given = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise BadInput(f"a flow takes a tensor of floating-point numbers, got {given}; write y.float().")
    width = getattr(field, "dim", None)
    if width is not None and (y.dim() <= field.axis or y.shape[field.axis] != width):
        raise BadInput(
            f"the field {type(field).__name__} has width {width}, but y has shape {tuple(y.shape)}; its axis "
            f"{field.axis} must have length {width}."
        )
    return y


def refuse_failed(flow: Flow, record: Record) -> None:
    """Raise SolveFailed where a run stopped before its end."""
    if record.status:
        raise SolveFailed(
            f"{flow.integrator.name!r} stopped in a flow of {type(flow.field).__name__} at t = {record.t:.6g} with "
            f"h = {record.h:.3g} ({record.status}); use fixed steps (substeps=), a larger rtol, or smaller weights."
        )


# ---- memory in the shape of y, and as the march carries it ---------------------------------------------------------


def lifted(flow: Flow) -> bool:
    """Whether the state that is stepped is (y, v)."""
    return flow._stepped is not flow.field


def remembers(flow: Flow) -> bool:
    """Whether what comes after y(t_N) depends on more than y(t_N)."""
    return lifted(flow) or _past(flow)


def _past(flow: Flow) -> bool:
    return flow.integrator.history > 0 and not flow.adaptive and not flow.march.restart


def goes_on(first: Flow, then: Flow) -> bool:
    """Whether the second flow can go on from the memory of the first. Raises Incompatible where both remember, but
    different things: other methods, other step sizes, a velocity or none."""
    if not (remembers(first) and remembers(then)):
        return False
    if lifted(first) != lifted(then) or _past(first) != _past(then):
        what = "one remembers a velocity or a past that the other has not"
    elif _past(first) and not _same(first.integrator, then.integrator):
        what = f"their methods are {first.integrator.name!r} and {then.integrator.name!r}"
    elif _past(first) and abs(first.h - then.h) > 1e-9 * abs(first.h):
        what = f"their steps are {first.h:g} and {then.h:g}"
    else:
        return True
    raise Incompatible(
        f"a transfer with history='map' hands the memory of one flow to the next, but {what}; give both flows the same "
        "integrator and step size, or the transfer history='reset'."
    )


def _same(a: Integrator, b: Integrator) -> bool:
    data = [{k: v for k, v in vars(i).items() if k not in _NAMED} for i in (a, b)]
    return a is b or (type(a) is type(b) and data[0] == data[1])


def joined(flow: Flow, y: Any, memory: Sequence[Any]) -> tuple[Any, Carry]:
    """State and carry of the march, from y and a memory."""
    if not lifted(flow):
        return y, tuple(memory)
    if not memory:
        return flow.lift(y), ()
    join, rest = flow._stepped.join, memory[1:]
    return join(y, memory[0]), tuple(join(q, v) for q, v in zip(rest[::2], rest[1::2]))


def parted(flow: Flow, state: State, carry: Carry) -> tuple[State, Carry]:
    """y and memory, from the state and carry of the march; what a one-step method carries can be computed again."""
    carry = carry if _past(flow) else ()
    if not lifted(flow):
        return state, carry
    y, *memory = (half for part in (state, *carry) for half in flow._stepped.split(part))
    return y, tuple(memory)


# ---- running -------------------------------------------------------------------------------------------------------


def resume(
    flow: Flow, y: State, memory: Sequence[State] = (), record: Record | None = None, save: bool = False
) -> tuple[State, Carry]:
    """y(t_N) and the memory after it, from y(t_0) and the memory before; with `save` y at all knots, (N + 1, ...)."""
    state, carry = joined(flow, admitted(flow.field, y), memory)
    record = Record() if record is None else record
    states, carry = run(flow.gradient, flow._seeded(state, None), state, carry, flow.theta(state), record)
    refuse_failed(flow, record)
    y, memory = parted(flow, states[-1], carry)
    return (flow.lower(torch.stack(states), stacked=1) if save else y), memory


def run(
    gradient: Gradient, march: March, y: State, carry: Carry, theta: Params, record: Record
) -> tuple[list[State], Carry]:
    """States at the knots (at least the last) and the memory, both differentiable."""
    if gradient.name in ("checkpoint", "discrete") and torch.is_grad_enabled() and not transformed():
        return _recomputed(march, y, carry, theta, record)
    return march.run(y, theta, record=record, carry=carry)[:2]


def _recomputed(march: March, y: State, carry: Carry, theta: Params, record: Record) -> tuple[list[State], Carry]:
    """As `march.run`; states and memories at the knots are kept, what is between is computed again."""
    states = [y]
    for n, piece in enumerate(march.pieces(theta)):
        if not record.status:
            y, carry = checkpoint(
                march.over, n, piece, y, carry, record, use_reentrant=False, preserve_rng_state=False
            )  # fmt: skip
            states.append(y)
    return states, carry


HANDS_ON = ("autograd", "checkpoint", "discrete", "reversible")


def check_hands_on(flow: Flow) -> None:
    """Raise Incompatible if the gradient method of this flow cannot pass through a memory."""
    if flow.gradient.name not in HANDS_ON:
        raise Incompatible(
            f"gradient {flow.gradient.name!r} differentiates a flow from its start, so it hands no memory on; use "
            f"one of {', '.join(map(repr, HANDS_ON))}, or the transfer history='reset'."
        )
