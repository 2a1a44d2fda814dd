"""Problems on a part of their time, each starting from the solution of the part before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .conditions import Condition, Known, initial
from .domain import Time
from .solution import Field
from .statement import Problem


def window(problem: Problem, start: float, end: float, before: Field | None) -> Problem:
    """The problem on [start, end]; `before` gives the initial states, None: the problem's own.

    Measurements keep those of their points that lie in the window.
    """
    conditions = [c for c in (_cut(c, start, end) for c in problem.conditions) if c is not None]
    if before is not None:
        handed = End(before, start, max(problem.time_order.values()) - 1)
        conditions = [_from(problem, c, handed) if c.kind == "initial" else c for c in conditions]
    return Problem(
        problem.domain.space * Time(start, end),
        problem.equations,
        conditions,
        unknowns=problem.unknowns,
        parameters=problem.parameters,
        facts=problem.facts,
        name=problem.name,
        allow_jumps=True,
    )


@dataclass
class End:
    """The end of a window, where the next one starts; order: of the highest derivative in time that is handed on.

    All initial conditions of a window ask for the same points, and the answer asks the window before: the last answer
    is kept, or the work would double with every window.
    """

    field: Field
    time: float
    order: int
    _last: tuple[Tensor, list[tuple[int, ...]], Tensor] | None = None

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        if self._last is None or not torch.equal(self._last[0], x) or not set(channels) <= set(self._last[1]):
            wanted = sorted({(*c[:-1], k) for c in channels for k in range(max(self.order, c[-1]) + 1)})
            with torch.no_grad():
                self._last = x.clone(), wanted, self.field.jet(x, wanted)
        _, known, parts = self._last
        return parts[[known.index(c) for c in channels]]


def _from(problem: Problem, c: Condition, end: End) -> Condition:
    unknown = c.unknown or problem.unknowns[0]
    value = Known(end.jet, problem.unknowns.index(unknown), end.time, c.order)
    return replace(initial(value, unknown, c.order, c.hard, c.weight))


def _cut(c: Condition, start: float, end: float) -> Condition | None:
    if c.points is None:
        return c
    kept = (c.points[:, -1] >= start) & (c.points[:, -1] <= end)
    if not kept.any():
        return None
    return replace(c, points=c.points[kept], columns=tuple((k, v[kept]) for k, v in c.columns))


@dataclass
class Windows:
    """Fields one after another in time; `edges` are the times at which they meet, the later one counts there."""

    fields: list[Field]
    edges: list[float]

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        inner = torch.tensor(self.edges[1 : len(self.fields)], dtype=x.dtype)
        which = torch.bucketize(x[:, -1].contiguous(), inner, right=True)
        result: Any = None
        for k in which.unique().tolist():
            here = which == k
            parts = self.fields[k].jet(x[here], channels)
            if result is None:
                result = parts.new_zeros(parts.shape[0], len(x), parts.shape[2])
            result[:, here] = parts
        return result  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, Tensor]:
        found = {"edges": torch.tensor(self.edges, dtype=torch.float64)}
        for k, field in enumerate(self.fields):
            found |= {f"{k}.{name}": v for name, v in field.tensors().items()}
        return found
