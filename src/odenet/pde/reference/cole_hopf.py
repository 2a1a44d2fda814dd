"""Burgers' equation by the transformation of Cole and Hopf, integrated by the trapezoidal rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cache import Recipe, Tables, reference


@reference()
def burgers(nu: float = 0.01 / math.pi, final: float = 1.0) -> Recipe:
    """u_t + u u_x = nu u_xx on [-1, 1], u(x, 0) = -sin(pi x), u(+-1, t) = 0.

    u = -int sin(pi y) w dy / int w dy, w = exp(-(x - y)^2 / (4 nu t) - cos(pi y) / (2 pi nu)): with
    y = x - s sqrt(4 nu t) both integrands are entire and decay as exp(-s^2), so that the trapezoidal rule converges
    faster than any power. Basdevant et al. (1986), Comput. Fluids 14, 23. nu >= 1e-3.
    """
    reach = math.sqrt(1 / (math.pi * nu)) + 7.0  # the second factor is at most exp(1 / (pi nu)) of its least value

    def solve(level: int) -> Tables:
        half = (512, 1024)[level]
        return {"s": torch.linspace(-reach, reach, 2 * half + 1, dtype=torch.float64)}

    def evaluate(tables: Tables, x: Tensor) -> Tensor:
        return torch.cat([_ratio(tables["s"], part, nu) for part in x.split(1024)])

    how = "Cole-Hopf integrals by the trapezoidal rule with 2049 nodes"
    return Recipe(evaluate, how, ((-1.0, 0.0), (1.0, final)), solve=solve)


def _ratio(s: Tensor, x: Tensor, nu: float) -> Tensor:
    y = x[:, :1] - s * torch.sqrt(4 * nu * x[:, 1:])
    weight = torch.softmax(-(s**2) - torch.cos(math.pi * y) / (2 * math.pi * nu), 1)
    return -(torch.sin(math.pi * y) * weight).sum(1, keepdim=True)
