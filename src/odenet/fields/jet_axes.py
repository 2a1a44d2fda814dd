"""Rules for what moves entries about: indexing, shapes, joining, sums over axes. The first axis is that of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Incompatible
from .jet_rules import _as_parts, _channels, _for, _refuse, _shape, _unknown
from .jets import Jet


def _view(x: Jet, parts: Tensor) -> Jet:
    x.fresh = False  # two jets share a storage now
    return Jet(parts, x.channels, fresh=False)


def _samples(what: str) -> NoReturn:
    raise Incompatible(f"{what} would touch the samples, the first axis of a jet; work on the other axes.")


def _axis(x: Jet, dim: int, what: str, more: int = 0) -> int:
    """Where axis `dim` of x is in its parts."""
    axis = dim % (x.dim() + more)
    if not axis:
        _samples(what)
    return axis + 1


def _axes(x: Jet, dim: Any, what: str) -> list[int]:
    if dim is None or (isinstance(dim, Sequence) and not dim):
        _samples(f"{what} over all axes")
    return [_axis(x, d, what) for d in (dim if isinstance(dim, Sequence) else [dim])]


def _listed(given: tuple[Any, ...]) -> Sequence[int]:
    """f(x, 1, 2) and f(x, (1, 2)) alike."""
    return given[0] if len(given) == 1 and isinstance(given[0], Sequence) else given


@_for("getitem")
def _getitem(x: Jet, index: Any) -> Jet:
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, Jet) for i in index):
        _refuse("bool")
    first = index[0] if index else slice(None)
    if first is not Ellipsis and not (isinstance(first, slice) and first == slice(None)):
        _samples(f"indexing by {first!r}" if not isinstance(first, Tensor) else "indexing by a tensor")
    if first is Ellipsis and sum(i is not None for i in index) > x.dim():
        _samples("indexing all axes")
    return _view(x, x.parts[(slice(None), *index)])


@_for("detach", ".data")
def _detach(x: Jet) -> Tensor:
    return x.parts[0].detach()


@_for(".requires_grad")
def _requires_grad(x: Jet) -> bool:
    return x.parts.requires_grad


@_for(".mT")
def _mT(x: Jet) -> Jet:
    return _transpose(x, -2, -1)


@_for("transpose", "swapaxes", "swapdims")
def _transpose(x: Jet, a: int, b: int) -> Jet:
    return _view(x, x.parts.transpose(_axis(x, a, "transpose"), _axis(x, b, "transpose")))


@_for("permute")
def _permute(x: Jet, *given: Any) -> Jet:
    dims = _listed(given)
    if dims[0] % x.dim():
        _samples("permute")
    return _view(x, x.parts.permute(0, *(d % x.dim() + 1 for d in dims)))


@_for("movedim", "moveaxis")
def _movedim(x: Jet, source: Any, to: Any) -> Jet:
    return _view(x, x.parts.movedim(_axes(x, source, "movedim"), _axes(x, to, "movedim")))


@_for("reshape", "view")
def _reshape(x: Jet, *given: Any) -> Jet:
    shape = _listed(given)
    if shape[0] not in (x.shape[0], -1):
        _samples(f"reshape to {tuple(shape)}")
    out = x.parts.reshape(len(x.channels), x.shape[0], *shape[1:])
    return _view(x, out)


@_for("flatten")
def _flatten(x: Jet, start_dim: int = 0, end_dim: int = -1) -> Jet:
    return _view(x, x.parts.flatten(_axis(x, start_dim, "flatten"), _axis(x, end_dim, "flatten")))


@_for("unflatten")
def _unflatten(x: Jet, dim: int, sizes: Any) -> Jet:
    return _view(x, x.parts.unflatten(_axis(x, dim, "unflatten"), sizes))


@_for("squeeze")
def _squeeze(x: Jet, dim: Any = None) -> Jet:
    axes = [d + 1 for d in range(1, x.dim()) if x.shape[d] == 1] if dim is None else _axes(x, dim, "squeeze")
    return _view(x, x.parts.squeeze(tuple(axes)))


@_for("unsqueeze")
def _unsqueeze(x: Jet, dim: int) -> Jet:
    return _view(x, x.parts.unsqueeze(_axis(x, dim, "unsqueeze", 1)))


@_for("expand", "broadcast_to")
def _expand(x: Jet, *given: Any) -> Jet:
    shape = _listed(given)
    if len(shape) != x.dim() or shape[0] not in (x.shape[0], -1):
        _samples(f"expand to {tuple(shape)}")
    return _view(x, x.parts.expand(-1, *shape))


@_for("expand_as")
def _expand_as(x: Jet, other: Tensor) -> Jet:
    return _expand(x, *other.shape)


@_for("view_as", "reshape_as")
def _reshape_as(x: Jet, other: Tensor) -> Jet:
    return _reshape(x, *other.shape)


@_for("narrow")
def _narrow(x: Jet, dim: int, start: int, length: int) -> Jet:
    return _view(x, x.parts.narrow(_axis(x, dim, "narrow"), start, length))


@_for("select")
def _select(x: Jet, dim: int, index: int) -> Jet:
    return _view(x, x.parts.select(_axis(x, dim, "select"), index))


@_for("index_select")
def _index_select(x: Jet, dim: int, index: Tensor) -> Jet:
    return Jet(x.parts.index_select(_axis(x, dim, "index_select"), index), x.channels)


@_for("split", "split_with_sizes")
def _split(x: Jet, size: Any, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(_view(x, part) for part in x.parts.split(size, _axis(x, dim, "split")))


@_for("chunk", "tensor_split")
def _chunk(x: Jet, pieces: int, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(_view(x, part) for part in x.parts.chunk(pieces, _axis(x, dim, "chunk")))


@_for("unbind")
def _unbind(x: Jet, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(_view(x, part) for part in x.parts.unbind(_axis(x, dim, "unbind")))


@_for("flip")
def _flip(x: Jet, *given: Any) -> Jet:
    dims = _listed(given)
    return Jet(x.parts.flip(_axes(x, dims, "flip")), x.channels)


@_for("roll")
def _roll(x: Jet, shifts: Any, dims: Any = None) -> Jet:
    return Jet(x.parts.roll(shifts, _axes(x, dims, "roll")), x.channels)


@_for("pad")
def _pad(x: Jet, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Jet:
    if mode != "constant" or len(pad) // 2 >= x.dim():
        _samples(f"padding by {tuple(pad)} in mode {mode!r}")
    if value:
        raise Incompatible("a jet is padded with zeros; put constants beside it with torch.cat.")
    return Jet(F.pad(x.parts, list(pad)), x.channels)


# ---- joining -------------------------------------------------------------------------------------------------------


def _joined(join: Callable[..., Tensor], what: str) -> Callable[..., Jet]:
    def rule(tensors: Any, dim: int = 0, *, out: None = None) -> Jet:
        some = next(x for x in tensors if isinstance(x, Jet))
        if any(x.dim() != some.dim() or x.shape[0] != some.shape[0] for x in tensors):
            raise Incompatible(f"{what} of {', '.join(map(_shape, tensors))}: give all as (N, ...) with the same N.")
        channels = _channels(*tensors)
        blocks = [_as_parts(x, some, x.shape) for x in tensors]
        axis = _axis(some, dim, what, what == "stack")
        if what == "cat" and some.dim() == 2:  # features stay before samples in memory
            return Jet(torch.cat([block.mT for block in blocks], 1).mT, channels)
        return Jet(join(blocks, axis), channels)

    return rule


for _names, _join in ((("cat", "concat", "concatenate"), torch.cat), (("stack",), torch.stack)):
    _for(*_names)(_joined(_join, _names[0]))


@_for("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def _like(*args: Any, **kwargs: Any) -> NoReturn:
    raise Incompatible(_unknown("empty_like"))


for _name in ("zeros_like", "ones_like", "full_like"):

    def _made(x: Jet, *args: Any, _name: str = _name, **kwargs: Any) -> Tensor:
        return getattr(torch, _name)(x.parts[0].detach(), *args, **kwargs)

    _for(_name)(_made)

for _name in ("new_zeros", "new_ones", "new_full", "new_tensor"):

    def _new(x: Jet, *args: Any, _name: str = _name, **kwargs: Any) -> Tensor:
        return getattr(x.parts.detach(), _name)(*args, **kwargs)

    _for(_name)(_new)


# ---- dtype and device ----------------------------------------------------------------------------------------------


@_for("to")
def _to(x: Jet, *args: Any, **kwargs: Any) -> Jet:
    return Jet(x.parts.to(*args, **kwargs), x.channels, fresh=False)


@_for("type_as")
def _type_as(x: Jet, other: Tensor) -> Jet:
    return Jet(x.parts.to(other.dtype), x.channels, fresh=False)


@_for("double")
def _double(x: Jet) -> Jet:
    return Jet(x.parts.double(), x.channels, fresh=False)


# ---- sums over axes ------------------------------------------------------------------------------------------------


@_for("sum", "nansum")
def _sum(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: None = None, out: None = None) -> Jet:
    return Jet(x.parts.sum(_axes(x, dim, "sum"), keepdim), x.channels)


@_for("mean")
def _mean(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: None = None, out: None = None) -> Jet:
    return Jet(x.parts.mean(_axes(x, dim, "mean"), keepdim), x.channels)


@_for("cumsum")
def _cumsum(x: Jet, dim: int, *, dtype: None = None, out: None = None) -> Jet:
    return Jet(x.parts.cumsum(_axis(x, dim, "cumsum")), x.channels)


@_for("prod")
def _prod(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: None = None) -> Any:
    if dim is None:
        _samples("prod over all axes")
    axis = _axis(x, dim, "prod") - 1
    out = reduce(torch.mul, x.unbind(axis))
    return out.unsqueeze(axis) if keepdim else out


@_for("var")
def _var(x: Jet, dim: Any = None, correction: int = 1, keepdim: bool = False, unbiased: bool | None = None) -> Any:
    _axes(x, dim, "var")
    gap = x - x.mean(dim, keepdim=True)
    dims = dim if isinstance(dim, Sequence) else [dim]
    count = torch.Size([x.shape[d] for d in dims]).numel()
    return (gap * gap).sum(dim, keepdim) / (count - (correction if unbiased is None else int(unbiased)))


@_for("norm", "vector_norm")
def _norm(x: Jet, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    if ord not in (2, 2.0, None):
        raise Incompatible(f"the norm of a jet is the Euclidean one, got ord={ord!r}.")
    _axes(x, dim, "norm")
    return torch.sqrt((x * x).sum(dim, keepdim))


@_for("softmax")
def _softmax(x: Jet, dim: Any = None, **_: Any) -> Any:
    _axes(x, dim, "softmax")
    top = x.detach().amax(dim, keepdim=True)
    e = torch.exp(x - top)
    return e / e.sum(dim, keepdim=True)


@_for("layer_norm")
def _layer_norm(x: Jet, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    dims = list(range(-len(shape), 0))
    _axes(x, dims, "layer_norm")
    gap = x - x.mean(dims, keepdim=True)
    y = gap * torch.rsqrt((gap * gap).mean(dims, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@_for("dropout")
def _dropout(x: Jet, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if not training or not p:
        return x
    mask = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(1.0 - p)
    return x * (mask / (1.0 - p))


# ---- in place, where nothing else sees the storage -----------------------------------------------------------------


def _in_place(name: str) -> None:
    def rule(x: Any, *args: Any, **kwargs: Any) -> Jet:
        if not isinstance(x, Jet) or not x.fresh:
            raise Incompatible(_unknown(name + "_"))
        out = getattr(torch, name)(x, *args, **kwargs)
        if out.shape != x.shape:
            raise Incompatible(f"{name}_ would change the shape of a jet from {_shape(x)} to {_shape(out)}.")
        x.parts = out.parts
        return x

    _for(name + "_")(rule)


for _name in ("add", "sub", "mul", "div", "addcmul"):
    _in_place(_name)
