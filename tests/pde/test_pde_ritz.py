"""Energies: Euler-Lagrange equations, deep Ritz against closed forms, and the presets deep Galerkin and Lagaris."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from odenet import pde
from odenet.errors import BadInput, Incompatible
from odenet.optimise.base import Objective
from odenet.pde.ansatz import ansatz
from odenet.pde.energies import energy
from odenet.pde.methods.ritz import DeepRitz, Energy

PI = math.pi


def source(x: Any, y: Any) -> Any:
    return 2 * PI**2 * torch.sin(PI * x) * torch.sin(PI * y)


def poisson(**words: Any) -> pde.Problem:
    words = {"energy": lambda u, x, y: 0.5 * (u.x**2 + u.y**2) - source(x, y) * u, **words}
    return pde.Problem(
        pde.Box([0, 0], [1, 1]),
        lambda u, x, y: u.xx + u.yy + source(x, y),
        pde.dirichlet(0.0),
        exact=lambda x, y: torch.sin(PI * x) * torch.sin(PI * y),
        **words,
    )


def line(residual: Any, density: Any, **words: Any) -> pde.Problem:
    return pde.Problem(pde.Interval(0, 1), residual, pde.dirichlet(0.0), energy=density, **words)


def by_autograd(f: Any, x: Tensor, channels: Any) -> Tensor:
    """(C, N, 1): derivatives of a function of the columns."""
    columns = [c.clone().requires_grad_() for c in x.unbind(1)]
    rows = []
    with torch.enable_grad():
        for index in channels:
            v = f(*columns)
            for axis, times in enumerate(index):
                for _ in range(times):
                    (v,) = torch.autograd.grad(v.sum(), columns[axis], create_graph=True)
            rows.append(v.detach()[:, None])
    return torch.stack(rows)


# ---- energies --------------------------------------------------------------------------------------------------------


def test_the_energy_of_the_exact_solution_is_the_closed_form() -> None:
    problem = poisson()
    exact = problem.exact
    assert exact is not None
    found = energy(problem, lambda x, channels: by_autograd(exact, x, channels), 400)
    assert found == pytest.approx(-(PI**2) / 4, rel=1e-12)  # minus half the Dirichlet integral pi^2 / 2


ENERGIES: list[tuple[str, Any, Any]] = [
    ("linear", lambda u, x: u.xx + torch.exp(x), lambda u, x: 0.5 * u.x**2 - torch.exp(x) * u),
    ("variable", lambda u, x: ((1 + x * x) * u.x).x + x, lambda u, x: 0.5 * (1 + x * x) * u.x**2 - x * u),
    ("cubic", lambda u: 2 * u.xx - 2 * u**3 + 2 * u, lambda u: 0.5 * u.x**2 + 0.25 * (u**2 - 1) ** 2),
    ("beam", lambda u, x: u.xxxx - torch.sin(x), lambda u, x: 0.5 * u.xx**2 - torch.sin(x) * u),
    ("surface", lambda u: (u.x / torch.sqrt(1 + u.x**2)).x + 1, lambda u: torch.sqrt(1 + u.x**2) - u),
]


@pytest.mark.parametrize(("name", "residual", "density"), ENERGIES, ids=[e[0] for e in ENERGIES])
def test_the_slope_of_the_energy_is_the_residual(name: str, residual: Any, density: Any) -> None:
    """d/de E(u + e v) = c * integral of r(u) v for every u, and v that vanishes with its slope at the ends."""
    problem = line(residual, density)
    x, w = problem.domain.quadrature(60)
    (rows,) = problem.traced[0][1:]
    ratios = []
    for k in (1.0, 2.0):
        u = lambda x, k=k: torch.sin(k * x + 0.3) + 0.2 * x * x  # noqa: E731
        v = lambda x, k=k: (x * (1 - x)) ** 4 * torch.cos(3 * k * x)  # noqa: E731
        h = 1e-3

        def shifted(e: float, u: Any = u, v: Any = v) -> float:
            return energy(problem, lambda x, c: by_autograd(lambda s: u(s) + e * v(s), x, c), 60)

        slope = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h)
        b = pde.collocation.Block("equation", rows, x)
        r = b.residual(b.values(by_autograd(u, x, b.channels), ("u",)), {})[:, 0]
        ratios.append(slope / float(w @ (r * v(x[:, 0]))))
    expected = {"linear": -1.0, "variable": -1.0, "cubic": -0.5, "beam": 1.0, "surface": -1.0}[name]
    assert ratios == pytest.approx([expected, expected], rel=1e-6)


@pytest.mark.parametrize(
    ("density", "words"),
    [
        (lambda u, x: u.x**2 - torch.exp(x) * u, "another equation"),
        (lambda u, x: 0.5 * u.x**2 + torch.exp(x) * u, "another equation"),
        (lambda u, x: 0.5 * u.x**2 - x * u, "another equation"),
        (lambda u, x: torch.exp(x) * u - 0.5 * u.x**2, "no minimum"),
        (lambda u, x: (u.x**2, u), "one density"),
        (lambda u, x: x**2, "no unknown"),
        (lambda u, x: u.at(x=0.5) ** 2, "at one point"),
    ],
)
def test_an_energy_of_another_equation_is_refused(density: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        line(lambda u, x: u.xx + torch.exp(x), density)


def test_a_saddle_is_no_minimum() -> None:
    with pytest.raises(BadInput, match="no minimum"):
        pde.Problem(
            pde.Box([0, 0], [1, 1]),
            lambda u: u.xx - u.yy,
            pde.dirichlet(0.0),
            energy=lambda u: 0.5 * (u.x**2 - u.y**2),
        )


def test_energies_of_systems_and_scaled_residuals_are_known() -> None:
    line(lambda u, x: (1 + x) * (u.xx + x), lambda u, x: 0.5 * u.x**2 - x * u)
    words = {"unknowns": ("u", "v"), "energy": lambda u, v, x: 0.5 * (u.x**2 + v.x**2) + 0.5 * (u - v) ** 2 - x * v}
    conditions = [pde.dirichlet(0.0, unknown=n) for n in "uv"]
    pde.Problem(pde.Interval(0, 1), lambda u, v, x: (v.xx + u - v + x, u.xx - u + v), conditions, **words)
    with pytest.raises(BadInput, match="another equation"):
        pde.Problem(pde.Interval(0, 1), lambda u, v, x: (v.xx + u - v, u.xx - u + v), conditions, **words)


# ---- deep Ritz -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_gradient_of_the_energy_in_the_weights(soft: bool) -> None:
    problem, method = poisson(), DeepRitz(points=30, width=4, depth=1, hard=False if soft else None)
    model = ansatz(problem, net="ritz", width=4, depth=1, wanted=False if soft else None, seed=2)
    system: Energy = method._system(problem, model, pde.methods.Run(), 0)
    assert isinstance(system, Objective)
    theta = system.soft.theta()
    value, gradient = system.value_and_gradient(theta)
    assert float(value) == pytest.approx(float(system.value(theta)), rel=1e-13)
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    e = [float(system.value(theta + h * direction)) for h in (-2e-3, -1e-3, 1e-3, 2e-3)]
    assert float(gradient @ direction) == pytest.approx((e[0] - 8 * e[1] + 8 * e[2] - e[3]) / 12e-3, rel=1e-8)


def test_random_points_estimate_the_integral() -> None:
    problem = pde.Problem(
        pde.Box([0, 0], [2, 3]), lambda u: u.xx + u.yy + 1, pde.dirichlet(0.0),
        energy=lambda u: 0.5 * (u.x**2 + u.y**2) - u,
    )  # fmt: skip
    model = ansatz(problem, width=4, depth=1, seed=2)
    found = [
        float(DeepRitz(points=n, fresh=fresh)._system(problem, model, pde.methods.Run(), 3).value(model_theta(model)))
        for n, fresh in ((20_000, 1), (400, 0))
    ]
    assert found[0] == pytest.approx(found[1], rel=0.05) and found[0] != found[1] and abs(found[1]) > 0.1


def model_theta(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_deep_ritz_solves_poisson(tmp_path: Path) -> None:
    words: dict[str, Any] = {"points": 150, "width": 8, "depth": 1, "steps": 120, "track": False}
    sol = pde.solve(poisson(), method="deep_ritz", seconds=60, **words)
    assert sol.rel_l2 is not None and sol.rel_l2 < 1e-3 and sol.method == "deep_ritz"
    assert sol.settings["energy"] == pytest.approx(-(PI**2) / 4, abs=1e-4)
    assert sol.settings["energy"] >= -(PI**2) / 4 - 1e-9  # it is the smallest
    sol.save(tmp_path)
    x = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(pde.load(tmp_path, poisson()).u(x), sol.u(x))


def test_random_points_lower_the_energy() -> None:
    words: dict[str, Any] = {"points": 100, "width": 8, "depth": 1, "fresh": 1, "track": False, "options": {"lr": 2e-2}}
    sol = pde.solve(poisson(), method="deep_ritz", seconds=60, steps=80, optimiser="adam", **words)
    assert sol.rel_l2 is not None and sol.rel_l2 < 0.15
    assert len({row["loss"] for row in sol.history}) == 80 and sol.settings["energy"] < -2.2  # of -2.467


def test_a_penalty_holds_the_boundary() -> None:
    """u'^2 / 2 - u integrated + penalty (u(0)^2 + u(1)^2) / 2 is smallest for u(0) = u(1) = 1 / (2 penalty)."""
    problem = line(lambda u: u.xx + 1, lambda u: 0.5 * u.x**2 - u)
    words: dict[str, Any] = {"points": 40, "width": 6, "depth": 1, "steps": 100, "track": False, "penalty": 5.0}
    sol = pde.solve(problem, method="deep_ritz", seconds=60, hard=False, **words)
    assert sol.u([[0.0], [1.0]])[:, 0].tolist() == pytest.approx([0.1, 0.1], rel=1e-3)


def test_a_free_end_is_met_by_itself() -> None:
    problem = pde.Problem(
        pde.Interval(0, 1),
        lambda u: u.xx + 1,
        [pde.dirichlet(0.0, on="left"), pde.neumann(0.0, on="right")],
        exact=lambda x: x - x**2 / 2,
        energy=lambda u: 0.5 * u.x**2 - u,
    )
    sol = pde.solve(problem, method="deep_ritz", seconds=60, points=40, width=6, depth=1, steps=80, track=False)
    assert sol.rel_l2 is not None and sol.rel_l2 < 1e-3
    assert abs(float(sol.derivative([[1.0]], "x"))) < 1e-2
    assert sol.settings["energy"] == pytest.approx(-1 / 6, abs=1e-5)


@pytest.mark.parametrize("words", [{}, {"fresh": 2, "hard": False, "optimiser": "adam"}], ids=["nodes", "random"])
def test_deep_ritz_goes_on_bit_identically(words: dict[str, Any], tmp_path: Path) -> None:
    words = {"method": "deep_ritz", "seconds": 60, "track": False, "width": 4, "depth": 1, "points": 40, **words}
    whole = pde.solve(poisson(), steps=7, **words)
    pde.solve(poisson(), steps=4, folder=tmp_path, **words)
    again = pde.solve(poisson(), steps=7, folder=tmp_path, resume=True, **words)
    x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole.u(x), again.u(x))
    assert [r["loss"] for r in whole.history] == [r["loss"] for r in again.history]


def test_deep_ritz_says_what_it_cannot_solve() -> None:
    with pytest.raises(Incompatible, match="minimises an energy"):
        pde.solve(poisson(energy=None), method="deep_ritz")
    robin = pde.Problem(
        pde.Interval(0, 1),
        lambda u: u.xx + 1,
        [pde.dirichlet(0.0, on="left"), pde.robin(1.0, 1.0, 0.0, on="right")],
        energy=lambda u: 0.5 * u.x**2 - u,
    )
    with pytest.raises(Incompatible, match="energy on the boundary"):
        pde.solve(robin, method="deep_ritz")
    with pytest.raises(BadInput, match="no energy"):
        energy(poisson(energy=None), lambda x, c: x)


def test_an_energy_that_holds_only_at_its_points_is_called_suspect() -> None:
    words: dict[str, Any] = {"points": 9, "width": 12, "depth": 1, "steps": 60, "track": False}
    sol = pde.solve(poisson(), method="deep_ritz", seconds=60, **words)
    assert sol.status == "suspect" and "other points" in sol.message


# ---- presets ---------------------------------------------------------------------------------------------------------


def test_deep_galerkin_draws_fresh_points_for_every_step(tmp_path: Path) -> None:
    words: dict[str, Any] = {"points": 60, "width": 8, "depth": 1, "track": False, "options": {"lr": 2e-2}}
    sol = pde.solve(poisson(), method="dgm", seconds=60, steps=60, folder=tmp_path / "run", **words)
    assert sol.method == "dgm" and sol.rel_l2 is not None and sol.rel_l2 < 0.1
    sol.save(tmp_path)
    x = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(pde.load(tmp_path, poisson()).u(x), sol.u(x))
    assert int(load_file(tmp_path / "run" / "checkpoint.safetensors")["draw"]) == 60


def test_trial_solutions_of_lagaris_reproduce_a_closed_form() -> None:
    """The first-order problem of Lagaris, Likas & Fotiadis (1998): ten points, ten sigmoids, exact initial value."""
    rate = lambda t: t + (1 + 3 * t**2) / (1 + t + t**3)  # noqa: E731
    problem = pde.Problem(
        pde.Time(0, 1),
        lambda u, t: u.t + rate(t) * u - t**3 - 2 * t - t**2 * (1 + 3 * t**2) / (1 + t + t**3),
        pde.initial(1.0),
        exact=lambda t: torch.exp(-(t**2) / 2) / (1 + t + t**3) + t**2,
    )
    sol = pde.solve(problem, method="lagaris", seconds=60, steps=120, track=False)
    assert sol.rel_l2 is not None and sol.rel_l2 < 2e-3 and sol.settings["weights"] == 31
    assert float(sol.u([[0.0]])) == 1.0
    weights = sol.field.tensors()
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    hidden = 1 / (1 + torch.exp(-((2 * t[:, None] - 1) @ weights["trunk.0.weight"].T + weights["trunk.0.bias"])))
    formula = 1 + t * (hidden @ weights["trunk.2.weight"][0] + weights["trunk.2.bias"])
    assert torch.allclose(sol.u(t[:, None])[:, 0], formula, rtol=0, atol=1e-13)  # A + t N(t), a closed formula


def test_trial_solutions_meet_an_initial_velocity() -> None:
    problem = pde.Problem(
        pde.Time(0, 2),
        lambda u, t: u.tt + u.t / 5 + u + torch.exp(-t / 5) * torch.cos(t) / 5,
        [pde.initial(0.0), pde.initial(1.0, order=1)],
        exact=lambda t: torch.exp(-t / 5) * torch.sin(t),
    )
    sol = pde.solve(problem, method="lagaris", seconds=60, steps=120, track=False)
    assert sol.rel_l2 is not None and sol.rel_l2 < 1e-3
    assert float(sol.derivative([[0.0]], "t")) == pytest.approx(1.0, abs=1e-13)
