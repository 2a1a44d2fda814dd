"""Hamiltonian fields: y = (q, p) moves along the level sets of an energy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations, constraints, maps
from .activations import Activation
from .base import Field, halved, probability
from .constraints import Constraint
from .maps import LinearMap
from .unit import Unit


class SeparableHamiltonian(Field):
    """y = (q, p): two layers  q' = K1^T s(K1 p + b1),  p' = -K2^T s(K2 q + b2)
                or one layer   q' = s(K p + b),         p' = -s(K^T q + b)

    y (B, D) with D even, or (B, C, H, W) with `map="conv2d"`. The two-layer form has the energy
    H = 1^T P(K1 p + b1) + 1^T P(K2 q + b2), P' = s, so symplectic methods (symplectic_euler, verlet, yoshida4) keep
    gradients from vanishing: |dy_N/dy_j| >= 1. Choose it for deep reversible nets (gradient="reversible").
    Two layers: Chang et al. 2018 (arXiv 1709.03698). One layer: Haber & Ruthotto 2017 (arXiv 1705.03341). Either
    as published is the method symplectic_euler, which those papers call Verlet.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 2,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        map: str | LinearMap | None = None,
        constraint: str | Constraint = "free",
        norm: str = "none",
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if layers not in (1, 2):
            raise BadInput(f"SeparableHamiltonian got layers={layers}; the published forms have one or two.")
        if layers == 1 and norm != "none":
            raise BadInput("the one-layer Hamiltonian has no normalised form; use layers=2 or norm='none'.")
        maps.no_hidden(hidden, layers)
        half = halved(dim, "SeparableHamiltonian", "(q, p)")
        linear = maps.resolve(map, half, hidden if layers == 2 else None, square=layers == 1)
        s, constraint = activations.resolve(activation), constraints.resolve(constraint, linear)
        self.dim, self.layers, self.dropout = dim, layers, probability(dropout)
        tags = ("1", "2") if layers == 2 else ("",)
        self.units = tuple(Unit(linear, s, constraint, norm, 0, gain, tag) for tag in tags)
        self.axis = linear.axis
        self.statistics = frozenset().union(*(u.statistics for u in self.units))
        has_energy = layers == 2 and norm == "none" and s.primitive is not None
        self.offers = frozenset({"separable", "energy"} if has_energy else {"separable"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        p: Params = {}
        for unit in self.units:
            p |= unit.init(generator)
        return p

    def constrain(self, p: Params) -> Params:
        for unit in self.units:
            p = unit.constrain(p)
        return p

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, momentum = self.split(y)
        return self.join(self.drift(t, momentum, p), self.kick(t, q, p))

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        """dq/dt from p."""
        unit = self.units[0]
        s = unit(momentum, p, self.training)
        return unit.transpose(s, p) if self.layers == 2 else s

    def kick(self, t: Time, q: State, p: Params) -> State:
        """dp/dt from q."""
        unit = self.units[-1]
        if self.layers == 2:
            return -unit.transpose(unit(q, p, self.training), p)
        return -unit.activation.f(unit.transpose(q, p) + unit.map.spread(p["b"]))

    def energy(self, y: State, p: Params) -> Tensor:
        """H(y), shape (B,)."""
        self.require("energy")
        q, momentum = self.split(y)
        first, second = self.units
        return first.potential(momentum, p) + second.potential(q, p)

    def extra_repr(self) -> str:
        return f"{self.dim}, layers={self.layers}, {self.units[0].activation.name}"


class HamiltonianJ(Field):
    """y' = J K^T s(K y + b) = J grad H, H(y) = 1^T P(K y + b), P' = s.

    form "h1": K full; "h2": K = blockdiag(K_q, K_p), which is separable (and then equals the two-layer
    SeparableHamiltonian with K1 = K_p, K2 = K_q). J "canonical" is [[0, I], [-I, 0]]; "full" has +1 above and -1 below
    the diagonal (h1 only). y (B, D), D even. Choose h1 to study what symplectic structure is worth: it keeps H along
    the exact flow but forward Euler, with which it is published, is not symplectic; h2 under symplectic_euler is.
    Galimberti et al. 2023 (arXiv 2105.13205). Raises BadInput for an odd width or an unknown form.
    """

    def __init__(
        self,
        dim: int,
        *,
        form: Literal["h1", "h2"] = "h1",
        J: Literal["canonical", "full"] = "canonical",
        activation: str | Activation = "tanh",
        gain: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        half = halved(dim, "HamiltonianJ", "(q, p)")
        if form not in ("h1", "h2") or J not in ("canonical", "full") or (form == "h2" and J == "full"):
            raise BadInput(
                f"HamiltonianJ got form={form!r}, J={J!r}; use form='h1' with J='canonical' or 'full', or form='h2'."
            )
        s = activations.resolve(activation)
        free = constraints.Unconstrained()
        self.dim, self.form, self.J, self.dropout = dim, form, J, probability(dropout)
        self.units: tuple[Unit, ...]
        if form == "h1":
            self.units = (Unit(maps.Dense(dim, dim), s, free, gain=gain),)
        else:
            block = maps.Dense(half, half)
            self.units = tuple(Unit(block, s, free, gain=gain, tag=tag) for tag in ("_q", "_p"))
        self.offers = frozenset({"energy"}) if s.primitive is not None else frozenset()
        if form == "h2":
            self.offers |= {"separable"}

    def init(self, generator: torch.Generator | None = None) -> Params:
        p: Params = {}
        for unit in self.units:
            p |= unit.init(generator)
        return p

    def forward(self, t: Time, y: State, p: Params) -> State:
        if self.form == "h2":
            q, momentum = self.split(y)
            return self.join(self.drift(t, momentum, p), self.kick(t, q, p))
        (unit,) = self.units
        return self.rotate(unit.transpose(unit(y, p, self.training), p))

    def rotate(self, g: State) -> State:
        """J g."""
        if self.J == "canonical":
            q, momentum = self.split(g)
            return self.join(momentum, -q)
        total, running = (
            g.sum(-1, keepdim=True),
            g.cumsum(-1),
        )  # row i: sum of later entries minus sum of earlier ones
        return total - running - (running - g)

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        """dq/dt = K_p^T s(K_p p + b_p)."""
        self.require("separable")
        unit = self.units[1]
        return unit.transpose(unit(momentum, p, self.training), p)

    def kick(self, t: Time, q: State, p: Params) -> State:
        """dp/dt = -K_q^T s(K_q q + b_q)."""
        self.require("separable")
        unit = self.units[0]
        return -unit.transpose(unit(q, p, self.training), p)

    def energy(self, y: State, p: Params) -> Tensor:
        """H(y), shape (B,)."""
        self.require("energy")
        if self.form == "h1":
            return self.units[0].potential(y, p)
        q, momentum = self.split(y)
        return self.units[0].potential(q, p) + self.units[1].potential(momentum, p)

    def extra_repr(self) -> str:
        return f"{self.dim}, form={self.form!r}, J={self.J!r}"
