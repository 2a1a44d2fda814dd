"""Chains: what one flow hands to the next, and one reversible gradient over flows and transfers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.flow import Chain, Flow, Invertible, Transfer, sweep
from odenet.integrators import TwoStep

WIDTH = 6


class Turn(Invertible):
    """A rotation of the features: linear, and undone exactly."""

    def __init__(self, history: str = "map") -> None:
        super().__init__()
        self.history = history
        Q = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
        self.register_buffer("Q", Q[0].to(torch.get_default_dtype()))

    def forward(self, y: Tensor) -> Tensor:
        return y @ self.Q

    def inverse(self, y: Tensor) -> Tensor:
        return y @ self.Q.T


class Scale(Invertible):
    """A factor for each feature, learned."""

    history = "map"

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.s

    def inverse(self, y: Tensor) -> Tensor:
        return y / self.s


class Same(Transfer):
    """The identity."""

    def __init__(self, history: str) -> None:
        super().__init__()
        self.history = history

    def forward(self, y: Tensor) -> Tensor:
        return y.clone()


def field(name: str) -> on.fields.Field:
    if name in ("leapfrog", "wave", "lifted verlet"):
        return on.fields.SecondOrder(WIDTH)
    if name in ("verlet", "symplectic_euler"):
        return on.fields.SeparableHamiltonian(WIDTH)
    return on.fields.Antisymmetric(WIDTH)


def method(name: str) -> Any:
    if name == "wave":
        return TwoStep(-1.0, gain=1.0, power=2, start="paper")
    return {"lifted verlet": "verlet"}.get(name, name)


def flow(name: str, steps: int = 3, seed: int = 0, **options: Any) -> Flow:
    return Flow(field(name), method(name), steps=steps, span=(0.0, 0.25 * steps), seed=seed, **options)


def halves(whole: Flow, name: str) -> tuple[Flow, Flow]:
    """Two flows with the weights of one of twice the steps."""
    n = whole.steps // 2
    first, second = flow(name, n), flow(name, n)
    for part, cut in ((first, slice(0, n)), (second, slice(n, None))):
        with torch.no_grad():
            for k, w in part.weights.items():
                w.copy_(whole.weights[k][cut])
            for k, c in part.coefficients.items():
                c.copy_(whole.coefficients[k][cut])
    return first, second


PAST = ["leapfrog", "wave", "momentum", "lm", "two_step_midpoint", "ab3", "alf", "reversible_rk4"]
MEMORY = [*PAST, "lifted verlet"]
NONE = ["rk4", "verlet", "symplectic_euler"]


@pytest.mark.parametrize("name", MEMORY)
def test_two_flows_with_a_mapping_identity_between_are_one_flow_of_all_their_steps(name: str, double: None) -> None:
    whole, y = flow(name, 6), torch.randn(4, WIDTH)
    first, second = halves(whole, name)
    chain = Chain(first, Same("map"), second)
    assert torch.equal(chain(y), whole(y))
    middle, memory = first.resume(y)
    assert torch.equal(second.resume(middle, memory)[0], whole(y)) and all(m.shape == y.shape for m in memory)
    afresh = second(first(y))
    assert torch.equal(Chain(first, Same("reset"), second)(y), afresh) and torch.equal(Chain(first, second)(y), afresh)
    assert torch.equal(second.resume(middle)[0], afresh)
    assert float((afresh - whole(y)).detach().norm()) > 1e-6


@pytest.mark.parametrize("name", NONE)
def test_a_method_without_memory_does_not_care_what_a_transfer_does_with_it(name: str) -> None:
    first, second, y = flow(name), flow(name, seed=1), torch.randn(4, WIDTH)
    assert first.resume(y)[1] == ()
    for history in ("map", "reset"):
        assert torch.equal(Chain(first, Same(history), second)(y), second(first(y)))


def test_the_memory_of_a_two_step_method_is_the_state_before_and_of_a_lifted_one_its_velocity(double: None) -> None:
    y = torch.randn(4, WIDTH)
    two = flow("leapfrog")
    assert torch.equal(two.resume(y)[1][0], two.trajectory(y)[-2])
    lifted = flow("lifted verlet")
    (velocity,) = lifted.resume(y)[1]
    assert torch.equal(velocity, lifted.trajectory(y, full=True)[-1][:, WIDTH:])


def test_a_transfer_maps_the_state_and_the_state_before_it(double: None) -> None:
    """y_{n+1} = 2 y_n - y_{n-1} + h^2 f(y_n), with (y_n, y_{n-1}) turned between the third step and the fourth."""
    first, turn, second, y = flow("wave"), Turn(), flow("wave", 2, seed=1), torch.randn(4, WIDTH)
    before = now = y
    for part in (first, second):
        for n in range(part.steps):
            K, b = part.weights["K"][n], part.weights["b"][n]
            before, now = now, 2 * now - before - 0.25**2 * torch.tanh(now @ K.T + b) @ K
        if part is first:
            before, now = before @ turn.Q, now @ turn.Q
    torch.testing.assert_close(Chain(first, turn, second)(y), now, rtol=1e-12, atol=1e-12)


def chains(name: str, gradient: str = "flows", inner: str = "autograd") -> Chain:
    """Opening, three flows with two transfers that hand the memory on, and one that does not, head."""
    a, b, c, d = (flow(name, 3, seed=s, gradient=inner) for s in range(4))
    torch.manual_seed(5)
    ends = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 2)
    return Chain(ends[0], a, Turn(), b, Scale(), Turn(), c, Turn("reset"), d, ends[1], gradient=gradient)


@pytest.mark.parametrize("name", [*MEMORY, *NONE])
def test_forward_trajectory_layers_sweep_and_evaluations_agree(name: str, double: None) -> None:
    net, x = chains(name), torch.randn(5, 4)
    out = net(x)
    state: Any = x
    for layer in net.layers():
        state = layer(state)
    assert torch.equal(state, out)
    states = net.trajectory(x)
    assert len(states) == len(net.layers()) + 1 == 4 * 3 + 6 + 1
    assert torch.equal(states[0], x) and torch.equal(states[-1], out)
    assert torch.equal(net.parts[2](states[4]), states[5]) and torch.equal(net.parts[4](states[8]), states[9])
    found = sweep(net, x, lambda y: (y**2).sum())
    for (key, p), g in zip(net.named_parameters(), torch.autograd.grad((out**2).sum(), list(net.parameters()))):
        torch.testing.assert_close(found.gradients[key], g, rtol=1e-11, atol=1e-13, msg=f"{key} {p.shape}")
    lengths = [part.nfe(torch.randn(1, WIDTH)) for part in net.flows()]
    starts = {"ab3": 2, "alf": 1}.get(name, 0)  # evaluations that two flows, which go on, save at their start
    saved = 2 * starts if name != "ab3" else 2 * (lengths[0] - 3)
    assert net.nfe(x) == sum(lengths) - saved


def grads(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = net(x)
    found = torch.autograd.grad((out * torch.linspace(-1.0, 2.0, out.shape[-1])).sum(), [x, *net.parameters()])
    return [out.detach(), *found]


REVERSIBLE = ["leapfrog", "wave", "momentum", "two_step_midpoint", "alf", "reversible_rk4", *NONE[1:], "lifted verlet"]


@pytest.mark.parametrize("name", REVERSIBLE)
def test_the_reversible_gradient_of_a_chain_equals_autograd(name: str, double: None) -> None:
    x = torch.randn(5, 4)
    plain, back = chains(name), chains(name, "reversible")
    for ours, theirs in zip(grads(back, x), grads(plain, x), strict=True):
        assert float((ours - theirs).norm()) <= 1e-10 * float(theirs.norm())


@pytest.mark.parametrize("inner", ["checkpoint", "discrete", "reversible"])
@pytest.mark.parametrize("name", ["leapfrog", "momentum", "lifted verlet"])
def test_flows_with_gradients_of_their_own_hand_their_memory_on(name: str, inner: str, double: None) -> None:
    x = torch.randn(5, 4)
    for ours, theirs in zip(grads(chains(name, inner=inner), x), grads(chains(name), x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_reversible_chains_pass_gradcheck(double: None) -> None:
    for name in ("leapfrog", "verlet", "lifted verlet"):
        assert torch.autograd.gradcheck(chains(name, "reversible"), (torch.randn(2, 4, requires_grad=True),))


def test_what_is_dropped_in_training_is_the_same_on_the_way_back(double: None) -> None:
    def net(gradient: str) -> Chain:
        fields = [on.fields.SecondOrder(WIDTH, dropout=0.4, norm="batch") for _ in range(2)]
        flows = [Flow(f, "leapfrog", steps=3, seed=k) for k, f in enumerate(fields)]
        return Chain(flows[0], Turn(), flows[1], gradient=gradient)

    x, found = torch.randn(8, WIDTH), []
    for gradient in ("flows", "reversible"):
        torch.manual_seed(3)
        found.append(grads(net(gradient), x))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_seeds_as_a_batch_axis_give_the_gradients_one_by_one(double: None) -> None:
    a, b = flow("leapfrog"), flow("leapfrog", seed=1)
    net, x = Chain(a, Turn(), b, gradient="reversible"), torch.randn(3, 5, WIDTH)
    weights = {k: torch.stack([p.detach() * f for f in (0.5, 1.0, 2.0)]) for k, p in net.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return (torch.func.functional_call(net, p, (x,)) ** 2).sum()

    together = torch.func.vmap(torch.func.grad(loss))(weights, x)
    for s in range(3):
        one = {k: w[s].clone().requires_grad_() for k, w in weights.items()}
        alone = torch.autograd.grad(loss(one, x[s]), list(one.values()))
        for (k, g), h in zip(together.items(), alone):
            torch.testing.assert_close(g[s], h, rtol=1e-10, atol=1e-12, msg=k)


# ---- memory --------------------------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """The largest number of bytes in tensors that were alive at once, of those made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                store = x.untyped_storage()
                ref = StorageWeakRef(store)
                self.alive[ref.cdata] = (ref, store.nbytes())
        self.alive = {k: (ref, n) for k, (ref, n) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(n for _, n in self.alive.values()))
        return out


def peak(make: Callable[[], nn.Module], x: Tensor) -> int:
    """Of one forward and backward pass."""
    net = make()
    with Live() as live:
        (net(x) ** 2).sum().backward()
    return live.peak


def kept(net: nn.Module, x: Tensor) -> int:
    """Bytes of different storages that wait for the backward pass, without those of the weights."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = net(x)
        total = sum(sizes.values())
    assert out.requires_grad
    return total


def deep(gradient: str, flows: int, steps: int) -> Chain:
    parts: list[nn.Module] = []
    for k in range(flows):
        parts += [Turn()] if k else []
        parts.append(Flow(on.fields.SecondOrder(WIDTH), "leapfrog", depth="shared", steps=steps, span=(0.0, 0.5)))
    return Chain(*parts, gradient=gradient)


def test_the_memory_of_a_reversible_chain_grows_neither_with_its_flows_nor_with_their_depth() -> None:
    x = torch.randn(4096, WIDTH)
    state = x.numel() * x.element_size()
    sizes = {(f, n): kept(deep("reversible", f, n), x) for f, n in ((2, 4), (2, 32), (8, 4))}
    assert len(set(sizes.values())) == 1 and sizes[2, 4] <= 4 * state  # the start, the end, and the memory there
    assert kept(deep("flows", 2, 32), x) > 6 * kept(deep("flows", 2, 4), x)
    tops = {(f, n): peak(lambda f=f, n=n: deep("reversible", f, n), x) for f, n in ((2, 4), (2, 32), (8, 4))}
    assert max(tops.values()) <= 1.01 * min(tops.values())  # gradients of the weights grow with the flows
    assert peak(lambda: deep("flows", 2, 32), x) > 5 * peak(lambda: deep("flows", 2, 4), x)


def test_what_cannot_be_undone_splits_a_chain_into_runs(double: None) -> None:
    """Pooling between two flows keeps what pooling needs; a memory that is dropped is kept before."""
    x = torch.randn(64, WIDTH)
    state = x.numel() * x.element_size()
    one = Chain(flow("leapfrog"), Turn(), flow("leapfrog"), gradient="reversible")
    two = Chain(flow("leapfrog"), Turn("reset"), flow("leapfrog"), gradient="reversible")
    assert kept(one, x) == 3 * state and kept(two, x) == 5 * state  # the end of one is the start of the other
    short = Chain(flow("verlet"), Turn("reset"), flow("verlet"), gradient="reversible")
    assert kept(short, x) == 2 * state
    mixed = Chain(flow("rk4"), Turn(), flow("verlet"), nn.Linear(WIDTH, 2), gradient="reversible")
    for ours, theirs in zip(grads(mixed, x), grads(Chain(*mixed.parts), x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_a_chain_under_another_method_keeps_its_gradient_where_that_can_be(double: None) -> None:
    net, x = chains("verlet", "reversible"), torch.randn(5, 4)
    assert net.with_integrator("symplectic_euler").gradient == "reversible"
    other = net.with_integrator("rk4")
    assert other.gradient == "flows"
    y = net.parts[0](x)
    for k, part in enumerate(net.parts[1:], 1):
        y = part.with_integrator("rk4")(y) if isinstance(part, Flow) else net.parts[k](y)
    assert torch.equal(other(x), y)


class Off(Turn):
    """Says that it can be undone, and is wrong."""

    def inverse(self, y: Tensor) -> Tensor:
        return 1.01 * (y @ self.Q.T)


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Chain(), BadInput, "Chain takes modules in a row"),
    (lambda: Chain(flow("verlet"), gradient="revers"), BadInput, "gradient of a chain is 'flows' .* got 'revers'"),
    (lambda: Chain(flow("rk4"), gradient="reversible"), Incompatible, "needs an integrator with an inverse; 'rk4'"),
    (lambda: Chain(nn.Linear(2, 2), gradient="reversible"), Incompatible, "is that of flows, and this chain has none"),
    (lambda: Chain(flow("leapfrog"), Turn(), flow("wave")), Incompatible, "their methods are 'leapfrog' and ''"),
    (lambda: Chain(flow("momentum"), Turn(), flow("lm")), Incompatible, "their methods are 'momentum' and 'lm'"),
    (lambda: Chain(flow("leapfrog"), Turn(), flow("lifted verlet")), Incompatible, "a velocity or a past that the"),
    (lambda: Chain(flow("leapfrog"), Turn(), Flow(field("leapfrog"), "leapfrog", steps=8)), Incompatible,
     r"their steps are 0\.25 and 0\.125; give both flows the same"),
    (lambda: Chain(flow("leapfrog", gradient="binomial"), Turn(), flow("leapfrog")), Incompatible,
     "'binomial' differentiates a flow from its start, so it hands no memory on"),
    (lambda: flow("verlet", gradient="exact").resume(torch.randn(2, WIDTH)), Incompatible, "so it hands no memory on"),
    (lambda: grads(Chain(flow("leapfrog"), Off(), flow("leapfrog"), gradient="reversible"), torch.randn(3, WIDTH)),
     Incompatible, "ran the steps backwards and missed the start by 1.1e-02"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "sentence"), WRONG)
def test_what_cannot_work_is_refused_in_one_line(make: Callable[[], Any], kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_reversible_chain_has_a_first_derivative_only() -> None:
    net, x = chains("verlet", "reversible"), torch.randn(2, 4, requires_grad=True)
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    with pytest.raises(Incompatible, match="has a first derivative only"):
        g.sum().backward()
