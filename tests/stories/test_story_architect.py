"""A researcher compares architectures: one line each, a verdict with its remedy, the equation that a net integrates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import odenet as on


def test_every_architecture_is_one_line_and_trains_on_digits() -> None:
    digits = on.data.load("digits")
    for net in (
        on.nets.resnet20(widths=(4, 8)),
        on.nets.parabolic_cnn(widths=(4, 8)),
        on.nets.hamiltonian_cnn(widths=(4, 8), gradient="reversible"),
        on.nets.mgnet(widths=(4, 8)),
        on.nets.imexnet(widths=(4, 8)),
        on.nets.resnet(64, 10, width=16, steps=4, depth={"K": "spline", "*": "shared"}),
        on.nets.neural_ode(64, 10, width=16),
    ):
        fit = on.fit(net, "digits", steps=3, lr=1e-3, seed=0)
        assert fit.status == "done" and math.isfinite(fit.history[-1]["loss"])
        assert net(digits.x_test).shape == (360, 10)


def test_image_nets_and_dense_nets_are_compared_under_their_integrators(tmp_path: Path) -> None:
    results = on.compare(
        data="digits", nets=["resnet", "parabolic_cnn", "cnn"], integrators=["euler", "rk4"], seeds=1, train_steps=4,
        width=8, steps=2, lr=[1e-2], spans=[1.0], theory=False, workers=1, out=str(tmp_path),
    )  # fmt: skip
    assert {(r["net"], r["integrator"]) for r in results.rows} == {
        ("resnet", "euler"), ("resnet", "rk4"), ("parabolic_cnn", "euler"), ("parabolic_cnn", "rk4"), ("cnn", "-"),
    }  # fmt: skip
    page = results.save(tmp_path / "it")
    assert (Path(page) / "report.html").is_file()


CASES = [("euler", 16.0), ("two_step_midpoint", 10.0)]


@pytest.mark.parametrize(("integrator", "span"), CASES)
def test_the_remedy_of_a_verdict_is_followed_and_the_growth_is_gone(integrator: str, span: float) -> None:
    words = {"width": 12, "steps": 16, "span": (0.0, span), "depth": "shared", "gamma": 0.0}
    x = on.data.load("digits").x_val[:32]
    before = on.stability.report(on.nets.antisymmetric(64, 10, integrator=integrator, **words), x, quick=True)
    assert before.verdict.stable is not True and "use rk4" in before.verdict.remedy
    after = on.stability.report(on.nets.antisymmetric(64, 10, integrator="rk4", **words), x, quick=True)
    assert after.verdict.stable
    assert after.metrics["transient_max"] < 0.5 * before.metrics["transient_max"]


def test_a_report_reads_a_plain_sequential_net_of_another_library() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 6), torch.nn.Tanh()] * 6
    net = torch.nn.Sequential(*layers, torch.nn.Linear(6, 3))
    report = on.stability.report(net, torch.randn(20, 6), quick=True)
    assert report.verdict.sentence and report.metrics["sensitivity_max"] > 0


def test_the_equation_that_a_net_really_integrates_predicts_what_another_solver_makes_of_it(double: None) -> None:
    flow = on.Flow(on.fields.Free(4), "euler", depth="shared", span=(0.0, 1.0), steps=20, seed=1)
    y = torch.randn(8, 4)
    equation = flow.modified_equation(2)
    with torch.no_grad():
        through = on.solve(equation, y, [0.0, 1.0], "dopri5", rtol=1e-10, atol=1e-12).y[-1]
        plain = on.solve(lambda t, v: flow.field(t, v, {k: w[0] for k, w in flow.weights.items()}), y, [0.0, 1.0],
                         "dopri5", rtol=1e-10, atol=1e-12).y[-1]  # fmt: skip
        net = flow(y)
    assert float((net - through).norm()) < 0.02 * float((net - plain).norm())


def test_a_deep_net_starts_from_a_trained_shallow_one() -> None:
    net = on.nets.resnet(2, 2, width=8, steps=4, depth="piecewise_linear", opening="pad", span=(0.0, 2.0))
    on.fit(net, "moons", steps=60, lr=2e-2, seed=0)
    deep = on.flow.multilevel.prolong(net)
    x = on.data.load("moons").x_test
    assert next(deep.flows()).steps == 8
    agree = (deep(x).argmax(1) == net(x).argmax(1)).double().mean()
    assert float(agree) > 0.9
