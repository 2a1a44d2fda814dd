"""Residuals on point sets: the rows that every method makes small.

A block is one equation or condition at its points. Its rows depend on derivative channels of the unknowns, here or at
other places; `Collocation` puts a model behind the channels and offers r(theta) and its Jacobian block by block.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import jets
from ..optimise.base import LeastSquares
from .ansatz import Ansatz
from .conditions import Condition
from .expressions import Expression, Leaf, key, leaves, terms, value
from .statement import Equation, Problem

CHUNK = 4096  # rows of a block at once: memory does not grow with the number of points


def flat(weights: Sequence[Tensor]) -> Tensor:
    """All weights in one row."""
    return torch.cat([p.detach().flatten() for p in weights])


@torch.no_grad()
def write(weights: Sequence[Tensor], theta: Tensor) -> int:
    """The beginning of theta into the weights; how many numbers they took."""
    at = 0
    for p in weights:
        p.copy_(theta[at : at + p.numel()].view_as(p))
        at += p.numel()
    return at


@dataclass
class Block:
    """One equation or condition at its points.

    name:    for reports; rows: expressions that vanish; x (n, d); given: columns by name, such as n_x and data
    weight:  of the mean of the squared rows in the loss
    measure: (n,) quadrature weights: then the block is one row, sum_n measure_n row_n - total; (Q, n): Q such rows for
             each of the R; (Q, n, R): Q rows, summed over n and R
    """

    name: str
    rows: tuple[Expression, ...]
    x: Tensor
    given: dict[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    measure: Tensor | None = None
    total: float = 0.0
    source: Equation | Condition | None = None

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """The channels that the rows need."""
        return leaves(self.rows)

    @cached_property
    def places(self) -> dict[Any, Tensor]:
        """Points (n, d) by place: None for the block's own."""
        env = self.constants({})
        found: dict[Any, Tensor] = {}
        for leaf in self.leaves:
            where = key(leaf)[2]
            if where is None:
                found[where] = self.x
            elif where not in found:
                assert leaf.place is not None
                columns = [torch.as_tensor(value(p, env), dtype=self.x.dtype).expand(len(self.x)) for p in leaf.place]
                found[where] = torch.stack(columns, -1)
        return found

    @cached_property
    def channels(self) -> tuple[tuple[int, ...], ...]:
        """The closed set of derivative indices of all leaves."""
        return jets.closed([leaf.index for leaf in self.leaves])

    @cached_property
    def points(self) -> Tensor:
        """All places one after another, (K n, d)."""
        return torch.cat(list(self.places.values()))

    def constants(self, parameters: Mapping[str, Any]) -> dict[Any, Any]:
        """Everything in the rows that is not a leaf."""
        first = self.rows[0].frame
        return {**dict(zip(first.coordinates, self.x.unbind(-1))), **self.given, **parameters}

    def values(self, parts: Tensor, unknowns: Sequence[str]) -> dict[Any, Tensor]:
        """Leaves from the channels (C, K n, m) at `points`."""
        n, order = len(self.x), {where: i for i, where in enumerate(self.places)}
        at = {index: c for c, index in enumerate(self.channels)}
        found = {}
        for leaf in self.leaves:
            k = order[key(leaf)[2]]
            found[key(leaf)] = parts[at[leaf.index], k * n : (k + 1) * n, unknowns.index(leaf.unknown)]
        return found

    def residual(self, values: Mapping[Any, Tensor], parameters: Mapping[str, Any]) -> Tensor:
        """(n, R): the rows at every point."""
        env, memo = self.constants(parameters) | dict(values), dict[int, Any]()
        rows = [torch.as_tensor(value(e, env, memo), dtype=self.x.dtype) for e in self.rows]
        return torch.stack([r.expand(len(self.x)) for r in rows], 1)

    def linearise(
        self, values: Mapping[Any, Tensor], parameters: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[dict[Any, Tensor]]]:
        """Rows (n, R), and for each of the R the slopes (n,) by leaf and by parameter."""
        live = {k: v.detach().requires_grad_() for k, v in values.items()}
        spread = {p: v.detach().expand(len(self.x)).clone().requires_grad_() for p, v in parameters.items()}
        names, inputs = [*live, *spread], [*live.values(), *spread.values()]
        with torch.enable_grad():
            r = self.residual(live, spread)
        slopes = []
        for k in range(r.shape[1]):
            if r.requires_grad:
                found = torch.autograd.grad(r[:, k].sum(), inputs, retain_graph=True, materialize_grads=True)
            else:
                found = tuple(torch.zeros_like(v) for v in inputs)
            slopes.append(dict(zip(names, found)))
        return r.detach(), slopes

    @property
    def count(self) -> int:
        """Number of rows of each kind."""
        return len(self.x) if self.measure is None else 1 if self.measure.ndim == 1 else len(self.measure)

    def measured(self, r: Tensor) -> Tensor:
        """(n, R, ...) under the measure: (n or 1 or Q, R, ...), or (Q, 1, ...)."""
        if self.measure is None:
            return r
        if self.measure.ndim == 3:
            return torch.einsum("qnr,nr...->q...", self.measure, r)[:, None]
        return torch.einsum("qn,n...->q...", self.measure.reshape(-1, len(self.x)), r)

    def scale(self, values: Mapping[Any, Tensor], parameters: Mapping[str, Any]) -> Tensor:
        """(n, R): sum of the absolute terms of every row, what a residual is to be compared with."""
        env, memo = self.constants(parameters) | dict(values), dict[int, Any]()
        rows = []
        for e in self.rows:
            sizes = [
                torch.as_tensor(value(t, env, memo), dtype=self.x.dtype).abs().expand(len(self.x)) for t in terms(e)
            ]
            rows.append(torch.stack(sizes).sum(0))
        return torch.stack(rows, 1)

    def split(self, size: int) -> Iterator[Block]:
        """The block in pieces of at most `size` points; an integral stays whole."""
        size = size if self.measure is None else len(self.x)
        for start in range(0, len(self.x), size):
            part = slice(start, start + size)
            given = {k: v[part] for k, v in self.given.items()}
            yield Block(self.name, self.rows, self.x[part], given, self.weight, self.measure, self.total, self.source)


def blocks(
    problem: Problem,
    n: int,
    generator: torch.Generator,
    how: str = "sobol",
    met: Sequence[Condition] = (),
    boundary: int | None = None,
    domain: Any = None,
) -> list[Block]:
    """Blocks of all equations, n points each, and of the conditions that are not `met`, `boundary` points each.

    boundary: None: 4 sqrt(n) in one and two dimensions, n / 2 above. domain: points of the equations from a part of the
    problem's domain (time windows).
    """
    if n < 1:
        raise BadInput(f"a problem needs at least one point, got {n!r}.")
    area = domain or problem.domain
    edge = boundary or (max(16, round(4 * math.sqrt(n))) if problem.dim <= 2 else max(16, n // 2))
    found = []
    for i, (e, rows) in enumerate(problem.traced):
        x = area.sample(n, generator, how) if e.within is None else _within(area, e.within, n, generator, how)
        found.append(
            Block(f"equation {i + 1}" if len(problem.traced) > 1 else "equation", rows, x, {}, e.weight, source=e)
        )
    for c, rows in problem.required:
        if c not in met:
            found += _of_condition(problem, area, c, rows, edge, generator, how)
    return _told_apart(found)


def _told_apart(found: list[Block]) -> list[Block]:
    """Names that occur once: reports and weights go by name."""
    counts = Counter(b.name for b in found)
    seen: Counter[str] = Counter()
    for b in found:
        seen[b.name] += 1
        b.name += f" #{seen[b.name]}" if counts[b.name] > 1 else ""
    return found


def _within(domain: Any, part: Any, n: int, generator: torch.Generator, how: str) -> Tensor:
    kept: list[Tensor] = []
    for _ in range(100):
        x = domain.sample(n, generator, how)
        kept.append(x[part.inside(x)])
        if sum(map(len, kept)) >= n:
            return torch.cat(kept)[:n]
    raise BadInput("an equation's part of the domain holds (almost) no points; correct `within`.")


def _of_condition(
    problem: Problem, domain: Any, c: Condition, rows: Any, n: int, generator: torch.Generator, how: str
) -> Iterator[Block]:
    names = problem.frame.coordinates
    if c.points is not None:
        yield Block(repr(c), rows, c.points, dict(c.columns), c.weight, source=c)
    elif c.quadrature:
        x, w = _quadrature(domain, c, n, generator)
        yield Block(repr(c), rows, x, {}, c.weight, w, float(c.value), c)
    elif c.kind == "periodic":
        x, axis = domain.sample(n, generator, how).clone(), names.index(c.axis or "")
        low, high = domain.bounds[:, axis].tolist()
        x[:, axis] = low
        yield Block(repr(c), rows, x, {f"other_{c.axis}": torch.full_like(x[:, 0], high)}, c.weight, source=c)
    else:
        for piece in c.pieces:
            on = domain.boundary(piece, n, generator, how)
            given = {} if on.normal is None else {f"n_{a}": on.normal[:, i] for i, a in enumerate(names)}
            yield Block(f"{c.title} {piece}", rows, on.x, given, c.weight, source=c)


def _quadrature(domain: Any, c: Condition, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if c.on is None:
        x, w = domain.quadrature(max(n, 256))
        return x, w
    on = domain.boundary(c.pieces[0], max(n, 64), generator, "gauss")
    return on.x, on.weight


class Collocation(LeastSquares):
    """r(theta), theta = (weights of the trunk, unknown parameters), with rows scaled so that |r|^2 is the loss.

    Each block counts weight * mean of its squared rows. The Jacobian comes from one reverse pass per row kind.
    """

    def __init__(self, ansatz: Ansatz, found: Sequence[Block], start: Mapping[str, float] | None = None) -> None:
        self.ansatz, self.problem = ansatz, ansatz.problem
        self.weights = [p for p in ansatz.trunk.parameters() if p.requires_grad]
        self.names = tuple(self.problem.parameters)
        self.found: list[Block] = []
        self.start = start
        self.renew(found)

    def renew(self, found: Sequence[Block]) -> None:
        """Other points."""
        self.whole = list(found)
        self.found = [part for b in found for part in b.split(CHUNK)]
        self.ready = [self.ansatz.prepared(b.points, b.channels) for b in self.found]
        self.reweigh({})

    def reweigh(self, weights: Mapping[str, Tensor]) -> None:
        """Further weights of squared rows by block: () for all, or (n, R); blocks that are not named have 1."""
        counts, seen = {b.name: len(b.x) for b in self.whole}, Counter[str]()
        self.factors: list[float | Tensor] = []
        for b in self.found:
            plain = math.sqrt(b.weight / (b.count if b.measure is not None else counts[b.name]))
            own, start = weights.get(b.name), seen[b.name]
            if own is not None and own.dim():
                own = own[start : start + len(b.x)].flatten()
            seen[b.name] += len(b.x)
            self.factors.append(plain if own is None else plain * own.sqrt())

    @property
    def size(self) -> int:
        """Number of unknown numbers."""
        return sum(p.numel() for p in self.weights) + len(self.names)

    @property
    def rows(self) -> int:
        """Number of residuals."""
        widths = [1 if b.measure is not None and b.measure.ndim == 3 else len(b.rows) for b in self.found]
        return sum(b.count * width for b, width in zip(self.found, widths))

    def theta(self) -> Tensor:
        """Where the model stands, with the parameters' start values."""
        values = {**self.problem.parameters, **(self.start or {})}
        return torch.cat([flat(self.weights), torch.tensor([values[n] for n in self.names], dtype=torch.float64)])

    def put(self, theta: Tensor) -> dict[str, Tensor]:
        """Write theta into the model; the unknown parameters by name."""
        at = write(self.weights, theta)
        return {n: theta[at + i] for i, n in enumerate(self.names)}

    def residual(self, theta: Tensor) -> Tensor:
        parameters = self.put(theta)
        with torch.no_grad():
            rows = [self._rows(i, self._parts(i), parameters) for i in range(len(self.found))]
        return torch.cat(rows)

    def whole_rows(self, theta: Tensor) -> dict[str, Tensor]:
        """(n, R) by block: the rows themselves, without weights."""
        parameters, rows = self.put(theta), dict[str, list[Tensor]]()
        with torch.no_grad():
            for i, b in enumerate(self.found):
                r = b.residual(b.values(self._parts(i), self.problem.unknowns), parameters)
                r = r if b.measure is None else b.measured(r) - b.total
                rows.setdefault(b.name, []).append(r)
        return {name: torch.cat(r) for name, r in rows.items()}

    def pullback(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        rows, gradient = [], torch.zeros_like(theta)
        for _, r, g in self._pulled(theta):
            gradient += g
            rows.append(r)
        return torch.cat(rows), gradient

    def gradients(self, theta: Tensor) -> dict[str, Tensor]:
        """(P,) by block: the gradient of its part of the loss."""
        found: dict[str, Tensor] = {}
        for name, _, g in self._pulled(theta):
            found[name] = found[name] + g if name in found else g
        return found

    def _pulled(self, theta: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        parameters = self.put(theta)
        live = {n: v.clone().requires_grad_() for n, v in parameters.items()}
        inputs = [*self.weights, *live.values()]
        for i, b in enumerate(self.found):
            with torch.enable_grad():
                r = self._rows(i, self._parts(i), live)
                loss = r @ r.detach()  # one number: cotangents given to autograd make it import sympy first
            found = torch.autograd.grad(loss, inputs, materialize_grads=True)
            yield b.name, r.detach(), torch.cat([g.flatten() for g in found])

    def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        parameters = self.put(theta)
        for i, b in enumerate(self.found):
            yield self._linearised(i, b, parameters)

    def _parts(self, i: int) -> Tensor:
        return self.ansatz.channels(self.ready[i])

    def _rows(self, i: int, parts: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        b = self.found[i]
        return self._scaled(i, b.residual(b.values(parts, self.problem.unknowns), parameters))

    def _scaled(self, i: int, r: Tensor) -> Tensor:
        b = self.found[i]
        if b.measure is not None:
            r = b.measured(r) - b.total
        return r.flatten() * self.factors[i]

    def _linearised(self, i: int, b: Block, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        n, at = len(b.x), {index: c for c, index in enumerate(b.channels)}
        places = {where: k for k, where in enumerate(b.places)}
        with jets.record() as tape, torch.enable_grad():
            parts = self._parts(i)
        values = b.values(parts.detach(), self.problem.unknowns)
        r, slopes = b.linearise(values, parameters)
        jacobians = []
        for slope in slopes:
            seed = torch.zeros_like(parts)
            for leaf in b.leaves:
                k = places[key(leaf)[2]]
                seed[at[leaf.index], k * n : (k + 1) * n, self.problem.unknowns.index(leaf.unknown)] = slope[key(leaf)]
            with torch.enable_grad():
                sampled = (parts * seed).sum((0, 2))
            J = tape.jacobian(sampled, self.weights).reshape(len(places), n, -1).sum(0)
            jacobians.append(torch.cat([J, *[slope[p][:, None] for p in self.names]], 1))
        tape.notes.clear()  # they hold the graph, which holds the tape
        J = torch.stack(jacobians, 1)  # (n, R, P)
        J = b.measured(J)
        factor = self.factors[i]
        by_row = factor[:, None] if isinstance(factor, Tensor) and factor.dim() else factor
        return self._scaled(i, r), J.reshape(-1, self.size) * by_row


def losses(problem: Problem, model: nn.Module, found: Sequence[Block]) -> dict[str, Tensor]:
    """Weighted mean squared rows by block of any module with channels: points (N, d) -> (N, m)."""
    totals = {}
    for b in found:
        parts = jets.jet(model, b.points, b.channels)
        r = b.residual(b.values(parts, problem.unknowns), {})
        if b.measure is not None:
            r = b.measured(r) - b.total
        totals[b.name] = b.weight * r.square().mean(0).sum()
    return totals
