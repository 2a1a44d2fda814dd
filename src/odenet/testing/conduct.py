"""Structure and conduct: symplecticity, time reversal, evaluations, coefficients, and what happens on failure."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import OdenetError, StepFailed
from ..types import State
from .method import EXACT, H, Method, Skip, check, difference, held
from .report import Finding
from .systems import Forced, states

_T = 0.3


@check("symplecticity")
def symplecticity(m: Method) -> Iterator[Finding]:
    """M^T J M = J for the Jacobian M of a step on a Hamiltonian system, exactly where `symplectic` says so."""
    if m.integrator.history and not m.integrator.symplectic:
        raise Skip("a statement about one-step maps")
    f, y = m.system(coupled=False), states(1)[0]
    if "second_order" in m.needs:
        matrix = _two_step_map(m, f, y)
    else:
        matrix = _jacobian(lambda x: m.step(f, _T, x, 0.3).y, y)
    n = len(matrix) // 2
    j = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    j[:n, n:], j[n:, :n] = torch.eye(n), -torch.eye(n)
    defect = float((matrix.mT @ j @ matrix - j).abs().max())
    claimed, seen = m.integrator.symplectic, defect < 1e-10
    said = f"a step is {'' if seen else 'not '}symplectic"
    ok = claimed == seen == bool(m.facts.symplectic)
    flag = "" if ok else f"; correct step(), or write symplectic = {seen}, in the facts as well"
    yield Finding("symplecticity", ok, said + flag, defect, "<= 1e-10" if claimed else "> 1e-10")


def _jacobian(run: Any, y: Tensor) -> Tensor:
    matrix = torch.autograd.functional.jacobian(run, y)
    assert isinstance(matrix, Tensor)
    return matrix


def _two_step_map(m: Method, f: Forced, y: State) -> Tensor:
    """Jacobian of (y_{n-1}, y_n) -> (y_n, y_{n+1})."""
    first = m.step(f, _T, y, 0.3)

    def run(x: Tensor) -> Tensor:
        before, now = x.chunk(2)
        step = m.step(f, _T + 0.3, now, 0.3, (before,))
        return torch.cat((step.carry[0], step.y))

    return _jacobian(run, torch.cat((first.carry[0], first.y)).detach())


@check("backwards")
def backwards(m: Method) -> Iterator[Finding]:
    """A step with h < 0 is the step with |h| on the field with time reversed."""
    y = states()
    there = m.steps(m.system(), _T, y, -H, m.full + 1)
    reversed_ = m.steps(m.system(backwards=True), -_T, y, H, m.full + 1)
    worst = max(difference(a.y, b.y) for a, b in zip(there, reversed_))
    yield held(
        "backwards", worst, 1e-10 if m.integrator.implicit else EXACT,
        "a negative step runs against time",
        "a negative step is not the step against time; use h as it is, not |h|, also in the times of stages",
    )  # fmt: skip


@check("stages")
def stages(m: Method) -> Iterator[Finding]:
    """Evaluations of f per step in the long run are the stated stages."""
    if m.integrator.implicit:
        raise Skip("the number of evaluations depends on the problem")
    f, y = m.system(solvable=True), states()
    carry: tuple[Tensor, ...] = ()
    counts = []
    for n in range(m.full + 3):
        f.calls = 0
        step = m.step(f, _T + n * H, y, H, carry)
        y, carry = step.y, step.carry
        counts.append(f.calls)
    stated = {m.integrator.stages, m.facts.stages}
    ok = stated == {counts[-1]}
    sentence = f"{counts[-1]} evaluations of f per step in the long run"
    yield Finding(
        "stages", ok, sentence + ("" if ok else f"; write stages = {counts[-1]}"), counts[-1],
        " and ".join(map(str, sorted(stated))),
    )  # fmt: skip


@check("implicit")
def implicit(m: Method) -> Iterator[Finding]:
    """A method that solves no equations has a polynomial R(z), unbounded as z -> -inf."""
    if m.needs:
        raise Skip("told from R(z), which methods of this kind have not")
    far = abs(m.integrator.amplification(-1e6 + 0j))
    bounded = far < 1e3
    if bounded and abs(m.integrator.amplification(-2 + 1j) - cmath.exp(-2 + 1j)) < 1e-10:
        raise Skip("R(z) is the exponential function")
    ok = bounded == m.integrator.implicit
    sentence = f"|R(-1e6)| = {far:.2g}, as of {'an implicit' if bounded else 'an explicit'} method"
    yield Finding("implicit", ok, sentence + ("" if ok else f"; write implicit = {bounded}"))


@check("coefficients")
def coefficients(m: Method) -> Iterator[Finding]:
    """Learnable coefficients lie in their intervals, repeat with the generator, and are used."""
    if not m.integrator.learnable:
        raise Skip("nothing to learn")
    drawn, again = (m.integrator.coefficients(50, torch.Generator().manual_seed(0)) or {} for _ in range(2))
    for name, (low, high) in m.integrator.learnable.items():
        x = drawn.get(name, torch.zeros(0))
        ok = x.shape == (50,) and bool(((x >= low) & (x <= high)).all()) and torch.equal(x, again[name])
        sentence = f"{name} has one value per step in [{low}, {high}], the same for the same seed"
        yield Finding(
            "coefficients",
            ok,
            sentence if ok else f"{name} must be drawn once per step from its interval, by the generator",
        )
    y, f = states(), m.system()
    mean = m.coefficients(y) or {}
    moved = m.steps(f, _T, y, count=m.full + 1, coef={k: v + 0.01 for k, v in mean.items()})[-1].y
    ok = not torch.equal(moved, m.steps(f, _T, y, count=m.full + 1)[-1].y)
    yield Finding("coefficients", ok, "they change the result" if ok else "they change nothing; use coef in step()")


# ---- failure


@check("failure")
def failure(m: Method) -> Iterator[Finding]:
    """Where f or y is not a number, no number comes out: the result is not finite, or StepFailed is raised."""
    y = states()
    later = 0 if m.integrator.implicit else m.integrator.stages - 1
    cases = {
        "f is nan": (m.system(spoil=lambda f: f * math.nan), y),
        "f is infinite": (m.system(spoil=lambda f: f + math.inf), y),
        "f is nan in the last stage": (m.system(spoil=lambda f: f * math.nan, after=max(later, 0)), y),
        "y is nan": (m.system(), y * math.nan),
    }
    for name, (f, start) in cases.items():
        lost = _lost(m, f, start)
        yield Finding(
            "failure",
            lost,
            f"{name}: "
            + ("the step says so" if lost else "finite numbers come out; let nan pass on, or raise StepFailed"),
        )
    spoiled = torch.tensor([[1.0], [math.nan], [1.0]], dtype=torch.float64)
    lost = _lost(m, m.system(), y * spoiled, sample=1)
    yield Finding("failure", lost, "one sample is nan: " + ("the step says so" if lost else _KEPT))


def _lost(m: Method, f: Any, y: State, sample: int | None = None) -> bool:
    try:
        made = m.steps(f, _T, y, count=m.full)[-1]
    except StepFailed:
        return True
    outcome = [made.y, *made.carry, *(() if made.error is None else (made.error,))]
    if sample is not None:
        return not bool(torch.isfinite(made.y[sample]).all())
    return any(not bool(torch.isfinite(x).all()) for x in outcome)


_KEPT = "its result is finite; let nan pass on, or raise StepFailed"


class _Odd(Exception):
    """What a right-hand side of the tests raises."""


@check("exceptions")
def exceptions(m: Method) -> Iterator[Finding]:
    """An exception of f reaches the caller; f of another shape raises."""
    y = states()

    def fails(f: Tensor) -> Tensor:
        raise _Odd("the field says no")

    try:
        m.steps(m.system(spoil=fails), _T, y, count=m.full)
        passed = False
    except _Odd:
        passed = True
    sentence = "an exception of f reaches the caller"
    yield Finding("exceptions", passed, sentence if passed else "an exception that f raises is swallowed; let it pass")
    try:
        m.steps(m.system(spoil=lambda f: torch.cat((f, f[..., :1]), -1)), _T, y, count=1)
        raised = False
    except (RuntimeError, ValueError, IndexError, AssertionError, OdenetError):
        raised = True
    yield Finding(
        "exceptions",
        raised,
        "f of a wrong shape " + ("raises" if raised else "is used without a word; do not cut or expand what f returns"),
    )
