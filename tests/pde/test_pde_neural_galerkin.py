"""Neural Galerkin: the equation of the weights against one written by hand, closed forms, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odenet import pde
from odenet.errors import Incompatible, SolveFailed
from odenet.pde.methods.neural_galerkin import Dynamics, InitialFit, Moving, Trajectory

REAL, PI = torch.float64, math.pi
WORDS = {"width": 6, "depth": 1, "act": "tanh", "seed": 0}


def faded(speed: float = 1.0, nu: float = 0.1) -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 2 * PI) * pde.Time(0, 0.5),
        lambda u: 2 * u.t + 2 * speed * u.x - 2 * nu * u.xx,
        [pde.initial(lambda x: torch.sin(x) + 0.2), pde.periodic("x")],
        exact=lambda x, t: torch.exp(-nu * t) * torch.sin(x - speed * t) + 0.2,
    )


def rising() -> pde.Problem:
    """u = sin(pi x) exp(-pi^2 t / 10) + x + t^2 / 2: an end that moves, a source that varies in time."""
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.5),
        lambda u, t: u.t - u.xx / 10 - t,
        [
            pde.initial(lambda x: torch.sin(PI * x) + x),
            pde.dirichlet(lambda t: t**2 / 2, on="left"),
            pde.dirichlet(lambda t: 1 + t**2 / 2, on="right"),
        ],
        exact=lambda x, t: torch.sin(PI * x) * torch.exp(-(PI**2) * t / 10) + x + t**2 / 2,
    )


def system() -> pde.Problem:
    """u_t = v, v_t = -u, coupled in the mass matrix: (u, v) = (sin, cos)(x + t)."""
    return pde.Problem(
        pde.Interval(0, 2 * PI) * pde.Time(0, 0.3),
        lambda u, v: (u.t + 3 * v.t - v + 3 * u, v.t + u),
        [
            pde.initial(lambda x: torch.sin(x), unknown="u"),
            pde.initial(lambda x: torch.cos(x), unknown="v"),
            pde.periodic("x"),
        ],
        unknowns=("u", "v"),
        exact=lambda x, t: (torch.sin(x + t), torch.cos(x + t)),
    )


def solved(problem: pde.Problem, **words: Any) -> pde.Solution:
    words = {"width": 8, "depth": 1, "points": 80, **words}
    return pde.solve(problem, method="neural_galerkin", seconds=60, track=False, **words)


def error(sol: pde.Solution) -> float:
    x = sol.problem.domain.sample(300, torch.Generator().manual_seed(5))
    truth = sol.problem.truth(x)
    assert truth is not None
    return float((sol.u(x) - truth).norm() / truth.norm())


def net_of_waves(problem: pde.Problem) -> Moving:
    """u = a cos x + b sin x + c: linear in its weights."""
    model = Moving(problem, "mlp", WORDS, 1)
    model.trunk = nn.Linear(2, 1).double()
    model.weights = list(model.trunk.parameters())
    return model


def test_a_net_that_is_linear_in_its_weights_obeys_the_equations_written_by_hand() -> None:
    dynamics = Dynamics(net_of_waves(faded(speed=3.0, nu=0.25)), torch.linspace(0, 6, 20, dtype=REAL)[:, None], 1e-12)
    a, b, c = 0.3, -0.7, 0.4
    found = dynamics(0.0, torch.tensor([a, b, c], dtype=REAL))
    # a cos x + b sin x: u_x = -a sin x + b cos x, u_xx = -(a cos x + b sin x)
    by_hand = torch.tensor([-3 * b - 0.25 * a, 3 * a - 0.25 * b, 0.0], dtype=REAL)
    assert torch.allclose(found, by_hand, rtol=0, atol=1e-13) and dynamics.gap < 1e-12


def test_the_initial_state_of_a_linear_net_is_found_in_closed_form() -> None:
    sol = solved(faded(), width=6, fit=200)
    x = torch.linspace(0, 6, 30, dtype=REAL)
    start = sol.u(torch.stack([x, torch.zeros_like(x)], 1))[:, 0]
    assert float((start - torch.sin(x) - 0.2).abs().max()) < 1e-5
    fit = InitialFit(net_of_waves(faded()), torch.linspace(0, 6, 20, dtype=REAL)[:, None])
    r = fit.residual(torch.tensor([0.0, 1.0, 0.2], dtype=REAL))
    assert float(r.abs().max()) < 1e-15


@pytest.mark.parametrize("maker", [rising, system])
def test_the_jacobian_of_one_pass_is_that_of_differences(maker: Any) -> None:
    model = Moving(maker(), "mlp", WORDS, 1)
    x, t = torch.linspace(0.1, 0.9, 7, dtype=REAL)[:, None], 0.2
    dynamics, theta = Dynamics(model, x, 1e-10), model.theta()
    J, _ = dynamics.system(t, theta)
    where = torch.cat([x, torch.full_like(x, t)], 1)
    field = Trajectory(model, torch.tensor([0.0, 1.0], dtype=REAL), torch.stack([theta, theta]))

    def u(weights: Tensor) -> Tensor:
        field.theta = torch.stack([weights, weights])
        return field.jet(where, [(0, 0)])[0].flatten()

    for k in range(0, len(theta), 5):
        e = torch.zeros_like(theta)
        e[k] = 1e-5
        assert torch.allclose(J[:, k], (u(theta + e) - u(theta - e)) / 2e-5, rtol=1e-6, atol=1e-9)


def test_what_the_weights_are_to_give_is_n_without_the_motion_of_the_ends() -> None:
    """u = g + d N with g_t = t: d N is to give u_xx / 10 + t - t."""
    model = Moving(rising(), "mlp", WORDS, 1)
    x, t = torch.linspace(0.1, 0.9, 7, dtype=REAL)[:, None], 0.2
    _, wanted = Dynamics(model, x, 1e-10).system(t, model.theta())
    field = Trajectory(model, torch.tensor([0.0, 1.0], dtype=REAL), torch.stack([model.theta(), model.theta()]))
    u_xx, u_t = field.jet(torch.cat([x, torch.full_like(x, t)], 1), [(2, 0), (0, 1)])[..., 0]
    assert torch.allclose(wanted, u_xx / 10, rtol=0, atol=1e-12)
    assert torch.allclose(u_t, torch.full_like(u_t, t), rtol=0, atol=1e-12)  # still weights: the ends alone move


@pytest.mark.parametrize(
    ("maker", "words", "bound"),
    [
        (faded, {}, 1e-4),
        (faded, {"integrator": "rk4", "steps": 10}, 1e-4),
        (faded, {"integrator": "ab3", "steps": 20}, 1e-3),
        (rising, {"width": 5, "points": 30, "tolerance": 1e-3, "cutoff": 1e-4}, 5e-3),
        (system, {"integrator": "heun", "steps": 10}, 1e-3),
    ],
)
def test_solutions_are_those_of_closed_forms(maker: Any, words: dict[str, Any], bound: float) -> None:
    sol = solved(maker(), **words)
    assert error(sol) < bound and sol.status == "completed"


def test_the_residual_sees_derivatives_in_time_and_a_saved_solution_is_the_same(tmp_path: Path) -> None:
    sol = solved(faded(), integrator="rk4", steps=8)
    assert sol.residual < 1e-3
    sol.save(tmp_path)
    x = torch.rand(9, 2, dtype=REAL)
    again = pde.load(tmp_path, faded())
    assert torch.equal(again.u(x), sol.u(x)) and torch.equal(again.derivative(x, "xt"), sol.derivative(x, "xt"))


def test_a_net_that_cannot_follow_is_called_suspect() -> None:
    problem = pde.Problem(
        pde.Interval(0, 2 * PI) * pde.Time(0, 0.1),
        lambda u: u.t + u.x,
        [pde.initial(lambda x: torch.sin(4 * x)), pde.periodic("x")],
    )
    sol = solved(problem, width=1, integrator="rk4", steps=4, fit=20)
    assert sol.status == "suspect" and "misses the initial state" in sol.message


def test_a_budget_that_ends_before_the_time_does_raises() -> None:
    with pytest.raises(SolveFailed, match="budget"):
        pde.solve(rising(), method="neural_galerkin", seconds=1e-6, track=False, width=4, depth=1, points=20)


@pytest.mark.parametrize(
    ("residual", "conditions", "words", "sentence"),
    [
        (lambda u: u.tt - u.xx, [pde.initial(0.0), pde.initial(0.0, order=1), pde.dirichlet(0.0)], {}, "order one"),
        (lambda u: u.t - u.xx, [pde.initial(0.0), pde.neumann(0.0)], {}, "cannot be met by construction"),
        (lambda u: u.t - u.xx, [pde.initial(0.0), pde.dirichlet(0.0)], {"integrator": "radau_iia5"}, "explicit"),
        (lambda u: u.t - u.xx, [pde.initial(0.0), pde.dirichlet(0.0)], {"integrator": "verlet"}, "explicit"),
    ],
)
def test_other_problems_are_refused_in_a_sentence(
    residual: Any, conditions: list[pde.Condition], words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Incompatible, match=sentence):
        solved(pde.Problem(pde.Interval(0, 1) * pde.Time(0, 1), residual, conditions), **words)
