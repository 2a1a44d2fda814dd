"""Choosing the step size from an error estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import State


def scaled_norm(error: State, y0: State, y1: State, rtol: float, atol: float) -> Tensor:
    """RMS over all entries of error / (atol + rtol max(|y0|, |y1|)), a 0-dim tensor; 1 is the tolerance."""
    scale = torch.maximum(y0.abs(), y1.abs()).mul(rtol).add(atol)
    return (error.abs() / scale).square().mean().sqrt()


@dataclass(frozen=True)
class Controller:
    """The next step is h safety e_n^(-integral/p) e_{n-1}^(proportional/p) e_{n-2}^(-derivative/p), within
    h [smallest, largest].

    rtol, atol:  a step is accepted where the error norm e is at most 1; numbers, or tensors against the state
    norm:        of error / (atol + rtol max |y|); None: the root mean square
    integral, proportional, derivative:  exponents in units of 1/p; the defaults are the PI controller of Hairer &
    Wanner II, section IV.2, for Dormand-Prince; (1, 0, 0) is the classical controller. After a rejection, or without a
    previous error, e^(-1/p).
    min_step, max_step:  bounds of |h|; a step of size min_step is accepted whatever its (finite) error
    Raises BadInput for tolerances that no step can meet.
    """

    rtol: float = 1e-6
    atol: float = 1e-8
    safety: float = 0.9
    smallest: float = 0.2
    largest: float = 10.0
    integral: float = 0.85
    proportional: float = 0.2
    derivative: float = 0.0
    norm: Callable[[Tensor], float] | None = None
    min_step: float = 0.0
    max_step: float = math.inf

    def __post_init__(self) -> None:
        low, high = (min(float(torch.as_tensor(x).min()) for x in (self.rtol, self.atol)), self.rtol + self.atol)
        if not (low >= 0 and bool(torch.as_tensor(high > 0).all())):
            raise BadInput(f"rtol and atol are not negative and not both zero; got {self.rtol} and {self.atol}.")
        if not 0 < self.safety <= 1 or not 0 < self.smallest < 1 < self.largest:
            raise BadInput("a controller has 0 < safety <= 1 and 0 < smallest < 1 < largest.")
        if not (0 <= self.min_step <= self.max_step and self.max_step > 0):
            raise BadInput(f"step sizes have 0 <= min_step <= max_step; got {self.min_step} and {self.max_step}.")

    def error_norm(self, error: State, y0: State, y1: State) -> Tensor:
        """`scaled_norm` with this controller's tolerances, without a host sync."""
        return scaled_norm(error, y0, y1, self.rtol, self.atol)

    def measure(self, error: State, size0: Tensor, size1: Tensor) -> float:
        """The same from |y0| and |y1|, in fewest kernels: one host sync."""
        scale = torch.maximum(size0, size1).mul_(self.rtol).add_(self.atol)
        if self.norm is not None:
            return self.norm(error / scale)
        return float(torch.linalg.vector_norm(error / scale)) / math.sqrt(max(error.numel(), 1))

    def factor(self, err: float, previous: float | None, order: int, earlier: float | None = None) -> float:
        """By how much to change h; at most 1 where err > 1.

        previous, earlier: errors of the two accepted steps before, if any
        order: p where the estimate scales like h^p: the order of the lower method plus one
        """
        if not math.isfinite(err):
            return self.smallest
        if err == 0.0:
            return self.largest
        if err > 1.0 or previous is None:
            factor = self.safety * err ** (-1 / order)
        else:
            factor = self.safety * err ** (-self.integral / order) * _floor(previous) ** (self.proportional / order)
            if self.derivative and earlier is not None:
                factor *= _floor(earlier) ** (-self.derivative / order)
        return max(self.smallest, min(factor, 1.0 if err > 1.0 else self.largest))


def _floor(err: float) -> float:
    return max(err, 1e-4)


def initial_step(
    f: Any,
    t0: float,
    y0: State,
    direction: float,
    order: int,
    rtol: float,
    atol: float,
    f0: State | None = None,
) -> float:
    """A first step size |h| (Hairer, Norsett & Wanner I, section II.4, "starting step size").

    direction: +1 or -1; f0: f(t0, y0) where it is known. Costs one evaluation, two without f0.
    """
    f0 = f(t0, y0) if f0 is None else f0
    d0 = float(scaled_norm(y0, y0, y0, rtol, atol))
    d1 = float(scaled_norm(f0, y0, y0, rtol, atol))
    h0 = 0.01 * d0 / d1 if d0 >= 1e-5 and d1 >= 1e-5 else 1e-6
    f1 = f(t0 + direction * h0, y0 + (direction * h0) * f0)
    steepest = max(d1, float(scaled_norm(f1 - f0, y0, y0, rtol, atol)) / h0)
    if not math.isfinite(steepest):
        return h0
    h1 = (0.01 / steepest) ** (1 / (order + 1)) if steepest > 1e-15 else max(1e-6, h0 * 1e-3)
    return min(100 * h0, h1)
