"""The nonlinear Schroedinger equation on a circle: Fourier series and splitting of order six."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .spectral import Array, in_time, pack_time, waves, windows_nodes

# Yoshida (1990), Phys. Lett. A 150, 262, solution A of order six
_YOSHIDA = (0.784513610477560, 0.235573213359357, -1.17767998417887)
_PARTS = (*_YOSHIDA, 1 - 2 * sum(_YOSHIDA), *_YOSHIDA[::-1])


def split(start: Array, frequencies: Array, times: Array, step: float) -> Array:
    """Cosine coefficients (T, K) at the times of h_t = i h_xx / 2 + i |h|^2 h, from even values start (2 K,).

    Between two times as many equal steps are taken as keep them below `step`.
    """
    modes, now, out = np.fft.fft(start), 0.0, []
    for t in times:
        count = max(1, math.ceil((t - now) / step))
        h = (t - now) / count
        drift = [np.exp(-0.25j * frequencies**2 * h * w) for w in _PARTS]
        for _ in range(count):
            for w, half in zip(_PARTS, drift):
                value = np.fft.ifft(half * modes)
                modes = half * np.fft.fft(value * np.exp(1j * (h * w) * (value.real**2 + value.imag**2)))
        now = t
        out.append((modes + np.roll(modes[::-1], 1)) / 2)
    n = len(start)
    kept = np.array(out)[:, : n // 2] / n
    return kept * np.where(np.arange(n // 2) == 0, 1.0, 2.0)


def low_rank(values: Array, tolerance: float) -> tuple[Array, Array]:
    """values (T, K) = left (T, r) right (r, K), up to `tolerance` in the largest singular value."""
    left, singular, right = np.linalg.svd(values, full_matrices=False)
    r = int((singular > tolerance * singular[0]).sum())
    return left[:, :r] * singular[:r], right[:r]


@reference(2)
def schrodinger(final: float = math.pi / 2, half_width: float = 5.0, points: int = 2048) -> Recipe:
    """Nonlinear Schroedinger i h_t + h_xx / 2 + |h|^2 h = 0 on [-half_width, half_width], periodic.

    h(x, 0) = 2 sech x; columns: real and imaginary part. On [-5, 5] the periodic h(x, 0) has a kink at the ends (its
    derivative jumps by 0.054), which the equation carries along and does not smooth: the series converges as K^-1.5,
    and that is the accuracy.
    Coefficients are kept as k -> exp(i k^2 t / 2) h_k(t), which vary slowly.
    Raissi, Perdikaris & Karniadakis (2019), J. Comput. Phys. 378, 686.
    """

    def solve(level: int) -> Tables:
        n = points // (2, 1)[level]
        x = half_width * (2 * np.arange(n) / n - 1)
        k = math.pi / half_width * np.fft.fftfreq(n, 1 / n)
        edges, stored = np.linspace(0, final, math.ceil(51 * final) + 1), 16
        times = windows_nodes(edges, stored)
        slow = split(2 / np.cosh(x), k, times, 0.4 / n) * np.exp(0.5j * np.outer(times, k[: n // 2] ** 2))
        left, right = low_rank(slow, 3e-8)
        return {
            "slow": pack_time(np.stack([left.real, left.imag], 2), edges, stored),
            "profiles": torch.from_numpy(np.stack([right.real, right.imag])),
            "frequencies": torch.from_numpy(np.arange(n // 2) * math.pi / half_width),
            "edges": torch.from_numpy(edges),
        }

    how = f"Fourier, {points} points, and splitting of order six with steps of at most {0.4 / points:.2g}"
    bounds = ((-half_width, 0.0), (half_width, final))
    return Recipe(partial(_evaluate, half_width), how, bounds, ("real", "imag"), solve=solve)


def _evaluate(half_width: float, tables: Tables, x: Tensor) -> Tensor:
    shifted = x + x.new_tensor([half_width, 0.0])
    return torch.cat([_some(tables, part) for part in shifted.split(1024)])


def _some(tables: Tables, x: Tensor) -> Tensor:
    frequencies, profiles = tables["frequencies"], torch.complex(*tables["profiles"])
    phase = -0.5 * x[:, 1:] * frequencies**2
    basis = torch.polar(torch.ones_like(phase), phase) * waves(x[:, 0], frequencies, ("cos",))
    shape = basis @ profiles.T

    def space(here: Tensor, coefficients: Tensor) -> Tensor:
        total = shape[here][:, None] * torch.complex(coefficients[..., 0], coefficients[..., 1])
        return torch.view_as_real(total.sum(-1))

    return in_time(tables["slow"], tables["edges"], x[:, 1], space, 2)
