"""Networks, points and comparisons that tests of derivative channels share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SECOND = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]


def close(a: Tensor, b: Tensor, tol: float = 1e-12) -> None:
    """Equal up to `tol` of the largest entry of every channel."""
    assert a.shape == b.shape
    scale = b.detach().abs().flatten(1).amax(1).clamp(min=1e-2)
    gap = (a - b).detach().abs().flatten(1).amax(1)
    assert bool((gap <= tol * scale).all()), (gap / scale).tolist()


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


def mlp(d: int = 2, width: int = 8, out: int = 1, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, out)
    )


class Gates(nn.Module):
    """Fourier features and the gates of the modified network: H <- Z U + (1 - Z) V."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.register_buffer("B", torch.randn(2, width))
        self.u, self.v, self.z = nn.Linear(2 * width, width), nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.last = nn.Linear(width, 2)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.factor = nn.Parameter(torch.rand(()))
        self.amplitude = nn.Parameter(torch.rand(1, width))

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * math.pi * x @ self.B
        h = torch.cat((torch.sin(phase), torch.cos(phase)), -1)
        u, v, z = torch.tanh(self.u(h)), F.gelu(self.v(h)), torch.sigmoid(self.z(h) * self.scale)
        return self.last(self.amplitude * (z * u + (1 - z) * v) / (1 + self.factor**2)) + self.factor
