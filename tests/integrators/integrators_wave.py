"""A right-hand side and a march for the tests of single steps."""

from __future__ import annotations

import torch

STEPS, H = 20, 0.05


class Wave:
    """A nonlinear, non-autonomous separable right-hand side on y = (q, p) in the last axis (..., 4).

    Also in two parts: implicit (half of it and L y) and explicit (the rest); L y is the linear part.
    """

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        g = torch.Generator().manual_seed(seed)
        self.a = torch.randn(2, 2, generator=g, dtype=torch.float64).to(dtype)
        self.matrix = torch.tensor(
            [[-1.0, 0.5, 0.0, 0.2], [0.0, -2.0, 0.3, 0.0], [0.1, 0.0, -0.5, 0.0], [0.0, 0.4, 0.0, -3.0]]
        ).to(dtype)
        self.calls = 0

    def split(self, y):
        return y[..., :2], y[..., 2:]

    def join(self, q, p):
        return torch.cat((q, p), -1)

    def kick(self, t, q):
        self.calls += 1
        return -torch.tanh(q @ self.a + t) @ self.a.T

    def drift(self, t, p):
        return torch.sin(p + t)

    def __call__(self, t, y):
        q, p = self.split(y)
        return self.join(self.drift(t, p), self.kick(t, q))

    def linear(self):
        return self.matrix

    def nonlinear(self, t, y):
        return self(t, y) - y @ self.matrix.T

    def implicit(self, t, y):
        return 0.5 * self(t, y) + y @ self.matrix.T

    def explicit(self, t, y):
        return 0.5 * self(t, y) - y @ self.matrix.T


def start(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def march(method, f, y, steps=STEPS, h=H, coef=None, t=0.0):
    carry, states = (), [y]
    for n in range(steps):
        y, _, carry, *_ = method.step(f, t + n * h, y, h, carry, coef)
        states.append(y)
    return torch.stack(states)


def coefficients(method, dtype=torch.float64):
    return {k: torch.tensor(-0.07, dtype=dtype) for k in method.learnable} or None
