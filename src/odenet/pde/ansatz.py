"""Models of a solution: features of the coordinates -> trunk -> hard conditions.

    u_j(x) = g_j(x) + d_j(x) N_j(features(x)),   g_j meets the conditions, d_j vanishes where they hold

The trunk N is any module whose operations carry derivative channels: an MLP, a Flow, a Chain, a net of the zoo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import jets
from .conditions import Condition, number
from .expressions import PARAMETER, Expression, constant, is_constant, used, value
from .lifting import interpolated
from .statement import Problem
from .trunks import mlp as mlp
from .trunks import trunk

Index = tuple[int, ...]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Features:
    """Fixed maps of the coordinates to the inputs of a trunk: every axis on [-1, 1], or as points of a circle.

    bounds:    (2, d)
    periodic:  {axis: harmonics}: cos and sin of 2 pi k (x - a) / (b - a), k = 1 ... harmonics
    maps:      {axis: function of the axis scaled to [-1, 1]}, such as lambda s: torch.asinh(50 * s) / 5 at a shock
    parity:    {axis: "even"}: the square of the scaled axis instead of it (odd solutions: see `Hard.odd`)
    """

    bounds: Tensor
    periodic: Mapping[int, int] = field(default_factory=dict)
    maps: Mapping[int, Map] = field(default_factory=dict)
    parity: Mapping[int, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of inputs of the trunk."""
        return sum(2 * self.periodic[i] if i in self.periodic else 1 for i in range(self.bounds.shape[1]))

    def __call__(self, x: Tensor) -> Tensor:
        columns = []
        for i, (low, high) in enumerate(self.bounds.T.tolist()):
            c = x[..., i]
            if i in self.periodic:
                angle = (c - low) * (2 * math.pi / (high - low))
                for k in range(1, self.periodic[i] + 1):
                    columns += [torch.cos(angle * k), torch.sin(angle * k)]
                continue
            c = (c - low) * (2 / (high - low)) - 1
            c = self.maps[i](c) if i in self.maps else c
            columns.append(c * c if self.parity.get(i) == "even" else c)
        return torch.stack(columns, -1)


@dataclass(frozen=True)
class Hard:
    """What the model satisfies by construction.

    lift:     for every unknown an expression of the coordinates, g
    factor:   for every unknown a function of points, d, or None for 1
    met:      the conditions that need no rows any more
    periodic: axes whose condition the features satisfy
    """

    lift: tuple[Expression, ...]
    factor: tuple[Map | None, ...]
    met: tuple[Condition, ...]
    periodic: tuple[str, ...] = ()


def hard(problem: Problem, wanted: bool | None = None) -> Hard:
    """The conditions that can be met exactly: values on pieces, initial states, periodic axes.

    wanted: None: all that can be, unless a condition says hard=False; False: only those that say hard=True. Values that
    depend on unknown parameters stay soft. Raises BadInput for a condition with hard=True that cannot be met so.
    """
    frame = problem.frame
    chosen = [c for c in problem.conditions if c.hard is not False and (wanted is not False or c.hard)]
    able = [c for c in chosen if _able(c, problem)]
    if refused := [c for c in chosen if c.hard and c not in able]:
        raise BadInput(
            f"the condition {refused[0]!r} cannot be met by construction; leave hard out to meet it by weight."
        )
    lifts, factors, met = [], [], [c for c in able if c.kind == "periodic"]
    for u in problem.unknowns:
        mine = [c for c in able if c.kind in ("dirichlet", "initial") and (c.unknown or problem.unknowns[0]) == u]
        values = [c for c in mine if c.kind == "dirichlet"]
        starts = sorted((c for c in mine if c.kind == "initial"), key=lambda c: c.order)
        starts = [c for k, c in enumerate(starts) if c.order == k]  # u_t alone fixes nothing
        g, pieces = _lifted(problem, values), tuple(p for c in values for p in c.pieces)
        if starts:
            g = _started(problem, g, starts)
        lifts.append(g)
        factors.append(_factor(problem, pieces, len(starts)))
        met += [*values, *starts]
    names = tuple(str(c.axis) for c in able if c.kind == "periodic")
    return Hard(tuple(constant(frame, g) for g in lifts), tuple(factors), tuple(met), names)


def _able(c: Condition, problem: Problem) -> bool:
    if c.kind == "periodic":
        return c.unknown is None or len(problem.unknowns) == 1
    if c.kind not in ("dirichlet", "initial") or c.points is not None:
        return False
    return not used(number(c.value, problem.frame), PARAMETER)


def _lifted(problem: Problem, values: Sequence[Condition]) -> Any:
    """A function with all these values: the value itself where it is one, else weighted by distances of the others."""
    parts = [number(c.value, problem.frame) for c in values]
    if not parts:
        return constant(problem.frame, 0.0)
    if all(repr(p) == repr(parts[0]) for p in parts):
        return parts[0]
    if (smooth := interpolated(problem, values)) is not None:
        return smooth
    away = [_distance(problem, c.pieces) for c in values]
    weights = [_product([d for j, d in enumerate(away) if j != i]) for i in range(len(parts))]
    total = weights[0]
    for w in weights[1:]:
        total = total + w
    blended = parts[0] * (weights[0] / total)
    for p, w in zip(parts[1:], weights[1:]):
        blended = blended + p * (w / total)
    return blended


def _product(factors: Sequence[Any]) -> Any:
    result = factors[0]
    for f in factors[1:]:
        result = result * f
    return result


def _distance(problem: Problem, pieces: tuple[str, ...]) -> Expression:
    """The distance from these pieces as an expression of the coordinates."""
    columns = tuple(Expression(problem.frame, "coordinate", (c,)) for c in problem.frame.spatial)
    space = problem.domain.space if problem.evolves else problem.domain

    def distance(*parts: Tensor) -> Tensor:
        return space.distance(torch.stack(parts, -1), pieces)

    return Expression(problem.frame, distance, columns)


def _started(problem: Problem, g: Expression, starts: Sequence[Condition]) -> Expression:
    """g + (u0 - g(t0)) + (t - t0) (v0 - g_t(t0)) + ...: right at t0, and g on the boundary where data agree."""
    first = float(problem.domain.bounds[0, -1])
    t = Expression(problem.frame, "coordinate", ("t",))
    result, slope = g, g
    for k, c in enumerate(starts):
        rest = number(c.value, problem.frame) - (slope.at(t=first) if not is_constant(slope, 0.0) else 0.0)
        result = result + (rest if k == 0 else rest * (t - first) ** k * (1 / math.factorial(k)))
        slope = slope.d("t") if k + 1 < len(starts) else slope
    return result


def _factor(problem: Problem, pieces: tuple[str, ...], order: int) -> Map | None:
    if not pieces and not order:
        return None
    low, high = (float(v) for v in problem.domain.bounds[:, -1])

    def factor(x: Tensor) -> Tensor:
        result = problem.domain.distance(x, pieces) if pieces else None
        if order:
            tau = (x[..., -1] - low) * (1 / (high - low))
            power = tau if order == 1 else tau**order
            result = power if result is None else result * power
        assert result is not None
        return result

    return factor


class Ansatz(nn.Module):
    """points (N, d) -> (N, m), with derivative channels; what depends on no weight is computed once per point set.

    trunk: a module from (N, features.size) to (N, m). Raises BadInput where its shapes do not fit.
    """

    def __init__(self, problem: Problem, trunk: nn.Module, hard: Hard, features: Features) -> None:
        super().__init__()
        self.trunk, self.hard, self.features, self.problem = trunk, hard, features, problem
        probe = problem.domain.sample(2, torch.Generator().manual_seed(0), "uniform")
        try:
            shape = tuple(trunk(features(probe)).shape)
        except RuntimeError as mismatch:
            raise BadInput(
                f"the model cannot take the {features.size} inputs of this problem ({mismatch}); build it with "
                f"dim_in={features.size}, dim_out={len(problem.unknowns)}, in float64."
            ) from None
        if shape != (2, len(problem.unknowns)):
            raise BadInput(f"the model gives {shape} for 2 points; wanted (2, {len(problem.unknowns)}).")

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(self.trunk(self.features(x)), *self.fixed(x))

    def fixed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """g and d at points, (N, m) each; d is None where no condition is hard."""
        columns = {c: x[..., i] for i, c in enumerate(self.problem.frame.coordinates)}
        memo: dict[int, Any] = {}
        zero = x[..., 0] * 0.0
        lift = torch.stack([zero + value(g, columns, memo) for g in self.hard.lift], -1)
        if all(d is None for d in self.hard.factor):
            return lift, None
        return lift, torch.stack([zero + 1.0 if d is None else d(x) for d in self.hard.factor], -1)

    def joined(self, n: Tensor, lift: Tensor, factor: Tensor | None) -> Tensor:
        """g + d N."""
        return lift + (n if factor is None else factor * n)

    def prepared(self, x: Tensor, channels: Sequence[Index]) -> tuple[Any, ...]:
        """Channels of features, g and d, which no weight changes."""
        with torch.no_grad():
            lifted = jets.lift(x, channels)
            return (self.features(lifted), *self.fixed(lifted))

    def channels(self, prepared: tuple[Any, ...]) -> Tensor:
        """(C, N, m): all channels of u, in the order of the closed set."""
        features, lift, factor = prepared
        return self.joined(self.trunk(features), lift, factor).parts  # type: ignore[attr-defined, no-any-return]


def ansatz(
    problem: Problem,
    model: nn.Module | None = None,
    *,
    width: int = 20,
    depth: int = 3,
    activation: str = "tanh",
    net: str = "mlp",
    net_options: Mapping[str, Any] | None = None,
    harmonics: int = 1,
    maps: Mapping[str, Map] | None = None,
    wanted: bool | None = None,
    seed: int = 0,
) -> Ansatz:
    """The model of a problem: `model` or the trunk `net` behind the problem's features and hard conditions."""
    chosen = hard(problem, wanted)
    names = problem.frame.coordinates
    features = Features(
        problem.domain.bounds,
        {names.index(a): harmonics for a in chosen.periodic},
        {names.index(a): f for a, f in (maps or {}).items()},
    )
    words = {"width": width, "depth": depth, "act": activation, "seed": seed, **(net_options or {})}
    inner = model or trunk(net, features.size, len(problem.unknowns), **words)
    return Ansatz(problem, inner.double(), chosen, features)
