"""Reference solutions of the PDE library: computed once at two resolutions, kept on disk, exact where a formula is.

    burgers = reference.get("burgers")          # or reference.burgers(nu=1e-3)
    burgers(points)                             # (N, 2) -> (N, 1), float64
    burgers.error, burgers.how, burgers.seconds

Choose one to measure the error of a solution; where `.seconds` is small the classical method is the better solver.
"""

from __future__ import annotations

from .cache import REFERENCES, Recipe, Reference, folder, get, reference
from .closed_form import (
    advection_diffusion,
    boundary_layer,
    burgers_2d,
    convection,
    eikonal,
    heat,
    heat_multiscale,
    helmholtz,
    klein_gordon,
    kovasznay,
    poisson,
    reaction,
    sine_gordon,
    taylor_green,
    volterra,
    wave,
)
from .cole_hopf import burgers
from .driven_flow import cavity
from .elements import allen_cahn, allen_cahn_periodic, heat_variable, reaction_diffusion
from .finance import black_scholes, geometric_basket
from .finite_element import darcy, permeability
from .fourier import kdv, ks, ks_chaotic
from .fractional import mittag_leffler, relaxation
from .ordinary import lorenz, robertson, van_der_pol
from .particular import l_shape, poisson_holes
from .radial import allen_cahn_radial, hjb_cole_hopf
from .reaction_2d import gray_scott
from .splitting import schrodinger


def names() -> list[str]:
    """Names of all references, sorted."""
    return REFERENCES.names()


__all__ = [
    "REFERENCES",
    "Recipe",
    "Reference",
    "advection_diffusion",
    "allen_cahn",
    "allen_cahn_periodic",
    "allen_cahn_radial",
    "black_scholes",
    "boundary_layer",
    "burgers",
    "burgers_2d",
    "cavity",
    "convection",
    "darcy",
    "eikonal",
    "folder",
    "geometric_basket",
    "get",
    "gray_scott",
    "heat",
    "heat_multiscale",
    "heat_variable",
    "helmholtz",
    "hjb_cole_hopf",
    "kdv",
    "klein_gordon",
    "kovasznay",
    "ks",
    "ks_chaotic",
    "l_shape",
    "lorenz",
    "mittag_leffler",
    "names",
    "permeability",
    "poisson",
    "poisson_holes",
    "reaction",
    "reaction_diffusion",
    "reference",
    "relaxation",
    "robertson",
    "schrodinger",
    "sine_gordon",
    "taylor_green",
    "van_der_pol",
    "volterra",
    "wave",
]
