"""Multiple shooting: the solver that is exact for a physical system, and the loss for fits to long records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow import Parallel
from odenet.train import ShootingLoss

DOUBLE = torch.float64


class Pendulum(nn.Module):
    """q'' = -k sin q - c q'."""

    def __init__(self, k: float, c: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([k, c], dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        q, v = x.unbind(-1)
        return torch.stack((v, -self.p[0] * torch.sin(q) - self.p[1] * v), -1)


class LotkaVolterra(nn.Module):
    """u' = a u - b u v, v' = d u v - c v, by the logarithms of a, b, c, d."""

    def __init__(self, *parameters: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(parameters, dtype=DOUBLE).log())

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.p.exp().unbind()
        u, v = x.unbind(-1)
        return torch.stack((a * u - b * u * v, d * u * v - c * v), -1)


def record(field: nn.Module, start: list[float], T: float, rows: int) -> tuple[Tensor, Tensor]:
    t = torch.linspace(0.0, T, rows, dtype=DOUBLE)

    def f(_: float, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return field(torch.from_numpy(x)).numpy()

    solution = solve_ivp(f, (0.0, T), start, "DOP853", t.numpy(), rtol=1e-10, atol=1e-10)
    return t, torch.from_numpy(solution.y.T.copy())


def lbfgs(loss: ShootingLoss, rounds: int, iterations: int) -> float:
    """Rounds of L-BFGS with an update of the multipliers after each; returns J."""
    for _ in range(rounds):
        optimiser = torch.optim.LBFGS(
            loss.parameters(), max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure(optimiser: Any = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = loss()
            value.backward()
            return value

        optimiser.step(closure)  # type: ignore[arg-type]
        loss.update()
    return float(loss().detach())


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_multipliers_close_the_gaps_and_the_parameters_of_a_pendulum_come_out_from_a_poor_start() -> None:
    t, y = record(Pendulum(4.0, 0.05), [2.0, 0.0], 20.0, 101)
    field = Pendulum(1.0, 0.3)
    loss = ShootingLoss(field, t, y, 20, rho=1.0, multipliers=True, substeps=2)
    assert lbfgs(loss, 4, 12) < 1e-4
    assert field.p[0].item() == pytest.approx(4.0, abs=2e-3) and field.p[1].item() == pytest.approx(0.05, abs=2e-3)
    assert loss.gaps().abs().amax() < 1e-2


@pytest.mark.slow
def test_single_shooting_stalls_where_multiple_shooting_finds_lotka_and_volterra() -> None:
    true = (1.5, 1.0, 3.0, 1.0)
    t, y = record(LotkaVolterra(*true), [1.0, 1.0], 20.0, 101)
    single, many = LotkaVolterra(0.7, 0.5, 1.0, 0.5), LotkaVolterra(0.7, 0.5, 1.0, 0.5)
    left = lbfgs(ShootingLoss(single, t, y, 1, substeps=4), 4, 15)
    lbfgs(loss := ShootingLoss(many, t, y, 20, rho=1.0, multipliers=True, substeps=4), 3, 60)
    assert left > 1.0 and (single.p.exp() - torch.tensor(true)).abs().amax() > 0.5
    assert (many.p.exp() - torch.tensor(true)).abs().amax() < 1e-3
    assert loss.gaps().abs().amax() < 1e-3


def test_the_loss_is_the_formula_written_out() -> None:
    t, y = record(Pendulum(1.0, 0.1), [1.0, 0.0], 2.0, 9)
    y = torch.stack((y, 0.5 * y), 1)  # two samples
    field, rho = Pendulum(1.3, 0.0), 3.0
    loss = ShootingLoss(field, t, y, 4, rho=rho, multipliers=True, substeps=1)
    with torch.no_grad():
        loss.nodes += 0.1 * torch.randn(loss.nodes.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
        loss.multiplier += 0.7
    misfit, gaps, h = [], [], 0.25
    for m in range(4):
        x = loss.nodes[m]
        for k in (0, 1):
            misfit.append((x - y[2 * m + k]).square())
            k1 = field(x)
            k2 = field(x + h / 2 * k1)
            k3 = field(x + h / 2 * k2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + h * k3))
        if m < 3:
            gaps.append(x - loss.nodes[m + 1])
        else:
            misfit.append((x - y[-1]).square())
    g = torch.stack(gaps)
    wanted = torch.stack(misfit).mean() + rho / 2 * g.square().mean() + 0.7 * g.mean()
    assert float((loss().detach() - wanted.detach()).abs()) < 1e-14
    assert float((loss.gaps() - g.detach()).abs().amax()) < 1e-15


def test_multipliers_grow_by_rho_times_the_gap_and_rho_doubles_where_the_gap_stays() -> None:
    t, y = record(Pendulum(1.0, 0.1), [1.0, 0.0], 2.0, 9)
    loss = ShootingLoss(Pendulum(1.5, 0.0), t, y, 4, rho=3.0, multipliers=True)
    gaps = loss.gaps()
    loss.update()
    assert torch.equal(loss.multiplier, 3.0 * gaps) and loss.rho == 3.0
    loss.update()
    assert loss.rho == 6.0
    plain = ShootingLoss(Pendulum(1.5, 0.0), t, y, 4)
    plain.update()
    assert not plain.multiplier.any()


def test_one_segment_is_the_loss_of_the_whole_solution() -> None:
    t, y = record(Pendulum(1.0, 0.1), [1.0, 0.0], 2.0, 9)
    field = Pendulum(1.5, 0.0)
    whole = on.solve(field, y[0], t, "rk4", steps=1).y
    assert float((ShootingLoss(field, t, y, 1)() - (whole - y).square().mean()).detach().abs()) < 1e-15


def test_a_field_of_time_starts_every_segment_at_its_own_time_and_an_exact_record_has_no_loss() -> None:
    def forced(t: Any, x: Tensor) -> Tensor:
        return torch.cos(2.0 * torch.as_tensor(t, dtype=DOUBLE)) - 0.3 * x

    t = torch.linspace(0.0, 3.0, 13, dtype=DOUBLE)
    y = on.solve(forced, torch.ones(1, dtype=DOUBLE), t, "rk4", steps=2).y
    loss = ShootingLoss(forced, t, y, 4, substeps=2)
    assert float(loss().detach()) < 1e-28 and float(loss.gaps().abs().amax()) < 1e-14


def test_what_was_not_measured_is_left_out() -> None:
    t, y = record(Pendulum(1.0, 0.1), [1.0, 0.0], 2.0, 9)
    seen = y.clone()
    seen[1::2] = float("nan")
    seen[3] = y[3] + 1.0
    loss = ShootingLoss(Pendulum(1.0, 0.1), t, seen, 4, substeps=8)
    assert float(loss().detach()) == pytest.approx(1.0 * 2 / 12, rel=1e-4)
    angles = ShootingLoss(Pendulum(1.0, 0.1), t, y[:, :1], 2, nodes=y[:8:4], observe=lambda x: x[..., :1], substeps=8)
    assert float(angles().detach()) < 1e-12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"segments": 3}, "does not divide the 8 intervals"),
        ({"segments": 0}, "does not divide"),
        ({"rho": 0.0}, "rho weighs the gaps"),
        ({"t": [0.0, 1.0]}, "there are 2 times for 9 rows"),
        ({"t": [0.0, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}, "times increase in equal steps"),
        ({"t": list(range(9, 0, -1))}, "times increase in equal steps"),
        ({"y": torch.zeros(9)}, r"a floating-point tensor \(T, D\)"),
        ({"y": torch.full((9, 2), float("nan"))}, "not finite at the start"),
        ({"nodes": torch.zeros(3, 2)}, r"nodes has shape \(3, 2\) for 4 segments"),
        ({"observe": lambda x: x}, "give nodes="),
    ],
)
def test_what_cannot_be_right_is_refused_in_a_sentence(words: dict[str, Any], message: str) -> None:
    given = {"t": [float(k) for k in range(9)], "y": torch.zeros(9, 2, dtype=DOUBLE), "segments": 4, **words}
    with pytest.raises(BadInput, match=message):
        ShootingLoss(Pendulum(1.0, 0.1), **given)


# ---- the solver ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["shooting", "parareal", "mgrit"])
def test_solve_by_shooting_is_the_solution_by_steps_with_its_gradient(solver: str) -> None:
    t, y0 = [0.0, 2.0, 4.0], torch.tensor([1.0, 1.0], dtype=DOUBLE)
    grads, ends = [], []
    for how in ("autograd", Parallel(solver, coarsening=6)):
        field, start = LotkaVolterra(1.5, 1.0, 3.0, 1.0), y0.clone().requires_grad_()
        solution = on.solve(field, start, t, "rk4", steps=30, gradient=how)
        assert solution.status == "completed"
        ends.append(solution.y.detach())
        grads.append(torch.cat(torch.autograd.grad(solution.y.square().sum(), (start, field.p))))
    assert float((ends[0] - ends[1]).abs().amax()) < 1e-12
    assert float((grads[0] - grads[1]).abs().amax()) < 1e-11 * float(grads[0].abs().amax())


def test_newton_on_the_nodes_needs_few_corrections_where_parareal_needs_many() -> None:
    y0, field = torch.tensor([1.0, 1.0], dtype=DOUBLE), LotkaVolterra(1.5, 1.0, 3.0, 1.0)
    done = []
    for solver in ("shooting", "parareal"):
        on.solve(field, y0, [0.0, 5.0], "rk4", steps=100, gradient=(how := Parallel(solver, coarsening=10)))
        done.append(how.achieved.iterations)  # type: ignore[union-attr]
    assert done[0] <= 5 and done[1] > done[0]


def test_a_solve_with_unequal_times_or_events_is_refused_in_a_sentence() -> None:
    field, y0 = Pendulum(1.0, 0.1), torch.tensor([1.0, 0.0], dtype=DOUBLE)
    with pytest.raises(Incompatible, match="different sizes"):
        on.solve(field, y0, [0.0, 1.0, 3.0], "rk4", steps=10, gradient="shooting")
    with pytest.raises(Incompatible, match="no derivative in the times"):
        t = torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE, requires_grad=True)
        on.solve(field, y0, t, "rk4", steps=10, gradient="shooting")
