"""The maximum principle with its argmax in closed form: one sweep and one linear solve for every matrix and kernel.

Split a layer into an affine map y = W x^ (x^ = (x, 1) where a bias belongs to W) and what is done with y. With states
and costates frozen the augmented Hamiltonian is a concave quadratic in W, with the maximiser

    max_W <P, W> - rho / 2 (1/S) sum |(W - W_k) x^|^2 - rho eps / 2 |W - W_k|^2:   W = W_k + (1/rho) P (C + eps I)^-1

P and C from `affine`, C averaged over the batches, eps in units of trace(C) / d. What a flow repeats in its stages and
steps is averaged over them and weighted by the length h of its knot intervals, so rho is in units of velocities as in
`augmented`. Used as y = W x and y = W^T z, a weight solves B D + D A = P / rho instead, with the statistics A of x and
B of z; where K = W - W^T + const is the matrix, D_K C + C D_K = (P - P^T) / rho and D = D_K / 2.

This is gradient descent preconditioned from the right: K-FAC with the identity in the place of its output factor, close
to FOOF (Benzing 2022) and LocoProp (Amid et al. 2022); control theory derives it, and says what rho means.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadInput, Incompatible
from ..methods import METHODS, Advance, Method, Run, total_of, trained
from .affine import Affine, gather

OPTIONS = ("rho", "eps", "memory", "refresh", "momentum")
SEEN = 1e-3  # relative difference of -P and the gradient below which P is all there is (float32)


class Preconditioner(ABC):
    """What turns the gradient of one weight, and of its bias, into the direction of its step."""

    def __init__(self, seen: Affine) -> None:
        self.weight, self.bias, self.skew = seen.weight, seen.bias, seen.skew
        self.layers, self.width = seen.entered.shape[:2]

    @abstractmethod
    def update(self, seen: Affine) -> None:
        """Average the statistics of a batch in."""

    @abstractmethod
    def direction(self, G: Tensor) -> Tensor:
        """The direction for gradients G (N, o, i or i + 1) of the N layers of the weight."""


class Proximal(Preconditioner):
    """The statistics of one weight, averaged over batches, and the solve with them.

    length: of the knot intervals in which a layer acts, over the number of places (N,); 1 outside of flows
    """

    def __init__(self, seen: Affine, length: Tensor, eps: float, memory: float) -> None:
        super().__init__(seen)
        self.length, self.eps, self.memory = length, eps, memory
        self.entered, self.turned = seen.entered, seen.turned
        self._factor()

    def update(self, seen: Affine) -> None:
        """Average the statistics of a batch in, those of inputs."""
        self.entered = torch.lerp(seen.entered, self.entered, self.memory)
        if self.turned is not None and seen.turned is not None:
            self.turned = torch.lerp(seen.turned, self.turned, self.memory)
        self._factor()

    def _factor(self) -> None:
        A = self._damped(self.entered)
        B = None if self.turned is None else self._damped(self.turned)
        if B is None and not self.skew:
            self.inverse = self._inverse(A)
            return
        i = A.shape[-1] - (self.bias is not None)
        self.mean, self.corner = A[:, :i, i:], A[:, i:, i:]
        A = A[:, :i, :i]
        if self.bias is not None:  # eliminated: what is left is the covariance
            A = A - self.mean @ self.mean.mT / self.corner
        if self.skew and B is not None:
            A, B = A + B, None
        self.a, self.Q = torch.linalg.eigh(A)
        self.b, self.U = (self.a, self.Q) if B is None else torch.linalg.eigh(B)
        if not self.eps:
            self._solvable((self.b[:, :, None] + self.a[:, None]).flatten(1))

    def _damped(self, C: Tensor) -> Tensor:
        shift = self.eps * C.diagonal(dim1=-2, dim2=-1).mean(-1)
        tiny = torch.finfo(C.dtype).tiny if self.eps else 0.0  # nothing entered: nothing to be solved for either
        return C + (shift + tiny)[:, None, None] * torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)

    def _inverse(self, A: Tensor) -> Tensor:
        L, info = torch.linalg.cholesky_ex(A)
        if not self.eps:
            self._solvable(L.diagonal(dim1=-2, dim2=-1).square(), bool(info.any()))
        return torch.cholesky_inverse(L)

    def _solvable(self, pivots: Tensor, broken: bool = False) -> None:
        """Raise BadInput for a matrix that has no inverse to working precision."""
        low, high = pivots.amin(-1), pivots.amax(-1)
        if broken or not bool((low > 1e2 * torch.finfo(pivots.dtype).eps * high).all()):
            raise BadInput(
                f"eps=0, but the inputs of a weight {tuple(self.weight.shape)} do not span their {pivots.shape[-1]} "
                "dimensions, so its closed form has no solution; write eps=0.3, or take more samples at once."
            )

    def direction(self, G: Tensor) -> Tensor:
        """D with D A (+ B D) = G for gradients (N, o, i or i + 1), divided by the length."""
        return self._solved(G) / self.length[:, None, None]

    def _solved(self, G: Tensor) -> Tensor:
        if self.turned is None and not self.skew:
            return G @ self.inverse
        i = len(self.Q[0])
        W, g = G[..., :i], G[..., i:]
        if self.bias is not None:
            W = W - g @ self.mean.mT / self.corner
            if self.skew:
                W = W + self.mean @ g.mT / self.corner
        D = self.U @ (self.U.mT @ W @ self.Q / (self.b[:, :, None] + self.a[:, None])) @ self.Q.mT
        if self.bias is None:
            return D / 2 if self.skew else D
        return torch.cat((D / 2 if self.skew else D, (g - D @ self.mean) / self.corner), -1)


def lengths(net: nn.Module) -> dict[int, Tensor]:
    """id -> lengths of the knot intervals in which each layer of a flow's weight acts."""
    from ...flow import Flow

    found: dict[int, Tensor] = {}
    for flow in (m for m in net.modules() if isinstance(m, Flow)):
        h = abs(flow.span[1] - flow.span[0]) / flow.steps
        for p in flow.weights.values():
            found[id(p)] = torch.full((len(p),), h * flow.steps / len(p))
        for p in () if flow.module is None else flow.module.parameters():
            found[id(p)] = torch.full((1,), h * flow.steps)
    return found


def samples_of(batch: Any) -> int:
    """S: entries on the first axis of the first tensor of a batch."""
    while not isinstance(batch, Tensor):
        parts = list(batch.values()) if isinstance(batch, dict) else batch
        if not isinstance(parts, tuple | list) or not parts:
            return 1
        batch = parts[0]
    return len(batch) if batch.dim() else 1


def prox_msa(run: Run) -> Advance:
    """A step of length 1/rho along P (C + eps I)^-1 for matrices and kernels, a step of Adam of size lr for the rest.

    rho:      weight of the penalty; under a schedule it grows as a learning rate would fall
    eps:      added to C, in units of its mean diagonal entry; small ones fit the noise in directions of small inputs
    memory:   of the average of C over batches;  momentum: of the steps
    refresh:  steps between two statistics; every step at first, when they change fast

    The rest are biases that are added elsewhere than with their matrix, norms, coefficients, and weights that do more
    than act on states, such as a kernel and its transpose: those whose gradient P is not, on the first batch. The
    history has the share of entries that are solved for as "solved".
    """
    words = {"rho": 5.0, "eps": 0.3, "memory": 0.9, "refresh": 5, "momentum": 0.0, **run.options}
    own = trained(run, OPTIONS)
    check(words)
    span = lengths(run.net)

    def begun(seen: Affine) -> Proximal:
        length = span.get(id(seen.weight))
        scale = torch.ones(len(seen.places)) if length is None else length / seen.places
        return Proximal(seen, scale.to(seen.entered), words["eps"], words["memory"])

    return preconditioned(run, own, words, begun)


def preconditioned(
    run: Run,
    own: list[nn.Parameter],
    words: dict[str, Any],
    begun: Callable[[Affine], Preconditioner],
    renewed: bool = False,
    drawn: Callable[[Any], tuple[Tensor, Sequence[Tensor]]] | None = None,
) -> Advance:
    """Steps of length 1 / rho along the directions of preconditioners, and of Adam for the weights without one.

    words:   rho, momentum, refresh and perhaps the radius of a trust region
    begun:   the preconditioner of a weight from its first batch
    renewed: its updates need costates too: those of the loss or, with `drawn`, of other cotangents (see `gather`)
    """
    mine = dict[int, Preconditioner]()
    optimisers: list[torch.optim.Optimizer] = []
    schedules: list[Any] = []
    k, radius = 0, words.get("radius", math.inf)

    def look(losses: Callable[[], Tensor], batch: Any, costates: bool) -> tuple[list[Tensor | None], list[Affine]]:
        other = None if drawn is None else lambda: drawn(batch)
        return gather(own, losses, samples_of(batch), costates=costates, drawn=other)

    def begin(losses: Callable[[], Tensor], batch: Any, before: dict[str, Tensor]) -> list[Tensor | None]:
        """The first batch decides which weights are preconditioned."""
        gradients, seen = look(losses, batch, True)
        if not math.isfinite(float(total_of(before).detach())):
            return gradients
        at = {id(p): g for p, g in zip(own, gradients)}
        for one in (_whole(s, at, taken(mine)) for s in seen):
            if one is not None:
                mine[id(one.weight)] = begun(one)
        if not mine:
            raise Incompatible(
                f"no weight of {type(run.net).__name__} is seen as a matrix or kernel that acts on states, so there is "
                "nothing to solve for; write gradient='autograd' where a flow recomputes its states, or method='adam'."
            )
        held = taken(mine)
        solved, rest = [p for p in own if id(p) in held], [p for p in own if id(p) not in held]
        optimisers.append(torch.optim.SGD(solved, lr=1 / words["rho"], momentum=words["momentum"]))
        if rest:
            optimisers.append(torch.optim.Adam(rest, lr=run.lr, weight_decay=run.weight_decay))
        if run.schedule is not None:
            schedules.extend(run.schedule(o) for o in optimisers)
        run.notes["solved"] = sum(p.numel() for p in solved) / sum(p.numel() for p in own)
        return gradients

    def advance(batch: Any) -> dict[str, Tensor]:
        nonlocal k
        before: dict[str, Tensor] = {}

        def losses() -> Tensor:
            before.update(run.losses(batch))
            return total_of(before)

        gradients: Sequence[Tensor | None]
        if not optimisers:
            gradients = begin(losses, batch, before)
        elif k % min(words["refresh"], 1 + k // 10):  # they change fast at first
            gradients = torch.autograd.grad(losses(), own, allow_unused=True)
        else:
            gradients, seen = look(losses, batch, renewed)
            if math.isfinite(float(total_of(before).detach())):
                for new in seen:
                    if (one := mine.get(id(new.weight))) is not None:
                        one.update(new.alone() if one.bias is None and new.bias is not None else new)
        if not math.isfinite(float(total_of(before).detach())):
            return before
        for p, g in zip(own, gradients):
            p.grad = g
        if run.clip is not None:
            nn.utils.clip_grad_norm_(own, run.clip)
        moved = torch.stack([_precondition(one, run.weight_decay) for one in mine.values()]).sum()
        if radius < math.inf:  # moved / rho^2 is D' F D of the step
            share = (2 * radius * words["rho"] ** 2 / moved).sqrt().clamp(max=1.0)
            for group in optimisers[0].param_groups:
                for p in group["params"]:
                    p.grad *= share
        for stepped in (*optimisers, *schedules):
            stepped.step()
        k += 1
        return before

    return advance


def taken(mine: dict[int, Preconditioner]) -> set[int]:
    """ids of the weights and biases that are solved for."""
    return {id(p) for one in mine.values() for p in (one.weight, one.bias) if p is not None}


@torch.no_grad()
def _whole(seen: Affine, gradients: dict[int, Tensor | None], held: set[int]) -> Affine | None:
    """What was seen where the gradient consists of it alone, without the bias where that has other uses too."""
    for one in (seen, seen.alone()) if seen.bias is not None else (seen,):
        G, g = gradients[id(one.weight)], None if one.bias is None else gradients[id(one.bias)]
        if G is not None and (one.bias is None or (g is not None and id(one.bias) not in held)):
            wanted = one.matrix(G, g)
            if bool((one.gradient() - wanted).norm() <= SEEN * wanted.norm()):
                return one
    return None


@torch.no_grad()
def _precondition(one: Preconditioner, weight_decay: float) -> Tensor:
    """Puts the direction D in the place of the gradient G; returns <D, G>."""
    parts = [p for p in (one.weight, one.bias) if p is not None]
    i = one.width - (one.bias is not None)
    slopes = [weight_decay * p if p.grad is None else p.grad + weight_decay * p for p in parts]
    G = torch.cat([g.reshape(one.layers, -1, n) for g, n in zip(slopes, (i, 1))], -1)
    D = one.direction(G)
    for p, d in zip(parts, (D[..., :i], D[..., i:])):
        p.grad = d.reshape(p.shape)
    return (D * G).sum()


def check(words: dict[str, Any]) -> None:
    """Raise BadInput for options of `preconditioned` that cannot be right."""
    rho, eps, memory, refresh, momentum = (words[k] for k in OPTIONS)
    if not (isinstance(rho, int | float) and 0 < rho < math.inf):
        raise BadInput(f"rho={rho!r}: the weight of the penalty is a positive number; 1 to 20 is usual.")
    if not (isinstance(eps, int | float) and 0 <= eps < math.inf):
        raise BadInput(f"eps={eps!r}: what is added to the statistics is no negative number.")
    if not (0 <= memory < 1 and 0 <= momentum < 1):
        raise BadInput(f"memory={memory!r} and momentum={momentum!r} are numbers from 0 to below 1.")
    if not isinstance(refresh, int) or refresh < 1:
        raise BadInput(f"refresh={refresh!r}: statistics are renewed every so many steps, one or more.")


METHODS.register(
    "prox_msa",
    Method(
        prox_msa,
        cite="A proximal step of Li, Chen, Tai & E (2018), JMLR 18(165); as a preconditioner: Benzing (2022), Amid et "
        "al. (2022)",
        when="A low loss in few steps on nets of matrices and kernels: rho= takes the place of lr.",
    ),
)
