"""What follows from the structure of a field and the coefficients of a method, for every input.

non-expansive  A field is monotone if <f(u) - f(v), u - v> <= -|f(u) - f(v)|^2/c. A method with contractivity
               radius r contracts every pair of solutions of such fields iff h c <= 2 r (Dahlquist & Jeltsch
               1979). Where a field bounds the Lipschitz constant of y + h f(y) itself, its Euler steps may expand
               if others make up for it: the product counts.
non-vanishing  A step made of kicks p += h f(q) and drifts q += h g(p) is a product of shears, so its Jacobian
               has determinant 1, and so has every product of them: |dy_N/dy_j|_2 >= 1.
"""

from __future__ import annotations

import math

import torch

from ..depth import PiecewiseLinear
from ..fields import Field
from ..integrators import Integrator, RungeKutta, SymplecticSplitting
from .unroll import Interval, Unrolled

# a convolution's norm is bounded on a periodic grid with this many points a side
_GRID = 32


def contractive_step(interval: Interval, image: tuple[int, ...] = ()) -> float:
    """Largest h for which a step is non-expansive for every input: 2 r/c; 0 where nothing is proved.

    image: sizes of the space axes of the state. The bound c is taken where the method looks at the weights (`times`).
    Adaptive steps depend on the input, so two solutions do not share them and nothing is proved.
    """
    radius = interval.flow.integrator.facts.contractivity_radius
    c = monotone_constant(interval, image)
    if not radius or c is None:
        return 0.0
    return 2.0 * radius / c if c > 0 else math.inf


def monotone_constant(interval: Interval, image: tuple[int, ...] = ()) -> float | None:
    """The c of `contractive_step`; None where the field is not known to be monotone, or the steps are adaptive."""
    flow = interval.flow
    field = flow.march.field
    if not {"monotone", "lipschitz"} <= field.offers or flow.adaptive or not bounded_on(field, image):
        return None
    bounds = []
    with torch.no_grad():
        for t in times(interval):
            bounds.append(float(field.lipschitz_bound(interval.rhs.weights(t))))  # type: ignore[operator]
    return max(bounds, default=None)


def times(interval: Interval) -> list[float]:
    """Times at which the largest bound that is convex in the weights is a bound for all steps of the interval.

    Both ends, where weights are constant or linear in between; for other bases, which may be larger inside, the stages
    of a Runge-Kutta method; none where the method keeps to itself when it looks.
    """
    flow = interval.flow
    if all(d.constant or isinstance(d, PiecewiseLinear) for d in flow.march.depths.values()):
        return [interval.t, interval.t + interval.width]
    tableau = getattr(flow.integrator, "tableau", None)
    if tableau is None:
        return []
    h = interval.width / interval.steps
    return [interval.t + (k + float(c)) * h for k in range(interval.steps) for c in tableau.nodes]


def bounded_on(field: Field, image: tuple[int, ...]) -> bool:
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
    """Whether |y_N(u) - y_N(v)| <= |u - v| is proved for all states u, v: what the layers multiply distances by, at
    most, has a product of 1 or less."""
    factors = []
    for layer, state in zip(unrolled.layers, unrolled.states):
        if layer.interval is None or not layer.interval.h > 0:
            return False
        factors.append(layer_factor(layer.interval, tuple(state[0].shape[2:])))
    return math.inf not in factors and math.prod(factors) <= 1.0 + 1e-12  # rounding of a product that is 1


def layer_factor(interval: Interval, image: tuple[int, ...] = ()) -> float:
    """What the steps of an interval multiply distances by, at most, for every input; inf where nothing is proved.

    1 within `contractive_step`; else for Euler steps the field's own `step_bound`. Euler looks at the weights where a
    step begins, so for weights that vary inside the interval the bound holds for its first step alone.
    """
    if interval.h <= contractive_step(interval, image):
        return 1.0
    flow, field = interval.flow, interval.flow.march.field
    steady = interval.steps == 1 or all(d.constant for d in flow.march.depths.values())
    if "step" not in field.offers or not is_euler(flow.integrator) or not steady:
        return math.inf
    with torch.no_grad():
        bound = field.step_bound(interval.h, interval.rhs.weights(interval.t))  # type: ignore[operator]
    return float(bound) ** interval.steps


def is_euler(integrator: Integrator) -> bool:
    """Whether a step is y + h f(y)."""
    return isinstance(integrator, RungeKutta) and len(integrator.tableau.a) == 1 and integrator.order == 1


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
