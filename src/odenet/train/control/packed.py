"""Nets with weights of two or three values in one or two bits for each entry.

tensors = pack(net)                 # of uint8 and the rest of the state, to be written by safetensors
unpack(net, tensors)                # the same numbers again
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import BadInput
from .discrete import weights_of

BITS = "bits:"  # name of the packed entries of a weight
ABOUT = "about:"  # its scale, bits for an entry, and shape


@torch.no_grad()
def pack(net: nn.Module) -> dict[str, Tensor]:
    """The state of a net, matrices and kernels of values -s, s by one bit and of -s, 0, s by two bits for each entry.

    Raises BadInput where one of them has other values: train with "binary_msa" or "ternary_msa".
    """
    discrete = {id(p) for p, _ in weights_of(net)}
    names = {k for k, p in net.named_parameters() if id(p) in discrete}
    out = dict[str, Tensor]()
    for name, value in net.state_dict().items():
        if name not in names:
            out[name] = value.clone()
            continue
        scale = value.abs().max()
        signs = value / scale
        if not bool(((signs == signs.round()) & torch.isfinite(signs)).all()):
            raise BadInput(f"the weight {name!r} has more than the values -s, 0 and s; train it by ternary_msa first.")
        width = 2 if bool((signs == 0).any()) else 1
        codes = (signs + 1).to(torch.uint8) if width == 2 else (signs > 0).to(torch.uint8)
        out[BITS + name] = _joined(codes.flatten(), width)
        out[ABOUT + name] = torch.tensor([float(scale), float(width), *map(float, value.shape)], dtype=torch.float64)
    return out


@torch.no_grad()
def unpack(net: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Write packed weights into a net of the same form, and return it."""
    state = {k: v for k, v in tensors.items() if not k.startswith((BITS, ABOUT))}
    own = net.state_dict()
    for key, about in tensors.items():
        if key.startswith(ABOUT):
            name, (scale, width, *shape) = key.removeprefix(ABOUT), about.tolist()
            size = torch.Size(int(n) for n in shape)
            codes = _parted(tensors[BITS + name], int(width), size.numel())
            signs = codes.to(own[name]) - 1 if int(width) == 2 else 2 * codes.to(own[name]) - 1
            state[name] = (torch.tensor(scale).to(own[name]) * signs).view(size)
    net.load_state_dict(state)
    return net


def _joined(codes: Tensor, width: int) -> Tensor:
    """8 / width codes in every byte."""
    per = 8 // width
    padded = torch.cat([codes, codes.new_zeros(-len(codes) % per)]).view(-1, per)
    return (padded << (width * torch.arange(per, dtype=torch.uint8, device=codes.device))).sum(1).to(torch.uint8)


def _parted(joined: Tensor, width: int, size: int) -> Tensor:
    per = 8 // width
    shifts = width * torch.arange(per, dtype=torch.uint8, device=joined.device)
    return ((joined[:, None] >> shifts) & (2**width - 1)).flatten()[:size]
