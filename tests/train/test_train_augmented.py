"""Layers of a flow evaluated together: the numbers of a loop over them, and the loop where they differ in more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.flow import Chain, Flow
from odenet.train.control import Augmented, augmented

LABELS = torch.arange(12) % 2
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss(out: Tensor) -> Tensor:
    return F.cross_entropy(out, LABELS)


def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each group of layers was taken together, as the argmax goes on."""
    answers: list[bool] = []
    ask = augmented._same
    monkeypatch.setattr(augmented, "_same", lambda *a: answers.append(ask(*a)) or answers[-1])
    return answers


@pytest.mark.parametrize("rho", [0.0, 0.7])
@pytest.mark.parametrize(
    ("name", "integrator"),
    [
        ("resnet", "euler"),
        ("resnet", "rk4"),
        ("antisymmetric", "rk4"),
        ("hamiltonian", "verlet"),
        ("second_order", "verlet"),
    ],
)
def test_layers_together_have_the_argmax_of_a_loop(
    name: str, integrator: str, rho: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = on.nets.get(name)(3, 2, width=4, steps=4, integrator=integrator, seed=1).double()
    problem, found, answers = Augmented(net, inner=3), [], used(monkeypatch)
    seen = problem.sweep(X, loss)
    for limit in (augmented.TOGETHER, 0):
        monkeypatch.setattr(augmented, "TOGETHER", limit)
        found.append(problem.argmax(seen, loss, rho))
    assert answers and all(answers)
    for together, alone in zip(*found):
        for k in together:
            torch.testing.assert_close(together[k], alone[k], rtol=1e-9, atol=1e-11)


class Clock(nn.Module):
    def forward(self, t: Any, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y)) * (1 + t)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Chain(nn.Linear(3, 4), Flow(Clock(), "euler", steps=3), nn.Linear(4, 2)),
        lambda: on.nets.resnet(3, 2, width=4, steps=3, integrator="ab2"),
    ],
)
def test_layers_that_know_their_time_or_remember_are_taken_one_by_one(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, answers = Augmented(make().double(), inner=2), used(monkeypatch)
    seen = problem.sweep(X, loss)
    best = problem.argmax(seen, loss, 0.5)
    assert answers == [False]
    for n, layer in enumerate(problem.layers):
        before, after = (float(problem.value(n, w, seen, loss, 0.5).detach()) for w in (layer.weights(), best[n]))
        assert after < before
