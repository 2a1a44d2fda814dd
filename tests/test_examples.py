"""Every example runs, prints what its first comment says, and stays short.

The expected lines stand after "# Expected output" with four more blanks. Runs of blanks count as one; `...` is any
text; a number after `~` may differ: by a fifth in a full run, by anything in a short one (ODENET_SMOKE=1).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prepared

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?"


def expected(path: Path) -> list[str]:
    """The lines that the first comment promises."""
    comment = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    start = next(i for i, line in enumerate(comment) if line.startswith("# Expected output"))
    return [line.removeprefix("#").removeprefix("     ") for line in comment[start + 1 :]]


def agrees(promise: str, line: str, tolerance: float | None) -> bool:
    """Whether a printed line is the promised one; tolerance None lets a number after ~ be anything."""
    promise, line = (" ".join(s.split()) for s in (promise, line))
    numbers = [float(n) for n in re.findall(f"~({NUMBER})", promise)]
    pattern = re.sub(f"~{NUMBER}", "\0", promise)
    pattern = re.escape(pattern).replace(re.escape("\0"), f"({NUMBER})").replace(re.escape("..."), ".*")
    found = re.fullmatch(pattern, line)
    if found is None:
        return False
    close = (abs(float(f) - n) <= tolerance * abs(n) for f, n in zip(found.groups(), numbers)) if tolerance else ()
    return all(close)


def run(path: Path, folder: Path, short: bool) -> list[str]:
    """What the example prints, run in an empty folder with a temporary folder of its own."""
    (folder / "tmp").mkdir()
    (folder / "here").mkdir()
    env = {"TMPDIR": str(folder / "tmp"), "ODENET_SMOKE": "1" if short else ""}
    status, printed, errors = prepared.run(path, folder / "here", env, timeout=120)
    assert (status, errors) == (0, "")
    assert not list((folder / "here").iterdir()), "an example leaves files where it is run"
    return printed.splitlines()


def compare(path: Path, printed: list[str], tolerance: float | None) -> None:
    promised = expected(path)
    assert len(printed) == len(promised), printed
    for promise, line in zip(promised, printed):
        assert agrees(promise, line, tolerance), f"promised: {promise}\nprinted:  {line}"


def test_there_are_eighteen_numbered_questions() -> None:
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, 19))
    for path in EXAMPLES:
        assert re.fullmatch(rf"# {int(path.name[:2])}\. [A-Z].*\?", path.read_text().splitlines()[0])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_has_at_most_sixty_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_prints_what_it_promises(path: Path, tmp_path: Path) -> None:
    compare(path, run(path, tmp_path, short=True), tolerance=None)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_a_full_run_prints_the_promised_numbers(path: Path, tmp_path: Path) -> None:
    compare(path, run(path, tmp_path, short=False), tolerance=0.2)


def test_the_comparison_of_lines_can_fail() -> None:
    assert agrees("a ~1.5  b", "a 1.6 b", 0.2) and agrees("a ~1.5 ...", "a 9e-05 any", None)
    assert not agrees("a ~1.5", "a 2.5", 0.2)
    assert not agrees("a ~1.5", "a nan", None)
    assert not agrees("a 1.5", "a 1.6", None)
    assert not agrees("order (1)", "order 1", None)
