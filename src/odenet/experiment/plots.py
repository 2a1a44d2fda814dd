"""Figures of an experiment, from plain data; each comes with the rows it shows."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .statistics import Difference, Summary

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2f6db5", "#d9822b", "#3a8f5c", "#c23030", "#7a5bb0"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, INK)
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.fontsize": 9, "svg.hashsalt": "odenet", "svg.fonttype": "path",
}  # fmt: skip
# equal data give equal files: no date in any of them
METADATA: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Drawing:
    """A figure and the data behind it."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[], Canvas]

    def render(self, kinds: Sequence[str] = ("png", "svg", "pdf")) -> dict[str, bytes]:
        """The figure in each format."""
        out = {}
        with matplotlib.rc_context(STYLE):
            canvas = self.draw()
            for kind in kinds:
                buffer = io.BytesIO()
                canvas.savefig(buffer, format=kind, dpi=150, metadata=METADATA[kind])
                out[kind] = buffer.getvalue()
                canvas.set_layout_engine(None)  # the places found for the first format hold for all
        return out


def _canvas(width: float, height: float) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, canvas.add_subplot()


def accuracy(rows: Sequence[Mapping[str, Any]], summaries: Sequence[Summary], score: str = "accuracy") -> Drawing:
    """Test accuracy (or another score) of every seed, and the mean of every pair."""

    def draw() -> Canvas:
        canvas, ax = _rows([s.key for s in summaries])
        for place, s in enumerate(summaries):
            scores = [
                100 * r["accuracy"]
                for r in rows
                if (r["net"], r["integrator"]) == (s.net, s.integrator) and r["accuracy"] is not None
            ]
            ax.plot(scores, [place] * len(scores), "o", ms=5, color=BLUE, alpha=0.55, mew=0)
            if s.accuracy is not None:
                ax.plot([100 * s.accuracy] * 2, [place - 0.3, place + 0.3], color=INK, lw=2)
        ax.set_xlabel(f"test {score} %")
        return canvas

    columns = ("net", "integrator", "seed", "accuracy")
    return Drawing("accuracy", f"Test {score}: one dot for each seed, a bar at the mean.", columns, rows, draw)


def differences(found: Sequence[Difference], reference: str, score: str = "accuracy") -> Drawing:
    """Mean paired difference of every pair, with its interval."""
    shown = [d for d in found if d.mean is not None and d.reading != "reference"]

    def draw() -> Canvas:
        canvas, ax = _rows([d.key for d in shown])
        ax.axvline(0, color=INK, lw=1)
        for place, d in enumerate(shown):
            colour = {"higher": GREEN, "lower": RED}.get(d.reading, MUTED)
            if d.low is not None and d.high is not None:
                ax.plot([100 * d.low, 100 * d.high], [place, place], color=colour, lw=2, solid_capstyle="round")
            ax.plot(100 * (d.mean or 0.0), place, "o", ms=6, color=colour)
        ax.set_xlabel(f"test {score} minus that of {reference}, points")
        return canvas

    caption = "Paired differences with 95 % t-intervals; grey: no difference detectable, red: lower, green: higher."
    columns = ("key", "mean", "low", "high", "p", "holm", "reading")
    return Drawing("differences", caption, columns, [vars(d) for d in shown], draw)


def _rows(labels: Sequence[str]) -> tuple[Canvas, Axes]:
    """Axes with one labelled row for each name, the first on top, and a rule between nets."""
    canvas, ax = _canvas(7.0, 0.9 + 0.27 * max(len(labels), 2))
    ax.set_yticks(range(len(labels)), [name.replace("/", "  ").removesuffix("  -") for name in labels], fontsize=9)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    nets = [name.split("/")[0] for name in labels]
    for i in range(1, len(nets)):
        if nets[i] != nets[i - 1]:
            ax.axhline(i - 0.5, color=GRID, lw=0.8)
    return canvas, ax


def learning(rows: Sequence[Mapping[str, Any]], steps: int) -> Drawing:
    """Training loss of the first seed, one panel for each net."""
    first = [r for r in rows if r["seed"] == rows[0]["seed"] and r["history"]] if rows else []
    nets = list(dict.fromkeys(r["net"] for r in first))
    data = [
        {
            "net": r["net"],
            "integrator": r["integrator"],
            "step": round(i * steps / len(r["history"])),
            "loss": v,
        }
        for r in first
        for i, v in enumerate(r["history"])
    ]

    def draw() -> Canvas:
        across = min(3, max(1, len(nets)))
        down = max(1, math.ceil(len(nets) / across))
        canvas = Canvas(figsize=(3.2 * across, 0.3 + 2.1 * down), layout="constrained")
        FigureCanvasAgg(canvas)
        panels = canvas.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, net in zip(panels, nets):
            for colour, r in zip(COLOURS, [r for r in first if r["net"] == net]):
                mine = [
                    d for d in data if (d["net"], d["integrator"]) == (net, r["integrator"]) and d["loss"] is not None
                ]
                name = r["integrator"].removesuffix("-")
                ax.semilogy(
                    [d["step"] for d in mine],
                    [d["loss"] for d in mine],
                    color=colour,
                    lw=1.2,
                    label=name or None,
                )
            ax.set_title(net, fontsize=10)
            ax.grid(color=GRID, lw=0.8)
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="upper right", fontsize=8, handlelength=1.2)
        for ax in panels[len(nets) :]:
            ax.set_visible(False)
        canvas.supxlabel("training step", fontsize=10)
        canvas.supylabel("training loss", fontsize=10)
        return canvas

    return Drawing(
        "learning",
        "Training loss of the first seed with its chosen learning rate and span.",
        ("net", "integrator", "step", "loss"),
        data,
        draw,
    )


def theory(name: str, case: Mapping[str, Any]) -> Drawing:
    """Predicted curves as lines, measured ones as dots, predicted limits as dashed verticals."""
    figure = case["figure"]
    data = [
        {"curve": s["name"], "kind": s["kind"], "x": x, "y": y}
        for s in figure["series"]
        for x, y in zip(s["x"], s["y"])
    ]

    def draw() -> Canvas:
        canvas, ax = _canvas(7.0, 3.9)
        names = list(dict.fromkeys(s["name"] for s in figure["series"]))
        lines = any(s["kind"] == "predicted" for s in figure["series"])
        for s in figure["series"]:
            points = [(x, y) for x, y in zip(s["x"], s["y"]) if y is not None]
            colour = COLOURS[names.index(s["name"]) % len(COLOURS)]
            style = "-" if s["kind"] == "predicted" else "o" if lines else "o-"
            ax.plot(
                *zip(*points),
                style,
                color=colour,
                ms=5.5,
                lw=1.4,
                label=None if lines and style == "o" else s["name"],
            )
        if figure["log_x"]:
            ax.set_xscale("log", base=2)
            ticks = sorted({x for s in figure["series"] for x in s["x"]})
            kept = [x for x in ticks if math.log2(x).is_integer()]
            ax.set_xticks(kept, [f"{x:g}" for x in kept])
            ax.minorticks_off()
        if figure["log_y"]:
            ax.set_yscale("log")
        for label, x in figure["limits"].items():
            ax.axvline(x, color=INK, lw=1, ls=(0, (4, 3)))
            place: Any = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
            ax.annotate(label, (x, 1.0), fontsize=8.5, ha="center", va="bottom", **place)
        ax.set(xlabel=figure["xlabel"], ylabel=figure["ylabel"])
        if figure["floor"] is not None:
            ax.set_ylim(figure["floor"], 1e3 * max(d["y"] or 0.0 for d in data))
        ax.grid(color=GRID, lw=0.8)
        title = "lines predicted, dots measured" if lines else None
        ax.legend(title=title, loc="best", title_fontsize=8.5, alignment="left")
        return canvas

    return Drawing(f"theory_{name}", case["title"] + ".", ("curve", "kind", "x", "y"), data, draw)


# colours of Okabe and Ito, told apart by every eye; markers repeat the distinction for print
MANY = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK, PURPLE, MUTED)
MARKERS = "osD^vP<>*p"


def work_precision(problem: str, rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Error at the end against evaluations and against seconds, a line for each method; other libraries' are dashed.

    A run without a result, or with an error above 100, is a cross at the upper edge.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))

    def draw() -> Canvas:
        canvas = Canvas(figsize=(10.0, 4.4), layout="constrained")
        FigureCanvasAgg(canvas)
        panels = canvas.subplots(1, 2, sharey=True)
        for ax, measure, label in zip(panels, ("nfe", "seconds"), ("evaluations of f", "seconds")):
            ax.set(xscale="log", yscale="log", xlabel=label)
            for i, method in enumerate(methods):
                style = {"color": MANY[i % len(MANY)], "marker": MARKERS[i % len(MARKERS)]}
                _work(ax, measure, method, [row for row in rows if row["method"] == method], style)
            _ticks(ax.xaxis)
            ax.grid(color=GRID, lw=0.8)
            ax.set_axisbelow(True)
        _ticks(panels[0].yaxis)
        panels[0].set_ylabel("error at the end, relative")
        panels[0].set_title(problem)
        if any(not _reached(row) for row in rows):
            panels[1].set_title("× no result", loc="right", fontsize=9, fontweight="normal", color=MUTED)
        if methods:
            canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", handlelength=2.8)
        return canvas

    caption = (
        f"{problem}: error at the last time against work; below and left is better. × at the upper edge: a run without "
        "a result, or with an error above 100."
    )
    columns = ("problem", "method", "kind", "setting", "status", "error", "nfe", "seconds")
    return Drawing(f"work_precision_{problem}", caption, columns, list(rows), draw)


def _ticks(axis: Axis) -> None:
    """Powers of ten, or 1, 2, 5 times them on less than two decades; nothing between is labelled."""
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if low > 0 and math.log10(high / low) < 1.7:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _reached(row: Mapping[str, Any]) -> bool:
    return row["error"] is not None and row["error"] < 100


def _work(ax: Axes, measure: str, method: str, rows: Sequence[Mapping[str, Any]], style: Mapping[str, Any]) -> None:
    """One method in one panel: a line through what it reached, crosses at the upper edge for what it did not."""
    done = [row for row in rows if _reached(row)]
    lost = [row[measure] for row in rows if not _reached(row) and row["nfe"] > 0]
    ends = sorted({row["status"].replace("_", " ") for row in rows if row["error"] is None})
    label = method if done else f"{method} ({', '.join(ends) or 'errors > 100'})"
    line = "--" if ":" in method else "-"
    errors = [max(row["error"], 1e-17) for row in done]
    ax.plot([row[measure] for row in done], errors, **style, ls=line, ms=5, lw=1.4, label=label)
    edge: Any = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 4, "in_layout": False}
    ax.plot(lost, [1.0] * len(lost), "x", color=style["color"], ms=7, mew=1.8, label="_lost", **edge)
