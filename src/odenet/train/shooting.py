"""Fits to long records by multiple shooting: the record is cut into segments that start anywhere and must come to meet.

    J(theta, b) = mean_k |x(t_k) - y_k|^2 + rho/2 mean_m |g_m|^2 + mean_m <lambda_m, g_m>,   g_m = phi(b_m) - b_{m+1}

phi(b_m) is where the segment from b_m ends. The gaps g are closed by a penalty or by multipliers; a solver that closes
them exactly at given theta is another thing: `solve(..., gradient=flow.Parallel("shooting"))`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import Field, wrap
from ..flow import Flow


class ShootingLoss(nn.Module):
    """The loss J of a record y at times t under x' = f(t, x), with a free state at the start of every segment.

    Not a solver: until the gaps are closed, x is no solution of the equation, which is what helps. The error of a
    segment depends on theta over a short time only, so J has no walls where a long solution is out of phase by half a
    period, and a fit from poor parameters arrives where that of the whole solution (single shooting) stalls.

    field:       f(t, x), f(x), Field without weights or nn.Module; its parameters are those of the loss
    t, y:        times (T,), increasing and equidistant, and the record there (T, D) or (T, B, D); entries that are not
                 finite are left out
    segments:    M; a divisor of the T - 1 intervals
    rho:         weight of the gaps, 1 being that of the misfit
    multipliers: False: rho alone, so gaps of the size 1/rho stay. True: the augmented Lagrangian: `update` after
                 every few steps of the optimiser, and the gaps close at a moderate rho
    nodes:       the first states of the segments, (M, D) or (M, B, D); None: the record there
    observe:     from states to what the record holds; `nodes` must then be given
    integrator, substeps: of the segments, which are solved together as one batch

    `loss()` is J; `loss.gaps()` (M - 1, ...); `loss.parameters()` the field's and the nodes. Choose it for a fit over
    many periods of a system whose parameters are known badly. Bock & Plitt 1984 (multiple shooting); Hestenes 1969 and
    Powell 1969 (multipliers). Raises BadInput for times, shapes or numbers that cannot be right.
    """

    record: Tensor
    multiplier: Tensor

    def __init__(
        self,
        field: Field | Callable[..., Tensor],
        t: Tensor | Sequence[float],
        y: Tensor,
        segments: int,
        *,
        rho: float = 10.0,
        multipliers: bool = False,
        nodes: Tensor | None = None,
        observe: Callable[[Tensor], Tensor] | None = None,
        integrator: Any = "rk4",
        substeps: int | None = 1,
    ) -> None:
        super().__init__()
        times, h = _times(t, y)
        self.each = _each(segments, len(times) - 1)
        if not 0.0 < rho < float("inf"):
            raise BadInput(f"rho weighs the gaps between segments and is positive, got {rho}; write rho=10, say.")
        if nodes is None and observe is not None:
            raise BadInput(
                "observe maps states to the record, so the record holds no states to begin with; give nodes=."
            )
        nodes = y[: -1 : self.each] if nodes is None else nodes
        if nodes.dim() < 2 or len(nodes) != segments or (observe is None and nodes.shape[1:] != y.shape[1:]):
            raise BadInput(
                f"nodes has shape {tuple(nodes.shape)} for {segments} segments of a record {tuple(y.shape)}; its first "
                "axis is that of the segments, the others are those of one state."
            )
        if not bool(torch.isfinite(nodes).all()):
            raise BadInput("the record is not finite at the start of some segment; give nodes=, a guess of the states.")
        self.segments, self.rho, self.multipliers = segments, float(rho), multipliers
        self.observe = observe or (lambda x: x)
        self.nodes = nn.Parameter(nodes.detach().clone())
        self.register_buffer("record", y.detach().clone())
        self.register_buffer("multiplier", torch.zeros_like(nodes[1:]))
        self._gap = float("inf")
        copies = nodes[0].numel() // nodes.shape[-1]
        starts = torch.tensor(times[: -1 : self.each], dtype=nodes.dtype, device=nodes.device)
        shifted = _Shifted(wrap(field), starts.repeat_interleave(copies)[:, None])
        self.flow = Flow(
            shifted, integrator, depth="shared", span=(0.0, h * self.each), steps=self.each, substeps=substeps
        )

    def forward(self) -> Tensor:
        """J, a scalar."""
        states = self.states()
        gaps = states[-1, :-1] - self.nodes[1:]
        inside = torch.cat((states[:-1].transpose(0, 1).flatten(0, 1), states[-1:, -1]))
        found, kept = self.observe(inside), torch.isfinite(self.record)
        if found.shape != self.record.shape:
            raise BadInput(f"observe gives {tuple(found.shape)} for a record {tuple(self.record.shape)}; let it fit.")
        misfit = torch.where(kept, found - self.record.nan_to_num(), 0.0).square().sum() / kept.sum()
        if self.segments == 1:
            return misfit
        return misfit + 0.5 * self.rho * gaps.square().mean() + (self.multiplier * gaps).mean()

    def states(self) -> Tensor:
        """The segments, (T/M + 1, M, ...): node and states at the times of the record."""
        flat = self.nodes.reshape(-1, self.nodes.shape[-1])
        return self.flow.trajectory(flat).unflatten(1, self.nodes.shape[:-1])

    def gaps(self) -> Tensor:
        """g_m = phi(b_m) - b_{m+1}, (M - 1, ...), without a graph; zero where the segments are one solution."""
        with torch.no_grad():
            return self.states()[-1, :-1] - self.nodes[1:]

    @torch.no_grad()
    def update(self) -> float:
        """lambda <- lambda + rho g, and twice the rho where the gaps have not halved; returns their largest entry."""
        gaps = self.gaps()
        if not gaps.numel():
            return 0.0
        size = float(gaps.abs().amax())
        if self.multipliers:
            self.multiplier += self.rho * gaps
        if size > 0.5 * self._gap:
            self.rho *= 2.0
        self._gap = size
        return size

    def extra_repr(self) -> str:
        return f"segments={self.segments}, rho={self.rho:g}, multipliers={self.multipliers}"


class _Shifted(nn.Module):
    """f(t_m + s, x) for the samples of segment m, s from its start."""

    starts: Tensor

    def __init__(self, field: Field, starts: Tensor) -> None:
        super().__init__()
        self.register_buffer("starts", starts)
        self.inner = field
        self.module = getattr(field, "module", None)  # so that its parameters are found

    def forward(self, s: Any, x: Tensor) -> Tensor:
        return self.inner(self.starts + s, x, {})


def _times(t: Tensor | Sequence[float], y: Tensor) -> tuple[list[float], float]:
    times = [float(v) for v in t]
    if not isinstance(y, Tensor) or y.dim() < 2 or not y.is_floating_point():
        raise BadInput("the record y is a floating-point tensor (T, D) or (T, B, D), its first axis that of the times.")
    if len(times) != len(y) or len(times) < 3:
        raise BadInput(
            f"there are {len(times)} times for {len(y)} rows of the record; give one time per row, 3 or more."
        )
    h = (times[-1] - times[0]) / (len(times) - 1)
    worst = max(abs(b - a - h) for a, b in pairwise(times))
    if not h > 0 or not worst <= 1e-4 * h:
        raise BadInput(
            "times increase in equal steps, so that all segments are solved together; put the record on such a grid, "
            "with NaN where nothing was measured."
        )
    return times, h


def _each(segments: int, intervals: int) -> int:
    if not isinstance(segments, int) or isinstance(segments, bool) or segments < 1 or intervals % segments:
        fits = [m for m in range(1, intervals + 1) if intervals % m == 0]
        raise BadInput(
            f"segments={segments!r} does not divide the {intervals} intervals of the record; take one of {fits}."
        )
    return intervals // segments
