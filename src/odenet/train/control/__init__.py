"""Training as optimal control: states forwards, costates backwards, and every layer chosen for itself."""

from __future__ import annotations

from .augmented import Augmented
from .maximum_principle import pmp_gap

__all__ = ["Augmented", "pmp_gap"]
