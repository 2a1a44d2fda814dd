"""Non-expansive nets: hand loops, singular values of Jacobians, counterexamples beyond the conditions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput
from odenet.fields import Parabolic, Switching
from odenet.nets.lipschitz import Capped, contraction, largest_expansion
from odenet.stability.proofs import layer_factor, nonexpansive
from odenet.stability.unroll import unroll

pytestmark = pytest.mark.usefixtures("double")

NETS = ["convex_potential", "lipschitz_resnet", "nonexpansive"]


def flow_of(net: nn.Module) -> on.Flow:
    return next(m for m in net.modules() if isinstance(m, on.Flow))


def shaken(net: nn.Module, seed: int = 0, size: float = 0.7) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn(p.shape, generator=g))
    return net


def stretch(run: Any, y: Tensor) -> float:
    """Largest singular value of the Jacobian over the rows of y."""
    J = torch.func.vmap(torch.func.jacrev(lambda x: run(x[None])[0]))(y)
    return float(torch.linalg.matrix_norm(J.detach(), ord=2).max())


# ---- formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["sharp", "paper"])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_nonexpansive_net_is_the_published_loop(condition: str, steps: int) -> None:
    a, h_c, h_e = (
        0.5,
        {"sharp": 4 / 3, "paper": 0.5}[condition],
        {"sharp": 1.0, "paper": 2 / math.sqrt(3) - 1}[condition],
    )
    net = shaken(on.nets.nonexpansive(5, 3, width=4, steps=steps, condition=condition, span=(0.0, 0.7)))
    x, theta = torch.randn(6, 5), flow_of(net).theta()
    y = net.parts[0](x)
    for n in range(steps):
        A, b = theta["K"][n], theta["b"][n]
        torch.testing.assert_close(A @ A.T, torch.eye(4), rtol=0.0, atol=1e-12)
        if n % 2 == 0 and n + 1 < steps:
            y = y + h_e * torch.relu(y @ A.T + b) @ A
        else:
            y = y - h_c * F.leaky_relu(y @ A.T + b, a) @ A
    torch.testing.assert_close(net(x), net.parts[2](y), rtol=1e-11, atol=1e-11)


def test_a_convex_potential_layer_is_the_published_one() -> None:
    """y - 2/|W|^2 W^T relu(W y + c), c the stored bias in the scale of W (relu(s z) = s relu(z))."""
    net = shaken(on.nets.convex_potential(5, 3, width=4, steps=3, hidden=7, span=(0.0, 0.6)))
    flow, y = flow_of(net), net.parts[0](torch.randn(6, 5))
    expected = y
    for n in range(3):
        W, b = flow.weights["K"][n], flow.weights["b"][n]
        norm = np.linalg.norm(W.detach().numpy(), 2)
        c = b * norm / math.sqrt(2 / 0.2)
        expected = expected - 2 / norm**2 * torch.relu(expected @ W.T + c) @ W
    torch.testing.assert_close(flow(y), expected, rtol=1e-10, atol=1e-11)


def test_a_lipschitz_resnet_caps_the_norm_where_it_must_and_nowhere_else() -> None:
    net = on.nets.lipschitz_resnet(5, 3, width=4, steps=2, span=(0.0, 1.0))
    flow, y = flow_of(net), net.parts[0](torch.randn(6, 5))
    with torch.no_grad():
        flow.weights["K"].copy_(torch.stack([9.0 * torch.randn(4, 4), 0.1 * torch.randn(4, 4)]))
    expected = y
    for W, b in zip(flow.weights["K"], flow.weights["b"]):
        K = W * min(1.0, 2.0 / np.linalg.norm(W.detach().numpy(), 2))  # h |K|^2 <= 2 with h = 1/2
        expected = expected - 0.5 * torch.relu(expected @ K.T + b) @ K
    torch.testing.assert_close(flow(y), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NETS)
def test_a_net_here_has_the_counted_weights(name: str) -> None:
    for more, extra in (({}, 0), ({"switching": "learned"}, 2)) if name == "nonexpansive" else (({}, 0),):
        net = on.nets.get(name)(5, 3, width=4, steps=6, **more)
        assert sum(p.numel() for p in net.parameters()) == 24 + 15 + 6 * (16 + 4 + extra)


def test_a_capped_layer_is_linear_with_norm_one_at_most() -> None:
    for size, expected in ((9.0, 1.0), (1e-3, None)):
        layer = Capped(6, 4)
        with torch.no_grad():
            layer.linear.weight.copy_(size * torch.randn(4, 6))
        own = np.linalg.norm(layer.linear.weight.detach().numpy(), 2)
        J = torch.func.jacrev(layer)(torch.randn(6)).detach().numpy()
        assert np.linalg.norm(J, 2) == pytest.approx(expected or own, rel=1e-12)


# ---- the conditions ------------------------------------------------------------------------------------------------


def test_the_two_conditions_have_the_published_and_the_derived_limits() -> None:
    assert largest_expansion(0.5, 0.5, "paper") == pytest.approx(2 / math.sqrt(3) - 1)  # 0.1547
    assert largest_expansion(4 / 3, 0.5, "sharp") == pytest.approx(2.0)
    for h_c in np.linspace(0.0, 1.9, 20):
        for leak in (0.01, 0.3, 0.5, 1.0):
            assert contraction(h_c, leak, "sharp") <= contraction(h_c, leak, "paper") + 1e-12


@pytest.mark.parametrize("leak", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("h_c", [0.3, 1.0, 1.6])
def test_the_sharp_factor_is_attained_and_never_exceeded(leak: float, h_c: float) -> None:
    field = Switching(5, slopes=(-leak * h_c, -h_c))
    p = field.constrain(field.init(torch.Generator().manual_seed(1)))
    worst = stretch(lambda y: y + field(0.0, y, p), 3 * torch.randn(200, 5))
    assert worst == pytest.approx(contraction(h_c, leak, "sharp"), abs=1e-12)


BUILD = {
    "sharp": {"condition": "sharp"}, "sharp at its limit": {"condition": "sharp", "expansive": 2.0},
    "paper": {"condition": "paper"}, "learned": {"switching": "learned"}, "tanh": {"activation": "tanh"},
    "learned at the limit": {"switching": "learned", "expansive": 2.0},
    "leaky": {"leak": 0.1, "contractive": 1.5}, "linear in depth": {"depth": "piecewise_linear"},
}  # fmt: skip


@pytest.mark.parametrize("how", sorted(BUILD))
def test_the_state_is_never_stretched_by_random_weights(how: str) -> None:
    for seed in range(4):
        net = shaken(on.nets.nonexpansive(4, 3, width=6, steps=6, seed=seed, **BUILD[how]), seed, size=1.5)
        flow, y = flow_of(net), 2 * torch.randn(20, 6)
        assert stretch(flow, y) <= 1.0 + 1e-12
        u, v = y, y + torch.randn(20, 6)
        assert float(((flow(u) - flow(v)).norm(dim=1) / (u - v).norm(dim=1)).max().detach()) <= 1.0 + 1e-12


@pytest.mark.parametrize("name", ["lipschitz_resnet", "convex_potential"])
@pytest.mark.parametrize("depth", ["per_step", "piecewise_linear", "shared"])
def test_gradient_steps_never_stretch_the_state(name: str, depth: str) -> None:
    for seed in range(4):
        net = shaken(on.nets.get(name)(4, 3, width=6, steps=5, depth=depth, seed=seed), seed, size=5.0)
        assert stretch(flow_of(net), 2 * torch.randn(20, 6)) <= 1.0 + 1e-11


@pytest.mark.parametrize("excess", [1e-3, 0.1])
def test_beyond_the_sharp_condition_two_steps_stretch_a_state(excess: float) -> None:
    """K = I: where y > 0 an expansive step, then b so low that the contractive one has its smallest slope."""
    h_e = 2.0 * (1 + excess)
    net = on.nets.nonexpansive(2, 2, width=2, steps=2, expansive=2.0)
    flow = flow_of(net)
    with torch.no_grad():
        flow.weights["K"].zero_()
        flow.weights["b"].copy_(torch.tensor([[5.0, 5.0], [-50.0, -50.0]]))
        flow.stat_slopes[0] *= 1 + excess
    stretched = (1 + h_e) * (1 - 0.5 * 4 / 3)
    assert stretch(flow, torch.zeros(1, 2)) == pytest.approx(stretched, abs=1e-12) and stretched > 1.0 + excess / 2
    assert not nonexpansive(unroll(flow, torch.zeros(1, 2)))


def test_beyond_the_papers_condition_there_are_nets_that_do_not_stretch() -> None:
    """h_e = 0.3 at h_c = 4/3 is refused by one condition and proved by the other."""
    with pytest.raises(BadInput, match="'paper'"):
        on.nets.nonexpansive(3, 2, width=4, contractive=4 / 3, expansive=0.3, condition="paper")
    net = on.nets.nonexpansive(3, 2, width=4, contractive=4 / 3, expansive=0.3, condition="sharp")
    assert nonexpansive(unroll(net, torch.randn(2, 3)))


@pytest.mark.parametrize(("words", "sentence"), [
    ({"expansive": 2.01}, "expansive step 2.01 after a contractive one 1.33333 with leak=0.5 .*allows up to 2 here"),
    ({"expansive": 0.2, "condition": "paper"}, "'paper', which allows up to 0.1547"),
    ({"expansive": -0.1}, "expansive step -0.1"), ({"contractive": 2.5}, "allows up to 0 here"),
    ({"leak": 0.0}, "leak is the slope"), ({"condition": "best"}, "condition 'best' is not known"),
    ({"switching": "free"}, "switching 'free' is not known"), ({"activation": "sin"}, "slopes in .0, 1., not 'sin'"),
    ({"head": "none"}, "head 'none' is not known; write 'linear' or 'capped'"),
    ({"opening": "conv"}, "opening 'conv' is not known; write 'linear' or 'pad'"),
])  # fmt: skip
def test_a_net_beyond_the_condition_is_refused_in_one_line(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        on.nets.nonexpansive(3, 2, width=4, **words)
    assert "\n" not in str(caught.value)


# ---- whole nets and proofs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_padding_and_a_capped_head_make_the_whole_net_one_lipschitz(name: str) -> None:
    for seed in range(3):
        net = shaken(on.nets.get(name)(4, 3, width=6, steps=4, opening="pad", head="capped", seed=seed), seed, 2.0)
        assert stretch(net, torch.randn(20, 4)) <= 1.0 + 1e-11


@pytest.mark.parametrize("name", NETS)
def test_the_report_calls_it_proved_and_another_method_not(name: str) -> None:
    x = torch.randn(12, 5)
    net = shaken(on.nets.get(name)(5, 3, width=6, steps=4))
    rep = on.stability.report(net, x, points=2)
    assert rep.verdict.standing == "proved" and rep.metrics["proved_nonexpansive"] == 1
    assert rep.metrics["singular_max"] <= 1.0 + 1e-12 and "monotone" not in rep.verdict.sentence.split(";")[0][:16]
    other = on.stability.report(net.with_integrator("rk4"), x, points=2)
    assert name != "nonexpansive" or other.metrics["proved_nonexpansive"] == 0


def test_the_factors_of_the_layers_are_those_of_the_budget() -> None:
    net = on.nets.nonexpansive(3, 2, width=4, steps=5, expansive=0.8)
    u = unroll(net, torch.randn(2, 3))
    factors = [layer_factor(layer.interval) for layer in u.layers if layer.interval]
    assert factors == pytest.approx([1.8, 1 / 3, 1.8, 1 / 3, 1 / 3])
    twice = unroll(net.with_integrator("euler", steps=10), torch.randn(2, 3))  # two steps of half the length
    factors = [layer_factor(layer.interval) for layer in twice.layers if layer.interval]
    assert factors[:2] == pytest.approx([1.96, 4 / 9])


def test_weights_that_are_largest_inside_an_interval_are_looked_at_there() -> None:
    """K(t) = 36 t (1 - t) I is 0 at both ends; rk4 looks at t = 1/2 too, where h |K|^2 = 81."""
    flow = on.Flow(Parabolic(2), "rk4", depth="legendre:3", steps=1)
    with torch.no_grad():
        for weight in flow.weights.values():
            weight.zero_()
        flow.weights["K"][0], flow.weights["K"][2] = 6 * torch.eye(2), -6 * torch.eye(2)
    x = 0.01 * torch.randn(4, 2)
    assert stretch(flow, x) > 100.0 and not nonexpansive(unroll(flow, x))
    assert nonexpansive(unroll(flow.with_integrator("heun"), x))  # which looks at the ends alone, where f = 0


def test_weights_that_vary_inside_an_interval_of_several_steps_are_not_proved() -> None:
    net = on.nets.nonexpansive(3, 2, width=4, steps=4, depth="piecewise_linear")
    x = torch.randn(2, 3)
    assert nonexpansive(unroll(net, x)) and not nonexpansive(unroll(net.with_integrator("euler", steps=8), x))
    steady = on.nets.nonexpansive(3, 2, width=4, steps=4)
    assert nonexpansive(unroll(steady.with_integrator("euler", steps=8), x))  # two half steps: (1 + h_e/2)^2 and less


def drawn(seed: int) -> nn.Module:
    """A net of any of the fields that may be proved, with weights, steps and method drawn so that about half are."""
    g = np.random.default_rng(seed)
    width, steps, kind = int(g.integers(2, 6)), int(g.integers(1, 7)), int(g.integers(5))
    span = (0.0, float(g.uniform(0.3, 3.0)))
    depth = str(g.choice(["per_step", "piecewise_linear", "shared", "legendre:3"]))
    method = str(g.choice(["euler", "euler", "euler", "heun", "ssprk3", "midpoint"]))
    words = dict(width=width, steps=steps, span=span, depth=depth, integrator=method, seed=seed)
    if kind == 0:
        net = on.nets.parabolic(3, 2, gain=float(g.uniform(0.3, 2.5)), **words)
        return shaken(net, seed, 0.3)
    if kind == 1:
        return shaken(on.nets.get(str(g.choice(NETS[:2])))(3, 2, **words), seed, 2.0)
    if kind == 2:
        switching = str(g.choice(["alternate", "learned"]))
        net = shaken(
            on.nets.nonexpansive(3, 2, switching=switching, expansive=float(g.uniform(0, 2)), **words), seed, 2.0
        )
        return net if g.uniform() < 0.5 else net.with_integrator(method, steps=2 * steps)
    slopes = (float(g.uniform(-2, 0.4)), float(g.uniform(-2, 0.4)))  # both signs: some expand
    constraint = str(g.choice(["orthogonal", "spectral_cap", "free"]))
    field = Switching(width, slopes=slopes, activation=str(g.choice(["relu", "tanh", "elu"])), constraint=constraint)
    second = Parabolic(width, constraint="spectral_cap") if kind == 3 else Switching(width, slopes=slopes[::-1])
    parts = [on.Flow(f, method, depth=depth, span=span, steps=steps, seed=seed) for f in (field, second)]
    return shaken(on.nets.zoo.Chain(nn.Linear(3, width), *parts, nn.Linear(width, 2)), seed, 0.5)


def audit(seeds: range) -> tuple[int, int, float]:
    """(nets, proved nets, the largest stretch of a state that any proved net was seen to make)."""
    proved, worst = 0, 0.0
    for seed in seeds:
        torch.manual_seed(seed)
        u = unroll(drawn(seed), 2 * torch.randn(8, 3))
        if not nonexpansive(u):
            continue
        proved += 1

        def run(y: Tensor, layers: Any = u.layers) -> Tensor:
            for layer in layers:
                (y,) = layer.run((y,))
            return y

        y = u.states[0][0]
        worst = max(worst, stretch(run, torch.cat((y, 4 * torch.randn_like(y), 0.1 * y))))
    return len(seeds), proved, worst


def test_no_net_that_is_called_proved_stretches_a_state() -> None:
    nets, proved, worst = audit(range(40))
    assert worst <= 1.0 + 1e-9 and 10 <= proved <= nets - 10  # both verdicts occur


@pytest.mark.slow
def test_no_net_of_five_hundred_that_is_called_proved_stretches_a_state() -> None:
    nets, proved, worst = audit(range(1000, 1500))
    assert worst <= 1.0 + 1e-9 and proved >= nets // 4
