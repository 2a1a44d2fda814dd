"""What a solution must satisfy beside its equation: values, fluxes, periodicity, initial states, data, integrals.

A condition is data: a residual to trace, where it holds, its weight, and whether the model satisfies it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import BadInput
from ..fields import jets
from .expressions import COORDINATE, GIVEN, LEAF, Expression, Frame, Leaf, constant, times
from .operators import normal_derivative, time_derivative, trace

Kind = Literal["dirichlet", "neumann", "robin", "periodic", "initial", "operator", "data", "integral"]
Builder = Callable[[Frame], list[Expression]]


@dataclass(frozen=True)
class Condition:
    """One condition.

    kind:     what it is, for messages and for methods that treat some kinds exactly
    build:    its residuals, expressions in the unknowns that vanish where it holds
    on:       the name of a boundary piece, or several; None where `points` say
    points:   (N, d) fixed places, with `columns` of given numbers by name
    weight:   of its squared residual in the loss; the residual itself is never scaled
    hard:     True: the model satisfies it by construction (an error if it cannot); False: never; None: as the method
              likes
    unknown, value, order:  of conditions on one unknown: order 1 of "initial" is u_t, of "periodic" the highest
              derivative that matches
    quadrature: the residual is one number, the integral over `on` or over the domain minus the value
    """

    kind: Kind
    build: Builder
    on: str | tuple[str, ...] | None = None
    points: Tensor | None = None
    columns: tuple[tuple[str, Tensor], ...] = ()
    weight: float = 1.0
    hard: bool | None = None
    unknown: str | None = None
    value: Any = 0.0
    order: int = 0
    axis: str | None = None
    quadrature: bool = False

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise BadInput(f"the weight of a condition is positive, got {self.weight!r}; leave the condition out.")

    @property
    def pieces(self) -> tuple[str, ...]:
        """The boundary pieces it holds on."""
        return (self.on,) if isinstance(self.on, str) else tuple(self.on or ())

    @property
    def title(self) -> str:
        """Kind, unknown and, of initial values of derivatives, the order: "initial(u, order=1)"."""
        order = f"order={self.order}" if self.kind == "initial" and self.order else ""
        inside = ", ".join(s for s in (self.unknown, order) if s)
        return f"{self.kind}({inside})" if inside else self.kind

    def __repr__(self) -> str:
        return self.title + (f" on {', '.join(self.pieces)}" if self.on else "")


def dirichlet(
    value: Any = 0.0,
    on: str | Sequence[str] = "boundary",
    unknown: str | None = None,
    hard: bool | None = None,
    weight: float = 1.0,
) -> Condition:
    """u = value on a piece of the boundary; value: a number or a function of coordinates and parameters."""
    return Condition(
        "dirichlet", _value(value, unknown), _on(on), weight=weight, hard=hard, unknown=unknown, value=value
    )


def neumann(
    value: Any = 0.0, on: str | Sequence[str] = "boundary", unknown: str | None = None, weight: float = 1.0
) -> Condition:
    """n . grad u = value, n the outward normal."""
    return robin(0.0, 1.0, value, on, unknown, weight, kind="neumann")


def robin(
    a: float,
    b: float,
    value: Any = 0.0,
    on: str | Sequence[str] = "boundary",
    unknown: str | None = None,
    weight: float = 1.0,
    *,
    kind: Literal["robin", "neumann"] = "robin",
) -> Condition:
    """a u + b n . grad u = value, n the outward normal."""

    def build(frame: Frame) -> list[Expression]:
        u = _unknown(frame, unknown)
        return [times(constant(frame, a), u) + b * normal_derivative(u) - number(value, frame)]

    return Condition(kind, build, _on(on), weight=weight, unknown=unknown, value=value)


def periodic(
    axis: str = "x", order: int = 1, unknown: str | None = None, hard: bool | None = None, weight: float = 1.0
) -> Condition:
    """u and its derivatives by `axis` up to `order` agree at both ends of that axis; for all unknowns if None is named.

    hard (the default of every method where all conditions allow it): the model is a function on the circle.
    """

    def build(frame: Frame) -> list[Expression]:
        if axis not in frame.coordinates:
            raise BadInput(f"periodic({axis!r}): the coordinates are {', '.join(frame.coordinates)}.")
        rows = []
        for name in (unknown,) if unknown else frame.unknowns:
            u = _unknown(frame, name)
            for _ in range(order + 1):
                rows.append(u - u.at(**{axis: Expression(frame, GIVEN, (f"other_{axis}",))}))
                u = u.d(axis)
        return rows

    return Condition("periodic", build, None, weight=weight, hard=hard, unknown=unknown, order=order, axis=axis)


def initial(
    value: Any = 0.0, unknown: str | None = None, order: int = 0, hard: bool | None = None, weight: float = 1.0
) -> Condition:
    """u = value at the first time; order=1: u_t = value, order=2: u_tt = value."""
    if order not in (0, 1, 2, 3):
        raise BadInput(f"initial(order={order!r}): 0 gives u, 1 gives u_t, and so on up to 3.")

    def build(frame: Frame) -> list[Expression]:
        return [time_derivative(_unknown(frame, unknown), order) - number(value, frame)]

    return Condition("initial", build, "initial", weight=weight, hard=hard, unknown=unknown, value=value, order=order)


def operator(residual: Callable[..., Any], on: str | Sequence[str] = "boundary", weight: float = 1.0) -> Condition:
    """residual = 0 on a piece: any expression, with n_x, n_y, ... the outward normal; systems return a tuple."""
    return Condition("operator", lambda frame: trace(residual, frame, "the condition"), _on(on), weight=weight)


def data(
    points: Any,
    values: Any,
    unknown: str | None = None,
    of: Callable[..., Any] | None = None,
    weight: float = 1.0,
) -> Condition:
    """Measured values (N,) at points (N, d), of an unknown or of an expression `of` in unknowns. Raises BadInput."""
    x, v = torch.as_tensor(points, dtype=torch.float64), torch.as_tensor(values, dtype=torch.float64)
    x = x[:, None] if x.ndim == 1 else x
    if v.shape != x.shape[:1]:
        raise BadInput(f"data: one value for each of the {len(x)} points, (N,); got {tuple(v.shape)}.")
    if not (torch.isfinite(x).all() and torch.isfinite(v).all()):
        bad = int((~torch.isfinite(v) | ~torch.isfinite(x).all(1)).nonzero()[0])
        raise BadInput(f"data: row {bad} is not finite; drop the rows without a measurement.")

    def build(frame: Frame) -> list[Expression]:
        seen = [_unknown(frame, unknown)] if of is None else trace(of, frame, "what is measured")
        return [e - Expression(frame, GIVEN, ("data",)) for e in seen]

    return Condition("data", build, None, points=x, columns=(("data", v),), weight=weight, unknown=unknown)


def integral_is(value: float, of: Callable[..., Any], on: str | None = None, weight: float = 1.0) -> Condition:
    """The integral of an expression over the domain (or a piece) is `value`: the mean of a pressure, a mass."""
    return Condition(
        "integral",
        lambda frame: trace(of, frame, "what is integrated"),
        on,
        weight=weight,
        value=value,
        quadrature=True,
    )


def interface(
    inner: str, outer: str, on: str, jump: Any = 0.0, flux: tuple[Any, Any] = (1.0, 1.0), weight: float = 1.0
) -> Condition:
    """inner - outer = jump and k1 n . grad inner = k2 n . grad outer on a piece: two materials; flux = (k1, k2)."""

    def build(frame: Frame) -> list[Expression]:
        u, v = _unknown(frame, inner), _unknown(frame, outer)
        k1, k2 = (number(k, frame) for k in flux)
        return [u - v - number(jump, frame), k1 * normal_derivative(u) - k2 * normal_derivative(v)]

    return Condition("operator", build, on, weight=weight)


def on_points(condition: Condition, points: Tensor) -> Condition:
    """The same condition at fixed places (N, d) instead of a piece."""
    return replace(condition, on=None, points=torch.as_tensor(points, dtype=torch.float64))


@dataclass(frozen=True)
class Known:
    """A value given by channels instead of a formula: a solution at one time, or its `order`-th derivative there.

    jet(x (N, d), channels) -> (C, N, m), of which column `unknown` counts. Where a method needs derivatives of the
    value in space it takes them from there, so that a time window may start from the solution of the one before.
    """

    jet: Callable[..., Tensor]
    unknown: int
    time: float
    order: int = 0

    def expression(self, frame: Frame) -> Expression:
        """The value as an expression of the coordinates."""
        columns = tuple(Expression(frame, COORDINATE, (c,)) for c in frame.coordinates)
        return Expression(frame, self._at, columns)

    def _at(self, *columns: Tensor) -> Tensor:
        carrier = next((c for c in columns if isinstance(c, jets.Jet)), None)
        values = [c.parts[0] if isinstance(c, jets.Jet) else torch.as_tensor(c, dtype=torch.float64) for c in columns]
        size = max(v.numel() for v in values)
        x = torch.stack([v.expand(size) for v in values], -1)
        x[:, -1] = self.time
        if carrier is None:
            return self.jet(x, [(0,) * (len(columns) - 1) + (self.order,)])[0][:, self.unknown]
        moved = [(*index[:-1], self.order) for index in carrier.channels]
        parts = self.jet(x, moved)[..., self.unknown]
        still = torch.tensor([float(index[-1] == 0) for index in carrier.channels], dtype=parts.dtype)
        return jets.Jet(parts * still[:, None], carrier.channels)


def number(value: Any, frame: Frame) -> Expression:
    """A number, a function of coordinates and parameters by name, or a `Known` one, as an expression."""
    if isinstance(value, Known):
        return value.expression(frame)
    if callable(value):
        found = trace(value, Frame(frame.coordinates, (), frame.parameters, frame.given), "the value of a condition")
        if len(found) != 1:
            raise BadInput(f"the value of a condition is one expression, got {len(found)}.")
        return _in(found[0], frame)
    return constant(frame, value)


def _in(e: Expression, frame: Frame) -> Expression:
    args = tuple(_in(a, frame) if isinstance(a, Expression) else a for a in e.args)
    return Expression(frame, e.function, args, e.keywords)


def _unknown(frame: Frame, name: str | None) -> Expression:
    if name is None and len(frame.unknowns) > 1:
        raise BadInput(f"this problem has the unknowns {', '.join(frame.unknowns)}; say unknown={frame.unknowns[0]!r}.")
    name = frame.unknowns[0] if name is None else name
    if name not in frame.unknowns:
        raise BadInput(f"a condition names the unknown {name!r}; there are: {', '.join(frame.unknowns)}.")
    return Expression(frame, LEAF, (Leaf(name, (0,) * len(frame.coordinates)),))


def _value(value: Any, unknown: str | None) -> Builder:
    return lambda frame: [_unknown(frame, unknown) - number(value, frame)]


def _on(on: str | Sequence[str]) -> str | tuple[str, ...]:
    return on if isinstance(on, str) else tuple(on)


__all__ = [
    "Condition", "data", "dirichlet", "initial", "integral_is", "interface", "neumann", "number",
    "on_points", "operator", "periodic", "robin",
]  # fmt: skip
