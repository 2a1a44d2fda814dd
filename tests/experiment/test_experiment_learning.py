"""Divergence against the limit of gradient descent on a quadratic, and wrong labels counted one by one."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from odenet.data import Dataset
from odenet.errors import BadInput
from odenet.experiment.learning import divergence, label_noise, mislabelled


class Slope(nn.Module):
    """One weight; its Hessian under the mean square is 2 mean x^2."""

    def __init__(self, seed: int = 0, **shape: Any) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1,), 0.5 + seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


X = torch.tensor([[1.0], [2.0], [3.0]])  # mean x^2 = 14/3: gradient descent diverges beyond lr = 2/(28/3) = 0.214


def test_gradient_descent_on_a_quadratic_diverges_exactly_beyond_two_over_its_hessian() -> None:
    limit = 2 / (28 / 3)
    rates = (0.5 * limit, 0.9995 * limit, 1.0005 * limit, 3 * limit)
    found = divergence(Slope, (X, 4 * X), rates, seeds=(0,), train_steps=120, batch=3, method="sgd")
    assert [row[3] for row in found.table().rows] == [0.0, 0.0, 1.0, 1.0] and found.rate == 0.5
    assert all(row[4] == 1 for row in found.table().rows)
    by_lr = {row[0]: row for row in found.runs.rows}
    assert by_lr[3 * limit][4] == "non_finite" and by_lr[1.0005 * limit][4] == "done"
    columns = dict(zip(found.runs.columns, by_lr[0.5 * limit]))
    assert columns["first_loss"] > columns["last_loss"] and columns["diverged"] == 0


def test_the_grid_gives_every_net_its_depth_and_step() -> None:
    seen = []

    def build(**words: Any) -> nn.Module:
        seen.append(words)
        return Slope()

    found = divergence(build, (X, X), (1e-3,), h=(0.5, 1.0), steps=(2, 4), seeds=(7,), train_steps=1)
    assert seen == [{"steps": n, "span": (0.0, h * n), "seed": 7} for h in (0.5, 1.0) for n in (2, 4)]
    assert [row[:3] for row in found.table().rows] == [(1e-3, h, n) for h in (0.5, 1.0) for n in (2, 4)]
    with pytest.raises(BadInput, match="at least one lr"):
        divergence(build, (X, X), ())


def test_a_zoo_net_diverges_for_a_rate_that_is_absurd_and_not_for_a_small_one() -> None:
    build = partial(on.nets.resnet, 2, 2, width=4)
    found = divergence(build, "moons", (1e-3, 1e4), h=(0.25,), steps=(4,), seeds=(0,), train_steps=10, method="sgd")
    assert [row[3] for row in found.table().rows] == [0.0, 1.0]


# ---- wrong labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 1.0])
def test_exactly_the_share_asked_for_gets_another_class(share: float) -> None:
    y = torch.arange(900) % 3
    wrong = mislabelled(y, share, 3, seed=1)
    assert int((wrong != y).sum()) == round(900 * share)
    assert int(wrong.min()) >= 0 and int(wrong.max()) <= 2
    if share == 1.0:
        counts = torch.bincount((wrong - y) % 3, minlength=3)
        assert counts[0] == 0 and abs(int(counts[1]) - 450) < 4 * math.sqrt(900 / 4)
    assert torch.equal(wrong, mislabelled(y, share, 3, seed=1))


def test_labels_that_cannot_be_wrong_are_refused() -> None:
    for share, classes in ((1.5, 3), (-0.1, 3), (0.5, 1)):
        with pytest.raises(BadInput, match="a share in"):
            mislabelled(torch.zeros(3, dtype=torch.long), share, classes)
    real = Dataset("r", X, X, X, X, X, X, None)
    with pytest.raises(BadInput, match="'r' has real targets"):
        label_noise(lambda seed: Slope(), real, seeds=(0,))


def test_a_majority_of_wrong_labels_turns_a_classifier_round() -> None:
    """Two classes: with share p of the labels turned, the best rule is right for p < 1/2 and wrong for p > 1/2."""
    x = torch.linspace(-1, 1, 40)[:, None]
    x = x + 0.2 * x.sign()
    y = (x[:, 0] > 0).long()
    d = Dataset("line", x, y, x, y, x, y, 2)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(1, 2)

    found = label_noise(build, d, (0.0, 0.2, 0.9), seeds=(0, 1, 2), train_steps=120, lr=0.1, batch=40)
    scores = {(r[0], r[1]): r[2:4] for r in found.runs.rows}
    assert all(scores[0.0, s] == (1.0, 1.0) for s in range(3))
    assert all(scores[0.2, s][0] >= 0.9 and scores[0.2, s][1] == pytest.approx(0.8, abs=0.06) for s in range(3))
    assert all(scores[0.9, s][0] <= 0.1 for s in range(3))
    table = {row[0]: row for row in found.table().rows}
    assert table[0.0][5] == "reference" and table[0.9][5] == "lower" and table[0.9][4] < -0.5
    assert table[0.9][2] == pytest.approx(sum(scores[0.9, s][0] - 1.0 for s in range(3)) / 3)
