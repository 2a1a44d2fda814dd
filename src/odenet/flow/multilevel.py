"""Networks over twice or half as many knot intervals: the same theta(t), stepped with h/2 or 2 h.

net = prolong(net)      warm start of a net of twice the depth (Haber & Ruthotto 2017; Chang et al. 2018)
net = restrict(net)     the nearest net of half the depth
net = refine(net)       twice as many pieces of piecewise constant weights, the function unchanged (ContinuousNet)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from ..depth import Depth, PerStep, PiecewiseConstant
from ..errors import BadInput, Incompatible
from .module import STAT, Flow

M = TypeVar("M", bound=nn.Module)
Moved = dict[int, nn.Parameter]
Change = Callable[[Flow, Flow, Moved], None]


def prolong(net: M) -> M:
    """A new net with 2 N knot intervals over the same span in every flow, h -> h/2, and the same theta(t).

    For smooth depths (piecewise_linear, spline, the bases) this is the same differential equation solved more
    accurately: the change is (1 - 2^-p) times the error of a method of order p. Weights per step are copied, each layer
    behind itself (Chang et al. 2018, arXiv 1710.10348). Running statistics and learned coefficients of the integrator
    are copied likewise; nothing is shared with `net`, and its recipe counts the doublings, so that it can be saved.
    Choose it to train a deep net from a shallow one. Raises BadInput for a net without flows, Incompatible where the
    knot intervals belong to data.
    """
    return _changed(net, partial(_transferred, way="prolong"), partial(_counted, doublings=1))


def restrict(net: M) -> M:
    """A new net with N/2 knot intervals in every flow, h -> 2 h, and the nearest theta(t): undoes `prolong`.

    Means of pairs for weights per step, nodal values for piecewise_linear, the L2 projection for splines.
    Raises BadInput for an odd number of intervals or a net without flows, Incompatible as `prolong`.
    """

    for flow in _flows(net):
        if flow.steps % 2:
            raise BadInput(f"a flow of {flow.steps} knot intervals cannot be halved; use an even number of steps.")
    return _changed(net, partial(_transferred, way="restrict"), partial(_counted, doublings=-1))


def refine(net: M) -> M:
    """A new net with twice as many pieces where weights are piecewise constant, both halves of a piece alike.

    The function stays the same to the last bit; the new weights are there to be trained apart. Queiruga et al. 2020
    (arXiv 2008.02389). Raises BadInput where no weights are piecewise constant or a piece has an odd number of steps.
    """
    if not any(isinstance(d, PiecewiseConstant) for flow in _flows(net) for d in flow.depths.values()):
        raise BadInput("refine splits pieces of piecewise constant weights; build the net with PiecewiseConstant(4).")

    return _changed(net, _split, _named)


def _flows(net: nn.Module) -> list[Flow]:
    flows = [m for m in net.modules() if isinstance(m, Flow)]
    if not flows:
        raise BadInput(f"{type(net).__name__} holds no Flow, so it has no steps in depth to halve or double.")
    return flows


def _changed(net: M, change: Change, spec: Callable[[dict[str, Any]], Any]) -> M:
    """A deep copy of net, changed(flow, its copy, new weights by the id of the old ones) in every flow."""
    flows = _flows(net)
    copies: dict[int, Any] = {id(flow.integrator): flow.integrator for flow in flows}  # these are data
    twins = [copy.deepcopy(flow, copies) for flow in flows]
    moved: Moved = {}
    for flow, twin in zip(flows, twins):
        change(flow, twin, moved)
        twin._march()
    result = copy.deepcopy(net, copies)  # wherever a flow sits in it, its changed copy
    if getattr(net, "spec", None) is not None:
        result.spec = spec(copy.deepcopy(net.spec))  # type: ignore[arg-type, assignment]
    return result


def _transferred(flow: Flow, twin: Flow, moved: Moved, way: str) -> None:
    if flow.controls:
        raise Incompatible(
            f"the knot intervals of this flow are the entries of its control {flow.controls[0]!r}, which is data; "
            "resample the data instead."
        )
    twin.steps = 2 * flow.steps if way == "prolong" else flow.steps // 2
    for depth in flow.depths.values():
        depth.count(twin.steps)  # raises where it does not fit

    def new(depth: Depth, c: nn.Parameter) -> nn.Parameter:
        return moved.setdefault(id(c), nn.Parameter(getattr(depth, way)(c.detach()).clone(), c.requires_grad))

    twin.weights = nn.ParameterDict({k: new(flow.depths[k], w) for k, w in flow.weights.items()})
    twin.coefficients = nn.ParameterDict({k: new(PerStep(), c) for k, c in flow.coefficients.items()})
    for name, buffer in flow.named_buffers(recurse=False):
        twin.register_buffer(name, getattr(flow.depths[name[len(STAT) :]], way)(buffer).clone())


def _split(flow: Flow, twin: Flow, moved: Moved) -> None:
    for name, depth in flow.depths.items():
        if isinstance(depth, PiecewiseConstant) and name in flow.weights:
            twin.depths[name] = PiecewiseConstant(2 * depth.pieces)
            twin.depths[name].count(flow.steps)  # raises where the new pieces do not fit
            c = flow.weights[name]
            new = nn.Parameter(c.detach().repeat_interleave(2, dim=0), c.requires_grad)
            twin.weights[name] = moved.setdefault(id(c), new)


# ---- recipes: {"net": name, "args": {...}, "doublings": d}, to be built with these arguments and prolonged d times.
# Doubling the steps in the arguments would be another net: fields and spans of some nets depend on the steps.


def _counted(spec: dict[str, Any], doublings: int) -> dict[str, Any]:
    return {**spec, "doublings": spec.get("doublings", 0) + doublings}


def _named(spec: dict[str, Any]) -> dict[str, Any] | None:
    depth = spec["args"].get("depth")
    new = {k: _twice(v) for k, v in depth.items()} if isinstance(depth, Mapping) else _twice(depth)
    spec["args"]["depth"] = new
    return None if new == depth else spec


def _twice(depth: Any) -> Any:
    name, _, pieces = depth.partition(":") if isinstance(depth, str) else ("", "", "")
    return f"{name}:{2 * int(pieces or PiecewiseConstant().pieces)}" if name == "piecewise_constant" else depth
