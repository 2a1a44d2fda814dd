"""Exponential Runge-Kutta methods and exponential Rosenbrock methods."""

from __future__ import annotations

from typing import Any

from ..exponential import Exponential

LIBRARY: dict[str, Any] = {
    "etd1": Exponential(
        c="0",
        a=((),),
        b=("phi1(1)",),
        order=1,
        cite="Certaine 1960; Cox & Matthews 2002, ETD1",
        when="A stiff linear part and one evaluation per step: exact where the rest is constant.",
    ),
    "etd2rk": Exponential(
        c="0 1",
        a=((), ("phi1(1)",)),
        b=("phi1(1) - phi2(1)", "phi2(1)"),
        order=2,
        cite="Cox & Matthews 2002, ETD2RK; Strehmel & Weiner 1992",
        when="A stiff linear part at low cost: second order whatever its size, without order reduction.",
    ),
    "etdrk4": Exponential(
        c="0 1/2 1/2 1",
        a=((), ("1/2*phi1(1/2)",), ("0", "1/2*phi1(1/2)"), ("phi1(1) - phi1(1/2)", "0", "phi1(1/2)")),
        b=(
            "phi1(1) - 3*phi2(1) + 4*phi3(1)",
            "2*phi2(1) - 4*phi3(1)",
            "2*phi2(1) - 4*phi3(1)",
            "4*phi3(1) - phi2(1)",
        ),
        order=4,
        cite="Cox & Matthews 2002, ETDRK4; Kassam & Trefethen 2005",
        when="Semilinear PDEs in Fourier space, periodic and smooth; elsewhere its order may fall to 2.",
    ),
    "krogstad4": Exponential(
        c="0 1/2 1/2 1",
        a=(
            (),
            ("1/2*phi1(1/2)",),
            ("1/2*phi1(1/2) - phi2(1/2)", "phi2(1/2)"),
            ("phi1(1) - 2*phi2(1)", "0", "2*phi2(1)"),
        ),
        b=(
            "phi1(1) - 3*phi2(1) + 4*phi3(1)",
            "2*phi2(1) - 4*phi3(1)",
            "2*phi2(1) - 4*phi3(1)",
            "4*phi3(1) - phi2(1)",
        ),
        order=4,
        cite="Krogstad 2005, ETDRK4-B",
        when="Like etdrk4 where boundaries are not periodic: its order does not fall below 3.",
    ),
    "exp_rosenbrock2": Exponential(
        c="0",
        a=((),),
        b=("phi1(1)",),
        order=2,
        about="jacobian",
        cite="Pope 1963; Hochbruck, Ostermann & Schweitzer 2009",
        when="Stiff systems of some dozen equations with no linear part set apart, in equal steps.",
    ),
    "exprb32": Exponential(
        c="0 1",
        a=((), ("phi1(1)",)),
        b=("phi1(1) - 2*phi3(1)", "2*phi3(1)"),
        order=3,
        about="jacobian",
        b_low=("phi1(1)", "0"),
        order_low=2,
        cite="Hochbruck, Ostermann & Schweitzer 2009, exprb32",
        when="Stiff or oscillating systems of some dozen equations in adaptive steps, two evaluations each.",
    ),
}
