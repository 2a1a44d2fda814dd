"""The equation that a flow really integrates: its solution is met with the next power of h, its time is the flow's."""

from __future__ import annotations

import math

import pytest
import torch

from odenet import fields
from odenet.depth import Shared
from odenet.errors import BadInput, Incompatible
from odenet.flow import Flow
from odenet.integrators import TwoStep

pytestmark = pytest.mark.usefixtures("double")


def start(width=4, batch=2):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def gap(flow, order, steps=1):
    """Between the flow and the exact solution of its modified equation, at the end."""
    y = start()
    with torch.no_grad():
        exact = flow.modified_equation(order).trajectory(y, steps=steps, full=True)
        return float((flow.trajectory(y, full=True)[-1] - exact[-1]).norm())


def one_step(field, integrator, order, h, slope=0.0):
    """The same after one step; weights c_0 + t slope (c_1 - c_0) in depth."""
    depth = "piecewise_linear" if slope else "shared"
    flow = Flow(getattr(fields, field)(4), integrator, depth=depth, steps=1, span=(0.0, h), seed=1)
    if slope:
        with torch.no_grad():
            for w in flow.weights.values():
                w[1] = w[0] + h * slope * (w[1] - w[0])
    return gap(flow.with_integrator(integrator, steps=1), order)


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize(("field", "integrator", "order", "expected"), [
    ("Free", "euler", 1, 2), ("Free", "euler", 2, 3), ("Free", "midpoint", 1, 3), ("Free", "heun", 2, 4),
    ("Free", "implicit_midpoint", 1, 4), ("Free", "ros3p", 1, 4), ("Antisymmetric", "euler", 2, 3),
    ("SeparableHamiltonian", "symplectic_euler", 1, 2), ("SeparableHamiltonian", "symplectic_euler", 2, 3),
    ("SeparableHamiltonian", "verlet", 1, 4), ("SecondOrder", "verlet", 1, 4), ("HamiltonianJ", "euler", 1, 2),
])  # fmt: skip
def test_a_step_is_the_exact_flow_of_the_modified_equation_up_to_the_next_power(
    field, integrator, order, expected, slope
):
    errors = [one_step(field, integrator, order, h, slope) for h in (0.2, 0.1)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(expected + 1, abs=0.4)  # one power more in a single step


def test_the_first_correction_of_rk4_is_that_of_its_nine_trees():
    errors = [one_step("Free", "rk4", 1, h) for h in (0.4, 0.2)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize(("integrator", "order", "expected"), [("euler", 1, 2), ("euler", 2, 3), ("ab2", 1, 3)])
def test_over_many_layers_a_net_stays_on_its_modified_equation(integrator, order, expected):
    base = Flow(fields.Free(4), integrator, depth="shared", steps=1, seed=1)
    errors = [gap(base.with_integrator(integrator, steps=n), order, 4) for n in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(("k", "gain", "begin"), [
    (0.3, "paper", "paper"), (-0.3, "paper", "paper"), (-0.5, "consistent", "paper"), (0.5, "consistent", "taylor"),
])  # fmt: skip
@pytest.mark.parametrize("depth", ["shared", "piecewise_linear"])
def test_a_two_step_net_follows_its_own_equation_from_a_corrected_start(k, gain, begin, depth):
    scheme = TwoStep(k, gain=gain, start=begin)
    base = Flow(fields.Free(4), scheme, depth=depth, steps=1, seed=1)
    errors = [gap(base.with_integrator(scheme, steps=n), 1, 4) for n in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.4)


def test_a_splitting_of_an_additive_field_is_met_too():
    field = fields.Split(fields.Free(4), fields.Parabolic(4))
    base = Flow(field, "imex_euler", depth="shared", steps=1, seed=2)
    errors = [gap(base.with_integrator("imex_euler", steps=n), 1, 4) for n in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(("k", "gain"), [(0.3, 1.0), (-0.4, 0.6), (1.0, 2.0)])
def test_the_second_correction_of_two_steps_satisfies_the_formula(k, gain):
    # y(t + h) - (1 - k) y(t) - k y(t - h) - gain h f(y(t)) = O(h^4) along its own solutions
    def residual(h):
        flow = Flow(lambda y: torch.sin(y), TwoStep(k, gain=gain), depth="shared", steps=1, span=(0.0, h))
        f_h = flow.modified_equation(2 if k < 1 else 1).on_interval(0)
        y = torch.tensor([[1.0]])
        ends = []
        for direction in (1.0, -1.0):
            z, d = y, direction * h / 8
            for _ in range(8):  # rk4 by hand
                k1 = f_h(0.0, z)
                k2 = f_h(0.0, z + d / 2 * k1)
                k3 = f_h(0.0, z + d / 2 * k2)
                z = z + d / 6 * (k1 + 2 * k2 + 2 * k3 + f_h(0.0, z + d * k3))
            ends.append(z)
        return abs(float(ends[0] - (1 - k) * y - k * ends[1] - gain * h * torch.sin(y)))

    power = 4 if k < 1 else 5
    assert math.log2(residual(0.2) / residual(0.1)) == pytest.approx(power, abs=0.4)


def test_of_a_linear_field_it_is_the_logarithm_of_the_step():
    A = torch.tensor([[-1.0, 2.0], [0.5, -0.3]])
    flow = Flow(lambda y: y @ A.T, "euler", depth="shared", steps=10)
    equation, y, h = flow.modified_equation(3), start(2), 0.1
    M = A - h / 2 * A @ A + h**2 / 3 * A @ A @ A - h**3 / 4 * A @ A @ A @ A
    assert torch.allclose(equation(0.3, y), y @ M.T, rtol=1e-13)
    assert [str(t) for t in equation.terms()] == [
        "1 f", "-1/2 h f'f", "1/12 h^2 f''(f, f)", "1/3 h^2 f'f'f",
        "-1/12 h^3 f''(f, f'f)", "-1/12 h^3 f'f''(f, f)", "-1/4 h^3 f'f'f'f",
    ]  # fmt: skip


def test_explicit_euler_on_y_squared_is_the_published_equation():
    flow = Flow(lambda y: y * y, "euler", depth="shared", steps=10)  # Hairer, Lubich & Wanner, example IX.1.1
    y, h = torch.tensor([[0.7], [-1.2]]), 0.1
    wanted = y**2 - h * y**3 + 1.5 * h**2 * y**4 - 8 / 3 * h**3 * y**5
    assert torch.allclose(flow.modified_equation(3)(0.0, y), wanted, rtol=1e-14)


def test_at_a_knot_the_weights_of_the_next_interval_act():
    flow = Flow(fields.Free(3), "euler", steps=4, seed=1)
    y, equation = start(3), flow.modified_equation(1)
    for t, n in ((0.0, 0), (0.2, 0), (0.25, 1), (0.9, 3), (1.0, 3)):
        K, b = flow.weights["K"][n], flow.weights["b"][n]
        s = torch.tanh(y @ K.T + b)
        wanted = s - 0.125 * (1 - s * s) * (s @ K.T)
        assert torch.allclose(equation(t, y), wanted, rtol=1e-13)


# ---- effective time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "gain"), [(0.3, "paper"), (-0.5, "paper"), (-0.5, "consistent"), (0.3, "consistent")])
def test_the_effective_time_is_how_long_the_net_follows_its_field(k, gain):
    flow = Flow(lambda y: -y, TwoStep(k, gain=gain), depth="shared", steps=400, span=(0.0, 1.5))
    time = flow.modified_equation().effective_time
    assert time == pytest.approx(1.5 / (1 + k) if gain == "paper" else 1.5)
    fitted = -math.log(float(flow(torch.ones(1, 1))))
    assert fitted == pytest.approx(time, rel=0.01)


def test_the_effective_time_of_learned_k_is_the_sum_of_h_over_one_plus_k():
    flow = Flow(lambda t, y: torch.ones_like(y), "lm", depth="shared", steps=200)
    with torch.no_grad():
        flow.coefficients["k"].copy_(0.2 * torch.sin(torch.linspace(0, 3, 200)))
    equation = flow.modified_equation(1)
    assert equation.effective_time == pytest.approx(float((0.005 / (1 + flow.coefficients["k"])).sum().detach()))
    way = float(flow(torch.zeros(1, 1)).detach())  # of y' = 1, learned k and all
    assert way == pytest.approx(equation.effective_time, abs=0.005)


@pytest.mark.parametrize("integrator", ["euler", "rk4", "momentum", "verlet", "ab2", "two_step_midpoint"])
def test_a_consistent_method_has_the_time_of_its_span(integrator):
    field = fields.SeparableHamiltonian(4) if integrator == "verlet" else fields.Free(4)
    flow = Flow(field, integrator, steps=3, span=(1.0, 2.5))
    assert flow.modified_equation(1).effective_time == pytest.approx(1.5)


# ---- where it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 4.0])
def test_the_limit_of_euler_on_decay_is_where_a_step_reverses_it(rate):
    flow = Flow(lambda y: -rate * y, "euler", depth="shared", steps=7)
    assert flow.modified_equation(1).h_limit(start()) == pytest.approx(1.0 / rate)
    assert flow.modified_equation(1).h_limit(start(), share=1.0) == pytest.approx(2.0 / rate)  # the stability limit


def test_the_limit_of_rk4_on_decay_is_its_stability_limit():
    flow = Flow(lambda y: -3.0 * y, "rk4", depth="shared", steps=7)
    assert flow.modified_equation(1).h_limit(start()) == pytest.approx(60**0.25 / 3.0)  # h^4 lambda^4 / 120 = 1/2


def test_without_a_correction_there_is_no_limit():
    flow = Flow(lambda t, y: torch.ones_like(y), "euler", depth="shared", steps=2)
    assert flow.modified_equation(1).h_limit(start()) == math.inf
    with pytest.raises(BadInput, match="share is a positive number"):
        flow.modified_equation(1).h_limit(start(), share=0.0)


def test_images_have_a_modified_equation_too():
    flow = Flow(fields.Parabolic(2, map="conv2d"), "euler", steps=2)
    y = torch.randn(2, 2, 5, 5)
    equation = flow.modified_equation(1)
    n = flow.march.rhs(0, flow.march.pieces(flow.theta())[0])
    f, eps = n(0.0, y), 1e-6
    slope = (n(0.0, y + eps * f) - n(0.0, y - eps * f)) / (2 * eps)
    assert torch.allclose(equation(0.0, y), f - 0.25 * slope, atol=1e-7)
    assert equation.corrections(y).shape == (1, 2, 2)


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Flow(fields.Free(2), "dopri5"), "chooses its own steps"),
    (lambda: Flow(fields.SecondOrder(2), "leapfrog"), "without velocities"),
    (lambda: Flow(fields.Free(2, inputs=1), "euler"), "driven from outside"),
    (lambda: Flow(lambda y: y, "alf", depth="shared"), "no B-series"),
])  # fmt: skip
def test_what_has_no_modified_equation_says_so(make, sentence):
    with pytest.raises(Incompatible, match=sentence):
        make().modified_equation()


@pytest.mark.parametrize("order", [0, -1, 1.5, True])
def test_the_order_is_a_positive_whole_number(order):
    with pytest.raises(BadInput, match="positive whole number"):
        Flow(fields.Free(2), depth=Shared()).modified_equation(order)
