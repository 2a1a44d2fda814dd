"""Learning: `fit`, its methods, losses, penalties and schedules."""

from __future__ import annotations

from .control import pmp_gap
from .fit import Fit, fit
from .methods import METHODS, Method, Run
from .multilevel import fit_multilevel
from .tasks import Streamed, Supervised, predict

names, register = METHODS.names, METHODS.register

__all__ = [
    "METHODS",
    "Fit",
    "Method",
    "Run",
    "Streamed",
    "Supervised",
    "fit",
    "fit_multilevel",
    "names",
    "pmp_gap",
    "predict",
    "register",
]
