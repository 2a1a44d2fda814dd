"""`odenet bench pde`: errors of PDE methods at stated budgets, medians over seeds, beside the targets."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import __version__, pde
from ..errors import BadInput, OdenetError
from .bench import Ended, fresh


@dataclass(frozen=True)
class Task:
    """One cell of the table: a problem, a kind of method, a budget in seconds and the error that is aimed at.

    method: "random_features", or "trained": the automatic choice among trained nets
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


FEATURES, TRAINED = "random_features", "trained"
TABLE = (
    Task("poisson", {"dim": 2}, FEATURES, 1, 1e-10), Task("poisson", {"dim": 2}, TRAINED, 20, 1e-7),
    Task("heat", {}, FEATURES, 1, 1e-9), Task("heat", {}, TRAINED, 20, 1e-6),
    Task("helmholtz", {}, FEATURES, 2, 1e-6), Task("helmholtz", {}, TRAINED, 60, 1e-5),
    Task("wave", {}, FEATURES, 2, 1e-6), Task("wave", {}, TRAINED, 120, 1e-3),
    Task("convection", {}, FEATURES, 2, 1e-6), Task("convection", {}, TRAINED, 60, 1e-4),
    Task("burgers", {}, FEATURES, 60, 1e-6), Task("burgers", {}, TRAINED, 150, 1e-5),
    Task("allen_cahn", {}, FEATURES, 60, 1e-6), Task("allen_cahn", {}, TRAINED, 90, 1e-5),
    Task("allen_cahn_periodic", {}, FEATURES, 60, 1e-4), Task("allen_cahn_periodic", {}, TRAINED, 120, 1e-3),
    Task("ks", {}, FEATURES, 60, 1e-6), Task("ks", {}, TRAINED, 120, 1e-3),
    Task("ks_chaotic", {}, FEATURES, 300, 1e-2),
    Task("kdv", {}, FEATURES, 60, 1e-5), Task("kdv", {}, TRAINED, 120, 1e-4),
    Task("schrodinger", {}, FEATURES, 60, 1e-5), Task("schrodinger", {}, TRAINED, 120, 1e-4),
    Task("poisson_lshape", {}, FEATURES, 60, 1e-4), Task("poisson_lshape", {}, TRAINED, 60, 1e-3),
    Task("poisson", {"dim": 5}, TRAINED, 300, 1e-4), Task("poisson", {"dim": 10}, TRAINED, 300, 1e-4),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One solve: error, held-out residual, seconds of wall clock and processor, what was chosen."""

    problem: str
    method: str
    seed: int
    rel_l2: float | None
    residual: float | None
    seconds: float
    processor: float
    status: str
    target: float | None
    budget: float
    settings: dict[str, Any]


def bench_pde(
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    *,
    seeds: int = 3,
    share: float = 1.0,
    name: str = "",
    out: Path = Path("runs"),
) -> Ended:
    """Solve the table's tasks (those named), `seeds` times each, and save rows.json and table.txt.

    share: of the budgets, to look at a part of the work. Raises BadInput where nothing is left to do.
    """
    chosen = [t for t in TABLE if (not problems or t.problem in problems) and (not methods or t.method in methods)]
    if not chosen:
        known = sorted({t.problem for t in TABLE})
        raise BadInput(f"the table has no such task; problems: {', '.join(known)}; methods: {FEATURES}, {TRAINED}.")
    folder, rows = fresh(out, name, "pde"), list[Row]()
    stopped = False
    try:
        for task in chosen:
            for seed in range(seeds):
                rows.append(_row(task, seed, share))
                print(f"[{len(rows)}/{len(chosen) * seeds}] {_line(rows[-1])}", file=sys.stderr)
                _write(folder, rows)
    except KeyboardInterrupt:
        stopped = True
    _write(folder, rows)
    return Ended(f"{table(rows)}\n\n{folder}", folder, stopped)


def _row(task: Task, seed: int, share: float) -> Row:
    problem = pde.get(task.problem, **task.arguments)
    problem.truth(problem.domain.bounds)  # the reference is computed before the clock runs
    method = pde.trained_method(problem) if task.method == TRAINED else task.method
    cpu, error, residual = time.process_time(), None, None
    try:
        sol = pde.solve(problem, method, task.seconds * share, seed, track=False)
        cpu = time.process_time() - cpu
        error, residual, status, seconds, chosen = sol.rel_l2, sol.residual, sol.status, sol.seconds, sol.settings
    except OdenetError as refusal:
        status, seconds, chosen = f"refused: {refusal}", 0.0, {}
        cpu = time.process_time() - cpu
    return Row(task.title, task.method, seed, error, residual, seconds, cpu, status, task.target, task.seconds, chosen)


def _line(row: Row) -> str:
    error = "none" if row.rel_l2 is None else f"{row.rel_l2:.2e}"
    return f"{row.problem} {row.method} seed {row.seed}: error {error} in {row.seconds:.1f} s ({row.status[:60]})"


def _write(folder: Path, rows: Sequence[Row]) -> None:
    facts = {
        "date": time.strftime("%Y-%m-%d"), "odenet": __version__, "torch": torch.__version__,
        "python": platform.python_version(), "threads": torch.get_num_threads(), "machine": platform.processor(),
        "rows": [asdict(r) for r in rows],
    }  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(facts, indent=1, default=str))
    (folder / "table.txt").write_text(table(rows) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Medians over seeds, with the largest error, beside the target; "-" where a target is not stated."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        groups.setdefault((r.problem, r.method), []).append(r)
    lines = [
        f"{'problem':34} {'method':16} {'median':>9} {'largest':>9} {'target':>9} met {'seconds':>8} {'budget':>7} n"
    ]
    for (problem, method), found in groups.items():
        errors = [float("inf") if r.rel_l2 is None else r.rel_l2 for r in found]
        middle, target = statistics.median(errors), found[0].target
        met = "-" if target is None else "yes" if middle <= target else "no"
        seconds = statistics.median(r.seconds for r in found)
        aim = "-" if target is None else f"{target:.0e}"
        lines.append(
            f"{problem:34} {method:16} {middle:9.2e} {max(errors):9.2e} {aim:>9} {met:3} {seconds:8.1f} "
            f"{found[0].budget:7g} {len(found)}"
        )
    return "\n".join(lines)
