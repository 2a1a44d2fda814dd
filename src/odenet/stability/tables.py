"""The data behind the figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .sensitivity import Sensitivity
from .spectrum import LayerSpectrum


@dataclass(frozen=True)
class Table:
    """Data of a figure: column names and rows; an entry that does not exist is None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def layer_table(
    found: Sequence[LayerSpectrum], s: Sensitivity | None, growth: Tensor, gradients: list[tuple[str, float]]
) -> Table:
    """One row for every analysed layer; None where a layer has no such number."""
    columns = (
        "layer", "t", "sensitivity_min", "sensitivity_mean", "sensitivity_max", "singular_min", "forward_max",
        "perturbation_growth", "amplification_max", "lognorm_2", "lognorm_1", "lognorm_inf", "spectral_abscissa",
        "henrici", "gradient_norm",
    )  # fmt: skip
    by_layer = {f.layer: f for f in found}
    flows = [v for place, v in gradients if place.endswith("]")] or [v for _, v in gradients]
    at = s.at if s is not None else sorted(by_layer)
    rows = []
    for i, n in enumerate(at):
        back: list[float | None] = [None] * 5
        if s is not None:
            b = s.backward[i]
            low = None if s.smallest is None else float(s.smallest[i].min())
            back = [float(b.min()), float(b.mean()), float(b.max()), low, float(s.forward[i].max())]
        f = by_layer.get(n)
        of_field: list[float | None] = (
            [None] * 6
            if f is None
            else [
                None if v is None else float(v.max())
                for v in (f.growth, f.lognorm_2, f.lognorm_1, f.lognorm_inf, f.abscissa, f.henrici)
            ]
        )
        own = flows[n] if n < len(flows) and len(flows) >= len(growth) - 1 else None
        rows.append((n, f.interval.t if f else None, *back, float(growth[n + 1].max()), *of_field, own))
    return Table(columns, rows)


def eigenvalue_table(found: Sequence[LayerSpectrum]) -> Table:
    """One row for every scaled eigenvalue: layer, sample, h lambda, |amplification|, and the two flags."""
    rows = []
    for s in found:
        for p in range(len(s.scaled)):
            columns = (
                s.scaled[p].real,
                s.scaled[p].imag,
                s.growth[p],
                s.outside[p].int(),
                s.expected[p].int(),
            )
            rows += [(s.layer, p, *map(_short, values)) for values in zip(*(c.tolist() for c in columns))]
    return Table(("layer", "sample", "re", "im", "amplification", "outside", "grows"), rows)


def _short(x: float) -> float:
    """Six digits are what a figure needs."""
    return x if isinstance(x, int) else float(f"{x:.6g}")


def singular_table(s: Sensitivity) -> Table:
    """One row for every singular value of dy_{j+1}/dy_0: layer j, index from 0, and smallest, median and largest value
    over samples."""
    rows = []
    for n, values in zip(s.at, s.prefixes):
        low, middle, high = values.amin(0), values.quantile(0.5, dim=0), values.amax(0)
        rows += [(n, i, *map(_short, row)) for i, row in enumerate(torch.stack((low, middle, high), 1).tolist())]
    return Table(("layer", "index", "min", "median", "max"), rows)


def exchange_table(found: Mapping[tuple[str, float], float], refine: Sequence[float]) -> Table:
    """Accuracies: a row for every integrator, a column for every refinement."""
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [(name, *(found.get((name, factor)) for factor in refine)) for name in names]
    return Table(("integrator", *(f"x{factor}" for factor in refine)), rows)
