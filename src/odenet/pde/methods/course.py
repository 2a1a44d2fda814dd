"""What changes in a training beside the weights of the net: its points, and the weights of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ...optimise.base import Optimiser, State
from ..adaptive import at_points, moved
from ..ansatz import Ansatz
from ..balancing import BALANCERS, Balance, Balancer
from ..collocation import Block, Collocation
from ..sampling import RESAMPLERS
from ..statement import Equation

COUNTS = ("draw", "moves", "points", "done")
SELDOM = 50  # steps between two moves of the points where nothing is said


@dataclass
class Course:
    """Points and weights of a training.

    blocks:    (points, draw) -> blocks, newly drawn; generator: stream -> random numbers
    fresh:     steps between two draws of all points, or two moves by `adaptive`, a resampler's name
    balance:   a balancer's name; balance_options: its own, and `every`
    """

    model: Ansatz
    blocks: Callable[[int, int], list[Block]]
    generator: Callable[[int], torch.Generator]
    points: int
    fresh: int = 0
    adaptive: str | None = None
    balance: str | None = None
    balance_options: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0
    moves: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        if self.adaptive is not None:
            RESAMPLERS.get(self.adaptive)
            self.fresh = self.fresh or SELDOM
        self.rule: Balancer | None = None if self.balance is None else BALANCERS.get(self.balance)
        self.words = dict(self.balance_options)
        self.every = int(self.words.pop("every", self.rule.every if self.rule else 1))
        if self.every < 1:
            raise BadInput(f"balance_options={{'every': {self.every}}}: weights change every 1 or more steps.")
        self.balanced = Balance()

    def begin(self, resumed: Mapping[str, Tensor] | None) -> Collocation:
        """The system at the first points, or at those of a checkpoint."""
        if resumed is not None:
            self.draw, self.moves, self.points, self.done = (int(resumed[k]) for k in COUNTS)
        found = self.blocks(self.points, self.draw)
        if resumed is not None and self.adaptive is not None:
            found = [at_points(b, resumed[f"at.{b.name}"]) if f"at.{b.name}" in resumed else b for b in found]
        self.system = Collocation(self.model, found)
        if resumed is None:
            self._rebalance(self.system.theta())
        elif self.rule is not None:
            self.balanced = Balance.of({k[8:]: v for k, v in resumed.items() if k.startswith("balance.")})
            self.system.reweigh(self.balanced.weights)
        return self.system

    def after(self, optimiser: Optimiser, state: State, overfits: Callable[[], bool]) -> State:
        """The state after a step, for other points and weights where it is time for them."""
        self.done += 1
        more = overfits()
        if more or (self.fresh and self.done % self.fresh == 0):
            self._renew(state["theta"], more)
        elif self.rule is not None and self.done % self.every == 0:
            self._rebalance(state["theta"])
        else:
            return state
        return optimiser.refresh(self.system, state)

    def loss(self, state: State) -> float:
        """The loss with no weights but the user's."""
        if self.rule is None:
            return float(state["loss"])
        self.system.reweigh({})
        found = float(self.system.value(state["theta"]))
        self.system.reweigh(self.balanced.weights)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All that `begin` needs to go on."""
        found = {k: torch.tensor(getattr(self, k)) for k in COUNTS}
        found |= {f"balance.{k}": v for k, v in self.balanced.tensors().items()}
        if self.adaptive is not None:
            found |= {f"at.{b.name}": b.x for b in self.system.whole if isinstance(b.source, Equation)}
        return found

    def _renew(self, theta: Tensor, more: bool) -> None:
        if more or self.adaptive is None:
            self.draw, self.points = self.draw + 1, self.points * 3 // 2 if more else self.points
            found = self.blocks(self.points, self.draw)
        else:
            self.moves += 1
            generator = self.generator(500_000 + self.moves)
            found = moved(self.model, self.system.whole, self.adaptive, generator, self.system.put(theta))
        self.system.renew(found)
        if self.rule is not None and self.rule.pointwise:
            self.balanced = Balance({}, self.balanced.memory)
            self._rebalance(theta)
        else:
            self.system.reweigh(self.balanced.weights)

    def _rebalance(self, theta: Tensor) -> None:
        if self.rule is not None:
            self.balanced = self.rule(self.system, theta, self.balanced, **self.words)
