"""Equal parameters, evaluations and time: counts by hand, and pairs that cannot be made equal are named."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import odenet as on
from odenet.errors import BadInput
from odenet.experiment import protocol, run
from odenet.experiment.spec import Experiment
from odenet.flow import Chain
from odenet.train import Fit

TINY: dict[str, Any] = {
    "data": "digits", "width": 12, "steps": 4, "train_steps": 4, "lr": (1e-2,), "spans": (1.0,), "seeds": 1,
    "batch": 16, "theory": False,
}  # fmt: skip


def todo(**words: Any) -> tuple[list[run.Unit], list[str]]:
    return run.units(Experiment.from_dict({**TINY, **words}))


def net_of(unit: run.Unit) -> torch.nn.Module:
    return run.build(unit, run.load(unit["data"], 0), 0, 1.0)


def count(unit: run.Unit) -> int:
    return sum(p.numel() for p in net_of(unit).parameters())


def test_widths_make_the_counts_of_all_nets_agree_within_two_per_cent() -> None:
    words = {"nets": ("resnet", "hamiltonian", "mlp"), "integrators": ("rk4",), "width": 20}
    units, notes = todo(protocol="equal_parameters", **words)
    assert units[0]["key"] == "resnet/rk4" and {u["net"] for u in units} >= {"resnet", "mlp"}
    counts = {u["key"]: count(u) for u in units}
    w = next(u for u in units if u["net"] == "resnet")["width"]
    goal = (64 * w + w) + 4 * (w * w + w) + (10 * w + 10)  # opening, four layers, head
    assert counts["resnet/rk4"] == goal
    assert all(abs(n / goal - 1) <= 0.02 for n in counts.values())
    mlp = next(u for u in units if u["net"] == "mlp")["width"]
    assert counts["mlp/-"] == (64 * mlp + mlp) + (mlp * mlp + mlp) + (10 * mlp + 10) and mlp > 20
    assert 15 <= w <= 25 and f"{goal:,} parameters within 2 %, set by resnet/rk4" in notes[0]
    assert f"mlp {mlp}" in notes[0]


def test_the_reference_sets_the_goal_and_keeps_its_width_where_the_others_can_follow() -> None:
    units, notes = todo(
        protocol="equal_parameters", nets=("mlp", "resnet"), integrators=("euler",), reference="resnet/euler", width=32
    )
    resnet = next(u for u in units if u["net"] == "resnet")
    assert resnet["width"] == 32 and "set by resnet/euler" in notes[0]
    assert abs(count(next(u for u in units if u["net"] == "mlp")) / count(resnet) - 1) <= 0.02


def test_image_nets_are_widened_block_by_block() -> None:
    units, _ = todo(protocol="equal_parameters", nets=("resnet", "cnn"), integrators=("euler",), width=40)
    cnn = next(u for u in units if u["net"] == "cnn")
    a, b = cnn["own"]["widths"]
    assert b == 2 * a and abs(count(cnn) / count(units[0]) - 1) <= 0.02


def test_a_net_that_cannot_be_equal_is_left_out_with_the_reason() -> None:
    units, notes = todo(protocol="equal_parameters", nets=("resnet", "perceptron"), integrators=("euler",))
    assert [u["key"] for u in units] == ["resnet/euler"]
    assert notes[1] == "perceptron/- was left out: perceptron takes no width."
    _, notes = todo(protocol="equal_evaluations", nets=("resnet", "mlp"), integrators=("euler",))
    assert notes[1] == "mlp/- was left out: mlp evaluates no field."


def test_steps_make_evaluations_of_a_forward_pass_agree_exactly() -> None:
    asked = ("euler", "midpoint", "rk4")
    units, notes = todo(protocol="equal_evaluations", nets=("resnet",), integrators=asked, steps=8)
    assert {u["integrator"]: u["steps"] for u in units} == {"euler": 8, "midpoint": 4, "rk4": 2}
    nets = [net_of(u) for u in units]
    assert [net.nfe(torch.zeros(1, 64)) for net in nets if isinstance(net, Chain)] == [8, 8, 8]
    assert (
        "8 field evaluations, set by resnet/euler; steps: resnet/euler 8, resnet/midpoint 4, resnet/rk4 2" in notes[0]
    )


def test_the_goal_moves_a_little_where_more_pairs_can_meet_it_then() -> None:
    units, notes = todo(protocol="equal_evaluations", nets=("resnet",), integrators=("euler", "rk3", "rk4"), steps=10)
    assert {u["integrator"]: u["steps"] for u in units} == {"euler": 12, "rk3": 4, "rk4": 3}
    assert len(notes) == 1
    units, notes = todo(protocol="equal_evaluations", nets=("resnet",), integrators=("euler", "rk3", "rk4"), steps=2)
    assert [u["integrator"] for u in units] == ["euler", "rk3"]  # two or three steps: no four
    assert "resnet/rk4 was left out: the nearest that it has to 3 field evaluations is 4, at steps 1." in notes


def test_steps_that_are_chosen_adaptively_cannot_be_counted_beforehand() -> None:
    units, notes = todo(
        protocol="equal_evaluations", nets=("resnet", "neural_ode"), data="moons", integrators=("euler",)
    )
    adaptive = {**units[-1], "integrator": "dopri5", "key": "neural_ode/dopri5"}
    sample = run.load("moons", 0)
    cells = [units[0], adaptive]
    _, notes = protocol.matched(cells, "equal_evaluations", "", sample, run.build)
    assert re.search("neural_ode/dopri5 was left out: neural_ode/dopri5 chooses its steps itself", notes[1])
    with pytest.raises(BadInput, match="needs a reference with such a number, and neural_ode/dopri5 chooses"):
        protocol.matched(cells, "equal_evaluations", "neural_ode/dopri5", sample, run.build)


def test_training_steps_are_inverse_to_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {"resnet/euler": 0.1, "resnet/rk4": 0.4, "mlp/-": 0.001}
    monkeypatch.setattr(protocol, "seconds_per_step", lambda unit, sample, build: paces[unit["key"]])
    units, notes = todo(protocol="equal_time", nets=("resnet", "mlp"), integrators=("euler", "rk4"), train_steps=40)
    assert {u["key"]: u["train_steps"] for u in units} == {"resnet/euler": 40, "resnet/rk4": 10}
    assert "mlp/- was left out: it would train for 4,000 steps" in notes[1]
    assert "4 s of training" in notes[0] and "resnet/rk4 10" in notes[0]


def test_the_pace_is_the_median_of_what_a_member_took_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 0.6, 1.2])

    def fit_many(nets: Any, data: Any, **words: Any) -> list[Fit]:
        assert len(nets) == len(data) == len(words["seeds"]) == 4 and words["batch"] == 16
        taken = next(seconds)
        return [Fit(net, [{"step": words["steps"], "loss": 1.0, "seconds": taken}]) for net in nets]

    monkeypatch.setattr(protocol, "fit_many", fit_many)
    units, _ = todo(nets=("resnet",), integrators=("euler",), seeds=2, lr=(1e-2, 1e-3))
    assert protocol.seconds_per_step(units[0], run.load("digits", 0), run.build, steps=3) == pytest.approx(0.4)


def test_every_pair_is_really_timed() -> None:
    units, notes = todo(protocol="equal_time", nets=("resnet",), integrators=("euler",), data="moons", train_steps=7)
    assert units[0]["train_steps"] == 7 and notes[0].startswith("equal_time: ")


def test_a_comparison_says_what_was_held_equal_and_its_table_shows_it() -> None:
    results = on.compare(
        **{**TINY, "data": "moons", "nets": ("resnet", "mlp"), "integrators": ("euler", "rk4"), "width": 6},
        protocol="equal_evaluations", workers=1, progress=False,
    )  # fmt: skip
    assert {r["nfe"] for r in results.rows} == {4} and {r["integrator"] for r in results.rows} == {"euler", "rk4"}
    text = str(results)
    assert "equal evaluations" in text and "mlp evaluates no field" in text
    assert all(word in text for word in ("parameters", "nfe", "seconds"))


def test_no_protocol_leaves_the_identity_of_a_run_as_it_was_and_a_wrong_one_is_refused() -> None:
    plain = Experiment()
    assert (
        plain.id == "615923e561edc2b10bdf5a8cbf84d62617a84fb2633b112eb157a97909c1c667"
        and Experiment(protocol="equal_time").id != plain.id
    )
    with pytest.raises(BadInput, match="protocol 'equal_params' is not known; write one of equal_parameters,"):
        Experiment(protocol="equal_params")
