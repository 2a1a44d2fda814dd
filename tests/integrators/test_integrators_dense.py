"""Dense output: against scipy's on the same step, closed forms, orders by halving, and what registration refuses."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from integrators_wave import Wave, start
from scipy.integrate import DOP853, RK23, RK45

import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused
from odenet.integrators import Tableau
from odenet.integrators.dense import interpolate
from odenet.integrators.library.explicit import LIBRARY
from odenet.rational import exact_row

OWN = [n for n, data in LIBRARY.items() if data.dense is not None]
THEIRS = {"bosh3": RK23, "dopri5": RK45, "dopri8": DOP853}
THETA = torch.linspace(0, 1, 11, dtype=torch.float64)
T0 = 0.3


def _scipy_step(solver, f, y):
    s = solver(lambda t, x: f(t, torch.tensor(x)).numpy(), T0, y.numpy(), 10.0, first_step=0.1, rtol=1e-2, atol=1e9)
    s.step()
    return s, s.t - T0


# ---- independent oracles


@pytest.mark.parametrize("name", THEIRS)
def test_dense_output_is_that_of_scipy_on_the_same_step(name):
    f, y, method = Wave(), start(), integrators.get(name)
    s, h = _scipy_step(THEIRS[name], f, y)
    step = method.step(f, T0, y, h, (), None)
    got = interpolate(method, f, T0, h, y, step, THETA)
    assert np.abs(got.numpy() - s.dense_output()(T0 + h * THETA.numpy()).T).max() < 1e-13


def test_the_step_and_the_estimate_of_dopri8_are_those_of_scipy():
    f, y, method = Wave(), start(), integrators.get("dopri8")
    s, h = _scipy_step(DOP853, f, y)
    step = method.step(f, T0, y, h, (), None)
    assert np.abs(step.y.numpy() - s.y).max() < 1e-15
    k = torch.stack(step.slopes).numpy()
    rtol, atol = 1e-3, 1e-5
    f.tolerance = (rtol, atol)
    error = method.step(f, T0, y, h, (), None).error
    scale = atol + rtol * np.maximum(np.abs(y.numpy()), np.abs(s.y))
    ours = float((error / torch.tensor(scale)).square().mean().sqrt())
    assert ours == pytest.approx(s._estimate_error_norm(k, h, scale), rel=1e-9)


def test_samples_with_steps_of_their_own_have_estimates_of_their_own():
    f, y, method = Wave(), start(3), integrators.get("dopri8")
    f.tolerance = (1e-3, 1e-5)
    h = torch.tensor([[0.6], [0.9], [0.7]], dtype=torch.float64)
    together = method.step(f, T0, y, h, (), None)
    for i in range(3):
        alone = method.step(f, T0, y[i], float(h[i]), (), None)
        assert torch.allclose(together.error[i], alone.error, rtol=1e-6, atol=0)


def test_an_exact_step_of_dopri8_has_no_error_and_finite_gradients():
    y = torch.ones(3, dtype=torch.float64, requires_grad=True)
    step = integrators.get("dopri8").step(lambda t, y: 0 * y, 0.0, y, 0.1, (), None)
    assert torch.equal(step.error, torch.zeros(3, dtype=torch.float64))
    (grad,) = torch.autograd.grad(step.error.sum() + step.y.sum(), y)
    assert torch.isfinite(grad).all()


# Tsitouras 2011, section 4: the seven weights as printed, in factored form
def _tsitouras(x):
    return [
        -1.0530884977290216 * x * (x - 1.3299890189751412) * (x**2 - 1.4364028541716351 * x + 0.7139816917074209),
        0.1017 * x**2 * (x**2 - 2.1966568338249754 * x + 1.2949852507374631),
        2.490627285651252793 * x**2 * (x**2 - 2.38535645472061657 * x + 1.57803468208092486),
        -16.54810288924490272 * (x - 1.21712927295533244) * (x - 0.61620406037800089) * x**2,
        47.37952196281928122 * (x - 1.203071208372362603) * (x - 0.658047292653547382) * x**2,
        -34.87065786149660974 * (x - 1.2) * (x - 0.666666666666666667) * x**2,
        2.5 * (x - 1) * (x - 0.6) * x**2,
    ]


def test_dense_output_of_tsit5_is_the_printed_one():
    f, y, h, method = Wave(), start(3), 0.2, integrators.get("tsit5")
    step = method.step(f, T0, y, h, (), None)
    for x in THETA.tolist():
        expected = y + h * sum(b * k for b, k in zip(_tsitouras(x), step.slopes))
        assert torch.allclose(interpolate(method, f, T0, h, y, step, x), expected, rtol=0, atol=1e-14)


# Tsitouras 2011, table 1, to 18 places
_TSITOURAS = """
0.161
-0.008480655492356988544 0.335480655492356988544
2.897153057105493432130 -6.359448489975074843148 4.362295432869581411018
5.325864828439256604429 -11.748883564062827877717 7.495539342889836208305 -0.092495066361755249251
5.861455442946420028659 -12.920969317847109291706 8.159367898576158643180 -0.071584973281400997225 \
-0.028269050394068382909
0.096460766818065229517 0.01 0.479889650414499574775 1.379008574103741893192 -3.290069515436080679901 \
2.324710524099773982415
"""
_TSITOURAS_LOW = """0.094680755765839458079 0.009183565540343253097 0.487770528424761570786 1.234297566930478985655
-2.707712349983525454881 1.866628418170587035754 0.015151515151515151515"""


def test_the_coefficients_of_tsit5_are_the_published_digits():
    table = LIBRARY["tsit5"]
    for row, published in zip(table.a[1:], _TSITOURAS.strip().splitlines(), strict=True):
        ours = [float(a) for a in exact_row(row)]
        assert ours == pytest.approx([float(w) for w in published.split()], rel=4e-16, abs=0)
    low = [float(b) for b in exact_row(table.b_low)]
    assert low == pytest.approx([float(w) for w in _TSITOURAS_LOW.split()], rel=4e-16, abs=0)


# ---- orders


class Flower:
    """q' = cos s + 3/2 sin(p - cos s), p' = -sin s - 3/2 sin(q - sin s) p, s = t + phase: q = sin s, p = cos s."""

    phase = torch.arange(8, dtype=torch.float64) * (math.pi / 4)

    def __call__(self, t, y):
        s, (q, p) = t + self.phase, y
        dq = torch.cos(s) + 1.5 * torch.sin(p - torch.cos(s))
        return torch.stack((dq, -torch.sin(s) - 1.5 * torch.sin(q - torch.sin(s)) * p))

    def exact(self, t):
        return torch.stack((torch.sin(t + self.phase), torch.cos(t + self.phase)))


def _local_error(method, h, theta):
    """Largest error inside one step from an exact value."""
    f = Flower()
    y = f.exact(0.0)
    step = method.step(f, 0.0, y, h, (), None)
    got = interpolate(method, f, 0.0, h, y, step, theta)
    return max(float((v - f.exact(x * h)).norm()) for v, x in zip(got, theta.tolist()))


@pytest.mark.parametrize("name", LIBRARY)
def test_halving_the_step_shows_the_order_inside_it(name):
    """One step errs by h^(q+1) with q = order_dense, and by h^4 where the cubic stands in for less."""
    table, method = LIBRARY[name], integrators.get(name)
    order = min(table.order, 3) if table.order_dense is None else table.order_dense
    theta = torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8], dtype=torch.float64)
    coarse = 0.5 if order > 5 else 0.05  # above rounding
    ratio = _local_error(method, coarse, theta) / _local_error(method, coarse / 2, theta)
    seen = math.log2(ratio)
    # vern7 misses order 7 by so little that one sees the next power
    assert order + 1 - 0.35 < seen < order + (2.35 if name == "vern7" else 1.35)


@pytest.mark.parametrize("name", OWN)
def test_pieces_join_with_one_slope(name):
    """At theta = 0 and 1: the values exactly, and the slopes f there."""
    f, y, h, method = Wave(), start(3), 0.2, integrators.get(name)
    step = method.step(f, T0, y, h, (), None)

    def at(theta):
        return interpolate(method, f, T0, h, y, step, theta)

    assert torch.allclose(at(1.0), step.y, rtol=0, atol=1e-13)
    assert torch.equal(at(0.0), y)
    left, right = (torch.autograd.functional.jacobian(at, torch.tensor(x, dtype=torch.float64)) for x in (0.0, 1.0))
    assert torch.allclose(left, h * f(T0, y), rtol=0, atol=1e-12)
    assert torch.allclose(right, h * f(T0 + h, step.y), rtol=0, atol=1e-11)


# ---- the cubic


class Cubic:
    """y' = 3 t^2 - 4 t + 5, so y = t^3 - 2 t^2 + 5 t + 1: the cubic is exact."""

    def __call__(self, t, y):
        return (3 * t * t - 4 * t + 5) * torch.ones_like(y)

    def exact(self, t):
        return t**3 - 2 * t**2 + 5 * t + 1


@pytest.mark.parametrize("name", ["rk4", "rk3", "torchdiffeq:rk4"])
def test_a_method_without_a_polynomial_uses_the_cubic_of_both_ends(name):
    f, method = Cubic(), integrators.get(name)
    y = torch.full((2, 3), f.exact(0.5), dtype=torch.float64)
    step = method.step(f, 0.5, y, 0.4, (), None)
    got = interpolate(method, f, 0.5, 0.4, y, step, THETA)
    for value, x in zip(got, THETA.tolist()):
        assert torch.allclose(value, torch.full_like(y, f.exact(0.5 + 0.4 * x)), rtol=0, atol=1e-14)


def test_a_method_for_second_derivatives_uses_the_cubic_of_both_accelerations():
    """y'' = 6 t - 4: y = t^3 - 2 t^2 + 5 t + 1."""
    method, y = integrators.get("leapfrog"), torch.full((3,), Cubic().exact(0.5), dtype=torch.float64)
    end = torch.full((3,), Cubic().exact(0.9), dtype=torch.float64)
    step = method.step(lambda t, y: 0 * y, 0.5, y, 0.4, (), None)._replace(y=end)
    got = interpolate(method, lambda t, y: (6 * t - 4) * torch.ones_like(y), 0.5, 0.4, y, step, THETA)
    expected = torch.tensor([Cubic().exact(0.5 + 0.4 * x) for x in THETA.tolist()], dtype=torch.float64)
    assert torch.allclose(got, expected.unsqueeze(-1).expand(-1, 3), rtol=0, atol=1e-14)


# ---- shapes, evaluations, derivatives


@pytest.mark.parametrize("name", ["rk4", "tsit5", "dopri8"])
def test_every_form_of_theta_gives_the_same_numbers(name):
    f, y, h, method = Wave(), start(3), 0.2, integrators.get(name)
    step = method.step(f, T0, y, h, (), None)

    def at(theta, size=h):
        return interpolate(method, f, T0, size, y, step, theta)

    many = at(THETA)
    assert many.shape == (11, 3, 4)
    assert torch.allclose(at(THETA.tolist()), many, rtol=0, atol=0)
    assert torch.allclose(at(THETA[3]), many[3], rtol=0, atol=1e-13)
    assert at(THETA[3]).shape == (3, 4)
    assert torch.allclose(at(float(THETA[3])), many[3], rtol=0, atol=1e-13)
    own = THETA[[2, 5, 7]].unsqueeze(-1)  # one per sample
    assert torch.allclose(at(own), torch.stack([many[2, 0], many[5, 1], many[7, 2]]), rtol=0, atol=1e-13)
    sizes = torch.full((3, 1), h, dtype=torch.float64)
    assert torch.allclose(at(THETA, sizes), many, rtol=0, atol=1e-13)
    assert torch.allclose(at(own, sizes), at(own), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["rk4", "dopri5", "vern7", "dopri8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_dense_output_keeps_the_dtype(name, dtype):
    y = start(3).to(dtype)
    method, f = integrators.get(name), lambda t, y: -y
    step = method.step(f, 0.0, y, 0.1, (), None)
    for theta in (0.5, THETA, [0.2, 0.5]):
        assert interpolate(method, f, 0.0, 0.1, y, step, theta).dtype == dtype
    got = interpolate(method, f, 0.0, 0.1, y, step, 0.5)
    assert torch.allclose(got, y * math.exp(-0.05), rtol=0, atol=1e-6)


def test_the_large_coefficients_of_dopri8_do_not_cost_digits_in_single_precision():
    """They reach 521; weights that are made in float64 keep the values to the spacing of float32."""
    y, method, h = start(50).float(), integrators.get("dopri8"), 0.5
    step = method.step(lambda t, y: -y, 0.0, y, h, (), None)
    got = interpolate(method, lambda t, y: -y, 0.0, h, y, step, THETA)
    expected = y.double() * torch.exp(-h * THETA).reshape(-1, 1, 1)
    assert float((got.double() - expected).abs().max()) < 6 * 2.0**-23 * float(y.abs().max())


# evaluations inside a step, once its slopes are known: the FSAL ones need none
EVALUATIONS = {"bosh3": 0, "dopri5": 0, "tsit5": 0, "dopri8": 3, "vern7": 6, "rk4": 1}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_dense_output_asks_f_only_for_what_is_missing(name):
    f, y, method = Wave(), start(3), integrators.get(name)
    step = method.step(f, T0, y, 0.1, (), None)
    f.calls = 0
    expected = interpolate(method, f, T0, 0.1, y, step, THETA)
    assert f.calls == EVALUATIONS[name]
    whole = method.completed(f, T0, 0.1, y, step)
    f.calls = 0
    assert torch.equal(interpolate(method, f, T0, 0.1, y, whole, THETA), expected)
    assert f.calls == 0
    bare = step._replace(slopes=(), carry=())  # of a step that was kept without them
    assert torch.allclose(interpolate(method, f, T0, 0.1, y, bare, THETA), expected, rtol=0, atol=1e-14)
    lean = method.step(f, T0, y, 0.1, (), None, estimate=False)
    assert torch.allclose(interpolate(method, f, T0, 0.1, y, lean, THETA), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["rk4", "dopri5", "dopri8"])
def test_dense_output_has_the_derivatives_that_differences_show(name):
    f, method = Wave(), integrators.get(name)

    def inside(y, h, theta):
        return interpolate(method, f, T0, h, y, method.step(f, T0, y, h, (), None), theta)

    y = start(2).requires_grad_()
    h = torch.tensor([[0.2], [0.3]], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([0.1, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(inside, (y, h, theta))
    assert torch.autograd.gradcheck(lambda y, h: inside(y, h, 0.7), (y, h))


# ---- what registration refuses


def _words(row):
    words = row.split()
    for i, word in enumerate(words):
        yield " ".join([*words[:i], f"{word}+1/1000000", *words[i + 1 :]])


def _wrong(table):
    for field in ("dense", "a_dense"):
        rows = getattr(table, field) or ()
        for i, row in enumerate(rows):
            for word in _words(row):
                yield dataclasses.replace(table, **{field: (*rows[:i], word, *rows[i + 1 :])})
    if table.b_third is not None:
        yield from (dataclasses.replace(table, b_third=row) for row in _words(table.b_third))


@pytest.mark.parametrize("name", OWN)
def test_an_error_of_a_millionth_in_dense_output_is_refused(name):
    wrong = list(_wrong(LIBRARY[name]))
    for table in wrong[:: max(1, len(wrong) // 60)]:  # every word of the short tables, each third of the long ones
        with pytest.raises(ClaimRefused, match=r"dense output|embedded"):
            integrators.resolve(table)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", OWN)
def test_a_claim_of_dense_order_one_too_high_or_too_low_is_refused(name, shift):
    table = LIBRARY[name]
    with pytest.raises(ClaimRefused, match=rf"dense output.*claims order {table.order_dense + shift}"):
        integrators.resolve(dataclasses.replace(table, order_dense=table.order_dense + shift))


def test_a_wrong_order_of_the_second_embedded_method_is_refused():
    with pytest.raises(ClaimRefused, match="second embedded"):
        integrators.resolve(dataclasses.replace(LIBRARY["dopri8"], order_third=4))


def test_dense_output_that_does_not_end_at_the_step_is_refused():
    """The chord of Euler satisfies the conditions of order 1, and misses Heun's new value."""
    with pytest.raises(ClaimRefused, match="stage 1 at theta = 1"):
        integrators.resolve(Tableau(a=("", "1"), b="1/2 1/2", order=2, dense=("1", "0"), order_dense=1))


def test_malformed_dense_output_is_refused_when_it_is_written():
    good = {"a": ("", "1"), "b": "1/2 1/2", "order": 2}
    for wrong in ({"dense": ("1",)}, {"order_dense": 2}, {"a_dense": ("1/2 1/2",)}, {"b_third": "1 0"}):
        with pytest.raises(BadInput, match="belong together"):
            Tableau(**good, **wrong)
    for rows in (("1 -1/2",), ("1 -1/2", "1/2")):
        with pytest.raises(BadInput, match="one row per stage"):
            Tableau(**good, dense=rows, order_dense=2)


def test_a_user_s_table_with_dense_output_is_checked_and_used():
    """Heun's method with its quadratic: y + h ((theta - theta^2/2) k_1 + theta^2/2 k_2)."""
    method = integrators.resolve(Tableau(a=("", "1"), b="1/2 1/2", order=2, dense=("1 -1/2", "0 1/2"), order_dense=2))
    step = method.step(lambda t, y: t * torch.ones_like(y), 0.0, torch.zeros(2, dtype=torch.float64), 0.5, (), None)
    got = interpolate(method, None, 0.0, 0.5, torch.zeros(2, dtype=torch.float64), step, 0.5)
    assert torch.allclose(got, torch.full((2,), 0.25**2 / 2, dtype=torch.float64), rtol=0, atol=1e-16)


# ---- the step itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_has_the_same_bits_with_and_without_autograd(name, dtype):
    y, method = start(3).to(dtype), integrators.get(name)

    def f(t, y):
        return torch.sin(y) - 0.3 * t * y

    recorded = method.step(f, T0, y.clone().requires_grad_(), 0.1, (), None)
    with torch.no_grad():
        plain = method.step(f, T0, y, 0.1, (), None)
    assert torch.equal(plain.y, recorded.y.detach())
    for ours, theirs in zip(plain.slopes, recorded.slopes, strict=True):
        assert torch.equal(ours, theirs.detach())
    if method.adaptive:
        assert torch.equal(plain.error, recorded.error.detach())


@pytest.mark.parametrize("name", LIBRARY)
def test_a_step_changes_nothing_that_it_was_given(name):
    """Not y, not the carry, not what f returned, even where f returns its argument."""
    method, y = integrators.get(name), start(3)
    given, kept = [], []

    def f(t, y):
        given.append(y)
        kept.append(y.clone())
        return y

    with torch.no_grad():
        step = method.step(f, 0.0, y, 0.1, (), None)
        method.step(f, 0.1, step.y, 0.1, step.carry, None)
    assert all(torch.equal(a, b) for a, b in zip(given, kept))


def test_the_slopes_of_a_step_are_its_stages():
    f, y, h = Wave(), start(3), 0.2
    step = integrators.get("rk4").step(f, T0, y, h, (), None)
    k1 = f(T0, y)
    k2 = f(T0 + h / 2, y + h / 2 * k1)
    k3 = f(T0 + h / 2, y + h / 2 * k2)
    k4 = f(T0 + h, y + h * k3)
    for ours, theirs in zip(step.slopes, (k1, k2, k3, k4), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-15)
