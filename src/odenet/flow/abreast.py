"""The steps of a march as rows of equal layers, so that layers far apart in depth are evaluated together.

Row i is x_{i+1} = Phi_i(x_i): one step of an explicit one-step method with weights of its own. `blocks(c)` folds n
steps into n/c chunks whose j-th steps run as one: states (M, *y.shape), dense weights (M, rows, cols), one bmm each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..depth import PiecewiseLinear
from ..errors import Incompatible, OdenetError
from ..fields import Rhs
from ..integrators import Integrator
from ..types import Params, State
from .march import CLOCK, COEF, MASK, March
from .pullback import reaches, transformed

Together = Callable[[State], State]  # one step of all chunks


class Stacked(TorchFunctionMode):
    """F.linear with a stack of matrices (M, rows, cols) and states (M, S, cols) is one bmm."""

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if f is torch.nn.functional.linear and len(args) > 1 and args[1].dim() == 3:
            b = args[2] if len(args) > 2 else kwargs.get("bias")
            return torch.bmm(args[0], args[1].mT) if b is None else torch.baddbmm(b, args[0], args[1].mT)
        return f(*args, **kwargs)


@dataclass(frozen=True)
class Rows:
    """n steps of size h from the times t, weights (n, k, *shape) by name: k = 2 ends of a step where they are
    linear in it, else k = 1. `shared` are those that all steps have in common, `moving` the names with k = 2.

    works: per shape of the states, whether stacks of dense weights may be used in the place of vmap
    """

    march: March
    integrator: Integrator
    h: float
    t: tuple[float, ...]
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

    def singles(self) -> Iterator[Together]:
        """Every step for itself."""
        parts = {k: _columns(v, 0) for k, v in self.weights.items()}
        for i, t in enumerate(self.t):
            held = {k: v[i] for k, v in parts.items()}
            yield lambda y, t=t, held=held: self.step(t, y, held)  # type: ignore[misc]

    # ---- together ------------------------------------------------------------------------------------------------

    def blocks(self, c: int, like: State) -> list[Together]:
        """For j = 0..c-1 the j-th steps of all n/c chunks, as one map of states (n/c, *y.shape)."""
        dense = self._dense(like)
        times = torch.tensor(self.t, dtype=like.real.dtype, device=like.device).reshape(-1, c)
        parts = {}
        for name, v in self.weights.items():
            v = v.reshape(-1, c, *v.shape[1:])
            if dense and v.dim() < 5:  # numbers and vectors stand beside the samples
                v = v.reshape(*v.shape[:3], *[1] * (5 - v.dim()), *v.shape[3:])
            parts[name] = _columns(v, 1)
        run = self._stacked if dense else self._mapped

        def step(j: int) -> Together:
            t, held = times[:, j], {k: v[j] for k, v in parts.items()}
            return lambda y: run(t, y, held)

        return [step(j) for j in range(c)]

    def _stacked(self, t: Tensor, y: State, held: dict[str, tuple[Tensor, ...]]) -> State:
        with Stacked():
            return self.step(t[:, None, None], y, held)

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
        """Whether stacks give what vmap gives, tried once per shape on random weights and states."""
        if like.dim() != 2 or any(v.dim() > 4 or k == MASK for k, v in self.weights.items()):
            return False
        key = (self.integrator.name, self.march.field.training, like.shape, like.dtype, like.device, *self.weights)
        if key not in self.works:
            self.works[key] = self._agree(like)
        return self.works[key]

    @torch.no_grad()
    def _agree(self, like: State) -> bool:
        M = next(m for m in (3, 5, 7) if m not in like.shape)  # an axis that is taken for another one shows
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).add(0.1).to(like)

        some = replace(self, shared={k: v.detach() for k, v in self.shared.items()})
        ws = {k: [drawn(M, *v.shape[2:]) for _ in range(v.shape[1])] for k, v in self.weights.items()}
        wide = {k: tuple(w.reshape(M, *[1] * (3 - w.dim()), *w.shape[1:]) for w in v) for k, v in ws.items()}
        t, y = drawn(M), drawn(M, *like.shape)
        wanted = some._mapped(t, y, {k: tuple(v) for k, v in ws.items()})
        try:
            found = some._stacked(t, y, wide)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        near = 1e4 * torch.finfo(like.dtype).eps * wanted.abs().amax()
        return found.shape == wanted.shape and bool((found - wanted).abs().amax() <= near)

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
    t = tuple(march.knots[0] + h * i for i in range(intervals * substeps))
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
