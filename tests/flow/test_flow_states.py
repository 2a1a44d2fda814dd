"""States of every form, fields that are wrong, times with gradients, budgets."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import pytest
import torch

import odenet as on
from odenet.errors import BadInput, Incompatible, SolveFailed

pytestmark = pytest.mark.usefixtures("double", "recomputed")


class Pair(NamedTuple):
    q: torch.Tensor
    p: torch.Tensor


def test_a_nest_of_tensors_keeps_its_form_and_its_precisions() -> None:
    y0 = {"a": (torch.ones(2, 3), [torch.zeros(1, dtype=torch.float32)]), "b": Pair(torch.ones(2), torch.zeros(2))}

    def f(t: float, s: dict) -> dict:  # type: ignore[type-arg]
        (a, [c]), (q, p) = s["a"], s["b"]
        assert c.dtype == torch.float32 and a.shape[-2:] == (2, 3)
        return {"a": (-a, [torch.ones_like(c)]), "b": Pair(p, -q)}

    sol = on.solve(f, y0, [0.0, 0.5, 1.0], rtol=1e-10, atol=1e-12)
    assert isinstance(sol.y["b"], Pair) and isinstance(sol.y["a"], tuple) and isinstance(sol.y["a"][1], list)
    torch.testing.assert_close(sol.y["a"][0][-1], torch.full((2, 3), math.exp(-1)), rtol=1e-9, atol=0)
    torch.testing.assert_close(sol.y["b"].q[:, 0], torch.cos(torch.tensor([0.0, 0.5, 1.0])), rtol=0, atol=1e-9)
    assert sol.y["a"][1][0].dtype == torch.float32 and float(sol.y["a"][1][0][-1]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3"])
def test_a_complex_state_turns_in_the_plane(name: str) -> None:
    y0 = torch.tensor([1.0 + 0.0j, 0.0 + 2.0j])
    sol = on.solve(lambda t, y: 1j * y, y0, [0.0, 1.0, 3.0], integrator=name, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(sol.y[-1], y0 * complex(math.cos(3.0), math.sin(3.0)), rtol=1e-5, atol=1e-6)


def test_float32_stays_float32_and_reaches_its_rounding() -> None:
    sol = on.solve(lambda t, y: -y, torch.ones(3, dtype=torch.float32), [0.0, 1.0], rtol=1e-6, atol=1e-7)
    assert sol.y.dtype == torch.float32
    torch.testing.assert_close(sol.y[-1], torch.full((3,), math.exp(-1), dtype=torch.float32), rtol=3e-6, atol=0)


def test_a_function_of_a_tensor_time_or_of_a_number_is_understood() -> None:
    for f in (lambda t, y: y * torch.cos(t), lambda t, y: y * math.cos(t)):
        sol = on.solve(f, torch.ones(2), [0.0, 2.0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(sol.y[-1], torch.full((2,), math.exp(math.sin(2.0))), rtol=1e-8, atol=0)


def test_outputs_between_the_steps_cost_no_evaluations() -> None:
    few = on.solve(lambda t, y: -y, torch.ones(2), [0.0, 5.0], rtol=1e-8, atol=1e-10)
    t = torch.linspace(0.0, 5.0, 200)
    many = on.solve(lambda t, y: -y, torch.ones(2), t, rtol=1e-8, atol=1e-10)
    assert many.stats["nfe"] == few.stats["nfe"] and many.stats["accepted"] == few.stats["accepted"]
    torch.testing.assert_close(many.y[:, 0], torch.exp(-t), rtol=0, atol=3e-7)
    torch.testing.assert_close(few(t)[:, 0], torch.exp(-t), rtol=0, atol=3e-7)


@pytest.mark.parametrize("gradient", ["autograd", "discrete", "checkpoint"])
@pytest.mark.parametrize(("name", "steps"), [("rk4", 3), ("dopri5", None), ("ab3", 4)])
def test_the_gradient_with_respect_to_the_times_passes_gradcheck(gradient: str, name: str, steps: int | None) -> None:
    t = torch.tensor([0.1, 0.7, 1.0], requires_grad=True)
    y0 = torch.tensor([0.4, -1.0], requires_grad=True)

    def outputs(y0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        f = lambda s, y: torch.sin(s) * y - y**3  # noqa: E731
        return on.solve(f, y0, t, name, steps=steps, gradient=gradient, rtol=1e-10, atol=1e-12).y

    assert torch.autograd.gradcheck(outputs, (y0, t))


def test_the_gradient_with_respect_to_the_last_time_is_the_slope_there() -> None:
    t = torch.tensor([0.0, 1.5], requires_grad=True)
    sol = on.solve(lambda s, y: -2 * y, torch.ones(1), t, rtol=1e-10, atol=1e-12)
    first, last = torch.autograd.grad(sol.y[-1, 0], t)[0]
    assert float(last) == pytest.approx(-2 * math.exp(-3.0), rel=1e-7)
    assert float(first) == pytest.approx(2 * math.exp(-3.0), rel=1e-7)


def test_multistep_histories_restart_where_the_output_intervals_are_unequal() -> None:
    sol = on.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.1, 1.0], "ab4", steps=64)
    assert float(sol.y[-1]) == pytest.approx(math.exp(-1.0), abs=1e-8)


@pytest.mark.parametrize(
    ("f", "y0", "sentence"),
    [
        (lambda t, y: y.sum(-1, keepdim=True), torch.ones(3, 2), r"shape \(3, 1\) for a state of shape \(3, 2\)"),
        (lambda t, y: y.float(), torch.ones(2, dtype=torch.float64), "returned torch.float32 for a state of"),
        (lambda t, y: 3.0, torch.ones(2), "returned a float"),
        (lambda t, y: y.to("meta"), torch.ones(2), "returned a tensor on meta"),
        (lambda t, s: (s[0],), (torch.ones(2), torch.ones(2)), "returned 1 parts for a state of 2"),
        (lambda t, y: y, [torch.ones(2), torch.ones(1, device="meta")], "lie on different devices"),
        (lambda t, y: y, (torch.ones(2), 3), "floating-point tensors, got int"),
        (lambda t, y: y, (), "holds no tensor"),
    ],
)  # fmt: skip
def test_a_field_or_state_of_the_wrong_kind_is_told_in_a_sentence(f, y0, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=sentence):
        on.solve(f, y0, [0.0, 1.0])


def test_a_stiff_problem_under_an_explicit_method_ends_within_its_budget() -> None:
    def vdp(t: float, y: torch.Tensor) -> torch.Tensor:
        return torch.stack((y[1], 1e6 * ((1 - y[0] ** 2) * y[1] - y[0])))

    y0 = torch.tensor([2.0, -0.66])
    by_steps = on.solve(vdp, y0, [0.0, 2.0], max_steps=300, on_failure="return")
    assert by_steps.status == "max_steps" and by_steps.stats["accepted"] + by_steps.stats["rejected"] == 300
    by_time = on.solve(vdp, y0, [0.0, 2.0], seconds=0.2, on_failure="return")
    assert by_time.status == "time_budget" and 0 < by_time.t_last < 2.0
    with pytest.raises(SolveFailed, match=r"the limit of 300 steps was reached .* stiff problems"):
        on.solve(vdp, y0, [0.0, 2.0], max_steps=300)
    fixed = on.solve(lambda t, y: -y, y0, [0.0, 1.0], "euler", steps=100, max_steps=30, on_failure="return")
    assert fixed.status == "max_steps" and fixed.t_last == pytest.approx(0.3)


@pytest.mark.parametrize("gradient", ["discrete", "checkpoint", "reversible"])
def test_second_derivatives_are_refused_by_gradients_that_have_one_only(gradient: str) -> None:
    field, y0 = on.fields.HarmonicOscillator(), torch.tensor([1.0, 0.5], requires_grad=True)
    sol = on.solve(field, y0, [0.0, 1.0], "verlet", steps=5, gradient=gradient)
    (g,) = torch.autograd.grad((sol.y[-1] ** 3).sum(), y0, create_graph=True)
    with pytest.raises(Incompatible, match="has a first derivative only"):
        torch.autograd.grad(g.sum(), y0)
    assert torch.autograd.gradgradcheck(
        lambda y: on.solve(field, y, [0.0, 1.0], "verlet", steps=5, gradient="autograd").y[-1] ** 3, (y0,)
    )


def test_the_reversible_gradient_refuses_a_dissipative_run_that_it_cannot_undo() -> None:
    class Damped(on.Field):
        offers = frozenset({"separable"})

        def init(self, generator=None):  # type: ignore[no-untyped-def]
            return {}

        def forward(self, t, y, p):  # type: ignore[no-untyped-def]
            q, v = self.split(y)
            return self.join(-q, -v)

        def kick(self, t, q, p):  # type: ignore[no-untyped-def]
            return 30.0 * q

        def drift(self, t, v, p):  # type: ignore[no-untyped-def]
            return 30.0 * v

    y0 = torch.tensor([1.0, -1.0], requires_grad=True)
    sol = on.solve(Damped(), y0, [0.0, 2.0], "verlet", steps=400, gradient="reversible")
    with pytest.raises(Incompatible, match="missed the start by"):
        sol.y[-1].sum().backward()


def test_dense_output_is_refused_where_no_nodes_are_kept() -> None:
    sol = on.solve(on.fields.HarmonicOscillator(), torch.ones(2), [0.0, 1.0], "verlet", steps=5, gradient="reversible")
    with pytest.raises(BadInput, match="kept no nodes"):
        sol(0.5)


def test_a_progress_bar_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    y = [on.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], progress=p).y for p in (False, True)]
    assert torch.equal(*y)


def test_the_module_is_called_as_it_is_and_swapped_weights_are_honoured() -> None:
    net = torch.nn.Linear(2, 2)
    y0, other = torch.randn(2), {k: v.detach().clone().mul_(0.5) for k, v in net.named_parameters()}
    w = {k: v.requires_grad_() for k, v in other.items()}

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, y: torch.Tensor, gradient: str) -> torch.Tensor:
            return on.solve(self.net, y, [0.0, 1.0], gradient=gradient).y[-1]

    model = Model()
    grads = []
    for gradient in ("autograd", "discrete"):
        out = torch.func.functional_call(model, {f"net.{k}": v for k, v in w.items()}, (y0, gradient))
        grads.append(torch.autograd.grad(out.sum(), list(w.values())))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_pid_controllers_and_first_steps_are_taken() -> None:
    from odenet.integrators.adaptive import Controller

    pid = Controller(rtol=1e-8, atol=1e-10, integral=0.7, proportional=0.4, derivative=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sol = on.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], controller=pid, first_step=1e-3)
    assert float(sol.y[-1]) == pytest.approx(math.exp(-1.0), abs=1e-7)
