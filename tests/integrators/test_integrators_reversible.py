"""Reversible methods: against hand-written loops, going back, orders, stability and its price."""

from __future__ import annotations

import cmath
import dataclasses
import math

import pytest
import torch
from integrators_wave import Wave, march, start

import odenet
import odenet.integrators as integrators
from odenet.errors import BadInput, Incompatible
from odenet.fields.testset import IVPS
from odenet.integrators.library.reversible import LIBRARY
from odenet.integrators.reversible import ReversibleWrapper

WRAPPED = [n for n, data in LIBRARY.items() if isinstance(data, ReversibleWrapper)]
H = 0.05


# ---- hand-written loops


def test_asynchronous_leapfrog_is_the_algorithm_of_the_paper():
    """Zhuang et al. 2021, algorithm 2: z, v -> s, k, u, v, z."""
    f, z = Wave(), start(3)
    y, v = z, f(0.0, z)
    for n in range(20):
        s, k = n * H + H / 2, y + v * H / 2
        v = 2 * f(s, k) - v
        y = k + v * H / 2
    assert torch.allclose(march(integrators.get("alf"), f, z)[-1], y, rtol=0, atol=1e-14)


def _rk4(f, t, y, h):
    k1 = f(t, y)
    k2 = f(t + h / 2, y + h / 2 * k1)
    k3 = f(t + h / 2, y + h / 2 * k2)
    k4 = f(t + h, y + h * k3)
    return h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def test_the_wrapper_is_the_pair_of_formulas_of_the_paper():
    """McCallum & Foster 2024, equations (5) and (6), with Psi the increment of rk4."""
    f, y, lam = Wave(), start(3), 0.99
    method = integrators.resolve(ReversibleWrapper("rk4", coupling=lam))
    got, z = march(method, f, y)[-1], y
    for n in range(20):
        t = n * H
        y = lam * y + (1 - lam) * z + _rk4(f, t, z, H)
        z = z - _rk4(f, t + H, y, -H)
    assert torch.allclose(got, y, rtol=0, atol=1e-13)


def test_the_estimate_of_a_wrapped_pair_is_that_of_its_base_from_z():
    f, y = Wave(), start(3)
    z = y + 1e-3
    got = integrators.get("reversible_dopri5").step(f, 0.1, y, H, (z,), None)
    assert torch.equal(got.error, integrators.get("dopri5").step(f, 0.1, z, H, (), None).error)
    lean = integrators.get("reversible_dopri5").step(f, 0.1, y, H, (z,), None, estimate=False)
    assert lean.error is None
    assert torch.equal(lean.y, got.y)


# ---- going back


@pytest.mark.parametrize("name", LIBRARY)
def test_going_back_over_unequal_steps_returns_to_the_start(name):
    f, method, y = Wave(), integrators.get(name), start(3)
    sizes = [0.05 + 0.02 * math.sin(n) for n in range(100)]
    now, carry, t, kept = y, (), 0.0, []
    for h in sizes:
        kept.append((t, now, carry))
        now, _, carry, *_ = method.step(f, t, now, h, carry, None)
        t += h
    assert float((now - y).abs().max()) > 0.1
    for h, (t, state, memory) in zip(reversed(sizes), reversed(kept)):
        now, _, carry, *_ = method.invert(f, t, now, h, carry, None)
        assert torch.allclose(now, state, rtol=0, atol=1e-12)
        for got, before in zip(carry, memory):
            assert torch.allclose(got, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LIBRARY)
def test_samples_may_have_steps_of_their_own(name):
    f, method, y = Wave(), integrators.get(name), start(3)
    h = torch.tensor([[0.05], [0.1], [0.2]], dtype=torch.float64)
    first = method.step(f, 0.0, y, h, (), None)
    second = method.step(f, h, first.y, h, first.carry, None)
    for i in range(3):
        own = march(method, f, y[i], steps=2, h=float(h[i]))[-1]
        assert torch.allclose(second.y[i], own, rtol=0, atol=1e-14)
    back = method.invert(f, h, second.y, h, second.carry, None)
    assert torch.allclose(back.y, first.y, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", LIBRARY)
def test_going_back_needs_the_memory_of_the_step(name):
    with pytest.raises(Incompatible, match=f"'{name}'.*memory"):
        integrators.get(name).invert(Wave(), 0.0, start(3), H, (), None)


@pytest.mark.parametrize("coupling", [0.9, 0.99, 0.999])
def test_rounding_grows_by_the_inverse_coupling_per_step_back(coupling):
    """y' = 0: y_n - z_n is 0 forwards, and an error of y is divided by l in every step back."""
    method = integrators.resolve(ReversibleWrapper("rk4", coupling))
    y, z = torch.tensor([1.0 + 1e-6], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    carry = (z,)
    for _ in range(50):
        y, _, carry, *_ = method.undo(lambda t, y: 0 * y, 0.0, y, H, carry, None)
    assert float(y - 1) == pytest.approx(1e-6 * coupling**-50, rel=1e-6)


# ---- orders and stability


class Circle:
    """Both parts nonlinear and driven, solution (sin s, cos s), s = t + phase."""

    phase = torch.arange(8, dtype=torch.float64) * (math.pi / 4)

    def __call__(self, t, y):
        s, (q, p) = t + self.phase, y
        dq = torch.cos(s) + 1.5 * torch.sin(p - torch.cos(s))
        return torch.stack((dq, -torch.sin(s) - 1.5 * torch.sin(q - torch.sin(s)) * p))

    def exact(self, t):
        return torch.stack((torch.sin(t + self.phase), torch.cos(t + self.phase)))


def _observed(method):
    f, errors = Circle(), []
    for steps in (64, 128):
        y = march(method, f, f.exact(0.0), steps=steps, h=1 / steps)[-1]
        errors.append(float((y - f.exact(1.0)).norm()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("base", ["euler", "midpoint", "bosh3", "rk4", "dopri5"])
def test_halving_the_step_shows_the_order_of_the_base(base):
    """At a loose coupling; a tight one makes the errors of there and back cancel for bases of odd order."""
    assert _observed(integrators.resolve(ReversibleWrapper(base, 0.5))) == pytest.approx(
        integrators.get(base).order, abs=0.15
    )
    assert _observed(integrators.resolve(ReversibleWrapper(base, 0.999))) > integrators.get(base).order - 0.1


@pytest.mark.parametrize("name", LIBRARY)
def test_halving_the_step_shows_the_stated_order_of_a_reversible_method(name):
    method = integrators.get(name)
    assert _observed(method) == pytest.approx(method.order, abs=0.1)


Z = [0.3j, -0.4, -0.2 + 0.7j, 0.2 + 1.1j]


@pytest.mark.parametrize("z", Z)
def test_asynchronous_leapfrog_has_the_eigenvalues_of_the_two_step_midpoint_rule(z):
    expected = max((z + s * cmath.sqrt(1 + z * z) for s in (1, -1)), key=abs)
    assert integrators.get("alf").amplification(z) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("z", Z)
@pytest.mark.parametrize("name", WRAPPED)
def test_the_stability_function_of_a_wrapper_is_the_eigenvalue_of_its_steps(name, z):
    """The map (y, z) -> (y', z') of y' = z y, column by column, from two steps of the method."""
    method, columns = integrators.get(name), []
    for y, memory in ((1.0, 0.0), (0.0, 1.0)):
        unit = torch.tensor([y], dtype=torch.complex128), torch.tensor([memory], dtype=torch.complex128)
        after = method.step(lambda t, x: z * x, 0.0, unit[0], 1.0, (unit[1],), None)
        columns.append(torch.cat((after.y, after.carry[0])))
    matrix = torch.stack(columns, -1)
    eigenvalues = torch.linalg.eigvals(matrix)
    assert complex(torch.linalg.det(matrix)) == pytest.approx(method.coupling, rel=1e-10)
    largest = complex(eigenvalues[eigenvalues.abs().argmax()])
    assert method.amplification(z) == pytest.approx(largest, rel=1e-10)


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_damped_is_limited_by_the_coupling(name):
    """R(-x) = l where the wrapper stops damping, so x is -log l to the order of the base."""
    method = integrators.get(name)
    assert method.facts.real_interval == pytest.approx(-math.log(0.999), rel=1e-6)
    wide = integrators.resolve(dataclasses.replace(LIBRARY[name], coupling=0.5))
    assert wide.facts.real_interval == pytest.approx(math.log(2), rel=5e-3)


def test_oscillations_are_stable_as_far_as_for_rk4():
    assert integrators.get("reversible_rk4").facts.imag_interval == pytest.approx(math.sqrt(8), rel=1e-6)
    assert integrators.get("alf").facts.imag_interval == 1


def test_a_decaying_component_brings_out_the_second_solution():
    """y' = -y over 20 units: the memory's own mode grows like e^t from a local error; rk4 itself decays."""
    f = lambda t, y: -y  # noqa: E731
    y = torch.ones(1, dtype=torch.float64)
    assert float(march(integrators.get("rk4"), f, y, steps=200, h=0.1)[-1].abs()) < 1e-8
    for name in LIBRARY:
        wild = float(march(integrators.get(name), f, y, steps=200, h=0.1)[-1].abs())
        assert 1e-6 < wild < 2 * math.exp(20)


# ---- derivatives, evaluations, refusals


@pytest.mark.parametrize("name", LIBRARY)
def test_two_steps_have_the_derivatives_that_differences_show(name):
    f, method, h = Wave(), integrators.get(name), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def two(y, h):
        first = method.step(f, 0.0, y, h, (), None)
        return method.step(f, h, first.y, h, first.carry, None).y

    assert torch.autograd.gradcheck(two, (start(2).requires_grad_(), h))


@pytest.mark.parametrize(
    ("name", "first", "later"), [("alf", 2, 1), ("reversible_rk4", 8, 8), ("reversible_dopri5", 13, 13)]
)
def test_a_step_costs_what_is_stated(name, first, later):
    f, method, y = Wave(), integrators.get(name), start()
    step = method.step(f, 0.0, y, H, (), None)
    assert f.calls == first
    f.calls = 0
    method.step(f, H, step.y, H, step.carry, None)
    assert f.calls == later == method.stages == method.facts.stages


def test_a_coupling_or_a_base_that_cannot_be_is_refused():
    for wrong in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(BadInput, match=r"lies in \(0, 1\]"):
            ReversibleWrapper(coupling=wrong)
    with pytest.raises(BadInput, match="explicit Runge-Kutta"):
        integrators.resolve(ReversibleWrapper("verlet"))


@pytest.mark.parametrize("problem", ["a1", "b2", "c1", "d5"])
def test_an_adaptive_reversible_run_ends_with_a_status_where_its_two_states_part(problem):
    """Decay that it cannot follow: without the look at both states these runs end 1e6 tolerances and more away."""
    given = IVPS[problem]
    found = odenet.solve(
        given.f, given.start(), [given.t0, given.t1], integrator="reversible_dopri5", rtol=1e-6,
        atol=1e-6 * given.floor, max_steps=3000, on_failure="return",
    )  # fmt: skip
    assert found.status == "newton_failed"
    assert "two states of a reversible method differ by" in found.message
    assert given.t0 < found.t_last < given.t1


@pytest.mark.parametrize("problem", ["a4", "b4", "e1", "e5"])
def test_an_adaptive_reversible_run_without_strong_decay_meets_its_tolerance(problem):
    given = IVPS[problem]
    found = odenet.solve(
        given.f, given.start(), [given.t0, given.t1], integrator="reversible_dopri5", rtol=1e-6,
        atol=1e-6 * given.floor,
    )  # fmt: skip
    assert found.status == "success"
    assert given.error(found.y[-1]) < 1e-5
