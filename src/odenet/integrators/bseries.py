"""B-series of numerical methods, and of the differential equation that a method really integrates.

    B(a, y) = a(empty) y + sum over trees t of h^|t| / sigma(t) a(t) F(t)(y),    F([t1 .. tm]) = f^(m)(F(t1), .., F(tm))

Every vertex has a colour: that of the part of the right-hand side it stands for (kick 0 and drift 1 of a splitting,
explicit 0 and implicit 1 of an additive method, one colour else). A numerical step is the exact flow over h of

    h y' = B(b, y),    sum_j mu_j c_j(t) = a(t),   c_0 = 1 on the empty tree,   c_j = d_b c_{j-1},
    (d_b c)(t) = c(empty) b(t) + sum over the edges of t of c(trunk) b(branch)

with mu_j = 1/j! for one-step methods (Hairer, Lubich & Wanner, Geometric Numerical Integration, theorem IX.9.2 and
lemma IX.9.1). For a multistep formula, rho(e^u)/sigma(e^u) = sum_j mu_j u^j and a is 1 on single vertices, else 0
(section XV.3): b then belongs to the principal solution, beside the parasitic ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, singledispatch
from typing import Any

from ..errors import Incompatible
from .additive import AdditiveRungeKutta, ColouredTree, coloured_trees
from .base import Integrator
from .implicit import ImplicitRungeKutta
from .multistep import LinearMultistep
from .order import Tree, trees
from .partitioned import SymplecticSplitting
from .rosenbrock import LinearlyImplicit
from .runge_kutta import RungeKutta
from .two_step import TwoStep

Coefficients = dict[ColouredTree, Any]
_HIGHEST = 9  # no method here has its first error beyond h^8
_ROUNDING = 1e-12  # of coefficients that are learned, and so are floats


@dataclass(frozen=True)
class Expansion:
    """What determines the modified equation of a method up to trees with so many vertices.

    series:   a(t)
    weights:  mu_1, mu_2, ...
    colours:  what a vertex stands for: ("f",), or ("kick", "drift"), or ("explicit", "implicit")
    """

    series: Coefficients
    weights: tuple[Any, ...]
    colours: tuple[str, ...] = ("f",)

    def modified(self) -> Coefficients:
        """b(t), tree by tree in the order of their size; exact where the coefficients of the method are."""
        return _solved(self.series, self.weights)


@singledispatch
def expansion(integrator: Integrator, vertices: int, coef: Mapping[str, Any] | None = None) -> Expansion:
    """The B-series of a method, of trees with at most so many vertices.

    coef: values of learned coefficients, for one step
    Raises Incompatible for a method whose step is no B-series (exponential, stochastic, external, of variable order).
    """
    raise Incompatible(
        f"the step of {integrator.title} is no B-series, so its modified equation is not known here; Runge-Kutta, "
        'Rosenbrock, additive, splitting and linear multistep methods have one, such as "rk4", "verlet" or "lm".'
    )


def modified_series(integrator: Integrator, vertices: int, coef: Mapping[str, Any] | None = None) -> Coefficients:
    """b(t) of the modified equation h y' = sum h^|t|/sigma(t) b(t) F(t)(y), for trees with at most so many vertices."""
    return expansion(integrator, vertices, coef).modified()


def first_error(integrator: Integrator, coef: Mapping[str, Any] | None = None) -> int:
    """The smallest power of h in the modified equation; for a formula with a starter that of the formula."""
    for q in range(2, _HIGHEST + 1):
        b = modified_series(integrator, q, coef)
        if any(b[tree] and abs(float(b[tree])) > _ROUNDING for tree in b if size(tree) == q):
            return q - 1
    return _HIGHEST


# ------------------------------------------------------------------------------------------------------------ trees


@cache
def size(tree: ColouredTree) -> int:
    """|t|, the number of vertices."""
    return 1 + sum(map(size, tree[1]))


@cache
def symmetry(tree: ColouredTree) -> int:
    """sigma(t), the number of automorphisms."""
    return math.prod(symmetry(child) ** m * math.factorial(m) for child, m in Counter(tree[1]).items())


@cache
def cuts(tree: ColouredTree) -> tuple[tuple[ColouredTree, ColouredTree], ...]:
    """(trunk with the root, branch) for every edge of the tree, cut."""
    return tuple(_cuts(tree))


def _cuts(tree: ColouredTree) -> Iterator[tuple[ColouredTree, ColouredTree]]:
    colour, children = tree
    for i, child in enumerate(children):
        rest = (*children[:i], *children[i + 1 :])
        yield (colour, rest), child
        for trunk, branch in cuts(child):
            yield (colour, tuple(sorted((*rest, trunk)))), branch


def painted(tree: Tree, colour: int = 0, colours: int = 1) -> ColouredTree:
    """The tree with colours that change from a vertex to those above it."""
    above = (colour + 1) % colours
    return colour, tuple(sorted(painted(child, above, colours) for child in tree))


def differential(tree: ColouredTree, letters: Sequence[str] = ("f",)) -> str:
    """F(t) as it is written: "f", "f'f", "f''(f, f)", "f'f'f"."""
    colour, children = tree
    inner = [differential(child, letters) for child in children]
    if len(inner) < 2:
        return letters[colour] + "'" * len(inner) + "".join(inner)
    return f"{letters[colour]}{chr(39) * len(inner)}({', '.join(inner)})"


# ---------------------------------------------------------------------------------------------- backward error analysis


def _solved(a: Coefficients, mu: Sequence[Any]) -> Coefficients:
    b: Coefficients = {}
    powers: list[Coefficients] = [{} for _ in mu]  # c_1, c_2, ... on the trees so far
    for tree in a:
        higher = [
            sum((powers[j - 1][trunk] * b[branch] for trunk, branch in cuts(tree)), Fraction(0))
            for j in range(1, size(tree))
        ]
        b[tree] = (a[tree] - sum((m * c for m, c in zip(mu[1:], higher)), Fraction(0))) / mu[0]
        for power, c in zip(powers, [b[tree], *higher, *[Fraction(0)] * len(mu)]):
            power[tree] = c
    return b


def _factorials(vertices: int) -> tuple[Fraction, ...]:
    return tuple(Fraction(1, math.factorial(j)) for j in range(1, vertices + 1))


def _one_colour(conditions: Any, vertices: int) -> Expansion:
    a = {
        painted(tree): r.value
        for q in range(1, vertices + 1)
        for tree, r in zip(trees(q), conditions.of_order(q), strict=True)
    }
    return Expansion(a, _factorials(vertices))


@expansion.register(RungeKutta)
@expansion.register(ImplicitRungeKutta)
def _(integrator: Any, vertices: int, coef: Any = None) -> Expansion:
    return _one_colour(integrator.tableau.conditions(integrator.tableau.weights), vertices)


@expansion.register
def _(integrator: LinearlyImplicit, vertices: int, coef: Any = None) -> Expansion:
    return _one_colour(integrator.method.conditions(integrator.method.weights), vertices)


@expansion.register
def _(integrator: SymplecticSplitting, vertices: int, coef: Any = None) -> Expansion:
    conditions = integrator.method.conditions()
    a = {
        painted(tree, colour, 2): r.value
        for q in range(1, vertices + 1)
        for (tree, colour), r in zip([(t, c) for t in trees(q) for c in (0, 1)], conditions.of_order(q), strict=True)
    }
    return Expansion(a, _factorials(vertices), ("kick", "drift"))


@expansion.register
def _(integrator: AdditiveRungeKutta, vertices: int, coef: Any = None) -> Expansion:
    conditions = integrator.method.conditions(integrator.method.weights)
    a = {
        tree: r.value
        for q in range(1, vertices + 1)
        for tree, r in zip(coloured_trees(q), conditions.of_order(q), strict=True)
    }
    return Expansion(a, _factorials(vertices), ("explicit", "implicit"))


@expansion.register
def _(integrator: LinearMultistep, vertices: int, coef: Any = None) -> Expansion:
    return _formula(integrator.method.rho, integrator.method.sigma, vertices)


@expansion.register
def _(integrator: TwoStep, vertices: int, coef: Any = None) -> Expansion:
    if integrator.power != 1:
        raise Incompatible(
            f"{integrator.title} steps y'' = f without velocities, so it has no first-order modified equation; "
            'with_integrator("verlet") has the same positions, and one.'
        )
    given = integrator.mean_coefficients() if coef is None else coef
    if integrator.k == "learned":
        assert given is not None
        k: Any = float(given["k"])
    else:
        k = Fraction(str(integrator.k))
    if not -1 < k <= 1:
        raise Incompatible(
            f"{integrator.title} with k = {float(k):.4g} is not zero-stable, so it follows no differential equation; "
            "-1 < k <= 1 is needed (a learned k can be kept there by a smaller learning rate)."
        )
    gain = 1 + k if integrator.gain == "consistent" else Fraction(str(integrator.gain))
    return _formula((-k, k - 1, Fraction(1)), (Fraction(0), gain, Fraction(0)), vertices)


def _formula(rho: Sequence[Any], sigma: Sequence[Any], vertices: int) -> Expansion:
    """rho(e^u)/sigma(e^u) as a power series in u, and a = 1 on single vertices."""
    above, below = (_exponentials(row, vertices + 1) for row in (rho, sigma))
    quotient: list[Any] = []
    for j in range(vertices + 1):
        known = sum((quotient[i] * below[j - i] for i in range(j)), Fraction(0))
        quotient.append((above[j] - known) / below[0])
    every = [painted(tree) for q in range(1, vertices + 1) for tree in trees(q)]
    return Expansion({tree: Fraction(int(size(tree) == 1)) for tree in every}, tuple(quotient[1:]))


def _exponentials(row: Sequence[Any], count: int) -> list[Any]:
    """Coefficients of sum_i row_i e^(i u)."""
    return [sum((x * Fraction(i**j, math.factorial(j)) for i, x in enumerate(row)), Fraction(0)) for j in range(count)]
