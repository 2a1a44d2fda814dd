"""Seeds put together: means with 95 % t-intervals, and one verdict for each net."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...stability.discretisation import TOLERANCE
from ..statistics import CONFIDENCE, deviation

Row = Mapping[str, Any]
WORDS = {True: "stable", False: "unstable", None: "undecided"}


@dataclass(frozen=True)
class Interval:
    """Mean over seeds with its t-interval; low and high are None for one seed.

    median, least, most: of the same numbers
    lost:  seeds whose number is not finite, which are in none of the others
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int
    lost: int = 0
    median: float | None = None
    least: float | None = None
    most: float | None = None

    @property
    def half(self) -> float | None:
        """Half its width."""
        return None if self.mean is None or self.high is None else self.high - self.mean


def interval(values: Sequence[float | None], resolution: float = 0.0) -> Interval:
    """Mean and mean -+ t_{n-1} sd/sqrt(n) of the finite ones.

    resolution: the standard deviation is taken to be at least that: equal counts in a few seeds are chance
    """
    sound = [float(v) for v in values if v is not None and math.isfinite(v)]
    lost = len(values) - len(sound)
    if not sound:
        return Interval(None, None, None, 0, lost)
    mean, sd = sum(sound) / len(sound), deviation(sound)
    order = (median(sound), min(sound), max(sound))
    if sd is None:
        return Interval(mean, None, None, 1, lost, *order)
    from scipy.stats import t

    half = float(t.ppf(0.5 + CONFIDENCE / 2, len(sound) - 1)) * max(sd, resolution) / math.sqrt(len(sound))
    return Interval(mean, mean - half, mean + half, len(sound), lost, *order)


@dataclass(frozen=True)
class Overview:
    """One net under one integrator over its seeds.

    sentence:   the verdict that most seeds share (the worst one of as many), in the words of its first seed
    agreement:  how many seeds say so
    others:     what the remaining seeds say, in a sentence; "" where there are none
    flags:      control -> (its sentence, number of seeds)
    relies:     accuracy that the same weights lose with half the step, mean over seeds; None without a flow
    """

    key: str
    net: str
    integrator: str
    seeds: int
    parameters: int
    stable: bool | None
    standing: str
    sentence: str
    remedy: str
    agreement: int
    others: str
    seed: int
    metrics: Mapping[str, Interval]
    flags: Mapping[str, tuple[str, int]]
    relies: float | None = None

    @property
    def word(self) -> str:
        """stable, unstable or undecided."""
        return WORDS[self.stable]

    @property
    def name(self) -> str:
        """The key without the place of an integrator that the net has not."""
        return self.key.removesuffix("/-")

    @property
    def said(self) -> str:
        """The verdict and how many seeds share it."""
        if self.seeds == 1:
            return self.sentence
        share = f"All {self.seeds}" if self.agreement == self.seeds else f"{self.agreement} of {self.seeds}"
        agree = f"{share} seeds agree; the numbers are those of seed {self.seed}."
        return " ".join(filter(None, [self.sentence, agree, self.others]))

    @property
    def warning(self) -> str:
        """That the remedy of other steps needs another training; "" where it does not."""
        if self.relies is None or self.relies <= TOLERANCE:
            return ""
        return (
            f"The weights rely on the errors of their steps: with h/2 they lose {100 * self.relies:.0f} points of "
            "accuracy, so they are no discretised equation; train again with another step, do not exchange it."
        )


LOST: dict[str, Any] = {
    "sentence": "Measured unstable: training diverged; use a smaller learning rate, more steps or a shorter span.",
    "standing": "measured",
    "stable": False,
    "remedy": "use a smaller learning rate, more steps or a shorter span",
}


def overview(key: str, rows: Sequence[Row]) -> Overview:
    """The seeds of one net put together."""
    verdicts = [(r["seed"], r.get("verdict") or LOST) for r in rows]
    counted = Counter((v["stable"], v["standing"]) for _, v in verdicts)
    rank = {False: 2, None: 1, True: 0}
    (stable, standing), often = max(counted.items(), key=lambda item: (item[1], rank[item[0][0]]))
    seed, chosen = next((s, v) for s, v in verdicts if (v["stable"], v["standing"]) == (stable, standing))
    return Overview(
        key=key,
        net=rows[0]["net"],
        integrator=rows[0]["integrator"],
        seeds=len(rows),
        parameters=int(rows[0]["parameters"]),
        stable=stable,
        standing=standing,
        sentence=chosen["sentence"],
        remedy=chosen.get("remedy") or "",
        agreement=often,
        others=_others([v for v in verdicts if (v[1]["stable"], v[1]["standing"]) != (stable, standing)]),
        seed=seed,
        metrics=metrics(rows),
        flags=_flags(rows),
        relies=_relies(rows),
    )


def _relies(rows: Sequence[Row]) -> float | None:
    """Mean over seeds of the accuracy with h minus that with h/2, under the own integrator."""
    lost = []
    for r in rows:
        own = {factor: score for name, factor, _, score in r.get("swaps", ()) if name == r["integrator"]}
        if {0.5, 1.0} <= own.keys():
            lost.append(own[1.0] - own[0.5])
    return interval(lost).mean


def _others(verdicts: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Elsewhere: seed 3 indicated instability, seeds 1, 4 measured stable."""
    groups: dict[str, list[int]] = {}
    for seed, v in verdicts:
        groups.setdefault(f"{v['standing']} {WORDS[v['stable']]}", []).append(seed)
    parts = [f"seed{'s' * (len(s) > 1)} {', '.join(map(str, s))} {word}" for word, s in groups.items()]
    return f"Otherwise: {'; '.join(parts)}." if parts else ""


def metrics(rows: Sequence[Row]) -> dict[str, Interval]:
    """Every metric that a seed has; the test accuracy, and the area under the worst attack, are among them."""
    names = dict.fromkeys(k for r in rows for k in r.get("metrics", {}))
    found = {k: interval([r["metrics"][k] for r in rows if k in r.get("metrics", {})]) for k in names}
    one = 1.0 / rows[0]["tested"] if rows[0].get("tested") else 0.0
    found["test_accuracy"] = interval([r["accuracy"] for r in rows if r["accuracy"] is not None], one)
    worst = [a for r in rows if (a := attack_areas(r)) is not None]
    if worst:
        found["area_under_attack"] = interval([a["worst"] for a in worst])
    return {k: v for k, v in found.items() if v.count or v.lost}


def attack_areas(row: Row) -> dict[str, float] | None:
    """Attack -> area under accuracy over the radius / the largest radius, for one seed."""
    table = row.get("tables", {}).get("attacks")
    if table is None:
        return None
    from ...stability.masking import area_under

    eps = [r[0] for r in table["rows"]]
    names = [c for c in table["columns"] if c not in ("eps", "standing")]
    return {name: area_under(eps, [r[table["columns"].index(name)] for r in table["rows"]]) for name in names}


def _flags(rows: Sequence[Row]) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for r in rows:
        for flag, sentence in r.get("tables", {}).get("masking", {}).get("rows", ()):
            found[flag] = (found.get(flag, (sentence, 0))[0], found.get(flag, ("", 0))[1] + 1)
    return found
