"""Maps of the stability suite: planes, matrices and fields; each comes with the rows it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ...plots import BLUE, INK, MUTED, RED, Drawing
from ..plots import below, canvas
from ..summary import interval

SHADE = "#dce8f5"
Row = Mapping[str, Any]


# ---- eigenvalues ----------------------------------------------------------------------------------------------------


def eigenvalues(frame: Mapping[str, Any], found: Sequence[Sequence[Any]]) -> Drawing:
    """h lambda of every layer (rows layer, re, im, outside) over the stability region of the integrator."""

    def draw() -> Figure:
        figure, ax = canvas(4.0)
        view = _view(frame["box"], found)
        _region(ax, frame, view)
        layer, x, y, outside = (np.array(column, dtype=float) for column in zip(*found))
        dots = ax.scatter(x, y, c=layer, cmap="viridis", s=11, lw=0, zorder=3, rasterized=True)
        bad = outside == 1
        ax.scatter(x[bad], y[bad], s=26, facecolors="none", edgecolors=RED, lw=0.7, zorder=4, rasterized=True)
        ax.set(xlabel="Re hλ", ylabel="Im hλ")
        ax.set_aspect("equal", adjustable="box")
        bar = figure.colorbar(dots, ax=ax, label="layer", fraction=0.05, pad=0.03)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        bar.outline.set_visible(False)  # type: ignore[operator]
        if _zoomed(view, frame["box"]):
            small = ax.inset_axes((0.015, 0.015, 0.34, 0.34))
            _region(small, frame, tuple(frame["box"]))
            small.add_patch(
                Rectangle((view[0], view[2]), view[1] - view[0], view[3] - view[2], fill=False, ec=INK, lw=1)
            )
            small.set(xticks=[], yticks=[])
            small.set_aspect("equal", adjustable="box")
            small.spines[:].set_visible(True)
        return figure

    rows = [dict(zip(("layer", "re", "im", "outside"), r)) for r in found]
    outside = sum(r["outside"] for r in rows) / len(rows)
    share = "none here" if not outside else f"{100 * outside:.2g} % here"
    zoomed = " The small picture is the whole region." if _zoomed(_view(frame["box"], found), frame["box"]) else ""
    caption = (
        "Each dot is an eigenvalue of h df/dy at one layer (colour) and sample of the first seed. Inside the "
        f"shaded region one step of {frame['integrator'] or 'the method'} does not amplify the mode; right of the "
        "axis the exact flow grows, which no step size cures. Ringed red: outside though the exact flow damps it,"
        f" the fault of the step size ({share}).{zoomed}"
    )
    return Drawing("eigenvalues", caption, ("layer", "re", "im", "outside"), rows, draw)


def _view(box: Sequence[float], found: Sequence[Sequence[Any]]) -> tuple[float, float, float, float]:
    """The whole box, or a square around origin and eigenvalues where these fill less than a third of it."""
    left, right, _, high = box
    x, y = [0.0, *(r[1] for r in found)], [0.0, *(r[2] for r in found)]
    size = 1.25 * max(max(x) - min(x), max(y) - min(y), 1e-6)
    if size > (right - left) / 3:
        up = max(high, 0.42 * (right - left))
        return left, right, -up, up
    a, b = (max(x) + min(x)) / 2, (max(y) + min(y)) / 2
    return a - size / 2, a + size / 2, b - size / 2, b + size / 2


def _zoomed(view: Sequence[float], box: Sequence[float]) -> bool:
    return view[1] - view[0] < box[1] - box[0]


def _region(ax: Axes, frame: Mapping[str, Any], view: tuple[float, float, float, float]) -> None:
    """Shaded where one step damps; a method for oscillators has a piece of the imaginary axis."""
    from .... import integrators
    from ....stability import stability_region

    region = stability_region(frame["integrator"], view, 161, frame["coef"])
    re, im = region.re.numpy(), region.im.numpy()
    growth = np.minimum(np.nan_to_num(region.growth.numpy().T, nan=10.0), 10.0)
    ax.axhline(0, color=MUTED, lw=0.6)
    ax.axvline(0, color=MUTED, lw=0.6)
    stable = growth <= 1.0 + 1e-6
    if stable[:, np.abs(re) > 1e-9].any():
        ax.contourf(re, im, growth, levels=[-1.0, 1.0 + 1e-6], colors=[SHADE])
        if not stable.all():
            ax.contour(re, im, growth, levels=[1.0 + 1e-6], colors=[BLUE], linewidths=1.2)
    elif reach := integrators.get(frame["integrator"]).facts.imag_interval:
        ax.plot([0, 0], [-reach, reach], color=SHADE, lw=9, solid_capstyle="butt", zorder=1)
        ax.plot([0, 0], [-reach, reach], color=BLUE, lw=1.2, solid_capstyle="butt", zorder=1)
    ax.set(xlim=view[:2], ylim=view[2:])


# ---- sensitivity over layers and training ---------------------------------------------------------------------------


def heat(watch: Mapping[str, Any]) -> Drawing:
    """log10 |dy_N/dy_j| over layers (down) and training steps (across)."""
    steps = [r[0] for r in watch["rows"]]
    values = np.array([[np.nan if v is None or v <= 0 else math.log10(v) for v in r[1:]] for r in watch["rows"]]).T
    data = [{"step": r[0], "layer": j, "sensitivity": v} for r in watch["rows"] for j, v in zip(watch["layers"], r[1:])]

    def draw() -> Figure:
        figure, ax = canvas()
        most = max(float(np.nanmax(np.abs(values), initial=0.0)), 0.31)
        norm = TwoSlopeNorm(0.0, -most, most)
        tints = matplotlib.colormaps["PuOr_r"].with_extremes(bad="#bbbbbb")
        drawn = ax.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=tints, norm=norm, origin="lower")
        if min(values.shape) > 1 and np.isfinite(values).all():
            ax.contour(values, levels=[-3, -2, -1, 1, 2, 3], colors=INK, linewidths=0.8)
        across = _some(len(steps), 6)
        ax.set_xticks(across, [str(steps[i]) for i in across])
        down = _some(len(watch["layers"]), 8)
        ax.set_yticks(down, [str(watch["layers"][i]) for i in down])
        ax.set(xlabel="training step", ylabel="layer j")
        bar = figure.colorbar(drawn, ax=ax, fraction=0.05, pad=0.03, label=r"$\|\partial y_N/\partial y_j\|$")
        each = (1.0, 2.0, 5.0) if most < 1.7 else (1.0,)
        ticks = [m * 10.0**k for k in range(-9, 9) for m in each if abs(math.log10(m) + k) <= most]
        bar.set_ticks([math.log10(v) for v in ticks], labels=[f"{v:g}" for v in ticks])
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)  # type: ignore[operator]
        return figure

    caption = (
        "How strongly the last state reacts to a change at layer j, the factor on the gradient of that layer, "
        "while the first seed was trained. White (1): passed on as it is; orange (> 1): amplified; purple (< 1): "
        "it fades. Lines mark powers of ten; growth beyond 10 or fading below 0.001 makes training hard."
    )
    return Drawing("sensitivity", caption, ("step", "layer", "sensitivity"), data, draw)


def _some(count: int, most: int) -> list[int]:
    """At most so many evenly spread positions."""
    stride = max(1, -(-count // most))
    return list(range(0, count, stride))


# ---- train x test ---------------------------------------------------------------------------------------------------


def matrix(cells: Mapping[str, Sequence[Row]], own: str) -> Drawing:
    """Accuracy of nets trained under one integrator (down) and tested under others with h/2, h, 2h (across).

    cells: train integrator -> its rows
    """
    scores: dict[tuple[str, str, float], list[float]] = {}
    for name, rows in cells.items():
        for r in rows:
            for tested, factor, _, score in r.get("swaps", ()):
                scores.setdefault((name, tested, factor), []).append(score)
    means = {k: interval(v) for k, v in scores.items()}
    trained = [t for t in cells if any(k[0] == t for k in means)]
    heads = list(dict.fromkeys((k[1], k[2]) for k in means))
    data = [
        {"trained": t, "tested": i, "factor": f, "accuracy": m.mean, "low": m.low, "high": m.high}
        for (t, i, f), m in means.items()
    ]

    def draw() -> Figure:
        across = list(dict.fromkeys(i for i, _ in heads))
        factors = sorted({f for _, f in heads})
        figure, ax = canvas(1.5 + 0.42 * len(trained) * len(factors))
        sides = [(t, f) for t in trained for f in factors]
        values = np.array(
            [[np.nan if (m := means.get((t, i, f))) is None else m.mean for i in across] for t, f in sides], dtype=float
        )
        tints = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.03, 0.75, 20)))
        ax.imshow(np.ma.masked_invalid(values), cmap=tints, norm=BoundaryNorm(np.linspace(0, 1, 21), 20), aspect="auto")
        for (i, k), value in np.ndenumerate(values):
            m = means.get((sides[i][0], across[k], sides[i][1]))
            half = "" if m is None or m.half is None else f" ± {100 * m.half:.1f}"
            text = f"{100 * value:.1f}{half}" if np.isfinite(value) else "–"
            ax.text(k, i, text, ha="center", va="center", fontsize=8, color="white" if value > 0.7 else INK)
        for i in range(len(sides)):
            ax.axhline(i - 0.5, color="white", lw=4 if i % len(factors) == 0 else 1)
        for k in range(1, len(across)):
            ax.axvline(k - 0.5, color="white", lw=2)
        steps = {0.5: "h/2", 1.0: "h", 2.0: "2h"}
        names = [f"{t}{' (own)' if t == own else ''}, {steps.get(f, f'{f:g} h')}" for t, f in sides]
        ax.set_yticks(range(len(sides)), names, fontsize=8.5)
        ax.set_xticks(range(len(across)), across, fontsize=8.5)
        ax.xaxis.set_label_position("top")
        ax.xaxis.tick_top()
        ax.set(xlabel="tested under", ylabel="trained under, tested with")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        return figure

    caption = (
        "Accuracy % (mean ± half the 95 % interval) of nets trained under one integrator and tested under "
        "another, with half, the same and twice the step. Equal numbers along a row: an equation was learned. A "
        "fall away from the own integrator: the weights rely on its errors."
    )
    return Drawing("matrix", caption, ("trained", "tested", "factor", "accuracy", "low", "high"), data, draw)


# ---- 2-D data -------------------------------------------------------------------------------------------------------


def ftle(field: Mapping[str, Any]) -> Drawing:
    """The largest finite-time Lyapunov exponent over 2-D inputs, the decision boundary and the data."""
    first, second = field["first"], field["second"]
    values = np.array([[np.nan if v is None else v for v in r] for r in field["values"]])
    data = [
        {"first": a, "second": b, "ftle": None if not np.isfinite(values[i, k]) else float(values[i, k]),
         "class": field["classes"][i][k]}
        for i, a in enumerate(first)
        for k, b in enumerate(second)
    ]  # fmt: skip

    def draw() -> Figure:
        figure, ax = canvas(4.0)
        drawn = ax.pcolormesh(first, second, values.T, cmap="magma", shading="gouraud", rasterized=True)
        classes = np.array(field["classes"]).T
        for c in range(int(classes.max())):
            ax.contour(first, second, (classes > c).astype(float), levels=[0.5], colors="white", linewidths=1.4,
                       linestyles="--")  # fmt: skip
        points = np.array(field["points"]).reshape(-1, 3)
        for c, marker in zip(np.unique(points[:, 2]), "o^sDvP*X"):
            mine = points[points[:, 2] == c]
            ax.scatter(mine[:, 0], mine[:, 1], s=14, marker=marker, facecolors="none", edgecolors="#7fd0ff", lw=0.8,
                       label=f"class {c:g}")  # fmt: skip
        if classes.max() > 0:
            ax.plot([], [], "--", color=MUTED, label="decision boundary (white)")
        ax.set(xlabel="first input", ylabel="second input")
        bar = figure.colorbar(drawn, ax=ax, fraction=0.05, pad=0.03, label="FTLE, 1/time")
        bar.outline.set_visible(False)  # type: ignore[operator]
        if len(points):
            below(figure)
        return figure

    caption = (
        "How fast neighbouring inputs are torn apart by the net of the first seed (finite-time Lyapunov "
        "exponent). Bright ridges that follow the dashed decision boundary are wanted; bright areas inside a "
        "class are places where small noise is amplified."
    )
    return Drawing("ftle", caption, ("first", "second", "ftle", "class"), data, draw)
