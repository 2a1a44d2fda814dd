"""Batch norm and dropout inside flows: forward writes nothing, masks live for a knot interval, recomputation agrees."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from odenet.fields import Conv, Free, Parabolic, SecondOrder, SeparableHamiltonian

pytestmark = pytest.mark.usefixtures("double")


def normalised(flow: on.Flow, y: Tensor, n: int = 0) -> tuple[Tensor, nn.BatchNorm1d]:
    """K y of interval n, and torch's own batch norm with the flow's scale and shift."""
    w = flow.weights
    oracle = nn.BatchNorm1d(w["K"].shape[1], momentum=None)  # None: plain averages over the batches seen
    with torch.no_grad():
        oracle.weight.copy_(w["scale"][n])
        oracle.bias.copy_(w["shift"][n])
    return y @ w["K"][n].T, oracle


def shaken(flow: on.Flow) -> on.Flow:
    """Scales and shifts away from 1 and 0."""
    with torch.no_grad():
        for w in flow.parameters():
            w.add_(0.2 * torch.randn_like(w))
    return flow


def test_training_uses_batch_statistics_and_evaluation_running_ones() -> None:
    flow = shaken(on.Flow(Free(4, norm="batch"), "euler", steps=1))
    y = 2.0 + 3.0 * torch.randn(32, 4)
    z, oracle = normalised(flow, y)
    torch.testing.assert_close(flow(y), y + torch.tanh(oracle(z)), rtol=1e-12, atol=1e-12)
    flow.eval(), oracle.eval()
    fresh = torch.tanh(z * torch.rsqrt(torch.tensor(1.0 + 1e-5)) * flow.weights["scale"][0] + flow.weights["shift"][0])
    torch.testing.assert_close(flow(y), y + fresh, rtol=1e-12, atol=1e-12)  # running mean 0 and variance 1 so far
    on.calibrate(flow, [y])
    with torch.no_grad():
        oracle.running_var.mul_(31 / 32)  # torch keeps the unbiased variance
    torch.testing.assert_close(flow(y), y + torch.tanh(oracle(z)), rtol=1e-12, atol=1e-12)


def test_calibrate_is_the_mean_over_all_samples_whatever_the_batches() -> None:
    flow = shaken(on.Flow(Free(4, norm="batch"), "euler", steps=1))
    y = 1.0 + 2.0 * torch.randn(96, 4)
    on.calibrate(flow, y.split(40))
    z, _ = normalised(flow, y)
    torch.testing.assert_close(flow.stat_mean[0], z.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow.stat_var[0], z.var(0, correction=0), rtol=1e-12, atol=1e-12)


def test_calibrate_learns_every_layer_and_every_stage() -> None:
    """With heun both stages of a step share statistics: their mean is the mean over both."""
    flow = shaken(on.Flow(Free(3, norm="batch"), "heun", steps=2))
    y = torch.randn(64, 3)
    on.calibrate(flow, [y])
    state = y
    for n in range(2):
        z, oracle = normalised(flow, state, n)
        k1 = torch.tanh(oracle(z))
        z2, _ = normalised(flow, state + 0.5 * k1, n)
        k2 = torch.tanh(oracle(z2))
        both = torch.stack((z, z2))
        torch.testing.assert_close(flow.stat_mean[n], both.mean((0, 1)), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(flow.stat_var[n], both.var((0, 1), correction=0), rtol=1e-11, atol=1e-11)
        state = state + 0.25 * (k1 + k2)


@pytest.mark.parametrize("field", [
    lambda: Free(4, norm="batch"), lambda: Parabolic(4, norm="batch", hidden=6),
    lambda: SeparableHamiltonian(4, norm="batch"), lambda: SecondOrder(4, norm="batch"),
])  # fmt: skip
@pytest.mark.parametrize("gradient", ["autograd", "checkpoint", "discrete"])
def test_a_forward_and_a_backward_pass_change_no_statistics(field: object, gradient: str) -> None:
    flow = on.Flow(field(), "rk4", steps=3, gradient=gradient)  # type: ignore[operator]
    y = torch.randn(16, 4)
    before = copy.deepcopy(flow.state_dict())
    first = flow(y)
    first.sum().backward()
    assert torch.equal(flow(y), first)
    after = flow.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert any(k.startswith("stat_") for k in before)
    on.calibrate(flow, [y])
    assert all(not torch.equal(before[k], v) for k, v in flow.state_dict().items() if k.startswith("stat_"))


def test_statistics_are_buffers_and_not_trained() -> None:
    flow = on.Flow(SeparableHamiltonian(4, norm="batch"), "verlet", steps=3)
    assert sorted(n for n, _ in flow.named_buffers()) == ["stat_mean1", "stat_mean2", "stat_var1", "stat_var2"]
    assert not any("mean" in n or "var" in n for n, _ in flow.named_parameters())


def test_batch_norm_on_images_normalises_every_channel_as_torch_does() -> None:
    flow = shaken(on.Flow(Parabolic(3, map=Conv(3, 5, 3, 2), norm="batch"), "euler", steps=1))
    y, w = torch.randn(4, 3, 6, 5), flow.weights
    oracle = nn.BatchNorm2d(5)
    with torch.no_grad():
        oracle.weight.copy_(w["scale"][0])
        oracle.bias.copy_(w["shift"][0])
    z = torch.tanh(oracle(nn.functional.conv2d(y, w["K"][0], padding=1)))
    by_hand = y - nn.functional.conv_transpose2d(z, w["K"][0], padding=1)
    torch.testing.assert_close(flow(y), by_hand, rtol=1e-11, atol=1e-12)


# ---- dropout -------------------------------------------------------------------------------------------------------


class Recorder:
    """Masks that the stages of a flow saw."""

    def __init__(self, flow: on.Flow, y: Tensor) -> None:
        self.theta = flow.theta(y)
        self.pieces = flow.march.pieces(self.theta)
        self.rhs = [flow.march.rhs(n, piece) for n, piece in enumerate(self.pieces)]


def test_one_mask_serves_all_stages_of_a_knot_interval_and_the_next_one_has_its_own() -> None:
    flow = on.Flow(Free(50, dropout=0.5), "rk4", steps=3, substeps=2)
    y = torch.randn(40, 50)
    masks = [rhs.mask for rhs in Recorder(flow, y).rhs]
    assert all(m.shape == y.shape and set(m.unique().tolist()) == {0.0, 2.0} for m in masks)
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    torch.manual_seed(5)
    out = flow.trajectory(y)
    torch.manual_seed(5)
    masks = [rhs.mask for rhs in Recorder(flow, y).rhs]
    for n in range(3):
        K, b, state, h = flow.weights["K"][n], flow.weights["b"][n], out[n], 1 / 6

        def f(x: Tensor, K: Tensor = K, b: Tensor = b, n: int = n) -> Tensor:
            return masks[n] * torch.tanh(x @ K.T + b)

        for _ in range(2):
            k1 = f(state)
            k2 = f(state + h / 2 * k1)
            k3 = f(state + h / 2 * k2)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(state + h * k3))
        torch.testing.assert_close(out[n + 1], state, rtol=1e-12, atol=1e-12)
        dropped = (masks[n] == 0) & (out[n + 1] != out[n])
        assert not dropped.any()  # a dropped entry stands still through the whole interval


def test_a_mask_has_expectation_one_and_the_stated_rate() -> None:
    flow = on.Flow(Free(100, dropout=0.3), "euler", steps=4)
    mask = flow.theta(torch.zeros(500, 100))[next(k for k in flow.theta(torch.zeros(1, 100)) if k not in ("K", "b"))]
    assert mask.shape == (4, 500, 100)
    n = mask.numel()
    assert abs(float(mask.mean()) - 1.0) < 4 * (0.3 / 0.7 / n) ** 0.5
    assert abs(float((mask == 0).double().mean()) - 0.3) < 4 * (0.21 / n) ** 0.5
    torch.testing.assert_close(mask.max(), torch.tensor(1 / 0.7))


def test_evaluation_drops_nothing_and_the_seed_fixes_the_masks() -> None:
    flow, y = on.Flow(Free(6, dropout=0.5), "rk4", steps=3), torch.randn(8, 6)
    plain = on.Flow(Free(6), "rk4", steps=3)
    plain.load_state_dict(flow.state_dict())
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(flow(y))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    assert torch.equal(flow.eval()(y), plain(y))


@pytest.mark.parametrize(("field", "integrator", "gradient"), [
    (lambda **o: Free(4, norm="batch", **o), "rk4", "checkpoint"),
    (lambda **o: Free(4, norm="batch", **o), "rk4", "discrete"),
    (lambda **o: Free(4, norm="batch", **o), "ab2", "checkpoint"),
    (lambda **o: Free(4, norm="batch", **o), "momentum", "reversible"),
    (lambda **o: SeparableHamiltonian(4, norm="batch", **o), "verlet", "reversible"),
    (lambda **o: SeparableHamiltonian(4, norm="batch", **o), "symplectic_euler", "checkpoint"),
    (lambda **o: SecondOrder(4, norm="batch", **o), "leapfrog", "reversible"),
    (lambda **o: SecondOrder(4, norm="batch", **o), "verlet", "reversible"),
])  # fmt: skip
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_recomputed_gradients_equal_autograd_with_batch_norm_and_dropout_in_training(
    field: object, integrator: str, gradient: str, dropout: float
) -> None:
    y, found = torch.randn(12, 4), {}
    for name in ("autograd", gradient):
        flow = on.Flow(field(dropout=dropout), integrator, steps=4, gradient=name, seed=1)  # type: ignore[operator]
        x = y.clone().requires_grad_()
        torch.manual_seed(3)
        out = flow(x)
        (out**2).sum().backward()
        found[name] = [out.detach(), x.grad, *(p.grad for p in flow.parameters())]
    assert len(found[gradient]) >= 5  # output, input, K, scale, shift
    for a, b in zip(found["autograd"], found[gradient], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
