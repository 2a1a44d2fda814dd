"""Disks, ellipses and balls as domains; polygons, meshes and point clouds by their names."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import BadInput
from . import distance, sampling
from .charts import Chart, Points
from .domain import Domain, Hypercube, axes, numbers
from .meshes import Mesh, PointCloud
from .polygons import Polygon, Triangle
from .sampling import REAL

__all__ = ["Ball", "Disk", "Ellipse", "Hyperball", "Hypercube", "Mesh", "PointCloud", "Polygon", "Sphere", "Triangle"]


def _positive(value: float, what: str) -> float:
    (out,) = numbers(value, what)
    if out <= 0:
        raise BadInput(f"the domain is empty: {what}={out:g}; give a number above zero.")
    return out


def _turn(m: int) -> Tensor:
    return 2 * math.pi * sampling.midpoints(m)[0]


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([torch.cos(angle), torch.sin(angle)], 1)


def _circle_points(n: int) -> tuple[Tensor, Tensor]:
    return _unit(_turn(n)), torch.full((n,), 2 * math.pi / n, dtype=REAL)


def _sphere_points(n: int) -> tuple[Tensor, Tensor]:
    """Gauss in height, equal angles around: exact for spherical harmonics up to degree 2m - 1, n = 2 m^2."""
    m = max(1, round(math.sqrt(n / 2)))
    z, w = sampling.legendre(m)
    z = (2 * z - 1).repeat_interleave(2 * m)
    ring = _unit(_turn(2 * m)).repeat(m, 1)
    x = torch.cat([ring * torch.sqrt(1 - z * z)[:, None], z[:, None]], 1)
    return x, (w * 4 * math.pi / (2 * m)).repeat_interleave(2 * m)


def _directions(u: Tensor, d: int) -> Tensor:
    """Cube points to evenly spread unit vectors: by angle, by height, or by normal variables."""
    if d == 2:
        return _unit(2 * math.pi * u[:, 0])
    if d == 3:
        z = 2 * u[:, :1] - 1
        return torch.cat([_unit(2 * math.pi * u[:, 1]) * torch.sqrt(1 - z * z), z], 1)
    normal = torch.special.ndtri(u)
    return normal / normal.norm(dim=1, keepdim=True)


class Round(Domain, ABC):
    """A ball of any dimension from two: |x - center| < radius, piece "boundary"."""

    def __init__(self, center: Iterable[float], radius: float, names: tuple[str, ...]) -> None:
        self.center, self.radius = numbers(center, "center"), _positive(radius, "radius")
        super().__init__(names, [c - self.radius for c in self.center], [c + self.radius for c in self.center])

    def _middle(self) -> Tensor:
        return torch.tensor(self.center, dtype=REAL)

    def _surface(self) -> float:
        d = self.dim
        return 2 * math.pi ** (d / 2) / math.gamma(d / 2) * self.radius ** (d - 1)

    def _shell(self, n: int) -> tuple[Tensor, Tensor]:
        return _circle_points(n) if self.dim == 2 else _sphere_points(n)

    def _solid_rule(self, n: int) -> Points:
        """Gauss in the radius with its Jacobian, times the rule of the unit sphere."""
        d = self.dim
        m = max(1, round(math.sqrt(n) / 2 if d == 2 else (n / 2) ** (1 / 3)))
        s, w = sampling.legendre(m) if d == 2 else sampling.jacobi(m, 2)
        r = torch.sqrt(s) if d == 2 else s
        y, v = self._shell(4 * m if d == 2 else 2 * m * m)
        x = (self.radius * r[:, None, None] * y).reshape(-1, d)
        return Points(self._middle() + x, None, (w[:, None] * v * (self.radius**d / d)).reshape(-1))

    def _surface_rule(self, n: int) -> Points:
        y, v = self._shell(n)
        return Points(self._middle() + self.radius * y, y, v * self.radius ** (self.dim - 1))

    def _interior(self) -> list[Chart]:
        d = self.dim

        def place(u: Tensor) -> tuple[Tensor, None]:
            r = self.radius * u[:, :1] ** (1 / d)
            return self._middle() + r * _directions(u[:, 1:], d), None

        k = d if d <= 3 else d + 1
        return [
            Chart(k, self._surface() * self.radius / d, place, self._solid_rule if d <= 3 else None, scattered=d > 3)
        ]

    def _faces(self) -> dict[str, list[Chart]]:
        d = self.dim

        def place(u: Tensor) -> tuple[Tensor, Tensor]:
            y = _directions(u, d)
            return self._middle() + self.radius * y, y

        rule = self._surface_rule if d <= 3 else None
        return {"boundary": [Chart(d - 1 if d <= 3 else d, self._surface(), place, rule, scattered=d > 3)]}

    def _level(self, x: Tensor) -> Tensor:
        return self.radius - (x - self._middle()).norm(dim=1)

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        return distance.ball(x, self.center, self.radius)

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        return distance.ball(x, self.center, self.radius)


def _in(center: Iterable[float], d: int) -> tuple[float, ...]:
    out = numbers(center, "center")
    if len(out) != d:
        raise BadInput(f"center={out} has {len(out)} coordinates; this shape lives in {d} dimensions.")
    return out


class Disk(Round):
    """The disk |x - center| < radius in the plane; piece "boundary", the circle.

    Its quadrature (Gauss in r^2, equal angles) is exact for polynomials of degree about 2 sqrt(n).
    """

    def __init__(
        self, center: Iterable[float] = (0.0, 0.0), radius: float = 1.0, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(_in(center, 2), radius, axes(names, 2))

    def __repr__(self) -> str:
        return f"Disk({self.center}, {self.radius:g})"


class Ball(Round):
    """The solid ball |x - center| < radius in space; piece "boundary", the sphere. `Sphere` is the same."""

    def __init__(
        self, center: Iterable[float] = (0.0, 0.0, 0.0), radius: float = 1.0, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(_in(center, 3), radius, axes(names, 3))

    def __repr__(self) -> str:
        return f"Ball({self.center}, {self.radius:g})"


Sphere = Ball


class Hyperball(Round):
    """The ball |x - center| < radius in d >= 2 dimensions, coordinates x1 ... xd above three; piece "boundary"."""

    def __init__(
        self, dim: int, center: Iterable[float] | None = None, radius: float = 1.0, names: Sequence[str] | None = None
    ) -> None:
        if sampling.count(dim, "dimensions") < 2:
            raise BadInput("a ball in one dimension is an Interval.")
        super().__init__(_in([0.0] * dim if center is None else center, dim), radius, axes(names, dim))

    def __repr__(self) -> str:
        return f"Hyperball({self.dim}, radius={self.radius:g})"


class Ellipse(Domain):
    """The ellipse with half axes (a, b), its first axis turned by `angle` (radians); piece "boundary".

    Points are evenly spread in area and in arc length.
    """

    def __init__(
        self,
        center: Iterable[float] = (0.0, 0.0),
        half_axes: Iterable[float] = (1.0, 1.0),
        angle: float = 0.0,
        names: Sequence[str] | None = None,
    ) -> None:
        self.center, self.half_axes = _in(center, 2), numbers(half_axes, "half_axes")
        if len(self.half_axes) != 2:
            raise BadInput(f"half_axes={self.half_axes} are {len(self.half_axes)} numbers; an ellipse has two.")
        for half in self.half_axes:
            _positive(half, "half axis")
        (self.angle,) = numbers(angle, "angle")
        (a, b), c, s = self.half_axes, math.cos(self.angle), math.sin(self.angle)
        reach = math.hypot(a * c, b * s), math.hypot(a * s, b * c)
        super().__init__(axes(names, 2), *([m + e * r for m, r in zip(self.center, reach)] for e in (-1, 1)))
        self._matrix = torch.tensor([[a * c, a * s], [-b * s, b * c]], dtype=REAL)  # unit disk, rows -> ellipse
        m = 64 * math.ceil(max(a / b, b / a)) * 8
        waves = torch.fft.rfft(self._speed(2 * math.pi * torch.arange(m, dtype=REAL) / m)).real / m
        count = int((waves.abs() > 1e-15 * waves[0]).nonzero().max()) + 1
        self._waves = waves[:count]

    def __repr__(self) -> str:
        return f"Ellipse({self.center}, {self.half_axes}, angle={self.angle:g})"

    def _speed(self, angle: Tensor) -> Tensor:
        a, b = self.half_axes
        return torch.sqrt((a * torch.sin(angle)) ** 2 + (b * torch.cos(angle)) ** 2)

    def _angle(self, u: Tensor) -> Tensor:
        """Where the share u of the arc length is reached, by Newton's method on its Fourier series, kept in [0, 1]."""
        k = torch.arange(1, len(self._waves), dtype=REAL)
        c, target = self._waves[1:] * 2, u * 2 * math.pi * self._waves[0]
        low, high = torch.zeros_like(u), torch.full_like(u, 2 * math.pi)
        angle = 2 * math.pi * u
        for _ in range(60):
            gap = self._waves[0] * angle + (torch.sin(angle[:, None] * k) * (c / k)).sum(1) - target
            low, high = torch.where(gap < 0, angle, low), torch.where(gap < 0, high, angle)
            step = angle - gap / self._speed(angle)
            angle, before = torch.where((step > low) & (step < high), step, (low + high) / 2), angle
            if bool(((angle - before).abs() < 1e-14).all()):
                break
        return angle

    def _on(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        y = _unit(angle)
        outward = y @ torch.linalg.inv(self._matrix).T
        middle = torch.tensor(self.center, dtype=REAL)
        return middle + y @ self._matrix, outward / outward.norm(dim=1, keepdim=True)

    def _interior(self) -> list[Chart]:
        middle, (a, b) = torch.tensor(self.center, dtype=REAL), self.half_axes
        disk = Disk()._interior()[0]

        def place(u: Tensor) -> tuple[Tensor, None]:
            return middle + disk.place(u)[0] @ self._matrix, None

        def rule(n: int) -> Points:
            points = Disk()._solid_rule(n)
            return Points(middle + points.x @ self._matrix, None, points.weight * a * b)

        return [Chart(2, math.pi * a * b, place, rule)]

    def _faces(self) -> dict[str, list[Chart]]:
        def rule(n: int) -> Points:
            angle = _turn(n)
            return Points(*self._on(angle), self._speed(angle) * (2 * math.pi / n))

        length = float(self._waves[0]) * 2 * math.pi
        return {"boundary": [Chart(1, length, lambda u: self._on(self._angle(u[:, 0])), rule)]}

    def _level(self, x: Tensor) -> Tensor:
        y = (x - torch.tensor(self.center, dtype=REAL)) @ torch.linalg.inv(self._matrix)
        return (1 - y.norm(dim=1)) * min(self.half_axes)

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        return distance.ellipse(x, self.center, self.half_axes, self.angle)

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        return distance.ellipse(x, self.center, self.half_axes, self.angle)
