"""The method of lines: collocation in space, any integrator in time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import flow, integrators
from ...errors import Incompatible, SolveFailed
from ...flow.solution import REACHED
from ..domain import Brick
from ..solution import Field, Solution
from ..statement import Problem
from .base import METHODS, Method, Run
from .grid import Axis, Chebyshev, Fourier, Grid
from .history import History
from .linear_part import Modes, Split, periodic
from .semidiscrete import Semidiscrete

START = {0: 1, 1: 24, 2: 12}  # nodes along an axis to begin with, by the number of axes
MOST = {0: 1, 1: 768, 2: 48}
STORED, TIMES = 4_000_000, 1000  # numbers of a history, and of its times
FIRST, LAST = 32, 400_000  # fixed steps
WILD = 1e8  # growth of a solution above which fixed steps are taken for unstable
FAR = 1e-2  # estimated error above which a solution is not to be trusted
LOOKS = 40  # products with the Jacobian to estimate its size


@dataclass(frozen=True)
class March:
    """One solve: the history, how it ended, and what was taken."""

    history: History
    reached: bool
    message: str
    points: int
    steps: int
    solution: Any


@dataclass(frozen=True, kw_only=True)
class Lines(Method):
    """u_t = N(t, x, u) or u_tt = N(t, x, u) at Chebyshev points of bounded and equispaced points of periodic axes.

    integrator  any of odenet's: "radau_iia5", "bdf", "dopri5", "rk4", "gauss6", ...; "verlet" and its kin for
                u_tt = N(t, x, u); "etdrk4" or implicit-explicit ones such as "kencarp4" take the linear part of N apart
    points      along every axis; None: doubled until the last coefficients are below the tolerance
    steps       of integrators with fixed steps; None: more until the solution at the last time changes less than the
                tolerance
    tolerance   relative
    most        points along an axis at most
    """

    integrator: str = "radau_iia5"
    points: int | None = None
    steps: int | None = None
    tolerance: float = 1e-8
    most: int | None = None

    when = "Smooth solutions on intervals and rectangles: the classical solver, which there beats every trained net."

    def suits(self, problem: Problem) -> str | None:
        try:
            self._field(Semidiscrete(problem, grid_of(problem, 8)))
        except Incompatible as reason:
            return str(reason)
        return None

    def solve(self, problem: Problem, run: Run) -> Solution:
        fixed = not integrators.get(self.integrator).adaptive or self.steps is not None
        n, most, steps = self.points or START[problem.dim - 1], self.most or MOST[problem.dim - 1], self.steps
        n = self._resolving(problem, n, most)
        best: March | None = None
        tail, gap, factor, note, failures = math.inf, math.inf, 0.0, "", 0
        while True:
            found = self._march(problem, n, steps, fixed, run)
            if not found.reached:
                note, failures = found.message, failures + 1
                finer, more = self.points is None and n < most, fixed and self.steps is None and found.steps < LAST
                if run.left <= 0 or not (finer or more):
                    break
                if more:
                    steps, factor = 2 * found.steps, 0.0
                if finer and (not more or failures % 3 == 0):
                    n = min(2 * n, most)
                continue
            note = ""
            tail = max(found.history.grid.tail(found.history.values), default=0.0)
            if best is not None and factor:
                gap = _difference(best.history, found.history) / (factor**self._order - 1)
            best = found
            row = {"loss": max(tail, gap if math.isfinite(gap) else 0.0), "points": found.points, "steps": found.steps}
            run.log({k: float(v) for k, v in row.items()}, problem, found.history.jet)
            if run.left <= 0:
                break
            if tail > self.tolerance and self.points is None and n < most:
                n, factor = min(2 * n, most), 0.0
                steps = found.steps if fixed else None
            elif fixed and self.steps is None and not gap <= self.tolerance and found.steps < LAST:
                factor = min(max((gap / self.tolerance) ** (1 / self._order), 2.0), 8.0) if gap < math.inf else 2.0
                steps = math.ceil(factor * found.steps)
                factor = steps / found.steps
            else:
                break
        if best is None:
            raise SolveFailed(note, found.solution)
        return self._finished(problem, run, best, tail, gap if fixed else None, note)

    def _resolving(self, problem: Problem, n: int, most: int) -> int:
        """Points with which the initial state is resolved."""
        while self.points is None and n < most:
            system = Semidiscrete(problem, grid_of(problem, n))
            start = system.level(float(problem.domain.bounds[0, -1]), system.start(), 0)
            if max(system.grid.tail(start), default=0.0) <= self.tolerance:
                break
            n = min(2 * n, most)
        return n

    @property
    def _order(self) -> int:
        return max(1, int(integrators.get(self.integrator).order))

    def _finished(self, problem: Problem, run: Run, best: March, tail: float, gap: float | None, note: str) -> Solution:
        given, parts = self.steps is not None or self.points is not None, []
        if tail > self.tolerance:
            parts.append(f"With {best.points} points the last coefficients in space are {tail:.2g} of the largest.")
        if gap is not None and self.steps is None and gap > self.tolerance:
            size = "an unknown amount" if gap == math.inf else f"about {gap:.2g}"
            parts.append(f"The {best.steps} steps in time are off by {size}.")
        status = "converged" if not parts and (gap is None or self.steps is None) else "budget"
        status = "completed" if given and status != "converged" else status
        if max(tail, gap if gap is not None and gap < math.inf else 0.0) > FAR:
            status = "suspect"
        status = "stopped" if run.stopped else status
        chosen = {"integrator": self.integrator, "points": best.points, "steps": best.steps}
        message = " ".join([*parts, note])
        return Solution(
            problem, "method_of_lines", best.history, run.seed, run.used, status, message.strip(), run.history,
            settings=chosen,
        )  # fmt: skip

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        grid = grid_of(problem, tuple(tensors["shape"].tolist()))
        return History(grid, tensors["t"], tensors["values"], tensors["slopes"])

    # ---- one march ---------------------------------------------------------------------------------------------------

    def _field(self, system: Semidiscrete) -> Semidiscrete | Split | Modes:
        """The field as the integrator needs it. Raises Incompatible where the equation does not offer that."""
        needs = integrators.get(self.integrator).needs
        if needs & {"linear", "split"}:
            return Modes(system) if needs == {"linear"} and periodic(system) else Split(system)
        if "separable" in needs and "separable" not in system.offers:
            raise Incompatible(f"{self.integrator!r} needs equations u_tt = N(t, x, u) without u_t.")
        if needs - {"separable"}:
            raise Incompatible(f"{self.integrator!r} needs a field with {', '.join(sorted(needs))}, which this is not.")
        return system

    def _march(self, problem: Problem, n: int, steps: int | None, fixed: bool, run: Run) -> March:
        system = Semidiscrete(problem, grid_of(problem, n))
        field, y0 = self._field(system), system.start()
        split = field if isinstance(field, Split | Modes) else None
        if fixed and self.steps is None:
            steps = max(steps or FIRST, 0 if split is not None else self._stable(system, y0))
        ends = [float(v) for v in problem.domain.bounds[:, -1]]
        scale = float(y0.abs().max()) or 1.0
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubt about fixed steps: they are compared here
            found = flow.solve(
                field, split.state(y0) if split else y0, ends, self.integrator, self.tolerance / 10,
                self.tolerance / 10 * scale, steps, max_steps=None, on_failure="return", seconds=max(run.left, 1e-3),
            )  # fmt: skip
            times, states = found.nodes
            most = min(TIMES, STORED // (2 * len(problem.unknowns) * system.grid.size))
            stride = math.ceil(len(times) / max(2, most))
            kept = sorted({*range(0, len(times), stride), len(times) - 1})
            history = _history(system, [times[i] for i in kept], [states[i] for i in kept], split)
        message, reached = found.message, found.status in REACHED
        if reached and not float(history.values.abs().max()) < WILD * scale:
            message, reached = f"{self.integrator!r} with {len(times) - 1} steps is unstable.", False
        return March(history, reached, message, n, len(times) - 1, found)

    def _stable(self, system: Semidiscrete, y0: Tensor) -> int:
        """Steps below which an explicit method would surely be unstable: |h J| <= 2."""
        if integrators.get(self.integrator).implicit:
            return 0
        first, last = (float(v) for v in system.problem.domain.bounds[:, -1])
        J, v = system.jacobian(first, y0, {}), torch.cos(torch.arange(len(y0)).double() ** 2)
        growth = []
        for _ in range(LOOKS):
            v = J @ v
            size = float(v.norm())
            if not size:
                return 0
            growth.append(math.log(size))
            v = v / size
        rate = math.exp(sum(growth[LOOKS // 2 :]) / (LOOKS - LOOKS // 2))
        return math.ceil((last - first) * rate / 2)


def _history(system: Semidiscrete, times: list[float], states: list[Tensor], split: Split | Modes | None) -> History:
    values, slopes = [], []
    for t, state in zip(times, states):
        y = split.values(state) if split is not None else state
        values.append(system.level(t, y, 0))
        slopes.append(system.full_slope(t, y))
    return History(system.grid, torch.tensor(times, dtype=torch.float64), torch.stack(values), torch.stack(slopes))


def _difference(one: History, other: History) -> float:
    """At the nodes and a few times, relative to the largest value; an end alone may be right by symmetry."""
    times = one.t[0] + (one.t[-1] - one.t[0]) * torch.tensor([0.213, 0.467, 0.689, 0.871, 1.0], dtype=torch.float64)
    here = torch.cat([one.grid.nodes.repeat(len(times), 1), times.repeat_interleave(one.grid.size)[:, None]], 1)
    zero = [(0,) * here.shape[1]]
    a, b = one.jet(here, zero), other.jet(here, zero)
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def grid_of(problem: Problem, n: int | tuple[int, ...]) -> Grid:
    """n points along every axis of an interval or a rectangle, or of none. Raises Incompatible for other domains."""
    space = problem.domain.space
    if not problem.evolves:
        raise Incompatible("it steps in time, and the problem has none.")
    if problem.dim == 1:
        return Grid(())
    if not isinstance(space, Brick) or space.dim > 2:
        raise Incompatible("it is for intervals and rectangles.")
    names, around = space.names, {c.axis for c, _ in problem.required if c.kind == "periodic"}
    counts = (n,) * space.dim if isinstance(n, int) else n
    axes: list[Axis] = []
    for a, b, name, count in zip(space.lower, space.upper, names, counts):
        axes.append((Fourier if name in around else Chebyshev)(a, b, count))
    return Grid(tuple(axes))


METHODS.register("method_of_lines", Lines)
