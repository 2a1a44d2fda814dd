"""Modified equations: published coefficients, and logarithms of stability functions as independent series."""

from __future__ import annotations

import math
from fractions import Fraction as Q

import pytest

from odenet import integrators
from odenet.errors import Incompatible
from odenet.integrators.bseries import (
    cuts,
    differential,
    expansion,
    first_error,
    modified_series,
    painted,
    size,
    symmetry,
)
from odenet.integrators.order import trees

ONE_STEP = ("RungeKutta", "ImplicitRungeKutta", "LinearlyImplicit")
KINDS = {name: type(integrators.get(name)).__name__ for name in integrators.names() if ":" not in name}
RUNGE_KUTTA = [n for n, kind in KINDS.items() if kind in ONE_STEP]
SPLITTINGS = [n for n, kind in KINDS.items() if kind == "SymplecticSplitting"]
MULTISTEP = [n for n, kind in KINDS.items() if kind == "LinearMultistep"]


def terms(name: str, vertices: int) -> dict[str, str]:
    found = modified_series(integrators.get(name), vertices)
    return {differential(t, ("f", "g")): str(b / symmetry(t)) for t, b in found.items() if b}


@pytest.mark.parametrize(("name", "published"), [
    # Hairer, Lubich & Wanner, Geometric Numerical Integration, examples IX.1.4 and IX.1.3 (symplectic Euler)
    ("euler", {"f": "1", "f'f": "-1/2", "f''(f, f)": "1/12", "f'f'f": "1/3"}),
    ("backward_euler", {"f": "1", "f'f": "1/2", "f''(f, f)": "1/12", "f'f'f": "1/3"}),
    ("implicit_midpoint", {"f": "1", "f''(f, f)": "-1/24", "f'f'f": "1/12"}),
    ("trapezoid", {"f": "1", "f''(f, f)": "1/12", "f'f'f": "1/12"}),
    ("midpoint", {"f": "1", "f''(f, f)": "-1/24", "f'f'f": "-1/6"}),
    # the kicks f act first: q' = g(p), p' = f(q)
    ("symplectic_euler", {"f": "1", "g": "1", "f'g": "-1/2", "g'f": "1/2", "f''(g, g)": "1/12", "g''(f, f)": "1/12",
                          "f'g'f": "-1/6", "g'f'g": "-1/6"}),
    # kick - drift - kick: H + h^2 (1/12 H_pp(..) - 1/24 H_qq(..)) in the separable case
    ("verlet", {"f": "1", "g": "1", "f''(g, g)": "1/12", "g''(f, f)": "-1/24", "f'g'f": "1/12", "g'f'g": "-1/6"}),
])  # fmt: skip
def test_the_modified_equation_is_the_published_one(name, published):
    assert terms(name, 3) == published


def test_a_two_step_method_has_the_modified_equation_of_lm_resnet():
    # (1 + k) y' + (1 - k) h/2 y'' = f: y' = f/(1 + k) - h (1 - k)/(2 (1 + k)) y'' with y'' = f'f/(1 + k)^2
    for k in (Q(-9, 10), Q(3, 10), Q(1)):
        for gain in ("paper", "consistent"):
            method = integrators.TwoStep(float(k), gain=gain)
            b = modified_series(method, 2)
            s = (1 if gain == "paper" else 1 + k) / (1 + k)
            assert list(b.values()) == [s, -(1 - k) / (2 * (1 + k)) * s * s]


# ---- series in one variable, by hand: a list of coefficients from the constant upwards -------------------------------


def times(a, b, n):
    return [sum((a[i] * b[j - i] for i in range(j + 1)), Q(0)) for j in range(n)]


def log(a, n):
    """log of 1 + a_1 z + ...: n c_n = n a_n - sum_j j c_j a_{n-j}."""
    c = [Q(0)] * n
    for j in range(1, n):
        c[j] = a[j] - sum((i * c[i] * a[j - i] for i in range(1, j)), Q(0)) / j
    return c


def divided(p, q, n):
    p, q = [*p, *[Q(0)] * n], [*q, *[Q(0)] * n]
    out: list = []
    for j in range(n):
        out.append((p[j] - sum((out[i] * q[j - i] for i in range(j)), Q(0))) / q[0])
    return out


def stability(name, n):
    method = integrators.get(name)
    if KINDS[name] == "RungeKutta":
        return [*method.tableau.stability_polynomial(), *[Q(0)] * n][:n]
    if KINDS[name] == "ImplicitRungeKutta":
        return divided(*method.tableau.stability_fraction, n)
    below, gamma = [Q(1)], method.method.diagonal
    for _ in method.method.gamma:
        below = times([*below, Q(0)], [1, -gamma, *[Q(0)] * len(below)], len(below) + 1)
    return divided(method.method.numerator(), below, n)


def tall(n, colours=1, colour=0):
    """The tree without branches."""
    tree = ()
    for _ in range(n - 1):
        tree = (tree,)
    return painted(tree, colour, colours)


def near(a, b):
    difference = a - b
    return not difference or abs(float(difference)) < 1e-12


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_on_a_linear_equation_it_is_the_logarithm_of_the_stability_function(name):
    b = modified_series(integrators.get(name), 5)
    wanted = log(stability(name, 6), 6)
    assert all(near(b[tall(n)], wanted[n]) for n in range(1, 6))
    if getattr(getattr(integrators.get(name), "tableau", None), "exact", False):
        assert all(not b[tall(n)] - wanted[n] for n in range(1, 6))


@pytest.mark.parametrize("name", MULTISTEP)
def test_of_a_multistep_formula_it_is_the_logarithm_of_the_principal_root(name):
    method = integrators.get(name).method
    n = 6
    root = [Q(1), *[Q(0)] * (n - 1)]  # rho(root) = z sigma(root), one coefficient after the other
    slope = sum(j * a for j, a in enumerate(method.rho))
    for j in range(1, n):
        powers = [[Q(1), *[Q(0)] * (n - 1)]]
        for _ in method.rho[1:]:
            powers.append(times(powers[-1], root, n))
        left = sum((a * p[j] for a, p in zip(method.rho, powers)), Q(0))
        right = sum((b * p[j - 1] for b, p in zip(method.sigma, powers)), Q(0))
        root[j] += (right - left) / slope
    b = modified_series(integrators.get(name), 5)
    assert [b[tall(j)] for j in range(1, n)] == log(root, n)[1:]


@pytest.mark.parametrize("name", SPLITTINGS)
def test_on_the_oscillator_a_splitting_is_the_logarithm_of_its_matrix(name):
    method, n = integrators.get(name).method, 5
    zero, one = [Q(0)] * n, [Q(1), *[Q(0)] * (n - 1)]

    def product(A, B):
        return [[[x + y for x, y in zip(times(A[i][0], B[0][j], n), times(A[i][1], B[1][j], n))] for j in (0, 1)]
                for i in (0, 1)]  # fmt: skip

    M = [[one, zero], [zero, one]]  # of (q, p): a kick is p += a z q, a drift q += b z p
    for a, b in zip(method.a, method.b):
        M = product([[one, zero], [[Q(0), a, *zero[2:]], one]], M)
        M = product([[one, [Q(0), b, *zero[2:]]], [zero, one]], M)
    X = [[[x - y for x, y in zip(M[i][j], (one if i == j else zero))] for j in (0, 1)] for i in (0, 1)]
    power, logarithm = X, X
    for k in range(2, n):  # log(I + X) = X - X^2/2 + ...
        power = product(power, X)
        logarithm = [[[x + Q((-1) ** (k + 1), k) * y for x, y in zip(logarithm[i][j], power[i][j])] for j in (0, 1)]
                     for i in (0, 1)]  # fmt: skip
    found = modified_series(integrators.get(name), n - 1)
    for q in range(1, n):  # trees rooted at a kick move p; the topmost vertex tells whether q or p is read
        for colour, row in ((0, 1), (1, 0)):
            column = row if q % 2 == 0 else 1 - row
            assert near(found[tall(q, 2, colour)], logarithm[row][column][q])
            assert near(logarithm[row][1 - column][q], Q(0))


def test_on_two_linear_parts_imex_euler_is_the_logarithm_of_both_factors():
    found = modified_series(integrators.get("imex_euler"), 4)  # y1 = (1 + z) y0 / (1 - 2 z), parts z and 2 z
    wanted = log(divided([Q(1), Q(1)], [Q(1), Q(-2)], 5), 5)

    def product(tree):
        return (2 if tree[0] else 1) * (math.prod(map(product, tree[1])) if len(tree[1]) < 2 else 0)

    sums = [sum((b * product(t) for t, b in found.items() if size(t) == q), Q(0)) for q in range(1, 5)]
    assert sums == wanted[1:]


# ---- y' = y^2: every tree whose vertices have at most two branches counts --------------------------------------------


def quadratic(tree):
    """F(t) = quadratic(t) y^(|t| + 1) of f = y^2."""
    return (1, 2, 2)[len(tree[1])] * math.prod(map(quadratic, tree[1])) if len(tree[1]) < 3 else 0


def field_of(map_series, n):
    """g_2, g_3, ... with exp(g d/dx) x = the given series x + ...: the Lie series, one coefficient after the other."""
    g = [Q(0)] * n
    for j in range(2, n):
        term, total = [Q(0), Q(1), *[Q(0)] * (n - 2)], [Q(0)] * n
        for k in range(n):
            total = [x + y for x, y in zip(total, term)]
            derivative = [*[i * x for i, x in enumerate(term)][1:], Q(0)]
            term = [x / (k + 1) for x in times(g, derivative, n)]
        g[j] += map_series[j] - total[j]
    return g


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint", "ralston", "rk3", "rk4", "rk4_38", "ssprk3", "polynet2"])
def test_on_y_squared_it_is_the_field_whose_flow_is_the_step(name):
    tableau, n = integrators.get(name).tableau, 7
    x, slopes = [Q(0), Q(1), *[Q(0)] * (n - 2)], []
    for row in tableau.matrix:
        stage = [x[j] + sum((a * k[j] for a, k in zip(row, slopes)), Q(0)) for j in range(n)]
        slopes.append(times(stage, stage, n))
    step = [x[j] + sum((b * k[j] for b, k in zip(tableau.weights, slopes)), Q(0)) for j in range(n)]
    b = modified_series(integrators.get(name), n - 2)
    found = [sum((c / symmetry(t) * quadratic(t) for t, c in b.items() if size(t) == q), Q(0)) for q in range(1, n - 1)]
    assert found == field_of(step, n)[2:]


def test_explicit_euler_on_y_squared_is_the_published_series():
    b = modified_series(integrators.get("euler"), 6)  # Hairer, Lubich & Wanner, example IX.1.1
    found = [sum((c / symmetry(t) * quadratic(t) for t, c in b.items() if size(t) == q), Q(0)) for q in range(1, 7)]
    assert found == [1, -1, Q(3, 2), Q(-8, 3), Q(31, 6), Q(-157, 15)]


# ---- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RUNGE_KUTTA, *SPLITTINGS, *MULTISTEP, "imex_euler", "ars222", "ars343"])
def test_the_first_correction_has_the_power_of_the_claimed_order(name):
    method = integrators.get(name)
    if method.order <= 5:
        assert first_error(method) == method.order


def test_every_edge_is_cut_once_and_trunk_and_branch_are_trees_again():
    for q in range(1, 7):
        for tree in map(painted, trees(q)):
            assert len(cuts(tree)) == q - 1
            assert all(size(trunk) + size(branch) == q for trunk, branch in cuts(tree))


@pytest.mark.parametrize("name", ["etdrk4", "bdf", "abm3", "lie_splitting", "euler_maruyama", "alf", "reversible_rk4"])
def test_a_step_that_is_no_b_series_is_refused(name):
    with pytest.raises(Incompatible, match="no B-series"):
        expansion(integrators.get(name), 3)


@pytest.mark.parametrize("k", [-1.0, -1.3, 1.1])
def test_a_learned_k_outside_zero_stability_has_no_equation(k):
    with pytest.raises(Incompatible, match="not zero-stable"):
        expansion(integrators.get("lm"), 2, {"k": k})


def test_leapfrog_without_velocities_points_to_verlet():
    with pytest.raises(Incompatible, match='with_integrator\\("verlet"\\)'):
        expansion(integrators.get("leapfrog"), 3)
