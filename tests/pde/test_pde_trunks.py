"""Trunks against their papers' formulas, their derivatives against nested autograd, and the features before them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from odenet import pde
from odenet.errors import BadInput, UnknownName
from odenet.fields import jets
from odenet.pde.ansatz import Features
from odenet.pde.trunks import TRUNKS, trunk

SECOND = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]


def points(n: int = 7) -> Tensor:
    return 2 * torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 1


def made(name: str, **words: object) -> torch.nn.Module:
    """A trunk whose every weight is random, gates and biases that begin at zero included."""
    net = trunk(name, 2, 2, width=5, depth=2, seed=3, **words)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=g))
    return net


class Weights:
    """The weights of a trunk, one after another, as its paper orders them."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.table = dict(net.state_dict())

    def __call__(self, name: str, x: Tensor) -> Tensor:
        bias = self.table.get(f"{name}.bias", 0.0)
        return torch.stack([self.table[f"{name}.weight"] @ row for row in x]) + bias


def by_hand(name: str, net: torch.nn.Module, x: Tensor) -> Tensor:
    w, act = Weights(net), torch.tanh
    if name == "mlp":
        return w("4", act(w("2", act(w("0", x)))))
    if name == "fourier":
        B = w.table["0.B"]
        angle = torch.stack([2 * math.pi * (B @ row) for row in x])
        return w("5", act(w("3", act(w("1", torch.cat((angle.cos(), angle.sin()), 1))))))
    if name == "modified_mlp":
        u, v, h = act(w("u", x)), act(w("v", x)), act(w("first", x))
        for k in range(2):
            z = act(w(f"hidden.{k}", h))
            h = (1 - z) * u + z * v
        return w("last", h)
    if name == "pirate":
        angle = torch.stack([2 * math.pi * (w.table["embed.B"] @ row) for row in x])
        s = torch.cat((angle.cos(), angle.sin()), 1)
        u, v = act(w("u", s)), act(w("v", s))
        for k in range(2):
            f = act(w(f"blocks.{k}.first", s))
            z = f * u + (1 - f) * v
            g = act(w(f"blocks.{k}.second", z))
            y = g * u + (1 - g) * v
            alpha = w.table[f"blocks.{k}.alpha"]
            s = alpha * act(w(f"blocks.{k}.third", y)) + (1 - alpha) * s
        return w("last", s)
    if name == "dgm":
        s = act(w("first", x))
        for k in range(2):
            z, g, r = (act(w(f"layers.{k}.inputs.{i}", x) + w(f"layers.{k}.states.{i}", s)) for i in range(3))
            h = act(w(f"layers.{k}.inputs.3", x) + w(f"layers.{k}.states.3", s * r))
            s = (1 - g) * h + z * s
        return w("last", s)
    s = w("0", x)
    for k in (1, 2):
        s = act(w(f"{k}.second", act(w(f"{k}.first", s)))) + s
    return w("3", s)


@pytest.mark.parametrize("name", TRUNKS.names())
def test_a_trunk_is_the_formula_of_its_paper(name: str) -> None:
    net, x = made(name), points()
    assert torch.allclose(net(x), by_hand(name, net, x), rtol=0, atol=1e-13)
    assert len((TRUNKS.get(name).__doc__ or "").split()) > 8


@pytest.mark.parametrize("name", TRUNKS.names())
def test_derivatives_of_a_trunk_are_those_of_nested_autograd(name: str) -> None:
    net, x = made(name), points()
    carried, nested = (jets.jet(net, x, SECOND, backend) for backend in ("jets", "autograd"))
    assert torch.allclose(carried, nested, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TRUNKS.names())
def test_the_jacobian_in_the_weights_needs_one_reverse_pass(name: str) -> None:
    net, x = made(name), points(4)
    weights = list(net.parameters())
    with jets.record() as tape:
        parts = jets.jet(net, x, SECOND)
        r = parts[3, :, 0] * parts[0, :, 1] + parts[5, :, 1]
    assert torch.allclose(
        tape.jacobian(r, weights, check=True), jets.jacobian_by_vmap(r, weights), rtol=1e-10, atol=1e-11
    )


def test_cubic_relu_has_two_derivatives() -> None:
    net, x = made("ritz", act="relu3"), points(20)
    s = x @ net[0].weight.mT + net[0].bias  # type: ignore[union-attr, operator]
    for block in (net[1], net[2]):  # type: ignore[index]
        inner = torch.where(block.first(s) > 0, block.first(s) ** 3, 0.0)
        s = torch.where(block.second(inner) > 0, block.second(inner) ** 3, 0.0) + s
    assert torch.allclose(net(x), net[3](s), rtol=1e-13, atol=1e-13)  # type: ignore[index, operator]
    carried, nested = (jets.jet(net, x, SECOND, backend) for backend in ("jets", "autograd"))
    assert torch.allclose(carried, nested, rtol=1e-11, atol=1e-11)


def test_a_pirate_net_begins_linear_in_its_features() -> None:
    net, x = trunk("pirate", 2, 2, width=6, depth=3, seed=0), points()
    angle = 2 * math.pi * x @ net.embed.B.mT  # type: ignore[union-attr, operator]
    embedded = torch.cat((angle.cos(), angle.sin()), 1)
    assert torch.allclose(net(x), net.last(embedded), rtol=0, atol=1e-14)  # type: ignore[operator]


def test_fourier_features_have_the_spread_that_was_asked_for() -> None:
    B = trunk("fourier", 2, 1, width=4, depth=1, features=20_000, scale=3.0).state_dict()["0.B"]
    assert abs(float(B.std()) - 3.0) < 0.05 and abs(float(B.mean())) < 0.05


def test_the_same_seed_gives_the_same_trunk_and_another_does_not() -> None:
    for name in TRUNKS.names():
        first, second, other = (trunk(name, 2, 1, seed=s).state_dict() for s in (0, 0, 1))
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert not all(torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("name", TRUNKS.names())
def test_a_solution_with_any_trunk_is_solved_saved_and_restored(name: str, tmp_path: Path) -> None:
    words = {"scale": 0.25} if name in ("fourier", "pirate") else {}
    sol = pde.solve(
        "poisson", method="gauss_newton", seconds=60, track=False, net=name, net_options=words,
        width=8, depth=1, points=150, steps=12, seed=1,
    )  # fmt: skip
    assert sol.rel_l2 is not None and sol.rel_l2 < 2e-2
    sol.save(tmp_path)
    x = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(pde.load(tmp_path).u(x), sol.u(x))


def test_an_unknown_trunk_or_option_is_answered() -> None:
    with pytest.raises(UnknownName, match="pirate"):
        pde.solve("poisson", method="gauss_newton", net="pirates")
    with pytest.raises(BadInput, match=r"no option 'scal'.*scale"):
        trunk("fourier", 1, 1, scal=2.0)
    with pytest.raises(BadInput, match="activation"):
        trunk("mlp", 1, 1, act="relu")


# ---- features --------------------------------------------------------------------------------------------------------


def test_a_periodic_embedding_is_periodic_with_all_derivatives() -> None:
    bounds = torch.tensor([[-2.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    features = Features(bounds, {0: 3})
    net = trunk("mlp", features.size, 1, width=5, depth=2, seed=0)
    channels = [(k, j) for k in range(5) for j in range(3) if k + j <= 4]
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    low, high = (
        jets.jet(lambda x: net(features(x)), torch.stack([torch.full_like(t, end), t], 1), channels)
        for end in (-2.0, 3.0)
    )
    size = low.abs().amax((1, 2))
    assert bool(((low - high).abs().amax((1, 2)) <= 1e-12 * (1 + size)).all()) and bool((size > 1e-6).all())
    x = points()
    angle = 2 * math.pi * (x[:, 0] + 2) / 5
    columns = [f(k * angle) for k in (1, 2, 3) for f in (torch.cos, torch.sin)]
    assert torch.allclose(features(x), torch.stack([*columns, 2 * x[:, 1] - 1], 1), rtol=0, atol=1e-14)


def test_a_map_of_an_axis_carries_its_derivatives() -> None:
    bounds = torch.tensor([[-1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    features = Features(bounds, maps={0: lambda s: torch.asinh(50 * s) / 5})
    x = torch.stack([points()[:, 0], 1 + points()[:, 1]], 1)
    expected = torch.stack([torch.log(50 * x[:, 0] + torch.sqrt(2500 * x[:, 0] ** 2 + 1)) / 5, x[:, 1] - 1], 1)
    assert torch.allclose(features(x), expected, rtol=0, atol=1e-13)
    net = trunk("mlp", 2, 2, width=5, depth=2, seed=0)
    third = [*SECOND, (3, 0), (2, 1)]
    carried, nested = (jets.jet(lambda x: net(features(x)), x, third, backend) for backend in ("jets", "autograd"))
    assert torch.allclose(carried, nested, rtol=1e-9, atol=1e-10)


def test_an_even_axis_gives_even_functions() -> None:
    features = Features(torch.tensor([[-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64), parity={0: "even"})
    net, x = trunk("mlp", 2, 1, seed=0), points()
    assert torch.equal(net(features(x)), net(features(x * torch.tensor([-1.0, 1.0], dtype=torch.float64))))
