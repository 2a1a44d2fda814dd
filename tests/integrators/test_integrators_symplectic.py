"""Symplectic splittings: published compositions by hand, the Jacobian, reversal, and energy over many steps."""

from __future__ import annotations

import math

import pytest
import torch
from integrators_wave import Wave, start

import odenet.integrators as integrators
from odenet.integrators.library.symplectic import LIBRARY
from odenet.rational import exact

H = 0.1
FOURTH = [n for n in LIBRARY if LIBRARY[n].order == 4]


class Driven:
    """q' = sinh p + cos t / 5, p' = -grad U(q) + sin t / 4; the last axis is (q, p), (..., 4).

    U = |q|^2 / 2 + q_1^2 q_2 - q_2^3 / 3 (Henon & Heiles 1964).
    """

    def split(self, y):
        return y[..., :2], y[..., 2:]

    def join(self, q, p):
        return torch.cat((q, p), -1)

    def kick(self, t, q):
        x, z = q[..., :1], q[..., 1:]
        return torch.cat((-x - 2 * x * z, -z - x * x + z * z), -1) + math.sin(t) / 4

    def drift(self, t, p):
        return torch.sinh(p) + math.cos(t) / 5


def _start(*shape):
    return 0.3 * torch.randn(*shape, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# ---- against loops written from the papers


def _drift(f, t, y, h):
    q, p = f.split(y)
    return f.join(q + h * f.drift(t, p), p)


def _kick(f, t, y, h):
    q, p = f.split(y)
    return f.join(q, p + h * f.kick(t, q))


def _interleaved(f, y, first, drifts, kicks, h):
    """Drifts and kicks in turn; each is evaluated at the time that the other part has reached."""
    at = {"drift": 0.0, "kick": 0.0}
    moves = {"drift": (_drift, iter(drifts)), "kick": (_kick, iter(kicks))}
    other = {"drift": "kick", "kick": "drift"}
    now = first
    for _ in range(len(drifts) + len(kicks)):
        act, sizes = moves[now]
        size = next(sizes)
        y = act(f, at[other[now]] * h, y, size * h)
        at[now] += size
        now = other[now]
    return y


def test_pefrl_is_the_algorithm_of_the_paper():
    """Omelyan, Mryglod & Folk 2002, equation (20) and the values of xi, lambda, chi after it."""
    xi, lam, chi = 0.1786178958448091, -0.2123418310626054, -0.06626458266981849
    drifts = [xi, chi, 1 - 2 * (chi + xi), chi, xi]
    kicks = [(1 - 2 * lam) / 2, lam, lam, (1 - 2 * lam) / 2]
    f, y = Driven(), _start(3)
    got = integrators.get("pefrl").step(f, 0.0, y, H, (), None).y
    assert torch.allclose(got, _interleaved(f, y, "drift", drifts, kicks, H), rtol=0, atol=1e-15)


def test_forest_ruth_is_the_algorithm_of_the_paper():
    """Forest & Ruth 1990: x = 1/(2 - 2^(1/3)); half a drift first."""
    x = 1 / (2 - 2 ** (1 / 3))
    f, y = Driven(), _start(3)
    expected = _interleaved(f, y, "drift", [x / 2, (1 - x) / 2, (1 - x) / 2, x / 2], [x, 1 - 2 * x, x], H)
    assert torch.allclose(integrators.get("forest_ruth").step(f, 0.0, y, H, (), None).y, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("verlet", [1.0]),
        ("yoshida4", [1 / (2 - 2 ** (1 / 3)), 1 - 2 / (2 - 2 ** (1 / 3))]),
        ("yoshida6", [0.784513610477560, 0.235573213359357, -1.17767998417887, 1.315186320683906]),
    ],
)
def test_a_composition_is_verlet_steps_in_a_row(name, sizes):
    """Yoshida 1990, equation (2.11) and table 1, solution A, to the digits printed there."""
    f, y, t, verlet = Driven(), _start(3), 0.0, integrators.get("verlet")
    expected = y
    for w in [*sizes[:-1], sizes[-1], *sizes[-2::-1]]:
        expected = verlet.step(f, t, expected, w * H, (), None).y
        t += w * H
    got = integrators.get(name).step(f, 0.0, y, H, (), None).y
    assert torch.allclose(got, expected, rtol=0, atol=1e-14 if name == "yoshida6" else 1e-15)


def test_the_sizes_of_yoshida6_solve_the_order_conditions_of_the_composition():
    """sum w = 1, sum w^3 = sum w^5 = 0 are three of the four conditions (Hairer, Lubich & Wanner V.3)."""
    w = [float(exact(word)) for word in LIBRARY["yoshida6"].drifts.split()[:-1]]
    assert len(w) == 7
    assert w == w[::-1]
    for power, total in ((1, 1.0), (3, 0.0), (5, 0.0)):
        assert math.fsum(x**power for x in w) == pytest.approx(total, abs=2e-15)


def test_mclachlan4_is_symplectic_euler_and_its_adjoint_in_turn():
    """McLachlan 1995, with the coefficients as in Hairer, Lubich & Wanner 2006, equation (V.3.6): s = 5."""
    r = math.sqrt(19)
    beta = [(14 - r) / 108, (-23 - 20 * r) / 270, 1 / 5, (-2 + 10 * r) / 135, (146 + 5 * r) / 540]
    f, y = Driven(), _start(3)
    kicks, drifts = [beta[0]], []
    for b, a, following in zip(beta, beta[::-1], [*beta[1:], 0.0]):  # alpha_i = beta_{s+1-i}
        drifts.append(b + a)
        kicks.append(a + following)
    expected = _interleaved(f, y, "kick", drifts, kicks, H)
    assert torch.allclose(integrators.get("mclachlan4").step(f, 0.0, y, H, (), None).y, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", LIBRARY)
def test_every_splitting_but_the_first_order_one_is_symmetric(name):
    """A step forwards and a step of -h from its end return to the start."""
    f, y, method = Driven(), _start(3), integrators.get(name)
    there = method.step(f, 0.2, y, H, (), None).y
    back = method.step(f, 0.2 + H, there, -H, (), None).y
    away = float((back - y).abs().max())
    assert away > 1e-4 if name == "symplectic_euler" else away < 1e-15


# ---- structure


@pytest.mark.parametrize("name", LIBRARY)
def test_the_jacobian_of_two_steps_keeps_the_symplectic_form(name):
    f, y, method = Driven(), _start(), integrators.get(name)

    def two(y):
        first = method.step(f, 0.0, y, 0.4, (), None)
        return method.step(f, 0.4, first.y, 0.4, first.carry, None).y

    m = torch.autograd.functional.jacobian(two, y)
    w = torch.zeros(4, 4, dtype=torch.float64)
    w[:2, 2:], w[2:, :2] = torch.eye(2), -torch.eye(2)
    assert float((m.T @ w @ m - w).abs().max()) < 2e-14


@pytest.mark.parametrize("name", LIBRARY)
def test_undoing_a_thousand_steps_returns_to_the_start(name):
    f, y, method = Wave(), start(5), integrators.get(name)
    now, carry = y, ()
    for n in range(1000):
        now, _, carry, *_ = method.step(f, n * 0.01, now, 0.01, carry, None)
    assert float((now - y).abs().max()) > 0.1
    for n in reversed(range(1000)):
        now, _, carry, *_ = method.invert(f, n * 0.01, now, 0.01, carry, None)
    assert float((now - y).abs().max()) < 1e-11


@pytest.mark.parametrize("name", LIBRARY)
def test_a_carried_force_saves_an_evaluation_and_changes_nothing(name):
    f, y, method = Driven(), _start(3), integrators.get(name)
    first = method.step(f, 0.0, y, H, (), None)
    with_carry = method.step(f, H, first.y, H, first.carry, None).y
    assert torch.allclose(with_carry, method.step(f, H, first.y, H, (), None).y, rtol=0, atol=1e-15)
    assert len(first.carry) == (1 if name in {"verlet", "yoshida4", "yoshida6", "mclachlan4"} else 0)


# ---- energy


class HenonHeiles(Driven):
    """The autonomous problem, H = |p|^2/2 + U(q)."""

    def kick(self, t, q):
        x, z = q[..., :1], q[..., 1:]
        return torch.cat((-x - 2 * x * z, -z - x * x + z * z), -1)

    def drift(self, t, p):
        return p

    def energy(self, y):
        (x, z), p = y[..., :2].unbind(-1), y[..., 2:]
        return (p * p).sum(-1) / 2 + (x * x + z * z) / 2 + x * x * z - z**3 / 3


def energy_error(method, h: float, steps: int, every: int = 1) -> tuple[float, float]:
    """Largest |H - H(0)| over the first and over the last tenth of the steps, on four orbits with H < 1/6."""
    f = HenonHeiles()
    y = torch.tensor([[0.0, 0.1, 0.35, 0.1], [0.1, 0.2, 0.1, 0.2], [-0.2, 0.0, 0.2, 0.3], [0.3, -0.1, 0.0, 0.2]])
    y = y.double()
    at_first, carry, seen = f.energy(y), (), []
    with torch.no_grad():
        for n in range(steps):
            y, _, carry, *_ = method.step(f, n * h, y, h, carry, None)
            if n < steps // 10 or n >= steps - steps // 10:
                seen.append(y)
    error = (f.energy(torch.stack(seen)) - at_first).abs().amax(-1)
    half = len(seen) // 2
    return float(error[:half].max()), float(error[half:].max())


@pytest.mark.parametrize("name", LIBRARY)
def test_energy_does_not_drift(name):
    first, last = energy_error(integrators.get(name), 0.2, 2000)
    assert 1e-13 < first < 3e-2
    assert last < 1.1 * first


def test_energy_of_a_runge_kutta_method_drifts():
    """The same measure sees rk4 lose energy: the check above can fail."""
    f = HenonHeiles()

    class Whole:
        step = staticmethod(
            lambda f, t, y, h, carry, coef: integrators.get("rk4").step(
                lambda t, y: f.join(f.drift(t, f.split(y)[1]), f.kick(t, f.split(y)[0])), t, y, h, (), coef
            )
        )

    assert f.energy(torch.zeros(1, 4)).item() == 0
    first, last = energy_error(Whole, 0.2, 2000)
    assert last > 4 * first


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY)
def test_energy_does_not_drift_over_a_million_steps(name):
    first, last = energy_error(integrators.get(name), 0.1, 1_000_000)
    assert last < 1.2 * first + 2e-11  # a million roundings of 1e-17 on average


def test_the_fourth_order_methods_rank_by_their_error_constants():
    """At equal work, forces per unit of time: yoshida4 and forest_ruth last, mclachlan4 first."""
    errors = {n: energy_error(integrators.get(n), 0.1 * integrators.get(n).stages, 600)[0] for n in FOURTH}
    assert errors["mclachlan4"] < errors["pefrl"] < min(errors["yoshida4"], errors["forest_ruth"]) / 3
