"""Levenberg-Marquardt and energy natural gradients against closed forms, MINPACK and published minima."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from optimise_examples import CLASSICS, F64, Function, Squares, classic, column, net_size, regression, rosenbrock
from scipy.optimize import least_squares
from torch import Tensor

from odenet.errors import BadInput, Incompatible
from odenet.optimise import LeastSquares, get, minimise
from odenet.optimise.krylov import Krylov
from odenet.optimise.linear import Dual, Primal, Triangular

LOCALS: dict[str, Any] = {
    "primal": Primal, "dual": Dual, "qr": Triangular,
    "cg": lambda p, t: Krylov(p, t, tolerance=1e-13, iterations=2000),
    "cg diagonal": lambda p, t: Krylov(p, t, "diagonal", tolerance=1e-13, iterations=5000),
    "cg none": lambda p, t: Krylov(p, t, "none", tolerance=1e-13, iterations=5000),
    "cg anew": lambda p, t: Krylov(p, t, tolerance=1e-13, iterations=2000, held=0),
}  # fmt: skip


def minpack(name: str) -> Any:
    r, start, _ = CLASSICS[name]
    jacobian = torch.func.jacrev(r)
    return least_squares(
        lambda x: r(torch.from_numpy(x)).numpy(), start.numpy(), jac=lambda x: jacobian(torch.from_numpy(x)).numpy(),
        method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip


@pytest.mark.parametrize("scaling", ["identity", "columns"])
@pytest.mark.parametrize("name", sorted(CLASSICS))
def test_classics_end_where_minpack_ends_and_at_the_published_minimum(name: str, scaling: str) -> None:
    problem, start = classic(name)
    optimiser = get("gauss_newton", scaling=scaling)
    state = minimise(problem, start, optimiser, steps=500)
    theirs, published = minpack(name), CLASSICS[name][2]
    assert 2 * float(state["loss"]) == pytest.approx(published, rel=3e-6, abs=1e-20)
    assert float(state["loss"]) <= theirs.cost * (1 + 1e-9) + 1e-20
    # where the minimum is a quartic its place is only as good as the fourth root of the rounding
    near = dict(rtol=0, atol=1e-4) if name == "powell_singular" else dict(rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(state["theta"], theirs.x, **near)
    if name != "powell_singular":  # a quartic: every step takes the same share of the loss away, down to underflow
        assert optimiser.status(state) == "converged"
        assert optimiser.message(state)


@pytest.mark.parametrize("kind", sorted(LOCALS))
@pytest.mark.parametrize("points", [20, 200])
@pytest.mark.parametrize("damping", [1e-3, 10.0])
def test_a_step_is_the_closed_form_with_every_solver(kind: str, points: int, damping: float) -> None:
    problem, theta = regression(points, rows=7)
    J, r = torch.func.jacrev(problem.r)(theta), problem.r(theta)
    scale = J.square().sum(0) + 0.1
    local = LOCALS[kind](problem, theta)
    p = torch.linalg.solve(J.T @ J + damping * torch.diag(scale), -J.T @ r)
    move = local.solve(damping, scale)
    torch.testing.assert_close(move.p, p, rtol=1e-8, atol=1e-8 * float(p.abs().max()))
    torch.testing.assert_close(local.gradient, J.T @ r, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(local.columns, J.square().sum(0), rtol=1e-12, atol=1e-14)
    assert local.loss == pytest.approx(float(r @ r) / 2, rel=1e-13)
    assert move.predicted == pytest.approx(float(r @ r - (J @ p + r) @ (J @ p + r)) / 2, rel=1e-8)


def test_two_dampings_of_one_jacobian_are_independent() -> None:
    problem, theta = regression(20)
    one = torch.ones_like(theta)
    for kind in LOCALS.values():
        local = kind(problem, theta)
        local.solve(1.0, one)
        again, alone = local.solve(1e-2, one), kind(problem, theta).solve(1e-2, one)
        torch.testing.assert_close(again.p, alone.p, rtol=1e-7, atol=1e-9)


def test_without_damping_one_step_solves_a_linear_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    A, b = torch.randn(30, 6, generator=generator, dtype=F64), torch.randn(30, generator=generator, dtype=F64)
    optimiser = get("gauss_newton", damping=1e-14)
    problem = Squares(lambda x: A @ x - b, 6, rows=4)
    state = optimiser.step(problem, optimiser.init(problem, torch.zeros(6, dtype=F64)))
    np.testing.assert_allclose(state["theta"], np.linalg.lstsq(A.numpy(), b.numpy())[0], rtol=1e-10)
    assert float(state["gradient_norm"]) == pytest.approx(float((A.T @ b).norm()))


@pytest.mark.parametrize(("name", "damping"), [("wood", 1.0), ("helical_valley", 0.1), ("kowalik_osborne", 10.0)])
def test_damping_follows_the_gain(name: str, damping: float) -> None:
    """One accepted step by hand: (J^T J + mu I) p = -J^T r, mu times max(1/3, 1 - (2 gain - 1)^3)."""
    problem, theta = classic(name)
    optimiser = get("gauss_newton", damping=damping, shrink=1 / 3, acceleration=0.0)
    J, r = torch.func.jacrev(problem.r)(theta), problem.r(theta)
    mu = damping * float((J.T @ J).diagonal().max())
    p = torch.linalg.solve(J.T @ J + mu * torch.eye(len(theta), dtype=F64), -J.T @ r)
    gain = float((r @ r - problem.value(theta + p) * 2) / (r @ r - (J @ p + r) @ (J @ p + r)))
    state = optimiser.step(problem, optimiser.init(problem, theta))
    torch.testing.assert_close(state["theta"], theta + p, rtol=1e-10, atol=1e-12)
    factor = 1 - (2 * gain - 1) ** 3
    assert (factor < 1 / 3) == (name == "kowalik_osborne")
    assert float(state["damping"]) == pytest.approx(mu * max(1 / 3, factor), rel=1e-8)


def test_refused_trials_raise_the_damping_by_two_then_four_then_eight() -> None:
    asked: list[float] = []

    class Cliff(Squares):
        def value(self, theta: Tensor) -> Tensor:  # a test's double: counts trials and refuses the first three
            asked.append(float(theta[0]))
            return column(1e9)[0] if len(asked) <= 3 else super().value(theta)

    problem = Cliff(lambda x: x - 2, 1)
    optimiser = get("gauss_newton", damping=1.0, acceleration=0.0)
    optimiser.step(problem, optimiser.init(problem, column(0)))
    assert asked == pytest.approx([2 / (1 + mu) for mu in (1, 2, 8, 64)])


def test_marquardts_scaling_does_not_see_the_units_of_the_parameters() -> None:
    units = column(1e-3, 1e4)
    optimiser = get("gauss_newton", scaling="columns")
    plain = minimise(Squares(rosenbrock, 2), column(-1.2, 1), optimiser, steps=8)
    other = minimise(Squares(lambda x: rosenbrock(x * units), 2), column(-1.2, 1) / units, optimiser, steps=8)
    torch.testing.assert_close(other["theta"] * units, plain["theta"], rtol=1e-6, atol=1e-9)


class Counted(LeastSquares):
    """Blocks of a random linear problem that say how many of them are alive at once."""

    def __init__(self, rows: int, size: int, blocks: int, gradient: bool = False) -> None:
        self.rows, self.count, self.number, self.gradient = rows, size, blocks, gradient
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0

    @property
    def size(self) -> int:
        return self.count

    def block(self, k: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(k)
        J = torch.randn(self.rows, self.count, generator=generator, dtype=F64)
        return J, torch.randn(self.rows, generator=generator, dtype=F64)

    def residual(self, theta: Tensor) -> Tensor:
        return torch.cat([J @ theta - b for J, b in map(self.block, range(self.number))])

    def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(self.number):
            J, b = self.block(k)
            r = J @ theta - b
            self.alive.add(J)
            self.most = max(self.most, len(self.alive))
            yield r, J
            del J, b, r
            gc.collect(0)


@pytest.mark.parametrize(("name", "options"), [
    ("gauss_newton", {"solver": "primal", "held": 0}), ("gauss_newton", {"solver": "qr", "held": 0}), ("engd", {}),
    ("lbfgs", {}), ("ssbroyden", {}), ("adam", {}),
])  # fmt: skip
def test_memory_does_not_grow_with_the_number_of_points(name: str, options: dict[str, Any]) -> None:
    problem = Counted(rows=15, size=10, blocks=12)
    optimiser = get(name, **options)
    optimiser.step(problem, optimiser.init(problem, torch.zeros(10, dtype=F64)))
    assert 1 <= problem.most <= 2  # the one in work, and the one that the loop's variable still names


@pytest.mark.parametrize("kind", [Primal, Triangular, Krylov])
def test_no_more_of_the_jacobian_is_kept_than_may_be(kind: Any) -> None:
    theta = torch.zeros(10, dtype=F64)
    few, many = Counted(15, 10, 12), Counted(15, 10, 12)
    some, whole = kind(few, theta, held=3 * 15 * 10 * 8), kind(many, theta)
    assert few.most <= 5 and some.rows.kept is None
    assert whole.rows.kept is not None and len(whole.rows.kept) == many.most == 12
    v, w = torch.arange(10, dtype=F64), torch.arange(180, dtype=F64)
    J = torch.cat([many.block(k)[0] for k in range(12)])
    for rows in (some.rows, whole.rows):
        torch.testing.assert_close(rows.forth(v), J @ v)
        torch.testing.assert_close(rows.back(w), J.T @ w)
        torch.testing.assert_close(rows.normal(v), J.T @ (J @ v))


@pytest.mark.parametrize("kind", sorted(LOCALS))
@pytest.mark.parametrize("points", [20, 200])
def test_a_second_right_hand_side_uses_the_same_matrix(kind: str, points: int) -> None:
    problem, theta = regression(points, rows=7)
    J, scale = torch.func.jacrev(problem.r)(theta), torch.linspace(1, 2, len(theta), dtype=F64)
    local, w = LOCALS[kind](problem, theta), torch.sin(torch.arange(points, dtype=F64))
    local.solve(1.0, scale)
    local.solve(0.1, scale)
    x = torch.linalg.solve(J.T @ J + 0.1 * torch.diag(scale), -J.T @ w)
    torch.testing.assert_close(local.towards(w), x, rtol=1e-7, atol=1e-8)


def test_a_step_is_bent_by_the_second_derivative_along_it() -> None:
    """p - (J^T J + mu)^-1 J^T r'' / 2 with r'' = p.H p from the exact second derivatives of a quadratic residual."""
    problem, theta = classic("wood")  # its residuals are quadratic: the difference quotient is exact
    optimiser = get("gauss_newton", damping=1.0, acceleration=100.0)
    J, r, H = (
        torch.func.jacrev(problem.r)(theta),
        problem.r(theta),
        torch.func.jacrev(torch.func.jacrev(problem.r))(theta),
    )
    M = J.T @ J + float((J.T @ J).diagonal().max()) * torch.eye(4, dtype=F64)
    p = torch.linalg.solve(M, -J.T @ r)
    a = torch.linalg.solve(M, -J.T @ torch.einsum("nij,i,j->n", H, p, p)) / 2
    assert float(a.norm() / p.norm()) > 0.01
    state = optimiser.step(problem, optimiser.init(problem, theta))
    torch.testing.assert_close(state["theta"], theta + p + a, rtol=1e-9, atol=0)
    ratio = 2 * float(a.norm() / p.norm())
    for limit, same in ((1.01 * ratio, True), (0.99 * ratio, False)):
        optimiser = get("gauss_newton", damping=1.0, acceleration=limit)
        again = optimiser.step(problem, optimiser.init(problem, theta))
        assert torch.equal(again["theta"], state["theta"]) == same
        assert float(again["loss"]) < float(r @ r) / 2


def test_bending_saves_steps_on_a_net() -> None:
    problem, theta = regression(60)
    loss = [float(minimise(problem, theta, get("gauss_newton", acceleration=a), steps=40)["loss"]) for a in (0.0, 0.75)]
    assert loss[1] < 0.1 * loss[0]


def test_products_that_the_problem_offers_replace_the_blocks() -> None:
    class Offers(Squares):
        asked = 0

        def matvec(self, theta: Tensor, v: Tensor) -> Tensor:
            self.asked += 1
            return torch.func.jacrev(self.r)(theta) @ v

        def rmatvec(self, theta: Tensor, w: Tensor) -> Tensor:
            return torch.func.vjp(self.r, theta)[1](w)[0]

        def pullback(self, theta: Tensor) -> tuple[Tensor, Tensor]:
            r, back = torch.func.vjp(self.r, theta)
            return r, back(r)[0]

    plain, theta = regression(50)
    problem, one = Offers(plain.r, plain.size), torch.ones_like(theta)
    move = Krylov(problem, theta, "diagonal", tolerance=1e-13, iterations=5000, held=0).solve(1e-2, one)
    assert problem.asked > 5
    torch.testing.assert_close(move.p, Primal(plain, theta).solve(1e-2, one).p, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(problem.value_and_gradient(theta), plain.value_and_gradient(theta))


def test_the_sketch_makes_conjugate_gradients_short() -> None:
    """Eigenvalues 10^0 ... 10^-12 and damping 1e-9: unpreconditioned CG is far from done in 20 products."""
    generator = torch.Generator().manual_seed(0)
    V = torch.linalg.qr(torch.randn(80, 80, generator=generator, dtype=F64)).Q
    A = V * torch.logspace(0, -6, 80, dtype=F64)
    problem, theta = Squares(lambda x: A.T @ x - 1, 80), torch.zeros(80, dtype=F64)
    exact = torch.linalg.solve(A @ A.T + 1e-9 * torch.eye(80, dtype=F64), A.sum(1))
    far = [
        float((Krylov(problem, theta, kind, rank=60, tolerance=0, iterations=20).solve(1e-9, torch.ones_like(theta)).p
               - exact).norm() / exact.norm())
        for kind in ("nystrom", "none")
    ]  # fmt: skip
    assert far[0] < 1e-3 < 0.1 < far[1]


@pytest.mark.parametrize("solver", ["primal", "dual", "qr", "cg"])
def test_a_singular_jacobian_gives_finite_steps_and_the_shortest_ones(solver: str) -> None:
    """Two parameters of which only the sum matters: Cholesky of J^T J breaks down, damping repairs it."""
    problem = Squares(lambda x: torch.stack([x.sum() - 2, 3 * x.sum() - 6]), 2)
    state = minimise(problem, column(0, 0), get("gauss_newton", solver=solver), steps=50)
    np.testing.assert_allclose(state["theta"], [1, 1], rtol=1e-7)
    state = minimise(problem, column(0, 0), get("gauss_newton", solver=solver, damping=1e-18), steps=50)
    assert float(state["theta"].sum()) == pytest.approx(2, rel=1e-7)


def test_a_trial_that_is_not_finite_is_refused() -> None:
    problem = Squares(lambda x: torch.log(x) * 10, 1)
    state = minimise(problem, column(20), get("gauss_newton", damping=1e-12), steps=60)
    assert float(state["theta"]) == pytest.approx(1, abs=1e-12)


def test_a_jacobian_that_is_not_finite_is_said() -> None:
    problem = Squares(lambda x: torch.sqrt(x) + 1, 1)
    optimiser = get("gauss_newton")
    state = minimise(problem, column(0), optimiser, steps=5)
    assert optimiser.status(state) == "stalled" and "not finite" in optimiser.message(state)
    assert int(state["steps"]) == 1


def test_a_wrong_jacobian_stalls_with_a_sentence() -> None:
    class Wrong(Squares):
        def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            yield self.residual(theta), -torch.func.jacrev(self.r)(theta)

    optimiser = get("gauss_newton")
    state = minimise(Wrong(rosenbrock, 2), column(-1.2, 1), optimiser, steps=50)
    assert optimiser.status(state) in ("stalled", "converged") and int(state["steps"]) < 50


def test_the_loss_never_rises() -> None:
    problem, theta = regression(60)
    losses: list[float] = []
    minimise(problem, theta, get("gauss_newton"), steps=60, watch=lambda s: losses.append(float(s["loss"])))
    assert all(b <= a for a, b in itertools.pairwise(losses)) and losses[-1] < 1e-3 * losses[0]
    assert losses[-1] < 1e-8


def test_the_gauss_newton_direction_with_the_pseudo_inverse_is_numpys() -> None:
    for points in (20, 200):  # kernel, then normal equations
        problem, theta = regression(points)
        J, r = torch.func.jacrev(problem.r)(theta), problem.r(theta)
        p = -np.linalg.pinv(J.numpy(), rcond=1e-6) @ r.numpy()
        optimiser = get("engd", damping=0.0, rcond=1e-12, grid=31)
        state = optimiser.step(problem, optimiser.init(problem, theta))
        lengths = 2.0 ** -np.arange(31)
        losses = [float(problem.value(theta + length * torch.from_numpy(p))) for length in lengths]
        best = lengths[int(np.argmin(losses))]
        np.testing.assert_allclose(state["theta"], theta + best * torch.from_numpy(p), rtol=1e-5, atol=1e-6)
        assert float(state["loss"]) == pytest.approx(min(losses), rel=1e-4)


def test_engd_damps_by_the_loss_and_takes_the_best_length_of_the_grid() -> None:
    problem, theta = regression(200)
    J, r = torch.func.jacrev(problem.r)(theta), problem.r(theta)
    damping = min(float(r @ r) / 2, 0.05)
    p = torch.linalg.solve(J.T @ J + damping * torch.eye(net_size(5), dtype=F64), -J.T @ r)
    losses = [float(problem.value(theta + 2.0**-i * p)) for i in range(6)]
    optimiser = get("engd", limit=0.05, grid=6)
    state = optimiser.step(problem, optimiser.init(problem, theta))
    torch.testing.assert_close(state["theta"], theta + 2.0 ** -int(np.argmin(losses)) * p, rtol=1e-9, atol=1e-10)
    assert float(state["loss"]) == pytest.approx(min(losses))
    state = minimise(problem, theta, get("engd"), steps=60)
    assert float(state["loss"]) < 1e-7


def test_refresh_sees_new_points_and_keeps_the_damping() -> None:
    problem, theta = regression(30)
    optimiser = get("gauss_newton")
    state = minimise(problem, theta, optimiser, steps=5)
    other, _ = regression(10)  # fewer than the 45 parameters in both
    new = optimiser.refresh(other, state)
    assert float(new["loss"]) == pytest.approx(float(other.value(state["theta"])))
    assert float(new["damping"]) == float(state["damping"]) and int(new["rows"]) == 10


@pytest.mark.parametrize("name", ["gauss_newton", "engd"])
def test_what_cannot_be_minimised_is_refused_in_one_sentence(name: str) -> None:
    problem, start = classic("rosenbrock")
    with pytest.raises(BadInput, match="float32"):
        get(name).init(problem, start.float())
    with pytest.raises(BadInput, match="2 parameters"):
        get(name).init(problem, torch.zeros(3, dtype=F64))
    with pytest.raises(BadInput, match="the loss is nan"):
        get(name).init(Squares(lambda x: x * math.nan, 2), start)
    with pytest.raises(BadInput, match="not finite"):
        get(name).init(problem, column(math.inf, 0))
    with pytest.raises(Incompatible, match="sum of squares"):
        get(name).init(Function(lambda x: x.sum(), 2), start)
