"""Derivatives of a row of layers as linear maps that are never formed: one product costs one run of the layers.

    pull(w) = (dy_b/dy_a)^T w by differentiating backwards,   push(v) = (dy_b/dy_a) v by differentiating that again

Every sample has a map of its own, and all are applied at once. From such products come leading singular values
(Golub & Kahan 1965), so states with a hundred thousand entries are analysed as well as those with ten.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import Incompatible
from ..integrators import TwoStep
from .unroll import Layer, Parts, Unrolled

# entries of a state above which no Jacobian is formed: one eigenvalue problem of this size takes a tenth of a second
LARGE = 384
_DIFFERENCE = 1e-6  # relative, of the differences that stand in where a step has no forward derivative


@dataclass(frozen=True)
class Product:
    """dy_end/dy_start along the states of an unrolled model, (P, M, D) maps; flat vectors (P, D) in and (P, M) out."""

    unrolled: Unrolled
    start: int = 0
    end: int = -1

    @property
    def last(self) -> int:
        return self.unrolled.depth if self.end < 0 else self.end

    @property
    def shape(self) -> tuple[int, int]:
        """(M, D)."""
        states = self.unrolled.states
        return states[self.last][0][0].numel(), states[self.start][0][0].numel()

    def push(self, v: Tensor) -> Tensor:
        """(dy_end/dy_start) v; v (P, D), or (k P, D) for k vectors per sample, all first ones first."""
        return torch.cat([self._push(part) for part in v.split(len(self.unrolled.x))])

    def _push(self, v: Tensor) -> Tensor:
        if self._dual is not None:
            w, moved = self._dual
            if not moved.requires_grad:
                return torch.zeros_like(w).flatten(1)
            try:
                (found,) = torch.autograd.grad(moved, w, v, retain_graph=True, allow_unused=True)
                return torch.zeros_like(w).flatten(1) if found is None else found.flatten(1)
            except (Incompatible, RuntimeError):  # a step that is differentiated once
                self.__dict__["_dual"] = None
        at = self.unrolled.states[self.start]
        first = v.reshape(at[0].shape)
        return pushed(self._run, at, _with_memory(first, at, self._layer))[0].flatten(1)

    def pull(self, w: Tensor) -> Tensor:
        """(dy_end/dy_start)^T w; w (P, M)."""
        return self._pulled(w.reshape(self._graph[1].shape), False)

    def _pulled(self, w: Tensor, again: bool) -> Tensor:
        inputs, out = self._graph
        if not out.requires_grad:
            return w.new_zeros(len(w), self.shape[1])
        found = torch.autograd.grad(out, inputs, w, retain_graph=True, create_graph=again, allow_unused=True)
        moved = [torch.zeros_like(p) if g is None else g for g, p in zip(found, inputs)]
        total = moved[0] + moved[1] if _follows(inputs, self._layer) else moved[0]
        return total.flatten(1)

    @cached_property
    def _dual(self) -> tuple[Tensor, Tensor] | None:
        """(w, J^T w) with its graph: J v = d/dw <v, J^T w>, faster than forward differentiation."""
        w = torch.zeros_like(self._graph[1], requires_grad=True)
        try:
            with torch.enable_grad():
                return w, self._pulled(w, True)
        except (Incompatible, RuntimeError):
            return None

    @property
    def _layer(self) -> Layer | None:
        return self.unrolled.layers[self.start] if self.start < self.last else None

    def _run(self, parts: Parts) -> Parts:
        for layer in self.unrolled.layers[self.start : self.last]:
            parts = layer.run(parts)
        return (parts[0],)

    @cached_property
    def _graph(self) -> tuple[Parts, Tensor]:
        inputs = tuple(p.detach().requires_grad_() for p in self.unrolled.states[self.start])
        with torch.enable_grad():
            return inputs, self._run(inputs)[0]


def _follows(parts: Parts, layer: Layer | None) -> bool:
    """Whether the memory is y_{j-1}, which moves along with y_j (see `sensitivity`)."""
    interval = None if layer is None else layer.interval
    return interval is not None and isinstance(interval.flow.integrator, TwoStep) and len(parts) > 1


def _with_memory(first: Tensor, parts: Parts, layer: Layer | None) -> Parts:
    moved = [first, *(torch.zeros_like(p) for p in parts[1:])]
    if _follows(parts, layer):
        moved[1] = first
    return tuple(moved)


def pushed(run: Callable[[Parts], Parts], at: Parts, v: Parts) -> Parts:
    """(d run/d parts) v: exact, or by central differences (to 1e-9) where a step offers no forward derivative."""
    try:
        with warnings.catch_warnings(), torch.no_grad(), forward_ad.dual_level():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch scripts some derivatives on first use
            out = run(tuple(forward_ad.make_dual(p, w) for p, w in zip(at, v)))
            pairs = [forward_ad.unpack_dual(p) for p in out]
            return tuple(torch.zeros_like(p) if t is None else t for p, t in pairs)
    except (NotImplementedError, Incompatible, RuntimeError):
        size = math.sqrt(sum(float((p**2).sum()) for p in at)) or 1.0
        length = math.sqrt(sum(float((w**2).sum()) for w in v)) or 1.0
        e = _DIFFERENCE * size / length
        with torch.no_grad():
            ahead, behind = (run(tuple(p + s * e * w for p, w in zip(at, v))) for s in (1.0, -1.0))
        return tuple((a - b) / (2 * e) for a, b in zip(ahead, behind))


@dataclass(frozen=True)
class Leading:
    """Largest singular values (P, k) in falling order, with right singular vectors (P, D, k)."""

    values: Tensor
    vectors: Tensor


def leading(
    push: Callable[[Tensor], Tensor],
    pull: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int = 24,
) -> Leading:
    """Leading singular values of maps J by Golub-Kahan-Lanczos bidiagonalisation from `start` (P, D), reorthogonalised.

    The accelerated power iteration on J^T J: after k steps no value exceeds the true one, and all are exact once k
    reaches the rank. Cost: one push and one pull per step. Golub & Kahan 1965.
    """
    v = start / start.norm(dim=1, keepdim=True).clamp(min=1e-300)
    V: list[Tensor] = [v]
    U: list[Tensor] = []
    diagonal: list[Tensor] = []
    above: list[Tensor] = []
    for n in range(steps):
        u = push(V[-1]) - (above[-1] * U[-1] if U else 0.0)
        u, alpha = _orthonormal(u, U)
        U.append(u)
        diagonal.append(alpha)
        if n + 1 == steps or len(V) == start.shape[1]:
            break
        w, beta = _orthonormal(pull(u) - alpha * V[-1], V)
        if not bool((beta > 0).any()):
            break
        above.append(beta)
        V.append(w)
    count = len(diagonal)
    B = torch.diag_embed(torch.cat(diagonal, 1))
    for n, beta in enumerate(above[: count - 1]):
        B[:, n, n + 1] = beta[:, 0]
    _, values, rights = torch.linalg.svd(B.cpu())
    basis = torch.stack(V[:count], dim=2)
    return Leading(values.to(start.device), basis @ rights.mT.to(basis))


def _orthonormal(x: Tensor, basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """x made orthogonal to the basis twice and normalised, and its norm (P, 1); zeros where nothing is left."""
    before = x.norm(dim=1, keepdim=True)
    for _ in range(2):
        for b in basis:
            x = x - (b * x).sum(1, keepdim=True) * b
    size = x.norm(dim=1, keepdim=True)
    kept = size > 1e-13 * before
    return torch.where(kept, x / size.clamp(min=1e-300), torch.zeros_like(x)), torch.where(kept, size, 0.0 * size)


def directions(count: int, size: int, like: Tensor, seed: int = 0) -> Tensor:
    """Random vectors (count, size) of length 1, the same for every device and precision."""
    v = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (v / v.norm(dim=1, keepdim=True)).to(like)


def largest(unrolled: Unrolled) -> int:
    """Entries of the largest state, its memory included."""
    return max(sum(part[0].numel() for part in state) for state in unrolled.states)


def amplification(unrolled: Unrolled, steps: int = 24, draws: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """How far a perturbation of y_0 gets: root mean square |J d|/|d| over `draws` random d, and the worst |J|_2, (P,).

    J = dy_N/dy_0, by products with J and J^T alone, whatever the size of the state. Choose it where J is too large to
    be formed; `sensitivity` has the same numbers from J itself.
    """
    J = Product(unrolled)
    width = J.shape[1]
    v = directions(draws * len(unrolled.x), width, unrolled.states[0][0], seed)
    seen = J.push(v).norm(dim=1).reshape(draws, -1)
    found = leading(J.push, J.pull, v[: len(unrolled.x)], min(steps, *J.shape))
    return (seen**2).mean(0).sqrt(), found.values[:, 0]
