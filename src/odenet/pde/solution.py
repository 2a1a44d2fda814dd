"""What a solve returns: the solution as a function, how accurate it is, and how it came about."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import BadInput
from .collocation import blocks
from .statement import Problem

Index = tuple[int, ...]
HELD_OUT = 1000  # points per equation that no method has seen
SCORED = 20_000  # points at which the error against the truth is taken


class Field(Protocol):
    """A solution as methods give it: channels of all unknowns, and the tensors that restore it."""

    def jet(self, x: Tensor, channels: Sequence[Index]) -> Tensor:
        """(C, N, m): derivatives of the unknowns at points (N, d)."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the method's `restore` needs."""


@dataclasses.dataclass(repr=False)
class Solution:
    """A solved problem.

    u(points)    (N, d) -> (N, m), space before time; derivative(points, "xx") -> (N, m)
    rel_l2       |u - truth| / |truth| over points of the domain, where the problem has a truth; never the loss
    residual     held-out: root mean square of all rows at points that no method saw, over that of their terms' sizes
    residuals    the same by equation and condition
    history      list of dicts: seconds, loss, and where it was looked at residual, rel_l2
    status       "converged", "budget" (seconds used up), "stalled", "suspect" (not to be trusted: message says why)
    parameters   inferred coefficients; covariance (p, p) of their estimate, from J^T J
    settings     what was chosen: points, width, windows ...
    """

    problem: Problem
    method: str
    field: Field
    seed: int = 0
    seconds: float = 0.0
    status: str = "budget"
    message: str = ""
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    parameters: dict[str, float] = dataclasses.field(default_factory=dict)
    covariance: Tensor | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def u(self, points: Any) -> Tensor:
        """Values at points (N, d) -> (N, m). Raises BadInput for another shape."""
        return self.channels(points, [(0,) * self.problem.dim])[0]

    def derivative(self, points: Any, name: str) -> Tensor:
        """The derivative "x", "xx", "xt", ... of all unknowns at points (N, d) -> (N, m)."""
        found = self.problem.frame.parse(name)
        return self.channels(points, [tuple(found.count(c) for c in self.problem.frame.coordinates)])[0]

    def channels(self, points: Any, indices: Sequence[Index]) -> Tensor:
        """Derivatives by multi-index, (C, N, m)."""
        x = torch.as_tensor(points, dtype=torch.float64)
        if x.ndim != 2 or x.shape[1] != self.problem.dim:
            raise BadInput(
                f"points are (N, {self.problem.dim}), the columns {', '.join(self.problem.frame.coordinates)}; "
                f"got {tuple(x.shape)}."
            )
        with torch.no_grad():
            return self.field.jet(x, indices)

    @cached_property
    def rel_l2(self) -> float | None:
        """|u - truth| / |truth|, or None where the problem has neither a closed form nor a reference."""
        return relative_error(self.problem, self.u)

    @cached_property
    def residuals(self) -> dict[str, float]:
        """Held-out relative residual by equation and condition."""
        least = 1e-12 * max((s for _, s in self._held_out.values()), default=0.0)  # u = 0 has no terms to compare with
        return {name: (r / max(s, least, 1e-300)) ** 0.5 for name, (r, s) in self._held_out.items()}

    @property
    def residual(self) -> float:
        """Held-out relative residual of everything."""
        r, s = (sum(pair[i] for pair in self._held_out.values()) for i in (0, 1))
        return float((r / max(s, 1e-300)) ** 0.5)

    @cached_property
    def _held_out(self) -> dict[str, tuple[float, float]]:
        return held_out(self.problem, self.field.jet, self.parameters, self.seed)

    def __repr__(self) -> str:
        error = "" if self.rel_l2 is None else f"rel. L2 error {self.rel_l2:.3g}, "
        name = self.problem.name or "problem"
        found = "".join(f", {k} = {v:.6g}" for k, v in self.parameters.items())
        return (
            f"Solution({name} by {self.method}: {self.status} after {self.seconds:.3g} s; {error}"
            f"held-out residual {self.residual:.3g}{found})"
        )

    def save(self, folder: str | Path) -> Path:
        """Numbers as safetensors, everything else as JSON; `pde.load` reads it back without pickle."""
        from safetensors.torch import save_file

        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().contiguous().clone() for k, v in self.field.tensors().items()}
        if self.covariance is not None:
            tensors["covariance"] = self.covariance
        facts = {
            "problem": self.problem.facts.get("arguments", {"name": self.problem.name}),
            **{
                k: getattr(self, k) for k in ("method", "seed", "seconds", "status", "message", "history", "parameters")
            },
            "settings": self.settings,
        }
        _whole(where / "solution.safetensors", lambda path: save_file(tensors, path))
        _whole(where / "solution.json", lambda path: Path(path).write_text(json.dumps(facts, indent=1)))
        return where


def _whole(path: Path, write: Callable[[str], Any]) -> None:
    """Write beside and rename, so that a file is there whole or not at all."""
    beside = f"{path}.new"
    write(beside)
    Path(beside).replace(path)


def relative_error(problem: Problem, u: Callable[[Tensor], Tensor], n: int = SCORED) -> float | None:
    """|u - truth| / |truth| over n points of the domain (a Sobol set, weighted alike), all unknowns together.

    An unknown whose truth is NaN throughout (a pressure that is not square integrable, say) is left out.
    """
    x = problem.domain.sample(n if problem.dim <= 3 else n // 2, torch.Generator().manual_seed(12345), "sobol")
    truth = problem.truth(x)
    if truth is None:
        return None
    with torch.no_grad():
        gap = torch.cat([u(part) for part in x.split(4096)]) - truth
    stated = ~truth.isnan().all(0)
    return float(gap[:, stated].norm() / truth[:, stated].norm())


def held_out(
    problem: Problem, jet: Callable[..., Tensor], parameters: Mapping[str, float], seed: int, n: int = HELD_OUT
) -> dict[str, tuple[float, float]]:
    """By block the mean squares of the rows and of their terms' sizes, at points that no method uses."""
    generator = torch.Generator().manual_seed(seed + 7_654_321)
    found: dict[str, tuple[float, float]] = {}
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in parameters.items()}
    with torch.no_grad():
        for b in blocks(problem, n, generator, "uniform"):
            leaves = b.values(jet(b.points, b.channels), problem.unknowns)
            r, s = b.residual(leaves, values), b.scale(leaves, values)
            if b.measure is not None:
                r, s = b.measure @ r - b.total, b.measure @ s + abs(b.total)
            found[b.name] = (float(r.square().mean(0).sum()), float(s.square().mean(0).sum()))
    return found
