"""Partial differential equations: the floor's door, closed in this version."""

from __future__ import annotations

from typing import Any

from ..errors import NotBuiltYet

_SENTENCE = "PDE problems are not built in this version; this release swaps integrators and compares architectures."


def get(name: str) -> Any:
    """A PDE problem by name. Raises NotBuiltYet."""
    raise NotBuiltYet(f"pde.get({name!r}): {_SENTENCE}")


def names() -> list[str]:
    """Names of PDE problems: none in this version."""
    return []


def solve(problem: Any, **options: Any) -> Any:
    """Solve a PDE problem. Raises NotBuiltYet."""
    raise NotBuiltYet(_SENTENCE)
