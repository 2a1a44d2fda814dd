"""Training from shallow to deep: most steps are taken where they are cheap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import BadInput
from ..flow.multilevel import prolong
from .fit import Fit, fit


def fit_multilevel(
    net: nn.Module, data: Any, levels: int = 3, steps: int | Sequence[int] = 500, lr: float | Sequence[float] = 1e-3,
    **options: Any,
) -> Fit:  # fmt: skip
    """Train `net`, double its knot intervals, train on, `levels` times in all: the Fit of the deepest net.

    steps:  of the training method on every level, or one number for each, the coarsest first
    lr:     likewise; a smaller one on the finer levels keeps what the coarse ones have found
    Further words go to `fit`. net is trained in place as the coarsest level; the net of the result has 2^(levels - 1)
    times its steps, and every entry of `history` says its level, with seconds from the beginning. A step on level k
    costs 2^k times one on level 0. Choose it for deep nets whose depth should be continuous (depth="piecewise_linear"):
    Haber & Ruthotto 2017 (arXiv 1705.03341); with weights per step Chang et al. 2018 (arXiv 1710.10348).
    Raises BadInput unless there are as many numbers as levels. Ends early where a level does not end "done".
    """
    if not isinstance(levels, int) or levels < 1:
        raise BadInput(f"levels is a positive whole number, got {levels!r}; write levels=3, for instance.")
    plan = list(zip(_each("steps", steps, levels), _each("lr", lr, levels)))
    history: list[dict[str, float]] = []
    for level, (count, rate) in enumerate(plan):
        result = fit(prolong(net) if level else net, data, steps=int(count), lr=rate, **options)
        before = history[-1]["seconds"] if history else 0.0
        history += [{**entry, "level": level, "seconds": before + entry["seconds"]} for entry in result.history]
        net = result.net
        if result.status != "done":
            break
    result.history = history
    return result


def _each(name: str, value: Any, levels: int) -> list[Any]:
    several = list(value) if isinstance(value, Sequence) else [value] * levels
    if len(several) != levels:
        raise BadInput(f"{name} has {len(several)} numbers for {levels} levels; give one, or one for each level.")
    return several
