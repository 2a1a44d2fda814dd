"""`odenet bench pde`: errors of PDE methods at stated budgets, medians over seeds, beside the targets.

With peers, DeepXDE runs at the same problems, seeds and threads, once for each problem, with our largest budget of it.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import __version__, pde
from ..errors import BadInput, Incompatible, OdenetError
from . import deepxde_peer
from .bench import Ended, fresh
from .classical import Classical, classical


@dataclass(frozen=True)
class Task:
    """One cell of the table: a problem, a kind of method, a budget in seconds and the error that is aimed at.

    method: "random_features", "deep_bsde", or "trained": the automatic choice among trained nets
    The error is rel. L2 against the truth; of an inverse problem the largest relative error of its parameters.
    """

    problem: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    method: str = "random_features"
    seconds: float = 60.0
    target: float | None = None

    @property
    def title(self) -> str:
        """The problem with its parameters."""
        words = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.arguments.items())
        return self.problem + (f"({words})" if words else "")


FEATURES, TRAINED, BSDE = "random_features", "trained", "deep_bsde"
PEERS = {f"deepxde {variant}": variant for variant in deepxde_peer.VARIANTS}
REACHED = 1.1  # a run has reached its final error where it is within ten per cent of it
TABLE = (
    Task("poisson", {"dim": 2}, FEATURES, 1, 1e-10), Task("poisson", {"dim": 2}, TRAINED, 20, 1e-7),
    Task("heat", {}, FEATURES, 1, 1e-9), Task("heat", {}, TRAINED, 20, 1e-6),
    Task("helmholtz", {"kind": "4pi"}, FEATURES, 2, 1e-6), Task("helmholtz", {"kind": "4pi"}, TRAINED, 60, 1e-5),
    Task("wave", {}, FEATURES, 2, 1e-6), Task("wave", {}, TRAINED, 60, 1e-3),
    Task("convection", {}, FEATURES, 2, 1e-6), Task("convection", {}, TRAINED, 60, 1e-4),
    Task("burgers", {}, FEATURES, 60, 1e-6), Task("burgers", {}, TRAINED, 150, 1e-5),
    Task("allen_cahn", {}, FEATURES, 60, 1e-6), Task("allen_cahn", {}, TRAINED, 90, 1e-5),
    Task("allen_cahn_periodic", {}, FEATURES, 60, 1e-4), Task("allen_cahn_periodic", {}, TRAINED, 120, 1e-3),
    Task("ks", {}, FEATURES, 60, 1e-6), Task("ks", {}, TRAINED, 60, 1e-3),
    Task("ks_chaotic", {}, FEATURES, 300, 1e-2),
    Task("kdv", {}, FEATURES, 60, 1e-5), Task("kdv", {}, TRAINED, 60, 1e-4),
    Task("schrodinger", {}, FEATURES, 60, 1e-5), Task("schrodinger", {}, TRAINED, 120, 1e-4),
    Task("poisson_lshape", {}, FEATURES, 60, 1e-4), Task("poisson_lshape", {}, TRAINED, 60, 1e-3),
    Task("poisson", {"dim": 5}, TRAINED, 60, 1e-4), Task("poisson", {"dim": 10}, TRAINED, 100, 1e-4),
    Task("hjb", {}, BSDE, 300, 1e-3), Task("allen_cahn_high_dimension", {}, BSDE, 300, 2e-3),
    Task("default_risk", {}, BSDE, 300, 3e-3),
    Task("inverse_burgers", {}, TRAINED, 100, 1e-4), Task("inverse_burgers", {"noise": 0.01}, TRAINED, 100, 1e-2),
    Task("inverse_lorenz", {}, TRAINED, 60, 1e-4), Task("inverse_lorenz", {"noise": 0.01}, TRAINED, 60, 1e-2),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One solve: its error as the task defines it, held-out residual, seconds of wall clock and processor, what was
    chosen.

    curve: (seconds, error) where the error was looked at on the way; the clock stood still then, the processor's not
    """

    problem: str
    method: str
    seed: int
    error: float | None
    residual: float | None
    seconds: float
    processor: float
    status: str
    target: float | None
    budget: float
    settings: dict[str, Any]
    curve: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ranked(self) -> float:
        """The error, infinite where there is none."""
        return math.inf if self.error is None or math.isnan(self.error) else self.error

    def reach(self, error: float) -> float:
        """Seconds after which the error was at most this; infinite where it never was."""
        return min((t for t, e in self.curve if e <= error), default=math.inf)


def bench_pde(
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    *,
    seeds: int = 3,
    share: float = 1.0,
    peers: bool = False,
    workers: int = 1,
    resume: bool = False,
    name: str = "",
    out: Path = Path("runs"),
) -> Ended:
    """Solve the table's tasks (those named), `seeds` times each, and save rows.json and table.txt.

    share: of the budgets, to look at a part of the work; peers: DeepXDE beside, its stock and its tuned settings;
    workers: processes, each with one thread; resume: only what the folder out/name does not hold yet
    Raises BadInput where the table has no such task, Incompatible where runs of peers are left and DeepXDE is not
    installed.
    """
    chosen = [t for t in TABLE if (not problems or t.problem in problems) and (not methods or t.method in methods)]
    known = sorted({t.problem for t in TABLE})
    if not chosen or set(problems) - set(known):
        found = ", ".join(sorted({t.method for t in TABLE}))
        raise BadInput(f"the table has no such task; problems: {', '.join(known)}; methods: {found}.")
    rows, jobs = _kept(out / name) if resume else [], planned(chosen, seeds, peers)
    order = {(t.title, t.method, seed): k for k, (t, seed) in enumerate(jobs)}
    left = [(t, seed) for t, seed in jobs if (t.title, t.method, seed) not in {_key(r) for r in rows}]
    if any(t.method in PEERS for t, _ in left) and not deepxde_peer.installed():
        raise Incompatible(deepxde_peer.ABSENT)
    folder = out / name if resume else fresh(out, name, "pde")
    stopped = False
    try:
        for row in _solved(left, share, workers):
            rows = sorted([*rows, row], key=lambda r: order.get(_key(r), -1))
            print(f"[{len(rows)}/{len(jobs)}] {_line(row)}", file=sys.stderr)
            _write(folder, rows)
    except KeyboardInterrupt:
        stopped = True
    _write(folder, rows)
    return Ended(f"{report(rows)}\n\n{folder}", folder, stopped)


def _key(row: Row) -> tuple[str, str, int]:
    return row.problem, row.method, row.seed


def _kept(folder: Path) -> list[Row]:
    """The rows that a folder holds. Raises BadInput where it holds none."""
    if not (folder / "rows.json").is_file():
        raise BadInput(f"there is no bench to resume in {folder}: rows.json is missing; give its --out and --name.")
    return [Row(**r) for r in json.loads((folder / "rows.json").read_text())["rows"]]


def _solved(jobs: Sequence[tuple[Task, int]], share: float, workers: int) -> Iterator[Row]:
    """Rows as they end, each solved with one thread."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from (_of(task, seed, share) for task, seed in jobs)
        finally:
            torch.set_num_threads(threads)
        return
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=start, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(_of, *j, share) for j in jobs]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def planned(tasks: Sequence[Task], seeds: int, peers: bool) -> list[tuple[Task, int]]:
    """Tasks with seeds, all methods of one problem and seed one after another; peers have its largest budget."""
    groups: dict[str, list[Task]] = {}
    for t in tasks:
        groups.setdefault(t.title, []).append(t)
    for group in groups.values():
        if peers and group[0].problem in deepxde_peer.STATEMENTS:
            largest = max(t.seconds for t in group)
            group += [Task(group[0].problem, group[0].arguments, method, largest) for method in PEERS]
    return [(t, seed) for group in groups.values() for seed in range(seeds) for t in group]


def _of(task: Task, seed: int, share: float) -> Row:
    return _peer(task, seed, share) if task.method in PEERS else _row(task, seed, share)


def _row(task: Task, seed: int, share: float) -> Row:
    problem = pde.get(task.problem, **task.arguments)
    if isinstance(problem, pde.Problem):
        problem.truth(problem.domain.bounds)  # the reference is computed before the clock runs
    method = pde.trained_method(problem) if task.method == TRAINED else task.method
    cpu = time.process_time()
    try:
        sol = pde.solve(problem, method, task.seconds * share, seed, track=True)
    except OdenetError as refusal:
        return _refused(task, seed, share, refusal, time.process_time() - cpu)
    cpu, true = time.process_time() - cpu, problem.facts.get("true_parameters", {})
    error = max(abs(sol.parameters[k] / v - 1) for k, v in true.items()) if true else sol.rel_l2
    curve = [] if true else [(h["seconds"], h["rel_l2"]) for h in sol.history if "rel_l2" in h]
    return Row(
        task.title, task.method, seed, error, sol.residual, sol.seconds, cpu, sol.status, task.target,
        task.seconds * share, sol.settings, [*curve, (sol.seconds, math.inf if error is None else error)],
    )  # fmt: skip


def _peer(task: Task, seed: int, share: float) -> Row:
    try:
        found = deepxde_peer.run(task.problem, task.arguments, task.seconds * share, seed, PEERS[task.method])
    except OdenetError as refusal:
        return _refused(task, seed, share, refusal, 0.0)
    settings = found["settings"] | {k: found[k] for k in ("iterations", "broken", "loss", "deepxde", "threads")}
    return Row(
        task.title, task.method, seed, found["rel_l2"], None, found["seconds"], found["processor"], "budget",
        task.target, task.seconds * share, settings, [(t, e) for t, e in found["curve"] if e is not None],
    )  # fmt: skip


def _refused(task: Task, seed: int, share: float, refusal: OdenetError, cpu: float) -> Row:
    status, budget = f"refused: {refusal}", task.seconds * share
    return Row(task.title, task.method, seed, None, None, 0.0, cpu, status, task.target, budget, {})


def _line(row: Row) -> str:
    error = "none" if row.error is None else f"{row.error:.2e}"
    return f"{row.problem} {row.method} seed {row.seed}: error {error} in {row.seconds:.1f} s ({row.status[:60]})"


def _write(folder: Path, rows: Sequence[Row]) -> None:
    facts = {
        "date": time.strftime("%Y-%m-%d"), "odenet": __version__, "torch": torch.__version__,
        "python": platform.python_version(), "threads": torch.get_num_threads(), "machine": platform.processor(),
        "rows": [asdict(r) for r in rows], "classical": [asdict(c) for c in yardsticks(rows)],
    }  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(facts, indent=1, default=str))
    (folder / "table.txt").write_text(report(rows) + "\n")


def report(rows: Sequence[Row]) -> str:
    """The table; beside peers, the comparison; and what the classical codes need."""
    lines = [table(rows)]
    if any(r.method in PEERS for r in rows):
        lines.append(beside(rows))
    if found := yardsticks(rows):
        heads = f"{'classical solution':34} {'error':>9} {'seconds':>9}  how"
        lines.append("\n".join([heads, *(f"{c.problem:34} {c.error:9.1e} {c.seconds:9.3g}  {c.how}" for c in found)]))
    return "\n\n".join(lines)


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        groups.setdefault((r.problem, r.method), []).append(r)
    return groups


def table(rows: Sequence[Row]) -> str:
    """Medians over seeds, with the largest error, beside the target; "-" where a target is not stated."""
    lines = [
        f"{'problem':34} {'method':16} {'median':>9} {'largest':>9} {'target':>9} met {'seconds':>8} {'budget':>7} n"
    ]
    for (problem, method), found in _grouped(rows).items():
        errors = [r.ranked for r in found]
        middle, target = statistics.median(errors), found[0].target
        met = "-" if target is None else "yes" if middle <= target else "no"
        seconds = statistics.median(r.seconds for r in found)
        aim = "-" if target is None else f"{target:.0e}"
        lines.append(
            f"{problem:34} {method:16} {middle:9.2e} {max(errors):9.2e} {aim:>9} {met:3} {seconds:8.1f} "
            f"{found[0].budget:7g} {len(found)}"
        )
    return "\n".join(lines)


def beside(rows: Sequence[Row]) -> str:
    """Ours against each peer, medians over pairs of equal seed.

    theirs/ours: of the final errors, theirs after at least as many seconds
    ours s:      until our error was at most theirs at its end; "-" where it never was
    theirs s:    until theirs was within ten per cent of what it came to; faster: their ratio
    """
    lines = [
        f"{'problem':34} {'method':16} {'beside':14} {'theirs/ours':>11} {'ours s':>8} {'theirs s':>8} {'faster':>8} n"
    ]
    groups = _grouped(rows)
    for (problem, method), mine in groups.items():
        for peer in PEERS if method not in PEERS else ():
            theirs = {r.seed: r for r in groups.get((problem, peer), [])}
            pairs = [(r, theirs[r.seed]) for r in mine if r.seed in theirs and math.isfinite(theirs[r.seed].ranked)]
            if pairs:
                lines.append(f"{problem:34} {method:16} {peer:14} {_compared(pairs)} {len(pairs)}")
    return "\n".join(lines)


def _compared(pairs: Sequence[tuple[Row, Row]]) -> str:
    ratio = statistics.median(b.ranked / max(a.ranked, 1e-300) for a, b in pairs)
    ours = statistics.median(a.reach(b.ranked) for a, b in pairs)
    theirs = statistics.median(b.reach(REACHED * b.ranked) for _, b in pairs)
    faster = statistics.median(b.reach(REACHED * b.ranked) / max(a.reach(b.ranked), 1e-9) for a, b in pairs)
    shown = [f"{v:>8.3g}" if math.isfinite(v) and v > 0 else f"{'-':>8}" for v in (ours, theirs, faster)]
    return f"{ratio:11.3g} {' '.join(shown)}"


def yardsticks(rows: Sequence[Row]) -> list[Classical]:
    """What a classical code needs for the problems in the rows, where there is one."""
    asked = {t.title: t for t in TABLE if any(r.problem == t.title for r in rows)}
    found = [classical(t.problem, title, t.arguments) for title, t in asked.items()]
    return [c for c in found if c is not None]
