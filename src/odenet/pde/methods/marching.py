"""Time marching: one time window after another, each a small problem of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solution import Field, Solution
from ..statement import Problem
from ..windows import Windows, window
from .base import METHODS, Method, Run, make


@dataclass(frozen=True, kw_only=True)
class TimeMarching(Method):
    """Solve window after window in time with another method; the state at the end of one starts the next.

    windows: their number; of: the method inside; options: of that method (None: a net of 16 x 16, small as windows are)
    The error of a window is carried on, so every one gets its share of the budget.
    """

    windows: int = 10
    of: str = "gauss_newton"
    options: Mapping[str, Any] | None = None

    when = (
        "Long times, fast transport, chaos: where one net over the whole time converges to a wrong or constant state."
    )

    def suits(self, problem: Problem) -> str | None:
        if not problem.evolves:
            return "it marches in time, and the problem has none."
        if problem.inverse:
            return "unknown parameters are shared by all windows; use method='gauss_newton'."
        return None

    def solve(self, problem: Problem, run: Run) -> Solution:
        inner = self._inner()
        edges = self._edges(problem)
        begun = run.resumed or {"edges": torch.tensor(edges, dtype=torch.float64)}
        found, parts = self._restored(problem, begun, run), list[Solution]()
        for k in range(len(found.fields), self.windows):
            part = window(problem, edges[k], edges[k + 1], found.fields[-1] if k else None)
            share = Run(seconds=run.left / (self.windows - k), seed=run.seed, model=run.model, track=False)
            share.progress = lambda row, k=k: _told(run, k, row)  # type: ignore[misc]
            sol = inner.solve(part, share)
            found.fields.append(sol.field)
            parts.append(sol)
            run.stopped = run.stopped or share.stopped
            if run.stopped:
                break
            run.keep(found.tensors(), now=True)
        if parts:
            run.log({"loss": parts[-1].history[-1]["loss"] if parts[-1].history else 0.0, "window": len(found.fields)})
        first = len(found.fields) - len(parts)
        bad = {first + k: sol.message for k, sol in enumerate(parts) if sol.status == "suspect"}
        message = f"Windows {', '.join(str(k + 1) for k in bad)}: {next(iter(bad.values()))}" if bad else ""
        status = "stopped" if run.stopped else "suspect" if bad else "budget"
        chosen = {"windows": self.windows, "of": self.of, **(parts[0].settings if parts else {})}
        return Solution(
            problem, "time_marching", found, run.seed, run.used, status, message, run.history, settings=chosen
        )

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        return self._restored(problem, tensors, run)

    def _restored(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Windows:
        """The windows that were solved."""
        edges = tensors["edges"].tolist()
        inner, found = self._inner(), Windows([], edges)
        for k in range(1 + max((int(n.split(".")[0]) for n in tensors if n != "edges"), default=-1)):
            part = window(problem, edges[k], edges[k + 1], found.fields[-1] if k else None)
            own = {n.removeprefix(f"{k}."): v for n, v in tensors.items() if n.startswith(f"{k}.")}
            found.fields.append(inner.restore(part, own, run))
        return found

    def _inner(self) -> Method:
        small = {"width": 16, "depth": 2} if self.of != "random_features" else {}
        return make(self.of, small if self.options is None else self.options)

    def _edges(self, problem: Problem) -> list[float]:
        low, high = (float(v) for v in problem.domain.bounds[:, -1])
        return [low + (high - low) * k / self.windows for k in range(self.windows + 1)]


def _told(run: Run, k: int, row: dict[str, float]) -> bool:
    run.log({**{n: v for n, v in row.items() if n != "seconds"}, "window": k + 1})
    return run.stopped


METHODS.register("time_marching", TimeMarching)
