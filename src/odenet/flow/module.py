"""Flow = field x integrator x depth x gradient: the network layer that is a discretised differential equation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import depth as depths
from .. import integrators
from ..depth import Depth, PerStep, Shared
from ..errors import BadInput, Incompatible
from ..fields import Field, FirstOrder, jets, wrap
from ..integrators import Integrator
from ..types import Carry, Params, State
from . import gradient as gradients
from . import memory
from .gradient import Gradient
from .march import COEF, MASK, March
from .record import Record, Tolerance

if TYPE_CHECKING:
    from .modified import ModifiedEquation

STAT = "stat_"  # prefix of the buffers that hold running statistics
_REMEDY = {
    "separable": ("fields.SeparableHamiltonian(...)", "rk4"),
    "second_order": ("fields.SecondOrder(...)", "rk4"),
    "split": ("fields.Split(...) or fields.SemiLinear(...)", "kvaerno5"),
    "linear": ("fields.SemiLinear(...)", "kvaerno5"),
    "noise": ("fields.Noisy(...)", "rk4"),
}


def check_pair(field: Field, integrator: Integrator) -> Field:
    """The field as this integrator takes it; raises Incompatible where it cannot.

    A second-order field under a method for first-order systems becomes (y, v)' = (v, f).
    """
    offered = field.offers
    if "second_order" in offered and "second_order" not in integrator.needs:
        field = FirstOrder(field)
    if "noise" in offered and "noise" not in integrator.needs:
        raise Incompatible(
            f"{integrator.name!r} would ignore the noise of {type(field).__name__}; use integrator='euler_maruyama', "
            "'heun_stratonovich' or 'srk', or its drift alone."
        )
    missing = sorted(integrator.needs - field.offers)
    if missing:
        what, instead = _REMEDY[missing[0]]
        raise Incompatible(
            f"{integrator.name!r} needs a {missing[0].replace('_', '-')} field; {type(field).__name__} offers "
            f"{', '.join(sorted(offered)) or 'none'}. Use {what} or integrator={instead!r}."
        )
    return field


class Flow(nn.Module):
    """y(t_0) -> y(t_N) of y' = f(t, y; theta(t)), stepped by an integrator: one nn.Module, four independent choices.

    field:       a Field, or any callable or nn.Module f(t, y) or f(y)
    integrator:  name, coefficients or Integrator
    depth:       how weights vary: a Depth, "per_step" (default), "piecewise_linear", "shared", or a mapping by weight
    span:        (t_0, t_N); h = (t_N - t_0)/(steps * substeps)
    steps:       knot intervals N, each with weights of its own under "per_step"
    substeps:    integrator steps per knot interval (fixed-step methods)
    gradient:    "autograd", "checkpoint", "discrete", "reversible" or "exact"
    rtol, atol:  tolerances of an adaptive integrator, which then lands on the knots; with `substeps` it steps fixed
    survival:    probability that f acts on a sample in the last knot interval in training (a pair: in the first and the
                 last), linear between from 1; kept values are divided by it (stochastic depth, Huang et al. 2016)
    init:        "iid": every set of weights drawn afresh; "constant": one draw for all depths (an ODE limit exists)
    seed:        of the initial weights

    y (B, D) -> (B, D), images (B, C, H, W) likewise; controls are given by name, `flow(y, u=u)` with u (N, B, inputs).
    A field with noise is given the seed of its Brownian path in every call, `flow(y, seed=3)`: one seed is one path,
    the one that `solve` takes for it, and all gradient methods differentiate along it.
    Raises Incompatible for a pair that cannot work (at construction), BadInput for numbers that cannot be right.
    """

    def __init__(
        self,
        field: Field | Callable[..., Tensor],
        integrator: str | Integrator | Any = "euler",
        *,
        depth: Depth | str | Mapping[str, Depth | str] | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        steps: int = 16,
        substeps: int | None = None,
        gradient: str | Gradient = "autograd",
        rtol: float = 1e-6,
        atol: float = 1e-8,
        max_steps: int | None = 10_000,
        survival: float | tuple[float, float] = 1.0,
        init: str = "iid",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.span = _span(span)
        self.steps = _positive("steps", steps)
        self.field = wrap(field)
        self.gradient = gradients.resolve(gradient)
        if init not in ("iid", "constant"):
            raise BadInput(f"init {init!r} is not known; write 'iid' (a draw per depth) or 'constant' (one draw).")
        if not (rtol > 0 and atol > 0):
            raise BadInput(f"tolerances are positive, got rtol={rtol}, atol={atol}.")
        self._limits = Tolerance(rtol, atol, max_steps)
        self.survival = _rates(survival)
        self._build(integrator, substeps)
        generator = torch.Generator().manual_seed(seed)
        self.module = self._borrowed(depth)
        self._draw(depth, init == "iid", generator)
        self.coefficients = nn.ParameterDict(self.integrator.coefficients(self.steps, generator) or {})
        driven = getattr(getattr(self.field, "unit", None), "inputs", 0)
        self.controls: tuple[str, ...] = ("u",) if driven else self.field.controls
        self._march()

    # ---- construction --------------------------------------------------------------------------------------------

    def _build(self, integrator: Any, substeps: int | None) -> None:
        self.integrator = integrators.resolve(integrator)
        self.substeps = 1 if substeps is None else _positive("substeps", substeps)
        self.adaptive = self.integrator.adaptive and substeps is None
        self._lifted = (check_pair(self.field, self.integrator),)  # a tuple: not a module of its own

    def _draw(self, depth: Any, fresh: bool, generator: torch.Generator) -> None:
        """Initial weights: as many draws as the depth that needs most, all different or all the same."""
        first = {} if self.module is not None else self.field.init(generator)
        self.depths = depths.resolve(depth, first)
        for name in self.field.statistics & first.keys():  # statistics are not interpolated
            self.depths[name] = Shared() if isinstance(self.depths[name], Shared) else PerStep()
        draws = [first]
        for _ in range(max((d.count(self.steps) for d in self.depths.values()), default=1) - 1):
            draws.append(self.field.init(generator) if fresh else first)
        self.weights = nn.ParameterDict()
        for name in first:
            c = torch.stack([p[name] for p in draws[: self.depths[name].count(self.steps)]])
            if name in self.field.statistics:
                self.register_buffer(STAT + name, c)
            else:
                self.weights[name] = nn.Parameter(self.depths[name].through(c))

    def _march(self) -> None:
        depth: dict[str, Depth] = {**self.depths, MASK: PerStep(), **{COEF + k: PerStep() for k in self.coefficients}}
        depth |= dict.fromkeys(self.controls, PerStep())
        constant = all(isinstance(d, Shared) for d in self.depths.values())
        self.march = March(
            self._stepped,
            self.integrator,
            depth,
            self.knots,
            self.substeps,
            self._limits if self.adaptive else None,
            restart=not constant and self.substeps > self.integrator.history > 0,
            module=self.module,
        )
        self.gradient.check(self.march)
        if "linear" in self.integrator.needs:
            self._check_linear()

    def _check_linear(self) -> None:
        """Raise Incompatible where L would vary inside a step."""
        if self.field.dropout:
            raise Incompatible(
                f"{self.integrator.name!r} takes the linear part L of the field exactly, but dropout switches entries "
                "of the slope off; set dropout to 0."
            )
        with torch.no_grad():
            self.march.rhs(0, self.march.pieces(self.field.constrain(self._stored()))[0]).linear()

    def _borrowed(self, depth: Any) -> nn.Module | None:
        """A wrapped module that keeps its own weights, because they are shared by all depths."""
        module = getattr(self.field, "module", None)
        shared = depth == "shared" or isinstance(depth, Shared)
        return module if shared and isinstance(module, nn.Module) else None

    def with_integrator(self, integrator: str | Integrator | Any, steps: int | None = None) -> Flow:
        """The same field and the same weights (shared, not copied) under another integrator.

        steps: total steps, a multiple of the knot intervals; the weight pieces stay. None: one step per interval, or
        adaptive steps where the method has an error estimate. A reversible or exact gradient becomes
        autograd where the new method has no inverse. Raises BadInput for steps that are no multiple.
        """
        if steps is not None and (_positive("steps", steps) % self.steps):
            raise BadInput(
                f"this flow has {self.steps} knot intervals with weights of their own, and steps={steps} is no "
                f"multiple of them; write steps={self.steps} or steps={2 * self.steps}."
            )
        twin = Flow.__new__(Flow)
        nn.Module.__init__(twin)
        for name in (
            "span",
            "steps",
            "field",
            "gradient",
            "_limits",
            "module",
            "depths",
            "weights",
            "controls",
            "survival",
        ):
            setattr(twin, name, getattr(self, name))
        for name, buffer in self.named_buffers(recurse=False):
            twin.register_buffer(name, buffer)
        twin._build(integrator, None if steps is None else steps // self.steps)
        same = twin.integrator.learnable.keys() == self.integrator.learnable.keys()
        fresh = twin.integrator.coefficients(self.steps, torch.Generator().manual_seed(0)) or {}
        twin.coefficients = self.coefficients if same else nn.ParameterDict(fresh)
        twin.gradient = gradients.possible(twin.gradient, twin.integrator)
        twin._march()
        return twin.train(self.training)

    @property
    def _stepped(self) -> Field:
        return self._lifted[0]

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def knots(self) -> tuple[float, ...]:
        """t_0, ..., t_N, equidistant."""
        a, b = self.span
        return (*(a + (b - a) * n / self.steps for n in range(self.steps)), b)

    @property
    def h(self) -> float:
        """Step size of a fixed-step flow."""
        return (self.span[1] - self.span[0]) / (self.steps * self.substeps)

    def theta(self, y: State | None = None, **controls: Tensor) -> Params:
        """All that varies with depth, effective (constraints applied): weights, statistics, coefficients, controls, and
        in training a fresh dropout mask for the shape of y."""
        stored = self._stored()
        theta = self.field.constrain(stored) if stored else {}
        theta |= {COEF + name: c for name, c in self.coefficients.items()}
        theta |= self._checked(controls)
        if self.training and y is not None and (self.field.dropout or self.survival != (1.0, 1.0)):
            theta[MASK] = self._drawn_mask(y)
        return theta

    def _drawn_mask(self, y: State) -> Tensor:
        """(N, *y.shape): entries of f dropped, or all of a sample's; what is kept is divided by its probability."""
        keep = 1.0 - self.field.dropout
        mask = torch.empty(self.steps, *y.shape, dtype=y.dtype, device=y.device).bernoulli_(keep) / keep
        if self.survival == (1.0, 1.0):
            return mask
        rates = torch.linspace(*self.survival, self.steps, dtype=y.dtype, device=y.device)
        whole = rates.reshape(-1, *[1] * y.dim()).expand(-1, len(y), *[1] * (y.dim() - 1))
        return mask * torch.bernoulli(whole) / whole

    def _stored(self) -> Params:
        """Weights and statistics as they are kept, before constraints."""
        return {**self.weights, **{name[len(STAT) :]: b for name, b in self.named_buffers(recurse=False)}}

    def _checked(self, controls: dict[str, Tensor]) -> dict[str, Tensor]:
        if set(controls) != set(self.controls):
            raise BadInput(
                f"this flow takes the controls {list(self.controls) or 'none'}, but was given "
                f"{sorted(controls) or 'none'}; a control is declared by the field (inputs=) and given by name, "
                "flow(y, u=u)."
            )
        for name, u in controls.items():
            if u.shape[0] != self.march.depths[name].count(self.steps):
                raise BadInput(
                    f"control {name!r} has {u.shape[0]} entries on its first axis, but the flow has {self.steps} knot "
                    "intervals; give it as (N, B, inputs)."
                )
        return controls

    # ---- running -------------------------------------------------------------------------------------------------

    def lift(self, y: State) -> State:
        """The state that is stepped: y itself, or (y, v = 0) for a second-order field under a first-order method."""
        if self._stepped is self.field:
            return y
        return self._stepped.join(y, torch.zeros_like(y))

    def lower(self, state: State, stacked: int = 0) -> State:
        """y from the stepped state; `stacked` leading axes beside those of y."""
        if self._stepped is self.field:
            return state
        axis = self.field.axis if self.field.axis < 0 else self.field.axis + stacked
        return state.narrow(axis, 0, state.shape[axis] // 2)

    def _seeded(self, y: State, seed: int | None) -> March:
        """The march, along the Brownian path of this seed where the field has noise."""
        if ("noise" in self.integrator.needs) != (seed is not None):
            raise BadInput(
                f"{type(self.field).__name__} has noise, so a flow takes the seed of its path, flow(y, seed=0)."
                if seed is None
                else f"this flow has no noise, so it takes no seed (got {seed!r}); leave it out."
            )
        if seed is None:
            return self.march
        from .solve import brownian

        march = copy.copy(self.march)
        march.path = brownian(self._stepped, y, self.knots, seed, self.substeps)
        return march

    def _run(self, y: State, save: bool, seed: int | None, controls: dict[str, Tensor]) -> tuple[State, Record]:
        y = self.lift(memory.admitted(self.field, y))
        record, march = Record(), self._seeded(y, seed)
        how = gradients.of_jets(march) if isinstance(y, jets.Jet) else self.gradient
        out = how(march, y, self.theta(y, **controls), save=save, record=record)
        memory.refuse_failed(self, record)
        return out, record

    def forward(self, y: State, *, seed: int | None = None, **controls: Tensor) -> State:
        """y(t_N); seed: of the Brownian path, where the field has noise."""
        return self.lower(self._run(y, False, seed, controls)[0])

    def jet(self, x: Tensor, channels: Sequence[tuple[int, ...]]) -> Tensor:
        """Derivatives of y(t_N) in y(t_0) = x (N, d), rows in the order of `channels`; see `fields.jets`."""
        return jets.through(self, x, channels)

    def trajectory(self, y: State, *, full: bool = False, seed: int | None = None, **controls: Tensor) -> State:
        """States at all knots, (N + 1, *y.shape); `full` keeps the velocity of a lifted second-order field."""
        states = self._run(y, True, seed, controls)[0]
        return states if full else self.lower(states, stacked=1)

    def nfe(self, y: State, *, seed: int | None = None, **controls: Tensor) -> int:
        """Field evaluations of one forward pass."""
        with torch.no_grad():
            return self._run(y, False, seed, controls)[1].nfe

    def resume(self, y: State, remembered: Sequence[State] = ()) -> tuple[State, Carry]:
        """(y(t_N), memory) from (y(t_0), memory), the latter tensors of the shape of y: the velocity of a lifted field,
        then what a multistep method carries; () starts afresh."""
        memory.check_hands_on(self)
        return memory.resume(self, y, remembered)

    def layers(self) -> list[Callable[[Any], Any]]:
        """One callable per knot interval on the stepped state; a multistep method's state is (y, *memory)."""
        if self.controls or "noise" in self.integrator.needs:
            what = "controls" if self.controls else "noise"
            raise BadInput(f"a flow with {what} has no layers of its own; the {what} is data of each interval.")
        return [partial(self.interval, n) for n in range(self.steps)]

    def interval(self, n: int, state: Any, weights: Params | None = None, watch: Any = None) -> Any:
        """Advance over knot interval n (fixed steps, no dropout), differentiable in the state and the weights.

        weights: in the place of its own, as they are kept (before constraints), where depth is local; see `layered`
        watch:   is shown every step, as an `Integral`
        """
        given = weights or {}
        local = {name: c[list(self.march.depths[name].support(n, self.steps))] for name, c in self._stored().items()}
        local |= {name: w[None] for name, w in given.items() if not name.startswith(COEF)}
        piece = {name: c.unbind(0) for name, c in (self.field.constrain(local) if local else {}).items()}
        piece |= {COEF + name: (given.get(COEF + name, c[n]),) for name, c in self.coefficients.items()}
        y, carry = (state[0], tuple(state[1:])) if isinstance(state, tuple) else (state, ())
        y, carry = self.march.over(n, piece, y, carry, watch=watch)
        return (y, *carry) if self.integrator.history else y

    def modified_equation(self, order: int = 2) -> ModifiedEquation:
        """The equation that these steps really integrate, f_h = f + h^p d_p + ...; see `flow.modified`."""
        from .modified import modified_equation

        return modified_equation(self, order)

    def penalty(self, kind: str = "h1") -> Tensor:
        """Sum over the weights of their depth penalty (see `Depth.penalty`)."""
        terms = [self.depths[k].penalty(c, kind, self.knots) for k, c in self.weights.items()]  # type: ignore[arg-type]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def extra_repr(self) -> str:
        kinds = sorted({type(d).__name__ for d in self.depths.values()}) or ["Shared"]
        pace = f"rtol={self._limits.rtol:g}" if self.adaptive else f"h={self.h:g}"
        return (
            f"integrator={self.integrator.name!r}, depth={'+'.join(kinds)}, span={self.span}, steps={self.steps}, "
            f"{pace}, gradient={self.gradient.name!r}"
        )


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput(f"{name} is a positive whole number, got {value!r}; write {name}=16, for instance.")
    return value


def _rates(survival: Any) -> tuple[float, float]:
    first, last = survival if isinstance(survival, tuple | list) else (1.0, survival)
    if not (0.0 < first <= 1.0 and 0.0 < last <= 1.0):
        raise BadInput(f"survival is a probability in (0, 1], or a pair of them, got {survival!r}.")
    return float(first), float(last)


def _span(span: Any) -> tuple[float, float]:
    try:
        a, b = (float(v) for v in span)
    except (TypeError, ValueError):
        raise BadInput(f"span is a pair of times such as (0.0, 1.0), got {span!r}.") from None
    if not (b - a) * (b - a) > 0.0 or b - a in (float("inf"), float("-inf")):
        raise BadInput(f"span has two different finite times, got ({a}, {b}).")
    return a, b
