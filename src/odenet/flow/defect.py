"""What fixed steps leave over, from the states and slopes that the run has anyway: an estimate of its error.

Step n misses d_n = y_{n+1} - y_n - integral of the cubic through four slopes, f at the nodes around it. The error goes
on as e_{n+1} = T_n e_n + d_n, where T_n is what the solution shows of the flow. With the move u = y_{n+1} - y_n, the
turn of the slope v = f_{n+1} - f_n, mu = h <u, v> / <u, u> and w the part of v across u, T_n turns the plane of u and w
by the angle h |w| / |u| and stretches it by e^mu; what lies outside that plane decays by e^mu, or stays where mu > 0.
For one real or one complex eigenvalue this is the flow itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..types import State

NODES = 4  # slopes that a quadrature goes through
REST = 0.03  # of the largest state of the run: an end smaller than that is not what errors are measured by
MOST = 128  # entries that are looked at, spread evenly over a larger state
STEEP = 3.0  # growth or decay by more than e^3 in a step is not believed


class Defect:
    """The estimated error of a run with fixed steps, fed with its nodes window by window.

    where: (t, h) of the step that missed most
    """

    def __init__(self) -> None:
        self.where = (math.nan, math.nan)
        self._worst, self._largest, self._end = 0.0, 0.0, 0.0
        self._error: Any = None  # (M,)
        self._times: list[float] = []  # of the nodes before the window
        self._slopes: Any = None  # there, (N, M)

    @property
    def relative(self) -> float:
        """|e| / (|y| + REST max |y|) at the end of the last window."""
        if self._error is None:
            return 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            size = float(np.linalg.norm(self._error)) / (self._end + REST * self._largest + 1e-300)
        return size if math.isfinite(size) else math.inf

    def feed(self, times: Sequence[float], states: Sequence[State], slopes: Sequence[State]) -> None:
        """N + 1 nodes, whole or as `sample` gives them, the first being the last one of the window before."""
        rows = _real(torch.stack([*states, *slopes])).reshape(2 * len(times), -1)
        rows = rows[:, :: _stride(rows.shape[1])].detach().double().cpu()
        with np.errstate(over="ignore", invalid="ignore"):
            self._feed(list(times), *np.split(rows.numpy(), 2))

    def _feed(self, times: list[float], y: Any, f: Any) -> None:
        begin, knots = len(self._times), self._times + times
        if begin:
            f = np.concatenate((self._slopes, f))
        else:
            self._error = np.zeros_like(y[0])
        h = times[1] - times[0]
        weights = quadratures(tuple([round((t - times[0]) / h, 9) for t in knots]), begin)
        moves, turns = y[1:] - y[:-1], f[begin + 1 :] - f[begin:-1]
        missed = moves - (h * weights) @ f
        lost = np.linalg.norm(missed, axis=1)
        k = int(lost.argmax())
        if lost[k] > self._worst:
            self._worst, self.where = float(lost[k]), (times[k], times[k + 1] - times[k])
        self._error = _carried(self._error, np.diff(times).tolist(), moves, turns, missed)
        sizes = np.linalg.norm(y, axis=1)
        self._largest, self._end = max(self._largest, float(sizes.max())), float(sizes[-1])
        self._times, self._slopes = knots[:-1][1 - NODES :], f[:-1][1 - NODES :]


def sample(x: State) -> State:
    """A copy of at most MOST entries of a state, always the same ones, real."""
    flat = _real(x.detach()).reshape(-1)
    return flat[:: _stride(len(flat))].clone()


def _real(x: State) -> State:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


@lru_cache(maxsize=64)
def _stride(size: int) -> int:
    stride = -(-size // MOST)
    while math.gcd(stride, size) > 1 < stride:  # else it would pick the same component of every sample
        stride += 1
    return stride


def _carried(error: Any, steps: Sequence[float], moves: Any, turns: Any, missed: Any) -> Any:
    """The error after some steps, each of which carries it along and adds what it missed."""
    squares, turned = (moves * moves).sum(1), (moves * turns).sum(1)
    across = turns - np.divide(turned, squares, out=np.zeros_like(squares), where=squares > 0)[:, None] * moves
    widths = (across * across).sum(1)
    if not np.isfinite(squares + turned + widths).all():
        return np.full_like(error, math.inf)
    frames = np.stack((moves, across), 1)
    for h, frame, d, square, turn, width in zip(
        steps, frames, missed, squares.tolist(), turned.tolist(), widths.tolist()
    ):
        if square > 0:
            mu, speed = min(max(h * turn / square, -STEEP), STEEP), math.sqrt(width / square)
            decay, c, s = math.exp(min(mu, 0.0)), math.cos(h * speed), math.sin(h * speed)
            along, beside = (frame @ error).tolist()
            x, y = along / square, beside / width if width > 0 else 0.0
            grown = math.exp(mu)
            aside = x * s / speed if speed > 0 else 0.0
            error = decay * error
            error += (
                x * (grown * c - decay) - y * grown * s * speed,
                y * (grown * c - decay) + grown * aside,
            ) @ frame
        error = error + d
    return error


@lru_cache(maxsize=64)
def quadratures(knots: tuple[float, ...], begin: int) -> Any:
    """Rows of weights that integrate the polynomial through NODES knots over each interval after knot `begin`."""
    n = len(knots) - 1
    out = np.zeros((n - begin, n + 1))
    for i in range(begin, n):
        low = min(max(i - NODES // 2 + 1, 0), max(n + 1 - NODES, 0))
        nodes = range(low, min(low + NODES, n + 1))
        width = knots[i + 1] - knots[i]
        x = (np.array([knots[j] for j in nodes]) - knots[i]) / width
        powers = np.vander(x, increasing=True).T
        out[i - begin, list(nodes)] = width * np.linalg.solve(powers, 1 / np.arange(1.0, len(x) + 1))
    return out
