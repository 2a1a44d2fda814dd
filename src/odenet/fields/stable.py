"""Fields with a proof: steps whose Lipschitz constant is known, and motion down a learned convex function."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations, constraints, maps
from .activations import Activation
from .base import Field, normal
from .constraints import Constraint
from .continuous import perceptron
from .maps import LinearMap


class Switching(Field):
    """f(t, y) = K^T phi(K y + b),  phi(z) = alpha z + (beta - alpha) s(z): contractive or expansive, by two numbers.

    y (B, D) or images. For s = relu phi has the slope alpha below 0 and beta above: alpha = -a h_c, beta = -h_c is the
    contractive layer -h_c K^T leaky_relu_a(K y + b), alpha = 0, beta = h_e the expansive one. Both numbers are data of
    each knot interval ("slopes", never trained), or with `limits=(low, high)` learned within these. For K orthogonal
    (dense maps, by default) df/dy = K^T diag(phi') K is symmetric with eigenvalues between the slopes, which gives an
    Euler step the sharp Lipschitz constant max |1 + h slope|. Choose it for nets that provably do not amplify what
    they are given, without being contractions. Celledoni et al. 2023 (arXiv 2210.02373). Convolutions start
    delta-orthogonal with their norm capped at 1: their contractive steps are proved non-expansive, no more. Raises
    BadInput for an activation without known slopes.
    """

    def __init__(
        self,
        dim: int,
        *,
        slopes: tuple[float, float] = (-0.5, -1.0),
        limits: tuple[float, float] | None = None,
        activation: str | Activation = "relu",
        map: str | LinearMap | None = None,
        constraint: str | Constraint | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(dim, int) or dim < 1:
            raise BadInput(f"Switching got width {dim!r}; the width is a positive whole number such as 64.")
        self.map = maps.resolve(map, dim)
        dense = isinstance(self.map, maps.Dense) and self.map.rows == dim
        self.activation = activations.resolve(activation)
        if math.isnan(self.activation.lipschitz):
            raise BadInput(f"Switching needs slopes, which {self.activation.name!r} does not state; use 'relu'.")
        self.constraint = constraints.resolve(constraint or ("orthogonal" if dense else "spectral_cap"), self.map)
        self.dim, self.slopes, self.limits, self.gain = dim, slopes, limits, gain
        self.axis = self.map.axis
        self.statistics = frozenset({"slopes"} if limits is None else {"limits"})
        self.offers = frozenset({"lipschitz", "lognorm", "step"})

    def init(self, generator: torch.Generator | None = None) -> Params:
        """K ~ N(0, gain^2/D) before the Cayley map, else orthogonal (delta-orthogonal for convolutions); b = 0."""
        p = {"K": self._kernel(generator), "b": torch.zeros(self.map.rows)}
        slopes = torch.tensor(self.slopes)
        if self.limits is None:
            return p | {"slopes": slopes}
        limits = torch.tensor(self.limits)
        return p | {"limits": limits, "slopes": logit(slopes, limits)}

    def _kernel(self, generator: torch.Generator | None) -> Tensor:
        if isinstance(self.constraint, constraints.Orthogonal):
            return normal(self.map.shape, self.gain * self.map.fan_in**-0.5, generator)
        middle = torch.empty(self.map.shape[:2])
        nn.init.orthogonal_(middle, generator=generator)
        kernel = torch.zeros(self.map.shape)
        space = kernel.reshape(*middle.shape, -1)  # a view, with one entry for a dense map
        space[..., space.shape[-1] // 2] = self.gain * middle
        return kernel

    def constrain(self, p: Params) -> Params:
        p = {**p, "K": self.constraint.apply(p["K"], self.map)}
        if self.limits is None:
            return p
        low, high = p["limits"][..., :1], p["limits"][..., 1:]
        return {**p, "slopes": low + (high - low) * torch.sigmoid(p["slopes"])}

    def forward(self, t: Time, y: State, p: Params) -> State:
        z = self.map.apply(p["K"], y) + self.map.spread(p["b"])
        alpha, beta = p["slopes"].unbind(-1)
        return self.map.transpose(p["K"], alpha * z + (beta - alpha) * self.activation.f(z))

    def _spectrum(self, p: Params) -> tuple[Tensor, Tensor]:
        """Bounds from below and above of the eigenvalues of K^T diag(phi') K, from the singular values of K."""
        alpha, beta = p["slopes"].unbind(-1)
        low, high = (alpha + (beta - alpha) * s for s in self.activation.slope)
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        top, bottom = self._squares(p["K"])
        return torch.where(low < 0, low * top, low * bottom), torch.where(high > 0, high * top, high * bottom)

    def _squares(self, K: Tensor) -> tuple[Tensor, Tensor]:
        """Squares of the largest and the smallest singular value; 0 for the smallest where it is not known."""
        if isinstance(self.map, maps.Dense):
            values = torch.linalg.svdvals(K)
            bottom = values[..., -1] if self.map.rows >= self.dim else torch.zeros_like(values[..., 0])
            return values[..., 0] ** 2, bottom**2
        top = self.map.norm(K) ** 2
        return top, torch.zeros_like(top)

    def lipschitz_bound(self, p: Params) -> Tensor:
        """max |eigenvalue| of df/dy over all y."""
        low, high = self._spectrum(p)
        return torch.maximum(low.abs(), high.abs())

    def lognorm_bound(self, p: Params) -> Tensor:
        """The largest eigenvalue of df/dy, which is symmetric."""
        return self._spectrum(p)[1]

    def step_bound(self, h: float, p: Params) -> Tensor:
        """max |1 + h eigenvalue|: the Lipschitz constant of y + h f(y), sharp for an orthogonal K."""
        low, high = self._spectrum(p)
        return torch.maximum((1 + h * low).abs(), (1 + h * high).abs())

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.activation.name}, {self.constraint}"


def logit(slopes: Tensor, limits: Tensor) -> Tensor:
    """What `Switching` stores for these slopes (..., 2); slopes at a limit start a twentieth of the range inside."""
    low, high = limits[..., :1], limits[..., 1:]
    return torch.logit(((slopes - low) / (high - low)).clamp(0.05, 0.95))


class Stable(Field):
    """f = g - grad V relu(grad V . g + rate V)/|grad V|^2: any field g, made to run down a convex V.

    y (B, D). g is a perceptron; V(y) = r(c(y) - c(0)) + eps |y|^2 with an input-convex net c of two hidden layers and
    r, its activation too, the relu with a parabola of width `smooth` at its corner: V(0) = 0, V > 0 elsewhere, and
    along every exact solution dV/dt <= -rate V, whatever the weights. Choose it where all motion must end at 0. The
    field jumps at 0 unless g(0) = 0. Kolter & Manek 2019 (NeurIPS); c of Amos, Xu & Kolter 2017.
    Raises BadInput for numbers that are not positive.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 2,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        convex: int = 16,
        rate: float = 0.01,
        eps: float = 0.01,
        smooth: float = 0.1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if not (isinstance(dim, int) and dim > 0 and isinstance(convex, int) and convex > 0):
            raise BadInput(f"Stable got widths {dim!r} and convex={convex!r}; both are positive whole numbers.")
        if not (rate >= 0 and eps > 0 and smooth > 0):
            raise BadInput(f"Stable needs rate >= 0, eps > 0, smooth > 0, got {rate}, {eps} and {smooth}.")
        self.dim, self.convex, self.rate, self.eps, self.smooth = dim, convex, rate, eps, smooth
        self.net = perceptron(dim, dim, layers, hidden, activation, "none", gain)

    def init(self, generator: torch.Generator | None = None) -> Params:
        """As MLP; W ~ N(0, 1/D), U ~ N(0, 1), c = 0."""
        D, m = self.dim, self.convex
        p = self.net.init(generator)
        for name, rows in (("W1", m), ("W2", m), ("W3", 1)):
            p[name] = normal((rows, D), D**-0.5, generator)
        p |= {"U2": normal((m, m), 1.0, generator), "U3": normal((1, m), 1.0, generator)}
        return p | {"c1": torch.zeros(m), "c2": torch.zeros(m)}

    def constrain(self, p: Params) -> Params:
        """U >= 0, which makes the net convex."""
        return {**p, "U2": F.softplus(p["U2"]) / self.convex, "U3": F.softplus(p["U3"]) / self.convex}

    def forward(self, t: Time, y: State, p: Params) -> State:
        g = self.net(t, y, p)
        value, slope = self._value_and_slope(y, p)
        excess = torch.relu((slope * g).sum(-1) + self.rate * value)
        return g - slope * (excess / (slope**2).sum(-1).clamp_min(1e-30)).unsqueeze(-1)

    def lyapunov(self, y: State, p: Params) -> Tensor:
        """V(y), shape (B,): 0 at 0, positive elsewhere, decreasing along the exact flow."""
        return self._value_and_slope(y, p)[0]

    def _value_and_slope(self, y: State, p: Params) -> tuple[Tensor, Tensor]:
        c, dc = self._net(y, p)
        raised = c - self._net(torch.zeros_like(y), p)[0]
        value = self._r(raised) + self.eps * (y**2).sum(-1)
        return value, self._dr(raised).unsqueeze(-1) * dc + 2 * self.eps * y

    def _net(self, y: State, p: Params) -> tuple[Tensor, Tensor]:
        """c(y) and its gradient."""
        first = F.linear(y, p["W1"], p["c1"])
        second = F.linear(y, p["W2"], p["c2"]) + F.linear(self._r(first), p["U2"])
        c = F.linear(y, p["W3"]) + F.linear(self._r(second), p["U3"])
        back = p["U3"] * self._dr(second)
        slope = p["W3"] + back @ p["W2"] + ((back @ p["U2"]) * self._dr(first)) @ p["W1"]
        return c.squeeze(-1), slope

    def _r(self, x: Tensor) -> Tensor:
        """0 below 0, x^2/(2 smooth) up to smooth, x - smooth/2 beyond."""
        inside = x.clamp(0.0, self.smooth)
        return inside**2 / (2 * self.smooth) + (x - inside).clamp_min(0.0)

    def _dr(self, x: Tensor) -> Tensor:
        return (x / self.smooth).clamp(0.0, 1.0)

    def extra_repr(self) -> str:
        return f"{self.net.sizes}, convex={self.convex}, rate={self.rate:g}"
