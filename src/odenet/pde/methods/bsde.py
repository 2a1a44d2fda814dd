"""Deep BSDE: semilinear parabolic problems in many dimensions, the value at one point and its error."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput, Incompatible
from ..semilinear import Semilinear
from . import bsde_estimate as estimate
from .base import METHODS, Method, Run
from .bsde_control import Nets, fitted
from .bsde_estimate import Estimate, along, batch, bend, gathered, pathwise

State = dict[str, Tensor]
LOOK = 25  # iterations between looks at the held-out loss
BETA = (0.9, 0.99)
KINDS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(repr=False)
class BsdeSolution:
    """The value u(x0, t0) of a semilinear problem, with its error.

    value, error     u(x0, t0) and the estimate of its absolute error; the parts of it are in `estimate`
    u(points)        (N, d + 1), space before time, -> (N, 1): at (x0, t0) the value, elsewhere fresh paths (slow)
    rel_l2           |value - reference| / |reference| where the problem has one
    residual         held-out: standard deviation of Y_T - g(X_T) over that of g
    history          seconds, loss (residual squared), y0; then rows of the estimate with y0 and error
    """

    problem: Semilinear
    method: str
    estimate: Estimate
    tensors: State
    nets: Nets
    residual: float
    seed: int = 0
    seconds: float = 0.0
    status: str = "budget"
    message: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def error(self) -> float:
        return self.estimate.error

    @cached_property
    def rel_l2(self) -> float | None:
        """Relative error of the value against the reference, or None."""
        truth = self.problem.truth()
        return None if truth is None else abs(self.value - truth) / abs(truth)

    def u(self, points: Any, paths: int = 4096) -> Tensor:
        """Values (N, 1) at points (N, d + 1), space before time."""
        p = self.problem
        x = torch.as_tensor(points, dtype=torch.float64)
        if x.ndim != 2 or x.shape[1] != p.dim + 1:
            raise BadInput(f"points are (N, {p.dim + 1}), space before time; got {tuple(x.shape)}.")
        if bool((x[:, -1] < p.start).any()) or bool((x[:, -1] > p.T).any()):
            raise BadInput(f"times must lie between {p.start} and {p.T}.")
        return torch.stack([self._value(row, paths) for row in x])[:, None]

    def _value(self, row: Tensor, paths: int) -> Tensor:
        p, here, t = self.problem, row[:-1], float(row[-1])
        if t >= p.T:
            return p.terminal(here[None])[0]
        if t == p.start and bool((here == p.x0).all()):
            return row.new_tensor(self.value)
        moved = dataclasses.replace(p, x0=here, start=t)
        theta = self.tensors["best"]
        steps = max(2, 2 * math.ceil(len(self.nets.mean) * (p.T - t) / (p.T - p.start) / 2))
        dw = moved.increments(steps, paths, torch.Generator().manual_seed(self.seed))
        x = moved.paths(dw)
        z = along(moved, x, lambda s, part: self.nets.at(theta, s, part))
        guess = float(pathwise(moved, dw, x, z, self.value)["theta"].mean())
        found = pathwise(moved, dw, x, z, guess)
        return (found["forward"] + found["backward"]).mean() / 2

    def __repr__(self) -> str:
        off = "" if self.rel_l2 is None else f", relative error {self.rel_l2:.2g}"
        return (
            f"BsdeSolution({self.problem.name or 'problem'} by {self.method}: u(x0) = {self.value:.6g} +- "
            f"{self.error:.2g} after {self.seconds:.3g} s, {self.status}{off})"
        )

    def save(self, folder: str | Path) -> Path:
        """Numbers as safetensors, the rest as JSON; `pde.load` reads it back without pickle."""
        from safetensors.torch import save_file

        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous().clone() for k, v in self.tensors.items()}, where / "solution.safetensors")
        kept = ("method", "residual", "seed", "seconds", "status", "message", "history", "settings")
        facts = {"problem": self.problem.facts.get("arguments", {"name": self.problem.name})}
        facts |= {k: getattr(self, k) for k in kept} | {"estimate": dataclasses.asdict(self.estimate)}
        (where / "solution.json").write_text(json.dumps(facts, indent=1))
        return where


@dataclass(frozen=True, kw_only=True)
class DeepBsde(Method):
    """Z by the linear problem's gradient and a net per time step, trained on E|Y_T - g(X_T)|^2; then Y_0 and its error.

    The forward paths do not depend on u. Training: Adam on fresh antithetic paths, one step of Robbins and Monro for
    y0, all nets in one batched call; the weights kept are those with the least held-out loss, which may be those of no
    training at all. Then `bsde_estimate` corrects y0 to second order in the error of Z and states what is left.

    steps:      time steps, even; the estimate is also made with half of them
    samples:    K, random numbers per evaluation of the proxy; None: of least variance times work; 0: nets alone
    tolerance:  relative error at which it stops before the budget is used up
    training:   share of the budget for training
    iterations, batches: of training and of the estimate. None: as many as the budget allows, and no training where a
                better Z could take less than a third of the variance away. Given, the result depends on seed and thread
                count alone
    dtype:      "float32" or "float64", of nets and proxy; paths and estimators are always float64

    Weinan E, Han & Jentzen (2017), Commun. Math. Stat. 5, 349; Han, Jentzen & E (2018), PNAS 115, 8505.
    """

    when = "Choose it for semilinear parabolic problems in more than three dimensions, when one value is wanted."
    steps: int = 20
    width: int = 64
    paths: int = 256
    rate: float = 3e-3
    samples: int | None = None
    tolerance: float = 1e-4
    training: float = 0.5
    iterations: int | None = None
    batches: int | None = None
    patience: int = 8
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2:
            raise BadInput(f"steps={self.steps!r}: give an even number of time steps.")
        if self.paths < 4 or self.paths % 2:
            raise BadInput(f"paths={self.paths!r}: give an even number of paths, four or more.")
        if self.dtype not in KINDS:
            raise BadInput(f'dtype={self.dtype!r}: give "float32" or "float64".')

    def suits(self, problem: Any) -> str | None:
        return None if isinstance(problem, Semilinear) else "deep_bsde takes a Semilinear problem."

    def restore(self, problem: Any, tensors: Mapping[str, Tensor], run: Run) -> Any:
        """The nets of a saved solution."""
        return self._nets(problem, run.seed, int(tensors["samples"]))

    def solve(self, problem: Any, run: Run) -> Any:
        if reason := self.suits(problem):
            raise Incompatible(reason)
        if run.resumed:
            state = dict(run.resumed)
            nets = self._nets(problem, run.seed, int(state["samples"]))
        else:
            nets = self._chosen(problem, run.seed)
            state = self._pilot(nets, run)
        state = self._trained(nets, state, run)
        state, status = self._estimated(nets, state, run)
        found = gathered(problem, state["rows"], float(state["bend"]))
        run.keep(state, now=True)
        settings = {"steps": self.steps, "width": self.width, "samples": nets.xi.shape[1], "paths": found.paths}
        return BsdeSolution(
            problem, "deep_bsde", found, state, nets, math.sqrt(found.variance / float(state["terminal"])), run.seed,
            run.used, status, self._message(found, state), run.history, settings | {"iterations": int(state["count"])},
        )  # fmt: skip

    def _nets(self, p: Semilinear, seed: int, count: int) -> Nets:
        return fitted(p, self.steps, self.width, count + count % 2, seed, KINDS[self.dtype])

    def _chosen(self, p: Semilinear, seed: int) -> Nets:
        """Nets with the proxy whose variance times work is least."""
        if self.samples is not None:
            return self._nets(p, seed, self.samples)
        dw = p.increments(self.steps, 256, torch.Generator().manual_seed(1_000_003 * seed + 6))
        x, best, least = p.paths(dw), 0, math.inf
        for count in (8, 16, 32, 64):
            miss = p.terminal(x[-1]) - (self._nets(p, seed, count).proxies(x[:-1]) * dw).sum((0, 2))
            if float(miss.var()) * (count + 16) >= least:
                break
            best, least = count, float(miss.var()) * (count + 16)
        return self._nets(p, seed, best)

    def _block(self, nets: Nets) -> int:
        return int(min(max((1 << 21) // max(nets.xi[0].numel(), 512) // 4 * 4, 256), 2048))

    def _figures(self, nets: Nets, state: State, theta: Tensor, number: int, seed: int) -> Tensor:
        p, generator = nets.problem, torch.Generator().manual_seed(1_000_003 * seed + 500_000 + number)
        dw = p.increments(self.steps, self._block(nets), generator)
        return batch(p, dw, lambda t, x: nets.at(theta, t, x), float(state["y0"]))

    def _pilot(self, nets: Nets, run: Run) -> State:
        """y0, alpha = E exp(int f_y) and held-out loss from a thousand paths, with no net."""
        p, theta = nets.problem, nets.start(run.generator(2))
        dw = p.increments(self.steps, 1024, run.generator(3))
        x = p.paths(dw)
        g = p.terminal(x[-1])
        z, y0 = along(p, x, lambda t, part: nets.at(theta, t, part)), float(g.mean())
        alpha = torch.ones(self.steps + 1, 1, 1, dtype=torch.float64)
        for _ in range(3):
            found = pathwise(p, dw, x, alpha * z, y0)
            y0 = float((found["forward"] + found["backward"]).mean() / 2)
            gamma = (found["rate"].flip(0).cumsum(0).flip(0) * (p.T - p.start) / self.steps).exp()
            alpha[:-1] = gamma.view(-1, 1, 1)
        nets.views(theta)["alpha"].copy_(alpha[:-1])
        z, half = alpha * z, dw.unflatten(0, (-1, 2)).sum(1)  # every second point: near enough without exact steps too
        ends = [float(found["theta"].var()), float(pathwise(p, half, x[::2], z[::2], y0)["theta"].var())]
        bending = bend(p, lambda t, part: nets.at(theta, t, part), y0, run.generator(4))
        state = {k: torch.zeros_like(theta) for k in ("first", "second")}
        scalars = {"y0": y0, "count": 0.0, "last": 0.0, "bend": bending, "terminal": float(g.var())}
        scalars |= {"samples": float(nets.xi.shape[1]), "done": float(self.iterations is None and _idle(*ends))}
        state |= {k: torch.tensor(v, dtype=torch.float64) for k, v in scalars.items()}
        state |= {"theta": theta, "average": theta.clone(), "best": theta.clone()}
        state["rows"] = torch.zeros(0, estimate.ROWS, dtype=torch.float64)
        state["least"] = self._held(nets, theta, state, run)
        run.log({"loss": float(state["least"]), "y0": y0})
        return state

    def _miss(self, nets: Nets, theta: Tensor, y0: Tensor, dw: Tensor) -> Tensor:
        """Y_T - g(X_T) along Euler's scheme, (B,)."""
        p = nets.problem
        x, h = p.paths(dw).to(theta), (p.T - p.start) / len(dw)
        z = nets(theta, x[:-1], nets.proxies(x[:-1]))
        gained = (z * dw.to(theta)).sum(-1)
        y = y0.to(theta).expand(dw.shape[1])
        for n in range(len(dw)):
            y = y - h * p.generator(nets.time(n), x[n], y, z[n]) + gained[n]
        return y - p.terminal(x[-1])

    def _held(self, nets: Nets, theta: Tensor, state: State, run: Run) -> Tensor:
        dw = nets.problem.increments(self.steps, 1024, run.generator(5))
        with torch.no_grad():
            return self._miss(nets, theta, state["y0"], dw).double().var() / state["terminal"]

    def _trained(self, nets: Nets, state: State, run: Run) -> State:
        limit = math.inf if self.iterations is None else self.iterations
        while not state["done"] and state["count"] < limit and run.used < self.training * run.seconds and run.left > 0:
            state = self._iteration(nets, state, run)
            if state["count"] % LOOK == 0:
                held = self._held(nets, state["average"], state, run)
                if held < 0.99 * state["least"]:
                    state |= {"least": held, "best": state["average"].clone(), "last": state["count"].clone()}
                idle = state["count"] - state["last"] >= self.patience * LOOK
                state["done"] = torch.tensor(float(idle), dtype=torch.float64)
                run.log({"loss": float(held), "y0": float(state["y0"])})
                run.keep(state)
        return state

    def _iteration(self, nets: Nets, state: State, run: Run) -> State:
        k = int(state["count"])
        dw = nets.problem.increments(self.steps, self.paths, run.generator(1_000 + k))
        theta = state["theta"].detach().requires_grad_()
        miss = self._miss(nets, theta, state["y0"], dw)
        loss = (miss - miss.mean().detach()).square().mean() / state["terminal"].to(miss)
        (slope,) = torch.autograd.grad(loss, theta)
        if not bool(torch.isfinite(slope).all()):
            return state | {"done": torch.ones((), dtype=torch.float64)}
        first = state["first"].lerp(slope, 1 - BETA[0])
        second = state["second"].lerp(slope.square(), 1 - BETA[1])
        size = self.rate / (1 + k / 300) / (1 - BETA[0] ** (k + 1))
        theta = theta.detach() - size * first / ((second / (1 - BETA[1] ** (k + 1))).sqrt() + 1e-8)
        return state | {
            "theta": theta, "first": first, "second": second, "count": state["count"] + 1,
            "average": state["average"].lerp(theta, max(0.02, 1 / (k + 1))),
            "y0": state["y0"] - float(miss.detach().mean()) / (k + 8),
        }  # fmt: skip

    def _estimated(self, nets: Nets, state: State, run: Run) -> tuple[State, str]:
        limit = math.inf if self.batches is None else self.batches
        while len(state["rows"]) < max(2, min(limit, 1 << 20)):
            row = self._figures(nets, state, state["best"], len(state["rows"]), run.seed)
            state["rows"] = torch.cat([state["rows"], row[None]])
            if len(state["rows"]) < 2:
                continue
            found = gathered(nets.problem, state["rows"], float(state["bend"]))
            run.log({"y0": found.value, "error": found.error, "loss": found.variance / float(state["terminal"])})
            run.keep(state)
            settled = 2 * found.standard_error < 0.1 * (found.error - 2 * found.standard_error)
            if self.batches is None and len(state["rows"]) >= 4 and found.error <= self.tolerance * abs(found.value):
                return state, "converged"
            if self.batches is None and len(state["rows"]) >= 4 and settled:
                return state, "stalled"
            if run.left <= 0:
                break
        return state, "budget"

    def _message(self, e: Estimate, state: State) -> str:
        parts = (
            f"u(x0) = {e.value:.6g} +- {e.error:.2g}: two standard errors {2 * e.standard_error:.1g}, time steps "
            f"{e.discretisation:.1g}, curvature {e.curvature:.1g}."
        )
        weak = " The weights of the paths are uneven, so that the error may be larger." if e.samples < 0.3 else ""
        why = "did not lower the held-out loss" if float(state["count"]) else "could lower the variance by little"
        net = "" if float(state["last"]) else f" Training {why}: the nets are not used."
        return parts + weak + net


def restored(problem: Semilinear, tensors: State, facts: Mapping[str, Any]) -> BsdeSolution:
    """A saved solution from its tensors and facts."""
    kept = {k: facts[k] for k in ("method", "residual", "seed", "seconds", "status", "message", "history", "settings")}
    nets = DeepBsde(**facts["settings"].get("options", {})).restore(problem, tensors, Run(seed=facts["seed"]))
    return BsdeSolution(problem, estimate=Estimate(**facts["estimate"]), tensors=tensors, nets=nets, **kept)


def _idle(fine: float, coarse: float) -> bool:
    """Whether less than a third of the variance would be left on an infinitely fine grid."""
    return 2 * fine - coarse < fine / 3


METHODS.register("deep_bsde", DeepBsde)
