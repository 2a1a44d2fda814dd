"""Schedules against torch's own schedulers; the range test against a known stability limit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from odenet.errors import BadInput, UnknownName
from odenet.train.schedules import SCHEDULES, lr_range_test, schedule

STEPS = 40


def rates(make, lr=0.3):
    opt = torch.optim.SGD(
        [
            nn.Parameter(torch.zeros(1)),
        ],
        lr=lr,
    )
    s = make(opt)
    seen = []
    for _ in range(STEPS):
        seen.append(opt.param_groups[0]["lr"])
        opt.step()
        s.step()
    return seen


def one_cycle(opt):
    return lr_scheduler.OneCycleLR(opt, 0.3, total_steps=STEPS + 1, cycle_momentum=False)


TORCH = {
    "constant": lambda opt: lr_scheduler.ConstantLR(opt, factor=1.0),
    "step": lambda opt: lr_scheduler.MultiStepLR(opt, [20, 30], gamma=0.1),
    "exponential": lambda opt: lr_scheduler.ExponentialLR(opt, 0.01 ** (1 / STEPS)),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, STEPS),
    "one_cycle": one_cycle,
    "warmup_cosine": lambda opt: lr_scheduler.SequentialLR(
        opt,
        [
            lr_scheduler.LinearLR(opt, 0.25, 1.0, total_iters=3),
            lr_scheduler.CosineAnnealingLR(opt, STEPS - 4),
        ],
        milestones=[4],
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's own SequentialLR
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_equals_torchs_own(name):
    steps = STEPS + 1 if name == "one_cycle" else STEPS
    ours = rates(lambda opt: schedule(name, opt, steps))
    assert ours == pytest.approx(rates(TORCH[name]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_of_short_and_overlong_runs_stay_between_zero_and_one(name, steps):
    values = [SCHEDULES[name](k, steps) for k in range(2 * steps + 1)]
    assert all(0.0 <= v <= 1.0 + 1e-12 for v in values) and max(values) > 0


def test_a_schedule_scales_every_group_and_resumes_from_its_state():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def make():
        opt = torch.optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}])
        return opt, schedule("cosine", opt, 10, final=0.5)

    opt, s = make()
    for _ in range(5):
        opt.step()
        s.step()
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([0.75, 0.075])
    again, t = make()
    again.load_state_dict(opt.state_dict())
    t.load_state_dict(s.state_dict())
    for o, x in ((opt, s), (again, t)):
        o.step()
        x.step()
    assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in again.param_groups]


def test_unknown_names_and_options_are_refused():
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(UnknownName, match="did you mean 'cosine'"):
        schedule("cosin", opt, 10)
    with pytest.raises(BadInput, match="options warmup, final"):
        schedule("warmup_cosine", opt, 10, warm=0.1)
    with pytest.raises(BadInput, match="steps >= 1"):
        schedule("cosine", opt, 0)


def regression(n=128):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=g)
    return x, x @ torch.randn(5, 1, generator=g) + 0.1 * torch.randn(n, 1, generator=g)


def test_the_range_test_stops_near_the_stability_limit_of_gradient_descent():
    """Full-batch least squares is stable for lr < 2 / largest eigenvalue of the Hessian (2/n) X'X."""
    x, y = regression()
    net = nn.Linear(5, 1, bias=False)
    nn.init.zeros_(net.weight)
    limit = 2 / torch.linalg.eigvalsh(2 * x.T @ x / len(x)).max().item()
    result = lr_range_test(net, x, y, "mse", low=1e-3, high=1e3, steps=120, batch=128)
    assert limit < result.lrs[-1] < 20 * limit
    assert 1e-3 < result.suggestion < limit
    assert len(result.lrs) == len(result.losses) and all(math.isfinite(v) for v in result.losses)
    assert result.lrs == sorted(result.lrs)


def test_the_range_test_leaves_net_and_random_state_as_they_were():
    x, y = regression()
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)).eval()
    net(x).sum().backward()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    grads = [p.grad.clone() for p in net.parameters()]
    state = torch.get_rng_state()
    a, b = (lr_range_test(net, x, y, "mse", steps=20, optimizer=torch.optim.Adam, seed=1) for _ in range(2))
    assert a == b
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads))
    assert torch.equal(state, torch.get_rng_state()) and not net.training


def test_the_range_test_refuses_nonsense():
    x, y = regression()
    net = nn.Linear(5, 1)
    with pytest.raises(BadInput, match="0 < low < high"):
        lr_range_test(net, x, y, "mse", low=1.0, high=0.1)
    with pytest.raises(BadInput, match="not finite already"):
        lr_range_test(net, x * math.nan, y, "mse")
