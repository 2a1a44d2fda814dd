"""Names and options; every optimiser lowers a loss, leaves its state alone and goes on bit-identically."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from optimise_examples import F64, Function, Squares, regression
from safetensors.torch import load_file, save_file
from torch import Tensor

from odenet import optimise
from odenet.errors import BadInput, UnknownName
from odenet.optimise import OPTIMISERS, LeastSquares, Objective, Optimiser, get, minimise, names

OPTIONS: dict[str, dict[str, Any]] = {
    "engd": {"grid": 8},
    "adam": {"lr": 0.02, "schedule": "cosine", "length": 40},
    "soap": {"lr": 0.02, "shapes": ((5,), (5,), (5, 5), (5,), (5,)), "frequency": 3},
    "staged": {"stages": (("adam", 7, {"lr": 0.02}), ("lbfgs", 9), ("ssbroyden", None))},
}
MORE = [("gauss_newton", {"solver": s}) for s in ("dual", "qr", "cg")] + [("gauss_newton", {"scaling": "columns"})]
ALL = [(name, OPTIONS.get(name, {})) for name in names()] + MORE


def test_the_names_are_there() -> None:
    assert {"gauss_newton", "engd", "ssbroyden", "ssbfgs", "bfgs", "lbfgs", "adam", "soap", "staged"} <= set(names())


@pytest.mark.parametrize(("name", "options"), ALL)
def test_saved_between_two_steps_every_state_goes_on_bit_identically(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    problem, theta = regression(60)
    straight = minimise(problem, theta, get(name, **options), steps=30)
    state = minimise(problem, theta, get(name, **options), steps=11)
    save_file(state, tmp_path / "state.safetensors")
    state, optimiser = load_file(tmp_path / "state.safetensors"), get(name, **options)
    while int(state["steps"]) < 30:
        state = optimiser.step(problem, state)
    assert state.keys() == straight.keys()
    for key, value in straight.items():
        assert torch.equal(state[key], value) or (value.isnan().all() and state[key].isnan().all()), key


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_step_lowers_the_loss_and_leaves_the_given_state_alone(name: str, options: dict[str, Any]) -> None:
    problem, theta = regression(60)
    given = theta.clone()
    optimiser = get(name, **options)
    state = optimiser.init(problem, theta)
    assert state["theta"].data_ptr() != theta.data_ptr()
    first = float(state["loss"])
    for _ in range(25):
        before = {k: v.clone() for k, v in state.items()}
        new = optimiser.step(problem, state)
        assert all(torch.equal(v, before[k]) or v.isnan().any() for k, v in state.items())
        assert float(new["loss"]) == pytest.approx(float(problem.value(new["theta"])), rel=1e-12)
        assert int(new["steps"]) == int(state["steps"]) + 1 and int(new["evaluations"]) > int(state["evaluations"])
        state = new
    assert float(state["loss"]) < 0.7 * first and torch.equal(theta, given)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_state_is_a_flat_dict_of_tensors_that_share_no_memory(name: str, options: dict[str, Any]) -> None:
    problem, theta = regression(60)
    state = minimise(problem, theta, get(name, **options), steps=3)
    assert all(isinstance(v, Tensor) and not v.requires_grad for v in state.values())
    pointers = [v.untyped_storage().data_ptr() for v in state.values() if v.numel()]
    assert len(set(pointers)) == len(pointers)
    assert {"theta", "loss", "gradient_norm", "steps", "evaluations", "status"} <= state.keys()


@pytest.mark.parametrize("name", names())
def test_every_entry_says_when_it_is_chosen(name: str) -> None:
    text = inspect.getdoc(OPTIMISERS.get(name)) or ""
    assert "choose it" in text.lower()


def test_an_unknown_name_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'gauss_newton'"):
        get("gauss_newtn")
    with pytest.raises(BadInput, match="'adam' has no option 'nesterov'; it has betas"):
        get("adam", nesterov=True)
    with pytest.raises(BadInput, match="did you mean damping"):
        get("gauss_newton", dampng=0.1)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("gauss_newton", {"solver": "svd"}, "primal"), ("gauss_newton", {"scaling": "rows"}, "identity"),
    ("gauss_newton", {"preconditioner": "ilu"}, "nystrom"), ("gauss_newton", {"damping": 0.0}, "positive"),
    ("gauss_newton", {"shrink": 1.5}, "shrink"), ("gauss_newton", {"trials": 0}, "trials"),
    ("engd", {"damping": "lossy"}, "loss"), ("engd", {"damping": -1.0}, "negative"), ("engd", {"grid": 0}, "grid"),
    ("lbfgs", {"memory": 0}, "memory"), ("ssbroyden", {"c1": 0.95}, "c1"), ("lbfgs", {"c2": 1.5}, "c2"),
])  # fmt: skip
def test_an_option_that_cannot_be_right_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        get(name, **options)


def test_a_users_optimiser_is_registered_and_found() -> None:
    class Still(Optimiser):
        """Takes no step; choose it never."""

        def init(self, problem: Objective, theta: Tensor) -> optimise.State:
            return {"theta": theta, "loss": problem.value(theta), "steps": torch.tensor(0), "status": torch.tensor(0)}

        def advance(self, problem: Objective, state: optimise.State) -> optimise.State:
            return {**state, "status": torch.tensor(1)}

        def refresh(self, problem: Objective, state: optimise.State) -> optimise.State:
            return state

    try:
        optimise.register("still", Still)
        problem, theta = regression(10)
        assert get("still").status(minimise(problem, theta, get("still"))) == "converged"
        with pytest.raises(BadInput, match="registered already"):
            optimise.register("still", Still)
        with pytest.raises(BadInput, match="takes options and returns an Optimiser"):
            optimise.register("still_too", Still())
    finally:
        OPTIMISERS._entries.pop("still", None)


def test_energies_are_minimised_by_what_needs_no_sum_of_squares() -> None:
    f = Function(lambda x: torch.cosh(x - torch.arange(3, dtype=F64)).sum(), 3)
    for name in ("ssbroyden", "ssbfgs", "bfgs", "lbfgs"):
        state = minimise(f, torch.full((3,), 0.5, dtype=F64), get(name), steps=100)
        torch.testing.assert_close(state["theta"], torch.arange(3, dtype=F64), rtol=0, atol=1e-7)


def test_the_gradient_of_a_sum_of_squares_comes_from_its_blocks() -> None:
    fast, theta = regression(50, rows=7)
    slow = Squares(fast.r, fast.size, rows=7)
    value, gradient = torch.func.grad_and_value(lambda t: fast.r(t).square().sum() / 2)(theta)[::-1]
    for problem in (slow, fast):
        found = problem.value_and_gradient(theta)
        torch.testing.assert_close(found[0], value)
        torch.testing.assert_close(found[1], gradient)
        torch.testing.assert_close(problem.value(theta), value)


def test_minimise_ends_by_steps_and_calls_watch_after_each() -> None:
    problem, theta = regression(20)
    seen: list[int] = []
    state = minimise(problem, theta, get("gauss_newton"), steps=4, watch=lambda s: seen.append(int(s["steps"])))
    assert seen == [1, 2, 3, 4] and int(state["steps"]) == 4
    assert int(minimise(problem, theta, get("adam"), seconds=0.0)["steps"]) == 0


def test_the_abstract_classes_say_what_is_missing() -> None:
    for cls in (LeastSquares, Objective, Optimiser):
        with pytest.raises(TypeError, match="abstract"):
            cls()
