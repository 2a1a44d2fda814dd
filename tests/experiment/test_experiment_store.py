from __future__ import annotations

import json
from pathlib import Path

import pytest

from odenet.errors import BadInput
from odenet.experiment.spec import Experiment
from odenet.experiment.store import Run, write


def spec(tmp_path: Path, **words: object) -> Experiment:
    return Experiment.from_dict({"out": str(tmp_path / "runs"), "name": "r", **words})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_has_its_spec_and_gives_back_what_was_appended(tmp_path: Path) -> None:
    run = Run.start(spec(tmp_path))
    run.append("a/b", {"rows": [1]})
    run.append("c/-", {"rows": [2]})
    run.append("a/b", {"rows": [3]})
    again = Run.open(run.folder)
    assert again.finished() == {"a/b": {"rows": [3]}, "c/-": {"rows": [2]}}
    assert again.experiment == spec(tmp_path)


def test_an_existing_run_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run = Run.start(spec(tmp_path))
    run.append("a", {"rows": []})
    before = contents(run.folder)
    for resume, words in ((False, {}), (False, {"seeds": 5}), (True, {"seeds": 5})):
        with pytest.raises(BadInput, match=r"exists already|holds another experiment \(seeds differ\)"):
            Run.start(spec(tmp_path, **words), resume=resume)
    assert contents(run.folder) == before


def test_a_folder_or_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "thesis.tex").write_text("mine")
    (tmp_path / "runs" / "f").write_text("a file")
    for words in ({}, {"name": "f"}):
        for resume in (False, True):
            with pytest.raises(BadInput, match="exists already and is left as it is"):
                Run.start(spec(tmp_path, **words), resume=resume)
    assert contents(tmp_path / "runs") == {"r/thesis.tex": b"mine", "f": b"a file"}


def test_the_same_experiment_is_resumed_under_any_number_of_workers(tmp_path: Path) -> None:
    Run.start(spec(tmp_path, workers=1)).append("a", {"rows": []})
    assert Run.start(spec(tmp_path, workers=2), resume=True).finished() == {"a": {"rows": []}}


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    run = Run.start(spec(tmp_path))
    run.append("a", {"rows": []})
    with (run.folder / "results.jsonl").open("a") as file:
        file.write(json.dumps({"key": "b", "rows": [1]})[:-3])
    resumed = Run.start(spec(tmp_path), resume=True)
    assert resumed.finished() == {"a": {"rows": []}}
    resumed.append("c", {"rows": []})
    assert resumed.finished().keys() == {"a", "c"}


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(BadInput, match="cannot be written: Not a directory"):
        Run.start(spec(tmp_path))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a run folder"):
        Run.open(tmp_path)


def test_an_unnamed_run_is_named_after_data_and_time(tmp_path: Path) -> None:
    folder = Run.start(spec(tmp_path, name="", data="some/da ta")).folder
    assert folder.parent == tmp_path / "runs" and folder.name.startswith("da-ta-20")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x", "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "new")
    assert contents(tmp_path) == {"x": b"old"}
