"""Parallel in depth on one device: all states of a flow are the unknowns, and chunks of layers advance together.

    x_{n+1} = Phi_n(x_n, theta_n)  for all n at once,   then   p_n = (dPhi_n/dx_n)^T p_{n+1},   then every gradient

A loop over N narrow layers spends its time on starting N small operations. Here N/c chunks of c layers are folded into
one batched product per layer, and a coarse model of N/c steps tells each chunk where to begin.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .. import integrators
from ..errors import BadInput, Incompatible
from ..types import Params, State, Step
from . import abreast
from .cycles import Costates, Plan, States, residual, solve
from .exact import marks_of
from .gradient import GRADIENTS, Gradient, _refuse_stateful
from .march import March
from .pullback import guarded
from .record import Record

SOLVERS = {  # (Newton, relaxations, levels)
    "parareal": (False, 1, 2),
    "mgrit": (False, 2, 2),
    "newton": (True, 1, 2),
    "shooting": (True, 1, 2),
}
WIDEST = 64  # numbers of a sample's state, above which its Jacobians are not formed
LOST = 0.1  # a residual above it is no solution, whatever was asked for
NEAR = 0.1  # how far, relative to its size, a start may move while the states kept from it are still a guess


@dataclass(frozen=True)
class Achieved:
    """What the last solve did: corrections and residuals, relative to the largest of all, of states and costates (None
    before there are any). Both residuals come out of the sweeps that make the gradient and cost nothing."""

    iterations: int
    residual: float
    costate_iterations: int | None = None
    costate_residual: float | None = None


class Parallel(Gradient):
    """States, costates and gradients of all layers by an iteration over depth in which N/c chunks advance together.

        flow.Parallel("parareal", coarsening=32, iterations=2)

    solver:      "parareal": the coarse model is one step of size c h with the mean weights of a chunk; exact after N/c
                 iterations. "mgrit": the same with a second sweep of the chunks (FCF), exact after N/(2c), and a coarse
                 model that is itself solved so where levels > 2. "newton": all layers by Newton's method (c = 1);
                 "shooting": Newton's on the starts of the chunks, multiple shooting. Both are for few numbers per
                 sample, converge quadratically, and have costates without an iteration
    coarsening:  c, layers in a chunk; a divisor of the number of steps. None: the one nearest its root
    iterations:  corrections of the states, and of the costates. None: as many as it takes
    tolerance:   residual, relative to the largest state, at which to stop; None with `iterations`: none is computed in
                 between. None without: rounding
    levels:      of "mgrit"
    coarse:      integrator of the coarse steps; None: the flow's own. One of higher order, "midpoint" under "euler",
                 makes each iteration count for more
    damped:      a step of Newton's method is halved until the residual falls
    warm:        begin with the states and costates of the last pass with a graph of the same flow and shape, if no
                 start moved by more than a tenth of its size since (then 1 or 2 iterations serve: one-shot training on
                 a fixed batch); without a graph, always afresh
    The gradient is that of the layers at the states found. `achieved` says how well these solve x_{n+1} = Phi_n(x_n);
    a residual above the tolerance, or above 0.1, is warned of once per flow. Choose it for a thousand and more narrow
    layers with weights smooth in depth. Gunther et al. 2020 (arXiv 1812.04352); Massaroli et al. 2021 (2106.03885).
    Raises BadInput for numbers that cannot be right, Incompatible for a march that has no equal one-step layers.
    """

    flat = False

    def __init__(
        self,
        solver: str = "parareal",
        *,
        coarsening: int | None = None,
        iterations: int | None = None,
        tolerance: float | None = None,
        levels: int | None = None,
        coarse: Any = None,
        damped: bool = True,
        warm: bool = False,
    ) -> None:
        if solver not in SOLVERS:
            raise BadInput(f"solver {solver!r} is not known; write one of {', '.join(SOLVERS)}.")
        for what, value in (("coarsening", coarsening), ("iterations", iterations)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise BadInput(f"{what} is a positive whole number, got {value!r}; write {what}=2, for instance.")
        if tolerance is not None and not tolerance > 0:
            raise BadInput(f"tolerance is a positive relative residual such as 1e-6, got {tolerance!r}.")
        newton, relaxations, usual = SOLVERS[solver]
        if levels is not None and (solver != "mgrit" or not isinstance(levels, int) or levels < 2):
            raise BadInput(f"levels is a whole number of 2 or more, for solver='mgrit'; got {levels!r} for {solver!r}.")
        self.name, self.levels, self.coarsening, self.warm = solver, levels or usual, coarsening, warm
        self.coarse = None if coarse is None else integrators.resolve(coarse)
        if self.coarse is not None and (self.coarse.implicit or self.coarse.history or self.coarse.needs):
            raise BadInput(f"coarse steps are those of an explicit one-step method; {self.coarse.name!r} is none.")
        self.plan = Plan(coarsening or 1, newton, relaxations, iterations or 0, tolerance, damped)
        self._achieved: tuple[Any, ...] | None = None
        self._kept: WeakKeyDictionary[March, dict[str, Tensor]] = WeakKeyDictionary()
        self._warned: WeakKeyDictionary[March, bool] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was kept from runs, which belongs to marches of this process."""
        return {**self.__dict__, "_achieved": None, "_kept": WeakKeyDictionary(), "_warned": WeakKeyDictionary()}

    @property
    def achieved(self) -> Achieved | None:
        """What the last solve did; None before the first."""
        if self._achieved is None:
            return None
        values = [v if v is None or isinstance(v, int) else float(v) for v in self._achieved]
        return Achieved(*values)  # type: ignore[arg-type]

    def check(self, march: March) -> None:
        steps = abreast.check(self.name, march)
        _refuse_stateful(self.name, march)
        c, depth = self._factor(steps), self.levels - 1
        if steps % c**depth or (depth > 1 and steps < c ** (depth + 1)):
            chunks = f"chunks of {c}" + (f" on {self.levels} levels" if depth > 1 else "")
            raise Incompatible(
                f"gradient {self.name!r} was given {chunks} for {steps} steps, which is no multiple of {c**depth} or "
                f"leaves no chunk; let coarsening divide the steps, as coarsening={_nearest(steps)} does."
            )

    def _factor(self, steps: int) -> int:
        return self.coarsening or (1 if self.name == "newton" else _nearest(steps))

    def planned(self, steps: int, dtype: torch.dtype) -> Plan:
        """What is done for so many steps."""
        c, plan = self._factor(steps), self.plan
        if plan.iterations:
            return replace(plan, coarsening=c)
        rounding = 8 * torch.finfo(dtype).eps
        return replace(plan, coarsening=c, iterations=max(steps // c, 50), tolerance=plan.tolerance or rounding)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        abreast.looked_at(self.name, march, theta, y0)
        numbers = y0.numel() if y0.dim() == 1 else y0[0].numel()
        if self.plan.newton and numbers > WIDEST:
            raise Incompatible(
                f"gradient {self.name!r} forms the Jacobian of every chunk, and a state of {numbers} numbers per "
                f"sample is too wide for that (at most {WIDEST}); use Parallel('parareal')."
            )
        return Run.apply(self, march, save, record, watch, tuple(theta), y0, *theta.values(), *march.own)

    # ---- what is kept from pass to pass --------------------------------------------------------------------------

    def guess(self, march: March, what: str, start: Tensor, shape: torch.Size) -> Tensor | None:
        """The nodes kept from the last pass, if they are still a guess for this start."""
        old = self._kept.get(march, {}).get(what) if self.warm else None
        if old is None or old.shape[1:] != shape or old.dtype != start.dtype or old.device != start.device:
            return None
        return old if float((old[0] - start).abs().amax()) <= NEAR * float(old[0].abs().amax()) else None

    def keep(self, march: March, what: str, nodes: Tensor) -> None:
        if self.warm:
            self._kept.setdefault(march, {})[what] = nodes.detach()

    def tell(self, march: March, plan: Plan, what: str, found: Tensor) -> None:
        """Warn, once per flow, of a residual that is above what was asked for."""
        wanted = LOST if plan.tolerance is None or not self.plan.tolerance else max(plan.tolerance, 0.0)
        if march in self._warned or float(found) <= wanted:
            return
        self._warned[march] = True
        warnings.warn(
            f"gradient {self.name!r} left the {what} with a residual of {float(found):.1e} of their size (above "
            f"{wanted:g}) after its iterations; give more iterations, a smaller coarsening, or gradient='autograd'.",
            stacklevel=2,
        )


class Run(torch.autograd.Function):
    """Forward: the states, and one sweep of all chunks with its graph. Backward: the costates, through that graph."""

    @staticmethod
    def forward(ctx, how, march, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        wanted = any(ctx.needs_input_grad)
        leaves = [v.detach().requires_grad_(wanted and (v.is_floating_point() or v.is_complex())) for v in values]
        theta, own = dict(zip(names, leaves)), tuple(leaves[len(names) :])
        with torch.set_grad_enabled(wanted):
            rows = abreast.rows_of(march, theta, own)
            plan = how.planned(len(rows), y0.dtype)
        found = solved(how, march, plan, rows, y0, wanted)
        states, starts, graph = found
        x = torch.stack([g.detach() for g in graph], 1).flatten(0, 1) if save or watch is not None else None
        record.halves += 2 * march.integrator.stages * len(rows) * ((how._achieved[0] + 1) * plan.relaxations)
        if watch is not None:
            _show(march, watch, record, y0, x)
        ctx.how, ctx.march, ctx.plan, ctx.save, ctx.steps = how, march, plan, save, march.substeps
        ctx.kept = states, starts, graph, leaves
        ctx.save_for_backward(y0, *values)
        if save:
            return torch.cat((y0[None], x[march.substeps - 1 :: march.substeps]))  # type: ignore[index]
        return graph[-1][-1].detach().clone()

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def, override]
        (states, starts, graph, leaves), (y0, *values) = ctx.kept, ctx.saved_tensors
        with torch.no_grad():
            r, end = None, g
            if ctx.save:
                r = g.new_zeros(len(graph) * len(starts), *y0.shape)
                r[ctx.steps - 1 :: ctx.steps] = g[1:]
                end = g[-1]
            system = Costates(states, starts, graph, r)
            P, done = costates(ctx.how, ctx.march, ctx.plan, system, end)
            inputs = [starts, *(v for v in leaves if v.requires_grad)]
            first, *rest = system.pull(P[:-1].flip(0), inputs)
            left = residual(P, system.ends(first))
            ctx.how._achieved = (*(ctx.how._achieved or (0, 0.0))[:2], done, left)
            ctx.how.tell(ctx.march, ctx.plan, "costates", left)
            grads = iter(rest)
            total = [first[0] + g[0] if ctx.save else first[0]]
            total += [_filled(next(grads), v) if v.requires_grad else None for v in leaves]
        return (None,) * 6 + guarded(ctx.how.name, total, (g, y0, *values))


def _filled(g: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if g is None else g


def solved(how: Parallel, march: March, plan: Plan, rows: Any, y0: State, graph: bool) -> Any:
    """The system of the states, their values at the starts of the chunks, and all of them in between, with a graph."""
    levels, c = [rows], plan.coarsening
    with torch.no_grad():
        below = rows.detached()
        for _ in range(how.levels - 1):
            below = below.coarse(c, how.coarse or march.integrator)
            levels.append(below)
    with torch.set_grad_enabled(graph):
        system = States(levels, c, y0, recording=graph)
    with torch.no_grad():
        guess = how.guess(march, "states", y0, y0.shape) if graph else None
        if guess is None:
            C = y0.expand(len(rows) // c + 1, *y0.shape) if c == 1 and plan.newton else system.start(y0)
        else:
            C = torch.cat((y0[None], guess[1:]))
        C, done = solve(system, plan, y0, C)
    if graph:
        how.keep(march, "states", C)
    with torch.set_grad_enabled(graph):
        starts = C[:-1].detach().requires_grad_(graph)
        whole = system.chain(starts)
    left = residual(C, whole[-1].detach())
    how._achieved = (done, left)
    how.tell(march, plan, "states", left)
    return system, starts, whole


def costates(how: Parallel, march: March, plan: Plan, system: Costates, end: Tensor) -> tuple[Tensor, int]:
    """p at the ends of the chunks, from the last one backwards, (M + 1, ...), and the number of corrections."""
    guess = how.guess(march, "costates", end, end.shape)
    C = system.start(end, system.entering(1)) if guess is None else torch.cat((end[None], guess[1:]))
    C, done = solve(system, plan, end, C)
    how.keep(march, "costates", C)
    return C, done


def _show(march: March, watch: Any, record: Record, y0: State, x: Any) -> None:
    """Let `watch` see the steps in their order, as a march would."""
    before, pieces = y0, march.pieces({})
    for mark, after in zip(marks_of(march), x.unbind(0)):
        rhs = march.rhs(mark.n, pieces[mark.n])
        if why := watch(mark, before, Step(after, None, ()), rhs):
            record.stop(why, mark.t, mark.h)
            break
        record.note(mark, before, ())
        before = after


def _nearest(steps: int) -> int:
    """The divisor of `steps` nearest to its root."""
    divisors = [c for c in range(1, steps + 1) if steps % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c * c / steps)))


GRADIENTS |= {name: Parallel(name) for name in ("parareal", "shooting")}
