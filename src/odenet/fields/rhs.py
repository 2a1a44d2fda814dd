"""A field with its weights bound for one knot interval: the f(t, y) that an integrator sees."""

from __future__ import annotations

from collections import Counter, UserDict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import BadInput, Incompatible
from ..types import Params, State, Time
from .base import Field


class Rhs:
    """f(t, y) of one knot interval, with the offered parts, counting its evaluations.

    weights:    the parameters, or a function of t where they vary inside the interval
    mask:       dropout mask of the interval, multiplied onto f (None: no dropout)
    halves:     evaluations counted in halves, because a kick or a drift is half a field
    counts:     what else methods did: "jacobians", "newton" iterations, "lu" factorisations
    workspace:  where a method keeps what may be reused and never changes a result beyond its tolerance
                (a Jacobian and its factors); one per run
    tolerance:  (rtol, atol) of an adaptive run, else None: then stage equations are solved to rounding
    path:       the Brownian path of a stochastic run, else None
    jacobian:   df/dy in closed form where the field offers one, else None
    tape:       where solutions of implicit stages are noted, or read again, else None
    """

    __slots__ = (
        "_at", "_call", "_fixed", "_unseen", "counts", "field", "halves", "jacobian", "join", "mask", "path", "split",
        "tape", "tolerance", "workspace",
    )  # fmt: skip

    def __init__(
        self,
        field: Field,
        weights: Params | Callable[[Time], Params],
        mask: Tensor | None = None,
        tolerance: tuple[float, float] | None = None,
        workspace: dict[str, Any] | None = None,
        path: Any = None,
    ) -> None:
        self.field = field
        self._fixed: Params | None = None if callable(weights) else weights
        self._at = weights if callable(weights) else None
        direct = getattr(field, "direct", None)
        self._call: Callable[[Time, State], State] | None = direct(weights) if direct and self._at is None else None
        self._unseen = True
        self.mask = mask
        self.split = field.split
        self.join = field.join
        self.halves = 0
        self.counts: Counter[str] = Counter()
        self.tolerance = tolerance
        self.workspace: dict[str, Any] = {} if workspace is None else workspace
        self.path = path
        self.tape: Any = None
        self.jacobian = self._jacobian if "jacobian" in field.offers and mask is None else None

    def weights(self, t: Time) -> Params:
        return self._fixed if self._fixed is not None else self._at(t)  # type: ignore[misc]

    def __call__(self, t: Time, y: State) -> State:
        """f(t, y). Raises BadInput where the first value has another shape, dtype or device than y."""
        self.halves += 2
        if self._call is not None:
            f = self._call(t, y)
        else:
            f = self.field(t, y, self._fixed if self._fixed is not None else self._at(t))  # type: ignore[misc]
        if self._unseen:
            self._unseen = False
            check_value(f, y, self.field)
        return f if self.mask is None else f * self.mask

    def kick(self, t: Time, q: State) -> State:
        self.halves += 1
        f = self.field.kick(t, q, self.weights(t))  # type: ignore[operator]
        return f if self.mask is None else f * self.split(self.mask)[1]

    def drift(self, t: Time, p: State) -> State:
        self.halves += 1
        f = self.field.drift(t, p, self.weights(t))  # type: ignore[operator]
        return f if self.mask is None else f * self.split(self.mask)[0]

    def explicit(self, t: Time, y: State) -> State:
        """The part of a split field that is not stiff."""
        return self._part("explicit", t, y)

    def implicit(self, t: Time, y: State) -> State:
        """The stiff part of a split field."""
        return self._part("implicit", t, y)

    def nonlinear(self, t: Time, y: State) -> State:
        """f - L y of a field with a linear part."""
        return self._part("nonlinear", t, y)

    def potential(self, t: Time, y: State) -> Tensor:
        """Phi of a field f = -grad Phi, (B,). Raises Incompatible for another one."""
        if "potential" not in self.field.offers:
            raise Incompatible(
                f"{type(self.field).__name__} offers no potential Phi with f = -grad Phi; take fields.Parabolic(width) "
                "or fields.Descent(Phi)."
            )
        return self.field.potential(y, self.weights(t), t)  # type: ignore[operator]

    def linear(self) -> Tensor:
        """L, (D, D), or (D,) where it is diagonal. Raises Incompatible where it varies in a step, or under a mask."""
        if self.mask is not None:
            raise Incompatible(
                "dropout switches entries of the slope off, so the linear part of the field is not L any more; set "
                'dropout to 0, or use a method that does not take L apart, such as "kvaerno5" or "rk4".'
            )
        weights: Any = self._fixed
        if self._at is not None:
            first, later = self._at(0.0), self._at(1.0)
            weights = _Steady(first, {k for k in first if first[k] is not later[k]})
        return self.field.linear(weights)  # type: ignore[operator]

    def diffusion(self, t: Time, y: State) -> Tensor:
        """The coefficient of dW."""
        return self.field.diffusion(t, y, self.weights(t))  # type: ignore[operator]

    def _part(self, name: str, t: Time, y: State) -> State:
        self.halves += 1
        f = getattr(self.field, name)(t, y, self.weights(t))
        return f if self.mask is None else f * self.mask

    def _jacobian(self, t: Time, y: State) -> Tensor:
        return self.field.jacobian(t, y, self.weights(t))  # type: ignore[operator]


class _Steady(UserDict[str, Tensor]):
    """Weights of which some vary inside the interval: L may not be made of those."""

    def __init__(self, weights: Params, moving: set[str]) -> None:
        self.moving: set[str] = set()
        super().__init__(weights)
        self.moving = moving

    def __getitem__(self, key: str) -> Tensor:
        if key in self.moving:
            raise Incompatible(
                f"the linear part of the field is made of the weight {key!r}, which varies inside a step, but "
                'exponential methods take L as constant in it; give that weight depth "per_step" or "shared", or use '
                'an implicit method such as "kvaerno5".'
            )
        return super().__getitem__(key)


def check_value(f: Any, y: State, field: Field) -> None:
    """Raise BadInput unless f looks like y: a value of another shape would be broadcast into a wrong result."""
    who = getattr(getattr(field, "inner", None), "__name__", type(field).__name__)
    if not isinstance(f, Tensor):
        raise BadInput(f"the right-hand side {who} returned a {type(f).__name__}; return a tensor of the shape of y.")
    if f.shape != y.shape:
        raise BadInput(
            f"the right-hand side {who} returned shape {tuple(f.shape)} for a state of shape {tuple(y.shape)}; the two "
            "are the same, since y' = f(t, y)."
        )
    if f.dtype != y.dtype:
        raise BadInput(
            f"the right-hand side {who} returned {f.dtype} for a state of {y.dtype}; make y0 {f.dtype}, or the "
            f"tensors inside f {y.dtype}."
        )
    if f.device != y.device:
        raise BadInput(
            f"the right-hand side {who} returned a tensor on {f.device} for a state on {y.device}; move one of them."
        )
