"""Weights that are rounded on the way forwards while real ones are kept behind them: the baseline of discrete training.

With u the real weights in units of s, one over the root of the fan-in, the net computes with s r(u), and the gradient
with respect to u is that at the rounded weights where |u| <= 1 and zero elsewhere, as if r were the identity there:

    binary:   r(u) = sign u
    ternary:  r(u) = a sign u where |u| > D, else 0;   D = 0.7 mean |u|,  a = mean |u| over the entries above D

The ternary rule is nearly the minimiser of |u - a t|^2 over a > 0 and t in {-1, 0, 1}. Adam moves u, which is kept in
[-1, 1]; between steps the net holds the rounded weights, so that what is scored, saved and packed is what was trained.

Courbariaux, Hubara, Soudry, El-Yaniv & Bengio (2016), Binarized neural networks, arXiv 1602.02830, equation 4;
Li, Zhang & Liu (2016), Ternary weight networks, arXiv 1605.04711, equation 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import BadInput
from ..methods import METHODS, Advance, Method, Run, descending, trained
from .discrete import matrices, written

SHARE = 0.7  # of the mean size, below which a ternary weight is zero


@dataclass
class Rounded:
    """One weight tensor of the net, and the real weights behind it.

    real: u, in units of `scale`; rows: whether the first axis runs over the layers of a flow
    """

    weight: nn.Parameter
    real: nn.Parameter
    scale: float
    ternary: bool
    rows: bool

    @classmethod
    def begun(cls, weight: nn.Parameter, ternary: bool, rows: bool) -> Rounded:
        """The weights there are as the real ones."""
        scale = math.prod(weight.shape[1 + rows :]) ** -0.5
        return cls(weight, nn.Parameter(weight.detach() / scale), scale, ternary, rows)

    @torch.no_grad()
    def write(self) -> None:
        """Rounded weights into the net, from real ones in [-1, 1]."""
        self.real.clamp_(-1.0, 1.0)
        self.weight.copy_(self.scale * rounded(self.real, self.ternary, self.rows))

    @torch.no_grad()
    def pull(self) -> None:
        """The gradient of the real weights from that at the rounded ones."""
        found = self.weight.grad
        self.real.grad = None if found is None else self.scale * found * (self.real.abs() <= 1)


def rounded(u: Tensor, ternary: bool, rows: bool = False) -> Tensor:
    """r(u), with a threshold and a size for every row of the first axis where it runs over layers."""
    if not ternary:
        return torch.where(u >= 0, 1.0, -1.0).to(u)
    parts = u.flatten(1) if rows else u.reshape(1, -1)
    kept = parts.abs() > SHARE * parts.abs().mean(1, keepdim=True)
    a = (parts.abs() * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    return (a * parts.sign() * kept).view_as(u)


def _straight_through(ternary: bool) -> Callable[[Run], Advance]:
    def begin(run: Run) -> Advance:
        parameters = trained(run, ())
        if run.weight_decay:
            raise BadInput("weights that are rounded in the end have no decay; leave weight_decay out.")
        mine = [Rounded.begun(p, ternary, rows) for p, rows in matrices(run.net)]
        taken = {id(one.weight) for one in mine}
        moved = [one.real for one in mine] + [p for p in parameters if id(p) not in taken]
        for one in mine:
            one.write()

        def pull() -> None:
            for one in mine:
                one.pull()

        return descending(run, torch.optim.Adam(moved, lr=run.lr), pull, written(run, mine, ternary))

    return begin


METHODS.register(
    "binary_ste",
    Method(
        _straight_through(False),
        batch=100,
        cite="Courbariaux, Hubara, Soudry, El-Yaniv & Bengio (2016), arXiv 1602.02830",
        when="Weights of one bit by a rounding that the gradient does not see: the baseline of binary_msa.",
    ),
)
METHODS.register(
    "ternary_ste",
    Method(
        _straight_through(True),
        batch=100,
        cite="Li, Zhang & Liu (2016), arXiv 1605.04711",
        when="Weights -a, 0, a by rounding; about half of them are zero, where ternary_msa can have fewer.",
    ),
)
