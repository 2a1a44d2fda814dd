from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from odenet.errors import BadInput
from odenet.experiment import executors

# speaks the worker's language without importing torch; does what the unit's "do" says
FAKE = """
import json, os, signal, sys, time
def say(**content):
    print(json.dumps(content), flush=True)
say(names={"net": ["known"], "integrator": [], "data": []})
for line in sys.stdin:
    unit = json.loads(line)["unit"]
    do = unit.get("do", "")
    if do == "die" or (do == "die once" and not os.path.exists(unit["mark"])):
        open(unit.get("mark", os.devnull), "w").close()
        print("out of luck", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "sleep":
        time.sleep(60)
    say(progress=0.5)
    say(result={"rows": [], "by": os.getpid()} if do != "fail" else {"error": "it did not work"})
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setattr(executors, "COMMAND", (sys.executable, str(tmp_path / "fake.py")))


def units(*does: str, **words: Any) -> list[dict[str, Any]]:
    return [{"key": str(i), "net": "known", "do": do, **words} for i, do in enumerate(does)]


def carried_out(todo: list[dict[str, Any]], count: int = 2) -> dict[str, Any]:
    results: dict[str, Any] = {}
    executors.execute(todo, count, None, lambda u, r: results.__setitem__(u["key"], r), lambda u, f: None)
    return results


@pytest.mark.usefixtures("fake")
def test_two_workers_share_the_units() -> None:
    results = carried_out(units(*[""] * 20))
    assert len(results) == 20 and 1 <= len({r["by"] for r in results.values()}) <= 2
    assert os.getpid() not in {r["by"] for r in results.values()}


@pytest.mark.usefixtures("fake")
def test_a_failing_unit_leaves_the_others_alone() -> None:
    results = carried_out(units("", "fail", "", ""))
    assert results["1"] == {"error": "it did not work"} and all("by" in results[k] for k in "023")


@pytest.mark.usefixtures("fake")
def test_the_unit_of_a_worker_that_dies_is_tried_once_more(tmp_path: Path) -> None:
    results = carried_out(units("", "die once", "", mark=str(tmp_path / "mark")))
    assert (tmp_path / "mark").exists() and all("by" in r for r in results.values())


@pytest.mark.usefixtures("fake")
def test_a_unit_that_kills_its_worker_twice_is_reported_with_the_last_words() -> None:
    results = carried_out(units("", "die", "", ""))
    assert results["1"]["error"] == "the worker process died 2 times (signal 9): out of luck"
    assert all("by" in results[k] for k in "023")


@pytest.mark.usefixtures("fake")
def test_what_a_worker_does_not_know_is_done_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "attempt", lambda unit, folder, tell: {"rows": [], "by": "this process"})
    results = carried_out([*units("", ""), {"key": "own", "net": "mine"}])
    assert results["own"]["by"] == "this process" and results["0"]["by"] != "this process"


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("trouble", [KeyboardInterrupt, OSError])
def test_an_interruption_stops_the_workers_and_keeps_what_was_finished(trouble: type[BaseException]) -> None:
    kept = []

    def keep(unit: dict[str, Any], result: dict[str, Any]) -> None:
        kept.append(unit["key"])
        raise trouble

    start = time.perf_counter()
    with pytest.raises(trouble):
        executors.execute(units("", "sleep"), 2, None, keep, lambda u, f: None)
    assert kept == ["0"] and time.perf_counter() - start < 30


def test_an_interruption_in_this_process_keeps_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(unit: dict[str, Any], folder: Path | None, tell: Any) -> dict[str, Any]:
        if unit["key"] == "1":
            raise KeyboardInterrupt
        return {"rows": []}

    monkeypatch.setattr("odenet.experiment.run.run", run)
    kept: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        executors.execute(units("", "", ""), 1, None, lambda u, r: kept.append(u["key"]), lambda u, f: None)
    assert kept == ["0"]


def test_an_attempt_turns_exceptions_into_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem, sentence in ((BadInput("say it so."), "say it so."), (ValueError("odd"), "ValueError: odd")):

        def run(unit: Any, folder: Any, tell: Any, problem: Exception = problem) -> dict[str, Any]:
            raise problem

        monkeypatch.setattr("odenet.experiment.run.run", run)
        assert executors.attempt({}, None, lambda f: None) == {"error": sentence}


@pytest.mark.usefixtures("fake")
def test_progress_of_a_unit_is_passed_on() -> None:
    seen = []
    executors.execute(units("", ""), 2, None, lambda u, r: None, lambda u, f: seen.append((u["key"], f)))
    assert sorted(seen) == [("0", 0.5), ("1", 0.5)]


def test_the_worker_answers_in_json_lines_and_ignores_what_is_printed(tmp_path: Path) -> None:
    worker = executors._Worker()
    try:
        worker.wait()
        assert worker.ready and worker.knows({"net": "resnet", "integrator": "rk4", "data": "digits"})
        assert not worker.knows({"net": "resnet", "integrator": "not_there"})
        assert worker.knows({"task": "theory"}) and worker.knows({"data": str(tmp_path)})
        said = worker.carry_out({"task": "cell", "key": "a/b", "net": "resnet"}, None, lambda f: None)
        assert said is not None and "error" in said and json.dumps(said)
    finally:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.close()
