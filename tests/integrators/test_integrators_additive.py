"""Implicit-explicit Runge-Kutta methods: order and stability, against closed forms and hand loops."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from integrators_parts import Parts, linear, matrix, orders
from scipy.linalg import expm
from scipy.optimize import brentq

import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused
from odenet.integrators.additive import Additive, coloured_trees
from odenet.integrators.library.additive import LIBRARY

pytestmark = pytest.mark.usefixtures("double")

DATA = {name: data for name, data in LIBRARY.items() if isinstance(data, Additive)}
METHODS = {name: integrators.resolve(data) for name, data in DATA.items()}
ADAPTIVE = [name for name, data in DATA.items() if data.b_low]


# ---- what is registered


def test_the_library_holds_the_published_methods():
    assert list(DATA) == ["imex_euler", "ars222", "ars343", "kencarp3", "kencarp4"]
    assert [m.order for m in METHODS.values()] == [1, 2, 3, 3, 4]
    assert [(m.facts.order_low, m.adaptive) for m in METHODS.values()] == [(None, False)] * 3 + [(2, True), (3, True)]
    assert all(m.needs == {"split"} and m.implicit and m.cite and m.when.endswith(".") for m in METHODS.values())


def test_ars343_has_the_digits_that_its_authors_printed():
    explicit, implicit = ([[float(x) for x in row] for row in m] for m in DATA["ars343"].matrices)
    assert explicit[2][:2] == pytest.approx([0.3212788860, 0.3966543747], abs=6e-11)
    assert explicit[3][:3] == pytest.approx([-0.105858296, 0.5529291479, 0.5529291479], abs=2e-10)
    assert implicit[3] == pytest.approx([0, 1.208496649, -0.644363171, 0.4358665215], abs=5e-10)
    gamma = implicit[1][1]
    assert 6 * gamma**3 - 18 * gamma**2 + 9 * gamma - 1 == pytest.approx(0, abs=1e-15)


def test_the_explicit_part_of_ars343_is_as_stable_as_rk4():
    """That is how its authors chose the two entries that the order leaves free."""
    for z in (-2.7, 1.2 + 0.4j, 2.8j):
        r = METHODS["ars343"].amplification(z, z_implicit=0.0)
        assert r == pytest.approx(1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24, rel=1e-13)


def test_both_parts_of_kencarp4_stand_at_the_published_times():
    assert [float(c) for c in DATA["kencarp4"].nodes] == pytest.approx(
        [0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1], rel=1e-14
    )


def test_there_are_as_many_two_coloured_trees_as_counted():
    """Twice the number of rooted trees with two-coloured other vertices, 1, 2, 7, 26, 107 (OEIS A000151)."""
    assert [len(coloured_trees(n)) for n in range(1, 6)] == [2, 4, 14, 52, 214]


def test_facts_are_derived_from_the_coefficients():
    facts = {name: m.facts for name, m in METHODS.items()}
    assert [f.stages for f in facts.values()] == [2, 3, 4, 4, 6]
    assert [f.exact for f in facts.values()] == [True, True, False, False, False]
    assert all(f.a_stable and f.l_stable and f.real_interval == f.imag_interval == math.inf for f in facts.values())
    assert [f.stiffly_accurate for f in facts.values()] == [True, True, False, False, False]
    assert [f.stage_order for f in facts.values()] == [1, 1, 1, 2, 2]
    # four trees with two vertices, each 1/2 off by 1/2: E[E] and I[E] give 0, E[I] gives 0 and I[I] gives 1
    assert facts["imex_euler"].error_constant == pytest.approx(1.0, rel=1e-14)


# ---- a wrong coefficient is refused


def _with(row, j, change):
    words = row.split()
    words[j] = f"({words[j]})+({change})"
    return " ".join(words)


def _perturbed():
    for name, data in DATA.items():
        for field in ("explicit", "implicit"):
            for i, row in enumerate(getattr(data, field)):
                for j in range(len(row.split())):
                    rows = list(getattr(data, field))
                    rows[i] = _with(row, j, "1/1000000")
                    yield pytest.param(name, {field: tuple(rows)}, id=f"{name}-{field}{i}{j}")
        for field in ("b", "b_low"):
            weights = getattr(data, field)
            for k, row in enumerate(weights if isinstance(weights, tuple) else (weights,) if weights else ()):
                for j in range(len(row.split())):
                    wrong = _with(row, j, "1/1000000")
                    both = (
                        tuple(wrong if i == k else r for i, r in enumerate(weights))
                        if isinstance(weights, tuple)
                        else wrong
                    )
                    yield pytest.param(name, {field: both}, id=f"{name}-{field}{k}{j}")


@pytest.mark.parametrize(("name", "change"), [*_perturbed()])
def test_a_coefficient_changed_by_a_millionth_is_refused(name, change):
    with pytest.raises(ClaimRefused, match=r"same sum|claims order|embedded method"):
        integrators.resolve(dataclasses.replace(DATA[name], **change))


def _balanced():
    """Two entries of a row changed against each other: the times c_i stay, only the trees can tell."""
    for name in ("ars343", "kencarp3", "kencarp4"):
        for field, first in (("explicit", 2), ("implicit", 2)):
            for i in range(first, len(DATA[name].explicit)):
                rows = list(getattr(DATA[name], field))
                rows[i] = _with(_with(rows[i], 0, "1/1000000"), 1, "-1/1000000")
                yield pytest.param(name, {field: tuple(rows)}, id=f"{name}-{field}{i}")


@pytest.mark.parametrize(("name", "change"), [*_balanced()])
def test_changes_that_keep_the_times_are_refused_by_the_trees(name, change):
    with pytest.raises(ClaimRefused, match=r"the tree [EI]\["):
        integrators.resolve(dataclasses.replace(DATA[name], **change))


def test_a_pair_of_third_order_methods_that_do_not_fit_each_other_is_refused_by_a_mixed_tree():
    """Each is of order 3 on its own: b.c = 1/2, b.c^2 = 1/3, b.A c = 1/6 with the b and c of both."""
    one = Additive(explicit=("", "1/2", "-1 2"), implicit=("0", "0 1/2", "0 0 1"), b="1/6 2/3 1/6", order=1)
    assert integrators.resolve(dataclasses.replace(one, order=2)).order == 2
    with pytest.raises(ClaimRefused, match=r"claims order 3, but the tree [EI]\[I\[[EI]\]\] gives"):
        integrators.resolve(dataclasses.replace(one, order=3))


def test_a_claim_below_the_order_is_refused_too():
    with pytest.raises(ClaimRefused, match="write order=2"):
        integrators.resolve(dataclasses.replace(DATA["ars222"], order=1))


def test_wrong_lengths_are_refused_in_a_sentence():
    euler = DATA["imex_euler"]
    for change, words in (
        ({"explicit": ("", "1 0")}, "explicit part has i - 1 entries"),
        ({"implicit": ("0", "1")}, "implicit part has i entries"),
        ({"implicit": ("0",)}, "both parts have 2 rows"),
        ({"b": "1 0 0"}, "b has [3] entries for 2 stages"),
        ({"b_low": "1 0"}, "belong together"),
    ):
        with pytest.raises(BadInput, match=re.escape(words)):
            dataclasses.replace(euler, **change)


# ---- order on closed forms


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_order_on_the_logistic_equation_however_it_is_split(name, share):
    """y' = y - y^2; `share` of it is explicit."""
    y0 = torch.tensor([[0.2], [0.5], [1.7]])
    exact = 1 / (1 + (1 / y0 - 1) * math.exp(-2.0))
    f = Parts(lambda t, y: share * (y - y**2), lambda t, y: (1 - share) * (y - y**2))
    found = orders(METHODS[name], f, y0, 2.0, exact, (24, 48))
    assert found[-1] == pytest.approx(METHODS[name].order, abs=0.15)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["newton", "linear"])
def test_order_on_linear_parts_that_do_not_commute(name, kind):
    a, b = matrix(1), matrix(2, shift=1.0)
    assert float((a @ b - b @ a).abs().max()) > 0.5
    y0 = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.4, -1.0]])
    exact = y0 @ torch.from_numpy(expm((a + b).numpy())).mT
    explicit = lambda t, y: y @ a.mT  # noqa: E731
    f = linear(explicit, b) if kind == "linear" else Parts(explicit, lambda t, y: y @ b.mT)
    found = orders(METHODS[name], f, y0, 1.0, exact)
    assert found[-1] == pytest.approx(METHODS[name].order, abs=0.15)


@pytest.mark.parametrize("name", METHODS)
def test_order_where_both_parts_depend_on_time(name):
    """y' = (0.3 + 0.7) cos(t) y; y = exp(sin t)."""
    cos = lambda t: math.cos(t)  # noqa: E731
    f = Parts(lambda t, y: 0.3 * cos(t) * y, lambda t, y: 0.7 * cos(t) * y)
    found = orders(METHODS[name], f, torch.ones(1), 2.0, math.exp(math.sin(2.0)))
    assert found[-1] == pytest.approx(METHODS[name].order, abs=0.2)


@pytest.mark.parametrize(("name", "order"), [("ars222", 1), ("ars343", 2), ("kencarp3", 2), ("kencarp4", 3)])
def test_driven_stiff_modes_reduce_the_order_as_documented(name, order):
    """Prothero & Robinson: y' = cos t - 1e6 (y - sin t), y = sin t."""
    f = Parts(lambda t, y: torch.full_like(y, math.cos(t)), lambda t, y: -1e6 * (y - math.sin(t)))
    found = orders(METHODS[name], f, torch.zeros(1), 1.0, math.sin(1.0), (8, 16, 32))
    assert found[-1] == pytest.approx(order, abs=0.5)


# ---- hand-written steps


def test_imex_euler_is_the_loop_written_out():
    a, b, h = matrix(3), matrix(4, shift=3.0), 0.1
    f, method = linear(lambda t, y: torch.sin(t + y @ a.mT), b), METHODS["imex_euler"]
    y = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.4, -1.0]])
    x = y.numpy()
    for n in range(5):
        y = method.step(f, n * h, y, h, (), None).y
        x = np.linalg.solve(np.eye(3) - h * b.numpy(), (x + h * np.sin(n * h + x @ a.numpy().T)).T).T
    assert y.numpy() == pytest.approx(x, rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("kind", ["newton", "linear"])
def test_ars222_is_the_loop_written_out(kind):
    a, b, h = matrix(3).numpy(), matrix(4, shift=3.0), 0.1
    g, d = 1 - 1 / math.sqrt(2), -1 / math.sqrt(2)
    explicit = lambda t, y: torch.sin(t + y @ torch.from_numpy(a).mT)  # noqa: E731
    f = linear(explicit, b) if kind == "linear" else Parts(explicit, lambda t, y: y @ b.mT)
    y = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.4, -1.0]])
    x, solve = y.numpy(), lambda v: np.linalg.solve(np.eye(3) - h * g * b.numpy(), v.T).T
    for n in range(5):
        y = METHODS["ars222"].step(f, n * h, y, h, (), None).y
        k1 = np.sin(n * h + x @ a.T)
        y2 = solve(x + h * g * k1)
        k2, l2 = np.sin(n * h + g * h + y2 @ a.T), y2 @ b.numpy().T
        x = solve(x + h * (d * k1 + (1 - d) * k2) + h * (1 - g) * l2)
    assert y.numpy() == pytest.approx(x, rel=1e-13, abs=1e-14)


def test_a_nonlinear_implicit_part_is_solved_to_rounding():
    """imex_euler of y' = 1 - y^3 with y^3 implicit; the stage by bracketing."""
    f, x, y = Parts(lambda t, y: torch.ones_like(y), lambda t, y: -(y**3)), 2.0, torch.tensor([2.0])
    for _ in range(4):
        y = METHODS["imex_euler"].step(f, 0.0, y, 0.5, (), None).y
        x = brentq(lambda s, base=x + 0.5: s - base + 0.5 * s**3, 0, 5, xtol=1e-15)
    assert float(y) == pytest.approx(x, rel=1e-14)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_estimate_is_the_difference_to_the_embedded_method(name):
    data = DATA[name]
    low = integrators.resolve(dataclasses.replace(data, b=data.b_low, order=data.order_low, b_low=None, order_low=None))
    f = Parts(lambda t, y: torch.sin(t + y), lambda t, y: -5 * y**3)
    y = torch.tensor([[1.0, 0.4], [0.3, -0.8]])
    step = METHODS[name].step(f, 0.2, y, 0.1, (), None)
    torch.testing.assert_close(step.error, step.y - low.step(f, 0.2, y, 0.1, (), None).y, rtol=1e-9, atol=1e-15)
    assert torch.equal(step.slopes[0], f(0.2, y))


# ---- stability function

Z = [(0.0, -2.0), (-0.7, -3.0 + 1j), (0.4j, -100.0), (1.5 - 0.3j, 2j), (-1.0, 0.0)]


def _ars222(ze, zi):
    g, d = 1 - 1 / math.sqrt(2), -1 / math.sqrt(2)
    second = (1 + g * ze) / (1 - g * zi)
    return (1 + ze * (d + (1 - d) * second) + zi * (1 - g) * second) / (1 - g * zi)


@pytest.mark.parametrize(("name", "by_hand"), [("imex_euler", lambda ze, zi: (1 + ze) / (1 - zi)), ("ars222", _ars222)])
def test_amplification_of_two_arguments_is_the_stability_function_by_hand(name, by_hand):
    method = METHODS[name]
    for ze, zi in Z:
        assert method.amplification(ze, z_implicit=zi) == pytest.approx(by_hand(ze, zi), rel=1e-13)
        assert method.amplification(zi) == pytest.approx(by_hand(0.0, zi), rel=1e-13)
    grid = torch.tensor(Z, dtype=torch.complex128)
    found = method.amplification(grid[:, :1], z_implicit=grid[:, 1])
    assert found.shape == (5, 5)
    assert complex(found[3, 2]) == pytest.approx(by_hand(Z[3][0], Z[2][1]), rel=1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_amplification_is_b_over_the_resolvent_of_both_tableaux(name):
    """R = 1 + (ze be + zi bi)^T (I - ze Ae - zi Ai)^-1 1."""
    (ae, ai), (be, bi) = ([np.array([[float(x) for x in row] for row in m]) for m in DATA[name].matrices],
                          [np.array([float(x) for x in w]) for w in DATA[name].weights])  # fmt: skip
    one = np.ones(len(be))
    for ze, zi in Z:
        r = 1 + (ze * be + zi * bi) @ np.linalg.solve(np.eye(len(be)) - ze * ae - zi * ai, one)
        assert METHODS[name].amplification(ze, z_implicit=zi) == pytest.approx(r, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_the_implicit_part_damps_all_of_the_left_half_plane_and_infinity_to_zero(name):
    g = torch.Generator().manual_seed(0)
    size = 10 ** (8 * torch.rand(2000, generator=g) - 3)
    angle = math.pi * (torch.rand(2000, generator=g) + 0.5)
    assert float(METHODS[name].amplification(torch.polar(size, angle)).abs().max()) <= 1 + 1e-12
    assert float(METHODS[name].amplification(1j * size).abs().max()) <= 1 + 1e-12
    assert abs(METHODS[name].amplification(-1e9)) < 1e-8


def test_other_methods_take_the_sum_of_both_arguments():
    rk4 = integrators.get("rk4")
    assert rk4.amplification(-0.3, z_implicit=0.2j) == pytest.approx(rk4.amplification(-0.3 + 0.2j), rel=1e-15)
