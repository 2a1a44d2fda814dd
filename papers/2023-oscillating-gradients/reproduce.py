"""Gradients over depth that do not converge under refinement, and the inner product in which they do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

DEPTHS, FINEST = (40, 80, 160, 320, 640), 2560
ABSTRACT = "abstract: differentiating a multistep net leaves artificial oscillations that do not converge"
POST = "abstract: simple post-processing of leapfrog removes them"
SMOOTH = "one-step Euler is the case without oscillations"
RIESZ = "a remedy of ours, for any method"
PAPER = Paper(
    title="Correcting auto-differentiation in neural-ODE training",
    cite="Y. Xu, S. Chen & Q. Li, 2023",
    arxiv="2306.02192",
    about="The exact gradient of a discretised net need not converge, as a function of depth, to the gradient of its "
    "differential equation when the net is refined.",
    how="y' = tanh(K(t) y + b(t)) in four dimensions, t from 0 to 1, K and b of three Fourier modes from the seed; a "
    "random linear function L of y(1) is differentiated in b. The same K(t), b(t) on N = 40, 80, ..., 640 steps; "
    "slopes are of logarithms against log N. The index of g_j = dL/db_j / h is |g_{j+1} - 2 g_j + g_{j-1}| / |g|. "
    "Distances are relative, to the gradient of Euler with 2,560 steps. Averaged: (g_{j-1} + 2 g_j + g_{j+1}) / 4 "
    "without the two nodes at either end, which the Euler start and the end of the span leave alone. Riesz: the "
    "representative in H1 with the length 0.1, from on.stability.riesz_gradient.",
    claims=(
        Claim(key="euler", text="Euler: slope of the index", place=SMOOTH, control=True, at_most=-1.8),
        Claim(key="index", text="two-step midpoint: smallest index", place=ABSTRACT, at_least=1.0),
        Claim(key="slope", text="two-step midpoint: slope of the index", place=ABSTRACT, at_least=-0.1),
        Claim(key="distance", text="two-step midpoint: distance at N = 640", place=ABSTRACT, at_least=0.5),
        Claim(key="averaged", text="averaged over neighbours: slope of the distance", place=POST, at_most=-0.8),
        Claim(key="riesz", text="Riesz: slope of the index", place=RIESZ, control=True, at_most=-1.8),
        Claim(key="riesz_distance", text="Riesz: slope of the distance", place=RIESZ, control=True, at_most=-0.8),
    ),
)


def smooth(shape: tuple[int, ...], t: Tensor, draw: torch.Generator) -> Tensor:
    """Three Fourier modes with random coefficients at the times t, (len(t), *shape)."""
    modes = torch.stack([torch.ones_like(t), torch.sin(2 * torch.pi * t), torch.cos(2 * torch.pi * t)])
    c = torch.randn(3, *shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5
    return torch.einsum("mt,m...->t...", modes, c)


def gradients(scheme: str, steps: int, seed: int) -> list[Tensor]:
    """dL/db_j / h, the same averaged, and the Riesz representative, (N, 4) each."""
    draw = torch.Generator().manual_seed(seed)
    flow = on.Flow(on.fields.Free(4), scheme, depth="per_step", steps=steps).double()
    t = torch.arange(steps, dtype=torch.float64) / steps
    with torch.no_grad():
        for name in sorted(flow.weights):
            flow.weights[name].copy_(smooth(tuple(flow.weights[name].shape[1:]), t, draw))
    y, w = torch.randn(2, 8, 4, generator=draw, dtype=torch.float64)
    (w * flow(y)).sum().backward()
    g = flow.weights["b"].grad * steps
    averaged = torch.cat((g[:1], (g[:-2] + 2 * g[1:-1] + g[2:]) / 4, g[-1:]))
    return [g, averaged, on.stability.riesz_gradient(flow, 0.1)["b"]]


def far(found: Tensor, true: Tensor, inside: int = 0) -> float:
    """Relative distance at the times of the coarser grid, without `inside` nodes at either end."""
    true = true[:: len(true) // len(found)]
    part = slice(inside, len(true) - inside)
    return float((found[part] - true[part]).norm() / true[part].norm())


def measure(smoke: bool) -> dict:
    seeds, depths, finest = (range(1), DEPTHS[:2], 160) if smoke else (range(5), DEPTHS, FINEST)
    index = on.stability.oscillation_index
    rows = []
    for seed in seeds:
        true = gradients("euler", finest, seed)
        euler = [index(gradients("euler", n, seed)[0]) for n in depths]
        midpoint = [gradients("two_step_midpoint", n, seed) for n in depths]
        plain, riesz = ([index(g[i]) for g in midpoint] for i in (0, 2))
        distances = [[far(g[i], true[j], inside) for g in midpoint] for i, j, inside in ((1, 0, 2), (2, 2, 0))]
        slopes = [slope(depths, v) for v in (euler, plain, riesz, *distances)]
        rows.append((*slopes, min(plain), far(midpoint[-1][0], true[0])))
    keys = ("euler", "slope", "riesz", "averaged", "riesz_distance", "index", "distance")
    return dict(zip(keys, map(list, zip(*rows))))


def slope(depths: tuple[int, ...], values: list[float]) -> float:
    return float(np.polyfit(np.log(depths), np.log(values), 1)[0])


if __name__ == "__main__":
    main(PAPER, measure)
