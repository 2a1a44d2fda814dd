"""What a conformance check found: one finding per claim, and a report that prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ClaimRefused


@dataclass(frozen=True)
class Finding:
    """One claim held against what a plug-in does.

    check:     what was looked at ("order", "batch independence")
    passed:    True, False, or None where it was skipped; then `sentence` says why
    sentence:  what was seen, and after a failure what to change
    measured:  the number or fact that decided, and `wanted`, what it was held against
    """

    check: str
    passed: bool | None
    sentence: str
    measured: float | str = ""
    wanted: str = ""


@dataclass(frozen=True)
class Report:
    """All findings about one plug-in, in the order in which they were made."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that failed."""
        return tuple(f for f in self.findings if f.passed is False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: subject, passed, findings."""
        return {"subject": self.subject, "passed": self.passed, "findings": [asdict(f) for f in self.findings]}

    def raise_if_failed(self) -> None:
        """Raise ClaimRefused with the sentences of what failed."""
        if not self.passed:
            said = " ".join(f"[{f.check}] {f.sentence}" for f in self.failures)
            raise ClaimRefused(f"{self.subject} fails {_count(len(self.failures), 'check')}: {said}")

    def table(self) -> str:
        """The findings as a table, failures last, where they are seen, and one line that sums up."""
        ranked = sorted(self.findings, key=lambda f: (f.passed is not None, f.passed is not True))
        cells = [["", "check", "measured", "wanted", "what was seen"]]
        cells += [[_MARK[f.passed], f.check, _short(f.measured), f.wanted, f.sentence] for f in ranked]
        return f"{_drawn(cells)}\n{self}"

    def __str__(self) -> str:
        counts = {state: sum(f.passed is state for f in self.findings) for state in (True, False, None)}
        words = [f"{counts[True]} passed", f"{counts[False]} failed", f"{counts[None]} skipped"]
        return f"{self.subject}: {', '.join(words)}"


_MARK = {True: "ok", False: "FAIL", None: "skip"}


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _drawn(cells: Sequence[Sequence[str]]) -> str:
    import io
    import shutil

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in cells[0]:
        table.add_column(name, overflow="fold", no_wrap=name in ("", "check"))
    for row in cells[1:]:
        table.add_row(*(Text(word) for word in row))
    out = io.StringIO()
    width = max(100, shutil.get_terminal_size((120, 24)).columns)
    Console(file=out, width=width, color_system=None, highlight=False, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())
