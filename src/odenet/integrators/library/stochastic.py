"""Methods for stochastic differential equations dy = f dt + g dW."""

from __future__ import annotations

from typing import Any

from ..stochastic import AdditiveNoise, EulerMaruyama, HeunStratonovich, Milstein, ReversibleHeun

LIBRARY: dict[str, Any] = {
    "euler_maruyama": EulerMaruyama(
        cite="Maruyama 1955",
        when="Ito equations with any noise, where one evaluation per step is all there is.",
    ),
    "milstein": Milstein(
        cite="Milstein 1975",
        when="Paths, not only laws: strong order 1 on diagonal or scalar noise, Ito or Stratonovich.",
    ),
    "heun_stratonovich": HeunStratonovich(
        cite="Ruemelin 1982",
        when="Stratonovich equations with any noise; second order where the noise is weak.",
    ),
    "srk": AdditiveNoise(
        a=("", "3/4"),
        b="1/3 2/3",
        d=("", "3/2"),
        s="1 0",
        v="1 0",
        e="-1 1",
        cite="Roessler 2010, SRA1",
        when="The default on additive noise: strong order 1.5 for two evaluations.",
    ),
    "srk3": AdditiveNoise(
        a=("", "1", "1/4 1/4"),
        b="1/6 1/6 2/3",
        d=("", "0", "1 1/2"),
        s="1 0 0",
        v="1 0 0",
        e="-1 1 0",
        order=3,
        cite="Roessler 2010, SRA3",
        when="Weak additive noise on a smooth drift, whose error it takes to third order.",
    ),
    "reversible_heun": ReversibleHeun(
        cite="Kidger, Foster, Li & Lyons 2021 (arXiv 2105.13493)",
        when="Training Stratonovich equations over many steps: exact gradients without kept states.",
    ),
}
