"""At which step size a flow fails, predicted from one accurate solution of its field, without running the flow.

A perturbation w of a solution y(t) of y' = f(t, y) obeys w' = J(t, y(t)) w. The integrator, applied to this linear
equation along the exact solution, multiplies w in every step by what it does to the modes of J: products of the
amplifications of all steps, in order, so that transient growth and modes that turn with depth count as well. The
deviation of the run from the exact solution is driven by the corrections of the modified equation, f_h - f, and grows
in the same way: w' = J w + f_h - f under the integrator.
A step size fails where perturbations grow beyond BOUNDED times what the exact flow makes of them, or where the run
deviates from the exact solution by more than LOST of the way that the solution goes: then the net is no ODE any more,
even if its activations saturate and so keep it bounded. All this is an indication, never a proof.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible, SolveFailed
from ..fields import Rhs
from ..flow import Flow, solve
from ..flow.march import Piece
from ..flow.record import Mark
from ..integrators import TwoStep
from ..types import State, Time
from .sensitivity import sensitivity
from .unroll import Interval, Layer, Parts, Unrolled, in_double, jacobian, name_of, row, unroll
from .verdict import BOUNDED

# deviation from the exact solution, relative to how far that moves, from which on a net does something else
LOST = 0.1
FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_COARSE = 6  # every so many of the points are enough for corrections
_POINTS = 24  # of the exact solution, per knot interval


@dataclass(frozen=True)
class Failure:
    """Which step sizes of a scan fail.

    h:          step sizes, falling, positive; steps: per knot interval
    growth:     the largest |dy_N/dy_j| or |dy_j/dy_0| at each, over samples and knots; inf where it overflows
    deviation:  max over knots of |y_h - y| / max |y - y_0| at each, norms over all samples
    exact:      the growth in the exact flow
    """

    h: tuple[float, ...]
    steps: tuple[int, ...]
    growth: tuple[float, ...]
    deviation: tuple[float, ...]
    exact: float

    @property
    def grows(self) -> tuple[bool, ...]:
        """Whether the growth is beyond BOUNDED times that of the exact flow (or 1, where that is less)."""
        return tuple(not g <= BOUNDED * max(1.0, self.exact) for g in self.growth)

    @property
    def lost(self) -> tuple[bool, ...]:
        """Whether the run is no approximation of the exact solution any more."""
        return tuple(not d <= LOST for d in self.deviation)

    @property
    def h_growth(self) -> float:
        """The smallest h of the scan at which perturbations grow beyond the bound; inf where they never do."""
        return self._smallest(self.grows)

    @property
    def h_failure(self) -> float:
        """The smallest h of the scan that fails in either way; inf where none does."""
        return min(self.h_growth, self._smallest(self.lost))

    def _smallest(self, fails: Sequence[bool]) -> float:
        return min((h for h, bad in zip(self.h, fails) if bad), default=math.inf)


def predict_failure(flow: Flow, x: Tensor, factors: Sequence[int] = FACTORS) -> Failure:
    """The h at which a flow with these weights is expected to fail, from one solution of its field at x (P, ...).

    factors: the scan, in steps per knot interval. Nothing is run at those step sizes: the integrator is applied to the
    linear equation of perturbations along the exact solution. Choose it to learn how many steps a net needs before
    running it. Raises BadInput for adaptive steps or no factors, Incompatible for y'' = f stepped without velocities.
    """
    flow, x = in_double(flow, x)
    return _scan(flow, x, factors, _Along(flow, x).expected)


def predict_exchange(
    net: Any, x: Tensor, integrator: Any = "rk4", steps: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(outputs now, predicted, run): what a net with one flow gives for x under another integrator.

    Both integrators deviate from the exact solution, each by what its modified equation says; the prediction adds the
    difference of the two to the state that the net reaches now, and never runs the other one. Compare the first two to
    know whether the weights depend on the steps they were trained with. Raises BadInput without exactly one flow.
    """
    net, x = in_double(net, x)
    parts = row(net)
    where = [i for i, part in enumerate(parts) if isinstance(part, Flow)]
    if len(where) != 1:
        raise BadInput(f"an exchange is predicted for a net with one flow, this one has {len(where)}.")
    flow: Flow = parts[where[0]]
    other = flow.with_integrator(integrator, steps=flow.steps if steps is None else steps)
    with torch.no_grad():
        y = x
        for part in parts[: where[0]]:
            y = part(y)
        own, theirs = (_Along(f, y).errors(f)[-1] for f in (flow, other))
        states = (flow(y), flow.lower(flow.trajectory(y, full=True)[-1] + theirs - own), other(y))

        def leave(z: Tensor) -> Tensor:
            for part in parts[where[0] + 1 :]:
                z = part(z)
            return z

        now, predicted, run = (leave(z) for z in states)
    return now, predicted, run


def measure_failure(flow: Flow, x: Tensor, factors: Sequence[int] = FACTORS) -> Failure:
    """The same by running the flow at every step size: what `predict_failure` is to be compared with."""
    flow, x = in_double(flow, x)

    exact = _exact(flow, x)

    def measured(twin: Flow) -> tuple[float, float]:
        try:
            u = unroll(twin, x)
        except SolveFailed:
            return math.inf, math.inf
        if u.finite_until < u.depth:
            return math.inf, math.inf
        return _largest(u), _relative([state[0] - y for state, y in zip(u.states, exact)], exact)

    return _scan(flow, x, factors, measured)


def _exact(flow: Flow, x: Tensor) -> list[Tensor]:
    """The exact solution at the knots."""
    with torch.no_grad():
        states = [flow.lift(x)]
        for n, piece in enumerate(flow.march.pieces(flow.theta())):
            ends = [flow.knots[n], flow.knots[n + 1]]
            states.append(_solution(flow.march.rhs(n, piece), states[-1], ends)[-1])
    return states


def _solution(rhs: Rhs, y: State, times: Any) -> State:
    return solve(rhs, y, times, "dopri8", rtol=1e-8, atol=1e-10, gradient="autograd").y


def _resolved(flow: Flow, x: Tensor) -> int:
    """Steps per knot interval with h |J| <= 1 at the knots, where rk4 is as good as the exact flow."""
    width, largest = abs(flow.knots[1] - flow.knots[0]), 0.0
    states = _exact(flow, x)
    for n, piece in enumerate(flow.march.pieces(flow.theta())):
        rhs = flow.march.rhs(n, piece)
        for t, y in ((flow.knots[n], states[n]), (flow.knots[n + 1], states[n + 1])):
            J = jacobian(lambda parts, t=t, rhs=rhs: (rhs(t, parts[0]),), (y,), y[0].numel())  # type: ignore[misc]
            largest = max(largest, float(torch.linalg.matrix_norm(J, ord=2).max()))
    return max(_POINTS, math.ceil(width * largest))


def _relative(errors: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    way = max(float((y - exact[0]).norm()) for y in exact)
    worst = max(float(e.norm()) for e in errors)
    return worst / way if math.isfinite(worst) else math.inf


def _scan(flow: Flow, x: Tensor, factors: Sequence[int], look: Callable[[Flow], tuple[float, float]]) -> Failure:
    if flow.adaptive:
        raise BadInput(
            f"{name_of(flow)} chooses its own steps here, so there is no h at which it fails; use "
            f"with_integrator({name_of(flow)!r}, steps={flow.steps})."
        )
    if "second_order" in flow.integrator.needs:
        raise Incompatible(
            f"{name_of(flow)} steps y'' = f without velocities, so its perturbations are not those of (y, v); "
            'use with_integrator("verlet"), which has the same positions.'
        )
    if not factors or min(factors) < 1:
        raise BadInput(f"factors are whole numbers of steps per knot interval such as (1, 2, 4), got {factors!r}.")
    steps = tuple(sorted(set(factors)))
    twins = [flow.with_integrator(flow.integrator, steps=m * flow.steps) for m in steps]
    exact, _ = look(flow.with_integrator("rk4", steps=_resolved(flow, x) * flow.steps))
    growth, deviation = zip(*map(look, twins))
    return Failure(tuple(abs(twin.h) for twin in twins), steps, growth, deviation, exact)


def _largest(u: Unrolled) -> float:
    found = sensitivity(u)
    worst = max(float(found.backward.max()), float(found.forward.max()))
    return math.inf if math.isnan(worst) else worst


# ------------------------------------------------------------------------------------- the equation of perturbations


def _terms(flow: Flow) -> int:
    """Corrections of the modified equation: two, and the third of a symmetric splitting, whose second is zero.

    Of methods of order 4 and more one: the next takes the 20 trees with six vertices.
    """
    if flow.integrator.order >= 4:
        return 1
    return 3 if flow.integrator.symplectic and flow.integrator.order == 2 else 2


class _Along:
    """The exact solution of a flow's field from x (P, ...), and the growth of perturbations along it."""

    def __init__(self, flow: Flow, x: Tensor) -> None:
        self._pieces = flow.march.pieces(flow.theta())
        self._tables: list[_Table] = []
        self._h, equation = flow.h, flow.modified_equation(_terms(flow))
        with torch.no_grad():
            y = flow.lift(x)
            self._start = torch.zeros_like(y.flatten(1))
            for n, piece in enumerate(self._pieces):
                rhs = flow.march.rhs(n, piece)
                times = torch.linspace(flow.knots[n], flow.knots[n + 1], _POINTS + 1, dtype=torch.float64)
                states = _solution(rhs, y, times)
                self._tables.append(_Table(flow, piece, rhs, times.tolist(), states, equation.by_power(n)))
                y = states[-1]

    def expected(self, flow: Flow) -> tuple[float, float]:
        """(growth, deviation) under this integrator and these steps."""
        layers: list[Layer] = []
        states: list[Parts] = [(self._start,)]
        with torch.no_grad():
            for n, table in enumerate(self._tables):
                layers.append(Layer(_linear(flow, n, self._pieces[n], table), _interval(flow, n, table)))
                states.append(layers[-1].run(states[-1]))
        growth = _largest(Unrolled(flow, self._start, tuple(layers), tuple(states), lambda y: y))
        return growth, self._deviation(flow, layers)

    def _deviation(self, flow: Flow, layers: Sequence[Layer]) -> float:
        return _relative(self.errors(flow, layers), [self._tables[0].states[0], *(t.states[-1] for t in self._tables)])

    def errors(self, flow: Flow, layers: Sequence[Layer] | None = None) -> list[State]:
        """y_h - y at the knots to first order: the same steps from 0, driven by the corrections of their equation."""
        shape = self._tables[0].states[0].shape
        parts: Parts = (self._start,)
        out = [self._start.reshape(shape)]
        with torch.no_grad():
            for n, table in enumerate(self._tables):
                run = layers[n].run if layers else _linear(flow, n, self._pieces[n], table)
                table.drive(flow.h / self._h)
                parts = run(parts)
                table.drive(0.0)
                out.append(parts[0].reshape(shape))
        return out


class _Table:
    """J(t, y(t)) over one knot interval, linear between the points where it was taken: a right-hand side J w.

    w: (C P, D), C copies of the P samples; parts of f have Jacobians of their own
    """

    tape = mask = tolerance = path = None

    def __init__(
        self,
        flow: Flow,
        piece: Piece,
        rhs: Rhs,
        times: list[float],
        states: Tensor,
        by_power: Callable[[Time, State], dict[int, State]],
    ) -> None:
        self.rhs, self.counts, self.workspace = rhs, Counter[str](), dict[str, Any]()
        self._start, self._width, self.states = times[0], times[-1] - times[0], states
        names = ("explicit", "implicit") if "split" in flow.integrator.needs else ("__call__",)
        moving = any(not flow.march.depths[k].constant for k in piece if k in flow.march.depths)
        self._found = {name: _jacobians(getattr(rhs, name), times, states, moving) for name in names}
        self._slopes = [rhs(t, y).flatten(1) for t, y in zip(times[:3], states)]
        self.driven = 0.0
        if moving:
            rows = [by_power(t, y) for t, y in zip(times[::_COARSE], states[::_COARSE])]  # dear: jvps of weights too
            self._corrections = {q: torch.stack([row[q] for row in rows]).flatten(2) for q in rows[0] if q}
        else:
            whole = by_power(times[0], states.flatten(0, 1))
            self._corrections = {q: d.reshape(states.shape).flatten(2) for q, d in whole.items() if q}

    def drive(self, ratio: float) -> None:
        """Add f_h - f along the solution for the step ratio h0; nothing for 0."""
        self.driven = ratio
        self._found["force"] = torch.stack([ratio**q * d for q, d in self._corrections.items()]).sum(0)

    def _at(self, name: str, t: float) -> Tensor:
        J = self._found[name]
        s = min(max((t - self._start) / self._width, 0.0), 1.0) * (len(J) - 1)
        i = min(int(s), len(J) - 2)
        return J[i] + (s - i) * (J[i + 1] - J[i])

    def _apply(self, J: Tensor, w: State) -> State:
        return torch.einsum("pij,cpj->cpi", J, w.reshape(-1, len(J), w.shape[-1])).reshape(len(w), -1)

    def __call__(self, t: Time, w: State) -> State:
        out = self._apply(self._at("__call__", float(t)), w)
        return out + self._at("force", float(t)) if self.driven else out

    def explicit(self, t: Time, w: State) -> State:
        out = self._apply(self._at("explicit", float(t)), w)
        return out + self._at("force", float(t)) if self.driven else out

    def implicit(self, t: Time, w: State) -> State:
        return self._apply(self._at("implicit", float(t)), w)

    def kick(self, t: Time, q: State) -> State:
        half = q.shape[-1]
        return self._apply(self._at("__call__", float(t))[:, half:, :half], q) + self._half(float(t), 1)

    def drift(self, t: Time, p: State) -> State:
        half = p.shape[-1]
        return self._apply(self._at("__call__", float(t))[:, :half, half:], p) + self._half(float(t), 0)

    def _half(self, t: float, which: int) -> Tensor | float:
        return self._at("force", t).chunk(2, dim=-1)[which] if self.driven else 0.0

    def before(self, flow: Flow, w: State) -> Parts:
        """What a two-step method remembers when it starts, relative to the solution: its y_{-1} - y(t - h) there."""
        method, h = flow.integrator, flow.h
        if not self.driven or not isinstance(method, TwoStep):
            return ()
        missed = (h if method.start == "paper" else 0.0) * self._slopes[0]
        bend = (4.0 * self._slopes[1] - 3.0 * self._slopes[0] - self._slopes[2]) * (_POINTS / (2.0 * self._width))
        return (w + missed - h * h / 2.0 * bend,)

    def jacobian(self, t: Time, w: State) -> Tensor:
        """J for every copy."""
        J = self._at("__call__", float(t))
        return J.repeat(len(w) // len(J), 1, 1)

    def split(self, w: State) -> tuple[State, State]:
        q, p = w.chunk(2, dim=-1)
        return q, p

    def join(self, q: State, p: State) -> State:
        return torch.cat((q, p), dim=-1)


def _jacobians(f: Callable[[Time, State], State], times: Sequence[float], states: Tensor, moving: bool) -> Tensor:
    """(G, P, D, D) at G points of the solution; in one pass where t enters in no other way than by the field."""
    points, samples, size = len(times), states.shape[1], states[0, 0].numel()
    if moving:
        rows = [jacobian(lambda parts, t=t: (f(t, parts[0]),), (y,), size) for t, y in zip(times, states)]  # type: ignore[misc]
        return torch.stack(rows)
    found = jacobian(lambda parts: (f(times[0], parts[0]),), (states.flatten(0, 1),), size)
    return found.reshape(points, samples, size, size)


def _linear(flow: Flow, n: int, piece: Piece, table: _Table) -> Callable[[Parts], Parts]:
    """The steps of knot interval n on perturbations."""
    march, start, h = flow.march, flow.knots[n], flow.h

    def run(parts: Parts) -> Parts:
        y, carry = parts[0], tuple(parts[1:])
        for i in range(flow.substeps):
            fresh = i == 0 and (n == 0 or march.restart)
            mark = Mark(n, start + i * h, h, fresh)
            memory = table.before(flow, y) if fresh else carry
            step = march.step(mark, table, piece, y, memory)  # type: ignore[arg-type]
            y, carry = step.y, step.carry
        return (y, *carry) if flow.integrator.history else (y,)

    return run


def _interval(flow: Flow, n: int, table: _Table) -> Interval:
    a, b = flow.knots[n], flow.knots[n + 1]
    return Interval(flow, n, a, b - a, flow.h, flow.substeps, table.rhs, {})
