"""One flow over sequences of any length: the same weights, one knot interval for every entry."""

from __future__ import annotations

import copy

from ..depth import Depth, Shared
from ..errors import Incompatible
from .march import COEF
from .module import Flow


def along(flow: Flow, steps: int, **controls: Depth) -> Flow:
    """The flow over `steps` knot intervals, each as long as one of its own, with the same (not copied) weights.

    controls: how a control varies with time where it is not constant in every interval, such as u=Polynomial(2)
    Raises Incompatible for a flow whose weights vary with depth: they belong to its own intervals.
    """
    varying = sorted(name for name, d in flow.depths.items() if not isinstance(d, Shared))
    if flow.steps > 1 and (varying or flow.coefficients):
        raise Incompatible(
            f"the weights {varying or sorted(flow.coefficients)} belong to the {flow.steps} knot intervals of this "
            'flow, so it cannot be run over another number of them; use depth="shared" or steps=1.'
        )
    start, end = flow.span
    twin = copy.copy(flow)  # shares the containers of weights, so what is put into those is seen here too
    twin.span, twin.steps = (start, start + steps * (end - start) / flow.steps), steps
    twin.march = copy.copy(flow.march)
    twin.march.knots = twin.knots
    once = {k: Shared() for k in (*flow.depths, *(COEF + name for name in flow.coefficients))}
    twin.march.depths = {**flow.march.depths, **once, **controls}
    return twin
