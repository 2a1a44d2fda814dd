"""`random_features`: fixed random features, their coefficients by least squares, all else chosen by what is held out.

Evolution problems are marched in windows of time (features in space, Radau collocation in time); all others are one
least-squares fit in all coordinates, by Gauss-Newton where they are not linear. No trial looks at the true solution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ..solution import Field, Solution, held_out
from ..statement import Problem
from .base import METHODS, Method, Run
from .evolution import Evolution
from .feature_fit import Fitted, Trial, fit
from .random_feature_basis import ACTIVATIONS
from .windows import March, Marcher

TOLERANCES = (1e-5, 1e-6, 1e-8, 1e-10)
KINKED = 1e-2  # tightens the tolerance in time where kinks bound what space can give
HALVED = 0.5  # share of the last gain that is left in space after as many features again
SHARES = (0.15, 0.3, 0.5)
SUSPECT = 10.0  # held-out residual over that of training beyond which a fit is not to be trusted
ROUNDING = 1e-12  # relative residuals below are rounding
SMALL = 1e-5  # residuals of training below this do not make a held-out one suspect


@dataclass(frozen=True, kw_only=True)
class RandomFeatures(Method):
    """Coefficients of fixed random features by least squares; windows in time, widths and stretchings chosen by itself.

    accuracy     stop when the solution changes by less from one trial to the next, relative
    tolerance    of one march, instead of a sequence of them
    width        number of features (the first one of a march); None: doubled until nothing is gained
    windows      number of windows in time; None: as long as the tolerance allows
    nodes        of Radau's rule on a window
    features     "sin" or "tanh"
    oversampling collocation points per feature; None: 2 in a march, 4 in a fit
    most         largest number of features
    Choose it for smooth or sharply layered problems in up to two space dimensions and time: it is the fastest.
    """

    accuracy: float = 1e-9
    tolerance: float | None = None
    width: int | None = None
    windows: int | None = None
    nodes: int | None = None
    features: str = "sin"
    oversampling: float | None = None
    most: int = 1200

    when = "smooth or sharply layered problems in up to three coordinates: the fastest where it applies"

    def __post_init__(self) -> None:
        if self.features not in ACTIVATIONS:
            raise BadInput(f"features are sin or tanh, got {self.features!r}.")
        if self.width is not None and not 1 <= self.width <= 10_000:
            raise BadInput(f"width is a number of features from 1 to 10000, got {self.width!r}.")
        if (
            not (self.oversampling or 1) > 0
            or not self.accuracy > 0
            or not (self.tolerance is None or self.tolerance > 0)
        ):
            raise BadInput("oversampling, accuracy and tolerance are positive numbers.")
        if self.nodes is not None and not 2 <= self.nodes <= 20:
            raise BadInput(f"nodes is from 2 to 20, got {self.nodes!r}.")

    def suits(self, problem: Problem) -> str | None:
        if problem.dim > 3:
            return (
                f"random features would need too many in {problem.dim} coordinates; use gauss_newton, or deep_bsde for "
                "parabolic problems."
            )
        return None

    def solve(self, problem: Problem, run: Run) -> Solution:
        if run.model is not None:
            raise BadInput("random_features has no model to train; leave `model` out, or use gauss_newton.")
        marched = Evolution.suits(problem) is None
        return self._evolve(problem, run) if marched else self._fit(problem, run)

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        return Fitted.restore(tensors) if "fit.c" in tensors else March.restore(tensors)

    # ---- windows in time -------------------------------------------------------------------------------------------

    def _evolve(self, problem: Problem, run: Run) -> Solution:
        nodes = self.nodes or (9 if problem.linear else 7)
        system, best, change, spent = Evolution(problem, nodes), None, math.inf, 0.0
        ladder = list(TOLERANCES if self.tolerance is None else (self.tolerance,))
        width, slack, floor, draw = self.width or 60, 1.0, 0.0, 0
        refined, gained = "", {"space": math.inf, "time": math.inf}
        while ladder:
            if best is not None and 3 * spent > run.left:
                break
            began, tolerance, draw = run.used, ladder[0], draw + 1
            marcher = self._marcher(system, tolerance, width, slack, floor, run, draw)
            field = marcher.run()
            spent = run.used - began
            if best is not None and marcher.status != "converged":
                break
            change = math.inf if best is None else difference(problem, field, best[0])
            best = (field, marcher)
            facts = {k: float(v) for k, v in marcher.settings().items() if isinstance(v, int | float)}
            run.log({"loss": marcher.level, "change": change, **facts}, problem, field.jet)
            if marcher.status != "converged" or change < self.accuracy or run.stopped:
                break
            gained |= {refined: change} if refined else {}
            kinks = self.tolerance is None and self.width is None and marcher.level > 2 * tolerance
            left = {"space": HALVED * gained["space"], "time": KINKED * gained["time"]}  # after what was gained last
            refined = "space" if kinks and left["space"] >= left["time"] else "time"
            if not kinks:
                ladder.pop(0)
            elif refined == "time":
                width, slack, floor = marcher.widest, slack * KINKED, marcher.level
            else:
                width, floor = 2 * marcher.widest, 0.0
                if width > self.most:
                    break
        assert best is not None
        field, marcher = best
        status, message = self._march_status(marcher, change)
        settings = {"method": "windows in time", **marcher.settings(), "features": self.features}
        return self._solution(problem, run, field, status, message, settings, change)

    def _marcher(
        self, system: Evolution, tolerance: float, width: int, slack: float, floor: float, run: Run, i: int
    ) -> Marcher:
        return Marcher(
            system,
            tolerance,
            width,
            self.most,
            seed=run.seed * 100 + i,
            oversampling=self.oversampling or 2.0,
            activation=self.features,
            adapt=self.width is None,
            windows=self.windows,
            slack=slack,
            floor=floor,
            over=lambda: run.left <= 0,
        )

    def _march_status(self, marcher: Marcher, change: float) -> tuple[str, str]:
        if marcher.status != "converged":
            last = marcher.found.pieces[-1] if marcher.found.pieces else None
            end = marcher.system.first if last is None else last.start + last.length
            reason = "the seconds were used up" if marcher.status == "budget" else "Newton's iteration failed"
            return "suspect", f"The march ended at t = {end:.4g} because {reason}; there is no solution beyond."
        if change < self.accuracy:
            return "converged", ""
        if marcher.level > 10 * marcher.tolerance:
            return (
                "stalled",
                f"The solution is not smooth enough for more than {marcher.level:.1g} with these features.",
            )
        return "budget", ""

    # ---- one fit in all coordinates --------------------------------------------------------------------------------

    def _fit(self, problem: Problem, run: Run) -> Solution:
        best: tuple[float, Trial, dict[str, float]] | None = None
        change, status, poor, spent = math.inf, "budget", 0, 0.0
        shares: tuple[float, ...] = SHARES
        width = self.width or 100
        while True:
            before = None if best is None else best
            for share in shares if self.features == "sin" and problem.dim > 1 else (None,):
                if best is not None and spent > run.left:
                    break
                began = time.perf_counter()
                trial = fit(
                    problem, width, run.seed, self.features, share, self.oversampling or 4.0, best[1] if best else None
                )
                spent = time.perf_counter() - began
                residual = relative(problem, trial, run.seed)
                row = {"width": float(width), "share": share or 0.0, "training": trial.training, "residual": residual}
                run.log(
                    {"loss": trial.training**2, **row, **trial.parameters}, problem, trial.field.jet, trial.parameters
                )
                if best is None or residual < best[0]:
                    change = math.inf if best is None else difference(problem, trial.field, best[1].field)
                    best = (residual, trial, row)
            assert best is not None
            if width >= 200 and self.features == "sin":
                at = min(SHARES, key=lambda share: abs(share - best[2]["share"]))  # type: ignore[index]
                shares = SHARES[SHARES.index(at) :][:2]
            poor = poor + 1 if before is not None and best[0] > 0.3 * before[0] else 0
            if best[0] < ROUNDING or (change < 1e-4 and best[0] < self.accuracy):
                status = "converged"
                break
            if self.width is not None or poor >= 2 or 2 * width > 2 * self.most or run.stopped:
                status = "stalled" if self.width is None else "converged"
                break
            if 8 * spent * len(shares) > run.left:
                break
            width = 2 * width
        residual, trial, row = best
        message = ""
        if residual > SUSPECT * max(trial.training, SMALL) or residual > 0.1:
            status = "suspect"
            message = (
                f"The residual at points that were not fitted, {residual:.2g}, is far above that of the fitted ones, "
                f"{trial.training:.2g}: too few points or features; do not trust this solution."
                if residual > SUSPECT * max(trial.training, SMALL)
                else f"The equation is not satisfied: the relative residual is {residual:.2g}."
            )
        settings = {"method": "one fit", **row, "condition": trial.condition, "features": self.features}
        solution = self._solution(problem, run, trial.field, status, message, settings, change)
        solution.parameters, solution.covariance = trial.parameters, trial.covariance
        return solution

    def _solution(
        self, problem: Problem, run: Run, field: Any, status: str, message: str, settings: dict[str, Any], change: float
    ) -> Solution:
        estimate = None if math.isinf(change) else change
        return Solution(
            problem, "random_features", field, run.seed, run.used, status, message, run.history,
            settings={**settings, "error_estimate": estimate},
        )  # fmt: skip


def difference(problem: Problem, field: Any, other: Any, n: int = 1000) -> float:
    """|u - v| / |u| at random points."""
    x, zero = problem.domain.sample(n, torch.Generator().manual_seed(77), "uniform"), [(0,) * problem.dim]
    u, v = field.jet(x, zero), other.jet(x, zero)
    gap = float((u - v).norm() / u.norm().clamp_min(1e-300))
    return gap if math.isfinite(gap) else math.inf


def relative(problem: Problem, trial: Trial, seed: int) -> float:
    """Held-out relative residual."""
    sums = held_out(problem, trial.field.jet, trial.parameters, seed).values()
    return (sum(r for r, _ in sums) / max(sum(s for _, s in sums), 1e-300)) ** 0.5


METHODS.register("random_features", RandomFeatures)
