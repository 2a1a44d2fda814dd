"""The steps of a march as rows of equal layers, so that layers far apart in depth are evaluated together.

Row i is x_{i+1} = Phi_i(x_i): one step of an explicit one-step method with weights of its own. `blocks(c)` folds n
steps into n/c chunks whose j-th steps run as one: states (M, *y.shape), dense weights (M, rows, cols), one bmm each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..depth import PiecewiseLinear
from ..errors import Incompatible, OdenetError
from ..fields import Rhs
from ..integrators import Integrator
from ..types import Params, State
from .march import CLOCK, COEF, MASK, March
from .pullback import reaches, transformed
from .replay import Tape, write

Together = Callable[[State], State]  # one step of all chunks


@dataclass(frozen=True)
class Rows:
    """n steps of size h from the times t (n,), weights (n, k, *shape) by name: k = 2 ends of a step where they are
    linear in it, else k = 1. `shared` are those that all steps have in common, `moving` the names with k = 2.

    works: per shape of the states, whether stacks of dense weights may be used in the place of vmap
    """

    march: March
    integrator: Integrator
    h: float
    t: Tensor
    weights: Params
    shared: Params
    works: dict[Any, bool] = field(default_factory=dict, repr=False)

    @cached_property
    def _plain(self) -> bool:
        """Whether there are only weights that are constant in a step."""
        return all(v.shape[1] == 1 and k != MASK and not k.startswith(COEF) for k, v in self.weights.items())

    def __len__(self) -> int:
        return len(self.t)

    def step(self, t: Any, y: State, held: dict[str, tuple[Tensor, ...]]) -> State:
        """One step with the weights `held`."""
        unneeded = self.march._unneeded if self.integrator is self.march.integrator else {}
        if self._plain:
            rhs = Rhs(self.march.field, {**self.shared, **{k: w for k, (w,) in held.items()}})
            rhs._unseen = False  # its shape was checked before, see `looked_at`
            return self.integrator.step(rhs, t, y, self.h, (), None, **unneeded).y
        coef = {k[len(COEF) :]: v[0] for k, v in held.items() if k.startswith(COEF)} or None
        mask = held[MASK][0] if MASK in held else None
        seen = {k: v for k, v in held.items() if k != MASK and not k.startswith(COEF)}
        fixed = {**self.shared, **{k: v[0] for k, v in seen.items() if len(v) == 1}}
        moving = {k: v for k, v in seen.items() if len(v) > 1}

        def at(s: Any) -> Params:
            s = (s - t) / self.h
            return {**fixed, **{k: (1.0 - s) * a + s * b for k, (a, b) in moving.items()}}

        rhs = Rhs(self.march.field, at if moving else fixed, mask)
        rhs._unseen = False
        return self.integrator.step(rhs, t, y, self.h, (), coef, **unneeded).y

    # ---- one by one ----------------------------------------------------------------------------------------------

    def singles(self, like: State) -> list[Together]:
        """Every step for itself."""
        if not self._dense(like):
            parts = {k: _columns(v, 0) for k, v in self.weights.items()}
            return [self._alone(t, {k: v[i] for k, v in parts.items()}) for i, t in enumerate(self.t.tolist())]
        times = self.t.to(like.device, like.real.dtype)
        return self._written(times.unbind(0), {k: _columns(v, 0) for k, v in self.weights.items()})

    def _alone(self, t: float, held: dict[str, tuple[Tensor, ...]]) -> Together:
        return lambda y: self.step(t, y, held)

    # ---- together ------------------------------------------------------------------------------------------------

    def blocks(self, c: int, like: State) -> list[Together]:
        """For j = 0..c-1 the j-th steps of all n/c chunks, as one map of states (n/c, *y.shape)."""
        dense = self._dense(like)
        times = self.t.to(like.device, like.real.dtype).reshape(-1, c)
        parts = {}
        for name, v in self.weights.items():
            v = v.reshape(-1, c, *v.shape[1:])
            if dense and v.dim() < 5:  # numbers and vectors stand beside the samples
                v = v.reshape(*v.shape[:3], *[1] * (5 - v.dim()), *v.shape[3:])
            parts[name] = _columns(v, 1)
        if dense:
            return self._written(times[:, :, None, None].unbind(1), parts)

        def step(j: int) -> Together:
            t, held = times[:, j], {k: v[j] for k, v in parts.items()}
            return lambda y: self._mapped(t, y, held)

        return [step(j) for j in range(c)]

    def _written(self, times: Sequence[Tensor], parts: dict[str, list[tuple[Tensor, ...]]]) -> list[Together]:
        """Steps that make the calls of the first one that is taken, with times and weights of their own."""
        counts = {k: len(v[0]) for k, v in parts.items()}
        tapes: list[Tape] = []

        def whole(t: Tensor, y: State, *weights: Tensor) -> State:
            rest = iter(weights)
            return self.step(t, y, {k: tuple(islice(rest, n)) for k, n in counts.items()})

        def run(t: Tensor, y: State, weights: list[Tensor]) -> State:
            if tapes:
                return tapes[0](t, y, *weights)
            graph = torch.is_grad_enabled()
            with torch.enable_grad():  # a method may write over states where none is wanted
                out, tape = write(whole, t, y, *weights)
            tapes.append(tape)
            return out if graph else out.detach()

        def step(j: int, t: Tensor) -> Together:
            weights = [w for v in parts.values() for w in v[j]]
            return lambda y: run(t, y, weights)

        return [step(j, t) for j, t in enumerate(times)]

    def _mapped(self, t: Tensor, y: State, held: dict[str, tuple[Tensor, ...]]) -> State:
        try:
            return torch.func.vmap(self.step)(t, y, held)
        except (RuntimeError, TypeError, ValueError) as problem:
            if isinstance(problem, OdenetError):
                raise
            who = getattr(getattr(self.march.field, "inner", None), "__name__", type(self.march.field).__name__)
            raise Incompatible(
                f"the field {who} cannot be evaluated at many depths at once ({str(problem).splitlines()[0][:90]}); "
                "write it with torch functions that vmap takes, t being a tensor, or use gradient='autograd'."
            ) from None

    def _dense(self, like: State) -> bool:
        """Whether stacks, and calls written down, give what vmap gives: tried once per shape on random numbers."""
        if like.dim() != 2 or any(v.dim() > 4 or k == MASK for k, v in self.weights.items()):
            return False
        key = (self.integrator.name, self.march.field.training, like.shape, like.dtype, like.device, *self.weights)
        if key not in self.works:
            self.works[key] = self._agree(like)
        return self.works[key]

    def _agree(self, like: State) -> bool:
        """On values and derivatives, at numbers that the calls were not written down with."""
        M = next(m for m in (3, 5, 7) if m not in like.shape)  # an axis that is taken for another one shows
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).add(0.1).to(like).requires_grad_()

        shared = {k: v.detach().requires_grad_(v.is_floating_point() or v.is_complex()) for k, v in self.shared.items()}
        some, t, y = replace(self, shared=shared), drawn(2, M).detach(), drawn(2, M, *like.shape)
        ws = {k: drawn(2, M, *v.shape[1:]) for k, v in self.weights.items()}
        leaves = [y, *ws.values(), *(v for v in shared.values() if v.requires_grad)]

        def probed(out: Tensor, seed: Tensor) -> list[Tensor]:
            return [out.detach(), *torch.autograd.grad(out, leaves, seed, retain_graph=True, materialize_grads=True)]

        def near(found: list[Tensor], wanted: list[Tensor]) -> bool:
            size = max(float(w.abs().amax()) for w in wanted if w.numel())
            off = [float((f - w).abs().amax()) for f, w in zip(found, wanted) if w.numel()]
            return found[0].shape == wanted[0].shape and max(off) <= 1e4 * torch.finfo(like.dtype).eps * size

        def stack(v: Tensor) -> Tensor:
            return v.reshape(M, *[1] * (3 - v.dim()), *v.shape[1:])

        wide = {k: [tuple(map(stack, v.unbind(1))) for v in w.unbind(0)] for k, w in ws.items()}
        thin = {k: [v[0].unbind(0) for v in w.unbind(0)] for k, w in ws.items()}
        seed = drawn(M, *like.shape).detach()
        first = torch.cat((seed[:1], torch.zeros_like(seed[1:])))
        with torch.enable_grad():
            true = some._mapped(t[1], y[1], {k: w[1].unbind(1) for k, w in ws.items()})
            try:
                together, alone = (
                    [step(x) for step, x in zip(some._written(times.unbind(0), parts), states.unbind(0))][1]
                    for times, states, parts in ((t[:, :, None, None], y, wide), (t[:, 0], y[:, 0], thin))
                )
                _, *slopes = probed(true, first)
                return near(probed(together, seed), probed(true, seed)) and near(
                    probed(alone, seed[0]), [true[0].detach(), *slopes]
                )
            except (RuntimeError, TypeError, ValueError, IndexError):
                return False

    # ---- coarser -------------------------------------------------------------------------------------------------

    def coarse(self, c: int, integrator: Integrator) -> Rows:
        """n/c steps of size c h, each with the mean of the weights of its c steps."""

        def meant(v: Tensor) -> Tensor:
            v = v.reshape(-1, c, *v.shape[1:])
            return v.mean(1) if v.shape[2] == 1 else torch.stack((v[:, 0, 0], v[:, -1, 1]), 1)

        weights = {k: meant(v) for k, v in self.weights.items()}
        return replace(self, integrator=integrator, h=c * self.h, t=self.t[::c], weights=weights)

    def detached(self) -> Rows:
        """The same steps, their weights without a graph."""
        weights, shared = ({k: v.detach() for k, v in p.items()} for p in (self.weights, self.shared))
        return replace(self, weights=weights, shared=shared)


def _columns(v: Tensor, axis: int) -> list[tuple[Tensor, ...]]:
    """The sets of 1 or 2 tensors along `axis`, the axis behind it being that of the set."""
    if v.shape[axis + 1] == 1:
        return [(w,) for w in v.squeeze(axis + 1).unbind(axis)]
    return [w.unbind(axis) for w in v.unbind(axis)]


_TRIED: WeakKeyDictionary[March, dict[Any, bool]] = WeakKeyDictionary()


def rows_of(march: March, theta: Params, own: tuple[Tensor, ...]) -> Rows:
    """All steps of a march over equal intervals, differentiable in theta and the weights of the field's module."""
    intervals, substeps = len(march.knots) - 1, march.substeps
    h = (march.knots[-1] - march.knots[0]) / (intervals * substeps)
    weights: Params = {}
    shared = {k: v[0] for k, v in march.borrowed(own).items()}
    for name, c in theta.items():
        depth = march.depths[name]
        if c.shape[0] == 1 and depth.count(intervals) == 1 and intervals > 1 and name != MASK:
            shared[name] = c[0]
        elif isinstance(depth, PiecewiseLinear):
            weights[name] = _ends(c, substeps)
        elif c.shape[0] == intervals:
            weights[name] = c.repeat_interleave(substeps, 0)[:, None] if substeps > 1 else c[:, None]
        else:
            index = [depth.support(n, intervals)[0] for n in range(intervals) for _ in range(substeps)]
            weights[name] = c[index][:, None]
    t = march.knots[0] + h * torch.arange(intervals * substeps, dtype=torch.float64)
    return Rows(march, march.integrator, h, t, weights, shared, _TRIED.setdefault(march, {}))


def _ends(c: Tensor, substeps: int) -> Tensor:
    """Values (n, 2, ...) of weights that are linear between the nodes c at both ends of every step."""
    left, slope = c[:-1], c[1:] - c[:-1]
    ends = [torch.stack((left + i / substeps * slope, left + (i + 1) / substeps * slope), 1) for i in range(substeps)]
    return torch.stack(ends, 1).flatten(0, 1)


def check(name: str, march: March) -> int:
    """The number of steps; raises Incompatible where they are not equal layers of a one-step method."""
    method = march.integrator
    if march.tolerance is not None:
        why, do = f"{method.name!r} chooses its steps as it goes", "give substeps= (or steps=) for fixed ones"
    elif method.implicit or method.history or not method.needs <= {"separable"}:
        why = f"{method.name!r} is implicit, has noise, a split right-hand side or a memory of earlier steps"
        do = 'take an explicit one-step method such as "euler", "rk4" or "verlet"'
    elif march.look is not None or march.limit is not None:
        why, do = "events and limits are found step after step", "leave them out"
    elif "mean" in {s.rstrip("0123456789") for s in march.field.statistics}:
        why, do = "batch norm observes every layer when it is passed", 'take norm="tv" or "none"'
    elif strange := [k for k, d in march.depths.items() if not (d.constant or isinstance(d, PiecewiseLinear))]:
        why, do = f"the weights {', '.join(strange)} are no layers' own", 'take depth="per_step" or "piecewise_linear"'
    elif _unequal(march.knots):
        why, do = "its steps have different sizes", "take equidistant times"
    else:
        return (len(march.knots) - 1) * march.substeps
    raise Incompatible(f"gradient {name!r} advances equal layers together, but {why}; {do}, or gradient='autograd'.")


def _unequal(knots: tuple[float, ...]) -> bool:
    widths = [b - a for a, b in pairwise(knots)]
    return max(widths) - min(widths) > 1e-9 * max(map(abs, widths))


def looked_at(name: str, march: March, theta: Params, y: State) -> None:
    """Raise BadInput for a field whose value is no slope, Incompatible where a derivative would be missed: inside
    torch.func, in the times of a solve, in tensors that are neither state nor weight."""
    if transformed():
        raise Incompatible(f"gradient {name!r} does not run inside torch.func; use gradient='autograd' there.")
    if CLOCK in theta:
        raise Incompatible(f"gradient {name!r} has no derivative in the times; use gradient='discrete' for that.")
    intervals = len(march.knots) - 1
    first = {k: tuple(c[j].detach() for j in march.depths[k].support(0, intervals)) for k, c in theta.items()}
    if reaches(march, march.rhs(0, first)(march.knots[0], y.detach())):
        raise Incompatible(
            f"gradient {name!r} sees only the state and the weights of the field's module, but the field uses other "
            "tensors that require a gradient; make it an nn.Module that holds them, or use gradient='autograd'."
        )
