"""Flows equal the loops they stand for; impossible pairs are refused when built; weights can be shared and swapped."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import odenet as on
from nets_examples import example
from odenet.errors import BadInput, Incompatible, SolveFailed, UnknownName


def weights(flow: on.Flow) -> tuple[torch.Tensor, torch.Tensor]:
    return flow.weights["K"], flow.weights["b"]


@pytest.mark.parametrize("steps", [1, 3, 16])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_resnet_with_euler_equals_the_hand_written_loop_bitwise(steps: int, activation: str) -> None:
    net = on.nets.resnet(dim_in=10, dim_out=3, width=8, steps=steps, activation=activation, seed=4)
    x = torch.randn(7, 10)
    opening, flow, head = net.parts
    K, b = weights(flow)
    y = opening(x)
    for n in range(steps):
        y = y + (1.0 / steps) * getattr(torch, activation)(F.linear(y, K[n], b[n]))
    assert torch.equal(net(x), head(y))


def test_lm_with_k_minus_gamma_is_the_momentum_form(double: None) -> None:
    gamma, h = 0.7, 1.0 / 12
    flow = on.Flow(on.fields.Free(5), on.TwoStep(-gamma, gain="consistent", start="paper"), steps=12)
    K, b = weights(flow)
    y0 = torch.randn(4, 5)
    y, v = y0, torch.zeros_like(y0)
    for n in range(12):
        v = gamma * v + (1 - gamma) * h * torch.tanh(y @ K[n].T + b[n])
        y = y + v
    torch.testing.assert_close(flow(y0), y, rtol=0.0, atol=1e-12)


def test_lm_resnet_is_the_published_recursion(double: None) -> None:
    net = on.nets.lm_resnet(3, 2, width=5, steps=6)
    opening, flow, head = net.parts
    opening.double(), head.double()
    K, b = weights(flow)
    k = flow.coefficients["k"]
    assert bool(((k >= -0.1) & (k <= 0.0)).all())
    x = torch.randn(4, 3)
    previous = now = opening(x)
    for n in range(6):
        previous, now = now, (1 - k[n]) * now + k[n] * previous + torch.tanh(now @ K[n].T + b[n]) / 6
    torch.testing.assert_close(net(x), head(now), rtol=0.0, atol=1e-12)
    net(x).sum().backward()
    assert k.grad is not None and bool((k.grad != 0).any())


def test_leapfrog_is_two_step_with_k_minus_one_and_the_published_loop(double: None) -> None:
    force = on.fields.SecondOrder(5)
    paper = on.Flow(force, on.TwoStep(-1.0, gain=1.0, power=2, start="paper"), steps=7, span=(0.0, 2.0))
    K, b = weights(paper)
    h, y0 = 2.0 / 7, torch.randn(4, 5)
    previous = now = y0
    for n in range(7):
        previous, now = now, 2 * now - previous - h**2 * torch.tanh(now @ K[n].T + b[n]) @ K[n]
    torch.testing.assert_close(paper(y0), now, rtol=0.0, atol=1e-12)
    named = paper.with_integrator("leapfrog")
    by_hand = paper.with_integrator(on.TwoStep(-1.0, gain=1.0, power=2, start="taylor"))
    assert torch.equal(named(y0), by_hand(y0))


def test_the_published_two_layer_hamiltonian_loop(double: None) -> None:
    flow = on.Flow(on.fields.SeparableHamiltonian(6), "symplectic_euler", steps=5)
    w, h = flow.weights, 0.2
    state = torch.randn(4, 6)
    y, z = state.split(3, dim=1)
    for n in range(5):  # z first, then y with the new z: the odenet order is kick, then drift
        z = z - h * torch.tanh(y @ w["K2"][n].T + w["b2"][n]) @ w["K2"][n]
        y = y + h * torch.tanh(z @ w["K1"][n].T + w["b1"][n]) @ w["K1"][n]
    torch.testing.assert_close(flow(state), torch.cat((y, z), 1), rtol=0.0, atol=1e-12)


def test_the_one_layer_hamiltonian_is_the_published_loop(double: None) -> None:
    flow = on.Flow(on.fields.SeparableHamiltonian(6, layers=1), "symplectic_euler", steps=5)
    K, b = weights(flow)
    y, z = torch.randn(4, 3), torch.zeros(4, 3)
    state = torch.cat((y, z), 1)
    for n in range(5):
        z = z - 0.2 * torch.tanh(y @ K[n] + b[n])
        y = y + 0.2 * torch.tanh(z @ K[n].T + b[n])
    torch.testing.assert_close(flow(state), torch.cat((y, z), 1), rtol=0.0, atol=1e-12)


def test_h2_is_the_two_layer_hamiltonian_with_renamed_weights(double: None) -> None:
    h2 = on.Flow(on.fields.HamiltonianJ(6, form="h2"), "symplectic_euler", steps=3, seed=2)
    two = on.Flow(on.fields.SeparableHamiltonian(6), "symplectic_euler", steps=3)
    for theirs, ours in (("K1", "K_p"), ("b1", "b_p"), ("K2", "K_q"), ("b2", "b_q")):
        two.weights[theirs] = h2.weights[ours]
    y = torch.randn(4, 6)
    torch.testing.assert_close(h2(y), two(y), rtol=0.0, atol=1e-13)


def test_the_net_takes_more_steps_with_the_same_weights() -> None:
    flow = on.Flow(on.fields.SeparableHamiltonian(8), "verlet", steps=16)
    twin = flow.with_integrator("yoshida4", steps=32)
    assert twin.weights["K1"] is flow.weights["K1"] and twin.substeps == 2 and twin.integrator.name == "yoshida4"
    with pytest.raises(BadInput, match=r"steps=24 is no multiple of them; write steps=16 or steps=32"):
        flow.with_integrator("yoshida4", steps=24)


def test_trajectory_starts_at_y_and_ends_at_the_output() -> None:
    for field, name in (
        (on.fields.Free(4), "rk4"),
        (on.fields.SecondOrder(4), "verlet"),
        (on.fields.Free(4), "dopri5"),
    ):
        flow = on.Flow(field, name, steps=5)
        y = torch.randn(3, 4)
        states = flow.trajectory(y)
        assert states.shape == (6, 3, 4)
        assert torch.equal(states[0], y) and torch.equal(states[-1], flow(y))


def test_layers_compose_to_the_net() -> None:
    for name in on.nets.names():
        build = on.nets.get(name)
        if build.kind != "ode" or build.takes not in ("vector", "image"):
            continue
        words, x = example(name)
        net = build(**words).eval()
        state = x
        for layer in net.layers():
            state = layer(state)
        torch.testing.assert_close(state, net(x), msg=name)


def test_an_adaptive_flow_lands_on_its_knots_and_converges_with_its_tolerance(double: None) -> None:
    flow = on.Flow(on.fields.Free(4, gain=3.0), "dopri5", steps=4, rtol=1e-9, atol=1e-11)
    exact = flow.with_integrator("rk4", steps=4000)
    y = torch.randn(3, 4)
    torch.testing.assert_close(flow.trajectory(y), exact.trajectory(y), rtol=1e-8, atol=1e-9)


def test_counts_of_field_evaluations_are_the_textbook_ones() -> None:
    y = torch.randn(3, 4)
    for name, count in (("euler", 8), ("midpoint", 16), ("rk4", 32), ("ab2", 9), ("dopri5", 48)):
        assert on.Flow(on.fields.Free(4), name, steps=8, substeps=1).nfe(y) == count, name
    # a first slope at every interval where the weights jump, one for all where they are shared
    shared = on.Flow(on.fields.SeparableHamiltonian(4), "verlet", depth="shared", steps=1, substeps=8)
    assert shared.nfe(y) == 9  # 8 drifts and 9 kicks, in whole fields


def test_inputs_are_controls_given_by_name(double: None) -> None:
    flow = on.Flow(on.fields.Free(4, inputs=2), depth="shared", steps=6, span=(0.0, 6.0))
    u, h = torch.randn(6, 3, 2), torch.zeros(3, 4)
    by_hand = h
    for n in range(6):
        w = flow.weights
        by_hand = by_hand + torch.tanh(by_hand @ w["K"][0].T + w["b"][0] + u[n] @ w["V"][0].T)
    torch.testing.assert_close(flow(h, u=u), by_hand, rtol=0.0, atol=1e-13)
    with pytest.raises(BadInput, match=r"takes the controls \['u'\], but was given none"):
        flow(h)
    with pytest.raises(BadInput, match="5 entries on its first axis"):
        flow(h, u=u[:5])


def test_any_callable_and_any_module_is_a_field(double: None) -> None:
    y = torch.randn(3, 2)
    decay = on.Flow(lambda t, y: -y, "rk4", steps=40)
    torch.testing.assert_close(decay(y), math.exp(-1) * y, rtol=1e-7, atol=0.0)
    module = torch.nn.Linear(2, 2).double()
    shared = on.Flow(module, "euler", depth="shared", steps=4)
    assert [p is q for p, q in zip(shared.parameters(), module.parameters())] == [True, True]
    expected = y
    for _ in range(4):
        expected = expected + 0.25 * module(expected)
    assert torch.equal(shared(y), expected)
    own = on.Flow(module, "euler", steps=4)
    assert own.weights["weight"].shape == (4, 2, 2) and not torch.equal(
        own.weights["weight"][0], own.weights["weight"][1]
    )
    assert own(y).shape == y.shape


def test_a_flow_with_noise_is_solve_along_the_path_of_the_same_seed(double: None) -> None:
    field = on.fields.Noisy(lambda t, y: -y, lambda t, y: 0.3 * torch.cos(y))
    flow, y = on.Flow(field, "milstein", steps=4, substeps=3), torch.randn(3, 2)
    sol = on.solve(field, y, flow.knots, "milstein", steps=3, seed=5)
    assert torch.equal(flow.trajectory(y, seed=5), sol.y) and torch.equal(flow(y, seed=5), sol.y[-1])
    assert not torch.equal(flow(y, seed=6), sol.y[-1]) and flow.nfe(y, seed=5) == 12
    with pytest.raises(BadInput, match=r"Noisy has noise, so a flow takes the seed of its path, flow\(y, seed=0\)"):
        flow(y)
    with pytest.raises(BadInput, match="this flow has no noise, so it takes no seed"):
        on.Flow(on.fields.Free(2), "rk4")(y, seed=5)
    with pytest.raises(BadInput, match="a flow with noise has no layers of its own"):
        flow.layers()


class Dropping(on.fields.SemiLinear):
    """A semilinear field of a user, with dropout."""

    dropout = 0.5


def test_exponential_methods_refuse_a_linear_part_that_is_not_constant_in_a_step(double: None) -> None:
    matrix = torch.nn.Parameter(torch.tensor([[-1.0, 0.3], [0.0, -0.5]]))

    def field(kind: type[on.fields.SemiLinear] = on.fields.SemiLinear) -> on.Field:
        return kind(matrix, torch.nn.Linear(2, 2))

    for name in ("etd1", "etd2rk", "etdrk4", "krogstad4"):
        with pytest.raises(Incompatible, match="made of the weight 'linear/matrix', which varies inside a step"):
            on.Flow(field(), name, depth="piecewise_linear")
        with pytest.raises(Incompatible, match="takes the linear part L of the field exactly, but dropout"):
            on.Flow(field(Dropping), name)
    depth = {"linear/matrix": "shared", "*": "piecewise_linear"}
    flow, y = on.Flow(field(), "etdrk4", depth=depth, steps=2, substeps=40), torch.randn(3, 2)
    tight = flow.with_integrator("dopri8", steps=80)
    torch.testing.assert_close(flow(y), tight(y), rtol=1e-9, atol=1e-9)  # what varies beside L is seen at its time
    rhs = on.fields.Rhs(field(), {"linear/matrix": matrix}, torch.ones(3, 2))
    with pytest.raises(Incompatible, match="dropout switches entries of the slope off"):
        rhs.linear()


IMPOSSIBLE = [
    (lambda: on.Flow(on.fields.Free(4), "verlet"), Incompatible,
     r"'verlet' needs a separable field; Free offers .* Use fields\.SeparableHamiltonian\(\.\.\.\) or int.*'rk4'"),
    (lambda: on.Flow(on.fields.Free(4, layers=2), "verlet"), Incompatible, r"Free offers none\. Use"),
    (lambda: on.Flow(on.fields.Parabolic(4), "leapfrog"), Incompatible,
     r"'leapfrog' needs a second-order field; .* Use fields\.SecondOrder\(\.\.\.\) or integrator='rk4'"),
    (lambda: on.Flow(on.fields.Free(4), "rk4", gradient="reversible"), Incompatible,
     r"needs an integrator with an inverse; 'rk4' has none\. Use integrator=\"verlet\".*\"reversible_heun\".*\"alf\""),
    (lambda: on.Flow(on.fields.SeparableHamiltonian(5), "verlet"), BadInput, "the width is even"),
    (lambda: on.Flow(on.fields.Free(4), "rk44"), UnknownName, "did you mean 'rk4'"),
    (lambda: on.Flow(on.fields.Free(4), steps=-3), BadInput, "steps is a positive whole number, got -3"),
    (lambda: on.Flow(on.fields.Free(4), steps=2.0), BadInput, "steps is a positive whole number, got 2.0"),
    (lambda: on.Flow(on.fields.Free(4), span=(1.0, 1.0)), BadInput, "two different finite times"),
    (lambda: on.Flow(on.fields.Free(4), span=3.0), BadInput, "span is a pair of times"),
    (lambda: on.Flow(on.fields.Free(4), gradient="magic"), BadInput, "write one of autograd, binomial"),
    (lambda: on.Flow(on.fields.Free(4), init="same"), BadInput, "'iid'"),
    (lambda: on.Flow(on.fields.Free(4), "dopri5", rtol=-1.0), BadInput, "tolerances are positive"),
    (lambda: on.Flow(7), BadInput, "needs a callable"),
    (lambda: on.Flow(lambda a, b, c: a), BadInput, "3 required arguments"),
    (lambda: on.fields.Free(0), BadInput, "positive whole number"),
    (lambda: on.fields.Free(4, map="conv3d"), BadInput, "linear map 'conv3d' is not known"),
    (lambda: on.fields.Free(4, activation="tanhh"), BadInput, "tanh"),
    (lambda: on.fields.Free(4, layers=3), BadInput, "one layer"),
    (lambda: on.fields.Free(4, dropout=1.0), BadInput, "probability"),
    (lambda: on.fields.Antisymmetric(4, gamma=-1.0), BadInput, "diffusion is >= 0"),
    (lambda: on.fields.Free(4, hidden=7, layers=1, constraint="orthogonall"), BadInput, "constraint"),
    (lambda: on.fields.Parabolic(4, hidden=6, constraint="orthogonal"), BadInput, "square map"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "error", "sentence"), IMPOSSIBLE)
def test_what_cannot_work_fails_when_built_with_a_sentence(
    build: object, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (torch.zeros(3, 5), r"has width 4, but y has shape \(3, 5\)"),
        (torch.zeros(3, 4, dtype=torch.int64), "floating-point numbers, got torch.int64"),
        ([1.0], "floating-point numbers, got list"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(y: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        on.Flow(on.fields.Free(4))(y)  # type: ignore[arg-type]


def test_an_adaptive_flow_that_cannot_go_on_says_where() -> None:
    flow = on.Flow(lambda t, y: y**2, "dopri5", span=(0.0, 2.0), steps=2, max_steps=500)
    with pytest.raises(SolveFailed, match=r"'dopri5' stopped in a flow of Wrapped at t = (1|0\.99)"):
        flow(torch.ones(1, 1, dtype=torch.float64))
