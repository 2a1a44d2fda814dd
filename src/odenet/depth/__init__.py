"""How the weights of a network vary with depth: theta(t) = sum_j B_j(t) c_j."""

from __future__ import annotations

from collections.abc import Callable

from .base import Depth, resolve
from .piecewise import PerStep, PiecewiseLinear
from .shared import Shared

DEPTHS: dict[str, Callable[[], Depth]] = {"per_step": PerStep, "piecewise_linear": PiecewiseLinear, "shared": Shared}


def names() -> list[str]:
    """Names that `depth=` accepts beside objects, sorted."""
    return sorted(DEPTHS)


__all__ = ["DEPTHS", "Depth", "PerStep", "PiecewiseLinear", "Shared", "names", "resolve"]
