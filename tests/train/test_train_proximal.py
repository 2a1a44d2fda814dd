"""The closed form of a proximal step: dense solves by hand, gradient descent where C = I, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.train.control import Proximal, gather

S, RHO = 40, 2.0


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(S, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


NETS: dict[str, Any] = {
    "resnet": lambda **w: on.nets.resnet(3, 2, width=4, steps=3, seed=1, **w).double(),
    "antisymmetric": lambda **w: on.nets.antisymmetric(3, 2, width=4, steps=3, seed=1, **w).double(),
    "hamiltonian": lambda **w: on.nets.hamiltonian(3, 2, width=4, steps=3, seed=1, **w).double(),
    "hamiltonian_one_layer": lambda **w: on.nets.hamiltonian_one_layer(3, 2, width=4, steps=3, seed=1, **w).double(),
    "parabolic": lambda **w: on.nets.parabolic(3, 2, width=4, steps=3, seed=1, **w).double(),
    "cnn": lambda **w: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)
    ).double(),
}


def step(net: nn.Module, given: Any = None, **words: Any) -> list[Tensor]:
    """Changes of the weights by one step of prox_msa on all data."""
    before = [p.detach().clone() for p in net.parameters()]
    on.fit(net, given or data(), "prox_msa", steps=1, holdout=0.0, batch=1000, **{"rho": RHO} | words)
    return [p.detach() - b for p, b in zip(net.parameters(), before)]


def close(a: Any, b: Any, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def penalised(kind: str, change: list[Tensor], x: Tensor, z: Tensor, one: Tensor, h: float) -> Tensor:
    """rho h / (2 S) sum |change of the affine maps|^2 of a layer whose matrix is W, W - W^T, or both W and W^T."""
    D, d = change
    K = D - D.T if kind == "antisymmetric" else D
    total = ((x @ K.T + d * one) ** 2).sum()
    if kind == "hamiltonian":
        total = (total + ((z @ K) ** 2).sum()) / 2  # two places in a step
    return RHO * h / (2 * S) * total


@pytest.mark.parametrize("kind", ["resnet", "antisymmetric", "hamiltonian"])
def test_a_step_solves_its_proximal_problem(kind: str) -> None:
    """max <P, D> - the penalty, over the entries of D, by a dense solve of its normal equations; eps = 0."""
    integrator = "symplectic_euler" if kind == "hamiltonian" else "euler"
    x, y, h = torch.randn(S, 5, dtype=torch.float64), data()[1], 1 / 3
    net = on.nets.get(kind)(5, 2, width=4, steps=3, integrator=integrator, seed=1).double()
    flow = net.parts[1]
    name, bias = ("K2", "b2") if kind == "hamiltonian" else ("K", "b")
    W, b = flow.weights[name], flow.weights[bias]
    P = [-g[1] for g in torch.autograd.grad(F.cross_entropy(net(x), y), (W, b))]
    state = flow.trajectory(net.parts[0](x))[1].detach()
    entered = state[:, :2] if kind == "hamiltonian" else state
    z = torch.tanh(entered @ W[1].T + b[1]).detach()
    sizes = [p.numel() for p in P]

    def objective(flat: Tensor) -> Tensor:
        D, d = flat.split(sizes)
        change = [D.view_as(P[0]), d]
        gain = (P[0] * change[0]).sum() + (P[1] * change[1]).sum()
        return penalised(kind, change, entered, z, torch.ones(S, 1, dtype=x.dtype), h) - gain

    zero = torch.zeros(sum(sizes), dtype=x.dtype)
    H = torch.autograd.functional.hessian(objective, zero)
    wanted = -torch.linalg.pinv(H, rtol=1e-10) @ torch.autograd.functional.jacobian(
        objective, zero
    )  # antisymmetric: smallest D of all
    names = [k for k, _ in net.named_parameters()]
    found = dict(zip(names, step(net, (x, y), eps=0.0)))
    close(torch.cat([found[f"parts.1.weights.{k}"][1].reshape(-1) for k in (name, bias)]), wanted, rtol=1e-7)


def test_a_step_is_that_of_the_augmented_hamiltonian_of_a_linear_layer() -> None:
    """Its argmax by L-BFGS without costates: states are linear in the weights, so nothing is frozen."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).double()
    (x, y), words = data(), {"rho": RHO, "holdout": 0.0, "batch": 1000, "steps": 1}
    twin = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).double()
    twin.load_state_dict(net.state_dict())
    on.fit(net, (x, y), "prox_msa", eps=0.0, **words)
    on.fit(twin, (x, y), "emsa", costates=False, inner=60, **words)
    torch.testing.assert_close(net[0].weight, twin[0].weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(net[0].bias, twin[0].bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", NETS)
def test_where_the_statistic_is_the_identity_it_is_gradient_descent(kind: str) -> None:
    """C + eps trace(C) / d I is a multiple of the identity to 1 / eps; layers of a flow have length 1/3."""
    net, eps, (x, y) = NETS[kind](), 1e5, data()
    own, names = list(net.parameters()), [k for k, _ in net.named_parameters()]
    gradients, seen = gather(own, lambda: F.cross_entropy(net(x), y), S)
    at = {id(p): k for k, p in enumerate(own)}
    change = step(net, eps=eps, lr=1e-9)
    for one in seen:
        k = at[id(one.weight)]
        in_flow = "weights" in names[k]
        A = one.alone().entered if kind == "hamiltonian_one_layer" and in_flow else one.entered
        shift = eps * A.diagonal(dim1=-2, dim2=-1).mean(-1)
        if one.turned is not None:
            shift = shift + eps * one.turned.diagonal(dim1=-2, dim2=-1).mean(-1)
        shift = shift * (4 if one.skew else 1)  # |D - D^T|^2 = 4 |D|^2
        shift = shift / 3 / one.places if in_flow else shift
        wanted = -gradients[k] / (RHO * shift).reshape(-1, *[1] * (own[k].dim() - 1))
        assert (change[k] - wanted).norm() <= 1e-3 * wanted.norm()


def test_exactly_white_inputs_make_exactly_gradient_descent() -> None:
    net = nn.Sequential(nn.Linear(4, 2, bias=False)).double()
    x = torch.linalg.qr(torch.randn(S, 4, dtype=torch.float64))[0] * S**0.5  # x^T x = S I
    y, W = data()[1], net[0].weight
    (g,) = torch.autograd.grad(F.cross_entropy(net(x), y), W)
    wanted = W.detach() - g / 3.0
    on.fit(net, (x, y), "prox_msa", steps=1, holdout=0.0, batch=1000, rho=3.0, eps=0.0)
    close(W.detach(), wanted, rtol=1e-12)


def test_what_is_no_matrix_takes_adams_step() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()
    change = step(net, lr=1e-3)
    for p in (change[2], change[3]):
        close(p.abs(), torch.full_like(p, 1e-3), rtol=1e-3)  # the first step of Adam has length lr
    fit = on.fit(net, data(), "prox_msa", steps=1, holdout=0.0)
    assert fit.history[0]["solved"] == pytest.approx(26 / 34)


@pytest.mark.parametrize("kind", NETS)
def test_the_loss_falls(kind: str) -> None:
    torch.manual_seed(0)
    rows = on.fit(NETS[kind](), data(), "prox_msa", steps=25, holdout=0.0, batch=1000).history
    assert rows[-1]["loss"] < rows[10]["loss"] < rows[0]["loss"] and rows[-1]["solved"] > 0.8


def test_statistics_are_averaged_and_renewed_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    from odenet.train.control import proximal

    asked: list[int] = []
    monkeypatch.setattr(proximal, "gather", lambda *a, **k: asked.append(1) or gather(*a, **k))
    on.fit(NETS["resnet"](), data(), "prox_msa", steps=40, holdout=0.0, refresh=3)
    assert len(asked) == sum(k % min(3, 1 + k // 10) == 0 for k in range(40))
    net = nn.Linear(3, 2, bias=False).double()
    a, b = (gather([net.weight], lambda x=x: net(x).sum(), 5)[1][0] for x in (data()[0][:5], data()[0][5:10]))
    one = Proximal(a, torch.ones(1).double(), 0.1, 0.75)
    one.update(b)
    close(one.entered, 0.75 * a.entered + 0.25 * b.entered)


def test_a_schedule_makes_rho_grow_and_momentum_keeps_on() -> None:
    sizes = []
    for words in ({}, {"schedule": "cosine"}, {"momentum": 0.9}):
        net = NETS["resnet"]()
        before = [p.detach().clone() for p in net.parameters()]
        on.fit(net, data(), "prox_msa", steps=4, holdout=0.0, rho=50.0, batch=1000, **words)
        sizes.append(sum(float((a - b).detach().square().sum()) for a, b in zip(before, net.parameters())))
    assert sizes[1] < sizes[0] < sizes[2]


@pytest.mark.parametrize(("words", "sentence"), [
    ({"rho": 0.0}, "rho=0.0: the weight of the penalty is a positive number"), ({"rho": -1}, "rho=-1"),
    ({"eps": -0.1}, "eps=-0.1: what is added"), ({"memory": 1.0}, "memory=1.0 and momentum=0.0 are numbers"),
    ({"refresh": 0}, "refresh=0: statistics are renewed"), ({"rhoo": 1.0}, "did you mean 'rho'"),
    ({"eps": 0.0, "batch": 2}, "do not span their 4 dimensions"),
])  # fmt: skip
def test_what_it_cannot_do_is_one_sentence_and_the_weights_stay(words: dict[str, Any], sentence: str) -> None:
    net = NETS["resnet"]()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(BadInput, match=sentence):
        on.fit(net, data(), "prox_msa", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_a_net_without_matrices_is_one_sentence() -> None:
    with pytest.raises(Incompatible, match="no weight of Sequential is seen as a matrix"):
        on.fit(nn.Sequential(nn.BatchNorm1d(3)).double(), data(), "prox_msa", steps=1, holdout=0.0)
