"""Periodic problems: Fourier series in space, implicit collocation in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .evolution import collocate
from .spectral import Array, in_time, pack_time, waves, windows_nodes


@dataclass(frozen=True)
class Resolution:
    """points in space, windows of the march with q nodes each, windows of the table with `stored` nodes each."""

    points: int
    windows: int
    q: int
    tables: int
    stored: int


def evaluate(left: float, length: float, columns: int = 1) -> Callable[[Tables, Tensor], Tensor]:
    """Evaluator of the tables `waves` (W, q, columns, K cos and K sin), `frequencies` and `edges`."""

    def at(tables: Tables, x: Tensor) -> Tensor:
        basis = waves(x[:, 0] - left, tables["frequencies"] * (2 * math.pi / length))

        def space(here: Tensor, coefficients: Tensor) -> Tensor:
            q, m, k = coefficients.shape
            return (basis[here] @ coefficients.reshape(q * m, k).T).reshape(-1, q, m)

        return in_time(tables["waves"], tables["edges"], x[:, 1], space, columns)

    return at


def real_tables(modes: Array, edges: Array, stored: int, points: int, keep: float = 1e-16) -> Tables:
    """Tables of rfft coefficients (T, K) of real values at `points` places, without the modes below `keep`."""
    scaled = modes / points
    size = np.abs(scaled).max(0)
    last = int(np.nonzero(size > keep * size.max())[0].max()) + 1
    doubled = scaled[:, :last] * np.where(np.arange(last) == 0, 1.0, 2.0)
    both = np.concatenate([doubled.real, -doubled.imag], 1)[:, None]
    return _tables(both, np.arange(last, dtype=float), edges, stored)


def _tables(values: Array, frequencies: Array, edges: Array, stored: int) -> Tables:
    return {
        "waves": pack_time(values, edges, stored),
        "frequencies": torch.from_numpy(frequencies),
        "edges": torch.from_numpy(edges),
    }


def advected(
    start: Callable[[Array], Array],
    symbol: Callable[[Array], Array],
    speed: float,
    left: float,
    length: float,
    span: float,
    size: Resolution,
    odd: bool = False,
) -> Tables:
    """u_t + speed u u_x = symbol(ik) u, periodic; `odd` removes the even part that rounding brings in."""
    n = size.points
    x = left + length * np.arange(n) / n
    k = 2j * math.pi / length * np.arange(n // 2 + 1)
    keep = np.arange(n // 2 + 1) < n // 3

    def nonlinear(t: Array, modes: Array) -> Array:
        u = np.fft.irfft(modes, n, axis=-1)
        product = (-speed / 2 * k * keep) * np.fft.rfft(u * u, axis=-1)
        return 1j * product.imag if odd else product

    first: Array = np.fft.rfft(start(x)) * keep
    if odd:
        first = 1j * first.imag
    edges = np.linspace(0, span, size.tables + 1)
    times = windows_nodes(edges, size.stored)
    march = np.linspace(0, span, size.windows + 1)
    rates = np.where(keep, symbol(k), 0)
    modes = collocate(rates.astype(complex), nonlinear, first, march, times, size.q)
    return real_tables(modes, edges, size.stored, n)


@reference()
def kdv(dispersion: float = 0.0025, final: float = 1.0) -> Recipe:
    """Korteweg-de Vries u_t + u u_x + dispersion u_xxx = 0 on [-1, 1], u(x, 0) = cos(pi x), periodic.

    Zabusky & Kruskal (1965), Phys. Rev. Lett. 15, 240.
    """
    sizes = (Resolution(384, 150, 12, 100, 12), Resolution(512, 250, 12, 100, 14))

    def solve(level: int) -> Tables:
        return advected(
            lambda x: np.cos(math.pi * x), lambda k: -dispersion * k**3, 1.0, -1.0, 2.0, final, sizes[level]
        )

    how = "Fourier, 512 points with a third of the modes for aliases, and Radau collocation, 250 windows of 12 nodes"
    return Recipe(evaluate(-1.0, 2.0), how, ((-1.0, 0.0), (1.0, final)), solve=solve)


@reference()
def ks(final: float = 1.0) -> Recipe:
    """Kuramoto-Sivashinsky, regular: u_t + 5 u u_x + 0.5 u_xx + 0.005 u_xxxx = 0 on [-1, 1], u(x, 0) = -sin(pi x).

    Periodic. u stays odd, and the computation keeps it so.
    """
    sizes = (Resolution(192, 150, 10, 60, 12), Resolution(256, 250, 10, 60, 14))

    def solve(level: int) -> Tables:
        return advected(
            lambda x: -np.sin(math.pi * x),
            lambda k: -0.5 * k**2 - 0.005 * k**4,
            5.0,
            -1.0,
            2.0,
            final,
            sizes[level],
            odd=True,
        )

    how = "Fourier, 256 points with a third of the modes for aliases, and Radau collocation, 250 windows of 10 nodes"
    return Recipe(evaluate(-1.0, 2.0), how, ((-1.0, 0.0), (1.0, final)), solve=solve)


@reference()
def ks_chaotic(final: float = 1.0) -> Recipe:
    """Kuramoto-Sivashinsky, chaotic: u_t + a u u_x + b u_xx + c u_xxxx = 0 on [0, 2 pi], periodic.

    a = 100/16, b = 100/16^2, c = 100/16^4, u(x, 0) = cos x (1 + sin x). Differences grow by several powers of ten
    until t = 1, so that `.error` is the error at the end.
    """
    a, b, c = 100 / 16, 100 / 16**2, 100 / 16**4
    sizes = (Resolution(384, 300, 10, 70, 14), Resolution(512, 500, 10, 70, 16))

    def solve(level: int) -> Tables:
        return advected(
            lambda x: np.cos(x) * (1 + np.sin(x)),
            lambda k: -b * k**2 - c * k**4,
            a,
            0.0,
            2 * math.pi,
            final,
            sizes[level],
        )

    how = "Fourier, 512 points with a third of the modes for aliases, and Radau collocation, 500 windows of 10 nodes"
    return Recipe(evaluate(0.0, 2 * math.pi), how, ((0.0, 0.0), (2 * math.pi, final)), solve=solve)
