"""`check_depth`: a basis in depth held against what `Depth` promises."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..depth import DEPTHS, Depth, resolve
from ..errors import BadInput
from .method import Check, carried_out, check, difference, held, instance
from .report import Finding, Report

CHECKS: dict[str, Check] = {}
_N = 6  # knot intervals
_PLACES = (0.0, 0.2, 0.5, 0.9, 1.0)


def check_depth(obj: Any) -> Report:
    """Hold a depth basis against its contract: supports, flags, prolongation, restriction, mass matrix, gradients.

    obj: a registered name, a Depth, or a class of one. Raises BadInput for anything else.
    """
    depth = resolve(obj, ["theta"])["theta"] if isinstance(obj, str) else instance(obj) if inspect.isclass(obj) else obj
    if not isinstance(depth, Depth):
        raise BadInput(f"a depth is one of {', '.join(sorted(DEPTHS))} or a Depth; got {type(obj).__name__}.")
    findings = [found for name, function in CHECKS.items() for found in carried_out(name, function, depth)]
    return Report(f"depth {obj!r}" if isinstance(obj, str) else f"depth {type(depth).__name__}", tuple(findings))


def _drawn(depth: Depth, intervals: int = _N) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(depth.count(intervals), 3, generator=generator, dtype=torch.float64)


def _theta(depth: Depth, c: Tensor, intervals: int, n: int, s: float) -> Tensor:
    parts = depth.unbind(c)
    return depth.value([parts[j] for j in depth.support(n, intervals)], s, n, intervals)


@check("supports", CHECKS)
def supports(depth: Depth) -> Iterator[Finding]:
    """Indices lie in 0 ... count - 1, each is used, and there is one basis function for each."""
    known = range(depth.count(_N))
    used = [depth.support(n, _N) for n in range(_N)]
    inside = all(j in known for support in used for j in support)
    everything = {j for support in used for j in support} == set(known)
    sizes = all(len(depth.basis(s, n, _N)) == len(support) for n, support in enumerate(used) for s in _PLACES)
    ok = inside and everything and sizes
    yield Finding(
        "supports",
        ok,
        "supports and basis fit count" if ok else "supports, basis and count do not fit; correct one of them",
    )


@check("flags", CHECKS)
def flags(depth: Depth) -> Iterator[Finding]:
    """`constant`: theta does not vary inside an interval. `local`: intervals share no weights."""
    c = _drawn(depth)
    varies = any(difference(_theta(depth, c, _N, n, 0.1), _theta(depth, c, _N, n, 0.8)) > 1e-12 for n in range(_N))
    used = [j for n in range(_N) for j in depth.support(n, _N)]
    for name, stated, seen in (
        ("constant", depth.constant, not varies),
        ("local", depth.local, len(used) == len(set(used))),
    ):
        yield Finding(
            "flags", stated == seen, f"{name} = {stated}" + ("" if stated == seen else f"; write {name} = {seen}")
        )


@check("prolong", CHECKS)
def prolong(depth: Depth) -> Iterator[Finding]:
    """Coefficients over twice as many intervals give the same theta(t)."""
    c = _drawn(depth)
    fine, worst = depth.prolong(c), 0.0
    if fine.shape[0] != depth.count(2 * _N):
        yield Finding(
            "prolong", False, f"prolong must give count(2 N) = {depth.count(2 * _N)} coefficients, got {fine.shape[0]}"
        )
        return
    for n in range(2 * _N):
        for s in (0.1, 0.5, 0.9):
            coarse = _theta(depth, c, _N, n // 2, (n % 2 + s) / 2)
            worst = max(worst, difference(_theta(depth, fine, 2 * _N, n, s), coarse))
    yield held("prolong", worst, 1e-12, "theta(t) is kept", "theta(t) changes under prolong; correct it")


@check("restrict", CHECKS)
def restrict(depth: Depth) -> Iterator[Finding]:
    """restrict(prolong(c)) == c."""
    c = _drawn(depth)
    gap = difference(depth.restrict(depth.prolong(c)), c)
    yield held("restrict", gap, 1e-14, "it undoes prolong", "restrict(prolong(c)) is not c; correct one of them")


@check("mass matrix", CHECKS)
def mass_matrix(depth: Depth) -> Iterator[Finding]:
    """c^T G c is the integral of theta^2, here by the trapezoidal rule on a fine grid, and G is positive definite."""
    knots = [0.0, 0.1, 0.3, 0.6, 0.8, 1.1, 1.5]
    c, gram = _drawn(depth), depth.gram(knots)
    places = torch.linspace(0, 1, 401, dtype=torch.float64)
    total = 0.0
    for n in range(_N):
        values = torch.stack([_theta(depth, c, _N, n, float(s)).square().sum() for s in places])
        total += (knots[n + 1] - knots[n]) * float(torch.trapezoid(values, places))
    gap = abs(float((c * (gram @ c)).sum()) - total) / total
    yield held(
        "mass matrix", gap, 1e-4, "gram is that of the basis", "gram is not the mass matrix of the basis; correct it"
    )
    least = float(torch.linalg.eigvalsh(gram).min())
    yield Finding(
        "mass matrix",
        least > 0,
        f"its least eigenvalue is {least:.2g}" + ("" if least > 0 else "; correct gram"),
        least,
        "> 0",
    )


@check("gradients", CHECKS)
def gradients(depth: Depth) -> Iterator[Finding]:
    """theta is linear in the coefficients, and its gradient is the basis."""
    c = _drawn(depth).requires_grad_()
    worst = 0.0
    for n in range(_N):
        (g,) = torch.autograd.grad(_theta(depth, c, _N, n, 0.3).sum(), c)
        wanted = torch.zeros_like(c)
        for j, b in zip(depth.support(n, _N), depth.basis(0.3, n, _N)):
            wanted[j] += b
        worst = max(worst, difference(g, wanted))
    yield held(
        "gradients",
        worst,
        1e-12,
        "the gradient is the basis",
        "the gradient of theta is not the basis; let value() be linear and detach nothing",
    )
