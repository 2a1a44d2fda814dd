"""How curved the loss is where training ended: the largest eigenvalues of its Hessian, and its rise nearby."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import BadInput
from ..flow import Flow
from ..flow.gradient import resolve
from .unroll import in_double

Loss = Callable[[], Tensor]


def top_eigenvalues(
    loss: Loss, weights: Sequence[Tensor], count: int = 1, steps: int = 30, tolerance: float = 1e-6, seed: int = 0
) -> tuple[list[float], float]:
    """The `count` largest eigenvalues of the Hessian of loss() in `weights`, in falling order, and the residual
    |H v - lambda v| / |lambda| of the first: some eigenvalue is that close to it.

    Lanczos with full reorthogonalisation and products H v by two backward passes, at most `steps` of them, fewer where
    the residual falls below `tolerance`. Raises BadInput for a loss that does not depend on the weights.
    """
    wanted = list(weights)
    with torch.enable_grad():
        value = loss()
        if not value.requires_grad:
            raise BadInput("the loss does not depend on the weights, so it has no Hessian; give trainable weights.")
        slopes = torch.autograd.grad(value, wanted, create_graph=True, allow_unused=True)
    slope = torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(slopes, wanted)])
    size = len(slope)
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(slope)
    basis, diagonal, beside = [v / v.norm()], [], []
    values, residual = torch.zeros(1), math.inf
    for _ in range(min(steps, size)):
        w = _product(slope, wanted, basis[-1])
        diagonal.append(float(w @ basis[-1]))
        stacked = torch.stack(basis)
        for _ in range(2):  # twice is enough
            w = w - stacked.mT @ (stacked @ w)
        beside.append(float(w.norm()))
        T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if len(diagonal) > 1:
            off = torch.tensor(beside[:-1], dtype=torch.float64)
            T = T + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(T)
        scale = max(float(values.abs().max()), torch.finfo(torch.float64).tiny)
        residual = beside[-1] * abs(float(vectors[-1, -1])) / max(abs(float(values[-1])), 1e-12 * scale)
        if beside[-1] <= 1e-12 * scale or (residual < tolerance and len(values) > count):
            break
        basis.append(w / beside[-1])
    return values.flip(0)[:count].tolist(), residual


def _product(slope: Tensor, weights: Sequence[Tensor], v: Tensor) -> Tensor:
    """H v, from the graph of the gradient."""
    if not slope.requires_grad:  # a loss that is linear in the weights
        return torch.zeros_like(v)
    found = torch.autograd.grad(slope, weights, v, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(found, weights)])


def rise(loss: Loss, weights: Sequence[Tensor], radius: float) -> float:
    """L(w + radius g/|g|) - L(w), g the gradient over all weights: the first-order value of the largest rise within
    the radius (sharpness-aware minimisation, Foret et al. 2021, arXiv 2010.01412). The weights are put back."""
    with torch.enable_grad():
        value = loss()
        slopes = torch.autograd.grad(value, list(weights), allow_unused=True)
    pairs = [(w, g) for w, g in zip(weights, slopes) if g is not None]
    size = math.sqrt(sum(float(g.square().sum()) for _, g in pairs))
    if size == 0.0:
        return 0.0
    kept = [w.detach().clone() for w, _ in pairs]
    with torch.no_grad():
        for w, g in pairs:
            w.add_(g, alpha=radius / size)
        moved = float(loss())
        for (w, _), old in zip(pairs, kept):
            w.copy_(old)
    return moved - float(value.detach())


def sharpness(
    model: nn.Module, x: Tensor, y: Tensor, *, radius: float = 0.05, steps: int = 20, seed: int = 0
) -> dict[str, float]:
    """Of the mean cross-entropy (for real targets the mean square) over x (B, ...), y at the weights of `model`:

        hessian_max       largest eigenvalue of the Hessian in all weights: gradient descent needs lr < 2/hessian_max
        hessian_residual  how closely it was found, relative
        sharpness         rise of the loss in the direction of its gradient, at radius times the norm of all weights

    In double precision and evaluation mode; the model is not changed. Empty for a model without weights.
    """
    net, x = in_double(model, x)
    for flow in (m for m in net.modules() if isinstance(m, Flow)):
        flow.gradient = resolve("autograd")  # the others are differentiated once only
    weights = [w for w in net.parameters() if w.requires_grad]
    if not weights:
        return {}
    target = y.to(x) if y.is_floating_point() else y

    def loss() -> Tensor:
        out = net(x)
        return ((out - target) ** 2).mean() if target.is_floating_point() else cross_entropy(out, target)

    (top,), residual = top_eigenvalues(loss, weights, steps=steps, tolerance=1e-3, seed=seed)
    whole = math.sqrt(sum(float(w.detach().square().sum()) for w in weights))
    return {
        "hessian_max": top,
        "hessian_residual": residual,
        "sharpness": rise(loss, weights, radius * whole),
    }
