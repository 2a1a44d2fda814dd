"""Methods that solve PDE problems, by name."""

from __future__ import annotations

from . import bsde, marching, random_features, ritz, trained
from .base import METHODS, Method, Run, make

__all__ = ["METHODS", "Method", "Run", "bsde", "make", "marching", "random_features", "ritz", "trained"]
