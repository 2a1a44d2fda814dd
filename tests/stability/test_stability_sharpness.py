"""Curvature of the loss against matrices with known spectra and closed forms; weights rounded by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenet import nets
from odenet.errors import BadInput
from odenet.flow import Chain, Flow
from odenet.stability.robustness import quantisation
from odenet.stability.sharpness import rise, sharpness, top_eigenvalues
from odenet.stability.twins import quantised


def quadratic(spectrum, seed=0):
    """1/2 w^T A w with these eigenvalues, over two weight tensors."""
    n = len(spectrum)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    A = Q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT
    parts = [torch.ones(n // 2, dtype=torch.float64), torch.ones(n - n // 2, dtype=torch.float64)]
    weights = [p.requires_grad_() for p in parts]

    def loss():
        w = torch.cat(weights)
        return 0.5 * w @ A @ w

    return loss, weights, A


@pytest.mark.parametrize("spectrum", [
    [5.0, 4.9, 1.0, 0.5, 0.0, -1.0, -7.0], [100.0] + [1.0] * 20, [-1.0, -2.0, -3.0], [2.0] * 6,
])  # fmt: skip
def test_the_largest_eigenvalues_of_a_quadratic_are_those_of_its_matrix(spectrum):
    loss, weights, _ = quadratic(spectrum)
    (top,), residual = top_eigenvalues(loss, weights)
    assert top == pytest.approx(max(spectrum), rel=1e-9) and residual < 1e-6


def test_several_eigenvalues_come_in_falling_order():
    loss, weights, _ = quadratic([9.0, 4.0, 1.0, -2.0, -5.0])
    assert top_eigenvalues(loss, weights, count=3)[0] == pytest.approx([9.0, 4.0, 1.0], rel=1e-9)


def test_an_early_stop_says_how_far_off_it_may_be():
    spectrum = [float(k) for k in range(60)]
    loss, weights, _ = quadratic(spectrum)
    (top,), residual = top_eigenvalues(loss, weights, steps=5)
    assert top < 59.0 and residual > 1e-3
    assert min(abs(top - s) for s in spectrum) <= residual * top * (1 + 1e-9)


def test_two_linear_layers_have_the_hessian_of_a_product():
    x, t, a, b = 1.5, 0.7, 0.8, -1.2
    wa, wb = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b))
    (top,), _ = top_eigenvalues(lambda: 0.5 * (wa * wb * x - t) ** 2, [wa, wb])
    r = a * b * x - t
    p, q, s = (b * x) ** 2, (a * x) ** 2, a * b * x**2 + r * x
    assert top == pytest.approx((p + q) / 2 + math.hypot((p - q) / 2, s), rel=1e-10)


def test_a_linear_loss_has_no_curvature_and_one_without_weights_is_refused():
    w = torch.ones(3, requires_grad=True)
    assert top_eigenvalues(lambda: w.sum(), [w])[0] == [0.0]
    with pytest.raises(BadInput, match="does not depend on the weights"):
        top_eigenvalues(lambda: torch.ones(()), [w])


def test_the_rise_along_the_gradient_of_a_quadratic_is_its_taylor_polynomial():
    loss, weights, A = quadratic([3.0, 2.0, 1.0, -1.0])
    w = torch.cat([p.detach() for p in weights])
    g, radius = A @ w, 0.3
    e = radius * g / g.norm()
    assert rise(loss, weights, radius) == pytest.approx(float(g @ e + 0.5 * e @ A @ e), rel=1e-12)
    assert torch.equal(torch.cat([p.detach() for p in weights]), w)


def test_the_sharpness_of_logistic_regression_has_a_closed_form():
    x = torch.tensor([[2.0], [-1.0], [0.5]])
    y = torch.tensor([0, 1, 1])
    net = nn.Linear(1, 2, bias=False)
    p = net(x).softmax(1)[:, 0].detach().double()
    kappa = float((x.squeeze(1).double() ** 2 * p * (1 - p)).mean())  # Hessian kappa [[1, -1], [-1, 1]]
    found = sharpness(net, x, y)
    assert found["hessian_max"] == pytest.approx(2 * kappa, rel=1e-6) and found["hessian_residual"] < 1e-3
    assert sharpness(nn.Linear(1, 1, bias=False), x, x)["hessian_max"] == pytest.approx(
        2 * float((x**2).mean()), rel=1e-6
    )


def test_gradient_descent_on_the_same_loss_diverges_beyond_two_over_the_largest_eigenvalue():
    x, t = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    net = nn.Linear(1, 1, bias=False)
    top = sharpness(net, x, t)["hessian_max"]
    ends = []
    for lr in (1.9 / top, 2.1 / top):
        w = net.weight.detach().clone()
        for _ in range(200):
            w = w - lr * 2 * ((x * w - t) * x).mean()
        ends.append(abs(float(w) - float((x * t).sum() / (x * x).sum())))
    assert ends[0] < 1e-3 < 1e3 < ends[1]


@pytest.mark.parametrize("name", ["resnet", "hamiltonian", "lm_resnet", "mlp"])
def test_nets_have_a_sharpness_and_keep_their_weights(name):
    options = {"steps": 2} if name == "mlp" else {"steps": 3, "gradient": "discrete"}
    net = nets.get(name)(3, 2, width=4, **options)
    before = [p.clone() for p in net.parameters()]
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = sharpness(net, x, torch.arange(8) % 2, steps=60)
    assert found["hessian_max"] > 0 and found["hessian_residual"] < 1e-2 and found["sharpness"] > 0
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(net.parameters(), before))


def test_a_net_without_weights_has_no_sharpness():
    assert sharpness(nn.Tanh(), torch.ones(2, 2), torch.tensor([0, 1])) == {}


# ---- rounded weights ------------------------------------------------------------------------------------------------


def test_eight_bits_are_255_multiples_of_the_largest_entry():
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[127.0, 0.4, -50.6]]))
    assert quantised(net, "int8").weight.tolist() == [[127.0, 0.0, -51.0]]
    assert net.weight[0, 1].item() == pytest.approx(0.4)


def test_every_depth_of_a_flow_has_a_scale_of_its_own():
    net = nets.resnet(3, 2, width=4, steps=3)
    flow = next(net.flows())
    with torch.no_grad():
        flow.weights["K"][1] *= 1000
    K, rounded = flow.weights["K"].detach(), next(quantised(net, "int8").flows()).weights["K"].detach()
    for n in range(3):
        size = K[n].abs().max() / 127
        assert float((K[n] - rounded[n]).abs().max()) <= float(size) * 0.5001
        assert torch.allclose(rounded[n] / size, (rounded[n] / size).round(), atol=1e-4)
        assert not torch.equal(K[n], rounded[n])


def test_bfloat16_keeps_eight_bits_of_the_mantissa():
    net = nn.Linear(50, 4)
    w, rounded = net.weight.detach(), quantised(net, "bf16").weight.detach()
    assert float(((w - rounded) / w).abs().max()) <= 2**-8 and not torch.equal(w, rounded)
    bits = rounded.view(torch.int32) & 0xFFFF
    assert bool((bits == 0).all())  # the low half of single precision is empty


def test_zero_weights_stay_and_another_word_is_refused():
    net = nn.Linear(2, 2)
    nn.init.zeros_(net.weight)
    assert torch.equal(quantised(net, "int8").weight, net.weight)
    with pytest.raises(BadInput, match="precision 'int4' is not known"):
        quantised(net, "int4")


def test_what_rounding_costs_is_what_a_rounded_linear_net_says():
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0 + 2**-10]]))
    x, y = torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.tensor([1, 0])
    found = quantisation(net, x, y)
    assert found["accuracy_bf16"] == 0.5  # the two scores of the first sample are equal now
    change = 2**-10 / math.hypot(1.0, 1.0 + 2**-10)
    assert found["output_change_bf16"] == pytest.approx(change, rel=1e-3)
    assert set(quantisation(net, x)) == {"output_change_bf16", "output_change_int8"}
    chain = Chain(Flow(lambda v: v, depth="shared", steps=1))
    assert quantisation(chain, x)["output_change_int8"] == 0.0
