"""Trajectories of Hamiltonian systems: states with noise, and the time derivatives to be learned from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .dataset import DATA, Dataset, cut

Motion = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (n, 2) starts, (T,) times -> (n, T, 2)


def spring(seed: int = 0, trajectories: int = 50, noise: float = 0.05, points: int = 30) -> Dataset:
    """Oscillator with H = q^2 + p^2: q' = 2 p, p' = -2 q, from radius 0.1 to 1, at `points` times of [0, 3].

    x (n, 2) states with normal noise of that standard deviation, y (n, 2) exact derivatives; the parts share no
    trajectory. In the form of S. Greydanus, M. Dzamba & J. Yosinski, Hamiltonian neural networks, NeurIPS 2019, arXiv
    1906.01563. Choose it to see whether a net keeps an energy. Raises BadInput for fewer than 5 trajectories.
    """
    return _observed("spring", _rotation, lambda s: np.stack([2 * s[..., 1], -2 * s[..., 0]], -1),
                     (0.1, 1.0), seed, trajectories, noise, points)  # fmt: skip


def pendulum(seed: int = 0, trajectories: int = 50, noise: float = 0.05, points: int = 45) -> Dataset:
    """Pendulum with H = 2 (1 - cos q) + p^2: q' = 2 p, p' = -2 sin q, from radius 0.2 to 2; else as `spring`.

    It never turns over: H <= 4. Choose it where the linear oscillator is too easy. Greydanus et al. 2019.
    """
    return _observed("pendulum", _libration, lambda s: np.stack([2 * s[..., 1], -2 * np.sin(s[..., 0])], -1),
                     (0.2, 2.0), seed, trajectories, noise, points)  # fmt: skip


def _rotation(start: np.ndarray, t: np.ndarray) -> np.ndarray:
    q, p = start[:, :1], start[:, 1:]
    return np.stack([q * np.cos(2 * t) + p * np.sin(2 * t), p * np.cos(2 * t) - q * np.sin(2 * t)], axis=-1)


def _libration(start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """sin(q/2) = k sn(2 t + u), p = 2 k cn(2 t + u) with k^2 = H/4 (Jacobi's elliptic functions of modulus k)."""
    from scipy.special import ellipj, ellipkinc

    q, p = start[:, :1], start[:, 1:]
    k = np.sqrt(np.sin(q / 2) ** 2 + p**2 / 4)
    u = ellipkinc(np.arctan2(np.sin(q / 2), p / 2), k**2)
    sn, cn, _, _ = ellipj(2 * t + u, k**2)
    return np.stack([2 * np.arcsin(k * sn), 2 * k * cn], axis=-1)


def _observed(
    name: str,
    motion: Motion,
    derivative: Callable[[np.ndarray], np.ndarray],
    radii: tuple[float, float],
    seed: int,
    trajectories: int,
    noise: float,
    points: int,
) -> Dataset:
    if trajectories < 5 or points < 1 or noise < 0:
        raise BadInput(
            f"{name} needs trajectories >= 5 to be split in three, points >= 1 and noise >= 0, not {trajectories!r}, "
            f"{points!r}, {noise!r}."
        )
    rng = np.random.default_rng(seed)
    angle, r = rng.uniform(0.0, 2 * np.pi, trajectories), rng.uniform(*radii, trajectories)
    states = motion(np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1), np.linspace(0.0, 3.0, points))
    seen = states + noise * rng.normal(size=states.shape)
    first, test = cut(np.arange(trajectories), None, 0.2, seed)
    train, val = cut(first, None, 0.25, seed)

    def part(values: np.ndarray, rows: np.ndarray) -> Tensor:
        return torch.as_tensor(values[rows].reshape(-1, 2), dtype=torch.float32)

    speed = derivative(states)
    x, x_val, x_test = (part(seen, rows) for rows in (train, val, test))
    y, y_val, y_test = (part(speed, rows) for rows in (train, val, test))
    return Dataset(name, x, y, x_val, y_val, x_test, y_test, classes=None)


for _make in (spring, pendulum):
    DATA.register(_make.__name__, _make)
