"""Steps with a Kronecker-factored Fisher matrix: least squares in one step, loops and dense matrices by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.errors import BadInput
from odenet.train.control import Affine, Kronecker, gather
from odenet.train.control.kronecker import roots

S = 30
EXACT = {"draws": 0, "eps": 0.0, "rho": 1.0, "radius": math.inf}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(net: nn.Module, given: tuple[Tensor, Tensor], method: str = "kfac", steps: int = 1, **words: Any) -> list:
    """Weights after every step on all data."""
    seen: list[list[Tensor]] = []
    note = [lambda fit: seen.append([p.detach().clone() for p in net.parameters()])]
    on.fit(net, given, method, steps=steps, holdout=0.0, batch=1000, callbacks=note, **words)
    return seen


def close(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# ---- nets that are linear in their weights -------------------------------------------------------------------------


class Skew(nn.Module):
    """y = (W - W^T) x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(drawn(4, 4, seed=1)), nn.Parameter(drawn(4, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W - self.W.T, self.b)


class BothWays(nn.Module):
    """(W x + b, W^T z) of (x, z)."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(drawn(3, 4, seed=1)), nn.Parameter(drawn(3, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((F.linear(x[:, :4], self.W, self.b), F.linear(x[:, 4:], self.W.T)), -1)


class Behind(nn.Module):
    """y = W^T z."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(drawn(4, 3, seed=1))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.W


LINEAR: dict[str, Any] = {
    "matrix": (lambda: nn.Linear(4, 3), drawn(S, 4) + 1),
    "at five places": (lambda: nn.Linear(4, 3), drawn(S, 5, 4) + 1),
    "matrix behind": (Behind, drawn(S, 4) + 1),
    "kernel": (lambda: nn.Conv2d(2, 3, 3, padding=1, stride=2), drawn(S, 2, 5, 6) + 1),
    "kernel of one dimension": (lambda: nn.Conv1d(2, 3, 3, dilation=2, bias=False), drawn(S, 2, 9)),
    "K = W - W^T": (Skew, drawn(S, 4) - drawn(S, 4).mean(0)),
    "W and W^T": (BothWays, drawn(S, 7) - drawn(S, 7).mean(0)),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_one_undamped_step_solves_least_squares(kind: str) -> None:
    """F is C (x) 2/D I then, and Newton's matrix; the best prediction is a projection on the range of the Jacobian."""
    make, x = LINEAR[kind]
    torch.manual_seed(0)
    net = make().double()
    y = drawn(*net(x).shape, seed=3)
    fitted(net, (x, y), **EXACT)
    own = dict(net.named_parameters())
    J = torch.autograd.functional.jacobian(
        lambda *p: torch.func.functional_call(net, dict(zip(own, p)), (x,)), tuple(own.values())
    )
    J = torch.cat([j.reshape(y.numel(), -1) for j in J], -1)
    best = J @ torch.linalg.lstsq(J, y.reshape(-1, 1), driver="gelsd").solution
    close(net(x).detach().reshape(-1, 1), best)


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_for_one_sample_it_is_the_explicit_fisher_matrix(task: str) -> None:
    """A linear net of three matrices: blocks of J^T H J, with H = diag p - p p^T, or 2 / D I."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3, bias=False)).double()
    x, y = drawn(1, 3), (torch.tensor([1]) if task == "classes" else drawn(1, 3, seed=1))
    loss = F.cross_entropy if task == "classes" else F.mse_loss
    own, out = list(net.parameters()), []

    def total() -> Tensor:
        out[:] = [net(x)]
        return loss(out[0], y)

    _, seen = gather(
        own, total, 1, costates=True, drawn=lambda: (out[0], roots(lambda z: loss(z, y), out[0].detach(), 0))
    )
    p = out[0].detach()[0].softmax(0)
    H = torch.diag(p) - torch.outer(p, p) if task == "classes" else torch.eye(3, dtype=p.dtype) * 2 / 3
    for one in seen:
        assert one.left is not None
        parts = [q for q in (one.weight, one.bias) if q is not None]
        rows = [torch.autograd.grad(z, parts, retain_graph=True) for z in net(x)[0]]
        J = torch.stack([one.matrix(r[0], r[1] if one.bias is not None else None).reshape(-1) for r in rows])
        close(torch.kron(one.left[0], one.entered[0]), J.T @ H @ J)


def test_drawn_cotangents_have_the_hessian_of_the_loss_for_their_mean() -> None:
    z, y = drawn(3, 4), torch.tensor([0, 3, 1])
    p = z.softmax(-1)
    H = (torch.diag_embed(p) - p[:, :, None] * p[:, None]) / 3
    torch.manual_seed(0)
    for draws, rtol in ((0, 1e-9), (5000, 0.06)):
        C = torch.stack(roots(lambda z: F.cross_entropy(z, y), z, draws), -1)
        assert C.shape[-1] == (draws or 4)
        assert (C @ C.mT - H / 3).norm() <= rtol * H.norm() / 3


# ---- loops by hand -------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A tanh layer that is used twice, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(self.inner(x).tanh()).tanh())


def labelled() -> tuple[Tensor, Tensor]:
    x = drawn(S, 3)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def swept(own: list[Tensor], x: Tensor, y: Tensor, model: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(G, C, B) of both layers of `Recurrent`, by the chain rule for one sample after another."""
    W, b, V, c = own
    inner = [torch.zeros(3, 4), torch.zeros(4, 4), torch.zeros(3, 3)]
    outer = [torch.zeros(2, 4), torch.zeros(4, 4), torch.zeros(2, 2)]
    one = torch.ones(1, dtype=x.dtype)
    for s in range(S):
        first = torch.tanh(W @ x[s] + b)
        second = torch.tanh(W @ first + b)
        p = torch.softmax(V @ second + c, 0)
        wrong = p - torch.eye(2)[y[s]]
        columns = [p[k].sqrt() * (torch.eye(2)[k] - p) for k in range(2)] if model else [wrong]
        entered = [torch.cat((v, one)) for v in (x[s], first, second)]
        for r, squared in [(wrong, False), *((r, True) for r in columns)]:
            late = (V.T @ r) * (1 - second**2)
            early = (W.T @ late) * (1 - first**2)
            if squared:
                outer[2] += torch.outer(r, r) / S
                inner[2] += (torch.outer(early, early) + torch.outer(late, late)) / (2 * S)
            else:
                outer[0] += torch.outer(r, entered[2]) / S
                inner[0] += (torch.outer(early, entered[0]) + torch.outer(late, entered[1])) / S
        inner[1] += (torch.outer(entered[0], entered[0]) + torch.outer(entered[1], entered[1])) / S
        outer[1] += torch.outer(entered[2], entered[2]) / S
    yield from (tuple(inner), tuple(outer))  # type: ignore[misc]


def moved(own: list[Tensor], steps: list[Tensor], rho: float, falls: float, radius: float) -> float:
    """own -= steps / rho, shortened to the radius; returns the share that was taken."""
    share = min(1.0, math.sqrt(2 * radius * rho**2 / falls))
    for k, D in enumerate(steps):
        own[2 * k] -= share * D[:, :3] / rho
        own[2 * k + 1] -= share * D[:, 3] / rho
    return share


def test_kfac_is_its_loop_written_by_hand(double: None) -> None:
    """Dense solves with kron(B, C) + eps I of averaged statistics; some steps are shortened, others are not."""
    torch.manual_seed(0)
    net, (x, y) = Recurrent(), labelled()
    own, held, shares = [p.detach().clone() for p in net.parameters()], [], []
    rho, eps, radius, memory = 2.0, 0.05, 0.02, 0.7
    found = fitted(net, (x, y), steps=8, rho=rho, eps=eps, radius=radius, memory=memory, draws=0)
    for k in range(8):
        steps, falls = [], 0.0
        for n, (G, C, B) in enumerate(swept(own, x, y, True)):
            if not k:
                held.append([C, B])
            else:
                held[n] = [memory * old + (1 - memory) * new for old, new in zip(held[n], (C, B))]
            fisher = torch.kron(held[n][1], held[n][0])
            steps.append(torch.linalg.solve(fisher + eps * torch.eye(len(fisher)), G.reshape(-1)).view_as(G))
            falls += float((steps[-1] * G).sum())
        shares.append(moved(own, steps, rho, falls, radius))
        for a, b in zip(found[k], own):
            close(a, b, rtol=1e-10)
    assert min(shares) < 1 and max(shares) == 1


def test_snopt_is_its_loop_written_by_hand(double: None) -> None:
    """Costates of the loss; in the eigenbasis second moments of the gradient are averaged, also between two of them."""
    torch.manual_seed(0)
    net, (x, y) = Recurrent(), labelled()
    own, held, bases = [p.detach().clone() for p in net.parameters()], [[], []], [[], []]
    rho, eps, alpha, memory = 4.0, 0.1, 0.6, 0.5
    words = {"rho": rho, "eps": eps, "alpha": alpha, "memory": memory, "radius": math.inf, "refresh": 7}
    found = fitted(net, (x, y), "snopt", steps=14, **words)
    for k in range(14):
        steps = []
        for n, (G, C, B) in enumerate(swept(own, x, y, False)):
            if k < 10 or k % 2 == 0:
                old = held[n] or [C, B]
                held[n] = [memory * a + (1 - memory) * b for a, b in zip(old, (C, B))]
                (b, U), (c, V) = torch.linalg.eigh(held[n][1]), torch.linalg.eigh(held[n][0])
                bases[n] = [U, V, torch.outer(b, c)]
            U, V, m = bases[n]
            g = U.T @ G @ V
            bases[n][2] = alpha * m + (1 - alpha) * S * g**2
            steps.append(U @ (g / (bases[n][2] + eps)) @ V.T)
        moved(own, steps, rho, 1.0, math.inf)
        for a, b in zip(found[k], own):
            close(a, b, rtol=1e-9)


def dense(kind: str, one: Affine, eps: float, G: Tensor, mine: Kronecker) -> Tensor:
    """G divided by <E, F E> + eps along matrices E that the basis makes of W, with F a sum of products on K."""
    C, B, U, V, i = one.entered[0], one.left[0], mine.U[0], mine.V[0], one.weight.shape[-1]  # type: ignore[index]
    D = torch.zeros_like(G)
    for k in range(U.shape[1]):
        for j in range(V.shape[1]):
            E = torch.outer(U[:, k], V[:, j])
            if kind == "skew" and j < i:
                if j >= k:
                    continue
                E = torch.cat((E[:, :i] - E[:, :i].T, E[:, i:]), -1) / 2**0.5
            K = torch.cat((E[:, :i] - E[:, :i].T, E[:, i:]), -1) if kind == "skew" else E
            curved = (K * (B @ K @ C)).sum()
            if one.turned is not None and kind == "turned":
                curved = curved + (K[:, :i] * (one.turned[0] @ K[:, :i] @ one.back[0])).sum()  # type: ignore[index]
            curved = curved if mine.alpha else S * (E * G).sum() ** 2  # nothing is kept: the squared gradient itself
            D += E * (E * G).sum() / (curved + eps)
    return D


def squares(kind: str, bias: bool, layers: int = 1) -> Affine:
    """Positive definite statistics at random."""
    o, i = (4, 4) if kind == "skew" else (3, 4)

    def square(n: int, seed: int) -> Tensor:
        X = drawn(layers, n, 2 * n, seed=seed)
        return X @ X.mT / n

    W, b = nn.Parameter(drawn(layers, o, i)), nn.Parameter(drawn(layers, o)) if bias else None
    C, B = square(i + bias, 1), square(o, 2)
    if kind == "skew" and bias:
        C[:, :i, i:] = C[:, i:, :i] = 0  # else the bias is no direction of its own
    Z, Q = (square(o, 3), square(i, 4)) if kind == "turned" else (None, None)
    return Affine(W, b, C, Z, kind == "skew", torch.ones(layers), left=B, back=Q, samples=S)


def slopes(one: Affine) -> Tensor:
    G = drawn(*one.weight.shape[:2], one.entered.shape[-1], seed=5)
    if one.skew:
        G[..., :4] = G[..., :4] - G[..., :4].mT  # as all gradients of W are
    return G


@pytest.mark.parametrize("kind", ["plain", "skew", "turned"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_a_direction_is_the_diagonal_of_a_dense_fisher_matrix_in_its_basis(kind: str, bias: bool, alpha: float) -> None:
    one = squares(kind, bias)
    mine, G = Kronecker(one, 0.3, 0.0, alpha), slopes(one)
    close(mine.direction(G)[0], dense(kind, one, 0.3, G[0], mine))
    for Q in (mine.U[0], mine.V[0]):
        close(Q.T @ Q, torch.eye(len(Q), dtype=Q.dtype))


@pytest.mark.parametrize("kind", ["plain", "skew", "turned"])
def test_layers_of_a_stack_are_solved_for_one_by_one(kind: str) -> None:
    many = squares(kind, True, 3)
    G, parts = slopes(many), {k: v for k, v in vars(many).items() if isinstance(v, Tensor)}
    found = Kronecker(many, 0.2, 0.0, 0.5).direction(G)
    for n in range(3):
        one = Affine(**vars(many) | {k: v[n : n + 1] for k, v in parts.items()})
        close(found[n], Kronecker(one, 0.2, 0.0, 0.5).direction(G[n : n + 1])[0])


def test_the_step_does_not_depend_on_how_inputs_are_written() -> None:
    """x -> M x + v with the first layer changed against it: functions stay the same; gradient descent's do not."""
    M, v = drawn(3, 3, seed=7), drawn(3, seed=8)
    x, y = drawn(S, 3), drawn(S, 2, seed=1)

    def twins() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        a, b = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(2))
        b.load_state_dict(a.state_dict())
        with torch.no_grad():
            b[0].weight.copy_(a[0].weight @ M.inverse())
            b[0].bias.copy_(a[0].bias - b[0].weight @ v)
        return a, b

    gaps = []
    for method, words in (("kfac", {**EXACT, "rho": 3.0, "radius": 0.05}), ("sgd", {"lr": 0.1})):
        a, b = twins()
        start = a(x).detach()
        fitted(a, (x, y), method, 4, **words)
        fitted(b, (x @ M.T + v, y), method, 4, **words)
        gap, way = a(x) - b(x @ M.T + v), a(x) - start
        gaps.append(float((gap.norm() / way.norm()).detach()))
    assert gaps[0] < 1e-8 and gaps[1] > 1e-2


# ---- nets, and what cannot be --------------------------------------------------------------------------------------

NETS: dict[str, Any] = {
    "resnet": lambda: on.nets.resnet(3, 2, width=4, steps=3, seed=1),
    "shared": lambda: on.nets.resnet(3, 2, width=4, steps=3, depth="shared", integrator="heun", seed=1),
    "antisymmetric": lambda: on.nets.antisymmetric(3, 2, width=4, steps=3, seed=1),
    "hamiltonian": lambda: on.nets.hamiltonian(3, 2, width=4, steps=3, seed=1),
    "parabolic": lambda: on.nets.parabolic(3, 2, width=4, steps=3, seed=1),
    "cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.LayerNorm(12),
        nn.Linear(12, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ["kfac", "snopt"])
@pytest.mark.parametrize("kind", NETS)
def test_the_loss_falls(kind: str, method: str) -> None:
    torch.manual_seed(0)
    net, (x, y) = NETS[kind](), labelled()
    rows = on.fit(net, (x.float(), y), method, steps=20, lr=1e-2, holdout=0.0).history
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] and rows[-1]["solved"] > 0.6


def test_snopt_takes_penalties_and_kfac_says_that_it_does_not() -> None:
    words = {"steps": 2, "holdout": 0.0, "penalty": {"l2": 1e-2}}
    net = NETS["resnet"]().double()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(BadInput, match="a loss of the net's output alone, without penalty; use method 'snopt'"):
        on.fit(net, labelled(), "kfac", **words)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    for method, more in (("snopt", {}), ("kfac", {"draws": None})):
        rows = on.fit(net, labelled(), method, **words, **more).history
        assert rows[1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize(("words", "sentence"), [
    ({"radius": 0.0}, "radius=0.0: that of the trust region"), ({"radius": -1}, "radius=-1"),
    ({"alpha": 1.5}, "alpha=1.5: the share of the second moments"), ({"draws": -1}, "draws=-1: so many cotangents"),
    ({"draws": 0.5}, "draws=0.5"), ({"rho": 0.0}, "rho=0.0: the weight"), ({"memory": 1.0}, "memory=1.0"),
    ({"eps": 0.0}, "eps=0, but the Fisher matrix of a weight"), ({"raduis": 1.0}, "did you mean 'radius'"),
])  # fmt: skip
def test_what_it_cannot_do_is_one_sentence_and_the_weights_stay(words: dict[str, Any], sentence: str) -> None:
    net = NETS["resnet"]().double()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(BadInput, match=sentence):
        on.fit(net, labelled(), "kfac", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
