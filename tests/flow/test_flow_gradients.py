"""All gradient methods give the derivative of what was computed; reversible ones in flat memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import odenet as on
from odenet.errors import Incompatible

pytestmark = pytest.mark.usefixtures("double", "recomputed")

PLAIN = [n for n in on.integrators.names() if not n.startswith("torchdiffeq")]
WIDTH = 4


class Wave(torch.nn.Module):
    """s cos(y) or, for additive noise, s: a diffusion with weights of its own."""

    def __init__(self, additive: bool) -> None:
        super().__init__()
        self.s, self.additive = torch.nn.Parameter(torch.linspace(0.2, 0.4, WIDTH)), additive

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.s.expand_as(y) if self.additive else self.s * torch.cos(y)


def admissible(name: str) -> on.Field:
    """A field with weights that has the parts which this integrator needs."""
    integrator, free = on.integrators.get(name), on.fields.Free(WIDTH)
    if "separable" in integrator.needs:
        return on.fields.SeparableHamiltonian(WIDTH)
    if "second_order" in integrator.needs:
        return on.fields.SecondOrder(WIDTH)
    if "split" in integrator.needs:
        return on.fields.Split(free, on.fields.Free(WIDTH, layers=2))
    if "linear" in integrator.needs:
        matrix = torch.linspace(-1.0, 0.5, WIDTH**2).reshape(WIDTH, WIDTH)
        return on.fields.SemiLinear(
            torch.nn.Parameter(matrix), torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())
        )
    if "noise" in integrator.needs:
        kind = "diagonal" if "diagonal" in integrator.strong_orders else "additive"
        drift = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())
        return on.fields.Noisy(drift, Wave(kind == "additive"), kind, integrator.interpretations[0])
    return free


def seeded(flow: on.Flow) -> dict[str, int]:
    return {"seed": 7} if "noise" in flow.integrator.needs else {}


def grads(flow: on.Flow, y: torch.Tensor, trajectory: bool = False) -> list[torch.Tensor]:
    y = y.clone().requires_grad_()
    out = flow.trajectory(y, **seeded(flow)) if trajectory else flow(y, **seeded(flow))
    weight = torch.linspace(0.5, 1.5, out.numel()).reshape(out.shape)
    return list(torch.autograd.grad((weight * out**2).sum(), [y, *flow.parameters()]))


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor], gap: float = 1e-12) -> None:
    """Equal to rounding, in units of the gradient's size."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert float((a - b).norm()) <= gap * float(b.norm())


DEPTHS = ("per_step", "piecewise_linear", "shared")
# one depth for each integrator, in turn; the others on demand
PAIRS = [
    pytest.param(name, depth, marks=() if k % 3 == j else pytest.mark.slow)
    for k, name in enumerate(PLAIN)
    for j, depth in enumerate(DEPTHS)
]


@pytest.mark.parametrize(("name", "depth"), PAIRS)
def test_recomputing_gradients_equal_autograd_through_the_same_steps(name: str, depth: str) -> None:
    integrator = on.integrators.get(name)
    substeps = None if integrator.adaptive else 2 if not integrator.history else 1
    make = dict(
        depth=depth,
        steps=2 if not integrator.history else 4,
        substeps=substeps,
        seed=1,
        rtol=1e-3,
        atol=1e-3,
        span=(0.0, 0.6),
    )
    if "linear" in integrator.needs and depth == "piecewise_linear":
        with pytest.raises(Incompatible, match="varies inside a step, but exponential methods take L as constant"):
            on.Flow(admissible(name), name, **make)
        return
    reference, y = on.Flow(admissible(name), name, **make), torch.randn(2, WIDTH)
    expected = {trajectory: grads(reference, y, trajectory) for trajectory in {True, depth != "shared"}}
    for gradient, trajectory in (("checkpoint", True), ("discrete", depth != "shared")):
        flow = on.Flow(admissible(name), name, gradient=gradient, **make)
        flow.load_state_dict(reference.state_dict())
        assert_same(grads(flow, y, trajectory), expected[trajectory])


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("depth", ["per_step", "shared"])
def test_running_backwards_gives_the_gradient_of_autograd_or_is_refused(name: str, depth: str) -> None:
    integrator = on.integrators.get(name)
    make = dict(depth=depth, steps=4, substeps=1, seed=1, span=(0.0, 0.6))
    if not integrator.reversible:
        with pytest.raises(Incompatible, match=r'an inverse; .* has none.*"verlet".*"reversible_heun".*"alf"'):
            on.Flow(admissible(name), name, gradient="reversible", **make)
        return
    if "noise" in integrator.needs and depth == "per_step":
        with pytest.raises(Incompatible, match="cannot run backwards over a knot where the weights jump"):
            on.Flow(admissible(name), name, gradient="reversible", **make)
        make["depth"] = "piecewise_linear"
    reference, y = on.Flow(admissible(name), name, **make), torch.randn(2, WIDTH)
    flow = on.Flow(admissible(name), name, gradient="reversible", **make)
    flow.load_state_dict(reference.state_dict())
    for trajectory in (False, True):  # the states before are recovered to rounding, which an inverse amplifies
        assert_same(grads(flow, y, trajectory), grads(reference, y, trajectory), 1e-11)


@pytest.mark.parametrize("gradient", ["checkpoint", "discrete"])
@pytest.mark.parametrize("name", ["ab2", "ab3", "two_step_midpoint", "leapfrog"])
def test_checkpoints_of_multistep_methods_cross_restarts_and_substeps(name: str, gradient: str) -> None:
    y = torch.randn(4, WIDTH)
    make = dict(steps=3, substeps=5, seed=1)
    reference = on.Flow(admissible(name), name, **make)
    flow = on.Flow(admissible(name), name, gradient=gradient, **make)
    for ours, theirs in zip(grads(flow, y), grads(reference, y)):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_passes_gradcheck() -> None:
    for gradient, name in (("checkpoint", "rk4"), ("reversible", "verlet"), ("reversible", "leapfrog")):
        flow = on.Flow(admissible(name), name, steps=3, gradient=gradient)
        assert torch.autograd.gradcheck(flow, (torch.randn(2, WIDTH, requires_grad=True),))


def test_second_order_fields_are_reversible_as_position_and_velocity() -> None:
    y = torch.randn(4, WIDTH)
    plain = on.Flow(on.fields.SecondOrder(WIDTH), "verlet", steps=8)
    back = on.Flow(on.fields.SecondOrder(WIDTH), "verlet", steps=8, gradient="reversible")
    for ours, theirs in zip(grads(back, y), grads(plain, y)):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_reversible_memory_does_not_grow_with_depth() -> None:
    """Peak bytes kept for the backward pass, counted by the saved-tensor hooks."""

    def kept(gradient: str, steps: int) -> int:
        flow = on.Flow(on.fields.SeparableHamiltonian(8), "verlet", depth="shared", steps=steps, gradient=gradient)
        total = [0]

        def pack(t: torch.Tensor) -> torch.Tensor:
            total[0] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            flow(torch.randn(16, 8, requires_grad=True)).sum()
        return total[0]

    assert kept("reversible", 64) == kept("reversible", 8)
    assert kept("autograd", 64) > 6 * kept("autograd", 8)


@pytest.mark.parametrize(("steps", "end"), [(1000, 20.0), pytest.param(10_000, 100.0, marks=pytest.mark.slow)], ids=str)
def test_reversible_gradients_agree_at_thousands_of_layers_with_smooth_weights(steps: int, end: float) -> None:
    make = dict(depth="piecewise_linear", steps=steps, span=(0.0, end), init="constant")
    y = torch.randn(4, WIDTH)
    plain = on.Flow(on.fields.SeparableHamiltonian(WIDTH), "verlet", **make)
    back = on.Flow(on.fields.SeparableHamiltonian(WIDTH), "verlet", gradient="reversible", **make)
    with torch.no_grad():
        for weights in zip(plain.parameters(), back.parameters()):
            t = torch.linspace(0.0, end, len(weights[0])).reshape(-1, *[1] * (weights[0].dim() - 1))
            for w in weights:
                w.mul_(1 + 0.3 * torch.sin(t))
    for ours, theirs in zip(grads(back, y), grads(plain, y)):
        error = float((ours - theirs).norm() / theirs.norm())
        print(f"{steps} steps to t = {end:g}: relative error of a gradient {error:.1e}")
        assert error < 1e-10


def test_a_parameter_that_the_flow_does_not_own_falls_back_or_refuses() -> None:
    a = torch.tensor(0.3, requires_grad=True)
    y = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="'autograd' is used instead"):
        on.Flow(lambda t, y: a * torch.sin(y), "rk4", gradient="checkpoint")(y).sum().backward()
    expected = torch.autograd.grad(on.Flow(lambda t, y: a * torch.sin(y), "rk4")(y).sum(), a)[0]
    torch.testing.assert_close(a.grad, expected)
    with pytest.raises(Incompatible, match="uses other tensors that require a gradient"):
        on.Flow(lambda t, y: a * torch.sin(y), "two_step_midpoint", gradient="reversible")(y)


@pytest.mark.parametrize("gradient", ["checkpoint", "discrete"])
def test_a_wrapped_module_gets_its_gradient_from_recomputation(gradient: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.Linear(7, 4))
    y = torch.randn(3, 4)
    expected = torch.autograd.grad(on.Flow(net, "rk4", depth="shared")(y).sum(), list(net.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = torch.autograd.grad(
            on.Flow(net, "rk4", depth="shared", gradient=gradient)(y).sum(), list(net.parameters())
        )
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("part", [lambda: torch.nn.Dropout(0.5), lambda: torch.nn.BatchNorm1d(4)])
def test_recomputation_refuses_modules_that_draw_or_update(part: Callable[[], torch.nn.Module]) -> None:
    block = torch.nn.Sequential(torch.nn.Linear(4, 4), part())
    on.Flow(block, "euler", depth="shared")(torch.randn(5, 4))
    with pytest.raises(Incompatible, match="evaluates the field twice"):
        on.Flow(block, "euler", depth="shared", gradient="checkpoint")


def test_seeds_can_be_a_batch_axis() -> None:
    """vmap over stacked weights equals one flow after another, under every gradient method."""
    for gradient, name in (("autograd", "rk4"), ("checkpoint", "rk4"), ("reversible", "verlet")):
        flows = [on.Flow(admissible(name), name, steps=3, gradient=gradient, seed=s) for s in range(3)]
        y = torch.randn(5, WIDTH)
        stacked, _ = torch.func.stack_module_state(flows)

        def loss(p: dict[str, torch.Tensor], flow: on.Flow = flows[0], y: torch.Tensor = y) -> torch.Tensor:
            return (torch.func.functional_call(flow, p, (y,)) ** 2).sum()

        together = torch.func.vmap(torch.func.grad(loss))(stacked)
        for s, flow in enumerate(flows):
            alone = torch.autograd.grad((flow(y) ** 2).sum(), list(flow.parameters()))
            for (key, _), g in zip(flow.named_parameters(), alone):
                torch.testing.assert_close(together[key][s], g, rtol=1e-10, atol=1e-12)


def test_a_tensor_that_starts_to_require_a_gradient_later_is_noticed() -> None:
    a, y = torch.tensor(0.3), torch.randn(3, 4, requires_grad=True)
    flow = on.Flow(lambda t, y: a * torch.sin(y), "rk4", gradient="checkpoint")
    flow(y).sum().backward()
    a.requires_grad_()
    with pytest.warns(UserWarning, match="'autograd' is used instead"):
        flow(y).sum().backward()
    assert a.grad is not None and float(a.grad.abs()) > 0
