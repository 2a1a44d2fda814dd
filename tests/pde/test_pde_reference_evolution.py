"""Every time-dependent reference against a second discretisation: another basis and another integrator."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pde_reference_oracles import chebyshev, derivative, distance, lines, on_grid, periodic_matrix, sampled
from scipy.linalg import expm

from odenet.pde import reference
from odenet.pde.reference.splitting import split


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODENET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def burgers_by_chebyshev(nu: float, t: list[float], n: int, rtol: float) -> tuple[np.ndarray, np.ndarray]:
    x, d = chebyshev(n, 0.0, 1.0)  # odd: the half is enough
    d2 = nu * (d @ d)

    def f(_t: float, u: np.ndarray) -> np.ndarray:
        u = np.concatenate([[0.0], u, [0.0]])
        return (d2 @ u - u * (d @ u))[1:-1]

    def jac(_t: float, u: np.ndarray) -> np.ndarray:
        u = np.concatenate([[0.0], u, [0.0]])
        return (d2 - u[:, None] * d - np.diag(d @ u))[1:-1, 1:-1]

    return x[1:-1], lines(f, -np.sin(math.pi * x[1:-1]), t, rtol=rtol, jac=jac)


def test_burgers_agrees_with_chebyshev_collocation_for_a_mild_viscosity() -> None:
    t = [0.1, 0.5, 1.0]
    x, u = burgers_by_chebyshev(0.05, t, 40, 1e-10)
    assert distance(on_grid(reference.burgers(0.05), x, t)[..., 0], u) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("nu", "n"), [(0.01 / math.pi, 120), (1e-3, 260)])
def test_burgers_agrees_with_chebyshev_collocation(nu: float, n: int) -> None:
    t = [0.2, 0.5, 1.0]
    x, u = burgers_by_chebyshev(nu, t, n, 1e-10)
    assert distance(on_grid(reference.burgers(nu), x, t)[..., 0], u) < 1e-8


def test_burgers_has_the_published_steepest_slope() -> None:
    """Basdevant et al. (1986): |u_x| is largest at x = 0, pi t = 1.6037, where it is 152.00516."""
    x = torch.tensor([[0.0, 1.6037 / math.pi]], dtype=torch.float64, requires_grad=True)
    slope = derivative(reference.burgers()(x)[:, 0], x, 0)
    assert float(slope.detach()) == pytest.approx(-152.00516, abs=2e-5)


def kdv_by_differences(n: int, t: list[float], rtol: float) -> tuple[np.ndarray, np.ndarray]:
    x = -1 + 2 * np.arange(n) / n
    d, d3 = periodic_matrix(1, n, 2.0), 0.0025 * periodic_matrix(3, n, 2.0)
    return x, lines(lambda _t, u: -(d3 @ u) - u * (d @ u), np.cos(math.pi * x), t, "DOP853", rtol)


def test_kdv_agrees_with_finite_differences_until_the_first_soliton() -> None:
    t = [0.1, 0.3]
    coarse = kdv_by_differences(96, t, 1e-10)
    x, u = kdv_by_differences(128, t, 1e-10)
    ours = reference.kdv()
    estimate = distance(on_grid(ours, coarse[0], t)[..., 0], coarse[1])
    assert estimate < 1e-6
    assert distance(on_grid(ours, x, t)[..., 0], u) < estimate * (96 / 128) ** 10  # differences of order twelve


@pytest.mark.slow
def test_kdv_agrees_with_finite_differences_at_the_end() -> None:
    x, u = kdv_by_differences(360, [0.5, 1.0], 1e-10)
    assert distance(on_grid(reference.kdv(), x, [0.5, 1.0])[..., 0], u) < 1e-7


def ks_by_differences(
    n: int, t: list[float], a: float, b: float, c: float, left: float, length: float, start, rtol: float
) -> tuple[np.ndarray, np.ndarray]:
    x = left + length * np.arange(n) / n
    d = a * periodic_matrix(1, n, length)
    linear = -b * periodic_matrix(2, n, length) - c * periodic_matrix(4, n, length)

    def jac(_t: float, u: np.ndarray) -> np.ndarray:
        return linear - u[:, None] * d - np.diag(d @ u)

    return x, lines(lambda _t, u: linear @ u - u * (d @ u), start(x), t, "Radau", rtol, jac)


def minus_sine(x: np.ndarray) -> np.ndarray:
    return -np.sin(math.pi * x)


def chaos(x: np.ndarray) -> np.ndarray:
    return np.cos(x) * (1 + np.sin(x))


def test_ks_agrees_with_finite_differences_at_first() -> None:
    x, u = ks_by_differences(96, [0.1, 0.2], 5, 0.5, 0.005, -1.0, 2.0, minus_sine, 1e-8)
    assert distance(on_grid(reference.ks(), x, [0.1, 0.2])[..., 0], u) < 1e-6


@pytest.mark.slow
def test_ks_agrees_with_finite_differences_at_the_end() -> None:
    x, u = ks_by_differences(160, [0.5, 1.0], 5, 0.5, 0.005, -1.0, 2.0, minus_sine, 1e-10)
    assert distance(on_grid(reference.ks(), x, [0.5, 1.0])[..., 0], u) < 1e-6


def test_ks_chaotic_agrees_with_finite_differences_at_first() -> None:
    a, b, c = 6.25, 100 / 256, 100 / 65536
    x, u = ks_by_differences(160, [0.03, 0.06], a, b, c, 0.0, 2 * math.pi, chaos, 1e-8)
    assert distance(on_grid(reference.ks_chaotic(), x, [0.03, 0.06])[..., 0], u) < 1e-6


def etdrk4(rates: np.ndarray, nonlinear, y: np.ndarray, h: float, steps: int) -> np.ndarray:
    """Cox and Matthews' scheme with Kassam and Trefethen's contour means."""
    z = h * rates[:, None] + np.exp(1j * math.pi * (np.arange(1, 65) - 0.5) / 32)
    e, half = np.exp(h * rates), np.exp(h * rates / 2)
    q = h * ((np.exp(z / 2) - 1) / z).mean(1)
    f1 = h * ((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3).mean(1)
    f2 = h * ((2 + z + np.exp(z) * (z - 2)) / z**3).mean(1)
    f3 = h * ((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3).mean(1)
    for _ in range(steps):
        n0 = nonlinear(y)
        a = half * y + q * n0
        na = nonlinear(a)
        b = half * y + q * na
        nb = nonlinear(b)
        nc = nonlinear(half * a + q * (2 * nb - n0))
        y = e * y + f1 * n0 + 2 * f2 * (na + nb) + f3 * nc
    return y


@pytest.mark.slow
def test_ks_chaotic_agrees_with_exponential_runge_kutta_to_the_end() -> None:
    n, a, b, c = 320, 6.25, 100 / 256, 100 / 65536
    x, k = 2 * math.pi * np.arange(n) / n, 1j * np.arange(n // 2 + 1)
    keep = np.abs(k) < n / 3

    def nonlinear(modes: np.ndarray) -> np.ndarray:
        return -a / 2 * k * keep * np.fft.rfft(np.fft.irfft(modes, n) ** 2)

    rates, start = (-b * k**2 - c * k**4).real, np.fft.rfft(chaos(x))
    coarse, fine = (np.fft.irfft(etdrk4(rates, nonlinear, start, 1 / s, s), n) for s in (20_000, 40_000))
    ours = reference.ks_chaotic()
    truth = on_grid(ours, x, [1.0])[0, :, 0]
    estimate = distance(coarse, fine)
    assert estimate < 1e-5
    assert distance(fine, truth) < estimate / 4 + 10 * ours.error


def test_schrodinger_on_a_long_circle_is_the_soliton_of_second_order() -> None:
    """Satsuma & Yajima (1974): 2 sech x moves as a bound pair."""
    ours = reference.schrodinger(0.3, 12.0, points=512)
    x = ours.points(300)
    s, t = x[:, 0], x[:, 1]
    below = torch.cosh(4 * s) + 4 * torch.cosh(2 * s) + 3 * torch.cos(4 * t)
    exact = 4 * torch.exp(0.5j * t) * (torch.cosh(3 * s) + 3 * torch.exp(4j * t) * torch.cosh(s)) / below
    assert distance(ours(x).numpy(), torch.view_as_real(exact).numpy()) < 2 / math.cosh(12.0)


def test_splitting_for_schrodinger_is_of_order_six() -> None:
    n, half = 128, 12.0
    x, k = half * (2 * np.arange(n) / n - 1), math.pi / half * np.fft.fftfreq(n, 1 / n)
    runs = [split(2 / np.cosh(x), k, np.array([0.5]), h)[0] for h in (0.5 / 40, 0.5 / 80, 0.5 / 400)]
    coarse, fine = (np.abs(run - runs[2]).max() for run in runs[:2])
    assert math.log2(coarse / fine) == pytest.approx(6, abs=0.4)


@pytest.mark.slow
def test_schrodinger_agrees_with_an_integrating_factor_and_dop853() -> None:
    n = 512
    x, k = -5 + 10 * np.arange(n) / n, 2 * math.pi / 10 * np.fft.fftfreq(n, 1 / n)

    def f(t: float, v: np.ndarray) -> np.ndarray:
        phase = np.exp(-0.5j * k**2 * t)
        h = np.fft.ifft(phase * (v[:n] + 1j * v[n:]))
        g = np.fft.fft(1j * np.abs(h) ** 2 * h) / phase
        return np.concatenate([g.real, g.imag])

    start = np.fft.fft(2 / np.cosh(x))
    t = [0.7, math.pi / 2]
    slow = lines(f, np.concatenate([start.real, start.imag]), t, "DOP853", 1e-8)
    theirs = np.fft.ifft((slow[:, :n] + 1j * slow[:, n:]) * np.exp(-0.5j * np.outer(t, k**2)))
    ours = reference.schrodinger()
    both = on_grid(ours, x, t)
    assert distance(both[..., 0] + 1j * both[..., 1], theirs) < 2**1.5 * 2**1.5 * ours.error  # K is a quarter of ours


def react_by_chebyshev(
    n: int, t: list[float], rtol: float, d: float, f, slope, start, *, right: float = 1.0, held: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """u_t = d u_xx + f(u) on [0, right], u_x = 0 at both ends, or u held at the right one."""
    x, d1 = chebyshev(n, 0.0, right)
    inner, ends = np.arange(1, n), [0] if held else [0, n]
    others = np.setdiff1d(np.arange(n + 1), ends)
    give = -np.linalg.solve(d1[np.ix_(ends, ends)], d1[np.ix_(ends, others)])  # u_x = 0 gives the values there

    def whole(v: np.ndarray) -> np.ndarray:
        u = np.empty((n + 1, *v.shape[1:]))
        u[inner], u[n] = v, start(right)
        u[ends] = give @ u[others]
        return u

    d2 = d * (d1 @ d1)[inner]
    linear = d2 @ (whole(np.eye(n - 1)) - whole(np.zeros((n - 1, n - 1))))
    u = lines(
        lambda _t, v: d2 @ whole(v) + f(v),
        start(x[inner]),
        t,
        rtol=rtol,
        jac=lambda _t, v: linear + np.diag(slope(v)),
    )
    return x[inner], u


def cubic_by_chebyshev(d: float, n: int, t: list[float], rtol: float, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    return react_by_chebyshev(
        n,
        t,
        rtol,
        d,
        lambda v: 5 * (v - v**3),
        lambda v: 5 - 15 * v**2,
        lambda x: x**2 * np.cos(math.pi * x),
        held=not periodic,
    )


def test_allen_cahn_agrees_with_chebyshev_collocation_for_a_strong_diffusion() -> None:
    x, u = cubic_by_chebyshev(0.02, 64, [0.1, 0.5], 1e-9, False)
    assert distance(on_grid(reference.allen_cahn(0.02, 0.5), x, [0.1, 0.5])[..., 0], u) < 1e-8


@pytest.mark.slow
def test_allen_cahn_periodic_agrees_with_chebyshev_collocation_for_a_strong_diffusion() -> None:
    x, u = cubic_by_chebyshev(0.02, 64, [0.1, 0.5], 1e-9, True)
    assert distance(on_grid(reference.allen_cahn_periodic(0.02, 0.5), x, [0.1, 0.5])[..., 0], u) < 1e-8


@pytest.mark.slow
def test_allen_cahn_agrees_with_chebyshev_collocation() -> None:
    t, ours = [0.3, 1.0], reference.allen_cahn()
    gaps = []
    for n in (300, 420):
        x, u = cubic_by_chebyshev(1e-3, n, t, 1e-10, False)
        gaps.append(distance(on_grid(ours, x, t)[..., 0], u))
    assert gaps[0] < 1e-7
    assert gaps[1] < 1e-9


@pytest.mark.slow
def test_allen_cahn_periodic_agrees_with_fourier_and_exponential_runge_kutta() -> None:
    ours, n, steps = reference.allen_cahn_periodic(), 2048, 3000
    x, k = -1 + 2 * np.arange(n) / n, math.pi * np.arange(n // 2 + 1)

    def cubic(modes: np.ndarray) -> np.ndarray:
        return np.fft.rfft(-5 * np.fft.irfft(modes, n) ** 3)

    start = np.fft.rfft(x**2 * np.cos(math.pi * x))
    u = np.fft.irfft(etdrk4(5 - 1e-4 * k**2, cubic, start, 1 / steps, steps), n)
    assert distance(on_grid(ours, x, [1.0])[0, :, 0], u) < max(2 * ours.error, 1e-10)


@pytest.mark.slow
def test_reaction_diffusion_agrees_with_chebyshev_collocation() -> None:
    t = [0.01, 0.2, 1.0]
    x, u = react_by_chebyshev(
        48, t, 1e-9, 3.0, lambda v: 5 * v * (1 - v), lambda v: 5 - 10 * v, half_a_bell, right=math.pi
    )
    assert distance(on_grid(reference.reaction_diffusion(), math.pi + x, t)[..., 0], u) < 1e-7


def half_a_bell(x: np.ndarray) -> np.ndarray:
    return np.exp(-8 * x**2 / math.pi**2)


def test_heat_with_a_variable_coefficient_agrees_with_chebyshev_and_the_matrix_exponential() -> None:
    x, d = chebyshev(48, 0.0, 1.0)
    k = 1 + np.cos(2 * math.pi * x) / 2
    inner = (d @ (k[:, None] * d))[1:-1, 1:-1] / 4
    t = [0.05, 0.4, 1.0]
    u = np.array([expm(inner * s) @ np.sin(math.pi * x[1:-1]) for s in t])
    assert distance(on_grid(reference.heat_variable(), x[1:-1], t)[..., 0], u) < 1e-10


def residual_of(name: str) -> tuple[float, float]:
    ours = reference.get(name)
    x, value = sampled(ours, 60)
    u = value[:, 0]

    def d(*axes: int) -> torch.Tensor:
        return derivative(u, x, *axes)

    terms = {
        "burgers": lambda: (d(1), u * d(0), -0.01 / math.pi * d(0, 0)),
        "kdv": lambda: (d(1), u * d(0), 0.0025 * d(0, 0, 0)),
        "ks": lambda: (d(1), 5 * u * d(0), 0.5 * d(0, 0), 0.005 * d(0, 0, 0, 0)),
        "ks_chaotic": lambda: (
            d(1),
            100 / 16 * u * d(0),
            100 / 16**2 * d(0, 0),
            100 / 16**4 * d(0, 0, 0, 0),
        ),
        "reaction_diffusion": lambda: (d(1), -3 * d(0, 0), -5 * u * (1 - u)),
    }[name]()
    total = torch.stack(terms)
    return float(total.sum(0).detach().norm()), float(total.detach().norm())


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("burgers", 1e-10),
        ("kdv", 1e-8),
        ("ks", 1e-8),
        ("ks_chaotic", 1e-7),
        pytest.param("reaction_diffusion", 1e-6, marks=pytest.mark.slow),
    ],
)
def test_a_reference_satisfies_its_equation_between_the_nodes(name: str, bound: float) -> None:
    residual, size = residual_of(name)
    assert residual < bound * size


INITIAL = {
    "burgers": lambda x: -torch.sin(math.pi * x),
    "kdv": lambda x: torch.cos(math.pi * x),
    "ks": lambda x: -torch.sin(math.pi * x),
    "ks_chaotic": lambda x: torch.cos(x) * (1 + torch.sin(x)),
    "reaction_diffusion": lambda x: torch.exp(-8 * (x - math.pi) ** 2 / math.pi**2),
    "heat_variable": lambda x: torch.sin(math.pi * x),
}


@pytest.mark.parametrize("name", INITIAL)
def test_a_reference_starts_at_its_initial_value(name: str) -> None:
    ours = reference.get(name)
    x = ours.points(200)
    x[:, 1] = 0.0
    assert torch.allclose(ours(x)[:, 0], INITIAL[name](x[:, 0]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["allen_cahn", "allen_cahn_periodic"])
def test_allen_cahn_starts_at_its_initial_value_and_is_held_at_the_ends(name: str) -> None:
    ours = reference.get(name, d=0.02, final=0.5)
    x = ours.points(200)
    t = x[:, 1].clone()
    x[:, 1] = 0.0
    assert torch.allclose(ours(x)[:, 0], x[:, 0] ** 2 * torch.cos(math.pi * x[:, 0]), rtol=0, atol=1e-5)
    left, right = (ours(torch.stack([torch.full_like(t, side), t], 1)) for side in (-1.0, 1.0))
    assert torch.equal(left, right)
    if name == "allen_cahn":
        assert torch.allclose(left, torch.tensor(-1.0, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_tables_of_the_stated_problems_are_as_accurate_as_they_claim() -> None:
    assert reference.burgers().error < 1e-12
    assert reference.burgers(1e-3).error < 1e-12
    assert reference.kdv().error < 1e-11
    assert reference.ks().error < 1e-9
    assert reference.ks_chaotic().error < 1e-8
    assert reference.reaction_diffusion().error < 1e-10
    assert reference.heat_variable().error < 1e-11


@pytest.mark.slow
def test_the_larger_tables_are_as_accurate_as_they_claim_and_stay_small(tmp_path: Path) -> None:
    assert reference.allen_cahn().error < 1e-10
    assert reference.allen_cahn_periodic().error < 1e-9
    assert reference.schrodinger().error < 5e-6
    for name in ("allen_cahn", "allen_cahn_periodic", "schrodinger", "kdv", "ks_chaotic"):
        assert all(file.stat().st_size < 5e6 for file in reference.folder().glob(f"{name}-*"))
