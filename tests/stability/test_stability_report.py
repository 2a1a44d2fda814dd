"""The report as users see it: every net, flat numbers, files, and sentences for what cannot be analysed."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch
from torch import nn

import odenet.nets.baselines
import odenet.nets.zoo  # noqa: F401 - registers
from odenet import fields
from odenet.errors import BadInput
from odenet.flow import Chain, Flow
from odenet.nets.base import NETS
from odenet.stability import predict, report

torch.set_num_threads(1)
ODE = [name for name in NETS.names() if NETS.get(name).kind == "ode" and NETS.get(name).takes == "vector"]
X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
QUICK = {"points": 2, "draws": 1, "noise": (0.1,), "refine": (1,), "attacks": ()}


@pytest.mark.parametrize("name", [*ODE, "mlp", "perceptron"])
def test_every_net_gets_a_report_of_flat_finite_numbers_and_a_sentence(name):
    options = {} if name in ("mlp", "perceptron") else {"width": 8, "steps": 3}
    model = NETS.get(name)(dim_in=6, dim_out=3, **options)
    rep = report(model, X, Y, **QUICK)
    found = rep.to_dict()
    assert all(isinstance(k, str) and type(v) in (int, float) for k, v in found.items())
    assert not any(math.isnan(v) for v in found.values())
    assert rep.verdict.standing in ("proved", "indicated", "measured") and rep.verdict.sentence.endswith(".")
    assert 0.0 <= found["accuracy"] <= 1.0 and found["accuracy_input_noise_0.1"] <= 1.0
    assert found["sensitivity_max"] >= found["sensitivity_min"] >= 0.0
    if name in ODE:
        flow = next(model.flows())
        third = (flow.span[1] - flow.span[0]) / 3  # adaptive steps are as long or shorter
        assert found["h"] == pytest.approx(third) or (flow.adaptive and 0.0 < found["h"] < third)
        assert "h_stable" in found and found["inside_share"] <= 1.0


def net(**options):
    return NETS.get("resnet")(dim_in=6, dim_out=3, width=8, steps=4, **options)


def test_accuracy_needs_labels():
    assert not any(k.startswith("accuracy") for k in report(net(), X, **QUICK).to_dict())
    for y in (Y.float(), Y[:3], "cat"):
        with pytest.raises(BadInput, match="class labels"):
            report(net(), X, y)
    with pytest.raises(BadInput, match="labels from 0 to 9 need outputs"):
        report(net(), X, torch.arange(20) % 10)


def test_the_own_integrator_without_refinement_has_the_accuracy_of_the_net():
    found = report(net(), X, Y, integrators=("rk4",), **QUICK).to_dict()
    assert (
        found["accuracy_euler_x1"]
        == found["accuracy"]
        == pytest.approx(float((net()(X).argmax(1) == Y).float().mean()))
    )
    assert "accuracy_rk4_x1" in found and "accuracy_midpoint_x1" not in found


def test_a_report_repeats_and_leaves_the_net_as_it_was():
    model = net().train()
    before = [p.clone() for p in model.parameters()]
    a, b = report(model, X, Y, **QUICK), report(model, X, Y, **QUICK)
    assert a.to_dict() == b.to_dict() and a.verdict == b.verdict
    assert all(
        torch.equal(p, q) and p.grad is None and p.dtype == torch.float32 for p, q in zip(model.parameters(), before)
    )
    assert model.training and all(m.training for m in model.modules())


def test_files_hold_the_numbers_the_sentence_and_the_data_of_every_figure(tmp_path):
    rep = report(net(), X, Y, **QUICK)
    folder = rep.save(tmp_path / "deep" / "report")
    saved = json.loads((folder / "report.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert saved["verdict"]["sentence"] == rep.verdict.sentence and saved["metrics"] == rep.to_dict()
    names = {p.name for p in folder.iterdir()}
    for figure, data in {
        "spectrum": "eigenvalues",
        "sensitivity": "layers",
        "exchange": "exchange",
        "noise": "noise",
    }.items():
        assert {f"{figure}.png", f"{figure}.svg", f"{data}.csv"} <= names
        assert (folder / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
    with (folder / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["0", "1", "2", "3"]
    assert max(float(row["sensitivity_max"]) for row in rows) == pytest.approx(rep.to_dict()["sensitivity_max"])
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    with (folder / "eigenvalues.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 2 * 8


def test_infinite_numbers_are_null_in_json(tmp_path):
    rep = report(Flow(lambda y: 0.0 * y, depth="shared", steps=2), X, **QUICK)
    assert rep.to_dict()["h_stable"] == math.inf
    assert json.loads((rep.save(tmp_path) / "report.json").read_text())["metrics"]["h_stable"] is None


def test_plain_layers_have_no_spectrum_but_sensitivities():
    torch.manual_seed(0)
    rep = report(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), X, Y, **QUICK)
    found = rep.to_dict()
    assert not {"h", "h_stable", "lognorm_2", "inside_share"} & set(found) and rep.integrator == ""
    assert found["singular_max"] == pytest.approx(found["output_sensitivity"])
    assert "spectrum" not in rep.figures() and "sensitivity" in rep.figures()
    listed = report([lambda v: 2.0 * v, lambda v: v[:, :3]], X, Y, **QUICK).to_dict()
    assert listed["sensitivity_max"] == pytest.approx(2.0) and "accuracy" in listed


def test_a_sequential_with_a_flow_inside_is_analysed_like_a_chain():
    flow = Flow(fields.Free(6), steps=3)
    a, b = report(nn.Sequential(nn.Identity(), flow), X, **QUICK), report(Chain(nn.Identity(), flow), X, **QUICK)
    assert a.to_dict() == b.to_dict() and a.to_dict()["h"] == pytest.approx(1 / 3)
    nested = report(nn.Sequential(Chain(nn.Identity(), flow), nn.Sequential(nn.Identity())), X, **QUICK)
    assert nested.to_dict() == a.to_dict()


def test_a_function_that_holds_single_precision_tensors_is_analysed_in_single_precision():
    A = -torch.eye(6)
    assert report(Flow(lambda y: y @ A, depth="shared", steps=2), X).to_dict()["sensitivity_max"] == pytest.approx(0.5)


def test_images_are_analysed_with_few_samples():
    flow = Flow(fields.Parabolic(3, map="conv2d"), steps=2)
    found = report(Chain(nn.Conv2d(1, 3, 3, padding=1), flow), torch.randn(8, 1, 6, 6)).to_dict()
    assert found["points"] == 8 and found["spectral_abscissa"] <= 1e-9


@pytest.mark.slow
def test_depth_a_thousand_fits_because_samples_are_given_up():
    found = report(Flow(fields.Free(4), depth="shared", steps=1000), X[:, :4], points=3, layers=8).to_dict()
    assert found["layers"] == 1000 and found["points"] == 3
    from odenet.stability.unroll import BUDGET, affordable

    wide = Flow(fields.Free(128), depth="shared", steps=512)
    assert affordable(wide, torch.randn(9, 128), 9) == BUDGET // (512 * 128**2)


def test_running_statistics_and_dropout_are_used_as_in_evaluation():
    flow = Flow(fields.Free(6, norm="batch", dropout=0.5), steps=2).train()
    assert report(flow, X, **QUICK).to_dict() == report(flow, X, **QUICK).to_dict()
    assert flow.training


@pytest.mark.parametrize(
    "x",
    [torch.zeros(3, 6, dtype=torch.int64), [[1.0] * 6], torch.zeros(0, 6), torch.zeros(3, 6, dtype=torch.complex64)],
)
def test_inputs_that_are_no_batch_of_real_numbers_are_refused(x):
    with pytest.raises(BadInput, match="batch of real floating-point"):
        report(net(), x)


def test_a_module_that_is_no_row_of_layers_is_refused():
    with pytest.raises(BadInput, match="not a row of layers"):
        report(nn.LSTM(6, 3), X)
    with pytest.raises(BadInput, match="no flow in this model"):
        predict(nn.Sequential(nn.Linear(6, 3)), X)
    with pytest.raises(BadInput, match="points and draws"):
        report(net(), X, points=0)


def test_a_prediction_is_what_the_report_says_before_anything_is_measured():
    model = NETS.get("parabolic")(dim_in=6, dim_out=3, width=8, steps=4)
    found, rep = predict(model, X, points=20), report(model, X, points=20).to_dict()
    assert {"h", "h_stable", "h_contractive", "lognorm_integral", "lognorm_bound"} <= set(found)
    assert all(rep[k] == pytest.approx(v) for k, v in found.items())


def test_text_and_html_show_the_sentence_and_escape_it():
    rep = report(net(), X, **QUICK)
    assert repr(rep).startswith(rep.verdict.sentence) and "sensitivity_max" in repr(rep)
    assert "<table>" in rep._repr_html_() and "dy_4/dy_0" in rep._repr_html_()


def test_an_adaptive_flow_is_analysed_at_the_steps_it_takes():
    found = report(Flow(lambda y: -y, "dopri5", depth="shared", steps=2, rtol=1e-9), X).to_dict()
    assert found["sensitivity_max"] == pytest.approx(math.exp(-0.5), rel=1e-8) and found["h"] < 0.5
