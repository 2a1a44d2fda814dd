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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import BadInput

# Gauss-Legendre with four points on [0, 1]: exact to degree 7, enough for products of two cubics
_NODES = (0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970263)
_WEIGHTS = (0.17392742256872693, 0.32607257743127307, 0.32607257743127307, 0.17392742256872693)

Kind = Literal["h1", "h1_unscaled", "l2", "tv"]


class Depth(ABC):
    """A basis B_0, ..., B_{count-1} over the knots; frozen data, the coefficients live elsewhere.

    constant:  theta does not vary inside a knot interval
    local:     every knot interval has weights of its own (what a layer-wise argmax needs)
    """

    constant: bool
    local: bool

    @abstractmethod
    def count(self, intervals: int) -> int:
        """Number of coefficients for so many knot intervals."""

    @abstractmethod
    def support(self, n: int) -> tuple[int, ...]:
        """Indices of the basis functions that are not zero on interval n."""

    @abstractmethod
    def basis(self, s: Any) -> tuple[Any, ...]:
        """Their values at relative position s in [0, 1] of the interval, a number or a 0-dim tensor."""

    @abstractmethod
    def prolong(self, c: Tensor) -> Tensor:
        """Coefficients over twice as many intervals that give the same theta(t)."""

    @abstractmethod
    def restrict(self, c: Tensor) -> Tensor:
        """Coefficients over half as many intervals; restrict(prolong(c)) == c."""

    def unbind(self, c: Tensor) -> tuple[Tensor, ...]:
        """The coefficient tensors one by one (one node in the autograd graph, not one per use)."""
        return c.unbind(0)

    def value(self, active: Sequence[Tensor], s: Any) -> Tensor:
        """theta at relative position s of an interval, from the coefficients in its support."""
        if self.constant:
            return active[0]
        terms = [c * b for c, b in zip(active, self.basis(s)) if isinstance(b, Tensor) or b != 0.0]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def at(self, c: Tensor, t: float, knots: Sequence[float], side: Literal["left", "right"] = "right") -> Tensor:
        """theta(t-) or theta(t+), shape `c.shape[1:]`; at the two ends of the span the side inside is taken.

        Raises BadInput for t outside the knots.
        """
        if not knots[0] <= t <= knots[-1]:
            raise BadInput(f"theta was asked at t = {t}, outside the span [{knots[0]}, {knots[-1]}].")
        n = (bisect_right(knots, t) if side == "right" else bisect_left(knots, t)) - 1
        n = min(max(n, 0), len(knots) - 2)
        s = (t - knots[n]) / (knots[n + 1] - knots[n])
        parts = self.unbind(c)
        return self.value([parts[j] for j in self.support(n)], s)

    def gram(self, knots: Sequence[float]) -> Tensor:
        """Mass matrix G_ij = integral of B_i B_j dt, shape (count, count), float64.

        A gradient dL/dc turns into the gradient function of the L2 inner product by G^{-1} dL/dc (its Riesz
        representative); dividing by h instead leaves oscillations that refinement does not remove.
        """
        size = self.count(len(knots) - 1)
        gram = torch.zeros(size, size, dtype=torch.float64)
        for n in range(len(knots) - 1):
            index, width = self.support(n), knots[n + 1] - knots[n]
            for s, w in zip(_NODES, _WEIGHTS):
                b = torch.tensor(self.basis(s), dtype=torch.float64)
                gram[torch.tensor(index)[:, None], torch.tensor(index)[None, :]] += width * w * torch.outer(b, b)
        return gram

    def penalty(self, c: Tensor, kind: Kind, knots: Sequence[float], tau: float = 1e-3) -> Tensor:
        """Smoothness or size of theta over depth, a scalar.

        h1            1/2 integral |theta'|^2 dt, theta' = (c_{j+1} - c_j)/h: 1/(2h) sum |c_{j+1} - c_j|^2
        h1_unscaled   h/2 sum |c_{j+1} - c_j|^2, without the 1/h^2 of a derivative (as some codes have it)
        l2            1/2 integral |theta|^2 dt = 1/2 c^T G c
        tv            integral sum sqrt(theta'^2 + tau) dt, total variation made smooth (Ruthotto & Haber, eq. 13)
        """
        if kind not in ("h1", "h1_unscaled", "l2", "tv"):
            raise BadInput(f"depth penalty {kind!r} is not known; write 'h1', 'h1_unscaled', 'l2' or 'tv'.")
        if kind == "l2":
            gram = self.gram(knots).to(c)
            flat = c.reshape(gram.shape[0], -1)
            return 0.5 * (flat * (gram @ flat)).sum()
        if c.shape[0] < 2 or self.count(2) == self.count(3):
            return c.sum() * 0.0  # theta does not vary with depth
        width = (knots[-1] - knots[0]) / (len(knots) - 1)
        jump = c[1:] - c[:-1]
        if kind == "tv":
            return width * torch.sqrt((jump / width) ** 2 + tau).sum()
        return 0.5 * (jump**2).sum() * (width if kind == "h1_unscaled" else 1.0 / width)


def resolve(depth: Depth | str | Mapping[str, Depth | str] | None, names: Iterable[str]) -> dict[str, Depth]:
    """One Depth for each weight name: from a Depth, its name, or a mapping such as {"A": "shared", "*": "per_step"}.

    Raises BadInput for a key that names no weight, an unknown depth, or a weight left without one.
    """
    from . import DEPTHS

    def one(value: Depth | str) -> Depth:
        if isinstance(value, Depth):
            return value
        if isinstance(value, str) and value in DEPTHS:
            return DEPTHS[value]()
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
