"""Straight-through training: the net holds rounded weights, and their gradient moves the real ones behind them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from odenet.errors import BadInput
from odenet.train.control import load_packed, rounded, save_packed
from odenet.train.control.discrete import weights_of

METHODS = ["binary_ste", "ternary_ste"]


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def pictures() -> tuple[Tensor, Tensor]:
    """Bright upper or lower half."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(2, (60,), generator=g)
    x = 0.3 * torch.randn(60, 1, 8, 8, generator=g)
    x[:, :, :4] += y.view(-1, 1, 1, 1)
    return x.flatten(1), y


IMAGE = {"channels": 1, "classes": 2, "size": 8, "widths": (4, 4, 4), "seed": 1}
NETS: dict[str, Any] = {
    "modules": (lambda: nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)), data),
    "resnet": (lambda: on.nets.resnet(3, 3, width=12, steps=3, norm="batch", seed=1), data),
    "antisymmetric": (lambda: on.nets.antisymmetric(3, 3, width=12, steps=3, seed=1), data),
    "hamiltonian": (lambda: on.nets.hamiltonian(3, 3, width=12, steps=3, seed=1), data),
    "convolutions": (lambda: on.nets.resnet20(**IMAGE), pictures),
    "parabolic_cnn": (lambda: on.nets.parabolic_cnn(**IMAGE, steps=1), pictures),
}


def levels(net: nn.Module) -> list[int]:
    """How many values every matrix or kernel of a layer has, those of -a and a counted once."""
    parts = [p.detach().unbind(0) if rows else [p.detach()] for p, rows in weights_of(net)]
    return [len(part.abs().unique()) for several in parts for part in several]


IMAGE_NETS = ("convolutions", "parabolic_cnn")
MAXIMUM = [(name, method) for name in IMAGE_NETS for method in ("binary_msa", "ternary_msa")]


@pytest.mark.parametrize(("name", "method"), [*((n, m) for n in NETS for m in METHODS), *MAXIMUM])
def test_nets_of_every_kind_end_with_discrete_weights_and_a_smaller_loss(name: str, method: str) -> None:
    torch.manual_seed(0)
    make, given = NETS[name]
    model = make()
    images = given is pictures
    words = {"alpha": 0.5} if method.endswith("msa") else {}
    steps, lr = (8, 2e-2) if images else (40, 2e-2)
    fit = on.fit(model, given(), method, steps=steps, lr=lr, batch=60, holdout=0.0, **words)
    start, end = (sum(r["loss"] for r in part) / 4 for part in (fit.history[:4], fit.history[-4:]))
    assert end < 0.95 * start
    assert max(levels(model)) <= (2 if "ternary" in method else 1)
    assert ("nonzero" in fit.history[0]) == ("ternary" in method)


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_are_those_written_by_hand(method: str) -> None:
    """Adam's second step needs its moments; u starts beyond 1 in places, is clipped, and its gradient is masked."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.mul_(3)
    (x, y), s, lr = data(), 3**-0.5, 0.1
    u = (model[0].weight.detach() / s).clamp(-1, 1)
    assert bool((u.abs() == 1).any())
    m, v = torch.zeros(3, 3).double(), torch.zeros(3, 3).double()
    for k in (1, 2):
        W = (s * by_hand(u, method)).requires_grad_()
        loss = F.cross_entropy(x.double() @ W.T, y)
        (g,) = torch.autograd.grad(loss, W)
        g = s * g * (u.abs() <= 1)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        u = (u - lr * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)).clamp(-1, 1)
    fit = on.fit(model, (x, y), method, steps=2, lr=lr, batch=1000, holdout=0.0, dtype=torch.float64)
    torch.testing.assert_close(model[0].weight.detach(), s * by_hand(u, method), rtol=1e-12, atol=1e-12)
    assert fit.history[1]["loss"] == pytest.approx(float(loss.detach()), rel=1e-12)


def by_hand(u: Tensor, method: str) -> Tensor:
    if method == "binary_ste":
        return torch.where(u >= 0, 1.0, -1.0).double()
    D = 0.7 * sum(abs(float(w)) for w in u.flatten()) / u.numel()
    large = [abs(float(w)) for w in u.flatten() if abs(float(w)) > D]
    a = sum(large) / len(large)
    return torch.tensor(
        [[0.0 if abs(w) <= D else a if w > 0 else -a for w in row] for row in u.tolist()], dtype=torch.float64
    )


def test_the_gradient_is_that_at_the_rounded_weights_and_zero_outside_of_one() -> None:
    """autograd through a surrogate, clip(u) + (r(u) - clip(u)) without a graph, is the published estimator."""
    from odenet.train.control.straight_through import Rounded

    torch.manual_seed(0)
    layer = nn.Linear(4, 5, bias=False).double()
    one = Rounded.begun(layer.weight, ternary=True, rows=False)
    with torch.no_grad():
        one.real.mul_(2)
    assert 0 < int((one.real.abs() > 1).sum()) < 20
    u, x = one.real.detach().clone().requires_grad_(), torch.randn(7, 4).double()
    clipped = u.clamp(-1, 1)
    through = clipped + (rounded(u, True) - clipped).detach()
    wanted = torch.autograd.grad((x @ (one.scale * through).T).sin().sum(), u)[0]
    with torch.no_grad():
        layer.weight.copy_(one.scale * rounded(one.real, True))
    layer(x).sin().sum().backward()
    one.pull()
    assert one.real.grad is not None
    torch.testing.assert_close(one.real.grad, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("draw", [torch.randn, lambda *s, generator: 2 * torch.rand(*s, generator=generator) - 1])
def test_the_ternary_rule_is_nearly_the_best_of_all_thresholds(draw: Any) -> None:
    """min over a and D of |u - a t|^2 is max over D of (sum over |u| > D)^2 / count; 0.7 mean |u| comes within 1 %."""
    u = draw(400, generator=torch.Generator().manual_seed(2)).double()
    sizes = u.abs().sort(descending=True).values
    best = float((sizes.cumsum(0) ** 2 / torch.arange(1, 401)).max())
    t = rounded(u, True)
    assert float(u.square().sum() - (u - t).square().sum()) >= 0.99 * best
    support = t != 0
    a = float(u[support].abs().mean())  # least squares for a given set
    assert sorted(t.unique().tolist()) == pytest.approx([-a, 0.0, a]) and bool(
        (t[support].sign() == u[support].sign()).all()
    )
    assert torch.equal(support, u.abs() > 0.7 * u.abs().mean())


def test_layers_of_a_flow_have_thresholds_of_their_own() -> None:
    u = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(rounded(u, True, rows=True), torch.stack([rounded(part, True) for part in u]))
    assert not torch.allclose(rounded(u, True, rows=True), rounded(u, True))


@pytest.mark.parametrize("name", ["hamiltonian", "convolutions"])
@pytest.mark.parametrize("method", [*METHODS, "ternary_msa"])
def test_a_packed_file_is_small_and_loads_to_the_same_outputs_bit_by_bit(name: str, method: str, tmp_path: Any) -> None:
    make, given = NETS[name]
    model, (x, y) = make(), given()
    on.fit(model, (x, y), method, steps=2, batch=30, holdout=0.0)
    model.eval()
    packed = save_packed(model, tmp_path / "packed.safetensors")
    again = load_packed(packed).eval()
    assert torch.equal(again(x), model(x))
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
    whole = on.save(model, tmp_path / "whole.safetensors")
    matrices = sum(p.numel() for p, _ in weights_of(model))
    saved = whole.stat().st_size - packed.stat().st_size
    names = 3 * 130 * len(weights_of(model))  # entries of the header, and shapes
    assert saved > 4 * matrices - matrices / (8 if "binary" in method else 4) - names


def test_what_is_no_packed_net_is_one_sentence(tmp_path: Any) -> None:
    net, other = (on.nets.hamiltonian(3, 3, width=w, steps=3, seed=1) for w in (12, 8))
    on.fit(net, data(), "ternary_ste", steps=1, holdout=0.0)
    file = save_packed(net, tmp_path / "a.safetensors")
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(BadInput, match="these packed weights are not of this Chain"):
        load_packed(file, other)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters()))
    with pytest.raises(BadInput, match=r"was not written by save_packed; .* odenet\.load"):
        load_packed(on.save(net, tmp_path / "b.safetensors"))
    with pytest.raises(BadInput, match="is not a readable safetensors file"):
        load_packed(tmp_path / "none.safetensors")
    with pytest.raises(BadInput, match=r"the folder .* does not exist"):
        save_packed(net, tmp_path / "no" / "a.safetensors")
    plain = NETS["modules"][0]()
    on.fit(plain, data(), "binary_ste", steps=1, holdout=0.0)
    with pytest.raises(BadInput, match="holds weights but no recipe"):
        load_packed(save_packed(plain, tmp_path / "c.safetensors"))
    twin = NETS["modules"][0]()
    assert torch.equal(load_packed(tmp_path / "c.safetensors", twin)(data()[0]), plain(data()[0]))


@pytest.mark.parametrize(("words", "sentence"), [
    ({"weight_decay": 0.1}, "rounded in the end have no decay"), ({"rho": 0.1}, "no option 'rho'"),
])  # fmt: skip
def test_what_straight_through_training_cannot_be_given_is_one_sentence(words: dict[str, Any], sentence: str) -> None:
    model = NETS["modules"][0]()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(BadInput, match=sentence):
        on.fit(model, data(), "binary_ste", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    with pytest.raises(BadInput, match="has no matrix or kernel"):
        on.fit(nn.Sequential(nn.BatchNorm1d(3)), data(), "binary_ste", steps=1, holdout=0.0)
