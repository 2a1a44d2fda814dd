"""Progress of a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from .tables import MEASURES


class Plain:
    """Says nothing."""

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def moved(self, key: str, fraction: float) -> None:
        return None

    def finished(self, key: str, result: dict[str, Any]) -> None:
        return None


class Progress:
    """A bar over all units, moved by their parts, with the last results beside it; without a terminal, a line each."""

    def __init__(self, keys: Sequence[str], done: Collection[str]) -> None:
        from rich.console import Console

        self.total, self.done = len(keys), len(done)
        self.parts: dict[str, float] = {}
        self.console = Console(file=sys.stderr)
        self.live = self.console.is_terminal
        self.start = time.perf_counter()
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if self.live:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Bar(*columns, console=self.console)
            self.bar.start()
            self.task = self.bar.add_task("starting", total=self.total, completed=self.done)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def moved(self, key: str, fraction: float) -> None:
        """A unit has come so far."""
        self.parts[key] = fraction
        self._draw(", ".join(self.parts))

    def finished(self, key: str, result: dict[str, Any]) -> None:
        """A unit is done."""
        self.parts.pop(key, None)
        self.done += 1
        if self.live:
            self._draw(_said(key, result))
        else:
            elapsed = time.perf_counter() - self.start
            print(
                f"[{self.done}/{self.total}] {elapsed:6.1f} s  {_said(key, result)}",
                file=sys.stderr,
                flush=True,
            )

    def _draw(self, words: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done + sum(self.parts.values()), description=words[:60])


def _said(key: str, result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{key}: failed, {result['error']}"
    scores = [r["accuracy"] for r in result["rows"] if r.get("accuracy") is not None]
    if not scores and not any("agrees" in r for r in result["rows"]):
        return f"{key}: done"
    if not scores:
        return f"{key}: {sum(bool(r.get('agrees')) for r in result['rows'])} of {len(result['rows'])} predictions hold"
    score = MEASURES[result["rows"][0].get("measure", "accuracy")]
    return f"{key}: {score} {100 * sum(scores) / len(scores):.1f} %"
