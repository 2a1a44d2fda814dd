"""What entered and left every weight matrix and convolution kernel of a net, from one forward and one backward pass.

A weight that is used as y = W x + b, in whatever places of the net, has on a batch of S samples the statistics

    C = (1/S) sum x^ x^^T,    x^ = (x, 1) where b belongs to W,       P = (1/S) sum r x^^T = -dJ/d(W, b)

summed over samples and places (stages of a step, steps that share it, pixels under a kernel), with the costates r of
the outputs y. Whether that is all a weight does is seen from P: it is minus the gradient then, and else the weight has
other uses too (normed, interpolated in depth, inside a fused recurrent layer) or hidden by a reversible gradient.

With the mean B of r r^T over samples and places, C (x) B is its block of a Fisher matrix as if costates did not depend
on what entered, nor on the costates of other places: Martens & Grosse (2015), ICML; under kernels Grosse & Martens
(2016), ICML; along a differential equation Liu, Chen & Theodorou (2021), NeurIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Affine:
    """One weight on one batch; N its layers where it is a stack of them (a flow's weights), else 1.

    entered: C (N, i, i) of y = K x, with i + 1 rows and columns where `bias` belongs to it
    turned:  (1/S) sum z z^T (N, o, o) of the places where it is used as y = K^T z, if there are any
    skew:    K = W - W^T + const instead of K = W
    places:  (N,) uses of the layer in one pass
    slope:   P of K (N, o, i or i + 1), with costates=True
    left:    B (N, o, o), the mean of r r^T over places y = K x; back: the same (N, i, i) over places y = K^T z
    samples: S
    """

    weight: nn.Parameter
    bias: Tensor | None
    entered: Tensor
    turned: Tensor | None
    skew: bool
    places: Tensor
    slope: Tensor | None = None
    left: Tensor | None = None
    back: Tensor | None = None
    samples: int = 1

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(W, b), or anything of their shapes, as (N, o, i or i + 1)."""
        i = self.entered.shape[-1] - (self.bias is not None)
        W = weight.reshape(len(self.places), -1, i)
        return W if bias is None else torch.cat((W, bias.reshape(len(W), -1, 1)), -1)

    def alone(self) -> Affine:
        """The weight without its bias."""
        i = self.entered.shape[-1] - 1
        slope = None if self.slope is None else self.slope[..., :i]
        return replace(self, bias=None, entered=self.entered[:, :i, :i], slope=slope)

    def gradient(self) -> Tensor:
        """dJ/d(W, b) = -P of the stored weight, (N, o, i or i + 1)."""
        assert self.slope is not None
        G = -self.slope
        if self.skew:
            d = len(G[0])
            G = torch.cat((G[..., :d] - G[..., :d].mT, G[..., d:]), -1)
        return G


def gather(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    samples: int,
    costates: bool = False,
    drawn: Callable[[], tuple[Tensor, Iterable[Tensor]]] | None = None,
) -> tuple[list[Tensor | None], list[Affine]]:
    """Gradients of the parameters and statistics of those seen as affine maps, from one evaluation of loss().

    samples: S; costates: with P and the statistics of costates. The loss is a mean over the samples.
    drawn:   called after loss(): outputs of the net and cotangents of them, whose sum of statistics takes the place of
             that of the loss's own costates
    """
    own = list(parameters)
    with _Watch(own) as watch:
        total = loss()
    uses = _traced(watch.uses, own)
    outputs = [u.left for u in uses] if costates else []
    found: Sequence[Tensor | None] = [None] * len(own)
    others: list[Sequence[Tensor | None]] = []
    if total.requires_grad:
        found = torch.autograd.grad(total, [*own, *outputs], allow_unused=True, retain_graph=drawn is not None)
        z, cotangents = (total, ()) if drawn is None else drawn()
        for c in cotangents:
            others.append(torch.autograd.grad(z, outputs, c, allow_unused=True, retain_graph=True))
    groups: dict[int, list[int]] = {}
    for k, use in enumerate(uses):
        groups.setdefault(id(use.weight), []).append(k)
    seen = []
    with torch.no_grad():
        for at in groups.values():
            slopes = [found[len(own) + k] for k in at] if costates and total.requires_grad else None
            seen.append(_summed([uses[k] for k in at], samples, slopes, [[o[k] for k in at] for o in others]))
    return list(found[: len(own)]), seen


class _Use(NamedTuple):
    weight: Any  # the parameter; until `_traced` perhaps what was computed from it
    row: int
    layers: int
    shape: torch.Size  # of one layer
    turned: bool  # y = K^T z
    bias: tuple[Tensor, int] | None
    entered: Callable[[], Tensor]  # (M, i), M samples at all positions
    left: Tensor
    rows: Callable[[Tensor], Tensor]  # its cotangent as (M, o)
    skew: bool = False


class _Watch(TorchFunctionMode):
    """Notes the affine maps that are applied meanwhile."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.known = {id(p) for p in parameters}
        self.uses: list[_Use] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = READ.get(func)
        if read is not None and isinstance(out, Tensor) and out.requires_grad:
            use = read(self, out, *args, **(kwargs or {}))
            if use is not None:
                self.uses.append(use)
        return out

    def place(self, w: Any, dims: int) -> tuple[Tensor, int, int, torch.Size, bool] | None:
        """(whole tensor, layer, layers, shape of one, transposed) of which w is the weight of one layer."""
        if not (isinstance(w, Tensor) and w.requires_grad and w.dim() == dims):
            return None
        root = w if w._base is None else w._base
        if (root.is_leaf and id(root) not in self.known) or root.dim() - dims not in (0, 1) or not root.is_contiguous():
            return None
        shape, stride = root.shape[-dims:], root.stride()[-dims:]
        row, rest = divmod(int(w.storage_offset() - root.storage_offset()), max(1, shape.numel()))
        layers = len(root) if root.dim() > dims else 1
        if rest:
            return None
        if w.shape == shape and w.stride() == stride:
            return root, row, layers, shape, False
        if dims == 2 and w.shape == shape[::-1] and w.stride() == stride[::-1]:
            return root, row, layers, shape, True
        return None


def _linear(watch: _Watch, out: Tensor, input: Tensor, weight: Tensor, bias: Any = None) -> _Use | None:
    found = watch.place(weight, 2)
    if found is None:
        return None
    x, o = input.detach(), len(weight)
    shift = None if bias is None else watch.place(bias, 1)
    added = shift[:2] if shift is not None and shift[0].is_leaf and not found[4] else None
    return _Use(*found, added, lambda: x.reshape(-1, x.shape[-1]), out, lambda g: g.reshape(-1, o))


def _matmul(watch: _Watch, out: Tensor, a: Tensor, b: Tensor) -> _Use | None:
    behind, front = watch.place(b, 2), watch.place(a, 2)
    if behind is None and front is None:
        return None
    if behind is not None and (front is None or behind[0].is_leaf or not front[0].is_leaf):
        x, o = a.detach(), b.shape[1]
        root, row, layers, shape, flipped = behind
        place = (root, row, layers, shape, not flipped)
        return _Use(*place, None, lambda: x.reshape(-1, x.shape[-1]), out, lambda g: g.reshape(-1, o))
    assert front is not None
    x, o = b.detach(), len(a)
    entered = (lambda: x[None]) if x.dim() == 1 else (lambda: x.mT.reshape(-1, x.shape[-2]))
    return _Use(*front, None, entered, out, (lambda g: g[None]) if x.dim() == 1 else lambda g: g.mT.reshape(-1, o))


def _conv(dims: int) -> Callable[..., _Use | None]:
    def read(
        watch: _Watch,
        out: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> _Use | None:
        found, kernel = watch.place(weight, dims + 2), weight.shape[2:]
        if found is None or groups != 1:
            return None
        stride, dilation = _pair(stride, dims), _pair(dilation, dims)
        if isinstance(padding, str):
            if padding == "same" and any(d * (k - 1) % 2 for k, d in zip(kernel, dilation[-dims:])):
                return None
            same = [d * (k - 1) // 2 for k, d in zip(kernel, dilation[-dims:])]
            padding = same if padding == "same" else 0
        padding, x, o = _pair(padding, dims, 0), input.detach(), len(weight)
        shift = None if bias is None else watch.place(bias, 1)
        added = shift[:2] if shift is not None and shift[0].is_leaf else None

        def entered() -> Tensor:
            image = x if dims == 2 else x.unsqueeze(-2)
            size = tuple(kernel) if dims == 2 else (1, *kernel)
            return F.unfold(image, size, dilation, padding, stride).mT.flatten(0, 1)

        return _Use(*found, added, entered, out, lambda g: g.flatten(2).mT.reshape(-1, o))

    return read


def _pair(value: Any, dims: int, first: int = 1) -> tuple[int, ...]:
    """Two numbers, of two dimensions or of one behind an axis of length 1."""
    given = tuple(value) if isinstance(value, tuple | list) else (value,) * dims
    return given if dims == 2 else (first, *given)


READ: dict[Any, Callable[..., _Use | None]] = {
    F.linear: _linear,
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.mv, Tensor.mv), _matmul
    ),
    Tensor.__rmatmul__: lambda watch, out, a, b: _matmul(watch, out, b, a),
    torch.conv1d: _conv(1),
    torch.conv2d: _conv(2),
}


def _traced(uses: Iterable[_Use], parameters: Sequence[nn.Parameter]) -> list[_Use]:
    """The uses of parameters, and of W - W^T + const of a parameter W."""
    sources: dict[int, nn.Parameter | None] = {}
    out = []
    for use in uses:
        if use.weight.is_leaf:
            out.append(use)
            continue
        key = id(use.weight)
        if key not in sources:
            sources[key] = _source(use.weight, parameters)
        if sources[key] is not None:
            out.append(use._replace(weight=sources[key], skew=True))
    return out


def _source(K: Tensor, parameters: Sequence[nn.Parameter]) -> nn.Parameter | None:
    """W where dK/dW is V -> V - V^T, seen from what it makes of one cotangent."""
    if K.dim() < 2 or K.shape[-1] != K.shape[-2] or all(p.shape != K.shape for p in parameters):
        return None
    Z = torch.arange(1, K.numel() + 1, dtype=K.dtype, device=K.device).cos().view_as(K)
    pulled = torch.autograd.grad((K * Z).sum(), parameters, retain_graph=True, allow_unused=True)
    hit = [(p, g) for p, g in zip(parameters, pulled) if g is not None]
    if len(hit) == 1 and hit[0][0].shape == K.shape and torch.allclose(hit[0][1], Z - Z.mT, rtol=0, atol=1e-6):
        return hit[0][0]
    return None


def _summed(
    uses: list[_Use], samples: int, slopes: list[Tensor | None] | None, others: list[list[Tensor | None]]
) -> Affine:
    """The statistics of one weight; slopes: cotangents of its uses, others: those that are squared instead of them."""
    weight, layers, skew = uses[0].weight, uses[0].layers, uses[0].skew
    biases = {id(u.bias[0]): u.bias[0] for u in uses if u.bias is not None}
    fits = all(u.bias is None or u.bias[1] == u.row for u in uses)
    bias = next(iter(biases.values())) if len(biases) == 1 and fits else None
    straight, turned = ([k for k, u in enumerate(uses) if u.turned is way] for way in (False, True))
    entered = {k: u.entered() if u.turned else _with_one(u, bias) for k, u in enumerate(uses)}
    o, i = uses[0].shape[0], uses[0].shape[1:].numel()
    C, n = _squares([(uses[k].row, entered[k]) for k in straight], layers, i + (bias is not None), weight)
    Z, m = _squares([(uses[k].row, entered[k]) for k in turned], layers, o, weight)
    places = torch.bincount(torch.tensor([u.row for u in uses]), minlength=layers)
    P = left = back = None
    if slopes is not None:
        P = weight.new_zeros(layers, o, i + (bias is not None))
        for u, x, g in zip(uses, entered.values(), slopes):
            if g is not None:
                P[u.row] -= F.pad(x.mT @ u.rows(g), (0, P.shape[-1] - i)) if u.turned else u.rows(g).mT @ x
        B, Q = weight.new_zeros(layers, o, o), weight.new_zeros(layers, i, i)
        for each in others or [slopes]:
            at = {k: (uses[k].row, uses[k].rows(g)) for k, g in enumerate(each) if g is not None}
            B += _squares([at[k] for k in straight if k in at], layers, o, weight)[0]
            Q += _squares([at[k] for k in turned if k in at], layers, i, weight)[0]
        # r of one sample is S times as large: S^2 / (S n) over n places
        left = samples**2 * B / n.clamp(min=1)
        back = samples**2 * Q / m.clamp(min=1) if turned else None
    return Affine(weight, bias, C / samples, Z / samples if turned else None, skew, places, P, left, back, samples)


def _with_one(use: _Use, bias: Tensor | None) -> Tensor:
    x = use.entered()
    return x if bias is None else F.pad(x, (0, 1), value=float(use.bias is not None))


def _squares(parts: list[tuple[int, Tensor]], layers: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """sum x^T x by layer, (layers, width, width), and the numbers of rows x (layers, 1, 1)."""
    rows: list[list[Tensor]] = [[] for _ in range(layers)]
    for row, x in parts:
        rows[row].append(x)
    whole = [torch.cat(xs) if len(xs) > 1 else xs[0] if xs else like.new_zeros(0, width) for xs in rows]
    count = like.new_tensor([len(x) for x in whole])[:, None, None]
    if len({len(x) for x in whole}) == 1:
        X = torch.stack(whole)
        return X.mT @ X, count
    return torch.stack([x.mT @ x for x in whole]), count
