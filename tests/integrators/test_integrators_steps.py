"""One step: against hand-written loops, scipy, torchdiffeq; inversion, memory, derivatives, batches."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
import torchdiffeq
from integrators_wave import STEPS, H, Wave, coefficients, march, start
from scipy.integrate import RK23, RK45
from scipy.integrate._ivp.rk import rk_step

import odenet.integrators as integrators
from odenet.errors import BadInput, Incompatible
from odenet.integrators import LinearMultistep, Multistep, Partitioned, ReversibleWrapper, TwoStep
from odenet.integrators.additive import AdditiveRungeKutta
from odenet.integrators.implicit import ImplicitRungeKutta
from odenet.integrators.library import LIBRARY
from odenet.integrators.splitting import OperatorSplitting
from odenet.integrators.variable import VariableBDF

# ---- hand-written loops, bitwise


def test_euler_equals_the_hand_written_loop_bitwise():
    f, y = Wave(), start(3)
    expected = y
    for n in range(STEPS):
        expected = expected + H * f(n * H, expected)
    assert torch.equal(march(integrators.get("euler"), f, y)[-1], expected)


def test_midpoint_equals_the_hand_written_loop_bitwise():
    f, y = Wave(), start(3)
    expected = y
    for n in range(STEPS):
        k = f(n * H, expected)
        expected = expected + H * f(n * H + H / 2, expected + H / 2 * k)
    assert torch.equal(march(integrators.get("midpoint"), f, y)[-1], expected)


def test_symplectic_euler_equals_the_hand_written_loop_bitwise():
    f, y = Wave(), start(3)
    q, p = f.split(y)
    for n in range(STEPS):
        p = p + H * f.kick(n * H, q)
        q = q + H * f.drift(n * H + H, p)
    assert torch.equal(march(integrators.get("symplectic_euler"), f, y)[-1], f.join(q, p))


def test_a_two_step_method_with_k_zero_is_euler_bitwise():
    f, y = Wave(), start(3)
    assert torch.equal(march(TwoStep(0), f, y), march(integrators.get("euler"), f, y))


def test_ab2_equals_the_hand_written_formula_after_a_heun_step():
    f, y = Wave(), start(3)
    k = f(0.0, y)
    before, now = k, y + H / 2 * (k + f(H, y + H * k))
    for n in range(1, STEPS):
        slope = f(n * H, now)
        before, now = slope, now + H * (1.5 * slope - 0.5 * before)
    assert torch.allclose(march(integrators.get("ab2"), f, y)[-1], now, rtol=0, atol=1e-14)


def test_momentum_is_the_heavy_ball_form():
    """v <- gamma v + (1 - gamma) h f(y), y <- y + v."""
    gamma, f, y = 0.9, Wave(), start(3)
    x, v = y, torch.zeros_like(y)
    for n in range(STEPS):
        v = gamma * v + (1 - gamma) * H * f(n * H, x)
        x = x + v
    assert torch.allclose(march(integrators.get("momentum"), f, y)[-1], x, rtol=0, atol=1e-12)
    learned = TwoStep("learned", gain="consistent")
    coef = {"k": torch.tensor(-gamma, dtype=torch.float64)}
    assert torch.allclose(march(learned, f, y, coef=coef)[-1], x, rtol=0, atol=1e-12)


def test_lm_is_the_published_formula():
    f, y, k = Wave(), start(3), -0.07
    before, now = y, y
    for n in range(STEPS):
        before, now = now, (1 - k) * now + k * before + H * f(n * H, now)
    lm = integrators.get("lm")
    assert torch.allclose(march(lm, f, y, coef=coefficients(lm))[-1], now, rtol=0, atol=1e-13)


def test_lm_without_its_coefficient_says_what_to_pass():
    with pytest.raises(BadInput, match="coefficients"):
        integrators.get("lm").step(Wave(), 0.0, start(), H, (), None)


def test_leapfrog_gives_the_positions_of_verlet_from_rest():
    class Force(Wave):
        def drift(self, t, p):
            return p

    f, q = Force(), start(3)[..., :2]
    positions = march(integrators.get("leapfrog"), f.kick, q)
    both = march(integrators.get("verlet"), f, f.join(q, torch.zeros_like(q)))
    assert torch.allclose(positions, both[..., :2], rtol=0, atol=1e-13)


def test_two_step_midpoint_starts_with_euler():
    f, y = Wave(), start(3)
    first = y + H * f(0.0, y)
    second = y + 2 * H * f(H, first)
    states = march(integrators.get("two_step_midpoint"), f, y, steps=2)
    assert torch.allclose(states[1:], torch.stack((first, second)), rtol=0, atol=1e-15)


def test_a_general_multistep_formula_remembers_states_too():
    nystrom = integrators.resolve(Multistep(alpha="-1 0 1", beta="0 2 0", order=2, starter="euler"))
    f, y = Wave(), start(3)
    expected = march(integrators.get("two_step_midpoint"), f, y)
    assert torch.allclose(march(nystrom, f, y), expected, rtol=0, atol=1e-13)


def test_yoshida4_is_three_verlet_steps():
    f, y, verlet = Wave(), start(3), integrators.get("verlet")
    w1 = 1 / (2 - 2 ** (1 / 3))
    expected, t = y, 0.0
    for w in (w1, 1 - 2 * w1, w1):
        expected = verlet.step(f, t, expected, w * H, (), None).y
        t += w * H
    got = integrators.get("yoshida4").step(f, 0.0, y, H, (), None).y
    assert torch.allclose(got, expected, rtol=0, atol=1e-14)


# ---- scipy and torchdiffeq


@pytest.mark.parametrize(("name", "theirs"), [("dopri5", RK45), ("bosh3", RK23)])
def test_a_pair_gives_the_step_and_the_error_of_scipy(name, theirs):
    f, y = Wave(), start()
    k = np.empty((theirs.n_stages + 1, 4))

    def fun(t, x):
        return f(t, torch.tensor(x)).numpy()

    new, slope = rk_step(fun, 0.3, y.numpy(), fun(0.3, y.numpy()), H, theirs.A, theirs.B, theirs.C, k)
    ours = integrators.get(name).step(f, 0.3, y, H, (), None)
    assert np.allclose(ours.y.numpy(), new, rtol=0, atol=1e-15)
    assert np.allclose(ours.error.numpy(), -H * (k.T @ theirs.E), rtol=1e-10, atol=1e-18)  # scipy: low minus high
    assert np.allclose(ours.carry[0].numpy(), slope, rtol=0, atol=1e-14)


THEIRS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "heun3": "heun3", "rk4_38": "rk4"}


@pytest.mark.parametrize("name", THEIRS)
def test_fixed_step_methods_agree_with_torchdiffeq(name):
    f, y = Wave(), start(3)
    t = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    expected = torchdiffeq.odeint(f, y, t, method=THEIRS[name])
    assert torch.allclose(march(integrators.get(name), f, y), expected, rtol=0, atol=1e-12)
    assert torch.allclose(march(integrators.get(f"torchdiffeq:{THEIRS[name]}"), f, y), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"])
def test_adaptive_methods_of_torchdiffeq_meet_their_tolerance_in_each_step(method):
    f, y = Wave(), start(3)
    t = torch.tensor([0.0, H], dtype=torch.float64)
    expected = torchdiffeq.odeint(f, y, t, method=method, rtol=1e-7, atol=1e-9, options={"step_t": t[1:]})[-1]
    got = integrators.get(f"torchdiffeq:{method}").step(f, 0.0, y, H, (), None).y
    assert torch.equal(got, expected)


def test_a_step_of_torchdiffeq_into_a_pole_is_not_a_number_and_an_assertion_of_the_field_is_raised():
    method, y = integrators.get("torchdiffeq:dopri5"), torch.ones(1, dtype=torch.float64)
    assert not bool(torch.isfinite(method.step(lambda t, y: y * y, 0.0, y, 2.0, (), None).y).any())

    def careful(t, y):
        assert float(t) < 0.01, "beyond the data"
        return -y

    with pytest.raises(AssertionError, match="beyond the data"):
        method.step(careful, 0.0, y, 2.0, (), None)


# ---- going back


REVERSIBLE = [n for n in LIBRARY if integrators.get(n).reversible]


@pytest.mark.parametrize("name", REVERSIBLE)
def test_inverting_every_step_returns_to_the_start(name):
    method, f, y = integrators.get(name), Wave(), start(3)
    now, carry, memories = y, (), []
    for n in range(STEPS):
        memories.append((now, carry))
        now, _, carry, *_ = method.step(f, n * H, now, H, carry, None)
    for n in reversed(range(STEPS)):
        now, _, carry, *_ = method.invert(f, n * H, now, H, carry, None)
        state, memory = memories[n]
        assert torch.allclose(now, state, rtol=0, atol=1e-9 if name == "momentum" else 1e-12)
        for got, kept in zip(carry, memory):
            assert torch.allclose(got, kept, rtol=0, atol=1e-9 if name == "momentum" else 1e-12)


def test_the_reversible_methods_are_these():
    of_two_steps = {"momentum", "leapfrog", "two_step_midpoint", "alf", "reversible_heun"}
    splittings = {n for n, data in LIBRARY.items() if isinstance(data, Partitioned)}
    wrapped = {n for n, data in LIBRARY.items() if isinstance(data, ReversibleWrapper)}
    symmetric = {"implicit_midpoint", "trapezoid", "gauss4", "gauss6"}
    assert set(REVERSIBLE) == of_two_steps | splittings | wrapped | symmetric
    assert len(splittings) == 7 and len(wrapped) == 2


@pytest.mark.parametrize("name", [n for n in LIBRARY if n not in REVERSIBLE])
def test_a_method_that_cannot_go_back_says_so(name):
    with pytest.raises(Incompatible, match="cannot run backwards"):
        integrators.get(name).invert(Wave(), 0.0, start(), H, (), None)


def _there_and_back(method, f, y, h):
    there = method.step(f, 0.0, y, h, (), None).y
    return method.step(f, h, there, -h, (), None).y


@pytest.mark.parametrize("name", [n for n in LIBRARY if not integrators.get(n).history and n != "lie_euler"])
def test_a_negative_step_undoes_a_step_up_to_its_error(name):
    y = start(3)
    assert torch.allclose(_there_and_back(integrators.get(name), Wave(), y, 1e-3), y, rtol=0, atol=1e-5)


def test_a_negative_step_of_lie_euler_leaves_the_error_of_its_parts():
    """h^2 (I'E - E'(E + I) - I'I - E_t - I_t): the parts of f, which are larger than f, do not cancel in it."""
    f, y, h = Wave(), start(3), 1e-4
    E, I = f.explicit(0.0, y), f.implicit(0.0, y)

    def along(part, v, rate):
        zero = torch.zeros((), dtype=y.dtype)
        return torch.func.jvp(part, (zero, y), (zero + rate, v))[1]

    leading = along(f.implicit, E, 0.0) - along(f.explicit, E + I, 1.0) - along(f.implicit, I, 1.0)
    gap = (_there_and_back(integrators.get("lie_euler"), f, y, h) - y) / h**2
    torch.testing.assert_close(gap, leading, rtol=0, atol=100 * h)


# ---- symplecticity


@pytest.mark.parametrize("name", [n for n in LIBRARY if "separable" in integrators.get(n).needs])
def test_the_jacobian_of_a_splitting_step_is_symplectic(name):
    method, f, y = integrators.get(name), Wave(), start()
    f.drift = lambda t, p: torch.sin(p)  # gradients of a kinetic and a potential energy
    m = torch.autograd.functional.jacobian(lambda x: method.step(f, 0.0, x, 0.3, (), None).y, y)
    j = torch.zeros(4, 4, dtype=torch.float64)
    j[:2, 2:], j[2:, :2] = torch.eye(2), -torch.eye(2)
    assert float((m.T @ j @ m - j).abs().max()) < 1e-14
    assert method.symplectic
    assert method.facts.symplectic


def test_a_runge_kutta_step_is_not_symplectic():
    f, y = Wave(), start()
    f.drift = lambda t, p: torch.sin(p)
    m = torch.autograd.functional.jacobian(lambda x: integrators.get("heun").step(f, 0.0, x, 0.3, (), None).y, y)
    j = torch.zeros(4, 4, dtype=torch.float64)
    j[:2, 2:], j[2:, :2] = torch.eye(2), -torch.eye(2)
    assert float((m.T @ j @ m - j).abs().max()) > 1e-4
    assert not integrators.get("heun").symplectic


# ---- evaluations


def _expected_calls(method, counts):
    """Evaluations in one step: the stages; of implicit methods those of Newton's iteration and of Jacobians."""
    solving = counts["newton"] + counts["jacobians"]
    if isinstance(method, ImplicitRungeKutta):
        together = 1 if method.tableau.diagonal else method.stages
        return together * counts["newton"] + counts["jacobians"] + (method.tableau.estimate == "slope")
    if isinstance(method, AdditiveRungeKutta):
        data = method.method
        weights = [data.weights, *([data.weights_low] if data.weights_low else [])]
        read = [{j for row in (*m, *(w[part] for w in weights)) for j, x in enumerate(row) if x}
                for part, m in enumerate(data.matrices)]  # fmt: skip
        known = [j for j in read[1] if not data.matrices[1][j][j]]
        return len(read[0]) + len(known) + solving
    if isinstance(method, OperatorSplitting):
        inner = [method.inner[part] for part, _ in method.method.flows]
        return sum(flow.stages for flow in inner if not flow.implicit) + solving  # of one part each
    if isinstance(method, LinearMultistep | VariableBDF) and method.implicit:
        return solving
    return method.stages + counts["jacobians"]  # Rosenbrock methods and exponential ones about df/dy


@pytest.mark.parametrize("name", LIBRARY)
def test_a_long_run_costs_the_stated_stages_per_step(name):
    method, f, y = integrators.get(name), Wave(), start()
    f.workspace, f.counts, f.tolerance, f.jacobian = {}, Counter(), None, None
    coef, carry, counts = coefficients(method), (), []
    for n in range(10):
        f.calls = 0
        f.counts.clear()
        y, _, carry, *_ = method.step(f, n * H, y, H, carry, coef)
        counts.append(f.calls)
    assert counts[-1] == _expected_calls(method, f.counts)
    assert method.stages == method.facts.stages
    solves = isinstance(method, ImplicitRungeKutta | AdditiveRungeKutta | VariableBDF)
    if solves or (isinstance(method, LinearMultistep | OperatorSplitting) and method.implicit):
        assert f.counts["newton"] >= 1
    elif not method.history:  # a step that starts afresh costs at most one more, or those of a starter
        assert counts[0] - counts[-1] in (0, 1)


@pytest.mark.parametrize("name", [n for n in LIBRARY if isinstance(integrators.get(n), ImplicitRungeKutta)])
def test_an_implicit_step_solves_as_many_equations_as_it_states_stages(name):
    """On y' = A y the first of two updates of a stage is exact: two residuals a stage, or two of all together."""
    method = integrators.get(name)
    f = Wave()
    f.workspace, f.counts, f.tolerance, f.jacobian = {}, Counter(), None, None
    f.__class__ = type("Linear", (Wave,), {"__call__": lambda self, t, y: y @ self.matrix.T})
    method.step(f, 0.0, start(), H, (), None)
    assert f.counts["newton"] == 2 * (method.stages if method.tableau.diagonal else 1)


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3"])
def test_without_an_estimate_an_fsal_pair_leaves_out_its_last_stage(name):
    method, f, y = integrators.get(name), Wave(), start()
    full = method.step(f, 0.0, y, H, (), None)
    f.calls = 0
    lean = method.step(f, 0.0, y, H, (), None, estimate=False)
    assert f.calls == method.stages
    assert lean.error is None
    assert lean.carry == ()
    assert torch.equal(lean.y, full.y)
    again = method.step(f, H, full.y, H, (), None)
    reused = method.step(f, H, full.y, H, full.carry, None)
    assert torch.equal(again.y, reused.y)
    assert torch.equal(again.error, reused.error)


PAIRS = [n for n, data in LIBRARY.items() if getattr(data, "b_low", None) and not getattr(data, "b_third", None)]


@pytest.mark.parametrize("name", PAIRS)
def test_the_error_estimate_is_the_difference_of_the_two_solutions(name):
    """With the stiff part filtered out, where the data say so: (I - h gamma J)^-1 times it."""
    data, f, y = LIBRARY[name], Wave(), start()
    filtered = getattr(data, "estimate", "") == "filtered"
    if filtered:  # on y' = A y, whose Jacobian is the same everywhere
        f.__class__ = type("Linear", (Wave,), {"__call__": lambda self, t, y: y @ self.matrix.T})
    plain = {"b_low": None, "order_low": None, "properties": None, "estimate": "difference"}
    plain |= {"dense": None, "order_dense": None, "a_dense": ()}
    changes = {k: v for k, v in plain.items() if hasattr(data, k)}
    embedded = dataclasses.replace(data, b=data.b_low, order=data.order_low, **changes)
    low = integrators.resolve(embedded).step(f, 0.2, y, H, (), None)
    high = integrators.get(name).step(f, 0.2, y, H, (), None)
    error = high.error
    if filtered:
        error = error - H * float(data.matrix[-1][-1]) * error @ f.matrix.T
    assert float(error.abs().max()) > 1e-13
    assert torch.allclose(error, high.y - low.y, rtol=0, atol=2e-15)


def test_the_other_estimates_have_tests_of_their_own():
    others = {n for n in LIBRARY if integrators.get(n).adaptive} - set(PAIRS)
    assert others == {"dopri8", "radau_iia3", "radau_iia5", "adams", "bdf", "reversible_dopri5"}


@pytest.mark.parametrize("name", [n for n, data in LIBRARY.items() if isinstance(data, Multistep)])
def test_the_length_of_the_memory_tells_the_phase(name):
    method, f, y = integrators.get(name), Wave(), start()
    carry, lengths = (), []
    for n in range(7):
        lengths.append(len(carry))
        y, _, carry, *_ = method.step(f, n * H, y, H, carry, None)
    assert lengths == [min(n, method.history) for n in range(7)]
