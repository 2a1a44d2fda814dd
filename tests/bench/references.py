"""Compute the end values of the test set, with methods and right-hand sides that are not the library's own.

    python tests/bench/references.py            every problem: how far it agrees with what is stored and published
    python tests/bench/references.py --write    and store the values in odenet/fields/testset/references.py

Three computations for each problem, all of the system with coefficients as rounded to float64:
  1. collocation at 7 Radau points (order 13) in 80-bit floats, on a mesh that scipy's solver chose at a loose tolerance
     (or, where float64 is too coarse for a solver, on one of halved intervals; or in floats of more bits: see below)
  2. collocation at 9 points, Gauss (order 18) or where the problem is stiff Radau (order 17), on that mesh halved
  3. scipy's DOP853, or LSODA where the problem is stiff, at rtol 1e-13 in float64
The first is stored, with the digits to which the second agrees. Closed forms are checked by the tests.
"""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import torch
from published_values import PUBLISHED
from reference_systems import SYSTEMS, Array
from scipy.integrate import solve_ivp
from scipy.linalg import lu_factor, lu_solve

from odenet.fields.testset import IVPS, InitialValueProblem, references
from odenet.fields.testset.references import REFERENCES

LONG = np.longdouble
TARGET = Path(references.__file__)
MESH = {True: 1e-8, False: 1e-12}  # relative tolerance of the solver (of order 5, or 8) that places the mesh
# of order 9, for meshes found in 80-bit floats, where that of a solver depends on rounding (the jumps of the first),
# where it would stop (the plateau of the second), or is too coarse for the phase of an oscillation (the third):
HALVED = {"van_der_pol_1e6": 1e-13, "stiff_e1": 1e-13, "stiff_b1": 1e-13}
DECIMALS = {"stiff_e1": 34}  # the slope is what a cancellation of terms 1e8 y leaves over, and small beside the floor


class Diverged(Exception):
    """Newton's iteration found no solution of a step."""


@cache
def collocation(points: str, s: int, number: Any = LONG) -> tuple[Array, Array, Array]:
    """c, A, b of the method with s stages to 36 digits, or exact to the last bit of a long double."""
    with mpmath.workdps(50):
        x = mpmath.taylor(lambda z: mpmath.legendre(s, z), 0, s)  # coefficients of P_s
        if points == "radau":  # right end: zeros of P_s - P_{s-1}
            x = [a - b for a, b in zip(x, [*mpmath.taylor(lambda z: mpmath.legendre(s - 1, z), 0, s - 1), 0])]
        roots = mpmath.polyroots(x[::-1], maxsteps=500, extraprec=400)
        c = sorted((mpmath.re(r) + 1) / 2 for r in roots)
        powers = mpmath.matrix(s, s)
        for k in range(s):
            for j in range(s):
                powers[k, j] = c[j] ** k
        inverse = powers**-1
        rows = [[sum(inverse[j, k] * ci ** (k + 1) / (k + 1) for k in range(s)) for j in range(s)] for ci in [*c, 1]]
        table = np.array([[number(mpmath.nstr(v, 36)) for v in r] for r in rows])
        return np.array([number(mpmath.nstr(v, 36)) for v in c]), table[:-1], table[-1]


def jacobian(problem: InitialValueProblem, t: float, y: Array) -> Array:
    """df/dy in float64, good enough to iterate with."""
    here = torch.tensor(y.astype(float))
    return torch.func.jacrev(lambda v: problem.f(t, v))(here).numpy()


def one_step(problem: InitialValueProblem, method: tuple[Array, Array, Array], t: Any, y: Array, h: Any) -> Array:
    """Newton's iteration in float64 on residuals in the numbers of y, until the increments stop falling.

    Raises Diverged where they do not fall.
    """
    (c, a, b), f = method, SYSTEMS[problem.name]
    s, d = len(c), len(y)
    j = jacobian(problem, float(t), y)
    factors = lu_factor(np.eye(s * d) - float(h) * np.kron(a.astype(float), j), check_finite=False)
    z, last = np.zeros((s, 1)) + 0 * y, math.inf
    for _ in range(60):
        slopes = np.array([f(t + ci * h, y + zi) for ci, zi in zip(c, z)])
        step = lu_solve(factors, (h * (a @ slopes) - z).astype(float).ravel(), check_finite=False).reshape(s, d)
        z = z + step
        size = float(np.abs(step / (np.abs(y) + problem.floor)).max())
        if size < 1e-30 or not size < 1e20 or (size < 1e-17 and size >= 0.5 * last):
            break
        last = size
    if not size < 1e-13:
        raise Diverged(f"{problem.name}: Newton stops at {size:.1g} at t = {float(t):.6g}, h = {float(h):.3g}")
    slopes = np.array([f(t + ci * h, y + zi) for ci, zi in zip(c, z)])
    return y + z[-1] if c[-1] == 1 else y + h * (b @ slopes)


def mesh_of(problem: InitialValueProblem, rtol: float | None) -> Array:
    """Times between which one step of high order is accurate."""
    if problem.name in HALVED:
        return halved(problem, rtol or HALVED[problem.name])
    f, rtol = SYSTEMS[problem.name], rtol or MESH[problem.stiff]
    method, more = ("Radau", {"jac": lambda t, y: jacobian(problem, t, y)}) if problem.stiff else ("DOP853", {})
    span = (problem.t0, problem.t1)
    found = solve_ivp(f, span, problem.y0, method=method, rtol=rtol, atol=rtol * problem.floor, **more)
    assert found.success, found.message
    return found.t.astype(LONG)


def halved(problem: InitialValueProblem, tolerance: float) -> Array:
    """The whole interval, halved wherever 5 and 7 Radau points differ in a step by more than the tolerance.

    The points are t0 + (t1 - t0) k/2^n whatever the rounding, which only decides where the difference is the tolerance.
    """
    low, high = collocation("radau", 5), collocation("radau", 7)
    y, mesh, ends = np.array(problem.y0, LONG), [LONG(problem.t0)], [LONG(problem.t1)]
    while ends:
        t, h = mesh[-1], ends[-1] - mesh[-1]
        try:
            after = one_step(problem, high, t, y, h)
            differs = np.abs(one_step(problem, low, t, y, h) - after) / (np.abs(after) + problem.floor)
            good = bool(differs.max() < tolerance)
        except Diverged:
            good = False
        if good:
            y = after
            mesh.append(ends.pop())
        else:
            assert len(ends) < 60, f"{problem.name}: no step from t = {float(t):.6g} is small enough"
            ends.append(t + h / 2)
    return np.array(mesh)


def finer(mesh: Array, n: int) -> Array:
    """The mesh with each interval in n equal parts."""
    inner = [mesh[:-1] + (mesh[1:] - mesh[:-1]) * k / n for k in range(n)]
    return np.append(np.stack(inner, 1).ravel(), mesh[-1])


def collocate(problem: InitialValueProblem, points: str, s: int, mesh: Array) -> Array:
    """y(t1) from a step of s points in each interval, in numbers of as many digits as the problem needs."""
    digits = DECIMALS.get(problem.name)
    number: Any = mpmath.mpf if digits else LONG
    with mpmath.workdps(digits or 15):
        method, y = collocation(points, s, number), np.array([number(v) for v in problem.y0])
        for t, after in pairwise(number(float(v)) if digits else v for v in mesh):
            y = across(problem, method, t, y, after - t)
        return np.array([LONG(mpmath.nstr(v, 22)) for v in y]) if digits else y


def across(problem: InitialValueProblem, method: tuple[Array, Array, Array], t: Any, y: Array, h: Any) -> Array:
    """One step, or where Newton's iteration diverges two of half the size."""
    try:
        return one_step(problem, method, t, y, h)
    except Diverged:
        if abs(h) < 1e-16 * (problem.t1 - problem.t0):
            raise
    return across(problem, method, t + h / 2, across(problem, method, t, y, h / 2), h / 2)


def by_scipy(problem: InitialValueProblem, rtol: float = 1e-13) -> Array:
    f, method = SYSTEMS[problem.name], "LSODA" if problem.stiff else "DOP853"
    atol = max(rtol * problem.floor * 1e-2, 1e-300)
    found = solve_ivp(f, (problem.t0, problem.t1), problem.y0, method=method, rtol=rtol, atol=atol)
    return found.y[:, -1] if found.success else np.full(len(problem.y0), math.nan)


def digits(problem: InitialValueProblem, y: Any, exact: Any) -> float:
    """-log10 of the largest |y - exact| / (|exact| + floor)."""
    exact = np.asarray(exact, LONG)
    error = float((np.abs(np.asarray(y, LONG) - exact) / (np.abs(exact) + problem.floor)).max())
    return 19.0 if error == 0.0 else round(-math.log10(error), 1)


def computed(problem: InitialValueProblem, mesh_tolerance: float | None = None) -> tuple[Array, float]:
    """The end value, and the digits to which two methods agree on it."""
    mesh = mesh_of(problem, mesh_tolerance)
    first = collocate(problem, "radau", 7, mesh)
    return first, digits(problem, collocate(problem, "radau" if problem.stiff else "gauss", 9, finer(mesh, 2)), first)


def report(name: str) -> dict[str, Any]:
    problem, begin = IVPS[name], time.perf_counter()
    value, agreed = computed(problem)
    row = {
        "name": name,
        "value": [float(v) for v in value],
        "digits": agreed,
        "scipy": digits(problem, by_scipy(problem), value),
        "published": digits(problem, PUBLISHED[name], value) if name in PUBLISHED else None,
        "stored": None if problem.reference is None else digits(problem, problem.reference, value),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(f"{name:18}" + "".join(f"{k} {row[k]!s:7}" for k in ("digits", "scipy", "published", "stored", "seconds")))
    return row


def source(stored: dict[str, tuple[float, tuple[float, ...]]]) -> str:
    """The module of stored values."""
    entries = []
    for name, (agreed, values) in stored.items():
        lines = textwrap.wrap(" ".join(f"{v!r}," for v in values), 112, break_on_hyphens=False, break_long_words=False)
        entries.append(f'    "{name}": ({agreed!r}, (\n        ' + "\n        ".join(lines) + "\n    )),\n")
    return (
        '"""y(t1) of the problems: digits of agreement of two methods, and the values.\n\n'
        "Written by `python tests/bench/references.py --write`; not to be edited by hand.\n"
        '"""\n\nfrom __future__ import annotations\n\n'
        "REFERENCES: dict[str, tuple[float, tuple[float, ...]]] = {\n" + "".join(entries) + "}  # fmt: skip\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="problems (all)")
    parser.add_argument("--write", action="store_true", help="store the values, each when it is found")
    given = parser.parse_args()
    torch.set_num_threads(1)
    stored = dict(REFERENCES)
    for name in given.names or IVPS:
        row = report(name)
        if given.write:
            stored[name] = (row["digits"], tuple(row["value"]))
            TARGET.write_text(source({n: stored[n] for n in IVPS if n in stored}))


if __name__ == "__main__":
    main()
