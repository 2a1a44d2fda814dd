"""Entries of the registries in words: what `odenet show` prints."""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

from .. import pde
from ..errors import BadInput


def draw(entry: Any, name: str, path: Path) -> None:
    """The stability region of an integrator as a file. Raises BadInput for anything else."""
    from ..stability import plots

    if entry is None:
        raise BadInput(f"{name!r} is no integrator, so it has no stability region; leave out --figure.")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise BadInput(f"a figure is a .png, .svg or .pdf file, got {str(path)!r}.")
    plots.stability(entry).savefig(path, dpi=160)


def described(kind: str, name: str, entry: Any) -> str:
    """`name: value` lines for one entry."""
    if kind == "integrators":
        from ..stability.card import card

        return card(entry, plain=not (sys.stdout.encoding or "").lower().startswith("utf"))
    if kind == "problems":
        return _problem_in_words(entry)
    if kind == "pdes":
        return _pde_in_words(name, entry)
    titles = {"data": "data set", "pde_methods": "PDE method"}
    lines = [f"{name} ({titles.get(kind, kind.removesuffix('s'))})"]
    about = (inspect.getdoc(getattr(entry, "of", entry)) or getattr(entry, "when", "") or "").strip()
    lines += [f"  {line.strip()}" for line in about.splitlines()]
    for word in ("when", "cite", "takes", "integrators"):
        value = getattr(entry, word, None)
        if value and isinstance(value, str | tuple):
            lines.append(f"  {word + ':':13}{value if isinstance(value, str) else ', '.join(value)}")
    return "\n".join(lines)


def _problem_in_words(problem: Any) -> str:
    facts = {
        "what": problem.doc,
        "size": f"{len(problem.y0)} equation{'s' * (len(problem.y0) > 1)}, t from {problem.t0:g} to {problem.t1:g}",
        "stiff": "yes" if problem.stiff else "no",
        "reference": f"y({problem.t1:g}) to about {problem.digits:.0f} digits",
        "cite": problem.cite,
    }
    lines = [f"{problem.name} (problem)"]
    for label, text in facts.items():
        lines += textwrap.wrap(text, 100, initial_indent=f"  {label + ':':13}", subsequent_indent=" " * 15)
    return "\n".join(lines)


def _pde_in_words(name: str, maker: Any) -> str:
    lines = [f"{name} (PDE problem)"]
    for line in (inspect.getdoc(maker) or "").splitlines():
        lines += textwrap.wrap(line, 100, initial_indent="  ", subsequent_indent="  ") or [""]
    parameters = inspect.signature(maker).parameters.values()
    if parameters:
        listed = ", ".join(f"{p.name}={p.default!r}" for p in parameters)
        lines += textwrap.wrap(listed, 100, initial_indent=f"  {'parameters:':13}", subsequent_indent=" " * 15)
    for label, text in (_facts(maker()) | {"measured": _measured(name)}).items():
        if text:
            lines += textwrap.wrap(text, 100, initial_indent=f"  {label + ':':13}", subsequent_indent=" " * 15)
    return "\n".join(lines)


def _measured(name: str) -> str:
    """Errors and seconds of the bench of PDE methods, and whether a classical code is the better choice."""
    found = json.loads(resources.files(pde).joinpath("library", "measured.json").read_text())
    sentences = []
    for title, rows in found["problems"].items():
        if title.split("(")[0] != name:
            continue
        ours, classical = rows["methods"], rows.get("classical")
        said = [f"{method} {error:.1e} in {seconds:.3g} s" for method, (error, seconds) in ours.items()]
        if classical:
            error, seconds, how = classical
            wins = all(error <= e and seconds <= s for e, s in ours.values())
            said.append(f"classical {error:.1e} in {seconds:.3g} s ({how})" + (": the better choice" if wins else ""))
        sentences.append(f"{title}: {', '.join(said)}.")
    about = f" Medians of rel. L2 errors on one core, {found['date']}." if sentences else ""
    return " ".join(sentences) + about


def _facts(problem: Any) -> dict[str, str]:
    if not hasattr(problem, "traced"):  # semilinear, in high dimension
        return {"dimension": str(problem.dim), "cite": problem.cite}
    return {
        "unknowns": ", ".join(problem.unknowns),
        "equations": "; ".join(f"0 = {e}" for _, es in problem.traced for e in es),
        "conditions": "; ".join(map(repr, problem.conditions)),
        "truth": "closed form" if problem.exact else "computed reference" if problem.reference else "none",
        "cite": problem.cite,
    }
