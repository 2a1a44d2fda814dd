"""Scripts run by fresh processes that find torch and odenet imported: forks of a server that has run nothing else."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

IMPORTED = [
    "odenet.flow", "odenet.nets", "odenet.train", "odenet.stability", "odenet.experiment", "odenet.cli",
    "sklearn.datasets", "matplotlib.pyplot", "torch._dynamo", "torchdiffeq", "scipy.integrate",
]  # fmt: skip
_SERVER = multiprocessing.get_context("forkserver")
os.environ["OMP_NUM_THREADS"] = "1"  # read when the server starts; a pool of threads does not survive a fork
_SERVER.set_forkserver_preload(IMPORTED)


def run(
    script: Path, folder: Path, env: dict[str, str], timeout: float, *arguments: str
) -> tuple[int | None, str, str]:
    """Exit status (None: stopped after `timeout` seconds), output and errors of `python script *arguments` in `folder`.

    env: added to the environment of the tests; its PYTHONPATH goes first in sys.path
    """
    with tempfile.TemporaryDirectory() as kept:
        paths = [f"{kept}/out", f"{kept}/err"]
        process = _SERVER.Process(target=_carried_out, args=(str(script), str(folder), env, *paths, *arguments))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            return None, "", ""
        printed, errors = (Path(p).read_text(encoding="utf-8") for p in paths)
        return process.exitcode, printed, errors


def run_code(code: str, folder: Path, env: dict[str, str], timeout: float) -> tuple[int | None, str, str]:
    """The same of `python -c code`."""
    with tempfile.TemporaryDirectory() as kept:
        script = Path(kept) / "code.py"
        script.write_text(code, encoding="utf-8")
        return run(script, folder, env, timeout)


def _carried_out(script: str, folder: str, env: dict[str, str], out: str, err: str, *arguments: str) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:0] = env.get("PYTHONPATH", "").split(os.pathsep)
    tempfile.tempdir, sys.argv = None, [script, *arguments]
    runpy.run_path(script, run_name="__main__")
