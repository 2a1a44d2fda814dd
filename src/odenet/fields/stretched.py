"""A field whose time runs faster or slower in every knot interval: step sizes and end times as weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..types import Params, State, Time
from .base import Field, stateful

PACE = "pace"


class Stretched(Field):
    """y' = w f(t, y) with a weight w in every knot interval, so that a step of length h is one of f of length h w.

        x_{n+1} = x_n + dt_n f(x_n, theta_n),   dt_n = h w_n,   sum dt_n = T where the mean of the w_n is 1

    That is exact for every one-step method on a field without t of its own: all stages stretch alike; a field with t,
    and weights between two knots, go on by the clock of the flow. w = 1 to begin with. What it is, is said by `depth`
    and the form:

        depth={"pace": "per_step", ...}     a step size for every layer;   "shared": one factor, the end time w T
        form="exp"      w = e^pace > 0, free: the end time is learned too
        form="weight"   w = pace, to be kept in the simplex by fit(..., constraint=constraints.step_sizes())

    Choose "weight" with the constraint for layers that share out a given time, as the ODENet of Benning, Celledoni,
    Ehrhardt, Owren & Schönlieb 2019 (arXiv 1904.05657). Multistep methods do not notice that a w jumps and
    lose their order there. Raises Incompatible for fields with noise or of second order, BadInput
    for another form.
    """

    def __init__(self, field: Field, form: str = "weight") -> None:
        super().__init__()
        if form not in ("weight", "exp"):
            raise BadInput(f"Stretched has form='weight' or form='exp', got {form!r}.")
        if "noise" in field.offers:
            raise Incompatible("noise grows with the root of time, so a field with noise cannot be Stretched.")
        if "second_order" in field.offers:
            raise Incompatible(
                "the velocity of y'' = f would jump where its time stretches; write "
                "Stretched(fields.FirstOrder(field)), whose state is (y, v)."
            )
        self.field, self.form = field, form
        self.offers = field.offers & {"separable", "split", "linear", "jacobian", "energy"}
        self.axis, self.statistics, self.dropout = field.axis, field.statistics, field.dropout
        self.controls = field.controls
        self.dim = getattr(field, "dim", None)
        self.split, self.join = field.split, field.join  # type: ignore[method-assign]
        if (inverse := getattr(field, "implicit_solve", None)) is not None:
            self.implicit_solve = lambda scale, y, p: inverse(scale * p[PACE], y, p)

    def init(self, generator: torch.Generator | None = None) -> Params:
        """Those of the field, and pace: w = 1."""
        return {**self.field.init(generator), PACE: torch.ones(()) if self.form == "weight" else torch.zeros(())}

    def constrain(self, p: Params) -> Params:
        pace = p[PACE]
        inner = self.field.constrain({k: v for k, v in p.items() if k != PACE})
        return {**inner, PACE: pace.exp() if self.form == "exp" else pace}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self._scaled("forward", t, y, p)

    def kick(self, t: Time, q: State, p: Params) -> State:
        return self._scaled("kick", t, q, p)

    def drift(self, t: Time, velocity: State, p: Params) -> State:
        return self._scaled("drift", t, velocity, p)

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """The part that is not stiff."""
        return self._scaled("explicit", t, y, p)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """The stiff part."""
        return self._scaled("implicit", t, y, p)

    def nonlinear(self, t: Time, y: State, p: Params) -> State:
        """w (f - L y)."""
        return self._scaled("nonlinear", t, y, p)

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """w df/dy."""
        return self._scaled("jacobian", t, y, p)

    def implicit_matrix(self, p: Params, y: State) -> Tensor | None:
        """w L in the precision of y where the stiff part is L y, else None."""
        known = getattr(self.field, "implicit_matrix", None)
        matrix = None if known is None else known(p, y)
        return None if matrix is None else p[PACE] * matrix

    def linear(self, p: Params) -> Tensor:
        """w L."""
        return p[PACE] * self.field.linear(p)  # type: ignore[operator]

    def energy(self, y: State, p: Params) -> Tensor:
        """That of the field: how fast time runs does not change what is kept."""
        return self.field.energy(y, p)  # type: ignore[operator]

    def _scaled(self, part: str, t: Time, y: State, p: Params) -> Tensor:
        return p[PACE] * getattr(self.field, part)(t, y, p)

    def stateful(self) -> str | None:
        """Why a recomputed evaluation would differ from the first one, or None."""
        return stateful(self.field)
