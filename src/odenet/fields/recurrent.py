"""Fields that are driven by data: f(t, y; p) with an input u in p, constant or given as a function of t between two
entries of a sequence.

A recurrent net is a flow of such a field, one knot interval per entry. The input is a control, p["u"] (B, inputs).
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations
from .activations import Activation
from .base import Field, driven_by, halved, normal
from .constraints import Constraint, Skew
from .maps import Dense, LinearMap


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    """Independent entries, uniform on [-bound, bound], in the default dtype."""
    return (2.0 * torch.rand(shape, generator=generator) - 1.0) * bound


@dataclass(frozen=True)
class SkewShare(Constraint):
    """K = beta (M - M^T) + (1 - beta) (M + M^T) - gamma I: skew for beta = 1 up to the shift, symmetric for beta = 0.

    Erichson et al. 2021 (arXiv 2006.12070), eq. 4. Raises BadInput for beta outside [0, 1].
    """

    beta: float = 0.75
    gamma: float = 0.001

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise BadInput(f"beta is the share of the skew part, in [0, 1], got {self.beta}.")

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        eye = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        return self.beta * (W - W.mT) + (1.0 - self.beta) * (W + W.mT) - self.gamma * eye

    def admits(self, map: LinearMap) -> bool:
        return map.rows == map.cols and isinstance(map, Dense)


class WithInput(Field, ABC):
    """A field with an input u of width `inputs`, and an activation s."""

    controls = ("u",)

    def __init__(self, dim: int, inputs: int, activation: str | Activation = "tanh") -> None:
        super().__init__()
        for name, value in (("dim", dim), ("inputs", inputs)):
            if not isinstance(value, int) or value < 1:
                raise BadInput(f"{type(self).__name__} got {name}={value!r}; it is a positive whole number.")
        self.dim, self.inputs = dim, inputs
        self.activation = activations.resolve(activation)

    def extra_repr(self) -> str:
        return f"{self.dim}, inputs={self.inputs}"


class GatedSkew(WithInput):
    """f = g(K y + V_z u + b_z) s(K y + V u + b), g the sigmoid, K = W - W^T - gamma I in both factors.

    y (B, D), u (B, inputs). The gate slows every unit down by itself. Choose it over `Antisymmetric(inputs=)` where
    inputs matter at some times only. Chang et al. 2019 (arXiv 1902.09689), eq. 15-16.
    """

    def __init__(self, dim: int, inputs: int, *, gamma: float = 0.01, activation: str | Activation = "tanh") -> None:
        super().__init__(dim, inputs, activation)
        self.skew = Skew(gamma)

    def init(self, generator: torch.Generator | None = None) -> Params:
        p = {"K": normal((self.dim, self.dim), self.dim**-0.5, generator)}
        for tag in ("", "_z"):
            p["V" + tag] = normal((self.dim, self.inputs), self.inputs**-0.5, generator)
            p["b" + tag] = torch.zeros(self.dim)
        return p

    def constrain(self, p: Params) -> Params:
        return {**p, "K": self.skew.apply(p["K"], Dense(self.dim, self.dim))}

    def forward(self, t: Time, y: State, p: Params) -> State:
        u, turned = driven_by(p, y), F.linear(y, p["K"])
        gate = torch.sigmoid(turned + F.linear(u, p["V_z"], p["b_z"]))
        return gate * self.activation.f(turned + F.linear(u, p["V"], p["b"]))


class Lipschitz(WithInput):
    """f = A y + s(K y + V u + b), A and K of the form beta (M - M^T) + (1 - beta) (M + M^T) - gamma I.

    y (B, D), u (B, inputs); M ~ N(0, (gain/D)^2). The linear part alone decides on stability for large y, where s
    saturates, so exponential methods ("etd1") apply. Choose it for long sequences where an antisymmetric net is too
    rigid. Erichson et al. 2021 (arXiv 2006.12070), eq. 3-4.
    """

    offers = frozenset({"linear", "lipschitz"})

    def __init__(
        self,
        dim: int,
        inputs: int,
        *,
        beta: float = 0.75,
        gamma: float = 0.001,
        gain: float = 0.1,
        activation: str | Activation = "tanh",
    ) -> None:
        super().__init__(dim, inputs, activation)
        self.share, self.gain = SkewShare(beta, gamma), gain

    def init(self, generator: torch.Generator | None = None) -> Params:
        p = {name: normal((self.dim, self.dim), self.gain / self.dim, generator) for name in ("A", "K")}
        spread = (2.0 / (self.dim + self.inputs)) ** 0.5  # Glorot's
        return p | {"V": normal((self.dim, self.inputs), spread, generator), "b": torch.zeros(self.dim)}

    def constrain(self, p: Params) -> Params:
        square = Dense(self.dim, self.dim)
        return {**p, **{name: self.share.apply(p[name], square) for name in ("A", "K")}}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return F.linear(y, p["A"]) + self.nonlinear(t, y, p)

    def linear(self, p: Params) -> Tensor:
        """A."""
        return p["A"]

    def nonlinear(self, t: Time, y: State, p: Params) -> State:
        """s(K y + V u + b)."""
        return self.activation.f(F.linear(y, p["K"]) + F.linear(driven_by(p, y), p["V"], p["b"]))

    def lipschitz_bound(self, p: Params) -> Tensor:
        """|A|_2 + |K|_2 sup|s'|."""
        norms = [torch.linalg.matrix_norm(p[name], ord=2) for name in ("A", "K")]
        return norms[0] + norms[1] * self.activation.lipschitz


class CoupledOscillators(WithInput):
    """q' = v,  v' = s(K q + C v + V u + b) - gamma q - epsilon v: driven, damped, coupled oscillators; y = (q, v).

    y (B, D), D even; u (B, inputs). As a split field its explicit part is the force and its implicit part q' = v, so
    that "lie_euler" is the published scheme: v by the old q, then q by the new v. Not separable, since the force
    depends on v; no inverse in closed form. Choose it for long memory where a bound on the gradients in h is wanted.
    Rusch & Mishra 2021 (arXiv 2010.00951), eq. 1-3. Raises BadInput for an odd width.
    """

    offers = frozenset({"split"})

    def __init__(
        self,
        dim: int,
        inputs: int,
        *,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        activation: str | Activation = "tanh",
    ) -> None:
        super().__init__(dim, inputs, activation)
        self.size, self.gamma, self.epsilon = halved(dim, "CoupledOscillators", "(y, y')"), gamma, epsilon

    def init(self, generator: torch.Generator | None = None) -> Params:
        bound = (self.inputs + self.dim) ** -0.5
        shapes = {"K": (self.size, self.dim), "V": (self.size, self.inputs), "b": (self.size,)}
        return {name: uniform(shape, bound, generator) for name, shape in shapes.items()}

    def force(self, y: State, p: Params) -> State:
        """v', (B, D/2); K holds the matrices of q and of v side by side."""
        q, v = self.split(y)
        z = F.linear(y, p["K"]) + F.linear(driven_by(p, y), p["V"], p["b"])
        return self.activation.f(z) - self.gamma * q - self.epsilon * v

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.join(self.split(y)[1], self.force(y, p))

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """(0, v')."""
        force = self.force(y, p)
        return self.join(torch.zeros_like(force), force)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """(q', 0)."""
        v = self.split(y)[1]
        return self.join(v, torch.zeros_like(v))


class UndampedOscillators(WithInput):
    """q' = g(c) v,  v' = -g(c) (s(w q + V u + b) + alpha q), entry by entry, g the sigmoid: a Hamiltonian system.

    y = (q, v) (B, D), D even; u (B, inputs). Its energy is g(c) . (v^2/2 + alpha q^2/2 + P(w q + V u + b)/w), P' = s;
    g(c) makes the clock of every oscillator learnable. Separable, hence invertible under "symplectic_euler"
    (gradient="reversible" trains at constant memory). Choose it for very long sequences.
    Rusch & Mishra 2021 (arXiv 2103.05487), eq. 2-4. Raises BadInput for an odd width.
    """

    offers = frozenset({"separable"})

    def __init__(self, dim: int, inputs: int, *, alpha: float = 30.65, activation: str | Activation = "tanh") -> None:
        super().__init__(dim, inputs, activation)
        self.size, self.alpha = halved(dim, "UndampedOscillators", "(y, y')"), alpha

    def init(self, generator: torch.Generator | None = None) -> Params:
        bound = (6.0 / (65.0 * self.inputs)) ** 0.5  # He's uniform one for a leaky slope of 8, as published
        return {
            "w": torch.rand(self.size, generator=generator),
            "c": uniform((self.size,), 0.1, generator),
            "V": uniform((self.size, self.inputs), bound, generator),
            "b": torch.zeros(self.size),
        }

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, v = self.split(y)
        return self.join(self.drift(t, v, p), self.kick(t, q, p))

    def drift(self, t: Time, v: State, p: Params) -> State:
        """q' from v."""
        return torch.sigmoid(p["c"]) * v

    def kick(self, t: Time, q: State, p: Params) -> State:
        """v' from q."""
        z = p["w"] * q + F.linear(driven_by(p, q), p["V"], p["b"])
        return -torch.sigmoid(p["c"]) * (self.activation.f(z) + self.alpha * q)


class GRUFlow(WithInput):
    """f = (1 - z) (n - y): the gated recurrent unit as a differential equation; an Euler step of h = 1 is the unit.

    z = g(W_z u + U_z y + b_z), r = g(W_r u + U_r y + b_r), n = s(W_n u + U_n (r y) + b_n), g the sigmoid. reset:
    "before" U_n as here (De Brouwer et al. 2019, arXiv 1905.12374, eq. 3); "after" it, r (U_n y + c_n), as torch's
    GRUCell has it; "update": z takes the place of r. y (B, D), u (B, inputs). Every entry of y is drawn towards
    [-1, 1] and stays there. Choose it for sporadic observations. Raises BadInput for another reset.
    """

    def __init__(self, dim: int, inputs: int, *, reset: str = "before", activation: str | Activation = "tanh") -> None:
        super().__init__(dim, inputs, activation)
        if reset not in ("before", "after", "update"):
            raise BadInput(f"reset {reset!r} is not known; write 'before', 'after' or 'update'.")
        self.reset = reset

    def init(self, generator: torch.Generator | None = None) -> Params:
        gates, bound = (2 if self.reset == "update" else 3), self.dim**-0.5
        shapes: dict[str, tuple[int, ...]] = {"W": (gates * self.dim, self.inputs), "b": (gates * self.dim,)}
        shapes |= {"U": (gates * self.dim, self.dim)} | ({"c": (self.dim,)} if self.reset == "after" else {})
        return {name: uniform(shape, bound, generator) for name, shape in shapes.items()}

    def forward(self, t: Time, y: State, p: Params) -> State:
        D = self.dim
        given = F.linear(driven_by(p, y), p["W"], p["b"])  # (B, gates D): (r,) z, n
        gates = torch.sigmoid(given[..., :-D] + F.linear(y, p["U"][:-D]))
        r, z = gates[..., :D], gates[..., -D:]
        own = p["U"][-D:]
        if self.reset == "after":
            n = self.activation.f(given[..., -D:] + r * F.linear(y, own, p["c"]))
        else:
            n = self.activation.f(given[..., -D:] + F.linear(r * y, own))
        return (1.0 - z) * (n - y)


class Paced(Field):
    """f = u g(t, y): a field on a clock of its own for every sample, u (B, 1) the rate at which time passes.

    Over a knot interval of length 1 this is y' = g over a time u. Choose it for observations at irregular times.
    """

    controls = ("u",)

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field, self.dim = field, getattr(field, "dim", None)
        self.axis, self.statistics, self.dropout = field.axis, field.statistics, field.dropout

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.field.init(generator)

    def constrain(self, p: Params) -> Params:
        return self.field.constrain(p)

    def forward(self, t: Time, y: State, p: Params) -> State:
        return driven_by(p, y) * self.field(t, y, p)


class Controlled(WithInput):
    """f = F(y) u, F(y) = last(K2 s(K1 y + b1) + b2) as a matrix (D, inputs): dy = F(y) dX with u = dX/dt.

    y (B, D), u (B, inputs). What moves the state is the change of the data, so that its sampling does not matter.
    Choose it for irregular time series. Kidger et al. 2020 (arXiv 2005.08926), eq. 4.
    """

    def __init__(
        self,
        dim: int,
        inputs: int,
        *,
        hidden: int = 64,
        activation: str | Activation = "relu",
        last: str | Activation = "tanh",
    ) -> None:
        super().__init__(dim, inputs, activation)
        self.hidden, self.last = hidden, activations.resolve(last)

    def init(self, generator: torch.Generator | None = None) -> Params:
        rows = self.dim * self.inputs
        return {
            "K1": normal((self.hidden, self.dim), self.dim**-0.5, generator),
            "b1": torch.zeros(self.hidden),
            "K2": normal((rows, self.hidden), self.hidden**-0.5, generator),
            "b2": torch.zeros(rows),
        }

    def matrix(self, y: State, p: Params) -> Tensor:
        """F(y), (B, D, inputs)."""
        z = F.linear(self.activation.f(F.linear(y, p["K1"], p["b1"])), p["K2"], p["b2"])
        return self.last.f(z).unflatten(-1, (self.dim, self.inputs))

    def forward(self, t: Time, y: State, p: Params) -> State:
        return (self.matrix(y, p) @ driven_by(p, y).unsqueeze(-1)).squeeze(-1)
