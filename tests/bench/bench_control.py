"""Seconds to a test accuracy: prox_msa and Adam, both tuned, five seeds, in turn; and full batches of sqh.

    python tests/bench/bench_control.py                     all tasks; about half an hour on one core
    python tests/bench/bench_control.py spirals moons --seeds 3
    python tests/bench/bench_control.py sqh                 loss by iteration and accuracy of sqh, full batch

Every setting of both grids is tried on two seeds that are not used again, in turns, and the best of each method, by the
median of seconds to the target, goes to the comparison, where the methods alternate too. Seconds are processor time of
the training steps alone; accuracy is looked at every few steps and is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import save
from torch import nn

import odenet as on
from odenet.train import METHODS, Run, tasks
from odenet.train.methods import total_of

NETS: dict[str, tuple[str, Callable[[int], nn.Module], int, int]] = {  # data, net, look every, most steps
    "digits resnet": ("digits", lambda s: on.nets.resnet(64, 10, width=64, steps=10, span=(0, 2), seed=s), 10, 400),
    "digits antisymmetric": (
        "digits", lambda s: on.nets.antisymmetric(64, 10, width=64, steps=10, span=(0, 2), seed=s), 10, 400,
    ),
    "digits hamiltonian": (
        "digits", lambda s: on.nets.hamiltonian(64, 10, width=64, steps=10, span=(0, 2), seed=s), 10, 400,
    ),
    "spirals resnet": ("spirals", lambda s: on.nets.resnet(2, 2, width=16, steps=10, span=(0, 4), seed=s), 20, 1500),
    "moons resnet": ("moons", lambda s: on.nets.resnet(2, 2, width=16, steps=10, span=(0, 4), seed=s), 10, 1000),
    "swiss_roll antisymmetric": (
        "swiss_roll", lambda s: on.nets.antisymmetric(2, 2, width=16, steps=10, span=(0, 4), seed=s), 20, 1500,
    ),
}  # fmt: skip
GRIDS: dict[str, list[dict[str, Any]]] = {
    "adam": [{"lr": lr, "batch": b} for b in (32, 128) for lr in (1e-3, 3e-3, 1e-2, 3e-2)],
    "prox_msa": [{"rho": rho, "batch": b} for b in (32, 128) for rho in (1.0, 2.0, 5.0, 10.0)],
}


def run(task: str, method: str, setting: dict[str, Any], seed: int, target: float) -> dict[str, Any]:
    """One training run until the accuracy on the test part reaches the target: seconds and steps, None if never."""
    data, make, every, most = NETS[task]
    problem = tasks.resolve(data, loss=None, validation=None, test=None, holdout=0.2, seed=0)
    net, words = make(seed), {"lr": 1e-2, **setting}
    batch, lr = words.pop("batch"), words.pop("lr")
    advance = METHODS.get(method).begin(Run(net=net, losses=lambda b: problem.losses(net, b), lr=lr, options=words))
    generator, seconds, best = torch.Generator().manual_seed(seed), 0.0, 0.0
    for k in range(1, most + 1):
        given = problem.sample(batch, generator)
        since = time.process_time()
        loss = float(total_of(advance(given)).detach())
        seconds += time.process_time() - since
        if not loss < 1e6:
            break
        if k % every == 0:
            best = max(best, problem.score(net)["accuracy"])
            if best >= target:
                return {"seconds": seconds, "steps": k, "best": best}
    return {"seconds": None, "steps": None, "best": best}


def middle(rows: list[dict[str, Any]], what: str) -> float:
    """Median, infinite where half of the runs never got there."""
    return statistics.median(float("inf") if r[what] is None else r[what] for r in rows)


def compared(task: str, seeds: int, target: float) -> list[dict[str, Any]]:
    tried: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for seed, k in itertools.product((100, 101), range(len(GRIDS["adam"]))):
        for method, grid in GRIDS.items():
            tried.setdefault((method, k), []).append(run(task, method, grid[k], seed, target))
    best = {}
    for method, grid in GRIDS.items():
        worst_first = sorted(range(len(grid)), key=lambda k: [max(r["seconds"] or 1e9 for r in tried[method, k])])
        best[method] = grid[worst_first[0]]
    rows: dict[str, list[dict[str, Any]]] = {m: [] for m in GRIDS}
    for seed in range(seeds):
        for method in GRIDS if seed % 2 else reversed(GRIDS):
            rows[method].append(run(task, method, best[method], seed, target))
    found = []
    for method, each in rows.items():
        found.append({
            "task": task, "target": target, "method": method, **best[method],
            "median_seconds": middle(each, "seconds"), "median_steps": middle(each, "steps"),
            "seconds": [r["seconds"] for r in each], "steps": [r["steps"] for r in each],
        })  # fmt: skip
        print(f"{task:26} {method:9} {best[method]!s:30} {found[-1]['median_seconds']:8.3f} s", end=" ")
        print(f"{found[-1]['median_steps']:6.0f} steps; {sum(r['seconds'] is None for r in each)} never", flush=True)
    return found


def sqh(seeds: int, steps: int = 40) -> list[dict[str, Any]]:
    """Full batches of digits on the ten-layer net: is the loss monotone, what is the accuracy."""
    found = []
    for seed in range(seeds):
        net, since = NETS["digits resnet"][1](seed), time.process_time()
        fit = on.fit(net, "digits", "sqh", steps=steps, rho=0.1, inner=10)
        losses = [row["loss"] for row in fit.history]
        found.append({
            "seed": seed, "iterations": steps, "monotone": losses == sorted(losses, reverse=True), "loss": losses[-1],
            "accuracy": fit.score["accuracy"], "seconds": time.process_time() - since,
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="words of the tasks; 'sqh' for the full-batch method")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.97)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.tasks == ["sqh"]:
        save("control-sqh", {"method": "sqh", "rows": sqh(given.seeds)})
        return
    chosen = [t for t in NETS if not given.tasks or any(word in t for word in given.tasks)]
    rows = [row for task in chosen for row in compared(task, given.seeds, given.target)]
    save("control", {"grids": GRIDS, "target": given.target, "rows": rows})


if __name__ == "__main__":
    main()
