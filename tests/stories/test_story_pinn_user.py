"""A PINN user: states an equation in one line, solves it, asks how accurate it is, keeps it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import odenet as on
from odenet import pde


def heat(**words: object) -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.5),
        lambda u: u.t - 0.1 * u.xx,
        [pde.initial(lambda x: torch.sin(math.pi * x)), pde.dirichlet(0.0)],
        exact=lambda x, t: torch.exp(-0.1 * math.pi**2 * t) * torch.sin(math.pi * x),
        **words,  # type: ignore[arg-type]
    )


def test_a_problem_of_ones_own_is_solved_and_says_how_accurate_it_is() -> None:
    sol = pde.solve(heat(), method="gauss_newton", seconds=60, steps=15, width=10, depth=2, points=300)
    x = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 0.5])
    truth = torch.exp(-0.1 * math.pi**2 * x[:, 1]) * torch.sin(math.pi * x[:, 0])
    error = float((sol.u(x)[:, 0] - truth).norm() / truth.norm())
    assert error < 1e-3
    assert sol.rel_l2 == pytest.approx(error, rel=0.5)
    assert sol.residual < 1e-2
    assert [h["seconds"] for h in sol.history] == sorted(h["seconds"] for h in sol.history)


def test_derivatives_of_the_solution_are_at_hand() -> None:
    sol = pde.solve(heat(), method="gauss_newton", seconds=60, steps=15, width=10, depth=2, points=300)
    x = torch.tensor([[0.3, 0.2], [0.7, 0.4]], dtype=torch.float64)
    h = 1e-4
    step = torch.tensor([h, 0.0], dtype=torch.float64)
    by_differences = (sol.u(x + step) - 2 * sol.u(x) + sol.u(x - step)) / h**2
    assert torch.allclose(sol.derivative(x, "xx"), by_differences, rtol=1e-6, atol=1e-6)


def test_a_saved_solution_gives_the_same_numbers(tmp_path: Path) -> None:
    sol = pde.solve(heat(), method="gauss_newton", seconds=60, steps=3, width=6, depth=2, points=100)
    sol.save(tmp_path / "heat")
    again = pde.load(tmp_path / "heat", problem=heat())
    x = torch.rand(50, 2, dtype=torch.float64)
    assert torch.equal(again.u(x), sol.u(x)) and again.history == sol.history and again.residual == sol.residual


def test_a_run_that_was_cut_goes_on_bit_identically(tmp_path: Path) -> None:
    words = {"method": "gauss_newton", "width": 6, "depth": 2, "points": 100, "seconds": 60.0, "track": False}
    whole = pde.solve(heat(), steps=8, **words)
    pde.solve(heat(), steps=5, folder=tmp_path, **words)
    rest = pde.solve(heat(), steps=8, folder=tmp_path, resume=True, **words)
    x = torch.rand(50, 2, dtype=torch.float64)
    assert torch.equal(rest.u(x), whole.u(x))


def test_a_net_of_the_zoo_is_the_model_of_a_pde() -> None:
    net = on.nets.antisymmetric(dim_in=2, dim_out=1, width=8, steps=3, seed=0).double()
    sol = pde.solve(heat(), method="gauss_newton", model=net, seconds=60, steps=12, points=200)
    assert sol.rel_l2 < 1e-2


def test_an_unknown_coefficient_is_found_with_its_uncertainty() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(60, 2, dtype=torch.float64, generator=g) * torch.tensor([1, 0.5])
    values = torch.exp(-0.1 * math.pi**2 * x[:, 1]) * torch.sin(math.pi * x[:, 0])
    values = values + 1e-3 * torch.randn(60, dtype=torch.float64, generator=g)
    problem = pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.5),
        lambda u, k: u.t - k * u.xx,
        [pde.initial(lambda x: torch.sin(math.pi * x)), pde.dirichlet(0.0), pde.data(x, values)],
        parameters={"k": 0.5},
    )
    sol = pde.solve(problem, method="gauss_newton", seconds=60, steps=25, width=10, depth=2, points=300)
    assert sol.parameters["k"] == pytest.approx(0.1, rel=1e-2)
    assert sol.covariance is not None and float(sol.covariance[0, 0]) ** 0.5 < 1e-2


def test_fit_learns_a_pde_as_it_learns_a_data_set() -> None:
    net = on.nets.resnet(dim_in=2, dim_out=1, width=12, steps=3, activation="tanh", seed=0).double()
    fit = on.fit(net, heat(), steps=30, lr=1e-2, batch=100)
    assert fit.history[-1]["loss"] < 0.5 * fit.history[0]["loss"] and "rel_l2" in fit.score
