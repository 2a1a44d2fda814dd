"""Papers: the rule of the verdicts, pages that say what the results say, and scripts that run."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from odenet.cli import main
from odenet.errors import BadInput
from odenet.experiment import papers
from odenet.experiment.papers import Claim, Entry, Paper

FOLDERS = papers.folders()


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda f: f.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return papers.read(request.param)


def claim(**words: Any) -> Claim:
    return Claim(**{"key": "k", "text": "t", "place": "table 1", **words})


# ---- the rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "values", "verdict"),
    [
        ({"number": 100.0}, [], "not run"),
        ({"number": 100.0}, [96.0, 106.0], "reproduced"),  # mean 101
        ({"number": 100.0}, [95.0], "reproduced"),
        ({"number": 100.0}, [94.9], "close"),
        ({"number": 100.0}, [75.1], "close"),
        ({"number": 100.0}, [74.9], "not reproduced"),
        ({"number": -2.0}, [-2.05], "reproduced"),
        ({"number": -2.0}, [2.0], "not reproduced"),
        ({"number": 100.0}, [100.0, math.inf], "not reproduced"),
        ({"number": 100.0}, [100.0, math.nan], "not reproduced"),
        ({"at_least": 0.0}, [math.inf, -math.inf], "not reproduced"),
        ({"number": 0.0}, [1e-9], "not reproduced"),
        ({"number": 7, "exact": True}, [7, 7], "reproduced"),
        ({"number": 502570, "exact": True}, [502571], "not reproduced"),
        ({"number": 7, "exact": True}, [7, 7, 7, 7, 8], "not reproduced"),
        ({"at_least": 1.0}, [1.0, 2.0], "reproduced"),
        ({"at_least": 1.0}, [2.0, 2.0, 2.0, 2.0, 0.9], "close"),  # four of five, and the mean
        ({"at_least": 1.0}, [1.1, 1.1, 1.1, 1.1, 0.0], "not reproduced"),  # four of five, not the mean
        ({"at_least": 1.0}, [2.0, 2.0, 2.0, 0.9, 0.9], "not reproduced"),  # the mean, not four of five
        ({"at_least": 0.9, "at_most": 1.1}, [0.95, 1.05], "reproduced"),
        ({"at_least": 0.9, "at_most": 1.1}, [0.85, 1.15], "not reproduced"),
        ({"at_most": 1.0}, [0.5, math.nan], "not reproduced"),
        ({"at_most": 1.0, "smaller": "fewer data"}, [0.5], "scaled down"),
        ({"at_least": 1.0, "smaller": "fewer data"}, [2.0, 2.0, 2.0, 2.0, 0.9], "scaled down"),
        ({"at_most": 1.0, "smaller": "fewer data"}, [1.5], "not reproduced"),
        ({"at_most": 1.0, "smaller": "fewer data"}, [], "not run"),
        ({"number": 10.0, "smaller": "fewer data"}, [10.0], "scaled down"),
    ],
)
def test_the_verdict_follows_the_rule(words: dict[str, Any], values: list[float], verdict: str) -> None:
    assert claim(**words).verdict(values) == verdict
    assert verdict in papers.VERDICTS


def test_a_control_of_ours_is_kept_or_not_and_no_claim_of_the_paper() -> None:
    control = claim(at_most=1.0, control=True)
    assert [control.word(v) for v in ([], [0.5], [2.0])] == ["not run", "control: kept", "control: not kept"]
    assert claim(at_most=1.0, control=True, smaller="x").word([0.5]) == "control: kept"
    paper = Paper(title="t", cite="c", arxiv="1", about="a", how="h", claims=(control, claim(key="l", number=1.0)))
    assert Entry(Path(), paper, {"numbers": {"k": [2.0], "l": [1.0]}}).verdicts() == ["reproduced"]


@pytest.mark.parametrize("words", [{}, {"number": 1.0, "at_least": 0.0}, {"number": 1.0, "place": ""}])
def test_a_claim_without_one_measure_and_a_place_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        claim(**words)


def test_two_claims_of_one_key_are_refused() -> None:
    with pytest.raises(BadInput, match="same key"):
        Paper(title="t", cite="c", arxiv="1", about="a", how="h", claims=(claim(number=1.0), claim(at_most=1.0)))


def test_ours_is_the_mean_and_the_standard_deviation_over_runs() -> None:
    assert claim(number=2.0).ours([1.0, 2.0, 3.0]) == "2 ± 1 (n = 3)"
    assert claim(number=90.0, form=".1f", unit=" %").ours([88.84]) == "88.8 %"
    assert claim(number=2.0).ours([1.0, math.inf]) == "inf ± nan (n = 2)"
    assert claim(at_least=0.5, at_most=1.0).asked == "≥ 0.5 and ≤ 1"
    assert claim(number=1234, exact=True, form=",.0f").asked == "= 1,234"


# ---- the pages ------------------------------------------------------------------------------------------------------


def test_there_are_ten_papers_and_their_folders_are_named_by_year() -> None:
    assert len(FOLDERS) >= 10
    for folder in FOLDERS:
        assert re.fullmatch(r"20\d\d-[a-z-]+", folder.name)


def test_a_page_says_what_the_claims_and_results_say(entry: Entry) -> None:
    text = (entry.folder / "README.md").read_text(encoding="utf-8")
    assert text == papers.page(entry), "run: odenet papers --write"
    assert text.count("\n| ") == len(entry.paper.claims) + 1  # and the head


def test_the_overview_counts_every_verdict() -> None:
    found = papers.entries()
    text = (FOLDERS[0].parent / "README.md").read_text(encoding="utf-8")
    assert text == papers.overview(found), "run: odenet papers --write"
    for e in found:
        row = next(line for line in text.splitlines() if f"({e.name})" in line)
        cells = [c.strip() for c in row.split("|")[3:8]]
        assert sum(int(c or 0) for c in cells) == sum(not c.control for c in e.paper.claims)
    assert papers.RULE in text


def test_a_page_that_was_edited_is_seen(entry: Entry) -> None:
    first = entry.paper.claims[0]
    other = {**entry.result.get("numbers", {}), first.key: [1e30]}
    circumstances = {"date": "2026-11-21", "seconds": 1.0, "system": "", "python": "", "versions": {}}
    assert papers.page(Entry(entry.folder, entry.paper, {**circumstances, **entry.result, "numbers": other})) != (
        entry.folder / "README.md"
    ).read_text(encoding="utf-8")


def test_a_result_has_the_numbers_of_every_claim_and_names_no_machine(entry: Entry) -> None:
    if not entry.result:
        pytest.skip("no full run has been made")
    assert set(entry.result["numbers"]) == {c.key for c in entry.paper.claims}
    assert set(entry.result) == {
        "numbers", "seconds", "date", "python", "system", "cores", "versions", "threads",
    }  # fmt: skip
    assert not re.search(r"/(home|work|tmp|root|Users)/|localhost|@", json.dumps(entry.result))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry.result["date"])


def test_a_papers_number_stands_where_a_number_is_to_be_hit(entry: Entry) -> None:
    for c in entry.paper.claims:
        if c.number is not None:
            printed = float(c.paper.replace(",", ""))
            assert math.isclose(printed, c.number, rel_tol=5e-3), c.key


# ---- the scripts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_small_run_measures_every_claim(folder: Path) -> None:
    import runpy

    script = runpy.run_path(str(folder / "reproduce.py"))
    found = script["measure"](True)
    assert set(found) == {c.key for c in script["PAPER"].claims}
    for key, value in found.items():
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        assert values and all(math.isfinite(float(v)) for v in values), key


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_script_is_short_and_uses_what_users_can_import(folder: Path) -> None:
    text = (folder / "reproduce.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 140
    imported = re.findall(r"^(?:from|import) (odenet[\w.]*)", text, re.M)
    assert set(imported) <= {"odenet", "odenet.experiment.papers", "odenet.train.many", "odenet.train.multilevel"}
    assert not re.search(r"\bodenet\.\w*\._|on\.\w+\._", text)


def test_a_script_without_a_word_says_what_to_write() -> None:
    paper = Paper(title="t", cite="c", arxiv="1", about="a", how="h", claims=(claim(number=1.0),))
    for words in ([], ["--ful"], ["--smoke", "--full"]):
        with pytest.raises(SystemExit, match=r"--smoke .* or --full"):
            papers.main(paper, lambda smoke: {}, words)


def test_the_command_runs_a_paper_and_writes_nothing_in_smoke(capfd: pytest.CaptureFixture[str]) -> None:
    folder = next(f for f in FOLDERS if f.name == "2023-oscillating-gradients")
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert main(["papers", "run", folder.name, "--smoke"]) == 0
    assert "its numbers are no result" in capfd.readouterr().out
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_full_run_writes_result_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = Paper(title="A paper", cite="c", arxiv="1", about="a", how="h", claims=(claim(number=2, exact=True),))
    script = type(sys)("__main__")
    script.__file__ = str(tmp_path / "reproduce.py")
    monkeypatch.setitem(sys.modules, "__main__", script)
    papers.main(paper, lambda smoke: {"k": 2}, ["--full"])
    saved = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert saved["numbers"] == {"k": [2]} and saved["threads"] == 1
    assert "**reproduced**" in (tmp_path / "README.md").read_text(encoding="utf-8")
    papers.main(paper, lambda smoke: {"k": math.nan}, ["--full"])
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["numbers"] == {"k": ["nan"]}
    assert "**not reproduced**" in (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(BadInput, match="differ in k, other"):
        papers.main(paper, lambda smoke: {"other": 2}, ["--full"])


def test_the_command_lists_every_claim_with_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers"]) == 0
    out = capsys.readouterr().out
    for e in papers.entries():
        assert e.name in out
    assert sum(out.count(v) for v in ("reproduced", "close", "scaled down", "not run")) >= 50


def test_a_paper_that_is_not_there_gets_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers", "run", "x"]) == 2
    assert "no reproduction is called 'x'; known: 2017-linear-multistep-networks" in capsys.readouterr().err
