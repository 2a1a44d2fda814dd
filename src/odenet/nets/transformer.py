"""Attention and the encoder built from it: (B, T, D) -> (B, dim_out)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import BadInput
from .base import net

SCORES = ("dot", "scaled", "bilinear", "additive")


class Attention(nn.Module):
    """Average of values v by the softmax of scores s(q, k) over the keys.

    score:  "dot"       q . k                         (Luong et al. 2015)
            "scaled"    q . k / sqrt(D)               (Vaswani et al. 2017, eq. (1))
            "bilinear"  q . W k                       (Luong et al. 2015, "general")
            "additive"  a . tanh(W q + U k), width D  (Bahdanau, Cho & Bengio 2015)
    q (..., T, D), k (..., S, D), v (..., S, D'), mask (..., T, S) True where t may look at s -> (..., T, D').
    Raises BadInput for an unknown score and for a mask with a row of False.
    """

    def __init__(self, dim: int, score: str = "scaled") -> None:
        super().__init__()
        if score not in SCORES:
            raise BadInput(f"score={score!r} is not known; choose one of {', '.join(SCORES)}.")
        self.score = score
        if score in ("bilinear", "additive"):
            self.W = nn.Linear(dim, dim, bias=False)
        if score == "additive":
            self.U = nn.Linear(dim, dim, bias=False)
            self.a = nn.Linear(dim, 1, bias=False)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """s(q_t, k_s), (..., T, S)."""
        if self.score == "additive":
            both = self.W(q).unsqueeze(-2) + self.U(k).unsqueeze(-3)  # (..., T, S, D)
            return self.a(torch.tanh(both)).squeeze(-1)
        if self.score == "bilinear":
            k = self.W(k)
        product = q @ k.transpose(-2, -1)
        return product / math.sqrt(q.shape[-1]) if self.score == "scaled" else product

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax of the scores over s, (..., T, S); rows sum to 1."""
        s = self.scores(q, k)
        if mask is not None:
            if not bool(mask.any(dim=-1).all()):
                raise BadInput("the attention mask has a row without True: that query could look at nothing.")
            s = s.masked_fill(~mask, -math.inf)
        return s.softmax(dim=-1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.weights(q, k, mask) @ v


class EncoderBlock(nn.Module):
    """x + A(LN x), then x + M(LN x): two Euler steps, of attention between positions and of an MLP at each.

    (B, T, W) -> (B, T, W). causal: a position sees itself and the past only. Equals
    nn.TransformerEncoderLayer(norm_first=True) for score="scaled" and no dropout.
    """

    def __init__(
        self, width: int, heads: int = 4, score: str = "scaled", dropout: float = 0.0, causal: bool = False
    ) -> None:
        super().__init__()
        if width % heads:
            raise BadInput(f"width={width} cannot be shared among {heads} heads; make it a multiple.")
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attend = Attention(width // heads, score)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self._mix(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))

    def _mix(self, x: Tensor) -> Tensor:
        B, T, W = x.shape
        heads = self.qkv(x).reshape(B, T, 3, self.heads, W // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, W / heads)
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril() if self.causal else None
        return self.out(self.attend(q, k, v, mask).transpose(1, 2).reshape(B, T, W))


class Positions(nn.Module):
    """Adds sin(t w_i), cos(t w_i) with w_i = 10000^(-2 i / W) at position t; Vaswani et al. 2017."""

    def forward(self, x: Tensor) -> Tensor:
        T, W = x.shape[-2:]
        t = torch.arange(T, dtype=x.dtype, device=x.device)[:, None]
        column = torch.arange(W, device=x.device)
        angle = t * 10000.0 ** (-(column - column % 2).to(x.dtype) / W)  # (T, W)
        return x + torch.where(column % 2 == 0, angle.sin(), angle.cos())


class MeanOverTime(nn.Module):
    """(B, T, W) -> (B, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


@net(kind="baseline", takes="sequence", cite="A. Vaswani et al., NeurIPS 2017, arXiv 1706.03762")
def attention(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    steps: int = 2,
    heads: int = 4,
    score: str = "scaled",
    dropout: float = 0.0,
    causal: bool = False,
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """`steps` encoder blocks between a linear embedding and a head: (B, T, dim_in) -> (B, dim_out).

    The head reads the mean over time; with every_step each position: (B, T, dim_out). For long sequences
    whose entries refer to one another; costs T^2.
    """
    blocks = [EncoderBlock(width, heads, score, dropout, causal) for _ in range(steps)]
    pooled = [] if every_step else [MeanOverTime()]
    head = nn.Linear(width, dim_out)
    return nn.Sequential(nn.Linear(dim_in, width), Positions(), *blocks, nn.LayerNorm(width), *pooled, head)
