"""Run folders: what is finished is on disk, nothing is overwritten, a torn last line does not matter.

runs/<name>/spec.json        the experiment
           results.jsonl     one line for each finished unit, appended as it finishes
           nets/             weights
           results.csv ...   written at the end from results.jsonl
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .spec import PLACE, Experiment


def write(path: Path, content: str | bytes) -> Path:
    """A file that appears complete or not at all: written beside, synced, renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


class Run:
    """One run folder. `Run.start` makes it, `Run.open` finds it; both refuse what is not theirs."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder = folder
        self.experiment = experiment

    @classmethod
    def start(cls, experiment: Experiment, *, resume: bool = False, folder: Path | None = None) -> Run:
        """A fresh folder out/name, or with `resume` the existing one of the same experiment.

        Raises BadInput where the folder exists and `resume` is not said, or holds another experiment.
        """
        folder = folder or Path(experiment.out) / (experiment.name or _by_time(experiment))
        if resume and (folder / "spec.json").is_file():
            return cls._again(folder, experiment)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = "" if resume else " or say resume (--resume) to finish it"
            raise BadInput(f"the run folder {folder} exists already and is left as it is; choose another name{hint}.")
        try:
            (folder / "nets").mkdir(parents=True, exist_ok=True)
            write(folder / "spec.json", experiment.to_json())
        except OSError as problem:
            raise BadInput(f"the run folder {folder} cannot be written: {problem.strerror}.") from None
        return cls(folder, experiment)

    @classmethod
    def _again(cls, folder: Path, experiment: Experiment) -> Run:
        found = cls.open(folder)
        if found.experiment.id != experiment.id:
            ours, theirs = experiment.to_dict(), found.experiment.to_dict()
            changed = ", ".join(sorted(k for k in ours if ours[k] != theirs[k] and k not in PLACE))
            raise BadInput(f"the run folder {folder} holds another experiment ({changed} differ); choose another name.")
        found._mend()
        return found

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in a folder; raises BadInput where there is none."""
        folder = Path(folder)
        if not (folder / "spec.json").is_file():
            raise BadInput(f"{folder} is not a run folder: it has no spec.json.")
        return cls(folder, Experiment.read(folder / "spec.json"))

    @property
    def _log(self) -> Path:
        return self.folder / "results.jsonl"

    def append(self, key: str, result: dict[str, Any]) -> None:
        """Add a finished unit: one line in one write."""
        line = json.dumps({"key": key, **result}) + "\n"
        handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Finished units by key; the last entry of a key counts, a torn line is skipped."""
        if not self._log.is_file():
            return {}
        found = {}
        for line in self._log.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                found[entry.pop("key")] = entry
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
        return found

    def _mend(self) -> None:
        """End a torn last line, so that the next entry starts a line of its own."""
        if self._log.is_file() and not self._log.read_bytes().endswith(b"\n"):
            with self._log.open("ab") as file:
                file.write(b"\n")


def _by_time(experiment: Experiment) -> str:
    """data-YYYYMMDD-HHMMSS."""
    word = "".join(c if c.isalnum() else "-" for c in Path(experiment.data).name)
    return f"{word}-{time.strftime('%Y%m%d-%H%M%S')}"
