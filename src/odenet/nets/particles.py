"""The encoder of a transformer as a flow of interacting particles: (B, T, D) -> (B, dim_out)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..fields.particles import Tokens
from ..flow import Chain, Flow
from .base import net
from .transformer import MeanOverTime, Positions


@net(
    kind="ode",
    takes="sequence",
    cite="Lu et al. 2019 (arXiv 1906.02762)",
    integrators=("lie_euler", "euler", "rk4"),
)
def particle_transformer(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    steps: int = 2,
    integrator: Any = None,
    depth: Any = None,
    gradient: str = "autograd",
    activation: str = "relu",
    span: tuple[float, float] | None = None,
    heads: int = 4,
    causal: bool = False,
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """`attention` with its blocks as a flow: x' = attention(x) + perceptron(x) among the entries of the sequence.

    Under "lie_euler" over a span of `steps` (the default: h = 1) it is the pre-norm encoder; "euler" moves both parts
    at once, "rk4" follows the equation. The choice for asking what the integrator of a transformer is worth.
    """
    flow = Flow(
        Tokens(width, heads=heads, causal=causal, activation=activation),
        integrator or "lie_euler",
        depth=depth,
        span=(0.0, float(steps)) if span is None else span,
        steps=steps,
        gradient=gradient,
        seed=seed,
    )
    pooled = [] if every_step else [MeanOverTime()]
    ends = nn.LayerNorm(width), *pooled, nn.Linear(width, dim_out)
    return Chain(nn.Linear(dim_in, width), Positions(), flow, *ends)
