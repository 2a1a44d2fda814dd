"""A plug-in author: a package of his own, installed beside odenet, adds a scheme without touching it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path


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
    info = folder / "nystrom-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nystrom\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[odenet.integrators]\nnystrom5 = nystrom:RK5\nnystrom_bad = nystrom:BROKEN\n"
    )


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", *words], capture_output=True, text=True, cwd=folder, timeout=120,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )  # fmt: skip


def test_an_installed_package_appears_in_list_and_compare(tmp_path: Path) -> None:
    install(tmp_path)
    listed = run(tmp_path, "-m", "odenet", "list", "integrators")
    assert listed.returncode == 0, listed.stderr
    assert "nystrom5" in listed.stdout and "nystrom_bad" not in listed.stdout
    shown = run(tmp_path, "-m", "odenet", "show", "nystrom5")
    assert shown.returncode == 0 and "Nystrom 1925" in shown.stdout
    compared = run(
        tmp_path, "-m", "odenet", "compare", "--data", "moons", "--nets", "resnet",
        "--integrators", "nystrom5", "euler",
        "--seeds", "2", "--width", "4", "--steps", "2", "--train-steps", "5", "--lr", "0.01", "--spans", "1.0",
        "--no-theory", "--name", "mine",
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "nystrom5" in compared.stdout
    assert "nystrom5" in (tmp_path / "runs" / "mine" / "results.csv").read_text()


def test_a_broken_plug_in_is_skipped_with_a_warning_and_the_others_work(tmp_path: Path) -> None:
    install(tmp_path)
    code = (
        "import warnings; warnings.simplefilter('always'); import odenet; "
        "print(odenet.integrators.get('nystrom5').order)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.strip() == "5"
    assert "'nystrom_bad' of entry point 'nystrom:BROKEN' was skipped" in done.stderr
