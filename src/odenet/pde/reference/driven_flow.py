"""Flow in a square with a moving lid: Legendre-Galerkin stream function, the singular corners taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from torch import Tensor

from .cache import Recipe, Tables, reference
from .corner import Corner, fields, velocity
from .spectral import Array, chebyshev_lobatto, chebyshev_matrix


@dataclass(frozen=True)
class Line:
    """Functions on [0, 1] at quadrature nodes: x (Q,), weights (Q,), derivatives 0 to 4 of the modes (5, Q, K)."""

    x: Array
    w: Array
    modes: Array


def clamped(count: int, quadrature: int) -> tuple[Line, Array]:
    """Modes L_k - 2 (2k + 5) / (2k + 7) L_(k+2) + (2k + 3) / (2k + 7) L_(k+4), flat and zero at both ends.

    With their Legendre coefficients (count + 4, count). Shen (1994), SIAM J. Sci. Comput. 15, 1489.
    """
    k, coefficients = np.arange(count), np.zeros((count + 4, count))
    scale = 1 / np.sqrt(2 * (2 * k + 3) ** 2 * (2 * k + 5))
    coefficients[k, k] = scale
    coefficients[k + 2, k] = -2 * (2 * k + 5) / (2 * k + 7) * scale
    coefficients[k + 4, k] = (2 * k + 3) / (2 * k + 7) * scale
    s, w = legendre.leggauss(quadrature)
    modes = np.stack([legendre.legval(s, legendre.legder(coefficients, m) * 2.0**m).T for m in range(5)])
    return Line((s + 1) / 2, w / 2, modes), coefficients


def blending() -> Array:
    """Chebyshev coefficients (4, 4) on [0, 1] of the cubics with one of f(0), f'(0), f(1), f'(1) equal to 1."""
    cubics = np.array([[1, 0, -3, 2], [0, 1, -2, 1], [0, 0, 3, -2], [0, 0, -1, 1]], dtype=float)
    x = (chebyshev_lobatto(3) + 1) / 2
    return chebyshev.chebfit(2 * x - 1, np.polynomial.polynomial.polyval(x, cubics.T).T, 3).T


def lift(corners: tuple[Corner, Corner], n: int) -> Array:
    """Chebyshev coefficients (n + 1, n + 1) of a smooth function with what the corners' terms lack on the boundary.

    Hermite blending of the values and normal derivatives on the four sides (Coons).
    """
    y = (chebyshev_lobatto(n) + 1) / 2
    left, right = corners

    def data(owners: tuple[Corner, ...], x: Array, y: Array) -> list[Array]:
        parts = [fields(corner, x, y) for corner in owners]
        return [-sum((p[key] for p in parts), np.zeros(len(x))) for key in ("psi", "x", "y")]

    def fitted(values: Array) -> Array:
        return chebyshev.chebfit(chebyshev_lobatto(n), values, n)

    zero, one = np.zeros(n + 1), np.ones(n + 1)
    a, b, c = data((right,), zero, y), data((left,), one, y), data(corners, y, zero)
    across = np.stack([fitted(a[0]), fitted(a[1]), fitted(b[0]), fitted(b[1])])  # f, f_x at x = 0, then at x = 1
    upward = np.stack([fitted(c[0]), fitted(c[2]), fitted(zero), fitted(-one)])  # f, f_y at y = 0, then at the lid
    blend = np.zeros((4, n + 1))
    blend[:, :4] = blending()
    ends = np.stack([_ends(side) for side in across])  # (4 in x, 4 in y)
    return blend.T @ across + upward.T @ blend - blend.T @ ends @ blend


def _ends(series: Array) -> Array:
    """f(0), f'(0), f(1), f'(1) of a Chebyshev series on [0, 1]."""
    slope = 2 * chebyshev.chebder(series)
    return np.array([chebyshev.chebval(s, c) for s in (-1.0, 1.0) for c in (series, slope)])


def derivatives(series: Array, x: Array) -> dict[str, Array]:
    """Derivatives of a Chebyshev series on the unit square that the equation needs, (Q, Q), keyed as in `fields`."""

    def at(i: int, j: int) -> Array:
        c = chebyshev.chebder(chebyshev.chebder(series, i, axis=0), j, axis=1) * 2.0 ** (i + j)
        return chebyshev.chebgrid2d(2 * x - 1, 2 * x - 1, c)

    return {
        "x": at(1, 0),
        "y": at(0, 1),
        "zx": at(3, 0) + at(1, 2),
        "zy": at(2, 1) + at(0, 3),
        "bi": at(4, 0) + 2 * at(2, 2) + at(0, 4),
    }


def solve_cavity(reynolds: float, count: int) -> tuple[Array, tuple[Corner, Corner]]:
    """Chebyshev coefficients of the smooth part of the stream function, by Newton's method."""
    corners = (Corner.at_left(reynolds), Corner.at_right(reynolds))
    line, coefficients = clamped(count, count + count // 2 + 4)
    smooth = lift(corners, count + 3)
    xx, yy = np.meshgrid(line.x, line.x, indexing="ij")
    singular = [fields(corner, xx.ravel(), yy.ravel()) for corner in corners]
    singular = [{key: value.reshape(xx.shape) for key, value in part.items()} for part in singular]
    weights, m = np.outer(line.w, line.w), line.modes
    gram = [np.einsum("q,qi,qk->ik", line.w, m[0], m[d]) for d in (0, 2, 4)]
    bilaplace = np.kron(gram[2], gram[0]) + 2 * np.kron(gram[1], gram[1]) + np.kron(gram[0], gram[2])
    own = sum(part["own"] for part in singular)
    for _ in range(30):
        total = derivatives(smooth, line.x)
        bi = total["bi"]
        for part in singular:
            total = {key: total[key] + part[key] for key in ("x", "y", "zx", "zy")}
        convection = total["y"] * total["zx"] - total["x"] * total["zy"] - own
        residual = m[0].T @ (weights * (bi - reynolds * convection)) @ m[0]
        step = np.linalg.solve(bilaplace - reynolds * _linearised(line, weights, total), residual.ravel())
        change = legendre_to_chebyshev(count + 4) @ coefficients
        smooth = smooth - change @ step.reshape(count, count) @ change.T
        if np.abs(step).max() < 1e-14 * max(1.0, np.abs(smooth).max()):
            break
    return smooth, corners


def _linearised(line: Line, weights: Array, total: dict[str, Array]) -> Array:
    """(K K, K K): the convection of a change of the stream function in the flow `total`, tested by the modes."""
    m, k = line.modes, line.modes.shape[2]
    out = np.zeros((k, k, k, k))
    terms = (
        ("y", 3, 0, 1.0),
        ("y", 1, 2, 1.0),
        ("x", 2, 1, -1.0),
        ("x", 0, 3, -1.0),
        ("zx", 0, 1, 1.0),
        ("zy", 1, 0, -1.0),
    )
    for key, i, j, sign in terms:
        field = sign * weights * total[key]
        across = np.einsum("qi,qk->qik", m[0], m[i]).reshape(len(line.x), -1)  # (Q, test and trial in x)
        upward = np.einsum("qj,ql->qjl", m[0], m[j]).reshape(len(line.x), -1)
        block = across.T @ field @ upward  # (test x, trial x, test y, trial y)
        out += block.reshape(k, k, k, k).transpose(0, 2, 1, 3)
    return out.reshape(k * k, k * k)


def legendre_to_chebyshev(n: int) -> Array:
    """(n, n): coefficients of Legendre polynomials to those of Chebyshev polynomials."""
    x = chebyshev_lobatto(n - 1)
    return np.linalg.solve(chebyshev.chebvander(x, n - 1), legendre.legvander(x, n - 1))


@reference()
def cavity(reynolds: float = 100.0, modes: int = 44) -> Recipe:
    """Navier-Stokes in [0, 1]^2: u u_x + v u_y + p_x = Laplace u / Re, ..., u = 1, v = 0 on y = 1, at rest elsewhere.

    Columns u, v, and p, which is NaN throughout: it grows as 1 / r where the lid meets the walls, is not square
    integrable and has no relative L2 error. The singular terms r f and Re r^2 g of both corners are exact, the rest is
    a polynomial with `modes` modes in each direction. reynolds = 0 is Stokes flow.
    Botella & Peyret (1998), Comput. Fluids 27, 421.
    """
    corners = (Corner.at_left(reynolds), Corner.at_right(reynolds))

    def solve(level: int) -> Tables:
        series, _ = solve_cavity(reynolds, (modes - modes // 4, modes)[level])
        u, v = np.zeros_like(series), np.zeros_like(series)
        u[:, :-1], v[:-1] = 2 * chebyshev.chebder(series, axis=1), -2 * chebyshev.chebder(series, axis=0)
        return {"uv": torch.from_numpy(np.stack([u, v]))}

    def evaluate(tables: Tables, x: Tensor) -> Tensor:
        q = tables["uv"].shape[-1]
        s, t = (chebyshev_matrix(2 * x[:, axis] - 1, q) for axis in (0, 1))
        flow = torch.einsum("na,mab,nb->nm", s, tables["uv"], t) + sum(velocity(corner, x) for corner in corners)
        return torch.cat([flow, torch.full_like(flow[:, :1], torch.nan)], 1)

    how = (
        f"Legendre-Galerkin stream function with {modes} modes a side and the singular terms of the corners, by Newton"
    )
    return Recipe(evaluate, how, ((0.0, 0.0), (1.0, 1.0)), ("u", "v", "p"), solve=solve)
