"""A prediction, its measurement, and the figure that shows both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One line of the table; `agrees` is decided by a rule that the case states."""

    case: str
    prediction: str
    measurement: str
    agrees: bool


@dataclass(frozen=True)
class Series:
    """Points of one curve; kind "measured" (dots) or "predicted" (line)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "measured"


@dataclass(frozen=True)
class Figure:
    """Curves over x, with predicted limits drawn as vertical lines at `limits` {label: x}; y starts at `floor`."""

    xlabel: str
    ylabel: str
    series: Sequence[Series]
    limits: dict[str, float]
    log_x: bool = True
    log_y: bool = True
    floor: float | None = None


@dataclass(frozen=True)
class Case:
    """title and setting say what is done; rule says when a measurement counts as agreeing."""

    title: str
    setting: str
    rule: str
    rows: Sequence[Finding]
    figure: Figure

    def to_dict(self) -> dict[str, Any]:
        return plain(asdict(self))


def number(x: float) -> str:
    """3 significant digits: 1.04, 0.0312, 2.9e+05."""
    return f"{x:.3g}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"


def within(measured: float, predicted: float, factor: float) -> bool:
    """predicted / factor <= measured <= predicted * factor, for positive numbers."""
    return predicted / factor <= measured <= predicted * factor


def plain(value: Any) -> Any:
    """Lists, dicts and values, with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
