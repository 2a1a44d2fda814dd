"""Rosenbrock methods: against the formula with its k_i, published digits and solutions, scipy, finite differences."""

from __future__ import annotations

import cmath
import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from integrators_wave import H, Wave, march, start
from scipy.integrate import solve_ivp

from odenet.errors import BadInput, ClaimRefused, StepFailed
from odenet.fields.testset import IVPS
from odenet.integrators import resolve
from odenet.integrators.adaptive import Controller
from odenet.integrators.library.rosenbrock import LIBRARY
from odenet.integrators.linearise import slope_and_drift
from odenet.integrators.observe import ForcedPair, ForcedSpring, observed_order
from odenet.integrators.rosenbrock import Rosenbrock

METHODS = {name: resolve(data) for name, data in LIBRARY.items()}
D = torch.float64


# ---- coefficients


def test_ros3p_has_the_published_digits_of_its_substituted_form():
    a, c, m, _ = LIBRARY["ros3p"].substitution
    assert [float(a[1][0]), float(a[2][0]), float(a[2][1])] == pytest.approx([1.267949192431123] * 2 + [0], abs=1e-15)
    published = [-1.607695154586736, -3.464101615137755, -1.732050807568877]
    assert [float(c[1][0]), float(c[2][0]), float(c[2][1])] == pytest.approx(published, abs=1e-15)
    assert [float(x) for x in m] == pytest.approx([2, 0.5773502691896258, 0.4226497308103742, 0], abs=1e-15)
    slants = [0.7886751345948129, -0.2113248654051871, -1.077350269189626]
    assert [float(x) for x in LIBRARY["ros3p"].slants[:3]] == pytest.approx(slants, abs=1e-15)


PUBLISHED_PAIR = Rosenbrock(
    alpha=("", "1", "1 0"),
    gamma=("1/2+sqrt(3)/6", "-1 1/2+sqrt(3)/6", "-1/2-sqrt(3)/6 -1/2-sqrt(3)/3 1/2+sqrt(3)/6"),
    b="2/3 0 1/3",
    order=3,
    b_low="1/3 1/3 1/3",
    order_low=2,
)


def test_an_embedded_method_with_the_same_stability_function_is_refused():
    """The published pair of ROS3P, which solves any linear problem in a few steps of any error."""
    _, _, _, low = PUBLISHED_PAIR.substitution
    assert [float(x) for x in low] == pytest.approx([2.113248654051871, 1, 0.4226497308103742], abs=1e-15)
    with pytest.raises(ClaimRefused, match="the same stability function"):
        resolve(PUBLISHED_PAIR)
    assert resolve(dataclasses.replace(PUBLISHED_PAIR, b_low=None, order_low=None)).order == 3


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("z", [-0.1, -1.0, -30.0, -1e9, 2.0j])
def test_the_estimate_of_a_linear_problem_is_not_far_below_the_error(name, z):
    class Linear:
        def __call__(self, t, y):
            return z * y

        def jacobian(self, t, y):
            return torch.tensor([[z]], dtype=torch.complex128)

    step = METHODS[name].step(Linear(), 0.0, torch.ones(1, dtype=torch.complex128), 1.0, (), None)
    told, true = abs(complex(step.error[0])), abs(complex(step.y[0]) - cmath.exp(z))
    assert told > 0.4 * true
    if name == "ros3p":
        assert complex(step.error[0]) == pytest.approx((z / (1 - float(LIBRARY[name].diagonal) * z)) ** 3 / 6, rel=1e-9)


def test_on_nonlinear_terms_the_estimate_of_ros3p_is_the_published_one():
    """A problem of y'' = 0 in the linear part: y' = t^2 has J = 0, so that all that is left is the quadrature."""

    class Square:
        jacobian = staticmethod(lambda t, y: torch.zeros(1, 1, dtype=D))

        def __call__(self, t, y):
            return torch.full_like(y, 1.0) * t**2

    step = METHODS["ros3p"].step(Square(), 0.0, torch.zeros(1, dtype=D), 1.0, (), None)
    pairs = [(d.weights, d.weights_low, d.nodes) for d in (LIBRARY["ros3p"], PUBLISHED_PAIR)]
    ours, theirs = (sum((float(b) - float(c)) for b, c, x in zip(*pair) if x) for pair in pairs)
    assert ours == pytest.approx(theirs)
    assert float(step.y) == pytest.approx(1 / 3, rel=1e-12)
    assert float(step.error) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("problem", ["stiff_b5", "stiff_e1"])
@pytest.mark.parametrize("name", LIBRARY)
def test_linear_stiff_problems_are_solved_to_the_tolerance(name, problem):
    given = IVPS[problem]
    t, y, h, control = given.t0, given.start(), 1e-4, Controller(rtol=1e-4, atol=1e-4 * given.floor)
    low = METHODS[name].facts.order_low
    while t < given.t1:
        size = min(h, given.t1 - t)
        step = METHODS[name].step(given.f, t, y, size, (), None)
        error = float(control.error_norm(step.error, y, step.y))
        h = size * control.factor(error, None, low + 1)
        if error <= 1:
            t, y = t + size if size < given.t1 - t else given.t1, step.y
    assert given.error(y) < 1e-2


def test_rodas4_has_the_published_stage_times_and_their_slants():
    data = LIBRARY["rodas4"]
    assert [float(x) for x in data.nodes] == [0, 0.386, 0.21, 0.63, 1, 1]
    assert [float(x) for x in data.slants] == [0.25, -0.1043, 0.1035, -0.0362, 0, 0]
    rows = [sum(float(x) for x in row[:i]) for i, row in enumerate(data.betas)]
    assert rows[1:4] == pytest.approx([0.0317, 0.0635, 0.3438], abs=1e-14)


def _mutations(data):
    for name in ("alpha", "gamma", "b", "b_low"):
        rows = getattr(data, name)
        single = isinstance(rows, str)
        for i, row in enumerate((rows,) if single else rows):
            words = row.split()
            for j, word in enumerate(words):
                changed = " ".join([*words[:j], word + "+0.000001", *words[j + 1 :]])
                yield f"{name}[{i}][{j}]", {name: changed if single else (*rows[:i], changed, *rows[i + 1 :])}


@pytest.mark.parametrize("name", LIBRARY)
def test_every_coefficient_changed_by_a_millionth_is_refused(name):
    data, tried = LIBRARY[name], 0
    for where, change in _mutations(data):
        tried += 1
        if (name, where) == ("rodas4", "b_low[0][5]"):  # the pair's difference alone: a mean of both is of order 3 too
            assert resolve(dataclasses.replace(data, **change)).facts.order_low == 3
            continue
        with pytest.raises((ClaimRefused, BadInput)):
            resolve(dataclasses.replace(data, **change))
            pytest.fail(f"{name} with another {where} was accepted")
    assert tried == (24 if name == "ros3p" else 48)


@pytest.mark.parametrize("name", LIBRARY)
def test_another_gamma_on_the_whole_diagonal_is_refused(name):
    data = LIBRARY[name]
    gamma = tuple(f"{row}+0.000001" for row in data.gamma)
    with pytest.raises(ClaimRefused, match="order condition"):
        resolve(dataclasses.replace(data, gamma=gamma))


@pytest.mark.parametrize("claim", [{"order": 2}, {"order": 5}, {"order_low": 1}, {"order_low": 4}])
def test_wrong_orders_are_refused(claim):
    with pytest.raises(ClaimRefused, match="order"):
        resolve(dataclasses.replace(LIBRARY["rodas4"], **claim))


def test_malformed_data_says_what_is_wrong():
    with pytest.raises(BadInput, match="row i of alpha"):
        Rosenbrock(alpha=("", "1"), gamma=("1", "0"), b="1 0", order=1)
    with pytest.raises(BadInput, match="3 entries for 2 stages"):
        Rosenbrock(alpha=("", "1"), gamma=("1", "0 1"), b="1 0 0", order=1)
    with pytest.raises(BadInput, match="one number"):
        Rosenbrock(alpha=("", "1"), gamma=("1", "0 2"), b="1/2 1/2", order=1)
    with pytest.raises(BadInput, match="belong together"):
        Rosenbrock(alpha=("",), gamma=("1/2",), b="1", order=2, b_low="1")


def test_the_linearly_implicit_euler_and_midpoint_methods_are_read_off_as_orders_one_and_two():
    for gamma, order in (("1", 1), ("1/2", 2)):
        data = Rosenbrock(alpha=("",), gamma=(gamma,), b="1", order=order)
        assert resolve(data).facts.order == order
        with pytest.raises(ClaimRefused):
            resolve(dataclasses.replace(data, order=3 - order))


# ---- the step


class Forced:
    """A forced van der Pol oscillator with its derivatives written out, for states (2,)."""

    def f(self, t, y):
        return np.array([y[1], 5 * ((1 - y[0] ** 2) * y[1] - y[0]) + np.sin(3 * t) * y[0]])

    def jacobian(self, t, y):
        return np.array([[0, 1], [5 * (-2 * y[0] * y[1] - 1) + np.sin(3 * t), 5 * (1 - y[0] ** 2)]])

    def rate(self, t, y):
        return np.array([0, 3 * np.cos(3 * t) * y[0]])

    def __call__(self, t, y):
        second = (
            5 * ((1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]) + torch.sin(3 * torch.as_tensor(t, dtype=D)) * y[..., 0]
        )
        return torch.stack((y[..., 1], second), -1)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_is_the_classical_formula_with_its_k(name):
    data, problem = LIBRARY[name], Forced()
    alpha, gamma = (np.array([[float(x) for x in row] for row in m]) for m in (data.matrix, data.gammas))
    b, low = (np.array([float(x) for x in w]) for w in (data.weights, data.weights_low))
    t, y, h = 0.4, np.array([1.3, -0.7]), 0.2
    j, k = problem.jacobian(t, y), []
    for i in range(len(b)):
        stage = y + sum((alpha[i, m] * k[m] for m in range(i)), np.zeros(2))
        right = h * problem.f(t + alpha[i].sum() * h, stage) + h * h * gamma[i].sum() * problem.rate(t, y)
        right = right + h * j @ sum((gamma[i, m] * k[m] for m in range(i)), np.zeros(2))
        k.append(np.linalg.solve(np.eye(2) - h * gamma[i, i] * j, right))
    got = METHODS[name].step(problem_without_jacobian(), t, torch.tensor(y), h, (), None)
    assert np.allclose(got.y.numpy(), y + b @ np.array(k), rtol=0, atol=2e-14)
    assert np.allclose(got.error.numpy(), (b - low) @ np.array(k), rtol=0, atol=2e-14)
    assert np.allclose(got.slopes[0].numpy(), problem.f(t, y), rtol=0, atol=1e-15)
    assert got.carry == ()


def problem_without_jacobian():
    return Forced().__call__


@pytest.mark.parametrize("name", LIBRARY)
def test_the_observed_order_is_the_stated_one(name):
    method = METHODS[name]
    assert observed_order(method, ForcedPair(), finest=32) == pytest.approx(method.order, abs=0.1)


def test_a_closed_jacobian_takes_the_place_of_forward_mode():
    class Known:
        asked = 0

        def __call__(self, t, y):
            return torch.sin(y.flip(-1)) - y**3

        def jacobian(self, t, y):
            self.asked += 1
            cross = torch.diag_embed(torch.cos(y.flip(-1))).flip(-1)
            return cross - torch.diag_embed(3 * y**2)

    f, y = Known(), start(3)
    for method in METHODS.values():
        closed = method.step(f, 0.0, y, H, (), None)
        forward = method.step(f.__call__, 0.0, y, H, (), None)
        assert torch.allclose(closed.y, forward.y, rtol=0, atol=1e-15)
    assert f.asked == 2


def test_a_step_takes_one_jacobian_and_one_factorisation():
    class Counting:
        def __init__(self):
            self.counts, self.workspace, self.calls = Counter(), {}, 0

        def __call__(self, t, y):
            self.calls += 1
            return -(y**3)

    for name, evaluations in (("ros3p", 2), ("rodas4", 6)):
        f = Counting()
        y = start(3)
        METHODS[name].step(f, 0.0, y, H, (), None)  # the first step asks whether samples couple
        before = f.calls
        METHODS[name].step(f, 0.0, y, H, (), None)
        assert METHODS[name].stages == METHODS[name].facts.stages == evaluations
        assert f.calls - before == evaluations + 1  # all columns of the Jacobian at once
        assert f.counts == {"jacobians": 2, "lu": 2}


# ---- df/dt


TIMES = {
    "float": lambda t, y: y * float(t) ** 3,
    "math": lambda t, y: y * math.pow(t, 3),
    "numpy": lambda t, y: y * np.power(t, 3),
    "item": lambda t, y: y * (t.item() if isinstance(t, torch.Tensor) else t) ** 3,
    "new tensor": lambda t, y: y * y.new_tensor(t) ** 3,
    "list": lambda t, y: y * torch.tensor([t, 1.0], dtype=D)[0] ** 3,
    "full": lambda t, y: y * torch.full((), t, dtype=D) ** 3,
    "new full": lambda t, y: y * y.new_full((1,), t) ** 3,
    "format": lambda t, y: y * float(f"{t:.17g}") ** 3,
    "detach": lambda t, y: y * (t.detach() if isinstance(t, torch.Tensor) else t) ** 3,
    "mixed": lambda t, y: y * t * math.pow(t, 2),
    "alpha": lambda t, y: torch.add(torch.zeros_like(y), y * t**2, alpha=t),
}


@pytest.mark.parametrize("way", TIMES)
def test_a_field_that_makes_t_a_plain_number_gets_the_same_time_derivative(way):
    y = torch.tensor([1.0, -2.0], dtype=D)
    slope, drift = slope_and_drift(TIMES[way], 0.7, y, 0.1)
    assert torch.allclose(slope, y * 0.7**3, rtol=1e-15, atol=0)
    assert torch.allclose(drift, 0.1 * y * 3 * 0.7**2, rtol=1e-12, atol=0)


def test_the_time_derivative_is_exact_by_forward_mode_and_costs_no_evaluation():
    calls = []

    def f(t, y):
        calls.append(t)
        return y * torch.as_tensor(t) ** 3

    y = torch.tensor([1.0, -2.0], dtype=D)
    assert torch.equal(slope_and_drift(f, 0.7, y, 0.1)[1], 0.1 * (y * (3 * torch.tensor(0.7, dtype=D) ** 2)))
    assert len(calls) == 1


@pytest.mark.parametrize("name", LIBRARY)
def test_the_order_holds_where_the_field_uses_the_math_module(name):
    method = METHODS[name]
    assert observed_order(method, ForcedSpringOfFirstOrder(), finest=32) == pytest.approx(method.order, abs=0.1)


class ForcedSpringOfFirstOrder:
    """(y, v)' = (v, f(t, y)) with solution (cos t, -sin t); its f reads t through the math module."""

    def __init__(self):
        self.force = ForcedSpring()

    def exact(self, t):
        return torch.tensor([math.cos(t), -math.sin(t)], dtype=D)

    def __call__(self, t, y):
        return torch.cat((y[1:], self.force(t, y[:1])))


# ---- stability


def _laguerre(z, gamma, s, order):
    """sum_{k <= order} p_k z^k with p_k the Taylor coefficients of (1 - gamma z)^s e^z, over (1 - gamma z)^s."""
    p = [sum(math.comb(s, i) * (-gamma) ** i / math.factorial(k - i) for i in range(k + 1)) for k in range(order + 1)]
    return sum(c * z**k for k, c in enumerate(p)) / (1 - gamma * z) ** s


Z = [0.3j, -0.7, -1.5 + 0.4j, 0.2 + 1.1j, 2.0j, -3.0, -40.0, 25j]


@pytest.mark.parametrize("z", Z)
def test_the_stability_function_of_ros3p_is_the_only_one_of_order_three(z):
    gamma = 0.5 + math.sqrt(3) / 6
    assert METHODS["ros3p"].amplification(z) == pytest.approx(_laguerre(z, gamma, 3, 3), rel=1e-12)


@pytest.mark.parametrize("z", Z)
@pytest.mark.parametrize("name", LIBRARY)
def test_the_stability_function_is_what_a_step_does(name, z):
    class Linear:
        def __call__(self, t, y):
            return z * y

        def jacobian(self, t, y):
            return torch.tensor([[z]], dtype=torch.complex128)

    y = torch.ones(1, dtype=torch.complex128)
    closed = METHODS[name].amplification(z)
    assert complex(METHODS[name].step(Linear(), 0.0, y, 1.0, (), None).y[0]) == pytest.approx(closed, rel=1e-12)
    in_real_parts = METHODS[name].step(Linear().__call__, 0.0, y, 1.0, (), None).y[0]
    assert complex(in_real_parts) == pytest.approx(closed, rel=1e-11, abs=1e-13)


def test_rodas4_follows_the_exponential_to_its_order_and_damps_what_is_stiff():
    r = METHODS["rodas4"].amplification
    errors = [abs(r(z) - cmath.exp(z)) for z in (0.1j, 0.05j)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.1)
    assert LIBRARY["rodas4"].at_infinity() == 0
    assert LIBRARY["rodas4"].at_infinity(LIBRARY["rodas4"].weights_low) == 0
    assert abs(r(-1e12)) < 1e-11
    assert LIBRARY["ros3p"].at_infinity() == pytest.approx(1 - math.sqrt(3), rel=1e-14)
    assert abs(METHODS["ros3p"].amplification(-1e15)) == pytest.approx(math.sqrt(3) - 1, rel=1e-12)


def test_the_facts_say_which_method_is_l_stable_and_stiffly_accurate():
    ros3p, rodas4 = METHODS["ros3p"].facts, METHODS["rodas4"].facts
    assert (ros3p.a_stable, ros3p.l_stable, ros3p.stiffly_accurate, ros3p.exact) == (True, False, False, True)
    assert (rodas4.a_stable, rodas4.l_stable, rodas4.stiffly_accurate, rodas4.exact) == (True, True, True, False)
    assert ros3p.real_interval == rodas4.imag_interval == math.inf
    assert (ros3p.order, ros3p.order_low, rodas4.order, rodas4.order_low) == (3, 2, 4, 3)


@pytest.mark.parametrize("name", LIBRARY)
def test_nothing_grows_in_the_left_half_plane(name):
    angle, radius = torch.meshgrid(torch.linspace(math.pi / 2, math.pi, 60), torch.logspace(-3, 8, 200), indexing="ij")
    z = torch.polar(radius.double(), angle.double())
    assert float(METHODS[name].amplification(torch.complex(z.real.clamp(max=0.0), z.imag)).abs().max()) <= 1 + 1e-12


def test_the_criterion_of_a_stability_finds_the_interval_of_gamma():
    """One stage, R = (1 + (1 - gamma) z) / (1 - gamma z): A-stable iff gamma >= 1/2."""
    for gamma, stable in (("49/100", False), ("1/2", True), ("51/100", True), ("-1", False)):
        assert Rosenbrock(alpha=("",), gamma=(gamma,), b="1", order=1).a_stable is stable


@pytest.mark.parametrize(("gamma", "stable"), [("24/100", False), ("25/100", True), ("26/100", True), ("2", True)])
def test_two_stages_of_order_two_are_a_stable_from_gamma_one_quarter_on(gamma, stable):
    """Hairer & Wanner II, table IV.6.3: gamma >= 1/4 for s = p = 2."""
    data = Rosenbrock(alpha=("", "1"), gamma=(gamma, f"-2*({gamma}) {gamma}"), b="1/2 1/2", order=2)
    assert data.a_stable is stable
    y = torch.linspace(-100, 100, 4001, dtype=D)
    grown = float(resolve(data).amplification(1j * y).abs().max())
    assert (grown <= 1 + 1e-12) is stable


@pytest.mark.parametrize(("gamma", "stable"), [("0.333", False), ("0.334", True), ("1.068", True), ("1.069", False)])
def test_three_stages_of_order_three_are_a_stable_between_the_bounds_of_the_textbook(gamma, stable):
    """Hairer & Wanner II, IV.6: 1/3 <= gamma <= 1.0685790 for s = p = 3; only the linear order is built here."""
    last = f"1/6-{gamma}+{gamma}**2"
    data = Rosenbrock(
        alpha=("", "0", "0 0"),
        gamma=(gamma, f"1 {gamma}", f"1/2-{gamma}-({last}) {last} {gamma}"),
        b="0 0 1",
        order=2,
    )
    assert data.a_stable is stable


def test_very_stiff_components_end_on_the_slow_solution_with_rodas4():
    """Prothero & Robinson: y' = lambda (y - cos t) - sin t."""
    f = lambda t, y: -1e8 * (y - torch.cos(torch.as_tensor(t, dtype=D))) - torch.sin(torch.as_tensor(t, dtype=D))  # noqa: E731
    y = torch.ones(1, dtype=D)
    errors = {n: abs(float(march(m, f, y, steps=10, h=0.1)[-1]) - math.cos(1.0)) for n, m in METHODS.items()}
    assert errors["rodas4"] < 1e-9
    assert errors["ros3p"] < 1e-8


# ---- whole solutions


def solve(method, f, y, span, rtol, atol, h):
    """A march with the controller, as short as it can be."""
    control, t, previous, steps = Controller(rtol, atol), span[0], None, 0
    while t < span[1]:
        h = min(h, span[1] - t)
        step = method.step(f, t, y, h, (), None)
        err = float(control.error_norm(step.error, y, step.y))
        if err <= 1:
            t, y = t + h, step.y
        h *= control.factor(err, previous if err <= 1 else None, method.facts.order_low + 1)
        previous = err if err <= 1 else previous
        steps += 1
    return y, steps


def test_rodas4_solves_van_der_pol_with_mu_100_like_radau():
    mu, end = 100.0, 85.0

    class VanDerPol:
        def __call__(self, t, y):
            return torch.stack((y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]))

        def jacobian(self, t, y):
            rows = (0.0, 1.0), (-2 * mu * float(y[0] * y[1]) - 1, mu * (1 - float(y[0]) ** 2))
            return torch.tensor(rows, dtype=D)

    fun = lambda t, y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]  # noqa: E731
    reference = solve_ivp(fun, (0, end), [2.0, 0.0], method="Radau", rtol=1e-11, atol=1e-12).y[:, -1]
    y, steps = solve(METHODS["rodas4"], VanDerPol(), torch.tensor([2.0, 0.0], dtype=D), (0.0, end), 1e-6, 1e-8, 1e-3)
    assert np.allclose(y.numpy(), reference, rtol=1e-4, atol=1e-7)
    assert steps < 450


def test_rodas4_gives_the_published_values_of_robertson():
    """LSODE's example problem: values at t = 40."""

    def f(t, y):
        first = -0.04 * y[0] + 1e4 * y[1] * y[2]
        third = 3e7 * y[1] ** 2
        return torch.stack((first, -first - third, third))

    y, _ = solve(METHODS["rodas4"], f, torch.tensor([1.0, 0, 0], dtype=D), (0.0, 40.0), 1e-8, 1e-12, 1e-4)
    assert y.numpy() == pytest.approx([7.1582707e-01, 9.1855348e-06, 2.8416374e-01], rel=2e-7)


class Diffusion:
    """u_t = u_xx + r on a grid whose solution is e^-t sin(pi x + t) + x t there: its boundary values depend on t."""

    def __init__(self, n=40):
        self.x = torch.arange(1, n, dtype=D) / n
        self.second = (torch.diag(torch.ones(n - 2, dtype=D), 1) - torch.eye(n - 1, dtype=D)) * n * n
        self.second = self.second + self.second.T

    def exact(self, t):
        t = torch.as_tensor(t, dtype=D)
        return torch.exp(-t) * torch.sin(math.pi * self.x + t) + self.x * t

    def __call__(self, t, u):
        t = torch.as_tensor(t, dtype=D)
        s = math.pi * self.x + t
        rate = torch.exp(-t) * (torch.cos(s) - torch.sin(s)) + self.x
        return (u - self.exact(t)) @ self.second.T + rate

    def jacobian(self, t, u):
        return self.second


def test_boundary_values_that_depend_on_t_reduce_the_order_of_rodas4_and_not_that_of_ros3p():
    f, orders = Diffusion(), {}
    for name, steps in (("ros3p", 80), ("rodas4", 40)):
        ends = [march(METHODS[name], f, f.exact(0.0), steps=s, h=1 / s)[-1] for s in (steps, 2 * steps)]
        first, second = (float((u - f.exact(1.0)).square().mean()) ** 0.5 for u in ends)
        orders[name] = math.log2(first / second)
    assert orders["ros3p"] > 2.65
    assert orders["rodas4"] < 2.4


# ---- derivatives


class Net:
    """tanh(y W + t v) - y^3 with weights to differentiate."""

    def __init__(self, w):
        self.w = w

    def __call__(self, t, y):
        return torch.tanh(y @ self.w + t) - y**3


def _weights():
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=D)


@pytest.mark.parametrize("name", LIBRARY)
def test_first_and_second_derivatives_of_a_step_are_exact(name):
    y = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=D, requires_grad=True)
    w, h = _weights().requires_grad_(), torch.tensor([[0.3], [0.2]], dtype=D, requires_grad=True)

    def step(y, w, h):
        out = METHODS[name].step(Net(w), 0.1, y, h, (), None)
        return out.y, out.error

    assert torch.autograd.gradcheck(step, (y, w, h), eps=1e-5, atol=1e-8, rtol=1e-7)
    assert torch.autograd.gradgradcheck(lambda y: step(y, w.detach(), h.detach()), (y,), eps=1e-5, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", LIBRARY)
def test_torch_func_gives_the_derivatives_of_autograd(name):
    y, w = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=D), _weights()
    step = lambda y, w: METHODS[name].step(Net(w), 0.1, y, 0.3, (), None).y  # noqa: E731
    dense = torch.autograd.functional.jacobian(step, (y, w))
    v, u = torch.randn_like(y), torch.randn_like(w)
    _, pushed = torch.func.jvp(step, (y, w), (v, u))
    expected = torch.tensordot(dense[0], v, 2) + torch.tensordot(dense[1], u, 2)
    assert torch.allclose(pushed, expected, rtol=0, atol=1e-13)
    pulled = torch.func.vjp(step, y, w)[1](v)
    assert torch.allclose(pulled[0], torch.tensordot(v, dense[0], 2), rtol=0, atol=1e-13)
    assert torch.allclose(pulled[1], torch.tensordot(v, dense[1], 2), rtol=0, atol=1e-13)


def test_the_derivative_with_respect_to_the_start_time_is_exact():
    y, w = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=D), _weights()
    t = torch.tensor(0.1, dtype=D, requires_grad=True)
    step = lambda t: METHODS["rodas4"].step(Net(w), t, y, 0.3, (), None).y  # noqa: E731
    assert torch.autograd.gradcheck(step, (t,), eps=1e-5, atol=1e-9, rtol=1e-7)


def test_a_step_whose_time_derivative_is_taken_by_differences_is_differentiated_exactly():
    y = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=D, requires_grad=True)
    step = lambda y: METHODS["rodas4"].step(lambda t, y: torch.sin(y * math.exp(t)), 0.1, y, 0.3, (), None).y  # noqa: E731
    assert torch.autograd.gradcheck(step, (y,), eps=1e-5, atol=1e-9, rtol=1e-7)


# ---- shapes, dtypes, batches


@pytest.mark.parametrize("name", LIBRARY)
def test_one_step_size_per_sample_equals_the_loop_over_samples(name):
    f, y = Wave(), start(3)
    h, t = torch.tensor([[0.1], [-0.05], [0.3]], dtype=D), torch.tensor([[0.0], [0.2], [1.0]], dtype=D)
    together = METHODS[name].step(f, t, y, h, (), None)
    for i in range(3):
        alone = METHODS[name].step(f, float(t[i]), y[i : i + 1], float(h[i]), (), None)
        assert torch.allclose(together.y[i : i + 1], alone.y, rtol=0, atol=1e-14)
        assert torch.allclose(together.error[i : i + 1], alone.error, rtol=0, atol=1e-14)


def test_a_sample_whose_step_is_zero_stays_where_it_is():
    y = start(2)
    stepped = METHODS["rodas4"].step(
        lambda t, y: y * math.pi - y**3, 0.0, y, torch.tensor([[0.0], [0.1]], dtype=D), (), None
    )
    assert torch.equal(stepped.y[0], y[0])
    assert not torch.equal(stepped.y[1], y[1])


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (4, 3), (4, 2, 3), (2, 2, 3, 2)])
def test_states_of_any_shape_step_like_their_entries(shape):
    y = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=D)
    whole = METHODS["rodas4"].step(lambda t, y: -(y**3), 0.0, y, 0.2, (), None).y
    entries = [METHODS["rodas4"].step(lambda t, y: -(y**3), 0.0, x.reshape(1), 0.2, (), None).y for x in y.flatten()]
    assert whole.shape == shape
    assert torch.allclose(whole.flatten(), torch.cat(entries), rtol=0, atol=1e-15)


def test_samples_that_couple_are_stepped_as_one_system():
    coupled = lambda t, y: y.mean(0, keepdim=True) - y**3  # noqa: E731
    y = start(3)
    whole = METHODS["rodas4"].step(coupled, 0.0, y, 0.2, (), None).y
    flat = METHODS["rodas4"].step(lambda t, v: coupled(t, v.reshape(3, 4)).flatten(), 0.0, y.flatten(), 0.2, (), None).y
    assert torch.allclose(whole.flatten(), flat, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_complex_state_is_stepped_as_its_real_and_imaginary_parts(shape):
    """i psi' = -psi + |psi|^2 psi is not analytic in psi."""
    f = lambda t, y: 1j * (y - y.abs() ** 2 * y) * (1 + t)  # noqa: E731

    def real(t, x):
        return torch.view_as_real(f(t, torch.view_as_complex(x.reshape(*shape, 2)))).reshape(x.shape)

    y = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    flat = torch.view_as_real(y).reshape(1, -1)
    for method in METHODS.values():
        got = method.step(f, 0.1, y, 0.2, (), None)
        expected = method.step(real, 0.1, flat, 0.2, (), None)
        assert torch.allclose(torch.view_as_real(got.y).reshape(1, -1), expected.y, rtol=0, atol=1e-15)
        assert torch.allclose(torch.view_as_real(got.error).reshape(1, -1), expected.error, rtol=0, atol=1e-15)
        assert got.slopes[0].shape == y.shape


def test_a_complex_step_has_its_full_order_where_the_field_is_not_analytic():
    """psi' = (1 + 2i - |psi|^2) psi: |psi|^2 is logistic and the phase grows by 2 t."""
    y0 = torch.tensor([0.5 + 0.2j, -0.3 + 1.1j], dtype=torch.complex128)
    modulus = (1 + (1 / y0.abs() ** 2 - 1) * math.exp(-4.0)) ** -0.5
    exact, errors = modulus * y0 / y0.abs() * cmath.exp(4j), []
    for steps in (32, 64):
        y = march(METHODS["rodas4"], lambda t, y: (1 + 2j - y.abs() ** 2) * y, y0, steps=steps, h=2 / steps)[-1]
        errors.append(float((y - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)


def test_components_of_one_complex_state_are_never_taken_for_samples():
    """At 0 the components of y* y* - y do not couple; elsewhere they do."""

    class Coupled:
        def __init__(self):
            self.workspace = {}

        def __call__(self, t, y):
            return y.flip(0) ** 2 - y

    f, y = Coupled(), torch.tensor([1 + 1j, 0.5], dtype=torch.complex128)
    METHODS["rodas4"].step(f, 0.0, torch.zeros_like(y), 0.2, (), None)
    after = METHODS["rodas4"].step(f, 0.0, y, 0.2, (), None).y
    assert torch.equal(after, METHODS["rodas4"].step(Coupled(), 0.0, y, 0.2, (), None).y)


@pytest.mark.parametrize("name", LIBRARY)
def test_float32_stays_float32_and_agrees_with_float64(name):
    y = start(3)
    wide = METHODS[name].step(Wave(), 0.1, y, 0.2, (), None)
    narrow = METHODS[name].step(Wave(dtype=torch.float32), 0.1, y.float(), 0.2, (), None)
    assert narrow.y.dtype == narrow.error.dtype == torch.float32
    assert torch.allclose(narrow.y.double(), wide.y, rtol=0, atol=1e-5)
    wide_sizes = torch.full((3, 1), 0.2, dtype=D)
    sized = METHODS[name].step(lambda t, y: torch.sin(y), 0.1, y.float(), wide_sizes, (), None)
    assert sized.y.dtype == sized.error.dtype == torch.float32


@pytest.mark.parametrize("name", LIBRARY)
def test_a_negative_step_undoes_a_step_up_to_its_error(name):
    f, y = Wave(), start(3)
    there = METHODS[name].step(f, 0.0, y, 1e-3, (), None).y
    back = METHODS[name].step(f, 1e-3, there, -1e-3, (), None).y
    assert torch.allclose(back, y, rtol=0, atol=1e-10)


# ---- failures


def test_a_singular_matrix_is_a_failed_step_and_says_when():
    y = torch.ones(1, dtype=D)
    with pytest.raises(StepFailed, match="at t = 2 is singular; shorten the step"):
        METHODS["rodas4"].step(lambda t, y: 4.0 * y, 2.0, y, 1.0, (), None)


def test_numbers_that_are_not_finite_are_returned():
    y = torch.tensor([1.0, math.inf], dtype=D)
    for method in METHODS.values():
        assert not bool(torch.isfinite(method.step(lambda t, y: y * y, 0.0, y, 0.1, (), None).y).all())
