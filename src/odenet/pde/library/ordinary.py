"""Ordinary equations in time alone: Lorenz, stiff systems, a Volterra and a fractional equation."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...errors import BadInput
from ..conditions import initial
from ..domain import Time
from ..operators import caputo, integral
from ..statement import Problem
from .base import computed, pde_problem, positive
from .elliptic import DEEPXDE

LORENZ = (-8.0, 7.0, 27.0)  # where the trajectory starts


def attractor(x: Any, y: Any, z: Any, sigma: Any, rho: Any, beta: Any) -> Any:
    """Rows of the Lorenz system."""
    return x.t - sigma * (y - x), y.t - x * (rho - z) + y, z.t - x * y + beta * z


@pde_problem
def lorenz(sigma: float = 10.0, rho: float = 15.0, beta: float = 8 / 3, final: float = 3.0) -> Problem:
    """x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z on [0, final], from (-8, 7, 27).

    Choose it to test systems of ordinary equations; rho = 28 is chaotic, and errors grow about as exp(0.9 t).
    """
    positive(final=final)
    return Problem(
        Time(0, final),
        lambda x, y, z: attractor(x, y, z, sigma, rho, beta),
        [initial(v, unknown=k) for k, v in zip("xyz", LORENZ)],
        unknowns=("x", "y", "z"),
        reference=computed("lorenz", sigma=sigma, rho=rho, beta=beta, final=final),
        cite="Lorenz (1963), J. Atmos. Sci. 20, 130",
    )


@pde_problem
def robertson(final: float = 40.0) -> Problem:
    """a' = b c - 0.04 a, b' / 1e4 = 0.04 a - b c - 0.3 b^2, c' = 0.3 b^2 on [0, final], from (1, 0, 0).

    Robertson's chemical kinetics, b in units of 1e-4. Choose it to test stiffness: rates from 0.04 to 1e4.
    """
    positive(final=final)
    return Problem(
        Time(0, final),
        lambda a, b, c: (
            a.t + 0.04 * a - b * c,
            1e-4 * b.t - 0.04 * a + b * c + 0.3 * b**2,
            c.t - 0.3 * b**2,
        ),
        [initial(1.0, unknown="a"), initial(0.0, unknown="b"), initial(0.0, unknown="c")],
        unknowns=("a", "b", "c"),
        reference=computed("robertson", final=final),
        cite="Hairer & Wanner (1996), Solving Ordinary Differential Equations II, section IV.1",
    )


@pde_problem
def van_der_pol(mu: float = 20.0, final: float = 20.0) -> Problem:
    """u'' = mu (1 - u^2) u' - u on [0, final], u = 2, u' = 0 at the start: slow drift, then a jump within 1 / mu.

    Choose it to test stiffness that switches on and off, in one equation of second order.
    """
    positive(mu=mu, final=final)
    return Problem(
        Time(0, final),
        lambda u: u.tt - mu * (1 - u**2) * u.t + u,
        [initial(2.0), initial(0.0, order=1)],
        reference=computed("van_der_pol", mu=mu, final=final),
        cite="Hairer & Wanner (1996), Solving Ordinary Differential Equations II, section IV.1",
    )


@pde_problem
def volterra(final: float = 5.0) -> Problem:
    """u' + u = integral of exp(s - t) u(s) ds from 0 to t, on [0, final], u(0) = 1: u = exp(-t) cosh t.

    Choose it to test memory: an equation that looks at the whole past.
    """
    positive(final=final)
    return Problem(
        Time(0, final),
        lambda u, t: u.t + u - integral(lambda s: torch.exp(s - t) * u.at(t=s), 0.0, t, of=u),
        initial(1.0),
        exact=lambda t: (1 + torch.exp(-2 * t)) / 2,
        cite=DEEPXDE,
    )


@pde_problem
def fractional_relaxation(alpha: float = 0.5) -> Problem:
    """D^alpha u + u = f on [0, 1], u(0) = 1, D^alpha Caputo's derivative of order alpha: u = 1 + t^2 - t^3 / 2.

    Choose it to test derivatives of fractional order, which look at the whole past with a singular weight. Raises
    BadInput for an order outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise BadInput(f"alpha={alpha!r}: Caputo's derivative of a relaxation has an order between 0 and 1.")

    def exact(t: Any) -> Any:
        return 1 + t**2 - t**3 / 2

    def power(k: int, t: Any) -> Any:
        return t ** (k - alpha) * (math.gamma(k + 1) / math.gamma(k + 1 - alpha))

    return Problem(
        Time(0, 1),
        lambda u, t: caputo(u, alpha) + u - power(2, t) + power(3, t) / 2 - exact(t),
        initial(1.0),
        exact=exact,
    )
