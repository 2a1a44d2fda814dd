"""What an experiment is: one frozen record, the same as Python words, JSON, TOML and shell flags."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName

NAME = re.compile(r"[A-Za-z0-9._-]+")
PLACE = ("name", "out", "workers")  # where and how fast, not what: no part of the run id
PROTOCOLS = ("equal_parameters", "equal_evaluations", "equal_time")
NETS = (
    "resnet", "antisymmetric", "hamiltonian", "hamiltonian_j", "parabolic", "second_order", "lm_resnet", "momentum",
    "mlp",
)  # fmt: skip
QUICK: dict[str, Any] = {
    "nets": ("resnet", "antisymmetric", "hamiltonian", "mlp"),
    "train_steps": 150,
    "steps": 8,
    "lr": (2e-2,),
    "spans": (1.0,),
}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Which nets are compared, under which integrators, on what, how often, and how they are trained.

    Every net under every integrator gets the same search over `lr` x `spans` for each seed, decided on the validation
    part. Raises BadInput where a value cannot be right.
    """

    data: str = "digits"
    """Name of a data set, or a folder with IDX or CIFAR binary files."""
    nets: tuple[str, ...] = NETS
    """Names of nets, or all: every one that takes the data."""
    integrators: tuple[str, ...] = ()
    """Integrators for every ODE net; none given: each net under its own choice; all: every explicit one with fixed
    steps that admits it. A net that is a scheme keeps it."""
    seeds: int = 3
    """Repetitions: each has a split, initial weights and a batch order of its own, equal for all nets."""
    width: int = 32
    """Width of the state."""
    steps: int = 16
    """Steps over the depth, each with weights of its own."""
    lr: tuple[float, ...] = (5e-3, 2e-2)
    """Learning rates searched."""
    spans: tuple[float, ...] = (1.0, 4.0)
    """Depths T searched, h = T/steps; baselines have none."""
    train_steps: int = 240
    """Steps of Adam for each training."""
    batch: int = 64
    """Samples in a batch."""
    reference: str = ""
    """Compare with this one, such as resnet/euler; none given: the one with the best validation accuracy."""
    protocol: str = ""
    """What is held equal: equal_parameters (by width), equal_evaluations (by steps), equal_time (by training steps)."""
    theory: bool = True
    """Also run the task where theory predicts the outcome."""
    quick: bool = False
    """Fewer nets, integrators, seeds and steps wherever you do not say: a look in less than a minute."""
    name: str = ""
    """Name of the run; none given: the data set and the time."""
    out: str = "runs"
    """Folder of runs."""
    workers: int = 0
    """Worker processes; 0 is one for each core, 1 runs in this process."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, str(field.type), getattr(self, field.name)))
        for key in ("seeds", "width", "steps", "train_steps", "batch"):
            if getattr(self, key) < 1:
                raise BadInput(
                    f"{key} is a positive whole number, got {getattr(self, key)}; write {key}=16, for instance."
                )
        for key in ("lr", "spans"):
            if not getattr(self, key) or not all(0 < v < math.inf for v in getattr(self, key)):
                raise BadInput(f"{key} is a list of positive numbers, got {list(getattr(self, key))}.")
        if not self.nets:
            raise BadInput('nets is empty; name at least one, such as "resnet".')
        if self.protocol and self.protocol not in PROTOCOLS:
            raise BadInput(f"protocol {self.protocol!r} is not known; write one of {', '.join(PROTOCOLS)}, or none.")
        if self.workers < 0:
            raise BadInput(f"workers is 0 (one for each core) or a positive number, got {self.workers}.")
        if self.name and (not NAME.fullmatch(self.name) or set(self.name) == {"."}):
            raise BadInput(f"run name {self.name!r} is not usable: letters, digits, '.', '_' and '-' only.")

    @property
    def id(self) -> str:
        """sha256 of what is run, in hex: the same for two specs that differ in name, place or number of workers."""
        content = {k: v for k, v in self.to_dict().items() if k not in PLACE and (k, v) != ("protocol", "")}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def settled(self) -> Experiment:
        """The spec with `quick` carried out: its smaller values wherever a field has its default."""
        if not self.quick:
            return self
        plain = Experiment()
        smaller = {k: v for k, v in QUICK.items() if getattr(self, k) == getattr(plain, k)}
        return replace(self, **smaller)

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_toml(self, *, place: bool = True) -> str:
        """The spec as TOML; without `place` only what is run, not where."""
        entries = {k: v for k, v in self.to_dict().items() if place or k not in PLACE}
        # JSON's strings, numbers, lists and booleans are TOML's
        return "".join(f"{k} = {json.dumps(v)}\n" for k, v in entries.items())

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Experiment:
        """Raises UnknownName for a key that is none of the fields, BadInput for a value of another type."""
        known = [field.name for field in fields(cls)]
        for key in content:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
                raise UnknownName(f"an experiment has no entry {key!r}; {hint}")
        return cls(**content)

    @classmethod
    def read(cls, path: str | Path) -> Experiment:
        """The experiment in a .toml or .json file."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except OSError as problem:
            raise BadInput(f"the config {path} cannot be read: {problem.strerror}.") from None
        except ValueError as problem:
            raise BadInput(f"the config {path} is not valid {path.suffix[1:].upper() or 'JSON'}: {problem}.") from None
        if not isinstance(content, dict):
            raise BadInput(
                f"the config {path} holds a {type(content).__name__}; write a table of entries such as seeds = 3."
            )
        return cls.from_dict(content)


def _typed(key: str, kind: str, value: Any) -> Any:
    """The value as the type that the field declares, if it is one (a list for a tuple, 1 for 1.0), else BadInput."""
    if kind.startswith("tuple"):
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise BadInput(f"{key} is a list, got {value!r}; write {key} = [{value!r}].")
        member = "str" if "str" in kind else "float"
        return tuple(_typed(f"each entry of {key}", member, v) for v in value)
    allowed: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    if not isinstance(value, allowed[kind]) or (kind != "bool" and isinstance(value, bool)):
        raise BadInput(f"{key} is of type {kind}, got {value!r}.")
    return float(value) if kind == "float" else value
