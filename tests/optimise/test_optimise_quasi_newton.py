"""Quasi-Newton methods against direct formulas, exact quadratics and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from optimise_examples import CLASSICS, F64, Function, classic, column, quadratic, regression
from scipy.optimize import minimize
from torch import Tensor

from odenet.errors import BadInput
from odenet.optimise import get, minimise
from odenet.optimise.quasi_newton import FACTORS, updated

METHODS = sorted(FACTORS)


SCALES = (0.05, 0.3, 0.7, 2.0, 20.0)  # curvature below, near and above what B says


def positive(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(H, B = H^-1, s, y) with s.y > 0."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(size, size, generator=generator, dtype=F64)
    H = 0.3 * A @ A.T + torch.eye(size, dtype=F64)
    s, y = torch.randn(2, size, generator=generator, dtype=F64)
    s = SCALES[seed % 5] * (s if seed % 2 else H @ y + 0.3 * s)
    return H, torch.linalg.inv(H), s, y if s @ y > 0 else -y


def direct(B: Tensor, s: Tensor, y: Tensor, method: str) -> Tensor:
    """B+ = tau (B - Bs s^T B / s.Bs + theta s.Bs w w^T) + y y^T / s.y with w = y / s.y - Bs / s.Bs."""
    n = len(s)
    Bs, sy = B @ s, s @ y
    b, h = s @ Bs / sy, y @ torch.linalg.solve(B, y) / sy
    tau, theta = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    if method == "ssbfgs":
        tau = min(tau, sy / (s @ Bs))
    if method == "ssbroyden":
        a = b * h - 1
        rho_minus = min(torch.ones((), dtype=F64), h * (1 - torch.sqrt(a / (1 + a))))
        theta = torch.clamp((1 - b) / b, (rho_minus - 1) / a, 1 / rho_minus)
        sigma, rho = 1 + a * theta, min(torch.ones((), dtype=F64), 1 / b)
        root = sigma ** (-1 / (n - 1))
        tau = rho * torch.minimum(root, 1 / theta) if theta > 0 else torch.minimum(rho * root, sigma)
    w = y / sy - Bs / (s @ Bs)
    return tau * (B - torch.outer(Bs, Bs) / (s @ Bs) + theta * (s @ Bs) * torch.outer(w, w)) + torch.outer(y, y) / sy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(20))
def test_the_inverse_update_is_the_inverse_of_the_hessians_own_update(method: str, seed: int) -> None:
    H, B, s, y = positive(6, seed)
    new = updated(H, s, y, B @ s, method)
    size = float(new.abs().max())
    B_new = direct(B, s, y, method)
    assert float((B_new @ new - torch.eye(6, dtype=F64)).abs().max()) <= 1e-13 * size * float(B_new.abs().max())
    torch.testing.assert_close(new @ y, s, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(new / size, new.T / size, rtol=0, atol=1e-14)
    assert float(torch.linalg.eigvalsh(new).min()) > 0


def test_the_sweep_reaches_every_branch_of_the_factors() -> None:
    seen = set()
    for seed in range(20):
        H, B, s, y = positive(6, seed)
        b, h = float(s @ B @ s / (s @ y)), float(y @ H @ y / (s @ y))
        _, theta = FACTORS["ssbroyden"](b, h, 6)
        a = b * h - 1
        low = min(1, h * (1 - math.sqrt(a / (1 + a))))
        least, most = (low - 1) / a, 1 / low
        seen |= {("theta", theta > 0), ("rho", b > 1), ("low", low < 1), ("inner", 0 < theta < 0.9)}
        seen.add("least" if theta == least else "most" if theta == most else "between")
    assert {("theta", True), ("theta", False), ("rho", True), ("rho", False), "between", "most"} <= seen
    assert {("low", True), ("low", False), "least", ("inner", True)} <= seen


def test_a_pair_that_fits_exactly_changes_nothing_but_the_scale() -> None:
    """y = B s: a = 0, where the bounds of theta are 0 / 0."""
    H, B, s, _ = positive(5, 0)
    for method in METHODS:
        torch.testing.assert_close(updated(H, s, B @ s, B @ s, method), H, rtol=1e-6, atol=1e-6)


def test_one_parameter_is_the_secant_method() -> None:
    one = column(2.0)
    for method in METHODS:
        assert float(updated(torch.eye(1, dtype=F64), one, 3 * one, one, method)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("method", METHODS)
def test_exact_line_searches_end_a_quadratic_in_n_steps_with_the_hessians_inverse(method: str) -> None:
    """The Broyden family's quadratic termination (Dixon's theorem); self-scaling keeps the directions conjugate."""
    _, A, x = quadratic(6)
    H, g = torch.eye(6, dtype=F64), A @ (x - 1)
    directions = []
    for _ in range(6):
        p = -H @ g
        s = -(g @ p) / (p @ A @ p) * p
        x, new = x + s, A @ (x + s - 1)
        H = updated(H, s, new - g, -(s @ p) / (p @ p) * g, method)
        directions.append(s)
        g = new
    torch.testing.assert_close(x, torch.ones(6, dtype=F64), rtol=0, atol=1e-9)
    S = torch.stack(directions)
    conjugate = S @ A @ S.T / torch.outer(*(2 * [(S @ A * S).sum(1).sqrt()]))
    torch.testing.assert_close(conjugate, torch.eye(6, dtype=F64), rtol=0, atol=1e-6)
    if method == "bfgs":
        torch.testing.assert_close(H, torch.linalg.inv(A), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [*METHODS, "lbfgs"])
@pytest.mark.parametrize("problem", sorted(CLASSICS))
def test_classics_end_at_the_published_minimum(name: str, problem: str) -> None:
    squares, start = classic(problem)
    optimiser = get(name)
    state = minimise(squares, start, optimiser, steps=400)
    published = CLASSICS[problem][2]
    assert 2 * float(state["loss"]) == pytest.approx(published, rel=3e-6, abs=1e-12)
    assert float(state["gradient"].norm()) == float(state["gradient_norm"])


def test_bfgs_goes_where_scipys_bfgs_goes() -> None:
    f, _, start = quadratic(5)
    theirs = minimize(
        lambda x: float(f.value(torch.from_numpy(x))), start.numpy(), method="BFGS",
        jac=lambda x: f.value_and_gradient(torch.from_numpy(x))[1].numpy(), options={"gtol": 1e-9},
    )  # fmt: skip
    ours = minimise(f, start, get("bfgs"), steps=100)
    np.testing.assert_allclose(ours["theta"], theirs.x, atol=1e-7)
    np.testing.assert_allclose(ours["theta"], 1, atol=1e-9)


def test_lbfgs_that_forgets_nothing_is_bfgs_from_the_scaled_identity() -> None:
    """H by products (I - rho s y^T) H (I - rho y s^T) + rho s s^T from (s.y / y.y) I of the newest pair."""
    problem, theta = regression(40)
    optimiser = get("lbfgs", memory=30)
    state = optimiser.init(problem, theta)
    for k in range(12):
        before, state = state, optimiser.step(problem, state)
        if k == 0:
            continue
        S, Y = (before[n][30 - int(before["pairs"]) :] for n in "SY")
        H = torch.eye(len(theta), dtype=F64) * (S[-1] @ Y[-1] / (Y[-1] @ Y[-1]))
        for s, y in zip(S, Y):
            V = torch.eye(len(theta), dtype=F64) - torch.outer(s, y) / (s @ y)
            H = V @ H @ V.T + torch.outer(s, s) / (s @ y)
        p, step = -H @ before["gradient"], state["theta"] - before["theta"]
        torch.testing.assert_close(step / step.norm(), p / p.norm(), rtol=0, atol=1e-9)
        assert int(before["pairs"]) == k


def test_lbfgs_keeps_the_newest_pairs() -> None:
    problem, theta = regression(40)
    optimiser, steps = get("lbfgs", memory=3), []
    state = optimiser.init(problem, theta)
    for _ in range(6):
        before, state = state, optimiser.step(problem, state)
        steps.append((state["theta"] - before["theta"], state["gradient"] - before["gradient"]))
    torch.testing.assert_close(state["S"], torch.stack([s for s, _ in steps[-3:]]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(state["Y"], torch.stack([y for _, y in steps[-3:]]), rtol=0, atol=0)


@pytest.mark.parametrize("name", [*METHODS, "lbfgs"])
def test_every_step_keeps_the_wolfe_conditions(name: str) -> None:
    problem, theta = regression(40)
    optimiser = get(name, c2=0.5)
    state = optimiser.init(problem, theta)
    for _ in range(25):
        before, state = state, optimiser.step(problem, state)
        s = state["theta"] - before["theta"]
        slope = float(before["gradient"] @ s)
        assert slope < 0
        assert float(state["loss"]) <= float(before["loss"]) + 1e-4 * slope
        assert abs(float(state["gradient"] @ s)) <= 0.5 * abs(slope) * (1 + 1e-9)
        value, gradient = problem.value_and_gradient(state["theta"])
        assert float(state["loss"]) == float(value) and torch.equal(state["gradient"], gradient)


@pytest.mark.parametrize("name", [*METHODS, "lbfgs"])
def test_it_does_not_stop_after_one_step_and_reaches_a_small_loss(name: str) -> None:
    problem, theta = regression(40)
    state = minimise(problem, theta, get(name), steps=400)
    assert int(state["steps"]) > 100 and float(state["loss"]) < 1e-6


@pytest.mark.parametrize("name", [*METHODS, "lbfgs"])
def test_at_rounding_level_it_restarts_once_and_then_says_that_it_stalled(name: str) -> None:
    """A minimum whose value is 1: the loss cannot fall below 1 + 2e-16 although the gradient is not zero yet."""
    f = Function(lambda x: 1 + (x - 1 / 3) @ (x - 1 / 3) + ((x - 1 / 3) ** 4).sum(), 4)
    optimiser = get(name)
    state, trace = optimiser.init(f, column(1, 2, 3, 4)), []
    while optimiser.status(state) is None:
        state = optimiser.step(f, state)
        trace.append(int(state["fresh"]))
        assert len(trace) < 100
    np.testing.assert_allclose(state["theta"], 1 / 3, atol=3e-8)
    if optimiser.status(state) == "stalled":
        assert "line search" in optimiser.message(state)
        assert trace[-2:] == [1, 1] and 1 not in trace[:-2]


def test_a_direction_that_does_not_descend_begins_anew() -> None:
    f, _, start = quadratic(4)
    optimiser = get("bfgs")
    state = minimise(f, start, optimiser, steps=3)
    broken = {**state, "inverse": -state["inverse"]}
    again = optimiser.step(f, broken)
    assert int(again["fresh"]) == 1 and torch.equal(again["inverse"], torch.eye(4, dtype=F64))
    assert torch.equal(again["theta"], state["theta"]) and optimiser.status(again) is None
    np.testing.assert_allclose(minimise(f, again["theta"], optimiser, steps=60)["theta"], 1, atol=1e-8)


def test_a_hill_whose_edge_is_infinite_is_left_by_shorter_steps() -> None:
    f = Function(lambda x: -torch.log(1 - x @ x) - x.sum(), 3)
    for name in (*METHODS, "lbfgs"):
        state = minimise(f, torch.zeros(3, dtype=F64), get(name), steps=60)
        x = (-1 + 4**0.5) / 3  # 2 x / (1 - 3 x^2) = 1
        np.testing.assert_allclose(state["theta"], x, atol=1e-7)


def test_self_scaling_helps_where_the_first_scale_is_wrong() -> None:
    """H far too large in all but one direction: plain BFGS keeps that for long, the scaled ones repair it."""
    f, _, start = quadratic(20, seed=3)
    loss = {}
    for name in METHODS:
        optimiser = get(name, c2=0.9)
        state = optimiser.init(f, start)
        state["fresh"], state["inverse"] = torch.tensor(0), 1e-4 * torch.eye(20, dtype=F64)
        for _ in range(15):
            state = optimiser.step(f, state)
        loss[name] = float(state["loss"])
    assert all(math.isfinite(v) for v in loss.values())
    assert loss["ssbroyden"] < loss["bfgs"]


@pytest.mark.parametrize("name", [*METHODS, "lbfgs"])
def test_float32_is_refused_because_it_stalls_early(name: str) -> None:
    problem, theta = regression(40)
    with pytest.raises(BadInput, match=r"float64 and theta is float32.*theta\.double"):
        get(name).init(problem, theta.float())


@pytest.mark.parametrize("name", [*METHODS, "lbfgs"])
def test_refresh_evaluates_the_new_problem_and_keeps_the_curvature(name: str) -> None:
    problem, theta = regression(40)
    optimiser = get(name)
    state = minimise(problem, theta, optimiser, steps=20)
    other, _ = regression(60)
    new = optimiser.refresh(other, state)
    value, gradient = other.value_and_gradient(state["theta"])
    assert float(new["loss"]) == float(value) and torch.equal(new["gradient"], gradient)
    key = "S" if name == "lbfgs" else "inverse"
    assert torch.equal(new[key], state[key]) and int(new["fresh"]) == 0
