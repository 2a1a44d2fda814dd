"""Controls of physical systems by differential dynamic programming, against dense linear algebra and Riccati."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy.linalg import solve_discrete_are
from torch import Tensor

from odenet.errors import BadInput, Incompatible
from odenet.train.control import Plan, ddp

N, D, M = 6, 3, 2


def hessian(f: Any) -> Any:
    return torch.func.jacrev(torch.func.jacrev(f))


def linear_quadratic() -> dict[str, Any]:
    """x' = A_n x + B_n u + c, costs x'Qx/2 + x'Su + u'Ru/2 + q.x, all of them with numbers of their own."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A, B, c, root = draw(N, D, D) / 2, draw(N, D, M), draw(D), draw(D + M, D + M)
    Z, q, end = root @ root.T + torch.eye(D + M, dtype=torch.float64), draw(D + M), draw(D)
    return {
        "dynamics": lambda x, u, w: w[0] @ x + w[1] @ u + c,
        "running": lambda x, u, w: torch.cat([x, u]) @ Z @ torch.cat([x, u]) / 2 + q @ torch.cat([x, u]),
        "final": lambda x: 2.0 * (x - end) @ (x - end),
        "given": (A, B),
        "start": draw(D),
        "controls": draw(N, M),
    }


def cost_of(problem: dict[str, Any], u: Tensor, start: Tensor, first: int = 0) -> Tensor:
    """J of the controls u (N - first, m) from the state `start` at step `first`: a loop of the definition."""
    x, total = start, start.new_zeros(())
    for n in range(first, N):
        total = total + problem["running"](x, u[n - first], None)
        x = problem["dynamics"](x, u[n - first], [w[n] for w in problem["given"]])
    return total + problem["final"](x)


@pytest.mark.parametrize("second", [True, False])
def test_one_iteration_solves_a_linear_problem_with_quadratic_costs(second: bool) -> None:
    """The minimum of a quadratic function of all controls at once, by its dense Hessian."""
    problem = linear_quadratic()
    plan = ddp(**problem, second=second, iterations=1)
    u = problem["controls"]
    flat = lambda v: cost_of(problem, v.view(N, M), problem["start"])  # noqa: E731
    H = hessian(flat)(u.flatten())
    best = u.flatten() - torch.linalg.solve(H, torch.func.grad(flat)(u.flatten()))
    torch.testing.assert_close(plan.controls.flatten(), best, rtol=1e-10, atol=1e-10)
    assert plan.costs[1] == pytest.approx(float(flat(best)), rel=1e-12) and len(plan.costs) == 2
    assert ddp(**problem, second=second).status == "converged"
    assert len(ddp(**problem, second=second).costs) == 2


def test_value_and_gains_are_those_of_the_best_cost_to_go() -> None:
    """V_x, V_xx: derivatives of min over the later controls, a dense quadratic problem for every start; K likewise."""
    problem = linear_quadratic()
    plan = ddp(**problem)
    for n in (0, 3, N - 1):
        later = plan.controls[n:].flatten()

        def best(x: Tensor, n: int = n, later: Tensor = later) -> Tensor:
            J = lambda v: cost_of(problem, v.view(-1, M), x, n)  # noqa: E731
            return later - torch.linalg.solve(hessian(J)(later), torch.func.grad(J)(later))

        def value(x: Tensor, n: int = n) -> Tensor:
            return cost_of(problem, best(x).view(-1, M), x, n)

        x = plan.states[n]
        torch.testing.assert_close(plan.slopes[n], torch.func.grad(value)(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(plan.curvatures[n], hessian(value)(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(plan.gains[n], torch.func.jacrev(best)(x)[:M], rtol=1e-9, atol=1e-9)


def test_the_double_integrator_gets_the_gain_of_the_riccati_equation() -> None:
    h, steps = 0.1, 150
    A, B = torch.tensor([[1.0, h], [0.0, 1.0]]).double(), torch.tensor([[h * h / 2], [h]]).double()
    plan = ddp(
        lambda x, u: A @ x + B @ u,
        lambda x, u: (x @ x + 0.1 * u @ u) / 2,
        lambda x: x.sum() * 0.0,
        torch.tensor([1.0, 0.0]).double(),
        torch.zeros(steps, 1).double(),
    )
    P = torch.from_numpy(
        solve_discrete_are(A.numpy(), B.numpy(), torch.eye(2).double().numpy(), 0.1 * torch.eye(1).double().numpy())
    )
    gain = -torch.linalg.solve(0.1 + B.T @ P @ B, B.T @ P @ A)
    torch.testing.assert_close(plan.gains[0], gain, rtol=1e-8, atol=1e-8)  # far from the end: the stationary one
    assert plan.status == "converged" and len(plan.costs) == 2
    assert plan.costs[-1] == pytest.approx(float(P[0, 0]) / 2, rel=1e-8)


H, STEPS = 0.125, 24


def swing(x: Tensor, u: Tensor) -> Tensor:
    """A step of rk4 for a pendulum whose angle counts from the top, so that it hangs at pi."""

    def f(x: Tensor) -> Tensor:
        return torch.stack([x[1], 9.81 * torch.sin(x[0]) + u[0]])

    a = f(x)
    b = f(x + H / 2 * a)
    c = f(x + H / 2 * b)
    return x + H / 6 * (a + 2 * b + 2 * c + f(x + H * c))


@pytest.fixture(scope="module")
def plans() -> dict[bool, Plan]:
    """With second derivatives of the dynamics, and without them."""
    torch.set_num_threads(1)
    start = torch.tensor([math.pi, 0.0], dtype=torch.float64)
    guess = torch.full((STEPS, 1), 0.1, dtype=torch.float64)
    costs = {"running": lambda x, u: 0.005 * H * u @ u, "final": lambda x: 50.0 * x @ x}
    return {
        second: ddp(swing, start=start, controls=guess, second=second, tolerance=tolerance, **costs)
        for second, tolerance in ((True, 1e-13), (False, 1e-4))
    }


@pytest.mark.parametrize("second", [True, False])
def test_a_pendulum_swings_up_with_a_weak_motor(plans: dict[bool, Plan], second: bool) -> None:
    plan = plans[second]
    assert plan.status == "converged" and plan.costs == sorted(plan.costs, reverse=True)
    assert float(plan.states[-1].abs().max()) < 0.01 and float(plan.states[0, 0]) == math.pi
    assert float(plan.controls.abs().max()) < 0.7 * 9.81  # it cannot be held level: it has to swing
    assert int((plan.states[1:, 1].sign() != plan.states[:-1, 1].sign()).sum()) >= 2  # and turns round on the way


def test_second_derivatives_of_the_dynamics_make_the_last_iterations_quadratic(plans: dict[bool, Plan]) -> None:
    def ratios(plan: Plan) -> list[float]:
        falls = [a - b for a, b in zip(plan.costs, plan.costs[1:])]
        return [b / a for a, b in itertools.pairwise(falls)]

    exact, gauss = ratios(plans[True]), ratios(plans[False])
    assert exact[-1] < 0.1 * exact[-2] < 0.02 and gauss[-1] > 0.5 * gauss[-2] > 0.01
    assert plans[False].costs[-1] == pytest.approx(plans[True].costs[-1], rel=1e-2)


def test_the_feedback_holds_the_pendulum_where_the_controls_alone_do_not(plans: dict[bool, Plan]) -> None:
    plan, ends = plans[True], []
    for feedback in (True, False):
        x = plan.states[0] + torch.tensor([0.05, -0.05], dtype=torch.float64)
        for n in range(STEPS):
            x = swing(x, plan.control(n, x) if feedback else plan.controls[n])
        ends.append(float(x.norm()))
    assert ends[0] < 0.1 < 0.3 < ends[1]


def test_the_gradient_of_the_cost_vanishes_at_the_plan() -> None:
    """By autograd through the whole trajectory, which knows nothing of the sweep."""
    g = torch.Generator().manual_seed(3)
    W = torch.randn(4, 4, generator=g, dtype=torch.float64)
    B = torch.randn(4, 2, generator=g, dtype=torch.float64)
    f = lambda x, u, t: x + 0.2 * torch.tanh(W @ x + B @ u + t)  # noqa: E731
    running = lambda x, u, t: 0.05 * (u @ u) + 0.01 * (x**4).sum()  # noqa: E731
    final = lambda x: ((x - 1.0) ** 2).sum()  # noqa: E731
    times = 0.1 * torch.arange(10, dtype=torch.float64)
    start = torch.randn(4, generator=g, dtype=torch.float64)
    plan = ddp(f, running, final, start, torch.zeros(10, 2).double(), given=times, tolerance=1e-15)
    u = plan.controls.clone().requires_grad_()
    x, total = start, torch.zeros(()).double()
    for n in range(10):
        total, x = total + running(x, u[n], times[n]), f(x, u[n], times[n])
    total = total + final(x)
    (slope,) = torch.autograd.grad(total, u)
    assert float(slope.abs().max()) < 1e-7
    assert plan.costs[-1] == pytest.approx(float(total.detach()), rel=1e-12)


def test_what_ddp_cannot_do_is_one_sentence() -> None:
    good = linear_quadratic()
    for change, error, sentence in (
        ({"controls": torch.zeros(3).double()}, BadInput, r"controls are \(N, m\)"),
        ({"controls": torch.zeros(N, M)}, BadInput, "one floating-point dtype"),
        ({"dynamics": lambda x, u, w: x[:2]}, BadInput, r"gives \(2,\) for a state \(3,\)"),
        ({"running": lambda x, u, w: x}, BadInput, r"running gives \(3,\) and final \(\)"),
        ({"given": torch.zeros(2)}, BadInput, r"given has \[2\] rows for 6 steps"),
        ({"iterations": 0}, BadInput, "one iteration or more"),
        ({"final": lambda x: x.sum() / 0.0}, BadInput, "a cost that is not finite"),
        ({"dynamics": lambda x, u, w: x * float(u[0])}, Incompatible, "cannot be differentiated by torch.func"),
    ):
        with pytest.raises(error, match=sentence):
            ddp(**{**good, **change})
