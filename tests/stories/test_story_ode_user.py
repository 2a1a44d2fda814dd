"""People who bring an equation: a chemist, a modeller of falls, users of other libraries, an astronomer, a student."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import odenet as on
from odenet.errors import SolveFailed

pytestmark = pytest.mark.usefixtures("double")


# ---- a chemist with a stiff system -----------------------------------------------------------------------------------


def robertson(t: float, c: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    slow, fast, merge = 0.04 * c["a"], 3e7 * c["b"] ** 2, 1e4 * c["b"] * c["c"]
    return {"c": fast, "a": merge - slow, "b": slow - merge - fast}


START = {"a": torch.ones((), dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64),
         "c": torch.zeros((), dtype=torch.float64)}  # fmt: skip


@pytest.mark.parametrize("name", ["bdf", "radau_iia5"])
def test_the_chemist_solves_robertson_with_names_for_the_species_and_sees_what_it_cost(name: str) -> None:
    times = [0.0, 0.4, 40.0, 4e4]
    sol = on.solve(robertson, START, times, name, rtol=1e-7, atol=1e-11)
    assert sol.success and sol.y["a"].shape == (4,)
    # published values at t = 0.4, 40 and 4e4 (LSODE's test problem)
    expected = {"a": [9.8517e-01, 7.1580e-01, 3.8983e-02], "b": [3.3864e-05, 9.1851e-06, 1.6218e-07],
                "c": [1.4794e-02, 2.8419e-01, 9.6102e-01]}  # fmt: skip
    for species, values in expected.items():
        assert sol.y[species][1:].tolist() == pytest.approx(values, rel=1e-3)
    total = sol.y["a"] + sol.y["b"] + sol.y["c"]
    torch.testing.assert_close(total, torch.ones(4), rtol=1e-9, atol=0)  # mass stays
    assert {"nfe", "accepted", "rejected", "jacobians", "newton", "lu"} <= set(sol.stats)
    assert sol.stats["accepted"] < 700 and sol.stats["jacobians"] < sol.stats["accepted"]
    assert f"accepted {sol.stats['accepted']}" in repr(sol)


def test_the_chemists_explicit_method_ends_within_its_budget_and_says_what_to_take() -> None:
    with pytest.raises(SolveFailed, match=r"'dopri5' on robertson: the limit of 500 steps .* \"kvaerno5\"") as told:
        on.solve(robertson, START, [0.0, 4e4], max_steps=500)
    part = told.value.solution
    assert part.status == "max_steps" and 0 < part.t_last < 4e4 and "\n" not in part.message
    by_time = on.solve(robertson, START, [0.0, 4e4], seconds=0.2, on_failure="return")
    assert by_time.status == "time_budget" and "budget of 0.2 seconds" in by_time.message


def test_the_chemist_gives_every_vessel_its_own_steps() -> None:
    rates = torch.tensor([1.0, 100.0, 1e4])[:, None]
    sol = on.solve(
        lambda t, y: -rates * (y - torch.cos(t)), torch.zeros(3, 1), [0.0, 2.0], "kvaerno5", per_sample=True,
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip
    assert sol.success and sol.status == ["success"] * 3 and len(set(sol.stats["accepted"].tolist())) > 1
    k = rates[:, 0]
    exact = k * (k * math.cos(2.0) + math.sin(2.0) - k * torch.exp(-2 * k)) / (1 + k * k)
    torch.testing.assert_close(sol.y[-1, :, 0], exact, rtol=1e-4, atol=1e-6)


# ---- a modeller who learns from the moment of an impact --------------------------------------------------------------


def test_the_modeller_fits_gravity_to_the_time_of_the_impact_and_looks_between_the_steps() -> None:
    log_g = torch.tensor(math.log(5.0), requires_grad=True)
    optimizer = torch.optim.Adam([log_g], lr=0.1)
    seen = math.sqrt(2 * 10.0 / 9.81)  # how long a fall from ten metres took

    def fall() -> on.flow.Solution:
        g = log_g.exp()
        return on.solve(
            lambda t, y: torch.stack((y[1], -g)), torch.tensor([10.0, 0.0]), [0.0, 10.0], gradient="autograd",
            events=lambda t, y: y[0], rtol=1e-8,
        )  # fmt: skip

    for _ in range(120):
        optimizer.zero_grad()
        loss = (fall().t[-1] - seen) ** 2
        loss.backward()
        optimizer.step()
    assert float(log_g.exp().detach()) == pytest.approx(9.81, rel=1e-3)
    sol = fall()
    assert sol.status == "event" and sol.t_last == pytest.approx(seen, rel=1e-3)
    t = torch.linspace(0.0, sol.t_last, 50)
    torch.testing.assert_close(sol(t)[:, 0], 10.0 - log_g.exp().detach() * t**2 / 2, rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(sol.t[-1], log_g)  # T = sqrt(2 h / g)
    assert float(slope) == pytest.approx(-sol.t_last / 2, rel=1e-8)


# ---- a user of torchdiffeq who changes one import --------------------------------------------------------------------


def losses_of(odeint: Any) -> list[float]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    class Func(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.net(y)

    func, t = Func(), torch.linspace(0.0, 1.0, 6)
    y0 = torch.randn(8, 2)
    angle = 2 * t[:, None]
    target = torch.stack((y0[:, 0] * angle.cos() + y0[:, 1] * angle.sin(), y0[:, 1] * angle.cos()), -1)
    optimizer, losses = torch.optim.Adam(func.parameters(), lr=1e-2), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (odeint(func, y0, t, rtol=1e-6, atol=1e-8, method="dopri5") - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("entry", ["odeint", "odeint_adjoint"])
def test_the_torchdiffeq_user_changes_one_import_and_trains_to_the_same_losses(entry: str) -> None:
    import torchdiffeq

    ours, theirs = losses_of(getattr(on, entry)), losses_of(getattr(torchdiffeq, entry))
    assert ours == pytest.approx(theirs, rel=1e-4) and ours[-1] < 0.9 * ours[0]


# ---- a user of scipy -------------------------------------------------------------------------------------------------


def test_the_scipy_user_changes_one_import_and_then_asks_for_a_gradient() -> None:
    from odenet.flow import solve_ivp

    def pendulum(t, y, length):  # type: ignore[no-untyped-def]
        return [y[1], -9.81 / length * y[0]]

    def upright(t, y, length):  # type: ignore[no-untyped-def]
        return y[0]

    upright.terminal = True  # type: ignore[attr-defined]
    sol = solve_ivp(pendulum, (0, 10), [0.1, 0.0], args=(2.0,), events=upright, rtol=1e-9, atol=1e-12)
    quarter = 0.5 * math.pi * math.sqrt(2.0 / 9.81)
    assert isinstance(sol.y, np.ndarray) and sol.status == 1 and sol.t_events[0] == pytest.approx([quarter], rel=1e-8)

    length = torch.tensor(2.0, requires_grad=True)
    y0 = torch.tensor([0.1, 0.0])
    sol = solve_ivp(pendulum, (0, 10), y0, args=(length,), events=upright, rtol=1e-9, atol=1e-12)
    (g,) = torch.autograd.grad(sol.t_events[0][0], length)
    assert float(g) == pytest.approx(quarter / (2 * 2.0), rel=1e-7)  # T ~ sqrt(length)


# ---- an astronomer ---------------------------------------------------------------------------------------------------


def test_the_astronomer_sees_that_verlet_keeps_the_energy_and_rk4_loses_it() -> None:
    field, y0 = on.fields.Kepler(), on.fields.Kepler.start(0.5)
    orbits, per_orbit = 100, 80
    t = torch.linspace(0.0, 2 * math.pi * orbits, orbits + 1)
    drift = {}
    for name in ("verlet", "rk4"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odenet says itself that rk4 may be wrong here
            sol = on.solve(field, y0, t, name, steps=per_orbit, gradient="autograd")
        energy = field.energy(sol.y, {})
        drift[name] = ((energy - energy[0]) / energy[0]).abs()
    early, late = drift["verlet"][1:51].max(), drift["verlet"][51:].max()
    assert float(late) < 2 * float(early) < 0.05
    assert float(drift["rk4"][-1]) > 5 * float(drift["rk4"][10]) > 0  # the loss adds up orbit by orbit


def test_the_astronomers_satellite_between_earth_and_moon_returns() -> None:
    mu = 0.012277471

    def arenstorf(t: float, y: torch.Tensor) -> torch.Tensor:
        x, v, dx, dv = y
        near, far = ((x + mu) ** 2 + v**2) ** 1.5, ((x - 1 + mu) ** 2 + v**2) ** 1.5
        ddx = x + 2 * dv - (1 - mu) * (x + mu) / near - mu * (x - 1 + mu) / far
        return torch.stack((dx, dv, ddx, v - 2 * dx - (1 - mu) * v / near - mu * v / far))

    # Hairer, Norsett & Wanner I, section II.0
    y0, period = torch.tensor([0.994, 0.0, 0.0, -2.00158510637908252240537862224]), 17.0652165601579625588917206249
    gaps = {}
    for rtol in (1e-7, 1e-10, 1e-12):
        sol = on.solve(arenstorf, y0, [0.0, period], "dopri8", rtol=rtol, atol=rtol)
        gaps[rtol] = float((sol.y[-1, :2] - y0[:2]).norm())
    assert gaps[1e-12] < 1e-6 < gaps[1e-7] and gaps[1e-10] < gaps[1e-7]
    assert abs(float(sol(period / 2)[1])) < 1e-4  # the orbit is symmetric about the line through earth and moon


# ---- a user of stochastic equations ----------------------------------------------------------------------------------


def test_the_finance_student_replays_a_path_by_its_seed_and_sees_the_strong_order() -> None:
    rate, volatility = 0.5, 0.4
    market = on.fields.Noisy(lambda t, y: rate * y, lambda t, y: volatility * y, noise="diagonal")
    y0 = torch.ones(400, 1)
    again = [on.solve(market, y0, [0.0, 1.0], "milstein", steps=16, seed=s).y for s in (7, 7, 8)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])

    def end(name: str, steps: int) -> torch.Tensor:
        return on.solve(market, y0, [0.0, 1.0], name, steps=steps, seed=3).y[-1]

    halved, fine = [8, 16, 32, 64], end("milstein", 1024)
    for name, order in (("euler_maruyama", 0.5), ("milstein", 1.0)):
        errors = [float((end(name, steps) - fine).abs().mean()) for steps in halved]
        assert np.polyfit(np.log(halved), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.15)
