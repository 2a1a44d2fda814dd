"""What is minimised, what minimises it, and the state between two steps: a flat dict of tensors.

    Objective      f(theta) and its gradient
    LeastSquares   f(theta) = |r(theta)|^2 / 2 with the rows of the Jacobian in blocks
    Optimiser      init(problem, theta) -> State; step(problem, state) -> State; status(state) -> str | None
    State          theta, loss, gradient_norm, steps, evaluations, status and what else going on bit-identically needs

P is the number of parameters, N the number of residuals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import BadInput

State: TypeAlias = dict[str, Tensor]

# code in state["status"] -> (word, sentence); 0 is "goes on"
STATUSES: dict[int, tuple[str, str]] = {
    1: ("converged", "The gradient is zero to rounding."),
    2: ("converged", "The loss that a step could still take away is below the rounding of the loss."),
    3: ("converged", "The step is below the rounding of the parameters."),
    4: ("stalled", "No damping gave a lower loss; either the residual is noisy or the Jacobian is not its derivative."),
    5: ("stalled", "The line search found no lower loss, not even along steepest descent: it is at its rounding."),
    6: ("stalled", "The Jacobian or the gradient has entries that are not finite where the loss is finite."),
    7: ("stalled", "The loss became infinite or not a number; take a smaller learning rate."),
    8: ("finished", "Every stage has run its number of steps."),
}  # fmt: skip
GRADIENT, REDUCTION, STEP, DAMPING, SEARCH, BROKEN, DIVERGED, FINISHED = range(1, 9)


class Objective(ABC):
    """A function f(theta) of P numbers with its gradient; theta is one flat tensor (P,).

    Write one for an energy (Deep Ritz) or any loss that is no sum of squares; else write a `LeastSquares`.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """P, the number of parameters."""

    @abstractmethod
    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(f(theta), its gradient (P,)), both without a graph."""

    @abstractmethod
    def value(self, theta: Tensor) -> Tensor:
        """f(theta) alone, as cheap as it can be: trial points ask for nothing else."""


class LeastSquares(Objective):
    """f(theta) = |r(theta)|^2 / 2 with r (N,); the Jacobian comes in blocks of rows, so memory need not grow with N.

    Rows carry their weights: a quadrature weight w multiplies its row by sqrt(w). `pullback`, `matvec` and `rmatvec`
    may be written where something cheaper than the blocks is known.
    """

    @abstractmethod
    def residual(self, theta: Tensor) -> Tensor:
        """r(theta) (N,), without a graph and without its Jacobian."""

    @abstractmethod
    def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs (r_b (n_b,), J_b (n_b, P)) that stacked give r and J = dr/dtheta; made one at a time."""

    def pullback(self, theta: Tensor) -> tuple[Tensor, Tensor] | None:
        """(r, J^T r) by one reverse pass, or None: the gradient is then summed over the blocks."""
        return None

    def matvec(self, theta: Tensor, v: Tensor) -> Tensor | None:
        """J v (N,) by forward differentiation, or None: from the blocks."""
        return None

    def rmatvec(self, theta: Tensor, w: Tensor) -> Tensor | None:
        """J^T w (P,) by one reverse pass, or None: from the blocks."""
        return None

    def value(self, theta: Tensor) -> Tensor:
        """|r|^2 / 2."""
        r = self.residual(theta)
        return torch.dot(r, r) / 2

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(|r|^2 / 2, J^T r)."""
        pulled = self.pullback(theta)
        if pulled is not None:
            return torch.dot(pulled[0], pulled[0]) / 2, pulled[1]
        loss, gradient = theta.new_zeros(()), torch.zeros_like(theta)
        for r, J in self.blocks(theta):
            loss += torch.dot(r, r) / 2
            gradient.addmv_(J.T, r)
        return loss, gradient


class Optimiser(ABC):
    """One way to go down: pure functions of the problem and the state, which nothing else remembers."""

    @abstractmethod
    def init(self, problem: Objective, theta: Tensor) -> State:
        """The state at theta. Raises BadInput where the method cannot minimise this problem from there."""

    def step(self, problem: Objective, state: State) -> State:
        """The state after one step; the given one is left as it is."""
        return self.advance(problem, _aligned(state))

    @abstractmethod
    def advance(self, problem: Objective, state: State) -> State:
        """One step, as a method writes it: tensors of the old state are never changed in place."""

    @abstractmethod
    def refresh(self, problem: Objective, state: State) -> State:
        """The state for a problem whose points or weights changed: loss and status are new, what was learned stays."""

    def status(self, state: State) -> str | None:
        """None while steps make sense, else "converged", "stalled" or "finished"."""
        code = int(state["status"])
        return STATUSES[code][0] if code else None

    def message(self, state: State) -> str:
        """One sentence that says why the steps ended; empty before."""
        code = int(state["status"])
        return STATUSES[code][1] if code else ""


def _aligned(state: State) -> State:
    """The state with every tensor where an allocation begins: sums in another order give another last digit.

    Tensors read from a file begin anywhere, and vectorised kernels then split their loops differently.
    """
    return {k: v if v.data_ptr() % 64 == 0 and v.is_contiguous() else v.clone().contiguous() for k, v in state.items()}


def minimise(
    problem: Objective,
    theta: Tensor,
    optimiser: Optimiser,
    steps: int | None = None,
    seconds: float | None = None,
    watch: Callable[[State], None] | None = None,
) -> State:
    """Steps until a status, `steps` or `seconds`; returns the last state. `watch(state)` is called after every step."""
    begin, state = perf_counter(), optimiser.init(problem, theta)
    while optimiser.status(state) is None:
        spent = perf_counter() - begin
        if (steps is not None and int(state["steps"]) >= steps) or (seconds is not None and spent >= seconds):
            break
        if seconds is not None:
            state["progress"] = number(spent / seconds, state)
        state = optimiser.step(problem, state)
        if watch is not None:
            watch(state)
    return state


def number(value: float, like: State | Tensor) -> Tensor:
    """A 0-d float64 on the device of the state."""
    device = like.device if isinstance(like, Tensor) else like["theta"].device
    return torch.tensor(value, dtype=torch.float64, device=device)


def count(value: int, like: State | Tensor) -> Tensor:
    """A 0-d int64 on the device of the state."""
    device = like.device if isinstance(like, Tensor) else like["theta"].device
    return torch.tensor(value, dtype=torch.int64, device=device)


def checked_start(problem: Objective, theta: Tensor, double: str | None) -> Tensor:
    """A detached copy of theta; `double` names a method that refuses float32."""
    if theta.dim() != 1 or theta.numel() != problem.size:
        raise BadInput(
            f"theta has shape {tuple(theta.shape)} and the problem {problem.size} parameters; pass one flat tensor "
            f"of {problem.size} numbers."
        )
    if double is not None and theta.dtype != torch.float64:
        raise BadInput(
            f"{double} needs float64 and theta is {str(theta.dtype).removeprefix('torch.')}, whose rounding ends the "
            'descent long before the minimum; pass theta.double() (model.double()), or take method "adam".'
        )
    if not bool(torch.isfinite(theta).all()):
        raise BadInput("theta has entries that are not finite; start from finite parameters.")
    return theta.detach().clone()


def checked_loss(loss: Tensor) -> float:
    """The loss at the start as a float; raises BadInput where it is not finite."""
    value = float(loss)
    if value != value or value in (float("inf"), float("-inf")):
        raise BadInput(
            f"the loss is {value} at the first parameters: a residual, a source term or a condition is not finite "
            "at some point; check them there."
        )
    return value
