from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import odenet as on
from odenet.errors import BadInput, Incompatible, UnknownName
from odenet.experiment import run
from odenet.experiment.executors import execute
from odenet.experiment.spec import Experiment

TINY: dict[str, Any] = {
    "data": "moons", "width": 4, "steps": 2, "train_steps": 4, "lr": (1e-2, 3e-2), "spans": (1.0, 2.0), "seeds": 2,
    "batch": 16, "theory": False,
}  # fmt: skip


def todo(**words: Any) -> list[run.Unit]:
    return run.units(Experiment.from_dict({**TINY, **words}))[0]


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in result["rows"]]}


def test_every_net_runs_under_its_own_integrators_unless_others_are_asked_for() -> None:
    keys = [u["key"] for u in todo(nets=("resnet", "hamiltonian", "lm_resnet", "momentum", "mlp"))]
    own = {n: on.nets.get(n).integrators for n in ("resnet", "hamiltonian")}
    assert keys == [f"{n}/{i}" for n in own for i in own[n]] + ["lm_resnet/lm", "momentum/momentum", "mlp/-"]
    assert all(len(names) == 3 for names in own.values())
    asked = [u["key"] for u in todo(nets=("resnet", "lm_resnet", "mlp"), integrators=("heun", "rk3"))]
    assert asked == ["resnet/heun", "resnet/rk3", "lm_resnet/lm", "mlp/-"]


def test_every_pair_gets_the_same_search_and_the_same_seeds() -> None:
    searches = {(tuple(u["lr"]), tuple(u["spans"]), tuple(u["seeds"]), u["train_steps"], u["batch"]) for u in todo()}
    assert searches == {((1e-2, 3e-2), (1.0, 2.0), (0, 1), 4, 16)}


def test_the_theory_cases_are_units_of_their_own() -> None:
    assert {u["key"] for u in todo(theory=True, nets=("mlp",))} > {"theory/coarse_steps", "theory/oscillation", "mlp/-"}


@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        ({"nets": ("resnt",)}, UnknownName, "no net is called 'resnt'; did you mean 'resnet'"),
        ({"integrators": ("rk44",)}, UnknownName, "no integrator is called 'rk44'; did you mean 'rk4'"),
        ({"data": "diigts"}, UnknownName, "no data set is called 'diigts'; did you mean 'digits'"),
        ({"data": "nowhere/at/all"}, BadInput, "there is no data folder"),
        ({"data": "adding"}, BadInput, "net 'resnet' takes a vector, but data set 'adding' has sequences"),
        ({"nets": ("lstm",)}, BadInput, "net 'lstm' takes a sequence, but data set 'moons' has vectors of length 2"),
        ({"nets": ("resnet",), "integrators": ("verlet",)}, Incompatible, "'verlet' needs a separable field"),
        ({"nets": ("hamiltonian",), "width": 5}, BadInput, "width"),
        ({"nets": ("mlp",), "reference": "mlp/rk4"}, BadInput, "none of the pairs that run; write one of mlp/-"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_trained(
    words: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        todo(**words)


SEQUENCE: dict[str, Any] = {**TINY, "spans": (1.0,), "lr": (1e-2,), "seeds": 1, "train_steps": 3}


@pytest.mark.parametrize(
    ("data", "nets", "score"), [("adding", ("cornn", "tcn"), "R²"), ("copy", ("lipschitz_rnn", "gru"), "accuracy")]
)
def test_nets_on_sequences_are_compared_on_classes_and_on_real_targets(
    data: str, nets: tuple[str, ...], score: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = on.data.load(data, n=60, **({"length": 5} if data == "adding" else {"delay": 2, "memory": 2, "symbols": 3}))
    monkeypatch.setattr(run.data_sets, "load", lambda name, seed: small)
    monkeypatch.setattr(run, "judge", lambda net, data: {"verdict": "", "standing": "", "stable": None, "metrics": {}})
    words = {**SEQUENCE, "data": data, "nets": nets, "workers": 1, "integrators": ("euler",)}
    results = on.compare(**words, progress=False)
    assert not results.failures and f"{score} %" in str(results) and f"Test {score} on {data}" in results.caption
    for row in results.rows:
        net = on.load(results.folder / "nets" / f"{row['net']}-{row['integrator']}.safetensors").eval()
        out, y = net(small.x_test).detach(), small.y_test
        if data == "copy":
            expected = float((out.argmax(-1) == y).double().mean())
        else:
            expected = float(1 - ((out - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())
        assert row["accuracy"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert (row["nfe"] > 0) == (row["integrator"] != "-") and row["span"] is None
    assert results.to_csv().splitlines()[0].split(",")[3] == ("r2" if data == "adding" else "accuracy")


def test_a_pair_that_does_not_fit_is_left_out_with_its_reason_if_the_net_has_another() -> None:
    units, notes = run.units(Experiment.from_dict({**TINY, "nets": ("resnet",), "integrators": ("verlet", "rk4")}))
    assert [u["key"] for u in units] == ["resnet/rk4"]
    assert notes[0].startswith("resnet under verlet was left out: 'verlet' needs a separable field")


@pytest.mark.parametrize("files", [(), ("a.bin",)])
def test_a_folder_that_holds_no_data_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput) as caught:
        todo(data=str(tmp_path), nets=("mlp",))
    assert str(tmp_path) in str(caught.value)


def test_the_units_that_take_long_come_first() -> None:
    units = todo(nets=("mlp", "resnet"), theory=True)
    order = [u["key"] for u in run.longest_first(units)]
    assert order[0].startswith("theory/") and order[-4:] == ["resnet/rk4", "resnet/midpoint", "resnet/euler", "mlp/-"]


def test_the_result_does_not_depend_on_the_process_or_the_order() -> None:
    units = todo(nets=("antisymmetric", "mlp"), integrators=("euler", "rk4"))
    here = {u["key"]: timeless(run.run(u)) for u in reversed(units)}
    there: dict[str, Any] = {}
    execute(units, 2, None, lambda u, r: there.__setitem__(u["key"], timeless(r)), lambda u, f: None)
    assert here == there and len(here) == 3


def test_the_result_does_not_depend_on_threads_or_default_precision() -> None:
    (unit,) = todo(nets=("resnet",), integrators=("euler",))
    expected = timeless(run.run(unit))
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    assert timeless(run.run(unit)) == expected
    assert torch.get_num_threads() == 2 and torch.get_default_dtype() == torch.float64


def test_a_row_is_the_best_of_the_search_on_the_validation_part() -> None:
    (unit,) = todo(nets=("resnet",), integrators=("rk4",))
    result = run.run(unit)
    assert len(result["search"]) == 2 * 2 * 2 and [r["seed"] for r in result["rows"]] == [0, 1]
    for row in result["rows"]:
        mine = [t for t in result["search"] if t["seed"] == row["seed"]]
        assert row["val_accuracy"] == max(t["val_accuracy"] for t in mine)
        assert {"lr": row["lr"], "span": row["span"]} in [{"lr": t["lr"], "span": t["span"]} for t in mine]


def test_the_test_part_has_no_say_in_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    (unit,) = todo(nets=("resnet",), integrators=("rk4",))
    honest = run.run(unit)
    plain = run.load

    def spoiled(name: str, seed: int) -> on.Dataset:
        d = plain(name, seed)
        return replace(d, y_test=1 - d.y_test)

    monkeypatch.setattr(run, "load", spoiled)
    other = run.run(unit)
    assert other["search"] == honest["search"]
    for a, b in zip(honest["rows"], other["rows"]):
        assert (a["lr"], a["span"], a["history"]) == (b["lr"], b["span"], b["history"])
        assert a["accuracy"] == pytest.approx(1 - b["accuracy"])


def test_the_numbers_of_a_row_are_those_of_the_saved_net(tmp_path: Path) -> None:
    (unit,) = todo(nets=("antisymmetric",), integrators=("rk4",))
    row = run.run(unit, tmp_path)["rows"][0]
    net = on.load(tmp_path / "antisymmetric-rk4.safetensors").eval()
    data = on.data.load("moons", seed=0)
    assert row["accuracy"] == float((net(data.x_test).argmax(-1) == data.y_test).double().mean())
    # opening 2 x 4 + 4, two layers 4 x 4 + 4, head 4 x 2 + 2; four stages on each of two steps
    assert (row["parameters"], row["nfe"]) == (12 + 2 * 20 + 10, 8)
    assert next(net.flows()).span == (0.0, row["span"])
    assert row["verdict"].endswith(".") and row["standing"] in ("proved", "indicated", "measured")


def test_a_training_that_diverges_is_a_verdict_and_not_a_crash() -> None:
    (unit,) = todo(nets=("resnet",), integrators=("euler",), lr=(1e30,), spans=(1e10,), seeds=1)
    (row,) = run.run(unit)["rows"]
    assert row["accuracy"] is None and row["stable"] is False and row["verdict"].startswith("training diverged")


def test_image_nets_are_compared_on_images() -> None:
    (unit,) = todo(nets=("cnn",), data="digits", seeds=1, train_steps=2, lr=(1e-2,))
    (row,) = run.run(unit)["rows"]
    assert row["integrator"] == "-" and row["nfe"] == 0 and row["span"] is None and 0 <= row["accuracy"] <= 1
