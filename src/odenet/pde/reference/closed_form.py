"""Solutions known in closed form; written with torch operations, so that they can be differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import BadInput
from .cache import Recipe, reference

Sides = tuple[tuple[float, ...], tuple[float, ...]]
PI = math.pi


def closed(formula: Callable[[Tensor], Tensor], text: str, bounds: Sides, columns: tuple[str, ...] = ("u",)) -> Recipe:
    """Recipe of a formula (N, d) -> (N,) or (N, m)."""

    def evaluate(tables: dict[str, Tensor], x: Tensor) -> Tensor:
        value = formula(x)
        return value[:, None] if value.ndim == 1 else value

    return Recipe(evaluate, f"Closed form: {text}", bounds, columns)


def _unit(d: int) -> Sides:
    return (0.0,) * d, (1.0,) * d


@reference()
def poisson(dim: int = 2, kind: str = "product") -> Recipe:
    """Poisson -Laplace u = f on the unit cube [0, 1]^dim.

    "product": u = prod sin(pi x_i), f = dim pi^2 u; "sum": u = sum sin(pi x_i), f = pi^2 u;
    "harmonic": u = x_1 x_2 + x_3 x_4 + ..., f = 0, dim even (E & Yu 2018, The Deep Ritz method, section 3.2).
    """
    if kind == "product":
        return closed(lambda x: torch.sin(PI * x).prod(1), "u = prod sin(pi x_i)", _unit(dim))
    if kind == "sum":
        return closed(lambda x: torch.sin(PI * x).sum(1), "u = sum sin(pi x_i)", _unit(dim))
    if kind == "harmonic" and dim % 2 == 0:
        return closed(lambda x: (x[:, ::2] * x[:, 1::2]).sum(1), "u = x_1 x_2 + x_3 x_4 + ...", _unit(dim))
    raise BadInput(f"poisson has kinds product, sum and (for even dim) harmonic; got {kind!r} with dim={dim}.")


@reference()
def heat(diffusivity: float = 0.25, mode: int = 1, final: float = 1.0) -> Recipe:
    """Heat u_t = diffusivity u_xx on [0, 1], u = 0 at both ends, u(x, 0) = sin(mode pi x)."""
    k = mode * PI
    return closed(
        lambda x: torch.exp(-diffusivity * k**2 * x[:, 1]) * torch.sin(k * x[:, 0]),
        "u = exp(-diffusivity (mode pi)^2 t) sin(mode pi x)",
        ((0.0, 0.0), (1.0, final)),
    )


@reference()
def heat_multiscale(final: float = 5.0) -> Recipe:
    """Heat u_t = u_xx / (500 pi)^2 + u_yy / pi^2 on [0, 1]^2, u = 0 on the boundary.

    u(x, y, 0) = sin(20 pi x) sin(pi y). The statement of PINNacle's Heat2d-MS. Hao et al. (2023), PINNacle.
    """
    rate = (20 / 500) ** 2 + 1
    return closed(
        lambda x: torch.sin(20 * PI * x[:, 0]) * torch.sin(PI * x[:, 1]) * torch.exp(-rate * x[:, 2]),
        "u = sin(20 pi x) sin(pi y) exp(-1.0016 t)",
        ((0.0, 0.0, 0.0), (1.0, 1.0, final)),
    )


@reference()
def wave(speed: float = 2.0, modes: tuple[tuple[int, float], ...] = ((1, 1.0), (4, 0.5))) -> Recipe:
    """Wave u_tt = speed^2 u_xx on [0, 1]^2, u = 0 at both ends, at rest at t = 0, u(x, 0) = sum a_k sin(k pi x)."""

    def formula(x: Tensor) -> Tensor:
        terms = [a * torch.sin(k * PI * x[:, 0]) * torch.cos(k * PI * speed * x[:, 1]) for k, a in modes]
        return torch.stack(terms).sum(0)

    return closed(formula, "u = sum a_k sin(k pi x) cos(k pi speed t)", ((0.0, 0.0), (1.0, 1.0)))


@reference()
def convection(beta: float = 30.0) -> Recipe:
    """Convection u_t + beta u_x = 0 on [0, 2 pi], u(x, 0) = sin x, periodic, t in [0, 1]."""
    return closed(lambda x: torch.sin(x[:, 0] - beta * x[:, 1]), "u = sin(x - beta t)", ((0.0, 0.0), (2 * PI, 1.0)))


@reference()
def reaction(rho: float = 5.0) -> Recipe:
    """Reaction u_t = rho u (1 - u) on [0, 2 pi], u(x, 0) = exp(-8 (x - pi)^2 / pi^2), t in [0, 1].

    Krishnapriyan et al. (2021), Characterizing possible failure modes in physics-informed neural networks.
    """

    def formula(x: Tensor) -> Tensor:
        start = torch.exp(-8 * (x[:, 0] - PI) ** 2 / PI**2)
        return start / (start + (1 - start) * torch.exp(-rho * x[:, 1]))

    return closed(formula, "the logistic function of t at each x", ((0.0, 0.0), (2 * PI, 1.0)))


@reference()
def advection_diffusion(speed: float = 1.0, diffusivity: float = 0.01, mode: int = 1) -> Recipe:
    """u_t + speed u_x = diffusivity u_xx on [0, 2 pi], u(x, 0) = sin(mode x), periodic, t in [0, 1]."""
    return closed(
        lambda x: torch.exp(-diffusivity * mode**2 * x[:, 1]) * torch.sin(mode * (x[:, 0] - speed * x[:, 1])),
        "u = exp(-diffusivity mode^2 t) sin(mode (x - speed t))",
        ((0.0, 0.0), (2 * PI, 1.0)),
    )


@reference()
def boundary_layer(diffusivity: float = 0.01) -> Recipe:
    """Advection and diffusion, steady: u_x = diffusivity u_xx + 1 on [0, 1], u = 0 at both ends: a layer at x = 1."""

    def formula(x: Tensor) -> Tensor:
        layer = torch.exp((x[:, 0] - 1) / diffusivity) - math.exp(-1 / diffusivity)
        return x[:, 0] - layer / -math.expm1(-1 / diffusivity)

    return closed(formula, "u = x - expm1(x / eps) / expm1(1 / eps)", _unit(1))


@reference()
def helmholtz(kind: str = "1_4", k: float = 1.0) -> Recipe:
    """Helmholtz with a known solution.

    "1_4":  Laplace u + k^2 u = q on [-1, 1]^2, u = sin(pi x) sin(4 pi y), u = 0 on the boundary
            (Wang, Teng & Perdikaris 2021, SIAM J. Sci. Comput. 43, A3055)
    "4pi":  -Laplace u - (4 pi)^2 u = (4 pi)^2 sin(4 pi x) sin(4 pi y) on [0, 1]^2; k is not used
    """
    if kind == "1_4":
        return closed(
            lambda x: torch.sin(PI * x[:, 0]) * torch.sin(4 * PI * x[:, 1]),
            "u = sin(pi x) sin(4 pi y)",
            ((-1.0, -1.0), (1.0, 1.0)),
        )
    if kind == "4pi":
        return closed(lambda x: torch.sin(4 * PI * x).prod(1), "u = sin(4 pi x) sin(4 pi y)", _unit(2))
    raise BadInput(f"helmholtz has the kinds 1_4 and 4pi; got {kind!r}.")


@reference()
def klein_gordon() -> Recipe:
    """Klein-Gordon u_tt - u_xx + u^3 = f on [0, 1]^2, u = x cos(5 pi t) + (x t)^3.

    f = (6 x^3 t - 25 pi^2 x cos(5 pi t)) - 6 x t^3 + u^3. Wang, Teng & Perdikaris (2021), SIAM J. Sci. Comput. 43.
    """
    return closed(
        lambda x: x[:, 0] * torch.cos(5 * PI * x[:, 1]) + (x[:, 0] * x[:, 1]) ** 3,
        "u = x cos(5 pi t) + (x t)^3",
        _unit(2),
    )


@reference()
def sine_gordon(frequency: float = 0.5, half_width: float = 10.0, final: float = 10.0) -> Recipe:
    """Sine-Gordon u_tt - u_xx + sin u = 0 on [-half_width, half_width]: the breather, 0 < frequency < 1.

    u = 4 arctan(s sin(w t) / (w cosh(s x))), s = sqrt(1 - w^2): u(x, 0) = 0, u_t(x, 0) = 4 s sech(s x).
    """
    w, s = frequency, math.sqrt(1 - frequency**2)
    return closed(
        lambda x: 4 * torch.atan(s / w * torch.sin(w * x[:, 1]) / torch.cosh(s * x[:, 0])),
        "the breather",
        ((-half_width, 0.0), (half_width, final)),
    )


@reference()
def burgers_2d(reynolds: float = 100.0, final: float = 1.0) -> Recipe:
    """Burgers in the plane: u_t + u u_x + v u_y = Laplace u / Re, the same for v, on [0, 1]^2.

    u = 3/4 - 1 / (4 (1 + e)), v = 3/4 + 1 / (4 (1 + e)), e = exp(Re (-t - 4 x + 4 y) / 32).
    Fletcher (1983), Int. J. Numer. Meth. Fluids 3, 213.
    """

    def formula(x: Tensor) -> Tensor:
        part = torch.sigmoid(-reynolds / 32 * (-x[:, 2] - 4 * x[:, 0] + 4 * x[:, 1])) / 4
        return torch.stack([0.75 - part, 0.75 + part], 1)

    return closed(formula, "Fletcher's wave front", ((0.0,) * 3, (1.0, 1.0, final)), ("u", "v"))


@reference()
def kovasznay(reynolds: float = 40.0) -> Recipe:
    """Kovasznay's steady flow behind a grid on [-1/2, 1] x [-1/2, 3/2], columns u, v, p.

    u = 1 - e^(l x) cos(2 pi y), v = l / (2 pi) e^(l x) sin(2 pi y), p = (1 - e^(2 l x)) / 2,
    l = Re / 2 - sqrt(Re^2 / 4 + 4 pi^2). Kovasznay (1948), Math. Proc. Camb. Phil. Soc. 44, 58.
    """
    rate = reynolds / 2 - math.sqrt(reynolds**2 / 4 + 4 * PI**2)

    def formula(x: Tensor) -> Tensor:
        e, y = torch.exp(rate * x[:, 0]), 2 * PI * x[:, 1]
        return torch.stack([1 - e * torch.cos(y), rate / (2 * PI) * e * torch.sin(y), (1 - e**2) / 2], 1)

    return closed(formula, "Kovasznay's flow", ((-0.5, -0.5), (1.0, 1.5)), ("u", "v", "p"))


@reference()
def taylor_green(nu: float = 0.01, final: float = 1.0) -> Recipe:
    """Taylor and Green's decaying vortices on [0, 2 pi]^2, periodic, columns u, v, p.

    u = -cos x sin y e^(-2 nu t), v = sin x cos y e^(-2 nu t), p = -(cos 2x + cos 2y) e^(-4 nu t) / 4.
    """

    def formula(x: Tensor) -> Tensor:
        decay = torch.exp(-2 * nu * x[:, 2])
        (cx, cy), (sx, sy) = torch.cos(x[:, :2]).T, torch.sin(x[:, :2]).T
        p = -(torch.cos(2 * x[:, 0]) + torch.cos(2 * x[:, 1])) * decay**2 / 4
        return torch.stack([-cx * sy * decay, sx * cy * decay, p], 1)

    return closed(formula, "Taylor and Green's vortices", ((0.0,) * 3, (2 * PI, 2 * PI, final)), ("u", "v", "p"))


@reference()
def eikonal(radius: float = 0.5) -> Recipe:
    """Eikonal |grad u| = 1 on [-1, 1]^2, u = 0 on the circle of that radius: the signed distance."""
    return closed(lambda x: x.norm(dim=1) - radius, "u = |x| - radius", ((-1.0, -1.0), (1.0, 1.0)))


@reference()
def volterra(final: float = 5.0) -> Recipe:
    """Volterra's integro-differential equation y' + y = int_0^t exp(s - t) y(s) ds, y(0) = 1: y = exp(-t) cosh t."""
    return closed(lambda x: (1 + torch.exp(-2 * x[:, 0])) / 2, "y = exp(-t) cosh t", ((0.0,), (final,)))
