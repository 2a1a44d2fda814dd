"""A model as a row of maps with the states between them, in double precision where that is possible.

A layer here is one knot interval of a flow (all its steps), or one module of a plain list of layers. Layers
count from 0; layer n maps y_n to y_{n+1}. A multistep method's state is (y_n, memory); only y_n is
differentiated with respect to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible, SolveFailed
from ..fields import Rhs
from ..flow import Chain, Flow
from ..flow.chain import links
from ..flow.march import COEF, Piece
from ..flow.memory import joined, parted
from ..flow.record import Mark, Record
from ..flow.sweep import layers_of

Parts = tuple[Tensor, ...]

# entries of all Jacobians of one report together: 128 MB in double precision
BUDGET = 2**24


@dataclass(frozen=True)
class Interval:
    """What a layer is as part of a flow: knot interval n from t, `steps` steps of at most |h|, its right-hand
    side."""

    flow: Flow
    n: int
    t: float
    width: float
    h: float
    steps: int
    rhs: Rhs
    coef: dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A map from the parts of one state to those of the next; `interval` where it belongs to a flow."""

    run: Callable[[Parts], Parts]
    interval: Interval | None = None


@dataclass(frozen=True)
class Unrolled:
    """A model over samples x; `states[n]` are the parts (first y_n, then memory) before layer n.

    model:  the copy that was unrolled (double precision if it could be, evaluation mode)
    x:      the inputs, (P, ...)
    leave:  what follows the last state: the output is leave(y_N)
    enter:  what comes before the first state: y_0 = enter(x)
    """

    model: Any
    x: Tensor
    layers: tuple[Layer, ...]
    states: tuple[Parts, ...]
    leave: Callable[[Tensor], Tensor]
    enter: Callable[[Tensor], Tensor] = field(default=lambda x: x)

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def finite_until(self) -> int:
        """The first layer whose result is not finite; `depth` if all are."""
        for n, state in enumerate(self.states[1:]):
            if not all(bool(part.isfinite().all()) for part in state):
                return n
        return self.depth


def unroll(model: Any, x: Tensor) -> Unrolled:
    """The layers of a Flow, a Chain with flows, a recurrent net, an nn.Sequential or a list of callables, and its
    states for x (P, ...).

    Raises BadInput for a model that is not a row of layers, or x that is not a batch of floating-point
    numbers.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1 or not len(x):
        given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise BadInput(f"stability is measured on a batch of real floating-point inputs (B, ...), got {given}.")
    twin, x = in_double(model, x)
    with torch.no_grad():
        driven = _along_data(twin, x)
    if driven is not None:
        return driven
    parts = row(twin)
    where = [i for i, part in enumerate(parts) if isinstance(part, Flow)]
    first, end = (where[0], where[-1] + 1) if where else (0, len(parts))
    with torch.no_grad():
        return _assemble(twin, x, parts[:first], parts[first:end], parts[end:])


def row(model: Any) -> list[Any]:
    """The parts of a model in order; Chains and nn.Sequentials inside it are opened too."""
    if isinstance(model, Flow):
        return [model]
    parts = model.parts if isinstance(model, Chain) else layers_of(model)
    return [q for p in parts for q in (row(p) if isinstance(p, Chain | nn.Sequential) else [p])]


def in_double(model: Any, x: Tensor) -> tuple[Any, Tensor]:
    """A copy of the model in evaluation mode and x, both in double precision unless the model's own tensors refuse."""
    twin = in_evaluation(model, torch.float64)
    try:
        with torch.no_grad():
            _forward(twin, x[:1].double())
    except RuntimeError:  # a function that captured tensors of single precision
        return in_evaluation(model), x
    return twin, x.double()


def in_evaluation(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of a module, or of the modules in a list of callables, in evaluation mode (and of another precision).

    Integrators are shared with the original: they are pure, and what is known about them is cached by identity.
    """
    if not isinstance(model, nn.Module):
        return [in_evaluation(m, dtype) if isinstance(m, nn.Module) else m for m in layers_of(model)]
    shared = {id(m.integrator): m.integrator for m in model.modules() if isinstance(m, Flow)}
    return copy.deepcopy(model, dict(shared)).eval().to(dtype)


def _forward(model: Any, x: Tensor) -> Any:
    if isinstance(model, nn.Module):
        return model(x)
    for layer in model:
        x = layer(x)
    return x


def _assemble(
    model: Any, x: Tensor, before: Sequence[Callable], inner: Sequence[Callable], after: Sequence[Callable]
) -> Unrolled:
    layers: list[Layer] = []
    states: list[Parts] = [(_forward(list(before), x),)]
    last: Flow | None = None

    def add(run: Callable[[Parts], Parts], interval: Interval | None = None) -> None:
        layers.append(Layer(run, interval))
        states.append(layers[-1].run(states[-1]))

    linked = links(inner)
    for i, part in enumerate(inner):
        if not isinstance(part, Flow):
            add(_mapped(last, part) if linked[i] else _between(last, part))
            last = None
            continue
        if not layers:
            states[0] = (part.lift(states[0][0]),)
        elif linked[i - 1]:
            add(_entering(part))
        elif last is not None or part.lift(states[-1][0]).shape != states[-1][0].shape:
            add(_between(last, part.lift))
        for run, interval in _intervals(part, states[-1]):
            add(run, interval)
        last = part

    def leave(y: Tensor) -> Tensor:
        return _forward(list(after), last.lower(y) if last is not None else y)

    def enter(x: Tensor) -> Tensor:
        y = _forward(list(before), x)
        return inner[0].lift(y) if inner and isinstance(inner[0], Flow) else y

    return Unrolled(model, x, tuple(layers), tuple(states), leave, enter)


def _between(flow: Flow | None, module: Callable[[Tensor], Tensor]) -> Callable[[Parts], Parts]:
    """A layer outside flows acts on y, and what the flow before it remembered is dropped."""
    if flow is None:
        return lambda parts: (module(parts[0]),)
    return lambda parts: (module(flow.lower(parts[0])),)


def _mapped(flow: Flow | None, transfer: Callable[[Tensor], Tensor]) -> Callable[[Parts], Parts]:
    """A transfer that maps y and, alike, what the flow before it remembered."""
    return lambda parts: tuple(transfer(part) for part in (_parted(flow, parts) if flow is not None else parts))


def _parted(flow: Flow, parts: Parts) -> Parts:
    y, carry = parted(flow, parts[0], tuple(parts[1:]))
    return (y, *carry)


def _entering(flow: Flow) -> Callable[[Parts], Parts]:
    """The state that a flow steps, from y and the memory that it goes on from."""

    def run(parts: Parts) -> Parts:
        y, carry = joined(flow, parts[0], parts[1:])
        return (y, *carry)

    return run


def _along_data(model: Any, x: Tensor) -> Unrolled | None:
    """A recurrent net over the sequences x: its layers are the intervals of time, with the data in them.

    Without intervals of a flow (stacked flows, jumps, split fields, whose stability is not that of the sum) the layers
    are plain maps; None for a model that is no row of maps of one state.
    """
    if not hasattr(model, "unrolled"):
        return None
    found = model.driven(x) if hasattr(model, "driven") else None
    if found is not None and "split" not in found[0].integrator.needs:
        flow, start, controls = found
        layers = [Layer(run, interval) for run, interval in _intervals(flow, (start,), controls)]
    else:
        try:
            start, maps = model.unrolled(x)
        except Incompatible:
            return None
        layers = [Layer(_mapped(None, m)) for m in maps]
    states: list[Parts] = [(start,)]
    for layer in layers:
        states.append(layer.run(states[-1]))
    return Unrolled(model, x, tuple(layers), tuple(states), model.read, lambda x: model.unrolled(x)[0])


def _intervals(
    flow: Flow, start: Parts, controls: Mapping[str, Tensor] | None = None
) -> list[tuple[Callable[[Parts], Parts], Interval]]:
    """The intervals of a flow from a (lifted) state, each replaying the steps that a run over it took."""
    march, theta, record = flow.march, flow.theta(start[0], **(controls or {})), Record()
    march.run(start[0], theta, record=record, carry=start[1:])
    if record.status:
        raise SolveFailed(
            f"{name_of(flow)} stopped at t = {record.t:.6g} with h = {record.h:.3g} ({record.status}), so there are no "
            "states to analyse; use fixed steps (substeps=) or a larger rtol."
        )
    pieces = march.pieces(theta)
    groups = [list(group) for _, group in groupby(record.marks, key=lambda mark: mark.n)]
    return [(_replay(flow, m, pieces[m[0].n]), _interval(flow, m[0].n, m, pieces[m[0].n])) for m in groups]


def _replay(flow: Flow, marks: list[Mark], piece: Piece) -> Callable[[Parts], Parts]:
    def run(parts: Parts) -> Parts:
        memory = () if marks[0].fresh else tuple(parts[1:])  # a method that starts afresh at the knot forgets
        y, carry, _ = flow.march.replay(marks, piece, parts[0], memory)
        return (y, *carry) if flow.integrator.history else (y,)

    return run


def _interval(flow: Flow, n: int, marks: list[Mark], piece: Piece) -> Interval:
    a, b = flow.knots[n], flow.knots[n + 1]
    coef = {k[len(COEF) :]: v[0].detach().cpu().double() for k, v in piece.items() if k.startswith(COEF)}
    h = max((mark.h for mark in marks), key=abs)
    return Interval(flow, n, a, b - a, h, len(marks), flow.march.rhs(n, piece), coef)


def name_of(flow: Flow) -> str:
    """The integrator's name, or its class where it was given as coefficients."""
    return flow.integrator.name or type(flow.integrator).__name__


def affordable(model: Any, x: Tensor, points: int, budget: int = BUDGET, one: Unrolled | None = None) -> int:
    """How many of `points` samples keep all Jacobians together within `budget` entries; at least 1.

    one: x[:1] unrolled, where it is at hand. Raises BadInput where a single sample takes more than 8 BUDGET (1 GB).
    """
    one = unroll(model, x[:1]) if one is None else one
    sizes = [sum(part[0].numel() for part in state) for state in one.states]
    entries = sum(a * b for a, b in pairwise(sizes))
    if entries > 8 * BUDGET:
        raise BadInput(
            f"the Jacobians of {one.depth} layers with states of {max(sizes)} entries take {entries:,} numbers for one "
            "sample, which is too many to form; analyse a narrower or shallower net."
        )
    return max(1, min(points, len(x), budget // max(entries, 1)))


def jacobian(run: Callable[[Parts], Parts], parts: Parts, rows: int) -> Tensor:
    """d out/d in of a map that treats samples independently: (P, rows, columns), all parts side by side.

    One backward pass over `rows` copies of the batch: copy m is asked for the gradient of its entry m.
    """
    size = len(parts[0])
    copies = tuple(
        p.detach().unsqueeze(0).expand(rows, *p.shape).reshape(rows * size, *p.shape[1:]).requires_grad_()
        for p in parts
    )
    with torch.enable_grad():
        out = flat(run(copies)).reshape(rows, size, rows)
        asked = out.diagonal(dim1=0, dim2=2).sum()
        if not asked.requires_grad:
            return torch.zeros(size, rows, flat(parts).shape[1], dtype=parts[0].dtype, device=parts[0].device)
        found = torch.autograd.grad(asked, copies, allow_unused=True)
    columns = [torch.zeros_like(c) if g is None else g for g, c in zip(found, copies)]
    return flat(tuple(columns)).reshape(rows, size, -1).transpose(0, 1)


def flat(parts: Parts) -> Tensor:
    """(P, entries): the parts of a state side by side."""
    return torch.cat([p.flatten(1) if p.dim() > 1 else p.unsqueeze(1) for p in parts], dim=1)
