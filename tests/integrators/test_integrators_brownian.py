"""The Brownian path: its law, that it replays, that it adds up, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import math
import random
import statistics
import time

import numpy as np
import pytest
import torch
from scipy import stats

from odenet.errors import BadInput, Incompatible
from odenet.integrators.brownian import BrownianPath

PATHS = 20_000
UNEVEN = (0.0, 0.1, 0.1004, 0.25, 0.37, 0.5, 0.9, 0.90025, 1.0)


def parts(path: BrownianPath, times: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Increments and integrals over consecutive times, with the lengths."""
    both = [path.with_integral(s, t) for s, t in itertools.pairwise(times)]
    lengths = torch.tensor([t - s for s, t in itertools.pairwise(times)], dtype=torch.float64)
    return torch.stack([w for w, _ in both]), torch.stack([z for _, z in both]), lengths


# ---- law


@pytest.mark.parametrize("dt_min", [None, 0.0004, 0.0001])
def test_increments_and_integrals_on_any_grid_have_the_covariance_of_brownian_motion(dt_min: float | None) -> None:
    """Cov(W, W) = h, Cov(W, Z) = h^2/2, Cov(Z, Z) = h^3/3 on one interval and 0 between two."""
    w, z, h = parts(BrownianPath(1, (PATHS,), dt_min=dt_min), UNEVEN)
    n = len(h)
    wanted = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    wanted[:n, :n], wanted[n:, n:] = torch.diag(h), torch.diag(h**3 / 3)
    wanted[:n, n:] = wanted[n:, :n] = torch.diag(h**2 / 2)
    seen = torch.cat((w, z)) @ torch.cat((w, z)).T / PATHS
    scale = wanted.diagonal().sqrt()
    spread = (
        (wanted.diagonal().outer(wanted.diagonal()) + wanted**2) / PATHS
    ).sqrt()  # of a Gaussian sample covariance
    assert float(((seen - wanted) / spread).abs().max()) < 4.5  # 256 entries
    assert float((torch.cat((w, z)).mean(1) / scale).abs().max()) < 4.5 / math.sqrt(PATHS)


def test_the_space_time_area_is_independent_of_the_increment_with_variance_h_cubed_over_12() -> None:
    w, z, h = parts(BrownianPath(5, (PATHS,)), (0.0, 0.3, 1.0))
    for i in range(2):
        area = (z[i] - h[i] / 2 * w[i]) / (h[i] ** 3 / 12).sqrt()
        assert stats.kstest(area.numpy(), "norm").pvalue > 1e-3
        assert abs(float((area * w[i] / h[i].sqrt()).mean())) < 4 / math.sqrt(PATHS)


@pytest.mark.parametrize("t", [0.5, 0.3, 1 / 3, 0.7301, 1.0])
def test_the_value_at_one_time_is_normal(t: float) -> None:
    w = BrownianPath(11, (PATHS,))(0.0, t) / math.sqrt(t)
    assert stats.kstest(w.numpy(), "norm").pvalue > 1e-3


def test_the_span_scales_the_law() -> None:
    w, z = BrownianPath(2, (PATHS,), -3.0, 5.0).with_integral(-1.0, 4.0)
    assert float(w.var()) == pytest.approx(5, rel=5 / math.sqrt(PATHS))
    assert float(z.var()) == pytest.approx(125 / 3, rel=5 / math.sqrt(PATHS))


def test_the_integral_is_that_of_the_path() -> None:
    """The trapezoidal sum over 4096 cells differs by a sum of independent N(0, h^3/12)."""
    path, n = BrownianPath(3, (50,)), 4096
    w = torch.stack([path(0.0, i / n) for i in range(n + 1)])
    error = path.with_integral(0.0, 1.0)[1] - torch.trapezoid(w, dx=1 / n, dim=0)
    assert float(error.abs().max()) < 5 * math.sqrt(n * n**-3 / 12)
    assert float(error.std()) == pytest.approx(math.sqrt(n * n**-3 / 12), rel=0.5)


def test_components_samples_and_seeds_are_independent() -> None:
    n = 100
    w = parts(BrownianPath(0, (4, 3)), tuple(i / n for i in range(n + 1)))[0].reshape(n, -1)
    other = parts(BrownianPath(1, (4, 3)), tuple(i / n for i in range(n + 1)))[0].reshape(n, -1)
    correlation = torch.corrcoef(torch.cat((w, other), 1).T) - torch.eye(24)
    assert float(correlation.abs().max()) < 5 / math.sqrt(n)
    assert not torch.isclose(w, other).any()


def test_neighbouring_seeds_and_consecutive_increments_are_uncorrelated() -> None:
    ends = torch.stack([BrownianPath(seed, (8,), dt_min=1.0)(0.0, 1.0) for seed in range(500)])
    assert abs(float((ends[1:] * ends[:-1]).mean())) < 4 / math.sqrt(ends[1:].numel())
    assert float(ends.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / ends.numel()))


# ---- replay


def intervals(n: int) -> list[tuple[float, float]]:
    return [(i / n, (i + 1) / n) for i in range(n)]


@pytest.mark.parametrize("n", [7, 64, 100])
def test_every_increment_replays_bit_for_bit_in_any_order(n: int) -> None:
    first = {st: BrownianPath(9, (3, 2)).with_integral(*st) for st in intervals(n)}  # each from a fresh path
    shuffled = intervals(n) * 2
    random.Random(0).shuffle(shuffled)
    path = BrownianPath(9, (3, 2))
    for order in (intervals(n), intervals(n)[::-1], shuffled):
        for st in order:
            w, z = path.with_integral(*st)
            assert torch.equal(w, first[st][0]) and torch.equal(z, first[st][1])
            assert torch.equal(path(*st), w)


def test_a_copy_and_a_path_over_the_same_span_backwards_are_the_same_path() -> None:
    path = BrownianPath(4, (5,), 0.0, 2.0)
    path(0.3, 0.9)
    assert torch.equal(copy.deepcopy(path)(0.1, 0.7), path(0.1, 0.7))
    assert torch.equal(BrownianPath(4, (5,), 2.0, 0.0)(0.1, 0.7), path(0.1, 0.7))


def test_different_numbers_of_steps_see_one_path() -> None:
    coarse = BrownianPath(6, (4,))
    for n in (3, 50, 128):
        total = sum(BrownianPath(6, (4,))(s, t) for s, t in intervals(n))
        assert torch.allclose(total, coarse(0.0, 1.0), rtol=0, atol=1e-13)
    finer = BrownianPath(6, (4,), dt_min=1e-5)  # agrees where the cells of both begin
    assert torch.equal(finer(0.25, 0.625), coarse(0.25, 0.625))


def test_increments_and_integrals_add_up() -> None:
    """Z(a, c) = Z(a, b) + (c - b) W(a, b) + Z(b, c)."""
    path, draw = BrownianPath(8, (6,), 1.0, 4.0), random.Random(1)
    for _ in range(100):
        a, b, c = (draw.uniform(1, 4) for _ in range(3))
        if min(abs(a - b), abs(b - c), abs(c - a)) < path.dt_min:
            continue
        (w1, z1), (w2, z2), (w, z) = path.with_integral(a, b), path.with_integral(b, c), path.with_integral(a, c)
        assert torch.allclose(w1 + w2, w, rtol=0, atol=1e-14)
        assert torch.allclose(z1 + (c - b) * w1 + z2, z, rtol=0, atol=1e-9)  # times are kept to 2^-24 of a cell


def test_backwards_is_the_negative_of_forwards() -> None:
    path = BrownianPath(8, (6,))
    w, z = path.with_integral(0.2, 0.7)
    back, integral = path.with_integral(0.7, 0.2)
    assert torch.equal(back, -w)
    assert torch.allclose(integral, 0.5 * w - z, rtol=0, atol=1e-9)  # int_t^s (W(u) - W(t)) du with s < t
    assert torch.equal(path(0.4, 0.4), torch.zeros(6, dtype=torch.float64))


def test_times_that_differ_by_rounding_give_one_value() -> None:
    path, h = BrownianPath(0, (3,)), 1 / 30
    for i in range(1, 30):
        assert torch.equal(path(0.0, i * h), path(0.0, (i - 1) * h + h))


# ---- dtype, device, shape


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (2, 3, 4)])
def test_an_increment_has_the_shape_that_was_asked_for(shape: tuple[int, ...]) -> None:
    w, z = BrownianPath(0, shape).with_integral(0.0, 0.5)
    assert w.shape == z.shape == shape


def test_float32_and_complex_states_see_the_same_path() -> None:
    double, single = BrownianPath(3, (5,)), BrownianPath(3, (5,), dtype=torch.float32)
    for st in intervals(10):
        assert single(*st).dtype == torch.float32
        assert torch.equal(single(*st), double(*st).float())
        assert torch.equal(single.with_integral(*st)[1], double.with_integral(*st)[1].float())
    assert BrownianPath(3, (5,), dtype=torch.complex64)(0.0, 0.5).dtype == torch.float32


def test_a_result_is_the_callers_own() -> None:
    path = BrownianPath(3, (5,))
    kept = path(0.0, 0.5).clone()
    path(0.0, 0.5).mul_(0)
    assert torch.equal(path(0.0, 0.5), kept)


@pytest.mark.gpu
def test_the_path_on_a_gpu_is_that_on_the_cpu() -> None:
    there, here = BrownianPath(3, (64, 8), device="cuda"), BrownianPath(3, (64, 8))
    for st in intervals(20):
        w, z = there.with_integral(*st)
        assert w.device.type == "cuda"
        assert torch.equal(w.cpu(), here(*st)) and torch.equal(z.cpu(), here.with_integral(*st)[1])


# ---- refusals


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, None, True, "a"])
def test_a_seed_is_a_whole_number_of_64_bits(seed: object) -> None:
    with pytest.raises(BadInput, match="whole number from 0"):
        BrownianPath(seed, (2,))  # type: ignore[arg-type]


@pytest.mark.parametrize(("t0", "t1"), [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_span_has_two_finite_ends(t0: float, t1: float) -> None:
    with pytest.raises(BadInput, match="two different finite times"):
        BrownianPath(0, (2,), t0, t1)


def test_an_interval_shorter_than_the_cells_is_refused_and_the_sentence_says_how_to_build_the_path() -> None:
    with pytest.raises(BadInput, match=r"dt_min = 0\.000244.*length 0\.0001 .* dt_min=0\.0001"):
        BrownianPath(0, (2,))(0.5, 0.5001)
    assert BrownianPath(0, (2,), dt_min=0.0001)(0.5, 0.5001).shape == (2,)
    path = BrownianPath(0, (2,), dt_min=1 / 3)  # cells of 1/4
    assert path.dt_min == 0.25 and path(0.4, 0.65).shape == (2,)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(BadInput, match="positive length"):
            BrownianPath(0, (2,), dt_min=wrong)
    with pytest.raises(BadInput, match="too short"):
        BrownianPath(0, (2,), dt_min=1e-12)


def test_a_time_outside_the_span_is_refused() -> None:
    path = BrownianPath(0, (2,))
    for s, t in ((-0.1, 0.5), (0.5, 1.01), (0.0, math.nan)):
        with pytest.raises(BadInput, match="outside the Brownian path"):
            path(s, t)
    assert torch.equal(path(0.5, 1 + 1e-12), path(0.5, 1.0))  # rounding of the last time is not outside


def test_a_time_per_sample_and_a_time_with_a_gradient_are_refused() -> None:
    path = BrownianPath(0, (2,))
    for t in (torch.tensor([0.1, 0.2]), torch.tensor(0.5, requires_grad=True)):
        with pytest.raises(Incompatible, match="one time for all samples"):
            path(0.0, t)
    assert torch.equal(path(0.0, torch.tensor(0.5)), path(0.0, 0.5))


# ---- speed


@pytest.mark.bench
@pytest.mark.parametrize("n", [100, 1000, 1024, 4096])
def test_an_increment_of_64_numbers_on_equal_steps_costs_less_than_100_microseconds(n: int) -> None:
    seconds = []
    for seed in range(5):
        begin = time.process_time()
        path = BrownianPath(seed, (64,))
        for st in intervals(n):
            path(*st)
        seconds.append((time.process_time() - begin) / n)
    assert statistics.median(seconds) < 100e-6


def test_what_is_kept_does_not_grow_with_the_number_of_increments() -> None:
    path = BrownianPath(0, (1000,))
    for st in intervals(2000):
        path(*st)
    kept = sum(v.nbytes for v in (*path._halves.values(), *path._recent.values()))
    assert kept < 1200 * 1000
    assert isinstance(next(iter(path._halves.values())), np.ndarray)
