"""Gray and Scott's reaction in the plane: Fourier series and exponential Runge-Kutta of order four."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .spectral import Array, in_time, pack_time, windows_nodes

KEPT = (88, 112)  # largest wave number of the coarse and of the fine run, in units of pi
STORED = 9  # Chebyshev nodes of each window
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


def gray_scott_modes(n: int, times: Array, longest: float, parameters: dict[str, float]) -> Iterator[Array]:
    """rfft2 coefficients (2, n, n / 2 + 1) of u and v at increasing times, in equal steps between each two of them."""
    k = math.pi * np.fft.fftfreq(n, 1 / n)
    square = k[:, None] ** 2 + k[: n // 2 + 1] ** 2
    spread = np.array([parameters["du"], parameters["dv"]])[:, None, None]
    rest = np.array([parameters["feed"], parameters["decay"]])[:, None, None]
    source = np.zeros((2, n, n // 2 + 1))
    source[0, 0, 0] = parameters["feed"] * n * n

    def force(y: Array) -> Array:
        u, v = np.fft.irfft2(y, (n, n))
        product = np.fft.rfft2(u * v**2)
        return source + np.stack([-product, product])

    x = -1 + 2 * np.arange(n) / n
    u = 1 - np.exp(-80 * ((x[:, None] + 0.05) ** 2 + (x + 0.02) ** 2))
    v = np.exp(-80 * ((x[:, None] - 0.05) ** 2 + (x - 0.02) ** 2))
    y = np.stack([np.fft.rfft2(u), np.fft.rfft2(v)])
    now = 0.0
    for time in times:
        count = max(1, math.ceil((time - now) / longest))
        h, now = (time - now) / count, time
        e, e2, q, f1, f2, f3 = exponential_weights(-h * (spread * square + rest))
        for _ in range(count):
            n0 = h * force(y)
            a = e2 * y + q * n0
            na = h * force(a)
            b = e2 * y + q * na
            nb = h * force(b)
            nc = h * force(e2 * a + q * (2 * nb - n0))
            y = e * y + f1 * n0 + 2 * f2 * (na + nb) + f3 * nc
        yield y


@reference()
def gray_scott(
    feed: float = 0.04, decay: float = 0.1, du: float = 1e-5, dv: float = 5e-6, final: float = 20.0
) -> Recipe:
    """Gray-Scott u_t = du Laplace u + feed (1 - u) - u v^2, v_t = dv Laplace v - decay v + u v^2 on [-1, 1]^2.

    Periodic; u = 1 - exp(-80 ((x + 0.05)^2 + (y + 0.02)^2)), v = exp(-80 ((x - 0.05)^2 + (y - 0.02)^2)) at t = 0.
    Columns u, v. The statement of PINNacle's GrayScott, up to an earlier time. Hao et al. (2023), PINNacle.
    """
    parameters = {"feed": feed, "decay": decay, "du": du, "dv": dv}

    def solve(level: int) -> Tables:
        n, longest = ((288, 1.0), (352, 0.5))[level]
        kept = KEPT[level]
        edges = np.linspace(0, final, math.ceil(final / 10) + 1)
        times = windows_nodes(edges, STORED)
        shift = np.fft.fftfreq(n, 1 / n)
        inside = np.hypot(shift[:, None], np.arange(n // 2 + 1)) <= kept
        modes = np.array([y[:, inside] for y in gray_scott_modes(n, times, longest, parameters)]) / n**2
        row, column = np.nonzero(inside)
        doubled = modes * np.where(column == 0, 1.0, 2.0)
        values = np.stack([doubled.real, doubled.imag], -1)  # (T, 2, modes, 2)
        return {
            "modes": pack_time(values, edges, STORED).float(),
            "k": torch.from_numpy(np.stack([shift[row], column.astype(float)], 1) * math.pi),
            "edges": torch.from_numpy(edges),
        }

    bounds = ((-1.0, -1.0, 0.0), (1.0, 1.0, final))
    how = f"Fourier, 352 x 352 points, kept up to wave number {KEPT[1]} pi in single precision, ETDRK4, steps <= 0.5"
    return Recipe(_evaluate, how, bounds, ("u", "v"), solve=solve)


def _evaluate(tables: Tables, x: Tensor) -> Tensor:
    def space(here: Tensor, coefficients: Tensor) -> Tensor:
        phase = (x[here, :2] + 1) @ tables["k"].T
        wave = torch.stack([torch.cos(phase), -torch.sin(phase)], -1).flatten(1)
        q, fields, count, two = coefficients.shape
        return (wave @ coefficients.double().reshape(q * fields, count * two).T).reshape(-1, q, fields)

    return in_time(tables["modes"], tables["edges"], x[:, 2], space, 2, 256)
