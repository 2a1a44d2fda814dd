"""Maps between blocks: of the number of features, of the resolution, or of both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadInput
from ..fields import activations
from ..flow import Invertible, Transfer
from .initialisers import initialise
from .pooling import pool


def _wider(what: str, cols: int, rows: int) -> None:
    if rows < cols:
        raise BadInput(f"padding makes states wider, but {cols} {what} were asked to become {rows}.")


def history_of(history: str) -> str:
    """ "reset" or "map"; raises BadInput for anything else."""
    if history not in ("reset", "map"):
        raise BadInput(f"history is 'reset' (the next flow starts afresh) or 'map' (it goes on), got {history!r}.")
    return history


class Pad(Transfer):
    """Zeros appended to the features, (B, cols) -> (B, rows): gives a flow room to untangle what it cannot in place
    (augmentation, Dupont et al. 2019)."""

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__()
        _wider("features", cols, rows)
        self.cols, self.rows = cols, rows

    def forward(self, y: Tensor) -> Tensor:
        return F.pad(y, (0, self.rows - self.cols))

    def extra_repr(self) -> str:
        return f"{self.cols}, {self.rows}"


class PadChannels(Transfer):
    """Every `stride`-th pixel, with zero channels appended: (B, cols, H, W) -> (B, rows, H / stride, W / stride).

    parts: the channels are so many groups and each is padded by itself, so that the halves (q, p) of a Hamiltonian
    state stay halves. With stride 2 the shortcut without weights of residual nets (He et al. 2016, option A); choose it
    where a block should widen at no cost.
    """

    def __init__(self, cols: int, rows: int, stride: int = 1, parts: int = 1, history: str = "reset") -> None:
        super().__init__()
        _wider("channels", cols, rows)
        if stride < 1 or parts < 1 or cols % parts or rows % parts:
            raise BadInput(
                f"PadChannels got stride={stride}, parts={parts} for {cols} to {rows} channels; both are positive and "
                "parts divides the numbers of channels."
            )
        self.cols, self.rows, self.stride, self.parts, self.history = cols, rows, stride, parts, history_of(history)

    def forward(self, y: Tensor) -> Tensor:
        more = (self.rows - self.cols) // self.parts
        kept = y[:, :, :: self.stride, :: self.stride]
        return torch.cat([F.pad(part, (0, 0, 0, 0, 0, more)) for part in kept.chunk(self.parts, 1)], 1)

    def extra_repr(self) -> str:
        return f"{self.cols}, {self.rows}, stride={self.stride}, history={self.history!r}"


class Pool(Transfer):
    """Pooling over k x k pixels, (B, C, H, W) -> (B, C, H // k, W // k), by name as in `pooling.pool`.

    A memory can be mapped by the linear ones, "average" and "sum".
    """

    def __init__(self, kind: str = "average", k: int = 2, history: str = "reset") -> None:
        super().__init__()
        self.pool, self.kind, self.history = pool(kind, k), kind, history_of(history)
        if history == "map" and kind not in ("average", "sum"):
            raise BadInput(f"pooling {kind!r} is not linear, so it maps no memory; use 'average', or history='reset'.")

    def forward(self, y: Tensor) -> Tensor:
        return self.pool(y)

    def extra_repr(self) -> str:
        return f"{self.kind!r}, history={self.history!r}"


class Connector(Transfer):
    """1x1 convolution without bias, batch norm, activation, mean over 2x2 pixels (`halve`): cols rows + 2 rows weights.

    (B, cols, H, W) -> (B, rows, H / 2, W / 2): joins blocks of different widths where nothing need be inverted
    (Ruthotto & Haber 2020).
    """

    def __init__(self, cols: int, rows: int, activation: str = "relu", halve: bool = True) -> None:
        super().__init__()
        self.conv = initialise(nn.Conv2d(cols, rows, 1, bias=False), "he")
        self.norm, self.activation, self.halve = nn.BatchNorm2d(rows), activations.layer(activation), halve

    def forward(self, y: Tensor) -> Tensor:
        z = self.activation(self.norm(self.conv(y)))
        return F.avg_pool2d(z, 2) if self.halve else z


class SpaceToDepth(Invertible):
    """2x2 pixels (2 samples of a signal) become channels: (B, C, H, W) -> (B, 4 C, H / 2, W / 2), nothing lost.

    Channel c gives the channels 4 c + (0, 1, 2, 3): top left, top right, bottom left, bottom right; halves of the
    channels stay halves. dims: 1 or 2. Choose it to coarsen where the inverse is to be exact to the last bit
    (RealNVP, i-RevNet). Raises BadInput for an odd size.
    """

    def __init__(self, dims: int = 2, history: str = "reset") -> None:
        super().__init__()
        self.dims, self.history = _dims(dims), history_of(history)

    def forward(self, y: Tensor) -> Tensor:
        return _to_depth(y, self.dims).flatten(1, 2)

    def inverse(self, y: Tensor) -> Tensor:
        return _to_space(y.unflatten(1, (-1, 2**self.dims)), self.dims)

    def extra_repr(self) -> str:
        return f"dims={self.dims}, history={self.history!r}"


class Haar(Invertible):
    """The orthonormal Haar wavelet transform, one level: (B, C, H, W) -> (B, 4 C, H / 2, W / 2), norms kept.

    Of every 2x2 pixels a b / c d channel c becomes the channels 4 c + (0, 1, 2, 3):
    (a + b + c + d)/2, (a - b + c - d)/2, (a + b - c - d)/2, (a - b - c + d)/2; dims = 1: (a + b, a - b)/sqrt 2.
    Choose it to coarsen without losing anything; with history="map" a wave keeps travelling (Lensink, Peters & Haber
    2019, arXiv 1905.10484). Raises BadInput for an odd size.
    """

    def __init__(self, dims: int = 2, history: str = "reset") -> None:
        super().__init__()
        self.dims, self.history = _dims(dims), history_of(history)

    def forward(self, y: Tensor) -> Tensor:
        return self._mixed(_to_depth(y, self.dims)).flatten(1, 2)

    def inverse(self, y: Tensor) -> Tensor:
        return _to_space(self._mixed(y.unflatten(1, (-1, 2**self.dims))), self.dims)

    def _mixed(self, y: Tensor) -> Tensor:
        """Sums and differences of the pixels on axis 2: symmetric and orthogonal, so it is its own inverse."""
        parts = list(y.unbind(2))
        for bit in (1, 2)[: self.dims]:
            parts = [
                parts[k ^ bit] - part if k & bit else part + parts[k | bit] for k, part in enumerate(parts)
            ]  # fmt: skip
        return torch.stack(parts, 2) * 0.5 ** (self.dims / 2)

    def extra_repr(self) -> str:
        return f"dims={self.dims}, history={self.history!r}"


def _dims(dims: int) -> int:
    if dims not in (1, 2):
        raise BadInput(f"signals have dims=1 and images dims=2, got dims={dims!r}.")
    return dims


def _to_depth(y: Tensor, dims: int) -> Tensor:
    """(B, C, 2^dims, ...): the pixels of every block on an axis of their own."""
    if y.dim() != 2 + dims or any(size % 2 for size in y.shape[2:]):
        raise BadInput(f"halving the resolution takes {2 + dims} axes with even sizes, got a state {tuple(y.shape)}.")
    if dims == 1:
        return y.unflatten(2, (-1, 2)).movedim(3, 2)
    return F.pixel_unshuffle(y, 2).unflatten(1, (-1, 4))


def _to_space(y: Tensor, dims: int) -> Tensor:
    return y.movedim(2, 3).flatten(2, 3) if dims == 1 else F.pixel_shuffle(y.flatten(1, 2), 2)
