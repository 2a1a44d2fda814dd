"""Modules that several tests of training use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decays(nn.Module):
    """exp(-a_i t), (S, 1) -> (S, k)."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor(rates, dtype=torch.float64))

    def forward(self, t: Tensor) -> Tensor:
        return torch.exp(-self.rates * t)
