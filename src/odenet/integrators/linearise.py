"""The linearisation f(t, y), h df/dt, h df/dy at one point, which Rosenbrock and exponential Rosenbrock steps share."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from ..types import State, Step, Time
from .base import later
from .jacobian import Blocks, jacobian

HARMLESS = frozenset(
    {torch.zeros_like, torch.ones_like, torch.empty_like, Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty}
)  # take shape and dtype of a tensor, not its value
FACTORS = ("alpha", "beta", "value")  # arguments that torch reads as plain numbers
FORWARD = (-25 / 12, 4.0, -3.0, 4 / 3, -1 / 4)  # the derivative at the first of five equidistant points, order 4
SPACING = 1 / 16


@dataclass(frozen=True)
class Linearisation:
    """slope f(t, y), drift h df/dt and jacobian h df/dy in blocks."""

    slope: State
    drift: State
    jacobian: Blocks


def linearise(f: Any, t: Time, y: State, h: Time) -> Linearisation:
    """f and its first derivatives at (t, y), times h; h is a number or a tensor that broadcasts to y."""
    slope, drift = slope_and_drift(f, t, y, h)
    return Linearisation(slope, drift, scaled(jacobian(f, t, y), h, y))


def matched(h: Time, y: State) -> Time:
    """h in the precision of y, so that a tensor of step sizes does not change it."""
    return h.to(_real(y)) if isinstance(h, Tensor) else h


def scaled(blocks: Blocks, h: Time, y: State) -> Blocks:
    """h J, row by row where h differs between the entries of y."""
    if isinstance(h, Tensor) and h.dim():
        rows = h.to(_real(y)).expand(y.shape).reshape(*blocks.matrix.shape[:-1], 1)
        return Blocks(rows * blocks.matrix)
    return Blocks(matched(h, y) * blocks.matrix)


def slope_and_drift(f: Any, t: Time, y: State, h: Time) -> tuple[State, State]:
    """f(t, y) and h df/dt: by forward mode, or by differences where f turns t into a plain number."""
    at = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64 if y.dim() else _real(y), device=y.device)
    watch = _Watch()

    def of_time(s: Tensor) -> State:
        with watch:
            return f(s, y)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forward mode's first call, and of f about a tensor it did not ask for
            value = torch.func.jvp(of_time, (at,), (torch.ones_like(at),))
    except (RuntimeError, TypeError, ValueError):  # f does not take a tensor t, or has no forward mode
        return _by_differences(f, t, y, h)
    if watch.lost:
        return _by_differences(f, t, y, h)
    return value[0], matched(h, y) * value[1].to(y.dtype)


class _Watch(TorchFunctionMode):
    """Whether something lost the tangent of what it was made from: float(t), torch.full((2,), t), t.detach()."""

    lost = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.lost and func not in HARMLESS and _carries((args, tuple(kwargs.values()))):
            self.lost = _is_plain(out) or any(_carries(kwargs.get(factor)) for factor in FACTORS)
        return out


def _carries(x: Any) -> bool:
    if isinstance(x, list | tuple):
        return any(map(_carries, x))
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def _is_plain(x: Any) -> bool:
    """Whether x is real or complex and without a tangent: a change of sign or of an index has no derivative to lose."""
    if isinstance(x, list | tuple):
        return any(map(_is_plain, x))
    if isinstance(x, Tensor):
        return (x.is_floating_point() or x.is_complex()) and not _carries(x)
    return isinstance(x, float | complex | str)


def _by_differences(f: Any, t: Time, y: State, h: Time) -> tuple[State, State]:
    """h df/dt inside the step, without a division by h: exact up to h^5, with an error constant of 3e-6."""
    slope = f(t, y)
    drift = FORWARD[0] * slope
    for i, weight in enumerate(FORWARD[1:], 1):
        drift = drift + weight * f(later(t, i * SPACING, h), y)
    return slope, drift / SPACING


def _real(y: State) -> torch.dtype:
    return y.real.dtype if y.is_complex() else y.dtype


class RealView:
    """A right-hand side of complex states as one of real states with a last axis (real, imaginary)."""

    jacobian = None

    def __init__(self, f: Any, shape: torch.Size) -> None:
        self._f, self._shape = f, shape
        self.tolerance = getattr(f, "tolerance", None)
        self.workspace: dict[str, Any] = getattr(f, "workspace", {})
        self.counts = getattr(f, "counts", Counter())

    def __call__(self, t: Time, x: State) -> State:
        value = self._f(t, torch.complex(x[..., 0], x[..., 1]).reshape(self._shape))
        return torch.view_as_real(value.resolve_conj()).reshape(x.shape)


def in_real(f: Any, t: Time, y: State, h: Time) -> tuple[RealView, Time, State, Time]:
    """The same step for real and imaginary part side by side: (B, ..., 2), or (1, D, 2) for a state (D,)."""
    x = torch.view_as_real(y.resolve_conj())
    if isinstance(h, Tensor) and h.dim():
        h = h.unsqueeze(-1)
    return RealView(f, y.shape), t, x if y.dim() > 1 else x.reshape(1, -1, 2), h


def from_real(step: Step, y: State) -> Step:
    """The result of a step of `in_real` as complex numbers of the shape of y."""

    def back(x: State) -> State:
        return torch.complex(x[..., 0], x[..., 1]).reshape(y.shape)

    error = None if step.error is None else back(step.error)
    return Step(back(step.y), error, (), tuple(back(k) for k in step.slopes))
