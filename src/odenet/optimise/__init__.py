"""Optimisers over r(theta) or f(theta) that know no model: `names()`, `get(name, **options)`, `register`."""

from __future__ import annotations

from .base import LeastSquares, Objective, Optimiser, State, minimise
from .first_order import SOAP, Adam
from .gauss_newton import GaussNewton
from .natural_gradient import EnergyNaturalGradient
from .quasi_newton import LBFGS, QuasiNewton, bfgs, ssbfgs, ssbroyden
from .registration import OPTIMISERS, get, names, register
from .staged import Staged, from_option, staged

for _name, _make in {
    "gauss_newton": GaussNewton,
    "engd": EnergyNaturalGradient,
    "ssbroyden": ssbroyden,
    "ssbfgs": ssbfgs,
    "bfgs": bfgs,
    "lbfgs": LBFGS,
    "adam": Adam,
    "soap": SOAP,
    "staged": from_option,
}.items():
    register(_name, _make)

__all__ = [
    "LBFGS",
    "OPTIMISERS",
    "SOAP",
    "Adam",
    "EnergyNaturalGradient",
    "GaussNewton",
    "LeastSquares",
    "Objective",
    "Optimiser",
    "QuasiNewton",
    "Staged",
    "State",
    "get",
    "minimise",
    "names",
    "register",
    "staged",
]
