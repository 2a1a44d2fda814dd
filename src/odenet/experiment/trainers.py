"""`odenet trainers`: every training method with every integrator and architecture, each pair run or refused.

A cell builds the net, trains it for a few steps and says what became of it, one of `STATUSES`:

    run      the loss is finite after the last step
    refused  the library says in a sentence why these choices do not go together
    stopped  training met a number that is not finite, or a step that could not be taken; with the library's sentence
    error    anything else was raised, by a plug-in for instance; with the type of the exception and what it says

A cell depends on its own choices and seed alone, so the same one comes out in any order and in any selection.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import integrators as schemes
from .. import nets as architectures
from ..data import Dataset
from ..errors import BadInput, OdenetError, SolveFailed, StepFailed, TrainingStopped
from ..train import METHODS, Supervised, fit
from . import tables
from .bench import fresh
from .compare import environment
from .run import ALL, NONE, build, fitting, load, same_everywhere
from .run import schemes as own_schemes
from .store import write

STATUSES = ("run", "refused", "stopped", "error")
NETS = ("resnet", "antisymmetric", "hamiltonian", "second_order")
INTEGRATORS = ("euler", "heun", "rk4", "ab2", "leapfrog", "verlet", "implicit_midpoint", "dopri5")
ACROSS = 8  # integrators in one table


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: what was chosen, and what became of it.

    status:  one of STATUSES; told: the sentence where it is not "run", else warnings
    before, after: the loss on all training points, before the first step and after the last
    score:   on the test part: the accuracy, or r2 for real targets
    """

    net: str
    method: str
    integrator: str
    data: str
    seed: int
    status: str
    told: str = ""
    before: float | None = None
    after: float | None = None
    score: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Training:
    """What all cells share: steps of training, width and layers of the nets, learning rate, training points."""

    steps: int = 4
    width: int = 8
    layers: int = 4
    lr: float = 1e-2
    points: int = 128

    def __post_init__(self) -> None:
        for name in ("steps", "width", "layers", "points"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise BadInput(f"{name} is a positive whole number, got {value!r}.")
        if not 0 < self.lr < math.inf:
            raise BadInput(f"lr is a positive number such as 1e-2, got {self.lr!r}.")


@dataclass(frozen=True)
class Matrix:
    """Cells in the order of their names, and what they share."""

    cells: tuple[Cell, ...]
    training: Training

    def text(self) -> str:
        """A table for every net and data set, a line for every method, and the sentences."""
        sentences = {told: n for n, told in enumerate(dict.fromkeys(c.told for c in self.cells if c.told), 1)}
        parts = [_grid(group, sentences) for group in self._groups()]
        head = (
            f"After {self.training.steps} steps: the loss as a share of the loss before, and the score on test data in "
            "%; no, stop and ERROR with the number of their sentence; * stands for a warning."
        )
        counts = ", ".join(f"{sum(c.status == s for c in self.cells)} {s}" for s in STATUSES)
        told = [f"{n:3}  ({sum(c.told == t for c in self.cells)} cells) {t}" for t, n in sentences.items()]
        ending = [f"{len(self.cells)} cells: {counts}."]
        return "\n\n".join([head, *parts, tables.text(self.scoreboard(), right=range(1, 8)), "\n".join(told), *ending])

    def _groups(self) -> list[list[Cell]]:
        """Cells of one net, data set and at most ACROSS integrators."""
        found: dict[tuple[str, str, int], list[Cell]] = {}
        order = {name: n // ACROSS for n, name in enumerate(dict.fromkeys(c.integrator for c in self.cells))}
        for c in self.cells:
            found.setdefault((c.net, c.data, order[c.integrator]), []).append(c)
        return list(found.values())

    def scoreboard(self) -> list[list[str]]:
        """By method: how many cells ended how, the median share of the loss and score, and seconds of a cell."""
        head = ["method", *STATUSES, "loss", "score %", "seconds"]
        rows = []
        for method in dict.fromkeys(c.method for c in self.cells):
            mine = [c for c in self.cells if c.method == method]
            ran = [c for c in mine if c.status == "run"]
            middle = [statistics.median(v) if (v := [f(c) for c in ran]) else None for f in (_share, _score, _seconds)]
            shown = ["" if m is None else form.format(m) for m, form in zip(middle, ("{:.2f}", "{:.0%}", "{:.2f}"))]
            rows.append([method, *(str(sum(c.status == s for c in mine)) for s in STATUSES), *shown])
        return [head, *([c.removesuffix("%") for c in row] for row in rows)]

    def save(self, folder: Path) -> None:
        """cells.json, cells.csv and table.txt."""
        rows = [asdict(c) for c in self.cells]
        about = {"training": asdict(self.training), **environment(), "cells": rows}
        write(folder / "cells.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
        write(folder / "cells.csv", tables.comma_separated(list(rows[0]) if rows else [], rows))
        write(folder / "table.txt", self.text() + "\n")


def matrix(
    methods: Sequence[str] = ALL,
    nets: Sequence[str] = NETS,
    integrators: Sequence[str] = INTEGRATORS,
    data: Sequence[str] = ("moons",),
    seeds: Sequence[int] = (0,),
    training: Training | None = None,
    progress: Callable[[Cell], Any] = lambda cell: None,
) -> Matrix:
    """Every method x integrator x net x data set x seed, each run or refused; `progress` is told of each when it ends.

    "all" stands for every registered method, every integrator of this library, every net that takes the data; "-" for
    the integrator that a net has of itself. Raises UnknownName for names before anything runs.
    """
    shared, done = training or Training(), list[Cell]()
    methods = METHODS.names() if tuple(methods) == ALL else methods
    integrators = [n for n in schemes.names() if ":" not in n] if tuple(integrators) == ALL else integrators
    for name in methods:
        METHODS.get(name)
    for name in (n for n in integrators if n != NONE):
        schemes.get(name)
    parts = {(name, seed): _part(load(name, seed), seed, shared.points) for name in data for seed in seeds}
    chosen = {name: fitting(parts[name, seeds[0]]) if tuple(nets) == ALL else nets for name in data if seeds}
    for name in itertools.chain.from_iterable(chosen.values()):
        architectures.get(name)
    for d in data:
        for net, method, scheme, seed in itertools.product(chosen.get(d, ()), methods, integrators, seeds):
            choice = {"net": net, "method": method, "integrator": scheme, "data": d, "seed": seed}
            done.append(Cell(**choice, **_tried(choice, parts[d, seed], shared)))  # type: ignore[arg-type]
            progress(done[-1])
    return Matrix(tuple(done), shared)


def trainers(out: Path, name: str, **words: Any) -> Matrix:
    """`matrix` with a line on the error stream for each cell that was no success, saved into out/name."""
    folder, cells = fresh(out, name, "trainers"), list[Cell]()

    def progress(cell: Cell) -> None:
        cells.append(cell)
        if cell.status in ("stopped", "error"):
            print(f"{cell.net} {cell.method} {cell.integrator} {cell.status}: {cell.told}", file=sys.stderr)

    try:
        found = matrix(**words, progress=progress)
    except KeyboardInterrupt:
        Matrix(tuple(cells), words.get("training") or Training()).save(folder)
        raise
    found.save(folder)
    return found


# ------------------------------------------------------------------------------------------------------------ one cell


def _tried(choice: dict[str, Any], data: Dataset, training: Training) -> dict[str, Any]:
    """What becomes of one training, as the rest of its Cell."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned, torch.random.fork_rng(devices=[]), same_everywhere():
        warnings.simplefilter("always")
        torch.manual_seed(choice["seed"])
        try:
            found = _trained(choice, data, training)
        except (TrainingStopped, SolveFailed, StepFailed) as problem:
            found = {"status": "stopped", "told": str(problem)}
        except OdenetError as problem:
            found = {"status": "refused", "told": str(problem)}
        except Exception as problem:  # whatever a plug-in does, the other cells are run
            found = {"status": "error", "told": f"{type(problem).__name__}: {' '.join(str(problem).split())}"}
    if found["status"] == "run":
        found["told"] = " ".join(dict.fromkeys(str(w.message) for w in warned))
    return {**found, "seconds": time.perf_counter() - start}


def _trained(choice: dict[str, Any], data: Dataset, training: Training) -> dict[str, Any]:
    net = _net(choice, data, training)
    task = Supervised((data.x, data.y), None, (data.x_test, data.y_test))
    done = fit(
        net, task, choice["method"], steps=training.steps, lr=training.lr, batch=len(data.x), seed=choice["seed"]
    )
    after = task.measure(net, task.train)["loss"]
    score = done.score.get("accuracy", done.score.get("r2"))
    ended = {"before": done.history[0]["loss"], "after": after, "score": score}
    if not math.isfinite(after):
        return {"status": "stopped", "told": f"after the last step the loss is {after}."}
    return {"status": "run", **ended}


def _net(choice: dict[str, Any], data: Dataset, training: Training) -> nn.Module:
    """The net under the integrator. Raises Incompatible, and BadInput where the integrator would be ignored."""
    name, scheme = choice["net"], choice["integrator"]
    own = own_schemes(name, ())
    if scheme == NONE:
        scheme = own[0]
    elif own == (NONE,):
        raise BadInput(f"{name!r} is no flow that an integrator steps; train it as it is, with the integrator '-'.")
    elif len(getattr(architectures.get(name), "integrators", ())) == 1 and scheme != own[0]:
        raise BadInput(f"{name!r} is a scheme itself, {own[0]!r}, which {scheme!r} cannot take the place of.")
    unit = {"net": name, "integrator": scheme, "width": training.width, "steps": training.layers}
    if scheme == "None" or inspect.signature(architectures.get(name)).parameters.get("integrator") is None:
        unit["integrator"] = NONE
    return build(unit, data, choice["seed"], 1.0)


def _part(data: Dataset, seed: int, points: int) -> Dataset:
    """The data with some of its training points."""
    from dataclasses import replace

    few = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))[:points]
    return replace(data, x=data.x[few], y=data.y[few])


# -------------------------------------------------------------------------------------------------------------- tables


def _grid(cells: Iterable[Cell], sentences: dict[str, int]) -> str:
    """Methods down, integrators across; means over seeds where all of them ran."""
    cells = list(cells)
    across = list(dict.fromkeys(c.integrator for c in cells))
    rows = []
    for method in dict.fromkeys(c.method for c in cells):
        row = [[c for c in cells if (c.method, c.integrator) == (method, scheme)] for scheme in across]
        rows.append([method, *(_entry(several, sentences) for several in row)])
    return tables.text([["", *across], *rows], f"{cells[0].net} on {cells[0].data}")


def _entry(several: Sequence[Cell], sentences: dict[str, int]) -> str:
    words = {"refused": "no", "stopped": "stop", "error": "ERROR"}
    for c in sorted(several, key=lambda c: -STATUSES.index(c.status)):
        if c.status != "run":
            return f"{words[c.status]} {sentences[c.told]}"
    mark = "".join(f" *{n}" for n in sorted({sentences[c.told] for c in several if c.told}))
    loss, score = (statistics.fmean(f(c) for c in several) for f in (_share, _score))
    return f"{loss:{'.2f' if loss < 100 else '.0e'}} {100 * score:3.0f}{mark}"


def _share(cell: Cell) -> float:
    assert cell.before is not None and cell.after is not None
    return cell.after / cell.before if cell.before else math.nan


def _score(cell: Cell) -> float:
    return math.nan if cell.score is None else cell.score


def _seconds(cell: Cell) -> float:
    return cell.seconds
