"""Which integrator admits which net, found by asking every pair."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from functools import cache
from typing import Any

from torch import nn

from .. import integrators, nets
from ..errors import BadInput, Incompatible
from ..flow import Flow
from . import tables


def smallest(name: str) -> nn.Module:
    """A small instance of a registered net."""
    make = nets.get(name)
    known: dict[str, dict[str, Any]] = {
        "image": {"channels": 1, "classes": 2, "size": 8, "widths": (4, 8), "layers": (1, 1)},
        "tree": {"vocabulary": 5, "dim_out": 2, "width": 4},
    }
    words = known.get(make.takes, {"dim_in": 3, "dim_out": 2, "width": 4, "steps": 2})  # type: ignore[attr-defined]
    parameters = inspect.signature(make).parameters
    several = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return make(**{k: v for k, v in words.items() if k in parameters or (several and k != "layers")})


@cache
def admits(net: str) -> dict[str, str]:
    """Integrator -> "" where the net named can be stepped by it, else the sentence that says why not.

    Empty for a net without flows. Members of other libraries are left out.
    """
    flows = [m for m in smallest(net).modules() if isinstance(m, Flow)]
    if not flows:
        return {}
    return {name: _refusal(flows, name) for name in integrators.names() if ":" not in name}


def _refusal(flows: Iterable[Flow], integrator: str) -> str:
    try:
        for flow in flows:
            flow.with_integrator(integrator)
    except (Incompatible, BadInput) as problem:
        return str(problem)
    return ""


def groups(names: Iterable[str] | None = None) -> tuple[list[list[str]], list[tuple[list[str], list[bool]]]]:
    """Nets that admit the same integrators, and integrators that admit the same nets with a mark for each group."""
    found = {n: admits(n) for n in (nets.names() if names is None else names)}
    kinds: dict[tuple[str, ...], list[str]] = {}
    for net, answers in found.items():
        if answers:
            kinds.setdefault(tuple(i for i, why in answers.items() if not why), []).append(net)
    columns = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    rows: dict[tuple[bool, ...], list[str]] = {}
    for name in (n for n in integrators.names() if ":" not in n):
        rows.setdefault(tuple(name in admitted for admitted, _ in columns), []).append(name)
    body = sorted(rows.items(), key=lambda row: -sum(row[0]))
    return [nets for _, nets in columns], [(names, list(marks)) for marks, names in body]


def table(names: Iterable[str] | None = None) -> tuple[list[list[str]], list[str]]:
    """The matrix, header first, with "x" where they go together; and what its columns A, B, ... are."""
    columns, rows = groups(names)
    letters = [chr(ord("A") + k) for k in range(len(columns))]
    cells = [[*letters, "integrators"], *([*("x" if go else "" for go in marks), ", ".join(i)] for i, marks in rows)]
    return cells, [f"{letter}: {', '.join(nets)}" for letter, nets in zip(letters, columns)]


def text() -> str:
    """The matrix and its legend for a terminal."""
    cells, legend = table()
    lines = [textwrap.fill(line, tables.WIDTH, subsequent_indent="   ") for line in legend]
    return "\n".join([tables.text(cells), "", *lines])
