"""Curves of the stability suite, from plain data; each comes with the rows it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ..plots import BLUE, GREEN, GRID, INK, MUTED, ORANGE, PURPLE, RED, Drawing
from .summary import Interval, Overview, attack_areas, interval

WIDTH, HEIGHT = 4.6, 3.6  # inches: half a page, or the width of a phone
LOOKS = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"), (RED, "v", (0, (5, 1))),
         (INK, "P", "-"), (MUTED, "X", "--"))  # fmt: skip
Row = Mapping[str, Any]


def canvas(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """One half-page figure."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.set_axisbelow(True)
    return figure, ax


def below(figure: Figure, columns: int = 2, **words: Any) -> None:
    """The legend, below the axes."""
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, handlelength=2.4, columnspacing=1.2, **words)


# ---- accuracy against h ---------------------------------------------------------------------------------------------


def limits(rows: Sequence[Row]) -> list[tuple[str, Any, str, float]]:
    """(name, line style, colour, h) of what predicts where a net fails: medians over seeds of limits from theory, and
    the smallest h at which the prediction fails."""
    found = []
    for name, style, colour, key in (
        ("limit from eigenvalues", "--", ORANGE, "h_stable"),
        ("limit of the proof", ":", PURPLE, "h_contractive"),
    ):
        middle = interval([r["metrics"][key] for r in rows if r.get("metrics", {}).get(key) is not None]).median
        if middle is not None:
            found.append((name, style, colour, middle))
    failing = [h for r in rows for h, _, _, _, bad in r.get("steps", ()) if bad]
    return [*found, *([("failure expected from here", "-.", RED, min(failing))] if failing else [])]


def accuracy_against_h(rows: Sequence[Row], own: float) -> Drawing:
    """Accuracy with the same weights at other step sizes, with the predicted limits."""
    by_h: dict[float, list[float]] = {}
    for r in rows:
        for h, score, *_ in r.get("steps", ()):
            by_h.setdefault(h, []).append(score)
    means = {h: interval(v) for h, v in sorted(by_h.items())}
    looked: Sequence[Any] = next((r["steps"] for r in rows if r.get("steps")), ())
    first = {h: (growth, deviation, bad) for h, _, growth, deviation, bad in looked}
    data = [
        {
            "h": h, "accuracy": m.mean, "low": m.low, "high": m.high,
            **dict(zip(("growth", "deviation", "expected_to_fail"), first.get(h, (None,) * 3))),
        }
        for h, m in means.items()
    ]  # fmt: skip
    lines = limits(rows)

    def draw() -> Figure:
        figure, ax = canvas(4.0)
        h = list(means)
        ax.set_xscale("log", base=2)
        ax.grid(color=GRID, lw=0.7)
        _band(ax, h, list(means.values()), BLUE)
        ax.plot(h, [100 * (m.mean or 0) for m in means.values()], color=BLUE, lw=1.6)
        kinds = (("accuracy", "o", BLUE, 6, False), ("accuracy, failure expected", "X", RED, 8, True))
        for label, marker, colour, size, wanted in kinds:
            at = [d for d in data if bool(d["expected_to_fail"]) is wanted]
            if at:
                x, y = [d["h"] for d in at], [100 * d["accuracy"] for d in at]
                ax.plot(x, y, marker, color=colour, ms=size, label=label)
        ax.axvline(own, color=MUTED, lw=3, alpha=0.45, label="h of the training")
        shown = (min(h) / 1.5, max(h) * 1.5)
        for name, style, colour, value in lines:
            inside = shown[0] < value < shown[1]
            far = "" if inside else f" (h = {value:.2g}, not here)"
            ax.axvline(value if inside else np.nan, color=colour, lw=1.8, ls=style, label=name + far)
        ax.set_xlim(*shown)
        ax.set_ylim(-3, 103)
        ax.set(xlabel="h (span / steps)", ylabel="test accuracy %")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _fraction(v)))
        ax.xaxis.set_minor_locator(NullLocator())
        below(figure)
        return figure

    caption = (
        "The same weights run with other steps. Flat: the net solves its differential equation and h does not "
        "matter; a fall on the left of h: the weights rely on the errors of their steps. From the limit of the "
        "eigenvalues on a mode that should be damped grows, however slowly. Crosses: without running it, "
        "perturbations are expected to grow ten times more than in the exact flow, or the state to stray from it "
        "by a tenth of its way; an easy task may survive that."
    )
    columns = ("h", "accuracy", "low", "high", "growth", "deviation", "expected_to_fail")
    return Drawing("accuracy_against_h", caption, columns, data, draw)


def _fraction(v: float) -> str:
    return f"1/{1 / v:.3g}" if 0 < v < 1 else f"{v:g}"


def _band(ax: Axes, x: Sequence[float], means: Sequence[Interval], colour: str) -> None:
    """The 95 % interval as a band, in per cent."""
    if all(m.low is not None for m in means):
        low, high = ([100 * min(max(v or 0, 0), 1) for v in side] for side in zip(*((m.low, m.high) for m in means)))
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)


# ---- depth refinement -----------------------------------------------------------------------------------------------


def refinement(rows: Sequence[Row], claimed: int | None) -> Drawing:
    """Error of the output against h, with the slope that the method claims."""
    data = [
        {"seed": r["seed"], **dict(zip(r["tables"]["refinement"]["columns"], line))}
        for r in rows
        if "refinement" in r.get("tables", {})
        for line in r["tables"]["refinement"]["rows"]
    ]
    order = interval([r["metrics"]["observed_order"] for r in rows if r.get("metrics", {}).get("observed_order")])

    def draw() -> Figure:
        figure, ax = canvas()
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.grid(color=GRID, lw=0.7)
        for seed in dict.fromkeys(d["seed"] for d in data):
            mine = [(d["h"], d["error"]) for d in data if d["seed"] == seed and d["error"]]
            ax.plot(*zip(*mine), "o-", color=BLUE, lw=1, ms=3.5, alpha=0.7, label=None if ax.lines else "a seed")
        if claimed:
            h = np.array(sorted({d["h"] for d in data}))
            anchor = max(d["error"] for d in data if d["h"] == h[-1] and d["error"])
            ax.plot(
                h, 2 * anchor * (h / h[-1]) ** claimed, "--", color=ORANGE, lw=1.6, label=f"order {claimed}, claimed"
            )
        ax.set(xlabel="h (span / steps)", ylabel="relative error of the output")
        _decades(ax.yaxis)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _fraction(v)))
        ax.xaxis.set_minor_locator(NullLocator())
        below(figure)
        return figure

    seen = "" if order.mean is None else f" Observed order {_pm(order)}."
    caption = (
        "Outputs with h, h/2, h/4, ... at the same weights, against a tight solution. Lines parallel to the "
        "dashed one, the order of the method: the net is a discretised equation of that order; flat lines: it is "
        f"not.{seen}"
    )
    columns = ("seed", "h", "error", "slope", "difference", "slope_of_differences")
    return Drawing("refinement", caption, columns, data, draw)


def _decades(axis: Axis) -> None:
    """Powers of ten, or 1, 2, 5 times them on less than two decades; nothing between is labelled."""
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if low > 0 and high / low < 50:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _pm(v: Interval) -> str:
    return f"{v.mean:.3g}" + ("" if v.half is None else f" ± {v.half:.2g}")


# ---- robustness -----------------------------------------------------------------------------------------------------

NAMES = {
    "noise": "noise", "fgsm": "FGSM", "pgd": "PGD", "pgd_margin": "PGD, margin", "square": "Square", "spsa": "SPSA",
    "transfer": "transfer", "fixed_grid": "fixed grid", "worst": "worst of all",
}  # fmt: skip


def robustness(rows: Sequence[Row], levels: Sequence[float]) -> Drawing:
    """Accuracy under every attack against its radius, relative to the spread of the inputs."""
    found = [r for r in rows if "attacks" in r.get("tables", {})]
    columns = found[0]["tables"]["attacks"]["columns"]
    attacks = [c for c in columns if c not in ("eps", "standing")]
    scores = {
        a: [interval([r["tables"]["attacks"]["rows"][i][columns.index(a)] for r in found]) for i in range(len(levels))]
        for a in attacks
    }
    areas = {a: interval([(attack_areas(r) or {}).get(a) for r in found]) for a in attacks}
    data = [
        {"attack": a, "radius": e, "accuracy": m.mean, "low": m.low, "high": m.high, "area": areas[a].mean}
        for a in attacks
        for e, m in zip(levels, scores[a])
    ]

    def draw() -> Figure:
        figure, ax = canvas(4.3)
        x = [100 * e for e in levels]
        ax.grid(color=GRID, lw=0.7)
        looks = [*LOOKS[:5], LOOKS[6], LOOKS[6]]
        for a, (colour, marker, style) in zip([a for a in attacks if a != "worst"], looks):
            y = [100 * (m.mean or 0) for m in scores[a]]
            ax.plot(x, y, marker=marker, ms=4.5, ls=style, lw=1.3, color=colour, label=_area(a, areas[a]))
        _band(ax, x, scores["worst"], INK)
        y = [100 * (m.mean or 0) for m in scores["worst"]]
        ax.plot(x, y, color=INK, lw=2.4, marker="P", ms=5, label=_area("worst", areas["worst"]))
        ax.set_xticks(x)
        ax.set(xlabel="radius, % of the spread of the inputs", ylabel="accuracy %", ylim=(-3, 103))
        below(figure, title="area under the curve", title_fontsize=8)
        return figure

    caption = (
        "Accuracy when every input entry may change by the radius. Noise is random, FGSM and PGD follow the "
        "gradient, Square guesses without it; the thick line counts a sample as soon as one of them breaks it "
        "(band: 95 % interval). Area: mean accuracy over the radii shown; higher is more robust."
    )
    return Drawing("robustness", caption, ("attack", "radius", "accuracy", "low", "high", "area"), data, draw)


def _area(name: str, area: Interval) -> str:
    return f"{NAMES.get(name, name)} {area.mean:.2f}" if area.mean is not None else NAMES.get(name, name)


# ---- all nets side by side ------------------------------------------------------------------------------------------


def side_by_side(
    overviews: Sequence[Overview], metric: str, name: str, label: str, caption: str, log: bool = False, scale: float = 1
) -> Drawing:
    """Mean and 95 % interval of one metric, a row for each net."""
    shown = [(o, o.metrics[metric]) for o in overviews if metric in o.metrics]
    data = [{"net": o.name, "mean": m.mean, "low": m.low, "high": m.high, "seeds": m.count} for o, m in shown]

    def draw() -> Figure:
        figure, ax = canvas(0.8 + 0.3 * max(len(shown), 2))
        ax.grid(axis="x", color=GRID, lw=0.7)
        for place, (_, m) in enumerate(shown):
            if m.mean is None:
                ax.annotate("not finite", (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
                continue
            if m.low is not None and m.high is not None:
                ends = (_at_least(m.low, m.mean) if log else max(m.low, 0.0), m.high if log else min(m.high, 1.0))
                ax.plot([scale * v for v in ends], [place] * 2, color=BLUE, lw=2)
            ax.plot(scale * m.mean, place, "o", ms=6, color=INK)
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            _decades(ax.xaxis)
        ax.set_yticks(range(len(shown)), [o.name for o, _ in shown], fontsize=8.5)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(label)
        return figure

    return Drawing(name, caption, ("net", "mean", "low", "high", "seeds"), data, draw)


def _at_least(low: float, mean: float) -> float:
    """The lower end, kept on a logarithmic axis."""
    return max(low, mean / 10)


def against(overviews: Sequence[Overview], rows: Mapping[str, Sequence[Row]], levels: Sequence[float]) -> Drawing:
    """Accuracy under the worst attack, all nets in one figure."""
    data: list[dict[str, Any]] = []
    for o in overviews:
        found = [r["tables"]["attacks"] for r in rows[o.key] if "attacks" in r.get("tables", {})]
        for i, e in enumerate(levels):
            m = interval([t["rows"][i][t["columns"].index("worst")] for t in found])
            if m.mean is not None:
                data.append({"net": o.name, "radius": e, "accuracy": m.mean, "low": m.low, "high": m.high})

    def draw() -> Figure:
        figure, ax = canvas(3.4 + 0.1 * len(overviews))
        ax.grid(color=GRID, lw=0.7)
        for net, (colour, marker, style) in zip(dict.fromkeys(d["net"] for d in data), LOOKS):
            mine = [d for d in data if d["net"] == net]
            x, y = [100 * d["radius"] for d in mine], [100 * d["accuracy"] for d in mine]
            ax.plot(x, y, color=colour, marker=marker, ms=5, ls=style, lw=1.5, label=net)
        ax.set_xticks([100 * e for e in levels])
        ax.set(xlabel="radius, % of the spread of the inputs", ylabel="accuracy %", ylim=(-3, 103))
        below(figure)
        return figure

    caption = "Accuracy under the worst of all attacks, mean over seeds. The one that stays up longest is most robust."
    return Drawing("attacked", caption, ("net", "radius", "accuracy", "low", "high"), data, draw)
