"""Energy drift of frozen fields against the closed form on the harmonic oscillator."""

from __future__ import annotations

import math

import pytest
import torch

from odenet import fields
from odenet.flow import Flow
from odenet.stability import energy_along, energy_drift, unroll

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
