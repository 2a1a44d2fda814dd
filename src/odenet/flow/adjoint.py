"""Gradients by other roads than the steps themselves: adjoint equations, binomial checkpoints, forward mode."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible, SolveFailed
from ..fields import wrap
from ..integrators import Integrator
from ..integrators import resolve as integrator_of
from ..integrators.dense import hermite
from ..types import Carry, Params, State
from .march import March, Piece
from .pullback import Sum, Tape, guarded, pull, split, transformed
from .record import Mark, Record, Tolerance

# ---- adjoint equations -----------------------------------------------------------------------------------------------


class Adjoint(torch.autograd.Function):
    """Forward: run. Backward: a' = -J^T a, g' = -(df/dtheta)^T a from the last output time to the first, where y comes
    from running y' = f backwards beside them ("continuous") or from the interpolated forward run ("interpolated")."""

    @staticmethod
    def forward(ctx, how, march, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        record.keep = "step" if how.interpolates else ""
        states, _, _ = march.run(y0, dict(zip(names, values)), record=record, watch=watch)
        ctx.how, ctx.march, ctx.save, ctx.record, ctx.names = how, march, save, record, names
        ctx.nodes = [y for _, y, _ in record.kept]
        ctx.count = len(states)
        ctx.save_for_backward(*states, *values)
        return torch.stack(states) if save else states[-1].clone()

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def, override]
        how, march = ctx.how, ctx.march
        if transformed():
            raise Incompatible(f"gradient {how.name!r} is not for torch.func transforms; use gradient='discrete'.")
        saved = ctx.saved_tensors
        states, values = saved[: ctx.count], saved[ctx.count :]
        theta, own = dict(zip(ctx.names, values)), values[len(ctx.names) :]
        with torch.no_grad():
            outputs = _outputs(ctx.record.marks)
            g = list(g) if ctx.save else [*([None] * (len(states) - 1)), g]
            sweep = _Sweep(how, march, march.pieces(theta), own, Sum(march, theta, own))
            sweep.nodes = (ctx.record.marks, ctx.nodes, states[-1]) if how.interpolates else None
            a = torch.zeros_like(states[0])
            if how.solver is not None:
                outputs = [o for o in outputs if how.solver.lands_on(o[1])]
            order = sorted(outputs, key=lambda o: o[1], reverse=march.knots[-1] > march.knots[0])
            earlier = [*order[1:], (0, march.knots[0], 0)]
            for (j, t1, n), (_, t0, _) in zip(order, earlier):
                a = a if g[j] is None else a + g[j]
                a = sweep.across(n, t1, t0, states[j], a) if t1 != t0 else a
            a = a if g[0] is None else a + g[0]
            grads = (a, *sweep.total.result())
        return (None,) * 6 + guarded(how.name, grads, (states[0], *values))


def _outputs(marks: Sequence[Mark]) -> list[tuple[int, float, int]]:
    """(position among the states, time, knot interval) of every output."""
    found, j = [], 1
    for mark in marks:
        for theta in (*mark.stops, *mark.crossings):
            found.append((j, mark.t + theta * mark.h, mark.n))
            j += 1
    return found


class _Path:
    """y(t) of the forward run inside knot interval n, by cubic Hermite interpolation of its steps."""

    def __init__(self, marks: Sequence[Mark], nodes: Sequence[State], last: State, n: int, f: Any) -> None:
        inside = [k for k, m in enumerate(marks) if m.n == n]
        end = inside[-1] + 1
        self.times = [marks[k].t for k in inside] + [marks[end - 1].t + marks[end - 1].h]
        self.nodes = [nodes[k] for k in inside] + [nodes[end] if end < len(nodes) else last]
        self.sign = 1.0 if marks[0].h > 0 else -1.0
        self.f = f
        self.slopes: dict[int, State] = {}

    def __call__(self, t: float) -> State:
        i = bisect_right(self.times, self.sign * t, key=lambda s: self.sign * s)
        i = min(max(i, 1), len(self.times) - 1)
        with torch.no_grad():
            for k in (i - 1, i):
                if k not in self.slopes:
                    self.slopes[k] = self.f(self.times[k], self.nodes[k])
            ends = [(self.times[k], self.nodes[k], self.slopes[k]) for k in (i - 1, i)]
            return hermite(*ends[0], *ends[1], t)


class _Sweep:
    """The backward integration over one output interval after another."""

    def __init__(self, how: Any, march: March, pieces: list[Piece], own: Sequence[Tensor], total: Sum) -> None:
        self.how, self.march, self.pieces, self.own, self.total = how, march, pieces, own, total
        self.nodes: tuple[list[Mark], list[State], State] | None = None

    def across(self, n: int, t1: float, t0: float, y1: State, a1: State) -> State:
        """The costate at t0 from that at t1; gradients of the weights are added to the total."""
        piece = {
            k: tuple(v.detach().requires_grad_(v.is_floating_point()) for v in vs) for k, vs in self.pieces[n].items()
        }
        lent = all(x is y for x, y in zip(self.march.own, self.own))
        mine = [w if lent and w.requires_grad else w.detach().requires_grad_() for w in self.own]
        rhs = self.march.rhs(n, piece if lent else {**piece, **self.march.borrowed(mine)})
        leaves = [v for vs in piece.values() for v in vs if v.requires_grad] + [w for w in mine if w.requires_grad]
        size, path = y1.numel(), None if self.nodes is None else _Path(*self.nodes, n, rhs)
        lead = size if path is not None else 2 * size

        def slopes(t: float, z: Tensor) -> Tensor:
            a = z[lead - size : lead].reshape(y1.shape)
            y = path(t) if path is not None else z[:size].reshape(y1.shape)
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                f = rhs(t, y)
                found = torch.autograd.grad(f, [y, *leaves], a, allow_unused=True)
            parts = [f.detach()] if path is None else []
            for x, d in zip([y, *leaves], found):
                parts.append(torch.zeros_like(x) if d is None else -d)
            return torch.cat([p.reshape(-1).to(z.dtype) for p in parts])

        start = ([] if path is not None else [y1]) + [a1, *(torch.zeros_like(w) for w in leaves)]
        z = torch.cat([s.reshape(-1).to(y1.dtype) for s in start])
        if (solver := self.how.solver) is not None:
            z = solver(slopes, t1, t0, z, [s.shape for s in start])
        else:
            z = self._march(slopes, t1, t0, z, lead)
        rest = z[lead:].split([w.numel() for w in leaves])
        grads = iter([(r if w.is_complex() else r.real).reshape(w.shape).to(w.dtype) for r, w in zip(rest, leaves)])
        gpiece = {k: tuple(next(grads) if v.requires_grad else None for v in vs) for k, vs in piece.items()}
        self.total.add(n, gpiece, [next(grads) if w.requires_grad else None for w in mine])  # type: ignore[arg-type]
        return z[lead - size : lead].reshape(y1.shape)

    def _march(self, slopes: Any, t1: float, t0: float, z: Tensor, lead: int) -> Tensor:
        how, forward = self.how, self.march.tolerance
        method: Integrator = self.march.integrator if how.integrator is None else integrator_of(how.integrator)
        tolerance = None
        if method.adaptive and forward is not None:
            rtol, atol = how.rtol or forward.rtol, how.atol or forward.atol
            leading = lead if how.seminorm else None
            tolerance = Tolerance(rtol, atol, forward.max_steps, leading=leading)
        back = March(wrap(slopes), method, {}, (t1, t0), self.march.substeps, tolerance)
        states, _, record = back.run(z, {})
        if record.status:
            raise SolveFailed(
                f"the adjoint equations stopped at t = {record.t:.6g} ({record.status}); gradient='discrete' needs no "
                "solve backwards."
            )
        return states[-1]


# ---- binomial checkpoints --------------------------------------------------------------------------------------------


class Binomial(torch.autograd.Function):
    """Forward: run and keep y0. Backward: the steps are redone from at most `budget` kept states."""

    @staticmethod
    def forward(ctx, budget, march, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        states, _, _ = march.run(y0, dict(zip(names, values)), record=record, watch=watch)
        ctx.budget, ctx.march, ctx.save, ctx.record, ctx.names = budget, march, save, record, names
        ctx.save_for_backward(y0, *values)
        return torch.stack(states) if save else states[-1].clone()

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def, override]
        if transformed():
            raise Incompatible("gradient 'binomial' is not for torch.func transforms; use gradient='discrete'.")
        march, (y0, *values) = ctx.march, ctx.saved_tensors
        theta, own = dict(zip(ctx.names, values)), values[len(ctx.names) :]
        with torch.no_grad():
            outs, gy = split(g, ctx.save, ctx.record.marks)
            back = _Revolve(march, ctx.record.marks, march.pieces(theta), own, Sum(march, theta, own), outs)
            gy, _ = back.sweep(0, len(ctx.record.marks), y0, (), ctx.budget, gy, ())
            gy = torch.zeros_like(y0) if gy is None else gy
            grads = (gy + g[0] if ctx.save else gy, *back.total.result())
        return (None,) * 6 + guarded("binomial", grads, (g, y0, *values))


class _Revolve:
    def __init__(self, march: March, marks: Any, pieces: Any, own: Any, total: Sum, outs: Any) -> None:
        self.march, self.marks, self.pieces, self.own, self.total, self.outs = march, marks, pieces, own, total, outs

    def sweep(self, low: int, high: int, y: State, carry: Carry, budget: int, gy: Any, gcarry: Any) -> tuple[Any, Any]:
        """Gradients at mark `low` from those after mark `high`, keeping `budget` states beside (y, carry)."""
        while high - low > 1:
            middle = low + cut(high - low, budget) if budget else high - 1
            y1, c1 = self._advance(low, middle, y, carry)
            gy, gcarry = self.sweep(middle, high, y1, c1, budget - 1 if budget else 0, gy, gcarry)
            high = middle
        if high > low:
            mark = self.marks[low]
            memory = () if mark.fresh else carry
            gy, gcarry, gpiece, gown = pull(
                self.march, [mark], self.pieces[mark.n], self.own, (y, memory), (gy, gcarry, self.outs[low])
            )
            self.total.add(mark.n, gpiece, gown)
        return gy, gcarry

    def _advance(self, low: int, high: int, y: State, carry: Carry) -> tuple[State, Carry]:
        for mark in self.marks[low:high]:
            piece = self.pieces[mark.n]
            lent = {} if all(a is b for a, b in zip(self.march.own, self.own)) else self.march.borrowed(self.own)
            step = self.march.step(
                mark, self.march.rhs(mark.n, {**piece, **lent}), piece, y, () if mark.fresh else carry
            )
            y, carry = step.y, step.carry
        return y, carry


@lru_cache(maxsize=4096)
def cut(steps: int, budget: int) -> int:
    """After how many steps to keep the next state: Griewank & Walther 2000 (revolve), fewest steps redone.

    With s states and each step redone at most r times, beta(s, r) = C(s + r, s) steps can be reversed.
    """
    s, r = budget + 1, 0  # the state that the stretch starts from is kept too
    while _beta(s, r) < steps:
        r += 1
    b1, b2, b3, b4, b5 = _beta(s, r - 1), _beta(s - 1, r - 1), _beta(s - 2, r - 1), _beta(s, r - 2), _beta(s - 3, r)
    if steps <= b1 + b3:
        m = b4
    elif steps >= _beta(s, r) - b5:
        m = b1
    else:
        m = steps - b2 - b3
    return min(max(m, 1), steps - 1)


def _beta(s: int, r: int) -> int:
    return math.comb(s + r, s) if s >= 0 and r >= 0 else 0


# ---- forward mode ----------------------------------------------------------------------------------------------------

DIRECTIONS = 2048  # more scalars than this are a job for a reverse method


class Forward(torch.autograd.Function):
    """Forward: run, then carry a tangent for every scalar of y0, theta and the own weights along the same steps."""

    @staticmethod
    def forward(ctx, march, save, record, watch, names, y0, *values):  # type: ignore[no-untyped-def, override]
        record.tape = Tape() if march.integrator.implicit else None
        states, _, _ = march.run(y0, dict(zip(names, values)), record=record, watch=watch)
        if record.tape is not None:
            record.tape.close(record.marks)
        inputs = [y0, *values]
        wanted = [k for k, needed in enumerate(ctx.needs_input_grad[5:]) if needed]
        count = sum(inputs[k].numel() for k in wanted)
        if count > DIRECTIONS:
            raise BadInput(
                f"gradient 'forward' carries one tangent per scalar, and y0 and weights have {count}; use "
                "gradient='discrete' (up to a few dozen scalars forward mode is the leaner one)."
            )
        out = torch.stack(states) if save else states[-1].clone()
        ctx.shapes, ctx.wanted, ctx.total = [x.shape for x in inputs], wanted, len(inputs)
        ctx.save_for_backward(*_tangents(march, record, names, inputs, wanted, save), *inputs)
        record.tape = None
        return out

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def, override]
        tangents, inputs = ctx.saved_tensors[: len(ctx.wanted)], ctx.saved_tensors[len(ctx.wanted) :]
        grads: list[Any] = [None] * ctx.total
        for k, jacobian in zip(ctx.wanted, tangents):
            flat = (jacobian.conj() * g).flatten(1).sum(1)
            flat = flat if inputs[k].is_complex() else flat.real
            grads[k] = flat.reshape(ctx.shapes[k])
        return (None,) * 5 + guarded("forward", grads, (g, *inputs))


def _tangents(
    march: March, record: Record, names: Sequence[str], inputs: list[Tensor], wanted: list[int], save: bool
) -> list[Tensor]:
    """d states / d x for every wanted input x, (x.numel(), *states.shape)."""

    def replayed(*xs: Tensor) -> Tensor:
        given = list(inputs)
        for k, x in zip(wanted, xs):
            given[k] = x
        y, values = given[0], given[1:]
        theta: Params = dict(zip(names, values))
        lent = march.borrowed(values[len(names) :])
        states, pieces = [y], march.pieces(theta)
        carry: Carry = ()
        for mark in record.marks:
            before: Carry = () if mark.fresh else carry
            y, carry, outs = march.replay([mark], {**pieces[mark.n], **lent}, y, before, record.tape)
            states += outs
        return torch.stack(states) if save else y

    xs = [inputs[k].detach() for k in wanted]
    out = []
    for j, x in enumerate(xs):
        unit = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(x.numel(), *x.shape)

        def along(v: Tensor, j: int = j) -> Tensor:
            zeros = [torch.zeros_like(z) for z in xs]
            zeros[j] = v
            return torch.func.jvp(replayed, tuple(xs), tuple(zeros))[1]

        out.append(_each(along, unit))
    return out


def _each(along: Any, unit: Tensor) -> Tensor:
    import warnings

    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.func.vmap(along)(unit)
        except RuntimeError as problem:  # steps that depend on values (Newton) cannot be batched
            if "vmap" not in str(problem) and "data-dependent" not in str(problem):
                raise
        return torch.stack([along(v) for v in unit])
