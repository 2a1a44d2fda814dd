"""Products, unions, differences and intersections of domains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from .charts import Chart, draw, restricted, times, turned
from .distance import conjunction, disjunction, equivalence
from .domain import ROUNDING, Domain, Predicate
from .sampling import get

NUDGE = 1e-11  # of the size: how far to either side of a boundary point one looks
WORDS = {"|": "union", "-": "difference", "&": "intersection"}


class Combined(Domain):
    """A union `a | b`, difference `a - b` or intersection `a & b` of two domains in the same coordinates.

    Pieces of the parts remain where they lie on the boundary of the result; those of b whose name is taken get the name
    of its shape as a prefix, a lone "boundary" becomes the shape's name ("disk"), and a number follows where that is
    taken too. Normals of what is subtracted turn.
    Raises BadInput when nothing is left, or when the coordinates differ.
    """

    def __init__(self, a: Domain, b: Domain, operation: str) -> None:
        if a.names != b.names:
            raise BadInput(
                f"{a!r} has the coordinates {a.names} and {b!r} has {b.names}; a {WORDS[operation]} needs the same."
            )
        if a.time or b.time:
            raise BadInput(f"combine the spaces first and multiply by Time afterwards: (A {operation} B) * Time(...).")
        self.a, self.b, self.operation = a, b, operation
        self._inner = self._cells()
        if not self._inner:
            raise BadInput(f"the domain is empty: no points were found in {self!r}.")
        low, high = self._box()
        super().__init__(a.names, low.tolist(), high.tolist())
        self._sides = self._boundary()
        self._chosen = {**b._chosen, **a._chosen}

    def __repr__(self) -> str:
        return f"({self.a!r} {self.operation} {self.b!r})"

    def _box(self) -> tuple[Tensor, Tensor]:
        a, b = self.a.bounds, self.b.bounds
        if self.operation == "|":
            return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])
        if self.operation == "&":
            return torch.maximum(a[0], b[0]), torch.minimum(a[1], b[1])
        return a[0], a[1]

    def _cells(self) -> list[Chart]:
        """Charts of the inside; measures by inclusion and exclusion, exact where one part holds or misses the other."""
        a, b = self.a, self.b
        small, large = (a, b) if a.measure <= b.measure else (b, a)
        common = [p for c in small._interior() for p in restricted(c, lambda x, n: large._level(x) > 0)]
        if self.operation == "&":
            return common
        overlap = sum(c.measure for c in common)
        rest, other = (a, b) if self.operation == "-" else (b, a)
        cells = [p for c in rest._interior() for p in restricted(c, lambda x, n: other._level(x) < 0)]
        found, true = sum(c.measure for c in cells), rest.measure - overlap
        if not math.isclose(found, true, rel_tol=1e-12):
            cells = [replace(c, measure=c.measure * true / found) for c in cells]
        return cells if self.operation == "-" else [*a._interior(), *cells]

    def _level(self, x: Tensor) -> Tensor:
        a, b = self.a._level(x), self.b._level(x)
        if self.operation == "|":
            return torch.maximum(a, b)
        return torch.minimum(a, b if self.operation == "&" else -b)

    def _faces(self) -> dict[str, list[Chart]]:
        return {name: charts for name, (_, _, charts) in self._sides.items()}

    def _boundary(self) -> dict[str, tuple[str, str, list[Chart]]]:
        """name -> (part "a" or "b", the name there, charts) of every face that lies on the boundary of the result."""
        step = NUDGE * self.size
        turn = self.operation == "-"

        def sides(domain: Domain, x: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
            return domain._level(x - step * normal) > 0, domain._level(x + step * normal) > 0

        def edge(x: Tensor, normal: Tensor | None) -> Tensor:
            assert normal is not None
            inner, outer = sides(self, x, normal)
            return inner & ~outer

        def only_b(x: Tensor, normal: Tensor | None) -> Tensor:
            assert normal is not None
            inner, outer = sides(self.a, x, normal)
            return edge(x, normal) & (inner == outer)

        out: dict[str, tuple[str, str, list[Chart]]] = {}
        for label, part, keep in (("a", self.a, edge), ("b", self.b, only_b)):
            for old, charts in part._faces().items():
                turned_charts = [turned(c) for c in charts] if label == "b" and turn else charts
                kept = [p for c in turned_charts for p in restricted(c, keep)]
                if kept:
                    out[self._rename(old, part, out)] = (label, old, kept)
        return out

    def _touch(self) -> bool:
        """Whether faces of both parts coincide inside the union."""
        step, generator = NUDGE * self.size, torch.Generator().manual_seed(0)
        for chart in (c for charts in self.a._faces().values() for c in charts):
            p = draw(chart, 256, get("sobol"), generator)
            assert p.normal is not None
            inner = (self._level(p.x - step * p.normal) > 0) & (self._level(p.x + step * p.normal) > 0)
            if bool((inner & (self.b._level(p.x).abs() < ROUNDING * self.size)).any()):
                return True
        return False

    def _rename(self, name: str, part: Domain, taken: dict[str, tuple[str, str, list[Chart]]]) -> str:
        shape = type(part).__name__.lower()
        if name != "boundary" and name not in taken:
            return name
        stem = shape if name == "boundary" else f"{shape}_{name}"
        number = next(i for i in range(1, 1000) if (stem if i == 1 else f"{stem}_{i}") not in taken)
        return stem if number == 1 else f"{stem}_{number}"

    def _interior(self) -> list[Chart]:
        return self._inner

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        a, b = self.a._signed(x), self.b._signed(x)
        if self.operation == "|":
            return disjunction([a, b])
        return conjunction([a, b if self.operation == "&" else b * -1.0])

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        if self.operation == "|":
            if set(faces) != set(self._sides):
                raise Incompatible(
                    f"a smooth distance to {', '.join(faces)} alone is not known for the union {self!r}; "
                    'use on="boundary", or impose the condition softly.'
                )
            if self._touch():
                raise Incompatible(
                    f"the parts of the union {self!r} touch along a common boundary inside it, where every smooth "
                    "distance of theirs vanishes: let them overlap, or impose the condition softly."
                )
            return self._signed(x)
        of = {label: tuple(self._sides[f][1] for f in faces if self._sides[f][0] == label) for label in "ab"}
        parts = [self.a._distance(x, of["a"])] if of["a"] else []
        if of["b"] and self.operation == "&":
            parts.append(self.b._distance(x, of["b"]))
        elif of["b"]:
            if set(of["b"]) != {old for label, old, _ in self._sides.values() if label == "b"}:
                raise Incompatible(
                    f"a smooth distance to {', '.join(faces)} alone is not known for {self!r}: of what is "
                    "subtracted take all pieces or none, or impose the condition softly."
                )
            parts.append(self.b._signed(x) * -1.0)
        return equivalence(parts)


class Product(Domain):
    """All pairs of a point of `first` and a point of `second`; with Time, a domain of space and time.

    Pieces keep their names; those of the second factor get its coordinates as a prefix where both have the name
    ("z_left"). Raises BadInput for a coordinate that both have, and for a time that is not last.
    """

    def __init__(self, first: Domain, second: Domain) -> None:
        if twice := sorted(set(first.names) & set(second.names)):
            raise BadInput(
                f"both factors have a coordinate {twice[0]!r} ({first!r} and {second!r}); give one another name."
            )
        if first.time:
            raise BadInput(f"time comes last: write {second!r} * {first!r}, with one time only.")
        super().__init__(
            (*first.names, *second.names),
            torch.cat([first.bounds[0], second.bounds[0]]).tolist(),
            torch.cat([first.bounds[1], second.bounds[1]]).tolist(),
        )
        self.first, self.second, self.time, self.ends = first, second, second.time, second.ends
        mine, prefix = first._faces(), "".join(second.names)
        self._theirs = {(f"{prefix}_{name}" if name in mine else name): name for name in second._faces()}
        cut, count = first.dim, len(first.names)
        chosen: dict[str, Predicate] = {}
        for name, rule in first._chosen.items():
            chosen[name] = lambda *c, rule=rule: rule(*c[:count])
        self._chosen, self._cut = chosen, cut
        self._space = first if second.time else None

    def __repr__(self) -> str:
        return f"{self.first!r} * {self.second!r}"

    def _pairs(self, left: Iterable[Chart], right: Iterable[Chart]) -> list[Chart]:
        right = list(right)
        return [times(a, b, (self.first.dim, self.second.dim)) for a in left for b in right]

    def _interior(self) -> list[Chart]:
        return self._pairs(self.first._interior(), self.second._interior())

    def _faces(self) -> dict[str, list[Chart]]:
        ours = {n: self._pairs(c, self.second._interior()) for n, c in self.first._faces().items()}
        other = self.second._faces()
        return ours | {n: self._pairs(self.first._interior(), other[old]) for n, old in self._theirs.items()}

    def _level(self, x: Tensor) -> Tensor:
        return torch.minimum(self.first._level(x[:, : self._cut]), self.second._level(x[:, self._cut :]))

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        mine = tuple(f for f in faces if f not in self._theirs)
        theirs = tuple(self._theirs[f] for f in faces if f in self._theirs)
        if not theirs:
            return self.first._distance(x[: self._cut], mine)
        other = self.second._distance(x[self._cut :], theirs)
        return self.first._distance(x[: self._cut], mine) * other * (1.0 / self.second.size) if mine else other

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        return conjunction([self.first._signed(x[: self._cut]), self.second._signed(x[self._cut :])])
