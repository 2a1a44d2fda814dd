"""Random features phi_j(x) = sigma(w_j . xi(x) + b_j) with derivatives in closed form, and spaces spanned by them.

xi stretches each axis: an affine map onto [-1, 1], or one that gives room to steep places; on a periodic axis it maps
the circle onto itself and the frequencies are whole, so that a function on the circle comes out (there the features
with all frequencies span the classical trigonometric space). sigma is the sine, whose frequencies are spread evenly and
jittered up to a bound that follows from the number of features; tanh, the choice of the literature, reaches fewer
digits with as many features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import BadInput

Index = tuple[int, ...]
REAL = torch.float64
PLUNGE = 24  # features that a band-limited basis on an interval needs beyond its number of half waves
PLUNGE_PLANE = 13  # the same, per axis, in two and more dimensions


@dataclass(frozen=True)
class Axis:
    """The stretching xi of one coordinate, with derivatives up to the fourth.

    On an interval xi' is proportional to 1 / length + sum_s a_s / sqrt((x - c_s)^2 + d_s^2), a sum of arsinh; on a
    circle to 1 + sum_s a_s (P_s - 1) with Poisson kernels P_s of radius d_s, a sum of Moebius maps.
    centres, widths, shares: c, d, a of the steep places; parity: of functions on the circle, 1 or -1 across its middle
    """

    lower: float
    upper: float
    periodic: bool = False
    centres: tuple[float, ...] = ()
    widths: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    parity: int = 0

    def __call__(self, x: Tensor, order: int = 0) -> list[Tensor]:
        """[xi, xi', ..., xi^(order)] at x (N,)."""
        return self._circle(x, order) if self.periodic else self._interval(x, order)

    @property
    def ends(self) -> tuple[float, float]:
        """Values of xi at both ends."""
        return (self.lower, self.upper) if self.periodic else (-1.0, 1.0)

    def _interval(self, x: Tensor, order: int) -> list[Tensor]:
        length, total = self.upper - self.lower, 1.0 + sum(self.shares)
        out = [(x - self.lower) / length, torch.full_like(x, 1 / length)] + [torch.zeros_like(x) for _ in range(3)]
        for c, d, a in zip(self.centres, self.widths, self.shares):
            s, start = (x - c) / d, math.asinh((self.lower - c) / d)
            g, q = a / (math.asinh((self.upper - c) / d) - start), 1 / (1 + ((x - c) / d) ** 2)
            root = q.sqrt()
            parts = [torch.asinh(s) - start, root, -s * q * root, (2 * s * s - 1) * q**2 * root]
            parts.append((9 * s - 6 * s**3) * q**3 * root)
            out = [o + g / d**k * p for k, (o, p) in enumerate(zip(out, parts))]
        out = [2 / total * o for o in out]
        return [out[0] - 1, *out[1 : order + 1]]

    def _circle(self, x: Tensor, order: int) -> list[Tensor]:
        k = 2 * math.pi / (self.upper - self.lower)
        out = [x.clone(), torch.ones_like(x)] + [torch.zeros_like(x) for _ in range(3)]
        for c, r, a in zip(self.centres, self.widths, self.shares):
            sin, cos = torch.sin(k * (x - c)), torch.cos(k * (x - c))
            below = 1 - 2 * r * cos + r * r
            d1, d2, n = 2 * r * sin / below, 2 * r * cos / below, (1 - r * r) / below
            parts = [2 / k * torch.atan2(r * sin, 1 - r * cos), n - 1, -k * n * d1, k**2 * n * (2 * d1**2 - d2)]
            parts.append(k**3 * n * (d1 + 6 * d1 * d2 - 6 * d1**3))
            out = [o + a * p for o, p in zip(out, parts)]
        return out[: order + 1]

    def inverse(self, xi: Tensor) -> Tensor:
        """x with xi(x) near the given values: good enough to place points."""
        import numpy as np

        grid = self.invertible_grid()
        return torch.from_numpy(np.interp(xi.numpy(), self(grid)[0].numpy(), grid.numpy()))

    def invertible_grid(self, n: int = 20_000) -> Tensor:
        """Points that are dense where xi is steep."""
        even = torch.linspace(self.lower, self.upper, n, dtype=REAL)
        length = self.upper - self.lower
        wide = [length * (1 - w) if self.periodic else w for w in self.widths]
        near = [c + w * torch.sinh(torch.linspace(-9, 9, n // 10, dtype=REAL)) for c, w in zip(self.centres, wide)]
        ends = torch.tensor([self.lower, self.upper], dtype=REAL)
        return torch.cat([even, ends, *near]).clamp(self.lower, self.upper).unique()


def bell(n: int, d: Sequence[Tensor]) -> list[Tensor]:
    """Partial Bell polynomials B_{n,1}, ..., B_{n,n} of d = [f, f', f'', ...], n <= 4 (Faa di Bruno)."""
    if n == 1:
        return [d[1]]
    if n == 2:
        return [d[2], d[1] ** 2]
    if n == 3:
        return [d[3], 3 * d[1] * d[2], d[1] ** 3]
    return [d[4], 4 * d[1] * d[3] + 3 * d[2] ** 2, 6 * d[1] ** 2 * d[2], d[1] ** 4]


def sine(z: Tensor, order: int) -> list[Tensor]:
    """sin and its derivatives up to `order`."""
    s, c = torch.sin(z), torch.cos(z)
    return [(s, c, -s, -c)[k % 4] for k in range(order + 1)]


def tangent(z: Tensor, order: int) -> list[Tensor]:
    """tanh and its derivatives up to `order`: polynomials in T = tanh z, by (d/dz) p(T) = p'(T) (1 - T^2)."""
    import numpy as np

    T, p, out = torch.tanh(z), np.polynomial.Polynomial([0.0, 1.0]), []
    for _ in range(order + 1):
        value = torch.zeros_like(T)
        for c in p.coef[::-1]:
            value = value * T + float(c)
        out.append(value)
        p = p.deriv() * np.polynomial.Polynomial([1.0, 0.0, -1.0])
    return out


ACTIVATIONS: dict[str, Callable[[Tensor, int], list[Tensor]]] = {"sin": sine, "tanh": tangent}


@dataclass(frozen=True)
class Features:
    """phi_j(x) = sigma(w_j . xi(x) + b_j): w (M, d), b (M,)."""

    axes: tuple[Axis, ...]
    w: Tensor
    b: Tensor
    activation: str = "sin"

    def __call__(self, x: Tensor, indices: Sequence[Index]) -> dict[Index, Tensor]:
        """Derivatives D^a phi_j (N, M) by multi-index at x (N, d).

        D^a phi = sum over k <= a of prod_i B_{a_i,k_i}(xi_i', xi_i'', ...) w_i^k_i sigma^(|k|).
        """
        top = [max(a[i] for a in indices) for i in range(len(self.axes))]
        maps = [axis(x[:, i], top[i]) for i, axis in enumerate(self.axes)]
        z = sum(m[0][:, None] * self.w[:, i] for i, m in enumerate(maps)) + self.b
        sigma = ACTIVATIONS[self.activation](z, max(map(sum, indices)))
        bells: list[list[list[Tensor]]] = [[[]] + [bell(n, m) for n in range(1, t + 1)] for m, t in zip(maps, top)]
        return {a: self._one(a, bells, sigma) for a in indices}

    def _one(self, a: Index, bells: list[list[list[Tensor]]], sigma: list[Tensor]) -> Tensor:
        total: Tensor | None = None
        for k in itertools.product(*[range(min(n, 1), n + 1) for n in a]):
            part = sigma[sum(k)]
            for i, (n, power) in enumerate(zip(a, k)):
                if n:
                    part = part * self.w[:, i] ** power * bells[i][n][power - 1][:, None]
            total = part if total is None else total + part
        assert total is not None
        return total


def draw(
    axes: Sequence[Axis], size: int, generator: torch.Generator, activation: str = "sin", share: float | None = None
) -> Features:
    """About `size` random features on a product of axes.

    share: bound of the frequencies over what so many features resolve at most; None: what is left when some features
    are set aside for the ends of the box, where a basis without periodicity converges slowest.
    Raises BadInput for an unknown activation, or tanh on a periodic axis.
    """
    if activation not in ACTIVATIONS:
        raise BadInput(f"features are sin or tanh, got {activation!r}.")
    axes, d = tuple(axes), len(axes)
    if activation == "tanh":
        return _planes(axes, size, generator, share or 0.3)
    if d == 1 and axes[0].parity:
        even, middle = axes[0].parity > 0, (axes[0].lower + axes[0].upper) / 2
        w = (2 * math.pi / (axes[0].upper - axes[0].lower)) * torch.arange(1 - even, size + 1 - even, dtype=REAL)
        return Features(axes, w[:, None], even * math.pi / 2 - w * middle)
    if all(a.periodic for a in axes):
        w = _lattice(axes, size // 2)
        phase = 2 * math.pi * torch.rand(len(w), generator=generator, dtype=REAL)
        first = torch.cat([w, w, torch.zeros(1, d, dtype=REAL)])
        return Features(axes, first, torch.cat([phase, phase + math.pi / 2, torch.tensor([math.pi / 2], dtype=REAL)]))
    if d == 1:
        top = share * size if share else max(0.9 * (size - PLUNGE), 0.25 * size)
        w = (torch.arange(size) + torch.rand(size, generator=generator, dtype=REAL)) * (math.pi / 2 * top / size)
        return Features(axes, w[:, None], 2 * math.pi * torch.rand(size, generator=generator, dtype=REAL))
    per_axis = size ** (1 / d)
    top = share * per_axis if share else max(0.9 * (per_axis - PLUNGE_PLANE), 0.3 * per_axis)
    u = torch.quasirandom.SobolEngine(d + 1, scramble=True, seed=_seed(generator)).draw(size, dtype=REAL)
    w = math.pi / 2 * top * torch.cat([2 * u[:, : d - 1] - 1, u[:, d - 1 : d]], 1)
    for i, axis in enumerate(axes):
        if axis.periodic:
            step = 2 * math.pi / (axis.upper - axis.lower)
            w[:, i] = step * torch.round(w[:, i] * 2 / math.pi / 1.4)
    return Features(axes, w, 2 * math.pi * u[:, d])


def _planes(axes: tuple[Axis, ...], size: int, generator: torch.Generator, share: float) -> Features:
    """tanh features whose hyperplanes pass through points spread evenly over the box."""
    if any(a.periodic for a in axes):
        raise BadInput('tanh features are not periodic; use features="sin" where an axis is periodic.')
    d = len(axes)
    u = torch.quasirandom.SobolEngine(2 * d, scramble=True, seed=_seed(generator)).draw(size, dtype=REAL)
    w = share * size ** (1 / d) * (2 * u[:, :d] - 1)
    return Features(axes, w, -(w * (2 * u[:, d:] - 1)).sum(1), "tanh")


def _lattice(axes: tuple[Axis, ...], count: int) -> Tensor:
    """The `count` longest waves of a torus, one of each pair +-k, without zero."""
    d = len(axes)
    reach = count + 1 if d == 1 else math.ceil((2.5 * count) ** (1 / d)) + 1
    grid = itertools.product(*[range(reach + 1) if i == 0 else range(-reach, reach + 1) for i in range(d)])
    kept = sorted((k for k in grid if k > (0,) * d), key=lambda k: (sum(c * c for c in k), k))[:count]
    scale = torch.tensor([2 * math.pi / (a.upper - a.lower) for a in axes], dtype=REAL)
    return torch.tensor(kept, dtype=REAL).reshape(len(kept), d) * scale


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (1,), generator=generator))


class Regularised:
    """min |A x - b|^2 + eps^2 |D x|^2 by Householder QR, D the norms of the columns; one refinement step.

    Regularisation keeps |x| small where columns are dependent up to rounding, which the normal equations would not
    survive and an unregularised solution would pay for in digits of the residual.
    """

    def __init__(self, A: Tensor, eps: float = 1e-13) -> None:
        self.A, self.norms = A, A.norm(dim=0).clamp_min(1e-300)
        below = eps * torch.eye(A.shape[1], dtype=A.dtype)
        self.factors, self.tau = torch.geqrf(torch.cat([A / self.norms, below]))

    def solve(self, b: Tensor) -> Tensor:
        """x (M, k) for b (n, k)."""
        x = self._once(b)
        return x + self._once(b - self.A @ x)

    def _once(self, b: Tensor) -> Tensor:
        full = torch.cat([b, torch.zeros(self.A.shape[1], b.shape[1], dtype=b.dtype)])
        y = torch.ormqr(self.factors, self.tau, full, transpose=True)[: self.A.shape[1]]
        triangle = self.factors[: self.A.shape[1]]
        return torch.linalg.solve_triangular(triangle, y, upper=True) / self.norms[:, None]

    @property
    def condition(self) -> float:
        """Estimate of the condition number of the scaled columns, from the triangle's diagonal."""
        diagonal = torch.diagonal(self.factors[: self.A.shape[1]]).abs()
        return float(diagonal.max() / diagonal.min())
