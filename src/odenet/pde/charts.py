"""Charts: a set as images of unit cubes, from which points, weights and quadrature follow.

A `Chart` maps [0, 1]^k onto a part of a set (of a domain, or of a piece of its boundary) so that equal volumes of the
cube go to equal measures: evenly spread points stay evenly spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import BadInput
from . import sampling
from .sampling import REAL, Design

Place = Callable[[Tensor], tuple[Tensor, Tensor | None]]
Keep = Callable[[Tensor, Tensor | None], Tensor]
PROBE = 2**14  # points that measure what a predicate keeps
SCAN = 4096  # cells in which a curve is searched for places where a predicate changes


@dataclass(frozen=True)
class Points:
    """Points x (M, d), outward unit normals (M, d) or None inside, weights (M,): sum w f(x) is about the integral."""

    x: Tensor
    normal: Tensor | None
    weight: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Chart:
    """The image of [0, 1]^k under `place`: u (n, k) -> x (n, d), normal (n, d) or None.

    measure:  length, area or volume of what is kept (1 for a point)
    rule:     n -> Points of a quadrature rule with about n points; None: the Gauss rule of the cube
    keep:     (x, normal) -> bool (n,): only these points belong to the set; None: all
    share:    the part of the cube that is kept
    scattered: no tensor grids (the map has no use for them): Sobol points instead
    """

    k: int
    measure: float
    place: Place
    rule: Callable[[int], Points] | None = None
    keep: Keep | None = None
    share: float = 1.0
    scattered: bool = False


def join(parts: Sequence[Points]) -> Points:
    """The points of all parts in a row."""
    normals = [p.normal for p in parts if p.normal is not None]
    normal = torch.cat(normals) if len(normals) == len(parts) else None
    return Points(torch.cat([p.x for p in parts]), normal, torch.cat([p.weight for p in parts]))


def _even(x: Tensor, normal: Tensor | None, measure: float) -> Points:
    return Points(x, normal, torch.full((len(x),), measure / len(x), dtype=REAL))


def _pick(x: Tensor, normal: Tensor | None, which: Tensor) -> tuple[Tensor, Tensor | None]:
    return x[which], None if normal is None else normal[which]


def apportion(measures: Sequence[float], n: int, least: int) -> list[int]:
    """n split in proportion to the measures, by largest remainders, `least` or more for each."""
    total = sum(measures)
    shares = [n * m / total for m in measures]
    counts = [int(s) for s in shares]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in order[: n - sum(counts)]:
        counts[i] += 1
    return [max(c, least) for c in counts]


def _rejected(chart: Chart, n: int, design: Design, generator: torch.Generator) -> Points:
    """Exactly n kept points, from as many fresh point sets of the cube as it takes."""
    assert chart.keep is not None
    found: list[tuple[Tensor, Tensor | None]] = []
    missing = n
    for _ in range(64):
        u, _ = design.draw(math.ceil(1.1 * missing / chart.share) + 8, chart.k, generator)
        x, normal = chart.place(u)
        found.append(_pick(x, normal, chart.keep(x, normal)))
        missing -= len(found[-1][0])
        if missing <= 0:
            x = torch.cat([f[0] for f in found])[:n]
            normals = [f[1] for f in found if f[1] is not None]
            return _even(x, torch.cat(normals)[:n] if normals else None, chart.measure)
    raise BadInput("the set is so thin that no points were found in it: check that its parts overlap as meant.")


def _tensor_kept(chart: Chart, n: int, design: Design, generator: torch.Generator) -> Points:
    assert chart.keep is not None
    u, w = design.draw(math.ceil(n / chart.share), chart.k, generator)
    x, normal = chart.place(u)
    mask = chart.keep(x, normal)
    if not mask.any():
        return _rejected(chart, n, sampling.get("sobol"), generator)
    return Points(*_pick(x, normal, mask), w[mask] / w[mask].sum() * chart.measure)


def draw(chart: Chart, n: int, design: Design, generator: torch.Generator) -> Points:
    """n points of one chart (about n for tensor designs, one for a chart that is a point)."""
    if chart.k == 0:
        return _even(*chart.place(torch.zeros(1, 0, dtype=REAL)), chart.measure)
    if design.name == "gauss" and chart.keep is None:
        return integrate(chart, n)
    if chart.scattered and not design.exact:
        design = sampling.get("sobol")
    if chart.keep is not None:
        return (_rejected if design.exact else _tensor_kept)(chart, n, design, generator)
    u, w = design.draw(n, chart.k, generator)
    x, normal = chart.place(u)
    return Points(x, normal, w * chart.measure)


def spread(charts: Sequence[Chart], n: int, design: Design, generator: torch.Generator, least: int = 0) -> Points:
    """n points over all charts in proportion to their measures."""
    counts = apportion([c.measure for c in charts], n, least)
    return join([draw(c, m, design, generator) for c, m in zip(charts, counts) if m])


def integrate(chart: Chart, n: int) -> Points:
    """About n points and weights: the chart's rule, Gauss up to four dimensions, else scrambled Sobol points."""
    if chart.k == 0:
        return draw(chart, 1, sampling.get("uniform"), torch.Generator())
    if chart.rule is not None and chart.keep is None:
        return chart.rule(n)
    if chart.keep is None and chart.k <= 4 and not chart.scattered:
        u, w = sampling.get("gauss").draw(n, chart.k, torch.Generator())
        x, normal = chart.place(u)
        return Points(x, normal, w * chart.measure)
    return draw(chart, n, sampling.get("sobol"), torch.Generator().manual_seed(0))


def times(a: Chart, b: Chart, dims: tuple[int, int]) -> Chart:
    """The product of two charts in coordinates (x_a, x_b); a normal is continued by zeros."""
    da, db = dims

    def pair(xa: Tensor, na: Tensor | None, xb: Tensor, nb: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = torch.cat([xa, xb], 1)
        if na is None and nb is None:
            return x, None
        left = torch.zeros(len(x), da, dtype=REAL) if na is None else na
        right = torch.zeros(len(x), db, dtype=REAL) if nb is None else nb
        return x, torch.cat([left, right], 1)

    def place(u: Tensor) -> tuple[Tensor, Tensor | None]:
        return pair(*a.place(u[:, : a.k]), *b.place(u[:, a.k :]))

    def rule(n: int) -> Points:
        share = a.k / max(a.k + b.k, 1)
        pa, pb = integrate(a, max(1, round(n**share))), integrate(b, max(1, round(n ** (1 - share))))
        i = torch.arange(len(pa)).repeat_interleave(len(pb))
        j = torch.arange(len(pb)).repeat(len(pa))
        x, normal = pair(*_pick(pa.x, pa.normal, i), *_pick(pb.x, pb.normal, j))
        return Points(x, normal, pa.weight[i] * pb.weight[j])

    def keep(x: Tensor, normal: Tensor | None) -> Tensor:
        mask = torch.ones(len(x), dtype=torch.bool)
        for part, columns in ((a, slice(0, da)), (b, slice(da, da + db))):
            if part.keep is not None:
                mask &= part.keep(x[:, columns], None if normal is None else normal[:, columns])
        return mask

    kept = None if a.keep is None and b.keep is None else keep
    loose = a.scattered or b.scattered
    smooth = a.k + b.k <= 4 and kept is None and not loose
    return Chart(a.k + b.k, a.measure * b.measure, place, rule if smooth else None, kept, a.share * b.share, loose)


def turned(chart: Chart) -> Chart:
    """The same chart with opposite normals."""

    def place(u: Tensor) -> tuple[Tensor, Tensor | None]:
        x, normal = chart.place(u)
        return x, None if normal is None else -normal

    def rule(n: int) -> Points:
        points = integrate(chart, n)
        return Points(points.x, None if points.normal is None else -points.normal, points.weight)

    def keep(x: Tensor, normal: Tensor | None) -> Tensor:
        assert chart.keep is not None
        return chart.keep(x, None if normal is None else -normal)

    return replace(
        chart, place=place, rule=None if chart.rule is None else rule, keep=None if chart.keep is None else keep
    )


def _changes(chart: Chart, keep: Keep) -> list[tuple[float, float]]:
    """Intervals of u in [0, 1] that a predicate keeps on a curve, their ends by bisection."""

    def kept(u: Tensor) -> Tensor:
        return keep(*chart.place(u[:, None]))

    u = (torch.arange(SCAN, dtype=REAL) + 0.5) / SCAN
    mask = kept(u)
    at = (mask[1:] != mask[:-1]).nonzero()[:, 0]
    low, high = u[at], u[at + 1]
    for _ in range(52):
        middle = (low + high) / 2
        same = kept(middle) == mask[at] if len(at) else mask[:0]
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    ends = [0.0, *((low + high) / 2).tolist(), 1.0]
    first = bool(mask[0])
    return [(a, b) for i, (a, b) in enumerate(pairwise(ends)) if (i % 2 == 0) == first]


def _stretch(chart: Chart, a: float, b: float) -> Chart:
    return Chart(1, chart.measure * (b - a), lambda u: chart.place(a + (b - a) * u))


def restricted(chart: Chart, keep: Keep) -> list[Chart]:
    """The part of a chart where a predicate holds; curves are cut exactly, surfaces and volumes keep the predicate.

    The measure of what is kept of a surface or a volume is the kept share of 2^14 Sobol points.
    """
    if chart.k == 1 and chart.keep is None and not chart.scattered:
        stretches = _changes(chart, keep)
        return [chart] if stretches == [(0.0, 1.0)] else [_stretch(chart, a, b) for a, b in stretches]
    u = torch.zeros(1, 0, dtype=REAL)
    if chart.k:
        u, _ = sampling.sobol(PROBE, chart.k, torch.Generator().manual_seed(0))
    x, normal = chart.place(u)
    before = torch.ones(len(x), dtype=torch.bool) if chart.keep is None else chart.keep(x, normal)
    mask = before & keep(x, normal)
    if not mask.any():
        return []
    if torch.equal(mask, before):
        return [chart]
    old = chart.keep
    both = keep if old is None else (lambda x, normal: old(x, normal) & keep(x, normal))
    part = float(mask.sum()) / float(before.sum())
    return [replace(chart, measure=chart.measure * part, rule=None, keep=both, share=float(mask.double().mean()))]
