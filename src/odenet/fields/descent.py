"""Gradient fields of a potential that may vary with time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..types import Params, State, Time
from .base import Field
from .wrap import wrap


class Descent(Field):
    """f(t, y) = -grad Phi(t, y) for a scalar function or nn.Module Phi(t, y) or Phi(y).

    y (B, ...) -> Phi (B,), the value of a sample depending on that sample alone; one backward pass for each f. The
    weights of a module are copied into the flow. Choose it to learn a potential: optimal transport moves along such a
    field, with Phi a solution of the Hamilton-Jacobi equation (`train.costs.hjb`). Onken, Wu Fung, Li & Ruthotto 2021
    (arXiv 2006.00104). Raises BadInput for a Phi of other arguments or another shape.
    """

    offers = frozenset({"potential"})

    def __init__(self, phi: Callable[..., Tensor] | nn.Module, *, axis: int = -1) -> None:
        super().__init__()
        self.phi = wrap(phi, axis=axis)
        self.axis = axis

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self.phi.init(generator)

    def forward(self, t: Time, y: State, p: Params) -> State:
        return -torch.func.grad(lambda x: self.potential(x, p, t).sum())(y)

    def potential(self, y: State, p: Params, t: Time = 0.0) -> Tensor:
        """Phi(t, y), shape (B,)."""
        value = self.phi(t, y, p)
        if value.shape != y.shape[:1]:
            raise BadInput(
                f"a potential gives one number for each of the {len(y)} samples, (B,), but it returned "
                f"{tuple(value.shape)}; sum over the features, or write .squeeze(-1)."
            )
        return value

    def extra_repr(self) -> str:
        return self.phi.extra_repr()
