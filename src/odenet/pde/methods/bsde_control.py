"""The approximate Z of a deep BSDE solver: the linear problem's by fixed random numbers, and one net per time step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..semilinear import Semilinear

SUBSTEPS = 4  # Euler steps from t to T inside the proxy, where the process has no exact transition
CELLS = 1 << 18  # numbers at once in the proxy: about the size of a core's cache


def noise(p: Semilinear, count: int, seed: int) -> Tensor:
    """Standard normal numbers (stages, count, d) of a scrambled Sobol set and their mirror image, variance one."""
    stages = 1 if p.step else SUBSTEPS
    if not count:
        return torch.zeros(stages, 0, p.dim, dtype=torch.float64)
    engine = torch.quasirandom.SobolEngine(stages * p.dim, scramble=True, seed=seed)
    u = engine.draw(count // 2, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    xi = math.sqrt(2) * torch.erfinv(2 * u - 1)
    xi = torch.cat([xi, -xi])
    return (xi / xi.square().mean(0).sqrt()).unflatten(1, (stages, p.dim)).transpose(0, 1)


def proxy(p: Semilinear, t: float, x: Tensor, xi: Tensor) -> Tensor:
    """sigma^T grad_x of mean_k g(X_T | X_t = x, xi_k): Z of the problem without generator, (B, d) in the type of xi.

    A function of x whatever the numbers xi are, hence an admissible Z. Zero where autograd finds no slope of g.
    """
    if not xi.shape[1]:
        return torch.zeros_like(x, dtype=xi.dtype)
    return torch.cat([_slope(p, t, part, xi) for part in x.split(max(CELLS // xi[0].numel(), 1))])


def _slope(p: Semilinear, t: float, x: Tensor, xi: Tensor) -> Tensor:
    with torch.enable_grad():
        start = x.detach().to(xi).requires_grad_()
        h = (p.T - t) / len(xi)
        end = start[:, None, :]
        if h > 1e-12 * p.T:
            for k, stage in enumerate(xi):
                end = p.advance(t + k * h, h, end, math.sqrt(h) * stage)
        g = p.terminal(end)
        if not g.requires_grad:
            return torch.zeros_like(start)
        (slope,) = torch.autograd.grad(g.sum() / g.shape[1], start)
        return p.pull(t, start.detach(), slope)


@dataclass(frozen=True)
class Nets:
    """Z(t_n, x) = alpha_n proxy(t_n, x) + sigma^T (c_n + D_n v + W_n^T (a_n tanh(W_n v + b_n))) scale, v = (x - m_n)/s.

    The bracket is the gradient of a net with one hidden layer plus a diagonal quadratic form. All time steps' weights
    are stacked in one vector theta (P,); a batch of all times is one call.
    """

    problem: Semilinear
    xi: Tensor  # (stages, K, d)
    mean: Tensor  # (N, 1, d)
    spread: float
    scale: float
    width: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        n, d, m = len(self.mean), self.problem.dim, self.width
        return {"alpha": (n, 1, 1), "c": (n, 1, d), "D": (n, 1, d), "a": (n, 1, m), "b": (n, 1, m), "W": (n, d, m)}

    def views(self, theta: Tensor) -> dict[str, Tensor]:
        """The pieces of theta by name."""
        shapes = self.shapes
        parts = theta.split([math.prod(s) for s in shapes.values()])
        return {k: v.view(s) for (k, s), v in zip(shapes.items(), parts)}

    def start(self, generator: torch.Generator) -> Tensor:
        """theta at which the nets vanish and alpha is one."""
        theta = torch.zeros(sum(math.prod(s) for s in self.shapes.values()), dtype=self.mean.dtype)
        parts = self.views(theta)
        parts["alpha"].fill_(1.0)
        parts["b"].normal_(generator=generator).mul_(0.5)
        parts["W"].normal_(generator=generator).div_(math.sqrt(self.problem.dim))
        return theta

    def proxies(self, x: Tensor) -> Tensor:
        """(N, B, d): the proxy along paths x (N, B, d) at the nets' times."""
        p = self.problem
        return torch.stack([proxy(p, self.time(n), part, self.xi) for n, part in enumerate(x)])

    def time(self, n: int) -> float:
        """t_n."""
        return self.problem.start + n * (self.problem.T - self.problem.start) / len(self.mean)

    def slopes(self, w: dict[str, Tensor], x: Tensor) -> Tensor:
        """The nets alone, without sigma: (N, B, d)."""
        v = (x - self.mean) / self.spread
        hidden = torch.tanh(torch.baddbmm(w["b"], v, w["W"])) * w["a"]
        return self.scale * (torch.baddbmm(w["c"] + w["D"] * v, hidden, w["W"].mT))

    def __call__(self, theta: Tensor, x: Tensor, guess: Tensor) -> Tensor:
        """Z (N, B, d) at all times at once; `guess` are the proxies."""
        w, p = self.views(theta), self.problem
        out = self.slopes(w, x)
        return w["alpha"] * guess + torch.stack([p.pull(self.time(n), x[n], part) for n, part in enumerate(out)])

    def at(self, theta: Tensor, t: float, x: Tensor) -> Tensor:
        """Z (B, d) at any time, float64: the proxy there, and the net of the last time step before t."""
        p, last = self.problem, len(self.mean)
        guess = proxy(p, t, x, self.xi).double()
        n = math.floor((t - p.start) / (p.T - p.start) * last + 1e-9)
        if n >= last:  # at T the slope of g is Z itself
            return guess
        w = {k: v[n : n + 1] for k, v in self.views(theta).items()}
        v = x.to(self.mean)
        hidden = torch.tanh(torch.baddbmm(w["b"], ((v - self.mean[n]) / self.spread)[None], w["W"])) * w["a"]
        out = w["c"] + w["D"] * ((v - self.mean[n]) / self.spread) + hidden @ w["W"].mT
        return float(w["alpha"]) * guess + p.pull(t, v, self.scale * out[0]).double()


def fitted(p: Semilinear, steps: int, width: int, count: int, seed: int, dtype: torch.dtype) -> Nets:
    """Nets whose inputs and outputs are scaled by a first set of paths."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + 1)
    x = p.paths(p.increments(steps, 1024, generator))
    spread = float((x - x.mean(1, keepdim=True)).square().mean().sqrt())
    ones = torch.ones(1024, p.dim, dtype=torch.float64)
    size = float(p.push(p.start, x[0], ones).square().mean().sqrt())
    scale = float(p.terminal(x[-1]).std()) / (size * math.sqrt(p.dim * (p.T - p.start)))
    return Nets(p, noise(p, count, seed).to(dtype), x[:-1].mean(1, keepdim=True).to(dtype), spread, scale, width)
