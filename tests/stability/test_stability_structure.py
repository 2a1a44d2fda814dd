"""Symplectic defects, running backwards, gradient angles and heat maps against closed forms and loops by hand."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import odenet as on
from odenet import fields
from odenet.errors import BadInput, Incompatible
from odenet.flow import Chain, Flow
from odenet.stability import (
    Watch,
    gradient_angle,
    gradient_norms,
    jacobian,
    lyapunov,
    report,
    reversibility,
    sensitivity,
    sensitivity_over,
    symplectic,
    symplectic_defect,
    unroll,
)
from odenet.stability.structure import form

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, generator=G, dtype=torch.float64)
CANONICAL = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])


# ---- symplectic form -------------------------------------------------------------------------------------------------


def test_the_form_is_the_inverse_of_the_canonical_matrix_or_of_that_of_the_field():
    assert form(4).numpy() == pytest.approx(np.linalg.inv(CANONICAL))
    full = np.triu(np.ones((4, 4)), 1) - np.tril(np.ones((4, 4)), -1)
    assert form(4, fields.HamiltonianJ(4, J="full")).numpy() == pytest.approx(np.linalg.inv(full))
    assert form(4, fields.HamiltonianJ(4)).numpy() == pytest.approx(np.linalg.inv(CANONICAL))


def test_euler_on_an_oscillator_has_the_defect_h_omega_squared():
    """M = [[1, h w], [-h w, 1]] has M^T J M = (1 + h^2 w^2) J, and n steps (1 + h^2 w^2)^n."""
    u = unroll(Flow(fields.HarmonicOscillator(2.0), "euler", depth="shared", steps=5), X[:, :2])
    found = symplectic(u)
    assert found.layers == list(range(5))
    assert found.steps.numpy() == pytest.approx(np.full((5, 3), 0.16))
    assert found.whole.numpy() == pytest.approx(np.full(3, 1.16**5 - 1))


def test_the_defect_of_a_scaling_is_the_factor_of_its_area():
    M = torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64))[None]
    assert float(symplectic_defect(M, form(2))) == pytest.approx(5.0)


@pytest.mark.parametrize("integrator", ["symplectic_euler", "verlet", "yoshida4"])
@pytest.mark.parametrize("field", [
    fields.SeparableHamiltonian(4, gain=2.0), fields.HamiltonianJ(4, form="h2", gain=2.0), fields.SecondOrder(4),
])  # fmt: skip
def test_gradient_fields_under_symplectic_methods_keep_the_form_to_rounding(field, integrator):
    found = symplectic(unroll(Flow(field, integrator, steps=32, span=(0.0, 3.2)), X))
    assert float(found.steps.max()) < 1e-14 and float(found.whole.max()) < 1e-11


def test_the_one_layer_form_is_a_product_of_shears_that_are_not_symplectic():
    """q' = s(K p + b), p' = -s(K^T q + b) has determinant 1 all the same."""
    u = unroll(Flow(fields.SeparableHamiltonian(4, layers=1, gain=2.0), "verlet", steps=16, span=(0.0, 3.2)), X)
    assert float(symplectic(u).whole.max()) > 0.1
    assert float(lyapunov(u).log_volume.abs().max()) < 1e-12


def test_leapfrog_keeps_the_form_of_two_successive_states():
    u = unroll(Flow(fields.SecondOrder(4, gain=2.0), "leapfrog", steps=12, span=(0.0, 3.0)), X)
    found = symplectic(u)
    assert found.layers == list(range(1, 12))  # the first step makes the memory
    assert float(found.steps.max()) < 1e-14 and float(found.whole.max()) < 1e-10


@pytest.mark.parametrize("J", ["canonical", "full"])
def test_the_defect_of_a_hamiltonian_net_falls_with_the_order_of_its_method(J):
    def defect(integrator, steps):
        flow = Flow(fields.HamiltonianJ(4, J=J), integrator, depth="shared", steps=steps)
        return float(symplectic(unroll(flow, X)).whole.max())

    assert defect("euler", 32) / defect("euler", 64) == pytest.approx(2.0, rel=0.1)
    assert defect("rk4", 8) / defect("rk4", 16) > 12.0
    assert defect("implicit_midpoint", 8) < 1e-12  # symplectic for every constant J


def test_models_without_halves_have_no_defect():
    assert symplectic(unroll(Flow(fields.Free(4), steps=2), X)) is None
    assert symplectic(unroll(nn.Sequential(nn.Linear(4, 4)).double(), X)) is None


# ---- running backwards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "integrator"), [
    (fields.SeparableHamiltonian(4), "verlet"), (fields.SecondOrder(4), "leapfrog"), (fields.Free(4), "momentum"),
    (fields.Antisymmetric(4), "two_step_midpoint"), (fields.Free(4), "reversible_rk4"),
])  # fmt: skip
def test_reversible_flows_find_their_start_to_the_rounding_of_their_precision(field, integrator):
    table = reversibility(Flow(field, integrator, steps=16), X)
    assert table.columns == ("steps", "float32", "float64") and [r[0] for r in table.rows] == [4, 8, 12, 16]
    single, double = (np.array([r[i] for r in table.rows]) for i in (1, 2))
    assert 1e-8 < single.max() < 1e-4 and double.max() < 1e-12
    assert 1e6 < single.max() / max(double.max(), 1e-17) < 1e11


def test_what_a_momentum_net_damps_is_amplified_on_the_way_back():
    """y_{n+1} = (1 + g) y_n - g y_{n-1}: going back multiplies a rounding error by 1/g in every step."""
    flow = Flow(lambda y: 0.0 * y, on.integrators.TwoStep(-0.5), depth="shared", steps=60)
    rows = reversibility(flow, X, depths=6).rows
    growth = [b[2] / a[2] for a, b in pairwise(rows[2:])]
    assert np.mean(growth) == pytest.approx(2.0**10, rel=0.7) and rows[-1][2] > 1e-3


def test_an_integrator_without_inverse_is_refused():
    with pytest.raises(Incompatible, match="has none"):
        reversibility(Flow(fields.Free(4), "euler", steps=2), X)


def test_gradients_of_the_computed_steps_have_no_angle_to_autograd():
    flow = Flow(fields.SeparableHamiltonian(4), "verlet", steps=12).double()
    for name in ("reversible", "checkpoint", "discrete"):
        assert gradient_angle(flow, X, name) < 1e-12
    assert 0.0 < gradient_angle(Flow(fields.SeparableHamiltonian(4), "verlet", steps=12), X.float()) < 1e-5


def test_the_angle_of_the_adjoint_equations_is_that_of_two_loops_by_hand():
    """y' = c_n y with euler; the adjoint goes back with euler, whose slopes are those at the end of an interval."""
    c, h = np.array([0.5, -1.0, 2.0]), 1 / 3
    flow = Flow(fields.Free(1, activation="identity"), "euler", steps=3).double()
    with torch.no_grad():
        flow.weights["K"].copy_(torch.tensor(c).reshape(3, 1, 1))
        flow.weights["b"].zero_()
    y = [1.5]
    for k in c:
        y.append(y[-1] * (1 + h * k))
    back = [np.prod(1 + h * c[n:]) for n in range(4)]
    exact = np.array([back[0], *(h * back[n + 1] * y[n] for n in range(3)), *(h * back[n + 1] for n in range(3))])
    a, dK, db = 1.0, np.zeros(3), np.zeros(3)
    for n in (2, 1, 0):
        dK[n], db[n] = h * a * y[n + 1], h * a
        a *= 1 + h * c[n]
    adjoint = np.array([a, *dK, *db])
    cosine = exact @ adjoint / np.linalg.norm(exact) / np.linalg.norm(adjoint)
    found = gradient_angle(flow, torch.tensor([[1.5]], dtype=torch.float64), "continuous")
    assert found == pytest.approx(math.acos(cosine), rel=1e-9) and found > 0.01


# ---- over training and seeds -----------------------------------------------------------------------------------------


def test_the_heat_map_holds_the_largest_sensitivity_of_every_layer_and_net():
    nets = {f"seed {s}": Flow(fields.Free(4), steps=3, seed=s) for s in range(3)}
    table = sensitivity_over(nets, X)
    assert table.columns == ("layer", "seed 0", "seed 1", "seed 2")
    for i, net in enumerate(nets.values()):
        expected = sensitivity(unroll(net, X)).backward.amax(1)
        assert [row[i + 1] for row in table.rows] == pytest.approx(expected.tolist())
    assert sensitivity_over(list(nets.values()), X).columns == ("layer", "0", "1", "2")
    with pytest.raises(BadInput, match="equal depth"):
        sensitivity_over([Flow(fields.Free(4), steps=2), Flow(fields.Free(4), steps=3)], X)


def test_a_watch_sees_training_without_changing_it():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] * x[:, 1] > 0).long()

    def trained(callbacks):
        net = Chain(nn.Linear(2, 4), Flow(fields.Free(4, dropout=0.2), steps=3), nn.Linear(4, 2))
        with torch.no_grad():
            for i, p in enumerate(net.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        on.fit(net, (x, y), steps=7, lr=1e-2, callbacks=callbacks)
        return net

    watch, last = Watch(x[:5], y[:5], every=3), []
    plain, seen = trained([]), trained([watch, lambda fit: last.append(len(fit.history))])
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), seen.parameters()))
    table = watch.table()
    assert table.columns == ("step", "0", "1", "2") and [row[0] for row in table.rows] == [1, 3, 6]
    assert last == list(range(1, 8))
    gradients = watch.gradients()
    assert gradients.columns == ("step", "parts.0", "parts.1[0]", "parts.1[1]", "parts.1[2]", "parts.2")
    watch_end = Watch(x[:5], y[:5], every=7)
    net = trained([watch_end])
    u = unroll(net, x[:5])
    assert watch_end.table().rows[-1][1:] == pytest.approx(sensitivity(u).backward.amax(1).tolist())
    assert watch_end.gradients().rows[-1][1:] == pytest.approx([v for _, v in gradient_norms(u.model, u.x, y[:5])])


# ---- in the report ---------------------------------------------------------------------------------------------------


def test_a_report_lists_structure_where_there_is_some():
    found = report(Flow(fields.SecondOrder(4), "verlet", steps=4), X.float(), quick=True).to_dict()
    assert found["symplectic_defect"] < 1e-14 and abs(found["log_volume"]) < 1e-12
    assert found["reversibility_float64"] < 1e-14 < found["reversibility_float32"] < 1e-5
    assert found["energy_over_linear"] <= 1.0 + 1e-2
    bare = report(Flow(fields.Free(4), steps=4), X.float(), quick=True).to_dict()
    absent = {"symplectic_defect", "reversibility_float32", "gradient_angle", "energy_over_linear"}
    assert not (absent | {"contractivity_margin"}) & set(bare)
    assert {"lyapunov_max", "range_inside_share", "eigenvector_condition", "difference_rate"} <= set(bare)


def test_an_image_net_is_analysed_without_any_jacobian(monkeypatch):
    """24 x 24 pixels and 2 channels: 1152 entries, whose Jacobian has 1.3 million."""
    asked = []
    for name in ("sensitivity", "spectrum", "lipschitz"):
        module = sys.modules[f"odenet.stability.{name}"]
        monkeypatch.setattr(module, "jacobian", lambda *a: asked.append(a[2]) or jacobian(*a))
    flow = Flow(fields.Parabolic(2, map="conv2d", constraint=fields.SpectralCap(1.0)), steps=2, span=(0.0, 2.0))
    net = Chain(nn.Conv2d(1, 2, 3, padding=1), flow, nn.Flatten(), nn.Linear(1152, 3))
    rep = report(net, torch.randn(6, 1, 24, 24, generator=torch.Generator().manual_seed(0)), quick=True)
    found = rep.to_dict()
    assert asked and max(asked) == 3  # outputs of the whole net
    assert found["points"] == 1 and found["spectral_abscissa"] <= 1e-9 and found["sensitivity_max"] <= 1 + 1e-9
    assert found["proved_nonexpansive"] == 1.0 and found["contractivity_margin"] > 0.0
    assert not {"henrici", "lognorm_1", "singular_min", "symplectic_defect", "range_inside_share"} & set(found)
    assert not any(math.isnan(v) for v in found.values())
    assert all(row[5] is None for row in rep.tables["layers"].rows)  # smallest singular values
