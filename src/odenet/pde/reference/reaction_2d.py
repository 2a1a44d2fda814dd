"""Gray and Scott's reaction in the plane: Fourier series and exponential Runge-Kutta of order four."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .spectral import Array, in_time, pack_time, windows_nodes

ROOTS = np.exp(1j * math.pi * (np.arange(1, 33) - 0.5) / 16)


def exponential_weights(z: Array) -> tuple[Array, ...]:
    """e^z, e^(z/2), phi_1(z/2) / 2 and Cox and Matthews' three weights, by contour means over circles of radius one.

    Cox & Matthews (2002), J. Comput. Phys. 176, 430, eq. 26-29; Kassam & Trefethen (2005), SIAM J. Sci. Comput. 26.
    """
    around = z[..., None] + ROOTS
    e, power = np.exp(around), around**3

    def mean(values: Array) -> Array:
        return values.mean(-1).real

    half = mean(np.expm1(around / 2) / around)
    first = mean((-4 - around + e * (4 - 3 * around + around**2)) / power)
    second = mean((2 + around + e * (around - 2)) / power)
    third = mean((-4 - 3 * around - around**2 + e * (4 - around)) / power)
    return np.exp(z), np.exp(z / 2), half, first, second, third


def gray_scott_modes(n: int, steps: int, every: int, final: float, parameters: dict[str, float]) -> Array:
    """rfft2 coefficients (steps / every + 1, 2, n, n / 2 + 1) of u and v."""
    k = math.pi * np.fft.fftfreq(n, 1 / n)
    square = k[:, None] ** 2 + k[: n // 2 + 1] ** 2
    h = final / steps
    spread = np.array([parameters["du"], parameters["dv"]])[:, None, None]
    rest = np.array([parameters["feed"], parameters["decay"]])[:, None, None]
    e, e2, q, f1, f2, f3 = exponential_weights(-h * (spread * square + rest))
    source = np.zeros((2, n, n // 2 + 1))
    source[0, 0, 0] = parameters["feed"] * n * n

    def force(y: Array) -> Array:
        u, v = np.fft.irfft2(y, (n, n))
        product = np.fft.rfft2(u * v**2)
        return h * (source + np.stack([-product, product]))

    x = -1 + 2 * np.arange(n) / n
    u = 1 - np.exp(-80 * ((x[:, None] + 0.05) ** 2 + (x + 0.02) ** 2))
    v = np.exp(-80 * ((x[:, None] - 0.05) ** 2 + (x - 0.02) ** 2))
    y = np.stack([np.fft.rfft2(u), np.fft.rfft2(v)])
    out = [y]
    for step in range(1, steps + 1):
        n0 = force(y)
        a = e2 * y + q * n0
        na = force(a)
        b = e2 * y + q * na
        nb = force(b)
        nc = force(e2 * a + q * (2 * nb - n0))
        y = e * y + f1 * n0 + 2 * f2 * (na + nb) + f3 * nc
        if step % every == 0:
            out.append(y)
    return np.array(out)
