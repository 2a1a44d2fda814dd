"""L-shape, holes and Darcy: particular solutions against finite elements, finite elements against differences."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pde_reference_oracles import chebyshev, derivative, sampled

from odenet.pde import reference
from odenet.pde.reference import finite_element
from odenet.pde.reference.particular import segment
from odenet.pde.reference.spectral import graded

CORNERS = ((1.0, 0.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (0.0, 1.0))
HOLES, RADIUS = ((0.3, 0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3)), 0.1


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODENET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def one(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


def zero(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def l_shape_by_elements(p: int, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    inner = graded(1.0, smallest, 4.0, 0.3)
    lines = np.concatenate([-inner[::-1], inner[1:]])
    grid = finite_element.mesh(finite_element.rectangles(lines, lines, lambda x, y: x < 0 or y < 0), p)
    x, y = grid.nodes.T
    fixed = (np.abs(grid.nodes) > 1 - 1e-12).any(1) | ((x > -1e-12) & (y > -1e-12))
    return grid.nodes, finite_element.solve_elliptic(grid, one, one, fixed, np.zeros(len(x)))


def test_the_l_shape_agrees_with_finite_elements_graded_to_the_corner() -> None:
    ours, gaps = reference.l_shape(), []
    for p, smallest in ((3, 1e-3), (6, 1e-5)):
        nodes, u = l_shape_by_elements(p, smallest)
        gaps.append(float(np.abs(ours(torch.from_numpy(nodes))[:, 0].numpy() - u).max()))
    assert gaps[0] < 1e-3
    assert gaps[1] < gaps[0] / 10  # r^2 log r at the outer corners, where these elements are not graded


def test_the_l_shape_satisfies_its_equation_and_the_boundary_bounds_its_error() -> None:
    ours = reference.l_shape()
    x, u = sampled(ours)
    laplace = derivative(u[:, 0], x, 0, 0) + derivative(u[:, 0], x, 1, 1)
    assert torch.allclose(laplace.detach(), torch.tensor(-1.0, dtype=torch.float64), rtol=0, atol=1e-7)
    turns = ((0.0, 0.0), *CORNERS, (0.0, 0.0))
    sides = torch.cat([segment(a, b, 333) for a, b in pairwise(turns)])
    assert ours(sides).abs().max() < 1e-12
    assert ours.error < 1e-11


def test_the_l_shape_is_symmetric_about_its_diagonal() -> None:
    ours = reference.l_shape()
    x = ours.points(100)
    assert torch.allclose(ours(x), ours(x.flip(1)), rtol=0, atol=1e-12)


def disc_in_a_square(p: int, rings: int) -> finite_element.Mesh:
    """The quarter [0, 1/2]^2 without its disc: four curved blocks between the circle and the sides."""
    c = HOLES[0][0]
    corners = [(0.5, 0.5), (0.0, 0.5), (0.0, 0.0), (0.5, 0.0), (0.5, 0.5)]

    def block(a: tuple[float, float], b: tuple[float, float], r0: float, r1: float, f0: float, f1: float):
        start, end = (math.atan2(y - c, x - c) for x, y in (a, b))
        end += 2 * math.pi if end < start else 0.0

        def to(s: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            along, out = f0 + (f1 - f0) * (s + 1) / 2, r0 + (r1 - r0) * (t + 1) / 2
            angle = start + (end - start) * along
            sides = (a[0] + (b[0] - a[0]) * along, a[1] + (b[1] - a[1]) * along)
            rims = (c + RADIUS * np.cos(angle), c + RADIUS * np.sin(angle))
            return tuple((1 - out) * rim + out * side for rim, side in zip(rims, sides))  # type: ignore[return-value]

        return to

    cuts = np.linspace(0, 1, rings + 1)
    return finite_element.mesh(
        [
            block(a, b, r0, r1, f0, f1)
            for a, b in pairwise(corners)
            for r0, r1 in pairwise(cuts)
            for f0, f1 in pairwise(cuts)
        ],
        p,
    )


def test_the_square_with_holes_agrees_with_curved_finite_elements() -> None:
    ours, gaps = reference.poisson_holes(), []
    for p, rings in ((4, 2), (8, 3)):
        grid = disc_in_a_square(p, rings)
        x, y = grid.nodes.T
        outer = (x > 0.5 - 1e-12) | (y > 0.5 - 1e-12)
        inner = np.hypot(x - 0.3, y - 0.3) < RADIUS + 1e-9
        u = finite_element.solve_elliptic(grid, one, zero, outer | inner, outer.astype(float))
        gaps.append(float(np.abs(ours(torch.from_numpy(grid.nodes))[:, 0].numpy() - u).max()))
    assert gaps[0] < 0.05
    assert gaps[1] < gaps[0] / 100


def test_the_square_with_holes_meets_its_boundary_values_and_is_harmonic() -> None:
    ours = reference.poisson_holes()
    x, u = sampled(ours)
    laplace = derivative(u[:, 0], x, 0, 0) + derivative(u[:, 0], x, 1, 1)
    assert laplace.detach().abs().max() < 1e-8
    angle = torch.linspace(0, 2 * math.pi, 101, dtype=torch.float64)
    for hole in HOLES:
        rim = torch.tensor(hole, dtype=torch.float64) + RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
        assert ours(rim).abs().max() < 1e-11
    for a, b in (((-0.5, -0.5), (0.5, -0.5)), ((0.5, -0.5), (0.5, 0.5)), ((-0.5, 0.5), (-0.5, -0.5))):
        assert torch.allclose(ours(segment(a, b, 99)), torch.ones(1).double(), rtol=0, atol=1e-11)


def darcy_by_chebyshev(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, d = chebyshev(n, 0.0, 1.0)
    k = np.exp(2 * np.sin(2 * math.pi * x)[:, None] * np.cos(math.pi * x)).ravel()
    eye = np.eye(n + 1)
    dx, dy = np.kron(d, eye), np.kron(eye, d)
    matrix = -(dx @ (k[:, None] * dx) + dy @ (k[:, None] * dy))
    inner = np.zeros((n + 1, n + 1), bool)
    inner[1:-1, 1:-1] = True
    keep = inner.ravel()
    points = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)[keep]
    return points, np.linalg.solve(matrix[np.ix_(keep, keep)], np.ones(keep.sum()))


@pytest.mark.slow
def test_darcy_agrees_with_chebyshev_collocation() -> None:
    ours, gaps = reference.darcy(), []
    for n in (24, 40):
        points, u = darcy_by_chebyshev(n)
        gaps.append(float(np.abs(ours(torch.from_numpy(points))[:, 0].numpy() - u).max() / u.max()))
    assert ours.error < 1e-8
    assert gaps[0] < 2e-4
    assert gaps[1] < 1e-5


def test_darcy_without_contrast_is_the_series_of_the_square() -> None:
    ours = reference.darcy(contrast=0.0, degree=7)
    x = torch.tensor([[0.5, 0.5], [0.2, 0.7], [0.03, 0.9]], dtype=torch.float64)
    k = torch.arange(1, 400, 2, dtype=torch.float64) * math.pi
    s, t = x[:, :1], x[:, 1:]
    ratio = (torch.exp(-k * t) + torch.exp(-k * (1 - t))) / (1 + torch.exp(-k))  # cosh(k (t - 1/2)) / cosh(k / 2)
    series = (4 / k**3 * torch.sin(k * s) * (1 - ratio)).sum(1)
    assert torch.allclose(ours(x)[:, 0], series, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_the_permeability_is_the_one_that_the_reference_is_computed_with() -> None:
    """-div(k grad u) = 1 at points inside, with the stated k."""
    ours = reference.darcy(contrast=1.0)
    x = (0.2 + 0.6 * ours.points(40)).requires_grad_()
    u, k = ours(x)[:, 0], reference.permeability(x, 1.0)
    flux = [k * derivative(u, x, axis) for axis in (0, 1)]
    balance = derivative(flux[0], x, 0) + derivative(flux[1], x, 1)
    assert torch.allclose(balance.detach(), torch.tensor(-1.0, dtype=torch.float64), rtol=0, atol=1e-4)
