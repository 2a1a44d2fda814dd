"""Weights that are a few global functions of depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from .base import Depth

Values = list[Any]


def _chebyshev(x: Any, count: int) -> Values:
    """T_0, T_1, ... on [0, 1] moved to [-1, 1]."""
    z = 2.0 * x - 1.0
    values: Values = [1.0, z]
    while len(values) < count:
        values.append(2.0 * z * values[-1] - values[-2])
    return values[:count]


def _legendre(x: Any, count: int) -> Values:
    z = 2.0 * x - 1.0
    values: Values = [1.0, z]
    for k in range(1, count - 1):
        values.append(((2 * k + 1) * z * values[-1] - k * values[-2]) / (k + 1))
    return values[:count]


def _polynomial(x: Any, count: int) -> Values:
    z = 2.0 * x - 1.0
    return [1.0, *(z**k for k in range(1, count))]


def _fourier(x: Any, count: int) -> Values:
    """1, cos 2 pi x, sin 2 pi x, cos 4 pi x, ..."""
    cos, sin = (torch.cos, torch.sin) if isinstance(x, Tensor) else (math.cos, math.sin)
    waves = ((cos, sin)[(k + 1) % 2](2 * math.pi * ((k + 1) // 2) * x) for k in range(1, count))
    return [1.0, *waves]


def _rbf(x: Any, count: int) -> Values:
    """Gaussians around equidistant centres, as wide as these are apart, divided by their sum."""
    exp = torch.exp if isinstance(x, Tensor) else math.exp
    bumps = [exp(-((x * (count - 1) - j) ** 2)) for j in range(count)]
    total = sum(bumps)
    return [b / total for b in bumps]


def _extrema(count: int) -> list[float]:
    """Zeros of T_count, moved to [0, 1]: interpolation there does not oscillate."""
    return [0.5 - 0.5 * math.cos(math.pi * (2 * j + 1) / (2 * count)) for j in range(count)]


def _equal(count: int) -> list[float]:
    return [j / count for j in range(count)]


def _centres(count: int) -> list[float]:
    return [j / (count - 1) for j in range(count)]


# functions of x in [0, 1], and places that determine their coefficients
BASES: dict[str, tuple[Callable[[Any, int], Values], Callable[[int], list[float]]]] = {
    "chebyshev": (_chebyshev, _extrema),
    "legendre": (_legendre, _extrema),
    "polynomial": (_polynomial, _extrema),
    "fourier": (_fourier, _equal),
    "rbf": (_rbf, _centres),
}


@dataclass(frozen=True)
class Galerkin(Depth):
    """theta(t) = sum_j c_j phi_j(x), x in [0, 1] the place in the span: as many coefficients at any number of steps.

    family  chebyshev   T_0, T_1, ...: the first choice         legendre    orthogonal in L2
            fourier     1, cos 2 pi x, sin 2 pi x, ...: periodic in depth (the last one a cosine if count is even)
            rbf         Gaussians around equidistant centres, divided by their sum: local, positive
            polynomial  1, z, z^2, ..., z = 2 x - 1: ill-conditioned beyond ten or so
    Choose it when depth is continuous and weights should vary slowly: their number does not grow with the steps, and
    prolongation changes nothing. Massaroli et al. 2020 (arXiv 2002.08071); the basis in depth of Haber & Ruthotto's
    nets. Raises BadInput for an unknown family or a size below 2.
    """

    family: str = "chebyshev"
    size: int = 4

    constant = False
    local = False

    def __post_init__(self) -> None:
        if self.family not in BASES:
            raise BadInput(f"basis {self.family!r} is not known; write one of {', '.join(map(repr, BASES))}.")
        if not isinstance(self.size, int) or self.size < 2:
            raise BadInput(
                f"a basis in depth has two functions or more, got {self.size!r}; one alone is depth='shared'."
            )

    @property
    def points(self) -> int:
        """Polynomials are integrated exactly, the others to rounding even over a single interval."""
        return self.size if self.family in ("chebyshev", "legendre", "polynomial") else 4 * self.size + 12

    def count(self, intervals: int) -> int:
        return self.size

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return tuple(range(self.size))

    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        return tuple(BASES[self.family][0]((n + s) / intervals, self.size))

    def through(self, values: Tensor) -> Tensor:
        flat = values.reshape(self.size, -1)
        return (_inverse(self).to(values) @ flat).reshape(values.shape)

    def prolong(self, c: Tensor) -> Tensor:
        return c

    def restrict(self, c: Tensor) -> Tensor:
        return c


@lru_cache(maxsize=64)
def _inverse(depth: Galerkin) -> Tensor:
    """Values at the places of the basis -> coefficients."""
    functions, places = BASES[depth.family]
    rows = [functions(x, depth.size) for x in places(depth.size)]
    return torch.linalg.inv(torch.tensor(rows, dtype=torch.float64))
