"""PDE problems by name."""

from __future__ import annotations

from . import dispersive, elliptic, flow, high_dimension, inverse, ordinary, parabolic, transport, waves
from .base import PDES, get, pde_problem

__all__ = [
    "PDES", "dispersive", "elliptic", "flow", "get", "high_dimension", "inverse", "ordinary", "parabolic",
    "pde_problem", "transport", "waves",
]  # fmt: skip
