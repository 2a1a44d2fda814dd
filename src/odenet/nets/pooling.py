"""Pooling over square windows that do not overlap: (B, C, H, W) -> (B, C, H // k, W // k)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import BadInput


def windows(x: Tensor, k: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H // k, W // k, k k); rows and columns left over are dropped, as in torch.nn."""
    return x.unfold(2, k, k).unfold(3, k, k).flatten(-2)


class StochasticPool(nn.Module):
    """One entry a_i of each window, drawn with probability max(a_i, 0) / sum; when evaluated their mean.

    Regularises without a parameter to tune; made for non-negative activations. A window without a positive
    entry draws all entries with equal probability. M. Zeiler & R. Fergus, ICLR 2013, arXiv 1301.3557.
    """

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        a = windows(x, self.k)
        p = a.clamp(min=0.0)
        p = torch.where(p.sum(dim=-1, keepdim=True) > 0, p, torch.ones_like(p))
        p = p / p.sum(dim=-1, keepdim=True)
        if not self.training:
            return (p * a).sum(dim=-1)
        drawn = torch.multinomial(p.detach().flatten(0, -2), 1).reshape(*a.shape[:-1], 1)
        return a.gather(-1, drawn).squeeze(-1)


POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "max": nn.MaxPool2d,
    "average": nn.AvgPool2d,
    "sum": lambda k: nn.AvgPool2d(k, divisor_override=1),
    "l2": lambda k: nn.LPPool2d(2, k),
    "stochastic": StochasticPool,
}


def pool(kind: str, k: int = 2) -> nn.Module:
    """A pooling layer with k x k windows; raises BadInput for an unknown kind."""
    if kind not in POOLINGS:
        raise BadInput(f"pooling={kind!r} is not known; choose one of {', '.join(POOLINGS)}.")
    return POOLINGS[kind](k)
