"""Losses against torch, hand-written loops and their defining properties."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from odenet.errors import BadInput, UnknownName
from odenet.train.losses import LOSSES, get, tukey

G = torch.Generator().manual_seed(0)
SCORES = torch.randn(6, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, 4, (6,), generator=G)
REAL = torch.randn(6, 4, generator=G, dtype=torch.float64)


def by_hand(name):
    """The mean over samples, in python floats."""
    s, y = SCORES.tolist(), LABELS.tolist()
    r = (SCORES - REAL).flatten().tolist()
    each = {
        "mse": lambda: [a * a for a in r],
        "huber": lambda: [a * a / 2 if abs(a) <= 1 else abs(a) - 0.5 for a in r],
        "tukey": lambda: [4.685**2 / 6 * (1 - max(0.0, 1 - (a / 4.685) ** 2) ** 3) for a in r],
        "cross_entropy": lambda: [math.log(sum(map(math.exp, a))) - a[k] for a, k in zip(s, y)],
        "nll": lambda: [-a[k] for a, k in zip(s, y)],
        "hinge": lambda: [sum(max(0.0, 1 - a[k] + a[j]) for j in range(4) if j != k) / 4 for a, k in zip(s, y)],
        "squared_hinge": lambda: [
            sum(max(0.0, 1 - a[k] + a[j]) ** 2 for j in range(4) if j != k) / 4 for a, k in zip(s, y)
        ],
    }[name]()
    return sum(each) / len(each)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_equals_its_formula_by_hand(name):
    loss = get(name)
    target = REAL if loss.kind == "regression" else LABELS
    assert loss(SCORES, target).item() == pytest.approx(by_hand(name), rel=1e-12)
    assert loss.f(SCORES, target).shape == () and loss.cite and loss.when and loss.name == name


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_passes_gradcheck(name):
    loss = LOSSES[name]
    target = REAL if loss.kind == "regression" else LABELS
    assert torch.autograd.gradcheck(lambda s: loss(s, target), (SCORES.clone().requires_grad_(),))


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.kind == "classification"])
def test_scores_of_sequences_are_averaged_over_time_too(name):
    loss = LOSSES[name]
    expected = sum(loss(SCORES[k : k + 1], LABELS[k : k + 1]).item() for k in range(6)) / 6
    assert loss(SCORES.reshape(2, 3, 4), LABELS.reshape(2, 3)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power, name", [(1, "hinge"), (2, "squared_hinge")])
@pytest.mark.parametrize("negative", [0, -1])
def test_the_binary_hinge_takes_one_score_and_labels_of_either_spelling(power, name, negative):
    s = torch.tensor([2.0, 0.5, -0.5, -3.0], dtype=torch.float64)
    y = torch.tensor([1, 1, 1, negative])
    expected = sum(v**power for v in (0.0, 0.5, 1.5, 0.0)) / 4
    for scores, labels in ((s, y), (s[:, None], y), (s[:, None], y[:, None])):
        assert LOSSES[name](scores, labels).item() == pytest.approx(expected, rel=1e-15)


def test_tukey_forgets_the_size_of_far_outliers_and_is_least_squares_near_zero():
    r = torch.tensor([1e-3, 50.0, 5000.0], dtype=torch.float64, requires_grad=True)
    assert tukey(r[:1], torch.zeros(1)).item() == pytest.approx(0.5e-6, rel=1e-6)
    (g,) = torch.autograd.grad(tukey(r, torch.zeros(3, dtype=r.dtype)), r)
    assert g[1:].tolist() == [0.0, 0.0]


def test_the_median_of_tukeys_fit_ignores_a_tenth_of_wrong_targets():
    y = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y[:50] += 1000.0
    at = {}
    for name in ("mse", "tukey"):
        c = torch.zeros((), dtype=torch.float64, requires_grad=True)
        opt = torch.optim.LBFGS([c], max_iter=50, line_search_fn="strong_wolfe")

        def closure(c=c, opt=opt, name=name):
            opt.zero_grad()
            value = LOSSES[name](c.expand(500), y)
            value.backward()
            return value

        opt.step(closure)
        at[name] = c.item()
    assert at["mse"] == pytest.approx(y.mean().item(), rel=1e-6) and at["mse"] > 90
    assert abs(at["tukey"]) < 0.15


def test_shapes_that_would_broadcast_and_labels_that_do_not_fit_are_refused():
    for name in ("mse", "huber", "tukey"):
        with pytest.raises(BadInput, match=r"outputs \(6, 1\) and targets \(6,\) differ"):
            LOSSES[name](torch.zeros(6, 1), torch.zeros(6))
    for name in ("cross_entropy", "nll", "hinge"):
        with pytest.raises(BadInput, match=r"need labels \(6,\)"):
            LOSSES[name](SCORES, LABELS[:5])
    for name in ("cross_entropy", "nll"):
        with pytest.raises(BadInput, match="of one class is always 0"):
            LOSSES[name](torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(UnknownName, match="did you mean 'hinge'"):
        get("hing")


def test_cross_entropy_is_nll_of_a_log_softmax():
    expected = LOSSES["nll"](F.log_softmax(SCORES, dim=1), LABELS)
    torch.testing.assert_close(LOSSES["cross_entropy"](SCORES, LABELS), expected, rtol=1e-14, atol=0.0)
