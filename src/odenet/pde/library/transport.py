"""Transport: Burgers in one and two dimensions, convection."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..conditions import dirichlet, initial, periodic
from ..domain import Box, Interval, Time
from ..operators import laplacian
from ..statement import Problem
from .base import computed, pde_problem, positive, sides

PI = math.pi
RAISSI = "Raissi, Perdikaris & Karniadakis (2019), J. Comput. Phys. 378, 686"
FAILURES = "Krishnapriyan et al. (2021), Characterizing possible failure modes in PINNs, arXiv 2109.01050"


@pde_problem
def burgers(nu: float = 0.01 / PI) -> Problem:
    """u_t + u u_x = nu u_xx on [-1, 1] x [0, 1], u0 = -sin(pi x), u(+-1) = 0: a shock of width nu at x = 0.

    Choose it to compare with the literature: the most used benchmark of the field.
    """
    positive(nu=nu)
    return Problem(
        Interval(-1, 1) * Time(0, 1),
        lambda u: u.t + u * u.x - nu * u.xx,
        [initial(lambda x: -torch.sin(PI * x)), dirichlet(0.0)],
        reference=computed("burgers", nu=nu),
        facts={"shock": {"x": 0.0, "width": nu}},
        cite=RAISSI,
    )


@pde_problem
def burgers_2d(reynolds: float = 100.0) -> Problem:
    """u_t + u u_x + v u_y = Laplace u / Re, the same for v, on [0, 1]^2 x [0, 1], values given: an oblique front.

    u = 3/4 - 1 / (4 (1 + e)), v = 3/4 + 1 / (4 (1 + e)), e = exp(Re (-t - 4 x + 4 y) / 32), give initial and boundary
    values. Choose it to test coupled equations with a front that runs across the axes; the exact solution is a single
    neuron of a tanh net, whose error says little.
    """
    positive(reynolds=reynolds)

    def part(x: Any, y: Any, t: Any) -> Any:
        return torch.sigmoid((t + 4 * x - 4 * y) * (reynolds / 32)) / 4

    def u(x: Any, y: Any, t: Any) -> Any:
        return 0.75 - part(x, y, t)

    def v(x: Any, y: Any, t: Any) -> Any:
        return 0.75 + part(x, y, t)

    space = Box((0.0, 0.0), (1.0, 1.0), names=("x", "y"))
    return Problem(
        space * Time(0, 1),
        lambda u, v: (
            u.t + u * u.x + v * u.y - laplacian(u) / reynolds,
            v.t + u * v.x + v * v.y - laplacian(v) / reynolds,
        ),
        [
            *sides(space, u, "u"), *sides(space, v, "v"),
            initial(lambda x, y: u(x, y, 0.0), unknown="u"), initial(lambda x, y: v(x, y, 0.0), unknown="v"),
        ],
        unknowns=("u", "v"),
        exact=lambda x, y, t: (u(x, y, t), v(x, y, t)),
        cite="Fletcher (1983), Int. J. Numer. Meth. Fluids 3, 213",
    )  # fmt: skip


@pde_problem
def convection(beta: float = 30.0) -> Problem:
    """u_t + beta u_x = 0, u0 = sin x, periodic on [0, 2 pi], t in [0, 1]: fast transport, where plain PINNs fail."""
    return Problem(
        Interval(0, 2 * PI) * Time(0, 1),
        lambda u: u.t + beta * u.x,
        [initial(lambda x: torch.sin(x)), periodic("x", order=0)],
        exact=lambda x, t: torch.sin(x - beta * t),
        cite=FAILURES,
    )
