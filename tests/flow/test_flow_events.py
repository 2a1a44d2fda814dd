"""Events: roots to rounding, directions, several at once, gradients by the implicit function theorem."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import odenet as on
from odenet.errors import BadInput
from odenet.flow import Event

pytestmark = pytest.mark.usefixtures("double", "recomputed")
G = 9.81


def ball(t: float, y: torch.Tensor) -> torch.Tensor:
    return torch.stack((y[..., 1], torch.full_like(y[..., 1], -G)), -1)


def pendulum(t: float, y: torch.Tensor) -> torch.Tensor:
    return torch.stack((y[1], -torch.sin(y[0])))


@pytest.mark.parametrize("gradient", ["autograd", "discrete", "checkpoint"])
@pytest.mark.parametrize(("name", "steps"), [("dopri5", None), ("bosh3", None), ("rk4", 40), ("ab3", 400)])
def test_a_falling_ball_hits_the_ground_when_the_formula_says(gradient: str, name: str, steps: int | None) -> None:
    y0 = torch.tensor([3.0, 1.0], requires_grad=True)
    ground = torch.tensor(0.5, requires_grad=True)
    sol = on.solve(
        ball, y0, [0.0, 5.0], name, steps=steps, gradient=gradient, events=lambda t, y: y[0] - ground, rtol=1e-9
    )
    v, fallen = y0[1], y0[0] - ground
    exact = (v + torch.sqrt(v**2 + 2 * G * fallen)) / G
    assert sol.status == "event" and sol.t_last == pytest.approx(exact.item(), rel=1e-11)
    torch.testing.assert_close(sol.t[-1], exact, rtol=1e-11, atol=0)
    torch.testing.assert_close(sol.y[-1], torch.stack((ground, v - G * exact)), rtol=1e-9, atol=1e-11)
    ours = torch.autograd.grad(sol.t[-1] + sol.y[-1, 1] ** 2, (y0, ground))
    theirs = torch.autograd.grad(exact + (v - G * exact) ** 2, (y0, ground))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_all_crossings_of_a_pendulum_are_those_of_scipy() -> None:
    def f(t, y):  # type: ignore[no-untyped-def]
        return [y[1], -math.sin(y[0])]

    rising, both = lambda t, y: y[0], lambda t, y: y[1] - 0.3
    rising.terminal, rising.direction = False, 1.0  # type: ignore[attr-defined]
    both.terminal, both.direction = False, 0.0  # type: ignore[attr-defined]
    theirs = solve_ivp(f, (0, 30), [1.0, 0.0], method="DOP853", rtol=1e-13, atol=1e-13, events=[rising, both])
    sol = on.solve(pendulum, torch.tensor([1.0, 0.0]), [0.0, 30.0], events=[rising, both], rtol=1e-11, atol=1e-12)
    assert sol.status == "success"
    for hits, expected in zip(sol.events, theirs.t_events):
        torch.testing.assert_close(hits.t, torch.tensor(expected), rtol=0, atol=1e-7)
    assert float(sol.events[0].y[:, 0].abs().max()) < 1e-12


def test_a_terminal_event_may_wait_for_its_third_crossing() -> None:
    sol = on.solve(
        lambda t, y: torch.stack((y[1], -y[0])), torch.tensor([0.0, 1.0]), [0.0, 20.0],
        events=Event(lambda t, y: y[0], terminal=3), rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    assert sol.status == "event" and sol.t_last == pytest.approx(3 * math.pi, abs=1e-8)
    torch.testing.assert_close(sol.events[0].t, math.pi * torch.tensor([1.0, 2.0, 3.0]), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("direction", "when"), [(1.0, 1.5 * math.pi), (-1.0, 0.5 * math.pi), (0.0, 0.5 * math.pi)])
def test_the_direction_is_that_of_g_along_the_solution(direction: float, when: float) -> None:
    sol = on.solve(
        lambda t, y: torch.stack((y[1], -y[0])), torch.tensor([1.0, 0.0]), [0.0, 9.0],
        events=Event(lambda t, y: y[0], direction=direction), rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    assert sol.t_last == pytest.approx(when, abs=1e-8)


def test_backwards_in_time_events_come_in_the_order_of_the_solve() -> None:
    sol = on.solve(
        lambda t, y: torch.stack((y[1], -y[0])), torch.tensor([1.0, 0.0]), [0.0, -9.0],
        events=lambda t, y: y[0], rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    assert sol.t_last == pytest.approx(-0.5 * math.pi, abs=1e-8)
    assert sol(-1.0)[0] == pytest.approx(math.cos(1.0), abs=1e-7)
    with pytest.raises(BadInput, match="known on"):
        sol(-2.0)


def test_several_events_in_one_step_are_told_apart_and_outputs_before_the_end_stay() -> None:
    events = [
        Event(lambda t, y: y - torch.tensor([0.31, 0.32]), terminal=False),
        Event(lambda t, y: y[0] - 0.4),
        Event(lambda t, y: y[1] - 0.9),
    ]
    t = torch.linspace(0.0, 2.0, 21)
    sol = on.solve(lambda t, y: torch.ones_like(y), torch.zeros(2), t, events=events)
    assert sol.t_last == pytest.approx(0.4, abs=1e-13) and len(sol.events[2].t) == 0
    torch.testing.assert_close(sol.events[0].t, torch.tensor([0.31, 0.32]))
    torch.testing.assert_close(sol.t, torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))
    torch.testing.assert_close(sol.y[:, 0], sol.t)


def test_an_event_that_is_zero_at_the_start_does_not_end_the_solve_there() -> None:
    sol = on.solve(ball, torch.tensor([0.0, 3.0]), [0.0, 5.0], events=lambda t, y: y[0], rtol=1e-9)
    assert sol.t_last == pytest.approx(6.0 / G, rel=1e-9) or sol.status == "success"


def test_an_event_of_a_nest_sees_the_nest() -> None:
    sol = on.solve(
        lambda t, s: {"x": s["v"], "v": -torch.ones(1)}, {"x": torch.ones(1), "v": torch.zeros(1)}, [0.0, 9.0],
        events=lambda t, s: s["x"],
    )  # fmt: skip
    assert sol.t_last == pytest.approx(math.sqrt(2.0), rel=1e-10)
    assert sol.events[0].y["v"].shape == (1, 1) and float(sol.y["v"][-1]) == pytest.approx(-math.sqrt(2.0))


@pytest.mark.parametrize(
    ("events", "sentence"),
    [(3, "an event is a function"), ("x", "an event is a function")],
)
def test_what_is_no_event_is_refused(events: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        on.solve(ball, torch.ones(2), [0.0, 1.0], events=events)
    with pytest.raises(BadInput, match="positive number of crossings"):
        Event(lambda t, y: y, terminal=-1)


@pytest.mark.parametrize("gradient", ["autograd", "discrete"])
@pytest.mark.parametrize(("name", "steps"), [("dopri5", None), ("rk4", 200)])
@pytest.mark.parametrize("times", [[0.2, 5.0], [0.2, 0.5, 5.0]])
def test_the_time_of_an_event_moves_with_the_start_of_the_grid_and_not_with_its_other_times(
    gradient: str, name: str, steps: int | None, times: list[float]
) -> None:
    """y' = -t y from y(t0) = 1 is 1/2 at T with T^2 = t0^2 + 2 log 2: dT/dt0 = t0 / T."""
    t = torch.tensor(times, requires_grad=True)
    sol = on.solve(
        lambda t, y: -t * y, torch.ones(1), t, name, steps=steps, gradient=gradient, rtol=1e-10, atol=1e-12,
        events=lambda t, y: y[0] - 0.5,
    )  # fmt: skip
    exact = math.sqrt(0.04 + 2 * math.log(2.0))
    assert sol.t_last == pytest.approx(exact, rel=1e-6)
    (g,) = torch.autograd.grad(sol.t[-1], t, retain_graph=True)
    assert g.tolist() == pytest.approx([0.2 / exact, *([0.0] * (len(times) - 1))], abs=1e-6)
    (g,) = torch.autograd.grad(sol.y[-1, 0] + sol.events[0].y[0, 0], t)  # it stays one half
    assert g.tolist() == pytest.approx([0.0] * len(times), abs=1e-9)


def test_an_event_that_depends_on_time_sees_the_users_time_where_the_grid_has_a_gradient() -> None:
    for times in ([0.2, 2.0, 5.0], [0.2, 5.0]):
        t = torch.tensor(times, requires_grad=True)
        sol = on.solve(lambda t, y: -y, torch.ones(1), t, rtol=1e-9, atol=1e-11, events=lambda t, y: y[0] - t)
        root = sol.t_last
        assert root == pytest.approx(math.exp(0.2 - root), rel=1e-8)
        (g,) = torch.autograd.grad(sol.t[-1], t)  # T = e^(t0 - T)
        assert g.tolist() == pytest.approx([root / (1 + root), *([0.0] * (len(times) - 1))], abs=1e-7)
