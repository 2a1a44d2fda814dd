"""Linear maps y -> K y and their exact transposes, K passed in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput


@dataclass(frozen=True)
class LinearMap(ABC):
    """A family of linear maps from `cols` to `rows` features, one map for each weight K.

    shape:      shape of K
    fan_in:     inputs that reach one output
    axis:       axis of features in the states it acts on
    """

    cols: int
    rows: int

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def fan_in(self) -> int: ...

    @property
    @abstractmethod
    def axis(self) -> int: ...

    @abstractmethod
    def apply(self, K: Tensor, y: Tensor) -> Tensor:
        """K y."""

    @abstractmethod
    def transpose(self, K: Tensor, z: Tensor) -> Tensor:
        """K^T z with <K y, z> = <y, K^T z> exactly."""

    @abstractmethod
    def norm(self, K: Tensor) -> Tensor:
        """An upper bound of the spectral norm, sharp for dense maps; leading axes of K are passed through."""

    @abstractmethod
    def spread(self, b: Tensor) -> Tensor:
        """A vector of `rows` (or `cols`) numbers shaped to broadcast against states."""


@dataclass(frozen=True)
class Dense(LinearMap):
    """y (B, cols) -> y K^T (B, rows), K (rows, cols)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.cols)

    @property
    def fan_in(self) -> int:
        return self.cols

    @property
    def axis(self) -> int:
        return -1

    def apply(self, K: Tensor, y: Tensor) -> Tensor:
        return F.linear(y, K)

    def transpose(self, K: Tensor, z: Tensor) -> Tensor:
        return z @ K

    def norm(self, K: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(K, ord=2)

    def spread(self, b: Tensor) -> Tensor:
        return b


@dataclass(frozen=True)
class Conv(LinearMap):
    """Cross-correlation with zero padding that keeps the size, in `dims` = 1 or 2 space dimensions.

    y (B, cols, L) or (B, cols, H, W); K (rows, cols / groups, kernel[, kernel]) with an odd kernel; kernel = 1 is the
    1x1 map. groups: the channels fall into so many groups, each mapped by itself (groups = cols: depthwise).
    """

    kernel: int = 3
    dims: int = 2
    groups: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1 or self.cols % self.groups or self.rows % self.groups:
            raise BadInput(
                f"Conv got groups={self.groups} for {self.cols} to {self.rows} channels; groups divide both numbers."
            )
        if self.kernel % 2 == 0 or self.dims not in (1, 2):
            raise BadInput(
                f"Conv got kernel={self.kernel}, dims={self.dims}; use an odd kernel (it keeps the size), dims 1 or 2."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.cols // self.groups) + (self.kernel,) * self.dims

    @property
    def fan_in(self) -> int:
        return self.cols // self.groups * self.kernel**self.dims

    @property
    def axis(self) -> int:
        return 1

    def apply(self, K: Tensor, y: Tensor) -> Tensor:
        conv = F.conv2d if self.dims == 2 else F.conv1d
        return conv(y, K, padding=self.kernel // 2, groups=self.groups)

    def transpose(self, K: Tensor, z: Tensor) -> Tensor:
        conv = F.conv_transpose2d if self.dims == 2 else F.conv_transpose1d
        return conv(z, K, padding=self.kernel // 2, groups=self.groups)

    def norm(self, K: Tensor, size: int = 32) -> Tensor:
        """sup over frequencies of the norm of the symbol, from `size` frequencies a side, rounded up to a bound.

        The zero-padded operator is a compression of the one on an infinite grid, whose norm this is; between the
        frequencies a symbol of degree r = kernel // 2 exceeds its largest value on them by 1/cos(pi r/size) at most in
        each dimension (Ehlich & Zeller 1964), 0.5 % for kernel 3.
        """
        size = max(size, 4 * self.kernel)
        slack = math.cos(math.pi * (self.kernel // 2) / size) ** self.dims
        lattice = (size,) * self.dims
        symbol = torch.fft.fftn(K, s=lattice, dim=tuple(range(-self.dims, 0)))
        for _ in range(self.dims):  # the two space axes in front of the channel axes
            symbol = symbol.movedim(-1, -2 - self.dims)
        lead = K.dim() - 2 - self.dims
        if self.groups > 1:  # block-diagonal: one block for each group
            symbol = symbol.unflatten(-2, (self.groups, -1))
        return torch.linalg.matrix_norm(symbol, ord=2).flatten(lead).amax(-1) / slack

    def spread(self, b: Tensor) -> Tensor:
        return b.reshape(-1, *(1,) * self.dims)


def no_hidden(hidden: int | None, layers: int) -> None:
    """Refuse a hidden width where no second layer leads back from it."""
    if hidden is not None and layers == 1:
        raise BadInput(f"hidden={hidden} needs a second layer that leads back; write layers=2 or leave it out.")


def resolve(map: LinearMap | str | None, dim: int, rows: int | None = None, square: bool = False) -> LinearMap:
    """A LinearMap from itself or a name: None/"dense", "conv1d", "conv2d", "conv1x1".

    rows: `hidden` of a field that leads back to dim; square: it does not, so rows = dim.
    """
    if rows is not None and (not isinstance(rows, int) or rows < 1):
        raise BadInput(f"hidden is a positive whole number, got {rows!r}; write hidden=64, for instance.")
    if isinstance(map, LinearMap):
        if map.cols != dim or (map.rows != dim and square) or (rows is not None and map.rows != rows):
            wanted = f"{dim} to {dim}" if square else f"{dim} to {rows or 'hidden'}"
            raise BadInput(f"the linear map goes from {map.cols} to {map.rows} features; here it goes from {wanted}.")
        return map
    rows = dim if rows is None else rows
    known = {
        None: Dense(dim, rows),
        "dense": Dense(dim, rows),
        "conv1d": Conv(dim, rows, 3, 1),
        "conv2d": Conv(dim, rows, 3, 2),
        "conv1x1": Conv(dim, rows, 1, 2),
    }
    if map not in known:
        raise BadInput(f"linear map {map!r} is not known; write 'dense', 'conv1d', 'conv2d', 'conv1x1' or a LinearMap.")
    return known[map]
