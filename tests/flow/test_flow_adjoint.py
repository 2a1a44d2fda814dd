"""Gradients by the adjoint equations, binomial checkpoints and forward mode."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torchdiffeq

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow import adjoint
from odenet.flow.gradient import Continuous, Revolve

pytestmark = pytest.mark.usefixtures("double", "recomputed")
ALL = ["discrete", "checkpoint", "binomial", "forward", "continuous", "interpolated"]
EXACT = ["discrete", "checkpoint", "binomial", "forward"]


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([[0.2, -1.0], [1.1, -0.1]]))
        self.b = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, t: float, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(y @ self.a.T) * self.b + 0.1 * torch.sin(torch.as_tensor(t)) * y


def grads(gradient, name: str, steps: int | None, t=(0.0, 0.4, 1.0), field=None, tol=1e-10):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    net, y0 = field or Small(), torch.tensor([[0.3, -0.8], [1.0, 0.4], [0.1, 0.2]], requires_grad=True)
    sol = on.solve(net, y0, list(t), name, steps=steps, gradient=gradient, rtol=tol, atol=tol)
    weight = torch.linspace(0.5, 1.5, sol.y.numel()).reshape(sol.y.shape)
    return torch.autograd.grad((weight * sol.y**2).sum(), [y0, *net.parameters()])


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize(("name", "steps"), [("rk4", 7), ("ab3", 9), ("dopri5", None), ("bosh3", None), ("heun", 1)])
def test_exact_gradients_are_those_of_autograd_to_rounding(gradient: str, name: str, steps: int | None) -> None:
    for ours, theirs in zip(grads(gradient, name, steps, tol=1e-6), grads("autograd", name, steps, tol=1e-6)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", ["continuous", "interpolated"])
@pytest.mark.parametrize("t", [(0.0, 0.4, 1.0), (1.0, 0.4, -0.2)])
def test_adjoint_equations_approach_the_exact_gradient(gradient: str, t: tuple[float, ...]) -> None:
    exact = grads("autograd", "dopri5", None, t, tol=1e-12)
    loose, tight = (
        max(float((a - b).abs().max()) for a, b in zip(grads(gradient, "dopri5", None, t, tol=tol), exact))
        for tol in (1e-4, 1e-9)
    )
    assert tight < 1e-6 and tight < 1e-2 * loose


def test_the_continuous_adjoint_is_that_of_torchdiffeq() -> None:
    torch.manual_seed(0)
    net, y0, t = Small(), torch.tensor([[0.3, -0.8]], requires_grad=True), torch.tensor([0.0, 0.5, 1.0])
    theirs = torchdiffeq.odeint_adjoint(net, y0, t, rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad(theirs.square().sum(), [y0, *net.parameters()])
    for how in ("continuous", Continuous(seminorm=True), Continuous(integrator="dopri8"), "interpolated"):
        ours = on.solve(net, y0, t, rtol=1e-10, atol=1e-10, gradient=how)
        for a, b in zip(torch.autograd.grad(ours.y.square().sum(), [y0, *net.parameters()]), expected):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_the_seminorm_takes_fewer_backward_steps() -> None:
    calls = []
    for seminorm in (False, True):
        net = Small()
        count = [0]
        net.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        y0 = torch.tensor([[0.3, -0.8]], requires_grad=True)
        sol = on.solve(net, y0, [0.0, 8.0], rtol=1e-8, atol=1e-8, gradient=Continuous(seminorm=seminorm))
        sol.y[-1].sum().backward()
        calls.append(count[0])
    assert calls[1] < calls[0]


def test_flows_with_weights_per_interval_take_every_gradient() -> None:
    for gradient in ("binomial", "forward", "continuous", "interpolated"):
        reference = on.Flow(on.fields.Free(3), "rk4", steps=3, substeps=40, seed=1)
        flow = on.Flow(on.fields.Free(3), "rk4", steps=3, substeps=40, seed=1, gradient=gradient)
        y = torch.linspace(-1, 1, 6).reshape(2, 3)
        expected = torch.autograd.grad(reference(y).square().sum(), list(reference.parameters()))
        ours = torch.autograd.grad(flow(y).square().sum(), list(flow.parameters()))
        for a, b in zip(ours, expected):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)


@cache
def fewest(steps: int, budget: int) -> int:
    """Steps redone by the best schedule, by dynamic programming: keep a state after m, reverse the rest, then m."""
    if steps <= 1:
        return 0
    if budget == 0:
        return steps * (steps - 1) // 2
    return min(m + fewest(steps - m, budget - 1) + fewest(m, budget) for m in range(1, steps))


@pytest.mark.parametrize("budget", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [2, 3, 7, 20, 33, 57])
def test_binomial_checkpoints_redo_as_few_steps_as_the_best_schedule(steps: int, budget: int) -> None:
    def redone(n: int, s: int) -> int:
        if n <= 1:
            return 0
        if s == 0:
            return n * (n - 1) // 2
        m = adjoint.cut(n, s)
        return m + redone(n - m, s - 1) + redone(m, s)

    assert redone(steps, budget) == fewest(steps, budget)


def test_binomial_keeps_no_more_states_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    deepest = [0]
    inner = adjoint._Revolve.sweep

    def counted(self, low, high, y, carry, budget, *rest):  # type: ignore[no-untyped-def]
        deepest[0] = max(deepest[0], 3 - budget)
        return inner(self, low, high, y, carry, budget, *rest)

    monkeypatch.setattr(adjoint._Revolve, "sweep", counted)
    for a, b in zip(grads(Revolve(3), "rk4", 30), grads("autograd", "rk4", 30)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert deepest[0] == 3


def test_forward_mode_refuses_thousands_of_scalars() -> None:
    net = torch.nn.Linear(60, 60)
    with pytest.raises(BadInput, match="one tangent per scalar"):
        on.solve(net, torch.zeros(60), [0.0, 1.0], gradient="forward")


@pytest.mark.parametrize("gradient", ["binomial", "forward", "continuous", "interpolated"])
def test_what_these_gradients_cannot_do_is_said(gradient: str) -> None:
    a = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(Incompatible, match="other tensors that require a gradient"):
        on.solve(lambda t, y: a * y, torch.ones(2), [0.0, 1.0], gradient=gradient)
    if gradient in ("continuous", "interpolated"):
        with pytest.raises(Incompatible, match="needs a plain one-step method"):
            on.solve(on.fields.HarmonicOscillator(), torch.ones(2), [0.0, 1.0], "verlet", steps=3, gradient=gradient)
    y0 = torch.ones(2, requires_grad=True)
    sol = on.solve(lambda t, y: -(y**3), y0, [0.0, 1.0], "rk4", steps=4, gradient=gradient)
    (g,) = torch.autograd.grad(sol.y[-1].sum(), y0, create_graph=True)
    with pytest.raises(Incompatible, match="first derivative only"):
        torch.autograd.grad(g.sum(), y0)


def test_a_complex_state_has_the_gradient_of_its_closed_form() -> None:
    for gradient in ALL:
        y0 = torch.tensor([1.0 + 0.5j, -0.3j], requires_grad=True)
        t = torch.tensor([0.0, 0.7])
        sol = on.solve(lambda t, y: (0.1 + 1j) * y, y0, t, gradient=gradient, rtol=1e-10, atol=1e-12)
        (ours,) = torch.autograd.grad(sol.y[-1].real.sum(), y0)
        (theirs,) = torch.autograd.grad((y0 * torch.exp(torch.tensor((0.1 + 1j) * 0.7))).real.sum(), y0)
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def test_solve_itself_can_be_pushed_forward() -> None:
    y0, v = torch.tensor([0.5, 1.0]), torch.tensor([1.0, -2.0])
    f = lambda y: on.solve(lambda t, y: -(y**2), y, [0.0, 1.0], gradient="autograd", rtol=1e-10, atol=1e-12).y[-1]  # noqa: E731
    _, tangent = torch.func.jvp(f, (y0,), (v,))
    torch.testing.assert_close(tangent, v / (1 + y0) ** 2, rtol=1e-8, atol=0)


@pytest.mark.parametrize("steps", [40, None])
def test_a_small_graph_is_kept_and_a_large_one_recomputed_with_the_same_gradient(
    steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dopri5"
    expected = grads("autograd", name, steps)
    passes = []
    for whole in (2**26, 30_000, 0):  # all kept; given up on the way; never tried
        monkeypatch.setattr("odenet.flow.gradient.WHOLE", whole)
        count = [0]
        net = Small()
        net.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        for a, b in zip(grads("discrete", name, steps, field=net), expected):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        passes.append(count[0])
    assert passes[0] < 0.7 * passes[2] <= passes[1]
