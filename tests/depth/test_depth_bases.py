"""Splines, global bases and pieces in depth, against scipy, numpy and closed forms; and the order they leave alone."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

import odenet as on
from odenet.depth import BASES, DEPTHS, Depth, Galerkin, PiecewiseConstant, PiecewiseLinear, Spline, resolve
from odenet.errors import BadInput

KNOTS = tuple(0.5 * n - 1.0 for n in range(7))  # six intervals of [-1, 2]
PLACES = (-1.0, -0.77, 0.0, 0.3, 0.5, 1.2, 1.999, 2.0)
SMOOTH: list[Depth] = [*(Spline(p) for p in (1, 2, 3, 4, 5)), *(Galerkin(name, 4) for name in BASES)]
ALL: list[Depth] = [*SMOOTH, PiecewiseConstant(3)]
pytestmark = pytest.mark.usefixtures("double")


def named(depth: object) -> str:
    return repr(depth).replace("'", "")


# ---- values


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_a_spline_in_depth_is_scipys_b_spline_on_equidistant_knots(degree: int) -> None:
    c, h = torch.randn(6 + degree, 2, 3), 0.5
    knots = KNOTS[0] + h * np.arange(-degree, 7 + degree)
    reference = BSpline(knots, c.numpy(), degree)
    for t in PLACES:
        wanted = reference(t) if t < 2.0 else reference(np.nextafter(2.0, 0.0))
        np.testing.assert_allclose(Spline(degree).at(c, t, KNOTS).numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_b_splines_sum_to_one_are_local_and_join_smoothly(degree: int) -> None:
    spline = Spline(degree)
    assert spline.count(6) == 6 + degree and spline.support(2, 6) == tuple(range(2, 3 + degree))
    for s in (0.0, 0.1, 0.5, 1.0):
        assert sum(spline.basis(s, 2, 6)) == pytest.approx(1.0, abs=1e-14)
        assert min(spline.basis(s, 2, 6)) >= 0.0
    c, e = torch.randn(6 + degree), 1e-3
    for order in range(degree):  # derivatives below the degree agree on both sides of a knot
        weights = [(-1) ** (order - k) * math.comb(order, k) for k in range(order + 1)]
        left = sum(w * spline.at(c, 0.5 - (order - k) * e, KNOTS) for k, w in enumerate(weights)) / e**order
        right = sum(w * spline.at(c, 0.5 + k * e, KNOTS) for k, w in enumerate(weights)) / e**order
        assert float(left - right) == pytest.approx(0.0, abs=40 * order * e / 0.5 ** (order + 1) + 1e-9)


def test_a_spline_of_degree_one_is_piecewise_linear() -> None:
    c = torch.randn(7, 2)
    for t in PLACES:
        torch.testing.assert_close(Spline(1).at(c, t, KNOTS), PiecewiseLinear().at(c, t, KNOTS))


@pytest.mark.parametrize(
    ("family", "value"),
    [
        ("chebyshev", lambda c, x: np.polynomial.chebyshev.chebval(2 * x - 1, c)),
        ("legendre", lambda c, x: np.polynomial.legendre.legval(2 * x - 1, c)),
        ("polynomial", lambda c, x: np.polynomial.polynomial.polyval(2 * x - 1, c)),
        ("fourier", lambda c, x: sum(c[k] * wave(2 * math.pi * math.ceil(k / 2) * x)
                                     for k, wave in enumerate([math.cos] + [math.cos, math.sin] * 3) if k < len(c))),
        ("rbf", lambda c, x: np.average(c, weights=np.exp(-(((x - np.linspace(0, 1, len(c))) * (len(c) - 1)) ** 2)))),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_global_basis_is_the_one_it_names_over_the_span(family: str, value, size: int) -> None:
    c = torch.randn(size)
    for t in PLACES:
        wanted = value(c.numpy(), (t + 1.0) / 3.0)
        assert float(Galerkin(family, size).at(c, t, KNOTS)) == pytest.approx(float(wanted), abs=1e-13)


def test_pieces_are_equal_stretches_of_the_span() -> None:
    c, depth = torch.randn(3, 2), PiecewiseConstant(3)
    for n in range(6):
        assert torch.equal(depth.at(c, KNOTS[n] + 0.2, KNOTS), c[n // 2])
    assert torch.equal(depth.at(c, 0.0, KNOTS, "left"), c[0]) and torch.equal(depth.at(c, 0.0, KNOTS, "right"), c[1])
    with pytest.raises(BadInput, match=r"4 knot intervals cannot be shared out over 3 equal pieces; .* such as 6"):
        depth.count(4)


# ---- levels, mass matrices, penalties


@pytest.mark.parametrize("depth", ALL, ids=named)
def test_prolongation_keeps_theta_and_restriction_undoes_it(depth: Depth) -> None:
    c = torch.randn(depth.count(6), 3, 2)
    fine, knots = depth.prolong(c), tuple(-1.0 + 0.25 * n for n in range(13))
    assert fine.shape[0] == depth.count(12)
    for t in PLACES:
        torch.testing.assert_close(depth.at(fine, t, knots), depth.at(c, t, KNOTS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(depth.restrict(fine), c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degree", [2, 3])
def test_restriction_of_a_spline_is_the_nearest_one_in_l2(degree: int) -> None:
    spline, c = Spline(degree), torch.randn(8 + degree, 1)
    coarse = spline.restrict(c)
    t = np.linspace(0.0, 2.0, 4001)
    fine = BSpline(0.25 * np.arange(-degree, 9 + degree), c[:, 0].numpy(), degree)(t)
    columns = [BSpline(0.5 * np.arange(-degree, 5 + degree), e, degree)(t) for e in np.eye(4 + degree)]
    gap = np.stack(columns, 1) @ coarse[:, 0].numpy() - fine
    inner = np.trapezoid(np.stack(columns) * gap, t, axis=1)
    np.testing.assert_allclose(inner, 0.0, atol=1e-6)
    with pytest.raises(BadInput, match="even number"):
        spline.restrict(torch.randn(5 + degree, 1))


def simpson(f, a: float, b: float, panels: int = 400) -> torch.Tensor:
    """Composite Simpson rule, written out."""
    x = np.linspace(a, b, 2 * panels + 1)
    weights = np.where(np.arange(len(x)) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1.0
    return sum(w * f(float(t)) for w, t in zip(weights, x)) * (b - a) / (6 * panels)  # type: ignore[return-value]


@pytest.mark.parametrize("depth", ALL, ids=named)
def test_the_mass_matrix_holds_the_integrals_of_products(depth: Depth) -> None:
    eye = torch.eye(depth.count(6))

    def product(t: float) -> torch.Tensor:
        values = depth.at(eye, min(max(t, -1.0), 2.0), KNOTS)
        return torch.outer(values, values)

    wanted = sum(
        simpson(lambda t, n=n: product(t), a + 1e-12, b - 1e-12, 20) for n, (a, b) in enumerate(pairwise(KNOTS))
    )
    torch.testing.assert_close(depth.gram(KNOTS), wanted, rtol=1e-5, atol=1e-7)


def test_mass_matrices_are_the_textbook_ones() -> None:
    legendre = torch.diag(torch.tensor([3.0 / (2 * k + 1) for k in range(5)]))  # span of length 3
    torch.testing.assert_close(Galerkin("legendre", 5).gram(KNOTS), legendre)
    fourier = torch.diag(torch.tensor([3.0, *[1.5] * 6]))
    torch.testing.assert_close(Galerkin("fourier", 7).gram(KNOTS), fourier)
    torch.testing.assert_close(Galerkin("fourier", 7).gram([0.0, 3.0]), fourier)  # one interval over all waves
    torch.testing.assert_close(PiecewiseConstant(3).gram(KNOTS), torch.eye(3))
    middle = Spline(3).gram([float(n) for n in range(13)])[6, 3:10]  # integrals of products of cubic B-splines
    torch.testing.assert_close(middle, torch.tensor([1.0, 120.0, 1191.0, 2416.0, 1191.0, 120.0, 1.0]) / 5040)


@pytest.mark.parametrize("depth", SMOOTH, ids=named)
def test_penalties_are_the_integrals_they_name(depth: Depth) -> None:
    c, e = torch.randn(depth.count(6), 2), 1e-5

    def slope(t: float) -> torch.Tensor:
        t = min(max(t, KNOTS[0] + e), KNOTS[-1] - e)
        return (depth.at(c, t + e, KNOTS) - depth.at(c, t - e, KNOTS)) / (2 * e)

    def over(f) -> float:
        return float(sum(simpson(f, a + 2e-5, b - 2e-5, 20) for a, b in pairwise(KNOTS)))

    h1 = over(lambda t: 0.5 * slope(t).square().sum())
    assert float(depth.penalty(c, "h1", KNOTS)) == pytest.approx(h1, rel=2e-3)
    assert float(depth.penalty(c, "h1_unscaled", KNOTS)) == pytest.approx(0.25 * h1, rel=2e-3)
    size = over(lambda t: 0.5 * depth.at(c, t, KNOTS).square().sum())
    assert float(depth.penalty(c, "l2", KNOTS)) == pytest.approx(size, rel=1e-3)
    tv = over(lambda t: torch.sqrt(slope(t).square() + 1e-3).sum())
    assert float(depth.penalty(c, "tv", KNOTS)) == pytest.approx(tv, rel=2e-2)  # a kink where the slope changes sign


def test_penalties_of_pieces_are_differences_over_their_length() -> None:
    c, depth = torch.randn(3, 2), PiecewiseConstant(3)
    jumps = float((c[1:] - c[:-1]).square().sum())
    assert float(depth.penalty(c, "h1", KNOTS)) == pytest.approx(jumps / 2)  # pieces of length 1
    assert float(depth.penalty(c, "l2", KNOTS)) == pytest.approx(float(c.square().sum()) / 2)


@pytest.mark.parametrize("depth", ALL, ids=named)
def test_initial_coefficients_of_equal_draws_are_a_constant_theta(depth: Depth) -> None:
    value = torch.randn(2, 2)
    c = depth.through(value.expand(depth.count(6), 2, 2))
    for t in PLACES:
        torch.testing.assert_close(depth.at(c, t, KNOTS), value, rtol=1e-12, atol=1e-12)
    flow = on.Flow(on.fields.Free(3, norm="batch"), depth=depth, steps=6)
    torch.testing.assert_close(flow.depths["scale"].at(flow.weights["scale"], 0.3, flow.knots), torch.ones(3))


# ---- in flows


@torch.no_grad()
@pytest.mark.parametrize("depth", ["spline", "spline:2", *BASES])
def test_rk4_keeps_its_order_over_smooth_weights(depth: str) -> None:
    flow = on.Flow(on.fields.Free(3), "rk4", depth=depth, steps=2, span=(0.0, 4.0), seed=3)
    y = torch.randn(5, 3)
    exact = flow.with_integrator("rk4", steps=1024)(y)
    errors = [float((flow.with_integrator("rk4", steps=m)(y) - exact).norm()) for m in (96, 192)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("depth", [Spline(3), Galerkin("chebyshev", 5), Galerkin("fourier", 3)], ids=named)
def test_a_flow_is_classical_runge_kutta_on_scipys_and_numpys_weights(depth: Depth) -> None:
    flow = on.Flow(on.fields.Free(2), "rk4", depth=depth, steps=4, span=(0.0, 2.0), seed=1)
    K, b = (flow.weights[k].detach().numpy() for k in ("K", "b"))

    def at(c: np.ndarray, t: float) -> np.ndarray:
        if isinstance(depth, Spline):
            return BSpline(0.5 * np.arange(-3, 8), c, 3)(min(t, np.nextafter(2.0, 0.0)))
        if depth.family == "chebyshev":
            return np.polynomial.chebyshev.chebval(t - 1.0, c)
        return c[0] + c[1] * math.cos(math.pi * t) + c[2] * math.sin(math.pi * t)

    def f(t: float, y: np.ndarray) -> np.ndarray:
        return np.tanh(y @ at(K, t).T + at(b, t))

    y = start = np.random.default_rng(0).normal(size=(3, 2))
    for n in range(4):
        t, h = 0.5 * n, 0.5
        k1 = f(t, y)
        k2 = f(t + h / 2, y + h / 2 * k1)
        k3 = f(t + h / 2, y + h / 2 * k2)
        k4 = f(t + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(flow(torch.from_numpy(start)).detach().numpy(), y, atol=1e-12)


@torch.no_grad()
def test_rk4_over_misaligned_linear_weights_falls_to_second_order() -> None:
    """Steps that cross the knots, the weights looked up by hand: kinks inside steps cost two orders."""
    flow = on.Flow(on.fields.Free(3), "rk4", depth="piecewise_linear", steps=5, seed=3)
    K, b, y = flow.weights["K"], flow.weights["b"], torch.randn(5, 3)
    exact = flow.with_integrator("rk4", steps=1280)(y)

    def f(t: float, y: torch.Tensor) -> torch.Tensor:
        n = min(int(5 * t), 4)
        s = 5 * t - n
        return torch.tanh(y @ ((1 - s) * K[n] + s * K[n + 1]).T + (1 - s) * b[n] + s * b[n + 1])

    def run(steps: int) -> float:
        h, x = 1.0 / steps, y
        for i in range(steps):
            t = i * h
            k1 = f(t, x)
            k2 = f(t + h / 2, x + h / 2 * k1)
            k3 = f(t + h / 2, x + h / 2 * k2)
            k4 = f(t + h, x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return float((x - exact).norm())

    crossing = [run(m) for m in (16, 64, 256)]  # no power of two meets the knots k/5
    assert math.log(crossing[0] / crossing[2], 16) == pytest.approx(2, abs=0.3)
    assert run(80) < 1e-2 * run(64)  # steps that end on the knots


@pytest.mark.parametrize("gradient", ["checkpoint", "discrete", "reversible"])
@pytest.mark.parametrize("depth", ["spline", "chebyshev", "rbf", "piecewise_constant:2"])
def test_gradients_of_all_methods_are_those_of_autograd(gradient: str, depth: str, recomputed: None) -> None:
    found = []
    for method in ("autograd", gradient):
        field = on.fields.SeparableHamiltonian(4)
        flow = on.Flow(field, "verlet", depth=depth, steps=4, gradient=method, seed=1)
        y = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
        flow(y).square().sum().backward()
        found.append([y.grad, *(p.grad for p in flow.parameters())])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("depth", ["spline", "fourier"])
def test_gradients_are_those_of_finite_differences(depth: str) -> None:
    flow = on.Flow(on.fields.Free(2), "rk4", depth=depth, steps=3, seed=1)
    y, e = torch.randn(3, 2), 1e-6
    flow(y).square().sum().backward()
    c = flow.weights["K"]
    for index in ((0, 0, 1), (1, 1, 0), (len(c) - 1, 1, 1)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                c[index] += sign * e
                values.append(float(flow(y).square().sum()))
                c[index] -= sign * e
        assert float(c.grad[index]) == pytest.approx((values[0] - values[1]) / (2 * e), rel=1e-6, abs=1e-8)


def test_an_adaptive_method_sees_the_same_smooth_weights() -> None:
    flow = on.Flow(on.fields.Free(3), "rk4", depth="spline", steps=4, span=(0.0, 2.0), seed=3)
    y = torch.randn(5, 3)
    with torch.no_grad():
        exact = flow.with_integrator("rk4", steps=1024)(y)
        adaptive = on.Flow(on.fields.Free(3), "dopri5", depth="spline", steps=4, span=(0.0, 2.0), seed=3, rtol=1e-9)
        torch.testing.assert_close(adaptive(y), exact, rtol=1e-7, atol=1e-8)


def test_layers_compose_to_the_flow_with_global_weights() -> None:
    flow = on.Flow(on.fields.Free(3), "heun", depth="chebyshev", steps=5, seed=3)
    y = x = torch.randn(4, 3)
    for layer in flow.layers():
        y = layer(y)
    torch.testing.assert_close(y, flow(x))


# ---- names


def test_a_name_may_carry_the_number_of_its_depth() -> None:
    got = resolve({"K": "spline:2", "b": "chebyshev:6", "*": "piecewise_constant:4"}, ["K", "b", "V"])
    assert got == {"K": Spline(2), "b": Galerkin("chebyshev", 6), "V": PiecewiseConstant(4)}
    assert resolve("galerkin:3", ["K"]) == {"K": Galerkin("chebyshev", 3)}
    assert set(BASES) < set(DEPTHS)
    net = on.nets.resnet(5, 3, width=4, steps=4, depth="spline:2")
    assert net.spec["args"]["depth"] == "spline:2" and net.parts[1].weights["K"].shape[0] == 6


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("per_step:3", "'per_step:3' is not known: a whole number may follow spline"),
        ("spline:two", "'spline:two' is not known"),
        ("splin:2", "did you mean 'spline'"),
        ("spline:9", "degree 1 to 5, got 9"),
        ("chebyshev:1", "two functions or more, got 1"),
    ],
)
def test_a_wrong_name_or_number_is_told_in_a_sentence(given: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        resolve(given, ["K"])


def test_a_wrong_basis_is_told_in_a_sentence() -> None:
    with pytest.raises(BadInput, match="basis 'wavelet' is not known"):
        Galerkin("wavelet")
    with pytest.raises(BadInput, match="positive whole number"):
        PiecewiseConstant(0)
