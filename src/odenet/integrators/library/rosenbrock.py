"""Rosenbrock methods."""

from __future__ import annotations

from typing import Any

from ..rosenbrock import Rosenbrock

_RODAS4_M = "1.221224509226641 6.019134481288629 12.53708332932087 -0.6878860361058950"

LIBRARY: dict[str, Any] = {
    # The fourth stage, which needs no evaluation, serves the estimate alone. The published weights (1/3, 1/3, 1/3) give
    # the stability function of the method itself: on linear problems their estimate is 0, whatever the step. With the
    # fourth stage it is -1/6 (z / (1 - gamma z))^3 there, and on nonlinear terms the published one.
    "ros3p": Rosenbrock(
        alpha=("", "1", "1 0", "1 0 0"),
        gamma=(
            "1/2+sqrt(3)/6",
            "-1 1/2+sqrt(3)/6",
            "-1/2-sqrt(3)/6 -1/2-sqrt(3)/3 1/2+sqrt(3)/6",
            "-1-11*sqrt(3)/18 0 sqrt(3)/9 1/2+sqrt(3)/6",
        ),
        b="2/3 0 1/3 0",
        order=3,
        b_low="1/3 1/3 -2/3 1",
        order_low=2,
        cite="Lang & Verwer 2001, ROS3P, with an error estimate of its own",
        when="Stiff diffusion problems at loose tolerances: third order without reduction, two evaluations a step.",
    ),
    "rodas4": Rosenbrock(
        alpha=(
            "",
            "1.544",
            "0.9466785280815826 0.2557011698983284",
            "3.314825187068521 2.896124015972201 0.9986419139977817",
            _RODAS4_M,
            f"{_RODAS4_M} 1",
        ),
        gamma=(
            "1/4",
            "-5.6688 1/4",
            "-2.430093356833875 -0.2063599157091915 1/4",
            "-0.1073529058151375 -9.594562251023355 -20.47028614809616 1/4",
            "7.496443313967647 -10.24680431464352 -33.99990352819905 11.70890893206160 1/4",
            "8.083246795921522 -7.981132988064893 -31.52159432874371 16.31930543123136 -6.058818238834054 1/4",
        ),
        b=f"{_RODAS4_M} 1 1",
        order=4,
        b_low=f"{_RODAS4_M} 1 0",
        order_low=3,
        substituted=True,
        cite="Hairer & Wanner 1996, RODAS",
        when="Stiff systems up to some hundred equations at medium tolerances; driven stiff parts see order 2.",
    ),
}
