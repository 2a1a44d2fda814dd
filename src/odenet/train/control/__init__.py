"""Training as optimal control: states forwards, costates backwards, and every layer chosen for itself."""

from __future__ import annotations

from .affine import Affine, gather
from .augmented import Augmented
from .discrete import chosen
from .kronecker import Kronecker
from .maximum_principle import pmp_gap
from .packed import load_packed, pack, save_packed, unpack
from .proximal import Proximal
from .straight_through import rounded
from .trajectory import Plan, ddp
from .variable_projection import Tikhonov

__all__ = [
    "Affine",
    "Augmented",
    "Kronecker",
    "Plan",
    "Proximal",
    "Tikhonov",
    "chosen",
    "ddp",
    "gather",
    "load_packed",
    "pack",
    "pmp_gap",
    "rounded",
    "save_packed",
    "unpack",
]
