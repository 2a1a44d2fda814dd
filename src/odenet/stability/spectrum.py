"""Eigenvalues, logarithmic norms and departure from normality of the field's Jacobian, layer by layer.

J_n = df/dy at (t_n, y_n) with the weights of knot interval n, for every sample. Eigenvalues say what one step
does to a mode; they do not bound products of different or non-normal J_n, so nothing here ever proves or
measures stability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .region import NEUTRAL, growing, growth, largest_step
from .unroll import Interval, Unrolled, jacobian


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer's field at P samples.

    scaled:         h lambda, (P, D) complex; eigenvalues: lambda itself
    growth:         |amplification| at the scaled eigenvalues under the flow's integrator, (P, D)
    expected:       whether the exact flow amplifies the mode too (Re h lambda > 1e-6), (P, D)
    lognorm_2:      lambda_max((J + J^T)/2), the numerical abscissa; lowest: lambda_min of the same; (P,)
    lognorm_1:      max_j (J_jj + sum_i |J_ij|, i != j); lognorm_inf: the same by rows; (P,)
    henrici:        sqrt(|J|_F^2 - sum |lambda|^2)/|J|_F in [0, 1], 0 iff J is normal; (P,)
    abscissa:       max Re lambda, (P,)

    For large states `krylov_spectra` gives extreme eigenvalues alone, and the last three of these are None.
    """

    layer: int
    interval: Interval
    eigenvalues: Tensor
    scaled: Tensor
    growth: Tensor
    expected: Tensor
    lognorm_2: Tensor
    lowest: Tensor
    abscissa: Tensor
    lognorm_1: Tensor | None = None
    lognorm_inf: Tensor | None = None
    henrici: Tensor | None = None

    @property
    def outside(self) -> Tensor:
        """Modes that the method amplifies and the exact flow does not, (P, D) bool."""
        return (self.growth > 1.0 + NEUTRAL) & ~self.expected

    @property
    def worst(self) -> float:
        """Largest |amplification| of a mode outside the region; 1 if there is none."""
        return float(self.growth[self.outside].max()) if bool(self.outside.any()) else 1.0


def spectra(unrolled: Unrolled, layers: int = 64) -> list[LayerSpectrum]:
    """The spectra of at most so many layers, evenly spread over depth; empty for a model without flows."""
    mine = [n for n in range(unrolled.finite_until) if unrolled.layers[n].interval is not None]
    return [_spectrum(n, unrolled.layers[n].interval, unrolled.states[n][0]) for n in evenly(mine, layers)]  # type: ignore[arg-type]


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most so many of the items, evenly spread, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(most - 1, 1))] for i in range(most)]


def field_jacobian(interval: Interval, y: Tensor) -> Tensor:
    """df/dy at the start of a knot interval, (P, D, D)."""
    rows = y[0].numel()
    return jacobian(lambda parts: (interval.rhs(interval.t, parts[0]),), (y,), rows)


def first_order_jacobian(interval: Interval, y: Tensor) -> Tensor:
    """The same, of the first-order system (y, v)' = (v, f) where the method steps y'' = f, on the CPU."""
    F = field_jacobian(interval, y).cpu()
    return _first_order(F) if "second_order" in interval.flow.integrator.needs else F


def _spectrum(layer: int, interval: Interval, y: Tensor) -> LayerSpectrum:
    J = first_order_jacobian(interval, y)
    method = interval.flow.integrator
    eigenvalues = _eigenvalues(J)
    scaled = eigenvalues * interval.h
    coef = interval.coef or None
    symmetric = torch.linalg.eigvalsh((J + J.mT) / 2)
    diagonal, size = J.diagonal(dim1=1, dim2=2), J.abs()
    own = size.diagonal(dim1=1, dim2=2)
    return LayerSpectrum(
        layer,
        interval,
        eigenvalues,
        scaled,
        growth(method, scaled, coef),
        growing(method, scaled),
        symmetric[:, -1],
        symmetric[:, 0],
        eigenvalues.real.amax(-1),
        (diagonal + size.sum(1) - own).amax(-1),
        (diagonal + size.sum(2) - own).amax(-1),
        henrici(J, eigenvalues),
    )


def _eigenvalues(J: Tensor) -> Tensor:
    """Eigenvalues (P, D) complex; of [[0, A], [C, 0]] they are +-sqrt(eig(A C)), cheaper and exact on the
    axes."""
    half = J.shape[-1] // 2
    if 2 * half == J.shape[-1] and not bool(J[:, :half, :half].any() or J[:, half:, half:].any()):
        root = torch.sqrt(torch.linalg.eigvals(J[:, :half, half:] @ J[:, half:, :half]).to(torch.complex128))
        return torch.cat((root, -root), dim=-1)
    return torch.linalg.eigvals(J).to(torch.complex128)


def _first_order(F: Tensor) -> Tensor:
    """The Jacobian of (y, v)' = (v, f): [[0, I], [F, 0]]."""
    zero, eye = torch.zeros_like(F), torch.eye(F.shape[-1], dtype=F.dtype, device=F.device).expand_as(F)
    return torch.cat((torch.cat((zero, eye), -1), torch.cat((F, zero), -1)), -2)


def henrici(J: Tensor, eigenvalues: Tensor) -> Tensor:
    """Departure from normality sqrt(|J|_F^2 - sum |lambda|^2)/|J|_F, (P,); 0 for J = 0. Henrici 1962."""
    total = (J**2).sum((-2, -1))
    rest = (total - (eigenvalues.abs() ** 2).sum(-1)).clamp(min=0.0)
    return torch.where(total > 0, torch.sqrt(rest / total.clamp(min=1e-300)), torch.zeros_like(total))


def lognorm_integral(found: Sequence[LayerSpectrum], depth: int) -> tuple[float, float]:
    """Integrals over depth of the largest (max over samples) and lowest (min) eigenvalue of (J + J^T)/2.

    exp of them bounds |dy(T)/dy(0)| of the exact flow from above and its smallest singular value from below,
    to the accuracy of the left-point rule in depth. Layers that were not analysed count with the mean of the
    others.
    """
    ends = torch.stack([s.interval.width * torch.stack((s.lognorm_2, s.lowest)) for s in found]).sum(0)
    scale = depth / len(found)
    return float(ends.amax(0).max()) * scale, float(ends.amin(0).min()) * scale


def spectral_metrics(found: Sequence[LayerSpectrum]) -> dict[str, float]:
    """What `report` lists about spectra, taken over all analysed layers and samples."""
    if not found:
        return {}
    count = sum(s.growth.numel() for s in found)
    return {
        "amplification_max": max(float(s.growth.max()) for s in found),
        "inside_share": sum(int((s.growth <= 1.0 + NEUTRAL).sum()) for s in found) / count,
        "outside_share": sum(int(s.outside.sum()) for s in found) / count,
        "growing_share": sum(int(s.expected.sum()) for s in found) / count,
        "h": max((s.interval.h for s in found), key=abs),
        "h_stable": stable_step(found),
        "spectral_abscissa": max(float(s.abscissa.max()) for s in found),
        "spectral_radius": max(float(s.eigenvalues.abs().max()) for s in found),
        "lognorm_2": max(float(s.lognorm_2.max()) for s in found),
        "transient_gap": max(float((s.lognorm_2 - s.abscissa).max()) for s in found),
        **_largest(found, "lognorm_1"),
        **_largest(found, "lognorm_inf"),
        **_largest(found, "henrici"),
    }


def _largest(found: Sequence[LayerSpectrum], name: str) -> dict[str, float]:
    values = [getattr(s, name) for s in found]
    return {} if any(v is None for v in values) else {name: max(float(v.max()) for v in values)}


def stable_step(found: Sequence[LayerSpectrum]) -> float:
    """Largest |h| for which no mode that decays in the exact flow leaves the region, over the given
    layers."""
    flows: dict[int, list[LayerSpectrum]] = {}
    for s in found:
        flows.setdefault(id(s.interval.flow), []).append(s)
    return min((_stable_step(mine) for mine in flows.values()), default=math.inf)


def _stable_step(found: Sequence[LayerSpectrum]) -> float:
    """The same for the layers of one flow; learned coefficients at their mean over the layers."""
    flow = found[0].interval.flow
    coef = {k: float(torch.stack([s.interval.coef[k] for s in found]).mean()) for k in found[0].interval.coef}
    modes = torch.cat([s.eigenvalues.flatten() for s in found])
    return largest_step(flow.integrator, modes, flow.span[1] < flow.span[0], coef)


def exact_growth(found: Sequence[LayerSpectrum], depth: int) -> float:
    """Product over all layers of exp(width max(Re lambda, 0)): what the exact flow's own modes let one
    expect."""
    if not found:
        return 1.0
    logs = [max(float(s.scaled.real.max()), 0.0) * s.interval.steps for s in found]
    return math.exp(min(sum(logs) / len(logs) * depth, 700.0))


def compounded(found: Sequence[LayerSpectrum], depth: int) -> float:
    """Product over all steps of the largest |amplification| outside the region: what the spectra let one
    expect.

    With fewer layers analysed than there are, the mean logarithm stands for the rest.
    """
    if not found:
        return 1.0
    logs = [math.log(s.worst) * s.interval.steps for s in found]
    return math.exp(min(sum(logs) / len(logs) * depth, 700.0))
