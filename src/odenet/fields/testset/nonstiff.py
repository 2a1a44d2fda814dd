"""Problems for explicit methods: the classes A to E of Hull and others, orbits with close encounters, and Lorenz."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...types import Function, State, Time
from .problem import InitialValueProblem, linear, parts
from .references import REFERENCES

DETEST = "Hull, Enright, Fellen & Sedgwick 1972, SIAM J. Numer. Anal. 9"
HAIRER = "Hairer, Norsett & Wanner 1993, Solving Ordinary Differential Equations I"


def _a2(t: Time, y: State) -> State:
    return -0.5 * y**3


def _a3(t: Time, y: State) -> State:
    return y * (torch.cos(t) if isinstance(t, Tensor) else math.cos(t))


def _a5(t: Time, y: State) -> State:
    return (y - t) / (y + t)


def _b1(t: Time, y: State) -> State:
    a, b = parts(y)
    return torch.cat((2 * (a - a * b), a * b - b), -1)


def _b3(t: Time, y: State) -> State:
    a, b, _ = parts(y)
    return torch.cat((-a, a - b * b, b * b), -1)


def _b4(t: Time, y: State) -> State:
    a, b, c = parts(y)
    r = torch.sqrt(a * a + b * b)
    return torch.cat((-b - a * c / r, a - b * c / r, a / r), -1)


def _b5(t: Time, y: State) -> State:
    a, b, c = parts(y)
    return torch.cat((b * c, -a * c, -0.51 * a * b), -1)


def _chain(decay: list[float], into_next: list[float], back: list[float]) -> Function:
    """y' = A y with A tridiagonal: diagonal -decay, below it into_next, above it back."""
    a = torch.diag(-torch.tensor(decay, dtype=torch.float64))
    below = torch.tensor(into_next, dtype=torch.float64)
    return linear(a + torch.diag(below, -1) + torch.diag(torch.tensor(back, dtype=torch.float64), 1))


_c1 = _chain([1.0] * 9 + [0.0], [1.0] * 9, [0.0] * 9)
_c2 = _chain([float(i) for i in range(1, 10)] + [0.0], [float(i) for i in range(1, 10)], [0.0] * 9)
_c3 = _chain([2.0] * 10, [1.0] * 9, [1.0] * 9)
_c4 = _chain([2.0] * 51, [1.0] * 50, [1.0] * 50)

# Jupiter, Saturn, Uranus, Neptune, Pluto: masses, and the sun's with the inner planets'
_MASSES = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)
_SUN, _GRAVITY = 1.00000597682, 2.95912208286
_PLANETS = (
    3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728, 11.2630437207,
    14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721, -21.1238353380, 28.4465098142,
    15.3882659679,
    -0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293,
    -0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175,
    -0.176860753121, -0.216393453025, -0.0148647893090,
)  # fmt: skip


def _c5(t: Time, y: State) -> State:
    q, v = y.chunk(2, -1)
    q = q.unflatten(-1, (5, 3))
    m = torch.tensor(_MASSES, dtype=y.dtype, device=y.device)
    to_sun = q / (q * q).sum(-1, keepdim=True) ** 1.5
    apart = q.unsqueeze(-3) - q.unsqueeze(-2)  # [j, k] = q_k - q_j
    distance = (apart * apart).sum(-1, keepdim=True) + torch.eye(5, dtype=y.dtype, device=y.device).unsqueeze(-1)
    pulls = m[:, None] * (apart / distance**1.5 - to_sun.unsqueeze(-3))
    others = pulls.sum(-2) + m[:, None] * to_sun  # the sum leaves out k = j
    a = _GRAVITY * (others - (_SUN + m[:, None]) * to_sun)
    return torch.cat((v, a.flatten(-2)), -1)


def _kepler(t: Time, y: State) -> State:
    q, v = y.chunk(2, -1)
    return torch.cat((v, -q / (q * q).sum(-1, keepdim=True) ** 1.5), -1)


def _e1(t: Time, y: State) -> State:
    q, v = parts(y)
    return torch.cat((v, -(v / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * q)), -1)


def _e2(t: Time, y: State) -> State:
    q, v = parts(y)
    return torch.cat((v, (1 - q * q) * v - q), -1)


def _e3(t: Time, y: State) -> State:
    q, v = parts(y)
    force = 2 * (torch.sin(2.78535 * t) if isinstance(t, Tensor) else math.sin(2.78535 * t))
    return torch.cat((v, q**3 / 6 - q + force), -1)


def _e4(t: Time, y: State) -> State:
    _, v = parts(y)
    return torch.cat((v, 0.032 - 0.4 * v * v), -1)


def _e5(t: Time, y: State) -> State:
    _, v = parts(y)
    return torch.cat((v, torch.sqrt(1 + v * v) / (25 - t)), -1)


def _arenstorf(t: Time, y: State) -> State:
    mu = 0.012277471
    a, b, va, vb = parts(y)
    to_earth = (1 - mu) / ((a + mu) ** 2 + b * b) ** 1.5
    to_moon = mu / ((a - (1 - mu)) ** 2 + b * b) ** 1.5
    pull_a = a + 2 * vb - to_earth * (a + mu) - to_moon * (a - (1 - mu))
    return torch.cat((va, vb, pull_a, b - 2 * va - (to_earth + to_moon) * b), -1)


def _pleiades(t: Time, y: State) -> State:
    q, v = y.chunk(2, -1)
    q = q.unflatten(-1, (2, 7)).movedim(-2, -1)  # star i at (..., i, :)
    apart = q.unsqueeze(-3) - q.unsqueeze(-2)
    distance = (apart * apart).sum(-1, keepdim=True) + torch.eye(7, dtype=y.dtype, device=y.device).unsqueeze(-1)
    masses = torch.arange(1, 8, dtype=y.dtype, device=y.device)[:, None]
    return torch.cat((v, (masses * apart / distance**1.5).sum(-2).movedim(-1, -2).flatten(-2)), -1)


def _lorenz(t: Time, y: State) -> State:
    a, b, c = parts(y)
    return torch.cat((10 * (b - a), 28 * a - b - a * c, a * b - (8 / 3) * c), -1)


def _unit(d: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (d - 1))


def _on_ellipse(e: float) -> tuple[float, ...]:
    return (1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e)))


def _minus(t: Time, y: State) -> State:
    return -y


_RADIOACTIVE = "ten compartments in a chain, "
_DETEST: dict[str, tuple[Callable[..., State], tuple[float, ...], str]] = {
    "a1": (_minus, (1.0,), "y' = -y; exact: exp(-t)"),
    "a2": (_a2, (1.0,), "y' = -y^3/2; exact: 1/sqrt(1 + t)"),
    "a3": (_a3, (1.0,), "y' = y cos t; exact: exp(sin t)"),
    "a4": (lambda t, y: 0.25 * y * (1 - y / 20), (1.0,), "a logistic curve; exact: 20/(1 + 19 exp(-t/4))"),
    "a5": (_a5, (4.0,), "a spiral in the plane, r = 4 exp(pi/2 - phi), t = r cos phi, y = r sin phi"),
    "b1": (_b1, (1.0, 3.0), "two conflicting populations (Lotka and Volterra)"),
    "b2": (_chain([1.0, 2.0, 1.0], [1.0, 1.0], [1.0, 1.0]), (2.0, 0.0, 1.0), "a linear chemical reaction"),
    "b3": (_b3, (1.0, 0.0, 0.0), "a nonlinear chemical reaction"),
    "b4": (_b4, (3.0, 0.0, 0.0), "a curve on a torus"),
    "b5": (_b5, (0.0, 1.0, 1.0), "a rigid body without forces; exact: sn, cn, dn of modulus k^2 = 0.51"),
    "c1": (_c1, _unit(10), _RADIOACTIVE + "equal rates"),
    "c2": (_c2, _unit(10), _RADIOACTIVE + "rates 1 to 9"),
    "c3": (_c3, _unit(10), "diffusion on ten points"),
    "c4": (_c4, _unit(51), "diffusion on 51 points"),
    "c5": (_c5, _PLANETS, "the sun and five outer planets"),
    **{f"d{i + 1}": (_kepler, _on_ellipse(0.1 + 0.2 * i), f"a Kepler ellipse of eccentricity 0.{2 * i + 1}")
       for i in range(5)},
    "e1": (_e1, (0.6713967071418030, 0.09540051444747446), "Bessel's equation; exact: J_{1/2}(t + 1)"),
    "e2": (_e2, (2.0, 0.0), "Van der Pol's equation with mu = 1"),
    "e3": (_e3, (0.0, 0.0), "Duffing's equation, forced"),
    "e4": (_e4, (30.0, 0.0), "a falling body; exact in logarithms of cosh"),
    "e5": (_e5, (0.0, 0.0), "a linear pursuit; exact in powers of 1 - t/25"),
}  # fmt: skip

_STARS = (
    3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0, 3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0,
    0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5, 0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0,
)  # fmt: skip


def _known(name: str, f: Function, y0: tuple[float, ...], t1: float, cite: str, doc: str) -> InitialValueProblem:
    digits, reference = REFERENCES.get(name, (0.0, None))
    return InitialValueProblem(name=name, f=f, y0=y0, t1=t1, reference=reference, digits=digits, cite=cite, doc=doc)


NONSTIFF: dict[str, InitialValueProblem] = {
    **{name: _known(name, f, y0, 20.0, f"{DETEST}, problem {name.upper()}", doc)
       for name, (f, y0, doc) in _DETEST.items()},
    "arenstorf": _known(
        "arenstorf", _arenstorf, (0.994, 0.0, 0.0, -2.00158510637908252240537862224), 17.0652165601579625588917206249,
        f"{HAIRER}, (0.1)", "a closed orbit between earth and moon, as seen from the turning pair; very sensitive"),
    "pleiades": _known(
        "pleiades", _pleiades, _STARS, 3.0, f"{HAIRER}, (10.2)", "seven stars in a plane with close encounters"),
    "lorenz": _known(
        "lorenz", _lorenz, (-8.0, 8.0, 27.0), 10.0, "Lorenz 1963, J. Atmos. Sci. 20, (25)-(27)",
        "convection with sigma = 10, r = 28, b = 8/3: chaotic, errors grow about ten thousandfold over the interval"),
}  # fmt: skip
