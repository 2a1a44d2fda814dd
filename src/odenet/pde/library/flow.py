"""Flow: Stokes, cavity, Kovasznay, Taylor-Green, Navier-Stokes from measurements, Eikonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ..conditions import data, dirichlet, initial, integral_is, neumann, on_points, periodic
from ..domain import Box, Time
from ..operators import laplacian
from ..shapes import Disk
from ..statement import Problem
from .base import computed, count, measured, pde_problem, positive, sides
from .transport import RAISSI

PI = math.pi
FIELDS = ("u", "v", "p")


def momentum(viscosity: Any, inertia: Any = 1.0, steady: bool = True) -> Callable[..., Any]:
    """Rows of the incompressible Navier-Stokes equations in the plane, unknowns u, v, p, density one."""

    def rows(u: Any, v: Any, p: Any) -> Any:
        first = inertia * (u * u.x + v * u.y) + p.x - viscosity * laplacian(u)
        second = inertia * (u * v.x + v * v.y) + p.y - viscosity * laplacian(v)
        return (first if steady else u.t + first, second if steady else v.t + second, u.x + v.y)

    return rows


@pde_problem
def stokes() -> Problem:
    """-Laplace u + grad p = 0, div u = 0 on [-1, 1]^2, u = e^x (cos y - y sin y), v = -y e^x cos y at the walls.

    p = 2 (sinh 1 sin 1 - e^x cos y) has mean zero. Choose it as the smallest test of velocity and pressure together.
    """

    def u(x: Any, y: Any) -> Any:
        return torch.exp(x) * (torch.cos(y) - y * torch.sin(y))

    def v(x: Any, y: Any) -> Any:
        return -y * torch.exp(x) * torch.cos(y)

    def p(x: Any, y: Any) -> Any:
        return 2 * math.sinh(1) * math.sin(1) - 2 * torch.exp(x) * torch.cos(y)

    space = Box((-1.0, -1.0), (1.0, 1.0), names=("x", "y"))
    return Problem(
        space,
        lambda u, v, p: (p.x - laplacian(u), p.y - laplacian(v), u.x + v.y),
        [*sides(space, u, "u"), *sides(space, v, "v"), integral_is(0.0, lambda p: p)],
        unknowns=FIELDS,
        exact=lambda x, y: (u(x, y), v(x, y), p(x, y)),
    )


@pde_problem
def cavity(reynolds: float = 100.0) -> Problem:
    """Steady Navier-Stokes on [0, 1]^2, the lid y = 1 moves with u = 1, no slip elsewhere, mean pressure zero.

    The velocity jumps in the upper corners, where the pressure is infinite: errors are those of the velocity. Choose it
    to compare with flow solvers: the standard test of the field.
    """
    positive(reynolds=reynolds)
    walls = ("left", "right", "bottom")
    return Problem(
        Box((0.0, 0.0), (1.0, 1.0), names=("x", "y")),
        momentum(1 / reynolds),
        [
            dirichlet(1.0, on="top", unknown="u"), dirichlet(0.0, on=walls, unknown="u"),
            dirichlet(0.0, unknown="v"), integral_is(0.0, lambda p: p),
        ],
        unknowns=FIELDS,
        reference=computed("cavity", reynolds=reynolds),
        allow_jumps=True,
        cite="Ghia, Ghia & Shin (1982), J. Comput. Phys. 48, 387",
    )  # fmt: skip


@pde_problem
def kovasznay(reynolds: float = 40.0) -> Problem:
    """Steady Navier-Stokes on [-1/2, 1] x [-1/2, 3/2], velocities given on the boundary, pressure on the right.

    u = 1 - e^(l x) cos 2 pi y, v = l / (2 pi) e^(l x) sin 2 pi y, p = (1 - e^(2 l x)) / 2, l = Re / 2 - sqrt(Re^2 / 4 +
    4 pi^2). Choose it to test steady flow against a closed form.
    """
    positive(reynolds=reynolds)
    rate = reynolds / 2 - math.sqrt(reynolds**2 / 4 + 4 * PI**2)

    def u(x: Any, y: Any) -> Any:
        return 1 - torch.exp(rate * x) * torch.cos(2 * PI * y)

    def v(x: Any, y: Any) -> Any:
        return torch.exp(rate * x) * torch.sin(2 * PI * y) * (rate / (2 * PI))

    space, outlet = Box((-0.5, -0.5), (1.0, 1.5), names=("x", "y")), (1 - math.exp(2 * rate)) / 2
    return Problem(
        space,
        momentum(1 / reynolds),
        [*sides(space, u, "u"), *sides(space, v, "v"), dirichlet(outlet, on="right", unknown="p")],
        unknowns=FIELDS,
        exact=lambda x, y: (u(x, y), v(x, y), (1 - torch.exp(2 * rate * x)) / 2),
        cite="Kovasznay (1948), Math. Proc. Camb. Phil. Soc. 44, 58",
    )


def vortices(nu: float, drift: tuple[float, float] = (0.0, 0.0)) -> Callable[..., Any]:
    """Taylor and Green's decaying vortices, carried along by a constant drift: (x, y, t) -> u, v, p."""

    def at(x: Any, y: Any, t: Any) -> Any:
        x, y, decay = x - drift[0] * t, y - drift[1] * t, torch.exp(-2 * nu * t)
        u, v = -torch.cos(x) * torch.sin(y) * decay, torch.sin(x) * torch.cos(y) * decay
        return u + drift[0], v + drift[1], -(torch.cos(2 * x) + torch.cos(2 * y)) * decay**2 / 4

    return at


@pde_problem
def taylor_green(nu: float = 0.01) -> Problem:
    """Navier-Stokes on [0, 2 pi]^2 x [0, 1], periodic, u0 = -cos x sin y, v0 = sin x cos y: vortices that decay.

    The pressure is fixed by its value along x = y = 0. Choose it to test unsteady flow against a closed form.
    """
    positive(nu=nu)
    exact = vortices(nu)
    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    line = torch.stack([0 * t, 0 * t, t], 1)
    return Problem(
        Box((0.0, 0.0), (2 * PI, 2 * PI), names=("x", "y")) * Time(0, 1),
        momentum(nu, steady=False),
        [
            initial(lambda x, y: -torch.cos(x) * torch.sin(y), unknown="u"),
            initial(lambda x, y: torch.sin(x) * torch.cos(y), unknown="v"),
            periodic("x"), periodic("y"),
            on_points(dirichlet(lambda t: -torch.exp(-4 * nu * t) / 2, unknown="p"), line),
        ],
        unknowns=FIELDS,
        exact=exact,
        cite="Taylor & Green (1937), Proc. R. Soc. Lond. A 158, 499",
    )  # fmt: skip


@pde_problem
def navier_stokes_inverse(nu: float = 0.01, n: int = 2000, noise: float = 0.0, seed: int = 0) -> Problem:
    """u_t + a (u u_x + v u_y) = -p_x + b Laplace u, the same for v, div = 0: find a and b from n velocities.

    Data: Taylor and Green's vortices in a wind (1, 1/2) (a = 1, b = nu) at random places of [0, 2 pi]^2 x [0, 1], with
    normal errors of noise * std; without the wind any a would fit, with another pressure. The pressure is not measured
    and known up to a function of time, which one tap at x = y = 0 fixes. Choose it to identify a flow without
    simulation data; `cylinder` reads the published wake.
    """
    positive(nu=nu)
    count(n=n)
    exact = vortices(nu, drift=(1.0, 0.5))
    domain = Box((0.0, 0.0), (2 * PI, 2 * PI), names=("x", "y")) * Time(0, 1)
    x = domain.sample(n, torch.Generator().manual_seed(seed), "uniform")
    u, v, _ = exact(*x.unbind(1))
    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    tap = torch.stack([0 * t, 0 * t, t], 1)
    return Problem(
        domain,
        _identified,
        [
            data(x, measured(u, noise, seed), unknown="u"), data(x, measured(v, noise, seed + 1), unknown="v"),
            data(tap, exact(*tap.unbind(1))[2], unknown="p"),
        ],
        unknowns=FIELDS,
        parameters={"a": 0.5, "b": 0.05},
        exact=exact,
        facts={"true_parameters": {"a": 1.0, "b": nu}},
        cite=RAISSI,
    )  # fmt: skip


def _identified(u: Any, v: Any, p: Any, a: Any, b: Any) -> Any:
    return momentum(b, a, steady=False)(u, v, p)


def cylinder(path: str | Path, n: int = 5000, noise: float = 0.0, seed: int = 0) -> Problem:
    """The wake of a cylinder at Re = 100 from the published file, to find a and b as in `navier_stokes_inverse`.

    path: of `cylinder_nektar_wake.mat`, or of a folder that holds it: U_star (N, 2, T), p_star (N, T), t (T, 1),
    X_star (N, 2). n velocities at random places and times, with normal errors of noise * std. The pressure is fixed by
    one measured value and not scored. Published truth: a = 1, b = 0.01. Raises BadInput for a file of another form.
    """
    count(n=n)
    places, times, velocity, pressure = wake(path)
    shape = (len(places), len(times))
    chosen = torch.randperm(shape[0] * shape[1], generator=torch.Generator().manual_seed(seed))[:n]
    where, when = chosen // shape[1], chosen % shape[1]
    x = torch.cat([places[where], times[when, None]], 1)
    u, v = velocity[where, :, when].unbind(1)
    low, high = places.amin(0), places.amax(0)
    space = Box(low.tolist(), high.tolist(), names=("x", "y"))
    return Problem(
        space * Time(float(times.min()), float(times.max())),
        _identified,
        [
            data(x, measured(u, noise, seed), unknown="u"), data(x, measured(v, noise, seed + 1), unknown="v"),
            data(x[:1], pressure[where[:1], when[:1]], unknown="p"),
        ],
        unknowns=FIELDS,
        parameters={"a": 0.0, "b": 0.0},
        name="cylinder",
        facts={"true_parameters": {"a": 1.0, "b": 0.01}},
        cite=RAISSI,
    )  # fmt: skip


def wake(path: str | Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places (N, 2), times (T,), velocities (N, 2, T), pressures (N, T) of the published file. Raises BadInput."""
    from scipy.io import loadmat

    file = Path(path)
    file = file / "cylinder_nektar_wake.mat" if file.is_dir() else file
    if not file.exists():
        raise BadInput(f"there is no file {file}; give the path of cylinder_nektar_wake.mat or its folder.")
    found = loadmat(file)
    if missing := [key for key in ("X_star", "t", "U_star", "p_star") if key not in found]:
        raise BadInput(f"{file} holds no {missing[0]!r}; wanted are X_star (N, 2), t (T, 1), U_star (N, 2, T), p_star.")
    x, t, u, p = (torch.as_tensor(found[k], dtype=torch.float64) for k in ("X_star", "t", "U_star", "p_star"))
    if u.shape != (len(x), 2, t.numel()) or p.shape != (len(x), t.numel()):
        raise BadInput(f"{file}: U_star is {tuple(u.shape)} and p_star {tuple(p.shape)} for {len(x)} places.")
    return x, t.flatten(), u, p


@pde_problem
def eikonal(radius: float = 0.5) -> Problem:
    """u_x^2 + u_y^2 = 1 on [-1, 1]^2 outside a circle, u = 0 and outward slope one on it: the distance to a body.

    Choose it to test fully nonlinear first-order equations: travel times, distances.
    """
    if not 0 < radius < 1:
        raise BadInput(f"radius={radius!r}: the circle lies inside the square for a radius between 0 and 1.")
    space: Any = Box((-1.0, -1.0), (1.0, 1.0), names=("x", "y")) - Disk((0.0, 0.0), radius)
    return Problem(
        space,
        lambda u: u.x**2 + u.y**2 - 1,
        [dirichlet(0.0, on="disk"), neumann(-1.0, on="disk")],  # the domain's normal points into the disk
        exact=lambda x, y: torch.sqrt(x**2 + y**2) - radius,
    )
