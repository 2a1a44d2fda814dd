"""Physical systems to try integrators on, with an exact solution or a reference value where there is one.

States are (..., D). Constants may be tensors that require a gradient. `reference` is (y0, t, y(t)) for the systems
without a closed form, computed with a Taylor method in 30 digits.
"""

from __future__ import annotations

import math
from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import Params, State, Time
from .base import Field

Number = float | Tensor
Reference = tuple[tuple[float, ...], float, tuple[float, ...]]


class Physical(Field, ABC):
    """A field without weights: `solve(Lorenz(), y0, t)` needs nothing else."""

    reference: ClassVar[Reference | None] = None

    def init(self, generator: torch.Generator | None = None) -> Params:
        return {}


class HarmonicOscillator(Physical):
    """q' = p, p' = -omega^2 q; exact: a rotation. Choose it for phase and energy errors."""

    offers = frozenset({"separable", "energy", "exact"})

    def __init__(self, omega: Number = 1.0) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, momentum = self.split(y)
        return self.join(momentum, -(self.omega**2) * q)

    def kick(self, t: Time, q: State, p: Params) -> State:
        return -(self.omega**2) * q

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        return momentum

    def energy(self, y: State, p: Params | None = None) -> Tensor:
        """(p^2 + omega^2 q^2)/2."""
        q, momentum = self.split(y)
        return 0.5 * (momentum**2 + self.omega**2 * q**2).sum(-1)

    def exact(self, t: Time, y0: State) -> State:
        q, momentum = self.split(y0)
        angle = torch.as_tensor(self.omega * t, dtype=y0.dtype)
        c, s = torch.cos(angle), torch.sin(angle)
        return self.join(q * c + momentum * s / self.omega, momentum * c - self.omega * q * s)


class Pendulum(Physical):
    """q' = p, p' = -sin q; H = p^2/2 - cos q. Exact by elliptic functions for oscillations (H < 1) from any state."""

    offers = frozenset({"separable", "energy", "exact"})

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, momentum = self.split(y)
        return self.join(momentum, -torch.sin(q))

    def kick(self, t: Time, q: State, p: Params) -> State:
        return -torch.sin(q)

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        return momentum

    def energy(self, y: State, p: Params | None = None) -> Tensor:
        """p^2/2 - cos q."""
        q, momentum = self.split(y)
        return (0.5 * momentum**2 - torch.cos(q)).sum(-1)

    def exact(self, t: Time, y0: State) -> State:
        """sin(q/2) = k sn(u + t, k^2), p = 2 k cn(u + t), k^2 = (1 + H)/2 < 1; no gradient."""
        import numpy as np
        from scipy.special import ellipj, ellipkinc

        q, momentum = (v.detach().double().cpu().numpy() for v in self.split(y0))
        turns = 2 * np.pi * np.round(q / (2 * np.pi))  # the well in which it swings
        q = q - turns
        m = 0.5 * (1.0 + 0.5 * momentum**2 - np.cos(q))
        if (m >= 1.0).any():
            raise BadInput("the closed form covers oscillations, H = p^2/2 - cos q < 1; this state rotates.")
        k = np.sqrt(m)
        amplitude = np.arctan2(np.sin(q / 2), 0.5 * momentum)  # sn = sin(am), cn = cos(am)
        sn, cn, _, _ = ellipj(ellipkinc(amplitude, m) + float(t), m)
        out = self.join(torch.as_tensor(turns + 2 * np.arcsin(k * sn)), torch.as_tensor(2 * k * cn))
        return out.to(y0)


class Kepler(Physical):
    """q'' = -q/|q|^3 in the plane, y = (q1, q2, p1, p2); exact by Kepler's equation from the pericentre.

    Choose it for long symplectic runs with an orbit that an explicit method lets drift. `Kepler.start(e)` is the
    pericentre of the ellipse of eccentricity e with period 2 pi.
    """

    offers = frozenset({"separable", "energy", "exact"})

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, momentum = self.split(y)
        return self.join(momentum, self.kick(t, q, p))

    def kick(self, t: Time, q: State, p: Params) -> State:
        return -q * (q**2).sum(-1, keepdim=True) ** -1.5

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        return momentum

    def energy(self, y: State, p: Params | None = None) -> Tensor:
        """|p|^2/2 - 1/|q|."""
        q, momentum = self.split(y)
        return 0.5 * (momentum**2).sum(-1) - (q**2).sum(-1) ** -0.5

    @staticmethod
    def start(eccentricity: float) -> Tensor:
        """(1 - e, 0, 0, sqrt((1 + e)/(1 - e))), float64."""
        if not 0.0 <= eccentricity < 1.0:
            raise BadInput(f"an ellipse has eccentricity in [0, 1), got {eccentricity}.")
        e = eccentricity
        return torch.tensor([1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))], dtype=torch.float64)

    def exact(self, t: Time, y0: State) -> State:
        """The ellipse through a pericentre as `start` gives it: E - e sin E = t, solved by Newton."""
        e = 1.0 - float(y0[0]) if y0.shape == (4,) else -1.0
        near = 1e-12 if y0.dtype == torch.float64 else 1e-6
        if not (0.0 <= e < 1.0 and torch.allclose(y0.double().cpu(), self.start(e), rtol=near, atol=near)):
            raise BadInput("the closed form starts at a pericentre, y0 = Kepler.start(eccentricity).")
        anomaly = math.remainder(float(t), 2 * math.pi)
        E = anomaly + e * math.sin(anomaly)
        for _ in range(50):
            E -= (E - e * math.sin(E) - anomaly) / (1 - e * math.cos(E))
        b, rate = math.sqrt(1 - e * e), 1 / (1 - e * math.cos(E))
        return y0.new_tensor([math.cos(E) - e, b * math.sin(E), -math.sin(E) * rate, b * math.cos(E) * rate])


class LotkaVolterra(Physical):
    """x' = a x - b x y, y' = -c y + d x y; keeps V = d x - c log x + b y - a log y (its `energy`)."""

    offers = frozenset({"energy"})
    reference = ((1.0, 1.0), 10.0, (1.0263447675750893, 0.90969107813604162))

    def __init__(self, a: Number = 1.5, b: Number = 1.0, c: Number = 3.0, d: Number = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = a, b, c, d

    def forward(self, t: Time, y: State, p: Params) -> State:
        prey, predator = y.unbind(-1)
        return torch.stack((prey * (self.a - self.b * predator), predator * (self.d * prey - self.c)), -1)

    def energy(self, y: State, p: Params | None = None) -> Tensor:
        """V(x, y)."""
        prey, predator = y.unbind(-1)
        return self.d * prey - self.c * prey.log() + self.b * predator - self.a * predator.log()


class VanDerPol(Physical):
    """q' = v, v' = mu (1 - q^2) v - q: a limit cycle, stiff for large mu."""

    reference = ((2.0, 0.0), 10.0, (-2.0083407825797123, 0.032907065863324064))

    def __init__(self, mu: Number = 1.0) -> None:
        super().__init__()
        self.mu = mu

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, v = y.unbind(-1)
        return torch.stack((v, self.mu * (1 - q**2) * v - q), -1)


class Lorenz(Physical):
    """x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z: chaotic at (10, 28, 8/3)."""

    reference = ((1.0, 1.0, 1.0), 2.0, (-8.1734999322422496, -9.5620236867987995, 24.620702049679666))

    def __init__(self, sigma: Number = 10.0, rho: Number = 28.0, beta: Number = 8.0 / 3.0) -> None:
        super().__init__()
        self.sigma, self.rho, self.beta = sigma, rho, beta

    def forward(self, t: Time, y: State, p: Params) -> State:
        x, v, z = y.unbind(-1)
        return torch.stack((self.sigma * (v - x), x * (self.rho - z) - v, x * v - self.beta * z), -1)
