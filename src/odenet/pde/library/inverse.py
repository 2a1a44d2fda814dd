"""Inverse problems: coefficients of an equation from measurements, clean or noisy."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..conditions import data, dirichlet, initial
from ..domain import Box, Interval, Time
from ..operators import div, grad
from ..statement import Problem
from .base import computed, count, measured, pde_problem, positive, sides
from .elliptic import DEEPXDE, HAO
from .ordinary import LORENZ, attractor
from .transport import RAISSI

PI = math.pi


@pde_problem
def inverse_poisson(n: int = 500, noise: float = 0.0, seed: int = 0) -> Problem:
    """-div(a grad u) = f on [0, 1]^2, u = 0 and a given on the boundary: find the field a from n values of u.

    u = sin(pi x) sin(pi y), a = 1 / (1 + x^2 + y^2 + (x - 1)^2 + (y - 1)^2), values at random places with normal errors
    of noise * std. Choose it where the unknown coefficient is a field rather than a number.
    """
    count(n=n)

    def u(x: Any, y: Any) -> Any:
        return torch.sin(PI * x) * torch.sin(PI * y)

    def a(x: Any, y: Any) -> Any:
        return 1 / (1 + x**2 + y**2 + (x - 1) ** 2 + (y - 1) ** 2)

    def source(x: Any, y: Any) -> Any:
        slope = (4 * x - 2) * torch.cos(PI * x) * torch.sin(PI * y)
        slope = slope + (4 * y - 2) * torch.sin(PI * x) * torch.cos(PI * y)
        return a(x, y) * 2 * PI**2 * u(x, y) + a(x, y) ** 2 * PI * slope

    domain = Box((0.0, 0.0), (1.0, 1.0), names=("x", "y"))
    x = domain.sample(n, torch.Generator().manual_seed(seed), "uniform")
    return Problem(
        domain,
        lambda u, a, x, y: div([a * s for s in grad(u)]) + source(x, y),
        [
            dirichlet(0.0, unknown="u"), *sides(domain, a, "a"),
            data(x, measured(u(*x.unbind(1)), noise, seed), unknown="u"),
        ],
        unknowns=("u", "a"),
        exact=lambda x, y: (u(x, y), a(x, y)),
        facts={"underdetermined": True},
        cite=HAO,
    )  # fmt: skip


@pde_problem
def inverse_heat(diffusivity: float = 0.25, n: int = 200, noise: float = 0.0, seed: int = 0) -> Problem:
    """u_t = k u_xx on [0, 1] x [0, 1], u0 = sin(pi x), u = 0 at both ends: find k from n values of u.

    Values at random places with normal errors of noise * std, k = diffusivity. Choose it as the smallest test of
    parameter estimation.
    """
    positive(diffusivity=diffusivity)
    count(n=n)

    def exact(x: Any, t: Any) -> Any:
        return torch.exp(-diffusivity * PI**2 * t) * torch.sin(PI * x)

    domain = Interval(0, 1) * Time(0, 1)
    x = domain.sample(n, torch.Generator().manual_seed(seed), "uniform")
    return Problem(
        domain,
        lambda u, k: u.t - k * u.xx,
        [
            initial(lambda x: torch.sin(PI * x)), dirichlet(0.0),
            data(x, measured(exact(*x.unbind(1)), noise, seed)),
        ],
        parameters={"k": 1.0},
        exact=exact,
        facts={"true_parameters": {"k": diffusivity}},
    )  # fmt: skip


@pde_problem
def inverse_burgers(nu: float = 0.01 / PI, n: int = 2000, noise: float = 0.0, seed: int = 0) -> Problem:
    """u_t + a u u_x = b u_xx on [-1, 1] x [0, 1]: find a = 1 and b = nu from n values of u, nothing else is known.

    Values of the solution of `burgers` at random places with normal errors of noise * std. Choose it to compare with
    the literature on data-driven discovery.
    """
    positive(nu=nu)
    count(n=n)
    truth = computed("burgers", nu=nu)
    domain = Interval(-1, 1) * Time(0, 1)
    x = domain.sample(n, torch.Generator().manual_seed(seed), "uniform")
    return Problem(
        domain,
        lambda u, a, b: u.t + a * u * u.x - b * u.xx,
        data(x, measured(truth(x)[:, 0], noise, seed)),
        parameters={"a": 0.5, "b": 0.05},
        reference=truth,
        facts={"true_parameters": {"a": 1.0, "b": nu}, "shock": {"x": 0.0, "width": nu}},
        cite=RAISSI,
    )


@pde_problem
def inverse_lorenz(n: int = 25, noise: float = 0.0, seed: int = 0) -> Problem:
    """The Lorenz system on [0, 3] from (-8, 7, 27): find sigma = 10, rho = 15, beta = 8/3 from n values of x, y and z.

    Values at equal distances in time with normal errors of noise * std. Choose it to estimate the coefficients of
    ordinary equations.
    """
    count(n=n)
    true = {"sigma": 10.0, "rho": 15.0, "beta": 8 / 3}
    truth = computed("lorenz", **true, final=3.0)
    t = torch.linspace(0, 3, n + 1, dtype=torch.float64)[1:, None]
    values = truth(t)
    return Problem(
        Time(0, 3),
        attractor,
        [
            *(initial(v, unknown=k) for k, v in zip("xyz", LORENZ)),
            *(data(t, measured(values[:, i], noise, seed + i), unknown=k) for i, k in enumerate("xyz")),
        ],
        unknowns=("x", "y", "z"),
        parameters={"sigma": 1.0, "rho": 1.0, "beta": 1.0},
        reference=truth,
        facts={"true_parameters": true},
        cite=DEEPXDE,
    )
