"""Penalties: published values and derivatives, proximal maps by brute force, max-norm, tangent prop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenet.errors import BadInput
from odenet.train.penalties import MCP_GAMMA, PENALTIES, SCAD_A, max_norm, tangent_prop

LAM = 0.7
W = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64) + 0.013  # off the kinks


def derivative(name, w):
    """p'(w) for w > 0 as published (Fan & Li 2001, eq. (2.7); Zhang 2010, eq. (2.1))."""
    return {
        "l1": LAM,
        "l2": LAM * w,
        "scad": LAM * (1.0 if w <= LAM else max(SCAD_A * LAM - w, 0.0) / ((SCAD_A - 1) * LAM)),
        "mcp": LAM * max(0.0, 1 - w / (MCP_GAMMA * LAM)),
    }[name]


@pytest.mark.parametrize("name", PENALTIES)
def test_the_derivative_is_the_published_one_and_the_value_starts_from_zero(name):
    p = PENALTIES[name]
    assert p.f(torch.zeros(1, dtype=torch.float64), LAM).item() == 0.0
    w = W.clone().requires_grad_()
    (g,) = torch.autograd.grad(p.f(w, LAM).sum(), w)
    expected = [math.copysign(derivative(name, abs(v)), v) for v in W.tolist()]
    torch.testing.assert_close(g, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_value_is_continuous_across_its_pieces(name):
    fine = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    jumps = PENALTIES[name].f(fine, LAM).diff().abs().max()
    assert jumps.item() <= 1.0001e-4 * max(derivative("l2", 4.0), LAM)


@pytest.mark.parametrize("step", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("name", PENALTIES)
def test_the_proximal_map_finds_the_minimum_that_brute_force_finds(name, step):
    p = PENALTIES[name]
    grid = torch.linspace(-5, 5, 100001, dtype=torch.float64)
    values = p.f(grid, LAM)
    for v in W[::4]:
        brute = grid[(0.5 * (grid - v) ** 2 + step * values).argmin()]
        assert p.prox(v, LAM, step).item() == pytest.approx(brute.item(), abs=1.1e-4)


def test_scad_and_mcp_leave_large_weights_alone_and_l1_does_not():
    v = torch.tensor([-9.0, 9.0])
    for name in ("scad", "mcp"):
        assert torch.equal(PENALTIES[name].prox(v, LAM, 1.0), v)
        with pytest.raises(BadInput, match="one point for 0 < step"):
            PENALTIES[name].prox(v, LAM, 3.0)
    torch.testing.assert_close(PENALTIES["l1"].prox(v, LAM, 1.0), torch.tensor([-8.3, 8.3]))


def test_a_penalty_sums_over_tensors():
    net = nn.Linear(3, 2)
    expected = sum(w.abs().sum().item() for w in net.parameters())
    assert PENALTIES["l1"](net.parameters(), 0.5).item() == pytest.approx(0.5 * expected, rel=1e-6)
    with pytest.raises(BadInput, match="no weights"):
        PENALTIES["l1"]([], 0.5)


def test_the_gradient_of_l2_is_the_weight_decay_of_torch_sgd():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3)
    for net, decay in ((ours, 0.0), (theirs, 0.1)):
        opt = torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=decay)
        loss = net(x).square().mean() + (0.0 if decay else PENALTIES["l2"](net.parameters(), 0.1))
        loss.backward()
        opt.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_proximal_gradient_with_l1_recovers_a_sparse_vector_exactly_zero_elsewhere():
    g = torch.Generator().manual_seed(0)
    A = torch.randn(60, 100, generator=g, dtype=torch.float64) / 60**0.5
    truth = torch.zeros(100, dtype=torch.float64)
    truth[:5] = torch.tensor([3.0, -2.0, 4.0, -3.0, 2.0])
    b, w = A @ truth, torch.zeros(100, dtype=torch.float64)
    step = 1 / torch.linalg.matrix_norm(A, 2).item() ** 2
    for _ in range(3000):
        w = PENALTIES["l1"].prox(w - step * A.T @ (A @ w - b), 0.02, step)
    assert (w[5:] == 0).all()
    torch.testing.assert_close(w[:5], truth[:5], rtol=0, atol=0.1)


def test_max_norm_is_the_projection_of_each_units_weights_onto_the_ball():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5), nn.LayerNorm(4)).double()
    before = [p.detach().clone() for p in net.parameters()]
    norms = [before[k].flatten(1).norm(dim=1) for k in (0, 2)]
    limit = torch.cat(norms).median().item()
    assert max_norm(net, limit) is net
    for k, norm in zip((0, 2), norms):
        after = list(net.parameters())[k].detach()
        torch.testing.assert_close(after.flatten(1).norm(dim=1), norm.clamp(max=limit))
        scale = torch.stack([w / (w.norm() / limit).clamp(min=1.0) for w in before[k]])
        torch.testing.assert_close(after, scale, rtol=1e-14, atol=1e-15)
    for k in (1, 3, 4, 5):
        assert torch.equal(list(net.parameters())[k], before[k])
    with pytest.raises(BadInput, match="limit > 0"):
        max_norm(net, 0.0)


def test_max_norm_leaves_zero_weights_at_zero():
    net = nn.Linear(2, 2)
    nn.init.zeros_(net.weight)
    assert torch.equal(max_norm(net, 1.0).weight, torch.zeros(2, 2))


def test_tangent_prop_of_a_linear_net_is_the_squared_image_of_the_tangent():
    net = nn.Linear(3, 2, dtype=torch.float64)
    x, v = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ((v @ net.weight.T) ** 2).sum(dim=1).mean()
    torch.testing.assert_close(tangent_prop(net, x, v), expected)
    torch.testing.assert_close(tangent_prop(net, x, torch.stack([v, 2 * v])), 5 * expected)


def test_tangent_prop_agrees_with_differences_and_has_a_gradient_in_the_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x, v = torch.randn(2, 4, 3, dtype=torch.float64)
    e = 1e-5
    difference = (((net(x + e * v) - net(x - e * v)) / (2 * e)) ** 2).sum(dim=1).mean()
    value = tangent_prop(net, x, v)
    assert value.item() == pytest.approx(difference.item(), rel=1e-8)
    (g,) = torch.autograd.grad(value, net[0].weight)
    with torch.no_grad():
        net[0].weight[2, 1] += e
        up = tangent_prop(net, x, v).item()
        net[0].weight[2, 1] -= 2 * e
        down = tangent_prop(net, x, v).item()
    assert g[2, 1].item() == pytest.approx((up - down) / (2 * e), rel=1e-7)
    with pytest.raises(BadInput, match="one axis more"):
        tangent_prop(net, x, v[:2])
