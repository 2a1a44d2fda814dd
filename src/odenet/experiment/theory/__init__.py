"""The task where theory predicts the outcome: each case prints a prediction beside its measurement.

oscillation   growth over 16 to 1024 layers, from the stability interval on the imaginary axis
contraction   input noise through parabolic layers, from h |K|^2
gradients     |dy_N/dy_j| at depth 16 to 1024, from products of random matrices and from symplecticity
coarse_steps  a trained net stepped with coarse h under three integrators: who keeps the accuracy
noise         input and weight noise in trained nets, from the logarithmic norm
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import depth, growth, trained
from .case import Case, Figure, Finding, Series

Tell = Callable[[float], None]

CASES: dict[str, Callable[[Tell], Case]] = {
    "oscillation": growth.oscillation,
    "contraction": growth.contraction,
    "gradients": depth.gradients,
    "coarse_steps": trained.coarse_steps,
    "noise": trained.noise,
}

__all__ = ["CASES", "Case", "Figure", "Finding", "Series", "run"]


def run(name: str, tell: Tell = lambda fraction: None) -> dict[str, Any]:
    """One case as plain data."""
    return CASES[name](tell).to_dict()
