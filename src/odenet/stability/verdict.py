"""One sentence about a network: what was found, how it is known, at which layer, and what to do.

proved     follows from the structure of field and method, for every input
indicated  follows from eigenvalues, which do not see products: enough to warn, never to call a network stable
measured   holds for the samples that were given, over the whole depth
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from .. import integrators
from ..errors import Incompatible
from ..flow import Flow, check_pair
from .region import NEUTRAL, growth
from .sensitivity import Sensitivity
from .spectrum import LayerSpectrum, compounded, exact_growth, stable_step
from .unroll import Unrolled, name_of

# Growth of |dy_N/dy_j| or |dy_j/dy_0| that still counts as bounded: one decimal digit. A perturbation of the size of
# pixel noise (1 %) stays below the size of the signal, and gradients of all layers suit one learning rate.
BOUNDED = 10.0
# A gradient that loses three digits on its way is lost beside those of later layers under any one learning rate.
VANISHING = 1e-3

# Products of amplifications outside the region: below the first not worth a sentence; from the second on the
# method is to blame for growth that was measured, unless the exact flow is expected to grow more.
_WORTH_SAYING, _TO_BLAME = 1.1, 2.0
# Nobody makes a network this much deeper to stabilise it.
_MOST_REFINEMENT = 8

Standing = Literal["proved", "indicated", "measured"]
_OTHERS = ("rk4", "two_step_midpoint", "rk3", "heun")
_SEPARABLE = ("symplectic_euler", "verlet", "rk4")


@dataclass(frozen=True)
class Verdict:
    """sentence, what it rests on, whether the network is stable (None: the evidence disagrees), the layer it points to
    (counted from 0) and the remedy ("" where none is needed).

    About the state between opening and head; what these two do is in `output_sensitivity` alone.
    """

    sentence: str
    standing: Standing
    stable: bool | None
    layer: int | None = None
    remedy: str = ""

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from."""

    unrolled: Unrolled
    spectra: Sequence[LayerSpectrum]
    products: Sensitivity | None
    nonexpansive: bool
    nonvanishing: bool
    exact_nonexpansive: bool


def judge(e: Evidence) -> Verdict:
    """The verdict: broken, proved, spectra, growth, bounded, in this order."""
    if e.unrolled.finite_until < e.unrolled.depth or e.products is None:
        return _broken(e)
    if e.nonexpansive:
        return _proved(e)
    worst = _largest(e.products)
    depth = sum(layer.interval is not None for layer in e.unrolled.layers)
    expected = compounded(e.spectra, depth)
    outside = [s for s in e.spectra if bool(s.outside.any())] if expected > _WORTH_SAYING else []
    if worst[0] <= BOUNDED:
        return _indicated(e, outside, worst, expected) if expected > BOUNDED else _bounded(e, outside, worst)
    if expected >= max(_TO_BLAME, exact_growth(e.spectra, depth)):
        return _indicated(e, outside, worst, expected)
    return _grows(e, worst, expected)


def _largest(products: Sensitivity) -> tuple[float, str, int]:
    """The largest norm found, the name of what it is the norm of, and the layer."""
    depth = products.at[-1] + 1
    back, ahead = products.backward.amax(1), products.forward.amax(1)
    i, k = int(back.argmax()), int(ahead.argmax())
    if float(ahead[k]) > float(back[i]):
        return float(ahead[k]), f"|dy_{products.at[k] + 1}/dy_0|", products.at[k]
    return float(back[i]), f"|dy_{depth}/dy_{products.at[i]}|", products.at[i]


def _broken(e: Evidence) -> Verdict:
    layer = min(e.unrolled.finite_until, e.unrolled.depth - 1)
    remedy = "use more steps over the same span, a shorter span or smaller weights"
    return Verdict(
        f"Measured unstable: layer {layer} gives numbers that are not finite; {remedy}.",
        "measured",
        False,
        layer,
        remedy,
    )


def _proved(e: Evidence) -> Verdict:
    fading, remedy, layer = _vanishing(e)
    return Verdict(
        f"Proved stable: {_reason(e)}, whatever the input{fading}.",
        "proved",
        True,
        layer,
        remedy,
    )


def _reason(e: Evidence) -> str:
    intervals = [layer.interval for layer in e.unrolled.layers if layer.interval is not None]
    if all("monotone" in interval.flow.march.field.offers for interval in intervals):
        return (
            f"the field is monotone and h lies within the contractivity limit of {name_of(intervals[0].flow)} at every "
            "layer, so no perturbation of the state grows"
        )
    return (
        "the Lipschitz constants of the layers, bounded by the singular values of their weights, multiply to 1 at "
        "most, so no perturbation of the first state is larger in the last"
    )


def _vanishing(e: Evidence) -> tuple[str, str, int | None]:
    """A clause about gradients that vanish, or about the proof that they do not."""
    if e.nonvanishing:
        return "; gradients cannot vanish (proved: every step has determinant 1, so |dy_N/dy_j| >= 1)", "", None
    assert e.products is not None
    low = e.products.backward.amin(1)
    i = int(low.argmin())
    if float(low[i]) >= VANISHING:
        return "", "", None
    at, remedy = e.products.at[i], "use a Hamiltonian or antisymmetric field, or a shorter span"
    return f"; but gradients vanish, |dy_N/dy_{at}| = {float(low[i]):.1e} (measured): {remedy}", remedy, at


def _indicated(
    e: Evidence, outside: Sequence[LayerSpectrum], worst: tuple[float, str, int], expected: float
) -> Verdict:
    top = max(outside, key=lambda s: s.worst)
    remedy = remedy_for(e.spectra)
    seen = worst[0] > BOUNDED
    found = (
        f"measured {worst[1]} = {_number(worst[0])}"
        if seen
        else (
            f"the inputs given show no more than {worst[1]} = {_number(worst[0])}, where the spectra let one expect "
            f"{_number(expected)}"
        )
    )
    return Verdict(
        f"Indicated {'unstable' if seen else 'instability'}: {_where(outside, top, len(e.spectra))}; {found}. "
        f"Remedy: {remedy}.",
        "indicated",
        False if seen else None,
        top.layer,
        remedy,
    )


def _where(outside: Sequence[LayerSpectrum], top: LayerSpectrum, analysed: int) -> str:
    layers = [s.layer for s in outside]
    if len(layers) == analysed > 1:
        which = "every layer lies"
    else:
        which = f"{spans(layers, analysed)} {'lies' if len(layers) == 1 else 'lie'}"
    name = name_of(top.interval.flow)
    return f"{which} outside the region of {name} (largest |amplification| {_factor(top.worst)} at layer {top.layer})"


def _grows(e: Evidence, worst: tuple[float, str, int], expected: float) -> Verdict:
    value, what, layer = worst
    shorter = "a shorter span, smaller weights"
    if not e.spectra:
        why, remedy = "", "use residual steps with a small h, normalisation, or smaller weights"
    elif any(bool(s.expected.any()) for s in e.spectra):
        top = max(e.spectra, key=lambda s: float(s.abscissa.max()))
        rate = float(top.abscissa.max())
        why = f" the field itself grows (Re lambda = {rate:.3g} at layer {top.layer}), which no step size removes;"
        remedy = f"use {shorter}, or an antisymmetric or parabolic field"
        layer = top.layer
    else:
        top = max(e.spectra, key=lambda s: float(s.lognorm_2.max()))
        inside = (
            "every eigenvalue lies inside the region"
            if expected == 1.0
            else (f"modes outside the region explain no more than a factor {_factor(expected)}")
        )
        departure = "" if top.henrici is None else f", departure from normality {float(top.henrici.max()):.2g}"
        why = (
            f" yet {inside}: the growth is transient (logarithmic norm {float(top.lognorm_2.max()):.3g}{departure}) or "
            "comes from the change of the Jacobian with depth;"
        )
        remedy = f"use {shorter}, a parabolic field, or weights that vary slowly with depth"
        layer = top.layer
    sentence = f"Measured unstable: {what} = {_number(value)} (bound {BOUNDED:g});{why} {remedy}."
    return Verdict(sentence, "measured", False, layer, remedy)


def _bounded(e: Evidence, outside: Sequence[LayerSpectrum], worst: tuple[float, str, int]) -> Verdict:
    value, what, _ = worst
    fading, remedy, layer = _vanishing(e)
    slow = ""
    if outside:
        top = max(outside, key=lambda s: s.worst)
        cure = remedy_for(e.spectra)
        remedy, layer = remedy or cure, top.layer
        where = _where(outside, top, len(e.spectra))
        slow = f"; {where}, too little to matter at this depth, but it compounds: {cure}"
    exact = (
        "; the exact flow is non-expansive (proved), this discretisation need not be" if e.exact_nonexpansive else ""
    )
    return Verdict(
        f"Measured stable for these inputs: perturbations grow by a factor of {_factor(value)} at most ({what})"
        f"{fading}{exact}{slow}.",
        "measured",
        True,
        layer,
        remedy,
    )


def remedy_for(spectra: Sequence[LayerSpectrum]) -> str:
    """How to bring the modes inside: a smaller h, in numbers, and a method that has them inside at the present h."""
    flow = spectra[0].interval.flow
    now, limit = max(abs(s.interval.h) for s in spectra), stable_step(spectra)
    ways = []
    if 0 < limit < now <= _MOST_REFINEMENT * limit:
        factor = math.ceil(now / limit * flow.substeps - 1e-9)
        way = f" (these weights: with_integrator({flow.integrator.name!r}, steps={flow.steps * factor}))"
        ways.append(f"reduce h by {_up(now / limit)}{way if flow.integrator.name else ''}")
    other = fitting(spectra)
    if other:
        ways.append(f"use {other}")
    if not ways:
        ways.append("use a shorter span or smaller weights")
    return " or ".join(ways)


def fitting(spectra: Sequence[LayerSpectrum]) -> str:
    """A method that the field suits and whose region holds all decaying modes at the present h; "" if none does."""
    flow = spectra[0].interval.flow
    for name in _SEPARABLE if "separable" in flow.march.field.offers else _OTHERS:
        if name != flow.integrator.name and _suits(flow, name) and _holds(name, spectra):
            return name
    return ""


def _suits(flow: Flow, name: str) -> bool:
    try:
        check_pair(flow.field, integrators.get(name))
    except Incompatible:
        return False
    return True


def _holds(name: str, spectra: Sequence[LayerSpectrum]) -> bool:
    z = torch.cat([s.scaled[~s.expected] for s in spectra])
    return not z.numel() or bool((growth(name, z) <= 1.0 + NEUTRAL).all())


def spans(layers: Sequence[int], analysed: int) -> str:
    """[3, 4, 5, 9] -> "layers 3-5, 9"; more than four runs are counted, "7 of 16 layers"."""
    runs: list[list[int]] = []
    for n in sorted(layers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    if len(runs) > 4:
        return f"{len(layers)} of {analysed} layers"
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {text}"


def _number(x: float) -> str:
    return f"{x:.3g}" if 1e-3 <= x < 1e4 else f"{x:.1e}"


def _factor(x: float) -> str:
    """A factor near 1 with the digits that tell it from 1."""
    return f"1 + {x - 1:.1g}" if 1.0 < x < 1.01 else _number(x)


def _up(x: float) -> str:
    """Rounded upwards to two digits, because a smaller factor would not do."""
    digits = 1 - math.floor(math.log10(x))
    return f"{math.ceil(x * 10**digits - 1e-9) / 10**digits:g}"
