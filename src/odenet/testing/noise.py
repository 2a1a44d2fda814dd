"""Stochastic methods: strong order on equations with closed solutions, and that a path replays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..integrators.brownian import BrownianPath
from ..types import Carry, State, Time
from .method import Method, Skip, check
from .report import Finding

_PATHS = 600
_COUNTS = (8, 16, 32, 64)


class Known:
    """dy = f dt + g dW with a solution in closed form, for `_PATHS` independent paths; y: (_PATHS, 1), T = 1.

    diagonal, scalar, general:  dy = a y dt + b y dW, geometric Brownian motion
    additive:  dy = (beta / sqrt(1 + t) - y / (2 (1 + t))) dt + alpha beta / sqrt(1 + t) dW,
               y = (y0 + beta (t + alpha W)) / sqrt(1 + t) (Kloeden & Platen 1992, section 4.4)
    """

    tolerance = None
    jacobian = None

    def __init__(self, noise: str, interpretation: str, seed: int) -> None:
        dim = 1 if noise == "general" else None
        self.field = SimpleNamespace(noise=noise, interpretation=interpretation, dim=dim)
        self.noise, self.ito = noise, interpretation == "ito"
        self.path = BrownianPath(seed, (_PATHS, 1), 0.0, 1.0)
        self.workspace: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()

    def exact(self) -> Tensor:
        """y(1) on the path, from y(0) = 1."""
        w = self.path(0.0, 1.0)
        if self.noise == "additive":
            return (1 + 0.5 * (1 + 0.8 * w)) / math.sqrt(2)
        return torch.exp(-0.4 - (0.18 if self.ito else 0.0) + 0.6 * w)

    def __call__(self, t: Time, y: State) -> State:
        if self.noise == "additive":
            return 0.5 / math.sqrt(1 + t) - y / (2 * (1 + t))
        return -0.4 * y

    def diffusion(self, t: Time, y: State) -> Tensor:
        """g."""
        g = torch.full_like(y, 0.4 / math.sqrt(1 + t)) if self.noise == "additive" else 0.6 * y
        return g.unsqueeze(-1) if self.field.dim else g


@check("strong order")
def strong_order(m: Method) -> Iterator[Finding]:
    """E |y_N - y(1)| = O(h^p) on the same paths, for every kind of noise that the method serves."""
    claimed = getattr(m.integrator, "strong_orders", None)
    if "noise" not in m.needs or not claimed:
        raise Skip("not a method for stochastic equations" if "noise" not in m.needs else "it states no strong orders")
    for noise, p in claimed.items():
        for interpretation in getattr(m.integrator, "interpretations", ("ito",))[: 1 if noise == "additive" else 2]:
            errors = [_error(m, noise, interpretation, count) for count in _COUNTS]
            seen = math.log2(errors[0] / errors[-1]) / math.log2(_COUNTS[-1] / _COUNTS[0])
            ok = seen >= p - 0.15
            sentence = f"{noise} noise ({interpretation}): the mean error on {_PATHS} paths is O(h^{seen:.2f})"
            advice = "; correct step(), the interpretation, or the stated strong order"
            yield Finding("strong order", ok, sentence + ("" if ok else advice), seen, f">= {p - 0.15:.2f}")


@check("replay")
def replay(m: Method) -> Iterator[Finding]:
    """The same path gives the same bits, and another path other numbers."""
    noise = next(iter(getattr(m.integrator, "strong_orders", {})), None)
    if noise is None:
        raise Skip("not a method for stochastic equations")
    sense = getattr(m.integrator, "interpretations", ("ito",))[0]
    a, b, c = (_end(m, Known(noise, sense, seed), 8) for seed in (1, 1, 2))
    ok = torch.equal(a, b) and not torch.equal(a, c)
    yield Finding(
        "replay",
        ok,
        "one path is one solution"
        if ok
        else "the result is not a function of the path; take every increment from f.path",
    )


def _end(m: Method, f: Known, count: int) -> State:
    y = torch.ones(_PATHS, 1, dtype=torch.float64)
    carry: Carry = ()
    for n in range(count):
        y, _, carry, *_ = m.step(f, n / count, y, 1 / count, carry)
    return y


def _error(m: Method, noise: str, interpretation: str, count: int) -> float:
    f = Known(noise, interpretation, 7)
    return float((_end(m, f, count) - f.exact()).abs().mean())
