"""Image nets: multigrid, implicit diffusion, and concatenation as Euler steps into new channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import ReactionDiffusion, Residual, Smoothing
from ..fields import activations as functions
from ..flow import Chain, Flow, Transfer
from .base import net
from .baselines import AsImage
from .stages import chained, head, opening, plain, shape_of
from .transfer import PadChannels

# ------------------------------------------------------------------------------------------------------- multigrid


class Lift(Transfer):
    """f -> (u, r) = (0, f): the data as residual of zero features."""

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(y), y), 1)


class Coarsen(Transfer):
    """(u, r) -> (P u, R r) on the grid of every second pixel: two 3x3 convolutions of stride 2, without bias.

    The data of the coarse level is R r + A P u, so its residual is R r: nothing else has to be carried.
    """

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(cols, rows, 3, stride=2, padding=1, bias=False)
        self.restrict = nn.Conv2d(cols, rows, 3, stride=2, padding=1, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        u, r = y.chunk(2, 1)
        return torch.cat((self.project(u), self.restrict(r)), 1)


class Features(Transfer):
    """(u, r) -> u."""

    def forward(self, y: Tensor) -> Tensor:
        return y.chunk(2, 1)[0]


class VCycle(nn.Module):
    """Smoothing on the way to the coarsest grid and back: u_l <- u_l + E(u_{l+1} - P u_l), then smoothing again.

    down, coarser: J flows on (u, r) and J - 1 `Coarsen` between them; finer: J - 1 transposed convolutions E;
    up: J - 1 flows with the A of `down`. The residual of a corrected level is r_l - A_l E(...).
    """

    def __init__(
        self, down: Sequence[Flow], coarser: Sequence[Coarsen], finer: Sequence[nn.Module], up: Sequence[Flow]
    ) -> None:
        super().__init__()
        for above, below in zip(up, down):
            above.weights["A"] = below.weights["A"]
        self.down, self.coarser = nn.ModuleList(down), nn.ModuleList(coarser)
        self.finer, self.up = nn.ModuleList(finer), nn.ModuleList(up)

    def layers(self) -> list[Callable[[Any], Any]]:
        """Callables in a row; on the way down a state is (y_l, what was kept above), on the way up it shrinks."""
        out: list[Callable[[Any], Any]] = [partial(_first, self.down[0])]
        out += [partial(_descend, join, flow) for join, flow in zip(self.coarser, list(self.down)[1:])]
        out += [partial(_ascend, back, flow) for back, flow in zip(reversed(self.finer), reversed(self.up))]
        return [*out, lambda state: state[0]]

    def forward(self, y: Tensor) -> Tensor:
        state: Any = y
        for layer in self.layers():
            state = layer(state)
        return state


def _first(flow: nn.Module, y: Tensor) -> tuple[Tensor, ...]:
    return (flow(y),)


def _descend(join: nn.Module, flow: nn.Module, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    start = join(state[0])
    return (flow(start), start, *state)


def _ascend(back: nn.Module, flow: Any, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    coarse, start, fine, *above = state
    correction = back(coarse.chunk(2, 1)[0] - start.chunk(2, 1)[0])
    u, r = fine.chunk(2, 1)
    A = flow.field.constrain(dict(flow.weights))["A"][0]
    return (flow(torch.cat((u + correction, r - flow.field.map.apply(A, correction)), 1)), *above)


@net(
    kind="ode",
    takes="image",
    cite="He & Xu 2019 (arXiv 1901.10415), algorithm 1",
    integrators=("euler", "midpoint", "rk4"),
)
def mgnet(
    preset: str | None = None,
    channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    widths: Sequence[int] | None = None,
    steps: int = 2,
    cycle: str = "backslash",
    integrator: Any = None,
    gradient: str = "autograd",
    activation: str = "relu",
    norm: str = "batch",
    seed: int = 0,
) -> nn.Module:
    """Multigrid network: `steps` smoothings u <- u + s(N B s(N(f - A u))) on every grid, then on the next coarser one.

    cycle "backslash" ends on the coarsest grid, "v" goes back to the finest with corrections. A is shared in a grid, B
    is not. It maps images (B, C, size, size) to scores (B, classes). To be chosen where data live on many scales and
    weights are to be few; without norms and activation it is linear multigrid.
    """
    if cycle not in ("backslash", "v"):
        raise BadInput(f"cycle {cycle!r} is not known; write 'backslash' or 'v'.")
    shape = shape_of(preset, channels, classes, size, widths)

    def smoothing(k: int, width: int) -> Flow:
        return Flow(
            Smoothing(width, activation=activation, norm=norm),
            "euler" if integrator is None else integrator,
            depth={"A": "shared", "*": "per_step"},
            span=(0.0, float(steps)),
            steps=steps,
            gradient=gradient,
            seed=seed + k,
        )

    w = shape.widths
    down = [smoothing(k, width) for k, width in enumerate(w)]
    coarser = [Coarsen(a, b) for a, b in pairwise(w)]
    start = [AsImage(shape.channels, shape.size), opening(shape.channels, w[0], activation), Lift()]
    if cycle == "v":
        if shape.size % 2 ** (len(w) - 1):
            raise BadInput(f"a V-cycle over {len(w)} grids needs a size divisible by {2 ** (len(w) - 1)}.")
        finer = [nn.ConvTranspose2d(b, a, 3, 2, 1, 1, bias=False) for a, b in pairwise(w)]
        up = [smoothing(len(w) + k, width) for k, width in enumerate(w[:-1])]
        return Cycle(*start, VCycle(down, coarser, finer, up), Features(), head(w[0], shape.classes))
    inner: list[nn.Module] = [down[0]]
    for join, flow in zip(coarser, down[1:]):
        inner += [join, flow]
    return Chain(*start, *inner, Features(), head(w[-1], shape.classes))


class Cycle(nn.Sequential):
    """Modules in a row around a `VCycle`, with its layers among their own."""

    def layers(self) -> list[Callable[[Any], Any]]:
        """Callables whose composition is the net."""
        return [f for part in self for f in (part.layers() if isinstance(part, VCycle) else [part])]


# ----------------------------------------------------------------------------------------------- implicit diffusion


def _mixed(cols: int, rows: int, activation: str) -> list[nn.Module]:
    join = nn.Conv2d(cols, rows, 1, bias=False)
    return [nn.Sequential(join, nn.BatchNorm2d(rows), functions.layer(activation))]


@net(
    kind="ode",
    takes="image",
    cite="Haber, Lensink, Treister & Ruthotto 2019 (arXiv 1903.02639)",
    integrators=("imex_euler", "ars222", "euler"),
)
def imexnet(
    preset: str | None = None,
    channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    widths: Sequence[int] | None = None,
    steps: int = 3,
    pixels: bool = False,
    integrator: Any = None,
    depth: Any = None,
    gradient: str = "autograd",
    activation: str = "relu",
    norm: str = "batch",
    span: tuple[float, float] | None = None,
    gain: float = 1.0,
    seed: int = 0,
) -> nn.Module:
    """y <- (I + h L^T L)^-1 (y + h K^T s(N K y)): a reaction step, then diffusion solved exactly by FFT.

    Blocks joined by 1x1 convolutions at full resolution; scores (B, classes), or with `pixels` (B, classes, H, W). To
    be chosen for segmentation where the label of a pixel depends on pixels far away.
    """
    shape = shape_of(preset, channels, classes, size, widths)
    return chained(
        shape,
        partial(ReactionDiffusion, activation=activation, norm=norm, gain=gain),
        "imex_euler" if integrator is None else integrator,
        _mixed,
        [nn.Conv2d(shape.widths[-1], shape.classes, 1)] if pixels else plain(shape, activation),
        steps=steps,
        span=span,
        depth=depth,
        gradient=gradient,
        activation=activation,
        seed=seed,
    )


# --------------------------------------------------------------------------------------------------- concatenation


@net(
    kind="ode",
    takes="image",
    cite="Huang et al. 2017 (arXiv 1608.06993)",
    integrators=("euler",),
)
def densenet(
    preset: str | None = None,
    channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    growth: int = 12,
    first: int = 16,
    layers: Sequence[int] = (12, 12, 12),
    integrator: Any = None,
    gradient: str = "autograd",
    activation: str = "relu",
    seed: int = 0,
) -> nn.Module:
    """x_{n+1} = [x_n, K s(N x_n)], read as zero channels appended and one Euler step whose slope lives in them alone.

    Since a slope does not see its own channels, every Runge-Kutta method makes the same step: concatenation is exact
    integration, and a later slope is a sum over all earlier ones, as in a multistep method whose coefficients are
    learned. layers=(12, 12, 12), growth=12 are the 40 layers of the paper. To be chosen where features are to be
    reused and weights to be few.
    """
    shape = shape_of(preset, channels, classes, size, (first,) * len(layers))
    width = first
    parts: list[nn.Module] = [AsImage(shape.channels, shape.size), opening(shape.channels, width, activation)[0]]
    for block, count in enumerate(layers):
        if block:
            norm = nn.BatchNorm2d(width)
            join = nn.Conv2d(width, width, 1, bias=False)
            parts.append(nn.Sequential(norm, functions.layer(activation), join, nn.AvgPool2d(2)))
        for n in range(count):
            parts.append(PadChannels(width, width + growth))  # room for the slope of the next step
            slope = Residual(width, more=growth, kernels=(3,), activation=activation)
            scheme = "euler" if integrator is None else integrator
            parts.append(Flow(slope, scheme, steps=1, gradient=gradient, seed=seed + 97 * block + n))
            width += growth
    parts.append(nn.Sequential(nn.BatchNorm2d(width), functions.layer(activation)))
    return Chain(*parts, head(width, shape.classes))
