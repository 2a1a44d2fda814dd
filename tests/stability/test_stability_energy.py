"""Energy drift of frozen fields against the closed form on the harmonic oscillator."""

from __future__ import annotations

import math

import pytest
import torch

from odenet import fields
from odenet.flow import Flow
from odenet.stability import (
    decay_rates,
    energy_along,
    energy_drift,
    energy_over_linear,
    perturbation_growth,
    spectra,
    unroll,
)

torch.set_num_threads(1)
X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def oscillator(integrator, steps=10, omega=2.0):
    return unroll(Flow(fields.HarmonicOscillator(omega), integrator, depth="shared", steps=steps), X)


def test_euler_multiplies_the_energy_by_one_plus_h2_omega2_in_every_step():
    u = oscillator("euler")
    H = energy_along(u.layers[0].interval, u.states[0][0], 50)
    expected = (1 + 0.04) ** torch.arange(51, dtype=torch.float64)
    assert torch.allclose(H / H[0], expected[:, None].expand(51, 3))
    assert energy_drift(u, 50) == pytest.approx(1.04**50 - 1)


def test_verlet_keeps_the_energy_within_a_bound_of_second_order_for_ever():
    coarse, fine = energy_drift(oscillator("verlet", 10), 2000), energy_drift(oscillator("verlet", 20), 2000)
    assert fine < coarse < 0.02 and coarse / fine == pytest.approx(4.0, rel=0.1)


def test_rk4_loses_energy_at_the_rate_of_its_stability_function():
    z = 0.2j
    R = sum(z**k / math.factorial(k) for k in range(5))
    assert energy_drift(oscillator("rk4"), 100) == pytest.approx(1 - abs(R) ** 200, rel=1e-6)


@pytest.mark.parametrize(
    "field",
    [fields.SeparableHamiltonian(4), fields.HamiltonianJ(4), fields.HamiltonianJ(4, form="h2"), fields.SecondOrder(4)],
)
def test_hamiltonian_fields_keep_their_energy_as_the_step_shrinks_though_their_weights_vary(field):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    drift = [energy_drift(unroll(Flow(field, "rk4", steps=2, span=(0.0, s)), x), round(4 / s)) for s in (1.0, 0.5)]
    assert drift[1] < drift[0] / 10 and drift[0] < 5e-3


def test_a_field_without_energy_has_no_drift():
    assert energy_drift(unroll(Flow(fields.Free(2), steps=2), X)) is None


def test_a_run_that_overflows_has_infinite_drift():
    assert energy_drift(oscillator("euler", steps=1, omega=1e3), 256) == math.inf


# ---- the linear wave equation as a bound -----------------------------------------------------------------------------


def wave(integrator, activation="tanh", steps=64, **options):
    x = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return unroll(Flow(fields.SecondOrder(4, activation=activation, **options), integrator, steps=steps), x)


@pytest.mark.parametrize("integrator", ["leapfrog", "verlet", "rk4"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_energy_of_a_second_order_net_stays_below_that_of_the_linear_wave_equation(integrator, activation):
    assert energy_over_linear(wave(integrator, activation), 1000) <= 1.0 + 2e-4


def test_the_linear_net_has_exactly_the_energy_of_the_linear_wave_equation():
    assert energy_over_linear(wave("rk4", "identity"), 200) == pytest.approx(1.0, abs=1e-6)
    assert energy_over_linear(wave("leapfrog", "identity"), 200) == pytest.approx(1.0, abs=1e-3)


def test_the_first_energies_are_those_of_the_formula():
    u = wave("leapfrog")
    flow, y = u.layers[0].interval.flow, u.states[0][0]
    K, b, h = flow.weights["K"][0].detach(), flow.weights["b"][0].detach(), flow.h

    def z(y):
        return y @ K.T + b

    path = [y, y - h**2 / 2 * torch.tanh(z(y)) @ K]  # Taylor's start
    path.append(2 * path[1] - path[0] - h**2 * torch.tanh(z(path[1])) @ K)
    first = (z(y) * torch.tanh(z(y))).sum(1)
    second = (z(path[1]) * torch.tanh(z(path[1]))).sum(1) + ((path[2] - path[0]) / (2 * h)).square().sum(1)
    linear = z(y).square().sum(1)
    assert energy_over_linear(u, 2) == pytest.approx(float((torch.maximum(first, second) / linear).max()), rel=1e-12)


def test_an_unstable_step_breaks_the_bound_and_other_nets_have_none():
    assert energy_over_linear(wave("leapfrog", steps=1, gain=12.0), 200) > 10.0
    assert energy_over_linear(unroll(Flow(fields.Free(2), steps=2), X)) is None
    assert energy_over_linear(wave("verlet", "leaky_relu")) is not None
    assert energy_over_linear(wave("verlet", "softplus")) is None  # s(0) > 0: |s(x)| <= |x| does not hold


# ---- two trajectories ------------------------------------------------------------------------------------------------


def rates(flow, x=X):
    u = unroll(flow, x)
    return decay_rates(u, perturbation_growth(u, 1e-6), spectra(u))


def test_differences_decay_at_the_rate_of_an_isotropic_field_which_is_its_logarithmic_norm():
    measured, bound = rates(Flow(lambda y: -1.5 * y, "dopri8", depth="shared", steps=4, rtol=1e-11, atol=1e-13))
    assert measured.numpy() == pytest.approx([-1.5] * 3, rel=1e-6) and bound.numpy() == pytest.approx([-1.5] * 3)


def test_euler_decays_at_the_rate_of_its_stability_function():
    measured, bound = rates(Flow(lambda y: -1.5 * y, "euler", depth="shared", steps=4))
    assert measured.numpy() == pytest.approx([4 * math.log(1 - 1.5 / 4)] * 3, rel=1e-6) and float(bound[0]) == -1.5


def test_the_logarithmic_norm_bounds_the_decay_of_a_field_that_is_not_normal():
    A = torch.tensor([[-1.0, 3.0], [0.0, -2.0]], dtype=torch.float64)
    measured, bound = rates(Flow(lambda y: y @ A.T, "dopri8", depth="shared", steps=8, rtol=1e-10, atol=1e-12))
    assert float(bound[0]) == pytest.approx(-1.5 + math.sqrt(0.25 + 2.25))
    assert bool((measured <= bound).all())


def test_a_parabolic_net_of_fine_steps_keeps_the_promise_of_its_logarithmic_norm():
    flow = Flow(fields.Parabolic(2, gain=2.0), "rk4", steps=64, depth="piecewise_linear", span=(0.0, 2.0)).double()
    measured, bound = rates(flow)
    assert bool((measured <= bound + 1e-2).all()) and float(bound.max()) <= 0.0


def test_models_with_other_layers_have_no_rate():
    from torch import nn

    u = unroll(nn.Sequential(nn.Linear(2, 2)).double(), X)
    assert decay_rates(u, perturbation_growth(u), spectra(u)) is None
