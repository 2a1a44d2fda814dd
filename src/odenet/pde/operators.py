"""From plain Python to expressions: tracing, vector calculus, integrals, fractional derivatives.

trace(lambda u, nu: u.t + u * u.x - nu * u.xx, frame)
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import BadInput
from .expressions import COORDINATE, GIVEN, LEAF, PARAMETER, Expression, Frame, Leaf, constant, plus

# ---- tracing ---------------------------------------------------------------------------------------------------------


def trace(function: Callable[..., Any], frame: Frame, what: str = "the residual") -> list[Expression]:
    """Call a function with traced arguments, chosen by its parameters' names. Raises BadInput in one sentence."""
    known = arguments(frame)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise BadInput(f"{what} must be a function of {', '.join(known)}; got {type(function).__name__}.") from None
    for p in parameters:
        if p.name not in known and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            near = difflib.get_close_matches(p.name, known, 1)
            raise BadInput(
                f"{what} asks for {p.name!r}, which is no unknown, coordinate or parameter; there are: "
                f"{', '.join(known)}" + (f" (did you mean {near[0]!r}?)." if near else ".")
            )
    try:
        result = called(function, known, frame.coordinates)
    except TypeError as problem:
        if "Expression" not in str(problem):
            raise
        raise BadInput(
            f"{what} cannot be traced: {problem}; write torch.sin(u), not math.sin(u) or np.sin(u)."
        ) from None
    result = list(result) if isinstance(result, list | tuple) else [result]
    for r in result:
        if not isinstance(r, Expression | int | float):
            raise BadInput(
                f"{what} must return an expression in {', '.join(frame.unknowns)} such as u.t - u.xx, or a tuple of "
                f"them; got {type(r).__name__}."
            )
    return [constant(frame, r) for r in result]


def called(function: Callable[..., Any], known: Mapping[str, Any], coordinates: Sequence[str]) -> Any:
    """function(the known values that it names); one that takes *x is given all coordinates there, for any dimension."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        first = [known[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return function(*first, *(known[c] for c in coordinates))
    return function(**{p.name: known[p.name] for p in parameters if p.name in known})


def arguments(frame: Frame) -> dict[str, Expression]:
    """The traced object behind every name."""
    zero = (0,) * len(frame.coordinates)
    kinds = {
        **{u: Expression(frame, LEAF, (Leaf(u, zero),)) for u in frame.unknowns},
        **{c: Expression(frame, COORDINATE, (c,)) for c in frame.coordinates},
        **{p: Expression(frame, PARAMETER, (p,)) for p in frame.parameters},
        **{g: Expression(frame, GIVEN, (g,)) for g in frame.given},
    }
    return kinds


# ---- vector calculus -------------------------------------------------------------------------------------------------


def grad(u: Expression) -> tuple[Expression, ...]:
    """(u_x, u_y, ...): the derivatives in space."""
    return tuple(u.d(c) for c in u.frame.spatial)


def div(v: Sequence[Expression]) -> Expression:
    """v1_x + v2_y + ...; one component for each coordinate of space. Raises BadInput."""
    spatial = v[0].frame.spatial
    if len(v) != len(spatial):
        raise BadInput(f"div needs {len(spatial)} components, one for each of {', '.join(spatial)}; got {len(v)}.")
    total = constant(v[0].frame, 0.0)
    for component, c in zip(v, spatial):
        total = plus(total, component.d(c))
    return total


def laplacian(u: Expression) -> Expression:
    """u_xx + u_yy + ... in space."""
    return div(grad(u))


def dot(a: Sequence[Any], b: Sequence[Any]) -> Any:
    """a1 b1 + a2 b2 + ..."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def normal_derivative(u: Expression) -> Expression:
    """n . grad u, for conditions on a boundary: n_x, n_y, ... are the components of the outward normal."""
    return dot([Expression(u.frame, GIVEN, (f"n_{c}",)) for c in u.frame.spatial], grad(u))


def time_derivative(u: Expression, order: int = 1) -> Expression:
    """u_t, u_tt, ..."""
    for _ in range(order):
        u = u.d("t")
    return u


# ---- operators that look at other places -----------------------------------------------------------------------------


def integral(
    function: Callable[[Expression], Any], lower: Any, upper: Any, of: Expression, points: int = 16
) -> Expression:
    """Integral of function(s) ds from lower to upper, by `points` Gauss-Legendre nodes (exact to degree 2 points - 1).

    function: of an expression s, such as lambda s: torch.exp(s - t) * u.at(t=s). lower, upper: numbers or expressions
    (a Volterra integral ends in t). of: any expression of the residual, which knows the coordinates.
    """
    frame = of.frame
    nodes, weights = gauss_jacobi(points, 0.0)
    a, b = constant(frame, lower), constant(frame, upper)
    total = constant(frame, 0.0)
    for node, weight in zip(nodes, weights):
        total = plus(total, constant(frame, function(a + (b - a) * node)) * weight)
    return total * (b - a)


def caputo(u: Expression, alpha: float, points: int = 16) -> Expression:
    """The Caputo derivative in time of order 0 < alpha < 1 from t = 0 on, by Gauss-Jacobi nodes.

    D^alpha u = 1 / Gamma(1 - alpha) integral_0^t u_t(s) (t - s)^-alpha ds; with s = t xi the weight (1 - xi)^-alpha is
    in the rule, exact where u_t is a polynomial in t of degree 2 points - 1. Raises BadInput for another alpha.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"caputo takes an order strictly between 0 and 1, got {alpha!r}.")
    t = Expression(u.frame, COORDINATE, ("t",))
    speed, total = u.d("t"), constant(u.frame, 0.0)
    for node, weight in zip(*gauss_jacobi(points, -alpha)):
        total = plus(total, speed.at(t=t * node) * weight)
    return total * t ** (1 - alpha) * (1 / math.gamma(1 - alpha))


def gauss_jacobi(points: int, exponent: float) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1] for the weight (1 - s)^exponent."""
    from scipy.special import roots_jacobi

    nodes, weights = roots_jacobi(points, exponent, 0.0)
    return ((nodes + 1) / 2).tolist(), (weights / 2 ** (exponent + 1)).tolist()
