"""Implicit Runge-Kutta methods against closed forms, scipy, textbook tables and equations written out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import fsolve

import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused, StepFailed
from odenet.integrators import jacobian as jacobians
from odenet.integrators.adaptive import Controller
from odenet.integrators.implicit import ImplicitTableau
from odenet.integrators.library.implicit import LIBRARY
from odenet.integrators.registration import admit
from odenet.integrators.stages import with_extras

METHODS = {name: admit(name, data) for name, data in LIBRARY.items()}
ADAPTIVE = [name for name, method in METHODS.items() if method.adaptive]
SYMPLECTIC = ["implicit_midpoint", "gauss4", "gauss6"]
SYMMETRIC = ["trapezoid", *SYMPLECTIC]


def _double(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _march(method, f, y, t, h, steps):
    f, carry = with_extras(f), ()
    for n in range(steps):
        y, _, carry, *_ = method.step(f, t + n * h, y, h, carry, None)
    return y


def _adaptive(method, f, y, t, end, rtol, atol, h=1e-4):
    """y(end), accepted and rejected steps, with the controller alone."""
    f, control = with_extras(f), Controller(rtol=rtol, atol=atol)
    f.tolerance = (rtol, atol)
    carry, last, accepted, rejected = (), None, 0, 0
    while end - t > 1e-12:
        h = min(h, end - t)
        try:
            new = method.step(f, t, y, h, carry, None)
            error = float(control.error_norm(new.error, y, new.y))
        except StepFailed:
            error = math.inf
        if error <= 1:
            t, y, carry, accepted = t + h, new.y, new.carry, accepted + 1
        else:
            rejected += 1
        h *= control.factor(error, last if error <= 1 else None, method.facts.order_low + 1)
        last = error if error <= 1 else last
    return y, accepted, rejected, f


class Tilted:
    """y' = sin(A y) + cos(t) - y^3/5 on the last axis: nonlinear, coupled, non-autonomous, complex-differentiable."""

    def __init__(self, width=3, dtype=torch.float64):
        self.a = _double(width, width, seed=4).to(dtype)

    def __call__(self, t, y):
        cosine = torch.cos(t) if isinstance(t, torch.Tensor) else math.cos(t)
        return torch.sin(y @ self.a.T) + cosine - y**3 / 5


# ---- claims


def _words_perturbed(row):
    words = row.split()
    for i, word in enumerate(words):
        yield " ".join([*words[:i], f"{word}+1/1000000", *words[i + 1 :]])


def _wrong_copies(data):
    for name in ("b", "b_low"):
        if (row := getattr(data, name)) is not None:
            yield from (dataclasses.replace(data, **{name: wrong}) for wrong in _words_perturbed(row))
    for i, row in enumerate(data.a):
        yield from (
            dataclasses.replace(data, a=(*data.a[:i], wrong, *data.a[i + 1 :])) for wrong in _words_perturbed(row)
        )


@pytest.mark.parametrize("name", LIBRARY)
def test_an_error_of_a_millionth_in_any_coefficient_is_refused(name):
    copies = list(_wrong_copies(LIBRARY[name]))
    assert len(copies) >= len(LIBRARY[name].a) * (len(LIBRARY[name].a) + 1)
    for wrong in copies:
        with pytest.raises(ClaimRefused):
            integrators.resolve(wrong)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", LIBRARY)
def test_an_order_one_too_high_or_too_low_is_refused(name, shift):
    data = LIBRARY[name]
    with pytest.raises(ClaimRefused, match=rf"claims order {data.order + shift}, but"):
        integrators.resolve(dataclasses.replace(data, order=data.order + shift))
    if data.order_low is not None:
        with pytest.raises(ClaimRefused, match="the embedded method"):
            integrators.resolve(dataclasses.replace(data, order_low=data.order_low + shift))


def test_a_property_too_many_or_too_few_is_refused():
    data = LIBRARY["sdirk2"]
    for wrong in ("A-stable L-stable", "A-stable L-stable B-stable stiffly-accurate", "symplectic"):
        with pytest.raises(ClaimRefused, match="claims the properties"):
            integrators.resolve(dataclasses.replace(data, properties=wrong))


def test_malformed_tableaux_are_refused_when_they_are_written():
    with pytest.raises(BadInput, match="row 2 of a has 1 entries for 2 stages"):
        ImplicitTableau(a=("1/2 0", "1"), b="1 0", order=1)
    with pytest.raises(BadInput, match="b has 1 entries"):
        ImplicitTableau(a=("1/2 0", "1 0"), b="1", order=1)
    with pytest.raises(BadInput, match="no stage of this tableau is implicit"):
        ImplicitTableau(a=("0 0", "1 0"), b="1/2 1/2", order=2)
    with pytest.raises(BadInput, match="order_low belongs"):
        ImplicitTableau(a=("1",), b="1", order=1, b_low="1")
    with pytest.raises(BadInput, match="fully implicit"):
        ImplicitTableau(a=("1",), b="1", order=1, order_low=1, estimate="slope")
    with pytest.raises(BadInput, match="estimate is"):
        ImplicitTableau(a=("1",), b="1", order=1, estimate="guess")


@pytest.mark.parametrize("name", LIBRARY)
def test_every_entry_states_who_wrote_it_and_when_to_use_it(name):
    method = METHODS[name]
    assert method.cite
    assert method.when.endswith(".")
    assert len(method.when) < 110
    assert method.implicit
    assert method.adaptive == (name in ("tr_bdf2", "kvaerno3", "kvaerno5", "esdirk4", "radau_iia3", "radau_iia5"))


# ---- order


class Riccati:
    """y' = -2 t y^2, y = 1 / (1 / y_0 + t^2)."""

    start = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)

    def __call__(self, t, y):
        return -2 * t * y * y

    def exact(self, t):
        return 1 / (1 / self.start + t * t)


class Circle:
    """q' = cos t + 3/2 sin(p - cos t), p' = -sin t - 3/2 sin(q - sin t) p; solution (sin t, cos t)."""

    def __call__(self, t, y):
        (q, p), s, c = y, math.sin(t), math.cos(t)
        return torch.stack((c + 1.5 * torch.sin(p - c), -s - 1.5 * torch.sin(q - s) * p))

    def exact(self, t):
        return torch.tensor([math.sin(t), math.cos(t)], dtype=torch.float64)


@pytest.mark.parametrize("name", LIBRARY)
def test_halving_the_step_shows_the_stated_order(name):
    method = METHODS[name]
    problem, steps = (Circle(), (8, 16)) if method.order >= 5 else (Riccati(), (32, 64))
    errors = [
        float((_march(method, problem, problem.exact(0.0), 0.0, 1.0 / n, n) - problem.exact(1.0)).norm()) for n in steps
    ]
    assert errors[1] > 1e-13
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.1)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_estimate_shrinks_with_the_power_of_h_that_the_facts_state(name):
    method, problem = METHODS[name], Riccati()
    y = problem.exact(0.5)
    h = 2.0**-7 if method.order == 5 else 2.0**-8
    sizes = [float(method.step(problem, 0.5, y, x, (), None).error.norm()) for x in (h, h / 2)]
    # the filter (I - h gamma J)^-1 of some and J's own lag change it by O(h)
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(method.facts.order_low + 1, abs=0.1)


# ---- one step, written out


def _tables(name):
    data = LIBRARY[name]
    return np.array([[float(x) for x in row] for row in data.matrix]), np.array([float(x) for x in data.weights])


@pytest.mark.parametrize("name", LIBRARY)
def test_one_step_solves_the_equations_written_out(name):
    f, y, (a, b) = Tilted(), _double(3), _tables(name)
    c, h, s = a.sum(1), 0.4, len(b)

    def equations(flat):
        k = flat.reshape(s, 3)
        states = y.numpy() + h * a @ k
        right = [f(0.3 + h * c[i], torch.from_numpy(states[i])).numpy() for i in range(s)]
        return (k - np.stack(right)).ravel()

    k = fsolve(equations, np.tile(f(0.3, y).numpy(), s), xtol=1e-12).reshape(s, 3)
    wanted = y.numpy() + h * b @ k
    assert np.abs(METHODS[name].step(f, 0.3, y, h, (), None).y.numpy() - wanted).max() < 1e-11


@pytest.mark.parametrize("name", LIBRARY)
def test_the_memory_changes_no_step_beyond_rounding(name):
    method, f, y = METHODS[name], Tilted(), _double(3)
    first = method.step(f, 0.0, y, 0.1, (), None)
    fresh = method.step(f, 0.1, first.y, 0.3, (), None)
    carried = method.step(f, 0.1, first.y, 0.3, first.carry, None)
    assert (fresh.y - carried.y).abs().max() < 1e-14
    if method.adaptive and LIBRARY[name].estimate == "difference":  # a filter has the Jacobian at the first guess
        assert (fresh.error - carried.error).abs().max() < 1e-13


def test_fully_implicit_methods_guess_their_stages_from_the_step_before():
    y = torch.ones(3, dtype=torch.float64)
    for name in ("radau_iia5", "gauss4"):
        counts = []
        for remember in (True, False):
            f, state, carry = with_extras(Tilted()), y, ()
            for n in range(10):
                state, _, carry, *_ = METHODS[name].step(f, 0.05 * n, state, 0.05, carry if remember else (), None)
            counts.append(f.counts["newton"])
        assert counts[0] < counts[1]


@pytest.mark.parametrize("name", ["radau_iia3", "radau_iia5", "gauss4", "gauss6"])
def test_a_slope_that_is_a_polynomial_in_t_is_guessed_exactly_whatever_the_next_step_size(name):
    method, y = METHODS[name], _double(2, 3)
    f = with_extras(lambda t, y: sum(t**j for j in range(len(LIBRARY[name].a))) + 0 * y)
    f.tolerance = (1e-10, 1e-10)  # above the rounding of the guess
    first = method.step(f, 0.5, y, 0.2, (), None)
    assert f.counts["newton"] == 2  # from 0, one update and one that shows that it was enough
    method.step(f, 0.7, first.y, 0.5, first.carry, None)
    assert f.counts["newton"] == 3


# ---- stability


CLOSED_FORMS = {
    "backward_euler": lambda z: 1 / (1 - z),
    "implicit_midpoint": lambda z: (1 + z / 2) / (1 - z / 2),
    "trapezoid": lambda z: (1 + z / 2) / (1 - z / 2),
    "sdirk2": lambda z: (1 + (1 - 2 * (1 - 0.5**0.5)) * z) / (1 - (1 - 0.5**0.5) * z) ** 2,
    "tr_bdf2": lambda z: (1 + (1 - 2 * (1 - 0.5**0.5)) * z) / (1 - (1 - 0.5**0.5) * z) ** 2,
    "radau_iia3": lambda z: (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6),
    "radau_iia5": lambda z: (1 + 2 * z / 5 + z**2 / 20) / (1 - 3 * z / 5 + 3 * z**2 / 20 - z**3 / 60),
    "gauss4": lambda z: (1 + z / 2 + z**2 / 12) / (1 - z / 2 + z**2 / 12),
    "gauss6": lambda z: (1 + z / 2 + z**2 / 10 + z**3 / 120) / (1 - z / 2 + z**2 / 10 - z**3 / 120),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_stability_functions_are_those_of_the_textbook(name):
    z = torch.complex(3 * _double(40), 3 * _double(40, seed=1))
    got, wanted = METHODS[name].amplification(z), CLOSED_FORMS[name](z)
    assert ((got - wanted).abs() / wanted.abs().clamp_min(1)).max() < 1e-13


@pytest.mark.parametrize("name", LIBRARY)
def test_the_stability_function_is_the_step_of_the_linear_test_equation(name):
    z = torch.complex(-_double(6).abs(), 3 * _double(6, seed=1))
    steps = METHODS[name].step(lambda t, y: z * y, 0.0, torch.ones(6, dtype=torch.complex128), 1.0, (), None).y
    assert (METHODS[name].amplification(z) - steps).abs().max() < 1e-13


@pytest.mark.parametrize("name", LIBRARY)
def test_far_out_the_stability_function_is_its_limit(name):
    far = METHODS[name].amplification(torch.tensor([-1e9, -1e200, 1e150j, -math.inf], dtype=torch.complex128))
    limit = {"implicit_midpoint": -1, "trapezoid": -1, "gauss4": 1, "gauss6": -1}.get(name, 0)
    assert (far - limit).abs().max() < 1e-7


# Hairer & Wanner II: tables IV.5.13 (order, stage order) and IV.12 (algebraic stability)
TEXTBOOK = {
    # order, stage order, A, L, B, symplectic, stiffly accurate
    "backward_euler": (1, 1, True, True, True, False, True),
    "implicit_midpoint": (2, 1, True, False, True, True, False),
    "trapezoid": (2, 2, True, False, False, False, True),
    "sdirk2": (2, 1, True, True, False, False, True),
    "tr_bdf2": (2, 2, True, True, False, False, True),
    "kvaerno3": (3, 2, True, True, False, False, True),
    "kvaerno5": (5, 2, True, True, False, False, True),
    "esdirk4": (4, 2, True, True, False, False, True),
    "radau_iia3": (3, 2, True, True, True, False, True),
    "radau_iia5": (5, 3, True, True, True, False, True),
    "gauss4": (4, 2, True, False, True, True, False),
    "gauss6": (6, 3, True, False, True, True, False),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_facts_are_those_of_the_textbook(name):
    facts = METHODS[name].facts
    seen = (facts.order, facts.stage_order, facts.a_stable, facts.l_stable, facts.b_stable, facts.symplectic)
    assert (*seen, facts.stiffly_accurate) == TEXTBOOK[name]
    assert facts.real_interval == facts.imag_interval == math.inf
    assert (facts.contractivity_radius == math.inf) == facts.b_stable
    assert facts.ssp == pytest.approx(
        {"backward_euler": math.inf, "implicit_midpoint": 2, "trapezoid": 2, "sdirk2": 1 + 2**0.5}.get(name, facts.ssp)
    )


@pytest.mark.parametrize(
    ("gamma", "stable"),
    [("1/4", True), ("1/4-1/1000", False), ("(3+sqrt(3))/6", True), ("(3-sqrt(3))/6", False), ("5/2", True)],
)
def test_a_stability_of_two_stage_sdirk_methods_begins_at_a_quarter(gamma, stable):
    """gamma >= 1/4: Hairer & Wanner II, table IV.6.3 for s = 2; (3 +- sqrt 3)/6 are of order 3."""
    order = 3 if "sqrt" in gamma else 2
    data = ImplicitTableau(a=(f"{gamma} 0", f"1-2*({gamma}) {gamma}"), b="1/2 1/2", order=order)
    facts = admit("", data).facts
    assert facts.a_stable == facts.b_stable == stable
    if not stable:
        x = 0.999 * facts.real_interval
        method = admit("", data)
        assert 1 < facts.real_interval < math.inf
        assert abs(method.amplification(-x)) < 1 < abs(method.amplification(-x / 0.998))


def test_a_pole_in_the_left_half_plane_is_not_a_stable():
    """|R| = 1 on the axis, as for every symmetric method, but R = (1 - z/2) / (1 + z/2) has its pole at -2."""
    flipped = ImplicitTableau(a=("-1/2 0", "-1/2 -1/2"), b="-1/2 -1/2", order=0)
    assert "A-stable" not in flipped.holds
    lobatto = ImplicitTableau(  # Lobatto IIIC of order 2: L-stable and algebraically stable
        a=("1/2 -1/2", "1/2 1/2"), b="1/2 1/2", order=2, properties="A-stable L-stable B-stable stiffly-accurate"
    )
    assert admit("", lobatto).facts.stage_order == 1


def test_b_stable_methods_bring_solutions_of_a_monotone_problem_together_at_any_step_size():
    def f(t, y):
        turned = torch.stack((y[..., 1], -y[..., 0]), -1)
        return 30 * turned - y**3 - 0.1 * y

    u, v = 2 * _double(20, 2), 2 * _double(20, 2, seed=1)
    before = (u - v).norm(dim=-1)
    for name, method in METHODS.items():
        if method.facts.b_stable:
            for h in (0.05, 0.3):
                a, b = (method.step(f, 0.0, x, h, (), None).y for x in (u, v))
                assert ((a - b).norm(dim=-1) <= before * (1 + 1e-12)).all(), name


# ---- stiff problems


def _van_der_pol(t, y):
    u, v = y[..., 0], y[..., 1]
    return torch.stack((v, 100 * (1 - u * u) * v - u), -1)


@pytest.fixture(scope="module")
def van_der_pol_end():
    def f(t, y):
        return [y[1], 100 * (1 - y[0] ** 2) * y[1] - y[0]]

    def jacobian(t, y):
        return [[0, 1], [-200 * y[0] * y[1] - 1, 100 * (1 - y[0] ** 2)]]

    return solve_ivp(f, (0, 100), [2, 0], method="Radau", jac=jacobian, rtol=1e-11, atol=1e-13).y[:, -1]


@pytest.mark.parametrize(
    ("name", "rtol", "limit", "steps"),
    [
        ("tr_bdf2", 1e-4, 3e-2, 400),
        ("kvaerno3", 1e-4, 3e-3, 400),
        ("esdirk4", 1e-5, 3e-4, 200),
        ("kvaerno5", 1e-6, 3e-5, 250),
        ("radau_iia3", 1e-4, 1e-3, 500),
        ("radau_iia5", 1e-6, 1e-6, 400),  # scipy's takes 368 steps
    ],
)
def test_a_relaxation_oscillator_is_followed_round_its_corner(name, rtol, limit, steps, van_der_pol_end):
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    y, accepted, rejected, f = _adaptive(METHODS[name], _van_der_pol, y0, 0.0, 100.0, rtol, 1e-3 * rtol)
    assert np.abs(y.numpy() - van_der_pol_end).max() < limit
    assert accepted < steps
    assert rejected < accepted / 3
    assert f.counts["jacobians"] < accepted + rejected


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_stiff_decay_towards_a_known_curve_is_left_to_large_steps(name):
    """Prothero & Robinson: y' = -1e6 (y - cos t) - sin t from beside the curve y = cos t."""

    def f(t, y):
        return -1e6 * (y - math.cos(t)) - math.sin(t)

    y0 = torch.tensor([1.5], dtype=torch.float64)
    y, accepted, rejected, _ = _adaptive(METHODS[name], f, y0, 0.0, 2.0, 1e-4, 1e-6, h=1e-7)
    assert float(y) == pytest.approx(math.cos(2.0), abs=1e-4)
    assert accepted + rejected < 150


def test_the_radau_estimate_is_the_published_formula():
    """(I - h g J)^{-1} (g h f(t, y) + e_1 z_1 + e_2 z_2 + e_3 z_3), Hairer & Wanner II, (IV.8.19), RADAU5."""
    f, y, h = Tilted(), _double(3), 0.1
    a, _ = _tables("radau_iia5")
    step = METHODS["radau_iia5"].step(f, 0.3, y, h, (), None)
    first, *k = (x.numpy() for x in step.slopes)
    z = h * a @ np.stack(k)
    g = 1 / ((6 + 81 ** (1 / 3) - 9 ** (1 / 3)) / 30)
    e = np.array([-13 - 7 * 6**0.5, -13 + 7 * 6**0.5, -1]) / 3
    # RADAU5 divides by h g^-1 throughout: (g/h I - J)^{-1} (f + sum e z / h)
    j = torch.func.jacrev(lambda x: f(0.3, x))(y).numpy()
    wanted = np.linalg.solve(g / h * np.eye(3) - j, first + e @ z / h)
    lag = 0.05  # the step's Jacobian is that of a stage, f_y differs by O(h)
    assert np.abs(step.error.numpy() - wanted).max() < lag * np.abs(wanted).max()
    constant = with_extras(lambda t, y: y @ f.a.T + math.cos(t))
    step = METHODS["radau_iia5"].step(constant, 0.3, y, h, (), None)
    first, *k = (x.numpy() for x in step.slopes)
    wanted = np.linalg.solve(g / h * np.eye(3) - f.a.numpy(), first + e @ (h * a @ np.stack(k)) / h)
    assert np.abs(step.error.numpy() - wanted).max() < 1e-12 * np.abs(wanted).max() + 1e-15


def test_a_radau_estimate_that_would_reject_is_made_again_without_the_fast_part():
    """At z = -1e6 the first estimate is y itself; (IV.8.20) sees that y + error has no fast part left."""
    f = with_extras(lambda t, y: -1e6 * y)
    y = torch.ones(1, dtype=torch.float64)
    assert float(METHODS["radau_iia5"].step(f, 0.0, y, 1.0, (), None).error) == pytest.approx(-1, abs=1e-4)
    f.tolerance = (1e-6, 1e-6)
    assert abs(float(METHODS["radau_iia5"].step(f, 0.0, y, 1.0, (), None).error)) < 1e-4


@pytest.mark.parametrize("name", ["tr_bdf2", "radau_iia5", "gauss4"])
def test_a_large_state_is_stepped_by_newton_krylov(name, monkeypatch):
    f, y = Tilted(20), _double(20)
    dense = METHODS[name].step(f, 0.3, y, 0.2, (), None)
    monkeypatch.setattr(jacobians, "DENSE", 19)
    g = with_extras(f)
    free = METHODS[name].step(g, 0.3, y, 0.2, (), None)
    assert g.counts["lu"] == 0
    assert (free.y - dense.y).abs().max() < 1e-13
    if free.error is not None:  # Jacobians at (t, y) and at the first stage: the estimate differs by O(h)
        assert (free.error - dense.error).abs().max() < 0.3 * dense.error.abs().max()


@pytest.mark.parametrize("name", ADAPTIVE)
def test_without_an_estimate_the_step_is_the_same_and_costs_no_more(name):
    calls, f, y = [], Tilted(), _double(3)

    def counted(t, y):
        calls.append(t)
        return f(t, y)

    full = METHODS[name].step(counted, 0.3, y, 0.2, (), None)
    with_estimate = len(calls)
    bare = METHODS[name].step(counted, 0.3, y, 0.2, (), None, estimate=False)
    assert torch.equal(full.y, bare.y)
    assert bare.error is None
    assert len(calls) - with_estimate <= with_estimate
    if full.slopes:
        assert (full.slopes[0] - f(0.3, y)).abs().max() < 1e-14


# ---- structure


@pytest.mark.parametrize("name", LIBRARY)
def test_the_map_of_a_hamiltonian_step_is_symplectic_for_the_methods_that_say_so_and_for_no_other(name):
    w = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)

    def f(t, y):  # H = p^2/2 + p q^2 / 3 - cos q, not separable
        q, p = y[..., 0], y[..., 1]
        return torch.stack((p + q * q / 3, -2 * p * q / 3 - torch.sin(q)), -1)

    y = torch.tensor([0.7, -0.4], dtype=torch.float64)
    j = torch.autograd.functional.jacobian(lambda y: METHODS[name].step(f, 0.0, y, 0.4, (), None).y, y)
    defect = float((j.T @ w @ j - w).abs().max())
    assert (defect < 1e-13) == (name in SYMPLECTIC) == METHODS[name].symplectic
    assert defect < 0.1


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_gauss_methods_keep_quadratic_invariants(name):
    inertia = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def euler_top(t, m):
        return torch.linalg.cross(m, m / inertia)

    m = torch.tensor([0.3, 1.0, 0.2], dtype=torch.float64)
    after = _march(METHODS[name], euler_top, m, 0.0, 0.3, 100)
    assert (after - m).abs().max() > 0.1
    for invariant in (lambda m: (m * m).sum(), lambda m: (m * m / inertia).sum()):
        assert float(invariant(after) - invariant(m)) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("name", LIBRARY)
def test_symmetric_methods_undo_their_steps_and_the_others_do_not_offer_it(name):
    method, f = METHODS[name], Tilted()
    assert method.reversible == (name in SYMMETRIC)
    if method.reversible:
        y, states = _double(4, 3), []
        for n in range(10):
            states.append(y)
            y = method.step(f, 0.2 * n, y, 0.2, (), None).y
        for n in reversed(range(10)):
            y = method.invert(f, 0.2 * n, y, 0.2, (), None).y
            assert (y - states[n]).abs().max() < 1e-12


# ---- what every integrator does


@pytest.mark.parametrize("name", LIBRARY)
def test_derivatives_through_two_steps_pass_gradcheck_in_state_time_step_size_and_weights(name):
    method, f = METHODS[name], Tilted(2)
    y, a = _double(2, 2).requires_grad_(), f.a.clone().requires_grad_()
    t, h = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.2, 0.1))

    def run(y, a, t, h):
        f.a, carry = a, ()
        for _ in range(2):
            y, _, carry, *_ = method.step(f, t, y, h, carry, None)
            t = t + h
        return y

    assert torch.autograd.gradcheck(run, (y, a, t, h), fast_mode=True)


@pytest.mark.parametrize("name", LIBRARY)
def test_functional_derivatives_agree_with_differences(name):
    method, f, y, v = METHODS[name], Tilted(), _double(3), _double(3, seed=1)

    def run(y):
        return _march(method, f, y, 0.0, 0.2, 2)

    out, tangent = torch.func.jvp(run, (y,), (v,))
    assert torch.equal(out, run(y))
    assert (tangent - (run(y + 1e-5 * v) - run(y - 1e-5 * v)) / 2e-5).abs().max() < 1e-8
    _, pull = torch.func.vjp(run, y)
    assert float(pull(out)[0] @ v) == pytest.approx(float(out @ tangent), rel=1e-12)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_gradient_of_a_linear_solve_is_the_power_of_the_stability_function(name):
    rate = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    y = torch.ones(1, dtype=torch.float64, requires_grad=True)
    end = _march(METHODS[name], lambda t, y: rate * y, y, 0.0, 0.1, 5)
    got = torch.autograd.grad(end, (y, rate))
    r = METHODS[name].amplification(-0.3).real
    slope = (METHODS[name].amplification(-0.3 + 1e-5) - METHODS[name].amplification(-0.3 - 1e-5)).real / 2e-5
    assert float(got[0]) == pytest.approx(r**5, rel=1e-12)
    assert float(got[1]) == pytest.approx(0.1 * 5 * r**4 * slope, rel=1e-8)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_size_per_sample_gives_what_a_loop_over_samples_gives(name):
    method, f, y = METHODS[name], with_extras(Tilted()), _double(5, 3)
    h = torch.tensor([0.1, -0.1, 0.3, 0.0, 0.05], dtype=torch.float64).unsqueeze(1)
    t = torch.linspace(0, 1, 5, dtype=torch.float64).unsqueeze(1)
    first = method.step(f, t, y, h, (), None)
    second = method.step(f, t + h, first.y, h, first.carry, None)
    for i in range(5):
        at, size = float(t[i]), float(h[i])
        one = method.step(Tilted(), at, y[i : i + 1], size, (), None)
        two = method.step(Tilted(), at + size, one.y, size, () if size == 0 else one.carry, None)
        assert (two.y - second.y[i]).abs().max() < 1e-13
        if method.adaptive:  # a filter sees the Jacobian that the run remembers
            assert (one.error - first.error[i]).abs().max() <= 0.1 * one.error.abs().max() + 1e-15


@pytest.mark.parametrize("name", LIBRARY)
def test_a_tensor_step_size_gives_what_a_number_gives(name):
    method, f, y = METHODS[name], Tilted(), _double(2, 3)
    number = method.step(f, 0.3, y, 0.1, (), None)
    tensor = method.step(f, torch.tensor(0.3, dtype=y.dtype), y, torch.tensor(0.1, dtype=y.dtype), (), None)
    assert (number.y - tensor.y).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", LIBRARY)
def test_the_dtype_of_the_state_is_kept_and_the_values_agree(name, dtype):
    method, f, y, carry = METHODS[name], Tilted(dtype=dtype), _double(2, 3).to(dtype), ()
    for n, h in enumerate((0.1, torch.tensor(0.1, dtype=torch.float64), 0.1)):
        y, error, carry, *_ = method.step(f, 0.1 * n, y, h, carry, None)
        assert y.dtype == dtype
        assert error is None or error.dtype == dtype
        assert all(c.dtype == dtype for c in carry)
    z = _double(2, 3)
    for n in range(3):
        z = method.step(Tilted(), 0.1 * n, z, 0.1, (), None).y
    assert (y - z).abs().max() < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_changes_neither_the_state_nor_the_memory_it_is_given(name):
    method, f, y, carry = METHODS[name], with_extras(Tilted()), _double(2, 3), ()
    for n in range(3):
        kept = [x.clone() for x in (y, *carry)]
        new, _, after, *_ = method.step(f, 0.1 * n, y, 0.1, carry, None)
        assert all(torch.equal(a, b) for a, b in zip(kept, (y, *carry)))
        y, carry = new, after


@pytest.mark.parametrize("name", LIBRARY)
def test_a_state_that_is_not_finite_is_returned_not_raised(name):
    y = torch.tensor([[1.0, 2.0, math.nan], [1.0, 2.0, 3.0]], dtype=torch.float64)
    new = METHODS[name].step(Tilted(), 0.0, y, 0.1, (), None).y
    assert new[0].isnan().any()
    assert new[1].isfinite().all()


@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_without_a_solution_raises_step_failed(name):
    with pytest.raises(StepFailed, match="Newton's iteration"):
        METHODS[name].step(lambda t, y: 1 + y * y, 0.0, torch.full((2,), 3.0, dtype=torch.float64), 5.0, (), None)
