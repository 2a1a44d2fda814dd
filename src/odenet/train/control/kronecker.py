"""The maximum principle with changes measured by the Fisher matrix: K-FAC and SNOpt from the statistics of a sweep.

With states and costates frozen, the step of a weight W that is used as y = W x + b is that of `proximal` in another
metric, with C = sum of E[x^ x^^T] over places and B = mean of E[r r^T] over them, both from `affine`:

    max_D <P, D> - rho / 2 <D, (F + eps I) D>,   F = C (x) B:   D = (1/rho) U [U^T P V / (m + eps)] V^T

in the orthonormal eigenvectors U of B and V of C, where m, the diagonal of F, is the outer product of eigenvalues: F is
damped by eps itself, and no split of eps between two factors is needed. Where W acts as y = W^T z too, F has a second
product, of what left and entered there, and for K = W - W^T + const every product stands twice, as C (x) B + B (x) C.
U and V are then eigenvectors of the partial traces of F, and m is still its diagonal in that basis.

Costates are those of the loss itself, or those of cotangents c of the outputs with mean c c^T = the Hessian of the loss
in the outputs, which make F a block of Gauss-Newton's matrix, the model's own Fisher matrix under mean squares and
cross-entropy. A step is shortened to <D, (F + eps I) D> / 2 <= radius: about how far apart it may carry the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ..methods import METHODS, Advance, Method, Run, trained
from .affine import Affine
from .proximal import Preconditioner, check, preconditioned
from .second_order import curvature

SHARED = {"rho": 10.0, "eps": 1e-2, "memory": 0.9, "refresh": 5, "momentum": 0.0, "radius": 1e-2}
Pairs = list[tuple[Tensor, Tensor]]


class Kronecker(Preconditioner):
    """F of one weight, from statistics averaged over batches, and the solve with F + eps I.

    alpha: the share of m that a step keeps; the rest is S (U^T G V)^2 of the gradient G of S samples
    """

    def __init__(self, seen: Affine, eps: float, memory: float, alpha: float = 1.0) -> None:
        super().__init__(seen)
        self.eps, self.memory, self.alpha = eps, memory, alpha
        self.samples, self.pairs = seen.samples, _pairs(seen)
        self._factor()

    def update(self, seen: Affine) -> None:
        """Average the statistics of a batch in, of inputs and costates; m is that of F again."""
        new, self.samples = _pairs(seen), seen.samples
        self.pairs = [
            (torch.lerp(C, was_C, self.memory), torch.lerp(B, was_B, self.memory))
            for (C, B), (was_C, was_B) in zip(new, self.pairs)
        ]
        self._factor()

    def _factor(self) -> None:
        if self.skew:
            self._factor_skew()
        else:
            self.ties = torch.ones_like(self.pairs[0][0][0, 0])
            self.U, self.V = _eigenvectors(self.pairs), _eigenvectors([(B, C) for C, B in self.pairs])
            self.m = _sum(_along(B, self.U)[:, :, None] * _along(C, self.V)[:, None] for C, B in self.pairs)
        if not self.eps and not bool((self.m > 1e2 * torch.finfo(self.m.dtype).eps * self.m.amax()).all()):
            raise BadInput(
                f"eps=0, but the Fisher matrix of a weight {tuple(self.weight.shape)} is singular, as it is behind "
                "cross-entropy or with fewer samples than inputs; write eps=0.01."
            )

    def _factor_skew(self) -> None:
        """An entry of W is one of K, and its mirror image with the other sign; a bias is a direction of its own."""
        i = self.width - (self.bias is not None)
        square = [(C[:, :i, :i], B) for C, B in self.pairs]
        self.U = self.V = _eigenvectors([*square, *((B, C) for C, B in square)])
        self.m, self.ties = torch.zeros_like(self.U), torch.full_like(self.U[0, 0], 2.0)
        for C, B in square:
            C, B = self.U.mT @ C @ self.U, self.U.mT @ B @ self.U
            c, b = C.diagonal(dim1=-2, dim2=-1), B.diagonal(dim1=-2, dim2=-1)
            straight = b[:, :, None] * c[:, None]
            self.m += (straight + straight.mT - 2 * (B * C - torch.diag_embed(b * c))).clamp(min=0)
        if self.bias is not None:
            C, B = self.pairs[0]
            self.m = torch.cat((self.m, _along(B, self.U)[:, :, None] * C[:, i:, i:]), -1)
            self.ties, self.V = F.pad(self.ties, (0, 1), value=1.0), F.pad(self.V, (0, 1, 0, 1))
            self.V[:, i, i] = 1.0

    def direction(self, G: Tensor) -> Tensor:
        """(F + eps I)^-1 G for gradients (N, o, i or i + 1)."""
        g = self.U.mT @ G @ self.V
        if self.alpha < 1:
            self.m = torch.lerp(self.samples * g**2, self.m, self.alpha)
        return self.U @ (g / (self.ties * self.m + self.eps)) @ self.V.mT


def _pairs(seen: Affine) -> Pairs:
    """(C, B) of y = W x^, and of y = W^T z what left and what entered there."""
    assert seen.left is not None
    pairs = [(seen.entered, seen.left)]
    if seen.turned is not None and seen.back is not None:
        pairs.append((F.pad(seen.back, (0, int(seen.bias is not None)) * 2), seen.turned))
    return pairs


def _eigenvectors(pairs: Pairs) -> Tensor:
    """Those of the partial trace sum trace(C) B."""
    traced = _sum(C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * B for C, B in pairs)
    scaled = traced / traced.abs().amax((-2, -1), keepdim=True)
    return torch.linalg.eigh(torch.nan_to_num(scaled, nan=0.0))[1]  # what is not finite shows in the step


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _along(B: Tensor, U: Tensor) -> Tensor:
    """u^T B u of the columns u of U, (N, o)."""
    return (U * (B @ U)).sum(-2).clamp(min=0)


def roots(loss: Callable[[Tensor], Tensor], z: Tensor, draws: int) -> list[Tensor]:
    """Cotangents c of outputs z (S, ...), mean losses of S samples; for every sample sum c c^T = Hessian / S.

    draws: 0: the columns of a root of the Hessian, as many as components of an output; else so many combinations of
    these with random signs, of which it holds in the mean. The Hessian is kept, D^2 numbers for a sample
    """
    S, D = len(z), z[0].numel()
    eye = torch.eye(D, dtype=z.dtype, device=z.device).view(*z.shape[1:], D)
    H = curvature(loss, z)(eye.expand(S, *eye.shape)).reshape(S, D, D)
    values, Q = torch.linalg.eigh(torch.nan_to_num(H))
    root = Q * (values.clamp(min=0) / S).sqrt()[:, None]
    if draws:
        signs = 2 * torch.randint(0, 2, (S, D, draws), device=z.device).to(z) - 1
        root = root @ signs / draws**0.5
    return [c.view_as(z) for c in root.unbind(-1)]


def natural(**defaults: Any) -> Callable[[Run], Advance]:
    """A step of length 1/rho along (F + eps I)^-1 P for matrices and kernels, a step of Adam of size lr for the rest.

    rho:      1 / rho is the length; 1 is the whole step of Newton for a linear layer with eps = 0 and draws = 0
    eps:      added to F, in units of squared gradients of one sample
    radius:   of the trust region, math.inf: none
    memory:   of the averages of C and B over batches;  momentum: of the steps
    refresh:  steps between two statistics; every step at first, when they change fast
    alpha:    share of the diagonal m that every step keeps; 1: all of it, until F is renewed
    draws:    None: costates of the loss; 0, 1, 2 ...: see `roots`
    """

    def begin(run: Run) -> Advance:
        own, words = trained(run, tuple(defaults)), {**defaults, **run.options}
        check(words)
        _check(words)

        def begun(seen: Affine) -> Kronecker:
            return Kronecker(seen, words["eps"], words["memory"], words["alpha"])

        if words["draws"] is None:
            return preconditioned(run, own, words, begun, renewed=True)
        if (terminal := run.terminal) is None:
            raise BadInput(
                "the Fisher matrix of the model needs a loss of the net's output alone, without penalty; use method "
                "'snopt', or weight_decay."
            )
        outputs: list[Tensor] = []

        def losses(batch: Any) -> dict[str, Tensor]:
            outputs[:] = [run.net(batch[0])]
            return {"data": terminal(outputs[0], batch)}

        def drawn(batch: Any) -> tuple[Tensor, list[Tensor]]:
            return outputs[0], roots(lambda z: terminal(z, batch), outputs[0].detach(), words["draws"])

        return preconditioned(replace(run, losses=losses), own, words, begun, renewed=True, drawn=drawn)

    return begin


def _check(words: dict[str, Any]) -> None:
    radius, alpha, draws = words["radius"], words["alpha"], words["draws"]
    if not (isinstance(radius, int | float) and radius > 0):
        raise BadInput(
            f"radius={radius!r}: that of the trust region is positive; 0.001 to 0.1 is usual, math.inf none."
        )
    if not (isinstance(alpha, int | float) and 0 <= alpha <= 1):
        raise BadInput(f"alpha={alpha!r}: the share of the second moments that a step keeps is a number from 0 to 1.")
    if draws is not None and not (isinstance(draws, int) and draws >= 0):
        raise BadInput(
            f"draws={draws!r}: so many cotangents for a sample, 0 for all of a root, None for the loss's own."
        )


METHODS.register(
    "kfac",
    Method(
        natural(**SHARED, alpha=1.0, draws=1),
        needs="output",
        cite="Martens & Grosse (2015), ICML, arXiv 1503.05671; Grosse & Martens (2016), ICML, arXiv 1602.01407",
        when="A low loss in few steps of a loss of the net's output alone: one setting for many nets, rho= for lr.",
    ),
)
METHODS.register(
    "snopt",
    Method(
        natural(**SHARED, alpha=0.75, draws=None),
        cite="Liu, Chen & Theodorou (2021), NeurIPS, arXiv 2109.14158",
        when="As kfac for any loss that is a mean over samples, penalties included: no second sweep for statistics.",
    ),
)
