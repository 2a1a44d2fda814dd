"""Adams and BDF methods, on equal and on varying steps, against interpolation done by hand, scipy and closed forms."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused, Incompatible, StepFailed
from odenet.integrators import LinearMultistep, Multistep
from odenet.integrators.adaptive import Controller, initial_step
from odenet.integrators.characteristic import characteristic, dominant_root, stability_angle
from odenet.integrators.dense import interpolate
from odenet.integrators.library.multistep import LIBRARY
from odenet.integrators.multistep import PredictorCorrector
from odenet.integrators.observe import ForcedPair, observed_order
from odenet.integrators.variable import VariableAdams, VariableBDF, VariableOrder

EXPLICIT, PECE, BDF = (
    [f"{family}{k}" for k in range(2, 6)] for family in ("ab", "abm", "bdf")
)  # the digit is the order
EQUAL = [*EXPLICIT, *PECE, *BDF]
ORDERS = [("bdf", k) for k in range(1, 6)] + [("adams", k) for k in range(1, 13)]


class Run:
    """f(t, y) with the extras of a bound field."""

    def __init__(self, f, tolerance=None):
        self.f, self.tolerance = f, tolerance
        self.workspace, self.counts, self.calls, self.jacobian = {}, Counter(), 0, None

    def __call__(self, t, y):
        self.calls += 1
        return self.f(t, y)


def tensor(*x):
    return torch.tensor(x, dtype=torch.float64)


# ---- coefficients, from interpolation in exact arithmetic


def _polynomial(roots):
    """Coefficients, constant first, of the product of (x - r)."""
    out = [Fraction(1)]
    for r in roots:
        out = [a - r * b for a, b in zip([Fraction(0), *out], [*out, Fraction(0)])]
    return out


def _lagrange(nodes):
    """The polynomials that are 1 at one node and 0 at the others."""
    for i, x in enumerate(nodes):
        others = [z for j, z in enumerate(nodes) if j != i]
        scale = math.prod((x - z for z in others), start=Fraction(1))
        yield [c / scale for c in _polynomial(others)]


def _integral(p, a, b):
    return sum(c * (Fraction(b) ** (i + 1) - Fraction(a) ** (i + 1)) / (i + 1) for i, c in enumerate(p))


def _slope(p, x):
    return sum(i * c * Fraction(x) ** (i - 1) for i, c in enumerate(p) if i)


def adams_by_hand(nodes):
    """Weights of the slopes at `nodes` (oldest first) whose interpolant is integrated over [0, 1]."""
    return [_integral(p, 0, 1) for p in _lagrange([Fraction(x) for x in nodes])]


def bdf_by_hand(k):
    """Weights of y_{n+1-k} ... y_{n+1} in the derivative at t_{n+1}."""
    return [_slope(p, 0) for p in _lagrange([Fraction(x) for x in range(-k, 1)])]


@pytest.mark.parametrize("k", range(2, 6))
def test_the_tables_are_those_of_interpolation(k):
    bashforth, moulton = adams_by_hand(range(1 - k, 1)), adams_by_hand(range(2 - k, 2))
    explicit, pece, bdf = (integrators.get(f"{family}{k}").method for family in ("ab", "abm", "bdf"))
    assert list(explicit.sigma) == [*bashforth, 0]
    assert list(pece.sigma_predictor) == [*bashforth, 0]
    assert list(pece.sigma) == [0, *moulton]
    for method in (explicit, pece):
        assert list(method.rho) == [0] * (k - 1) + [-1, 1]
    weights = bdf_by_hand(k)
    assert [a * weights[-1] for a in bdf.rho] == weights
    assert [b * weights[-1] for b in bdf.sigma] == [0] * k + [1]


@pytest.mark.parametrize("name", PECE)
def test_an_error_of_a_millionth_in_a_predictor_is_refused(name):
    data = LIBRARY[name]
    words = data.predictor.split()
    for i in range(len(words) - 1):
        wrong = " ".join([*words[:i], f"{words[i]}+1/1000000", *words[i + 1 :]])
        with pytest.raises(ClaimRefused, match="predictor has order 0"):
            integrators.resolve(dataclasses.replace(data, predictor=wrong))


def test_malformed_predictors_starters_and_orders_are_refused():
    data = LIBRARY["abm3"]
    for wrong in ("1 0", "0 0 0 1"):
        with pytest.raises(BadInput, match="predictor has m \\+ 1 = 4"):
            dataclasses.replace(data, predictor=wrong)
    with pytest.raises(BadInput, match="predicts for an implicit formula"):
        dataclasses.replace(LIBRARY["ab3"], predictor="0 0 1 0")
    with pytest.raises(ClaimRefused, match="its predictor has order 1"):
        integrators.resolve(dataclasses.replace(data, predictor="0 0 1 0"))
    with pytest.raises(ClaimRefused, match="starter of order 3"):
        integrators.resolve(dataclasses.replace(LIBRARY["bdf4"], starter="heun"))
    with pytest.raises(BadInput, match='such as "rk4"'):
        integrators.resolve(dataclasses.replace(LIBRARY["bdf4"], starter="ab4"))
    with pytest.raises(BadInput, match="orders 1 to 5"):
        VariableOrder("bdf", 6)
    with pytest.raises(BadInput, match='"adams" or "bdf"'):
        VariableOrder("nystrom", 2)


def test_a_bdf_formula_of_order_seven_is_refused_because_it_diverges():
    weights = bdf_by_hand(7)
    row = " ".join(str(w) for w in weights)
    with pytest.raises(ClaimRefused, match="it diverges"):
        integrators.resolve(Multistep(alpha=row, beta="0 0 0 0 0 0 0 1", order=7, starter="dopri5"))


# ---- steps on equal steps, against loops


def _matrix():
    return torch.tensor([[-2.0, 3.0], [-1.0, -40.0]], dtype=torch.float64)


@pytest.mark.parametrize("k", range(2, 6))
def test_bdf_on_a_linear_problem_solves_the_linear_system_of_its_formula(k):
    m, h = _matrix(), 0.05
    method = integrators.get(f"bdf{k}")
    f = Run(lambda t, y: y @ m.T)
    states, carry = [tensor(1.0, -0.3)], ()
    for n in range(12):
        new, _, carry, *_ = method.step(f, n * h, states[-1], h, carry, None)
        states.append(new)
    weights = [float(w) for w in bdf_by_hand(k)]
    for n in range(k - 1, 12):  # sum of the weights times the states is h M y_{n+1}
        past = sum(w * states[n + 1 - k + j] for j, w in enumerate(weights[:-1]))
        expected = torch.linalg.solve(weights[-1] * torch.eye(2, dtype=torch.float64) - h * m, -past)
        assert torch.allclose(states[n + 1], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", range(2, 6))
def test_pece_equals_the_loop_written_by_hand(k):
    f, h = ForcedPair(), 0.04
    method = integrators.get(f"abm{k}")
    y, carry, slopes = f.exact(0.0), (), []
    bashforth = [float(w) for w in adams_by_hand(range(1 - k, 1))]
    *moulton, newest = (float(w) for w in adams_by_hand(range(2 - k, 2)))
    for n in range(15):
        slopes.append(f(n * h, y))
        new, error, carry, used, _ = method.step(f, n * h, y, h, carry, None)
        assert error is None
        assert torch.equal(used[0], slopes[-1])
        if n >= k - 1:
            guess = y + h * sum(w * s for w, s in zip(bashforth, slopes[-k:]))
            past = slopes[len(slopes) - (k - 1) :]
            hand = y + h * (newest * f(n * h + h, guess) + sum(w * s for w, s in zip(moulton, past)))
            assert torch.allclose(new, hand, rtol=0, atol=1e-14)
        y = new


def test_the_implicit_adams_formula_of_one_step_is_the_trapezoidal_rule():
    rule = integrators.resolve(Multistep(alpha="-1 1", beta="1/2 1/2", order=2, starter="euler"))
    assert isinstance(rule, LinearMultistep)
    assert rule.implicit
    for z in (-0.3, 2.0j, -5.0 + 1.0j):
        y = torch.tensor([1.0 + 0j], dtype=torch.complex128)
        got = rule.step(Run(lambda t, x, z=z: z * x), 0.0, y, 1.0, (), None).y
        assert complex(got[0]) == pytest.approx((1 + z / 2) / (1 - z / 2), rel=1e-12)
        assert rule.amplification(z) == pytest.approx((1 + z / 2) / (1 - z / 2), rel=1e-12)
    assert stability_angle(rule.method) == pytest.approx(90.0, abs=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_adams_moulton_formulas_are_solved_by_newton(k):
    beta = " ".join(str(w) for w in adams_by_hand(range(2 - k, 2)))
    alpha = " ".join(["0"] * (k - 2) + ["-1", "1"])
    method = integrators.resolve(Multistep(alpha=alpha, beta=beta, order=k, starter="rk4"))
    assert method.implicit
    f = Run(ForcedPair())
    f.exact = f.f.exact
    assert observed_order(method, f, finest=64) == pytest.approx(k, abs=0.1)


def test_a_formula_that_reads_states_and_slopes_of_the_past_is_solved_too():
    """The implicit two-step method of order 4 (Milne-Simpson): y_{n+2} - y_n = h (f_n + 4 f_{n+1} + f_{n+2}) / 3."""
    simpson = integrators.resolve(Multistep(alpha="-1 0 1", beta="1/3 4/3 1/3", order=4, starter="rk4"))
    f, h = Run(lambda t, y: -y * y), 0.1
    states, carry = [tensor(1.0)], ()
    for n in range(10):
        new, _, carry, *_ = simpson.step(f, n * h, states[-1], h, carry, None)
        states.append(new)
    slopes = [-y * y for y in states]
    for n in range(1, 10):
        defect = states[n + 1] - states[n - 1] - h / 3 * (slopes[n - 1] + 4 * slopes[n] + slopes[n + 1])
        assert float(defect.abs()) < 1e-14


@pytest.mark.parametrize("name", EQUAL)
def test_on_equal_steps_halving_shows_the_stated_order(name):
    f = Run(ForcedPair())
    f.exact = f.f.exact
    assert observed_order(integrators.get(name), f, finest=128 if name in BDF else 256) == pytest.approx(
        int(name[-1]), abs=0.1
    )


@pytest.mark.parametrize("name", BDF)
def test_a_stiff_transient_dies_out_on_steps_a_thousand_times_longer(name):
    """y' = -1e5 (y - cos t) - sin t, y(0) = 1.5: Prothero & Robinson's problem with a transient."""
    f = Run(lambda t, y: -1e5 * (y - math.cos(t)) - math.sin(t))
    method, h, y, carry = integrators.get(name), 0.02, tensor(1.5), ()
    for n in range(100):
        y, _, carry, *_ = method.step(f, n * h, y, h, carry, None)
    assert float((y - math.cos(100 * h)).abs()) < 1e-6
    assert f.counts["jacobians"] <= 4


def test_equations_without_a_solution_fail_the_step():
    f = Run(lambda t, y: 1 + y * y, tolerance=(1e-6, 1e-8))  # y = 1.5 + h (1 + y^2) has no real root for h > 1 / 4
    with pytest.raises(StepFailed):
        integrators.get("bdf").step(f, 0.0, tensor(1.5), 0.9, (), None)


# ---- facts


@pytest.mark.parametrize(("name", "alpha"), [("bdf2", 90), ("bdf3", 86.03), ("bdf4", 73.35), ("bdf5", 51.84)])
def test_bdf_is_stable_in_the_published_sectors(name, alpha):
    """Hairer & Wanner II, table V.2.1."""
    method = integrators.get(name)
    assert stability_angle(method.method) == pytest.approx(alpha, abs=5e-3)
    radius = torch.logspace(-3, 3, 400, dtype=torch.float64)
    for degrees, stable in ((alpha - 0.1, True), (alpha + 0.1, False)):
        if degrees <= 90:
            z = -radius * complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
            assert bool((method.amplification(z).abs() <= 1 + 1e-12).all()) is stable
    assert method.facts.real_interval == math.inf


def test_explicit_and_bounded_methods_have_no_sector():
    assert stability_angle(LIBRARY["ab3"]) == 0
    assert stability_angle(LIBRARY["abm3"]) == 0
    # Adams-Moulton 3: its sigma has a root outside the unit disc
    assert stability_angle(Multistep(alpha="0 -1 1", beta="-1/12 2/3 5/12", order=3, starter="rk3")) == 0


CONSTANTS = {
    **{f"ab{k}": c for k, c in zip(range(2, 6), (5 / 12, 3 / 8, 251 / 720, 95 / 288))},
    **{f"abm{k}": c for k, c in zip(range(2, 6), (-1 / 12, -1 / 24, -19 / 720, -3 / 160))},
    **{f"bdf{k}": -1 / (k + 1) for k in range(2, 6)},
}


@pytest.mark.parametrize("name", EQUAL)
def test_error_constants_are_the_published_ones(name):
    """Hairer, Norsett & Wanner I, tables III.1.1, III.1.2 and equation (III.1.22')."""
    assert integrators.get(name).facts.error_constant == pytest.approx(CONSTANTS[name], rel=1e-12)


def test_a_predictor_of_one_order_less_adds_its_error_to_the_constant():
    """y* by Euler, then the trapezoid: Heun's method, y''' / 12 - f_y y'' / 2: the linear term of order 3 is -1/6."""
    heun = integrators.resolve(Multistep(alpha="-1 1", beta="1/2 1/2", predictor="1 0", order=2, starter="euler"))
    # on y' = z y the step is 1 + z + z^2 / 2, so that e^z - R(z) = z^3 / 6
    assert heun.amplification(-0.5) == pytest.approx(1 - 0.5 + 0.125, rel=1e-14)
    assert heun.facts.error_constant == pytest.approx(1 / 6, rel=1e-12)


@pytest.mark.parametrize("name", PECE)
@pytest.mark.parametrize("axis", ["real", "imag"])
def test_steps_of_pece_begin_to_grow_at_the_end_of_the_interval(name, axis):
    method = integrators.get(name)
    end = method.facts.real_interval if axis == "real" else method.facts.imag_interval
    direction = -1.0 if axis == "real" else 1j
    x = torch.linspace(0, 1, 501, dtype=torch.float64)
    if end:
        assert float(method.amplification(direction * (0.9999 * end) * x).abs().max()) <= 1 + 1e-12
    assert float(method.amplification(direction * (end + 0.02 * x[1:])).abs().max()) > 1 + 1e-12


@pytest.mark.parametrize("z", [0.3j, -0.7, -1.5 + 0.4j, 0.2 + 1.1j])
@pytest.mark.parametrize("name", EQUAL)
def test_the_characteristic_polynomial_is_what_long_runs_do(name, z):
    method = integrators.get(name)
    root = complex(dominant_root(characteristic(method.method, torch.tensor(z, dtype=torch.complex128))))
    f, y, carry, log = Run(lambda t, x: z * x), torch.tensor([0.8 + 0.3j, 0.1j], dtype=torch.complex128), (), []
    steps = 80 if name in BDF else 400
    for n in range(steps):
        y, _, carry, *_ = method.step(f, float(n), y, 1.0, carry, None)
        scale = max(float(x.abs().max()) for x in (y, *carry))
        y, carry = y / scale, tuple(c / scale for c in carry)
        log.append(math.log(scale))
    assert math.exp(2 * sum(log[steps // 2 :]) / steps) == pytest.approx(abs(root), rel=2e-2)
    assert abs(method.amplification(z)) == pytest.approx(abs(root), rel=1e-8)


# ---- variable steps: one step against formulas


def divided(times, values):
    """v[t_0], v[t_0, t_1], ...: divided differences from the newest value."""
    table, out = list(values), [values[0]]
    for width in range(1, len(values)):
        table = [(table[i] - table[i + 1]) / (times[i] - times[i + width]) for i in range(len(table) - 1)]
        out.append(table[0])
    return out


def remembered(formulas, k, times, values):
    """The memory of a method at order k after a history (newest first) of states (bdf) or slopes (adams)."""
    differences = [
        d * math.prod(times[0] - times[j] for j in range(1, i + 1)) for i, d in enumerate(divided(times, values))
    ]
    steps = [float(a - b) for a, b in pairwise(times)]
    kept = differences[1:] if formulas == "bdf" else differences
    return torch.stack(kept), torch.tensor([k, 0, 0, *steps], dtype=torch.float64)


@cache
def method_of(formulas, k=None):
    return integrators.resolve(VariableOrder(formulas, k or {"bdf": 5, "adams": 12}[formulas]))


@pytest.mark.parametrize(("formulas", "k"), ORDERS)
def test_equal_steps_at_order_k_are_the_fixed_formula(formulas, k):
    f, h, t = ForcedPair(), 0.05, 0.7
    times = [t - j * h for j in range(k + 2)]
    states = [f.exact(s) for s in times]
    if formulas == "bdf":
        step = method_of(formulas).step(f, t, states[0], h, remembered(formulas, k, times, states), None)
        weights = [float(w) for w in bdf_by_hand(k)][::-1]
        defect = weights[0] * step.y + sum(w * y for w, y in zip(weights[1:], states)) - h * f(t + h, step.y)
        assert float(defect.abs().max()) < 2e-14
        # the local error of bdfk is nabla^{k+1} y / (k + 1)
        nabla = sum((-1) ** j * math.comb(k + 1, j) * y for j, y in enumerate([step.y, *states[: k + 1]]))
        assert torch.allclose(step.error, nabla / (k + 1), rtol=0, atol=1e-14)
        return
    slopes = [f(s, y) for s, y in zip(times, states)]
    step = method_of(formulas).step(f, t, states[0], h, remembered(formulas, k, times, slopes), None)
    bashforth = [float(w) for w in adams_by_hand(range(1 - k, 1))][::-1]
    newest, *moulton = [float(w) for w in adams_by_hand(range(1 - k, 2))][::-1]
    guess = states[0] + h * sum(w * s for w, s in zip(bashforth, slopes))
    predicted = f(t + h, guess)
    hand = states[0] + h * (newest * predicted + sum(w * s for w, s in zip(moulton, slopes)))
    assert torch.allclose(step.y, hand, rtol=0, atol=1e-13)
    # the estimate is the difference to the corrector of one order less
    low = [float(w) for w in adams_by_hand(range(2 - k, 2))][::-1]
    below = states[0] + h * (low[0] * predicted + sum(w * s for w, s in zip(low[1:], slopes)))
    assert torch.allclose(step.error, hand - below, rtol=0, atol=1e-13)


@pytest.mark.parametrize("h", [0.25, 0.9, 0.01, -0.25])
@pytest.mark.parametrize(("formulas", "k"), ORDERS)
def test_polynomials_are_integrated_exactly_on_any_steps(formulas, k, h):
    """Degree k for BDF, k + 1 for Adams, and no degree more; what the memory foretells is no jump of f."""
    sign = math.copysign(1.0, h)
    gaps = [0.3, 0.1, 0.25, 0.17, 0.4, 0.2, 0.05, 0.33, 0.21, 0.28, 0.15, 0.22, 0.3]
    times = [1.0 - sign * sum(gaps[:j]) for j in range(k + 2)]
    exact = k if formulas == "bdf" else k + 1
    for q in range(exact + 2):
        values = [tensor((s - 0.9) ** q if formulas == "bdf" else q * (s - 0.9) ** max(q - 1, 0)) for s in times]
        memory = remembered(formulas, k, times, values)
        f = Run(lambda t, y, q=q: torch.full_like(y, q * (t - 0.9) ** max(q - 1, 0)))
        step = method_of(formulas).step(f, 1.0, tensor(0.1**q), h, memory, None)
        scale = max(abs(s - 0.9) for s in (1.0 + h, *times)) ** q
        error = float((step.y - (1.0 + h - 0.9) ** q).abs())
        if q <= exact:
            assert error < 1e-9 * scale
        else:
            assert error > 1e-8 * abs(h) ** q
        if q <= k:
            assert step.order == k + 1
            assert float(step.error.abs()) < 1e-9 * scale


@pytest.mark.parametrize("factor", [0.01, 0.2, 1.0, 3.0, 10.0, 25.0])
@pytest.mark.parametrize(("formulas", "k"), [("bdf", 1), ("bdf", 3), ("bdf", 5), ("adams", 2), ("adams", 6)])
def test_the_estimate_of_a_step_of_any_length_is_honest(formulas, k, factor):
    """Neither less than a tenth of the local error nor a hundred times it; Adams estimates one order lower."""
    f, h, t = Run(ForcedPair()), 0.02, 0.7
    gaps = [h * (1 + 0.3 * math.sin(5 * j)) for j in range(k + 2)]
    times = [t - sum(gaps[:j]) for j in range(k + 2)]
    states = [f.f.exact(s) for s in times]
    values = states if formulas == "bdf" else [f(s, y) for s, y in zip(times, states)]
    step = method_of(formulas).step(f, t, states[0], h * factor, remembered(formulas, k, times, values), None)
    true = float((step.y - f.f.exact(t + h * factor)).square().mean().sqrt())
    told = float(step.error.square().mean().sqrt())
    assert told > 0.3 * true - 1e-14
    if formulas == "bdf":
        assert told < 100 * true + 1e-12


@pytest.mark.parametrize("formulas", ["bdf", "adams"])
def test_a_step_much_longer_than_the_last_starts_afresh(formulas):
    f = Run(ForcedPair())
    y, carry = f.f.exact(0.0), ()
    for n in range(8):
        y, _, carry, *_ = method_of(formulas).step(f, n * 1e-6, y, 1e-6, carry, None)
    again = method_of(formulas).step(f, 8e-6, y, 0.1, carry, None)
    fresh = method_of(formulas).step(f, 8e-6, y, 0.1, (), None)
    assert torch.allclose(again.y, fresh.y, rtol=0, atol=1e-14)
    assert again.order == fresh.order == 2


@pytest.mark.parametrize("formulas", ["bdf", "adams"])
def test_a_step_the_other_way_starts_afresh(formulas):
    f, h = Run(ForcedPair()), 0.02
    y, carry = f.f.exact(0.0), ()
    for n in range(8):
        y, _, carry, *_ = method_of(formulas).step(f, n * h, y, h, carry, None)
    again = method_of(formulas).step(f, 8 * h, y, -h, carry, None)
    fresh = method_of(formulas).step(f, 8 * h, y, -h, (), None)
    assert torch.allclose(again.y, fresh.y, rtol=0, atol=1e-14)
    assert again.order == fresh.order == 2


def test_bdf_starts_with_backward_euler_and_remembers_true_states_only():
    f, h = Run(lambda t, y: -3 * y), 0.1
    y = tensor(1.0)
    step = integrators.get("bdf").step(f, 0.0, y, h, (), None)
    assert float(step.y) == pytest.approx(1 / 1.3, rel=1e-14)
    differences, _ = step.carry
    assert differences.shape == (1, 1)
    assert float(differences[0]) == pytest.approx(1 / 1.3 - 1, rel=1e-13)


def test_adams_starts_with_heun():
    step = integrators.get("adams").step(Run(lambda t, y: -3 * y), 0.0, tensor(1.0), 0.1, (), None)
    assert float(step.y) == pytest.approx(1 - 0.3 + 0.045, rel=1e-14)


def test_one_step_size_per_sample_is_refused():
    for name in ("bdf", "adams"):
        with pytest.raises(Incompatible, match="one step size for all samples"):
            integrators.get(name).step(Run(ForcedPair()), 0.0, torch.ones(3, 2), torch.full((3, 1), 0.1), (), None)


# ---- variable steps: whole runs


def drive(method, f, t0, t1, y, rtol, atol, record=None):
    """An adaptive march: the end state, and numbers of accepted and rejected steps."""
    run, control = Run(f, (rtol, atol)), Controller(rtol=rtol, atol=atol)
    direction = 1.0 if t1 > t0 else -1.0
    h, t, carry, last, done, refused = initial_step(run, t0, y, direction, 1, rtol, atol), t0, (), None, 0, 0
    while (t1 - t) * direction > 0:
        size = min(h, abs(t1 - t))
        try:
            step = method.step(run, t, y, direction * size, carry, None)
        except StepFailed:
            h, refused = size / 4, refused + 1
            continue
        error = float(control.error_norm(step.error, y, step.y))
        h = size * control.factor(error, last, step.order)
        if error > 1:
            h, refused = min(h, 0.9 * size), refused + 1
            continue
        if record is not None:
            record.append((t, direction * size, y, step))
        t = t1 if size == abs(t1 - t) else t + direction * size
        y, carry, last, done = step.y, step.carry, error, done + 1
        assert done + refused < 3000
    return y, run, done, refused


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((back - slow, slow - back - fast, fast), -1)


def pendulum(t, y):
    return torch.stack((y[..., 1], -torch.sin(y[..., 0])), -1)


def van_der_pol(t, y, mu=1000.0):
    return torch.stack((y[..., 1], mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]), -1)


def by_scipy(f, t1, y, method, rtol, atol, t0=0.0):
    found = solve_ivp(lambda t, x: f(t, torch.tensor(x)).numpy(), (t0, t1), y.numpy(), method, rtol=rtol, atol=atol)
    return torch.tensor(found.y[:, -1]), found.nfev


def test_bdf_solves_robertson_s_problem_with_as_many_evaluations_as_scipy_s():
    y0, rtol, atol = tensor(1.0, 0.0, 0.0), 1e-6, 1e-10
    exact, _ = by_scipy(robertson, 40.0, y0, "Radau", 1e-11, 1e-15)
    got, run, done, refused = drive(integrators.get("bdf"), robertson, 0.0, 40.0, y0, rtol, atol)
    assert torch.allclose(got, exact, rtol=2e-5, atol=0)
    peer = solve_ivp(
        lambda t, x: robertson(t, torch.tensor(x)).numpy(), (0, 40), y0.numpy(), "BDF", rtol=rtol, atol=atol
    )
    assert run.calls + 3 * run.counts["jacobians"] < 1.2 * (peer.nfev + 3 * peer.njev)  # a Jacobian costs three
    assert refused < 0.3 * done
    assert float((got.sum() - 1).abs()) < 1e-9


def test_bdf_goes_through_the_jumps_of_van_der_pol_s_oscillator():
    y0 = tensor(2.0, 0.0)
    exact, _ = by_scipy(van_der_pol, 1000.0, y0, "Radau", 1e-8, 1e-8)
    got, run, *_ = drive(integrators.get("bdf"), van_der_pol, 0.0, 1000.0, y0, 1e-4, 1e-6)
    _, evaluations = by_scipy(van_der_pol, 1000.0, y0, "BDF", 1e-4, 1e-6)
    assert torch.allclose(got, exact, rtol=2e-3, atol=0)
    assert run.calls < 1.5 * evaluations


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_the_error_of_a_smooth_problem_follows_the_tolerance(name):
    y0 = tensor(1.0, 0.5)
    exact, _ = by_scipy(pendulum, 10.0, y0, "DOP853", 1e-13, 1e-14)
    errors, evaluations = [], []
    for tol in (1e-4, 1e-6, 1e-8, 1e-10):
        if (name, tol) == ("bdf", 1e-10):
            break
        got, run, _, refused = drive(integrators.get(name), pendulum, 0.0, 10.0, y0, tol, tol)
        errors.append(float((got - exact).abs().max()) / tol)
        evaluations.append(run.calls)
        assert refused <= 5
    assert max(errors) < 60
    assert evaluations[0] > 0.15 * evaluations[-1]  # at order 2 a hundredth of the error is five times the work
    if name == "adams":
        _, theirs = by_scipy(pendulum, 10.0, y0, "LSODA", 1e-10, 1e-10)
        assert evaluations[-1] < 1.3 * theirs
        _, theirs = by_scipy(pendulum, 10.0, y0, "DOP853", 1e-10, 1e-10)
        assert evaluations[-1] < theirs


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_going_back_returns_to_the_start(name):
    y0 = tensor(1.0, 0.5)
    there, *_ = drive(integrators.get(name), pendulum, 0.0, 3.0, y0, 1e-8, 1e-8)
    back, *_ = drive(integrators.get(name), pendulum, 3.0, 0.0, there, 1e-8, 1e-8)
    assert torch.allclose(back, y0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_a_jump_of_the_field_is_passed_at_low_order(name):
    """y' = cos t until t = 5, then 2 cos t."""
    record = []

    def jump(t, y):
        return torch.full_like(y, math.cos(t) * (1.0 if t < 5 else 2.0))

    got, *_ = drive(integrators.get(name), jump, 0.0, 8.0, tensor(0.5), 1e-6, 1e-6, record)
    assert float(got) == pytest.approx(0.5 + 2 * math.sin(8) - math.sin(5), abs=1e-4)
    before, after = ([step.order - 1 for t, *_, step in record if (t < 5) == early] for early in (True, False))
    assert max(before) >= 5
    assert min(after) <= 2


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_orders_rise_from_one_by_one_at_a_time_and_each_is_kept_for_its_number_of_steps(name):
    record = []
    drive(integrators.get(name), pendulum, 0.0, 20.0, tensor(1.0, 0.5), 1e-8, 1e-8, record)
    orders = [step.order - 1 for *_, step in record]
    assert orders[0] == 1
    assert max(orders) >= {"adams": 8, "bdf": 5}[name]
    assert {abs(b - a) for a, b in pairwise(orders)} <= {0, 1}
    first_fall = next((i for i, (a, b) in enumerate(pairwise(orders)) if b < a), len(orders))
    rising = orders[: first_fall + 1]
    assert rising == sorted(rising)
    runs, start = [], first_fall + 1
    for i in range(first_fall + 1, len(orders) - 1):
        if orders[i + 1] != orders[i]:
            runs.append((orders[i], i + 1 - start))
            start = i + 1
    assert all(length > order for order, length in runs)


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_a_state_in_float32_and_a_batch_of_states_are_solved(name):
    y0 = torch.stack([tensor(1.0, 0.5), tensor(-0.3, 0.8), tensor(2.0, 0.0)])
    alone = torch.stack([by_scipy(pendulum, 2.0, y, "DOP853", 1e-12, 1e-12)[0] for y in y0])
    got, *_ = drive(integrators.get(name), pendulum, 0.0, 2.0, y0, 1e-7, 1e-7)
    assert torch.allclose(got, alone, rtol=0, atol=2e-6)
    single, *_ = drive(integrators.get(name), pendulum, 0.0, 2.0, y0.float(), 1e-4, 1e-4)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), alone, rtol=0, atol=2e-3)
    odd, *_ = drive(integrators.get(name), pendulum, 0.0, 2.0, y0.reshape(1, 3, 2), 1e-7, 1e-7)
    assert torch.allclose(odd.reshape(3, 2), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_a_complex_state_turns(name):
    y0 = torch.tensor([1.0 + 0j, 1j], dtype=torch.complex128)
    got, *_ = drive(integrators.get(name), lambda t, y: 1j * y, 0.0, 3.0, y0, 1e-7, 1e-7)
    assert got.dtype == torch.complex128
    assert torch.allclose(got, y0 * complex(math.cos(3), math.sin(3)), rtol=0, atol=5e-6)


# ---- between the steps


@pytest.mark.parametrize("name", ["adams", "bdf"])
def test_the_polynomial_of_a_step_meets_both_ends_and_the_tolerance_between(name):
    y0, tol, record = tensor(1.0), 1e-7, []
    method = integrators.get(name)
    drive(method, lambda t, y: -2 * t * y * y, 0.0, 3.0, y0, tol, tol, record)
    worst = 0.0
    for t, h, y, step in record:
        values = interpolate(method, None, t, h, y, step, [0.0, 0.3, 0.5, 0.8, 1.0])  # None: no evaluation of f
        assert torch.allclose(values[0], y, rtol=0, atol=1e-14)
        assert torch.allclose(values[-1], step.y, rtol=0, atol=1e-13)
        assert torch.allclose(interpolate(method, None, t, h, y, step, 0.5), values[2], rtol=0, atol=1e-14)
        exact = tensor(*(1 / (1 + (t + x * h) ** 2) for x in (0.3, 0.5, 0.8))).unsqueeze(-1)
        worst = max(worst, float((values[1:-1] - exact).abs().max()))
    assert worst < 30 * tol


# ---- derivatives of what was computed


def replay(method, steps, y, weight, tolerance=None):
    carry, f = (), Run(lambda t, x: torch.stack((x[1], weight * (1 - x[0] ** 2) * x[1] - x[0])), tolerance)
    t = 0.0
    for h in steps:
        y, _, carry, *_ = method.step(f, t, y, h, carry, None)
        t += h
    return y


@pytest.fixture(scope="module", params=["adams", "bdf"])
def recorded(request):
    """A method and thirty step sizes that it took."""
    record = []
    method = integrators.get(request.param)
    drive(method, lambda t, y: van_der_pol(t, y, 2.0), 0.0, 20.0, tensor(2.0, 0.0), 1e-5, 1e-5, record)
    return method, [h for _, h, *_ in record[:30]]


def test_the_gradient_through_thirty_recorded_steps_is_that_of_finite_differences(recorded):
    method, steps = recorded
    assert len({round(h, 12) for h in steps}) > 20
    y, weight = tensor(2.0, 0.0).requires_grad_(), tensor(2.0).requires_grad_()
    direction = tensor(0.6, -0.8)
    grads = torch.autograd.grad((replay(method, steps, y, weight[0]) * direction).sum(), (y, weight))

    def value(a, b):
        return float((replay(method, steps, a, b[0]) * direction).sum())

    at, eps = (y.detach(), weight.detach()), 1e-5
    for i, grad in enumerate(grads):
        for j in range(grad.numel()):
            shift = [torch.zeros_like(x) for x in at]
            shift[i][j] = eps
            up, down = (value(*(x + s * d for x, d in zip(at, shift))) for s in (1, -1))
            assert (up - down) / (2 * eps) == pytest.approx(float(grad[j]), rel=2e-6, abs=1e-8)


def test_pulling_back_step_by_step_through_state_and_memory_is_the_gradient_of_the_whole(recorded):
    method, steps = recorded
    y, weight = tensor(2.0, 0.0), tensor(2.0)

    def field(w):
        return Run(lambda t, x: torch.stack((x[1], w * (1 - x[0] ** 2) * x[1] - x[0])))

    marks, state, carry, t = [], y, (), 0.0
    for h in steps:
        marks.append((t, h, state, carry))
        state, _, carry, *_ = method.step(field(weight[0]), t, state, h, carry, None)
        t += h
    pulled, memory, to_weight = tensor(0.6, -0.8), tuple(torch.zeros_like(c) for c in carry), torch.zeros(1).double()
    for t, h, before, past in reversed(marks):

        def one(x, c, w, t=t, h=h):
            step = method.step(field(w[0]), t, x, h, c, None)
            return step.y, step.carry

        _, pull = torch.func.vjp(one, before, past, weight)
        pulled, memory, here = pull((pulled, memory))
        to_weight = to_weight + here
    a, b = y.clone().requires_grad_(), weight.clone().requires_grad_()
    whole = torch.autograd.grad((replay(method, steps, a, b[0]) * tensor(0.6, -0.8)).sum(), (a, b))
    assert torch.allclose(pulled, whole[0], rtol=1e-10, atol=1e-12)
    assert torch.allclose(to_weight, whole[1], rtol=1e-10, atol=1e-12)


def test_forward_and_reverse_derivatives_agree(recorded):
    method, steps = recorded
    y, v, u = tensor(2.0, 0.0), tensor(0.3, 1.0), tensor(0.6, -0.8)
    _, forward = torch.func.jvp(lambda x: replay(method, steps[:12], x, 2.0), (y,), (v,))
    _, pull = torch.func.vjp(lambda x: replay(method, steps[:12], x, 2.0), y)
    assert float((forward * u).sum()) == pytest.approx(float((pull(u)[0] * v).sum()), rel=1e-10)


@pytest.mark.parametrize("name", ["adams", "bdf", "bdf3", "abm3"])
def test_the_derivative_with_respect_to_a_step_size_is_exact(name):
    method = integrators.get(name)

    def run(h):
        y, carry, f = tensor(1.0, 0.5), (), Run(pendulum)
        for n in range(5):
            size = h * (1 + 0.2 * math.sin(n)) if name in ("adams", "bdf") else h
            y, _, carry, *_ = method.step(f, 0.0, y, size, carry, None)
        return y

    assert torch.autograd.gradcheck(run, (torch.tensor(0.1, dtype=torch.float64, requires_grad=True),))


# ---- what is registered


def test_the_multistep_entries_are_these():
    assert {*EQUAL, "adams", "bdf"} <= set(LIBRARY)
    kinds = {**dict.fromkeys([*EXPLICIT, *BDF], LinearMultistep), **dict.fromkeys(PECE, PredictorCorrector)}
    for name, kind in {**kinds, "adams": VariableAdams, "bdf": VariableBDF}.items():
        method = integrators.get(name)
        assert isinstance(method, kind)
        assert method.cite
        assert method.when.endswith(".")
        assert len(method.when) < 110
        assert method.implicit == name.startswith("bdf")
        assert method.adaptive == (name in ("adams", "bdf"))
    assert integrators.get("bdf").order == 5
    assert integrators.get("adams").order == 13


@pytest.mark.parametrize("highest", range(1, 6))
def test_the_facts_of_the_varying_bdf_are_those_of_its_highest_formula(highest):
    method = method_of("bdf", highest)
    assert method.order == method.facts.order == highest
    assert method.facts.order_low == 1
    assert method.facts.real_interval == math.inf
    assert method.facts.a_stable == (highest <= 2)  # Dahlquist's barrier
    assert method.facts.error_constant == pytest.approx(-1 / (highest + 1), rel=1e-12)
    weights = [float(w) for w in bdf_by_hand(highest)]
    roots = np.roots([weights[-1] + 0.7, *weights[-2::-1]])
    assert abs(method.amplification(-0.7)) == pytest.approx(np.abs(roots).max(), rel=1e-9)


def test_the_highest_order_asked_for_is_not_passed():
    record = []
    drive(method_of("adams", 4), pendulum, 0.0, 10.0, tensor(1.0, 0.5), 1e-8, 1e-8, record)
    assert max(step.order for *_, step in record) == 5
