"""Brownian motion that replays: every value is a function of (seed, time), whatever was asked before.

The span is halved, its halves are halved, down to cells of width at most `dt_min`. An interval knows its increment and
its space-time area; those of its halves follow by the exact conditional law, with normal numbers from a counter-based
generator (Philox) whose key is (seed, number of the interval). A time inside a cell is drawn by the same law, with one
pair of numbers per cell.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..types import Carry, State, Time
from .base import Integrator

LEVELS = 12  # at least: all numbers of steps up to 2^12 = 4096 see one path
DEEPEST = 26  # beyond, 53 bits of a time do not tell the positions in a cell apart
LATTICE = 2**24  # positions in a cell; times that differ by rounding only are one position

Array = Any  # numpy float64: rows of numbers, a column for every component of the motion


class BrownianPath:
    """A path of Brownian motion on [t0, t1]: independent components, W = 0 at the earlier end, forwards or backwards.

    path(s, t) = W(t) - W(s);  path.with_integral(s, t) adds Z = int_s^t (W(u) - W(s)) du,
    which given W = w over a length h is N(h w/2, h^3/12).

    seed:    whole number from 0 to 2^64 - 1; one seed is one path for every dtype and device (to rounding), and for
             every number of steps unless `dt_min` makes the cells finer
    shape:   of an increment: the `brownian_shape` of the field
    dtype:   of the increments (a complex one means its real counterpart); inside, numbers are float64
    dt_min:  shortest interval that will be asked for, by default |t1 - t0|/4096; cells are no longer than this. Times
             as far apart as a cell is long have exactly the joint law of Brownian motion

    Increments are differences of values at two times, so W(a, b) + W(b, c) = W(a, c) to rounding. Steps much longer
    than a cell cost more numbers per increment, so give dt_min=h where the state is large. About 1 kB per component
    is kept; numbers are drawn on the CPU and moved to `device`.
    Choose a path of your own to show the same noise to several methods or step sizes. Raises BadInput for a seed, span
    or interval that cannot be served, Incompatible for a time per sample or one that requires a gradient.
    Conditional law of increment and area: Foster, Lyons & Oberhauser 2020 (arXiv 1904.06998).
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        dt_min: float | None = None,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise BadInput(f"the seed of a Brownian path is a whole number from 0 to 2**64 - 1, got {seed!r}.")
        self.seed, self.shape, self.device = seed, tuple(shape), torch.device(device)
        self.dtype = dtype.to_real()
        self.start, self.end = min(t0, t1), max(t0, t1)
        self.span = self.end - self.start
        if not (math.isfinite(self.span) and self.span > 0):
            raise BadInput(f"a Brownian path needs two different finite times, got t0={t0} and t1={t1}.")
        self.levels = _levels(self.span, dt_min)
        self.dt_min = self.span / 2**self.levels
        self._generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
        self._halves: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._recent: OrderedDict[int, Array] = OrderedDict()
        self._laws = [_halving(self.span / 2**level) for level in range(self.levels)]
        normal = self._normals(0)
        zero = np.zeros_like(normal[0])
        self._whole = np.stack((zero, zero, math.sqrt(self.span) * normal[0], math.sqrt(self.span / 12) * normal[1]))

    def __call__(self, s: Time, t: Time) -> Tensor:
        """W(t) - W(s), of the path's shape; t may be before s."""
        first, last = self._positions(s, t)
        return self._tensor(self._value(last)[0] - self._value(first)[0])

    def with_integral(self, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """(W(t) - W(s), Z), Z the integral of W(u) - W(s) over u from s to t."""
        first, last = self._positions(s, t)
        before = self._value(first)
        w, z = self._value(last) - before
        z -= ((last - first) * (self.dt_min / LATTICE)) * before[0]
        return self._tensor(w), self._tensor(z)

    def __repr__(self) -> str:
        return f"BrownianPath(seed={self.seed}, shape={self.shape}, t0={self.start}, t1={self.end})"

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype).reshape(self.shape)

    def _positions(self, s: Time, t: Time) -> tuple[int, int]:
        first, last = self._position(s), self._position(t)
        if 0 < abs(last - first) < LATTICE - 2:
            length = abs(float(t) - float(s))
            raise BadInput(
                f"a Brownian path with dt_min = {self.dt_min:.3g} was asked for an interval of length {length:.3g} at "
                f"t = {float(s):.6g}; build the path with dt_min={length:.3g}, or take longer steps."
            )
        return first, last

    def _position(self, t: Time) -> int:
        """The time as a whole number of LATTICE-ths of a cell."""
        if isinstance(t, Tensor):
            if t.numel() != 1 or t.requires_grad:
                raise Incompatible(
                    "a Brownian path takes one time for all samples and has no derivative with respect to it; give "
                    "times as numbers or detached."
                )
            t = float(t)
        at = (t - self.start) / self.span
        if not -1e-9 <= at <= 1 + 1e-9:
            raise BadInput(f"t = {t} is outside the Brownian path, which covers {self.start} to {self.end}.")
        return round(min(max(at, 0.0), 1.0) * (LATTICE << self.levels))

    def _value(self, position: int) -> Array:
        """W and the integral of W from the start: two rows."""
        found = self._recent.get(position)
        if found is None:
            found = self._recent[position] = self._fresh(position)
            if len(self._recent) > 4:
                self._recent.popitem(last=False)
        return found

    def _fresh(self, position: int) -> Array:
        index, rest = divmod(position, LATTICE)
        level = self.levels
        if rest:
            law, noise = _inside(rest / LATTICE, self.dt_min)
            return law @ self._interval(level, index) + noise @ self._normals((1 << level) + index)
        while level and index % 2 == 0:  # a shorter way to the same time
            level, index = level - 1, index // 2
        if level == 0 and index == 1:
            return _inside(1.0, self.span)[0] @ self._whole
        return self._interval(level, index)[:2]

    def _interval(self, level: int, index: int) -> Array:
        """Rows W and int W at its start, its increment, its area; interval `index` of the 2^level of a level."""
        if level == 0:
            return self._whole
        key = (level - 1, index // 2)
        pair = self._halves.get(key)
        if pair is None:
            law, noise = self._laws[level - 1]
            pair = law @ self._interval(*key) + noise @ self._normals((1 << key[0]) + key[1])
            self._halves[key] = pair
            if len(self._halves) > self.levels + 2:
                self._halves.popitem(last=False)
        self._halves.move_to_end(key)
        return pair[4:] if index % 2 else pair[:4]

    def _normals(self, number: int) -> Array:
        """A pair of standard normal numbers for every component, belonging to one interval."""
        self._generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": (0, 0, 0, 0), "key": (self.seed, number)},
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator.standard_normal((2, math.prod(self.shape)))


def _levels(span: float, dt_min: float | None) -> int:
    if dt_min is None:
        return LEVELS
    if not dt_min > 0:
        raise BadInput(f"dt_min is a positive length of time, got {dt_min}.")
    levels = max(0, math.ceil(math.log2(span / dt_min) - 1e-9))
    if levels > DEEPEST:
        raise BadInput(f"dt_min = {dt_min} is too short for a span of {span}: the least is {span / 2**DEEPEST:.3g}.")
    return levels


def _root(f: float) -> tuple[float, float, float]:
    """Lower triangle of the root of the covariance of (w, a) of the first part, of length f, of [0, 1] given its whole.

    w is the increment, a the mean of W - W(start) less w/2: w ~ N(0, h) and a ~ N(0, h/12) are independent. Given the
    whole (w, a), the first part is (f w + 6 f (1-f) a, f^2 a) in the mean.
    """
    g = 1.0 - f
    first = math.sqrt(f * g * (f * f - f * g + g * g))
    cross = -0.5 * f**3 * g / first if first else 0.0
    return first, cross, math.sqrt(max(f / 12 * (1 - f**3) - cross * cross, 0.0))


def _inside(f: float, h: float) -> tuple[Array, Array]:
    """(W, int W) at the fraction f of an interval, from the interval's four rows and a pair of normal numbers."""
    first, cross, second = _root(f)
    s, x = math.sqrt(h), f * h
    law = np.array(((1.0, 0.0, f, 6 * f * (1 - f)), (x, 1.0, x * f / 2, x * f * (3 - 2 * f))))
    return law, np.array(((s * first, 0.0), (s * x * (first / 2 + cross), s * x * second)))


@lru_cache(maxsize=256)
def _halving(h: float) -> tuple[Array, Array]:
    """Four rows of the first and four of the second half, from the interval's four rows and a pair of numbers."""
    first, cross, second = math.sqrt(h) * np.array(_root(0.5))
    at, at_noise = _inside(0.5, h)
    begin = np.array(((1.0, 0, 0, 0), (0, 1, 0, 0)))
    # the first half (w1, a1); from it the second by w = w1 + w2 and a = (a1 + a2)/2 + (w1 - w2)/4
    mean, noise = np.array(((0, 0, 0.5, 1.5), (0, 0, 0, 0.25))), np.array(((first, 0), (cross, second)))
    rest, less = np.array(((0, 0, 1, 0), (0, 0, 0.5, 2))), np.array(((-1.0, 0), (-1, -1)))
    return np.vstack((begin, mean, at, rest + less @ mean)), np.vstack(
        (np.zeros((2, 2)), noise, at_noise, less @ noise)
    )


class KnownPath:
    """A stochastic equation whose solution is a function of t and W(t), as the right-hand side of a step; y is (B, 2).

    diagonal, scalar:  dy = y/2 dt + s y dW from 1, geometric Brownian motion (Kloeden & Platen 1992, section 4.4)
    additive:          dy = (b/sqrt(1+t) - y/(2 (1+t))) dt + c/sqrt(1+t) dW from 1, with the solution
                       (1 + b t + c W)/sqrt(1+t); s = 0.8, b = 0.7, c = 0.35
    """

    def __init__(self, noise: str, interpretation: str, paths: int = 300, seed: int = 0) -> None:
        self.noise, self.interpretation, self.field = noise, interpretation, self
        self.workspace: dict[str, Any] = {}
        self.path = BrownianPath(seed, (paths, 1 if noise == "scalar" else 2))
        self.start = torch.ones(paths, 2, dtype=torch.float64)

    def __call__(self, t: Time, y: State) -> State:
        return 0.5 * y if self.noise != "additive" else 0.7 / math.sqrt(1 + t) - y / (2 * (1 + t))

    def diffusion(self, t: Time, y: State) -> Tensor:
        return 0.8 * y if self.noise != "additive" else torch.full_like(y, 0.35 / math.sqrt(1 + t))

    def exact(self, t: float) -> State:
        """y(t), (B, 2)."""
        w = self.path(0.0, t).expand_as(self.start)
        if self.noise == "additive":
            return (1 + 0.7 * t + 0.35 * w) / math.sqrt(1 + t)
        return torch.exp((0.5 - 0.32 * (self.interpretation == "ito")) * t + 0.8 * w)


def observed_strong_order(
    integrator: Integrator, problem: KnownPath, counts: tuple[int, ...] = (16, 32, 64, 128)
) -> float:
    """Slope of log E |y_N - y(1)| against log h by least squares, over steps h = 1/count on the problem's paths."""
    points = []
    for steps in counts:
        carry: Carry = ()
        y, h = problem.start, 1.0 / steps
        for n in range(steps):
            y, _, carry, *_ = integrator.step(problem, n * h, y, h, carry, None)
        points.append((math.log(h), math.log(float((y - problem.exact(1.0)).abs().mean()))))
    return statistics.linear_regression(*zip(*points)).slope
