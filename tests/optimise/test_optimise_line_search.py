"""The line search keeps what Wolfe's conditions ask for, and gives in where nothing is lower."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from optimise_examples import column
from torch import Tensor

from odenet.optimise.line_search import Probe, strong_wolfe

# two of Moré & Thuente, Line search algorithms with guaranteed sufficient decrease, ACM TOMS 20 (1994), and others
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "more_thuente_1": lambda a: -a / (a * a + 2),
    "more_thuente_2": lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
    "yanai_like": lambda a: 1 - a + 0.1 * torch.sin(7 * a) + 0.01 * a**4,
    "parabola": lambda a: (a - 3) ** 2,
    "narrow": lambda a: (1e3 * a - 1) ** 2,
    "wide": lambda a: (1e-3 * a - 1) ** 2,
    "barrier": lambda a: -torch.log(1 - a) - 3 * a,
    "quartic": lambda a: a**4 - 1e-3 * a,
}


def probe(f: Callable[[Tensor], Tensor]) -> Callable[[float], Probe]:
    def at(step: float) -> Probe:
        slope, value = torch.func.grad_and_value(f)(torch.tensor(step, dtype=torch.float64))
        return Probe(step, float(value), slope[None], float(slope))

    return at


@pytest.mark.parametrize("c2", [0.9, 0.1, 1e-3])
@pytest.mark.parametrize("first", [1e-3, 1e-1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_both_conditions_hold_from_any_first_step(name: str, first: float, c2: float) -> None:
    if name == "more_thuente_2":  # its slope at 0 is 5e-7 and its fall 2.6: rounding hides slopes of 5e-10
        c2 = max(c2, 0.1)
    at = probe(FUNCTIONS[name])
    origin, seen = at(0.0), 0

    def counted(step: float) -> Probe:
        nonlocal seen
        seen += 1
        return at(step)

    found = strong_wolfe(counted, origin, first, 1e-4, c2, trials=60)
    assert found is not None and found.step > 0
    value, slope = at(found.step).value, at(found.step).slope
    assert found.value == value and found.slope == slope
    assert value <= origin.value + 1e-4 * found.step * origin.slope
    assert abs(slope) <= c2 * abs(origin.slope)
    assert seen <= 30


def test_a_parabola_needs_one_interpolation() -> None:
    at = probe(lambda a: (a - 3) ** 2)
    steps: list[float] = []
    found = strong_wolfe(lambda s: steps.append(s) or at(s), at(0.0), 8.0, 1e-4, 0.1)
    assert found is not None and steps == pytest.approx([8, 3])


@pytest.mark.parametrize("far", [math.inf, math.nan])
def test_values_that_are_not_finite_shorten_the_step(far: float) -> None:
    inside = probe(lambda a: (a - 0.01) ** 2)
    found = strong_wolfe(
        lambda s: inside(s) if s < 0.05 else Probe(s, far, column(math.nan), math.nan), inside(0.0), 1.0
    )
    assert found is not None and 0 < found.step < 0.05


def test_nothing_lower_gives_none() -> None:
    rising = probe(lambda a: a * a)
    lying = Probe(0.0, 0.0, column(-1.0), -1.0)  # a slope that the function has not
    assert strong_wolfe(rising, lying, 1.0) is None


def test_too_few_trials_give_the_lowest_point_seen() -> None:
    at = probe(lambda a: (a - 100) ** 2)
    found = strong_wolfe(at, at(0.0), 1.0, 1e-4, 1e-6, trials=2)
    assert found is not None and found.value < at(0.0).value


def test_the_interpolation_is_the_minimiser_of_the_cubic() -> None:
    from odenet.optimise.line_search import _cubic

    coefficients = np.array([1.0, -2.0, -3.0, 4.0])  # a^3 - 2 a^2 - 3 a + 4 has its minimum at (2 + sqrt 13) / 3
    f, df = np.poly1d(coefficients), np.poly1d(coefficients).deriv()
    a, b = (Probe(s, float(f(s)), column(0.0), float(df(s))) for s in (0.3, 4.0))
    assert _cubic(a, b) == pytest.approx((2 + 13**0.5) / 3)
    assert _cubic(b, a) == pytest.approx((2 + 13**0.5) / 3)
