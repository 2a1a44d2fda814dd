"""Expressions in unknown fields: what a residual written in plain Python becomes when it is traced.

Every node knows its derivatives, so that `(k * u.x).x` is meant as written; the leaves (unknown, derivative, place)
are all that a model has to supply. Torch's functions apply to expressions as they do to tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput

Index = tuple[int, ...]
ORDER = 4  # highest derivative that models carry


@dataclass(frozen=True)
class Frame:
    """The names that may stand in a residual: coordinates (space before time), unknowns, parameters, given data."""

    coordinates: tuple[str, ...]
    unknowns: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    given: tuple[str, ...] = ()  # columns that come with the points: components of the normal, "n_x", and measured data

    @property
    def spatial(self) -> tuple[str, ...]:
        """The coordinates other than time."""
        return tuple(c for c in self.coordinates if c != "t")

    def names(self) -> tuple[str, ...]:
        """Everything that a residual may ask for."""
        return (*self.unknowns, *self.coordinates, *self.parameters, *self.given)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(c) for c in sorted(self.coordinates, key=len, reverse=True)))

    def parse(self, name: str) -> tuple[str, ...]:
        """The coordinates in the name of a derivative: "xxt" -> (x, x, t), "x1_x2" -> (x1, x2). Raises BadInput."""
        found, rest = self._pattern.findall(name), self._pattern.sub("", name).replace("_", "")
        if rest or not found:
            raise BadInput(
                f"no derivative is called {name!r}: the coordinates are {', '.join(self.coordinates)}; write for "
                f"example u.{self.coordinates[0]} or u.{self.coordinates[0]}{'_' * (len(self.coordinates[0]) > 1)}"
                f"{self.coordinates[-1]}."
            )
        if len(found) > ORDER:
            raise BadInput(f"the derivative {name!r} has order {len(found)}; odenet carries derivatives up to {ORDER}.")
        return tuple(found)


class Expression:
    """A function of the coordinates, built of unknowns, their derivatives, coordinates and numbers.

    u.x, u.xx, u.xt (any expression, not only an unknown); u.at(t=0.5): the same at other places. Evaluated with
    `value`; differentiated with respect to a coordinate by `d`.
    """

    __slots__ = ("args", "frame", "function", "keywords")
    __array_priority__ = 1000  # numpy scalars leave arithmetic to us

    def __init__(self, frame: Frame, function: Any, args: tuple[Any, ...], keywords: Mapping[str, Any] | None = None):
        self.frame, self.function, self.args, self.keywords = frame, function, args, dict(keywords or {})

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Expression:
        frame = next(a.frame for a in _flat(args) if isinstance(a, Expression))
        if any(isinstance(a, list | tuple) for a in args):
            raise BadInput(
                f"torch.{getattr(function, '__name__', function)} joins fields, but a residual is one number at each "
                "point: write it in single fields, and return several equations as a tuple."
            )
        return Expression(frame, function, tuple(args), kwargs)

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__"):
            raise AttributeError(name)
        result = self
        for coordinate in self.frame.parse(name):
            result = result.d(coordinate)
        return result

    def d(self, coordinate: str) -> Expression:
        """The derivative with respect to one coordinate."""
        return derivative(self, coordinate)

    def at(self, **places: Any) -> Expression:
        """This expression with other values of the coordinates named: numbers or expressions. Raises BadInput."""
        for name in places:
            if name not in self.frame.coordinates:
                raise BadInput(f"at({name}=...): the coordinates are {', '.join(self.frame.coordinates)}.")
        return substituted(self, {k: constant(self.frame, v) for k, v in places.items()})

    def __bool__(self) -> bool:
        raise BadInput("a residual is traced once and cannot branch on values: write torch.where(condition, a, b).")

    def __iter__(self) -> Any:
        raise BadInput("an unknown field is one function; name several as unknowns=('u', 'v').")

    def __repr__(self) -> str:
        from .writing import written

        return written(self)

    def __add__(self, other: Any) -> Expression:
        return plus(self, constant(self.frame, other))

    def __radd__(self, other: Any) -> Expression:
        return plus(constant(self.frame, other), self)

    def __sub__(self, other: Any) -> Expression:
        return plus(self, -constant(self.frame, other))

    def __rsub__(self, other: Any) -> Expression:
        return plus(constant(self.frame, other), -self)

    def __mul__(self, other: Any) -> Expression:
        return times(self, constant(self.frame, other))

    def __rmul__(self, other: Any) -> Expression:
        return times(constant(self.frame, other), self)

    def __truediv__(self, other: Any) -> Expression:
        return Expression(self.frame, torch.div, (self, constant(self.frame, other)))

    def __rtruediv__(self, other: Any) -> Expression:
        return Expression(self.frame, torch.div, (constant(self.frame, other), self))

    def __pow__(self, other: Any) -> Expression:
        return Expression(self.frame, torch.pow, (self, other))

    def __rpow__(self, other: Any) -> Expression:
        return Expression(self.frame, torch.pow, (constant(self.frame, other), self))

    def __neg__(self) -> Expression:
        return times(constant(self.frame, -1.0), self)

    def __abs__(self) -> Expression:
        return Expression(self.frame, torch.abs, (self,))

    __lt__, __le__, __gt__, __ge__ = (
        lambda self, other, f=f: Expression(self.frame, f, (self, other))
        for f in (torch.lt, torch.le, torch.gt, torch.ge)
    )


# What stands in `function` where no torch function does; `args` then is the payload.
LEAF, COORDINATE, PARAMETER, GIVEN, CONSTANT = "leaf", "coordinate", "parameter", "given", "constant"


@dataclass(frozen=True)
class Leaf:
    """A derivative of an unknown, here or at another place: all that a model supplies.

    place: for each coordinate an Expression of its value there, or None for "here"
    """

    unknown: str
    index: Index
    place: tuple[Expression, ...] | None = None


def constant(frame: Frame, value: Any) -> Expression:
    """A number or a tensor of one number as an expression; expressions stay."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(value)
    if isinstance(value, Tensor) or not isinstance(value, int | float):
        try:
            value = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise BadInput(
                f"a residual met {type(value).__name__} where a number or a field is wanted; measured values belong "
                "into a data(...) condition."
            ) from None
    return Expression(frame, CONSTANT, (value,))


def is_constant(e: Expression, value: float) -> bool:
    """Whether this is that number."""
    return e.function == CONSTANT and e.args[0] == value


def plus(a: Expression, b: Expression) -> Expression:
    """a + b."""
    if is_constant(a, 0.0) or is_constant(b, 0.0):
        return b if is_constant(a, 0.0) else a
    return Expression(a.frame, torch.add, (a, b))


def times(a: Expression, b: Expression) -> Expression:
    """a b."""
    for one, other in ((a, b), (b, a)):
        if is_constant(one, 0.0):
            return one
        if is_constant(one, 1.0):
            return other
    return Expression(a.frame, torch.mul, (a, b))


# ---- differentiation -------------------------------------------------------------------------------------------------

RULES: dict[Any, Callable[..., Any]] = {  # of one argument: f'(a)
    torch.sin: torch.cos,
    torch.cos: lambda a: -torch.sin(a),
    torch.tan: lambda a: 1 + torch.tan(a) ** 2,
    torch.exp: torch.exp,
    torch.log: lambda a: 1 / a,
    torch.sqrt: lambda a: 0.5 / torch.sqrt(a),
    torch.tanh: lambda a: 1 - torch.tanh(a) ** 2,
    torch.sinh: torch.cosh,
    torch.cosh: torch.sinh,
    torch.atan: lambda a: 1 / (1 + a * a),
    torch.asinh: lambda a: 1 / torch.sqrt(1 + a * a),
    torch.square: lambda a: 2 * a,
    torch.neg: lambda a: constant(a.frame, -1.0),
    torch.abs: torch.sign,
    torch.sigmoid: lambda a: torch.sigmoid(a) * (1 - torch.sigmoid(a)),
    torch.reciprocal: lambda a: -1 / (a * a),
    torch.erf: lambda a: 1.1283791670955126 * torch.exp(-a * a),
    torch.sign: lambda a: constant(a.frame, 0.0),
}


def derivative(e: Expression, coordinate: str) -> Expression:
    """The derivative of an expression. Raises BadInput for a function without a rule."""
    frame, function, args = e.frame, e.function, e.args
    if function in (CONSTANT, PARAMETER, GIVEN):
        return constant(frame, 0.0)
    if function == COORDINATE:
        return constant(frame, float(args[0] == coordinate))
    if function == LEAF:
        return _of_leaf(e, coordinate)
    parts = [constant(frame, a) if isinstance(a, int | float) else a for a in args]
    if function in (torch.add, torch.sub) and not e.keywords:
        a, b = (derivative(p, coordinate) for p in parts)
        return plus(a, b if function is torch.add else -b)
    if function is torch.mul:
        a, b = parts
        return plus(times(derivative(a, coordinate), b), times(a, derivative(b, coordinate)))
    if function is torch.div:
        a, b = parts
        first, second = derivative(a, coordinate), derivative(b, coordinate)
        return plus(first / b if not is_constant(first, 0.0) else first, -times(second, a / (b * b)))
    if function is torch.pow:
        return _of_power(e, coordinate)
    if function in RULES:
        return times(RULES[function](parts[0]), derivative(parts[0], coordinate))
    if function is torch.where:
        test, a, b = parts
        return Expression(frame, torch.where, (test, derivative(a, coordinate), derivative(b, coordinate)))
    if all(is_constant(derivative(p, coordinate), 0.0) for p in parts if isinstance(p, Expression)):
        return constant(frame, 0.0)
    raise BadInput(
        f"odenet has no rule to differentiate {getattr(function, '__name__', function)}(...) by {coordinate}; "
        f"write the derivative out, or use one of: {', '.join(sorted(f.__name__ for f in RULES))}."
    )


def _of_power(e: Expression, coordinate: str) -> Expression:
    base, exponent = constant(e.frame, e.args[0]), constant(e.frame, e.args[1])
    inner, outer = derivative(base, coordinate), derivative(exponent, coordinate)
    result = constant(e.frame, 0.0)
    if not is_constant(inner, 0.0):
        result = times(times(exponent, Expression(e.frame, torch.pow, (base, exponent - 1))), inner)
    if not is_constant(outer, 0.0):
        result = plus(result, times(times(e, torch.log(base)), outer))  # type: ignore[arg-type]
    return result


def _of_leaf(e: Expression, coordinate: str) -> Expression:
    leaf: Leaf = e.args[0]
    frame = e.frame

    def raised(axis: int) -> Expression:
        index = tuple(k + (i == axis) for i, k in enumerate(leaf.index))
        if sum(index) > ORDER:
            raise BadInput(f"a derivative of order {sum(index)} of {leaf.unknown}; odenet carries up to {ORDER}.")
        return Expression(frame, LEAF, (Leaf(leaf.unknown, index, leaf.place),))

    if leaf.place is None:
        return raised(frame.coordinates.index(coordinate))
    total = constant(frame, 0.0)
    for axis, place in enumerate(leaf.place):
        speed = derivative(place, coordinate)
        if not is_constant(speed, 0.0):
            total = plus(total, times(speed, raised(axis)))
    return total


def substituted(e: Expression, places: Mapping[str, Expression]) -> Expression:
    """An expression with coordinates replaced by expressions."""
    if e.function == COORDINATE:
        return places.get(e.args[0], e)
    if e.function == LEAF:
        leaf: Leaf = e.args[0]
        old = leaf.place or tuple(Expression(e.frame, COORDINATE, (c,)) for c in e.frame.coordinates)
        return Expression(e.frame, LEAF, (Leaf(leaf.unknown, leaf.index, tuple(substituted(p, places) for p in old)),))
    if isinstance(e.function, str):
        return e
    return Expression(
        e.frame,
        e.function,
        tuple(substituted(a, places) if isinstance(a, Expression) else a for a in e.args),
        e.keywords,
    )


# ---- evaluation ------------------------------------------------------------------------------------------------------


def leaves(e: Expression | Iterable[Expression]) -> tuple[Leaf, ...]:
    """All leaves, each once, in the order met."""
    found: dict[tuple[Any, ...], Leaf] = {}
    for node in _nodes(e):
        if node.function == LEAF:
            leaf = node.args[0]
            found.setdefault(key(leaf), leaf)
    return tuple(found.values())


def used(e: Expression | Iterable[Expression], kind: str) -> set[str]:
    """Names of the parameters, coordinates or given columns that occur."""
    return {node.args[0] for node in _nodes(e) if node.function == kind}


def key(leaf: Leaf) -> tuple[Any, ...]:
    """What makes two leaves the same: unknown, derivative and place."""
    return (leaf.unknown, leaf.index, None if leaf.place is None else tuple(_form(p) for p in leaf.place))


def _form(e: Any) -> Any:
    """What makes two expressions the same."""
    if not isinstance(e, Expression):
        return e
    if e.function == LEAF:
        return key(e.args[0])
    return (e.function, *map(_form, e.args), *sorted(e.keywords.items()))


def value(e: Expression, env: Mapping[Any, Tensor | float], memo: dict[int, Any] | None = None) -> Any:
    """The expression with leaves (by `key`), coordinates, parameters and given columns taken from `env`."""
    memo = {} if memo is None else memo
    if id(e) not in memo:
        if e.function == CONSTANT:
            memo[id(e)] = e.args[0]
        elif e.function == LEAF:
            memo[id(e)] = env[key(e.args[0])]
        elif isinstance(e.function, str):
            memo[id(e)] = env[e.args[0]]
        else:
            args = [value(a, env, memo) if isinstance(a, Expression) else a for a in e.args]
            if not any(isinstance(a, Tensor) for a in args):
                args = [torch.as_tensor(a, dtype=torch.float64) if isinstance(a, float | int) else a for a in args]
            memo[id(e)] = e.function(*args, **e.keywords)
    return memo[id(e)]


def terms(e: Expression) -> list[Expression]:
    """The summands of an expression: their sizes are the scale of a residual."""
    if e.function is torch.add and not e.keywords:
        return [t for a in e.args for t in (terms(a) if isinstance(a, Expression) else [])]
    return [e]


def _flat(args: Any) -> Iterable[Any]:
    for a in args:
        yield from _flat(a) if isinstance(a, list | tuple) else (a,)


def _nodes(e: Expression | Iterable[Expression]) -> Iterable[Expression]:
    stack, seen = [e] if isinstance(e, Expression) else list(e), set()
    while stack:
        node = stack.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        stack += [a for a in _flat(node.args) if isinstance(a, Expression)]
        if node.function == LEAF and node.args[0].place is not None:
            stack += list(node.args[0].place)
