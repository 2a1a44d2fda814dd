"""Smooth distance functions against brute-force distances, normals and finite derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from odenet.errors import BadInput, Incompatible
from odenet.fields import jets
from odenet.pde import distance
from odenet.pde.domain import Box, Domain, Hypercube, Interval, Time
from odenet.pde.shapes import Ball, Disk, Ellipse, Hyperball, Mesh, PointCloud, Polygon, Triangle

ELL = [(0, 0), (1, 0), (1, 1), (-1, 1), (-1, -1), (0, -1)]
ARROW = [(0, 0), (2, 1), (0, 2), (0.7, 1)]  # a re-entrant angle below three quarters of a turn
STAR = [(math.cos(math.pi * i / 5) * r, math.sin(math.pi * i / 5) * r) for i, r in enumerate([1.0, 0.4] * 5)]
NORMALISED: dict[str, Domain] = {
    "interval": Interval(-1, 2),
    "disk": Disk((1, 2), 0.7),
    "ellipse": Ellipse((0.5, 0), (2, 0.6), 0.4),
    "ball": Ball((0, 1, 0), 2),
    "hyperball": Hyperball(5),
    "triangle": Triangle((0, 0), (2, 0.3), (0.4, 1)),
    "square": Polygon([(0, 0), (1, 0), (1, 1), (0, 1)]),
    "ell": Polygon(ELL),
    "ell clockwise": Polygon(ELL[::-1]),
    "arrow": Polygon(ARROW),
    "star": Polygon(STAR),
    "notch": Polygon([(0, 0), (4, 0), (4, 3), (2.2, 3), (2, 1), (1.8, 3), (0, 3)]),
    "disks": Disk() | Disk((1.2, 0.1), 0.8),
    "ring": Disk() - Disk((0.2, 0), 0.3),
    "disk without triangle": Disk() - Triangle((0, 0), (0.5, 0), (0.1, 0.4)),
    "disk without square": Disk() - Box((-0.3, -0.3), (0.4, 0.2)),
    "biting square": Disk() - Box((0, 0), (2, 2)),
}
PRODUCTS: dict[str, Domain] = {
    "box": Box((0, -1), (2, 0.5)),
    "cube": Hypercube(4, -1, 1),
    "space and time": Interval(-1, 1) * Time(1, 3),
    "disk in time": Disk() * Time(0, 2),
    "square and disk": Box((0, 0), (1, 1)) & Disk((0.2, 0.3), 0.5),
    "cylinder": Disk() * Interval(0, 3, "z"),
    "box without disk": Box((0, 0), (1, 2)) - Disk((0.5, 1), 0.3),
}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def derivatives(domain: Domain, x: Tensor, piece: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Value (N,), gradient (N, d) and Hessian (N, d, d) by torch's own differentiation."""
    x = x.clone().requires_grad_()
    value = domain.distance(x, piece)
    (grad,) = torch.autograd.grad(value.sum() + 0 * (x**3).sum(), x, create_graph=True)  # linear ones too
    rows = [torch.autograd.grad(grad[:, i].sum(), x, retain_graph=True)[0] for i in range(domain.dim)]
    return value.detach(), grad.detach(), torch.stack(rows, 1)


def available(domain: Domain, piece: str) -> bool:
    try:
        domain.distance(domain.sample(2), piece)
    except Incompatible:
        return False
    return True


@pytest.mark.parametrize("name", NORMALISED)
def test_on_the_boundary_it_vanishes_with_the_inward_normal_as_gradient(name: str) -> None:
    domain = NORMALISED[name]
    assert available(domain, "boundary")
    checked = [p for p in domain.pieces if available(domain, p)]
    for piece in checked:
        on = domain.boundary(piece, 60, seeded(), "grid")
        value, grad, hessian = derivatives(domain, on.x, piece)
        assert float(value.abs().max()) < 1e-14 * max(1, domain.size)
        assert on.normal is not None
        assert float((grad + on.normal).abs().max()) < 1e-9
        assert bool(torch.isfinite(hessian).all())


@pytest.mark.parametrize("name", [*NORMALISED, *PRODUCTS])
def test_inside_it_is_positive_and_smooth(name: str) -> None:
    domain = {**NORMALISED, **PRODUCTS}[name]
    x = domain.sample(400, seeded())
    for piece in (p for p in domain.pieces if available(domain, p)):
        value, grad, hessian = derivatives(domain, x, piece)
        assert float(value.min()) > 0
        assert bool(torch.isfinite(grad).all() and torch.isfinite(hessian).all())


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_vanish_on_their_pieces_and_nowhere_else_on_the_boundary(name: str) -> None:
    domain = PRODUCTS[name]
    faces = [p for p in domain.pieces if p != "boundary"]
    for piece in faces:
        for other in faces:
            on = domain.boundary(other, 40, seeded())
            value, grad, hessian = derivatives(domain, on.x, piece)
            if other == piece:
                assert float(value.abs().max()) < 1e-14
                assert on.normal is not None
                slope = -(grad * on.normal).sum(1)
                assert float(slope.min()) > 0  # a simple zero
                assert float((grad + slope[:, None] * on.normal).abs().max()) < 1e-12
            else:
                assert float(value.min()) > 0
            assert bool(torch.isfinite(hessian).all())


@pytest.mark.parametrize("name", ["ell", "ell clockwise", "arrow", "star", "notch", "square"])
def test_a_polygons_edge_is_apart_from_every_other_edge(name: str) -> None:
    domain = NORMALISED[name]
    assert isinstance(domain, Polygon | Triangle)
    n = len(domain.vertices)
    for i in range(n):
        for j in (j for j in range(n) if j != i):
            on = domain.boundary(f"edge_{j}", 50, seeded(), "grid")
            value = domain.distance(on.x, f"edge_{i}")
            assert float(value.min()) > 0
            a, b = domain.vertices[i], domain.vertices[(i + 1) % n]
            away = torch.stack([(p - a - (b - a) * ((p - a) @ (b - a) / (b - a).square().sum()).clamp(0, 1)).norm()
                                for p in on.x])  # fmt: skip
            assert bool((value > 0.01 * away).all())  # not merely above zero: of the size of the distance


@pytest.mark.parametrize("name", ["disk", "ellipse", "ball", "ell", "arrow", "star", "triangle", "ring"])
def test_near_the_boundary_it_is_the_distance_to_second_order(name: str) -> None:
    domain = NORMALISED[name]
    on = domain.boundary("boundary", 30, seeded(), "grid")
    assert on.normal is not None
    errors = []
    for depth in (4e-3, 2e-3, 1e-3):
        # the point at this depth below a boundary point that is far enough from corners has this distance
        errors.append((domain.distance(on.x - depth * on.normal) - depth).abs())
    smooth = errors[0] < 2e-3
    assert float(smooth.double().mean()) > 0.6
    orders = torch.log2(errors[1][smooth] / errors[2][smooth])
    flat = errors[2][smooth] < 1e-13
    assert bool(((orders - 2).abs()[~flat] < 0.25).all())


def test_boxes_and_time_use_the_polynomials() -> None:
    x = Interval(-1, 3).sample(20, seeded())
    assert torch.allclose(Interval(-1, 3).distance(x), (x[:, 0] + 1) * (3 - x[:, 0]) / 4, rtol=1e-15)
    assert torch.allclose(Interval(-1, 3).distance(x, "right"), 3 - x[:, 0], rtol=1e-15)
    domain = Interval(0, 1) * Time(2, 5)
    x = domain.sample(20, seeded())
    assert torch.equal(domain.distance(x, "initial"), x[:, 1] - 2)
    assert torch.equal(domain.distance(x, "final"), 5 - x[:, 1])
    both = x[:, 0] * (1 - x[:, 0]) * (x[:, 1] - 2) / 3
    assert torch.allclose(domain.distance(x, ["boundary", "initial"]), both, rtol=1e-14)
    box = Box((0, 0), (1, 2))
    x = box.sample(20, seeded())
    product = x[:, 0] * (1 - x[:, 0]) * (2 * x[:, 1] * (2 - x[:, 1]) / 2)
    assert torch.allclose(box.distance(x), product, rtol=1e-14)
    assert torch.allclose(box.distance(x, ["left", "top"]), x[:, 0] * (2 - x[:, 1]) / 2, rtol=1e-14)


def test_the_disk_has_the_normalised_polynomial() -> None:
    x = Disk((1, 0), 2).sample(50, seeded())
    r = torch.hypot(x[:, 0] - 1, x[:, 1])
    assert torch.allclose(Disk((1, 0), 2).distance(x), (4 - r**2) / 4, rtol=1e-13)


def test_r_functions_have_the_sign_of_their_logic() -> None:
    a, b = torch.cartesian_prod(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21)).double().unbind(1)
    clear = (a.abs() > 1e-9) & (b.abs() > 1e-9)
    assert torch.equal((distance.conjunction([a, b]) > 0)[clear], ((a > 0) & (b > 0))[clear])
    assert torch.equal((distance.disjunction([a, b]) > 0)[clear], ((a > 0) | (b > 0))[clear])
    half = distance.equivalence([torch.tensor([2.0, 0.0]), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0])])
    assert torch.allclose(half, torch.tensor([0.5, 0.0]))  # 1 / (1/2 + 1/2 + 1)


@pytest.mark.parametrize("name", ["triangle", "ell", "star", "square and disk", "box without disk", "disks"])
def test_corners_give_zero_and_finite_derivatives(name: str) -> None:
    domain = {**NORMALISED, **PRODUCTS}[name]
    if isinstance(domain, Polygon | Triangle):
        corners = domain.vertices
    else:
        on = domain.boundary("boundary", 4000, seeded(), "grid").x
        corners = on[:1]
    value, grad, hessian = derivatives(domain, corners, None)
    assert float(value.abs().max()) < 1e-14
    assert bool(torch.isfinite(grad).all() and torch.isfinite(hessian).all())


@pytest.mark.parametrize("name", ["interval", "disk", "ellipse", "ell", "star", "ring", "disks", "box", "disk in time"])
def test_a_jet_passes_through_with_torchs_derivatives(name: str) -> None:
    domain = {**NORMALISED, **PRODUCTS}[name]
    d = domain.dim
    first = [tuple(int(i == a) for i in range(d)) for a in range(d)]
    second = [tuple(2 * i for i in e) for e in first]
    inner, edge = domain.sample(10, seeded()), domain.boundary("boundary", 10, seeded(), "grid").x
    x = torch.cat([inner, edge])
    value, grad, hessian = derivatives(domain, x, None)
    lifted = jets.lift(x, jets.closed([*first, *second]))
    result = domain.distance(lifted)
    parts = {c: result.parts[i] for i, c in enumerate(result.channels)}
    scale = float(hessian.abs().max())
    assert torch.allclose(parts[(0,) * d], value, atol=1e-13)
    for i in range(d):
        assert torch.allclose(parts[first[i]], grad[:, i], atol=1e-10)
        assert torch.allclose(parts[second[i]], hessian[:, i, i], atol=1e-10 * scale)


def test_there_is_a_sentence_where_no_smooth_distance_is_known() -> None:
    touching = Box((0, 0), (1, 1)) | Box((1, 0), (2, 1))
    with pytest.raises(Incompatible, match="touch along a common boundary inside it"):
        touching.distance(touching.sample(3))
    with pytest.raises(Incompatible, match="to disk alone is not known for the union"):
        NORMALISED["disks"].distance(torch.zeros(1, 2), "disk")
    hole = Box((0, 0), (1, 1)) - Box((0.2, 0.2), (0.5, 0.5))
    with pytest.raises(Incompatible, match="take all pieces or none"):
        hole.distance(hole.sample(3), "box_left")
    with pytest.raises(Incompatible, match="is not convex, so that it has no smooth distance as a part"):
        (Disk(radius=3) - Polygon(ARROW)).distance(torch.zeros(1, 2))
    half = Disk().named("upper", lambda x, y: y > 0)
    with pytest.raises(Incompatible, match="'upper' is a part of the piece 'boundary'"):
        half.distance(torch.zeros(1, 2), "upper")
    mesh = Mesh([[0, 0], [1, 0], [0, 1]], [[0, 1, 2]])
    for domain in (mesh, PointCloud(torch.rand(5, 2), {"wall": torch.rand(3, 2)})):
        with pytest.raises(Incompatible, match="impose the condition softly"):
            domain.distance(torch.rand(2, 2), "boundary")
    with pytest.raises(BadInput, match="a distance to no piece"):
        Disk().distance(torch.zeros(1, 2), [])


def test_a_named_piece_of_whole_faces_has_their_distance() -> None:
    box = Box((0, 0), (1, 1)).named("walls", lambda x, y: (y < 1e-9) | (y > 1 - 1e-9))
    x = box.sample(9, seeded())
    assert torch.allclose(box.distance(x, "walls"), x[:, 1] * (1 - x[:, 1]), rtol=1e-14)
    assert bool(((box * Time(0, 1)).distance(torch.rand(4, 3).double(), "walls") > 0).all())
