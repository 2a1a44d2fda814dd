"""The verdict: what is proved, what eigenvalues may say, and that they never make a network stable."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import nn

from odenet import fields
from odenet.flow import Chain, Flow
from odenet.stability import BOUNDED, VANISHING, report
from odenet.stability.verdict import spans

torch.set_num_threads(1)
X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def vinograd(t, y):
    """y' = A(t) y with eigenvalues -1 and -10 at every t, and solutions that grow like exp(2 t)."""
    s, c = math.sin(6 * t), math.cos(6 * t)
    A = [[-1 - 9 * c * c + 12 * s * c, 12 * c * c + 9 * s * c], [-12 * s * s + 9 * s * c, -1 - 9 * s * s - 12 * s * c]]
    return y @ torch.tensor(A, dtype=y.dtype).T


SHEAR = torch.tensor([[-1.0, 100.0], [0.0, -1.0]], dtype=torch.float64)


def rotation(integrator="euler", steps=40, span=(0.0, 20.0)):
    A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    return Flow(lambda y: y @ A.T, integrator, depth="shared", steps=steps, span=span)


# ---- eigenvalues never make a network stable -------------------------------------------------------------------------


def test_the_vinograd_system_has_stable_eigenvalues_and_a_norm_of_180_at_3_according_to_scipy():
    def f(t, y):
        return vinograd(t, torch.tensor(y, dtype=torch.float64)[None])[0].numpy()

    A = np.stack([f(0.77, e) for e in np.eye(2)], axis=1)
    assert sorted(np.linalg.eigvals(A)) == pytest.approx([-10, -1])
    end = solve_ivp(f, (0, 3), [1.0, 0.0], rtol=1e-10, atol=1e-12).y[:, -1]
    assert np.linalg.norm(end) == pytest.approx(180.4, abs=0.1)


@pytest.mark.parametrize("integrator", ["rk4", "heun", "ab3"])
def test_the_vinograd_system_is_measured_unstable_though_every_eigenvalue_lies_inside_the_region(integrator):
    rep = report(Flow(vinograd, integrator, depth="shared", span=(0.0, 3.0), steps=300), X)
    found = rep.to_dict()
    assert found["inside_share"] == 1.0 and found["spectral_abscissa"] == pytest.approx(-1.0, abs=1e-6)
    assert rep.verdict.stable is False and rep.verdict.standing == "measured"
    assert "every eigenvalue lies inside" in rep.verdict.sentence and rep.verdict.remedy
    assert found["lognorm_integral"] == pytest.approx(6.0)  # (A + A^T)/2 has the eigenvalue 2 at every t


def test_the_vinograd_sensitivity_is_that_of_scipy():
    rep = report(Flow(vinograd, "rk4", depth="shared", span=(0.0, 3.0), steps=300), X)

    def f(t, y):
        return vinograd(t, torch.tensor(y.reshape(2, 2).T)).numpy().T.ravel()

    M = solve_ivp(f, (0, 3), np.eye(2).ravel(), rtol=1e-11, atol=1e-13).y[:, -1].reshape(2, 2)
    assert rep.to_dict()["forward_worst"] == pytest.approx(np.linalg.norm(M, 2), rel=1e-3)


@pytest.mark.parametrize("span", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_a_shear_with_eigenvalues_minus_one_is_never_called_stable(integrator, span):
    rep = report(Flow(lambda y: y @ SHEAR.T, integrator, depth="shared", steps=100, span=(0.0, span)), X)
    found = rep.to_dict()
    assert found["outside_share"] == 0 and rep.verdict.stable is False and rep.verdict.standing == "measured"
    # with 100 steps a layer ends near t = 1 before the end, where exp(t A) is largest
    largest = max(np.linalg.norm(expm(t * SHEAR.numpy()), 2) for t in np.linspace(0, min(span, 3.0), 61))
    assert found["sensitivity_max"] == pytest.approx(largest, rel=0.15)


# ---- proofs ----------------------------------------------------------------------------------------------------------


def parabolic(h_norm_squared, integrator="euler", steps=3):
    """h |K|^2 as given, |K| = 1."""
    flow = Flow(fields.Parabolic(2), integrator, steps=steps, span=(0.0, steps * h_norm_squared)).double()
    with torch.no_grad():
        K = flow.weights["K"]
        K.div_(torch.linalg.matrix_norm(K, ord=2)[:, None, None] * (1 + 1e-14))
        flow.weights["b"].zero_()
    return flow


def test_euler_on_a_parabolic_field_is_proved_non_expansive_up_to_h_k2_of_two():
    assert report(parabolic(1.999), X).verdict.standing == "proved"
    rep = report(parabolic(1.999), X)
    assert rep.verdict.stable is True and rep.to_dict()["proved_nonexpansive"] == 1
    assert rep.to_dict()["h_contractive"] == pytest.approx(2.0)
    for h in (2.001, 2.1):
        rep = report(parabolic(h), X)
        assert rep.verdict.standing != "proved" and rep.to_dict()["proved_nonexpansive"] == 0


def test_beyond_the_contractivity_limit_there_is_an_input_that_is_expanded():
    flow = parabolic(2.1, steps=1)
    v = torch.linalg.svd(flow.weights["K"][0]).Vh[:1].detach()
    with torch.no_grad():
        a, b = flow(1e-3 * v), flow(-1e-3 * v)
    assert float((a - b).norm()) > float((2e-3 * v).norm())


@pytest.mark.parametrize(
    ("integrator", "proved"), [("heun", True), ("rk4", True), ("ssprk3", True), ("midpoint", False), ("ab2", False)]
)
def test_only_methods_with_a_contractivity_radius_prove_anything(integrator, proved):
    flow = parabolic(1.0, integrator)
    assert report(flow, X).to_dict()["proved_nonexpansive"] == int(proved)
    if proved:
        far = 5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        near = far + torch.randn(500, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        assert bool(((flow(far) - flow(near)).norm(dim=1) <= (far - near).norm(dim=1)).all())


def test_weights_that_are_linear_in_depth_are_bounded_at_both_ends_of_every_interval():
    flow = Flow(fields.Parabolic(2), depth="piecewise_linear", steps=2, span=(0.0, 2.0)).double()
    with torch.no_grad():
        flow.weights["K"].zero_()
        flow.weights["K"][2, 0, 0] = 1.4  # |K|^2 = 1.96 at the last knot only
    assert report(flow, X).to_dict()["h_contractive"] == pytest.approx(2 / 1.96)
    assert report(flow, X).verdict.standing == "proved"
    with torch.no_grad():
        flow.weights["K"][2, 0, 0] = 1.5
    assert report(flow, X).to_dict()["proved_nonexpansive"] == 0


def test_no_proof_against_time_across_transfers_or_for_large_images():
    K = fields.SpectralCap(0.5)
    backwards = Flow(fields.Parabolic(2, constraint=K), span=(1.0, 0.0))
    assert report(backwards, X).to_dict()["proved_nonexpansive"] == 0
    two = Chain(Flow(fields.Parabolic(2, constraint=K)), nn.Linear(2, 2), Flow(fields.Parabolic(2, constraint=K)))
    assert report(two, X).to_dict()["proved_nonexpansive"] == 0
    images = Flow(fields.Parabolic(1, map="conv2d", constraint=K), steps=2)
    assert report(images, torch.randn(2, 1, 5, 5)).to_dict()["proved_nonexpansive"] == 1


def test_adaptive_steps_and_stencils_beyond_the_grid_prove_nothing():
    K = fields.SpectralCap(0.5)
    flow = Flow(fields.Parabolic(2, constraint=K), "bosh3", steps=2)
    assert flow.adaptive and report(flow, X).to_dict()["proved_nonexpansive"] == 0
    assert report(flow.with_integrator("bosh3", steps=2), X).to_dict()["proved_nonexpansive"] == 1
    for size, proved in ((30, 1), (31, 0)):  # a 3-stencil on a periodic grid of 32 points
        signal = Flow(fields.Parabolic(1, map="conv1d", constraint=K), steps=1)
        assert report(signal, torch.randn(2, 1, size)).to_dict()["proved_nonexpansive"] == proved


def test_a_non_expansive_exact_flow_does_not_prove_its_discretisation():
    rep = report(parabolic(2.05), X)
    assert rep.verdict.standing == "measured" and "exact flow is non-expansive (proved)" in rep.verdict.sentence


def test_gradients_under_a_symplectic_method_are_proved_not_to_vanish():
    rep = report(Flow(fields.SeparableHamiltonian(2), "verlet", steps=8), X)
    assert rep.to_dict()["proved_nonvanishing"] == 1 and rep.to_dict()["sensitivity_min"] >= 1 - 1e-12
    assert "cannot vanish (proved" in rep.verdict.sentence
    assert report(Flow(fields.SeparableHamiltonian(2), "rk4", steps=8), X).to_dict()["proved_nonvanishing"] == 0


# ---- indications and measurements ------------------------------------------------------------------------------------


def test_euler_on_a_rotation_is_indicated_unstable_and_the_remedy_works():
    rep = report(rotation(), X)
    v = rep.verdict
    assert (v.standing, v.stable) == (
        "indicated",
        False,
    ) and "every layer lies outside the region of euler" in v.sentence
    assert rep.to_dict()["sensitivity_max"] == pytest.approx(1.25**20) and rep.to_dict()["h_stable"] == 0.0
    assert v.remedy == "use rk4"
    cured = report(rotation("rk4"), X)
    assert cured.verdict.stable is True and cured.verdict.standing == "measured"
    assert cured.to_dict()["sensitivity_max"] <= 1.0


def test_the_sentence_names_the_layers_outside_and_the_reduction_of_h():
    flow = Flow(fields.Free(2, activation="identity"), steps=8, span=(0.0, 8.0)).double()
    with torch.no_grad():
        flow.weights["b"].zero_()
        flow.weights["K"].copy_(-0.5 * torch.eye(2).double())
        flow.weights["K"][3:6] = -4.0 * torch.eye(2).double()  # 1 - 4 = -3
    rep = report(flow, X)
    v = rep.verdict
    assert "layers 3-5 lie outside the region of euler (largest |amplification| 3 at layer 3)" in v.sentence
    assert v.layer == 3 and "reduce h by 2 (these weights: with_integrator('euler', steps=16))" in v.remedy
    assert report(flow.with_integrator("euler", steps=16), X).to_dict()["outside_share"] == 0


def test_modes_outside_that_the_inputs_do_not_show_leave_the_verdict_open():
    flow = Flow(fields.Free(2, activation="identity"), steps=2, span=(0.0, 2.0)).double()
    with torch.no_grad():  # I + K_0 = diag(-4, 0), I + K_1 = diag(0, -4): each amplifies what the other removes
        flow.weights["K"].copy_(
            torch.stack((torch.diag(torch.tensor([-5.0, -1.0])), torch.diag(torch.tensor([-1.0, -5.0]))))
        )
    rep = report(flow, X)
    assert rep.to_dict()["sensitivity_max"] == pytest.approx(4.0) and rep.to_dict()["singular_max"] == 0.0
    assert rep.verdict.standing == "indicated" and rep.verdict.stable is None
    assert "the spectra let one expect 16" in rep.verdict.sentence


def test_a_field_that_grows_is_told_from_a_step_that_is_too_long():
    rep = report(Flow(lambda y: y, "rk4", depth="shared", steps=10, span=(0.0, 4.0)), X)
    assert rep.verdict.stable is False and "the field itself grows" in rep.verdict.sentence
    assert rep.to_dict()["growing_share"] == 1.0 and rep.to_dict()["outside_share"] == 0.0


@pytest.mark.parametrize(("rate", "stable"), [(0.99 * math.log(BOUNDED), True), (1.01 * math.log(BOUNDED), False)])
def test_the_threshold_of_bounded_growth_is_the_stated_one(rate, stable):
    rep = report(Flow(lambda y: rate * y, "rk4", depth="shared", steps=50), X)
    assert rep.verdict.stable is stable and rep.verdict.standing == "measured"


@pytest.mark.parametrize(("factor", "vanish"), [(0.9, True), (1.1, False)])
def test_gradients_vanish_below_the_stated_threshold(factor, vanish):
    rate = math.log(factor * VANISHING)
    rep = report(Flow(lambda y: rate * y, "rk4", depth="shared", steps=50), X)
    assert rep.verdict.stable is True and ("vanish" in rep.verdict.sentence) is vanish
    assert rep.to_dict()["sensitivity_min"] == pytest.approx(factor * VANISHING, rel=1e-4)
    if vanish:
        assert rep.verdict.layer == 0 and "Hamiltonian" in rep.verdict.remedy


def test_numbers_that_are_not_finite_are_reported_at_their_layer():
    flow = Flow(fields.Free(2, activation="identity"), steps=4).double()
    with torch.no_grad():
        flow.weights["b"][2] = math.nan
    v = report(flow, X).verdict
    assert (v.standing, v.stable, v.layer) == ("measured", False, 2) and "layer 2" in v.sentence


def test_a_deep_tanh_net_of_small_weights_is_found_to_vanish():
    torch.manual_seed(0)
    layers = [m for _ in range(20) for m in (nn.Linear(8, 8), nn.Tanh())]
    rep = report(nn.Sequential(*layers), torch.randn(5, 8))
    assert "vanish" in rep.verdict.sentence and rep.verdict.standing == "measured"


def test_runs_of_layers_are_written_as_ranges():
    assert spans([3], 9) == "layer 3" and spans([3, 4, 5, 9], 16) == "layers 3-5, 9"
    assert spans([0, 2, 4, 6, 8], 16) == "5 of 16 layers"
