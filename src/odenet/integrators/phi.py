"""The functions phi_k of exponential integrators, for numbers and for matrices.

    phi_0(z) = e^z,    phi_k(z) = integral_0^1 e^((1-s) z) s^(k-1) / (k-1)! ds,    phi_{k+1}(z) = (phi_k(z) - 1/k!) / z

The last formula cancels near z = 0 (Kassam & Trefethen 2005, section 3). Here a Taylor series stands near 0: for
numbers the formula takes over from |z| = 2 on, for matrices the argument is doubled (Hochbruck & Ostermann 2010, 4.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEAR = 2.0  # numbers: below the Taylor series, above the recurrence, which amplifies rounding at most 20 times there
TERMS = 26  # 2^26 / 26! < 2e-19
BLOCK, BLOCKS = 4, 5  # matrices: 20 terms of the series at norm 1, in blocks of four powers


def phi(z: Tensor, highest: int) -> tuple[Tensor, ...]:
    """phi_0(z), ..., phi_highest(z) entry by entry, each of the shape of z.

    To 20 units of rounding relative to |phi_k| for real z, and for complex z away from the zeros 2 pi i n of phi_1.
    Differentiable everywhere.
    """
    near = z.abs() < NEAR
    small, large = torch.where(near, z, 0.0), torch.where(near, NEAR, z)
    series = _series(small, highest)
    values = [torch.exp(z)]
    beyond = torch.expm1(large) / large
    for k in range(1, highest + 1):
        values.append(torch.where(near, series[k], beyond))
        beyond = (beyond - 1 / math.factorial(k)) / large
    return tuple(values)


def _series(z: Tensor, highest: int) -> list[Tensor]:
    """phi_k for |z| <= NEAR: the series of the highest, the others by phi_k = z phi_{k+1} + 1/k!."""
    top = torch.zeros_like(z)
    for n in reversed(range(TERMS)):
        top = top * z + 1 / math.factorial(n + highest)
    values = [top]
    for k in reversed(range(highest)):
        values.append(values[-1] * z + 1 / math.factorial(k))
    return values[::-1]


def phi_matrix(matrix: Tensor, highest: int) -> tuple[Tensor, ...]:
    """phi_0(A), ..., phi_highest(A) of square matrices (..., n, n), each of their shape.

    The series at A / 2^s of norm at most 1, then s doublings; s is chosen for every matrix of the batch by itself.
    Some units of rounding relative to |phi_k| in the 1-norm, for phi_0 relative to max(1, |phi_0|); a change of A by
    rounding costs up to |A| times that. Differentiable; under torch.func.vmap the number of doublings depends on the
    values, which torch refuses. Matrices that are not finite give what is not finite.
    """
    norm = matrix.detach().abs().sum(-2).amax(-1)
    doublings = torch.ceil(torch.log2(norm.clamp(min=1.0))).nan_to_num(0.0, 0.0, 0.0)[..., None, None]
    scaled = matrix * torch.exp2(-doublings)
    values = _matrix_series(scaled, max(highest, 1))
    for i in range(int(doublings.max())):
        values = [torch.where(doublings > i, new, old) for new, old in zip(_doubled(values), values)]
    return (values[0] + torch.eye(matrix.shape[-1]).to(matrix), *values[1 : highest + 1])


def _matrix_series(a: Tensor, highest: int) -> list[Tensor]:
    """phi_0 - 1, phi_1, ..., phi_highest at norm <= 1 (Paterson & Stockmeyer)."""
    one = torch.eye(a.shape[-1]).to(a)
    powers = [one, a, a @ a]
    powers.append(powers[2] @ a)
    fourth = powers[2] @ powers[2]
    top = torch.zeros_like(a)
    for block in reversed(range(BLOCKS)):
        terms = [powers[i] * (1 / math.factorial(block * BLOCK + i + highest)) for i in range(BLOCK)]
        top = top @ fourth + sum(terms[1:], terms[0])
    values = [top]
    for k in reversed(range(1, highest)):
        values.append(a @ values[-1] + one / math.factorial(k))
    return [a @ values[-1], *values[::-1]]


def _doubled(values: list[Tensor]) -> list[Tensor]:
    """phi_k(2A) = ((phi_0 + 1) phi_k + sum_{0<i<k} phi_i/(k-i)!) / 2^k; phi_0 - 1 for phi_0 keeps slow modes."""
    m = values[0]
    out = [2 * m + m @ m]
    for k in range(1, len(values)):
        total = m @ values[k] + values[k]
        for i in range(1, k + 1):
            total = total + values[i] / math.factorial(k - i)
        out.append(total / 2**k)
    return out
