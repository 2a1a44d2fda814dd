"""Training with one solver and testing with another (Ott, Katiyar, Hennig & Tiemann 2021, arXiv 2007.15386).

A net trained with large steps learns the errors of its solver along with the task: tested with a finer solver, it
fails. Below a critical step size the two agree, and only then is it a differential equation that was learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..errors import BadInput, TrainingStopped
from ..flow import Flow
from ..stability.discretisation import (
    TOLERANCE,
    critical_step,
    exchange_own,
    flows_of,
    solver_matrix,
    step_of,
)
from ..stability.tables import Table
from ..stability.twins import refined, title
from ..train.fit import Fit, fit
from .run import load

Build = Callable[..., nn.Module]


# ---- the matrix -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swap:
    """Accuracies of nets trained under one solver and tested under others.

    runs:  trained, steps, h, seed, own accuracy, tested, factor of h, accuracy, drop (own - accuracy)
    """

    runs: Table

    def matrix(self) -> Table:
        """Means over seeds: a row for every train solver and h, a column for every test solver and factor."""
        heads = list(dict.fromkeys((r[5], r[6]) for r in self.runs.rows))
        sides = list(dict.fromkeys((r[0], r[2]) for r in self.runs.rows))
        rows = [(*side, *(self._mean(7, side, head) for head in heads)) for side in sides]
        return Table(("trained", "h", *(f"{name} {factor:g}h" for name, factor in heads)), rows)

    def _mean(self, column: int, side: tuple[str, float], head: tuple[str, float]) -> float | None:
        found = [r[column] for r in self.runs.rows if (r[0], r[2]) == side and (r[5], r[6]) == head]
        return sum(found) / len(found) if found else None

    def critical(self, tolerance: float = TOLERANCE) -> dict[tuple[str, str], float | None]:
        """(train solver, test solver) -> the largest h trained with at which, and below which, the mean accuracies of
        the two agree within the tolerance; the finest test steps count. None where they never do."""
        out: dict[tuple[str, str], float | None] = {}
        for trained, tested in dict.fromkeys((r[0], r[5]) for r in self.runs.rows):
            finest = min(r[6] for r in self.runs.rows if (r[0], r[5]) == (trained, tested))
            steps = dict.fromkeys(r[2] for r in self.runs.rows if r[0] == trained)
            gaps = {h: self._mean(8, (trained, h), (tested, finest)) for h in steps}
            out[trained, tested] = critical_step({h: g for h, g in gaps.items() if g is not None}, tolerance)
        return out


def train_and_swap(
    build: Build,
    data: Any,
    integrators: Sequence[Any] = ("euler", "rk4"),
    steps: Sequence[int] = (2, 4, 8, 16, 32),
    tested: Sequence[Any] = ("euler", "heun", "rk4", "dopri5"),
    factors: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    **words: Any,
) -> Swap:
    """Train a net for every integrator, number of steps and seed, and test it under all solvers and step sizes.

    build:  build(integrator=, steps=, seed=) -> net, such as functools.partial(nets.resnet, 2, 2, depth="shared")
    data:   a data set's name or a Dataset; scored on its test part
    words:  of `fit`, such as steps of training as `train_steps=1500`, lr=5e-3
    Trainings that diverge are left out. Raises BadInput for targets that are no classes.
    """
    given = dict(words)
    count = given.pop("train_steps", 500)
    rows = []
    for scheme in integrators:
        for n in steps:
            for seed in seeds:
                d = load(data, seed) if isinstance(data, str) else data
                net = build(integrator=scheme, steps=n, seed=seed)
                try:
                    fit(net, d, steps=count, seed=seed, **given)
                except TrainingStopped:
                    continue
                rows += _swapped(net.eval(), title(scheme), n, seed, d.x_test, d.y_test, tested, factors)
    columns = ("trained", "steps", "h", "seed", "own_accuracy", "tested", "factor", "accuracy", "drop")
    return Swap(Table(columns, rows))


def _swapped(
    net: nn.Module, name: str, n: int, seed: int, x: Tensor, y: Tensor, tested: Sequence[Any], factors: Sequence[float]
) -> list[tuple[Any, ...]]:
    own, h = exchange_own(net, x, y), step_of(net)
    found = solver_matrix({name: net}, x, y, tested, factors).rows
    return [(name, n, h, seed, own, r[1], r[2], r[4], own - r[4]) for r in found]


# ---- steps that adapt to what is learned ----------------------------------------------------------------------------


@dataclass
class AdaptStep:
    """A callback of `fit` that keeps the step size where the solver does not matter (Ott et al. 2021, algorithm 1).

    Every `every` steps the accuracy on (x, y) is taken under the net's own solver with h and under `test` with
    `test_step(h)`. Where they differ by more than `tolerance`, h is halved, else it grows by `grow`; the flows then
    take ceil(knot interval/h) steps in every interval, with the same weights.

    test_step: of the test solver, from h; None: sqrt(h/50), as published for midpoint beside euler, and at most h
    trace:     (training step, h, accuracy, accuracy under the test solver) at every look
    Choose it to train without choosing N: one knot interval and shared weights let h move freely. Raises BadInput for
    numbers that cannot be right, and for a net without fixed-step flows when it is called.
    """

    x: Tensor
    y: Tensor
    test: Any = "midpoint"
    every: int = 50
    tolerance: float = TOLERANCE
    grow: float = 1.1
    test_step: Callable[[float], float] | None = None
    largest: int = 1024  # steps per knot interval
    h: float | None = None
    trace: list[tuple[int, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.every < 1 or not self.grow >= 1 or not 0 <= self.tolerance < 1 or self.largest < 1:
            raise BadInput(
                f"every >= 1, grow >= 1 and 0 <= tolerance < 1, got {self.every}, {self.grow} and {self.tolerance}."
            )

    def __call__(self, result: Fit) -> None:
        done = len(result.history)
        if done % self.every:
            return
        net, was = result.net, result.net.training
        if isinstance(net, Flow):
            raise BadInput("the net is a flow itself, which cannot be exchanged while it trains; write Chain(flow).")
        if any(flow.adaptive for flow in flows_of(net)):
            raise BadInput("this flow chooses its steps itself already; build it with a fixed-step integrator.")
        h = step_of(net) if self.h is None else self.h
        own, other = self._accuracies(net, h)
        self.trace.append((done, h, own, other))
        self.h = h / 2 if abs(own - other) > self.tolerance else h * self.grow
        self._set(net, self.h)
        net.train(was)

    def _accuracies(self, net: nn.Module, h: float) -> tuple[float, float]:
        finer = min(math.sqrt(h / 50) if self.test_step is None else self.test_step(h), h)
        times = max(math.ceil(step_of(net) / finer - 1e-9), 1)
        own = exchange_own(net, self.x, self.y)
        return own, exchange_own(refined(net, self.test, times), self.x, self.y)

    def _set(self, net: nn.Module, h: float) -> None:
        """Flows with steps of at most h in the place of the old ones; weights stay, so the optimiser goes on."""
        for module in list(net.modules()):
            for name, part in list(module.named_children()):
                if isinstance(part, Flow):
                    setattr(module, name, _paced(part, h, self.largest))


def _paced(flow: Flow, h: float, largest: int) -> Flow:
    interval = abs(flow.span[1] - flow.span[0]) / flow.steps
    substeps = min(max(math.ceil(interval / h - 1e-9), 1), largest)
    return flow if substeps == flow.substeps else flow.with_integrator(flow.integrator, flow.steps * substeps)
