"""A net as a row of layers with weights of their own, x_{n+1} = Phi_n(x_n, theta_n): the controls of a control problem.

    rows = layered(net)
    rows[3](x, rows[3].weights())       # Phi_3(x, theta_3), for any theta_3 in the place of its own
    rows[3].put(theta)

A knot interval of a flow is a layer, and so is every other part of a chain; a row of modules is one layer each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import BadInput, Incompatible
from ..types import Params
from .chain import Chain, _crossing, _enter, _leave
from .march import COEF
from .module import Flow

Entry = tuple[nn.Parameter, int | None]  # a weight, and the row of it that is the layer's


@dataclass(frozen=True)
class Layer:
    """One layer x -> Phi(x, theta).

    step:    Phi for given weights; entries: where its own are kept
    h:       length of the knot interval; 1 for a layer that is none
    parts:   the field of the interval or the module, to look at what it holds
    flow:    whose knot interval it is; the step then takes a third argument, what watches its integrator's steps
    """

    name: str
    step: Callable[..., Any]
    entries: dict[str, Entry]
    h: float = 1.0
    part: nn.Module | None = None
    flow: Flow | None = None

    def __call__(self, x: Any, theta: Params) -> Any:
        return self.step(x, theta)

    def weights(self) -> Params:
        """theta as it is now: copies without a graph."""
        return {k: (p if n is None else p[n]).detach().clone() for k, (p, n) in self.entries.items()}

    @torch.no_grad()
    def put(self, theta: Params) -> None:
        """Write theta into the net."""
        for k, (p, n) in self.entries.items():
            (p if n is None else p[n]).copy_(theta[k])


def layered(model: nn.Module) -> list[Layer]:
    """The layers of a Flow, a Chain or an nn.Sequential.

    Raises Incompatible where layers share weights, steps are adaptive or a part has no layers, BadInput for a model
    that is no row of layers.
    """
    if isinstance(model, Flow):
        return _intervals("flow", model, _enter(model), _leave(model, False))
    if isinstance(model, Chain):
        found = list[Layer]()
        for i, part in enumerate(model.parts):
            if isinstance(part, Flow):
                found += _intervals(f"part {i}", part, _enter(part), _leave(part, model.links[i]))
            else:
                found.append(_module(f"part {i}", part, linked=model.links[i]))
        return _apart(found)
    if isinstance(model, nn.Sequential):
        return _apart([_module(f"layer {i}", part) for i, part in enumerate(model)])
    raise BadInput(
        f"{type(model).__name__} is no row of layers with weights of their own; give a Flow, a Chain or an "
        "nn.Sequential, or train it by gradient descent (method='adam')."
    )


def _intervals(name: str, flow: Flow, enter: Callable[..., Any], leave: Callable[..., Any]) -> list[Layer]:
    if flow.adaptive:
        raise Incompatible(
            f"{flow.integrator.name!r} takes adaptive steps, so its layers are not fixed maps; write "
            f"flow.with_integrator({flow.integrator.name!r}, steps={flow.steps}) or another integrator."
        )
    if flow.controls or "noise" in flow.integrator.needs:
        raise Incompatible("a flow with controls or noise has no layers that are maps of the state and weights alone.")
    if shared := sorted(k for k, d in flow.depths.items() if not d.local):
        raise Incompatible(
            f"the weights {', '.join(shared)} are shared by several layers ({type(flow.depths[shared[0]]).__name__}), "
            "so they cannot be chosen layer by layer; use depth='per_step', or method='adam'."
        )
    if flow.module is not None and any(True for _ in flow.module.parameters()):
        raise Incompatible(f"{type(flow.module).__name__} keeps weights for all depths; take a field with its own.")
    found, last = list[Layer](), flow.steps - 1
    for n in range(flow.steps):
        entries: dict[str, Entry] = {k: (p, n) for k, p in flow.weights.items()}
        entries |= {COEF + k: (p, n) for k, p in flow.coefficients.items()}

        def step(x: Any, theta: Params, watch: Any = None, n: int = n) -> Any:
            y = flow.interval(n, enter(x) if n == 0 else x, theta, watch)
            return leave(y) if n == last else y

        found.append(Layer(f"{name}[{n}]", step, entries, abs(flow.knots[n + 1] - flow.knots[n]), flow.field, flow))
    return found


def _module(name: str, part: nn.Module, linked: bool = False) -> Layer:
    entries: dict[str, Entry] = {k: (p, None) for k, p in part.named_parameters() if p.requires_grad}

    def step(x: Any, theta: Params) -> Any:
        run = partial(torch.func.functional_call, part, theta) if theta else part
        return _crossing(run)(x) if linked else run(x)  # type: ignore[arg-type]

    return Layer(name, step, entries, 1.0, part)


def _apart(layers: list[Layer]) -> list[Layer]:
    """The layers; raises Incompatible where two of them hold the same weight."""
    seen = dict[tuple[int, int | None], str]()
    for layer in layers:
        for p, n in layer.entries.values():
            other = seen.setdefault((id(p), n), layer.name)
            if other != layer.name:
                raise Incompatible(f"{other} and {layer.name} share a weight, so they cannot be chosen layer by layer.")
    return layers
