"""Balancing: weights of equations, conditions and single points that follow the training.

    pde.solve(problem, method="adam", balance="gradient_norm", balance_options={"momentum": 0.0})

The loss is sum_b weight_b mean_n lambda_bn r_bn^2 over blocks b and their points n; a balancer gives the lambda_bn from
the system, theta and the lambda before. Weights that the user gave act within a block's loss, before it is balanced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..registry import Registry
from .collocation import Collocation
from .statement import Equation

TINY = 1e-300


@dataclass(frozen=True)
class Balance:
    """Weights of squared rows by block, () or (n, R), and what the balancer remembers beside them."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        return {f"weight.{k}": v for k, v in self.weights.items()} | {f"memory.{k}": v for k, v in self.memory.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Balance:
        """The inverse of `tensors`."""
        parts = ({k[7:]: v for k, v in tensors.items() if k.startswith(f"{kind}.")} for kind in ("weight", "memory"))
        return cls(*parts)


Update = Callable[..., Balance]


@dataclass(frozen=True, kw_only=True)
class Balancer:
    """A rule for weights.

    update:  (system with all lambda = 1, theta, balance before, **options) -> balance
    every:   steps between two updates
    pointwise: whether weights belong to points, so that they begin anew with other points
    when:    one sentence on when to choose it
    """

    update: Update
    every: int
    pointwise: bool
    when: str

    def __call__(self, system: Collocation, theta: Tensor, before: Balance, **options: Any) -> Balance:
        """The balance at theta; the system has its weights afterwards. Raises BadInput for an unknown option."""
        known = list(inspect.signature(self.update).parameters)[3:]
        if extra := [o for o in options if o not in known]:
            raise BadInput(f"{self.update.__name__} has no option {extra[0]!r}; it has: {', '.join(known)}.")
        system.reweigh({})
        found = self.update(system, theta, before, **options)
        system.reweigh(found.weights)
        return found


BALANCERS: Registry[Balancer] = Registry("balancer", "odenet.balancers")


def _averaged(now: Mapping[str, float], before: Balance, momentum: float) -> Balance:
    """momentum * before + (1 - momentum) * now; the first time, now."""
    weights = {}
    for name, value in now.items():
        new = torch.tensor(value, dtype=torch.float64)
        weights[name] = momentum * before.weights[name] + (1 - momentum) * new if name in before.weights else new
    return Balance(weights)


def gradient_norm(system: Collocation, theta: Tensor, before: Balance, momentum: float = 0.9) -> Balance:
    """lambda_b = mean_c |grad L_c| / |grad L_b|: all blocks pull alike; a running average with `momentum`.

    S. Wang, Y. Teng & P. Perdikaris, SIAM J. Sci. Comput. 43 (2021) A3055, in the norms of S. Wang, S. Sankaran,
    H. Wang & P. Perdikaris, arXiv 2308.08468. A block whose gradient vanishes counts as 1e-5 of the mean.
    """
    norms = {name: float(g.norm()) for name, g in system.gradients(theta).items()}
    return _averaged(_inverse(norms), before, momentum)


def _inverse(sizes: Mapping[str, float]) -> dict[str, float]:
    mean = max(sum(sizes.values()) / len(sizes), TINY)
    return {name: mean / max(size, 1e-5 * mean) for name, size in sizes.items()}


def ntk(system: Collocation, theta: Tensor, before: Balance, momentum: float = 0.9) -> Balance:
    """lambda_b = mean_c tr K_c / tr K_b with K_b = J_b J_b^T / n_b, a tangent kernel: all blocks learn alike fast.

    S. Wang, X. Yu & P. Perdikaris, J. Comput. Phys. 449 (2022); with the mean over the blocks instead of their sum, a
    factor that all have in common. A running average with `momentum`.
    """
    traces: dict[str, float] = {}
    for b, (_, J) in zip(system.found, system.blocks(theta)):
        traces[b.name] = traces.get(b.name, 0.0) + float(J.square().sum())
    return _averaged(_inverse(traces), before, momentum)


def self_adaptive(system: Collocation, theta: Tensor, before: Balance, rate: float = 0.01) -> Balance:
    """lambda = s^2 for every row, s by ascent of the loss: s <- s + rate * s * r^2 / mean(r^2); s = 1 at first.

    L. D. McClenny & U. M. Braga-Neto, J. Comput. Phys. 474 (2023) 111722, with the mask m(s) = s^2. The mean over the
    block in the step makes `rate` the same for residuals of any size.
    """
    weights = {}
    for name, r in system.whole_rows(theta).items():
        square = r.square()
        s = before.weights[name].sqrt() if name in before.weights else torch.ones_like(r)
        weights[name] = (s + rate * s * square / square.mean().clamp_min(TINY)).square()
    return Balance(weights)


def rba(
    system: Collocation, theta: Tensor, before: Balance, decay: float = 0.999, rate: float = 0.01, start: float = 0.0
) -> Balance:
    """lambda = s^2 for every row, s <- decay * s + rate * |r| / max |r|, at most rate / (1 - decay); no gradients.

    S. J. Anagnostopoulos, J. D. Toscano, N. Stergiopulos & G. E. Karniadakis, CMAME 421 (2024), arXiv 2307.00379.
    start: the s before the first step; what counts is the ratio of the s, so conditions keep pace with equations.
    """
    weights = {}
    for name, r in system.whole_rows(theta).items():
        s = before.weights[name].sqrt() if name in before.weights else torch.full_like(r, start)
        weights[name] = (decay * s + rate * r.abs() / r.abs().max().clamp_min(TINY)).square()
    return Balance(weights)


def causal(
    system: Collocation,
    theta: Tensor,
    before: Balance,
    steepness: float = 1e-2,
    steepest: float = 100.0,
    chunks: int = 32,
    enough: float = 0.99,
) -> Balance:
    """lambda = exp(-e * sum of L_k over the earlier chunks k of time) at the points of equations.

    L_k is the mean square of the residuals in chunk k; e begins at `steepness` and grows tenfold, up to `steepest`,
    each time the smallest weight is above `enough`. Conditions keep their weights. Raises BadInput for a problem
    without time. S. Wang, S. Sankaran & P. Perdikaris, CMAME 421 (2024), arXiv 2203.07404.
    """
    if not system.problem.evolves:
        raise BadInput("causal weights need time: give the domain as space * Time(t0, t1), or take another balance.")
    low, high = (float(v) for v in system.problem.domain.bounds[:, -1])
    e = before.memory.get("steepness", torch.tensor(steepness, dtype=torch.float64))
    weights, rows = {}, system.whole_rows(theta)
    for b in system.whole:
        if isinstance(b.source, Equation):
            k = ((b.x[:, -1] - low) * (chunks / (high - low))).long().clamp(0, chunks - 1)
            size = rows[b.name].square().sum(1)
            sums, counts = (torch.zeros(chunks, dtype=torch.float64).index_add(0, k, v) for v in (size, size * 0 + 1))
            earlier = (sums / counts.clamp_min(1)).cumsum(0).roll(1)
            earlier[0] = 0.0
            weights[b.name] = torch.exp(-e * earlier)[k][:, None].expand_as(rows[b.name]).contiguous()
    if e < steepest and min(float(w.min()) for w in weights.values()) > enough:
        e = (10 * e).clamp(max=steepest)
    return Balance(weights, {"steepness": e})


def _register(update: Update, every: int, pointwise: bool, when: str) -> None:
    BALANCERS.register(update.__name__, Balancer(update=update, every=every, pointwise=pointwise, when=when))


_register(gradient_norm, 100, False, "First-order optimisers with soft conditions: equations drown them otherwise.")
_register(ntk, 100, False, "As gradient_norm, where gradients are noisy; it needs the Jacobian.")
_register(self_adaptive, 10, True, "Sharp layers at fixed points, with a first-order optimiser.")
_register(rba, 1, True, "Sharp layers at fixed points: cheaper and steadier than self_adaptive.")
_register(causal, 10, True, "Evolution over long times, or chaotic: what is early is learnt first.")
