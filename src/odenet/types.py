"""Words that signatures share, and the legend of shape letters.

    B  batch (samples)      D  state width            C  channels          L  length of a signal
    H  height, W  width     N  knot intervals         T  output times      S  seeds run together

`State` inside an integrator is one tensor; `solve` packs tuples and dicts into one and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

State: TypeAlias = Tensor
Time: TypeAlias = float | Tensor
Params: TypeAlias = dict[str, Tensor]
Carry: TypeAlias = tuple[Tensor, ...]  # what a method remembers from earlier steps: FSAL slope, past slopes, y_{n-1}
Function: TypeAlias = Callable[[Time, State], State]


class Step(NamedTuple):
    """Result of one step: the new state, the error estimate of an embedded pair (else None), the new memory."""

    y: State
    error: State | None
    carry: Carry
