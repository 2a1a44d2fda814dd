from __future__ import annotations

import csv
import html
import json
import math
import re
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t

import odenet as on
import stability_stub
from odenet.cli import main
from odenet.errors import BadInput, UnknownName
from odenet.experiment.store import Run
from odenet.experiment.suite.page import drawings, number, page, plain
from odenet.experiment.suite.plan import of_run, of_suite
from odenet.experiment.suite.plots import limits
from odenet.experiment.suite.results import StabilityResults
from odenet.experiment.suite.spec import Suite
from odenet.experiment.suite.summary import interval, overview
from odenet.stability.prediction import predict_failure

TINY: dict[str, Any] = {
    "data": "moons", "nets": ["resnet", "mlp"], "integrators": ["euler", "rk4"], "seeds": 2, "width": 4, "steps": 4,
    "train_steps": 6, "workers": 1,
}  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def visible(page: str) -> str:
    """The text of a page without its pictures and tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)))


# ---- seeds put together ---------------------------------------------------------------------------------------------


def test_an_interval_is_that_of_scipy() -> None:
    values = [0.91, 0.95, 0.97, 0.88, 0.93]
    found = interval(values)
    low, high = t.interval(0.95, 4, loc=np.mean(values), scale=np.std(values, ddof=1) / math.sqrt(5))
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12) and found.count == 5
    assert (found.median, found.least, found.most) == (0.93, 0.88, 0.97)


def test_equal_scores_are_known_no_better_than_to_one_sample() -> None:
    found = interval([0.9, 0.9, 0.9], resolution=0.01)
    low, high = t.interval(0.95, 2, loc=0.9, scale=0.01 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    row = {**stability_stub.results().cells["resnet/rk4"]["rows"][0], "accuracy": 0.9, "tested": 100}
    assert overview("resnet/rk4", [row, row, row]).metrics["test_accuracy"] == found


def test_numbers_that_are_not_finite_are_counted_and_left_out() -> None:
    found = interval([1.0, None, 3.0, math.inf])
    assert (found.mean, found.count, found.lost) == (2.0, 2, 2)
    assert interval([None, None]).mean is None and number(interval([None])) == "not finite"
    one = interval([0.5])
    assert (one.mean, one.low, one.high, number(one, "percent")) == (0.5, None, None, "50.0")


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ((0.9, 0.92, 0.94), "percent", "92.0 ± 5.0"),
        ((3.0, 3.4, 3.8), "", "3.40 ± 0.99"),
        ((12000.0, 14000.0, 16000.0), "", "14,000 ± 5,000"),
        ((0.25, 0.25), "", "0.250"),
        ((0.0, 0.2, 0.1), "spread", "0.100 (0 to 0.200)"),
        ((0.25, 0.25), "spread", "0.250"),
        ((), "", "–"),
    ],
)
def test_a_number_is_printed_to_the_digits_that_mean_something(values: tuple[float, ...], kind: str, text: str) -> None:
    assert number(interval(values), kind) == text


def test_very_large_and_very_small_numbers_are_short() -> None:
    assert [plain(x) for x in (0.0, 2.5e-9, 0.00123, 12.345, 1.5e7)] == ["0", "2.50e-09", "0.00123", "12.3", "1.50e+07"]


def test_the_verdict_is_that_of_most_seeds_and_the_others_are_named() -> None:
    cells = stability_stub.results().cells
    o = overview("parabolic/euler", cells["parabolic/euler"]["rows"])
    assert (o.word, o.standing, o.agreement, o.seeds, o.seed) == ("unstable", "indicated", 4, 5, 0)
    assert o.said.endswith("4 of 5 seeds agree; the numbers are those of seed 0. Otherwise: seed 4 measured stable.")
    assert o.remedy == "reduce h by 2.5 or use rk4" and o.flags["plateau"][1] == 2


def test_of_as_many_seeds_the_worse_verdict_counts() -> None:
    rows = stability_stub.results(seeds=2).cells["parabolic/euler"]["rows"]
    assert overview("parabolic/euler", rows[::-1]).word == "unstable"


def test_a_training_that_diverged_counts_as_unstable() -> None:
    rows = [{"net": "resnet", "integrator": "euler", "seed": 0, "parameters": 7, "accuracy": None, "status": "lost"}]
    o = overview("resnet/euler", rows)
    assert (o.word, o.agreement) == ("unstable", 1) and "training diverged" in o.sentence and "smaller" in o.remedy


def test_the_headline_says_which_are_stable_and_what_to_do_about_the_others() -> None:
    said = stability_stub.results().headline
    assert said[0] == "Stable: resnet/euler (measured, 5 of 5 seeds), mlp (measured, 5 of 5 seeds)."
    assert said[1] == "Unstable: parabolic/euler (indicated, 4 of 5 seeds)."
    assert said[2] == "What to do about parabolic/euler: reduce h by 2.5 or use rk4."
    assert re.fullmatch(r"Test accuracy from \d+\.\d % \(\S+\) to \d+\.\d % \(\S+\)\.", said[3])
    assert re.fullmatch(r"Mean accuracy under attack from .* %\ \(.*\)\.", said[4]) and "parabolic" not in said[4]
    assert "upper bound" in said[5] and "parabolic/euler" in said[5] and "1 of the trainings failed" in said[6]


def test_weights_that_rely_on_the_errors_of_their_steps_are_told_so() -> None:
    rows = [
        {**stability_stub.results().cells["resnet/euler"]["rows"][s], "swaps": [
            ["euler", 0.5, 0.1, 0.5 - 0.01 * s], ["euler", 1.0, 0.2, 0.9], ["rk4", 0.5, 0.1, 0.9], ["rk4", 1, 0.2, 0.1],
        ]}
        for s in range(3)
    ]  # fmt: skip
    o = overview("resnet/euler", rows)
    assert o.relies == pytest.approx(0.41) and "with h/2 they lose 41 points" in o.warning
    for row in rows:
        row["swaps"] = [["euler", 0.5, 0.1, 0.85], ["euler", 1.0, 0.2, 0.9]]
    assert overview("resnet/euler", rows).warning == ""


# ---- the page, from numbers that nobody measured --------------------------------------------------------------------


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stability_stub.results().save(tmp_path_factory.mktemp("stub"))


def test_the_page_needs_nothing_from_outside_and_is_small(stub: Path) -> None:
    text = (stub / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) > 12 and all(s.startswith(("data:", "#")) for s in sources)
    assert not re.search(r"@import|<script|<link(?! rel=\"icon\" href=\"data:)", text) and len(text) < 8e6
    inside = urllib.parse.unquote("".join(s for s in sources if s.startswith("data:image")))
    addresses = set(re.findall(r"https?://[^\s'\"<>)]*", inside + text.split("<body>")[1].split("<img")[0]))
    assert addresses == {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}  # names, which nobody opens
    assert set(re.findall(r"url\((.)", inside)) <= {"#"} and not re.search(r"href='(?!#|data:)", inside)


def test_the_table_shows_the_intervals_of_the_seeds(stub: Path) -> None:
    content = json.loads((stub / "results.json").read_text())
    shown = visible((stub / "report.html").read_text(encoding="utf-8"))
    for key in ("resnet/euler", "parabolic/euler", "mlp/-"):
        scores = np.array([row["accuracy"] for row in content["cells"][key]["rows"]])
        half = t.ppf(0.975, 4) * scores.std(ddof=1) / math.sqrt(5)
        assert f"{100 * scores.mean():.1f} ± {100 * half:.1f}" in shown
        rows = [row["tables"]["attacks"] for row in content["cells"][key]["rows"]]
        areas = np.array(
            [np.trapezoid([r[5] for r in a["rows"]], [r[0] for r in a["rows"]]) / a["rows"][-1][0] for a in rows]
        )
        half = t.ppf(0.975, 4) * areas.std(ddof=1) / math.sqrt(5)
        bound = "≤ " if key == "parabolic/euler" else ""
        assert f"{bound}{100 * areas.mean():.1f} ± {100 * half:.1f}" in shown


def test_the_page_says_what_gradients_hide_and_what_failed(stub: Path) -> None:
    shown = visible((stub / "report.html").read_text(encoding="utf-8"))
    assert "Robustness is an upper bound only." in shown
    assert "plateau: PGD lowers the margin by 0.1 at best, square by 3 (2 of 5 seeds)" in shown
    assert "hamiltonian/verlet the worker process died 2 times" in shown and "A note." in shown
    assert "This net has no flow" in shown and "(1 not finite)" in shown
    assert shown.index("Stable: resnet/euler") < shown.index("Verdicts") < shown.index("Side by side")


def test_every_figure_has_its_data_and_is_explained(stub: Path) -> None:
    text = (stub / "report.html").read_text(encoding="utf-8")
    figures = {p.stem for p in (stub / "figures").glob("*.svg")}
    assert figures == {p.stem for p in (stub / "figures").glob("*.csv")}
    of_each = {"eigenvalues", "accuracy_against_h", "sensitivity", "refinement", "robustness", "matrix", "ftle"}
    assert {f.removeprefix("resnet-euler-") for f in figures if f.startswith("resnet-euler")} == of_each
    assert {f for f in figures if f.startswith("mlp")} == {"mlp-robustness"}
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(captions) == len(figures) and all(len(c) > 80 for c in captions)
    assert all(f"figures/{f}.csv" in text for f in figures)


def test_the_data_of_the_curves_are_means_over_the_seeds(stub: Path) -> None:
    cells = json.loads((stub / "results.json").read_text())["cells"]
    rows = cells["resnet/euler"]["rows"]
    for line in read(stub / "figures" / "resnet-euler-accuracy_against_h.csv"):
        scores = [s[1] for row in rows for s in row["steps"] if s[0] == float(line["h"])]
        assert float(line["accuracy"]) == pytest.approx(np.mean(scores), rel=1e-12) and len(scores) == 5
        assert line["expected_to_fail"] == str(float(line["h"]) > 0.25)
    for line in read(stub / "figures" / "resnet-euler-matrix.csv"):
        found = [
            s[3] for row in cells[f"resnet/{line['trained']}"]["rows"] for s in row["swaps"]
            if (s[0], s[1]) == (line["tested"], float(line["factor"]))
        ]  # fmt: skip
        low, high = t.interval(0.95, 4, loc=np.mean(found), scale=np.std(found, ddof=1) / math.sqrt(5))
        assert [float(line[k]) for k in ("accuracy", "low", "high")] == pytest.approx([np.mean(found), low, high])
    watch = read(stub / "figures" / "resnet-euler-sensitivity.csv")
    given = cells["resnet/euler"]["first"]["watch"]["rows"]
    assert [float(line["sensitivity"]) for line in watch] == [v for row in given for v in row[1:]]


def test_the_drawn_limits_are_medians_and_the_first_step_that_is_expected_to_fail() -> None:
    rows = stability_stub.results().cells["resnet/euler"]["rows"]
    for row, h in zip(rows, (0.1, 0.3, 0.2, 0.0, 0.9)):
        row["metrics"] |= {"h_stable": h, "h_contractive": 0.0}
    assert [(name, h) for name, _, _, h in limits(rows)] == [
        ("limit from eigenvalues", 0.2), ("limit of the proof", 0.0), ("failure expected from here", 0.5),
    ]  # fmt: skip
    assert limits([{"net": "mlp", "metrics": {}}]) == []


def test_the_summary_file_holds_what_the_metrics_file_gives(stub: Path) -> None:
    of_seeds, of_nets = read(stub / "metrics.csv"), read(stub / "summary.csv")
    line = next(r for r in of_nets if (r["net"], r["metric"]) == ("resnet", "sensitivity_max"))
    values = [float(r["value"]) for r in of_seeds if (r["net"], r["metric"]) == ("resnet", "sensitivity_max")]
    low, high = t.interval(0.95, 4, loc=np.mean(values), scale=np.std(values, ddof=1) / math.sqrt(5))
    assert [float(line[k]) for k in ("mean", "low", "high")] == pytest.approx([np.mean(values), low, high])
    assert line["seeds"] == "5" and line["not_finite"] == "0"
    lost = next(r for r in of_nets if (r["net"], r["metric"]) == ("mlp", "henrici"))
    assert (lost["seeds"], lost["not_finite"]) == ("4", "1")


def test_saved_results_are_read_again_and_give_the_same_page(stub: Path, tmp_path: Path) -> None:
    again = StabilityResults.read(stub)
    assert again.to_dict() == stability_stub.results().to_dict()
    assert page(again, {}) == page(stability_stub.results(), {})
    drawn = drawings(again)["resnet/euler"]["Eigenvalues over the stability region"].render(("svg",))["svg"]
    assert drawn == (stub / "figures" / "resnet-euler-eigenvalues.svg").read_bytes()
    with pytest.raises(BadInput, match=r"results\.json is not a results file of the stability suite"):
        StabilityResults.read(tmp_path)


# ---- the numbers, from nets that were trained -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[StabilityResults, Path]:
    from odenet.experiment.suite.results import carry_out

    folder = tmp_path_factory.mktemp("tiny")
    torch.set_num_threads(1)
    found = carry_out(Suite.from_dict(TINY), None, folder, progress=False)
    return found, folder


def the_net(folder: Path) -> tuple[Any, Any, Any]:
    """The net of seed 0 as it was saved, and the test part that its numbers come from."""
    data = on.data.load("moons", seed=0)
    return on.load(folder / "nets" / "resnet-euler.safetensors").eval(), data.x_test, data.y_test


def test_the_metrics_are_those_of_a_report_of_the_saved_net(tiny: tuple[StabilityResults, Path]) -> None:
    found, folder = tiny
    net, x, y = the_net(folder)
    own = on.stability.report(net, x, y, integrators=["euler", "rk4"], attacks=(0.05, 0.1, 0.2, 0.4), points=4)
    row = found.cells["resnet/euler"]["rows"][0]
    assert row["metrics"] == {k: v if math.isfinite(v) else None for k, v in own.to_dict().items()}
    assert row["verdict"]["sentence"] == own.verdict.sentence
    assert json.loads((folder / "resnet-euler" / "report.json").read_text())["metrics"] == row["metrics"]


def test_the_drawn_eigenvalues_are_those_of_the_jacobian_of_the_field(tiny: tuple[StabilityResults, Path]) -> None:
    found, folder = tiny
    net, x, _ = the_net(folder)
    u = on.stability.unroll(
        net, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:4].sort().values]
    )
    rhs, h = u.layers[2].interval.rhs, u.layers[2].interval.h
    J = torch.autograd.functional.jacobian(lambda y: rhs(u.layers[2].interval.t, y[None])[0], u.states[2][0][1])
    z = np.sort_complex(np.round(h * np.linalg.eigvals(J.numpy()), 6))
    shown = [r[1] + 1j * r[2] for r in found.cells["resnet/euler"]["first"]["eigenvalues"] if r[0] == 2]
    assert np.sort_complex(np.round(shown[4:8], 6)) == pytest.approx(z, abs=3e-6)


def test_the_matrix_holds_what_exchanged_flows_score(tiny: tuple[StabilityResults, Path]) -> None:
    found, folder = tiny
    net, x, y = the_net(folder)
    swaps = {(i, f): s for i, f, _, s in found.cells["resnet/euler"]["rows"][0]["swaps"]}
    for scheme in ("euler", "rk4"):
        for factor, steps in ((0.5, 8), (1.0, 4)):
            twin = net.with_integrator(scheme, steps=steps).eval()
            assert swaps[scheme, factor] == pytest.approx(float((twin(x).argmax(1) == y).double().mean()))
    assert set(found.cells) == {"resnet/euler", "resnet/rk4", "mlp/-"} and found.reported == ["resnet/euler", "mlp/-"]


def test_the_expected_failures_are_those_of_the_prediction(tiny: tuple[StabilityResults, Path]) -> None:
    found, folder = tiny
    net, x, _ = the_net(folder)
    rows = found.cells["resnet/euler"]["rows"][0]["steps"]
    assert [r[0] for r in rows] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    flow = next(m for m in net.modules() if isinstance(m, on.Flow))
    own = predict_failure(flow, on.stability.unroll(net, x[:2]).states[0][0], (1, 2, 4))
    for h, growth, deviation, grows, lost in zip(own.h, own.growth, own.deviation, own.grows, own.lost):
        row = next(r for r in rows if r[0] == h)
        assert row[2:] == [pytest.approx(growth, rel=1e-9), pytest.approx(deviation, rel=1e-9), grows or lost]
    assert all(r[2:] == [None, None, None] for r in found.cells["resnet/euler"]["rows"][1]["steps"])


def test_the_heat_map_ends_with_the_sensitivity_of_the_trained_net(tiny: tuple[StabilityResults, Path]) -> None:
    found, folder = tiny
    net, x, _ = the_net(folder)
    s = on.stability.sensitivity(on.stability.unroll(net, x[:4]))
    last = found.cells["resnet/euler"]["first"]["watch"]["rows"][-1]
    assert last[0] == 6 and last[1:] == pytest.approx(s.backward.amax(1).tolist(), rel=1e-9)


def test_the_ftle_field_is_the_logarithm_of_the_largest_singular_value(tiny: tuple[StabilityResults, Path]) -> None:
    found, folder = tiny
    net, _, _ = the_net(folder)
    field, i, k = found.cells["resnet/euler"]["first"]["ftle"], 30, 50
    point = torch.tensor([[field["first"][i], field["second"][k]]], dtype=torch.float64)
    opening, flow = net.double().parts[0], next(m for m in net.modules() if isinstance(m, on.Flow))
    J = torch.autograd.functional.jacobian(lambda v: flow(opening(v))[0], point)[:, 0]
    assert field["values"][i][k] == pytest.approx(float(torch.linalg.svdvals(J)[0].log()), rel=1e-3)
    corners = torch.tensor([[[a, b] for b in field["second"]] for a in field["first"]])
    own = net.float()(corners.reshape(-1, 2)).argmax(1).reshape(81, 81)
    assert float((own == torch.tensor(field["classes"])).double().mean()) > 0.999 and 0 < int(own.sum()) < 81 * 81
    assert not torch.equal(own, own.T)


def test_a_net_without_flow_is_looked_at_as_far_as_it_goes(tiny: tuple[StabilityResults, Path]) -> None:
    row = tiny[0].cells["mlp/-"]["rows"][0]
    assert row["steps"] == [] and "sensitivity_max" in row["metrics"] and "refinement" not in row["tables"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(tiny: tuple[StabilityResults, Path]) -> None:
    def lasting(cells: Any) -> Any:
        return {
            k: {**c, "rows": [{a: b for a, b in r.items() if a != "seconds"} for r in c["rows"]]}
            for k, c in cells.items()
        }

    two = on.experiment.stability(Suite.from_dict(TINY | {"workers": 2}), progress=False)
    assert lasting(two.cells) == lasting(tiny[0].cells)


# ---- what is asked for ----------------------------------------------------------------------------------------------


def test_a_net_is_trained_under_every_integrator_that_admits_it() -> None:
    units, notes = of_suite(
        Suite(nets=("hamiltonian", "resnet/rk4", "lm_resnet", "mlp"), integrators=("euler", "verlet"))
    )
    assert [(u["key"], u["report"]) for u in units] == [
        ("hamiltonian/verlet", True), ("hamiltonian/euler", False), ("resnet/rk4", True), ("resnet/euler", False),
        ("lm_resnet/lm", True), ("mlp/-", True),
    ]  # fmt: skip
    assert units[0]["tested"] == ["verlet", "euler"] and not notes
    assert [m["seed"] for m in units[0]["members"]] == [0, 1, 2, 3, 4]


def test_two_integrators_of_a_net_share_the_rest_of_its_matrix() -> None:
    units, notes = of_suite(Suite(nets=("resnet/rk4", "resnet/euler"), integrators=("euler", "midpoint"), seeds=3))
    assert [(u["key"], u["report"]) for u in units] == [
        ("resnet/rk4", True), ("resnet/midpoint", False), ("resnet/euler", True),
    ]  # fmt: skip
    assert notes == ["Intervals are over 3 seeds; five or more tell more."]


def test_quick_is_smaller_where_nothing_was_said() -> None:
    quick = Suite(quick=True, steps=10).settled()
    assert (quick.seeds, quick.steps, quick.train_steps) == (3, 10, 100) and quick.nets == Suite().nets
    assert Suite.from_dict(quick.to_dict()) == quick


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"nets": ["resnt"]}, "did you mean 'resnet'"),
        ({"nets": "resnet"}, "nets is a list"),
        ({"integrators": ["rkf"]}, "no integrator is called 'rkf'"),
        ({"nets": ["resnet/verlet"]}, "'verlet' needs a separable field"),
        ({"nets": ["lm_resnet/rk4"]}, "is a scheme itself"),
        ({"seeds": 0}, "seeds is a positive whole number"),
        ({"lr": "big"}, "lr is a number"),
        ({"span": True}, "span is a number"),
        ({"wdith": 3}, "a stability suite has no entry 'wdith'"),
        ({"data": "diigts"}, "did you mean 'digits'"),
        ({"nets": ["lstm"]}, "takes a sequence"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(words: dict[str, Any], said: str) -> None:
    with pytest.raises((BadInput, UnknownName, on.errors.OdenetError), match=said):
        on.experiment.stability(**words)


def test_the_command_writes_a_folder_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("odenet.experiment.suite.page.drawings", lambda results: {})
    words = [
        "stability", "--nets", "resnet", "--data", "moons", "--seeds", "1", "--width", "4", "--steps", "2",
        "--integrators", "euler", "--train-steps", "2", "--workers", "1", "--name", "s",
    ]  # fmt: skip
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert (
        "resnet/euler: " in out and "1 seeds; five or more" not in out and out.rstrip().endswith("runs/s/report.html")
    )
    assert "[1/1]" in err and "Intervals are over 1 seed; five or more tell more." in out
    page = visible((tmp_path / "runs" / "s" / "report.html").read_text(encoding="utf-8"))
    assert "odenet stability --nets resnet --data moons --integrators euler --seeds 1 --width 4 --steps 2" in page
    assert main(words) == 2 and "runs/s exists already and is left as it is" in capsys.readouterr().err
    assert main(["stability", "runs/s"]) == 2 and "runs/s is not a run folder" in capsys.readouterr().err


def test_a_run_brings_its_own_data_and_nets(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(on.experiment.Experiment().to_json())
    with pytest.raises(BadInput, match="seeds is that of the run here"):
        on.experiment.stability(seeds=7, run=tmp_path)
    with pytest.raises(BadInput, match="has finished no nets"):
        on.experiment.stability(run=tmp_path)


def test_the_nets_of_a_run_keep_the_rate_and_span_that_were_chosen_for_each_seed(tmp_path: Path) -> None:
    asked = on.experiment.Experiment(nets=("resnet", "mlp"), integrators=("rk4",), seeds=2, data="moons", steps=6)
    (tmp_path / "spec.json").write_text(asked.to_json())
    lines = [
        {"key": "resnet/rk4", "rows": [{"seed": 0, "lr": 0.02, "span": 4.0}, {"seed": 1, "lr": 0.005, "span": 1.0}]},
        {"key": "mlp/-", "rows": [{"seed": 0, "lr": 0.02, "span": None}, {"seed": 1, "lr": 0.02, "span": None}]},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    suite, units, _ = of_run(Run.open(tmp_path), Suite(integrators=("euler", "verlet")))
    assert (suite.nets, suite.data, suite.seeds, suite.steps) == (("resnet/rk4", "mlp"), "moons", 2, 6)
    assert [(u["key"], u["report"]) for u in units] == [("resnet/rk4", True), ("resnet/euler", False), ("mlp/-", True)]
    chosen = [{"seed": 0, "lr": 0.02, "span": 4.0}, {"seed": 1, "lr": 0.005, "span": 1.0}]
    assert units[0]["members"] == units[1]["members"] == chosen and units[2]["members"][0]["span"] == 1.0


def test_a_suite_and_its_words_are_not_given_together() -> None:
    with pytest.raises(BadInput, match="takes a Suite or its fields"):
        on.experiment.stability(Suite(), seeds=3)
