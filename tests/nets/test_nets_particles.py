"""Transformers as flows: against the encoder as a loop, closed forms of two tokens, and symmetries."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput
from odenet.fields.particles import Attraction, Tokens
from odenet.integrators import Splitting
from odenet.nets.baselines import EncoderBlock

W, T, N = 8, 5, 3


def tokens(integrator: Any = "lie_euler", **words: Any) -> on.Flow:
    flow = on.Flow(Tokens(W, heads=2, **words), integrator, steps=N, span=(0.0, float(N)), seed=1).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return flow


def state(batch: int = 2) -> Tensor:
    return torch.randn(batch, T, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def block(flow: on.Flow, n: int, causal: bool = False) -> EncoderBlock:
    """The baseline's encoder block with the weights of knot interval n."""
    w, out = {k: v[n] for k, v in flow.weights.items()}, EncoderBlock(W, 2, causal=causal).double()
    pairs = {
        out.norm1.weight: "scale1", out.norm1.bias: "shift1", out.norm2.weight: "scale2", out.norm2.bias: "shift2",
        out.qkv.weight: "Q", out.qkv.bias: "Q_b", out.out.weight: "O", out.out.bias: "O_b",
        out.mlp[0].weight: "K1", out.mlp[0].bias: "K1_b", out.mlp[2].weight: "K2", out.mlp[2].bias: "K2_b",
    }  # fmt: skip
    with torch.no_grad():
        for p, name in pairs.items():
            p.copy_(w[name])
    return out


def attend(b: EncoderBlock, x: Tensor) -> Tensor:
    return b._mix(b.norm1(x))


def perceive(b: EncoderBlock, x: Tensor) -> Tensor:
    return b.mlp(b.norm2(x))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---- the integrators of a transformer ------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_euler_for_attention_and_then_for_the_perceptron_is_the_pre_norm_encoder(causal: bool) -> None:
    flow, x = tokens(causal=causal), state()
    y, z = x, x
    for n in range(N):
        b = block(flow, n, causal)
        y = b(y)
        layer = nn.TransformerEncoderLayer(W, 2, 4 * W, 0.0, norm_first=True, batch_first=True).double().eval()
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": b.qkv.weight, "self_attn.in_proj_bias": b.qkv.bias,
                "self_attn.out_proj.weight": b.out.weight, "self_attn.out_proj.bias": b.out.bias,
                "linear1.weight": b.mlp[0].weight, "linear1.bias": b.mlp[0].bias,
                "linear2.weight": b.mlp[2].weight, "linear2.bias": b.mlp[2].bias,
                **{f"norm{k}.{p}": getattr(getattr(b, f"norm{k}"), p) for k in "12" for p in ("weight", "bias")},
            }
        )  # fmt: skip
        mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=x.dtype) if causal else None
        z = layer(z, src_mask=mask, is_causal=causal)
    close(flow(x), y)
    close(flow(x), z)


def test_euler_for_the_sum_moves_both_at_once() -> None:
    flow, x = tokens("euler"), state()
    y = x
    for n in range(N):
        b = block(flow, n)
        y = y + attend(b, y) + perceive(b, y)
    close(flow(x), y)
    assert float((y - tokens()(x)).detach().abs().max()) > 0.1


def test_strangs_splitting_takes_half_of_one_part_before_and_half_after() -> None:
    flows = (("implicit", "1/2"), ("explicit", "1"), ("implicit", "1/2"))
    flow, x = tokens(Splitting(flows=flows, order=2, explicit="heun", implicit="midpoint")), state()
    y = x
    for n in range(N):
        b = block(flow, n)
        for _ in range(1):
            y = y + 0.5 * perceive(b, y + 0.25 * perceive(b, y))
            k = attend(b, y)
            y = y + 0.5 * (k + attend(b, y + k))
            y = y + 0.5 * perceive(b, y + 0.25 * perceive(b, y))
    close(flow(x), y)


def test_schemes_agree_in_the_limit_with_the_order_they_claim() -> None:
    flow, x = tokens(activation="tanh"), state()
    exact = flow.with_integrator("rk4", 64 * N)(x)
    strang = Splitting(
        flows=(("implicit", "1/2"), ("explicit", "1"), ("implicit", "1/2")), order=2, explicit="heun", implicit="heun"
    )
    for integrator, order in (("lie_euler", 1), (strang, 2)):
        a, b = (float((flow.with_integrator(integrator, k * N)(x) - exact).detach().norm()) for k in (32, 64))
        assert math.log2(a / b) == pytest.approx(order, abs=0.15)


def test_the_net_is_the_attention_baseline_with_the_same_weights() -> None:
    net = on.nets.particle_transformer(3, 2, width=W, steps=N, heads=2, seed=4).double()
    twin = on.nets.attention(3, 2, width=W, steps=N, heads=2, seed=5).double()
    blocks = [block(net.parts[2], n) for n in range(N)]
    for i, b in enumerate(blocks):
        twin[2 + i] = b
    for i, j in ((0, 0), (-1, -1), (-3, -3)):
        twin[i].load_state_dict(net.parts[j].state_dict())
    x = torch.randn(4, T, 3, dtype=torch.float64)
    close(net(x), twin(x))
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(net) == count(twin) == 4 * W + N * (12 * W * W + 13 * W) + 2 * W + 2 * W + 2
    each = on.nets.particle_transformer(3, 2, width=W, steps=N, heads=2, seed=4, every_step=True, causal=True)
    assert each(x.float()).shape == (4, T, 2)


@pytest.mark.parametrize("gradient", ["checkpoint", "discrete"])
def test_recomputed_gradients_agree(gradient: str, recomputed: None) -> None:
    x, found = torch.randn(4, T, 3), []
    for how in ("autograd", gradient):
        net = on.nets.particle_transformer(3, 2, width=W, steps=N, heads=2, gradient=how)
        (net(x) ** 2).sum().backward()
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_agree_with_differences() -> None:
    field, g = Tokens(4, heads=2, activation="tanh"), torch.Generator().manual_seed(0)
    p = {k: v.double().requires_grad_() for k, v in field.init(g).items()}
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *v: field(0.0, x, dict(zip(p, v))), (x, *p.values()))


def test_tokens_are_exchangeable_unless_they_are_causal() -> None:
    x, order = state(), torch.tensor([3, 0, 4, 1, 2])
    for integrator in ("lie_euler", "rk4"):
        flow = tokens(integrator)
        close(flow(x[:, order]), flow(x)[:, order])
    flow, later = tokens(causal=True), x.clone()
    later[:, 3:] += torch.randn(2, 2, W, dtype=torch.float64)
    changed = (flow(later) - flow(x)).detach().abs().amax((0, 2))
    assert float(changed[:3].max()) == 0.0 and float(changed[3:].min()) > 0.0
    assert float((flow(x[:, order]) - flow(x)[:, order]).detach().abs().max()) > 0.1


def test_the_net_has_layers_a_report_and_other_integrators() -> None:
    net, x = on.nets.particle_transformer(3, 2, width=4, steps=2, heads=2), torch.randn(6, 3, 3)
    y = x
    for layer in net.layers():
        y = layer(y)
    torch.testing.assert_close(y, net(x))
    rep = on.stability.report(net, x, points=1, quick=True)
    product = torch.eye(12)
    h = net.parts[1](net.parts[0](x[:1])).detach()
    for n in range(2):
        b = lambda v, n=n: net.parts[2].interval(n, v.reshape(1, 3, 4)).flatten()  # noqa: E731
        h1 = torch.autograd.functional.jacobian(b, h.flatten())
        product, h = h1 @ product, b(h).reshape(1, 3, 4).detach()
    alone = on.stability.report(net, x[:1], points=1, quick=True)
    assert alone.metrics["singular_max"] == pytest.approx(float(torch.linalg.matrix_norm(product, 2)), rel=1e-4)
    assert rep.metrics["layers"] == 2
    assert net.with_integrator("rk4", 4)(x).shape == (6, 2)
    with pytest.raises(BadInput, match="cannot be shared among 3 heads"):
        on.nets.particle_transformer(3, 2, width=8, heads=3)


# ---- attention alone -----------------------------------------------------------------------------------------------


def attraction(beta: float, span: float, integrator: str = "rk4", steps: int = 200) -> on.Flow:
    return on.Flow(Attraction(beta), integrator, span=(0.0, span), steps=steps, depth="shared")


def on_sphere(n: int, d: int, seed: int = 0) -> Tensor:
    x = torch.randn(1, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


def test_two_tokens_that_weigh_each_other_equally_meet_as_the_hyperbolic_tangent() -> None:
    """beta = 0: u = <x_1, x_2> has u' = 1 - u^2, so u = tanh(t + artanh u_0)."""
    x = on_sphere(2, 3)
    u0 = float((x[0, 0] * x[0, 1]).sum())
    for t in (0.5, 2.0):
        y = attraction(0.0, t)(x)
        assert float((y[0, 0] * y[0, 1]).sum()) == pytest.approx(math.tanh(t + math.atanh(u0)), abs=1e-9)


@pytest.mark.parametrize(("beta", "t"), [(0.5, 1.3), (3.0, 6.0)])
def test_two_tokens_take_the_time_that_their_angle_needs(beta: float, t: float) -> None:
    """t = integral of (1 + e^{beta (1 - u)})/(2 (1 - u^2)) du."""
    x = on_sphere(2, 4)
    y = attraction(beta, t)(x)
    start, end = (float((s[0, 0] * s[0, 1]).sum()) for s in (x, y))
    assert end > start + 0.1
    time, _ = quad(lambda u: (1 + math.exp(beta * (1 - u))) / (2 * (1 - u * u)), start, end, epsabs=1e-12)
    assert time == pytest.approx(t, abs=1e-8)


def test_tokens_stay_on_the_sphere_and_gather_in_one_point() -> None:
    x = on_sphere(8, 3, seed=1)
    x = torch.cat((x[..., :2], x[..., 2:].abs() + 0.1), -1)  # in an open hemisphere
    x = x / x.norm(dim=-1, keepdim=True)
    states = attraction(1.0, 12.0, steps=240).trajectory(x)
    close(states.norm(dim=-1), torch.ones(241, 1, 8, dtype=torch.float64), 1e-6)
    spread = (states.unsqueeze(-2) - states.unsqueeze(-3)).norm(dim=-1).amax((1, 2, 3))
    assert float(spread[0]) > 1.0 and float(spread[-1]) < 1e-3
    assert bool((spread[1:] <= spread[:-1] + 1e-12).all())
    lowest = (states @ states[-1, 0, 0]).amin((1, 2))  # <x_i, limit> of the farthest token
    assert bool((lowest[1:] >= lowest[:-1] - 1e-9).all())
