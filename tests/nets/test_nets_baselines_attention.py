"""Attention against torch's own kernels and against double loops over the formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from odenet.errors import BadInput
from odenet.nets import baselines
from odenet.nets.baselines import Attention, EncoderBlock
from odenet.nets.transformer import SCORES, Positions

torch.set_num_threads(1)


def qkv(T=5, S=7, D=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(2, n, D, generator=g, dtype=torch.float64) for n in (T, S, S))


def test_scaled_attention_equals_torchs_kernel_with_and_without_a_mask():
    q, k, v = qkv()
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:, 0] = True
    for m in (None, mask):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=m)
        torch.testing.assert_close(Attention(4)(q, k, v, m), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("score", SCORES)
def test_scores_equal_their_formula_entry_by_entry(score):
    torch.manual_seed(0)
    q, k, _ = qkv()
    layer = Attention(4, score).double()
    formula = {
        "dot": lambda a, b: a @ b,
        "scaled": lambda a, b: a @ b / math.sqrt(4),
        "bilinear": lambda a, b: a @ layer.W.weight @ b,
        "additive": lambda a, b: layer.a.weight[0] @ torch.tanh(layer.W.weight @ a + layer.U.weight @ b),
    }[score]
    found = layer.scores(q, k)
    for b, t, s in itertools.product(range(2), range(5), range(7)):
        assert found[b, t, s].item() == pytest.approx(formula(q[b, t], k[b, s]).item(), abs=1e-13)


@pytest.mark.parametrize("score", SCORES)
def test_weights_are_a_distribution_over_what_the_mask_allows(score):
    torch.manual_seed(0)
    q, k, _ = qkv()
    mask = torch.ones(5, 7, dtype=torch.bool).tril()
    w = Attention(4, score).double().weights(q, k, mask).detach()
    torch.testing.assert_close(w.sum(dim=-1), torch.ones(2, 5, dtype=torch.float64))
    assert float(w.min()) >= 0 and float(w.masked_select(~mask).abs().max()) == 0.0


def test_a_mask_row_without_true_and_an_unknown_score_are_refused():
    q, k, v = qkv()
    with pytest.raises(BadInput, match="row without True"):
        Attention(4)(q, k, v, torch.zeros(5, 7, dtype=torch.bool))
    with pytest.raises(BadInput, match="choose one of dot, scaled, bilinear, additive"):
        Attention(4, "cosine")
    with pytest.raises(BadInput, match="3 heads"):
        EncoderBlock(8, heads=3)


@pytest.mark.parametrize("causal", [False, True])
def test_the_encoder_block_equals_torchs_transformer_layer(causal):
    torch.manual_seed(0)
    block = EncoderBlock(8, heads=2, causal=causal).double()
    oracle = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True, norm_first=True).double()
    pairs = {
        "self_attn.in_proj_weight": block.qkv.weight,
        "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.out.weight,
        "self_attn.out_proj.bias": block.out.bias,
        "linear1.weight": block.mlp[0].weight,
        "linear1.bias": block.mlp[0].bias,
        "linear2.weight": block.mlp[2].weight,
        "linear2.bias": block.mlp[2].bias,
        "norm1.weight": block.norm1.weight,
        "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight,
        "norm2.bias": block.norm2.bias,
    }
    oracle.load_state_dict(pairs)
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64) if causal else None
    torch.testing.assert_close(block(x), oracle(x, src_mask=mask, is_causal=causal), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("width", [6, 7])
def test_positions_equal_the_published_sinusoids(width):
    """Vaswani et al. 2017, sec. 3.5."""
    table = Positions()(torch.zeros(1, 9, width, dtype=torch.float64))[0]
    for t in range(9):
        for column in range(width):
            angle = t / 10000 ** (2 * (column // 2) / width)
            wave = math.cos(angle) if column % 2 else math.sin(angle)
            assert float(table[t, column]) == pytest.approx(wave, abs=1e-14)


def test_a_causal_net_does_not_see_the_future():
    net = baselines.attention(3, 2, width=8, heads=2, causal=True, every_step=True)
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (g,) = torch.autograd.grad(net(x)[0, 2].sum(), x)
    assert float(g[0, 3:].abs().max()) == 0.0 and float(g[0, :3].abs().min()) > 0


@pytest.mark.parametrize("score", SCORES)
def test_the_attention_net_trains_with_every_score(score):
    """Is the marked entry positive? One position among eight decides."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, 2, generator=g)
    at = torch.randint(0, 8, (64,), generator=g)
    x[..., 1] = F.one_hot(at, 8) * 3.0
    y = (x[torch.arange(64), at, 0] > 0).long()
    net = baselines.attention(2, 2, width=16, heads=2, steps=1, score=score)
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(120):
        adam.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        adam.step()
    assert loss.item() < 0.2  # log 2 = 0.69 is guessing
