"""Where a method does not amplify y' = lambda y, and the largest step that keeps given eigenvalues there.

z = h lambda is the eigenvalue scaled by the step. Methods for separable or second-order systems are tested on
a pair of modes +z and -z at once (an oscillator for imaginary z), so of their eigenvalues only the growing
one of a pair counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from .. import integrators
from ..errors import BadInput
from ..integrators import Integrator

# growth per step that counts as none: after 1000 steps it is a tenth of a per cent
NEUTRAL = 1e-6
# the same for the boundary, per unit of |z|: small enough that euler has no interval on the imaginary axis
_SHARP = 1e-9
_ROUNDING = 1e-13  # of the eigenvalues of a one-step map
_FARTHEST = 1e3
_RATIO = 1.02
_CANDIDATES = 32


@dataclass(frozen=True)
class Region:
    """|amplification| on a grid: `re` (M,), `im` (K,), `growth` (M, K); stable where it is at most 1."""

    re: Tensor
    im: Tensor
    growth: Tensor


def stability_region(
    integrator: Any,
    box: tuple[float, float, float, float] = (-5.0, 2.0, -4.0, 4.0),
    points: int = 201,
    coef: Mapping[str, Any] | None = None,
    z_implicit: complex | None = None,
) -> Region:
    """|amplification(z)| for z in the box (re_min, re_max, im_min, im_max), `points` to a side.

    z_implicit: of the implicit or linear part, held fixed while z is that of the other one
    Choose it to draw the region. Raises BadInput for an empty box.
    """
    a, b, c, d = box
    if not (a < b and c < d) or points < 2:
        raise BadInput(
            f"a box is (re_min, re_max, im_min, im_max) with two points a side or more, got {box}, {points}."
        )
    re = torch.linspace(a, b, points, dtype=torch.float64)
    im = torch.linspace(c, d, points, dtype=torch.float64)
    for axis in (re, im):  # regions of separable methods are a piece of the imaginary axis
        nearest = int(axis.abs().argmin())
        if 0 < nearest < points - 1:
            axis[nearest] = 0.0
    z = torch.complex(*torch.meshgrid(re, im, indexing="ij"))
    return Region(re, im, growth(integrator, z, coef, z_implicit))


def growth(
    integrator: Any, z: Tensor, coef: Mapping[str, Any] | None = None, z_implicit: complex | None = None
) -> Tensor:
    """|amplification| at z, of the shape of z: the factor by which a mode grows in one step."""
    method, z = integrators.resolve(integrator), z.to(torch.complex128)
    return method.amplification(z, coef, z_implicit=z_implicit).abs()


def inside(integrator: Any, z: Tensor, coef: Mapping[str, Any] | None = None, tolerance: float = NEUTRAL) -> Tensor:
    """Whether z lies in the stability region, |amplification| <= 1 + tolerance; bool, of the shape of z."""
    return growth(integrator, z, coef) <= 1.0 + tolerance


def in_pairs(integrator: Integrator) -> bool:
    """Whether the method is tested on modes +z and -z together."""
    return bool(integrator.needs & {"separable", "second_order"})


def growing(integrator: Any, z: Tensor, tolerance: float = NEUTRAL) -> Tensor:
    """Whether the exact flow itself amplifies the mode over one step, Re z > tolerance; no step size cures that."""
    real = z.real.abs() if in_pairs(integrators.resolve(integrator)) else z.real
    return real > tolerance


def largest_step(
    integrator: Any, eigenvalues: Tensor, backwards: bool = False, coef: Mapping[str, float] | None = None
) -> float:
    """Largest h with |amplification(s lambda)| <= 1 for every eigenvalue and every 0 < s <= h.

    eigenvalues:  complex, any shape, of the field's Jacobian (1/time); those that grow in the exact flow (real part
                  above 1e-6 of the largest modulus) are left out, as no step can help them
    backwards:    the flow runs against time, so the eigenvalues count with the other sign
    coef:         learned coefficients (default: the mean of their initial distribution)
    inf where nothing limits h (nothing but zeros, or a method without a boundary up to |z| = 1000), 0 where no step
    will do. Choose it to predict the depth that a network needs.
    """
    method = integrators.resolve(integrator)
    modes = _decaying(method, -eigenvalues if backwards else eigenvalues)
    if modes.numel() == 0:
        return math.inf
    given = tuple(sorted((coef or {}).items()))
    table = _reach_table(method, given)
    rough = _interpolate(table, modes) / modes.abs()
    worst = modes[torch.topk(-rough, min(_CANDIDATES, len(rough))).indices]
    return float((reach(method, worst / worst.abs(), dict(given)) / worst.abs()).min())


def _decaying(method: Integrator, eigenvalues: Tensor) -> Tensor:
    """The modes that do not grow in the exact flow, in the upper left quadrant, rounding on the axis removed."""
    modes = eigenvalues.detach().to("cpu", torch.complex128).flatten()
    modes = torch.complex(modes.real.abs() if in_pairs(method) else modes.real, modes.imag.abs())
    top = float(modes.abs().max()) if modes.numel() else 0.0
    modes = modes[(modes.real <= NEUTRAL * top) & (modes.abs() > 1e-12 * top)]
    real = modes.real.clamp(max=0.0)
    on_axis = real.abs() <= _SHARP * modes.abs()
    kept = torch.complex(torch.where(on_axis, torch.zeros_like(real), real), modes.imag)
    return kept[kept.abs() > 0.0]  # a real eigenvalue a rounding error above 0 has become 0, which has no direction


def reach(method: Integrator, directions: Tensor, coef: Mapping[str, float] | None = None) -> Tensor:
    """How far the region extends from 0 along unit complex numbers (M,), up to 1000, else inf: the first exit.

    On the two axes the derived facts of the method are used where it has them, elsewhere a scan and 40 bisections.
    """
    found = first_exit(method, directions, coef)
    if coef:
        return found
    facts = method.facts
    for axis, fact in ((directions.real == 0, facts.imag_interval), (directions.imag == 0, facts.real_interval)):
        if fact is not None:
            found = torch.where(axis, torch.full_like(found, fact), found)
    return found


def first_exit(method: Integrator, directions: Tensor, coef: Mapping[str, float] | None = None) -> Tensor:
    """The smallest u with |amplification(u d)| > 1 + 1e-9 u for unit directions d (M,), by scan and bisection."""
    low = 1e-3 if in_pairs(method) else 1e-6  # a double root at z = 0 is rounded to 1e-16/|z|
    count = math.ceil(math.log(_FARTHEST / low) / math.log(_RATIO))
    u = torch.logspace(math.log10(low), math.log10(_FARTHEST), count, dtype=torch.float64)
    out = _escapes(method, u[:, None], directions[None, :], coef)
    first = out.int().argmax(0)
    never = ~out.any(0)
    a, b = u[(first - 1).clamp(min=0)], u[first]
    for _ in range(40):
        middle = (a + b) / 2
        escaped = _escapes(method, middle, directions, coef)
        a, b = torch.where(escaped, a, middle), torch.where(escaped, middle, b)
    limit = torch.where(first == 0, torch.zeros_like(a), a)
    return torch.where(never, torch.full_like(limit, math.inf), limit)


def _escapes(method: Integrator, u: Tensor, directions: Tensor, coef: Mapping[str, float] | None) -> Tensor:
    return ~(method.amplification(u * directions, coef or None).abs() <= 1.0 + _SHARP * u + _ROUNDING)


# angles from the imaginary axis to the negative real one, crowded towards the former, where regions are thin
_TILTS = torch.tensor([0.0, *torch.logspace(-7, math.log10(math.pi / 2), 80, dtype=torch.float64).tolist()]).double()


@lru_cache(maxsize=64)
def _reach_table(method: Integrator, coef: tuple[tuple[str, float], ...]) -> Tensor:
    """reach at the angles pi/2 + tilt of `_TILTS`, infinity replaced by a large number."""
    real, imag = -torch.sin(_TILTS), torch.cos(_TILTS)
    imag[-1] = 0.0
    directions = torch.complex(real, imag)
    return reach(method, directions, dict(coef)).clamp(max=10 * _FARTHEST)


def _interpolate(table: Tensor, modes: Tensor) -> Tensor:
    tilt = torch.atan2(-modes.real, modes.imag).clamp(0.0, math.pi / 2)
    above = torch.searchsorted(_TILTS, tilt).clamp(1, len(_TILTS) - 1)
    low, high = _TILTS[above - 1], _TILTS[above]
    weight = ((tilt - low) / (high - low)).clamp(0.0, 1.0)
    return table[above - 1] * (1 - weight) + table[above] * weight


# ------------------------------------------------------------------------------------------------ drawing a region

Family = Literal["plain", "oscillator", "parted", "own steps", "varying"]

TEST_EQUATIONS: dict[Family, str] = {
    "plain": "y' = lambda y, z = h lambda; stable where |amplification(z)| <= 1",
    "oscillator": "the oscillator q'' = -omega^2 q, x = h omega; stable where |amplification(ix)| <= 1",
    "parted": "y' = lambda y + mu y, mu the implicit or linear part held fixed, z = h lambda; "
    "stable where |amplification(z, z_implicit=h mu)| <= 1",
    "own steps": "none: it crosses a step by steps of its own, so h means nothing",
    "varying": "none: its order changes from step to step",
}


def family(integrator: Any) -> Family:
    """Which test equation tells the region of a method."""
    method = integrators.resolve(integrator)
    if in_pairs(method):
        return "oscillator"
    if method.needs & {"split", "linear"}:
        return "parted"
    facts = method.facts
    if facts.real_interval is None and facts.imag_interval is None and facts.error_constant is None:
        return "own steps" if not method.history else "varying"
    return "plain"


def window(integrator: Any, points: int = 61, z_implicit: complex | None = None) -> tuple[float, float, float, float]:
    """A box (re_min, re_max, im_min, im_max) that shows where the method is stable, and where not.

    The smallest of a sequence of squares that holds the boundary of the region, cut to what is in it; where the
    boundary goes on for ever, as that of an A-stable method may along the axis, a square of moderate size.
    """
    chosen = (-6.0, 6.0, -6.0, 6.0)
    for size in (2.5, 5.0, 10.0, 20.0, 40.0, 80.0):
        grid = stability_region(integrator, (-size, size, -size, size), points, z_implicit=z_implicit)
        boundary = _boundary(grid.growth <= 1.0 + NEUTRAL)
        if not boundary.any():
            continue
        re, im = (axis[boundary.any(other)].abs().max() for axis, other in ((grid.re, 1), (grid.im, 0)))
        if max(float(re), float(im)) < 0.9 * size:
            rows, columns = grid.re[boundary.any(1)], grid.im[boundary.any(0)]
            return _framed(float(rows.min()), float(rows.max()), float(columns.abs().max()))
    return chosen


def _boundary(stable: Tensor) -> Tensor:
    """Grid points whose right or upper neighbour is on the other side."""
    out = torch.zeros_like(stable)
    out[:-1] |= stable[:-1] != stable[1:]
    out[:, :-1] |= stable[:, :-1] != stable[:, 1:]
    return out


def _framed(left: float, right: float, top: float) -> tuple[float, float, float, float]:
    """A box with margins around [left, right] x [-top, top], the origin inside, not too narrow."""
    left, right = min(left, 0.0), max(right, 0.0)
    margin = 0.2 * max(right - left, 2 * top, 1.0)
    width, height = right - left + 2 * margin, 2 * (top + margin)
    extra = max(0.0, 0.8 * height - width) / 2
    taller = max(0.0, 0.6 * width - height) / 2
    return left - margin - extra, right + margin + extra, -top - margin - taller, top + margin + taller
