"""Order of the solution and of the error estimate, stage times, consistency, amplification."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import StepFailed
from ..integrators.base import LinearTest
from ..types import Carry, State, Time
from .method import Method, Skip, check, difference, held
from .report import Finding
from .systems import Forced, Known, Quadrature, Soliton

_START = 0.2
_REACH, _NODES = 0.15, 16
_POINTS = (-0.4 + 0j, -1.1 + 0.6j, 0.7j, 0.3 - 0.2j, -0.05 + 0.01j)


@check("order")
def order(m: Method) -> Iterator[Finding]:
    """Halving the step on problems with known solutions, from t = 0 to 1."""
    _visible(m)
    claimed = m.integrator.order
    for name, problem in (("non-autonomous", m.system(solvable=True)), ("autonomous", Soliton(m.needs))):
        seen = _nearest(observed(m, problem), claimed)
        within = _within(m)
        ok = abs(seen - claimed) <= within
        advice = f"correct step(), or write order = {max(round(min(seen, 99)), 0)}"
        sentence = f"halving the step shows order {seen:.2f} ({name} problem)"
        yield Finding("order", ok, sentence + ("" if ok else f"; {advice}"), seen, f"{claimed} ± {within}")


@check("local order")
def local_order(m: Method) -> Iterator[Finding]:
    """The error of one step from exact values is O(h^(p + 1)), also for the smallest steps that rounding allows."""
    _visible(m)
    if m.integrator.history or not m.integrator.order:
        raise Skip("a statement about one-step methods of order 1 or more")
    for name, problem in (("non-autonomous", m.system(solvable=True)), ("autonomous", Soliton(m.needs))):
        yield _local(m, problem, "local order", f"one step of the {name} problem", "correct a coefficient")


@check("error terms")
def error_terms(m: Method) -> Iterator[Finding]:
    """The error of one step, a power series in h, has no term up to h^p: finds coefficients wrong by 1e-8."""
    _visible(m)
    if m.integrator.history or not m.integrator.order:
        raise Skip("a statement about one-step methods of order 1 or more")
    for name, problem in (("non-autonomous", m.system(solvable=True)), ("autonomous", Soliton(m.needs))):
        sizes = _terms(m, problem)
        power, size = max(enumerate(sizes), key=lambda term: term[1] / _seen(m, term[0]))
        ok = size <= _seen(m, power)
        good = f"{name} problem: no term of the error below h^{m.integrator.order + 1}"
        bad = (
            f"{name} problem: the error of a step has a term {size:.1e} h^{power}, which order {m.integrator.order} "
            "excludes; correct the coefficient that is off by about as much, or write constants as Python numbers"
        )
        yield Finding("error terms", ok, good if ok else bad, size, f"<= {_seen(m, power):.0e}")


@check("times")
def times(m: Method) -> Iterator[Finding]:
    """y' = g(t) alone: the stage times t + c_i h, and that t advances."""
    _visible(m)
    if not m.integrator.order:
        raise Skip("the method claims no order")
    advice = "evaluate stages at t + c_i h"
    if m.integrator.history:
        seen, least = max(observed(m, Quadrature(m.needs))), m.integrator.order - _within(m)
        ok = seen >= least
        sentence = f"y' = g(t) is integrated with order {seen:.2f}"
        yield Finding("times", ok, sentence + ("" if ok else f"; {advice}"), seen, f">= {least:.1f}")
    else:
        what = "one step of y' = g(t)"
        yield _local(m, Quadrature(m.needs), "times", what, advice)


@check("consistency")
def consistency(m: Method) -> Iterator[Finding]:
    """(y1 - y) / h -> f as h -> 0."""
    if m.integrator.history or not m.integrator.order:
        raise Skip("a statement about one-step methods of order 1 or more")
    f, h = m.system(), 1e-6
    y = f.exact(_START).unsqueeze(0) + 0.1
    rate = (m.step(f, _START, y, h).y - y) / h
    yield held(
        "consistency", difference(rate, f(_START, y)), 2e-5,
        "a tiny step moves along f",
        "a tiny step does not move by h f; correct the weights of f, which sum to 1, or the sign of h",
    )  # fmt: skip


@check("error estimate")
def error_estimate(m: Method) -> Iterator[Finding]:
    """The estimate of an adaptive method scales like h^(order_low + 1), and is not zero."""
    f = m.system()
    steps = m.steps(f, _START, f.exact(_START), count=m.full)
    given = all(s.error is not None for s in steps)
    if not m.integrator.adaptive:
        if given:
            yield Finding("error estimate", False, "an estimate is returned; set adaptive = True so that it is used")
            return
        raise Skip("the method gives no error estimate")
    if not given:
        yield Finding(
            "error estimate", False, "adaptive = True, but Step.error is None; return one, or write adaptive = False"
        )
        return
    low = m.facts.order_low
    if low is None:
        low = m.integrator.order - 1
    seen = _slope([_norm(_error(m, f, h)) for h in _sizes()], _floor(m))
    if seen is None:
        yield Finding(
            "error estimate", False, "the estimate is zero, so every step would be accepted; correct it", 0.0, "> 0"
        )
        return
    varies = steps[0].order
    wanted = low + 1 if varies is None else varies
    ok = abs(seen - wanted) <= 0.15
    advice = f"; state order_low = {round(seen) - 1} or correct the embedded weights"
    sentence = f"the estimate of one step scales like h^{seen:.2f}"
    yield Finding("error estimate", ok, sentence + ("" if ok else advice), seen, f"{wanted} ± 0.15")


@check("amplification")
def amplification(m: Method) -> Iterator[Finding]:
    """amplification(z) is the dominant eigenvalue of one step on y' = z y."""
    parted, worst = bool(m.needs & {"split", "linear"}), 0.0
    for z in _POINTS:
        cases = [(0j, z), (0.5 * z, -0.7 + 0.2j)] if parted else [(z, 0j)]
        for first, second in cases:
            claimed = m.integrator.amplification(first, z_implicit=second if parted else None)
            seen = _eigenvalues(m, first, second)
            among = float((seen - claimed).abs().min())  # two eigenvalues may share the largest modulus
            gap = max(among, abs(abs(claimed) - float(seen.abs().max())))
            worst = max(worst, gap if cmath.isfinite(claimed) else math.inf)
    yield held(
        "amplification", worst, 1e-10,
        "amplification(z) is what a step does to y' = z y",
        "amplification(z) is not what a step does to y' = z y: correct stability_function, or step()",
    )  # fmt: skip


# ---- measuring


def observed(m: Method, problem: Known) -> tuple[float, float]:
    """The order lies between these: log2 of the last two errors above rounding, and its limit for h -> 0.

    Errors on [0, 1] of 1, 2, 4, 8, ... equal steps, and of 3, 6, 12, ...; the limit supposes that the deviation
    halves with h.
    """
    above: dict[int, float] = {}
    for count in _counts(m):
        error = _over_time(m, problem, count)
        if error <= _floor(m) * math.sqrt(count):
            break
        if math.isfinite(error):
            above[count] = error
    rates = {2 * k: math.log2(above[k] / above[2 * k]) for k in above if 2 * k in above}
    if not rates:
        return math.inf, math.inf
    best = max((k for k in rates if k // 2 in rates), default=max(rates))
    return rates[best], 2 * rates[best] - rates.get(best // 2, rates[best])


def _counts(m: Method) -> list[int]:
    if m.dear:
        finest = 64 if m.integrator.history else 32 if m.integrator.order < 3 else 16
        return [2**n for n in range(7) if 2**n <= finest]
    finest = 256 if m.integrator.history else 64
    return [k for n in range(9) for k in (2**n, 3 * 2**n) if k <= finest]


def _within(m: Method) -> float:
    """How near to the claim; of a high order few steps lie between the first and rounding."""
    return 0.1 if m.integrator.order <= 5 else 0.2


def _nearest(seen: tuple[float, float], claimed: float) -> float:
    """The point of the interval that is nearest to the claim, where it is short enough to tell orders apart."""
    low, high = sorted(seen)
    return min(max(claimed, low), high) if high - low < 0.5 else seen[1]


def _over_time(m: Method, problem: Known, count: int) -> float:
    """RMS error over all states of `count` equal steps; at the end alone it may vanish by chance."""
    y, h, total = problem.exact(0.0), 1.0 / count, 0.0
    carry: Carry = ()
    problem.workspace.clear()
    for n in range(count):
        y, carry = _next(m, problem, n * h, y, h, carry)
        if not torch.isfinite(y).all():
            return math.nan
        total += _norm(y - problem.exact((n + 1) * h)) ** 2
    return math.sqrt(total / count)


def _next(m: Method, problem: Known, t: float, y: Tensor, h: float, carry: Carry) -> tuple[Tensor, Carry]:
    """One step; not a number where it cannot be taken, as too large a one may not be."""
    try:
        step = m.step(problem, t, y, h, carry)
    except StepFailed:
        return torch.full_like(y, math.nan), ()
    return step.y, step.carry


def _local(m: Method, problem: Known, name: str, what: str, advice: str) -> Finding:
    start = 0.0 if "second_order" in m.needs else _START
    y = problem.exact(start)
    errors = [_norm(_next(m, problem, start, y, h, ())[0] - problem.exact(start + h)) for h in _sizes()]
    seen = _slope(errors, _floor(m))
    least = m.integrator.order + 0.75
    if seen is None:
        return Finding(name, True, f"{what} is exact up to rounding", "exact", f">= {least:.2f}")
    ok = seen >= least
    sentence = f"{what} has error h^{seen:.2f}"
    return Finding(name, ok, sentence + ("" if ok else f"; {advice}"), seen, f">= {least:.2f}")


def _terms(m: Method, problem: Known) -> list[float]:
    """Largest coefficients of h^0 ... h^p in the error of one step, from Chebyshev points in h (of both signs)."""
    start = 0.0 if "second_order" in m.needs else _START
    x = torch.cos((torch.arange(_NODES, dtype=torch.float64) + 0.5) * (math.pi / _NODES))
    y = problem.exact(start)
    errors = [_next(m, problem, start, y, _REACH * v, ())[0] - problem.exact(start + _REACH * v) for v in x.tolist()]
    powers = x.unsqueeze(-1) ** torch.arange(_NODES)
    found = torch.linalg.solve(powers, torch.stack(errors).reshape(_NODES, -1)).abs().amax(-1)
    return [float(size) / _REACH**k for k, size in enumerate(found[: m.integrator.order + 1])]


def _seen(m: Method, power: int) -> float:
    """What rounding makes of the coefficient of h^power, as the Chebyshev polynomials say."""
    return max(1e-9, 10 * _floor(m) * _NODES**power / (math.factorial(power) * _REACH**power))


def _sizes() -> list[float]:
    return [2.0**-k for k in range(12)]


def _slope(errors: list[float], floor: float) -> float | None:
    """Exponent of the last errors above rounding for steps that halve; None where there are no two."""
    above = [error for error in errors if 10 * floor < error < math.inf]
    return math.log2(above[-2] / above[-1]) if len(above) > 1 else None


def _floor(m: Method) -> float:
    """What rounding, or the solution of stage equations up to it, adds to one step."""
    return 2e-13 if m.dear else 1e-14


def _visible(m: Method) -> None:
    if m.varying:
        raise Skip("the order varies from step to step")
    if m.foreign and m.integrator.declared.controls_error:  # type: ignore[attr-defined]
        raise Skip("it interpolates inside a step of its own; the order is confirmed at registration")


def _norm(x: Tensor) -> float:
    return float(x.abs().square().mean().sqrt())


def _error(m: Method, f: Forced, h: float) -> Tensor:
    error = m.step(f, _START, f.exact(_START), h).error
    assert error is not None
    return error


def _eigenvalues(m: Method, z: complex, z_implicit: complex) -> Tensor:
    """Eigenvalues of the map (y, carry) -> (y, carry), column by column from unit vectors."""
    f = _Unsolved(LinearTest(_number(z), m.needs, _number(z_implicit)))
    y = torch.ones(f.components, 1, 1, dtype=torch.complex128)
    last = m.steps(f, 0.0, y, 1.0, m.full)[-1]
    parts = (last.y, *last.carry) if m.integrator.history else (last.y,)  # else the memory is a saved evaluation
    if any(part.dim() != 3 or part.shape[1:] != (1, 1) for part in parts):
        raise Skip("the memory holds more than states, so a step is no linear map of it")
    sizes = [part.shape[0] for part in parts]
    columns = []
    for j in range(sum(sizes)):
        unit = torch.zeros(sum(sizes), 1, 1, dtype=torch.complex128)
        unit[j] = 1.0
        given = torch.split(unit, sizes)
        step = m.step(f, 0.0, given[0], 1.0, tuple(given[1:]))
        after = (step.y, *step.carry) if m.integrator.history else (step.y,)
        columns.append(torch.cat(after).reshape(-1, 1))
    return torch.linalg.eigvals(torch.cat(columns, 1))


class _Unsolved:
    """The test equation as a right-hand side like any other: that its implicit part is linear is not said."""

    def __init__(self, f: LinearTest) -> None:
        self._f = f

    def __call__(self, t: Time, y: State) -> State:
        return self._f(t, y)

    def __getattr__(self, name: str) -> Any:
        if name == "implicit_matrix":
            raise AttributeError(name)
        return getattr(self._f, name)


def _number(z: complex) -> Tensor:
    return torch.tensor([z], dtype=torch.complex128)
