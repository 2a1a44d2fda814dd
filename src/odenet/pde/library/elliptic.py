"""Elliptic problems: Poisson, Helmholtz, Darcy, a boundary layer."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...errors import BadInput
from ..conditions import dirichlet
from ..domain import Box, Hypercube, Interval
from ..operators import div, dot, grad, laplacian
from ..shapes import Disk, Polygon
from ..statement import Problem
from .base import computed, count, pde_problem, positive

PI = math.pi
DEEPXDE = "Lu, Meng, Mao & Karniadakis (2021), DeepXDE, SIAM Review 63, 208; examples of the package"
HAO = "Hao et al. (2023), PINNacle: a comprehensive benchmark of physics-informed neural networks, arXiv 2306.08827"
WANG = "Wang, Teng & Perdikaris (2021), SIAM J. Sci. Comput. 43, A3055"


def _bending(u: Any) -> Any:
    """|grad u|^2 / 2."""
    return dot(grad(u), grad(u)) / 2


@pde_problem
def poisson(dim: int = 2, kind: str | None = None) -> Problem:
    """-Laplace u = f on [0, 1]^dim, u given on the boundary: the smallest test of a solver, in any dimension.

    kind: "product", u = prod sin(pi x_i), f = dim pi^2 u (the default up to three dimensions);
          "sum", u = sum sin(pi x_i), f = pi^2 u (the default above, where products are tiny almost everywhere);
          "harmonic", u = x_1 x_2 + x_3 x_4 + ..., f = 0, for even dim. Raises BadInput.
    """
    count(dim=dim)
    kind = kind or ("product" if dim <= 3 else "sum")
    if kind not in ("product", "sum", "harmonic") or (kind == "harmonic" and dim % 2):
        raise BadInput(f"poisson has kind product, sum and, for even dim, harmonic; got {kind!r} with dim={dim}.")

    def exact(*x: Any) -> Any:
        if kind == "harmonic":
            return sum(a * b for a, b in zip(x[::2], x[1::2]))
        waves = [torch.sin(PI * c) for c in x]
        return math.prod(waves[1:], start=waves[0]) if kind == "product" else sum(waves[1:], start=waves[0])

    # by weight: interpolation between the sides would give the whole solution where it is a sum
    values = dirichlet(0.0) if kind == "product" else dirichlet(exact, hard=False)
    rate = {"product": dim * PI**2, "sum": PI**2, "harmonic": 0.0}[kind]
    return Problem(
        Hypercube(dim),
        lambda u, *x: laplacian(u) + rate * exact(*x) if rate else laplacian(u),
        values,
        exact=exact,
        energy=lambda u, *x: _bending(u) - rate * exact(*x) * u if rate else _bending(u),
        cite={
            "sum": "Mueller & Zeinhofer (2023), Achieving high accuracy with PINNs via energy natural gradients",
            "harmonic": "E & Yu (2018), The deep Ritz method, Commun. Math. Stat. 6, 1",
        }.get(kind, ""),
    )


@pde_problem
def poisson_lshape() -> Problem:
    """-(u_xx + u_yy) = 1 on [-1, 1]^2 without [0, 1]^2, u = 0 on the boundary: a corner where u behaves as r^(2/3).

    Choose it to see what a re-entrant corner costs a method.
    """
    corners = ((0.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (1.0, 0.0))
    return Problem(
        Polygon(corners, names=("x", "y")),
        lambda u: laplacian(u) + 1,
        dirichlet(0.0),
        reference=computed("l_shape"),
        energy=lambda u: _bending(u) - u,
        facts={"corner": {"at": (0.0, 0.0), "power": 2 / 3}},
        cite=DEEPXDE,
    )


@pde_problem
def poisson_holes() -> Problem:
    """u_xx + u_yy = 0 on [-1/2, 1/2]^2 without four disks, u = 1 on the outer boundary, u = 0 on the disks.

    The disks have radius 0.1 and centres (+-0.3, +-0.3). Choose it to test domains that are combined from shapes.
    """
    space: Any = Box((-0.5, -0.5), (0.5, 0.5), names=("x", "y"))
    for x in (-0.3, 0.3):
        for y in (-0.3, 0.3):
            space = space - Disk((x, y), 0.1)
    outer = ("left", "right", "bottom", "top")
    return Problem(
        space,
        lambda u: laplacian(u),
        [dirichlet(1.0, on=outer), dirichlet(0.0, on=[p for p in space.pieces if p.startswith("disk")])],
        reference=computed("poisson_holes"),
        energy=_bending,
        cite=HAO,
    )


@pde_problem
def helmholtz(kind: str = "1_4", k: float = 1.0) -> Problem:
    """u_xx + u_yy + k^2 u = q, u = 0 on the boundary of a square: waves, which nets learn slowly.

    kind: "1_4", on [-1, 1]^2 with u = sin(pi x) sin(4 pi y); "4pi", on [0, 1]^2 with u = sin(4 pi x) sin(4 pi y) and
    k = 4 pi, whatever is given. Raises BadInput.
    """
    if kind not in ("1_4", "4pi"):
        raise BadInput(f"helmholtz has the kinds 1_4 and 4pi; got {kind!r}.")
    (a, b), low = ((PI, 4 * PI), -1.0) if kind == "1_4" else ((4 * PI, 4 * PI), 0.0)
    k = k if kind == "1_4" else 4 * PI

    def exact(x: Any, y: Any) -> Any:
        return torch.sin(a * x) * torch.sin(b * y)

    return Problem(
        Box((low, low), (1.0, 1.0), names=("x", "y")),
        lambda u, x, y: laplacian(u) + k**2 * u - (k**2 - a**2 - b**2) * exact(x, y),
        dirichlet(0.0),
        exact=exact,
        cite=WANG if kind == "1_4" else DEEPXDE,
    )


@pde_problem
def darcy(contrast: float = 2.0) -> Problem:
    """-div(k grad u) = 1 on [0, 1]^2, u = 0 on the boundary, k = exp(contrast sin(2 pi x) cos(pi y)): porous media.

    Choose it to test equations in divergence form whose coefficient varies by orders of magnitude.
    """

    def k(x: Any, y: Any) -> Any:
        return torch.exp(contrast * torch.sin(2 * PI * x) * torch.cos(PI * y))

    return Problem(
        Box((0.0, 0.0), (1.0, 1.0), names=("x", "y")),
        lambda u, x, y: div([k(x, y) * slope for slope in grad(u)]) + 1,
        dirichlet(0.0),
        reference=computed("darcy", contrast=contrast),
        energy=lambda u, x, y: k(x, y) * _bending(u) - u,
    )


@pde_problem
def boundary_layer(diffusivity: float = 0.01) -> Problem:
    """u_x = diffusivity u_xx + 1 on [0, 1], u = 0 at both ends: a layer of that width at x = 1.

    Choose it to see how a method resolves a layer whose place it is not told.
    """
    positive(diffusivity=diffusivity)
    scale = math.expm1(-1 / diffusivity)

    def exact(x: Any) -> Any:
        return x + (torch.exp((x - 1) / diffusivity) - math.exp(-1 / diffusivity)) / scale

    return Problem(
        Interval(0, 1),
        lambda u: u.x - diffusivity * u.xx - 1,
        dirichlet(0.0),
        exact=exact,
        facts={"shock": {"x": 1.0, "width": diffusivity}},
    )
