"""Steps are pure, differentiable, keep the dtype, and act on each sample alone."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from integrators_wave import H, Wave, coefficients, march, start

import odenet.integrators as integrators
from odenet.integrators.jacobian import samples_couple
from odenet.integrators.library import LIBRARY
from odenet.integrators.rosenbrock import LinearlyImplicit
from odenet.integrators.variable import VariableAdams, VariableBDF


@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_changes_neither_the_state_nor_the_memory_it_is_given(name):
    method, f, y = integrators.get(name), Wave(), start(3)
    coef, carry = coefficients(method), ()
    for n in range(4):
        kept = [x.clone() for x in (y, *carry)]
        new, _, after, *_ = method.step(f, n * H, y, H, carry, coef)
        assert all(torch.equal(a, b) for a, b in zip(kept, (y, *carry)))
        y, carry = new, after


@pytest.mark.parametrize("name", LIBRARY)
def test_derivatives_through_three_steps_pass_gradcheck_in_state_step_size_and_coefficients(name):
    method, f = integrators.get(name), Wave()

    def run(y, t, h, k):
        coef, carry = ({"k": k} if method.learnable else None), ()
        for _ in range(3):
            y, _, carry, *_ = method.step(f, t, y, h, carry, coef)
            t = t + h
        return y

    y = start(2).requires_grad_()
    t, h, k = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.2, 0.1, -0.07))
    if method.learnable:
        assert torch.autograd.gradcheck(run, (y, t, h, k), fast_mode=True)
    else:
        assert torch.autograd.gradcheck(lambda y, t, h: run(y, t, h, None), (y, t, h), fast_mode=True)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_tensor_step_size_gives_what_a_number_gives(name):
    method, f, y = integrators.get(name), Wave(), start(2)
    h = torch.tensor(H, dtype=torch.float64)
    coef = coefficients(method)
    numbers = march(method, f, y, steps=5, coef=coef)
    tensors = march(method, f, y, steps=5, h=h, coef=coef, t=torch.zeros((), dtype=torch.float64))
    assert torch.allclose(numbers, tensors, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("name", [*LIBRARY, "torchdiffeq:rk4", "torchdiffeq:dopri5"])
def test_the_dtype_of_the_state_is_kept(name, dtype):
    method = integrators.get(name)
    f, y = Wave(dtype=dtype), start(2, dtype=dtype)
    carry, coef = (), coefficients(method, torch.float64 if dtype.is_complex else dtype)
    for h in (H, H, torch.tensor(H, dtype=torch.float64), H, H):
        y, error, carry, *_ = method.step(f, 0.1, y, h, carry, coef)
        assert y.dtype == dtype
        assert error is None or error.dtype == dtype
        ledger = isinstance(method, VariableAdams | VariableBDF)  # the last of their carry are step sizes, in float64
        assert all(c.dtype == dtype for c in (carry[:-1] if ledger else carry))


def _looks_at_numbers(method):
    """Whether a step decides something by the values of the state: Newton's iteration, an order, powers of a matrix."""
    return (method.implicit and not isinstance(method, LinearlyImplicit)) or isinstance(method, VariableAdams)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_batch_equals_one_sample_at_a_time_also_by_vmap_where_no_step_looks_at_numbers(name):
    method, f, y = integrators.get(name), Wave(), start(5)
    coef = coefficients(method)

    def run(x):
        return march(method, f, x, steps=6, coef=coef)[-1]

    alone = torch.stack([run(x) for x in y])
    if _looks_at_numbers(method):
        with pytest.raises(RuntimeError, match="vmap"):  # torch's sentence, which names the operation
            torch.func.vmap(run)(y)
    else:
        assert torch.allclose(torch.func.vmap(run)(y), alone, rtol=0, atol=1e-14)
    if not isinstance(method, VariableAdams | VariableBDF):  # the order that serves all samples is that of no one alone
        assert torch.allclose(run(y), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_a_batch_of_copies_equals_the_sample_where_the_order_is_chosen_for_all(name):
    method, f, y = integrators.get(name), Wave(), start()
    alone = march(method, f, y, steps=12)
    together = march(method, f, y.expand(3, 4), steps=12)
    assert torch.allclose(together, alone.unsqueeze(1).expand(-1, 3, -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", LIBRARY)
def test_vjp_under_vmap_equals_the_jacobian(name):
    method, f, y = integrators.get(name), Wave(), start()
    coef = coefficients(method)

    def run(x):
        return march(method, f, x, steps=2, coef=coef)[-1]

    _, pull = torch.func.vjp(run, y)
    (rows,) = torch.func.vmap(pull)(torch.eye(4, dtype=torch.float64))
    assert torch.allclose(rows, torch.autograd.functional.jacobian(run, y), rtol=0, atol=1e-13)


# ---- complex states


class Kerr:
    """y' = i y - |y|^2 y + conj(y) w, which is not analytic; in parts: i y and the rest, or L y = i y and the rest."""

    w = torch.tensor([[0.3 + 0.2j, -0.5j], [0.1, 0.7 - 0.1j]], dtype=torch.complex128)

    def explicit(self, t, y):
        return 1j * y

    def implicit(self, t, y):
        return y.conj() @ self.w - y * y.conj() * y

    nonlinear = implicit

    def linear(self):
        return torch.tensor([1j, 1j], dtype=torch.complex128)

    def __call__(self, t, y):
        return self.explicit(t, y) + self.implicit(t, y)


class Pairs:
    """Kerr for states (..., 4): real parts, then imaginary ones."""

    kerr = Kerr()

    def explicit(self, t, x):
        return apart(self.kerr.explicit(t, whole(x)))

    def implicit(self, t, x):
        return apart(self.kerr.implicit(t, whole(x)))

    def __call__(self, t, x):
        return apart(self.kerr(t, whole(x)))


def whole(x):
    return torch.complex(x[..., :2], x[..., 2:])


def apart(y):
    return torch.cat((y.real, y.imag), -1)


IMPLICIT = [n for n in LIBRARY if integrators.get(n).implicit]


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_complex_state_of_a_field_that_is_not_analytic_is_stepped_like_its_real_and_imaginary_parts(name):
    method, x = integrators.get(name), 0.7 * start(3)
    pairs = march(method, Pairs(), x, steps=6, h=0.1)
    for y in (whole(x), whole(x * torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)).conj()):  # the same, conj lazy
        assert torch.allclose(march(method, Kerr(), y, steps=6, h=0.1), whole(pairs), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_complex_state_of_a_field_that_is_not_analytic_has_the_derivatives_that_differences_show(name):
    method, y = integrators.get(name), whole(0.7 * start()).requires_grad_()
    steps = 1 if not method.history else min(method.history, 4) + 1  # the starters of fixed formulas are explicit
    assert torch.autograd.gradcheck(lambda y: march(method, Kerr(), y, steps=steps)[-1], (y,))


@pytest.mark.parametrize("name", ["backward_euler", "gauss4", "imex_euler"])
def test_newton_krylov_takes_complex_states_of_fields_that_are_not_analytic(name, monkeypatch):
    method, y = integrators.get(name), whole(0.7 * start()).requires_grad_()
    expected = march(method, Kerr(), y, steps=1)[-1]
    monkeypatch.setattr("odenet.integrators.jacobian.DENSE", 1)
    assert torch.allclose(march(method, Kerr(), y, steps=1)[-1], expected, rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(lambda y: march(method, Kerr(), y, steps=1)[-1], (y,))


@pytest.mark.parametrize("name", ["rodas4", "exprb32", "backward_euler"])
def test_a_complex_step_counts_its_jacobian(name):
    f = Kerr()
    f.counts, f.workspace, f.tolerance, f.jacobian = Counter(), {}, None, None
    integrators.get(name).step(f, 0.0, whole(start(2)), 0.1, (), None)
    assert f.counts["jacobians"] == 1


# ---- whether samples couple


@pytest.mark.parametrize("name", IMPLICIT)
def test_an_expanded_state_is_stepped_like_its_copy(name):
    method, y = integrators.get(name), start().expand(3, 4)
    assert torch.equal(march(method, Wave(), y, steps=6), march(method, Wave(), y.clone(), steps=6))


def test_coupling_through_imaginary_parts_and_through_second_differences_is_seen():
    def through_imaginary(y):
        return y * y.imag.sum(0)

    def second_difference(y):
        return y.roll(1, 0) - 2 * math.cos(1) * y + y.roll(-1, 0)

    assert samples_couple(through_imaginary, torch.ones(3, 2, dtype=torch.complex128))
    assert samples_couple(second_difference, torch.ones(8, 1, dtype=torch.float64))
    assert not samples_couple(torch.sin, torch.ones(8, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["rodas4", "exprb32"])
def test_a_step_of_a_batch_runs_inside_vmap_where_its_state_is_not_what_is_mapped(name):
    method, f, y = integrators.get(name), Wave(), start(3)

    def scaled(a):
        return a * method.step(f, 0.0, y, H, (), None).y

    expected = method.step(f, 0.0, y, H, (), None).y
    got = torch.func.vmap(scaled)(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert torch.equal(got, torch.stack((expected, 2 * expected)))


def test_learned_coefficients_are_drawn_once_per_step_from_their_interval():
    lm = integrators.get("lm")
    k = lm.coefficients(1000, torch.Generator().manual_seed(0))["k"]
    assert k.shape == (1000,)
    assert -0.1 <= float(k.min()) < -0.09
    assert -0.01 < float(k.max()) <= 0
    assert torch.equal(k, lm.coefficients(1000, torch.Generator().manual_seed(0))["k"])
    assert integrators.get("rk4").coefficients(10) is None


def test_dahlquist_s_equation_is_solved_to_the_accuracy_of_the_order():
    y = torch.tensor([1.0], dtype=torch.float64)
    got = march(integrators.get("dopri5"), lambda t, x: -x, y, steps=20)[-1]
    assert float(got) == pytest.approx(math.exp(-1), rel=1e-9)
