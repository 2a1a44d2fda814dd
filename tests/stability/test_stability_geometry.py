"""Numerical ranges, conditioning, Kreiss constants, contraction margins and Krylov spectra against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.optimize import minimize
from scipy.spatial import ConvexHull

from odenet import fields
from odenet.flow import Flow
from odenet.stability import (
    circle_margin,
    eigenvector_condition,
    geometry,
    inside,
    kreiss_constant,
    krylov_spectra,
    numerical_range,
    report,
    spectra,
    unroll,
)

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)


def linear(A, integrator="euler", **options):
    return Flow(lambda y: y @ A.T, integrator, depth="shared", **options)


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


# ---- numerical range -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_range_of_a_nilpotent_jordan_block_is_a_disk_of_known_radius(n):
    J = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    points = numerical_range(J[None], 33)[0]
    assert points.abs().numpy() == pytest.approx(np.full(66, math.cos(math.pi / (n + 1))), rel=1e-12)


def test_the_range_of_a_normal_matrix_is_the_hull_of_its_eigenvalues():
    A = double([[-1.0, 2.0, 0.0, 0.0], [-2.0, -1.0, 0.0, 0.0], [0.0, 0.0, -3.0, 0.0], [0.0, 0.0, 0.0, -0.5]])
    Q = torch.linalg.qr(torch.randn(4, 4, generator=G, dtype=torch.float64)).Q
    points = numerical_range((Q @ A @ Q.T)[None], 64)[0].numpy()
    vertices = np.array([-1 + 2j, -1 - 2j, -3, -0.5])
    assert max(min(abs(points - v)) for v in vertices) < 1e-12
    hull = ConvexHull(np.column_stack((vertices.real, vertices.imag)))
    gap = hull.equations[:, :2] @ np.vstack((points.real, points.imag)) + hull.equations[:, 2:]
    assert gap.max() < 1e-12


def test_the_range_of_a_2_by_2_matrix_is_an_ellipse_with_the_eigenvalues_as_foci():
    A = double([[1.0, 3.0], [0.0, -2.0]])
    points = numerical_range(A[None], 40)[0].numpy()
    minor = math.sqrt(float((A**2).sum()) - 1 - 4)  # tr A*A - |l1|^2 - |l2|^2
    major = math.sqrt(minor**2 + 9)  # foci 3 apart
    assert abs(points - 1) + abs(points + 2) == pytest.approx(np.full(80, major), rel=1e-12)


def test_no_random_quotient_lies_outside_of_the_supporting_lines():
    A = torch.randn(5, 5, generator=G, dtype=torch.float64)
    points = numerical_range(A[None], 181)[0].numpy()
    x = torch.randn(5, 2000, generator=G, dtype=torch.complex128)
    inner = ((x.conj() * (A.to(torch.complex128) @ x)).sum(0) / (x.abs() ** 2).sum(0)).numpy()
    angle = np.exp(-1j * np.linspace(0, math.pi, 181))
    support = (angle * points[:181]).real
    assert ((angle[:, None] * inner).real <= support[:, None] + 1e-12).all()
    assert support[0] == pytest.approx(float(torch.linalg.eigvalsh((A + A.T) / 2)[-1]))  # the logarithmic norm


def test_the_share_inside_the_region_is_that_of_an_independent_grid():
    A = double([[-1.5, 1.5], [0.0, -1.5]])  # a disk around -1.5 of radius 3/4, euler's disk is that around -1
    (g,) = geometry(unroll(linear(A, steps=1), torch.ones(1, 2).double()), angles=65)
    r, a = np.meshgrid(np.linspace(1 / 8, 1, 8), np.linspace(0, 2 * math.pi, 2001))
    z = -1.5 + 0.75 * r * np.exp(1j * a)
    assert float(g.inside) == pytest.approx((abs(1 + z) <= 1).mean(), abs=0.02)
    assert g.radius == pytest.approx(2.25, rel=1e-12)
    small = geometry(unroll(linear(A, steps=4), torch.ones(1, 2).double()))
    assert all(float(g.inside) == 1.0 for g in small)


def test_eigenvalues_inside_and_range_outside_is_what_the_report_shows():
    A = double([[-1.0, 8.0], [0.0, -1.0]])
    found = report(linear(A, steps=1), torch.ones(2, 2), quick=True).to_dict()
    assert found["inside_share"] == 1.0 and found["range_inside_share"] < 0.5
    assert found["numerical_radius"] == pytest.approx(5.0) and found["eigenvector_condition"] == math.inf
    assert bool(inside("euler", torch.tensor(-1.0 + 0j)))


# ---- eigenvectors ----------------------------------------------------------------------------------------------------


def test_normal_matrices_have_condition_one_also_with_repeated_eigenvalues():
    Q = torch.linalg.qr(torch.randn(4, 4, generator=G, dtype=torch.float64)).Q
    symmetric = Q @ torch.diag(double([1.0, 1.0, 0.0, 0.0])) @ Q.T
    skew = torch.randn(4, 4, generator=G, dtype=torch.float64)
    batch = torch.stack((symmetric, skew - skew.T, torch.eye(4).double(), torch.zeros(4, 4).double()))
    assert eigenvector_condition(batch).tolist() == [1.0] * 4


@pytest.mark.parametrize("angle", [1.0, 0.1, 1e-3])
def test_two_eigenvectors_at_an_angle_have_the_cotangent_of_its_half_as_condition(angle):
    V = double([[1.0, math.cos(angle)], [0.0, math.sin(angle)]])
    A = V @ torch.diag(double([1.0, 2.0])) @ torch.linalg.inv(V)
    assert float(eigenvector_condition(A[None])) == pytest.approx(1 / math.tan(angle / 2), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_a_defective_matrix_has_infinite_condition_also_where_rounding_has_split_it(n):
    J = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1) - 0.5 * torch.eye(n).double()
    S = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    batch = torch.stack((J, S @ J @ torch.linalg.inv(S)))
    assert eigenvector_condition(batch).tolist() == [math.inf, math.inf]
    near = J + torch.diag(torch.linspace(0.0, 1e-3, n, dtype=torch.float64))  # honest, if badly conditioned
    assert 1e2 < float(eigenvector_condition(near[None])) < 1e10


def test_the_condition_bounds_powers_and_exponentials():
    A = torch.randn(6, 6, generator=G, dtype=torch.float64) - 3 * torch.eye(6).double()
    kappa, top = float(eigenvector_condition(A[None])), float(torch.linalg.eigvals(A).real.max())
    for t in (0.1, 0.5, 2.0):
        assert np.linalg.norm(expm(t * A.numpy()), 2) <= kappa * math.exp(t * top) * (1 + 1e-9)


# ---- Kreiss ----------------------------------------------------------------------------------------------------------


def test_the_kreiss_constant_lies_below_the_transient_and_within_its_theorem():
    A = double([[-1.0, 20.0], [0.0, -2.0]])
    peak = max(np.linalg.norm(expm(t * A.numpy()), 2) for t in np.linspace(0, 4, 801))
    K = kreiss_constant(A)
    assert 1.0 < K <= peak * (1 + 1e-9) and peak <= math.e * 2 * K

    def value(v):
        z = math.exp(v[0]) + 1j * v[1]
        return -z.real / np.linalg.svd(z * np.eye(2) - A.numpy(), compute_uv=False)[-1]

    assert peak > 4.0 and pytest.approx(-minimize(value, (0.5, 0.0), method="Nelder-Mead").fun, rel=1e-3) == K


def test_normal_decay_has_kreiss_constant_one_and_growth_an_infinite_one():
    assert kreiss_constant(torch.diag(double([-1.0, -3.0]))) == pytest.approx(1.0, abs=0.05)
    assert kreiss_constant(torch.diag(double([0.1, -3.0]))) == math.inf


# ---- contraction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("integrator", "radius"), [("euler", 1.0), ("heun", 1.0), ("rk4", 1.0), ("midpoint", 0.0)])
def test_the_margin_is_two_radii_less_h_times_the_squared_norm(integrator, radius):
    flow = Flow(fields.Parabolic(4, gain=2.0), integrator, steps=3, span=(0.0, 1.5)).double()
    u = unroll(flow, torch.randn(2, 4, generator=G, dtype=torch.float64))
    norms = [np.linalg.norm(K, 2) for K in flow.weights["K"].detach().numpy()]
    found = circle_margin(u)
    assert [n for n, _ in found] == [0, 1, 2]
    assert [m for _, m in found] == pytest.approx([2 * radius - 0.5 * k**2 for k in norms])


def test_the_sign_of_the_margin_is_that_of_contraction_for_a_single_unit():
    for k, sign in ((1.99, 1), (2.01, -1)):
        flow = Flow(fields.Parabolic(1, activation="relu"), "euler", steps=1).double()
        with torch.no_grad():
            flow.weights["K"].fill_(math.sqrt(k))
            moved = (flow(double([[2.0]])) - flow(double([[1.0]]))).abs()
        ((_, margin),) = circle_margin(unroll(flow, double([[1.0]])))
        assert margin * sign > 0 and (float(moved) <= 1.0) == (sign > 0)
    assert circle_margin(unroll(Flow(fields.Free(4), steps=2), torch.ones(1, 4))) == []


# ---- Krylov ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "integrator"), [
    (fields.Free(32, gain=2.0), "rk4"), (fields.Parabolic(32), "euler"), (fields.Antisymmetric(32), "rk4"),
    (fields.SeparableHamiltonian(32), "verlet"), (fields.SecondOrder(32), "leapfrog"),
    (fields.HamiltonianJ(32), "euler"),
])  # fmt: skip
def test_extreme_eigenvalues_and_logarithmic_norms_are_those_of_the_formed_jacobian(field, integrator):
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    u = unroll(Flow(field, integrator, steps=2), x)
    for free, full in zip(krylov_spectra(u), spectra(u)):
        assert free.layer == full.layer and free.henrici is None
        for mine, all_of_them in zip(free.eigenvalues, full.eigenvalues):
            apart = (mine[:, None] - all_of_them[None, :]).abs().amin(1)
            assert float(apart.max()) < 1e-6 * float(all_of_them.abs().max())
        assert torch.allclose(free.eigenvalues.abs().amax(1), full.eigenvalues.abs().amax(1), rtol=1e-6)
        assert torch.allclose(free.lognorm_2, full.lognorm_2, rtol=1e-2, atol=1e-3)
        assert torch.allclose(free.lowest, full.lowest, rtol=1e-2, atol=1e-3)
        if integrator in ("rk4", "euler"):
            size = float(full.eigenvalues.abs().max())
            assert torch.allclose(free.abscissa, full.abscissa, atol=1e-4 * size)


def test_a_periodic_transport_on_a_long_line_has_its_extreme_eigenvalues_on_the_imaginary_axis():
    """(y_{j+1} - y_{j-1})/2 on a ring of 600 points: i sin(2 pi k/600), and the logarithmic norm 0."""
    flow = Flow(lambda y: (y.roll(-1, 1) - y.roll(1, 1)) / 2, "rk4", depth="shared", steps=1)
    (s,) = krylov_spectra(unroll(flow, torch.zeros(1, 600, dtype=torch.float64)))
    assert float(s.eigenvalues.real.abs().max()) < 1e-6
    assert float(s.eigenvalues.imag.max()) == pytest.approx(1.0, abs=1e-2) and float(s.eigenvalues.imag.max()) <= 1.0
    assert abs(float(s.lognorm_2)) < 1e-9


def test_a_field_that_is_zero_has_the_eigenvalue_zero():
    (s,) = krylov_spectra(unroll(Flow(lambda y: 0.0 * y, depth="shared", steps=1), torch.ones(1, 500)))
    assert float(s.eigenvalues.abs().max()) == 0.0 and float(s.lognorm_2) == 0.0
