"""The memory problems against hand-written answers and published baselines."""

from __future__ import annotations

import math

import pytest
import torch

from odenet import data


def test_adding_targets_are_the_sums_of_the_marked_entries():
    d = data.load("adding", n=50, length=11)
    for x, y in zip(d.x, d.y):
        marked = [t for t in range(11) if x[t, 1] == 1]
        assert len(marked) == 2 and marked[0] < 5 <= marked[1]
        assert float(y) == pytest.approx(float(x[marked[0], 0] + x[marked[1], 0]), rel=1e-6)


def test_always_answering_one_to_adding_costs_one_sixth():
    d = data.load("adding", n=20000, length=4)
    assert float(((d.y - 1) ** 2).mean()) == pytest.approx(1 / 6, rel=0.03)


def test_copy_repeats_the_word_after_the_signal():
    d = data.load("copy", n=50, delay=7, memory=3, symbols=4)
    tokens = d.x.argmax(dim=-1)
    assert d.x.shape == (30, 13, 6) and torch.equal(d.x.sum(dim=-1), torch.ones(30, 13))
    assert d.classes == 5
    for t, y in zip(tokens.tolist(), d.y.tolist()):
        word = t[:3]
        assert t == [*word, *[4] * 6, 5, *[4] * 3]
        assert y == [4] * 10 + word


def test_copy_without_memory_costs_what_the_paper_states():
    """Arjovsky et al. 2016: 10 log 8 / (T + 20) for answering blanks, then uniform guesses."""
    d = data.load("copy")
    scores = torch.full((*d.y.shape, 9), -math.inf)
    scores[:, :-10, 8] = 0.0
    scores[:, -10:, :8] = 0.0
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), d.y.flatten())
    assert float(loss) == pytest.approx(10 * math.log(8) / 40, rel=1e-6)
