"""Wrong problems, each answered by one sentence that says what is wrong, before anything is solved."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from odenet import pde
from odenet.errors import BadInput, UnknownName
from odenet.fields import jets
from odenet.pde.ansatz import ansatz
from odenet.pde.collocation import blocks
from odenet.pde.operators import called
from odenet.pde.shapes import Disk

PI = math.pi
LINE = pde.Interval(0, 1)
STRIP = LINE * pde.Time(0, 1)
SQUARE = pde.Box((0, 0), (1, 1))


def heat(u: Any) -> Any:
    return u.t - u.xx


def start(x: Any) -> Any:
    return torch.sin(PI * x)


def stated(
    residual: Any = heat, conditions: Any = None, domain: Any = STRIP, **words: Any
) -> Callable[[], pde.Problem]:
    """A statement to be made later; by default the heat equation, which is right."""
    right = [pde.initial(start), pde.dirichlet(0.0)]
    return lambda: pde.Problem(domain, residual, right if conditions is None else conditions, **words)


def test_the_right_problem_is_accepted() -> None:
    assert stated()().linear
    assert stated(lambda u: u.t - u * u.xx)().linear is False


POINTS = torch.tensor([[0.5, 0.5], [0.2, 0.1]], dtype=torch.float64)
ENDS = [pde.initial(start), pde.dirichlet(0.0)]
FLOW = [pde.dirichlet(0.0, unknown="u"), pde.dirichlet(0.0, unknown="v")]

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    # domain
    "empty interval": (lambda: pde.Interval(1, 0), "the domain is empty: x runs from 1 to 0"),
    "empty time": (lambda: pde.Time(0, 0), "the domain is empty: t runs from 0 to 0"),
    "nothing left of a set": (
        lambda: pde.Box((0, 0), (1, 1)) - pde.Box((-1, -1), (2, 2)),
        "the domain is empty: no points were found",
    ),
    "infinite interval": (lambda: pde.Interval(0, math.inf), "holds a number that is not finite"),
    "time first": (lambda: pde.Time(0, 1) * LINE, "time comes last"),
    "bounds for a domain": (stated(domain=(0.0, 1.0)), r"a problem's domain is a Domain such as Interval\(0, 1\)"),
    # residual
    "no residual": (stated(3.0), "the residual must be a function of u, x, t"),
    "text": (stated(lambda u: "u.t"), "must return an expression in u such as u.t - u.xx"),
    "nothing returned": (stated(lambda u: None), "must return an expression in u .* got NoneType"),
    "no unknown in it": (stated(lambda x: x * x), r"the residual x x holds no unknown; there are: u"),
    "unknown derivative": (stated(lambda u: u.t - u.yy), "no derivative is called 'yy': the coordinates are x, t"),
    "too high order": (stated(lambda u: u.t + u.xxxxx), "the derivative 'xxxxx' has order 5"),
    "wrong argument name": (
        stated(lambda u, nuu: u.t - nuu * u.xx, parameters={"nu": 1.0}),
        r"asks for 'nuu', .*did you mean 'nu'",
    ),
    "branch on a value": (stated(lambda u: u.t - u.xx if u > 0 else u), "cannot branch on values: write torch.where"),
    "math on a field": (stated(lambda u: u.t - math.sin(u)), r"cannot be traced: .* write torch.sin\(u\)"),
    "numpy on a field": (stated(lambda u: u.t - np.sin(u)), r"cannot be traced: .* write torch.sin\(u\)"),
    "a table in the residual": (stated(lambda u: u.t - torch.ones(7)), r"belong into a data\(...\) condition"),
    "wrong shape": (
        stated(lambda u, x: u.t - torch.stack([u, x])),
        "torch.stack joins fields, but a residual is one number at each",
    ),
    "NaN source": (
        stated(lambda u, x: u.t - u.xx - torch.log(x - 2)),
        r"the residual is not finite at x = .*NaN source",
    ),
    "division by zero": (stated(lambda u: u.t - u.xx / (u.at(x=0.5, t=0.0) * 0.0)), "the residual is not finite"),
    "normal inside": (
        stated(lambda u, n_x: u.t - n_x * u.x),
        "an equation cannot use 'n_x': normals exist on the bound",
    ),
    # unknowns
    "unknown without equation": (
        stated(heat, [pde.initial(start, unknown="u"), FLOW[0]], unknowns=("u", "v")),
        "the unknown 'v' occurs in no equation and no condition",
    ),
    "too few equations": (
        stated(lambda u, v: u.xx + v.xx, FLOW, LINE, unknowns=("u", "v")),
        r"1 equation for 2 unknowns \(u, v\)",
    ),
    "name used twice": (stated(unknowns=("u", "u")), "the name 'u' is used twice"),
    "unknown called as a coordinate": (stated(lambda x: x.t, [], unknowns="x"), "the name 'x' is used twice"),
    "unusable name": (stated(unknowns="my field"), "'my field' is no usable name"),
    "no unknowns": (stated(unknowns=()), "at least one unknown"),
    # conditions
    "missing initial condition": (
        stated(conditions=[pde.dirichlet(0.0)]),
        r"so u is needed at the first time: add ini",
    ),
    "missing initial velocity": (
        stated(lambda u: u.tt - u.xx),
        r"the equation has u.tt, so u.t is needed .* initial\(..., order=1\)",
    ),
    "two initial conditions": (
        stated(conditions=[*ENDS, pde.initial(0.0)]),
        "two initial conditions of order 0 for u; keep one",
    ),
    "initial condition without time": (
        stated(lambda u: u.xx, ENDS, LINE),
        r"an initial condition needs time: .*space \* Time\(t0, t1\)",
    ),
    "missing boundary condition": (
        stated(conditions=[pde.initial(start), pde.dirichlet(0.0, on="left")]),
        "no condition holds on the piece 'right'",
    ),
    "missing hole": (
        stated(
            lambda u: pde.laplacian(u),
            pde.dirichlet(0.0, on=("left", "right", "top", "bottom")),
            SQUARE - Disk((0.5, 0.5), 0.2),
        ),
        "no condition holds on the piece 'disk'",
    ),
    "condition off the boundary": (
        stated(conditions=[pde.initial(start), pde.dirichlet(0.0, on="lefft")]),
        r"holds on 'lefft', which is no piece of the boundary; there are: left, right.*did you mean 'left'",
    ),
    "condition on a time that is not": (
        stated(lambda u: u.xx, pde.dirichlet(0.0, on="final"), LINE),
        "which is no piece of the boundary",
    ),
    "inconsistent data": (
        stated(conditions=[pde.initial(lambda x: torch.cos(PI * x)), pde.dirichlet(0.0)]),
        "contradict each other by 1 at .*allow_jumps=True",
    ),
    "two values at one place": (
        stated(conditions=[*ENDS, pde.dirichlet(1.0, on="left")]),
        "contradict each other by 1 at x = 0",
    ),
    "condition of an unknown that is not": (
        stated(conditions=[pde.initial(start), pde.dirichlet(0.0, unknown="w")]),
        "names the unknown 'w'; there are: u",
    ),
    "condition that does not say which unknown": (
        stated(lambda u, v: (u.xx, v.xx), pde.dirichlet(0.0), LINE, unknowns=("u", "v")),
        "say unknown='u'",
    ),
    "periodic in an axis that is not": (
        stated(conditions=[pde.initial(start), pde.periodic("y")]),
        r"periodic\('y'\): the coordinates are x, t",
    ),
    "an infinite value": (
        stated(conditions=[pde.initial(start), pde.dirichlet(lambda t: 1 / (t * 0))]),
        "the condition .* is not finite",
    ),
    "no condition at all but a number": (
        stated(conditions=[0.0]),
        "conditions are made by dirichlet, initial, .*float",
    ),
    "no weight": (lambda: pde.dirichlet(0.0, weight=0.0), "the weight of a condition is positive, got 0.0"),
    "a value that asks for more": (
        stated(conditions=[pde.initial(lambda z: z), pde.dirichlet(0.0)]),
        "the value of a condition asks for 'z'",
    ),
    "an order that is not": (lambda: pde.initial(0.0, order=7), r"initial\(order=7\)"),
    # measurements and parameters
    "data outside": (
        stated(conditions=[*ENDS, pde.data(POINTS + 1, [0.0, 0.0])]),
        r"data: point 0 = \(1.5, 1.5\) lies outside the dom",
    ),
    "data in a hole": (
        stated(
            lambda u: pde.laplacian(u),
            [pde.dirichlet(0.0), pde.data([[0.5, 0.5]], [1.0])],
            SQUARE - Disk((0.5, 0.5), 0.2),
        ),
        r"data: point 0 = \(0.5, 0.5\) lies outside the domain",
    ),
    "too few columns": (
        stated(conditions=[*ENDS, pde.data([0.1, 0.2], [1.0, 2.0])]),
        r"data: points are \(N, 2\), the columns x, t; got",
    ),
    "more points than values": (
        lambda: pde.data(POINTS, [1.0]),
        r"data: one value for each of the 2 points, \(N,\); got",
    ),
    "a measurement that is not": (lambda: pde.data(POINTS, [1.0, math.nan]), "data: row 1 is not finite"),
    "parameter never used": (
        stated(parameters={"nu": 1.0}, conditions=[*ENDS, pde.data(POINTS, [0.0, 0.0])]),
        "the parameter 'nu' occurs in no equation",
    ),
    "parameter without data": (
        stated(lambda u, nu: u.t - nu * u.xx, parameters={"nu": 1.0}),
        "the parameters nu cannot be found without measure",
    ),
    "a parameter that is no number": (
        stated(lambda u, nu: u.t - nu * u.xx, parameters={"nu": "one"}),
        "the parameter 'nu' starts at 'one'",
    ),
    # truths
    "exact solution that misses a condition": (
        stated(exact=lambda x, t: torch.cos(PI * x) * torch.exp(-(PI**2) * t)),
        "the exact solution misses the condition",
    ),
    "exact solution of another equation": (
        stated(exact=lambda x, t: torch.sin(PI * x) * torch.exp(-t)),
        "the exact solution does not satisfy the equation",
    ),
    "exact solution of too few unknowns": (
        stated(lambda u, v: (u.xx, v.xx), FLOW, LINE, unknowns=("u", "v"), exact=lambda x: 0 * x),
        r"the exact solution has shape \(.*, 1\); wanted \(.*, 2\)",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_statement_is_answered_in_one_sentence(name: str) -> None:
    make, words = WRONG[name]
    with pytest.raises(BadInput) as caught:
        make()
    message = str(caught.value)
    assert re.search(words, message), message
    assert "\n" not in message and len(message) < 600


RIGHT = stated()
SOLVING: dict[str, tuple[dict[str, Any], str]] = {
    "unknown method": ({"method": "gauss_newtn"}, "no PDE method is called 'gauss_newtn'; did you mean 'gauss_newton'"),
    "unknown option": ({"method": "gauss_newton", "widht": 3}, "has no option 'widht'; did you mean 'width'"),
    "no time": ({"seconds": 0.0}, "seconds is a positive budget, got 0.0"),
    "negative time": ({"seconds": -1.0}, "seconds is a positive budget, got -1.0"),
    "no points": ({"method": "gauss_newton", "points": 0}, "at least one point, got 0"),
    "unknown sampling": ({"method": "gauss_newton", "sampling": "sobel"}, "no sampler is called 'sobel'"),
    "unknown activation": ({"method": "gauss_newton", "activation": "relu"}, "no smooth activation is called 'relu'"),
    "resume without a folder": ({"method": "gauss_newton", "resume": True}, "resume=True needs the folder"),
    "model with wrong inputs": (
        {"method": "gauss_newton", "model": nn.Linear(5, 1).double()},
        "the model cannot take the 2 inputs",
    ),
    "model with wrong outputs": (
        {"method": "gauss_newton", "model": nn.Linear(2, 3).double()},
        r"the model gives \(2, 3\) for 2 points; wanted \(2, 1\)",
    ),
    "float32 model": ({"method": "gauss_newton", "model": nn.Linear(2, 1)}, r"float32 weights.*pass model.double\(\)"),
}


@pytest.mark.parametrize("name", list(SOLVING))
def test_a_solve_that_cannot_be_is_answered_in_one_sentence(name: str) -> None:
    words, expected = SOLVING[name]
    with pytest.raises(BadInput) as caught:
        pde.solve(RIGHT(), **{"seconds": 0.2, **words})
    assert re.search(expected, str(caught.value)), str(caught.value)


def test_a_solve_wants_a_problem() -> None:
    with pytest.raises(BadInput, match="takes a Problem or the name of one; got int"):
        pde.solve(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'burgers'"):
        pde.solve("burger")


@pytest.mark.parametrize(
    "condition",
    [
        pde.on_points(pde.dirichlet(0.0, on="left", hard=True), torch.tensor([[0.0, 0.5]])),
        pde.dirichlet(lambda t, nu: nu * t, on="left", hard=True),
    ],
    ids=["points", "parameter"],
)
def test_a_hard_condition_that_cannot_be_is_refused(condition: pde.Condition) -> None:
    problem = pde.Problem(
        STRIP,
        lambda u, nu: u.t - nu * u.xx,
        [condition, pde.initial(0.0), pde.dirichlet(0.0, on="right"), pde.data(POINTS, [0.1, 0.2])],
        parameters={"nu": 1.0},
        allow_jumps=True,
    )
    with pytest.raises(BadInput, match="cannot be met by construction; leave hard out"):
        pde.solve(problem, "gauss_newton", seconds=0.2)


# ---- what looks odd and is right -----------------------------------------------------------------------------------


def test_a_jump_that_is_meant_is_allowed() -> None:
    stated(conditions=[pde.initial(1.0), pde.dirichlet(0.0)], allow_jumps=True)()


def test_first_order_equations_need_conditions_on_no_particular_piece() -> None:
    stated(lambda u: u.t + u.x, [pde.initial(0.0), pde.dirichlet(0.0, on="left")])()
    stated(lambda u: u.x**2 + u.y**2 - 1, pde.dirichlet(0.0, on="left"), SQUARE)()


def test_measurements_stand_in_for_initial_and_boundary_values() -> None:
    problem = stated(lambda u, nu: u.t - nu * u.xx, pde.data(POINTS, [0.1, 0.2]), parameters={"nu": 1.0})()
    assert problem.inverse


def test_periodic_ends_need_no_values() -> None:
    stated(conditions=[pde.initial(lambda x: torch.sin(2 * PI * x)), pde.periodic("x")])()


def test_equations_on_parts_of_the_domain_are_accepted() -> None:
    problem = pde.Problem(
        LINE,
        [
            pde.Equation(lambda u: u.xx, within=pde.Interval(0, 0.5)),
            pde.Equation(lambda u: 3 * u.xx, within=pde.Interval(0.5, 1)),
        ],
        pde.dirichlet(lambda x: x),
    )
    first, second = blocks(problem, 50, torch.Generator().manual_seed(0))[:2]
    assert first.x.shape == second.x.shape == (50, 1)
    assert float(first.x.max()) <= 0.5 <= float(second.x.min())


def _met_by(problem: pde.Problem) -> float:
    """The largest miss of the conditions that a model meets by construction; all of them are met so."""
    model, worst = ansatz(problem, width=5, depth=1), 0.0
    assert len(model.hard.met) == len(problem.conditions)
    for c in problem.conditions:
        for piece in c.pieces:
            x = problem.domain.boundary(piece, 40, torch.Generator().manual_seed(3), "uniform").x
            columns = dict(zip(problem.frame.coordinates, x.unbind(1)))
            wanted = called(c.value, columns, problem.frame.coordinates) if callable(c.value) else c.value
            worst = max(worst, float((model(x)[:, 0] - wanted).detach().abs().max()))
    return worst


def test_values_on_the_sides_of_a_square_are_continued_smoothly() -> None:
    corner = torch.tensor([[1e-7, 1e-7], [1 - 1e-7, 1e-7]], dtype=torch.float64)
    problem = pde.Problem(
        SQUARE,
        lambda u: pde.laplacian(u),
        [
            pde.dirichlet(lambda y: torch.cos(y), on="left"), pde.dirichlet(lambda y: 2 * torch.cos(y), on="right"),
            pde.dirichlet(lambda x: 1 + x**2, on="bottom"),
            pde.dirichlet(lambda x: (1 + x**3) * math.cos(1.0), on="top"),
        ],
    )  # fmt: skip
    assert _met_by(problem) < 1e-14
    model = ansatz(problem, width=5, depth=1)
    with torch.no_grad():
        parts = model.channels(model.prepared(corner, ((0, 0), (1, 0), (0, 1), (2, 0))))
    assert float(parts.abs().max()) < 20.0


def test_values_that_disagree_at_a_corner_are_met_away_from_it() -> None:
    walls = ("left", "right", "bottom")
    problem = pde.Problem(
        SQUARE, lambda u: pde.laplacian(u), [pde.dirichlet(1.0, on="top"), pde.dirichlet(0.0, on=walls)]
    )
    assert _met_by(problem) < 1e-12


def test_values_of_both_ends_that_move_in_time_start_from_an_initial_velocity() -> None:
    problem = stated(
        lambda u: u.tt - u.xx,
        [
            pde.initial(lambda x: x), pde.initial(0.0, order=1), pde.dirichlet(0.0, on="left"),
            pde.dirichlet(lambda t: torch.cos(t), on="right"),
        ],
    )()  # fmt: skip
    model = ansatz(problem, width=5, depth=1)
    x = torch.tensor([[0.3, 0.0], [0.8, 0.0]], dtype=torch.float64)
    channels = jets.closed([(0, 1)])
    with torch.no_grad():
        parts = dict(zip(channels, model.channels(model.prepared(x, channels))[..., 0]))
    assert torch.allclose(parts[0, 0], x[:, 0], atol=1e-14)
    assert float(parts[0, 1].abs().max()) < 1e-14


def test_reports_tell_the_conditions_of_a_system_apart() -> None:
    problem = pde.get("burgers_2d")
    names = [b.name for b in blocks(problem, 20, torch.Generator().manual_seed(0))]
    assert len(set(names)) == len(names)
    assert {"dirichlet(u) left", "dirichlet(v) left", "initial(u) initial", "initial(v) initial"} < set(names)
    assert "initial(order=1) initial" in [b.name for b in blocks(pde.get("wave"), 20, torch.Generator().manual_seed(0))]
