"""Weights that do not vary with depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .base import Depth


@dataclass(frozen=True)
class Shared(Depth):
    """theta(t) = c: an autonomous field. Choose it for neural ODEs, recurrent nets and physical systems.

    The coefficient tensor keeps the axis of length 1, so that every Depth stores (count, *shape).
    """

    constant = True
    local = False

    def count(self, intervals: int) -> int:
        return 1

    def support(self, n: int) -> tuple[int, ...]:
        return (0,)

    def basis(self, s: Any) -> tuple[Any, ...]:
        return (1.0,)

    def prolong(self, c: Tensor) -> Tensor:
        return c

    def restrict(self, c: Tensor) -> Tensor:
        return c
