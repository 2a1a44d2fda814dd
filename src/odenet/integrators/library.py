"""The integrators that come with odenet, as data."""

from __future__ import annotations

from typing import Any

from .multistep import Multistep, TwoStep
from .partitioned import Partitioned
from .registration import register
from .runge_kutta import Tableau

_TSIT5 = "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774"

LIBRARY: dict[str, Any] = {
    "euler": Tableau(
        a=("",),
        b="1",
        order=1,
        cite="Euler 1768",
        when="The ResNet layer; use it where one evaluation per step is all there is.",
    ),
    "midpoint": Tableau(
        a=("", "1/2"),
        b="0 1",
        order=2,
        cite="Runge 1895",
        when="Second order for two evaluations when stages must stay inside the step.",
    ),
    "heun": Tableau(
        a=("", "1"),
        b="1/2 1/2",
        order=2,
        cite="Heun 1900",
        when="Second order; what Euler keeps positive or monotone stays so.",
    ),
    "heun_euler": Tableau(
        a=("", "1"),
        b="1/2 1/2",
        order=2,
        b_low="1 0",
        order_low=1,
        cite="Heun 1900, Euler embedded",
        when="Adaptive steps at the loosest tolerances: two evaluations and a rough estimate.",
    ),
    "fehlberg2": Tableau(
        a=("", "1/2", "1/256 255/256"),
        b="1/512 255/256 1/512",
        order=2,
        b_low="1/256 255/256 0",
        order_low=1,
        cite="Fehlberg 1969, RKF1(2)",
        when="Adaptive steps at loose tolerances where the second-order error must be tiny.",
    ),
    "heun3": Tableau(
        a=("", "1/3", "0 2/3"),
        b="1/4 0 3/4",
        order=3,
        cite="Heun 1900",
        when="Third order with two stages of weight; torchdiffeq offers the same under this name.",
    ),
    "ralston": Tableau(
        a=("", "2/3"),
        b="1/4 3/4",
        order=2,
        cite="Ralston 1962, second order",
        when="Second order with the smallest bound on the local error.",
    ),
    "rk3": Tableau(
        a=("", "1/2", "-1 2"),
        b="1/6 2/3 1/6",
        order=3,
        cite="Kutta 1901",
        when="The cheapest Runge-Kutta method that is stable on a piece of the imaginary axis.",
    ),
    "ssprk3": Tableau(
        a=("", "1", "1/4 1/4"),
        b="1/6 1/6 2/3",
        order=3,
        cite="Shu & Osher 1988",
        when="Hyperbolic problems and positivity: convex combinations of Euler steps.",
    ),
    "rk4": Tableau(
        a=("", "1/2", "0 1/2", "0 0 1"),
        b="1/6 1/3 1/3 1/6",
        order=4,
        cite="Kutta 1901",
        when="The default with fixed steps: smooth fields and moderate accuracy.",
    ),
    "rk4_38": Tableau(
        a=("", "1/3", "-1/3 1", "1 -1 1"),
        b="1/8 3/8 3/8 1/8",
        order=4,
        cite="Kutta 1901, 3/8 rule",
        when='To compare with torchdiffeq, whose "rk4" this is.',
    ),
    "bosh3": Tableau(
        a=("", "1/2", "0 3/4", "2/9 1/3 4/9"),
        b="2/9 1/3 4/9 0",
        order=3,
        b_low="7/24 1/4 1/3 1/8",
        order_low=2,
        cite="Bogacki & Shampine 1989",
        when="Adaptive steps at loose tolerances, 1e-2 to 1e-4.",
    ),
    "dopri5": Tableau(
        a=(
            "",
            "1/5",
            "3/40 9/40",
            "44/45 -56/15 32/9",
            "19372/6561 -25360/2187 64448/6561 -212/729",
            "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
            "35/384 0 500/1113 125/192 -2187/6784 11/84",
        ),
        b="35/384 0 500/1113 125/192 -2187/6784 11/84 0",
        order=5,
        b_low="5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
        order_low=4,
        cite="Dormand & Prince 1980, RK5(4)7M",
        when="The default with adaptive steps: smooth, non-stiff, tolerances 1e-4 to 1e-9.",
    ),
    "tsit5": Tableau(
        a=(
            "",
            "0.161",
            "-0.008480655492356989 0.335480655492357",
            "2.8971530571054935 -6.359448489975075 4.3622954328695815",
            "5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525",
            "5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 -0.028269050394068383",
            _TSIT5,
        ),
        b=f"{_TSIT5} 0",
        order=5,
        b_low="0.09824077787029082 0.010816434459657 0.4720087724042376 1.5237195812770048"
        " -3.8724266808886363 2.782792630028961 -1/66",
        order_low=4,
        cite="Tsitouras 2011",
        when="Like dopri5 with a smaller error per evaluation.",
    ),
    "polynet2": Tableau(
        a=("", "1"),
        b="0 1",
        order=1,
        polynomial="1 1 1",
        cite="Zhang et al. 2017 (PolyNet), as a tableau",
        when="To study PolyNet: backward Euler's Neumann series cut after z^2, stable for h lambda <= 1.",
    ),
    "polynet3": Tableau(
        a=("", "1", "0 1"),
        b="0 0 1",
        order=1,
        polynomial="1 1 1 1",
        cite="Zhang et al. 2017 (PolyNet), as a tableau",
        when="To study PolyNet: the Neumann series of backward Euler cut after z^3.",
    ),
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
    "symplectic_euler": Partitioned(
        kicks="1",
        drifts="1",
        order=1,
        cite="de Vogelaere 1956",
        when="Separable Hamiltonian fields at lowest cost; a RevNet block is one step.",
    ),
    "verlet": Partitioned(
        kicks="1/2 1/2",
        drifts="1 0",
        order=2,
        cite="Verlet 1967; Swope et al. 1982",
        when="Separable Hamiltonian fields: second order, symplectic, reversible, one force per step.",
    ),
    "yoshida4": Partitioned(
        kicks="1/(2*(2-cbrt(2))) (1-cbrt(2))/(2*(2-cbrt(2))) (1-cbrt(2))/(2*(2-cbrt(2))) 1/(2*(2-cbrt(2)))",
        drifts="1/(2-cbrt(2)) -cbrt(2)/(2-cbrt(2)) 1/(2-cbrt(2)) 0",
        order=4,
        cite="Yoshida 1990",
        when="Separable Hamiltonian fields where energy must hold to high accuracy; three forces per step.",
    ),
}

for _name, _data in LIBRARY.items():
    register(_name, _data)
