"""The differential equation that a flow with fixed steps really integrates: its modified equation.

    y' = f_h(t, y) = s f + h d_1(t, y) + h^2 d_2(t, y) + ...,   d_{|tree|-1} = sum b(tree)/sigma(tree) F(tree)

with the coefficients b of the integrator (see `integrators.bseries`) and the elementary differentials F of the field
with the weights of one knot interval, by nested jvp; t counts as a component of the state, so that weights that vary
inside an interval are covered. At a knot the weights, and so f_h, may jump.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput, Incompatible
from ..fields import Rhs
from ..integrators import TwoStep
from ..integrators.additive import ColouredTree
from ..integrators.bseries import differential, expansion, first_error, size, symmetry
from ..types import State, Time
from .march import Piece
from .solve import solve

if TYPE_CHECKING:
    from .module import Flow

_LETTERS = {1: ("f",), 2: ("f", "g")}
Part = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Term:
    """coefficient h^power differential, such as 1/3 h^2 f'f'f; f and g are kick and drift, or explicit and implicit."""

    tree: ColouredTree
    coefficient: Any
    power: int
    differential: str

    def __str__(self) -> str:
        size = {0: "", 1: "h "}.get(self.power, f"h^{self.power} ")
        return f"{_written(self.coefficient)} {size}{self.differential}"


def _written(x: Any) -> str:
    return str(x) if isinstance(x, int) or hasattr(x, "numerator") else f"{float(x):.6g}"


@dataclass(frozen=True)
class ModifiedEquation:
    """y' = f_h(t, y), called like f: `equation(t, y)`; at a knot with the weights of the interval that begins there.

    flow:   the flow it belongs to, which is read when asked: the weights may still change
    order:  correction powers that are kept, h^p ... h^(p + order - 1), where p = `first` is the order of the method.
            The flow then differs from the exact solution by O(h^(p + order)) for weights that do not depend on h.
    powers: all powers that are kept, 0 and the above
    The state is that which is stepped: (y, v) for a second-order field under a first-order method.
    """

    flow: Flow
    order: int
    first: int

    @property
    def h(self) -> float:
        """The step size."""
        return self.flow.h

    @property
    def powers(self) -> tuple[int, ...]:
        """Powers of h in the equation."""
        return (0, *range(self.first, self.first + self.order))

    def terms(self, n: int = 0) -> tuple[Term, ...]:
        """The terms in knot interval n that are not zero; they differ between intervals where coefficients are learned.

        Their sum is f_h: the first ones are those of h^0, the field itself.
        """
        return self._terms[n if self.flow.coefficients else 0]

    @cached_property
    def _terms(self) -> tuple[tuple[Term, ...], ...]:
        count = self.flow.steps if self.flow.coefficients else 1
        return tuple(self._expanded(n) for n in range(count))

    def _expanded(self, n: int) -> tuple[Term, ...]:
        coef = {k: float(c[n].detach()) for k, c in self.flow.coefficients.items()} or None
        series = expansion(self.flow.integrator, self.first + self.order, coef)
        letters = _LETTERS[len(series.colours)]
        return tuple(
            Term(tree, b / symmetry(tree), size(tree) - 1, differential(tree, letters))
            for tree, b in series.modified().items()
            if b and size(tree) - 1 in self.powers
        )

    # ---- time ----------------------------------------------------------------------------------------------------

    @property
    def scale(self) -> tuple[float, ...]:
        """s of every knot interval, the factor before f: 1 for a consistent method, gain/(1 + k_n) for two steps."""
        found = [float(next(t.coefficient for t in self.terms(n) if t.power == 0)) for n in range(self.flow.steps)]
        return tuple(found)

    @property
    def effective_time(self) -> float:
        """Integral of the scale over the span: how long the flow follows f. LM-ResNet: sum of h/(1 + k_n)."""
        a, b = self.flow.span
        return math.fsum(self.scale) * (b - a) / self.flow.steps

    # ---- the field -----------------------------------------------------------------------------------------------

    def __call__(self, t: Time, y: State) -> State:
        """f_h(t, y) of the stepped state."""
        return self.on_interval(self._where(float(t)))(t, y)

    def _where(self, t: float) -> int:
        knots, sign = self.flow.knots, 1.0 if self.flow.span[1] > self.flow.span[0] else -1.0
        n = bisect_right([sign * k for k in knots], sign * t) - 1
        return min(max(n, 0), self.flow.steps - 1)

    def on_interval(self, n: int) -> Callable[[Time, State], State]:
        """f_h with the weights of knot interval n."""
        differentials = self.by_power(n)

        def f_h(t: Time, y: State) -> State:
            return sum(differentials(t, y).values())  # type: ignore[return-value]

        return f_h

    def by_power(self, n: int) -> Callable[[Time, State], dict[int, State]]:
        """{power: h^power d_power(t, y)} in knot interval n; power 0 is s f."""
        pieces = self.flow.march.pieces(self.flow.theta())
        parts, clocks = _parts(self.flow, n, pieces[n], 1.0 / self.scale[n])
        terms, h = self.terms(n), self.h

        def values(t: Time, y: State) -> dict[int, State]:
            now = torch.as_tensor(t, dtype=y.real.dtype, device=y.device)
            y = y.contiguous()  # forward mode refuses what is expanded
            found: dict[ColouredTree, tuple[Tensor, ...]] = {}
            out: dict[int, State] = {power: torch.zeros_like(y) for power in self.powers}
            with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
                warnings.simplefilter("ignore", DeprecationWarning)
                for term in terms:
                    F = _differential(term.tree, parts, (y, *[now] * clocks), found)
                    out[term.power] = out[term.power] + (float(term.coefficient) * h**term.power) * F[0]
            return out

        return values

    # ---- solutions -----------------------------------------------------------------------------------------------

    def begin(self, n: int, y: State) -> State:
        """Where the smooth solution starts in interval n: y, corrected by O(h) for the first step of a two-step method.

        y_n = P(t_n) + (-k)^n Q with (1 + k) Q = h (s - g) f, where the first step is y + h g f.
        """
        method = self.flow.integrator
        if not isinstance(method, TwoStep) or not (n == 0 or self.flow.march.restart):
            return y
        k, gain = (float(x) for x in method.parameters(self._coef(n)))
        first, scale = gain if method.start == "paper" else gain - k, gain / (1.0 + k)
        t = self.flow.knots[n]
        f = self.by_power(n)(t, y)[0] / scale
        return y + (self.h * (first - scale) / (1.0 + k)) * f

    def _coef(self, n: int) -> dict[str, Tensor] | None:
        return {k: c[n].detach() for k, c in self.flow.coefficients.items()} or None

    def trajectory(
        self,
        y: State,
        *,
        integrator: str = "dopri8",
        rtol: float = 1e-8,
        atol: float = 1e-10,
        steps: int | None = None,
        full: bool = False,
    ) -> State:
        """The exact solution of the modified equation at the knots, (N + 1, *y.shape), to compare with the flow's.

        Solved interval by interval, so that no step crosses a knot; with `steps`, so many equal ones in each. `full` as
        in `Flow.trajectory`. Raises SolveFailed where the truncated series blows up: h is then far beyond `h_limit`.
        """
        y = self.flow.lift(y)
        states = [y]
        for n, (a, b) in enumerate(zip(self.flow.knots, self.flow.knots[1:])):
            y = self.begin(n, y)
            f_h = self.on_interval(n)
            y = solve(f_h, y, [a, b], integrator, rtol, atol, steps, gradient="autograd").y[-1]
            states.append(y)
        out = torch.stack(states)
        return out if full else self.flow.lower(out, stacked=1)

    # ---- how far it holds ----------------------------------------------------------------------------------------

    def corrections(self, y: State) -> Tensor:
        """|h^q d_q| / |s f| along the flow's own trajectory, (order, N, B): what every kept power contributes.

        Norms are taken over each sample; where f = 0 the ratio is 0.
        """
        with torch.no_grad():
            states = self.flow.trajectory(y, full=True)
            rows = []
            for n, t in enumerate(self.flow.knots[:-1]):
                found = [d.flatten(1).norm(dim=1) for d in self.by_power(n)(t, states[n]).values()]
                f = found[0]
                rows.append(torch.stack([torch.where(f > 0, d / f, torch.zeros_like(f)) for d in found[1:]]))
        return torch.stack(rows, dim=1)

    def h_limit(self, y: State, share: float = 0.5) -> float:
        """An estimate of the h below which the flow is an ODE at all: there the first correction is `share` of f.

            h_limit = h min over knots and samples (share |s f| / |h^p d_p|)^(1/p)

        along the flow's own trajectory from y (B, ...). For forward Euler on y' = -lambda y and share 1/2 this is
        h lambda = 1, from where a step reverses what it should damp and log(1 - h lambda), which the series expands,
        has no real value. It is an estimate: one power of h, at the knots, for the inputs given. inf where the
        correction vanishes. Raises BadInput for a share that is not positive.
        """
        if not share > 0:
            raise BadInput(f"share is a positive number such as 0.5, got {share}.")
        worst = float(self.corrections(y)[0].max())
        if math.isnan(worst):
            return 0.0
        return abs(self.h) * (share / worst) ** (1.0 / self.first) if worst > 0 else math.inf

    def __str__(self) -> str:
        return "y' = " + " + ".join(map(str, self.terms(0))) + f" + O(h^{self.first + self.order})"


def modified_equation(flow: Flow, order: int = 2) -> ModifiedEquation:
    """See `Flow.modified_equation`."""
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise BadInput(f"order counts correction terms and is a positive whole number, got {order!r}; write order=2.")
    if flow.adaptive:
        raise Incompatible(
            f"{flow.integrator.name!r} chooses its own steps here, so there is no h to expand in; "
            f"use with_integrator({flow.integrator.name!r}, steps={flow.steps})."
        )
    if flow.controls or "noise" in flow.integrator.needs:
        what = "controls" if flow.controls else "noise"
        raise Incompatible(f"a flow with {what} is driven from outside, so it is no flow of one modified equation.")
    coef = {k: float(c[0].detach()) for k, c in flow.coefficients.items()} or None
    return ModifiedEquation(flow, order, first_error(flow.integrator, coef))


# ------------------------------------------------------------------------------------------------------ differentials


def _parts(flow: Flow, n: int, piece: Piece, rate: float) -> tuple[list[Part], int]:
    """The parts of the right-hand side as functions of (y, clocks), and the number of clocks.

    rate: of the clock where f drives it, 1/s, because a step advances t by h even if it follows f for s h.

    A kick is evaluated at a time that drifts advance, a drift at one that kicks advance, so these have a clock each.
    Stage times of an additive method are the row sums of its explicit part, which therefore drives the clock.
    """
    rhs = flow.march.rhs(n, piece)
    if "separable" in flow.integrator.needs:
        return [_kick(rhs), _drift(rhs)], 2
    if "split" in flow.integrator.needs:
        return [
            lambda y, t: (rhs.explicit(t, y), torch.ones_like(t)),
            lambda y, t: (rhs.implicit(t, y), torch.zeros_like(t)),
        ], 1
    return [lambda y, t: (rhs(t, y), torch.full_like(t, rate))], 1


def _kick(rhs: Rhs) -> Part:
    def kick(y: Tensor, drifted: Tensor, kicked: Tensor) -> tuple[Tensor, ...]:
        q, _ = rhs.split(y)
        return rhs.join(torch.zeros_like(q), rhs.kick(drifted, q)), torch.zeros_like(drifted), torch.ones_like(kicked)

    return kick


def _drift(rhs: Rhs) -> Part:
    def drift(y: Tensor, drifted: Tensor, kicked: Tensor) -> tuple[Tensor, ...]:
        _, p = rhs.split(y)
        return rhs.join(rhs.drift(kicked, p), torch.zeros_like(p)), torch.ones_like(drifted), torch.zeros_like(kicked)

    return drift


def _differential(
    tree: ColouredTree, parts: Sequence[Part], x: tuple[Tensor, ...], found: dict[ColouredTree, tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """F(tree)(x); those of its subtrees are kept in `found`."""
    if tree not in found:
        colour, children = tree
        found[tree] = _along(parts[colour], x, [_differential(child, parts, x, found) for child in children])
    return found[tree]


def _along(f: Part, x: tuple[Tensor, ...], directions: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """f^(m)(x)(v_1, ..., v_m)."""
    if not directions:
        return f(*x)
    first, *rest = directions
    return torch.func.jvp(lambda *z: _along(f, z, rest), x, first)[1]
