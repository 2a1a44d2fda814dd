"""Trained nets in another width or at another resolution; to another depth they go by `flow.multilevel`.

widen(net, 64)                   more features, the same function
rescale_stencils(net, 0.5)       the same differential operators on pixels half as far apart
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible
from ..fields import HamiltonianJ
from ..flow import Chain, Flow
from .baselines import AsImage
from .storage import built
from .transfer import Pad


@torch.no_grad()
def widen(net: Chain, width: int | Sequence[int], start: str = "drawn") -> Chain:
    """A new net of greater width that computes the same: weights that lead from new to old coordinates are zero.

    width:  of a dense net; of an image net the widths of its blocks
    start:  "drawn": new coordinates among themselves have the weights of a fresh net, so that training reaches them
            "zero": they have none and stay at zero (plain zero padding); so does the gradient of their weights
    Halves (q, p) are padded each by itself. Under a norm over all channels ("tv") or a bound on the whole spectrum the
    weights of the flow start at zero in either case, and those of the opening alone are drawn. Choose it between two
    runs of training: the step in width beside `prolong` in depth. Raises BadInput for a width that is not greater,
    Incompatible where the net has no recipe or cannot stay the same (which is tried out before it is given back).
    """
    if start not in ("drawn", "zero"):
        raise BadInput(f"start is 'drawn' or 'zero', got {start!r}.")
    spec = _recipe(net)
    word = "widths" if "widths" in spec["args"] else "width"
    if word not in spec["args"]:
        raise Incompatible(f"the net {spec['net']!r} has no width to choose, so it cannot be made wider.")
    spec["args"][word] = width if isinstance(width, int) else list(width)
    given = next(net.parameters())
    for drawn in ((True, True), (True, False)) if start == "drawn" else ((False, False),):
        wide = built(spec).to(given.device, given.dtype)
        assert isinstance(wide, Chain)
        old, new = _widths(net), _widths(wide)
        if len(old) != len(new) or any(b < a for a, b in zip(old, new)) or old == new:
            raise BadInput(f"this net has the width {old}; widen makes it wider, but was asked for {width!r}.")
        _pad(net, wide, *drawn)
        if _same(net, wide, spec["args"].get("dim_in")):
            return wide.train(net.training)
    raise Incompatible(
        f"the net {spec['net']!r} does not stay the same when it is padded with zeros: something in it mixes all "
        "coordinates; train a wider net instead" + (", or try start='zero'." if start == "drawn" else ".")
    )


def _recipe(net: nn.Module) -> dict[str, Any]:
    spec = getattr(net, "spec", None)
    if not isinstance(net, Chain) or spec is None:
        raise Incompatible(f"only a chain made by a function of odenet.nets can be widened, not {type(net).__name__}.")
    spec = copy.deepcopy(spec)
    spec["args"].update(spec["args"].pop("options", {}))
    return spec


def _widths(net: nn.Module) -> list[int]:
    return [flow.field.dim for flow in net.modules() if isinstance(flow, Flow)]  # type: ignore[misc]


def _places(old: Flow, new: Flow) -> Tensor:
    """Where the coordinates of a state go: in front, or those of each half (q, p) in front of it."""
    field = old.field
    a, b = int(field.dim), int(new.field.dim)  # type: ignore[arg-type]
    halves = "separable" in field.offers or (isinstance(field, HamiltonianJ) and field.J == "canonical")
    return torch.cat((torch.arange(a // 2), torch.arange(a // 2) + b // 2)) if halves else torch.arange(a)


def _pad(net: Chain, wide: Chain, opening: bool, flows: bool) -> None:
    """The weights of `net` into those of `wide`, part by part; fresh ones are kept among new coordinates where told."""
    states = [_places(a, b) for a, b in zip(net.flows(), wide.flows())]
    came, n = torch.arange(0), 0
    for a, b in zip(net.parts, wide.parts):
        goes = states[n] if n < len(states) else torch.arange(0)
        if isinstance(a, Flow) and isinstance(b, Flow):
            target = _stored(b)
            for name, w in _stored(a).items():
                _put(target[name], w, goes, goes, flows or w.dim() == 2)
            came, n = goes, n + 1
            continue
        if isinstance(a, Pad) and not torch.equal(goes[: a.cols], torch.arange(a.cols)):
            raise Incompatible(f"padding would move some of the {a.cols} inputs to the other half of the state.")
        for layer, like in zip(a.modules(), b.modules()):
            target = dict(like.named_parameters(recurse=False)) | dict(like.named_buffers(recurse=False))
            for name, w in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
                linear = isinstance(layer, nn.Linear | nn.Conv2d)
                _put(target[name][None], w[None], goes, came, opening or (w.dim() < 2 and not linear))
            if isinstance(layer, nn.Linear | nn.Conv2d):
                came = goes


def _stored(flow: Flow) -> dict[str, Tensor]:
    """Weights, learned coefficients and running statistics, (n, ...) along depth."""
    return {**flow.weights, **flow.coefficients, **dict(flow.named_buffers(recurse=False))}


def _put(target: Tensor, w: Tensor, goes: Tensor, came: Tensor, keep: bool) -> None:
    """w (n, rows, cols, ...) or (n, rows) into the larger target, in place: old to old w, new to old zero."""
    if w.dim() == 1:
        target.copy_(w)
        return
    rows = _fitting(goes, w.shape[1], target.shape[1])
    if w.dim() == 2:  # a fresh bias, scale or variance does not reach old coordinates
        if not keep:
            target.zero_()
        target[:, rows] = w
        return
    cols = _fitting(came, w.shape[2], target.shape[2])
    fresh, among = torch.ones(target.shape[1:3], dtype=torch.bool), target.clone()
    if target.shape[2] > w.shape[2]:
        fresh[rows], fresh[:, cols] = False, False
    target.zero_()
    if keep:
        target[:, fresh] = among[:, fresh]
    target[:, rows[:, None], cols] = w


def _fitting(places: Tensor, old: int, new: int) -> Tensor:
    """Places of the entries of an axis: those of the state if the axis is one of the state, else in front."""
    return places if old == len(places) and new > old else torch.arange(old)


def _same(net: Chain, wide: Chain, dim_in: int | None) -> bool:
    """Whether both give the same scores, up to rounding, for some normal inputs."""
    like = next(net.parameters())
    shape = next((part.image for part in net.parts if isinstance(part, AsImage)), (dim_in,))
    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0)).to(like)  # type: ignore[arg-type]
    was = net.training
    net.eval()
    out, other = net(x), wide.eval()(x)
    net.train(was)
    return bool((out - other).abs().max() <= 1e3 * torch.finfo(out.dtype).eps * out.abs().max().clamp_min(1.0))


# ---- image resolution

# columns: value, first and minus second derivative as stencils on pixels of distance h = 1 (Ruthotto & Haber 2020)
_AVERAGE = ((0.25, -0.5, -1.0), (0.5, 0.0, 2.0), (0.25, 0.5, -1.0))
_POINT = ((0.0, -0.5, -1.0), (1.0, 0.0, 2.0), (0.0, 0.5, -1.0))


@torch.no_grad()
def rescale_stencils(net: nn.Module, factor: float, value: str = "average") -> nn.Module:
    """A new net whose 3x3 stencils are the same differential operators on pixels `factor` times as far apart.

    A row of a stencil is a value, a first and a second derivative, theta = M(h) beta, in two dimensions the tensor
    product; beta is kept: theta' = M(factor h) M(h)^{-1} theta in rows and columns. So a net trained on small images
    starts well on large ones (factor 1/2), and one for large images can be tried on small ones (factor 2).
    value:  what stands for the value in M: "average" (1, 2, 1)/4 as published, or "point" (0, 1, 0), which keeps the
            first three moments, so that operators on polynomials of degree 2 are the same exactly
    All 3x3 convolutions of stride 1 are rescaled, in flows and between them; the image size of the net is divided by
    factor. Choose it to train on coarse images first. Ruthotto & Haber 2020 (arXiv 1804.04272); Haber, Ruthotto,
    Holtham & Jun, Learning across scales, AAAI 2018 (arXiv 1703.02009). Raises BadInput for a factor <= 0 or a size
    that does not come out whole, Incompatible for a net without such stencils.
    """
    if not factor > 0 or value not in ("average", "point"):
        raise BadInput(f"rescale_stencils takes factor > 0 and value 'average' or 'point', got {factor!r}, {value!r}.")
    twin = copy.deepcopy(net)
    change = stencil_map(factor, value)
    stencils = list(_stencils(twin))
    if not stencils:
        raise Incompatible(f"{type(net).__name__} has no 3x3 stencils of stride 1 to rescale.")
    for w in stencils:
        m = change.to(w)
        w.copy_(m @ w @ m.mT)
    for module in twin.modules():
        if isinstance(module, AsImage):
            channels, size, _ = module.image
            if size / factor != int(size / factor):
                raise BadInput(f"images of {size} x {size} on pixels {factor:g} times as far apart have no whole size.")
            module.image = (channels, int(size / factor), int(size / factor))
            if getattr(twin, "spec", None) is not None:
                twin.spec = _resized(copy.deepcopy(twin.spec), int(size / factor))  # type: ignore[arg-type, assignment]
    return twin


def stencil_map(factor: float, value: str = "average") -> Tensor:
    """M(factor h) M(h)^{-1}, the same for every h: (3, 3), float64."""
    m = torch.tensor(_AVERAGE if value == "average" else _POINT, dtype=torch.float64)
    return m / torch.tensor([1.0, factor, factor**2], dtype=torch.float64) @ torch.linalg.inv(m)


def _stencils(net: nn.Module) -> list[Tensor]:
    """Weights (..., 3, 3) of convolutions of stride 1 in two dimensions, all depths of a flow together."""
    convs = (m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride == (1, 1))
    found: list[Tensor] = [m.weight for m in convs if m.kernel_size == (3, 3)]
    for flow in (m for m in net.modules() if isinstance(m, Flow)):
        found += [w for w in flow.weights.values() if w.dim() == 5 and tuple(w.shape[3:]) == (3, 3)]
    return found


def _resized(spec: dict[str, Any], size: int) -> dict[str, Any] | None:
    """The recipe for images of this size; None where it has no word for it."""
    if "size" not in spec["args"]:
        return None
    spec["args"]["size"] = size
    return spec
