"""Order conditions: rooted trees for Runge-Kutta and splitting methods, power series for multistep methods.

Butcher's theorem: a Runge-Kutta method has order p iff b . Phi(t) = 1 / gamma(t) for every rooted tree t with
at most p vertices (Hairer, Norsett & Wanner, Solving ODEs I, theorem II.2.13). For a separable system
q' = g(p), p' = f(q) the vertices alternate between two colours (section II.15).
A tree is the sorted tuple of its subtrees; () is one vertex, printed "."; [..] is a root with two leaves.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, reduce
from typing import Any, TypeAlias

import numpy as np

from ..errors import ClaimRefused
from ..rational import Number, Rounded, is_exact, rounded

Tree: TypeAlias = tuple["Tree", ...]
Sparse: TypeAlias = list[list[tuple[int, Number]]]

_ULP = 2.0**-53


@cache
def trees(n: int) -> tuple[Tree, ...]:
    """Rooted trees with n vertices; there are 1, 1, 2, 4, 9, 20, 48, 115 for n = 1 ... 8."""
    if n == 1:
        return ((),)
    return tuple(sorted({grown for tree in trees(n - 1) for grown in _with_one_leaf_more(tree)}))


def _with_one_leaf_more(tree: Tree) -> Iterator[Tree]:
    yield tuple(sorted((*tree, ())))
    for i, child in enumerate(tree):
        for grown in _with_one_leaf_more(child):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :])))


@cache
def vertices(tree: Tree) -> int:
    """Number of vertices."""
    return 1 + sum(vertices(child) for child in tree)


@cache
def density(tree: Tree) -> int:
    """gamma(t): the product over all vertices of the number of vertices above and at each."""
    return vertices(tree) * math.prod(density(child) for child in tree)


@cache
def symmetry(tree: Tree) -> int:
    """sigma(t): the number of automorphisms."""
    return math.prod(symmetry(child) ** m * math.factorial(m) for child, m in Counter(tree).items())


def show(tree: Tree) -> str:
    """The tree in brackets: "." for a vertex, "[[.]]" for the tall tree with three."""
    return "[" + "".join(show(child) for child in tree) + "]" if tree else "."


@dataclass(frozen=True)
class Residual:
    """One order condition: what the coefficients give for a tree, and what it asks for."""

    condition: str
    value: Number
    wanted: Fraction
    symmetry: int = 1

    @property
    def holds(self) -> bool:
        return not self.value - self.wanted

    @property
    def weighted(self) -> float:
        return float(self.value - self.wanted) / self.symmetry


def sparse(matrix: Sequence[Sequence[Number]]) -> Sparse:
    """Rows as (column, entry) without the zeros."""
    return [[(j, a) for j, a in enumerate(row) if a] for row in matrix]


@dataclass(frozen=True)
class Spread:
    """A vector or matrix of numbers that lie within `radius` of `value`, entry by entry; the fast `Rounded`."""

    value: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[tuple[int, Number]]], width: int) -> Spread:
        """Sparse rows as a matrix (len(rows), width)."""
        value, radius = np.zeros((len(rows), width)), np.zeros((len(rows), width))
        for i, row in enumerate(rows):
            for j, a in row:
                near = rounded(a)
                value[i, j], radius[i, j] = near.value, near.radius
        return cls(value, radius)

    def __mul__(self, other: Spread) -> Spread:
        value, size, theirs = self.value * other.value, np.abs(self.value), np.abs(other.value)
        spread = size * other.radius + theirs * self.radius + self.radius * other.radius
        return Spread(value, spread + _ULP * np.abs(value))

    def __matmul__(self, other: Spread) -> Spread:
        size, theirs = np.abs(self.value), np.abs(other.value)
        spread = size @ other.radius + self.radius @ (theirs + other.radius)
        return Spread(self.value @ other.value, spread + len(theirs) * _ULP * (size @ theirs))


class TreeConditions:
    """Order conditions of one coefficient set.

    weights: one vector per colour; rows: one matrix per colour, whose row i holds the weights with which the
    vertices of the next colour enter stage i. One colour for a Runge-Kutta method, two for a splitting.
    Exact coefficients are kept exact; where one is rounded, so is every sum, with its radius.
    """

    def __init__(self, weights: Sequence[Sequence[Number]], rows: Sequence[Sparse], colours: Sequence[str] = ("",)):
        self._weights, self._rows, self._colours = weights, rows, colours
        self._stages: dict[tuple[Tree, int], Any] = {}
        self._sums: dict[tuple[Tree, int], Any] = {}
        numbers = [*(b for row in weights for b in row), *(a for matrix in rows for row in matrix for _, a in row)]
        self._matrices: list[Spread] | None = None
        if not all(is_exact(x) for x in numbers):
            above = [len(weights[(colour + 1) % len(rows)]) for colour in range(len(rows))]
            self._matrices = [Spread.of(matrix, n) for matrix, n in zip(rows, above)]

    def of_order(self, q: int) -> Iterator[Residual]:
        """The conditions of all trees with q vertices."""
        for tree in trees(q):
            for colour, word in enumerate(self._colours):
                name = f"the tree {show(tree)}" + (f" rooted at a {word}" if word else "")
                value = self.weigh(self._weights[colour], tree, colour)
                yield Residual(name, value, Fraction(1, density(tree)), symmetry(tree))

    def weigh(self, weights: Sequence[Number], tree: Tree, colour: int = 0) -> Number:
        """sum_i weights_i Phi_i(tree), for these or other weights on the stages."""
        phi = self._stage_values(tree, colour)
        if self._matrices is None:
            return sum((b * v for b, v in zip(weights, phi) if b and v), Fraction(0))
        total = Spread.of([[*enumerate(weights)]], len(weights)) @ phi
        return Rounded(float(total.value[0]), float(total.radius[0]))

    def _stage_values(self, tree: Tree, colour: int) -> Any:
        key = (tree, colour)
        if key not in self._stages:
            n = len(self._weights[colour])
            if self._matrices is None:
                columns = [[Fraction(1)] * n, *(self._sum_over(child, colour) for child in tree)]
                self._stages[key] = [math.prod(numbers) for numbers in zip(*columns)]
            else:
                one = Spread(np.ones(n), np.zeros(n))
                self._stages[key] = reduce(operator.mul, [self._sum_over(child, colour) for child in tree], one)
        return self._stages[key]

    def _sum_over(self, child: Tree, colour: int) -> Any:
        """For every stage the sum over those that `child` may be rooted at."""
        key = (child, colour)
        if key not in self._sums:
            inner = self._stage_values(child, (colour + 1) % len(self._rows))
            if self._matrices is None:
                self._sums[key] = [sum((a * inner[j] for j, a in row), Fraction(0)) for row in self._rows[colour]]
            else:
                self._sums[key] = self._matrices[colour] @ inner
        return self._sums[key]


def multistep_conditions(alpha: Sequence[Number], beta: Sequence[Number]) -> Callable[[int], Iterator[Residual]]:
    """C_q = sum_j j^q alpha_j / q! - sum_j j^(q-1) beta_j / (q-1)! = 0 (Hairer et al. I, theorem III.2.4).

    C_0 = 0 is listed with order 1.
    """

    def of_order(q: int) -> Iterator[Residual]:
        if q == 1:
            yield Residual("the condition C_0", sum(alpha, Fraction(0)), Fraction(0))
        yield Residual(f"the condition C_{q}", constant(q), Fraction(0))

    def constant(q: int) -> Any:
        left = sum((a * j**q for j, a in enumerate(alpha)), Fraction(0)) / math.factorial(q)
        return left - sum((b * j ** (q - 1) for j, b in enumerate(beta)), Fraction(0)) / math.factorial(q - 1)

    return of_order


def attained_order(of_order: Callable[[int], Iterator[Residual]], at_most: int = 8) -> int:
    """The largest p <= at_most such that all conditions up to p hold."""
    for q in range(1, at_most + 1):
        if not all(r.holds for r in of_order(q)):
            return q - 1
    return at_most


def refuse_unless(who: str, order: int, of_order: Callable[[int], Iterator[Residual]]) -> None:
    """Raise ClaimRefused unless `order` is exactly the order that the conditions give."""
    for q in range(1, order + 1):
        for r in of_order(q):
            if not r.holds:
                raise ClaimRefused(
                    f"{who} claims order {order}, but {r.condition} gives {float(r.value):.10g}, the order "
                    f"condition asks {r.wanted}; correct the coefficients"
                    f"{f' or write order={q - 1}' if q > 1 else ''}."
                )
    if all(r.holds for r in of_order(order + 1)):
        attained = attained_order(of_order)
        raise ClaimRefused(
            f"{who} claims order {order}, but its coefficients give order {attained}; write order={attained}."
        )


def root_condition(rho: Sequence[Number], double_at_one: bool = False) -> bool:
    """Whether all roots of rho lie in the closed unit disc, those on the circle simple (1 may be double)."""
    for _ in range(2 if double_at_one else 1):  # the principal root is divided out exactly: no rounding at 1
        rho = _without_root_at_one(rho)
    roots = np.roots([float(a) for a in reversed(rho)])
    on_circle = [z for z in roots if abs(abs(z) - 1) < 1e-9]
    twice = any(abs(z - w) < 1e-4 for i, z in enumerate(on_circle) for w in on_circle[:i])
    at_one = any(abs(z - 1) < 1e-9 for z in on_circle)
    return bool(np.all(np.abs(roots) < 1 + 1e-9)) and not twice and not at_one


def _without_root_at_one(rho: Sequence[Number]) -> list[Number]:
    quotient: list[Any] = []
    for a in reversed(rho[1:]):
        quotient.append(a + (quotient[-1] if quotient else 0))
    return list(reversed(quotient))
