"""The bench of PDE methods: its rows and tables, and that DeepXDE is set the same problems as our methods are."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odenet import pde
from odenet.cli import main
from odenet.errors import BadInput, Incompatible
from odenet.experiment import bench_pde as bench
from odenet.experiment import deepxde_peer as peer
from odenet.experiment.bench_pde import Row, Task
from odenet.experiment.classical import collocated
from odenet.experiment.deepxde_problems import STATEMENTS, Setting
from odenet.fields import jets
from odenet.pde.collocation import Block, blocks

ASKED = [
    *((t.problem, dict(t.arguments)) for t in {t.title: t for t in bench.TABLE}.values() if t.problem in STATEMENTS),
    ("helmholtz", {}),
]
NAMES = [f"{name} {arguments}" for name, arguments in ASKED]


class Grad:
    """`deepxde.grad` by autograd alone."""

    @staticmethod
    def jacobian(ys: Tensor, xs: Tensor, i: int = 0, j: int = 0) -> Tensor:
        return torch.autograd.grad(ys[:, i].sum(), xs, create_graph=True)[0][:, j : j + 1]

    @staticmethod
    def hessian(ys: Tensor, xs: Tensor, component: int = 0, i: int = 0, j: int = 0) -> Tensor:
        return Grad.jacobian(Grad.jacobian(ys, xs, component, i), xs, 0, j)


class Guess(nn.Module):
    """Any smooth function, through the features and the transform of a setting."""

    def __init__(self, dim: int, unknowns: int, setting: Setting = Setting()) -> None:  # noqa: B008 (it is frozen)
        super().__init__()
        self.setting = setting
        wide = dim if setting.features is None else setting.features[1]
        torch.manual_seed(3)
        self.inner = nn.Sequential(nn.Linear(wide, 9), nn.Tanh(), nn.Linear(9, unknowns)).double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x if self.setting.features is None else self.setting.features[0](x))
        return y if self.setting.transform is None else self.setting.transform(x, y)


def rows_of(problem: pde.Problem, block: Block, model: nn.Module) -> Tensor:
    """Our residuals (n, R) of a model at the points of a block."""
    parts = jets.jet(model, block.points, block.channels, backend="autograd")
    return block.residual(block.values(parts, problem.unknowns), {}).detach()


def of_problem(name: str, arguments: dict[str, Any]) -> tuple[pde.Problem, list[Block]]:
    problem = pde.get(name, **arguments)
    return problem, blocks(problem, 24, torch.Generator().manual_seed(5), "uniform")


@pytest.mark.parametrize(("name", "arguments"), ASKED, ids=NAMES)
def test_the_equations_set_to_deepxde_are_those_of_our_library(name: str, arguments: dict[str, Any]) -> None:
    problem, found = of_problem(name, arguments)
    equations = [b for b in found if b.name.startswith("equation")]
    model = Guess(problem.dim, len(problem.unknowns))
    x = equations[0].x.clone().requires_grad_()
    theirs = torch.cat(STATEMENTS[name](**arguments).residuals(Grad, x, model(x)), 1).detach()
    block = Block("all", tuple(r for b in equations for r in b.rows), x.detach())
    torch.testing.assert_close(theirs, rows_of(problem, block, model), rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("variant", ["stock", "tuned"])
@pytest.mark.parametrize(("name", "arguments"), ASKED, ids=NAMES)
def test_every_condition_is_met_by_construction_or_set_to_deepxde(
    name: str, arguments: dict[str, Any], variant: str
) -> None:
    problem, found = of_problem(name, arguments)
    setting: Setting = getattr(STATEMENTS[name](**arguments), variant)
    model = Guess(problem.dim, len(problem.unknowns), setting)
    for block in found:
        if block.name.startswith("equation"):
            continue
        rows, condition = rows_of(problem, block, model), block.source
        assert condition is not None
        if float(rows.abs().max()) < 1e-9:
            continue
        kind = {"dirichlet": "value", "initial": "rest" if condition.order else "initial"}.get(
            condition.kind, condition.kind
        )
        soft = [s for s in setting.soft if s.kind == kind]
        if kind == "periodic":
            assert {(s.component, s.order) for s in soft} == set(
                itertools.product(range(len(problem.unknowns)), range(condition.order + 1))
            )
        elif kind == "rest":
            assert len(soft) == 1
        else:
            component = problem.unknowns.index(condition.unknown or problem.unknowns[0])
            (one,) = (s for s in soft if s.component == component)
            assert one.f is not None
            gap = model(block.x)[:, component : component + 1] - one.f(*block.x.split(1, 1))
            torch.testing.assert_close(gap.detach(), rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "arguments"), ASKED, ids=NAMES)
def test_deepxde_is_given_our_domain(name: str, arguments: dict[str, Any]) -> None:
    statement, problem = STATEMENTS[name](**arguments), pde.get(name, **arguments)
    lower, upper = (list(side) for side in statement.box)
    if statement.corners:
        lower, upper = ([f(c[i] for c in statement.corners) for i in (0, 1)] for f in (min, max))
        x = torch.tensor(statement.corners, dtype=torch.float64)
        y = x.roll(-1, 0)
        area = float((x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]).sum().abs() / 2)
        assert area == pytest.approx(problem.domain.measure, rel=1e-12)
    if statement.final is not None:
        lower, upper = [*lower, 0.0], [*upper, statement.final]
    assert problem.domain.bounds.tolist() == [lower, upper]
    assert statement.unknowns == len(problem.unknowns)


# ---- rows and tables -------------------------------------------------------------------------------------------------

SMALL = (
    Task("poisson", {"dim": 2}, "random_features", 0.3, 1e-3),
    Task("poisson", {"dim": 10}, "random_features", 0.3, 1e-3),
)


def run_of(name: str, arguments: Any, seconds: float, seed: int, variant: str) -> dict[str, Any]:
    """A peer that is wrong by a half, or by a quarter once tuned."""
    error = 0.5 if variant == "stock" else 0.25
    return {
        "rel_l2": error, "seconds": seconds, "processor": seconds, "iterations": {"adam": 7}, "loss": 0.1, "threads": 1,
        "curve": [[0.1 * seconds, None], [0.2 * seconds, 1.05 * error], [seconds, error]], "settings": {"width": 20},
        "deepxde": "1.15.0", "broken": "",
    }  # fmt: skip


def test_a_run_saves_rows_and_tables_and_a_refusal_is_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "TABLE", SMALL)
    monkeypatch.setattr(peer, "installed", lambda: True)
    monkeypatch.setattr(peer, "run", run_of)
    done = bench.bench_pde(seeds=1, peers=True, name="small", out=tmp_path)
    found = json.loads((tmp_path / "small" / "rows.json").read_text())
    rows = {(r["problem"], r["method"]): r for r in found["rows"]}
    assert len(rows) == len(found["rows"]) == 6 and not done.stopped
    mine = rows["poisson(dim=2)", "random_features"]
    assert 0 < mine["error"] < 1e-3 and mine["curve"][-1] == [mine["seconds"], mine["error"]]
    refused = rows["poisson(dim=10)", "random_features"]
    assert refused["status"].startswith("refused: the method 'random_features' cannot solve poisson")
    assert refused["error"] is None
    theirs = rows["poisson(dim=2)", "deepxde tuned"]
    assert theirs["error"] == 0.25 and theirs["budget"] == 0.3 and theirs["curve"] == [[0.06, 0.2625], [0.3, 0.25]]
    assert theirs["settings"]["iterations"] == {"adam": 7} and theirs["settings"]["deepxde"] == "1.15.0"
    text = (tmp_path / "small" / "table.txt").read_text()
    assert "inf" in text and "theirs/ours" in text and text.strip() in done.text
    assert "[6/6]" in capsys.readouterr().err


def test_a_run_is_resumed_with_what_is_missing_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "TABLE", SMALL[:1])
    bench.bench_pde(seeds=1, name="small", out=tmp_path)
    first = json.loads((tmp_path / "small" / "rows.json").read_text())["rows"]
    done = bench.bench_pde(seeds=3, resume=True, workers=2, name="small", out=tmp_path)
    rows = json.loads((tmp_path / "small" / "rows.json").read_text())["rows"]
    assert rows[0] == first[0] and [r["seed"] for r in rows] == [0, 1, 2] and " 3\n" in done.text
    assert all(
        0 < r["error"] < 1e-3 for r in rows
    )  # seconds are a budget: how far a solve comes depends on the machine
    assert main(["bench", "pde", "--resume", "--name", "other", "--out", str(tmp_path)]) == 2
    assert "no bench to resume in" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.slow
def test_an_inverse_problem_is_scored_by_its_parameters_and_a_semilinear_one_by_its_value() -> None:
    row = bench._row(Task("inverse_heat", {"n": 50}, "trained", 2.0, 1e-2), 0, 1.0)
    assert row.error is not None and 0 < row.error < 0.5 and row.curve == [(row.seconds, row.error)]
    sol = pde.solve("inverse_heat", "gauss_newton", 2.0, steps=3, track=False)
    assert sol.rel_l2 != abs(sol.parameters["k"] / 0.25 - 1)
    row = bench._row(Task("hjb", {"dim": 4}, "deep_bsde", 1.0, 1e-2), 0, 1.0)
    assert row.error is not None and 0 < row.error < 1e-2


def test_a_peer_that_fails_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> dict[str, Any]:
        raise Incompatible("DeepXDE at heat failed: out of memory")

    monkeypatch.setattr(peer, "run", failing)
    row = bench._peer(Task("heat", {}, "deepxde stock", 20.0), 0, 0.1)
    assert (row.error, row.budget, row.status) == (None, 2.0, "refused: DeepXDE at heat failed: out of memory")


def test_peers_run_once_for_a_problem_and_seed_beside_its_tasks_with_the_largest_budget() -> None:
    tasks = [t for t in bench.TABLE if t.problem in ("heat", "ks_chaotic")]
    jobs = [(t.problem, t.method, t.seconds, seed) for t, seed in bench.planned(tasks, 2, True)]
    heat = [("heat", m, s) for m, s in [
        ("random_features", 1), ("trained", 20), ("deepxde stock", 20), ("deepxde tuned", 20)]]  # fmt: skip
    chaos = [("ks_chaotic", "random_features", 300, seed) for seed in (0, 1)]
    assert jobs == [(*row, seed) for seed in (0, 1) for row in heat] + chaos
    assert len(bench.planned(tasks, 2, False)) == 6


def row(method: str, seed: int, curve: list[tuple[float, float]], target: float | None = None) -> Row:
    t, e = curve[-1]
    return Row("burgers", method, seed, e, None, t, t, "budget", target, 60.0, {}, curve)


def test_the_comparison_is_of_pairs_of_equal_seed() -> None:
    rows = [
        row("trained", 0, [(1.0, 1e-1), (2.0, 1e-3), (60.0, 1e-5)], 1e-5),
        row("trained", 1, [(4.0, 1e-2), (60.0, 4e-5)], 1e-5),
        row("deepxde stock", 0, [(10.0, 1.0), (40.0, 1.05e-2), (60.0, 1e-2)]),
        row("deepxde stock", 1, [(30.0, 4e-2), (60.0, 2e-2)]),
        row("deepxde tuned", 0, [(60.0, 1e-6)]),
    ]
    _, stock, tuned = (line.split() for line in bench.beside(rows).splitlines())
    # ratios 1e3 and 5e2; ours after 2 and 4 s; theirs after 40 s (within ten per cent of the end) and 60 s
    assert stock == ["burgers", "trained", "deepxde", "stock", "750", "3", "50", "17.5", "2"]
    assert tuned == ["burgers", "trained", "deepxde", "tuned", "0.1", "-", "60", "-", "1"]
    lines = [line.split() for line in bench.table(rows).splitlines()]
    assert lines[1] == ["burgers", "trained", "2.50e-05", "4.00e-05", "1e-05", "no", "60.0", "60", "2"]
    assert lines[2] == ["burgers", "deepxde", "stock", "1.50e-02", "2.00e-02", "-", "-", "60.0", "60", "2"]


def test_an_error_that_is_no_number_counts_as_infinite() -> None:
    none, nan = row("trained", 0, [(1.0, math.nan)], 1e-3), Row("p", "m", 0, None, None, 1, 1, "refused", 1e-3, 1, {})
    assert none.ranked == nan.ranked == math.inf and none.reach(1.0) == nan.reach(1.0) == math.inf
    assert " no " in bench.table([none])


def test_a_classical_code_stands_beside_a_computed_reference_or_is_run_where_the_truth_is_a_formula() -> None:
    problems = ("heat", "poisson_lshape", "helmholtz(kind=4pi)", "poisson(dim=5)")
    found = {c.problem: c for c in bench.yardsticks([row("trained", 0, [(1.0, 1.0)]), *_of(*problems)])}
    assert set(found) == {"burgers", "heat", "poisson_lshape", "helmholtz(kind=4pi)"}
    for c in found.values():
        assert 0 < c.error < 1e-8 and c.seconds > 0 and c.how
    assert "classical solution" in bench.report(_of("poisson_lshape"))


def test_chebyshev_collocation_converges_to_the_closed_form_and_refuses_other_problems() -> None:
    errors = [collocated(pde.get("poisson", dim=2), n) for n in (4, 8, 16)]
    assert errors[0] > 1e-4 and errors[1] < 1e-5 and errors[2] < 1e-12
    tilted = pde.Problem(
        pde.Box((0, 1), (2, 4)), lambda u, x, y: u.xx + x * u.xy + u.yy - u.x - torch.exp(x - y) * (1 - x),
        pde.dirichlet(lambda x, y: torch.exp(x - y)), exact=lambda x, y: torch.exp(x - y),
    )  # fmt: skip
    assert collocated(tilted, 20) < 1e-11
    for name in ("heat", "poisson_lshape", "kovasznay"):
        with pytest.raises(Incompatible, match="takes linear problems in a rectangle"):
            collocated(pde.get(name), 8)


def _of(*names: str) -> list[Row]:
    return [Row(n, "trained", 0, 1.0, None, 1.0, 1.0, "budget", None, 1.0, {}) for n in names]


# ---- sentences -------------------------------------------------------------------------------------------------------


def test_a_problem_that_is_not_in_the_table_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "pde", "--problems", "burgres", "--out", str(tmp_path)]) == 2
    assert "the table has no such task; problems: allen_cahn, " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_absence_of_deepxde_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(peer.WHERE, str(tmp_path))
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
    assert not peer.installed()
    assert main(["bench", "pde", "--problems", "heat", "--peers", "--out", str(tmp_path)]) == 2
    assert peer.main(["heat"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 2 and all("DeepXDE is not installed here" in line and peer.WHERE in line for line in told)
    with pytest.raises(Incompatible, match="not installed"):
        peer.run("heat", {}, 1.0, 0, "stock")
    (tmp_path / "deepxde").mkdir()
    assert peer.installed()


@pytest.mark.parametrize(("words", "sentence"), [
    (["ks_chaotic"], "DeepXDE is set up for allen_cahn, "),
    (["heat", "--arguments", '{"mode": 2}'], 'not set up for the arguments {"mode": 2}'),
    (["heat", "--settings", '{"widht": 2}'], "a setting of DeepXDE has no 'widht'; it has: width, "),
    (["helmholtz", "--arguments", '{"kind": "x"}'], "helmholtz has the kinds 1_4 and 4pi"),
])  # fmt: skip
def test_what_deepxde_is_not_set_up_for_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peer.main(words) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("done", "sentence"), [
    (SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nValueError: no such thing\n"), "ValueError: no such"),
    (SimpleNamespace(returncode=-9, stdout="", stderr=""), "it said nothing"),
])  # fmt: skip
def test_a_process_that_fails_is_one_sentence(done: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "installed", lambda: True)
    monkeypatch.setattr(peer.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(Incompatible, match=f"DeepXDE at heat failed: .*{sentence}"):
        peer.run("heat", {}, 1.0, 0, "stock")


def test_a_process_of_its_own_gets_the_task_and_our_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def started(words: list[str], **options: Any) -> Any:
        given.update(words=words, **options)
        return SimpleNamespace(returncode=0, stdout='deepxde says hello\n{"rel_l2": 0.5}\n', stderr="")

    monkeypatch.setattr(peer, "installed", lambda: True)
    monkeypatch.setattr(peer.subprocess, "run", started)
    assert peer.run("poisson", {"dim": 5}, 2.0, 3, "tuned") == {"rel_l2": 0.5}
    words = given["words"]
    assert words[1:4] == ["-m", "odenet.experiment.deepxde_peer", "poisson"]
    flags = dict(zip(words[4::2], words[5::2]))
    assert flags == {"--seconds": "2.0", "--seed": "3", "--variant": "tuned", "--arguments": '{"dim": 5}'}
    assert given["env"]["OMP_NUM_THREADS"] == str(torch.get_num_threads()) and given["env"]["DDE_BACKEND"] == "pytorch"

    def late(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("python", 1.0)

    monkeypatch.setattr(peer.subprocess, "run", late)
    with pytest.raises(Incompatible, match="did not end within ten times its 2 s"):
        peer.run("heat", {}, 2.0, 0, "stock")


# ---- the clock of a peer ---------------------------------------------------------------------------------------------


def watched(monkeypatch: pytest.MonkeyPatch, error: Callable[[], float]) -> tuple[peer.Watch, list[float], Any]:
    now = [0.0]
    monkeypatch.setattr(peer.time, "perf_counter", lambda: now[0])
    model = SimpleNamespace(
        train_state=SimpleNamespace(iteration=0, loss_train=[0.0]), stop_training=False, net=nn.Linear(1, 1)
    )
    return peer.Watch(10.0, model, error, since=0.0), now, model


def test_evaluation_is_not_counted_and_no_step_is_begun_that_would_end_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow() -> float:
        now[0] += 100.0
        return 0.5

    watch, now, model = watched(monkeypatch, slow)
    watch.begin(0.4)
    while not model.stop_training:
        now[0] += 0.9
        model.train_state.iteration += 1
        watch.look()
    assert model.train_state.iteration == 4 and watch.used == pytest.approx(3.6)
    assert [t for t, _ in watch.curve] == pytest.approx([0.9, 1.8, 2.7, 3.6])


def test_an_optimiser_that_stands_still_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _, model = watched(monkeypatch, lambda: 0.5)
    watch.begin(1.0)
    model.train_state.iteration = 3
    watch.look()
    assert not model.stop_training
    watch.look()
    assert model.stop_training


def test_the_weights_of_least_loss_are_kept_and_what_is_no_number_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _, model = watched(monkeypatch, lambda: 0.5)
    for loss in (3.0, 1.0, math.nan, 2.0):
        model.train_state.loss_train = [loss / 2, loss / 2]
        with torch.no_grad():
            model.net.weight.fill_(loss)
        watch.tested()
    assert watch.best is not None and watch.best[0] == 1.0 and float(watch.best[1]["weight"]) == 1.0


@pytest.mark.slow
@pytest.mark.skipif(not peer.installed(), reason="DeepXDE is not installed")
@pytest.mark.parametrize("variant", peer.VARIANTS)
def test_deepxde_learns_the_heat_equation(variant: str) -> None:
    found = peer.run("heat", {}, 10.0, 0, variant)
    assert found["rel_l2"] < 0.1 and found["settings"]["float"] == {"stock": "float32", "tuned": "float64"}[variant]
    assert found["iterations"]["adam"] > 10 and found["iterations"]["L-BFGS"] > 10
    assert found["curve"][-1] == [found["seconds"], found["rel_l2"]]


def test_a_bench_without_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no such task"):
        bench.bench_pde(["heat"], ["gauss_newton"])
