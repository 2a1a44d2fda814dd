"""`odenet bench solvers`: a run folder with work-precision tables and figures, written even when it is stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..fields.testset import InitialValueProblem
from .solvers import Run, WorkPrecision, checked, entrant, made, problem_of, work_precision
from .spec import NAME


@dataclass(frozen=True)
class Ended:
    """What a bench has printed at its end; stopped: before all runs were done."""

    text: str
    folder: Path
    stopped: bool = False


def bench_solvers(
    problems: Sequence[Any],
    methods: Sequence[str],
    tolerances: Sequence[float],
    steps: Sequence[int],
    *,
    repeats: int = 3,
    seconds: float = 20.0,
    name: str = "",
    out: Path = Path("runs"),
) -> Ended:
    """`work_precision` of the methods, saved into out/name; a line on the error stream for each finished run.

    Everything is checked before anything is written. Raises BadInput, UnknownName.
    """
    asked = [problem_of(_initial_value_problem(p)) for p in problems]
    checked(tolerances, steps, repeats, seconds=seconds)
    entrants = {method: entrant(method) for method in methods}
    if not asked or not entrants:
        raise BadInput("a bench needs problems and methods; write --problems hires --methods dopri5 radau_iia5.")
    _unlike([p.name for p in asked])
    folder = fresh(out, name, "solvers")
    total = len(asked) * sum(len(tolerances if e.kind == "tolerance" else steps) for e in entrants.values())
    done: list[Run] = []

    def progress(run: Run) -> None:
        done.append(run)
        print(f"[{len(done)}/{total}] {run.problem} {run.method} {run.label}: {run.status}", file=sys.stderr)

    stopped = False
    try:
        found = work_precision(
            asked, list(entrants), tolerances, steps, peers=False, repeats=repeats, seconds=seconds, progress=progress
        )
    except KeyboardInterrupt:
        found, stopped = WorkPrecision(tuple(done), made()), True
    found.save(folder)
    if stopped:
        print(f"odenet: stopped; the {len(done)} of {total} runs that finished are kept.", file=sys.stderr)
    return Ended(f"{found.table()}\n\n{folder}", folder, stopped)


def _initial_value_problem(given: Any) -> str | InitialValueProblem:
    if isinstance(given, str | InitialValueProblem):
        return given
    raise BadInput(
        f"a problem is an odenet.fields.testset.InitialValueProblem, got {type(given).__name__}; "
        "write one with f, y0, t1 and the reference y(t1)."
    )


def _unlike(names: Sequence[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise BadInput(f"problem name {name!r} is not usable for files: letters, digits, '.', '_' and '-' only.")
        if names.count(name) > 1:
            raise BadInput(f"two problems are called {name!r}; give each a name of its own.")


def fresh(out: Path, name: str, kind: str) -> Path:
    """A new, empty folder out/name (no name: kind and time). Raises BadInput where it exists or cannot be made."""
    if name and (not NAME.fullmatch(name) or set(name) == {"."}):
        raise BadInput(f"run name {name!r} is not usable: letters, digits, '.', '_' and '-' only.")
    folder = out / (name or f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"the run folder {folder} exists already and is left as it is; choose another name.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BadInput(f"the run folder {folder} cannot be written: {problem.strerror}.") from None
    return folder
