"""Methods that remember: Adams, and the two-step family of networks."""

from __future__ import annotations

from typing import Any

from ..multistep import Multistep
from ..two_step import TwoStep
from ..variable import VariableOrder

LIBRARY: dict[str, Any] = {
    "ab2": Multistep(
        alpha="0 -1 1",
        beta="-1/2 3/2 0",
        order=2,
        starter="heun",
        cite="Bashforth & Adams 1883",
        when="Second order for one evaluation per step, where f is dear and not oscillatory.",
    ),
    "ab3": Multistep(
        alpha="0 0 -1 1",
        beta="5/12 -4/3 23/12 0",
        order=3,
        starter="rk3",
        cite="Bashforth & Adams 1883",
        when="One evaluation per step and stable for oscillations up to h omega = 0.72.",
    ),
    "ab4": Multistep(
        alpha="0 0 0 -1 1",
        beta="-3/8 37/24 -59/24 55/24 0",
        order=4,
        starter="rk4",
        cite="Bashforth & Adams 1883",
        when="Fourth order for one evaluation per step, at small steps.",
    ),
    "ab5": Multistep(
        alpha="0 0 0 0 -1 1",
        beta="251/720 -637/360 109/30 -1387/360 1901/720 0",
        order=5,
        starter="rk4",
        cite="Bashforth & Adams 1883",
        when="Fifth order for one evaluation per step, where f is very smooth and steps are small.",
    ),
    "abm2": Multistep(
        alpha="0 -1 1",
        beta="0 1/2 1/2",
        predictor="-1/2 3/2 0",
        order=2,
        starter="heun",
        cite="Bashforth & Adams 1883; Moulton 1926, PECE",
        when="Second order with two evaluations per step; oscillations decay up to h omega = 1.28.",
    ),
    "abm3": Multistep(
        alpha="0 0 -1 1",
        beta="0 -1/12 2/3 5/12",
        predictor="5/12 -4/3 23/12 0",
        order=3,
        starter="rk3",
        cite="Bashforth & Adams 1883; Moulton 1926, PECE",
        when="Third order with two evaluations per step and three times the real stability interval of ab3.",
    ),
    "abm4": Multistep(
        alpha="0 0 0 -1 1",
        beta="0 1/24 -5/24 19/24 3/8",
        predictor="-3/8 37/24 -59/24 55/24 0",
        order=4,
        starter="rk4",
        cite="Bashforth & Adams 1883; Moulton 1926, PECE",
        when="Fourth order for half the evaluations of rk4, where the step is set by accuracy.",
    ),
    "abm5": Multistep(
        alpha="0 0 0 0 -1 1",
        beta="0 -19/720 53/360 -11/30 323/360 251/720",
        predictor="251/720 -637/360 109/30 -1387/360 1901/720 0",
        order=5,
        starter="rk4",
        cite="Bashforth & Adams 1883; Moulton 1926, PECE",
        when="Fifth order with two evaluations per step on smooth, dear fields.",
    ),
    "bdf2": Multistep(
        alpha="1/2 -2 3/2",
        beta="0 0 1",
        order=2,
        starter="rk4",
        cite="Curtiss & Hirschfelder 1952",
        when="Stiff problems on equal steps: A- and L-stable, one solve per step.",
    ),
    "bdf3": Multistep(
        alpha="-1/3 3/2 -3 11/6",
        beta="0 0 0 1",
        order=3,
        starter="rk4",
        cite="Curtiss & Hirschfelder 1952; Gear 1971",
        when="Stiff problems on equal steps whose oscillations decay: A(86.03 degrees).",
    ),
    "bdf4": Multistep(
        alpha="1/4 -4/3 3 -4 25/12",
        beta="0 0 0 0 1",
        order=4,
        starter="rk4",
        cite="Curtiss & Hirschfelder 1952; Gear 1971",
        when="Stiff problems with a nearly real spectrum on equal steps: A(73.35 degrees).",
    ),
    "bdf5": Multistep(
        alpha="-1/5 5/4 -10/3 5 -5 137/60",
        beta="0 0 0 0 0 1",
        order=5,
        starter="rk4",
        cite="Curtiss & Hirschfelder 1952; Gear 1971",
        when="Stiff problems with a real spectrum on equal steps at high accuracy: A(51.84 degrees).",
    ),
    "adams": VariableOrder(
        "adams",
        highest=12,
        cite="Krogh 1969; Shampine & Gordon 1975",
        when="Smooth, dear fields at tolerances from 1e-6 to 1e-12: two evaluations per step at every order.",
    ),
    "bdf": VariableOrder(
        "bdf",
        highest=5,
        cite="Gear 1971; Brenan, Campbell & Petzold 1996, section 5.2",
        when="Stiff problems with adaptive steps at tolerances from 1e-3 to 1e-8: one solve per step.",
    ),
    "lm": TwoStep(
        "learned",
        gain="paper",
        cite="Lu, Zhong, Li & Dong 2018 (LM-ResNet)",
        when="LM-ResNet as published: k is learned, and with it the speed of time, so of no order in h.",
    ),
    "momentum": TwoStep(
        -0.9,
        gain="consistent",
        cite="Sander, Ablin, Blondel & Peyre 2021 (Momentum ResNet)",
        when="Reversible training of any first-order field, gamma = 0.9, with steps h L << 1 - gamma.",
    ),
    "leapfrog": TwoStep(
        -1,
        gain=1,
        power=2,
        start="taylor",
        cite="Stormer 1907",
        when="Second-order fields y'' = f(t, y) from rest: reversible, one evaluation per step.",
    ),
    "two_step_midpoint": TwoStep(
        1,
        gain=2,
        start="taylor",
        cite="Nystrom 1925; Chang et al. 2018, the midpoint network",
        when="Antisymmetric fields: neutral up to h omega = 1, reversible, one evaluation per step.",
    ),
}
