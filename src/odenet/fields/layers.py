"""Fields that are layers of networks: free, antisymmetric, parabolic, second order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations, constraints, maps
from .activations import Activation
from .base import Field, normal, probability, stateful
from .constraints import Constraint, Skew
from .maps import LinearMap
from .unit import Unit


def _width(dim: int) -> int:
    if not isinstance(dim, int) or dim < 1:
        raise BadInput(f"a field got width {dim!r}; the width is a positive whole number such as 64.")
    return dim


class Free(Field):
    """f(t, y) = s(K y + V u + b), or K2 s(K y + V u + b) with two layers: the layer of a residual network.

    y (B, D), or (B, C, H, W) with `map="conv2d"`; u (B, inputs) is a control given to the flow. Nothing bounds the
    spectrum of its Jacobian diag(s') K. Choose it as the plain residual baseline (He et al. 2016; Haber & Ruthotto
    2017) or, with `constraint=`, as any single-layer field.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 1,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        map: str | LinearMap | None = None,
        constraint: str | Constraint = "free",
        norm: str = "none",
        inputs: int = 0,
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if layers not in (1, 2):
            raise BadInput(f"Free got layers={layers}; a field has one layer s(K y + b) or two, K2 s(K y + b).")
        linear = maps.resolve(map, _width(dim), hidden if layers == 2 else None, square=layers == 1)
        self.dim, self.layers, self.dropout = dim, layers, probability(dropout)
        self.unit = Unit(
            linear,
            activations.resolve(activation),
            constraints.resolve(constraint, linear),
            norm,
            inputs,
            gain,
        )
        maps.no_hidden(hidden, layers)
        self.axis = linear.axis
        self.statistics = self.unit.statistics
        if norm == "none" and layers == 1 and not math.isnan(self.unit.activation.lipschitz):
            self.offers = frozenset({"lipschitz"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        p = self.unit.init(generator)
        if self.layers == 2:
            back = type(self.unit.map)(self.unit.map.rows, self.dim, *_extra(self.unit.map))
            p["K2"] = normal(back.shape, self.unit.gain * back.fan_in**-0.5, generator)
        return p

    def constrain(self, p: Params) -> Params:
        return self.unit.constrain(p)

    def forward(self, t: Time, y: State, p: Params) -> State:
        z = self.unit(y, p, self.training)
        return self.unit.map.apply(p["K2"], z) if self.layers == 2 else z

    def lipschitz_bound(self, p: Params) -> Tensor:
        """|K|_2 sup|s'|."""
        self.require("lipschitz")
        return self.unit.map.norm(p["K"]) * self.unit.activation.lipschitz

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.unit.activation.name}, {self.unit.constraint}"


def _extra(map: LinearMap) -> tuple[int, ...]:
    return (map.kernel, map.dims, map.groups) if isinstance(map, maps.Conv) else ()


def Antisymmetric(dim: int, *, gamma: float = 0.01, **options: object) -> Free:
    """f(t, y) = s((W - W^T - gamma I) y + b): the Jacobian at s' = const has eigenvalues on Re = -gamma s'.

    Choose it to keep signals and gradients alive in depth, under an integrator that is stable near the imaginary axis
    (rk4, ab3, two_step_midpoint): forward Euler is unstable for every h when gamma = 0. Haber & Ruthotto 2017;
    Chang et al. 2019. Raises BadInput for a negative gamma.
    """
    if gamma < 0:
        raise BadInput(f"Antisymmetric got gamma={gamma}; diffusion is >= 0, a negative one makes the field unstable.")
    return Free(dim, constraint=Skew(gamma), **options)  # type: ignore[arg-type]


class Parabolic(Field):
    """f(t, y) = -K^T s(N(K y + b)): for increasing s a gradient flow, Jacobian -K^T diag(s') K <= 0.

    y (B, D) or images. Distances between solutions never grow, and a forward Euler step is non-expansive iff
    h |K|^2 sup s' <= 2. Choose it where inputs are noisy. Ruthotto & Haber 2020 (arXiv 1804.04272), eq. 7-8.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        map: str | LinearMap | None = None,
        constraint: str | Constraint = "free",
        norm: str = "none",
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        linear = maps.resolve(map, _width(dim), hidden)
        self.dim, self.dropout = dim, probability(dropout)
        self.unit = Unit(
            linear, activations.resolve(activation), constraints.resolve(constraint, linear), norm, 0, gain
        )
        self.axis = linear.axis
        self.statistics = self.unit.statistics
        if norm == "none" and self.unit.activation.slope[0] >= 0.0:
            self.offers = frozenset({"lipschitz", "lognorm", "monotone"})
            if self.unit.activation.primitive is not None:
                self.offers |= {"potential"}

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.unit.init(generator)

    def constrain(self, p: Params) -> Params:
        return self.unit.constrain(p)

    def forward(self, t: Time, y: State, p: Params) -> State:
        return -self.unit.transpose(self.unit(y, p, self.training), p)

    def potential(self, y: State, p: Params, t: Time = 0.0) -> Tensor:
        """Phi(y) = 1^T P(K y + b) with f = -grad Phi, shape (B,)."""
        self.require("potential")
        return self.unit.potential(y, p)

    def lipschitz_bound(self, p: Params) -> Tensor:
        """|K|_2^2 sup s'."""
        self.require("lipschitz")
        return self.unit.map.norm(p["K"]) ** 2 * self.unit.activation.lipschitz

    def lognorm_bound(self, p: Params) -> Tensor:
        """-inf s' sigma_min(K)^2 for dense maps of full column rank, else 0."""
        self.require("lognorm")
        K, lowest = p["K"], self.unit.activation.slope[0]
        if lowest == 0.0 or not isinstance(self.unit.map, maps.Dense) or self.unit.map.rows < self.dim:
            return K.new_zeros(K.shape[: K.dim() - len(self.unit.map.shape)])
        return -lowest * torch.linalg.svdvals(K)[..., -1] ** 2

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.unit.activation.name}, {self.unit.constraint}"


class SecondOrder(Field):
    """y'' = force(t, y): the given field read as an acceleration; `SecondOrder(64)` takes -K^T s(K y + b).

    Choose it for nets that transport rather than damp (Ruthotto & Haber, eq. 11; with `wrap(module)` as force a
    second-order neural ODE). Under leapfrog the state is y; under a first-order integrator it becomes (y, v), v(0) = 0.
    """

    offers = frozenset({"second_order"})

    def __init__(self, force: Field | int, **options: object) -> None:
        super().__init__()
        if isinstance(force, Field) and options:
            raise BadInput(f"SecondOrder was given a field and the options {sorted(options)}; give those to the field.")
        self.force = force if isinstance(force, Field) else Parabolic(force, **options)  # type: ignore[arg-type]
        self.dim = getattr(self.force, "dim", None)
        self.axis, self.statistics, self.dropout = self.force.axis, self.force.statistics, self.force.dropout
        if "potential" in self.force.offers:
            self.offers = self.offers | {"potential"}

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.force.init(generator)

    def constrain(self, p: Params) -> Params:
        return self.force.constrain(p)

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.force(t, y, p)

    def stateful(self) -> str | None:
        """Why a recomputed evaluation would differ from the first one, or None."""
        return stateful(self.force)

    def potential(self, y: State, p: Params, t: Time = 0.0) -> Tensor:
        """Phi with y'' = -grad Phi."""
        self.require("potential")
        return self.force.potential(y, p, t)  # type: ignore[operator]
