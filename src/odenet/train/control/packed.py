"""Nets with weights of two or three values in one or two bits for each entry.

save_packed(net, "net.safetensors")        # a file of about 1/32 or 1/16 of the size
net = load_packed("net.safetensors")       # the same numbers again, bit by bit
tensors = pack(net); unpack(net, tensors)  # without a file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import BadInput
from ...nets.storage import built
from .discrete import weights_of

BITS = "bits:"  # name of the packed entries of a weight
SCALE = "scale:"  # its size s, one for every layer of a flow
ABOUT = "about:"  # bits for an entry, and shape
FORMAT = "odenet-packed-1"


@torch.no_grad()
def pack(net: nn.Module) -> dict[str, Tensor]:
    """The state of a net, matrices and kernels of values -s, s by one bit and of -s, 0, s by two bits for each entry.

    Raises BadInput where one of them has other values: train with "binary_msa", "ternary_msa" or "ternary_ste".
    """
    discrete = {id(p): rows for p, rows in weights_of(net)}
    rows = {k: discrete[id(p)] for k, p in net.named_parameters() if id(p) in discrete}
    out = dict[str, Tensor]()
    for name, value in net.state_dict().items():
        if name not in rows:
            out[name] = value.clone()
            continue
        parts = value.flatten(1) if rows[name] else value.reshape(1, -1)
        scale = parts.abs().amax(1, keepdim=True)
        signs = torch.where(scale > 0, parts / scale, parts)
        if not bool(((signs == signs.round()) & torch.isfinite(signs)).all()):
            raise BadInput(f"the weight {name!r} has more than the values -s, 0 and s; train it by ternary_msa first.")
        width = 2 if bool((signs == 0).any()) else 1
        codes = (signs + 1).to(torch.uint8) if width == 2 else (signs > 0).to(torch.uint8)
        out[BITS + name], out[SCALE + name] = _joined(codes.flatten(), width), scale.flatten()
        out[ABOUT + name] = torch.tensor([width, *value.shape])
    return out


@torch.no_grad()
def unpack(net: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Write packed weights into a net of the same form, and return it; raises BadInput for another form."""
    state = {k: v for k, v in tensors.items() if not k.startswith((BITS, SCALE, ABOUT))}
    for key, about in tensors.items():
        if key.startswith(ABOUT):
            name, (width, *shape) = key.removeprefix(ABOUT), about.tolist()
            size, scale = torch.Size(shape), tensors[SCALE + name]
            codes = _parted(tensors[BITS + name], width, size.numel()).to(scale)
            signs = codes - 1 if width == 2 else 2 * codes - 1
            state[name] = (scale[:, None] * signs.view(len(scale), -1)).view(size)
    own = {k: v.shape for k, v in net.state_dict().items()}
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name] != state[name].shape:
            raise BadInput(f"these packed weights are not of this {type(net).__name__}, which differs in {name!r}.")
    net.load_state_dict(state)
    return net


def save_packed(net: nn.Module, path: str | Path) -> Path:
    """Write `pack(net)` to a safetensors file, with the recipe of a net of odenet.nets; returns the path.

    Choose it for nets that were trained to two or three values; `odenet.save` keeps any net. Raises BadInput as `pack`.
    """
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in pack(net).items()}
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; create it first.")
    save_file(tensors, path, {"format": FORMAT, "spec": json.dumps(getattr(net, "spec", None))})
    return path


def load_packed(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """The net of a file that `save_packed` wrote: rebuilt from its recipe, or its weights put into the given module.

    Raises BadInput for another file, and for one without a recipe where `into` is not given.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except Exception as problem:  # what a damaged file makes the reader raise is not documented
        raise BadInput(f"{path} is not a readable safetensors file: {problem}.") from None
    if header.get("format") != FORMAT:
        raise BadInput(f"{path} was not written by save_packed; nets of odenet.save are read by odenet.load.")
    spec = json.loads(header["spec"])
    if into is None and spec is None:
        raise BadInput(f"{path} holds weights but no recipe; build the net yourself and write load_packed(path, net).")
    net = built(spec) if into is None else into
    dtype = next((v.dtype for k, v in tensors.items() if k.startswith(SCALE)), None)
    return unpack(net.to(dtype) if into is None else net, tensors)


def _joined(codes: Tensor, width: int) -> Tensor:
    """8 / width codes in every byte."""
    per = 8 // width
    padded = torch.cat([codes, codes.new_zeros(-len(codes) % per)]).view(-1, per)
    return (padded << (width * torch.arange(per, dtype=torch.uint8, device=codes.device))).sum(1).to(torch.uint8)


def _parted(joined: Tensor, width: int, size: int) -> Tensor:
    per = 8 // width
    shifts = width * torch.arange(per, dtype=torch.uint8, device=joined.device)
    return ((joined[:, None] >> shifts) & (2**width - 1)).flatten()[:size]
