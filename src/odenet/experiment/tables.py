"""Results as text, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from .statistics import Difference, Summary

MEASURES = {"accuracy": "accuracy", "r2": "R²"}  # of labels; of real targets, the share of the variance explained
COLUMNS = ("net", "integrator", "seed", "accuracy", "parameters", "nfe", "seconds", "verdict")
WIDTH = 120  # where there is no terminal to ask, and at least this much else: a folded table cannot be read


def percent(value: float | None, sd: float | None = None) -> str:
    """97.2 ± 0.4, in per cent."""
    if value is None:
        return "failed"
    return f"{100 * value:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def signed(d: Difference) -> str:
    """-0.4 [-1.2, 0.5], in percentage points."""
    if d.mean is None or d.reading == "reference":
        return ""
    interval = "" if d.low is None or d.high is None else f" [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    return f"{100 * d.mean:+.1f}{interval}"


def reading(d: Difference) -> str:
    """What the interval says, with a star where it survives the correction."""
    return d.reading + (" *" if d.holm is not None and d.holm < 0.05 else "")


def comparison(summaries: Sequence[Summary], found: Sequence[Difference], score: str = "accuracy") -> list[list[str]]:
    """Cells of the comparison table, header first; score: what the nets are compared by."""
    by_key = {d.key: d for d in found}
    nothing = Difference("", None, None, None, None, None, "")
    head = [
        "net",
        "integrator",
        f"{score} %",
        "difference",
        "reading",
        "parameters",
        "nfe",
        "seconds",
        "stability",
    ]
    body = [
        [
            s.net, s.integrator, percent(s.accuracy, s.sd), signed(by_key.get(s.key, nothing)),
            reading(by_key.get(s.key, nothing)), f"{s.parameters:,}", str(s.nfe), f"{s.seconds:.2f}",
            f"{s.verdict} {s.agreement}",
        ]
        for s in summaries
    ]  # fmt: skip
    return [head, *body]


def columns(cells: Sequence[Sequence[str]], chosen: Sequence[str]) -> list[list[str]]:
    """Some columns of a table."""
    places = [cells[0].index(name) for name in chosen]
    return [[row[i] for i in places] for row in cells]


def text(cells: Sequence[Sequence[str]], title: str = "", right: Sequence[int] = ()) -> str:
    """A table drawn for a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*(word.replace("[", "\\[") for word in row))
    out = io.StringIO()
    width = max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    Console(file=out, width=width, color_system=None, highlight=False, legacy_windows=False).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(filter(None, [title, *lines]))


def latex(cells: Sequence[Sequence[str]], caption: str, right: Sequence[int] = ()) -> str:
    """A tabular with caption, without packages."""
    layout = "".join("r" if i in right else "l" for i in range(len(cells[0])))
    lines = [" & ".join(_tex(c) for c in row) + r" \\" for row in cells]
    body = "\n".join(lines[1:])
    return (
        "\\begin{table}\n\\centering\\small\n"
        f"\\caption{{{_tex(caption)}}}\n\\begin{{tabular}}{{{layout}}}\n\\hline\n{lines[0]}\n\\hline\n{body}\n\\hline\n"
        "\\end{tabular}\n\\end{table}\n"
    )


_TEX = {
    "\\": r"\textbackslash ", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "^": r"\^{}", "$": r"\$",
    "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$", "|": "$|$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def _tex(word: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in word)


def comma_separated(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; an absent number is an empty field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({c: "" if row[c] is None else row[c] for c in columns})
    return out.getvalue()
