"""Exact coefficients: parsing, one radical, decimals that know their last digit."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from odenet.errors import BadInput
from odenet.rational import Root, Rounded, exact, exact_row, is_exact, root, rounded, solve


def test_rationals_are_fractions():
    assert exact("1/4") == Fraction(1, 4)
    assert exact("-19372/6561") == Fraction(-19372, 6561)
    assert exact_row("1/6 1/6 2/3") == (Fraction(1, 6), Fraction(1, 6), Fraction(2, 3))
    assert exact_row("") == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sqrt(3)/6", math.sqrt(3) / 6),
        ("1/2-sqrt(3)/6", 0.5 - math.sqrt(3) / 6),
        ("1/(2-cbrt(2))", 1 / (2 - 2 ** (1 / 3))),
        ("-cbrt(2)/(2-cbrt(2))", -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3))),
        ("sqrt(2)**3", 2 * math.sqrt(2)),
        ("sqrt(3/4)", math.sqrt(0.75)),
        ("1-1/sqrt(2)", 1 - 1 / math.sqrt(2)),
    ],
)
def test_roots_have_the_right_float(text, value):
    assert float(exact(text)) == pytest.approx(value, rel=1e-15)
    assert is_exact(exact(text))


def test_root_arithmetic_is_exact():
    c = exact("cbrt(2)")
    assert c * c * c == 2
    assert (2 - c) * (1 / (2 - c)) == 1
    w1, w0 = exact("1/(2-cbrt(2))"), exact("-cbrt(2)/(2-cbrt(2))")
    assert w1 + w0 + w1 == 1
    assert 2 * w1**3 + w0**3 == 0  # Yoshida's condition for order four
    assert not (c - c)
    assert hash(c * 1) == hash(c)


def test_perfect_powers_leave_the_root():
    assert exact("sqrt(4/9)") == Fraction(2, 3)
    assert exact("sqrt(12)") == 2 * exact("sqrt(3)")
    assert exact("cbrt(54)") == 3 * exact("cbrt(2)")


def test_two_different_roots_are_refused():
    with pytest.raises(BadInput, match="one root per method"):
        exact("sqrt(2)+sqrt(3)")
    with pytest.raises(BadInput, match="positive"):
        root(Fraction(-2), 2)


def test_division_of_a_root_by_zero_is_refused():
    with pytest.raises(ZeroDivisionError):
        Root((Fraction(0), Fraction(0)), 2, 2).inverse()
    with pytest.raises(BadInput, match="divides by zero"):
        exact("1/(sqrt(2)-sqrt(2))")


def test_a_short_decimal_is_exact_and_a_long_one_is_rounded():
    assert exact("0.161") == Fraction(161, 1000)
    assert exact("1e-3") == Fraction(1, 1000)
    third = exact("0.333333333333333")
    assert isinstance(third, Rounded)
    assert not is_exact(third)
    assert third.radius == pytest.approx(0.5e-15, rel=0.2)
    assert not (3 * third - 1)  # zero up to its digits
    assert exact("0.333333333333") - Fraction(1, 3) != 0


def test_a_rounded_number_sees_an_error_in_its_last_digits():
    assert 3 * exact("0.333333333333433") - 1


def test_rounded_arithmetic_contains_the_true_value():
    x, y = rounded(Fraction(1, 3)), rounded(Fraction(2, 7))
    for got, true in [
        (x + y, Fraction(13, 21)),
        (x - y, Fraction(1, 21)),
        (x * y, Fraction(2, 21)),
        (x / y, Fraction(7, 6)),
        (1 / x, Fraction(3)),
        (x**3, Fraction(1, 27)),
        (1 - y, Fraction(5, 7)),
    ]:
        assert abs(Fraction(got.value) - true) <= got.radius
        assert got.radius < 1e-14


@pytest.mark.parametrize(
    "text", ["", "a", "__import__('os')", "1/0", "1 +", "sqrt(x)", "True", "'1'", "2**99", "2**-1", "[1]"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(BadInput):
        exact(text)


def test_linear_systems_are_solved_in_the_arithmetic_of_their_entries():
    a = [[Fraction(0), Fraction(2)], [Fraction(3), Fraction(1)]]
    assert solve(a, [Fraction(4), Fraction(5)]) == [1, 2]
