"""How the weights of a network vary with depth: theta(t) = sum_j B_j(t) c_j."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .base import Depth, resolve
from .galerkin import BASES, Galerkin
from .piecewise import PerStep, PiecewiseLinear
from .shared import PiecewiseConstant, Shared
from .spline import Spline

DEPTHS: dict[str, Callable[..., Depth]] = {
    "per_step": PerStep,
    "piecewise_constant": PiecewiseConstant,
    "piecewise_linear": PiecewiseLinear,
    "shared": Shared,
    "spline": Spline,
    "galerkin": partial(Galerkin, "chebyshev"),
    **{family: partial(Galerkin, family) for family in BASES},
}


def names() -> list[str]:
    """Names that `depth=` accepts beside objects, sorted."""
    return sorted(DEPTHS)


__all__ = [
    "DEPTHS",
    "Depth",
    "Galerkin",
    "PerStep",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "Shared",
    "Spline",
    "names",
    "resolve",
]
