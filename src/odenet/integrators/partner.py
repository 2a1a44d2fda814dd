"""The symplectic partner of a Runge-Kutta method: how costates must be stepped so that gradients are exact.

States by (a, b) and costates p' = -J^T p backwards by (a~, b) conserve <p_n, dx_n> along dx' = J dx exactly where

    b_i a~_ij + b_j a_ji = b_i b_j,       a~_ij = b_j - b_j a_ji / b_i     (b_i not zero)

and then discretise-then-optimise, which is backpropagation, and optimise-then-discretise are the same. With
L_i = b_i p_{n,i}, which exists for b_i = 0 too,

    L_i = b_i p_{n+1} + h sum_j a_ji J_j^T L_j,     p_n = p_{n+1} + h sum_i J_i^T L_i
    dJ/dtheta = -h sum_i (df_i/dtheta)^T L_i

J_i = df/dy at stage i of the step from x_n. A method is its own partner exactly where it is symplectic.

Hager (2000), Numer. Math. 87, 247; Sanz-Serna (2016), SIAM Review 58, 3; Benning, Celledoni, Ehrhardt, Owren &
Schoenlieb (2019), J. Comput. Dyn. 6, 171, arXiv 1904.05657.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import Incompatible
from ..rational import Number


@dataclass(frozen=True)
class Partner:
    """The partner of a tableau (a, b).

    a: its rows, None for a stage with b_i = 0, which has no costate of its own; b: its weights, those of the method;
    nodes: c_i; transposed: (a_ji), what `step` uses
    """

    a: tuple[tuple[Number, ...] | None, ...]
    b: tuple[Number, ...]
    nodes: tuple[Number, ...]
    transposed: tuple[tuple[Number, ...], ...]

    @property
    def explicit(self) -> bool:
        """Whether the stages follow from the last to the first without solving for them."""
        return not any(x for i, row in enumerate(self.transposed) for x in row[: i + 1])

    def step(self, h: float, p: Tensor, pull: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(p_n, L_1 ... L_s) from p_{n+1}; pull(i, v) = J_i^T v. Raises Incompatible for implicit methods."""
        if not self.explicit:
            raise Incompatible(
                "the costates of an implicit method solve for all stages at once: sweep(model, x, loss) does."
            )
        stages, pulled = [p] * len(self.b), [p] * len(self.b)
        for i in reversed(range(len(self.b))):
            terms = [h * float(a) * pulled[j] for j, a in enumerate(self.transposed[i]) if a]
            stages[i] = sum(terms, float(self.b[i]) * p)
            pulled[i] = pull(i, stages[i])
        return sum((h * v for v in pulled), p), stages


def partner(integrator: Any) -> Partner:
    """The partner of a Runge-Kutta method. Raises Incompatible for any other, whose costates backpropagation gives."""
    tableau: Any = getattr(integrator, "tableau", None)
    if not all(hasattr(tableau, word) for word in ("matrix", "weights", "nodes")):
        raise Incompatible(
            f"{integrator.name!r} has no tableau (a, b), so it has no partner; its exact costates are those of "
            "backpropagation, sweep(model, x, loss)."
        )
    a, b = tableau.matrix, tableau.weights
    s = range(len(b))
    rows = tuple(tuple(b[j] - b[j] * a[j][i] / b[i] for j in s) if b[i] else None for i in s)
    return Partner(rows, tuple(b), tuple(tableau.nodes), tuple(tuple(a[j][i] for j in s) for i in s))
