"""Orders: the trees, what registration refuses, and the order that halving the step shows."""

from __future__ import annotations

import copy
import dataclasses
import math
from fractions import Fraction

import pytest
import torch

import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused
from odenet.integrators import (
    Exponential,
    Integrator,
    Multistep,
    Partitioned,
    ReversibleWrapper,
    Splitting,
    Tableau,
    TwoStep,
    VariableOrder,
    variable,
)
from odenet.integrators.base import build
from odenet.integrators.external import External
from odenet.integrators.library import LIBRARY
from odenet.integrators.order import density, root_condition, show, symmetry, trees
from odenet.integrators.registration import admit

EVERY = [n for n in integrators.names() if n in LIBRARY or n.startswith("torchdiffeq:")]


# ---- rooted trees


def test_there_are_as_many_rooted_trees_as_published():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]  # OEIS A000081


def test_densities_and_symmetries_are_those_of_the_textbook():
    # Butcher's table of trees up to order four: (gamma, sigma)
    table = {".": (1, 1), "[.]": (2, 1), "[..]": (3, 2), "[[.]]": (6, 1), "[...]": (4, 6), "[[[.]]]": (24, 1)}
    seen = {show(t): (density(t), symmetry(t)) for n in range(1, 5) for t in trees(n)}
    assert {k: seen[k] for k in table} == table
    assert sorted(d for d, _ in seen.values()) == [1, 2, 3, 4, 6, 8, 12, 24]


def test_the_number_of_monotone_labellings_sums_to_the_factorial():
    for n in range(1, 8):
        total = sum(Fraction(math.factorial(n), symmetry(t) * density(t)) for t in trees(n))
        assert total == math.factorial(n - 1)


# ---- claims are checked


COEFFICIENTS = frozenset({
    "a", "b", "b_low", "b_third", "c", "d", "s", "v", "e", "alpha", "beta", "gamma", "predictor", "kicks", "drifts",
    "explicit", "implicit", "flows",
})  # fmt: skip
WITHOUT_COEFFICIENTS = (TwoStep, VariableOrder, ReversibleWrapper)  # a free number, computed ones, and those of a base
WITH_COEFFICIENTS = [
    n for n, data in LIBRARY.items() if not isinstance(data, (*WITHOUT_COEFFICIENTS, Integrator))
]  # integrators written as a class are further down
AS_CLASSES = [n for n, data in LIBRARY.items() if isinstance(data, Integrator) and not isinstance(data, TwoStep)]


def _perturbed(value, functions=False):
    """Copies of a row, or of rows, or of pairs (part, number), each with one number changed by a millionth."""
    if isinstance(value, tuple):
        for i, entry in enumerate(value):
            if entry not in ("explicit", "implicit"):
                yield from ((*value[:i], wrong, *value[i + 1 :]) for wrong in _perturbed(entry, functions))
    elif functions:  # an entry of functions of h L
        yield "1/1000000*phi1(1)" if value == "0" else f"{value} + 1/1000000*phi1(1)"
    else:
        words = value.split()
        for i, word in enumerate(words):
            yield " ".join([*words[:i], f"{word}+1/1000000", *words[i + 1 :]])


def _wrong(data):
    """Arguments of `dataclasses.replace` that change one coefficient."""
    for name in COEFFICIENTS & {f.name for f in dataclasses.fields(data)}:
        value = getattr(data, name)
        names_a_method = isinstance(data, Splitting) and name in ("explicit", "implicit")
        if value is not None and not names_a_method:
            functions = isinstance(data, Exponential) and name in ("a", "b", "b_low")
            yield from ({name: wrong} for wrong in _perturbed(value, functions))


def _says_nothing_new(name, change):
    """rodas4: the last weight of the embedded method is that of the difference; any multiple of it is of order 3 too.
    srk3: the third time of the noise has no weight in the step and no stage after it.
    """
    tail = {"rodas4": ("b_low", " 0+1/1000000"), "srk3": ("s", "1 0 0+1/1000000")}.get(name)
    return tail is not None and change.get(tail[0], "").endswith(tail[1])


@pytest.mark.parametrize("name", WITH_COEFFICIENTS)
def test_an_error_of_a_millionth_in_any_coefficient_is_refused(name):
    data, count = LIBRARY[name], 0
    for change in _wrong(data):
        if not _says_nothing_new(name, change):
            with pytest.raises((ClaimRefused, BadInput)):  # some are refused as they are written
                integrators.resolve(dataclasses.replace(data, **change))
                pytest.fail(f"{name} with {change} was accepted")
        count += 1
    assert count >= (2 if integrators.get(name).stages > 1 else 1)


def test_the_sweep_of_coefficients_reaches_every_field_that_holds_numbers():
    others = {"order", "order_low", "order_third", "order_dense", "cite", "when", "starter", "rounded", "substituted"}
    others |= {"properties", "estimate", "about"}  # claims and choices
    others |= {"dense", "a_dense", "polynomial"}  # have tests of their own
    for name in WITH_COEFFICIENTS:
        assert {f.name for f in dataclasses.fields(LIBRARY[name])} <= {*COEFFICIENTS, *others}


def test_a_wrong_coefficient_of_the_base_of_a_reversible_method_is_refused():
    wrong = dataclasses.replace(LIBRARY["rk4"], b="1/6 1/3 1/3 1/6+1/1000000")
    with pytest.raises(ClaimRefused, match="claims order 4"):
        integrators.resolve(ReversibleWrapper(wrong))


@pytest.mark.parametrize(("formulas", "computed"), [("bdf", "harmonic"), ("adams", "integrals")])
def test_wrong_coefficients_computed_for_a_variable_order_are_refused(formulas, computed, monkeypatch):
    right = getattr(variable, computed)

    def wrong(x):
        value = right(x)
        tiny = Fraction(1, 10**6)
        return [v + tiny for v in value] if isinstance(value, list) else value + tiny

    monkeypatch.setattr(variable, computed, wrong)
    with pytest.raises(ClaimRefused, match="the condition C_"):
        integrators.resolve(VariableOrder(formulas, 3))


@pytest.mark.parametrize("name", AS_CLASSES)
def test_an_integrator_written_as_a_class_is_refused_where_its_step_is_a_hundredth_too_long(name):
    """Of what is not data the order is observed."""
    right = LIBRARY[name]
    wrong = copy.copy(right)
    wrong.step = lambda f, t, y, h, carry, coef: right.step(f, t, y, 1.01 * h, carry, coef)
    with pytest.raises(ClaimRefused, match=f"claims order {right.order}, but"):
        admit("wrong", wrong)


CLAIMING = [n for n in LIBRARY if not isinstance(LIBRARY[n], WITHOUT_COEFFICIENTS)]  # the orders of the others follow


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", CLAIMING)
def test_a_claim_one_too_high_or_too_low_is_refused(name, shift):
    data = LIBRARY[name]
    if isinstance(data, Integrator):
        wrong = copy.copy(data)
        wrong.order = data.order + shift
    else:
        wrong = dataclasses.replace(data, order=data.order + shift)
    with pytest.raises(ClaimRefused, match=rf"claims order {data.order + shift}, but"):
        admit("", wrong)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", [n for n in CLAIMING if getattr(LIBRARY[n], "order_low", None) is not None])
def test_a_claim_about_the_embedded_method_one_too_high_or_too_low_is_refused(name, shift):
    data = LIBRARY[name]
    with pytest.raises(ClaimRefused, match=rf"embedded method .*claims order {data.order_low + shift}, but"):
        integrators.resolve(dataclasses.replace(data, order_low=data.order_low + shift))


def test_the_refusal_names_the_tree_its_value_and_what_is_asked():
    slow = Tableau(a=("", "1/2", "-1.04 2.04"), b="1/6 2/3 1/6", order=3)
    with pytest.raises(ClaimRefused, match=r"the tree \[\[\.\]\] gives 0\.17, the order condition asks 1/6"):
        integrators.resolve(slow)


def test_a_wrong_embedded_order_and_a_wrong_stability_polynomial_are_refused():
    with pytest.raises(ClaimRefused, match="embedded"):
        integrators.resolve(dataclasses.replace(LIBRARY["bosh3"], order_low=3))
    with pytest.raises(ClaimRefused, match=r"claims R\(z\)"):
        integrators.resolve(dataclasses.replace(LIBRARY["polynet2"], polynomial="1 1 1/2"))


def test_a_multistep_method_that_diverges_or_starts_too_roughly_is_refused():
    # the explicit two-step method of highest order, 3: its second root is -5
    with pytest.raises(ClaimRefused, match="diverges"):
        integrators.resolve(Multistep(alpha="-5 4 1", beta="2 4 0", order=3, starter="rk3"))
    rough = dataclasses.replace(LIBRARY["ab4"], starter="heun")
    with pytest.raises(ClaimRefused, match="starter of order 3"):
        integrators.resolve(rough)
    with pytest.raises(BadInput, match="explicit Runge-Kutta"):
        integrators.resolve(dataclasses.replace(LIBRARY["ab2"], starter="verlet"))
    implicit = dataclasses.replace(LIBRARY["bdf4"], starter="heun")
    with pytest.raises(ClaimRefused, match="starter of order 3"):
        integrators.resolve(implicit)
    with pytest.raises(ClaimRefused, match="diverges"):  # BDF of order 7 (Hairer, Norsett & Wanner I, theorem III.3.4)
        integrators.resolve(
            Multistep(
                alpha="-1/7 7/6 -21/5 35/4 -35/3 21/2 -7 363/140", beta="0 0 0 0 0 0 0 1", order=7, starter="vern7"
            )
        )


def test_the_root_condition_agrees_with_known_polynomials():
    def f(*c):
        return [Fraction(x) for x in c]

    assert root_condition(f(0, -1, 1))
    assert root_condition(f(-1, 0, 1))
    assert not root_condition(f(1, -2, 1))
    assert root_condition(f(1, -2, 1), double_at_one=True)
    assert not root_condition(f(-5, 4, 1))


@pytest.mark.parametrize("k", [-1, -1.5, 1.2])
def test_two_step_members_outside_the_root_condition_are_refused(k):
    with pytest.raises(ClaimRefused, match="zero-stable"):
        integrators.register("grows", TwoStep(k, gain=1))


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (TwoStep(0), 1),
        (TwoStep(0.3), 1),
        (TwoStep(0.3, gain="paper"), 0),
        (TwoStep("learned"), 1),
        (TwoStep("learned", gain="paper"), 0),
        (TwoStep(1, gain=2), 1),
        (TwoStep(1, gain=2, start="taylor"), 2),
        (TwoStep(-1, gain=1, power=2), 1),
        (TwoStep(-1, gain=1, power=2, start="taylor"), 2),
        (TwoStep(-1, gain=2, power=2, start="taylor"), 0),
        (TwoStep(1.2), 0),
    ],
)
def test_the_order_of_a_two_step_method_is_derived(method, order):
    assert method.order == order


def test_malformed_data_is_refused_when_it_is_written():
    with pytest.raises(BadInput, match="rows of length"):
        Tableau(a=("", "1 1"), b="1/2 1/2", order=2)
    with pytest.raises(BadInput, match="3 entries for 2 stages"):
        Tableau(a=("", "1"), b="1/2 1/2 0", order=2)
    with pytest.raises(BadInput, match="belong together"):
        Tableau(a=("",), b="1", order=1, b_low="1")
    with pytest.raises(BadInput, match="different lengths"):
        Partitioned(kicks="1", drifts="1 0", order=1)
    with pytest.raises(BadInput, match="m \\+ 1"):
        Multistep(alpha="-1 1", beta="1", order=1, starter="euler")
    with pytest.raises(BadInput, match="last alpha"):
        Multistep(alpha="-1 1 0", beta="1 0 0", order=1, starter="euler")
    for wrong in ({"k": "x"}, {"k": 0, "gain": "y"}, {"k": 0, "power": 3}, {"k": 0, "start": "z"}, {"k": -1}):
        with pytest.raises(BadInput):
            TwoStep(**wrong)


# ---- observed orders, each against a closed form in float64


class Parts:
    """f in two parts, the implicit one nonlinear and dependent on t, and beside a linear part -2 y."""

    def implicit(self, t, y):
        return torch.cos(y + t) / 2 - 2 * y

    def explicit(self, t, y):
        return self(t, y) - self.implicit(t, y)

    def linear(self):
        return torch.full((self.exact(0.0).shape[-1],), -2.0, dtype=torch.float64)

    def nonlinear(self, t, y):
        return self(t, y) + 2 * y


class Riccati(Parts):
    """y' = -2 t y^2 from several y(0) = c: y = 1 / (1/c + t^2). Nonlinear and non-autonomous."""

    start = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)

    def __call__(self, t, y):
        return -2 * t * y * y

    def exact(self, t):
        return 1 / (1 / self.start + t * t)


class Circles(Parts):
    """Nonlinear, coupled, non-autonomous; solution (sin s, cos s), s = t + phase, entire: for high orders."""

    phase = torch.arange(8, dtype=torch.float64) * (math.pi / 4)

    def __init__(self, strength=1.5):
        self.strength = strength

    def __call__(self, t, y):
        s, (q, p) = t + self.phase, y
        dq = torch.cos(s) + self.strength * torch.sin(p - torch.cos(s))
        return torch.stack((dq, -torch.sin(s) - self.strength * torch.sin(q - torch.sin(s)) * p))

    def exact(self, t):
        return torch.stack((torch.sin(t + self.phase), torch.cos(t + self.phase)))


class Pendulum:
    """q'' = -sin q on the separatrix: q = 2 arctan(sinh s), p = 2 / cosh s, s = t + phase."""

    phase = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)

    def split(self, y):
        return y[0], y[1]

    def join(self, q, p):
        return torch.stack((q, p))

    def kick(self, t, q):
        return -torch.sin(q)

    def drift(self, t, p):
        return p

    def exact(self, t):
        s = t + self.phase
        return torch.stack((2 * torch.arctan(torch.sinh(s)), 2 / torch.cosh(s)))


class Soliton:
    """y'' = y - 2 y^3 from rest at 1: y = 1 / cosh t."""

    def __call__(self, t, y):
        return y - 2 * y**3

    def exact(self, t):
        return torch.tensor([1 / math.cosh(t)], dtype=torch.float64)


def _problem(method):
    if "separable" in method.needs:
        return Pendulum()
    if "second_order" in method.needs:
        return Soliton()
    return Circles() if method.order >= 3 else Riccati()


def _error(method, problem, steps, coef=None, end=1.0):
    h, y, carry = end / steps, problem.exact(0.0), ()
    for n in range(steps):
        y, _, carry, *_ = method.step(problem, n * h, y, h, carry, coef)
    return float((y - problem.exact(end)).norm())


def _observed(method, problem, coef=None, finest=1024, end=1.0):
    errors, steps = [], 2
    while steps <= finest:
        e = _error(method, problem, steps, coef, end)
        if e < 3e-13:  # below, rounding is more than some per cent of the error
            break
        errors.append(e)
        steps *= 2
    return math.log2(errors[-2] / errors[-1])


# over t = 4, where the error of such orders is that of its leading term before it is rounding
LONG = {"vern7": Circles(1.5), "dopri8": Circles(1.0)}
# every run starts at order 1 and the first steps stay in the result: BDF's with backward Euler, Adams's with Heun
STARTS = {"bdf": 2, "adams": 3}


@pytest.mark.parametrize("name", EVERY)
def test_halving_the_step_shows_the_stated_order(name):
    method = integrators.get(name)
    stated = STARTS.get(name, method.order)
    if isinstance(method, External):  # one step of theirs per step of ours
        method = External(method.method, single=True)
    coef = {"k": torch.tensor(0.3, dtype=torch.float64)} if name == "lm" else None
    finest = 4096 if name == "momentum" else 256
    if method.implicit:  # each step costs some milliseconds
        finest = 128 if method.history else 64 if stated < 3 else 32
    problem, end = (LONG[name], 4.0) if name in LONG else (_problem(method), 1.0)
    assert _observed(method, problem, coef, finest, end) == pytest.approx(stated, abs=0.1)


@pytest.mark.parametrize("name", [n for n in EVERY if integrators.get(n).adaptive])
def test_halving_the_step_shows_the_stated_order_of_the_error_estimate(name):
    method, low = integrators.get(name), integrators.get(name).facts.order_low
    problem = Circles()
    y, errors = problem.exact(0.5), []
    for k in range(1, 12):
        step = method.step(problem, 0.5, y, 0.5**k, (), None)
        if float(step.error.norm()) < 3e-14:
            break
        errors.append(float(step.error.norm()))
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(low + 1, abs=0.15 if low > 5 else 0.1)
    assert step.order in (None, low + 1)


@pytest.mark.parametrize("k", [-0.5, 0.3])
def test_lm_with_the_consistent_gain_and_a_frozen_k_is_of_first_order(k):
    method = TwoStep("learned", gain="consistent")
    coef = {"k": torch.tensor(k, dtype=torch.float64)}
    assert _observed(method, Riccati(), coef) == pytest.approx(1, abs=0.1)


def test_lm_as_published_does_not_converge_for_a_k_that_is_not_zero():
    method, coef = integrators.get("lm"), {"k": torch.tensor(0.3, dtype=torch.float64)}
    errors = [_error(method, Riccati(), n, coef) for n in (100, 200, 400)]
    assert min(errors) > 0.1
    assert max(errors) < 1.05 * min(errors)


@pytest.mark.parametrize(("name", "order"), [("rodas4", 2), ("ros3p", 3)])
def test_the_order_of_a_rosenbrock_method_whatever_the_stiffness(name, order):
    """Prothero & Robinson, y' = l (cos t - y) - sin t, y = cos t: the largest error over l, for it moves with h."""
    rates = torch.logspace(0, 6, 49, dtype=torch.float64)

    class Driven:
        def __init__(self):
            self.workspace = {}

        def __call__(self, t, y):
            t = torch.as_tensor(t, dtype=torch.float64)
            return rates.unsqueeze(1) * (torch.cos(t) - y) - torch.sin(t)

        def exact(self, t):
            return torch.full((49, 1), math.cos(t), dtype=torch.float64)

    f, errors = Driven(), []
    for steps in (40, 80):
        y, worst = f.exact(0.0), 0.0
        for n in range(steps):
            y = integrators.get(name).step(f, n / steps, y, 1 / steps, (), None).y
            worst = max(worst, float((y - f.exact((n + 1) / steps)).abs().max()))
        errors.append(worst)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_every_entry_of_the_library_is_swept():
    kinds = {type(data) for data in LIBRARY.values() if not isinstance(data, Integrator)}
    assert kinds == set(build.registry) - {object, Integrator}  # every family that there is has an entry
    assert {*WITH_COEFFICIENTS, *AS_CLASSES} == {
        n for n, data in LIBRARY.items() if not isinstance(data, WITHOUT_COEFFICIENTS)
    }
    assert set(LIBRARY) < set(EVERY)
