"""Thousands of reversible layers: the gradient of a loop written by hand, in memory that does not grow with depth."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import odenet as on
from odenet.errors import Incompatible
from odenet.flow.exact import WholeTwoStep, remainders

pytestmark = pytest.mark.usefixtures("double")

WIDTH, HALF = 4, 2
DEEP = [(300, 8.0), pytest.param(10_000, 100.0, marks=pytest.mark.slow)]


def flow(depth: str, steps: int, end: float, gradient: str = "reversible", integrator: str = "verlet") -> on.Flow:
    made = on.Flow(
        on.fields.SeparableHamiltonian(WIDTH), integrator, depth=depth, steps=steps, span=(0.0, end), gradient=gradient,
        seed=3, init="constant",
    )  # fmt: skip
    with torch.no_grad():
        for w in made.parameters():  # smooth in depth
            t = torch.linspace(0.0, end, len(w)).reshape(-1, *[1] * (w.dim() - 1))
            w.mul_(1 + 0.3 * torch.sin(t))
    return made


def by_hand(made: on.Flow, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Kick, drift, kick with theta at the knots between which a step lies, linear between them."""
    q, p = y[:, :HALF], y[:, HALF:]
    steps = made.steps
    h = (made.span[1] - made.span[0]) / steps

    def at(name: str, n: int, share: float) -> Tensor:
        w = weights[name]
        return w[0] if len(w) == 1 else (1 - share) * w[n] + share * w[n + 1]

    def kick(q: Tensor, n: int, share: float) -> Tensor:
        K, b = at("K2", n, share), at("b2", n, share)
        return -torch.tanh(q @ K.T + b) @ K

    for n in range(steps):
        p = p + h / 2 * kick(q, n, 0.0)
        K, b = at("K1", n, 0.5), at("b1", n, 0.5)
        q = q + h * (torch.tanh(p @ K.T + b) @ K)
        p = p + h / 2 * kick(q, n, 1.0)
    return torch.cat((q, p), 1)


def loss(y: Tensor) -> Tensor:
    return (torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape) * y**2).sum()


@pytest.mark.parametrize(("steps", "end"), DEEP, ids=str)
@pytest.mark.parametrize("depth", ["shared", "piecewise_linear"])
def test_running_backwards_gives_the_gradient_of_a_loop_written_by_hand(depth: str, steps: int, end: float) -> None:
    made, y = flow(depth, steps, end), torch.randn(4, WIDTH)
    ours = torch.autograd.grad(loss(made(y.requires_grad_())), [y, *made.weights.values()])
    if depth == "shared":
        weights = {k: w.detach().requires_grad_() for k, w in made.weights.items()}
        theirs = torch.autograd.grad(loss(by_hand(made, y, weights)), [y, *weights.values()])
    else:  # one leaf for every knot: slices of one tensor cost O(N^2) on the way back
        rows = {k: [r.detach().requires_grad_() for r in w] for k, w in made.weights.items()}
        leaves = [r for several in rows.values() for r in several]
        found = torch.autograd.grad(loss(by_hand(made, y, rows)), [y, *leaves])  # type: ignore[arg-type]
        cuts = found[1:]
        theirs = (found[0], *(torch.stack(cuts[i * (steps + 1) : (i + 1) * (steps + 1)]) for i in range(len(rows))))
    for a, b in zip(ours, theirs, strict=True):
        error = float((a - b).norm() / b.norm())
        print(f"{depth}, {steps} steps to t = {end:g}: relative error of a gradient {error:.1e}")
        assert error < 1e-10


def test_the_costate_sweep_over_single_layers_ends_in_the_reversible_gradient() -> None:
    made, y = flow("piecewise_linear", 60, 5.0), torch.randn(4, WIDTH)
    swept = on.flow.sweep(on.Chain(made), y, loss)
    assert len(swept.states) == 61
    ours = torch.autograd.grad(loss(made(y.requires_grad_())), [y, *made.parameters()])
    torch.testing.assert_close(-swept.costates[0], ours[0], rtol=1e-11, atol=1e-12)
    for (name, _), g in zip(made.named_parameters(), ours[1:]):
        [mine] = [v for k, v in swept.gradients.items() if k.endswith(name)]
        torch.testing.assert_close(mine, g, rtol=1e-11, atol=1e-12)


# ---- memory --------------------------------------------------------------------------------------------------------


class Alive(TorchDispatchMode):
    """The largest number of bytes in tensors that were alive at once, of those made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = self.peak = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (ref := StorageWeakRef(store := x.untyped_storage())).cdata not in self.sizes:
                self.sizes[ref.cdata] = (ref, store.nbytes())
                self.total += store.nbytes()
        self.calls += 1
        if self.calls % 16 == 0 or self.total > self.peak:  # the dead are buried where they could matter
            self.sizes = {k: (ref, n) for k, (ref, n) in self.sizes.items() if not ref.expired()}
            self.total = sum(n for _, n in self.sizes.values())
            self.peak = max(self.peak, self.total)
        return out


def peak(depth: str, steps: int, gradient: str = "reversible") -> int:
    """Of a forward and a backward pass on 256 states, in units of one state."""
    made, y = flow(depth, steps, 5.0, gradient), torch.randn(256, WIDTH)
    with Alive() as alive:
        loss(made(y)).backward()
    print(f"{depth}, {gradient}, {steps} layers: {alive.peak} bytes, states of {256 * WIDTH * 8} bytes")
    return alive.peak


@pytest.mark.parametrize(("few", "many"), [(8, 64), pytest.param(1000, 10_000, marks=pytest.mark.slow)])
def test_the_peak_of_shared_weights_does_not_grow_at_all(few: int, many: int) -> None:
    assert peak("shared", many) == peak("shared", few)
    if many == 64:
        assert peak("shared", many, "autograd") > 4 * peak("shared", few, "autograd")


@pytest.mark.parametrize(("few", "many"), [(8, 64), pytest.param(1000, 10_000, marks=pytest.mark.slow)])
def test_the_peak_of_weights_of_every_layer_grows_by_them_and_their_gradients_and_no_state(few: int, many: int) -> None:
    """A knot has 2 (2 x 2 + 2) numbers: their copies and gradients, while a state has 1024."""
    knot = 8 * sum(w[0].numel() for w in flow("piecewise_linear", 2, 1.0).parameters())
    grown = peak("piecewise_linear", many) - peak("piecewise_linear", few)
    assert 0 <= grown <= 4 * knot * (many - few) < 0.1 * 256 * WIDTH * 8 * (many - few)


# ---- whole numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["momentum", "leapfrog"])
@pytest.mark.parametrize("steps", [2, 379, 382, 1000])
def test_the_bits_that_are_reported_are_those_that_are_kept(name: str, steps: int) -> None:
    field = on.fields.SecondOrder(WIDTH) if name == "leapfrog" else on.fields.Free(WIDTH)
    y, kept = torch.randn(3, WIDTH), [0]
    made = on.Flow(field, name, depth="shared", steps=steps, span=(0.0, 0.01 * steps), gradient="exact")

    def pack(t: Tensor) -> Tensor:
        kept[0] += 8 * t.numel() if t.dtype == torch.int64 else 0
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        made(y.requires_grad_())
    assert 8 * kept[0] == y.numel() * (64 + 64 + remainders(name, steps).stored)  # position, velocity, remainders


def test_the_bits_of_momentum_by_hand() -> None:
    """k = -9/10: log2(10/9) = .152 bits for each of 999 divisions; an integer below 2^62 holds about 62/.152 = 408 of
    them, less what rounding up the count of values costs."""
    found = remainders("momentum", 1000)
    assert on.integrators.get("momentum").k == -0.9
    assert found.needed == pytest.approx(999 * math.log2(10 / 9)) == pytest.approx(151.85, abs=0.01)
    assert found.stored == 64 * math.ceil(999 / 380) == 192
    values = Fraction(1)  # of the remainders after so many divisions, each a choice of ten for nine
    for _ in range(380):
        values = Fraction(math.ceil(values * 10 / 9))
    assert 2**54 < values < 2**62
    assert (remainders("leapfrog", 1000).needed, remainders("verlet", 1000).needed) == (0.0, 0.0)
    assert remainders("momentum", 1).needed == 0.0
    with pytest.raises(Incompatible, match="steps whole numbers, which two-step methods of fixed k and splittings can"):
        remainders("rk4", 10)


def test_no_remainder_is_larger_than_its_integer_is_said_to_hold() -> None:
    """Velocities drawn at random shrink by 9/10; the largest entry stays below the bound, and near it."""
    run = WholeTwoStep(on.integrators.get("momentum"), torch.randn(4000, 1), 44)  # type: ignore[arg-type]
    run.V = torch.randint(-(2**50), 2**50, (4000, 1))
    V, seen = run.V, []
    for _ in range(100):
        run.V = run._shrunk() + torch.randint(-(2**40), 2**40, (4000, 1), generator=torch.Generator().manual_seed(1))
        seen.append((int(run.R.max()), run.largest))
    assert all(0 <= most <= bound for most, bound in seen) and seen[-1][0] > 0.5 * seen[-1][1]
    for _ in range(100):
        run.V = run.V - torch.randint(-(2**40), 2**40, (4000, 1), generator=torch.Generator().manual_seed(1))
        run._grow()
    assert torch.equal(run.V, V) and not bool(run.R.any())
