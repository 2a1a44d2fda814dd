"""Derivatives carried through a network: one forward pass gives u, u_x, u_xx, ... at every point.

    parts = jets.jet(module, x, [(0, 0), (2, 0), (0, 1)])    # u, u_xx, u_t at x (N, 2): (3, N, m)
    with jets.record() as tape:
        parts = jets.jet(module, x, channels)
        r = parts[1] - parts[2]                               # (N, R)
    tape.jacobian(r, module.parameters())                     # (N, R, P), by one reverse pass for a column of r

A derivative is named by its multi-index, how often each coordinate is differentiated. Channels are Taylor coefficients
of the network in its inputs (Griewank & Walther 2008, ch. 13); any module made of operations that a `Jet` knows
carries them: torch's layers and activations, gates, and flows with their integrators.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from .jet_series import ORDER, Channels, Index, closed, highest
from .jet_tape import Tape, jacobian_by_vmap, record

__all__ = ["Channels", "Index", "Jet", "Tape", "closed", "jacobian_by_vmap", "jet", "lift", "record", "through"]


class Jet(Tensor):
    """A tensor (N, ...) with derivatives in the coordinates of its sample.

    parts:     (C, N, ...), row i the derivative channels[i]; row 0 the values
    channels:  a closed set of multi-indices
    A Jet goes wherever a tensor goes, through `torch` functions, methods and operators. Linear ones act on all
    channels at once, products by Leibniz' rule, functions of one variable by that of Faà di Bruno. The first axis stays
    that of the samples. `detach()` gives the values as a plain tensor, constants for what follows. Raises Incompatible,
    with the operation named, for what it cannot carry; an entry of another sample never enters.
    """

    parts: Tensor
    channels: Channels
    fresh: bool  # nothing else sees its storage, so it may be changed in place

    @staticmethod
    def __new__(cls, parts: Tensor, channels: Channels, fresh: bool = True) -> Jet:
        made = torch.Tensor._make_wrapper_subclass(cls, parts.shape[1:], dtype=parts.dtype, device=parts.device)
        made.parts, made.channels, made.fresh = parts, channels, fresh
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from .jet_rules import rule

        return rule(func)(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise Incompatible(f"{func} reached a jet past the functions of torch; write it with torch's own functions.")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Jet({tuple(self.parts.shape[1:])}, channels={list(self.channels)})"


def lift(x: Tensor, channels: Iterable[Sequence[int]]) -> Jet:
    """The coordinates x (N, d) themselves: values x, first derivatives 1, all others 0, on the closure of `channels`.

    Raises BadInput for indices of another length than d, or above 4th order.
    """
    own = closed(channels)
    if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != len(own[0]) or not x.is_floating_point():
        given = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise BadInput(
            f"points are a floating-point tensor (N, {len(own[0])}) for derivatives with {len(own[0])} indices, "
            f"got {given}."
        )
    if highest(own) > ORDER:
        raise BadInput(f"jets carry derivatives up to order {ORDER}, got {max(own, key=sum)}; write it as a system.")
    parts = x.new_zeros(len(own), x.shape[1], len(x)).mT  # samples last in memory: long vectors for every kernel
    parts[0] = x
    for row, index in enumerate(own):
        if sum(index) == 1:
            parts[row, :, index.index(1)] = 1.0
    return Jet(parts, own, fresh=False)


def through(module: Callable[[Tensor], Tensor], x: Tensor, channels: Iterable[Sequence[int]]) -> Tensor:
    """(C, N, m): `module` applied to the lifted points, its derivatives in the order of `channels`."""
    wanted = [tuple(index) for index in channels]
    out = module(lift(x, wanted))
    if not isinstance(out, Tensor):
        raise Incompatible(f"derivatives are those of one tensor, but the module returned a {type(out).__name__}.")
    if not isinstance(out, Jet):  # it does not depend on x
        return torch.stack([out if not any(index) else torch.zeros_like(out) for index in wanted])
    if tuple(wanted) == out.channels:
        return out.parts
    rows = [out.channels.index(index) for index in wanted]
    return out.parts[rows[0] : rows[0] + len(rows)] if _consecutive(rows) else out.parts[rows]


def _consecutive(rows: list[int]) -> bool:
    return rows == list(range(rows[0], rows[0] + len(rows)))


def jet(module: Any, x: Tensor, channels: Iterable[Sequence[int]], backend: str = "jets") -> Tensor:
    """Derivatives of a module at points x (N, d): (C, N, m), rows in the order of `channels`.

    backend:  "jets": one forward pass that carries them (by the module's own `jet(x, channels)` where it has one).
              "autograd": nested reverse passes, for modules with operations that jets do not know; row n of the output
              may depend on sample n only. "jvp": nested forward derivatives, the same values
    All are differentiable in the weights. Raises Incompatible, under "jets", for an operation that is not known.
    """
    wanted = [tuple(index) for index in channels]
    if backend == "jets":
        own = getattr(module, "jet", None)
        return through(module, x, wanted) if own is None else own(x, wanted)
    if backend not in _BACKENDS:
        raise BadInput(f"backend {backend!r} is not known; write 'jets', 'autograd' or 'jvp'.")
    lift(x, wanted)  # the same checks
    return _BACKENDS[backend](module, x, wanted)


def _by_autograd(module: Callable[[Tensor], Tensor], x: Tensor, wanted: list[Index]) -> Tensor:
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = module(x)
        columns = [_tree(column, x, closed(wanted)) for column in value.unbind(1)]
        rows = torch.stack([torch.stack([column[index] for column in columns], 1) for index in wanted])
    return rows if keep else rows.detach()


def _tree(u: Tensor, x: Tensor, channels: Channels) -> dict[Index, Tensor]:
    """All derivatives of one output (N,), each gradient taken once."""
    found = {channels[0]: u}
    slopes: dict[Index, Tensor] = {}
    for index in channels[1:]:
        axis = next(j for j, k in enumerate(index) if k)
        below = tuple(k - (j == axis) for j, k in enumerate(index))
        if below not in slopes:
            u = found[below]
            slope = (
                torch.autograd.grad(u.sum(), x, create_graph=True, allow_unused=True)[0] if u.requires_grad else None
            )
            slopes[below] = torch.zeros_like(x) if slope is None else slope
        found[index] = slopes[below][:, axis]
    return found


def _by_jvp(module: Callable[[Tensor], Tensor], x: Tensor, wanted: list[Index]) -> Tensor:
    with warnings.catch_warnings():  # torch compiles its own rules at the first nested derivative, and says so
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        return torch.stack([_directional(module, x, index)(x) for index in wanted])


def _directional(f: Callable[[Tensor], Tensor], x: Tensor, index: Index) -> Callable[[Tensor], Tensor]:
    for axis, times in enumerate(index):
        direction = torch.zeros_like(x)
        direction[:, axis] = 1.0
        for _ in range(times):
            f = _along(f, direction)
    return f


def _along(f: Callable[[Tensor], Tensor], direction: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.func.jvp(f, (x,), (direction,))[1]


_BACKENDS = {"autograd": _by_autograd, "jvp": _by_jvp}
