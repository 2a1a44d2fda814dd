"""Reaction and diffusion on an interval: spectral elements in space, implicit collocation in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .cache import Recipe, Tables, reference
from .evolution import collocate
from .spectral import (
    Array,
    barycentric_matrix,
    chebyshev_nodes,
    chebyshev_transform,
    differentiation,
    gauss_lobatto,
    graded,
    in_time,
    pack_time,
    piecewise,
    subdivided,
    windows_nodes,
)

DEGREE = (20, 24)  # of the coarse and of the fine run


@dataclass(frozen=True)
class Elements:
    """Elements of degree p between the edges, their nodes (n,), mass (n,), and `slopes` (elements (p + 1), n).

    |slopes u|^2 is the integral of k u'^2: the stiffness matrix is slopes^T slopes.
    """

    edges: Array
    p: int
    nodes: Array
    mass: Array
    slopes: Array


def assemble(edges: Array, p: int, conductivity: Callable[[Array], Array] = np.ones_like) -> Elements:
    """Gauss-Lobatto elements: the mass matrix is diagonal."""
    x, w = gauss_lobatto(p)
    d = differentiation(x)
    count = len(edges) - 1
    n = p * count + 1
    nodes, mass, slopes = np.empty(n), np.zeros(n), np.zeros((count, p + 1, n))
    for e, (left, right) in enumerate(pairwise(edges)):
        here, half = slice(e * p, e * p + p + 1), (right - left) / 2
        nodes[here] = left + half * (x + 1)
        mass[here] += half * w
        slopes[e, :, here] = np.sqrt(w / half * conductivity(nodes[here]))[:, None] * d
    return Elements(edges, p, nodes, mass, slopes.reshape(-1, n))


def diffuse(
    elements: Elements,
    diffusion: float,
    reaction: Callable[[Array, Array, Array], Array],
    start: Array,
    fixed: Array,
    march: Array,
    times: Array,
    q: int,
) -> Array:
    """u (len(times), n) of u_t = diffusion (k u_x)_x + reaction(t, x, u); nodes in `fixed` keep their values.

    Ends that are not fixed have u_x = 0. Eigenvectors make L diagonal; they come from the singular value decomposition
    of `slopes`, since small elements have eigenvalues of 1e14 and the symmetric eigenproblem would lose the small ones.
    """
    free = np.setdiff1d(np.arange(len(elements.nodes)), fixed)
    root = np.sqrt(elements.mass[free])
    _, singular, rows = np.linalg.svd(elements.slopes[:, free] / root, full_matrices=False)
    lift = np.interp(elements.nodes, elements.nodes[fixed], start[fixed]) if len(fixed) else np.zeros_like(start)
    held = -diffusion * (elements.slopes[:, free].T @ (elements.slopes @ (lift - lift[0]))) / elements.mass[free]
    back, forth = rows / root, rows * root
    x = elements.nodes[free]

    def nonlinear(t: Array, modes: Array) -> Array:
        return (reaction(t[:, None], x, lift[free] + modes @ back) + held) @ forth.T

    modes = collocate(-diffusion * singular**2, nonlinear, forth @ (start - lift)[free], march, times, q)
    out = np.empty((len(times), len(start)))
    out[:, fixed], out[:, free] = start[fixed], lift[free] + modes @ back
    return out


def element_tables(elements: Elements, values: Array, edges: Array, stored: int, m: int = 1) -> Tables:
    """Tables of nodal values (T, n m) at the stored times: Chebyshev coefficients on each element."""
    p, (x, _) = elements.p, gauss_lobatto(elements.p)
    change = chebyshev_transform(p + 1) @ barycentric_matrix(x, chebyshev_nodes(p + 1))
    count = len(elements.edges) - 1
    split = values.reshape(len(values), m, -1)[:, :, np.arange(count)[:, None] * p + np.arange(p + 1)]
    coefficients = np.einsum("jk,tmek->tejm", change, split)
    return {
        "pieces": pack_time(coefficients, edges, stored),
        "edges": torch.from_numpy(edges),
        "elements": torch.from_numpy(elements.edges),
    }


def evaluate(fold: Callable[[Tensor], Tensor]) -> Callable[[Tables, Tensor], Tensor]:
    """Evaluator of `element_tables`; `fold` maps the coordinate x to the half that was computed."""

    def at(tables: Tables, x: Tensor) -> Tensor:
        space = piecewise(fold(x[:, 0]), tables["elements"])
        return in_time(tables["pieces"], tables["edges"], x[:, 1], space, 1)

    return at


def bistable(t: Array, x: Array, u: Array) -> Array:
    """5 (u - u^3)."""
    return 5 * (u - u**3)


def _ends(layer: float, smallest: float, largest: float) -> Array:
    """Edges on [0, 1] graded towards 1; sizes in units of the width of a layer, sqrt(d)."""
    return 1 - graded(1.0, smallest * layer, 2.0, min(largest * layer, 0.25))[::-1]


def _half(diffusion: float, final: float, level: int, ends: Array, fixed: list[int]) -> Tables:
    elements = assemble(ends, DEGREE[level])
    start = elements.nodes**2 * np.cos(math.pi * elements.nodes)
    edges = graded(final, 1e-6, 2.0, 0.05)
    stored = (12, 14)[level]
    march = subdivided(edges, 1 + level)
    times = windows_nodes(edges, stored)
    values = diffuse(elements, diffusion, bistable, start, np.array(fixed, dtype=int), march, times, 12)
    return element_tables(elements, values, edges, stored)


@reference()
def allen_cahn(d: float = 1e-3, final: float = 1.0) -> Recipe:
    """Allen-Cahn u_t = d u_xx + 5 (u - u^3) on [-1, 1], u(x, 0) = x^2 cos(pi x), u(+-1, t) = -1.

    u is even: computed on [0, 1] with u_x(0) = 0. At t = 0 the second derivative at x = 1 does not agree with the
    boundary value, which the elements and windows graded towards it resolve.
    """

    def solve(level: int) -> Tables:
        ends = _ends(math.sqrt(d), (0.025, 0.0125)[level], 1.4)
        return _half(d, final, level, ends, [DEGREE[level] * (len(ends) - 1)])

    how = "Spectral elements of degree 24 graded towards x = 1, Radau collocation with 12 nodes in graded windows"
    return Recipe(evaluate(torch.abs), how, ((-1.0, 0.0), (1.0, final)), solve=solve)


@reference()
def allen_cahn_periodic(d: float = 1e-4, final: float = 1.0) -> Recipe:
    """Allen-Cahn u_t = d u_xx - 5 u^3 + 5 u on [-1, 1], u(x, 0) = x^2 cos(pi x), periodic.

    The periodic u(x, 0) has a kink at x = +-1 (u_x jumps by 4): a Fourier series converges algebraically. u is even
    about 0 and 1, so that it is computed on [0, 1] with u_x = 0 at both ends on elements graded towards x = 1.
    """

    def solve(level: int) -> Tables:
        ends = _ends(math.sqrt(d), (0.01, 0.005)[level], 3.0)
        return _half(d, final, level, ends, [])

    how = "Spectral elements of degree 24 graded towards x = 1, Radau collocation with 12 nodes in graded windows"
    return Recipe(evaluate(torch.abs), how, ((-1.0, 0.0), (1.0, final)), solve=solve)


@reference()
def reaction_diffusion(nu: float = 3.0, rho: float = 5.0, final: float = 1.0) -> Recipe:
    """u_t = nu u_xx + rho u (1 - u) on [0, 2 pi], u(x, 0) = exp(-8 (x - pi)^2 / pi^2), periodic.

    u is even about pi and about the ends, where u(x, 0) has a small kink: computed on [pi, 2 pi].
    Krishnapriyan et al. (2021), Characterizing possible failure modes in physics-informed neural networks.
    """

    def solve(level: int) -> Tables:
        ends = math.pi - graded(math.pi, (4e-3, 1e-3)[level], 2.0, 0.4)[::-1]
        elements = assemble(ends, DEGREE[level])
        start = np.exp(-8 * elements.nodes**2 / math.pi**2)
        edges, stored = graded(final, 1e-7, 2.0, 0.05), (12, 14)[level]
        march = subdivided(edges, 1 + level)
        none = np.array([], dtype=int)
        values = diffuse(
            elements, nu, lambda t, x, u: rho * u * (1 - u), start, none, march, windows_nodes(edges, stored), 12
        )
        return element_tables(elements, values, edges, stored)

    how = "Spectral elements of degree 24 graded towards the kink, Radau collocation with 12 nodes in graded windows"
    return Recipe(evaluate(lambda x: torch.abs(x - math.pi)), how, ((0.0, 0.0), (2 * math.pi, final)), solve=solve)


@reference()
def heat_variable(final: float = 1.0) -> Recipe:
    """Heat with a variable coefficient: u_t = (k u_x)_x / 4, k = 1 + cos(2 pi x) / 2, on [0, 1], u = 0 at both ends.

    u(x, 0) = sin(pi x).
    """

    def solve(level: int) -> Tables:
        side = graded(0.5, (1e-2, 5e-3)[level], 2.0, 0.15)
        elements = assemble(np.concatenate([side, 1 - side[-2::-1]]), DEGREE[level], _conductivity)
        start, fixed = np.sin(math.pi * elements.nodes), np.array([0, len(elements.nodes) - 1])
        start[-1] = 0.0
        edges, stored = graded(final, 1e-6, 2.0, 0.05), (12, 14)[level]
        march, times = subdivided(edges, 1 + level), windows_nodes(edges, stored)
        values = diffuse(elements, 0.25, lambda t, x, u: np.zeros_like(u), start, fixed, march, times, 12)
        return element_tables(elements, values, edges, stored)

    how = "Spectral elements of degree 24 graded towards the ends, Radau collocation with 12 nodes in graded windows"
    return Recipe(evaluate(lambda x: x), how, ((0.0, 0.0), (1.0, final)), solve=solve)


def _conductivity(x: Array) -> Array:
    return 1 + np.cos(2 * math.pi * x) / 2
