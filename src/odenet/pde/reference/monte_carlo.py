"""Values of semilinear problems in many dimensions by Monte Carlo methods that know nothing of Z."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import BadInput
from ..semilinear import Semilinear


@dataclass(frozen=True)
class Sampled:
    """A mean and its standard error."""

    value: float
    standard_error: float
    samples: int


def cole_hopf(
    terminal: Callable[[Tensor], Tensor],
    x: Tensor,
    variance: float,
    weight: float = 1.0,
    samples: int = 200_000,
    seed: int = 0,
) -> Sampled:
    """-log E exp(-weight g(x + sqrt(variance) W)) / weight: the equation u_t + Laplace u = weight |grad u|^2.

    x (d,); variance = 2 (T - t). Antithetic pairs, and |W|^2 of known mean d as control variate (for x = 0 it carries
    all of radial data). Choose it to check a solver of such an equation in any dimension.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for start in range(0, samples, 20_000):
        w = torch.randn(min(20_000, samples - start) // 2, len(x), generator=generator, dtype=torch.float64)
        both = [torch.exp(-weight * terminal(x + sign * math.sqrt(variance) * w)) for sign in (1, -1)]
        q = w.square().sum(1)
        sums.append(torch.stack([(both[0] + both[1]) / 2, q - len(x), (q - len(x)) ** 2 - 2 * len(x)], 1))
    table = torch.cat(sums)
    mean = table.mean(0)
    c = torch.cov(table.T)
    slope = torch.linalg.solve(c[1:, 1:], c[1:, 0])
    value = mean[0] - slope @ mean[1:]
    error = ((c[0, 0] - slope @ c[1:, 0]) / len(table)).clamp(min=0).sqrt()
    return Sampled(float(-value.log() / weight), float(error / value / weight), 2 * len(table))


def multilevel_picard(
    p: Semilinear, level: int, branching: int, replications: int, seed: int = 0, guess: float | None = None
) -> Sampled:
    """u(t0, x0) by full-history multilevel Picard iteration, for generators without z and processes with exact steps.

    U_n = mean over M^n of g + sum_l (T - t) mean over M^(n - l) of f(U_l) - [l > 0] f(U_(l - 1)) at uniform times, with
    U_0 = guess instead of zero (None: the mean of g). The mean of many replications has the bias of the iteration,
    (L T)^n / n! in size, and that of the curvature of f under the variance of U_(n - 1). Hutzenthaler, Jentzen, Kruse,
    Nguyen & von Wurstemberger (2020), Proc. R. Soc. A 476, 20190630. Raises BadInput.
    """
    if p.step is None:
        raise BadInput("multilevel_picard needs a forward process with an exact step.")
    generator = torch.Generator().manual_seed(seed)
    values = []
    size = max(1, min(replications, 200_000 // (branching**level * p.dim) + 1))
    if guess is None:
        x = p.x0.expand(4096, p.dim)
        guess = float(
            p.terminal(_moved(p, torch.full((4096,), p.start), torch.full((4096,), p.T), x, generator)).mean()
        )
    for start in range(0, replications, size):
        count = min(size, replications - start)
        t = torch.full((count,), p.start, dtype=torch.float64)
        values.append(_picard(p, level, branching, t, p.x0.expand(count, p.dim), generator, guess))
    u = torch.cat(values)
    return Sampled(float(u.mean()), float(u.std() / math.sqrt(len(u))), len(u))


def _moved(p: Semilinear, t: Tensor, until: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """X at times `until` (B,) given X = x (B, d) at t (B,): the exact step of every row with its own length."""
    h = (until - t)[:, None].to(x)
    w = h.sqrt() * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    assert p.step is not None
    return p.step(p.start, h, x, w)  # type: ignore[arg-type]


def _picard(p: Semilinear, n: int, m: int, t: Tensor, x: Tensor, generator: torch.Generator, guess: float) -> Tensor:
    """U_n at (t (B,), x (B, d))."""
    if n == 0:
        return torch.full_like(t, guess)

    def many(v: Tensor, k: int) -> Tensor:
        return v.repeat_interleave(k, 0)

    def mean(v: Tensor, k: int) -> Tensor:
        return v.view(-1, k).mean(1)

    k = m**n
    late = many(t, k)
    u = mean(p.terminal(_moved(p, late, torch.full_like(late, p.T), many(x, k), generator)), k)
    for level in range(n):
        k = m ** (n - level)
        s = many(t, k)
        r = s + (p.T - s) * torch.rand(s.shape, generator=generator, dtype=s.dtype)
        y = _moved(p, s, r, many(x, k), generator)
        z = torch.zeros_like(y)
        f = p.generator(p.start, y, _picard(p, level, m, r, y, generator, guess), z)
        if level:
            f = f - p.generator(p.start, y, _picard(p, level - 1, m, r, y, generator, guess), z)
        u = u + (p.T - t) * mean(f, k)
    return u
