"""Activations against torch.nn and closed forms; every stated slope and primitive against autograd."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from odenet.errors import BadInput, ClaimRefused, Incompatible, UnknownName
from odenet.fields import activations
from odenet.fields.activations import Activation, get, layer, resolve
from odenet.registry import Registry

GRID = torch.linspace(-15.0, 15.0, 30001, dtype=torch.float64)
TORCH = {
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "hard_tanh": F.hardtanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": F.silu,
    "softsign": F.softsign,
    "gelu": F.gelu,
}
CLOSED_FORMS = {
    "identity": lambda x: x,
    "sign": lambda x: (x > 0) - (x < 0),
    "step": lambda x: 0.5 if x == 0 else float(x > 0),
    "rbf": lambda x: math.exp(-(x**2)),
    "bent_identity": lambda x: (math.sqrt(x * x + 1) - 1) / 2 + x,
    "sin": math.sin,
}


def derivative(f, x, order=1):
    x = x.clone().requires_grad_()
    y = f(x)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.detach()


def test_the_oracles_cover_every_name():
    assert sorted(TORCH | CLOSED_FORMS) == activations.names()


@pytest.mark.parametrize("name", TORCH)
def test_activation_equals_torch_functional(name):
    assert torch.equal(get(name).f(GRID), TORCH[name](GRID))


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_activation_equals_its_closed_form(name):
    x = GRID[::100]
    expected = torch.tensor([float(CLOSED_FORMS[name](float(v))) for v in x], dtype=torch.float64)
    torch.testing.assert_close(get(name)(x), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", [n for n in activations.names() if n not in ("sign", "step")])
def test_stated_slopes_are_the_infimum_and_supremum_of_the_derivative(name):
    """The derivative stays inside the bounds and comes within 1e-5 of them, up to two known slow tails."""
    lo, hi = get(name).slope
    seen = derivative(get(name).f, GRID)
    assert lo - 1e-8 <= float(seen.min()) and float(seen.max()) <= hi + 1e-8
    slow_tail = {"softsign": 1 / 16**2, "bent_identity": (1 - 15 / math.sqrt(226)) / 2}.get(name, 0.0)
    assert float(seen.min()) - lo < 1e-5 + slow_tail
    assert hi - float(seen.max()) < 1e-5 + (slow_tail if name == "bent_identity" else 0.0)


@pytest.mark.parametrize("name", ["sign", "step"])
def test_functions_that_jump_state_no_slope_and_pass_no_gradient(name):
    assert all(math.isnan(s) for s in get(name).slope)
    assert math.isnan(get(name).lipschitz)
    assert float(derivative(get(name).f, GRID).abs().max()) == 0.0


@pytest.mark.parametrize("name", [n for n in activations.names() if get(n).primitive])
def test_the_derivative_of_the_primitive_is_the_activation(name):
    a = get(name)
    x = GRID[GRID != 0] if name in ("sign", "step") else GRID
    torch.testing.assert_close(derivative(a.primitive, x), a.f(x), rtol=1e-9, atol=1e-9)


def test_a_primitive_is_missing_only_where_it_is_a_dilogarithm():
    assert [n for n in activations.names() if get(n).primitive is None] == ["softplus", "swish"]


def test_log_cosh_neither_overflows_nor_loses_its_second_derivative_at_zero():
    p = get("tanh").primitive
    assert p(torch.tensor(1000.0, dtype=torch.float64)).item() == pytest.approx(1000 - math.log(2), rel=1e-15)
    assert p(torch.tensor(-1000.0, dtype=torch.float64)).item() == pytest.approx(1000 - math.log(2), rel=1e-15)
    zero = torch.zeros(1, dtype=torch.float64)
    assert derivative(p, zero, order=2).item() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("name", activations.names())
def test_smooth_means_that_no_derivative_jumps(name):
    """Orders 0 to 2, one-sided at the only candidates -1, 0 and 1."""
    a, eps = get(name), 1e-7
    jump = 0.0
    for at in (-1.0, 0.0, 1.0):
        sides = [torch.tensor([at + s], dtype=torch.float64) for s in (-eps, eps)]
        for order in range(3):
            try:
                left, right = (derivative(a.f, s, order) for s in sides)
            except RuntimeError:  # autograd knows that a piecewise linear function has no such derivative
                break
            jump = max(jump, float((left - right).abs()))
    assert (jump < 1e-5) == a.smooth


@pytest.mark.parametrize("name", activations.names())
def test_layer_is_a_module_of_the_same_function_in_both_precisions(name):
    module = layer(name)
    assert isinstance(module, nn.Module)
    for dtype in (torch.float32, torch.float64):
        x = GRID[::1000].to(dtype)
        assert module(x).dtype == dtype
        assert torch.equal(module(x), get(name).f(x))


def test_learned_and_random_slopes_exist_as_layers_only():
    assert isinstance(layer("parametric_relu"), nn.PReLU)
    assert isinstance(layer("randomised_relu"), nn.RReLU)
    with pytest.raises(Incompatible, match="layer\\('parametric_relu'\\)"):
        get("parametric_relu")
    with pytest.raises(Incompatible, match="PReLU has weights"):
        resolve(nn.PReLU())


def test_resolve_takes_a_name_an_activation_or_a_function():
    assert resolve("tanh") is get("tanh")
    assert resolve(get("relu")) is get("relu")
    assert resolve(torch.atan).f is torch.atan
    assert resolve(nn.Tanh()).name == "Tanh"
    with pytest.raises(BadInput, match="not float"):
        resolve(1.0)
    with pytest.raises(UnknownName, match="did you mean 'tanh'"):
        resolve("tanhh")


@pytest.fixture
def registry():
    return Registry("activation", "odenet.none", activations._checked)


def test_registering_a_function_makes_it_an_activation(registry):
    assert registry.register("atan", torch.atan).f is torch.atan
    assert registry.register("atan2", Activation("atan2", torch.atan, (0.0, 1.0))).lipschitz == 1.0


@pytest.mark.parametrize("wrong", [(0.0, 0.99), (0.1, 1.0)])
def test_a_wrong_slope_is_refused(registry, wrong):
    with pytest.raises(ClaimRefused, match="states slopes"):
        registry.register("mine", dataclasses.replace(get("tanh"), slope=wrong))


@pytest.mark.parametrize("name", [n for n in activations.names() if get(n).primitive])
def test_a_primitive_off_by_one_per_cent_is_refused(registry, name):
    right = get(name)
    with pytest.raises(ClaimRefused, match="primitive"):
        registry.register("mine", dataclasses.replace(right, primitive=lambda x: 1.01 * right.primitive(x)))


def test_what_is_not_a_pointwise_function_is_refused(registry):
    with pytest.raises(BadInput, match="not int"):
        registry.register("mine", 3)
    with pytest.raises(BadInput, match="same shape"):
        registry.register("mine", torch.sum)
