"""What can be seen wrong in a problem without solving it: each finding is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput
from .expressions import GIVEN, Expression, Leaf, key, leaves, terms, used, value

if TYPE_CHECKING:
    from .conditions import Condition
    from .statement import Problem

DRAWS = 64  # points at which values are looked at
SLACK = 1e-6  # of the domain's size: how far outside a given point may lie, for rounded coordinates
MISSED = 1e-5  # residual of an exact solution over the size of its terms
JUMP = 1e-6  # difference of initial and boundary values that counts as a contradiction


def check(problem: Problem) -> None:
    """Raise BadInput for the first finding; `check_names` comes before, when nothing is traced yet."""
    _equations(problem)
    _pieces(problem)
    _initial(problem)
    _boundary(problem)
    _parameters(problem)
    _finite(problem)
    _contradictions(problem)
    _exact(problem)


def check_names(problem: Problem) -> None:
    """Raise BadInput for names of unknowns, coordinates and parameters that cannot stand in a residual."""
    names = (*problem.unknowns, *problem.frame.coordinates, *problem.parameters)
    if not problem.unknowns:
        raise BadInput("a problem has at least one unknown: unknowns='u'.")
    for n in names:
        if not isinstance(n, str) or not n.isidentifier():
            raise BadInput(f"{n!r} is no usable name: unknowns, coordinates and parameters are Python identifiers.")
        if names.count(n) > 1:
            raise BadInput(f"the name {n!r} is used twice among unknowns, coordinates and parameters; rename one.")
        if n in problem.frame.given:
            raise BadInput(f"the name {n!r} is taken: it stands for what comes with the points; rename the unknown.")


def _equations(problem: Problem) -> None:
    rows = [e for _, es in problem.traced for e in es]
    for e in rows:
        if not leaves(e):
            raise BadInput(f"the residual {shortened(e)} holds no unknown; there are: {', '.join(problem.unknowns)}.")
        if extra := used(e, GIVEN):
            raise BadInput(f"an equation cannot use {sorted(extra)[0]!r}: normals exist on the boundary only.")
    everything = leaves([*rows, *(e for _, es in problem.required for e in es)])
    for u in problem.unknowns:
        if not any(leaf.unknown == u for leaf in everything):
            raise BadInput(f"the unknown {u!r} occurs in no equation and no condition; drop it or write its equation.")
    if len(rows) < len(problem.unknowns) and not problem.facts.get("underdetermined"):
        raise BadInput(
            f"{len(rows)} equation{'s' * (len(rows) != 1)} for {len(problem.unknowns)} unknowns "
            f"({', '.join(problem.unknowns)}): return a tuple with one expression for each."
        )


def _pieces(problem: Problem) -> None:
    known = tuple(problem.domain.pieces)
    for c in problem.conditions:
        if c.kind == "initial" and not problem.evolves:
            raise BadInput("an initial condition needs time: give the domain as space * Time(t0, t1).")
        for piece in c.pieces:
            if piece not in known and piece != "boundary":
                near = difflib.get_close_matches(piece, known, 1)
                raise BadInput(
                    f"the condition {c!r} holds on {piece!r}, which is no piece of the boundary; there are: "
                    f"{', '.join(known)}" + (f" (did you mean {near[0]!r}?)." if near else ".")
                )
        if c.points is not None:
            _places(problem, c)


def _places(problem: Problem, c: Condition) -> None:
    assert c.points is not None
    if c.points.ndim != 2 or c.points.shape[1] != problem.dim:
        raise BadInput(
            f"{c.kind}: points are (N, {problem.dim}), the columns {', '.join(problem.frame.coordinates)}; "
            f"got {tuple(c.points.shape)}."
        )
    outside = problem.domain._level(c.points) < -SLACK * problem.domain.size
    if outside.any():
        row = int(outside.nonzero()[0])
        place = ", ".join(f"{v:.6g}" for v in c.points[row].tolist())
        raise BadInput(f"{c.kind}: point {row} = ({place}) lies outside the domain.")


def _initial(problem: Problem) -> None:
    measured = any(c.kind == "data" for c in problem.conditions)
    free = {c.unknown for c in problem.conditions if c.kind == "operator" and "initial" in c.pieces}
    for u, order in problem.time_order.items():
        given = [c.order for c in problem.conditions if c.kind == "initial" and _concerns(c, u, problem)]
        if twice := sorted({k for k in given if given.count(k) > 1}):
            raise BadInput(f"two initial conditions of order {twice[0]} for {u}; keep one.")
        for k in range(order):
            if k not in given and not measured and not free and not _periodic(problem, "t"):
                what = f"{u}{'.' + 't' * k if k else ''}"
                raise BadInput(
                    f"the equation has {u}.{'t' * order}, so {what} is needed at the first time: add "
                    f"initial(...{f', unknown={u!r}' * (len(problem.unknowns) > 1)}{f', order={k}' * bool(k)})."
                )


def _boundary(problem: Problem) -> None:
    if any(c.kind in ("data", "integral") for c in problem.conditions):
        return
    found = leaves([e for _, es in problem.traced for e in es])
    space = [p for p in problem.domain.pieces if p not in ("initial", "final", "boundary")]
    for u in problem.unknowns:
        axes = {i for leaf in found if leaf.unknown == u for i, k in enumerate(leaf.index) if k >= 2}
        axes -= {problem.frame.coordinates.index("t")} if problem.evolves else set()
        if not axes:
            continue
        held = {p for c, es in problem.required for p in c.pieces if any(leaf.unknown == u for leaf in leaves(es))}
        if "boundary" in held:
            continue
        for piece in space:
            if piece not in held and not _closed(problem, piece, axes):
                raise BadInput(
                    f"the equation has second derivatives of {u}, but no condition holds on the piece {piece!r}; add "
                    f"for example dirichlet(..., on={piece!r}), neumann(0.0, on={piece!r}) or periodic(...)."
                )


def _closed(problem: Problem, piece: str, axes: set[int]) -> bool:
    """Whether a piece is an end of a periodic axis, or of an axis along which there are no second derivatives."""
    x = points_on(problem, piece)
    flat = [i for i in range(problem.dim) if float(x[:, i].max() - x[:, i].min()) < 1e-12]
    return any(i not in axes or _periodic(problem, problem.frame.coordinates[i]) for i in flat)


def _periodic(problem: Problem, axis: str) -> bool:
    return any(c.kind == "periodic" and c.axis == axis for c in problem.conditions)


def _concerns(c: Condition, unknown: str, problem: Problem) -> bool:
    return c.unknown == unknown or (c.unknown is None and len(problem.unknowns) == 1)


def _parameters(problem: Problem) -> None:
    for p in problem.parameters:
        if p not in problem.parameters_used():
            raise BadInput(f"the parameter {p!r} occurs in no equation and no condition; take it as an argument there.")
    measured = any(c.kind in ("data", "integral", "operator") for c in problem.conditions)
    if problem.parameters and not measured:
        raise BadInput(
            f"the parameters {', '.join(problem.parameters)} cannot be found without measurements: add "
            "data(points, values)."
        )


def points_on(problem: Problem, piece: str) -> Tensor:
    """Some points (n, d) of a piece."""
    x: Tensor = problem.domain.boundary(piece, DRAWS, torch.Generator().manual_seed(0), "uniform").x
    return x


def _environment(problem: Problem, x: Tensor, rows: Iterable[Expression], seed: int) -> dict[Any, Any]:
    """Random values of the unknowns, true values of everything else."""
    g = torch.Generator().manual_seed(seed)
    env: dict[Any, Any] = dict(zip(problem.frame.coordinates, x.unbind(-1))) | problem.parameters
    env |= {name: torch.rand(len(x), generator=g, dtype=x.dtype) for name in problem.frame.given}
    return env | {key(leaf): 0.5 + torch.rand(len(x), generator=g, dtype=x.dtype) for leaf in leaves(rows)}


def _finite(problem: Problem) -> None:
    inner = problem.domain.sample(DRAWS, torch.Generator().manual_seed(0), "uniform")
    groups = [("the residual", inner, es) for _, es in problem.traced]
    for c, es in problem.required:
        x = c.points if c.points is not None else points_on(problem, c.pieces[0]) if c.pieces else inner
        groups.append((f"the condition {c!r}", x, es))
    for what, x, es in groups:
        for e in es:
            drawn = [torch.as_tensor(value(e, _environment(problem, x, es, s))) for s in range(3)]
            for v in drawn:
                if v.ndim > 1 or (v.ndim == 1 and v.shape != x.shape[:1]):
                    raise BadInput(
                        f"{what} has shape {tuple(v.shape)} at {len(x)} points; one number for each is wanted."
                    )
            bad = ~torch.stack([torch.isfinite(v).expand(len(x)) for v in drawn]).any(0)
            if bad.any():
                row = int(bad.nonzero()[0])
                place = ", ".join(f"{c} = {v:.6g}" for c, v in zip(problem.frame.coordinates, x[row].tolist()))
                raise BadInput(f"{what} is not finite at {place}; look for a division by zero, a log or a NaN source.")


def _contradictions(problem: Problem) -> None:
    if problem.allow_jumps:
        return
    fixed = [(c, es[0]) for c, es in problem.required if c.kind in ("dirichlet", "initial") and c.order == 0]
    for i, (a, first) in enumerate(fixed):
        for b, second in fixed[i + 1 :]:
            same = leaves(first)[0].unknown == leaves(second)[0].unknown
            for x in _meeting(problem, a, b) if same else ():
                gap = _value_of(problem, first, x) - _value_of(problem, second, x)
                if float(gap.abs().max()) > JUMP:
                    row = int(gap.abs().argmax())
                    place = ", ".join(f"{c} = {v:.4g}" for c, v in zip(problem.frame.coordinates, x[row].tolist()))
                    raise BadInput(
                        f"{a!r} and {b!r} contradict each other by {float(gap.abs().max()):.3g} at {place}; correct "
                        "one, or pass allow_jumps=True where the jump is meant."
                    )


def _meeting(problem: Problem, a: Condition, b: Condition) -> Iterable[Tensor]:
    """Places where both hold: common pieces, and pieces at the first time."""
    whole = {p for p in problem.domain.pieces if p not in ("initial", "final")}
    first, second = (whole if "boundary" in c.pieces else {*c.pieces} for c in (a, b))
    for p in sorted(first & second):
        yield points_on(problem, p)
    for one, other in ((a, b), (b, a)):
        if one.kind == "initial" and other.kind == "dirichlet":
            for p in other.pieces:
                x = points_on(problem, p).clone()
                x[:, -1] = problem.domain.bounds[0, -1]
                yield x


def _value_of(problem: Problem, e: Expression, x: Tensor) -> Tensor:
    """What a condition u - value = 0 asks of u."""
    env = _environment(problem, x, [e], 0)
    for leaf in leaves(e):
        env[key(leaf)] = torch.zeros(len(x), dtype=x.dtype)
    return -torch.as_tensor(value(e, env)).expand(len(x))


def _exact(problem: Problem) -> None:
    if problem.exact is None:
        return
    for c, es in problem.required:
        if c.kind in ("dirichlet", "initial") and c.order == 0 and not problem.allow_jumps and not problem.parameters:
            x = c.points if c.points is not None else torch.cat([points_on(problem, p) for p in c.pieces])
            truth = problem.truth(x)
            assert truth is not None
            column = problem.unknowns.index(leaves(es)[0].unknown)
            gap = float((truth[:, column] - _value_of(problem, es[0], x)).abs().max())
            if gap > 1e-6 * (1 + float(truth.abs().max())):
                raise BadInput(f"the exact solution misses the condition {c!r} by {gap:.3g}; correct one of them.")
    if not problem.parameters:
        _solves(problem)


def _solves(problem: Problem) -> None:
    """Whether the exact solution, differentiated automatically, satisfies the equations at random places."""
    for equation, rows in problem.traced:
        x = problem.domain.sample(DRAWS, torch.Generator().manual_seed(0), "uniform")
        x = x if equation.within is None else x[equation.within.inside(x)]
        env: dict[Any, Any] = dict(zip(problem.frame.coordinates, x.unbind(-1)))
        try:
            known = {key(leaf): _true(problem, leaf, x, env) for leaf in leaves(rows)}
        except RuntimeError:  # not written in torch functions: it cannot be differentiated
            return
        for e in rows:
            gap = torch.as_tensor(value(e, env | known)).abs()
            size = torch.stack([torch.as_tensor(value(s, env | known)).abs().expand(len(x)) for s in terms(e)]).sum(0)
            if bool((gap > MISSED * (size.max() + 1e-12)).any()):
                row = int(gap.argmax())
                place = ", ".join(f"{c} = {v:.4g}" for c, v in zip(problem.frame.coordinates, x[row].tolist()))
                raise BadInput(
                    f"the exact solution does not satisfy the equation 0 = {shortened(e)}: it leaves "
                    f"{float(gap[row]):.3g} at {place}; correct one of them."
                )


def _true(problem: Problem, leaf: Leaf, x: Tensor, env: dict[Any, Any]) -> Tensor:
    """A derivative of the exact solution at the leaf's places, by nested automatic differentiation."""
    columns = list(x.unbind(-1))
    if leaf.place is not None:
        columns = [torch.as_tensor(value(p, env), dtype=x.dtype).expand(len(x)) for p in leaf.place]
    columns = [c.detach().clone().requires_grad_() for c in columns]
    truth = problem.truth(torch.stack(columns, -1))
    assert truth is not None
    result = truth[:, problem.unknowns.index(leaf.unknown)]
    for axis, count in enumerate(leaf.index):
        for _ in range(count):
            if not result.requires_grad:
                return torch.zeros(len(x), dtype=x.dtype)
            (found,) = torch.autograd.grad(result.sum(), columns[axis], create_graph=True, allow_unused=True)
            result = torch.zeros(len(x), dtype=x.dtype) if found is None else found
    return result.detach()


def shortened(e: Expression, longest: int = 120) -> str:
    """The expression as text that still fits into a sentence."""
    text = repr(e)
    return text if len(text) <= longest else text[: longest - 4] + " ..."


def is_linear(problem: Problem) -> bool:
    """Whether every row is linear in the unknowns: its slopes agree at two random states."""
    if problem.parameters:
        return False
    x = problem.domain.sample(DRAWS, torch.Generator().manual_seed(1), "uniform")
    for _, es in (*problem.traced, *problem.required):
        for e in es:
            slopes = []
            for s in (0, 1):
                env = _environment(problem, x, [e], s)
                env |= {n: v for n, v in _environment(problem, x, [e], 0).items() if not isinstance(n, tuple)}
                names = [n for n in env if isinstance(n, tuple)]
                for n in names:
                    env[n] = env[n].requires_grad_()
                total = torch.as_tensor(value(e, env)).sum()
                slopes.append(torch.autograd.grad(total, [env[n] for n in names], materialize_grads=True))
            if any(not torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*slopes)):
                return False
    return True


__all__ = ["check", "check_names", "is_linear", "points_on"]
