"""Continuous-time nets on vectors: one field, its weights shared by all times, run by an adaptive integrator.

All take the same words. `dim_in`, `dim_out`, `width` of the state; `integrator` (dopri5 with `rtol`, `atol`; a method
of fixed steps makes `steps` of them), `depth` ("shared": weights that do not vary; or any other, for weights that move
with time), `gradient`, `activation`, `span`, `seed`; `opening` "linear" or "pad". Further words go to the field
(`layers=`, `hidden=`, `time="concat"`, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..depth import Shared
from ..errors import BadInput, Incompatible
from ..fields import MLP, Driven, Field, Newton, Stable
from ..flow import Chain, Flow, Transfer
from .base import net
from .zoo import opened


class Launch(Transfer):
    """x -> (x, g(x)): an initial velocity for second-order motion, (B, D) -> (B, 2 D).

    velocity: "learned" (g linear), or "zero". SONODE learns it (Norcliffe et al. 2020, arXiv 2006.07220).
    """

    def __init__(self, width: int, velocity: str = "learned") -> None:
        super().__init__()
        if velocity not in ("learned", "zero"):
            raise BadInput(f"the initial velocity is 'learned' or 'zero', got {velocity!r}.")
        self.g = nn.Linear(width, width) if velocity == "learned" else None

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat((y, torch.zeros_like(y) if self.g is None else self.g(y)), dim=-1)


class First(Transfer):
    """The first `width` entries of the state: the position of (x, v), the state of (x, u)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, y: Tensor) -> Tensor:
        return y[..., : self.width]

    def extra_repr(self) -> str:
        return f"{self.width}"


class Beside(Transfer):
    """x -> (start(x), x): an input that stays beside a state of `width` entries, which starts at 0 without `start`."""

    def __init__(self, width: int, start: nn.Module | None = None) -> None:
        super().__init__()
        self.width, self.start = width, start

    def forward(self, y: Tensor) -> Tensor:
        first = y.new_zeros(*y.shape[:-1], self.width) if self.start is None else self.start(y)
        return torch.cat((first, y), dim=-1)

    def extra_repr(self) -> str:
        return f"{self.width}"


class Equiangular(Transfer):
    """Scores V y with fixed unit vectors of equal angles, cos = -1/(classes - 1): (B, width) -> (B, classes).

    No set of so many vectors lies further apart, so states near different ones are told apart by the widest margin;
    only the flow learns. The head of SODEF (Kang et al. 2021, arXiv 2110.12976). Raises BadInput for a width below the
    number of classes.
    """

    V: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        if not 2 <= classes <= width:
            raise BadInput(f"an equiangular head needs 2 classes or more and at most width={width}, got {classes}.")
        frame = torch.linalg.qr(torch.randn(width, classes))[0].mT  # orthonormal rows
        centred = frame - frame.mean(0)
        self.register_buffer("V", math.sqrt(classes / (classes - 1)) * centred)

    def forward(self, y: Tensor) -> Tensor:
        return y @ self.V.mT


def _plain(dim_in: int, dim_out: int, width: int, opening: str) -> tuple[int, list[nn.Module], list[nn.Module]]:
    """Width of the stepped state, what leads to it, and what follows it."""
    return width, [opened(opening, dim_in, width)], [nn.Linear(width, dim_out)]


def _moving(
    dim_in: int, dim_out: int, width: int, opening: str, velocity: str
) -> tuple[int, list[nn.Module], list[nn.Module]]:
    before = [opened(opening, dim_in, width), Launch(width, velocity)]
    return 2 * width, before, [First(width), nn.Linear(width, dim_out)]


def _equiangular(dim_in: int, dim_out: int, width: int, opening: str) -> tuple[int, list[nn.Module], list[nn.Module]]:
    return width, [opened(opening, dim_in, width)], [Equiangular(width, dim_out)]


def _fed(dim_in: int, dim_out: int, width: int, opening: str) -> tuple[int, list[nn.Module], list[nn.Module]]:
    start = None if opening == "zero" else opened(opening, dim_in, width)
    return width + dim_in, [Beside(width, start)], [First(width), nn.Linear(width, dim_out)]


Ends = Callable[[int, int, int, str], tuple[int, list[nn.Module], list[nn.Module]]]


def continuous(
    name: str,
    field: Callable[..., Field],
    cite: str,
    about: str,
    *,
    ends: Ends = _plain,
    opening: str = "linear",
    activation: str = "tanh",
    span: tuple[float, float] = (0.0, 1.0),
    fixed: Mapping[str, Any] | None = None,
    fed: bool = False,
    steps: int = 1,
    integrators: tuple[str, ...] = ("dopri5", "rk4", "euler"),
) -> Callable[..., nn.Module]:
    """Register the net `name`: a field, what stands before and behind its flow, and its reference.

    fixed: options of the field that make the architecture, not to be chosen; fed: the field is told dim_in as `inputs`
    """
    fixed = fixed or {}
    usual_opening, usual_activation, usual_span, usual_steps = opening, activation, span, steps

    def build(
        dim_in: int,
        dim_out: int,
        width: int = 64,
        steps: int = usual_steps,
        integrator: Any = None,
        depth: Any = None,
        gradient: str = "autograd",
        activation: str = usual_activation,
        span: tuple[float, float] = usual_span,
        rtol: float = 1e-5,
        atol: float = 1e-7,
        opening: str = usual_opening,
        init: str = "iid",
        substeps: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> nn.Module:
        dim, before, after = ends(dim_in, dim_out, width, opening)
        told = {"inputs": dim_in} if fed else {}
        flow = Flow(
            field(dim, activation=activation, **told, **fixed, **options),
            integrators[0] if integrator is None else integrator,
            depth="shared" if depth is None else depth,
            span=span,
            steps=steps,
            substeps=substeps,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            init=init,
            seed=seed,
        )
        return Chain(*before, flow, *after)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = about
    known = {p.name for p in signature(field).parameters.values() if p.kind is p.KEYWORD_ONLY}
    words = sorted(known - {"activation", "inputs", *fixed})
    return net(kind="ode", cite=cite, integrators=integrators, words=words)(build)


neural_ode = continuous(
    "neural_ode", MLP, "Chen et al. 2018 (arXiv 1806.07366)",
    "y' = f(y), or f(t, y) with time='concat', f a perceptron: depth is time, and the tolerance chooses the number of "
    "layers. Choose it where accuracy and cost should be traded after training.",
)  # fmt: skip
anode = continuous(
    "anode", MLP, "Dupont, Doucet & Teh 2019 (arXiv 1904.01681)",
    "The neural ODE on data with zeros appended, width = dim_in + p: flows of the data space itself cannot untangle "
    "every set, those with room beside it can. Choose it over neural_ode where evaluations grow in training.",
    opening="pad",
)  # fmt: skip
sonode = continuous(
    "sonode", Newton, "Norcliffe et al. 2020 (arXiv 2006.07220)",
    "x'' = f(x, x'), x'(0) = g(x(0)) with g learned, the head reads x: trajectories may cross. Choose it for motion "
    "that is of second order, such as oscillations.",
    ends=partial(_moving, velocity="learned"), fixed={"velocity": True, "damping": 0.0},
)  # fmt: skip
heavy_ball = continuous(
    "heavy_ball", Newton, "Xia et al. 2021 (arXiv 2110.04840)",
    "x' = m, m' = -gamma m + f(x), m(0) = 0, gamma = sigmoid of a learned number: the neural ODE with momentum. Choose "
    "it where the gradient of a neural ODE over a long span dies away.",
    ends=partial(_moving, velocity="zero"), fixed={"velocity": False, "damping": "learned"},
)  # fmt: skip
tisode = continuous(
    "tisode", MLP, "Yan et al. 2020 (arXiv 1910.05513)",
    "A neural ODE with a field that does not depend on time, to be trained with penalty=nets.steady_state(): states "
    "that stop moving are hard to push over a boundary. Choose it where inputs are noisy.",
    fixed={"time": "none"},
)  # fmt: skip
sodef = continuous(
    "sodef", MLP, "Kang et al. 2021 (arXiv 2110.12976)",
    "Features, a flow over a long span, and a fixed head of equal angles; trained with penalty=nets.equilibrium() its "
    "features are near stable equilibria. Choose it behind features that another net has learned.",
    ends=_equiangular, activation="sin", span=(0.0, 5.0), fixed={"time": "none"},
)  # fmt: skip
stable_ode = continuous(
    "stable_ode", Stable, "Kolter & Manek 2019 (NeurIPS)",
    "y' = f(y) with a learned convex V that decreases along every trajectory, so that all of them end at 0. Choose it "
    "to learn motions that are known to settle.",
)  # fmt: skip
nais_net = continuous(
    "nais_net", Driven, "Ciccone et al. 2018 (arXiv 1804.07209)",
    "x' = s(A x + B u + b), x(0) = 0, with the input u at every step under forward Euler, A = -R^T R - eps I or, by "
    "default, with a rotation added: the state settles where the input says. Choose it for depths that vary.",
    ends=_fed, fed=True, opening="zero", steps=16, integrators=("euler", "rk4", "dopri5"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ penalties of `fit`

Penalty = Callable[[nn.Module, Any], Tensor]


def _autonomous(net: nn.Module) -> tuple[Flow, list[nn.Module]]:
    """The first flow of a chain and what stands before it. Raises Incompatible where its weights vary with time."""
    parts: list[nn.Module] = list(net.parts) if isinstance(net, Chain) else [net]
    found = [(i, part) for i, part in enumerate(parts) if isinstance(part, Flow)]
    if not found:
        raise BadInput(f"{type(net).__name__} has no flow whose states this penalty could look at.")
    where, flow = found[0]
    if not all(isinstance(d, Shared) for d in flow.depths.values()) or flow.march.field is not flow.field:
        raise Incompatible(
            "this penalty looks at a first-order flow with weights shared by all times; use depth='shared'."
        )
    return flow, parts[:where]


def steady_state(weight: float = 0.01, until: float = 2.0, steps: int = 10) -> Penalty:
    """weight E |int_T^T' |f(y(t))| dt|_1, T' = until T: what the state still moves after the end of the span.

    For `fit(..., penalty=steady_state())`. The flow goes on from y(T) by `steps` Euler steps with the integral summed
    beside it, over all entries, mean over the batch. Yan et al. 2020 (arXiv 1910.05513), whose weight is 0.01. Raises
    BadInput for until <= 1, Incompatible where weights vary with time.
    """
    if not until > 1.0 or steps < 1:
        raise BadInput(f"the penalty looks beyond the span: until > 1 and steps >= 1, got {until} and {steps}.")

    def penalty(net: nn.Module, batch: Any) -> Tensor:
        flow, before = _autonomous(net)
        y = batch[0]
        for part in before:
            y = part(y)
        y = flow(y)
        start, end = flow.span
        rhs, h = flow.march.rhs(0, flow.march.pieces(flow.theta())[0]), (end - start) * (until - 1.0) / steps
        moved = y.new_zeros(())
        for n in range(steps):
            f = rhs(end + n * h, y)
            moved, y = moved + abs(h) * f.abs().flatten(1).sum(1).mean(), y + h * f
        return weight * moved

    return penalty


def equilibrium(start: float = 1.0, discs: float = 0.1) -> Penalty:
    """Pulls the states y_0 that enter the flow to stable equilibria, for `fit(..., penalty=equilibrium())`:

        start E |f(y_0)|  +  discs E mean_i exp(J_ii + sum_{j != i} |J_ij|),    J = df/dy at y_0

    The first term makes y_0 rest. The second pushes the right ends of the Gershgorin discs of J to the left of 0, where
    all eigenvalues then are: y_0 attracts. SODEF (Kang et al. 2021, arXiv 2110.12976) has the same aims, y_0 at rest
    and J diagonally dominant with a negative trace, in terms of its own; these two and their weights are this
    function's. Costs D backward passes of f. Raises Incompatible where weights vary with time.
    """

    def penalty(net: nn.Module, batch: Any) -> Tensor:
        flow, before = _autonomous(net)
        y = batch[0]
        for part in before:
            y = part(y)
        rhs = flow.march.rhs(0, flow.march.pieces(flow.theta())[0])

        def one(x: Tensor) -> tuple[Tensor, Tensor]:
            f = rhs(flow.span[0], x.unsqueeze(0)).squeeze(0)
            return f, f

        J, f = torch.func.vmap(torch.func.jacrev(one, has_aux=True))(y)
        diagonal = J.diagonal(dim1=1, dim2=2)
        ends = J.abs().sum(2) - diagonal.abs() + diagonal
        return start * f.norm(dim=1).mean() + discs * ends.exp().mean()

    return penalty
