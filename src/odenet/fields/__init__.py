"""Right-hand sides: layers of networks, Hamiltonian and physical systems, and `wrap` for anything callable."""

from __future__ import annotations

from ..registry import Registry
from . import activations, constraints, maps
from .additive import SemiLinear, Split, WithJacobian
from .base import OFFERS, Field, FirstOrder
from .constraints import Orthogonal, PositiveSemidefinite, Skew, SpectralCap, Unconstrained
from .hamiltonian import HamiltonianJ, SeparableHamiltonian
from .layers import Antisymmetric, Free, Parabolic, SecondOrder
from .maps import Conv, Dense
from .noise import Noisy
from .physics import HarmonicOscillator, Kepler, Lorenz, LotkaVolterra, Pendulum, VanDerPol
from .rhs import Rhs
from .wrap import wrap

FIELDS: Registry = Registry("field", "odenet.fields")
for _name, _make in {
    "free": Free,
    "antisymmetric": Antisymmetric,
    "parabolic": Parabolic,
    "second_order": SecondOrder,
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
    "OFFERS",
    "Antisymmetric",
    "Conv",
    "Dense",
    "Field",
    "FirstOrder",
    "Free",
    "HamiltonianJ",
    "HarmonicOscillator",
    "Kepler",
    "Lorenz",
    "LotkaVolterra",
    "Noisy",
    "Orthogonal",
    "Parabolic",
    "Pendulum",
    "PositiveSemidefinite",
    "Rhs",
    "SecondOrder",
    "SemiLinear",
    "SeparableHamiltonian",
    "Skew",
    "SpectralCap",
    "Split",
    "Unconstrained",
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
