"""The predicted h of failure: closed forms on linear fields, runs on nets, and no wrong proof among random nets."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from odenet import fields
from odenet.errors import BadInput, Incompatible
from odenet.flow import Chain, Flow
from odenet.integrators import TwoStep
from odenet.stability import unroll
from odenet.stability.prediction import LOST, measure_failure, predict_exchange, predict_failure
from odenet.stability.verdict import BOUNDED

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def decay(rate, integrator="euler", span=4.0):
    return Flow(lambda y: -rate * y, integrator, depth="shared", steps=2, span=(0.0, span)).double()


# ---- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [predict_failure, measure_failure])
def test_on_decay_growth_is_the_power_of_one_minus_z(look):
    found = look(decay(6.0), X, (1, 2, 4, 8, 16))
    assert found.h == (2.0, 1.0, 0.5, 0.25, 0.125) and found.exact == pytest.approx(math.exp(-12.0), rel=1e-2)
    for h, g in zip(found.h, found.growth):  # after one knot interval, or after both
        assert g == pytest.approx(max(abs(1 - 6 * h) ** (2.0 / h), abs(1 - 6 * h) ** (4.0 / h)), rel=1e-9)
    assert found.h_growth == 0.5  # |1 - 3|^8, and at h = 0.25 |1 - 1.5|^16
    assert found.grows == (True, True, True, False, False)


@pytest.mark.parametrize(("integrator", "limit"), [("euler", 2.0), ("rk4", 2.785), ("ab2", 1.0)])
def test_the_scan_straddles_the_real_stability_interval(integrator, limit):
    found = predict_failure(decay(10.0, integrator, span=40.0), X, (32, 48, 64, 96, 128, 192, 256))
    ok = max(h for h, bad in zip(found.h, found.grows) if not bad)
    assert 10 * ok <= limit * 1.001 and 10 * found.h_growth > limit * 0.999


@pytest.mark.parametrize("look", [predict_failure, measure_failure])
def test_the_bound_is_relative_to_the_growth_of_the_exact_flow(look):
    found = look(Flow(lambda y: y, "rk4", depth="shared", steps=2, span=(0.0, 5.0)), X, (4, 8))
    assert found.exact == pytest.approx(math.exp(5.0), rel=1e-3) and max(found.growth) > BOUNDED
    assert found.grows == (False, False) and found.h_growth == math.inf


@pytest.mark.parametrize("integrator", ["euler", "heun", "rk3", "ab2"])
def test_the_deviation_on_decay_is_that_of_the_closed_form(integrator):
    flow = decay(1.0, integrator, span=2.0)
    predicted, measured = (look(flow, X, (32, 64)) for look in (predict_failure, measure_failure))
    if integrator == "euler":
        wanted = [max(abs((1 - h) ** (n / h) - math.exp(-n)) for n in (1, 2)) / (1 - math.exp(-2)) for h in measured.h]
        assert measured.deviation == pytest.approx(wanted, rel=1e-6)
    assert predicted.deviation == pytest.approx(measured.deviation, rel=0.05)


# ---- nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "integrator", "depth"), [
    ("Free", "euler", "per_step"), ("Free", "ab2", "shared"), ("Antisymmetric", "heun", "shared"),
    ("SeparableHamiltonian", "symplectic_euler", "per_step"), ("SecondOrder", "verlet", "shared"),
    ("Free", TwoStep(-0.5), "shared"), ("Antisymmetric", "two_step_midpoint", "per_step"),
])  # fmt: skip
def test_at_small_steps_the_deviation_is_predicted_to_a_tenth(field, integrator, depth):
    flow = Flow(getattr(fields, field)(4), integrator, depth=depth, steps=2, span=(0.0, 2.0), seed=3)
    predicted, measured = (look(flow, X, (16, 24)) for look in (predict_failure, measure_failure))
    assert max(measured.deviation) < LOST
    assert predicted.deviation == pytest.approx(measured.deviation, rel=0.1)
    assert predicted.growth == pytest.approx(measured.growth, rel=0.1)


def test_with_weights_that_move_the_corrections_are_taken_at_five_points_and_good_to_a_fifth():
    flow = Flow(fields.Parabolic(4), "midpoint", depth="piecewise_linear", steps=2, span=(0.0, 2.0), seed=3)
    predicted, measured = (look(flow, X, (16, 24)) for look in (predict_failure, measure_failure))
    assert predicted.deviation == pytest.approx(measured.deviation, rel=0.2)


def test_saturation_keeps_growth_bounded_and_so_the_deviation_is_what_fails():
    flow = Flow(fields.Parabolic(4, gain=2.0), "rk4", depth="shared", steps=2, span=(0.0, 8.0), seed=3)
    predicted, measured = (look(flow, X, (4, 6, 8)) for look in (predict_failure, measure_failure))
    assert predicted.h_growth < math.inf and measured.h_growth == math.inf  # what the prediction cannot see
    assert abs(predicted.h.index(predicted.h_failure) - measured.h.index(measured.h_failure)) <= 1


def test_an_unrolled_net_has_the_states_of_the_net_where_a_method_starts_afresh_at_the_knots():
    flow = Flow(fields.Free(4), "two_step_midpoint", steps=3, substeps=4, span=(0.0, 3.0)).double()
    u = unroll(flow, X)
    assert torch.equal(torch.stack([state[0] for state in u.states]), flow.trajectory(X))


@pytest.mark.parametrize("steps", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_an_exchange_of_integrators_is_predicted_without_running_it(steps):
    torch.manual_seed(0)
    field = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    net = Chain(nn.Linear(4, 2), Flow(field, "euler", depth="shared", steps=steps, span=(0.0, 2.0)), nn.Linear(2, 3))
    now, predicted, run = predict_exchange(net, X, "rk4", steps)
    assert torch.allclose(now, net.double()(X)) and float((run - now).norm()) > 1e-4
    assert float((predicted - run).norm()) < 6.0 / steps * float((run - now).norm())


def test_what_cannot_be_scanned_says_so():
    with pytest.raises(BadInput, match="chooses its own steps"):
        predict_failure(Flow(fields.Free(4), "dopri5", steps=2), X)
    with pytest.raises(Incompatible, match="without velocities"):
        measure_failure(Flow(fields.SecondOrder(4), "leapfrog", steps=2), X)
    with pytest.raises(BadInput, match="factors are whole numbers"):
        measure_failure(Flow(fields.Free(4), steps=2), X, ())
    with pytest.raises(BadInput, match="one flow"):
        predict_exchange(Chain(Flow(fields.Free(4)), Flow(fields.Free(4))), X)


# ---- random nets -----------------------------------------------------------------------------------------------------


def bench():
    path = Path(__file__).parents[1] / "bench" / "bench_prediction.py"
    spec = importlib.util.spec_from_file_location("bench_prediction", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(2000, 2020))
def test_no_proof_is_wrong_on_a_random_net(seed):
    b = bench()
    _, flow, x = b.drawn(seed)
    for steps in (1, 4):
        assert not b.proofs(flow, x, steps)["wrong"]


def test_a_wrong_proof_would_be_noticed(monkeypatch):
    b = bench()
    monkeypatch.setattr(b, "nonexpansive", lambda u: True)
    flow = Flow(lambda y: y, "euler", depth="shared", steps=2)
    assert b.proofs(flow, X, 1)["wrong"]
