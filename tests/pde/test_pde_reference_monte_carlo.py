"""References in many dimensions: each against a discretisation of another kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from odenet import pde
from odenet.errors import BadInput
from odenet.pde import reference
from odenet.pde.library.high_dimension import DEFAULT_RISK
from odenet.pde.reference.monte_carlo import cole_hopf, multilevel_picard


def point(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(("dim", "weight", "t", "r"), [(100, 1.0, 0.0, 0.0), (5, 2.0, 0.4, 1.5), (3, 0.5, 0.9, 0.2)])
def test_hjb_is_minus_the_log_of_an_integral_over_chi_square(dim: int, weight: float, t: float, r: float) -> None:
    """|x + sqrt(2 tau) W|^2 / (2 tau) has a non-central chi-square law: scipy's density and adaptive quadrature."""
    scale = 2 * (1.0 - t)
    law = stats.chi2(dim) if r == 0 else stats.ncx2(dim, r**2 / scale)
    ends = law.ppf([1e-15, 1 - 1e-12])
    mean, _ = integrate.quad(
        lambda q: (2 / (1 + scale * q)) ** weight * law.pdf(q), *ends, epsabs=1e-14, epsrel=1e-13, limit=400
    )
    x = point(r, *[0.0] * (dim - 1), t)
    assert float(reference.hjb_cole_hopf(dim=dim, weight=weight)(x)) == pytest.approx(
        -math.log(mean) / weight, rel=1e-10
    )


def derivatives(u: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = x.requires_grad_()
    value = u(x)[:, 0]
    slope = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
    second = [torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(x.shape[1] - 1)]
    return value, slope, torch.stack(second).sum(0)


def test_hjb_and_allen_cahn_satisfy_their_equations() -> None:
    x = torch.cat([torch.randn(7, 3, dtype=torch.float64), 0.25 * torch.rand(7, 1, dtype=torch.float64)], 1)
    value, slope, laplace = derivatives(reference.hjb_cole_hopf(dim=3, weight=1.5), x.clone())
    square = slope[:, :-1].square().sum(1)
    torch.testing.assert_close(slope[:, -1] + laplace, 1.5 * square, rtol=1e-9, atol=1e-9)
    value, slope, laplace = derivatives(reference.allen_cahn_radial(dim=3), x.clone())
    torch.testing.assert_close(slope[:, -1] + laplace, value**3 - value, rtol=1e-6, atol=1e-7)


def test_hjb_and_allen_cahn_have_their_final_values() -> None:
    x = torch.cat([torch.randn(5, 4, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)], 1)
    r2 = x[:, :4].square().sum(1)
    torch.testing.assert_close(reference.hjb_cole_hopf(dim=4)(x)[:, 0], torch.log((1 + r2) / 2), rtol=1e-12, atol=1e-12)
    x[:, -1] = 0.3
    torch.testing.assert_close(reference.allen_cahn_radial(dim=4)(x)[:, 0], 1 / (2 + 0.4 * r2), rtol=1e-9, atol=1e-10)


def radial_lines(dim: int, final: float, start: Any, forces: Any, n: int) -> float:
    """u(0) of u_t = u_rr + (dim - 1) u_r / r + forces(u, u_r): second-order differences on n cells, scipy's LSODA."""
    r, h = np.linspace(0, 40, n, retstep=True)

    def slope(_: float, u: np.ndarray) -> np.ndarray:
        out = np.zeros_like(u)
        ur = (u[2:] - u[:-2]) / (2 * h)
        out[1:-1] = (u[2:] - 2 * u[1:-1] + u[:-2]) / h**2 + (dim - 1) / r[1:-1] * ur + forces(u[1:-1], ur)
        out[0] = dim * 2 * (u[1] - u[0]) / h**2 + forces(u[0], 0.0)
        out[-1] = out[-2]
        return out

    found = integrate.solve_ivp(slope, (0, final), start(r), "LSODA", rtol=1e-9, atol=1e-12, lband=2, uband=1)
    return float(found.y[0, -1])


@pytest.mark.parametrize("name", ["hjb", "allen_cahn"])
def test_radial_differences_extrapolate_to_the_references_in_100_dimensions(name: str) -> None:
    if name == "hjb":
        truth = float(reference.hjb_cole_hopf()(point(*[0.0] * 101)))
        found = [
            radial_lines(100, 1.0, lambda r: np.log((1 + r**2) / 2), lambda u, ur: -(ur**2), n) for n in (601, 1201)
        ]
    else:
        truth = float(reference.allen_cahn_radial()(point(*[0.0] * 101)))
        found = [radial_lines(100, 0.3, lambda r: 1 / (2 + 0.4 * r**2), lambda u, ur: u - u**3, n) for n in (601, 1201)]
    assert (4 * found[1] - found[0]) / 3 == pytest.approx(truth, rel=1e-6)


def test_allen_cahn_agrees_with_its_coarse_run_and_depends_on_dimension() -> None:
    ours = reference.allen_cahn_radial()
    assert ours.error < 1e-7
    assert float(reference.allen_cahn_radial(dim=10)(point(*[0.0] * 11))) > float(ours(point(*[0.0] * 101)))


def test_cole_hopf_sampling_agrees_with_the_quadrature() -> None:
    problem = pde.get("hjb")
    found = cole_hopf(problem.terminal, problem.x0, 2.0, samples=100_000)
    assert found.value == pytest.approx(problem.truth(), abs=4 * found.standard_error)
    assert found.standard_error < 1e-5 * found.value
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    found = cole_hopf(pde.get("hjb", dim=6, weight=2.0).terminal, x, 2 * 0.7, weight=2.0, samples=100_000)
    truth = float(reference.hjb_cole_hopf(dim=6, weight=2.0)(torch.cat([x, x.new_tensor([0.3])])[None]))
    assert found.value == pytest.approx(truth, abs=4 * found.standard_error)
    assert found.standard_error < 3e-3


def test_the_control_variate_takes_most_of_the_variance_away_where_data_are_radial() -> None:
    problem = pde.get("hjb")
    found = cole_hopf(problem.terminal, problem.x0, 2.0, samples=20_000)
    w = torch.randn(10_000, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = torch.exp(-problem.terminal(math.sqrt(2) * w))
    assert found.standard_error < 0.1 * float(plain.std() / plain.mean()) / math.sqrt(len(w))


def test_multilevel_picard_prices_a_call_by_black_scholes_formula() -> None:
    problem = pde.get("black_scholes_basket", dim=2)
    found = multilevel_picard(problem, 3, 6, 300)
    assert found.value == pytest.approx(problem.truth(), abs=4 * found.standard_error)
    assert found.standard_error < 0.01 * found.value


def test_multilevel_picard_solves_allen_cahn_in_100_dimensions() -> None:
    problem = pde.get("allen_cahn_high_dimension")
    found = multilevel_picard(problem, 3, 4, 300)
    assert found.value == pytest.approx(problem.truth(), abs=4 * found.standard_error + 1e-3 * 0.0528)
    assert found.standard_error < 2e-3 * found.value


def default_risk_by_lines(x0: float, n: int = 1201) -> float:
    """dim = 1, u(x, 1) = x: differences in log x, which has no drift (0.02 - 0.2^2 / 2), and scipy's LSODA."""
    y, h = np.linspace(np.log(x0) - 2, np.log(x0) + 2, n, retstep=True)

    def slope(_: float, u: np.ndarray) -> np.ndarray:
        out = np.empty_like(u)
        out[1:-1] = 0.02 * (u[2:] - 2 * u[1:-1] + u[:-2]) / h**2
        intensity = np.interp(u, [50.0, 70.0], [0.2, 0.02])
        out[1:-1] -= ((intensity / 3 + 0.02) * u)[1:-1]
        out[0], out[-1] = out[1], out[-2]
        return out

    found = integrate.solve_ivp(slope, (0, 1), np.exp(y), "LSODA", rtol=1e-8, atol=1e-8, lband=2, uband=2)
    return float(np.interp(np.log(x0), y, found.y[:, -1]))


def test_multilevel_picard_and_differences_agree_on_default_risk_of_one_asset() -> None:
    problem = pde.get("default_risk", dim=1)
    problem.x0 = torch.tensor([60.0], dtype=torch.float64)
    found = multilevel_picard(problem, 3, 8, 400)
    assert found.value == pytest.approx(default_risk_by_lines(60.0), abs=4 * found.standard_error + 0.01)
    assert found.standard_error < 0.03


@pytest.mark.slow
def test_the_stored_value_of_default_risk_is_reproduced_with_other_numbers() -> None:
    found = multilevel_picard(pde.get("default_risk"), 3, 8, 1500, seed=7)
    assert found.value == pytest.approx(DEFAULT_RISK[0], abs=3 * math.hypot(found.standard_error, DEFAULT_RISK[1]))


def test_multilevel_picard_refuses_a_process_without_exact_steps() -> None:
    problem = pde.get("hjb", dim=2)
    problem.step = None
    with pytest.raises(BadInput, match="exact step"):
        multilevel_picard(problem, 1, 2, 2)
