"""A worker process: reads units as JSON lines, answers with JSON lines. Started by `executors`, not by hand."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Until the input ends. What libraries print goes to the error stream: the output belongs to the answers."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**content: object) -> None:
        out.write(json.dumps(content) + "\n")
        out.flush()

    from .. import data, integrators, nets
    from .executors import attempt

    say(names={"net": nets.names(), "integrator": integrators.names(), "data": data.names()})
    for line in sys.stdin:
        order = json.loads(line)
        folder = order["folder"] and Path(order["folder"])
        say(result=attempt(order["unit"], folder, lambda fraction: say(progress=fraction)))


if __name__ == "__main__":
    main()
