"""The building block of layers: z = s(N(K y + V u + b)) with a constrained K, and its transpose K^T z."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import Params
from .activations import Activation
from .base import driven_by, normal
from .constraints import Constraint
from .maps import LinearMap

NORMS = ("none", "batch", "tv")
STATISTICS = ("mean", "var")

# While a list is set here, batch norm uses batch statistics and appends (running mean, running variance, batch mean,
# batch variance): how `calibrate` learns them without any forward pass writing into the network.
Observation = tuple[Tensor, Tensor, Tensor, Tensor, int]
observed: ContextVar[list[Observation] | None] = ContextVar("observed", default=None)


@dataclass(frozen=True)
class Unit:
    """s(N(K y + V u + b)): names of its weights are K, b, V, scale, shift, mean, var, each followed by `tag`.

    norm "batch" normalises over all axes but the features; "tv" divides by the root of the sum of squares over the
    features at every sample and pixel (Ruthotto & Haber, eq. 9); both with a trainable scale and shift, which take the
    place of b.
    """

    map: LinearMap
    activation: Activation
    constraint: Constraint
    norm: str = "none"
    inputs: int = 0
    gain: float = 1.0
    tag: str = ""

    def __post_init__(self) -> None:
        known(self.norm)

    @property
    def statistics(self) -> frozenset[str]:
        return frozenset(s + self.tag for s in STATISTICS) if self.norm == "batch" else frozenset()

    def init(self, generator: torch.Generator | None) -> Params:
        """K ~ N(0, gain^2/fan_in), b = 0, V ~ N(0, 1/inputs), scale 1, shift 0."""
        rows, tag = self.map.rows, self.tag
        p = {"K" + tag: normal(self.map.shape, self.gain * self.map.fan_in**-0.5, generator)}
        if self.inputs:
            p["V" + tag] = normal((rows, self.inputs), self.inputs**-0.5, generator)
        return p | ({"b" + tag: torch.zeros(rows)} if self.norm == "none" else normaliser(self.norm, rows, tag))

    def constrain(self, p: Params) -> Params:
        return {**p, "K" + self.tag: self.constraint.apply(p["K" + self.tag], self.map)}

    def __call__(self, y: Tensor, p: Params, training: bool) -> Tensor:
        """s(N(K y + V u + b))."""
        tag, spread = self.tag, self.map.spread
        if self.map.axis == -1 and not self.inputs and self.norm == "none":
            return self.activation.f(torch.nn.functional.linear(y, p["K" + tag], p["b" + tag]))
        z = self.map.apply(p["K" + tag], y)
        if self.inputs:
            z = z + torch.nn.functional.linear(driven_by(p, y), p["V" + tag])
        if self.norm == "none":
            return self.activation.f(z + spread(p["b" + tag]))
        return self.activation.f(normalised(z, p, self.norm, self.map, tag, training))

    def transpose(self, z: Tensor, p: Params) -> Tensor:
        """K^T z."""
        return self.map.transpose(p["K" + self.tag], z)

    def potential(self, y: Tensor, p: Params) -> Tensor:
        """1^T P(K y + b), P' = s, summed over all but the batch: its gradient in y is K^T s(K y + b)."""
        z = self.map.apply(p["K" + self.tag], y) + self.map.spread(p["b" + self.tag])
        return self.activation.primitive(z).flatten(1).sum(1)  # type: ignore[misc]


def known(norm: str) -> str:
    """The norm; raises BadInput for one that there is not."""
    if norm not in NORMS:
        raise BadInput(f"norm {norm!r} is not known inside a field; write one of {', '.join(NORMS)}.")
    return norm


def normaliser(norm: str, rows: int, tag: str) -> Params:
    """Initial weights of a normalisation over `rows` features: scale 1, shift 0, and running statistics."""
    p = {"scale" + tag: torch.ones(rows), "shift" + tag: torch.zeros(rows)}
    return p | ({"mean" + tag: torch.zeros(rows), "var" + tag: torch.ones(rows)} if norm == "batch" else {})


def normalised(z: Tensor, p: Params, norm: str, map: LinearMap, tag: str, training: bool) -> Tensor:
    """N(z) along the features of `map`: "batch", or "tv"; then scale and shift."""
    spread = map.spread
    if norm == "batch":
        z = _batch_norm(z, p, map, tag, training)
    else:
        z = z * torch.rsqrt((z * z).sum(map.axis, keepdim=True) + 1e-3)
    return z * spread(p["scale" + tag]) + spread(p["shift" + tag])


def _batch_norm(z: Tensor, p: Params, map: LinearMap, tag: str, training: bool) -> Tensor:
    spread, mean, var = map.spread, p["mean" + tag], p["var" + tag]
    watch = observed.get()
    if training or watch is not None:
        axes = [a for a in range(z.dim()) if a != map.axis % z.dim()]
        batch_var, batch_mean = torch.var_mean(z, dim=axes, correction=0)
        if watch is not None:
            watch.append((mean, var, batch_mean.detach(), batch_var.detach(), z.numel() // mean.numel()))
        mean, var = batch_mean, batch_var
    return (z - spread(mean)) * torch.rsqrt(spread(var) + 1e-5)
