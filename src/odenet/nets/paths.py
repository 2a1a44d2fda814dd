"""Data as a path: how the entries of a sequence drive a field between them.

A path turns x (B, T, C) into the control u of a flow whose knot intervals have length 1 in a parameter s of its own, so
that every sample of a batch may have times of its own. It is data, not a weight, and gets a gradient like one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..depth import Depth, PerStep
from ..depth.polynomial import Polynomial
from ..errors import BadInput
from ..flow.pullback import transformed

PER_ENTRY, QUADRATIC = PerStep(), Polynomial(2)


@dataclass(frozen=True)
class Path(ABC):
    """x (B, T, C) -> u (count, B, inputs), the coefficients of `depth` over the knot intervals in s.

    depth:         how u varies with s
    first, every:  of the states at the knots, those with these numbers answer to x_0, x_1, ...
    """

    depth: Depth = PER_ENTRY
    first: int = 0
    every: int = 1

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """u."""

    def answers(self, states: Tensor) -> Tensor:
        """Of the states at all knots those that answer to the entries."""
        return states[self.first :: self.every]


@dataclass(frozen=True)
class Entries(Path):
    """u = x_n on interval n: the input of a recurrent net. T intervals; the state after x_n answers to it."""

    first: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


@dataclass(frozen=True)
class Gaps(Path):
    """u = t_n - t_{n-1}, t the first column of x and t_{-1} = t_0: how long the state moves before x_n is seen."""

    first: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        t = x[..., :1]
        return torch.cat((torch.zeros_like(t[:, :1]), t.diff(dim=1)), 1).transpose(0, 1)


@dataclass(frozen=True)
class Linear(Path):
    """u = dX/ds, X the polygon through x_0, x_1, ...: T - 1 intervals with constant u."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.diff(dim=1).transpose(0, 1)


@dataclass(frozen=True)
class Rectilinear(Path):
    """u = dX/ds, X moving first in time (column 0) and then in the data: 2 T - 2 intervals.

    Uses no entry before its time, so the net may run while data arrives. Morrill et al. 2021 (arXiv 2106.11028).
    """

    every: int = 2

    def __call__(self, x: Tensor) -> Tensor:
        jump = x.diff(dim=1)  # (B, T - 1, C)
        first = torch.zeros_like(jump)
        first[..., 0] = jump[..., 0]
        return torch.stack((first, jump - first), 2).flatten(1, 2).transpose(0, 1)


@dataclass(frozen=True)
class Hermite(Path):
    """u = dX/ds, X the cubic with X(t_n) = x_n and the backward difference quotient as slope there: T - 1 intervals.

    Once differentiable, so that methods of high order keep it within an interval, and what happens before t_n does
    not depend on what is seen after the entry that follows. Column 0 is the time.
    Morrill et al. 2021 (arXiv 2106.11028), section 3.
    """

    depth: Depth = QUADRATIC

    def __call__(self, x: Tensor) -> Tensor:
        jump = x.diff(dim=1)  # (B, T - 1, C)
        width = jump[..., :1]
        before = torch.cat((jump[:, :1], jump[:, :-1] / width[:, :-1] * width[:, 1:]), 1)  # slope in s at the start
        # X(s) = x_n + m s + (j - m)(2 s^2 - s^3), with slope m at s = 0 and j at s = 1
        rest = jump - before
        return torch.stack((before, 4.0 * rest, -3.0 * rest), 2).flatten(1, 2).transpose(0, 1)


PATHS: dict[str, type[Path]] = {"linear": Linear, "rectilinear": Rectilinear, "hermite": Hermite}


def filled(x: Tensor, how: str = "linear") -> Tensor:
    """x (B, T, C) with NaN entries replaced, column by column; column 0 is the time and complete.

    "linear": on the line between the neighbours in time that were seen, constant before the first and after the last;
    "last": by the one seen last, before the first by the first. A column that is never seen becomes 0. Do this before
    training, which takes no NaN. Raises BadInput for a time that is missing or does not increase.
    """
    _check_times(x)
    missing = x.isnan()
    if transformed() or not bool(missing.any()):  # under vmap no value can be asked for
        return x
    T = x.shape[1]
    place = torch.arange(T, device=x.device)[None, :, None].expand_as(x)
    before = torch.where(missing, -1, place).cummax(1).values
    after = torch.where(missing, T, place).flip(1).cummin(1).values.flip(1)
    none_before, none_after = before < 0, after >= T
    before = torch.where(none_before, after, before).clamp(0, T - 1)
    after = torch.where(none_after, before, after).clamp(0, T - 1)
    clean = torch.where(missing, 0.0, x)
    low = clean.gather(1, before)
    if how == "last":
        return low
    t = x[..., :1].expand_as(x)
    start, end = t.gather(1, before), t.gather(1, after)
    share = torch.where(end > start, (t - start) / torch.where(end > start, end - start, 1.0), 0.0)
    return low + share * (clean.gather(1, after) - low)


def _check_times(x: Tensor) -> None:
    if not transformed() and not bool((x[:, 1:, 0] > x[:, :-1, 0]).all()):
        raise BadInput("the first column of a sequence with times is the time: it increases and no entry is missing.")


class Timed(nn.Module):
    """The data with its time in column 0, (B, T, C): put there as T equal steps over `span`, or already there (None).

    fill: how NaN are replaced, "linear" or "last" (see `filled`); "" leaves them.
    """

    def __init__(self, span: tuple[float, float] | None, fill: str = "") -> None:
        super().__init__()
        self.span, self.fill = span, fill

    def forward(self, x: Tensor) -> Tensor:
        if self.span is not None:
            t = torch.linspace(*self.span, x.shape[1], dtype=x.dtype, device=x.device)
            x = torch.cat((t[None, :, None].expand(len(x), -1, 1), x), -1)
        if self.fill:
            return filled(x, self.fill)
        _check_times(x)
        return x

    def extra_repr(self) -> str:
        return f"span={self.span}"
