"""Named architectures on images, each one line: opening -> (Flow -> connector) x blocks -> mean over pixels -> scores.

All take `preset` "cifar10", "cifar100" or "stl10", or `channels, classes, size` of the images and `widths` of the
blocks; `steps` in every block over `span` (default (0, steps), so h = 1); `integrator`, `depth`, `gradient`,
`activation`, `norm`, `seed`. They map (B, C, size, size), flat or not, to scores (B, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import Parabolic, Residual, SecondOrder, SeparableHamiltonian
from ..fields import activations as functions
from ..flow import Chain, Flow, Transfer
from .base import net
from .baselines import AsImage
from .initialisers import initialise
from .stages import Preset, head, opening, shape_of, stages
from .transfer import Connector, PadChannels
from .zoo import WAVE

# ------------------------------------------------------------------------------------- blocks joined by connectors


def _joined(cols: int, rows: int, activation: str) -> list[nn.Module]:
    return [Connector(cols, rows, activation)]


def _widened(shape: Preset, activation: str) -> list[nn.Module]:
    return [Connector(shape.widths[-1], shape.last, activation, halve=False), head(shape.last, shape.classes)]


pde_net = partial(stages, between=_joined, end=_widened, norm="tv")

parabolic_cnn = pde_net(
    "parabolic_cnn", partial(Parabolic, map="conv2d"), ("euler", "midpoint", "rk4"),
    "Ruthotto & Haber 2020 (arXiv 1804.04272), eq. 7-9",
    "y' = -K^T s(N(K y)) with N the total-variation norm, under forward Euler with h = 1: the contracting CNN, to be "
    "chosen where images are noisy. Its parameters on CIFAR-10, CIFAR-100 and STL-10 are as many as published.",
)  # fmt: skip
hamiltonian_cnn = pde_net(
    "hamiltonian_cnn", partial(SeparableHamiltonian, map="conv2d"), ("symplectic_euler", "verlet", "rk4"),
    "Ruthotto & Haber 2020 (arXiv 1804.04272), eq. 10",
    "q' = K1^T s(N(K1 p)), p' = -K2^T s(N(K2 q)) on halves of the channels under the partitioned method that the paper "
    "calls Verlet: reversible, with half the weights of the other two. The choice for deep nets on little memory.",
)  # fmt: skip
second_order_cnn = pde_net(
    "second_order_cnn", partial(SecondOrder, map="conv2d"), ("leapfrog", "verlet", "rk4"),
    "Ruthotto & Haber 2020 (arXiv 1804.04272), eq. 11",
    "y'' = -K^T s(N(K y)), y_{n+1} = 2 y_n - y_{n-1} + h^2 f(y_n), y_{-1} = y_0: features travel as waves instead of "
    "diffusing.",
    scheme=WAVE,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------- residual nets


class Downsample(Transfer):
    """Residual block that halves the resolution: P y + branch(y) with a branch of stride 2 from cols to rows channels.

    P keeps every second pixel and appends zero channels, so the shortcut has no weights (option A of He et al. 2016).
    """

    def __init__(self, cols: int, rows: int, form: str, activation: str) -> None:
        super().__init__()
        s = partial(functions.layer, activation)
        first = initialise(nn.Conv2d(cols, rows, 3, stride=2, padding=1, bias=False), "he")
        second = initialise(nn.Conv2d(rows, rows, 3, padding=1, bias=False), "he")
        self.branch = nn.Sequential(*(
            (first, nn.BatchNorm2d(rows), s(), second, nn.BatchNorm2d(rows))
            if form == "v1"
            else (nn.BatchNorm2d(cols), s(), first, nn.BatchNorm2d(rows), s(), second)
        ))  # fmt: skip
        self.after = s() if form == "v1" else nn.Identity()
        self.short = PadChannels(cols, rows, stride=2)

    def forward(self, y: Tensor) -> Tensor:
        return self.after(self.short(y) + self.branch(y))


def residual(
    *,
    form: str,
    blocks: int,
    scheme: Any,
    shape: Preset,
    depth: Any,
    gradient: str,
    activation: str,
    span: tuple[float, float] | None,
    survival: float,
    seed: int,
    **branch: Any,
) -> Chain:
    """Stages of `blocks` residual steps; all but the first stage begin with a Downsample."""
    if form not in ("preactivation", "v1"):
        raise BadInput(f"form {form!r} is not known; write 'preactivation' or 'v1'.")
    total, done = len(shape.widths) * blocks, 0
    parts: list[nn.Module] = [AsImage(shape.channels, shape.size)]
    start = opening(shape.channels, shape.widths[0], activation)
    parts.append(start if form == "v1" else start[0])
    for k, width in enumerate(shape.widths):
        if k:
            parts.append(Downsample(shape.widths[k - 1], width, form, activation))
        steps = blocks - (k > 0)
        done += k > 0
        rates = [1.0 - (done + i) / max(total - 1, 1) * (1.0 - survival) for i in (0, max(steps - 1, 0))]
        runs = [(steps, (rates[0], rates[1]))]
        if form == "v1":  # an activation after every step
            runs = [(1, (r, r)) for r in torch.linspace(rates[0], rates[1], steps).tolist()]
        for n, kept in (r for r in runs if r[0]):
            flow = Flow(
                Residual(width, form=form, activation=activation, **branch),  # type: ignore[arg-type]
                scheme,
                depth=depth,
                span=(0.0, float(n)) if span is None else (0.0, (span[1] - span[0]) * n / blocks),
                steps=n,
                gradient=gradient,
                survival=kept,
                seed=seed + done,
            )
            parts.append(flow)
            parts += [functions.layer(activation)] if form == "v1" else []
            done += n
    last = shape.widths[-1]
    if form == "preactivation":
        parts.append(nn.Sequential(nn.BatchNorm2d(last), functions.layer(activation)))
    return Chain(*parts, head(last, shape.classes))


def _residual(name: str, layers: int, integrators: tuple[str, ...], cite: str, about: str) -> Callable[..., nn.Module]:
    """Register a residual net of so many layers, 6 n + 2: n blocks of two layers in each of three stages."""

    def build(
        preset: str | None = None,
        channels: int | None = None,
        classes: int | None = None,
        size: int | None = None,
        widths: Sequence[int] = (16, 32, 64),
        form: str = "preactivation",
        integrator: Any = None,
        depth: Any = None,
        gradient: str = "autograd",
        activation: str = "relu",
        norm: str = "batch",
        span: tuple[float, float] | None = None,
        survival: float = 1.0,
        kernels: Sequence[int] = (3, 3),
        hidden: int | None = None,
        groups: int = 1,
        seed: int = 0,
    ) -> nn.Module:
        return residual(
            form=form,
            blocks=(layers - 2) // 6,
            scheme=integrators[0] if integrator is None else integrator,
            shape=shape_of(preset, channels, classes, size, widths),
            depth=depth,
            gradient=gradient,
            activation=activation,
            span=span,
            survival=survival,
            seed=seed,
            norm=norm,
            kernels=kernels,
            hidden=hidden,
            groups=groups,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = about.format(layers=layers, blocks=(layers - 2) // 6)
    return net(kind="ode", takes="image", cite=cite, integrators=integrators)(build)


SIZES = (20, 32, 44, 56, 110)
resnet20, resnet32, resnet44, resnet56, resnet110 = (
    _residual(
        f"resnet{layers}", layers, ("euler", "midpoint", "rk4"), "He et al. 2016 (arXiv 1512.03385, 1603.05027)",
        "Residual net of {layers} layers, {blocks} blocks of two 3x3 convolutions in each of three stages, under "
        "forward Euler with h = 1. form 'preactivation' (default) is an ODE in every stage; 'v1', published first, has "
        "the activation after the sum. survival < 1 drops whole layers in training, the last one with that "
        "probability of staying (stochastic depth, arXiv 1603.09382). The net that everybody compares with.",
    )
    for layers in SIZES
)  # fmt: skip
lm_resnet20, lm_resnet32, lm_resnet44, lm_resnet56, lm_resnet110 = (
    _residual(
        f"lm_resnet{layers}", layers, ("lm",), "Lu et al. 2018 (arXiv 1710.10121)",
        "Residual net of {layers} layers stepped by y_{{n+1}} = (1 - k_n) y_n + k_n y_{{n-1}} + f(y_n) with learned "
        "k_n; the memory restarts in every stage. To be chosen where a few numbers more should save layers.",
    )
    for layers in SIZES
)  # fmt: skip
