"""Implicit-explicit Runge-Kutta methods and splittings."""

from __future__ import annotations

from typing import Any

from ..additive import Additive
from ..splitting import Splitting

_GAMMA = "0.435866521508458999416019451193557"  # the middle root of 6 x^3 - 18 x^2 + 9 x - 1
_ARS343 = "1.208496649176010070336477684063 -0.644363170684469069752497135257 " + _GAMMA
_GAMMA3 = "1767732205903/4055673282236"
_KENCARP3 = f"1471266399579/7840856788654 -4482444167858/7529755066697 11266239266428/11593286722821 {_GAMMA3}"
_KENCARP4 = "82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4"
_ROW_5 = "-451086348788/2902428689909 -2682348792572/7519795681897 12662868775082/11960479115383"
_ROW_5 += " 3355817975965/11060851509271"
_ROW_6 = "647845179188/3216320057751 73281519250/8382639484533 552539513391/3454668386233 3354512671639/8306763924573"
_ROW_6 += " 4040/17871"

LIBRARY: dict[str, Any] = {
    "imex_euler": Additive(
        explicit=("", "1"),
        implicit=("0", "0 1"),
        b=("1 0", "0 1"),
        order=1,
        cite="Ascher, Ruuth & Spiteri 1997, (1,1,1)",
        when="Split fields at lowest cost: one solve per step, first order, the stiff part fully damped.",
    ),
    "ars222": Additive(
        explicit=("", "(2-sqrt(2))/2", "-sqrt(2)/2 (2+sqrt(2))/2"),
        implicit=("0", "0 (2-sqrt(2))/2", "0 sqrt(2)/2 (2-sqrt(2))/2"),
        b=("-sqrt(2)/2 (2+sqrt(2))/2 0", "0 sqrt(2)/2 (2-sqrt(2))/2"),
        order=2,
        cite="Ascher, Ruuth & Spiteri 1997, (2,2,2)",
        when="Split fields with fixed steps: second order for two solves, the stiff part fully damped.",
    ),
    "ars343": Additive(
        explicit=(
            "",
            _GAMMA,
            # the last row has equal entries such that the explicit part alone has the stability function of rk4
            "0.321278886028627754906831628892 0.396654374725601744801178096705",
            "-0.105858296071879647145738598151 0.552929148035939823572869299076 0.552929148035939823572869299076",
        ),
        implicit=("0", f"0 {_GAMMA}", f"0 0.282066739245770500291990274403 {_GAMMA}", f"0 {_ARS343}"),
        b=f"0 {_ARS343}",
        order=3,
        cite="Ascher, Ruuth & Spiteri 1997, (3,4,3)",
        when="Split fields with fixed steps and an advective part: stable on a piece of the imaginary axis.",
    ),
    "kencarp3": Additive(
        explicit=(
            "",
            "1767732205903/2027836641118",
            "5535828885825/10492691773637 788022342437/10882634858940",
            "6485989280629/16251701735622 -4246266847089/9704473918619 10755448449292/10357097424841",
        ),
        implicit=(
            "0",
            f"{_GAMMA3} {_GAMMA3}",
            f"2746238789719/10658868560708 -640167445237/6845629431997 {_GAMMA3}",
            _KENCARP3,
        ),
        b=_KENCARP3,
        order=3,
        b_low="2756255671327/12835298489170 -10771552573575/22201958757719 9247589265047/10645013368117"
        " 2193209047091/5459859503100",
        order_low=2,
        rounded=True,
        cite="Kennedy & Carpenter 2003, ARK3(2)4L[2]SA",
        when="Split fields with adaptive steps at loose tolerances, 1e-2 to 1e-4.",
    ),
    "kencarp4": Additive(
        explicit=(
            "",
            "1/2",
            "13861/62500 6889/62500",
            "-116923316275/2393684061468 -2731218467317/15368042101831 9408046702089/11113171139209",
            _ROW_5,
            _ROW_6,
        ),
        implicit=(
            "0",
            "1/4 1/4",
            "8611/62500 -1743/31250 1/4",
            "5012029/34652500 -654441/2922500 174375/388108 1/4",
            "15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4",
            _KENCARP4,
        ),
        b=_KENCARP4,
        order=4,
        b_low="4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932 61727/225920",
        order_low=3,
        rounded=True,
        cite="Kennedy & Carpenter 2003, ARK4(3)6L[2]SA",
        when="The default for split fields with adaptive steps, tolerances 1e-4 to 1e-8.",
    ),
    "lie_splitting": Splitting(
        flows=(("explicit", "1"), ("implicit", "1")),
        order=1,
        explicit="heun",
        implicit="sdirk2",
        cite="Trotter 1959",
        when="Split fields whose parts have good solvers of their own, first order; ends with the stiff part.",
    ),
    "lie_euler": Splitting(
        flows=(("explicit", "1"), ("implicit", "1")),
        order=1,
        explicit="euler",
        implicit="euler",
        cite="Trotter 1959",
        when="Split fields, an Euler step for one part, then for the other: attention then MLP, velocity then place.",
    ),
    "strang_splitting": Splitting(
        flows=(("implicit", "1/2"), ("explicit", "1"), ("implicit", "1/2")),
        order=2,
        explicit="rk4",
        implicit="sdirk2",
        cite="Strang 1968",
        when="Split fields with L y as stiff part, which it takes exactly, or with parts to be kept apart.",
    ),
}
