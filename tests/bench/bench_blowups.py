"""Twelve problems whose solution ends inside the interval, under every registered integrator: never a success.

    python tests/bench/bench_blowups.py [--methods dopri5 rk4] [--steps 50]

Adaptive methods must end early with a status and a last good time. Fixed-step ones may end with non_finite,
newton_failed, suspect or completed, and with check=True never with success. Methods that need a separable or
second-order field get the problems that have that form, those for split or linear fields the problem as -y + (f + y),
stochastic ones noise of size 0. A violation makes the script end with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from typing import Any

import torch
from record import save
from torch import Tensor

import odenet as on
from odenet.errors import Incompatible, OdenetError
from odenet.fields import Noisy, SemiLinear
from odenet.fields.testset import BLOW_UPS, BlowUp

EARLY = {"max_steps", "non_finite", "step_underflow", "newton_failed", "time_budget"}
FIXED = {"non_finite", "newton_failed", "suspect", "completed", "time_budget"}
CHECKED = {"non_finite", "newton_failed", "inaccurate", "time_budget"}


class Wall(on.Field):
    """q'' = g(t, q) from a system (q, v)' = (v, g(t, q))."""

    offers = frozenset({"second_order"})

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def init(self, generator: Any = None) -> dict[str, Tensor]:
        return {}

    def forward(self, t: Any, q: Tensor, p: Any) -> Tensor:
        return self.f(t, torch.cat((q, torch.zeros_like(q)), -1)).chunk(2, -1)[1]


def forms(problem: BlowUp, needs: frozenset[str]) -> list[tuple[Any, Any]]:
    """(field, y0) in the forms that a method with these needs may take; [] where the problem has none."""
    y0, f = problem.start(), problem.f
    if needs & {"separable", "second_order"}:
        if problem.name not in ("weierstrass", "collision"):
            return []
        q, v = y0.chunk(2, -1)
        if "second_order" in needs and bool(v.any()):  # its method starts at rest
            return []
        return [(Wall(f), q if "second_order" in needs else (q, v))]
    if needs & {"split", "linear"}:
        return [(SemiLinear(-torch.ones_like(y0), lambda t, y: f(t, y) + y), y0)]
    if "noise" in needs:
        kinds = [(noise, sense) for noise in ("diagonal", "additive") for sense in ("ito", "stratonovich")]
        return [(Noisy(f, lambda t, y: torch.zeros_like(y), noise, sense), y0) for noise, sense in kinds]
    return [(f, y0)]


def solved(problem: BlowUp, name: str, pace: dict[str, Any]) -> Any:
    """The solution in the first form that is not refused; None where there is no form."""
    refused: Exception | None = None
    for field, y0 in forms(problem, on.integrators.get(name).needs):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                return on.solve(field, y0, [problem.t0, problem.t1], integrator=name, on_failure="return", **pace)
            except Incompatible as why:
                refused = why
    if refused is not None:
        raise refused
    return None


def verdict(problem: BlowUp, solution: Any, allowed: set[str]) -> str:
    """A sentence on what is wrong, or nothing."""
    if solution.status not in allowed:
        return f"status {solution.status}"
    early = solution.status in EARLY
    past = (solution.t_last - problem.ends) * (1 if problem.t1 > problem.t0 else -1)
    if early and allowed is EARLY and past > 0.01 * abs(problem.ends - problem.t0):
        return f"last good time {solution.t_last:.4g}, but the solution ends at {problem.ends:.4g}"
    return ""


def trial(problem: BlowUp, name: str, steps: int, checked: bool, max_steps: int) -> dict[str, Any]:
    adaptive = on.integrators.get(name).adaptive
    pace = {"rtol": 1e-6, "atol": 1e-8}
    pace |= {"max_steps": max_steps} if adaptive else {"steps": steps, "check": checked}
    row: dict[str, Any] = {"problem": problem.name, "method": name, "check": checked, "adaptive": adaptive}
    begin = time.perf_counter()
    try:
        solution = solved(problem, name, pace)
    except (OdenetError, NotImplementedError) as why:
        return {**row, "status": "skipped", "wrong": "", "why": str(why)}
    except Exception as why:
        return {**row, "status": "error", "wrong": f"{type(why).__name__}: {why}"}
    if solution is None:
        return {**row, "status": "skipped", "wrong": "", "why": "the problem has no such form"}
    wrong = verdict(problem, solution, EARLY if adaptive else CHECKED if checked else FIXED)
    row |= {"status": solution.status, "t_last": solution.t_last, "ends": problem.ends, "wrong": wrong}
    return {**row, "nfe": int(solution.stats["nfe"]), "seconds": time.perf_counter() - begin}


def sweep(methods: list[str], steps: int, max_steps: int = 3000) -> list[dict[str, Any]]:
    rows = []
    for name in methods:
        mine = []
        for problem in BLOW_UPS.values():
            for checked in (False,) if on.integrators.get(name).adaptive else (False, True):
                mine.append(trial(problem, name, steps, checked, max_steps))
        counts = Counter(r["status"] + (" (checked)" if r["check"] else "") for r in mine)
        print(f"{name:28}" + ", ".join(f"{n} {status}" for status, n in counts.most_common()), flush=True)
        for r in mine:
            if r["wrong"]:
                print(f"    WRONG {r['problem']}{' (checked)' if r['check'] else ''}: {r['wrong']}", flush=True)
        rows += mine
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", help="integrators (all)")
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = sweep(given.methods or on.integrators.names(), given.steps)
    wrong = [r for r in rows if r["wrong"]]
    tried = [r for r in rows if r["status"] != "skipped"]
    print(f"\n{len(tried)} solves of {len({r['method'] for r in tried})} methods, {len(wrong)} wrong")
    for why, n in Counter(r["why"] for r in rows if r["status"] == "skipped").most_common():
        print(f"skipped {n}: {why}")
    save("blowups", {"steps": given.steps, "wrong": len(wrong), "solves": len(tried), "rows": rows})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
