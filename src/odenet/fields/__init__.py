"""Right-hand sides: layers of networks, Hamiltonian and physical systems, and `wrap` for anything callable."""

from __future__ import annotations

from ..registry import Registry
from . import activations, constraints, maps
from .additive import SemiLinear, Split, WithJacobian
from .base import OFFERS, Field, FirstOrder
from .constraints import Damped, Orthogonal, PositiveSemidefinite, Skew, SpectralCap, SpectralNorm, Unconstrained
from .continuous import MLP, Driven, Newton
from .coupling import Coupling
from .descent import Descent
from .diffusion import ReactionDiffusion
from .hamiltonian import HamiltonianJ, SeparableHamiltonian
from .layers import Antisymmetric, Free, Parabolic, SecondOrder
from .maps import Conv, Dense
from .multigrid import Smoothing
from .noise import Noisy
from .particles import Attraction, Tokens
from .physics import HarmonicOscillator, Kepler, Lorenz, LotkaVolterra, Pendulum, VanDerPol
from .recurrent import Controlled, CoupledOscillators, GatedSkew, GRUFlow, Lipschitz, Paced, UndampedOscillators
from .residual import Residual
from .rhs import Rhs
from .stable import Stable, Switching
from .stretched import Stretched
from .wrap import wrap

FIELDS: Registry = Registry("field", "odenet.fields")
for _name, _make in {
    "free": Free,
    "antisymmetric": Antisymmetric,
    "parabolic": Parabolic,
    "second_order": SecondOrder,
    "residual": Residual,
    "smoothing": Smoothing,
    "reaction_diffusion": ReactionDiffusion,
    "mlp": MLP,
    "newton": Newton,
    "driven": Driven,
    "switching": Switching,
    "stable": Stable,
    "separable_hamiltonian": SeparableHamiltonian,
    "hamiltonian_j": HamiltonianJ,
    "harmonic_oscillator": HarmonicOscillator,
    "pendulum": Pendulum,
    "kepler": Kepler,
    "lotka_volterra": LotkaVolterra,
    "van_der_pol": VanDerPol,
    "lorenz": Lorenz,
}.items():
    FIELDS.register(_name, _make)

names, get, register = FIELDS.names, FIELDS.get, FIELDS.register

__all__ = [
    "FIELDS",
    "MLP",
    "OFFERS",
    "Antisymmetric",
    "Attraction",
    "Controlled",
    "Conv",
    "CoupledOscillators",
    "Coupling",
    "Damped",
    "Dense",
    "Descent",
    "Driven",
    "Field",
    "FirstOrder",
    "Free",
    "GRUFlow",
    "GatedSkew",
    "HamiltonianJ",
    "HarmonicOscillator",
    "Kepler",
    "Lipschitz",
    "Lorenz",
    "LotkaVolterra",
    "Newton",
    "Noisy",
    "Orthogonal",
    "Paced",
    "Parabolic",
    "Pendulum",
    "PositiveSemidefinite",
    "ReactionDiffusion",
    "Residual",
    "Rhs",
    "SecondOrder",
    "SemiLinear",
    "SeparableHamiltonian",
    "Skew",
    "Smoothing",
    "SpectralCap",
    "SpectralNorm",
    "Split",
    "Stable",
    "Stretched",
    "Switching",
    "Tokens",
    "Unconstrained",
    "UndampedOscillators",
    "VanDerPol",
    "WithJacobian",
    "activations",
    "constraints",
    "get",
    "maps",
    "names",
    "register",
    "wrap",
]
