"""Penalties that are sums over layers, inside the layers: the cost so far is one more component of the state.

    (x_{n+1}, c_{n+1}) = (Phi_n(x_n, theta_n), c_n + L_n(x_n, theta_n)),     J = mean loss(x_N) + mean c_N

so the costate of c is -1/S and the Hamiltonian of a layer becomes p_{n+1} . Phi_n - L_n, whatever the method does with
it (the form of Mayer). L_n is a running cost over a knot interval, or of {"l2": w} the share w h |theta_n|^2 / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import Incompatible
from ...flow.integral import Integral
from ...flow.layered import Layer
from ...flow.march import COEF
from ...types import Params
from ..costs import RunningCost


def paying(layers: list[Layer], penalty: Any) -> list[Layer]:
    """The layers on (x, c); parts that are no knot intervals cost nothing.

    Raises Incompatible for penalties that are no sums over layers, and for costs that are drawn afresh every time.
    """
    size, costs = 0.0, []
    for one in penalty if isinstance(penalty, list | tuple) else [penalty]:
        if isinstance(one, RunningCost):
            costs.append(one)
        elif isinstance(one, Mapping) and set(one) <= {"l2"}:
            size += one.get("l2", 0.0)
        else:
            what = ", ".join(map(repr, one)) if isinstance(one, Mapping) else getattr(one, "__name__", repr(one))
            raise Incompatible(
                f"the penalty {what} couples layers or is unknown to them, so no layer can be chosen for itself under "
                "it; take a running cost of train.costs or {'l2': 1e-4}, or method='adam'."
            )
    if any(cost.random for cost in costs):
        raise Incompatible(
            "this running cost draws a probe in every solve, so two evaluations of a Hamiltonian differ; write "
            "jacobian(weight, seed=0) or jacobian(weight, exact=True)."
        )
    return [replace(layer, step=_step(layer, costs, size)) for layer in layers]


def _step(layer: Layer, costs: list[RunningCost], size: float) -> Callable[..., Any]:
    def step(state: tuple[Tensor, ...], theta: Params) -> tuple[Tensor, ...]:
        *x, paid = state
        inner = tuple(x) if len(x) > 1 else x[0]
        if layer.flow is None:
            return (*_parts(layer(inner, theta)), paid)
        entered = x[0]
        laws = [cost.start(entered) for cost in costs]
        gathered = Integral(layer.flow, lambda t, z, w, f: torch.stack([law(t, z, w, f) for law in laws]).sum(0))
        out = _parts(layer.step(inner, theta, gathered if laws else None))
        squares = [w.square().sum() for k, w in theta.items() if not k.startswith(COEF)]
        if size and squares:
            paid = paid + 0.5 * size * layer.h * torch.stack(squares).sum()
        return (*out, paid + gathered.total)

    return step


def _parts(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)
