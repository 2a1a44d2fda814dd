"""Is a trained net a discretised differential equation? What happens when its steps, its depth or one layer change.

A net that is one converges as h -> 0 with theta(t) fixed, keeps its accuracy under another solver, and loses O(h)
when a single layer is taken out. A net that has learned its integrator does not (Ott et al. 2021, arXiv 2007.15386).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible, SolveFailed
from ..flow import Flow
from .robustness import exchange, hits
from .spectrum import evenly
from .tables import Table
from .twins import refined, resampled, stretched, with_flows
from .unroll import Parts, Unrolled, in_double

REFERENCE = "dopri8"  # order 8: at a few steps per interval its error is round-off for smooth fields
TOLERANCE = 0.1  # accuracy that may be lost where two solvers are said to agree (Ott et al. 2021)


def flows_of(model: nn.Module) -> list[Flow]:
    """Its flows; raises BadInput where there are none."""
    found = [m for m in model.modules() if isinstance(m, Flow)]
    if not found:
        raise BadInput("there is no flow in this model, so no step size to change; give a Flow or a Chain with one.")
    return found


def step_of(model: nn.Module) -> float:
    """|h| of the first flow; of an adaptive one the width of its knot intervals."""
    return abs(flows_of(model)[0].h)


# ---- convergence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convergence:
    """Outputs for h, h/2, h/4, ... against each other and against a tight reference, at fixed theta(t).

    h:            step sizes of the first flow
    errors:       |y_h - y_ref| / |y_ref|, Frobenius over samples and outputs
    differences:  |y_h - y_{h/2}| / |y_ref|, one fewer
    floor:        error of the reference itself, estimated from half as many steps; slopes use what is 10 times larger
    """

    h: tuple[float, ...]
    errors: tuple[float, ...]
    differences: tuple[float, ...]
    floor: float

    @property
    def slopes(self) -> tuple[float | None, ...]:
        """log2 of the ratios of successive errors; None where the finer one is round-off."""
        return _slopes(self.errors, self.floor)

    @property
    def slopes_of_differences(self) -> tuple[float | None, ...]:
        """log2 of |y_h - y_{h/2}| / |y_{h/2} - y_{h/4}|: needs no reference."""
        return _slopes(self.differences, self.floor)

    @property
    def order(self) -> float | None:
        """The slope at the finest steps whose error is not round-off; None where there is none."""
        return next((s for s in reversed(self.slopes) if s is not None), None)

    def table(self) -> Table:
        """A row for every h."""
        slopes, others = ((None, *self.slopes), (None, *self.slopes_of_differences, None))
        rows = list(zip(self.h, self.errors, slopes, (*self.differences, None), others))
        return Table(("h", "error", "slope", "difference", "slope_of_differences"), rows)


def _slopes(values: Sequence[float], floor: float) -> tuple[float | None, ...]:
    lowest = max(10 * floor, 1e-13)
    return tuple(math.log2(a / b) if b > lowest and math.isfinite(a) else None for a, b in pairwise(values))


@torch.no_grad()
def convergence(
    model: nn.Module, x: Tensor, levels: int = 5, integrator: Any = None, reference: int = 16
) -> Convergence:
    """Depth refinement by 1, 2, 4, ... steps per knot interval with the same theta(t), in double precision.

    integrator: None: each flow's own. Steps end at the knots, so piecewise weights cost no order; the reference is
    dopri8 with `reference` steps per interval. A scheme that is not consistent with y' = f, such as LM-ResNet's as
    published, keeps an error against it while its differences still fall. Raises BadInput without flows, Incompatible
    for a field with noise.
    """
    if any("noise" in flow.integrator.needs for flow in flows_of(model)):
        raise Incompatible("a flow with noise has one output for every path, so no order at a single one.")
    if levels < 2:
        raise BadInput(f"convergence takes at least 2 levels, got {levels}.")
    net, x = in_double(model, x)
    runs = [_output(_refine(net, integrator, k), x) for k in range(levels)]
    half, true = (_output(refined(net, REFERENCE, k), x) for k in (reference // 2, reference))
    size = max(float(true.norm()), torch.finfo(true.dtype).tiny)
    errors = tuple(float((y - true).norm()) / size for y in runs)
    differences = tuple(float((a - b).norm()) / size for a, b in pairwise(runs))
    floor = float((half - true).norm()) / size / 64  # of half the steps it is 256 times that, to leading order
    return Convergence(tuple(step_of(net) / 2**k for k in range(levels)), errors, differences, floor)


def _refine(model: nn.Module, integrator: Any, doublings: int) -> nn.Module:
    """2^doublings steps per interval under an integrator or every flow's own; a memory that is carried across the knots
    is not restarted there: the knots are doubled instead, theta(t) being the same."""

    def change(flow: Flow) -> Flow:
        if integrator is None and flow.integrator.history and not flow.march.restart:
            return resampled(flow, doublings)
        return flow.with_integrator(integrator or flow.integrator, flow.steps * flow.substeps * 2**doublings)

    return with_flows(model, change)


def _output(model: nn.Module, x: Tensor) -> Tensor:
    try:
        return model(x)
    except SolveFailed:
        return torch.full((len(x), 1), math.nan, dtype=x.dtype)


# ---- other depths, weights prolonged --------------------------------------------------------------------------------


@torch.no_grad()
def extrapolation(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    steps: Sequence[int] = (-1, 1),
    spans: Sequence[float] = (0.5, 2.0),
) -> Table:
    """The net at other depths with the same theta(t): N/2 and 2N intervals, and T' = T/2 and 2T.

    steps: doublings of the number of knot intervals, T as it is;  spans: T'/T, see `twins.stretched`
    Columns: what was changed, by which factor, h, |dy|/|y|, accuracy (with labels). Depths that the number of
    intervals does not allow are left out. A discretised ODE keeps its output for other N; for other T none does.
    """
    model = model.eval()
    rows: list[tuple[Any, ...]] = []
    changes: list[tuple[str, float, Callable[[Flow], Flow]]] = [("none", 1.0, lambda flow: flow)]
    changes += [("N", 2.0**k, partial(resampled, doublings=k)) for k in steps]
    changes += [("T", s, partial(stretched, factor=s)) for s in spans]
    own = model(x)
    for what, factor, change in changes:
        try:
            twin = with_flows(model, change).eval()
        except (BadInput, Incompatible):
            continue
        out = _output(twin, x)
        moved = float((out - own).norm() / own.norm())
        score = None if y is None else hits(out, y)
        rows.append((what, factor, step_of(twin), moved if math.isfinite(moved) else math.inf, score))
    return Table(("changed", "factor", "h", "output_change", "accuracy"), rows)


@torch.no_grad()
def prolongation(model: nn.Module, x: Tensor, prolonged: nn.Module | None = None) -> float:
    """|net(x) - prolonged(x)| / |net(x)|, in double precision: how far the net is from itself with twice the layers.

    prolonged: None: the same theta(t) with 2N knot intervals, h/2. O(h^p) for a net that is a method of order p
    applied to smooth weights; of order 1 where the net is no discretisation. Choose it before multilevel training.
    """
    flows_of(model)
    twin = with_flows(model, partial(resampled, doublings=1)) if prolonged is None else prolonged
    net, wide = in_double(model, x)
    own = net(wide)
    return float((own - in_double(twin, x)[0](wide)).norm() / own.norm())


# ---- lesions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesions:
    """The net without one layer, for layers `at`: change |dy|/|y| of the output, (J, P), and accuracies with labels.

    h: width of the layer's knot interval, None outside flows
    """

    at: list[int]
    h: list[float | None]
    change: Tensor
    accuracy: list[float] | None

    def table(self) -> Table:
        """A row for every layer that could be left out."""
        scores: Sequence[float | None] = self.accuracy or [None] * len(self.at)
        means = self.change.mean(1).tolist()
        return Table(("layer", "h", "output_change", "accuracy"), list(zip(self.at, self.h, means, scores)))


@torch.no_grad()
def lesions(unrolled: Unrolled, y: Tensor | None = None, layers: int = 64) -> Lesions:
    """Outputs with the identity instead of one layer, at no more than `layers` evenly spread ones.

    Layers that change the shape of the state cannot be left out and are skipped. In a discretised ODE one layer moves
    the state by h f, so each lesion is O(h); in a net whose layers do different things it is not (Veit et al. 2016).
    """
    u = unrolled
    same = [n for n in range(u.depth) if _alike(u.states[n], u.states[n + 1])]
    at, size = evenly(same, layers) if same else [], len(u.states[0][0])
    copies: Parts | None = None  # all lesioned runs so far, side by side in the batch
    for n, layer in enumerate(u.layers):
        copies = None if copies is None else layer.run(copies)
        if n in at:
            fresh = u.states[n]
            copies = fresh if copies is None else tuple(torch.cat(pair) for pair in zip(copies, fresh))
    own = u.leave(u.states[-1][0]).flatten(1)
    if copies is None:
        return Lesions([], [], own.new_zeros(0, size), None if y is None else [])
    out = u.leave(copies[0]).flatten(1).reshape(len(at), size, -1)
    change = (out - own).norm(dim=2) / own.norm(dim=1)
    widths = [abs(i.width) if (i := u.layers[n].interval) else None for n in at]
    return Lesions(at, widths, change, None if y is None else (out.argmax(2) == y).double().mean(1).tolist())


def _alike(before: Parts, after: Parts) -> bool:
    return [p.shape for p in before] == [p.shape for p in after]


# ---- train solver against test solver -------------------------------------------------------------------------------


def solver_matrix(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    integrators: Sequence[Any] = ("euler", "heun", "rk4", "dopri5"),
    factors: Sequence[float] = (0.5, 1, 2, 4),
) -> Table:
    """Accuracy of trained nets under other integrators at h times `factors`, and what is lost against their own.

    Columns: trained (key of the net), tested, factor, h, accuracy, drop. Pairs that do not suit are left out. Embedded
    methods such as dopri5 run with fixed steps here.
    """
    rows = []
    for name, model in models.items():
        own = exchange_own(model, x, y)
        found = exchange(model, x, y, integrators, [1 / f for f in factors])
        rows += [(name, i, 1 / k, step_of(model) / k, a, own - a) for (i, k), a in found.items()]
    return Table(("trained", "tested", "factor", "h", "accuracy", "drop"), rows)


@torch.no_grad()
def exchange_own(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy of a net as it was trained."""
    return hits(_output(model.eval(), x), y)


def critical_step(gaps: Mapping[float, float], tolerance: float = TOLERANCE) -> float | None:
    """The largest h at which two solvers agree, |difference in accuracy| <= tolerance there and at every smaller h.

    gaps: h -> difference. For one net over test steps it is the step up to which another solver may be used; for nets
    trained with different h under the train and a finer test solver it is the h below which training finds an ODE (Ott
    et al. 2021). None where they do not agree at the smallest h.
    """
    found = None
    for h in sorted(gaps):
        if not abs(gaps[h]) <= tolerance + 1e-12:
            break
        found = h
    return found


def critical_steps(
    found: Mapping[tuple[str, float], float], own: float, h: float, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Integrator -> critical step, from accuracies by (integrator, factor) as `exchange` gives them; 0 for none."""
    names = dict.fromkeys(name for name, _ in found)
    gaps = {name: {h / k: a - own for (n, k), a in found.items() if n == name} for name in names}
    return {name: critical_step(gap, tolerance) or 0.0 for name, gap in gaps.items()}
