"""The zoo: counted weights, seeds, every net under its integrators, and what it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

import odenet as on
from nets_examples import example
from odenet.errors import BadInput, UnknownName
from odenet.fields import PositiveSemidefinite

ZOO = [n for n in on.nets.names() if on.nets.get(n).__module__ == on.nets.zoo.__name__]
PAIRS = [(n, i) for n in ZOO for i in on.nets.get(n).integrators]

# weights of one layer of width D = 2 m, as the published formulas have them
LAYER: dict[str, Callable[[int], int]] = {
    "resnet": lambda D: D * D + D,
    "antisymmetric": lambda D: D * D + D,
    "midpoint": lambda D: D * D + D,
    "hamiltonian": lambda D: 2 * ((D // 2) ** 2 + D // 2),
    "hamiltonian_one_layer": lambda D: (D // 2) ** 2 + D // 2,
    "hamiltonian_j": lambda D: D * D + D,
    "hamiltonian_h2": lambda D: 2 * ((D // 2) ** 2 + D // 2),
    "parabolic": lambda D: D * D + D,
    "second_order": lambda D: D * D + D,
    "leapfrog": lambda D: D * D + D,
    "lm_resnet": lambda D: D * D + D + 1,  # and k_n
    "momentum": lambda D: D * D + D,
}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_every_net_of_the_zoo_is_counted_here() -> None:
    assert sorted(LAYER) == ZOO


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(("dim_in", "dim_out", "width", "steps"), [(64, 10, 64, 16), (3, 2, 8, 1), (1, 1, 2, 5)])
def test_a_net_has_the_counted_weights(name: str, dim_in: int, dim_out: int, width: int, steps: int) -> None:
    net = on.nets.get(name)(dim_in, dim_out, width=width, steps=steps)
    ends = (dim_in + 1) * width + (width + 1) * dim_out
    assert count(net) == ends + steps * LAYER[name](width)
    shared = on.nets.get(name)(dim_in, dim_out, width=width, steps=steps, depth="shared")
    learned = steps if name == "lm_resnet" else 0  # k_n stays per step
    assert count(shared) == ends + LAYER[name](width) - (1 if learned else 0) + learned
    linear = on.nets.get(name)(dim_in, dim_out, width=width, steps=steps, depth="piecewise_linear")
    assert count(linear) == ends + (steps + 1) * (LAYER[name](width) - (1 if learned else 0)) + learned


@pytest.mark.parametrize("name", on.nets.names())
def test_a_builder_states_its_facts(name: str) -> None:
    build = on.nets.get(name)
    assert build.kind in ("ode", "baseline") and build.takes in ("vector", "image", "sequence", "tree")
    assert build.cite and build.__doc__ and build.__name__ == name
    assert all(i in on.integrators.names() for i in build.integrators)
    assert bool(build.integrators) == ("integrator" in inspect.signature(build).parameters)


@pytest.mark.parametrize("name", ZOO)
def test_seeds_reproduce_and_leave_the_global_state_alone(name: str) -> None:
    build = on.nets.get(name)
    before = torch.random.get_rng_state()
    a, b, c = (build(4, 3, width=6, steps=3, seed=s).state_dict() for s in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.randn(5)
    d = build(4, 3, width=6, steps=3, seed=7).state_dict()
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], d[k]) for k in a)
    drawn = [k for k in a if a[k].any()]
    assert len(drawn) >= 4 and all(not torch.equal(a[k], c[k]) for k in drawn)


@pytest.mark.parametrize(("name", "integrator"), PAIRS)
def test_every_net_trains_a_step_under_each_of_its_integrators(name: str, integrator: str) -> None:
    net = on.nets.get(name)(5, 3, width=6, steps=4, integrator=integrator)
    x, y = torch.randn(16, 5), torch.randint(3, (16,))
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    grads = [p.grad for p in net.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in grads)
    assert sum(bool(g.any()) for g in grads) >= len(grads) - 1  # the last bias of a two-step method may not act
    with torch.no_grad():
        for p in net.parameters():
            p.sub_(0.05 * p.grad)
    assert float(nn.functional.cross_entropy(net(x), y).detach()) < float(loss.detach())


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("gradient", ["checkpoint", "discrete"])
def test_every_net_has_the_same_gradient_when_recomputed(name: str, gradient: str, double: None) -> None:
    found = []
    for how in ("autograd", gradient):
        net = on.nets.get(name)(4, 2, width=6, steps=3, gradient=how)
        torch.manual_seed(0)
        (net(torch.randn(5, 4)) ** 2).sum().backward()
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_the_default_integrator_is_the_published_or_the_first_named() -> None:
    for name in ZOO:
        flow = next(on.nets.get(name)(3, 2, width=4, steps=2).flows())
        expected = flow.integrator.name if name == "leapfrog" else on.nets.get(name).integrators[0]
        assert flow.integrator.name == expected
        assert flow.steps == 2 and flow.span == (0.0, 1.0)


@pytest.mark.parametrize("name", ZOO)
def test_padding_appends_zeros_and_has_no_weights(name: str) -> None:
    net = on.nets.get(name)(3, 2, width=8, steps=2, opening="pad")
    x = torch.randn(4, 3)
    assert torch.equal(net.parts[0](x), torch.cat((x, torch.zeros(4, 5)), 1))
    assert count(net) == 2 * LAYER[name](8) + 9 * 2


@pytest.mark.parametrize("name", ZOO)
def test_the_words_of_a_net_reach_its_flow(name: str) -> None:
    net = on.nets.get(name)(3, 2, width=4, steps=2, span=(0.0, 3.0), init="constant", gain=2.0)
    flow = next(net.flows())
    assert flow.span == (0.0, 3.0) and flow.h == 1.5
    for k, w in flow.weights.items():
        assert torch.equal(w[0], w[1]), k
    twice = next(on.nets.get(name)(3, 2, width=4, steps=2, init="constant", gain=4.0).flows())
    kernel = next(k for k in flow.weights if k.startswith("K"))
    torch.testing.assert_close(twice.weights[kernel], 2 * flow.weights[kernel])


def test_options_reach_the_field() -> None:
    net = on.nets.parabolic(3, 2, width=4, hidden=9, norm="batch", dropout=0.25, activation="relu")
    field = next(net.flows()).field
    assert field.unit.map.rows == 9 and field.dropout == 0.25 and field.unit.norm == "batch"
    assert field.unit.activation.name == "relu"
    constrained = on.nets.resnet(3, 2, width=4, constraint=PositiveSemidefinite())
    theta = next(constrained.flows()).theta()["K"]
    assert float(torch.linalg.eigvalsh(theta).detach().min()) > -1e-5
    assert next(on.nets.antisymmetric(3, 2, gamma=0.5).flows()).field.unit.constraint.gamma == 0.5


def test_every_option_of_a_field_is_an_option_of_its_net_or_part_of_the_architecture() -> None:
    from odenet.fields import Free, HamiltonianJ, Parabolic, SeparableHamiltonian

    for name, make, fixed in (
        ("resnet", Free, set()), ("antisymmetric", Free, {"constraint"}), ("parabolic", Parabolic, set()),
        ("second_order", Parabolic, set()), ("hamiltonian", SeparableHamiltonian, set()),
        ("hamiltonian_one_layer", SeparableHamiltonian, {"layers"}), ("hamiltonian_h2", HamiltonianJ, {"form", "J"}),
    ):  # fmt: skip
        plain = {"hidden": None, "inputs": 0, "map": None, "norm": "none", "dropout": 0.0}
        for word, p in inspect.signature(make).parameters.items():
            if p.kind is not p.KEYWORD_ONLY:
                continue
            if word in fixed:
                with pytest.raises(BadInput, match=f"has no option '{word}'"):
                    on.nets.get(name)(3, 2, width=4, **{word: p.default})
            else:
                on.nets.get(name)(3, 2, width=4, **{word: plain.get(word, p.default)})


WRONG = [
    (lambda: on.nets.resnet(0, 2), "dim_in is a positive whole number, got 0"),
    (lambda: on.nets.resnet(3, -1), "dim_out is a positive whole number, got -1"),
    (lambda: on.nets.resnet(3, 2, width=2.5), "width is a positive whole number, got 2.5"),
    (lambda: on.nets.resnet(3, 2, steps=0), "steps is a positive whole number, got 0"),
    (lambda: on.nets.resnet(3, 2, opening="conv"), "opening 'conv' is not known; write 'linear' or 'pad'"),
    (lambda: on.nets.resnet(30, 2, width=8, opening="pad"), "padding makes states wider, but 30"),
    (lambda: on.nets.resnet(3, 2, widht=8), "net 'resnet' has no option 'widht'; did you mean 'width'"),
    (lambda: on.nets.second_order(3, 2, hiden=8), "net 'second_order' has no option 'hiden'; did you mean 'hidden'"),
    (lambda: on.nets.hamiltonian_h2(3, 2, form="h1"), "net 'hamiltonian_h2' has no option 'form'"),
    (lambda: on.nets.antisymmetric(3, 2, constraint="free"), "no option 'constraint'"),
    (lambda: on.nets.mlp(3, 2, qqq=8), "net 'mlp' has no option 'qqq'; it has dim_in, dim_out, width"),
    (lambda: on.nets.resnet(3), "net 'resnet': missing a required argument: 'dim_out'.*resnet.dim_in, dim_out"),
    (lambda: on.nets.resnet(*range(1, 13)), "net 'resnet': too many positional arguments"),
    (lambda: on.nets.resnet(3, 2, dim_in=3), "net 'resnet': multiple values for argument 'dim_in'"),
    (lambda: on.nets.resnet(3, 2, hidden=8), "hidden=8 needs a second layer"),
    (lambda: on.nets.resnet(3, 2, seed=1.5), "seed is a whole number >= 0, got 1.5"),
    (lambda: on.nets.mlp(3, 2, seed=None), "seed is a whole number >= 0, got None"),
    (lambda: on.nets.mlp(3, 2, seed=-1), "seed is a whole number >= 0, got -1"),
    (lambda: on.nets.resnet(3, 2, span=2.0), "span is a pair of times"),
    (lambda: on.nets.resnet(3, 2, dropout=1.0), "dropout is a probability"),
    (lambda: on.nets.resnet(3, 2, depth="per_stage"), "did you mean 'per_step'"),
    (lambda: on.nets.parabolic(3, 2, integrator="verlet"), "'verlet' needs a separable field"),
    *[(lambda n=n: on.nets.get(n)(3, 2, width=5), "width 5.*the width is even") for n in ZOO if n.startswith("hamil")],
]  # fmt: skip


@pytest.mark.parametrize(("build", "sentence"), WRONG)
def test_a_net_that_cannot_be_is_refused_in_one_line(build: Callable[[], object], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", on.nets.names())
def test_every_net_refuses_a_size_that_is_no_positive_whole_number(name: str) -> None:
    words, _ = example(name)
    own = inspect.signature(on.nets.get(name)).parameters
    for word in ("dim_in", "dim_out", "width", "hidden", "layers", *(["steps"] if "integrator" in own else [])):
        for value in (0, 2.5) if word in own else ():
            with pytest.raises(BadInput, match="positive whole number"):
                on.nets.get(name)(**{**words, word: value})


def test_an_unknown_net_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="no net is called 'resnett'; did you mean 'resnet'"):
        on.nets.get("resnett")


def test_the_recipe_is_plain_data_or_none() -> None:
    net = on.nets.resnet(3, 2, span=(0, 2), depth={"K": "shared", "*": "per_step"}, dropout=0.1)
    assert net.spec["net"] == "resnet" and net.spec["args"]["options"] == {"dropout": 0.1}
    assert net.spec["args"]["dim_in"] == 3 and net.spec["args"]["span"] == [0, 2]
    assert on.nets.resnet(3, 2, depth=on.depth.Shared()).spec is None
