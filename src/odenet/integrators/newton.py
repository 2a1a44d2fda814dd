"""Newton's iteration for the stages of implicit methods.

    k_i = f(t_i, v_i + h sum_j a_ij k_j),  i = 1 ... s

One stage (s = 1) of a diagonally implicit method, a BDF step or all stages of a Gauss method are of this form. The
iteration sees detached values only; afterwards the solution is attached to the graph by the implicit function theorem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import StepFailed
from ..types import Time
from .attach import attached
from .krylov import gmres
from .stages import Memory, Stages, factorise, recall, transformed

KAPPA = 0.01  # of the tolerance, what is left of the iteration's error (Hairer & Wanner II, section IV.8)
CHORDS = {True: 10, False: 20}  # iterations with one Jacobian: to a tolerance, to rounding
NEWTONS = 30  # iterations with a new Jacobian each, the last resort of a fixed step
SLOW = {True: 0.1, False: 0.01}  # contraction above which the next solve takes a new Jacobian
FASTEST = 0.05  # contraction that is believed: one small update may be chance
LINEAR = 1e-4  # relative residual to which GMRES solves the system of one iteration


def solve(stages: Stages, start: Tensor | None = None, memory: Memory | None = None) -> Tensor:
    """k of the stage equations, (s, *y.shape), attached to the graph where there is one.

    start:  first guess of k, in the same shape; None: 0
    memory: what `recall` gave, where the solves of a step share it
    A solution on `stages.f.tape` is taken without an iteration, so that a replay has the values of its run.
    With f.tolerance = (rtol, atol) the iteration ends KAPPA of it away, else at rounding. Not finite where f is not.
    Raises StepFailed where it does not contract; with a step size per sample, samples that failed are NaN, and it
    raises where all did. Hairer & Wanner II, section IV.8.
    """
    grad, plain = torch.is_grad_enabled(), stages.detached()
    memory = recall(stages.f, stages.y) if memory is None else memory
    zero = torch.zeros(len(stages.a), *stages.y.shape, dtype=stages.y.dtype, device=stages.y.device)
    watched = _Watched(plain, grad)
    tape = getattr(stages.f, "tape", None)
    if tape is not None and (known := tape.read()) is not None:
        return attached(stages, plain, known) if grad or transformed() or _in_graph(stages) else known
    with torch.no_grad():
        k = _search(watched, zero if start is None else start.detach(), zero, memory)
    if tape is not None and not transformed():
        tape.note(k)
    if not (watched.in_graph or _in_graph(stages) or transformed()):
        return k
    return attached(stages, plain, k)


class _Watched:
    """The equations as the iteration calls them: residuals without a graph, the first one looked at for one."""

    def __init__(self, stages: Stages, grad: bool) -> None:
        self.stages, self.in_graph = stages, False
        self._grad = grad

    def residual(self, k: Tensor) -> Tensor:
        with torch.set_grad_enabled(self._grad):
            r = self.stages.residual(k)
        self.in_graph = self.in_graph or r.requires_grad or _has_tangent(r)
        self._grad = False
        return r.detach()


def _has_tangent(x: Tensor) -> bool:
    return not transformed() and forward_ad.unpack_dual(x).tangent is not None


def _in_graph(stages: Stages) -> bool:
    tensors = [x for x in (stages.base, stages.h, *stages.times) if isinstance(x, Tensor)]
    return (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)) or any(map(_has_tangent, tensors))


class _Outcome(NamedTuple):
    """k after some iterations, which blocks (nb,) converged, and whether f was finite at the first guess."""

    k: Tensor
    done: Tensor
    iterations: int
    rate: float
    finite: bool


def _search(watched: _Watched, start: Tensor, zero: Tensor, memory: Memory) -> Tensor:
    iterations = 0
    for tried in _attempts(watched, start, zero, memory):
        iterations += tried.iterations
        if bool(tried.done.all()) and tried.finite:
            return tried.k
    return _unsolved(watched.stages, tried, iterations)


def _attempts(watched: _Watched, start: Tensor, zero: Tensor, memory: Memory) -> Iterator[_Outcome]:
    """With the remembered Jacobian, with a new one, and in a fixed step with one per stage and iteration."""
    stages = watched.stages
    if stages.dense and memory.serves(stages.h):
        yield _chord(watched, start, memory)
    for guess in (start,) if start is zero else (start, zero):
        if stages.dense:
            memory.renew(stages.first_slope(guess), stages.h)
        yield (tried := _chord(watched, guess, memory))
        if tried.finite:
            if stages.dense and stages.f.tolerance is None:
                yield _newton(watched, guess, memory)
            return


def _unsolved(stages: Stages, tried: _Outcome, iterations: int) -> Tensor:
    """NaN where f itself is not finite or, with a step size per sample, where a sample failed; else StepFailed."""
    if not tried.finite or (stages.several and bool(tried.done.any())):
        return torch.where(stages.spread(tried.done), tried.k, math.nan)
    t, h = _shown(stages.times[0]), _shown(stages.h)
    raise StepFailed(
        f"Newton's iteration for the stage at t = {t} of a step h = {h} did not converge in {iterations} iterations "
        f"(contraction {tried.rate:.2g}); take smaller steps: more of them, or an adaptive integrator such as "
        '"kvaerno5".'
    )


def _shown(x: Time) -> str:
    if not isinstance(x, Tensor):
        return f"{x:.6g}"
    low, high = float(x.min()), float(x.max())
    return f"{low:.6g}" if low == high else f"{low:.6g} ... {high:.6g}"


def _chord(watched: _Watched, k: Tensor, memory: Memory) -> _Outcome:
    """Simplified Newton with the Jacobian of `memory`; GMRES with the present one where blocks are large."""
    stages = watched.stages
    adaptive = stages.f.tolerance is not None
    if stages.dense:
        assert memory.blocks is not None
        blocks = memory.blocks.unsqueeze(0)
        factors = memory.factorised(stages.f, stages.a, stages.h, lambda: stages.matrix(blocks))
        out = _iterate(watched, k, lambda r, _: factors.solve(r), CHORDS[adaptive], memory.eta)
    else:
        out = _iterate(watched, k, lambda r, at: gmres(stages.operator(at), r, LINEAR), NEWTONS, memory.eta, True)
    memory.slow = out.rate > SLOW[adaptive]
    if 0 < out.rate < 1:
        memory.eta = min(out.rate / (1 - out.rate), 1.0)
    return out


def _newton(watched: _Watched, k: Tensor, memory: Memory) -> _Outcome:
    """Newton's iteration with the Jacobian of every stage in every iteration, which may grow for a while."""
    stages = watched.stages
    memory.slow = True

    def update(r: Tensor, at: Tensor) -> Tensor:
        return factorise(stages.f, stages.matrix(stages.slopes_at(at))).solve(r)

    return _iterate(watched, k, update, NEWTONS, 1.0, exact=True)


def _iterate(
    watched: _Watched,
    k: Tensor,
    solve_for: Callable[[Tensor, Tensor], Tensor],
    most: int,
    eta: float,
    exact: bool = False,
) -> _Outcome:
    """k <- k - M^{-1} r(k), every block until it has converged.

    A block has converged where the contraction q foretells an error q / (1 - q) |update| below the target, and is lost
    where its updates grow or will not get there in `most` iterations. Updates that do not shrink and are as small as
    rounding makes them are the end as well: of an iteration with the `exact` Jacobian any such, of a chord iteration,
    which may just be slow, only some units of the last place. A fixed step with the exact one may also grow.
    """
    stages = watched.stages
    patient = exact and stages.f.tolerance is None
    worst, finite = 0.0, True
    last: Tensor | None = None
    done = lost = torch.zeros(stages.blocks[0], dtype=torch.bool, device=k.device)
    rate = torch.full(done.shape, _first_rate(stages, eta), dtype=k.real.dtype, device=k.device)
    for n in range(1, most + 1):
        r = stages.flat(watched.residual(k))
        stages.f.counts["newton"] += 1
        if last is None:
            unknown = ~torch.isfinite(r).all(1)
            done, finite = done | unknown, not bool(unknown.any())
            k = k if finite else torch.where(stages.spread(unknown), math.nan, k)
        update = torch.where(stages.spread(done | lost), 0.0, stages.shaped(solve_for(r, k)))
        k = k - update
        moved = stages.flat(stages.moved(update)).abs()
        if last is None:
            scale, target, rounding, last_places = _scale(stages, moved)
        size, largest = (moved / scale).square().mean(1).sqrt(), moved.amax(1)
        rate = rate if last is None else (size / last).clamp_min(FASTEST)
        left = torch.where(rate < 1, rate / (1 - rate) * size, math.inf)
        small = (left <= target) | (size == 0)
        hopeless = ~torch.isfinite(size)
        if last is not None:
            small |= (rate > (0.25 if exact else 0.9)) & (largest <= (rounding if exact else last_places))
            hopeless |= (rate ** (most - n) * left > target) & (not patient)
        telling = torch.where(done | lost | (largest <= rounding), 0.0, rate) * (last is not None)
        done = done | (small & ~lost)
        lost = lost | (hopeless & ~done)
        over, anyone_lost, slowest = torch.stack(
            ((done | lost).all().to(rate), lost.any().to(rate), telling.max())
        ).tolist()
        worst = max(worst, slowest)
        if over or (anyone_lost and not stages.several):
            return _Outcome(k, done, n, worst, finite)
        last = size
    return _Outcome(k, done, most, worst, finite)


def _first_rate(stages: Stages, eta: float) -> float:
    """The contraction to expect before two updates are known: to a tolerance, that of the solve before."""
    eta = max(eta, 1e-16) ** 0.8 if stages.f.tolerance is not None else 1.0
    return eta / (1 + eta)


def _scale(stages: Stages, moved: Tensor) -> tuple[Tensor, float, Tensor, Tensor]:
    """The unit of updates (nb, s n), how many of it may be left, and per block what rounding may cause and must.

    moved: the first update, the only size that a state at 0 has
    """
    s = len(stages.a)
    y = stages.flat(stages.y.unsqueeze(0)).abs().repeat(1, s)
    base = stages.flat(stages.base.expand(s, *stages.y.shape)).abs()
    eps, tiny = torch.finfo(y.dtype).eps, torch.finfo(y.dtype).tiny
    largest = torch.maximum(y, base).amax(1, keepdim=True)
    largest = torch.where(largest == 0, moved.amax(1, keepdim=True), largest).clamp_min(tiny / eps**2)
    rounding, last_places = (largest * eps ** (2 / 3)).squeeze(1), (largest * 20 * eps).squeeze(1)
    if stages.f.tolerance is None:
        return largest.expand_as(y), 2 * eps, rounding, last_places
    rtol, atol = stages.f.tolerance
    return torch.maximum(atol + rtol * y, 1e3 * eps * largest), KAPPA, rounding, rounding
