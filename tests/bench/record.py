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


def rows_on_lines(found: dict[str, Any]) -> str:
    """JSON in which every row of a table is one line."""
    lines = []
    for key, value in found.items():
        table = isinstance(value, list) and value and isinstance(value[0], dict)
        text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]" if table else json.dumps(value)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save(bench: str, found: dict[str, Any]) -> Path:
    """Write what was found, and say where."""
    path = place(bench)
    about = {k: v for k, v in made().items() if k != "measure"}
    path.write_text(rows_on_lines({"bench": bench, **about, **found}))
    print(f"\nwritten: {path}")
    return path
