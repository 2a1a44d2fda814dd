"""Exact real roots of rational polynomials (Sturm's theorem): stability intervals come out as 0 or sqrt(3).

A polynomial is the list of its coefficients from the constant upwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

Polynomial: TypeAlias = list[Fraction]


def trim(p: Sequence[Fraction]) -> Polynomial:
    """Without leading zeros; the zero polynomial is []."""
    out = list(p)
    while out and not out[-1]:
        out.pop()
    return out


def add(p: Sequence[Fraction], q: Sequence[Fraction]) -> Polynomial:
    """p + q."""
    n = max(len(p), len(q))
    return trim([(p[i] if i < len(p) else Fraction(0)) + (q[i] if i < len(q) else Fraction(0)) for i in range(n)])


def multiply(p: Sequence[Fraction], q: Sequence[Fraction]) -> Polynomial:
    """p q."""
    out = [Fraction(0)] * max(len(p) + len(q) - 1, 0)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return trim(out)


def evaluate(p: Sequence[Fraction], x: Fraction) -> Fraction:
    """p(x) by Horner's rule."""
    value = Fraction(0)
    for a in reversed(p):
        value = value * x + a
    return value


def divide(p: Sequence[Fraction], q: Sequence[Fraction]) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder."""
    rest, quotient = trim(p), [Fraction(0)] * max(len(p) - len(q) + 1, 0)
    while len(rest) >= len(q):
        shift, factor = len(rest) - len(q), rest[-1] / q[-1]
        quotient[shift] = factor
        rest = trim([a - (factor * q[i - shift] if i >= shift else 0) for i, a in enumerate(rest[:-1])])
    return trim(quotient), rest


def derivative(p: Sequence[Fraction]) -> Polynomial:
    """p'."""
    return trim([i * a for i, a in enumerate(p)][1:])


def gcd(p: Sequence[Fraction], q: Sequence[Fraction]) -> Polynomial:
    """The monic greatest common divisor."""
    a, b = trim(p), trim(q)
    while b:
        a, b = b, divide(a, b)[1]
    return [x / a[-1] for x in a]


def odd_part(p: Polynomial) -> Polynomial:
    """Product of the factors of odd multiplicity: it changes sign exactly where p does (Yun's algorithm)."""
    result: Polynomial = [Fraction(1)]
    common = gcd(p, derivative(p))
    radical = divide(p, common)[0]
    multiplicity = 1
    while len(radical) > 1:
        shared = gcd(radical, common)
        if multiplicity % 2:
            result = multiply(result, divide(radical, shared)[0])
        radical, common = shared, divide(common, shared)[0]
        multiplicity += 1
    return result


def _sign_changes(chain: list[Polynomial], x: Fraction) -> int:
    signs = [v > 0 for p in chain if (v := evaluate(p, x))]
    return sum(a != b for a, b in pairwise(signs))


def smallest_positive_root(p: Polynomial, digits: int = 17) -> Fraction | None:
    """The smallest positive root of a polynomial without repeated roots and with p(0) != 0, by bisection."""
    chain = [p, derivative(p)]
    while len(chain[-1]) > 1:
        remainder = divide(chain[-2], chain[-1])[1]
        if not remainder:
            break
        chain.append([-a for a in remainder])
    low, high = Fraction(0), Fraction(1)
    at_zero = _sign_changes(chain, low)
    bound = 1 + max(abs(a / p[-1]) for a in p)
    while at_zero == _sign_changes(chain, high):
        if high > bound:
            return None
        low, high = high, 2 * high
    while high - low > high / 10**digits:
        middle = (low + high) / 2
        if at_zero == _sign_changes(chain, middle):
            low = middle
        else:
            high = middle
    return high


def stays_nonpositive_until(p: Sequence[Fraction]) -> float:
    """The largest x >= 0 with p <= 0 on all of [0, x]; inf where p never becomes positive."""
    rest = trim(p)
    while rest and not rest[0]:
        rest = rest[1:]
    if not rest:
        return math.inf
    if rest[0] > 0:
        return 0.0
    root = smallest_positive_root(odd_part(rest))
    return math.inf if root is None else float(root)
