"""Initial weights: published variances, the generator, and nothing else touched."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenet.errors import UnknownName
from odenet.nets.initialisers import INITIALISERS, get, initialise

SHAPES = [(200, 300), (300, 200), (64, 48, 5, 5)]


def fans(shape):
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def drawn(name, shape, seed=0):
    return get(name)(torch.empty(shape, dtype=torch.float64), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name, variance",
    [
        (
            "xavier",
            lambda i, o: 2 / (i + o),
        ),  # Glorot & Bengio 2010, eqs. (12), (16)
        ("he", lambda i, o: 2 / i),  # He et al. 2015, eq. (10)
        ("lecun", lambda i, o: 1 / i),  # LeCun et al. 1998, sec. 4.6
    ],
)
def test_the_variance_is_the_published_one(name, variance, shape):
    w = drawn(name, shape)
    assert float(w.var()) == pytest.approx(variance(*fans(shape)), rel=0.02)
    assert abs(float(w.mean())) < 4 * math.sqrt(float(w.var()) / w.numel())


@pytest.mark.parametrize("shape", SHAPES)
def test_xavier_fills_the_interval_of_equation_16(shape):
    limit = math.sqrt(6 / sum(fans(shape)))
    assert 0.999 * limit < float(drawn("xavier", shape).abs().max()) <= limit


@pytest.mark.parametrize("name, kurtosis", [("he", 3.0), ("lecun", 3.0), ("xavier", 1.8)])
def test_the_law_is_normal_or_uniform_as_stated(name, kurtosis):
    w = drawn(name, (300, 300))
    assert float((w**4).mean() / (w**2).mean() ** 2) == pytest.approx(kurtosis, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_weights_are_orthonormal(shape):
    m = drawn("orthogonal", shape).flatten(1)
    m = m if m.shape[0] <= m.shape[1] else m.T
    torch.testing.assert_close(m @ m.T, torch.eye(len(m), dtype=m.dtype), rtol=0, atol=1e-12)


def test_relu_keeps_the_size_of_signals_with_he_over_thirty_layers_and_loses_it_with_lecun():
    """He et al. 2015, sec. 2.2: half the variance is lost per layer with variance 1/n."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 400, generator=g, dtype=torch.float64)
    size = {}
    for name in ("he", "lecun"):
        y = x
        for _ in range(30):
            y = torch.relu(y @ get(name)(torch.empty(400, 400, dtype=y.dtype), g).T)
        size[name] = float((y**2).mean())
    assert 0.2 < size["he"] < 2.5
    assert size["lecun"] / size["he"] == pytest.approx(0.5**30, rel=0.9)


@pytest.mark.parametrize("name", INITIALISERS)
def test_a_generator_fixes_the_weights_and_keeps_the_global_state(name):
    state = torch.get_rng_state()
    assert torch.equal(drawn(name, (3, 4), 1), drawn(name, (3, 4), 1))
    assert torch.equal(drawn(name, (3, 4), 1), drawn(name, (3, 4), 2)) == (name == "zeros")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialise_fills_weights_and_zeroes_biases_of_dense_and_convolution_layers(name):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3, bias=False), nn.Conv1d(1, 1, 3))
    before = net[0].weight.clone()
    initialise(net, name, torch.Generator().manual_seed(0))
    assert not torch.equal(net[0].weight, before) and net[0].weight.requires_grad
    assert torch.equal(net[0].bias, torch.zeros(2)) and torch.equal(net[3].bias, torch.zeros(1))
    assert torch.equal(net[1].weight, torch.ones(2))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'xavier'"):
        get("xavierr")
