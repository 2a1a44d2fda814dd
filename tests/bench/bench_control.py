"""Seconds to a test accuracy: training methods of control theory and Adam, all tuned, five seeds, in turn; and sqh.

    python tests/bench/bench_control.py                     all tasks; a quarter of an hour on one core
    python tests/bench/bench_control.py spirals moons --seeds 3
    python tests/bench/bench_control.py sqh                 loss by iteration and accuracy of sqh, full batch

Tuning: every setting of every grid (eight each) on three seeds that are not used again, in turns, until the accuracy on
the validation part reaches the target; the median of the seconds decides. A run that takes four times as long as the
best median of any method so far is stopped and counts as never. Comparison: seeds 0, 1, ..., the methods alternate,
until the accuracy on the test part reaches the target, or 16 times as long as the best median of the tuning. Seconds
are processor time of the training steps alone; accuracy is looked at after every step and is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import math
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


def dense(kind: str, words: dict[str, Any]) -> Callable[[int], nn.Module]:
    return lambda seed: getattr(on.nets, kind)(seed=seed, **words)


DIGITS = dict(dim_in=64, dim_out=10, width=64, steps=10, span=(0, 2))
PLANE = dict(dim_in=2, dim_out=2, width=16, steps=10, span=(0, 4))
NETS: dict[str, tuple[str, Callable[[int], nn.Module], int]] = {  # data, net by seed, most steps
    "digits resnet": ("digits", dense("resnet", DIGITS), 400),
    "digits antisymmetric": ("digits", dense("antisymmetric", DIGITS), 400),
    "digits hamiltonian": ("digits", dense("hamiltonian", DIGITS), 400),
    **{
        f"{name} resnet": (name, dense("resnet", PLANE), 1500)
        for name in ("circles", "donut", "moons", "spirals", "squares")
    },
    "swiss_roll antisymmetric": ("swiss_roll", dense("antisymmetric", PLANE), 1500),
}
SIZES = (32, 128)  # of batches
GRIDS: dict[str, list[dict[str, Any]]] = {
    "adam": [{"lr": lr, "batch": b} for b in SIZES for lr in (3e-3, 1e-2, 3e-2, 1e-1)],
    "prox_msa": [{"rho": rho, "batch": b} for b in SIZES for rho in (1.0, 2.0, 5.0, 10.0)],
    "kfac": [{"rho": rho, "batch": b} for b in SIZES for rho in (2.5, 5.0, 10.0, 20.0)],
    "varpro": [{"iterations": k, "ridge": r, "batch": b} for b in (128, 512) for r in (1e-3, 1e-2) for k in (4, 12)],
}
TUNING = (100, 101, 102)
PATIENCE = 4.0


def run(
    task: str, method: str, setting: dict[str, Any], seed: int, target: float, tuning: bool, limit: float = math.inf
) -> dict[str, Any]:
    """One run until the accuracy on the validation or test part reaches the target: seconds and steps, inf if never."""
    data, make, most = NETS[task]
    problem = tasks.resolve(data, loss=None, validation=None, test=None, holdout=0.2, seed=0)
    part = problem.validation if tuning else problem.test
    net, words = make(seed), {"lr": 1e-2, **setting}
    batch, lr = words.pop("batch"), words.pop("lr")
    advance = METHODS.get(method).begin(Run(
        net=net, losses=lambda b: problem.losses(net, b), lr=lr, options=words,
        terminal=lambda output, b: problem.loss(output, b[1]),
    ))  # fmt: skip
    generator, seconds, best = torch.Generator().manual_seed(seed), 0.0, 0.0
    for k in range(1, most + 1):
        given = problem.sample(batch, generator)
        since = time.process_time()
        loss = float(total_of(advance(given)).detach())
        seconds += time.process_time() - since
        if not loss < 1e6 or seconds > limit:
            break
        best = max(best, problem.measure(net, part)["accuracy"])
        if best >= target:
            return {"seconds": seconds, "steps": k, "best": best}
    return {"seconds": math.inf, "steps": math.inf, "best": best}


def tuned(task: str, target: float) -> tuple[dict[str, dict[str, Any]], float]:
    """The setting of every method with the smallest median of seconds on the validation part; the smallest of all."""
    best: dict[str, tuple[float, dict[str, Any]]] = {m: (math.inf, grid[0]) for m, grid in GRIDS.items()}
    for k, method in itertools.product(range(max(map(len, GRIDS.values()))), GRIDS):
        setting, limit = GRIDS[method][k], PATIENCE * min(found for found, _ in best.values())
        found = statistics.median(run(task, method, setting, seed, target, True, limit)["seconds"] for seed in TUNING)
        best[method] = min(best[method], (found, setting), key=lambda b: b[0])
    return {method: setting for method, (_, setting) in best.items()}, min(found for found, _ in best.values())


def compared(task: str, seeds: int, target: float) -> list[dict[str, Any]]:
    chosen, fastest = tuned(task, target)
    rows: dict[str, list[dict[str, Any]]] = {m: [] for m in GRIDS}
    for seed in range(seeds):
        for method in GRIDS if seed % 2 else reversed(GRIDS):
            rows[method].append(run(task, method, chosen[method], seed, target, False, 4 * PATIENCE * fastest))
    found = []
    for method, each in rows.items():
        seconds, steps = ([r[what] for r in each] for what in ("seconds", "steps"))
        medians = {"median_seconds": statistics.median(seconds), "median_steps": statistics.median(steps)}
        never = sum(map(math.isinf, seconds))
        row = {"task": task, "target": target, "method": method, "setting": chosen[method], **medians, "never": never}
        found.append({**row, "seconds": seconds, "steps": steps, "best": [r["best"] for r in each]})
        ratio = found[-1]["median_seconds"] / found[0]["median_seconds"]
        print(
            f"{task:26} {method:9} {chosen[method]!s:48} {row['median_seconds']:8.3f} s, adam x {ratio:5.2f},", end=" "
        )
        print(f"{row['median_steps']:6.0f} steps; {never} never", flush=True)
    return found


def spoken(value: Any) -> Any:
    """None for what is infinite, which JSON does not know."""
    if isinstance(value, list):
        return [spoken(v) for v in value]
    return None if value == math.inf else value


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
    save(
        "control",
        {"grids": GRIDS, "target": given.target, "rows": [{k: spoken(v) for k, v in r.items()} for r in rows]},
    )


if __name__ == "__main__":
    main()
