"""Where the benches write: results/<bench>-<date>.json, with versions and machine."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from odenet.experiment.solvers import made

RESULTS = Path(__file__).with_name("results")


def place(bench: str, ending: str = "json") -> Path:
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{bench}-{datetime.now():%Y%m%d-%H%M%S}.{ending}"


def save(bench: str, found: dict[str, Any]) -> Path:
    """Write what was found, and say where."""
    path = place(bench)
    about = {k: v for k, v in made().items() if k != "measure"}
    path.write_text(json.dumps({"bench": bench, **about, **found}, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return path
