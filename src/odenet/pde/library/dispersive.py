"""Dispersive problems: Korteweg-de Vries, nonlinear Schroedinger, Kuramoto-Sivashinsky."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..conditions import initial, periodic
from ..domain import Interval, Time
from ..statement import Problem
from .base import computed, pde_problem
from .transport import RAISSI

PI = math.pi
CAUSAL = "Wang, Sankaran & Perdikaris (2022), Respecting causality is all you need for training PINNs, arXiv 2203.07404"


@pde_problem
def kdv(dispersion: float = 0.0025) -> Problem:
    """u_t + u u_x + dispersion u_xxx = 0 on [-1, 1] x [0, 1], u0 = cos(pi x), periodic: a train of solitons.

    Choose it to test third derivatives.
    """
    return Problem(
        Interval(-1, 1) * Time(0, 1),
        lambda u: u.t + u * u.x + dispersion * u.xxx,
        [initial(lambda x: torch.cos(PI * x)), periodic("x", order=2)],
        reference=computed("kdv", dispersion=dispersion),
        cite=RAISSI,
    )


@pde_problem
def schrodinger() -> Problem:
    """i h_t + h_xx / 2 + |h|^2 h = 0 on [-5, 5] x [0, pi/2], h0 = 2 sech x, periodic; h = u + i v.

    Choose it to test complex fields, which are pairs of real unknowns.
    """

    def density(u: Any, v: Any) -> Any:
        return u**2 + v**2

    return Problem(
        Interval(-5, 5) * Time(0, PI / 2),
        lambda u, v: (u.t + v.xx / 2 + density(u, v) * v, v.t - u.xx / 2 - density(u, v) * u),
        [initial(lambda x: 2 / torch.cosh(x), unknown="u"), initial(0.0, unknown="v"), periodic("x")],
        unknowns=("u", "v"),
        reference=computed("schrodinger"),
        cite=RAISSI,
    )


@pde_problem
def ks() -> Problem:
    """u_t + 5 u u_x + 0.5 u_xx + 0.005 u_xxxx = 0 on [-1, 1] x [0, 1], u0 = -sin(pi x), periodic: regular.

    Kuramoto and Sivashinsky's equation before chaos. Choose it to test fourth derivatives.
    """
    return Problem(
        Interval(-1, 1) * Time(0, 1),
        lambda u: u.t + 5 * u * u.x + 0.5 * u.xx + 0.005 * u.xxxx,
        [initial(lambda x: -torch.sin(PI * x)), periodic("x", order=3)],
        reference=computed("ks"),
        cite=CAUSAL,
    )


@pde_problem
def ks_chaotic() -> Problem:
    """u_t + a u u_x + b u_xx + c u_xxxx = 0 on [0, 2 pi] x [0, 1], u0 = cos x (1 + sin x), periodic: chaotic.

    a = 100 / 16, b = 100 / 16^2, c = 100 / 16^4. Choose it to see how far a method follows a solution that amplifies
    every error.
    """
    a, b, c = 100 / 16, 100 / 16**2, 100 / 16**4
    return Problem(
        Interval(0, 2 * PI) * Time(0, 1),
        lambda u: u.t + a * u * u.x + b * u.xx + c * u.xxxx,
        [initial(lambda x: torch.cos(x) * (1 + torch.sin(x))), periodic("x", order=3)],
        reference=computed("ks_chaotic"),
        cite=CAUSAL,
    )
