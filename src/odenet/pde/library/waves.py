"""Waves: the wave equation, Klein-Gordon, sine-Gordon."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...errors import BadInput
from ..conditions import dirichlet, initial
from ..domain import Interval, Time
from ..statement import Problem
from .base import pde_problem, positive, sides
from .elliptic import WANG

PI = math.pi


@pde_problem
def wave(speed: float = 2.0) -> Problem:
    """u_tt = speed^2 u_xx on [0, 1] x [0, 1], u0 = sin(pi x) + sin(4 pi x) / 2, at rest, u = 0 at both ends.

    Choose it to test second derivatives in time and two frequencies at once.
    """
    positive(speed=speed)

    def start(x: Any) -> Any:
        return torch.sin(PI * x) + torch.sin(4 * PI * x) / 2

    def exact(x: Any, t: Any) -> Any:
        first = torch.sin(PI * x) * torch.cos(PI * speed * t)
        return first + torch.sin(4 * PI * x) * torch.cos(4 * PI * speed * t) / 2

    return Problem(
        Interval(0, 1) * Time(0, 1),
        lambda u: u.tt - speed**2 * u.xx,
        [initial(start), initial(0.0, order=1), dirichlet(0.0)],
        exact=exact,
        cite="Wang, Yu & Perdikaris (2022), When and why PINNs fail to train, J. Comput. Phys. 449, 110768",
    )


@pde_problem
def klein_gordon() -> Problem:
    """u_tt - u_xx + u^3 = f on [0, 1] x [0, 1], u = x cos(5 pi t) + (x t)^3 at the start and at both ends.

    Choose it to test a nonlinear wave with boundary values that change in time.
    """

    def exact(x: Any, t: Any) -> Any:
        return x * torch.cos(5 * PI * t) + (x * t) ** 3

    def source(x: Any, t: Any) -> Any:
        curvature = 6 * x**3 * t - 25 * PI**2 * x * torch.cos(5 * PI * t)
        return curvature - 6 * x * t**3 + exact(x, t) ** 3

    return Problem(
        Interval(0, 1) * Time(0, 1),
        lambda u, x, t: u.tt - u.xx + u**3 - source(x, t),
        [initial(lambda x: x), initial(0.0, order=1), *sides(Interval(0, 1), exact)],
        exact=exact,
        cite=WANG,
    )


@pde_problem
def sine_gordon(frequency: float = 0.5, half_width: float = 10.0, final: float = 10.0) -> Problem:
    """u_tt - u_xx + sin u = 0 on [-half_width, half_width] x [0, final], the breather at the start and at both ends.

    u = 4 arctan(s sin(w t) / (w cosh(s x))), w = frequency, s = sqrt(1 - w^2). Choose it to test a long evolution of a
    solution that stays in place. Raises BadInput for a frequency outside (0, 1).
    """
    positive(half_width=half_width, final=final)
    if not 0 < frequency < 1:
        raise BadInput(f"frequency={frequency!r}: a breather has a frequency between 0 and 1.")
    w, s = frequency, math.sqrt(1 - frequency**2)

    def exact(x: Any, t: Any) -> Any:
        return 4 * torch.atan(s / w * torch.sin(w * t) / torch.cosh(s * x))

    space = Interval(-half_width, half_width)
    return Problem(
        space * Time(0, final),
        lambda u: u.tt - u.xx + torch.sin(u),
        [initial(0.0), initial(lambda x: 4 * s / torch.cosh(s * x), order=1), *sides(space, exact)],
        exact=exact,
    )
