"""Cavity, Gray-Scott, relaxation of fractional order and ordinary systems against published and independent numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pde_reference_oracles import derivative, difference_weights, distance, lines, periodic_matrix
from scipy.special import erfcx, gamma
from torch import Tensor

from odenet.errors import BadInput
from odenet.pde import reference
from odenet.pde.reference.corner import Corner, fields, inertial
from odenet.pde.reference.reaction_2d import gray_scott_modes


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODENET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def coarse():
    """The cavity at Re = 100 and Stokes flow with 28 modes."""
    return {re: reference.cavity(re, modes=28) for re in (0.0, 100.0)}


def centre_lines(flow: reference.Reference, n: int) -> tuple[Tensor, Tensor]:
    s = torch.linspace(0, 1, n, dtype=torch.float64)
    half = torch.full_like(s, 0.5)
    return flow(torch.stack([half, s], 1))[:, 0], flow(torch.stack([s, half], 1))[:, 1]


def test_the_cavity_has_the_published_extrema(coarse: dict[float, reference.Reference]) -> None:
    """Botella & Peyret (1998) on the centre lines at Re = 100: -u 0.2140424, v 0.1795728 and -0.2538030."""
    u, v = centre_lines(coarse[100.0], 4001)
    assert float(u.min()) == pytest.approx(-0.2140424, abs=2e-6)
    assert float(v.max()) == pytest.approx(0.1795728, abs=2e-6)
    assert float(v.min()) == pytest.approx(-0.2538030, abs=2e-6)


def test_the_cavity_is_near_the_table_of_ghia_ghia_and_shin(coarse: dict[float, reference.Reference]) -> None:
    """Re = 100, u on x = 1/2, second order on 129 x 129 points: good to 6e-3 where it is compared with the above."""
    y = [0.0547, 0.0703, 0.1016, 0.1719, 0.2813, 0.4531, 0.5, 0.6172, 0.7344, 0.8516, 0.9531, 0.9688]
    u = [
        -0.03717,
        -0.04775,
        -0.06434,
        -0.1015,
        -0.15662,
        -0.2109,
        -0.20581,
        -0.13641,
        0.00332,
        0.23151,
        0.68717,
        0.78871,
    ]
    points = torch.tensor([[0.5, s] for s in y], dtype=torch.float64)
    assert torch.allclose(coarse[100.0](points)[:, 0], torch.tensor(u).double(), rtol=0, atol=6e-3)


@pytest.mark.parametrize("re", [0.0, 100.0])
def test_the_cavity_moves_with_its_walls_and_leaves_the_pressure_open(
    coarse: dict[float, reference.Reference], re: float
) -> None:
    s = torch.linspace(0.002, 0.998, 50, dtype=torch.float64)
    for wall, lid in ((0 * s, False), (0 * s + 1, True)):
        along = coarse[re](torch.stack([s, wall], 1))
        assert torch.allclose(along[:, 0], torch.full_like(s, float(lid)), rtol=0, atol=1e-10)
        beside = coarse[re](torch.stack([wall, s], 1))
        assert along[:, 1].abs().max() < 1e-10
        assert beside[:, :2].abs().max() < 1e-9
        assert bool(along[:, 2].isnan().all())


@pytest.mark.parametrize(("re", "bound"), [(0.0, 1e-5), (100.0, 1e-2)])
def test_the_cavity_satisfies_the_vorticity_equation(
    coarse: dict[float, reference.Reference], re: float, bound: float
) -> None:
    x = (0.1 + 0.8 * coarse[re].points(60)).requires_grad_()
    flow = coarse[re](x)
    u, v = flow[:, 0], flow[:, 1]
    assert (derivative(u, x, 0) + derivative(v, x, 1)).detach().abs().max() < 1e-9
    w = derivative(v, x, 0) - derivative(u, x, 1)
    terms = torch.stack(
        [re * u * derivative(w, x, 0), re * v * derivative(w, x, 1), -derivative(w, x, 0, 0), -derivative(w, x, 1, 1)]
    ).detach()
    assert terms.sum(0).norm() < bound * terms.norm()


def test_the_terms_of_a_corner_satisfy_their_equations_by_differences() -> None:
    """laplace^2 of all of it is Re times the convection of r f by itself, at both corners."""
    re = 7.0
    for corner, x0 in ((Corner.at_left(re), 0.2), (Corner.at_right(re), 0.8)):
        n, h = 9, 0.02
        s = h * (np.arange(n) - n // 2)
        x, y = np.meshgrid(x0 + s, 0.7 + s, indexing="ij")
        psi = fields(corner, x.ravel(), y.ravel())["psi"].reshape(n, n)
        d2, d4 = difference_weights(2, 4) / h**2, difference_weights(4, 4) / h**4
        m = n // 2
        bilaplace = d4 @ psi[:, m] + 2 * d2 @ psi @ d2 + psi[m] @ d4
        own = fields(corner, np.array([x0]), np.array([0.7]))["own"]
        assert float(bilaplace) == pytest.approx(re * float(own[0]), rel=1e-3)
    assert abs(np.polynomial.chebyshev.chebval([-1.0, 1.0], inertial())).max() < 1e-13


@pytest.mark.slow
def test_the_fine_cavity_is_as_accurate_as_it_claims() -> None:
    flow = reference.cavity()
    assert flow.error < 1e-4
    u, v = centre_lines(flow, 20001)
    assert float(u.min()) == pytest.approx(-0.2140424, abs=1e-7)
    assert float(v.max()) == pytest.approx(0.1795728, abs=1e-7)
    assert float(v.min()) == pytest.approx(-0.2538030, abs=1e-7)
    assert reference.cavity(0.0).error < 1e-7


GRAY_SCOTT = {"feed": 0.04, "decay": 0.1, "du": 2e-3, "dv": 1e-3}


def test_gray_scott_agrees_with_finite_differences_and_dop853() -> None:
    n, t = 40, [2.0, 5.0]
    x = -1 + 2 * np.arange(n) / n
    d2 = periodic_matrix(2, n, 2.0)
    u0 = 1 - np.exp(-80 * ((x[:, None] + 0.05) ** 2 + (x + 0.02) ** 2))
    v0 = np.exp(-80 * ((x[:, None] - 0.05) ** 2 + (x - 0.02) ** 2))

    def f(_t: float, y: np.ndarray) -> np.ndarray:
        u, v = y.reshape(2, n, n)
        product = u * v**2
        du = GRAY_SCOTT["du"] * (d2 @ u + u @ d2.T) + GRAY_SCOTT["feed"] * (1 - u) - product
        return np.concatenate([du, GRAY_SCOTT["dv"] * (d2 @ v + v @ d2.T) - GRAY_SCOTT["decay"] * v + product]).ravel()

    theirs = lines(f, np.stack([u0, v0]).ravel(), t, "DOP853", 1e-9).reshape(2, 2, n, n)
    ours = [np.fft.irfft2(y, (n, n)) for y in gray_scott_modes(n, np.array(t), 0.1, GRAY_SCOTT)]
    assert distance(np.array(ours), theirs) < 1e-4


def test_exponential_runge_kutta_for_gray_scott_is_of_order_four() -> None:
    runs = [next(iter(gray_scott_modes(24, np.array([4.0]), h, GRAY_SCOTT))) for h in (0.4, 0.2, 0.02)]
    coarse, fine = (np.abs(run - runs[2]).max() for run in runs[:2])
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.35)


@pytest.mark.slow
def test_the_stored_gray_scott_agrees_with_a_finer_run_between_its_nodes() -> None:
    stated = {"feed": 0.04, "decay": 0.1, "du": 1e-5, "dv": 5e-6}
    ours, n, t = reference.gray_scott(), 384, [3.1, 17.7]
    assert ours.error < 1e-3
    x = -1 + 2 * np.arange(n) / n
    some = np.arange(0, n, 4)
    xx, yy = (a.ravel() for a in np.meshgrid(x[some], x[some], indexing="ij"))
    for time, y in zip(t, gray_scott_modes(n, np.array(t), 0.2, stated)):
        points = torch.from_numpy(np.stack([xx, yy, np.full_like(xx, time)], 1))
        theirs = np.fft.irfft2(y, (n, n))[:, some][:, :, some].reshape(2, -1).T
        assert distance(ours(points).numpy(), theirs) < 2 * ours.error


def test_relaxation_of_order_one_half_is_the_scaled_error_function() -> None:
    ours = reference.relaxation(0.5, 2.0)
    t = ours.points(50)
    assert np.allclose(ours(t).numpy(), erfcx(2 * np.sqrt(t.numpy())), rtol=0, atol=1e-13)
    assert ours.error < 1e-12


@pytest.mark.parametrize("alpha", [0.25, 0.7, 0.95])
def test_relaxation_of_another_order_is_its_power_series(alpha: float) -> None:
    t = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)[:, None]
    z = -(t[:, 0].numpy() ** alpha)
    series = sum(z**k / gamma(alpha * k + 1) for k in range(int(160 / max(alpha, 0.6))))
    assert np.allclose(reference.relaxation(alpha)(t)[:, 0].numpy(), series, rtol=0, atol=1e-11)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5])
def test_an_order_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(BadInput, match="0 < alpha < 1"):
        reference.relaxation(alpha)


def lorenz(_t: float, s: np.ndarray) -> np.ndarray:
    x, y, z = s
    return np.array([10 * (y - x), x * (15 - z) - y, x * y - 8 / 3 * z])


def robertson(_t: float, s: np.ndarray) -> np.ndarray:
    a, b, c = s[0], s[1] / 1e4, s[2]
    first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return np.array([second - first, 1e4 * (first - second - third), third])


def van_der_pol(_t: float, s: np.ndarray) -> np.ndarray:
    return np.array([s[1], 20 * (1 - s[0] ** 2) * s[1] - s[0]])


@pytest.mark.parametrize(
    ("name", "f", "start", "t", "method", "bound"),
    [
        ("lorenz", lorenz, [-8.0, 7.0, 27.0], [0.5, 1.7, 3.0], "DOP853", 1e-9),
        ("robertson", robertson, [1.0, 0.0, 0.0], [1e-4, 0.3, 40.0], "Radau", 1e-7),
        ("van_der_pol", van_der_pol, [2.0, 0.0], [1.0, 10.0, 20.0], "Radau", 1e-6),
    ],
)
def test_an_ordinary_system_agrees_with_scipy(name: str, f, start, t: list[float], method: str, bound: float) -> None:
    ours = reference.get(name)
    theirs = lines(f, np.array(start), t, method, 1e-10)
    y = ours(torch.tensor(t, dtype=torch.float64)[:, None]).numpy()
    assert distance(y, theirs[:, : y.shape[1]]) < bound
    assert ours.error < 1e-10
    assert math.isclose(float(ours(torch.zeros(1, 1))[0, 0]), start[0], abs_tol=1e-11)
