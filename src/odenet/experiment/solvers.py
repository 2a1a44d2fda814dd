"""Work and precision of integrators on initial value problems: error at the end against evaluations and seconds.

    found = work_precision(["e2", "hires"], ["dopri5", "radau_iia5"], tolerances=[1e-4, 1e-6, 1e-8])
    found.table()
    found.save("runs/solvers")

The error is max_i |y_i - reference_i| / (|reference_i| + floor) at the last time, with the problem's own floor.
Adaptive methods are run at rtol = tolerance, atol = floor * tolerance; the others with each number of steps. A run that
fails is a row with its status. Other libraries' solvers are methods too, `torchdiffeq:dopri5` or `scipy:Radau`: they
run as a whole, in their own loop.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..errors import BadInput, OdenetError, UnknownName
from ..fields.testset import IVPS, InitialValueProblem
from ..flow import solve
from ..integrators import external
from . import tables
from .store import write

Peer = Callable[..., Tensor]  # peer(f, y0, t0, t1, rtol, atol) -> y(t1); raises RuntimeError where it gives up
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
STEPS = (100, 400, 1600, 6400)
MAX_STEPS = 20_000  # attempts of one run
SECONDS = 20.0  # of one run; one that takes longer than a tenth of it is not repeated
EVALUATIONS = 400_000  # of f, where a peer knows no limit on its steps
MEASURE = "max |y - reference| / (|reference| + floor) at the last time"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one problem at one setting.

    setting:  the tolerance, or the number of steps where the method takes equal ones
    nfe:      evaluations of f as `solve` counts them in its stats; of peers every call, those for differences of f too
    seconds:  median over the repeats
    error:    None where the last time was not reached, or not with finite numbers
    """

    problem: str
    method: str
    setting: float
    kind: str
    status: str
    error: float | None
    nfe: int
    seconds: float
    message: str = ""

    @property
    def label(self) -> str:
        """1e-06, or 400 steps."""
        return f"{self.setting:.3g}" if self.kind == "tolerance" else f"{self.setting:.0f} steps"


COLUMNS = ("problem", "method", "kind", "setting", "status", "error", "nfe", "seconds", "message")


@dataclass(frozen=True)
class WorkPrecision:
    """Every run of `work_precision`, and where and when they were made."""

    runs: tuple[Run, ...]
    made: Mapping[str, Any]

    @property
    def problems(self) -> list[str]:
        """In the order they were run."""
        return list(dict.fromkeys(r.problem for r in self.runs))

    def of(self, problem: str) -> list[Run]:
        """The runs of one problem."""
        return [r for r in self.runs if r.problem == problem]

    def table(self, problem: str | None = None) -> str:
        """The runs as a table for a terminal, all or those of one problem."""
        head = ["problem", "method", "setting", "error", "nfe", "seconds", "status"]
        body = [_cells(r) for r in self.runs if problem in (None, r.problem)]
        return tables.text([head, *body], f"error: {MEASURE}", right=(2, 3, 4, 5))

    def csv(self) -> str:
        """One line for each run."""
        return tables.comma_separated(COLUMNS, [asdict(r) for r in self.runs])

    def json(self) -> str:
        """Runs, versions, machine and date."""
        return json.dumps({**self.made, "runs": [asdict(r) for r in self.runs]}, indent=1)

    def save(self, folder: str | Path, figures: bool = True) -> Path:
        """work_precision.csv, .json, .txt, and for each problem a figure as png, svg and pdf and its data as csv.

        Returns the folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "work_precision.csv", self.csv())
        write(folder / "work_precision.json", self.json())
        write(folder / "work_precision.txt", self.table() + "\n")
        if figures:
            from . import plots

            for problem in self.problems:
                drawing = plots.work_precision(problem, [asdict(r) for r in self.of(problem)])
                write(folder / f"{drawing.name}.csv", tables.comma_separated(drawing.columns, drawing.rows))
                for kind, content in drawing.render().items():
                    write(folder / f"{drawing.name}.{kind}", content)
        return folder


def _cells(r: Run) -> list[str]:
    error = "" if r.error is None else f"{r.error:.1e}"
    return [r.problem, r.method, r.label, error, str(r.nfe), f"{r.seconds:.4f}", r.status]


def work_precision(
    problems: Sequence[str | InitialValueProblem],
    methods: Sequence[str],
    tolerances: Sequence[float] = TOLERANCES,
    steps: Sequence[int] = STEPS,
    peers: bool | Sequence[str] | Mapping[str, Peer] = True,
    repeats: int = 3,
    max_steps: int = MAX_STEPS,
    seconds: float = SECONDS,
    progress: Callable[[Run], None] | None = None,
) -> WorkPrecision:
    """Run every method on every problem at every tolerance, or with every number of steps where it takes equal ones.

    problems:   names of the test set, or InitialValueProblems with a reference
    methods:    names of integrators and of installed solvers of other libraries
    peers:      further solvers of other libraries: all that are installed, those named, none, or functions
                peer(f, y0, t0, t1, rtol, atol) -> y(t1)
    repeats:    of each run; the median of the seconds counts
    max_steps, seconds: the most that one run may take; it ends with a status then
    progress:   called with each finished run

    Choose it to see which method reaches an accuracy with the least work. Raises UnknownName, BadInput.
    """
    asked = [problem_of(p) for p in problems]
    entrants = {name: entrant(name) for name in methods} | {
        name: Entrant("tolerance", peer=peer) for name, peer in _peers(peers).items()
    }
    checked(tolerances, steps, repeats, max_steps, seconds)
    if not asked or not entrants:
        raise BadInput(f"work_precision needs problems and methods, got {len(asked)} and {len(entrants)}.")
    settings: dict[str, Sequence[float]] = {"tolerance": tolerances, "steps": steps}
    limit = {"max_steps": max_steps, "seconds": seconds}
    runs = []
    with _quiet():
        for problem in asked:
            for name, who in entrants.items():
                for run in _runs_of(problem, name, who, settings[who.kind], repeats, limit):
                    runs.append(run)
                    if progress is not None:
                        progress(run)
    return WorkPrecision(tuple(runs), made())


@dataclass(frozen=True)
class Entrant:
    """A method in the race: an integrator of this library, or another library's solver.

    kind: what it is given, "tolerance" or "steps"
    peer: peer(f, y0, t0, t1, rtol, atol) or peer(f, y0, t0, t1, steps) -> y(t1); None for an integrator
    """

    kind: str
    peer: Peer | None = None


def entrant(name: str) -> Entrant:
    """What a name means; raises UnknownName with the nearest names of both kinds."""
    adaptive, stepped = external.peers(), external.stepped_peers()
    if name in adaptive:
        return Entrant("tolerance", adaptive[name])
    if name in stepped:
        return Entrant("steps", stepped[name])
    ours = [known for known in integrators.names() if ":" not in known]
    if name not in ours:
        known = [*ours, *adaptive, *stepped]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(known)}."
        raise UnknownName(f"no method is called {name!r}; {hint}")
    return Entrant("tolerance" if integrators.get(name).adaptive else "steps")


def checked(
    tolerances: Sequence[float], steps: Sequence[int], repeats: int = 1, max_steps: int = MAX_STEPS,
    seconds: float = SECONDS,
) -> None:  # fmt: skip
    """Raise BadInput for a setting that no method can be run with."""
    for tolerance in tolerances:
        if not 0 < tolerance < 1:
            raise BadInput(f"a tolerance lies between 0 and 1, got {tolerance:g}; write 1e-6, for instance.")
    for count in steps:
        if count < 1 or count != int(count):
            raise BadInput(f"steps are positive whole numbers, got {count:g}; write 100, for instance.")
    for what, value in (("repeats", repeats), ("max_steps", max_steps), ("seconds", seconds)):
        if not value > 0 or (what != "seconds" and value < 1):
            raise BadInput(f"{what} is a positive number, got {value:g}.")
    if not tolerances or not steps:
        raise BadInput("tolerances and steps are lists of one number or more, got an empty one.")


def made() -> dict[str, Any]:
    """Date, machine and versions, as results carry them."""
    from .compare import environment

    about = environment()
    for package in ("torchdiffeq", "torchode", "diffrax"):
        with contextlib.suppress(PackageNotFoundError):
            about["versions"][package] = version(package)
    return {**about, "threads": torch.get_num_threads(), "processor": _processor(), "measure": MEASURE}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _runs_of(
    problem: InitialValueProblem, name: str, who: Entrant, settings: Sequence[float], repeats: int,
    limit: Mapping[str, Any],
) -> Iterator[Run]:  # fmt: skip
    def attempt(at: InitialValueProblem) -> Callable[[float], _Outcome]:
        return _own(at, name, who.kind, limit) if who.peer is None else _other(at, who.peer, who.kind, limit)

    # what a first call loads and compiles is no part of a solve
    attempt(replace(problem, t1=problem.t0 + 1e-6 * (problem.t1 - problem.t0)))(_easy(who.kind, settings))
    for setting in settings:
        yield _measured(problem, name, who.kind, setting, repeats, limit["seconds"], attempt(problem))


def _easy(kind: str, settings: Sequence[float]) -> float:
    return max(settings) if kind == "tolerance" else 2


@dataclass(frozen=True)
class _Outcome:
    y: Tensor | None
    status: str
    nfe: int
    message: str = ""


def _measured(
    problem: InitialValueProblem, method: str, kind: str, setting: float, repeats: int, limit: float,
    attempt: Callable[[float], _Outcome],
) -> Run:  # fmt: skip
    times: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        outcome = attempt(setting)
        times.append(time.perf_counter() - begin)
        if outcome.y is None or times[0] > limit / 10:
            break
    error = None if outcome.y is None else problem.error(outcome.y)
    run = Run(problem=problem.name, method=method, setting=setting, kind=kind, status=outcome.status, error=error,
              nfe=outcome.nfe, seconds=statistics.median(times), message=outcome.message)  # fmt: skip
    lost = error is not None and not math.isfinite(error)
    return replace(run, error=None, status="non_finite") if lost else run


def _own(problem: InitialValueProblem, name: str, kind: str, limit: Mapping[str, Any]) -> Callable[[float], _Outcome]:
    def attempt(setting: float) -> _Outcome:
        pace: dict[str, Any] = {"rtol": setting, "atol": problem.floor * setting, **limit}
        if kind == "steps":
            pace = {"steps": int(setting), "seconds": limit["seconds"]}
        try:
            with torch.no_grad():
                found = solve(problem.f, problem.start(), [problem.t0, problem.t1], integrator=name,
                              on_failure="return", **pace)  # fmt: skip
        except OdenetError as problem_:
            return _Outcome(None, "refused", 0, str(problem_))
        except Exception as fault:  # a table of fifty methods must not be lost to one
            return _Outcome(None, "error", 0, f"{type(fault).__name__}: {fault}")
        reached = found.t_last == problem.t1 and found.y.shape[0] == 2
        return _Outcome(found.y[-1] if reached else None, found.status, int(found.stats["nfe"]), found.message)

    return attempt


class _Exhausted(Exception):
    """A peer has used up its evaluations or its time."""


def _other(
    problem: InitialValueProblem, peer: Peer, kind: str, limit: Mapping[str, Any]
) -> Callable[[float], _Outcome]:
    def attempt(setting: float) -> _Outcome:
        count, end = 0, time.perf_counter() + limit["seconds"]

        def f(t: Any, y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            if count > EVALUATIONS or time.perf_counter() > end:
                raise _Exhausted
            return problem.f(t, y)

        pace = (setting, problem.floor * setting) if kind == "tolerance" else (int(setting),)
        try:
            with torch.no_grad():
                y = peer(f, problem.start(), problem.t0, problem.t1, *pace)
        except _Exhausted:
            return _Outcome(None, "max_steps" if count > EVALUATIONS else "time_budget", count)
        except Exception as fault:  # each library fails in its own way
            return _Outcome(None, "failed", count, f"{type(fault).__name__}: {fault}")
        return _Outcome(y, "success" if kind == "tolerance" else "completed", count)

    return attempt


def problem_of(given: str | InitialValueProblem) -> InitialValueProblem:
    """A problem with a reference; raises UnknownName with the nearest names, BadInput where there is no reference."""
    if isinstance(given, InitialValueProblem):
        if given.reference is None:
            raise BadInput(
                f"{given.name} has no reference value; give one with dataclasses.replace(..., reference=...)."
            )
        if len(given.reference) != len(given.y0) or given.t1 == given.t0:
            raise BadInput(
                f"{given.name} has {len(given.y0)} initial values, {len(given.reference)} reference values and t from "
                f"{given.t0:g} to {given.t1:g}; write as many of both, and t1 other than t0."
            )
        return given
    if given not in IVPS:
        near = difflib.get_close_matches(given, IVPS, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(IVPS)}."
        raise UnknownName(f"no problem of the test set is called {given!r}; {hint}")
    return IVPS[given]


def _peers(given: bool | Sequence[str] | Mapping[str, Peer]) -> Mapping[str, Peer]:
    if isinstance(given, Mapping):
        return given
    installed = external.peers()
    if isinstance(given, bool):
        return installed if given else {}
    if missing := [name for name in given if name not in installed]:
        raise UnknownName(f"no installed solver is called {missing[0]!r}; there are: {', '.join(installed)}.")
    return {name: installed[name] for name in given}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that suspect results give: the status says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
