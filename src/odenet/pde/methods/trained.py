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
from ...optimise.base import Optimiser, State
from ..ansatz import Ansatz, ansatz
from ..collocation import Collocation, blocks
from ..solution import Field, Solution
from ..statement import Problem
from .base import METHODS, Method, Run

SUSPECT = 10.0  # held-out residual over training residual above which a solution is not to be trusted


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

    width, depth, activation   of the MLP where no model is given
    points, boundary           collocation points of each equation and of each condition that is not met exactly
    sampling                   name of a design ("sobol", "lhs", "chebyshev", ...)
    fresh                      new points every so many steps (0: the same ones throughout)
    hard                       None: meet by construction what can be; False: meet all conditions by weight
    weight                     of conditions met by weight, over that of the equations
    harmonics, maps            of the features: see `Features`
    """

    optimiser: str = "gauss_newton"
    width: int = 24
    depth: int = 3
    activation: str = "tanh"
    points: int = 2000
    boundary: int | None = None
    sampling: str = "sobol"
    fresh: int = 0
    hard: bool | None = None
    weight: float = 10.0
    harmonics: int = 1
    maps: Mapping[str, Any] | None = None
    steps: int | None = None
    options: Mapping[str, Any] | None = None

    def solve(self, problem: Problem, run: Run) -> Solution:
        model = self._ansatz(problem, run)
        points = run.generator(1)
        system = Collocation(model, self._blocks(problem, model, points))
        optimiser: Optimiser = optimise.get(self.optimiser, **(self.options or {}))
        state = optimiser.init(system, system.theta())
        done = 0
        if run.resumed is not None:
            state = {k[6:]: v for k, v in run.resumed.items() if k.startswith("state.")}
            done = int(run.resumed["done"])
            for _ in range(done // self.fresh if self.fresh else 0):
                drawn = self._blocks(problem, model, points)
            if self.fresh and done >= self.fresh:
                system.renew(drawn)
        found = Model(model)
        while run.left > 0 and optimiser.status(state) is None and done != self.steps:
            state = optimiser.step(system, state)
            done += 1
            parameters = system.put(state["theta"])
            run.log(
                {"loss": float(state["loss"]), "step": done, **{k: float(v) for k, v in parameters.items()}},
                problem, found.jet, {k: float(v) for k, v in parameters.items()},
            )  # fmt: skip
            if self.fresh and done % self.fresh == 0:
                system.renew(self._blocks(problem, model, points))
                state = optimiser.refresh(system, state)
            run.keep({**{f"state.{k}": v for k, v in state.items()}, "done": torch.tensor(done)})
        run.keep({**{f"state.{k}": v for k, v in state.items()}, "done": torch.tensor(done)}, now=True)
        return self._finished(problem, run, system, state, optimiser)

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
        return ansatz(
            problem, run.model, width=self.width, depth=self.depth, activation=self.activation,
            harmonics=self.harmonics, maps=self.maps, wanted=self.hard, seed=run.seed,
        )  # fmt: skip

    def _blocks(self, problem: Problem, model: Ansatz, generator: torch.Generator) -> list[Any]:
        found = blocks(problem, self.points, generator, self.sampling, model.hard.met, self.boundary)
        for b in found:
            b.weight *= self.weight if b.name not in ("equation",) and not b.name.startswith("equation ") else 1.0
        return found

    def _finished(
        self, problem: Problem, run: Run, system: Collocation, state: State, optimiser: Optimiser
    ) -> Solution:
        parameters = {k: float(v) for k, v in system.put(state["theta"]).items()}
        status = optimiser.status(state) or ("stopped" if run.stopped else "budget")
        sol = Solution(
            problem, self.optimiser, Model(system.ansatz), run.seed, run.used, status,
            history=run.history, parameters=parameters,
            covariance=_covariance(system, state["theta"]) if parameters else None,
            settings={"width": self.width, "depth": self.depth, "points": self.points, "weights": system.size},
        )  # fmt: skip
        return sol


def _covariance(system: Collocation, theta: Tensor) -> Tensor:
    """Of the parameters: s^2 (J^T J)^-1 with s^2 = |r|^2 / (N - P), data rows counted at their measured size.

    The weights of the net are profiled out; directions that no residual sees count as known.
    """
    H, size = torch.zeros(system.size, system.size, dtype=torch.float64), 0.0
    squares = 0.0
    for r, J in system.blocks(theta):
        H += J.T @ J
        squares += float(r.square().sum())
        size += len(r)
    p = len(system.names)
    inverse = torch.linalg.pinv(H, rtol=1e-14, hermitian=True)
    return inverse[-p:, -p:] * squares / max(size - system.size, 1.0)


def _trained(name: str, when: str) -> None:
    def maker(**options: Any) -> Trained:
        return Trained(optimiser=name, **options)

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
