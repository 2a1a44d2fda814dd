"""The command `odenet stability`: the suite on the nets of a run, or on those named, into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from .suite.results import carry_out, place
from .suite.spec import Suite


def inspect(suite: Suite, run: Path | None = None) -> int:
    """Print the verdicts and write the page with its data: into run/stability, or out/name without a run.

    Returns the exit status, 130 where it was stopped. Raises BadInput for words that cannot work and for a folder that
    holds something.
    """
    folder = place(suite) if run is None else run / "stability"
    try:
        results = carry_out(suite, run, folder)
    except KeyboardInterrupt:
        print("odenet: stopped; a suite is not resumed, start it again.", file=sys.stderr)
        return 130
    results.table()
    results.save(folder)
    print(f"\n{folder / 'report.html'}")
    return 1 if results.failures and not results.overviews else 0
