"""Problems of the PDE bench as users of DeepXDE state them, each with its stock settings and with tuned ones.

Stock settings are those of the package's own example script where there is one (`like`), else those of the nearest
script. Tuned ones meet conditions by construction where an output transform does it, make periodic unknowns functions
on the circle, and draw more points; they are run in float64 with a third optimiser. Nothing here imports the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import BadInput

PI = math.pi
Columns = Callable[..., Tensor]  # of coordinates (N, 1) each -> (N, 1)


@dataclass(frozen=True)
class Soft:
    """A condition met by weight: a value on the boundary or at the start, rest at the start, or periodicity in x.

    order: of the derivative that is periodic; the package offers 0 and 1
    """

    kind: Literal["value", "initial", "rest", "periodic"]
    f: Columns | None = None
    component: int = 0
    order: int = 0


@dataclass(frozen=True)
class Setting:
    """How a problem is solved: net, training points, conditions, first optimiser.

    points, boundary, initial   numbers of training points; resampled: at every step of Adam
    weights    of the losses, equations before conditions; "initial": such that each loss starts at 5
    features   of the coordinates (N, d) -> (N, k), with k; transform: of coordinates and outputs
    like       the script of the package that it follows
    """

    width: int = 30
    depth: int = 3
    activation: str = "tanh"
    initializer: str = "Glorot normal"
    points: int = 4000
    boundary: int = 0
    initial: int = 0
    distribution: str = "Hammersley"
    resampled: bool = False
    soft: tuple[Soft, ...] = ()
    weights: tuple[float, ...] | Literal["initial"] | None = None
    features: tuple[Callable[[Tensor], Tensor], int] | None = None
    transform: Callable[[Tensor, Tensor], Tensor] | None = None
    rate: float = 1e-3
    decay: tuple[Any, ...] | None = None
    memory: int = 100
    damping: float = 1e-2
    like: str = ""


@dataclass(frozen=True)
class Statement:
    """A problem: residuals(grad, x (N, d), y (N, m)) by the package's `grad`, where, and two settings.

    box: (lower, upper) of space; corners: of a polygon instead; final: the end of time, or None
    """

    residuals: Callable[[Any, Tensor, Tensor], list[Tensor]]
    stock: Setting
    tuned: Setting
    box: tuple[tuple[float, ...], tuple[float, ...]] = ((-1.0,), (1.0,))
    corners: tuple[tuple[float, float], ...] = ()
    final: float | None = 1.0
    unknowns: int = 1


def _zero(*x: Tensor) -> Tensor:
    return torch.zeros_like(x[0])


def _split(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(1, 1)


WALLS = Soft("value", _zero)
CIRCLE = (Soft("periodic"), Soft("periodic", order=1))
EVOLUTION: dict[str, Any] = dict(points=2540, boundary=80, initial=160)


def _circle(centre: float, length: float) -> tuple[Callable[[Tensor], Tensor], int]:
    """Cosine, sine of x around a circle of that length, and time."""
    scale = 2 * PI / length

    def features(x: Tensor) -> Tensor:
        angle = scale * (x[:, :1] - centre)
        return torch.cat((torch.cos(angle), torch.sin(angle), x[:, 1:]), 1)

    return features, 3


def _from(start: Columns, walls: Columns | None = None, order: int = 1) -> Callable[[Tensor, Tensor], Tensor]:
    """start(x) + t^order walls(x) y: the start, and the walls' values where walls vanishes, are met exactly."""

    def transform(x: Tensor, y: Tensor) -> Tensor:
        space, t = _split(x)
        return start(space) + t**order * (1.0 if walls is None else walls(space)) * y

    return transform


# ---- elliptic --------------------------------------------------------------------------------------------------------


def poisson(dim: int = 2) -> Statement:
    """-Laplace u = f on [0, 1]^dim."""
    product = dim <= 3
    rate = (dim if product else 1) * PI**2

    def value(*x: Tensor) -> Tensor:
        waves = torch.cat([torch.sin(PI * c) for c in x], 1)
        return waves.prod(1, keepdim=True) if product else waves.sum(1, keepdim=True)

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        total = sum(grad.hessian(y, x, i=i, j=i) for i in range(dim))
        return [total + rate * value(*_split(x))]

    def transform(x: Tensor, y: Tensor) -> Tensor:
        return (4 * x * (1 - x)).prod(1, keepdim=True) * y

    walls = (WALLS,) if product else (Soft("value", value),)
    stock = Setting(
        50, 4, initializer="Glorot uniform", points=1200, boundary=120 if product else 1200, soft=walls,
        like="Poisson_Lshape.py",
    )  # fmt: skip
    if product:
        tuned = Setting(transform=transform)
    else:
        tuned = Setting(40, 3, boundary=2000, soft=walls, weights=(1.0, 100.0))
    return Statement(residuals, stock, tuned, box=((0.0,) * dim, (1.0,) * dim), final=None)


def poisson_lshape() -> Statement:
    """-Laplace u = 1 on [-1, 1]^2 without [0, 1]^2, u = 0 on the boundary."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        return [grad.hessian(y, x, i=0, j=0) + grad.hessian(y, x, i=1, j=1) + 1]

    def transform(x: Tensor, y: Tensor) -> Tensor:
        a, b = _split(x)
        corner = torch.sqrt(a**2 + b**2 + 1e-30) - a - b  # zero on both sides of the re-entrant corner only
        return corner * (1 - a**2) * (1 - b**2) * y

    stock = Setting(
        50, 4, initializer="Glorot uniform", points=1200, boundary=120, soft=(WALLS,), like="Poisson_Lshape.py"
    )
    corners = ((0.0, 0.0), (1.0, 0.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (0.0, 1.0))
    return Statement(residuals, stock, Setting(transform=transform), corners=corners, final=None)


def helmholtz(kind: str = "1_4") -> Statement:
    """u_xx + u_yy + k^2 u = q on a square, u = 0 on its boundary."""
    if kind not in ("1_4", "4pi"):
        raise BadInput(f"helmholtz has the kinds 1_4 and 4pi; got {kind!r}.")
    (a, b), low, k = ((PI, 4 * PI), -1.0, 1.0) if kind == "1_4" else ((4 * PI, 4 * PI), 0.0, 4 * PI)

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        source = (k**2 - a**2 - b**2) * torch.sin(a * x[:, :1]) * torch.sin(b * x[:, 1:])
        return [grad.hessian(y, x, i=0, j=0) + grad.hessian(y, x, i=1, j=1) + k**2 * y - source]

    def transform(x: Tensor, y: Tensor) -> Tensor:
        return ((x - low) * (1 - x)).prod(1, keepdim=True) * y

    across = round(10 * (1 - low) * b / (2 * PI))  # points: ten to a wave, as the script draws them
    stock = Setting(
        150, 3, "sin", "Glorot uniform", points=across**2, boundary=4 * across, transform=transform,
        like="Helmholtz_Dirichlet_2d.py",
    )  # fmt: skip
    tuned = Setting(40, 3, "sin", "Glorot uniform", transform=transform)
    return Statement(residuals, stock, tuned, box=((low, low), (1.0, 1.0)), final=None)


# ---- evolution -------------------------------------------------------------------------------------------------------


def heat() -> Statement:
    """u_t = u_xx / 4 on [0, 1] x [0, 1], u0 = sin(pi x), u = 0 at both ends."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        return [grad.jacobian(y, x, i=0, j=1) - 0.25 * grad.hessian(y, x, i=0, j=0)]

    def start(x: Tensor, *_: Tensor) -> Tensor:
        return torch.sin(PI * x)

    stock = Setting(20, 3, **EVOLUTION, soft=(WALLS, Soft("initial", start)), like="heat.py")
    tuned = Setting(transform=_from(start, lambda x: 4 * x * (1 - x)))
    return Statement(residuals, stock, tuned, box=((0.0,), (1.0,)))


def wave() -> Statement:
    """u_tt = 4 u_xx on [0, 1] x [0, 1], u0 = sin(pi x) + sin(4 pi x) / 2, at rest, u = 0 at both ends."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        return [grad.hessian(y, x, i=1, j=1) - 4 * grad.hessian(y, x, i=0, j=0)]

    def start(x: Tensor, *_: Tensor) -> Tensor:
        return torch.sin(PI * x) + torch.sin(4 * PI * x) / 2

    stock = Setting(
        100, 3, initializer="Glorot uniform", points=360, boundary=360, initial=360, distribution="pseudo",
        resampled=True, soft=(WALLS, Soft("initial", start), Soft("rest")), weights="initial",
        features=(lambda x: (x - 0.5) * 2 * math.sqrt(3), 2), decay=("inverse time", 2000, 0.9), like="wave_1d.py",
    )  # fmt: skip
    tuned = Setting(40, 4, points=2000, transform=_from(start, lambda x: 4 * x * (1 - x), order=2))
    return Statement(residuals, stock, tuned, box=((0.0,), (1.0,)))


def convection() -> Statement:
    """u_t + 30 u_x = 0, u0 = sin x, periodic on [0, 2 pi], t in [0, 1]."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        return [grad.jacobian(y, x, i=0, j=1) + 30 * grad.jacobian(y, x, i=0, j=0)]

    def start(x: Tensor, *_: Tensor) -> Tensor:
        return torch.sin(x)

    stock = Setting(50, 4, **EVOLUTION, soft=(Soft("periodic"), Soft("initial", start)), like="Burgers.py")
    tuned = Setting(40, 4, points=2000, features=_circle(0.0, 2 * PI), transform=_from(start))
    return Statement(residuals, stock, tuned, box=((0.0,), (2 * PI,)))


def burgers() -> Statement:
    """u_t + u u_x = 0.01 / pi u_xx on [-1, 1] x [0, 1], u0 = -sin(pi x), u(+-1) = 0."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        u_x, u_t = grad.jacobian(y, x, i=0, j=0), grad.jacobian(y, x, i=0, j=1)
        return [u_t + y * u_x - 0.01 / PI * grad.hessian(y, x, i=0, j=0)]

    def start(x: Tensor, *_: Tensor) -> Tensor:
        return -torch.sin(PI * x)

    stock = Setting(20, 3, **EVOLUTION, soft=(WALLS, Soft("initial", start)), like="Burgers.py")
    return Statement(residuals, stock, Setting(points=2000, transform=_from(start, lambda x: 1 - x**2)))


def _bump(x: Tensor, *_: Tensor) -> Tensor:
    return x**2 * torch.cos(PI * x)


def _allen_cahn(d: float) -> Callable[[Any, Tensor, Tensor], list[Tensor]]:
    return lambda grad, x, y: [grad.jacobian(y, x, i=0, j=1) - d * grad.hessian(y, x, i=0, j=0) - 5 * (y - y**3)]


def allen_cahn() -> Statement:
    """u_t = 1e-3 u_xx + 5 (u - u^3) on [-1, 1] x [0, 1], u0 = x^2 cos(pi x), u(+-1) = -1."""
    hard = _from(_bump, lambda x: 1 - x**2)
    stock = Setting(20, 3, points=8000, boundary=400, initial=800, transform=hard, like="Allen_Cahn.py")
    return Statement(_allen_cahn(1e-3), stock, Setting(rate=3e-4, transform=hard))


def allen_cahn_periodic() -> Statement:
    """u_t = 1e-4 u_xx - 5 u^3 + 5 u on [-1, 1] x [0, 1], u0 = x^2 cos(pi x), periodic.

    The slope of u0 jumps at the seam: u0 + t N would keep that jump for ever, so the start is met by weight.
    """
    stock = Setting(
        20, 3, points=8000, boundary=400, initial=800, soft=(*CIRCLE, Soft("initial", _bump)), like="Allen_Cahn.py"
    )
    tuned = Setting(
        40, 4, points=6000, initial=800, soft=(Soft("initial", _bump),), weights=(1.0, 100.0),
        features=_circle(0.0, 2.0),
    )  # fmt: skip
    return Statement(_allen_cahn(1e-4), stock, tuned)


def _sine(x: Tensor, *_: Tensor) -> Tensor:
    return -torch.sin(PI * x)


def ks() -> Statement:
    """u_t + 5 u u_x + 0.5 u_xx + 0.005 u_xxxx = 0 on [-1, 1] x [0, 1], u0 = -sin(pi x), periodic."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        u_x, u_t = grad.jacobian(y, x, i=0, j=0), grad.jacobian(y, x, i=0, j=1)
        u_xx = grad.hessian(y, x, i=0, j=0)
        return [u_t + 5 * y * u_x + 0.5 * u_xx + 0.005 * grad.hessian(u_xx, x, i=0, j=0)]

    return Statement(residuals, *_on_the_circle(_sine))


def kdv() -> Statement:
    """u_t + u u_x + 0.0025 u_xxx = 0 on [-1, 1] x [0, 1], u0 = cos(pi x), periodic."""

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        u_x, u_t = grad.jacobian(y, x, i=0, j=0), grad.jacobian(y, x, i=0, j=1)
        return [u_t + y * u_x + 0.0025 * grad.jacobian(grad.hessian(y, x, i=0, j=0), x, i=0, j=0)]

    return Statement(residuals, *_on_the_circle(lambda x, *_: torch.cos(PI * x)))


def _on_the_circle(start: Columns) -> tuple[Setting, Setting]:
    """Settings where more than the slope is periodic, which the package's PeriodicBC does not offer: by features."""
    circle = _circle(0.0, 2.0)
    stock = Setting(50, 4, **EVOLUTION, soft=(Soft("initial", start),), features=circle, like="Burgers.py")
    return stock, Setting(40, 4, features=circle, transform=_from(start))


def schrodinger() -> Statement:
    """i h_t + h_xx / 2 + |h|^2 h = 0 on [-5, 5] x [0, pi/2], h0 = 2 sech x, periodic; h = u + i v.

    As in `allen_cahn_periodic` the slope of the start jumps at the seam, here by 0.05.
    """

    def residuals(grad: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        u, v = _split(y)
        u_t, v_t = (grad.jacobian(y, x, i=i, j=1) for i in (0, 1))
        u_xx, v_xx = (grad.hessian(y, x, component=i, i=0, j=0) for i in (0, 1))
        density = u**2 + v**2
        return [u_t + v_xx / 2 + density * v, v_t - u_xx / 2 - density * u]

    def start(x: Tensor, *_: Tensor) -> Tensor:
        return 2 / torch.cosh(x)

    circle = tuple(Soft("periodic", component=c, order=k) for c in (0, 1) for k in (0, 1))
    starts = (Soft("initial", start), Soft("initial", _zero, 1))
    stock = Setting(
        100, 4, points=10_000, boundary=20, initial=200, distribution="pseudo", soft=(*circle, *starts), memory=50,
        like="Schrodinger.ipynb",
    )  # fmt: skip
    tuned = Setting(40, 4, initial=400, soft=starts, weights=(1.0, 1.0, 100.0, 100.0), features=_circle(0.0, 10.0))
    return Statement(residuals, stock, tuned, box=((-5.0,), (5.0,)), final=PI / 2, unknowns=2)


STATEMENTS: dict[str, Callable[..., Statement]] = {
    f.__name__: f
    for f in (
        poisson, poisson_lshape, helmholtz, heat, wave, convection, burgers, allen_cahn, allen_cahn_periodic, ks, kdv,
        schrodinger,
    )
}  # fmt: skip
