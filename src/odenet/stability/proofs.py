"""What follows from the structure of a field and the coefficients of a method, for every input.

non-expansive  A field is monotone if <f(u) - f(v), u - v> <= -|f(u) - f(v)|^2/c. A method with contractivity
               radius r contracts every pair of solutions of such fields iff h c <= 2 r (Dahlquist & Jeltsch
               1979).
non-vanishing  A step made of kicks p += h f(q) and drifts q += h g(p) is a product of shears, so its Jacobian
               has determinant 1, and so has every product of them: |dy_N/dy_j|_2 >= 1.
"""

from __future__ import annotations

import math

import torch

from ..fields import Field
from ..integrators import SymplecticSplitting
from .unroll import Interval, Unrolled

# a convolution's norm is bounded on a periodic grid with this many points a side
_GRID = 32


def contractive_step(interval: Interval, image: tuple[int, ...] = ()) -> float:
    """Largest h for which a step is non-expansive for every input: 2 r/c; 0 where nothing is proved.

    image: sizes of the space axes of the state. The bound c is taken at both ends of the interval, which covers weights
    that are constant or linear in between, because it is convex in them. Adaptive steps depend on the input, so two
    solutions do not share them and nothing is proved.
    """
    flow = interval.flow
    field, radius = flow.march.field, flow.integrator.facts.contractivity_radius
    if not {"monotone", "lipschitz"} <= field.offers or not radius or flow.adaptive or not _bounded_on(field, image):
        return 0.0
    with torch.no_grad():
        ends = (interval.t, interval.t + interval.width)
        c = max(float(field.lipschitz_bound(interval.rhs.weights(t))) for t in ends)  # type: ignore[operator]
    return 2.0 * radius / c if c > 0 else math.inf


def _bounded_on(field: Field, image: tuple[int, ...]) -> bool:
    """Whether lipschitz_bound holds for images of this size: zero-padded stencils fit into the periodic grid."""
    kernel = getattr(getattr(getattr(field, "unit", None), "map", None), "kernel", 1)
    return kernel == 1 or max(image, default=1) + kernel - 1 <= _GRID


def contractive_limit(unrolled: Unrolled) -> float | None:
    """The smallest `contractive_step` over all layers; None where no bound exists for one of them."""
    limits = []
    for layer, state in zip(unrolled.layers, unrolled.states):
        if layer.interval is None:
            return None
        limits.append(contractive_step(layer.interval, tuple(state[0].shape[2:])))
    return min(limits) if limits and min(limits) > 0 else None


def nonexpansive(unrolled: Unrolled) -> bool:
    """Whether |y_N(u) - y_N(v)| <= |u - v| is proved for all states u, v."""
    for layer, state in zip(unrolled.layers, unrolled.states):
        limit = contractive_step(layer.interval, tuple(state[0].shape[2:])) if layer.interval else 0.0
        if layer.interval is None or not 0 < layer.interval.h <= limit:
            return False
    return True


def nonvanishing(unrolled: Unrolled) -> bool:
    """Whether |dy_N/dy_j|_2 >= 1 is proved for all inputs and all j."""
    return all(
        layer.interval is not None and isinstance(layer.interval.flow.integrator, SymplecticSplitting)
        for layer in unrolled.layers
    )


def exact_nonexpansive(unrolled: Unrolled) -> bool:
    """Whether the EXACT flow is proved non-expansive; it says nothing about a method whose steps are too long.

    Every field is monotone, or bounds its logarithmic norm and the bounds, times the widths of the intervals, add up to
    no more than 0 (for weights that are constant in every interval).
    """
    total = 0.0
    for layer in unrolled.layers:
        interval = layer.interval
        if interval is None or interval.width < 0:
            return False
        field, depths = interval.flow.march.field, interval.flow.march.depths
        if "monotone" in field.offers:
            continue
        if "lognorm" not in field.offers or not all(d.constant for d in depths.values()):
            return False
        with torch.no_grad():
            total += interval.width * float(field.lognorm_bound(interval.rhs.weights(interval.t)))  # type: ignore[operator]
    return total <= 0.0
