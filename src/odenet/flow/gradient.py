"""How the derivative of a march is computed: kept by autograd, recomputed from checkpoints, or run backwards.

All three give the derivative of what was computed, step by step. Whatever gets a gradient is in y0, theta or the
weights that the field's module owns.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .. import integrators
from ..errors import BadInput, Incompatible
from ..integrators import Integrator
from ..types import Params, State
from .adjoint import Adjoint, Binomial, Forward
from .exact import engine, steps_whole, whole_run
from .march import CLOCK, MASK, March
from .pullback import Backwards, Replay, Tape, reaches, transformed
from .record import Record, Shelf

SMALL = 8192  # entries of a state below which several steps are recomputed together
LARGE = 2**14  # entries of a state from which holes between the states of a run count
WHOLE = 64 * 2**20  # bytes of graph that "discrete" keeps whole: recomputing would save little and cost a third


class Gradient(ABC):
    """Runs a march so that its result can be differentiated; returns the states at the knots (or the last one)."""

    name: str
    flat: bool = False  # promises memory that does not grow with the steps, so dense output keeps no nodes

    def check(self, march: March) -> None:
        """Raise Incompatible if this march cannot be differentiated this way."""
        return None

    @abstractmethod
    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        """The last state, or with `save` y0 and all outputs of the march stacked on a new first axis."""


class Autograd(Gradient):
    """Every operation is kept: fastest, memory proportional to depth. The default of `Flow`."""

    name = "autograd"

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        states, _, _ = march.run(y0, theta, record=record, watch=watch)
        return torch.stack(states) if save else states[-1]


def of_jets(march: March) -> Gradient:
    """The method under which a march carries derivative channels. Raises Incompatible for implicit integrators."""
    if march.integrator.implicit:
        raise Incompatible(
            f"{march.integrator.name!r} is implicit, and its iterations carry no derivative channels; use an explicit "
            "integrator such as 'rk4' or 'verlet', or jets.jet(..., backend='autograd')."
        )
    return Autograd()


class Checkpoint(Gradient):
    """Only states are kept, at every knot or every few accepted steps, and each piece is recomputed when its gradient
    is needed: memory O(steps * state) instead of O(graph). Solutions of implicit stages are kept too (by "checkpoint"
    where steps are adaptive), so that a piece is recomputed without iterations and with the same values. Choose it
    when the graph does not fit.

    Name "checkpoint": every knot; "discrete": every accepted step, or every eighth of a small state (the default of
    `solve`). A "discrete" graph below 64 MB is kept whole, as "autograd" does. The derivative of a recomputed gradient
    is refused in a sentence; use "autograd" for second derivatives.
    """

    def __init__(self, every: str) -> None:
        self.every = every
        self.name = "checkpoint" if every == "knot" else "discrete"

    def check(self, march: March) -> None:
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled():
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        if self.every == "step" and WHOLE and isinstance(march, March) and not transformed():
            whole = _kept_whole(march, y0, theta, save, record, watch)
            if whole is not None:
                return whole
        if _leaves_elsewhere(march, y0, theta, self.name):
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        record.keep = self.every
        record.stride = max(1, min(8, SMALL // max(1, y0.numel())))
        if y0.numel() >= LARGE and isinstance(march, March) and not transformed():
            record.shelf = Shelf()
        if march.integrator.implicit and (self.every == "step" or march.tolerance is not None):
            record.tape = Tape()
        return Replay.apply(march, self.name, save, record, watch, tuple(theta), y0, *theta.values(), *march.own)[0]


def _kept_whole(march: March, y0: State, theta: Params, save: bool, record: Record, watch: Any) -> State | None:
    """The run with its graph kept, if that has less than WHOLE bytes; else None, with nothing done."""
    fitting = _steps_that_fit(march, y0, theta)
    if march.tolerance is None:
        if march.substeps * (len(march.knots) - 1) > fitting:
            return None
        return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
    if fitting < 20 or march.look is not None:  # too few to try; and events remember what they have seen
        return None
    record.most = fitting
    out = Autograd()(march, y0, theta, save=save, record=record, watch=watch)
    if record.status != "too_many":
        return out
    record.__init__(deadline=record.deadline)  # type: ignore[misc]
    if watch is not None:
        watch.restart(y0)
    return None


def _steps_that_fit(march: March, y0: State, theta: Params) -> int:
    """How many steps have a graph of less than WHOLE bytes, from what one evaluation saves."""
    own, sizes = {w.data_ptr() for w in march.own}, {}

    def pack(x: Tensor) -> Tensor:
        if x.data_ptr() not in own:
            sizes[x.data_ptr()] = x.numel() * x.element_size()
        return x

    piece = march.pieces(theta)[0] if theta else {}
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            march.rhs(0, piece)(march.knots[0], y0.detach().requires_grad_())
    except RuntimeError:  # fields that differentiate by torch.func refuse such hooks; other errors come up in the run
        return 0
    state = y0.numel() * y0.element_size()
    return int(WHOLE / max(1, march.integrator.stages * (sum(sizes.values()) + 2 * state)))


class Reversible(Gradient):
    """Nothing but the last state is kept; earlier ones are recomputed by the inverse of the step: memory flat in depth.

    Exact up to rounding, which the inverse of a dissipative method amplifies: the start is compared with what the
    backward run arrives at, with a warning or an error where they differ. Choose it for deep nets and long solves under
    verlet, leapfrog, alf, reversible_rk4, gauss4 or, on noise, reversible_heun. Raises Incompatible for an integrator
    without an inverse.
    """

    name = "reversible"
    flat = True

    def check(self, march: March) -> None:
        if not march.integrator.reversible:
            raise Incompatible(
                f"gradient 'reversible' needs an integrator with an inverse; {march.integrator.name!r} has none. "
                'Use integrator="verlet" (separable fields), "leapfrog" (second order), "reversible_heun" (noise), '
                '"alf" or "reversible_rk4" (any field), or gradient="discrete".'
            )
        jump = any(d.local for name, d in march.depths.items() if name not in (MASK, CLOCK)) and len(march.knots) > 2
        if "noise" in march.integrator.needs and jump:
            raise Incompatible(
                f"{march.integrator.name!r} remembers slopes from the interval before, so it cannot run backwards over "
                'a knot where the weights jump; use depth="piecewise_linear" or "shared", or gradient="discrete".'
            )
        if march.tolerance is not None or (march.restart and march.integrator.history):
            raise Incompatible(
                "gradient 'reversible' runs the steps backwards, so they are fixed and a two-step method is not "
                'restarted at the knots: use one step per knot interval, or gradient="checkpoint".'
            )
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled():
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        refuse_elsewhere(march, y0, theta, self.name)
        return Backwards.apply(march, save, record, watch, tuple(theta), y0, *theta.values(), *march.own)[0]


class Exact(Gradient):
    """As "reversible", with states in whole numbers 2^-bits X, so that going back gives every bit again.

    A two-step method with |k| < 1, such as "momentum", divides on the way back, and in floating point that multiplies
    rounding by 1/|k| per step; here the remainders are kept, log2(1/|k|) bits per entry and step. States are rounded to
    2^-bits and must stay below 2^(58 - bits). Choose it for momentum nets of any depth. Takes two-step methods of fixed
    k and kicks and drifts; raises Incompatible for others. Maclaurin, Duvenaud & Adams 2015 (arXiv 1502.03492).
    """

    name = "exact"
    flat = True

    def __init__(self, bits: int = 44) -> None:
        if not isinstance(bits, int) or not 1 <= bits <= 52:
            raise BadInput(f"bits after the point are a whole number from 1 to 52, got {bits!r}.")
        self.bits = bits

    def check(self, march: March) -> None:
        engine(march.integrator)
        Reversible().check(march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if torch.is_grad_enabled():
            refuse_elsewhere(march, y0, theta, self.name)
        return whole_run(march, self.bits, save, record, y0, theta)


class Continuous(Gradient):
    """The adjoint equations a' = -(df/dy)^T a, solved backwards after the forward run.

    Name "continuous": y is recomputed backwards beside a, memory independent of the steps (Chen et al. 2018); on
    dissipative problems the recomputed y drifts away. "interpolated": y comes from the steps of the forward run,
    memory O(steps * state), no drift. Both are gradients of the exact flow up to the tolerance, not of what was
    computed: choose them to compare with published results, "discrete" otherwise.

    seminorm:    the error of the parameter integrals does not limit the step (Kidger et al. 2021)
    integrator, rtol, atol: of the backward solve; None: those of the forward one
    solver:      in place of all these, called as solver(slopes, t1, t0, z, parts): z at t0 of z' = slopes(t, z), the
                 parts being the shapes of y, of a and of the gradients, from one time with lands_on(t) to the next
    """

    def __init__(
        self,
        interpolates: bool = False,
        *,
        seminorm: bool = False,
        integrator: Any = None,
        rtol: float | None = None,
        atol: float | None = None,
        solver: Any = None,
    ) -> None:
        self.interpolates, self.seminorm, self.integrator, self.rtol, self.atol, self.solver = (
            interpolates, seminorm, integrator, rtol, atol, solver,
        )  # fmt: skip
        self.name = "interpolated" if interpolates else "continuous"
        self.flat = not interpolates

    def check(self, march: March) -> None:
        back = march.integrator if self.integrator is None else integrators.resolve(self.integrator)
        if self.solver is None and (back.needs or back.history or back.implicit):
            raise Incompatible(
                f"gradient {self.name!r} steps the adjoint equations, which have no parts and no Jacobian in closed "
                f"form, so it needs an explicit one-step method there; {back.name!r} is none. Use gradient='discrete' "
                "or Continuous(integrator='dopri5')."
            )
        if "noise" in march.integrator.needs:
            raise Incompatible(f"gradient {self.name!r} is not for paths with noise; use gradient='discrete'.")
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled():
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        refuse_elsewhere(march, y0, theta, self.name)
        return Adjoint.apply(self, march, save, record, watch, tuple(theta), y0, *theta.values(), *march.own)


class Revolve(Gradient):
    """Binomial checkpointing: at most `checkpoints` states are kept, and steps are redone as rarely as that allows.

    With s checkpoints and every step redone at most r times, C(s + r, s) steps can be reversed: 30 checkpoints serve
    46 376 steps at three times the forward work. Steps that are redone solve implicit stages anew, so that under an
    adaptive integrator the gradient is exact up to what Newton's iteration leaves, a hundredth of the tolerance. Choose
    it when even one state per step does not fit.
    """

    name = "binomial"
    flat = True

    def __init__(self, checkpoints: int = 30) -> None:
        if not isinstance(checkpoints, int) or checkpoints < 1:
            raise BadInput(f"checkpoints is a positive whole number of states to keep, got {checkpoints!r}.")
        self.checkpoints = checkpoints

    def check(self, march: March) -> None:
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled():
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        refuse_elsewhere(march, y0, theta, self.name)
        return Binomial.apply(
            self.checkpoints, march, save, record, watch, tuple(theta), y0, *theta.values(), *march.own
        )


class ForwardMode(Gradient):
    """Tangents carried along the steps: memory independent of them, work proportional to the number of scalars.

    Choose it for few scalars (initial values, a handful of parameters) and long solves. Raises BadInput for thousands.
    """

    name = "forward"
    flat = True

    def check(self, march: March) -> None:
        _refuse_stateful(self.name, march)

    def __call__(
        self, march: March, y0: State, theta: Params, *, save: bool, record: Record, watch: Any = None
    ) -> State:
        if not torch.is_grad_enabled():
            return Autograd()(march, y0, theta, save=save, record=record, watch=watch)
        refuse_elsewhere(march, y0, theta, self.name)
        return Forward.apply(march, save, record, watch, tuple(theta), y0, *theta.values(), *march.own)


def refuse_elsewhere(march: March, y0: State, theta: Params, name: str) -> None:
    """Raise Incompatible if the field depends on tensors that this gradient method would not see."""
    if _leaves_elsewhere(march, y0, theta, name):
        raise Incompatible(
            f"gradient {name!r} sees only the state and the weights of the field's module, but the field uses other "
            "tensors that require a gradient; make it an nn.Module that holds them, or use gradient='autograd'."
        )


def _refuse_stateful(name: str, march: March) -> None:
    why = getattr(march.field, "stateful", lambda: None)()
    if why:
        raise Incompatible(
            f"gradient {name!r} evaluates the field twice, but {why}, so the second evaluation would differ; "
            'use gradient="autograd", or a layer field with norm="batch" or dropout=.'
        )


def _leaves_elsewhere(march: March, y0: State, theta: Params, name: str) -> bool:
    """Whether the field depends on tensors that require a gradient beside y0 and theta.

    Found by one evaluation, in every call: what requires a gradient may change between two of them.
    """
    first = {k: tuple(c.detach() for c in v) for k, v in march.pieces(theta)[0].items()}
    found = reaches(march, march.rhs(0, first)(march.knots[0], y0.detach()))
    if found and name in ("checkpoint", "discrete"):
        warnings.warn(
            f"gradient {name!r} sees only the state and the flow's weights, but the field uses other tensors that "
            "require a gradient; 'autograd' is used instead. Give them as weights of the field to avoid this.",
            stacklevel=4,
        )
    return found


GRADIENTS: dict[str, Gradient] = {
    g.name: g
    for g in (
        Autograd(),
        Checkpoint("knot"),
        Checkpoint("step"),
        Reversible(),
        Exact(),
        Revolve(),
        Continuous(),
        Continuous(True),
        ForwardMode(),
    )
}


def possible(gradient: Gradient, integrator: Integrator) -> Gradient:
    """The gradient, or autograd where it would need an inverse that this method has not."""
    undoes = {"reversible": integrator.reversible, "exact": steps_whole(integrator)}
    return gradient if undoes.get(gradient.name, True) else GRADIENTS["autograd"]


def resolve(gradient: str | Gradient) -> Gradient:
    """A gradient method from itself or its name."""
    if isinstance(gradient, Gradient):
        return gradient
    if gradient not in GRADIENTS:
        raise BadInput(f"gradient {gradient!r} is not known; write one of {', '.join(sorted(GRADIENTS))}.")
    return GRADIENTS[gradient]
