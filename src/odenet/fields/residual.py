"""Residual branches of image networks: several linear maps with normalisation in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ..errors import BadInput
from ..types import Params, State, Time
from . import activations
from .activations import Activation
from .base import Field, normal, probability
from .maps import Conv
from .unit import NORMS, STATISTICS, normalised, normaliser


class Residual(Field):
    """Branch of a residual net on images (B, C, H, W), with L convolutions K_1, ..., K_L:

        preactivation   f = K_L s(N_L( ... K_1 s(N_1 y)))
        v1              f = N_L(K_L s( ... N_1(K_1 y)))          (to be followed by s after the sum)

    kernels: sizes of the L stencils; hidden: channels between them (default those of y); groups: of every stencil
    wider than 1 x 1; more: the state has so many channels beside the dim that are read, and f acts on those alone.
    kernels=(3, 3) is the basic block, (1, 3, 1) with hidden = dim / 4 the bottleneck, with groups > 1
    ResNeXt's. No convolution has a bias, the norms have. K ~ N(0, gain^2/fan_in).
    Choose it to build the residual nets that everybody compares with. He et al. 2016 (arXiv 1512.03385, fig. 5; arXiv
    1603.05027, fig. 4e); Xie et al. 2017 (arXiv 1611.05431). Raises BadInput for other forms or numbers.
    """

    axis = 1

    def __init__(
        self,
        dim: int,
        *,
        form: Literal["preactivation", "v1"] = "preactivation",
        kernels: Sequence[int] = (3, 3),
        hidden: int | None = None,
        groups: int = 1,
        more: int = 0,
        activation: str | Activation = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        gain: float = 2.0**0.5,
    ) -> None:
        super().__init__()
        if form not in ("preactivation", "v1") or norm not in NORMS or len(kernels) < 1:
            raise BadInput(
                f"Residual got form={form!r}, norm={norm!r}, kernels={tuple(kernels)}; write form='preactivation' or "
                f"'v1', a norm of {', '.join(NORMS)}, and one stencil at least."
            )
        inner = [dim if hidden is None else hidden] * (len(kernels) - 1)
        widths = [dim, *inner, more or dim]
        self.maps = tuple(
            Conv(cols, rows, kernel, 2, groups if kernel > 1 else 1)
            for cols, rows, kernel in zip(widths, widths[1:], kernels)
        )
        self.dim, self.form, self.norm, self.gain, self.more = dim + more, form, norm, gain, more
        self.activation = activations.resolve(activation)
        self.dropout = probability(dropout)
        self.tags = tuple(str(k + 1) for k in range(len(kernels)))
        if norm == "batch":
            self.statistics = frozenset(s + tag for s in STATISTICS for tag in self.tags)

    def init(self, generator: torch.Generator | None = None) -> Params:
        p: Params = {}
        for map, tag in zip(self.maps, self.tags):
            p["K" + tag] = normal(map.shape, self.gain * map.fan_in**-0.5, generator)
            if self.norm != "none":
                p |= normaliser(self.norm, map.cols if self.form == "preactivation" else map.rows, tag)
        return p

    def forward(self, t: Time, y: State, p: Params) -> State:
        s, last, whole = self.activation.f, self.tags[-1], y
        y = y[:, : self.dim - self.more]
        for map, tag in zip(self.maps, self.tags):
            if self.form == "preactivation":
                y = map.apply(p["K" + tag], s(self._normed(y, p, map, tag)))
            else:
                y = self._normed(map.apply(p["K" + tag], y), p, map, tag)
                y = y if tag == last else s(y)
        return torch.cat((torch.zeros_like(whole[:, : -self.more]), y), 1) if self.more else y

    def _normed(self, y: State, p: Params, map: Conv, tag: str) -> State:
        return y if self.norm == "none" else normalised(y, p, self.norm, map, tag, self.training)

    def extra_repr(self) -> str:
        return f"{self.dim}, form={self.form!r}, kernels={tuple(m.kernel for m in self.maps)}"
