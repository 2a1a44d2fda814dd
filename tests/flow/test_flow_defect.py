"""The estimate of the error of runs with fixed steps, against the errors of runs whose solution is known."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

import odenet as on
from odenet.fields.testset import random_problems
from odenet.flow.defect import MOST, Defect, quadratures, sample

D = torch.float64


def euler(f, y0: Tensor, times: list[float]) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[no-untyped-def]
    states, slopes = [y0], [f(times[0], y0)]
    for t, after in pairwise(times):
        states.append(states[-1] + (after - t) * slopes[-1])
        slopes.append(f(after, states[-1]))
    return states, slopes


def fed(times: list[float], states: list[Tensor], slopes: list[Tensor], window: int) -> Defect:
    found = Defect()
    for a in range(0, len(times) - 1, window):
        b = min(a + window, len(times) - 1) + 1
        found.feed(times[a:b], [sample(y) for y in states[a:b]], [sample(f) for f in slopes[a:b]])
    return found


def test_quadratures_integrate_cubics_over_every_interval() -> None:
    knots = (-1.3, -0.4, 0.0, 1.0, 1.2, 2.7, 3.0)
    rows = quadratures(knots, 2)
    assert rows.shape == (4, 7)
    for power in range(4):
        exact = [(b ** (power + 1) - a ** (power + 1)) / (power + 1) for a, b in pairwise(knots[2:])]
        assert rows @ np.array(knots) ** power == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("rate", [-1.0, 0.5])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_the_error_of_euler_on_growth_and_decay_is_estimated_to_a_tenth(rate: float, window: int) -> None:
    times = [2.0 * (i / 40) ** 1.2 for i in range(41)]  # unequal steps
    states, slopes = euler(lambda t, y: rate * y, torch.ones(1, dtype=D), times)
    told = fed(times, states, slopes, window).relative
    end, exact = float(states[-1]), math.exp(2 * rate)
    size = end + 0.03 * max(1.0, end)
    assert told == pytest.approx(abs(end - exact) / size, rel=0.1)


@pytest.mark.parametrize(("method", "h", "within"), [("euler", 0.002, 1.05), ("heun", 0.05, 1.05), ("rk4", 0.3, 4.0)])
@pytest.mark.parametrize("end", [6.0, 60.0])
def test_the_error_of_an_oscillation_is_estimated_over_many_periods(
    method: str, h: float, within: float, end: float
) -> None:
    """The quadrature's own error is of the order of that of rk4."""
    matrix, n = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=D), round(end / h)
    order = {"euler": 1, "heun": 2, "rk4": 4}[method]
    step = sum(torch.linalg.matrix_power(h * matrix, k) / math.factorial(k) for k in range(order + 1))
    states = [torch.tensor([1.0, 0.0], dtype=D)]
    for _ in range(n):
        states.append(step @ states[-1])
    times = [h * i for i in range(n + 1)]
    size = float(torch.linalg.vector_norm(states[-1])) + 0.03 * max(float(torch.linalg.vector_norm(y)) for y in states)
    true = float(torch.linalg.vector_norm(states[-1] - torch.from_numpy(expm(times[-1] * matrix.numpy()))[:, 0])) / size
    told = fed(times, states, [matrix @ y for y in states], 16).relative
    assert true / within < told < true * within


def test_what_the_window_is_does_not_matter_but_for_the_quadrature_at_its_ends() -> None:
    times = [0.05 * i for i in range(50)]
    states, slopes = euler(lambda t, y: torch.sin(3 * y) + t, torch.tensor([0.3, 1.0], dtype=D), times)
    told = [fed(times, states, slopes, window).relative for window in (2, 7, 16, 49)]
    assert max(told) < 1.02 * min(told)


def test_of_a_large_state_entries_of_every_component_are_looked_at() -> None:
    """One component of 64 is integrated badly, and its size is that of the others."""
    rates = torch.full((64,), -0.1, dtype=D)
    rates[37] = -19.0
    times = [0.1 * i for i in range(11)]
    y0 = torch.ones(1000, 64, dtype=D)
    assert y0.numel() > 10 * MOST
    states, slopes = euler(lambda t, y: rates * (y - math.cos(9 * t)), y0, times)
    alone, turns = euler(lambda t, y: -19.0 * (y - math.cos(9 * t)), y0[:1, :1], times)
    part = fed(times, states, slopes, 4)
    sample = fed(times, [x[:1] for x in states], [x[:1] for x in slopes], 4)
    assert fed(times, alone, turns, 4).relative > 0.3
    assert part.relative == pytest.approx(sample.relative, rel=0.3)


def test_a_complex_state_is_one_of_real_and_imaginary_parts() -> None:
    times = [0.1 * i for i in range(21)]
    f = lambda t, y: (1j - 0.2) * y  # noqa: E731
    states, slopes = euler(f, torch.ones(1, dtype=torch.complex128), times)
    parts = [[torch.view_as_real(x) for x in nodes] for nodes in (states, slopes)]
    assert fed(times, states, slopes, 16).relative == fed(times, parts[0], parts[1], 16).relative > 0.01


def test_a_run_that_leaves_the_numbers_is_infinitely_wrong() -> None:
    times = [0.5 * i for i in range(9)]
    states, slopes = euler(lambda t, y: y**3, torch.full((2,), 2.0, dtype=D), times)
    assert fed(times, states, slopes, 16).relative == math.inf


@pytest.mark.parametrize("steps", [10, 40])
def test_random_runs_are_seldom_called_wrongly(steps: int) -> None:
    """Problems of a seed that the threshold was not chosen on; a tenth of either, since they are few."""
    bad, missed, good, alarms = 0, 0, 0, 0
    for problem in random_problems(30, seed=11):
        span = [problem.t0, problem.t1]
        exact = on.solve(problem.f, problem.start(), span, "dopri8", rtol=1e-10, atol=1e-12).y[-1]
        for method in ("euler", "heun", "rk4"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = on.solve(problem.f, problem.start(), span, method, steps=steps, on_failure="return")
            if found.status not in ("completed", "suspect"):
                continue
            error = float(torch.linalg.vector_norm(found.y[-1] - exact) / (torch.linalg.vector_norm(exact) + 0.01))
            bad, good = bad + (error > 0.1), good + (error < 0.01)
            missed += error > 0.1 and found.status == "completed"
            alarms += error < 0.01 and found.status == "suspect"
    assert bad >= 8 and good >= 20
    assert missed <= 0.1 * bad
    assert alarms <= 0.1 * good


def test_unequal_knots_that_have_a_gradient_are_no_alarm() -> None:
    """The march counts intervals there, so that slopes jump at every knot."""
    f, y0 = (lambda t, y: -y), torch.ones(2, dtype=D)
    t = torch.tensor([0.0, 0.1, 1.0, 1.05, 3.0], dtype=D)
    plain = on.solve(f, y0, t, "rk4", steps=8)
    moving = on.solve(f, y0, t.clone().requires_grad_(), "rk4", steps=8)
    assert plain.status == moving.status == "completed"


def test_what_is_looked_at_costs_one_evaluation_in_all() -> None:
    calls = []
    found = on.solve(lambda t, y: calls.append(t) or -y, torch.ones(2), [0.0, 0.5, 1.0], "rk4", steps=50)  # type: ignore[func-returns-value]
    assert found.status == "completed"
    assert found.stats["nfe"] == 4 * 100 + 1
