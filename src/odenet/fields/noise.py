"""Stochastic differential equations dy = f dt + g dW: a drift and a diffusion as one field."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import Params, State, Time
from .additive import Composite, RightHandSide

Noise = Literal["diagonal", "scalar", "additive", "general"]
Interpretation = Literal["ito", "stratonovich"]


class Noisy(Composite):
    """dy = f(t, y) dt + g(t, y) dW, in the sense of Ito, or of Stratonovich (g o dW).

    drift, diffusion: f and g; callables of (t, y) or (y), modules, or Fields
    noise says what g is, and with it what W is (batch B is axis 0 of a state with two or more axes):
        "diagonal"  g has the shape of y, g_i depends on y_i alone, each entry of y has a motion of its own
        "scalar"    g has the shape of y, all entries of a sample share one motion
        "additive"  g does not depend on y; its shape is that of y, a motion per entry, or with `dim=m` (*y.shape, m)
        "general"   g is (*y.shape, m) with `dim=m`, each sample has m motions
    interpretation: the two agree for additive noise. A physical limit of smooth noise is Stratonovich; finance is Ito.

    Choose additive noise where the model allows: methods reach order 1.5 on it. `as_stratonovich()` and `as_ito()` give
    the same process in the other sense. Raises BadInput for an unknown word, a missing or idle `dim`, a second-order
    drift, and a diffusion of another shape.
    """

    offers = frozenset({"noise"})

    def __init__(
        self,
        drift: RightHandSide,
        diffusion: RightHandSide,
        noise: Noise = "diagonal",
        interpretation: Interpretation = "ito",
        dim: int | None = None,
    ) -> None:
        _check(noise, interpretation, dim)
        super().__init__(drift=drift, diffusion=diffusion)
        self.noise, self.interpretation, self.dim = noise, interpretation, dim
        self._shift = 0.0  # times sum_j (dg_j/dy) g_j is added to the drift

    # ---- what integrators read -----------------------------------------------------------------------------------

    def forward(self, t: Time, y: State, p: Params) -> State:
        """The drift f, shape of y."""
        f = self.evaluate("drift", t, y, p)
        return f + self._shift * self._turn(t, y, p) if self._shift else f

    def diffusion(self, t: Time, y: State, p: Params) -> Tensor:
        """g, the shape of y, or (*y.shape, m) where `dim` is m."""
        g = self.parts["diffusion"](t, y, self.of("diffusion", p))
        wanted = y.shape if self.dim is None else (*y.shape, self.dim)
        if g.shape != wanted:
            raise BadInput(
                f"the diffusion of {self.noise} noise for a state {tuple(y.shape)} has the shape {tuple(wanted)}, but "
                f"it returned {tuple(g.shape)}; write for example sigma * torch.ones_like(y), or choose another noise."
            )
        return g

    def brownian_shape(self, y: State) -> tuple[int, ...]:
        """Shape of an increment dW of the motions that drive the state y."""
        batch = tuple(y.shape[:1]) if y.dim() >= 2 else ()
        if self.dim is not None:
            return (*batch, self.dim)
        return (*batch, *(1 for _ in y.shape[1:])) if self.noise == "scalar" else tuple(y.shape)

    # ---- the other interpretation --------------------------------------------------------------------------------

    def as_stratonovich(self) -> Noisy:
        """The same process in the sense of Stratonovich: drift f - 1/2 sum_j (dg_j/dy) g_j, by forward mode."""
        return self._in("stratonovich", -0.5)

    def as_ito(self) -> Noisy:
        """The same process in the sense of Ito: drift f + 1/2 sum_j (dg_j/dy) g_j, by forward mode."""
        return self._in("ito", 0.5)

    def _in(self, interpretation: Interpretation, shift: float) -> Noisy:
        if interpretation == self.interpretation:
            return self
        other = copy.copy(self)
        other.interpretation = interpretation
        other._shift = 0.0 if self.noise == "additive" else self._shift + shift
        return other

    @property
    def corrected(self) -> bool:
        """Whether the drift holds a correction, which for diagonal noise supposes that g_i depends on y_i alone."""
        return self._shift != 0.0

    def _turn(self, t: Time, y: State, p: Params) -> State:
        """sum_j (dg_j/dy) g_j."""
        g = self.diffusion(t, y, p)
        if self.dim is None:
            return _along(lambda x: self.diffusion(t, x, p), y, g)
        total = torch.zeros_like(y)
        for j, column in enumerate(g.unbind(-1)):
            total = total + _along(partial(self._column, t, p, j), y, column)
        return total

    def _column(self, t: Time, p: Params, j: int, y: State) -> State:
        return self.diffusion(t, y, p)[..., j]

    def extra_repr(self) -> str:
        motions = f", dim={self.dim}" if self.dim else ""
        return f"noise={self.noise!r}, interpretation={self.interpretation!r}{motions}"


def _check(noise: str, interpretation: str, dim: int | None) -> None:
    if noise not in ("diagonal", "scalar", "additive", "general"):
        raise BadInput(f"noise {noise!r} is not known; write 'diagonal', 'scalar', 'additive' or 'general'.")
    if interpretation not in ("ito", "stratonovich"):
        raise BadInput(f"interpretation {interpretation!r} is not known; write 'ito' or 'stratonovich'.")
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim < 1):
        raise BadInput(f"dim is the number of motions of a sample, 1 or more, got {dim!r}.")
    if noise == "general" and dim is None:
        raise BadInput("general noise needs dim=m, the number of motions that drive each sample.")
    if noise in ("diagonal", "scalar") and dim is not None:
        raise BadInput(f"{noise} noise takes no dim (got {dim}): its diffusion has the shape of the state.")


def _along(g: Callable[[State], Tensor], y: State, v: State) -> Tensor:
    """The directional derivative (dg/dy) v."""
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.func.jvp(g, (y,), (v,))[1]
