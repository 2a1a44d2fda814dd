"""Split right-hand sides without weights, and marches with them, for the tests of additive methods and splittings."""

from __future__ import annotations

import math
from itertools import pairwise

import torch


class Parts:
    """explicit(t, y) + implicit(t, y); with a matrix the implicit part is L y and says so."""

    def __init__(self, explicit, implicit=None, matrix=None):
        self.explicit = explicit
        self.implicit = implicit or (lambda t, y: y * matrix if matrix.dim() == 1 else y @ matrix.mT)
        self.workspace = {}
        if matrix is not None:
            self.implicit_matrix = lambda p, y: matrix

    def __call__(self, t, y):
        return self.explicit(t, y) + self.implicit(t, y)


def march(method, f, y, end, steps):
    """The state at `end` after equal steps from 0."""
    h = end / steps
    for n in range(steps):
        y = method.step(f, n * h, y, h, (), None).y
    return y


def orders(method, f, y, end, exact, steps=(8, 16, 32)):
    """log2 of the ratios of successive largest errors."""
    errors = [float((march(method, f, y, end, n) - exact).abs().max()) for n in steps]
    return [math.log2(a / b) for a, b in pairwise(errors)]


def matrix(seed, n=3, shift=0.0):
    """A random matrix of norm about 1, shifted to the left."""
    g = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, n, generator=g, dtype=torch.float64) / math.sqrt(n)
    return drawn - shift * torch.eye(n, dtype=torch.float64)


def linear(explicit, stiff):
    """f(t, y) + L y."""
    return Parts(explicit, matrix=stiff)
