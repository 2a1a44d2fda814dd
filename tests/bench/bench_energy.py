"""Energy of implicit symplectic methods over a million steps of Henon and Heiles' problem, h = 0.1, four orbits.

    python tests/bench/bench_energy.py gauss4                     half an hour; goes on from energy_gauss4.pt
    python tests/bench/bench_energy.py implicit_midpoint --steps 20000

Prints the largest |H - H(0)| in the first and in the last tenth. One thread, Jacobian in closed form.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from odenet import integrators
from odenet.integrators.stages import Plain

KEEP = 20_000  # steps between two checkpoints
LINEAR = torch.zeros(4, 4, dtype=torch.float64)
LINEAR[0, 2] = LINEAR[1, 3] = 1.0
LINEAR[2, 0] = LINEAR[3, 1] = -1.0
STARTS = ((0.0, 0.1, 0.35, 0.1), (0.1, 0.2, 0.1, 0.2), (-0.2, 0.0, 0.2, 0.3), (0.3, -0.1, 0.0, 0.2))


def f(t: float, y: Tensor) -> Tensor:
    q, r, p, s = y.unbind(-1)
    return torch.stack((p, s, -q - 2 * q * r, r * r - r - q * q), -1)


def jacobian(t: float, y: Tensor) -> Tensor:
    J = LINEAR.expand(*y.shape[:-1], 4, 4).clone()
    J[..., 2, 0] -= 2 * y[..., 1]
    J[..., 2, 1] -= 2 * y[..., 0]
    J[..., 3, 0] -= 2 * y[..., 0]
    J[..., 3, 1] += 2 * y[..., 1]
    return J


def energy(y: Tensor) -> Tensor:
    q, r, p, s = y.unbind(-1)
    return (p * p + s * s + q * q + r * r) / 2 + q * q * r - r**3 / 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--steps", type=int, default=1_000_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    method, rhs, kept = integrators.get(given.name), Plain(f, jacobian), Path(f"energy_{given.name}.pt")
    start = torch.tensor(STARTS, dtype=torch.float64)
    at_start, y, carry, k, first, last, since = energy(start), start, (), 0, 0.0, 0.0, time.process_time()
    if kept.exists():
        y, k, first, last = torch.load(kept, weights_only=True)
    with torch.no_grad():
        while k < given.steps:
            step = method.step(rhs, 0.1 * k, y, 0.1, carry, None)
            y, carry, gap = step.y, step.carry, float((energy(step.y) - at_start).abs().max())
            first = max(first, gap) if k < given.steps // 10 else first
            last = max(last, gap) if k >= given.steps - given.steps // 10 else last
            k += 1
            if k % KEEP == 0:
                torch.save((y, k, first, last), kept)
    seconds = time.process_time() - since
    print(f"{given.name}: {given.steps} steps, first tenth {first:.4e}, last tenth {last:.4e}, {seconds:.0f} CPU s")


if __name__ == "__main__":
    main()
