"""Depth, steps and lesions against powers of the stability function, and trained nets against hand-written steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from odenet import fields, integrators, nets
from odenet.depth import PiecewiseLinear
from odenet.errors import BadInput, Incompatible
from odenet.flow import Chain, Flow
from odenet.integrators import TwoStep
from odenet.stability import unroll
from odenet.stability.discretisation import (
    convergence,
    critical_step,
    critical_steps,
    extrapolation,
    lesions,
    prolongation,
    solver_matrix,
)
from odenet.stability.twins import on_fixed_grid, refined, resampled, stretched, with_flows

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Sign(nn.Module):
    """Two scores (-x, x): class 1 iff x > 0."""

    def forward(self, x):
        return torch.cat((-x, x), 1)


def decay(rate=-3.0, steps=4, integrator="euler", span=1.0):
    return Flow(lambda v: rate * v, integrator, depth="shared", steps=steps, span=(0.0, span))


# ---- D1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "R"), [
    ("euler", lambda z: 1 + z), ("midpoint", lambda z: 1 + z + z**2 / 2),
    ("rk4", lambda z: 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24),
])  # fmt: skip
def test_errors_of_a_linear_flow_are_those_of_powers_of_the_stability_function(name, R):
    found = convergence(decay(integrator=name), X, levels=4)
    h = [0.25 / 2**k for k in range(4)]
    powers = [R(-3 * v) ** round(1 / v) for v in h]
    assert found.h == pytest.approx(h)
    assert found.errors == pytest.approx([abs(p / math.exp(-3) - 1) for p in powers], rel=1e-9, abs=1e-13)
    steps = [abs(a - b) / math.exp(-3) for a, b in pairwise(powers)]
    assert found.differences == pytest.approx(steps, rel=1e-9, abs=1e-13)
    slope = math.log2(abs(powers[2] - math.exp(-3)) / abs(powers[3] - math.exp(-3)))
    assert found.order == pytest.approx(slope, abs=1e-6) and found.slopes[-1] == found.order
    between = math.log2(abs(powers[1] - powers[2]) / abs(powers[2] - powers[3]))
    assert found.slopes_of_differences[-1] == pytest.approx(between, abs=1e-6)
    assert found.floor < 1e-12


@pytest.mark.parametrize("depth", ["per_step", PiecewiseLinear()])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_weights_that_vary_with_depth_cost_no_order_because_steps_end_at_the_knots(depth, name, order):
    flow = Flow(fields.Free(3), name, depth=depth, steps=3, span=(0.0, 2.0))
    assert convergence(flow, X, levels=6).order == pytest.approx(order, abs=0.15)


def test_a_method_of_high_order_stops_at_round_off_instead_of_giving_a_slope_of_noise():
    found = convergence(decay(rate=-0.1, integrator="rk4"), X, levels=6)
    assert found.slopes[-1] is None and found.order == pytest.approx(4, abs=0.2)


def test_a_coarse_reference_says_so_and_gives_no_slopes_below_its_own_error():
    found = convergence(decay(rate=-8.0, steps=1, integrator="rk4"), X, levels=7, reference=2)
    one, two = (complex(integrators.get("dopri8").amplification(torch.tensor(z + 0j))) for z in (-8.0, -4.0))
    assert found.floor == pytest.approx(abs(one / two**2 - 1) / 64, rel=1e-9) and found.floor > 1e-3
    assert [s is None for s in found.slopes] == [e <= 10 * found.floor for e in found.errors[1:]]
    assert None in found.slopes and found.order is not None


def test_a_memory_is_carried_across_the_knots_as_in_the_net_itself():
    x = X[:, :1].double()
    flow = Flow(fields.SecondOrder(1), TwoStep(-1.0, gain=1.0, power=2, start="paper"), steps=4)
    K, b = (flow.theta()[k].detach().double() for k in ("K", "b"))

    def by_hand(n):
        h, old, y = 1.0 / n, x, x
        for k in range(n):
            j = k * 4 // n
            old, y = y, 2 * y - old - h**2 * torch.tanh(y @ K[j].mT + b[j]) @ K[j]
        return y

    runs = [by_hand(4 * 2**k) for k in range(4)]
    expected = [float((a - b).norm()) for a, b in pairwise(runs)]
    found = convergence(flow, x, levels=4)
    assert [d / found.differences[0] for d in found.differences] == pytest.approx(
        [e / expected[0] for e in expected], rel=1e-6
    )
    assert found.order == pytest.approx(1, abs=0.1)  # y_{-1} = y_0 is a start of first order


def test_a_scheme_that_is_not_consistent_converges_to_something_else():
    published = TwoStep(0.5, gain=1.0)  # (1 + k) y' = f without the factor 1 + k
    flow = Flow(lambda v: -v, published, depth="shared", steps=8)
    found = convergence(flow, X, levels=5)
    assert abs(found.order) < 0.1 and found.slopes_of_differences[-1] == pytest.approx(1, abs=0.1)
    assert found.errors[-1] == pytest.approx(math.exp(1 - 1 / 1.5) - 1, rel=0.02)  # y' = f/(1 + k)


def test_convergence_needs_a_flow_without_noise_and_two_levels():
    with pytest.raises(BadInput, match="no flow in this model"):
        convergence(nn.Linear(3, 3), X)
    with pytest.raises(BadInput, match="at least 2 levels"):
        convergence(decay(), X, levels=1)
    with pytest.raises(Incompatible, match="noise"):
        convergence(Flow(fields.Noisy(fields.Free(3), lambda y: 0.1 * y), "euler_maruyama"), X)


def test_the_table_has_a_row_for_every_step():
    table = convergence(decay(), X, levels=3).table()
    assert [r[0] for r in table.rows] == pytest.approx([0.25, 0.125, 0.0625]) and len(table.columns) == len(
        table.rows[0]
    )
    assert table.rows[0][2] is None and table.rows[2][3] is None


# ---- D2 -------------------------------------------------------------------------------------------------------------


def test_the_matrix_flips_signs_where_the_stability_function_is_negative():
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    net = Chain(decay(rate=-1.5, steps=4), Sign())  # h = 1/4; h lambda = -0.375
    table = solver_matrix({"euler": net}, x, y, ("euler", "rk4"), (0.5, 1, 2, 4))
    assert table.columns == ("trained", "tested", "factor", "h", "accuracy", "drop")
    found = {(r[1], r[2]): (r[3], r[4], r[5]) for r in table.rows}
    assert found["euler", 2] == (0.5, 1.0, 0.0)  # (1 - 0.75)^2
    assert found["euler", 4] == (1.0, 0.0, 1.0)  # 1 - 1.5 < 0
    assert found["rk4", 4] == (1.0, 1.0, 0.0) and found["rk4", 0.5] == (0.125, 1.0, 0.0)


def test_longer_steps_run_over_merged_intervals_with_the_mean_weights():
    flow = Flow(fields.Free(3), "euler", steps=4, span=(0.0, 2.0), seed=3)
    K, b = (flow.theta()[k] for k in ("K", "b"))
    y = X
    for n in (0, 2):
        y = y + 1.0 * torch.tanh(y @ ((K[n] + K[n + 1]) / 2).mT + (b[n] + b[n + 1]) / 2)
    assert torch.allclose(refined(flow, "euler", 0.5)(X), y, atol=1e-6)
    with pytest.raises(BadInput, match="no whole number"):
        refined(flow, "euler", 0.125)
    odd = Flow(fields.Free(3), steps=3)
    net = Chain(odd, nn.Linear(3, 2))
    assert {r[2] for r in solver_matrix({"a": net}, X, torch.zeros(6, dtype=torch.long), ["euler"]).rows} == {0.5, 1.0}


def test_the_critical_step_is_the_largest_one_below_which_solvers_agree_throughout():
    gaps = {0.1: 0.0, 0.2: -0.05, 0.4: 0.3, 0.8: 0.0}
    assert critical_step(gaps) == 0.2
    assert critical_step(gaps, tolerance=0.3) == 0.8
    assert critical_step({0.1: 0.5}) is None and critical_step({}) is None
    found = {("euler", 1): 0.9, ("euler", 2): 0.95, ("rk4", 1): 0.2, ("rk4", 2): 0.2}
    assert critical_steps(found, 0.9, 0.5) == {"euler": 0.5, "rk4": 0.0}


def test_flows_are_exchanged_wherever_they_sit_and_the_model_stays():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), decay(steps=2))
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return self.last(self.inner(x))

    net = Two()
    twin = refined(net, "rk4", 2)
    R = sum((-0.75) ** k / math.factorial(k) for k in range(5)) ** 4
    assert torch.allclose(twin(X), net.last(net.inner[0](X) * R), atol=1e-6)
    assert net.inner[1].integrator.name == "euler" and twin.last is net.last
    plain = nn.Linear(3, 3)
    assert with_flows(plain, lambda f: f) is plain


def test_a_fixed_grid_replaces_adaptive_steps_only():
    net = Chain(Flow(fields.Free(3), "dopri5", steps=2), Flow(fields.Free(3), "euler", steps=2))
    twin = on_fixed_grid(net, 3)
    assert [(f.adaptive, f.substeps) for f in twin.flows()] == [(False, 3), (False, 1)]
    assert torch.allclose(twin(X), net(X), atol=1e-5)


# ---- D3, D4 ---------------------------------------------------------------------------------------------------------


def test_other_depths_of_a_linear_flow_are_other_powers():
    x, y = torch.tensor([[-1.0], [2.0]]), torch.tensor([0, 1])
    table = extrapolation(Chain(decay(rate=-6.0, steps=4, span=1.0), Sign()), x, y, steps=(-2, -1, 1), spans=(0.5, 2.0))
    own = (1 - 1.5) ** 4
    expected = {
        ("none", 1.0): (0.25, own), ("N", 0.25): (1.0, -5.0), ("N", 0.5): (0.5, (1 - 3.0) ** 2),
        ("N", 2.0): (0.125, 0.25**8), ("T", 0.5): (0.25, 0.25), ("T", 2.0): (0.25, 0.5**8),
    }  # fmt: skip
    assert {(r[0], r[1]) for r in table.rows} == set(expected)
    for what, factor, h, change, score in table.rows:
        step, value = expected[what, factor]
        assert h == pytest.approx(step) and change == pytest.approx(abs(value / own - 1), rel=1e-4)
        assert score == (1.0 if value > 0 else 0.0)


def test_weights_per_step_are_stretched_over_a_longer_time_and_shared_ones_followed_further():
    flow = Flow(fields.Free(3), "euler", steps=2, seed=1)
    K, b = (flow.theta()[k] for k in ("K", "b"))
    y = X
    for n in range(2):
        y = y + 1.5 * torch.tanh(y @ K[n].mT + b[n])  # h = 3/2
    assert torch.allclose(stretched(flow, 3.0)(X), y, atol=1e-6)
    assert stretched(decay(steps=4), 2.0).steps == 8
    with pytest.raises(BadInput, match="no whole number"):
        stretched(decay(steps=3), 0.5)


def test_a_recurrent_net_has_no_other_span_than_that_of_its_data():
    table = extrapolation(nets.cornn(2, 2, width=4), torch.randn(3, 5, 2), steps=(), spans=(0.5, 2.0))
    assert [row[0] for row in table.rows] == ["none"]


def test_twice_the_layers_with_the_same_weights_change_a_linear_net_by_a_known_ratio():
    found = prolongation(decay(rate=-2.0, steps=4), X)
    assert found == pytest.approx(abs((1 - 0.25) ** 8 / (1 - 0.5) ** 4 - 1), rel=1e-12)
    assert prolongation(decay(), X, prolonged=decay()) == 0.0


@pytest.mark.parametrize("depth", ["per_step", "piecewise_linear", "shared"])
@pytest.mark.parametrize("name", ["euler", "rk4"])
def test_prolonged_weights_are_the_same_function_of_time_so_they_equal_two_steps_per_interval(depth, name):
    flow = Flow(fields.Free(3), name, depth=depth, steps=3, span=(0.0, 2.0)).double()
    x = X.double()
    assert torch.allclose(resampled(flow, 1)(x), flow.with_integrator(name, 6)(x), atol=1e-13)
    assert torch.allclose(resampled(resampled(flow, 2), -2)(x), flow(x), atol=1e-13)
    assert resampled(flow, 1).steps == 6 and flow.steps == 3
    with pytest.raises(BadInput, match="cannot be halved"):
        resampled(flow, -1)


def test_learned_coefficients_and_statistics_go_along():
    net = nets.lm_resnet(3, 2, width=4, steps=4)
    twin = with_flows(net, lambda f: resampled(f, 1))
    (name,) = next(net.flows()).coefficients
    own, wide = (next(n.flows()).coefficients[name] for n in (net, twin))
    assert torch.equal(wide[::2], own) and torch.equal(wide[1::2], own)
    normed = nets.resnet(3, 2, width=4, steps=4, norm="batch")
    flow = next(with_flows(normed, lambda f: resampled(f, -1)).flows())
    assert all(b.shape[0] == 2 for b in flow.buffers(recurse=False)) and list(flow.buffers(recurse=False))


# ---- D5 -------------------------------------------------------------------------------------------------------------


def test_a_lesion_of_a_linear_flow_takes_one_factor_out():
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    net = Chain(decay(rate=-6.0, steps=4), Sign())  # factors 1 - 1.5 = -0.5
    found = lesions(unroll(net, x), y)
    assert found.at == [0, 1, 2, 3] and found.h == pytest.approx([0.25] * 4)
    assert torch.allclose(found.change, torch.full((4, 2), 3.0, dtype=torch.float64))  # |(-2) - 1|
    assert found.accuracy == [0.0] * 4  # three negative factors
    assert [r[0] for r in found.table().rows] == [0, 1, 2, 3]


def test_a_lesion_is_of_first_order_in_h():
    flow = Flow(fields.Free(3), "rk4", steps=4, depth=PiecewiseLinear(), init="constant")
    sizes = [float(lesions(unroll(resampled(flow, k), X)).change.mean()) for k in (2, 3, 4)]
    assert [math.log2(a / b) for a, b in pairwise(sizes)] == pytest.approx([1, 1], abs=0.03)


def test_lesions_of_a_plain_row_of_layers_equal_the_row_without_the_layer():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 2)]
    net = nn.Sequential(*layers).double()
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    found = lesions(unroll(net, X), y)
    assert found.at == [1, 2, 3] and found.h == [None] * 3
    for row, score, n in zip(found.change, found.accuracy, found.at):
        out = nn.Sequential(*layers[:n], *layers[n + 1 :])(X.double())
        own = net(X.double())
        assert torch.allclose(row, (out - own).norm(dim=1) / own.norm(dim=1))
        assert score == pytest.approx(float((out.argmax(1) == y).double().mean()))


def test_a_memory_stays_as_it_is_where_a_layer_of_a_two_step_method_is_left_out():
    flow = Flow(lambda v: -v, "two_step_midpoint", depth="shared", steps=3)
    found = lesions(unroll(flow, torch.ones(1, 1)))
    h, states = 1 / 3, [1.0]
    states.append(float(unroll(flow, torch.ones(1, 1)).states[1][0]))
    for _ in range(2):
        states.append(states[-2] - 2 * h * states[-1])
    left_out = {1: states[0] - 2 * h * states[1], 2: states[2]}
    assert found.at == [1, 2]  # the first layer makes the memory
    assert found.change[:, 0].tolist() == pytest.approx([abs(left_out[n] / states[3] - 1) for n in (1, 2)], rel=1e-6)


def test_a_model_whose_layers_all_change_the_shape_has_no_lesions():
    found = lesions(unroll(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)), X), torch.zeros(6, dtype=torch.long))
    assert found.at == [] and found.change.shape == (0, 6) and found.accuracy == []
