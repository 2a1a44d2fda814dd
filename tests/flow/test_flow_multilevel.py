"""Nets over twice and half as many knot intervals: the same equation, the published copy, and files that come back."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow.multilevel import prolong, refine, restrict

SMOOTH = ["piecewise_linear", "spline", "spline:2", "chebyshev", "legendre", "fourier", "rbf", "polynomial"]


@pytest.mark.usefixtures("double")
@torch.no_grad()
@pytest.mark.parametrize("depth", SMOOTH)
@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_doublings_of_a_smooth_net_approach_one_equation_at_the_order_of_the_method(
    depth: str, integrator: str, order: int
) -> None:
    net = on.Flow(on.fields.Free(3), integrator, depth=depth, steps=4, span=(0.0, 2.0), seed=1)
    y = torch.randn(5, 3)
    levels = [net]
    while len(levels) < 5:
        levels.append(prolong(levels[-1]))
    values = [level(y) for level in levels]
    changes = [float((b - a).norm()) for a, b in pairwise(values)]
    rate = math.log2(changes[-2] / changes[-1])
    assert rate > order - 0.15
    # |y_N - y_2N| is (1 - 2^-p) of the error, here against many steps on the theta(t) of the first net
    error = float((values[-2] - net.with_integrator("rk4", steps=512)(y)).norm())
    assert changes[-1] == pytest.approx((1 - 2.0**-rate) * error, rel=0.1)


@pytest.mark.usefixtures("double")
@torch.no_grad()
@pytest.mark.parametrize("depth", ["shared", "piecewise_linear", "spline", "chebyshev"])
def test_theta_of_a_prolonged_flow_is_the_same_function_of_t(depth: str) -> None:
    net = on.Flow(on.fields.Free(3), "rk4", depth=depth, steps=6, span=(-1.0, 2.0), seed=1)
    fine = prolong(net)
    assert fine.steps == 12 and fine.h == net.h / 2 and fine.span == net.span
    for t in (-1.0, -0.3, 0.77, 1.9):
        for name in net.weights:
            at = [f.depths[name].at(f.weights[name], t, f.knots) for f in (net, fine)]
            torch.testing.assert_close(at[1], at[0])
    back = restrict(fine)
    for name, c in net.weights.items():
        torch.testing.assert_close(back.weights[name], c)


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_an_autonomous_linear_net_follows_its_closed_form_through_the_levels() -> None:
    net = on.Flow(on.fields.Free(1, activation="identity"), "euler", depth="shared", steps=8, span=(0.0, 1.5))
    net.weights["K"].fill_(-0.7)
    net.weights["b"].zero_()
    y = torch.ones(1, 1)
    for flow, n in ((restrict(net), 4), (net, 8), (prolong(net), 16), (prolong(prolong(net)), 32)):
        assert float(flow(y)) == pytest.approx((1 - 0.7 * 1.5 / n) ** n, rel=1e-14)


@torch.no_grad()
def test_weights_per_step_are_each_layer_behind_itself_with_half_the_step() -> None:
    net = on.nets.resnet(5, 3, width=4, steps=3, span=(0.0, 3.0), norm="batch", seed=2)
    on.calibrate(net, [torch.randn(50, 5)])
    net.eval()
    deep = prolong(net)
    opening, flow, head = net.parts
    y = x = opening(torch.randn(7, 5))
    p = {**flow.weights, **{k[5:]: b for k, b in flow.named_buffers(recurse=False)}}
    for n in (0, 0, 1, 1, 2, 2):
        z = (y @ p["K"][n].T - p["mean"][n]) / torch.sqrt(p["var"][n] + 1e-5)
        y = y + 0.5 * torch.tanh(z * p["scale"][n] + p["shift"][n])
    torch.testing.assert_close(deep.parts[1](x), y)
    torch.testing.assert_close(deep.parts[2](y), head(y))


@torch.no_grad()
def test_learned_coefficients_of_a_two_step_method_go_along() -> None:
    net = on.nets.lm_resnet(5, 3, width=4, steps=4, seed=2)
    (name,) = dict(net.parts[1].coefficients)
    k = net.parts[1].coefficients[name]
    k.copy_(torch.tensor([-0.1, -0.2, -0.3, -0.4]).reshape(k.shape))
    deep = prolong(net)
    assert deep.parts[1].coefficients[name].flatten().tolist() == pytest.approx(
        [-0.1] * 2 + [-0.2] * 2 + [-0.3] * 2 + [-0.4] * 2
    )
    shallow = restrict(net).parts[1].coefficients[name]
    assert shallow.flatten().tolist() == pytest.approx([-0.15, -0.35])


@pytest.mark.parametrize("gradient", ["autograd", "checkpoint", "discrete", "reversible"])
def test_a_prolonged_net_trains_with_its_gradient_method(gradient: str, recomputed: None) -> None:
    net = on.nets.hamiltonian(4, 2, width=6, steps=4, depth="spline", gradient=gradient)
    deep, x, y = prolong(net), torch.randn(40, 4), torch.randint(2, (40,))
    on.fit(deep, (x, y), steps=3)
    assert deep.parts[1].gradient.name == gradient
    reference = prolong(on.nets.hamiltonian(4, 2, width=6, steps=4, depth="spline"))
    on.fit(reference, (x, y), steps=3)
    for a, b in zip(deep.parameters(), reference.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_weights_that_two_flows_share_stay_shared() -> None:
    first, second = (on.Flow(on.fields.Free(3), steps=2, seed=k) for k in (1, 2))
    second.weights["K"] = first.weights["K"]
    for change in (prolong, restrict):
        a, b = change(on.flow.Chain(first, second)).parts
        assert a.weights["K"] is b.weights["K"] and a.weights["b"] is not b.weights["b"]
        assert a.weights["K"] is not first.weights["K"]


@torch.no_grad()
def test_refining_pieces_changes_nothing_until_they_are_trained_apart(tmp_path) -> None:
    net = on.nets.resnet(5, 3, width=4, steps=8, integrator="rk4", depth="piecewise_constant:2", seed=1)
    finer = refine(net)
    x = torch.randn(6, 5)
    assert finer.parts[1].weights["K"].shape[0] == 4 and net.parts[1].weights["K"].shape[0] == 2
    assert torch.equal(finer(x), net(x))
    assert finer.spec["args"]["depth"] == "piecewise_constant:4"
    back = on.load(on.save(finer, tmp_path / "net.safetensors"))
    assert torch.equal(back(x), net(x)) and back.parts[1].weights["K"].shape[0] == 4
    finer.parts[1].weights["K"][1].zero_()
    assert not torch.equal(finer(x), net(x))
    with pytest.raises(BadInput, match="8 knot intervals cannot be shared out over 16"):
        refine(refine(refine(net)))


@torch.no_grad()
def test_four_steps_in_a_piece_are_four_steps_with_one_set_of_weights() -> None:
    flow = on.Flow(on.fields.Free(3), "euler", depth="piecewise_constant:2", steps=8, seed=1)
    y = state = torch.randn(5, 3)
    for n in range(8):
        K, b = flow.weights["K"][n // 4], flow.weights["b"][n // 4]
        y = y + 0.125 * torch.tanh(y @ K.T + b)
    torch.testing.assert_close(flow(state), y)
    torch.testing.assert_close(prolong(flow)(state), flow.with_integrator("euler", steps=16)(state))


@pytest.mark.parametrize(
    ("change", "net", "error", "sentence"),
    [
        (prolong, nn.Linear(2, 2), BadInput, "holds no Flow"),
        (restrict, on.Flow(on.fields.Free(2), steps=3), BadInput, "even number of steps"),
        (restrict, on.Flow(on.fields.Free(2), steps=6, depth="piecewise_constant:2"), BadInput, "multiple of 2"),
        (refine, on.Flow(on.fields.Free(2), steps=4), BadInput, "piecewise constant"),
        (prolong, on.Flow(on.fields.Free(2, inputs=1), steps=4), Incompatible, "which is data"),
    ],
)
def test_what_cannot_be_transferred_is_told_in_a_sentence(
    change: Any, net: nn.Module, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        change(net)
