"""Running statistics of batch norm: learned from data in one pass, never inside a forward pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..fields.unit import Observation, observed


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running mean and variance of every flow in `model` from its outputs on `batches`, without dropout.

    mean = E[z], var = E[z^2] - E[z]^2 over all values that share a set of statistics: all samples of all batches, at
    all stages of the steps in a knot interval. The only place where statistics are written, so recomputing a forward
    pass changes nothing.
    """
    sums: dict[int, list[Tensor]] = {}
    seen: list[Observation] = []
    token, was = observed.set(seen), model.training
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                model(batch)
                for mean, var, batch_mean, batch_var, count in seen:
                    total = sums.setdefault(
                        mean.data_ptr(), [mean, var, torch.zeros_like(mean), torch.zeros_like(var), mean.new_zeros(())]
                    )
                    total[2] += count * batch_mean
                    total[3] += count * (batch_var + batch_mean**2)
                    total[4] += count
                seen.clear()
            for mean, var, first, second, n in sums.values():
                mean.copy_(first / n)
                var.copy_((second / n - (first / n) ** 2).clamp_min(0.0))
    finally:
        model.train(was)
        observed.reset(token)
