"""Points of equations that move to where the residual is large, for trained nets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ansatz import Ansatz
from .collocation import CHUNK, Block, _within
from .sampling import RESAMPLERS
from .statement import Equation


@dataclass(frozen=True)
class _Part:
    """Where an equation holds, as what a resampler draws from."""

    domain: Any
    within: Any

    def sample(self, n: int, generator: torch.Generator, how: str = "sobol") -> Tensor:
        if self.within is None:
            return self.domain.sample(n, generator, how)  # type: ignore[no-any-return]
        return _within(self.domain, self.within, n, generator, how)


def at_points(block: Block, x: Tensor) -> Block:
    """The same equation at other points."""
    return Block(block.name, block.rows, x, {}, block.weight, source=block.source)


def magnitude(model: Ansatz, block: Block, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(n,): the length of the residual's rows at points x."""
    sizes = []
    with torch.no_grad():
        for part in x.split(CHUNK):
            b = at_points(block, part)
            parts = model.channels(model.prepared(b.points, b.channels))
            sizes.append(b.residual(b.values(parts, model.problem.unknowns), parameters).norm(dim=1))
    return torch.cat(sizes)


def moved(
    model: Ansatz, found: Sequence[Block], rule: str, generator: torch.Generator, parameters: Mapping[str, Tensor]
) -> list[Block]:
    """All blocks, those of equations at the points to which a resampler moves theirs; conditions stay."""
    resample, result = RESAMPLERS.get(rule), []
    for b in found:
        if isinstance(b.source, Equation):
            part = _Part(model.problem.domain, b.source.within)
            b = at_points(b, resample(part, lambda x, b=b: magnitude(model, b, parameters, x), b.x, generator))
        result.append(b)
    return result
