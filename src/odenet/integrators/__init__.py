"""Numerical schemes: `names()`, `get(name)`, `register(name, data)`; coefficients are data."""

from __future__ import annotations

from . import external, facts, library  # noqa: F401  (they register themselves)
from .base import Facts, Integrator
from .multistep import LinearMultistep, Multistep
from .partitioned import Partitioned, SymplecticSplitting
from .registration import INTEGRATORS, get, names, register, resolve
from .runge_kutta import RungeKutta, Tableau
from .two_step import TwoStep

__all__ = [
    "INTEGRATORS",
    "Facts",
    "Integrator",
    "LinearMultistep",
    "Multistep",
    "Partitioned",
    "RungeKutta",
    "SymplecticSplitting",
    "Tableau",
    "TwoStep",
    "get",
    "names",
    "register",
    "resolve",
]
