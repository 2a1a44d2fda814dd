"""What a run of the stability suite is: one frozen record, the same as Python words, JSON and shell flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import BadInput, UnknownName
from ..spec import Experiment

NETS = ("resnet", "parabolic", "hamiltonian")
QUICK: dict[str, Any] = {"seeds": 3, "train_steps": 100, "steps": 8, "integrators": ("euler", "rk4")}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Which nets are looked at, on what data, how often, and how they are trained.

    Raises BadInput where a value cannot be right.
    """

    nets: tuple[str, ...] = NETS
    """Names of nets, each under its own integrator, or net/integrator, such as resnet/rk4."""
    data: str = "digits"
    """Name of a data set, or a folder with IDX or CIFAR binary files."""
    integrators: tuple[str, ...] = ("euler", "midpoint", "rk4")
    """Every net is also trained and tested under those of these that admit it: the train x test matrix."""
    seeds: int = 5
    """Repetitions: each has a split, initial weights and a batch order of its own, equal for all nets."""
    width: int = 32
    """Width of the state."""
    steps: int = 16
    """Steps over the depth, each with weights of its own."""
    span: float = 1.0
    """Depth T, h = T/steps."""
    lr: float = 1e-2
    """Learning rate of Adam."""
    train_steps: int = 240
    """Steps of Adam for each training."""
    batch: int = 64
    """Samples in a batch."""
    quick: bool = False
    """Fewer seeds, integrators, layers and training steps wherever you do not say: a look in half a minute."""
    name: str = ""
    """Name of the folder; none given: the data set and the time."""
    out: str = "runs"
    """Folder of runs."""
    workers: int = 0
    """Worker processes; 0 is one for each core, 1 runs in this process."""

    def __post_init__(self) -> None:
        for key in ("lr", "span"):
            if isinstance(getattr(self, key), bool) or not isinstance(getattr(self, key), int | float):
                raise BadInput(f"{key} is a number, got {getattr(self, key)!r}.")
        checked = self.experiment()
        for field in fields(self):
            if field.name not in ("lr", "span", "quick"):
                object.__setattr__(self, field.name, getattr(checked, field.name))

    def experiment(self) -> Experiment:
        """The same as an experiment without a search, which checks the types and values."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("lr", "span", "quick")}
        return Experiment(**own, lr=(self.lr,), spans=(self.span,), theory=False)

    def settled(self) -> Suite:
        """The record with `quick` carried out: its smaller values wherever a field has its default."""
        if not self.quick:
            return self
        plain = Suite()
        return replace(self, **{k: v for k, v in QUICK.items() if getattr(self, k) == getattr(plain, k)})

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Suite:
        """Raises UnknownName for a key that is none of the fields, BadInput for a value of another type."""
        known = [field.name for field in fields(cls)]
        for key in content:
            if key not in known:
                raise UnknownName(f"a stability suite has no entry {key!r}; known: {', '.join(known)}.")
        return cls(**content)

    @classmethod
    def read(cls, path: Path) -> Suite:
        """The record in a JSON file."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as problem:
            raise BadInput(f"{path} is not a record of a stability suite: {problem}.") from None
