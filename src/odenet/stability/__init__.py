"""How stable a network is, and why: `report(net, x, y)`, `predict(net, x)`.

Proved where structure allows it, indicated by eigenvalues, measured by products of Jacobians; which of the
three is always said.
"""

from __future__ import annotations

from .energy import energy_along, energy_drift
from .region import Region, inside, largest_step, stability_region
from .report import Report, predict, report
from .robustness import exchange, exchange_matrix, input_noise, perturbation_growth, weight_noise
from .sensitivity import Activity, Sensitivity, activity, gradient_norms, input_jacobian, sensitivity
from .spectrum import LayerSpectrum, lognorm_integral, spectra
from .tables import Table
from .unroll import Unrolled, jacobian, unroll
from .verdict import BOUNDED, VANISHING, Verdict

__all__ = [
    "BOUNDED",
    "VANISHING",
    "Activity",
    "LayerSpectrum",
    "Region",
    "Report",
    "Sensitivity",
    "Table",
    "Unrolled",
    "Verdict",
    "activity",
    "energy_along",
    "energy_drift",
    "exchange",
    "exchange_matrix",
    "gradient_norms",
    "input_jacobian",
    "input_noise",
    "inside",
    "jacobian",
    "largest_step",
    "lognorm_integral",
    "perturbation_growth",
    "predict",
    "report",
    "sensitivity",
    "spectra",
    "stability_region",
    "unroll",
    "weight_noise",
]
