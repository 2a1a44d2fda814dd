"""Figures of a stability report, from plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import BadInput

if TYPE_CHECKING:
    from .region import Region
    from .report import Report
    from .tables import Table

INK, MUTED, BLUE, ORANGE, RED = "#1f2933", "#7b8794", "#2f6db5", "#d9822b", "#c23030"
SHADE = "#dce8f5"
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "svg.hashsalt": "odenet", "svg.fonttype": "path",
}  # fmt: skip


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def write(figure: Figure, path: Path) -> None:
    """path.png (160 dpi) and path.svg (without a date, so that equal data give equal files)."""
    with matplotlib.rc_context(_STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=160)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def figures(report: Report) -> dict[str, Figure]:
    """All figures that the report has data for."""
    with matplotlib.rc_context(_STYLE):
        out = {}
        region = report.region()
        if region is not None:
            out["spectrum"] = spectrum(region, report.tables["eigenvalues"], report.integrator)
        if any(row[2] is not None for row in report.tables["layers"].rows):
            out["sensitivity"] = layer_curves(report.tables["layers"])
        if "exchange" in report.tables:
            out["exchange"] = exchange(report.tables["exchange"], report.integrator)
        if "noise" in report.tables:
            out["noise"] = noise(report.tables["noise"])
        return out


def spectrum(region: Region, table: Table, integrator: str) -> Figure:
    """Scaled eigenvalues of every layer over the stability region of the integrator."""
    re, im, growth = region.re.numpy(), region.im.numpy(), region.growth.numpy().T
    figure, ax = _canvas(6.4, 5.0)
    ax.axhline(0, color=MUTED, lw=0.6)
    ax.axvline(0, color=MUTED, lw=0.6)
    levels = np.minimum(np.nan_to_num(growth, nan=10.0), 10.0)
    if levels.min() <= 1.0 + 1e-6:
        ax.contourf(re, im, levels, levels=[-1.0, 1.0 + 1e-6], colors=[SHADE])
        if levels.max() > 1.0 + 1e-6:
            ax.contour(re, im, levels, levels=[1.0 + 1e-6], colors=[BLUE], linewidths=1.2)
    layer, x, y, outside, grows = (np.array([row[i] for row in table.rows]) for i in (0, 2, 3, 5, 6))
    dots = ax.scatter(x, y, c=layer, cmap="viridis", s=9, lw=0, zorder=3, rasterized=True)
    bad = outside == 1
    ax.scatter(x[bad], y[bad], s=20, facecolors="none", edgecolors=RED, lw=0.5, zorder=4, rasterized=True)
    ax.set(xlabel="Re hλ", ylabel="Im hλ", xlim=(re[0], re[-1]), ylim=(im[0], im[-1]))
    ax.set_aspect("equal", adjustable="box")
    ax.set_title(f"Eigenvalues hλ over the stability region of {integrator}", pad=18)
    note = f"{_percent(outside)} outside by the step size (ringed red), {_percent(grows)} grow in the exact flow"
    ax.text(0.0, 1.015, note, transform=ax.transAxes, fontsize=8.5, color=MUTED)
    bar = figure.colorbar(dots, ax=ax, label="layer", fraction=0.04, pad=0.02)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.solids.set_alpha(1.0)  # type: ignore[union-attr]
    return figure


def stability(integrator: Any, points: int = 401) -> Figure:
    """The stability region of a method, or |amplification| along the imaginary axis of one for oscillators.

    Methods of two parts are drawn in z of the explicit (or nonlinear) part, for several fixed z of the other one.
    Raises BadInput where a method has no test equation.
    """
    from .. import integrators
    from .region import TEST_EQUATIONS, family

    method = integrators.resolve(integrator)
    kind, name = family(method), method.name or type(method).__name__
    if kind in ("own steps", "varying"):
        raise BadInput(f"{name} has no stability region: test equation {TEST_EQUATIONS[kind]}.")
    with matplotlib.rc_context(_STYLE):
        if kind == "oscillator":
            return _oscillator(method, name)
        return _parts(method, name, points) if kind == "parted" else _plane(method, name, points)


def _plane(method: Any, name: str, points: int) -> Figure:
    from .region import stability_region, window

    region = stability_region(method, window(method), points)
    re, im, growth = region.re.numpy(), region.im.numpy(), _clipped(region)
    figure, ax = _complex_plane(re, im)
    ax.contourf(re, im, growth, levels=[-1.0, 1.0 + 1e-6], colors=[SHADE])
    inner = ax.contour(re, im, growth, levels=[0.1, 0.5], colors=[MUTED], linewidths=0.7, linestyles="--")
    ax.clabel(inner, fmt="%g", fontsize=7)
    if growth.max() > 1.0 + 1e-6:
        ax.contour(re, im, growth, levels=[1.0 + 1e-6], colors=[BLUE], linewidths=1.6)
    reach = method.facts.imag_interval
    if reach and not bool((growth[:, np.abs(re) > 1e-9] <= 1.0 + 1e-6).any()):  # nothing but a piece of the axis
        ax.plot([0, 0], [-reach, reach], color=BLUE, lw=3.5, solid_capstyle="butt")
    ax.set_title(f"Stability region of {name}", pad=18)
    _note(ax, "shaded: |amplification(z)| ≤ 1 for y′ = λy, z = hλ; dashed: 0.5 and 0.1")
    return figure


def _complex_plane(re: np.ndarray, im: np.ndarray) -> tuple[Figure, Axes]:
    width = 5.6
    height = min(max(width * (im[-1] - im[0]) / (re[-1] - re[0]), 3.2), 7.0)
    figure, ax = _canvas(width + 0.6, height + 0.9)
    ax.set_axisbelow(True)
    ax.grid(color="#e4e7eb", lw=0.6)
    ax.axhline(0, color=INK, lw=0.7)
    ax.axvline(0, color=INK, lw=0.7)
    ax.set(xlabel="Re z", ylabel="Im z", xlim=(re[0], re[-1]), ylim=(im[0], im[-1]))
    ax.set_aspect("equal", adjustable="box")
    return figure, ax


def _note(ax: Axes, text: str) -> None:
    ax.text(0.0, 1.015, text, transform=ax.transAxes, fontsize=8.5, color=MUTED)


def _parts(method: Any, name: str, points: int) -> Figure:
    from .region import stability_region, window

    left, right, low, high = window(method, z_implicit=0.0)
    box = (1.5 * left, right - 0.4 * left, 1.6 * low, 1.6 * high)
    found = [stability_region(method, box, points, z_implicit=w) for w in _FIXED]
    re, im = found[0].re.numpy(), found[0].im.numpy()
    figure, ax = _complex_plane(re, im)
    ax.contourf(re, im, _clipped(found[0]), levels=[-1.0, 1.0 + 1e-6], colors=[SHADE])
    tints = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(_FIXED)))
    for w, region, tint in zip(_FIXED, found, tints):
        growth = _clipped(region)
        inside = " everywhere here" if growth.max() <= 1.0 else ""
        if growth.min() <= 1.0 < growth.max():
            ax.contour(re, im, growth, levels=[1.0 + 1e-6], colors=[tint], linewidths=1.4)
        ax.plot([], [], color=tint, lw=1.4, label=f"{w:g}{inside}")
    part = "linear" if "linear" in method.needs else "implicit"
    title = f"hμ of the {part} part"
    figure.legend(title=title, fontsize=8, title_fontsize=8, loc="outside lower center", ncols=3)
    ax.set_title(f"Stability of {name}", pad=18)
    _note(ax, f"inside each curve |amplification| ≤ 1 for y′ = λy + μy, z = hλ, {part} μ")
    return figure


_FIXED = (0.0, -1.0, -3.0, -10.0, -100.0)


def _clipped(region: Region) -> np.ndarray:
    """Growth with axes (Im, Re), without what is too large to draw."""
    return np.minimum(np.nan_to_num(region.growth.numpy().T, nan=10.0), 10.0)


def _oscillator(method: Any, name: str) -> Figure:
    import torch

    limit = method.facts.imag_interval or 0.0
    x = torch.linspace(0.0, min(max(1.6 * limit, 1.0), 12.0), 1201, dtype=torch.float64)
    growth = method.amplification(x * 1j).abs().numpy()
    figure, ax = _canvas(6.2, 3.8)
    ax.axvspan(0.0, limit, color=SHADE, lw=0)
    ax.plot(x, growth, color=BLUE, lw=1.8)
    ax.axhline(1.0, color=INK, lw=0.7)
    ax.axvline(limit, color=BLUE, lw=0.8, ls="--")
    beside: Any = {"xytext": (-5, -12), "textcoords": "offset points", "ha": "right"}
    ax.annotate(f"hω = {limit:.4g}", (limit, 1.0), xycoords=("data", "axes fraction"), color=BLUE, fontsize=9, **beside)
    ax.grid(color="#e4e7eb", lw=0.6)
    ax.set(xlabel="hω", ylabel="|amplification(i hω)|", xlim=(0, float(x[-1])))
    ax.set_ylim(min(0.5, float(growth.min()) - 0.1), min(float(growth.max()) + 0.2, 6.0))
    ax.set_title(f"Stability of {name} on the oscillator", pad=18)
    _note(ax, "shaded: no growth for q″ = −ω²q")
    return figure


def _percent(flags: np.ndarray) -> str:
    share = 100 * flags.mean()
    return "none" if share == 0 else "under 1 %" if share < 1 else f"{share:.0f} %"


def layer_curves(table: Table) -> Figure:
    """|dy_N/dy_j| and the growth of perturbations of y_0 against depth, on a logarithmic axis."""
    from .verdict import BOUNDED, VANISHING

    at = {name: i for i, name in enumerate(table.columns)}

    def column(name: str) -> np.ndarray:
        return np.array([row[at[name]] for row in table.rows], dtype=float).clip(1e-300, 1e300)

    j = column("layer") if len(table.rows) > 1 else np.array([0.0])
    figure, ax = _canvas(6.4, 4.0)
    ax.fill_between(j, column("sensitivity_min"), column("sensitivity_max"), color=BLUE, alpha=0.18, lw=0)
    ax.plot(
        j,
        column("sensitivity_mean"),
        color=BLUE,
        lw=1.8,
        marker="o",
        ms=3,
        label=r"backward $\|\partial y_N/\partial y_j\|$, mean and range",
    )
    ax.plot(j, column("singular_min"), color=BLUE, lw=1.0, ls=":", label="its smallest singular value")
    ax.plot(
        j + 1,
        column("forward_max"),
        color=ORANGE,
        lw=1.8,
        marker="s",
        ms=3,
        label=r"forward $\|\partial y_j/\partial y_0\|$, largest",
    )
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    low, high = max(min(low, 0.5), 1e-8), min(max(high, 2.0), 1e12)
    for value, name in ((BOUNDED, "bounded"), (VANISHING, "vanishing")):
        if low / 3 < value < high * 3:
            ax.axhline(value, color=RED, lw=0.8, ls="--")
            ax.annotate(
                name,
                (1.0, value),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=RED,
                fontsize=8,
            )
            low, high = min(low, value / 1.5), max(high, value * 1.8)
    ax.set_ylim(low, high)
    ax.set(xlabel="layer j", ylabel="growth factor")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title("Sensitivity against depth")
    ax.grid(axis="y", color="#e4e7eb", lw=0.6)
    ax.legend(fontsize=8, loc="best")
    return figure


def exchange(table: Table, own: str) -> Figure:
    """Accuracy of the same weights under other integrators and more steps: a heat map with numbers."""
    values = np.array([[np.nan if v is None else v for v in row[1:]] for row in table.rows], dtype=float)
    names = [f"{row[0]} (own)" if row[0] == own else row[0] for row in table.rows]
    return heat_map(
        values,
        names,
        [f"{c[1:]} per layer" for c in table.columns[1:]],
        "Accuracy under another integrator",
        "steps",
    )


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], heading: str, xlabel: str) -> Figure:
    """A matrix of accuracies in per cent, written into its cells; nan is left blank."""
    figure, ax = _canvas(2.2 + 1.15 * len(columns), 1.5 + 0.5 * len(rows))
    edges = np.linspace(0.0, 1.0, 21)
    tints = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.03, 0.75, 20)))
    ax.imshow(np.ma.masked_invalid(values), cmap=tints, norm=BoundaryNorm(edges, 20), aspect="auto")
    for (i, k), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(k, i, f"{100 * value:.1f}", ha="center", va="center", color="white" if value > 0.7 else INK)
        else:
            ax.text(k, i, "–", ha="center", va="center", color=MUTED)
    for k in range(1, len(columns)):
        ax.axvline(k - 0.5, color="white", lw=2)
    for i in range(1, len(rows)):
        ax.axhline(i - 0.5, color="white", lw=2)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=xlabel)
    ax.set_title(f"{heading} (%)")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def noise(table: Table) -> Figure:
    """Accuracy against the relative size of noise on inputs and on weights."""
    level, of_input, of_weights = (100 * np.array([row[i] for row in table.rows], dtype=float) for i in range(3))
    figure, ax = _canvas(5.4, 3.6)
    ax.plot(level, of_input, color=BLUE, marker="o", lw=1.8, label="noise on inputs")
    ax.plot(level, of_weights, color=ORANGE, marker="s", lw=1.8, label="noise on weights")
    ax.set_xticks(level)
    ax.set(xlabel="relative noise (%)", ylabel="accuracy (%)", ylim=(0, 104))
    ax.set_title("Accuracy under noise")
    ax.grid(axis="y", color="#e4e7eb", lw=0.6)
    ax.legend(fontsize=9, loc="lower left")
    return figure


__all__: list[Any] = ["exchange", "figures", "heat_map", "layer_curves", "noise", "spectrum", "stability", "write"]
