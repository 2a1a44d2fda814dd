"""Lie's and Strang's splitting: words, closed forms by the matrix exponential, order reduction, gradients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from integrators_parts import Parts, march, matrix, orders
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import odenet as on
import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused
from odenet.fields import SemiLinear, Split
from odenet.integrators.library.additive import LIBRARY
from odenet.integrators.splitting import Splitting

pytestmark = pytest.mark.usefixtures("double")

DATA = {name: data for name, data in LIBRARY.items() if isinstance(data, Splitting) and name.endswith("_splitting")}
METHODS = {name: integrators.resolve(data) for name, data in DATA.items()}
STRANG = DATA["strang_splitting"].flows


def exp(m):
    return torch.from_numpy(expm(m.numpy()))


A, B = matrix(1), matrix(2, shift=1.0)
Y = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.4, -1.0]], dtype=torch.float64)


# ---- what is registered


def test_the_library_holds_lie_and_strang_and_both_end_with_the_stiff_part():
    assert [(name, m.order) for name, m in METHODS.items()] == [("lie_splitting", 1), ("strang_splitting", 2)]
    assert all(m.needs == {"split"} and m.cite and m.when.endswith(".") for m in METHODS.values())
    assert all(data.flows[-1][0] == "implicit" for data in DATA.values())


def test_facts_are_those_of_exact_flows_and_of_the_implicit_method():
    lie, strang = (m.facts for m in METHODS.values())
    # the words EI and IE of Lie's splitting: 0 and 1 instead of 1/2
    assert lie.error_constant == pytest.approx(math.sqrt(1 / 2), rel=1e-14)
    # Strang's e^{I/2} e^E e^{I/2}: of order 3 EEI, EIE, IEE miss 1/6 by (1/12, -1/6, 1/12), IIE, IEI, EII by
    # (-1/24, 1/12, -1/24)
    assert strang.error_constant == pytest.approx(math.sqrt(6 / 144 + 6 / 576), rel=1e-14)
    assert lie.exact and strang.exact
    assert lie.real_interval == strang.real_interval == math.inf


@pytest.mark.parametrize(
    ("name", "k"), [("lie_splitting", 0), ("lie_splitting", 1), *(("strang_splitting", k) for k in range(3))]
)
def test_a_fraction_changed_by_a_millionth_is_refused(name, k):
    flows = list(DATA[name].flows)
    flows[k] = (flows[k][0], f"{flows[k][1]}+1/1000000")
    with pytest.raises(ClaimRefused, match=r"the word [EI]"):
        integrators.resolve(dataclasses.replace(DATA[name], flows=tuple(flows)))


def test_a_splitting_that_is_not_symmetric_is_refused_as_second_order():
    with pytest.raises(ClaimRefused, match=r"claims order 2, but the word (EI|IE) gives"):
        integrators.resolve(dataclasses.replace(DATA["lie_splitting"], order=2))
    with pytest.raises(ClaimRefused, match="write order=2"):
        integrators.resolve(dataclasses.replace(DATA["strang_splitting"], order=1))


def test_inner_methods_below_the_order_are_refused_and_others_that_cannot_be_used():
    with pytest.raises(ClaimRefused, match="follows the explicit part by euler of order 1"):
        integrators.resolve(dataclasses.replace(DATA["strang_splitting"], explicit="euler"))
    with pytest.raises(BadInput, match="one-step method for any field"):
        integrators.resolve(dataclasses.replace(DATA["strang_splitting"], explicit="ab2"))
    with pytest.raises(BadInput, match="one-step method for any field"):
        integrators.resolve(dataclasses.replace(DATA["strang_splitting"], explicit="verlet"))
    with pytest.raises(BadInput, match=r'pairs \("explicit", "1/2"\)'):
        Splitting(flows=(("stiff", "1"),), order=1)


def test_yoshida_s_composition_of_strang_has_order_four():
    """Words with up to five letters; the factor 1/(2 - 2^(1/3)) of Yoshida 1990."""
    c, d = "1/(2-cbrt(2))", "-cbrt(2)/(2-cbrt(2))"
    flows = []
    for x in (c, d, c):
        flows += [("implicit", f"({x})/2"), ("explicit", x), ("implicit", f"({x})/2")]
    data = Splitting(flows=tuple(flows), order=4, explicit="rk4", implicit="rk4")
    f = Parts(lambda t, y: y @ A.mT, matrix=B)
    found = orders(integrators.resolve(data), f, Y, 1.0, Y @ exp(A + B).mT)
    assert found[-1] == pytest.approx(4, abs=0.15)


# ---- closed forms


def test_one_step_is_the_product_of_the_flows():
    """The explicit flow by rk4, whose step is the polynomial of degree four; the implicit one exactly."""
    h = 0.3
    z = h * A
    one = torch.eye(3)
    rk4 = one + z @ (one + z @ (one + z @ (one + z / 4) / 3) / 2)
    half, whole = exp(h / 2 * B), exp(h * B)
    heun = one + z + z @ z / 2
    f = Parts(lambda t, y: y @ A.mT, matrix=B)
    for name, product in (("strang_splitting", half @ rk4 @ half), ("lie_splitting", whole @ heun)):
        got = METHODS[name].step(f, 0.0, Y, h, (), None).y
        torch.testing.assert_close(got, Y @ product.mT, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["exact", "method"])
def test_order_on_linear_parts_that_do_not_commute(name, kind):
    assert float((A @ B - B @ A).abs().max()) > 0.5
    f = Parts(lambda t, y: y @ A.mT, *((None, B) if kind == "exact" else (lambda t, y: y @ B.mT,)))
    found = orders(METHODS[name], f, Y, 1.0, Y @ exp(A + B).mT)
    assert found[-1] == pytest.approx(METHODS[name].order, abs=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_parts_that_commute_are_not_split_apart(name):
    """With both flows exact up to rk4 at tiny steps only rounding is left."""
    data = dataclasses.replace(DATA[name], explicit="rk4")
    f = Parts(lambda t, y: 0.5 * y, matrix=B)
    end = march(integrators.resolve(data), f, Y, 0.1, 10)
    torch.testing.assert_close(end, Y @ exp(0.1 * (B + 0.5 * torch.eye(3))).mT, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_order_on_the_logistic_equation_however_it_is_split(name, share):
    """Explicit share * y - y^2 / 2, the rest implicit: the parts do not commute."""
    y0 = torch.tensor([[0.2], [0.5], [1.7]])
    exact = 1 / (1 + (1 / y0 - 1) * math.exp(-2.0))
    f = Parts(lambda t, y: share * y - y**2 / 2, lambda t, y: (1 - share) * y - y**2 / 2)
    assert orders(METHODS[name], f, y0, 2.0, exact, (32, 64))[-1] == pytest.approx(METHODS[name].order, abs=0.15)


@pytest.mark.parametrize("kind", ["exact", "method"])
def test_each_part_keeps_its_own_clock(kind):
    """y' = a'(t) + B y with a' explicit, or with B(t) = cos(t) B implicit: order 2 in both."""
    strang = METHODS["strang_splitting"]
    f = Parts(lambda t, y: torch.full_like(y, 3 * math.cos(3 * t)), lambda t, y: -y)
    exact = (3 * (math.cos(3) + 3 * math.sin(3)) - 3 * math.exp(-1)) / 10  # of y' = -y + 3 cos 3t, y(0) = 0
    assert orders(strang, f, torch.zeros(1), 1.0, exact, (16, 32))[-1] == pytest.approx(2, abs=0.1)
    f = Parts(lambda t, y: math.sin(t) * y, lambda t, y: math.cos(t) * y)
    if kind == "exact":
        f.weights = lambda t: {"t": t}
        f.implicit_matrix = lambda p, y: torch.tensor([[math.cos(p["t"])]])
    exact = math.exp(1 - math.cos(2.0) + math.sin(2.0))
    assert orders(strang, f, torch.ones(1), 2.0, exact, (16, 32))[-1] == pytest.approx(2, abs=0.2)


# ---- stiff problems


def _reaction_diffusion(n=31):
    dx = 1 / (n + 1)
    diffuse = (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1)) / dx**2
    return torch.from_numpy(diffuse), torch.from_numpy(np.sin(np.pi * dx * np.arange(1, n + 1)))


@pytest.mark.parametrize(("at_the_boundary", "order"), [(0.0, 2), (1.0, 1)])
def test_strang_loses_an_order_where_the_reaction_does_not_vanish_at_the_boundary(at_the_boundary, order):
    """u_t = u_xx + u^2 + c with u = 0 at both ends, against scipy's Radau."""
    (diffuse, u0), c = _reaction_diffusion(), at_the_boundary
    stiff = diffuse.numpy()
    out = solve_ivp(lambda t, u: stiff @ u + u * u + c, (0, 0.1), u0.numpy(), "Radau", rtol=1e-11, atol=1e-12,
                    jac=lambda t, u: stiff + np.diag(2 * u))  # fmt: skip
    f = Parts(lambda t, u: u * u + c, matrix=diffuse)
    found = orders(METHODS["strang_splitting"], f, u0, 0.1, torch.from_numpy(out.y[:, -1]), (8, 16, 32))
    assert found == pytest.approx([order, order], abs=0.15)


def test_the_implicit_method_takes_steps_that_no_explicit_one_can():
    diffuse, u0 = _reaction_diffusion()
    f = Parts(lambda t, u: u * (1 - u), lambda t, u: u @ diffuse.mT)
    out = solve_ivp(
        lambda t, u: diffuse.numpy() @ u + u * (1 - u), (0, 0.1), u0.numpy(), "Radau", rtol=1e-11, atol=1e-12
    )
    assert 0.1 / 20 * float(torch.linalg.eigvalsh(diffuse).abs().max()) > 20
    for name, bound in (("lie_splitting", 5e-3), ("strang_splitting", 5e-4)):
        assert float((march(METHODS[name], f, u0, 0.1, 20) - torch.from_numpy(out.y[:, -1])).abs().max()) < bound


# ---- stability function


@pytest.mark.parametrize("name", METHODS)
def test_amplification_is_the_product_of_those_of_the_inner_methods(name):
    """rk4 or heun: truncated exponentials; sdirk2: (1 + (1 - 2g) z) / (1 - g z)^2 with g = 1 - 1/sqrt(2)."""
    g = 1 - 1 / math.sqrt(2)
    sdirk2 = lambda z: (1 + (1 - 2 * g) * z) / (1 - g * z) ** 2  # noqa: E731
    heun, rk4 = ((lambda z, n=n: sum(z**j / math.factorial(j) for j in range(n + 1))) for n in (2, 4))
    for ze, zi in ((-0.7, -3.0 + 1j), (0.4j, -100.0), (1.5 - 0.3j, 2j), (0.0, -2.0)):
        by_hand = heun(ze) * sdirk2(zi) if name == "lie_splitting" else sdirk2(zi / 2) ** 2 * rk4(ze)
        assert METHODS[name].amplification(ze, z_implicit=zi) == pytest.approx(by_hand, rel=1e-12)
    assert METHODS[name].amplification(-0.8) == pytest.approx(
        sdirk2(-0.8) if name == "lie_splitting" else sdirk2(-0.4) ** 2
    )


# ---- gradients, shapes, types


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["method", "linear", "diagonal"])
def test_gradients_of_a_step_are_those_of_finite_differences(name, kind):
    def after(y, h, a, b):
        explicit = lambda t, x: torch.sin(x * a + t)  # noqa: E731
        if kind == "method":
            f = Parts(explicit, lambda t, x: x @ b.mT - x**3)
        else:
            f = Parts(explicit, matrix=b if kind == "linear" else b.diagonal())
        return METHODS[name].step(f, 0.1, y, h, (), None).y

    y = torch.tensor([[0.4, -0.9], [1.1, 0.3]], requires_grad=True)
    h = torch.tensor(0.3, requires_grad=True)
    a, b = torch.tensor([0.8, -1.3], requires_grad=True), (matrix(5, 2) - 2 * torch.eye(2)).requires_grad_()
    assert torch.autograd.gradcheck(after, (y, h, a, b), atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["method", "linear"])
def test_functorch_gives_the_gradients_of_autograd(name, kind):
    a, b, y = torch.tensor([0.8, -1.3]), matrix(5, 2) - 2 * torch.eye(2), torch.tensor([[0.4, -0.9], [1.1, 0.3]])

    def after(y, a, b):
        explicit = lambda t, x: torch.sin(x * a + t)  # noqa: E731
        f = Parts(explicit, matrix=b) if kind == "linear" else Parts(explicit, lambda t, x: x @ b.mT - x**3)
        return march(METHODS[name], f, y, 0.3, 3)

    weight = torch.tensor([[1.0, -2.0], [0.5, 0.7]])
    leaves = [x.clone().requires_grad_() for x in (y, a, b)]
    expected = torch.autograd.grad((after(*leaves) * weight).sum(), leaves)
    for got, want in zip(torch.func.vjp(after, y, a, b)[1](weight), expected):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", ["discrete", "autograd"])
def test_gradients_through_solve_reach_the_weights_of_both_parts(gradient):
    net, stiff = torch.nn.Linear(2, 2), torch.nn.Parameter(torch.tensor([[-30.0, 1.0], [0.5, -2.0]]))

    def loss():
        out = on.solve(SemiLinear(stiff, net), torch.tensor([[1.0, 0.5]]), [0.0, 1.0], gradient=gradient, steps=10,
                       integrator=METHODS["strang_splitting"])  # fmt: skip
        return out.y[-1].square().sum()

    loss().backward()
    for parameter, index in ((net.weight, (0, 1)), (stiff, (0, 0)), (stiff, (1, 0))):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[index] += sign * 1e-5
                values.append(float(loss()))
                parameter[index] -= sign * 1e-5
        assert float(parameter.grad[index]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["method", "linear", "diagonal"])
def test_a_step_size_per_sample_is_the_loop_over_samples(name, kind):
    b = matrix(6, 2) - 3 * torch.eye(2)
    explicit = lambda t, y: torch.sin(y + t)  # noqa: E731

    def f():
        if kind == "method":
            return Parts(explicit, lambda t, y: y @ b.mT - y**3)
        return Parts(explicit, matrix=b if kind == "linear" else b.diagonal())

    y, h = torch.tensor([[1.0, 0.5], [0.2, -0.4], [0.7, 0.1]]), torch.tensor([[0.1], [0.0], [-0.05]])
    t = torch.tensor([[0.3], [0.2], [0.0]])
    together = METHODS[name].step(f(), t, y, h, (), None).y
    for i in range(3):
        alone = METHODS[name].step(f(), float(t[i]), y[i : i + 1], float(h[i]), (), None).y
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["method", "linear", "diagonal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_the_type_of_the_state_is_kept(name, kind, dtype):
    def after(y, h):
        b = (matrix(6, 2) - 3 * torch.eye(2)).to(y.dtype)
        f = Parts(
            lambda t, x: torch.sin(x),
            *((lambda t, x: x @ b.mT,) if kind == "method" else (None, b if kind == "linear" else b.diagonal())),
        )
        return METHODS[name].step(f, 0.0, y, h, (), None).y

    y = torch.tensor([[1.0, 0.5], [0.2, -0.4]])
    y = y + 0.3j * y.flip(0) if dtype.is_complex else y
    exact = after(y, 0.2)
    for h in (0.2, torch.tensor(0.2)):
        found = after(y.to(dtype), h)
        assert found.dtype == dtype
        torch.testing.assert_close(found.to(exact.dtype), exact, rtol=3e-6, atol=3e-6)


def test_a_field_of_the_user_goes_through_solve_both_ways():
    """Split parts by methods, SemiLinear by the exponential, against the closed form."""
    exact = Y @ exp(A + B).mT
    for field in (Split(lambda y: y @ A.mT, lambda y: y @ B.mT), SemiLinear(B, lambda t, y: y @ A.mT)):
        end = on.solve(field, Y, [0.0, 1.0], integrator=METHODS["strang_splitting"], steps=200).y[-1]
        torch.testing.assert_close(end, exact, rtol=1e-4, atol=1e-4)
