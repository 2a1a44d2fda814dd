"""Implicit Runge-Kutta methods, for stiff problems and for structure."""

from __future__ import annotations

from typing import Any

from ..implicit import ImplicitTableau

_HALF = "(1-sqrt(2)/2)"  # the diagonal of the L-stable two-stage methods of order 2
_W = "sqrt(2)/4"
_G = "0.43586652150845899942"  # the root 0.4359 of 6 x^3 - 18 x^2 + 9 x - 1
_KVAERNO3 = (
    f"(6*{_G}-1)/(12*{_G}) -1/((24*{_G}-12)*{_G}) (-6*{_G}**2+6*{_G}-1)/(6*{_G}-3) {_G}",
    f"(-4*{_G}**2+6*{_G}-1)/(4*{_G}) (1-2*{_G})/(4*{_G}) {_G} 0",
)
_KVAERNO5 = (
    "0.13659751177640291 0 -0.05496908796538376 -0.04118626728321046 0.62993304899016403 0.06962479448202728 0.26",
    "0.13855640231268224 0 -0.04245337201752043 0.02446657898003141 0.61943039072480676 0.26 0",
)
_ESDIRK4 = "82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4"

LIBRARY: dict[str, Any] = {
    "backward_euler": ImplicitTableau(
        a=("1",),
        b="1",
        order=1,
        properties="A-stable L-stable B-stable stiffly-accurate",
        cite="Euler 1768; Curtiss & Hirschfelder 1952",
        when="Stiff problems at low accuracy: damps whatever is fast, no order is lost.",
    ),
    "implicit_midpoint": ImplicitTableau(
        a=("1/2",),
        b="1",
        order=2,
        properties="A-stable B-stable symplectic symmetric",
        cite="Gauss-Legendre with one stage; Hairer, Lubich & Wanner 2006, section II.1",
        when="Any Hamiltonian field, separable or not: symplectic, keeps quadratic invariants.",
    ),
    "trapezoid": ImplicitTableau(
        a=("0 0", "1/2 1/2"),
        b="1/2 1/2",
        order=2,
        properties="A-stable symmetric stiffly-accurate",
        cite="Crank & Nicolson 1947",
        when="Smooth, mildly stiff problems and diffusion; jumps ring, for nothing fast is damped.",
    ),
    "sdirk2": ImplicitTableau(
        a=(f"{_HALF} 0", f"sqrt(2)/2 {_HALF}"),
        b=f"sqrt(2)/2 {_HALF}",
        order=2,
        properties="A-stable L-stable stiffly-accurate",
        cite="Alexander 1977",
        when="Stiff problems in fixed steps: second order, damps whatever is fast.",
    ),
    "tr_bdf2": ImplicitTableau(
        a=("0 0 0", f"{_HALF} {_HALF} 0", f"{_W} {_W} {_HALF}"),
        b=f"{_W} {_W} {_HALF}",
        order=2,
        b_low=f"(1-{_W})/3 (3*{_W}+1)/3 {_HALF}/3",
        order_low=3,
        estimate="filtered",
        properties="A-stable L-stable stiffly-accurate",
        cite="Bank et al. 1985; pair and filter of Hosea & Shampine 1996",
        when="Stiff problems at loose tolerances, rtol 1e-2 to 1e-4, in adaptive steps.",
    ),
    "kvaerno3": ImplicitTableau(
        a=("0 0 0 0", f"{_G} {_G} 0 0", _KVAERNO3[1], _KVAERNO3[0]),
        b=_KVAERNO3[0],
        order=3,
        b_low=_KVAERNO3[1],
        order_low=2,
        properties="A-stable L-stable stiffly-accurate",
        cite="Kvaerno 2004, ESDIRK 3/2",
        when="Stiff problems at tolerances 1e-3 to 1e-5; very stiff parts see order 2.",
    ),
    "kvaerno5": ImplicitTableau(
        a=(
            "0 0 0 0 0 0 0",
            "0.26 0.26 0 0 0 0 0",
            "0.13 0.84033320996790809 0.26 0 0 0 0",
            "0.22371961478320505 0.47675532319799699 -0.06470895363112615 0.26 0 0 0",
            "0.16648564323248321 0.10450018841591720 0.03631482272098715 -0.13090704451073998 0.26 0 0",
            _KVAERNO5[1],
            _KVAERNO5[0],
        ),
        b=_KVAERNO5[0],
        order=5,
        b_low=_KVAERNO5[1],
        order_low=4,
        cite="Kvaerno 2004, ESDIRK 5/4",
        when="Stiff problems at tolerances 1e-5 to 1e-8; very stiff parts see order 2.",
    ),
    "esdirk4": ImplicitTableau(
        a=(
            "0 0 0 0 0 0",
            "1/4 1/4 0 0 0 0",
            "8611/62500 -1743/31250 1/4 0 0 0",
            "5012029/34652500 -654441/2922500 174375/388108 1/4 0 0",
            "15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4 0",
            _ESDIRK4,
        ),
        b=_ESDIRK4,
        order=4,
        b_low="4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932 61727/225920",
        order_low=3,
        cite="Kennedy & Carpenter 2003, ARK4(3)6L[2]SA, the implicit part",
        when="Stiff problems at tolerances 1e-4 to 1e-6; the implicit half of kencarp4.",
    ),
    "radau_iia3": ImplicitTableau(
        a=("5/12 -1/12", "3/4 1/4"),
        b="3/4 1/4",
        order=3,
        order_low=2,
        estimate="slope",
        properties="A-stable L-stable B-stable stiffly-accurate",
        cite="Ehle 1969; Hairer & Wanner II, table IV.5.5",
        when="Stiff and nonlinear at moderate accuracy; two stages are solved together.",
    ),
    "radau_iia5": ImplicitTableau(
        a=(
            "(88-7*sqrt(6))/360 (296-169*sqrt(6))/1800 (-2+3*sqrt(6))/225",
            "(296+169*sqrt(6))/1800 (88+7*sqrt(6))/360 (-2-3*sqrt(6))/225",
            "(16-sqrt(6))/36 (16+sqrt(6))/36 1/9",
        ),
        b="(16-sqrt(6))/36 (16+sqrt(6))/36 1/9",
        order=5,
        order_low=3,
        estimate="slope",
        properties="A-stable L-stable B-stable stiffly-accurate",
        cite="Ehle 1969; Hairer & Wanner II, table IV.5.6 and section IV.8",
        when="Very stiff problems at tolerances 1e-4 to 1e-10: order 5, at worst 3.",
    ),
    "gauss4": ImplicitTableau(
        a=("1/4 1/4-sqrt(3)/6", "1/4+sqrt(3)/6 1/4"),
        b="1/2 1/2",
        order=4,
        properties="A-stable B-stable symplectic symmetric",
        cite="Hammer & Hollingsworth 1955; Kuntzmann 1961",
        when="Hamiltonian fields over long times: symplectic, order 4; stiff parts see order 2.",
    ),
    "gauss6": ImplicitTableau(
        a=(
            "5/36 2/9-sqrt(15)/15 5/36-sqrt(15)/30",
            "5/36+sqrt(15)/24 2/9 5/36-sqrt(15)/24",
            "5/36+sqrt(15)/30 2/9+sqrt(15)/15 5/36",
        ),
        b="5/18 4/9 5/18",
        order=6,
        properties="A-stable B-stable symplectic symmetric",
        cite="Kuntzmann 1961; Butcher 1964",
        when="Hamiltonian fields to high accuracy: symplectic, order 6; stiff parts see order 3.",
    ),
}
