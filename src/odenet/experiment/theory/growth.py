"""Where the stability function says everything: states near zero, where a tanh layer is its linear part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import integrators
from ...fields import Antisymmetric, Parabolic
from ...flow import Flow
from .case import Case, Figure, Finding, Series, number, within

DEPTHS = (16, 32, 64, 128, 256, 512, 1024)
WIDTH, SPAN, FREQUENCY = 16, 16.0, 1.5  # h omega runs from 1.5 at 16 layers down to 0.023 at 1024
TINY = 1e-12  # grown a millionfold, tanh(x) is still x to double precision
SCHEMES = ("euler", "two_step_midpoint", "rk4")


@torch.no_grad()
def oscillation(tell: Callable[[float], None]) -> Case:
    """Antisymmetric field, gamma = 0: |y_N| / |y_0| in the worst direction against max_k |R(i h w_k)|^N."""
    rows, curves = [], []
    for scheme in SCHEMES:
        pairs = [_oscillating(scheme, n) for n in DEPTHS]
        predicted, measured = zip(*pairs)
        # a two-step method adds a start-up factor to its dominant root
        factor = 2.0 if integrators.get(scheme).history else 1.02
        limit = integrators.get(scheme).facts.imag_interval or 0.0
        above = (
            f"stable for h ω ≤ {limit:.3g}, here from {SPAN * FREQUENCY / limit:.0f} layers"
            if limit
            else "unstable at every h"
        )
        rows.append(
            Finding(
                f"antisymmetric under {scheme}, depth 16 to 1024",
                f"{above}; {_at_depths(predicted)}",
                _at_depths(measured),
                all(within(m, p, factor) for p, m in pairs),
            )
        )
        curves += [Series(scheme, DEPTHS, predicted, "predicted"), Series(scheme, DEPTHS, measured)]
        tell(len(rows) / len(SCHEMES))
    return Case(
        "Growth of an oscillation at fixed span",
        f"y' = tanh(K y), K antisymmetric with frequencies up to {FREQUENCY}, span {SPAN:g}, states near 0",
        "one-step methods: within 2 % at every depth; two-step: within a factor 2, the constant of its start",
        rows,
        Figure("layers N", "growth of the worst direction", curves, {}),
    )


def _at_depths(growth: Sequence[float]) -> str:
    return ", ".join(f"×{number(growth[i])} at {DEPTHS[i]}" for i in (0, 2, -1))


def _oscillating(scheme: str, layers: int) -> tuple[float, float]:
    flow = Flow(Antisymmetric(WIDTH, gamma=0.0), scheme, depth="shared", span=(0.0, SPAN), steps=layers).double()
    W = flow.weights["K"]
    frequencies = torch.linalg.eigvals(flow.theta()["K"][0]).imag
    W.mul_(FREQUENCY / frequencies.max())
    z = 1j * flow.h * frequencies * (FREQUENCY / frequencies.max())
    predicted = float(flow.integrator.amplification(z).abs().max()) ** layers
    return predicted, _worst(flow)


def _worst(flow: Flow) -> float:
    """Spectral norm of the map y_0 -> y_N at 0, by stepping the unit vectors."""
    unit = TINY * torch.eye(WIDTH, dtype=torch.float64)
    return float(torch.linalg.matrix_norm(flow(unit) / TINY, ord=2))


@torch.no_grad()
def contraction(tell: Callable[[float], None]) -> Case:
    """Parabolic layers under Euler: input noise against max_k |1 - h s_k^2|^N, s_k singular values of K."""
    products = (0.5, 1.0, 1.5, 1.9, 2.1, 2.5, 3.0, 4.0)
    pairs = [_contracting(p) for p in products]
    tell(1.0)
    predicted, measured, anywhere = zip(*pairs)
    rows = []
    for p in (1.9, 2.1, 3.0):
        i = products.index(p)
        says = "no noise grows" if p <= 2 else f"the worst noise grows ×{number(predicted[i])}"
        held = within(measured[i], predicted[i], 1.02) and (p > 2 or max(measured[i], anywhere[i]) <= 1.0)
        extra = f"; elsewhere at most ×{number(anywhere[i])}" if p <= 2 else ""
        rows.append(
            Finding(
                f"parabolic under euler, h|K|² = {p}, 16 layers",
                says,
                f"×{number(measured[i])}{extra}",
                held,
            )
        )
    return Case(
        "Input noise through parabolic layers",
        "y' = -K^T tanh(K y), shared weights, 16 Euler steps; noise at 0 in all directions, and between random states",
        "h|K|² ≤ 2: nothing grows anywhere; above: the growth at 0 within 2 %",
        rows,
        Figure(
            "h |K|²",
            "growth of the worst noise",
            [Series("euler", products, predicted, "predicted"), Series("euler", products, measured)],
            {"h |K|² = 2": 2.0},
            log_x=False,
        ),
    )


def _contracting(product: float) -> tuple[float, float, float]:
    """Predicted and measured growth at 0, and the largest growth between 256 random pairs of states."""
    flow = Flow(Parabolic(WIDTH), "euler", depth="shared", span=(0.0, 1.0), steps=16).double()
    K = flow.weights["K"]
    K.mul_((product / flow.h) ** 0.5 / torch.linalg.matrix_norm(K[0], ord=2))
    singular = torch.linalg.svdvals(K[0])
    predicted = float((1 - flow.h * singular**2).abs().max()) ** 16
    return predicted, _worst(flow), _between(flow)


def _between(flow: Flow) -> float:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(256, WIDTH, generator=draw, dtype=torch.float64)
    b = a + 0.1 * torch.randn(256, WIDTH, generator=draw, dtype=torch.float64)
    apart: Tensor = (flow(a) - flow(b)).norm(dim=1) / (a - b).norm(dim=1)
    return float(apart.max())
