"""Finite-time Lyapunov exponents: the rates at which the row of layers stretches its states, all of them.

    mu_i = (1/T) log sigma_i(dy_N/dy_0),   T the time of the flows (the number of layers where there is no flow)

The product of Jacobians overflows, or loses its small singular values to rounding, long before their rates do, so it
is not trusted: an orthonormal frame is carried along and re-orthonormalised at every layer, J_n Q_n = Q_{n+1} R_n,
and the logarithms of the diagonals of R_n are added up (Benettin et al. 1980; Dieci, Russell & Van Vleck 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from .sensitivity import layer_jacobians
from .tangents import Product, directions, leading, pushed
from .unroll import Unrolled, row, unroll

_DIGITS = 18.0  # log of the range over which singular values of a product are right to eight digits


@dataclass(frozen=True)
class Lyapunov:
    """exponents: falling, (P, K), per unit of time; time: T; complete: whether they are all that dy_N/dy_0 has."""

    exponents: Tensor
    time: float
    complete: bool

    @property
    def log_volume(self) -> Tensor:
        """log |det dy_N/dy_0|, (P,): the factor by which volumes grow. Means something where `complete` alone."""
        return self.exponents.sum(1) * self.time


def duration(unrolled: Unrolled) -> float:
    """Time of the flows, or the number of layers where there is none."""
    widths = [abs(layer.interval.width) for layer in unrolled.layers if layer.interval is not None]
    return sum(widths) if widths else float(unrolled.depth)


def lyapunov(unrolled: Unrolled, steps: Sequence[Tensor] | None = None, sweeps: int = 8) -> Lyapunov:
    """All exponents from the Jacobians of the layers (`layer_jacobians`, formed if not given).

    One pass gives the R_n. Where their product spans less than eight digits its singular values are taken; else the
    frame is carried back and forth `sweeps` times, each a step of subspace iteration that tells the fast directions
    from the slow ones. The sum is right after any number. Choose it to see every direction, where `sensitivity` sees
    the largest.
    """
    steps = layer_jacobians(unrolled) if steps is None else steps
    own = [state[0][0].numel() for state in unrolled.states]
    chain = [J.double().cpu() for J in steps]
    chain[0] = chain[0][:, :, : own[0]]
    chain[-1] = chain[-1][:, : own[-1]]
    count = min(own[0], own[-1], *(min(J.shape[1:]) for J in chain))
    time = duration(unrolled)
    return Lyapunov(log_singular_values(chain, sweeps)[:, :count] / time, time, count == own[0] == own[-1])


def log_singular_values(chain: Sequence[Tensor], sweeps: int = 8) -> Tensor:
    """log of the singular values of J_{N-1} ... J_0, falling, (P, K), from factors (P, rows, columns) in that order."""
    count = min(min(J.shape[1:]) for J in chain)
    Q = torch.eye(chain[0].shape[2], dtype=chain[0].dtype).expand(len(chain[0]), -1, -1)[:, :, :count]
    Q, logs, product = _pass(chain, Q)
    whole = count == chain[0].shape[2]
    if whole and bool((logs.amax(1) - logs.amin(1) < _DIGITS).all()) and bool(logs.abs().amax() < 600.0):
        return torch.linalg.svdvals(product).log()
    back = [J.mT for J in reversed(chain)]
    for _ in range(sweeps):
        Q, logs, _ = _pass(back, Q)
        Q, logs, _ = _pass(chain, Q)
    return logs.sort(dim=1, descending=True).values


def _pass(chain: Sequence[Tensor], Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The frame behind the chain, the logarithms of the stretchings, and the product of the triangular factors."""
    logs = torch.zeros(len(Q), Q.shape[2], dtype=Q.dtype)
    product = torch.eye(Q.shape[2], dtype=Q.dtype).expand(len(Q), -1, -1)
    for J in chain:
        Q, R = torch.linalg.qr(J @ Q)
        logs = logs + R.diagonal(dim1=1, dim2=2).abs().log()
        product = R @ product
    return Q, logs, product


def leading_lyapunov(unrolled: Unrolled, count: int = 4, seed: int = 0) -> Lyapunov:
    """The largest `count` exponents without any Jacobian, from leading singular values of dy_N/dy_0.

    Choose it for states too large for `lyapunov`, such as images.
    """
    J = Product(unrolled)
    start = directions(len(unrolled.x), J.shape[1], unrolled.states[0][0], seed)
    found = leading(J.push, J.pull, start, min(2 * count + 16, *J.shape)).values[:, :count]
    time = duration(unrolled)
    return Lyapunov(found.double().cpu().log() / time, time, found.shape[1] == J.shape[0] == J.shape[1])


@dataclass(frozen=True)
class Grid:
    """A scalar over a rectangle of inputs: `first` (M,), `second` (M,), `values` (M, M) with values[i, k] at
    (first[i], second[k])."""

    first: Tensor
    second: Tensor
    values: Tensor


def ftle_field(
    net: Any,
    box: tuple[float, float, float, float] = (-2.0, 2.0, -2.0, 2.0),
    points: int = 61,
    chunk: int = 4096,
) -> Grid:
    """The largest finite-time Lyapunov exponent (1/T) log |dy_N/dx|_2 at every input x of a 2-D grid.

    box: (first_min, first_max, second_min, second_max); y_N is the state after the last flow, T its time. Ridges are
    where neighbouring inputs are torn apart, which a trained classifier puts along its decision boundary. Choose it
    for 2-D data. Haller 2001; Lapeyre 2002. Raises BadInput for an empty box or a net that takes no 2-D input.
    """
    a, b, c, d = box
    if not (a < b and c < d) or points < 2:
        raise BadInput(f"a box is (first_min, first_max, second_min, second_max), got {box} with {points} points.")
    first, second = (torch.linspace(u, v, points, dtype=torch.float64) for u, v in ((a, b), (c, d)))
    x = torch.stack(torch.meshgrid(first, second, indexing="ij"), dim=-1).reshape(-1, 2)
    try:
        found = torch.cat([_stretching(net, part) for part in x.split(chunk)])
    except RuntimeError as problem:
        raise BadInput(f"an FTLE field is of a net with inputs (B, 2); this one refused them: {problem}") from None
    return Grid(first, second, found.reshape(points, points))


def _stretching(net: Any, x: Tensor) -> Tensor:
    u = unroll(net, x.to(next(_floating(net), x)))
    opening = u.enter
    columns = []
    for axis in range(2):
        v = torch.zeros_like(u.x)
        v[:, axis] = 1.0
        columns.append(Product(u).push(pushed(lambda parts: (opening(parts[0]),), (u.x,), (v,))[0]))
    J = torch.stack(columns, dim=2).double().cpu()
    return torch.linalg.svdvals(J)[:, 0].log() / duration(u)


def _floating(net: Any) -> Any:
    modules = row(net)
    return (p.detach() for m in modules if isinstance(m, torch.nn.Module) for p in m.parameters())
