"""Training as optimal control: the augmented Hamiltonian by hand, monotone losses, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.train import pmp_gap
from odenet.train.control import Augmented

S = 12


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(S, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def net(**words: Any) -> nn.Module:
    return on.nets.resnet(
        **{"dim_in": 3, "dim_out": 2, "width": 4, "steps": 3, "span": (0.0, 1.5), "seed": 1} | words
    ).double()


def loss(out: Tensor) -> Tensor:
    return F.cross_entropy(out, data()[1])


@pytest.mark.parametrize(
    "make", [net, lambda: net(integrator="rk4"), lambda: on.nets.hamiltonian(3, 2, width=4, steps=3, seed=1).double()]
)
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_slope_of_the_augmented_hamiltonian_at_the_old_weights_is_that_of_the_loss(make: Any, rho: float) -> None:
    model = make()
    problem, (x, _) = Augmented(model), data()
    seen = problem.sweep(x, loss)
    loss(model(x)).backward()
    for n, layer in enumerate(problem.layers):
        theta = {k: w.requires_grad_() for k, w in layer.weights().items()}
        slopes = torch.autograd.grad(problem.value(n, theta, seen, loss, rho), list(theta.values()))
        for (_, (p, row)), slope in zip(layer.entries.items(), slopes):
            wanted = p.grad if row is None else p.grad[row]
            torch.testing.assert_close(slope, wanted, rtol=1e-10, atol=1e-12)


def test_the_augmented_hamiltonian_of_an_euler_layer_is_the_formula_of_the_paper() -> None:
    """f = tanh(W x + b): -H + rho h / (2 S) (|f - z|^2 + |J^T p - J_old^T p|^2), p of one sample, J^T p by hand."""
    model, (x, _), rho, h = net(), data(), 0.3, 0.5
    problem = Augmented(model)
    seen = problem.sweep(x, loss)
    n = 2  # the second step of the flow
    old, generator = problem.layers[n].weights(), torch.Generator().manual_seed(5)
    new = {k: w + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for k, w in old.items()}
    state, p = seen.states[n], S * seen.costates[n + 1]

    def f(w: dict[str, Tensor]) -> Tensor:
        return torch.tanh(state @ w["K"].T + w["b"])

    def back(w: dict[str, Tensor]) -> Tensor:
        return ((1 - f(w) ** 2) * p) @ w["K"]

    wanted = -(p * (state + h * f(new))).sum() / S
    wanted = wanted + rho * h / (2 * S) * ((f(new) - f(old)) ** 2).sum()
    wanted = wanted + rho * h / (2 * S) * ((back(new) - back(old)) ** 2).sum()
    torch.testing.assert_close(problem.value(n, new, seen, loss, rho).detach(), wanted, rtol=1e-12, atol=1e-12)


def test_every_layer_s_augmented_hamiltonian_rises() -> None:
    problem, (x, _) = Augmented(net(), inner=5), data()
    seen = problem.sweep(x, loss)
    best = problem.argmax(seen, loss, 0.5)
    for n, layer in enumerate(problem.layers):
        before, after = (float(problem.value(n, w, seen, loss, 0.5).detach()) for w in (layer.weights(), best[n]))
        assert after < before


def test_the_argmax_of_a_linear_layer_without_costates_is_its_normal_equations() -> None:
    """Phi = W x: W = W_old + (S / rho) P (X^T X)^-1 with P = sum p x^T; the penalty is quadratic, H is linear."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    problem, (x, _), rho = Augmented(model, costates=False, inner=60), data(), 2.0
    seen = problem.sweep(x, loss)
    found = problem.argmax(seen, loss, rho)[0]["weight"]
    P = seen.costates[1].T @ x
    wanted = model[0].weight.detach() + S / rho * P @ torch.linalg.inv(x.T @ x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        net,
        lambda: on.nets.antisymmetric(3, 2, width=4, steps=3, integrator="rk4", seed=1).double(),
        lambda: on.nets.mlp(3, 2, width=4, steps=2).double(),
    ],
)
def test_the_loss_of_a_full_batch_never_rises_under_sqh(make: Any) -> None:
    fit = on.fit(make(), data(), "sqh", steps=8, holdout=0.0, rho=1e-3)
    values = [row["loss"] for row in fit.history]
    assert values == sorted(values, reverse=True) and values[-1] < 0.7 * values[0]
    assert max(row["rejected"] for row in fit.history) > 0 and all(row["rho"] > 0 for row in fit.history)


def test_a_step_that_finds_nothing_leaves_the_weights() -> None:
    model = net()
    before = [p.clone() for p in model.parameters()]
    fit = on.fit(model, data(), "sqh", steps=1, holdout=0.0, rho=1e-6, trials=1, grow=2.0, eta=1e9)
    assert fit.history[0]["rejected"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_a_large_rho_is_a_small_step_and_no_rho_is_a_wild_one() -> None:
    sizes = []
    for rho in (0.1, 10.0, 1000.0):
        model = net()
        before = [p.detach().clone() for p in model.parameters()]
        on.fit(model, data(), "emsa", steps=1, holdout=0.0, rho=rho, inner=20)
        sizes.append(sum(float((a - b).detach().square().sum()) for a, b in zip(before, model.parameters())) ** 0.5)
    assert sizes[0] > sizes[1] > sizes[2] and sizes[2] < 0.05
    wild = on.fit(net(), data(), "msa", steps=3, holdout=0.0).history
    assert wild[-1]["loss"] > wild[0]["loss"]


def test_the_gap_of_the_maximum_principle_closes_with_training() -> None:
    model = net()
    first = pmp_gap(model, data())
    assert list(first) == ["part 0", "part 1[0]", "part 1[1]", "part 1[2]", "part 2"] and min(first.values()) > 0
    on.fit(model, data(), "lbfgs", steps=300, lr=1.0, holdout=0.0, weight_decay=0.05)
    assert max(pmp_gap(model, data()).values()) < max(first.values())
    exact = nn.Sequential(nn.Linear(3, 1, bias=False)).double()  # least squares solved exactly: no gap
    x = data()[0]
    y = x @ torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    with torch.no_grad():
        exact[0].weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))
    assert pmp_gap(exact, (x, y))["layer 0"] < 1e-14


@pytest.mark.parametrize(("make", "words", "error", "sentence"), [
    (net, {"rho": 0.0}, BadInput, "rho=0.0: the weight of the penalties is a positive number"),
    (net, {"rho": -1}, BadInput, "rho=-1"),
    (net, {"inner": 0}, BadInput, "inner=0: the argmax of a layer takes one step"),
    (net, {"shrink": 2.0}, BadInput, "wanted 0 < shrink <= 1 < grow"),
    (net, {"clip": 1.0}, BadInput, "clip and schedule belong to gradient descent"),
    (net, {"penalty": {"h1": 1e-3}}, Incompatible, "the penalty .h1. couples layers"),
    (net, {"rhoo": 1.0}, BadInput, "did you mean 'rho'"),
    (lambda: net(activation="relu"), {}, Incompatible, "has the activation relu, whose derivative jumps"),
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double(), {}, Incompatible, "activation ReLU"),
    (lambda: net(norm="batch"), {}, Incompatible, "normalises over the batch"),
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double(), {}, Incompatible,
     "layer 1 normalises over the batch"),
    (lambda: net(dropout=0.5), {}, Incompatible, "has dropout"),
    (lambda: net(depth="shared"), {}, Incompatible, "shared by several layers"),
])  # fmt: skip
def test_what_a_control_method_cannot_do_is_one_sentence(
    make: Any, words: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    model = make()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=sentence):
        on.fit(model, data(), "sqh", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_kinked_activations_train_without_the_penalty_on_costates() -> None:
    fit = on.fit(net(activation="relu"), data(), "sqh", steps=5, holdout=0.0, costates=False)
    assert fit.history[-1]["loss"] < fit.history[0]["loss"]


class Picky(nn.Linear):
    """Not a number, without a graph, where a weight is large: what an implicit step gives that failed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(self.weight.detach().abs().max()) < 1 else torch.full_like(x, torch.nan)


def test_trial_weights_at_which_a_layer_fails_are_not_taken() -> None:
    model = nn.Sequential(Picky(3, 3), nn.Linear(3, 2)).double()
    on.fit(model, data(), "msa", steps=2, holdout=0.0)
    assert float(model[0].weight.detach().abs().max()) < 1
