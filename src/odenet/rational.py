"""Exact coefficients of numerical methods: rationals, one radical, and decimals that know their last digit.

    exact("19372/6561")        Fraction
    exact("1/(2-cbrt(2))")     Root, an element of Q(2^(1/3))
    exact("0.161")             Fraction: a short decimal means what it says
    exact("0.335480655492357") Rounded: from 12 places on, known to half a unit of the last

`float()` works on all three. Text is parsed by a white-list of arithmetic and never evaluated.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Any, TypeAlias, Union

from .errors import BadInput

ROUNDED_FROM = 12  # places after the point from which a decimal is read as rounded
_EPS = 2.0**-53


@dataclass(frozen=True)
class Root:
    """c_0 + c_1 x + ... + c_{n-1} x^{n-1} with x = r^(1/n), r a positive integer without n-th power factor.

    Closed under + - * / with rationals and elements of the same field; another field raises BadInput.
    """

    coefficients: tuple[Fraction, ...]
    radicand: int
    degree: int

    def __float__(self) -> float:
        x = self.radicand ** (1.0 / self.degree)
        return math.fsum(float(c) * x**i for i, c in enumerate(self.coefficients))

    def __bool__(self) -> bool:
        return any(self.coefficients)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | Fraction):
            return self.coefficients[0] == other and not any(self.coefficients[1:])
        return isinstance(other, Root) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[Fraction, ...], int, int]:
        return self.coefficients, self.radicand, self.degree

    def _lift(self, other: Any) -> Root | None:
        if isinstance(other, Root):
            if (other.radicand, other.degree) != (self.radicand, self.degree):
                raise BadInput(
                    f"coefficients mix the roots {self.radicand}^(1/{self.degree}) and {other.radicand}^"
                    f"(1/{other.degree}); one root per method is kept exact, write the other as a decimal."
                )
            return other
        if isinstance(other, int | Fraction):
            return self._with((Fraction(other), *([Fraction(0)] * (self.degree - 1))))
        return None

    def _with(self, coefficients: tuple[Fraction, ...]) -> Root:
        return Root(coefficients, self.radicand, self.degree)

    def __add__(self, other: Any) -> Root:
        o = self._lift(other)
        if o is None:
            return NotImplemented
        return self._with(tuple(a + b for a, b in zip(self.coefficients, o.coefficients)))

    def __mul__(self, other: Any) -> Root:
        o = self._lift(other)
        if o is None:
            return NotImplemented
        out = [Fraction(0)] * self.degree
        for i, a in enumerate(self.coefficients):
            for j, b in enumerate(o.coefficients):
                out[(i + j) % self.degree] += a * b * (self.radicand if i + j >= self.degree else 1)
        return self._with(tuple(out))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Root:
        return self._with(tuple(-c for c in self.coefficients))

    def __sub__(self, other: Any) -> Root:
        return self + (-other) if self._lift(other) is not None else NotImplemented

    def __rsub__(self, other: Any) -> Root:
        return -self + other

    def __truediv__(self, other: Any) -> Root:
        o = self._lift(other)
        return self * o.inverse() if o is not None else NotImplemented

    def __rtruediv__(self, other: Any) -> Root:
        return self.inverse() * other

    def __pow__(self, n: int) -> Root:
        base = self if n >= 0 else self.inverse()
        one = self._with((Fraction(1), *([Fraction(0)] * (self.degree - 1))))
        return reduce(operator.mul, [base] * abs(n), one)

    def inverse(self) -> Root:
        """1 / self, from the linear system (multiplication by self) u = 1. Raises ZeroDivisionError at 0."""
        if not self:
            raise ZeroDivisionError("division by zero")
        n = self.degree
        x = self._with(tuple(Fraction(int(i == 1)) for i in range(n)))
        columns = [(self * x**j).coefficients for j in range(n)]
        matrix = [[columns[j][i] for j in range(n)] for i in range(n)]
        return self._with(tuple(solve(matrix, [Fraction(int(i == 0)) for i in range(n)])))


@dataclass(frozen=True)
class Rounded:
    """A real number known to lie within `radius` of `value`; arithmetic carries the radius along."""

    value: float
    radius: float

    def __float__(self) -> float:
        return self.value

    def __bool__(self) -> bool:
        return abs(self.value) > self.radius

    def __add__(self, other: Any) -> Rounded:
        o = rounded(other)
        value = self.value + o.value
        return Rounded(value, self.radius + o.radius + _EPS * abs(value))

    def __mul__(self, other: Any) -> Rounded:
        o = rounded(other)
        value = self.value * o.value
        spread = abs(self.value) * o.radius + abs(o.value) * self.radius + self.radius * o.radius
        return Rounded(value, spread + _EPS * abs(value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.radius)

    def __sub__(self, other: Any) -> Rounded:
        return self + (-other)

    def __rsub__(self, other: Any) -> Rounded:
        return -self + other

    def __truediv__(self, other: Any) -> Rounded:
        o = rounded(other)
        if not o:
            raise ZeroDivisionError("division by a number that may be zero")
        inverse = 1.0 / o.value
        return self * Rounded(inverse, o.radius * inverse**2 / (1 - o.radius * abs(inverse)) + _EPS * abs(inverse))

    def __rtruediv__(self, other: Any) -> Rounded:
        return rounded(other) / self

    def __pow__(self, n: int) -> Rounded:
        power = reduce(operator.mul, [self] * abs(n), Rounded(1.0, 0.0))
        return power if n >= 0 else 1 / power


Number: TypeAlias = Union[Fraction, Root, Rounded]  # noqa: UP007  (an alias of classes that are defined above)


def rounded(x: Any) -> Rounded:
    """`x` with the radius that storing it as a float costs."""
    if isinstance(x, Rounded):
        return x
    value = float(x)
    return Rounded(value, 0.0 if isinstance(x, int | Fraction) and x == value else _EPS * abs(value))


def solve(matrix: list[list[Any]], right: list[Any]) -> list[Any]:
    """Solution of a square linear system by Gauss-Jordan elimination in the arithmetic of its entries."""
    rows = [[*row, r] for row, r in zip(matrix, right)]
    n = len(rows)
    for i in range(n):
        pivot = next(j for j in range(i, n) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for j in range(n):
            if j != i and rows[j][i]:
                rows[j] = [v - rows[j][i] * w for v, w in zip(rows[j], rows[i])]
    return [row[n] for row in rows]


def root(value: Fraction, degree: int) -> Fraction | Root:
    """The real root value^(1/degree) of a positive rational, exactly, without n-th powers under the root."""
    if value <= 0:
        raise BadInput(f"a root of {value} was asked for; only roots of positive rationals are kept exact.")
    inner, outer = value.numerator * value.denominator ** (degree - 1), Fraction(1, value.denominator)
    factor = 2
    while factor**degree <= inner:
        while inner % factor**degree == 0:
            inner, outer = inner // factor**degree, outer * factor
        factor += 1
    if inner == 1:
        return outer
    return Root((Fraction(0), outer, *([Fraction(0)] * (degree - 2))), inner, degree)


@lru_cache(maxsize=4096)
def exact(text: str) -> Number:
    """The number that `text` denotes: rationals, + - * / ** , sqrt(.), cbrt(.) and decimals.

    Raises BadInput for anything else.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise BadInput(
            f'{text!r} is not a coefficient; write a rational "1/6", a root "sqrt(3)/6" or a decimal.'
        ) from None
    return _value(tree, text.strip())


def exact_row(text: str) -> tuple[Number, ...]:
    """Numbers separated by blanks: "1/6 1/6 2/3"."""
    return tuple(exact(word) for word in text.split())


def is_exact(x: Number) -> bool:
    """Whether `x` is a rational or a root rather than a rounded decimal."""
    return not isinstance(x, Rounded)


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.AST, text: str) -> Any:
    match node:
        case ast.Constant(value=bool() | complex() | str() | bytes()):
            pass
        case ast.Constant(value=int(n)):
            return Fraction(n)
        case ast.Constant(value=float()):
            return _decimal(ast.get_source_segment(text, node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(n))) if n <= 64:
            return _value(left, text) ** n
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _apply(type(op), _value(left, text), _value(right, text), text)
        case ast.Call(func=ast.Name(id="sqrt" | "cbrt" as which), args=[argument], keywords=[]):
            inner = _value(argument, text)
            if isinstance(inner, Fraction):
                return root(inner, 2 if which == "sqrt" else 3)
    raise BadInput(f'{text!r} is not a coefficient; write a rational "1/6", a root "sqrt(3)/6" or a decimal.')


def _apply(op: type, left: Any, right: Any, text: str) -> Any:
    try:
        return _OPERATORS[op](left, right)
    except ZeroDivisionError:
        raise BadInput(f"{text!r} divides by zero; a coefficient is a finite number.") from None


def _decimal(literal: str) -> Fraction | Rounded:
    value = Fraction(literal)
    mantissa, _, exponent = literal.lower().partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    if places < ROUNDED_FROM:
        return value
    return Rounded(float(value), 0.5 * 10.0**-places + _EPS * abs(float(value)))
