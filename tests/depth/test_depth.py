"""theta(t): sides of a knot, mass matrix, refinement, penalties; and what aligned knots do for the order."""

from __future__ import annotations

import math

import pytest
import torch

import odenet as on
from odenet.depth import DEPTHS, PerStep, PiecewiseLinear, Shared, resolve
from odenet.errors import BadInput

ALL = [make() for make in DEPTHS.values()]
KNOTS = (0.0, 0.5, 1.0, 1.5, 2.0)
pytestmark = pytest.mark.usefixtures("double")


def hats(t: float) -> torch.Tensor:
    """Hat functions over KNOTS, written out."""
    return torch.tensor([max(0.0, 1.0 - abs(t - k) / 0.5) for k in KNOTS])


def test_at_a_knot_the_two_sides_of_a_piecewise_constant_differ_and_of_a_linear_agree() -> None:
    c = torch.randn(4, 3)
    assert torch.equal(PerStep().at(c, 1.0, KNOTS, "left"), c[1])
    assert torch.equal(PerStep().at(c, 1.0, KNOTS, "right"), c[2])
    c = torch.randn(5, 3)
    for side in ("left", "right"):
        torch.testing.assert_close(PiecewiseLinear().at(c, 1.0, KNOTS, side), c[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", ALL, ids=lambda d: type(d).__name__)
def test_both_ends_of_the_span_take_the_side_inside(depth: on.depth.Depth) -> None:
    c = torch.randn(depth.count(4), 2)
    torch.testing.assert_close(depth.at(c, 0.0, KNOTS, "left"), depth.at(c, 0.0, KNOTS, "right"))
    torch.testing.assert_close(depth.at(c, 2.0, KNOTS, "left"), depth.at(c, 2.0, KNOTS, "right"))
    with pytest.raises(BadInput, match="outside the span"):
        depth.at(c, 2.1, KNOTS)


def test_piecewise_linear_is_the_sum_of_hat_functions() -> None:
    c = torch.randn(5, 3)
    for t in (0.0, 0.1, 0.77, 1.3, 2.0):
        torch.testing.assert_close(PiecewiseLinear().at(c, t, KNOTS), hats(t) @ c)


def test_mass_matrices_are_the_textbook_ones() -> None:
    h = 0.5
    torch.testing.assert_close(PerStep().gram(KNOTS), h * torch.eye(4))
    torch.testing.assert_close(Shared().gram(KNOTS), torch.tensor([[2.0]]))
    tri = (
        torch.diag(torch.tensor([2.0, 4.0, 4.0, 4.0, 2.0]))
        + torch.diag(torch.ones(4), 1)
        + torch.diag(torch.ones(4), -1)
    )
    torch.testing.assert_close(PiecewiseLinear().gram(KNOTS), h / 6 * tri)


@pytest.mark.parametrize("depth", ALL, ids=lambda d: type(d).__name__)
def test_prolongation_keeps_theta_and_restriction_undoes_it(depth: on.depth.Depth) -> None:
    c = torch.randn(depth.count(4), 3, 2)
    fine, knots = depth.prolong(c), tuple(i * 0.25 for i in range(9))
    assert fine.shape[0] == depth.count(8)
    for t in (0.01, 0.3, 0.6, 1.1, 1.49, 1.9):
        torch.testing.assert_close(depth.at(fine, t, knots), depth.at(c, t, KNOTS))
    torch.testing.assert_close(depth.restrict(fine), c)


def test_an_odd_number_of_intervals_cannot_be_halved() -> None:
    with pytest.raises(BadInput, match="even number"):
        PerStep().restrict(torch.ones(3, 2))
    with pytest.raises(BadInput, match="even number"):
        PiecewiseLinear().restrict(torch.ones(4, 2))


@pytest.mark.parametrize("depth", [PerStep(), PiecewiseLinear()], ids=lambda d: type(d).__name__)
def test_penalties_are_the_integrals_they_name(depth: on.depth.Depth) -> None:
    c, h = torch.randn(depth.count(4), 3), 0.5
    jumps = sum(float(((c[j + 1] - c[j]) ** 2).sum()) for j in range(len(c) - 1))
    assert float(depth.penalty(c, "h1", KNOTS)) == pytest.approx(jumps / (2 * h))
    assert float(depth.penalty(c, "h1_unscaled", KNOTS)) == pytest.approx(h / 2 * jumps)
    midpoints = [(i + 0.5) / 1000 for i in range(2000)]
    size = sum(float((depth.at(c, t, KNOTS) ** 2).sum()) for t in midpoints) / 1000
    assert float(depth.penalty(c, "l2", KNOTS)) == pytest.approx(size / 2, rel=1e-5)
    tv = sum(
        math.sqrt(((float(a) - float(b)) / h) ** 2 + 1e-3) for j in range(len(c) - 1) for a, b in zip(c[j + 1], c[j])
    )
    assert float(depth.penalty(c, "tv", KNOTS)) == pytest.approx(h * tv)


def test_weights_that_do_not_vary_have_no_smoothness_penalty() -> None:
    assert float(Shared().penalty(torch.ones(1, 3), "h1", KNOTS)) == 0.0
    with pytest.raises(BadInput, match="'h1', 'h1_unscaled', 'l2' or 'tv'"):
        Shared().penalty(torch.ones(1, 3), "h2", KNOTS)  # type: ignore[arg-type]


def test_depth_may_differ_by_weight() -> None:
    flow = on.Flow(on.fields.Free(4), depth={"K": "shared", "*": "piecewise_linear"}, steps=4)
    assert flow.weights["K"].shape == (1, 4, 4)
    assert flow.weights["b"].shape == (5, 4)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("per_stepp", "did you mean 'per_step'"),
        ({"Q": "shared", "*": "shared"}, r"depth names \['Q'\]"),
        ({"K": "shared"}, r"says nothing about the weights \['b'\]"),
    ],
)
def test_a_wrong_depth_is_told_in_a_sentence(given: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        resolve(given, ["K", "b"])  # type: ignore[arg-type]


@torch.no_grad()
def observed_order(depth: str, integrator: str, pieces: int, aligned: bool = True) -> float:
    """Order at T = 1 for y' = tanh(K(t) y + b(t)), against a fine rk4 run on the same theta."""
    coarse = on.Flow(on.fields.Free(3), integrator, depth=depth, steps=pieces, seed=3)
    y = torch.randn(5, 3)
    exact = coarse.with_integrator("rk4", steps=pieces * 512)(y)
    errors = [float((coarse.with_integrator(integrator, steps=pieces * m)(y) - exact).norm()) for m in (16, 32)]
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("depth", ["per_step", "piecewise_linear", "shared"])
@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("heun", 2), ("ssprk3", 3), ("rk4", 4)])
def test_stages_at_the_right_end_of_a_step_keep_the_order_on_aligned_knots(
    depth: str, integrator: str, order: int
) -> None:
    assert observed_order(depth, integrator, 4) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("integrator", "order"), [("ab2", 2), ("ab3", 3), ("two_step_midpoint", 2)])
def test_multistep_methods_keep_their_order_by_starting_afresh_at_knots(integrator: str, order: int) -> None:
    # the start is one order lower than the method; at every knot it adds an error of the method's order
    assert observed_order("per_step", integrator, 2) == pytest.approx(order, abs=0.25)


def test_a_history_carried_over_a_knot_loses_the_order_that_restarting_keeps() -> None:
    flow = on.Flow(on.fields.Free(3), "rk4", steps=2, seed=3)
    y = torch.randn(5, 3)
    exact = flow.with_integrator("rk4", steps=512)(y)
    errors = []
    for m in (16, 32):
        twin = flow.with_integrator("ab3", steps=2 * m)
        twin.march.restart = False
        errors.append(float((twin(y) - exact).detach().norm()))
    assert math.log2(errors[0] / errors[1]) < 2.0
