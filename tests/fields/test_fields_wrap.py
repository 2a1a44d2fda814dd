"""Any callable or module as a field: which form it has, whose weights it uses, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.fields import FirstOrder, Free, SecondOrder, wrap

pytestmark = pytest.mark.usefixtures("double")


class Timed(nn.Module):
    """f(t, y) = t W y."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)

    def forward(self, t: float, y: Tensor) -> Tensor:
        return t * self.inner(y)


def two(t: float, y: Tensor) -> Tensor:
    return t * y


def extra(t: float, y: Tensor, k: float = 2.0) -> Tensor:
    return k * t * y


@pytest.mark.parametrize(("f", "expected"), [
    (lambda t, y: t * y, 0.5), (lambda y: 2 * y, 2.0), (two, 0.5), (extra, 1.0), (lambda y, k=3.0: k * y, 3.0),
    (lambda *a: a[0] * a[1], 0.5), (torch.neg, -1.0), (functools.partial(extra, k=4.0), 2.0), (nn.Identity(), 1.0),
])  # fmt: skip
def test_both_forms_of_a_right_hand_side_are_recognised(f: object, expected: float) -> None:
    y = torch.randn(2, 3)
    torch.testing.assert_close(wrap(f)(0.5, y, {}), expected * y)  # type: ignore[arg-type]


def test_a_field_passes_through() -> None:
    field = Free(4)
    assert wrap(field) is field


@pytest.mark.parametrize(("f", "sentence"), [
    (3, "needs a callable f"), (None, "it was given NoneType"), (lambda a, b, c: a, "3 required arguments"),
    (lambda: 0, "0 required arguments"),
])  # fmt: skip
def test_what_is_no_right_hand_side_is_refused(f: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        wrap(f)  # type: ignore[arg-type]


def test_a_module_of_three_arguments_is_refused_in_one_line() -> None:
    class Three(nn.Sequential):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return a

    with pytest.raises(BadInput, match="Three has 3 required arguments") as caught:
        wrap(Three(nn.Tanh(), nn.Tanh()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)), Timed])
def test_a_wrapped_module_uses_the_weights_it_is_given_and_keeps_its_own(make: Callable[[], nn.Module]) -> None:
    module, y = make(), torch.randn(2, 3)
    field, own = wrap(module), {k: v.clone() for k, v in module.named_parameters()}
    other = field.init(torch.Generator().manual_seed(5))

    def call() -> Tensor:
        return module(0.5, y) if isinstance(module, Timed) else module(y)

    assert torch.equal(field(0.5, y, field.init()), call()) and torch.equal(field(0.5, y, {}), call())
    out = field(0.5, y, other)
    assert not torch.equal(out, call())
    assert all(torch.equal(v, own[k]) for k, v in module.named_parameters())
    with torch.no_grad():
        for k, v in module.named_parameters():
            v.copy_(other[k.replace(".", "/")])
    assert torch.equal(out, call())


def test_init_draws_anew_with_a_generator_and_leaves_the_global_state_alone() -> None:
    field = wrap(nn.Linear(3, 3))
    before = torch.random.get_rng_state()
    a, b, c = (field.init(torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(a["weight"], b["weight"]) and not torch.equal(a["weight"], c["weight"])
    assert not torch.equal(a["weight"], field.init()["weight"])


def test_a_shared_wrapped_module_trains_the_users_own_weights() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    flow = on.Flow(module, "rk4", depth="shared", steps=3)
    assert {id(p) for p in flow.parameters()} == {id(p) for p in module.parameters()}
    flow(torch.randn(2, 3)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_wrapped_module_with_weights_per_step_equals_the_loop_over_modules() -> None:
    flow = on.Flow(nn.Linear(3, 3), "euler", steps=4, seed=2)
    y0 = y = torch.randn(2, 3)
    for n in range(4):
        y = y + 0.25 * (y @ flow.weights["weight"][n].T + flow.weights["bias"][n])
    torch.testing.assert_close(flow(y0), y, rtol=1e-13, atol=1e-14)
    assert not torch.equal(flow.weights["weight"][0], flow.weights["weight"][1])


@pytest.mark.parametrize("depth", ["shared", "per_step"])
def test_evaluation_mode_reaches_the_wrapped_module(depth: str) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    flow = on.Flow(module, "euler", depth=depth, steps=4)
    y = torch.randn(50, 3)
    flow.eval()
    assert torch.equal(flow(y), flow(y)) and not module.training
    flow.train()
    assert not torch.equal(flow(y), flow(y)) and module.training


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.Dropout1d(0.3), nn.RReLU(), nn.BatchNorm1d(3)])
@pytest.mark.parametrize("outer", [wrap, lambda m: SecondOrder(wrap(m)), lambda m: FirstOrder(SecondOrder(wrap(m)))])
@pytest.mark.parametrize("gradient", ["checkpoint", "discrete", "reversible"])
def test_random_and_updating_modules_are_refused_where_they_would_be_evaluated_twice(
    layer: nn.Module, outer: object, gradient: str
) -> None:
    module = nn.Sequential(nn.Linear(3, 3), layer)
    integrator = "momentum" if gradient == "reversible" else "rk4"
    field = outer(module)  # type: ignore[operator]
    with pytest.raises(Incompatible, match=rf"evaluates the field twice, but 1 \({type(layer).__name__}\)"):
        on.Flow(field, integrator, gradient=gradient, depth="shared")
    on.Flow(field, integrator, gradient="autograd", depth="shared")


def test_modules_that_only_look_random_are_allowed() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.BatchNorm1d(3, track_running_stats=False))
    on.Flow(module, "rk4", gradient="checkpoint", depth="shared")


@pytest.mark.parametrize("gradient", ["checkpoint", "discrete"])
@pytest.mark.parametrize("depth", ["shared", "per_step"])
def test_recomputed_gradients_of_a_wrapped_module_equal_autograd(gradient: str, depth: str) -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    y, found = torch.randn(4, 3), {}
    for name in ("autograd", gradient):
        flow = on.Flow(module, "rk4", depth=depth, steps=3, gradient=name, seed=1)
        flow.zero_grad()
        (flow(y) ** 2).sum().backward()
        found[name] = [p.grad.clone() for p in flow.parameters()]
    for a, b in zip(found["autograd"], found[gradient], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_second_order_neural_ode_is_the_system_written_out() -> None:
    force = nn.Linear(3, 3)
    flow = on.Flow(SecondOrder(wrap(force)), "euler", depth="shared", steps=5)
    y, v = torch.randn(2, 3), torch.zeros(2, 3)
    start, p = y, {k: w[0] for k, w in flow.weights.items()}
    for _ in range(5):
        y, v = y + 0.2 * v, v + 0.2 * (y @ p["weight"].T + p["bias"])
    torch.testing.assert_close(flow(start), y, rtol=1e-13, atol=1e-14)
