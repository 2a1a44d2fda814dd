"""Tuples, lists, dicts and nests of tensors as one tensor, which is what integrators step."""

from __future__ import annotations

import cmath
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput


class Form:
    """How a nest of tensors lies in one tensor.

    batched: leaves (B, ...) become (B, D); else everything becomes (D,). Leaves of different precision are stepped in
             the widest one and handed to the field in their own.
    """

    def __init__(self, y0: Any, batched: bool = False) -> None:
        leaves: list[Tensor] = []
        self._build = _rebuilder(y0, leaves)
        self._like = y0
        for leaf in leaves:
            floating(leaf)
        if not leaves:
            raise BadInput("y0 holds no tensor; give a tensor, or a tuple, list or dict of tensors.")
        if len(devices := {str(v.device) for v in leaves}) > 1:
            raise BadInput(f"the tensors of y0 lie on different devices, {' and '.join(sorted(devices))}; move them.")
        if batched and len({v.shape[:1] for v in leaves}) > 1:
            raise BadInput(
                "per_sample=True takes tensors with one common first axis, the samples; got first axes "
                f"{', '.join(str(v.shape[0]) if v.dim() else 'none' for v in leaves)}."
            )
        self._lead = 1 if batched else 0
        self._shapes = [v.shape[self._lead :] for v in leaves]
        self._dtypes = [v.dtype for v in leaves]
        self._sizes = [s.numel() for s in self._shapes]
        self.dtype = reduce(torch.promote_types, self._dtypes)
        self.y0 = self.flat(y0)

    def flat(self, value: Any) -> Tensor:
        """A nest of the form of y0 as one tensor."""
        leaves: list[Tensor] = []
        _follow(value, self._like, leaves)
        shapes = [v.shape[self._lead :] for v in leaves]
        if shapes != self._shapes:
            raise BadInput(
                f"the right-hand side returned parts of shapes {[tuple(s) for s in shapes]} for a state of "
                f"{[tuple(s) for s in self._shapes]}; return one slope per part, in the same nest."
            )
        lead = leaves[0].shape[: self._lead]
        return torch.cat([v.reshape(*lead, -1).to(self.dtype) for v in leaves], dim=-1)

    def nest(self, y: Tensor) -> Any:
        """Back to the form of y0, with the extra leading axes of y in front."""
        parts = y.split(self._sizes, dim=-1)
        leaves = [
            _cast(part, dtype).reshape((*y.shape[:-1], *shape))
            for part, dtype, shape in zip(parts, self._dtypes, self._shapes)
        ]
        return self._build(iter(leaves))


def _follow(value: Any, like: Any, leaves: list[Tensor]) -> None:
    """Collect the leaves of a nest in the order of another; raises BadInput where the two have other parts."""
    if isinstance(like, Tensor):
        if not isinstance(value, Tensor):
            raise BadInput(f"the right-hand side returned a {type(value).__name__} where y0 has a tensor; return one.")
        leaves.append(value)
    elif isinstance(like, dict):
        if not isinstance(value, dict) or value.keys() != like.keys():
            given = f"keys {sorted(map(str, value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
            raise BadInput(f"the right-hand side returned {given} for a dict with keys {sorted(map(str, like))}.")
        for key, part in like.items():  # whatever the order in which the slopes were written down
            _follow(value[key], part, leaves)
    else:
        if not isinstance(value, (tuple, list)) or len(value) != len(like):
            given = f"{len(value)} parts" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"
            raise BadInput(
                f"the right-hand side returned {given} for a state of {len(like)}; return one slope per part, in the "
                "same nest."
            )
        for item, part in zip(value, like):
            _follow(item, part, leaves)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.real if x.is_complex() and not dtype.is_complex else x).to(dtype)


def _rebuilder(value: Any, leaves: list[Tensor]) -> Callable[[Any], Any]:
    """Collect the leaves of a nest; the function returned builds the nest anew from an iterator of leaves."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return next
    if isinstance(value, dict):
        inner = {k: _rebuilder(v, leaves) for k, v in value.items()}
        return lambda it: {k: make(it) for k, make in inner.items()}
    if isinstance(value, (tuple, list)):
        makers = [_rebuilder(v, leaves) for v in value]
        kind = type(value)
        if hasattr(value, "_fields"):  # a named tuple
            return lambda it: kind(*(make(it) for make in makers))
        return lambda it: kind(make(it) for make in makers)
    floating(value)
    raise AssertionError("unreachable")


def floating(y: Any) -> Tensor:
    """y itself; raises BadInput unless it is a tensor of floating-point or complex numbers."""
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
        given = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise BadInput(f"y0 holds floating-point tensors, got {given}; write torch.tensor([1.0]) or y0.double().")
    return y


def finite(y: Tensor) -> None:
    """Raise BadInput for a start that is not finite."""
    if not all_finite(y.detach()):
        index = int((~torch.isfinite(y.detach()).flatten()).nonzero()[0])
        raise BadInput(f"y0 has a NaN or infinite entry (component {index}); give finite initial values.")


def all_finite(y: Tensor) -> bool:
    """Whether no entry is NaN or infinite: their sum tells, unless it overflows."""
    return cmath.isfinite(y.sum().item()) or bool(torch.isfinite(y).all())
