"""The right-hand side f(t, y; p) of y' = f: what every field is and what it may offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible
from ..types import Params, State, Time

OFFERS = {
    "separable": "y = (q, p) with q' = drift(t, p), p' = kick(t, q)",
    "second_order": "y'' = f(t, y)",
    "split": "f = explicit(t, y) + implicit(t, y), the second part stiff",
    "linear": "f = L y + nonlinear(t, y) with a matrix L = linear(p)",
    "noise": "dy = f dt + diffusion(t, y) dW",
    "jacobian": "df/dy in closed form",
    "energy": "a function of y that the exact flow keeps",
    "lipschitz": "an upper bound of the Lipschitz constant of f in y",
    "lognorm": "an upper bound of the logarithmic 2-norm of df/dy",
    "step": "an upper bound of the Lipschitz constant of y + h f(t, y)",
    "monotone": "<f(u) - f(v), u - v> <= -|f(u) - f(v)|^2 / c with c = lipschitz_bound",
    "potential": "f = -grad Phi",
    "exact": "the exact solution",
}


class Field(nn.Module, ABC):
    """f(t, y; p) with its weights p passed in: the same field serves every step, any depth and any integrator.

    A field holds no weights. `init` makes one set of them, `constrain` turns stored weights into effective ones (and
    works on stacks of sets: leading axes are passed through), `forward` writes nothing.

    offers:      subset of OFFERS; where one is not offered, its methods are absent or raise Incompatible
        separable      kick(t, q, p) = dp/dt,  drift(t, p_, p) = dq/dt
        split          explicit(t, y, p), implicit(t, y, p) with sum f; where the second is G y with a closed inverse,
                       implicit_solve(scale, y, p) = (I - scale G)^-1 y
        linear         linear(p) -> (D, D) or (D,) for a diagonal, nonlinear(t, y, p) with linear y + nonlinear = f
        noise          diffusion(t, y, p), see fields.Noisy
        jacobian       jacobian(t, y, p) -> (B, D, D), or (D, D) for a state (D,)
        energy         energy(y, p) -> (B,)
        lipschitz      lipschitz_bound(p) -> scalar;     lognorm: lognorm_bound(p) -> scalar
        step           step_bound(h, p) -> scalar
        potential      potential(y, p, t=0.0) -> (B,);   exact: exact(t, y0) -> state
    axis:        axis of features or channels; a separable state is split into halves along it
    statistics:  names in `init` that are never trained: running statistics, refreshed by `calibrate`, or fixed data
    dropout:     probability with which an entry of f is dropped for one knot interval in training
    controls:    names in p that are data and not weights: given to the flow in every call
    """

    offers: frozenset[str] = frozenset()
    axis: int = -1
    statistics: frozenset[str] = frozenset()
    dropout: float = 0.0
    controls: tuple[str, ...] = ()

    @abstractmethod
    def init(self, generator: torch.Generator | None = None) -> Params:
        """Names, shapes and initial values of one set of weights."""

    @abstractmethod
    def forward(self, t: Time, y: State, p: Params) -> State:
        """f(t, y; p), the shape of y."""

    def constrain(self, p: Params) -> Params:
        """Effective weights from stored ones; the identity unless the field has a constraint."""
        return p

    def require(self, offer: str) -> None:
        """Raise Incompatible unless `offer` is among the offers: asked by methods that serve some settings only."""
        if offer not in self.offers:
            raise Incompatible(
                f"this {type(self).__name__} offers {', '.join(sorted(self.offers)) or 'nothing'}, so no {offer} "
                f"({OFFERS[offer]}); its activation, norm or number of layers does not allow it."
            )

    def split(self, y: State) -> tuple[State, State]:
        """The halves (q, p) of the state along `axis`."""
        width = y.shape[self.axis]
        if width % 2:
            raise BadInput(f"{type(self).__name__} splits its state into two halves, but the state has width {width}.")
        q, p = y.split(width // 2, dim=self.axis)
        return q, p

    def join(self, q: State, p: State) -> State:
        """The state from its halves."""
        return torch.cat((q, p), dim=self.axis)


def probability(dropout: float) -> float:
    """A dropout rate; raises BadInput outside [0, 1)."""
    if not 0.0 <= dropout < 1.0:
        raise BadInput(f"dropout is a probability in [0, 1), got {dropout}.")
    return dropout


def halved(dim: int, what: str, parts: str) -> int:
    """Half of the width of `what`, whose state is in two `parts`. Raises BadInput for an odd width."""
    if not isinstance(dim, int) or dim < 2 or dim % 2:
        raise BadInput(f"{what} got width {dim!r}; its state is two halves {parts}, so the width is even, such as 64.")
    return dim // 2


def normal(shape: tuple[int, ...], std: float, generator: torch.Generator | None) -> Tensor:
    """Independent N(0, std^2) entries in the default dtype."""
    return torch.randn(shape, generator=generator) * std


def driven_by(p: Params, y: State) -> Tensor:
    """The input u of the samples in y; given for P samples it serves k P states, copy after copy."""
    u = p["u"]
    return u if len(u) == len(y) else u.repeat(len(y) // len(u), *[1] * (u.dim() - 1))


def stateful(field: Field) -> str | None:
    """Why a recomputed evaluation of `field` would differ from the first one, or None: wrapped modules may say so."""
    ask: Callable[[], str | None] | None = getattr(field, "stateful", None)
    return ask() if ask is not None else None


class FirstOrder(Field):
    """y'' = f(t, y) as the first-order system (y, v)' = (v, f): separable, state of twice the width."""

    offers = frozenset({"separable"})

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.axis = field.axis
        self.statistics = field.statistics
        self.dropout = field.dropout
        if "potential" in field.offers:
            self.offers = self.offers | {"energy"}

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.field.init(generator)

    def constrain(self, p: Params) -> Params:
        return self.field.constrain(p)

    def forward(self, t: Time, y: State, p: Params) -> State:
        position, velocity = self.split(y)
        return self.join(velocity, self.field(t, position, p))

    def kick(self, t: Time, q: State, p: Params) -> State:
        return self.field(t, q, p)

    def drift(self, t: Time, velocity: State, p: Params) -> State:
        return velocity

    def stateful(self) -> str | None:
        """Why a recomputed evaluation would differ from the first one, or None."""
        return stateful(self.field)

    def energy(self, y: State, p: Params) -> Tensor:
        """|v|^2/2 + Phi(y), kept by the exact flow while the weights do not vary with t; shape (B,)."""
        self.require("energy")
        position, velocity = self.split(y)
        return 0.5 * (velocity**2).flatten(1).sum(1) + self.field.potential(position, p)  # type: ignore[operator]
