"""Weights of two or three values, chosen by the maximum principle: no derivative of a rounding is needed.

A layer that is linear in W = s V has the Hamiltonian H = <M, V> - lambda |V|_1 with M = -dJ/dV, so that over V in
{-1, 1} or {-1, 0, 1} it is maximised entry by entry. M is averaged over the batches, and an entry changes only where
the average says so clearly:

    M_bar <- alpha M_bar + (1 - alpha) M,       rho_k = rho max{|M_bar_ij| : sign M_bar_ij differs from V_ij}
    binary:   V_ij = sign M_bar_ij where |M_bar_ij| > rho_k, else as it was
    ternary:  V_ij = argmax over v in {-1, 0, 1} of M_bar_ij v - lambda |v| - rho_k (v - V_ij)^2

Li & Hao (2018), An optimal control approach to deep learning and applications to discrete-weight neural networks, ICML,
arXiv 1803.01299. Two things differ from it. lambda is in units of an average of max |M_bar|, because in absolute units
the same number means no sparsity for one net and nothing but zeros for another. And s is one number for each layer,
trained by gradient descent from one over the root of the fan-in: there, batch normalisation behind every layer takes
care of the size, and nets without it cannot reach outputs large enough at a fixed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadInput
from ..methods import METHODS, Advance, Method, Run, descending, trained

MEMORY = 0.01  # of the average of max |M_bar|: long, so that what fades once the data are learned becomes zero
OPTIONS = ("rho", "alpha", "anneal", "sparsity")


@dataclass
class Discrete:
    """One weight tensor of values -s, (0,) s, and what its changes are decided by.

    rows:    whether the first axis runs over the layers of a flow, each with a trust region and a size of its own
    size:    log s, trained by gradient descent, (parts, 1); signs, average (parts, entries), largest (parts, 1)
    """

    weight: nn.Parameter
    size: nn.Parameter
    ternary: bool
    rows: bool
    signs: Tensor
    average: Tensor
    largest: Tensor

    @classmethod
    @torch.no_grad()
    def begun(cls, weight: nn.Parameter, ternary: bool, rows: bool) -> Discrete:
        """The signs of the weights there are; of three values, zero for the third that is smallest."""
        axes = weight.shape[1:] if rows else weight.shape
        scale = math.prod(axes[1:]) ** -0.5
        small = weight.abs().flatten().quantile(1 / 3) if ternary and weight.numel() < 2**24 else weight.new_zeros(())
        signs = torch.where(weight >= 0, 1.0, -1.0).to(weight) * (weight.abs() >= small)
        signs = signs.reshape(len(weight) if rows else 1, -1)
        size = nn.Parameter(torch.full_like(signs[:, :1], math.log(scale)))
        one = cls(weight, size, ternary, rows, signs, torch.zeros_like(signs), torch.zeros_like(size))
        one.write()
        return one

    @torch.no_grad()
    def choose(self, alpha: float, rho: float, sparsity: float) -> None:
        """The signs from the gradient of the batch, which is handed on to the size: dJ / d log s = <dJ/dV, V>."""
        assert self.weight.grad is not None
        slope = self.size.exp() * self.weight.grad.reshape(self.signs.shape)
        self.size.grad = (slope * self.signs).sum(1, keepdim=True)
        M = self.average.mul_(alpha).sub_((1 - alpha) * slope)
        wrong = M.sign() != self.signs
        bound = rho * torch.where(wrong, M.abs(), torch.zeros_like(M)).amax(1, keepdim=True)  # zero where none is wrong
        largest = M.abs().amax(1, keepdim=True)
        self.largest.lerp_(largest, MEMORY) if bool(self.largest.any()) else self.largest.copy_(largest)
        self.signs = chosen(M, self.signs, bound, sparsity * self.largest, self.ternary)

    @torch.no_grad()
    def write(self) -> None:
        """s times the signs into the net."""
        self.weight.copy_((self.size.exp() * self.signs).reshape(self.weight.shape))


def chosen(M: Tensor, w: Tensor, rho: Tensor, penalty: Tensor, ternary: bool) -> Tensor:
    """The values in {-1, 1} or {-1, 0, 1} that maximise M v - penalty |v| - rho (v - w)^2."""
    if not ternary:
        return torch.where(M.abs() > rho, M.sign(), w)
    up = rho * (1 - 2 * w) + penalty < M
    down = -rho * (1 + 2 * w) - penalty > M
    return up.to(M) - down.to(M)


def weights_of(net: nn.Module) -> list[tuple[nn.Parameter, bool]]:
    """The matrices and kernels of a net, and whether their first axis runs over the layers of a flow."""
    from ...flow import Flow

    of_flows = {id(p) for m in net.modules() if isinstance(m, Flow) for p in m.weights.values()}
    found = [(p, id(p) in of_flows) for p in net.parameters() if p.requires_grad]
    return [(p, rows) for p, rows in found if p.dim() - rows >= 2]


def matrices(net: nn.Module) -> list[tuple[nn.Parameter, bool]]:
    """`weights_of` a net that has some; raises BadInput otherwise."""
    if found := weights_of(net):
        return found
    raise BadInput(f"{type(net).__name__} has no matrix or kernel whose entries could be discrete.")


def written(run: Run, mine: Sequence[Any], ternary: bool) -> Callable[[], None]:
    """What writes the values of `mine` into the net after a step, and notes the share of those that are not zero."""

    def write() -> None:
        for one in mine:
            one.write()
        if ternary:
            run.notes["nonzero"] = nonzero(one.weight for one in mine)

    return write


def _discrete(ternary: bool, rho: float) -> Callable[[Run], Advance]:
    def begin(run: Run) -> Advance:
        parameters = trained(run, OPTIONS if ternary else OPTIONS[:3])
        words = {"rho": rho, "alpha": 0.99, "anneal": 0.998, "sparsity": 0.2, **run.options}
        _check(words)
        if run.weight_decay:
            raise BadInput("weights -s, 0 and s have no decay; leave weight_decay out, or ask for sparsity.")
        pairs = matrices(run.net)
        mine = [Discrete.begun(p, ternary, rows) for p, rows in pairs]
        taken = {id(p) for p, _ in pairs}
        rest = [one.size for one in mine] + [p for p in parameters if id(p) not in taken]
        fresh = 1 - words["alpha"]

        def choose() -> None:
            nonlocal fresh
            for one in mine:
                one.choose(1 - fresh, words["rho"], words["sparsity"] if ternary else 0.0)
            fresh *= words["anneal"]

        return descending(run, torch.optim.Adam(rest, lr=run.lr), choose, written(run, mine, ternary))

    return begin


def nonzero(weights: Iterable[Tensor]) -> float:
    """The share of entries that are not zero."""
    given = list(weights)
    return sum(int(w.count_nonzero()) for w in given) / sum(w.numel() for w in given)


def _check(words: dict[str, Any]) -> None:
    limits = {"rho": (0, 1), "alpha": (0, 1), "anneal": (0, 1), "sparsity": (0, 1)}
    for name, (low, high) in limits.items():
        if not (isinstance(words[name], int | float) and low <= words[name] <= high):
            raise BadInput(f"{name}={words[name]!r}: a number from {low} to {high}.")
    if words["rho"] == 0 or words["alpha"] == 1:
        raise BadInput("rho > 0 keeps entries that the average is not sure of, and alpha < 1 lets it learn at all.")


METHODS.register(
    "binary_msa",
    Method(
        _discrete(False, 0.9),
        batch=100,
        cite="Li & Hao (2018), arXiv 1803.01299",
        when="Weights of one bit; lr= is of their sizes and of what else there is, such as 1e-2 with a cosine.",
    ),
)
METHODS.register(
    "ternary_msa",
    Method(
        _discrete(True, 0.5),
        batch=100,
        cite="Li & Hao (2018), arXiv 1803.01299",
        when="Weights -1, 0, 1, most of them zero: sparsity= is in units of the largest signal.",
    ),
)
