"""Image nets: published parameter counts, and each layer against a loop written by hand from its paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import odenet as on
from nets_examples import count, shaken
from odenet.errors import BadInput
from odenet.fields import Conv, Residual
from odenet.nets.images import Downsample
from odenet.nets.stages import DIGITS, PRESETS

pytestmark = pytest.mark.usefixtures("double")


# ------------------------------------------------------------------------------------------------ published counts

COUNTS = {  # Ruthotto & Haber 2020, table 1: STL-10, CIFAR-10, CIFAR-100
    "parabolic_cnn": (618_554, 502_570, 652_484),
    "hamiltonian_cnn": (324_794, 264_106, 362_180),
    "second_order_cnn": (618_554, 502_570, 652_484),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_nets_of_ruthotto_and_haber_have_as_many_weights_as_published(name: str) -> None:
    nets = [on.nets.get(name)(preset=p) for p in ("stl10", "cifar10", "cifar100")]
    assert tuple(map(count, nets)) == COUNTS[name]


def resnet_count(n: int, form: str, classes: int = 10, widths: tuple[int, ...] = (16, 32, 64)) -> int:
    """Convolutions without bias, two numbers for a batch norm per channel, shortcuts without weights."""
    total, before = 9 * 3 * widths[0] + (2 * widths[0] if form == "v1" else 2 * widths[-1]), widths[0]
    for c in widths:
        for block in range(n):
            cols = before if block == 0 else c
            total += 9 * cols * c + 9 * c * c + (4 * c if form == "v1" else 2 * cols + 2 * c)
        before = c
    return total + classes * (widths[-1] + 1)


@pytest.mark.parametrize("form", ["v1", "preactivation"])
@pytest.mark.parametrize(("layers", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_residual_nets_have_as_many_weights_as_published(layers: int, millions: float, form: str) -> None:
    net = on.nets.get(f"resnet{layers}")(preset="cifar10", form=form)
    assert count(net) == resnet_count((layers - 2) // 6, form)
    assert round(count(net) / 1e6, 1 if layers == 110 else 2) == millions  # He et al. 2016, table 6


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110])
def test_an_lm_resnet_has_one_weight_more_for_every_step_of_a_flow(layers: int) -> None:
    n = (layers - 2) // 6
    more = count(on.nets.get(f"lm_resnet{layers}")(preset="cifar10")) - resnet_count(n, "preactivation")
    assert more == n + 2 * (n - 1)


# ------------------------------------------------------------------------------------------------------ the layers


def norm(z: Tensor, p: dict[str, Tensor], tag: str = "") -> Tensor:
    """Eq. 9 of Ruthotto & Haber, with a scale and a shift for each channel."""
    z = z / torch.sqrt((z**2).sum(1, keepdim=True) + 1e-3)
    return z * p["scale" + tag][:, None, None] + p["shift" + tag][:, None, None]


def force(y: Tensor, p: dict[str, Tensor], tag: str = "") -> Tensor:
    """F_sym = -K^T s(N(K y)), eq. 7."""
    K = p["K" + tag]
    return -F.conv_transpose2d(torch.relu(norm(F.conv2d(y, K, padding=1), p, tag)), K, padding=1)


def parabolic(y: Tensor, p: list[dict[str, Tensor]]) -> Tensor:
    for q in p:
        y = y + force(y, q)
    return y


def second_order(y: Tensor, p: list[dict[str, Tensor]]) -> Tensor:
    before = y
    for q in p:
        y, before = 2 * y - before + force(y, q), y
    return y


def hamiltonian(y: Tensor, p: list[dict[str, Tensor]]) -> Tensor:
    z, q = y.chunk(2, dim=1)
    for w in p:  # eq. 10, Y + F(Z) first, then Z - F(Y), with the halves of the channels called (Z, Y)
        q = q + force(z, w, "2")
        z = z - force(q, w, "1")
    return torch.cat((z, q), 1)


def pieces(flow: on.Flow) -> list[dict[str, Tensor]]:
    return [{k: w[n] for k, w in flow.weights.items()} for n in range(flow.steps)]


@pytest.mark.parametrize(("name", "loop"), [
    ("parabolic_cnn", parabolic), ("second_order_cnn", second_order), ("hamiltonian_cnn", hamiltonian),
])  # fmt: skip
def test_a_net_of_ruthotto_and_haber_is_the_loop_of_its_equations(name: str, loop: Any) -> None:
    net = shaken(on.nets.get(name)(channels=2, classes=3, size=6, widths=(4, 6, 8)))
    x = torch.randn(3, 2, 6, 6)
    first, *rest = (p for p in net.parts if not isinstance(p, on.nets.baselines.AsImage))
    y = torch.relu(first[1](F.conv2d(x, first[0].weight, padding=1)))
    for flow, join in zip(rest[0:-1:2], rest[1:-1:2]):
        y = loop(y, pieces(flow))
        y = torch.relu(join.norm(F.conv2d(y, join.conv.weight)))
        y = F.avg_pool2d(y, 2) if join is not rest[-2] else y
    scores = y.mean((2, 3)) @ rest[-1][2].weight.T + rest[-1][2].bias
    torch.testing.assert_close(net(x), scores, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(x.flatten(1)), scores, rtol=1e-12, atol=1e-12)


def batch_norm(z: Tensor, flow: on.Flow, n: int, tag: str) -> Tensor:
    w = flow.weights
    mean, var = (getattr(flow, f"stat_{s}{tag}")[n] for s in ("mean", "var"))
    return F.batch_norm(z, mean, var, w["scale" + tag][n], w["shift" + tag][n], False)


def conv(y: Tensor, K: Tensor, **options: Any) -> Tensor:
    return F.conv2d(y, K, padding=1, **options)


def basic_block(flow: on.Flow, n: int, y: Tensor, form: str) -> Tensor:
    K1, K2 = flow.weights["K1"][n], flow.weights["K2"][n]
    if form == "v1":
        return batch_norm(conv(torch.relu(batch_norm(conv(y, K1), flow, n, "1")), K2), flow, n, "2")
    z = conv(torch.relu(batch_norm(y, flow, n, "1")), K1)
    return conv(torch.relu(batch_norm(z, flow, n, "2")), K2)


def strided_block(part: Downsample, y: Tensor, form: str) -> Tensor:
    b = part.branch
    short = torch.cat((y[:, :, ::2, ::2], torch.zeros_like(y)[:, :, ::2, ::2]), 1)
    if form == "v1":
        z = b[4](conv(torch.relu(b[1](conv(y, b[0].weight, stride=2))), b[3].weight))
        return torch.relu(short + z)
    return short + conv(torch.relu(b[3](conv(torch.relu(b[0](y)), b[2].weight, stride=2))), b[5].weight)


@pytest.mark.parametrize("form", ["v1", "preactivation"])
def test_a_residual_net_is_the_loop_of_its_blocks(form: str) -> None:
    net = shaken(on.nets.resnet20(channels=2, classes=3, size=8, widths=(4, 8, 16), form=form))
    x, parts = torch.randn(2, 2, 8, 8), list(net.parts)[1:]
    y = conv(x, parts[0][0].weight if form == "v1" else parts[0].weight)
    y = torch.relu(parts[0][1](y)) if form == "v1" else y
    for part in parts[1:-1]:
        if isinstance(part, on.Flow):
            for n in range(part.steps):
                y = y + basic_block(part, n, y, form)
                y = torch.relu(y) if form == "v1" else y
        elif isinstance(part, Downsample):
            y = strided_block(part, y, form)
    y = torch.relu(parts[-2][0](y)) if form == "preactivation" else y
    scores = y.mean((2, 3)) @ parts[-1][2].weight.T + parts[-1][2].bias
    torch.testing.assert_close(net(x), scores, rtol=1e-12, atol=1e-12)


def test_an_lm_resnet_is_lus_recursion_in_every_stage() -> None:
    net = shaken(on.nets.lm_resnet20(channels=1, classes=3, size=8, widths=(4, 8, 16)))
    y = torch.randn(2, 4, 8, 8)
    flow = next(net.flows())
    k, states = flow.coefficients["k"], [y, y + basic_block(flow, 0, y, "preactivation")]
    for n in (1, 2):
        y, before = states[-1], states[-2]
        states.append((1 - k[n]) * y + k[n] * before + basic_block(flow, n, y, "preactivation"))
    assert k.shape == (3,) and bool(k.abs().gt(0).all())
    torch.testing.assert_close(flow.trajectory(states[0]), torch.stack(states), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["v1", "preactivation"])
def test_a_bottleneck_with_groups_is_that_of_torch(form: str) -> None:
    field = Residual(8, form=form, kernels=(1, 3, 1), hidden=4, groups=2, norm="none")
    p, y = field.init(torch.Generator().manual_seed(0)), torch.randn(2, 8, 5, 5)
    assert [tuple(p[f"K{i}"].shape) for i in (1, 2, 3)] == [(4, 8, 1, 1), (4, 2, 3, 3), (8, 4, 1, 1)]
    z = y if form == "v1" else torch.relu(y)
    z = torch.relu(F.conv2d(z, p["K1"]))
    z = torch.relu(F.conv2d(z, p["K2"], padding=1, groups=2))
    torch.testing.assert_close(field(0.0, y, p), F.conv2d(z, p["K3"]), rtol=1e-12, atol=1e-12)


def test_a_convolution_in_groups_has_its_transpose_and_its_norm() -> None:
    map, K = Conv(4, 6, 3, 2, groups=2), torch.randn(6, 2, 3, 3)
    y, z = torch.randn(1, 4, 5, 5), torch.randn(1, 6, 5, 5)
    assert float((map.apply(K, y) * z).sum()) == pytest.approx(float((y * map.transpose(K, z)).sum()), rel=1e-12)
    parts = [Conv(2, 3, 3, 2).norm(K[i : i + 3]) for i in (0, 3)]
    assert float(map.norm(K)) == pytest.approx(float(max(parts)), rel=1e-12)
    with pytest.raises(BadInput, match="groups=3"):
        Conv(4, 6, 3, 2, groups=3)


# ----------------------------------------------------------------------------------------------- stochastic depth


def test_dropped_layers_are_whole_samples_and_the_mean_slope_is_that_of_the_full_net() -> None:
    flow = on.Flow(Residual(2, norm="none"), "euler", steps=4, survival=(1.0, 0.4)).train()
    torch.manual_seed(0)
    mask = torch.stack([flow.theta(torch.ones(64, 2, 3, 3))["mask"] for _ in range(60)])  # (60, N, 64, 2, 3, 3)
    values = mask.flatten(3)
    assert torch.equal(values.amin(3), values.amax(3))
    rates = torch.tensor([1.0, 0.8, 0.6, 0.4])
    kept = (values[..., 0] > 0).double().mean((0, 2))
    error = 4 * torch.sqrt(rates * (1 - rates) / (60 * 64))
    assert bool(((kept - rates).abs() <= error).all())
    torch.testing.assert_close(values[..., 0].amax((0, 2)), 1 / rates)
    assert "mask" not in flow.eval().theta(torch.ones(1, 2, 3, 3))


def test_the_rates_of_a_net_fall_linearly_over_all_its_layers() -> None:
    net = on.nets.resnet20(channels=1, classes=3, size=8, widths=(4, 8, 16), survival=0.5)
    kept = torch.cat([torch.linspace(*f.survival, f.steps) for f in net.flows()])
    linear = 1 - 0.5 * torch.arange(9) / 8
    torch.testing.assert_close(kept, linear[[0, 1, 2, 4, 5, 7, 8]].to(kept), rtol=1e-12, atol=1e-12)
    single = on.nets.resnet20(channels=1, classes=3, size=8, widths=(4, 8, 16), survival=0.5, form="v1")
    torch.testing.assert_close(torch.tensor([f.survival[0] for f in single.flows()]), kept.to(torch.float64))
    with pytest.raises(BadInput, match="survival"):
        on.Flow(Residual(2), survival=0.0)


# -------------------------------------------------------------------------------------------------------- the words


def test_what_cannot_be_an_image_net_is_said_in_one_sentence() -> None:
    for words, told in (
        ({"preset": "mnist"}, "preset 'mnist' is not known"),
        ({"widths": ()}, "widths of an image net"),
        ({"size": 2, "widths": (4, 8, 8)}, "cannot be halved between 3 blocks"),
        ({"classes": 0}, "classes of an image net"),
    ):
        with pytest.raises(BadInput, match=told):
            on.nets.parabolic_cnn(**words)
    with pytest.raises(BadInput, match="takes images"):
        on.nets.parabolic_cnn()(torch.randn(3, 63))
    with pytest.raises(BadInput, match="form 'v3'"):
        on.nets.resnet20(form="v3")
    with pytest.raises(BadInput, match="16 channels were asked to become 8"):
        on.nets.resnet20(widths=(16, 8))


def test_numbers_given_beside_a_preset_replace_its_own() -> None:
    assert PRESETS["cifar10"].widths == (32, 64, 112) and DIGITS.size == 8
    net = on.nets.parabolic_cnn(preset="cifar10", classes=7, widths=(4, 6))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", [*COUNTS, "resnet20", "lm_resnet20"])
def test_an_image_net_takes_other_integrators_and_all_gradients_agree(name: str) -> None:
    words: dict[str, Any] = {"channels": 1, "classes": 3, "size": 4, "widths": (4, 6)}
    x, y = torch.randn(5, 16), torch.tensor([0, 1, 2, 0, 1])
    found = []
    for gradient in (
        "autograd",
        "discrete",
        *(["reversible"] if name in ("hamiltonian_cnn", "second_order_cnn") else []),
    ):
        net = on.nets.get(name)(**words, gradient=gradient).double()
        F.cross_entropy(net(x), y).backward()
        found.append([p.grad for p in net.parameters()])
    for other in found[1:]:
        for a, b in zip(found[0], other):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    twin = net.with_integrator("rk4")
    assert twin(x).shape == (5, 3) and count(twin) <= count(net)
