"""How robust learning itself is: which settings diverge, and what wrong labels cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..errors import BadInput, TrainingStopped
from ..stability.tables import Table
from ..train import Supervised
from ..train.fit import Fit, fit
from .run import load
from .statistics import Difference, differences

Build = Callable[..., nn.Module]
RISEN = 1.0  # a loss that ends above this many times its beginning has diverged


@dataclass(frozen=True)
class Divergence:
    """What became of every training over a grid.

    runs:  a row for each: lr, h, steps, seed, status, loss at the beginning and the end, diverged (1 or 0)
    """

    runs: Table

    @property
    def rate(self) -> float:
        """Share of trainings that diverged."""
        return _mean([row[-1] for row in self.runs.rows])

    def table(self) -> Table:
        """The share over seeds for every lr, h and number of steps."""
        groups: dict[tuple[float, float, int], list[int]] = {}
        for lr, h, steps, *_, lost in self.runs.rows:
            groups.setdefault((lr, h, steps), []).append(lost)
        return Table(("lr", "h", "steps", "diverged", "seeds"), [(*k, _mean(v), len(v)) for k, v in groups.items()])


def divergence(
    build: Build,
    data: Any,
    lr: Sequence[float],
    h: Sequence[float] = (0.1,),
    steps: Sequence[int] = (16,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    train_steps: int = 100,
    batch: int | None = None,
    **words: Any,
) -> Divergence:
    """Train at every point of lr x h x depth x seed and say which diverged: the loss is no longer finite, or ends (mean
    of the last tenth) above the mean of its first tenth.

    build:  build(steps=, span=, seed=) -> net, such as functools.partial(nets.resnet, 64, 10); span is (0, h steps)
    data:   a data set's name, a Dataset (one split for all seeds), a Problem or tensors (x, y)
    words:  of `fit`, such as method="sgd"
    Choose it to see how large a learning rate an architecture bears at which depth. Raises BadInput for an empty grid.
    """
    if not (lr and h and steps and seeds):
        raise BadInput("a grid needs at least one lr, one h, one number of steps and one seed.")
    rows = []
    for rate, width, depth, seed in product(lr, h, steps, seeds):
        net = build(steps=depth, span=(0.0, width * depth), seed=seed)
        part = load(data, seed) if isinstance(data, str) else data
        found = _trained(net, part, rate, seed, train_steps, batch, words)
        losses = [row["loss"] for row in found.history]
        first, last = _ends(losses)
        lost = found.status == "non_finite" or not last <= RISEN * first
        rows.append((rate, width, depth, seed, found.status, first, last, int(lost)))
    return Divergence(Table(("lr", "h", "steps", "seed", "status", "first_loss", "last_loss", "diverged"), rows))


def _trained(
    net: nn.Module, data: Any, lr: float, seed: int, steps: int, batch: int | None, words: dict[str, Any]
) -> Fit:
    try:
        return fit(net, data, lr=lr, seed=seed, steps=steps, batch=batch, **{"holdout": 0.0, **words})
    except TrainingStopped as stopped:
        return stopped.fit


def _ends(losses: Sequence[float]) -> tuple[float, float]:
    """Mean of the first and of the last tenth; nan for an empty history."""
    few = max(len(losses) // 10, 1)
    return _mean(losses[:few]), _mean(losses[-few:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# ---- wrong labels ---------------------------------------------------------------------------------------------------


def mislabelled(y: Tensor, share: float, classes: int, seed: int = 0) -> Tensor:
    """Labels (B,) of which round(share B) are replaced by another class, uniformly; raises BadInput outside [0, 1]."""
    if not 0 <= share <= 1 or classes < 2:
        raise BadInput(f"wrong labels take a share in [0, 1] and 2 classes or more, got {share} and {classes}.")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    moved = torch.randint(1, classes, (len(chosen),), generator=generator).to(y)
    out = y.clone()
    out[chosen] = (y[chosen] + moved) % classes
    return out


@dataclass(frozen=True)
class LabelNoise:
    """Accuracy on clean test data after training with wrong labels.

    runs:   share, seed, accuracy, accuracy on the training labels as given, status
    drops:  share -> paired difference to the smallest share over the seeds, with a 95 % t-interval
    """

    runs: Table
    drops: dict[float, Difference]

    def table(self) -> Table:
        """A row for every share: mean accuracy, difference, its interval."""
        rows = []
        for share, d in self.drops.items():
            scores = [r[2] for r in self.runs.rows if r[0] == share and r[2] is not None]
            rows.append((share, _mean(scores) if scores else None, d.mean, d.low, d.high, d.reading))
        return Table(("share", "accuracy", "difference", "low", "high", "reading"), rows)


def label_noise(
    build: Build,
    data: str | Dataset = "digits",
    shares: Sequence[float] = (0.0, 0.1, 0.2, 0.4),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    train_steps: int = 300,
    lr: float = 1e-2,
    batch: int = 64,
    **words: Any,
) -> LabelNoise:
    """Train with a share of the training labels replaced by other classes, and score on clean test data.

    build: build(seed=) -> net; data: a name (a split for every seed) or a Dataset. Choose it to see whether an
    architecture's regularity keeps it from learning errors by heart. Raises BadInput for targets that are no classes.
    """
    rows, scores = [], []
    for share, seed in product(sorted(shares), seeds):
        d = load(data, seed) if isinstance(data, str) else data
        if d.classes is None:
            raise BadInput(f"wrong labels need classes, but the data set {d.name!r} has real targets.")
        wrong = mislabelled(d.y, share, d.classes, seed)
        problem = Supervised((d.x, wrong), None, (d.x_test, d.y_test))
        net = build(seed=seed)
        found = _trained(net, problem, lr, seed, train_steps, batch, words)
        sound = found.status == "done"
        learnt = problem.measure(net, problem.train)["accuracy"] if sound else None
        rows.append((share, seed, found.score.get("accuracy") if sound else None, learnt, found.status))
        scores.append({"net": f"{share:g}", "integrator": "", "seed": seed, "accuracy": rows[-1][2]})
    resolution = 1.0 / len(d.y_test)
    paired = differences(scores, f"{min(shares):g}/", resolution)
    drops = dict(zip(_distinct(scores), paired))
    return LabelNoise(Table(("share", "seed", "accuracy", "training_accuracy", "status"), rows), drops)


def _distinct(scores: Sequence[dict[str, Any]]) -> Iterator[float]:
    return iter(dict.fromkeys(float(row["net"]) for row in scores))
