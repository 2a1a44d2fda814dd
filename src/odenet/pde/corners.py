"""Corners of polygons, and the functions that are singular there: what neither polynomials nor nets come near."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import Incompatible
from ..fields import jets
from .domain import Domain

Index = tuple[int, ...]
Corner = tuple[float, float, float, float]  # x, y, direction of the first side, opening angle


@dataclass(frozen=True)
class Corners:
    """Singular functions of corners: with z from the corner, turned so that its first side is real, w its angle,

    real and imaginary parts of z^(k pi / w), k = 1, 2, ..., and where that power is an integer n of z^n log z. They are
    harmonic; the solution of Poisson's equation behaves like them at a corner (Grisvard 1985, section 5.1).
    """

    corners: tuple[Corner, ...] = ()
    highest: float = 4.5

    def powers(self, angle: float) -> list[tuple[float, bool]]:
        """Exponents, and whether a logarithm comes with them."""
        found = [k * math.pi / angle for k in range(1, 20) if k * math.pi / angle <= self.highest]
        return [(round(p), True) if abs(p - round(p)) < 1e-9 else (p, False) for p in found]

    @property
    def reentrant(self) -> bool:
        """Whether a corner is wider than a straight angle: first derivatives are unbounded there."""
        return any(angle > math.pi + 1e-9 for *_, angle in self.corners)

    @property
    def size(self) -> int:
        """Number of functions."""
        return 2 * sum(len(self.powers(angle)) for *_, angle in self.corners)

    def __call__(self, x: Tensor, indices: Sequence[Index]) -> dict[Index, Tensor]:
        """Derivatives (N, size): D_x^a D_y^b f(z) = i^b f^(a+b)(z)."""
        out: dict[Index, list[Tensor]] = {a: [] for a in indices}
        for px, py, start, angle in self.corners:
            z = torch.complex(x[:, 0] - px, x[:, 1] - py)
            middle = start + angle / 2  # the branch cut lies opposite, outside
            theta = torch.remainder(z.angle() - middle + math.pi, 2 * math.pi) - math.pi + angle / 2
            r = z.abs().clamp_min(1e-100)
            for power, log in self.powers(angle):
                for a in indices:
                    f = _derivative(r, theta, power, log, sum(a))
                    f = f * complex(math.cos(sum(a) * start), -math.sin(sum(a) * start)) * 1j ** a[1]
                    out[a] += [f.imag, f.real]
        return {a: torch.stack(columns, 1) for a, columns in out.items()}

    def columns(self, x: Tensor) -> Tensor:
        """(N, size) at points (N, 2), with the channels that x carries. Raises Incompatible for functions of points."""
        if not isinstance(x, jets.Jet):
            return self(x, [(0, 0)])[0, 0]
        straight = jets.lift(x.parts[0], x.channels).parts
        if not torch.equal(straight, x.parts):
            raise Incompatible("singular functions of a corner take the coordinates themselves, not functions of them.")
        found = self(x.parts[0], x.channels)
        return jets.Jet(torch.stack([found[c] for c in x.channels]), x.channels)


def _derivative(r: Tensor, theta: Tensor, power: float, log: bool, order: int) -> Tensor:
    """The derivative of z^power (log z): that of z^p (a log z + b) is z^(p-1) (p a log z + p b + a)."""
    a, b = (1.0, 0.0) if log else (0.0, 1.0)
    for _ in range(order):
        a, b, power = power * a, power * b + a, power - 1
    return torch.polar(r**power, power * theta) * (a * torch.complex(r.log(), theta) + b)


def corners_of(domain: Domain) -> Corners:
    """The corners of a polygon in the plane."""
    vertices = getattr(domain, "vertices", None)
    if vertices is None or domain.dim != 2:
        return Corners()
    points, found = [complex(*map(float, v)) for v in vertices], []
    area = sum((a.conjugate() * b).imag for a, b in zip(points, [*points[1:], points[0]]))
    points = points if area > 0 else points[::-1]
    for i, p in enumerate(points):
        ahead, behind = points[(i + 1) % len(points)] - p, points[i - 1] - p
        start = math.atan2(ahead.imag, ahead.real)
        angle = (math.atan2(behind.imag, behind.real) - start) % (2 * math.pi)
        found.append((p.real, p.imag, start, angle))
    return Corners(tuple(found))


NONE = Corners()


class Enriched(nn.Module):
    """A trunk beside singular functions: inputs (N, k + S) -> trunk(first k) + last S @ amplitudes, (N, m)."""

    def __init__(self, trunk: nn.Module, size: int, unknowns: int) -> None:
        super().__init__()
        self.trunk, self.size = trunk, size
        self.amplitudes = nn.Parameter(torch.zeros(size, unknowns, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x[..., : -self.size]) + x[..., -self.size :] @ self.amplitudes
