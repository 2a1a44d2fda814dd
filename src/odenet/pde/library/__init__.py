"""PDE problems by name."""

from __future__ import annotations

from . import elliptic, transport
from .base import PDES, get, pde_problem

__all__ = ["PDES", "elliptic", "get", "pde_problem", "transport"]
