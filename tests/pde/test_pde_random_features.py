"""Random features: derivatives, least squares, windows in time; against closed forms, scipy, autograd, references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from odenet import pde
from odenet.errors import BadInput, Incompatible
from odenet.pde.corners import Corners
from odenet.pde.methods.evolution import Evolution, Rule, Window
from odenet.pde.methods.feature_space import Space
from odenet.pde.methods.random_feature_basis import Axis, Features, Regularised, draw
from odenet.pde.shapes import Disk

PI = math.pi
STRETCHED = Axis(-1.0, 1.0, False, (0.1, -0.5), (0.05, 0.2), (1.0, 0.7))
CIRCLE = Axis(0.0, 2.0, True, (0.3,), (0.6,), (0.4,))
ORDERS = [(i, j) for i in range(5) for j in range(5) if i + j <= 4]


def derivative(f, x: torch.Tensor, index: tuple[int, ...]) -> torch.Tensor:
    x = x.clone().requires_grad_()
    v = f(x)
    for axis, n in enumerate(index):
        for _ in range(n):
            v = torch.autograd.grad(v.sum(), x, create_graph=True)[0][:, axis]
    return v.detach()


def points(n: int, d: int, low: float = 0.0, high: float = 1.0, seed: int = 3) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("activation", ["sin", "tanh"])
@pytest.mark.parametrize("index", ORDERS)
def test_derivatives_of_features_are_those_of_autograd(activation: str, index: tuple[int, int]) -> None:
    axes = (STRETCHED, CIRCLE if activation == "sin" else Axis(0.0, 2.0))
    f = draw(axes, 20, torch.Generator().manual_seed(0), activation)
    x = points(9, 2, 0.05, 0.9)
    wanted = derivative(lambda y: f(y, [(0, 0)])[(0, 0)][:, 7], x, index)
    torch.testing.assert_close(f(x, [index])[index][:, 7], wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


def test_a_stretched_axis_is_monotone_and_maps_the_ends() -> None:
    x = torch.linspace(-1, 1, 5001, dtype=torch.float64)
    assert torch.all(STRETCHED(x, 1)[1] > 0)
    torch.testing.assert_close(STRETCHED(x)[0][[0, -1]], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    xi = torch.linspace(-1, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(STRETCHED(STRETCHED.inverse(xi))[0], xi, rtol=0, atol=1e-5)
    y = torch.linspace(0, 2, 1001, dtype=torch.float64)
    assert torch.all(CIRCLE(y, 1)[1] > 0)


def test_features_on_a_circle_are_periodic_with_their_derivatives() -> None:
    f = draw((CIRCLE,), 30, torch.Generator().manual_seed(0))
    ends = f(torch.tensor([[0.0], [2.0]], dtype=torch.float64), [(k,) for k in range(4)])
    for table in ends.values():
        torch.testing.assert_close(table[0], table[1], rtol=1e-9, atol=1e-9 * float(table.abs().max()))


def test_regularised_least_squares_agrees_with_scipy_on_a_hand_assembled_matrix() -> None:
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((80, 30)), rng.standard_normal(80)
    wanted = scipy.linalg.lstsq(A, b, lapack_driver="gelsy")[0]
    found = Regularised(torch.from_numpy(A)).solve(torch.from_numpy(b)[:, None])[:, 0]
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-11, atol=1e-12)


def test_dependent_columns_cost_no_digits_of_the_residual() -> None:
    x = np.linspace(-1, 1, 200)
    A = np.sin(np.outer(x, np.linspace(0, 6, 60)) + np.arange(60))  # rank 60 in exact arithmetic, about 20 in ours
    b = np.exp(x)
    truth = np.linalg.norm(A @ scipy.linalg.lstsq(A, b, cond=1e-14, lapack_driver="gelsd")[0] - b)
    c = Regularised(torch.from_numpy(A)).solve(torch.from_numpy(b)[:, None])[:, 0].numpy()
    assert np.linalg.norm(A @ c - b) < max(10 * truth, 1e-11)
    normal = np.linalg.norm(A @ np.linalg.lstsq(A.T @ A, A.T @ b, rcond=1e-14)[0] - b)
    assert np.linalg.norm(A @ c - b) < 0.1 * normal  # normal equations lose half the digits


def test_the_rule_of_three_nodes_is_radau_iia_as_published() -> None:
    s, r = math.sqrt(6), Rule(3)
    A = [
        [(88 - 7 * s) / 360, (296 - 169 * s) / 1800, (-2 + 3 * s) / 225],
        [(296 + 169 * s) / 1800, (88 + 7 * s) / 360, (-2 - 3 * s) / 225],
        [(16 - s) / 36, (16 + s) / 36, 1 / 9],
    ]  # Hairer and Wanner, Solving Ordinary Differential Equations II, table IV.5.6
    torch.testing.assert_close(r.A, torch.tensor(A, dtype=torch.float64), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(
        r.c, torch.tensor([(4 - s) / 10, (4 + s) / 10, 1], dtype=torch.float64), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("start", [False, True])
def test_interpolation_in_time_is_exact_for_polynomials_and_their_derivatives(start: bool) -> None:
    r, t = Rule(5), torch.linspace(0, 1, 7, dtype=torch.float64)
    nodes = torch.cat([torch.zeros(1, dtype=torch.float64), r.c]) if start else r.c
    n = len(nodes) - 1
    for order in (0, 1, 2):
        factor = math.prod(n - k for k in range(order))
        found = r.interpolate(t, start, order) @ nodes**n
        torch.testing.assert_close(found, factor * t ** (n - order), rtol=1e-10, atol=1e-10)


def test_the_projected_second_derivative_has_the_eigenvalues_of_the_string() -> None:
    """u'' with u = 0 at both ends of (0, 1): -(n pi)^2."""
    problem = pde.get("heat", diffusivity=1.0)
    system = Evolution(problem, 3)
    space = Space(system.space, system.axes, 60, torch.Generator().manual_seed(1), system.channels)
    window = Window(system, space)
    zero = [[torch.zeros(space.size, dtype=torch.float64)]]
    found = window.slopes([torch.zeros(3, space.size, dtype=torch.float64)], zero, 0.0, 0.1)
    window.factor(found, 0.1)
    J = window.free.T @ space.test.T @ space.at_x[(2,)] @ window.free
    values = torch.linalg.eigvals(J).real.sort(descending=True).values[:6]
    wanted = torch.tensor([-((n * PI) ** 2) for n in range(1, 7)], dtype=torch.float64)
    torch.testing.assert_close(values, wanted, rtol=1e-7, atol=0)


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1)])
def test_singular_functions_of_corners_have_the_derivatives_of_autograd(order: tuple[int, int]) -> None:
    corner, x = Corners(((0.1, 0.2, 0.3, 1.5 * PI), (0.0, 1.0, 0.0, PI / 2))), points(9, 2, -0.8, 0.0)
    found = corner(x, [order])[order]
    for j in range(corner.size):
        wanted = derivative(lambda y, j=j: corner(y, [(0, 0)])[(0, 0)][:, j], x, order)
        torch.testing.assert_close(found[:, j], wanted, rtol=1e-9, atol=1e-9)


EASY = {"poisson": 1e-10, "heat": 1e-9, "wave": 1e-6, "convection": 1e-6, "volterra": 1e-9}
HARD = {"helmholtz": 1e-6, "burgers": 1e-6, "allen_cahn": 1e-6, "kdv": 1e-5, "ks": 1e-6}


@pytest.mark.parametrize("name", sorted(EASY))
def test_smooth_problems_are_solved_to_many_digits(name: str) -> None:
    found = pde.solve(name, "random_features", seed=1, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < EASY[name]
    assert found.residual < 1e-4 and found.status == "converged"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HARD))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_layers_solitons_and_fronts_agree_with_their_references(name: str, seed: int) -> None:
    found = pde.solve(name, "random_features", seed=seed, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < HARD[name]


@pytest.mark.slow
def test_chaos_is_followed_to_the_end() -> None:
    found = pde.solve("ks_chaotic", "random_features", tolerance=1e-6, seconds=300, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < 1e-4


def moving_boundary() -> pde.Problem:
    def exact(x, t):
        return torch.sin(x + t)

    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(1, 2),
        lambda u, x, t: u.t - u.xx - torch.cos(x + t) - torch.sin(x + t),
        [
            pde.initial(lambda x: torch.sin(x + 1)),
            pde.robin(1.0, 2.0, lambda x, t: torch.sin(x + t) + 2 * torch.cos(x + t), on="right"),
            pde.dirichlet(exact, on="left"),
        ],
        exact=exact,
    )


def test_boundary_values_may_move_and_mix_value_and_slope() -> None:
    found = pde.solve(moving_boundary(), "random_features", tolerance=1e-6, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < 1e-9
    times = torch.tensor([[0.3, 1.2], [0.9, 1.9]], dtype=torch.float64)
    wanted = torch.cos(times.sum(1))[:, None]
    torch.testing.assert_close(found.derivative(times, "t"), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.derivative(times, "x"), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.derivative(times, "tt"), -torch.sin(times.sum(1))[:, None], rtol=1e-3, atol=0)


def test_a_system_whose_equations_stand_in_the_other_order_is_paired() -> None:
    """u_t = v_x, v_t = u_x: waves to both sides, u = sin(x + t), v = sin(x + t)."""

    def start(x):
        return torch.sin(x)

    problem = pde.Problem(
        pde.Interval(0, 2 * PI) * pde.Time(0, 1),
        lambda u, v: (v.t - u.x, u.t - v.x),
        [pde.initial(start, unknown="u"), pde.initial(start, unknown="v"), pde.periodic("x")],
        unknowns=("u", "v"),
        exact=lambda x, t: (torch.sin(x + t), torch.sin(x + t)),
    )
    found = pde.solve(problem, "random_features", tolerance=1e-8, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < 1e-8


def test_a_nonlinear_equation_on_a_box_with_a_hole() -> None:
    def exact(x, y):
        return torch.exp(x) * torch.cos(2 * y)

    problem = pde.Problem(
        pde.Box((-1.0, -1.0), (1.0, 1.0)) - Disk((0.0, 0.0), 0.4),
        lambda u, x, y: u.xx + u.yy - u**3 + 3 * exact(x, y) + exact(x, y) ** 3,
        [pde.dirichlet(exact)],
        exact=exact,
    )
    found = pde.solve(problem, "random_features", track=False)
    assert found.rel_l2 is not None and found.rel_l2 < 1e-9


def test_an_unknown_coefficient_is_found_with_its_spread() -> None:
    x = torch.linspace(0.05, 0.95, 15, dtype=torch.float64)[:, None]
    noise = 1e-3 * torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = pde.Problem(
        pde.Interval(0, 1),
        lambda u, x, k: k * u.xx + 2 * PI**2 * torch.sin(PI * x),
        [pde.dirichlet(0.0), pde.data(x, torch.sin(PI * x[:, 0]) + noise)],
        parameters={"k": 1.0},
    )
    found = pde.solve(problem, "random_features", width=50, track=False)
    assert abs(found.parameters["k"] - 2) < 4e-3
    assert found.covariance is not None and found.covariance.shape == (1, 1) and 0 < float(found.covariance) < 1e-4


def corner() -> pde.Problem:
    from odenet.pde.polygons import Polygon

    def exact(x, y):  # harmonic, zero on both sides of the corner at the origin
        angle = torch.remainder(torch.atan2(y, x) - PI / 2, 2 * PI)
        return (x**2 + y**2) ** (1 / 3) * torch.sin(2 / 3 * angle)

    vertices = ((0.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (1.0, 0.0))
    return pde.Problem(Polygon(vertices), lambda u: u.xx + u.yy, [pde.dirichlet(exact)], exact=exact)


def test_the_singularity_of_a_re_entrant_corner_is_among_the_features() -> None:
    found = pde.solve(corner(), "random_features", width=50, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < 1e-7


def test_more_features_than_points_are_called_suspect() -> None:
    found = pde.solve("helmholtz", "random_features", width=400, oversampling=0.3, track=False)
    assert found.residual > 10 * found.settings["training"]
    assert found.status == "suspect" and "do not trust" in found.message


def test_too_few_features_are_called_suspect() -> None:
    found = pde.solve("helmholtz", "random_features", width=20, track=False)
    assert found.rel_l2 is not None and found.rel_l2 > 0.1
    assert found.status == "suspect" and "not satisfied" in found.message


def test_the_change_between_trials_bounds_the_error() -> None:
    found = pde.solve("wave", "random_features", accuracy=1e-7, track=False)
    assert found.rel_l2 is not None and found.rel_l2 < found.settings["error_estimate"]


def test_a_seed_gives_the_same_numbers_bit_by_bit_and_another_others() -> None:
    x = points(50, 2)
    u, v, w = (pde.solve("heat", "random_features", tolerance=1e-6, seed=s, track=False).u(x) for s in (4, 4, 5))
    assert torch.equal(u, v) and not torch.equal(u, w)


@pytest.mark.parametrize("name", ["wave", "poisson"])
def test_a_saved_solution_gives_the_same_numbers(name: str, tmp_path) -> None:
    found, x = pde.solve(name, "random_features", track=False), points(40, 2)
    found.save(tmp_path)
    again = pde.load(tmp_path)
    assert torch.equal(again.u(x), found.u(x)) and torch.equal(again.derivative(x, "xx"), found.derivative(x, "xx"))


def test_a_march_out_of_seconds_says_where_it_ended_and_gives_nothing_beyond() -> None:
    found = pde.solve("burgers", "random_features", seconds=1e-9, track=False)
    assert found.status == "suspect" and "ended at t = 0" in found.message
    assert bool(found.u(torch.tensor([[0.0, 0.5]], dtype=torch.float64)).isnan())


def test_what_it_cannot_do_is_refused_in_a_sentence() -> None:
    with pytest.raises(Incompatible, match="too many in 5 coordinates"):
        pde.solve(pde.get("poisson", dim=5), "random_features")
    with pytest.raises(BadInput, match="features are sin or tanh"):
        pde.solve("heat", "random_features", features="relu")
    with pytest.raises(BadInput, match="not periodic"):
        pde.solve("convection", "random_features", features="tanh")
    with pytest.raises(BadInput, match="no model"):
        pde.solve("heat", "random_features", model=torch.nn.Linear(2, 1).double())
    with pytest.raises(BadInput, match="width"):
        pde.solve("heat", "random_features", width=0)


def test_features_of_a_plane_are_spread_over_both_signs_of_direction() -> None:
    f = draw((Axis(0.0, 1.0), Axis(0.0, 1.0)), 200, torch.Generator().manual_seed(0))
    assert isinstance(f, Features) and f.w.shape == (200, 2)
    assert 80 < int((f.w[:, 0] > 0).sum()) < 120 and bool((f.w[:, 1] >= 0).all())
