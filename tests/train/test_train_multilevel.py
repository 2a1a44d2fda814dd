"""Training from shallow to deep is training, prolonging and training on; and it costs less than the deep net alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import odenet as on
from odenet.errors import BadInput
from odenet.flow.multilevel import prolong
from odenet.train.multilevel import fit_multilevel


def net(steps: int, **words: Any) -> Any:
    return on.nets.resnet(2, 2, width=4, opening="pad", steps=steps, **words)


def test_it_is_fit_prolong_and_fit_again_to_the_last_bit() -> None:
    words = {"depth": "piecewise_linear", "span": (0.0, 4.0), "seed": 3}
    got = fit_multilevel(net(2, **words), "moons", levels=3, steps=[5, 4, 3], lr=[1e-2, 5e-3, 1e-3], seed=1)
    by_hand = net(2, **words)
    for level, (steps, lr) in enumerate(((5, 1e-2), (4, 5e-3), (3, 1e-3))):
        by_hand = prolong(by_hand) if level else by_hand
        fit = on.fit(by_hand, "moons", steps=steps, lr=lr, seed=1)
    for a, b in zip(got.net.parameters(), by_hand.parameters()):
        assert torch.equal(a, b)
    assert got.score == fit.score and got.status == "done"
    assert got.net.parts[1].steps == 8 and got.net.parts[1].h == 0.5
    assert [int(e["level"]) for e in got.history] == [0] * 5 + [1] * 4 + [2] * 3
    seconds = [e["seconds"] for e in got.history]
    assert seconds == sorted(seconds)


def test_the_first_net_is_the_coarsest_level_and_is_trained() -> None:
    coarse = net(4, seed=1)
    before = [p.clone() for p in coarse.parameters()]
    fit = fit_multilevel(coarse, "moons", levels=2, steps=3)
    assert coarse.parts[1].steps == 4 and fit.net.parts[1].steps == 8
    assert any(not torch.equal(a, b) for a, b in zip(before, coarse.parameters()))
    assert fit.net.parts[1].weights["K"].data_ptr() != coarse.parts[1].weights["K"].data_ptr()


def test_a_level_that_is_stopped_is_the_last_one() -> None:
    fit = fit_multilevel(net(2), "moons", levels=3, steps=10, callbacks=[lambda fit: len(fit.history) == 4])
    assert fit.status == "stopped" and len(fit.history) == 4 and fit.net.parts[1].steps == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"levels": 0}, "levels is a positive whole number"),
        ({"levels": 3, "steps": [10, 10]}, "steps has 2 numbers for 3 levels"),
        ({"levels": 2, "lr": [1e-2]}, "lr has 1 numbers for 2 levels"),
    ],
)
def test_a_plan_that_does_not_fit_is_told_in_a_sentence(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        fit_multilevel(net(2), "moons", **words)


@pytest.mark.slow
def test_it_reaches_the_accuracy_of_the_deep_net_on_the_swiss_roll_with_less_work() -> None:
    words: dict[str, Any] = {"span": (0.0, 8.0)}
    deep, levels = [], []
    for seed in range(3):
        data = on.data.load("swiss_roll", seed=seed)
        fit = on.fit(net(64, seed=seed, **words), data, steps=400, lr=1e-2, seed=seed, batch=512)
        deep.append(fit.score["accuracy"])
        coarse, plan = net(16, seed=seed, **words), [266, 66, 66]
        fit = fit_multilevel(coarse, data, levels=3, steps=plan, lr=[1e-2, 5e-3, 5e-3], seed=seed, batch=512)
        levels.append(fit.score["accuracy"])
    work = sum(steps * layers for steps, layers in zip(plan, (16, 32, 64)))
    assert work < 0.42 * 400 * 64
    assert sum(levels) / 3 > sum(deep) / 3 - 0.02 and sum(deep) / 3 > 0.8
