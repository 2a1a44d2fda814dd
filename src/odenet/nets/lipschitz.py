"""Nets on vectors that provably do not amplify a perturbation of the state, whatever their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadInput
from ..fields import Parabolic, SpectralCap, SpectralNorm, Switching, activations
from ..fields.constraints import Constraint
from ..fields.stable import logit
from ..flow import Flow
from .base import net
from .zoo import compose

Condition = Literal["sharp", "paper"]


class Capped(nn.Module):
    """W min(1, 1/|W|_2) y + b: a linear layer that is 1-Lipschitz, (B, cols) -> (B, rows)."""

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__()
        self.linear = nn.Linear(cols, rows)

    def forward(self, y: Tensor) -> Tensor:
        norm = torch.linalg.matrix_norm(self.linear.weight, ord=2)
        return F.linear(y, self.linear.weight * (1.0 / norm).clamp_max(1.0), self.linear.bias)


def contraction(contractive: float, leak: float, condition: Condition) -> float:
    """What a step y - h_c K^T leaky_relu_a(K y + b) with orthogonal K multiplies distances by, at most.

    "sharp": max(|1 - h_c a|, |1 - h_c|), attained, because df/dy is symmetric. "paper": sqrt(1 - 2 h_c a + h_c^2),
    from monotonicity and the Lipschitz constant alone (Celledoni et al. 2023, arXiv 2210.02373). Raises BadInput for an
    unknown condition.
    """
    if condition == "sharp":
        return max(abs(1.0 - contractive * leak), abs(1.0 - contractive))
    if condition == "paper":
        return math.sqrt(1.0 - 2.0 * contractive * leak + contractive**2)
    raise BadInput(f"condition {condition!r} is not known; write 'sharp' or 'paper'.")


def largest_expansion(contractive: float, leak: float, condition: Condition) -> float:
    """The largest h_e with contraction (1 + h_e) <= 1; below 0 where the contractive step contracts nothing."""
    factor = contraction(contractive, leak, condition)
    return math.inf if factor == 0.0 else 1.0 / factor - 1.0


def _pair(leak: float, contractive: float | None, expansive: float | None, condition: Condition) -> tuple[float, float]:
    """(h_c, h_e) that were asked for, or the best of the condition. Raises BadInput beyond it."""
    if not 0.0 < leak <= 1.0:
        raise BadInput(f"leak is the slope of the activation below 0, in (0, 1], got {leak!r}; write leak=0.5.")
    best = 2.0 / (1.0 + leak) if condition == "sharp" else leak
    h_c = best if contractive is None else float(contractive)
    limit = largest_expansion(h_c, leak, condition)
    h_e = min(limit, 1.0) if expansive is None else float(expansive)
    if limit < 0.0 or not 0.0 <= h_e <= limit * (1.0 + 1e-12):
        raise BadInput(
            f"an expansive step {h_e:.6g} after a contractive one {h_c:.6g} with leak={leak:g} is beyond the condition "
            f"{condition!r}, which allows up to {max(limit, 0.0):.6g} here and "
            f"{largest_expansion(best, leak, condition):.6g} for contractive={best:.6g}."
        )
    return h_c, h_e


def _rates(steps: int, h: float, leak: float, h_c: float, h_e: float) -> tuple[list[list[float]], list[list[float]]]:
    """(slopes, limits) of every interval: expansive, contractive, expansive, ...; a last one without a partner is
    contractive. Limits: within these a step multiplies distances by 1 + h_e, or by 1/(1 + h_e), at most."""
    slopes, limits = [], []
    for n in range(steps):
        opens, paired = n % 2 == 0 and n + 1 < steps, n % 2 == 1 or n + 1 < steps
        factor = 1.0 + h_e if opens else 1.0 / (1.0 + h_e) if paired else 1.0
        slopes.append([0.0, h_e / h] if opens else [-leak * h_c / h, -h_c / h])
        limits.append([(-1.0 - factor) / h, (factor - 1.0) / h])
    return slopes, limits


@net(kind="ode", cite="Celledoni et al. 2023 (arXiv 2210.02373)", integrators=("euler", "heun", "rk4"))
def nonexpansive(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    steps: int = 16,
    integrator: Any = None,
    depth: Any = None,
    gradient: str = "autograd",
    activation: str = "relu",
    span: tuple[float, float] = (0.0, 1.0),
    condition: Condition = "sharp",
    leak: float = 0.5,
    contractive: float | None = None,
    expansive: float | None = None,
    switching: Literal["alternate", "learned"] = "alternate",
    opening: str = "linear",
    head: str = "linear",
    init: str = "iid",
    gain: float = 1.0,
    seed: int = 0,
) -> nn.Module:
    """Expansive steps y + h_e K^T relu(K y + b) and contractive ones y - h_c K^T leaky_relu_a(K y + b), K orthogonal,
    by turns: expressive where a contraction is not, and |y_N(u) - y_N(v)| <= |u - v| for every weight under euler.

    condition: on h_c and h_e, "sharp" max(|1 - h_c a|, |1 - h_c|)(1 + h_e) <= 1, or "paper", which is narrower:
    sqrt(1 - 2 h_c a + h_c^2)(1 + h_e) <= 1. contractive, expansive: h_c and h_e, both of one Euler step whatever the
    span; by default h_c is the best of the condition, and h_e the largest allowed up to 1. switching "learned": each
    step learns its two slopes within its budget, 1 + h_e or 1/(1 + h_e), and may so change sides (the budgets are this
    library's rule). opening "pad" and head "capped" make the whole net 1-Lipschitz, so that a margin m between the two
    largest scores certifies a radius m/sqrt 2. Choose it for guarantees against perturbations. Raises BadInput for
    steps beyond the condition.
    """
    if switching not in ("alternate", "learned"):
        raise BadInput(f"switching {switching!r} is not known; write 'alternate' or 'learned'.")
    h_c, h_e = _pair(leak, contractive, expansive, condition)
    learned = switching == "learned"
    low, high = activations.resolve(activation).slope
    if low < 0.0 or high > 1.0:
        raise BadInput(f"nonexpansive needs an activation with slopes in [0, 1], not {activation!r}; use 'relu'.")
    own = ("slopes",) if not learned else ("limits", "slopes")
    chosen = dict(depth) if isinstance(depth, Mapping) else {"*": "per_step" if depth is None else depth}
    chain = compose(
        partial(Switching, limits=(-2.0, 0.0) if learned else None), dim_in, dim_out, width, steps,
        "euler" if integrator is None else integrator, chosen | dict.fromkeys(own, "per_step"), gradient, activation,
        span, seed, opening, init, head=_head(head), gain=gain,
    )  # fmt: skip
    (flow,) = chain.flows()
    _set(flow, _rates(steps, flow.knots[1] - flow.knots[0], leak, h_c, h_e), learned)
    return chain


def _head(head: str) -> Callable[[int, int], nn.Module]:
    if head not in ("linear", "capped"):
        raise BadInput(f"head {head!r} is not known; write 'linear' or 'capped'.")
    return nn.Linear if head == "linear" else Capped


@torch.no_grad()
def _set(flow: Flow, rates: tuple[list[list[float]], list[list[float]]], learned: bool) -> None:
    slopes, limits = (torch.tensor(r) for r in rates)
    if learned:
        flow.stat_limits.copy_(limits)  # type: ignore[operator, union-attr]
        flow.weights["slopes"].copy_(logit(slopes, limits))
    else:
        flow.stat_slopes.copy_(slopes)  # type: ignore[operator, union-attr]


def _gradient_flow(name: str, constraint: Callable[[float], Constraint], cite: str, about: str) -> Any:
    """Register a net of Euler steps y - h K^T s(K y + b) with h |K|^2 <= 2."""

    def build(
        dim_in: int,
        dim_out: int,
        width: int = 64,
        steps: int = 16,
        integrator: Any = None,
        depth: Any = None,
        gradient: str = "autograd",
        activation: str = "relu",
        span: tuple[float, float] = (0.0, 1.0),
        hidden: int | None = None,
        opening: str = "linear",
        head: str = "linear",
        init: str = "iid",
        gain: float = 1.0,
        seed: int = 0,
    ) -> nn.Module:
        h = abs(span[1] - span[0]) / steps
        if not h:
            raise BadInput(f"a net needs time to move its states, got span={span}; write span=(0.0, 1.0).")
        cap = math.sqrt(2.0 / h) * (1.0 - 1e-12)  # so that rounding does not carry h |K|^2 above 2
        return compose(
            partial(Parabolic, hidden=hidden, constraint=constraint(cap)), dim_in, dim_out, width, steps,
            "euler" if integrator is None else integrator, depth, gradient, activation, span, seed, opening, init,
            head=_head(head), gain=gain,
        )  # fmt: skip

    build.__name__ = build.__qualname__ = name
    build.__doc__ = about
    return net(kind="ode", cite=cite, integrators=("euler", "heun", "rk4"))(build)


lipschitz_resnet = _gradient_flow(
    "lipschitz_resnet", SpectralCap, "Sherry et al. 2023 (arXiv 2306.17332)",
    "y - h K^T s(K y + b) with |K|_2 capped so that h |K|^2 <= 2: residual steps that are 1-Lipschitz. "
    "Choose it where a fixed point or a descent must not be destroyed, as for learned denoisers.",
)  # fmt: skip
convex_potential = _gradient_flow(
    "convex_potential", SpectralNorm, "Meunier et al. 2022 (arXiv 2110.12690)",
    "y - 2/|W|^2 W^T s(W y + b): the same step always at its limit h |K|^2 = 2, so that some direction keeps its size. "
    "Choose it for deep 1-Lipschitz classifiers whose signal must not fade.",
)  # fmt: skip
