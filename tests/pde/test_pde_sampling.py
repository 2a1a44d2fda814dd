"""Point sets of the cube against scipy and their defining properties; adaptive rules against hand-written loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import roots_legendre
from scipy.stats import qmc
from torch import Tensor

from odenet.errors import BadInput, UnknownName
from odenet.pde import sampling
from odenet.pde.domain import Box, Interval, Time

RANDOM = ("halton", "lhs", "sobol", "uniform")
TENSOR = ("chebyshev", "gauss", "grid")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_registry_holds_the_designs_of_both_kinds() -> None:
    assert sampling.names() == sorted((*RANDOM, *TENSOR))
    assert sampling.RESAMPLERS.names() == ["r3", "rad", "rar_d"]
    with pytest.raises(UnknownName, match="did you mean 'sobol'"):
        sampling.get("sobel")


@pytest.mark.parametrize("name", sorted((*RANDOM, *TENSOR)))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (17, 1), (100, 2), (250, 3), (64, 12)])
def test_points_lie_inside_the_cube_with_weights_of_sum_one(name: str, n: int, k: int) -> None:
    design = sampling.get(name)
    u, w = design.draw(n, k, seeded())
    m = n if design.exact else max(1, round(n ** (1 / k))) ** k
    assert u.shape == (m, k) and u.dtype == torch.float64 and w.shape == (m,)
    assert bool((u > 0).all() and (u < 1).all())
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-13)
    assert design.about and design.exact == (name in RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_points_follow_from_the_generator_and_from_nothing_else(name: str) -> None:
    first = sampling.get(name).draw(50, 3, seeded(5))[0]
    torch.manual_seed(99)
    np.random.seed(99)
    torch.rand(7)
    assert torch.equal(first, sampling.get(name).draw(50, 3, seeded(5))[0])
    assert not torch.equal(first, sampling.get(name).draw(50, 3, seeded(6))[0])


def test_sobol_points_have_one_point_in_every_elementary_box_of_the_plane() -> None:
    u, _ = sampling.sobol(64, 2, seeded(3))
    for p in range(7):  # a (0, 6, 2)-net: boxes of 2^-p by 2^-(6-p)
        boxes = (u * torch.tensor([2.0**p, 2.0 ** (6 - p)])).floor()
        assert len(boxes.unique(dim=0)) == 64


@pytest.mark.parametrize("name", ["halton", "lhs", "sobol"])
def test_discrepancy_is_about_that_of_scipys_points_and_below_uniform_ones(name: str) -> None:
    peer = {"halton": qmc.Halton, "lhs": qmc.LatinHypercube, "sobol": qmc.Sobol}[name]
    ours = np.median([qmc.discrepancy(sampling.get(name).draw(256, 2, seeded(i))[0].numpy()) for i in range(9)])
    theirs = np.median([qmc.discrepancy(peer(2, rng=np.random.default_rng(i)).random(256)) for i in range(9)])
    loose = np.median([qmc.discrepancy(sampling.uniform(256, 2, seeded(i))[0].numpy()) for i in range(9)])
    assert ours < 1.5 * theirs and ours < loose


def test_latin_hypercube_has_one_point_in_each_bin_of_each_coordinate() -> None:
    u, _ = sampling.lhs(40, 5, seeded())
    assert torch.equal((u * 40).floor().sort(dim=0).values, torch.arange(40.0).double()[:, None].expand(40, 5))


def test_halton_without_scrambling_is_scipys() -> None:
    n, bases = 200, [2, 3, 5, 7, 11]
    columns = [
        sampling.radical_inverse(torch.arange(n), b, torch.arange(b).expand(30, b)) for b in bases
    ]  # digits in their own order
    expected = qmc.Halton(5, scramble=False).random(n)
    np.testing.assert_allclose(torch.stack(columns, 1).numpy(), expected, atol=1e-14)


def test_scrambled_halton_fills_the_cells_of_each_base_once() -> None:
    u, _ = sampling.halton(81, 2, seeded(1))
    assert len((u[:64, 0] * 64).floor().unique()) == 64
    assert len((u[:, 1] * 81).floor().unique()) == 81


@pytest.mark.parametrize("m", [1, 2, 7, 40])
def test_gauss_nodes_are_scipys(m: int) -> None:
    x, w = roots_legendre(m)
    ours, weights = sampling.legendre(m)
    np.testing.assert_allclose(ours.numpy(), (x + 1) / 2, atol=1e-14)
    np.testing.assert_allclose(weights.numpy(), w / 2, atol=1e-14)


def test_many_gauss_nodes_are_rules_on_equal_panels() -> None:
    x, w = sampling.legendre(1000)
    assert len(x) == 1000 and bool((x[1:] > x[:-1]).all())
    assert float((w * (x - 0.05).abs()).sum()) == pytest.approx((0.05**2 + 0.95**2) / 2, rel=1e-4)
    assert float((w * torch.sin(300 * x)).sum()) == pytest.approx((1 - math.cos(300)) / 300, abs=1e-14)


@pytest.mark.parametrize("m", [1, 2, 5, 12, 33])
def test_chebyshev_weights_integrate_polynomials_of_degree_m_minus_one(m: int) -> None:
    x, w = sampling.fejer(m)
    np.testing.assert_allclose(x.numpy(), (1 - np.cos((2 * np.arange(m) + 1) * np.pi / (2 * m))) / 2, atol=1e-15)
    for degree in range(m):
        assert float((w * x**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-14)
    assert float((w * x ** (m + m % 2)).sum()) != pytest.approx(1 / (m + m % 2 + 1), abs=1e-14 * 4.0**-m)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_jacobi_nodes_are_exact_to_degree_2m_minus_1(power: int) -> None:
    x, w = sampling.jacobi(4, power)
    for degree in range(8):
        assert float((w * x**degree).sum()) == pytest.approx((power + 1) / (degree + power + 1), abs=1e-14)


def test_a_grid_is_the_midpoints_of_equal_cells() -> None:
    u, w = sampling.get("grid").draw(9, 2, seeded())
    assert {tuple(round(v * 6) for v in row) for row in u.tolist()} == {(i, j) for i in (1, 3, 5) for j in (1, 3, 5)}
    assert torch.allclose(w, torch.full((9,), 1 / 9).double(), atol=1e-16)


def test_a_tensor_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match='use how="sobol" in 30 dimensions'):
        sampling.get("grid").draw(2**31, 30, seeded())


def test_a_plug_in_design_is_named_and_used_by_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling.SAMPLERS, "_entries", dict(sampling.SAMPLERS._entries))

    def centre(n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.full((n, k), 0.5).double(), torch.full((n,), 1 / n).double()

    sampling.SAMPLERS.register("centre", sampling.Design(draw=centre, exact=True, about="all in the middle"))
    assert sampling.get("centre").name == "centre"
    assert torch.equal(Box((0, 0), (2, 4)).sample(3, how="centre"), torch.tensor([[1.0, 2.0]] * 3).double())
    with pytest.raises(BadInput, match="is a function; register"):
        sampling.SAMPLERS.register("bare", centre)


# adaptive rules -----------------------------------------------------------------------------------------------------


def by_hand(r: list[float], k: float, c: float) -> list[float]:
    """p_i proportional to r_i^k / mean(r^k) + c, as in the authors' own program."""
    mean = sum(v**k for v in r) / len(r)
    p = [v**k / mean + c for v in r]
    return [v / sum(p) for v in p]


@pytest.mark.parametrize(("k", "c"), [(1.0, 1.0), (2.0, 0.0), (0.5, 2.0), (4.0, 0.5)])
def test_the_density_is_the_residuals_power_over_its_mean_plus_a_constant(k: float, c: float) -> None:
    r = [0.3, -2.0, 0.0, 1e-3, 7.0]
    ours = sampling.density(torch.tensor(r, dtype=torch.float64), k, c)
    np.testing.assert_allclose(ours.numpy(), by_hand([abs(v) for v in r], k, c), rtol=1e-13)


def test_the_density_survives_residuals_whose_power_underflows() -> None:
    p = sampling.density(torch.tensor([1e-200, 2e-200], dtype=torch.float64), 2.0, 0.0)
    np.testing.assert_allclose(p.numpy(), [0.2, 0.8], rtol=1e-12)
    assert torch.equal(sampling.density(torch.zeros(4).double(), 2.0, 0.0), torch.full((4,), 0.25).double())


def step(x: Tensor) -> Tensor:
    return torch.where(x[:, 0] < 0.5, 3.0, 1.0).double()


def test_rad_draws_all_points_anew_in_the_proportion_of_the_density() -> None:
    x = Interval(0, 1).sample(2000, seeded())
    new = sampling.rad(Interval(0, 1), step, x, seeded(1), pool=200_000)
    # r^1 / mean + 1 is 3/2 + 1 on the left and 1/2 + 1 on the right
    share = 2.5 / (2.5 + 1.5)
    assert new.shape == x.shape and not torch.equal(new, x)
    assert abs(float((new[:, 0] < 0.5).double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / 2000)
    assert len(new.unique()) == 2000


def test_rar_d_keeps_the_points_and_adds_by_the_square_of_the_residual() -> None:
    x = Interval(0, 1).sample(100, seeded())
    new = sampling.rar_d(Interval(0, 1), step, x, seeded(1), add=1000, pool=200_000)
    assert torch.equal(new[:100], x) and new.shape == (1100, 1)
    share = float((new[100:, 0] < 0.5).double().mean())
    assert abs(share - 0.9) < 4 * math.sqrt(0.09 / 1000)
    assert sampling.rar_d(Interval(0, 1), step, x, seeded(1)).shape == (110, 1)


def test_r3_retains_what_is_above_the_mean_and_resamples_the_rest_uniformly() -> None:
    domain = Interval(-1, 1) * Time(0, 2)
    x = domain.sample(500, seeded())

    def magnitude(x: Tensor) -> Tensor:
        return (x[:, 0] ** 2 * x[:, 1] - 0.3).abs()

    new = sampling.r3(domain, magnitude, x, seeded(4))
    values = magnitude(x).tolist()
    threshold, kept = sum(values) / len(values), []
    for row, value in zip(x.tolist(), values):
        if value > threshold:
            kept.append(row)
    assert new.shape == x.shape and 0 < len(kept) < 500
    assert new[: len(kept)].tolist() == kept
    fresh = new[len(kept) :]
    assert not (fresh[:, None] == x[None]).all(2).any() and domain.inside(fresh).all()
    assert torch.equal(fresh, domain.sample(len(fresh), seeded(4), "uniform"))
    m = len(fresh)
    assert abs(float(fresh[:, 1].mean()) - 1.0) < 4 * math.sqrt(4 / 12 / m)


def test_r3_with_equal_residuals_releases_every_point() -> None:
    x = Interval(0, 1).sample(20, seeded())
    assert not bool(torch.isin(sampling.r3(Interval(0, 1), lambda x: torch.ones(len(x)), x, seeded(1)), x).any())


@pytest.mark.parametrize("rule", ["rad", "rar_d", "r3"])
def test_adaptive_rules_are_functions_of_the_generator_and_refuse_bad_residuals(rule: str) -> None:
    move, domain = sampling.RESAMPLERS.get(rule), Box((0, 0), (1, 1))
    x = domain.sample(30, seeded())
    assert torch.equal(move(domain, step, x, seeded(2)), move(domain, step, x, seeded(2)))
    with pytest.raises(BadInput, match="residual is not finite"):
        move(domain, lambda x: x[:, 0] / 0, x, seeded())
    with pytest.raises(BadInput, match=r"has shape \(\d+, 2\); give one number for each point"):
        move(domain, lambda x: x, x, seeded())
    assert move(domain, lambda x: torch.zeros(len(x)), x, seeded()).shape[1] == 2


def test_points_are_still_drawn_when_the_residual_vanishes_almost_everywhere() -> None:
    x = Interval(0, 1).sample(50, seeded())
    peak = sampling.rar_d(Interval(0, 1), lambda x: (x[:, 0] - x[0, 0] == 0).double(), x, seeded(), add=20, pool=100)
    assert peak.shape == (70, 1) and len(peak.unique()) == 70
