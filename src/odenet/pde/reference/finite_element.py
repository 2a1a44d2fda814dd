"""Second-order elliptic equations in the plane: quadrilateral elements of high degree and one sparse solve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .spectral import (
    Array,
    barycentric_matrix,
    chebyshev_matrix,
    chebyshev_nodes,
    chebyshev_transform,
    differentiation,
    gauss_lobatto,
    graded,
    located,
)

Scalar = Callable[[Array, Array], Array]  # of x and y


@dataclass(frozen=True)
class Mesh:
    """Elements of degree p: places (E, p + 1, p + 1, 2), numbers of the nodes (E, p + 1, p + 1), nodes (n, 2)."""

    places: Array
    numbers: Array
    nodes: Array


def mesh(maps: Sequence[Callable[[Array, Array], tuple[Array, Array]]], p: int) -> Mesh:
    """Elements given by their maps from [-1, 1]^2; nodes at the same place (to 1e-9) are one."""
    s, t = np.meshgrid(gauss_lobatto(p)[0], gauss_lobatto(p)[0], indexing="ij")
    places = np.stack([np.stack(to(s, t), -1) for to in maps])
    flat = places.reshape(-1, 2)
    _, first, numbers = np.unique(np.round(flat * 1e9), axis=0, return_index=True, return_inverse=True)
    return Mesh(places, numbers.reshape(places.shape[:3]), flat[first])


def rectangles(x: Array, y: Array, keep: Callable[[float, float], bool] = lambda x, y: True) -> list[Callable]:
    """Maps of the rectangles between these lines whose centres are kept."""

    def to(a: float, b: float, c: float, d: float) -> Callable:
        return lambda s, t: (a + (b - a) * (s + 1) / 2, c + (d - c) * (t + 1) / 2)

    cells = [(a, b, c, d) for a, b in pairwise(x) for c, d in pairwise(y)]
    return [to(*cell) for cell in cells if keep((cell[0] + cell[1]) / 2, (cell[2] + cell[3]) / 2)]


def solve_elliptic(grid: Mesh, k: Scalar, f: Scalar, fixed: Array, values: Array) -> Array:
    """Nodal values (n,) of -div(k grad u) = f; the nodes where `fixed` have `values`, other boundaries no flux."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    count, side = grid.places.shape[0], grid.places.shape[1]
    x, w = gauss_lobatto(side - 1)
    d, one = differentiation(x), np.eye(side)
    slopes = np.stack([np.kron(d, one), np.kron(one, d)])  # (2, q, basis): along s, along t
    places = grid.places.reshape(count, -1, 2)
    jacobian = np.einsum("aqb,ebc->eqac", slopes, places)
    area = np.outer(w, w).ravel() * np.abs(np.linalg.det(jacobian))
    gradients = np.einsum("eqca,aqb->ecqb", np.linalg.inv(jacobian), slopes)
    weight = area * k(places[..., 0], places[..., 1])
    blocks = sum(np.swapaxes(gradients[:, c], 1, 2) @ (weight[..., None] * gradients[:, c]) for c in (0, 1))
    numbers, n = grid.numbers.reshape(count, -1), len(grid.nodes)
    rows, columns = (np.broadcast_to(v, blocks.shape).ravel() for v in (numbers[:, :, None], numbers[:, None, :]))
    matrix = coo_matrix((blocks.ravel(), (rows, columns)), (n, n)).tocsc()
    load = np.bincount(numbers.ravel(), (area * f(places[..., 0], places[..., 1])).ravel(), n)
    u, free = np.where(fixed, values, 0.0), ~fixed
    u[free] = spsolve(matrix[free][:, free], load[free] - matrix[free][:, fixed] @ u[fixed])
    return u


def tensor_tables(u: Array, x: Array, y: Array, p: int) -> Tables:
    """Chebyshev coefficients of nodal values given per rectangle (cells, p + 1, p + 1), cells in the order of x, y."""
    change = chebyshev_transform(p + 1) @ barycentric_matrix(gauss_lobatto(p)[0], chebyshev_nodes(p + 1))
    coefficients = change @ u @ change.T
    return {
        "pieces": torch.from_numpy(coefficients.reshape(len(x) - 1, len(y) - 1, p + 1, p + 1)),
        "x": torch.from_numpy(x),
        "y": torch.from_numpy(y),
    }


def evaluate(tables: Tables, x: Tensor) -> Tensor:
    """(N, 2) -> (N, 1) from `tensor_tables`."""
    (i, s), (j, t) = located(x[:, 0], tables["x"]), located(x[:, 1], tables["y"])
    q = tables["pieces"].shape[-1]
    return torch.einsum("na,nab,nb->n", chebyshev_matrix(s, q), tables["pieces"][i, j], chebyshev_matrix(t, q))[:, None]


def permeability(points: Tensor, contrast: float = 2.0) -> Tensor:
    """k (N,) = exp(contrast sin(2 pi x) cos(pi y)) of points (N, 2): between e^-contrast and e^contrast."""
    return torch.exp(contrast * torch.sin(2 * math.pi * points[:, 0]) * torch.cos(math.pi * points[:, 1]))


@reference()
def darcy(contrast: float = 2.0, degree: int = 12) -> Recipe:
    """Darcy's flow through a medium of varying permeability: -div(k grad u) = 1 on [0, 1]^2, u = 0 on the boundary.

    k = exp(contrast sin(2 pi x) cos(pi y)) (`permeability`). At the corners u behaves as r^2 log r: the elements are
    graded towards the sides.
    """

    def solve(level: int) -> Tables:
        p, half = (degree - 2, degree)[level], graded(0.5, (4e-3, 2e-3)[level], 4.0, 0.16)
        lines = np.concatenate([half, 1 - half[-2::-1]])
        grid = mesh(rectangles(lines, lines), p)
        boundary = np.abs(grid.nodes - 0.5).max(1) > 0.5 - 1e-12

        def k(x: Array, y: Array) -> Array:
            return (
                permeability(torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)), contrast).numpy().reshape(x.shape)
            )

        u = solve_elliptic(grid, k, lambda x, y: np.ones_like(x), boundary, np.zeros(len(grid.nodes)))
        return tensor_tables(u[grid.numbers], lines, lines, p)

    how = f"Quadrilateral elements of degree {degree} graded towards the sides, one sparse solve"
    return Recipe(evaluate, how, ((0.0, 0.0), (1.0, 1.0)), solve=solve)
