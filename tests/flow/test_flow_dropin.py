"""torchdiffeq's entry points: the same calls, the same numbers, after changing the import."""

from __future__ import annotations

import math

import pytest
import torch
import torchdiffeq
from torch import nn

import odenet as on
from odenet.errors import BadInput, SolveFailed

pytestmark = pytest.mark.usefixtures("double")
FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]
ADAPTIVE = ["dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert isinstance(t, torch.Tensor) and t.dim() == 0
        return self.net(y) * torch.cos(t)


def both(call, *args, **options):  # type: ignore[no-untyped-def]
    return call(on, *args, **options), call(torchdiffeq, *args, **options)


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize(
    "options", [None, {"step_size": 0.13}, {"step_size": 0.13, "interp": "cubic"}, {"perturb": True}]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_fixed_steps_give_the_same_numbers_and_gradients(method: str, options, reverse: bool) -> None:  # type: ignore[no-untyped-def]
    net, t = Net(), torch.linspace(0.0, 1.0, 5)
    t = t.flip(0) if reverse else t
    y0 = torch.randn(3, 2, requires_grad=True)
    grads = []
    for lib in (on, torchdiffeq):
        y = lib.odeint(net, y0, t, method=method, options=options)
        grads.append((y, *torch.autograd.grad(y.square().sum(), [y0, *net.parameters()])))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("method", [*ADAPTIVE, None])
@pytest.mark.parametrize("reverse", [False, True])
def test_adaptive_methods_keep_the_tolerance_in_values_and_gradients(method: str | None, reverse: bool) -> None:
    net, t = Net(), torch.linspace(0.0, 1.0, 7)
    t = (t.flip(0) if reverse else t).requires_grad_()
    y0 = torch.randn(3, 2, requires_grad=True)
    tol = 1e-6 if method in ("fehlberg2", "adaptive_heun") else 1e-9
    inputs = [y0, *net.parameters()]
    y = on.odeint(net, y0, t, method=method, rtol=tol, atol=tol)
    dt, *ours = torch.autograd.grad(y.square().sum(), [t, *inputs])
    exact = torchdiffeq.odeint(net, y0, t.detach(), method="dopri8", rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(exact.square().sum(), inputs)
    steps = 1000 if tol == 1e-6 else 100  # local errors add up over many steps of a method of low order
    for a, b in zip((y, *ours), (exact, *expected)):
        torch.testing.assert_close(a, b, rtol=steps * tol, atol=steps * tol)
    with torch.no_grad():  # dL/dt_i = dL/dy_i . f(t_i, y_i), and the costate at the start for t_0
        slopes = [net(s, x) for s, x in zip(t, exact)]
        moved = torch.stack([2 * (x * f).sum() for x, f in zip(exact, slopes)])
        moved[0] = -((expected[0] - 2 * y0) * slopes[0]).sum()
    torch.testing.assert_close(dt, moved, rtol=3000 * tol, atol=3000 * tol)


@pytest.mark.parametrize("options", [None, {"norm": "seminorm"}])
def test_the_adjoint_gives_the_same_gradients(options) -> None:  # type: ignore[no-untyped-def]
    net, t = Net(), torch.linspace(0.0, 1.0, 3).requires_grad_()
    y0 = torch.randn(3, 2, requires_grad=True)
    grads = []
    for lib in (on, torchdiffeq):
        y = lib.odeint_adjoint(net, y0, t, rtol=1e-9, atol=1e-9, method="dopri5", adjoint_options=options)
        grads.append((y, *torch.autograd.grad(y.square().sum(), [y0, t, *net.parameters()])))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_adjoint_parameters_may_be_named_and_others_get_nothing() -> None:
    a, b = torch.tensor(0.5, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    f = lambda t, y: a * y + b  # noqa: E731
    t, y0 = torch.tensor([0.0, 1.0]), torch.ones(2)
    y = on.odeint_adjoint(f, y0, t, adjoint_params=(a,))
    y[-1].sum().backward()
    reference = torchdiffeq.odeint_adjoint(f, y0, t, adjoint_params=(a,))
    expected = torch.autograd.grad(reference[-1].sum(), a)[0]
    torch.testing.assert_close(a.grad, expected, rtol=1e-6, atol=0)
    assert b.grad is None
    with pytest.raises(BadInput, match=r"make func an nn\.Module"):
        on.odeint_adjoint(f, y0, t)
    with pytest.raises(ValueError):
        torchdiffeq.odeint_adjoint(f, y0, t)


def test_tuples_keep_their_form_and_may_have_tolerances_of_their_own() -> None:
    f = lambda t, s: (s[1], -s[0])  # noqa: E731
    y0 = (torch.ones(2), torch.zeros(2))
    t = torch.tensor([0.0, 1.0, 2.0])
    for rtol in (1e-9, (1e-9, 1e-10)):
        ours = on.odeint(f, y0, t, rtol=rtol, atol=1e-9)
        theirs = torchdiffeq.odeint(f, y0, t, rtol=rtol, atol=1e-9)
        assert isinstance(ours, tuple)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_the_bouncing_ball_of_the_readme() -> None:
    """torchdiffeq's README example of events, with gradients to the parameters."""

    class Ball(nn.Module):
        def __init__(self, odeint) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.gravity = nn.Parameter(torch.tensor(9.8))
            self.log_radius = nn.Parameter(torch.log(torch.tensor(0.5)))
            self.odeint = odeint

        def forward(self, t, state):  # type: ignore[no-untyped-def]
            _pos, vel, log_radius = state
            return vel, torch.full_like(vel, 1.0) * -self.gravity, torch.zeros_like(log_radius)

        def event_fn(self, t, state):  # type: ignore[no-untyped-def]
            pos, _, log_radius = state
            return pos - torch.exp(log_radius)

    found = []
    for lib in (on, torchdiffeq):
        for adjoint in (False, True):
            ball = Ball(lib.odeint)
            state = (torch.tensor([10.0]), torch.tensor([0.0]), ball.log_radius.reshape(1))
            event_t, solution = lib.odeint_event(
                ball, state, torch.tensor(0.0), event_fn=ball.event_fn, reverse_time=False, atol=1e-8, rtol=1e-8,
                odeint_interface=lib.odeint_adjoint if adjoint else lib.odeint,
            )  # fmt: skip
            grads = torch.autograd.grad(event_t + solution[1][-1, 0], [ball.gravity, ball.log_radius])
            found.append((event_t, solution[0][-1], solution[1][-1], *grads))
    exact = math.sqrt(2 * 9.5 / 9.8)
    assert float(found[0][0].detach()) == pytest.approx(exact, rel=1e-12)
    for other in found[1:]:
        for a, b in zip(found[0], other):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("method", "options"), [("dopri5", None), ("rk4", {"step_size": 0.01}), ("tsit5", None)])
def test_events_in_reverse_time_and_with_fixed_steps(method: str, options) -> None:  # type: ignore[no-untyped-def]
    f = lambda t, y: torch.stack((y[1], -y[0]))  # noqa: E731
    y0, t = torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])
    when, states = on.odeint(f, y0, t, method=method, options=options, event_fn=lambda t, y: y[0])
    assert float(when) == pytest.approx(-math.pi / 2, abs=1e-6) and states.shape == (2, 2)
    if options is not None:
        with pytest.raises(BadInput, match="needs options=dict\\(step_size"):
            on.odeint(f, y0, t, method=method, event_fn=lambda t, y: y[0])


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_callbacks_are_told_of_the_same_steps(method: str) -> None:
    class F(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log: list[tuple[str, float, float]] = []

        def forward(self, t, y):  # type: ignore[no-untyped-def]
            return -50 * (y - torch.cos(t))

        def callback_step(self, t0, y0, dt):  # type: ignore[no-untyped-def]
            self.log.append(("step", float(t0), float(dt)))

        def callback_accept_step(self, t0, y0, dt):  # type: ignore[no-untyped-def]
            self.log.append(("accept", float(t0), float(dt)))

        def callback_reject_step(self, t0, y0, dt):  # type: ignore[no-untyped-def]
            self.log.append(("reject", float(t0), float(dt)))

    logs = []
    t = torch.linspace(0.0, 0.2, 11) if method == "rk4" else torch.tensor([0.0, 0.2])
    options = None if method == "rk4" else {"first_step": 0.2}
    for lib in (on, torchdiffeq):
        f = F()
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchdiffeq warns that fixed steps know no accepted ones
            lib.odeint(f, torch.zeros(1), t, method=method, options=options)
        logs.append(f.log)
    ours, theirs = logs
    if method == "rk4":
        steps = [[e[1:] for e in log if e[0] == "step"] for log in logs]
        torch.testing.assert_close(torch.tensor(steps[0]), torch.tensor(steps[1]))
        return
    assert {e[0] for e in ours} == {e[0] for e in theirs} == {"step", "accept", "reject"}
    assert ours[0] == theirs[0] == ("step", 0.0, 0.2) and ours[1][0] == theirs[1][0] == "reject"
    assert sum(e[0] == "step" for e in ours) == sum(e[0] != "step" for e in ours)


def test_dense_output_is_that_of_the_closed_form_and_differentiable() -> None:
    y0 = torch.ones(2, requires_grad=True)
    at = on.odeint_dense(lambda t, y: -y, y0, 0.0, 2.0, method="dopri5")
    for s in (0.0, 0.3, 1.1, 2.0):
        torch.testing.assert_close(at(torch.tensor(s)), y0 * math.exp(-s), rtol=1e-6, atol=0)
    (g,) = torch.autograd.grad(at(1.0).sum(), y0)
    torch.testing.assert_close(g, torch.full((2,), math.exp(-1.0)), rtol=1e-6, atol=0)
    with pytest.raises(BadInput, match="known on"):
        at(3.0)


def test_jumps_and_step_times_are_landed_on() -> None:
    f = lambda t, y: torch.where(t < 0.5, 1.0, -1.0) * torch.ones_like(y)  # noqa: E731
    t = torch.tensor([0.0, 0.25, 0.75, 1.0])
    y = on.odeint(f, torch.zeros(1), t, method="dopri5", options={"jump_t": torch.tensor([0.5])})
    torch.testing.assert_close(y[:, 0], torch.tensor([0.0, 0.25, 0.25, 0.0]), rtol=0, atol=1e-12)
    options = {"grid_constructor": lambda f, y0, t: torch.linspace(0, 1, 9)}
    own, theirs = (
        lib.odeint(lambda t, y: -y, torch.ones(1), t, method="rk4", options=options) for lib in (on, torchdiffeq)
    )
    torch.testing.assert_close(own, theirs)


def test_a_norm_over_a_part_of_the_state_is_used() -> None:
    f = lambda t, s: (-s[0], 300.0 * torch.cos(300.0 * t) * torch.ones_like(s[1]))  # noqa: E731
    y0, t = (torch.ones(1), torch.zeros(1)), torch.tensor([0.0, 1.0])
    counts = []
    for norm in (None, lambda s: s[0].abs().max()):
        calls = [0]

        def counted(t, s, calls=calls):  # type: ignore[no-untyped-def]
            calls[0] += 1
            return f(t, s)

        options = {} if norm is None else {"norm": norm}
        y = on.odeint(counted, y0, t, method="dopri5", options=options)
        counts.append(calls[0])
        assert float(y[0][-1]) == pytest.approx(math.exp(-1.0), rel=1e-6)
    assert counts[1] < counts[0] / 5


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams", "kvaerno5", "radau_iia5"])
def test_adams_names_and_names_of_odenet_are_methods_too(method: str) -> None:
    t = torch.linspace(0.0, 1.0, 101) if "adams" in method else torch.tensor([0.0, 1.0])
    y = on.odeint(lambda t, y: -y, torch.ones(2), t, method=method)
    torch.testing.assert_close(y[-1], torch.full((2,), math.exp(-1.0)), rtol=1e-6, atol=0)


def test_what_torchdiffeq_answers_silently_or_with_an_assertion_is_a_sentence() -> None:
    with pytest.warns(UserWarning, match="the error is estimated at .* of the state, and the worst step at t = "):
        on.odeint(lambda t, y: y**2, torch.ones(1), torch.tensor([0.0, 2.0]), method="rk4")
    with pytest.raises(SolveFailed, match=r"'dopri5_shampine' stopped at t = (1|0.99999)"):
        on.odeint(lambda t, y: y**2, torch.ones(1), torch.tensor([0.0, 2.0]))
    with pytest.raises(SolveFailed, match="raise max_num_steps"):
        on.odeint(
            lambda t, y: -1e4 * y, torch.ones(1), torch.arange(2.0), method="dopri5", options={"max_num_steps": 9}
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(t=[0.0, 1.0]), "1-dim tensor of floating-point times"),
        (dict(t=torch.tensor([0.0, 1.0, 0.5])), "strictly increasing"),
        (dict(method="no_such"), "no integrator is called"),
        (dict(options={"step_size": 0.1}), "options belong to a method"),
        (dict(method="rk4", options={"step_size": 0.1, "grid_constructor": lambda f, y, t: t}), "two ways to say"),
        (dict(method="rk4", options={"step_size": -0.1}), "step_size is positive"),
        (dict(method="scipy_solver"), "scipy.integrate.solve_ivp"),
        (dict(y0=torch.tensor([1])), "floating-point tensors"),
        (dict(y0=torch.tensor([math.nan])), "NaN or infinite"),
        (dict(rtol=-1.0), "not negative"),
        (dict(method="verlet"), "needs a separable field"),
    ],
)
def test_bad_input_is_told_in_a_sentence(change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    given = {"func": lambda t, y: -y, "y0": torch.ones(2), "t": torch.tensor([0.0, 1.0]), **change}
    with pytest.raises(BadInput, match=sentence):
        on.odeint(given.pop("func"), given.pop("y0"), given.pop("t"), **given)


def test_unknown_options_warn() -> None:
    with pytest.warns(UserWarning, match="did you mean 'step_size'"):
        on.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 5), method="rk4", options={"stepsize": 0.1})
    with pytest.warns(UserWarning, match=r"options \['max_order'\] are not used"):  # its order is 4 here
        options = {"max_order": 5}
        on.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 9), method="explicit_adams", options=options)
    with pytest.warns(UserWarning, match=r"options \['first_step'\] are not used"):
        on.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 5), method="rk4", options={"first_step": 0.1})
