"""Residuals as traced expressions: what they mean, and their derivatives against automatic differentiation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from odenet import pde
from odenet.errors import BadInput
from odenet.pde.expressions import ORDER, RULES, Expression, Frame, key, leaves, terms, value
from odenet.pde.operators import trace

PLANE = Frame(("x", "t"), ("u",), ("nu",))
SPACE = Frame(("x", "y", "z", "t"), ("u", "v"))
X = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2


def given(x: Any, t: Any) -> Any:
    """The field that stands for u."""
    return torch.exp(-0.3 * t) * torch.sin(1.3 * x) + x**2 * t + 1.5


def derived(function: Callable[..., Tensor], points: Tensor, index: tuple[int, ...]) -> Tensor:
    """A derivative of function(*columns) at points, by nested automatic differentiation."""
    columns = [c.clone().requires_grad_() for c in points.unbind(1)]
    result = function(*columns)
    for axis, count in enumerate(index):
        for _ in range(count):
            (result,) = torch.autograd.grad(result.sum(), columns[axis], create_graph=True)
    return result.detach()


def evaluated(e: Expression, points: Tensor, fields: dict[str, Callable[..., Tensor]], **more: float) -> Tensor:
    """An expression with its leaves taken from fields, here or at their places."""
    env: dict[Any, Any] = dict(zip(e.frame.coordinates, points.unbind(1))) | more
    for leaf in leaves(e):
        where = points
        if leaf.place is not None:
            columns = [torch.as_tensor(value(p, env), dtype=points.dtype).expand(len(points)) for p in leaf.place]
            where = torch.stack(columns, 1)
        env[key(leaf)] = derived(fields[leaf.unknown], where, leaf.index)
    return torch.as_tensor(value(e, env), dtype=points.dtype).expand(len(points))


def one(function: Callable[..., Any], frame: Frame = PLANE) -> Expression:
    (e,) = trace(function, frame)
    return e


# Functions of (u, x, t) in torch, applied to an expression and to numbers alike.
COMPOSED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "product": lambda u, x, t: u * x * torch.sin(t),
    "quotient": lambda u, x, t: torch.cos(x) / (1 + u * u),
    "number over field": lambda u, x, t: 2 / u,
    "field over number": lambda u, x, t: u / 2,
    "whole power": lambda u, x, t: u**3 - 2 * u**2,
    "broken power": lambda u, x, t: u**1.5 * x**0.5,
    "power of fields": lambda u, x, t: u ** (x * t),
    "number to a field": lambda u, x, t: 1.7**u,
    "chain": lambda u, x, t: torch.sin(torch.exp(-x * u) + t),
    "difference": lambda u, x, t: 3 - u - (-u) * t,
    "case": lambda u, x, t: torch.where(x > 0.6, u**2, 3 * u * x),
    "polynomial in coordinates": lambda u, x, t: x**3 * t**2,
    "nested": lambda u, x, t: torch.sqrt(1 + torch.square(torch.tanh(u))) * torch.log(u + x),
}


@pytest.mark.parametrize("index", [(1, 0), (0, 1), (2, 0), (1, 1), (3, 0)])
@pytest.mark.parametrize("name", list(COMPOSED))
def test_derivatives_of_composed_expressions_are_those_of_autograd(name: str, index: tuple[int, int]) -> None:
    composed = COMPOSED[name]
    spelt = "x" * index[0] + "t" * index[1]
    e = one(lambda u, x, t: getattr(composed(u, x, t), spelt))
    wanted = derived(lambda x, t: composed(given(x, t), x, t), X, index)
    assert torch.allclose(evaluated(e, X, {"u": given}), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("function", sorted(RULES, key=lambda f: f.__name__), ids=lambda f: f.__name__)
def test_every_function_with_a_rule_has_the_right_one(function: Callable[[Any], Any]) -> None:
    def inner(u: Any, x: Any) -> Any:
        return torch.sin(x) * 0.3 + u * 0.2

    e = one(lambda u, x: function(inner(u, x)).x)
    wanted = derived(lambda x, t: function(inner(given(x, t), x)) + 0 * x, X, (1, 0))
    assert torch.allclose(evaluated(e, X, {"u": given}), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("spelt", "index"),
    [("x", (1, 0)), ("t", (0, 1)), ("xx", (2, 0)), ("xt", (1, 1)), ("tx", (1, 1)), ("xxxx", (4, 0)), ("x_t", (1, 1))],
)
def test_the_name_of_a_derivative_is_its_multi_index(spelt: str, index: tuple[int, int]) -> None:
    (leaf,) = leaves(one(lambda u: getattr(u, spelt)))
    assert leaf.index == index


def test_names_of_several_letters_are_read_as_written() -> None:
    frame = Frame(("x1", "x2", "x10"), ("u",))
    for spelt, index in {"x1_x2": (1, 1, 0), "x10": (0, 0, 1), "x1x10": (1, 0, 1), "x2x2": (0, 2, 0)}.items():
        (leaf,) = leaves(one(lambda u, spelt=spelt: getattr(u, spelt), frame))
        assert leaf.index == index


def test_a_flux_is_differentiated_as_it_stands() -> None:
    e = one(lambda u, x: ((1 + x**2) * u.x).x)
    wanted = one(lambda u, x: 2 * x * u.x + (1 + x**2) * u.xx)
    assert torch.allclose(evaluated(e, X, {"u": given}), evaluated(wanted, X, {"u": given}), rtol=1e-13)


def test_parameters_are_numbers_that_do_not_depend_on_place() -> None:
    e = one(lambda u, nu: (nu * u.x).x)
    assert torch.allclose(evaluated(e, X, {"u": given}, nu=0.3), 0.3 * derived(given, X, (2, 0)), rtol=1e-14)
    assert torch.equal(evaluated(one(lambda u, nu: u + nu.x), X, {"u": given}, nu=0.3), given(*X.unbind(1)))


# ---- vector calculus ---------------------------------------------------------------------------------------------

P = torch.rand(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FIELDS: dict[str, Callable[..., Tensor]] = {
    "u": lambda x, y, z, t: torch.sin(x) * torch.cos(2 * y) * torch.exp(z) * (1 + t),
    "v": lambda x, y, z, t: x**2 * y - z**3 * t,
}


def test_laplacian_is_the_sum_of_the_second_derivatives_in_space() -> None:
    e = one(lambda u: pde.laplacian(u), SPACE)
    assert torch.allclose(evaluated(e, P, FIELDS), -4 * FIELDS["u"](*P.unbind(1)), rtol=1e-13)  # -1 - 4 + 1


def test_div_and_grad_leave_time_out() -> None:
    parts = trace(lambda v: pde.grad(v), SPACE)
    x, y, z, t = P.unbind(1)
    for e, wanted in zip(parts, (2 * x * y, x**2, -3 * z**2 * t), strict=True):
        assert torch.allclose(evaluated(e, P, FIELDS), wanted, rtol=1e-13)
    flux = one(lambda u, v, y: pde.div([u * v, y * v, v**2]), SPACE)
    u, v = FIELDS["u"], FIELDS["v"]
    wanted = derived(lambda *c: u(*c) * v(*c), P, (1, 0, 0, 0)) + derived(lambda *c: c[1] * v(*c), P, (0, 1, 0, 0))
    assert torch.allclose(
        evaluated(flux, P, FIELDS), wanted + derived(lambda *c: v(*c) ** 2, P, (0, 0, 1, 0)), rtol=1e-12
    )


def test_divergence_needs_a_component_for_every_axis_of_space() -> None:
    with pytest.raises(BadInput, match="div needs 3 components, one for each of x, y, z; got 2"):
        trace(lambda u, v: pde.div([u, v]), SPACE)


def test_dot_is_the_sum_of_products() -> None:
    e = one(lambda u, v: pde.dot(pde.grad(u), pde.grad(v)), SPACE)
    u, v = FIELDS["u"], FIELDS["v"]
    axes = [tuple(int(i == k) for i in range(4)) for k in range(3)]
    wanted = sum(derived(u, P, a) * derived(v, P, a) for a in axes)
    assert torch.allclose(evaluated(e, P, FIELDS), wanted, rtol=1e-12)


# ---- other places ------------------------------------------------------------------------------------------------


def test_a_field_at_another_place_is_differentiated_through_the_place() -> None:
    e = one(lambda u, x, t: u.at(x=x**2, t=t / 2).x)
    wanted = derived(lambda x, t: given(x**2, t / 2), X, (1, 0))
    assert torch.allclose(evaluated(e, X, {"u": given}), wanted, rtol=1e-12)
    twice = one(lambda u, x, t: u.at(x=x**2, t=t / 2).xt)
    assert torch.allclose(
        evaluated(twice, X, {"u": given}), derived(lambda x, t: given(x**2, t / 2), X, (1, 1)), rtol=1e-11
    )


def test_at_moves_a_whole_expression_and_may_be_repeated() -> None:
    e = one(lambda u, x, t: (x * u.x).at(x=2 * x).at(x=x + 1))
    x, t = X.unbind(1)
    moved = torch.stack([2 * x + 2, t], 1)
    assert torch.allclose(evaluated(e, X, {"u": given}), moved[:, 0] * derived(given, moved, (1, 0)), rtol=1e-12)


def test_a_fixed_place_has_no_derivative() -> None:
    e = one(lambda u: u + u.at(x=0.0, t=0.0).x)
    assert repr(e) == "u"


def test_an_integral_with_the_time_as_its_end_is_that_of_the_closed_form() -> None:
    e = one(lambda u, x, t: pde.integral(lambda s: torch.exp(s - t) * u.at(t=s), 0.0, t, of=u))
    x, t = X.unbind(1)
    field: dict[str, Callable[..., Tensor]] = {"u": lambda x, t: x * torch.cos(t)}
    wanted = x * ((torch.cos(t) + torch.sin(t)) - torch.exp(-t)) / 2
    assert torch.allclose(evaluated(e, X, field), wanted, rtol=1e-13)
    leibniz = one(lambda u, x, t: pde.integral(lambda s: torch.exp(s - t) * u.at(t=s), 0.0, t, of=u).t)
    assert torch.allclose(evaluated(leibniz, X, field), field["u"](x, t) - wanted, rtol=1e-11)


def test_gauss_nodes_are_exact_to_their_degree_and_no_further() -> None:
    def error(k: int) -> float:
        e = one(lambda u, x, t: pde.integral(lambda s: u * 0 + s**k, 0.0, 1.0, of=u, points=4) + 0 * u)
        return float((evaluated(e, X, {"u": given}) - 1 / (k + 1)).abs().max())

    assert error(7) < 1e-15
    assert error(8) > 1e-6


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_the_caputo_derivative_of_powers_is_the_closed_form(alpha: float) -> None:
    e = one(lambda u: pde.caputo(u, alpha))
    x, t = X.unbind(1)
    for k in (1, 2, 5):
        wanted = x * math.gamma(k + 1) / math.gamma(k + 1 - alpha) * t ** (k - alpha)
        found = evaluated(e, X, {"u": lambda x, t, k=k: x * t**k + torch.cos(x)})
        assert torch.allclose(found, wanted, rtol=1e-12)


def test_a_caputo_order_outside_zero_to_one_is_refused() -> None:
    for alpha in (0.0, 1.0, 1.5):
        with pytest.raises(BadInput, match="strictly between 0 and 1"):
            trace(lambda u, alpha=alpha: pde.caputo(u, alpha), PLANE)


# ---- tracing -----------------------------------------------------------------------------------------------------


def test_arguments_are_chosen_by_name_in_any_order_and_defaults_stay() -> None:
    e = one(lambda t, nu, u, scale=3.0: scale * u * t + nu)
    x, t = X.unbind(1)
    assert torch.allclose(evaluated(e, X, {"u": given}, nu=0.5), 3 * given(x, t) * t + 0.5, rtol=1e-14)


def test_a_starred_argument_takes_all_coordinates() -> None:
    e = one(lambda u, *x: u + x[0] * 10 + x[1] * 100)
    x, t = X.unbind(1)
    assert torch.allclose(evaluated(e, X, {"u": given}), given(x, t) + 10 * x + 100 * t, rtol=1e-14)


def test_terms_are_the_summands() -> None:
    assert [repr(s) for s in terms(one(lambda u: u.t + 2 * u - u.xx))] == ["u_t", "2 u", "-u_xx"]


def test_an_expression_is_written_as_it_was_meant() -> None:
    assert repr(one(lambda u, nu: u.t + u * u.x - nu * u.xx)) == "u_t + u u_x - nu u_xx"
    assert repr(one(lambda u, x: torch.sin(u.xt) ** 2 / x)) == "sin(u_xt)^2 / x"


def test_zeros_and_ones_leave_no_trace() -> None:
    assert repr(one(lambda u, x: 1.0 * u + 0.0 * u.xx + (x * 0.0) * u)) == "u"


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    import numpy as np

    e = one(lambda u: np.float64(2.0) * u + torch.tensor(3.0) * u - u * np.float64(4.0))
    assert torch.allclose(evaluated(e, X, {"u": given}), given(*X.unbind(1)), rtol=1e-13)


@pytest.mark.parametrize(
    ("residual", "words"),
    [
        (lambda u: u.xxxxx, f"order 5; odenet carries derivatives up to {ORDER}"),
        (lambda u: u.xxx.xx, f"order 5 of u; odenet carries up to {ORDER}"),
        (lambda u: u.y, "no derivative is called 'y': the coordinates are x, t"),
        (lambda u: u.at(y=0.0), r"at\(y=...\): the coordinates are x, t"),
        (lambda u: u if u > 0 else -u, "cannot branch on values: write torch.where"),
        (lambda u: math.sin(u), r"write torch.sin\(u\), not math.sin\(u\)"),
        (lambda u: u * torch.ones(5), "met Tensor where a number or a field is wanted"),
        (lambda u: torch.special.bessel_j0(u).x, "no rule to differentiate special_bessel_j0"),
        (lambda u: "u.t", "must return an expression in u such as u.t - u.xx"),
        (lambda w: w, "asks for 'w', which is no unknown, coordinate or parameter"),
        (lambda u: [*u], "an unknown field is one function"),
    ],
    ids=["order", "orders", "name", "place", "branch", "math", "table", "rule", "text", "argument", "loop"],
)
def test_what_cannot_be_meant_is_answered_in_one_sentence(residual: Callable[..., Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        trace(residual, PLANE)
