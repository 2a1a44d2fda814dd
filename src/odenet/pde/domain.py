"""Where an equation holds: intervals, boxes, time, their products and set algebra.

    space = Box((0, 0), (1, 2)) - Disk((0.5, 1.0), 0.2)
    where = space * Time(0, 1)          # coordinates ("x", "y", "t"), pieces of the space and "initial", "final"

A domain gives points inside and on named pieces of its boundary (with outward normals and quadrature weights), and
smooth functions that vanish on chosen pieces. Everything is float64 on the CPU and a function of the generator alone.
"""

from __future__ import annotations

import copy
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible, UnknownName
from . import sampling
from .charts import Chart, Points, integrate, join, restricted, spread
from .distance import brick, conjunction
from .sampling import REAL

if TYPE_CHECKING:
    from .algebra import Combined, Product

__all__ = ["Box", "Domain", "Hypercube", "Interval", "Points", "Time"]

Predicate = Callable[..., Tensor]
SIDES = ("left", "right", "bottom", "top", "back", "front")
ROUNDING = 1e-12  # a point this much of the size outside counts as inside


def axes(names: str | Sequence[str] | None, dim: int) -> tuple[str, ...]:
    """Coordinate names: those given, else x, y, z, else x1 ... xd; raises BadInput for a wrong number or a repeat."""
    if names is None:
        return ("x", "y", "z")[:dim] if dim <= 3 else tuple(f"x{i + 1}" for i in range(dim))
    given = (names,) if isinstance(names, str) else tuple(names)
    if len(given) != dim:
        raise BadInput(f"names={given!r} are {len(given)} for {dim} coordinates; give one name for each.")
    if twice := sorted({n for n in given if given.count(n) > 1}):
        raise BadInput(f"the coordinate name {twice[0]!r} is used twice in {given!r}; give every coordinate its own.")
    if bad := [n for n in given if not (isinstance(n, str) and n.isidentifier())]:
        raise BadInput(f'the coordinate name {bad[0]!r} cannot be an argument of a function; use a word such as "x".')
    return given


def numbers(values: Iterable[float] | float, what: str) -> tuple[float, ...]:
    """Finite floats; raises BadInput that names `what` otherwise."""
    try:
        out = tuple(float(v) for v in (values if isinstance(values, Iterable) else (values,)))
    except (TypeError, ValueError):
        raise BadInput(f"{what}={values!r} is not a sequence of numbers.") from None
    if not out or not all(map(math.isfinite, out)):
        raise BadInput(f"{what}={values!r} holds a number that is not finite, or none at all.")
    return out


class Domain(ABC):
    """A bounded set of points (d coordinates, space before time) with named pieces of its boundary.

    names:   the coordinates, which residuals and conditions use as argument names
    bounds:  (2, d), the smallest box around it
    time:    the name of the time coordinate, or None
    space:   the domain without its time
    """

    time: str | None = None
    ends: tuple[str, ...] = ()  # pieces that are ends of time, no part of "boundary"
    _chosen: Mapping[str, Predicate] = {}
    _space: Domain | None = None
    _known: dict[str, list[Chart]] | None = None

    def __init__(self, names: tuple[str, ...], lower: Sequence[float], upper: Sequence[float]) -> None:
        self.names = names
        self.bounds = torch.tensor([list(lower), list(upper)], dtype=REAL)

    @abstractmethod
    def _interior(self) -> list[Chart]:
        """Charts that cover the inside once."""

    @abstractmethod
    def _faces(self) -> dict[str, list[Chart]]:
        """Charts of the boundary by name, every part of it once."""

    @abstractmethod
    def _level(self, x: Tensor) -> Tensor:
        """(N,): above zero inside, zero on the boundary, below zero outside, of the size of a distance."""

    @abstractmethod
    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        """From columns (N,): a smooth function that is zero on these faces and positive in the rest of the closure."""

    @abstractmethod
    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        """From columns (N,): smooth except at corners, zero on the whole boundary, negative outside."""

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.names)

    @property
    def space(self) -> Domain:
        """The domain without its time."""
        return self if self._space is None else self._space

    @property
    def size(self) -> float:
        """Length of the diagonal of the box around it."""
        return float((self.bounds[1] - self.bounds[0]).norm())

    @property
    def measure(self) -> float:
        """Length, area or volume: exact in closed form, else from 2^14 Sobol points where sets were combined."""
        return sum(c.measure for c in self._interior())

    @property
    def pieces(self) -> dict[str, list[Chart]]:
        """Charts of every piece by name: the faces, "boundary" (all faces but the ends of time), chosen ones."""
        if self._known is not None:
            return dict(self._known)
        faces = self._faces()
        whole = [c for name, charts in faces.items() if name not in self.ends for c in charts]
        out = {**faces, **({"boundary": whole} if whole else {})}
        for name, predicate in self._chosen.items():
            keep = _predicate(name, predicate)
            out[name] = [part for c in whole for part in restricted(c, keep)]
        self._known = out
        return dict(out)

    def inside(self, x: Tensor) -> Tensor:
        """(N, d) -> bool (N,): in the domain or, up to rounding, on its boundary."""
        return self._level(self.points(x)) >= -ROUNDING * self.size

    def points(self, x: Tensor) -> Tensor:
        """x as float64 (N, d) on the CPU; raises BadInput for another shape."""
        x = torch.as_tensor(x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise BadInput(
                f"points of shape {tuple(x.shape)} do not fit the coordinates {self.names}; give (N, {self.dim})."
            )
        return x.detach().to("cpu", REAL)

    def sample(self, n: int, generator: torch.Generator | None = None, how: str = "sobol") -> Tensor:
        """Points (n, d) inside, evenly spread by the design `how` (see `sampling.names()`).

        Random designs give exactly n points. "grid", "chebyshev" and "gauss" are tensor grids of about n points in the
        parameters of the domain, for boxes its axes. Without a generator the seed is 0.
        """
        design = sampling.get(how)
        return spread(self._interior(), sampling.count(n), design, generator or torch.Generator().manual_seed(0)).x

    def boundary(
        self, piece: str = "boundary", n: int = 100, generator: torch.Generator | None = None, how: str = "sobol"
    ) -> Points:
        """About n points on a piece, at least one on each of its parts, with outward normals and weights.

        The ends of an interval are one point each, whatever n. how="gauss" gives quadrature points.
        The normals of "initial" and "final" point against and along time.
        """
        charts = self.pieces[self.piece(piece)]
        if not charts:
            raise BadInput(f"the piece {piece!r} of {self!r} holds no points; check the predicate that chose it.")
        design = sampling.get(how)
        return spread(charts, sampling.count(n), design, generator or torch.Generator().manual_seed(0), least=1)

    def quadrature(self, n: int) -> tuple[Tensor, Tensor]:
        """Points (M, d) and weights (M,), M about n: sum w f(x) approximates the integral of f.

        Gauss-Legendre on boxes, polar Gauss on disks and balls, collapsed Gauss on triangles, polygons and meshes, up
        to four dimensions; combined sets and higher dimensions get Sobol points with equal weights.
        """
        charts, n = self._interior(), sampling.count(n)
        total = sum(c.measure for c in charts)
        parts = join([integrate(c, max(1, round(n * c.measure / total))) for c in charts])
        return parts.x, parts.weight

    def piece(self, name: str) -> str:
        """The name itself; raises UnknownName that lists the pieces."""
        known = [*self._faces(), "boundary", *self._chosen]
        if len(self.ends) == len(self._faces()):
            known.remove("boundary")
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            listed = ", ".join(dict.fromkeys(known))
            raise UnknownName(f"{self!r} has no piece of its boundary called {name!r}; there are: {listed}.{hint}")
        return name

    def named(self, name: str, predicate: Predicate) -> Domain:
        """The same domain with one more piece: where `predicate(*coordinates)` holds on "boundary".

        domain.named("inlet", lambda x, y: x < 1e-12)
        """
        if not isinstance(name, str) or name == "boundary" or name in {**self._faces(), **self._chosen}:
            raise BadInput(f"{name!r} cannot name a piece of {self!r}: give a string that no piece has yet.")
        out = copy.copy(self)
        out._chosen, out._known = {**self._chosen, name: predicate}, None
        if not out.pieces[name]:
            raise BadInput(f"no point of the boundary of {self!r} satisfies the predicate of {name!r}.")
        return out

    def distance(self, x: Tensor, pieces: str | Iterable[str] | None = None) -> Tensor:
        """(N, d) -> (N,): smooth, zero exactly on these pieces (default "boundary"), positive elsewhere inside.

        Its normal derivative is one on a single piece; boxes, time and products use polynomials scaled to the size
        of the domain. Built from +, -, *, / and sqrt, so that derivatives can be carried through it. Raises
        Incompatible where no such function is known: impose the condition softly there.
        """
        wanted = (pieces,) if isinstance(pieces, str) else ("boundary",) if pieces is None else tuple(pieces)
        if not wanted:
            raise BadInput("a distance to no piece at all is not defined; name a piece.")
        faces = tuple(dict.fromkeys(face for name in wanted for face in self._resolve(self.piece(name))))
        return self._distance(tuple(x[..., i] for i in range(self.dim)), faces)

    def _resolve(self, piece: str) -> tuple[str, ...]:
        """The faces that make up a piece."""
        faces = {n: c for n, c in self._faces().items() if n not in self.ends}
        if piece == "boundary":
            return tuple(faces)
        if piece not in self._chosen:
            return (piece,)
        keep, found = _predicate(piece, self._chosen[piece]), []
        for name, charts in faces.items():
            kept = sum(c.measure for chart in charts for c in restricted(chart, keep))
            if kept and not math.isclose(kept, sum(c.measure for c in charts), rel_tol=1e-9):
                raise Incompatible(
                    f"{piece!r} is a part of the piece {name!r}, for which there is no smooth distance; "
                    "impose the condition softly there."
                )
            found += [name] if kept else []
        return tuple(found)

    def __mul__(self, other: Domain) -> Product:
        from .algebra import Product

        return Product(self, other) if isinstance(other, Domain) else NotImplemented

    def __or__(self, other: Domain) -> Combined:
        return _combine(self, other, "|")

    def __sub__(self, other: Domain) -> Combined:
        return _combine(self, other, "-")

    def __and__(self, other: Domain) -> Combined:
        return _combine(self, other, "&")


def _combine(a: Domain, b: Domain, operation: str) -> Combined:
    from .algebra import Combined

    return Combined(a, b, operation) if isinstance(b, Domain) else NotImplemented


def _predicate(name: str, predicate: Predicate) -> Callable[[Tensor, Tensor | None], Tensor]:
    def keep(x: Tensor, normal: Tensor | None) -> Tensor:
        mask = torch.as_tensor(predicate(*x.unbind(1)))
        if mask.dtype != torch.bool or mask.shape not in ((), (len(x),)):
            raise BadInput(f"the predicate of the piece {name!r} must give one True or False for every point.")
        return mask.expand(len(x))

    return keep


def _sides(dim: int) -> list[str]:
    return [*SIDES, *(f"{end}_{i}" for i in range(3, dim) for end in ("lower", "upper"))][: 2 * dim]


class Brick(Domain, ABC):
    """A product of intervals: faces "left", "right", "bottom", "top", "back", "front", then "lower_3", "upper_3" ...

    lower, upper: the corners, floats
    """

    def __init__(
        self, lower: tuple[float, ...], upper: tuple[float, ...], names: tuple[str, ...], sides: Sequence[str]
    ) -> None:
        for name, a, b in zip(names, lower, upper):
            if not a < b:
                raise BadInput(f"the domain is empty: {name} runs from {a:g} to {b:g}; give the smaller number first.")
        super().__init__(names, lower, upper)
        self.lower, self.upper, self._sides = lower, upper, tuple(sides)

    def _lengths(self) -> list[float]:
        return [b - a for a, b in zip(self.lower, self.upper)]

    def _interior(self) -> list[Chart]:
        low, width = self.bounds[0], torch.tensor(self._lengths(), dtype=REAL)
        return [Chart(self.dim, math.prod(self._lengths()), lambda u: (low + width * u, None))]

    def _face(self, axis: int, end: int) -> Chart:
        lengths = self._lengths()
        rest = [i for i in range(self.dim) if i != axis]
        low, width = self.bounds[0][rest], torch.tensor([lengths[i] for i in rest], dtype=REAL)
        value = float(self.bounds[end, axis])

        def place(u: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.full((len(u), self.dim), value, dtype=REAL)
            x[:, rest] = low + width * u
            normal = torch.zeros_like(x)
            normal[:, axis] = 2.0 * end - 1.0
            return x, normal

        return Chart(self.dim - 1, math.prod(lengths[i] for i in rest), place)

    def _faces(self) -> dict[str, list[Chart]]:
        return {side: [self._face(*divmod(i, 2))] for i, side in enumerate(self._sides)}

    def _level(self, x: Tensor) -> Tensor:
        return torch.minimum(x - self.bounds[0], self.bounds[1] - x).amin(1)

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        chosen = [divmod(self._sides.index(f), 2) for f in faces]
        return brick(x, self.lower, self.upper, chosen)

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        return conjunction([f for c, a, b in zip(x, self.lower, self.upper) for f in (c - a, b - c)])


class Interval(Brick):
    """The interval (a, b) of one coordinate, pieces "left" and "right". Raises BadInput unless a < b."""

    def __init__(self, a: float, b: float, name: str = "x") -> None:
        super().__init__(numbers(a, "a"), numbers(b, "b"), axes(name, 1), SIDES[:2])

    def __repr__(self) -> str:
        return f"Interval({self.lower[0]:g}, {self.upper[0]:g}, {self.names[0]!r})"


class Time(Brick):
    """Time from t0 to t1, pieces "initial" and "final": `space * Time(0, 1)`, or alone for ordinary equations."""

    ends = ("initial", "final")

    def __init__(self, t0: float, t1: float, name: str = "t") -> None:
        super().__init__(numbers(t0, "t0"), numbers(t1, "t1"), axes(name, 1), self.ends)
        self.time = name

    def __repr__(self) -> str:
        return f"Time({self.lower[0]:g}, {self.upper[0]:g})"


class Box(Brick):
    """A box, pieces "left", "right" (axis 0), "bottom", "top" (1), "back", "front" (2), then "lower_3", "upper_3" ...

    lower, upper: corners; names: x, y, z or x1 ... xd when not given. Raises BadInput when it is empty.
    """

    def __init__(
        self, lower: Iterable[float] | float, upper: Iterable[float] | float, names: str | Sequence[str] | None = None
    ) -> None:
        low, high = numbers(lower, "lower"), numbers(upper, "upper")
        if len(low) != len(high):
            raise BadInput(f"lower has {len(low)} coordinates and upper {len(high)}; a box needs as many of both.")
        super().__init__(low, high, axes(names, len(low)), _sides(len(low)))

    def __repr__(self) -> str:
        return f"Box({self.lower}, {self.upper})" if self.dim <= 4 else f"Box in {self.dim} dimensions"


class Hypercube(Brick):
    """The cube (a, b)^d with coordinates x1 ... xd above three dimensions; pieces as for Box."""

    def __init__(self, dim: int, a: float = 0.0, b: float = 1.0, names: str | Sequence[str] | None = None) -> None:
        low, high = numbers([a] * sampling.count(dim, "dimensions"), "a"), numbers([b] * dim, "b")
        super().__init__(low, high, axes(names, dim), _sides(dim))

    def __repr__(self) -> str:
        return f"Hypercube({self.dim}, {self.lower[0]:g}, {self.upper[0]:g})"
