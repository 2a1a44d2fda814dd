"""Facts derived from coefficients: stability intervals, SSP and contractivity radii, error constants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from ..rational import Number, is_exact, solve
from .base import Facts, facts_of
from .multistep import LinearMultistep
from .order import Residual, attained_order, multistep_conditions, root_condition
from .partitioned import Partitioned, SymplecticSplitting
from .polynomials import Polynomial, add, multiply, stays_nonpositive_until
from .runge_kutta import RungeKutta, Tableau
from .two_step import TwoStep, coefficients_of, is_zero_stable


def fraction(x: Number) -> Fraction:
    """`x` itself where it is rational, else its float, read exactly."""
    return x if isinstance(x, Fraction) else Fraction(float(x))


def _norm(residuals: Iterable[Residual]) -> float:
    return math.sqrt(math.fsum(r.weighted**2 for r in residuals))


# ---------------------------------------------------------------------------------------------- Runge-Kutta


@facts_of.register
def _(integrator: RungeKutta) -> Facts:
    return of_tableau(integrator.tableau)


@lru_cache(maxsize=256)
def of_tableau(tableau: Tableau) -> Facts:
    """Everything that an explicit tableau implies."""
    real, imaginary = runge_kutta_intervals(tableau)
    return Facts(
        order=tableau.order,
        order_low=tableau.order_low if tableau.order_of_error is None else tableau.order_of_error - 1,
        stages=len(tableau.a) - tableau.fsal,
        fsal=tableau.fsal,
        exact=tableau.exact,
        error_constant=_norm(tableau.conditions(tableau.weights).of_order(tableau.order + 1)),
        symplectic=not any(entry for row in _algebraic_matrix(tableau) for entry in row),
        ssp=ssp_radius(tableau),
        contractivity_radius=contractivity_radius(tableau),
        zero_stable=True,
        real_interval=real,
        imag_interval=imaginary,
    )


def runge_kutta_intervals(tableau: Tableau) -> tuple[float, float]:
    """Largest x with |R| <= 1 on [-x, 0] and on [0, ix], from the polynomials |R|^2 - 1 in x and in x^2."""
    r = [fraction(c) for c in tableau.stability_polynomial()]
    for j in range(tableau.order + 1):  # known exactly from the order, even where coefficients are rounded
        r[j] = Fraction(1, math.factorial(j))
    minus_one = [Fraction(-1)]
    backwards = [c * (-1) ** j for j, c in enumerate(r)]
    even = [c * (-1) ** j for j, c in enumerate(r[::2])]
    odd = [c * (-1) ** j for j, c in enumerate(r[1::2])]
    on_imaginary = add(add(multiply(even, even), [Fraction(0), *multiply(odd, odd)]), minus_one)
    real = stays_nonpositive_until(add(multiply(backwards, backwards), minus_one))
    return real, math.sqrt(stays_nonpositive_until(on_imaginary))


def ssp_radius(tableau: Tableau, bisections: int = 40) -> float:
    """Radius of absolute monotonicity: the largest r with K (I + rK)^-1 >= 0 and rK (I + rK)^-1 1 <= 1.

    K is A with b as last row (Kraaijevanger 1991, theorem 4.2).
    """
    k = [[fraction(x) for x in row] + [Fraction(0)] for row in (*tableau.matrix, tableau.weights)]
    low, high = Fraction(0), Fraction(len(k))
    if not _absolutely_monotone(k, Fraction(1, 10**6)):
        return 0.0
    for _ in range(bisections):
        middle = (low + high) / 2
        low, high = (middle, high) if _absolutely_monotone(k, middle) else (low, middle)
    return round(float(low), 10)


def _absolutely_monotone(k: list[list[Fraction]], r: Fraction) -> bool:
    n = len(k)
    # u = (I + rK)^-1 1 and the rows of K (I + rK)^-1, which solve transposed systems
    shifted = [[r * k[i][j] + (i == j) for j in range(n)] for i in range(n)]
    if min(solve(shifted, [Fraction(1)] * n)) < 0:
        return False
    transposed = [list(column) for column in zip(*shifted)]
    return all(min(solve(transposed, row)) >= 0 for row in k)


def _algebraic_matrix(tableau: Tableau) -> list[list[Any]]:
    """M = BA + A^T B - b b^T."""
    a, b = tableau.matrix, tableau.weights
    s = range(len(b))
    return [[b[i] * a[i][j] + b[j] * a[j][i] - b[i] * b[j] for j in s] for i in s]


def contractivity_radius(tableau: Tableau) -> float:
    """Largest r with M + B/r >= 0; inf where M >= 0; 0 where a weight is negative or is 0 on a used stage.

    Dahlquist & Jeltsch 1979, circle contractivity: discs |z + r| <= r.
    """
    m, b = _algebraic_matrix(tableau), tableau.weights
    if any(float(x) < 0 for x in b) or any(any(row) for row, x in zip(m, b) if not x):
        return 0.0
    kept = [i for i, x in enumerate(b) if x]
    scaled = [[float(m[i][j]) / math.sqrt(float(b[i]) * float(b[j])) for j in kept] for i in kept]
    smallest = float(np.linalg.eigvalsh(np.array(scaled))[0])
    return math.inf if smallest > -1e-14 else -1 / smallest


# ------------------------------------------------------------------------------------------------ multistep


@facts_of.register
def _(integrator: LinearMultistep) -> Facts:
    rho, sigma = integrator.method.rho, integrator.method.sigma
    real, imaginary = axis_intervals(rho, sigma)
    return Facts(
        order=integrator.order,
        stages=1,
        exact=all(is_exact(x) for x in (*rho, *sigma)),
        error_constant=_multistep_error_constant(rho, sigma),
        zero_stable=root_condition(rho),
        real_interval=real,
        imag_interval=imaginary,
    )


@facts_of.register
def _(integrator: TwoStep) -> Facts:
    """With k learned: at the mean of its initial distribution."""
    rho, sigma = coefficients_of(integrator)
    second = integrator.power == 2
    real, imaginary = _second_order_intervals(rho, sigma) if second else axis_intervals(rho, sigma)
    constant = 1 / 12 if second else _multistep_error_constant(rho, sigma)
    return Facts(
        order=integrator.order,
        stages=1,
        exact=integrator.k != "learned",
        error_constant=constant if integrator.order else None,
        symplectic=integrator.symplectic,
        zero_stable=is_zero_stable(integrator),
        real_interval=real,
        imag_interval=imaginary,
    )


def _second_order_intervals(rho: Sequence[Fraction], sigma: Sequence[Fraction]) -> tuple[float, float]:
    """Both roots of z^2 + (g x^2 - (1 - k)) z - k in the unit disc: g x^2 <= 2 (1 - k), for y'' = -x^2 y."""
    k, gain = -rho[0], sigma[1]
    return 0.0, math.sqrt(2 * (1 - k) / gain) if gain > 0 else 0.0


def _multistep_error_constant(rho: Sequence[Number], sigma: Sequence[Number]) -> float:
    conditions = multistep_conditions(rho, sigma)
    leading = list(conditions(attained_order(conditions) + 1))[-1]
    return float(leading.value) / float(sum(sigma, Fraction(0)))


def axis_intervals(rho: Sequence[Number], sigma: Sequence[Number]) -> tuple[float, float]:
    """Largest x with the root condition on all of [-x, 0] and [0, ix].

    The boundary locus z(theta) = rho / sigma on the unit circle meets an axis only at roots of a polynomial
    in cos(theta); between two such points stability cannot change, so one test in each gap decides.
    """
    a, b = np.array([float(x) for x in rho]), np.array([float(x) for x in sigma])
    product = np.correlate(a, b, "full")  # rho conj(sigma) = sum_d product_d e^{i d theta}
    n = len(a) - 1
    plus, minus = product[n:], product[n::-1]
    cosine = np.concatenate(([plus[0]], plus[1:] + minus[1:]))  # real part = sum cosine_d T_d(c)
    sine = np.array([(plus[d] - minus[d]) / d if d else 0.0 for d in range(n + 1)])  # imaginary = sin sum U_{d-1}

    def locus(c: Any) -> Any:
        w = np.asarray(c) + 1j * np.sqrt(np.maximum(1 - np.asarray(c) ** 2, 0))
        under = np.polyval(b[::-1], w)
        kept = np.abs(under) > 1e-12
        return np.polyval(a[::-1], w)[kept] / under[kept]

    on_real = -locus([-1.0, 1.0, *_inside(chebyshev.chebder(sine))]).real
    if np.abs(cosine).max() < 1e-14:  # the locus runs along the imaginary axis, to its extreme values
        return _until(a, b, -1.0, on_real), _until(a, b, 1j, [_largest_imaginary(locus)])
    return _until(a, b, -1.0, on_real), _until(a, b, 1j, np.abs(locus(_inside(cosine)).imag))


def _inside(series: Any) -> list[float]:
    """Roots of a Chebyshev series in [-1, 1], also double ones that rounding moved off the real line."""
    series = np.trim_zeros(np.where(np.abs(series) > 1e-14, series, 0.0), "b")
    if len(series) < 2:
        return []
    roots = np.roots(chebyshev.cheb2poly(series)[::-1])
    return [min(max(z.real, -1.0), 1.0) for z in roots if abs(z.imag) < 1e-4 and abs(z.real) < 1 + 1e-4]


def _largest_imaginary(locus: Any) -> float:
    from scipy.optimize import minimize_scalar

    theta = np.linspace(0, np.pi, 2001)
    best = theta[1 + int(np.argmax(np.abs(locus(np.cos(theta[1:-1])).imag)))]
    found = minimize_scalar(
        lambda x: -abs(float(locus([np.cos(x)])[0].imag)),
        bounds=(best - 0.01, best + 0.01),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return round(-float(found.fun), 12)


def _until(a: Any, b: Any, direction: complex, candidates: Any) -> float:
    points = [0.0, *sorted({float(x) for x in candidates if x > 1e-6})]
    for left, right in zip(points, [*points[1:], points[-1] + 1.0]):
        if right - left > 1e-9 and not _stable(a - direction * (left + right) / 2 * b):
            return left
    return math.inf


def _stable(polynomial: Any) -> bool:
    return bool(np.abs(np.roots(polynomial[::-1])).max() <= 1 + 1e-10)


# ------------------------------------------------------------------------------------------------ splitting


@facts_of.register
def _(integrator: SymplecticSplitting) -> Facts:
    method = integrator.method
    return Facts(
        order=integrator.order,
        stages=integrator.stages,
        exact=all(is_exact(x) for x in (*method.a, *method.b)),
        error_constant=_norm(method.conditions().of_order(integrator.order + 1)),
        symplectic=True,
        zero_stable=True,
        real_interval=0.0,
        imag_interval=oscillator_interval(method),
    )


def oscillator_interval(method: Partitioned) -> float:
    """Largest x = h omega with |trace| <= 2 on all of [0, x], for the map of q' = omega p, p' = -omega q.

    The determinant is 1, so this is the root condition; the trace is a polynomial in u = x^2.
    """
    # entries of the map without their powers of x: ((qq, x qp), (x pq, pp)), polynomials in u
    qq: Polynomial = [Fraction(1)]
    pp: Polynomial = [Fraction(1)]
    qp: Polynomial = []
    pq: Polynomial = []
    for a, b in zip(method.a, method.b):
        kick, drift = fraction(a), fraction(b)
        pq, pp = add(pq, [-kick * c for c in qq]), add(pp, [Fraction(0), *(-kick * c for c in qp)])
        qq, qp = add(qq, [Fraction(0), *(drift * c for c in pq)]), add(qp, [drift * c for c in pp])
    trace = add(qq, pp)
    return math.sqrt(stays_nonpositive_until(add(multiply(trace, trace), [Fraction(-4)])))
