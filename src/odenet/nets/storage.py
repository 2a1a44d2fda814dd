"""Saving and loading networks without pickle: tensors in safetensors, the recipe as JSON in its header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..flow.multilevel import prolong, restrict
from .base import NETS

FORMAT = "odenet-1"


def save(net: nn.Module, path: str | Path) -> Path:
    """Write the weights of `net`, and the recipe to rebuild it if it came from the zoo, to one safetensors file.

    The file appears complete or not at all (written beside, synced, renamed). Returns the path.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path} is a folder; save needs a file name such as {path / 'net.safetensors'}.")
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; create it first.")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in net.state_dict().items()}
    spec = json.dumps(getattr(net, "spec", None))
    header = {"format": FORMAT, "spec": spec, "digest": _digest(spec, tensors)}
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(to_bytes(tensors, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """The network in a file: rebuilt from its recipe, or its weights put into the given module.

    Raises BadInput for a file that is absent, damaged, not odenet's, without a recipe and `into`, or whose weights do
    not fit (`into` is then left as it was).
    """
    path = Path(path)
    header, tensors = _read(path)
    net = _rebuilt(path, header) if into is None else into
    _check_fit(path, net, tensors)
    # a rebuilt net takes the dtypes of the file as well; a given one keeps its own
    net.load_state_dict(tensors, assign=into is None)
    return net


def _digest(spec: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that makes the net, so that a damaged file is refused and not read as another net."""
    seal = hashlib.sha256(spec.encode())
    for name in sorted(tensors):
        value = tensors[name]
        seal.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        seal.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return seal.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file that `save` wrote and nothing has changed since."""
    from safetensors import safe_open

    if not path.is_file():
        raise BadInput(f"there is no file {path} to load a net from.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as problem:  # what a damaged file makes the reader raise is not documented
        raise BadInput(f"{path} is not a readable safetensors file: {problem}.") from None
    if header.get("format") != FORMAT:
        raise BadInput(f"{path} was not written by odenet.save; load its weights with safetensors instead.")
    if header.get("digest") != _digest(header.get("spec", ""), tensors):
        raise BadInput(f"{path} is damaged: its content is not what odenet.save wrote; use another copy.")
    return header, tensors


def _check_fit(path: Path, net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Before anything is copied, so that a net that does not fit stays as it is."""
    own = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            raise BadInput(
                f"the weights in {path} do not fit {type(net).__name__}: {name!r} has shape "
                f"{given.get(name, 'none')} in the file and {own.get(name, 'none')} in the net."
            )


def _rebuilt(path: Path, header: dict[str, str]) -> nn.Module:
    spec: Any = json.loads(header["spec"])
    if spec is None:
        raise BadInput(
            f"{path} holds weights but no recipe (the net was not made by a function of odenet.nets from plain "
            "values); build the net yourself and write load(path, into=net)."
        )
    return built(spec)


def built(spec: Mapping[str, Any]) -> nn.Module:
    """The net of a recipe {"net": name, "args": {...}, "doublings": d}, with its initial weights."""
    name, args = spec["net"], dict(spec["args"])
    options = args.pop("options", {})
    net = NETS.get(name)(**args, **options)
    for _ in range(abs(doublings := spec.get("doublings", 0))):
        net = prolong(net) if doublings > 0 else restrict(net)
    return net
