"""Error, evaluations and seconds of each method on the test set, other libraries' solvers beside them.

python tests/bench/bench_testset.py                        one tolerance, 1e-6: about four minutes
python tests/bench/bench_testset.py --tolerances 1e-4 1e-8 --problems hires e2 --methods dopri5
"""

from __future__ import annotations

import argparse
import json

import torch
from record import place

from odenet import integrators
from odenet.experiment.solvers import Run, WorkPrecision, work_precision
from odenet.fields.testset import IVPS, NONSTIFF, STIFF

EXPLICIT = ("bosh3", "dopri5", "tsit5", "dopri8", "vern7", "adams")
IMPLICIT = ("radau_iia5", "kvaerno3", "kvaerno5", "esdirk4", "tr_bdf2", "ros3p", "rodas4", "bdf")
PEERS = {False: ("torchdiffeq:dopri5", "torchdiffeq:dopri8", "scipy:DOP853", "scipy:LSODA"),
         True: ("scipy:Radau", "scipy:BDF", "scipy:LSODA")}  # fmt: skip
FEW = ("b5", "d1", "d3", "d5", "e1", "e3", "e5")  # of stiff DETEST
HARD = [p for p in STIFF if not p.startswith("stiff_")] + [f"stiff_{p}" for p in FEW]


def show(run: Run) -> None:
    error = "" if run.error is None else f"{run.error:.1e}"
    left = f"{run.problem:17}{run.method:22}{run.label:>12}{error:>10}"
    print(f"{left}{run.nfe:>9}{run.seconds:>10.4f}  {run.status}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=[*NONSTIFF, *HARD])
    parser.add_argument("--all", action="store_true", help="all stiff problems too")
    parser.add_argument("--methods", nargs="*", help="instead of those that suit each problem")
    parser.add_argument("--tolerances", nargs="*", type=float, default=[1e-6])
    parser.add_argument("--steps", nargs="*", type=int, default=[400])
    parser.add_argument("--seconds", type=float, default=5.0, help="the most that one run may take")
    parser.add_argument("--no-peers", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    there, runs, about = set(integrators.names()), [], {}
    for name in IVPS if given.all else given.problems:
        stiff = IVPS[name].stiff
        methods = given.methods or [m for m in (IMPLICIT if stiff else EXPLICIT) if m in there]
        peers = [] if given.no_peers else installed(PEERS[stiff])
        found = work_precision([name], methods, given.tolerances, given.steps, peers, repeats=3, seconds=given.seconds,
                               progress=show)  # fmt: skip
        runs += found.runs
        about = dict(found.made)
    everything = WorkPrecision(tuple(runs), about)
    path = place("testset")
    path.write_text(json.dumps({"bench": "testset", **json.loads(everything.json())}, indent=1) + "\n")
    path.with_suffix(".txt").write_text(everything.table() + "\n")
    print(f"\nwritten: {path}")


def installed(names: tuple[str, ...]) -> list[str]:
    from odenet.integrators import external

    there = getattr(external, "peers", dict)()
    return [n for n in names if n in there]


if __name__ == "__main__":
    main()
