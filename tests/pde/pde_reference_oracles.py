"""Discretisations that share nothing with the references: finite differences and collocation, scipy's integrators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from odenet.pde.reference import Reference


def difference_weights(order: int, half: int) -> np.ndarray:
    """Central weights on -half ... half of the derivative of that order, from the moments (spacing 1)."""
    offsets = np.arange(-half, half + 1, dtype=float) / half
    moments = np.zeros(2 * half + 1)
    moments[order] = math.factorial(order)
    return np.linalg.solve(np.vander(offsets, increasing=True).T, moments) / float(half) ** order


def periodic_matrix(order: int, n: int, length: float, half: int = 7) -> np.ndarray:
    """(n, n): the derivative on n equal points of a circle, to order about 2 half."""
    matrix, weights = np.zeros((n, n)), difference_weights(order, half) / (length / n) ** order
    for offset, weight in zip(range(-half, half + 1), weights):
        matrix[np.arange(n), (np.arange(n) + offset) % n] = weight
    return matrix


def chebyshev(n: int, left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev points from left to right and Trefethen's differentiation matrix (Spectral Methods in MATLAB, 6)."""
    x = -np.cos(math.pi * np.arange(n + 1) / n)
    c = np.where((np.arange(n + 1) == 0) | (np.arange(n + 1) == n), 2.0, 1.0) * (-1.0) ** np.arange(n + 1)
    gaps = x[:, None] - x + np.eye(n + 1)
    d = np.outer(c, 1 / c) / gaps
    d -= np.diag(d.sum(1))
    return left + (right - left) * (x + 1) / 2, d * 2 / (right - left)


def lines(
    f: Callable[[float, np.ndarray], np.ndarray],
    y0: np.ndarray,
    t: list[float],
    method: str = "Radau",
    rtol: float = 1e-10,
    jac: Callable[[float, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """(len(t), n): scipy's solution of y' = f(t, y) from 0, at the times."""
    extra = {} if jac is None else {"jac": jac}
    done = solve_ivp(f, (0.0, t[-1]), y0, method, t, rtol=rtol, atol=rtol / 10, **extra)
    assert done.success, done.message
    return done.y.T


def on_grid(reference: Reference, x: np.ndarray, t: list[float]) -> np.ndarray:
    """(len(t), n, m): the reference at x and t."""
    tt, xx = np.meshgrid(t, x, indexing="ij")
    points = torch.from_numpy(np.stack([xx.ravel(), tt.ravel()], 1))
    return reference(points).numpy().reshape(len(t), len(x), -1)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2 difference."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def derivative(u: Tensor, x: Tensor, *axes: int) -> Tensor:
    """(N,): the derivative of u (N,), a function of x (N, d) row by row, along these axes one after another."""
    for axis in axes:
        u = torch.autograd.grad(u.sum(), x, create_graph=True)[0][:, axis]
    return u


def sampled(reference: Reference, n: int = 60) -> tuple[Tensor, Tensor]:
    """(points that take a gradient, values (N, m) there)."""
    x = reference.points(n).requires_grad_()
    return x, reference(x)
