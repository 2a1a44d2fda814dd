"""Discrete-time nets: one net gives all stages of an implicit Runge-Kutta step, however many, as functions of space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import optimise
from ...errors import Incompatible
from ...fields import jets
from ...optimise.base import LeastSquares
from ..ansatz import Ansatz, Features, hard
from ..collocation import Block, flat, write
from ..conditions import Condition
from ..expressions import key, leaves
from ..solution import Field, Solution
from ..statement import Problem
from ..trunks import trunk
from ..windows import Windows, window
from .base import METHODS, Method, Run
from .semidiscrete import checked
from .tableaux import Stages, lagrange, stages

CHUNK = 512  # points of which the Jacobian is made at once
OTHERS = 200  # points at which the rows are looked at afterwards
SUSPECT = 10.0  # loss there over that of training above which a solution is not to be trusted


class StageNet(nn.Module):
    """U_1(x), ..., U_q(x) and the value at the end: g(x, t_i) + d(x, t_i) N_i(x), which meets all conditions.

    At the start of the step d is zero and g the initial state. N is one net with (q + 1) m outputs.
    """

    def __init__(self, problem: Problem, rule: Stages, net: str, words: Mapping[str, Any], harmonics: int) -> None:
        super().__init__()
        self.problem, self.rule, self.m = problem, rule, len(problem.unknowns)
        self.first, self.last = (float(v) for v in problem.domain.bounds[:, -1])
        self.places = torch.cat([rule.c, torch.ones(1, dtype=torch.float64)])
        chosen = hard(problem)
        around = {problem.frame.coordinates.index(a): harmonics for a in chosen.periodic}
        self.features = Features(problem.domain.bounds[:, :-1], around)
        self.trunk = trunk(net, self.features.size, len(self.places) * self.m, **words).double()
        whole = Features(problem.domain.bounds, around)
        self.met = Ansatz(problem, nn.Linear(whole.size, self.m).double(), chosen, whole)

    @property
    def step(self) -> float:
        """Length in time."""
        return self.last - self.first

    def moved(self, x: Tensor, place: float) -> Tensor:
        """Points of space (N, d) at a time of the step, (N, d + 1)."""
        return torch.cat([x, torch.full((len(x), 1), self.first + place * self.step, dtype=x.dtype)], 1)

    def prepared(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> tuple[Any, ...]:
        """What no weight changes at points of space: channels of features, of g and of d at every stage."""
        at = [self.met.prepared(self.moved(x, c), channels)[1:] for c in self.places.tolist()]
        with torch.no_grad():
            return self.features(jets.lift(self.moved(x, 0.0), channels)[..., :-1]), at

    def channels(self, prepared: tuple[Any, ...]) -> list[Tensor]:
        """For every stage and the end (C, N, m)."""
        features, at = prepared
        found = self.trunk(features)
        parts = []
        for i, (lift, factor) in enumerate(at):
            own = found[..., i * self.m : (i + 1) * self.m]
            parts.append(self.met.joined(own, lift, factor).parts)  # type: ignore[attr-defined]
        return parts

    def start(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        """(C, N, m) at the beginning of the step."""
        return self.met.prepared(self.moved(x, 0.0), channels)[1].parts  # type: ignore[no-any-return]


class StageEquations(LeastSquares):
    """Rows u_n - (U_i - h sum_j a_ij N(U_j)) at points of space, for all stages and for the end, where a is b.

    N is minus the residual without its time derivatives, over their coefficients. |r|^2 is the mean over points.
    """

    def __init__(self, net: StageNet, x: Tensor) -> None:
        self.net, self.problem = net, net.problem
        self.weights = [p for p in net.trunk.parameters() if p.requires_grad]
        self.rows = tuple(e for _, es in self.problem.traced for e in es)
        self.matrix = torch.cat([net.rule.A, net.rule.b[None]])
        found = [leaf for leaf in leaves(self.rows) if not leaf.index[-1]]
        zero = (0,) * self.problem.dim
        self.indices = jets.closed([zero, *(leaf.index for leaf in found)])
        self.parts = []
        for part in x.split(CHUNK):
            blocks = [Block("stage", self.rows, net.moved(part, c)) for c in net.rule.c.tolist()]
            mass = [_inverse(block, self.problem) for block in blocks]
            start = net.start(part, (zero,))[0]
            self.parts.append((net.prepared(part, self.indices), blocks, mass, start))
        self.scale = 1 / math.sqrt(len(x))

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.weights)

    def theta(self) -> Tensor:
        """Where the net stands."""
        return flat(self.weights)

    def put(self, theta: Tensor) -> None:
        """Write theta into the net."""
        write(self.weights, theta)

    def _rows(self, part: tuple[Any, ...]) -> Tensor:
        """(n, (q + 1) m)."""
        prepared, blocks, mass, start = part
        U = self.net.channels(prepared)
        speeds = []
        for parts, block, inverse in zip(U, blocks, mass):
            values = {}
            for leaf in block.leaves:
                u = self.problem.unknowns.index(leaf.unknown)
                here = parts[self.indices.index(leaf.index), :, u] if not leaf.index[-1] else torch.zeros(len(start))
                values[key(leaf)] = here.double()
            speeds.append(-torch.einsum("nue,ne->nu", inverse, block.residual(values, {})))
        N = torch.stack(speeds, 1)  # (n, q, m)
        values_ = torch.stack([parts[0] for parts in U], 1)
        r = values_ - start[:, None] - self.net.step * torch.einsum("ij,njm->nim", self.matrix, N)
        return r.flatten(1) * self.scale

    def residual(self, theta: Tensor) -> Tensor:
        self.put(theta)
        with torch.no_grad():
            return torch.cat([self._rows(part).flatten() for part in self.parts])

    def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        self.put(theta)
        for part in self.parts:
            with jets.record() as tape, torch.enable_grad():
                r = self._rows(part)
                J = tape.jacobian(r, self.weights)
            tape.notes.clear()
            yield r.detach().flatten(), J.reshape(-1, self.size)


def _inverse(block: Block, problem: Problem) -> Tensor:
    """(n, m, m): the inverse of the coefficients of u_t, which depend on nothing but place and time."""
    found = []
    for seed in (1, 2):
        g = torch.Generator().manual_seed(seed)
        values = {key(leaf): 0.5 + torch.rand(len(block.x), dtype=torch.float64, generator=g) for leaf in block.leaves}
        with torch.enable_grad():
            slopes = block.linearise(values, {})[1]
        M = torch.zeros(len(block.x), len(slopes), len(problem.unknowns), dtype=torch.float64)
        for leaf in block.leaves:
            if leaf.index[-1]:
                M[:, :, problem.unknowns.index(leaf.unknown)] = torch.stack([s[key(leaf)] for s in slopes], 1)
        found.append(M)
    if not torch.allclose(found[0], found[1], rtol=1e-10, atol=1e-12):
        raise Incompatible("the factor of the time derivative changes with the solution; divide by it.")
    return torch.linalg.inv(found[0])


@dataclass
class Step:
    """One step as a field: in time the polynomial through the start, the stages and the end."""

    net: StageNet

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        spatial = jets.closed([(*c[:-1], 0) for c in channels])
        space = x[:, :-1]
        known = [self.net.start(space, spatial), *self.net.channels(self.net.prepared(space, spatial))]
        rule, theta = self.net.rule, (x[:, -1] - self.net.first) / self.net.step
        table = torch.stack([known[i] for i in rule.known()], 2)  # (C, N, times, m)
        rows = {k: lagrange(rule.times(), theta, k) / self.net.step**k for k in {c[-1] for c in channels}}
        found = [torch.einsum("nk,nkm->nm", rows[c[-1]], table[spatial.index((*c[:-1], 0))]) for c in channels]
        return torch.stack(found)

    def tensors(self) -> dict[str, Tensor]:
        return {f"trunk.{k}": v for k, v in self.net.trunk.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class DiscreteTime(Method):
    """u_t = N(t, x, u) by few large Runge-Kutta steps, whose stages are the outputs of a net of space alone.

    tableau, stages   "gauss" with any number of stages (order 2 q), or a Runge-Kutta method of odenet by name
    steps             number of steps; each is trained for its share of the time
    width, depth, activation, net   of the trunk; harmonics: of periodic axes
    points            in space; None: as many as give three rows per weight
    Raissi, Perdikaris & Karniadakis (2019), J. Comput. Phys. 378, 686, with Gauss-Newton instead of L-BFGS.
    """

    tableau: str = "gauss"
    stages: int = 8
    steps: int = 1
    width: int = 20
    depth: int = 2
    activation: str = "tanh"
    net: str = "mlp"
    harmonics: int = 3
    points: int | None = None
    sampling: str = "sobol"
    iterations: int | None = None

    when = "Data or states at two distant times: one step of high order bridges them, with no points in time at all."

    def suits(self, problem: Problem) -> str | None:
        if not problem.evolves or problem.dim < 2:
            return "it steps functions of space in time."
        try:
            rows = [e for _, es in problem.traced for e in es]
            checked(problem, leaves(rows), [problem.time_order[u] for u in problem.unknowns])
            if max(problem.time_order.values()) > 1:
                return "it is for equations of order one in time; write u_tt = N as two of them."
            _inverse(Block("rows", tuple(rows), problem.domain.sample(8, self._first())), problem)
            stages(self.tableau, self.stages)
            met = hard(problem).met
            left: list[Condition] = [c for c in problem.conditions if c not in met]
        except Incompatible as reason:
            return str(reason)
        return f"the condition {left[0]!r} cannot be met by construction." if left else None

    @staticmethod
    def _first() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def _net(self, part: Problem, seed: int) -> StageNet:
        words = {"width": self.width, "depth": self.depth, "act": self.activation, "seed": seed}
        return StageNet(part, stages(self.tableau, self.stages), self.net, words, self.harmonics)

    def _edges(self, problem: Problem) -> list[float]:
        low, high = (float(v) for v in problem.domain.bounds[:, -1])
        return [low + (high - low) * k / self.steps for k in range(self.steps + 1)]

    def solve(self, problem: Problem, run: Run) -> Solution:
        edges = self._edges(problem)
        found, ratios, words = Windows([], edges), [], []
        for k in range(self.steps):
            part = window(problem, edges[k], edges[k + 1], found.fields[-1] if k else None)
            net = self._net(part, run.seed)
            until = run.left * (1 - 1 / (self.steps - k))
            ratio, word = self._train(net, run, until, k)
            found.fields.append(Step(net))
            ratios.append(ratio)
            words.append(word)
        run.log({"loss": run.history[-1]["loss"] if run.history else 0.0, "step": len(run.history)}, problem, found.jet)
        status, message = (
            max(words, key=lambda w: ("converged", "stalled", "finished", "budget", "stopped").index(w)),
            "",
        )
        if max(ratios) > SUSPECT:
            status = "suspect"
            message = f"Between the points the rows are {max(ratios):.3g} times larger (squared): take more points."
        chosen = {"tableau": self.tableau, "stages": len(found.fields[0].net.rule.b), "steps": self.steps}  # type: ignore[attr-defined]
        return Solution(
            problem, "discrete_irk", found, run.seed, run.used, status, message, run.history, settings=chosen
        )

    def _train(self, net: StageNet, run: Run, until: float, k: int) -> tuple[float, str]:
        """Gauss-Newton on one step; the loss at other points over that of training, and how it ended."""
        weights = sum(p.numel() for p in net.trunk.parameters())
        count = self.points or max(60, math.ceil(3 * weights / (len(net.places) * net.m)))
        space = net.problem.domain.space
        system = StageEquations(net, space.sample(count, run.generator(k), self.sampling))
        optimiser = optimise.get("gauss_newton")
        state, done = optimiser.init(system, system.theta()), 0
        while run.left > until and optimiser.status(state) is None and done != self.iterations:
            state, done = optimiser.step(system, state), done + 1
            run.log({"loss": float(state["loss"]), "step": float(done), "window": float(k + 1)})
        system.put(state["theta"])
        other = StageEquations(net, space.sample(OTHERS, run.generator(1000 + k), "uniform"))
        loss = float(state["loss"])
        ratio = float(other.value(state["theta"])) / max(loss, 1e-25)
        return ratio, "stopped" if run.stopped else optimiser.status(state) or "budget"

    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        edges = tensors["edges"].tolist()
        found = Windows([], edges)
        for k in range(self.steps):
            part = window(problem, edges[k], edges[k + 1], found.fields[-1] if k else None)
            net = self._net(part, run.seed)
            own = f"{k}.trunk."
            net.trunk.load_state_dict({n.removeprefix(own): v for n, v in tensors.items() if n.startswith(own)})
            found.fields.append(Step(net))
        return found


METHODS.register("discrete_irk", DiscreteTime)
