"""A PhD student's first hour: a network, training, another integrator, the stability report, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import odenet as on
from odenet.errors import Incompatible


def test_the_first_ten_lines() -> None:
    net = on.nets.antisymmetric(dim_in=64, dim_out=10, width=32, steps=8, integrator="rk4", span=(0.0, 2.0))
    fit = on.fit(net, "digits", steps=200, lr=1e-2, seed=0)
    assert fit.status == "done" and fit.score["accuracy"] > 0.93
    assert fit.history[-1]["loss"] < fit.history[0]["loss"]

    data = on.data.load("digits")
    rep = on.stability.report(net, data.x_test[:64], data.y_test[:64])
    assert rep.verdict.sentence and rep.verdict.standing in ("proved", "indicated", "measured")
    numbers = rep.to_dict()
    assert numbers and all(isinstance(v, (int, float)) for v in numbers.values())


def test_saving_and_loading_gives_the_same_network(tmp_path: Path) -> None:
    net = on.nets.hamiltonian(dim_in=4, dim_out=3, width=8, steps=4, gradient="reversible", seed=3)
    on.save(net, tmp_path / "net.safetensors")
    again = on.load(tmp_path / "net.safetensors")
    x = torch.randn(5, 4)
    assert torch.equal(net(x), again(x))


def test_an_impossible_pair_tells_what_to_write_instead_and_that_works() -> None:
    with pytest.raises(Incompatible, match=r"Use fields.SeparableHamiltonian\(...\) or integrator='rk4'"):
        on.nets.resnet(4, 2, integrator="verlet")
    assert on.nets.resnet(4, 2, integrator="rk4")(torch.randn(3, 4)).shape == (3, 2)
    assert on.Flow(on.fields.SeparableHamiltonian(4), "verlet")(torch.randn(3, 4)).shape == (3, 4)


def test_an_own_module_becomes_a_flow_in_one_line() -> None:
    block = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), on.Flow(block, "dopri5", depth="shared"), torch.nn.Linear(8, 2))
    fit = on.fit(net, on.data.load("circles", noise=0.03), steps=200, lr=1e-2)
    assert fit.score["accuracy"] > 0.95


def test_the_weights_are_smooth_in_depth_when_asked() -> None:
    rough = on.nets.resnet(2, 2, width=8, steps=8)
    smooth = on.nets.resnet(2, 2, width=8, steps=8)
    on.fit(rough, "moons", steps=60, lr=1e-2)
    on.fit(smooth, "moons", steps=60, lr=1e-2, penalty={"h1": 1e-2})
    with torch.no_grad():
        assert smooth.parts[1].penalty("h1") < 0.7 * rough.parts[1].penalty("h1")
