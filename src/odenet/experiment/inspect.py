"""Stability reports of the nets that a run has saved."""

from __future__ import annotations

from pathlib import Path

from .. import nets, stability
from ..errors import BadInput
from .run import load, same_everywhere
from .store import Run


def inspect_run(folder: Path) -> dict[str, stability.Report]:
    """Write folder/stability/<net>/ for every saved net, print its verdict, and return the reports by name.

    Measured on validation samples; the accuracy under noise and under other integrators on the same. Raises BadInput
    where there is no run or it has saved no nets.
    """
    run = Run.open(folder)
    files = sorted((run.folder / "nets").glob("*.safetensors"))
    if not files:
        raise BadInput(f"the run {folder} has saved no nets, so there is nothing to report on.")
    data = load(run.experiment.data, 0)
    found = {}
    for file in files:
        with same_everywhere():
            report = stability.report(nets.load(file).eval(), data.x_val, data.y_val)
        found[file.stem] = report
        report.save(run.folder / "stability" / file.stem)
        print(f"{file.stem.replace('-', '/', 1).removesuffix('/-')}: {report.verdict.sentence}", flush=True)
    print(f"\n{run.folder / 'stability'}")
    return found
