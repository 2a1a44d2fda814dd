from __future__ import annotations

import pytest
import torch

import odenet as on
from odenet.errors import BadInput
from odenet.train import Supervised, fit
from odenet.train.many import fit_many

SETS = [on.data.load("moons", seed=s, n=200) for s in (0, 1)]
RATES = (1e-2, 3e-2, 1e-2, 3e-2)


def members(name: str = "resnet", **words: object) -> tuple[list[torch.nn.Module], list[Supervised], list[int]]:
    seeds = [0, 0, 1, 1]
    nets = [on.nets.get(name)(2, 2, width=6, steps=3, seed=s, **words).double() for s in seeds]
    parts = [Supervised((SETS[s].x.double(), SETS[s].y)) for s in seeds]
    return nets, parts, seeds


@pytest.mark.parametrize("name", ["resnet", "hamiltonian", "lm_resnet", "momentum", "second_order", "mlp"])
def test_members_trained_together_are_those_trained_alone(name: str) -> None:
    together, parts, seeds = members(name)
    alone, _, _ = members(name)
    fits = fit_many(together, parts, lr=RATES, seeds=seeds, steps=25, batch=16)
    for net, found, single, part, lr, seed in zip(together, fits, alone, parts, RATES, seeds):
        expected = fit(single, part, "adam", 25, lr, seed, batch=16, schedule="cosine")
        for (k, v), w in zip(net.state_dict().items(), single.state_dict().values()):
            torch.testing.assert_close(v, w, rtol=1e-9, atol=1e-9, msg=k)
        assert [h["loss"] for h in found.history] == pytest.approx([h["loss"] for h in expected.history], rel=1e-9)
        assert found.score == pytest.approx(expected.score) and found.status == "done"


@pytest.mark.parametrize(
    "words", [{"norm": "batch"}, {"dropout": 0.2}, {"integrator": "dopri5"}, {"gradient": "checkpoint"}]
)
def test_nets_that_cannot_share_kernels_are_trained_one_after_another(words: dict[str, object]) -> None:
    together, parts, seeds = members("resnet", **words)
    alone, _, _ = members("resnet", **words)
    fit_many(together, parts, lr=RATES, seeds=seeds, steps=3, batch=16)
    for net, single, part, lr, seed in zip(together, alone, parts, RATES, seeds):
        fit(single, part, "adam", 3, lr, seed, batch=16, schedule="cosine")
        for v, w in zip(net.state_dict().values(), single.state_dict().values()):
            torch.testing.assert_close(v, w, rtol=1e-9, atol=1e-9)


def test_a_member_that_diverges_does_not_disturb_the_others() -> None:
    nets, parts, seeds = members()
    calm, _, _ = members()
    with torch.no_grad():
        nets[1].parts[2].weight.mul_(float("inf"))
    fits = fit_many(nets, parts, lr=RATES, seeds=seeds, steps=5, batch=16)
    fit_many(calm, parts, lr=RATES, seeds=seeds, steps=5, batch=16)
    assert [f.status for f in fits] == ["done", "non_finite", "done", "done"] and fits[1].score == {}
    assert torch.equal(nets[2].parts[2].weight, calm[2].parts[2].weight)


def test_an_infinite_learning_problem_alone_is_reported_too() -> None:
    nets, parts, seeds = members("resnet", norm="batch")
    with torch.no_grad():
        nets[0].parts[2].weight.fill_(float("nan"))
    fits = fit_many(nets[:1], parts[:1], lr=[1e-2], seeds=seeds[:1], steps=3, batch=16)
    assert fits[0].status == "non_finite"


def test_lists_of_different_lengths_are_refused() -> None:
    nets, parts, seeds = members()
    with pytest.raises(BadInput, match="4 nets, 4 data sets, 1 learning rates and 4 seeds"):
        fit_many(nets, parts, lr=[1e-2], seeds=seeds)
