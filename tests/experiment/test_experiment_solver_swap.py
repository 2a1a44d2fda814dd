"""Train solver against test solver: closed forms of linear flows, and steps that shrink where they must."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from odenet.data import Dataset
from odenet.errors import BadInput
from odenet.experiment.solver_swap import AdaptStep, Swap, train_and_swap
from odenet.flow import Chain, Flow
from odenet.stability.tables import Table


class Sign(nn.Module):
    """Two scores (-w x, w x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((-self.w * x, self.w * x), 1)


X = torch.tensor([[-1.0], [1.0], [-2.0], [2.0], [-1.5], [1.5]])
Y = torch.tensor([0, 1, 0, 1, 0, 1])
LINE = Dataset("line", X, Y, X, Y, X, Y, 2)


def decay(integrator: Any = "euler", steps: int = 1, seed: int = 0, rate: float = -3.0) -> Chain:
    return Chain(Flow(lambda v: rate * v, integrator, depth="shared", steps=steps), Sign())


def test_a_net_that_learns_to_undo_its_solver_fails_under_a_finer_one() -> None:
    """h = 1: euler multiplies by 1 - 3 = -2 and the sign is learned as -1; exactly it is exp(-3) > 0."""
    found = train_and_swap(
        decay, LINE, ("euler",), (1, 4), ("euler", "rk4"), (0.5, 1.0), (0, 1), train_steps=150, lr=0.1, batch=6
    )
    rows = {(r[1], r[3], r[5], r[6]): r for r in found.runs.rows}
    assert len(rows) == len(found.runs.rows) == 2 * 2 * 2 * 2
    for seed in (0, 1):
        assert rows[1, seed, "euler", 1.0][7:] == (1.0, 0.0)
        assert rows[1, seed, "rk4", 0.5][7:] == (0.0, 1.0)
        assert rows[4, seed, "rk4", 0.5][7:] == (1.0, 0.0)  # 1 - 3/4 > 0: the same sign as the exact flow
    assert found.critical() == {("euler", "euler"): 0.25, ("euler", "rk4"): 0.25}
    matrix = found.matrix()
    assert matrix.columns == ("trained", "h", "euler 0.5h", "euler 1h", "rk4 0.5h", "rk4 1h")
    assert matrix.rows == [("euler", 1.0, 0.0, 1.0, 0.0, 0.0), ("euler", 0.25, 1.0, 1.0, 1.0, 1.0)]


def test_the_critical_step_uses_means_over_seeds_and_the_finest_test_steps() -> None:
    rows = [
        ("euler", 0, h, seed, 0.9, "rk4", factor, 0.9 - drop, drop)
        for h, drops in ((0.1, (0.0, 0.1)), (0.2, (0.0, 0.3)), (0.4, (0.0, 0.0)))
        for seed, drop in enumerate(drops)
        for factor in (0.5, 2.0)
        for drop in ([drop] if factor == 0.5 else [0.9])
    ]
    swap = Swap(Table(("trained", "steps", "h", "seed", "own_accuracy", "tested", "factor", "accuracy", "drop"), rows))
    assert swap.critical(0.1) == {("euler", "rk4"): 0.1} and swap.critical(0.15) == {("euler", "rk4"): 0.4}
    assert swap.critical(0.01) == {("euler", "rk4"): None}


def test_zoo_nets_fill_the_matrix() -> None:
    build = partial(on.nets.hamiltonian, 2, 2, width=4)
    found = train_and_swap(
        build, "moons", ("verlet",), (2,), ("verlet", "rk4"), (0.5, 1.0, 2.0), (0,), train_steps=5, lr=1e-2
    )
    assert {(r[5], r[6]) for r in found.runs.rows} == {(i, f) for i in ("verlet", "rk4") for f in (0.5, 1.0, 2.0)}
    own = [r for r in found.runs.rows if (r[5], r[6]) == ("verlet", 1.0)]
    assert own[0][8] == 0.0 and all(0.0 <= r[7] <= 1.0 for r in found.runs.rows)


# ---- steps that adapt -----------------------------------------------------------------------------------------------


def looked(net: nn.Module, callback: AdaptStep, steps: int) -> None:
    callback(SimpleNamespace(net=net, history=[{}] * steps))  # type: ignore[arg-type]


def test_steps_are_halved_while_the_solvers_disagree_and_grow_by_a_tenth_where_they_agree() -> None:
    net = decay()  # h = 1: euler gives the wrong sign, a finer solver the right one
    callback = AdaptStep(X, Y, test="rk4", every=10, test_step=lambda h: h / 2)
    looked(net, callback, 9)
    assert callback.trace == []
    looked(net, callback, 10)
    assert callback.trace == [(10, 1.0, 0.0, 1.0)] and callback.h == 0.5
    assert next(net.flows()).h == 0.5
    looked(net, callback, 20)  # (1 - 1.5)^2 > 0: they agree
    assert callback.trace[-1] == (20, 0.5, 1.0, 1.0) and callback.h == pytest.approx(0.55)
    assert next(net.flows()).substeps == 2  # as many as h = 0.55 needs
    for k in range(3, 12):
        looked(net, callback, 10 * k)
    halved = [a[1] for a, b in zip(callback.trace, callback.trace[1:]) if b[1] < a[1]]
    assert halved and all(h >= 1.0 for h in halved)  # never where the signs agree


def test_the_published_rule_takes_the_square_root_of_h_over_fifty() -> None:
    asked = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((-x, x), 1)

    flow = Flow(lambda v: asked.append(1) or -v, "euler", depth="shared", steps=1)
    net = Chain(flow, Spy())
    asked.clear()
    looked(net, AdaptStep(X, Y, every=1), 1)
    assert len(asked) == 1 + 2 * math.ceil(1 / math.sqrt(1 / 50))  # one of euler; midpoint has two stages


def test_training_goes_on_with_the_same_weights_and_the_optimiser_keeps_its_hold() -> None:
    d = on.data.load("moons", 0)
    torch.manual_seed(0)
    net = on.nets.resnet(2, 2, width=4, steps=1, depth="shared", span=(0.0, 8.0))
    weight = next(net.flows()).weights["K"]
    before = weight.detach().clone()
    callback = AdaptStep(d.x_val, d.y_val, every=10, tolerance=0.0)
    result = on.fit(net, d, steps=60, lr=5e-2, callbacks=[callback])
    flow = next(net.flows())
    assert result.status == "done" and flow.weights["K"] is weight and not torch.equal(before, weight)
    assert flow.substeps > 1 and len(callback.trace) == 6
    for (_, h, a, b), (_, after, *_) in zip(callback.trace, callback.trace[1:]):
        assert after == pytest.approx(h / 2 if abs(a - b) > 0 else 1.1 * h)


def test_nets_whose_steps_cannot_be_set_are_refused() -> None:
    with pytest.raises(BadInput, match="every >= 1"):
        AdaptStep(X, Y, every=0)
    with pytest.raises(BadInput, match="chooses its steps itself"):
        looked(decay("dopri5"), AdaptStep(X, Y, every=1), 1)
    with pytest.raises(BadInput, match=r"write Chain\(flow\)"):
        looked(Flow(lambda v: -v, depth="shared"), AdaptStep(X, Y, every=1), 1)
    with pytest.raises(BadInput, match="no flow in this model"):
        looked(nn.Linear(1, 2), AdaptStep(X, Y, every=1), 1)
