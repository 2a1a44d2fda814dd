"""Normalisation of what a linear or convolution layer puts out, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ..errors import BadInput

# per name: after a linear layer of n outputs, after a convolution of n channels; None: does not apply
_LAYERS: dict[str, tuple[Callable[[int], nn.Module] | None, Callable[[int], nn.Module]]] = {
    "batch": (nn.BatchNorm1d, nn.BatchNorm2d),  # Ioffe & Szegedy 2015
    "layer": (nn.LayerNorm, lambda n: nn.GroupNorm(1, n)),  # Ba, Kiros & Hinton 2016
    "instance": (None, lambda n: nn.InstanceNorm2d(n, affine=True)),  # Ulyanov, Vedaldi & Lempitsky 2016
    "group": (None, lambda n: nn.GroupNorm(math.gcd(n, 8), n)),  # Wu & He 2018
}


def normalised(layer: nn.Linear | nn.Conv2d, kind: str | None) -> list[nn.Module]:
    """The layer with batch, layer, instance or group normalisation after it, or weight (w = g v / |v|) in it.

    Linear layers take batch, layer and weight. Raises BadInput for another kind.
    """
    if kind is None:
        return [layer]
    if kind == "weight":
        return [weight_norm(layer)]  # Salimans & Kingma 2016
    dense = isinstance(layer, nn.Linear)
    make = _LAYERS[kind][0 if dense else 1] if kind in _LAYERS else None
    if make is None:
        known = [k for k, pair in _LAYERS.items() if pair[0] or not dense] + ["weight"]
        what = "linear layer" if dense else "convolution"
        raise BadInput(f"norm={kind!r} is not known for a {what}; choose None or one of {', '.join(known)}.")
    return [layer, make(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)]
