"""Amplification and the facts that coefficients imply, against closed forms and published tables."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import odenet.integrators as integrators
from odenet.integrators import TwoStep, VariableOrder
from odenet.integrators.library import LIBRARY
from odenet.integrators.polynomials import odd_part, smallest_positive_root, stays_nonpositive_until

FIXED = [n for n in LIBRARY if n != "lm"]

# largest x with amplification <= 1 on the whole segment: negative real axis, imaginary axis
INTERVALS = {
    "euler": (2, 0),
    "heun": (2, 0),
    "midpoint": (2, 0),
    "ralston": (2, 0),
    "rk3": (2.513, math.sqrt(3)),
    "ssprk3": (2.513, math.sqrt(3)),
    "heun3": (2.513, math.sqrt(3)),
    "rk4": (2.785, 2 * math.sqrt(2)),
    "rk4_38": (2.785, 2 * math.sqrt(2)),
    "polynet2": (1, 1),
    "polynet3": (1.353, 1.272),
    "ab2": (1, 0),
    "ab3": (6 / 11, 0.724),
    "ab4": (0.3, 0.43),
    "two_step_midpoint": (0, 1),
    "momentum": (2 * 1.9 / 0.1, 0),
    "symplectic_euler": (0, 2),
    "verlet": (0, 2),
    "leapfrog": (0, 2),
}
THREE_DIGITS = {
    2.513: 5e-4,
    2.785: 5e-4,
    1.353: 5e-4,
    1.272: 5e-4,
    0.724: 5e-4,
    0.43: 5e-4,
}  # the others are exact


@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_are_those_of_the_table(name):
    facts = integrators.get(name).facts
    for got, published in zip((facts.real_interval, facts.imag_interval), INTERVALS[name]):
        digits = THREE_DIGITS.get(published)
        assert got == pytest.approx(published, abs=digits or 1e-12)


@pytest.mark.parametrize("k", [-0.5, -0.1, 0.0, 0.3, 0.9])
def test_intervals_of_a_two_step_method_follow_the_formula(k):
    published = TwoStep(k, gain="paper").facts
    assert published.real_interval == pytest.approx(2 * (1 - k), rel=1e-12)
    assert published.imag_interval == 0
    consistent = TwoStep(k, gain="consistent").facts
    assert consistent.real_interval == pytest.approx(2 * (1 - k) / (1 + k), rel=1e-12)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("axis", ["real", "imag"])
def test_the_amplification_crosses_one_exactly_at_the_end_of_the_interval(name, axis):
    method = integrators.get(name)
    end = method.facts.real_interval if axis == "real" else method.facts.imag_interval
    direction = -1.0 if axis == "real" else 1j
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    inside = torch.logspace(-3, 12, 301, dtype=torch.float64) if end == math.inf else 0.9999 * end * x
    assert float(method.amplification(direction * inside).abs().max()) <= 1 + 1e-12
    if end < math.inf and not (axis == "real" and method.needs & {"separable", "second_order"}):
        width = 0.5 if method.order == 7 else 0.02  # vern7 grows on the imaginary axis like x^8
        beyond = method.amplification(direction * (end + width * x[1:])).abs()
        assert float(beyond.max()) > 1 + 1e-12


# ---- closed forms of R(z)

Z = [0.3j, -0.7, -1.5 + 0.4j, 0.2 + 1.1j, 2.0j, -3.0]


def _truncated_exponential(s):
    return lambda z: sum(z**j / math.factorial(j) for j in range(s + 1))


CLOSED = {
    "euler": _truncated_exponential(1),
    **dict.fromkeys(("heun", "midpoint", "ralston", "heun_euler"), _truncated_exponential(2)),
    **dict.fromkeys(("rk3", "ssprk3", "heun3", "bosh3"), _truncated_exponential(3)),
    **dict.fromkeys(("rk4", "rk4_38"), _truncated_exponential(4)),
    "polynet2": lambda z: 1 + z + z**2,
    "polynet3": lambda z: 1 + z + z**2 + z**3,
    "dopri5": lambda z: _truncated_exponential(5)(z) + z**6 / 600,
}


@pytest.mark.parametrize("z", Z)
@pytest.mark.parametrize("name", CLOSED)
def test_amplification_is_the_stability_function(name, z):
    assert integrators.get(name).amplification(z) == pytest.approx(CLOSED[name](z), rel=1e-12, abs=1e-12)


CHOOSE = ["adams", "bdf"]  # their order, by the steps before: amplification is that of a formula on equal steps


@pytest.mark.parametrize("z", Z)
@pytest.mark.parametrize("name", [n for n in FIXED if n not in CHOOSE])
def test_amplification_is_what_one_step_does_to_the_dominant_solution(name, z):
    """For one-step maps of y' = zy, |y_1| / |y_0|; with memory, the growth per step of a long run."""
    method = integrators.get(name)
    if method.history or method.needs & {"separable", "second_order"}:
        growth = _growth(method, z, 80 if method.implicit else 400)
        assert abs(method.amplification(z)) == pytest.approx(growth, rel=2e-2)
        return
    y = torch.tensor([1.0 + 0j], dtype=torch.complex128)
    after = complex(method.step(_Parts(0.0, z), 0.0, y, 1.0, (), None).y[0])
    assert method.amplification(z) == pytest.approx(after, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("z", Z)
@pytest.mark.parametrize("name", [n for n in FIXED if integrators.get(n).needs & {"split", "linear"}])
def test_amplification_of_two_parts_is_what_one_step_does(name, z):
    method, y = integrators.get(name), torch.tensor([1.0 + 0j], dtype=torch.complex128)
    for stiff in (-0.5, -3.0 + 2j):
        after = complex(method.step(_Parts(z, stiff), 0.0, y, 1.0, (), None).y[0])
        assert method.amplification(z, z_implicit=stiff) == pytest.approx(after, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("z", Z)
def test_amplification_of_a_method_that_chooses_its_order_is_that_of_its_highest_formula(z):
    roots = np.roots([137 / 60 - z, -5, 5, -10 / 3, 5 / 4, -1 / 5])
    assert abs(integrators.get("bdf").amplification(z)) == pytest.approx(abs(roots).max(), rel=1e-9)
    heun = integrators.resolve(VariableOrder("adams", 1))  # Euler predicts, the trapezoidal rule corrects
    assert abs(heun.amplification(z)) == pytest.approx(abs(1 + z + z * z / 2), rel=1e-12)


class _Parts:
    """y' = z y + w y, in these parts."""

    def __init__(self, z, w):
        self.z, self.w = z, w

    def __call__(self, t, y):
        return (self.z + self.w) * y

    def explicit(self, t, y):
        return self.z * y

    nonlinear = explicit

    def implicit(self, t, y):
        return self.w * y

    def linear(self):
        return torch.tensor([self.w], dtype=torch.complex128)


class _Oscillator:
    def __init__(self, z):
        self.z = z

    def split(self, y):
        return y[0], y[1]

    def join(self, q, p):
        return torch.stack((q, p))

    def kick(self, t, q):
        return self.z * q

    def drift(self, t, p):
        return self.z * p


def _growth(method, z, steps=400):
    f = _Oscillator(z) if "separable" in method.needs else lambda t, y: z * y
    if "second_order" in method.needs:
        f = lambda t, y: z * z * y  # noqa: E731
    size = 2 if "separable" in method.needs else 1
    y, carry, log = torch.tensor([0.8 + 0.3j, 0.4 - 0.6j][:size], dtype=torch.complex128), (), []
    for n in range(steps):
        y, _, carry, *_ = method.step(f, float(n), y, 1.0, carry, None)
        scale = max(float(y.abs().max()), *(float(c.abs().max()) for c in carry), 1e-300)
        y, carry = y / scale, tuple(c / scale for c in carry)
        log.append(math.log(scale))
    return math.exp(sum(log[steps // 2 :]) / (steps - steps // 2))


def test_multistep_amplification_is_the_largest_root_of_the_characteristic_polynomial():
    for z in Z:
        ab2 = np.roots([1, -1 - 1.5 * z, 0.5 * z])
        ab3 = np.roots([1, -1 - 23 / 12 * z, 16 / 12 * z, -5 / 12 * z])
        two_step = np.roots([1, -2 * z, -1])
        lm = np.roots([1, -(1 - 0.3) - z, -0.3])
        expected = {"ab2": ab2, "ab3": ab3, "two_step_midpoint": two_step, "lm": lm}
        for name, roots in expected.items():
            coef = {"k": 0.3} if name == "lm" else None
            got = integrators.get(name).amplification(z, coef)
            assert abs(got) == pytest.approx(abs(roots).max(), rel=1e-9)


@pytest.mark.parametrize("name", ["verlet", "leapfrog", "symplectic_euler"])
def test_the_oscillator_rotates_by_the_angle_of_the_leapfrog_dispersion_relation(name):
    for x in (0.1, 0.9, 1.7):  # sin(theta / 2) = h omega / 2
        got = integrators.get(name).amplification(1j * x)
        assert abs(got) == pytest.approx(1, abs=1e-12)
        assert abs(cmath.phase(got)) == pytest.approx(2 * math.asin(x / 2), rel=1e-12)


def test_amplification_of_a_tensor_has_its_shape_and_its_entries():
    z = torch.tensor([[0.1j, -0.5], [-1.0 + 1j, 0.3]], dtype=torch.complex128)
    for name in ("rk4", "ab3", "verlet", "momentum"):
        method = integrators.get(name)
        grid = method.amplification(z)
        assert grid.shape == z.shape
        assert abs(complex(grid[1, 0])) == pytest.approx(abs(method.amplification(complex(z[1, 0]))), rel=1e-12)


def test_learnable_coefficients_default_to_the_mean_of_their_distribution():
    lm = integrators.get("lm")
    assert lm.amplification(-0.4 + 0.2j) == lm.amplification(-0.4 + 0.2j, {"k": -0.05})


# ---- other facts


def test_error_constants_are_those_of_the_textbooks():
    constants = {n: integrators.get(n).facts.error_constant for n in LIBRARY}
    assert constants["ab2"] == pytest.approx(5 / 12, rel=1e-14)
    assert constants["ab3"] == pytest.approx(3 / 8, rel=1e-14)
    assert constants["ab4"] == pytest.approx(251 / 720, rel=1e-14)
    assert constants["two_step_midpoint"] == pytest.approx(1 / 6, rel=1e-14)
    assert constants["leapfrog"] == pytest.approx(1 / 12, rel=1e-14)
    assert constants["euler"] == pytest.approx(1 / 2, rel=1e-14)
    # local error of second-order methods: (f'' terms, f' terms) = (b c^2 / 2 - 1/6, b A c - 1/6)
    assert constants["midpoint"] == pytest.approx(math.hypot(1 / 8 - 1 / 6, 1 / 6), rel=1e-14)
    assert constants["heun"] == pytest.approx(math.hypot(1 / 4 - 1 / 6, 1 / 6), rel=1e-14)
    assert constants["ralston"] == pytest.approx(1 / 6, rel=1e-14)  # Ralston's choice: the first vanishes


def test_ssp_radii_are_those_of_the_textbooks():
    radii = {n: integrators.get(n).facts.ssp for n in LIBRARY}
    assert radii["euler"] == radii["heun"] == radii["ssprk3"] == 1
    assert radii["midpoint"] == radii["rk4"] == radii["rk3"] == 0
    assert radii["ab2"] is None


def test_contractivity_radii_are_those_of_the_circle_theorem():
    radii = {n: integrators.get(n).facts.contractivity_radius for n in LIBRARY}
    for name in ("euler", "heun", "ssprk3", "rk4"):
        assert radii[name] == pytest.approx(1, rel=1e-12)
    assert radii["midpoint"] == 0
    assert radii["dopri5"] == 0  # a negative weight


def _largest_growth(method, r):
    """Over right-hand sides z_i y whose z_i changes from stage to stage on the circle |z + r| = r."""
    angles = torch.rand(method.stages + 1, 200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turns = (2 * angles - 1) ** 3 * math.pi  # more of them near z = 0, where the circle touches the axis
    z = iter(r * (torch.exp(1j * turns) - 1))
    y = torch.ones(angles.shape[1], dtype=torch.complex128)
    return float(method.step(lambda t, y: next(z) * y, 0.0, y, 1.0, (), None).y.abs().max())


@pytest.mark.parametrize("name", ["euler", "heun", "ralston", "rk3", "ssprk3", "rk4", "rk4_38", "bosh3"])
def test_inside_the_contractivity_radius_no_change_of_slope_makes_a_step_expansive(name):
    method = integrators.get(name)
    radius = method.facts.contractivity_radius
    assert radius > 0
    assert _largest_growth(method, 0.999 * radius) <= 1 + 1e-12
    assert _largest_growth(method, 1.3 * radius) > 1


@pytest.mark.parametrize("name", ["midpoint", "dopri5", "heun3", "polynet2"])
def test_methods_without_positive_weights_expand_some_contraction(name):
    method = integrators.get(name)
    assert method.facts.contractivity_radius == 0
    assert _largest_growth(method, 0.3) > 1 + 1e-6


def test_fsal_pairs_and_stages_are_read_off_the_tableau():
    got = {n: (f.fsal, f.stages, f.order_low) for n in LIBRARY if (f := integrators.get(n).facts)}
    assert got["dopri5"] == (True, 6, 4)
    assert got["tsit5"] == (True, 6, 4)
    assert got["bosh3"] == (True, 3, 2)
    assert got["rk4"] == (False, 4, None)
    assert got["yoshida4"] == (False, 3, None)
    assert got["verlet"] == (False, 1, None)


def test_exactness_says_which_coefficients_are_decimals_or_not_known():
    decimals = {
        "tsit5", "vern7", "dopri8", "pefrl", "yoshida6", "kvaerno3", "kvaerno5", "rodas4", "ars343", "kencarp3",
        "kencarp4",
    }  # fmt: skip
    unknown = {
        "lm",
        "alf",
        "reversible_rk4",
        "reversible_dopri5",
        "reversible_heun",
    }  # learned, or in the code of a step
    assert {n for n in LIBRARY if not integrators.get(n).facts.exact} == decimals | unknown


# ---- polynomials


def _poly(*c):
    return [Fraction(x) for x in c]


def test_sign_changes_are_found_exactly():
    assert stays_nonpositive_until(_poly(-6, 5, -1)) == 2  # -(x - 2)(x - 3)
    assert stays_nonpositive_until(_poly(0, 0, 1)) == 0
    assert stays_nonpositive_until([]) == math.inf
    assert stays_nonpositive_until(_poly(-1)) == math.inf
    # -(x - 1)^2 touches zero and goes on; (x - 1)^2 (x - 3) crosses at 3 only
    assert stays_nonpositive_until(_poly(-1, 2, -1)) == math.inf
    assert stays_nonpositive_until(_poly(-3, 7, -5, 1)) == 3
    assert stays_nonpositive_until(_poly(-2, 0, 1)) == math.sqrt(2)


def test_the_odd_part_keeps_the_factors_of_odd_multiplicity():
    # (x - 1)^3 (x + 2)^2
    p = np.polymul(np.poly([1, 1, 1]), np.poly([-2, -2]))[::-1]
    assert odd_part(_poly(*(int(c) for c in p))) == _poly(-1, 1)
    assert smallest_positive_root(_poly(2, 3, 1)) is None


@pytest.mark.parametrize("name", [n for n in integrators.names() if not n.startswith("torchdiffeq")])
def test_the_amplification_of_an_endless_step_is_endless_or_its_limit_and_does_not_crash(name):
    method = integrators.get(name)
    grid = torch.tensor([-math.inf, -1e100, complex(-1e300, 1e300), math.nan], dtype=torch.complex128)
    endless, far, farther, unknown = method.amplification(grid).abs().tolist()
    assert not unknown <= 1
    if method.facts.real_interval < math.inf or method.needs & {"separable", "second_order"}:
        assert not endless <= 1 and not far <= 1 and not farther <= 1
    else:
        assert far <= 1 + 1e-12
        assert endless == pytest.approx(far, abs=1e-12) or not math.isfinite(endless)
