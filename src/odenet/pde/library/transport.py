"""Transport: Burgers, convection."""

from __future__ import annotations

import math

import torch

from ..conditions import dirichlet, initial, periodic
from ..domain import Interval, Time
from ..statement import Problem
from .base import pde_problem


@pde_problem
def burgers(nu: float = 0.01 / math.pi) -> Problem:
    """u_t + u u_x = nu u_xx on [-1, 1] x [0, 1], u0 = -sin(pi x), u(+-1) = 0: a shock of width nu at x = 0."""
    return Problem(
        Interval(-1, 1) * Time(0, 1),
        lambda u: u.t + u * u.x - nu * u.xx,
        [initial(lambda x: -torch.sin(math.pi * x)), dirichlet(0.0)],
        reference=lambda points: _burgers(nu)(points),
    )


def _burgers(nu: float):  # type: ignore[no-untyped-def]
    from .. import reference

    return reference.burgers(nu=nu)


@pde_problem
def convection(beta: float = 30.0) -> Problem:
    """u_t + beta u_x = 0, u0 = sin x, periodic on [0, 2 pi], t in [0, 1]: fast transport, where plain PINNs fail."""
    return Problem(
        Interval(0, 2 * math.pi) * Time(0, 1),
        lambda u: u.t + beta * u.x,
        [initial(lambda x: torch.sin(x)), periodic("x")],
        exact=lambda x, t: torch.sin(x - beta * t),
    )
