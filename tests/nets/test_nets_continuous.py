"""Continuous-time nets and residual nets as integrators, against hand-written loops, scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.fields import MLP, Free, Newton, Split, constraints, maps
from odenet.integrators import RungeKutta, TwoStep
from odenet.nets.continuous import Equiangular

pytestmark = pytest.mark.usefixtures("double")

MODULE = "odenet.nets.continuous"
NETS = [n for n in on.nets.names() if on.nets.get(n).__module__ == MODULE]


def flow_of(net: nn.Module) -> on.Flow:
    return next(m for m in net.modules() if isinstance(m, on.Flow))


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    return net


def weights(net: nn.Module) -> dict[str, np.ndarray]:
    """Effective weights, shared by all times."""
    return {k: v[0].detach().numpy() for k, v in flow_of(net).theta().items()}


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def solved(f: object, y0: np.ndarray, end: float = 1.0) -> np.ndarray:
    """scipy's solution at `end` of y' = f(t, y) for a batch y0 (B, D)."""
    shape = y0.shape
    found = solve_ivp(lambda t, y: f(t, y.reshape(shape)).ravel(), (0.0, end), y0.ravel(), rtol=1e-10, atol=1e-12)
    return found.y[:, -1].reshape(shape)


def mlp(p: dict[str, np.ndarray], x: np.ndarray, s: object = np.tanh) -> np.ndarray:
    return s(x @ p["K1"].T + p["b1"]) @ p["K2"].T + p["b2"]


# ---- against scipy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["none", "concat"])
def test_a_neural_ode_is_opening_solution_head(time: str) -> None:
    net = shaken(on.nets.neural_ode(5, 3, width=4, time=time, rtol=1e-9, atol=1e-11))
    x, p = torch.randn(6, 5), weights(net)

    def f(t: float, y: np.ndarray) -> np.ndarray:
        return mlp(p, np.concatenate((y, np.full((6, 1), t)), 1) if time == "concat" else y)

    expected = linear(net.parts[2], solved(f, linear(net.parts[0], x.numpy())))
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-7, atol=1e-8)


def test_anode_flows_the_data_with_zeros_beside() -> None:
    net = shaken(on.nets.anode(2, 3, width=5, layers=2, hidden=8, rtol=1e-9, atol=1e-11))
    x, p = torch.randn(6, 2), weights(net)
    expected = linear(net.parts[2], solved(lambda t, y: mlp(p, y), np.pad(x.numpy(), ((0, 0), (0, 3)))))
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-7, atol=1e-8)


def test_sonode_moves_from_a_learned_velocity_and_its_force_sees_the_velocity() -> None:
    net = shaken(on.nets.sonode(5, 3, width=4, rtol=1e-9, atol=1e-11))
    x, p = torch.randn(6, 5), weights(net)
    start = linear(net.parts[0], x.numpy())
    start = np.concatenate((start, linear(net.parts[1].g, start)), 1)
    end = solved(lambda t, y: np.concatenate((y[:, 4:], mlp(p, y)), 1), start)
    np.testing.assert_allclose(net(x).detach().numpy(), linear(net.parts[4], end[:, :4]), rtol=1e-7, atol=1e-8)


def test_heavy_ball_starts_at_rest_and_loses_momentum_at_a_learned_rate() -> None:
    net = shaken(on.nets.heavy_ball(5, 3, width=4, rtol=1e-9, atol=1e-11))
    x, p = torch.randn(6, 5), weights(net)
    raw = float(flow_of(net).weights["gamma"].detach())
    gamma = 1 / (1 + math.exp(-raw))
    start = np.pad(linear(net.parts[0], x.numpy()), ((0, 0), (0, 4)))
    end = solved(lambda t, y: np.concatenate((y[:, 4:], mlp(p, y[:, :4]) - gamma * y[:, 4:]), 1), start)
    np.testing.assert_allclose(net(x).detach().numpy(), linear(net.parts[4], end[:, :4]), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("opening", ["zero", "linear"])
def test_nais_net_is_its_loop_with_the_input_at_every_step(opening: str) -> None:
    net = shaken(on.nets.nais_net(5, 3, width=4, steps=6, depth="per_step", opening=opening, span=(0.0, 2.0)))
    u, theta = torch.randn(7, 5), flow_of(net).theta()
    x = torch.zeros(7, 4) if opening == "zero" else net.parts[0].start(u)
    for n in range(6):
        A, B, b = (theta[k][n] for k in ("K", "V", "b"))
        assert float(torch.linalg.eigvalsh((A + A.T) / 2).max().detach()) <= -0.01 + 1e-12
        x = x + (2.0 / 6) * torch.tanh(x @ A.T + u @ B.T + b)
    torch.testing.assert_close(net(u), net.parts[3](x), rtol=1e-12, atol=1e-12)


def test_a_nais_net_forgets_where_it_started_and_keeps_what_it_is_told() -> None:
    damped = constraints.Damped(0.5, rotating=False)
    net = shaken(on.nets.nais_net(3, 2, width=4, steps=400, span=(0.0, 40.0), constraint=damped))
    flow, u = flow_of(net), torch.randn(1, 3)
    ends = [flow(torch.cat((x, v), 1)) for v in (u, -u) for x in (torch.zeros(1, 4), 3 * torch.ones(1, 4))]
    forgotten, kept = float((ends[0] - ends[1]).detach().norm()), float((ends[0] - ends[2])[:, :4].detach().norm())
    assert forgotten < 1e-6 < 1e-2 < kept


# ---- the family ----------------------------------------------------------------------------------------------------

ENDS = {"neural_ode": 28, "tisode": 28, "stable_ode": 28, "anode": 15, "sonode": 28, "heavy_ball": 28, "nais_net": 15,
        "sodef": 24}  # fmt: skip
FIELD = {"neural_ode": 40, "tisode": 40, "sodef": 40, "anode": 40, "sonode": 8 * 8 + 8 + 4 * 8 + 4, "heavy_ball": 41,
         "stable_ode": 40 + 2 * (16 * 4 + 16) + 4 + 16 * 16 + 16, "nais_net": 16 + 4 * 5 + 4}  # fmt: skip


def test_every_net_here_is_counted() -> None:
    """width 4 from 5 inputs (anode: 2) to 3 outputs, by hand."""
    assert sorted(ENDS) == sorted(FIELD) == NETS
    for name in NETS:
        net = on.nets.get(name)(2 if name == "anode" else 5, 3, width=4)
        extra = 4 * 4 + 4 if name == "sonode" else 0
        expected = {"anode": 4 * 3 + 3, "nais_net": 4 * 3 + 3, "sodef": 5 * 4 + 4}.get(name, 5 * 4 + 4 + 4 * 3 + 3)
        assert sum(p.numel() for p in net.parameters()) == expected + extra + FIELD[name], name


@pytest.mark.parametrize("name", NETS)
def test_depth_is_any_basis_of_time_and_the_default_is_none(name: str) -> None:
    x = torch.linspace(-1, 1, 10).reshape(2, 5)
    for depth in ("per_step", "piecewise_linear", "spline", "legendre"):
        net = on.nets.get(name)(5, 3, width=6, steps=4, depth=depth, integrator="rk4")
        net(x).sum().backward()
        flow = flow_of(net)
        assert all(w.shape[0] == flow.depths[k].count(4) for k, w in flow.weights.items())
        assert any(bool(w.grad.any()) for w in flow.weights.values())
    plain = on.nets.get(name)(5, 3, width=6, steps=4)
    assert {w.shape[0] for w in flow_of(plain).weights.values()} == {1}


@pytest.mark.parametrize("name", NETS)
def test_every_discrete_gradient_is_the_same(name: str) -> None:
    found = {}
    for gradient in ("autograd", "checkpoint", "discrete"):
        net = shaken(on.nets.get(name)(5, 3, width=6, gradient=gradient, integrator="rk4", steps=3))
        torch.manual_seed(1)
        (net(torch.randn(4, 5)) ** 2).sum().backward()
        found[gradient] = torch.cat([p.grad.flatten() for p in net.parameters()])
    for gradient in found:
        torch.testing.assert_close(found[gradient], found["autograd"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NETS)
def test_fit_trains_it_under_its_own_integrator(name: str) -> None:
    x, y = torch.randn(64, 5), torch.arange(64) % 3
    # rtol and atol are the tolerances of the net's own dopri5, coarse so that training is quick; nothing is compared
    net = on.nets.get(name)(5, 3, width=6, rtol=1e-2, atol=1e-2, span=(0.0, 0.5))
    fit = on.fit(net, (x, y), steps=8, lr=0.02, seed=0, holdout=0.0, batch=64)
    assert fit.status == "done" and fit.history[-1]["loss"] < fit.history[0]["loss"]


def test_a_flow_of_the_line_keeps_order_and_one_more_dimension_lifts_that() -> None:
    """No neural ODE on R maps -1 to 1 and 1 to -1 (Dupont et al., proposition 1); a half turn in the plane does."""
    x = torch.linspace(-2, 2, 9)[:, None]
    for seed in range(20):
        net = shaken(on.nets.neural_ode(1, 1, width=1, opening="pad", hidden=8, time="concat"), seed)
        assert bool((flow_of(net)(x).diff(dim=0) > 0).all())
    net = on.nets.anode(1, 1, width=2, layers=1, rtol=1e-8, atol=1e-10)
    flow = flow_of(net)
    with torch.no_grad():
        flow.weights["K1"].copy_(torch.tensor([[[0.0, -math.pi], [math.pi, 0.0]]]))
    torch.testing.assert_close(flow(net.parts[0](x)), torch.cat((-x, 0 * x), 1), rtol=0.0, atol=1e-6)


def test_heavy_ball_under_a_semi_implicit_euler_step_is_the_momentum_net() -> None:
    """m+ = m + h (f(x) - gamma m), x+ = x + h m+ is x + (1 - h gamma)(x - x_before) + h^2 f(x): TwoStep."""
    field, h, gamma = Newton(6, velocity=False, damping=0.8), 0.25, 0.8
    p, x = field.init(torch.Generator().manual_seed(0)), torch.randn(4, 3)

    def drift(t: float, y: Tensor) -> Tensor:
        return torch.cat((y[:, 3:], 0 * y[:, 3:]), 1)

    split = Split(explicit=lambda t, y: field(t, y, p) - drift(t, y), implicit=drift)
    ball = on.solve(split, torch.cat((x, 0 * x), 1), torch.tensor([0.0, 1.5]), integrator="imex_euler", steps=6)
    keep = 1 - h * gamma
    two_step = TwoStep(-keep, gain=h, power=1)  # v <- keep v + h (h f), y <- y + v
    loop = on.solve(lambda t, y: field.net(t, y, p), x, torch.tensor([0.0, 1.5]), integrator=two_step, steps=6)
    torch.testing.assert_close(ball.y[-1][:, :3], loop.y[-1], rtol=1e-9, atol=1e-10)
    net = TwoStep(-keep)  # as registered: the force times (1 - keep) instead of h
    scaled = on.solve(
        lambda t, y: h / (1 - keep) * field.net(t, y, p), x, torch.tensor([0.0, 1.5]), integrator=net, steps=6
    )
    torch.testing.assert_close(scaled.y[-1], loop.y[-1], rtol=1e-9, atol=1e-10)


# ---- penalties -----------------------------------------------------------------------------------------------------


def test_steady_state_of_linear_decay_is_the_geometric_sum() -> None:
    """f = -y from y(T): n Euler steps of h leave |y(T)| (1 - h)^n, so the way is |y(T)| (1 - (1 - h)^n)."""
    net = on.nets.tisode(3, 2, width=3, layers=1, opening="pad")
    with torch.no_grad():
        flow_of(net).weights["K1"].copy_(-torch.eye(3)[None])
    x = torch.randn(8, 3)
    expected = 0.02 * (x.abs().sum(1).mean() * math.exp(-1.0)) * (1 - (1 - 0.1) ** 5)
    found = on.nets.steady_state(0.02, until=1.5, steps=5)(net, (x, None))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=0.0)


def test_fit_gives_a_penalty_the_batch_and_less_motion_is_left() -> None:
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    way = on.nets.steady_state(1.0)
    left = []
    for weight in (1e-6, 0.1):
        net = on.nets.tisode(4, 2, width=4, seed=3)
        on.fit(net, (x, y), steps=15, lr=0.05, penalty=on.nets.steady_state(weight), batch=64, holdout=0.0)
        left.append(float(way(net, (x, y)).detach()))
    assert left[1] < 0.5 * left[0]


def test_the_equilibrium_penalty_is_its_formula_and_makes_states_attract() -> None:
    net = shaken(on.nets.sodef(4, 3, width=5))
    x, flow = torch.randn(6, 4), flow_of(net)
    y, p = net.parts[0](x).detach(), {k: v[0] for k, v in flow.theta().items()}

    def f(y: Tensor) -> Tensor:
        return torch.sin(y @ p["K1"].T + p["b1"]) @ p["K2"].T + p["b2"]

    J = torch.stack([torch.autograd.functional.jacobian(f, row) for row in y])
    ends = [j[i, i] + sum(j[i, k].abs() for k in range(5) if k != i) for j in J for i in range(5)]
    expected = 0.7 * f(y).norm(dim=1).mean() + 0.2 * torch.stack(ends).exp().mean()
    penalty = on.nets.equilibrium(0.7, 0.2)
    torch.testing.assert_close(penalty(net, (x, None)).detach(), expected.detach(), rtol=1e-10, atol=0.0)

    def worst() -> tuple[float, float]:
        """Largest real part of an eigenvalue of df/dy, and largest |f|, over the states."""
        J = torch.stack([torch.autograd.functional.jacobian(f, row) for row in y])
        return float(torch.linalg.eigvals(J).real.max()), float(f(y).detach().norm(dim=1).max())

    before = worst()
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.03)
    for _ in range(100):
        optimiser.zero_grad()
        on.nets.equilibrium(1.0, 1.0)(net, (x, None)).backward()
        optimiser.step()
    p = {k: v[0].detach() for k, v in flow.theta().items()}
    after = worst()
    assert before[0] > 1.0 and after[0] < 0.05 and after[1] < 0.1 * before[1]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_head_of_equal_angles_is_a_simplex(classes: int) -> None:
    head = Equiangular(12, classes)
    gram = head.V @ head.V.T
    cosine = -1 / (classes - 1)
    torch.testing.assert_close(gram, (1 - cosine) * torch.eye(classes) + cosine * torch.ones(classes, classes))
    y = torch.randn(4, 12)
    torch.testing.assert_close(head(y), torch.stack([(head.V * row).sum(1) for row in y]))
    assert not list(head.parameters())


@pytest.mark.parametrize(("make", "error", "sentence"), [
    (lambda: on.nets.neural_ode(0, 2), BadInput, "dim_in is a positive whole number, got 0"),
    (lambda: on.nets.neural_ode(3, 2, opening="conv"), BadInput, "opening 'conv' is not known"),
    (lambda: on.nets.neural_ode(3, 2, tim="concat"), BadInput, "no option 'tim'; did you mean 'time'"),
    (lambda: on.nets.anode(5, 2, width=4), BadInput, "padding makes states wider"),
    (lambda: on.nets.sonode(3, 2, damping=1.0), BadInput, "no option 'damping'"),
    (lambda: on.nets.sonode(3, 2, integrator="verlet"), Incompatible, "'verlet' needs a separable field"),
    (lambda: on.nets.tisode(3, 2, time="concat"), BadInput, "no option 'time'"),
    (lambda: on.nets.sodef(3, 9, width=8), BadInput, "an equiangular head needs 2 classes or more and at most width=8"),
    (lambda: on.nets.steady_state(until=1.0), BadInput, "until > 1"),
    (lambda: on.nets.steady_state()(on.nets.resnet(3, 2), (torch.ones(1, 3), None)), Incompatible, "depth='shared'"),
    (lambda: on.nets.equilibrium()(nn.Linear(3, 2), (torch.ones(1, 3), None)), BadInput, "Linear has no flow"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


# ---- residual nets as integrators ----------------------------------------------------------------------------------

EXPLICIT = [n for n in on.integrators.names() if ":" not in n and isinstance(on.integrators.get(n), RungeKutta)]


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_runge_kutta_net_is_its_hand_loop(name: str) -> None:
    net = on.nets.resnet(4, 3, width=5, steps=3, integrator=name, span=(0.0, 0.9), substeps=1)
    net = shaken(net)
    tableau, theta, x = on.integrators.get(name).tableau, flow_of(net).theta(), torch.randn(6, 4)
    a = [[float(v) for v in row] for row in tableau.matrix]
    b = [float(v) for v in tableau.weights]
    y, h = net.parts[0](x), 0.3
    for n in range(3):
        K, bias = theta["K"][n], theta["b"][n]
        stages: list[Tensor] = []
        for row in a:
            inner = y + h * sum((w * k for w, k in zip(row, stages)), torch.zeros_like(y))
            stages.append(torch.tanh(inner @ K.T + bias))
        y = y + h * sum(w * k for w, k in zip(b, stages))
    torch.testing.assert_close(net(x), net.parts[2](y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("iterations", "name"), [(1, "euler"), (2, "polynet2"), (3, "polynet3")])
def test_fixed_point_iterations_of_an_implicit_skip_connection_are_polynets(iterations: int, name: str) -> None:
    """x+ = x + h f(x+), iterated k times from x: 1 + z + ... + z^k, none of backward Euler's stability."""
    net = shaken(on.nets.resnet(4, 3, width=5, steps=3, integrator=name))
    y, theta = net.parts[0](torch.randn(6, 4)), flow_of(net).theta()
    expected = y
    for n in range(3):
        inner = expected
        for _ in range(iterations):
            inner = expected + torch.tanh(inner @ theta["K"][n].T + theta["b"][n]) / 3
        expected = inner
    torch.testing.assert_close(flow_of(net)(y), expected, rtol=1e-12, atol=1e-12)
    z = 0.7 + 0.4j
    assert on.integrators.get(name).amplification(z) == pytest.approx(sum(z**k for k in range(iterations + 1)))


def test_an_implicit_skip_connection_is_a_backward_euler_net() -> None:
    net = on.nets.resnet(4, 3, width=5, steps=3, integrator="backward_euler", span=(0.0, 0.9))
    y, theta = net.parts[0](torch.randn(6, 4)), flow_of(net).theta()
    states = flow_of(net).trajectory(y)
    for n in range(3):
        after = states[n] + 0.3 * torch.tanh(states[n + 1] @ theta["K"][n].T + theta["b"][n])
        torch.testing.assert_close(states[n + 1], after, rtol=1e-10, atol=1e-11)


def test_a_fractal_of_two_columns_is_a_chebyshev_step() -> None:
    """f_1 an Euler step, f_C the mean of f_(C-1) twice over half the step and an Euler step over all of it."""
    K, b = torch.randn(4, 4), torch.randn(4)

    def f(y: Tensor) -> Tensor:
        return torch.tanh(y @ K.T + b)

    def fractal(columns: int, y: Tensor, h: float) -> Tensor:
        shallow = y + h * f(y)
        if columns == 1:
            return shallow
        return (fractal(columns - 1, fractal(columns - 1, y, h / 2), h / 2) + shallow) / 2

    y = torch.randn(6, 4)
    found = on.Flow(f, "fractal2", depth="shared", span=(0.0, 0.8), steps=1)(y)
    torch.testing.assert_close(found, fractal(2, y, 0.8), rtol=1e-13, atol=1e-13)
    method = on.integrators.get("fractal2")
    for z in (-7.9, -4.0, -1.0, 0.5):
        assert method.amplification(z) == pytest.approx(2 * (1 + z / 4) ** 2 - 1)
    assert method.facts.real_interval == pytest.approx(8.0) and method.order == 1


def test_a_learned_depth_basis_makes_the_weights_move_with_time() -> None:
    """theta(t) of a piecewise linear depth, read by hand at the stages of the midpoint rule."""
    net = shaken(on.nets.neural_ode(3, 2, width=3, steps=2, layers=1, depth="piecewise_linear", integrator="midpoint"))
    y, w = net.parts[0](torch.randn(5, 3)), flow_of(net).weights
    K, b = w["K1"], w["b1"]
    expected = y
    for n in range(2):
        first = expected @ K[n].T + b[n]
        middle = expected + 0.25 * first
        expected = expected + 0.5 * (middle @ (0.5 * (K[n] + K[n + 1])).T + 0.5 * (b[n] + b[n + 1]))
    torch.testing.assert_close(flow_of(net)(y), expected, rtol=1e-12, atol=1e-12)


def test_the_fields_of_these_nets_are_the_named_ones() -> None:
    assert isinstance(flow_of(on.nets.neural_ode(3, 2)).field, MLP)
    assert isinstance(flow_of(on.nets.resnet(3, 2)).field, Free) and maps.Dense(2, 2).shape == (2, 2)
