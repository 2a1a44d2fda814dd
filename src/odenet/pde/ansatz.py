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
from .corners import NONE, Corners, Enriched
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

    On an axis across which the solution is even or odd only what is even is kept: the square, or the cosines.

    bounds:    (2, d)
    periodic:  {axis: harmonics}: cos and sin of 2 pi k (x - a) / (b - a), k = 1 ... harmonics
    maps:      {axis: function of the axis scaled to [-1, 1]}, such as lambda s: torch.asinh(50 * s) / 5 at a shock
    parity:    {axis: 1 or -1}: even solutions, and on periodic axes odd ones, which have the factor `odd` besides
    corners:   singular functions that come last
    """

    bounds: Tensor
    periodic: Mapping[int, int] = field(default_factory=dict)
    maps: Mapping[int, Map] = field(default_factory=dict)
    parity: Mapping[int, int] = field(default_factory=dict)
    corners: Corners = NONE

    @property
    def size(self) -> int:
        """Number of inputs of the trunk."""
        each = [self.periodic.get(i, 0) * (1 if i in self.parity else 2) for i in range(self.bounds.shape[1])]
        return sum(max(1, n) for n in each) + self.corners.size

    def __call__(self, x: Tensor) -> Tensor:
        columns = []
        for i in range(self.bounds.shape[1]):
            if i in self.periodic:
                angle = self._angle(x, i)
                for k in range(1, self.periodic[i] + 1):
                    columns += [torch.cos(angle * k)] + ([] if i in self.parity else [torch.sin(angle * k)])
                continue
            low, high = self.bounds[:, i].tolist()
            c = (x[..., i] - low) * (2 / (high - low)) - 1
            c = self.maps[i](c) if i in self.maps else c
            columns.append(c * c if i in self.parity else c)
        smooth = torch.stack(columns, -1)
        return torch.cat([smooth, self.corners.columns(x)], -1) if self.corners.corners else smooth

    def odd(self, x: Tensor) -> Tensor | None:
        """(N,): the product of what is odd across the axes with parity -1, None where there are none."""
        parts = [torch.sin(self._angle(x, i)) for i, sign in self.parity.items() if sign < 0]
        return _product(parts) if parts else None

    def _angle(self, x: Tensor, i: int) -> Tensor:
        low, high = self.bounds[:, i].tolist()
        return (x[..., i] - low) * (2 * math.pi / (high - low))


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
    depend on unknown parameters stay soft, and so do values that break a periodicity which is met. Raises BadInput for
    a condition with hard=True that cannot be met so.
    """
    frame = problem.frame
    chosen = [c for c in problem.conditions if c.hard is not False and (wanted is not False or c.hard)]
    able = [c for c in chosen if _able(c, problem)]
    if refused := [c for c in chosen if c.hard and c not in able]:
        raise BadInput(
            f"the condition {refused[0]!r} cannot be met by construction; leave hard out to meet it by weight."
        )
    lifts, factors, met = [], [], [c for c in able if c.kind == "periodic"]
    around = list(met)
    for u in problem.unknowns:
        mine = [c for c in able if c.kind in ("dirichlet", "initial") and (c.unknown or problem.unknowns[0]) == u]
        values = [c for c in mine if c.kind == "dirichlet"]
        starts = sorted((c for c in mine if c.kind == "initial"), key=lambda c: c.order)
        starts = [c for k, c in enumerate(starts) if c.order == k]  # u_t alone fixes nothing
        g = constant(frame, _lifted(problem, values))
        if not _agrees(problem, g, around):
            g, values = constant(frame, 0.0), _dropped(values, around)
        if starts and not _agrees(problem, begun := _started(problem, g, starts), around):
            starts = _dropped(starts, around)
        g = begun if starts else g
        lifts.append(g)
        factors.append(_factor(problem, tuple(p for c in values for p in c.pieces), len(starts)))
        met += [*values, *starts]
    names = tuple(str(c.axis) for c in able if c.kind == "periodic")
    return Hard(tuple(constant(frame, g) for g in lifts), tuple(factors), tuple(met), names)


def _agrees(problem: Problem, g: Expression, around: Sequence[Condition]) -> bool:
    """Whether g is as periodic as these conditions say."""
    for c in around if not is_constant(g, 0.0) else ():
        i = problem.frame.coordinates.index(str(c.axis))
        x = problem.domain.sample(64, torch.Generator().manual_seed(4), "sobol").repeat(2, 1)
        x[:64, i], x[64:, i] = problem.domain.bounds[:, i]
        channels = jets.closed([tuple(c.order * (k == i) for k in range(problem.dim))])
        with torch.no_grad():
            lifted = jets.lift(x, channels)
            found = value(g, dict(zip(problem.frame.coordinates, lifted.unbind(-1))), {})
        parts = found.parts if isinstance(found, jets.Jet) else torch.as_tensor(found).expand(1, len(x))
        if float((parts[:, :64] - parts[:, 64:]).abs().max()) > 1e-9 * max(1.0, float(parts.abs().max())):
            return False
    return True


def _dropped(given: Sequence[Condition], around: Sequence[Condition]) -> list[Condition]:
    """None of them; raises BadInput where one must be met by construction."""
    if asked := [c for c in given if c.hard]:
        raise BadInput(
            f"the condition {asked[0]!r} cannot be met by construction beside {around[0]!r}: its values are not "
            "periodic; leave hard out of one of them."
        )
    return []


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
        odd = self.features.odd(x)
        if odd is None and all(d is None for d in self.hard.factor):
            return lift, None
        one = zero + 1.0 if odd is None else odd
        return lift, torch.stack([one if d is None else one * d(x) for d in self.hard.factor], -1)

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
    parity: Mapping[str, int] | None = None,
    corners: Corners = NONE,
    wanted: bool | None = None,
    seed: int = 0,
) -> Ansatz:
    """The model of a problem: `model` or the trunk `net` behind the problem's features and hard conditions.

    parity:  axes across which the model is even (1) or odd (-1); odd only where it is periodic: the odd solutions of
             the other kind have thin layers in the middle, of which a function of the square makes cusps
    corners: whose singular functions stand beside the trunk; values on the boundary then go by weight unless asked for,
             because functions that vanish around such a corner are not smooth there
    """
    chosen = hard(problem, False if wanted is None and corners.corners else wanted)
    names = problem.frame.coordinates
    periodic = {names.index(a): harmonics for a in chosen.periodic}
    signs = {names.index(a): sign for a, sign in (parity or {}).items()}
    features = Features(
        problem.domain.bounds,
        periodic,
        {names.index(a): f for a, f in (maps or {}).items()},
        {i: sign for i, sign in signs.items() if sign > 0 or i in periodic},
        corners,
    )
    words = {"width": width, "depth": depth, "act": activation, "seed": seed, **(net_options or {})}
    m, plain = len(problem.unknowns), features.size - corners.size
    inner = model or trunk(net, plain, m, **words)
    inner = Enriched(inner, corners.size, m) if corners.corners else inner
    return Ansatz(problem, inner.double(), chosen, features)
