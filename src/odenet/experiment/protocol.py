"""What is held equal in a comparison: parameters, field evaluations of a forward pass, or seconds of training.

    equal_parameters    the width of every net (the channels of an image net) is searched until counts agree within 2 %
    equal_evaluations   the steps over the depth, until evaluations per forward pass agree exactly
    equal_time          the training steps, by timing a few of them

The reference pair sets the goal. Where its own number cannot be met by all others, because widths and steps are whole,
the goal moves by up to a quarter to one that more of them meet. Pairs that cannot meet it are left out with the reason.
"""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import nets
from ..data import Dataset
from ..errors import BadInput, OdenetError
from ..flow import Chain
from ..stability.twins import is_adaptive
from ..train import Supervised
from ..train.many import fit_many

Unit = dict[str, Any]
Build = Callable[[Unit, Dataset, int, float], nn.Module]

PARAMETERS = 0.02  # by which counts may differ, relative
LEEWAY = 0.25  # by which the goal may move, relative
MOST = 4096  # widths and steps that are tried at most
LONGER = 50  # times the training steps asked for, at most
CHANNELS = 16  # of the first block of an image net, where the knob stands at the beginning


class Unmatched(OdenetError):
    """Why a pair cannot meet the goal."""


def matched(
    cells: list[Unit], protocol: str, reference: str, sample: Dataset, build: Build
) -> tuple[list[Unit], list[str]]:
    """The units with the words changed that make them equal, in their order, and notes: the goal with what every pair
    was given, and a sentence for each that was left out.

    reference: key of the pair that sets the goal; "" is the first. Raises BadInput where the reference itself has no
    such number.
    """
    if not cells:
        return cells, []
    first = next((c for c in cells if c["key"] == reference), cells[0])
    if protocol == "equal_time":
        return _equal_time(cells, first, sample, build)
    knob = _width(sample, build) if protocol == "equal_parameters" else _steps(sample, build)
    able, hopeless = _able(cells, knob)
    if first["key"] in hopeless:
        raise BadInput(f"{protocol} needs a reference with such a number, and {hopeless[first['key']]}; name another.")
    best = _best(able, first, knob)
    units = [knob.set(c, best.settings[c["key"]]) for c in able if c["key"] in best.settings]
    given = _listed({u["key"]: best.settings[u["key"]] for u in units})
    said = f"{protocol}: {best.goal:,} {knob.counted}{knob.margin}, set by {first['key']}; {knob.word}: {given}."
    return units, [said, *(f"{key} was left out: {why}." for key, why in {**best.reasons, **hopeless}.items())]


def _able(cells: list[Unit], knob: _Knob) -> tuple[list[Unit], dict[str, str]]:
    """The pairs that have the knob and the count at all, and why the others have not."""
    able, hopeless = [], {}
    for cell in cells:
        try:
            knob.value(cell, knob.start(cell))
            able.append(cell)
        except Unmatched as problem:
            hopeless[cell["key"]] = str(problem)
    return able, hopeless


def _best(cells: list[Unit], first: Unit, knob: _Knob) -> _Plan:
    """The plan that most pairs can follow; among those the one nearest to what was asked for."""
    plans = []
    for at in _around(knob.start(first)):
        if (goal := knob.value(first, at)) is not None:
            plans.append(_plan(cells, first, goal, at, knob))
            if not plans[-1].reasons:
                break
    return min(plans, key=lambda plan: len(plan.reasons))


@dataclass(frozen=True)
class _Plan:
    """A goal, the setting of every pair that meets it, and why others do not."""

    goal: int
    settings: dict[str, int]
    reasons: dict[str, str]


def _around(start: int) -> list[int]:
    """Settings of the reference that are tried, the one asked for first."""
    reach = max(int(LEEWAY * start), 1)
    return [start, *(k for d in range(1, reach + 1) for k in (start + d, start - d) if k > 0)]


def _plan(cells: list[Unit], first: Unit, goal: int, at: int, knob: _Knob) -> _Plan:
    settings, reasons = {first["key"]: at}, {}
    for cell in cells:
        if cell["key"] == first["key"]:
            continue
        try:
            settings[cell["key"]] = knob.search(cell, goal)
        except Unmatched as problem:
            reasons[cell["key"]] = str(problem)
    return _Plan(goal, settings, reasons)


@dataclass
class _Knob:
    """A whole number that a net takes, and a count that rises with it."""

    sample: Dataset
    build: Build
    word: str = ""
    counted: str = ""
    margin: str = ""
    tolerance: float = 0.0
    measure: Callable[[nn.Module, Unit, Dataset], int] = lambda net, unit, sample: 0
    known: dict[tuple[str, int], int | None] = field(default_factory=dict)

    def start(self, unit: Unit) -> int:
        """Where the knob of a unit stands; raises Unmatched for a net that has none."""
        make = nets.get(unit["net"])
        taken = inspect.signature(make).parameters
        baseline = "integrator" not in taken
        if self.word == "steps" and baseline:
            raise Unmatched(f"{unit['net']} evaluates no field")
        if self.word in taken and (not _image(unit) or self.word == "steps"):
            return int(taken[self.word].default) if _image(unit) else int(unit[self.word])
        if self.word == "width" and "widths" in taken:
            return CHANNELS
        raise Unmatched(f"{unit['net']} takes no {self.word}")

    def set(self, unit: Unit, value: int) -> Unit:
        """The unit with the knob at this number."""
        if not _image(unit):
            return {**unit, self.word: value}
        taken = inspect.signature(nets.get(unit["net"])).parameters
        if self.word in taken:
            return {**unit, "own": {**unit.get("own", {}), self.word: value}}
        usual = taken["widths"].default or (CHANNELS, 2 * CHANNELS)
        widths = [max(round(value * w / CHANNELS), 1) for w in usual]
        return {**unit, "own": {**unit.get("own", {}), "widths": widths}}

    def value(self, unit: Unit, at: int) -> int | None:
        """The count with the knob there; None where the net cannot be built so, such as with an odd width."""
        key = (unit["key"], at)
        if key not in self.known:
            try:
                net = self.build(self.set(unit, at), self.sample, 0, unit["spans"][0])
            except OdenetError:
                self.known[key] = None
            else:
                self.known[key] = self.measure(net, unit, self.sample)
        return self.known[key]

    def search(self, unit: Unit, goal: int) -> int:
        """The setting whose count is nearest to the goal; raises Unmatched where that is not near enough."""
        low, high = 0, max(self.start(unit), 1)
        while self._below(unit, high, goal):
            low, high = high, 2 * high
            if high > MOST:
                raise Unmatched(f"it has fewer than {goal:,} {self.counted} for every {self.word} up to {MOST}")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._below(unit, middle, goal) else (low, middle)
        near = {k: v for k in range(max(low - 2, 1), high + 3) if (v := self.value(unit, k)) is not None}
        if not near:
            raise Unmatched(f"it cannot be built near {self.word} {high}")
        best = min(near, key=lambda k: (abs(near[k] - goal), k))
        if abs(near[best] / goal - 1) > self.tolerance:
            raise Unmatched(
                f"the nearest that it has to {goal:,} {self.counted} is {near[best]:,}, at {self.word} {best}"
            )
        return best

    def _below(self, unit: Unit, at: int, goal: int) -> bool:
        """Whether the count there, or at the next setting that can be built, is less than the goal."""
        found = next((v for k in range(at, at + 4) if (v := self.value(unit, k)) is not None), None)
        if found is None:
            raise Unmatched(f"it cannot be built with {self.word} {at}")
        return found < goal


def _image(unit: Unit) -> bool:
    return getattr(nets.get(unit["net"]), "takes", "vector") == "image"


def _width(sample: Dataset, build: Build) -> _Knob:
    return _Knob(sample, build, "width", "parameters", f" within {100 * PARAMETERS:g} %", PARAMETERS, parameters)


def _steps(sample: Dataset, build: Build) -> _Knob:
    return _Knob(sample, build, "steps", "field evaluations", "", 0.0, evaluations)


def parameters(net: nn.Module, unit: Unit | None = None, sample: Dataset | None = None) -> int:
    """Number of trainable weights."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def evaluations(net: nn.Module, unit: Unit, sample: Dataset) -> int:
    """Field evaluations of one forward pass; raises Unmatched where they depend on the data."""
    if is_adaptive(net):
        raise Unmatched(f"{unit['key']} chooses its steps itself, so its evaluations depend on weights and data")
    return net.eval().nfe(sample.x_test[:1]) if isinstance(net, Chain) else 0


# ---- time -----------------------------------------------------------------------------------------------------------


def _equal_time(cells: list[Unit], first: Unit, sample: Dataset, build: Build) -> tuple[list[Unit], list[str]]:
    pace = {c["key"]: seconds_per_step(c, sample, build) for c in cells}
    whole = pace[first["key"]] * first["train_steps"]
    units, notes = [], []
    for cell in cells:
        steps = max(round(whole / pace[cell["key"]]), 1)
        if steps > LONGER * cell["train_steps"]:
            notes.append(
                f"{cell['key']} was left out: it would train for {steps:,} steps, which is another experiment."
            )
        else:
            units.append({**cell, "train_steps": steps})
    given = _listed({u["key"]: u["train_steps"] for u in units})
    said = f"equal_time: {whole:.2g} s of training by a timing beforehand, set by {first['key']}; steps: {given}. "
    return units, [said + "What training really took is in the column seconds.", *notes]


def seconds_per_step(unit: Unit, sample: Dataset, build: Build, steps: int = 3, repeats: int = 3) -> float:
    """Seconds of one training step of one member when the seeds and learning rates of a unit are trained together."""
    members = [(s, lr) for s in unit["seeds"] for lr in unit["lr"]]
    few, taken = 2 * unit["batch"], []
    part = Supervised((sample.x[:few], sample.y[:few]))
    for _ in range(repeats):
        fits = fit_many(
            [build(unit, sample, s, unit["spans"][0]) for s, _ in members],
            [part] * len(members),
            lr=[lr for _, lr in members],
            seeds=[s for s, _ in members],
            steps=steps,
            batch=unit["batch"],
        )
        taken.append(statistics.mean(f.history[-1]["seconds"] for f in fits if f.history) / steps)
    return statistics.median(taken)


def _listed(settings: Mapping[str, int]) -> str:
    """resnet 32, hamiltonian/verlet 16: by net where all its pairs have the same number."""
    of_net: dict[str, set[int]] = {}
    for key, value in settings.items():
        of_net.setdefault(key.split("/")[0], set()).add(value)
    names = dict.fromkeys((k.split("/")[0] if len(of_net[k.split("/")[0]]) == 1 else k, v) for k, v in settings.items())
    return ", ".join(f"{name} {value:,}" for name, value in names)
