"""phi functions and exponential methods: against mpmath, scipy, formulas written out, finite differences."""

from __future__ import annotations

import dataclasses
import math

import mpmath
import numpy as np
import pytest
import torch
from integrators_wave import H, Wave, march, start
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from odenet.errors import BadInput, ClaimRefused, Incompatible
from odenet.integrators import resolve
from odenet.integrators.adaptive import Controller
from odenet.integrators.exponential import Exponential, ForcedReaction
from odenet.integrators.exponential_order import colourings, combination
from odenet.integrators.library.exponential import LIBRARY
from odenet.integrators.observe import ForcedPair, observed_order
from odenet.integrators.order import trees
from odenet.integrators.phi import phi, phi_matrix

METHODS = {name: resolve(data) for name, data in LIBRARY.items()}
ABOUT_LINEAR = [n for n, d in LIBRARY.items() if d.about == "linear"]
ABOUT_JACOBIAN = [n for n, d in LIBRARY.items() if d.about == "jacobian"]
D, C = torch.float64, torch.complex128


def _random(*shape, seed=0, dtype=D):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- phi functions of numbers


def _phi(k, z):
    """By the definition, in 60 digits."""
    with mpmath.workdps(60):
        z = mpmath.mpmathify(z)
        if z == 0:
            return 1 / mpmath.factorial(k)
        return (mpmath.exp(z) - sum(z**j / mpmath.factorial(j) for j in range(k))) / z**k


REALS = [0.0, *(sign * 10 ** (e / 4) for e in range(-40, 12) for sign in (1, -1)), -1e4, -1e8, 2.0, -2.0, 1.999, 2.001]


@pytest.mark.parametrize("k", range(5))
def test_phi_of_a_real_number_is_right_to_the_last_digits(k):
    values = phi(torch.tensor(REALS, dtype=D), 4)[k]
    for z, value in zip(REALS, values):
        assert float(value) == pytest.approx(float(_phi(k, z)), rel=3e-15, abs=1e-300)


@pytest.mark.parametrize("k", range(5))
def test_phi_of_a_complex_number_is_right_on_every_circle(k):
    points = [complex(mpmath.expj(a) * r) for r in (1e-9, 0.1, 1.0, 1.99, 2.01, 3.0, 10.0, 40.0) for a in range(7)]
    for z, value in zip(points, phi(torch.tensor(points, dtype=C), 4)[k]):
        expected = complex(_phi(k, z))
        assert abs(complex(value) - expected) <= 3e-15 * abs(expected)


def test_phi_beyond_the_largest_exponent_has_its_limits():
    z = torch.tensor([-math.inf, -1e300], dtype=D)
    assert [float(v[0]) for v in phi(z, 3)] == [0, 0, 0, 0]
    assert [float(v[1]) for v in phi(z, 2)] == [0, 1e-300, 1e-300]


def test_phi_is_differentiated_on_both_sides_of_the_series():
    z = torch.tensor([-30.0, -2.5, -1.5, 0.0, 1e-9, 0.5, 1.9, 2.1, 6.0], dtype=D, requires_grad=True)
    for k, value in enumerate(phi(z, 4)):
        (slope,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
        for x, got in zip(z.tolist(), slope.tolist()):
            expected = mpmath.quad(lambda s, x=x, k=k: (1 - s) * _weight(k, s) * mpmath.exp((1 - s) * x), [0, 1])
            assert got == pytest.approx(float(expected if k else mpmath.exp(x)), rel=1e-12)
    assert torch.autograd.gradgradcheck(lambda z: phi(z, 3), (z,), atol=1e-7)


def _weight(k, s):
    return s ** (k - 1) / mpmath.factorial(k - 1) if k else 0


# ---- phi functions of matrices


def _phi_of_matrix(a, highest):
    """The first block row of the exponential of [[A, 1, 0], [0, 0, 1], [0, 0, 0]], in 50 digits."""
    n = a.shape[0]
    with mpmath.workdps(50):
        big = mpmath.zeros(n * (highest + 1))
        big[:n, :n] = mpmath.matrix(a.tolist())
        for i in range(n * highest):
            big[i, i + n] += 1
        e = mpmath.expm(big)
        return [np.array([[complex(e[i, k * n + j]) for j in range(n)] for i in range(n)]) for k in range(highest + 1)]


@pytest.mark.parametrize("size", [1e-7, 0.3, 1.0, 3.0, 30.0, 1e3])
def test_phi_of_a_matrix_is_right_to_the_last_digits(size):
    a = size * (_random(3, 3, seed=5) - 2 * torch.eye(3, dtype=D) * (size > 1))
    for k, (value, expected) in enumerate(zip(phi_matrix(a, 4), _phi_of_matrix(a, 4))):
        size_of_phi = abs(expected).max()
        assert abs(value.numpy() - expected).max() <= 3e-15 * (size_of_phi if k else max(1.0, size_of_phi))


def test_phi_of_a_complex_matrix_is_right():
    a = _random(3, 3, seed=1, dtype=C) * 4
    for value, expected in zip(phi_matrix(a, 3), _phi_of_matrix(a, 3)):
        assert abs(value.numpy() - expected).max() <= 1e-14 * abs(expected).max()


def test_phi_of_a_diagonal_matrix_is_phi_of_its_entries():
    z = torch.tensor([-1e6, -300.0, -1.0, 0.0, 1e-5, 2.0], dtype=D)
    for dense, entries in zip(phi_matrix(torch.diag(z), 4), phi(z, 4)):
        assert torch.allclose(dense, torch.diag(entries), rtol=1e-14, atol=2e-15)


def test_phi_zero_is_the_matrix_exponential_of_scipy():
    for seed in range(5):
        a = _random(6, 6, seed=seed)
        assert np.allclose(phi_matrix(a, 0)[0].numpy(), expm(a.numpy()), rtol=0, atol=1e-13)


def test_every_matrix_of_a_batch_is_treated_by_itself():
    batch = _random(4, 3, 3) * torch.tensor([1e-3, 1.0, 50.0, 1e5], dtype=D)[:, None, None]
    batch = batch - 3 * batch.abs().amax((1, 2), keepdim=True) * torch.eye(3, dtype=D)
    for together, alone in zip(phi_matrix(batch, 3), zip(*(phi_matrix(a, 3) for a in batch))):
        assert torch.allclose(together, torch.stack(alone), rtol=1e-14, atol=1e-16)


def test_phi_of_a_matrix_is_differentiable_twice_and_by_forward_mode():
    a = (3 * _random(2, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: phi_matrix(a, 3), (a,), atol=1e-8, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(
        lambda a: phi_matrix(a, 2)[2], (0.5 * a.detach()[0].requires_grad_(),), atol=1e-7
    )


def test_phi_of_a_matrix_that_is_not_finite_is_not_finite():
    for bad in (math.nan, math.inf):
        a = torch.eye(2, dtype=D)
        a[0, 1] = bad
        assert not bool(torch.isfinite(phi_matrix(a, 2)[1]).all())


# ---- coefficients


def test_a_combination_is_read_term_by_term():
    assert combination("phi1(1) - 3*phi2(1/2) + 1/2*phi2(1/2)") == {(1, 1): 1, (2, 0.5): -2.5}
    assert combination("-phi2(1)+4*phi3(1)") == {(2, 1): -1, (3, 1): 4}
    assert combination("0") == {}


@pytest.mark.parametrize("text", ["", "phi1", "phi1(z)", "1/2 phi1(1)", "phi1(1) phi2(1)", "phi9(1)", "exp(1)", "1"])
def test_another_notation_is_refused_with_an_example(text):
    with pytest.raises(BadInput):
        combination(text)


def _mutations(data):
    for j in range(len(data.c.split())):
        words = data.c.split()
        words[j] += "+0.000001"
        yield f"c[{j}]", {"c": " ".join(words)}
    rows = {("a", i): row for i, row in enumerate(data.a)} | {("b", 0): data.b, ("b_low", 0): data.b_low or ()}
    for (name, i), row in rows.items():
        for j, entry in enumerate(row):
            for k in (1, 2, 3):
                changed = entry + f" + 0.000001*phi{k}(1)" if entry != "0" else f"0.000001*phi{k}(1)"
                new = (*row[:j], changed, *row[j + 1 :])
                whole = (*data.a[:i], new, *data.a[i + 1 :]) if name == "a" else new
                yield f"{name}[{i}][{j}]", {name: whole}


@pytest.mark.parametrize("name", LIBRARY)
def test_every_coefficient_changed_by_a_millionth_is_refused(name):
    tried = 0
    for where, change in _mutations(LIBRARY[name]):
        tried += 1
        with pytest.raises((ClaimRefused, BadInput)):
            resolve(dataclasses.replace(LIBRARY[name], **change))
            pytest.fail(f"{name} with another {where} was accepted")
    assert tried >= 4


@pytest.mark.parametrize("name", LIBRARY)
def test_a_pair_of_coefficients_changed_against_each_other_is_refused(name):
    """Row sums stay as they are: the conditions of higher order have to see it."""
    data = LIBRARY[name]
    for row in range(1, len(data.b)):
        b = list(data.b)
        b[0], b[row] = f"{b[0]} - 0.000001*phi1(1)", f"{b[row]} + 0.000001*phi1(1)"
        with pytest.raises(ClaimRefused):
            resolve(dataclasses.replace(data, b=tuple(b)))


@pytest.mark.parametrize("name", LIBRARY)
def test_another_order_is_refused(name):
    for order in {1, 2, 3, 4} - {LIBRARY[name].order}:
        with pytest.raises(ClaimRefused):
            resolve(dataclasses.replace(LIBRARY[name], order=order))


def test_another_embedded_order_is_refused():
    for order_low in (1, 3):
        with pytest.raises(ClaimRefused, match="embedded"):
            resolve(dataclasses.replace(LIBRARY["exprb32"], order_low=order_low))


def test_malformed_data_says_what_is_wrong():
    with pytest.raises(BadInput, match="2 weights come with"):
        Exponential(c="0", a=((), ()), b=("phi1(1)", "0"), order=1)
    with pytest.raises(BadInput, match="rational"):
        Exponential(c="0 sqrt(2)", a=((), ("phi1(1)",)), b=("phi1(1)", "0"), order=1)
    with pytest.raises(BadInput, match="give both or neither"):
        Exponential(c="0", a=((),), b=("phi1(1)",), order=1, order_low=1)
    with pytest.raises(BadInput, match='"linear", or "jacobian"'):
        Exponential(c="0", a=((),), b=("phi1(1)",), order=1, about="nothing")


def test_the_coloured_trees_are_counted():
    """Vertices L with at most one child: 2, 4, 11 and 34 trees (a_n = 2 a_{n-1} + the bushy ones, listed by hand)."""
    assert [sum(len(colourings(t)) for t in trees(n)) for n in (1, 2, 3)] == [2, 4, 4 * 2 + 3]


def test_the_conditions_of_l_equal_zero_are_those_of_runge_kutta():
    """At z = 0 a method is a Runge-Kutta method: classical RK4 has order 4, with another weight it has not."""
    with pytest.raises(ClaimRefused, match="coloured"):
        data = LIBRARY["etdrk4"]
        resolve(dataclasses.replace(data, a=(*data.a[:2], ("1/2*phi1(1/2)", "0"), data.a[3])))


def test_the_stiff_orders_are_those_of_the_literature():
    orders = {name: data.stiff_order for name, data in LIBRARY.items()}
    assert orders == {
        "etd1": 1, "etd2rk": 2, "etdrk4": 2, "krogstad4": 3, "exp_rosenbrock2": 2, "exprb32": 3
    }  # fmt: skip


def test_etdrk4_has_the_coefficient_of_cox_and_matthews():
    """a_41 = phi_1(z/2) (e^(z/2) - 1) / 2, which the library writes as a difference."""
    z = torch.linspace(-20, 3, 50, dtype=D)
    half, whole = phi(z / 2, 1), phi(z, 1)
    assert torch.allclose(whole[1] - half[1], half[1] * (half[0] - 1) / 2, rtol=0, atol=1e-14)


# ---- steps written out


class Semilinear:
    """L y + N(t, y) with a diagonal or full L."""

    def __init__(self, matrix, nonlinear):
        self.matrix, self._nonlinear = matrix, nonlinear
        self.workspace = {}

    def linear(self):
        return self.matrix

    def nonlinear(self, t, y):
        return self._nonlinear(t, y)

    def __call__(self, t, y):
        apply = self.matrix * y if self.matrix.dim() == 1 else y @ self.matrix.T
        return apply + self._nonlinear(t, y)


def test_etdrk4_equals_the_step_of_kassam_and_trefethen_with_their_contour_integrals():
    n, h, t = 16, 0.25, 0.7
    k = torch.fft.fftfreq(n, 1 / n, dtype=D)
    linear = (k**2 - k**4 / 4).numpy()  # Kuramoto-Sivashinsky, short waves damped
    g = -0.5j * k

    def nonlinear(t, v):
        return g * torch.fft.fft(torch.fft.ifft(v).real ** 2) + 0.1 * math.sin(t)

    v = torch.fft.fft(torch.cos(torch.arange(n, dtype=D) * 2 * math.pi / n) * 2)
    roots = np.exp(1j * np.pi * (np.arange(1, 65) - 0.5) / 64)
    lr = h * linear[:, None] + roots[None, :]
    e, e2 = np.exp(h * linear), np.exp(h * linear / 2)
    q = h * np.mean((np.exp(lr / 2) - 1) / lr, 1).real
    f1 = h * np.mean((-4 - lr + np.exp(lr) * (4 - 3 * lr + lr**2)) / lr**3, 1).real
    f2 = h * np.mean((2 + lr + np.exp(lr) * (-2 + lr)) / lr**3, 1).real
    f3 = h * np.mean((-4 - 3 * lr - lr**2 + np.exp(lr) * (4 - lr)) / lr**3, 1).real
    e, e2, q, f1, f2, f3 = map(torch.as_tensor, (e, e2, q, f1, f2, f3))
    nv = nonlinear(t, v)
    a = e2 * v + q * nv
    na = nonlinear(t + h / 2, a)
    b = e2 * v + q * na
    nb = nonlinear(t + h / 2, b)
    c = e2 * a + q * (2 * nb - nv)
    nc = nonlinear(t + h, c)
    expected = e * v + nv * f1 + 2 * (na + nb) * f2 + nc * f3
    got = METHODS["etdrk4"].step(Semilinear(torch.as_tensor(linear), nonlinear), t, v, h, (), None)
    assert torch.allclose(got.y, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    assert torch.allclose(got.slopes[0], torch.as_tensor(linear) * v + nv, rtol=0, atol=1e-13)


def test_the_two_small_methods_are_the_formulas_of_cox_and_matthews():
    c, h, t = torch.tensor([-3.0, 1.5], dtype=D), 0.5, 0.3
    f = Semilinear(c, lambda t, y: torch.sin(y.flip(-1) + t))
    y = torch.tensor([0.4, -1.1], dtype=D)
    e, n = torch.exp(c * h), f.nonlinear(t, y)
    first = y * e + n * (e - 1) / c
    assert torch.allclose(METHODS["etd1"].step(f, t, y, h, (), None).y, first, rtol=0, atol=1e-15)
    second = first + (f.nonlinear(t + h, first) - n) * (e - 1 - h * c) / (h * c**2)
    assert torch.allclose(METHODS["etd2rk"].step(f, t, y, h, (), None).y, second, rtol=0, atol=1e-15)


def test_krogstads_method_is_its_formula_with_matrices():
    a = _random(3, 3, seed=2) - torch.eye(3, dtype=D)
    f, y, h, t = Semilinear(a, lambda t, y: torch.tanh(y.flip(-1)) * (1 + t)), _random(2, 3, seed=3), 0.5, 0.2
    inverse = torch.linalg.inv(h * a)
    one = torch.eye(3, dtype=D)

    def table(z, inv):
        p0 = torch.matrix_exp(z)
        p1 = (p0 - one) @ inv
        p2 = (p1 - one) @ inv
        return p0, p1, p2, (p2 - one / 2) @ inv

    (e, p1, p2, p3), (eh, q1, q2, _) = table(h * a, inverse), table(h * a / 2, 2 * inverse)
    on = lambda m, v: v @ m.T  # noqa: E731
    n1 = f.nonlinear(t, y)
    u2 = on(eh, y) + h * on(q1 / 2, n1)
    n2 = f.nonlinear(t + h / 2, u2)
    u3 = on(eh, y) + h * (on(q1 / 2 - q2, n1) + on(q2, n2))
    n3 = f.nonlinear(t + h / 2, u3)
    u4 = on(e, y) + h * (on(p1 - 2 * p2, n1) + on(2 * p2, n3))
    n4 = f.nonlinear(t + h, u4)
    ends = on(p1 - 3 * p2 + 4 * p3, n1) + on(2 * p2 - 4 * p3, n2 + n3) + on(4 * p3 - p2, n4)
    got = METHODS["krogstad4"].step(f, t, y, h, (), None).y
    assert torch.allclose(got, on(e, y) + h * ends, rtol=0, atol=1e-12)


def _phi_rows(z):
    """phi_0(z) ... phi_3(z), from an augmented exponential."""
    n = len(z)
    augmented = np.zeros((4 * n, 4 * n))
    augmented[:n, :n] = z
    for k in range(3):
        augmented[k * n : (k + 1) * n, (k + 1) * n : (k + 2) * n] = np.eye(n)
    return np.split(expm(augmented)[:n], 4, axis=1)


def _exponential_rosenbrock(f, jacobian, rate, t, y, h, c=1.0):
    """The method with b_2 = 2 phi_3 / c^2 and its embedded one, for a system with the last component t."""
    n = len(y)
    j = np.zeros((n + 1, n + 1))
    j[:n, :n], j[:n, n] = jacobian(t, y), rate(t, y)
    u = np.append(y, t)
    big = lambda u: np.append(f(u[n], u[:n]), 1.0)  # noqa: E731
    _, p1, _, p3 = _phi_rows(h * j)
    low = u + h * p1 @ big(u)
    stage = u + c * h * _phi_rows(c * h * j)[1] @ big(u)
    defect = (big(stage) - j @ stage) - (big(u) - j @ u)
    return (low + 2 / c**2 * h * p3 @ defect)[:n], low[:n]


def test_exponential_rosenbrock_steps_are_those_of_the_system_with_time_appended():
    def f(t, y):
        return np.array([y[1], (1 - y[0] ** 2) * y[1] - y[0] + np.sin(3 * t)])

    def jacobian(t, y):
        return np.array([[0, 1], [-2 * y[0] * y[1] - 1, 1 - y[0] ** 2]])

    def g(t, y):
        return torch.stack((y[1], (1 - y[0] ** 2) * y[1] - y[0] + torch.sin(3 * torch.as_tensor(t, dtype=D))))

    y, t, h = np.array([1.2, -0.4]), 0.3, 0.4
    rate = lambda t, y: np.array([0, 3 * np.cos(3 * t)])  # noqa: E731
    high, low = _exponential_rosenbrock(f, jacobian, rate, t, y, h)
    got = METHODS["exprb32"].step(g, t, torch.tensor(y), h, (), None)
    assert np.allclose(got.y.numpy(), high, rtol=0, atol=1e-14)
    assert np.allclose(got.error.numpy(), high - low, rtol=0, atol=1e-14)
    assert np.allclose(METHODS["exp_rosenbrock2"].step(g, t, torch.tensor(y), h, (), None).y, low, rtol=0, atol=1e-14)
    half = Exponential(
        c="0 1/2",
        a=((), ("1/2*phi1(1/2)",)),
        b=("phi1(1) - 8*phi3(1)", "8*phi3(1)"),
        order=3,
        about="jacobian",
    )
    high, _ = _exponential_rosenbrock(f, jacobian, rate, t, y, h, c=0.5)
    assert np.allclose(resolve(half).step(g, t, torch.tensor(y), h, (), None).y, high, rtol=0, atol=1e-14)


# ---- orders


def test_the_problem_of_the_order_check_has_the_solution_it_claims():
    problem, t, d = ForcedReaction(), 0.37, 1e-5
    slope = (problem.exact(t + d) - problem.exact(t - d)) / (2 * d)
    y = problem.exact(t)
    assert torch.allclose(problem(t, y), slope, rtol=0, atol=1e-9)
    assert torch.allclose(problem(t, y), y @ problem.linear().T + problem.nonlinear(t, y), rtol=0, atol=1e-15)
    columns = torch.autograd.functional.jacobian(lambda y: problem(t, y).sum(0), y).movedim(1, 0)
    assert torch.allclose(problem.jacobian(t, y), columns, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_observed_order_is_the_stated_one(name):
    method = METHODS[name]
    assert observed_order(method, ForcedReaction(), finest=32) == pytest.approx(method.order, abs=0.1)


@pytest.mark.parametrize("name", ABOUT_JACOBIAN)
def test_exponential_rosenbrock_methods_need_no_linear_part(name):
    assert observed_order(METHODS[name], ForcedPair(), finest=16) == pytest.approx(METHODS[name].order, abs=0.2)


class Heat:
    """u_t = u_xx + 1 / (1 + u^2) + r with u = x (1 - x) e^t on the grid (Hochbruck & Ostermann 2005, example 6.1)."""

    def __init__(self, n=64):
        self.x = torch.arange(1, n, dtype=D) / n
        second = (torch.diag(torch.ones(n - 2, dtype=D), 1) - torch.eye(n - 1, dtype=D)) * n * n
        self.matrix, self.workspace = second + second.T, {}

    def exact(self, t):
        return self.x * (1 - self.x) * math.exp(t)

    def linear(self):
        return self.matrix

    def nonlinear(self, t, u):
        known = self.exact(t)
        return 1 / (1 + u**2) - 1 / (1 + known**2) + known - known @ self.matrix


def test_boundaries_reduce_the_order_of_etdrk4_below_that_of_krogstad():
    f, orders, errors = Heat(), {}, {}
    for name in ABOUT_LINEAR:
        ends = [march(METHODS[name], f, f.exact(0.0), steps=s, h=1 / s)[-1] for s in (16, 32)]
        errors[name] = [float((u - f.exact(1.0)).square().mean()) ** 0.5 for u in ends]
        orders[name] = math.log2(errors[name][0] / errors[name][1])
    assert orders["etd1"] == pytest.approx(1, abs=0.1)
    assert orders["etd2rk"] == pytest.approx(2, abs=0.15)
    assert 2 < orders["etdrk4"] < 3.5
    assert orders["krogstad4"] > orders["etdrk4"]
    assert errors["krogstad4"][1] < errors["etdrk4"][1]


# ---- what is linear is exact


def _laplacian(n):
    return (torch.diag(torch.ones(n - 1, dtype=D), 1) + torch.diag(torch.ones(n - 1, dtype=D), -1)
            - 2 * torch.eye(n, dtype=D)) * (n + 1) ** 2  # fmt: skip


@pytest.mark.parametrize("h", [1e-3, 0.1, 2.0, -1e-4])
@pytest.mark.parametrize("name", LIBRARY)
def test_a_linear_system_is_solved_exactly_at_any_step_size(name, h):
    a = _laplacian(12) + _random(12, 12)
    y = _random(2, 12, seed=1)
    expected = y.numpy() @ expm(h * a.numpy()).T
    got = METHODS[name].step(Semilinear(a, lambda t, y: torch.zeros_like(y)), 0.0, y, h, (), None).y
    assert np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-13)


def test_a_constant_and_a_linear_source_are_exact_with_a_singular_matrix():
    """y' = A y + p + q t is exact for methods with phi_2: etd2rk and higher, and by df/dt for Rosenbrock's."""
    a = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=D)
    p, q = torch.tensor([0.5, -1.0], dtype=D), torch.tensor([2.0, 3.0], dtype=D)
    y, h = torch.tensor([1.0, 2.0], dtype=D), 0.7
    # second component 2 - t + 3 t^2 / 2, first its integral with 0.5 + 2 t
    exact = torch.tensor([1 + 2.5 * h + 0.5 * h**2 + 0.5 * h**3, 2 - h + 1.5 * h**2], dtype=D)
    for name in set(LIBRARY) - {"etd1"}:
        got = METHODS[name].step(Semilinear(a, lambda t, y: p + q * t), 0.0, y, h, (), None).y
        assert torch.allclose(got, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", LIBRARY)
def test_an_equilibrium_is_kept_to_the_last_bit(name):
    a = torch.tensor([1e4, 3.0], dtype=D)
    f = Semilinear(torch.diag(-a), lambda t, y: 2 * a / (1 + y))
    y = torch.ones(1, 2, dtype=D)
    assert torch.equal(march(METHODS[name], f, y, steps=5, h=0.5)[-1], y)


def test_the_amplification_is_the_exponential():
    z = torch.tensor([[-1e5, -2 + 3j], [1j, 0.5]], dtype=C)
    for method in METHODS.values():
        assert torch.allclose(method.amplification(z), torch.exp(z), rtol=1e-14, atol=1e-15)
        assert method.facts.real_interval == method.facts.imag_interval == math.inf
        assert method.needs == ({"linear"} if method.method.about == "linear" else frozenset())


def test_the_amplification_with_a_nonlinear_part_is_that_of_the_formulas():
    """y' = w y + z y, w exactly: e^w + z phi_1(w) for etd1, the Runge-Kutta polynomials at w = 0."""
    z, w = torch.tensor([-0.3, 0.2 + 1j, -1.5j], dtype=C), torch.tensor([-2.0, -1 + 3j, -1e5], dtype=C)
    etd1 = torch.exp(w) + z * torch.expm1(w) / w
    assert torch.allclose(METHODS["etd1"].amplification(z, z_implicit=w), etd1, rtol=1e-13, atol=1e-15)
    for name, order in {"etd1": 1, "etd2rk": 2, "etdrk4": 4, "krogstad4": 4}.items():
        polynomial = sum(z**k / math.factorial(k) for k in range(order + 1))
        assert torch.allclose(METHODS[name].amplification(z, z_implicit=0 * z), polynomial, rtol=1e-14, atol=0)


# ---- partial differential equations


def test_allen_cahn_agrees_with_radau():
    n = 31
    a = 1e-2 * _laplacian(n)
    x = torch.arange(1, n + 1, dtype=D) / (n + 1)
    y = 0.6 * torch.sin(math.pi * x) + 0.3 * torch.sin(5 * math.pi * x)
    fun = lambda t, u: a.numpy() @ u + u - u**3  # noqa: E731
    jac = lambda t, u: a.numpy() + np.diag(1 - 3 * u**2)  # noqa: E731
    reference = solve_ivp(fun, (0, 1), y.numpy(), method="Radau", rtol=1e-11, atol=1e-12, jac=jac).y[:, -1]
    f = Semilinear(a, lambda t, u: u - u**3)
    bounds = {"etd1": 1e-2, "etd2rk": 1e-4, "etdrk4": 1e-7, "krogstad4": 1e-7}
    for name, bound in bounds.items():
        got = march(METHODS[name], f, y, steps=40, h=1 / 40)[-1].numpy()
        assert abs(got - reference).max() < bound
    for name, bound in {"exp_rosenbrock2": 1e-4, "exprb32": 2e-6}.items():
        got = march(METHODS[name], f, y, steps=40, h=1 / 40)[-1].numpy()
        assert abs(got - reference).max() < bound


def test_burgers_in_fourier_space_agrees_with_an_explicit_method_of_high_order():
    n, nu = 32, 0.05
    k = torch.fft.fftfreq(n, 1 / n, dtype=D)

    def nonlinear(t, v):
        return -0.5j * k * torch.fft.fft(torch.fft.ifft(v).real ** 2)

    def whole(t, v):
        z = torch.as_tensor(v[:n] + 1j * v[n:])
        w = (-nu * k**2 * z + nonlinear(t, z)).numpy()
        return np.concatenate((w.real, w.imag))

    v = torch.fft.fft(torch.sin(2 * math.pi * torch.arange(n, dtype=D) / n) + 0.5)
    reference = solve_ivp(whole, (0, 1), np.concatenate((v.real, v.imag)), method="DOP853", rtol=1e-11, atol=1e-11).y
    expected = torch.as_tensor(reference[:n, -1] + 1j * reference[n:, -1])
    for name in ("etdrk4", "krogstad4"):
        got = march(METHODS[name], Semilinear(-nu * k**2, nonlinear), v, steps=100, h=1 / 100)[-1]
        assert float((got - expected).abs().max()) < 1e-6 * n


def test_exprb32_in_adaptive_steps_solves_van_der_pol_like_radau():
    mu = 30.0
    fun = lambda t, y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]  # noqa: E731

    class VanDerPol:
        def __call__(self, t, y):
            return torch.stack((y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]))

        def jacobian(self, t, y):
            rows = (0.0, 1.0), (-2 * mu * float(y[0] * y[1]) - 1, mu * (1 - float(y[0]) ** 2))
            return torch.tensor(rows, dtype=D)

    end, t, h, y, steps = 10.0, 0.0, 1e-3, torch.tensor([2.0, 0.0], dtype=D), 0
    reference = solve_ivp(fun, (0, end), y.numpy(), method="Radau", rtol=1e-11, atol=1e-12).y[:, -1]
    method, control = METHODS["exprb32"], Controller(1e-6, 1e-8)
    while t < end:
        step = method.step(VanDerPol(), t, y, min(h, end - t), (), None)
        err = float(control.error_norm(step.error, y, step.y))
        if err <= 1:
            t, y = t + min(h, end - t), step.y
        h, steps = h * control.factor(err, None, method.facts.order_low + 1), steps + 1
    assert np.allclose(y.numpy(), reference, rtol=1e-6, atol=1e-8)
    assert steps < 300


# ---- derivatives


def _reaction(matrix, gain):
    return Semilinear(matrix, lambda t, y: torch.tanh(gain * y.flip(-1)) * (1 + t) - y**3)


KINDS = [(n, "dense") for n in LIBRARY] + [(n, "diagonal") for n in ABOUT_LINEAR]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_step_is_differentiated_exactly_also_by_its_linear_part(name, kind):
    y, gain = _random(2, 2, seed=4).requires_grad_(), torch.tensor(1.3, dtype=D, requires_grad=True)
    matrix = (2 * _random(2, seed=5) if kind == "diagonal" else _random(2, 2, seed=5)).requires_grad_()
    h = torch.tensor([[0.3], [0.2]], dtype=D, requires_grad=True)

    def step(y, matrix, gain, h):
        out = METHODS[name].step(_reaction(matrix, gain), 0.1, y, h, (), None)
        return out.y if out.error is None else (out.y, out.error)

    assert torch.autograd.gradcheck(step, (y, matrix, gain, h), eps=1e-5, atol=1e-8, rtol=1e-7)
    fixed = lambda y: step(y, matrix.detach(), gain.detach(), 0.3)  # noqa: E731
    assert torch.autograd.gradgradcheck(fixed, (y,), eps=1e-5, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", LIBRARY)
def test_torch_func_gives_the_derivatives_of_autograd_although_functions_are_kept(name):
    y, matrix = _random(2, 3, seed=4), _random(3, 3, seed=5)
    workspace = {}

    def step(y, matrix):
        f = _reaction(matrix, 1.3)
        f.workspace = workspace
        return METHODS[name].step(f, 0.1, y, 0.3, (), None).y

    step(y, matrix)  # keeps the functions of h L
    dense = torch.autograd.functional.jacobian(step, (y, matrix))
    v, u = _random(2, 3, seed=6), _random(3, 3, seed=7)
    pushed = torch.func.jvp(step, (y, matrix), (v, u))[1]
    expected = torch.tensordot(dense[0], v, 2) + torch.tensordot(dense[1], u, 2)
    assert float(torch.tensordot(dense[1], u, 2).abs().max()) > 1e-3
    assert torch.allclose(pushed, expected, rtol=0, atol=1e-13)
    pulled = torch.func.vjp(step, y, matrix)[1](v)
    assert torch.allclose(pulled[1], torch.tensordot(v, dense[1], 2), rtol=0, atol=1e-13)
    assert torch.equal(step(y, matrix), step(y, matrix.clone()))
    if name in ABOUT_LINEAR:
        assert len(workspace["phi"]) == 1


def test_the_functions_of_h_l_are_kept_while_h_and_l_are_the_same(monkeypatch):
    import odenet.integrators.exponential as module

    made = []
    monkeypatch.setattr(module, "phi_matrix", lambda *args: made.append(args) or phi_matrix(*args))
    f, y, method = _reaction(_random(3, 3), 1.0), _random(2, 3), METHODS["etdrk4"]
    first = method.step(f, 0.0, y, 0.1, (), None).y
    assert len(made) == 2  # at z/2 and at z
    assert torch.equal(method.step(f, 0.0, y, 0.1, (), None).y, first)
    assert len(made) == 2
    method.step(f, 0.0, y, 0.2, (), None)
    assert len(made) == 4
    f.matrix.mul_(0.5)  # an optimiser changes weights in place
    changed = method.step(f, 0.0, y, 0.1, (), None).y
    assert len(made) == 6
    assert torch.equal(changed, method.step(_reaction(f.matrix, 1.0), 0.0, y, 0.1, (), None).y)
    for n in range(20):
        method.step(f, 0.0, y, 0.1 + n * 1e-3, (), None)
    assert len(f.workspace["phi"]) <= 8


# ---- shapes, dtypes, batches


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_one_step_size_per_sample_equals_the_loop_over_samples(name, kind):
    f = _reaction(torch.tensor([-40.0, -1.0, 2.0], dtype=D) if kind == "diagonal" else 5 * _random(3, 3), 1.0)
    y, h = _random(3, 3, seed=8), torch.tensor([[0.1], [-0.05], [0.3]], dtype=D)
    t = torch.tensor([[0.0], [0.2], [1.0]], dtype=D)
    together = METHODS[name].step(f, t, y, h, (), None)
    for i in range(3):
        alone = METHODS[name].step(f, float(t[i]), y[i : i + 1], float(h[i]), (), None)
        assert torch.allclose(together.y[i : i + 1], alone.y, rtol=0, atol=1e-14)
        if together.error is not None:
            assert torch.allclose(together.error[i : i + 1], alone.error, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ABOUT_LINEAR)
def test_the_linear_part_acts_on_the_last_axis_of_a_state_of_any_shape(name):
    f, y = _reaction(_random(3, 3), 1.0), _random(2, 4, 3)
    whole = METHODS[name].step(f, 0.1, y, 0.3, (), None).y
    rows = torch.stack([METHODS[name].step(f, 0.1, row, 0.3, (), None).y for row in y.reshape(8, 3)])
    assert torch.allclose(whole, rows.reshape(2, 4, 3), rtol=0, atol=1e-15)
    sizes = METHODS[name].step(f, 0.1, y, torch.full((2, 1, 1), 0.3, dtype=D), (), None).y
    assert torch.allclose(sizes, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ABOUT_JACOBIAN)
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_complex_state_is_stepped_as_its_real_and_imaginary_parts(name, shape):
    f = lambda t, y: 1j * (y - y.abs() ** 2 * y) * (1 + t)  # noqa: E731

    def real(t, x):
        return torch.view_as_real(f(t, torch.view_as_complex(x.reshape(*shape, 2)))).reshape(x.shape)

    y = _random(*shape, dtype=C)
    got = METHODS[name].step(f, 0.1, y, 0.2, (), None).y
    expected = METHODS[name].step(real, 0.1, torch.view_as_real(y).reshape(1, -1), 0.2, (), None).y
    assert torch.allclose(torch.view_as_real(got).reshape(1, -1), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ABOUT_LINEAR)
def test_the_focusing_schroedinger_equation_keeps_its_plane_wave(name):
    """i psi_t + psi_xx / 2 + |psi|^2 psi = 0 with psi = a e^(i (k x - (k^2/2 - a^2) t)), in Fourier space."""
    n, a, k0 = 16, 0.8, 2
    k = torch.fft.fftfreq(n, 1 / n, dtype=D)
    x = 2 * math.pi * torch.arange(n, dtype=D) / n

    def nonlinear(t, v):
        psi = torch.fft.ifft(v)
        return torch.fft.fft(1j * psi.abs() ** 2 * psi)

    y = torch.fft.fft(a * torch.exp(1j * k0 * x))
    exact = y * np.exp(-1j * (k0**2 / 2 - a**2))
    got = march(METHODS[name], Semilinear(-0.5j * k**2, nonlinear), y, steps=200, h=1 / 200)[-1]
    bound = {"etd1": 0.2, "etd2rk": 1e-3}.get(name, 1e-8)
    assert float((got - exact).abs().max()) < bound


@pytest.mark.parametrize("name", LIBRARY)
def test_float32_stays_float32_and_agrees_with_float64(name):
    y, matrix = _random(2, 3), _random(3, 3)
    wide = METHODS[name].step(_reaction(matrix, 1.0), 0.1, y, 0.2, (), None).y
    narrow = METHODS[name].step(_reaction(matrix.float(), 1.0), 0.1, y.float(), 0.2, (), None)
    assert narrow.y.dtype == torch.float32
    assert torch.allclose(narrow.y.double(), wide, rtol=1e-5, atol=1e-5)
    if name in ABOUT_LINEAR:  # a matrix of higher precision does not change that of the state
        f = Semilinear(matrix, lambda t, y: -(y**3))
        sizes = torch.full((2, 1), 0.2, dtype=D)
        assert METHODS[name].step(f, 0.1, y.float(), sizes, (), None).y.dtype == torch.float32


def test_a_jacobian_of_coupled_samples_is_one_matrix():
    coupled = lambda t, y: y.mean(0, keepdim=True) - y**3  # noqa: E731
    y, method = start(3), METHODS["exprb32"]
    whole = method.step(coupled, 0.0, y, 0.2, (), None).y
    flat = method.step(lambda t, v: coupled(t, v.reshape(3, 4)).flatten(), 0.0, y.flatten(), 0.2, (), None).y
    assert torch.allclose(whole.flatten(), flat, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ABOUT_JACOBIAN)
def test_a_negative_step_undoes_a_step_up_to_its_error(name):
    f, y = Wave(), start(3)
    there = METHODS[name].step(f, 0.0, y, 1e-3, (), None).y
    back = METHODS[name].step(f, 1e-3, there, -1e-3, (), None).y
    assert torch.allclose(back, y, rtol=0, atol=1e-8)


# ---- what does not fit


def test_a_linear_part_that_does_not_fit_says_so():
    zero = lambda t, y: torch.zeros_like(y)  # noqa: E731
    y = torch.ones(2, 3, dtype=D)
    for shape in ((2,), (2, 2), (3, 2), (2, 3, 3)):
        with pytest.raises(Incompatible, match="last axis of the state, of width 3"):
            METHODS["etd1"].step(Semilinear(torch.ones(shape, dtype=D), zero), 0.0, y, H, (), None)
    with pytest.raises(Incompatible, match="complex y0"):
        METHODS["etd1"].step(Semilinear(torch.ones(3, dtype=C), zero), 0.0, y, H, (), None)


def test_numbers_that_are_not_finite_are_returned():
    y = torch.tensor([1.0, math.inf], dtype=D)
    for name in LIBRARY:
        f = Semilinear(torch.tensor([-1.0, -2.0], dtype=D), lambda t, y: y * y)
        assert not bool(torch.isfinite(METHODS[name].step(f, 0.0, y, 0.1, (), None).y).all())
