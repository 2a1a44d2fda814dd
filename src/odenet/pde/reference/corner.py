"""The flow at a corner between a moving and a resting wall: r f(theta), and Re r^2 g(theta) of inertia."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from .spectral import Array, chebyshev_lobatto

C = 1 / (math.pi**2 / 4 - 1)  # r f = B Y + C theta X + D theta Y, zero and at rest on theta = pi / 2
D = C * math.pi / 2
B = -C * math.pi**2 / 4


@dataclass(frozen=True)
class Corner:
    """One upper corner of the unit square. Its frame: X along the lid, Y = 1 - y into the fluid, theta = atan2(Y, X).

    psi = r f(theta) + inertia r^2 g(theta), psi_Y = -1 on the lid. G. I. Taylor (1962), On scraping viscous fluid.
    """

    flip: float  # 1 at x = 0, -1 at x = 1
    inertia: float

    @staticmethod
    def at_left(reynolds: float) -> Corner:
        """The corner at (0, 1)."""
        return Corner(1.0, -reynolds)

    @staticmethod
    def at_right(reynolds: float) -> Corner:
        """The corner at (1, 1)."""
        return Corner(-1.0, reynolds)


@cache
def inertial(n: int = 24) -> Array:
    """Chebyshev coefficients of g on [0, pi / 2]: g'''' + 4 g'' = -(f (f + f''))', g = g' = 0 at both ends.

    It is what laplace^2 psi = Re (psi_y laplace psi_x - psi_x laplace psi_y) says of r f + Re r^2 g at order r^-2.
    """
    s = chebyshev_lobatto(n)
    theta = (s + 1) * math.pi / 4
    f = B * np.sin(theta) + C * theta * np.cos(theta) + D * theta * np.sin(theta)
    h = 2 * (D * np.cos(theta) - C * np.sin(theta))  # f + f''
    eye = np.eye(n + 1)
    d = [chebyshev.chebval(s, chebyshev.chebder(eye, m)).T * (4 / math.pi) ** m for m in range(5)]
    force = chebyshev.chebval(s, chebyshev.chebder(chebyshev.chebfit(s, -f * h, n))) * 4 / math.pi
    inner = slice(2, -2)
    matrix = np.concatenate([(d[4] + 4 * d[2])[inner], d[0][[0, -1]], d[1][[0, -1]]])
    return np.linalg.solve(matrix, np.concatenate([force[inner], np.zeros(4)]))


def _g(theta: Array, m: int) -> Array:
    return chebyshev.chebval(4 * theta / math.pi - 1, chebyshev.chebder(inertial(), m)) * (4 / math.pi) ** m


def fields(corner: Corner, x: Array, y: Array) -> dict[str, Array]:
    """psi, its first derivatives ("x", "y"), those of its Laplacian ("zx", "zy"), and "own".

    "own" is the convection of r f by itself, which is laplace^2 (r^2 g) up to the sign of the frame.
    """
    across, down = (x if corner.flip > 0 else 1 - x), 1 - y
    r2 = across**2 + down**2
    theta = np.arctan2(down, across)
    g, g1, g3 = (_g(theta, m) for m in (0, 1, 3))
    linear, i = C * across + D * down, corner.inertia
    psi = B * down + theta * linear + i * r2 * g
    psi_x = C * theta - linear * down / r2 + i * (2 * across * g - down * g1)
    psi_y = B + D * theta + linear * across / r2 + i * (2 * down * g + across * g1)
    top = 2 * (D * across - C * down)  # the Laplacian of r f is top / r^2
    turn = i * (4 * g1 + g3) / r2
    stokes_x, stokes_y = 2 * D / r2 - 2 * across * top / r2**2, -2 * C / r2 - 2 * down * top / r2**2
    free_x, free_y = C * theta - linear * down / r2, B + D * theta + linear * across / r2
    sign = -corner.flip  # the frame at x = 0 is a mirror image
    return {
        "psi": psi,
        "x": corner.flip * psi_x,
        "y": -psi_y,
        "zx": corner.flip * (stokes_x - down * turn),
        "zy": -(stokes_y + across * turn),
        "own": sign * (free_y * stokes_x - free_x * stokes_y),
    }


def velocity(corner: Corner, x: Tensor) -> Tensor:
    """(N, 2): u = psi_y and v = -psi_x of the corner's terms at points (N, 2)."""
    across, down = (x[:, 0] if corner.flip > 0 else 1 - x[:, 0]), 1 - x[:, 1]
    r2 = (across**2 + down**2).clamp(min=1e-300)
    theta = torch.atan2(down, across)
    linear, s, i = C * across + D * down, 4 * theta / math.pi - 1, corner.inertia
    g, g1 = _series(s, inertial()), _series(s, chebyshev.chebder(inertial()) * 4 / math.pi)
    psi_x = C * theta - linear * down / r2 + i * (2 * across * g - down * g1)
    psi_y = B + D * theta + linear * across / r2 + i * (2 * down * g + across * g1)
    return torch.stack([-psi_y, -corner.flip * psi_x], 1)


def _series(s: Tensor, coefficients: Array) -> Tensor:
    """Clenshaw's sum of a Chebyshev series."""
    ahead = after = torch.zeros_like(s)
    for c in coefficients[:0:-1].tolist():
        ahead, after = 2 * s * ahead - after + c, ahead
    return s * ahead - after + float(coefficients[0])
