"""What image nets are built of: shapes and presets, opening and head, and stages of flows in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from ..errors import BadInput
from ..fields import Field
from ..fields import activations as functions
from ..flow import Chain, Flow
from .base import net
from .baselines import AsImage
from .initialisers import initialise


@dataclass(frozen=True)
class Preset:
    """Shape of a data set, and the widths that the papers use on it: of the blocks, and of the last connector."""

    channels: int
    classes: int
    size: int
    widths: tuple[int, ...]
    last: int


PRESETS = {  # Ruthotto & Haber 2020, table 1
    "cifar10": Preset(3, 10, 32, (32, 64, 112), 112),
    "cifar100": Preset(3, 100, 32, (32, 64, 128), 256),
    "stl10": Preset(3, 10, 96, (16, 32, 64, 128), 128),
}
DIGITS = Preset(1, 10, 8, (16, 32), 32)  # what is not given


def shape_of(
    preset: str | None,
    channels: int | None,
    classes: int | None,
    size: int | None,
    widths: Sequence[int] | None,
) -> Preset:
    """What was asked for: a preset with the numbers given beside it put in. Raises BadInput for what cannot be."""
    if preset is not None and preset not in PRESETS:
        raise BadInput(f"preset {preset!r} is not known; write one of {', '.join(map(repr, PRESETS))}, or channels=3.")
    base = DIGITS if preset is None else PRESETS[preset]
    given = tuple(base.widths if widths is None else widths)
    found = Preset(
        base.channels if channels is None else channels,
        base.classes if classes is None else classes,
        base.size if size is None else size,
        given,
        base.last if widths is None else given[-1] if given else 0,
    )
    numbers = {"channels": found.channels, "classes": found.classes, "size": found.size, "widths": found.widths}
    for name, value in numbers.items():
        several = value if isinstance(value, tuple) else (value,)
        if not several or not all(isinstance(v, int) and v > 0 for v in several):
            raise BadInput(f"{name} of an image net is a positive whole number (widths: several), got {value!r}.")
    if found.size < 2 ** (len(given) - 1):
        raise BadInput(
            f"images of {found.size} x {found.size} cannot be halved between {len(given)} blocks; give fewer widths."
        )
    return found


def opening(cols: int, rows: int, activation: str) -> nn.Sequential:
    """3x3 convolution, batch norm, activation: 9 cols rows + 2 rows weights."""
    conv = initialise(nn.Conv2d(cols, rows, 3, padding=1, bias=False), "he")
    return nn.Sequential(conv, nn.BatchNorm2d(rows), functions.layer(activation))


def head(cols: int, classes: int) -> nn.Sequential:
    """Mean over pixels, then scores."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cols, classes))


Between = Callable[[int, int, str], list[nn.Module]]  # what joins blocks of so many channels, with this activation
End = Callable[[Preset, str], list[nn.Module]]  # what comes after the last block, the head included


def chained(
    shape: Preset,
    field: Callable[[int], Field],
    scheme: Any,
    between: Between,
    end: Sequence[nn.Module],
    *,
    steps: int,
    span: tuple[float, float] | None,
    depth: Any,
    gradient: str,
    activation: str,
    seed: int,
) -> Chain:
    """Opening, a flow for each width with `between` in between, `end`; one reversible gradient over it all."""
    parts: list[nn.Module] = [AsImage(shape.channels, shape.size)]
    parts.append(opening(shape.channels, shape.widths[0], activation))
    for k, width in enumerate(shape.widths):
        parts += between(shape.widths[k - 1], width, activation) if k else []
        parts.append(
            Flow(
                field(width),
                scheme,
                depth=depth,
                span=(0.0, float(steps)) if span is None else span,
                steps=steps,
                gradient="autograd" if gradient == "reversible" else gradient,
                seed=seed + k,
            )
        )
    whole = "reversible" if gradient == "reversible" else "flows"
    return Chain(*parts, *end, gradient=whole)


def plain(shape: Preset, activation: str) -> list[nn.Module]:
    """The head alone."""
    return [head(shape.widths[-1], shape.classes)]


def stages(
    name: str,
    field: Callable[..., Field],
    integrators: tuple[str, ...],
    cite: str,
    about: str,
    *,
    between: Between,
    end: End = plain,
    scheme: Any = None,
    activation: str = "relu",
    norm: str = "none",
) -> Callable[..., nn.Module]:
    """Register the net `name`: a flow of `field` for each of `widths`.

    field: called as field(width, activation=, norm=, gain=, dropout=) for states (B, width, H, W)
    between, end: what joins the blocks, and what comes after the last one
    scheme: default integrator where it is no registered name
    """
    usual = (activation, norm)

    def build(
        preset: str | None = None,
        channels: int | None = None,
        classes: int | None = None,
        size: int | None = None,
        widths: Sequence[int] | None = None,
        steps: int = 3,
        integrator: Any = None,
        depth: Any = None,
        gradient: str = "autograd",
        activation: str = usual[0],
        norm: str = usual[1],
        span: tuple[float, float] | None = None,
        gain: float = 1.0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> nn.Module:
        shape = shape_of(preset, channels, classes, size, widths)
        return chained(
            shape,
            partial(field, activation=activation, norm=norm, gain=gain, dropout=dropout),
            (integrators[0] if scheme is None else scheme) if integrator is None else integrator,
            between,
            end(shape, activation),
            steps=steps,
            span=span,
            depth=depth,
            gradient=gradient,
            activation=activation,
            seed=seed,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = about
    return net(kind="ode", takes="image", cite=cite, integrators=integrators)(build)
