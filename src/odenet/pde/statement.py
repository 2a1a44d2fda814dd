"""A PDE problem: domain, equations, conditions, unknowns; stated once, checked at once, solved by any method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .. import problem as ground
from ..errors import BadInput, Incompatible
from .checks import check, check_names
from .conditions import Condition
from .domain import Domain
from .energies import check_energy, traced_energy
from .expressions import Expression, Frame, leaves, used
from .operators import called, trace


@dataclass(frozen=True)
class Equation:
    """One equation on the domain or on a part of it.

    residual: function of unknowns, coordinates and parameters by name. within: a Domain that restricts it (two
    materials), or None. weight: of its squared residual in the loss.
    """

    residual: Callable[..., Any]
    within: Domain | None = None
    weight: float = 1.0


class Problem(ground.Problem):
    """Find u with residual(u) = 0 in the domain and the conditions met; with unknown parameters, an inverse problem.

    domain:      space (`Interval`, `Box`, `Disk`, ...), or space * Time(t0, t1)
    residual:    plain Python in fields, `lambda u: u.t + u * u.x - nu * u.xx`; arguments by name among unknowns,
                 coordinates and parameters (`*x` takes all coordinates); a tuple of expressions, or a sequence of
                 functions and `Equation`s, for systems
    conditions:  `dirichlet`, `neumann`, `robin`, `periodic`, `initial`, `operator`, `data`, `integral_is`, `interface`
    unknowns:    names of the fields; a complex field is a pair of real ones
    parameters:  start values of unknown coefficients by name
    exact:       closed form by coordinate names, one expression or a tuple of them, in torch functions
    reference:   function of points (N, d) -> (N, m), computed independently; called once it is needed
    energy:      density whose integral the solution makes smallest, `lambda u, x: u.x**2 / 2 - f(x) * u`: "deep_ritz"
    allow_jumps: initial and boundary values may disagree where they meet

    Raises BadInput in one sentence for everything that can be seen without solving: unknown derivatives and names,
    missing initial or boundary conditions, pieces that do not exist, values that are not finite or contradict.
    """

    def __init__(
        self,
        domain: Domain,
        residual: Callable[..., Any] | Equation | Sequence[Callable[..., Any] | Equation],
        conditions: Sequence[Condition] | Condition = (),
        *,
        unknowns: str | Sequence[str] = "u",
        parameters: Mapping[str, float] | None = None,
        exact: Callable[..., Any] | None = None,
        reference: Callable[[Tensor], Tensor] | None = None,
        energy: Callable[..., Any] | None = None,
        name: str = "",
        about: str = "",
        cite: str = "",
        facts: Mapping[str, Any] | None = None,
        allow_jumps: bool = False,
    ) -> None:
        if not isinstance(domain, Domain):
            raise BadInput(f"a problem's domain is a Domain such as Interval(0, 1) * Time(0, 1); got {domain!r}.")
        self.domain = domain
        self.unknowns = (unknowns,) if isinstance(unknowns, str) else tuple(unknowns)
        self.parameters = {k: _start(k, v) for k, v in (parameters or {}).items()}
        self.conditions = (conditions,) if isinstance(conditions, Condition) else tuple(conditions)
        self.exact, self.reference = exact, reference
        self.name, self.about, self.cite, self.facts = name, about, cite, dict(facts or {})
        self.allow_jumps = allow_jumps
        given = (*(f"n_{c}" for c in domain.names), *(f"other_{c}" for c in domain.names), "data")
        self.frame = Frame(tuple(domain.names), self.unknowns, tuple(self.parameters), given)
        check_names(self)
        listed = residual if isinstance(residual, list | tuple) else [residual]
        self.equations = tuple(r if isinstance(r, Equation) else Equation(r) for r in listed)  # type: ignore[arg-type]
        self.traced: tuple[tuple[Equation, tuple[Expression, ...]], ...] = tuple(
            (e, tuple(trace(e.residual, self.frame))) for e in self.equations
        )
        self.required: tuple[tuple[Condition, tuple[Expression, ...]], ...] = tuple(
            (c, tuple(c.build(self.frame))) for c in self._conditions()
        )
        check(self)
        self.energy = None if energy is None else traced_energy(energy, self.frame)
        if self.energy is not None:
            check_energy(self)

    def _conditions(self) -> tuple[Condition, ...]:
        for c in self.conditions:
            if not isinstance(c, Condition):
                raise BadInput(f"conditions are made by dirichlet, initial, periodic, ...; got {type(c).__name__}.")
        return self.conditions

    @property
    def dim(self) -> int:
        """Number of coordinates, time included."""
        return len(self.frame.coordinates)

    @property
    def evolves(self) -> bool:
        """Whether time is one of the coordinates."""
        return "t" in self.frame.coordinates

    @cached_property
    def linear(self) -> bool:
        """Whether equations and conditions are linear in the unknowns; with unknown parameters they are not."""
        from .checks import is_linear

        return is_linear(self)

    @cached_property
    def time_order(self) -> dict[str, int]:
        """For every unknown the highest derivative in time."""
        if not self.evolves:
            return dict.fromkeys(self.unknowns, 0)
        found = leaves([e for _, es in self.traced for e in es])
        return {u: max((leaf.index[-1] for leaf in found if leaf.unknown == u), default=0) for u in self.unknowns}

    @property
    def inverse(self) -> bool:
        """Whether coefficients are unknown."""
        return bool(self.parameters)

    def truth(self, points: Tensor) -> Tensor | None:
        """The exact or independently computed solution at points (N, d): (N, m); None where there is none."""
        if self.exact is not None:
            columns = dict(zip(self.frame.coordinates, points.unbind(-1)))
            return _columns(called(self.exact, columns, self.frame.coordinates), points, len(self.unknowns))
        return None if self.reference is None else _columns(self.reference(points), points, len(self.unknowns))

    # ---- as a problem that `fit` learns -----------------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator) -> Any:
        """Fresh points for every equation and condition."""
        from .collocation import blocks

        return blocks(self, n, generator, how="uniform")

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Weighted mean squared residuals by equation and condition; `model` maps points (N, d) to (N, m)."""
        from .collocation import losses

        if self.parameters:
            raise Incompatible("fit does not learn a problem's parameters; use pde.solve(problem).")
        return losses(self, model, batch)

    def score(self, model: nn.Module) -> dict[str, float]:
        """The relative L2 error against the truth, where there is one."""
        from .solution import relative_error

        with torch.no_grad():
            found = relative_error(self, model)
        return {} if found is None else {"rel_l2": found}

    def __repr__(self) -> str:
        rows = [*(f"0 = {e}" for _, es in self.traced for e in es), *map(repr, self.conditions)]
        title = f"{self.name}: " if self.name else ""
        return (
            f"Problem({title}{', '.join(self.unknowns)} of {', '.join(self.frame.coordinates)}; "
            + "; ".join(rows)
            + ")"
        )

    def parameters_used(self) -> set[str]:
        """Parameters that occur in an equation or a condition."""
        return used([e for _, es in (*self.traced, *self.required) for e in es], "parameter")


def _start(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(
            f"the parameter {name!r} starts at {value!r}; give a number near where it is expected."
        ) from None
    if not math.isfinite(number):
        raise BadInput(f"the parameter {name!r} starts at {value!r}; give a finite number.")
    return number


def _columns(values: Any, points: Tensor, m: int) -> Tensor:
    parts = [
        torch.as_tensor(v, dtype=points.dtype) for v in (values if isinstance(values, list | tuple) else (values,))
    ]
    columns = [v.expand(len(points))[:, None] if v.ndim < 1 else v if v.ndim > 1 else v[:, None] for v in parts]
    table = torch.cat(columns, 1)
    if table.shape != (len(points), m):
        raise BadInput(f"the exact solution has shape {tuple(table.shape)}; wanted ({len(points)}, {m}).")
    return table
