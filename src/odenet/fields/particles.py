"""Interacting particles: the tokens of a transformer as points that move by attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations
from .activations import Activation
from .base import Field, probability
from .recurrent import uniform


def attended(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the tokens: (..., T, D), three times, to (..., T, D)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(-1) @ v


class Tokens(Field):
    """x_i' = A(N x)_i + M(N x_i): attention among the tokens and a two-layer perceptron at each, N a layer norm.

    x (B, T, D); A has `heads` heads, M = K2 s(K1 x + b1) + b2 is 4 D wide. As a split field its explicit part is A and
    its implicit part M: an Euler step of length 1 for one and then for the other ("lie_euler") is the pre-norm encoder
    block. Choose it to run a transformer under another integrator. Lu et al. 2019 (arXiv 1906.02762), section 3;
    Geshkovski et al. 2023 (arXiv 2312.10794). Raises BadInput for a width that the heads cannot share.
    """

    offers = frozenset({"split"})

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        causal: bool = False,
        activation: str | Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(dim, int) or dim < 1 or not isinstance(heads, int) or heads < 1 or dim % heads:
            raise BadInput(f"width={dim!r} cannot be shared among {heads!r} heads; make it a multiple.")
        self.dim, self.heads, self.causal, self.dropout = dim, heads, causal, probability(dropout)
        self.activation = activations.resolve(activation)

    def init(self, generator: torch.Generator | None = None) -> Params:
        D = self.dim
        p: Params = {}
        for name, rows, cols in (("Q", 3 * D, D), ("O", D, D), ("K1", 4 * D, D), ("K2", D, 4 * D)):
            p[name] = uniform((rows, cols), cols**-0.5, generator)
            p[name + "_b"] = uniform((rows,), cols**-0.5, generator)
        for n in "12":
            p |= {"scale" + n: torch.ones(D), "shift" + n: torch.zeros(D)}
        return p

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.explicit(t, y, p) + self.implicit(t, y, p)

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """A(N x); rows of Q are those of queries, keys and values."""
        y = F.layer_norm(y, (self.dim,), p["scale1"], p["shift1"])
        parts = F.linear(y, p["Q"], p["Q_b"]).unflatten(-1, (3, self.heads, self.dim // self.heads))
        q, k, v = parts.movedim(-3, 0).transpose(-3, -2)  # each (B, heads, T, D / heads)
        mixed = attended(q, k, v, self.causal).transpose(-3, -2).flatten(-2)
        return F.linear(mixed, p["O"], p["O_b"])

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """M(N x)."""
        y = F.layer_norm(y, (self.dim,), p["scale2"], p["shift2"])
        return F.linear(self.activation.f(F.linear(y, p["K1"], p["K1_b"])), p["K2"], p["K2_b"])

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, causal={self.causal}"


class Attraction(Field):
    """x_i' = P_i sum_j softmax_j(beta <x_i, x_j>) x_j on the unit sphere, P_i = I - x_i x_i^T: attention alone, Q = K =
    sqrt(beta) I and V = I.

    x (B, T, D) with |x_i| = 1, which the flow keeps; no weights. Tokens gather in clusters, and in one point from
    almost every start in a hemisphere. Choose it to see what attention does without anything else. Two tokens with
    <x_1, x_2> = u move by u' = 2 (1 - u^2)/(1 + e^{beta (1 - u)}). Geshkovski et al. 2023 (arXiv 2312.10794), eq. SA.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def init(self, generator: torch.Generator | None = None) -> Params:
        return {}

    def forward(self, t: Time, y: State, p: Params) -> State:
        pull = (self.beta * y @ y.transpose(-2, -1)).softmax(-1) @ y
        return pull - (pull * y).sum(-1, keepdim=True) * y

    def extra_repr(self) -> str:
        return f"beta={self.beta}"
