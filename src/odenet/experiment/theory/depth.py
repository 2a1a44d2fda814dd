"""|dy_N/dy_j| from 16 to 1024 layers with independent random weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...fields import Antisymmetric, Field, Parabolic, Rhs, SeparableHamiltonian
from ...flow import Flow
from ...types import Params
from .case import Case, Figure, Finding, Series, number, within

DEPTHS = (16, 64, 256, 1024)
WIDTH, SPAN = 32, 16.0
TINY = 1e-12


def gradients(tell: Callable[[float], None]) -> Case:
    """Plain, parabolic, antisymmetric and Hamiltonian layers: what is left of a gradient after N layers."""
    measured = {
        "plain tanh layers": [_linear(_plain(n)) for n in DEPTHS],
        "parabolic, euler": [_linear(_flow(Parabolic(WIDTH), "euler", n)) for n in DEPTHS],
        "antisymmetric, rk4": [_linear(_flow(Antisymmetric(WIDTH, gamma=0.0), "rk4", n)) for n in DEPTHS],
        "hamiltonian, verlet": [_smallest(_flow(SeparableHamiltonian(WIDTH), "verlet", n)) for n in DEPTHS],
    }
    tell(1.0)
    predicted = [[_lyapunov(n) for n in DEPTHS], [_mean_square(n) for n in DEPTHS], [1.0] * 4, [1.0] * 4]
    curves = []
    for (name, values), expected in zip(measured.items(), predicted):
        curves += [Series(name, DEPTHS, expected, "predicted"), Series(name, DEPTHS, values)]
    return Case(
        "Gradients at depth 16 to 1024",
        f"Independent random weights, width {WIDTH}; ODE layers at fixed span {SPAN:g}; |dy_N/dy_0| at 0 is the root "
        "mean square over directions; for the Hamiltonian the smallest |dy_N/dy_j|_2 over j from a random state",
        "plain: within three standard deviations of log |dy_N/dy_0|; parabolic: within a factor 2; antisymmetric: "
        "within 5 % of 1; hamiltonian: never below 1",
        _findings(*measured.values()),
        Figure("layers N", "|dy_N / dy_0|", curves, {}, floor=1e-20),
    )


def _findings(plain: list[float], parabolic: list[float], turning: list[float], verlet: list[float]) -> list[Finding]:
    deepest = DEPTHS[-1]
    fades, averages = _lyapunov(deepest), _mean_square(deepest)
    spread = math.exp(3 * math.sqrt(deepest / (2 * WIDTH)))  # var of log |G v|: trigamma(n/2)/4, about 1/(2n)
    return [
        Finding(
            "plain tanh layers, 1024 of them",
            f"vanishes: {number(fades)} (product of random matrices)",
            number(plain[-1]),
            within(plain[-1], fades, spread),
        ),
        Finding(
            "parabolic under euler, 1024 layers",
            f"{number(averages)}, near exp(-{SPAN:g}) (averaging)",
            number(parabolic[-1]),
            within(parabolic[-1], averages, 2.0),
        ),
        Finding(
            "antisymmetric under rk4, 1024 layers",
            "1 (rotations)",
            number(turning[-1]),
            within(turning[-1], 1.0, 1.05),
        ),
        Finding(
            "hamiltonian under verlet, 16 to 1024 layers",
            "≥ 1 for every j (symplectic)",
            f"smallest {number(min(verlet))}",
            min(verlet) >= 1.0 - 1e-12,
        ),
    ]


def _lyapunov(layers: int) -> float:
    """E log |G v| for G (n, n) with entries of variance 1/(3n): log(3^-1/2) + (log(2/n) + digamma(n/2))/2 per layer."""
    rate = -0.5 * math.log(3.0) + 0.5 * (
        math.log(2.0 / WIDTH) + float(torch.special.digamma(torch.tensor(WIDTH / 2.0)))
    )
    return math.exp(layers * rate)


def _mean_square(layers: int) -> float:
    """Root of E|(I - h K^T K) v|^2 per layer, entries of K of variance 1/n: 1 - 2h + (2 + 1/n) h^2."""
    h = SPAN / layers
    return (1 - 2 * h + (2 + 1 / WIDTH) * h * h) ** (layers / 2)


def _plain(layers: int) -> nn.Module:
    """tanh(W y) with torch's own initial weights, uniform of variance 1/(3n)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)]
    return nn.Sequential(*[part for each in linear for part in (each, nn.Tanh())]).double()


def _flow(field: Field, scheme: str, layers: int) -> Flow:
    return Flow(field, scheme, span=(0.0, SPAN), steps=layers, seed=0).double()


@torch.no_grad()
def _linear(net: nn.Module) -> float:
    """Root mean square over directions of |dy_N/dy_0 v| at 0, by stepping the unit vectors."""
    map = net(TINY * torch.eye(WIDTH, dtype=torch.float64)) / TINY
    largest = float(map.abs().max())  # the squares would underflow
    return largest * float((map / largest).norm()) / math.sqrt(WIDTH)


@torch.no_grad()
def _smallest(flow: Flow) -> float:
    """min over j of |dy_N/dy_j|_2 along a trajectory, from the Jacobians of all layers at once."""
    y = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def step(state: Tensor, p: Params) -> Tensor:
        return flow.integrator.step(Rhs(flow.field, p), 0.0, state[None], flow.h, (), None).y[0]

    jacobians = torch.func.vmap(torch.func.jacrev(step))(flow.trajectory(y)[:-1, 0], flow.theta())
    S, norms = torch.eye(WIDTH, dtype=torch.float64), []
    for J in jacobians.flip(0):
        S = S @ J
        norms.append(float(torch.linalg.matrix_norm(S, ord=2)))
    return min(norms)
