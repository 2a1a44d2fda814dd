"""Steps are pure, differentiable, keep the dtype, and act on each sample alone."""

from __future__ import annotations

import math

import pytest
import torch
from integrators_wave import H, Wave, coefficients, march, start

import odenet.integrators as integrators
from odenet.integrators.library import LIBRARY


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
        assert torch.autograd.gradcheck(run, (y, t, h, k))
    else:
        assert torch.autograd.gradcheck(lambda y, t, h: run(y, t, h, None), (y, t, h))


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
        assert all(c.dtype == dtype for c in carry)


@pytest.mark.parametrize("name", LIBRARY)
def test_vmap_over_a_batch_equals_one_sample_at_a_time(name):
    method, f, y = integrators.get(name), Wave(), start(5)
    coef = coefficients(method)

    def run(x):
        return march(method, f, x, steps=4, coef=coef)[-1]

    together = torch.func.vmap(run)(y)
    alone = torch.stack([run(x) for x in y])
    assert torch.allclose(together, alone, rtol=0, atol=1e-14)
    assert torch.allclose(run(y), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", LIBRARY)
def test_vjp_under_vmap_equals_the_jacobian(name):
    method, f, y = integrators.get(name), Wave(), start()
    coef = coefficients(method)

    def run(x):
        return march(method, f, x, steps=2, coef=coef)[-1]

    _, pull = torch.func.vjp(run, y)
    (rows,) = torch.func.vmap(pull)(torch.eye(4, dtype=torch.float64))
    assert torch.allclose(rows, torch.autograd.functional.jacobian(run, y), rtol=0, atol=1e-13)


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
