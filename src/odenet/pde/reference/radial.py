"""Radial problems in many dimensions: quadrature or one equation in |x|^2, whatever the dimension."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .closed_form import closed
from .spectral import (
    Array,
    barycentric_matrix,
    chebyshev_lobatto,
    chebyshev_matrix,
    differentiation,
    in_time,
    pack_time,
    radau,
    windows_nodes,
)


@reference()
def hjb_cole_hopf(dim: int = 100, weight: float = 1.0, final: float = 1.0) -> Recipe:
    """u_t + Laplace u = weight |grad u|^2, u(x, final) = log((1 + |x|^2) / 2); points (x_1, ..., x_dim, t).

    exp(-weight u) = E (2 / (1 + |X|^2))^weight with X = x + sqrt(2 tau) W, tau = final - t. Since 1 / q^weight is the
    integral of s^(weight - 1) exp(-s q) / Gamma(weight), that is one integral over s of
    s^(weight - 1) exp(-s) (1 + 4 tau s)^(-dim / 2) exp(-s |x|^2 / (1 + 4 tau s)), analytic in log s and falling off
    exponentially: the trapezoidal rule is exact to rounding.
    """
    v = torch.linspace(-60.0 / min(weight, 1.0), 5.0, 4001, dtype=torch.float64)
    s, size = torch.exp(v), float(v[1] - v[0])

    def part(x: Tensor) -> Tensor:
        spread = 1 + 4 * (final - x[:, -1:]) * s
        r2 = x[:, :-1].square().sum(1, keepdim=True)
        exponents = weight * v - s - dim / 2 * torch.log(spread) - s * r2 / spread
        return -(torch.logsumexp(exponents, 1) + math.log(size) - math.lgamma(weight)) / weight - math.log(2)

    return closed(
        lambda x: torch.cat([part(rows) for rows in x.split(512)]),
        "Cole-Hopf as one integral of Laplace type, trapezoidal rule with 4001 nodes",
        ((-1.0,) * dim + (0.0,), (1.0,) * dim + (final,)),
    )


def radial_laplacian(dim: int, length: float, nodes: Array) -> Array:
    """Laplace's operator on functions of r = |x|^2 / (length + |x|^2) at nodes (n,) in [0, 1]: matrix (n, n).

    4 r (1 - r)^3 u'' / length + (1 - r)^2 (2 dim - 8 r) u' / length: both ends are singular and need no condition.
    """
    d = differentiation(nodes)
    second = 4 * nodes * (1 - nodes) ** 3 / length
    first = (1 - nodes) ** 2 * (2 * dim - 8 * nodes) / length
    return second[:, None] * (d @ d) + first[:, None] * d


def _window(matrix: Array, y: Array, h: float, q: int) -> Array:
    """Stages (q, n) of y' = matrix y - y^3 over one window of length h: Radau's points, the cube by iteration."""
    a, n = h * radau(q)[1], len(y)
    inverse = np.linalg.inv(np.eye(q * n) - np.kron(a, matrix))
    stages = np.tile(y, q)
    for _ in range(60):
        new = inverse @ (np.tile(y, q) - (a @ (stages**3).reshape(q, n)).ravel())
        done = np.abs(new - stages).max() < 1e-15
        stages = new
        if done:
            break
    return stages.reshape(q, n)


@reference()
def allen_cahn_radial(dim: int = 100, final: float = 0.3) -> Recipe:
    """u_t + Laplace u + u - u^3 = 0, u(x, final) = 1 / (2 + 0.4 |x|^2); points (x_1, ..., x_dim, t).

    The equation in r = |x|^2 / (5 + |x|^2), in which the final value is (1 - r) / 2 and infinity is a point: Chebyshev
    polynomials in r, collocation at Radau's points in time.
    """
    edges = final * np.array([0.0, 0.02, 0.08, 0.3, 1.0])

    def solve(level: int) -> Tables:
        n, q = ((44, 12), (56, 16))[level]
        nodes = (chebyshev_lobatto(n) + 1) / 2
        matrix = radial_laplacian(dim, 5.0, nodes) + np.eye(n + 1)
        y, rows = (1 - nodes) / 2, []
        inner = np.concatenate([[0.0], radau(q)[0]])
        for left, right in pairwise(edges):
            stages = np.concatenate([y[None], _window(matrix, y, right - left, q)])
            at = (windows_nodes(np.array([left, right]), q) - left) / (right - left)
            rows.append(barycentric_matrix(inner, at) @ stages)
            y = stages[-1]
        basis = chebyshev_matrix(torch.from_numpy(2 * nodes - 1), n + 1).numpy()
        series = np.linalg.solve(basis, np.concatenate(rows).T).T
        return {"c": pack_time(series[..., None], edges, q)}

    def evaluate(tables: Tables, x: Tensor) -> Tensor:
        r2 = x[:, :-1].square().sum(1)
        basis = chebyshev_matrix(2 * r2 / (5 + r2) - 1, tables["c"].shape[2])

        def space(here: Tensor, c: Tensor) -> Tensor:
            return torch.einsum("nk,qkm->nqm", basis[here], c)

        return in_time(tables["c"], torch.from_numpy(edges).to(x), final - x[:, -1], space, 1)

    how = "The equation in |x|^2: Chebyshev polynomials of degree 56, Radau collocation with 4 windows of 16 points"
    sides = (-1.0,) * dim + (0.0,), (1.0,) * dim + (final,)
    return Recipe(evaluate, how, sides, solve=solve, sample=lambda count: _balls(count, dim, final))


def _balls(count: int, dim: int, final: float) -> Tensor:
    """Points (count, dim + 1), uniform in time and in distance from the origin: in a cube none is near the middle."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    u = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([2 * u[:, :1] * x / x.norm(dim=1, keepdim=True), final * u[:, 1:]], 1)
