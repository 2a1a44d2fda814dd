"""Step-size control, the first step, and values between steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate._ivp.common import select_initial_step
from scipy.interpolate import CubicHermiteSpline

import odenet.integrators as integrators
from odenet.errors import BadInput
from odenet.integrators.adaptive import Controller, initial_step
from odenet.integrators.dense import hermite


def test_the_error_norm_is_the_scaled_rms():
    rng = np.random.default_rng(0)
    e, a, b = rng.normal(size=(3, 2, 5))
    expected = np.sqrt(np.mean((e / (1e-8 + 1e-6 * np.maximum(abs(a), abs(b)))) ** 2))
    got = Controller(rtol=1e-6, atol=1e-8).error_norm(*(torch.tensor(x) for x in (e, a, b)))
    assert got.shape == ()
    assert float(got) == pytest.approx(expected, rel=1e-14)


def test_the_error_norm_of_a_complex_state_is_real():
    e = torch.tensor([3e-6 + 4e-6j], dtype=torch.complex128)
    y = torch.tensor([0.6 + 0.8j], dtype=torch.complex128)
    assert float(Controller(rtol=1e-6, atol=0.0).error_norm(e, y, y)) == pytest.approx(5)


def test_a_first_step_at_the_tolerance_is_repeated_times_the_safety():
    assert Controller().factor(1.0, None, 5) == pytest.approx(0.9)


def test_the_factor_is_that_of_the_textbook_within_its_limits():
    control = Controller()
    assert control.factor(2.0**5, None, 5) == pytest.approx(0.45)
    assert control.factor(2.0**-5, None, 5) == pytest.approx(1.8)
    assert control.factor(0.5, 0.25, 5) == pytest.approx(0.9 * 0.5**-0.17 * 0.25**0.04)  # Dormand-Prince in dopri5.f
    assert control.factor(0.0, None, 5) == 10.0
    assert control.factor(1e-30, 1e-30, 5) == 10.0
    assert control.factor(1e30, None, 5) == 0.2
    assert control.factor(math.nan, 0.1, 5) == 0.2
    assert control.factor(math.inf, 0.1, 5) == 0.2


def test_a_rejected_step_never_grows():
    control = Controller(safety=1.0)
    assert all(control.factor(err, 1e-3, 3) <= 1.0 for err in (1.0 + 1e-12, 1.1, 7.0))


@pytest.mark.parametrize(
    "wrong",
    [{"rtol": -1.0}, {"rtol": 0.0, "atol": 0.0}, {"rtol": math.nan}, {"safety": 0.0}, {"largest": 0.5}],
)
def test_a_controller_that_cannot_work_is_refused(wrong):
    with pytest.raises(BadInput):
        Controller(**wrong)


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e3])
def test_the_first_step_is_that_of_scipy(direction, scale):
    def f(t, y):
        return torch.stack((y[1], -torch.sin(y[0]) + 0.1 * t))

    def fun(t, y):
        return f(t, torch.tensor(y)).numpy()

    y0, order, rtol, atol = scale * np.array([1.2, -0.3]), 5, 1e-6, 1e-9
    arguments = [fun, 0.4, y0, 1e9 * direction, np.inf, fun(0.4, y0), direction, order, rtol, atol]
    expected = select_initial_step(*arguments)
    got = initial_step(f, 0.4, torch.tensor(y0), direction, order, rtol, atol)
    assert got == pytest.approx(expected, rel=1e-12)
    known = initial_step(f, 0.4, torch.tensor(y0), direction, order, rtol, atol, f0=f(0.4, torch.tensor(y0)))
    assert known == got


def test_the_first_step_at_rest_is_small_and_positive():
    zero = torch.zeros(3, dtype=torch.float64)
    assert 0 < initial_step(lambda t, y: 0 * y, 0.0, zero, 1.0, 5, 1e-6, 1e-8) <= 1e-6


def test_hand_driven_adaptive_steps_keep_the_error_near_the_tolerance():
    method, control = integrators.get("dopri5"), Controller(rtol=1e-8, atol=1e-10)
    t, h, carry, previous = 0.0, 0.01, (), None
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def f(t, y):
        return torch.stack((y[1], -y[0]))

    steps = 0
    while t < 10:
        h = min(h, 10 - t)
        trial = method.step(f, t, y, h, carry, None)
        err = float(control.error_norm(trial.error, y, trial.y))
        if err <= 1:
            t, y, carry, steps = t + h, trial.y, trial.carry, steps + 1
        h *= control.factor(err, previous, method.order)
        previous = err if err <= 1 else previous
    assert steps < 150
    assert torch.allclose(y, torch.tensor([math.cos(10), -math.sin(10)], dtype=torch.float64), rtol=0, atol=1e-6)


def test_hermite_is_that_of_scipy_for_numbers_and_tensors():
    rng = np.random.default_rng(1)
    y0, f0, y1, f1 = rng.normal(size=(4, 2, 3))
    spline = CubicHermiteSpline([0.3, 0.8], np.stack((y0, y1)), np.stack((f0, f1)))
    ours = [torch.tensor(x) for x in (y0, f0, y1, f1)]
    times = torch.tensor([0.3, 0.41, 0.7, 0.8], dtype=torch.float64)
    got = hermite(0.3, ours[0], ours[1], 0.8, ours[2], ours[3], times)
    assert got.shape == (4, 2, 3)
    assert np.allclose(got.numpy(), spline(times.numpy()), rtol=0, atol=1e-14)
    one = hermite(0.3, ours[0], ours[1], 0.8, ours[2], ours[3], 0.41)
    assert torch.allclose(one, got[1], rtol=0, atol=1e-15)


def test_hermite_gives_the_ends_exactly_and_keeps_the_dtype():
    y0, f0, y1, f1 = torch.randn(4, 3, dtype=torch.float32)
    assert torch.equal(hermite(0.0, y0, f0, 0.1, y1, f1, 0.0), y0)
    assert torch.equal(hermite(0.0, y0, f0, 0.1, y1, f1, 0.1), y1)
    at = torch.tensor([0.05], dtype=torch.float64)
    assert hermite(0.0, y0, f0, 0.1, y1, f1, at).dtype == torch.float32
