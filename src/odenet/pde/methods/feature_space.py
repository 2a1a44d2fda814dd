"""The space that random features span, made orthonormal, and how its resolution follows the solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..domain import Domain
from .random_feature_basis import REAL, Axis, Index, draw

CUT = 1e-11  # singular values below this share of the largest are rounding: directions that are left out
COARSER = 0.8  # share of the features with which a function must be represented too to count as resolved
Function = Callable[[Tensor], Tensor]


class Space:
    """Features orthonormal in the discrete L2 product of collocation points, with point matrices of derivatives.

    x (n, d), weight (n,): points and square roots of quadrature weights of sum one; y (h, d): held-out points
    size: dimension r; condition: of the features before directions lost in rounding were left out
    """

    def __init__(
        self,
        domain: Domain,
        axes: Sequence[Axis],
        width: int,
        generator: torch.Generator,
        channels: Sequence[Index],
        oversampling: float = 2.0,
        activation: str = "sin",
    ) -> None:
        self.domain, self.axes, self.width, self.channels = domain, tuple(axes), width, tuple(channels)
        self.generator, self.oversampling, self.activation = generator, oversampling, activation
        self.features = draw(axes, width, generator, activation)
        m = len(self.features.b)
        self.x, self.weight = self._points(round(oversampling * m) + 10)
        self.y, self.other = self._held_out(max(60, m // 2))
        table = self.features(self.x, self.channels)
        self.mix, self.condition = _orthonormal(table[self.zero] * self.weight[:, None])
        self.size = self.mix.shape[1]
        self.at_x = {a: f @ self.mix for a, f in table.items()}
        self.test = self.at_x[self.zero] * (self.weight**2)[:, None]

    @property
    def zero(self) -> Index:
        """The index of the value itself."""
        return (0,) * len(self.axes)

    @cached_property
    def at_y(self) -> dict[Index, Tensor]:
        """Matrices of all channels at the held-out points."""
        return self(self.y, self.channels)

    def __call__(self, x: Tensor, indices: Sequence[Index]) -> dict[Index, Tensor]:
        """Derivatives of the basis (N, r) by multi-index."""
        return {a: f @ self.mix for a, f in self.features(x, indices).items()}

    def fit(self, values: Tensor) -> Tensor:
        """Coefficients (r, ...) of the least-squares fit to values (n, ...) at x."""
        c = self.test.T @ values
        for _ in range(2):  # the basis is orthonormal up to rounding over CUT
            c = c + self.test.T @ (values - self.at_x[self.zero] @ c)
        return c

    @cached_property
    def coarse(self) -> Space:
        """The same with fewer features, drawn anew."""
        made = Space(
            self.domain, self.axes, round(COARSER * self.width), self.generator, [self.zero], self.oversampling,
            self.activation,
        )  # fmt: skip
        return made

    @cached_property
    def detail(self) -> Tensor:
        """(h, r): what the coarser space cannot represent, at the held-out points, times square roots of weights."""
        small = self.coarse
        fitted = small.fit(self(small.x, [self.zero])[self.zero])
        gap = self.at_y[self.zero] - small(self.y, [small.zero])[small.zero] @ fitted
        return gap * self.other[:, None]

    def gap(self, functions: Sequence[Function]) -> float:
        """Largest relative held-out error with which this space represents the functions."""
        worst = 0.0
        for f in functions:
            truth = f(self.y)
            gap = self.at_y[self.zero] @ self.fit(f(self.x)) - truth
            worst = max(worst, float((gap * self.other).norm() / (truth * self.other).norm().clamp_min(1e-12)))
        return worst

    def _points(self, n: int) -> tuple[Tensor, Tensor]:
        import numpy as np

        if len(self.axes) > 1:
            if all(a.periodic for a in self.axes):
                return self._torus(n)
            x = self.domain.sample(round(1.5 * n), self.generator, "sobol")
            return x, torch.full((len(x),), len(x) ** -0.5, dtype=REAL)
        axis = self.axes[0]
        low, high = axis.ends
        if axis.periodic:
            high = (low + high) / 2 if axis.parity else high  # the other half says the same
            xi, w = low + (high - low) * (torch.arange(n, dtype=REAL) + 0.5) / n, torch.ones(n, dtype=REAL)
        else:
            nodes, weights = np.polynomial.legendre.leggauss(n)
            xi, w = torch.from_numpy(nodes), torch.from_numpy(weights)
        x = axis.inverse(xi)
        w = w / axis(x, 1)[1]
        return x[:, None], (w / w.sum()).sqrt()

    def _torus(self, n: int) -> tuple[Tensor, Tensor]:
        per = math.ceil(n ** (1 / len(self.axes)) * 1.2)
        sides = [a.lower + (a.upper - a.lower) * (torch.arange(per, dtype=REAL) + 0.5) / per for a in self.axes]
        x = torch.cartesian_prod(*sides)
        return x, torch.full((len(x),), len(x) ** -0.5, dtype=REAL)

    def _held_out(self, n: int) -> tuple[Tensor, Tensor]:
        if len(self.axes) > 1:
            return self.domain.sample(n, self.generator, "uniform"), torch.full((n,), n**-0.5, dtype=REAL)
        axis = self.axes[0]
        low, high = axis.ends
        y = axis.inverse(low + (high - low) * torch.rand(n, generator=self.generator, dtype=REAL))
        w = 1 / axis(y, 1)[1]
        return y[:, None], (w / w.sum()).sqrt()


def _orthonormal(table: Tensor) -> tuple[Tensor, float]:
    """Combinations (M, r) of the columns that are orthonormal, and the condition number of the columns."""
    norms = table.norm(dim=0)
    gram = (table / norms).T @ (table / norms)
    if float((gram - torch.eye(len(gram), dtype=REAL)).abs().max()) < 1e-12:  # waves on a circle
        return torch.diag(1 / norms), float(norms.max() / norms.min())
    _, s, right = torch.linalg.svd(table, full_matrices=False)
    kept = s > CUT * s[0]
    return (right[kept].T / s[kept]).contiguous(), float(s[0] / s[-1])


@dataclass(frozen=True)
class Design:
    """What a space is made of: axes and number of features."""

    axes: tuple[Axis, ...]
    width: int

    @property
    def plain(self) -> bool:
        """Whether no axis is stretched."""
        return not any(a.centres for a in self.axes)

    def space(
        self, domain: Domain, seed: int, channels: Sequence[Index], oversampling: float, activation: str
    ) -> Space:
        """The space; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return Space(domain, self.axes, self.width, generator, channels, oversampling, activation)


def designs(plain: Sequence[Axis], width: int, functions: Sequence[Function]) -> list[Design]:
    """Candidates of one width: no stretching, and stretchings at the steep places of the functions (one axis)."""
    found = [Design(tuple(plain), width)]
    if len(plain) > 1 or plain[0].periodic:  # plain waves are orthogonal: more of them cost less than a stretching
        return found
    axis = plain[0]
    places = steep(axis, functions)
    if not places:
        return found
    for factor in (0.5, 1.0, 2.0):
        for share in (1.0, 3.0):
            found.append(Design((_stretched(axis, places, factor, share),), width))
    return found


def _stretched(axis: Axis, places: Sequence[tuple[float, float]], factor: float, share: float) -> Axis:
    centres, widths = tuple(c for c, _ in places), tuple(factor * w for _, w in places)
    if axis.periodic:
        widths = tuple(max(0.0, 1 - 2 * math.pi * w / (axis.upper - axis.lower)) for w in widths)
        share = share / (1 + share)  # below one: xi' stays positive
    return replace(axis, centres=centres, widths=widths, shares=(share / len(places),) * len(places))


def steep(axis: Axis, functions: Sequence[Function], most: int = 6) -> list[tuple[float, float]]:
    """Places (x, half width) where a function of one coordinate changes on a scale below a sixth of the axis."""
    x, found, length = axis.invertible_grid(4000), list[tuple[float, float]](), axis.upper - axis.lower
    if axis.periodic:  # a few points across the seam
        x = torch.cat([x[-20:-1] - length, x[:-1], x[:20] + length])
    for f in functions:
        y = f((x - length * torch.floor((x - axis.lower) / length) if axis.periodic else x)[:, None])
        span, slope = float(y.max() - y.min()), torch.gradient(y, spacing=(x,))[0]
        if span <= 1e-12 * float(y.abs().max()):
            continue
        bend = torch.gradient(slope, spacing=(x,))[0].abs()
        for size, width in ((slope.abs(), 0.5 * span / slope.abs()), (bend, (span / bend).sqrt())):
            peak = torch.ones_like(size, dtype=torch.bool)
            peak[1:] &= size[1:] >= size[:-1]
            peak[:-1] &= size[:-1] >= size[1:]
            peak &= (size > 0.15 * size.max()) & (width < length / 6)
            if axis.periodic:
                peak &= (x >= axis.lower) & (x < axis.upper)
                peak[[0, -1]] = False
            found += list(zip(x[peak].tolist(), width[peak].tolist()))
    chosen = list[tuple[float, float]]()
    for c, w in sorted(found, key=lambda place: place[1]):
        if all(abs(c - other) > 1.5 * max(w, v) for other, v in chosen):
            chosen.append((c, w))
    return chosen[:most]
