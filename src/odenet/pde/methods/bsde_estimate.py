"""Unbiased to second order: the value u(t0, x0) from an approximate Z, with what is known of its error.

Given any Z^, two estimators of Y_0 err only in the second order of Z^ - Z. With Gamma = exp int f_y dt, a = f_z and
E = exp(int a dW - int |a|^2 dt / 2), all taken along Y^, the forward solution started at y:

    forward:   y - E[Gamma E (Y^_T - g(X_T))]         one step of Newton's method with the adjoint as weight
    backward:  y + E[E (theta_0 - y)],   theta_t = g + int_t^T f(s, X, theta, Z^) ds - int_t^T Z^ dW path by path

Where f is convex in y the first is low and the second high, where it is concave the reverse: half their distance
measures the bias by curvature in y. Integrals of f are trapezoidal sums (with the part linear in Z taken at both ends
of a step like f itself), so that the error in time is of second order for a forward process with exact steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..semilinear import Semilinear

Control = Callable[[float, Tensor], Tensor]  # (t, x (B, d)) -> Z (B, d), no gradient
ROWS = 11  # figures of one batch, in the order of `batch`


@dataclass(frozen=True)
class Estimate:
    """Value and its error, in the units of u.

    value:          mean of the forward and the backward estimator, antithetic pairs
    standard_error: of the mean over the paths
    discretisation: from the difference between the step number and half of it on the same paths
    curvature:      second-order bias: half the distance of the two estimators, plus |f_zz| var / 2
    error:          2 standard_error + discretisation + curvature: an estimate, not a bound
    variance:       of theta_0; samples: share of effective samples under the weights E
    """

    value: float
    standard_error: float
    discretisation: float
    curvature: float
    variance: float
    samples: float
    paths: int

    @property
    def error(self) -> float:
        return 2 * self.standard_error + self.discretisation + self.curvature


def generated(p: Semilinear, t: float, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """f with its derivatives in y and z, None where it does not depend on them."""
    with torch.enable_grad():
        y, z = y.detach().requires_grad_(), z.detach().requires_grad_()
        f = p.generator(t, x, y, z)
        if not f.requires_grad:
            return f, None, None
        fy, fz = torch.autograd.grad(f.sum(), (y, z), allow_unused=True)
    return f.detach(), fy, fz


def along(p: Semilinear, x: Tensor, control: Control) -> Tensor:
    """Z^ (steps + 1, B, d) along paths x of that shape."""
    h = (p.T - p.start) / (len(x) - 1)
    return torch.stack([control(p.start + n * h, part) for n, part in enumerate(x)])


def pathwise(p: Semilinear, dw: Tensor, x: Tensor, z: Tensor, y0: float) -> dict[str, Tensor]:
    """Forward and backward estimators on each path: forward, backward, theta, weight (B,) and rate (steps,) = E f_y."""
    steps, h, start = len(dw), (p.T - p.start) / len(dw), p.start
    g = p.terminal(x[-1])
    martingale = (z[:-1] * dw).sum(-1)
    y, gamma, weight = torch.full_like(g, y0), torch.zeros_like(g), torch.zeros_like(g)
    turns, rates = [], []
    for n in range(steps):
        t = start + n * h
        f, fy, a = generated(p, t, x[n], y, z[n])
        turn = torch.zeros_like(g) if a is None else (a * (z[n + 1] - z[n])).sum(-1) * (h / 2)
        ahead = p.generator(t + h, x[n + 1], y - h * f + martingale[n], z[n + 1])
        y = y - (f + ahead) * (h / 2) + turn + martingale[n]
        if a is not None:
            weight = weight + (a * dw[n]).sum(-1) - a.square().sum(-1) * (h / 2)
        if fy is not None:
            gamma = gamma + fy * (h if n else h / 2)
        turns.append(turn)
        rates.append(torch.zeros(()).to(g) if fy is None else fy.mean())
    fy = generated(p, p.T, x[-1], y, z[-1])[1]
    gamma, weight = (gamma if fy is None else gamma + fy * (h / 2)).exp(), weight.exp()
    theta, f = g, p.generator(p.T, x[-1], g, z[-1])
    for n in reversed(range(steps)):
        t, base = start + n * h, theta - martingale[n] - turns[n]
        theta = base + (f + p.generator(t, x[n], base + h * f, z[n])) * (h / 2)
        f = p.generator(t, x[n], theta, z[n])
    return {
        "forward": y0 - gamma * weight * (y - g),
        "backward": y0 + weight * (theta - y0),
        "theta": theta,
        "weight": weight,
        "rate": torch.stack(rates),
    }


def _paired(v: Tensor) -> Tensor:
    return v.unflatten(0, (2, -1)).mean(0)


def batch(p: Semilinear, dw: Tensor, control: Control, y0: float) -> Tensor:
    """Figures (ROWS,) of one batch of antithetic paths, at all steps and at half of them."""
    x = p.paths(dw)
    z = along(p, x, control)
    fine, coarse = pathwise(p, dw, x, z, y0), dw.unflatten(0, (-1, 2)).sum(1)
    if p.step is None:
        x2 = p.paths(coarse)
        half = pathwise(p, coarse, x2, along(p, x2, control), y0)
    else:  # the same points, every second one
        half = pathwise(p, coarse, x[::2], z[::2], y0)
    a, b, c = (_paired(fine["forward"]), _paired(fine["backward"]), _paired((half["forward"] + half["backward"]) / 2))
    mid, w = (a + b) / 2, fine["weight"]
    spread = [fine["theta"].var(), half["theta"].var(), w.mean() ** 2 / w.square().mean()]
    rows = [mid.mean(), mid.var(), a.mean(), b.mean(), c.mean(), (mid - c).var(), *spread]
    return torch.stack([*rows, (a - b).var(), torch.tensor(float(dw.shape[1])).to(a)])


def bend(p: Semilinear, control: Control, y0: float, generator: torch.Generator) -> float:
    """Mean of the largest |eigenvalue| of f_zz half way, by four steps of power iteration."""
    dw = p.increments(4, 64, generator)
    x, t = p.paths(dw)[2], (p.start + p.T) / 2
    z, y = control(t, x).requires_grad_(), torch.full((len(x),), y0).to(x)
    with torch.enable_grad():
        f = p.generator(t, x, y, z)
        fz = torch.autograd.grad(f.sum(), z, create_graph=True, allow_unused=True)[0] if f.requires_grad else None
        if fz is None or not fz.requires_grad:
            return 0.0
        v = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        for _ in range(4):
            v = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-300)
            v = torch.autograd.grad((fz * v).sum(), z, retain_graph=True)[0]
    return float(v.norm(dim=-1).mean())


def gathered(p: Semilinear, rows: Tensor, bending: float) -> Estimate:
    """The estimate from figures (J, ROWS) of J batches of one size. Euler paths are extrapolated in the step number."""
    m, count = rows.mean(0), float(rows[:, -1].sum())
    pairs = count / 2
    drift, error = float(m[0] - m[4]), float((m[5] / pairs).sqrt())
    value = float(m[0]) + (0.0 if p.step else drift)
    spread = float((m[1] / pairs).sqrt()) * (1 if p.step else 2)
    still = max(float(2 * m[6] - m[7]), 0.0)  # variance at step zero: what a finer grid would not take away
    curvature = abs(float(m[2] - m[3])) / 2 + float((m[9] / pairs).sqrt()) / 2 + bending * still / 2
    time = (abs(drift) + 2 * error) / (3 if p.step else 1)  # of second order, and of first taken away
    return Estimate(value, spread, time, curvature, float(m[6]), float(m[8]), int(count))
