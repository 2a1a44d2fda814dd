"""Methods by name, and the run that each is given: clock, seed, history, live progress, checkpoints."""

from __future__ import annotations

import difflib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadInput
from ...registry import Registry
from ..solution import Field, Solution, held_out, relative_error
from ..statement import Problem

Progress = Callable[[dict[str, float]], bool | None]


@dataclass
class Run:
    """What a method is given beside the problem.

    method:   its name, kept in checkpoints
    seconds:  the budget; evaluation of the error against the truth stops the clock
    model:    the user's module, or None
    progress: called with every row of the history; returns True to stop
    folder:   where checkpoints go, or None; `resumed`: the tensors of the last one
    """

    seconds: float = 60.0
    seed: int = 0
    method: str = ""
    model: nn.Module | None = None
    progress: Progress | None = None
    folder: Path | None = None
    resumed: dict[str, Tensor] | None = None
    track: bool = True
    history: list[dict[str, float]] = field(default_factory=list)
    spent: float = 0.0
    stopped: bool = False

    def __post_init__(self) -> None:
        self._since: float | None = time.perf_counter()
        self._looked = self._kept = 0.0

    @property
    def used(self) -> float:
        """Seconds spent, pauses left out."""
        return self.spent + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; none once the user has stopped."""
        return 0.0 if self.stopped else self.seconds - self.used

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here is not counted."""
        self.spent, self._since = self.used, None
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def log(
        self, row: Mapping[str, float], problem: Problem | None = None, jet: Any = None, parameters: Any = None
    ) -> None:
        """Add to the history; with `jet`, now and then, held-out residual and error, off the clock."""
        entry = {"seconds": self.used, **row}
        if jet is not None and problem is not None and self.track and self.used >= self._looked:
            with self.paused():
                sums = held_out(problem, jet, parameters or {}, self.seed, 256).values()
                entry["residual"] = (sum(r for r, _ in sums) / max(sum(s for _, s in sums), 1e-300)) ** 0.5
                error = relative_error(problem, lambda x: jet(x, [(0,) * problem.dim])[0], 2000)
                entry |= {} if error is None else {"rel_l2": error}
            self._looked = self.used + max(0.5, self.seconds / 60)
        self.history.append(entry)
        if self.progress is not None:
            with self.paused():
                self.stopped = bool(self.progress(entry)) or self.stopped

    def keep(self, tensors: Mapping[str, Tensor], every: float = 10.0, now: bool = False) -> None:
        """Write a checkpoint where a folder was given and the last is `every` seconds old."""
        if self.folder is None or (not now and self.used < self._kept + every):
            return
        from safetensors.torch import save_file

        from ..solution import _whole

        self.folder.mkdir(parents=True, exist_ok=True)
        table = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        _whole(self.folder / "checkpoint.safetensors", lambda path: save_file(table, path))
        facts = {"history": self.history, "used": self.used, "seed": self.seed, "method": self.method}
        _whole(self.folder / "checkpoint.json", lambda path: Path(path).write_text(json.dumps(facts)))
        self._kept = self.used

    @classmethod
    def resume(cls, folder: str | Path, **words: Any) -> Run:
        """A run that goes on from the checkpoint of a folder. Raises BadInput where there is none."""
        from safetensors.torch import load_file

        where = Path(folder)
        if not (where / "checkpoint.safetensors").exists():
            raise BadInput(f"there is no checkpoint in {where}; start with folder={str(where)!r} and no resume.")
        facts = json.loads((where / "checkpoint.json").read_text())
        words |= {"folder": where, "history": facts["history"], "spent": facts["used"]}
        words |= {"seed": facts["seed"], "method": facts["method"]}
        return cls(resumed=load_file(where / "checkpoint.safetensors"), **words)

    def generator(self, stream: int = 0) -> torch.Generator:
        """Random numbers of their own for every purpose."""
        return torch.Generator().manual_seed(1_000_003 * self.seed + stream)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One way to solve; its fields are its options.

    when: one sentence on when to choose it
    """

    when = ""

    @abstractmethod
    def solve(self, problem: Problem, run: Run) -> Solution:
        """The solution within run.seconds. Raises Incompatible for a problem of another kind."""

    @abstractmethod
    def restore(self, problem: Problem, tensors: Mapping[str, Tensor], run: Run) -> Field:
        """The field of a saved solution."""

    def suits(self, problem: Problem) -> str | None:
        """None where it can solve this problem, else one sentence why not."""
        return None


Maker = Callable[..., Method]
METHODS: Registry[Maker] = Registry("PDE method", "odenet.methods")


def make(name: str, options: Mapping[str, Any]) -> Method:
    """A method with options. Raises BadInput for an option it does not have."""
    maker = METHODS.get(name)
    known = [f.name for f in fields(maker)] if isinstance(maker, type) else _words(maker)  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known)}."
            raise BadInput(f"the method {name!r} has no option {option!r}; {hint}")
    return maker(**options)


def _words(maker: Maker) -> list[str]:
    import inspect

    found = inspect.signature(maker).parameters
    names = [p for p, v in found.items() if v.kind not in (v.VAR_KEYWORD, v.VAR_POSITIONAL)]
    inner = getattr(maker, "of", None)
    return names + ([f.name for f in fields(inner) if f.name not in names] if inner else [])
