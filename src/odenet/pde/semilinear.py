"""Semilinear parabolic problems on all of space in any number of dimensions, stated for forward and backward SDEs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput

Coefficient = Callable[[float, Tensor], Any]


@dataclass(kw_only=True)
class Semilinear:
    """u_t + mu . grad u + tr(sigma sigma^T Hess u) / 2 + f(t, x, u, sigma^T grad u) = 0, u(T, .) = g: find u(t0, x0).

    Along dX = mu dt + sigma dW the values Y = u(t, X) and Z = sigma^T grad u obey -dY = f dt - Z dW.

    dim:        d; T: the last time; start: the first, t0; x0 (d,)
    drift:      mu(t, x): a number or (..., d) for x (..., d)
    diffusion:  sigma(t, x): a number, a diagonal (..., d), or a matrix (..., d, d)
    generator:  f(t, x, y, z) -> (...,) for y (...,) and z (..., d), in torch functions
    terminal:   g(x) -> (...,)
    step:       exact transition (t, h, x, dw) -> x of the forward process where one is known, dw ~ N(0, h); without it
                paths are Euler-Maruyama's
    reference:  function of points (N, d + 1), space before time, -> (N, 1), computed independently
    reference_error: its relative error

    `brownian` and `geometric` write drift, diffusion and step of the two usual processes. Choose this statement when a
    grid is out of question (d > 3) and the value at one point is wanted. Raises BadInput.
    """

    dim: int
    T: float
    x0: Tensor
    drift: Coefficient
    diffusion: Coefficient
    generator: Callable[[float, Tensor, Tensor, Tensor], Tensor]
    terminal: Callable[[Tensor], Tensor]
    step: Callable[[float, float, Tensor, Tensor], Tensor] | None = None
    start: float = 0.0
    reference: Callable[[Tensor], Tensor] | None = None
    reference_error: float = 0.0
    name: str = ""
    about: str = ""
    cite: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim < 1:
            raise BadInput(f"dim={self.dim!r}: give the number of space dimensions, a whole number above zero.")
        if not (math.isfinite(self.T) and math.isfinite(self.start) and self.start < self.T):
            raise BadInput(f"T={self.T!r} must be a finite time after start={self.start!r}.")
        self.x0 = torch.as_tensor(self.x0, dtype=torch.float64)
        if self.x0.shape != (self.dim,) or not bool(torch.isfinite(self.x0).all()):
            raise BadInput(f"x0 is one finite point of shape ({self.dim},); got {tuple(self.x0.shape)}.")
        self._probe()

    def _probe(self) -> None:
        x, y, z = self.x0.expand(2, self.dim), torch.ones(2).double(), torch.full((2, self.dim), 0.1).double()
        t, h = self.start, 1e-3 * (self.T - self.start)
        self._shape("drift", self.drift(t, x), {(), (2, self.dim)})
        self._shape("diffusion", self.diffusion(t, x), {(), (2, self.dim), (2, self.dim, self.dim)})
        self._shape("terminal", self.terminal(x), {(2,)})
        self._shape("generator", self.generator(t, x, y, z), {(2,)})
        if self.step is None:
            return
        self._shape("step", self.step(t, h, x, z), {(2, self.dim)})
        dw = 1e-6 * torch.linspace(-1.0, 1.0, self.dim, dtype=torch.float64).expand(2, self.dim)
        gap = self.step(t, 0.0, x, dw) - x - self.push(t, x, dw)
        if float(gap.norm()) > 1e-4 * float(self.push(t, x, dw).norm()) + 1e-12:
            raise BadInput("step does not move x by diffusion * dw when h is zero: the two state different processes.")

    def _shape(self, name: str, value: Any, allowed: set[tuple[int, ...]]) -> None:
        found = torch.as_tensor(value)
        wanted = " or ".join(str(s) for s in sorted(allowed, key=len))
        if tuple(found.shape) not in allowed:
            raise BadInput(f"{name} at two points x (2, {self.dim}) has shape {tuple(found.shape)}; wanted {wanted}.")
        if not bool(torch.isfinite(found).all()):
            raise BadInput(f"{name} is not finite at x0.")

    def push(self, t: float, x: Tensor, v: Tensor) -> Tensor:
        """sigma(t, x) v."""
        s = self.diffusion(t, x)
        matrix = isinstance(s, Tensor) and s.ndim == x.ndim + 1
        return (s @ v[..., None])[..., 0] if matrix else s * v

    def pull(self, t: float, x: Tensor, v: Tensor) -> Tensor:
        """sigma(t, x)^T v: Z where v is a gradient."""
        s = self.diffusion(t, x)
        matrix = isinstance(s, Tensor) and s.ndim == x.ndim + 1
        return (s.mT @ v[..., None])[..., 0] if matrix else s * v

    def advance(self, t: float, h: float, x: Tensor, dw: Tensor) -> Tensor:
        """X at t + h: the exact transition, or one step of Euler-Maruyama."""
        return self.step(t, h, x, dw) if self.step else x + h * self.drift(t, x) + self.push(t, x, dw)

    def increments(self, steps: int, count: int, generator: torch.Generator) -> Tensor:
        """Brownian increments (steps, count, d), float64; the second half of the paths mirrors the first."""
        scale = math.sqrt((self.T - self.start) / steps)
        half = scale * torch.randn(steps, count // 2, self.dim, generator=generator, dtype=torch.float64)
        return torch.cat([half, -half], 1)

    def paths(self, dw: Tensor) -> Tensor:
        """X (steps + 1, count, d) along increments (steps, count, d)."""
        h = (self.T - self.start) / len(dw)
        x = [self.x0.to(dw).expand(dw.shape[1], self.dim)]
        for n, w in enumerate(dw):
            x.append(self.advance(self.start + n * h, h, x[-1], w))
        return torch.stack(x)

    def truth(self) -> float | None:
        """The reference at (x0, t0), or None."""
        if self.reference is None:
            return None
        point = torch.cat([self.x0, self.x0.new_tensor([self.start])])
        return float(self.reference(point[None]))


def brownian(scale: float) -> Mapping[str, Any]:
    """dX = scale dW: drift, diffusion and exact step."""
    return {
        "drift": lambda t, x: 0.0,
        "diffusion": lambda t, x: scale,
        "step": lambda t, h, x, dw: x + scale * dw,
    }


def geometric(growth: float, volatility: float, mixing: Tensor | None = None) -> Mapping[str, Any]:
    """dX_i = growth X_i dt + volatility X_i dB_i with B = mixing W, rows of mixing (d, d) of length one, or B = W."""

    def diffusion(t: float, x: Tensor) -> Tensor:
        return volatility * x if mixing is None else volatility * x[..., None] * mixing.to(x)

    def step(t: float, h: float, x: Tensor, dw: Tensor) -> Tensor:
        db = dw if mixing is None else dw @ mixing.to(dw).mT
        return x * torch.exp((growth - volatility**2 / 2) * h + volatility * db)

    return {"drift": lambda t, x: growth * x, "diffusion": diffusion, "step": step}
