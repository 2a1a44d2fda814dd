"""A control engineer trains feedback through the solver: the same flows, running costs and `fit` as for a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor, nn

import odenet as on
from odenet.train import costs


def nothing(out: Tensor, y: Tensor) -> Tensor:
    """No terminal loss."""
    return 0.0 * out.sum()


class Rocket(nn.Module):
    """x'' = u under u = -K (x, x')."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.gain = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.gain.weight.copy_(torch.tensor([start]))

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat((y[:, 1:], -self.gain(y)), 1)


def test_a_learned_linear_feedback_of_the_double_integrator_is_the_riccati_gain(double: None) -> None:
    rocket, x = Rocket((0.5, 1.0)), torch.eye(2)
    flow = on.Flow(rocket, "dopri5", depth="shared", span=(0.0, 9.0), steps=30, substeps=1)
    cost = costs.running_cost(lambda t, x, theta, f: x.square().sum(1) + rocket.gain(x).square().sum(1))
    fit = on.fit(flow, (x, x), "lbfgs", steps=9, lr=1.0, loss=nothing, penalty=cost, holdout=0.0)
    A, B = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]])
    P = scipy.linalg.solve_continuous_are(A, B, np.eye(2), np.eye(1))
    np.testing.assert_allclose(rocket.gain.weight.detach().numpy(), B.T @ P, atol=1e-3)
    assert fit.history[-1]["loss"] == pytest.approx(np.trace(P) / 2, rel=1e-3)  # the mean of x^T P x


class Swing(nn.Module):
    """q'' = -sin q + u, |u| <= bound by a tanh, u a small net of (cos q, sin q, q')."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound, self.net = bound, nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def u(self, y: Tensor) -> Tensor:
        q, v = y.split(1, 1)
        return self.bound * torch.tanh(self.net(torch.cat((q.cos(), q.sin(), v), 1)))

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat((y[:, 1:], self.u(y) - y[:, :1].sin()), 1)


@pytest.mark.slow
def test_a_pendulum_swings_up_under_a_bounded_neural_feedback(double: None) -> None:
    torch.manual_seed(0)
    swing, x = Swing(2.0), torch.tensor([[0.0, 0.0], [0.2, 0.0], [-0.2, 0.0]])
    flow = on.Flow(swing, "rk4", depth="shared", span=(0.0, 5.0), steps=25)

    def running(t: Any, x: Tensor, theta: Any, f: Any) -> Tensor:
        return 0.01 * swing.u(x).square().sum(1) + 0.05 * (1 + x[:, 0].cos())

    def upright(out: Tensor, y: Tensor) -> Tensor:
        return (1 + out[:, 0].cos() + 0.5 * out[:, 1].square()).mean()

    words: dict[str, Any] = {"loss": upright, "penalty": costs.running_cost(running), "holdout": 0.0, "clip": 1.0}
    on.fit(flow, (x, x), steps=120, lr=0.03, schedule="cosine", **words)
    with torch.no_grad():  # judged by an adaptive solver, not by the steps it was trained on
        sol = on.solve(swing, x, torch.linspace(0.0, 5.0, 51), "dopri5", rtol=1e-8, atol=1e-10)
        assert float((sol.y[-1, :, 0].abs() - math.pi).abs().max()) < 0.1
        assert float(sol.y[-1, :, 1].abs().max()) < 0.2
        assert max(float(swing.u(y).abs().max()) for y in sol.y) <= 2.0


class Fishing(nn.Module):
    """q1' = q1 (1 - q2 - 0.4 u), q2' = q2 (q1 - 1 - 0.2 u), 0 <= u <= 1; u a sigmoid of a small net of (q1, q2)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def u(self, y: Tensor) -> Tensor:
        return torch.sigmoid(self.net(y - 1.0))

    def forward(self, y: Tensor) -> Tensor:
        return caught(y, self.u(y))


def caught(y: Tensor, u: Tensor) -> Tensor:
    q1, q2 = y.split(1, 1)
    return torch.cat((q1 * (1 - q2 - 0.4 * u), q2 * (q1 - 1 - 0.2 * u)), 1)


def deviation(t: Any, x: Tensor, theta: Any, f: Any) -> Tensor:
    """Both populations should be 1."""
    return (x - 1).square().sum(1)


def open_loop(x: Tensor, pieces: int, span: tuple[float, float]) -> float:
    """The least cost of piecewise constant u in [0, 1], by scipy; the depth of a flow is the time of the control."""
    flow = on.Flow(Held(), "rk4", depth="per_step", span=span, steps=pieces, substeps=2)
    (u,) = flow.parameters()

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            u.copy_(torch.from_numpy(values))
        total = costs.running_cost(deviation)(flow, (x, None)) + (flow(x) - 1).square().sum()
        (slope,) = torch.autograd.grad(total, u)
        return float(total.detach()), slope.numpy().copy()

    found = scipy.optimize.minimize(
        cost, np.full(pieces, 0.3), jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * pieces, options={"maxiter": 60}
    )
    return float(found.fun)


class Held(on.fields.Field):
    """The fish under a control that is constant in every knot interval."""

    def init(self, generator: Any = None) -> dict[str, Tensor]:
        return {"u": torch.full((), 0.3)}

    def forward(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return caught(y, p["u"])


@pytest.mark.slow
def test_harvesting_by_feedback_comes_close_to_the_best_open_loop(double: None) -> None:
    """The fishing problem of Sager 2006: terminal and running cost from (0.5, 0.7) over 12 units of time."""
    torch.manual_seed(0)
    x, span = torch.tensor([[0.5, 0.7]]), (0.0, 12.0)
    fishing = Fishing()
    flow = on.Flow(fishing, "rk4", depth="shared", span=span, steps=48)
    cost = costs.running_cost(deviation)

    def settled(out: Tensor, y: Tensor) -> Tensor:
        return (out - 1).square().sum()

    fit = on.fit(flow, (x, x), "lbfgs", steps=20, lr=1.0, loss=settled, penalty=cost, holdout=0.0)
    feedback = fit.history[-1]["loss"]
    best = open_loop(x, 24, span)
    free = on.Flow(on.fields.wrap(lambda y: caught(y, torch.zeros(1, 1))), "rk4", span=span, steps=48)
    nothing_done = float(cost(free, (x, None)) + (free(x) - 1).square().sum())
    assert feedback == pytest.approx(best, rel=0.01) and feedback < 0.25 * nothing_done
