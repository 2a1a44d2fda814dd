"""Flows and transfers in a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ..errors import BadInput
from ..types import State
from .module import Flow


class Transfer(nn.Module, ABC):
    """A map between blocks, y -> y of another width or resolution: padding, pooling, 1x1 maps, wavelets.

    A multistep method's memory is not carried across it: the next flow starts afresh.
    """

    @abstractmethod
    def forward(self, y: State) -> State: ...


class Chain(nn.Module):
    """Modules in a row, at least one of them a Flow: y -> part_k(... part_1(y)).

    `with_integrator` maps over its flows; `layers` lists one callable per part, a flow giving one per knot interval.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        if not parts or not all(isinstance(part, nn.Module) for part in parts):
            raise BadInput("Chain takes modules in a row, such as Chain(opening, flow, head).")
        self.parts = nn.ModuleList(parts)

    def forward(self, y: State) -> State:
        for part in self.parts:
            y = part(y)
        return y

    def flows(self) -> Iterator[Flow]:
        """Its flows in order."""
        return (part for part in self.parts if isinstance(part, Flow))

    def with_integrator(self, integrator: Any, steps: int | None = None) -> Chain:
        """The same weights under another integrator in every flow."""
        return Chain(*(p.with_integrator(integrator, steps) if isinstance(p, Flow) else p for p in self.parts))

    def nfe(self, y: State) -> int:
        """Field evaluations of one forward pass."""
        total = 0
        for part in self.parts:
            if isinstance(part, Flow):
                total += part.nfe(y)
            y = part(y)
        return total

    def layers(self) -> list[Callable[[Any], Any]]:
        """Callables whose composition is the chain."""
        out: list[Callable[[Any], Any]] = []
        for part in self.parts:
            if isinstance(part, Flow):
                inner = part.layers()
                inner[0] = _after(part.lift, inner[0])
                inner[-1] = _after(inner[-1], partial(_position, part))
                out += inner
            else:
                out.append(part)
        return out


def _position(flow: Flow, state: Any) -> State:
    return flow.lower(state[0] if isinstance(state, tuple) else state)


def _after(first: Callable[[Any], Any], then: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: then(first(x))
