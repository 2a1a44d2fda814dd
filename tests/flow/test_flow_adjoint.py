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
        with pytest.raises(Incompatible, match="needs an explicit one-step method there"):
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


NAMES = [n for n in on.integrators.names() if not on.integrators.get(n).learnable and ":" not in n]


class Parts(torch.nn.Module):
    """A small right-hand side: tanh(A y) + (0, c)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(scale * torch.tensor([[-0.2, -1.0], [0.7, 0.1]]))
        self.c = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, t: float, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(y @ self.a.T) + self.c * torch.tensor([0.0, 1.0])


class Sine(torch.nn.Module):
    """s sin(y), or s where additive noise asks for that."""

    def __init__(self, additive: bool = False) -> None:
        super().__init__()
        self.s, self.additive = torch.nn.Parameter(torch.tensor([0.3, 0.2])), additive

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.s.expand_as(y) if self.additive else self.s * torch.sin(y)


def applied(module: torch.nn.Module, prefix: str, p: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    """tanh of the module on y, with the weights that p has of it."""
    own = {n: p.get(prefix + n, w) for n, w in module.named_parameters()}
    return torch.tanh(torch.func.functional_call(module, own, (y,)))


class Spring(on.Field):
    """q' = drift(p), p' = kick(q)."""

    offers = frozenset({"separable"})

    def __init__(self) -> None:
        super().__init__()
        self.module = torch.nn.ModuleDict({"drift": torch.nn.Linear(1, 1), "kick": torch.nn.Linear(1, 1)})

    def init(self, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, t: float, y: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        q, v = self.split(y)
        return self.join(self.drift(t, v, p), self.kick(t, q, p))

    def kick(self, t: float, q: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        return applied(self.module["kick"], "kick/", p, q)

    def drift(self, t: float, v: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        return applied(self.module["drift"], "drift/", p, v)


class Swing(on.Field):
    """y'' = tanh(W y + b)."""

    offers = frozenset({"second_order"})

    def __init__(self) -> None:
        super().__init__()
        self.module = torch.nn.Linear(2, 2)

    def init(self, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, t: float, y: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        return applied(self.module, "", p, y)


def parted(name: str) -> torch.nn.Module:
    """A right-hand side with weights in the parts that the method needs, of a state with two entries."""
    method = on.integrators.get(name)
    if "separable" in method.needs:
        return Spring()
    if "second_order" in method.needs:
        return Swing()
    if "split" in method.needs:
        return on.fields.Split(Parts(), Parts(0.6))
    if "linear" in method.needs:
        return on.fields.SemiLinear(torch.nn.Parameter(torch.tensor([[-0.5, 0.2], [0.1, -0.3]])), Parts())
    if "noise" in method.needs:
        kind = "diagonal" if "diagonal" in method.strong_orders else "additive"
        return on.fields.Noisy(Parts(), Sine(kind == "additive"), kind, method.interpretations[0])
    return Parts()


def parted_grads(gradient: object, name: str, steps: int | None, tol: float = 1e-3) -> list[torch.Tensor]:
    torch.manual_seed(0)
    field, y0 = parted(name), torch.tensor([[0.3, -0.8], [1.0, 0.4]], requires_grad=True)
    sol = on.solve(field, y0, [0.0, 0.25, 0.5], name, steps=steps, gradient=gradient, rtol=tol, atol=tol, seed=3)
    weights = list(getattr(field, "module", field).parameters())
    out = torch.autograd.grad(
        (torch.linspace(0.5, 1.5, sol.y.numel()).reshape(sol.y.shape) * sol.y**2).sum(), [y0, *weights]
    )
    return list(out)


def gap(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference, in units of the gradient's size."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_of_every_integrator_is_that_of_autograd_or_refused(name: str) -> None:
    method = on.integrators.get(name)
    steps = None if method.adaptive else 2
    expected = parted_grads("autograd", name, steps)
    iterated = method.implicit and method.adaptive  # binomial schedules solve stages anew, each time to the tolerance
    for gradient in EXACT:
        least = 1e-5 if gradient == "binomial" and iterated else 1e-12
        assert gap(parted_grads(gradient, name, steps), expected) <= least, gradient
    if not method.reversible:
        with pytest.raises(Incompatible, match="needs an integrator with an inverse"):
            parted_grads("reversible", name, steps)
    elif steps is None:
        with pytest.raises(Incompatible, match="runs the steps backwards, so they are fixed"):
            parted_grads("reversible", name, steps)
    else:
        assert gap(parted_grads("reversible", name, steps), expected) <= 1e-11


@pytest.mark.parametrize("name", NAMES)
def test_the_adjoint_equations_of_every_integrator_converge_to_its_gradient_or_are_refused(name: str) -> None:
    method = on.integrators.get(name)
    for gradient in ("continuous", "interpolated"):
        if method.needs or method.history or method.implicit:
            with pytest.raises(Incompatible, match="needs an explicit one-step method there"):
                parted_grads(gradient, name, None if method.adaptive else 2)
            continue
        gaps = []
        for steps, tol in ((4, 1e-3), (16, 1e-6)):
            fixed = None if method.adaptive else steps
            gaps.append(gap(parted_grads(gradient, name, fixed, tol), parted_grads("autograd", name, fixed, tol)))
        assert gaps[1] < max(0.4 * gaps[0], 30 * tol)


def test_a_split_field_takes_the_adjoint_equations_of_its_sum_and_noise_takes_none() -> None:
    ours = parted_grads(Continuous(integrator="dopri5"), "kencarp4", None, 1e-7)
    assert gap(ours, parted_grads("autograd", "kencarp4", None, 1e-7)) < 1e-5
    with pytest.raises(Incompatible, match="is not for paths with noise"):
        parted_grads(Continuous(integrator="dopri5"), "milstein", 2)


@pytest.mark.parametrize("steps", [40, None])
def test_a_small_graph_is_kept_and_a_large_one_recomputed_with_the_same_gradient(
    steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations: a kept graph costs no second pass, one that was never tried a whole one, and adaptive steps whose
    graph outgrows the limit cost the steps up to there once more."""
    t = (0.0, 2.0, 4.0)

    def evaluations(gradient: str) -> int:
        field, count = Small(), [0]
        field.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
        for a, b in zip(grads(gradient, "dopri5", steps, t, field), expected):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        return count[0]

    expected = grads("autograd", "dopri5", steps, t)
    once = evaluations("autograd")
    accepted = once // 6  # dopri5 evaluates six times a step, and once or twice at the start; none is rejected here
    monkeypatch.setattr("odenet.flow.gradient.WHOLE", 2**26)
    assert evaluations("discrete") == once + 1  # what one evaluation keeps is measured first
    monkeypatch.setattr("odenet.flow.gradient.WHOLE", 0)
    never = evaluations("discrete")
    assert once + 6 * accepted <= never <= 2 * once + 1
    monkeypatch.setattr("odenet.flow.gradient.WHOLE", 2**26)
    monkeypatch.setattr("odenet.flow.gradient._steps_that_fit", lambda *_: 21)
    tried = evaluations("discrete") - never
    assert tried == 0 if steps else 6 * 21 < tried <= 6 * 22 + 2 < once
