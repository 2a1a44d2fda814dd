"""How stable a network is, and why: `report(net, x, y)`, `predict(net, x)`.

Proved where structure allows it, indicated by eigenvalues, measured by products of Jacobians; which of the
three is always said.
"""

from __future__ import annotations

from .attacks import fgsm, pgd, spsa, square
from .discretisation import convergence, critical_step, extrapolation, lesions, prolongation, solver_matrix
from .energy import decay_rates, energy_along, energy_drift, energy_over_linear
from .geometry import LayerGeometry, circle_margin, eigenvector_condition, geometry, kreiss_constant, numerical_range
from .krylov import krylov_spectra, leading_sensitivity
from .lipschitz import (
    certified_accuracy,
    certified_radii,
    exact_flow_bound,
    flow_bound,
    layer_bound,
    lipschitz_lower,
    lipschitz_upper,
)
from .lyapunov import Grid, Lyapunov, ftle_field, leading_lyapunov, lyapunov
from .masking import AttackCurve, attack_curve, radii_for
from .oscillation import oscillation, oscillation_index, oscillation_refined, riesz_gradient
from .prediction import Failure, measure_failure, predict_exchange, predict_failure
from .region import Region, inside, largest_step, stability_region
from .report import Report, predict, report
from .robustness import exchange, exchange_matrix, input_noise, perturbation_growth, quantisation, weight_noise
from .sensitivity import Activity, Sensitivity, activity, gradient_norms, input_jacobian, sensitivity
from .sharpness import sharpness, top_eigenvalues
from .spectrum import LayerSpectrum, lognorm_integral, spectra
from .structure import Symplectic, gradient_angle, reversibility, symplectic, symplectic_defect
from .tables import Table
from .tangents import amplification
from .training import Watch, sensitivity_over
from .twins import quantised, refined, resampled
from .unroll import Unrolled, jacobian, unroll
from .verdict import BOUNDED, VANISHING, Verdict

__all__ = [
    "BOUNDED",
    "VANISHING",
    "Activity",
    "AttackCurve",
    "Failure",
    "Grid",
    "LayerGeometry",
    "LayerSpectrum",
    "Lyapunov",
    "Region",
    "Report",
    "Sensitivity",
    "Symplectic",
    "Table",
    "Unrolled",
    "Verdict",
    "Watch",
    "activity",
    "amplification",
    "attack_curve",
    "certified_accuracy",
    "certified_radii",
    "circle_margin",
    "convergence",
    "critical_step",
    "decay_rates",
    "eigenvector_condition",
    "energy_along",
    "energy_drift",
    "energy_over_linear",
    "exact_flow_bound",
    "exchange",
    "exchange_matrix",
    "extrapolation",
    "fgsm",
    "flow_bound",
    "ftle_field",
    "geometry",
    "gradient_angle",
    "gradient_norms",
    "input_jacobian",
    "input_noise",
    "inside",
    "jacobian",
    "kreiss_constant",
    "krylov_spectra",
    "largest_step",
    "layer_bound",
    "leading_lyapunov",
    "leading_sensitivity",
    "lesions",
    "lipschitz_lower",
    "lipschitz_upper",
    "lognorm_integral",
    "lyapunov",
    "measure_failure",
    "numerical_range",
    "oscillation",
    "oscillation_index",
    "oscillation_refined",
    "perturbation_growth",
    "pgd",
    "predict",
    "predict_exchange",
    "predict_failure",
    "prolongation",
    "quantisation",
    "quantised",
    "radii_for",
    "refined",
    "report",
    "resampled",
    "reversibility",
    "riesz_gradient",
    "sensitivity",
    "sensitivity_over",
    "sharpness",
    "solver_matrix",
    "spectra",
    "spsa",
    "square",
    "stability_region",
    "symplectic",
    "symplectic_defect",
    "top_eigenvalues",
    "unroll",
    "weight_noise",
]
