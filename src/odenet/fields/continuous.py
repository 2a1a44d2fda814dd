"""Fields of continuous-time nets: perceptrons of (t, y), second-order motion with friction, motion under an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations, constraints
from .activations import Activation
from .base import Field, halved, normal, probability
from .constraints import Constraint
from .maps import Dense
from .unit import Unit


@dataclass(frozen=True)
class Perceptron:
    """K_L s(... s(K_1 [y, t] + b_1) ...) + b_L; names of its weights are K1, b1, ..., KL, bL, each followed by `tag`.

    sizes: entries of y, of every hidden layer, and of the result; timed: t is one more input of the first layer
    """

    sizes: tuple[int, ...]
    activation: Activation
    timed: bool = False
    gain: float = 1.0
    tag: str = ""

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    def init(self, generator: torch.Generator | None) -> Params:
        """K ~ N(0, gain^2/fan_in), b = 0."""
        p: Params = {}
        for n, (cols, rows) in enumerate(zip(self.sizes, self.sizes[1:]), start=1):
            cols += self.timed and n == 1
            p[f"K{n}{self.tag}"] = normal((rows, cols), self.gain * cols**-0.5, generator)
            p[f"b{n}{self.tag}"] = torch.zeros(rows)
        return p

    def __call__(self, t: Time, y: State, p: Params) -> State:
        if self.timed:
            y = torch.cat((y, t * torch.ones_like(y[..., :1])), dim=-1)
        for n in range(1, self.layers + 1):
            y = F.linear(y, p[f"K{n}{self.tag}"], p[f"b{n}{self.tag}"])
            y = self.activation.f(y) if n < self.layers else y
        return y

    def lipschitz(self, p: Params) -> Tensor:
        """Product of the spectral norms and of sup |s'|, in y alone."""
        bound = torch.linalg.matrix_norm(p[f"K1{self.tag}"][..., : self.sizes[0]], ord=2)
        for n in range(2, self.layers + 1):
            bound = bound * self.activation.lipschitz * torch.linalg.matrix_norm(p[f"K{n}{self.tag}"], ord=2)
        return bound


def perceptron(
    cols: int,
    rows: int,
    layers: int,
    hidden: int | None,
    activation: str | Activation,
    time: str,
    gain: float,
) -> Perceptron:
    """Checked sizes: `layers` linear maps with `hidden` units between them."""
    if not isinstance(layers, int) or layers < 1:
        raise BadInput(f"layers={layers!r}: a perceptron has 1, 2, ... linear maps.")
    if time not in ("none", "concat"):
        raise BadInput(f"time {time!r} is not known; write 'none' for f(y) or 'concat' for f(t, y).")
    if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
        raise BadInput(f"hidden is a positive whole number, got {hidden!r}; write hidden=64, for instance.")
    between = (hidden or max(cols, rows),) * (layers - 1)
    return Perceptron((cols, *between, rows), activations.resolve(activation), time == "concat", gain)


class MLP(Field):
    """f(t, y) = K_L s(... s(K_1 [y, t] + b_1) ...) + b_L: the field of a neural ODE.

    y (B, D); `layers` linear maps with `hidden` units between them; time "concat" gives t to the first one, "none"
    makes the field autonomous. Choose it where nothing is known about the motion. Chen et al. 2018 (arXiv 1806.07366).
    Raises BadInput for sizes that cannot be.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 2,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        time: Literal["none", "concat"] = "none",
        gain: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(dim, int) or dim < 1:
            raise BadInput(f"MLP got width {dim!r}; the width is a positive whole number such as 64.")
        self.dim, self.dropout = dim, probability(dropout)
        self.net = perceptron(dim, dim, layers, hidden, activation, time, gain)
        if layers == 1 or not math.isnan(self.net.activation.lipschitz):
            self.offers = frozenset({"lipschitz"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.net.init(generator)

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.net(t, y, p)

    def lipschitz_bound(self, p: Params) -> Tensor:
        """|K_L|_2 ... |K_1|_2 (sup|s'|)^(L-1), K_1 without the column of t."""
        self.require("lipschitz")
        return self.net.lipschitz(p)

    def extra_repr(self) -> str:
        return f"{self.net.sizes}, {self.net.activation.name}, time={'concat' if self.net.timed else 'none'}"


class Newton(Field):
    """x' = v,  v' = f(t, x, v) - gamma v:  second-order motion with a learned force and friction.

    State (x, v) of width D, even; f is a perceptron that sees x, and v too with `velocity`. damping: gamma >= 0, or
    "learned": sigmoid of one number, from -3. Without velocity and damping the field is separable (verlet, yoshida4).
    Choose it where trajectories may cross in x, or to keep gradients alive by inertia: SONODE (Norcliffe et al. 2020,
    arXiv 2006.07220) with `velocity`, the heavy ball (Xia et al. 2021, arXiv 2110.04840) with learned
    damping. Raises BadInput for an odd width or a negative damping.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 2,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        time: Literal["none", "concat"] = "none",
        velocity: bool = True,
        damping: float | Literal["learned"] = 0.0,
        gain: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        half = halved(dim, "Newton", "(x, v)")
        if damping != "learned" and not (isinstance(damping, int | float) and damping >= 0):
            raise BadInput(f'Newton got damping={damping!r}; friction is >= 0, or "learned".')
        self.dim, self.velocity, self.damping, self.dropout = dim, velocity, damping, probability(dropout)
        self.net = perceptron(dim if velocity else half, half, layers, hidden, activation, time, gain)
        if not velocity and damping == 0.0:
            self.offers = frozenset({"separable"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        p = self.net.init(generator)
        return {**p, "gamma": torch.tensor(-3.0)} if self.damping == "learned" else p

    def constrain(self, p: Params) -> Params:
        return {**p, "gamma": torch.sigmoid(p["gamma"])} if self.damping == "learned" else p

    def forward(self, t: Time, y: State, p: Params) -> State:
        x, v = self.split(y)
        force = self.net(t, y if self.velocity else x, p)
        gamma = p["gamma"] if self.damping == "learned" else self.damping
        return self.join(v, force - gamma * v if self.damping else force)

    def kick(self, t: Time, q: State, p: Params) -> State:
        """dv/dt from x."""
        self.require("separable")
        return self.net(t, q, p)

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        """dx/dt = v."""
        self.require("separable")
        return momentum

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.net.sizes}, velocity={self.velocity}, damping={self.damping!r}"


class Driven(Field):
    """x' = s(A x + B u + b),  u' = 0:  a layer that sees the input u at every depth.

    State (x, u) of width D, the last `inputs` entries of which are u. The constraint acts on A; "damped" makes its
    symmetric part negative definite, so that x forgets its start and settles at a point that u chooses. Choose it for
    nets whose depth is not fixed. NAIS-Net, Ciccone et al. 2018 (arXiv 1804.07209). Raises BadInput where no
    entry is left for x.
    """

    def __init__(
        self,
        dim: int,
        *,
        inputs: int = 1,
        activation: str | Activation = "tanh",
        constraint: str | Constraint = "damped",
        gain: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not (isinstance(dim, int) and isinstance(inputs, int) and 0 < inputs < dim):
            raise BadInput(f"Driven got width {dim!r} of which {inputs!r} are inputs; it needs at least one of each.")
        self.dim, self.fed, self.dropout = dim, inputs, probability(dropout)
        map = Dense(dim - inputs, dim - inputs)
        self.block = Unit(
            map, activations.resolve(activation), constraints.resolve(constraint, map), inputs=inputs, gain=gain
        )

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.block.init(generator)

    def constrain(self, p: Params) -> Params:
        return self.block.constrain(p)

    def forward(self, t: Time, y: State, p: Params) -> State:
        x, u = y.split((self.dim - self.fed, self.fed), dim=-1)
        return torch.cat((self.block(x, {**p, "u": u}, self.training), 0.0 * u), dim=-1)

    def extra_repr(self) -> str:
        return f"{self.dim}, inputs={self.fed}, {self.block.activation.name}, {self.block.constraint}"
