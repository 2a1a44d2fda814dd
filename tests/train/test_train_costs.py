"""Running costs: the integral against an augmented equation, against closed forms, and by order in the step."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow.integral import integral
from odenet.train import costs

A = torch.tensor([[-0.3, 1.1, 0.2], [-0.9, 0.1, 0.4], [0.3, -0.5, -0.2]], dtype=torch.float64)
SPAN = (0.0, 1.5)


def start() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(integrator: str = "rk4", steps: int = 30, **words: Any) -> on.Flow:
    return on.Flow(lambda y: y @ A.T, integrator, span=SPAN, steps=steps, **words)


def nonlinear(integrator: str = "rk4", steps: int = 4, depth: str = "piecewise_linear", **words: Any) -> on.Flow:
    field = on.fields.Free(3, layers=2, hidden=5)
    return on.Flow(field, integrator, depth=depth, span=SPAN, steps=steps, seed=2, **words).double()


def closed_kinetic(power: int = 1) -> float:
    """Mean of int |A^k e^(tA) x|^2 dt = x^T (int e^(tA^T) M e^(tA)) x, by Van Loan's block exponential."""
    a, M = A.numpy(), np.linalg.matrix_power(A.numpy(), power)
    block = np.block([[-a.T, M.T @ M], [np.zeros((3, 3)), a]])
    expm = scipy.linalg.expm(SPAN[1] * block)
    gram = expm[3:, 3:].T @ expm[:3, 3:]
    x = start().numpy()
    return float(np.einsum("bi,ij,bj->b", x, gram, x).mean())


@pytest.mark.parametrize("integrator", ["rk4", "dopri5", "trapezoid", "ab4"])
def test_the_kinetic_energy_of_a_linear_flow_is_the_block_exponential(integrator: str) -> None:
    words = {"rtol": 1e-9, "atol": 1e-11} if integrator == "dopri5" else {"steps": 60}
    found = costs.kinetic(2.0)(linear(integrator, **words), (start(), None))
    assert float(found) == pytest.approx(2 * closed_kinetic(), rel=2e-4 if integrator == "trapezoid" else 1e-6)


def test_the_integral_of_a_runge_kutta_method_is_one_more_component_of_its_state() -> None:
    """(x, c)' = (f, |f|^2) under the same tableau gives the same numbers to rounding, fixed steps and weights in t."""
    for integrator in ("euler", "heun", "rk4", "dopri5"):
        flow = nonlinear(integrator, substeps=2)
        x = start()

        def both(t: float, z: Tensor, flow: on.Flow = flow) -> Tensor:
            weights = {k: flow.depths[k].at(c, t, flow.knots) for k, c in flow.weights.items()}
            f = flow.field(t, z[:, :3], weights)
            return torch.cat((f, f.square().sum(1, keepdim=True)), 1)

        z, h = torch.cat((x, torch.zeros(4, 1, dtype=torch.float64)), 1), flow.h
        for n in range(8):
            z = flow.integrator.step(both, n * h, z, h, (), None).y
        end, total = integral(flow, x, lambda t, x, theta, f: f(t, x).square().sum(1))
        torch.testing.assert_close(total, z[:, 3], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(end, flow(x), rtol=0, atol=0)


@pytest.mark.parametrize("cost", ["kinetic", "jacobian"])
def test_a_nonlinear_flow_agrees_with_scipy_on_the_augmented_equation(cost: str) -> None:
    flow, x = nonlinear(steps=1, depth="shared", substeps=24), start()
    w = {k: v[0].detach() for k, v in flow.weights.items()}

    def f(y: Tensor) -> Tensor:
        return flow.field(0.0, y, w)

    def rate(t: float, z: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(z[:3].copy())
        J = torch.autograd.functional.jacobian(lambda v: f(v[None])[0], y)
        value = f(y[None])[0]
        return np.append(value.detach().numpy(), float(value.square().sum() if cost == "kinetic" else J.square().sum()))

    words = {"rtol": 1e-8, "atol": 1e-10}
    ends = [scipy.integrate.solve_ivp(rate, SPAN, [*row, 0.0], **words).y[-1, -1] for row in x[:2].tolist()]
    made = costs.kinetic(1.0) if cost == "kinetic" else costs.jacobian(1.0, exact=True)
    assert float(made(flow, (x[:2], None)).detach()) == pytest.approx(np.mean(ends), rel=1e-6)


def test_the_exact_jacobian_cost_of_a_linear_flow_is_its_norm_times_the_span() -> None:
    found = costs.jacobian(0.5, exact=True)(linear(steps=3), (start(), None))
    assert float(found) == pytest.approx(0.5 * 1.5 * float(A.square().sum()), rel=1e-13)


def test_hutchinson_over_all_probes_of_three_signs_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, x = nonlinear(), start()
    exact = costs.jacobian(1.0, exact=True)(flow, (x, None))
    found = []
    for signs in product((-1.0, 1.0), repeat=3):
        monkeypatch.setattr(costs, "_probe", lambda x, seed, s=signs: torch.tensor(s).to(x).expand_as(x))
        found.append(costs.jacobian(1.0)(flow, (x, None)))
    torch.testing.assert_close(torch.stack(found).mean(), exact, rtol=1e-12, atol=0)
    assert max(found) > 1.05 * exact  # a single probe is not


def test_a_probe_is_one_for_a_whole_solve_fresh_for_the_next_and_the_same_with_a_seed() -> None:
    flow, x = nonlinear(), (start(), None)
    torch.manual_seed(0)
    a, b = costs.jacobian(1.0)(flow, x), costs.jacobian(1.0)(flow, x)
    c, d = costs.jacobian(1.0, seed=3)(flow, x), costs.jacobian(1.0, seed=3)(flow, x)
    assert a != b and c == d
    drawn = costs._probe(torch.zeros(500, 4), None)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0} and abs(float(drawn.mean())) < 0.1
    # constant J: with one probe for all times the integral is the span times |e^T J|^2 at any of them
    probe = costs._probe(start(), 3)
    found = costs.jacobian(1.0, seed=3)(linear(steps=7), x)
    torch.testing.assert_close(found, 1.5 * (probe @ A).square().sum(1).mean(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_taylor_cost_of_a_linear_field_is_that_of_the_power_of_its_matrix(order: int) -> None:
    found = costs.taylor(order, 1.0)(linear(steps=60), (start(), None))
    assert float(found) == pytest.approx(closed_kinetic(order), rel=3e-7)


def test_a_second_derivative_knows_that_the_weights_and_the_field_vary_with_time() -> None:
    """x' = t w(t), w = 1 + t over [0, 1.5]: x'' = 1 + 2 t."""
    flow = on.Flow(_Ramp(), "rk4", depth="piecewise_linear", span=SPAN, steps=3).double()
    with torch.no_grad():
        flow.weights["w"].copy_(1 + torch.tensor(flow.knots))
    found = costs.taylor(2, 1.0)(flow, (start()[:, :1], None))
    assert float(found.detach()) == pytest.approx((4.0**3 - 1) / 6, rel=1e-12)


class _Ramp(on.fields.Field):
    def init(self, generator: Any = None) -> dict[str, Tensor]:
        return {"w": torch.ones(())}

    def forward(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return t * p["w"] + 0 * y


ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "backward_euler": 1, "implicit_midpoint": 2, "gauss4": 4, "verlet": 2}


@pytest.mark.parametrize("integrator", ORDERS)
def test_the_integral_converges_with_the_order_of_the_method(integrator: str) -> None:
    def oscillator(steps: int) -> Tensor:
        flow = on.Flow(on.fields.HarmonicOscillator(2.0), integrator, span=(0.0, 1.0), steps=steps)
        x = torch.tensor([[1.0, 1.5]], dtype=torch.float64)
        return integral(flow, x, lambda t, x, theta, f: x[:, 0] ** 2 + t * f(t, x)[:, 1])[1]

    def density(t: float) -> float:  # q = cos 2t + 0.75 sin 2t, p' = -4 q
        q = np.cos(2 * t) + 0.75 * np.sin(2 * t)
        return float(q * q - 4 * t * q)

    exact = scipy.integrate.quad(density, 0, 1, epsabs=1e-13)[0]
    errors = [abs(float(oscillator(n)) - exact) for n in ((20, 40) if "4" in integrator else (64, 128))]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[integrator], abs=0.2)


def test_the_gradient_of_a_cost_is_that_of_finite_differences() -> None:
    flow = nonlinear("rk4", steps=2)
    batch = (start(), None)
    cost = costs.kinetic(1.0) + costs.jacobian(0.3, seed=1) + costs.taylor(2, 0.1)
    p = flow.weights["K"]
    (slope,) = torch.autograd.grad(cost(flow, batch), p)
    way = torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype)
    with torch.no_grad():
        values = [cost(flow, batch) for s in (1e-5, -2e-5) if p.add_(s * way) is not None]
    assert float((values[0] - values[1]) / 2e-5) == pytest.approx(float((slope * way).sum()), rel=1e-6)


def test_costs_add_up_and_go_through_a_chain() -> None:
    torch.manual_seed(0)
    net = on.Chain(nn.Linear(3, 3), nonlinear(), nn.Linear(3, 3), nonlinear("heun")).double()
    x = start()
    first = net.parts[0](x)
    by_hand = costs.kinetic(0.2)(net.parts[1], (first, None)) + costs.kinetic(0.2)(
        net.parts[3], (net.parts[2](net.parts[1](first)), None)
    )
    torch.testing.assert_close(costs.kinetic(0.2)(net, (x, None)), by_hand)
    both = costs.kinetic(0.2) + costs.taylor(2, 0.1)
    torch.testing.assert_close(
        both(net, (x, None)), costs.kinetic(0.2)(net, (x, None)) + costs.taylor(2, 0.1)(net, (x, None))
    )


def test_a_flow_on_images_and_one_of_second_order_pay_too() -> None:
    flow = on.Flow(on.fields.Parabolic(2, map="conv2d"), "heun", steps=2)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert costs.kinetic(1.0)(flow, (x, None)) > 0
    exact = costs.jacobian(1.0, exact=True)(flow, (x, None))
    torch.testing.assert_close(exact, costs.jacobian(1.0, exact=True)(flow.with_integrator("heun"), (x, None)))
    second = on.Flow(on.fields.SecondOrder(2), "verlet", steps=2)
    assert costs.jacobian(1.0, seed=0)(second, (torch.randn(3, 2), None)) > 0


def test_training_with_a_kinetic_cost_makes_paths_shorter_and_the_loss_is_still_reached() -> None:
    data = on.data.load("moons", n=200)

    def trained(penalty: Any) -> tuple[on.train.Fit, float]:
        net = on.nets.resnet(2, 2, width=6, steps=3, integrator="heun", span=(0.0, 2.0), seed=0)
        fit = on.fit(net, data, steps=40, lr=0.05, batch=len(data.x), penalty=penalty)
        return fit, float(costs.kinetic(1.0)(net, (data.x, None)).detach())

    (plain, long), (paid, short) = trained(None), trained([costs.kinetic(0.02), {"l2": 1e-5}])
    assert short < 0.6 * long and paid.score["accuracy"] > 0.8 and plain.score["accuracy"] > 0.8


def rays(sign: float = -1.0) -> on.Flow:
    """Phi = sign |x|^2 / (2 (t + 2)); with -1 it solves d Phi/dt = |grad Phi|^2 / 2, and x goes on a ray from 0."""
    field = on.fields.Descent(lambda t, x: sign * x.square().sum(1) / (2 * (t + 2)))
    return on.Flow(field, "rk4", span=SPAN, steps=10)


def test_a_solution_of_the_hamilton_jacobi_equation_costs_nothing_and_moves_on_straight_lines() -> None:
    x = start()
    assert float(costs.hjb(1.0)(rays(), (x, None))) < 1e-12
    torch.testing.assert_close(rays()(x), x * 3.5 / 2, rtol=1e-5, atol=1e-5)
    # the other sign: x (t + 2) = 2 x_0, the residual |x|^2 / (t + 2)^2
    closed = float(x.square().sum(1).mean()) * 4 / 3 * (1 / 8 - 1 / 3.5**3)
    assert float(costs.hjb(0.5)(rays(1.0), (x, None))) == pytest.approx(0.5 * closed, rel=2e-5)


def test_the_hjb_cost_of_a_quadratic_potential_is_its_closed_form() -> None:
    """Phi = |K x|^2 / 2, K = diag k: x_i = x_0i e^(-k_i^2 t), and int |K^2 x|^2 / 2 dt = k^2 x_0^2 (1 - e^...) / 4."""
    k = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    flow = on.Flow(on.fields.Parabolic(3, activation="identity"), "rk4", depth="shared", span=SPAN, steps=60).double()
    with torch.no_grad():
        flow.weights["K"].copy_(torch.diag(k)[None])
    closed = (k**2 * start() ** 2 * (1 - torch.exp(-2 * k**2 * SPAN[1])) / 4).sum(1).mean()
    assert float(costs.hjb(1.0)(flow, (start(), None)).detach()) == pytest.approx(float(closed), rel=3e-7)


class _Bowl(nn.Module):
    """w |x|^2 / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x.square().sum(1) / 2


def test_weights_that_vary_with_time_count_in_the_change_of_the_potential() -> None:
    """w = 1 + t: x = x_0 e^(-(t + t^2/2)), and the residual is |x|^2 (1 - w^2) / 2."""
    field = on.fields.Descent(_Bowl())
    flow = on.Flow(field, "rk4", depth="piecewise_linear", span=SPAN, steps=3, substeps=5).double()
    with torch.no_grad():
        flow.weights["w"].copy_(1 + torch.tensor(flow.knots))
    exact = scipy.integrate.quad(lambda t: ((1 + t) ** 2 - 1) / 2 * np.exp(-2 * t - t * t), *SPAN)[0]
    found = float(costs.hjb(1.0)(flow, (start(), None)).detach())
    assert found == pytest.approx(exact * float(start().square().sum(1).mean()), rel=1e-4)


class _Potential(nn.Module):
    """A perceptron of (t, x)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, t: Any, x: Tensor) -> Tensor:
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x), 1)
        return self.net(torch.cat((time, x), 1)).squeeze(-1)


def test_the_field_of_a_potential_keeps_its_contract_and_has_the_same_gradient_by_every_method() -> None:
    torch.manual_seed(0)
    field, x = on.fields.Descent(_Potential()), torch.randn(5, 2)
    assert "FAILS" not in str(on.testing.check_field(field, x))
    found = []
    for gradient in ("autograd", "checkpoint", "discrete"):
        flow = on.Flow(field, "heun", depth="shared", span=(0.0, 1.0), steps=3, seed=0, gradient=gradient)
        slopes = torch.autograd.grad(flow(x).square().sum(), list(flow.parameters()), materialize_grads=True)
        found.append(torch.cat([slope.flatten() for slope in slopes]))
    assert bool(found[0].any())
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_a_learned_potential_that_pays_for_its_residual_has_straighter_paths() -> None:
    """Points are to move along (-1, 1.5); |x''| is measured along the paths, which know no potential."""
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))

    def trained(penalty: Any) -> tuple[float, float]:
        torch.manual_seed(0)
        flow = on.Flow(on.fields.Descent(_Potential()), "rk4", depth="shared", span=(0.0, 1.0), steps=1, seed=0)
        fit = on.fit(
            flow, (x, x * torch.tensor([-0.3, 1.5])), steps=40, lr=0.05, batch=40, holdout=0.0, penalty=penalty
        )
        return fit.history[-1]["loss"], float(costs.taylor(2, 1.0)(flow, (x, None)).detach())

    (free, bent), (paid, straight) = trained(None), trained(costs.hjb(0.1))
    assert straight < 0.7 * bent and max(free, paid) < 0.3


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: costs.kinetic(-1.0), BadInput, "a number >= 0, got -1.0"),
        (lambda: costs.taylor(0), BadInput, "taylor takes the number of a derivative"),
        (lambda: costs.kinetic()(nn.Linear(3, 3), (start(), None)), BadInput, "this Linear has none"),
        (lambda: costs.hjb(-1.0), BadInput, "a number >= 0, got -1.0"),
        (lambda: costs.hjb()(nonlinear(), (start(), None)), Incompatible, "Free offers no potential Phi"),
        (
            lambda: costs.hjb()(on.Flow(on.fields.SecondOrder(3), "rk4", steps=1), (start().float(), None)),
            Incompatible,
            "FirstOrder offers no potential Phi",
        ),
        (lambda: on.Flow(on.fields.Descent(torch.Tensor.sin), steps=1)(start()), BadInput, "a potential gives one num"),
        (lambda: costs.running_cost(lambda t, x, theta, f: x)(linear(), (start(), None)), BadInput, "4 samples"),
        (lambda: costs.running_cost(lambda t, x, theta, f: 1.0)(linear(), (start(), None)), BadInput, "float"),
        (
            lambda: costs.kinetic()(on.Flow(on.fields.SecondOrder(3), "leapfrog", steps=2), (start().float(), None)),
            Incompatible,
            "'leapfrog' steps a field of second order",
        ),
    ],
)  # fmt: skip
def test_what_has_no_running_cost_is_told_in_a_sentence(make: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        make()
