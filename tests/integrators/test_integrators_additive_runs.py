"""Implicit-explicit Runge-Kutta methods in use: stiff problems, gradients, shapes, types and failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from integrators_parts import Parts, linear, march, matrix, orders
from scipy.integrate import solve_ivp

import odenet as on
import odenet.integrators as integrators
from odenet.errors import ClaimRefused, Incompatible, StepFailed
from odenet.fields import SemiLinear, Split, WithJacobian
from odenet.integrators import Integrator
from odenet.integrators.additive import Additive
from odenet.integrators.library.additive import LIBRARY
from odenet.types import Step

pytestmark = pytest.mark.usefixtures("double")

DATA = {name: data for name, data in LIBRARY.items() if isinstance(data, Additive)}
METHODS = {name: integrators.resolve(data) for name, data in DATA.items()}
ADAPTIVE = [name for name, data in DATA.items() if data.b_low]


# ---- stiff problems against scipy


def _advection_diffusion(n=30):
    """u_t = -2 u_x + u_xx / 2 + u (1 - u) on (0, 1) with u = 0 at both ends; second differences."""
    dx = 1 / (n + 1)
    up, down, one = np.eye(n, k=1), np.eye(n, k=-1), np.eye(n)
    advect, diffuse = -2 * (up - down) / (2 * dx), 0.5 * (up - 2 * one + down) / dx**2
    x = dx * np.arange(1, n + 1)
    return (
        torch.from_numpy(advect),
        torch.from_numpy(diffuse),
        torch.from_numpy(np.sin(np.pi * x) + 0.5 * np.sin(3 * np.pi * x)),
    )


@pytest.fixture(scope="module")
def reference():
    advect, diffuse, u0 = _advection_diffusion()
    whole = (advect + diffuse).numpy()
    out = solve_ivp(lambda t, u: whole @ u + u * (1 - u), (0, 0.2), u0.numpy(), "Radau", rtol=1e-11, atol=1e-13,
                    jac=lambda t, u: whole + np.diag(1 - 2 * u))  # fmt: skip
    return torch.from_numpy(out.y[:, -1])


@pytest.mark.parametrize("name", METHODS)
def test_fixed_steps_on_stiff_advection_diffusion_reaction_agree_with_radau(name, reference):
    advect, diffuse, u0 = _advection_diffusion()
    f = linear(lambda t, u: u @ advect.mT + u * (1 - u), diffuse)
    assert float(torch.linalg.eigvals(diffuse).abs().max()) * 0.2 / 80 > 4  # explicit methods are unstable here
    error = float((march(METHODS[name], f, u0, 0.2, 80) - reference).abs().max())
    assert error < 10 ** (-1.5 * METHODS[name].order)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("kind", ["linear", "newton", "jacobian"])
def test_adaptive_steps_keep_the_tolerance_against_radau(name, kind, reference):
    advect, diffuse, u0 = _advection_diffusion()
    explicit = lambda u: u @ advect.mT + u * (1 - u)  # noqa: E731
    field = {
        "linear": lambda: SemiLinear(diffuse, explicit),
        "newton": lambda: Split(explicit, lambda u: u @ diffuse.mT),
        "jacobian": lambda: Split(explicit, WithJacobian(lambda u: u @ diffuse.mT, lambda t, u: diffuse)),
    }[kind]()
    solution = on.solve(field, u0, [0.0, 0.2], integrator=METHODS[name], rtol=1e-6, atol=1e-8)
    assert solution.status == "success"
    assert float((solution.y[-1] - reference).abs().max()) < 1e-6
    assert solution.stats["accepted"] < 400


# ---- gradients


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["newton", "linear", "diagonal"])
def test_gradients_of_a_step_are_those_of_finite_differences(name, kind):
    def after(y, h, a, b):
        explicit = lambda t, x: torch.sin(x * a + t)  # noqa: E731
        if kind == "newton":
            f = Parts(explicit, lambda t, x: x @ b.mT - x**3)
        else:
            f = linear(explicit, b if kind == "linear" else b.diagonal())
        step = METHODS[name].step(f, 0.1, y, h, (), None)
        return step.y if step.error is None else (step.y, step.error)

    y = torch.tensor([[0.4, -0.9], [1.1, 0.3]], requires_grad=True)
    h = torch.tensor(0.3, requires_grad=True)
    a, b = torch.tensor([0.8, -1.3], requires_grad=True), (matrix(5, 2) - 2 * torch.eye(2)).requires_grad_()
    assert torch.autograd.gradcheck(after, (y, h, a, b), atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["newton", "linear"])
def test_functorch_gives_the_gradients_of_autograd(name, kind):
    a, b, y = torch.tensor([0.8, -1.3]), matrix(5, 2) - 2 * torch.eye(2), torch.tensor([[0.4, -0.9], [1.1, 0.3]])

    def after(y, a, b):
        explicit = lambda t, x: torch.sin(x * a + t)  # noqa: E731
        f = linear(explicit, b) if kind == "linear" else Parts(explicit, lambda t, x: x @ b.mT - x**3)
        for n in range(3):
            y = METHODS[name].step(f, 0.1 * n, y, 0.1, (), None).y
        return y

    weight = torch.tensor([[1.0, -2.0], [0.5, 0.7]])
    leaves = [x.clone().requires_grad_() for x in (y, a, b)]
    expected = torch.autograd.grad((after(*leaves) * weight).sum(), leaves)
    _, pull = torch.func.vjp(after, y, a, b)
    for got, want in zip(pull(weight), expected):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    _, tangent = torch.func.jvp(after, (y, a, b), (y, a, b))
    total = sum((g * x).sum() for g, x in zip(expected, (y, a, b)))
    assert float((tangent * weight).sum()) == pytest.approx(float(total), rel=1e-11)


@pytest.mark.parametrize("gradient", ["discrete", "autograd"])
def test_gradients_through_solve_reach_the_weights_of_both_parts(gradient):
    """Against central differences of the whole solution with fixed steps."""
    net, stiff = torch.nn.Linear(2, 2), torch.nn.Parameter(torch.tensor([[-30.0, 1.0], [0.5, -2.0]]))
    y0 = torch.tensor([[1.0, 0.5]])

    def loss():
        field = SemiLinear(stiff, net)
        return (
            on.solve(field, y0, [0.0, 1.0], integrator=METHODS["ars343"], steps=10, gradient=gradient)
            .y[-1]
            .square()
            .sum()
        )

    loss().backward()
    for parameter, index in ((net.weight, (0, 1)), (net.bias, (1,)), (stiff, (0, 0)), (stiff, (1, 0))):
        eps, values = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[index] += sign * eps
            values.append(float(loss().detach()))
            with torch.no_grad():
                parameter[index] -= sign * eps
        assert float(parameter.grad[index]) == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-6)


# ---- shapes, types, failures


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["newton", "linear", "diagonal"])
def test_a_step_size_per_sample_is_the_loop_over_samples(name, kind):
    b = matrix(6, 2) - 3 * torch.eye(2)
    explicit = lambda t, y: torch.sin(y + t)  # noqa: E731

    def f():
        if kind == "newton":
            return Parts(explicit, lambda t, y: y @ b.mT - y**3)
        return linear(explicit, b if kind == "linear" else b.diagonal())

    y, h = torch.tensor([[1.0, 0.5], [0.2, -0.4], [0.7, 0.1]]), torch.tensor([[0.1], [0.0], [-0.05]])
    t = torch.tensor([[0.3], [0.2], [0.0]])
    together = METHODS[name].step(f(), t, y, h, (), None)
    for i in range(3):
        alone = METHODS[name].step(f(), float(t[i]), y[i : i + 1], float(h[i]), (), None)
        torch.testing.assert_close(together.y[i : i + 1], alone.y, rtol=1e-12, atol=1e-14)
        if alone.error is not None:
            torch.testing.assert_close(together.error[i : i + 1], alone.error, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["newton", "linear", "diagonal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
@pytest.mark.parametrize("tensor", [False, True])
def test_the_type_of_the_state_is_kept(name, kind, dtype, tensor):
    def after(y, h):
        b = (matrix(6, 2) - 3 * torch.eye(2)).to(y.dtype)
        explicit = lambda t, x: torch.sin(x)  # noqa: E731
        f = (
            Parts(explicit, lambda t, x: x @ b.mT)
            if kind == "newton"
            else linear(explicit, b if kind == "linear" else b.diagonal())
        )
        return METHODS[name].step(f, 0.0, y, h, (), None)

    y = torch.tensor([[1.0, 0.5], [0.2, -0.4]])
    y = y + 0.3j * y.flip(0) if dtype.is_complex else y
    exact, found = after(y, 0.2), after(y.to(dtype), torch.tensor(0.2) if tensor else 0.2)
    assert found.y.dtype == dtype and (found.error is None or found.error.dtype == dtype)
    torch.testing.assert_close(found.y.to(exact.y.dtype), exact.y, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
def test_states_of_any_shape_give_what_their_rows_give(shape):
    b, y = matrix(7, 3, shift=4.0), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    explicit = lambda t, x: torch.cos(x)  # noqa: E731
    for f in (linear(explicit, b), Parts(explicit, lambda t, x: x @ b.mT)):
        new = METHODS["kencarp4"].step(f, 0.0, y, 0.3, (), None).y
        for index in np.ndindex(shape[:-1]):
            alone = METHODS["kencarp4"].step(linear(explicit, b), 0.0, y[index], 0.3, (), None).y
            torch.testing.assert_close(new[index], alone, rtol=1e-12, atol=1e-13)


def test_a_backward_step_undoes_a_forward_step_to_the_order():
    f = linear(lambda t, y: torch.sin(y + t), matrix(8))
    y = torch.tensor([[1.0, -0.5, 0.3]])
    there = METHODS["kencarp4"].step(f, 0.0, y, 0.01, (), None).y
    torch.testing.assert_close(METHODS["kencarp4"].step(f, 0.01, there, -0.01, (), None).y, y, rtol=1e-9, atol=1e-10)


def test_a_stage_without_solution_fails_as_a_step():
    """y = 1 + h y^2 has no real root for h = 1."""
    f = Parts(lambda t, y: torch.zeros_like(y), lambda t, y: y**2)
    with pytest.raises(StepFailed, match="Newton"):
        METHODS["imex_euler"].step(f, 0.0, torch.ones(1), 1.0, (), None)


def test_a_field_without_parts_is_refused():
    with pytest.raises(Incompatible, match="split"):
        on.solve(lambda y: -y, torch.ones(2), [0.0, 1.0], integrator=METHODS["kencarp4"])


def test_the_matrix_of_a_constant_linear_part_is_factorised_once_for_equal_steps():
    field = SemiLinear(matrix(9, shift=5.0), torch.sin)
    solution = on.solve(field, torch.ones(3), [0.0, 1.0], integrator=METHODS["kencarp4"], steps=20)
    assert solution.stats["lu"] == 1
    assert solution.stats["jacobians"] == solution.stats["newton"] == 0


@pytest.mark.parametrize(
    ("name", "explicit", "implicit"),
    [("imex_euler", 1, 0), ("ars222", 2, 0), ("ars343", 4, 0), ("kencarp3", 4, 1), ("kencarp4", 6, 1)],
)
def test_only_what_is_read_later_is_evaluated(name, explicit, implicit):
    calls = {"explicit": 0, "implicit": 0}
    f = linear(lambda t, y: torch.sin(y), matrix(9))

    def counted(part, inner):
        def call(t, y):
            calls[part] += 1
            return inner(t, y)

        return call

    f.explicit, f.implicit = counted("explicit", f.explicit), counted("implicit", f.implicit)
    METHODS[name].step(f, 0.0, torch.ones(3), 0.1, (), None)
    assert calls == {"explicit": explicit, "implicit": implicit}


def test_a_matrix_that_varies_with_time_is_taken_at_every_stage():
    """y' = cos(t) y + sin(t) y, the first part as a matrix of the time of its weights."""
    f = Parts(lambda t, y: math.sin(t) * y, lambda t, y: math.cos(t) * y)
    f.weights, f.implicit_matrix = lambda t: {"t": t}, lambda p, y: torch.tensor([[math.cos(p["t"])]])
    found = orders(METHODS["kencarp4"], f, torch.ones(1), 2.0, math.exp(1 - math.cos(2.0) + math.sin(2.0)))
    assert found[-1] == pytest.approx(4, abs=0.2)


def test_factors_are_not_kept_where_a_gradient_goes_through_them():
    b = matrix(9, shift=3.0).requires_grad_()
    f, y = linear(lambda t, y: torch.sin(y), b), torch.ones(3)
    with torch.no_grad():
        METHODS["kencarp4"].step(f, 0.0, y, 0.1, (), None)
    grads = []
    for _ in range(2):
        grads += torch.autograd.grad(METHODS["kencarp4"].step(f, 0.0, y, 0.1, (), None).y.sum(), b)
    fresh = linear(lambda t, y: torch.sin(y), b)
    (wanted,) = torch.autograd.grad(METHODS["kencarp4"].step(fresh, 0.0, y, 0.1, (), None).y.sum(), b)
    assert torch.equal(grads[0], wanted) and torch.equal(grads[1], wanted)


class _Semi(Integrator):
    """y + h explicit + h implicit at the new point, as a user would write it for scalar linear implicit parts."""

    order = 1
    needs = frozenset({"split"})

    def step(self, f, t, y, h, carry, coef):
        new = y + h * f.explicit(t, y)
        guess = new
        for _ in range(25):
            guess = new + h * f.implicit(t + h, guess)
        return Step(guess, None, ())


def test_a_user_s_method_for_split_fields_is_observed_on_a_problem_with_parts():
    assert integrators.resolve(_Semi()).order == 1
    integrators.registration.verify(_Semi())

    class Proud(_Semi):
        order = 2

    with pytest.raises(ClaimRefused, match=r"shows order (0\.9|1\.0)"):
        integrators.registration.verify(Proud())
