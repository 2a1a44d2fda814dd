"""Adam and SOAP against torch.optim and a hand-written loop; learning rates; stages."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from optimise_examples import F64, Function, classic, column, quadratic, regression
from torch import Tensor

from odenet.errors import BadInput, UnknownName
from odenet.optimise import get, minimise, staged
from odenet.optimise.first_order import rate


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [{}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}])
def test_adam_is_torchs_adam(options: dict[str, Any], dtype: torch.dtype) -> None:
    problem, _, start = quadratic(6)
    ours = minimise(Function(lambda x: problem.f(x.double()), 6), start.to(dtype), get("adam", **options), steps=50)
    theta = start.to(dtype).clone().requires_grad_()
    theirs = torch.optim.Adam([theta], foreach=False, **options)
    for _ in range(50):
        theirs.zero_grad()
        problem.f(theta.double()).backward()
        theirs.step()
    close = 1e-14 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(ours["theta"], theta.detach(), rtol=close, atol=close)
    assert ours["theta"].dtype == dtype and int(ours["steps"]) == 50


@pytest.mark.parametrize(("schedule", "factors"), [
    ("constant", [1.0, 1.0, 1.0, 1.0]),
    ("cosine", [1.0, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2, 0.1 + 0.9 / 2, 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2]),
    ("exponential", [1.0, 0.1**0.25, 0.1**0.5, 0.1**0.75]),
])  # fmt: skip
def test_the_learning_rate_follows_the_schedule(schedule: str, factors: list[float]) -> None:
    """With betas of 0 every step of Adam is the learning rate."""
    problem = Function(lambda x: x.sum(), 1)
    for by in ("steps", "progress"):
        optimiser = get(
            "adam", lr=0.5, betas=(0.0, 0.0), schedule=schedule, length=4 if by == "steps" else None, final=0.1
        )
        state, sizes = optimiser.init(problem, column(0)), []
        for k in range(4):
            if by == "progress":
                state["progress"] = torch.tensor(k / 4, dtype=F64)
            before, state = state, optimiser.step(problem, state)
            sizes.append(float(before["theta"] - state["theta"]))
        assert sizes == pytest.approx([0.5 * f for f in factors], rel=1e-6)
    assert rate(schedule, 1.0, 0.1) == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert rate(schedule, 7.0, 0.1) == rate(schedule, 1.0, 0.1)


def test_seconds_move_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes one second on whenever it is read: once at the start, then once before every step."""
    monkeypatch.setattr("odenet.optimise.base.perf_counter", itertools.count().__next__)
    problem, _, start = quadratic(3)
    seen: list[float] = []
    state = minimise(problem, start, get("adam"), seconds=5, watch=lambda s: seen.append(float(s["progress"])))
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8]) and int(state["steps"]) == 4


SHAPES = ((3, 2), (3,), (1, 3), (2, 2, 2))


def two_layers(theta: Tensor) -> Tensor:
    """A loss of parameters of these shapes."""
    W, b, w, T = (p.view(s) for p, s in zip(theta.split([6, 3, 3, 8]), SHAPES))
    x = torch.linspace(-1, 1, 8, dtype=F64).view(4, 2)
    return ((torch.tanh(x @ W.T + b) @ w.T)[:, 0] - x[:, 0] ** 2).square().sum() + (T - 0.3).pow(4).sum()


@pytest.mark.parametrize("frequency", [2, 3])
def test_soap_is_the_published_loop_layer_by_layer(frequency: int) -> None:
    problem = Function(two_layers, 20)
    start = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=F64)
    optimiser = get("soap", shapes=SHAPES, frequency=frequency, lr=0.02, betas=(0.9, 0.95))
    ours = minimise(problem, start, optimiser, steps=8)

    parameters = [p.clone().view(s[0], -1) for p, s in zip(start.split([6, 3, 3, 8]), SHAPES)]
    kept: list[dict[str, Tensor]] = []
    for t in range(1, 9):
        whole = problem.value_and_gradient(torch.cat([p.reshape(-1) for p in parameters]))[1]
        gradients = [g.view(s[0], -1) for g, s in zip(whole.split([6, 3, 3, 8]), SHAPES)]
        for k, (W, G, shape) in enumerate(zip(parameters, gradients, SHAPES)):
            if t == 1:
                rows, columns = G.shape if len(shape) > 1 else (0, 0)
                kept.append({
                    "M": 0 * G, "V": 0 * G,
                    "L": 0.05 * G @ G.T, "R": 0.05 * G.T @ G,
                    "QL": torch.linalg.eigh(G @ G.T)[1].flip(1) if rows else torch.eye(len(G), dtype=F64),
                    "QR": torch.linalg.eigh(G.T @ G)[1].flip(1) if columns else torch.eye(1, dtype=F64),
                })  # fmt: skip
            s = kept[k]
            s["M"] = 0.9 * s["M"] + 0.1 * G
            s["V"] = 0.95 * s["V"] + 0.05 * (s["QL"].T @ G @ s["QR"]) ** 2
            up, low = s["QL"].T @ s["M"] @ s["QR"] / (1 - 0.9**t), (s["V"] / (1 - 0.95**t)).sqrt() + 1e-8
            W -= 0.02 * s["QL"] @ (up / low) @ s["QR"].T
            if len(shape) > 1:
                s["L"] = 0.95 * s["L"] + 0.05 * G @ G.T
                s["R"] = 0.95 * s["R"] + 0.05 * G.T @ G
                if t % frequency == 0:
                    s["QL"] = torch.linalg.qr(s["L"] @ s["QL"])[0]
                    s["QR"] = torch.linalg.qr(s["R"] @ s["QR"])[0]
    torch.testing.assert_close(ours["theta"], torch.cat([p.reshape(-1) for p in parameters]), rtol=1e-7, atol=1e-8)


def test_soap_keeps_its_bases_orthogonal_and_what_a_singular_factor_leaves_open() -> None:
    """One row: R has rank 1 at first, and the directions that it does not see stay as they were."""
    generator = torch.Generator().manual_seed(0)
    a, x = torch.randn(2, 4, generator=generator, dtype=F64)
    f = Function(lambda w: (w @ a - 1) ** 2, 4)
    optimiser = get("soap", shapes=((1, 4),), frequency=1)
    state = optimiser.init(f, x)
    first = state["right_basis_0"]
    for _ in range(5):
        state = optimiser.step(f, state)
    basis = state["right_basis_0"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close((first.T @ basis).abs(), torch.eye(4, dtype=F64), rtol=0, atol=1e-3)


def test_soap_without_shapes_is_adam() -> None:
    problem, _, start = quadratic(6)
    options = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}
    soap = minimise(problem, start, get("soap", **options), steps=20)
    adam = minimise(problem, start, get("adam", **options), steps=20)
    torch.testing.assert_close(soap["theta"], adam["theta"], rtol=1e-12, atol=1e-14)


def test_soap_is_faster_than_adam_where_the_axes_are_turned() -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=F64)).Q for _ in range(2))
    weights, start = torch.logspace(0, 2, 6, dtype=F64), torch.zeros(36, dtype=F64)
    f = Function(lambda x: ((A @ x.view(6, 6) @ B - 1).square() * weights[:, None] * weights).sum(), 36)
    loss = {
        name: float(minimise(f, start, get(name, lr=0.03, betas=(0.9, 0.95), **more), steps=150)["loss"])
        for name, more in (("adam", {}), ("soap", {"shapes": ((6, 6),), "frequency": 5}))
    }  # fmt: skip
    assert loss["soap"] < 0.3 * loss["adam"]


@pytest.mark.parametrize("name", ["adam", "soap"])
def test_a_loss_that_becomes_infinite_stops_at_the_last_finite_parameters(name: str) -> None:
    f = Function(lambda x: torch.log(x).sum(), 1)
    optimiser = get(name, lr=1.0)
    state = minimise(f, column(1.5), optimiser, steps=20)
    assert optimiser.status(state) == "stalled" and "smaller learning rate" in optimiser.message(state)
    assert math.isfinite(float(state["loss"])) and float(state["theta"]) > 0


@pytest.mark.parametrize("name", ["adam", "soap"])
@pytest.mark.parametrize(("options", "message"), [
    ({"schedule": "linear"}, "constant, cosine, exp"), ({"lr": 0.0}, "positive"), ({"lr": math.nan}, "positive"),
    ({"final": 0.0}, "final"), ({"betas": (0.9, 1.0)}, "betas"), ({"length": 0}, "length"),
])  # fmt: skip
def test_options_that_cannot_be_right_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        get(name, **options)


def test_shapes_must_hold_all_parameters() -> None:
    problem, _, start = quadratic(6)
    with pytest.raises(BadInput, match="shapes hold 4 numbers and the problem has 6"):
        get("soap", shapes=((2, 2),)).init(problem, start)
    with pytest.raises(BadInput, match="frequency"):
        get("soap", frequency=0)


def test_stages_are_the_same_steps_one_after_the_other() -> None:
    problem, start = regression(40)
    row = staged(("adam", 5, {"lr": 0.05}), (get("lbfgs"), 4), ("gauss_newton", 3))
    whole = minimise(problem, start, row)
    first = minimise(problem, start, get("adam", lr=0.05), steps=5)
    second = minimise(problem, first["theta"], get("lbfgs"), steps=4)
    third = minimise(problem, second["theta"], get("gauss_newton"), steps=3)
    assert torch.equal(whole["theta"], third["theta"]) and int(whole["steps"]) == 12
    assert int(whole["evaluations"]) == sum(int(s["evaluations"]) for s in (first, second, third))
    assert row.status(whole) == "finished" and row.message(whole)


def test_a_stage_that_ends_by_itself_gives_way_to_the_next() -> None:
    problem, start = classic("rosenbrock")
    f = Function(lambda x: torch.log(x[0]) if x[0] < 1.4 else (x[0] - 1) ** 2 + x[1] ** 2, 2)
    row = staged(("adam", 500, {"lr": 1.0}), ("lbfgs", 2))
    state = minimise(f, column(1.5, 0), row, steps=100)
    assert int(state["stage"]) == 1 and int(state["before_steps"]) < 500
    row = staged(("adam", 20), "gauss_newton")
    state = minimise(problem, start, row, steps=200)
    assert row.status(state) == "converged" and float(state["loss"]) < 1e-25


def test_stages_that_mean_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="one stage or more"):
        staged()
    with pytest.raises(BadInput, match="1 or more steps"):
        staged(("adam", 0))
    with pytest.raises(BadInput, match="staged itself"):
        staged(staged("adam"), "lbfgs")
    with pytest.raises(UnknownName, match="did you mean 'adam'"):
        staged("adm")


def test_progress_reaches_the_schedule_inside_a_stage() -> None:
    problem = Function(lambda x: x.sum(), 1)
    row = staged(("adam", 10, {"lr": 0.5, "betas": (0.0, 0.0), "schedule": "exponential", "final": 0.1}), "lbfgs")
    state = row.init(problem, column(0))
    state["progress"] = torch.tensor(0.5, dtype=F64)
    after = row.step(problem, state)
    assert float(state["theta"] - after["theta"]) == pytest.approx(0.5 * 0.1**0.5, rel=1e-6)
