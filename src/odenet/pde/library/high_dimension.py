"""Semilinear parabolic problems in many dimensions: the value at one point is wanted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import BadInput
from ..semilinear import Semilinear, brownian, geometric
from .base import computed, count, pde_problem, positive

# multilevel_picard(default_risk(), level=3, branching=8, replications=16_000, seed=1): value and standard error
DEFAULT_RISK = (57.29274, 0.0019)
HAN = "Han, Jentzen & E (2018), PNAS 115, 8505"


@pde_problem
def hjb(dim: int = 100, weight: float = 1.0, final: float = 1.0) -> Semilinear:
    """u_t + Laplace u = weight |grad u|^2, u(x, final) = log((1 + |x|^2) / 2), at x = 0: linear-quadratic control.

    Han, Jentzen & E (2018), the Hamilton-Jacobi-Bellman equation. With X = x + sqrt(2) W the generator is
    -weight |z|^2 / 2. The transformation of Cole and Hopf, u = -log E exp(-weight g) / weight, gives the reference.
    """
    count(dim=dim)
    positive(weight=weight, final=final)
    return Semilinear(
        dim=dim, T=final, x0=torch.zeros(dim), **brownian(math.sqrt(2)),
        generator=lambda t, x, y, z: -0.5 * weight * z.square().sum(-1),
        terminal=lambda x: torch.log((1 + x.square().sum(-1)) / 2),
        reference=computed("hjb_cole_hopf", dim=dim, weight=weight, final=final), cite=HAN,
    )  # fmt: skip


@pde_problem
def allen_cahn_high_dimension(dim: int = 100, final: float = 0.3) -> Semilinear:
    """u_t + Laplace u + u - u^3 = 0, u(x, final) = 1 / (2 + 0.4 |x|^2), at x = 0.

    Han, Jentzen & E (2018), the Allen-Cahn equation. The data are radial: the reference solves the equation in |x|.
    """
    count(dim=dim)
    positive(final=final)
    return Semilinear(
        dim=dim, T=final, x0=torch.zeros(dim), **brownian(math.sqrt(2)),
        generator=lambda t, x, y, z: y - y**3,
        terminal=lambda x: 1 / (2 + 0.4 * x.square().sum(-1)),
        reference=computed("allen_cahn_radial", dim=dim, final=final), cite=HAN,
    )  # fmt: skip


@pde_problem
def default_risk(dim: int = 100, final: float = 1.0) -> Semilinear:
    """Black-Scholes with default risk: u(x, final) = min x_i, generator -((1 - 2/3) Q(u) + 0.02) u, at x_i = 100.

    Han, Jentzen & E (2018): growth 0.02, volatility 0.2; the intensity of default Q is 0.2 below u = 50, 0.02 above
    u = 70 and linear between. The reference (dim 100, final 1) is our own value by multilevel Picard iteration, with
    the standard error it was computed with.
    """
    count(dim=dim)
    positive(final=final)

    def generator(t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        intensity = (0.2 - (0.2 - 0.02) / 20 * (y - 50)).clamp(0.02, 0.2)
        return -(intensity / 3 + 0.02) * y

    known = dim == 100 and final == 1
    return Semilinear(
        dim=dim, T=final, x0=torch.full((dim,), 100.0), **geometric(0.02, 0.2),
        generator=generator, terminal=lambda x: x.amin(-1), cite=HAN,
        reference=(lambda points: points.new_full((len(points), 1), DEFAULT_RISK[0])) if known else None,
        reference_error=DEFAULT_RISK[1] / DEFAULT_RISK[0] if known else 0.0,
    )  # fmt: skip


@pde_problem
def black_scholes_basket(
    dim: int = 5,
    payoff: str = "call",
    strike: float = 100.0,
    rate: float = 0.05,
    volatility: float = 0.2,
    correlation: float = 0.25,
    final: float = 1.0,
) -> Semilinear:
    """A European "call" or "put" on the geometric mean of dim correlated assets, at x_i = 100; dim 1 is vanilla.

    u_t + sum_ij volatility^2 rho_ij x_i x_j u_ij / 2 + rate sum_i x_i u_i - rate u = 0. The mean is lognormal, so that
    the formula of Black & Scholes (1973) is the reference (a put by put-call parity).
    """
    count(dim=dim)
    positive(strike=strike, volatility=volatility, final=final)
    if payoff not in ("call", "put"):
        raise BadInput(f'payoff={payoff!r}: give "call" or "put".')
    if not -1 < (dim - 1) * correlation < dim - 1 and dim > 1:
        raise BadInput(f"correlation={correlation!r} of {dim} assets must lie between {-1 / (dim - 1):.3g} and 1.")
    sign = 1.0 if payoff == "call" else -1.0
    words = {"strike": strike, "rate": rate, "volatility": volatility, "correlation": correlation}
    call = computed("geometric_basket", dim=dim, maturity=final, **words)
    mixing = torch.linalg.cholesky((1 - correlation) * torch.eye(dim).double() + correlation) if dim > 1 else None
    mean = volatility * math.sqrt((1 + (dim - 1) * correlation) / dim)
    carry = rate - volatility**2 / 2 + mean**2 / 2

    def reference(points: Tensor) -> Tensor:
        left = final - points[:, -1:]
        forward = torch.exp(points[:, :-1].log().mean(1, keepdim=True) + carry * left)
        discounted = torch.exp(-rate * left) * (forward - strike)
        return call(points) if payoff == "call" else call(points) - discounted

    return Semilinear(
        dim=dim, T=final, x0=torch.full((dim,), 100.0), **geometric(rate, volatility, mixing),
        generator=lambda t, x, y, z: -rate * y,
        terminal=lambda x: (sign * (x.log().mean(-1).exp() - strike)).clamp(min=0),
        reference=reference, cite="Black & Scholes (1973), J. Polit. Econ. 81, 637",
    )  # fmt: skip
