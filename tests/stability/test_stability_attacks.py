"""Attacks against the exact distances of linear classifiers, and nets that hide their gradient on purpose."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenet import nets
from odenet.errors import BadInput
from odenet.flow import Flow
from odenet.nets.base import NETS
from odenet.stability import attacks, masking
from odenet.stability.attacks import Ball, broken, fgsm, input_gradient, margin, noise, pgd, scores, spsa, square
from odenet.stability.masking import area_under, attack_curve, radii_for
from odenet.stability.twins import on_fixed_grid

ATTACKS = {"noise": noise, "fgsm": fgsm, "pgd": pgd, "spsa": spsa, "square": square}
CHEAP = {"steps": 6, "queries": 30}


def linear(classes=2, width=5, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Linear(width, classes).double()
    x = torch.randn(80, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    return net, x, net(x).argmax(1).detach()


def distance(net, x, y, norm):
    """Exact distance of every sample to the nearest other class: min over k of margin_k / |w_y - w_k|_*."""
    out, W = net(x).detach(), net.weight.detach()
    gaps = out.gather(1, y[:, None]) - out
    sizes = (W[y][:, None] - W[None]).norm(dim=2, p=2 if norm == "l2" else 1)
    return (gaps / sizes).masked_fill(sizes == 0, math.inf).amin(1)


# ---- linear classifiers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_two_linear_classes_fall_exactly_at_margin_over_the_dual_norm(attack, norm):
    net, x, y = linear()
    exact = distance(net, x, y, norm)
    for eps in (0.05, 0.2, 0.5):
        z = attack(net, x, y, eps, norm)
        assert torch.equal(broken(net, z, y), exact < eps)
        assert 0.2 < float((exact < 0.5).double().mean()) < 1.0  # the radii tell samples apart


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_several_linear_classes_pgd_on_the_margin_reaches_the_nearest(norm):
    net, x, y = linear(classes=4)
    exact = distance(net, x, y, norm)
    for eps in (0.1, 0.3):
        fell = broken(net, pgd(net, x, y, eps, norm, loss="margin", steps=40), y)
        assert not bool((fell & (exact > eps)).any()), "nothing falls inside its exact distance"
        assert float(fell.double().mean()) >= float((exact < 0.97 * eps).double().mean())
        assert torch.equal(fell[exact < 0.5 * eps], torch.ones_like(fell[exact < 0.5 * eps]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_black_boxes_never_pass_the_exact_distance_and_come_close_to_it(norm):
    net, x, y = linear()
    exact, eps = distance(net, x, y, norm), 0.3
    z = square(net, x, y, eps, queries=60) if norm == "linf" else spsa(net, x, y, eps, norm, steps=25, pairs=8)
    fell = broken(net, z, y)
    assert not bool((fell & (exact > eps)).any())
    assert torch.equal(fell[exact < 0.9 * eps], torch.ones_like(fell[exact < 0.9 * eps]))


def test_the_differences_of_spsa_estimate_the_gradient_of_the_margin():
    net, x, y = linear(classes=3, width=4)
    g = attacks._differences(net, x, y, 1500, 1e-3, torch.Generator().manual_seed(0))
    exact = -input_gradient(net, x, y, "margin")
    sure = margin(scores(net, x), y) > 0.1  # no other class takes over within the differences
    assert torch.allclose(g[sure], exact[sure], atol=0.2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_no_attack_leaves_its_ball_or_the_box_of_the_data(name, norm):
    net, x, y = linear(classes=3, width=16)
    x, box, eps = x.sigmoid(), (0.0, 1.0), 0.4
    if name == "square" and norm == "l2":
        return
    words = {} if name == "square" else {"norm": norm}
    words |= {"queries": 20} if name == "square" else {}
    for word in (None, box):
        z = ATTACKS[name](net, x, y, eps, box=word, **words)
        d = (z - x).flatten(1)
        size = d.abs().amax(1) if norm == "linf" else d.norm(dim=1)
        assert float(size.max()) <= eps * (1 + 1e-12) and float(size.max()) > 0.5 * eps
        assert word is None or (float(z.min()) >= 0.0 and float(z.max()) <= 1.0)
    with pytest.raises(BadInput, match="outside the box"):
        ATTACKS[name](net, x, y, eps, box=(0.4, 0.6), **words)


def test_random_points_of_a_ball_are_uniform_in_it():
    x = torch.zeros(20_000, 3, dtype=torch.float64)
    d = Ball(x, 2.0, "l2").random(torch.Generator().manual_seed(0)).norm(dim=1)
    assert float(d.max()) <= 2.0
    assert float((d < 1.0).double().mean()) == pytest.approx(1 / 8, abs=0.01)  # volume of half the radius
    d = Ball(x, 2.0, "linf").random(torch.Generator().manual_seed(0))
    assert float((d.abs().amax(1) < 1.0).double().mean()) == pytest.approx(1 / 8, abs=0.01)


def test_a_step_has_the_length_asked_for_however_small_the_gradient_and_none_without_one():
    g = torch.tensor([[3e-40, 4e-40], [0.0, 0.0], [math.nan, 1.0]], dtype=torch.float32)
    ball = Ball(torch.zeros(3, 2), 1.0, "l2")
    assert torch.allclose(ball.towards(g, 0.5), torch.tensor([[0.3, 0.4], [0.0, 0.0], [0.0, 0.0]]), atol=1e-4)
    assert torch.equal(Ball(torch.zeros(3, 2), 1.0).towards(g, 0.5)[0], torch.tensor([0.5, 0.5]))


def test_images_are_searched_by_windows_of_one_sign_for_each_channel():
    shape = (7, 2, 6, 6)
    where, sign = attacks._windows(shape, 0.25, torch.Generator().manual_seed(0))
    assert where.flatten(1).sum(1).tolist() == [18] * 7  # 3 x 3 pixels of 2 channels
    rows, columns = where[:, 0].any(2), where[:, 0].any(1)
    assert torch.equal(where[:, 0], rows[:, :, None] & columns[:, None, :]) and torch.equal(where[:, 0], where[:, 1])
    assert bool((sign.flatten(2).std(2) == 0).all()) and set(sign.unique().tolist()) == {-1.0, 1.0}
    stripes = attacks._stripes(shape, torch.Generator().manual_seed(0))
    assert bool((stripes.std(2) == 0).all())  # vertical
    chosen, _ = attacks._entries((5, 40), 0.1, torch.Generator().manual_seed(0))
    assert chosen.sum(1).tolist() == [4] * 5


def test_windows_shrink_as_published():
    at = [0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    shares = [attacks._shrunk(0.8, k, 10_000) for k in at]
    assert shares == [0.8, 0.8, *(0.8 / 2**k for k in range(1, 10))]
    assert attacks._shrunk(0.8, 6, 100) == attacks._shrunk(0.8, 600, 10_000)


def test_scores_that_are_not_finite_count_as_broken_and_solves_that_fail_too():
    y = torch.tensor([0, 0])
    net = nn.Sequential(Flow(lambda v: v**2, "dopri5", depth="shared", steps=1), nn.Linear(1, 2))  # blows up for y0 > 1
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[0.5], [3.0]])
    assert scores(net, x)[0].isfinite().all() and scores(net, x)[1].isnan().all()
    assert broken(net, x, y).tolist() == [False, True]
    assert margin(torch.tensor([[math.nan, 0.0], [2.0, 0.5]]), y).tolist() == [-math.inf, 1.5]


def test_words_that_no_attack_knows_are_refused():
    net, x, y = linear()
    with pytest.raises(BadInput, match="norm 'l1' is not known"):
        fgsm(net, x, y, 0.1, "l1")
    with pytest.raises(BadInput, match="'cross_entropy' or 'margin'"):
        pgd(net, x, y, 0.1, loss="mse")
    with pytest.raises(BadInput, match="radius"):
        noise(net, x, y, -1.0)
    for eps in ((), (0.2, 0.1), (0.0, 0.1)):
        with pytest.raises(BadInput, match="positive, rising radii"):
            attack_curve(net, x, y, eps)


# ---- curves and their controls --------------------------------------------------------------------------------------


def test_the_area_is_that_of_trapezoids_over_the_range():
    assert area_under((0.0, 1.0, 3.0), (1.0, 0.5, 0.5)) == pytest.approx((0.75 + 1.0) / 3)
    assert area_under((0.0, 2.0), (1.0, 1.0)) == 1.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_curve_of_a_linear_classifier_is_the_distribution_of_exact_distances_and_no_flag_is_up(norm):
    net, x, y = linear()
    radii = (0.1, 0.3, 0.6)
    found = attack_curve(net, x, y, radii, norm, **CHEAP)
    exact = distance(net, x, y, norm)
    expected = [1.0, *(float((exact >= e).double().mean()) for e in radii)]
    assert found.accuracy["pgd"] == pytest.approx(expected) and found.accuracy["worst"] == pytest.approx(expected)
    assert found.area["pgd"] == pytest.approx(area_under((0.0, *radii), expected))
    assert not found.masked and found.flags == {} and found.standing == "robust accuracy"
    assert found.metrics()[f"robust_accuracy_{norm}_0.3"] == pytest.approx(expected[2])
    assert all(a == tuple(sorted(a, reverse=True)) for a in found.accuracy.values())
    assert found.table().columns[0] == "eps" and found.table().rows[1][-1] == "robust accuracy"


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Steps(nn.Module):
    """Inputs in steps: the gradient is 0 wherever there is one."""

    def forward(self, x):
        return (8 * x).round() / 8


class Shattered(nn.Module):
    """A ripple that is too fine to see in the scores and rules the gradient."""

    def forward(self, x):
        return x + 1e-3 * torch.sin(1e5 * x)


def honest(width=20, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, classes))
    x = torch.randn(100, width, generator=torch.Generator().manual_seed(1))
    return net, x, net(x).argmax(1)


def test_an_honest_net_raises_no_flag():
    net, x, y = honest()
    found = attack_curve(net, x, y, (0.05, 0.1, 0.2), **CHEAP)
    assert found.flags == {} and found.checks["zero_gradient_margin"] == 0.0
    assert found.checks["margin_gain_pgd"] >= found.checks["margin_gain_black_box"] > 0


@pytest.mark.parametrize(("name", "hide", "flags"), [
    ("saturated scores", lambda net: nn.Sequential(net, Times(1e6)), {"zero_gradient", "plateau"}),
    ("saturated softmax", lambda net: nn.Sequential(net, Times(1e4), nn.Softmax(1)), {"zero_gradient"}),
    ("inputs in steps", lambda net: nn.Sequential(Steps(), net), {"zero_gradient", "black_box", "plateau"}),
    ("shattered gradients", lambda net: nn.Sequential(Shattered(), net), {"black_box"}),
], ids=lambda v: v if isinstance(v, str) else "")  # fmt: skip
def test_a_net_that_hides_its_gradient_is_flagged_and_has_no_robust_accuracy(name, hide, flags):
    net, x, y = honest()
    found = attack_curve(hide(net).eval(), x, y, (0.05, 0.1, 0.2), **CHEAP)
    assert found.masked and flags <= set(found.flags)
    assert "upper bound only" in found.standing and all(f in found.standing for f in found.flags)
    assert not any(k.startswith("robust_accuracy") for k in found.metrics())
    assert any(k.startswith("accuracy_bound_linf") for k in found.metrics())
    assert all(r[-1].startswith("upper bound only") for r in found.table().rows[1:])


def test_an_attack_carried_over_from_an_open_twin_breaks_a_net_that_hides_its_gradient():
    net, x, y = honest()
    hidden = nn.Sequential(Steps(), net)
    found = attack_curve(hidden, x, y, (0.1, 0.2), twin=net, **CHEAP)
    assert "transfer" in found.flags and found.accuracy["transfer"][2] < found.accuracy["pgd"][2] - 0.3
    assert found.accuracy["worst"][2] <= found.accuracy["transfer"][2]
    alike = attack_curve(net, x, y, (0.1, 0.2), twin=nn.Sequential(nn.Linear(20, 3)), **CHEAP)
    assert "transfer" in alike.accuracy and "transfer" not in alike.flags


def test_a_net_with_adaptive_steps_is_flagged_and_attacked_through_a_fixed_grid_too():
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    net = nets.resnet(3, 2, width=3, steps=1)
    y = net(x).argmax(1)
    found = attack_curve(net.with_integrator("bosh3"), x, y, (0.3,), steps=2, queries=3)
    assert set(found.flags) >= {"adaptive"} and "fixed_grid" in found.accuracy
    fixed = attack_curve(net.with_integrator("bosh3", 4), x, y, (0.3,), steps=2, queries=3)
    assert "adaptive" not in fixed.flags and "fixed_grid" not in fixed.accuracy


def test_what_follows_another_model_is_judged_by_the_attacked_one():
    net, x, y = linear()
    away = nn.Linear(5, 2).double()
    with torch.no_grad():
        away.weight.copy_(-net.weight)
    wrong = pgd(net, x, y, 0.3, through=away)
    assert torch.equal(wrong, x)  # every point met was worse than the start
    assert not torch.equal(pgd(net, x, y, 0.3, through=net), x)


def test_restarts_only_ever_find_more():
    net, x, y = honest()
    one, many = (margin(scores(net, pgd(net, x, y, 0.1, steps=2, restarts=k)), y) for k in (1, 4))
    assert bool((many <= one).all()) and bool((many < one).any())


def test_a_black_box_that_breaks_others_but_fewer_is_not_stronger():
    one = torch.tensor([[False] * 4, [True, True, False, False]])
    other = torch.tensor([[False] * 4, [False, True, True, True]])
    assert masking._excess(one, other) == 0 and masking._excess(other, one) == 1


def test_radii_are_relative_to_the_spread_of_the_data():
    x = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    s = float(x.std())
    assert radii_for(x, (0.1, 0.5)) == pytest.approx((0.1 * s, 0.5 * s))
    assert radii_for(x, (0.1,), "l2") == pytest.approx((0.1 * s * 2**0.5,))


VECTOR = [n for n in NETS.names() if NETS.get(n).takes == "vector"]


@pytest.mark.parametrize("name", VECTOR)
def test_every_net_on_vectors_can_be_attacked(name):
    options = {} if name in ("mlp", "perceptron") else {"width": 4, "steps": 2}
    net = on_fixed_grid(NETS.get(name)(dim_in=3, dim_out=2, **options), 1)
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    before = [p.clone() for p in net.parameters()]
    found = attack_curve(net, x, net(x).argmax(1), (0.1, 0.3), steps=2, queries=3)
    assert found.accuracy["worst"][0] == 1.0 and 0.0 <= found.area["worst"] <= 1.0
    assert all(torch.equal(p, q) and p.requires_grad and p.grad is None for p, q in zip(net.parameters(), before))


def test_an_image_net_is_attacked_flat_or_not():
    net = nets.cnn(channels=1, classes=3, size=4, widths=(2,), hidden=())
    x = torch.rand(10, 16, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    flat = attack_curve(net, x, y, (0.2,), image=(1, 4, 4), box=(0.0, 1.0), **CHEAP)
    whole = attack_curve(net, x.reshape(10, 1, 4, 4), y, (0.2,), box=(0.0, 1.0), **CHEAP)
    assert flat.accuracy == whole.accuracy
