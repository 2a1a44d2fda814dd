from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from odenet.errors import BadInput, UnknownName
from odenet.experiment.spec import QUICK, Experiment

ODD = Experiment(
    data="moons", nets=("mlp", "resnet"), integrators=("rk4",), seeds=2, lr=(1e-3, 0.5), name="a.b-c_1", theory=False
)


def test_a_spec_is_read_without_torch() -> None:
    code = "import sys, odenet.experiment.spec as s; s.Experiment(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize("spec", [Experiment(), ODD])
def test_dict_json_and_toml_give_the_same_spec_back(spec: Experiment, tmp_path: Path) -> None:
    assert Experiment.from_dict(spec.to_dict()) == spec
    assert Experiment.from_dict(json.loads(spec.to_json())) == spec
    assert Experiment.from_dict(tomllib.loads(spec.to_toml())) == spec
    for suffix, text in (("toml", spec.to_toml()), ("json", spec.to_json())):
        (tmp_path / f"e.{suffix}").write_text(text)
        assert Experiment.read(tmp_path / f"e.{suffix}") == spec


def test_the_id_depends_on_what_is_run_and_not_on_where() -> None:
    elsewhere = dataclasses.replace(ODD, name="other", out="/tmp/x", workers=7)
    assert elsewhere.id == ODD.id and len(ODD.id) == 64
    changes = {
        "data": "digits", "nets": ("mlp",), "integrators": (), "seeds": 3, "width": 8, "steps": 3, "lr": (1e-3,),
        "spans": (2.0,), "train_steps": 7, "batch": 9, "reference": "mlp/-", "protocol": "equal_time",
        "theory": True, "quick": True,
    }  # fmt: skip
    fields = {f.name for f in dataclasses.fields(Experiment)} - {"name", "out", "workers"}
    assert fields == changes.keys(), "every field that changes the run is tried"
    assert len({dataclasses.replace(ODD, **{k: v}).id for k, v in changes.items()} | {ODD.id}) == len(changes) + 1


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="no entry 'sedes'; did you mean 'seeds'"):
        Experiment.from_dict({"sedes": 3})
    with pytest.raises(UnknownName, match="no entry 'zzz'; known: data"):
        Experiment.from_dict({"zzz": 3})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"steps": -4}, "steps is a positive whole number, got -4"),
        ({"seeds": 0}, "seeds is a positive whole number, got 0"),
        ({"seeds": "3"}, "seeds is of type int, got '3'"),
        ({"seeds": True}, "seeds is of type int, got True"),
        ({"seeds": 2.0}, "seeds is of type int, got 2.0"),
        ({"lr": 0.1}, "lr is a list, got 0.1"),
        ({"lr": []}, "lr is a list of positive numbers"),
        ({"lr": [0.1, -1.0]}, "lr is a list of positive numbers"),
        ({"lr": [float("nan")]}, "lr is a list of positive numbers"),
        ({"spans": ["a"]}, "each entry of spans is of type float"),
        ({"nets": "resnet"}, r"nets is a list, got 'resnet'; write nets = \['resnet'\]"),
        ({"nets": []}, "nets is empty"),
        ({"nets": [3]}, "each entry of nets is of type str"),
        ({"workers": -1}, "workers is 0"),
        ({"name": "../up"}, "run name '../up' is not usable"),
        ({"name": ".."}, "run name '..' is not usable"),
        ({"name": "a b"}, "not usable"),
        ({"name": "nul\0"}, "not usable"),
        ({"quick": 1}, "quick is of type bool"),
    ],
)
def test_values_that_cannot_be_right_are_refused_in_one_sentence(words: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        Experiment.from_dict(words)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_taken_for_floats_and_lists_for_tuples() -> None:
    spec = Experiment.from_dict({"lr": [1], "nets": ["mlp"]})
    assert spec.lr == (1.0,) and isinstance(spec.lr[0], float) and spec.nets == ("mlp",)


@pytest.mark.parametrize(("name", "text"), [("e.toml", "seeds = = 3"), ("e.json", "{seeds"), ("e.json", "[1]")])
def test_a_config_that_is_no_config_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=r"the config .*(is not valid|holds a list)"):
        Experiment.read(tmp_path / name)


def test_a_config_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        Experiment.read(tmp_path / "none.toml")


def test_quick_fills_in_smaller_values_only_where_nothing_was_said() -> None:
    quick = Experiment(quick=True, nets=("mlp",), steps=3).settled()
    assert (quick.nets, quick.steps) == (("mlp",), 3)
    assert (quick.train_steps, quick.lr) == (QUICK["train_steps"], QUICK["lr"])
    assert quick.settled() == quick and Experiment().settled() == Experiment()
