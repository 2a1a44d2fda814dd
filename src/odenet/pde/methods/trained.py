"""Trained nets: an optimiser on the residuals of a model at collocation points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import optimise
from ...errors import BadInput
from ...fields import jets
from ...optimise.base import Optimiser, State, number
from ..ansatz import Ansatz, ansatz
from ..collocation import Block, Collocation, blocks
from ..conditions import Condition
from ..corners import NONE, corners_of
from ..solution import Field, Solution
from ..statement import Equation, Problem
from ..symmetry import parity
from .base import METHODS, Method, Run
from .course import Course

LOOK = 10  # steps between two looks at other points
SUSPECT = 10.0  # held-out loss over training loss above which a solution is not to be trusted


@dataclass
class Model:
    """A trained ansatz as the field of a solution."""

    ansatz: Ansatz

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        closed = jets.closed(channels)
        parts = self.ansatz.channels(self.ansatz.prepared(x, closed))
        return parts[[closed.index(c) for c in channels]]

    def tensors(self) -> dict[str, Tensor]:
        return {f"trunk.{k}": v for k, v in self.ansatz.trunk.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class Trained(Method):
    """Minimise the weighted mean squares of all residuals over the weights of a net, in float64.

    net, width, depth, activation, net_options   of the trunk where no model is given: see `pde.trunks`
    points, boundary           collocation points of each equation and of each condition that is not met exactly; points
                               None: three times the weights of the net, and half as many again, newly drawn, whenever
                               the residual at other points is more than `overfit` times the one trained on
    sampling                   name of a design ("sobol", "lhs", "chebyshev", ...)
    fresh                      new points every so many steps (0: the same ones throughout)
    adaptive                   "rad", "rar_d" or "r3": points move to where the residual is large instead
    balance, balance_options   weights of equations, conditions and points that follow the training: see `pde.balancing`
    hard                       None: meet by construction what can be; False: meet all conditions by weight
    weight                     of conditions met by weight, over that of the equations
    harmonics, maps            of the features: see `Features`
    symmetric                  a model that is even or odd where the statement shows that the solution is; not where a
                               model is given
    corners                    singular functions of the corners of a polygon beside the net, where one is re-entrant;
                               not where a model is given
    """

    optimiser: str = "gauss_newton"
    net: str = "mlp"
    net_options: Mapping[str, Any] | None = None
    width: int = 20
    depth: int = 3
    activation: str = "tanh"
    points: int | None = None
    boundary: int | None = None
    sampling: str = "sobol"
    fresh: int = 0
    adaptive: str | None = None
    balance: str | None = None
    balance_options: Mapping[str, Any] | None = None
    hard: bool | None = None
    weight: float = 10.0
    overfit: float = 1.5
    harmonics: int = 1
    maps: Mapping[str, Any] | None = None
    symmetric: bool = True
    corners: bool = True
    steps: int | None = None
    options: Mapping[str, Any] | None = None

    def solve(self, problem: Problem, run: Run) -> Solution:
        model = self._ansatz(problem, run)
        course = self._course(problem, model, run)
        system = course.begin(run.resumed)
        optimiser: Optimiser = optimise.get(self.optimiser, **(self.options or {}))
        if run.resumed is None:
            state = optimiser.init(system, system.theta())
        else:
            state = {k[6:]: v for k, v in run.resumed.items() if k.startswith("state.")}
        found = Model(model)

        def overfits() -> bool:
            return self.points is None and course.done % LOOK == 0 and self._overfits(course, state, run)

        while run.left > 0 and optimiser.status(state) is None and course.done != self.steps:
            if "progress" in state:  # what schedules of learning rates follow
                share = run.used / run.seconds if self.steps is None else course.done / self.steps
                state["progress"] = number(share, state)
            state = optimiser.step(system, state)
            parameters = {k: float(v) for k, v in system.put(state["theta"]).items()}
            row = {"loss": float(state["loss"]), "step": course.done + 1, **parameters}
            run.log(row, problem, found.jet, parameters)
            state = course.after(optimiser, state, overfits)
            run.keep(self._kept(state, course))
        run.keep(self._kept(state, course), now=True)
        return self._finished(problem, run, course, state, optimiser)

    def _course(self, problem: Problem, model: Ansatz, run: Run) -> Course:
        weights = sum(p.numel() for p in model.trunk.parameters())
        rows = sum(len(es) for _, es in problem.traced)
        return Course(
            model, lambda points, draw: self._blocks(problem, model, points, run, draw), run.generator,
            max(1000, 3 * weights // rows) if self.points is None else self.points,
            self.fresh, self.adaptive, self.balance, self.balance_options or {},
        )  # fmt: skip

    def _kept(self, state: State, course: Course) -> dict[str, Tensor]:
        return {**{f"state.{k}": v for k, v in state.items()}, **course.tensors()}

    def _overfits(self, course: Course, state: State, run: Run) -> bool:
        """Whether the loss at 500 other points is overfit^2 times that of training."""
        model = course.model
        other = Collocation(model, self._blocks(model.problem, model, 500, run, -course.done))
        return float(other.value(state["theta"])) > self.overfit**2 * course.loss(state)

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        model = self._ansatz(problem, run)
        model.trunk.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("trunk.")})
        return Model(model)

    def _ansatz(self, problem: Problem, run: Run) -> Ansatz:
        if run.model is not None and any(p.dtype != torch.float64 for p in run.model.parameters()):
            raise BadInput(
                "the model has float32 weights, in which the loss of a PDE stalls near 1e-6 of its start; "
                "pass model.double()."
            )
        found = corners_of(problem.domain) if self.corners and run.model is None else NONE
        return ansatz(
            problem, run.model, width=self.width, depth=self.depth, activation=self.activation,
            net=self.net, net_options=self.net_options,
            harmonics=self.harmonics, maps=self.maps, wanted=self.hard, seed=run.seed,
            parity=parity(problem) if self.symmetric and run.model is None else None,
            corners=found if found.reentrant else NONE,
        )  # fmt: skip

    def _blocks(self, problem: Problem, model: Ansatz, points: int, run: Run, draw: int) -> list[Block]:
        generator = run.generator(1000 + 2 * draw if draw >= 0 else 1001 - 2 * draw)
        found = blocks(problem, points, generator, self.sampling, model.hard.met, self.boundary)
        for b in found:
            b.weight *= 1.0 if isinstance(b.source, Equation) else self.weight
        return found

    def _finished(self, problem: Problem, run: Run, course: Course, state: State, optimiser: Optimiser) -> Solution:
        system, loss = course.system, course.loss(state)
        system.reweigh({})
        parameters = {k: float(v) for k, v in system.put(state["theta"]).items()}
        status, message = optimiser.status(state) or ("stopped" if run.stopped else "budget"), ""
        other = Collocation(system.ansatz, self._blocks(problem, system.ansatz, 1000, run, -(10**6)))
        ratio = float(other.value(state["theta"])) / max(loss, 1e-300)
        if ratio > SUSPECT and loss > 0:
            status = "suspect"
            message = (
                f"At other points the loss is {ratio:.3g} times that of training: take more points, a smaller net or "
                "another method."
            )
        chosen = {"width": self.width, "depth": self.depth, "points": len(system.whole[0].x), "weights": system.size}
        covariance = _covariance(system, state["theta"]) if parameters else None
        return Solution(
            problem, self.optimiser, Model(system.ansatz), run.seed, run.used, status, message,
            run.history, parameters, covariance, chosen,
        )  # fmt: skip


def _covariance(system: Collocation, theta: Tensor) -> Tensor | None:
    """Of the parameters, from the scatter of the measurements: (J^T J)^-1 J_d^T J_d s^2 (J^T J)^-1, its last rows.

    J: of all rows, J_d: of the measurements alone, whose noise is estimated from their own misfit; equations and
    conditions count as exact. Directions that no row sees count as known. None without measurements.
    """
    H, D = (torch.zeros(system.size, system.size, dtype=torch.float64) for _ in range(2))
    squares, count = 0.0, 0
    for block, (r, J) in zip(system.found, system.blocks(theta)):
        H.addmm_(J.T, J)
        if isinstance(block.source, Condition) and block.source.kind == "data":
            D.addmm_(J.T, J)
            squares += float(r.square().sum())
            count += len(r)
    if not count:
        return None
    p = len(system.names)
    inverse = torch.linalg.pinv(H, rtol=1e-14, hermitian=True)
    return (inverse @ D @ inverse)[-p:, -p:] * squares / max(count - p, 1)


def _trained(name: str, when: str, **preset: Any) -> None:
    def maker(**options: Any) -> Trained:
        return Trained(**{"optimiser": name, **preset, **options})

    maker.of = Trained  # type: ignore[attr-defined]
    maker.when = when  # type: ignore[attr-defined]
    METHODS.register(name, maker)


_trained("gauss_newton", "The first choice for a trained net up to a few thousand weights: Levenberg-Marquardt.")
_trained("engd", "Energy natural gradients, to compare with papers that use them; gauss_newton needs fewer steps.")
_trained("ssbroyden", "When the Jacobian no longer fits: many points, thousands of weights.")
_trained("ssbfgs", "As ssbroyden, where a self-scaled update that stays symmetric positive definite is wanted.")
_trained("lbfgs", "Many thousand weights.")
_trained("adam", "The baseline of the literature, and a first stage.")
_trained("soap", "Large nets for which no curvature matrix fits.")
_trained(
    "dgm",
    "The deep Galerkin method (Sirignano & Spiliopoulos 2018): many dimensions, fresh random points for every step.",
    optimiser="adam", net="dgm", depth=2, sampling="uniform", points=1000, fresh=1,
)  # fmt: skip
_trained(
    "lagaris",
    "Trial solutions of Lagaris, Likas & Fotiadis (1998): small ordinary problems whose answer is a short formula.",
    optimiser="bfgs", width=10, depth=1, activation="sigmoid", sampling="grid", points=10,
)  # fmt: skip
