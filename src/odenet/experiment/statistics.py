"""Means over seeds, and paired differences with intervals: what a handful of repetitions can and cannot tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """One net under one integrator over its seeds; accuracies in [0, 1], sd None for a single seed."""

    net: str
    integrator: str
    accuracy: float | None
    sd: float | None
    validation: float | None
    seeds: int
    parameters: int
    nfe: int
    seconds: float
    stable: bool | None
    verdict: str
    agreement: str  # how many seeds say so, "3/3"

    @property
    def key(self) -> str:
        return f"{self.net}/{self.integrator}"


@dataclass(frozen=True)
class Difference:
    """Accuracy of `key` minus that of the reference on the same seeds: mean, interval, and what may be said.

    p:       of the paired t-test;  holm: the same, corrected for the number of comparisons
    reading: "reference", "no difference detectable", "higher", "lower", or "one seed: no interval"
    """

    key: str
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    holm: float | None
    reading: str


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One Summary for each pair, in the order of the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["net"], row["integrator"]), []).append(row)
    return [_summary(net, integrator, group) for (net, integrator), group in groups.items()]


def _summary(net: str, integrator: str, rows: Sequence[Row]) -> Summary:
    scores = [r["accuracy"] for r in rows if r["accuracy"] is not None]
    validation = [r["val_accuracy"] for r in rows if r.get("val_accuracy") is not None]
    mean = sum(scores) / len(scores) if scores else None
    counted = Counter((r["stable"], r["standing"]) for r in rows)
    (stable, standing), often = counted.most_common(1)[0]
    word = {True: "stable", False: "unstable", None: "undecided"}[stable]
    return Summary(
        net=net,
        integrator=integrator,
        accuracy=mean,
        sd=deviation(scores),
        validation=sum(validation) / len(validation) if validation else None,
        seeds=len(scores),
        parameters=int(rows[0]["parameters"]),
        nfe=int(rows[0]["nfe"]),
        seconds=sum(r["seconds"] for r in rows) / len(rows),
        stable=stable,
        verdict=f"{word}, {standing}",
        agreement=f"{often}/{len(rows)}",
    )


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def reference_of(summaries: Sequence[Summary], asked: str) -> str | None:
    """The pair that all are compared with: the one asked for, else the best on validation.

    The test part has no say: a best one chosen by it would look better than it is.
    """
    if asked:
        return asked
    scored = [s for s in summaries if s.validation is not None and s.accuracy is not None]
    return max(scored, key=lambda s: s.validation or 0.0).key if scored else None


def differences(rows: Sequence[Row], reference: str, resolution: float = 0.0) -> list[Difference]:
    """Paired differences of all pairs to the reference over the seeds that both have.

    resolution: accuracy of one test sample; the standard deviation is taken to be at least that, because equal
    counts in a few seeds are chance, not certainty.
    """
    scores: dict[str, dict[int, float]] = {}
    for row in rows:
        mine = scores.setdefault(f"{row['net']}/{row['integrator']}", {})
        if row["accuracy"] is not None:
            mine[row["seed"]] = row["accuracy"]
    base = scores[reference]
    found = [
        _difference(key, [mine[s] - base[s] for s in sorted(mine.keys() & base.keys())], key == reference, resolution)
        for key, mine in scores.items()
    ]
    return _corrected(found)


def _difference(key: str, deltas: list[float], itself: bool, resolution: float) -> Difference:
    if itself or not deltas:
        return Difference(key, 0.0 if itself else None, None, None, None, None, "reference" if itself else "no result")
    mean, sd = sum(deltas) / len(deltas), deviation(deltas)
    if sd is None:
        return Difference(key, mean, None, None, None, None, "one seed: no interval")
    from scipy.stats import t

    error = max(sd, resolution, 1e-12) / math.sqrt(len(deltas))
    half = float(t.ppf(0.5 + CONFIDENCE / 2, len(deltas) - 1)) * error
    p = 2 * float(t.sf(abs(mean) / error, len(deltas) - 1))
    low, high = mean - half, mean + half
    reading = "higher" if low > 0 else "lower" if high < 0 else "no difference detectable"
    return Difference(key, mean, low, high, p, None, reading)


def _corrected(found: list[Difference]) -> list[Difference]:
    """Holm's step-down correction of the p-values (Holm 1979)."""
    order = sorted((d.p, i) for i, d in enumerate(found) if d.p is not None)
    running, holm = 0.0, {}
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        holm[i] = running
    return [Difference(d.key, d.mean, d.low, d.high, d.p, holm.get(i), d.reading) for i, d in enumerate(found)]


def note(found: Sequence[Difference]) -> str:
    """What the number of comparisons means for reading the intervals."""
    tested = [d for d in found if d.p is not None]
    if not tested:
        return "With one seed there are no intervals: nothing can be said about differences."
    apart = sum(d.reading in ("higher", "lower") for d in tested)
    left = sum(d.holm is not None and d.holm < 1 - CONFIDENCE for d in tested)
    chance = (1 - CONFIDENCE) * len(tested)
    return (
        f"{len(tested)} comparisons at 95 %: about {chance:.1f} intervals would miss 0 by chance alone. "
        f"{apart} of them exclude{'s' if apart == 1 else ''} 0; after Holm's correction for {len(tested)} comparisons "
        f"{'none does' if not left else f'{left} still do' if left > 1 else '1 still does'}."
    )
