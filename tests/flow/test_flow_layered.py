"""Layers with weights of their own: their composition is the net, for any weights put in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow.layered import Layer, layered


def net(name: str, **words: Any) -> nn.Module:
    return getattr(on.nets, name)(dim_in=3, dim_out=2, width=4, seed=1, **words).double()


def field(name: str, **words: Any) -> on.Flow:
    return on.Flow(getattr(on.fields, name)(4), steps=3, seed=2, **words).double()


def run(layers: list[Layer], x: Any) -> Any:
    for layer in layers:
        x = layer(x, layer.weights())
    return x


MODELS = {
    "euler": lambda: net("resnet", steps=3),
    "rk4": lambda: net("resnet", steps=3, integrator="rk4"),
    "substeps": lambda: field("Free", integrator="heun", substeps=2),
    "two-step": lambda: net("momentum", steps=3),
    "learned coefficients": lambda: net("lm_resnet", steps=3),
    "hamiltonian": lambda: net("hamiltonian", steps=3),
    "second order, lifted": lambda: field("SecondOrder", integrator="euler"),
    "antisymmetric": lambda: net("antisymmetric", steps=3, integrator="rk4"),
    "mlp": lambda: net("mlp", steps=3),
    "piecewise": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_compose_to_the_net_whatever_weights_they_are_given(name: str) -> None:
    model, twin = MODELS[name](), MODELS[name]()
    x = torch.randn(5, 4 if isinstance(model, on.Flow) else 3, dtype=torch.float64)
    layers = layered(model)
    torch.testing.assert_close(run(layers, x), model(x), rtol=1e-12, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in twin.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    state = x
    for mine, other in zip(layers, layered(twin)):  # another net's weights in the place of its own, which stay
        state = mine(state, other.weights())
    torch.testing.assert_close(state, twin(x), rtol=1e-12, atol=1e-12)
    for mine, other in zip(layers, layered(twin)):
        mine.put(other.weights())
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=0)


def test_layers_are_differentiable_in_the_weights_they_are_given() -> None:
    layer, x = layered(net("hamiltonian", steps=2))[1], torch.randn(3, 4, dtype=torch.float64)
    theta = {k: w.requires_grad_() for k, w in layer.weights().items()}
    names = list(theta)
    assert torch.autograd.gradcheck(lambda *w: layer(x, dict(zip(names, w))), tuple(theta.values()))


def test_every_layer_knows_its_step_and_its_weights() -> None:
    layers = layered(net("resnet", steps=4, span=(0.0, 2.0)))
    assert [layer.h for layer in layers] == [1.0, 0.5, 0.5, 0.5, 0.5, 1.0]
    assert [layer.name for layer in layers][:3] == ["part 0", "part 1[0]", "part 1[1]"]
    assert sum(w.numel() for layer in layers for w in layer.weights().values()) == sum(
        p.numel() for p in net("resnet", steps=4).parameters()
    )


def _tied() -> nn.Module:
    one = nn.Linear(3, 3)
    return nn.Sequential(one, nn.Tanh(), one)


@pytest.mark.parametrize(("make", "error", "sentence"), [
    (lambda: net("resnet", steps=3, depth="shared"), Incompatible, r"K, b are shared by several layers \(Shared"),
    (lambda: net("resnet", steps=3, depth="spline:2"), Incompatible, "shared by several layers"),
    (lambda: net("resnet", steps=3, integrator="dopri5"), Incompatible, "takes adaptive steps"),
    (_tied, Incompatible, "layer 0 and layer 2 share a weight"),
    (lambda: nn.GRU(3, 3), BadInput, "GRU is no row of layers"),
])  # fmt: skip
def test_what_has_no_layers_of_its_own_is_refused(make: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        layered(make())
