"""Stability regions in characters, for a terminal: dots of Braille, or `#` where there is nothing but ASCII."""

from __future__ import annotations

import textwrap
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..integrators import Integrator
from .region import TEST_EQUATIONS, family, inside, window

Box = tuple[float, float, float, float]
FIXED = (0.0, -10.0)  # h mu of the implicit part in the two regions of a method of two parts
_MARGIN = 9


def picture(integrator: Any, columns: int = 40, plain: bool = False, width: int = 100) -> str:
    """The test equation of a method and its stability region, `columns` letters wide.

    A method for oscillators shows a piece of the axis h omega; one of two parts shows two regions, side by side.
    """
    method = integrators.resolve(integrator)
    kind = family(method)
    said = textwrap.wrap(f"test equation: {TEST_EQUATIONS[kind]}", width)
    if kind == "plain":
        return "\n".join([*said, *region(method, window(method), columns, plain)])
    if kind == "oscillator":
        return "\n".join([*said, *_axis(method, columns, plain)])
    if kind == "parted":
        return "\n".join([*said, *_two_parts(method, columns - 2, plain)])
    return "\n".join(said)


def region(method: Integrator, box: Box, columns: int, plain: bool, z_implicit: float | None = None) -> list[str]:
    """Lines that show where |amplification| <= 1 in a box of the plane of z."""
    left, right, low, high = box
    across, down = (1, 1) if plain else (2, 4)
    rows = max(6, round(columns * 0.45 * (high - low) / (right - left)))
    re = torch.linspace(left, right, columns * across, dtype=torch.float64)
    im = torch.linspace(high, low, rows * down, dtype=torch.float64)
    stable = _inside(method, torch.complex(*torch.meshgrid(re, im, indexing="xy")), z_implicit)
    near = im.abs() <= im.abs().min() + 1e-12
    stable[near] |= _inside(method, torch.complex(re, torch.zeros_like(re)), z_implicit)  # maybe a piece of an axis
    near = re.abs() <= re.abs().min() + 1e-12
    stable[:, near] |= _inside(method, torch.complex(torch.zeros_like(im), im), z_implicit)[:, None]
    labels = {0: f"{high:.3g}i", rows // 2: "0", rows - 1: f"{low:.3g}i"}
    lines = [_hashes(stable[r]) if plain else _braille(stable, r, columns) for r in range(rows)]
    drawn = [f"{labels.get(r, ''):>{_MARGIN - 1}} |{line}" for r, line in enumerate(lines)]
    return [*drawn, " " * (_MARGIN + 1) + _scale(left, right, columns, "Re z")]


def _inside(method: Integrator, z: Tensor, z_implicit: float | None) -> Tensor:
    if z_implicit is None:
        return inside(method, z)
    return method.amplification(z.to(torch.complex128), None, z_implicit=z_implicit).abs() <= 1 + 1e-6


def _scale(left: float, right: float, columns: int, name: str) -> str:
    """left ... 0 ... right, and what is measured."""
    ends = f"{left:.3g}", f"{right:.3g}"
    line = f"{ends[0]}{ends[1]:>{columns - len(ends[0])}}"
    zero = round(-left / (right - left) * (columns - 1))
    if left < 0 < right and line[max(zero - 1, 0) : zero + 2].isspace():
        line = f"{line[:zero]}0{line[zero + 1 :]}"
    return f"{line}  {name}"


def _axis(method: Integrator, columns: int, plain: bool) -> list[str]:
    """One line: where on the axis h omega the oscillator does not grow."""
    limit = method.facts.imag_interval or 1.0
    end = 1.5 * min(limit, 20.0)
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) * end / columns
    bar = _hashes(inside(method, x * 1j))
    bar = bar if plain else bar.replace("#", "█")
    return [f"{'stable':>{_MARGIN - 1}} |{bar}".rstrip(), " " * (_MARGIN + 1) + _scale(0.0, end, columns, "h omega")]


def _two_parts(method: Integrator, columns: int, plain: bool) -> list[str]:
    left, right, low, high = window(method, z_implicit=0.0)
    box = (1.4 * left, right - 0.4 * left, 1.3 * low, 1.3 * high)
    panels = [[f"{'':{_MARGIN}} h mu = {w:g}", *region(method, box, columns, plain, w)] for w in FIXED]
    wide = _MARGIN + columns + 1
    panels[0][-1] = panels[0][-1].removesuffix("  Re z")
    return [f"{one:<{wide}}{other[_MARGIN - 1 :]}".rstrip() for one, other in zip(*panels)]


_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def _braille(stable: Tensor, row: int, columns: int) -> str:
    cells = stable[4 * row : 4 * row + 4].int().tolist()
    codes = [sum(_DOTS[i][j] for i in range(4) for j in range(2) if cells[i][2 * c + j]) for c in range(columns)]
    return "".join(chr(0x2800 + code) if code else " " for code in codes).rstrip()


def _hashes(row: Tensor) -> str:
    return "".join("#" if x else " " for x in row.tolist()).rstrip()
