"""Order conditions of exponential Runge-Kutta methods, whose coefficients are combinations of phi_k(c z).

Two functions phi_k(c z) with different (k, c) are linearly independent, so an identity between combinations holds iff
it holds coefficient by coefficient: stiff order, whatever the size of L, is decided exactly. Classical order is that
of a Runge-Kutta method whose weights are power series in z.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any, TypeAlias

from ..errors import BadInput
from ..rational import exact
from .order import Residual, Tree, density, show, trees

Combination: TypeAlias = dict[tuple[int, Fraction], Any]  # {(k, c): w} is the function sum w phi_k(c z)
Row: TypeAlias = Sequence[Combination]
HIGHEST = 6
_TERM = re.compile(r"([+-]?)(?:([^*()+-]+|\([^()]*\))\*)?phi(\d)\(([^()]+)\)")


@cache
def _parsed(text: str) -> tuple[tuple[tuple[int, Fraction], Any], ...]:
    bare = text.replace(" ", "")
    if bare == "0":
        return ()
    found, at = [], 0
    for match in _TERM.finditer(bare):
        sign, weight, k, c = match.groups()
        factor = exact(weight or "1") * (-1 if sign == "-" else 1)
        scale = exact(c)
        if match.start() != at or (at and not sign) or int(k) > HIGHEST or not isinstance(scale, Fraction):
            break
        found.append(((int(k), scale), factor))
        at = match.end()
    if at != len(bare) or not found:
        raise BadInput(
            f'{text!r} is not a combination of phi functions; write "phi1(1) - 3*phi2(1)", where phi2(1/2) stands for '
            f"phi_2(z/2) and the index is at most {HIGHEST}."
        )
    return tuple(found)


def combination(text: str) -> Combination:
    """The function that `text` denotes. Raises BadInput for another notation."""
    total: Combination = {}
    for key, weight in _parsed(text):
        total[key] = total.get(key, Fraction(0)) + weight
    return total


def taylor(function: Combination, k: int) -> Any:
    """The coefficient of z^k: phi_m(c z) has c^k / (k + m)!."""
    return sum((w * c**k / math.factorial(k + m) for (m, c), w in function.items()), Fraction(0))


def surplus(weights: Row, nodes: Sequence[Any], q: int, c: Any = Fraction(1)) -> Combination:
    """sum_j w_j(z) c_j^(q-1) / (q-1)! - c^q phi_q(c z): zero where weights are exact on N of degree q - 1 in t."""
    total: Combination = {(q, c): -(c**q)}
    for function, node in zip(weights, nodes):
        power = node ** (q - 1) if q > 1 else Fraction(1)
        for key, w in function.items():
            total[key] = total.get(key, Fraction(0)) + w * power / math.factorial(q - 1)
    return total


def coupling(weights: Row, rows: Sequence[Row], nodes: Sequence[Any]) -> dict[Any, Any]:
    """sum_i b_i(z) J psi_2i(z) with any operator J between, psi_2i the surplus of row i for q = 2.

    Products of independent functions vanish together only one by one.
    """
    total: dict[Any, Any] = {}
    for b, row, c in zip(weights[1:], rows[1:], nodes[1:]):
        for (left, w), (right, v) in product(b.items(), surplus(row, nodes, 2, c).items()):
            total[left, right] = total.get((left, right), Fraction(0)) + w * v
    return total


def _identity(name: str, difference: Combination) -> Iterator[Residual]:
    """That a combination vanishes: phi_k(c z) for different (k, c) are linearly independent."""
    for (k, c), w in difference.items():
        yield Residual(f"the surplus of phi_{k}({c} z) in {name}", w, Fraction(0))


def stage_conditions(rows: Sequence[Row], nodes: Sequence[Any]) -> Iterator[Residual]:
    """sum_j a_ij = c_i phi_1(c_i z): a stage is exact where L y + N is constant along it."""
    for i, (row, c) in enumerate(zip(rows, nodes)):
        if i:
            yield from _identity(f"row {i + 1} of a", surplus(row, nodes, 1, c))


class LinearisedConditions:
    """Stiff order, at most 4, of an exponential Rosenbrock method (Hochbruck, Ostermann & Schweitzer 2009).

    Order 2: the stage conditions, sum b_i = phi_1 and L = df/dy; orders 3 and 4: sum_i b_i c_i^(q-1) = (q-1)! phi_q.
    """

    def __init__(self, weights: Row, rows: Sequence[Row], nodes: Sequence[Any]) -> None:
        self._b, self._rows, self._nodes = weights, rows, nodes

    def of_order(self, q: int) -> Iterator[Residual]:
        """The conditions that order q adds."""
        if q == 1:
            yield from stage_conditions(self._rows, self._nodes)
        if q > 4:
            yield Residual(f"order {q}, which is not checked and", Fraction(1), Fraction(0))
        elif q != 2:
            yield from _identity(f"the weights of order {q}", surplus(self._b, self._nodes, q))


class ColouredConditions:
    """Classical order of a method about L: rooted trees with vertices of L, which have at most one child, and of N.

    The weight of every tree is 1 / gamma(t), as for the exact solution. k vertices of L below one of N take the
    coefficient of z^k of its weight; a chain of L alone is a term of e^(c z) (Hochbruck & Ostermann 2005, expanded).
    """

    def __init__(self, weights: Row, rows: Sequence[Row], nodes: Sequence[Any]) -> None:
        self._b, self._rows, self._nodes = weights, rows, nodes
        self._known: dict[Any, list[Any]] = {}

    def of_order(self, q: int) -> Iterator[Residual]:
        """The conditions of all coloured trees with q vertices."""
        if q == 1:
            yield from stage_conditions(self._rows, self._nodes)
            yield from _identity("the weights", surplus(self._b, self._nodes, 1))
        for tree in trees(q):
            for coloured in colourings(tree):
                value = self._value(self._b, Fraction(1), coloured)
                yield Residual(f"the tree {show(tree)} coloured {_word(coloured)}", value, Fraction(1, density(tree)))

    def _value(self, row: Row, c: Any, coloured: Any) -> Any:
        linear, nonlinear = 0, coloured
        while nonlinear is not None and nonlinear[0] == "L":
            linear, nonlinear = linear + 1, nonlinear[1][0] if nonlinear[1] else None
        if nonlinear is None:  # e^(cz) y
            return c**linear / Fraction(math.factorial(linear))
        return sum((taylor(w, linear) * v for w, v in zip(row, self._stages(nonlinear)) if v), Fraction(0))

    def _stages(self, vertex: Any) -> list[Any]:
        if vertex not in self._known:
            values: list[Any] = [Fraction(1)] * len(self._b)
            for child in vertex[1]:
                values = [v * self._value(row, c, child) for v, row, c in zip(values, self._rows, self._nodes)]
            self._known[vertex] = values
        return self._known[vertex]


@cache
def colourings(tree: Tree) -> tuple[Any, ...]:
    """The tree with every vertex ("L", children) or ("N", children), L with at most one child; duplicates once."""
    below = {tuple(sorted(choice)) for choice in product(*(colourings(child) for child in tree))}
    return tuple((kind, children) for kind in ("LN" if len(tree) < 2 else "N") for children in sorted(below))


def _word(coloured: Any) -> str:
    """The colours from the root upwards: "N(L N)"."""
    kind, children = coloured
    return kind + (f"({' '.join(map(_word, children))})" if children else "")
