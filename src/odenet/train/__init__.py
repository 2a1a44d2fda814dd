"""Learning: `fit`, its methods, losses, penalties and schedules."""

from __future__ import annotations

from . import constraints, costs
from .control import pmp_gap
from .fit import Fit, fit
from .methods import METHODS, Method, Run
from .multilevel import fit_multilevel
from .shooting import ShootingLoss
from .tasks import Streamed, Supervised, predict

names, register = METHODS.names, METHODS.register

__all__ = [
    "METHODS",
    "Fit",
    "Method",
    "Run",
    "ShootingLoss",
    "Streamed",
    "Supervised",
    "constraints",
    "costs",
    "fit",
    "fit_multilevel",
    "names",
    "pmp_gap",
    "predict",
    "register",
]
