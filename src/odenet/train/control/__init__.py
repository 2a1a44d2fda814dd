"""Training as optimal control: states forwards, costates backwards, and every layer chosen for itself."""

from __future__ import annotations

from .augmented import Augmented
from .discrete import chosen
from .maximum_principle import pmp_gap
from .packed import pack, unpack

__all__ = ["Augmented", "chosen", "pack", "pmp_gap", "unpack"]
