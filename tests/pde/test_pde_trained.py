"""Trained nets: Jacobians against vmap, complaints of PINN users that must not come up here, windows in time."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from odenet import pde
from odenet.errors import BadInput, Incompatible
from odenet.optimise.base import LeastSquares
from odenet.pde.ansatz import ansatz, hard, mlp
from odenet.pde.collocation import Collocation, blocks
from odenet.pde.methods import METHODS


def poisson(**words: object) -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 1),
        lambda u, x: u.xx + math.pi**2 * torch.sin(math.pi * x),
        pde.dirichlet(0.0),
        exact=lambda x: torch.sin(math.pi * x),
        **words,  # type: ignore[arg-type]
    )


def burgers(**words: object) -> pde.Problem:
    conditions = [pde.initial(lambda x: -torch.sin(math.pi * x), **words), pde.dirichlet(0.0, **words)]  # type: ignore[arg-type]
    return pde.Problem(pde.Interval(-1, 1) * pde.Time(0, 1), lambda u: u.t + u * u.x - 0.1 * u.xx, conditions)


def system_of(problem: pde.Problem, n: int = 12, wanted: bool | None = None) -> Collocation:
    model = ansatz(problem, width=4, depth=2, wanted=wanted, seed=3)
    return Collocation(model, blocks(problem, n, torch.Generator().manual_seed(0), met=model.hard.met))


def by_forward_mode(system: Collocation, theta: Tensor) -> Tensor:
    """The Jacobian column after column, by central differences of r with Richardson's extrapolation."""
    columns = []
    for k in range(len(theta)):
        found = []
        for h in (1e-3, 5e-4):
            e = torch.zeros_like(theta)
            e[k] = h
            found.append((system.residual(theta + e) - system.residual(theta - e)) / (2 * h))
        columns.append((4 * found[1] - found[0]) / 3)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("wanted", [None, False])
def test_jacobian_and_gradient_are_those_of_the_residual(wanted: bool | None) -> None:
    system = system_of(burgers(), wanted=wanted)
    theta = system.theta()
    pairs = list(system.blocks(theta))
    r, J = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
    assert torch.allclose(r, system.residual(theta), rtol=0, atol=1e-13)
    assert torch.allclose(J, by_forward_mode(system, theta), rtol=1e-8, atol=1e-8)
    pulled, gradient = system.pullback(theta)
    assert torch.allclose(pulled, r, rtol=0, atol=1e-13) and torch.allclose(gradient, J.T @ r, rtol=1e-10, atol=1e-12)


def test_rows_of_two_places_integrals_and_parameters_have_their_jacobian() -> None:
    problem = pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 1),
        lambda u, x, k: u.t - k * u.xx + pde.integral(lambda s: s * u.at(t=s), 0.0, 0.5, of=u, points=3),
        [
            pde.initial(lambda x: torch.sin(math.pi * x)), pde.periodic("x", hard=False),
            pde.integral_is(0.3, lambda u: u**2), pde.dirichlet(lambda t, k: k * t, on="left"),
            pde.data(torch.tensor([[0.2, 0.3], [0.4, 0.9]]), [0.1, 0.2]),
        ],
        parameters={"k": 0.7},
        allow_jumps=True,
    )  # fmt: skip
    system = system_of(problem, n=6)
    theta = system.theta()
    J = torch.cat([p[1] for p in system.blocks(theta)])
    assert torch.allclose(J, by_forward_mode(system, theta), rtol=1e-7, atol=1e-7)


def test_hard_conditions_hold_for_any_weights() -> None:
    problem = burgers()
    model = ansatz(problem, width=5, depth=2, seed=1)
    g = torch.Generator().manual_seed(2)
    x = torch.rand(50, 2, dtype=torch.float64, generator=g)
    start, edge = x.clone(), x.clone()
    start[:, 1], edge[:, 0] = 0.0, torch.where(x[:, 0] > 0.5, 1.0, -1.0)
    assert torch.allclose(model(start)[:, 0], -torch.sin(math.pi * start[:, 0]), rtol=0, atol=1e-15)
    assert torch.allclose(model(edge), torch.zeros(50, 1, dtype=torch.float64), rtol=0, atol=1e-15)
    assert len(hard(problem).met) == 2 and not hard(problem, wanted=False).met


def test_a_moving_boundary_value_and_a_velocity_are_met_exactly() -> None:
    problem = pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 1),
        lambda u: u.tt - u.xx,
        [
            pde.initial(lambda x: x**2),
            pde.initial(lambda x: 2 * x, order=1),
            pde.dirichlet(lambda t: t**2, on="left"),
            pde.dirichlet(lambda t: (1 + t) ** 2, on="right"),
        ],
    )
    model = ansatz(problem, width=5, depth=2, seed=1)
    assert len(model.hard.met) == 4
    t = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for place, value in ((0.0, t**2), (1.0, (1 + t) ** 2)):
        assert torch.allclose(model(torch.stack([torch.full_like(t, place), t], 1))[:, 0], value, rtol=0, atol=1e-14)
    x = torch.stack([t, torch.zeros_like(t)], 1).requires_grad_()
    u = model(x)[:, 0]
    assert torch.allclose(u, t**2, rtol=0, atol=1e-14)
    assert torch.allclose(torch.autograd.grad(u.sum(), x)[0][:, 1], 2 * t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gauss_newton", "ssbroyden", "ssbfgs", "lbfgs", "engd"])
def test_every_second_order_method_solves_a_small_problem(name: str) -> None:
    steps = 60 if name in ("gauss_newton", "engd") else 300
    sol = pde.solve(poisson(), method=name, seconds=60, steps=steps, width=8, depth=1, points=40, track=False)
    assert sol.rel_l2 is not None and sol.rel_l2 < 1e-4 and sol.method == name


@pytest.mark.parametrize("name", ["adam", "soap"])
def test_first_order_methods_lower_the_error(name: str) -> None:
    sol = pde.solve(poisson(), method=name, seconds=60, steps=300, width=8, depth=1, points=40, track=False,
                    options={"lr": 1e-2})  # fmt: skip
    assert sol.rel_l2 is not None and sol.rel_l2 < 0.05


def test_lbfgs_does_not_stop_after_a_step() -> None:
    sol = pde.solve(burgers(), method="lbfgs", seconds=60, steps=60, width=8, depth=2, points=100, track=False)
    assert len(sol.history) == 60 and sol.history[-1]["loss"] < 0.1 * sol.history[0]["loss"]


def test_float32_weights_are_refused_before_they_stall() -> None:
    with pytest.raises(BadInput, match=r"float32 weights.*model.double"):
        pde.solve(poisson(), method="gauss_newton", model=mlp(1, 1, 4, 1).float())


def test_an_unknown_boundary_value_is_found_because_nothing_about_it_is_cached() -> None:
    x = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    problem = pde.Problem(
        pde.Interval(0, 1),
        lambda u: u.xx,
        [pde.dirichlet(lambda b: b, on="left"), pde.dirichlet(1.0, on="right"), pde.data(x, 3 - 2 * x)],
        parameters={"b": 0.0},
    )
    sol = pde.solve(problem, method="gauss_newton", seconds=60, steps=40, width=6, depth=1, points=30, track=False)
    assert sol.parameters["b"] == pytest.approx(3.0, abs=1e-5)


def test_a_fit_that_holds_only_at_its_points_is_called_suspect() -> None:
    sol = pde.solve(poisson(), method="gauss_newton", seconds=60, steps=60, width=20, depth=2, points=5, track=False)
    assert sol.status == "suspect" and "times that of training" in sol.message


def test_points_are_added_where_the_residual_between_them_is_larger() -> None:
    words = {"width": 12, "depth": 2, "steps": 30, "track": False, "seconds": 60}
    few = pde.solve(burgers(), method="gauss_newton", overfit=1e-9, **words)
    assert few.settings["points"] == 1000 * 3 // 2 * 3 // 2 * 3 // 2


@pytest.mark.slow
def test_memory_does_not_grow_with_points() -> None:
    code = (
        "import resource, sys, torch; torch.set_num_threads(1)\n"
        "from odenet import pde\n"
        "words = {'points': int(sys.argv[1]), 'width': 20, 'steps': 2, 'seconds': 600, 'track': False}\n"
        "words['options'] = {'held': 0}\n"
        "pde.solve('burgers', method='gauss_newton', **words)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    small, large = (
        int(subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True, check=True).stdout)
        for n in ("4000", "40000")
    )
    whole_jacobian = 36_000 * 921 * 8 / 2**20
    assert large - small < 0.6 * whole_jacobian  # channels of features and points are kept, rows of J are not


def test_windows_start_where_the_one_before_ends() -> None:
    problem = pde.Problem(
        pde.Interval(0, 2 * math.pi) * pde.Time(0, 1),
        lambda u: u.t + 4 * u.x,
        [pde.initial(lambda x: torch.sin(x)), pde.periodic("x")],
        exact=lambda x, t: torch.sin(x - 4 * t),
    )
    words = {"of": "gauss_newton", "options": {"width": 8, "depth": 2, "points": 150, "steps": 25}}
    sol = pde.solve(problem, method="time_marching", windows=3, seconds=60, track=False, **words)
    assert sol.rel_l2 is not None and sol.rel_l2 < 2e-2
    x = torch.linspace(0, 6, 20, dtype=torch.float64)
    for edge in (1 / 3, 2 / 3):
        sides = [sol.u(torch.stack([x, torch.full_like(x, edge + e)], 1)) for e in (-1e-12, 1e-12)]
        assert torch.allclose(*sides, rtol=0, atol=1e-9)


def test_second_order_windows_carry_the_velocity(tmp_path: Path) -> None:
    problem = pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.5),
        lambda u: u.tt - u.xx,
        [pde.initial(lambda x: torch.sin(math.pi * x)), pde.initial(0.0, order=1), pde.dirichlet(0.0)],
        exact=lambda x, t: torch.sin(math.pi * x) * torch.cos(math.pi * t),
    )
    words = {"of": "gauss_newton", "options": {"width": 8, "depth": 2, "points": 150, "steps": 20}}
    sol = pde.solve(problem, method="time_marching", windows=2, seconds=60, track=False, **words)
    assert sol.rel_l2 is not None and sol.rel_l2 < 1e-2
    sol.save(tmp_path)
    x = torch.rand(9, 2, dtype=torch.float64) * 0.5
    assert torch.equal(pde.load(tmp_path, problem).u(x), sol.u(x))


def test_a_march_goes_on_from_its_last_window(tmp_path: Path) -> None:
    words = {"windows": 3, "options": {"width": 6, "depth": 1, "points": 60, "steps": 8}, "seconds": 60, "track": False}
    whole = pde.solve(burgers(), "time_marching", **words)
    half = pde.solve(burgers(), "time_marching", folder=tmp_path, progress=lambda row: row["window"] == 2, **words)
    assert half.status == "stopped"
    again = pde.solve(burgers(), "time_marching", folder=tmp_path, resume=True, **words)
    x = whole.problem.domain.sample(20, torch.Generator().manual_seed(0), "uniform")
    assert torch.equal(again.u(x), whole.u(x)) and not torch.equal(half.u(x), whole.u(x))


def test_a_schedule_of_learning_rates_follows_the_share_that_is_done() -> None:
    words = {"schedule": "exponential", "final": 1e-3}
    net = {"width": 4, "depth": 1, "points": 20, "steps": 6, "overfit": 1e9, "track": False}
    found = pde.solve(poisson(), "adam", 60, options=words, **net)
    wanted = pde.solve(poisson(), "adam", 60, options={**words, "length": 6}, **net)
    plain = pde.solve(poisson(), "adam", 60, **net)
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    assert torch.equal(found.u(x), wanted.u(x)) and not torch.equal(found.u(x), plain.u(x))


def test_marching_needs_time() -> None:
    with pytest.raises(Incompatible, match="marches in time"):
        pde.solve(poisson(), method="time_marching")


def test_every_method_says_when_to_choose_it() -> None:
    for name in METHODS.names():
        assert len(str(METHODS.get(name).when)) > 20, name  # type: ignore[attr-defined]


def test_a_residual_is_least_squares_for_the_optimisers() -> None:
    assert isinstance(system_of(poisson()), LeastSquares)


@pytest.mark.slow
def test_the_stated_deviation_is_that_of_repeated_measurements() -> None:
    x = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.5])
    clean = torch.exp(-0.1 * math.pi**2 * x[:, 1]) * torch.sin(math.pi * x[:, 0])
    found, stated = [], []
    for seed in range(24):
        noise = 0.01 * torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))
        problem = pde.Problem(
            pde.Interval(0, 1) * pde.Time(0, 0.5),
            lambda u, k: u.t - k * u.xx,
            [pde.initial(lambda x: torch.sin(math.pi * x)), pde.dirichlet(0.0), pde.data(x, clean + noise)],
            parameters={"k": 0.2},
        )
        sol = pde.solve(problem, method="gauss_newton", seconds=60, steps=15, width=8, depth=2, points=200, track=False)
        assert sol.covariance is not None
        found.append(sol.parameters["k"])
        stated.append(float(sol.covariance[0, 0]) ** 0.5)
    scatter = float(torch.tensor(found).std())
    assert 0.6 < scatter / float(torch.tensor(stated).median()) < 1.6  # 24 draws know a deviation to 15 %
    assert abs(float(torch.tensor(found).mean()) - 0.1) < 3 * scatter / 24**0.5


def test_the_automatic_choice_turns_to_a_net_where_features_do_not_trust_themselves() -> None:
    problem = pde.Problem(
        pde.Time(0, 2),
        (lambda x, y: x.t - y, lambda x, y: y.t + x),
        [pde.initial(1.0, "x"), pde.initial(0.0, "y")],
        unknowns=("x", "y"),
        exact=lambda t: (torch.cos(t), -torch.sin(t)),
    )
    sure = pde.solve(problem, seconds=20, track=False)
    assert sure.method == "random_features" and sure.rel_l2 is not None and sure.rel_l2 < 1e-6
    doubted = pde.solve("eikonal", seconds=4, track=False)
    assert "ended 'suspect'" in doubted.message and "took the rest of the time" in doubted.message
    assert doubted.residual < 0.5
