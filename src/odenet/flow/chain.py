"""Flows and transfers in a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible
from ..fields import jets
from ..types import Carry, State
from . import memory
from .module import Flow
from .record import Record
from .reversible_chain import through, why_not


class Transfer(nn.Module, ABC):
    """A map between blocks, y -> y of another width or resolution: padding, pooling, 1x1 maps, wavelets.

    history: "reset" (default): the next flow starts afresh, as LM-ResNet does. "map": what the flow before remembers
             (y_{n-1} of a two-step method, earlier slopes, a velocity) is mapped like y, and the next flow, of the
             same method and step size, goes on from there; to be chosen for linear maps, which map slopes as states
    """

    history: str = "reset"

    @abstractmethod
    def forward(self, y: State) -> State: ...

    def across(self, y: State, carry: Carry) -> tuple[State, Carry]:
        """y and memory behind the transfer."""
        return self(y), tuple(self(part) for part in carry) if self.history == "map" else ()


class Invertible(Transfer, ABC):
    """A transfer that loses nothing: inverse(forward(y)) = y, so a reversible chain stores nothing in front of it."""

    @abstractmethod
    def inverse(self, y: State) -> State:
        """The y in front of the transfer."""

    def back(self, y: State, carry: Carry) -> tuple[State, Carry]:
        """y and memory in front of the transfer."""
        return self.inverse(y), tuple(self.inverse(part) for part in carry)


class Chain(nn.Module):
    """Modules in a row, at least one of them a Flow: y -> part_k(... part_1(y)).

    gradient:  "flows" (default): every flow by its own method. "reversible": neighbours that can be undone, flows
               under reversible methods and invertible transfers, form one segment of which only the last state is
               kept, so memory does not grow with the depth of the flows or their number; what cannot be undone
               (opening, pooling, head) is plain autograd

    A flow starts afresh unless transfers with history="map" lead to it from the one before. `with_integrator` maps
    over its flows; `layers` lists one callable per part, a flow giving one per knot interval. Raises Incompatible for a
    memory that the next flow cannot use, or a reversible gradient where nothing can be undone.
    """

    def __init__(self, *parts: nn.Module, gradient: str = "flows") -> None:
        super().__init__()
        if not parts or not all(isinstance(part, nn.Module) for part in parts):
            raise BadInput("Chain takes modules in a row, such as Chain(opening, flow, head).")
        if gradient not in ("flows", "reversible"):
            raise BadInput(
                f"the gradient of a chain is 'flows' (every flow by its own method) or 'reversible', got {gradient!r}."
            )
        self.parts = nn.ModuleList(parts)
        self.gradient = gradient
        self.links = links(parts)
        self._runs = _runs(parts, self.links) if gradient == "reversible" else []
        if gradient == "reversible" and not self._runs:
            raise Incompatible(_nothing_reversible(parts))

    def forward(self, y: State) -> State:
        undone = dict(self._runs) if torch.is_grad_enabled() and not isinstance(y, jets.Jet) else {}
        carry: Carry = ()
        i = 0
        while i < len(self.parts):
            end = undone.get(i, i + 1)
            if i in undone:
                y, carry = through(list(self.parts)[i:end], y, carry)
            else:
                y, carry = self._advance(i, y, carry)
            carry = carry if self.links[end - 1] else ()
            i = end
        return y

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        """Derivatives of the chain in its inputs x (N, d), rows in the order of `channels`; see `fields.jets`."""
        return jets.through(self, x, channels)

    def _advance(self, i: int, y: State, carry: Carry, record: Record | None = None) -> tuple[State, Carry]:
        """y and memory behind part i."""
        part = self.parts[i]
        if isinstance(part, Flow) and (record is not None or self.links[i] or self.links[i - 1]):
            return memory.resume(part, y, carry, record)
        if isinstance(part, Transfer):
            return part.across(y, carry)
        return part(y), ()

    def flows(self) -> Iterator[Flow]:
        """Its flows in order."""
        return (part for part in self.parts if isinstance(part, Flow))

    def with_integrator(self, integrator: Any, steps: int | None = None) -> Chain:
        """The same weights under another integrator in every flow; a reversible gradient becomes that of the flows
        where the method has no inverse."""
        parts = [p.with_integrator(integrator, steps) if isinstance(p, Flow) else p for p in self.parts]
        still = self.gradient == "reversible" and bool(_runs(parts, links(parts)))
        return Chain(*parts, gradient="reversible" if still else "flows")

    def trajectory(self, y: State) -> list[State]:
        """y before and behind every layer of `layers`: at all knots of the flows and between the other parts."""
        states = [y]
        carry: Carry = ()
        for i, part in enumerate(self.parts):
            if isinstance(part, Flow):
                knots, carry = memory.resume(part, states[-1], carry, save=True)
                states += knots[1:].unbind(0)
            else:
                y, carry = self._advance(i, states[-1], carry)
                states.append(y)
            carry = carry if self.links[i] else ()
        return states

    def nfe(self, y: State) -> int:
        """Field evaluations of one forward pass."""
        carry: Carry = ()
        total = 0
        with torch.no_grad():
            for i in range(len(self.parts)):
                record = Record()
                y, carry = self._advance(i, y, carry, record)
                carry = carry if self.links[i] else ()
                total += record.nfe
        return total

    def layers(self) -> list[Callable[[Any], Any]]:
        """Callables whose composition is the chain; where a memory is handed on the state is (y, *memory)."""
        out: list[Callable[[Any], Any]] = []
        for i, part in enumerate(self.parts):
            if isinstance(part, Flow):
                inner = part.layers()
                inner[0] = _after(_enter(part), inner[0])
                inner[-1] = _after(inner[-1], _leave(part, self.links[i]))
                out += inner
            else:
                out.append(_crossing(part) if self.links[i] else part)
        return out


# ---- who hands what on ---------------------------------------------------------------------------------------------


def links(parts: Sequence[Any]) -> tuple[bool, ...]:
    """For every part whether a memory goes from it to the next: between two flows with only mapping transfers between.

    Raises Incompatible where the second of them cannot use the memory of the first.
    """
    found = [False] * len(parts)
    where = [i for i, part in enumerate(parts) if isinstance(part, Flow)]
    for a, b in pairwise(where):
        between = parts[a + 1 : b]
        mapped = all(isinstance(t, Transfer) and t.history == "map" for t in between)
        if between and mapped and memory.goes_on(parts[a], parts[b]):
            memory.check_hands_on(parts[a])
            memory.check_hands_on(parts[b])
            found[a:b] = [True] * (b - a)
    return tuple(found)


def _runs(parts: Sequence[Any], linked: Sequence[bool]) -> list[tuple[int, int]]:
    """[start, end) of neighbours that can be undone, with at least one flow; nothing is forgotten inside."""
    runs: list[tuple[int, int]] = []
    start = 0
    for i, part in enumerate(parts):
        fits = isinstance(part, Invertible) or (isinstance(part, Flow) and not why_not(part))
        forgets = isinstance(part, Flow) and memory.remembers(part) and not linked[i]
        if not fits or forgets or i + 1 == len(parts):
            end = i + 1 if fits else i
            if any(isinstance(p, Flow) for p in parts[start:end]):
                runs.append((start, end))
            start = i + 1
    return runs


def _nothing_reversible(parts: Sequence[Any]) -> str:
    reasons = [why_not(part) for part in parts if isinstance(part, Flow)]
    return reasons[0] if reasons else "gradient='reversible' is that of flows, and this chain has none."


def _enter(flow: Flow) -> Callable[[Any], Any]:
    def enter(state: Any) -> Any:
        y, *carry = state if isinstance(state, tuple) else (state,)
        stepped, past = memory.joined(flow, y, carry)
        return (stepped, *past) if past else stepped

    return enter


def _leave(flow: Flow, linked: bool) -> Callable[[Any], Any]:
    def leave(state: Any) -> Any:
        stepped, *past = state if isinstance(state, tuple) else (state,)
        if not linked:
            return flow.lower(stepped)
        y, carry = memory.parted(flow, stepped, tuple(past))
        return (y, *carry)

    return leave


def _crossing(transfer: nn.Module) -> Callable[[Any], Any]:
    return lambda state: tuple(transfer(part) for part in state)


def _after(first: Callable[[Any], Any], then: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: then(first(x))
