"""Backward sensitivity of Hamiltonian deep networks: never below 1, and not bounded either."""

from __future__ import annotations

import numpy as np
import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

DEPTHS = (8, 64, 512)
ABOUT_ONE = 1.0 - 1e-9
PAPER = Paper(
    title="Hamiltonian deep neural networks guaranteeing non-vanishing gradients by design",
    cite="C. L. Galimberti, L. Furieri, L. Xu & G. Ferrari-Trecate, IEEE Trans. Autom. Control 68 (2023)",
    arxiv="2105.13205",
    about="y' = J K^T s(K y + b) keeps an energy; with K = blockdiag(K_q, K_p) and symplectic Euler (H2) every layer "
    "is a symplectic map, so |dy_N/dy_j| >= 1: gradients cannot vanish.",
    how="Weights are drawn from N(0, 1), as in the authors' code, h = 0.1, width 4, 16 inputs from N(0, 1); norms are "
    "spectral, of products of Jacobians in double precision. The plain network has layers tanh(K y + b), K and b "
    "from N(0, 1/4). The last claim solves y' together with its variational equation to T = 50, ..., 800 from five "
    "y(0).",
    claims=(
        Claim(
            key="symplectic",
            text="H2: largest |M^T J M - J| over the Jacobians M of all 512 layers",
            place="the layers of H2 are symplectic",
            at_most=1e-12,
            form=".1e",
        ),
        *(
            Claim(
                key=f"h2_{n}",
                text=f"H2: smallest |dy_N/dy_j| over j and inputs, N = {n}",
                place="the theorem on backward sensitivity matrices",
                at_least=ABOUT_ONE,
                form=".4f",
            )
            for n in DEPTHS
        ),
        Claim(
            key="plain",
            text="plain tanh layers, N = 64: largest |dy_N/dy_0| over inputs",
            place="what the paper avoids",
            control=True,
            at_most=1e-6,
            form=".1e",
        ),
        Claim(
            key="growth",
            text="H2, N = 512: largest |dy_N/dy_j|; not vanishing is not bounded",
            place="a measurement of ours",
            control=True,
            at_least=10.0,
            form=".0f",
        ),
        Claim(
            key="slope",
            text="y' = J tanh(y): slope of log |dy(T)/dy(0)| against log T",
            place="counter-example in the authors' repository (HamiltonianNet): the growth is linear",
            at_least=0.9,
            at_most=1.1,
        ),
    ),
)


def h2(depth: int, seed: int) -> tuple[on.stability.Sensitivity, float]:
    """Norms of the products of Jacobians, and the largest |M^T J M - J|."""
    flow = on.Flow(on.fields.HamiltonianJ(4, form="h2"), "symplectic_euler", span=(0.0, 0.1 * depth), steps=depth)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in flow.parameters():
            w.copy_(torch.randn(w.shape, generator=draw))
    unrolled = on.stability.unroll(flow, torch.randn(16, 4, generator=draw))
    return on.stability.sensitivity(unrolled, layers=depth), float(on.stability.symplectic(unrolled).steps.max())


def plain(depth: int, seed: int) -> float:
    draw = torch.Generator().manual_seed(seed)
    layers = [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()) for _ in range(depth)]
    with torch.no_grad():
        for layer in layers:
            for w in layer.parameters():
                w.copy_(torch.randn(w.shape, generator=draw) / 2)
    unrolled = on.stability.unroll(torch.nn.Sequential(*layers), torch.randn(16, 4, generator=draw))
    return float(on.stability.sensitivity(unrolled).backward[0].max())


def variational(t, state):
    """y' = J tanh(y) and M' = J diag(1 - tanh(y)^2) M, the state (B, 3, 2): y and the columns of M."""
    y, M = state[:, :1], state[:, 1:]
    g = torch.cat((torch.tanh(y), (1 - torch.tanh(y) ** 2) * M), dim=1)
    return torch.stack((g[..., 1], -g[..., 0]), dim=-1)


def slopes(seeds: range, longest: float) -> list[float]:
    y0 = torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds])
    start = torch.cat((y0[:, None], torch.eye(2, dtype=torch.float64).expand(len(y0), 2, 2)), dim=1)
    times = [0.0] + [longest / 2**k for k in (4, 3, 2, 1, 0)]
    found = on.solve(variational, start, times, "dopri8", rtol=1e-9, atol=1e-9)
    norms = torch.linalg.matrix_norm(found.y[1:, :, 1:], ord=2)
    return [float(np.polyfit(np.log(times[1:]), np.log(n), 1)[0]) for n in norms.T.numpy()]


def measure(smoke: bool) -> dict:
    seeds = range(1) if smoke else range(5)
    depths = {8: 4, 64: 8, 512: 16} if smoke else {n: n for n in DEPTHS}
    found = {n: [h2(depth, s) for s in seeds] for n, depth in depths.items()}
    return {
        "symplectic": [defect for _, defect in found[512]],
        **{f"h2_{n}": [float(s.backward.min()) for s, _ in v] for n, v in found.items()},
        "plain": [plain(64, s) for s in seeds],
        "growth": [float(s.backward.max()) for s, _ in found[512]],
        "slope": slopes(seeds, 50.0 if smoke else 800.0),
    }


if __name__ == "__main__":
    main(PAPER, measure)
