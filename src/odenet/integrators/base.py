"""What a one-step map is: the abstract Integrator, its facts, and how data becomes one.

An integrator is pure: it knows no field, keeps no state between calls (what it must remember travels in
`carry`) and is differentiable wherever the right-hand side is. Plugging one in is a tableau of numbers, or

    class Mine(Integrator):
        order = 1

        def step(self, f, t, y, h, carry, coef):
            return Step(y + h * f(t, y), None, ())

and `register("mine", Mine())`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..types import Carry, Params, State, Step, Time

if TYPE_CHECKING:
    from .partner import Partner

NEEDS = frozenset({"separable", "second_order", "split", "linear", "noise"})


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a method; None where the notion does not apply.

    order_low:             q where the error estimate scales like h^(q + 1)
    exact:                 derived from rational or algebraic coefficients in exact arithmetic
    error_constant:        Runge-Kutta and splitting: Euclidean norm of the residuals of order p+1, each
                           divided by the symmetry of its tree; multistep: C_{p+1} / sigma(1)
    ssp:                   radius of absolute monotonicity: what Euler keeps positive or monotone at
                           steps up to h0 stays so at steps up to ssp * h0
    contractivity_radius:  largest r of a disc |z + r| <= r of monotone problems on which the method contracts
    real_interval:         largest x such that y' = -lambda y does not grow for all 0 <= h lambda <= x
    imag_interval:         largest x such that the oscillator does not grow for all 0 <= h omega <= x
    a_stable:              no y' = lambda y with Re lambda <= 0 grows, at any step size
    l_stable:              and what decays infinitely fast is gone after one step
    b_stable:              no two solutions of a monotone problem move apart, at any step size
    stiffly_accurate:      the new point is the last stage, so that algebraic constraints hold there
    stage_order:           the order that stages have and that stiff problems may reduce the method to
    """

    order: int
    stages: int
    order_low: int | None = None
    fsal: bool = False
    exact: bool = False
    error_constant: float | None = None
    symplectic: bool = False
    ssp: float | None = None
    contractivity_radius: float | None = None
    zero_stable: bool | None = None
    real_interval: float | None = None
    imag_interval: float | None = None
    a_stable: bool | None = None
    l_stable: bool | None = None
    b_stable: bool | None = None
    stiffly_accurate: bool | None = None
    stage_order: int | None = None


class Integrator(ABC):
    """A one-step map (t, y, h) -> y(t + h), with its facts.

    name:        set at registration
    needs:       what the right-hand side must offer: subset of NEEDS
    order:       of convergence, checked at registration
    stages:      evaluations of f per step in the long run
    history:     how many past steps are remembered
    adaptive:    an embedded pair gives Step.error
    reversible:  `invert` exists, through a method `undo` of the same signature
    learnable:   coefficients to be learned, each with the interval of its uniform initial distribution
    """

    name: str = ""
    needs: frozenset[str] = frozenset()
    order: int
    stages: int = 1
    history: int = 0
    implicit: bool = False
    adaptive: bool = False
    symplectic: bool = False
    reversible: bool = False
    learnable: Mapping[str, tuple[float, float]] = {}
    cite: str = ""
    when: str = ""
    undo: ClassVar[Any] = None  # present iff reversible
    stability_function: Callable[..., Tensor] | None = None  # closed form, where stepping y' = z y is not wanted

    @abstractmethod
    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """One step of size h (negative: backwards) from (t, y).

        f: callable f(t, y) of the shape of y, with the parts that `needs` names
        carry: what the previous step returned, or () to start afresh (always allowed)
        coef: 0-dim tensors of the learnable coefficients of this step
        """

    def init(self, f: Any, t: Time, y: State, h: Time, coef: Params | None) -> Carry:
        """The memory before the first step: empty, since every method starts itself from ()."""
        return ()

    def coefficients(self, steps: int, generator: torch.Generator | None = None) -> Params | None:
        """Initial learnable coefficients {name: (steps,)}, uniform on their intervals; None without any."""
        if not self.learnable:
            return None
        return {
            name: low + (high - low) * torch.rand(steps, generator=generator)
            for name, (low, high) in self.learnable.items()
        }

    def mean_coefficients(self) -> Params | None:
        """The learnable coefficients of one step at the mean of their initial distribution, in float64."""
        means = {k: (low + high) / 2 for k, (low, high) in self.learnable.items()}
        return {k: torch.tensor(mean, dtype=torch.float64) for k, mean in means.items()} or None

    def invert(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """State and memory before the step from t to t + h that gave (y, carry); t is the START of the step.

        Raises Incompatible unless the method is reversible.
        """
        if not self.reversible:
            raise Incompatible(
                f'{self.title} cannot run backwards; use a reversible one such as "verlet", '
                '"symplectic_euler", "leapfrog" or "momentum".'
            )
        return self.undo(f, t, y, h, carry, coef)

    def amplification(self, z: Any, coef: Mapping[str, Any] | None = None, *, z_implicit: Any = None) -> Any:
        """Dominant eigenvalue of the one-step map of y' = z y with h = 1.

        z: complex number, or a tensor of them (the answer has its shape). Methods that need a separable
        right-hand side step q' = z p, p' = z q; those of second order y'' = z^2 y. Learnable coefficients not
        given in `coef` take the mean of their initial distribution.
        z_implicit: the problem is y' = z y + z_implicit y, the second part the implicit (or linear) one of methods
        that need a split (or a linear) field; left out, such methods take all of z that way. Shapes broadcast.
        """
        first, second = (torch.as_tensor(0.0 if x is None else x, dtype=torch.complex128) for x in (z, z_implicit))
        parted = bool(self.needs & {"split", "linear"})
        if parted and z_implicit is None:
            first, second = torch.zeros_like(first), first
        first, second = torch.broadcast_tensors(first, second)
        if self.stability_function is not None:
            dominant = self.stability_function(*((first, second) if parted else (first + second,)))
        else:
            matrix = self._one_step_matrix(first, second, coef)
            sound = torch.isfinite(matrix).all(-1).all(-1)  # LAPACK may crash on what is not finite
            eigenvalues = torch.linalg.eigvals(torch.where(sound[..., None, None], matrix, 0.0))
            index = eigenvalues.abs().argmax(-1, keepdim=True)
            dominant = torch.where(sound, eigenvalues.gather(-1, index).squeeze(-1), complex(math.inf))
        return dominant if isinstance(z, Tensor) or isinstance(z_implicit, Tensor) else complex(dominant)

    def partner(self) -> Partner:
        """The Runge-Kutta method that exact costates of this one follow; raises Incompatible for other methods."""
        from .partner import partner

        return partner(self)

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"integrator {self.name!r}" if self.name else f"this {type(self).__name__} integrator"

    @cached_property
    def facts(self) -> Facts:
        """Derived from the coefficients where they are known, else declared and observed; computed once."""
        return facts_of(self)

    def __repr__(self) -> str:
        return f"<integrator {self.name or type(self).__name__}, order {self.order}>"

    def _one_step_matrix(self, z: Tensor, z_implicit: Tensor, coef: Mapping[str, Any] | None) -> Tensor:
        """The linear map (y, carry) -> (y, carry) of a step, (*z.shape, m, m), from stepping unit vectors."""
        f = LinearTest(z.reshape(-1), self.needs, z_implicit.reshape(-1))
        given = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in (coef or {}).items()}
        values = {**(self.mean_coefficients() or {}), **given} or None
        y = torch.ones(f.components, 1, z.numel(), dtype=torch.complex128)
        carry: Carry = ()
        for n in range(self.history + 1):
            y, _, carry, *_ = self.step(f, float(n), y, 1.0, carry, values)
        sizes = [part.shape[0] for part in (y, *carry)]
        m = sum(sizes)
        unit = torch.eye(m, dtype=torch.complex128).unsqueeze(-1).expand(m, m, z.numel())
        start = torch.split(unit, sizes)
        after = self.step(f, 0.0, start[0], 1.0, tuple(start[1:]), values)
        return torch.cat((after.y, *after.carry)).movedim((0, 1), (-2, -1)).reshape(*z.shape, m, m)


class LinearTest:
    """The test equation y' = (z + z_implicit) y for states (components, basis, G), with the parts methods need.

    z, z_implicit: (G,). The explicit and the nonlinear part is z y; the implicit and the linear one z_implicit y,
    so that `linear()` is a diagonal (G,).
    """

    def __init__(self, z: Tensor, needs: frozenset[str], z_implicit: Tensor | None = None) -> None:
        self.components = 2 if "separable" in needs else 1
        self._parts = (z, torch.zeros_like(z) if z_implicit is None else z_implicit)
        whole = self._parts[0] + self._parts[1]
        self._factor = whole * whole if "second_order" in needs else whole

    def __call__(self, t: Time, y: State) -> State:
        return self._factor * (y.flip(0) if self.components == 2 else y)

    def explicit(self, t: Time, y: State) -> State:
        return self._parts[0] * y

    nonlinear = explicit

    def implicit(self, t: Time, y: State) -> State:
        return self._parts[1] * y

    def linear(self) -> Tensor:
        return self._parts[1]

    def implicit_matrix(self, p: Params, y: State) -> Tensor:
        """Says that the implicit part is linear() y."""
        return self._parts[1]

    def split(self, y: State) -> tuple[State, State]:
        return y[:1], y[1:]

    def join(self, q: State, p: State) -> State:
        return torch.cat((q, p))

    def kick(self, t: Time, q: State) -> State:
        return self._factor * q

    def drift(self, t: Time, p: State) -> State:
        return self._factor * p


Terms = Sequence[tuple[int, float]]


def advance(y: State, h: Time, terms: Terms, slopes: Sequence[State]) -> State:
    """y + h sum_i b_i k_i over terms (i, b_i): one kernel each, literally `y + h * k` for a single term."""
    if isinstance(h, Tensor):  # alpha= would cut the gradient with respect to the grid
        h = h.to(y.dtype)
        for i, b in terms:
            y = y + (h * b) * slopes[i]
        return y
    if len(terms) == 1:
        ((i, b),) = terms
        return y + (h * b) * slopes[i]
    for i, b in terms:
        y = torch.add(y, slopes[i], alpha=h * b)
    return y


def later(t: Time, c: float, h: Time) -> Time:
    """The stage time t + c h, without an operation where c is 0 or 1."""
    if c == 0.0:
        return t
    return t + h if c == 1.0 else t + c * h


@singledispatch
def build(data: Any) -> Integrator:
    """The integrator that `data` (a Tableau, Multistep, Partitioned, ...) describes; BadInput for anything else."""
    families = sorted(kind.__name__ for kind in build.registry if kind not in (object, Integrator))
    raise BadInput(
        f"an integrator is a name, an Integrator or the data of one, {', '.join(families)}; got {type(data).__name__}."
    )


@build.register
def _(data: Integrator) -> Integrator:
    return data


@singledispatch
def verify(integrator: Integrator) -> None:
    """Raise ClaimRefused where a stated fact contradicts the coefficients; families have their own check."""
    from .observe import confirm_order

    confirm_order(integrator)


@singledispatch
def facts_of(integrator: Integrator) -> Facts:
    """Facts of a method whose coefficients are not known: as declared, intervals read off its own steps."""
    from .observe import declared_facts

    return declared_facts(integrator)
