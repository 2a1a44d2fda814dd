"""Random smooth problems, drawn from a seed: oscillators, linear systems, small networks, quadratic systems."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ...errors import BadInput
from ...types import Function, State, Time
from .problem import InitialValueProblem, linear

Drawn = tuple[Function, Tensor, str]


def _uniform(g: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)


def _normal(g: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _dimension(g: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=g))


def _oscillator(g: Generator) -> Drawn:
    """q' = v, v' = -w^2 q - c q^3 - damping v + amplitude cos(frequency t)."""
    d = _dimension(g, 1, 4)
    w, c, damping = _uniform(g, 0.5, 3.0, d) ** 2, _uniform(g, 0.0, 2.0, d), _uniform(g, 0.0, 0.5, d)
    amplitude, frequency = _uniform(g, 0.0, 2.0, d), float(_uniform(g, 0.5, 4.0, 1))

    def f(t: Time, y: State) -> State:
        q, v = y.chunk(2, -1)
        wave = torch.cos(frequency * t) if isinstance(t, Tensor) else math.cos(frequency * t)
        pull = -w.to(y) * q - c.to(y) * q**3 - damping.to(y) * v
        return torch.cat((v, pull + amplitude.to(y) * wave), -1)

    return f, _uniform(g, -1.5, 1.5, 2 * d), f"{d} forced Duffing oscillators"


def _linear(g: Generator, growing: bool) -> Drawn:
    """y' = A y with eigenvalues of real part in [-3, -0.05], or up to 0.5 where growing."""
    d = _dimension(g, 2, 6)
    a = _normal(g, d, d)
    top = float(torch.linalg.eigvals(a).real.max())
    a = a - (top - float(_uniform(g, 0.1, 0.5, 1) if growing else _uniform(g, -1.0, -0.05, 1))) * torch.eye(d)
    return linear(a), _normal(g, d), f"linear, {'growing' if growing else 'decaying'}, {d} components"


def _network(g: Generator) -> Drawn:
    """y' = W2 tanh(W1 y + b) - decay y."""
    d, width = _dimension(g, 2, 6), 16
    inner, outer = 1.6 * _normal(g, width, d) / d**0.5, 1.6 * _normal(g, d, width) / width**0.5
    bias, decay = 0.5 * _normal(g, width), float(_uniform(g, 0.1, 1.0, 1))

    def f(t: Time, y: State) -> State:
        return torch.tanh(y @ inner.T.to(y) + bias.to(y)) @ outer.T.to(y) - decay * y

    return f, _normal(g, d), f"a tanh network of {d} inputs and {width} units"


def _quadratic(g: Generator) -> Drawn:
    """y' = B(y, y) - damping y + force with y . B(y, y) = 0, which keeps every solution bounded."""
    d = _dimension(g, 2, 5)
    b = _normal(g, d, d, d)
    b = 0.5 * (b - b.transpose(0, 1))  # sum_i y_i b_ijk y_j y_k vanishes
    damping, force = _uniform(g, 0.1, 0.8, d), _normal(g, d)

    def f(t: Time, y: State) -> State:
        return torch.einsum("ijk,...j,...k->...i", b.to(y), y, y) - damping.to(y) * y + force.to(y)

    return f, _uniform(g, -1.5, 1.5, d), f"quadratic with bounded energy, {d} components"


_KINDS: tuple[Callable[[Generator], Drawn], ...] = (
    _oscillator,
    lambda g: _linear(g, False),
    _network,
    _quadratic,
    lambda g: _linear(g, True),
)


def random_problems(n: int, seed: int = 0) -> list[InitialValueProblem]:
    """n smooth problems, five kinds in turn, the same for the same seed whatever n is.

    Their speed is spread over a factor of ten and their length over a factor of five, so that the same number of steps
    is plenty for some and far too few for others. They have no reference value. Raises BadInput for n < 1.
    """
    if n < 1:
        raise BadInput(f"random_problems draws one or more problems, got n={n}.")
    return [_drawn(i, seed) for i in range(n)]


def _drawn(i: int, seed: int) -> InitialValueProblem:
    g = torch.Generator().manual_seed(1_000_003 * seed + i)
    f, y0, doc = _KINDS[i % len(_KINDS)](g)
    speed = 10 ** float(_uniform(g, -0.5, 0.5, 1))
    return InitialValueProblem(
        name=f"random_{i}", f=_faster(f, speed), y0=tuple(y0.tolist()), t1=float(_uniform(g, 1.0, 5.0, 1)),
        floor=1e-2, cite="drawn at random", doc=f"{doc}, {speed:.2g} times as fast",
    )  # fmt: skip


def _faster(f: Function, speed: float) -> Function:
    return lambda t, y: speed * f(speed * t, y)
