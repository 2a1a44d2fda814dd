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


def admissible(name: str) -> on.Field:
    needs = on.integrators.get(name).needs
    if "separable" in needs:
        return on.fields.SeparableHamiltonian(6)
    return on.fields.SecondOrder(6) if "second_order" in needs else on.fields.Free(6)


def grads(flow: on.Flow, y: torch.Tensor, trajectory: bool = False) -> list[torch.Tensor]:
    y = y.clone().requires_grad_()
    out = flow.trajectory(y) if trajectory else flow(y)
    weight = torch.linspace(0.5, 1.5, out.numel()).reshape(out.shape)
    return list(torch.autograd.grad((weight * out**2).sum(), [y, *flow.parameters()]))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("depth", ["per_step", "piecewise_linear", "shared"])
@pytest.mark.parametrize("gradient", ["checkpoint", "discrete", "reversible"])
def test_every_gradient_equals_autograd_or_refuses(name: str, depth: str, gradient: str) -> None:
    y = torch.randn(4, 6)
    make = dict(depth=depth, steps=4, seed=1)
    integrator = on.integrators.get(name)
    substeps = None if integrator.adaptive and gradient != "reversible" else 2 if not integrator.history else 1
    reference = on.Flow(admissible(name), name, substeps=substeps, **make)
    if gradient == "reversible" and not integrator.reversible:
        with pytest.raises(Incompatible, match="needs an integrator with an inverse"):
            on.Flow(admissible(name), name, substeps=substeps, gradient=gradient, **make)
        return
    flow = on.Flow(admissible(name), name, substeps=substeps, gradient=gradient, **make)
    flow.load_state_dict(reference.state_dict())
    for trajectory in (False, True):
        for ours, theirs in zip(grads(flow, y, trajectory), grads(reference, y, trajectory)):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gradient", ["checkpoint", "discrete"])
@pytest.mark.parametrize("name", ["ab2", "ab3", "two_step_midpoint", "leapfrog"])
def test_checkpoints_of_multistep_methods_cross_restarts_and_substeps(name: str, gradient: str) -> None:
    y = torch.randn(4, 6)
    make = dict(steps=3, substeps=5, seed=1)
    reference = on.Flow(admissible(name), name, **make)
    flow = on.Flow(admissible(name), name, gradient=gradient, **make)
    for ours, theirs in zip(grads(flow, y), grads(reference, y)):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_passes_gradcheck() -> None:
    for gradient, name in (("checkpoint", "rk4"), ("reversible", "verlet"), ("reversible", "leapfrog")):
        flow = on.Flow(admissible(name), name, steps=3, gradient=gradient)
        assert torch.autograd.gradcheck(flow, (torch.randn(2, 6, requires_grad=True),))


def test_second_order_fields_are_reversible_as_position_and_velocity() -> None:
    y = torch.randn(4, 6)
    plain = on.Flow(on.fields.SecondOrder(6), "verlet", steps=8)
    back = on.Flow(on.fields.SecondOrder(6), "verlet", steps=8, gradient="reversible")
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


def test_reversible_gradients_agree_at_a_thousand_layers() -> None:
    make = dict(depth="piecewise_linear", steps=1000, span=(0.0, 20.0), init="constant")
    y = torch.randn(4, 6)
    plain = on.Flow(on.fields.SeparableHamiltonian(6), "verlet", **make)
    back = on.Flow(on.fields.SeparableHamiltonian(6), "verlet", gradient="reversible", **make)
    for ours, theirs in zip(grads(back, y), grads(plain, y)):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-10


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
        y = torch.randn(5, 6)
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
