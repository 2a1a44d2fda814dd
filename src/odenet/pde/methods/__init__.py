"""Methods that solve PDE problems, by name."""

from __future__ import annotations

from . import bsde, discrete_time, lines, marching, neural_galerkin, random_features, ritz, trained, variational
from .base import METHODS, Method, Run, make

__all__ = [
    "METHODS",
    "Method",
    "Run",
    "bsde",
    "discrete_time",
    "lines",
    "make",
    "marching",
    "neural_galerkin",
    "random_features",
    "ritz",
    "trained",
    "variational",
]
