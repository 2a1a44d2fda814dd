"""Figures of a solved problem: solution, error, residual, slices, convergence; each with its data as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .solution import Solution

INK, MUTED = "#1f2933", "#7b8794"
COLOURS = ("#2f6db5", "#d9822b", "#3a8f5c", "#7a5bb0", "#c23030")
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "legend.fontsize": 9, "svg.hashsalt": "odenet",
}  # fmt: skip
GRID = 161  # points an axis


def save(sol: Solution, folder: str | Path) -> list[Path]:
    """All figures that the problem's dimension allows, as PNG files with a CSV of what they show."""
    where, drawn = Path(folder), []
    makers: dict[str, Callable[[Solution], tuple[Figure, list[str], Any]] | None] = {
        "solution": {1: curves, 2: maps}.get(sol.problem.dim),
        "slices": slices if sol.problem.dim == 2 else None,
        "convergence": convergence if len(sol.history) > 1 else None,
    }
    with matplotlib.rc_context(STYLE):
        for name, make in makers.items():
            if make is None:
                continue
            figure, columns, rows = make(sol)
            path = where / f"{name}.png"
            figure.savefig(path, dpi=150)
            with (where / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(rows)
            drawn.append(path)
    return drawn


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _title(sol: Solution) -> str:
    error = f", rel. L2 error {sol.rel_l2:.1e}" if sol.rel_l2 is not None else f", residual {sol.residual:.1e}"
    return f"{(sol.problem.name or 'solution').replace('_', ' ')} by {sol.method}{error}"


def curves(sol: Solution) -> tuple[Figure, list[str], Any]:
    """Solutions of one coordinate, with the truth dashed where there is one."""
    (name,), names = sol.problem.frame.coordinates, sol.problem.unknowns
    low, high = sol.problem.domain.bounds[:, 0].tolist()
    x = torch.linspace(low, high, 801, dtype=torch.float64)[:, None]
    u, truth = sol.u(x), sol.problem.truth(x)
    figure = _figure(7, 4)
    ax = figure.add_subplot()
    for j, unknown in enumerate(names):
        ax.plot(x[:, 0], u[:, j], color=COLOURS[j % 5], label=unknown)
        if truth is not None:
            ax.plot(x[:, 0], truth[:, j], "--", color=INK, lw=1, label="truth" if j == 0 else None)
    ax.set(xlabel=name, ylabel=", ".join(names), title=_title(sol))
    ax.legend()
    return figure, [name, *names], torch.cat([x, u], 1).tolist()


def _lattice(sol: Solution) -> tuple[np.ndarray, np.ndarray, torch.Tensor, np.ndarray]:
    low, high = sol.problem.domain.bounds
    axes = [np.linspace(float(a), float(b), GRID) for a, b in zip(low, high)]
    first, second = np.meshgrid(*axes, indexing="ij")
    points = torch.tensor(np.stack([first.ravel(), second.ravel()], 1))
    inside = sol.problem.domain.inside(points).numpy()
    slack = 1e-9 * (high - low)
    edge = ((points <= low + slack) | (points >= high - slack)).any(1).numpy()
    return (
        first,
        second,
        points,
        inside | (edge & (sol.problem.domain.inside(points * (1 - 1e-9)).numpy() | inside.all())),
    )


def maps(sol: Solution) -> tuple[Figure, list[str], Any]:
    """The unknowns on the plane of both coordinates, and their errors where there is a truth."""
    names, (a, b) = sol.problem.unknowns, sol.problem.frame.coordinates
    flip = b == "t"  # time runs to the right
    first, second, points, inside = _lattice(sol)
    u, truth = sol.u(points), sol.problem.truth(points)
    panels: list[tuple[str, torch.Tensor, str | None]] = [(n, u[:, j], None) for j, n in enumerate(names)]
    if truth is not None:
        stated = [j for j in range(len(names)) if not truth[:, j].isnan().all()]
        panels += [(f"|{names[j]} - truth|", (u - truth)[:, j].abs(), "error") for j in stated]
    rows = 2 if truth is not None else 1
    figure = _figure(max(6.0, 5.2 * len(names)), 3.4 * rows + 0.4)
    for k, (label, values, kind) in enumerate(panels):
        ax = figure.add_subplot(rows, len(names), k + 1)
        grid = np.where(inside, values.numpy(), np.nan).reshape(first.shape)
        x, y = (second, first) if flip else (first, second)
        largest = float(np.nanmax(np.abs(grid))) or 1.0
        signed = kind is None and np.nanmin(grid) < -1e-3 * largest
        words = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest} if signed else {"cmap": "viridis"}
        drawn = ax.pcolormesh(x, y, grid, shading="gouraud" if inside.all() else "nearest", rasterized=True, **words)
        figure.colorbar(drawn, ax=ax, format="%.1e" if kind else None)
        ax.set(xlabel=b if flip else a, ylabel=a if flip else b, title=label)
    figure.suptitle(_title(sol), x=0.01, ha="left", fontsize=11)
    table = torch.cat([points, u] + ([] if truth is None else [truth]), 1)[torch.tensor(inside)]
    return figure, [a, b, *names, *([] if truth is None else [f"{n}_truth" for n in names])], table.tolist()


def slices(sol: Solution) -> tuple[Figure, list[str], Any]:
    """The unknowns along the first coordinate at five values of the second, the truth dashed."""
    names, (a, b) = sol.problem.unknowns, sol.problem.frame.coordinates
    low, high = sol.problem.domain.bounds
    x = torch.linspace(float(low[0]), float(high[0]), 401, dtype=torch.float64)
    cuts = [
        float(low[1] + (high[1] - low[1]) * s)
        for s in ((0, 0.25, 0.5, 0.75, 1) if b == "t" else (0.1, 0.3, 0.5, 0.7, 0.9))
    ]
    figure = _figure(max(7.0, 5.2 * len(names)), 3.8)
    rows: list[Sequence[float]] = []
    grids = [torch.stack([x, torch.full_like(x, cut)], 1) for cut in cuts]
    solved = [sol.u(g) for g in grids]
    true = [sol.problem.truth(g) for g in grids]
    for j, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), j + 1)
        for k, (cut, u, truth) in enumerate(zip(cuts, solved, true)):
            inside = sol.problem.domain.inside(grids[k]).numpy()
            shown = np.where(inside | (b == "t"), u[:, j].numpy(), np.nan)
            ax.plot(x, shown, color=COLOURS[k], label=f"{b} = {cut:.3g}")
            if truth is not None:
                ax.plot(x, np.where(np.isnan(shown), np.nan, truth[:, j].numpy()), "--", color=INK, lw=0.8)
            rows += [] if j else torch.cat([grids[k], u], 1).tolist()
        ax.set(xlabel=a, ylabel=name)
        ax.legend(fontsize=8)
    dashed = " (dashed: truth)" if true[0] is not None else ""
    figure.suptitle(_title(sol) + dashed, x=0.01, ha="left", fontsize=11)
    return figure, [a, b, *names], rows


def convergence(sol: Solution) -> tuple[Figure, list[str], Any]:
    """Loss, held-out residual and error against seconds."""
    figure = _figure(7, 4)
    ax = figure.add_subplot()
    columns = ["seconds", "loss", "residual", "rel_l2"]
    labels = {"loss": "training loss", "residual": "held-out residual", "rel_l2": "rel. L2 error"}
    for colour, key in zip((MUTED, COLOURS[1], COLOURS[0]), columns[1:]):
        seen = [(h["seconds"], h[key]) for h in sol.history if h.get(key, 0) > 0]
        if seen:
            ax.plot(*zip(*seen), color=colour, label=labels[key], marker="o" if len(seen) < 40 else None, ms=3)
    ax.set(xlabel="seconds", yscale="log", title=_title(sol))
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    ax.legend()
    return figure, columns, [[h.get(c, "") for c in columns] for h in sol.history]
