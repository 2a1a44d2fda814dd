"""Gradients over depth: indices of known sequences, mass matrices by quadrature, and what refinement does to them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from odenet import fields
from odenet.depth import PerStep, PiecewiseLinear
from odenet.errors import BadInput
from odenet.flow import Chain, Flow
from odenet.stability import oscillation, oscillation_index, oscillation_refined, report, riesz_gradient
from odenet.stability.oscillation import refined_in_depth, riesz, stiffness

torch.set_num_threads(1)
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def smooth(integrator, depth="per_step", steps=32):
    """Weights that do not vary with depth, so that the gradient is a smooth function of it."""
    return Flow(fields.Free(4), integrator, depth=depth, steps=steps, init="constant", seed=1)


def falls(values, order):
    """Whether every doubling divides by about 2^order."""
    return all(a / b == pytest.approx(2.0**order, rel=0.25) for a, b in pairwise(values))


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_the_index_of_an_alternating_sequence_is_four_and_of_a_straight_line_zero():
    sign = torch.tensor([(-1.0) ** j for j in range(1002)], dtype=torch.float64)
    assert oscillation_index(sign) == pytest.approx(4.0, rel=2e-3)
    assert oscillation_index(torch.arange(50).double()) == 0.0
    assert oscillation_index(torch.zeros(5)) == 0.0
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    wave = torch.sin(math.pi * t)
    assert oscillation_index(wave) == pytest.approx((math.pi / 100) ** 2, rel=2e-3)  # h^2 |g''|/|g|
    with pytest.raises(BadInput, match="3 depths"):
        oscillation_index(torch.ones(2))


def test_stiffness_matrices_are_those_of_hats_and_of_difference_quotients():
    knots, h = tuple(np.linspace(0.0, 2.0, 5)), 0.5
    hats = (np.diag([1, 2, 2, 2, 1]) - np.diag([1] * 4, 1) - np.diag([1] * 4, -1)) / h
    assert stiffness(PiecewiseLinear(), knots).numpy() == pytest.approx(hats)
    assert stiffness(PerStep(), knots).numpy() == pytest.approx(hats[:4, :4] - np.diag([0, 0, 0, 1 / h]))


@pytest.mark.parametrize("length", [0.0, 0.3])
def test_the_riesz_representative_solves_the_system_of_its_inner_product(length):
    knots, h = tuple(np.linspace(0.0, 1.0, 4)), 1 / 3
    derivative = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mass = h / 6 * (np.diag([2, 4, 4, 2]) + np.diag([1] * 3, 1) + np.diag([1] * 3, -1))
    stiff = (np.diag([1, 2, 2, 1]) - np.diag([1] * 3, 1) - np.diag([1] * 3, -1)) / h
    found = riesz(PiecewiseLinear(), knots, derivative, length)
    expected = np.linalg.solve(mass + length**2 * stiff, derivative.numpy().reshape(4, 6)).reshape(4, 2, 3)
    assert found.numpy() == pytest.approx(expected, rel=1e-10)


def test_the_riesz_gradient_of_a_known_functional_is_that_function_of_depth():
    """L = integral of (1 + t) b dt under y' = b (rk4 integrates it exactly): dL = (1 + t), a straight line of hats."""

    class Drift(fields.Field):
        def init(self, generator=None):
            return {"b": torch.zeros(1)}

        def forward(self, t, y, p):
            return (1 + t) * p["b"] + 0.0 * y

    flow = Flow(Drift(), "rk4", depth="piecewise_linear", steps=5).double()
    flow(torch.zeros(1, 1, dtype=torch.float64)).sum().backward()
    found = riesz_gradient(flow)["b"].flatten()
    assert found.numpy() == pytest.approx(1 + np.linspace(0, 1, 6), abs=1e-12)
    plain = flow.weights["b"].grad.flatten() * 5
    assert float(plain[0]) == pytest.approx(0.5 + 1 / 30)  # half an interval at the end
    with torch.no_grad():
        assert set(riesz_gradient(Flow(Drift(), "rk4", steps=2))) == set()


# ---- refinement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrator", ["euler", "heun", "midpoint", "rk4"])
def test_one_step_methods_have_gradients_whose_oscillation_falls_with_h_squared(integrator):
    rows = oscillation_refined(smooth(integrator), X, doublings=3).rows
    assert [r[0] for r in rows] == [1, 2, 4, 8]
    assert falls([r[1] for r in rows], 2) and rows[0][1] < 2e-3
    assert [r[1] for r in rows] == pytest.approx([r[2] for r in rows])  # pieces of equal length: G = h I


@pytest.mark.parametrize("depth", ["per_step", "piecewise_linear"])
def test_the_two_step_midpoint_gradient_oscillates_at_every_depth_and_the_h1_representative_does_not(depth):
    rows = oscillation_refined(smooth("two_step_midpoint", depth), X, doublings=3, length=0.1).rows
    plain, weighted = ([r[i] for r in rows] for i in (1, 2))
    assert min(plain) > 2.0 and plain[-1] >= plain[0]
    assert falls(weighted, 2) and weighted[-1] < 5e-3


def test_the_mass_matrix_alone_does_not_mend_what_lies_between_neighbouring_nodes():
    rows = oscillation_refined(smooth("two_step_midpoint", "piecewise_linear"), X, doublings=2).rows
    assert min(r[2] for r in rows) > 2.0


def test_the_mass_matrix_mends_nodes_of_unequal_weight():
    """Hats under rk4: the first and the last node act on half an interval, a jump that falls like h^1/2."""
    rows = oscillation_refined(smooth("rk4", "piecewise_linear"), X, doublings=3).rows
    assert falls([r[1] for r in rows], 0.5) and rows[-1][1] > 0.03
    assert falls([r[2] for r in rows], 2) and rows[-1][2] < 1e-4


def test_every_second_node_of_the_two_step_midpoint_rule_has_no_weight():
    """Linear y' = b: y_{n+1} = y_{n-1} + 2 h b_n, so dL/db alternates between 0 and 2 h, ending with 2 h."""

    class Constant(fields.Field):
        def init(self, generator=None):
            return {"b": torch.zeros(1)}

        def forward(self, t, y, p):
            return p["b"] + 0.0 * y

    flow = Flow(Constant(), "two_step_midpoint", steps=8).double()
    flow(torch.zeros(1, 1, dtype=torch.float64)).sum().backward()
    assert (flow.weights["b"].grad.flatten() * 8).tolist() == pytest.approx([0.0, 2.0] * 4)


@pytest.mark.parametrize("depth", ["per_step", "piecewise_linear"])
def test_a_net_that_is_refined_in_depth_is_the_same_function_of_time(depth):
    flow = Flow(fields.Free(4), "rk4", depth=depth, steps=3).double()
    twice = refined_in_depth(flow)
    assert twice.steps == 6 and torch.allclose(twice(X), flow.with_integrator("rk4", steps=6)(X), atol=1e-14)
    learned = refined_in_depth(Chain(nn.Linear(4, 4), Flow(fields.Free(4), "lm", steps=3)))
    k = learned.parts[1].coefficients["k"]
    assert len(k) == 6 and torch.equal(k[0::2], k[1::2])


def test_a_net_without_three_depths_has_no_index_and_a_report_lists_it_where_there_is_one():
    assert oscillation(Flow(fields.Free(4), depth="shared", steps=8), X) == {}
    assert oscillation(Flow(fields.Free(4), steps=2), X) == {}
    assert oscillation(nn.Sequential(nn.Linear(4, 2)), X) == {}
    found = report(smooth("two_step_midpoint"), X.float(), quick=True).to_dict()
    assert found["gradient_oscillation"] > 2.0 > 0.2 > found["gradient_oscillation_riesz"]
    assert "gradient_oscillation" not in report(nn.Sequential(nn.Linear(4, 2)), X.float(), quick=True).to_dict()


def test_labels_make_it_the_gradient_of_the_cross_entropy():
    net = Chain(Flow(fields.Free(4), steps=5), nn.Linear(4, 3)).double()
    y = torch.arange(8) % 3
    nn.functional.cross_entropy(net(X), y).backward()
    grads = [w.grad for w in net.parts[0].weights.values()]
    top = sum(float((g[2:] - 2 * g[1:-1] + g[:-2]).square().sum()) for g in grads)
    assert oscillation(net, X, y)["plain"] == pytest.approx((top / sum(float(g.square().sum()) for g in grads)) ** 0.5)
