"""Work and precision of integrators on initial value problems: error at the end against evaluations and seconds.

    found = work_precision(["e2", "hires"], ["dopri5", "radau_iia5"], tolerances=[1e-4, 1e-6, 1e-8])
    found.table()
    found.save("runs/solvers")

The error is max_i |y_i - reference_i| / (|reference_i| + floor) at the last time, with the problem's own floor.
Adaptive methods are run at rtol = tolerance, atol = floor * tolerance; the others with each number of steps. A run that
fails is a row with its status.
"""

from __future__ import annotations

import contextlib
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
    error:    None where the last time was not reached
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
        return f"{self.setting:.0e}" if self.kind == "tolerance" else f"{self.setting:.0f} steps"


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
        """work_precision.csv, .json, .txt, and for each problem figures as png, svg and pdf; returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "work_precision.csv", self.csv())
        write(folder / "work_precision.json", self.json())
        write(folder / "work_precision.txt", self.table() + "\n")
        if figures:
            from . import plots

            for problem in self.problems:
                drawing = plots.work_precision(problem, [asdict(r) for r in self.of(problem)])
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
    peers:      other libraries' solvers: all that are installed, those named, none, or functions
                peer(f, y0, t0, t1, rtol, atol) -> y(t1)
    repeats:    of each run; the median of the seconds counts
    max_steps, seconds: the most that one run may take; it ends with a status then
    progress:   called with each finished run

    Choose it to see which method reaches an accuracy with the least work. Raises UnknownName, BadInput.
    """
    asked = [_problem(p) for p in problems]
    ours = [(name, integrators.get(name)) for name in methods]
    others = _peers(peers)
    if repeats < 1 or not asked:
        raise BadInput(f"work_precision needs problems and repeats >= 1, got {len(asked)} and {repeats}.")
    limit = {"max_steps": max_steps, "seconds": seconds}
    runs = []
    with _quiet():
        for problem in asked:
            for run in _runs_of(problem, ours, others, tolerances, steps, repeats, limit):
                runs.append(run)
                if progress is not None:
                    progress(run)
    return WorkPrecision(tuple(runs), made())


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
    problem: InitialValueProblem,
    ours: Sequence[tuple[str, Any]],
    others: Mapping[str, Peer],
    tolerances: Sequence[float],
    steps: Sequence[int],
    repeats: int,
    limit: Mapping[str, Any],
) -> Iterator[Run]:
    moment = replace(problem, t1=problem.t0 + 1e-6 * (problem.t1 - problem.t0))
    for name, method in ours:
        kind, settings = ("tolerance", tolerances) if method.adaptive else ("steps", steps)
        for setting in settings[:1]:  # what a first call loads and compiles is no part of a solve
            _own(moment, name, kind, limit)(setting if kind == "tolerance" else 2)
        for setting in settings:
            yield _measured(problem, name, kind, setting, repeats, limit["seconds"], _own(problem, name, kind, limit))
    for name, peer in others.items():
        for setting in tolerances:
            yield _measured(
                problem, name, "tolerance", setting, repeats, limit["seconds"], _other(problem, peer, limit)
            )


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


def _other(problem: InitialValueProblem, peer: Peer, limit: Mapping[str, Any]) -> Callable[[float], _Outcome]:
    def attempt(setting: float) -> _Outcome:
        count, end = 0, time.perf_counter() + limit["seconds"]

        def f(t: Any, y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            if count > EVALUATIONS or time.perf_counter() > end:
                raise _Exhausted
            return problem.f(t, y)

        atol = problem.floor * setting
        try:
            with torch.no_grad():
                y = peer(f, problem.start(), problem.t0, problem.t1, setting, atol)
        except _Exhausted:
            return _Outcome(None, "max_steps" if count > EVALUATIONS else "time_budget", count)
        except Exception as fault:  # each library fails in its own way
            return _Outcome(None, "failed", count, f"{type(fault).__name__}: {fault}")
        return _Outcome(y, "success", count)

    return attempt


def _problem(given: str | InitialValueProblem) -> InitialValueProblem:
    if isinstance(given, InitialValueProblem):
        if given.reference is None:
            raise BadInput(
                f"{given.name} has no reference value; give one with dataclasses.replace(..., reference=...)."
            )
        return given
    if given not in IVPS:
        raise UnknownName(f"no problem of the test set is called {given!r}; there are: {', '.join(IVPS)}.")
    return IVPS[given]


def _peers(given: bool | Sequence[str] | Mapping[str, Peer]) -> Mapping[str, Peer]:
    if isinstance(given, Mapping):
        return given
    installed: Mapping[str, Peer] = getattr(external, "peers", dict)()
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
