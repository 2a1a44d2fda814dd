"""Every sample with its own time, step, status and events: each equals the solve of that sample alone."""

from __future__ import annotations

import math

import pytest
import torch

import odenet as on
from odenet.errors import Incompatible, SolveFailed
from odenet.flow import Event

pytestmark = pytest.mark.usefixtures("double")
MU = torch.tensor([[0.5], [1.0], [5.0]], dtype=torch.float64)


def vdp(mu: torch.Tensor):  # type: ignore[no-untyped-def]
    return lambda t, y: torch.cat((y[:, 1:], mu * (1 - y[:, :1] ** 2) * y[:, 1:] - y[:, :1]), 1)


Y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5], [2.0, 1.0]], dtype=torch.float64)


ADAPTIVE = [n for n in on.integrators.names() if ":" not in n and on.integrators.get(n).adaptive]


def parted(name: str, mu: torch.Tensor) -> object:
    f = vdp(mu)
    split = "split" in on.integrators.get(name).needs
    return on.fields.Split(lambda t, y: 0.5 * f(t, y), lambda t, y: 0.5 * f(t, y)) if split else f


@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_sample_takes_the_steps_it_would_take_alone(name: str) -> None:
    method, t = on.integrators.get(name), torch.linspace(0.0, 1.0, 4)
    tolerances = dict(rtol=1e-4, atol=1e-6)
    if method.history:
        with pytest.raises(Incompatible, match="works for one step size only"):
            on.solve(parted(name, MU), Y0, t, name, per_sample=True, **tolerances)
        return
    together = on.solve(parted(name, MU), Y0, t, name, per_sample=True, **tolerances)
    assert together.status == ["success"] * 3 and together.success
    # Newton's iteration renews its Jacobian for all samples at once, so it ends elsewhere within the tolerance
    newton = method.implicit and name not in ("rodas4", "ros3p", "exprb32")
    for i in range(3):
        alone = on.solve(parted(name, MU[i : i + 1]), Y0[i : i + 1], t, name, **tolerances)
        for count in ("accepted", "rejected"):
            assert abs(int(together.stats[count][i]) - alone.stats[count]) <= newton
        torch.testing.assert_close(
            together.y[:, i], alone.y[:, 0], rtol=1e-4 if newton else 1e-9, atol=1e-6 if newton else 1e-10
        )


@pytest.mark.parametrize("name", [n for n in ADAPTIVE if not on.integrators.get(n).history])
def test_discrete_gradients_per_sample_are_those_of_autograd(name: str, recomputed: None) -> None:
    method, found = on.integrators.get(name), []
    for gradient in ("autograd", "discrete"):

        class F(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mu = torch.nn.Parameter(MU.clone())

            def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return vdp(self.mu)(t, y) * (0.5 if "split" in method.needs else 1.0)

        f, y0 = F(), Y0.clone().requires_grad_()
        field = on.fields.Split(f, f) if "split" in method.needs else f
        sol = on.solve(field, y0, [0.0, 0.1], name, rtol=1e-4, atol=1e-6, per_sample=True, gradient=gradient)
        found.append(torch.autograd.grad(sol.y.square().sum(), [y0, f.mu]))
    for ours, theirs in zip(found[1], found[0]):
        assert float((ours - theirs).norm()) <= 1e-12 * float(theirs.norm())


@pytest.mark.parametrize("gradient", ["autograd", "discrete"])
def test_gradients_are_those_of_the_samples_alone(gradient: str) -> None:
    a, y0 = torch.tensor(1.3), Y0.clone().requires_grad_()
    net = torch.nn.Linear(2, 2)
    field = lambda t, y: torch.tanh(net(y)) + vdp(a * MU)(t, y)  # noqa: E731
    weights = list(net.parameters())

    class F(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return field(t, y)

    t = [0.0, 0.4, 1.0]
    sol = on.solve(F(), y0, t, rtol=1e-9, atol=1e-10, per_sample=True, gradient=gradient)
    ours = torch.autograd.grad(sol.y.square().sum(), [y0, *weights])
    tight = on.solve(F(), y0, t, rtol=1e-11, atol=1e-12, gradient="autograd")
    for x, y in zip(ours, torch.autograd.grad(tight.y.square().sum(), [y0, *weights])):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def test_samples_may_have_times_and_ends_of_their_own() -> None:
    t = torch.tensor([[0.0, 1.0], [0.5, 1.5], [1.0, 4.0]])
    sol = on.solve(lambda t, y: y * torch.cos(t), torch.ones(2, 1), t, rtol=1e-10, atol=1e-12, per_sample=True)
    exact = torch.exp(torch.sin(t) - torch.sin(t[0]))
    torch.testing.assert_close(sol.y[:, :, 0], exact, rtol=1e-7, atol=0)
    torch.testing.assert_close(sol.t, t)


def test_one_sample_that_blows_up_does_not_disturb_the_others() -> None:
    y0 = torch.tensor([[0.1], [1.0], [2.0]])
    sol = on.solve(lambda t, y: y**2, y0, [0.0, 1.5], per_sample=True, on_failure="return", rtol=1e-9, atol=1e-12)
    assert sol.status[0] == "success" and not set(sol.status[1:]) & {"success"}
    assert float(sol.y[-1, 0]) == pytest.approx(1 / (10 - 1.5), rel=1e-8)
    assert sol.t_last[1] == pytest.approx(1.0, abs=1e-3) and sol.t_last[2] == pytest.approx(0.5, abs=1e-3)
    assert sol.t_last[1] < 1.0001
    with pytest.raises(SolveFailed, match=r"2 of 3 samples did not reach the end, the first is sample 1"):
        on.solve(lambda t, y: y**2, y0, [0.0, 1.5], per_sample=True)


def test_every_sample_has_its_own_event_and_its_gradient() -> None:
    def ball(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack((y[:, 1], torch.full_like(y[:, 0], -9.81)), 1)

    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0], [300.0, 0.0]], requires_grad=True)
    sol = on.solve(ball, y0, [0.0, 5.0], per_sample=True, events=lambda t, y: y[:, 0], rtol=1e-9)
    assert sol.status == ["event", "event", "success"]
    exact = torch.sqrt(2 * y0[:2, 0] / 9.81)
    torch.testing.assert_close(sol.events[0].t[0, :2], exact, rtol=1e-11, atol=0)
    assert bool(sol.events[0].t[0, 2].isnan()) and sol.y[-1, :2, 0].abs().max().item() < 1e-10
    torch.testing.assert_close(sol.t[-1], torch.cat((exact, torch.tensor([5.0]))))
    ours = torch.autograd.grad(sol.events[0].t[0, :2].sum(), y0)[0][:2, 0]
    torch.testing.assert_close(ours, torch.autograd.grad(exact.sum(), y0)[0][:2, 0], rtol=1e-9, atol=0)


def test_crossings_that_do_not_end_the_solve_are_counted_per_sample() -> None:
    omega = torch.tensor([[1.0], [2.0]])
    sol = on.solve(
        lambda t, y: omega * torch.stack((y[:, 1], -y[:, 0]), 1), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [0.0, 4.0],
        per_sample=True, events=Event(lambda t, y: y[:, 0], terminal=False), rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    times = sol.events[0].t
    expected = math.pi / 2 * torch.tensor([[1.0, 0.5], [math.nan, 1.5], [math.nan, 2.5]])
    torch.testing.assert_close(times, expected, rtol=0, atol=1e-8, equal_nan=True)


def test_fixed_steps_per_sample_equal_the_loop_over_samples() -> None:
    t = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 0.5]])
    sol = on.solve(vdp(MU), Y0, t, "rk4", steps=20, per_sample=True)
    assert sol.status == ["completed"] * 3
    for i in range(3):
        alone = on.solve(vdp(MU[i : i + 1]), Y0[i : i + 1], t[:, i], "rk4", steps=20)
        torch.testing.assert_close(sol.y[-1, i], alone.y[-1, 0], rtol=1e-12, atol=1e-13)


def test_what_cannot_be_had_per_sample_is_refused() -> None:
    for change, sentence in (
        (dict(integrator="ab2", steps=3), "works for one step size only"),
        (dict(integrator="rk4", steps=3, check=True), "works for one step size only"),
        (dict(t=torch.tensor([0.0, 1.0], requires_grad=True)), "one grid for all samples"),
        (dict(events=lambda t, y: y), "one number per sample"),
        (dict(t=torch.zeros(2, 5) + torch.tensor([[0.0], [1.0]])), "columns for 5 samples"),
    ):
        given = {"t": [0.0, 1.0], **change}
        with pytest.raises(Incompatible, match=sentence):
            on.solve(vdp(MU), Y0, per_sample=True, **given)  # type: ignore[arg-type]
