"""Triangles and polygons as domains."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from . import distance
from .charts import Chart
from .domain import Domain, axes, numbers
from .sampling import REAL
from .simplices import clip_ears, simplices

CHUNK = 2_000_000  # point-edge pairs looked at together


def _area(v: Tensor) -> float:
    w = v.roll(-1, 0)
    return float((v[:, 0] * w[:, 1] - w[:, 0] * v[:, 1]).sum()) / 2


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _crossing(v: Tensor) -> tuple[int, int] | None:
    """Two edges that are no neighbours and meet."""
    n, w = len(v), v.roll(-1, 0)
    for i in range(n):
        for j in range(i + 2, n - (i == 0)):
            a, b, c, d = v[i], w[i], v[j], w[j]
            one, other = _cross(b - a, c - a) * _cross(b - a, d - a), _cross(d - c, a - c) * _cross(d - c, b - c)
            apart = bool(one > 0) or bool(other > 0)
            on_a_line = bool(_cross(b - a, c - a) == 0) and bool(_cross(b - a, d - a) == 0)
            if on_a_line:
                s = torch.stack([c - a, d - a]) @ (b - a) / (b - a).square().sum()
                apart = bool(s.max() < 0) or bool(s.min() > 1)
            if not apart:
                return i, j
    return None


class Polygonal(Domain, ABC):
    """The inside of a closed chain of edges; edge i leads from vertex i to the next."""

    def __init__(self, vertices: Iterable[Iterable[float]], names: Sequence[str] | None) -> None:
        rows = [numbers(v, "vertex") for v in vertices]
        if len(rows) < 3 or any(len(r) != 2 for r in rows):
            raise BadInput(f"a polygon needs three or more vertices (x, y); got {rows}.")
        v = torch.tensor(rows, dtype=REAL)
        area, size = _area(v), float((v.amax(0) - v.amin(0)).norm())
        if size == 0 or float((v - v.roll(-1, 0)).norm(dim=1).min()) < 1e-12 * size:
            raise BadInput(f"two vertices in a row are the same point in {rows}; leave one out.")
        if pair := _crossing(v):
            raise BadInput(f"edges {pair[0]} and {pair[1]} of the polygon {rows} cross; give the vertices in order.")
        if abs(area) < 1e-12 * size**2:
            raise BadInput(f"the domain is empty: the vertices {rows} enclose no area.")
        super().__init__(axes(names, 2), v.amin(0).tolist(), v.amax(0).tolist())
        self.vertices, self._turn = v, 1.0 if area > 0 else -1.0
        step = v.roll(-1, 0) - v
        self._lengths = step.norm(dim=1)
        along = step / self._lengths[:, None]
        self._inward = torch.stack([-along[:, 1], along[:, 0]], 1) * self._turn
        self._straight = [self._open(i) for i in range(len(v))]
        self._bulges = [None if free else self._bulge(i) for i, free in enumerate(self._straight)]

    def _heights(self, i: int, x: Tensor) -> Tensor:
        return (x - self.vertices[i]) @ self._inward[i]

    def _open(self, i: int) -> bool:
        """Whether the line of edge i meets the closed polygon in nothing but that edge."""
        n = len(self.vertices)
        others = [j for j in range(n) if j not in (i, (i + 1) % n)]
        return bool((self._heights(i, self.vertices[others]) > 1e-12 * self.size).all())

    def _bulge(self, i: int) -> float:
        """Half the angle that a lens on the outer side of edge i may have without touching other edges."""
        p, q = self.vertices[i], self.vertices[(i + 1) % len(self.vertices)]
        s = torch.linspace(0, 1, 129, dtype=REAL)[:, None]
        start, end = self.vertices, self.vertices.roll(-1, 0)
        others = [j for j in range(len(start)) if j != i]
        x = torch.cat([start[j] + s * (end[j] - start[j]) for j in others])
        a, b = p - x, q - x
        far = (a.norm(dim=1) > 1e-9 * self.size) & (b.norm(dim=1) > 1e-9 * self.size)
        seen = far & (self._heights(i, x) < -1e-12 * self.size)
        angle = torch.atan2(_cross(a[seen], b[seen]).abs(), (a[seen] * b[seen]).sum(1))
        return min([math.pi / 2, *(math.pi - angle).tolist()]) / 2

    def _interior(self) -> list[Chart]:
        return [simplices(clip_ears(self.vertices if self._turn > 0 else self.vertices.flip(0)))]

    def _edge(self, i: int) -> Chart:
        p, q, outward = self.vertices[i], self.vertices[(i + 1) % len(self.vertices)], -self._inward[i]
        return Chart(1, float(self._lengths[i]), lambda u: (p + u * (q - p), outward.expand(len(u), 2)))

    def _faces(self) -> dict[str, list[Chart]]:
        return {f"edge_{i}": [self._edge(i)] for i in range(len(self.vertices))}

    def _level(self, x: Tensor) -> Tensor:
        return torch.cat([self._near(part) for part in x.split(max(1, CHUNK // len(self.vertices)))])

    def _near(self, x: Tensor) -> Tensor:
        """Distance from the edges, with the sign of the even-odd rule."""
        p, q = self.vertices, self.vertices.roll(-1, 0)
        rel, step = x[:, None] - p, q - p
        s = ((rel * step).sum(2) / step.square().sum(1)).clamp(0.0, 1.0)
        away = (rel - s[..., None] * step).norm(dim=2).amin(1)
        up, down = p[:, 1] <= x[:, 1:], q[:, 1] <= x[:, 1:]
        left = _cross(step, rel) * torch.sign(step[:, 1]) > 0
        odd = ((up != down) & left).sum(1) % 2 == 1
        return torch.where(odd, away, -away)

    def _face(self, i: int, x: Sequence[Tensor]) -> Tensor:
        p, q = self.vertices[i].tolist(), self.vertices[(i + 1) % len(self.vertices)].tolist()
        inward, bulge = self._inward[i].tolist(), self._bulges[i]
        return distance.line(x, p, inward) if bulge is None else distance.segment(x, p, q, inward, bulge)

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        return distance.equivalence([self._face(int(f.removeprefix("edge_")), x) for f in faces])

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        if not all(self._straight):
            raise Incompatible(
                f"{self!r} is not convex, so that it has no smooth distance as a part of a combined domain; "
                "subtract or join convex parts, or impose the condition softly."
            )
        return distance.conjunction([self._face(i, x) for i in range(len(self.vertices))])


class Triangle(Polygonal):
    """The triangle with three vertices; pieces "edge_0" (from the first to the second), "edge_1", "edge_2"."""

    def __init__(
        self, a: Iterable[float], b: Iterable[float], c: Iterable[float], names: Sequence[str] | None = None
    ) -> None:
        super().__init__((a, b, c), names)

    def __repr__(self) -> str:
        return f"Triangle({', '.join(str(tuple(v)) for v in self.vertices.tolist())})"


class Polygon(Polygonal):
    """A simple polygon, convex or not, vertices in either order; pieces "edge_0" (from vertex 0 to 1) and so on."""

    def __init__(self, vertices: Iterable[Iterable[float]], names: Sequence[str] | None = None) -> None:
        super().__init__(vertices, names)

    def __repr__(self) -> str:
        n = len(self.vertices)
        return f"Polygon({self.vertices.tolist()})" if n <= 6 else f"Polygon of {n} vertices"
