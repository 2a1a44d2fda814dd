"""torchdiffeq's odeint_adjoint in all its arguments, and the call patterns of its README and its examples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import nn
from torchdiffeq._impl.odeint import SOLVERS

import odenet as on
from odenet.errors import BadInput, Incompatible, SolveFailed

pytestmark = pytest.mark.usefixtures("double")
LIBRARIES = (on, torchdiffeq)


class Turning(nn.Module):
    """A field of a tensor or a pair, which writes down what the callbacks tell."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[-0.3, 1.0], [-1.0, -0.2]]))
        self.pair = pair
        self.log: dict[str, list[tuple[Any, ...]]] = {}
        for side in ("", "_adjoint"):
            for kind in ("step", "accept_step", "reject_step"):
                setattr(self, f"callback_{kind}{side}", self.writer(kind + side))

    def writer(self, kind: str) -> Callable[..., None]:
        def write(t, y, dt):  # type: ignore[no-untyped-def]
            shapes = [tuple(v.shape) for v in y] if isinstance(y, tuple) else tuple(y.shape)
            self.log.setdefault(kind, []).append((float(t.detach()), float(dt.detach()), shapes))

        return write

    def forward(self, t, y):  # type: ignore[no-untyped-def]
        return (y[0] @ self.w * torch.cos(t), -y[1]) if self.pair else y @ self.w * torch.cos(t)


def gradients(lib: Any, pair: bool = False, moving: bool = False, **given: Any) -> tuple[list[torch.Tensor], Turning]:
    f, y0 = Turning(pair), torch.ones(3, 2, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.5], requires_grad=moving)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchdiffeq warns that fixed steps know no accepted ones
        y = lib.odeint_adjoint(f, (y0, torch.ones(2)) if pair else y0, t, **given)
        total = (y[0].square().sum() + y[1].sum()) if pair else y.square().sum()
        return list(torch.autograd.grad(total, [y0, f.w, *([t] if moving else [])])), f


def linf(parts):  # type: ignore[no-untyped-def]
    return max(p.abs().max() for p in parts)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        dict(method="rk4", options={"step_size": 0.1}),
        dict(method="rk4", options={"step_size": 0.1}, adjoint_options={"step_size": 0.25}),
        dict(method="midpoint", options={"step_size": 0.05}, adjoint_method="heun3", adjoint_options={}),
        dict(method="dopri5", adjoint_method="rk4", adjoint_options={"step_size": 0.05}, rtol=1e-11, atol=1e-12),
    ],
)
def test_fixed_steps_backwards_give_the_same_numbers(pair: bool, given: dict[str, Any]) -> None:
    ours, theirs = (gradients(lib, pair, **given)[0] for lib in LIBRARIES)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        dict(),
        dict(adjoint_options={"norm": "seminorm"}),
        dict(adjoint_options={"norm": linf}),
        dict(options={"first_step": 0.01, "max_step": 0.1}),
        dict(adjoint_rtol=1e-7, adjoint_atol=1e-8, adjoint_method="bosh3", adjoint_options={}),
        dict(options={"norm": linf}),
    ],
)
def test_adaptive_steps_backwards_keep_the_tolerance(pair: bool, moving: bool, given: dict[str, Any]) -> None:
    if "options" in given and "norm" in given["options"] and not pair:
        given = {**given, "options": {"norm": lambda y: y.abs().max()}}
    given = {"method": "dopri5", "rtol": 1e-9, "atol": 1e-10, **given}
    ours, theirs = (gradients(lib, pair, moving, **given)[0] for lib in LIBRARIES)
    close = 1e-5 if "adjoint_rtol" in given else 1e-6
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=close, atol=close)


def test_callbacks_of_the_backward_solve_are_told_of_the_same_steps_and_parts() -> None:
    for pair, flat in ((False, (3, 2)), (True, (8,))):
        given = dict(method="rk4", options={"step_size": 0.25})
        ours, theirs = (gradients(lib, pair, **given)[1].log for lib in LIBRARIES)
        for a, b in zip(ours["step_adjoint"], theirs["step_adjoint"], strict=True):
            assert a[:2] == pytest.approx(b[:2]) and a[2] == b[2] == [(), flat, flat, (2, 2)]
        ours, theirs = (
            gradients(lib, pair, method="dopri5", options={"first_step": 1.5}, rtol=1e-8)[1].log for lib in LIBRARIES
        )
        assert {k for k, v in ours.items() if v} == {k for k, v in theirs.items() if v} and len(ours) == 6
        assert ours["step_adjoint"][0] == theirs["step_adjoint"][0] == (1.5, 1.5, [(), flat, flat, (2, 2)]) or (
            ours["step_adjoint"][0][0] == theirs["step_adjoint"][0][0] == 1.5
        )
        assert len(ours["step_adjoint"]) == len(ours["accept_step_adjoint"]) + len(ours["reject_step_adjoint"])


def test_callbacks_tell_the_users_time_where_the_grid_has_a_gradient() -> None:
    _, f = gradients(on, moving=True, method="rk4", options={"step_size": 0.25})
    torch.testing.assert_close(
        torch.tensor([e[:2] for e in f.log["step"]]), torch.tensor([(0.25 * i, 0.25) for i in range(6)])
    )
    assert {round(e[1], 12) for e in f.log["step_adjoint"]} == {0.25}
    assert f.log["step_adjoint"][0][0] == 1.5


def test_callbacks_are_not_told_of_the_search_for_an_event() -> None:
    logs = []
    for lib in LIBRARIES:
        f = Turning()
        with torch.no_grad():
            lib.odeint(f, torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0]), event_fn=lambda t, y: y[0, 0] - 0.9)
        logs.append(f.log)
    for log in logs:
        assert len(log["step"]) == len(log["accept_step"]) + len(log.get("reject_step", []))
        starts = [e[0] for e in log["accept_step"]]
        assert starts == sorted(set(starts))


@pytest.mark.parametrize("lib", LIBRARIES)
def test_bounds_on_the_steps_are_kept(lib: Any) -> None:
    f = Turning()
    lib.odeint(f, torch.ones(3, 2), torch.tensor([0.0, 3.0]), method="dopri5", options={"max_step": 0.1})
    assert max(e[1] for e in f.log["step"]) <= 0.1 * (1 + 1e-12) and len(f.log["step"]) >= 30
    f = Turning()
    rough = {"min_step": 0.5, "first_step": 0.5}
    lib.odeint(f, torch.ones(3, 2), torch.tensor([0.0, 3.0]), method="dopri5", options=rough, rtol=1e-14, atol=1e-14)
    assert len(f.log["step"]) == 6 and "reject_step" not in f.log


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_method_name_of_torchdiffeq_is_taken_or_refused(name: str) -> None:
    t = torch.linspace(0.0, 1.0, 101)
    if name == "scipy_solver":
        with pytest.raises(BadInput, match=r"call scipy\.integrate\.solve_ivp itself"):
            on.odeint(lambda t, y: -y, torch.ones(1), t, method=name)
        return
    first_order = name == "euler"
    y = on.odeint(lambda t, y: -y, torch.ones(1), t, method=name)[:, 0]
    torch.testing.assert_close(y, torch.exp(-t), rtol=0, atol=3e-3 if first_order else 1e-5)
    if name not in ("explicit_adams", "bosh3", "dopri8"):  # there torchdiffeq is off by 0.4, 3e-5 and 1e-5
        theirs = torchdiffeq.odeint(lambda t, y: -y, torch.ones(1), t, method=name)[:, 0]
        torch.testing.assert_close(y, theirs, rtol=0, atol=1e-5)


# ---- call patterns of the examples -----------------------------------------------------------------------------------


def test_ode_demo() -> None:
    """Fit a network to a spiral from short pieces of it."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])

    class Lambda(nn.Module):
        def forward(self, t, y):  # type: ignore[no-untyped-def]
            return torch.mm(y**3, matrix)

    losses = []
    for odeint in (on.odeint, torchdiffeq.odeint, on.odeint_adjoint, torchdiffeq.odeint_adjoint):
        torch.manual_seed(0)
        func = type("ODEFunc", (nn.Module,), {"forward": lambda self, t, y: self.net(y**3)})()
        func.net = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 2))
        t = torch.linspace(0.0, 25.0, 200)
        with torch.no_grad():
            true_y = odeint(Lambda(), torch.tensor([[2.0, 0.0]]), t, method="dopri5")
        s = torch.arange(0, 180, 20)
        batch_y0, batch_t = true_y[s], t[:8]
        batch_y = torch.stack([true_y[s + i] for i in range(8)])
        optimizer = torch.optim.RMSprop(func.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.mean(torch.abs(odeint(func, batch_y0, batch_t) - batch_y))
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-6)


def test_latent_ode() -> None:
    """A decoder reads a latent path from a shared grid; then it is extended in both directions."""

    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.nfe = nn.Linear(4, 20), nn.Linear(20, 4), 0

        def forward(self, t, x):  # type: ignore[no-untyped-def]
            self.nfe += 1
            return self.fc2(nn.functional.elu(self.fc1(x)))

    seen = []
    for odeint in (on.odeint, torchdiffeq.odeint):
        torch.manual_seed(0)
        func, z0 = Latent(), torch.randn(6, 4, requires_grad=True)
        pred_z = odeint(func, z0, torch.linspace(0.0, 2.0, 30)).permute(1, 0, 2)  # rtol 1e-7 per step
        (g,) = torch.autograd.grad(pred_z.square().mean(), z0)
        zs_pos = odeint(func, z0, torch.linspace(0.0, 3.0, 50))
        zs_neg = torch.flip(odeint(func, z0, torch.linspace(-1.0, 0.0, 20).flip(0)), dims=[0])
        seen.append((pred_z, g, torch.cat((zs_neg, zs_pos))))
        assert func.nfe > 0
    for a, b in zip(*seen):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_cnf() -> None:
    """A density carried backwards in time: a pair under the adjoint, with derivatives inside the field."""

    class CNF(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hyper = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 16))

        def forward(self, t, states):  # type: ignore[no-untyped-def]
            z = states[0]
            with torch.set_grad_enabled(True):
                z.requires_grad_(True)
                w, u = self.hyper(t.reshape(1, 1)).reshape(2, 4, 2)
                dz_dt = torch.tanh(z @ w.T) @ u / 4
                trace = sum(torch.autograd.grad(dz_dt[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
            return dz_dt, -trace.view(-1, 1)

    seen = []
    for lib in LIBRARIES:
        torch.manual_seed(0)
        func, x = CNF(), torch.randn(10, 2)
        z_t, logp_diff_t = lib.odeint_adjoint(
            func, (x, torch.zeros(10, 1)), torch.tensor([10.0, 0.0]), atol=1e-7, rtol=1e-7, method="dopri5"
        )
        prior = torch.distributions.MultivariateNormal(torch.zeros(2), 0.1 * torch.eye(2))
        logp_x = prior.log_prob(z_t[-1]) - logp_diff_t[-1].view(-1)
        loss = -logp_x.mean(0)
        loss.backward()
        seen.append([loss.detach(), *(p.grad for p in func.parameters())])
        with torch.no_grad():
            back = lib.odeint(func, (z_t[-1], logp_diff_t[-1]), torch.tensor([0.0, 10.0]), atol=1e-7, rtol=1e-7)[0]
        torch.testing.assert_close(back[-1], x, rtol=1e-4, atol=1e-4)
    for a, b in zip(*seen):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_odenet_mnist() -> None:
    """A block of convolutions that sees the time, in float32 under the adjoint."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.GroupNorm(2, 4), nn.Conv2d(5, 4, 3, padding=1)

        def forward(self, t, x):  # type: ignore[no-untyped-def]
            tt = torch.ones_like(x[:, :1]) * t
            return self.conv(torch.cat((tt, torch.relu(self.norm(x))), 1))

    seen = []
    for lib in LIBRARIES:
        torch.manual_seed(0)
        block = Block().float()
        x = torch.randn(2, 4, 6, 6, dtype=torch.float32, requires_grad=True)
        time = torch.tensor([0, 1]).float().type_as(x)
        out = lib.odeint_adjoint(block, x, time, rtol=1e-3, atol=1e-3)[1]
        out.square().mean().backward()
        seen.append([out, x.grad, *(p.grad for p in block.parameters())])
    for a, b in zip(*seen):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("adjoint", [False, True])
def test_learn_physics(adjoint: bool) -> None:
    """Bounces one after another, with a wall, gravity and restitution that are learned."""

    class Bouncing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gravity = nn.Parameter(torch.tensor(9.8))
            self.wall = nn.Parameter(torch.tensor(0.5))
            self.restitution = nn.Parameter(torch.tensor(0.8))

        def forward(self, t, state):  # type: ignore[no-untyped-def]
            pos, vel, wall = state
            return vel, -self.gravity * torch.ones_like(pos), torch.zeros_like(wall)

        def event_fn(self, t, state):  # type: ignore[no-untyped-def]
            return state[0] - state[2]

    found = []
    for lib in LIBRARIES:
        ball = Bouncing()
        interface = lib.odeint_adjoint if adjoint else lib.odeint
        t0, times = torch.tensor(0.0), []
        state = (torch.tensor([3.0]), torch.tensor([0.0]), ball.wall.reshape(1))
        for _ in range(3):
            event_t, solution = lib.odeint_event(
                ball, state, t0, event_fn=ball.event_fn, reverse_time=False, atol=1e-10, rtol=1e-10,
                odeint_interface=interface,
            )  # fmt: skip
            pos, vel, wall = (s[-1] for s in solution)
            with torch.no_grad():
                tt = torch.linspace(float(t0), float(event_t), 5)[1:-1]
                path = lib.odeint(ball, state, torch.cat([t0.reshape(-1), tt, event_t.reshape(-1)]).detach())
                assert path[0].shape == (5, 1)
            state, t0 = (pos + 1e-7, -vel * ball.restitution, wall), event_t
            times.append(event_t)
        loss = torch.stack(times).square().sum()
        found.append((torch.stack(times), *torch.autograd.grad(loss, list(ball.parameters()))))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    first = math.sqrt(2 * 2.5 / 9.8)
    assert found[0][0].tolist() == pytest.approx([first, 2.6 * first, 3.88 * first], rel=1e-6)


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(adjoint_options={"norm": "semi"}), "is 'seminorm' or a function, got 'semi'"),
        (dict(method="rk4", options={"step_size": 0.1}, adjoint_method="dopri5"), "give adjoint_options too"),
        (dict(adjoint_method="verlet", adjoint_options={}), "'verlet' needs a separable field"),
        (dict(adjoint_method="dopri55", adjoint_options={}), "did you mean 'dopri5'"),
        (dict(method="dopri5", options={"min_step": 2.0, "max_step": 1.0}), "0 <= min_step <= max_step"),
    ],
)
def test_bad_input_is_told_before_the_solve(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        on.odeint_adjoint(Turning(), torch.ones(3, 2), torch.tensor([0.0, 1.0]), **given)


def test_unknown_options_of_the_adjoint_warn_once_and_early() -> None:
    with pytest.warns(UserWarning, match=r"options \['stepsize'\] are not used .* did you mean 'step_size'"):
        y = on.odeint_adjoint(
            Turning(), torch.ones(3, 2), torch.tensor([0.0, 0.5]), method="rk4", adjoint_options={"stepsize": 0.1}
        )
    y.sum().backward()


def test_a_backward_solve_that_fails_says_which_one_it_was() -> None:
    options = {"max_num_steps": 3}
    y = on.odeint_adjoint(Turning(), torch.ones(3, 2), torch.tensor([0.0, 5.0]), adjoint_options=options)
    with pytest.raises(
        SolveFailed, match=r"the adjoint equations of 'dopri5_shampine' stopped at t = .* odeint needs no such"
    ):
        y.sum().backward()
    with pytest.raises(Incompatible, match="needs a linear field"):
        on.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method="etdrk4", options={"step_size": 0.1})
