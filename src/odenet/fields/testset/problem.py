"""What a problem of the test set is, and two small helpers that its right-hand sides share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import Function, State


@dataclass(frozen=True, kw_only=True)
class InitialValueProblem:
    """y' = f(t, y), y(t0) = y0, with the value at t1 known from elsewhere.

    f:          f(t, y) on states (..., D) in any floating dtype; t a float, or a tensor that broadcasts to (..., 1)
    reference:  y(t1), 15 digits or more of the solution for the coefficients as rounded to float64; None where it
                must be computed first
    digits:     to how many digits two different methods agreed on the reference, measured as `error` is
    floor:      components smaller than this count absolutely: the tolerance that goes with rtol is
                atol = floor * rtol, and errors are |y - reference| / (|reference| + floor)
    stiff:      explicit methods need steps far below what accuracy asks for
    cite, doc:  where the problem was published, and what it is
    """

    name: str
    f: Function
    y0: tuple[float, ...]
    t0: float = 0.0
    t1: float
    reference: tuple[float, ...] | None = None
    digits: float = 0.0
    floor: float = 1.0
    stiff: bool = False
    cite: str
    doc: str

    def start(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """y0 as a tensor (D,)."""
        return torch.tensor(self.y0, dtype=dtype)

    def error(self, y: State) -> float:
        """Largest |y_i - reference_i| / (|reference_i| + floor) over the components of y (D,)."""
        assert self.reference is not None, f"{self.name} has no reference value"
        exact = torch.tensor(self.reference, dtype=torch.float64)
        return float(((y.detach().double() - exact).abs() / (exact.abs() + self.floor)).max())


@dataclass(frozen=True, kw_only=True)
class BlowUp:
    """y' = f(t, y), y(t0) = y0, whose solution ceases to exist at `ends`, strictly between t0 and t1.

    kind:  "pole" (the state becomes infinite) or "boundary" (the state is finite where f or its derivative is not)
    """

    name: str
    f: Function
    y0: tuple[float, ...]
    t0: float = 0.0
    t1: float
    ends: float
    kind: str = "pole"
    doc: str

    def start(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """y0 as a tensor (D,)."""
        return torch.tensor(self.y0, dtype=dtype)


def parts(y: State) -> tuple[State, ...]:
    """The components of y (..., D), each (..., 1), so that a t of shape (B, 1) goes with them."""
    return y.split(1, dim=-1)


def linear(matrix: Tensor) -> Function:
    """f(t, y) = A y for states (..., D)."""

    def f(t: float | Tensor, y: State) -> State:
        return y @ matrix.T.to(y)

    return f
