"""The table of PDE problems beside DeepXDE and the classical codes: errors at stated budgets, medians over seeds.

    python tests/bench/bench_pde.py                                     everything, three seeds: about five hours
    python tests/bench/bench_pde.py --problems burgers --seeds 1 --share 0.1
    python tests/bench/bench_pde.py --no-peers

One thread. All methods of one problem and seed run one after another. DeepXDE (found where it can be imported, or in
the folder that ODENET_DEEPXDE_PATH names) has the largest of our budgets of a problem, in a process of its own; what it
imports and draws before its first step is not counted, and evaluating errors is counted for neither side. Budgets are
seconds of wall clock. `odenet bench pde --peers` is the same without the dated file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from record import save

from odenet.experiment.bench_pde import bench_pde


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=())
    parser.add_argument("--methods", nargs="*", default=(), help="random_features, trained")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the budgets")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        done = bench_pde(given.problems, given.methods, seeds=given.seeds, share=given.share, peers=given.peers,
                         name="pde", out=Path(folder))  # fmt: skip
        found = json.loads((done.folder / "rows.json").read_text())
        table = (done.folder / "table.txt").read_text()
    print(table)
    about = {"seeds": given.seeds, "share": given.share, "peers": given.peers, "stopped": done.stopped}
    path = save("pde", {**about, "classical": found["classical"], "rows": found["rows"]})
    path.with_suffix(".txt").write_text(table)


if __name__ == "__main__":
    main()
