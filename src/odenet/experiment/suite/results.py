"""The stability suite: `stability(nets=[...], data="digits", seeds=5)` trains, looks and writes one page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import BadInput
from .. import tables
from ..executors import cores, execute
from ..progress import Plain, Progress
from ..store import Run, write
from .spec import Suite
from .summary import Overview, overview

Unit = dict[str, Any]
OF_SEEDS = ("net", "integrator", "seed", "metric", "value")
OF_NETS = ("net", "integrator", "metric", "mean", "low", "high", "seeds", "not_finite")


@dataclass(frozen=True, repr=False)
class StabilityResults:
    """What a suite found.

    cells:  net/integrator -> {"rows": one per seed, "first": what is shown of the first seed}, or {"error": sentence}
    reported: the keys of the nets that were looked at; the others are rows of the train x test matrix
    """

    suite: Suite
    cells: Mapping[str, Any]
    reported: Sequence[str]
    environment: Mapping[str, Any]
    notes: Sequence[str] = ()
    folder: Path | None = None
    run: str = ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dict for each net, integrator and seed."""
        return [row for cell in self.cells.values() for row in cell.get("rows", ())]

    @property
    def failures(self) -> dict[str, str]:
        """Why nets have no result."""
        return {k: v["error"] for k, v in self.cells.items() if "error" in v}

    @cached_property
    def overviews(self) -> list[Overview]:
        """One for each net that was looked at."""
        return [overview(k, self.cells[k]["rows"]) for k in self.reported if self.cells[k].get("rows")]

    @property
    def headline(self) -> list[str]:
        """Which nets are stable, and what to do about the others."""
        return headline(self.overviews, self.failures)

    def table(self) -> str:
        """Print the verdicts, and return them as one text."""
        out = str(self)
        print(out)
        return out

    def __str__(self) -> str:
        verdicts = [f"{o.name}: {o.said}" for o in self.overviews]
        failed = [f"{key} failed: {why}" for key, why in self.failures.items()]
        return "\n".join([*verdicts, *failed, "", *self.headline, *self.notes])

    def __repr__(self) -> str:
        return f"StabilityResults({len(self.overviews)} nets on {self.suite.data!r}, {len(self.failures)} failures)"

    def metric_rows(self) -> list[dict[str, Any]]:
        """net, integrator, seed, metric, value: a row for every number of every seed."""
        out = []
        for row in (r for k in self.reported for r in self.cells[k].get("rows", ())):
            numbers = {"test_accuracy": row["accuracy"], **row.get("metrics", {})}
            of = {k: row[k] for k in ("net", "integrator", "seed")}
            out += [{**of, "metric": k, "value": v} for k, v in numbers.items()]
        return out

    def summary_rows(self) -> list[dict[str, Any]]:
        """net, integrator, metric, mean, low, high, seeds, not_finite: a row for every mean."""
        return [
            {
                "net": o.net, "integrator": o.integrator, "metric": k, "mean": v.mean, "low": v.low, "high": v.high,
                "seeds": v.count, "not_finite": v.lost,
            }
            for o in self.overviews
            for k, v in o.metrics.items()
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return {
            "suite": self.suite.to_dict(),
            "run": self.run,
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "reported": list(self.reported),
            "verdicts": [
                {k: getattr(o, k) for k in ("key", "word", "standing", "sentence", "remedy", "agreement", "seeds")}
                for o in self.overviews
            ],
            "cells": dict(self.cells),
        }

    def save(self, folder: str | Path) -> Path:
        """results.json, metrics.csv, summary.csv, figures with their data, and report.html in `folder`."""
        from .page import write_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "results.json", json.dumps(self.to_dict(), indent=1) + "\n")
        write(folder / "metrics.csv", tables.comma_separated(OF_SEEDS, self.metric_rows()))
        write(folder / "summary.csv", tables.comma_separated(OF_NETS, self.summary_rows()))
        write_page(self, folder)
        return folder

    @classmethod
    def read(cls, folder: str | Path) -> StabilityResults:
        """The results in a folder that `save` wrote; raises BadInput where there are none."""
        path = Path(folder) / "results.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            suite = Suite.from_dict(content["suite"])
            cells, reported, facts, notes, run = (
                content[k] for k in ("cells", "reported", "environment", "notes", "run")
            )
            return cls(suite, cells, reported, facts, notes, Path(folder), run)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise BadInput(f"{path} is not a results file of the stability suite: {problem}.") from None


def headline(overviews: Sequence[Overview], failures: Mapping[str, str]) -> list[str]:
    """Which nets are stable, and what to do about the others, in sentences."""
    said = []
    for stable, words in ((True, "Stable"), (False, "Unstable"), (None, "Undecided")):
        mine = [o for o in overviews if o.stable is stable]
        if mine:
            listed = ", ".join(
                f"{o.name} ({o.standing}, {o.agreement} of {o.seeds} seed{'s' * (o.seeds > 1)})" for o in mine
            )
            said.append(f"{words}: {listed}.")
    said += [_advice(o) for o in overviews if o.remedy or o.warning]
    said += _range(overviews, "test_accuracy", "Test accuracy")
    said += _range([o for o in overviews if not o.flags], "area_under_attack", "Mean accuracy under attack")
    masked = [o.name for o in overviews if o.flags]
    if masked:
        said.append(f"Robustness of {', '.join(masked)} is an upper bound only: gradients hide, see the flags below.")
    if failures:
        said.append(f"{len(failures)} of the trainings failed; they are listed below.")
    return said


def _advice(o: Overview) -> str:
    """The remedy, and whether these weights survive it."""
    if not o.remedy:
        return f"{o.name}: {o.warning}"
    again = f"; then train again, for these weights lose {100 * (o.relies or 0):.0f} points of accuracy with h/2"
    return f"What to do about {o.name}: {o.remedy}{again if o.warning else ''}."


def _range(overviews: Sequence[Overview], metric: str, name: str) -> list[str]:
    """From the lowest to the highest mean."""
    means = sorted((v.mean, o.name) for o in overviews if (v := o.metrics.get(metric)) and v.mean is not None)
    if len(means) < 2:
        return []
    (low, worst), (high, best) = means[0], means[-1]
    return [f"{name} from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})."]


def stability(
    suite: Suite | None = None, *, run: str | Path | None = None, progress: bool = True, **words: Any
) -> StabilityResults:
    """Train nets with several seeds and measure their stability; `.table()`, `.save(folder)` write what was found.

    words: the fields of `Suite`, such as nets=["resnet", "hamiltonian/rk4"], data="digits", seeds=5; or give a Suite
    run:   a folder of `compare`: its nets with its data and seeds and the learning rate and span it chose for each.
           They are trained again, so that they can be watched while they learn and trained under other integrators
    Choose `odenet.stability.report` for a net that you have; this for what an architecture does over seeds. Raises
    BadInput for names and pairs that cannot work, before anything is trained.
    """
    if suite is not None and words:
        raise BadInput(f"stability takes a Suite or its fields, not both; put {', '.join(words)} into the Suite.")
    given = suite or Suite.from_dict(words)
    return carry_out(given, None if run is None else Path(run), None, progress)


def carry_out(given: Suite, run: Path | None, folder: Path | None, progress: bool = True) -> StabilityResults:
    """The suite, or that of a run; nets of the first seed and their own reports are kept in `folder`."""
    from ..compare import environment
    from .plan import of_run, of_suite

    suite = given.settled()
    if run is None:
        units, notes = of_suite(suite)
    else:
        suite, units, notes = of_run(Run.open(run), suite)
    if given.quick:
        notes = [*notes, "Quick: fewer seeds, integrators, layers and training steps than the full suite."]
    done: dict[str, Any] = {}
    start = time.perf_counter()
    with Progress([u["key"] for u in units], set()) if progress else Plain() as bar:

        def keep(unit: Unit, result: dict[str, Any]) -> None:
            done[unit["key"]] = result
            bar.finished(unit["key"], result)

        execute(longest_first(units), given.workers or cores(), folder, keep, lambda u, f: bar.moved(u["key"], f))
    facts = environment() | {"wall_seconds": round(time.perf_counter() - start, 1)}
    cells = {u["key"]: done[u["key"]] for u in units}
    reported = [u["key"] for u in units if u["report"]]
    return StabilityResults(suite, cells, reported, facts, notes, folder, "" if run is None else str(run))


def longest_first(units: Sequence[Unit]) -> list[Unit]:
    """Those with a report before those that are only trained."""
    return sorted(units, key=lambda u: not u["report"])


def place(suite: Suite) -> Path:
    """The folder out/name of a suite; raises BadInput where there is something in it."""
    word = "".join(c if c.isalnum() else "-" for c in Path(suite.data).name)
    folder = Path(suite.out) / (suite.name or f"stability-{word}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"the folder {folder} exists already and is left as it is; choose another name.")
    return folder


__all__ = ["StabilityResults", "carry_out", "headline", "place", "stability"]
