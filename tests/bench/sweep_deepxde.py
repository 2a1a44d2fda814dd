"""DeepXDE's tuned settings against changes of them: rate, net and points, one at a time, at a fixed budget.

    python tests/bench/sweep_deepxde.py                           four problems, 30 s each: about a quarter of an hour
    python tests/bench/sweep_deepxde.py --problems burgers --seconds 60

What is best here stands as `tuned` in odenet.experiment.deepxde_problems. One thread, one run after another.
"""

from __future__ import annotations

import argparse

import torch
from record import save

from odenet.experiment import deepxde_peer

CHANGES = (
    {}, {"rate": 3e-4}, {"rate": 5e-3}, {"width": 30, "depth": 3}, {"width": 64, "depth": 4}, {"points": 2000},
    {"points": 10000},
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=("burgers", "allen_cahn", "convection", "wave"))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for problem in given.problems:
        for changes in CHANGES:
            found = deepxde_peer.run(problem, {}, given.seconds, given.seed, "tuned", changes)
            rows.append({"problem": problem, "changes": changes, "rel_l2": found["rel_l2"], "loss": found["loss"]})
            print(f"{problem:14} {changes!s:34} rel_l2 {found['rel_l2']:.2e}", flush=True)
    save("deepxde_sweep", {"seconds": given.seconds, "seed": given.seed, "rows": rows})


if __name__ == "__main__":
    main()
