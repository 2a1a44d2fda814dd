"""Adams and BDF methods whose step and order vary: Krogh's modified divided differences, any step after any other.

With steps h = psi_1, psi_2 = h + h_n, psi_3 = h + h_n + h_{n-1}, ... the differences of values v (slopes for Adams,
states for BDF) are phi_1 = v_n, phi_{i+1} = phi_i - phi*_i(before), phi*_i = beta_i phi_i, beta_i the products of
psi_j / psi_j(before). On equal steps they are backward differences. Every coefficient is arithmetic of steps alone, so
a step is linear in the memory and in f, and its derivative is that of what was computed.
Hairer, Norsett & Wanner I, section III.5; Shampine & Gordon 1975; Brenan, Campbell & Petzold 1996, section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..types import Carry, Params, State, Step, Time
from .adaptive import scaled_norm
from .base import Facts, Integrator, build, facts_of, verify
from .characteristic import characteristic, dominant_root, stability_angle, verify_formula
from .dense import Polynomials, Theta
from .multistep import Multistep, implicit_slope

Steps: TypeAlias = Sequence[Any]  # floats, fractions or 0-dim tensors, the newest first
NOTICED = 0.01  # of the tolerance: what a jump of f must do to a step of order 1 before the past is forgotten
TOLERANCE = (1e-6, 1e-8)  # relative and absolute, where a run states none
LEAP = 30.0  # a step longer than this multiple of the last one starts afresh: differences would only carry noise


@dataclass(frozen=True)
class VariableOrder:
    """A method that chooses its own order, 1 to `highest`, and takes every step size.

    formulas:  "bdf", the backward differentiation formulas with fixed leading coefficient, orders up to 5, or
               "adams", predictor of order k and corrector of order k + 1 in the mode PECE, k up to 12
    Choose "bdf" for stiff problems and "adams" for smooth, dear fields at strict tolerances.
    Raises BadInput for other formulas or orders.
    """

    formulas: Literal["adams", "bdf"]
    highest: int
    cite: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        most = {"adams": 12, "bdf": 5}.get(self.formulas)
        if most is None:
            raise BadInput(f'formulas are "adams" or "bdf"; got {self.formulas!r}.')
        if not 1 <= self.highest <= most:
            raise BadInput(f"{self.formulas} formulas have orders 1 to {most} here; got highest={self.highest}.")


class Memory(NamedTuple):
    """What a step knows of the past besides the differences.

    order:   of the step to come
    held:    steps taken at that order
    rising:  still in the start, where the order may rise at every step
    steps:   past step sizes, newest first
    """

    order: int
    held: int
    rising: bool
    steps: Steps

    @classmethod
    def read(cls, ledger: Tensor, traced: bool) -> Memory:
        order, held, rising, *steps = ledger.tolist()
        return cls(int(order), int(held), bool(rising), ledger[3:].unbind() if traced else steps)

    def write(self) -> Tensor:
        """One float64 tensor on the CPU, so that it may stand in a carry that is differentiated."""
        return _vector([self.order, self.held, self.rising, *self.steps], None)


def sums(steps: Steps) -> list[Any]:
    """psi_1, psi_2, ...: the distances from the new time to the past ones."""
    return list(accumulate(steps))


def growth(h: Any, steps: Steps) -> list[Any]:
    """beta_1 = 1, beta_{i+1} = beta_i psi_i(now) / psi_i(before), one more than there are past steps."""
    now, before = sums([h, *steps]), sums(steps)
    return list(accumulate((a / b for a, b in zip(now, before)), lambda x, y: x * y, initial=1))


def newton_basis(h: Any, steps: Steps, count: int) -> list[list[Any]]:
    """c_1 = 1, c_{i+1}(x) = c_i(x) (x h + psi_{i-1}(before)) / psi_i(now): coefficients from the constant upwards.

    sum_i c_i(x) phi*_i is the polynomial through the past values at the time t_n + x h; all c_i(1) = 1.
    """
    now, before = sums([h, *steps]), [0, *sums(steps)]
    basis: list[list[Any]] = [[h / h]]
    for a, b in zip(now[: count - 1], before):
        basis.append(_times(basis[-1], b / a, h / a))
    return basis


def _times(p: list[Any], constant: Any, slope: Any) -> list[Any]:
    """The polynomial p(x) (constant + slope x)."""
    return [x * constant + y * slope for x, y in zip([*p, 0], [0, *p])]


def _padded(rows: Sequence[list[float]]) -> list[list[float]]:
    width = max(len(row) for row in rows)
    return [row + [0.0] * (width - len(row)) for row in rows]


def integrals(basis: Sequence[Sequence[Any]]) -> list[Any]:
    """The integrals of polynomials over [0, 1]."""
    return [sum(c / (j + 1) for j, c in enumerate(row)) for row in basis]


def update(betas: Steps, count: int, rows: int) -> list[list[Any]]:
    """Rows that give new differences from old ones, before the newest value's own difference is added to each.

    count: differences that predicted; row i <= count is phi*_i + ... + phi*_count, then 0, then -phi*_{count+1}
    """
    table = [[betas[j] if j >= i and j < count else 0.0 for j in range(rows)] for i in range(count + 1)]
    if rows > count:
        table.append([-betas[count] if j == count else 0.0 for j in range(rows)])
    return table


def bdf_error_factor(order: int, ratios: Steps) -> Any:
    """Local error per phi_{k+2}: max(a_{k+1}, |a_{k+1} + a_1 + ... + a_k - 1 - 1/2 - ... - 1/k|), a_i = h / psi_i.

    Brenan, Campbell & Petzold 1996, section 5.2.3.
    """
    last = ratios[order]
    return max(last, abs(last + sum(ratios[:order]) - float(harmonic(order))))


@cache
def harmonic(k: int) -> Fraction:
    """1 + 1/2 + ... + 1/k."""
    return sum((Fraction(1, j) for j in range(1, k + 1)), Fraction(0))


def on_equal_steps(data: VariableOrder, k: int) -> Multistep:
    """The formula of order k (Adams: predictor k, corrector k + 1) that equal steps give, exactly."""
    ones = [Fraction(1)] * k
    alpha = [Fraction(0)] * (k - 1) + [Fraction(-1), Fraction(1)]
    if data.formulas == "bdf":
        inner = accumulate((1 / x for x in sums([Fraction(1), *ones])), initial=Fraction(0))
        by_value = _by_value([1 - c / harmonic(k) for c, _ in zip(inner, range(k + 1))])
        return Multistep(_row([-a for a in by_value[k - 1 :: -1]] + [1]), _row([0] * k + [1 / harmonic(k)]), k, "rk4")
    g = integrals(newton_basis(Fraction(1), ones, k + 1))
    predictor, moved = _by_value(g[:k]), _by_value([Fraction(1)] * k)
    corrector = [b - g[k] * a for a, b in zip(moved, predictor)]
    rows = _row([*corrector[::-1], g[k]]), _row([*predictor[::-1], 0])
    return Multistep(_row(alpha), rows[0], k + 1, "rk4", predictor=rows[1])


def _by_value(weights: Sequence[Fraction]) -> list[Fraction]:
    """Weights of values, newest first, from those of backward differences."""
    n = len(weights)
    return [sum(((-1) ** j * math.comb(i, j) * weights[i] for i in range(j, n)), Fraction(0)) for j in range(n)]


def _row(numbers: Sequence[Any]) -> str:
    return " ".join(str(x) for x in numbers)


class VariableBDF(Integrator):
    """BDF of orders 1 to 5 in variable steps: y = p + (h / S_k)(f(t + h, y) - p'), S_k = 1 + 1/2 + ... + 1/k.

    p, p': the polynomial through the last k + 1 states, at t + h. On equal steps this is the formula bdfk.
    """

    implicit = True
    adaptive = True
    stages = 1

    def __init__(self, data: VariableOrder) -> None:
        self.data, self.cite, self.when = data, data.cite, data.when
        self.order = data.highest
        self.history = data.highest + 1
        self.stability_function = self._dominant_root

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step of any size; from () at order 1. Raises StepFailed where Newton does not converge."""
        memory = _recall(self, h, carry)
        fresh = memory is None
        if memory is None:  # a state before the start, on the tangent; no later step remembers it
            memory, carry = Memory(1, 0, True, (h,)), ((h * f(t, y)).unsqueeze(0),)
        k, phi = memory.order, torch.cat((y.unsqueeze(0), carry[0]))
        lead, betas, ratios = float(harmonic(k)), growth(h, memory.steps), [h / x for x in sums([h, *memory.steps])]
        inner = list(accumulate(ratios, initial=0.0))  # the derivative of the Newton basis at t + h, times h
        slope = [c * b for c, b in zip(inner[: k + 1], betas)] + [0.0] * (len(phi) - k - 1)
        table = _matrix([slope, *update(betas, k + 1, len(phi))], y)
        hp, *stars = _combine(table, phi)
        predicted = stars[0]
        known, gamma = predicted - hp / lead, h / lead
        e = gamma * implicit_slope(f, t + h, known, gamma, y, hp / h) - hp / lead
        new = predicted + e
        fresh_differences = torch.stack(stars) + e
        factors = [_number(bdf_error_factor(q, ratios)) if 0 < q < len(ratios) else None for q in (k - 1, k, k + 1)]
        seen = [*fresh_differences[k : k + 3], None]
        after = _choose(self, f, y, new, memory, factors, seen, h)
        kept = fresh_differences[1 : 2 if fresh else after.order + 2]
        carry = (kept, after._replace(steps=after.steps[: len(kept)]).write())
        return Step(new, bdf_error_factor(k, ratios) * e, carry, (), k + 1)

    def _dominant_root(self, z: Tensor) -> Tensor:
        return dominant_root(characteristic(on_equal_steps(self.data, self.data.highest), z))

    def dense(self, f: Any, t: Time, h: Time, y0: State, step: Step, theta: Theta) -> State:
        """The polynomial through the states that the next step remembers."""
        differences, ledger = step.carry
        psi = sums(Memory.read(ledger, False).steps)
        size = psi[0]
        basis: list[list[float]] = [[1.0], [-1.0, 1.0]]  # in x from the start, with the first node at the end
        for a, b in zip(psi[1:], psi):
            basis.append(_times(basis[-1], (b - size) / a, size / a))
        rows = _padded([row[1:] for row in basis[1 : len(differences) + 1]])
        return Polynomials(rows).value(y0, 1.0, differences.unbind(), theta)


class VariableAdams(Integrator):
    """Adams methods of orders 1 to 12 in variable steps, PECE: predictor of order k, corrector of order k + 1."""

    adaptive = True
    stages = 2

    def __init__(self, data: VariableOrder) -> None:
        self.data, self.cite, self.when = data, data.cite, data.when
        self.order = data.highest + 1
        self.history = data.highest + 1
        self.stability_function = self._dominant_root

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step of any size; from () at order 1."""
        memory = _recall(self, h, carry)
        if memory is None:
            memory, phi = Memory(1, 0, True, ()), f(t, y).unsqueeze(0)
        else:
            phi = carry[0]
        k = memory.order
        betas = growth(h, memory.steps)
        g = integrals(newton_basis(h, memory.steps, len(phi) + 1))
        slope = [h * a * b for a, b in zip(g[:k], betas)] + [0.0] * (len(phi) - k)
        moved, *stars = _combine(_matrix([slope, *update(betas, k, len(phi))], y), phi)
        predicted = y + moved
        d = f(t + h, predicted) - stars[0]
        new = predicted + (h * g[k]) * d
        after_slope = f(t + h, new)
        fresh_differences = torch.stack(stars) + (after_slope - stars[0])
        seen = (stars[k - 1] + d if k > 1 else None, d, fresh_differences[k + 1] if len(stars) > k + 1 else None)
        factors = [abs(_number(h * (g[q] - g[q - 1]))) if 0 < q < len(g) else None for q in (k - 1, k, k + 1)]
        after = _choose(self, f, y, new, memory, factors, seen, h)
        kept = fresh_differences[: after.order + 1]
        estimated = k
        if _breaks(f, y, new, h, after_slope, stars[1:k], d):
            after, kept, estimated = Memory(1, 0, True, after.steps), fresh_differences[:1], 1
        carry = (kept, after._replace(steps=after.steps[: max(k, len(kept) - 1)]).write())
        return Step(new, (h * (g[estimated] - g[estimated - 1])) * d, carry, (*phi[:k], d), estimated + 1)

    def dense(self, f: Any, t: Time, h: Time, y0: State, step: Step, theta: Theta) -> State:
        """The integral of the polynomial through the past slopes and the predicted one, exact at both ends."""
        size, *past = Memory.read(step.carry[1], False).steps
        k = len(step.slopes) - 1
        betas = [*growth(size, past)[:k], 1.0]
        basis = newton_basis(size, past, k + 1)
        rows = [[b * c / (j + 1) for j, c in enumerate(row)] for b, row in zip(betas, basis)]
        return Polynomials(_padded(rows)).value(y0, h, step.slopes, theta)

    def _dominant_root(self, z: Tensor) -> Tensor:
        return dominant_root(characteristic(on_equal_steps(self.data, self.data.highest), z))


def _recall(method: Any, h: Time, carry: Carry) -> Memory | None:
    """What the carry says of the past; None where a step of size h does better without it."""
    if isinstance(h, Tensor) and h.numel() > 1:
        raise Incompatible(
            f"{method.title} takes one step size for all samples; for steps of their own choose a one-step method "
            'such as "dopri5" or "radau_iia5".'
        )
    if not carry:
        return None
    memory = Memory.read(carry[1], isinstance(h, Tensor))
    if memory.steps and not 0.0 < _number(h) / _number(memory.steps[0]) <= LEAP:
        return None
    return memory


def _choose(
    method: Any, f: Any, y0: State, y1: State, memory: Memory, factors: Sequence[float | None], seen: Any, h: Time
) -> Memory:
    """The memory after a step, with the order that allows the longest next one."""
    rtol, atol = getattr(f, "tolerance", None) or TOLERANCE
    k = memory.order
    with torch.no_grad():
        scale = torch.maximum(y0.abs(), y1.abs()).mul(rtol).add(atol)
        sizes = [
            None if c is None or v is None else c * float((v.abs() / scale).square().mean().sqrt())
            for c, v in zip(factors, seen)
        ]
    low, now, high = (
        -math.inf if s is None or not math.isfinite(s) else -math.log(max(bias * s, 1e-30)) / (q + 1)
        for s, q, bias in zip(sizes, (k - 1, k, k + 1), (6.0, 6.0, 10.0))
    )
    held, rising, order = memory.held + 1, memory.rising, k
    may_change = held > k or rising
    if low > max(now, high) and may_change:
        order, held, rising = k - 1, 0, False
    elif high > now and may_change and k < method.data.highest:
        order, held = k + 1, 0
    elif rising and high > -math.inf:
        rising = False
    return Memory(order, held, rising, (h, *memory.steps))


def _breaks(f: Any, y0: State, y1: State, h: Time, slope: State, past: Sequence[State], surprise: State) -> bool:
    """Whether f jumped: then all differences become the jump, and those of the past tell nothing of the error.

    past: the differences that the memory foretold; surprise: by how much the slope missed them. Neither round-off, nor
    a surprise that an order as low as 1 would forgive, is a jump.
    """
    if not past:
        return False
    sizes = torch.stack([slope, *past, surprise]).detach().reshape(len(past) + 2, -1).abs().square().sum(1).tolist()
    if sizes[-1] <= max(*sizes[1:-1], (100 * torch.finfo(y1.real.dtype).eps) ** 2 * sizes[0]):
        return False
    rtol, atol = getattr(f, "tolerance", None) or TOLERANCE
    with torch.no_grad():
        return 0.5 * abs(_number(h)) * float(scaled_norm(surprise, y0, y1, rtol, atol)) > NOTICED


def _number(x: Any) -> float:
    return float(x.detach() if isinstance(x, Tensor) else x)


def _combine(table: Tensor, phi: Tensor) -> tuple[Tensor, ...]:
    return (table @ phi.reshape(len(phi), -1)).reshape(len(table), *phi.shape[1:]).unbind()


def _vector(entries: Sequence[Any], like: Tensor | None) -> Tensor:
    """A vector of numbers and 0-dim tensors, float64 on the CPU unless `like` says otherwise."""
    if any(isinstance(x, Tensor) for x in entries):
        vector = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in entries])
    else:
        vector = torch.tensor(entries, dtype=torch.float64)
    return vector if like is None else vector.to(like)


def _matrix(rows: Sequence[Sequence[Any]], like: Tensor) -> Tensor:
    return _vector([x for row in rows for x in row], like).reshape(len(rows), -1)


@build.register
def _(data: VariableOrder) -> Integrator:
    return VariableBDF(data) if data.formulas == "bdf" else VariableAdams(data)


@verify.register
def _(integrator: VariableBDF) -> None:
    _verify_every_order(integrator)


@verify.register
def _(integrator: VariableAdams) -> None:
    _verify_every_order(integrator)


def _verify_every_order(integrator: VariableBDF | VariableAdams) -> None:
    """The formulas that the coefficients become on equal steps, checked exactly like entries of their own."""
    for k in range(1, integrator.data.highest + 1):
        verify_formula(on_equal_steps(integrator.data, k), integrator.title)


@facts_of.register
def _(integrator: VariableBDF) -> Facts:
    return _facts_of_highest(integrator)


@facts_of.register
def _(integrator: VariableAdams) -> Facts:
    return _facts_of_highest(integrator)


def _facts_of_highest(integrator: VariableBDF | VariableAdams) -> Facts:
    """Those of the highest formula on equal steps; order_low is the one that a run starts with."""
    formula = on_equal_steps(integrator.data, integrator.data.highest)
    return replace(
        facts_of(build(formula)),
        order=integrator.order,
        order_low=1,
        stages=integrator.stages,
        a_stable=stability_angle(formula) > 90 - 1e-6,
    )
