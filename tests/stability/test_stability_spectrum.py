"""Spectra of fields against numpy on linear fields, and the bounds they give against matrix exponentials."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from odenet import fields
from odenet.depth import PerStep
from odenet.flow import Chain, Flow
from odenet.stability import lognorm_integral, predict, spectra, unroll
from odenet.stability.spectrum import compounded, evenly, exact_growth, field_jacobian, spectral_metrics

torch.set_num_threads(1)
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def matrix(seed=0, n=4):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(A, integrator="euler", **options):
    return Flow(lambda y: y @ A.T, integrator, depth="shared", **options)


def nearest(a, b):
    """The largest distance from a point of a to b."""
    return max(min(abs(x - y) for y in b) for x in a)


def test_eigenvalues_of_a_linear_field_are_those_of_its_matrix_at_every_layer_and_sample():
    A = matrix()
    found = spectra(unroll(linear(A, steps=3), X))
    assert len(found) == 3 and found[0].eigenvalues.shape == (3, 4)
    for s in found:
        for row in s.eigenvalues.numpy():
            assert nearest(row, np.linalg.eigvals(A.numpy())) < 1e-12
        assert torch.allclose(s.scaled, s.eigenvalues / 3)


@pytest.mark.parametrize(("norm", "order"), [("lognorm_1", 1), ("lognorm_2", 2), ("lognorm_inf", np.inf)])
def test_logarithmic_norms_are_the_derivative_of_the_norm_of_i_plus_e_j(norm, order):
    A, e = matrix(1).numpy(), 1e-7
    (s,) = spectra(unroll(linear(torch.tensor(A), steps=1), X[:1]))
    slope = (np.linalg.norm(np.eye(4) + e * A, order) - 1) / e
    assert float(getattr(s, norm)[0]) == pytest.approx(slope, abs=1e-5)


def test_a_normal_matrix_has_henrici_number_zero_and_a_shear_nearly_one():
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    shear = torch.tensor([[-1.0, 100.0], [0.0, -1.0]], dtype=torch.float64)
    (r,) = spectra(unroll(linear(rotation, steps=1), X[:, :2]))
    (s,) = spectra(unroll(linear(shear, steps=1), X[:, :2]))
    assert float(r.henrici.max()) < 1e-7
    assert float(s.henrici[0]) == pytest.approx(math.sqrt(10000 / 10002), rel=1e-12)
    assert float(s.lognorm_2[0]) == pytest.approx(-1 + 50, rel=1e-12) and float(s.abscissa[0]) == pytest.approx(-1)


@pytest.mark.parametrize("seed", range(4))
def test_exp_of_the_integral_of_the_logarithmic_norm_bounds_the_matrix_exponential(seed):
    A = matrix(seed)
    u = unroll(linear(A, steps=5, span=(0.0, 0.7)), X)
    high, low = lognorm_integral(spectra(u), 5)
    values = np.linalg.svd(expm(0.7 * A.numpy()), compute_uv=False)
    assert values[0] <= math.exp(high) * (1 + 1e-12) and values[-1] >= math.exp(low) * (1 - 1e-12)
    S = A + A.T
    high, low = lognorm_integral(spectra(unroll(linear(S, steps=5, span=(0.0, 0.7)), X)), 5)
    values = np.linalg.svd(expm(0.7 * S.numpy()), compute_uv=False)
    assert values[0] == pytest.approx(math.exp(high)) and values[-1] == pytest.approx(math.exp(low))


FIELDS = {
    "free": fields.Free(6),
    "two layers": fields.Free(6, layers=2, hidden=5),
    "antisymmetric": fields.Antisymmetric(6),
    "parabolic": fields.Parabolic(6),
    "hamiltonian": fields.SeparableHamiltonian(6),
    "one layer": fields.SeparableHamiltonian(6, layers=1),
    "h1": fields.HamiltonianJ(6),
    "h2": fields.HamiltonianJ(6, form="h2"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_jacobians_and_eigenvalues_agree_with_jacrev_for_every_field(name):
    flow = Flow(FIELDS[name], "rk4", steps=2).double()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = unroll(flow, x)
    for n, s in enumerate(spectra(u)):
        f = flow.march.rhs(n, flow.march.pieces(flow.theta())[n])
        y = u.states[n][0]
        J = torch.stack([torch.func.jacrev(lambda v, f=f: f(0.0, v[None])[0])(v) for v in y]).detach()
        assert torch.allclose(field_jacobian(s.interval, y), J, atol=1e-13)
        for row, J_p in zip(s.eigenvalues.numpy(), J.numpy()):
            assert nearest(row, np.linalg.eigvals(J_p)) < 1e-6  # defective zeros are only found to sqrt(eps)


@pytest.mark.parametrize("integrator", ["verlet", "leapfrog", "rk4"])
def test_a_second_order_field_has_the_frequencies_of_its_stiffness_matrix(integrator):
    K = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    flow = Flow(
        fields.SecondOrder(fields.wrap(lambda y: -y @ K)),
        integrator,
        depth="shared",
        steps=2,
        span=(0.0, 0.2),
    )
    (first, _) = spectra(unroll(flow, X[:, :3]))
    assert sorted(first.eigenvalues[0].imag.tolist()) == pytest.approx([-3, -2, -1, 1, 2, 3])
    assert float(first.eigenvalues.real.abs().max()) < 1e-12
    expected = 2 * math.sqrt(2) / 3 if integrator == "rk4" else 2 / 3
    assert spectral_metrics([first])["h_stable"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("integrator", "limit"), [("euler", 2 / 50), ("rk4", 2.7852935634 / 50), ("ab2", 1 / 50)])
def test_the_predicted_step_for_eigenvalues_minus_1_and_minus_50(integrator, limit):
    A = torch.diag(torch.tensor([-1.0, -50.0], dtype=torch.float64))
    found = predict(linear(A, integrator, steps=10), X[:, :2])
    assert found["h_stable"] == pytest.approx(limit, rel=1e-8) and found["h"] == pytest.approx(0.1)
    assert found["lognorm_integral"] == pytest.approx(-1.0)


def test_the_predicted_step_is_where_powers_of_the_step_map_start_to_grow():
    A = matrix(5) - 3 * torch.eye(4, dtype=torch.float64)
    h = predict(linear(A, "rk4", steps=1), X)["h_stable"]
    radius = {}
    for s in (0.99, 1.01):
        Z = s * h * A.numpy()
        R = sum(np.linalg.matrix_power(Z, k) / math.factorial(k) for k in range(5))
        radius[s] = max(abs(np.linalg.eigvals(R)))
    assert radius[0.99] < 1 < radius[1.01]


def test_shares_count_modes_inside_outside_and_growing():
    A = torch.diag(torch.tensor([-1.0, -3.0, 0.5, -0.1], dtype=torch.float64))
    found = spectral_metrics(spectra(unroll(linear(A, steps=1), X)))
    assert (found["inside_share"], found["outside_share"], found["growing_share"]) == (0.5, 0.25, 0.25)
    assert found["amplification_max"] == pytest.approx(2.0) and found["spectral_abscissa"] == pytest.approx(0.5)


def test_every_layer_has_the_spectrum_of_its_own_weights():
    flow = Flow(fields.Free(4, activation="identity"), steps=3, depth=PerStep()).double()
    for n, s in enumerate(spectra(unroll(Chain(torch.nn.Identity(), flow), X))):
        assert nearest(s.eigenvalues[0].numpy(), np.linalg.eigvals(flow.weights["K"][n].detach().numpy())) < 1e-12


def test_learned_coefficients_of_each_layer_enter_its_amplification():
    flow = Flow(lambda y: -3.0 * y, "lm", depth="shared", steps=2, span=(0.0, 2.0))
    with torch.no_grad():
        flow.coefficients["k"].copy_(torch.tensor([0.0, -0.8]))
    a, b = spectra(unroll(flow, X))
    assert float(a.growth[0, 0]) == pytest.approx(2.0)  # k = 0 is euler: |1 - 3|
    roots = np.roots([1.0, -(1.8 - 3.0), 0.8])  # z^2 - (1 - k + h lambda) z - k
    assert float(b.growth[0, 0]) == pytest.approx(max(abs(roots)), rel=1e-6)


def test_compounded_growth_is_the_power_of_the_amplification():
    A = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    found = spectra(unroll(linear(A, steps=10, span=(0.0, 5.0)), X[:, :2]))
    assert compounded(found, 10) == pytest.approx(math.sqrt(2) ** 10)
    assert exact_growth(found, 10) == pytest.approx(1.0)
    assert compounded(found[:3], 10) == pytest.approx(math.sqrt(2) ** 10)


def test_evenly_keeps_both_ends():
    assert evenly(range(10), 4) == [0, 3, 6, 9] and evenly([1, 2], 5) == [1, 2]
