"""The report: figures with their data, and one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plots, tables
from .plots import Drawing
from .store import write

if TYPE_CHECKING:
    from .compare import Results


def drawings(results: Results) -> list[Drawing]:
    """Every figure that the results have data for."""
    out = []
    if results.summaries:
        out.append(plots.accuracy(results.rows, results.summaries, results.score))
        if results.experiment.seeds > 1 and len(results.summaries) > 1 and results.reference:
            out.append(plots.differences(results.differences, results.reference, results.score))
        out.append(plots.learning(results.rows, results.experiment.train_steps))
    return out + [plots.theory(name, case) for name, case in results.theory.items() if "figure" in case]


def write_report(results: Results, folder: Path) -> None:
    """figures/<name>.png, .svg, .pdf, .csv and report.html in `folder`."""
    (folder / "figures").mkdir(exist_ok=True)
    images = {}
    for drawing in drawings(results):
        rendered = drawing.render()
        for kind, content in rendered.items():
            write(folder / "figures" / f"{drawing.name}.{kind}", content)
        write(folder / "figures" / f"{drawing.name}.csv", tables.comma_separated(drawing.columns, drawing.rows))
        images[drawing.name] = {"caption": drawing.caption, "source": _inline(rendered["svg"])}
    write(folder / "report.html", page(results, images))


def _inline(svg: bytes) -> str:
    """A data URI: figures keep their identifiers apart, and the page needs no other file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def page(results: Results, images: Mapping[str, Any]) -> str:
    """report.html."""
    import jinja2

    source = importlib.resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        r=results,
        images=images,
        comparison=results.comparison(),
        headline=headline(results),
        verdicts=verdicts(results),
        chosen=chosen(results),
        cases=[{"name": k, **v} for k, v in results.theory.items() if "rows" in v],
        toml=results.experiment.to_toml(place=False),
    )


def headline(results: Results) -> list[str]:
    """What a reader in a hurry should know, in sentences."""
    said = []
    scored = [s for s in results.summaries if s.accuracy is not None]
    if scored:
        low, high = min(scored, key=lambda s: s.accuracy or 0.0), max(scored, key=lambda s: s.accuracy or 0.0)
        said.append(
            f"{len(scored)} pairs of net and integrator on {results.experiment.data}: mean test {results.score} from "
            f"{tables.percent(low.accuracy)} % ({low.key}) to {tables.percent(high.accuracy)} % ({high.key})."
        )
        tested = [d for d in results.differences if d.p is not None]
        same = sum(d.reading == "no difference detectable" for d in tested)
        if tested:
            said.append(
                f"Against {results.reference}, no difference is detectable for {same} of {len(tested)} other pairs."
            )
    rows = [row for case in results.theory.values() for row in case.get("rows", ())]
    if rows:
        held = sum(bool(row["agrees"]) for row in rows)
        said.append(f"Where theory predicts the outcome, {held} of {len(rows)} predictions hold.")
        said += [f"{row['case'].capitalize()}: {row['measurement']}." for row in rows if "points" in row["measurement"]]
    if results.failures:
        said.append(f"{len(results.failures)} units failed; they are listed below.")
    return said


def verdicts(results: Results) -> list[dict[str, Any]]:
    """The stability verdict of the first seed of every pair."""
    first: dict[str, Any] = {}
    for row in results.rows:
        first.setdefault(f"{row['net']}/{row['integrator']}", row)
    return [
        {
            "key": s.key,
            "state": {True: "stable", False: "unstable", None: "undecided"}[first[s.key]["stable"]],
            "standing": first[s.key]["standing"],
            "sentence": first[s.key]["verdict"],
            "agreement": s.agreement,
        }
        for s in results.summaries
    ]


def chosen(results: Results) -> list[list[str]]:
    """Learning rate and span that the search chose, seed by seed."""
    head = ["net", "integrator", "seed", "learning rate", "span", "validation %", "test %"]
    body = [
        [
            r["net"], r["integrator"], str(r["seed"]), f"{r['lr']:g}", "" if r["span"] is None else f"{r['span']:g}",
            tables.percent(r["val_accuracy"]), tables.percent(r["accuracy"]),
        ]
        for r in results.rows
    ]  # fmt: skip
    return [head, *body]


def html_table(cells: Sequence[Sequence[str]], caption: str, right: Sequence[int] = ()) -> str:
    """A plain HTML table, for notebooks."""

    def row(words: Sequence[str], tag: str) -> str:
        align = ['style="text-align:right"' if i in right else 'style="text-align:left"' for i in range(len(words))]
        return "<tr>" + "".join(f"<{tag} {a}>{html.escape(w)}</{tag}>" for a, w in zip(align, words)) + "</tr>"

    body = "".join(row(words, "td") for words in cells[1:])
    head = f"<caption>{html.escape(caption)}</caption><thead>{row(cells[0], 'th')}</thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"
