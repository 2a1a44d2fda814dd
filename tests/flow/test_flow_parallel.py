"""Parallel in depth: the iterations against serial autograd, numpy and closed forms; warm starts; refusals."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow import Flow, Parallel

N, C, M = 64, 8, 8
DOUBLE = torch.float64


def smooth(flow: Flow, seed: int = 0) -> Flow:
    """Weights that are a few cosines of depth."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in flow.weights.values():
            s = torch.linspace(0, 1, len(p), dtype=DOUBLE).reshape(-1, *[1] * (p.dim() - 1))
            draws = [torch.randn(p.shape[1:], generator=generator, dtype=DOUBLE) for _ in range(4)]
            p.copy_(sum(torch.cos(np.pi * k * s) * w / (k + 1) for k, w in enumerate(draws)) / p.shape[-1] ** 0.5)
    return flow


def flow(gradient: Any = "autograd", integrator: str = "euler", dim: int = 4, steps: int = N, **options: Any) -> Flow:
    field = options.pop("field", None) or on.fields.Free(dim)
    return smooth(Flow(field, integrator, steps=steps, span=(0.0, 4.0), gradient=gradient, **options).double())


def batch(dim: int = 4, samples: int = 3) -> Tensor:
    return torch.randn(samples, dim, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)


def found(net: Flow, saved: bool = False, dim: int = 4) -> list[Tensor]:
    """Result, and its derivatives in the start and all weights."""
    y = batch(dim).requires_grad_()
    out = net.trajectory(y) if saved else net(y)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(6), dtype=DOUBLE)
    return [out.detach(), *torch.autograd.grad((weight * out).sum(), (y, *net.parameters()))]


def error(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().amax() / y.abs().amax()) for x, y in zip(a, b, strict=True))


# ---- exactness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("solver", "iterations"), [("parareal", M), ("mgrit", M // 2), ("newton", 6), ("shooting", 5)])
def test_states_and_gradients_are_those_of_the_serial_net_after_as_many_iterations_as_theory_says(
    solver: str, iterations: int, saved: bool
) -> None:
    how = Parallel(solver, coarsening=None if solver == "newton" else C, iterations=iterations)
    assert error(found(flow(how), saved), found(flow(), saved)) < 1e-13
    assert how.achieved is not None and how.achieved.residual < 1e-14


@pytest.mark.parametrize("saved", [False, True])
def test_multigrid_on_three_levels_converges_to_the_serial_net_and_its_costates_as_fast_as_its_states(
    saved: bool,
) -> None:
    wanted = found(flow(), saved)
    errors = [
        error(found(flow(Parallel("mgrit", coarsening=4, levels=3, iterations=k)), saved), wanted) for k in (1, 4, 8)
    ]
    assert errors[1] < 1e-3 * errors[0] and errors[2] < 1e-13


def test_coarse_steps_have_the_size_of_a_chunk_and_its_mean_weights() -> None:
    from odenet.flow.abreast import rows_of

    net = flow()
    below = rows_of(net.march, net.theta(), ()).coarse(C, net.integrator)
    assert below.h == 4.0 / M and below.t.tolist() == [4.0 / M * m for m in range(M)]
    K = net.weights["K"].detach().numpy()
    wanted = np.stack([K[m * C : (m + 1) * C].mean(0) for m in range(M)])
    assert np.abs(below.weights["K"][:, 0].detach().numpy() - wanted).max() < 1e-15


@pytest.mark.parametrize(("solver", "iterations"), [("parareal", M - 2), ("mgrit", M // 2 - 1)])
def test_fewer_iterations_are_not_exact(solver: str, iterations: int) -> None:
    how = Parallel(solver, coarsening=C, iterations=iterations)
    assert error(found(flow(how)), found(flow())) > 1e-11


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("integrator", "options"),
    [
        ("rk4", {"depth": "piecewise_linear", "substeps": 2}),
        ("heun", {"depth": "shared"}),
        ("verlet", {"field": on.fields.SeparableHamiltonian(4)}),
        ("euler", {"field": on.fields.Parabolic(4), "depth": "piecewise_constant:4"}),
        ("midpoint", {"field": on.fields.Antisymmetric(4, gamma=0.1), "depth": {"K": "shared", "*": "per_step"}}),
    ],
)
def test_any_one_step_method_and_depth_with_no_iterations_given_goes_to_rounding(
    integrator: str, options: dict[str, Any], saved: bool
) -> None:
    wanted = found(flow("autograd", integrator, steps=16, **options), saved)
    assert error(found(flow(Parallel(), integrator, steps=16, **options), saved), wanted) < 1e-12


def test_images_and_any_module_take_the_path_of_vmap() -> None:
    field = on.fields.Free(2, map="conv2d")
    flows = [Flow(field, "euler", steps=8, gradient=g, seed=1).double() for g in ("autograd", Parallel())]
    y = torch.randn(2, 2, 5, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    grads = [torch.autograd.grad(f(y).square().sum(), tuple(f.parameters())) for f in flows]
    assert error(list(grads[1]), list(grads[0])) < 1e-13
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4)).double()
    for depth in ("per_step", "shared"):
        a, b = (Flow(module, "rk4", depth=depth, steps=8, gradient=g).double() for g in ("autograd", Parallel()))
        assert error(found(b), found(a)) < 1e-13


def test_controls_are_data_of_every_layer_with_a_gradient() -> None:
    u = torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).requires_grad_()
    nets = [flow(g, field=on.fields.Free(4, inputs=2), steps=16) for g in ("autograd", Parallel())]
    grads = [torch.autograd.grad(net(batch(), u=u).square().sum(), (u, *net.parameters())) for net in nets]
    assert error(list(grads[1]), list(grads[0])) < 1e-13


def test_a_field_of_time_and_a_mask_of_dropout_have_their_own_value_in_every_layer() -> None:
    def f(t: Any, y: Tensor) -> Tensor:
        return torch.sin(3.0 * torch.as_tensor(t, dtype=DOUBLE)) * y.flip(-1) - y

    a, b = (Flow(f, "rk4", steps=16, span=(0.0, 2.0), gradient=g) for g in ("autograd", Parallel()))
    assert float((a(batch()) - b(batch())).abs().amax()) < 1e-14
    field = on.fields.Free(4, dropout=0.3)
    results = []
    for g in ("autograd", Parallel()):
        torch.manual_seed(0)
        results.append(found(flow(g, field=field, steps=16).train()))
    assert error(results[1], results[0]) < 1e-13


# ---- how the error falls -------------------------------------------------------------------------------------------


def test_the_error_falls_with_every_iteration_and_a_coarse_model_of_higher_order_makes_it_fall_faster() -> None:
    wanted = found(flow(steps=256))

    def errors(coarse: str | None) -> list[float]:
        plans = [Parallel(coarsening=16, iterations=k, coarse=coarse) for k in (1, 2, 3)]
        return [error(found(flow(p, steps=256)), wanted) for p in plans]

    plain, better = errors(None), errors("midpoint")
    assert plain[0] < 0.1 and plain[1] < 0.3 * plain[0] and plain[2] < 0.3 * plain[1]
    assert better[0] < 0.1 * plain[0] and better[2] < 1e-6


def numpy_parareal(A: np.ndarray, y: np.ndarray, H: float, c: int, m: int, iterations: int) -> np.ndarray:
    """Parareal for y' = A y by forward Euler, all written out."""
    fine = np.linalg.matrix_power(np.eye(len(A)) + H / c * A, c)
    coarse = np.eye(len(A)) + H * A
    U = [np.linalg.matrix_power(coarse, k) @ y for k in range(m + 1)]
    for _ in range(iterations):
        V = [y]
        for k in range(m):
            V.append(coarse @ V[k] + fine @ U[k] - coarse @ U[k])
        U = V
    return fine @ U[m - 1]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_on_a_linear_problem_it_is_the_parareal_of_numpy(iterations: int) -> None:
    A = np.array([[-0.3, 1.0], [-1.2, -0.1]])
    net = Flow(lambda y: y @ torch.from_numpy(A).T, "euler", steps=40, span=(0.0, 4.0),
               gradient=Parallel(coarsening=4, iterations=iterations))  # fmt: skip
    y = np.array([1.0, -0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = net(torch.from_numpy(y)[None])[0].numpy()
    assert np.abs(out - numpy_parareal(A, y, 0.4, 4, 10, iterations)).max() < 1e-14


def test_the_error_of_a_scalar_linear_problem_is_the_binomial_closed_form() -> None:
    # F^M - sum_{j <= k} C(M-1, j) (F - G)^j G^(M-1-j) F after k corrections and one sweep (Gander & Vandewalle 2007)
    lam, h, c, m = -1.0, 0.05, 8, 8
    F, G = (1 + h * lam) ** c, 1 + c * h * lam
    for k in (1, 2, 4):
        net = Flow(lambda y: lam * y, "euler", steps=c * m, span=(0.0, h * c * m),
                   gradient=Parallel(coarsening=c, iterations=k, tolerance=None))  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = float(net(torch.ones(1, 1, dtype=DOUBLE)))
        closed = F * sum(math.comb(m - 1, j) * (F - G) ** j * G ** (m - 1 - j) for j in range(k + 1))
        assert out == pytest.approx(closed, rel=1e-12)


def test_newton_converges_quadratically() -> None:
    left = []
    for k in (1, 2, 3):
        how = Parallel("shooting", coarsening=C, iterations=k)
        flow(how)(batch())
        left.append(how.achieved.residual)  # type: ignore[union-attr]
    assert left[1] < 5 * left[0] ** 2 and left[2] < max(5 * left[1] ** 2, 1e-15)
    assert 1e-5 < left[0] < 1e-1 and left[2] < 1e-9


def test_damping_saves_newton_where_the_full_steps_make_the_residual_grow() -> None:
    def left(damped: bool) -> list[float]:
        found = []
        for k in (1, 2, 3, 30):
            net = flow(how := Parallel("newton", iterations=k, damped=damped), field=stiff, steps=N)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                for p in net.weights.values():
                    p.mul_(6.0)
                net(2.0 * batch())
            found.append(how.achieved.residual)  # type: ignore[union-attr]
        return found

    stiff = on.fields.Antisymmetric(4, gamma=0.0)
    plain, damped = left(False), left(True)
    assert plain[1] > plain[0] or plain[2] > plain[1]
    assert damped[0] >= damped[1] >= damped[2] >= damped[3] and damped[3] < 1e-12


# ---- costates ------------------------------------------------------------------------------------------------------


def test_costates_at_given_states_are_those_of_autograd() -> None:
    from odenet.flow.abreast import rows_of
    from odenet.flow.cycles import Costates, Plan, States, solve

    net, c = flow(), 8
    rows = rows_of(net.march, net.theta(), ())
    fine = States([rows.detached(), rows.detached().coarse(c, net.integrator)], c, batch())
    with torch.no_grad():
        x = [batch()]
        for layer in net.layers():
            x.append(layer(x[-1]))
    starts = torch.stack(x[:-1:c]).requires_grad_()
    system = Costates(fine, starts, fine.chain(starts), None)
    end = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    P, _ = solve(system, Plan(c, iterations=M), end, system.start(end))
    p = end
    for n in range(N - 1, -1, -1):
        p = torch.autograd.functional.vjp(net.layers()[n], x[n], p)[1]
        if n % c == 0:
            assert float((P[M - n // c] - p).abs().amax()) < 1e-13 * float(p.abs().amax())


def test_what_is_left_of_the_costates_is_said_without_a_tolerance_and_is_that_of_the_closed_form() -> None:
    lam, h, c, m = -1.0, 0.05, 8, 8
    F, G = (1 + h * lam) ** c, 1 + c * h * lam
    for k in (1, 2):
        how = Parallel(coarsening=c, iterations=k)
        net = Flow(lambda y: lam * y, "euler", steps=c * m, span=(0.0, h * c * m), gradient=how)
        net(torch.ones(1, 1, dtype=DOUBLE, requires_grad=True)).sum().backward()
        p = [sum(math.comb(n, j) * (F - G) ** j * G ** (n - j) for j in range(k + 1)) for n in range(m + 1)]
        wanted = max(abs(b - F * a) for a, b in pairwise(p)) / max(map(abs, p))
        assert how.achieved is not None and how.achieved.costate_iterations == k
        assert how.achieved.costate_residual == pytest.approx(wanted, rel=1e-10)


# ---- training ------------------------------------------------------------------------------------------------------


def test_warm_iterates_at_fixed_weights_converge_to_the_serial_states_and_gradients() -> None:
    net, wanted = flow(Parallel(coarsening=C, iterations=1, warm=True)), found(flow())
    errors = [error(found(net), wanted) for _ in range(2 * M)]
    assert errors[0] > 1e-3 and errors[2] < 0.2 * errors[0] and errors[-1] < 1e-13
    assert errors[:6] == sorted(errors[:6], reverse=True)


def test_what_is_kept_serves_the_same_batch_only() -> None:
    how = Parallel(coarsening=C, iterations=1, warm=True)
    net, cold = flow(how), flow(Parallel(coarsening=C, iterations=1))
    for _ in range(3):
        found(net)
    other = batch().flip(0).requires_grad_()
    assert torch.equal(net(other), cold(other))  # other data: afresh
    with torch.no_grad():
        assert torch.equal(net(batch()), cold(batch()))  # without a graph: always afresh
    twin = copy.deepcopy(net)
    assert torch.equal(twin(batch().requires_grad_()), cold(batch()))


def test_one_shot_training_follows_the_serial_one() -> None:
    target = batch().flip(-1)

    def losses(gradient: Any) -> list[float]:
        net = flow(gradient)
        out = []
        for _ in range(5):
            loss = (net(batch()) - target).square().mean()
            out.append(float(loss.detach()))
            grads = torch.autograd.grad(loss, tuple(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), grads):
                    p -= 0.1 * g
        return out

    serial, one_shot = losses("autograd"), losses(Parallel(coarsening=C, iterations=1, warm=True, coarse="midpoint"))
    assert serial[-1] < 0.85 * serial[0]
    assert max(abs(a - b) for a, b in zip(serial, one_shot)) < 0.01 * (serial[0] - serial[-1])


def test_the_gradient_of_one_shot_training_stays_near_that_of_the_serial_net_for_fifty_steps() -> None:
    how = Parallel(coarsening=C, iterations=1, warm=True, coarse="midpoint")
    net, serial, target, errors, losses = flow(how), flow(), batch().flip(-1), {}, []
    for n in range(51):
        loss = (net(batch()) - target).square().mean()
        grads = torch.autograd.grad(loss, tuple(net.parameters()))
        if n in (0, 10, 50):
            serial.load_state_dict(net.state_dict())
            exact = torch.autograd.grad((serial(batch()) - target).square().mean(), tuple(serial.parameters()))
            errors[n] = float(torch.cat([(a - b).flatten() for a, b in zip(grads, exact)]).norm()) / float(
                torch.cat([b.flatten() for b in exact]).norm()
            )
            losses.append(float(loss.detach()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads):
                p -= 0.1 * g
    assert losses[2] < 0.5 * losses[0] and max(errors.values()) < 1e-2


# ---- what it says --------------------------------------------------------------------------------------------------


def test_a_tolerance_ends_the_iteration_and_what_is_left_is_reported() -> None:
    how = Parallel(coarsening=C, tolerance=1e-4)
    found(flow(how))
    done = how.achieved
    assert done is not None and 1 < done.iterations < M and done.residual <= 1e-4
    assert done.costate_residual is not None and done.costate_residual <= 1e-4


def test_a_residual_above_the_tolerance_is_said_once_with_its_number() -> None:
    net = flow(Parallel(coarsening=C, iterations=1, tolerance=1e-6))
    with pytest.warns(UserWarning, match=r"'parareal' left the states with a residual of \d\.\de-\d\d") as told:
        net(batch())
    net(batch())
    assert len(told) == 1


def test_evaluations_are_counted() -> None:
    assert flow(Parallel(coarsening=C, iterations=2)).nfe(batch()) >= 3 * N


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Parallel("magic"), "solver 'magic' is not known"),
        (lambda: Parallel(coarsening=0), "coarsening is a positive whole number"),
        (lambda: Parallel(iterations=1.5), "iterations is a positive whole number"),  # type: ignore[arg-type]
        (lambda: Parallel(tolerance=-1.0), "tolerance is a positive relative residual"),
        (lambda: Parallel("parareal", levels=3), "levels is a whole number of 2 or more"),
        (lambda: Parallel(coarse="kvaerno5"), "coarse steps are those of an explicit one-step method"),
        (lambda: flow(Parallel(coarsening=7)), "chunks of 7 for 64 steps"),
        (lambda: flow(Parallel("mgrit", coarsening=8, levels=4)), "on 4 levels"),
        (lambda: flow(Parallel(), "dopri5"), "chooses its steps as it goes"),
        (lambda: flow(Parallel(), "ab2"), "a memory of earlier steps"),
        (lambda: flow(Parallel(), "implicit_midpoint"), "is implicit"),
        (lambda: flow(Parallel(), field=on.fields.Free(4, norm="batch")), "batch norm observes every layer"),
        (lambda: flow(Parallel(), depth="spline"), "are no layers' own"),
        (lambda: flow(Parallel("newton"), dim=65)(batch(65)), "a state of 65 numbers per sample is too wide"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(build: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        build()


def test_fields_that_cannot_be_stacked_are_refused_in_a_sentence() -> None:
    net = Flow(lambda t, y: math.sin(t) * y, "euler", steps=16, gradient=Parallel())
    with pytest.raises(Incompatible, match="cannot be evaluated at many depths at once"):
        net(batch())
    scale = torch.ones(4, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(Incompatible, match="other tensors that require a gradient"):
        Flow(lambda y: scale * y, "euler", steps=16, gradient=Parallel())(batch())
    with pytest.raises(Incompatible, match="does not run inside"):
        torch.func.vmap(flow(Parallel()))(batch()[:, None])


def test_a_second_derivative_is_refused() -> None:
    y = batch().requires_grad_()
    (slope,) = torch.autograd.grad(flow(Parallel())(y).square().sum(), y, create_graph=True)
    with pytest.raises(Incompatible, match="has a first derivative only"):
        slope.sum().backward()
