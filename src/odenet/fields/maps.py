"""Linear maps y -> K y and their exact transposes, K passed in."""

from __future__ import annotations

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

    y (B, cols, L) or (B, cols, H, W); K (rows, cols, kernel[, kernel]) with an odd kernel; kernel = 1 is the 1x1 map.
    """

    kernel: int = 3
    dims: int = 2

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.dims not in (1, 2):
            raise BadInput(
                f"Conv got kernel={self.kernel}, dims={self.dims}; use an odd kernel so that the size is kept, dims 1 or 2."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.cols) + (self.kernel,) * self.dims

    @property
    def fan_in(self) -> int:
        return self.cols * self.kernel**self.dims

    @property
    def axis(self) -> int:
        return 1

    def apply(self, K: Tensor, y: Tensor) -> Tensor:
        conv = F.conv2d if self.dims == 2 else F.conv1d
        return conv(y, K, padding=self.kernel // 2)

    def transpose(self, K: Tensor, z: Tensor) -> Tensor:
        conv = F.conv_transpose2d if self.dims == 2 else F.conv_transpose1d
        return conv(z, K, padding=self.kernel // 2)

    def norm(self, K: Tensor, size: int = 32) -> Tensor:
        """Norm of the periodic operator on a grid of `size` points a side.

        The zero-padded operator on up to size - kernel + 1 points is a compression of it, so this bounds that norm.
        """
        lattice = (size,) * self.dims
        symbol = torch.fft.fftn(K, s=lattice, dim=tuple(range(-self.dims, 0)))
        for _ in range(self.dims):  # the two space axes in front of the channel axes
            symbol = symbol.movedim(-1, -2 - self.dims)
        lead = K.dim() - 2 - self.dims
        return torch.linalg.matrix_norm(symbol, ord=2).flatten(lead).amax(-1)

    def spread(self, b: Tensor) -> Tensor:
        return b.reshape(-1, *(1,) * self.dims)


def resolve(map: LinearMap | str | None, dim: int, rows: int | None = None) -> LinearMap:
    """A LinearMap from itself or a name: None/"dense", "conv1d", "conv2d", "conv1x1"."""
    rows = dim if rows is None else rows
    if isinstance(map, LinearMap):
        if map.cols != dim:
            raise BadInput(f"the linear map takes {map.cols} features, but the field has {dim}.")
        return map
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
