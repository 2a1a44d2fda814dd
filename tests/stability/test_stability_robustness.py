"""Accuracy under noise against the normal distribution, and under other integrators against stability functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenet import fields
from odenet.flow import Chain, Flow
from odenet.stability import exchange, exchange_matrix, input_noise, perturbation_growth, unroll, weight_noise

torch.set_num_threads(1)


class Sign(nn.Module):
    """Two scores (-w x, w x): class 1 iff w x > 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.cat((-self.w * x, self.w * x), 1)


def signs(n):
    y = torch.arange(n) % 2
    return (2.0 * y - 1.0)[:, None], y


def normal(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 3.0])
def test_noise_on_inputs_flips_as_many_signs_as_the_normal_distribution_says(level):
    x, y = signs(20_000)  # standard deviation 1
    (seen,) = input_noise(Sign(), x, y, [level], draws=2)
    expected = normal(1 / level) if level else 1.0
    assert seen == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 40_000) + 1e-9)


def test_noise_on_weights_is_relative_to_their_root_mean_square_and_leaves_the_model_alone():
    x, y = signs(10)
    model = Sign()
    with torch.no_grad():
        model.w.fill_(1e-3)
    (seen,) = weight_noise(model, x, y, [1.0], draws=2000)
    p = normal(1.0)  # the sign of w (1 + N(0, 1))
    assert seen == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000))
    assert model.w.item() == pytest.approx(1e-3)
    assert weight_noise(model, x, y, [0.0], draws=1) == [1.0]


def test_noise_repeats_with_its_seed():
    x, y = signs(100)
    assert input_noise(Sign(), x, y, [1.0], seed=3) == input_noise(Sign(), x, y, [1.0], seed=3)
    assert input_noise(Sign(), x, y, [1.0], seed=3) != input_noise(Sign(), x, y, [1.0], seed=4)


def test_the_exchange_flips_signs_where_the_stability_function_is_negative():
    x, y = signs(10)
    flow = Flow(lambda v: -3.0 * v, "euler", depth="shared", steps=1)  # h lambda = -3: euler gives 1 - 3 = -2
    found = exchange(Chain(flow, Sign()), x, y, ["euler", "midpoint", "rk4", "verlet"], (1, 2, 4))
    assert found == {
        ("euler", 1): 0.0, ("euler", 2): 1.0, ("euler", 4): 1.0,  # (1 - 3/2)^2 > 0
        ("midpoint", 1): 1.0, ("midpoint", 2): 1.0, ("midpoint", 4): 1.0,
        ("rk4", 1): 1.0, ("rk4", 2): 1.0, ("rk4", 4): 1.0,
    }  # fmt: skip


def test_samples_that_overflow_count_as_wrong_whatever_their_label():
    """y <- (1 + 1e30) y twice: beyond the range of single precision for |y| = 1, not for y = 0."""
    flow = Flow(lambda v: 2e30 * v, "euler", depth="shared", steps=2)
    x = torch.tensor([[0.0], [1.0], [-1.0]])
    for label in (0, 1):
        y = torch.full((3,), label)
        assert exchange(Chain(flow, Sign()), x, y, ["euler"], [1]) == {("euler", 1): 0.0 if label else 1 / 3}


def test_the_matrix_has_a_row_for_every_training_integrator_and_none_where_a_method_does_not_suit():
    x, y = signs(10)
    free = Chain(Flow(lambda v: -3.0 * v, "euler", depth="shared", steps=1), Sign())
    assert exchange_matrix({"euler": free, "again": free}, x, y, ["euler", "rk4", "verlet"]) == [[0.0, 1.0, None]] * 2


def test_every_flow_of_a_chain_is_refined_by_its_own_number_of_steps():
    x, y = signs(4)
    net = Chain(Flow(fields.Free(1), steps=2), Flow(fields.Free(1), steps=3), Sign())
    assert set(exchange(net, x, y, ["rk4"], (1, 2))) == {("rk4", 1), ("rk4", 2)}


def test_a_finite_perturbation_of_a_linear_field_grows_by_powers_of_the_step_map():
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = unroll(Flow(lambda v: 2.0 * v, "euler", depth="shared", steps=4, span=(0.0, 2.0)), x)
    expected = 2.0 ** torch.arange(5, dtype=torch.float64)
    assert torch.allclose(perturbation_growth(u), expected[:, None].expand(5, 5), rtol=1e-9)
