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

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadInput, Incompatible, OdenetError
from ...fields.unit import Unit
from ...flow.layered import Layer, layered
from ...flow.sweep import Sweep, sweep
from ...optimise.rows import Together, minimise_rows
from ...types import Params
from ..constraints import projected
from .paying import paying

RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
COUPLED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid, nn.Hardswish)
TOGETHER = 2**15  # entries of a state up to which a call costs more than its arithmetic; beyond, caches are too small
Terminal = Callable[[Any], Tensor]  # the loss of an output


@dataclass
class Augmented:
    """The layers of a net under the augmented Hamiltonian.

    costates:     with the penalty on costates; without it second derivatives of the layers are not needed
    weight_decay: lambda
    inner:        steps of L-BFGS for each layer
    penalty:      what layers pay, see `paying`: the state is then (x, cost so far), and a terminal loss takes both
    constraint:   projects the net wherever weights are put into it
    Raises Incompatible for layers that share weights, couple samples (batch normalisation) or draw random numbers, and
    for kinked activations beside costates=True.
    """

    net: nn.Module
    costates: bool = True
    weight_decay: float = 0.0
    inner: int = 10
    penalty: Any = None
    constraint: Any = ()
    layers: list[Layer] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, int) or self.inner < 1:
            raise BadInput(f"inner={self.inner!r}: the argmax of a layer takes one step of L-BFGS or more.")
        self.layers = layered(self.net)
        for layer in self.layers:
            self._check(layer)
        self.layers = paying(self.layers, self.penalty) if self.penalty else self.layers

    def sweep(self, x: Any, terminal: Terminal) -> Sweep:
        """States, costates and loss of a batch at the weights as they are."""
        x = (x, x.new_zeros(len(x))) if self.penalty else x
        return sweep([partial(layer, theta=layer.weights()) for layer in self.layers], x, terminal)

    def value(self, n: int, theta: Params, seen: Sweep, terminal: Terminal, rho: float) -> Tensor:
        """Minus the augmented Hamiltonian of layer n, a scalar with a graph to theta."""
        return self._value(n, theta, self._frozen(n, seen), terminal, rho, _pulled)

    def _frozen(self, n: int, seen: Sweep) -> _Frozen:
        """x_n, x_{n+1}, p_n, p_{n+1} as tuples of tensors."""
        return tuple(_parts(s) for s in (*seen.states[n : n + 2], *seen.costates[n : n + 2]))

    def _value(self, n: int, theta: Params, frozen: _Frozen, terminal: Terminal, rho: float, pull: _Pull) -> Tensor:
        layer, last = self.layers[n], n + 1 == len(self.layers)
        curved = self.costates and rho > 0 and n > 0 and not last  # x_0 is given, so p_0 moves nothing
        x, after, p, p_after = frozen

        def step(*parts: Tensor) -> tuple[Tensor, ...]:
            return _parts(layer(parts if len(parts) > 1 else parts[0], theta))

        out, back = pull(step, x, p_after) if curved else (step(*x), ())
        samples = len(x[0])
        moved = torch.stack([(new - old).square().sum() for new, old in zip(out, after)]).sum()
        gain = torch.stack([(q * o).sum() for q, o in zip(p_after, out)]).sum()
        total = (terminal(out if len(out) > 1 else out[0]) if last else -gain) + rho / (2 * layer.h * samples) * moved
        if curved:
            turned = [(new - old).square().sum() for new, old in zip(back, p)]
            total = total + rho * samples / (2 * layer.h) * torch.stack(turned).sum()
        if self.weight_decay:
            size = torch.stack([w.square().sum() for w in theta.values()]).sum() if theta else 0.0
            total = total + self.weight_decay / 2 * size
        return total

    def argmax(self, seen: Sweep, terminal: Terminal, rho: float) -> list[Params]:
        """For every layer the weights that maximise its augmented Hamiltonian, from those that it has.

        Layers of a flow are evaluated together by vmap, where that gives the numbers of a loop over them.
        """
        found = [layer.weights() for layer in self.layers]
        for group in self._alike(seen):
            rows = torch.stack([_flat(found[n]) for n in group])
            together = self._one_by_one(group, found, seen, terminal, rho)
            small = sum(s.numel() for s in _parts(seen.states[group[0]])) <= TOGETHER
            if small and len(group) > 1 and self.layers[group[0]].part is self.layers[group[-1]].part:
                stacked = self._stacked(group, found[group[0]], seen, terminal, rho)
                together = stacked if _same(stacked, together, rows) else together
            for n, row in zip(group, minimise_rows(together, rows, self.inner)):
                found[n] = _as(row, found[n])
        return found

    def _one_by_one(
        self, group: list[int], found: list[Params], seen: Sweep, terminal: Terminal, rho: float
    ) -> Together:
        def together(theta: Tensor) -> tuple[Tensor, Tensor]:
            live = [row.detach().requires_grad_() for row in theta]
            with torch.enable_grad():
                each = [self.value(n, _as(row, found[n]), seen, terminal, rho) for n, row in zip(group, live)]
                total = torch.stack(each).sum() + 0 * torch.stack(live).sum()  # a step that failed has no graph
                slopes = torch.autograd.grad(total, live)
            return torch.stack(each).detach(), torch.stack(slopes)

        return together

    def _stacked(self, group: list[int], like: Params, seen: Sweep, terminal: Terminal, rho: float) -> Together:
        """The layers of a group as copies of its first one, with states and costates of their own."""
        frozen = [self._frozen(n, seen) for n in group]
        whole = tuple(tuple(torch.stack(each) for each in zip(*kind)) for kind in zip(*frozen))

        def one(row: Tensor, own: _Frozen) -> Tensor:
            return self._value(group[0], _as(row, like), own, terminal, rho, _pulled_by_vjp)

        both = torch.func.vmap(torch.func.grad_and_value(one))

        def together(theta: Tensor) -> tuple[Tensor, Tensor]:
            slopes, values = both(theta.detach(), whole)
            return values, slopes

        return together

    def put(self, weights: Iterable[Params]) -> None:
        """Write the weights of all layers into the net."""
        for layer, theta in zip(self.layers, weights):
            layer.put(theta)
        projected(self.constraint, self.net)

    def _alike(self, seen: Sweep) -> Iterator[list[int]]:
        """Layers with weights and states of the same shapes and steps of the same length, the first and the last by
        themselves."""
        groups: dict[Any, list[int]] = {}
        for n, layer in enumerate(self.layers):
            shapes = tuple((k, tuple((p if r is None else p[r]).shape)) for k, (p, r) in layer.entries.items())
            if shapes:
                states = tuple(s.shape for x in seen.states[n : n + 2] for s in _parts(x))
                rows = any(r is not None for _, r in layer.entries.values())
                place = (n == 0, n + 1 == len(self.layers), round(layer.h, 9), id(layer.part) if rows else None)
                groups.setdefault((shapes, states, place), []).append(n)
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


_Frozen = tuple[tuple[Tensor, ...], ...]
_Pull = Callable[[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Any, Any]]


def _pulled(step: Callable[..., tuple[Tensor, ...]], x: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """step(x) and (dstep/dx)^T p."""
    live = tuple(s.detach().requires_grad_() for s in x)
    out = step(*live)
    gain = torch.stack([(q * o).sum() for q, o in zip(p, out)]).sum()
    return out, torch.autograd.grad(gain, live, create_graph=True, allow_unused=True, materialize_grads=True)


def _pulled_by_vjp(
    step: Callable[..., tuple[Tensor, ...]], x: tuple[Tensor, ...], p: tuple[Tensor, ...]
) -> tuple[Any, Any]:
    found = torch.func.vjp(step, *x)
    return found[0], found[1](p)


def _same(stacked: Together, together: Together, rows: Tensor) -> bool:
    """Whether the first is possible and is the second: a layer may know where it is, or ask for the values it has."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that of operations without a rule for batches
            found = stacked(rows)
    except (RuntimeError, NotImplementedError, Warning, OdenetError):
        return False
    close = 1e3 * torch.finfo(rows.dtype).eps
    return all(bool((a - b).norm() <= close * b.norm()) for a, b in zip(found, together(rows)))
