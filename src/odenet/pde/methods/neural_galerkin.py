"""Neural Galerkin: the weights of a net of space are the state of an ordinary equation in time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ... import flow, integrators, optimise
from ...errors import Incompatible, SolveFailed
from ...fields import jets
from ...flow.solution import REACHED
from ...optimise.base import LeastSquares
from ..ansatz import Ansatz, Features, hard
from ..collocation import Block, flat, write
from ..expressions import key, leaves, value
from ..solution import Field, Solution
from ..statement import Problem
from ..trunks import trunk
from .base import METHODS, Method, Run
from .discrete_time import _inverse
from .semidiscrete import checked
from .tableaux import lagrange

STENCIL = 6  # states that one polynomial in time goes through
FIT = 0.3  # of the budget for the initial state
FAR = 1e-2  # relative error of the initial state, or of u_t, above which a solution is not to be trusted


def free_start(problem: Problem) -> Problem:
    """The same problem with initial conditions that the model does not meet by construction."""
    conditions = [replace(c, hard=False) if c.kind == "initial" else c for c in problem.conditions]
    return Problem(
        problem.domain, problem.equations, conditions, unknowns=problem.unknowns, exact=problem.exact,
        reference=problem.reference, name=problem.name, facts=problem.facts, allow_jumps=True,
    )  # fmt: skip


class Moving(nn.Module):
    """u(t, x; theta) = g(x, t) + d(x) N(x; theta); g and d meet the boundary conditions."""

    def __init__(self, problem: Problem, net: str, words: Mapping[str, Any], harmonics: int) -> None:
        super().__init__()
        self.problem, self.m = free_start(problem), len(problem.unknowns)
        chosen = hard(self.problem)
        around = {problem.frame.coordinates.index(a): harmonics for a in chosen.periodic}
        self.features = Features(problem.domain.bounds[:, :-1], around)
        self.trunk = trunk(net, self.features.size, self.m, **words).double()
        whole = Features(problem.domain.bounds, around)
        self.met = Ansatz(self.problem, nn.Linear(whole.size, self.m).double(), chosen, whole)
        self.weights = [p for p in self.trunk.parameters() if p.requires_grad]

    def theta(self) -> Tensor:
        """Where the net stands."""
        return flat(self.weights)

    def put(self, theta: Tensor) -> None:
        """Write theta into the net."""
        write(self.weights, theta)

    def lifted(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        """Channels of the features at points of space and time."""
        with torch.no_grad():
            return self.features(jets.lift(x, channels)[..., :-1])


def at_time(x: Tensor, t: float) -> Tensor:
    """Points of space (N, d) at one time."""
    return torch.cat([x, torch.full((len(x), 1), t, dtype=x.dtype)], 1)


class InitialFit(LeastSquares):
    """g + d N - u_0 at points of space; |r|^2 is the mean."""

    def __init__(self, model: Moving, x: Tensor) -> None:
        self.model = model
        where = at_time(x, float(model.problem.domain.bounds[0, -1]))
        zero = ((0,) * model.problem.dim,)
        self.truth = started(model.problem, where)
        self.ready = (model.lifted(where, zero), *model.met.prepared(where, zero)[1:])
        self.scale = 1 / math.sqrt(len(x))

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.model.weights)

    def _rows(self) -> Tensor:
        features, lift, factor = self.ready
        found = self.model.met.joined(self.model.trunk(features), lift, factor)
        return (found.parts[0] - self.truth) * self.scale  # type: ignore[attr-defined, no-any-return]

    def residual(self, theta: Tensor) -> Tensor:
        self.model.put(theta)
        with torch.no_grad():
            return self._rows().flatten()

    def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        self.model.put(theta)
        with jets.record() as tape, torch.enable_grad():
            r = self._rows()
            J = tape.jacobian(r, self.model.weights)
        tape.notes.clear()
        yield r.detach().flatten(), J.reshape(-1, self.size)


def started(problem: Problem, x: Tensor) -> Tensor:
    """(N, m): the initial values."""
    columns = dict(zip(problem.frame.coordinates, x.unbind(1)))
    out = torch.zeros(len(x), len(problem.unknowns), dtype=torch.float64)
    for c, es in problem.required:
        if c.kind == "initial":
            env: dict[Any, Any] = dict(columns)
            env |= {key(leaf): torch.zeros(len(x), dtype=torch.float64) for leaf in leaves(es)}
            out[:, problem.unknowns.index(c.unknown or problem.unknowns[0])] = -torch.as_tensor(value(es[0], env))
    return out


class Dynamics:
    """theta' = argmin |du/dtheta theta' + g_t - N(t, x, u)|^2 over points of space: called as f(t, theta).

    cutoff: singular values of the Jacobian below this part of the largest are left out
    """

    def __init__(self, model: Moving, x: Tensor, cutoff: float) -> None:
        self.model, self.x, self.cutoff = model, x, cutoff
        self.rows = tuple(e for _, es in model.problem.traced for e in es)
        self.leaves = leaves(self.rows)
        zero = (0,) * model.problem.dim
        self.slow = (*zero[:-1], 1)
        self.channels = jets.closed([zero, self.slow, *(leaf.index for leaf in self.leaves)])
        self.size = 0.0  # of u, per time
        self.gap = 0.0  # of the last call: what no theta' can follow, over u_t, or over u per time where that is more

    def system(self, t: float, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The Jacobian (n m, P) and what it is to give (n m,)."""
        model, where = self.model, at_time(self.x, t)
        model.put(theta)
        features = model.lifted(where, self.channels)
        lift, factor = model.met.prepared(where, self.channels)[1:]
        with jets.record() as tape, torch.enable_grad():
            parts = model.met.joined(model.trunk(features), lift, factor).parts  # type: ignore[attr-defined]
            J = tape.jacobian(parts[0], model.weights)
        tape.notes.clear()
        parts = parts.detach()
        low, high = (float(v) for v in model.problem.domain.bounds[:, -1])
        self.size = float(parts[0].norm()) / (high - low)
        block, values = Block("equations", self.rows, where), {}
        for leaf in block.leaves:
            column = parts[self.channels.index(leaf.index), :, model.problem.unknowns.index(leaf.unknown)]
            values[key(leaf)] = torch.zeros_like(column) if leaf.index[-1] else column
        speed = -torch.einsum("nue,ne->nu", _inverse(block, model.problem), block.residual(values, {}))
        return J.flatten(0, 1), (speed - lift.parts[self.channels.index(self.slow)]).flatten()

    def __call__(self, t: Any, theta: Tensor) -> Tensor:
        J, wanted = self.system(float(t), theta)
        found = torch.linalg.lstsq(J, wanted[:, None], rcond=self.cutoff, driver="gelsd").solution[:, 0]
        self.gap = float((J @ found - wanted).norm()) / max(float(wanted.norm()), self.size, 1e-300)
        return found


@dataclass
class Trajectory:
    """Nets at times t (T,) with weights (T, P); in between N is a polynomial in time through six of them."""

    model: Moving
    t: Tensor
    theta: Tensor

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        closed, K = jets.closed(channels), min(STENCIL, len(self.t))
        spatial = jets.closed([(*c[:-1], 0) for c in closed])
        when = x[:, -1].contiguous()
        step = (torch.searchsorted(self.t, when, right=True) - 1).clamp(0, len(self.t) - 2)
        first = (step - K // 2 + 1).clamp(0, len(self.t) - K)
        weights = {q: torch.zeros(len(x), K, dtype=torch.float64) for q in {c[-1] for c in closed}}
        for s in first.unique().tolist():
            here, nodes = first == s, self.t[s : s + K]
            length = nodes[-1] - nodes[0]
            for q, table in weights.items():
                table[here] = lagrange((nodes - nodes[0]) / length, (when[here] - nodes[0]) / length, q) / length**q
        N = torch.zeros(len(closed), len(x), self.model.m, dtype=torch.float64)
        for k in range(len(self.t)):
            here = ((first <= k) & (k < first + K)).nonzero()[:, 0]
            if len(here):
                self.model.put(self.theta[k])
                with torch.no_grad():
                    parts = self.model.trunk(self.model.lifted(x[here], spatial)).parts
                for c, index in enumerate(closed):
                    own = weights[index[-1]][here, k - first[here]]
                    N[c, here] += own[:, None] * parts[spatial.index((*index[:-1], 0))]
        lift, factor = self.model.met.prepared(x, closed)[1:]
        found = self.model.met.joined(jets.Jet(N, closed), lift, factor).parts  # type: ignore[attr-defined]
        return found[[closed.index(c) for c in channels]]  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, Tensor]:
        return {"t": self.t, "theta": self.theta}


@dataclass(frozen=True, kw_only=True)
class NeuralGalerkin(Method):
    """u_t = N(t, x, u) as an ordinary equation for the weights of a net of space, by any explicit integrator.

    width, depth, activation, net   of the trunk; harmonics: of periodic axes
    points      at which the equation holds in the mean; None: three times the weights
    integrator  explicit; steps: of fixed ones; tolerance: of adaptive ones
    cutoff      of singular values of the Jacobian, relative
    fit         steps of Gauss-Newton for the initial state at most
    Bruna, Peherstorfer & Vanden-Eijnden (2024), J. Comput. Phys. 496, with points that stay where they are.
    """

    width: int = 12
    depth: int = 2
    activation: str = "tanh"
    net: str = "mlp"
    harmonics: int = 1
    points: int | None = None
    sampling: str = "sobol"
    integrator: str = "dopri5"
    steps: int | None = None
    tolerance: float = 1e-5
    cutoff: float = 1e-6
    fit: int = 300

    when = "Moving, local structures in dimensions where grids are out of question: the net travels with the solution."

    def suits(self, problem: Problem) -> str | None:
        if not problem.evolves or problem.dim < 2:
            return "it steps functions of space in time."
        scheme = integrators.get(self.integrator)
        if scheme.implicit or scheme.needs:
            return f"{self.integrator!r} is no explicit integrator for y' = f(t, y); take 'dopri5' or 'rk4'."
        try:
            rows = [e for _, es in problem.traced for e in es]
            checked(problem, leaves(rows), [problem.time_order[u] for u in problem.unknowns])
            if max(problem.time_order.values()) > 1:
                return "it is for equations of order one in time; write u_tt = N as two of them."
            _inverse(Block("rows", tuple(rows), problem.domain.sample(8)), problem)
            eased = free_start(problem)
            met = hard(eased).met
        except Incompatible as reason:
            return str(reason)
        left = [c for c in eased.conditions if c not in met and c.kind != "initial"]
        return f"the condition {left[0]!r} cannot be met by construction." if left else None

    def _model(self, problem: Problem, seed: int) -> Moving:
        words = {"width": self.width, "depth": self.depth, "act": self.activation, "seed": seed}
        return Moving(problem, self.net, words, self.harmonics)

    def solve(self, problem: Problem, run: Run) -> Solution:
        model = self._model(problem, run.seed)
        count = self.points or max(200, 3 * sum(p.numel() for p in model.weights))
        x = problem.domain.space.sample(count, run.generator(), self.sampling)
        start = InitialFit(model, x)
        optimiser = optimise.get("gauss_newton")
        state, done = optimiser.init(start, model.theta()), 0
        while run.used < FIT * run.seconds and optimiser.status(state) is None and done < self.fit:
            state, done = optimiser.step(start, state), done + 1
            run.log({"loss": float(state["loss"]), "step": float(done)})
        missed = math.sqrt(2 * float(state["loss"])) / max(float(start.truth.square().sum(1).mean().sqrt()), 1e-300)
        dynamics, ends = Dynamics(model, x, self.cutoff), [float(v) for v in problem.domain.bounds[:, -1]]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubt about fixed steps: the held-out residual says more
            found = flow.solve(
                dynamics, state["theta"], ends, self.integrator, self.tolerance, self.tolerance, self.steps,
                on_failure="return", seconds=max(run.left, 1e-3),
            )  # fmt: skip
        if found.status not in REACHED:
            raise SolveFailed(found.message, found)
        times, states = found.nodes
        field = Trajectory(model, torch.tensor(times, dtype=torch.float64), torch.stack(states))
        run.log({"loss": float(state["loss"]), "gap": dynamics.gap, "step": float(done)}, problem, field.jet)
        status, message = "completed", ""
        if missed > FAR or dynamics.gap > FAR:
            status = "suspect"
            message = (
                f"The net misses the initial state by {missed:.2g} and at the end u_t by {dynamics.gap:.2g}: take a "
                "wider net, or more steps of fit."
            )
        chosen = {"integrator": self.integrator, "steps": len(times) - 1, "points": count, "initial": missed}
        return Solution(
            problem, "neural_galerkin", field, run.seed, run.used, status, message, run.history, settings=chosen
        )

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        return Trajectory(self._model(problem, run.seed), tensors["t"], tensors["theta"])


METHODS.register("neural_galerkin", NeuralGalerkin)
