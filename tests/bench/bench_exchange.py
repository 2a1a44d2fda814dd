"""Does a net survive another integrator? Predicted from modified equations, against running it.

    python tests/bench/bench_exchange.py [--seeds 5] [--iterations 400]

spheres  y' = f(y), f 2-32-32-2 with relu, T = 1, trained with N steps of forward Euler on r in [.1, .15] and [.4, .45]
         against [.25, .3] in the plane, the data of Ott, Katiyar, Hennig & Tiemann (2021); then run with rk4. "Breaks"
         means that the accuracy falls by more than 0.1. A net counts as predicted right where both say the same.
learned  lm_resnet on two circles: the time sum h/(1 + k_n) that its modified equation states, against the time after
         which the exact solution of the same field, on a shared weight, comes closest to the net's last states.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from record import save
from torch import Tensor, nn

from odenet.flow import Chain, Flow, solve
from odenet.stability.prediction import predict_exchange

STEPS = (1, 2, 4, 8, 16, 32)
DROP = 0.1


def spheres(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points on two rings around a third one, (n, 2), and labels."""
    label = torch.arange(n) % 2
    u = torch.rand(n, generator=generator)
    outer = torch.rand(n, generator=generator) < 0.5
    r = torch.where(label == 1, 0.25 + 0.05 * u, torch.where(outer, 0.4 + 0.05 * u, 0.1 + 0.05 * u))
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    return torch.stack((r * torch.cos(angle), r * torch.sin(angle)), 1), label


def trained(flow: Flow, x: Tensor, y: Tensor, iterations: int, rate: float) -> Chain:
    net = Chain(flow, nn.Linear(2, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(iterations):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def accuracy(scores: Tensor, y: Tensor) -> float:
    return float((scores.argmax(1) == y).double().mean()) if bool(scores.isfinite().all()) else 0.5


def sphere(steps: int, seed: int, iterations: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    field = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    flow = Flow(field, "euler", depth="shared", steps=steps, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    net = trained(flow, *spheres(512, generator), iterations, 1e-2)
    x, y = spheres(256, generator)
    now, predicted, run = (accuracy(z, y) for z in predict_exchange(net, x, "rk4", steps))
    equation = flow.modified_equation(1)
    limit = equation.h_limit(x)
    return {"steps": steps, "seed": seed, "accuracy": now, "predicted": predicted, "rk4": run,
            "predicted to break": now - predicted > DROP, "breaks": now - run > DROP,
            "h": 1 / steps, "h_limit": limit}  # fmt: skip


def learned(seed: int, iterations: int, steps: int = 16) -> dict[str, Any]:
    torch.manual_seed(seed)
    field = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    flow = Flow(field, "lm", depth="shared", steps=steps, seed=seed)
    x, y = spheres(256, torch.Generator().manual_seed(seed))
    net = trained(flow, 2 * x, y, iterations, 4e-3)
    flow = net.double().parts[0]  # type: ignore[index]
    with torch.no_grad():
        ends = flow(2 * x.double())
        times = torch.linspace(0.0, 3.0, 601, dtype=torch.float64)
        along = solve(lambda z: flow.module(z), 2 * x.double(), times, "dopri5", rtol=1e-8).y
        apart = (along - ends).flatten(1).norm(dim=1)
    k = flow.coefficients["k"].detach()
    stable = bool(((k > -1) & (k <= 1)).all())  # else there is no equation to speak of
    return {"seed": seed, "predicted time": flow.modified_equation(1).effective_time if stable else None,
            "fitted time": float(times[int(apart.argmin())]), "k": [round(float(v), 3) for v in k],
            "left": float(apart.min() / (along[0] - ends).norm())}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, start = [], time.perf_counter()
    for steps in STEPS:
        for seed in range(given.seeds):
            rows.append(sphere(steps, seed, given.iterations))
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    right = sum(r["predicted to break"] == r["breaks"] for r in rows)
    print(f"predicted right: {right} of {len(rows)}")
    times = [learned(seed, given.iterations) for seed in range(given.seeds)]
    for r in times:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()}, flush=True)
    save("exchange", {"iterations": given.iterations, "right": right, "of": len(rows), "spheres": rows,
                      "learned": times, "seconds": round(time.perf_counter() - start)})  # fmt: skip


if __name__ == "__main__":
    main()
