"""Many small problems at once: against scipy's L-BFGS, and every row for itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import minimize, rosen, rosen_der
from torch import Tensor

from odenet.optimise.rows import minimise_rows


def rosenbrock(theta: Tensor) -> tuple[Tensor, Tensor]:
    rows = theta.numpy()
    return torch.tensor([rosen(r) for r in rows]), torch.from_numpy(np.stack([rosen_der(r) for r in rows]))


def quadratic(theta: Tensor) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([[1.0, 10.0, 100.0], [1e-3, 1.0, 1e3]], dtype=theta.dtype)[: len(theta)]
    gap = theta - torch.tensor([1.0, -2.0, 3.0], dtype=theta.dtype)
    return (scale * gap**2).sum(1) / 2, scale * gap


def test_rows_reach_the_minima_that_scipy_finds() -> None:
    start = torch.tensor([[1.2, 1.0, 0.5, 0.0], [2.0, -1.0, 0.3, 1.5], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    found = minimise_rows(rosenbrock, start, 120)
    for row, begin in zip(found, start):
        wanted = minimize(rosen, begin.numpy(), jac=rosen_der, method="L-BFGS-B", options={"gtol": 1e-10})
        assert rosen(row.numpy()) < 1e-9
        assert np.abs(row.numpy() - wanted.x).max() < 1e-4


def test_a_row_is_what_it_would_be_alone() -> None:
    start = torch.zeros(2, 3, dtype=torch.float64)
    both = minimise_rows(quadratic, start, 6)
    torch.testing.assert_close(both[:1], minimise_rows(quadratic, start[:1], 6), rtol=1e-13, atol=1e-13)


def test_no_value_rises_and_a_row_at_its_minimum_stays() -> None:
    start = torch.tensor([[1.0, -2.0, 3.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    values = [quadratic(start)[0]]
    for steps in range(1, 26):
        values.append(quadratic(minimise_rows(quadratic, start, steps))[0])
    assert all(bool((b <= a).all()) for a, b in pairwise(values))
    assert values[-1][0] == 0 and values[-1][1] < 1e-6 * values[0][1]


def test_values_that_are_not_finite_are_stepped_back_from() -> None:
    def log(theta: Tensor) -> tuple[Tensor, Tensor]:
        return (theta - theta.log()).sum(1), 1 - 1 / theta  # only for theta > 0, least at 1

    found = minimise_rows(log, torch.tensor([[0.01, 3.0]], dtype=torch.float64), 40)
    torch.testing.assert_close(found, torch.ones(1, 2, dtype=torch.float64), rtol=1e-5, atol=1e-5)
