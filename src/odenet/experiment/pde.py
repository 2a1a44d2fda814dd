"""`odenet pde`: a run folder with the solution, its figures and a page of facts; live progress, resumable."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import pde
from ..errors import BadInput
from ..pde import plots
from ..pde.solution import Solution
from .bench import fresh

Letters = Callable[[str], str]


def run(
    name: str,
    own: Any,
    method: str,
    seconds: float,
    seed: int,
    options: Sequence[str],
    parameters: Sequence[str],
    out: Path,
    called: str,
    letters: Letters,
) -> int:
    """Solve, save and report; 0. Everything that can be wrong with the words is said before the folder is made."""
    chosen, given = words(options), words(parameters)
    problem = _problem(name, own, given)
    if method != "auto":
        pde.methods.make(method, chosen)
    folder = fresh(out, called, name.split(":")[-1].lower())
    asked = {"name": name, "method": method, "seconds": seconds, "seed": seed, "options": chosen, "parameters": given}
    (folder / "run.json").write_text(json.dumps(asked, indent=1))
    return _solved(problem, folder, asked, False, letters)


def resume(folder: Path, seconds: float, letters: Letters) -> int:
    """Go on from the checkpoint of a run folder. Raises BadInput where there is none."""
    if not (folder / "run.json").exists():
        raise BadInput(
            f"{folder} is no folder of odenet pde: run.json is missing; a comparison: odenet compare --resume."
        )
    asked = json.loads((folder / "run.json").read_text())
    asked["seconds"] = seconds or asked["seconds"]
    if ":" in asked["name"]:
        raise BadInput("a problem of your own is resumed in Python: pde.solve(problem, folder=..., resume=True).")
    return _solved(_problem(asked["name"], None, asked["parameters"]), folder, asked, True, letters)


def _problem(name: str, own: Any, parameters: dict[str, Any]) -> Any:
    problem = pde.get(name, **parameters) if own is None else own(**parameters) if callable(own) else own
    if not isinstance(problem, pde.Problem | pde.Semilinear):
        raise BadInput(
            f"{name!r} is no PDE problem but {type(problem).__name__}; name a pde.Problem or a function of one."
        )
    return problem


def _solved(problem: Any, folder: Path, asked: dict[str, Any], again: bool, letters: Letters) -> int:
    with Live(asked["seconds"]) as live:
        sol = pde.solve(
            problem, asked["method"], asked["seconds"], asked["seed"], progress=live, folder=folder, resume=again,
            **asked["options"],
        )  # fmt: skip
    sol.save(folder)
    drawn = plots.save(sol, folder) if isinstance(sol, Solution) else []
    (folder / "summary.txt").write_text(summary(sol) + "\n")
    print(letters(summary(sol)))
    print(f"\n{folder}" + (f"  ({', '.join(p.name for p in drawn)})" if drawn else ""))
    return 0


def summary(sol: Any) -> str:
    """What a user wants to know first: error, residual, status, time, what was chosen and why."""
    title = f"{sol.problem.name or 'problem'}  {sol.problem.about}".rstrip()
    facts: dict[str, Any] = {
        "method": sol.method,
        "status": sol.status,
        "seconds": f"{sol.seconds:.1f}",
        **_accuracy(sol),
        "chosen": ", ".join(f"{k} {v}" for k, v in sol.settings.items() if k != "options"),
        "note": sol.message,
    }
    width = max(map(len, facts))
    lines = [title, ""]
    for key, text in facts.items():
        if text != "":
            lines += textwrap.wrap(
                text, initial_indent=f"{key.ljust(width)}  ", subsequent_indent=" " * (width + 2), width=100
            )
    return "\n".join(lines)


def _accuracy(sol: Any) -> dict[str, str]:
    error = "no truth to compare with" if sol.rel_l2 is None else f"{sol.rel_l2:.3g}"
    if not isinstance(sol, Solution):  # one value of a problem in high dimension
        return {"value": f"{sol.value:.6g} +- {sol.error:.2g}, estimated", "relative error": error}
    parts = sol.residuals.items() if len(sol.residuals) > 1 else ()
    return {
        "rel. L2 error": error,
        "residual": f"{sol.residual:.3g} of its terms, at points that no method saw",
        **{f"  {k}": f"{v:.3g}" for k, v in parts},
        **{k: _inferred(sol, i, k) for i, k in enumerate(sol.parameters)},
    }


def _inferred(sol: Solution, i: int, name: str) -> str:
    if sol.covariance is None:
        return f"{sol.parameters[name]:.6g}"
    return f"{sol.parameters[name]:.6g} +- {float(sol.covariance[i, i]) ** 0.5:.2g}"


def words(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as a dict; values are read as JSON where they are, else stay text. Raises BadInput."""
    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(f"{pair!r} cannot be read; write KEY=VALUE, such as width=32.")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


class Live:
    """One line that is rewritten in a terminal; elsewhere a line every ten seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.shown = seconds, 0.0
        self.live, self.last = sys.stderr.isatty(), ""

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        if self.live and self.last:
            print(file=sys.stderr)

    def __call__(self, row: dict[str, float]) -> bool:
        """Show a row of the history; never stops the run."""
        seen = [f"{k} {v:.2e}" for k, v in row.items() if k in ("loss", "residual", "rel_l2")]
        now = time.perf_counter()
        if now - self.shown >= (0.2 if self.live else 10.0):
            self.shown = now
            self.last = f"{row['seconds']:6.1f} s of {self.seconds:g}   {'   '.join(seen)}"
            print(f"\r{self.last}\033[K" if self.live else self.last, end="" if self.live else "\n", file=sys.stderr)
            sys.stderr.flush()
        return False
