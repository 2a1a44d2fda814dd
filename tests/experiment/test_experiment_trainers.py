"""The matrix of trainers: every cell runs or is refused with a sentence, whatever a plug-in does, in any order."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import odenet as on
from odenet.cli import main
from odenet.errors import BadInput, Incompatible, UnknownName
from odenet.experiment import trainers
from odenet.experiment.trainers import Cell, Matrix, Training, matrix
from odenet.train import METHODS, Method

QUICK = Training(steps=2, width=4, layers=2, points=32)
NETS, INTEGRATORS = ("resnet", "hamiltonian"), ("euler", "verlet", "dopri5")


@pytest.fixture(scope="module")
def swept() -> Matrix:
    return matrix(nets=NETS, integrators=INTEGRATORS, training=QUICK)


def at(found: Matrix, **choice: Any) -> Cell:
    [cell] = [c for c in found.cells if all(getattr(c, k) == v for k, v in choice.items())]
    return cell


def same(a: Cell, b: Cell) -> bool:
    return replace(a, seconds=0.0) == replace(b, seconds=0.0)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods that misbehave each in a way of its own."""

    def broken(run: Any) -> Any:
        raise ZeroDivisionError("the plug-in\ndivides by zero")

    def wild(run: Any) -> Any:
        def advance(batch: Any) -> dict[str, torch.Tensor]:
            with torch.no_grad():
                for p in run.net.parameters():
                    p.fill_(float("nan"))
            return {"data": torch.tensor(1.0)}

        return advance

    def refusing(run: Any) -> Any:
        raise BadInput("this method takes no nets at all.")

    for name, begin in (("a_broken_one", broken), ("a_wild_one", wild), ("a_refusing_one", refusing)):
        METHODS.register(name, Method(begin))
    yield
    for name in ("a_broken_one", "a_wild_one", "a_refusing_one"):
        METHODS._entries.pop(name)


def test_every_cell_of_all_methods_runs_or_is_refused_with_a_sentence(swept: Matrix) -> None:
    assert len(swept.cells) == len(METHODS.names()) * len(NETS) * len(INTEGRATORS)
    assert {c.method for c in swept.cells} == set(METHODS.names())
    for c in swept.cells:
        assert c.status in ("run", "refused"), (c.net, c.method, c.integrator, c.told)
        if c.status == "run":
            assert c.before is not None and c.after is not None and 0 <= (c.score or 0.0) <= 1
        else:
            assert c.told.endswith(".") and len(c.told) > 30 and c.after is None


def test_gradient_descent_runs_where_the_net_can_be_built(swept: Matrix) -> None:
    refused = [(c.net, c.integrator) for c in swept.cells if c.method == "adam" and c.status == "refused"]
    assert refused == [("resnet", "verlet")]  # the one that needs a field of two parts
    with pytest.raises(Incompatible) as problem:
        on.nets.resnet(2, 2, width=4, steps=2, integrator="verlet")
    assert at(swept, net="resnet", method="adam", integrator="verlet").told == str(problem.value)
    assert "adaptive steps" in at(swept, net="resnet", method="sqh", integrator="dopri5").told


def test_a_cell_is_the_training_written_out(swept: Matrix) -> None:
    data = on.data.load("moons", seed=0)
    few = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))[:32]
    x, y = data.x[few], data.y[few]
    net = on.nets.resnet(2, 2, width=4, steps=2, span=(0.0, 1.0), integrator="euler", seed=0)
    loss = torch.nn.functional.cross_entropy
    optimiser, values = torch.optim.Adam(net.parameters(), lr=1e-2), []
    for _ in range(2):
        optimiser.zero_grad()
        values.append(loss(net(x), y))
        values[-1].backward()
        optimiser.step()
    cell = at(swept, net="resnet", method="adam", integrator="euler")
    with torch.no_grad():
        right = (net(data.x_test).argmax(1) == data.y_test).double().mean()
        assert cell.before == pytest.approx(float(values[0].detach()), rel=1e-5)
        assert cell.after == pytest.approx(float(loss(net(x), y)), rel=1e-5) and cell.after != cell.before
        assert cell.score == pytest.approx(float(right))


def test_a_cell_does_not_depend_on_the_others_nor_on_their_order(swept: Matrix) -> None:
    torch.manual_seed(99)
    torch.rand(5)
    words = {"methods": ("sqh", "binary_msa", "adam"), "integrators": INTEGRATORS[::-1], "training": QUICK}
    again = matrix(nets=("resnet",), seeds=(1, 0), **words)  # type: ignore[arg-type]
    for cell in (c for c in again.cells if c.seed == 0):
        assert same(cell, at(swept, net=cell.net, method=cell.method, integrator=cell.integrator))
    other = at(again, net="resnet", method="adam", integrator="euler", seed=1)
    assert other.after != at(swept, net="resnet", method="adam", integrator="euler").after


def test_a_plug_in_that_breaks_is_a_cell_and_the_others_are_run(plugins: None) -> None:
    found = matrix(("a_broken_one", "a_wild_one", "a_refusing_one", "adam"), ("resnet",), ("euler",), training=QUICK)
    broken, wild, refusing, adam = found.cells
    assert (broken.status, broken.told) == ("error", "ZeroDivisionError: the plug-in divides by zero")
    assert wild.status == "stopped" and "training stopped at step 1" in wild.told
    assert (
        refusing.status == "refused" and refusing.told == "this method takes no nets at all." and adam.status == "run"
    )
    text = found.text()
    assert "ERROR 1" in text and "stop 2" in text and "no 3" in text and "  1  (1 cells) ZeroDivisionError" in text
    assert "4 cells: 1 run, 1 refused, 1 stopped, 1 error." in text


def test_a_net_without_flows_and_one_that_is_a_scheme_are_not_run_under_another_name() -> None:
    found = matrix(("adam",), ("mlp", "leapfrog"), ("rk4", "leapfrog", "-"), training=QUICK)
    told = {(c.net, c.integrator): (c.status, c.told) for c in found.cells}
    assert told["mlp", "rk4"] == (
        "refused", "'mlp' is no flow that an integrator steps; train it as it is, with the integrator '-'.",
    )  # fmt: skip
    assert "is a scheme itself, 'leapfrog', which 'rk4' cannot" in told["leapfrog", "rk4"][1]
    assert [told[k][0] for k in (("mlp", "-"), ("leapfrog", "-"), ("leapfrog", "leapfrog"))] == ["run"] * 3


def test_the_scoreboard_counts_what_the_cells_say(swept: Matrix) -> None:
    head, *rows = swept.scoreboard()
    assert head[:5] == ["method", "run", "refused", "stopped", "error"]
    for row in rows:
        mine = [c.status for c in swept.cells if c.method == row[0]]
        assert [int(n) for n in row[1:5]] == [mine.count(s) for s in trainers.STATUSES]


def test_names_and_numbers_are_checked_before_anything_runs() -> None:
    for words, sentence in (
        ({"methods": ("adm",)}, "no training method is called 'adm'; did you mean 'adam'"),
        ({"nets": ("resnt",)}, "did you mean 'resnet'"),
        ({"integrators": ("rk5",)}, "no integrator is called 'rk5'"),
        ({"data": ("moon",)}, "did you mean 'moons'"),
    ):
        with pytest.raises(UnknownName, match=sentence):
            matrix(**words, progress=lambda cell: pytest.fail("a cell was run"))  # type: ignore[arg-type]
    for numbers, sentence in (
        ({"steps": 0}, "steps is a positive whole number, got 0"),
        ({"lr": 0.0}, "lr is a posit"),
    ):
        with pytest.raises(BadInput, match=sentence):
            Training(**numbers)  # type: ignore[arg-type]


def test_the_command_prints_the_table_and_writes_json_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plugins: None
) -> None:
    words = ["trainers", "--nets", "resnet", "--integrators", "euler", "verlet", "--steps", "2", "--width", "4"]
    words += ["--layers", "2", "--out", str(tmp_path), "--name", "m"]
    assert main([*words, "--methods", "adam", "sqh", "--seeds", "0", "1"]) == 0
    out = capsys.readouterr().out
    assert "resnet on moons" in out and "8 cells: 4 run, 4 refused, 0 stopped, 0 error." in out
    about = json.loads((tmp_path / "m" / "cells.json").read_text())
    with (tmp_path / "m" / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(about["cells"]) == len(rows) == 8 and about["training"]["steps"] == 2
    assert (tmp_path / "m" / "table.txt").read_text() == out
    assert main([*words, "--methods", "adam"]) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words[:-1], "n", "--methods", "a_broken_one"]) == 1


def test_what_was_finished_is_kept_when_the_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = trainers._tried

    def once(choice: dict[str, Any], *rest: Any) -> dict[str, Any]:
        if choice["method"] == "sgd":
            raise KeyboardInterrupt
        return tried(choice, *rest)

    monkeypatch.setattr(trainers, "_tried", once)
    with pytest.raises(KeyboardInterrupt):
        trainers.trainers(
            tmp_path, "m", methods=("adam", "sgd"), nets=("resnet",), integrators=("euler",), training=QUICK
        )
    assert [c["method"] for c in json.loads((tmp_path / "m" / "cells.json").read_text())["cells"]] == ["adam"]
