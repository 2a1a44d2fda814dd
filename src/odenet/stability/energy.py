"""Whether a method keeps what the exact flow keeps: the energy of a field whose weights are held fixed; and whether two
trajectories approach each other as fast as the logarithmic norm promises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..fields import FirstOrder, Parabolic, SecondOrder
from ..types import Carry
from .spectrum import LayerSpectrum
from .unroll import Interval, Unrolled

STEPS = 256


def energy_along(interval: Interval, y: Tensor, steps: int = STEPS) -> Tensor:
    """H(y_n) for n = 0..steps of the autonomous field with the weights at the start of the interval, (steps +
    1, P).

    The step size is the flow's own. The field must offer "energy"; with weights that vary the energy is not
    kept even by the exact flow, which is why one interval is frozen.
    """
    field, p = interval.flow.march.field, interval.rhs.weights(interval.t)
    return torch.stack([field.energy(y, p) for y in _frozen(interval, y, steps)])  # type: ignore[operator]


def _frozen(interval: Interval, y: Tensor, steps: int) -> list[Tensor]:
    """y_0, ..., y_steps with the weights at the start of the interval."""
    method, h, t, coef = interval.flow.integrator, interval.h, interval.t, interval.coef or None
    rhs = type(interval.rhs)(interval.flow.march.field, interval.rhs.weights(t))
    carry: Carry = method.init(rhs, t, y, h, coef)
    out = [y]
    for n in range(steps):
        y, _, carry, *_ = method.step(rhs, t + n * h, y, h, carry, coef)
        out.append(y)
    return out


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


def energy_over_linear(unrolled: Unrolled, steps: int = STEPS) -> float | None:
    """max over n of E(y_n)/E_lin for y'' = -K^T s(z), z = K y + b, over samples; None where no flow is of that kind.

        E = (|y'|^2 + z^T s(z))/2,     E_lin = (|y'(0)|^2 + |z(0)|^2)/2, which y'' = -K^T z keeps

    At most 1 for the exact flow where s(z)/z falls with |z| from at most 1 (tanh, relu), whatever the span: nothing
    blows up. More than 1 by a multiple of h^2 is the discretisation. Weights are those of the first interval.
    Ruthotto & Haber 2020 (arXiv 1804.04272), theorem 2.
    """
    for layer, state in zip(unrolled.layers, unrolled.states):
        force = None if layer.interval is None else _force(layer.interval)
        if force is not None and layer.interval is not None:
            with torch.no_grad():
                ratio = float(_energies(layer.interval, force, state[0], steps).max())
            return ratio if ratio == ratio else float("inf")
    return None


def _force(interval: Interval) -> Parabolic | None:
    """The parabolic force of a second-order flow with |s(x)| <= |x|."""
    field = interval.flow.march.field
    field = field.field if isinstance(field, FirstOrder) else field
    force = field.force if isinstance(field, SecondOrder) else None
    if not isinstance(force, Parabolic) or "lipschitz" not in force.offers:
        return None
    s = force.unit.activation
    low, high = s.slope
    return force if 0.0 <= low <= high <= 1.0 and float(s.f(torch.zeros(()))) == 0.0 else None


def _energies(interval: Interval, force: Parabolic, y: Tensor, steps: int) -> Tensor:
    """E(y_n)/E_lin, (about steps, P)."""
    p, h = interval.rhs.weights(interval.t), interval.h
    path, field = _frozen(interval, y, steps), interval.flow.march.field
    if isinstance(field, FirstOrder):
        pairs = [field.split(state) for state in path]
    else:  # y_{-1} = y_0, so y'(0) = 0; later y' by central differences
        pairs = [(path[0], torch.zeros_like(y))]
        pairs += [(b, (c - a) / (2 * h)) for a, b, c in zip(path, path[1:], path[2:])]
    unit = force.unit
    z = [unit.map.apply(p["K"], q) + unit.map.spread(p["b"]) for q, _ in pairs]
    speed = torch.stack([(v**2).flatten(1).sum(1) for _, v in pairs])
    E = speed + torch.stack([(k * unit.activation.f(k)).flatten(1).sum(1) for k in z])
    return E / (speed[0] + (z[0] ** 2).flatten(1).sum(1)).clamp(min=1e-30)


def decay_rates(unrolled: Unrolled, growth: Tensor, found: Sequence[LayerSpectrum]) -> tuple[Tensor, Tensor] | None:
    """(1/T) log(|d_N|/|d_0|) of two trajectories and its bound (1/T) integral lognorm_2 dt along them, (P,) each.

    growth: of a small perturbation, `perturbation_growth`, (N + 1, P); found: `spectra` of the layers
    The bound holds for the exact flow, to the accuracy of the left-point rule; a method that exceeds it loses decay to
    its step size. None where the layers are not those of flows alone. Dahlquist 1958; Soderlind 2006.
    """
    if not found or any(layer.interval is None for layer in unrolled.layers):
        return None
    time = sum(abs(layer.interval.width) for layer in unrolled.layers)  # type: ignore[union-attr]
    bound = torch.stack([s.interval.width * s.lognorm_2 for s in found]).sum(0) * unrolled.depth / len(found)
    return growth[-1].double().cpu().log() / time, bound.double().cpu() / time
