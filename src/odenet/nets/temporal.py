"""Convolution in time: (B, T, D) -> (B, dim_out), every output a function of what came before."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ..errors import BadInput
from .base import net


class CausalConv(nn.Module):
    """y_t = sum_k W_k x_{t - k dilation} + b, zero before the start; (B, C, T) -> (B, C', T), w = g v/|v|."""

    def __init__(self, channels: int, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, width, kernel, dilation=dilation)
        nn.init.normal_(conv.weight, std=0.01)
        self.conv, self.before = weight_norm(conv), (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.before, 0)))


class TemporalBlock(nn.Module):
    """relu(r(x) + D relu C_2 D relu C_1 x), C two causal convolutions, D dropout, r the identity or a 1x1 map."""

    def __init__(self, channels: int, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = CausalConv(channels, width, kernel, dilation)
        self.second = CausalConv(width, width, kernel, dilation)
        self.drop = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if channels == width else nn.Conv1d(channels, width, 1)
        if isinstance(self.shortcut, nn.Conv1d):
            nn.init.normal_(self.shortcut.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        z = self.drop(F.relu(self.first(x)))
        z = self.drop(F.relu(self.second(z)))
        return F.relu(self.shortcut(x) + z)


class Swapped(nn.Module):
    """(B, T, C) -> (B, C, T) and back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Last(nn.Module):
    """(B, T, C) -> (B, C) at the last time."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


def receptive_field(steps: int, kernel: int) -> int:
    """How many entries an output of `tcn` sees: 1 + 2 (kernel - 1)(2^steps - 1)."""
    return 1 + 2 * (kernel - 1) * (2**steps - 1)


@net(kind="baseline", takes="sequence", cite="S. Bai, J. Kolter & V. Koltun 2018, arXiv 1803.01271")
def tcn(
    dim_in: int,
    dim_out: int,
    width: int = 32,
    steps: int = 4,
    kernel: int = 7,
    dropout: float = 0.0,
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """`steps` residual blocks of causal convolutions with dilation 1, 2, 4, ... and a head on the last entry.

    Sees `receptive_field(steps, kernel)` entries, 181 by default. The baseline that trains in parallel over time;
    use it wherever the memory that is needed has a known length.
    """
    if steps < 1 or kernel < 1:
        raise BadInput(f"tcn got steps={steps}, kernel={kernel}; both are at least 1.")
    blocks = [TemporalBlock(width if k else dim_in, width, kernel, 2**k, dropout) for k in range(steps)]
    pooled = [] if every_step else [Last()]
    return nn.Sequential(Swapped(), *blocks, Swapped(), *pooled, nn.Linear(width, dim_out))
