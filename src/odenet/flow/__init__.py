"""Marching a field through depth: flows, chains of them, their gradients, and solving initial value problems."""

from __future__ import annotations

from . import multilevel
from .chain import Chain, Invertible, Transfer
from .events import Event
from .gradient import GRADIENTS, Gradient
from .march import March
from .module import Flow, check_pair
from .parallel import Parallel
from .scipy_like import solve_ivp
from .solution import Solution
from .solve import solve
from .statistics import calibrate
from .sweep import Sweep, sweep

__all__ = [
    "GRADIENTS",
    "Chain",
    "Event",
    "Flow",
    "Gradient",
    "Invertible",
    "March",
    "Parallel",
    "Solution",
    "Sweep",
    "Transfer",
    "calibrate",
    "check_pair",
    "multilevel",
    "solve",
    "solve_ivp",
    "sweep",
]
