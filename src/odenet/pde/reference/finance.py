"""Prices of European options in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cache import Recipe, reference
from .closed_form import closed


def call(s: Tensor, tau: Tensor, strike: float, rate: float, carry: float, volatility: float) -> Tensor:
    """Price of a call; `carry` is the growth rate of the underlying, tau the time to maturity.

    s exp((carry - rate) tau) Phi(d1) - strike exp(-rate tau) Phi(d2). Black & Scholes (1973).
    """
    spread = volatility * torch.sqrt(tau.clamp(min=1e-300))
    d1 = (torch.log(s / strike) + (carry + volatility**2 / 2) * tau) / spread
    up, down = (torch.special.ndtr(d) for d in (d1, d1 - spread))
    return s * torch.exp((carry - rate) * tau) * up - strike * torch.exp(-rate * tau) * down


@reference()
def black_scholes(
    strike: float = 100.0,
    rate: float = 0.05,
    volatility: float = 0.2,
    maturity: float = 1.0,
    upper: float = 300.0,
) -> Recipe:
    """A call: V_t + volatility^2 S^2 V_SS / 2 + rate S V_S - rate V = 0, V(S, maturity) = max(S - strike, 0).

    Points are (S, t), S > 0. Black & Scholes (1973), J. Polit. Econ. 81, 637.
    """
    return closed(
        lambda x: call(x[:, 0], maturity - x[:, 1], strike, rate, rate, volatility),
        "the formula of Black and Scholes",
        ((upper / 300, 0.0), (upper, maturity)),
    )


@reference()
def geometric_basket(
    dim: int = 5,
    strike: float = 100.0,
    rate: float = 0.05,
    volatility: float = 0.2,
    correlation: float = 0.25,
    maturity: float = 1.0,
) -> Recipe:
    """A call on the geometric mean of dim assets: the terminal value is max((S_1 ... S_dim)^(1/dim) - strike, 0).

    V_t + sum_ij volatility^2 rho_ij S_i S_j V_ij / 2 + rate sum_i S_i V_i - rate V = 0 with rho_ij = correlation,
    rho_ii = 1. The mean is lognormal, so that the price is that of one asset with another volatility and growth.
    Points are (S_1, ..., S_dim, t), S > 0.
    """
    mean = volatility * math.sqrt((1 + (dim - 1) * correlation) / dim)
    carry = rate - volatility**2 / 2 + mean**2 / 2

    def formula(x: Tensor) -> Tensor:
        s = torch.exp(torch.log(x[:, :dim]).mean(1))
        return call(s, maturity - x[:, dim], strike, rate, carry, mean)

    lower, upper = (0.5 * strike,) * dim, (1.5 * strike,) * dim
    return closed(formula, "the lognormal mean in Black and Scholes' formula", ((*lower, 0.0), (*upper, maturity)))
