"""Saving and loading networks without pickle: tensors in safetensors, the recipe as JSON in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import BadInput
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
    header = {"format": FORMAT, "spec": json.dumps(getattr(net, "spec", None))}
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
    not fit.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path} to load a net from.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as problem:
        raise BadInput(f"{path} is not a readable safetensors file: {problem}.") from None
    if header.get("format") != FORMAT:
        raise BadInput(f"{path} was not written by odenet.save; load its weights with safetensors instead.")
    net = _rebuilt(path, header) if into is None else into
    try:
        net.load_state_dict(tensors)
    except RuntimeError as problem:
        raise BadInput(f"the weights in {path} do not fit {type(net).__name__}: {problem}") from None
    return net


def _rebuilt(path: Path, header: dict[str, str]) -> nn.Module:
    try:
        spec: Any = json.loads(header.get("spec", "null"))
        name, args = spec["net"], dict(spec["args"])
    except (json.JSONDecodeError, TypeError, KeyError, ValueError):
        raise BadInput(
            f"{path} holds weights but no recipe (the net was not made by a function of odenet.nets from plain values); "
            "build the net yourself and write load(path, into=net)."
        ) from None
    options = args.pop("options", {})
    try:
        return NETS.get(name)(**args, **options)
    except TypeError as problem:
        raise BadInput(f"the recipe in {path} does not fit net {name!r}: {problem}.") from None
