from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

import odenet as on
from odenet.errors import BadInput, NotBuiltYet
from odenet.experiment import Results, tables
from odenet.experiment.spec import Experiment

WORDS = {
    "data": "moons", "nets": ["resnet", "mlp"], "integrators": ["euler", "rk4"], "seeds": 3, "width": 4, "steps": 2,
    "train_steps": 10, "lr": [1e-2], "spans": [1.0], "batch": 16, "workers": 1,
}  # fmt: skip
CASE = {
    "title": "Growth", "setting": "Something", "rule": "within 2 %",
    "rows": [{"case": "euler & co", "prediction": "≤ 2 <b>", "measurement": "1.9", "agrees": True}],
    "figure": {
        "xlabel": "N", "ylabel": "growth", "limits": {"limit": 4.0}, "log_x": True, "log_y": True, "floor": 1e-3,
        "series": [
            {"name": "euler", "x": [2, 4, 8], "y": [1.0, 2.0, 3.0], "kind": "predicted"},
            {"name": "euler", "x": [2, 4, 8], "y": [1.0, 2.1, None], "kind": "measured"},
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def results() -> Results:
    from dataclasses import replace

    found = on.compare(**WORDS, theory=False, progress=False)
    return replace(found, theory={"growth": CASE, "lost": {"error": "it did not work"}})


@pytest.fixture(scope="module")
def saved(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results.save(tmp_path_factory.mktemp("runs") / "x")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_csv_has_exactly_the_promised_columns_and_one_line_per_seed(saved: Path) -> None:
    with (saved / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert (saved / "results.csv").read_text().splitlines()[
        0
    ] == "net,integrator,seed,accuracy,parameters,nfe,seconds,verdict"
    assert [(r["net"], r["integrator"], r["seed"]) for r in lines] == [
        (n, i, str(s)) for n, i in (("resnet", "euler"), ("resnet", "rk4"), ("mlp", "-")) for s in range(3)
    ]
    assert all(0 <= float(r["accuracy"]) <= 1 and float(r["seconds"]) > 0 and r["verdict"] for r in lines)


def test_every_figure_comes_in_three_formats_with_its_data(saved: Path) -> None:
    names = {"accuracy", "differences", "learning", "theory_growth"}
    files = {p.name for p in (saved / "figures").iterdir()}
    assert files == {f"{n}.{kind}" for n in names for kind in ("png", "svg", "pdf", "csv")}
    for name in names:
        assert (saved / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (saved / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        ET.parse(saved / "figures" / f"{name}.svg")
        assert len((saved / "figures" / f"{name}.csv").read_text().splitlines()) > 2


def test_the_report_opens_offline_and_shows_every_pair_and_case(saved: Path) -> None:
    page = Page((saved / "report.html").read_text())
    assert page.links and all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for words in (
        "resnet",
        "mlp",
        "euler",
        "rk4",
        "reference",
        "≤ 2 <b>",
        "euler & co",
        "it did not work",
        "seeds = 3",
    ):
        assert words in page.text, words


def test_json_holds_everything_and_is_read_back(results: Results, saved: Path) -> None:
    content = json.loads((saved / "results.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert content["experiment"]["seeds"] == 3 and set(content["cells"]) == {"resnet/euler", "resnet/rk4", "mlp/-"}
    again = Results.read(saved)
    assert again.rows == results.rows and again.theory == results.theory and str(again) == str(results)


def test_a_report_written_again_is_the_same(saved: Path, tmp_path: Path) -> None:
    before = {p.relative_to(saved): p.read_bytes() for p in saved.rglob("*") if p.is_file()}
    Results.read(saved).save(saved)
    assert {p.relative_to(saved): p.read_bytes() for p in saved.rglob("*") if p.is_file()} == before


def test_saving_over_something_is_refused(results: Results, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists already and is left as it is"):
        results.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_the_nets_are_saved_beside(saved: Path) -> None:
    names = {p.name for p in (saved / "nets").iterdir()}
    assert names == {"resnet-euler.safetensors", "resnet-rk4.safetensors", "mlp--.safetensors"}
    assert isinstance(on.load(saved / "nets" / "resnet-rk4.safetensors"), on.Chain)


def test_the_table_prints_and_returns_the_same_text(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    text = results.table()
    assert capsys.readouterr().out == text + "\n"
    assert "reference" in text and "±" in text and "Holm" in text and "theory/lost failed: it did not work" in text


def test_latex_has_as_many_cells_in_every_row(results: Results) -> None:
    body = [line for line in results.to_latex().splitlines() if line.endswith(r"\\")]
    layout = results.to_latex().split(r"\begin{tabular}{")[1].split("}")[0]
    assert len(body) == 4 and {line.count("&") + 1 for line in body} == {len(layout)}
    assert tables._tex("a_b 5 % [±0.1] & <x>") == r"a\_b 5 \% [$\pm$0.1] \& $<$x$>$"


def test_a_data_frame_has_the_rows(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    frame = results.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 9
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NotBuiltYet, match="pip install"):
        results.to_dataframe()


def test_a_notebook_shows_tables(results: Results) -> None:
    page = Page(results._repr_html_())
    assert page.tags.count("table") == 2 and "resnet" in page.text and "≤ 2 <b>" in page.text


def test_an_experiment_and_words_together_are_refused() -> None:
    with pytest.raises(BadInput, match="not both"):
        on.compare(Experiment(), seeds=2)
    with pytest.raises(BadInput, match="no entry 'sedes'; did you mean 'seeds'"):
        on.compare(sedes=2)


def test_without_a_name_nothing_is_left_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = on.compare(**{**WORDS, "nets": ["mlp"], "seeds": 1}, theory=False, progress=False)
    temporary = found.folder
    assert not any(tmp_path.iterdir()) and temporary is not None and temporary.is_dir()
    del found
    assert not temporary.exists()


def test_a_named_run_is_kept_and_resumed_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {**WORDS, "theory": False, "out": str(tmp_path), "name": "r"}
    whole = on.compare(**words)
    log = whole.folder / "results.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 3 and "[3/3]" in capsys.readouterr().err
    with pytest.raises(BadInput, match="exists already"):
        on.compare(**words)
    log.write_text(lines[0] + lines[1][:50])
    resumed = on.compare(**words, resume=True)
    said = capsys.readouterr().err
    assert "[2/3]" in said and "[1/3]" not in said

    def scores(r: Results) -> list[float]:
        return [row["accuracy"] for row in r.rows]

    assert scores(resumed) == scores(whole)


def test_an_unfinished_run_is_reported_as_far_as_it_went(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    on.compare(**WORDS, theory=False, progress=False, out=str(tmp_path), name="half")
    log = folder / "results.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    half = Results.read(folder)
    assert len(half.rows) == 3 and "not finished" in str(half)
    half.save(folder)
    assert "not finished" in (folder / "report.html").read_text()


def test_one_seed_and_one_pair_make_a_report_too(tmp_path: Path) -> None:
    found = on.compare(**{**WORDS, "nets": ["mlp"], "seeds": 1}, theory=False, progress=False)
    text = found.table()
    assert "one seed" in text and "±" not in text
    found.save(tmp_path / "one")
    assert not (tmp_path / "one" / "figures" / "differences.png").exists()
