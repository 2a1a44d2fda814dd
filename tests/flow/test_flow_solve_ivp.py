"""scipy's solve_ivp after changing the import: the examples of its documentation, its attributes and its shapes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

import odenet as on
from odenet.errors import BadInput
from odenet.flow import solve_ivp

METHODS = ["RK23", "RK45", "DOP853", "Radau", "BDF"]
LIBRARIES = {"scipy": scipy.integrate.solve_ivp, "odenet": solve_ivp}


def decay(t, y):  # type: ignore[no-untyped-def]
    return -0.5 * y


def cannon(t, y):  # type: ignore[no-untyped-def]
    return [y[1], -0.5]


def hit_ground(t, y):  # type: ignore[no-untyped-def]
    return y[0]


hit_ground.terminal = True  # type: ignore[attr-defined]
hit_ground.direction = -1  # type: ignore[attr-defined]


def apex(t, y):  # type: ignore[no-untyped-def]
    return y[1]


def lotka_volterra(t, z, a, b, c, d):  # type: ignore[no-untyped-def]
    x, y = z
    return [a * x - b * x * y, -c * y + d * x * y]


def van_der_pol(mu):  # type: ignore[no-untyped-def]
    return lambda t, y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]


@pytest.mark.parametrize("method", METHODS)
def test_exponential_decay_has_the_same_shapes_and_keeps_the_same_tolerance(method: str) -> None:
    exact = np.array([2.0, 4.0, 8.0])
    for given in (
        {},
        {"t_eval": [0.0, 1.0, 2.0, 4.0, 10.0]},
        {"t_eval": np.linspace(1, 9, 5), "rtol": 1e-6, "atol": 1e-9},
    ):
        theirs, ours = (f(decay, [0, 10], [2, 4, 8], method=method, **given) for f in LIBRARIES.values())
        assert set(ours) == set(theirs)
        for name in theirs:
            assert type(ours[name]) is type(theirs[name]) or name == "success", name
        assert ours.t[0] == theirs.t[0] and ours.t[-1] == theirs.t[-1] and ours.success and ours.status == 0
        assert ours.y.shape == (3, len(ours.t)) and ours.y.dtype == theirs.y.dtype and ours.t.dtype == theirs.t.dtype
        if given:
            np.testing.assert_array_equal(ours.t, theirs.t)
        scale = given.get("rtol", 1e-3)
        for one in (ours, theirs):
            assert np.abs(one.y / (exact[:, None] * np.exp(-0.5 * one.t)) - 1).max() < 20 * scale
        assert ours.nfev < 2 * theirs.nfev + 20 and (ours.nlu > 0) == (theirs.nlu > 0)


def test_the_steps_are_what_is_returned_without_t_eval() -> None:
    sol = solve_ivp(decay, [0, 10], [2.0], rtol=1e-8, atol=1e-10)
    again = on.solve(lambda t, y: -0.5 * y, torch.tensor([2.0], dtype=torch.float64), [0.0, 10.0],
                     rtol=1e-8, atol=1e-10)  # fmt: skip
    assert len(sol.t) == again.stats["accepted"] + 1 and (np.diff(sol.t) > 0).all()
    np.testing.assert_allclose(sol.y[0], 2 * np.exp(-0.5 * sol.t), rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_the_cannon_flies_upwards_until_it_hits_the_ground(method: str) -> None:
    theirs, ours = (
        f(cannon, [0, 100], [0, 10], method=method, events=(hit_ground, apex), dense_output=True)
        for f in LIBRARIES.values()
    )
    for sol in (theirs, ours):
        assert sol.status == 1 and sol.success and sol.t[-1] == sol.t_events[0][0]
        close = 1e-5 if method == "BDF" else 1e-9  # BDF starts with order 1, at rtol 1e-3; the others are exact here
        assert sol.t_events[0] == pytest.approx([40.0], rel=close) and sol.t_events[1] == pytest.approx(
            [20.0], rel=close
        )
        assert sol.sol(sol.t_events[1][0]) == pytest.approx([100.0, 0.0], abs=100 * close)
        np.testing.assert_array_equal(sol.y[:, -1], sol.y_events[0][0])
    for a, b in zip(ours.t_events + ours.y_events, theirs.t_events + theirs.y_events):
        assert a.shape == b.shape and a.dtype == b.dtype
    early, late = (f(cannon, [0, 100], [0, 10], events=hit_ground, t_eval=[0, 10, 40.5]) for f in LIBRARIES.values())
    np.testing.assert_array_equal(early.t, late.t)
    never = [f(cannon, [0, 30], [0, 10], events=[hit_ground, apex]) for f in LIBRARIES.values()]
    assert [[e.shape for e in n.t_events + n.y_events] for n in never] == [[(0,), (1,), (0,), (1, 2)]] * 2
    assert all(n.status == 0 for n in never)


def test_a_terminal_count_and_backward_time_mean_what_they_mean_in_scipy() -> None:
    def crossing(t, y):  # type: ignore[no-untyped-def]
        return y[0]

    crossing.terminal, crossing.direction = 3, 0  # type: ignore[attr-defined]
    given = dict(events=crossing, rtol=1e-10, atol=1e-12)
    for span, sign in (([0, 20], 1.0), ([0, -20], -1.0)):
        for f in LIBRARIES.values():
            sol = f(lambda t, y: [y[1], -y[0]], span, [1.0, 0.0], **given)
            np.testing.assert_allclose(sol.t_events[0], sign * np.pi * np.array([0.5, 1.5, 2.5]), atol=1e-8)
            assert sol.status == 1


def test_lotka_volterra_with_args_and_dense_output() -> None:
    t = np.linspace(0, 15, 300)
    solutions = [
        f(lotka_volterra, [0, 15], [10, 5], args=(1.5, 1, 3, 1), dense_output=True, rtol=1e-9, atol=1e-11)
        for f in LIBRARIES.values()
    ]
    theirs, ours = (s.sol(t) for s in solutions)
    assert ours.shape == theirs.shape == (2, 300)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert solutions[1].sol(3).shape == solutions[0].sol(3).shape == (2,)
    assert (solutions[1].sol.t_min, solutions[1].sol.t_max) == (0.0, 15.0)
    np.testing.assert_array_equal(solutions[1].sol.ts, solutions[1].t)
    one = solve_ivp(
        lambda t, y, k: -k * y, [0, 1], [1.0], args=(2.0,), events=lambda t, y, k: y[0] - k / 4, rtol=1e-10, atol=1e-12
    )
    assert one.t_events[0][0] == pytest.approx(math.log(2) / 2, rel=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_a_complex_matrix_problem(method: str) -> None:
    a = np.array([[-0.25 + 0.14j, 0, 0.33 + 0.44j], [0.25 + 0.58j, -0.2 + 0.14j, 0], [0, 0.2 + 0.4j, -0.1 + 0.97j]])
    y0, span = np.array([10, 20, 30 + 0j]), [0, 5]
    solvers = [solve_ivp] if method == "Radau" else LIBRARIES.values()  # scipy's Radau takes real numbers only
    for f in solvers:
        sol = f(lambda t, y: a.dot(y), span, y0, method=method, rtol=1e-7, atol=1e-7)
        assert sol.y.dtype == np.complex128
        np.testing.assert_allclose(sol.y[:, -1], scipy.linalg.expm(5 * a) @ y0, rtol=1e-4)


@pytest.mark.parametrize("method", ["Radau", "BDF"])
@pytest.mark.parametrize("jac", ["none", "function", "sparse"])
def test_van_der_pol_is_solved_by_stiff_methods_with_and_without_its_jacobian(method: str, jac: str) -> None:
    from scipy.sparse import csc_matrix

    mu = 100.0

    def matrix(t, y):  # type: ignore[no-untyped-def]
        m = np.array([[0.0, 1.0], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] ** 2)]])
        return csc_matrix(m) if jac == "sparse" else m

    given = dict(method=method, rtol=1e-6, atol=1e-8, jac=None if jac == "none" else matrix)
    theirs, ours = (f(van_der_pol(mu), [0, 120], [2.0, 0.0], **given) for f in LIBRARIES.values())
    assert ours.success and ours.njev > 0 and ours.nlu > 0 and ours.nfev < 4 * theirs.nfev
    np.testing.assert_allclose(ours.y[:, -1], theirs.y[:, -1], rtol=5e-3)


def test_a_constant_jacobian_and_a_vectorized_function() -> None:
    m = np.array([[-1000.0, 0.0], [1.0, -1.0]])
    calls: list[tuple[int, ...]] = []

    def f(t, y):  # type: ignore[no-untyped-def]
        calls.append(y.shape)
        return m @ y

    for jac in (None, m):
        sol = solve_ivp(f, [0, 1], [1.0, 1.0], method="Radau", vectorized=True, jac=jac, rtol=1e-8, atol=1e-10)
        assert sol.y[1, -1] == pytest.approx((1 + 1 / 999) * math.exp(-1.0), rel=1e-6)
    assert {len(s) for s in calls} == {2} and (2, 2) in calls
    with pytest.warns(UserWarning, match=r"jac is not used by 'dopri5', which is explicit"):
        solve_ivp(decay, [0, 1], [1.0], jac=m)


def test_a_function_that_uses_its_array_again_and_writes_into_its_argument_does_no_harm() -> None:
    out = np.empty(2)

    def f(t, y):  # type: ignore[no-untyped-def]
        out[:] = y[1], -y[0]
        y[:] = 7.0
        return out

    sol = solve_ivp(f, [0, 1], [1.0, 0.0], rtol=1e-9, atol=1e-11)
    assert sol.y[:, -1] == pytest.approx([math.cos(1.0), -math.sin(1.0)], abs=1e-8)


def test_steps_are_bounded_as_in_scipy_and_a_tolerance_per_component_is_kept() -> None:
    for f in LIBRARIES.values():
        sol = f(decay, [0, 10], [2.0], max_step=0.25, first_step=0.1)
        assert np.diff(sol.t).max() <= 0.25 * (1 + 1e-12) and np.diff(sol.t)[0] == pytest.approx(0.1)
    fine, coarse = (
        solve_ivp(lambda t, y: [-y[0], 1e3 * np.cos(1e3 * t)], [0, 1], [1.0, 0.0], rtol=1e-7, atol=a)
        for a in (1e-7, [1e-7, 10.0])
    )
    assert coarse.nfev < fine.nfev / 5 and coarse.y[0, -1] == pytest.approx(math.exp(-1), rel=1e-6)


def test_failures_have_status_minus_one_and_keep_what_was_reached() -> None:
    pole, late = (f(lambda t, y: y**2, [0, 2], [1.0]) for f in (solve_ivp, scipy.integrate.solve_ivp))
    assert (pole.status, pole.success) == (late.status, late.success) == (-1, False)
    assert 0.99 < pole.t[-1] < 1.01 and pole.y.shape == (1, len(pole.t)) and "pole" in pole.message
    bounded = solve_ivp(van_der_pol(1e6), [0, 10], [2.0, 0.0], max_steps=200)
    assert bounded.status == -1 and "stiff" in bounded.message and bounded.t[-1] < 10
    part = solve_ivp(lambda t, y: y**2, [0, 2], [1.0], t_eval=[0, 0.5, 1.5])
    np.testing.assert_array_equal(part.t, [0, 0.5])


@pytest.mark.parametrize("name", ["kvaerno5", "tsit5", "adams", "rodas4"])
def test_every_integrator_of_odenet_may_be_named(name: str) -> None:
    sol = solve_ivp(lambda t, y: [y[1], -y[0]], [0, 3], [1.0, 0.0], method=name, rtol=1e-8, atol=1e-10)
    assert sol.y[:, -1] == pytest.approx([math.cos(3), -math.sin(3)], abs=1e-5)


def test_fixed_steps_are_counted_over_the_span_or_per_interval() -> None:
    sol = solve_ivp(lambda t, y: [y[1], -y[0]], [0, 1], [1.0, 0.0], method="rk4", steps=50)
    assert sol.t == pytest.approx(np.linspace(0, 1, 51)) and sol.success and "not estimated" in sol.message
    assert sol.y[0] == pytest.approx(np.cos(sol.t), abs=1e-8)
    few = solve_ivp(lambda t, y: [y[1], -y[0]], [0, 1], [1.0, 0.0], method="rk4", steps=25, t_eval=[0.5, 1.0])
    assert few.y[:, -1] == pytest.approx(sol.y[:, -1], rel=1e-12) and few.y.shape == (2, 2)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", ["RK45", "Radau", "BDF"])
def test_tensors_give_tensors_with_the_gradients_of_the_closed_form(method: str) -> None:
    k, y0 = torch.tensor(0.7, requires_grad=True), torch.tensor([2.0, 3.0], requires_grad=True)
    for t_eval in (None, [0.5, 2.0]):
        sol = solve_ivp(lambda t, y: -k * y, [0, 2], y0, method=method, t_eval=t_eval, rtol=1e-9, atol=1e-11)
        assert isinstance(sol.y, torch.Tensor) and sol.y.shape == (2, len(sol.t))
        torch.testing.assert_close(sol.y, y0[:, None] * torch.exp(-k * sol.t), rtol=1e-6, atol=0)
        got = torch.autograd.grad(sol.y.sum(), (k, y0))
        exact = torch.autograd.grad((y0[:, None] * torch.exp(-k * sol.t)).sum(), (k, y0))
        for a, b in zip(got, exact):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("double")
def test_the_time_of_a_terminal_event_is_differentiable() -> None:
    g, v = torch.tensor(9.81, requires_grad=True), torch.tensor(10.0, requires_grad=True)
    sol = solve_ivp(lambda t, y: [y[1], -g], [0, 100], torch.stack((torch.zeros(()), v)), events=hit_ground, rtol=1e-9)
    exact = 2 * v / g
    torch.testing.assert_close(sol.t_events[0][0], exact)
    torch.testing.assert_close(sol.t[-1], exact)
    for a, b in zip(torch.autograd.grad(sol.t[-1], (g, v)), torch.autograd.grad(exact, (g, v))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


@pytest.mark.usefixtures("double")
def test_a_tensor_function_may_want_a_tensor_time_and_may_return_a_list() -> None:
    y0 = torch.tensor([1.0, 0.0])
    sol = solve_ivp(lambda t, y: [y[0] * torch.cos(t), y[0]], [0, 2], y0, rtol=1e-10, atol=1e-12, dense_output=True)
    assert float(sol.y[0, -1]) == pytest.approx(math.exp(math.sin(2.0)), rel=1e-8)
    assert sol.sol(torch.tensor([0.5, 1.0])).shape == (2, 2) and float(sol.sol(2.0)[0]) == pytest.approx(
        math.exp(math.sin(2.0)), rel=1e-8
    )
    given = solve_ivp(lambda t, y: -1e3 * y, [0, 1], y0, method="Radau", jac=lambda t, y: [[-1e3, 0.0], [0.0, -1e3]])
    assert given.success and float(given.y[0, -1].abs()) < 1e-6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(method="LSODA"), "write method='adams' .* 'BDF'"),
        (dict(method=scipy.integrate.RK45), "got the class RK45"),
        (dict(method="RK54"), "no integrator is called 'RK54'"),
        (dict(method="rk4"), "takes fixed steps; write steps=100"),
        (dict(method="rk4", steps=5, max_step=0.1), "leave them out"),
        (dict(jac_sparsity=np.eye(1)), "no option 'jac_sparsity' here; Jacobians are dense"),
        (dict(min_step=0.1), "no option 'min_step' here; it belongs to LSODA"),
        (dict(rtoll=1e-3), r"no option 'rtoll' here; did you mean 'rtol'"),
        (dict(t_span=[0, 0]), "two different finite times"),
        (dict(t_span=[0, 1, 2]), "two different finite times"),
        (dict(t_span=torch.tensor([0.0, 1.0], requires_grad=True)), "t_span takes no gradient"),
        (dict(t_eval=[0, 2]), "t_eval lies inside t_span"),
        (dict(t_eval=[0.5, 0.2]), "strictly; sort it"),
        (dict(y0=1.0), r"y0 has one axis, \(n,\), got shape \(\)"),
        (dict(y0="abc"), "y0 is an array of numbers"),
        (dict(y0=[math.nan]), "NaN or infinite"),
        (dict(y0=torch.tensor([1])), "floating-point tensors"),
        (dict(args=3.0), r"write args=\(k,\)"),
        (dict(rtol=-1.0), "not negative and not both zero"),
        (dict(atol=[1e-3, 1e-3]), "one entry per component"),
        (dict(first_step=5.0), "first_step lies between 0 and"),
        (dict(max_step=0.0), "max_step is positive"),
        (dict(events=3), "an event is a function"),
        (dict(events=lambda t, y: np.array([1.0, 2.0])), r"returned shape \(2,\); an event gives one number"),
        (dict(fun=3), "fun is a function"),
        (dict(fun=lambda t, y: [1.0, 2.0]), r"returned shape \(2,\) for a state of shape \(1,\)"),
        (dict(fun=lambda t, y: 1j * y), "complex numbers for a real y0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    given = SimpleNamespace(**{"fun": decay, "t_span": [0, 1], "y0": [1.0], **change})
    with pytest.raises(BadInput, match=sentence) as told:
        solve_ivp(**vars(given))
    assert "\n" not in str(told.value)
