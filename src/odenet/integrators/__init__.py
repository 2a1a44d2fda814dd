"""Numerical schemes: `names()`, `get(name)`, `register(name, data)`; coefficients are data."""

from __future__ import annotations

from . import external, facts, library  # noqa: F401  (they register themselves)
from .additive import Additive
from .base import Facts, Integrator
from .exponential import Exponential
from .implicit import ImplicitTableau
from .multistep import LinearMultistep, Multistep
from .partitioned import Partitioned, SymplecticSplitting
from .registration import INTEGRATORS, get, names, register, resolve
from .reversible import ReversibleWrapper
from .rosenbrock import Rosenbrock
from .runge_kutta import RungeKutta, Tableau
from .splitting import Splitting
from .stochastic import AdditiveNoise
from .two_step import TwoStep
from .variable import VariableOrder

__all__ = [
    "INTEGRATORS",
    "Additive",
    "AdditiveNoise",
    "Exponential",
    "Facts",
    "ImplicitTableau",
    "Integrator",
    "LinearMultistep",
    "Multistep",
    "Partitioned",
    "ReversibleWrapper",
    "Rosenbrock",
    "RungeKutta",
    "Splitting",
    "SymplecticSplitting",
    "Tableau",
    "TwoStep",
    "VariableOrder",
    "get",
    "names",
    "register",
    "resolve",
]
