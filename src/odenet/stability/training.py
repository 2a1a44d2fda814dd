"""Sensitivity over layers and over training steps, seeds or any other row of nets: the data of a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import BadInput
from .krylov import leading_sensitivity
from .sensitivity import Sensitivity, gradient_norms, sensitivity
from .tables import Table
from .tangents import LARGE, largest
from .unroll import Unrolled, unroll


def products(unrolled: Unrolled, layers: int) -> Sensitivity:
    """`sensitivity`, or `leading_sensitivity` where the states are too large for Jacobians."""
    return leading_sensitivity(unrolled, layers) if largest(unrolled) > LARGE else sensitivity(unrolled, layers)


def sensitivity_over(nets: Mapping[str, Any] | Sequence[Any], x: Tensor, layers: int = 32) -> Table:
    """Largest |dy_N/dy_j|_2 over the samples x, a row for each layer j and a column for each net.

    nets: snapshots of one training run, seeds of one architecture, or nets by name; of equal depth. None where a net's
    states are not finite. Choose it to see whether training, or luck, makes gradients vanish or explode, and where.
    Raises BadInput for nets of different depth.
    """
    named = dict(nets) if isinstance(nets, Mapping) else {str(i): net for i, net in enumerate(nets)}
    columns = [_column(net, x, layers) for net in named.values()]
    if not columns or len({(depth, tuple(at)) for depth, at, _ in columns}) > 1:
        depths = sorted({depth for depth, _, _ in columns})
        raise BadInput(f"a heat map is of nets with equal depth, one at least; these have {depths or 'no'} layers.")
    at = columns[0][1]
    return Table(("layer", *named), [(n, *(values[i] for _, _, values in columns)) for i, n in enumerate(at)])


def _column(net: Any, x: Tensor, layers: int) -> tuple[int, list[int], list[float | None]]:
    u = unroll(net, x)
    s = products(u, layers)
    values = [float(v) for v in s.backward.amax(1)]
    return u.depth, s.at, [v if math.isfinite(v) else None for v in values]


class Watch:
    """A callback of `fit` that notes |dy_N/dy_j|_2 and |dL/dtheta_j| while a net is trained.

    x:      samples at which they are taken, labels: for L (without: a random linear function of the output)
    every:  training steps between two looks; the first step is always looked at
    layers: at most so many, evenly spread

        watch = Watch(x[:8], y[:8], every=20)
        fit(net, data, callbacks=[watch])
        watch.table(), watch.gradients()

    It looks at a copy in evaluation mode, so training is not changed by it. Choose it to see when a net stops to learn.
    """

    def __init__(self, x: Tensor, labels: Tensor | None = None, *, every: int = 50, layers: int = 16) -> None:
        if not isinstance(every, int) or every < 1 or layers < 1:
            raise BadInput(f"every and layers are positive whole numbers, got {every!r} and {layers!r}.")
        self.x, self.labels, self.every, self.layers = x, labels, every, layers
        self._seen: list[tuple[int, list[int], list[float]]] = []
        self._gradients: list[tuple[int, list[tuple[str, float]]]] = []

    def __call__(self, fit: Any) -> None:
        """Note the numbers of `fit.net` if this step is one to look at."""
        step = len(fit.history)
        if step != 1 and step % self.every:
            return
        u = unroll(fit.net, self.x.to(next(fit.net.parameters())))
        s = products(u, self.layers)
        self._seen.append((step, s.at, s.backward.amax(1).tolist()))
        labels = None if self.labels is None else self.labels.to(u.x.device)
        self._gradients.append((step, gradient_norms(u.model, u.x, labels)))

    def table(self) -> Table:
        """|dy_N/dy_j|_2, the largest over samples: a row for each look, columns step and the layers."""
        layers = self._seen[0][1] if self._seen else []
        return Table(("step", *map(str, layers)), [(step, *values) for step, _, values in self._seen])

    def gradients(self) -> Table:
        """|dL/dtheta_j|: a row for each look, columns step and the places of `gradient_norms`."""
        places = [place for place, _ in self._gradients[0][1]] if self._gradients else []
        return Table(("step", *places), [(step, *(v for _, v in found)) for step, found in self._gradients])
