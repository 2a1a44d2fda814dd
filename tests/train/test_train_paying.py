"""Control methods with running costs, depth penalties and constraints: the right slopes, monotone, admissible."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.errors import Incompatible
from odenet.train import costs
from odenet.train.constraints import ball, box
from odenet.train.control import Augmented

S = 10
BOTH = [costs.kinetic(0.1) + costs.jacobian(0.05, exact=True), {"l2": 0.3}]


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(S, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def net(**words: Any) -> nn.Module:
    return on.nets.resnet(
        **{"dim_in": 3, "dim_out": 2, "width": 4, "steps": 3, "span": (0.0, 1.5), "seed": 1} | words
    ).double()


def whole(model: nn.Module) -> Tensor:
    flow: Any = model.parts[1]
    return F.cross_entropy(model(data()[0]), data()[1]) + BOTH[0](model, data()) + 0.3 * flow.penalty("l2")


@pytest.mark.parametrize("integrator", ["euler", "rk4", "ab2"])
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_slope_of_a_layer_that_pays_is_that_of_the_whole_cost(integrator: str, rho: float) -> None:
    model = net(integrator=integrator)
    problem = Augmented(model, penalty=BOTH, costates=integrator != "ab2")
    x, y = data()

    def terminal(out: tuple[Tensor, ...]) -> Tensor:
        return F.cross_entropy(out[0], y) + out[-1].mean()

    seen = problem.sweep(x, terminal)
    total = whole(model)
    torch.testing.assert_close(seen.loss, total.detach(), rtol=1e-12, atol=0)
    total.backward()
    for n, layer in enumerate(problem.layers):
        theta = {k: w.requires_grad_() for k, w in layer.weights().items()}
        slopes = torch.autograd.grad(problem.value(n, theta, seen, terminal, rho), list(theta.values()))
        for (_, (p, row)), slope in zip(layer.entries.items(), slopes):
            torch.testing.assert_close(slope, p.grad if row is None else p.grad[row], rtol=1e-9, atol=1e-11)


def test_sqh_never_rises_with_costs_and_lowers_what_they_measure() -> None:
    moons, energy = on.data.load("moons", n=60), costs.kinetic(1.0)
    model = on.nets.resnet(2, 2, width=3, steps=2, span=(0.0, 2.0), seed=0)
    before = float(energy(model, (moons.x, None)).detach())
    fit = on.fit(model, moons, "sqh", steps=4, inner=3, penalty=[costs.kinetic(0.5), {"l2": 1e-3}])
    losses = [e["loss"] for e in fit.history]
    assert all(b <= a for a, b in pairwise(losses)) and losses[-1] < 0.9 * losses[0]
    assert float(energy(model, (moons.x, None)).detach()) < 0.8 * before


@pytest.mark.parametrize("method", ["sqh", "emsa"])
def test_what_an_argmax_finds_is_projected_and_sqh_still_never_rises(method: str) -> None:
    model = on.nets.resnet(2, 2, width=3, steps=2, span=(0.0, 2.0), seed=0)
    both = [ball(1.2, on="*K"), box(-0.5, 0.5, on="parts.2.*")]
    fit = on.fit(model, on.data.load("moons", n=60), method, steps=3, inner=3, constraint=both)
    K = model.parts[1].weights["K"].detach().flatten(1).norm(dim=1)
    assert float(K.max()) <= 1.2 + 1e-6 and float(model.parts[2].weight.detach().abs().max()) <= 0.5
    losses = [e["loss"] for e in fit.history]
    assert method != "sqh" or all(b <= a for a, b in pairwise(losses))


@pytest.mark.parametrize(
    ("penalty", "sentence"),
    [
        ({"h1": 1e-3}, "the penalty 'h1' couples layers"),
        (lambda net: torch.zeros(()), "couples layers or is unknown"),
        (costs.jacobian(0.1), "draws a probe in every solve"),
    ],
)
def test_a_penalty_that_is_no_sum_over_layers_is_refused_in_a_sentence(penalty: Any, sentence: str) -> None:
    with pytest.raises(Incompatible, match=sentence):
        on.fit(net(), data(), "sqh", steps=1, penalty=penalty)
