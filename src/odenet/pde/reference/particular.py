"""Poisson's equation by particular solutions: harmonic functions with the right singularities, fitted at the sides.

By the maximum principle the misfit on the boundary bounds the error inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .spectral import chebyshev_nodes

HOLES = ((0.3, 0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3))
RADIUS = 0.1
CORNERS = ((1.0, 0.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (0.0, 1.0))


def fit(basis: Callable[[Tensor], Tensor], target: Tensor, boundary: Tensor) -> Tensor:
    """Coefficients c with basis(boundary) c = target in least squares; columns are scaled first.

    By the maximum principle the largest misfit on the boundary bounds the error inside.
    """
    from scipy.linalg import lstsq

    matrix = basis(boundary).numpy()
    scale = np.linalg.norm(matrix, axis=0)
    coefficients, *_ = lstsq(matrix / scale, target.numpy(), cond=1e-15, lapack_driver="gelsd")
    return torch.from_numpy(coefficients / scale)


def segment(a: tuple[float, float], b: tuple[float, float], n: int) -> Tensor:
    """n Chebyshev points (n, 2) between a and b, denser at both ends."""
    s = torch.from_numpy((chebyshev_nodes(n) + 1) / 2)[:, None]
    return torch.tensor(a, dtype=torch.float64) * (1 - s) + torch.tensor(b, dtype=torch.float64) * s


def cross(n: int) -> Tensor:
    """n points (n, 2) of the L-shape [-1, 1]^2 without [0, 1]^2, always the same."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(2 * n + 64, 2, generator=generator, dtype=torch.float64) - 1
    return x[(x <= 0).any(1)][:n]


def _corner_logarithms(x: Tensor) -> Tensor:
    """Sum over the five corners of 90 degrees of -Im(w^2 log w) / pi, w = (z - corner) turned into the shape.

    Near a corner with both sides held at 0, -Laplace u = 1 makes u behave as r^2 log r: this is its exact coefficient.
    """
    total = torch.zeros_like(x[:, 0])
    for px, py in CORNERS:
        dx, dy = x[:, 0] - px, x[:, 1] - py
        inward = math.atan2(-1.0 if py >= 0 else 1.0, -1.0 if px >= 0 else 1.0)
        theta = torch.remainder(torch.atan2(dy, dx) - inward + math.pi, 2 * math.pi) - 0.75 * math.pi
        total = total - _square_logarithm(dx**2 + dy**2, theta) / math.pi
    return total


def _square_logarithm(squared: Tensor, theta: Tensor) -> Tensor:
    """Im(w^2 log w) for |w|^2 = squared."""
    positive = squared.clamp(min=1e-300)
    return squared * (torch.log(positive) / 2 * torch.sin(2 * theta) + theta * torch.cos(2 * theta))


def _turned(x: Tensor) -> Tensor:
    """Angle at the inner corner, 0 on the side x = 0 and 3 pi / 2 on the side y = 0."""
    phi = torch.remainder(torch.atan2(x[:, 1], x[:, 0]) - math.pi / 2, 2 * math.pi)
    return torch.where(phi > 1.75 * math.pi, phi - 2 * math.pi, phi)  # rounding on the side x = 0, y > 0


def _inner_logarithm(x: Tensor) -> Tensor:
    """The r^2 log r term of the inner corner, where 2 is a multiple of pi over its angle too."""
    return -_square_logarithm((x**2).sum(1), _turned(x)) / (3 * math.pi)


def l_shape_basis(count: int, x: Tensor) -> Tensor:
    """r^(2j/3) sin(2j phi/3) at the inner corner and harmonic polynomials, (N, 3 count)."""
    r = x.norm(dim=1).clamp(min=1e-300)
    phi = _turned(x)
    j = torch.arange(1, 2 * count + 1, dtype=torch.float64, device=x.device)
    j = j[j % 3 != 0][:count] * 2 / 3
    singular = (r[:, None] / 1.5) ** j * torch.sin(j * phi[:, None])
    k = torch.arange(count, dtype=torch.float64, device=x.device)
    radius, angle = r[:, None] / 1.5, torch.atan2(x[:, 1], x[:, 0])[:, None]
    return torch.cat([singular, radius**k * torch.cos(k * angle), radius ** (k + 1) * torch.sin((k + 1) * angle)], 1)


@reference()
def l_shape() -> Recipe:
    """-Laplace u = 1 on [-1, 1]^2 without [0, 1]^2, u = 0 on the boundary.

    u = -|x|^2 / 4 + the r^2 log r terms of the corners + singular and polynomial harmonic functions. At the inner
    corner u behaves as r^(2/3): gradients are infinite there. Fox, Henrici & Moler (1967), SIAM J. Numer. Anal. 4, 89.
    """
    turns = ((0.0, 0.0), (1.0, 0.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (0.0, 1.0), (0.0, 0.0))

    def known(x: Tensor) -> Tensor:
        return -(x**2).sum(1) / 4 + _corner_logarithms(x) + _inner_logarithm(x)

    def solve(level: int) -> Tables:
        count = (32, 44)[level]
        sides = torch.cat([segment(a, b, 200) for a, b in pairwise(turns)])
        return {"c": fit(lambda x: l_shape_basis(count, x), -known(sides), sides)}

    def evaluate(tables: Tables, x: Tensor) -> Tensor:
        return (known(x) + l_shape_basis(len(tables["c"]) // 3, x) @ tables["c"])[:, None]

    how = "44 singular and 88 polynomial harmonic functions fitted at 1200 points of the boundary"
    return Recipe(evaluate, how, ((-1.0, -1.0), (1.0, 1.0)), solve=solve, sample=cross)


def holes_basis(count: int, x: Tensor) -> Tensor:
    """Harmonic functions with the symmetry of the square: z^(4k), logarithms and poles at the four holes."""
    z = torch.complex(x[:, 0].contiguous(), x[:, 1].contiguous())
    columns = [((z / 0.7) ** (4 * k)).real for k in range(count)]
    gaps = [z - complex(*hole) for hole in HOLES]
    turned = [gap / complex(*hole) * abs(complex(*hole)) for gap, hole in zip(gaps, HOLES)]
    columns.append(torch.stack([torch.log(gap.abs()) for gap in gaps]).sum(0))
    columns += [torch.stack([((RADIUS / w) ** k).real for w in turned]).sum(0) for k in range(1, 2 * count)]
    return torch.stack(columns, 1)


def square_without_holes(n: int) -> Tensor:
    """n points (n, 2) of [-1/2, 1/2]^2 without four discs, always the same."""
    x = torch.rand(2 * n + 64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    outside = torch.stack([(x - x.new_tensor(hole)).norm(dim=1) > RADIUS for hole in HOLES]).all(0)
    return x[outside][:n]


@reference()
def poisson_holes() -> Recipe:
    """Laplace u = 0 on [-1/2, 1/2]^2 without four discs of radius 0.1 at (+-0.3, +-0.3): u = 1 outside, 0 on the discs.

    PINNacle's Poisson2d-C. Hao et al. (2023), PINNacle.
    """
    angle = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200)
    circle = torch.tensor(HOLES[0], dtype=torch.float64) + RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    edge = segment((0.5, 0.0), (0.5, 0.5), 200)

    def solve(level: int) -> Tables:
        count, target = (24, 32)[level], torch.cat([torch.zeros(200), torch.ones(200)]).double()
        return {"c": fit(lambda x: holes_basis(count, x), target, torch.cat([circle, edge]))}

    def evaluate(tables: Tables, x: Tensor) -> Tensor:
        return (holes_basis(len(tables["c"]) // 3, x) @ tables["c"])[:, None]

    how = "32 harmonic polynomials and 64 logarithms and poles in the discs, fitted at 400 points of the boundary"
    return Recipe(evaluate, how, ((-0.5, -0.5), (0.5, 0.5)), solve=solve, sample=square_without_holes)
