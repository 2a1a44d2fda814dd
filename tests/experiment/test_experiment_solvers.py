"""The work-precision runner against hand-written loops, scipy's own counts and problems that must fail."""

from __future__ import annotations

import csv
import io
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import odenet
from odenet.errors import BadInput, UnknownName
from odenet.experiment import plots
from odenet.experiment.solvers import COLUMNS, Run, WorkPrecision, work_precision
from odenet.fields.testset import InitialValueProblem
from odenet.integrators import external

DECAY = InitialValueProblem(
    name="decay", f=lambda t, y: -0.5 * y**3, y0=(1.0,), t1=20.0, reference=(1 / math.sqrt(21),), cite="", doc=""
)
STIFF = InitialValueProblem(
    name="stiff", f=lambda t, y: -1e5 * (y - math.cos(float(t))), y0=(2.0,), t1=10.0, reference=(math.cos(10.0),),
    stiff=True, cite="", doc="",
)  # fmt: skip


def by_scipy(f: Any, y0: Tensor, t0: float, t1: float, rtol: float, atol: float) -> Tensor:
    """A peer as users may give it."""
    found = solve_ivp(
        lambda t, y: f(t, torch.from_numpy(y)).numpy(), (t0, t1), y0.numpy(), rtol=rtol, atol=atol, method="RK45"
    )
    return torch.from_numpy(found.y[:, -1])


def gives_up(f: Any, *_: Any) -> Tensor:
    raise RuntimeError("no step is small enough")


def never_ends(f: Any, y0: Tensor, t0: float, *_: Any) -> Tensor:
    while True:
        f(t0, y0)


def small(
    problem: InitialValueProblem = DECAY, methods: tuple[str, ...] = ("dopri5", "rk4"), **more: Any
) -> WorkPrecision:
    given: dict[str, Any] = dict(tolerances=[1e-4, 1e-8], steps=[20, 40], peers=False, repeats=1)
    return work_precision([problem], methods, **(given | more))


def test_adaptive_methods_are_run_at_tolerances_and_the_others_with_steps() -> None:
    found = small()
    assert [(r.method, r.kind, r.setting) for r in found.runs] == [
        ("dopri5", "tolerance", 1e-4), ("dopri5", "tolerance", 1e-8), ("rk4", "steps", 20), ("rk4", "steps", 40),
    ]  # fmt: skip
    assert [r.status for r in found.runs] == ["success", "success", "completed", "completed"]
    assert found.problems == ["decay"] and all(r.seconds > 0 for r in found.runs)


def test_the_error_and_the_evaluations_are_those_of_a_loop_written_by_hand() -> None:
    run = next(r for r in small().runs if r.setting == 40)
    y, h, calls = 1.0, 0.5, 0

    def f(value: float) -> float:
        nonlocal calls
        calls += 1
        return -0.5 * value**3

    for _ in range(40):
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + h / 2 * k2)
        y += h / 6 * (k1 + 2 * k2 + 2 * k3 + f(y + h * k3))
    exact = 1 / math.sqrt(21)
    assert run.error == pytest.approx(abs(y - exact) / (exact + 1), rel=1e-9)
    assert calls <= run.nfe <= calls + 45  # one more for each step, where the step is watched


def test_a_tighter_tolerance_gives_a_smaller_error_for_more_evaluations() -> None:
    loose, tight = small(methods=("dopri5",)).runs
    assert loose.error is not None and tight.error is not None
    assert tight.error < 1e-2 * loose.error and tight.nfe > loose.nfe


def test_a_peer_is_counted_by_the_calls_that_it_makes() -> None:
    run = small(methods=(), peers={"scipy:RK45": by_scipy}).runs[1]
    expected = solve_ivp(lambda t, y: -0.5 * y**3, (0, 20), [1.0], method="RK45", rtol=1e-8, atol=1e-8)
    assert run.status == "success" and run.nfe == expected.nfev
    assert run.error == pytest.approx(DECAY.error(torch.from_numpy(expected.y[:, -1])), rel=1e-6)


def test_what_fails_is_a_row_with_a_status() -> None:
    peers = {"raises": gives_up, "loops": never_ends}
    found = small(STIFF, ("dopri5", "rk4", "verlet"), tolerances=[1e-6], steps=[20], max_steps=30, peers=peers,
                  seconds=0.5)  # fmt: skip
    status = {r.method: r.status for r in found.runs}
    assert status == {"dopri5": "max_steps", "rk4": "non_finite", "verlet": "refused", "raises": "failed",
                      "loops": status["loops"]}  # fmt: skip
    assert status["loops"] in ("time_budget", "max_steps")
    assert all(r.error is None for r in found.runs)
    messages = {r.method: r.message for r in found.runs}
    assert "no step is small enough" in messages["raises"] and "separable" in messages["verlet"]
    assert all(r.method in found.table() for r in found.runs)


def test_a_suspect_run_is_a_row_without_a_warning() -> None:
    (run,) = small(methods=("euler",), steps=[3]).runs
    assert run.status in ("suspect", "completed") and run.error is not None and run.error > 0.1


def test_the_median_of_the_repeats_is_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import odenet.experiment.solvers as module

    ticks = iter([0.0, 0.3, 1.0, 1.1, 2.0, 2.2])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    run = module._measured(DECAY, "mine", "steps", 1, 3, 20.0, lambda _: module._Outcome(None, "non_finite", 0))
    assert run.seconds == pytest.approx(0.3)  # a failure is not repeated
    ticks = iter([0.0, 0.3, 1.0, 1.1, 2.0, 2.2])
    y = torch.tensor(DECAY.reference)
    run = module._measured(DECAY, "mine", "steps", 1, 3, 20.0, lambda _: module._Outcome(y, "success", 0))
    assert run.seconds == pytest.approx(0.2)


def test_progress_is_told_of_each_run() -> None:
    seen: list[Run] = []
    found = small(progress=seen.append)
    assert tuple(seen) == found.runs


def test_csv_and_json_hold_every_run_and_where_it_was_made() -> None:
    found = small()
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 4
    assert [float(r["error"]) for r in rows] == [r.error for r in found.runs]
    told = json.loads(found.json())
    assert told["runs"][3]["setting"] == 40 and told["runs"][3]["method"] == "rk4"
    assert told["versions"]["torch"] == torch.__version__ and told["versions"]["odenet"] == odenet.__version__
    assert told["threads"] == 1 and told["date"] and told["processor"] and "floor" in told["measure"]


def test_save_writes_tables_and_a_figure_for_each_problem(tmp_path: Path) -> None:
    found = small(methods=("rk4",), steps=[20])
    assert found.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    names = {p.name for p in (tmp_path / "new" / "folder").iterdir()}
    figures = {f"work_precision_decay.{kind}" for kind in ("png", "svg", "pdf", "csv")}
    assert names == {"work_precision.csv", "work_precision.json", "work_precision.txt"} | figures


def test_a_figure_shows_each_method_in_both_panels_and_peers_dashed() -> None:
    rows = [
        {"problem": "p", "method": m, "error": e, "nfe": n, "seconds": 0.1 * n, "kind": "tolerance", "setting": 0.1,
         "status": "success" if e else "time_budget"}
        for m, e, n in (("a", 1e-3, 10), ("a", 1e-6, 20), ("lib:b", 1e-2, 5), ("c", None, 7), ("d", 1e250, 3))
    ]  # fmt: skip
    canvas = plots.work_precision("p", rows).draw()
    for ax, measure in zip(canvas.axes, ("nfe", "seconds")):
        lines = {line.get_label(): line for line in ax.get_lines() if line.get_label() != "_lost"}
        assert list(lines) == ["a", "lib:b", "c (time budget)", "d (errors > 100)"]
        assert list(lines["a"].get_xdata()) == [r[measure] for r in rows[:2]]
        assert list(lines["a"].get_ydata()) == [1e-3, 1e-6]
        assert (lines["a"].get_linestyle(), lines["lib:b"].get_linestyle()) == ("-", "--")
        assert ax.get_xscale() == ax.get_yscale() == "log"
        assert lines["a"].get_color() != lines["lib:b"].get_color()
        assert lines["a"].get_marker() != lines["lib:b"].get_marker()
        crosses = [list(line.get_xdata()) for line in ax.get_lines() if line.get_label() == "_lost"]
        assert crosses == [[], [], [0.1 * 7 if measure == "seconds" else 7], [0.1 * 3 if measure == "seconds" else 3]]


@pytest.mark.parametrize("reach", [3.0, 30.0, 1e4])
def test_the_labels_of_the_axes_do_not_overlap_and_are_two_or_more(reach: float) -> None:
    rows = [
        {"problem": "p", "method": "a", "error": 1 / n**2, "nfe": 400 * n, "seconds": 0.2 * n, "kind": "tolerance",
         "setting": 0.1, "status": "success"}
        for n in (1.0, reach)
    ]  # fmt: skip
    canvas = plots.work_precision("p", rows).draw()
    canvas.canvas.draw()
    for ax in canvas.axes:
        low, high = ax.get_xlim()
        ticks = [*ax.xaxis.get_major_ticks(), *ax.xaxis.get_minor_ticks()]
        shown = [t.label1 for t in ticks if t.label1.get_text() and low <= t.get_loc() <= high]
        boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
        assert len(boxes) >= 2 and all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_a_figure_of_nothing_but_failures_can_be_drawn() -> None:
    row = {"problem": "p", "method": "a", "error": None, "nfe": 1, "seconds": 1.0, "kind": "steps", "setting": 1.0,
           "status": "non_finite"}  # fmt: skip
    assert plots.work_precision("p", [row]).render(("png",))["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ((["no_such"], ["rk4"]), UnknownName, "no_such"),
    ((["a1"], ["no_such"]), UnknownName, "no_such"),
    (([], ["rk4"]), BadInput, "needs problems"),
])  # fmt: skip
def test_names_that_do_not_exist_are_refused(arguments: tuple[Any, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        work_precision(*arguments, peers=False)


def test_peers_and_problems_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(UnknownName, match="no_such_library"):
        small(peers=["no_such_library"])
    unknown = InitialValueProblem(name="open", f=lambda t, y: y, y0=(1.0,), t1=1.0, cite="", doc="")
    with pytest.raises(BadInput, match="open has no reference"):
        small(unknown)


@pytest.mark.skipif(not hasattr(external, "peers"), reason="no other library's solvers are listed")
@pytest.mark.slow
def test_every_installed_peer_reaches_a_known_solution() -> None:
    found = small(methods=(), tolerances=[1e-8], peers=True)
    assert {"scipy:DOP853", "scipy:Radau", "torchdiffeq:dopri5"} <= {r.method for r in found.runs}
    for run in found.runs:
        assert run.status == "success" and run.error is not None and run.error < 1e-5, run
