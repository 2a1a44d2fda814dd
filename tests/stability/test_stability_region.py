"""Stability regions against published intervals, closed forms, and the facts derived from coefficients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenet import integrators
from odenet.errors import BadInput
from odenet.stability import inside, largest_step, stability_region
from odenet.stability.region import first_exit, growing, growth, reach

# published: largest x on the negative real and on the imaginary axis
TABLE = {
    "euler": (2.0, 0.0),
    "midpoint": (2.0, 0.0),
    "heun": (2.0, 0.0),
    "ssprk3": (2.5127453266, math.sqrt(3)),
    "rk3": (2.5127453266, math.sqrt(3)),
    "rk4": (2.7852935634, 2 * math.sqrt(2)),
    "rk4_38": (2.7852935634, 2 * math.sqrt(2)),
    "polynet2": (1.0, 1.0),
    "ab2": (1.0, 0.0),
    "ab3": (6 / 11, 0.7236),
    "two_step_midpoint": (0.0, 1.0),
    "momentum": (2 * 1.9 / 0.1, 0.0),
    "lm": (2 * 1.05, 0.0),
}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_largest_step_on_the_axes_is_the_published_interval(name):
    real, imaginary = TABLE[name]
    assert largest_step(name, torch.tensor([-1.0 + 0j])) == pytest.approx(real, abs=5e-5)
    assert largest_step(name, torch.tensor([2j])) == pytest.approx(imaginary / 2, abs=5e-5)


@pytest.mark.parametrize("name", ["symplectic_euler", "verlet", "leapfrog"])
def test_an_oscillator_under_a_symplectic_method_is_stable_up_to_h_omega_two(name):
    assert largest_step(name, torch.tensor([5j, -5j, 1j])) == pytest.approx(0.4, rel=1e-9)


@pytest.mark.parametrize("name", [n for n in integrators.names() if ":" not in n])
def test_the_scan_of_the_one_step_map_finds_the_intervals_derived_from_coefficients(name):
    method = integrators.get(name)
    found = first_exit(method, torch.tensor([-1.0 + 0j, 1j], dtype=torch.complex128))
    real, imaginary = method.facts.real_interval, method.facts.imag_interval
    assert float(found[0]) == pytest.approx(real, rel=2e-3, abs=2e-2)
    # near 0 a method may grow by so high a power of z that it is less than the 1e-9 |z| that the scan lets pass
    x = float(found[1]) * torch.tensor([0.9, 1.1], dtype=torch.float64)
    below, above = (growth(method, 1j * x) - 1).tolist()
    late = imaginary < float(found[1]) and 1e-14 < below <= 1e-9 * float(x[0]) and above > 1e-9 * float(x[1])
    assert late or float(found[1]) == pytest.approx(imaginary, rel=2e-3, abs=2e-2)


@pytest.mark.parametrize(("a", "w"), [(1.0, 1.0), (0.01, 1.0), (0.01, 5.0), (3.0, 0.2), (1e-4, 1.0)])
def test_euler_with_damping_allows_h_up_to_2a_over_a2_plus_w2(a, w):
    expected = 2 * a / (a * a + w * w)
    assert largest_step("euler", torch.tensor([complex(-a, w), complex(-a, -w)])) == pytest.approx(expected, rel=1e-4)


def test_the_limit_of_many_eigenvalues_is_the_smallest_of_their_own_limits():
    g = torch.Generator().manual_seed(0)
    z = torch.complex(-torch.rand(60, generator=g).double(), 3 * torch.randn(60, generator=g).double())
    each = min(largest_step("rk4", v.reshape(1)) for v in z)
    assert largest_step("rk4", z) == pytest.approx(each, rel=1e-9)


def test_just_inside_the_limit_nothing_is_amplified_and_just_outside_something_is():
    g = torch.Generator().manual_seed(1)
    z = torch.complex(-torch.rand(50, generator=g).double(), torch.randn(50, generator=g).double())
    h = largest_step("rk3", z)
    assert bool((growth("rk3", 0.999 * h * z) <= 1).all()) and bool((growth("rk3", 1.001 * h * z) > 1).any())


def test_modes_that_grow_in_the_exact_flow_do_not_limit_the_step():
    assert largest_step("euler", torch.tensor([1.0 + 0j, -4.0 + 0j])) == pytest.approx(0.5, rel=1e-6)
    assert largest_step("euler", torch.tensor([1.0 + 0j, 0j])) == math.inf
    assert bool(growing("euler", torch.tensor([0.1 + 0j]))) and not bool(growing("euler", torch.tensor([-0.1 + 0j])))


def test_a_saddle_under_a_method_for_oscillators_counts_as_growing():
    assert (
        bool(growing("verlet", torch.tensor([-0.3 + 0j])))
        and largest_step("verlet", torch.tensor([-0.3 + 0j])) == math.inf
    )


def test_a_flow_against_time_sees_the_eigenvalues_with_the_other_sign():
    assert largest_step("euler", torch.tensor([4.0 + 0j]), backwards=True) == pytest.approx(0.5, rel=1e-6)


def test_membership_is_the_disc_for_euler():
    z = torch.tensor([-1.0 + 0.99j, -1.0 + 1.01j, -1.99 + 0j, -2.01 + 0j])
    assert inside("euler", z).tolist() == [True, False, True, False]


def test_the_grid_of_euler_is_the_distance_to_minus_one_and_its_region_has_area_pi():
    r = stability_region("euler", (-2.5, 0.5, -1.5, 1.5), 301)
    assert torch.allclose(r.growth, torch.hypot(1 + r.re[:, None], r.im[None, :]))
    assert float((r.growth <= 1).double().mean()) * 9 == pytest.approx(math.pi, rel=0.01)


def test_the_imaginary_axis_is_on_the_grid_because_oscillators_have_no_other_region():
    r = stability_region("verlet", (-1.03, 0.77, -3.0, 3.0), 121)
    column = r.growth[int(r.re.abs().argmin())]
    assert np.allclose(r.im[column <= 1 + 1e-6].abs().max(), 2.0, atol=0.06)


def test_reach_takes_the_facts_on_the_axes():
    method = integrators.get("rk4")
    assert float(reach(method, torch.tensor([1j], dtype=torch.complex128))) == method.facts.imag_interval


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3])
def test_learned_coefficients_move_the_limit_of_the_two_step_method(k):
    """The real interval of y_{n+1} = (1 - k) y_n + k y_{n-1} + h f(y_n) is 2 (1 - k)."""
    assert largest_step("lm", torch.tensor([-1.0 + 0j]), coef={"k": k}) == pytest.approx(2 * (1 - k), rel=1e-6)


def test_an_empty_box_is_refused():
    with pytest.raises(BadInput, match="box is"):
        stability_region("euler", (1.0, 0.0, -1.0, 1.0))


@pytest.mark.parametrize("name", ["euler", "lm", "momentum", "rk4"])
def test_a_real_eigenvalue_a_rounding_error_above_zero_does_not_limit_the_step(name: str) -> None:
    method, sound = integrators.get(name), torch.tensor([-1.0 + 0.0j], dtype=torch.complex128)
    with_noise = torch.tensor([-1.0 + 0.0j, 1e-12 + 0.0j, 1e-10 + 0.0j], dtype=torch.complex128)
    assert largest_step(method, with_noise) == pytest.approx(largest_step(method, sound), rel=1e-12)
