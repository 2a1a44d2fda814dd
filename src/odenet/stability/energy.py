"""Whether a method keeps what the exact flow keeps: the energy of a field whose weights are held fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Carry
from .unroll import Interval, Unrolled

STEPS = 256


def energy_along(interval: Interval, y: Tensor, steps: int = STEPS) -> Tensor:
    """H(y_n) for n = 0..steps of the autonomous field with the weights at the start of the interval, (steps +
    1, P).

    The step size is the flow's own. The field must offer "energy"; with weights that vary the energy is not
    kept even by the exact flow, which is why one interval is frozen.
    """
    field, method = interval.flow.march.field, interval.flow.integrator
    p = interval.rhs.weights(interval.t)
    rhs = type(interval.rhs)(field, p)
    coef, h, t = interval.coef or None, interval.h, interval.t
    out = [field.energy(y, p)]  # type: ignore[operator]
    carry: Carry = method.init(rhs, t, y, h, coef)
    for n in range(steps):
        y, _, carry, *_ = method.step(rhs, t + n * h, y, h, carry, coef)
        out.append(field.energy(y, p))  # type: ignore[operator]
    return torch.stack(out)


def energy_drift(unrolled: Unrolled, steps: int = STEPS) -> float | None:
    """Largest |H(y_n) - H(y_0)|/|H(y_0)| over `steps` steps and all samples, in the first interval of the
    first flow whose field offers an energy; None if there is none, inf where the run overflows."""
    for layer, state in zip(unrolled.layers, unrolled.states):
        interval = layer.interval
        if interval is not None and "energy" in interval.flow.march.field.offers:
            with torch.no_grad():
                H = energy_along(interval, state[0], steps)
            drift = float(((H - H[0]).abs() / H[0].abs().clamp(min=1e-12)).max())
            return drift if drift == drift else float("inf")
    return None
