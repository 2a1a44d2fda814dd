"""The problems of the test set once more, in numpy and from the printed formulas, for any real dtype.

`SYSTEMS[name](t, y)` takes and returns arrays (D,). Written apart from odenet.fields.testset so that one checks the
other; long double arrays pass through unrounded, and through `stiff_e1` those of mpmath's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

Array = Any
System = Callable[[Any, Array], Array]


def row(y: Array, *values: Any) -> Array:
    return np.array(values, dtype=y.dtype)


def chain(i: int, decay: Callable[[int], float], gain: Callable[[int], float], n: int, y: Array) -> Any:
    """Component i (from 0) of a radioactive chain."""
    lost = decay(i + 1) * y[i] if i < n - 1 else 0 * y[i]
    return (gain(i) * y[i - 1] if i else 0 * y[0]) - lost


def diffusion(t: Any, y: Array) -> Array:
    out = -2 * y
    out[1:] += y[:-1]
    out[:-1] += y[1:]
    return out


def planets(t: Any, y: Array) -> Array:
    m = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)
    m0, k2 = 1.00000597682, 2.95912208286
    q, out = y[:15].reshape(5, 3), np.empty_like(y)
    r3 = np.sqrt((q * q).sum(1)) ** 3
    out[:15] = y[15:]
    for j in range(5):
        a = -(m0 + np.asarray(m[j], y.dtype)) * q[j] / r3[j]
        for k in range(5):
            if k != j:
                d = q[k] - q[j]
                a = a + m[k] * (d / np.sqrt((d * d).sum()) ** 3 - q[k] / r3[k])
        out[15 + 3 * j : 18 + 3 * j] = k2 * a
    return out


def kepler(t: Any, y: Array) -> Array:
    r3 = np.sqrt(y[0] ** 2 + y[1] ** 2) ** 3
    return row(y, y[2], y[3], -y[0] / r3, -y[1] / r3)


def torus(t: Any, y: Array) -> Array:
    r = np.hypot(y[0], y[1])
    return row(y, -y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r)


def bessel(t: Any, y: Array) -> Array:
    s = t + 1
    return row(y, y[1], -y[1] / s - (1 - 1 / (4 * s * s)) * y[0])


def arenstorf(t: Any, y: Array) -> Array:
    mu = 0.012277471
    mu1 = 1 - mu
    d1 = np.sqrt((y[0] + mu) ** 2 + y[1] ** 2) ** 3
    d2 = np.sqrt((y[0] - mu1) ** 2 + y[1] ** 2) ** 3
    return row(
        y,
        y[2],
        y[3],
        y[0] + 2 * y[3] - mu1 * (y[0] + mu) / d1 - mu * (y[0] - mu1) / d2,
        y[1] - 2 * y[2] - mu1 * y[1] / d1 - mu * y[1] / d2,
    )


def pleiades(t: Any, y: Array) -> Array:
    x, z, m = y[:7], y[7:14], np.arange(1, 8)
    dx, dz = x - x[:, None], z - z[:, None]  # [i, j] = x_j - x_i
    r3 = np.sqrt(dx**2 + dz**2) ** 3
    np.fill_diagonal(r3, 1)
    return np.concatenate((y[14:], (m * dx / r3).sum(1), (m * dz / r3).sum(1)))


def van_der_pol(mu: float) -> System:
    return lambda t, y: row(y, y[1], mu * (1 - y[0] ** 2) * y[1] - y[0])


def hires(t: Any, y: Array) -> Array:
    return row(
        y,
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -280 * y[5] * y[7] + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        280 * y[5] * y[7] - 1.81 * y[6],
        -280 * y[5] * y[7] + 1.81 * y[6],
    )


def oregonator(t: Any, y: Array) -> Array:
    return row(
        y,
        77.27 * (y[1] + y[0] * (1 - 8.375e-6 * y[0] - y[1])),
        (y[2] - (1 + y[0]) * y[1]) / 77.27,
        0.161 * (y[0] - y[2]),
    )


def pollution(t: Any, y: Array) -> Array:
    k = (
        0.35, 26.6, 12300, 0.00086, 0.00082, 15000, 0.00013, 24000, 16500, 9000, 0.022, 12000, 1.88, 16300, 4800000,
        0.00035, 0.0175, 1e8, 444e9, 1240, 2.1, 5.78, 0.0474, 1780, 3.12,
    )  # fmt: skip
    s = (None, *y)
    r: Any = [None, *(np.asarray(v, y.dtype) for v in k)]
    for i, who in enumerate(
        ((1,), (2, 4), (5, 2), (7,), (7,), (7, 6), (9,), (9, 6), (11, 2), (11, 1), (13,), (10, 2), (14,), (1, 6), (3,),
         (4,), (4,), (16,), (16,), (17, 6), (19,), (19,), (1, 4), (19, 1), (20,)), start=1,
    ):  # fmt: skip
        for species in who:
            r[i] = r[i] * s[species]
    return row(
        y,
        -r[1] - r[10] - r[14] - r[23] - r[24] + r[2] + r[3] + r[9] + r[11] + r[12] + r[22] + r[25],
        -r[2] - r[3] - r[9] - r[12] + r[1] + r[21],
        -r[15] + r[1] + r[17] + r[19] + r[22],
        -r[2] - r[16] - r[17] - r[23] + r[15],
        -r[3] + 2 * r[4] + r[6] + r[7] + r[13] + r[20],
        -r[6] - r[8] - r[14] - r[20] + r[3] + 2 * r[18],
        -r[4] - r[5] - r[6] + r[13],
        r[4] + r[5] + r[6] + r[7],
        -r[7] - r[8],
        -r[12] + r[7] + r[9],
        -r[9] - r[10] + r[8] + r[11],
        r[9],
        -r[11] + r[10],
        -r[13] + r[12],
        r[14],
        -r[18] - r[19] + r[16],
        -r[20],
        r[20],
        -r[21] - r[22] - r[24] + r[23] + r[25],
        -r[25] + r[24],
    )


def stiff_a2(t: Any, y: Array) -> Array:
    out = diffusion(t, y)
    out[0], out[8] = -1800 * y[0] + 900 * y[1], 1000 * y[7] - 2000 * y[8] + 1000
    return out


def stiff_b(alpha: float) -> System:
    return lambda t, y: row(
        y, -10 * y[0] + alpha * y[1], -alpha * y[0] - 10 * y[1], -4 * y[2], -y[3], -0.5 * y[4], -0.1 * y[5]
    )


def stiff_c(beta: float) -> System:
    return lambda t, y: row(
        y,
        -y[0] + 2,
        -10 * y[1] + beta * y[0] ** 2,
        -40 * y[2] + 4 * beta * (y[0] ** 2 + y[1] ** 2),
        -100 * y[3] + 10 * beta * (y[0] ** 2 + y[1] ** 2 + y[2] ** 2),
    )


def stiff_e1(t: Any, y: Array) -> Array:
    g = 100.0
    of: Any = mpmath if y.dtype == object else np
    last = (y[0] ** 2 - of.sin(y[0]) - g**4) * y[0] + (y[1] * y[2] / (y[0] ** 2 + 1) - 4 * g**3) * y[1]
    return row(y, y[1], y[2], y[3], last + (1 - 6 * g**2) * y[2] + (10 * of.exp(-(y[3] ** 2)) - 4 * g) * y[3] + 1)


def stiff_e4(t: Any, y: Array) -> Array:
    total = y.sum()
    z = total / 2 - y
    az = row(y, -10 * z[0] - 10 * z[1], 10 * z[0] - 10 * z[1], 1000 * z[2], 0.01 * z[3])
    g = row(y, (z[0] ** 2 - z[1] ** 2) / 2, z[0] * z[1], z[2] ** 2, z[3] ** 2)
    v = g - az
    return v.sum() / 2 - v


def stiff_f1(t: Any, y: Array) -> Array:
    k = 0.006 * np.exp(20.7 - 15000 / y[0])
    return row(
        y,
        1.3 * (y[2] - y[0]) + 10400 * k * y[1],
        1880 * (y[3] - y[1] * (1 + k)),
        1752 - 269 * y[2] + 267 * y[0],
        0.1 + 320 * y[1] - 321 * y[3],
    )


SYSTEMS: dict[str, System] = {
    "a1": lambda t, y: -y,
    "a2": lambda t, y: -(y**3) / 2,
    "a3": lambda t, y: y * np.cos(t),
    "a4": lambda t, y: y / 4 * (1 - y / 20),
    "a5": lambda t, y: (y - t) / (y + t),
    "b1": lambda t, y: row(y, 2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])),
    "b2": lambda t, y: row(y, -y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]),
    "b3": lambda t, y: row(y, -y[0], y[0] - y[1] ** 2, y[1] ** 2),
    "b4": torus,
    "b5": lambda t, y: row(y, y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]),
    "c1": lambda t, y: row(y, *(chain(i, lambda k: 1.0, lambda k: 1.0, 10, y) for i in range(10))),
    "c2": lambda t, y: row(y, *(chain(i, float, float, 10, y) for i in range(10))),
    "c3": diffusion,
    "c4": diffusion,
    "c5": planets,
    **dict.fromkeys(("d1", "d2", "d3", "d4", "d5"), kepler),
    "e1": bessel,
    "e2": van_der_pol(1.0),
    "e3": lambda t, y: row(y, y[1], y[0] ** 3 / 6 - y[0] + 2 * np.sin(2.78535 * t)),
    "e4": lambda t, y: row(y, y[1], 0.032 - 0.4 * y[1] ** 2),
    "e5": lambda t, y: row(y, y[1], np.sqrt(1 + y[1] ** 2) / (25 - t)),
    "arenstorf": arenstorf,
    "pleiades": pleiades,
    "lorenz": lambda t, y: row(
        y, 10 * (y[1] - y[0]), (28 - y[2]) * y[0] - y[1], y[0] * y[1] - y[2] * np.asarray(8 / 3, y.dtype)
    ),
    "van_der_pol_1e3": van_der_pol(1e3),
    "van_der_pol_1e6": van_der_pol(1e6),
    "van_der_pol_eps": lambda t, y: row(y, y[1], 1e6 * ((1 - y[0] ** 2) * y[1] - y[0])),
    "robertson": lambda t, y: row(
        y, -0.04 * y[0] + 1e4 * y[1] * y[2], 0.04 * y[0] - 1e4 * y[1] * y[2] - 3e7 * y[1] ** 2, 3e7 * y[1] ** 2
    ),
    "hires": hires,
    "oregonator": oregonator,
    "pollution": pollution,
    "stiff_a1": lambda t, y: row(y, -0.5 * y[0], -y[1], -100 * y[2], -90 * y[3]),
    "stiff_a2": stiff_a2,
    "stiff_a3": lambda t, y: row(
        y,
        -1e4 * y[0] + 100 * y[1] - 10 * y[2] + y[3],
        -1e3 * y[1] + 10 * y[2] - 10 * y[3],
        -y[2] + 10 * y[3],
        -0.1 * y[3],
    ),
    "stiff_a4": lambda t, y: row(y, *(-((i + 1) ** 5) * y[i] for i in range(10))),
    "stiff_b1": lambda t, y: row(y, -y[0] + y[1], -100 * y[0] - y[1], -100 * y[2] + y[3], -10_000 * y[2] - 100 * y[3]),
    **{f"stiff_b{i}": stiff_b(alpha) for i, alpha in zip((2, 3, 4, 5), (3, 8, 25, 100))},
    "stiff_c1": lambda t, y: row(
        y,
        -y[0] + y[1] ** 2 + y[2] ** 2 + y[3] ** 2,
        -10 * y[1] + 10 * (y[2] ** 2 + y[3] ** 2),
        -40 * y[2] + 40 * y[3] ** 2,
        -100 * y[3] + 2,
    ),
    **{f"stiff_c{i}": stiff_c(beta) for i, beta in zip((2, 3, 4, 5), (0.1, 1, 10, 20))},
    "stiff_d1": lambda t, y: row(
        y, 0.2 * (y[1] - y[0]), 10 * y[0] - (60 - 0.125 * y[2]) * y[1] + 0.125 * y[2], y[2] ** 0
    ),
    "stiff_d2": lambda t, y: row(
        y,
        -0.04 * y[0] + 0.01 * y[1] * y[2],
        400 * y[0] - 100 * y[1] * y[2] - 3000 * y[1] ** 2,
        30 * y[1] ** 2,
    ),
    "stiff_d3": lambda t, y: row(
        y,
        y[2] - 100 * y[0] * y[1],
        y[2] + 2 * y[3] - 100 * y[0] * y[1] - 2e4 * y[1] ** 2,
        -y[2] + 100 * y[0] * y[1],
        -y[3] + 1e4 * y[1] ** 2,
    ),
    "stiff_d4": lambda t, y: row(
        y,
        -0.013 * y[0] - 1000 * y[0] * y[2],
        -2500 * y[1] * y[2],
        -0.013 * y[0] - 1000 * y[0] * y[2] - 2500 * y[1] * y[2],
    ),
    "stiff_d5": lambda t, y: row(
        y,
        0.01 - (1 + (y[0] + 1000) * (y[0] + 1)) * (0.01 + y[0] + y[1]),
        0.01 - (1 + y[1] ** 2) * (0.01 + y[0] + y[1]),
    ),
    "stiff_d6": lambda t, y: row(
        y,
        -y[0] + 1e8 * y[2] * (1 - y[0]),
        -10 * y[1] + 3e7 * y[2] * (1 - y[1]),
        y[0] - 1e8 * y[2] * (1 - y[0]) + 10 * y[1] - 3e7 * y[2] * (1 - y[1]),
    ),
    "stiff_e1": stiff_e1,
    "stiff_e2": van_der_pol(5.0),
    "stiff_e3": lambda t, y: row(y, -(55 + y[2]) * y[0] + 65 * y[1], 0.0785 * (y[0] - y[1]), 0.1 * y[0]),
    "stiff_e4": stiff_e4,
    "stiff_e5": lambda t, y: row(
        y,
        -7.89e-10 * y[0] - 1.1e7 * y[0] * y[2],
        7.89e-10 * y[0] - 1.13e9 * y[1] * y[2],
        7.89e-10 * y[0] - 1.1e7 * y[0] * y[2] + 1.13e3 * y[3] - 1.13e9 * y[1] * y[2],
        1.1e7 * y[0] * y[2] - 1.13e3 * y[3],
    ),
    "stiff_f1": stiff_f1,
    "stiff_f2": lambda t, y: row(y, -y[0] - y[0] * y[1] + 294 * y[1], y[0] * (1 - y[1]) / 98 - 3 * y[1]),
    "stiff_f3": lambda t, y: row(
        y,
        -1e7 * y[1] * y[0] + 10 * y[2],
        -1e7 * y[1] * y[0] - 1e7 * y[1] * y[4] + 10 * y[2] + 10 * y[3],
        1e7 * y[1] * y[0] - 1.001e4 * y[2] + 1e-3 * y[3],
        1e4 * y[2] - 10.001 * y[3] + 1e7 * y[1] * y[4],
        10 * y[3] - 1e7 * y[1] * y[4],
    ),
    "stiff_f4": lambda t, y: row(
        y,
        77.27 * (y[1] - y[0] * y[1] + y[0] - 8.375e-6 * y[0] ** 2),
        (-y[1] - y[0] * y[1] + y[2]) / 77.27,
        0.161 * (y[0] - y[2]),
    ),
    "stiff_f5": lambda t, y: row(  # whole numbers: its conserved sums feel the rounding of 0.0012 * 1e11
        y,
        120_000_000 * y[3] - 300_000_000_000 * y[0] * (y[1] + 3 * y[2]),
        20_000_000 * y[3] - 300_000_000_000 * y[0] * y[1],
        100_000_000 * y[3] - 900_000_000_000 * y[0] * y[2],
        300_000_000_000 * y[0] * (y[1] + 3 * y[2]) - 120_000_000 * y[3],
    ),
}
