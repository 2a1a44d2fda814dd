"""Carrying out units: in this process, or on worker processes that are replaced when they die.

A worker is `python -m odenet.experiment.worker`: it speaks JSON lines, never unpickles anything and never imports the
user's script, so scripts need no `if __name__ == "__main__"` guard. What it does not know (an integrator or net that
was registered in this process only) comes back and is carried out here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import OdenetError

Unit = dict[str, Any]
Keep = Callable[[Unit, dict[str, Any]], None]  # called for every finished unit, one at a time
Tell = Callable[[Unit, float], None]  # progress of a unit, from 0 to 1

COMMAND = (sys.executable, "-m", "odenet.experiment.worker")
TRIES = 2  # a unit whose worker died is tried once more: the cause may have been outside


def execute(units: Sequence[Unit], count: int, folder: Path | None, keep: Keep, tell: Tell) -> None:
    """Carry out all units on `count` workers (1: in this process); a unit that fails leaves the others alone.

    A failed unit is kept as {"error": sentence}. KeyboardInterrupt stops the workers; what was kept stays.
    """
    if count <= 1 or len(units) <= 1:
        for unit in units:
            keep(unit, attempt(unit, folder, partial(tell, unit)))
        return
    _Crew(units, folder, keep, tell).work(min(count, len(units)))


def attempt(unit: Unit, folder: Path | None, tell: Callable[[float], None]) -> dict[str, Any]:
    """The result of a unit, or {"error": sentence} where it raised."""
    from .run import run

    try:
        return run(unit, folder, tell)
    except OdenetError as problem:
        return {"error": str(problem)}
    except Exception as problem:  # one failing unit must not take the others with it
        return {"error": f"{type(problem).__name__}: {problem}"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Crew:
    """Threads that each look after one worker process, and this process for what the workers do not know."""

    def __init__(self, units: Sequence[Unit], folder: Path | None, keep: Keep, tell: Tell) -> None:
        self.todo = deque(units)
        self.mine: deque[Unit] = deque()
        self.open = len(units)
        self.tries: dict[str, int] = {}
        self.folder, self._keep, self._tell = folder, keep, tell
        self.changed = threading.Condition()
        self.processes: set[subprocess.Popen[str]] = set()
        self.trouble: BaseException | None = None
        self.stopping = False

    def work(self, count: int) -> None:
        threads = [threading.Thread(target=self._guarded, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            self._own_part()
        finally:
            with self.changed:
                self.stopping = True
                for process in self.processes:
                    process.kill()
                self.changed.notify_all()
            for thread in threads:
                thread.join()
        if self.trouble is not None:
            raise self.trouble

    def _own_part(self) -> None:
        """Units that only this process knows, until none is open."""
        while True:
            with self.changed:
                while self.open and not self.mine and self.trouble is None:
                    self.changed.wait(timeout=0.2)  # so that Ctrl-C is heard on every system
                if not self.open or self.trouble is not None:
                    return
                unit = self.mine.popleft()
            self._done(unit, attempt(unit, self.folder, partial(self._tell, unit)))

    def _guarded(self) -> None:
        try:
            self._look_after_one()
        except BaseException as problem:  # a full disk, say: the main thread raises it
            with self.changed:
                self.trouble = self.trouble or problem
                self.changed.notify_all()

    def _look_after_one(self) -> None:
        worker: _Worker | None = None
        try:
            while (unit := self._next()) is not None:
                worker = worker or self._hire()
                if worker.ready and not worker.knows(unit):
                    with self.changed:
                        self.mine.append(unit)
                        self.changed.notify_all()
                elif (result := worker.carry_out(unit, self.folder, partial(self._tell, unit))) is not None:
                    self._done(unit, result)
                else:
                    gone, worker = worker, None
                    self._died(unit, gone)
        finally:
            if worker is not None:
                self._leave(worker)

    def _next(self) -> Unit | None:
        with self.changed:
            while not self.stopping and self.open and not self.todo:
                self.changed.wait(timeout=0.2)  # a unit may come back from a worker that died
            return self.todo.popleft() if self.todo and not self.stopping else None

    def _hire(self) -> _Worker:
        worker = _Worker()
        with self.changed:
            self.processes.add(worker.process)
            if self.stopping:
                worker.process.kill()
        worker.wait()
        return worker

    def _leave(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.close()
        with self.changed:
            self.processes.discard(worker.process)

    def _died(self, unit: Unit, worker: _Worker) -> None:
        code = worker.process.wait()
        self._leave(worker)
        if self.stopping:
            return
        with self.changed:
            tries = self.tries[unit["key"]] = self.tries.get(unit["key"], 0) + 1
            if tries < TRIES:
                self.todo.appendleft(unit)
                self.changed.notify_all()
                return
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._done(unit, {"error": f"the worker process died {tries} times ({why}){worker.last_words}"})

    def _done(self, unit: Unit, result: dict[str, Any]) -> None:
        with self.changed:
            if not self.stopping:
                self._keep(unit, result)
            self.open -= 1
            self.changed.notify_all()


class _Worker:
    """A worker process: JSON lines to it, JSON lines back, its complaints in a temporary file."""

    def __init__(self) -> None:
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        home = str(Path(__file__).parents[2])
        path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which decides
        )
        self.names: dict[str, list[str]] = {}
        self.ready = False
        self.last_words = "."

    def wait(self) -> None:
        """Until the worker has said what it knows, or died."""
        said = self._hear()
        self.ready = said is not None
        self.names = (said or {}).get("names", {})

    def knows(self, unit: Unit) -> bool:
        """Whether every name in the unit is registered there too, or is a folder of data."""
        for kind, known in self.names.items():
            word = unit.get(kind, "-")
            if word not in known and word != "-" and not (kind == "data" and Path(word).is_dir()):
                return False
        return True

    def carry_out(self, unit: Unit, folder: Path | None, tell: Callable[[float], None]) -> dict[str, Any] | None:
        """The result, or None if the worker died."""
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"unit": unit, "folder": folder and str(folder)}) + "\n")
            self.process.stdin.flush()
        except OSError:
            return None
        while (said := self._hear()) is not None:
            if "result" in said:
                return said["result"]
            tell(said["progress"])
        return None

    def _hear(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        try:
            return json.loads(line) if line.endswith("\n") else None
        except ValueError:
            return None

    def close(self) -> None:
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()  # type: ignore[union-attr]
            except OSError:
                continue
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").strip().splitlines()
        self.last_words = f": {lines[-1]}" if lines else "."
        self.complaints.close()
