"""What a report tries out: present where a model admits it, absent where not, and never a bound called robust."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenet import fields, nets
from odenet.errors import BadInput
from odenet.flow import Chain, Flow
from odenet.stability import report

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
FEW = {"points": 2, "draws": 1, "noise": (0.1,), "refine": (1,), "integrators": ("euler", "rk4")}
TRIED = {"lesion_max", "prolongation_change", "output_change_bf16", "output_change_int8", "observed_order"}
SCORED = {"accuracy_bf16", "critical_h_euler", "critical_h_rk4", "masking_flags", "hessian_max", "sharpness"}


def net(**words):
    return nets.resnet(3, 2, **{"width": 4, "steps": 4, **words})


def test_a_full_report_of_a_classifier_has_every_trial_and_its_tables():
    model = net()
    rep = report(model, X, model(X).argmax(1), **FEW)
    assert set(rep.metrics) >= TRIED | SCORED
    assert {"lesions", "refinement", "depths", "solvers", "attacks", "attack_steps", "masking"} <= set(rep.tables)
    assert rep.metrics["observed_order"] == pytest.approx(1, abs=0.1)
    assert rep.metrics["accuracy_bf16"] >= 0.9 and rep.metrics["masking_flags"] == 0
    curve = [r[-2] for r in rep.tables["attacks"].rows]
    assert curve[0] == 1.0 and curve == sorted(curve, reverse=True) and len(curve) == 4
    robust = [k for k in rep.metrics if k.startswith("robust_accuracy_linf_")]
    assert len(robust) == 3 and [rep.metrics[k] for k in robust] == curve[1:]
    assert not any(math.isnan(v) for v in rep.metrics.values())


def test_without_labels_nothing_is_attacked_and_a_quick_report_takes_one_pass_or_two():
    free = report(net(), X, **FEW)
    assert set(free.metrics) >= TRIED and not SCORED & set(free.metrics) and "attacks" not in free.tables
    model = net()
    quick = report(model, X, model(X).argmax(1), quick=True)
    assert {"lesion_max", "prolongation_change"} <= set(quick.metrics)
    assert not (SCORED | TRIED - {"lesion_max", "prolongation_change"}) & set(quick.metrics)
    calm = report(model, X, model(X).argmax(1), attacks=(), **FEW)
    assert "critical_h_rk4" in calm.metrics and not {"masking_flags", "hessian_max"} & set(calm.metrics)


def test_a_row_of_layers_without_a_flow_is_attacked_and_has_lesions_but_no_order():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    rep = report(model, X, model(X).argmax(1), **FEW)
    assert {"lesion_max", "masking_flags", "hessian_max", "accuracy_int8"} <= set(rep.metrics)
    assert not {"observed_order", "prolongation_change", "critical_h_euler"} & set(rep.metrics)


def test_steps_that_adapt_leave_an_upper_bound_and_say_so():
    model = Chain(Flow(fields.Free(3), "bosh3", steps=1, rtol=1e-3), nn.Linear(3, 2))
    rep = report(model, X[:8], model(X[:8]).argmax(1), attacks=(0.2,), **FEW)
    assert rep.metrics["masking_flags"] >= 1 and not any(k.startswith("robust") for k in rep.metrics)
    assert "adaptive" in [r[0] for r in rep.tables["masking"].rows]
    assert rep.tables["attacks"].rows[1][-1].startswith("upper bound only")


def test_a_net_in_conflict_with_its_steps_is_seen_by_its_critical_step():
    """euler multiplies by 1 - 1.5 at h and by 1 - 3 at 2 h: even numbers of steps hide the signs, one does not."""
    flow = Flow(lambda v: -1.5 * v, "euler", depth="shared", steps=4, span=(0.0, 4.0))
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    x = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]])
    rep = report(Chain(flow, head), x, torch.tensor([0, 1, 0, 1]), **FEW)
    drops = {(r[1], r[2]): r[5] for r in rep.tables["solvers"].rows}
    assert drops["euler", 1] == drops["euler", 2] == 0.0 and drops["euler", 4] == 1.0  # 1 - 6 < 0
    assert rep.metrics["critical_h_euler"] == 2.0 and rep.metrics["critical_h_rk4"] == 4.0


def test_attacks_stay_in_the_box_and_words_that_cannot_be_right_are_refused():
    model = net()
    y = model(X).argmax(1)
    with pytest.raises(BadInput, match="outside the box"):
        report(model, X, y, box=(0.0, 1.0), **FEW)
    with pytest.raises(BadInput, match="positive, rising radii"):
        report(model, X, y, attacks=(0.2, 0.1), **FEW)
