"""Point sets in the unit cube, by name, and rules that move points to where a residual is large.

A design draws u (m, k) in the open unit cube with weights (m,) of sum one; domains map the cube onto themselves and
onto the pieces of their boundaries. Random designs give exactly n points; tensor designs give m^k of them,
m = round(n^(1/k)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..registry import Registry

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from .domain import Domain

REAL = torch.float64
PANEL = 100  # nodes of the longest Gauss rule
MOST = 50_000_000  # coordinates of one point set: 400 MB
Draw = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]
Magnitude = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A way to put points into the unit cube.

    draw:   (n, k, generator) -> u (m, k), weights (m,) of sum one
    exact:  m is n; else m is about n (a tensor grid)
    about:  one sentence that says when to choose it
    """

    name: str = ""
    draw: Draw
    exact: bool
    about: str
    cite: str = ""


def _design(name: str, obj: Any) -> Design:
    if not isinstance(obj, Design):
        raise BadInput(f"sampler {name!r} is a {type(obj).__name__}; register a sampling.Design(draw=..., exact=...).")
    return Design(name=name, draw=obj.draw, exact=obj.exact, about=obj.about, cite=obj.cite)


SAMPLERS: Registry[Design] = Registry("sampler", "odenet.samplers", _design)


def count(n: object, what: str = "points") -> int:
    """n as an int above zero; raises BadInput otherwise."""
    if isinstance(n, bool) or not isinstance(n, int) or n <= 0:
        raise BadInput(f"n={n!r} {what} cannot be drawn: n is a whole number above zero.")
    return n


def _equal(u: Tensor) -> tuple[Tensor, Tensor]:
    return u, torch.full((len(u),), 1.0 / len(u), dtype=REAL)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(0, 2**31 - 1, (1,), generator=generator, device=generator.device))


def _rand(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=REAL, device=generator.device).cpu()


def uniform(n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Independent uniform points: choose them when independence itself is wanted; others fill the cube better."""
    return _equal(_rand(n, k, generator=generator))


def sobol(n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scrambled Sobol points: the default, the most even filling in any dimension, best when n is a power of two."""
    engine = torch.quasirandom.SobolEngine(k, scramble=True, seed=_seed(generator))
    cell = 2.0**-30  # the engine's digits; half a cell keeps the points off the faces
    return _equal(engine.draw(n, dtype=REAL) * (1 - cell) + cell / 2)


def lhs(n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latin hypercube: every coordinate has one point in each of n equal bins; choose it to compare with older work."""
    bins = _rand(n, k, generator=generator).argsort(dim=0)
    return _equal((bins + _rand(n, k, generator=generator)) / n)


def _primes(k: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < k:
        if all(candidate % p for p in found if p * p <= candidate):
            found.append(candidate)
        candidate += 1
    return found


def radical_inverse(i: Tensor, base: int, digits: Tensor) -> Tensor:
    """sum_j digits[j, a_j] base^(-j-1) for i = sum_j a_j base^j; digits (J, base) permutes the digits of each place."""
    out, rest, scale = torch.zeros(len(i), dtype=REAL), i, 1.0
    for row in digits:
        scale /= base
        out = out + scale * row[rest % base]
        rest = rest // base
    return out


def halton(n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Halton points with scrambled digits: extensible and even in up to about ten dimensions.

    A. B. Owen, A randomized Halton algorithm in R, 2017, arXiv 1706.02808.
    """
    i, columns = torch.arange(n), []
    for base in _primes(k):
        places = math.ceil(54 * math.log(2) / math.log(base))
        digits = _rand(places, base, generator=generator).argsort(dim=1)
        columns.append(radical_inverse(i, base, digits))
    return _equal(torch.stack(columns, 1).clamp(2.0**-54, 1 - 2.0**-53))


def tensor_grid(nodes: Tensor, weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All k-tuples of nodes (m,): points (m^k, k) and the products of their weights."""
    u = torch.cartesian_prod(*[nodes] * k).reshape(-1, k)
    w = torch.cartesian_prod(*[weights] * k).reshape(-1, k).prod(1)
    return u, w


def per_axis(n: int, k: int) -> int:
    """Nodes per axis of a tensor grid of about n points in k dimensions; refuses more than fit."""
    m = max(1, round(n ** (1 / k)))
    if k * m**k > MOST:
        raise BadInput(f'a tensor grid of {m}^{k} points does not fit; use how="sobol" in {k} dimensions.')
    return m


def midpoints(m: int) -> tuple[Tensor, Tensor]:
    """Midpoints of m equal cells of [0, 1] and the weights 1/m."""
    return (torch.arange(m, dtype=REAL) + 0.5) / m, torch.full((m,), 1.0 / m, dtype=REAL)


@lru_cache(maxsize=64)
def _leggauss(m: int) -> tuple[Tensor, Tensor]:
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(m)
    return torch.from_numpy(x).add(1.0).div(2.0), torch.from_numpy(w).div(2.0)


def legendre(m: int) -> tuple[Tensor, Tensor]:
    """About m Gauss-Legendre nodes and weights on [0, 1]: exact for polynomials of degree 2m - 1.

    Above 100 nodes the interval is cut into equal panels of at most 100 (a rule of m nodes costs m^3 operations).
    """
    panels = math.ceil(m / PANEL)
    x, w = _leggauss(math.ceil(m / panels))
    left = torch.arange(panels, dtype=REAL)[:, None]
    return ((left + x) / panels).reshape(-1), (w / panels).repeat(panels)


@lru_cache(maxsize=64)
def _jacobi(m: int, power: int) -> tuple[Tensor, Tensor]:
    from scipy.special import roots_jacobi

    x, w = roots_jacobi(m, 0, power)
    return torch.from_numpy(x).add(1.0).div(2.0), torch.from_numpy(w / w.sum())


def jacobi(m: int, power: int) -> tuple[Tensor, Tensor]:
    """Gauss nodes and weights of sum one for the weight s^power on [0, 1]: exact to degree 2m - 1."""
    x, w = _jacobi(m, power)
    return x.clone(), w.clone()


def fejer(m: int) -> tuple[Tensor, Tensor]:
    """Chebyshev points of the first kind on [0, 1] with Fejér's weights: exact for polynomials of degree m - 1."""
    angle = (torch.arange(m, dtype=REAL) + 0.5) * math.pi / m
    j = torch.arange(1, m // 2 + 1, dtype=REAL)
    inner = (torch.cos(2 * j * angle[:, None]) / (4 * j**2 - 1)).sum(1)
    return (1 - torch.cos(angle)) / 2, (1 - 2 * inner) / m


def _tensor(line: Callable[[int], tuple[Tensor, Tensor]]) -> Draw:
    def draw(n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return tensor_grid(*line(per_axis(n, k)), k)

    return draw


for _name, _entry in {
    "uniform": Design(draw=uniform, exact=True, about="independent points, for Monte-Carlo error bars"),
    "sobol": Design(draw=sobol, exact=True, about="the default: the most even filling, in any dimension"),
    "lhs": Design(draw=lhs, exact=True, about="Latin hypercube, for comparison with older work"),
    "halton": Design(draw=halton, exact=True, about="even in up to about ten dimensions", cite="Owen 2017"),
    "grid": Design(draw=_tensor(midpoints), exact=False, about="equal cells' midpoints: low dimension, plots"),
    "chebyshev": Design(draw=_tensor(fejer), exact=False, about="denser at the ends: smooth solutions on boxes"),
    "gauss": Design(draw=_tensor(legendre), exact=False, about="quadrature points: energies and integrals"),
}.items():
    SAMPLERS.register(_name, _entry)


def get(name: str) -> Design:
    """The design called `name`; raises UnknownName with the nearest names."""
    return SAMPLERS.get(name)


def names() -> list[str]:
    """Names of all designs, sorted."""
    return SAMPLERS.names()


def density(magnitude: Tensor, power: float, floor: float) -> Tensor:
    """(M,) residual magnitudes -> probabilities (M,) proportional to r^k / mean(r^k) + c, of sum one."""
    r = magnitude.detach().to("cpu", REAL).abs()
    if r.ndim != 1:
        raise BadInput(f"the residual magnitude has shape {tuple(r.shape)}; give one number for each point.")
    if not bool(torch.isfinite(r).all()):
        raise BadInput(
            "the residual is not finite at some points, so they cannot be drawn by it; look at the solution."
        )
    r = r / r.amax().clamp_min(torch.finfo(REAL).tiny)  # powers of small residuals must not underflow
    raised = r**power
    mean = raised.mean()
    p = raised / mean + floor if bool(mean > 0) else torch.ones_like(r)
    return p / p.sum()


def _by_residual(
    domain: Domain, magnitude: Magnitude, n: int, generator: torch.Generator, power: float, floor: float, pool: int
) -> Tensor:
    candidates = domain.sample(max(pool, n), generator, "uniform")
    p = density(magnitude(candidates), power, floor)
    if int((p > 0).sum()) < n:  # a residual that vanishes almost everywhere
        p = p + 1.0 / len(p)
    return candidates[torch.multinomial(p, n, replacement=False, generator=generator)]


def rad(
    domain: Domain,
    magnitude: Magnitude,
    x: Tensor,
    generator: torch.Generator,
    *,
    power: float = 1.0,
    floor: float = 1.0,
    pool: int = 20_000,
) -> Tensor:
    """Residual-based adaptive distribution: all N points drawn anew with density r^k / E[r^k] + c from a uniform pool.

    x (N, d) -> (N, d); k = power, c = floor. Choose it for fronts and shocks that move while training.
    C. Wu, M. Zhu, Q. Tan, Y. Kartha & L. Lu, CMAME 403 (2023) 115671.
    """
    return _by_residual(domain, magnitude, len(x), generator, power, floor, pool)


def rar_d(
    domain: Domain,
    magnitude: Magnitude,
    x: Tensor,
    generator: torch.Generator,
    *,
    add: int | None = None,
    power: float = 2.0,
    floor: float = 0.0,
    pool: int = 20_000,
) -> Tensor:
    """Residual-based adaptive refinement with distribution: keeps x and adds points (N / 10 of them unless told).

    x (N, d) -> (N + add, d), new points by the density of `rad`. Choose it when nothing learnt may be forgotten.
    C. Wu, M. Zhu, Q. Tan, Y. Kartha & L. Lu, CMAME 403 (2023) 115671.
    """
    n = max(1, len(x) // 10) if add is None else count(add)
    return torch.cat([x, _by_residual(domain, magnitude, n, generator, power, floor, pool)])


def r3(domain: Domain, magnitude: Magnitude, x: Tensor, generator: torch.Generator) -> Tensor:
    """Retain, resample, release: points with a residual above the mean stay, uniform ones replace the others.

    x (N, d) -> (N, d), those retained first. Choose it for solutions that spread from the initial state; it needs one
    residual per point and nothing to tune. A. Daw, J. Bu, S. Wang, P. Perdikaris & A. Karpatne, ICML 2023,
    arXiv 2207.02338.
    """
    r = magnitude(x).detach().to("cpu", REAL).abs()
    density(r, 1.0, 0.0)  # the same checks
    kept = x[r > r.mean()]
    return torch.cat([kept, domain.sample(len(x) - len(kept), generator, "uniform")])


Resample = Callable[..., Tensor]


def _resampler(name: str, obj: Any) -> Resample:
    if not callable(obj):
        raise BadInput(
            f"resampler {name!r} is a {type(obj).__name__}; register a function (domain, magnitude, x, gen)."
        )
    return obj


RESAMPLERS: Registry[Resample] = Registry("resampler", "odenet.resamplers", _resampler)
for _name, _rule in {"rad": rad, "rar_d": rar_d, "r3": r3}.items():
    RESAMPLERS.register(_name, _rule)
