"""Parabolic problems: heat, reaction and diffusion, advection and diffusion."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..conditions import dirichlet, initial, periodic
from ..domain import Box, Interval, Time
from ..operators import laplacian
from ..statement import Problem
from .base import computed, count, pde_problem, positive
from .elliptic import DEEPXDE, HAO
from .transport import FAILURES, RAISSI

PI = math.pi


@pde_problem
def heat(diffusivity: float = 0.25, mode: int = 1) -> Problem:
    """u_t = diffusivity u_xx on [0, 1] x [0, 1], u0 = sin(mode pi x), u = 0 at both ends: the smallest evolution."""
    positive(diffusivity=diffusivity)
    count(mode=mode)
    k = mode * PI
    return Problem(
        Interval(0, 1) * Time(0, 1),
        lambda u: u.t - diffusivity * u.xx,
        [initial(lambda x: torch.sin(k * x)), dirichlet(0.0)],
        exact=lambda x, t: torch.exp(-diffusivity * k**2 * t) * torch.sin(k * x),
    )


@pde_problem
def heat_multiscale(final: float = 5.0) -> Problem:
    """u_t = u_xx / (500 pi)^2 + u_yy / pi^2 on [0, 1]^2 x [0, final], u0 = sin(20 pi x) sin(pi y), u = 0 at the walls.

    Choose it to see whether a method copes with two lengths and two diffusivities far apart.
    """
    positive(final=final)

    def start(x: Any, y: Any) -> Any:
        return torch.sin(20 * PI * x) * torch.sin(PI * y)

    return Problem(
        Box((0.0, 0.0), (1.0, 1.0), names=("x", "y")) * Time(0, final),
        lambda u: u.t - u.xx / (500 * PI) ** 2 - u.yy / PI**2,
        [initial(start), dirichlet(0.0)],
        exact=lambda x, y, t: start(x, y) * torch.exp(-((20 / 500) ** 2 + 1) * t),
        cite=HAO,
    )


@pde_problem
def heat_variable() -> Problem:
    """u_t = (k u_x)_x / 4, k = 1 + cos(2 pi x) / 2, on [0, 1] x [0, 1], u0 = sin(pi x), u = 0 at both ends.

    Choose it to test coefficients that vary in space, written in divergence form.
    """
    return Problem(
        Interval(0, 1) * Time(0, 1),
        lambda u, x: u.t - ((1 + torch.cos(2 * PI * x) / 2) * u.x).x / 4,
        [initial(lambda x: torch.sin(PI * x)), dirichlet(0.0)],
        reference=computed("heat_variable"),
    )


def _bump(x: Any) -> Any:
    return torch.exp(-8 * (x - PI) ** 2 / PI**2)


@pde_problem
def reaction(rho: float = 5.0) -> Problem:
    """u_t = rho u (1 - u) on [0, 2 pi] x [0, 1], u0 = exp(-8 (x - pi)^2 / pi^2), periodic: growth without transport.

    Choose it to see whether a method finds the growing solution: u = 0 solves the equation too.
    """
    return Problem(
        Interval(0, 2 * PI) * Time(0, 1),
        lambda u: u.t - rho * u * (1 - u),
        [initial(_bump), periodic("x", order=0)],
        exact=lambda x, t: _bump(x) / (_bump(x) + (1 - _bump(x)) * torch.exp(-rho * t)),
        cite=FAILURES,
    )


@pde_problem
def reaction_diffusion(nu: float = 3.0, rho: float = 5.0) -> Problem:
    """u_t = nu u_xx + rho u (1 - u) on [0, 2 pi] x [0, 1], u0 = exp(-8 (x - pi)^2 / pi^2), periodic.

    Choose it to test two processes of different speed in one equation.
    """
    positive(nu=nu)
    return Problem(
        Interval(0, 2 * PI) * Time(0, 1),
        lambda u: u.t - nu * u.xx - rho * u * (1 - u),
        [initial(_bump), periodic("x")],
        reference=computed("reaction_diffusion", nu=nu, rho=rho),
        cite=FAILURES,
    )


def _start(x: Any) -> Any:
    return x**2 * torch.cos(PI * x)


@pde_problem
def allen_cahn(d: float = 1e-3) -> Problem:
    """u_t = d u_xx + 5 (u - u^3) on [-1, 1] x [0, 1], u0 = x^2 cos(pi x), u(+-1) = -1: layers that steepen in time.

    Choose it to compare with the stock example of DeepXDE; `allen_cahn_periodic` is the other statement in use.
    """
    positive(d=d)
    return Problem(
        Interval(-1, 1) * Time(0, 1),
        lambda u: u.t - d * u.xx - 5 * (u - u**3),
        [initial(_start), dirichlet(-1.0)],
        reference=computed("allen_cahn", d=d),
        cite=DEEPXDE,
    )


@pde_problem
def allen_cahn_periodic(d: float = 1e-4) -> Problem:
    """u_t = d u_xx - 5 u^3 + 5 u on [-1, 1] x [0, 1], u0 = x^2 cos(pi x), periodic: sharper layers, a kink at x = +-1.

    Choose it to compare with the literature since 2019. The slope of u0 jumps by 4 at the seam.
    """
    positive(d=d)
    return Problem(
        Interval(-1, 1) * Time(0, 1),
        lambda u: u.t - d * u.xx + 5 * u**3 - 5 * u,
        [initial(_start), periodic("x")],
        reference=computed("allen_cahn_periodic", d=d),
        cite=RAISSI,
    )


@pde_problem
def gray_scott(
    feed: float = 0.04, decay: float = 0.1, du: float = 1e-5, dv: float = 5e-6, final: float = 20.0
) -> Problem:
    """u_t = du Laplace u + feed (1 - u) - u v^2, v_t = dv Laplace v - decay v + u v^2, periodic on [-1, 1]^2.

    For t in [0, final]; at the start u = 1 - exp(-80 ((x + 0.05)^2 + (y + 0.02)^2)) and
    v = exp(-80 ((x - 0.05)^2 + (y - 0.02)^2)): PINNacle's statement, up to an earlier time. Choose it to test patterns
    that grow from a spot by reaction and slow diffusion.
    """
    positive(du=du, dv=dv, final=final)

    def spot(x: Any, y: Any) -> Any:
        return torch.exp(-80 * (x**2 + y**2))

    return Problem(
        Box((-1.0, -1.0), (1.0, 1.0), names=("x", "y")) * Time(0, final),
        lambda u, v: (
            u.t - du * laplacian(u) - feed * (1 - u) + u * v**2,
            v.t - dv * laplacian(v) + decay * v - u * v**2,
        ),
        [
            initial(lambda x, y: 1 - spot(x + 0.05, y + 0.02), unknown="u"),
            initial(lambda x, y: spot(x - 0.05, y - 0.02), unknown="v"),
            periodic("x"), periodic("y"),
        ],
        unknowns=("u", "v"),
        reference=computed("gray_scott", feed=feed, decay=decay, du=du, dv=dv, final=final),
        cite=HAO,
    )  # fmt: skip


@pde_problem
def advection_diffusion(speed: float = 1.0, diffusivity: float = 0.01, mode: int = 1) -> Problem:
    """u_t + speed u_x = diffusivity u_xx, u0 = sin(mode x), periodic on [0, 2 pi], t in [0, 1]: a wave that fades.

    Choose it between `heat` and `convection`: both processes, with a closed form.
    """
    positive(diffusivity=diffusivity)
    count(mode=mode)
    return Problem(
        Interval(0, 2 * PI) * Time(0, 1),
        lambda u: u.t + speed * u.x - diffusivity * u.xx,
        [initial(lambda x: torch.sin(mode * x)), periodic("x")],
        exact=lambda x, t: torch.exp(-diffusivity * mode**2 * t) * torch.sin(mode * (x - speed * t)),
    )
