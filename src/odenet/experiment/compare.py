"""The main job: nets x integrators x seeds on one data set, with a fair search, paired intervals and a theory task."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import BadInput, NotBuiltYet
from . import statistics, tables
from .executors import cores, execute
from .progress import Plain, Progress
from .spec import Experiment
from .statistics import Difference, Summary
from .store import Run, write

RIGHT = (5, 6, 7)  # columns of numbers in the comparison table
FOUND = ("net", "integrator", "{} %", "parameters", "nfe", "seconds", "stability")
APART = ("net", "integrator", "difference", "reading")
_QUICK = (
    "Quick: fewer nets, one learning rate and span, shallower nets and fewer training steps than the full comparison."
)
THEORY = ("case", "prediction", "measurement", "agrees")


@dataclass(frozen=True, repr=False)
class Results:
    """What an experiment found.

    cells:    net/integrator -> {"rows": one per seed, "search": all that was tried}, or {"error": sentence}
    theory:   name of a case -> {"title", "rows", "figures"}, or {"error": sentence}
    folder:   where the run lies, with the nets of the first seed
    """

    experiment: Experiment
    cells: Mapping[str, Any]
    theory: Mapping[str, Any]
    environment: Mapping[str, Any]
    notes: Sequence[str] = ()
    folder: Path | None = None
    _place: Any = field(default=None, compare=False)  # a temporary folder lives as long as the results and their copies

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One dict for each net, integrator and seed."""
        return [row for cell in self.cells.values() for row in cell.get("rows", ())]

    @property
    def failures(self) -> dict[str, str]:
        """Why pairs and cases have no result."""
        both = {**self.cells, **{f"theory/{k}": v for k, v in self.theory.items()}}
        return {k: v["error"] for k, v in both.items() if "error" in v}

    @cached_property
    def summaries(self) -> list[Summary]:
        return statistics.summarise(self.rows)

    @property
    def reference(self) -> str | None:
        """The pair that the others are compared with."""
        asked = self.experiment.reference if self.experiment.reference in self.cells else ""
        return statistics.reference_of(self.summaries, asked if "rows" in self.cells.get(asked, {}) else "")

    @cached_property
    def differences(self) -> list[Difference]:
        """Paired differences in test accuracy to the reference, with 95 % t-intervals."""
        if self.reference is None:
            return []
        return statistics.differences(self.rows, self.reference, 1.0 / self.environment.get("n_test", 1e9))

    def table(self) -> str:
        """Print the tables, and return them as one text."""
        out = str(self)
        print(out)
        return out

    def __str__(self) -> str:
        cells = self.comparison()
        found = tables.text(
            tables.columns(cells, [n.format(self.score) for n in FOUND]), self.caption, right=(2, 3, 4, 5)
        )
        apart = tables.text(tables.columns(cells, APART), f"Paired difference to {self.reference}, points", right=(2,))
        blocks = [found, apart, self.remark] if len(cells) > 1 else []
        if self.theory:
            blocks.append(tables.text([THEORY, *self.theory_rows()], "Where theory predicts the outcome"))
        blocks += [f"{key} failed: {why}" for key, why in self.failures.items()]
        return "\n\n".join([*blocks, *self.notes])

    def __repr__(self) -> str:
        return f"Results({len(self.summaries)} pairs on {self.experiment.data!r}, {len(self.failures)} failures)"

    def _repr_html_(self) -> str:
        from .report import html_table

        parts = [html_table(self.comparison(), self.caption, RIGHT), f"<p>{self.remark}</p>"]
        return "".join(parts + ([html_table([THEORY, *self.theory_rows()], "Theory")] if self.theory else []))

    def comparison(self) -> list[list[str]]:
        """Cells of the comparison table, header first."""
        return tables.comparison(self.summaries, self.differences, self.score)

    def theory_rows(self) -> list[list[str]]:
        """Case, prediction, measurement, agrees."""
        rows = [row for case in self.theory.values() for row in case.get("rows", ())]
        return [[r["case"], r["prediction"], r["measurement"], "yes" if r["agrees"] else "NO"] for r in rows]

    @property
    def measure(self) -> str:
        """What nets are compared by: "accuracy" of labels, or "r2" of real targets."""
        return next((row["measure"] for row in self.rows if "measure" in row), "accuracy")

    @property
    def score(self) -> str:
        """The measure as a word in a sentence."""
        return tables.MEASURES[self.measure]

    @property
    def caption(self) -> str:
        e = self.experiment
        over = f"mean ± sd over {e.seeds} seeds" if e.seeds > 1 else "one seed"
        over += f", {e.protocol.replace('_', ' ')}" if e.protocol else ""
        return f"Test {self.score} on {e.data}, {over}; difference to {self.reference}"

    @property
    def remark(self) -> str:
        """How to read the differences."""
        why = "as asked" if self.experiment.reference else "best on validation"
        return (
            f"Differences are in points of {self.score}, paired by seed, with 95 % t-intervals, against "
            f"{self.reference} ({why}). {statistics.note(self.differences)} "
            "nfe: field evaluations of one forward pass; seconds: of one training."
        )

    def to_latex(self) -> str:
        """The comparison as a LaTeX table without packages."""
        return tables.latex(self.comparison(), self.caption + ".", RIGHT)

    def to_csv(self) -> str:
        """One line for each net, integrator and seed."""
        columns, rows = self._columns()
        return tables.comma_separated(columns, rows)

    def _columns(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Columns and rows with the score under the name of what it is."""
        name = self.measure
        return [name if c == "accuracy" else c for c in tables.COLUMNS], [
            {**row, name: row["accuracy"]} for row in self.rows
        ]

    def to_dataframe(self) -> Any:
        """The rows as a pandas.DataFrame; raises NotBuiltYet, with the line to type, where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise NotBuiltYet('pandas is not installed; write: pip install "odenet[df]"') from None
        columns, rows = self._columns()
        return pandas.DataFrame(rows, columns=[*columns, "lr", "span", "val_accuracy"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment.to_dict(),
            "id": self.experiment.id,
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "reference": self.reference,
            "differences": [vars(d) for d in self.differences],
            "cells": dict(self.cells),
            "theory": dict(self.theory),
        }

    def save(self, folder: str | Path) -> Path:
        """Write results.csv, results.json, table.tex, figures with their data, report.html and the nets into `folder`.

        Raises BadInput where the folder holds something already, unless it is this run's own.
        """
        folder = Path(folder)
        mine = self.folder is not None and folder.resolve() == self.folder.resolve()
        if not mine:
            Run.start(self.experiment, folder=folder)
            if self.folder is not None and (self.folder / "nets").is_dir():
                shutil.copytree(self.folder / "nets", folder / "nets", dirs_exist_ok=True)
        from .report import write_report

        write(folder / "results.json", json.dumps(self.to_dict(), indent=1) + "\n")
        write(folder / "results.csv", self.to_csv())
        write(folder / "table.tex", self.to_latex())
        write_report(self, folder)
        return folder

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """The results in a run folder: of results.json, or of an unfinished run as far as it went."""
        run = Run.open(folder)
        path = run.folder / "results.json"
        if not path.is_file():
            return gather(run, run.finished(), environment(), ["This run is not finished."])
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            experiment = Experiment.from_dict(content["experiment"])
            cells, theory, facts, notes = (content[k] for k in ("cells", "theory", "environment", "notes"))
            return cls(experiment, cells, theory, facts, notes, run.folder)
        except (ValueError, KeyError, TypeError) as problem:
            raise BadInput(f"{path} is not a results file of odenet: {problem}.") from None


def compare(
    experiment: Experiment | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    **words: Any,
) -> Results:
    """Train and compare nets under integrators, with the same search and the same seeds for all.

    words: the fields of `Experiment`, such as data="digits", nets=["resnet", "antisymmetric"],
           integrators=["euler", "rk4"], seeds=3; or give an Experiment
    resume: finish the run folder of this very experiment instead of refusing it
    With `name` (or `out`) the run is kept in out/name as it goes; without, in a temporary folder until `save`.
    Raises BadInput for names and pairs that cannot work, before anything is trained.
    """
    if experiment is not None and words:
        raise BadInput(
            f"compare takes an Experiment or its fields, not both; put {', '.join(words)} into the Experiment."
        )
    given = experiment or Experiment.from_dict(words)
    if experiment is not None or "name" in words or "out" in words:
        return _carry_out(given, None, resume, progress)
    place = _Temporary()
    return replace(_carry_out(given, place.folder, resume, progress), _place=place)


class _Temporary:
    """A folder that goes when the last reference to this object does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="odenet-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def _carry_out(given: Experiment, folder: Path | None, resume: bool, progress: bool) -> Results:
    from .run import load, longest_first, units

    settled = given.settled()
    todo, notes = units(settled)
    run = Run.start(given, resume=resume, folder=folder)
    done = run.finished() if resume else {}
    left = longest_first([u for u in todo if u["key"] not in done])
    start = time.perf_counter()
    with Progress([u["key"] for u in todo], set(done)) if progress else Plain() as bar:

        def keep(unit: dict[str, Any], result: dict[str, Any]) -> None:
            if "error" not in result:  # a failed unit is tried again by resume
                run.append(unit["key"], result)
            done[unit["key"]] = result
            bar.finished(unit["key"], result)

        execute(left, settled.workers or cores(), run.folder / "nets", keep, lambda u, f: bar.moved(u["key"], f))
    facts = environment() | {"n_test": len(load(settled.data, 0).x_test)}
    if len(left) == len(todo):
        facts["wall_seconds"] = round(time.perf_counter() - start, 1)
    return gather(
        run, {u["key"]: done[u["key"]] for u in todo}, facts, notes + ([_QUICK] if given.quick else []), settled
    )


def gather(
    run: Run,
    done: Mapping[str, Any],
    facts: Mapping[str, Any],
    notes: Sequence[str],
    settled: Experiment | None = None,
) -> Results:
    """Results of finished units."""
    theory = {k.split("/", 1)[1]: v for k, v in done.items() if k.startswith("theory/")}
    cells = {k: v for k, v in done.items() if not k.startswith("theory/")}
    return Results(settled or run.experiment.settled(), cells, theory, facts, notes, run.folder)


def environment() -> dict[str, Any]:
    """Versions and machine, for the report."""
    versions = {}
    for package in ("odenet", "torch", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            from .. import __version__

            versions[package] = __version__ if package == "odenet" else "unknown"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "versions": versions,
    }
