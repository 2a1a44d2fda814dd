"""Two fields that drive each other: the separable field behind reversible residual networks."""

from __future__ import annotations

import torch

from ..errors import BadInput
from ..types import Params, State, Time
from .base import Field, stateful


class Coupling(Field):
    """y = (q, p):  p' = first(t, q),  q' = second(t, p), for any two fields of half the width.

    One step of symplectic_euler with h = 1 is p <- p + first(q), q <- q + second(p): the reversible residual block
    of Gomez et al. 2017 (arXiv 1707.04585, eq. 6-7) with (x1, x2) = (p, q), undone without storing anything, whatever
    the two fields are. Names of weights are those of `first` after "1_" and of `second` after "2_". Choose it to make
    an existing residual branch reversible; an energy there is only where both are gradients, as in
    SeparableHamiltonian. Raises BadInput for fields of different width, axis or dropout.
    """

    offers = frozenset({"separable"})

    def __init__(self, first: Field, second: Field) -> None:
        super().__init__()
        widths = [getattr(field, "dim", None) for field in (first, second)]
        if widths[0] != widths[1] or first.axis != second.axis:
            raise BadInput(
                f"the two fields of a Coupling act on halves of one state, but they have widths {widths[0]} and "
                f"{widths[1]} on axes {first.axis} and {second.axis}; give both the same."
            )
        if first.dropout != second.dropout:
            raise BadInput(f"the fields of a Coupling drop {first.dropout} and {second.dropout}; give both one rate.")
        if "second_order" in first.offers | second.offers:
            raise BadInput("a Coupling takes fields of first order; give the force of a SecondOrder field instead.")
        self.first, self.second, self.axis = first, second, first.axis
        self.dropout = first.dropout
        self.dim = None if widths[0] is None else 2 * widths[0]
        self.statistics = frozenset(_named("1_", first.statistics) | _named("2_", second.statistics))

    def init(self, generator: torch.Generator | None = None) -> Params:
        return self._both(self.first.init(generator), self.second.init(generator))

    def constrain(self, p: Params) -> Params:
        return self._both(self.first.constrain(_of("1_", p)), self.second.constrain(_of("2_", p)))

    def forward(self, t: Time, y: State, p: Params) -> State:
        q, momentum = self.split(y)
        return self.join(self.drift(t, momentum, p), self.kick(t, q, p))

    def kick(self, t: Time, q: State, p: Params) -> State:
        """dp/dt = first(t, q)."""
        return self.first(t, q, _of("1_", p))

    def drift(self, t: Time, momentum: State, p: Params) -> State:
        """dq/dt = second(t, p)."""
        return self.second(t, momentum, _of("2_", p))

    def stateful(self) -> str | None:
        """Why a recomputed evaluation would differ from the first one, or None."""
        return stateful(self.first) or stateful(self.second)

    def _both(self, first: Params, second: Params) -> Params:
        return {**{"1_" + k: v for k, v in first.items()}, **{"2_" + k: v for k, v in second.items()}}


def _named(tag: str, names: frozenset[str]) -> frozenset[str]:
    return frozenset(tag + name for name in names)


def _of(tag: str, p: Params) -> Params:
    return {k[len(tag) :]: v for k, v in p.items() if k.startswith(tag)}
