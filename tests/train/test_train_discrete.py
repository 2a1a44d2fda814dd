"""Weights of two or three values: the rule against brute force, the set is never left, and what fits into bits."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput
from odenet.train.control import chosen, pack, unpack
from odenet.train.control.discrete import weights_of


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


NETS = {
    "modules": lambda: nn.Sequential(
        nn.Linear(3, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3, bias=False), nn.BatchNorm1d(3)
    ),
    "resnet": lambda: on.nets.resnet(3, 3, width=12, steps=3, norm="batch", seed=1),
    "antisymmetric": lambda: on.nets.antisymmetric(3, 3, width=12, steps=3, seed=1),
    "hamiltonian": lambda: on.nets.hamiltonian(3, 3, width=12, steps=3, seed=1),
}


@pytest.mark.parametrize("ternary", [False, True])
def test_the_rule_is_the_argmax_over_the_values(ternary: bool) -> None:
    levels = (-1.0, 0.0, 1.0) if ternary else (-1.0, 1.0)
    numbers = (-1.31, -0.63, -0.213, 0.117, 0.413, 0.917, 2.23)  # no ties
    for M, w, rho, penalty in itertools.product(numbers, levels, (0.05, 0.3, 0.7), (0.0, 0.25) if ternary else (0.0,)):
        tied = rho if ternary else rho / 2  # |M| > rho is what 2 |M| > 4 (rho / 2) says
        best = max(levels, key=lambda v: M * v - penalty * abs(v) - tied * (v - w) ** 2)
        found = chosen(torch.tensor(M), torch.tensor(w), torch.tensor(rho), torch.tensor(penalty), ternary)
        assert float(found) == best, (M, w, rho, penalty)


@pytest.mark.parametrize("method", ["binary_msa", "ternary_msa"])
@pytest.mark.parametrize("name", NETS)
def test_weights_stay_in_the_set_and_the_loss_falls(name: str, method: str) -> None:
    torch.manual_seed(0)
    model = NETS[name]()
    fit = on.fit(model, data(), method, steps=60, lr=1e-2, batch=100, holdout=0.0, alpha=0.9)
    first, last = (sum(r["loss"] for r in part) / 10 for part in (fit.history[:10], fit.history[-10:]))
    assert last < 0.9 * first
    pairs = weights_of(model)
    assert len(pairs) == {"modules": 2, "hamiltonian": 4}.get(name, 3)  # opening, kernels of the flow, head
    for weight, rows in pairs:
        for part in weight.detach().unbind(0) if rows else [weight.detach()]:
            sizes = part.abs().unique().tolist()
            assert len(sizes) == 1 if method == "binary_msa" else len(sizes) <= 2 and 0.0 in sizes
    if method == "ternary_msa":
        kept = sum(int(w.count_nonzero()) for w, _ in pairs) / sum(w.numel() for w, _ in pairs)
        assert fit.history[-1]["nonzero"] == pytest.approx(kept)


def test_three_steps_are_those_written_by_hand() -> None:
    """rho = 0.5: entries of the average beyond half of the largest wrong one change; meanwhile Adam moves log s."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 3, bias=False)).double()
    (x, y), lr, m, v = data(), 0.2, 0.0, 0.0
    signs = torch.where(model[0].weight >= 0, 1.0, -1.0).double().detach()
    M, before, size = torch.zeros(3, 3).double(), signs, torch.tensor(-0.5 * math.log(3), dtype=torch.float64)
    for k in (1, 2, 3):
        size.requires_grad_()
        W = size.exp() * signs
        g, slope = torch.autograd.grad(nn.functional.cross_entropy(x.double() @ W.T, y), (W, size))
        M = 0.6 * M - 0.4 * size.detach().exp() * g
        wrong = M.sign() != signs
        bound = 0.5 * M.abs()[wrong].max() if bool(wrong.any()) else torch.inf
        signs = torch.where(M.abs() > bound, M.sign(), signs)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        size = size.detach() - lr * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
    words = {"steps": 3, "batch": 1000, "holdout": 0.0, "rho": 0.5, "alpha": 0.6, "anneal": 1.0, "dtype": torch.float64}
    on.fit(model, (x, y), "binary_msa", lr=lr, **words)
    torch.testing.assert_close(model[0].weight.detach(), size.exp() * signs, rtol=1e-12, atol=1e-12)
    assert not torch.equal(signs, before)


def test_the_size_of_a_layer_is_trained_and_every_layer_of_a_flow_has_its_own() -> None:
    """Logits -x and x of x = +-1 have the loss log(1 + e^-2), which signs alone cannot lower."""
    model, x = nn.Sequential(nn.Linear(1, 2, bias=False)), torch.tensor([[-1.0], [1.0]])
    fit = on.fit(model, (x, torch.tensor([0, 1])), "binary_msa", steps=30, lr=0.1, batch=2, holdout=0.0, alpha=0.0)
    assert torch.equal(model[0].weight.sign().flatten(), torch.tensor([-1.0, 1.0]))
    assert fit.history[-1]["loss"] < 0.1 * math.log1p(math.exp(-2))
    flow = NETS["antisymmetric"]()
    on.fit(flow, data(), "ternary_msa", steps=5, lr=5e-2, holdout=0.0)
    sizes = {float(part.abs().max()) for p, rows in weights_of(flow) if rows for part in p.detach()}
    assert len(sizes) == 3


def test_more_sparsity_means_fewer_weights() -> None:
    kept = []
    for sparsity in (0.0, 0.2, 0.8):
        torch.manual_seed(0)
        words = {"steps": 40, "batch": 100, "holdout": 0.0, "alpha": 0.9, "sparsity": sparsity}
        kept.append(on.fit(NETS["modules"](), data(), "ternary_msa", **words).history[-1]["nonzero"])
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.parametrize(("method", "bits"), [("binary_msa", 1), ("ternary_msa", 2)])
def test_packed_weights_take_their_bits_and_run(method: str, bits: int, tmp_path: Path) -> None:
    model, twin = (on.nets.hamiltonian(3, 3, width=12, steps=3, seed=s) for s in (1, 2))
    on.fit(model, data(), method, steps=5, holdout=0.0)
    save_file(pack(model), tmp_path / "net.safetensors")
    packed = load_file(tmp_path / "net.safetensors")
    matrices = sum(p.numel() for k, p in model.named_parameters() if f"bits:{k}" in packed)
    held = sum(v.numel() for k, v in packed.items() if k.startswith("bits:"))
    assert matrices > 200 and matrices * bits / 8 <= held <= matrices * 2 / 8 + 3
    x = data()[0]
    torch.testing.assert_close(unpack(twin, packed)(x), model(x), rtol=0, atol=0)


def test_other_weights_are_not_packed() -> None:
    with pytest.raises(BadInput, match="has more than the values -s, 0 and s"):
        pack(NETS["modules"]())


@pytest.mark.parametrize(("words", "sentence"), [
    ({"rho": 2.0}, "rho=2.0: a number from 0 to 1"), ({"rho": 0}, "rho > 0 keeps entries"),
    ({"alpha": 1}, "alpha < 1 lets it learn"), ({"weight_decay": 0.1}, "weights -s, 0 and s have no decay"),
    ({"sparse": 0.1}, "did you mean 'sparsity'"),
])  # fmt: skip
def test_what_discrete_weights_cannot_be_given_is_one_sentence(words: dict[str, Any], sentence: str) -> None:
    model = NETS["modules"]()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(BadInput, match=sentence):
        on.fit(model, data(), "ternary_msa", steps=1, holdout=0.0, **words)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_a_net_without_matrices_is_one_sentence() -> None:
    with pytest.raises(BadInput, match="has no matrix or kernel"):
        on.fit(nn.Sequential(nn.BatchNorm1d(3)), data(), "binary_msa", steps=1, holdout=0.0)
