"""Gradient "exact": states in whole numbers, undone to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow import Flow
from odenet.flow.exact import engine, marks_of
from odenet.flow.gradient import Exact
from odenet.integrators import TwoStep

WIDTH = 6


def field(name: str) -> on.fields.Field:
    if name == "leapfrog":
        return on.fields.SecondOrder(WIDTH)
    if name in ("verlet", "symplectic_euler", "yoshida4"):
        return on.fields.SeparableHamiltonian(WIDTH)
    return on.fields.Antisymmetric(WIDTH)


def flow(method: Any, gradient: Any = "exact", steps: int = 8, h: float = 0.25, **options: Any) -> Flow:
    return Flow(field(str(method)), method, gradient=gradient, steps=steps, span=(0.0, h * steps), **options)


def gamma(g: float) -> TwoStep:
    return TwoStep(-g, gain="consistent")


METHODS: dict[str, Any] = {
    "momentum": "momentum", "gamma .99": gamma(0.99), "gamma .25": gamma(0.25), "k = .5": TwoStep(0.5),
    "leapfrog": "leapfrog", "two_step_midpoint": "two_step_midpoint", "verlet": "verlet", "yoshida4": "yoshida4",
    "symplectic_euler": "symplectic_euler",
}  # fmt: skip


@pytest.mark.parametrize(("name", "dtype", "steps"), [
    ("momentum", torch.float32, 1000), ("momentum", torch.float64, 1000), ("gamma .99", torch.float64, 200),
    ("gamma .25", torch.float64, 200), ("two_step_midpoint", torch.float64, 200), ("leapfrog", torch.float32, 200),
    ("verlet", torch.float32, 200),
])  # fmt: skip
@torch.no_grad()
def test_hundreds_of_steps_come_back_bit_by_bit(name: str, dtype: torch.dtype, steps: int) -> None:
    march = flow(METHODS[name], depth="shared", steps=steps, h=0.05).to(dtype).march
    piece = {k: (v[0],) for k, v in flow(METHODS[name], depth="shared").to(dtype).theta().items()}
    y = torch.randn(5, WIDTH, dtype=dtype)
    run = engine(march.integrator)(march.integrator, y, 44)
    seen = [(run.X, run.V, run.R)]
    marks = marks_of(march)
    for mark in marks:
        run.ahead(march.rhs(0, piece), mark)
        seen.append((run.X, run.V, run.R))
    for mark, before in zip(reversed(marks), reversed(seen[:-1])):
        run.back(march.rhs(0, piece), mark)
        assert all(torch.equal(a, b) for a, b in zip((run.X, run.V, run.R), before))
    torch.testing.assert_close(run.y, y, rtol=0.0, atol=2.0**-44 if dtype == torch.float64 else 0.0)
    assert float((seen[-1][0] - seen[0][0]).double().norm()) > 2.0**40


@torch.no_grad()
def test_a_velocity_shrinks_by_the_fraction_up_to_the_last_digits_and_remainders_fit() -> None:
    """V -> 9/10 V within 9 units; 62 bits hold log(2^62)/log(10/9) steps, then the remainders are put aside."""
    march = flow("momentum", depth="shared", steps=1000).double().march
    run = engine(march.integrator)(march.integrator, torch.zeros(50, WIDTH, dtype=torch.float64), 44)
    marks = marks_of(march)
    for mark in marks[1:]:
        run.V = torch.randint(-(2**50), 2**50, run.V.shape)
        before = run.V
        run.ahead(lambda t, y: torch.zeros_like(y), mark)  # type: ignore[arg-type]
        assert float((run.V.double() - 0.9 * before.double()).abs().max()) <= 9.0
        assert int(run.R.min()) >= 0 and int(run.R.max()) < 2**62
    room = (62 - math.log2(10)) / math.log2(10 / 9)
    first, second = (step for step, _ in run.full)
    assert 0.95 * room < first <= room and 0.95 * room < second - first <= room


def grads(flow: Flow, y: Tensor, trajectory: bool = False) -> list[Tensor]:
    y = y.clone().requires_grad_()
    out = flow.trajectory(y) if trajectory else flow(y)
    found = torch.autograd.grad((out * torch.linspace(-1.0, 2.0, WIDTH)).square().sum(), [y, *flow.parameters()])
    return [out.detach(), *found]


# states are rounded to 2^-44 = 6e-14, velocities times n/d to n units of that, which d/(d - n) steps add up
DIGITS = {"momentum": 1e-10, "gamma .99": 1e-9}


@pytest.mark.parametrize("options", [{}, {"depth": "shared", "substeps": 3}, {"depth": "piecewise_linear"}], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_the_steps(name: str, options: dict[str, Any], double: None) -> None:
    y = torch.randn(4, WIDTH)
    plain, exact = flow(METHODS[name], "autograd", **options), flow(METHODS[name], **options)
    for saved in (False, True):
        for ours, theirs in zip(grads(exact, y, saved), grads(plain, y, saved), strict=True):
            assert float((ours - theirs).norm()) <= DIGITS.get(name, 1e-11) * float(theirs.norm())


def test_deep_momentum_nets_have_their_gradient_where_floating_point_has_lost_it(double: None) -> None:
    make = {"depth": "shared", "steps": 500, "h": 0.02}
    y = torch.randn(8, WIDTH)
    plain, exact = flow("momentum", "autograd", **make), flow("momentum", **make)
    for ours, theirs in zip(grads(exact, y), grads(plain, y), strict=True):
        assert float((ours - theirs).norm()) <= 1e-8 * float(theirs.norm())
    with pytest.raises(Incompatible, match="'reversible' ran the steps backwards and missed the start"):
        grads(flow("momentum", "reversible", **make), y)


def test_what_is_kept_does_not_grow_with_the_steps_but_for_packed_remainders() -> None:
    def kept(method: str, steps: int) -> int:
        total = [0]

        def pack(t: Tensor) -> Tensor:
            total[0] += t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            flow(method, depth="shared", steps=steps, h=0.01)(torch.randn(64, WIDTH, requires_grad=True))
        return total[0]

    state = 64 * WIDTH * 8
    assert kept("leapfrog", 800) == kept("leapfrog", 20)
    assert kept("momentum", 800) - kept("momentum", 20) == 2 * state  # 8 bytes for each 380 steps


def _noisy(t: float, y: Tensor) -> Tensor:
    return torch.randn_like(y)


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: flow("rk4"), Incompatible, "'rk4' is neither"),
    (lambda: flow("lm"), Incompatible, "two-step methods of fixed k and splittings can; 'lm' is neither"),
    (lambda: flow("euler"), Incompatible, "'euler' is neither"),
    (lambda: flow("momentum", substeps=2), Incompatible, "use one step per knot interval"),
    (lambda: flow("verlet", Exact(bits=0)), BadInput, "a whole number from 1 to 52, got 0"),
    (lambda: flow("verlet")(torch.full((1, WIDTH), 1e6)), Incompatible,
     r"keeps 44 bits after the point, and a state or slope reached 1\.0e\+06"),
    (lambda: flow("verlet")(torch.full((1, WIDTH), math.nan)), Incompatible, "a state or slope reached nan"),
    (lambda: torch.func.vmap(flow("verlet"))(torch.randn(2, 3, WIDTH)), Incompatible, "does not run inside torch.func"),
    (lambda: grads(Flow(_noisy, "momentum", depth="shared", steps=4, gradient="exact"), torch.randn(2, WIDTH)),
     Incompatible, "did not come back to the start, so the field gave other values"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "sentence"), WRONG)
def test_what_cannot_be_exact_is_refused_in_one_line(make: Callable[[], Any], kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_another_method_keeps_the_gradient_or_turns_to_autograd() -> None:
    exact = flow("verlet")
    assert exact.with_integrator("yoshida4").gradient.name == "exact"
    assert exact.with_integrator("rk4").gradient.name == "autograd"
    assert flow("verlet", "reversible").with_integrator("rk4").gradient.name == "autograd"


def test_fewer_bits_leave_room_for_larger_states() -> None:
    y = torch.full((1, WIDTH), 1e6)
    torch.testing.assert_close(flow("verlet", Exact(bits=20))(y), flow("verlet", "autograd")(y), rtol=1e-5, atol=1e-5)
