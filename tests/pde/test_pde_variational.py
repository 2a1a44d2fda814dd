"""hp-variational nets: integrals in closed form, both forms of the integrals, a boundary layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from odenet import pde
from odenet.errors import Incompatible
from odenet.pde.ansatz import ansatz
from odenet.pde.collocation import Block, Collocation
from odenet.pde.methods.variational import Variational, elements, measures
from odenet.pde.methods.variational import tests as functions

REAL, PI = torch.float64, math.pi


def solved(problem: pde.Problem, **words: Any) -> pde.Solution:
    return pde.solve(problem, method="hp_vpinn", seconds=60, track=False, **words)


def layer(eps: float = 0.03) -> pde.Problem:
    """-u'' = f with u = x - (e^{(x - 1) / eps} - e^{-1 / eps}) / (1 - e^{-1 / eps}): a layer at the right end."""
    low = math.exp(-1 / eps)
    return pde.Problem(
        pde.Interval(0, 1),
        lambda u, x: -u.xx - torch.exp((x - 1) / eps) / (eps**2 * (1 - low)),
        pde.dirichlet(0.0),
        exact=lambda x: x - (torch.exp((x - 1) / eps) - low) / (1 - low),
    )


def reaction() -> pde.Problem:
    """-(u_xx + 2 u_yy) + x u_xx / 3 + u^3 + u_xy = f: a factor that is no constant, a mixed derivative."""
    return pde.Problem(
        pde.Box((0, 0), (1, 2)),
        lambda u, x, y: -(u.xx + 2 * u.yy) + x * u.xx / 3 + u**3 + u.xy - torch.sin(x * y),
        pde.dirichlet(0.0),
    )


def heat() -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 1),
        lambda u: u.t - u.xx / 4,
        [pde.initial(lambda x: torch.sin(PI * x)), pde.dirichlet(0.0)],
        exact=lambda x, t: torch.exp(-(PI**2) / 4 * t) * torch.sin(PI * x),
    )


def wave() -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 1),
        lambda u: u.tt - 4 * u.xx,
        [pde.initial(lambda x: torch.sin(PI * x)), pde.initial(0.0, order=1), pde.dirichlet(0.0)],
    )


@pytest.mark.parametrize("j", [0, 1, 2, 4, 6])
def test_integrals_of_legendre_polynomials_are_those_of_orthogonality(j: int) -> None:
    x, v, slope = functions(6, 12)
    P = torch.special.legendre_polynomial_p(x, torch.tensor(j))
    for k in range(1, 7):
        by_hand = (2 / (2 * k + 3) if j == k + 1 else 0.0) - (2 / (2 * k - 1) if j == k - 1 else 0.0)
        assert float(v[k - 1] @ P) == pytest.approx(by_hand, abs=1e-14)
        rising = 2 * (j == k)  # integral of P_j (2 k + 1) P_k
        assert float(slope[k - 1] @ P) == pytest.approx(rising, abs=1e-13)


def test_integrals_over_an_element_are_those_in_closed_form() -> None:
    """v_1 on [a, b] is -(3/2) (1 - s^2): its integrals against 1, x, and its slope against x."""
    (a, b), (c, d) = (0.2, 0.5), (-1.0, 1.5)
    points, matrix = measures([(a, b), (c, d)], 3, 8)
    assert points.shape == (64, 2) and matrix.shape == (9, 64)
    one = -(b - a)  # integral of v_1 over [a, b]
    other = -(d - c)
    assert float(matrix[0].sum()) == pytest.approx(one * other, abs=1e-14)
    assert float(matrix[0] @ points[:, 0]) == pytest.approx(one * other * (a + b) / 2, abs=1e-14)
    _, along = measures([(a, b), (c, d)], 3, 8, along=1)
    assert float(along[0] @ points[:, 1]) == pytest.approx(-one * other, abs=1e-14)  # by parts: minus that of v_1
    assert abs(float(along[0].sum())) < 1e-14


def test_elements_tile_the_box() -> None:
    boxes = elements([0.0, -1.0], [1.0, 1.0], [2, 3])
    assert len(boxes) == 6 and sum((b - a) * (d - c) for (a, b), (c, d) in boxes) == pytest.approx(2.0)


@pytest.mark.parametrize("maker", [layer, reaction, heat, wave])
def test_integration_by_parts_changes_no_row(maker: Any) -> None:
    problem, found = maker(), []
    model = ansatz(problem, width=4, depth=1, seed=2)
    for parts in (True, False):
        method = Variational(parts=parts, elements=2, degree=3, quadrature=24)
        made = method.blocks(problem, model, torch.Generator().manual_seed(0))
        system = Collocation(model, made)
        assert made[0].measure is not None
        assert (made[0].measure.shape[2] > 1) == parts
        found.append(system.residual(system.theta()))
    assert len(found[0]) == 3**problem.dim * 2**problem.dim
    assert torch.allclose(*found, rtol=0, atol=1e-9 * float(found[0].abs().max()))
    assert float(found[0].abs().max()) > 1e-3


def test_second_derivatives_with_constant_factors_are_gone_and_others_stay() -> None:
    problem = reaction()
    model = ansatz(problem, width=4, depth=1)
    (block, *_) = Variational(elements=1, degree=2).blocks(problem, model, torch.Generator().manual_seed(0))
    assert {leaf.index for leaf in block.leaves} == {(2, 0), (0, 1), (0, 0), (1, 1)}


@pytest.mark.parametrize("measure", ["vector", "matrix", "both"])
def test_jacobians_under_a_measure_are_those_of_differences(measure: str) -> None:
    problem = heat()
    model = ansatz(problem, width=4, depth=1, seed=1)
    g = torch.Generator().manual_seed(0)
    x = problem.domain.sample(9, g)
    rows = problem.traced[0][1] * (2 if measure == "both" else 1)
    shape = {"vector": (9,), "matrix": (4, 9), "both": (4, 9, 2)}[measure]
    block = Block("integrals", rows, x, {}, 2.0, torch.rand(shape, dtype=REAL, generator=g), 0.3)
    system = Collocation(model, [block])
    theta = system.theta()
    ((r, J),) = system.blocks(theta)
    assert len(r) == system.rows == (1 if measure == "vector" else 4) and torch.equal(r, system.residual(theta))
    whole = block.residual(block.values(model.channels(system.ready[0]), ("u",)), {}).detach()
    assert block.measure is not None
    by_hand = block.measure.reshape(len(r), -1) @ whole.reshape(-1) - 0.3
    assert torch.allclose(r, by_hand * math.sqrt(2.0 / len(r)), rtol=1e-12, atol=1e-14)
    for k in range(0, len(theta), 3):
        e = torch.zeros_like(theta)
        e[k] = 1e-5
        slope: Tensor = (system.residual(theta + e) - system.residual(theta - e)) / 2e-5
        assert torch.allclose(J[:, k], slope, rtol=1e-6, atol=1e-9)
    assert torch.allclose(system.pullback(theta)[1], J.T @ r, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("parts", [True, False])
def test_a_boundary_layer_is_found(parts: bool) -> None:
    sol = solved(layer(0.05), parts=parts, elements=8, degree=6, width=20, depth=1, steps=150)
    assert sol.rel_l2 is not None and sol.rel_l2 < 1e-5 and sol.residual < 1e-3


def test_the_heat_equation_is_solved_and_restored(tmp_path: Path) -> None:
    sol = solved(heat(), elements=2, degree=5, width=10, depth=1, steps=40)
    x = heat().domain.sample(200)
    truth = heat().truth(x)
    assert truth is not None and float((sol.u(x) - truth).norm() / truth.norm()) < 1e-4
    assert sol.residual < 1e-2  # at points, which no row has seen
    sol.save(tmp_path)
    assert torch.equal(pde.load(tmp_path, heat()).u(x), sol.u(x))


def test_too_few_quadrature_points_are_confessed() -> None:
    sol = solved(layer(0.005), elements=1, degree=4, quadrature=5, width=12, depth=1, steps=60)
    assert sol.status == "suspect" and "quadrature" in sol.message


def test_other_domains_and_inverse_problems_are_refused() -> None:
    from odenet.pde.shapes import Disk

    disk = pde.Problem(Disk((0, 0), 1), lambda u: pde.laplacian(u) + 1, pde.dirichlet(0.0))
    with pytest.raises(Incompatible, match="elements tile"):
        solved(disk)
    with pytest.raises(Incompatible, match="2 numbers for 1"):
        solved(layer(), elements=(2, 2))
