"""The measures of `report` that go beyond spectra and products: each a few numbers, absent where a model has none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..flow import Flow
from .energy import decay_rates, energy_over_linear
from .geometry import circle_margin, geometry, geometry_metrics
from .krylov import krylov_spectra, leading_sensitivity
from .lipschitz import certified_accuracy, certified_radii, lipschitz_lower, lipschitz_upper
from .lyapunov import duration, lyapunov
from .oscillation import oscillation
from .sensitivity import Sensitivity, layer_jacobians, sensitivity
from .spectrum import LayerSpectrum, spectra
from .structure import gradient_angle, reversibility, symplectic, undoable
from .tables import Table, singular_table
from .tangents import LARGE, largest
from .unroll import Unrolled, in_evaluation

Found = tuple[dict[str, float], dict[str, Table]]
_DEEP = 64  # layers from which on a run of the net is no small thing
_SMOOTHING = 0.1  # length of the H1 inner product for gradients over depth, per span of the flow


@dataclass(frozen=True)
class Analysis:
    """Spectra and products of an unrolled model, and the Jacobians of its layers (None where the states are large)."""

    unrolled: Unrolled
    spectra: list[LayerSpectrum]
    products: Sensitivity | None
    jacobians: list[Tensor] | None


def analyse(u: Unrolled, layers: int, quick: bool = False) -> Analysis:
    """With Jacobians for states of up to LARGE entries, from products with vectors beyond."""
    finite = u.finite_until == u.depth
    if largest(u) > LARGE:
        few = 3 if quick else 8
        products = leading_sensitivity(u, min(layers, few), 8 if quick else 16) if finite else None
        return Analysis(u, krylov_spectra(u, min(layers, 2 if quick else 4)), products, None)
    if not finite:
        return Analysis(u, spectra(u, layers), None, None)
    jacobians = layer_jacobians(u)
    return Analysis(u, spectra(u, layers), sensitivity(u, layers, jacobians), jacobians)


def further(a: Analysis, growth: Tensor, x: Tensor, labels: Tensor | None, seed: int, quick: bool) -> Found:
    """All further metrics and tables; x, labels: the samples for what needs no Jacobian."""
    if a.products is None:
        return {}, {}
    metrics = _geometry(a, quick) | _exponents(a) | _decay(a, growth) | _structure(a, quick)
    metrics |= _oscillation(a.unrolled, x, labels, seed)
    bounds, tables = _lipschitz(a.unrolled, x, labels, seed, quick)
    tables["singular"] = singular_table(a.products)
    return metrics | bounds, tables


def _geometry(a: Analysis, quick: bool) -> dict[str, float]:
    found = [] if a.jacobians is None else geometry(a.unrolled, *((2, 1, 9) if quick else (6, 2, 13)))
    return geometry_metrics(found, circle_margin(a.unrolled))


def _exponents(a: Analysis) -> dict[str, float]:
    assert a.products is not None
    out = {"sensitivity_median": float(a.products.backward.median())}
    if a.jacobians is None:
        return out | {"lyapunov_max": float(a.products.values[:, 0].max().log()) / duration(a.unrolled)}
    found = lyapunov(a.unrolled, a.jacobians)
    out |= {"lyapunov_max": float(found.exponents.max()), "lyapunov_min": float(found.exponents.min())}
    return out | ({"log_volume": float(found.log_volume.max())} if found.complete else {})


def _decay(a: Analysis, growth: Tensor) -> dict[str, float]:
    rates = decay_rates(a.unrolled, growth, a.spectra)
    if rates is None or not bool(rates[0].isfinite().all()):
        return {}
    return {"difference_rate": float(rates[0].max()), "difference_rate_bound": float(rates[1].max())}


def _structure(a: Analysis, quick: bool) -> dict[str, float]:
    u, out = a.unrolled, {}
    found = None if a.jacobians is None else symplectic(u, a.jacobians)
    if found is not None:
        out = {"symplectic_defect": float(found.steps.max()), "symplectic_defect_whole": float(found.whole.max())}
    ratio = energy_over_linear(u)
    out |= {} if ratio is None else {"energy_over_linear": ratio}
    single, double, angle = [], [], []
    for flow, state in _starts(u):
        y = flow.lower(state)
        table = reversibility(flow, y, 1 if quick else 4)
        single.append(max(row[1] for row in table.rows))
        double.append(max(row[2] for row in table.rows))
        angle.append(gradient_angle(in_evaluation(flow, torch.float32), y.float()))
    if single:
        out |= {"reversibility_float32": max(single), "reversibility_float64": max(double)}
        out |= {"gradient_angle": max(angle)}
    return out


def _starts(u: Unrolled) -> list[tuple[Flow, Tensor]]:
    """Every flow that can run backwards, with the state in front of it."""
    seen: dict[int, tuple[Flow, Tensor]] = {}
    for layer, state in zip(u.layers, u.states):
        if layer.interval is not None and undoable(layer.interval.flow):
            seen.setdefault(id(layer.interval.flow), (layer.interval.flow, state[0]))
    return list(seen.values())


def _oscillation(u: Unrolled, x: Tensor, labels: Tensor | None, seed: int) -> dict[str, float]:
    spans = [abs(m.span[1] - m.span[0]) for m in _modules(u.model) if isinstance(m, Flow)]
    if not spans:
        return {}
    found = oscillation(u.model, x, labels, _SMOOTHING * max(spans), seed)
    return {f"gradient_oscillation{'' if k == 'plain' else '_riesz'}": v for k, v in found.items()}


def _modules(model: object) -> list[nn.Module]:
    return list(model.modules()) if isinstance(model, nn.Module) else []


def _lipschitz(u: Unrolled, x: Tensor, labels: Tensor | None, seed: int, quick: bool) -> Found:
    flows = [m for m in _modules(u.model) if isinstance(m, Flow)]
    costly = quick or largest(u) > LARGE or u.depth > _DEEP or any(flow.adaptive for flow in flows)
    try:
        out = {"lipschitz_lower": lipschitz_lower(u, 4 if costly else 20, seed=seed)}
    except BadInput:  # inputs that are not free, such as times that increase
        out = {}
    best, layerwise = lipschitz_upper(u.model, u.x), lipschitz_upper(u.model, u.x, blind=True)
    if layerwise is not None:
        out["lipschitz_layerwise"] = layerwise
    if best is None:
        return out, {}
    out["lipschitz_upper"] = best
    if labels is None or best <= 0 or not math.isfinite(best):
        return out, {}
    with torch.no_grad():
        radii = certified_radii(_scores(u, x), labels, best)
    out |= {"certified_radius": float(radii.median()), "certified_radius_mean": float(radii.mean())}
    top = max(float(radii.max()), 1e-12)
    levels = [top * i / 20 for i in range(21)]
    return out, {"certified": Table(("radius", "accuracy"), list(zip(levels, certified_accuracy(radii, levels))))}


def _scores(u: Unrolled, x: Tensor) -> Tensor:
    if isinstance(u.model, nn.Module):
        return u.model(x)
    for layer in u.model:
        x = layer(x)
    return x
