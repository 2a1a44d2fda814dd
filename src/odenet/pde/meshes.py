"""Domains that are given by points: a cloud, or a mesh of triangles or tetrahedra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from .charts import Chart, Points
from .domain import Domain, axes
from .sampling import REAL
from .simplices import simplices, volumes


def _table(x: Any, what: str) -> Tensor:
    out = torch.as_tensor(x).detach().to("cpu", REAL)
    if out.ndim != 2 or not len(out):
        raise BadInput(f"{what} has shape {tuple(out.shape)}; give (N, d) with one point or more.")
    if not bool(torch.isfinite(out).all()):
        raise BadInput(f"{what} holds a number that is not finite.")
    return out


def _listed(x: Tensor, normal: Tensor | None, measure: float) -> Chart:
    """A chart that takes given points: n of them in equal steps of a scattered list, from a random start."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))

    def place(u: Tensor) -> tuple[Tensor, Tensor | None]:
        rank = u[:, 0].argsort().argsort()
        i = order[((rank + u[0, 0]) * (len(x) / len(u))).long().clamp(0, len(x) - 1)]
        return x[i], None if normal is None else normal[i]

    def rule(n: int) -> Points:
        return Points(x, normal, torch.full((len(x),), measure / len(x), dtype=REAL))

    return Chart(1, measure, place, rule, scattered=True)


class PointCloud(Domain):
    """Points that somebody else chose: (N, d), and pieces {name: points (M, d) or (points, outward normals)}.

    Samples are members of the cloud, which repeat when more are asked for than there are; quadrature gives all of them
    the weight measure / N, measure being what you state (1 otherwise). `inside` is the convex hull.
    """

    def __init__(
        self,
        points: Any,
        boundary: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
        measure: float = 1.0,
    ) -> None:
        self.cloud = _table(points, "the point cloud")
        pieces = {
            name: value if isinstance(value, tuple) else (value, None) for name, value in (boundary or {}).items()
        }
        self._given = {n: (_table(x, f"piece {n!r}"), v) for n, (x, v) in pieces.items()}
        dim = self.cloud.shape[1]
        for name, (x, v) in self._given.items():
            if x.shape[1] != dim or (v is not None and torch.as_tensor(v).shape != x.shape):
                raise BadInput(f"piece {name!r} must have points, and normals if any, of shape (M, {dim}).")
        every = torch.cat([self.cloud, *(x for x, _ in self._given.values())])
        super().__init__(axes(names, dim), every.amin(0).tolist(), every.amax(0).tolist())
        self._stated, self._every = float(measure), every

    def __repr__(self) -> str:
        return f"PointCloud of {len(self.cloud)} points in {self.dim} dimensions"

    def _interior(self) -> list[Chart]:
        return [_listed(self.cloud, None, self._stated)]

    def _faces(self) -> dict[str, list[Chart]]:
        out = {}
        for name, (x, v) in self._given.items():
            normal = None if v is None else torch.as_tensor(v).to("cpu", REAL)
            out[name] = [_listed(x, normal, 1.0)]
        return out

    def _level(self, x: Tensor) -> Tensor:
        if self.dim == 1:
            return torch.minimum(x - self.bounds[0], self.bounds[1] - x)[:, 0]
        from scipy.spatial import ConvexHull

        planes = torch.from_numpy(ConvexHull(self._every.numpy()).equations)
        return (-(x @ planes[:, :-1].T) - planes[:, -1]).amin(1)

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        raise Incompatible(_SOFT.format(self))

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        raise Incompatible(_SOFT.format(self))


_SOFT = "{!r} has no smooth distance from its boundary; impose the condition softly."


def _facets(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Facets that belong to one cell only, (F, k), and the vertex of that cell across from each."""
    k = cells.shape[1]
    parts = [[j for j in range(k) if j != i] for i in range(k)]
    facets = torch.cat([cells[:, p] for p in parts])
    across = torch.cat([cells[:, i] for i in range(k)])
    _, index, count = facets.sort(1).values.unique(dim=0, return_inverse=True, return_counts=True)
    alone = count[index] == 1
    return facets[alone], across[alone]


class Mesh(Domain):
    """A mesh of intervals, triangles or tetrahedra: vertices (V, d) and cells (T, d + 1) of vertex numbers.

    pieces: {name: facets (F, d) of vertex numbers on the boundary}; facets in no piece are "rest", all together are
    "boundary". `Mesh.read(path)` reads what meshio reads (extra "mesh"). Curved sides are as straight as the mesh.
    """

    def __init__(
        self,
        vertices: Any,
        cells: Any,
        pieces: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.vertices, self.cells = _table(vertices, "vertices"), torch.as_tensor(cells).long()
        dim = self.vertices.shape[1]
        if self.cells.ndim != 2 or self.cells.shape[1] != dim + 1 or not len(self.cells):
            raise BadInput(
                f"cells have shape {tuple(self.cells.shape)}; in {dim} dimensions give (T, {dim + 1}) vertex numbers."
            )
        if int(self.cells.min()) < 0 or int(self.cells.max()) >= len(self.vertices):
            raise BadInput(f"a cell names a vertex beyond the {len(self.vertices)} that there are.")
        self._corners = self.vertices[self.cells]
        if float(volumes(self._corners).min()) <= 0:
            raise BadInput(f"cell {int(volumes(self._corners).argmin())} of the mesh has no volume.")
        super().__init__(axes(names, dim), *(f(self._corners.reshape(-1, dim), 0).tolist() for f in (_low, _high)))
        self._facets, self._across = _facets(self.cells)
        self._labels = self._sorted(pieces or {})

    def __repr__(self) -> str:
        return f"Mesh of {len(self.cells)} cells in {self.dim} dimensions"

    @classmethod
    def read(cls, path: str | Path, names: Sequence[str] | None = None) -> Mesh:
        """A mesh file in any format that meshio knows; groups of facets that the file names become pieces."""
        try:
            import meshio
        except ImportError:
            raise BadInput(
                f"reading {str(path)!r} needs meshio, which is not installed; run: pip install 'odenet[mesh]', "
                "or give Mesh(vertices, cells) yourself."
            ) from None
        return cls(*_parts(meshio.read(path), path), names=names)

    def _sorted(self, pieces: Mapping[str, Any]) -> dict[str, Tensor]:
        """name -> rows of the boundary facets."""
        rows = {tuple(sorted(f)): i for i, f in enumerate(self._facets.tolist())}
        out: dict[str, Tensor] = {}
        taken: set[int] = set()
        for name, facets in pieces.items():
            found = [rows.get(tuple(sorted(f))) for f in torch.as_tensor(facets).tolist()]
            inner = [i for i, row in enumerate(found) if row is None]
            if inner or not found or name == "boundary":
                raise BadInput(f"piece {name!r} of the mesh must be facets of its boundary, each in one piece only.")
            mine = [row for row in found if row is not None]
            if taken & set(mine):
                raise BadInput(f"piece {name!r} of the mesh must be facets of its boundary, each in one piece only.")
            taken |= set(mine)
            out[name] = torch.tensor(mine)
        rest = [i for i in range(len(self._facets)) if i not in taken]
        return {**out, **({"rest": torch.tensor(rest)} if rest else {})}

    def _facet_chart(self, rows: Tensor) -> list[Chart]:
        corners, across = self.vertices[self._facets[rows]], self.vertices[self._across[rows]]
        base = corners[:, 0]
        if self.dim == 1:
            return [_end(p, torch.sign(p - a)) for p, a in zip(base, across)]
        edges = corners[:, 1:] - corners[:, :1]
        away = base - across
        q, _ = torch.linalg.qr(edges.transpose(1, 2))
        normal = away - (q @ (q.transpose(1, 2) @ away[:, :, None]))[:, :, 0]
        return [simplices(corners, normal / normal.norm(dim=1, keepdim=True))]

    def _interior(self) -> list[Chart]:
        return [simplices(self._corners)]

    def _faces(self) -> dict[str, list[Chart]]:
        return {name: self._facet_chart(rows) for name, rows in self._labels.items()}

    def _level(self, x: Tensor) -> Tensor:
        """The largest over the cells of the smallest height above their sides: a distance's size near the boundary."""
        inverse = torch.linalg.inv(self._corners[:, 1:] - self._corners[:, :1])
        heights = 1 / torch.cat([inverse, inverse.sum(2, keepdim=True)], 2).norm(dim=1)
        out = []
        for part in x.split(max(1, 1_000_000 // len(self.cells))):
            b = ((part[:, None] - self._corners[:, 0])[:, :, None] @ inverse)[:, :, 0]
            whole = torch.cat([b, 1 - b.sum(2, keepdim=True)], 2)
            out.append((whole * heights).amin(2).amax(1))
        return torch.cat(out)

    def _distance(self, x: Sequence[Tensor], faces: tuple[str, ...]) -> Tensor:
        raise Incompatible(_SOFT.format(self))

    def _signed(self, x: Sequence[Tensor]) -> Tensor:
        raise Incompatible(_SOFT.format(self))


def _low(x: Tensor, axis: int) -> Tensor:
    return x.amin(axis)


def _high(x: Tensor, axis: int) -> Tensor:
    return x.amax(axis)


def _end(p: Tensor, normal: Tensor) -> Chart:
    return Chart(0, 1.0, lambda u: (p.expand(len(u), 1), normal.expand(len(u), 1)))


def _parts(mesh: Any, path: str | Path) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Vertices, cells and named facets of what meshio has read; a plane mesh loses its third coordinate."""
    blocks = {kind: [c.data for c in mesh.cells if c.type == kind] for kind in ("tetra", "triangle", "line")}
    kind = next((k for k in blocks if blocks[k]), None)
    if kind is None:
        raise BadInput(f"{str(path)!r} holds no tetrahedra, triangles or lines.")
    dim = {"tetra": 3, "triangle": 2, "line": 1}[kind]
    points = torch.as_tensor(mesh.points, dtype=REAL)
    if points.shape[1] > dim and float((points[:, dim:] - points[:1, dim:]).abs().max()) > 0:
        raise BadInput(
            f"{str(path)!r} is a surface in space, not a domain: its {kind}s do not lie in {dim} dimensions."
        )
    facet = {"tetra": "triangle", "triangle": "line", "line": "vertex"}[kind]
    pieces: dict[str, Any] = {}
    for name, groups in (mesh.cell_sets_dict or {}).items():
        if facet in groups and not name.startswith("gmsh:"):
            data = torch.cat([torch.as_tensor(c.data.astype("int64")) for c in mesh.cells if c.type == facet])
            pieces[name] = data[torch.as_tensor(groups[facet].astype("int64"))]
    cells = torch.cat([torch.as_tensor(b.astype("int64")) for b in blocks[kind]])
    return points[:, :dim], cells, pieces
