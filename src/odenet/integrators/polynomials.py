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


def whole(p: Sequence[Fraction]) -> list[int]:
    """The positive multiple of p whose coefficients are whole numbers without a common divisor."""
    denominator = math.lcm(*(a.denominator for a in p))
    scaled = [a.numerator * (denominator // a.denominator) for a in p]
    content = math.gcd(*scaled) or 1
    return [a // content for a in scaled]


def sign(p: Sequence[int], x: Fraction) -> int:
    """The sign of p(x): of x.denominator^degree p(x), which is a whole number, by Horner's rule."""
    value, scale = 0, 1
    for a in reversed(p):
        value, scale = value * x.numerator + a * scale, scale * x.denominator
    return (value > 0) - (value < 0)


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


def _sturm_chain(p: Polynomial) -> list[list[int]]:
    """p, p', and the negative remainders of Euclid's algorithm, each up to a positive factor."""
    chain = [p, derivative(p)]
    while len(chain[-1]) > 1 and (remainder := divide(chain[-2], chain[-1])[1]):
        chain.append([Fraction(-a) for a in whole(remainder)])
    return [whole(q) for q in chain]


def _sign_changes(chain: list[list[int]], x: Fraction) -> int:
    signs = [s for q in chain if (s := sign(q, x))]
    return sum(a != b for a, b in pairwise(signs))


def smallest_positive_root(p: Polynomial, digits: int = 17) -> Fraction | None:
    """The smallest positive root of a polynomial without repeated roots and with p(0) != 0, by bisection."""
    chain = _sturm_chain(p)
    low, high = Fraction(0), Fraction(1)
    at_zero = _sign_changes(chain, low)
    bound = 1 + max(abs(a / p[-1]) for a in p)
    while not (roots := at_zero - _sign_changes(chain, high)):  # how many lie in (0, high]
        if high > bound:
            return None
        low, high = high, 2 * high
    at_low = sign(chain[0], low)
    while high - low > high / 10**digits:
        middle = (low + high) / 2
        if roots == 1:  # then one sign tells on which side of the middle it lies
            inside = int(sign(chain[0], middle) != at_low)
        else:
            inside = at_zero - _sign_changes(chain, middle)
        low, high, roots = (low, middle, inside) if inside else (middle, high, roots)
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
