"""Reproductions of papers: claims, verdicts by one rule, and the tables that show them.

Every folder `papers/YYYY-name/` holds reproduce.py with a `PAPER` (its claims are data) and a function that measures,
result.json that a full run writes, and README.md that is written from the two. The rule is `RULE`, in words and below.
"""

from __future__ import annotations

import json
import math
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName

VERDICTS = ("reproduced", "close", "not reproduced", "scaled down", "not run")
PLACE = Path(__file__).resolve().parents[3] / "papers"  # of the clone that holds this file
NEAR, AROUND, MOST = 0.05, 0.25, 0.8
RULE = f"""\
A claim is a number of the paper, or a statement that a bound says in numbers. Verdicts are computed from `result.json`:

- a number is **reproduced** where our mean is within {NEAR:.0%} of the paper's, and **close** within {AROUND:.0%};
  counts must be equal in every run
- a statement is **reproduced** where every run keeps the bound, and **close** where the mean and {MOST:.0%} of the runs
  keep it
- **scaled down** stands in place of these two where data or training are smaller than the paper's or other ones: the
  statement holds there, which is no reproduction of the paper's numbers
- **not reproduced** is everything else that was run, infinite and undefined numbers included
- **not run** is a claim without numbers
- a **control** is a measurement of ours beside the paper's claims: its bound is kept or not, and it counts as no claim

The paper's number stands with the place where it was read; where it is "-", the claim is a statement or a theorem, no
number of the paper. Ours is the mean ± standard deviation over n runs, of n seeds where chance is involved.
"""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of a table.

    key:       of its numbers in result.json, one per run
    text:      what is claimed, and of what the numbers are
    paper:     its number as printed there, with the unit; "-" for a statement
    place:     where that stands: table, page, theorem, or file of the authors' repository
    number:    the paper's number, where it is one to be hit; exact: a count, to be hit exactly
    at_least, at_most:  the bounds of a statement
    smaller:   what is smaller than in the paper, or other; "" where nothing is
    control:   a measurement of ours beside the paper's claims
    form, unit: how ours is printed

    Raises BadInput unless there is either a number or a bound.
    """

    key: str
    text: str
    place: str
    paper: str = "-"
    number: float | None = None
    exact: bool = False
    at_least: float | None = None
    at_most: float | None = None
    smaller: str = ""
    control: bool = False
    form: str = ".3g"
    unit: str = ""

    def __post_init__(self) -> None:
        if (self.number is None) == (self.at_least is None and self.at_most is None):
            raise BadInput(f"the claim {self.key!r} needs either number= or one of at_least= and at_most=.")
        if not self.place:
            raise BadInput(f"the claim {self.key!r} needs place=, where it stands in the paper.")

    def keeps(self, value: float) -> bool:
        """Whether a number keeps the bounds, or is the count."""
        if not math.isfinite(value):
            return False
        if self.number is not None:
            return value == self.number
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def verdict(self, values: Sequence[float]) -> str:
        """One of VERDICTS, by RULE."""
        if not len(values):
            return "not run"
        found = self._found(values)
        return "scaled down" if self.smaller and found in ("reproduced", "close") else found

    def word(self, values: Sequence[float]) -> str:
        """The verdict as it is printed."""
        found = self.verdict(values)
        if not self.control or found == "not run":
            return found
        return f"control: {'not ' * (found == 'not reproduced')}kept"

    def _found(self, values: Sequence[float]) -> str:
        if not all(map(math.isfinite, values)):
            return "not reproduced"
        mean = statistics.fmean(values)
        if self.number is not None and not self.exact:
            off, size = abs(mean - self.number), abs(self.number)
            return "reproduced" if off <= NEAR * size else "close" if off <= AROUND * size else "not reproduced"
        share = statistics.fmean(self.keeps(v) for v in values)
        if share == 1.0:
            return "reproduced"
        return "close" if share >= MOST and not self.exact and self.keeps(mean) else "not reproduced"

    @property
    def asked(self) -> str:
        """What ours is held against."""
        if self.number is not None:
            return f"{'=' if self.exact else '≈'} {self.number:{self.form}}{self.unit}"
        low = "" if self.at_least is None else f"≥ {self.at_least:{self.form}}{self.unit}"
        high = "" if self.at_most is None else f"≤ {self.at_most:{self.form}}{self.unit}"
        return " and ".join(b for b in (low, high) if b)

    def ours(self, values: Sequence[float]) -> str:
        """Mean ± standard deviation and the number of runs."""
        if not len(values):
            return ""
        mean = f"{sum(values) / len(values):{self.form}}{self.unit}"
        if len(values) == 1 or self.exact:
            return mean
        spread = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        return f"{mean} ± {spread:.2g} (n = {len(values)})"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Title, authors with journal, arXiv number, what the paper is about in a sentence or two, and its claims; `how`
    says how ours were measured."""

    title: str
    cite: str
    arxiv: str
    about: str
    how: str
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        keys = [c.key for c in self.claims]
        if len(set(keys)) < len(keys):
            raise BadInput(f"two claims of {self.title!r} have the same key; every key is one row: {', '.join(keys)}.")


@dataclass(frozen=True)
class Entry:
    """A folder of papers/ with what is in it; `result` is {} before a full run."""

    folder: Path
    paper: Paper
    result: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    def values(self, claim: Claim) -> list[float]:
        """Numbers of a claim, one per run."""
        return [float(v) for v in self.result.get("numbers", {}).get(claim.key, ())]

    def verdicts(self) -> list[str]:
        """In the order of the claims; controls are none."""
        return [c.verdict(self.values(c)) for c in self.paper.claims if not c.control]


# ------------------------------------------------------------------------------------------------------------- running


def main(paper: Paper, measure: Callable[[bool], Mapping[str, Any]], words: Sequence[str] | None = None) -> None:
    """What reproduce.py does when it is run: `--smoke` measures in a small way and writes nothing, `--full` writes
    result.json and README.md beside the script. measure(smoke) gives key -> number or numbers."""
    import torch

    given = list(sys.argv[1:] if words is None else words)
    if given not in (["--smoke"], ["--full"]):
        raise SystemExit("write --smoke for a run of some seconds that judges nothing, or --full for the numbers.")
    torch.set_num_threads(1)
    start = time.perf_counter()
    numbers = {key: _listed(v) for key, v in measure(given == ["--smoke"]).items()}
    seconds = time.perf_counter() - start
    missing = {c.key for c in paper.claims} ^ set(numbers)
    if missing:
        raise BadInput(f"claims and numbers of {paper.title!r} differ in {', '.join(sorted(missing))}.")
    folder = Path(sys.modules["__main__"].__file__ or "").resolve().parent
    if given == ["--smoke"]:
        print(f"{folder.name}: a small run in {seconds:.1f} s; its numbers are no result.")
        for claim in paper.claims:
            print(f"  {claim.key}: {claim.ours([float(v) for v in numbers[claim.key]])}")
        return
    result = {"numbers": numbers, "seconds": round(seconds, 1), **_circumstances()}
    entry = Entry(folder, paper, result)
    text = json.dumps(result, indent=1, allow_nan=False)
    (folder / "result.json").write_text(_compact(text) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(entry), encoding="utf-8")
    print(table([entry]))


def _listed(value: Any) -> list[float | str]:
    """Six digits are kept; what is no number is written in words, which JSON has and `float` reads."""
    several = value if isinstance(value, Sequence) else [value]
    return [_kept(v) for v in several]


def _kept(value: Any) -> float | str:
    if isinstance(value, int):
        return value
    number = float(f"{float(value):.6g}")
    return number if math.isfinite(number) else str(number)


def _compact(text: str) -> str:
    """Lists of numbers on one line."""
    import re

    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)


def _circumstances() -> dict[str, Any]:
    from .compare import environment

    about = environment()
    about["date"] = about["date"].split()[0]
    return {**about, "threads": 1}


def run(name: str, smoke: bool = False) -> int:
    """Run a reproduction in a process of its own; the exit status. Raises UnknownName."""
    found = {f.name: f for f in folders()}
    if name not in found:
        raise UnknownName(f"no reproduction is called {name!r}; known: {', '.join(found)}.")
    script = found[name] / "reproduce.py"
    return subprocess.run([sys.executable, str(script), "--smoke" if smoke else "--full"], check=False).returncode


# ------------------------------------------------------------------------------------------------------------- reading


def folders() -> list[Path]:
    """Folders with a reproduction, by name. Raises BadInput where there are none."""
    if found := sorted(p.parent for p in PLACE.glob("*/reproduce.py")):
        return found
    raise BadInput("reproductions of papers are not part of the installed package; run this in a clone of odenet.")


def entries() -> list[Entry]:
    """All reproductions, by name."""
    return [read(folder) for folder in folders()]


def read(folder: Path) -> Entry:
    """A folder of papers/."""
    paper = runpy.run_path(str(folder / "reproduce.py"))["PAPER"]
    saved = folder / "result.json"
    return Entry(folder, paper, json.loads(saved.read_text(encoding="utf-8")) if saved.is_file() else {})


# ------------------------------------------------------------------------------------------------------------- writing


def table(found: Sequence[Entry]) -> str:
    """Claims and verdicts for a terminal."""
    from . import tables

    return "\n".join(tables.text(_rows(entry), title=f"{entry.name}: arXiv {entry.paper.arxiv}") for entry in found)


def _rows(entry: Entry) -> list[list[str]]:
    """Cells of the table of one paper, header first."""
    body = [(claim, entry.values(claim)) for claim in entry.paper.claims]
    return [
        ["claim", "the paper's", "must be", "ours", "verdict"],
        *([c.text, c.paper, c.asked, c.ours(values), c.word(values)] for c, values in body),
    ]


def page(entry: Entry) -> str:
    """README.md of a reproduction."""
    paper = entry.paper
    out = f"<!-- written by odenet papers --write -->\n\n# {paper.title}\n\n"
    out += f"{paper.cite}, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}).\n\n{paper.about}\n\n"
    out += _line("claim", "the paper's", "where it stands", "must be", "ours", "verdict") + "|---" * 6 + "|\n"
    for claim in paper.claims:
        values = entry.values(claim)
        verdict = f"**{claim.word(values)}**" + (f": {claim.smaller}" if claim.smaller else "")
        out += _line(claim.text, claim.paper, claim.place, claim.asked, claim.ours(values), verdict)
    out += f"\n{paper.how}\n\n"
    if entry.result:
        r = entry.result
        versions = ", ".join(f"{k} {v}" for k, v in r["versions"].items())
        out += (
            f"`odenet papers run {entry.name}` took {r['seconds']:,.0f} seconds on {r['date']} ({r['system']}, one "
            f"thread; Python {r['python']}, {versions}). The numbers of every run are in [result.json](result.json). "
        )
    else:
        out += f"`odenet papers run {entry.name}` measures it; this has not been done yet. "
    return out + "The rule of the verdicts is in [papers](../README.md).\n"


def overview(found: Sequence[Entry]) -> str:
    """README.md of papers/."""
    out = "<!-- written by odenet papers --write -->\n\n# Papers\n\n"
    out += "`odenet papers` prints every claim, `odenet papers run NAME` measures one paper anew (`--smoke`: in seconds"
    out += f", judging nothing), `odenet papers --write` writes these pages from the results.\n\n{summary(found)}\n"
    return out + f"## The rule\n\n{RULE}"


def summary(found: Sequence[Entry], prefix: str = "") -> str:
    """A row for every paper: its verdicts, counted."""
    out = _line("paper", "arXiv", *VERDICTS, "seconds") + "|---" * (len(VERDICTS) + 3) + "|\n"
    for entry in found:
        seen = entry.verdicts()
        counts = [seen.count(v) or "" for v in VERDICTS]
        seconds = f"{entry.result['seconds']:,.0f}" if entry.result else ""
        out += _line(f"[{entry.paper.title}]({prefix}{entry.name})", entry.paper.arxiv, *counts, seconds)
    return out


def write() -> list[Path]:
    """All pages anew from the claims and results; the paths written."""
    found = entries()
    pages = {e.folder / "README.md": page(e) for e in found} | {found[0].folder.parent / "README.md": overview(found)}
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return list(pages)


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |\n"
