"""Reference solutions: computed at two resolutions when first asked for, then kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ...registry import Registry

Tables = dict[str, Tensor]
COMPARED = 2048  # points at which two resolutions are compared
REFERENCES: Registry[Callable[..., Reference]] = Registry("reference", "odenet.references")


def folder() -> Path:
    """Where computed references are kept: ODENET_CACHE, or ~/.cache/odenet, and there `references`."""
    given = os.environ.get("ODENET_CACHE")
    return (Path(given) if given else Path.home() / ".cache" / "odenet") / "references"


@dataclass(frozen=True)
class Recipe:
    """How a reference is made: solve(level) -> tables, evaluate(tables, points (N, d)) -> (N, m).

    level 1 is the reference, level 0 the coarser run that it is compared with. A closed form has no `solve`.
    bounds:  (lower, upper) of the box of points, space before time
    columns: names of the m columns
    sample:  n -> points (n, d), where the domain is not that box
    """

    evaluate: Callable[[Tables, Tensor], Tensor]
    how: str
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    columns: tuple[str, ...] = ("u",)
    solve: Callable[[int], Tables] | None = None
    sample: Callable[[int], Tensor] | None = None

    def points(self, n: int) -> Tensor:
        """n points (n, d) of the domain, always the same."""
        if self.sample is not None:
            return self.sample(n)
        lower, upper = (torch.tensor(side, dtype=torch.float64) for side in self.bounds)
        generator = torch.Generator().manual_seed(0)
        return lower + (upper - lower) * torch.rand(n, len(lower), generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Reference:
    """A solution to compare with: reference(points (N, d)) -> (N, m), float64, space before time.

    Computed at the first use, at two resolutions, and kept on disk (`folder()`; a folder that cannot be written costs
    only the time of computing it again). `.error` is the difference of the two resolutions at 2048 points in relative
    L2, `.largest` the largest one over the largest value (of closed forms: the rounding unit); `.seconds` is the
    processor time of the finer run and of its evaluation there; `.how` is one sentence. Raises BadInput for points of
    another shape.
    """

    name: str
    parameters: Mapping[str, Any]
    version: int
    recipe: Recipe = field(repr=False)

    @property
    def how(self) -> str:
        """Discretisation and resolution, in one sentence."""
        return self.recipe.how

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the m columns."""
        return self.recipe.columns

    @property
    def dim(self) -> int:
        """d, the number of coordinates."""
        return len(self.recipe.bounds[0])

    @property
    def error(self) -> float:
        """Difference between two resolutions in relative L2."""
        return self._solved[1]["error"]

    @property
    def largest(self) -> float:
        """Largest difference between two resolutions, relative to the largest value."""
        return self._solved[1]["largest"]

    @property
    def seconds(self) -> float:
        """Processor seconds of the finer run and of evaluating it at 2048 points."""
        return self._solved[1]["seconds"]

    def points(self, n: int) -> Tensor:
        """n points (n, d) of the domain, always the same."""
        return self.recipe.points(n)

    def __call__(self, points: Tensor) -> Tensor:
        """(N, d) -> (N, m), float64, on the device of the points; differentiable with respect to them."""
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise BadInput(
                f"reference {self.name} takes points (N, {self.dim}), space before time; got {tuple(points.shape)}."
            )
        tables = {key: value.to(points.device) for key, value in self._solved[0].items()}
        return self.recipe.evaluate(tables, points.double())

    @cached_property
    def _solved(self) -> tuple[Tables, dict[str, float]]:
        if self.recipe.solve is None:
            return {}, dict.fromkeys(("error", "largest"), sys.float_info.epsilon) | {"seconds": self._timed({})}
        found = read(self._path, self._inputs)
        if found is None:
            found = self._refined()
            write(self._path, self._inputs, *found)
        return found

    def _refined(self) -> tuple[Tables, dict[str, float]]:
        assert self.recipe.solve is not None
        x = self.points(COMPARED)
        coarse = self.recipe.evaluate(self.recipe.solve(0), x)
        start = time.process_time()
        tables = self.recipe.solve(1)
        fine = self.recipe.evaluate(tables, x)
        seconds = time.process_time() - start
        stated = ~fine.isnan().all(0)  # a column may be left open
        fine, coarse = fine[:, stated], coarse[:, stated]
        largest = float((fine - coarse).abs().max() / fine.abs().max())
        return tables, {"error": float((fine - coarse).norm() / fine.norm()), "largest": largest, "seconds": seconds}

    def _timed(self, tables: Tables) -> float:
        x, start = self.points(COMPARED), time.process_time()
        self.recipe.evaluate(tables, x)
        return time.process_time() - start

    @property
    def _inputs(self) -> str:
        return json.dumps([self.name, dict(self.parameters), self.version], sort_keys=True)

    @property
    def _path(self) -> Path:
        digest = hashlib.sha256(self._inputs.encode()).hexdigest()[:16]
        return folder() / f"{self.name}-{digest}.safetensors"


def reference(version: int = 1) -> Callable[[Callable[..., Recipe]], Callable[..., Reference]]:
    """Decorator: a function of keyword parameters that returns a Recipe becomes one that returns a Reference.

    `version` goes up whenever the numbers that the function computes change: it is part of the file's name.
    """

    def decorate(make: Callable[..., Recipe]) -> Callable[..., Reference]:
        signature = inspect.signature(make)

        @wraps(make)
        def build(*args: Any, **options: Any) -> Reference:
            bound = signature.bind(*args, **options)
            bound.apply_defaults()
            return Reference(make.__name__, bound.arguments, version, make(**bound.arguments))

        return REFERENCES.register(make.__name__, build)

    return decorate


def get(name: str, **parameters: Any) -> Reference:
    """The reference of that name with these parameters. Raises UnknownName."""
    return REFERENCES.get(name)(**parameters)


def read(path: Path, inputs: str) -> tuple[Tables, dict[str, float]] | None:
    """Tables and figures of a stored reference; None where there is none, or one that cannot be read."""
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError, TypeError), safe_open(path, "pt") as file:
        notes = file.metadata() or {}
        if notes["inputs"] == inputs:
            figures = {key: float(notes[key]) for key in ("error", "largest", "seconds")}
            return {key: file.get_tensor(key) for key in file.keys()}, figures  # noqa: SIM118 (no iteration without it)
    return None


def write(path: Path, inputs: str, tables: Tables, figures: Mapping[str, float]) -> None:
    """Store a reference under its name in one step, or not at all; a folder that cannot be written is no error."""
    from safetensors.torch import save

    notes = {"inputs": inputs} | {key: repr(value) for key, value in figures.items()}
    blob = save({k: v.clone(memory_format=torch.contiguous_format) for k, v in tables.items()}, metadata=notes)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
