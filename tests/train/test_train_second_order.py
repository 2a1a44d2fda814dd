"""Gauss-Newton for nets: the curvature by hand, least squares against scipy, losses that never rise."""

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
from odenet.train.control.second_order import Outputs, curvature, quadratic
from train_examples import Decays

S = 20


def inputs() -> Tensor:
    return torch.randn(S, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def labelled() -> tuple[Tensor, Tensor]:
    x = inputs()
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def measured() -> tuple[Tensor, Tensor]:
    x = inputs()
    return x, torch.stack([torch.sin(x[:, 0]) * x[:, 1], x[:, 2] ** 2], 1)


def net(outputs: int, **words: Any) -> nn.Module:
    return on.nets.resnet(3, outputs, **{"width": 4, "steps": 2, "span": (0.0, 1.0), "seed": 1} | words).double()


DATA = {"labels": (labelled, 3), "squares": (measured, 2)}


def by_hand(model: nn.Module, kind: str, decay: float) -> tuple[Tensor, Tensor]:
    """Gradient and J' H J + decay I: rows of J by autograd one by one, H in closed form."""
    x, y = DATA[kind][0]()
    weights = list(model.parameters())
    z = model(x)
    rows = [torch.autograd.grad(v, weights, retain_graph=True) for v in z.flatten()]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    theta = torch.cat([p.detach().flatten() for p in weights])
    z = z.detach()
    if kind == "labels":
        s = z.softmax(1)
        blocks = (torch.diag_embed(s) - s[:, :, None] * s[:, None, :]) / S
        slope, H = (s - F.one_hot(y, 3)) / S, torch.block_diag(*blocks)
    else:
        slope, H = 2 * (z - y) / z.numel(), 2 / z.numel() * torch.eye(z.numel(), dtype=z.dtype)
    eye = torch.eye(len(theta), dtype=theta.dtype)
    return J.T @ slope.flatten() + decay * theta, J.T @ H @ J + decay * eye


def test_products_go_through_implicit_steps_which_have_first_derivatives_only() -> None:
    (x, y), model = measured(), net(2, integrator="implicit_midpoint", width=2, steps=1)
    outputs = Outputs(model, list(model.parameters()), x)
    theta, z, loss = outputs.theta(), model(x).detach(), lambda z: F.mse_loss(z, y)
    words = {"solver": "cg", "tolerance": 1e-2, "iterations": 1}
    found = quadratic(outputs, theta, torch.func.grad(loss)(z), curvature(loss, z), 0.1, words)
    v = torch.linspace(-1.0, 1.0, len(theta), dtype=theta.dtype)
    torch.testing.assert_close(found.apply(v), by_hand(model, "squares", 0.1)[1] @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["dense", "cg"])
@pytest.mark.parametrize("kind", DATA)
def test_the_model_of_the_loss_has_the_curvature_of_the_formula(kind: str, solver: str) -> None:
    data, out = DATA[kind]
    (x, y), model = data(), net(out)
    outputs = Outputs(model, list(model.parameters()), x)
    theta = outputs.theta()
    loss = (lambda z: F.cross_entropy(z, y)) if kind == "labels" else (lambda z: F.mse_loss(z, y))
    z = outputs(theta)
    words = {"solver": solver, "tolerance": 1e-13, "iterations": 1000}
    found = quadratic(outputs, theta, torch.func.grad(loss)(z), curvature(loss, z), 0.1, words)
    g, G = by_hand(model, kind, 0.1)
    torch.testing.assert_close(found.gradient, g, rtol=1e-10, atol=1e-13)
    columns = torch.stack([found.apply(e) for e in torch.eye(len(theta), dtype=theta.dtype)], 1)
    torch.testing.assert_close(columns, G, rtol=1e-9, atol=1e-12)
    assert (found.matrix is None) == (solver == "cg")
    if found.matrix is not None:
        torch.testing.assert_close(found.matrix, G, rtol=1e-9, atol=1e-12)
    solved = found.solve(0.3)
    assert solved is not None
    p = -torch.linalg.solve(G + 0.3 * torch.eye(len(g)).double(), g)
    torch.testing.assert_close(solved[0], p, rtol=1e-7, atol=1e-9)
    assert solved[1] == pytest.approx(float(-g @ p - p @ G @ p / 2), rel=1e-8)


@pytest.mark.parametrize("kind", DATA)
def test_a_step_of_fit_solves_the_damped_equations(kind: str) -> None:
    model = net(DATA[kind][1])
    g, G = by_hand(model, kind, 0.01)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    fit = on.fit(model, DATA[kind][0](), "gauss_newton", steps=1, holdout=0.0, weight_decay=0.01, damping=0.7)
    damping = fit.history[0]["damping"]
    first = 0.7 * float(g @ G @ g / (g @ g))
    assert fit.history[0]["rejected"] == 0 and damping == pytest.approx(first, rel=1e-10)
    p = -torch.linalg.solve(G + damping * torch.eye(len(g)).double(), g)
    after = torch.cat([q.detach().flatten() for q in model.parameters()])
    torch.testing.assert_close(after - before, p, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_linear_least_squares_take_one_step_without_damping(solver: str) -> None:
    x, y = measured()
    model = nn.Sequential(nn.Linear(3, 2)).double()
    words = {"damping": 1e-12, "tolerance": 1e-12, "solver": solver}
    on.fit(model, (x, y), "gauss_newton", steps=1, holdout=0.0, **words)
    wanted = torch.linalg.lstsq(torch.cat([x, torch.ones(S, 1).double()], 1), y).solution
    torch.testing.assert_close(model[0].weight.detach(), wanted[:3].T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(model[0].bias.detach(), wanted[3], rtol=1e-8, atol=1e-9)


def test_a_fit_of_exponentials_is_that_of_scipy() -> None:
    t = torch.linspace(0, 4, 40, dtype=torch.float64)[:, None]
    noise = 0.01 * torch.randn(40, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = 2 * torch.exp(-0.5 * t) - torch.exp(-3.0 * t) + noise
    model = nn.Sequential(Decays([0.3, 2.0]), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -0.5]]))

    def residual(v: np.ndarray) -> np.ndarray:
        return (np.exp(-v[:2] * t.numpy()) @ v[2:] - y.numpy()[:, 0]) * (2 / 40) ** 0.5

    wanted = least_squares(residual, [0.3, 2.0, 1.0, -0.5], method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    fit = on.fit(model, (t, y), "gauss_newton", steps=30, holdout=0.0)
    found = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(found, torch.from_numpy(wanted.x), rtol=1e-6, atol=1e-7)
    assert fit.history[-1]["loss"] == pytest.approx(wanted.cost, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", DATA)
def test_the_loss_of_all_data_never_rises(kind: str, dtype: torch.dtype) -> None:
    data, out = DATA[kind]
    x, y = data()
    fit = on.fit(net(out), (x, y), "gauss_newton", steps=12, holdout=0.0, damping=1e-9, dtype=dtype)
    values = [row["loss"] for row in fit.history]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(values)) and values[-1] < 0.1 * values[0]
    assert max(row["rejected"] for row in fit.history) > 0  # so little damping is refused at first


def test_nor_does_it_rise_by_conjugate_gradients() -> None:
    words = {"solver": "cg", "iterations": 20, "steps": 8, "holdout": 0.0}
    values = [row["loss"] for row in on.fit(net(3), labelled(), "gauss_newton", **words).history]
    assert values == sorted(values, reverse=True) and values[-1] < 0.5 * values[0]


def test_a_step_that_finds_nothing_leaves_the_weights_and_later_ones_find_more() -> None:
    model = net(3)
    before = [p.clone() for p in model.parameters()]
    words = {"steps": 1, "holdout": 0.0, "damping": 1e-12, "trials": 1}
    fit = on.fit(model, labelled(), "gauss_newton", **words)
    assert fit.history[0]["rejected"] == 1 and all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    fit = on.fit(model, labelled(), "gauss_newton", **{**words, "steps": 14})
    assert fit.history[-1]["loss"] < fit.history[0]["loss"]


def test_one_step_has_one_dropout_mask_and_the_next_one_another() -> None:
    """With one mask a step is a fall of its loss; the loss of another mask is another one at the same weights."""
    model, x = net(3, dropout=0.5), inputs()
    outputs = Outputs(model.train(), list(model.parameters()), x)
    theta = outputs.theta()
    assert torch.equal(outputs(theta), outputs(theta))
    again = Outputs(model, list(model.parameters()), x)
    assert not torch.equal(outputs(theta), again(theta))
    fit = on.fit(model, labelled(), "gauss_newton", steps=4, holdout=0.0)
    assert len({row["loss"] for row in fit.history}) == 4


def test_a_net_whose_samples_look_at_each_other_is_trained_by_products() -> None:
    batched = net(3, norm="batch")
    fit = on.fit(batched, labelled(), "gauss_newton", steps=4, iterations=20, holdout=0.0)
    values = [row["loss"] for row in fit.history]
    assert values == sorted(values, reverse=True) and values[-1] < 0.9 * values[0]
    with pytest.raises(Incompatible, match="no Jacobians of their own"):
        on.fit(net(3, norm="batch"), labelled(), "gauss_newton", steps=1, holdout=0.0, solver="dense")


@pytest.mark.parametrize(("words", "error", "sentence"), [
    ({"damping": 0.0}, BadInput, "damping=0.0 is a positive number"),
    ({"tolerance": "x"}, BadInput, "tolerance='x' is a positive number"),
    ({"iterations": 0}, BadInput, "iterations=0 is a positive whole number"),
    ({"trials": 1.5}, BadInput, "trials=1.5 is a positive whole number"),
    ({"solver": "lu"}, BadInput, "solver='lu' is none of auto, dense, cg"),
    ({"clip": 1.0}, BadInput, "clip and schedule belong to gradient descent"),
    ({"penalty": {"h1": 1e-3}}, BadInput, "needs a loss of the net's output alone"),
    ({"dampng": 1.0}, BadInput, "did you mean 'damping'"),
])  # fmt: skip
def test_what_gauss_newton_cannot_do_is_one_sentence(
    words: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    model = net(3)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=sentence):
        on.fit(model, labelled(), "gauss_newton", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("gradient", ["discrete", "reversible", "continuous"])
def test_gradients_other_than_autograd_train_alike_or_are_named(gradient: str) -> None:
    words = {"integrator": "alf"} if gradient == "reversible" else {"integrator": "rk4"}
    losses = []
    for chosen in ("autograd", gradient):
        model = net(3, gradient=chosen, **words)
        try:
            losses.append([r["loss"] for r in on.fit(model, labelled(), "gauss_newton", steps=3, holdout=0.0).history])
        except Incompatible as problem:
            assert "torch.func does not differentiate this net" in str(problem)
            return
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
