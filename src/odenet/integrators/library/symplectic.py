"""Splittings of separable systems into kicks and drifts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..partitioned import Partitioned


def _verlet(*sizes: str) -> dict[str, str]:
    """Verlet steps of these fractions in a row: between two of them the kicks of both become one."""
    between = [f"(({a})+({b}))/2" for a, b in pairwise(sizes)]
    return {"kicks": " ".join([f"({sizes[0]})/2", *between, f"({sizes[-1]})/2"]), "drifts": " ".join([*sizes, "0"])}


_W = "0.78451361047755726382", "0.23557321335935813368", "-1.17767998417887100695"  # solution A, 20 places

LIBRARY: dict[str, Any] = {
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
        **_verlet("1/(2-cbrt(2))", "-cbrt(2)/(2-cbrt(2))", "1/(2-cbrt(2))"),
        order=4,
        cite="Yoshida 1990",
        when="Separable Hamiltonian fields where energy must hold to high accuracy; three forces per step.",
    ),
    "forest_ruth": Partitioned(
        kicks="0 1/(2-cbrt(2)) -cbrt(2)/(2-cbrt(2)) 1/(2-cbrt(2))",
        drifts="1/(2*(2-cbrt(2))) (1-cbrt(2))/(2*(2-cbrt(2))) (1-cbrt(2))/(2*(2-cbrt(2))) 1/(2*(2-cbrt(2)))",
        order=4,
        cite="Forest & Ruth 1990",
        when="yoshida4 with the drift first: no force to carry, so steps may be interleaved with other maps.",
    ),
    "pefrl": Partitioned(
        kicks="0 (1+2*0.2123418310626054)/2 -0.2123418310626054 -0.2123418310626054 (1+2*0.2123418310626054)/2",
        drifts="0.1786178958448091 -0.06626458266981849 1-2*(0.1786178958448091-0.06626458266981849)"
        " -0.06626458266981849 0.1786178958448091",
        order=4,
        cite="Omelyan, Mryglod & Folk 2002, position-extended Forest-Ruth-like",
        when="Fourth order with an error some twenty times below yoshida4's for four forces per step.",
    ),
    "mclachlan4": Partitioned(
        kicks="(14-sqrt(19))/108 (20-7*sqrt(19))/108 (5+2*sqrt(19))/27"
        " (5+2*sqrt(19))/27 (20-7*sqrt(19))/108 (14-sqrt(19))/108",
        drifts="2/5 -1/10 2/5 -1/10 2/5 0",
        order=4,
        cite="McLachlan 1995, S order 4 with m = 5",
        when="Fourth order with a tiny error constant and no long backward move; five forces per step.",
    ),
    "yoshida6": Partitioned(
        **_verlet(*_W, f"1-2*({_W[0]}+{_W[1]}+{_W[2]})", *_W[::-1]),
        order=6,
        cite="Yoshida 1990, solution A; digits as in Hairer, Lubich & Wanner 2006, section V.3.2",
        when="Orbits to near rounding over long times; seven forces per step.",
    ),
}
