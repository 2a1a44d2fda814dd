"""The same weights under another integrator, step size, grid of knots or precision: twins of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..depth import Shared
from ..errors import BadInput, Incompatible
from ..flow import Flow
from ..flow.multilevel import prolong, restrict
from .unroll import in_evaluation

PRECISIONS = ("bf16", "int8")


def with_flows(model: nn.Module, change: Callable[[Flow], Flow]) -> nn.Module:
    """The model with every flow replaced by change(flow), wherever it sits; other weights stay shared with it."""
    if isinstance(model, Flow):
        return change(model)
    if not any(isinstance(m, Flow) for m in model.modules()):
        return model
    twin = copy.copy(model)
    vars(twin)["_modules"] = {k: m and with_flows(m, change) for k, m in model._modules.items()}
    vars(twin).pop("spec", None)  # it would rebuild the original
    return twin


def title(integrator: Any) -> str:
    """The name of an integrator, or its class where it has none."""
    return integrator if isinstance(integrator, str) else integrator.name or type(integrator).__name__


def refined(model: nn.Module, integrator: Any, factor: float = 1) -> nn.Module:
    """The same theta(t) under `integrator` with `factor` times the steps, h/factor, in every flow.

    factor: 1, 2, 4, ... or 1/2, 1/4, ...: where steps would become longer than the knot intervals, the knots are
            thinned out as well and theta(t) is restricted to them
    Steps of an adaptive flow are counted as one for each knot interval. Raises BadInput where an interval cannot be
    merged (an odd number of them), Incompatible where the field does not suit the integrator.
    """
    return with_flows(model, lambda flow: _stepped(flow, integrator, factor))


def _stepped(flow: Flow, integrator: Any, factor: float) -> Flow:
    total = flow.steps * flow.substeps * factor
    if total < 1 or total != int(total):
        raise BadInput(
            f"{factor:g} times {flow.steps * flow.substeps} steps is no whole number; use an even number of steps."
        )
    while int(total) % flow.steps:
        flow = resampled(flow, -1)
    return flow.with_integrator(integrator, int(total))


def resampled(flow: Flow, doublings: int) -> Flow:
    """The same theta(t) over 2^doublings times the knot intervals (2^-k: half as many, k times), by `flow.prolong` and
    `flow.restrict`; the steps per interval stay, so h is halved with every doubling. Raises BadInput for an odd number.
    """
    for _ in range(abs(doublings)):
        flow = prolong(flow) if doublings > 0 else restrict(flow)
    return flow


def stretched(flow: Flow, factor: float) -> Flow:
    """A flow over a span `factor` times as long, T' = factor T.

    Weights shared by all depths: y' = f(y) is followed further with the same h, so factor * steps must be whole (else
    BadInput). Otherwise theta(t T/T'), and h grows with T'. Raises Incompatible for a flow along data, whose span is
    that of the data.
    """
    if flow.controls:
        raise Incompatible("the span of this flow is that of its data; resample the data instead.")
    shared = all(isinstance(d, Shared) for d in flow.depths.values()) and not flow.coefficients
    steps = flow.steps * factor
    if shared and (steps < 1 or steps != int(steps)):
        raise BadInput(f"{factor:g} times {flow.steps} steps of the same size is no whole number; choose another T'.")
    twin = flow.with_integrator(flow.integrator, None if flow.adaptive else flow.steps * flow.substeps)
    twin.span = (flow.span[0], flow.span[0] + factor * (flow.span[1] - flow.span[0]))
    twin.steps = int(steps) if shared else flow.steps
    twin._march()
    return twin


def on_fixed_grid(model: nn.Module, substeps: int = 4) -> nn.Module:
    """The model with `substeps` equal steps per knot interval in every flow that is adaptive: its gradient does not
    pass through the choice of steps."""
    return with_flows(
        model, lambda flow: flow.with_integrator(flow.integrator, flow.steps * substeps) if flow.adaptive else flow
    )


def is_adaptive(model: nn.Module) -> bool:
    """Whether a flow in it chooses its steps itself."""
    return any(isinstance(m, Flow) and m.adaptive for m in model.modules())


@torch.no_grad()
def quantised(model: nn.Module, precision: str) -> nn.Module:
    """A copy in evaluation mode whose weights were rounded; arithmetic stays as it was.

    bf16:  to the nearest bfloat16, relative error <= 2^-9
    int8:  to the nearest of 255 multiples of max|w|/127, scaled for each weight tensor and in a flow for each depth:
           absolute error <= max|w|/254
    Raises BadInput for another word.
    """
    if precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is not known; write {' or '.join(map(repr, PRECISIONS))}.")
    twin = in_evaluation(model)
    by_depth = {id(w) for m in twin.modules() if isinstance(m, Flow) for w in m.weights.values()}
    for w in twin.parameters():
        w.copy_(w.bfloat16().to(w) if precision == "bf16" else _in_127(w, id(w) in by_depth))
    return twin


def _in_127(w: Tensor, by_depth: bool) -> Tensor:
    most = w.abs().flatten(1).amax(1) if by_depth and w.dim() > 1 else w.abs().max().reshape(1)
    size = (most / 127).clamp(min=torch.finfo(w.dtype).tiny).reshape(-1, *[1] * (w.dim() - 1))
    return (w / size).round() * size
