"""Symmetries read off a statement against the true solutions, and models that have them; corners and seams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from odenet import pde
from odenet.errors import BadInput, Incompatible
from odenet.fields import jets
from odenet.pde.ansatz import ansatz, hard
from odenet.pde.corners import Corners, corners_of
from odenet.pde.methods.random_feature_basis import Axis, draw
from odenet.pde.symmetry import parity
from odenet.pde.windows import window

SYMMETRIC = {
    "allen_cahn": {"x": 1}, "allen_cahn_periodic": {"x": 1}, "burgers": {"x": -1}, "heat": {"x": 1},
    "heat_multiscale": {"x": -1, "y": 1}, "heat_variable": {"x": 1}, "helmholtz": {"x": -1, "y": -1}, "ks": {"x": -1},
    "poisson": {"x": 1, "y": 1}, "poisson_holes": {"x": 1, "y": 1}, "reaction": {"x": 1},
    "reaction_diffusion": {"x": 1}, "schrodinger": {"x": 1}, "sine_gordon": {"x": 1},
}  # fmt: skip
PLAIN = ("convection", "kdv", "ks_chaotic", "wave", "klein_gordon", "advection_diffusion", "poisson_lshape")


def mirrored(problem: pde.Problem, x: Tensor, axis: str) -> Tensor:
    i, y = problem.frame.coordinates.index(axis), x.clone()
    y[:, i] = problem.domain.bounds[:, i].sum() - x[:, i]
    return y


@pytest.mark.parametrize("name", [*SYMMETRIC, *PLAIN])
def test_the_symmetries_of_a_statement_are_those_of_its_solution(name: str) -> None:
    problem = pde.get(name)
    found = parity(problem)
    assert found == SYMMETRIC.get(name, {})
    x = problem.domain.sample(60, torch.Generator().manual_seed(2), "uniform")
    here = problem.truth(x)
    for axis in problem.domain.space.names:
        y = mirrored(problem, x, axis)
        there = problem.truth(y)[problem.domain.inside(y)]
        signs = [s for s in (1, -1) if torch.allclose(here[problem.domain.inside(y)], s * there, rtol=1e-7, atol=1e-7)]
        assert signs == [found[axis]] if axis in found else not signs


def heat(residual: Any = lambda u: u.t - u.xx, start: Any = None, low: float = 0.0, high: float = 0.0) -> pde.Problem:
    start = start or (lambda x: torch.sin(math.pi * x))
    values = [pde.dirichlet(low, on="left"), pde.dirichlet(high, on="right")]
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 1), residual, [pde.initial(start), *values], allow_jumps=True
    )  # fmt: skip


@pytest.mark.parametrize(("words", "found"), [
    ({}, {"x": 1}),
    ({"start": lambda x: torch.sin(2 * math.pi * x)}, {"x": -1}),
    ({"start": lambda x: x * torch.sin(math.pi * x)}, {}),
    ({"low": 1.0, "high": 1.0}, {"x": 1}),
    ({"low": 1.0}, {}),
    ({"low": -1.0, "high": 1.0, "start": lambda x: torch.cos(math.pi * x)}, {"x": -1}),
    ({"residual": lambda u: u.t - u.xx + 0.1 * u.x}, {}),
    ({"residual": lambda u: u.t - u.xx - u * u.x}, {}),
    ({"residual": lambda u, x: u.t - u.xx + x * u}, {}),
    ({"residual": lambda u, x: u.t - u.xx + x * (1 - x) * u - u**3}, {"x": 1}),
])  # fmt: skip
def test_what_breaks_a_symmetry_is_seen(words: dict[str, Any], found: dict[str, int]) -> None:
    assert parity(heat(**words)) == found


def test_problems_with_other_conditions_or_several_solutions_have_none() -> None:
    line = pde.Interval(0, 1)
    flux = pde.Problem(line, lambda u: u.xx + 1, [pde.neumann(0.0, on="left"), pde.dirichlet(0.0, on="right")])
    bent = pde.Problem(line, lambda u: u.xx + torch.exp(u), pde.dirichlet(0.0))  # Bratu: two solutions
    assert parity(flux) == parity(bent) == parity(pde.get("inverse_heat")) == {}


@pytest.mark.parametrize(("name", "axis", "sign"), [("allen_cahn", "x", 1), ("ks", "x", -1), ("poisson", "y", 1)])
def test_a_model_has_the_symmetry_for_any_weights(name: str, axis: str, sign: int) -> None:
    problem = pde.get(name)
    model = ansatz(problem, parity=parity(problem), harmonics=2, seed=1)
    x = problem.domain.sample(30, torch.Generator().manual_seed(0), "uniform")
    with torch.no_grad():
        torch.testing.assert_close(model(x), sign * model(mirrored(problem, x, axis)), rtol=1e-11, atol=1e-12)
    plain = ansatz(problem, seed=1)
    with torch.no_grad():
        assert float((plain(x) - sign * plain(mirrored(problem, x, axis))).abs().max()) > 1e-4


def test_an_odd_solution_of_an_interval_keeps_its_plain_axis() -> None:
    problem = pde.get("burgers")
    assert ansatz(problem, parity=parity(problem)).features.parity == {}


@pytest.mark.parametrize("sign", [1, -1])
def test_features_on_a_circle_are_cosines_or_sines(sign: int) -> None:
    found = draw([Axis(-1.0, 3.0, True, parity=sign)], 7, torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 3, 33, dtype=torch.float64)[:, None]
    angle = math.pi / 2 * (x - 1.0) * torch.arange(0 if sign > 0 else 1, 7 if sign > 0 else 8)
    torch.testing.assert_close(found(x, [(0,)])[(0,)], torch.cos(angle) if sign > 0 else torch.sin(angle))


def test_a_march_of_half_the_features_gives_the_solution_of_all() -> None:
    half = pde.solve("ks", "random_features", 60, tolerance=1e-6)
    assert half.rel_l2 < 1e-7
    x = half.problem.domain.sample(20, torch.Generator().manual_seed(0), "uniform")
    torch.testing.assert_close(half.u(x), -half.u(mirrored(half.problem, x, "x")), rtol=1e-12, atol=1e-13)


# ---- corners ---------------------------------------------------------------------------------------------------------


def test_singular_functions_beside_a_trunk_carry_their_derivatives() -> None:
    problem = pde.get("poisson_lshape")
    corners = corners_of(problem.domain)
    model = ansatz(problem, width=5, depth=1, corners=corners, seed=2)
    with torch.no_grad():
        model.trunk.amplitudes.copy_(torch.randn(corners.size, 1, generator=torch.Generator().manual_seed(1)))  # type: ignore[union-attr,operator]
    x = problem.domain.sample(9, torch.Generator().manual_seed(0), "uniform")
    channels = jets.closed([(2, 0), (1, 1), (0, 2)])
    found = model.channels(model.prepared(x, channels))
    z = x.clone().requires_grad_()
    value = model(z)[:, 0]
    slope = torch.autograd.grad(value.sum(), z, create_graph=True)[0]
    twice = [torch.autograd.grad(slope[:, i].sum(), z, retain_graph=True)[0] for i in (0, 1)]
    wanted = {(0, 0): value, (1, 0): slope[:, 0], (0, 1): slope[:, 1], (2, 0): twice[0][:, 0], (1, 1): twice[0][:, 1],
              (0, 2): twice[1][:, 1]}  # fmt: skip
    for c, part in zip(channels, found):
        torch.testing.assert_close(part[:, 0], wanted[c], rtol=1e-9, atol=1e-9)


def test_a_net_solves_the_l_shape_where_singular_functions_stand_beside_it(tmp_path: Path) -> None:
    sol = pde.solve("poisson_lshape", "gauss_newton", 200, width=10, depth=2, points=600, steps=40, track=False)
    assert sol.rel_l2 < 1e-3
    x = sol.problem.domain.sample(5, torch.Generator().manual_seed(0), "uniform")
    assert torch.equal(pde.load(sol.save(tmp_path)).u(x), sol.u(x))


def test_only_a_reentrant_corner_brings_singular_functions() -> None:
    square = pde.Problem(
        pde.Polygon(((0, 0), (1, 0), (1, 1), (0, 1)), names=("x", "y")),
        lambda u: pde.laplacian(u) + 1, pde.dirichlet(0.0),
    )  # fmt: skip
    assert not corners_of(square.domain).reentrant and corners_of(pde.get("poisson_lshape").domain).reentrant
    sol = pde.solve(square, "gauss_newton", 5, width=4, depth=1, points=50, steps=1, track=False)
    assert sol.field.ansatz.features.size == 2  # type: ignore[attr-defined]


def test_singular_functions_refuse_functions_of_the_coordinates() -> None:
    x = jets.lift(torch.rand(3, 2, dtype=torch.float64), [(1, 1)])
    with pytest.raises(Incompatible, match="take the coordinates themselves"):
        Corners(((0.0, 0.0, 0.0, 1.5 * math.pi),)).columns(x * x)


# ---- seams: periodic conditions beside initial values, and windows ---------------------------------------------------


def test_initial_values_that_break_a_periodicity_go_by_weight() -> None:
    problem = pde.get("schrodinger")  # 2 sech x: its slope jumps where the ends meet
    met = [(c.kind, c.unknown) for c in hard(problem).met]
    assert met == [("periodic", None), ("initial", "v")]
    assert [c.kind for c in hard(pde.get("kdv")).met] == ["periodic", "initial"]


def test_such_values_cannot_be_asked_for_exactly() -> None:
    with pytest.raises(BadInput, match=r"initial.* cannot be met by construction beside periodic.*not periodic"):
        pde.solve(pde.Problem(
            pde.Interval(-1, 1) * pde.Time(0, 1), lambda u: u.t - u.xx,
            [pde.initial(lambda x: x**2, hard=True), pde.periodic("x")],
        ), "gauss_newton", 1)  # fmt: skip


class Counted:
    """The state sin(x + t) of a window before, which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        self.asked += 1
        return torch.stack([torch.sin(x.sum(1) + sum(c) * math.pi / 2) for c in channels])[..., None]

    def tensors(self) -> dict[str, Tensor]:
        return {}


def test_a_window_asks_the_one_before_once_for_all_its_initial_conditions() -> None:
    before = Counted()
    problem = window(pde.get("wave"), 0.5, 1.0, before)
    model = ansatz(problem, seed=0)
    x = torch.tensor([[0.3, 0.5], [0.6, 0.5], [0.2, 0.7]], dtype=torch.float64)
    before.asked = 0
    _, lift, _ = model.prepared(x, jets.closed([(2, 0), (0, 2)]))
    assert before.asked == 1
    found = dict(zip(lift.channels, lift.parts[:, :2, 0]))
    for c in ((0, 0), (1, 0), (2, 0), (0, 1)):  # values and velocities at the start of the window
        wanted = torch.sin(x[:2].sum(1) + sum(c) * math.pi / 2)
        torch.testing.assert_close(found[c], wanted, rtol=1e-9, atol=1e-9)
