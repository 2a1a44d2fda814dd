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
    """Result of one step.

    y:       the new state
    error:   estimate of the local error by an embedded method, else None
    carry:   the new memory
    slopes:  stages f(t + c_i h, Y_i), from which dense output is made, where the method has them at hand
    order:   p where the error estimate scales like h^p and p changes from step to step, else None
    """

    y: State
    error: State | None
    carry: Carry
    slopes: tuple[State, ...] = ()
    order: int | None = None
