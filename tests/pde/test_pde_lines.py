"""The method of lines: orders of integrators on PDEs, closed forms, boundary conditions of all kinds, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from odenet import integrators, pde
from odenet.errors import Incompatible, SolveFailed
from odenet.pde.methods.grid import Chebyshev, Fourier, Grid
from odenet.pde.methods.history import History
from odenet.pde.methods.linear_part import Modes, Split, steady
from odenet.pde.methods.lines import grid_of
from odenet.pde.methods.semidiscrete import Semidiscrete

REAL, PI = torch.float64, math.pi
CIRCLE = pde.Interval(0, 2 * PI)


def solved(problem: pde.Problem, **words: Any) -> pde.Solution:
    return pde.solve(problem, method="method_of_lines", seconds=60, track=False, **words)


def error(sol: pde.Solution) -> float:
    """Relative, at some points: quicker than sol.rel_l2."""
    x = sol.problem.domain.sample(400, torch.Generator().manual_seed(5))
    truth = sol.problem.truth(x)
    assert truth is not None
    return float((sol.u(x) - truth).norm() / truth.norm())


# ---- problems with closed forms --------------------------------------------------------------------------------------


def travelling(nu: float = 0.2, neumann: bool = False) -> pde.Problem:
    """Burgers' equation: the front u = 1 - tanh((x - t) / (2 nu))."""

    def u(x: Any, t: Any) -> Any:
        return 1 - torch.tanh((x - t) / (2 * nu))

    def slope(t: Any) -> Any:
        return -(1 - torch.tanh((1 - t) / (2 * nu)) ** 2) / (2 * nu)

    right = pde.neumann(slope, on="right") if neumann else pde.dirichlet(lambda t: u(1.0, t), on="right")
    left = pde.dirichlet(lambda t: u(-1.0, t), on="left")
    return pde.Problem(
        pde.Interval(-1, 1) * pde.Time(0, 0.5),
        lambda u: u.t + u * u.x - nu * u.xx,
        [pde.initial(lambda x: u(x, 0.0)), left, right],
        exact=u,
    )


def faded(speed: float = 1.0, nu: float = 0.1) -> pde.Problem:
    """u_t + speed u_x = nu u_xx on a circle."""
    return pde.Problem(
        CIRCLE * pde.Time(0, 1),
        lambda u: u.t + speed * u.x - nu * u.xx,
        [pde.initial(lambda x: torch.sin(x) + torch.cos(2 * x)), pde.periodic("x")],
        exact=lambda x, t: (
            torch.exp(-nu * t) * torch.sin(x - speed * t) + torch.exp(-4 * nu * t) * torch.cos(2 * (x - speed * t))
        ),
    )


def soliton(c: float = 1.0, delta: float = 0.1, half: float = 9.0) -> pde.Problem:
    """KdV: u = 3 c sech^2(sqrt(c / delta) (x - c t) / 2)."""

    def u(x: Any, t: Any) -> Any:
        return 3 * c / torch.cosh(0.5 * math.sqrt(c / delta) * (x - c * t)) ** 2

    return pde.Problem(
        pde.Interval(-half, half) * pde.Time(0, 0.5),
        lambda u: u.t + u * u.x + delta * u.xxx,
        [pde.initial(lambda x: u(x, 0.0)), pde.periodic("x")],
        exact=u,
    )


def plane_wave(a: float = 0.8, k: int = 2) -> pde.Problem:
    """i h_t + h_xx / 2 + |h|^2 h = 0: h = a exp(i (k x - (k^2 / 2 - a^2) t))."""
    w = k**2 / 2 - a**2
    return pde.Problem(
        CIRCLE * pde.Time(0, 1),
        lambda u, v: (u.t + v.xx / 2 + (u**2 + v**2) * v, v.t - u.xx / 2 - (u**2 + v**2) * u),
        [
            pde.initial(lambda x: a * torch.cos(k * x), unknown="u"),
            pde.initial(lambda x: a * torch.sin(k * x), unknown="v"),
            pde.periodic("x"),
        ],
        unknowns=("u", "v"),
        exact=lambda x, t: (a * torch.cos(k * x - w * t), a * torch.sin(k * x - w * t)),
    )


def wave(damping: float = 0.0) -> pde.Problem:
    """u_tt + damping u_t = u_xx with fixed ends, mode pi."""
    w = math.sqrt(PI**2 - damping**2 / 4)

    def u(x: Any, t: Any) -> Any:
        return (
            torch.sin(PI * x) * torch.exp(-damping / 2 * t) * (torch.cos(w * t) + damping / (2 * w) * torch.sin(w * t))
        )

    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.7),
        lambda u: u.tt + damping * u.t - u.xx,
        [pde.initial(lambda x: torch.sin(PI * x)), pde.initial(0.0, order=1), pde.dirichlet(0.0)],
        exact=u,
    )


def rectangle(kinds: str = "mixed") -> pde.Problem:
    """u_t = u_xx + u_yy / 2 + u_xy / 4 + f with u = exp(-t) sin(x + 2 y) + t x^2 on a rectangle."""

    def u(x: Any, y: Any, t: Any) -> Any:
        return torch.exp(-t) * torch.sin(x + 2 * y) + t * x**2

    def f(x: Any, y: Any, t: Any) -> Any:
        return torch.exp(-t) * torch.sin(x + 2 * y) * (-1 + 1 + 2 + 0.5) + x**2 - 2 * t

    sides = [
        pde.dirichlet(lambda y, t: u(0.0 * y, y, t), on="left"),
        pde.neumann(lambda y, t: torch.exp(-t) * torch.cos(1 + 2 * y) + 2 * t, on="right"),
        pde.robin(1.0, 2.0, lambda x, t: u(x, 0.0 * x, t) - 4 * torch.exp(-t) * torch.cos(x), on="bottom"),
        pde.dirichlet(lambda x, t: u(x, 0.0 * x + 0.5, t), on="top"),
    ]
    return pde.Problem(
        pde.Box((0, 0), (1, 0.5)) * pde.Time(0, 0.3),
        lambda u, x, y, t: u.t - u.xx - u.yy / 2 - u.xy / 4 - f(x, y, t),
        [pde.initial(lambda x, y: u(x, y, 0.0 * x)), *sides],
        exact=u,
    )


def beam() -> pde.Problem:
    """u_t = -u_xxxx with u = u_xx = 0 at both ends, mode pi."""
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.02),
        lambda u: u.t + u.xxxx,
        [pde.initial(lambda x: torch.sin(PI * x)), pde.dirichlet(0.0), pde.operator(lambda u: u.xx, on="boundary")],
        exact=lambda x, t: torch.exp(-(PI**4) * t) * torch.sin(PI * x),
    )


def acoustics() -> pde.Problem:
    """u_t = v_x, v_t = u_x with u = 0 at both ends and nothing said of v there."""
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 0.6),
        lambda u, v: (u.t - v.x, v.t - u.x),
        [
            pde.initial(lambda x: torch.sin(PI * x), unknown="u"),
            pde.initial(0.0, unknown="v"),
            pde.dirichlet(0.0, unknown="u"),
        ],
        unknowns=("u", "v"),
        exact=lambda x, t: (torch.sin(PI * x) * torch.cos(PI * t), torch.cos(PI * x) * torch.sin(PI * t)),
    )


def rotation() -> pde.Problem:
    """u_t = v, v_t = -u, coupled in their time derivatives."""
    return pde.Problem(
        CIRCLE * pde.Time(0, 1),
        lambda u, v: (u.t + 3 * v.t - v + 3 * u, v.t + u),
        [
            pde.initial(lambda x: torch.sin(x), unknown="u"),
            pde.initial(lambda x: torch.cos(x), unknown="v"),
            pde.periodic("x"),
        ],
        unknowns=("u", "v"),
        exact=lambda x, t: (torch.sin(x + t), torch.cos(x + t)),
    )


def steepening(nu: float = 0.1) -> pde.Problem:
    """Burgers' equation from -sin(pi x), by Cole-Hopf and Gauss-Hermite quadrature."""
    import numpy as np

    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite.hermgauss(80))

    def u(x: Any, t: Any) -> Any:
        y = x[:, None] - 2 * torch.sqrt(nu * t)[:, None] * nodes
        f = weights * torch.exp(-torch.cos(PI * y) / (2 * PI * nu))
        return -(f * torch.sin(PI * y)).sum(1) / f.sum(1)

    return pde.Problem(
        pde.Interval(-1, 1) * pde.Time(0, 0.6),
        lambda u: u.t + u * u.x - nu * u.xx,
        [pde.initial(lambda x: -torch.sin(PI * x)), pde.dirichlet(0.0)],
        reference=lambda p: u(p[:, 0], p[:, 1])[:, None],
    )


# ---- accuracy --------------------------------------------------------------------------------------------------------

SOLVED: list[tuple[Callable[[], pde.Problem], dict[str, Any], float]] = [
    (travelling, {"points": 32, "tolerance": 1e-6}, 1e-5),
    (travelling, {"points": 24, "integrator": "bdf", "tolerance": 1e-4}, 1e-3),
    (faded, {"points": 15, "integrator": "kencarp4", "tolerance": 1e-7}, 1e-6),
    (travelling, {"points": 24, "integrator": "rodas4", "tolerance": 1e-4}, 1e-3),
    (lambda: travelling(neumann=True), {"points": 28, "tolerance": 1e-5}, 1e-4),
    (faded, {"integrator": "etdrk4", "steps": 20, "points": 15}, 1e-10),
    (faded, {"integrator": "dopri5", "points": 15, "tolerance": 1e-9}, 1e-8),
    (faded, {"integrator": "imex_euler", "points": 15, "steps": 150}, 1e-2),
    (soliton, {"integrator": "etdrk4", "points": 128, "steps": 160}, 2e-5),
    (plane_wave, {"integrator": "krogstad4", "points": 15, "steps": 60}, 1e-6),
    (plane_wave, {"integrator": "gauss6", "points": 15, "steps": 30}, 1e-5),
    (wave, {"integrator": "yoshida6", "points": 16, "steps": 60}, 1e-6),
    (lambda: wave(damping=0.7), {"points": 20}, 1e-8),
    (rectangle, {"points": 12, "tolerance": 1e-9}, 1e-9),
    (beam, {"points": 20}, 1e-8),
    (rotation, {"points": 5, "integrator": "rk4", "steps": 20}, 1e-6),
    (acoustics, {"points": 20, "integrator": "radau_iia5", "tolerance": 1e-7}, 1e-7),
]  # fmt: skip


@pytest.mark.parametrize(
    ("maker", "words", "bound"),
    SOLVED,
    ids=[f"{i}-{w.get('integrator', 'radau_iia5')}" for i, (_, w, _) in enumerate(SOLVED)],
)
def test_solutions_are_those_of_closed_forms(
    maker: Callable[[], pde.Problem], words: dict[str, Any], bound: float
) -> None:
    sol = solved(maker(), **words)
    assert error(sol) < bound
    assert sol.residual < 100 * bound  # derivatives of the solution, in time too


@pytest.mark.parametrize(
    ("maker", "name", "steps"),
    [
        (faded, "rk4", 40), (faded, "heun", 60), (faded, "ab3", 160), (faded, "gauss4", 10), (travelling, "sdirk2", 16),
        (plane_wave, "etdrk4", 16), (plane_wave, "etd2rk", 24), (faded, "ars343", 30), (wave, "verlet", 60),
        (wave, "forest_ruth", 60), (faded, "bdf3", 40),
    ],
)  # fmt: skip
def test_integrators_keep_their_order_in_time_on_pdes(maker: Callable[[], pde.Problem], name: str, steps: int) -> None:
    points = 40 if maker is travelling else 15
    problem = maker()
    x = grid_of(problem, points).nodes[1:-1]
    end = torch.cat([x, torch.full_like(x, float(problem.domain.bounds[1, -1]))], 1)
    errors = []
    for factor in (1, 2):
        sol = solved(problem, integrator=name, points=points, steps=factor * steps)
        truth = problem.truth(end)
        assert truth is not None
        errors.append(float((sol.u(end) - truth).norm()))
    order = math.log2(errors[0] / errors[1])
    claimed = integrators.get(name).order
    assert claimed - 0.35 < order < claimed + 0.5 and errors[1] > 1e-12, (order, errors)


def test_resolution_in_space_and_time_is_found_by_doubling() -> None:
    sol = solved(travelling(), tolerance=1e-6)
    assert sol.status == "converged" and error(sol) < 1e-6
    assert sol.settings["points"] in (48, 96) and sol.history[-1]["loss"] < 1e-6
    fixed = solved(faded(), integrator="heun", tolerance=1e-5)
    assert fixed.status == "converged" and error(fixed) < 3e-5 and len(fixed.history) > 2
    steps = [row["steps"] for row in fixed.history]
    assert steps == sorted(steps) and steps[-1] == fixed.settings["steps"] > 64


def test_points_are_doubled_where_the_solution_steepens() -> None:
    sol = solved(steepening(), tolerance=1e-4)
    points = [row["points"] for row in sol.history]
    assert sol.status == "converged" and points == [24 * 2**k for k in range(len(points))] and len(points) > 1
    assert error(sol) < 1e-4


def test_too_few_points_are_confessed() -> None:
    sol = solved(travelling(nu=0.01), points=16, tolerance=1e-5)
    assert sol.status == "suspect" and "With 16 points the last coefficients" in sol.message


def test_an_unstable_march_is_refined_or_refused_never_returned() -> None:
    with pytest.raises(SolveFailed, match=r"rk4"):
        solved(travelling(), integrator="rk4", points=48, steps=30)
    sol = solved(wave(), integrator="verlet", tolerance=1e-3)
    assert sol.status == "converged" and error(sol) < 1e-2


def test_ordinary_equations_have_no_space() -> None:
    problem = pde.Problem(
        pde.Time(0, 2),
        lambda u, v: (u.t - v, v.t + u),
        [pde.initial(0.0, unknown="u"), pde.initial(1.0, unknown="v")],
        unknowns=("u", "v"),
        exact=lambda t: (torch.sin(t), torch.cos(t)),
    )
    sol = solved(problem, integrator="dopri5", tolerance=1e-7)
    assert error(sol) < 1e-6


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [Chebyshev(-1, 2, 40), Fourier(0.5, 0.5 + PI, 40)])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_derivatives_on_an_axis_are_those_of_the_function(axis: Chebyshev | Fourier, order: int) -> None:
    x = torch.linspace(axis.a + 0.05, axis.b - 0.05, 17, dtype=REAL).requires_grad_()
    found = torch.exp(torch.sin(2 * x))
    for _ in range(order):
        (found,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    data = torch.exp(torch.sin(2 * axis.nodes))
    scale = float(found.detach().abs().max())
    assert float((axis.rows(x.detach(), order) @ data - found.detach()).abs().max()) < 1e-10 * 10**order * scale
    assert torch.allclose(
        axis.matrix(order) @ data, axis.rows(axis.nodes, order) @ data, rtol=0, atol=1e-11 * 10**order * scale
    )
    assert axis.tail(data) < 1e-7 < axis.tail(axis.nodes.sign() if axis.a < 0 else (axis.nodes - 2).sign())


def test_nodes_are_met_exactly_and_fourier_points_are_odd_in_number() -> None:
    axis = Chebyshev(0, 1, 9)
    assert torch.equal(axis.rows(axis.nodes, 0), torch.eye(9, dtype=REAL))
    assert axis.nodes[0] == 0 and axis.nodes[-1] == 1 and Fourier(0, 1, 10).n == 11


@pytest.mark.parametrize(
    "maker", [travelling, lambda: travelling(neumann=True), plane_wave, lambda: wave(0.7), rectangle, beam, acoustics]
)
def test_jacobians_are_those_of_reverse_mode(maker: Callable[[], pde.Problem]) -> None:
    problem = maker()
    system = Semidiscrete(problem, grid_of(problem, 7))
    g = torch.Generator().manual_seed(0)
    y = system.start() + 0.1 * torch.randn(system.size, dtype=REAL, generator=g)
    found = system.jacobian(0.1, y, {})
    columns = torch.func.jacrev(lambda y: system(0.1, y, {}))(y)
    assert float((found - columns).abs().max()) < 1e-11 * float(columns.abs().max())


def test_boundary_values_follow_from_conditions_that_move() -> None:
    problem = rectangle()
    grid = grid_of(problem, 10)
    system = Semidiscrete(problem, grid)
    x, t = grid.nodes, 0.2

    def u(time: Tensor) -> Tensor:
        return torch.exp(-time) * torch.sin(x[:, 0] + 2 * x[:, 1]) + time * x[:, 0] ** 2

    time = torch.tensor(t, dtype=REAL)
    value, slope = torch.func.jvp(u, (time,), (torch.ones_like(time),))
    y = value[system.free[0]]
    assert len(y) < grid.size and float((system.level(t, y, 0)[0] - value).abs().max()) < 1e-9
    assert float((system.full_slope(t, y)[0] - slope).abs().max()) < 1e-6


def test_the_linear_part_of_a_circle_is_diagonal_in_its_modes() -> None:
    problem = faded(speed=3.0, nu=0.2)
    system = Semidiscrete(problem, grid_of(problem, 11))
    modes = Modes(system)
    k = torch.arange(6, dtype=REAL)
    assert torch.allclose(modes.linear({}), -3j * k - 0.2 * k**2, rtol=1e-12, atol=1e-12)
    y = torch.randn(11, dtype=REAL, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(modes.values(modes.state(y)), y, rtol=0, atol=1e-14)
    assert float(modes.nonlinear(0.0, modes.state(y), {}).abs().max()) < 1e-12


def test_coupled_modes_are_taken_apart_and_what_is_not_linear_is_left() -> None:
    problem = plane_wave()
    system = Semidiscrete(problem, grid_of(problem, 11))
    modes, k = Modes(system), torch.arange(6, dtype=REAL)
    found = modes.linear({}).reshape(6, 2).imag.sort(1).values
    assert torch.allclose(found, torch.stack([-(k**2) / 2, k**2 / 2], 1), rtol=1e-12, atol=1e-12)
    y = system.start()
    cubic = system(0.0, y, {}) - system.assembled(steady(system)) @ y
    u, v = y.split(11)
    assert torch.allclose(cubic, torch.cat([-(u**2 + v**2) * v, (u**2 + v**2) * u]), rtol=0, atol=1e-12)


def test_on_bounded_axes_the_linear_part_is_a_matrix_and_moving_ends_belong_to_the_rest() -> None:
    problem = travelling()
    system = Semidiscrete(problem, grid_of(problem, 12))
    split, y = Split(system), Semidiscrete(problem, grid_of(problem, 12)).start()
    D = system.grid.dense((2,))[1:-1, 1:-1]
    assert torch.allclose(split.linear({}), 0.2 * D, rtol=1e-12, atol=1e-9)
    total = split.explicit(0.3, y, {}) + split.implicit(0.3, y, {})
    assert torch.allclose(total, system(0.3, y, {}), rtol=0, atol=1e-10)


def test_history_has_degree_seven_in_time_and_its_derivatives() -> None:
    t = torch.cat([torch.tensor([0.0, 1e-9, 1e-6], dtype=REAL), torch.linspace(1e-3, 1, 21, dtype=REAL)])
    grid = Grid((Chebyshev(0, 1, 5),))
    space = (grid.nodes[:, 0] ** 2 + 1)[None, None]
    history = History(grid, t, torch.sin(3 * t)[:, None, None] * space, 3 * torch.cos(3 * t)[:, None, None] * space)
    x = torch.rand(50, 2, dtype=REAL, generator=torch.Generator().manual_seed(0))
    u, u_x, u_t, u_tt = history.jet(x, [(0, 0), (1, 0), (0, 1), (0, 2)])[..., 0]
    s, wave_ = x[:, 0] ** 2 + 1, 3 * x[:, 1]
    gaps = [u - s * torch.sin(wave_), u_x - 2 * x[:, 0] * torch.sin(wave_), u_t - 3 * s * torch.cos(wave_)]
    gaps += [u_tt + 9 * s * torch.sin(wave_)]
    later = (x[:, 1] > 0.06) & (x[:, 1] < 0.95)
    for gap, bound, first in zip(gaps, (5e-12, 5e-12, 1e-9, 2e-7), (1e-9, 1e-9, 2e-7, 2e-5)):
        assert float(gap[later].abs().max()) < bound  # degree 7
        assert float(gap.abs().max()) < first  # degree 5 at the ends and beside a step that is fifty times shorter


def test_a_saved_solution_gives_the_same_numbers(tmp_path: Path) -> None:
    problem = rectangle()
    sol = solved(problem, points=8, tolerance=1e-4)
    sol.save(tmp_path)
    x = problem.domain.sample(20, torch.Generator().manual_seed(0))
    again = pde.load(tmp_path, problem)
    assert torch.equal(again.u(x), sol.u(x)) and torch.equal(again.derivative(x, "t"), sol.derivative(x, "t"))


# ---- refusals --------------------------------------------------------------------------------------------------------

START = pde.initial(lambda x: torch.sin(x))


@pytest.mark.parametrize(
    ("residual", "conditions", "words", "sentence"),
    [
        (lambda u: u * u.t - u.xx, [START, pde.periodic("x")], {}, "changes with the solution"),
        (lambda u, t: (1 + t) * u.t - u.xx, [START, pde.periodic("x")], {}, "changes with the solution or with time"),
        (lambda u: u.t - u.xxt, [START, pde.periodic("x")], {}, "differentiated in space"),
        (lambda u: u.xx - u, [pde.dirichlet(0.0)], {}, "one equation with a time derivative"),
        (lambda u: u.t - u.xx, [START, pde.operator(lambda u: u.x + u**4, on="boundary")], {}, "not linear"),
        (lambda u: u.t - u.xx, [START, pde.periodic("x")], {"integrator": "verlet"}, "u_tt = N"),
        (lambda u: u.t - u.xx, [START, pde.periodic("x")], {"integrator": "milstein"}, "field with noise"),
        (lambda u: u.t - u * u.xx, [START, pde.periodic("x")], {"integrator": "etdrk4"}, "no linear part"),
        (lambda u: u.t - u.at(x=0.0), [START], {}, "other places"),
    ],
)
def test_what_cannot_be_stepped_is_refused_in_a_sentence(
    residual: Any, conditions: list[pde.Condition], words: dict[str, Any], sentence: str
) -> None:
    problem = pde.Problem(CIRCLE * pde.Time(0, 1), residual, conditions)
    with pytest.raises(Incompatible, match=sentence):
        solved(problem, **words)


def test_round_domains_are_refused() -> None:
    from odenet.pde.shapes import Disk

    problem = pde.Problem(
        Disk((0, 0), 1) * pde.Time(0, 1),
        lambda u: u.t - pde.laplacian(u),
        [pde.initial(lambda x, y: 1 - x**2 - y**2), pde.dirichlet(0.0)],
    )
    with pytest.raises(Incompatible, match="intervals and rectangles"):
        solved(problem)
