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

from ..integrators import SymplecticSplitting
from .unroll import Interval, Unrolled

# the bound of a convolution's norm is computed on a periodic grid of this size and holds up to there
_LARGEST_IMAGE = 30


def contractive_step(interval: Interval, image: tuple[int, ...] = ()) -> float:
    """Largest h for which a step of this interval is non-expansive for every input: 2 r/c; 0 where nothing is
    proved.

    image: sizes of the space axes of the state. The bound c is taken at both ends of the interval, which
    covers weights that are constant or linear in between, because it is convex in them.
    """
    field, radius = interval.flow.march.field, interval.flow.integrator.facts.contractivity_radius
    if not {"monotone", "lipschitz"} <= field.offers or not radius or max(image, default=0) > _LARGEST_IMAGE:
        return 0.0
    with torch.no_grad():
        ends = (interval.t, interval.t + interval.width)
        c = max(float(field.lipschitz_bound(interval.rhs.weights(t))) for t in ends)  # type: ignore[operator]
    return 2.0 * radius / c if c > 0 else math.inf


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


def lognorm_proof(unrolled: Unrolled) -> float | None:
    """Sum of (t_{n+1} - t_n) times the field's own bound of its logarithmic norm; None where a field offers
    none.

    Not above 0: the EXACT flow is non-expansive; it says nothing about a method with steps that are too long.
    Taken at the start of every interval.
    """
    total = 0.0
    for layer in unrolled.layers:
        interval = layer.interval
        if interval is None or "lognorm" not in interval.flow.march.field.offers or interval.width < 0:
            return None
        with torch.no_grad():
            bound = interval.flow.march.field.lognorm_bound(interval.rhs.weights(interval.t))  # type: ignore[operator]
        total += interval.width * float(bound)
    return total
