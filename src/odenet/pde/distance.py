"""Smooth functions that vanish on pieces of a boundary, for conditions that hold exactly.

R-functions join the functions of the parts: `conjunction` is positive where all arguments are, `disjunction` where one
is, `equivalence` vanishes where one of its non-negative arguments does; all keep a normal derivative of one. Only +, -,
*, / and sqrt are used, on columns x[..., i], so that tensors that carry derivatives pass through.

V. L. Rvachev & T. I. Sheiko, R-functions in boundary value problems in mechanics, Appl. Mech. Rev. 48 (1995) 151-188;
N. Sukumar & A. Srivastava, Exact imposition of boundary conditions with distance functions in physics-informed deep
neural networks, CMAME 389 (2022) 114333.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

TINY = 1e-30  # keeps corners, where two arguments vanish together, finite; nothing is lost elsewhere


def _root(a: Tensor, b: Tensor) -> Tensor:
    return torch.sqrt(a * a + b * b + TINY * TINY)


def conjunction(parts: Sequence[Tensor]) -> Tensor:
    """a + b - sqrt(a^2 + b^2), from left to right: positive where all are, zero on the boundary of that set."""
    return reduce(lambda a, b: a + b - _root(a, b), parts)


def disjunction(parts: Sequence[Tensor]) -> Tensor:
    """a + b + sqrt(a^2 + b^2), from left to right: positive where one is, zero on the boundary of that set."""
    return reduce(lambda a, b: a + b + _root(a, b), parts)


def equivalence(parts: Sequence[Tensor]) -> Tensor:
    """1 / (1/a + 1/b + ...) for non-negative arguments: zero where one is, smooth where at most one is."""
    return reduce(lambda a, b: a * b / (a + b + TINY), parts)


def brick(
    x: Sequence[Tensor], lower: Sequence[float], upper: Sequence[float], faces: Sequence[tuple[int, int]]
) -> Tensor:
    """Product of the polynomials of the chosen faces (axis, end) of a box.

    x - a or b - x for one end, (x - a)(b - x) / (b - a) for both; further factors are scaled to a maximum of one.
    """
    ends = {axis: [e for a, e in faces if a == axis] for axis, _ in faces}
    factors, sizes = [], []
    for axis, chosen in ends.items():
        a, b, c = lower[axis], upper[axis], x[axis]
        length = b - a
        sizes.append(length / 4 if len(chosen) == 2 else length)
        shape = (c - a) * (b - c) / length if len(chosen) == 2 else (b - c if chosen[0] else c - a)
        factors.append(shape)
    order = min(range(len(sizes)), key=lambda i: sizes[i])
    return reduce(
        lambda p, i: p * factors[i] * (1.0 / sizes[i]), [i for i in range(len(sizes)) if i != order], factors[order]
    )


def line(x: Sequence[Tensor], p: Sequence[float], normal: Sequence[float]) -> Tensor:
    """Signed distance from the line through p, positive on the side of the unit vector `normal`."""
    return (x[0] - p[0]) * normal[0] + (x[1] - p[1]) * normal[1]


def segment(
    x: Sequence[Tensor], p: Sequence[float], q: Sequence[float], inward: Sequence[float], bulge: float
) -> Tensor:
    """Zero on the segment from p to q, positive elsewhere but in a thin lens on the outer side; smooth but at p and q.

    f - c + sqrt(f^2 + c^2) with the distance f from the line and the disk c >= 0 through p and q, which leaves the
    segment at the angle `bulge`: the line is trimmed to the segment by an R-disjunction of f and -c.
    """
    length = ((q[0] - p[0]) ** 2 + (q[1] - p[1]) ** 2) ** 0.5
    middle = ((p[0] + q[0]) / 2, (p[1] + q[1]) / 2)
    along = ((q[0] - p[0]) / length, (q[1] - p[1]) / length)
    f, s = line(x, middle, inward), line(x, middle, along)
    c = (length * length / 4 - s * s - f * f) * (math.sin(bulge) / length) + f * math.cos(bulge)
    return disjunction([f, c * -1.0])


def ball(x: Sequence[Tensor], center: Sequence[float], radius: float) -> Tensor:
    """(R^2 - |x - c|^2) / (2 R): positive inside, negative outside."""
    square = reduce(lambda a, b: a + b, [(c - m) * (c - m) for c, m in zip(x, center)])
    return (radius * radius - square) * (0.5 / radius)


def ellipse(x: Sequence[Tensor], center: Sequence[float], axes: Sequence[float], angle: float) -> Tensor:
    """f / sqrt(|grad f|^2 + f^2 / b^2) for f = 1 - X^2/a^2 - Y^2/b^2 in the ellipse's own axes, b the shorter one."""
    cos, sin = math.cos(angle), math.sin(angle)
    x0, y0 = x[0] - center[0], x[1] - center[1]
    X, Y = x0 * cos + y0 * sin, y0 * cos - x0 * sin
    a, b = axes
    f = 1.0 - X * X / a**2 - Y * Y / b**2
    square = (X * X / a**4 + Y * Y / b**4) * 4.0
    return f / torch.sqrt(square + f * f / min(a, b) ** 2)
