"""The page: every figure with its data, and one HTML file that needs no other."""

from __future__ import annotations

import importlib.resources
import math
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import tables
from ..plots import Drawing
from ..store import write
from . import plots
from .maps import plots as maps
from .summary import Interval, Overview, attack_areas, interval
from .unit import ATTACKS, stem

if TYPE_CHECKING:
    from .results import StabilityResults

LEVELS = (0.0, *ATTACKS)
ABREAST = 4  # nets beside each other in the table


@dataclass(frozen=True)
class Measure:
    """A line of the table: metric, its name, how to read it, and how it is printed."""

    metric: str
    name: str
    reading: str
    kind: str = ""


MEASURES = (
    Measure("test_accuracy", "test accuracy %", "of the nets as they were trained", "percent"),
    Measure(
        "area_under_attack",
        "accuracy under attack %",
        "mean over radii up to 40 % of the spread of the inputs, the worst attack counts; ≤: gradients hide",
        "percent",
    ),
    Measure("accuracy_input_noise_0.2", "accuracy under noise %", "inputs plus 20 % of their spread", "percent"),
    Measure("accuracy_weight_noise_0.1", "accuracy, noisy weights %", "weights plus 10 % of their size", "percent"),
    Measure(
        "sensitivity_max",
        "largest |∂y_N/∂y_j|",
        "the most that a change at some layer is amplified; beyond 10 gradients explode",
    ),
    Measure("sensitivity_min", "smallest |∂y_N/∂y_j|", "below 0.001 gradients vanish before they arrive"),
    Measure("amplification_max", "largest |amplification|", "of a mode in one step; above 1 it grows"),
    Measure("outside_share", "modes outside the region %", "amplified though the exact flow damps them", "percent"),
    Measure("lyapunov_max", "largest Lyapunov exponent", "rate of growth per unit of depth; below 0 all shrinks"),
    Measure(
        "h_stable",
        "h_stable",
        "largest step that keeps every damped mode damped, median over seeds; 0: none does",
        "spread",
    ),
    Measure("h", "h", "the step of the training", "spread"),
    Measure("observed_order", "observed order", "of the output as h shrinks; the method's own if the net is an ODE"),
    Measure("prolongation_change", "change with twice the layers", "relative; small if the net is an ODE"),
    Measure("gradient_ratio", "gradient ratio", "largest over smallest layer gradient; far above 100 is hard to train"),
    Measure("lipschitz_lower", "Lipschitz constant, at least", "of the whole net, found by search"),
    Measure("lipschitz_upper", "Lipschitz constant, at most", "proved from the weights"),
    Measure("hessian_max", "curvature of the loss", "largest eigenvalue of the Hessian; flat minima are small"),
)


def number(v: Interval, kind: str = "") -> str:
    """97.2 ± 0.4, or what there is instead; kind: "percent", or "spread" for the median (least to most)."""
    if v.mean is None:
        return "not finite" if v.lost else "–"
    scale = 100 if kind == "percent" else 1
    lost = f" ({v.lost} not finite)" if v.lost else ""
    if kind == "spread":
        same = v.least == v.most or v.least is None
        return plain(v.median or 0.0) + ("" if same else f" ({plain(v.least or 0.0)} to {plain(v.most or 0.0)})") + lost
    mean, half = scale * v.mean, None if v.half is None else scale * v.half
    if half is None or half <= 1e-5 * abs(mean):
        return (f"{mean:.1f}" if kind == "percent" else plain(mean)) + lost
    if kind == "percent":
        return f"{mean:.1f} ± {half:.1f}{lost}"
    return f"{_rounded(mean, half)} ± {plain(half, 2)}{lost}"


def plain(x: float, digits: int = 3) -> str:
    """So many digits, without an exponent where it can be avoided."""
    if not 1e-4 <= abs(x) < 1e6:
        return "0" if x == 0 else f"{x:.{digits - 1}e}"
    places = digits - 1 - math.floor(math.log10(abs(x)))
    return f"{round(x, places):,.{max(places, 0)}f}"


def _rounded(mean: float, half: float) -> str:
    """The mean to the last digit of half of its interval, but never to fewer than two digits."""
    if not 1e-4 <= abs(mean) < 1e6:
        return plain(mean)
    below = max(2, math.floor(math.log10(abs(mean))) - math.floor(math.log10(half)) + 2)
    return plain(mean, min(below, 5))


def table(overviews: Sequence[Overview]) -> list[list[dict[str, Any]]]:
    """For each group of nets: the lines of the table, those that at least one of them has."""
    groups = [overviews[i : i + ABREAST] for i in range(0, len(overviews), ABREAST)]
    return [_lines(group) for group in groups]


def _lines(group: Sequence[Overview]) -> list[dict[str, Any]]:
    lines = []
    for m in MEASURES:
        if any(m.metric in o.metrics for o in group):
            cells = [number(o.metrics.get(m.metric, Interval(None, None, None, 0)), m.kind) for o in group]
            if m.metric == "area_under_attack":
                cells = [f"≤ {c}" if o.flags else c for c, o in zip(cells, group)]
            lines.append({"name": m.name, "reading": m.reading, "cells": cells})
    return lines


# ---- figures --------------------------------------------------------------------------------------------------------


def drawings(results: StabilityResults) -> dict[str, dict[str, Drawing]]:
    """Key of a net ("" for those of all) -> title -> figure."""
    rows = {k: c["rows"] for k, c in results.cells.items() if c.get("rows")}
    out = {"": _together(results.overviews, rows)} if len(results.overviews) > 1 else {}
    for o in results.overviews:
        out[o.key] = of_net(o, rows, results.cells[o.key].get("first", {}))
    return out


TOGETHER = {
    "Test accuracy": (
        "test_accuracy", "accuracy", "test accuracy %", "Where bars overlap widely, no difference is shown.", 100,
    ),
    "Accuracy under attack": (
        "area_under_attack", "attack_area", "mean accuracy under attack %", "Further right is more robust.", 100,
    ),
    "Amplification": (
        "sensitivity_max", "growth", "largest |∂y_N/∂y_j|", "Beyond 10 the net is called unstable.", 1,
    ),
}  # fmt: skip


def _together(overviews: Sequence[Overview], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Drawing]:
    dots = "A dot is the mean over seeds, the bar its 95 % interval. "
    out = {}
    for title, (metric, name, label, reading, scale) in TOGETHER.items():
        if any(metric in o.metrics for o in overviews):
            out[title] = plots.side_by_side(overviews, metric, name, label, dots + reading, scale == 1, scale)
    if any("attacks" in r.get("tables", {}) for o in overviews for r in rows[o.key]) and len(overviews) <= len(
        plots.LOOKS
    ):
        out["Accuracy under the worst attack"] = plots.against(overviews, rows, LEVELS)
    return out


def of_net(
    o: Overview, rows: Mapping[str, Sequence[Mapping[str, Any]]], first: Mapping[str, Any]
) -> dict[str, Drawing]:
    """Every figure that there is data for."""
    mine, out = rows[o.key], {}
    if "eigenvalues" in first:
        out["Eigenvalues over the stability region"] = maps.eigenvalues(first["frame"], first["eigenvalues"])
    if any(r.get("steps") for r in mine):
        h = next(r["metrics"]["h"] for r in mine if r.get("steps"))
        out["Accuracy against the step size"] = plots.accuracy_against_h(mine, h)
    if first.get("watch") and first["watch"]["rows"]:
        out["Sensitivity over layers and training"] = maps.heat(first["watch"])
    if any("refinement" in r.get("tables", {}) for r in mine):
        out["Depth refinement"] = plots.refinement(mine, _claimed(o.integrator))
    if any("attacks" in r.get("tables", {}) for r in mine):
        out["Robustness"] = plots.robustness(mine, LEVELS)
    net = {k.split("/")[1]: r for k, r in rows.items() if k.split("/")[0] == o.net}
    if any(r.get("swaps") for found in net.values() for r in found):
        out["Trained under one integrator, tested under another"] = maps.matrix(net, o.integrator)
    if "ftle" in first:
        out["Where neighbouring inputs are torn apart"] = maps.ftle(first["ftle"])
    return out


def _claimed(integrator: str) -> int | None:
    from ... import integrators

    return integrators.get(integrator).order if integrator in integrators.names() else None


# ---- writing --------------------------------------------------------------------------------------------------------


def write_page(results: StabilityResults, folder: Path) -> None:
    """figures/<net>-<name>.svg, .csv and report.html in `folder`."""
    (folder / "figures").mkdir(exist_ok=True)
    images: dict[str, list[dict[str, str]]] = {}
    for key, found in drawings(results).items():
        images[key] = []
        for title, drawing in found.items():
            svg = drawing.render(("svg",))["svg"]
            name = f"{stem(key)}-{drawing.name}" if key else drawing.name
            write(folder / "figures" / f"{name}.svg", svg)
            write(folder / "figures" / f"{name}.csv", tables.comma_separated(drawing.columns, drawing.rows))
            source = inline(svg.decode())
            images[key].append({"title": title, "caption": drawing.caption, "source": source, "stem": name})
    write(folder / "report.html", page(results, images))


_PLAIN = " !$'()*+,-./:;=?@_~"  # what stands for itself in a data URI and in an attribute


def inline(svg: str) -> str:
    """A data URI of a figure without what is not drawn: shorter than base64, and its identifiers stay its own."""
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<!DOCTYPE.*?>|<\?xml.*?\?>", "", svg, flags=re.S)
    drawn = re.sub(r"\s+", " ", re.sub(r">\s+<", "><", drawn)).replace('"', "'").strip()
    return "data:image/svg+xml," + urllib.parse.quote(drawn, safe=_PLAIN)


def page(results: StabilityResults, images: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """report.html."""
    import jinja2

    source = importlib.resources.files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    overviews = results.overviews
    groups = [overviews[i : i + ABREAST] for i in range(0, len(overviews), ABREAST)]
    return environment.from_string(source).render(
        r=results,
        images=images,
        overviews=overviews,
        groups=list(zip(groups, table(overviews))),
        areas={o.key: areas(results.cells[o.key]["rows"]) for o in overviews},
        everything={o.key: [(k, number(v)) for k, v in sorted(o.metrics.items())] for o in overviews},
        absent={o.key: absent(o, images.get(o.key, ())) for o in overviews},
        command=command(results),
    )


def areas(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Attack, mean area under its curve with interval."""
    found = [a for r in rows if (a := attack_areas(r)) is not None]
    return [(plots.NAMES.get(k, k), number(interval([a.get(k) for a in found]))) for k in (found[0] if found else ())]


def absent(o: Overview, images: Sequence[Mapping[str, str]]) -> str:
    """Why figures are missing, in a sentence."""
    there = {i["title"] for i in images}
    why = []
    if o.integrator == "-":
        why.append("This net has no flow: there is no step size, so nothing is shown that depends on one.")
    elif "Accuracy against the step size" not in there and "Robustness" in there:
        why.append("This net chooses its steps itself, so there is no accuracy against a step size.")
    if "Robustness" not in there:
        why.append("Accuracy and attacks need one class label for each sample.")
    return " ".join(why)


def command(results: StabilityResults) -> str:
    """The shell command that does the same again."""
    from .spec import Suite

    if results.run:
        return f"odenet stability {results.run}"
    plain_suite, words = Suite(), []
    for key, value in results.suite.to_dict().items():
        if key not in ("name", "out", "workers", "quick") and value != plain_suite.to_dict()[key]:
            given = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{key.replace('_', '-')} {given}")
    return " ".join(["odenet stability", *words])
