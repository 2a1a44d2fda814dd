"""What the coefficients of an implicit Runge-Kutta method imply, in exact arithmetic where they are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from ..rational import Number, Root
from .polynomials import add, multiply, stays_nonpositive_until, trim

Matrix: TypeAlias = Sequence[Sequence[Any]]


def characteristic(a: Matrix) -> list[Any]:
    """Coefficients of det(I - z A), from the constant upwards (Faddeev & Le Verrier)."""
    n = len(a)
    if all(not a[i][j] for i in range(n) for j in range(i + 1, n)):  # triangular: the product over the diagonal
        return _without_zeros(_product([[Fraction(1), -a[i][i]] for i in range(n)]))
    coefficients: list[Any] = [Fraction(1)]
    m: list[list[Any]] = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    for k in range(1, n + 1):
        am = [[_dot(row, column) for column in zip(*m)] for row in a]
        trace = sum((am[i][i] for i in range(n)), Fraction(0))
        coefficients.append(-trace / k)
        m = [[am[i][j] + (coefficients[-1] if i == j else 0) for j in range(n)] for i in range(n)]
    return _without_zeros(coefficients)


def _product(factors: list[list[Any]]) -> list[Any]:
    out: list[Any] = [Fraction(1)]
    for constant, linear in factors:
        out = [
            (out[i] * constant if i < len(out) else 0) + (out[i - 1] * linear if i else 0) for i in range(len(out) + 1)
        ]
    return out


def _dot(row: Any, column: Any) -> Any:
    return sum((a * b for a, b in zip(row, column)), Fraction(0))


def _without_zeros(p: list[Any]) -> list[Any]:
    while len(p) > 1 and not p[-1]:
        p.pop()
    return p


def stability_fraction(a: Matrix, b: Sequence[Number]) -> tuple[list[Any], list[Any]]:
    """P and Q of R(z) = det(I - z A + z 1 b^T) / det(I - z A), from the constants upwards."""
    return characteristic([[x - w for x, w in zip(row, b)] for row in a]), characteristic(a)


def at_infinity(p: list[Any], q: list[Any]) -> float:
    """R(inf) = lim P / Q."""
    if len(p) != len(q):
        return 0.0 if len(p) < len(q) else math.inf
    return float(p[-1] / q[-1])


def _rational(x: Any) -> Fraction:
    """The number itself where it is rational, else its float read exactly."""
    if isinstance(x, Root) and not any(x.coefficients[1:]):
        return x.coefficients[0]
    return x if isinstance(x, Fraction) else Fraction(float(x))


def _modulus_on_axis(p: list[Any]) -> list[Any]:
    """|p(iy)|^2 as a polynomial in y^2."""
    n = len(p)
    return [
        sum(
            ((-1) ** ((j + k) % 2) * p[j] * p[2 * k - j] for j in range(max(0, 2 * k - n + 1), min(2 * k, n - 1) + 1)),
            0 * p[0],
        )
        for k in range(n)
    ]


def imaginary_interval(p: list[Any], q: list[Any], order: int) -> float:
    """Largest y with |R| <= 1 on [0, iy], from E(y) = |Q(iy)|^2 - |P(iy)|^2 (Hairer & Wanner II, section IV.3).

    order: of the method; |R| = 1 + O(y^(order + 1)), so lower coefficients of E vanish and are no rounding.
    Exact for rational coefficients, and for others where those of E have one sign; else E is read to double precision.
    """
    plus, minus = _modulus_on_axis(q), _modulus_on_axis(p)
    size = max(len(plus), len(minus))
    e = [(plus[k] if k < len(plus) else 0) - (minus[k] if k < len(minus) else 0) for k in range(size)]
    e = [x if x and 2 * k > order else Fraction(0) for k, x in enumerate(e)]
    if all(float(x) >= 0 for x in e):
        return math.inf
    return math.sqrt(stays_nonpositive_until([-_rational(x) for x in e]))


def real_interval(p: list[Any], q: list[Any]) -> float:
    """Largest x with |R| <= 1 on [-x, 0], from P^2 - Q^2 <= 0."""
    q_back, p_back = ([_rational(c) * (-1) ** j for j, c in enumerate(poly)] for poly in (q, p))
    rest = add(multiply(p_back, p_back), [-c for c in multiply(q_back, q_back)])
    return stays_nonpositive_until([Fraction(0), *trim(rest)[1:]])


def poles_right(q: list[Any]) -> bool:
    """Whether all roots of Q have positive real part, by Routh's table of Q(-z) (Hairer & Wanner II, section IV.3)."""
    p = [c * (-1) ** j for j, c in enumerate(q)]
    above, row = p[::-1][::2], p[::-1][1::2]
    signs = [float(above[0]) > 0]
    while row:
        if not row[0]:
            return False
        signs.append(float(row[0]) > 0)
        factor = above[0] / row[0]
        below = [x - factor * (row[i + 1] if i + 1 < len(row) else 0) for i, x in enumerate(above[1:])]
        above, row = row, below
    return len(set(signs)) == 1


def a_stable(p: list[Any], q: list[Any], order: int) -> bool:
    """|R| <= 1 on the left half-plane: on its boundary, without poles inside (Hairer & Wanner II, section IV.3)."""
    return poles_right(q) and imaginary_interval(p, q, order) == math.inf


def algebraic_matrix(a: Matrix, b: Sequence[Number]) -> list[list[Any]]:
    """M = BA + A^T B - b b^T; zero for symplectic methods, semi-definite for algebraically stable ones."""
    s = range(len(b))
    return [[b[i] * a[i][j] + b[j] * a[j][i] - b[i] * b[j] for j in s] for i in s]


def algebraically_stable(a: Matrix, b: Sequence[Number]) -> bool:
    """b >= 0 and M >= 0, which is B-stability of methods without superfluous stages (ibid., section IV.12)."""
    return all(float(x) >= 0 for x in b) and semidefinite(algebraic_matrix(a, b))


def semidefinite(matrix: list[list[Any]]) -> bool:
    """Whether a symmetric matrix is positive semi-definite, by exact elimination; zeros are recognised as such."""
    rows = [list(row) for row in matrix]
    while rows:
        diagonal = [float(row[i]) if row[i] else 0.0 for i, row in enumerate(rows)]
        k = int(np.argmax(diagonal))
        if min(diagonal) < 0:
            return False
        if not diagonal[k]:
            return not any(x for row in rows for x in row)
        pivot = rows[k]
        keep = [i for i in range(len(rows)) if i != k]
        rows = [[rows[i][j] - rows[i][k] * pivot[j] / pivot[k] for j in keep] for i in keep]
    return True


def stage_order(a: Matrix, b: Sequence[Number], c: Sequence[Number]) -> int:
    """The largest q with sum_j a_ij c_j^(k-1) = c_i^k / k and sum_j b_j c_j^(k-1) = 1 / k for all k <= q."""
    q = 0
    while q < 2 * len(b):
        k = q + 1
        powers = [x**q for x in c]
        stages = [_dot(row, powers) - x**k / k for row, x in zip(a, c)]
        if any(stages) or _dot(b, powers) - Fraction(1, k):
            return q
        q = k
    return q


def symmetric(a: Matrix, b: Sequence[Number]) -> bool:
    """Whether a step of -h undoes one of h: a_{s+1-i, s+1-j} + a_ij = b_j (Hairer, Lubich & Wanner, section V.2)."""
    s = len(b)
    return not any(a[s - 1 - i][s - 1 - j] + a[i][j] - b[j] for i in range(s) for j in range(s))


def absolute_monotonicity(a: Matrix, b: Sequence[Number], order: int, bisections: int = 40) -> float:
    """The largest r with K (I + rK)^-1 >= 0 and rK (I + rK)^-1 1 <= 1, K being A over b; inf only for order 1."""
    k = np.array([[*(float(x) for x in row), 0.0] for row in (*a, b)])

    def holds(r: float) -> bool:
        inverse = np.linalg.inv(np.eye(len(k)) + r * k)
        return bool((k @ inverse).min() >= -1e-13 and inverse.sum(1).min() >= -1e-13)

    low, high = 0.0, 2.0 * len(k)
    if order == 1 and holds(1e6):
        return math.inf
    if not holds(1e-6):
        return 0.0
    for _ in range(bisections):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return round(low, 9)
