"""Triangles and tetrahedra: evenly spread points, quadrature, and the triangles of a polygon."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import sampling
from .charts import Chart, Points
from .sampling import REAL


def volumes(corners: Tensor) -> Tensor:
    """(T, k + 1, d) -> (T,): lengths, areas or volumes of simplices, which may lie in a space of higher dimension."""
    edges = corners[:, 1:] - corners[:, :1]
    gram = edges @ edges.transpose(1, 2)
    return torch.sqrt(torch.linalg.det(gram).clamp_min(0.0)) / math.factorial(corners.shape[1] - 1)


def _barycentric(s: Tensor) -> Tensor:
    """(n, k) -> (n, k + 1): 1 - s1, s1 (1 - s2), s1 s2 (1 - s3), ... and the product of all."""
    left, columns = torch.ones(len(s), dtype=REAL), []
    for c in s.unbind(1):
        columns.append(left * (1 - c))
        left = left * c
    return torch.stack([*columns, left], 1)


def _rule(k: int, m: int) -> tuple[Tensor, Tensor]:
    """Collapsed Gauss-Jacobi rule of m^k points on a simplex, weights of sum one: exact to degree 2m - 1."""
    lines = [sampling.jacobi(m, k - 1 - j) for j in range(k)]
    s = torch.cartesian_prod(*[x for x, _ in lines]).reshape(-1, k)
    w = torch.cartesian_prod(*[v for _, v in lines]).reshape(-1, k).prod(1)
    return _barycentric(s), w


def simplices(corners: Tensor, normals: Tensor | None = None) -> Chart:
    """One chart of many simplices (T, k + 1, d): the first parameter also picks the simplex, by volume."""
    k, size = corners.shape[1] - 1, volumes(corners)
    edges = torch.cat([torch.zeros(1, dtype=REAL), size.cumsum(0)])
    total = float(edges[-1])

    def place(u: Tensor) -> tuple[Tensor, Tensor | None]:
        target = u[:, 0].contiguous() * total
        i = (torch.searchsorted(edges, target, right=True) - 1).clamp(0, len(size) - 1)
        first = ((target - edges[i]) / size[i]).clamp(1e-9, 1 - 1e-9)
        s = torch.cat([first[:, None], u[:, 1:]], 1) ** (1.0 / torch.arange(k, 0, -1, dtype=REAL))
        x = (_barycentric(s)[:, :, None] * corners[i]).sum(1)
        return x, None if normals is None else normals[i]

    def rule(n: int) -> Points:
        b, w = _rule(k, max(1, round((n / len(size)) ** (1 / k))))
        x = (b @ corners).reshape(-1, corners.shape[2])
        normal = None if normals is None else normals.repeat_interleave(len(w), 0)
        return Points(x, normal, (size[:, None] * w).reshape(-1))

    return Chart(k, total, place, rule)


def _cross(o: Tensor, a: Tensor, b: Tensor) -> float:
    return float((a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]))


def clip_ears(vertices: Tensor) -> Tensor:
    """(E, 2) in counter-clockwise order -> triangles (E - 2, 3, 2): corners without a vertex inside are cut off."""
    left = list(range(len(vertices)))
    out: list[Tensor] = []
    while len(left) > 3:
        best: tuple[float, int] | None = None
        for j in range(len(left)):
            corner = vertices[[left[j - 1], left[j], left[(j + 1) % len(left)]]]
            area = _cross(*corner)
            if area > 0 and not _holds(corner, vertices[[i for i in left if i not in _around(left, j)]]):
                shape = area / float((corner - corner.roll(1, 0)).square().sum())
                best = max(best, (shape, j)) if best else (shape, j)
        if best is None:  # only straight corners are left over by rounding
            flat = min(range(len(left)), key=lambda j: abs(_cross(*vertices[_around(left, j)])))
            del left[flat]
            continue
        out.append(vertices[_around(left, best[1])])
        del left[best[1]]
    return torch.stack([*out, vertices[left]])


def _around(left: list[int], j: int) -> list[int]:
    return [left[j - 1], left[j], left[(j + 1) % len(left)]]


def _holds(corner: Tensor, points: Tensor) -> bool:
    """Whether a triangle (counter-clockwise) holds one of the points, its boundary included."""
    if not len(points):
        return False
    inside = torch.ones(len(points), dtype=torch.bool)
    for a, b in zip(corner, corner.roll(-1, 0)):
        inside &= (b[0] - a[0]) * (points[:, 1] - a[1]) - (b[1] - a[1]) * (points[:, 0] - a[0]) >= 0
    return bool(inside.any())
