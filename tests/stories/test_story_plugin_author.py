"""A plug-in author: a package of his own, installed beside odenet, adds a scheme without touching it."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from pathlib import Path

import prepared

POLYGON = """
from odenet.integrators import Integrator
from odenet.types import Step


class Polygon(Integrator):
    \"\"\"Euler to the middle, then across.\"\"\"

    order, stages = 2, 2
    cite = "Runge 1895"

    def step(self, f, t, y, h, carry, coef):
        middle = y + h / 2 * f(t, y)
        return Step(y + h * f(t + h / 2, middle), None, ())
"""


def install(folder: Path) -> None:
    """What `pip install` leaves behind for a package with one module and one entry point."""
    (folder / "nystrom.py").write_text(
        textwrap.dedent(
            """
            from odenet import Tableau

            RK5 = Tableau(
                a=("", "1/3", "4/25 6/25", "1/4 -3 15/4", "2/27 10/9 -50/81 8/81", "2/25 12/25 2/15 8/75 0"),
                b="23/192 0 125/192 0 -27/64 125/192",
                order=5,
                cite="Nystrom 1925",
            )
            BROKEN = Tableau(a=("", "1"), b="1/2 1/3", order=2)
            """
        )
    )
    (folder / "polygon.py").write_text(POLYGON)
    info = folder / "nystrom-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nystrom\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[odenet.integrators]\nnystrom5 = nystrom:RK5\nnystrom_bad = nystrom:BROKEN\npolygon = polygon:Polygon\n"
    )


def run(folder: Path, code: str, warned: str = "ignore") -> tuple[int | None, str, str]:
    """Exit status, output and errors of a fresh process that finds the package."""
    code = f"import warnings; warnings.simplefilter({warned!r})\n{code}"
    return prepared.run_code(code, folder, {"PYTHONPATH": str(folder), "COLUMNS": "200"}, timeout=120)


def commands(folder: Path, *lines: str) -> list[tuple[int, list[str]]]:
    """Exit status and lines of `odenet LINE`, one after the other in one fresh interpreter, which starts slowly."""
    mark = "exit status"
    code = f"from odenet.cli import main\nfor line in {lines!r}: print({mark!r}, main(line.split()))"
    status, printed, errors = run(folder, code)
    assert status == 0 and "odenet: " not in errors, errors
    parts = printed.split(mark)
    return [(int(after.split()[0]), _lines(before)) for before, after in pairwise(parts)]


def _lines(printed: str) -> list[str]:
    lines = printed.splitlines()
    return lines[1:] if lines and lines[0].strip().isdigit() else lines  # the status of the command before


def test_an_installed_package_appears_in_list_show_and_compare(tmp_path: Path) -> None:
    install(tmp_path)
    (listed, names), (shown, facts), (compared, table) = commands(
        tmp_path,
        "list integrators",
        "show nystrom5",
        "compare --data moons --nets resnet --integrators nystrom5 polygon euler --seeds 2 --width 4 --steps 2 "
        "--train-steps 5 --lr 0.01 --spans 1.0 --no-theory --workers 1 --name mine",
    )
    assert (listed, shown, compared) == (0, 0, 0)
    assert {"nystrom5", "polygon"} <= set(names) and "nystrom_bad" not in names
    assert "Nystrom 1925" in "\n".join(facts)
    kept = (tmp_path / "runs" / "mine" / "results.csv").read_text()
    for name in ("nystrom5", "polygon"):
        assert name in "\n".join(table) and name in kept


def test_the_author_checks_corrects_and_registers_and_solves(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "polygon.py").write_text(POLYGON.replace("f(t + h / 2, middle)", "f(t, middle)"))
    (wrong, report), (refused, sentences), (sound, holds) = commands(
        tmp_path, "check polygon:Polygon", "check nystrom:BROKEN", "check nystrom:RK5"
    )
    assert (wrong, refused, sound) == (1, 1, 0)
    said = " ".join(" ".join(report).split())
    assert "FAIL times one step of y' = g(t) has error h^2.00; evaluate stages at t + c_i h." in said
    assert report[-1].startswith("integrator polygon:Polygon FAILS 4 checks (order, local order, ")
    said = " ".join(" ".join(sentences).split())
    assert "claims order 2, but the tree . gives 0.8333333333, the order condition asks 1; correct" in said
    assert holds[-1].startswith("integrator nystrom:RK5 passes: ")

    (tmp_path / "polygon.py").write_text(POLYGON)
    code = textwrap.dedent(
        """
        import math, torch, odenet as on
        from odenet.testing import check
        from polygon import Polygon

        check(Polygon).raise_if_failed()
        on.integrators.register("mine", Polygon)
        y0 = torch.ones(1, 1, dtype=torch.float64)
        ends = [on.solve(lambda t, y: -2 * t * y, y0, (0.0, 1.0), "mine", steps=n).y[-1] for n in (50, 100)]
        wrong = [abs(float(end) - math.exp(-1)) for end in ends]
        print(math.log2(wrong[0] / wrong[1]), *on.integrators.names())
        """
    )
    status, printed, errors = run(tmp_path, code)
    assert status == 0, errors
    order, *names = printed.split()
    assert abs(float(order) - 2) <= 0.1 and {"mine", "polygon", "nystrom5"} <= set(names)


def test_a_broken_plug_in_is_skipped_with_a_warning_and_the_others_work(tmp_path: Path) -> None:
    install(tmp_path)
    code = "import odenet; print(odenet.integrators.get('nystrom5').order)"
    _, printed, errors = run(tmp_path, code, warned="always")
    assert printed.strip() == "5"
    assert "'nystrom_bad' of entry point 'nystrom:BROKEN' was skipped" in errors
