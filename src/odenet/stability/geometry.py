"""Numerical range, eigenvector conditioning and Kreiss constant of the field's Jacobian: what eigenvalues hide.

W(J) = {x* J x : |x| = 1}, convex, holds all eigenvalues; for normal J it is their hull, for others it is larger
kappa(V) = |V| |V^-1|, V the unit eigenvectors: |p(J)| <= kappa(V) max |p(lambda)| for every polynomial p
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .proofs import monotone_constant
from .region import NEUTRAL, growth, in_pairs
from .spectrum import evenly, first_order_jacobian
from .unroll import Interval, Unrolled

_EPS = 2.220446049250313e-16


@dataclass(frozen=True)
class LayerGeometry:
    """One layer's field at P samples.

    boundary:   points of the boundary of W(h J), counterclockwise, (P, 2 A) complex
    inside:     share of W(h J) in the stability region of the flow's integrator, (P,); None for methods that are tested
                on pairs +-z (separable, second order), whose region is a piece of the imaginary axis
    condition:  kappa(V), inf where J is defective to rounding, 1 for normal J, (P,)
    """

    layer: int
    interval: Interval
    boundary: Tensor
    inside: Tensor | None
    condition: Tensor

    @property
    def radius(self) -> float:
        """The numerical radius of h J: |J^n| <= 2 r^n (Berger; Pearcy 1966)."""
        return float(self.boundary.abs().max())


def geometry(unrolled: Unrolled, layers: int = 8, samples: int = 2, angles: int = 17) -> list[LayerGeometry]:
    """Numerical ranges and conditioning at few layers and samples; empty for a model without flows."""
    mine = [n for n in range(unrolled.finite_until) if unrolled.layers[n].interval is not None]
    return [
        _geometry(n, unrolled.layers[n].interval, unrolled.states[n][0][:samples], angles)  # type: ignore[arg-type]
        for n in evenly(mine, layers)
    ]


def _geometry(layer: int, interval: Interval, y: Tensor, angles: int) -> LayerGeometry:
    J = first_order_jacobian(interval, y)
    boundary = numerical_range(J, angles) * interval.h
    if interval.h < 0:
        boundary = boundary.roll(boundary.shape[1] // 2, 1)
    method = interval.flow.integrator
    share = None if in_pairs(method) else range_share(method, boundary, interval.coef or None)
    return LayerGeometry(layer, interval, boundary, share, eigenvector_condition(J))


def numerical_range(J: Tensor, angles: int = 33) -> Tensor:
    """Boundary points of W(J) for real J (P, D, D), (P, 2 angles) complex, the upper half first.

    For each direction e^{ia}, a in [0, pi], the unit eigenvector x of the largest eigenvalue of the Hermitian part of
    e^{-ia} J gives the point x* J x where W touches its supporting line (Johnson 1978); W is symmetric about the real
    axis. Cost: one Hermitian eigenvalue problem per angle.
    """
    a = torch.linspace(0.0, math.pi, angles, dtype=torch.float64)
    turned = torch.complex(a.cos(), -a.sin())[None, :, None, None] * J.double()[:, None].to(torch.complex128)
    x = torch.linalg.eigh((turned + turned.mH) / 2).eigenvectors[..., -1]
    upper = (x.conj() * (J.to(torch.complex128)[:, None] @ x[..., None])[..., 0]).sum(-1)
    upper = torch.complex(upper.real, upper.imag.abs())
    return torch.cat((upper, upper.conj().flip(1)), dim=1)


def range_share(integrator: object, boundary: Tensor, coef: object = None, rays: int = 8) -> Tensor:
    """Share of W(h J) with |amplification| <= 1, (P,), from points on rays out of the centre of its boundary points."""
    centre = boundary.mean(1, keepdim=True)
    s = torch.linspace(1.0 / rays, 1.0, rays, dtype=torch.float64)
    points = centre[..., None] + s * (boundary - centre)[..., None]
    return (growth(integrator, points.flatten(1), coef) <= 1.0 + NEUTRAL).double().mean(1)  # type: ignore[arg-type]


def eigenvector_condition(J: Tensor) -> Tensor:
    """kappa(V) with unit eigenvectors, (P,): 1 for normal J, inf where a rounding error could make J defective.

    J counts as defective where s g <= 10 D eps |J|, s = |w* v| the reciprocal condition of an eigenvalue and g its
    distance to the next one: a perturbation of about s g makes the two coalesce (Wilkinson 1965; Demmel 1983).
    """
    return torch.stack([_condition(A) for A in J.double().cpu()])


def _condition(A: Tensor) -> Tensor:
    size = torch.linalg.matrix_norm(A)
    if float(torch.linalg.matrix_norm(A @ A.mT - A.mT @ A)) <= 1e-13 * float(size) ** 2:
        return torch.ones((), dtype=torch.float64)
    values, V = torch.linalg.eig(A)
    singular = torch.linalg.svdvals(V)
    if float(singular[-1]) <= len(A) * _EPS * float(singular[0]):
        return torch.full((), math.inf, dtype=torch.float64)
    s = 1.0 / torch.linalg.inv(V).norm(dim=1)
    apart = (values[:, None] - values[None, :]).abs() + torch.diag(torch.full((len(A),), math.inf))
    gap = apart.amin(1)
    defective = (s * gap <= 10 * len(A) * _EPS * size) & (s < 1e-4)
    return torch.full((), math.inf, dtype=torch.float64) if bool(defective.any()) else singular[0] / singular[-1]


def kreiss_constant(J: Tensor, points: int = 24) -> float:
    """A lower bound of K = sup over Re z > 0 of Re z |(z I - J)^{-1}|_2, for J (D, D); inf where J has growing modes.

    sup_t |e^{tJ}| lies between K and e D K (Kreiss 1962; Spijker 1991), so K > 1 proves transient growth that
    eigenvalues do not show. The supremum is taken over a grid, refined around its largest value.
    """
    A = J.double().cpu()
    values = torch.linalg.eigvals(A)
    if float(values.real.max()) > 1e-12 * float(values.abs().max()):
        return math.inf
    size = max(float(torch.linalg.matrix_norm(A, 2)), 1e-300)
    top = max(float(values.imag.abs().max()), 0.1 * size)
    x = size * torch.logspace(-3.0, 1.5, points, dtype=torch.float64)
    y = torch.linspace(0.0, 1.2 * top, points, dtype=torch.float64)
    best = 0.0
    for _ in range(4):
        z = torch.complex(*torch.meshgrid(x, y, indexing="ij"))
        eye = torch.eye(len(A), dtype=torch.complex128)
        low = torch.linalg.svdvals(z[..., None, None] * eye - A.to(torch.complex128))[..., -1]
        value = z.real / low.clamp(min=1e-300)
        i, k = divmod(int(value.argmax()), len(y))
        best = max(best, float(value.max()))
        ends = [math.log10(float(x[j])) for j in (max(i - 1, 0), min(i + 1, len(x) - 1))]
        x = torch.logspace(ends[0], ends[1], points, dtype=torch.float64)
        y = torch.linspace(float(y[max(k - 1, 0)]), float(y[min(k + 1, len(y) - 1)]), points, dtype=torch.float64)
    return best


def circle_margin(unrolled: Unrolled) -> list[tuple[int, float]]:
    """(layer, 2 r - h c) where the field is monotone with constant c and the method's contractivity radius r is known.

    Positive or zero proves that the layer contracts distances, for every input; 2 - h |K|^2 sup s' for forward Euler on
    f = -K^T s(K y + b). A negative margin proves nothing: it says by how much the proof fails.
    """
    out = []
    for n, (layer, state) in enumerate(zip(unrolled.layers, unrolled.states)):
        interval = layer.interval
        if interval is None or interval.flow.adaptive or interval.h <= 0:
            continue
        radius = interval.flow.integrator.facts.contractivity_radius
        c = monotone_constant(interval, tuple(state[0].shape[2:]))
        if radius is not None and c is not None:
            out.append((n, 2.0 * radius - interval.h * c))
    return out


def geometry_metrics(found: Sequence[LayerGeometry], margins: Sequence[tuple[int, float]]) -> dict[str, float]:
    """What `report` lists: the worst over layers and samples."""
    out: dict[str, float] = {}
    if found:
        shares = [float(g.inside.min()) for g in found if g.inside is not None]
        out = {"range_inside_share": min(shares)} if shares else {}
        out |= {
            "numerical_radius": max(g.radius for g in found),
            "eigenvector_condition": max(float(g.condition.max()) for g in found),
        }
    return out | ({"contractivity_margin": min(m for _, m in margins)} if margins else {})
