"""Weights that do not vary with depth, or only from one stretch of it to the next."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import BadInput
from .base import Depth


class Stretches(Depth, ABC):
    """Constant on stretches of the span that stay when knot intervals are halved: prolong and restrict do nothing."""

    constant = True
    local = False
    points = 1

    def basis(self, s: Any, n: int, intervals: int) -> tuple[Any, ...]:
        return (1.0,)

    def through(self, values: Tensor) -> Tensor:
        return values

    def prolong(self, c: Tensor) -> Tensor:
        return c

    def restrict(self, c: Tensor) -> Tensor:
        return c


@dataclass(frozen=True)
class Shared(Stretches):
    """theta(t) = c: an autonomous field. Choose it for neural ODEs, recurrent nets and physical systems.

    The coefficient tensor keeps the axis of length 1, so that every Depth stores (count, *shape).
    """

    def count(self, intervals: int) -> int:
        return 1

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return (0,)


@dataclass(frozen=True)
class PiecewiseConstant(Stretches):
    """theta(t) = c_k on the k-th of `pieces` equal stretches of the span, each of several knot intervals.

    Choose it to take more steps than there are sets of weights, and to split the stretches in two as training goes on
    (`flow.multilevel.refine`): ContinuousNet, Queiruga et al. 2020 (arXiv 2008.02389). Prolongation keeps the pieces.
    Raises BadInput where the pieces do not divide the knot intervals.
    """

    pieces: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.pieces, int) or self.pieces < 1:
            raise BadInput(f"pieces is a positive whole number, got {self.pieces!r}; write PiecewiseConstant(4).")

    def count(self, intervals: int) -> int:
        if intervals % self.pieces:
            raise BadInput(
                f"{intervals} knot intervals cannot be shared out over {self.pieces} equal pieces; use a multiple of "
                f"{self.pieces} steps, such as {self.pieces * (intervals // self.pieces + 1)}."
            )
        return self.pieces

    def support(self, n: int, intervals: int) -> tuple[int, ...]:
        return (n * self.pieces // intervals,)
