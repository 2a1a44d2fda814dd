"""Balancing and moving points: hand-written formulas, equal gradients, checkpoints that go on bit-identically."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from odenet import pde
from odenet.errors import BadInput, UnknownName
from odenet.fields import jets
from odenet.pde import collocation
from odenet.pde.adaptive import moved
from odenet.pde.ansatz import ansatz
from odenet.pde.balancing import BALANCERS, Balance
from odenet.pde.collocation import Collocation, blocks
from odenet.pde.sampling import RESAMPLERS


def heat() -> pde.Problem:
    return pde.Problem(
        pde.Interval(0, 1) * pde.Time(0, 2),
        lambda u: u.t - 0.1 * u.xx,
        [pde.initial(lambda x: torch.sin(math.pi * x), weight=3.0), pde.dirichlet(0.0)],
        exact=lambda x, t: torch.exp(-0.1 * math.pi**2 * t) * torch.sin(math.pi * x),
    )


def system(n: int = 20) -> Collocation:
    problem = heat()
    model = ansatz(problem, width=4, depth=2, wanted=False, seed=3)
    return Collocation(model, blocks(problem, n, torch.Generator().manual_seed(0), boundary=6))


def by_hand(s: Collocation) -> dict[str, tuple[Tensor, Tensor, float]]:
    """For every block rows (n, R), their Jacobian (n, R, P) and the block's weight, all by nested autograd."""
    weights, found = list(s.ansatz.trunk.parameters()), {}
    for b in s.whole:
        parts = jets.jet(s.ansatz, b.points, b.channels, "autograd")
        r = b.residual(b.values(parts, s.problem.unknowns), {})
        slopes = [
            torch.cat([g.flatten() for g in torch.autograd.grad(v, weights, retain_graph=True, materialize_grads=True)])
            for v in r.flatten()
        ]
        found[b.name] = (r.detach(), torch.stack(slopes).reshape(*r.shape, -1), b.weight)
    return found


def test_rows_are_weighted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collocation, "CHUNK", 7)
    s, g = system(), torch.Generator().manual_seed(4)
    theta = s.theta()
    plain, J = s.residual(theta), torch.cat([J for _, J in s.blocks(theta)])
    weights = {b.name: torch.rand(len(b.x), 1, generator=g, dtype=torch.float64) for b in s.whole[:-1]}
    weights[s.whole[-1].name] = torch.tensor(5.0, dtype=torch.float64)
    s.reweigh(weights)
    root = torch.cat([weights[b.name].expand(len(b.x), 1) for b in s.whole]).sqrt().flatten()
    pairs = list(s.blocks(theta))
    assert torch.allclose(s.residual(theta), root * plain, rtol=1e-14, atol=0)
    assert torch.allclose(torch.cat([r for r, _ in pairs]), root * plain, rtol=1e-13, atol=1e-16)
    assert torch.allclose(torch.cat([j for _, j in pairs]), root[:, None] * J, rtol=1e-13, atol=1e-16)
    assert torch.allclose(
        s.value_and_gradient(theta)[1], (root[:, None] * J).T @ (root * plain), rtol=1e-11, atol=1e-13
    )
    s.reweigh({})
    assert torch.equal(s.residual(theta), plain)


def test_gradient_norms_become_equal() -> None:
    s = system()
    theta = s.theta()
    before = {k: g.norm() for k, g in s.gradients(theta).items()}
    found = BALANCERS.get("gradient_norm")(s, theta, Balance(), momentum=0.0)
    after = torch.stack([g.norm() for g in s.gradients(theta).values()])
    mean = torch.stack(list(before.values())).mean()
    assert torch.allclose(after, mean.expand(len(after)), rtol=1e-10) and len(after) == 3
    for name, (r, J, weight) in by_hand(s).items():
        gradient = weight * torch.einsum("nr,nrp->p", r, J) / len(r)
        assert torch.allclose(found.weights[name], mean / gradient.norm(), rtol=1e-9)


def test_kernels_learn_alike_fast() -> None:
    s = system()
    found = BALANCERS.get("ntk")(s, s.theta(), Balance(), momentum=0.0)
    traces = {name: weight * float(J.square().sum()) / len(r) for name, (r, J, weight) in by_hand(s).items()}
    mean = sum(traces.values()) / len(traces)
    for name, trace in traces.items():
        assert float(found.weights[name]) == pytest.approx(mean / trace, rel=1e-9)
    again = BALANCERS.get("ntk")(s, s.theta(), Balance(), momentum=0.0)
    assert {k: float(v) for k, v in again.weights.items()} == {k: float(v) for k, v in found.weights.items()}


@pytest.mark.parametrize("name", ["gradient_norm", "ntk"])
def test_weights_of_blocks_are_running_averages(name: str) -> None:
    s, rule = system(), BALANCERS.get(name)
    theta = s.theta()
    first, now = (rule(s, t, Balance(), momentum=0.0) for t in (theta, 2 * theta))
    both = rule(s, 2 * theta, first, momentum=0.9)
    for k, v in both.weights.items():
        assert float(v) == pytest.approx(0.9 * float(first.weights[k]) + 0.1 * float(now.weights[k]), rel=1e-12)


def test_attention_to_residuals_is_a_decaying_sum() -> None:
    s, rule = system(), BALANCERS.get("rba")
    a, b = s.theta(), 1.5 * s.theta()
    second = rule(s, b, rule(s, a, Balance(), decay=0.9, rate=0.02), decay=0.9, rate=0.02)
    s.reweigh({})
    ra, rb = s.whole_rows(a), s.whole_rows(b)
    for name, w in second.weights.items():
        first = 0.02 * ra[name].abs() / ra[name].abs().max()
        expected = (0.9 * first + 0.02 * rb[name].abs() / rb[name].abs().max()) ** 2
        assert torch.allclose(w, expected, rtol=1e-12, atol=0)
    for _ in range(30):
        second = rule(s, b, second, decay=0.5, rate=0.02)
    assert all(
        float(w.max()) == pytest.approx(0.04**2, rel=1e-6) for w in second.weights.values()
    )  # rate / (1 - decay)


def test_adaptive_weights_ascend_the_loss() -> None:
    s, rule, rate = system(), BALANCERS.get("self_adaptive"), 0.3
    theta = s.theta()
    once = rule(s, theta, Balance(), rate=rate)
    twice = rule(s, theta, once, rate=rate)
    for name, (r, _, _) in by_hand(s).items():
        mask = torch.ones_like(r).requires_grad_()
        for found in (once, twice):
            loss = 0.5 * (mask**2 * r**2).sum() / r.square().mean()
            (slope,) = torch.autograd.grad(loss, mask)
            mask = (mask + rate * slope).detach().requires_grad_()
            assert torch.allclose(found.weights[name], mask**2, rtol=1e-9)


def test_causal_weights_fall_with_the_residual_of_earlier_times() -> None:
    s, rule = system(40), BALANCERS.get("causal")
    theta, chunks, e = s.theta(), 4, 2.5
    found = rule(s, theta, Balance(), chunks=chunks, steepness=e, steepest=e)
    (r, _, _), t = by_hand(s)["equation"], s.whole[0].x[:, 1].tolist()
    means = []
    for k in range(chunks):
        inside = [float(r[i, 0]) ** 2 for i in range(40) if 2 * k / chunks <= t[i] < 2 * (k + 1) / chunks]
        means.append(sum(inside) / len(inside))
    for i in range(40):
        earlier = sum(means[: int(t[i] / (2 / chunks))])
        assert float(found.weights["equation"][i]) == pytest.approx(math.exp(-e * earlier), rel=1e-9)
    assert set(found.weights) == {"equation"} and float(found.weights["equation"].min()) < 0.999
    steeper = rule(s, theta, Balance(), chunks=chunks, steepness=1e-9, steepest=1e-5)
    assert float(steeper.memory["steepness"]) == pytest.approx(1e-8)
    again = rule(s, theta, found, chunks=chunks, steepness=1.0, steepest=10 * e)
    assert float(again.memory["steepness"]) == pytest.approx(e)  # the smallest weight is not yet 0.99


def test_causal_weights_need_time() -> None:
    with pytest.raises(BadInput, match="need time"):
        pde.solve("poisson", method="adam", balance="causal", points=20)


def test_unknown_rules_and_options_are_answered() -> None:
    words: dict[str, Any] = {"method": "adam", "points": 20, "steps": 1}
    with pytest.raises(UnknownName, match="gradient_norm"):
        pde.solve(heat(), balance="gradient_norms", **words)
    with pytest.raises(UnknownName, match="rar_d"):
        pde.solve(heat(), adaptive="rar", **words)
    with pytest.raises(BadInput, match=r"'speed'.*decay"):
        pde.solve(heat(), balance="rba", balance_options={"speed": 1.0}, **words)
    with pytest.raises(BadInput, match="every"):
        pde.solve(heat(), balance="rba", balance_options={"every": 0}, **words)


@pytest.mark.parametrize("name", BALANCERS.names())
def test_training_with_a_balance_lowers_the_error(name: str) -> None:
    words: dict[str, Any] = {"width": 8, "depth": 1, "points": 60, "hard": False, "balance_options": {"every": 4}}
    sol = pde.solve(heat(), method="gauss_newton", seconds=60, steps=16, balance=name, track=False, **words)
    assert sol.rel_l2 is not None and sol.rel_l2 < 5e-2
    assert len(BALANCERS.get(name).when) > 20


def same(first: pde.Solution, second: pde.Solution) -> bool:
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = [[row["loss"] for row in s.history] for s in (first, second)]
    return torch.equal(first.u(x), second.u(x)) and losses[0] == losses[1]


RUNS = [{"balance": name, "hard": False, "balance_options": {"every": 2}} for name in BALANCERS.names()]
RUNS += [{"adaptive": name, "fresh": 2} for name in RESAMPLERS.names()]
RUNS += [{"adaptive": "r3", "fresh": 3, "balance": "rba", "hard": False}, {"fresh": 2, "balance": "causal"}]


@pytest.mark.parametrize("words", RUNS, ids=lambda w: "-".join(map(str, w.values()))[:30].replace(" ", ""))
def test_a_training_goes_on_bit_identically(words: dict[str, Any], tmp_path: Path) -> None:
    words = {"method": "gauss_newton", "seconds": 60, "track": False, "width": 5, "depth": 1, "points": 25, **words}
    whole = pde.solve(heat(), steps=6, **words)
    pde.solve(heat(), steps=3, folder=tmp_path, **words)
    assert same(whole, pde.solve(heat(), steps=6, folder=tmp_path, resume=True, **words))


def burgers(**words: Any) -> pde.Problem:
    return pde.Problem(
        pde.Interval(-1, 1) * pde.Time(0, 1),
        lambda u: u.t + u * u.x - 0.01 / math.pi * u.xx,
        [pde.initial(lambda x: -torch.sin(math.pi * x), **words), pde.dirichlet(0.0, **words)],
    )


class Front(torch.nn.Module):
    """x tanh(k) - tanh(k x): a front at x = 0 that steepens in time, k = 20 (2 + time scaled to [-1, 1])."""

    def forward(self, z: Tensor) -> Tensor:
        k = 20.0 * (2.0 + z[:, 1:])
        return z[:, :1] * torch.tanh(k) - torch.tanh(k * z[:, :1])


@pytest.mark.parametrize("rule", RESAMPLERS.names())
def test_points_move_to_the_shock(rule: str) -> None:
    model = ansatz(burgers(hard=False), Front())
    found = blocks(model.problem, 500, torch.Generator().manual_seed(0))
    edges = [b.x for b in found[1:]]
    for k in range(5):
        found = moved(model, found, rule, torch.Generator().manual_seed(k), {})
    x = found[0].x
    assert float((x[:, 0].abs() < 0.1).double().mean()) > 0.2  # 0.1 where they are spread evenly
    assert len(x) == (804 if rule == "rar_d" else 500)  # a tenth more at every move
    assert all(torch.equal(b.x, edge) for b, edge in zip(found[1:], edges, strict=True))


def test_points_move_while_training(tmp_path: Path) -> None:
    words: dict[str, Any] = {"width": 6, "depth": 2, "points": 200, "steps": 6, "track": False, "fresh": 2}
    sol = pde.solve(burgers(), method="gauss_newton", seconds=60, adaptive="rar_d", folder=tmp_path, **words)
    x = load_file(tmp_path / "checkpoint.safetensors")["at.equation"]
    assert sol.settings["points"] == len(x) == 200 + 20 + 22 + 24
    assert bool((x[:, 0].abs() <= 1).all()) and bool((x[:, 1] >= 0).all())
    assert len(torch.unique(x, dim=0)) == len(x)  # other candidates at every move


def test_points_move_within_the_part_where_an_equation_holds() -> None:
    left, right = pde.Interval(0, 1), pde.Interval(1, 2)
    problem = pde.Problem(
        pde.Interval(0, 2),
        [pde.Equation(lambda u: u.xx + 1, within=left), pde.Equation(lambda u: 2 * u.xx + 1, within=right)],
        pde.dirichlet(0.0),
    )
    model = ansatz(problem, width=4, depth=1)
    found = blocks(problem, 50, torch.Generator().manual_seed(0), met=model.hard.met)
    for rule in RESAMPLERS.names():
        a, b = (block.x for block in moved(model, found, rule, torch.Generator().manual_seed(1), {}))
        assert bool((a <= 1).all()) and bool((b >= 1).all()) and len(a) >= 50
        assert not torch.equal(a, found[0].x)
