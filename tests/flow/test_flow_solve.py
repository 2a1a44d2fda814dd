"""Initial value problems: right answers, honest statuses, sentences."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import odenet as on
from odenet.errors import BadInput, Incompatible, NotBuiltYet, SolveFailed

pytestmark = pytest.mark.usefixtures("double")

NAMES = [n for n in on.integrators.names() if not on.integrators.get(n).learnable]
FIXED = [n for n in NAMES if not on.integrators.get(n).adaptive]


class Cubic(on.Field):
    """q' = p^2, p' = q^2: along q = p the equation y' = y^2, for methods that kick and drift."""

    offers = frozenset({"separable"})

    def init(self, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, t: float, y: torch.Tensor, p: object) -> torch.Tensor:
        return y.flip(-1) ** 2

    def kick(self, t: float, q: torch.Tensor, p: object) -> torch.Tensor:
        return q**2

    drift = kick


def few(name: str, first: int, second: int, higher: int) -> int:
    """Steps by the order of the method; two of one that controls its error inside a step."""
    method = on.integrators.get(name)
    inside = hasattr(method, "declared") and method.declared.controls_error
    return 2 if inside else {1: first, 2: second}.get(method.order, higher)


def noiseless(name: str, f: object) -> on.Field:
    """f as the drift of an equation whose noise is zero, of a kind that the method serves."""
    method = on.integrators.get(name)
    kind = "diagonal" if "diagonal" in method.strong_orders else "additive"
    return on.fields.Noisy(f, torch.zeros_like, kind, method.interpretations[0])


def oscillator(name: str) -> tuple[object, torch.Tensor, float]:
    """The harmonic oscillator in the parts that the method needs, its start, and the position at t = 1."""
    needs, y0 = on.integrators.get(name).needs, torch.tensor([1.0, 0.5])
    turn, damp = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[-0.3, 0.1], [0.0, -0.2]])
    field: object = on.fields.HarmonicOscillator()
    if "second_order" in needs:
        return on.fields.SecondOrder(on.wrap(lambda t, y: -y)), torch.tensor([1.0]), math.cos(1.0)
    if "split" in needs:
        field = on.fields.Split(lambda y: y @ (turn - damp).T, lambda y: y @ damp.T)
    elif "linear" in needs:
        field = on.fields.SemiLinear(damp, lambda y: y @ (turn - damp).T)
    elif "noise" in needs:
        field = noiseless(name, lambda y: y @ turn.T)
    return field, y0, math.cos(1.0) + 0.5 * math.sin(1.0)


def pole(name: str) -> tuple[object, torch.Tensor]:
    """y' = y^2, y(0) = 1, which ends at t = 1, in the parts that the method needs."""
    needs, one = on.integrators.get(name).needs, torch.ones(1)
    if "separable" in needs:
        return Cubic(), torch.ones(2)
    if "second_order" in needs:  # y'' = 2 y^3 from rest ends at t = 1.31
        return on.fields.SecondOrder(on.wrap(lambda t, y: 2 * y**3)), one
    if "split" in needs:
        return on.fields.Split(lambda y: 0.5 * y**2, lambda y: 0.5 * y**2), one
    if "linear" in needs:
        return on.fields.SemiLinear(-one, lambda y: y + y**2), one
    return (noiseless(name, torch.square) if "noise" in needs else lambda t, y: y**2), one


def decay(name: str) -> tuple[object, torch.Tensor, float]:
    """y' = -y in the parts that the method needs (a spring for mechanical ones), and its first entry at t = 1."""
    needs, one = on.integrators.get(name).needs, torch.ones(1)
    if needs & {"separable", "second_order"}:
        field, y0, end = oscillator(name)
        return field, y0, end
    if "split" in needs:
        return on.fields.Split(lambda y: -0.4 * y, lambda y: -0.6 * y), one, math.exp(-1)
    if "linear" in needs:
        return on.fields.SemiLinear(-0.4 * one, lambda y: -0.6 * y), one, math.exp(-1)
    return (noiseless(name, torch.neg) if "noise" in needs else lambda t, y: -y), one, math.exp(-1)


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3"])
def test_adaptive_methods_reach_scipys_solution(name: str) -> None:
    def f(t: float, y: np.ndarray) -> np.ndarray:
        return np.array([y[1], (1 - y[0] ** 2) * y[1] - y[0] + math.sin(t)])

    exact = solve_ivp(f, (0, 5), [2.0, 0.0], method="DOP853", rtol=1e-12, atol=1e-12, t_eval=[0, 1, 2.5, 5]).y.T
    field = on.fields.VanDerPol()
    sol = on.solve(
        lambda t, y: field(t, y, {}) + torch.tensor([0.0, math.sin(t)]),
        torch.tensor([2.0, 0.0]), [0.0, 1.0, 2.5, 5.0], integrator=name, rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    assert sol.status == "success" and sol.y.shape == (4, 2)
    np.testing.assert_allclose(sol.y.numpy(), exact, rtol=0, atol=2e-7)


def test_backwards_in_time_returns_to_the_start() -> None:
    y0 = torch.tensor([1.0, 1.0])
    there = on.solve(on.fields.LotkaVolterra(), y0, [0.0, 1.0], rtol=1e-10, atol=1e-12)
    back = on.solve(on.fields.LotkaVolterra(), there.y[-1], [1.0, 0.0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(back.y[-1], y0, rtol=0, atol=1e-7)
    assert back.t.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("system", [on.fields.LotkaVolterra, on.fields.VanDerPol, on.fields.Lorenz])
def test_systems_reach_their_reference_values(system: type[on.Field]) -> None:
    y0, t, end = system.reference  # type: ignore[attr-defined]
    sol = on.solve(system(), torch.tensor(y0), [0.0, t], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(sol.y[-1], torch.tensor(end), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_every_integrator_solves_the_oscillator(name: str) -> None:
    method, (field, y0, exact) = on.integrators.get(name), oscillator(name)
    steps = None if method.adaptive else 200 if name == "momentum" else few(name, 60, 40, 20)
    sol = on.solve(field, y0, [0.0, 0.5, 1.0], integrator=name, steps=steps)  # type: ignore[arg-type]
    tolerance = 0.1 if name == "momentum" else 1e-2 if method.order == 1 else 1e-4
    assert float(sol.y[-1, 0]) == pytest.approx(exact, abs=tolerance)
    assert sol.status == ("success" if method.adaptive else "completed")


def test_a_state_keeps_its_form() -> None:
    def f(t: float, s: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"a": -s["a"], "b": s["a"].sum() * torch.ones(2, 2)}

    sol = on.solve(f, {"a": torch.ones(3), "b": torch.zeros(2, 2)}, [0.0, 0.5, 1.0], rtol=1e-10, atol=1e-12)
    assert sol.y["a"].shape == (3, 3) and sol.y["b"].shape == (3, 2, 2)
    torch.testing.assert_close(sol.y["a"][-1], math.exp(-1) * torch.ones(3), rtol=1e-9, atol=0)
    torch.testing.assert_close(sol.y["b"][-1], 3 * (1 - math.exp(-1)) * torch.ones(2, 2), rtol=1e-9, atol=0)
    pair = on.solve(lambda t, s: (s[1], -s[0]), (torch.ones(1), torch.zeros(1)), [0.0, 1.0])
    assert isinstance(pair.y, tuple) and float(pair.y[0][-1]) == pytest.approx(math.cos(1.0), abs=1e-5)
    assert sol(0.25)["a"].shape == (3,)


def test_a_second_order_field_starts_at_rest_or_from_a_pair() -> None:
    field = on.fields.SecondOrder(on.wrap(lambda t, y: -4 * y))
    rest = on.solve(field, torch.tensor([1.0]), [0.0, 1.0], rtol=1e-10, atol=1e-12)
    assert float(rest.y[-1]) == pytest.approx(math.cos(2.0), abs=1e-8)
    pair = on.solve(field, (torch.tensor([1.0]), torch.tensor([2.0])), [0.0, 1.0], integrator="verlet", steps=4000)
    q, v = pair.y
    assert float(q[-1]) == pytest.approx(math.cos(2.0) + math.sin(2.0), abs=1e-6)
    assert float(v[-1]) == pytest.approx(-2 * math.sin(2.0) + 2 * math.cos(2.0), abs=1e-6)
    with pytest.raises(Incompatible, match="starts at rest"):
        on.solve(field, (torch.tensor([1.0]), torch.tensor([2.0])), [0.0, 1.0], integrator="leapfrog", steps=10)


@pytest.mark.parametrize(("name", "order"), [("dopri5", 5.0), ("rk4", 4.0)])
def test_dense_output_has_the_local_order_of_the_polynomial(name: str, order: float) -> None:
    errors = []
    times = torch.linspace(0.003, 0.999, 57)
    for steps in (10, 20):
        sol = on.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], integrator=name, steps=steps)
        errors.append(float((sol(times)[:, 0] - torch.exp(-times)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    with pytest.raises(BadInput, match=r"known on \[0, 1\], not at t = 1.5"):
        sol(1.5)


@pytest.mark.parametrize("name", ["dopri5", "vern7", "rk4", "gauss4", "kvaerno5", "bdf", "rodas4"])
def test_dense_output_of_autograd_has_the_gradient_in_the_state_the_weights_and_the_time(name: str) -> None:
    def at(y0: torch.Tensor, k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        sol = on.solve(lambda s, y: -k * y.flip(-1) - y**3, y0, [0.0, 1.0], name, steps=2, gradient="autograd")
        return sol([t, 0.9])  # type: ignore[list-item, return-value]

    given = [torch.tensor(v, requires_grad=True) for v in ([1.0, 0.3], 0.7, 0.42)]
    assert torch.autograd.gradcheck(at, given, atol=1e-7)


def test_dense_output_of_an_adaptive_run_has_the_derivative_of_the_closed_form() -> None:
    y0, t = torch.tensor([2.0], requires_grad=True), torch.tensor([0.3, 0.77], requires_grad=True)
    given = dict(rtol=1e-10, atol=1e-12)
    at = on.solve(lambda s, y: y * torch.cos(s), y0, [0.0, 1.0], gradient="autograd", **given)(t)[:, 0]
    by_y, by_t = torch.autograd.grad(at.sum(), (y0, t))
    flow = torch.exp(torch.sin(t.detach()))
    torch.testing.assert_close(by_y[0], flow.sum(), rtol=1e-8, atol=0)
    torch.testing.assert_close(by_t, 2 * flow * torch.cos(t.detach()), rtol=1e-6, atol=0)
    grid = torch.tensor([0.0, 1.0], requires_grad=True)
    for how in (dict(gradient="discrete"), dict(gradient="autograd", t=grid)):
        sol = on.solve(**{"field": lambda s, y: y * torch.cos(torch.as_tensor(s)), "y0": y0, "t": [0.0, 1.0], **how})
        assert sol.y.requires_grad and not sol(0.3).requires_grad
    with torch.no_grad():
        assert not on.solve(lambda y: -y, y0, [0.0, 1.0], gradient="autograd")(0.3).requires_grad


@pytest.mark.parametrize("name", [n for n in NAMES if "noise" in on.integrators.get(n).needs])
def test_dense_output_of_a_path_with_noise_is_the_straight_line_between_its_nodes(name: str) -> None:
    method = on.integrators.get(name)
    kind = "diagonal" if "diagonal" in method.strong_orders else "additive"
    field = on.fields.Noisy(torch.neg, lambda y: torch.full_like(y, 0.5), kind, method.interpretations[0])
    sol = on.solve(field, torch.ones(2), torch.linspace(0.0, 1.0, 5), name, steps=1, seed=1)
    torch.testing.assert_close(sol(0.3), 0.8 * sol.y[1] + 0.2 * sol.y[2], rtol=1e-13, atol=0)
    low = float(sol.y[:, 0].min()) + 0.1
    hit = on.solve(
        field, torch.ones(2), torch.linspace(0.0, 1.0, 5), name, steps=1, seed=1, events=lambda t, y: y[0] - low
    )
    assert float(sol(float(hit.events[0].t[0]))[0]) == pytest.approx(low, abs=1e-12)


def test_times_of_a_path_with_noise_have_no_derivative() -> None:
    field = on.fields.Noisy(torch.neg, lambda y: torch.full_like(y, 0.5))
    with pytest.raises(Incompatible, match="no derivative with respect to time"):
        on.solve(field, torch.ones(1), torch.tensor([0.0, 1.0], requires_grad=True), "milstein", steps=3)
    y0 = torch.ones(1, requires_grad=True)
    with pytest.raises(Incompatible, match="at which a path with noise meets an event has no derivative"):
        on.solve(field, y0, [0.0, 5.0], "milstein", steps=50, events=lambda t, y: y[0] - 0.5)


@pytest.mark.parametrize("gradient", ["autograd", "discrete", "checkpoint"])
def test_the_gradient_with_respect_to_start_and_module_is_that_of_the_exact_solution(gradient: str) -> None:
    linear = torch.nn.Linear(2, 2, bias=False)
    y0 = torch.randn(2, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sol = on.solve(linear, y0, [0.0, 0.5, 1.0], gradient=gradient, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(sol.y.sum(), [y0, linear.weight])
    exact = sum(torch.linalg.matrix_exp(linear.weight * t) @ y0 for t in (0.0, 0.5, 1.0)).sum()  # type: ignore[union-attr]
    for a, b in zip(ours, torch.autograd.grad(exact, [y0, linear.weight])):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


# two output points or 21, in turn; the others on demand
POLES = [
    pytest.param(name, points, marks=() if ":" in name or k % 2 == (points == 21) else pytest.mark.slow)
    for k, name in enumerate(NAMES)
    for points in ((2,) if ":" in name else (2, 21))
]


@pytest.mark.parametrize(("name", "points"), POLES)
@pytest.mark.filterwarnings("ignore:.*so the result may be wrong")
def test_no_integrator_calls_a_solution_past_its_pole_a_success(name: str, points: int) -> None:
    field, y0 = pole(name)
    method = on.integrators.get(name)
    adaptive, tol = method.adaptive, 1e-3 if method.implicit else 1e-6
    steps = None if adaptive else 20 if points == 2 else 2
    sol = on.solve(
        field, y0, torch.linspace(0.0, 2.0, points), name, rtol=tol, atol=tol, steps=steps,
        on_failure="return", max_steps=3000,
    )  # fmt: skip
    assert sol.status != "success"
    assert torch.isfinite(sol.y).all() and sol.y.shape[0] == sol.t.shape[0]
    if adaptive:
        assert sol.status in ("step_underflow", "max_steps", "non_finite", "newton_failed") and sol.t_last < 1.01
        assert "t = " in sol.message


@pytest.mark.parametrize("name", ["euler", "rk4"])
def test_a_coarse_run_past_a_pole_is_suspect_with_a_warning(name: str) -> None:
    with pytest.warns(UserWarning, match="the error is estimated at .* of the state, and the worst step at t = "):
        sol = on.solve(lambda t, y: y**2, torch.ones(1), [0.0, 2.0], integrator=name, steps=2)
    assert sol.status == "suspect"


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.filterwarnings("ignore:.*half the step size")
def test_check_finds_a_coarse_run_inaccurate_and_a_fine_one_a_success(name: str) -> None:
    field, y0 = pole(name)
    coarse = on.solve(field, y0, [0.0, 2.0], name, steps=3, check=True, on_failure="return")
    assert coarse.status in ("inaccurate", "non_finite", "newton_failed")
    field, y0, exact = decay(name)
    steps = 300 if name == "momentum" else few(name, 60, 20, 20)
    fine = on.solve(field, y0, [0.0, 1.0], name, steps=steps, check=True, rtol=2e-2, atol=1e-3)
    assert fine.status == "success"
    if not name.startswith("torchdiffeq") and name != "momentum":  # those do not follow error = C h^p here
        true_error = abs(float(fine.y[-1, 0]) - exact) / (1e-3 + 2e-2 * exact)
        assert fine.error is not None and true_error <= 2.5 * fine.error + 1e-9


def test_a_failure_names_integrator_time_sample_and_component_and_keeps_the_partial_result() -> None:
    y0 = torch.tensor([[0.1, 0.1], [0.1, 5.0]])
    with pytest.raises(
        SolveFailed, match=r"'rk4' on <lambda>: .* after t = .* \(first in sample 1, component 1\)"
    ) as caught:
        on.solve(lambda t, y: y**2, y0, [0.0, 0.1, 3.0], integrator="rk4", steps=20)
    partial = caught.value.solution
    assert partial.status == "non_finite" and partial.y.shape == (2, 2, 2) and 0.1 < partial.t_last < 3.0


def test_evaluations_are_counted_as_the_field_is_called() -> None:
    calls = [0]

    def f(t: float, y: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return -y

    for name in ("dopri5", "tsit5"):
        calls[0] = 0
        sol = on.solve(f, torch.ones(2), [0.0, 1.0], integrator=name, gradient="autograd")
        assert abs(sol.stats["nfe"] - calls[0]) <= 2  # the two evaluations that choose the first step


BAD = [
    (dict(t=[0.0]), "two or more times"),
    (dict(t=[0.0, 1.0, 0.5]), "strictly increasing or strictly decreasing"),
    (dict(t=[0.0, math.nan]), "strictly increasing"),
    (dict(y0=torch.tensor([1])), "floating-point tensors, got torch.int64"),
    (dict(y0=torch.tensor([1.0, math.nan])), r"NaN or infinite entry \(component 1\)"),
    (dict(integrator="rk4"), "takes fixed steps; write steps=100"),
    (dict(integrator="rk4", steps=-1), "positive whole number of steps"),
    (dict(rtol=-1e-3), "tolerances are positive"),
    (dict(on_failure="ignore"), "'raise' or 'return'"),
    (dict(gradient="magic"), "gradient 'magic' is not known"),
    (dict(field=on.fields.Free(2)), "put it into a Flow"),
    (dict(integrator="lm", steps=3), "learned with a network"),
    (dict(integrator="verlet", steps=3), "needs a separable field"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD, ids=[s[:20] for _, s in BAD])
def test_bad_input_is_told_in_a_sentence(change: dict[str, object], sentence: str) -> None:
    given = {"field": lambda t, y: -y, "y0": torch.ones(2), "t": [0.0, 1.0], **change}
    with pytest.raises(BadInput, match=sentence):
        on.solve(**given)  # type: ignore[arg-type]


def test_compilation_is_not_built_and_says_so() -> None:
    with pytest.raises(NotBuiltYet, match="is not built in this version"):
        on.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], compile=True)
