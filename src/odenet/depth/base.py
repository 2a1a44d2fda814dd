"""theta as a function of depth: a basis in t with coefficients that are learned.

    theta(t) = sum_j B_j(t) c_j,      t in [t_0, t_N],  knots t_0 < ... < t_N

One coefficient tensor `c` has shape (count, *shape): axis 0 runs over the basis. A method never steps over a knot, so
inside an interval theta is smooth and a Runge-Kutta method keeps its order; at a knot theta may jump, and which of the
two values is meant is said by `side`. Looking the piece up by rounding t/h instead makes every scheme with a stage at
the right end of the step first order.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput

Kind = Literal["h1", "h1_unscaled", "l2", "tv"]


class Depth(ABC):
    """A basis B_0, ..., B_{count-1} over the knots; frozen data, the coefficients live elsewhere.

    constant:  theta does not vary inside a knot interval
    local:     every knot interval has weights of its own (what a layer-wise argmax needs)
    """

    constant: bool
    local: bool

    @property
    @abstractmethod
    def points(self) -> int:
        """Gauss points of a knot interval: as many determine a basis function there (degree + 1 of a polynomial)."""

    @abstractmethod
    def count(self, intervals: int) -> int:
        """Number of coefficients for so many knot intervals."""

    @abstractmethod
    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        """Indices of the basis functions that are not zero on interval n of so many."""

    @abstractmethod
    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        """Their values at relative position s in [0, 1] of interval n, a number or a 0-dim tensor."""

    @abstractmethod
    def through(self, values: Tensor) -> Tensor:
        """Initial coefficients from `count` values along depth: equal values give the constant theta."""

    @abstractmethod
    def prolong(self, c: Tensor) -> Tensor:
        """Coefficients over twice as many intervals that give the same theta(t)."""

    @abstractmethod
    def restrict(self, c: Tensor) -> Tensor:
        """Coefficients over half as many intervals; restrict(prolong(c)) == c."""

    def unbind(self, c: Tensor) -> tuple[Tensor, ...]:
        """The coefficient tensors one by one (one node in the autograd graph, not one per use)."""
        return c.unbind(0)

    def value(self, active: Sequence[Tensor], s: Any, n: int, intervals: int) -> Tensor:
        """theta at relative position s of interval n, from the coefficients in its support."""
        if self.constant:
            return active[0]
        basis = self.basis(s, n, intervals)
        terms = [c * b for c, b in zip(active, basis) if isinstance(b, Tensor) or b != 0.0]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def at(self, c: Tensor, t: float, knots: Sequence[float], side: Literal["left", "right"] = "right") -> Tensor:
        """theta(t-) or theta(t+), shape `c.shape[1:]`; at the two ends of the span the side inside is taken.

        Raises BadInput for t outside the knots.
        """
        if not knots[0] <= t <= knots[-1]:
            raise BadInput(f"theta was asked at t = {t}, outside the span [{knots[0]}, {knots[-1]}].")
        intervals = len(knots) - 1
        n = (bisect_right(knots, t) if side == "right" else bisect_left(knots, t)) - 1
        n = min(max(n, 0), intervals - 1)
        s = (t - knots[n]) / (knots[n + 1] - knots[n])
        parts = self.unbind(c)
        return self.value([parts[j] for j in self.support(n, intervals)], s, n, intervals)

    def gram(self, knots: Sequence[float]) -> Tensor:
        """Mass matrix G_ij = integral of B_i B_j dt, shape (count, count), float64.

        A gradient dL/dc turns into the gradient function of the L2 inner product by G^{-1} dL/dc (its Riesz
        representative); dividing by h instead leaves oscillations that refinement does not remove.
        """
        weights, values, _ = _sampled(self, tuple(knots))
        return values.mT @ (weights[:, None] * values)

    def penalty(self, c: Tensor, kind: Kind, knots: Sequence[float], tau: float = 1e-3) -> Tensor:
        """Smoothness or size of theta over depth, a scalar.

        h1            1/2 integral |theta'|^2 dt; where theta jumps from piece to piece of length h, theta' is the
                      difference quotient: 1/(2h) sum |c_{j+1} - c_j|^2
        h1_unscaled   h^2 times that, without the 1/h^2 of a derivative (as some codes have it): h/2 sum of squares
        l2            1/2 integral |theta|^2 dt = 1/2 c^T G c
        tv            integral sum sqrt(theta'^2 + tau) dt, total variation made smooth (Ruthotto & Haber, eq. 13)
        """
        if kind not in ("h1", "h1_unscaled", "l2", "tv"):
            raise BadInput(f"depth penalty {kind!r} is not known; write 'h1', 'h1_unscaled', 'l2' or 'tv'.")
        if kind == "l2":
            gram = self.gram(knots).to(c)
            flat = c.reshape(gram.shape[0], -1)
            return 0.5 * (flat * (gram @ flat)).sum()
        flat, span = c.reshape(c.shape[0], -1), knots[-1] - knots[0]
        if self.constant:
            h = span / len(flat)
            weights, slope = flat.new_tensor(h), (flat[1:] - flat[:-1]) / h
        else:
            h = span / (len(knots) - 1)
            sampled = _sampled(self, tuple(knots))
            weights, slope = sampled[0].to(flat)[:, None], sampled[2].to(flat) @ flat
        if kind == "tv":
            return (weights * torch.sqrt(slope**2 + tau)).sum()
        return 0.5 * (weights * slope**2).sum() * (h**2 if kind == "h1_unscaled" else 1.0)


@lru_cache(maxsize=64)
def _sampled(depth: Depth, knots: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss weights over the span, and values and slopes dB/dt of all basis functions at the nodes, float64.

    Weights (M,), values and slopes (M, count), M = points * intervals.
    """
    intervals, m = len(knots) - 1, depth.points
    nodes, weights = np.polynomial.legendre.leggauss(m)
    legendre, eye = np.polynomial.legendre.legvander(nodes, m - 1), np.eye(m)
    rising = np.stack([np.polynomial.legendre.legval(nodes, np.polynomial.legendre.legder(e)) for e in eye], axis=1)
    derivative = torch.from_numpy(2.0 * rising @ np.linalg.inv(legendre))  # values at the nodes -> d/ds there
    values = torch.zeros(intervals * m, depth.count(intervals), dtype=torch.float64)
    slopes, widths = torch.zeros_like(values), [b - a for a, b in pairwise(knots)]
    for n, width in enumerate(widths):
        rows, index = slice(n * m, (n + 1) * m), list(depth.support(n, intervals))
        at = [depth.basis(0.5 * (1.0 + float(node)), n, intervals) for node in nodes]
        values[rows, index] = torch.tensor(at, dtype=torch.float64)
        slopes[rows, index] = derivative @ values[rows, index] / width
    return torch.tensor([0.5 * w * float(v) for w in widths for v in weights], dtype=torch.float64), values, slopes


def resolve(depth: Depth | str | Mapping[str, Depth | str] | None, names: Iterable[str]) -> dict[str, Depth]:
    """One Depth for each weight name: from a Depth, its name, or a mapping such as {"A": "shared", "*": "per_step"}.

    A name may carry the number of its depth: "spline:2" (degree), "chebyshev:6" (functions), "piecewise_constant:4".
    Raises BadInput for a key that names no weight, an unknown depth, or a weight left without one.
    """
    from . import DEPTHS

    def one(value: Depth | str) -> Depth:
        if isinstance(value, Depth):
            return value
        if isinstance(value, str) and (named := value.partition(":"))[0] in DEPTHS:
            return _made(DEPTHS[named[0]], *named[::2])
        near = difflib.get_close_matches(str(value), DEPTHS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(DEPTHS))}."
        raise BadInput(f"depth {value!r} is neither a Depth nor a known name; {hint}")

    names = list(names)
    if depth is None:
        depth = "per_step"
    if not isinstance(depth, Mapping):
        return dict.fromkeys(names, one(depth))
    strange = sorted(set(depth) - set(names) - {"*"})
    if strange:
        raise BadInput(f"depth names {strange}, but the field's weights are {sorted(names)} (and '*' for the rest).")
    missing = sorted(set(names) - set(depth)) if "*" not in depth else []
    if missing:
        raise BadInput(f"depth says nothing about the weights {missing}; add them or '*' for the rest.")
    return {name: one(depth[name] if name in depth else depth["*"]) for name in names}


def _made(make: Callable[..., Depth], name: str, number: str) -> Depth:
    """The depth of that name; `number` is "" where none was written behind it."""
    if not number:
        return make()
    if not number.isdecimal() or name in ("shared", "per_step", "piecewise_linear"):
        raise BadInput(
            f"depth '{name}:{number}' is not known: a whole number may follow spline, piecewise_constant and the bases "
            "as in 'spline:2'; shared, per_step and piecewise_linear have none."
        )
    return make(int(number))
