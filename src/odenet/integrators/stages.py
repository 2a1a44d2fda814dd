"""The equations of implicit stages, k_i = f(t_i, v_i + h sum_j a_ij k_j), and the linear systems they lead to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible
from ..types import State, Time
from . import jacobian as jacobians
from .jacobian import Factors, along, in_blocks, jacobian
from .linearise import in_real


@dataclass
class Plain:
    """A callable f(t, y) with the extras of a bound field, for functions that have none."""

    f: Callable[[Time, State], State]
    jacobian: Any = None
    tolerance: tuple[float, float] | None = None
    workspace: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, t: Time, y: State) -> State:
        return self.f(t, y)


def with_extras(f: Any) -> Any:
    """`f` itself where it has a workspace, else `f` with the extras it lacks."""
    if hasattr(f, "workspace") and hasattr(f, "counts"):
        return f
    return Plain(f, getattr(f, "jacobian", None), getattr(f, "tolerance", None))


def transformed() -> bool:
    """Whether a transform of torch.func is at work: its tensors must not outlive it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


OLD = 60  # solves after which a Jacobian is renewed
REACH = 2.0  # factor of h within which a Jacobian serves other steps than its own


@dataclass
class Memory:
    """What one run reuses: a Jacobian, its factors by (what, h), and how fast the last iteration contracted.

    A Jacobian from a fast transient makes the updates of a long step after it small whatever the residual, so that the
    iteration seems to have converged: small updates alone do not vouch for it. It is renewed where h has left its
    reach, and when it is old.
    """

    blocks: Tensor | None = None  # (nb, n, n)
    eta: float = 1.0
    slow: bool = False
    factors: dict[Any, tuple[Time, Factors]] = field(default_factory=dict)
    h: Time = 0.0  # of the step that the Jacobian was evaluated for
    age: int = 0

    def renew(self, blocks: Tensor, h: Time) -> None:
        """Replace the Jacobian."""
        self.blocks, self.slow, self.factors, self.h, self.age = blocks, False, {}, h, 0

    def serves(self, h: Time) -> bool:
        """Whether the Jacobian is good enough for a solve with step size h."""
        if self.blocks is None or self.slow or self.age >= OLD:
            return False
        self.age += 1
        if not isinstance(h, Tensor) and not isinstance(self.h, Tensor):
            return abs(self.h) <= REACH * abs(h) and abs(h) <= REACH * abs(self.h)
        now, then = torch.as_tensor(h).detach().abs(), torch.as_tensor(self.h).detach().abs()
        return bool(((then <= REACH * now) & (now <= REACH * then)).all())

    def factorised(self, f: Any, what: Any, h: Time, matrix: Callable[[], Tensor]) -> Factors:
        """The factors of `matrix()`, the kept ones where the step size is the same."""
        if what not in self.factors or not _same(self.factors[what][0], h):
            self.factors[what] = h, factorise(f, matrix())
        return self.factors[what][1]


def recall(f: Any, y: State) -> Memory:
    """The memory of a run for states like y; a new one inside a transform, or where y has another shape."""
    if transformed():
        return Memory()
    key = ("newton", y.shape, y.dtype, y.device)
    return f.workspace.setdefault(key, Memory())


def factorise(f: Any, matrix: Tensor) -> Factors:
    """L U of every block; a singular one divides by zero when it is used, which the iteration sees."""
    f.counts["lu"] += 1
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return Factors(lu, pivots)


def _same(a: Time, b: Time) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


@dataclass(frozen=True)
class Stages:
    """k_i = f(t_i, v_i + h sum_j a_ij k_j) for stages stacked in front, (s, *y.shape).

    f:      callable f(t, y) with the extras of `with_extras`
    times:  t_1 ... t_s
    base:   v, (s, *y.shape), or (1, *y.shape) where it is the same for all stages
    h:      a number, or a tensor (B, 1, ...) with a step size per sample
    a:      the coefficients, square
    y:      the state at the start of the step, which scales errors
    The linear systems of a complex state are those of real and imaginary part side by side, unless f offers its
    Jacobian: f need not be analytic.
    """

    f: Any
    times: tuple[Time, ...]
    base: Tensor
    h: Time
    a: tuple[tuple[float, ...], ...]
    y: State

    @cached_property
    def blocks(self) -> tuple[int, int]:
        """Number and size of blocks of y that do not couple."""
        y = self.y
        apart, parts = in_blocks(self.f, self.times[0], y), 1 + self.parted
        if self.several and not apart:
            raise Incompatible(
                "samples of this batch influence each other, so they cannot have step sizes of their own; "
                "solve with per_sample=False."
            )
        return (y.shape[0], parts * y[0].numel()) if apart else (1, parts * y.numel())

    @property
    def parted(self) -> bool:
        """Whether rows and blocks hold real and imaginary parts."""
        return self.y.is_complex() and self.f.jacobian is None

    @property
    def several(self) -> bool:
        """Whether every sample has a step size of its own."""
        return isinstance(self.h, Tensor) and self.h.numel() > 1

    @property
    def size(self) -> int:
        """Columns of one block of the linear system."""
        return len(self.a) * self.blocks[1]

    @cached_property
    def dense(self) -> bool:
        """Whether the linear systems are factorised; else GMRES solves them."""
        return self.size <= jacobians.DENSE

    def detached(self) -> Stages:
        """The same equations without a graph; a 0-dimensional step size becomes a number."""
        h = self.h.detach() if isinstance(self.h, Tensor) else self.h
        if isinstance(h, Tensor) and h.dim() == 0:
            h = float(h)
        times = tuple(t.detach() if isinstance(t, Tensor) else t for t in self.times)
        return Stages(self.f, times, self.base.detach(), h, self.a, self.y.detach())

    def moved(self, k: Tensor) -> Tensor:
        """h sum_j a_ij k_j, (s, *y.shape)."""
        h = self.h.to(k.dtype) if isinstance(self.h, Tensor) else self.h
        if len(self.a) == 1:
            return (h * self.a[0][0]) * k
        a = torch.tensor(self.a, dtype=k.dtype, device=k.device)
        return h * (a @ k.reshape(len(self.a), -1)).reshape(k.shape)

    def states(self, k: Tensor) -> Tensor:
        """The stages v_i + h sum_j a_ij k_j."""
        return self.base + self.moved(k)

    def residual(self, k: Tensor) -> Tensor:
        """k_i - f(t_i, v_i + h sum_j a_ij k_j)."""
        slopes = [self.f(t, state) for t, state in zip(self.times, self.states(k))]
        return k - (torch.stack(slopes) if len(slopes) > 1 else slopes[0].unsqueeze(0))

    def flat(self, v: Tensor) -> Tensor:
        """Stages as rows (nb, s n), one per block."""
        nb, n = self.blocks
        v = torch.view_as_real(v.resolve_conj()) if self.parted else v
        return v.reshape(-1, nb, n).transpose(0, 1).reshape(nb, -1)

    def shaped(self, rows: Tensor) -> Tensor:
        """Rows (nb, s n) as stages."""
        nb, n = self.blocks
        stages = rows.reshape(nb, -1, n).transpose(0, 1)
        if self.parted:
            return torch.view_as_complex(stages.reshape(-1, *self.y.shape, 2))
        return stages.reshape(-1, *self.y.shape)

    def spread(self, per_block: Tensor) -> Tensor:
        """A value per block, (nb,), so that it broadcasts to stages."""
        return per_block.reshape((1, -1, *([1] * (self.y.dim() - 1)))[: self.y.dim() + 1])

    def step_per_block(self) -> Any:
        """h as a number or (nb, 1, 1)."""
        if not isinstance(self.h, Tensor):
            return self.h
        return (self.h.real if self.parted else self.h.to(self.y.dtype)).reshape(-1, 1, 1)

    def matrix(self, slopes: Tensor) -> Tensor:
        """M = I - h A x J, (nb, s n, s n), for one J (1, nb, n, n) or one per stage (s, nb, n, n)."""
        a = torch.tensor(self.a, dtype=slopes.dtype, device=slopes.device)
        s, (nb, n) = len(self.a), self.blocks
        rows = torch.einsum("ij,iBpq->Bipjq", a, slopes.expand(s, nb, n, n)).reshape(nb, s * n, s * n)
        return torch.eye(s * n, dtype=rows.dtype, device=rows.device) - self.step_per_block() * rows

    def slopes_at(self, k: Tensor) -> Tensor:
        """df/dy at every stage, (s, nb, n, n), without a graph."""
        with torch.no_grad():
            return torch.stack([self._blocks_at(t, state) for t, state in zip(self.times, self.states(k))]).detach()

    def first_slope(self, k: Tensor) -> Tensor:
        """df/dy at the first stage, (nb, n, n)."""
        return self._blocks_at(self.times[0], self.states(k)[0]).detach()

    def _blocks_at(self, t: Time, state: State) -> Tensor:
        nb, n = self.blocks
        f, x = self.f, state
        if self.parted:
            f, _, x, _ = in_real(f, t, state, 0.0)
        matrix = jacobian(f, t, x).matrix  # of a 0-dimensional float32 state torch makes float64 tangents
        return matrix.to(x.dtype).expand(nb, n, n)

    def operator(self, k: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> M v on rows, at stages k, without a matrix."""
        states = self.states(k)

        def apply(rows: Tensor) -> Tensor:
            v = self.shaped(rows)
            pairs = zip(self.times, states, self.moved(v))
            turned = [along(lambda x, t=t: self.f(t, x), y, w) for t, y, w in pairs]  # type: ignore[misc]
            return self.flat(v - torch.stack(turned).detach().to(v.dtype))

        return apply

    def adjoint(self, k: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> M^H v on rows."""
        pulls = [
            torch.func.vjp(lambda x, t=t: self.f(t, x), y)[1]  # type: ignore[misc]
            for t, y in zip(self.times, self.states(k))
        ]
        transposed = Stages(self.f, self.times, self.base, self.h, tuple(zip(*self.a)), self.y)

        def apply(rows: Tensor) -> Tensor:
            v = self.shaped(rows)
            return self.flat(v - transposed.moved(torch.stack([pull(w)[0] for pull, w in zip(pulls, v)]).detach()))

        return apply
