"""What a conformance check found: one finding per claim, and a report that prints them."""

from __future__ import annotations

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
            raise ClaimRefused(f"{self.subject} fails {_count(len({f.check for f in self.failures}), 'check')}: {said}")

    def table(self) -> str:
        """What was found, one line each: what holds, what does not apply, what fails, and a verdict last."""
        name = max((len(f.check) for f in self.findings), default=0)
        width = _width()
        lines = [_holds(f, name, width) for f in self.findings if f.passed]
        lines += [_wrapped("skip", f.check, f.sentence, name, width) for f in self.findings if f.passed is None]
        lines += [_fails(f, name, width) for f in self.failures]
        return "\n".join([*lines, str(self)])

    def __str__(self) -> str:
        counts = {state: sum(f.passed is state for f in self.findings) for state in (True, None)}
        apart = f"{counts[True]} passed, {counts[None]} do not apply"
        if self.passed:
            return f"{self.subject} passes: {apart}."
        names = list(dict.fromkeys(f.check for f in self.failures))
        return f"{self.subject} FAILS {_count(len(names), 'check')} ({', '.join(names)}); {apart}."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def _width() -> int:
    import shutil

    return min(120, max(80, shutil.get_terminal_size((100, 24)).columns))


def _folded(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _wrapped(mark: str, check: str, sentence: str, name: int, width: int) -> str:
    head = f"{mark:4}  {check:{name}}  "
    first, *rest = _folded(sentence, width - len(head))
    return "\n".join([head + first, *(" " * len(head) + line for line in rest)])


def _holds(f: Finding, name: int, width: int) -> str:
    """A line that ends with the number and its limit, right-aligned, where they fit."""
    text = _wrapped("ok", f.check, f.sentence, name, width)
    last, fact = text.splitlines()[-1], _fact(f)
    if not fact:
        return text
    room = width - len(last) - len(fact)
    return f"{text}{' ' * room}{fact}" if room >= 2 else f"{text}\n{fact:>{width}}"


def _fails(f: Finding, name: int, width: int) -> str:
    fact = f" Measured {_short(f.measured)}, wanted {f.wanted}." if f.wanted else ""
    return _wrapped("FAIL", f.check, f"{f.sentence.rstrip('.')}.{fact}", name, width)


def _fact(f: Finding) -> str:
    """`4.5e-07 <= 1e-06`, `4 in 4 ± 0.1`."""
    joined = " " if not f.wanted or f.wanted[0] in "<>" else " of " if f.wanted.isdigit() else " in "
    return f"{_short(f.measured)}{joined}{f.wanted}".strip()
