"""`report`: every measure of stability of one network, as numbers, tables, figures and one sentence."""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..flow import Chain, Flow
from ..integrators import Integrator
from .energy import energy_drift
from .proofs import contractive_limit, exact_nonexpansive, nonexpansive, nonvanishing
from .region import Region, stability_region
from .robustness import (
    accuracy,
    check_scores,
    checked_labels,
    exchange,
    input_noise,
    perturbation_growth,
    title,
    weight_noise,
)
from .sensitivity import Activity, Sensitivity, activity, gradient_norms, input_jacobian, singular_values
from .spectrum import LayerSpectrum, lognorm_integral, spectra, spectral_metrics
from .suite import analyse, further
from .tables import Table, eigenvalue_table, exchange_table, layer_table
from .tangents import LARGE, largest
from .trials import trials
from .unroll import BUDGET, Unrolled, affordable, in_evaluation, name_of, unroll
from .verdict import Evidence, Verdict, judge

_SAMPLES = 256  # for saturation and gradients, which need no Jacobian


@dataclass(frozen=True)
class Report:
    """Stability of one network.

    verdict:    the sentence, its standing, layer and remedy
    metrics:    name -> number; what a name means is in `report`
    tables:     "layers", "eigenvalues", and with labels "noise", "exchange": the data behind the figures
    integrator: name of the network's own integrator ("" without a flow)
    frame:      (integrator, box, coefficients) for drawing its stability region; None without a flow
    """

    verdict: Verdict
    metrics: dict[str, float]
    tables: dict[str, Table]
    integrator: str = ""
    frame: tuple[Integrator, tuple[float, float, float, float], Any] | None = None

    def to_dict(self) -> dict[str, float]:
        """Metric name -> number, flat."""
        return dict(self.metrics)

    def region(self, points: int = 241) -> Region | None:
        """The stability region of the network's integrator, in a box that holds it and the eigenvalues."""
        return None if self.frame is None else stability_region(self.frame[0], self.frame[1], points, self.frame[2])

    def figures(self) -> dict[str, Any]:
        """Name -> matplotlib Figure."""
        from .plots import figures

        return figures(self)

    def save(self, folder: str | Path, figures: bool = True) -> Path:
        """report.json, a CSV for every table, every figure as PNG and SVG, into `folder` (made if missing)."""
        from .plots import write

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {k: v if math.isfinite(v) else None for k, v in self.metrics.items()}
        text = json.dumps(
            {"verdict": asdict(self.verdict), "integrator": self.integrator, "metrics": numbers}, indent=2
        )
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        for name, table in self.tables.items():
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(table.columns)
                writer.writerows(table.rows)
        for name, figure in self.figures().items() if figures else ():
            write(figure, folder / name)
        return folder

    def __repr__(self) -> str:
        lines = [self.verdict.sentence, ""]
        lines += [f"  {name:<{max(map(len, self.metrics))}}  {value:.4g}" for name, value in self.metrics.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{v:.4g}</td></tr>" for k, v in self.metrics.items())
        return f"<p><b>{html.escape(self.verdict.sentence)}</b></p><table>{rows}</table>"


def report(
    net: Any,
    x: Tensor,
    y: Tensor | None = None,
    *,
    integrators: Sequence[Any] = ("euler", "midpoint", "rk4"),
    noise: Sequence[float] = (0.05, 0.1, 0.2),
    attacks: Sequence[float] = (0.05, 0.1, 0.2),
    box: tuple[float, float] | None = None,
    seed: int = 0,
    points: int = 16,
    layers: int = 64,
    draws: int = 3,
    refine: Sequence[int] = (1, 2, 4),
    quick: bool = False,
) -> Report:
    """Stability of a Flow, a Chain with flows, an nn.Sequential or a list of callables, at inputs x (B, ...).

    y:       class labels (B,), for the accuracy metrics
    points:  samples at which Jacobians are taken, drawn with `seed` (fewer where they would not fit in memory). States
             of more than 384 entries (images) have none formed: 2 samples, extreme eigenvalues of 4 layers and leading
             singular values of 8, all from products with vectors
    layers:  at most so many layers are analysed one by one, evenly spread over depth
    noise:   levels relative to the spread of x and of each weight tensor, averaged over `draws`
    attacks: largest change of an entry under attack, relative to the spread of x; none: no attacks, no curvature
    box:     (low, high) of valid inputs, which attacks do not leave
    integrators, refine:  the same weights are run under these, with 1, 2, 4 steps per knot interval
    quick:   4 points at most (2 for 16 layers of width 128), one draw of the noise, one or two steps per interval;
             of the metrics below the line only lesions and prolongation

    Metrics are maxima over layers and samples unless said otherwise; those that a model cannot have are absent.
        amplification_max, inside_share    of all modes, under the integrator
        outside_share, growing_share       modes amplified though the exact flow damps them; amplified by both
        h, h_stable, h_contractive         step; its limit from eigenvalues; its limit for a proof
        spectral_abscissa, spectral_radius, lognorm_2, lognorm_1, lognorm_inf, henrici, transient_gap    of df/dy
        lognorm_integral, lognorm_bound, lognorm_floor    exact flow: floor <= |dy(T)/dy(0)| <= bound
        sensitivity_max, sensitivity_min   largest and smallest |dy_N/dy_j|_2 over j
        singular_max, singular_min         of dy_N/dy_0
        transient_max, forward_worst       |dy_j/dy_0|_2 on the way, and at the end; forward_random: its mean square
        perturbation_growth                on the way, of a finite random perturbation
        output_sensitivity                 |d output/d input|_2, a lower bound of the network's Lipschitz constant
        gradient_min, gradient_max, gradient_ratio    |dL/dtheta_n| over layers
        saturated_share, dead_share        of the worst activation
        range_inside_share, numerical_radius          of W(h df/dy), which holds the eigenvalues: see `geometry`
        eigenvector_condition              kappa of the eigenvectors of df/dy; inf where it is defective
        contractivity_margin               smallest 2 r - h c of a monotone field; >= 0 where its layers contract
        sensitivity_median                 of |dy_N/dy_j|_2 over j and samples
        lyapunov_max, lyapunov_min, log_volume        exponents of dy_N/dy_0 per unit of time, log of its determinant
        difference_rate, difference_rate_bound        of two trajectories, and the mean logarithmic norm along them
        symplectic_defect, symplectic_defect_whole    |M^T O M - O|_2 of a layer, and of a whole flow
        reversibility_float32, reversibility_float64  |y_0 - undo(run(y_0))|/|y_0|; gradient_angle: what that costs
        gradient_oscillation, gradient_oscillation_riesz    |d^2 g|/|g| over depth, of (1/h) dL/dc and of its Riesz
                                           representative in H1 with length span/10
        energy_drift                       relative, over 256 steps with the weights of the first layer
        energy_over_linear                 of a second-order net, over that of the linear wave equation; 1 at most
        lipschitz_lower, lipschitz_upper, lipschitz_layerwise    of the whole network: found; proved; without structure
        certified_radius, certified_radius_mean       margin/(sqrt(2) lipschitz_upper), in units of x
        proved_nonexpansive, proved_nonvanishing      1 or 0
        accuracy, accuracy_input_noise_*, accuracy_weight_noise_*, accuracy_<integrator>_x<factor>
        ----
        lesion_max, lesion_mean            |dy|/|y| of the output where one layer is the identity
        prolongation_change                |dy|/|y| with twice the layers and the same theta(t)
        observed_order, discretisation_error          of the output against dopri8 at fixed theta(t), and the error
                                           at the net's own h; observed_order_differences: without a reference
        critical_h_<integrator>            largest h at which, and below which, it keeps the accuracy within 0.1
        output_change_bf16, _int8, accuracy_bf16, _int8         with rounded weights
        robust_accuracy_linf_<eps>, robust_accuracy_area_linf   under attack; called accuracy_bound_* as soon as one of
                                           the masking_flags is up (their sentences are in the table "masking")
        zero_gradient_*, *_excess, margin_gain_*      what those flags look at: see `attack_curve`
        hessian_max, hessian_residual, sharpness      of the loss: see `sharpness.sharpness`
    Choose it to compare architectures, or to find out why one does not train. Raises BadInput for x that is no
    batch of floating-point numbers, labels that are no whole numbers, or a model that is no row of layers.
    """
    labels = checked_labels(y, x)
    if points < 1 or layers < 2 or draws < 1:
        raise BadInput(f"points and draws are at least 1 and layers at least 2, got {points}, {draws}, {layers}.")
    if quick:
        points, draws, refine = min(points, 4), 1, [k for k in refine if k <= 2]
    budget = BUDGET // 32 if quick else BUDGET
    u = unroll(net, _drawn(x, _count(net, x, points, budget, quick), seed))
    if labels is not None:
        check_scores(u.leave(u.states[-1][0]), labels)
    analysis = analyse(u, layers, quick)
    found, products = analysis.spectra, analysis.products
    gradients = gradient_norms(u.model, *_some(u, x, labels), seed) if products else []
    seen = activity(u.model, u.x if products is None else _many(u, x))
    growth = perturbation_growth(u, seed=seed)
    metrics: dict[str, float] = {"layers": u.depth, "points": len(u.x), **spectral_metrics(found)}
    metrics |= _bounds(u, found) | _products(u, products, growth) | _training(gradients, seen)
    drift = energy_drift(u)
    metrics |= {} if drift is None else {"energy_drift": drift}
    more, tables = further(analysis, growth, *_some(u, x, labels), seed, quick)
    metrics |= more
    contracts, survives = nonexpansive(u), nonvanishing(u)
    verdict = judge(Evidence(u, found, products, contracts, survives, exact_nonexpansive(u)))
    metrics |= {"proved_nonexpansive": int(contracts), "proved_nonvanishing": int(survives)}
    tables = {"layers": layer_table(found, products, growth, gradients), **tables}
    tables |= {"eigenvalues": eigenvalue_table(found)} if found else {}
    if labels is not None:
        scores, noisy = _accuracy(net, x, labels, integrators, noise, seed, draws, refine)
        metrics |= scores
        tables |= noisy
    numbers, shown = trials(u, _whole(net), x, labels, integrators, attacks, box, seed, quick)
    metrics |= numbers
    tables |= shown
    flow = found[0].interval.flow if found else None
    return Report(verdict, metrics, tables, name_of(flow) if flow else "", _frame(found) if found else None)


def predict(net: Any, x: Tensor, *, points: int = 4, layers: int = 16, seed: int = 0) -> dict[str, float]:
    """What theory says before anything is measured: h, h_stable (largest stable step, from the spectra), the
    modes outside the region, h_contractive (where a proof exists), lognorm_integral and its exp. Raises
    BadInput for a model without flows."""
    u = unroll(net, _drawn(x, affordable(net, x, points), seed))
    found = spectra(u, layers)
    if not found:
        raise BadInput("there is no flow in this model, so no step size to predict; give a Flow or a Chain with one.")
    return spectral_metrics(found) | _bounds(u, found)


# ---- parts ---------------------------------------------------------------------------------------------------------


def _drawn(x: Tensor, count: int, seed: int) -> Tensor:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[:count].sort().values.to(x.device)]


def _count(net: Any, x: Tensor, points: int, budget: int, quick: bool) -> int:
    """How many samples are analysed: as many as memory allows, and few where every number takes many runs."""
    one = unroll(net, x[:1])
    if largest(one) > LARGE:
        return min(points, len(x), 1 if quick else 2)
    return affordable(net, x, points, budget, one)


def _many(u: Unrolled, x: Tensor) -> Tensor:
    return x[:_SAMPLES].to(u.x)


def _some(u: Unrolled, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return _many(u, x), None if labels is None else labels[:_SAMPLES]


def _bounds(u: Unrolled, found: Sequence[LayerSpectrum]) -> dict[str, float]:
    if not found:
        return {}
    depth = sum(layer.interval is not None for layer in u.layers)
    high, low = lognorm_integral(found, depth)
    out = {"lognorm_integral": high, "lognorm_bound": _exp(high), "lognorm_floor": _exp(low)}
    limit = contractive_limit(u)
    return out if limit is None else {**out, "h_contractive": limit}


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _products(u: Unrolled, s: Sensitivity | None, growth: Tensor) -> dict[str, float]:
    if s is None:
        return {}
    return {
        "sensitivity_max": float(s.backward.max()),
        "sensitivity_min": float(s.backward.min()),
        "singular_max": float(s.values.max()),
        **({} if s.whole is None else {"singular_min": float(s.values.min())}),
        "transient_max": float(s.forward.max()),
        "forward_random": s.random,
        "forward_worst": float(s.forward[-1].max()),
        "perturbation_growth": float(growth.max()),
        "output_sensitivity": float(singular_values(input_jacobian(u))[:, 0].max()),
    }


def _training(gradients: list[tuple[str, float]], seen: list[Activity]) -> dict[str, float]:
    out: dict[str, float] = {}
    if gradients:
        norms = [g for _, g in gradients]
        low, high = min(norms), max(norms)
        out = {
            "gradient_min": low,
            "gradient_max": high,
            "gradient_ratio": high / low if low > 0 else math.inf,
        }
    if seen:
        out |= {"saturated_share": max(a.saturated for a in seen), "dead_share": max(a.dead for a in seen)}
    return out


def _frame(found: Sequence[LayerSpectrum]) -> tuple[Integrator, tuple[float, float, float, float], Any]:
    """What `Report.region` draws: the first flow's integrator, learned coefficients at their mean."""
    z = torch.cat([s.scaled.flatten() for s in found])
    method = found[0].interval.flow.integrator
    left = min(-1.2, 1.15 * float(z.real.min()), -1.2 * _small(method.facts.real_interval))
    right = max(0.8, 1.2 * float(z.real.max()))
    up = max(1.4, 1.15 * float(z.imag.abs().max()), 1.2 * _small(method.facts.imag_interval))
    missing = max(2 * up * 0.9 - (right - left), 0.0) / 2  # neither too tall nor too flat to read
    left, right = left - missing, right + missing
    up = max(up, (right - left) / 3)
    coef = {k: torch.stack([s.interval.coef[k] for s in found]).mean() for k in found[0].interval.coef}
    return method, (left, right, -up, up), coef or None


def _small(x: float | None) -> float:
    return x if x is not None and x < 10 else 0.0


def _accuracy(
    net: Any,
    x: Tensor,
    y: Tensor,
    integrators: Sequence[Any],
    noise: Sequence[float],
    seed: int,
    draws: int,
    refine: Sequence[int],
) -> tuple[dict[str, float], dict[str, Table]]:
    model = _whole(net)
    clean = accuracy(model, x, y)
    of_input = input_noise(model, x, y, noise, draws, seed)
    of_weights = weight_noise(model, x, y, noise, draws, seed)
    out = {"accuracy": clean}
    out |= {f"accuracy_input_noise_{level:g}": a for level, a in zip(noise, of_input)}
    out |= {f"accuracy_weight_noise_{level:g}": a for level, a in zip(noise, of_weights)}
    rows = [(0.0, clean, clean), *zip(noise, of_input, of_weights)]
    tables = {"noise": Table(("level", "accuracy_input_noise", "accuracy_weight_noise"), rows)}
    if isinstance(model, Flow | Chain) and any(isinstance(m, Flow) for m in model.modules()):
        own = next(m for m in model.modules() if isinstance(m, Flow)).integrator
        others = [i for i in integrators if title(i) != title(own)]
        swapped = exchange(model, x, y, [own, *others], refine)
        out |= {f"accuracy_{name}_x{factor}": a for (name, factor), a in swapped.items()}
        tables["exchange"] = exchange_table(swapped, refine)
    return out, tables


def _whole(net: Any) -> nn.Module:
    """A copy in evaluation mode, a list of callables as one module."""
    twin = in_evaluation(net)
    return twin if isinstance(twin, nn.Module) else _Row(twin)


class _Row(nn.Module):
    """A list of callables as a module."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.kept = nn.ModuleList([m for m in layers if isinstance(m, nn.Module)])
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
