"""Files: what is saved comes back identical; what is damaged, foreign or unfit is refused and changes nothing."""

from __future__ import annotations

import json
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import odenet as on
from nets_examples import example
from odenet.errors import BadInput


def shaken(net: nn.Module) -> nn.Module:
    """Weights that no seed gives."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype))
    return net.eval()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path]:
    net = shaken(on.nets.resnet(5, 3, width=4, steps=2, span=(0.0, 2.0), seed=3))
    return net, on.save(net, tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", on.nets.names())
def test_every_net_comes_back_identical(name: str, tmp_path: Path) -> None:
    arguments, x = example(name)
    net = shaken(on.nets.get(name)(**arguments, seed=5))
    path = on.save(net, tmp_path / "net.safetensors")
    back = on.load(path).eval()
    assert torch.equal(back(x), net(x)) and back.spec == net.spec
    assert back.state_dict().keys() == net.state_dict().keys()
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in net.parameters()]
    twin = on.nets.get(name)(**arguments, seed=6).eval()
    assert on.load(path, into=twin) is twin and torch.equal(twin(x), net(x))


@pytest.mark.parametrize("options", [
    {"norm": "batch"}, {"depth": {"K": "shared", "*": "piecewise_linear"}}, {"opening": "pad", "dropout": 0.2},
    {"integrator": "dopri5"}, {"constraint": "spectral_cap", "activation": "relu"}, {"layers": 2, "hidden": 9},
])  # fmt: skip
def test_options_and_running_statistics_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    net, x = on.nets.resnet(5, 3, width=6, steps=3, **options), torch.randn(20, 5)
    on.calibrate(net, [x])
    path = on.save(shaken(net), tmp_path / "net.safetensors")
    back = on.load(path).eval()
    assert torch.equal(back(x), net(x))


def test_the_dtype_of_the_weights_comes_back(tmp_path: Path) -> None:
    net, x = shaken(on.nets.resnet(5, 3, width=4, steps=2).double()), torch.randn(3, 5, dtype=torch.float64)
    back = on.load(on.save(net, tmp_path / "net.safetensors")).eval()
    assert back(x).dtype == torch.float64 and torch.equal(back(x), net(x))
    half = on.nets.mlp(5, 3).to(torch.bfloat16)
    again = on.load(on.save(half, tmp_path / "half.safetensors"))
    assert all(torch.equal(a, b) and a.dtype == torch.bfloat16 for a, b in zip(half.parameters(), again.parameters()))


def test_a_rebuilt_net_can_be_trained_on(saved: tuple[nn.Module, Path]) -> None:
    net, path = saved
    back, x, y = on.load(path), torch.randn(20, 5), torch.randint(3, (20,))
    fits = [on.fit(n, (x, y), steps=3, lr=1e-2, seed=0) for n in (net, back)]
    assert [r["loss"] for r in fits[0].history] == [r["loss"] for r in fits[1].history]


def test_the_file_is_plain_safetensors_and_no_pickle(saved: tuple[nn.Module, Path]) -> None:
    net, path = saved
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["spec"]) == net.spec
    assert not zipfile.is_zipfile(path)
    with pytest.raises(Exception):  # noqa: B017 (whatever pickle says to bytes that are none)
        pickle.loads(raw)
    tensors = load_file(path)
    assert all(torch.equal(tensors[k], v) for k, v in net.state_dict().items())


# ---- interruption --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_no_rubbish(
    broken: str, saved: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = saved
    before = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="the disk is full"):
        on.save(on.nets.mlp(5, 3), path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.undo()
    on.save(on.nets.mlp(5, 3), path)
    assert on.load(path).spec["net"] == "mlp"


@pytest.mark.parametrize(("target", "sentence"), [("", "is a folder; save needs a file name"),
                                                  ("nowhere/net", "does not exist; create it first")])  # fmt: skip
def test_a_place_that_takes_no_file_is_refused(target: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=sentence):
        on.save(on.nets.mlp(2, 2), tmp_path / target)


# ---- damage --------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        on.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_changed_byte_of_the_header_is_never_read_as_another_net(saved: tuple[nn.Module, Path]) -> None:
    _, path = saved
    raw, chance = path.read_bytes(), random.Random(0)
    length = 8 + int.from_bytes(raw[:8], "little")
    text = raw[8:length].rstrip()
    for _ in range(200):
        at = chance.randrange(8 + len(text))
        changed = bytearray(raw)
        digit = chr(raw[at]).isdigit() and chance.random() < 0.8
        changed[at] = ord(str((int(chr(raw[at])) + 1) % 10)) if digit else chance.randrange(256)
        if changed != raw:
            path.write_bytes(changed)
            refused(path)


def test_a_file_cut_short_or_with_more_at_its_end_is_refused(saved: tuple[nn.Module, Path]) -> None:
    _, path = saved
    raw, chance = path.read_bytes(), random.Random(1)
    for size in [0, 1, 7, 8, 9, len(raw) - 1, *(chance.randrange(len(raw)) for _ in range(60))]:
        path.write_bytes(raw[:size])
        refused(path)
    path.write_bytes(raw + b"x")
    refused(path)


def test_a_changed_weight_is_refused(saved: tuple[nn.Module, Path]) -> None:
    _, path = saved
    raw, chance = path.read_bytes(), random.Random(2)
    length = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(40):
        changed = bytearray(raw)
        changed[chance.randrange(length, len(raw))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        assert "is damaged" in refused(path)


@pytest.mark.parametrize(("old", "new"), [
    (b'\\"seed\\": 3', b'\\"seed\\": 4'), (b"[0.0, 2.0]", b"[0.0, 3.0]"), (b"tanh", b"relu"),
    (b'\\"width\\": 4', b'\\"width\\": 9'), (b"F32", b"I32"),
])  # fmt: skip
def test_a_plausible_change_of_the_header_is_damage_too(saved: tuple[nn.Module, Path], old: bytes, new: bytes) -> None:
    _, path = saved
    raw = path.read_bytes()
    assert old in raw and len(old) == len(new)
    path.write_bytes(raw.replace(old, new))
    assert "is damaged" in refused(path)


def test_what_odenet_did_not_write_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2, 2)}, foreign)
    assert "was not written by odenet.save" in refused(foreign)
    save_file({"weight": torch.ones(2, 2)}, foreign, metadata={"format": "pt"})
    assert "was not written by odenet.save" in refused(foreign)
    save_file({"weight": torch.ones(2, 2)}, foreign, metadata={"format": "odenet-1"})
    assert "is damaged" in refused(foreign)
    torch.save({"weight": torch.ones(2)}, foreign)
    assert "is not a readable safetensors file" in refused(foreign)
    assert "there is no file" in refused(tmp_path / "absent.safetensors")
    assert "there is no file" in refused(tmp_path)


# ---- into ----------------------------------------------------------------------------------------------------------


def test_a_net_that_is_no_zoo_net_is_loaded_into_one(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return on.Chain(nn.Linear(3, 4), on.Flow(on.fields.Free(4), "rk4", steps=2), nn.Linear(4, 2))

    net = shaken(make())
    path = on.save(net, tmp_path / "net.safetensors")
    assert "holds weights but no recipe" in refused(path)
    x: Tensor = torch.randn(3, 3)
    assert torch.equal(on.load(path, into=make().eval())(x), net(x))


@pytest.mark.parametrize("other", [
    lambda: on.nets.resnet(5, 3, width=8, steps=2), lambda: on.nets.resnet(5, 3, width=4, steps=3),
    lambda: on.nets.mlp(5, 3), lambda: on.nets.resnet(5, 3, width=4, steps=2, norm="batch"),
    lambda: nn.Sequential(), lambda: on.nets.resnet(5, 3, width=4, steps=2, opening="linear", layers=2),
])  # fmt: skip
def test_weights_that_do_not_fit_change_nothing(saved: tuple[nn.Module, Path], other: object) -> None:
    _, path = saved
    net = other()  # type: ignore[operator]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(
        BadInput, match=r"do not fit \w+: '[\w.]+' has shape .* in the file and .* in the net"
    ) as caught:
        on.load(path, into=net)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_given_net_keeps_its_dtype(saved: tuple[nn.Module, Path]) -> None:
    net, path = saved
    twin = on.load(path, into=on.nets.resnet(5, 3, width=4, steps=2, span=(0.0, 2.0)).double())
    assert all(p.dtype == torch.float64 for p in twin.parameters())
    torch.testing.assert_close(
        twin(torch.ones(2, 5, dtype=torch.float64)).float(), net(torch.ones(2, 5)), rtol=1e-5, atol=1e-5
    )
