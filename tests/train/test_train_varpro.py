"""Variable projection: the best last layer, the reduced gradient and curvature, and fits against scipy; slimTrain."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.train.control import Tikhonov
from odenet.train.control.variable_projection import best, rows, separated
from train_examples import Decays

S, RIDGE = 24, 1e-3


def inputs() -> Tensor:
    return torch.randn(S, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def labelled() -> tuple[Tensor, Tensor]:
    x = inputs()
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def measured() -> tuple[Tensor, Tensor]:
    x = inputs()
    return x, torch.stack([torch.sin(x[:, 0]) * x[:, 1], x[:, 2] ** 2], 1)


DATA = {"labels": (labelled, 3, F.cross_entropy), "squares": (measured, 2, F.mse_loss)}


def net(outputs: int) -> nn.Module:
    return on.nets.resnet(3, outputs, width=4, steps=2, span=(0.0, 1.0), seed=1).double()


def solved(kind: str, Z: Tensor) -> Tensor:
    """V*(Z) with a graph to Z: normal equations of mean squares, or Newton's method for cross-entropy."""
    _, y = DATA[kind][0]()
    if kind == "squares":
        c = 2 / y.numel()
        return torch.linalg.solve(c * Z.T @ Z + RIDGE * torch.eye(Z.shape[1]).double(), c * Z.T @ y).T
    V = torch.zeros(3, Z.shape[1], dtype=Z.dtype)
    for _ in range(12):
        s = (Z @ V.T).softmax(1)
        g = (s - F.one_hot(y, 3)).T @ Z / S + RIDGE * V
        blocks = (torch.diag_embed(s) - s[:, :, None] * s[:, None, :]) / S
        H = torch.einsum("sij,sa,sb->iajb", blocks, Z, Z).reshape(V.numel(), V.numel())
        V = V - torch.linalg.solve(H + RIDGE * torch.eye(V.numel()).double(), g.flatten()).view_as(V)
    return V


def reduced(kind: str, features: Tensor) -> Tensor:
    Z = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], 1)
    V = solved(kind, Z)
    return DATA[kind][2](Z @ V.T, DATA[kind][0]()[1]) + RIDGE / 2 * V.square().sum()


@pytest.mark.parametrize("kind", DATA)
def test_the_last_layer_satisfies_its_normal_equations(kind: str) -> None:
    data, out, loss = DATA[kind]
    (x, y), model = data(), net(out)
    body, head = separated(model)
    assert body(x).shape == (S, 4) and head is model.parts[-1]
    Z = rows(body(x), True)
    start = torch.randn(out, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = best(lambda z: loss(z, y), Z, start, RIDGE)
    assert found is not None
    V = found.V.clone().requires_grad_()
    total = loss(Z @ V.T, y) + RIDGE / 2 * V.square().sum()
    (slope,) = torch.autograd.grad(total, V)
    assert float(slope.abs().max()) < 1e-12 and found.value == pytest.approx(float(total.detach()), rel=1e-14)
    torch.testing.assert_close(found.V, solved(kind, Z), rtol=1e-10, atol=1e-11)


def first_step(kind: str, **words: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Weights before the last layer before and after a step of fit, and its row of the history."""
    data, out, _ = DATA[kind]
    model = net(out)
    weights = list(separated(model)[0].parameters())
    before = torch.cat([p.detach().flatten() for p in weights])
    fit = on.fit(model, data(), "varpro", steps=1, holdout=0.0, ridge=RIDGE, **words)
    return before, torch.cat([p.detach().flatten() for p in weights]), fit.history[0]


@pytest.mark.parametrize("kind", DATA)
def test_a_step_is_made_of_the_reduced_gradient_and_the_schur_complement(kind: str) -> None:
    """The gradient by autograd through the whole solution for V; the last layer eliminated from the Gauss-Newton matrix
    of all weights, J by autograd row by row and H in closed form."""
    data, out, _ = DATA[kind]
    (x, _), model = data(), net(out)
    body, head = separated(model)
    weights = list(body.parameters())
    (flat,) = [torch.cat([g.flatten() for g in torch.autograd.grad(reduced(kind, body(x)), weights)])]
    with torch.no_grad():
        V = solved(kind, rows(body(x), True))
        head.weight.copy_(V[:, :4]), head.bias.copy_(V[:, 4])  # type: ignore[union-attr]
    z = model(x)
    J, E = (
        torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(v, part, retain_graph=True)]) for v in z.flatten()]
        )
        for part in (weights, list(head.parameters()))
    )
    s = z.detach().softmax(1)
    blocks = (torch.diag_embed(s) - s[:, :, None] * s[:, None, :]) / S
    H = torch.block_diag(*blocks) if kind == "labels" else 2 / z.numel() * torch.eye(z.numel()).double()
    inner = E.T @ H @ E + RIDGE * torch.eye(E.shape[1]).double()
    G = J.T @ H @ J - J.T @ H @ E @ torch.linalg.solve(inner, E.T @ H @ J)
    for solver in ("dense", "cg"):
        words = {"solver": solver, "tolerance": 1e-12, "iterations": 500}
        before, after, row = first_step(kind, damping=3.0, **words)
        assert row["rejected"] == 0 and row["damping"] == pytest.approx(3 * float(flat @ G @ flat / (flat @ flat)))
        p = -torch.linalg.solve(G + row["damping"] * torch.eye(len(flat)).double(), flat)
        torch.testing.assert_close(after - before, p, rtol=1e-6, atol=1e-9)


def test_the_curvature_of_squares_is_kaufmans_and_what_it_leaves_out_is_orthogonal_to_the_residual() -> None:
    """Golub & Pereyra's Jacobian of the reduced residual by autograd through the solution for V."""
    x, y = measured()
    model = net(2)
    body, _ = separated(model)
    names, c = [k for k, _ in body.named_parameters()], 2 / y.numel()
    theta = tuple(p.detach() for p in body.parameters())

    def residual(*parts: Tensor) -> Tensor:
        features = torch.func.functional_call(body, dict(zip(names, parts)), (x,))
        Z = torch.cat([features, torch.ones(S, 1).double()], 1)
        V = solved("squares", Z)
        return torch.cat([c**0.5 * (Z @ V.T - y).flatten(), RIDGE**0.5 * V.flatten()])

    full = torch.autograd.functional.jacobian(residual, theta)
    full = torch.cat([J.flatten(1) for J in full], 1).detach()
    Z = rows(body(x), True)
    found = best(lambda z: F.mse_loss(z, y), Z, torch.zeros(2, 5).double(), RIDGE)
    assert found is not None
    of_z = torch.autograd.functional.jacobian(
        lambda *p: torch.func.functional_call(body, dict(zip(names, p)), (x,)) @ found.V[:, :4].T, theta
    )
    J = torch.cat([v.flatten(2) for v in of_z], 2).detach()  # (S, 2, P)
    MJ = found.project(J)
    kaufman = J.flatten(0, 1).T @ MJ.flatten(0, 1)
    r = residual(*theta).detach()
    gradient = J.flatten(0, 1).T @ found.slope.flatten()
    torch.testing.assert_close(gradient, full.T @ r, rtol=1e-9, atol=1e-12)  # both have the whole gradient
    A = torch.cat([c**0.5 * Z, RIDGE**0.5 * torch.eye(5).double()])
    Q = torch.linalg.qr(A).Q
    out = torch.cat([r[: 2 * S].view(S, 2), r[2 * S :].view(2, 5).T])
    torch.testing.assert_close(Q.T @ out, torch.zeros(5, 2).double(), rtol=0, atol=1e-12)
    parts = torch.cat([full[: 2 * S].view(S, 2, -1), full[2 * S :].view(2, 5, -1).transpose(0, 1)])
    kept = parts - torch.einsum("aq,bq,bdp->adp", Q, Q, parts)  # the part of the Jacobian outside the range of A
    kept = kept.flatten(0, 1)
    torch.testing.assert_close(kaufman, kept.T @ kept, rtol=1e-8, atol=1e-12)
    assert float((full.T @ full - kaufman).norm()) > 1e-3 * float(kaufman.norm())  # and something is left out


def test_a_fit_of_exponentials_is_that_of_scipy_on_the_full_and_on_the_reduced_problem() -> None:
    t = torch.linspace(0, 4, 40, dtype=torch.float64)[:, None]
    noise = 0.01 * torch.randn(40, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = 2 * torch.exp(-0.5 * t) - torch.exp(-3.0 * t) + noise
    model = nn.Sequential(Decays([0.2, 6.0]), nn.Linear(2, 1, bias=False)).double()
    fit = on.fit(model, (t, y), "varpro", steps=25, holdout=0.0, ridge=1e-13)
    found = torch.cat([model[0].rates.detach(), model[1].weight.detach()[0]])
    T, C, weight = t.numpy(), y.numpy()[:, 0], (2 / 40) ** 0.5

    def full(v: np.ndarray) -> np.ndarray:
        return (np.exp(-v[:2] * T) @ v[2:] - C) * weight

    def eliminated(a: np.ndarray) -> np.ndarray:
        Z = np.exp(-a * T)
        return (Z @ np.linalg.lstsq(Z, C, rcond=None)[0] - C) * weight

    exact = {"method": "lm", "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    every = least_squares(full, [0.4, 4.0, 1.0, 0.0], **exact)
    two = least_squares(eliminated, [0.2, 6.0], **exact)
    np.testing.assert_allclose(found, every.x, rtol=1e-6)
    np.testing.assert_allclose(found[:2], two.x, rtol=1e-6)
    assert fit.history[-1]["loss"] == pytest.approx(every.cost, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", DATA)
def test_the_loss_of_all_data_never_rises_and_the_last_layer_stays_the_best_one(kind: str, dtype: torch.dtype) -> None:
    data, out, loss = DATA[kind]
    model = net(out)
    fit = on.fit(model, data(), "varpro", steps=8, holdout=0.0, ridge=RIDGE, damping=1e-6, dtype=dtype)
    values = [row["loss"] for row in fit.history]
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(values)) and values[-1] < 0.3 * values[0]
    x, y = (v.to(dtype) if v.is_floating_point() else v for v in data())
    head = model.parts[-1]
    total = loss(model(x), y) + RIDGE / 2 * sum(p.square().sum() for p in head.parameters())
    slopes = torch.autograd.grad(total, list(head.parameters()))
    assert max(float(g.abs().max()) for g in slopes) < (1e-10 if dtype == torch.float64 else 1e-5)


def test_a_net_of_one_linear_layer_behind_a_frozen_one_is_solved_at_once() -> None:
    x, y = measured()
    model = nn.Sequential(nn.Linear(3, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 2)).double()
    on.fit(model, (x, y), "varpro", steps=1, holdout=0.0, ridge=1e-12)
    Z = torch.cat([model[1](model[0](x)), torch.ones(S, 1).double()], 1)
    wanted = torch.linalg.lstsq(Z, y).solution
    torch.testing.assert_close(model[2].weight.detach(), wanted[:6].T, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("model", "words", "error", "sentence"), [
    (lambda: nn.Linear(3, 2), {}, Incompatible, "Linear does not end in a linear layer that could be eliminated"),
    (lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh()), {}, Incompatible, "does not end in a linear layer"),
    (lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 2).requires_grad_(False), nn.Linear(2, 2).requires_grad_(False)), {},
     BadInput, "no weights that require a gradient"),
    (lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False)), {}, Incompatible, "is frozen"),
    (lambda: net(2), {"ridge": 0.0}, BadInput, "ridge=0.0: the weight of"),
    (lambda: net(2), {"clip": 1.0}, BadInput, "clip and schedule belong"),
    (lambda: net(2), {"penalty": {"h1": 1.0}}, BadInput, "a loss of the net's output alone"),
    (lambda: net(2), {"loss": lambda z, y: -(z - y).square().mean()}, Incompatible, "no best last layer was found"),
])  # fmt: skip
def test_what_varpro_cannot_do_is_one_sentence(
    model: Any, words: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    made = model().double()
    before = [p.clone() for p in made.parameters()]
    with pytest.raises(error, match=sentence):
        on.fit(made, measured(), "varpro", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters()))


# ---- slimTrain -----------------------------------------------------------------------------------------------------


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(2)
    return [tuple(torch.randn(8, n, generator=g, dtype=torch.float64) for n in (4, 2)) for _ in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("chosen", [True, False])
def test_with_all_batches_in_memory_it_is_the_tikhonov_solution_of_all_data(chosen: bool) -> None:
    state, V = Tikhonov(memory=100, total=0.05, chosen=chosen), torch.zeros(2, 4, dtype=torch.float64)
    for Z, C in batches(6):
        V = state.step(V, Z, C, 0.3)
    Z, C = (torch.cat(v) for v in zip(*batches(6)))
    wanted = torch.linalg.solve(Z.T @ Z / 8 + state.total * torch.eye(4).double(), Z.T @ C / 8).T
    torch.testing.assert_close(V, wanted, rtol=1e-10, atol=1e-12)
    assert chosen or state.total == pytest.approx(0.05 + 6 * 0.3)


def test_with_less_memory_a_step_is_the_minimiser_of_its_own_problem() -> None:
    """|Z V' - C|^2 / 2 S + lambda / 2 |V|^2 + |V - V_old|^2 / 2 in the norm of what is remembered, by stacked rows."""
    state, V, memory = Tikhonov(memory=2, total=0.05, chosen=False), torch.zeros(2, 4).double(), 2
    given = batches(5)
    for k, (Z, C) in enumerate(given):
        old, total = V, state.total
        V = state.step(V, Z, C, 0.1)
        before = [B / 8**0.5 for B, _ in given[max(0, k - memory) : k]] + [total**0.5 * torch.eye(4).double()]
        A = torch.cat([Z / 8**0.5, 0.1**0.5 * torch.eye(4).double(), *before])
        right = torch.cat([C / 8**0.5, torch.zeros(4, 2).double(), *(B @ old.T for B in before)])
        torch.testing.assert_close(V, torch.linalg.lstsq(A, right).solution.T, rtol=1e-9, atol=1e-11)


def test_the_regularisation_minimises_the_sampled_cross_validation_function() -> None:
    (Z0, C0), (Z, C) = batches(2)
    W = torch.tensor([[1.0, 0.3], [-2.0, 0.1], [0.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    C0, C = Z0 @ W + 0.3 * C0, Z @ W + 0.3 * C
    state = Tikhonov(memory=3)
    old = state.step(torch.zeros(2, 4).double(), Z0, C0)
    start = state.total
    state.step(old, Z, C)

    def gcv(total: float) -> float:
        A = (Z0.T @ Z0 + Z.T @ Z) / 8 + total * torch.eye(4).double()
        V = old - torch.linalg.solve(A, ((Z @ old.T - C).T @ Z / 8 + (total - start) * old).T).T
        trace = float(torch.trace(Z @ torch.linalg.solve(A, Z.T)) / 8)
        return float((Z @ V.T - C).square().sum()) / (8 - trace) ** 2

    around = [gcv(float(v)) for v in np.geomspace(max(1e-7, start / 2), 1e3, 400)]
    assert gcv(state.total) <= min(around) * (1 + 1e-2) and max(around) > 1.05 * min(around)
    assert start / 2 <= state.total <= 1e3


def test_fit_is_the_loop_by_hand() -> None:
    """Last layer first, then Adam for the rest at the new one."""
    x, y = measured()
    model, twin = net(2), net(2)
    seen = [row["loss"] for row in on.fit(model, (x, y), "slimtrain", steps=4, lr=0.01, batch=S, holdout=0.0).history]
    body, head = separated(twin)
    adam, state = torch.optim.Adam(list(body.parameters()), lr=0.01), Tikhonov(memory=5)
    for value in seen:
        features = body(x)
        Z = torch.cat([features.detach(), torch.ones(S, 1).double()], 1)
        V = torch.cat([head.weight, head.bias[:, None]], 1).detach()
        assert value == pytest.approx(float(F.mse_loss(Z @ V.T, y)), rel=1e-12)
        V = state.step(V, Z, y)
        with torch.no_grad():
            head.weight.copy_(V[:, :4]), head.bias.copy_(V[:, 4])  # type: ignore[union-attr]
        adam.zero_grad()
        F.mse_loss(features @ V[:, :4].T + V[:, 4], y).backward()
        adam.step()
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert seen[-1] < seen[0]


def test_the_same_seed_gives_the_same_run_of_slimtrain() -> None:
    runs = []
    for seed in (3, 3, 4):
        model = on.nets.resnet(3, 2, width=4, steps=2, dropout=0.2, seed=0).double()
        fit = on.fit(model, measured(), "slimtrain", steps=4, lr=0.05, seed=seed, batch=8)
        runs.append(([row["loss"] for row in fit.history], [p.clone() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1]))


@pytest.mark.parametrize(("data", "words", "error", "sentence"), [
    (labelled, {}, Incompatible, "the loss is no mean of squares"),
    (measured, {"loss": "huber"}, Incompatible, "the loss is no mean of squares"),
    (measured, {"memory": -1}, BadInput, "memory=-1"),
    (measured, {"lowest": 2.0, "highest": 1.0}, BadInput, "lowest=2, highest=1"),
    (measured, {"penalty": {"h1": 1.0}}, BadInput, "a loss of the net's output alone"),
])  # fmt: skip
def test_what_slimtrain_cannot_do_is_one_sentence(
    data: Any, words: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    model = net(3 if data is labelled else 2)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=sentence):
        on.fit(model, data(), "slimtrain", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
