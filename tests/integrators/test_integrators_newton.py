"""Stage equations: solved to rounding or to a tolerance, reusing what can be, differentiated once, refused twice."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import fsolve

from odenet.errors import Incompatible, StepFailed
from odenet.integrators import jacobian as jacobians
from odenet.integrators.krylov import gmres
from odenet.integrators.newton import KAPPA, solve
from odenet.integrators.stages import OLD, Stages, recall, with_extras

GAUSS = ((0.25, 0.25 - math.sqrt(3) / 6), (0.25 + math.sqrt(3) / 6, 0.25))


def _double(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Mix:
    """tanh(A y) - y^3 + t on the last axis: nonlinear, samples apart."""

    def __init__(self, width=3, dtype=torch.float64):
        self.a = (2 * _double(width, width, seed=5)).to(dtype)

    def __call__(self, t, y):
        return torch.tanh(y @ self.a.T) - y**3 + t


def _one(f, y, h=0.3, t=0.1, gamma=0.5, start=None):
    """k of k = f(t, y + gamma h k)."""
    return solve(Stages(with_extras(f), (t,), y.unsqueeze(0), h, ((gamma,),), y), start)[0]


def _two(f, y, h=0.3, t=0.1):
    """Both slopes of the two-stage Gauss method."""
    c = [sum(row) for row in GAUSS]
    return solve(Stages(with_extras(f), tuple(t + x * h for x in c), y.unsqueeze(0), h, GAUSS, y))


# ---- the solution


def test_one_stage_and_two_coupled_ones_are_what_scipy_finds():
    f, y = Mix(), _double(1, 3)

    def slope(t, state):
        return f(t, torch.from_numpy(state)).numpy()

    v = y[0].numpy()
    alone = fsolve(lambda k: k - slope(0.1, v + 0.15 * k), np.zeros(3), xtol=1e-12)
    assert np.abs(_one(f, y)[0].numpy() - alone).max() < 1e-12

    def both(flat):
        k = flat.reshape(2, 3)
        return np.concatenate(
            [
                k[i] - slope(0.1 + 0.3 * sum(GAUSS[i]), v + 0.3 * (GAUSS[i][0] * k[0] + GAUSS[i][1] * k[1]))
                for i in (0, 1)
            ]
        )

    coupled = fsolve(both, np.zeros(6), xtol=1e-12).reshape(2, 3)
    assert np.abs(_two(f, y)[:, 0].numpy() - coupled).max() < 1e-12


@pytest.mark.parametrize("shape", [(), (3,), (5, 3), (2, 4, 3), (2, 2, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_every_shape_and_dtype_is_solved_to_rounding(shape, dtype):
    y = _double(*shape).to(dtype)

    def f(t, y):
        return torch.sin(y) * 2 - y**3 + t

    k = _two(f, y)
    assert k.shape == (2, *shape)
    assert k.dtype == dtype
    for i in (0, 1):
        stage = y + 0.3 * (GAUSS[i][0] * k[0] + GAUSS[i][1] * k[1])
        assert (k[i] - f(0.1 + 0.3 * sum(GAUSS[i]), stage)).abs().max() < 300 * torch.finfo(dtype).eps


def test_a_batch_whose_samples_influence_each_other_is_one_block():
    a = _double(4, 4)

    def f(t, y):
        return torch.tanh(a @ y)  # mixes samples

    y = _double(4, 2)
    k = _one(f, y)
    assert (k - f(0.1, y + 0.15 * k)).abs().max() < 1e-14
    stages = Stages(with_extras(f), (0.1,), y.unsqueeze(0), 0.3, ((0.5,),), y)
    assert stages.blocks == (1, 8)
    assert Stages(with_extras(Mix()), (0.1,), y.new_zeros(1, 4, 3), 0.3, ((0.5,),), y.new_zeros(4, 3)).blocks == (4, 3)
    with pytest.raises(Incompatible, match="influence each other"):
        _one(f, y, h=torch.full((4, 1), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("stages", [_one, _two])
def test_a_step_size_per_sample_gives_what_a_loop_over_samples_gives(stages):
    f, y = Mix(), _double(6, 3)
    h = torch.tensor([0.01, -0.2, 0.1, 0.3, 0.0, 0.2], dtype=torch.float64).unsqueeze(1)
    t = torch.linspace(0, 1, 6, dtype=torch.float64).unsqueeze(1)
    together = stages(f, y, h, t)
    alone = torch.cat([stages(f, y[i : i + 1], float(h[i]), float(t[i])) for i in range(6)], dim=-2)
    assert (together - alone).abs().max() < 1e-13


@pytest.mark.parametrize("stages", [_one, _two])
def test_a_sample_s_result_does_not_depend_on_its_company(stages):
    f, y = Mix(), torch.cat((_double(3, 3), 30 * _double(3, 3, seed=1)))
    assert (stages(f, y, 0.05)[..., :3, :] - stages(f, y[:3], 0.05)).abs().max() < 1e-13


@pytest.mark.parametrize("stages", [_one, _two])
@pytest.mark.parametrize("shape", [(12,), (4, 12)])
def test_krylov_gives_what_factorisation_gives_with_its_gradient(stages, shape, monkeypatch):
    f, y = Mix(12), 0.5 * _double(*shape)
    a = f.a.requires_grad_()
    y = y.requires_grad_()
    dense = stages(f, y)
    wanted = torch.autograd.grad(dense.square().sum(), (y, a))
    monkeypatch.setattr(jacobians, "DENSE", 11)
    g = with_extras(f)
    free = stages(g, y)
    assert g.counts["lu"] == g.counts["jacobians"] == 0
    assert (free - dense).abs().max() < 1e-13
    for got, want in zip(torch.autograd.grad(free.square().sum(), (y, a), create_graph=True), wanted):
        assert (got - want).abs().max() < 1e-11 * want.abs().max()
    with pytest.raises(Incompatible, match="second derivatives"):
        torch.autograd.grad(torch.autograd.grad(stages(g, y).sum(), y, create_graph=True)[0].sum(), y)
    with pytest.raises(Incompatible, match="Newton-Krylov"):
        torch.func.jvp(lambda y: stages(g, y), (y.detach(),), (torch.ones(shape, dtype=torch.float64),))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gmres_solves_several_systems_at_once_also_one_that_is_zero_and_one_that_is_the_identity(dtype):
    matrix = (_double(4, 60, 60) / 12).to(dtype) + torch.eye(60, dtype=dtype)
    matrix[3] = torch.eye(60, dtype=dtype)
    right = _double(4, 60, seed=2).to(dtype)
    right[1] = 0
    x = gmres(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), right, 1e-12)
    assert (x - torch.linalg.solve(matrix, right)).abs().max() < 1e-9
    assert (x[1] == 0).all()


# ---- reuse


def test_a_jacobian_serves_solves_with_h_up_to_twice_as_long_and_its_factors_while_h_is_the_same():
    a = -_double(3, 3) @ _double(3, 3).T
    f, y = with_extras(lambda t, y: y @ a.T), _double(5, 3)
    for h, lu, renewed in ((0.3, 1, 1), (0.3, 1, 1), (0.2, 2, 1), (0.2, 2, 1), (0.3, 3, 1), (0.1, 4, 2), (0.2, 5, 2)):
        k = _one(f, y, h)
        assert (k - f(0.1, y + h / 2 * k)).abs().max() < 1e-13
        assert (f.counts["jacobians"], f.counts["lu"]) == (renewed, lu)
    for _ in range(OLD + 1):
        _one(f, y, 0.2)
    assert f.counts["jacobians"] == 3
    assert f.counts["newton"] <= 2 * (OLD + 8)  # a linear problem: one update, and one that shows that it was enough


def test_slow_contraction_renews_the_jacobian():
    f = with_extras(lambda t, y: -(y**3))
    _one(f, torch.full((2, 1), 0.1, dtype=torch.float64))
    assert f.counts["jacobians"] == 1
    y = torch.full((2, 1), 4.0, dtype=torch.float64)
    k = _one(f, y, 1.0)
    assert (k + (y + 0.5 * k) ** 3).abs().max() < 1e-12
    assert f.counts["jacobians"] > 1


def test_with_a_tolerance_fewer_iterations_end_kappa_of_it_away():
    f, y = Mix(), 0.3 * _double(50, 3)
    exact, loose = with_extras(f), with_extras(f)
    loose.tolerance = (1e-4, 1e-6)
    wanted, got = _one(exact, y, 0.2), _one(loose, y, 0.2)
    scaled = 0.1 * (got - wanted).abs() / (1e-6 + 1e-4 * y.abs())
    assert 0 < scaled.square().mean(1).sqrt().max() < KAPPA
    assert loose.counts["newton"] < exact.counts["newton"]


def test_a_field_s_own_jacobian_is_used():
    f, y, asked = with_extras(Mix()), _double(4, 3), []

    def own(t, y):
        asked.append(t)
        z = y @ f.f.a.T
        return f.f.a / torch.cosh(z).square().unsqueeze(-1) - torch.diag_embed(3 * y**2)

    f.jacobian = own
    assert (_one(f, y) - _one(Mix(), y)).abs().max() < 1e-14
    assert asked


def test_states_of_two_shapes_share_a_workspace():
    f = with_extras(lambda t, y: -(y**3))
    for shape in ((4, 2), (3, 2), (4, 2)):
        y = _double(*shape)
        k = _one(f, y)
        assert (k + (y + 0.15 * k) ** 3).abs().max() < 1e-14


# ---- failure


def test_equations_without_a_solution_raise_one_sentence_with_t_h_and_what_to_do():
    with pytest.raises(
        StepFailed,
        match=r"^Newton's iteration for the stage at t = 0.1 of a step h = 2 did not converge in \d+ iterations "
        r"\(contraction [\d.e+]+\); take smaller steps: .*kvaerno5",
    ) as failure:
        _one(lambda t, y: 1 + y**2, torch.ones(1, dtype=torch.float64), h=2.0)
    assert failure.value.status == "newton_failed"
    loose = with_extras(lambda t, y: 1 + y**2)
    loose.tolerance = (1e-3, 1e-6)
    with pytest.raises(StepFailed, match="h = 2"):
        _one(loose, torch.ones(3, dtype=torch.float64), h=2.0)


def test_what_f_leaves_undefined_is_returned_as_nan_in_its_sample_alone():
    y = torch.tensor([[1.0], [-1.0], [4.0]], dtype=torch.float64)
    k = _one(lambda t, y: -torch.log(y), y)
    assert k.isnan().flatten().tolist() == [False, True, False]
    assert (k + torch.log(y + 0.15 * k))[[0, 2]].abs().max() < 1e-14


def test_a_first_guess_outside_of_the_domain_of_f_is_given_up():
    y = torch.tensor([1.0], dtype=torch.float64)
    k = _one(lambda t, y: -torch.log(y), y, start=torch.tensor([[-100.0]], dtype=torch.float64))
    assert (k + torch.log(y + 0.15 * k)).abs().max() < 1e-14


def test_with_a_step_size_per_sample_only_the_sample_that_failed_is_nan():
    y = torch.ones(3, 1, dtype=torch.float64)
    h = torch.tensor([[0.1], [2.0], [0.2]], dtype=torch.float64)

    def f(t, y):
        return 1 + y**2

    k = _one(f, y, h)
    assert k.isnan().flatten().tolist() == [False, True, False]
    assert (k - f(0, y + 0.5 * h * k))[[0, 2]].abs().max() < 1e-13
    with pytest.raises(StepFailed, match=r"h = 2 \.\.\. 3"):
        _one(f, y[:2], torch.tensor([[2.0], [3.0]], dtype=torch.float64))


# ---- derivatives


def _gradients_of_a_linear_stage(a, y, g):
    """k = (I - c A)^{-1} A y: gradients of <g, k> by hand, c = 0.15, rows are samples."""
    m = torch.eye(3, dtype=a.dtype) - 0.15 * a
    back = torch.linalg.solve(m.T, g.T)  # M^{-T} g
    k = torch.linalg.solve(m, a @ y.T)
    return (a.T @ back).T, back @ (y.T + 0.15 * k).T


def test_gradients_of_a_linear_stage_are_the_closed_form():
    a, y, g = _double(3, 3).requires_grad_(), _double(5, 3, seed=1).requires_grad_(), _double(5, 3, seed=2)
    got = torch.autograd.grad(_one(lambda t, y: y @ a.T, y), (y, a), g)
    for mine, wanted in zip(got, _gradients_of_a_linear_stage(a, y, g)):
        assert (mine - wanted).abs().max() < 1e-13


@pytest.mark.parametrize("stages", [_one, _two])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_in_state_weights_time_and_step_size_pass_gradcheck(stages, dtype):
    y, a = _double(2, 3).to(dtype).requires_grad_(), _double(3, 3, seed=3).to(dtype).requires_grad_()
    t, h = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.1, 0.3))

    def run(y, a, t, h):
        return stages(lambda t, y: torch.sin(y @ a.T) + t * y, y, h, t)

    assert torch.autograd.gradcheck(run, (y, a, t, h))


def test_functional_transforms_give_the_derivatives_of_autograd():
    f, y = Mix(), _double(3)
    wanted = torch.autograd.functional.jacobian(lambda y: _two(f, y), y)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert (transform(lambda y: _two(f, y))(y) - wanted).abs().max() < 1e-13
    batch, v = _double(4, 3), _double(4, 3, seed=1)
    tangent = torch.func.jvp(lambda y: _two(f, y), (batch,), (v,))[1]
    out, pull = torch.func.vjp(lambda y: _two(f, y), batch)
    assert torch.allclose((pull(out)[0] * v).sum(), (out * tangent).sum(), rtol=1e-12)
    by_hand = (_two(f, batch + 1e-6 * v) - _two(f, batch - 1e-6 * v)) / 2e-6
    assert (tangent - by_hand).abs().max() < 1e-7


def test_nothing_of_a_transform_stays_in_the_workspace():
    f, y = with_extras(Mix()), _double(4, 3)
    torch.func.vjp(lambda y: _one(f, y), y)
    assert not any(key[0] == "newton" for key in f.workspace if isinstance(key, tuple))
    _one(f, y)
    assert recall(f, y).blocks is not None


def test_values_are_the_same_with_and_without_a_graph_and_only_the_first_costs_a_jacobian():
    y = _double(4, 3)
    plain, graph = with_extras(Mix()), with_extras(Mix())
    without, attached = _two(plain, y), _two(graph, y.clone().requires_grad_())
    assert torch.equal(without, attached)
    assert attached.requires_grad
    assert not without.requires_grad
    assert graph.counts["jacobians"] == plain.counts["jacobians"] + 2  # one per stage, at the solution
    weights = with_extras(Mix())
    weights.f.a.requires_grad_()
    assert _two(weights, y).requires_grad
    with torch.no_grad():
        assert not _two(weights, y).requires_grad


def _twice(outer, inner):
    return lambda run, y: outer(inner(lambda y: run(y).sum()))(y)


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda run, y: torch.autograd.gradgradcheck(run, (y.requires_grad_(),)),
        _twice(torch.func.jacfwd, torch.func.jacrev),
        _twice(torch.func.jacrev, torch.func.jacrev),
        _twice(torch.func.jacfwd, torch.func.jacfwd),
        _twice(torch.func.jacrev, torch.func.jacfwd),
    ],
)
@pytest.mark.parametrize("stages", [_one, _two])
def test_second_derivatives_raise_a_sentence_rather_than_be_wrong(differentiate, stages):
    f = Mix()
    with pytest.raises(Incompatible, match="second derivatives through an implicit step are not available"):
        differentiate(lambda y: stages(f, y), _double(3))


def test_a_jacobian_from_a_fast_transient_does_not_serve_the_long_steps_after_it():
    """Van der Pol, mu = 1e6: with it the updates are small whatever the residual, and nothing is solved."""
    mu, t, y = 1e6, 840222.0, torch.tensor([-1.9777555153811375, 6.80e-07], dtype=torch.float64)

    class Oscillator:
        tolerance, jacobian, workspace, counts = (1e-6, 1e-12), None, {}, Counter()

        def __call__(self, t, y):
            return torch.stack((y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]))

    f, h = Oscillator(), 7.3e3
    memory = recall(f, y)
    memory.renew(torch.tensor([[[0.0, 1.0], [-1.78e12, -2.29e6]]], dtype=torch.float64), 1e-4)
    memory.eta = 0.06
    k = _one(f, y, h, t, 1.0, start=torch.tensor([[6.8e-07, 0.0]], dtype=torch.float64))
    new = y + h * k
    slow = new[0] / (mu * (1 - new[0] ** 2))
    assert float(new[1]) == pytest.approx(float(slow), rel=1e-4)
    assert f.counts["jacobians"] == 1
