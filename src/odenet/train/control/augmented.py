"""The augmented Hamiltonian of every layer, and the weights that maximise it.

With states x_n and costates p_n = -dJ/dx_n of a batch of S samples (J is the mean loss of the batch), layer n maximises

    H_n(theta) - rho / (2 h S) sum_s |Phi_n(x_n, theta) - x_{n+1}|^2 - rho S / (2 h) sum_s |dH_n/dx(theta) - p_n|^2
    H_n(theta) = sum_s p_{n+1} . Phi_n(x_n, theta) - lambda / 2 |theta|^2

where x_{n+1} and p_n are those of the old weights: the penalties bound how far the new ones carry states and costates
away from them. The last layer minimises the loss itself in the place of -H_n, which is its linear part. rho is in units
of velocities and of the costate of one sample, so it depends neither on the number of layers nor on the batch.

Li, Chen, Tai & E (2018), Maximum principle based algorithms for deep learning, JMLR 18(165), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadInput, Incompatible
from ...fields.unit import Unit
from ...flow.layered import Layer, layered
from ...flow.sweep import Sweep, sweep
from ...optimise.rows import minimise_rows
from ...types import Params

RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
COUPLED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid, nn.Hardswish)
Terminal = Callable[[Any], Tensor]  # the loss of an output


@dataclass
class Augmented:
    """The layers of a net under the augmented Hamiltonian.

    costates:     with the penalty on costates; without it second derivatives of the layers are not needed
    weight_decay: lambda
    inner:        steps of L-BFGS for each layer
    Raises Incompatible for layers that share weights, couple samples (batch normalisation) or draw random numbers, and
    for kinked activations beside costates=True.
    """

    net: nn.Module
    costates: bool = True
    weight_decay: float = 0.0
    inner: int = 10
    layers: list[Layer] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, int) or self.inner < 1:
            raise BadInput(f"inner={self.inner!r}: the argmax of a layer takes one step of L-BFGS or more.")
        self.layers = layered(self.net)
        for layer in self.layers:
            self._check(layer)

    def sweep(self, x: Any, terminal: Terminal) -> Sweep:
        """States, costates and loss of a batch at the weights as they are."""
        return sweep([partial(layer, theta=layer.weights()) for layer in self.layers], x, terminal)

    def value(self, n: int, theta: Params, seen: Sweep, terminal: Terminal, rho: float) -> Tensor:
        """Minus the augmented Hamiltonian of layer n, a scalar with a graph to theta."""
        layer, last = self.layers[n], n + 1 == len(self.layers)
        curved = self.costates and rho > 0 and n > 0 and not last  # x_0 is given, so p_0 moves nothing
        x = _leaf(seen.states[n]) if curved else seen.states[n]
        out = layer(x, theta)
        samples = len(_parts(x)[0])
        pairs = list(zip(_parts(out), _parts(seen.states[n + 1])))
        moved = torch.stack([(new - old).square().sum() for new, old in pairs]).sum()
        gain = torch.stack([(p * o).sum() for p, o in zip(_parts(seen.costates[n + 1]), _parts(out))]).sum()
        total = (terminal(out) if last else -gain) + rho / (2 * layer.h * samples) * moved
        if curved:
            back = torch.autograd.grad(gain, _parts(x), create_graph=True, allow_unused=True, materialize_grads=True)
            turned = [(new - old).square().sum() for new, old in zip(back, _parts(seen.costates[n]))]
            total = total + rho * samples / (2 * layer.h) * torch.stack(turned).sum()
        if self.weight_decay:
            size = torch.stack([w.square().sum() for w in theta.values()]).sum() if theta else 0.0
            total = total + self.weight_decay / 2 * size
        return total

    def argmax(self, seen: Sweep, terminal: Terminal, rho: float) -> list[Params]:
        """For every layer the weights that maximise its augmented Hamiltonian, from those that it has."""
        found = [layer.weights() for layer in self.layers]
        for group in self._alike():
            rows = torch.stack([_flat(found[n]) for n in group])

            def together(theta: Tensor, group: list[int] = group) -> tuple[Tensor, Tensor]:
                live = [row.detach().requires_grad_() for row in theta]
                with torch.enable_grad():
                    values = [
                        self.value(n, _as(row, found[n]), seen, terminal, rho) for n, row in zip(group, live)
                    ]  # fmt: skip
                    slopes = torch.autograd.grad(torch.stack(values).sum(), live)
                return torch.stack(values).detach(), torch.stack(slopes)

            for n, row in zip(group, minimise_rows(together, rows, self.inner)):
                found[n] = _as(row, found[n])
        return found

    def put(self, weights: Iterable[Params]) -> None:
        """Write the weights of all layers into the net."""
        for layer, theta in zip(self.layers, weights):
            layer.put(theta)

    def _alike(self) -> Iterator[list[int]]:
        """Layers with weights of the same shapes, the last one by itself."""
        groups: dict[Any, list[int]] = {}
        for n, layer in enumerate(self.layers):
            shapes = tuple((k, tuple((p if r is None else p[r]).shape)) for k, (p, r) in layer.entries.items())
            if shapes:
                groups.setdefault((shapes, n + 1 == len(self.layers)), []).append(n)
        yield from groups.values()

    def _check(self, layer: Layer) -> None:
        part = layer.part
        assert part is not None
        inner = list(part.modules())
        if any(isinstance(m, COUPLED) for m in inner) or getattr(part, "statistics", None):
            raise Incompatible(
                f"{layer.name} normalises over the batch, so that its argmax is no sum over samples; "
                "use norm='none' or 'tv', or method='adam'."
            )
        if any(isinstance(m, RANDOM) and m.p > 0 for m in inner) or getattr(part, "dropout", False):
            raise Incompatible(f"{layer.name} has dropout, so two evaluations of its Hamiltonian differ; set it to 0.")
        if self.costates and (kinked := _kinked(inner)):
            raise Incompatible(
                f"{layer.name} has the activation {kinked}, whose derivative jumps, and the penalty on costates "
                "differentiates it; write costates=False, or take a smooth one such as tanh or softplus."
            )


def _kinked(modules: Iterable[nn.Module]) -> str:
    for m in modules:
        if isinstance(m, KINKED):
            return type(m).__name__
        for value in vars(m).values():
            if isinstance(value, Unit) and not value.activation.smooth:
                return value.activation.name
    return ""


def _flat(theta: Params) -> Tensor:
    return torch.cat([w.reshape(-1) for w in theta.values()])


def _as(row: Tensor, like: Params) -> Params:
    parts = row.split([w.numel() for w in like.values()])
    return {k: part.view_as(w) for (k, w), part in zip(like.items(), parts)}


def _parts(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def _leaf(state: Any) -> Any:
    made = tuple(s.detach().requires_grad_() for s in _parts(state))
    return made if isinstance(state, tuple) else made[0]
