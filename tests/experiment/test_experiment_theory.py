"""Every prediction is held against a second derivation: closed forms, Monte Carlo, matrices written out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import odenet as on
from odenet.experiment import theory
from odenet.experiment.theory import depth, growth, trained
from odenet.experiment.theory.case import Case, number, within


def quiet(fraction: float) -> None:
    assert 0 <= fraction <= 1


class Made(dict[str, Case]):
    """A case is computed when a test first asks for it: of the processes that run these tests none makes all."""

    def __missing__(self, name: str) -> Case:
        self[name] = theory.CASES[name](quiet)
        return self[name]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    torch.set_num_threads(1)
    return Made()


# those that train nets, which `compare` itself runs unless told otherwise
TRAINED = ("coarse_steps", "noise")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in TRAINED else name for name in theory.CASES]


@pytest.mark.parametrize("name", NAMES)
def test_every_prediction_holds(cases: dict[str, Case], name: str) -> None:
    for row in cases[name].rows:
        assert row.agrees, f"{row.case}: predicted {row.prediction}, measured {row.measurement}"


@pytest.mark.parametrize("name", NAMES)
def test_every_case_is_plain_data(cases: dict[str, Case], name: str) -> None:
    content = cases[name].to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["title"] and content["setting"] and content["rule"] and content["figure"]["series"]


def curves(case: Case, kind: str) -> dict[str, list[float]]:
    return {s.name: list(s.y) for s in case.figure.series if s.kind == kind}


def test_eulers_growth_on_an_oscillation_is_the_closed_form(cases: dict[str, Case]) -> None:
    # |1 + i h w|^N = (1 + (h w)^2)^(N/2) with h w = 16 * 1.5 / N
    expected = [(1 + (24 / n) ** 2) ** (n / 2) for n in growth.DEPTHS]
    assert curves(cases["oscillation"], "predicted")["euler"] == pytest.approx(expected, rel=1e-6)
    assert curves(cases["oscillation"], "measured")["euler"] == pytest.approx(expected, rel=0.02)


def test_the_two_step_midpoint_rule_grows_by_the_root_of_its_quadratic(cases: dict[str, Case]) -> None:
    # z^2 - 2 i x z - 1 = 0 with x = h w: |z| = x + sqrt(x^2 - 1) for x > 1, else 1
    expected = [(x + math.sqrt(x * x - 1)) ** n if (x := 24 / n) > 1 else 1.0 for n in growth.DEPTHS]
    assert curves(cases["oscillation"], "predicted")["two_step_midpoint"] == pytest.approx(expected, rel=1e-6)


def test_rk4_never_grows_on_these_oscillations(cases: dict[str, Case]) -> None:
    assert max(curves(cases["oscillation"], "measured")["rk4"]) <= 1 + 1e-9


def test_parabolic_layers_turn_expansive_exactly_at_two(cases: dict[str, Case]) -> None:
    (measured,) = curves(cases["contraction"], "measured").values()
    for product, value in zip(cases["contraction"].figure.series[0].x, measured):
        if product > 2:
            assert value == pytest.approx((product - 1) ** 16, rel=0.02)
        else:
            assert value <= 1.0


def test_the_growth_rate_of_random_products_is_that_of_monte_carlo() -> None:
    draw = np.random.default_rng(0)
    n, layers = depth.WIDTH, 4000
    v, total = np.ones(n) / math.sqrt(n), 0.0
    for _ in range(layers):
        v = draw.uniform(-1, 1, (n, n)) @ v / math.sqrt(n)  # torch's initial weights: variance 1/(3n)
        size = float(np.linalg.norm(v))
        total, v = total + math.log(size), v / size
    error = math.sqrt(1 / (2 * n) / layers)
    assert math.log(depth._lyapunov(1)) == pytest.approx(total / layers, abs=4 * error)


def test_the_mean_square_of_a_parabolic_layer_is_that_of_monte_carlo() -> None:
    draw = np.random.default_rng(0)
    n, h, squares = depth.WIDTH, depth.SPAN / 64, []
    v = np.eye(n)[0]
    for _ in range(4000):
        K = draw.standard_normal((n, n)) / math.sqrt(n)
        squares.append(float(np.sum((v - h * K.T @ (K @ v)) ** 2)))
    assert depth._mean_square(64) ** (2 / 64) == pytest.approx(
        np.mean(squares), abs=4 * np.std(squares) / math.sqrt(4000)
    )


def test_jacobians_of_verlet_layers_are_the_products_of_shears() -> None:
    torch.set_default_dtype(torch.float64)
    flow = on.Flow(on.fields.SeparableHamiltonian(depth.WIDTH), "verlet", span=(0.0, 2.0), steps=5, seed=0)
    y = torch.randn(1, depth.WIDTH, generator=torch.Generator().manual_seed(1))
    half = depth.WIDTH // 2
    S, norms, eye = torch.eye(depth.WIDTH), [], torch.eye(half)
    with torch.no_grad():
        p = flow.theta()
        states, h = flow.trajectory(y)[:, 0], 2.0 / 5

        def shear(K: torch.Tensor, b: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return K.T @ torch.diag(1 - torch.tanh(K @ z + b) ** 2) @ K

        for j in reversed(range(5)):
            K1, b1, K2, b2 = (p[k][j] for k in ("K1", "b1", "K2", "b2"))
            q, m = states[j].split(half)
            kick = torch.block_diag(eye, eye)
            kick[half:, :half] = -h / 2 * shear(K2, b2, q)
            m = m - h / 2 * K2.T @ torch.tanh(K2 @ q + b2)
            drift = torch.block_diag(eye, eye)
            drift[:half, half:] = h * shear(K1, b1, m)
            q = q + h * K1.T @ torch.tanh(K1 @ m + b1)
            last = torch.block_diag(eye, eye)
            last[half:, :half] = -h / 2 * shear(K2, b2, q)
            S = S @ last @ drift @ kick
            norms.append(float(torch.linalg.matrix_norm(S, ord=2)))
        assert depth._smallest(flow) == pytest.approx(min(norms), rel=1e-10)


def test_deep_hamiltonian_gradients_stay_above_one_while_plain_ones_underflow(cases: dict[str, Case]) -> None:
    measured = curves(cases["gradients"], "measured")
    assert min(measured["hamiltonian, verlet"]) >= 1 and measured["plain tanh layers"][-1] < 1e-200
    assert depth.DEPTHS[-1] == 1024


def test_a_net_stepped_with_its_own_number_of_steps_is_itself() -> None:
    net = trained._net(on.fields.Antisymmetric(trained.WIDTH, gamma=0.0), "rk4", 8, 2.0, 0).eval()
    x = trained._digits(0).x_test[:5]
    with torch.no_grad():
        assert torch.equal(trained._stepped(net, "rk4", 8)(x), net(x))
        fine, other = (trained._stepped(net, *pair)(x) for pair in (("rk4", 64), ("euler", 4096)))
    torch.testing.assert_close(fine, other, rtol=0, atol=2e-3)  # the error of 4096 Euler steps, which halves with h


@pytest.mark.slow
def test_the_winner_flips_where_the_stability_intervals_say(cases: dict[str, Case]) -> None:
    measured = curves(cases["coarse_steps"], "measured")
    at = {n: i for i, n in enumerate(trained.DEPTHS)}
    assert measured["rk4"][at[32]] > 90 > 50 > measured["two_step_midpoint"][at[32]]
    assert measured["two_step_midpoint"][at[64]] > 90 > 50 > measured["euler"][at[64]]
    assert measured["euler"][at[1024]] > measured["euler"][at[64]] + 30


def test_the_bound_on_weight_noise_is_nearly_met_where_it_is_sharp() -> None:
    """y' = -y with a small defect in every step: the sum of defects is the deviation up to the damping."""
    net = trained._net(on.fields.Parabolic(trained.WIDTH), "euler", 16, 1e-3, 0)
    deviation, bound = trained._deviation(net, 0, 0.05)
    assert bool((deviation <= bound).all()) and bool((deviation >= 0.95 * bound).all())


def test_numbers_are_printed_with_three_digits() -> None:
    assert [number(v) for v in (1.0, 0.9984, 4.594, 65536.0, 4.9e-252, 0.0)] == [
        "1",
        "0.998",
        "4.59",
        "6.6e+04",
        "4.9e-252",
        "0",
    ]
    assert within(1.9, 1.0, 2.0) and not within(2.1, 1.0, 2.0) and not within(0.4, 1.0, 2.0)
