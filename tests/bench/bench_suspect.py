"""How often the status `suspect` of fixed-step solves is wrong, over 200 random smooth problems.

    python tests/bench/bench_suspect.py [--n 200] [--seed 0]

The error of a run is |y - reference| / (|reference| + floor) in the 2-norm at the last time, the reference from scipy's
DOP853 at rtol 1e-12.
  bad run      finite, error > 0.1          missed       a bad run that is called completed
  good run     error < 0.01                 false alarm  a good run that is called suspect
Rates are counts over the bad and over the good runs; runs between the two are counted and judged by neither.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from record import save
from scipy.integrate import solve_ivp

import odenet as on
from odenet.fields.testset import InitialValueProblem, random_problems

METHODS = ("euler", "heun", "rk4")
STEPS = (5, 10, 20, 40, 80, 160)


def reference(problem: InitialValueProblem) -> np.ndarray:
    def f(t: float, y: np.ndarray) -> np.ndarray:
        return problem.f(t, torch.from_numpy(y)).numpy()

    found = solve_ivp(f, (problem.t0, problem.t1), problem.y0, method="DOP853", rtol=1e-12, atol=1e-14)
    assert found.success, f"{problem.name}: {found.message}"
    return found.y[:, -1]


def trial(problem: InitialValueProblem, exact: np.ndarray, method: str, steps: int) -> dict[str, Any]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = on.solve(problem.f, problem.start(), [problem.t0, problem.t1], integrator=method, steps=steps,
                         on_failure="return")  # fmt: skip
    error = math.inf
    if found.status in ("completed", "suspect"):
        with np.errstate(over="ignore"):  # a run that grew to 1e200 is as bad as one that grew to 10
            error = float(np.linalg.norm(found.y[-1].numpy() - exact) / (np.linalg.norm(exact) + problem.floor))
    return {"problem": problem.name, "method": method, "steps": steps, "status": found.status, "error": error}


def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and rates of a set of runs."""
    finite = [r for r in rows if r["status"] in ("completed", "suspect")]
    bad, good = [r for r in finite if r["error"] > 0.1], [r for r in finite if r["error"] < 0.01]
    missed = sum(r["status"] == "completed" for r in bad)
    alarms = sum(r["status"] == "suspect" for r in good)
    return {"runs": len(rows), "ended early": len(rows) - len(finite), "bad": len(bad), "missed": missed,
            "miss rate": missed / len(bad) if bad else None, "good": len(good), "false alarms": alarms,
            "false-alarm rate": alarms / len(good) if good else None,
            "between": len(finite) - len(bad) - len(good)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for problem in random_problems(given.n, given.seed):
        exact = reference(problem)
        rows += [trial(problem, exact, method, steps) for method in METHODS for steps in STEPS]
    groups = {"all": rows, **{m: [r for r in rows if r["method"] == m] for m in METHODS}}
    groups |= {f"{m} x{s}": [r for r in rows if (r["method"], r["steps"]) == (m, s)] for m in METHODS for s in STEPS}
    found = {name: counted(group) for name, group in groups.items()}
    for name, c in found.items():
        print(f"{name:10} missed {c['missed']:4} of {c['bad']:4} bad, false alarms {c['false alarms']:4} of "
              f"{c['good']:4} good, {c['between']:4} between, {c['ended early']:4} ended early")  # fmt: skip
    worst = Counter(r["problem"] for r in rows if r["status"] == "completed" and r["error"] > 0.1)
    print("missed most often:", ", ".join(f"{name} ({n})" for name, n in worst.most_common(5)))
    save("suspect", {"n": given.n, "seed": given.seed, "methods": METHODS, "steps": STEPS, "found": found})


if __name__ == "__main__":
    main()
