"""Statistics of affine maps: P is autograd's gradient for every net, C and B are loops written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import odenet as on
from nets_examples import example, shaken
from odenet.train.control import Affine, gather
from odenet.train.control.discrete import weights_of

NORMED, FUSED, MIRRORED = "K is computed from it", "a fused recurrent cell", "a kernel used with its transpose"
ELSEWHERE = {  # matrices and kernels that do more than act on states, and why
    **dict.fromkeys(("convex_potential", "lipschitz_resnet", "lipschitz_rnn", "nais_net", "nonexpansive"), NORMED),
    **dict.fromkeys(("mlp", "tcn", "hyperbolic_cnn", "midpoint_cnn", "stable_ode"), NORMED),
    **dict.fromkeys(("gru", "lstm", "ode_rnn", "rnn", "gru_ode"), FUSED),
    **dict.fromkeys(("hamiltonian_cnn", "hamiltonian_reversible_cnn", "leapfrog_cnn"), MIRRORED),
    **dict.fromkeys(("parabolic_cnn", "second_order_cnn", "imexnet"), MIRRORED),
    "tree_net": "rows of an embedding are looked up",
}
S = 4


def x_of(width: int = 3) -> Tensor:
    return torch.randn(S, width, generator=torch.Generator().manual_seed(0))


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def watched(net: nn.Module, x: Any, samples: int = S) -> tuple[dict[str, Tensor | None], dict[str, Affine]]:
    """Gradients and statistics by name, for a loss that is a mean over samples."""
    names = {id(p): name for name, p in net.named_parameters()}
    own = [p for p in net.parameters() if p.requires_grad]

    def loss() -> Tensor:
        y = net(x)
        return (y.sin() + y**2).sum() / samples

    gradients, seen = gather(own, loss, samples, costates=True)
    return {names[id(p)]: g for p, g in zip(own, gradients)}, {names[id(s.weight)]: s for s in seen}


def agrees(one: Affine, name: str, gradients: dict[str, Any], names: dict[int, str]) -> bool:
    G = gradients[name]
    if G is None:
        return False
    wanted = one.matrix(G, None if one.bias is None else gradients[names[id(one.bias)]])
    return bool((one.gradient() - wanted).norm() <= 1e-12 * wanted.norm())


@pytest.mark.parametrize("name", on.nets.names())
def test_what_left_and_entered_a_weight_makes_its_gradient(name: str, double: None) -> None:
    words, x = example(name)
    net = shaken(on.nets.get(name)(**words)).double()
    gradients, seen = watched(net, x.double() if isinstance(x, Tensor) else x, 3)
    names = {id(p): k for k, p in net.named_parameters()}
    forms = {k: (one, one.alone()) if one.bias is not None else (one,) for k, one in seen.items()}
    found = {k for k, some in forms.items() if any(agrees(one, k, gradients, names) for one in some)}
    every = {names[id(p)] for p, _ in weights_of(net)}
    assert found and (name in ELSEWHERE) == bool(every - found)
    plain = [p for p in net.parameters() if p.requires_grad]
    y = net(x.double() if isinstance(x, Tensor) else x)
    wanted = torch.autograd.grad((y.sin() + y**2).sum() / 3, plain, allow_unused=True)
    for p, g in zip(plain, wanted):
        if g is not None:
            close(gradients[names[id(p)]], g)


def test_statistics_of_a_residual_net_are_a_loop_over_its_stages(double: None) -> None:
    """Heun: two places for each step, at y and at y + h f(y); costates by differentiating past every output."""
    net = shaken(on.nets.resnet(3, 2, width=4, steps=2, span=(0.0, 1.0), integrator="heun"))
    _, seen = watched(net, x_of())
    K, b, h = net.parts[1].weights["K"], net.parts[1].weights["b"], 0.5
    y, C, B = net.parts[0](x_of()), torch.zeros(2, 5, 5), torch.zeros(2, 4, 4)
    outs: list[tuple[int, Tensor, Tensor]] = []

    def f(n: int, state: Tensor) -> Tensor:
        z = state @ K[n].T + b[n]
        outs.append((n, state, z))
        return z.tanh()

    for n in range(2):
        first = f(n, y)
        y = y + h / 2 * (first + f(n, y + h * first))
    out = net.parts[2](y)
    r = torch.autograd.grad(-(out.sin() + out**2).sum(), [z for _, _, z in outs])
    for (n, state, _), costate in zip(outs, r):
        for s in range(S):
            one = torch.cat((state[s].detach(), torch.ones(1)))
            C[n] += torch.outer(one, one) / S
            B[n] += torch.outer(costate[s], costate[s]) / S
    found = seen["parts.1.weights.K"]
    close(found.entered, C)
    close(found.left, B / 2)  # a mean over both places
    assert found.places.tolist() == [2, 2] and found.turned is None and not found.skew
    assert seen["parts.0.weight"].bias is net.parts[0].bias


def test_a_matrix_and_its_transpose_have_statistics_of_their_own(double: None) -> None:
    """p -= h K2^T s(K2 q + b2), then q += h K1^T s(K1 p + b1)."""
    net = shaken(on.nets.hamiltonian(3, 2, width=4, steps=2, span=(0.0, 1.0), integrator="symplectic_euler"))
    _, seen = watched(net, x_of())
    w, (q, p) = net.parts[1].weights, net.parts[0](x_of()).detach().split(2, -1)
    C, B = torch.zeros(2, 3, 3), torch.zeros(2, 2, 2)
    for n in range(2):
        z = torch.tanh(q @ w["K2"][n].T + w["b2"][n]).detach()
        for s in range(S):
            one = torch.cat((q[s], torch.ones(1))).detach()
            C[n] += torch.outer(one, one) / S
            B[n] += torch.outer(z[s], z[s]) / S
        p = p - 0.5 * z @ w["K2"][n]
        q = q + 0.5 * torch.tanh(p @ w["K1"][n].T + w["b1"][n]) @ w["K1"][n]
    found = seen["parts.1.weights.K2"]
    assert found.turned is not None
    close(found.entered, C)
    close(found.turned, B)


def test_the_matrix_of_an_antisymmetric_layer_is_seen_through_its_weight(double: None) -> None:
    net = shaken(on.nets.antisymmetric(3, 2, width=4, steps=2, integrator="euler"))
    gradients, seen = watched(net, x_of())
    one, K = seen["parts.1.weights.K"], net.parts[1].theta()["K"]
    assert one.skew and one.slope is not None
    y, b = net.parts[0](x_of()), net.parts[1].weights["b"]
    z = [y @ K[0].T + b[0]]
    z.append((y + net.parts[1].h * z[0].tanh()) @ K[1].T + b[1])
    out = net.parts[2](y + net.parts[1].h * (z[0].tanh() + z[1].tanh()))
    (of_K,) = torch.autograd.grad((out.sin() + out**2).sum() / S, K)
    close(one.slope[..., :4], -of_K)
    G = gradients["parts.1.weights.K"]
    assert G is not None
    close(one.gradient()[..., :4], of_K - of_K.mT)
    close(one.gradient()[..., :4], G)


@pytest.mark.parametrize(
    "words",
    [{"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2, "padding": "same"}, {"bias": False}],
)
def test_the_statistic_of_a_kernel_is_a_loop_over_pixels(words: dict[str, Any], double: None) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, 3, **words), torch.randn(S, 2, 5, 6)
    gradients, seen = watched(conv, x)
    pad = {"same": (2, 2)}.get(words.get("padding", 0), words.get("padding", 0))  # type: ignore[call-overload]
    up, side = pad if isinstance(pad, tuple) else (pad, pad)
    padded, gap, jump = F.pad(x, (side, side, up, up)), words.get("dilation", 1), words.get("stride", 1)
    C = torch.zeros(18, 18)
    _, _, rows, cols = conv(x).shape
    for s in range(S):
        for i in range(rows):
            for j in range(cols):
                patch = padded[s, :, i * jump : i * jump + 2 * gap + 1 : gap, j * jump : j * jump + 2 * gap + 1 : gap]
                C += torch.outer(patch.reshape(-1), patch.reshape(-1)) / S
    close(seen["weight"].entered[0, :18, :18], C)
    if conv.bias is not None:
        close(seen["weight"].entered[0, 18, 18], torch.tensor(float(rows * cols)))
    assert agrees(seen["weight"], "weight", gradients, {id(p): k for k, p in conv.named_parameters()})


def test_one_dimensional_kernels_and_weights_in_front_are_seen_too(double: None) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3, stride=2, padding=1)
            self.front, self.behind = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.mm((self.front @ self.conv(x)).mean(1), self.behind)

    torch.manual_seed(0)
    net = Odd()
    gradients, seen = watched(net, torch.randn(S, 2, 8))
    names = {id(p): k for k, p in net.named_parameters()}
    assert all(agrees(seen[k], k, gradients, names) for k in ("conv.weight", "front", "behind"))
    assert seen["behind"].turned is not None and seen["front"].turned is None


def test_a_bias_that_acts_elsewhere_too_is_left_out() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner.bias

    net = Twice().double()
    gradients, seen = watched(net, x_of().double())
    names = {id(p): k for k, p in net.named_parameters()}
    one = seen["inner.weight"]
    assert not agrees(one, "inner.weight", gradients, names)
    assert agrees(one.alone(), "inner.weight", gradients, names) and one.alone().entered.shape == (1, 3, 3)


def test_shared_weights_are_summed_over_their_places(double: None) -> None:
    net = shaken(on.nets.resnet(3, 2, width=4, steps=5, depth="shared"))
    _, seen = watched(net, x_of())
    assert seen["parts.1.weights.K"].places.tolist() == [5]
    states = net.parts[1].trajectory(net.parts[0](x_of()))[:-1].detach()
    close(seen["parts.1.weights.K"].entered[0, :4, :4], sum(y.T @ y for y in states) / S)


def test_gathering_leaves_the_random_numbers_alone() -> None:
    net = on.nets.antisymmetric(3, 2, width=4, steps=2)
    state = torch.random.get_rng_state()
    watched(net, x_of())
    assert torch.equal(state, torch.random.get_rng_state())
