"""The table of PDE problems beside DeepXDE and the classical codes: errors at stated budgets, medians over seeds.

    python tests/bench/bench_pde.py                                     everything, three seeds: about three hours
    python tests/bench/bench_pde.py --problems burgers --seeds 1 --share 0.1
    python tests/bench/bench_pde.py --no-peers
    python tests/bench/bench_pde.py --out runs --publish               go on where it was stopped; figures for the pages

One thread for each worker. All methods of one problem and seed run one after another. DeepXDE (found where it can be
imported, or in the folder that ODENET_DEEPXDE_PATH names) has the largest of our budgets of a problem, in a process of
its own; what it imports and draws before its first step is not counted, and evaluating errors is counted for neither
side. Budgets are seconds of wall clock. `odenet bench pde --peers` is the same without the dated file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from record import save

import odenet.pde
from odenet.experiment.bench_pde import PEERS, bench_pde

PAGES = Path(odenet.pde.__file__).parent / "library" / "measured.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=())
    parser.add_argument("--methods", nargs="*", default=(), help="random_features, trained, deep_bsde")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the budgets")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of runs in which pde lies: it is resumed, and kept")
    parser.add_argument("--publish", action="store_true", help="the figures that odenet show prints")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        done = bench_pde(
            given.problems, given.methods, seeds=given.seeds, share=given.share, peers=given.peers,
            workers=given.workers, resume=(out / "pde" / "rows.json").exists(), name="pde", out=out,
        )  # fmt: skip
        found = json.loads((done.folder / "rows.json").read_text())
        table = (done.folder / "table.txt").read_text()
    print(table)
    about = {k: getattr(given, k) for k in ("seeds", "share", "peers", "workers")} | {"stopped": done.stopped}
    path = save("pde", {**about, "classical": found["classical"], "rows": found["rows"]})
    path.with_suffix(".txt").write_text(table)
    if given.publish:
        PAGES.write_text(json.dumps(published(found), indent=1) + "\n")


def published(found: dict[str, Any]) -> dict[str, Any]:
    """Medians of error and seconds by problem and method, and the classical code's."""
    problems = dict[str, Any]()
    for title in dict.fromkeys(r["problem"] for r in found["rows"]):
        mine = [r for r in found["rows"] if r["problem"] == title and r["method"] not in PEERS and r["error"]]
        methods = {
            m: [statistics.median(r[k] for r in mine if r["method"] == m) for k in ("error", "seconds")]
            for m in dict.fromkeys(r["method"] for r in mine)
        }
        classical = [[c["error"], c["seconds"], c["how"]] for c in found["classical"] if c["problem"] == title]
        problems[title] = {"methods": methods} | ({"classical": classical[0]} if classical else {})
    return {"date": found["date"], "problems": problems}


if __name__ == "__main__":
    main()
