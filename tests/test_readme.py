"""The README's Python runs and prints what it says, its tables are the registries', its commands and links exist.

`python tests/test_readme.py` writes the tables between the two comments anew.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

import prepared

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
STATUSES_HEAD = "| status | what it says |\n|---|---|\n"
MARKS = ("<!-- generated: python tests/test_readme.py -->\n", "<!-- end -->")
PAPERS = ("<!-- papers: python tests/test_readme.py -->\n", "<!-- end of papers -->")


def tables() -> str:
    """What the registries hold, as Markdown. Run in a process of its own: other tests register parts too."""
    import odenet as on
    from odenet.experiment import pairs
    from odenet.train.methods import METHODS

    def line(*cells: object) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |\n"

    def head(*cells: str) -> str:
        return line(*cells) + "|" + "---|" * len(cells) + "\n"

    out = "### Integrators\n\n" + head("name", "order", "stages", "takes", "when")
    for name in (n for n in on.integrators.names() if ":" not in n):
        s = on.integrators.get(name)
        takes = ", ".join(sorted(s.needs)).replace("_", "-") or "any field"
        out += line(f"`{name}`", s.order, s.stages, takes, s.when)
    members = [f"`{n.split(':')[1]}`" for n in on.integrators.names() if n.startswith("torchdiffeq:")]
    out += f"\nand torchdiffeq's own as `torchdiffeq:<method>`: {', '.join(members)}.\n\n"

    out += "### Nets\n\n" + head("name", "takes", "integrators that `compare` runs", "reference")
    for name in on.nets.names():
        build = on.nets.get(name)
        out += line(f"`{name}`", build.takes, ", ".join(build.integrators) or "a baseline", build.cite)

    out += "\n### Which integrator admits which net\n\nAsked of every pair; `odenet list pairs` asks again.\n\n"
    cells, legend = pairs.table()
    out += head(*cells[0]) + "".join(line(*row) for row in cells[1:])
    out += "\n" + "".join(f"- {kind}\n" for kind in legend)

    out += "\n### Fields\n\n" + head("name", "what it is")
    for name in on.fields.names():
        out += line(f"`{name}`", _first_sentence(on.fields.get(name)))
    named = {"data sets": on.data.names(), "training methods": METHODS.names(), "depths": on.depth.names()}
    listed = "; ".join(f"{kind}: {', '.join(f'`{n}`' for n in names)}" for kind, names in named.items())
    return f"{out}\n{listed[0].upper()}{listed[1:]}.\n"


def statuses() -> str:
    """The rows of the table of statuses."""
    from odenet.flow.solution import STATUSES

    return "".join(f"| `{status}` | {sentence} |\n" for status, sentence in STATUSES.items())


def papers() -> str:
    """A row for every reproduction, with its verdicts."""
    from odenet.experiment import papers

    return papers.summary(papers.entries(), "papers/")


def between(marks: tuple[str, str], inside: str, text: str) -> str:
    """The text with what stands between the marks put anew."""
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{inside}\n{marks[1]}{rest.split(marks[1])[1]}"


def _first_sentence(obj: object) -> str:
    words = " ".join((obj.__doc__ or "").split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)0-9])[.;] |$", words)[0].rstrip(".")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


def test_the_first_block_is_the_two_commands() -> None:
    first = re.search(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[2].splitlines()] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.M) and re.search(r"^test:", makefile, re.M)


def test_every_python_block_runs_by_itself_and_prints_what_the_next_block_says(tmp_path: Path) -> None:
    from test_examples import agrees

    text = README.read_text(encoding="utf-8")
    pairs = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.M | re.S)
    assert len(pairs) == len(blocks("python")) == 9
    # one process, a fresh namespace for each block
    paths = []
    for i, (code, _) in enumerate(pairs):
        paths.append(str(tmp_path / f"block{i}.py"))
        Path(paths[-1]).write_text(code, encoding="utf-8")
    driver = tmp_path / "driver.py"
    each = "    runpy.run_path(path, run_name='__main__')\n    print('-' * 9)"
    driver.write_text(f"import runpy, sys\nfor path in sys.argv[1:]:\n{each}")
    status, output, errors = prepared.run(driver, tmp_path, {"TMPDIR": str(tmp_path)}, 120, *paths)
    assert (status, errors) == (0, "")
    assert (tmp_path / "net.safetensors").is_file()
    for (code, promised), printed in zip(pairs, output.split("-" * 9 + "\n")):
        lines = printed.splitlines(), promised.splitlines()
        assert len(lines[0]) == len(lines[1]), (code, printed)
        for line, promise in zip(*lines):
            assert agrees(promise, line, tolerance=0.2), f"promised: {promise}\nprinted:  {line}"


def test_the_ten_lines_are_ten_at_most() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 10


def test_the_tables_are_those_of_the_registries() -> None:
    status, printed, errors = prepared.run(Path(__file__), ROOT, {}, 120, "--print")
    assert status == 0, errors
    inside = README.read_text(encoding="utf-8").split(MARKS[0])[1].split(MARKS[1])[0]
    assert inside.strip() == printed.strip(), "run: python tests/test_readme.py"
    assert inside.count("\n| `") > 50


def test_every_flag_of_a_command_in_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from odenet.cli import main

    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"`(odenet [^`<]*)`", README.read_text(encoding="utf-8"))
    commands = [line.split("odenet ")[1].split() for line in lines if re.match(r"(\.venv/bin/)?odenet ", line)]
    assert len(commands) >= 5
    for command, *words in commands:
        if command in ("list", "show"):
            assert main([command, *words]) == 0
        else:
            assert main([command, "--help"]) == 0
            known = capsys.readouterr().out
            assert all(flag in known for flag in words if flag.startswith("--")), (command, words)


def test_the_printed_comparison_is_of_the_nets_that_quick_compares() -> None:
    from odenet.experiment import Experiment

    printed = next(block for block in blocks("text") if block.startswith("Test accuracy on"))
    rows = re.findall(r"^ (\w+) +[\w-]+ +\d+\.\d ± \d+\.\d ", printed, re.M)
    quick = Experiment(quick=True).settled()
    assert tuple(dict.fromkeys(rows)) == quick.nets
    assert f"on {quick.data}, mean ± sd over {quick.seeds} seeds" in printed


def test_every_link_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        headings = {"#" + line.lower().replace(" ", "-") for line in re.findall(r"^#+ ([\w ]+)$", text, re.M)}
        for target in re.findall(r"\]\(([^)]+)\)", text):
            known = target in headings or target.startswith("https://") or (ROOT / target).exists()
            assert known, (name, target)


def test_every_status_is_explained_in_its_words() -> None:
    text = README.read_text(encoding="utf-8")
    assert f"{STATUSES_HEAD}{statuses()}\n" in text, "run: python tests/test_readme.py"


def test_every_paper_is_listed_with_its_verdicts() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == between(PAPERS, papers(), text), "run: python tests/test_readme.py"


def test_every_gradient_is_in_the_table() -> None:
    from odenet.flow import GRADIENTS

    table = README.read_text(encoding="utf-8").split("| `gradient=` |")[1].split("\n\n")[0]
    assert set(re.findall(r'^\| `"(\w+)"` \|', table, re.M)) == set(GRADIENTS)


def test_the_examples_are_listed_with_their_questions() -> None:
    text = README.read_text(encoding="utf-8")
    for path in sorted((ROOT / "examples").glob("*.py")):
        number, question = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(". ", 1)
        assert f"{number}. [{question}](examples/{path.name})" in text


def test_the_version_is_the_same_everywhere() -> None:
    import odenet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    assert project["version"] == odenet.__version__ == citation["version"]
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert citation["cff-version"] == "1.2.0" and citation["title"] == project["name"]
    assert f"{odenet.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text() and len((ROOT / "LICENSE").read_text()) > 11_000


def test_the_guide_for_contributors_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
        print(tables())
    else:
        text = between(MARKS, tables(), README.read_text(encoding="utf-8"))
        text = re.sub(f"(?<={re.escape(STATUSES_HEAD)})(\\|.*\n)+", lambda _: statuses(), text)
        README.write_text(between(PAPERS, papers(), text), encoding="utf-8")
