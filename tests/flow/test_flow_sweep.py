"""Costates against backpropagation equations written by hand: an MLP, a CNN, backpropagation through time, flows."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import odenet as on
from nets_examples import example
from odenet.errors import BadInput

pytestmark = pytest.mark.usefixtures("double")


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_an_mlp_obeys_the_backpropagation_equations() -> None:
    """delta_l = (W_{l+1}^T delta_{l+1}) * (1 - tanh^2), dL/dW_l = delta_l a_{l-1}^T, dL/db_l = sum delta_l."""
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(4, 5), torch.randn(4, 3)
    result = on.sweep(net, x, lambda out: 0.5 * ((out - y) ** 2).sum())
    W = [net[i].weight.detach() for i in (0, 2, 4)]
    b = [net[i].bias.detach() for i in (0, 2, 4)]
    a1 = torch.tanh(x @ W[0].T + b[0])
    a2 = torch.tanh(a1 @ W[1].T + b[1])
    delta3 = a2 @ W[2].T + b[2] - y
    delta2 = (delta3 @ W[2]) * (1 - a2**2)
    delta1 = (delta2 @ W[1]) * (1 - a1**2)
    for name, d, a in (("0", delta1, x), ("2", delta2, a1), ("4", delta3, a2)):
        close(result.gradients[f"{name}.weight"], d.T @ a)
        close(result.gradients[f"{name}.bias"], d.sum(0))
    for n, costate in enumerate((delta1 @ W[0], delta1, delta2 @ W[1], delta2, delta3 @ W[2], delta3)):
        close(result.costates[n], -costate)


def test_a_cnn_obeys_the_backpropagation_equations() -> None:
    """Costate of a convolution: full correlation with the mirrored kernel; of a kernel: correlation with the input."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(5, 2, 4, 4)
    result = on.sweep(net, x, lambda out: (out**2).sum() / 2)
    K, w = net[0].weight.detach(), net[4].weight.detach()
    a = torch.tanh(F.conv2d(x, K, net[0].bias.detach(), padding=1))
    pooled = F.avg_pool2d(a, 2).flatten(1)
    out = pooled @ w.T + net[4].bias.detach()
    close(result.gradients["4.weight"], out.T @ pooled)
    spread = (out @ w).reshape(5, 3, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    delta = spread * (1 - a**2)
    mirrored = K.flip(2, 3).transpose(0, 1)
    close(-result.costates[0], F.conv2d(delta, mirrored, padding=1))
    padded, expected = F.pad(x, (1, 1, 1, 1)), torch.zeros_like(K)
    for i in range(3):
        for j in range(3):
            expected[:, :, i, j] = torch.einsum("bohw,bihw->oi", delta, padded[:, :, i : i + 4, j : j + 4])
    close(result.gradients["0.weight"], expected)
    close(result.gradients["0.bias"], delta.sum((0, 2, 3)))


def test_a_recurrent_net_obeys_backpropagation_through_time() -> None:
    """p_t = (p_{t+1} * (1 - h_{t+1}^2)) W, dL/dW = -sum_t (p_{t+1} * (1 - h_{t+1}^2))^T h_t."""
    W, V, b = torch.randn(4, 4) * 0.5, torch.randn(4, 2), torch.randn(4)
    u, target = torch.randn(6, 3, 2), torch.randn(3, 4)
    layers = [lambda h, n=n: torch.tanh(h @ W.T + u[n] @ V.T + b) for n in range(6)]
    result = on.sweep(layers, torch.zeros(3, 4), lambda h: ((h - target) ** 2).sum() / 2)
    h = [torch.zeros(3, 4)]
    for n in range(6):
        h.append(torch.tanh(h[-1] @ W.T + u[n] @ V.T + b))
    p = -(h[-1] - target)
    close(result.costates[6], p)
    for n in range(5, -1, -1):
        p = (p * (1 - h[n + 1] ** 2)) @ W
        close(result.costates[n], p)


def test_the_recurrent_baseline_unrolls_into_layers_whose_sweep_is_its_gradient() -> None:
    net = on.nets.rnn(dim_in=2, dim_out=3, width=4).double()
    x = torch.randn(3, 6, 2)
    inner = next(m for m in net.modules() if hasattr(m, "unrolled"))
    h0, layers = inner.unrolled(x)
    result = on.sweep(layers, h0, lambda h: (h**2).sum())
    assert len(result.costates) == 7
    h = h0.requires_grad_()
    out = h
    for layer in layers:
        out = layer(out)
    close(-result.costates[0], torch.autograd.grad((out**2).sum(), h)[0])


ROWS = [n for n in on.nets.names() if on.nets.get(n).takes in ("vector", "image")]
DEPTHS = [{"depth": d} for d in ("per_step", "piecewise_linear", "shared")]


@pytest.mark.parametrize(("name", "more"), [
    (n, d) for n in ROWS for d in (DEPTHS if "depth" in inspect.signature(on.nets.get(n)).parameters else [{}])
])  # fmt: skip
def test_every_net_sweeps_to_its_autograd_gradient(name: str, more: dict[str, str]) -> None:
    words, x = example(name)
    words = words | more
    net, x = shaken(on.nets.get(name)(**words)).double().eval(), x.double()
    y = torch.arange(len(x)) % net(x).shape[1]
    result = on.sweep(net, x, lambda out: F.cross_entropy(out, y))
    named = {k: p for k, p in net.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(F.cross_entropy(net(x), y), list(named.values()), allow_unused=True)
    for key, g in zip(named, expected):
        if g is not None:
            close(result.gradients[key], g)


def shaken(net: nn.Module) -> nn.Module:
    """Weights that no initialisation gives."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def test_the_gradient_is_minus_the_derivative_of_the_hamiltonian() -> None:
    net = on.nets.resnet(4, 2, width=3, steps=4).double()
    x = torch.randn(5, 4)
    result = on.sweep(net, x, lambda out: (out**2).sum())
    flow = net.parts[1]
    total = sum(torch.autograd.grad(result.hamiltonian(n), flow.weights["K"])[0] for n in (1, 2, 3, 4))
    close(result.gradients["parts.1.weights.K"], -total)


def test_the_costate_product_with_a_perturbation_is_the_same_at_every_layer() -> None:
    """<p_n, dx_n> is constant along the linearised flow."""
    net = on.nets.hamiltonian(4, 2, width=6, steps=8).double()
    x, d = torch.randn(1, 4), torch.randn(1, 4)
    result = on.sweep(net, x, lambda out: (out**3).sum())
    values = []
    for layer, costate in zip(result.layers, result.costates):
        values.append(float((costate * d).sum()))
        x, d = torch.autograd.functional.jvp(layer, x, d)
    values.append(float((result.costates[-1] * d).sum()))
    assert values == pytest.approx([values[0]] * len(values), rel=1e-11)


def test_what_has_no_layers_is_told() -> None:
    with pytest.raises(BadInput, match="Linear is not a row of layers"):
        on.sweep(nn.Linear(2, 2), torch.zeros(1, 2), torch.sum)
