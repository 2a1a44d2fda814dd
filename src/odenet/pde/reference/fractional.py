"""Mittag-Leffler's function, which solves the simplest equation of fractional order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import BadInput
from .cache import Recipe, Tables, reference

REACH = 38.0  # the integrand falls as exp(-|s|)


def mittag_leffler(alpha: float, x: Tensor, density: float = 1.0) -> Tensor:
    """E_alpha(-x) for x >= 0 (N,) and 0 < alpha < 1, by the trapezoidal rule over its spectrum.

    E_alpha(-x) = sin(alpha pi) / (alpha pi) int_R exp(-(x e^s)^(1/alpha)) / (e^s + 2 cos(alpha pi) + e^-s) ds: the
    integrand is analytic in a strip about the real line, whose width sets the distance of the nodes (1 / `density` of
    what rounding needs). Gorenflo & Mainardi (1997), Fractional calculus, section 3.
    """
    strip = math.pi * min(1 - alpha, alpha / 2)
    nodes = math.ceil(density * 2 * REACH * 37 / (2 * math.pi * strip))
    s = torch.linspace(-REACH, REACH, nodes, dtype=torch.float64, device=x.device)
    weight = math.sin(alpha * math.pi) / (alpha * math.pi) / (2 * torch.cosh(s) + 2 * math.cos(alpha * math.pi))
    decay = torch.exp(-((x[:, None] * torch.exp(s)).pow(1 / alpha)))
    return (weight * decay).sum(1) * (s[1] - s[0])


@reference()
def relaxation(alpha: float = 0.5, rate: float = 1.0, final: float = 2.0) -> Recipe:
    """Relaxation of order alpha in (0, 1): Caputo's derivative of order alpha of y is -rate y, y(0) = 1.

    y(t) = E_alpha(-rate t^alpha): y falls as t^alpha at first, with an infinite slope. Raises BadInput.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"relaxation needs 0 < alpha < 1; got {alpha!r} (alpha = 1 is exp(-rate t)).")

    def solve(level: int) -> Tables:
        return {"density": torch.tensor((0.8, 1.0)[level], dtype=torch.float64)}

    def evaluate(tables: Tables, x: Tensor) -> Tensor:
        return mittag_leffler(alpha, rate * x[:, 0].pow(alpha), float(tables["density"]))[:, None]

    how = "Mittag-Leffler's function by the trapezoidal rule over its spectrum"
    return Recipe(evaluate, how, ((0.0,), (final,)), solve=solve)
