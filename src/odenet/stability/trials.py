"""What a report tries out on a net: other steps and depths, layers taken out, rounded weights, attacks, curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OdenetError
from ..flow import Flow
from .discretisation import (
    convergence,
    critical_steps,
    exchange_own,
    extrapolation,
    lesions,
    prolongation,
    solver_matrix,
    step_of,
)
from .masking import SAMPLES, attack_curve, radii_for
from .robustness import quantisation
from .sharpness import sharpness
from .tables import Table
from .twins import is_adaptive, title
from .unroll import Unrolled

Found = tuple[dict[str, float], dict[str, Table]]
_WORK = 2**19  # entries of all states of all attacked samples together
_DEEP = 128  # layers beyond which nothing is refined and attacks are short
_FACTORS = (0.5, 1, 2, 4)  # of h


def trials(
    u: Unrolled,
    model: nn.Module,
    x: Tensor,
    y: Tensor | None,
    integrators: Sequence[Any],
    levels: Sequence[float],
    box: tuple[float, float] | None,
    seed: int,
    quick: bool,
) -> Found:
    """All of them; a quick report has those only that take a pass or two. A trial that a model does not admit (no flow,
    noise, weights that cannot be prolonged) is absent; nets of more than 128 layers are not refined.

    levels: radii of attacks relative to the spread of x (none: neither attacks nor curvature); box: of valid inputs
    Raises BadInput for levels that are not positive and rising, and for data outside its box.
    """
    labels = None if y is None else y[: len(x)]
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
    x, labels = x[:SAMPLES].to(own), None if labels is None else labels[:SAMPLES]
    found = [_of(_lesions, u)]
    has = any(isinstance(m, Flow) for m in model.modules())
    if has:
        found.append(_of(_prolonged, model, u.x))
    if not quick:
        found.append(_of(_rounded, model, x, labels))
        if has and u.depth <= _DEEP:
            found += [_of(_refined, model, u.x), _of(_depths, model, x, labels)]
    if labels is not None and not quick and has and u.depth <= _DEEP:
        found.append(_of(_solvers, model, x, labels, integrators))
    if labels is not None and not quick and levels:
        few = attacked(u, model)
        short = is_adaptive(model) or u.depth > _DEEP
        found.append(_attacks(model, x[:few], labels[:few], radii_for(x, levels), box, seed, short))
        found.append(_of(_curvature, model, x[:few], labels[:few], seed))
    metrics: dict[str, float] = {}
    tables: dict[str, Table] = {}
    for numbers, more in found:
        metrics |= {k: v for k, v in numbers.items() if not math.isnan(v)}
        tables |= more
    return metrics, tables


def _of(trial: Callable[..., Found], *words: Any) -> Found:
    try:
        return trial(*words)
    except OdenetError:
        return {}, {}


def attacked(u: Unrolled, model: nn.Module) -> int:
    """How many samples are attacked: 128, fewer where states are large, 8 in deep nets and where steps are adaptive."""
    entries = sum(part[0].numel() for state in u.states for part in state)
    return max(8, min(128, _WORK // max(entries, 1))) if not is_adaptive(model) and u.depth <= _DEEP else 8


def _lesions(u: Unrolled) -> Found:
    found = lesions(u)
    if not found.at:
        return {}, {}
    means = found.change.mean(1)
    metrics = {"lesion_max": float(means.max()), "lesion_mean": float(means.mean())}
    return metrics, {"lesions": found.table()}


def _prolonged(model: nn.Module, x: Tensor) -> Found:
    return {"prolongation_change": prolongation(model, x)}, {}


def _rounded(model: nn.Module, x: Tensor, y: Tensor | None) -> Found:
    return quantisation(model, x, y), {}


def _refined(model: nn.Module, x: Tensor) -> Found:
    found = convergence(model, x[:4], levels=4, reference=8)
    metrics = {} if found.order is None else {"observed_order": found.order}
    finest = found.slopes_of_differences[-1]
    metrics |= {"discretisation_error": found.errors[0]} if math.isfinite(found.errors[0]) else {}
    metrics |= {} if finest is None else {"observed_order_differences": finest}
    return metrics, {"refinement": found.table()}


def _depths(model: nn.Module, x: Tensor, y: Tensor | None) -> Found:
    return {}, {"depths": extrapolation(model, x, y)}


def _solvers(model: nn.Module, x: Tensor, y: Tensor, integrators: Sequence[Any]) -> Found:
    own = next(m for m in model.modules() if isinstance(m, Flow)).integrator
    others = [i for i in integrators if title(i) != title(own)]
    table = solver_matrix({title(own): model}, x, y, [own, *others], _FACTORS)
    by_factor = {(r[1], 1 / r[2]): r[4] for r in table.rows}
    critical = critical_steps(by_factor, exchange_own(model, x, y), step_of(model))
    return {f"critical_h_{name}": h for name, h in critical.items()}, {"solvers": table}


def _attacks(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: Sequence[float],
    box: tuple[float, float] | None,
    seed: int,
    short: bool,
) -> Found:
    found = attack_curve(model, x, y, eps, box=box, seed=seed, steps=4 if short else 8, queries=8 if short else 40)
    gains = Table(("step_size", "margin_gain"), list(found.gains.items()))
    flags = Table(("flag", "sentence"), list(found.flags.items()))
    return found.metrics(), {"attacks": found.table(), "attack_steps": gains, "masking": flags}


def _curvature(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Found:
    with torch.enable_grad():
        return sharpness(model, x, y, steps=12, seed=seed), {}
