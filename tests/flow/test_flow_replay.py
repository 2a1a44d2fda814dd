"""Torch calls written down and made again: against the function itself, and what is not written down falls back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import odenet as on
from odenet.flow import Flow, Parallel
from odenet.flow.replay import write

DOUBLE = torch.float64


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def several_results(x: Tensor, W: Tensor) -> Tensor:
    a, (b, c) = x[:, :1], x[:, 1:].unbind(1)
    top = torch.max(x, dim=1)
    return torch.stack([a[:, 0] * b, c + top.values], 1) @ W[:2]


def in_place(x: Tensor, W: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 1]
    y[:, [1, 2]] = W[[0, 1]].sum(0)[:2].exp()
    y.mul_(2.0).add_(x)
    torch.add(x, 1.0, out=(z := torch.empty_like(x)))
    return y * z


def constants(x: Tensor, W: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.tensor(0.5, dtype=x.dtype)) @ W + torch.nn.functional.softplus(x, beta=2.0)


def of_weights_alone(x: Tensor, W: Tensor) -> Tensor:
    return (W.T - W).sum(0) + x.reshape(x.shape).mT.mT


@pytest.mark.parametrize("f", [several_results, in_place, constants, of_weights_alone])
def test_a_tape_gives_what_the_function_gives_for_other_tensors(f: Callable[..., Tensor]) -> None:
    out, tape = write(f, drawn(0, 4, 3), drawn(1, 3, 3))
    assert torch.equal(out, f(drawn(0, 4, 3), drawn(1, 3, 3)))
    x, W = drawn(2, 4, 3), drawn(3, 3, 3)
    assert torch.equal(tape(x, W), f(x, W)) and not torch.equal(tape(x, W), out)
    assert torch.equal(tape(x, W), f(x, W)) and torch.equal(x, drawn(2, 4, 3))  # nothing is left over from before


def test_a_tape_has_the_derivatives_of_the_function() -> None:
    _, tape = write(constants, drawn(0, 4, 3), drawn(1, 3, 3))
    given = [drawn(2, 4, 3).requires_grad_(), drawn(3, 3, 3).requires_grad_()]
    found, wanted = (torch.autograd.grad(f(*given).square().sum(), given) for f in (tape, constants))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


def test_calls_that_nothing_uses_are_left_out() -> None:
    def wasteful(x: Tensor) -> Tensor:
        x.exp().sin()
        return x * 2.0

    assert len(write(wasteful, drawn(0, 3))[1].calls) == 1
    assert len(write(in_place, drawn(0, 4, 3), drawn(1, 3, 3))[1].calls) > 6


class Rounded(torch.autograd.Function):
    """x rounded to eighths whose derivative is taken as 1: the calls inside know nothing of that."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (8 * x).round() / 8

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


class Quantised(torch.nn.Module):
    """tanh(Q(W) y) with rounded weights, trained straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.W = torch.nn.Parameter(drawn(4, 3, 3))

    def forward(self, y: Tensor) -> Tensor:
        return torch.tanh((y[..., None, :] * Rounded.apply(self.W)).sum(-1))


@pytest.mark.parametrize("depth", ["per_step", "shared"])
def test_a_function_with_a_derivative_of_its_own_keeps_it(depth: str) -> None:
    nets = [Flow(Quantised(), "euler", depth=depth, steps=16, gradient=g).double() for g in ("autograd", Parallel())]
    y = drawn(5, 4, 3)
    a, b = (torch.autograd.grad(net(y).square().sum(), tuple(net.parameters())) for net in nets)
    assert all(float((p - q).abs().amax()) < 1e-12 * float(q.abs().amax()) for p, q in zip(b, a))


def test_an_attribute_that_changes_between_two_passes_is_seen() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gain = torch.nn.Linear(3, 3).double(), 1.0
            self.register_buffer("shift", torch.zeros(3, dtype=DOUBLE))

        def forward(self, y: Tensor) -> Tensor:
            return self.gain * torch.tanh(self.linear(y)) + self.shift

    field, y = Scaled(), drawn(6, 4, 3)
    nets = [Flow(field, "midpoint", depth="shared", steps=16, gradient=g) for g in ("autograd", Parallel())]
    for gain, shift in ((1.0, 0.0), (0.5, 0.0), (0.5, 0.3)):
        field.gain = gain
        field.shift.fill_(shift)
        assert float((nets[0](y) - nets[1](y)).detach().abs().amax()) < 1e-13


def test_the_fast_path_is_taken_by_dense_fields() -> None:
    net = Flow(on.fields.Parabolic(3), "rk4", steps=16, gradient=Parallel()).double()
    net(drawn(7, 4, 3))
    from odenet.flow.abreast import rows_of

    assert set(rows_of(net.march, net.theta(), ()).works.values()) == {True}


def test_a_sum_with_a_multiple_is_one_call_and_only_where_it_means_the_same() -> None:
    def euler(x: Tensor, k: Tensor) -> Tensor:
        return x + 0.5 * k

    def kept(x: Tensor, k: Tensor) -> Tensor:
        return (m := 0.5 * k) + m * x + (x + k * x)

    def beside(x: Tensor, k: Tensor) -> Tensor:
        m = 0.5 * k
        return m * (x + k)

    def behind(x: Tensor, k: Tensor) -> Tensor:
        m = 0.5 * k
        total = x + k
        return total * m

    x, k = drawn(0, 4, 3), drawn(1, 4, 3)
    tape = write(euler, x, k)[1]
    assert [call.kwargs for call in tape.calls] == [{"alpha": 0.5}]
    for f in (euler, kept, beside, behind):
        assert torch.allclose(write(f, x, k)[1](k, x), f(k, x), rtol=1e-15, atol=1e-15)
