"""Discrete-time nets: tableaux of any size, stages against a scalar Runge-Kutta step, Jacobians, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from odenet import integrators, pde
from odenet.errors import Incompatible
from odenet.pde.methods.discrete_time import DiscreteTime, StageEquations
from odenet.pde.methods.tableaux import gauss, lagrange, stages

REAL, PI = torch.float64, math.pi


def heat(kappa: float = 0.25) -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 1),
        lambda u: u.t - kappa * u.xx,
        [pde.initial(lambda x: torch.sin(PI * x)), pde.dirichlet(0.0)],
        exact=lambda x, t: torch.exp(-kappa * PI**2 * t) * torch.sin(PI * x),
    )


def reaction() -> pde.Problem:
    """A system with a time-dependent term and coefficients of u_t that are not one."""
    return pde.Problem(
        pde.Interval(0, 2 * PI) * pde.Time(0, 0.5),
        lambda u, v, x, t: (2 * u.t + v.t - u.xx + t * v**2, v.t - 0.5 * v.x + u * v + torch.sin(x)),
        [
            pde.initial(lambda x: torch.sin(x), unknown="u"),
            pde.initial(lambda x: torch.cos(x), unknown="v"),
            pde.periodic("x"),
        ],
        unknowns=("u", "v"),
    )


def solved(problem: pde.Problem, **words: Any) -> pde.Solution:
    return pde.solve(problem, method="discrete_irk", seconds=60, track=False, **words)


def error(sol: pde.Solution) -> float:
    x = sol.problem.domain.sample(300, torch.Generator().manual_seed(5))
    truth = sol.problem.truth(x)
    assert truth is not None
    return float((sol.u(x) - truth).norm() / truth.norm())


@pytest.mark.parametrize(("name", "q"), [("gauss4", 2), ("gauss6", 3)])
def test_gauss_tableaux_are_those_of_the_registry(name: str, q: int) -> None:
    data = integrators.get(name).tableau  # type: ignore[attr-defined]
    made = gauss(q)
    for row, given in zip(made.A.tolist(), data.matrix):
        assert row == pytest.approx([float(v) for v in given], abs=1e-14)
    assert made.b.tolist() == pytest.approx([float(v) for v in data.weights], abs=1e-14)
    assert made.c.tolist() == pytest.approx([float(v) for v in data.nodes], abs=1e-14)
    assert torch.equal(stages(name, 0).A, torch.tensor([[float(v) for v in r] for r in data.matrix], dtype=REAL))


@pytest.mark.parametrize("q", [1, 5, 20, 100])
def test_gauss_tableaux_of_any_size_meet_the_simplifying_conditions(q: int) -> None:
    rule = gauss(q)
    for k in range(1, q + 1):
        assert float((rule.A @ rule.c ** (k - 1) - rule.c**k / k).abs().max()) < 5e-15
    for k in range(1, 2 * q + 1):
        assert float(rule.b @ rule.c ** (k - 1)) == pytest.approx(1 / k, abs=1e-14)
    if q < 100:
        outside = float(rule.b @ rule.c ** (2 * q)) - 1 / (2 * q + 1)
        assert outside < -((4.0**-2) ** q) / 100  # order 2 q and no more


def test_polynomials_through_the_stages_have_their_derivatives() -> None:
    nodes = gauss(30).times()
    t = torch.rand(20, dtype=REAL, generator=torch.Generator().manual_seed(0))
    for order, truth in ((0, torch.sin(5 * t)), (1, 5 * torch.cos(5 * t)), (2, -25 * torch.sin(5 * t))):
        assert float((lagrange(nodes, t, order) @ torch.sin(5 * nodes) - truth).abs().max()) < 1e-12 * 100**order


@pytest.mark.parametrize(("tableau", "q"), [("gauss", 3), ("radau_iia5", 0), ("sdirk2", 0)])
def test_stages_are_those_of_the_scalar_step_on_an_eigenfunction(tableau: str, q: int) -> None:
    sol = solved(heat(), tableau=tableau, stages=q, width=8, depth=1, iterations=40, points=40)
    rule = stages(tableau, q)
    z = -0.25 * PI**2
    U = torch.linalg.solve(torch.eye(len(rule.c), dtype=REAL) - z * rule.A, torch.ones(len(rule.c), dtype=REAL))
    end = 1 + z * float(rule.b @ U)
    x = torch.linspace(0, 1, 11, dtype=REAL)
    for time, factor in [*zip(rule.c.tolist(), U.tolist()), (1.0, end)]:
        found = sol.u(torch.stack([x, torch.full_like(x, time)], 1))[:, 0]
        assert float((found - factor * torch.sin(PI * x)).abs().max()) < 2e-5


def test_a_step_solves_burgers_equation_against_its_reference() -> None:
    problem = pde.Problem(
        pde.Interval(-1, 1) * pde.Time(0, 0.25),
        lambda u: u.t + u * u.x - 0.2 * u.xx,
        [
            pde.initial(lambda x: 1 - torch.tanh(2.5 * x)),
            pde.dirichlet(lambda t: 1 - torch.tanh(2.5 * (-1 - t)), on="left"),
            pde.dirichlet(lambda t: 1 - torch.tanh(2.5 * (1 - t)), on="right"),
        ],
        exact=lambda x, t: 1 - torch.tanh(2.5 * (x - t)),
    )
    sol = solved(problem, stages=5, width=8, depth=1, iterations=30, points=40)
    assert error(sol) < 2e-4 and sol.residual < 2e-3


def test_a_system_coupled_in_its_time_derivatives_is_solved() -> None:
    problem = pde.Problem(
        pde.Interval(0, 2 * PI) * pde.Time(0, 0.5),
        lambda u, v: (u.t + 3 * v.t - v + 3 * u, v.t + u),
        [
            pde.initial(lambda x: torch.sin(x), unknown="u"),
            pde.initial(lambda x: torch.cos(x), unknown="v"),
            pde.periodic("x"),
        ],
        unknowns=("u", "v"),
        exact=lambda x, t: (torch.sin(x + t), torch.cos(x + t)),
    )
    sol = solved(problem, stages=3, width=6, depth=1, iterations=20, points=20, harmonics=1)
    assert error(sol) < 1e-3


def test_two_steps_go_on_where_one_ended_and_are_restored(tmp_path: Path) -> None:
    sol = solved(heat(), stages=3, steps=2, width=6, depth=1, iterations=15, points=20)
    assert error(sol) < 1e-3
    x = torch.linspace(0.05, 0.95, 9, dtype=REAL)
    sides = [sol.u(torch.stack([x, torch.full_like(x, 0.5 + e)], 1)) for e in (-1e-13, 1e-13)]
    assert torch.allclose(*sides, rtol=0, atol=1e-10)
    sol.save(tmp_path)
    p = torch.rand(9, 2, dtype=REAL)
    again = pde.load(tmp_path, heat())
    assert torch.equal(again.u(p), sol.u(p)) and torch.equal(again.derivative(p, "xt"), sol.derivative(p, "xt"))


def test_derivatives_in_time_are_those_of_the_polynomial() -> None:
    sol = solved(heat(), stages=4, width=6, depth=1, iterations=3, points=20)
    p = 0.1 + 0.8 * torch.rand(20, 2, dtype=REAL, generator=torch.Generator().manual_seed(0))
    h = torch.tensor([0.0, 1e-4], dtype=REAL)
    slope = (sol.u(p + h) - sol.u(p - h)) / 2e-4
    assert torch.allclose(sol.derivative(p, "t"), slope, rtol=1e-6, atol=1e-7)


def test_the_jacobian_is_that_of_the_rows_for_systems_with_time_in_them() -> None:
    net = DiscreteTime(stages=2, width=4, depth=1, harmonics=1)._net(reaction(), 0)
    system = StageEquations(net, torch.linspace(0.1, 6, 5, dtype=REAL)[:, None])
    theta = system.theta()
    pairs = list(system.blocks(theta))
    r, J = pairs[0]
    assert torch.equal(r, system.residual(theta)) and r.shape == (5 * 3 * 2,)
    for k in range(0, system.size, 7):
        e = torch.zeros(system.size, dtype=REAL)
        e[k] = 1e-5
        slope = (system.residual(theta + e) - system.residual(theta - e)) / 2e-5
        assert torch.allclose(J[:, k], slope, rtol=1e-6, atol=1e-9)


def test_rows_vanish_on_a_step_written_by_hand() -> None:
    """Backward Euler's stage of u_t = u_xx / 4 + u: (1 - h (1 - pi^2 / 4)) U = u_0 on sin(pi x)."""
    problem = pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.4),
        lambda u: 3 * (u.t - u.xx / 4 - u),
        [pde.initial(lambda x: torch.sin(PI * x)), pde.dirichlet(0.0)],
    )
    sol = solved(problem, tableau="backward_euler", width=8, depth=1, iterations=40, points=40)
    x = torch.linspace(0, 1, 11, dtype=REAL)
    found = sol.u(torch.stack([x, torch.full_like(x, 0.4)], 1))[:, 0]
    assert float((found - torch.sin(PI * x) / (1 - 0.4 * (1 - PI**2 / 4))).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("residual", "conditions", "words", "sentence"),
    [
        (lambda u: u.tt - u.xx, [pde.initial(0.0), pde.initial(0.0, order=1), pde.dirichlet(0.0)], {}, "order one"),
        (lambda u: u.t - u.xx, [pde.initial(0.0), pde.neumann(0.0)], {}, "cannot be met by construction"),
        (lambda u: (1 + u**2) * u.t - u.xx, [pde.initial(0.0), pde.dirichlet(0.0)], {}, "changes with the solution"),
        (lambda u: u.t - u.xx, [pde.initial(0.0), pde.dirichlet(0.0)], {"tableau": "bdf3"}, "no Runge-Kutta method"),
    ],
)
def test_other_problems_are_refused_in_a_sentence(
    residual: Any, conditions: list[pde.Condition], words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Incompatible, match=sentence):
        solved(pde.Problem(pde.Interval(0, 1) * pde.Time(0, 1), residual, conditions), **words)
