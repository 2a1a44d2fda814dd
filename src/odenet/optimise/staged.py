"""Several optimisers in a row: staged(("adam", 500), ("ssbroyden", None))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import BadInput
from . import base
from .base import Objective, Optimiser, State, count, number
from .registration import get

_SUMS = ("steps", "evaluations")


@dataclass(frozen=True)
class Staged(Optimiser):
    """Optimisers in a row, each for a number of steps (None: until it converges or stalls); the next starts from there.

    Choose it where a cheap method finds the valley and a second-order one its floor.
    """

    stages: tuple[tuple[Optimiser, int | None], ...]

    def init(self, problem: Objective, theta: Tensor) -> State:
        return self._begin(problem, theta, 0, {k: count(0, theta) for k in _SUMS})

    def refresh(self, problem: Objective, state: State) -> State:
        return self._outer(self._current(state).refresh(problem, self._inner(state)), state)

    def advance(self, problem: Objective, state: State) -> State:
        stage, optimiser = int(state["stage"]), self._current(state)
        new = self._outer(optimiser.advance(problem, self._inner(state)), state)
        length = self.stages[stage][1]
        done = length is not None and int(new["steps"] - new["before_steps"]) >= length
        if not done and not int(new["status"]):
            return new
        if stage + 1 < len(self.stages):
            begun = self._begin(problem, new["theta"], stage + 1, {k: new[k] for k in _SUMS})
            return {**begun, "progress": new["progress"]}
        return new if int(new["status"]) else {**new, "status": count(base.FINISHED, new)}

    def _current(self, state: State) -> Optimiser:
        return self.stages[int(state["stage"])][0]

    def _begin(self, problem: Objective, theta: Tensor, stage: int, before: dict[str, Tensor]) -> State:
        marks = {"stage": count(stage, theta), **{f"before_{k}": v for k, v in before.items()}}
        inner = self.stages[stage][0].init(problem, theta)
        return self._outer({"progress": number(0.0, theta), **inner}, marks)

    @staticmethod
    def _inner(state: State) -> State:
        """What the current stage knows: its own counts."""
        kept = {k: v for k, v in state.items() if k != "stage" and not k.startswith("before_")}
        return {**kept, **{k: state[k] - state[f"before_{k}"] for k in _SUMS}}

    @staticmethod
    def _outer(inner: State, marks: State) -> State:
        """The stage's state with the counts of the whole."""
        own = {k: v for k, v in marks.items() if k == "stage" or k.startswith("before_")}
        return {**inner, **own, **{k: inner[k] + marks[f"before_{k}"] for k in _SUMS}}


def staged(*stages: Any) -> Staged:
    """Stages (name or Optimiser, steps or None[, options of the name]); a bare name runs until its status.

    `staged(("adam", 500, {"lr": 1e-2}), "ssbroyden")`. Raises BadInput for a stage that can never begin.
    """
    made = [_stage(s) for s in stages]
    if not made:
        raise BadInput('staged needs one stage or more, such as staged(("adam", 500), ("ssbroyden", None)).')
    return Staged(tuple(made))


def _stage(given: Any) -> tuple[Optimiser, int | None]:
    name, length, options = (*(given if isinstance(given, tuple | list) else (given,)), None, None)[:3]
    optimiser = name if isinstance(name, Optimiser) else get(name, **(options or {}))
    if isinstance(optimiser, Staged):
        raise BadInput("a stage that is staged itself has no meaning; write all its stages in one row.")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise BadInput(f"a stage runs for 1 or more steps, or None: until its status; got {length!r}.")
    return optimiser, length


def from_option(stages: Any = (("adam", 500), ("ssbroyden", None))) -> Staged:
    """`staged` with its stages as one option; choose it where a cheap method is to find the valley first."""
    return staged(*stages)
