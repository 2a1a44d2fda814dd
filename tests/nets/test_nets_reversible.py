"""Reversible image nets against loops written from the papers' formulas, their transfers, and what they store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput
from odenet.fields import Coupling, Parabolic, Residual
from odenet.flow import Chain, Flow
from odenet.nets import Connector, Haar, PadChannels, Pool, SpaceToDepth
from odenet.stability.unroll import unroll
from odenet.testing import check_field

NETS = ("revnet", "momentum_cnn", "hamiltonian_reversible_cnn", "midpoint_cnn", "leapfrog_cnn", "hyperbolic_cnn")


def net(name: str, **options: Any) -> Chain:
    """Two blocks on 1 x 8 x 8 images, with weights that no initialisation gives."""
    shape = {"width": 4} if name == "hyperbolic_cnn" else {"widths": (4, 8)}
    made = on.nets.get(name)(**{"classes": 3, "steps": 3, **shape, **options})
    torch.manual_seed(11)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


# ---- transfers -----------------------------------------------------------------------------------------------------


def matrix(map: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    size = torch.Size(shape).numel()
    return map(torch.eye(size).reshape(size, *shape)).flatten(1).T


def test_haar_is_orthogonal_and_has_the_rows_that_were_written_by_hand(double: None) -> None:
    H = matrix(Haar(), 2, 4, 4)
    torch.testing.assert_close(H.T @ H, torch.eye(32), rtol=0.0, atol=1e-15)
    y = torch.arange(16.0).reshape(4, 4)
    for k, signs in enumerate(((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))):
        for i, j in ((0, 0), (0, 1), (1, 1)):
            row = torch.zeros(2, 4, 4)
            row[1, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = 0.5 * torch.tensor(signs).reshape(2, 2)
            assert torch.equal(H.reshape(2, 4, 2, 2, 32)[1, k, i, j], row.flatten())
    assert float(Haar()(y[None, None])[0, 0, 0, 0]) == (0 + 1 + 4 + 5) / 2
    D = matrix(Haar(1), 1, 6)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) * 2**-0.5
    torch.testing.assert_close(D, torch.kron(torch.eye(3), pair).reshape(3, 2, 6).movedim(0, 1).reshape(6, 6))


def test_haar_is_a_strided_convolution_with_the_four_filters_in_every_channel(double: None) -> None:
    a, b = torch.tensor([1.0, 1.0]) * 2**-0.5, torch.tensor([1.0, -1.0]) * 2**-0.5
    filters = torch.stack([torch.outer(r, c) for r in (a, b) for c in (a, b)]).unsqueeze(1)
    y = torch.randn(3, 5, 8, 6)
    torch.testing.assert_close(
        Haar()(y), F.conv2d(y, filters.repeat(5, 1, 1, 1), stride=2, groups=5), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("make", [Haar, SpaceToDepth])
@pytest.mark.parametrize("dims", [1, 2])
def test_coarsening_is_undone_and_keeps_norms_and_halves(make: Any, dims: int, double: None) -> None:
    transfer, y = make(dims), torch.randn(2, 6, *[8] * dims)
    coarse = transfer(y)
    assert coarse.shape == (2, 6 * 2**dims, *[4] * dims)
    torch.testing.assert_close(coarse.norm(), y.norm())
    back = transfer.inverse(coarse)
    assert torch.equal(back, y) if make is SpaceToDepth else float((back - y).abs().max()) < 1e-14
    assert torch.equal(coarse.chunk(2, 1)[0], transfer(y[:, :3]))
    assert [t.shape for t in transfer.across(y, (y, y))[1]] == []
    assert torch.equal(make(dims, history="map").across(y, (2 * y,))[1][0], 2 * coarse)
    if dims == 2 and make is SpaceToDepth:
        assert torch.equal(coarse, F.pixel_unshuffle(y, 2))


def test_channels_are_padded_in_place_or_half_by_half() -> None:
    y = torch.randn(2, 4, 6, 6)
    zeros = torch.zeros(2, 2, 6, 6)
    assert torch.equal(PadChannels(4, 8)(y), torch.cat((y, zeros, zeros), 1))
    assert torch.equal(PadChannels(4, 8, parts=2)(y), torch.cat((y[:, :2], zeros, y[:, 2:], zeros), 1))
    assert torch.equal(PadChannels(4, 6, stride=2)(y), torch.cat((y[:, :, ::2, ::2], zeros[:, :, ::2, ::2]), 1))


def test_pools_and_connectors_are_those_of_torch(double: None) -> None:
    y = torch.randn(5, 4, 6, 6)
    for kind, reference in (("average", nn.AvgPool2d(2)), ("max", nn.MaxPool2d(2))):
        assert torch.equal(Pool(kind)(y), reference(y))
    for halve in (True, False):
        connector = Connector(4, 7, halve=halve)
        assert sum(p.numel() for p in connector.parameters()) == 4 * 7 + 2 * 7
        z = torch.einsum("oi,bihw->bohw", connector.conv.weight[:, :, 0, 0], y)
        z = (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        z = z.clamp_min(0.0)
        z = z.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)) if halve else z
        torch.testing.assert_close(connector(y), z)


# ---- loops from the papers' formulas -------------------------------------------------------------------------------


def weights(flow: Flow, n: int) -> dict[str, Tensor]:
    return {k: w[n].detach() for k, w in flow.weights.items()}


def conv(y: Tensor, K: Tensor) -> Tensor:
    return F.conv2d(y, K, padding=1)


def back(z: Tensor, K: Tensor) -> Tensor:
    return F.conv_transpose2d(z, K, padding=1)


def tv(z: Tensor, p: dict[str, Tensor]) -> Tensor:
    z = z / torch.sqrt((z**2).sum(1, keepdim=True) + 1e-3)
    return z * p["scale"].reshape(-1, 1, 1) + p["shift"].reshape(-1, 1, 1)


def branch(x: Tensor, p: dict[str, Tensor], tag: str = "") -> Tensor:
    """conv relu bn conv relu bn, from right to left, with the statistics of the batch."""
    for k in ("1", "2"):
        x = F.batch_norm(x, None, None, p[f"{tag}scale{k}"], p[f"{tag}shift{k}"], training=True)
        x = conv(x.relu(), p[f"{tag}K{k}"])
    return x


def wave(y: Tensor, before: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
    for n in range(flow.steps):
        p = weights(flow, n)
        force = -back(tv(conv(y, p["K"]), p).relu(), p["K"])
        y, before = 2 * y - before + force, y
    return y, before


def revnet(y: Tensor, flow: Flow) -> Tensor:
    x2, x1 = y.chunk(2, 1)
    for n in range(flow.steps):
        p = weights(flow, n)
        x1 = x1 + branch(x2, p, "1_")
        x2 = x2 + branch(x1, p, "2_")
    return torch.cat((x2, x1), 1)


def momentum_cnn(x: Tensor, flow: Flow) -> Tensor:
    v = torch.zeros_like(x)
    for n in range(flow.steps):
        v = 0.9 * v + (1 - 0.9) * branch(x, weights(flow, n))
        x = x + v
    return x


def hamiltonian_reversible_cnn(y: Tensor, flow: Flow) -> Tensor:
    Y, Z = y.chunk(2, 1)
    for n in range(flow.steps):
        p = weights(flow, n)
        Z = Z - back((conv(Y, p["K2"]) + p["b2"].reshape(-1, 1, 1)).relu(), p["K2"])
        Y = Y + back((conv(Z, p["K1"]) + p["b1"].reshape(-1, 1, 1)).relu(), p["K1"])
    return torch.cat((Y, Z), 1)


def midpoint_cnn(y: Tensor, flow: Flow) -> Tensor:
    def f(y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return torch.tanh(conv(y, p["K"]) - back(y, p["K"]) + p["b"].reshape(-1, 1, 1))

    before, y = y, y + f(y, weights(flow, 0))
    for n in range(1, flow.steps):
        before, y = y, before + 2 * f(y, weights(flow, n))
    return y


def leapfrog_cnn(y: Tensor, flow: Flow) -> Tensor:
    before = y
    for n in range(flow.steps):
        p = weights(flow, n)
        force = back((conv(y, p["K"]) + p["b"].reshape(-1, 1, 1)).relu(), p["K"])
        before, y = y, 2 * y - before - force
    return y


BLOCKS: dict[str, Callable[[Tensor, Flow], Tensor]] = {
    "revnet": revnet, "momentum_cnn": momentum_cnn, "hamiltonian_reversible_cnn": hamiltonian_reversible_cnn,
    "midpoint_cnn": midpoint_cnn, "leapfrog_cnn": leapfrog_cnn,
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_the_loop_of_its_paper(name: str, double: None) -> None:
    made, y = net(name, steps=4), torch.randn(5, 1, 8, 8)
    for part in made.parts:
        out = part(y)
        if isinstance(part, Flow):
            torch.testing.assert_close(out, BLOCKS[name](y, part), rtol=1e-12, atol=1e-12)
        y = out.detach()
    assert sum(isinstance(p, Flow) for p in made.parts) == 2


@pytest.mark.parametrize(
    ("name", "halves"), [("hamiltonian_reversible_cnn", 2), ("midpoint_cnn", 1), ("leapfrog_cnn", 1)]
)
def test_blocks_are_joined_by_mean_pooling_and_zero_channels_in_every_half(
    name: str, halves: int, double: None
) -> None:
    made, y = net(name), torch.randn(5, 4, 8, 8)
    joint = made.parts[3:5]
    assert [type(part) for part in joint] == [Pool, PadChannels]
    pooled = y.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).chunk(halves, 1)
    wider = torch.cat([torch.cat((p, torch.zeros(5, 4 // halves, 4, 4)), 1) for p in pooled], 1)
    torch.testing.assert_close(joint[1](joint[0](y)), wider, rtol=0.0, atol=1e-15)


def test_the_hyperbolic_net_is_one_wave_through_all_its_grids(double: None) -> None:
    made, x = net("hyperbolic_cnn", levels=3, steps=2), torch.randn(5, 64)
    y = before = made.parts[1](x.reshape(5, 1, 8, 8))
    a = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) * 2**-0.5
    filters = torch.einsum("ki,lj->klij", a, a).reshape(4, 1, 2, 2)
    for k, flow in enumerate(made.flows()):
        if k:
            y, before = (
                F.conv2d(z, filters.repeat(z.shape[1], 1, 1, 1), stride=2, groups=z.shape[1]) for z in (y, before)
            )
        y, before = wave(y, before, flow)
    assert y.shape == (5, 64, 2, 2)
    scores = y.mean((2, 3)) @ made.parts[-1][-1].weight.T + made.parts[-1][-1].bias
    torch.testing.assert_close(made(x), scores, rtol=1e-12, atol=1e-12)


def test_the_weights_are_as_many_as_the_formulas_say() -> None:
    def count(name: str, **options: Any) -> int:
        return sum(p.numel() for p in on.nets.get(name)(**options).parameters())

    def ends(first: int, last: int) -> int:
        return 9 * 3 * first + 2 * first + 10 * (last + 1)

    blocks = {  # per step of width c
        "revnet": lambda c: 4 * (9 * (c // 2) ** 2 + c),
        "momentum_cnn": lambda c: 2 * (9 * c**2 + 2 * c),
        "hamiltonian_reversible_cnn": lambda c: 2 * (9 * (c // 2) ** 2 + c // 2),
        "midpoint_cnn": lambda c: 9 * c**2 + c,
        "leapfrog_cnn": lambda c: 9 * c**2 + c,
    }
    for name, one in blocks.items():
        expected = ends(32, 112) + 3 * sum(one(c) for c in (32, 64, 112))
        if name in ("revnet", "momentum_cnn"):  # residual blocks of stride 2, and the norm before the head
            expected += sum(9 * a * b + 9 * b * b + 2 * a + 2 * b for a, b in ((32, 64), (64, 112))) + 2 * 112
        assert count(name, preset="cifar10") == expected, name
    expected = ends(8, 128) + 3 * sum(9 * c**2 + 2 * c for c in (8, 32, 128))
    assert count("hyperbolic_cnn", preset="cifar10", width=8, levels=3) == expected


def test_the_coupling_of_two_gradients_is_the_two_layer_hamiltonian(double: None) -> None:
    first, second = Parabolic(3), Parabolic(3)
    field, reference = Coupling(first, second), on.fields.SeparableHamiltonian(6)
    p = field.init(torch.Generator().manual_seed(0))
    y = torch.randn(4, 6)
    q, momentum = y.chunk(2, 1)
    named = {"K1": p["2_K"], "b1": p["2_b"], "K2": p["1_K"], "b2": p["1_b"]}
    assert torch.equal(field.kick(0.0, q, p), reference.kick(0.0, q, named))
    assert torch.equal(field.drift(0.0, momentum, p), -reference.drift(0.0, momentum, named))
    assert torch.equal(field(0.0, y, p), torch.cat((field.drift(0.0, momentum, p), field.kick(0.0, q, p)), 1))


def test_couplings_pass_the_kit_and_keep_constraints_and_statistics_of_both() -> None:
    field = Coupling(on.fields.Antisymmetric(3, gamma=0.5), Parabolic(3, hidden=5))
    report = check_field(field)
    assert report.passed, str(report)
    K = field.constrain(field.init(torch.Generator().manual_seed(0)))["1_K"]
    torch.testing.assert_close(K + K.T, -torch.eye(3))
    both = Coupling(Residual(3), Residual(3))
    assert both.statistics == {f"{k}_{s}{n}" for k in (1, 2) for s in ("mean", "var") for n in (1, 2)}
    assert both.statistics < both.init(torch.Generator().manual_seed(0)).keys()


# ---- the gradient over the whole net -------------------------------------------------------------------------------


def grads(made: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = made(x)
    return [out.detach(), *torch.autograd.grad((out * torch.linspace(-1.0, 2.0, 3)).sum(), [x, *made.parameters()])]


@pytest.mark.parametrize(("name", "how"), [
    *((n, h) for n in NETS for h in ("reversible", "checkpoint")),
    *((n, "exact") for n in NETS if n != "hyperbolic_cnn"),  # whole numbers are not handed from block to block
])  # fmt: skip
def test_the_gradient_is_that_of_autograd(name: str, how: str, double: None) -> None:
    x = torch.randn(5, 1, 8, 8)
    found, wanted = grads(net(name, gradient=how), x), grads(net(name), x)
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours - theirs).norm()) <= (1e-10 if how != "exact" else 1e-8) * float(theirs.norm()) + 1e-14


def stored(made: nn.Module, x: Tensor) -> int:
    """Bytes of different storages that wait for the backward pass, without those of the weights and statistics."""
    own = {p.untyped_storage().data_ptr() for p in (*made.parameters(), *made.buffers())}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = made(x)
        total = sum(sizes.values())
    assert out.requires_grad
    return total


@pytest.mark.parametrize("name", NETS)
def test_what_is_stored_does_not_grow_with_depth(name: str) -> None:
    x = torch.randn(16, 1, 8, 8)
    shallow, deep = (stored(net(name, gradient="reversible", steps=n), x) for n in (2, 8))
    effective = 6 * 9 * (4 * 4 + 8 * 8) * 4 if name == "midpoint_cnn" else 0  # K - K^T of every layer
    assert deep == shallow + effective
    assert stored(net(name, steps=8), x) > 3 * stored(net(name, steps=2), x)


def test_the_hyperbolic_net_stores_no_state_of_any_of_its_grids() -> None:
    x = torch.randn(16, 1, 16, 16)
    few, many = (stored(net("hyperbolic_cnn", gradient="reversible", size=16, levels=n), x) for n in (2, 4))
    assert many <= few + 16 * 4**4 * 4  # the head's pooled features are wider


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 3e-12)], ids=str)
@pytest.mark.parametrize("name", ["revnet", "hamiltonian_reversible_cnn", "leapfrog_cnn", "hyperbolic_cnn"])
def test_states_come_back_over_sixty_layers(name: str, dtype: torch.dtype, tolerance: float) -> None:
    made = net(name, steps=60, span=(0.0, 6.0)).to(dtype)
    (flow, *_), y = made.flows(), torch.randn(4, 4, 8, 8, dtype=dtype)
    theta = flow.theta(y)
    pieces = flow.march.pieces(theta)
    with torch.no_grad():
        states, carry, record = flow.march.run(y, theta)
        state = states[-1]
        for mark in reversed(record.marks):
            state, carry = flow.march.invert(mark, pieces[mark.n], state, carry)
    assert float((state - y).norm() / y.norm()) < tolerance


def test_training_without_stored_activations_gives_the_same_weights_and_statistics(double: None) -> None:
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 3
    nets = [net("revnet", gradient=g) for g in ("autograd", "reversible")]
    for made in nets:
        adam = torch.optim.Adam(made.parameters(), lr=1e-3)
        for _ in range(3):
            adam.zero_grad()
            F.cross_entropy(made(x), y).backward()
            adam.step()
        on.calibrate(made, [x])
        made.eval()
    for (key, ours), theirs in zip(nets[1].state_dict().items(), nets[0].state_dict().values()):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=key)
    moved = net("revnet").state_dict()["parts.2.weights.1_K1"]
    assert float((nets[0].state_dict()["parts.2.weights.1_K1"] - moved).abs().max()) > 1e-4
    torch.testing.assert_close(nets[1](x), nets[0](x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_layers_trajectory_and_stability_see_the_net_that_runs(name: str, double: None) -> None:
    made, x = net(name).eval(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        out, state = made(x), x
        for layer in made.layers():
            state = layer(state)
        assert torch.equal(state, out) and torch.equal(made.trajectory(x)[-1], out)
        seen = unroll(made, x)
        torch.testing.assert_close(seen.leave(seen.states[-1][0]), out, rtol=1e-13, atol=1e-13)
    if name == "hyperbolic_cnn":
        lifted = made.with_integrator("verlet")
        found = unroll(lifted, x)
        torch.testing.assert_close(found.leave(found.states[-1][0]), lifted(x), rtol=1e-13, atol=1e-13)


# ---- what is refused -----------------------------------------------------------------------------------------------

WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Haar()(torch.randn(1, 2, 5, 4)), r"takes 4 axes with even sizes, got a state \(1, 2, 5, 4\)"),
    (lambda: SpaceToDepth(1)(torch.randn(1, 2, 4, 4)), "takes 3 axes with even sizes"),
    (lambda: Haar(3), "signals have dims=1 and images dims=2, got dims=3"),
    (lambda: Haar(history="keep"), r"history is 'reset' .* or 'map' .*, got 'keep'"),
    (lambda: Pool("max", history="map"), "pooling 'max' is not linear, so it maps no memory"),
    (lambda: PadChannels(8, 4), "padding makes states wider, but 8 channels"),
    (lambda: PadChannels(3, 6, parts=2), "parts divides the numbers of channels"),
    (lambda: on.nets.hyperbolic_cnn(size=6, levels=3), "images of 6 x 6 cannot be halved 2 times; give fewer levels"),
    (lambda: on.nets.hyperbolic_cnn(levels=0), "width=8, levels=0; both are positive whole numbers"),
    (lambda: on.nets.revnet(widths=(3, 5)), "its width is even, not 3"),
    (lambda: on.nets.revnet(integrator="rk4", gradient="reversible"), "needs an integrator with an inverse; 'rk4'"),
    (lambda: on.nets.momentum_cnn(integrator="leapfrog"), "'leapfrog' needs a second-order field"),
    (lambda: Coupling(Parabolic(3), Parabolic(4)), "widths 3 and 4 on axes -1 and -1; give both the same"),
    (lambda: Coupling(Parabolic(3, dropout=0.1), Parabolic(3)), "drop 0.1 and 0.0; give both one rate"),
    (lambda: Coupling(on.fields.SecondOrder(3), Parabolic(3)), "takes fields of first order"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), WRONG)
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
