"""The population Hamiltonian: with N samples its mean and its slope in the weights are known to O(N^-1/2)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

import odenet as on
from odenet.flow.layered import layered
from odenet.flow.sweep import sweep

POPULATION = 2**16


def test_the_hamiltonian_of_a_sample_is_that_of_the_population_up_to_the_root_of_its_size() -> None:
    """E, Han & Li 2019 (arXiv 1807.01083): training on samples solves the mean-field maximum principle to O(N^-1/2).

    Costates are per sample, so one sweep over the population holds H_n of every sample; means over disjoint draws of
    N = 2^4, ..., 2^12 miss that of the population by a root mean square that falls with a slope of -1/2.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(POPULATION, 3, generator=draw)
    y = (x[:, 0] * x[:, 1] + 0.3 * torch.randn(POPULATION, generator=draw) > 0).long()
    net = on.nets.resnet(3, 2, width=4, steps=3, span=(0.0, 1.5), seed=1)
    rows = layered(net)
    thetas = [layer.weights() for layer in rows]
    maps = [lambda state, n=n: rows[n](state, thetas[n]) for n in range(len(rows))]
    seen = sweep(maps, x, lambda out: F.cross_entropy(out, y, reduction="sum"))
    n = 2
    state, p = seen.states[n], seen.costates[n + 1]
    z = torch.tanh(F.linear(state, thetas[n]["K"], thetas[n]["b"]))
    values = (p * (state + 0.5 * z)).sum(1)  # H_n of every sample, an Euler layer of h = 1/2 by hand
    torch.testing.assert_close(values, (p * maps[n](state)).sum(1))
    slopes = 0.5 * (p * (1 - z * z))[:, :, None] * state[:, None, :]  # its derivative in K
    for per_sample in (values[:, None], slopes.flatten(1)):
        sizes = 2 ** np.arange(4, 13)
        errors = []
        for size in sizes.tolist():
            means = per_sample.double().reshape(-1, size, per_sample.shape[1]).mean(1)
            errors.append(float((means - per_sample.double().mean(0)).square().sum(1).mean().sqrt()))
        slope = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
        assert abs(slope + 0.5) < 0.1
