"""A pretended accelerator: tensors that compute here and say that they live elsewhere.

A method that makes a tensor without saying where mixes two devices on a real accelerator, and nowhere else. Inside
`Accelerator()` the same mixing raises on any machine. Values are real, so that control by numbers works as usual.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("meta")
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_ZERO = torch.ops.aten._efficientzerotensor.default  # what forward mode makes of a missing tangent


class Away(Tensor):
    """A tensor of the pretended accelerator."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=AWAY
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class MixedDevices(RuntimeError):
    """A tensor of the host met one of the accelerator."""


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    away = any(isinstance(x, Away) for x in tensors)
    if away and func not in _MOVES:
        for x in tensors:
            if not isinstance(x, Away) and x.dim() > 0:  # numbers may come from the host, as on real devices
                raise MixedDevices(f"{func.overloadpacket.__name__} of a host tensor {tuple(x.shape)} and the state")
    target = kwargs.get("device")
    func = torch.ops.aten.zeros.default if func is _ZERO else func
    plain = {k: torch.device("cpu") if k == "device" and v is not None else _bare(v) for k, v in kwargs.items()}
    out = func(*tree_map(_bare, args), **plain)
    stays = away if target is None else torch.device(target) == AWAY
    return tree_map(_wrapped, out) if stays else out


def _bare(x: Any) -> Any:
    return x.here if isinstance(x, Away) else x


def _wrapped(x: Any) -> Any:
    return Away(x) if isinstance(x, Tensor) and not isinstance(x, Away) else x


class _FromData(TorchFunctionMode):
    """torch.tensor(..., device=accelerator), which builds its answer out of sight of the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], Away):
            return args[0].here.tolist()
        made = func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None
        if made and torch.device(kwargs["device"]) == AWAY:
            return func(*args, **{**kwargs, "device": "cpu"}).to(AWAY)
        return func(*args, **kwargs)


class Accelerator:
    """Context in which `Away` tensors work and factories obey device=AWAY."""

    def __init__(self) -> None:
        self._modes = (_Dispatch(), _FromData())

    def __enter__(self) -> None:
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *what: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*what)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})
