"""Elliptic problems: Poisson, Helmholtz."""

from __future__ import annotations

import math

import torch

from ..conditions import dirichlet
from ..domain import Box
from ..operators import laplacian
from ..statement import Problem
from .base import pde_problem


@pde_problem
def poisson_2d() -> Problem:
    """-(u_xx + u_yy) = 2 pi^2 sin(pi x) sin(pi y) on [0, 1]^2, u = 0 on the boundary: the smallest test of a solver."""
    return Problem(
        Box((0.0, 0.0), (1.0, 1.0), names=("x", "y")),
        lambda u, x, y: laplacian(u) + 2 * math.pi**2 * torch.sin(math.pi * x) * torch.sin(math.pi * y),
        dirichlet(0.0),
        exact=lambda x, y: torch.sin(math.pi * x) * torch.sin(math.pi * y),
    )
