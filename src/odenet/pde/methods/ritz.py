"""Deep Ritz: a net that makes an energy smallest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import optimise
from ...errors import BadInput
from ...optimise.base import Objective, Optimiser, State
from ..ansatz import Ansatz, ansatz
from ..collocation import CHUNK, Block, Collocation, blocks
from ..conditions import Condition, number
from ..energies import energy
from ..expressions import Expression, is_constant
from ..solution import Field, Solution
from ..statement import Problem
from .base import METHODS, Method, Run
from .trained import Model

APART = 0.01  # relative difference of the energy at other points above which a solution is not to be trusted


class Energy(Objective):
    """E(theta) = sum_n w_n L(x_n) + penalties, where L is the density of the problem's energy.

    soft: the conditions that the ansatz does not meet, as blocks; each counts weight * mean of its squared rows / 2
    """

    def __init__(self, model: Ansatz, x: Tensor, w: Tensor, soft: list[Block]) -> None:
        density = model.problem.energy
        if density is None:
            raise BadInput("this problem has no energy: Problem(..., energy=lambda u: ...).")
        self.model, self.soft = model, Collocation(model, soft)
        self.parts = [Block("energy", (density,), part) for part in x.split(CHUNK)]
        self.ready = [model.prepared(b.points, b.channels) for b in self.parts]
        self.w = w.split(CHUNK)

    @property
    def size(self) -> int:
        return self.soft.size

    def integral(self, i: int) -> Tensor:
        """The energy of the i-th part of the points."""
        b = self.parts[i]
        return (
            self.w[i] @ b.residual(b.values(self.model.channels(self.ready[i]), self.model.problem.unknowns), {})[:, 0]
        )

    def energy(self, theta: Tensor) -> Tensor:
        """E without penalties."""
        self.soft.put(theta)
        with torch.no_grad():
            return torch.stack([self.integral(i) for i in range(len(self.parts))]).sum()

    def value(self, theta: Tensor) -> Tensor:
        total = self.energy(theta)
        return total + self.soft.value(theta) if self.soft.found else total

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        self.soft.put(theta)
        total, gradient = torch.zeros((), dtype=theta.dtype), torch.zeros_like(theta)
        for i in range(len(self.parts)):
            with torch.enable_grad():
                part = self.integral(i)
            found = torch.autograd.grad(part, self.soft.weights, materialize_grads=True)
            total += part.detach()
            gradient += torch.cat([g.flatten() for g in found])
        if self.soft.found:
            penalty, slope = self.soft.value_and_gradient(theta)
            total, gradient = total + penalty, gradient + slope
        return total, gradient


@dataclass(frozen=True, kw_only=True)
class DeepRitz(Method):
    """Minimise the energy of the problem over the weights of a net (E & Yu 2018, Commun. Math. Stat. 6, 1).

    optimiser, options  of `optimise`, for objectives that are no sums of squares
    net, width, depth, activation, net_options   of the trunk, as for trained nets
    points              about how many: quadrature nodes, or new random points every `fresh` steps (0: quadrature)
    hard                None: meet by construction what can be; False: meet all conditions by the penalty
    penalty             times the mean square of what a condition misses, added to the energy
    A Neumann condition with value 0 is natural: it holds where the energy is smallest, and is not imposed.
    """

    optimiser: str = "ssbroyden"
    options: Mapping[str, Any] | None = None
    net: str = "ritz"
    net_options: Mapping[str, Any] | None = None
    width: int = 16
    depth: int = 2
    activation: str = "tanh"
    points: int = 2000
    fresh: int = 0
    hard: bool | None = None
    penalty: float = 500.0
    harmonics: int = 1
    steps: int | None = None

    when = "A variational problem of low regularity, or first derivatives only; else residuals are more accurate."

    def suits(self, problem: Problem) -> str | None:
        if problem.energy is None:
            return "it minimises an energy, and the problem has none; state it with energy=lambda u: ..."
        if problem.evolves or problem.inverse:
            return "an energy has a minimum for stationary problems without unknown parameters only."
        for c in problem.conditions:
            if c.kind not in ("dirichlet", "periodic", "data") and not _natural(c, problem):
                return f"the condition {c!r} would need an energy on the boundary; use method='gauss_newton'."
        return None

    def solve(self, problem: Problem, run: Run) -> Solution:
        model = self._ansatz(problem, run)
        optimiser: Optimiser = optimise.get(self.optimiser, **(self.options or {}))
        done = 0 if run.resumed is None else int(run.resumed["done"])
        system = self._system(problem, model, run, done // self.fresh if self.fresh else 0)
        if run.resumed is None:
            state = optimiser.init(system, system.soft.theta())
        else:
            state = {k[6:]: v for k, v in run.resumed.items() if k.startswith("state.")}
        found = Model(model)
        while run.left > 0 and optimiser.status(state) is None and done != self.steps:
            state = optimiser.step(system, state)
            done += 1
            system.soft.put(state["theta"])
            run.log({"loss": float(state["loss"]), "step": done}, problem, found.jet)
            if self.fresh and done % self.fresh == 0:
                system = self._system(problem, model, run, done // self.fresh)
                state = optimiser.refresh(system, state)
            run.keep(_kept(state, done))
        run.keep(_kept(state, done), now=True)
        return self._finished(problem, run, system, state, optimiser)

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        model = self._ansatz(problem, run)
        model.trunk.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("trunk.")})
        return Model(model)

    def _ansatz(self, problem: Problem, run: Run) -> Ansatz:
        return ansatz(
            problem, run.model, width=self.width, depth=self.depth, activation=self.activation, net=self.net,
            net_options=self.net_options, harmonics=self.harmonics, wanted=self.hard, seed=run.seed,
        )  # fmt: skip

    def _system(self, problem: Problem, model: Ansatz, run: Run, draw: int) -> Energy:
        generator = run.generator(1000 + draw)
        if self.fresh:
            x = problem.domain.sample(self.points, generator, "uniform")
            w = torch.full((len(x),), problem.domain.measure / len(x), dtype=x.dtype)
        else:
            x, w = problem.domain.quadrature(self.points)
        soft = [
            b for b in blocks(problem, self.points, generator, "uniform" if self.fresh else "sobol", model.hard.met)
            if isinstance(b.source, Condition) and not _natural(b.source, problem)
        ]  # fmt: skip
        for b in soft:
            b.weight *= 2 * self.penalty
        return Energy(model, x, w, soft)

    def _finished(self, problem: Problem, run: Run, system: Energy, state: State, optimiser: Optimiser) -> Solution:
        system.soft.put(state["theta"])
        status, message = optimiser.status(state) or ("stopped" if run.stopped else "budget"), ""
        trained, found = float(system.energy(state["theta"])), Model(system.model)
        other = energy(problem, found.jet, max(1000, 3 * self.points))
        if not self.fresh and abs(other - trained) > APART * max(abs(other), abs(trained)):
            status = "suspect"
            message = f"At other points the energy is {other:.4g} instead of {trained:.4g}: take more points."
        chosen = {
            "width": self.width, "depth": self.depth, "points": self.points, "weights": system.size, "energy": other
        }  # fmt: skip
        return Solution(problem, "deep_ritz", found, run.seed, run.used, status, message, run.history, settings=chosen)


def _natural(c: Condition, problem: Problem) -> bool:
    if c.kind != "neumann":
        return False
    given = number(c.value, problem.frame)
    return is_constant(given, 0.0) if isinstance(given, Expression) else float(given) == 0.0


def _kept(state: State, done: int) -> dict[str, Tensor]:
    return {**{f"state.{k}": v for k, v in state.items()}, "done": torch.tensor(done)}


METHODS.register("deep_ritz", DeepRitz)
