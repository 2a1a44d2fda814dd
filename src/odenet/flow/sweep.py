"""States and costates of a layered model: one forward and one backward sweep, layer by layer.

    x_{n+1} = Phi_n(x_n, theta_n),   p_N = -dL/dx_N,   p_n = (dPhi_n/dx_n)^T p_{n+1}
    H_n = p_{n+1} . Phi_n(x_n, theta_n)

so dL/dtheta_n = -dH_n/dtheta_n: backpropagation with a minus sign, and the Hamiltonian of the maximum principle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput


@dataclass(frozen=True)
class Sweep:
    """states x_0..x_N and costates p_0..p_N (tensors, or tuples where a layer's state is one), loss, and the gradient
    of the loss with respect to every parameter of the model, keyed by name."""

    layers: Sequence[Callable[[Any], Any]]
    states: list[Any]
    costates: list[Any]
    loss: Tensor
    gradients: dict[str, Tensor]

    def hamiltonian(self, n: int) -> Tensor:
        """H_n = p_{n+1} . Phi_n(x_n, theta_n), a scalar, differentiable in theta_n."""
        out = self.layers[n](self.states[n])
        return torch.stack([(p * x).sum() for p, x in zip(_parts(self.costates[n + 1]), _parts(out))]).sum()

    def __repr__(self) -> str:
        return f"Sweep({len(self.layers)} layers, loss={float(self.loss):.4g})"


def layers_of(model: nn.Module | Sequence[Callable[[Any], Any]]) -> list[Callable[[Any], Any]]:
    """The layers of a Chain, an nn.Sequential, a list of callables or anything with `layers()`."""
    if hasattr(model, "layers") and callable(model.layers):
        return list(model.layers())
    if isinstance(model, nn.Sequential):
        return list(model)
    if isinstance(model, Sequence) and model and all(callable(m) for m in model):
        return list(model)
    raise BadInput(
        f"{type(model).__name__} is not a row of layers; give a Chain, an nn.Sequential, a list of callables, or a "
        "module with a method layers() that lists them."
    )


def sweep(model: nn.Module | Sequence[Callable[[Any], Any]], x: Any, loss: Callable[[Any], Tensor]) -> Sweep:
    """Run `model` on x, then carry -dL/dx back through the layers one at a time.

    loss: function of the output, a scalar. Memory: one layer's graph at a time beside the states.
    """
    layers = layers_of(model)
    parameters = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    with torch.no_grad():
        states = [x]
        for layer in layers:
            states.append(layer(states[-1]))
    last = _leaf(states[-1])
    with torch.enable_grad():
        value = loss(last)
        p = tuple(-g for g in torch.autograd.grad(value, _parts(last)))
    costates = [_like(p, states[-1])]
    wanted = [v for v in parameters.values() if v.requires_grad]
    totals: dict[int, Tensor] = {}
    for n in range(len(layers) - 1, -1, -1):
        x_n = _leaf(states[n])
        with torch.enable_grad():
            out = _parts(layers[n](x_n))
        pairs = [(o, q) for o, q in zip(out, p) if o.requires_grad]
        inputs = _parts(x_n)
        found = torch.autograd.grad([o for o, _ in pairs], [*inputs, *wanted], [q for _, q in pairs], allow_unused=True)
        p = tuple(torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found))
        for v, g in zip(wanted, found[len(inputs) :]):
            if g is not None:
                totals[id(v)] = totals[id(v)] - g if id(v) in totals else -g
        costates.append(_like(p, states[n]))
    gradients = {k: totals[id(v)] for k, v in parameters.items() if id(v) in totals}
    return Sweep(layers, states, costates[::-1], value.detach(), gradients)


def _parts(state: Any) -> tuple[Tensor, ...]:
    return tuple(state) if isinstance(state, tuple) else (state,)


def _leaf(state: Any) -> Any:
    made = tuple(s.detach().requires_grad_() for s in _parts(state))
    return made if isinstance(state, tuple) else made[0]


def _like(parts: tuple[Tensor, ...], state: Any) -> Any:
    return parts if isinstance(state, tuple) else parts[0]
