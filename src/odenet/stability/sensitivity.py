"""How states and gradients grow or die over depth: products of the Jacobians of the layers, sample by sample.

    dy_N/dy_j = E M_{N-1} ... M_j F,   M_n the Jacobian of layer n,   E picks y from (y, memory)

F puts a change of y_j into the state: memory unchanged, except that a two-step method's memory is y_{j-1},
which moves along (otherwise the change would be one of velocity, d/h, and leapfrog would look worse the
smaller h is). By the chain rule |dL/dy_j| <= |dy_N/dy_j|_2 |dL/dy_N|: the largest value over j bounds how
gradients grow, and where the norm itself is small every gradient vanishes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..depth import PerStep, PiecewiseLinear
from ..fields import Field
from ..fields.activations import Activation, Pointwise
from ..flow import Flow
from ..integrators import TwoStep
from .spectrum import evenly
from .unroll import Layer, Unrolled, flat, jacobian

# a unit whose slope is below this passes less than a hundredth of a gradient: tanh beyond |z| = 3
SATURATED = 0.01


@dataclass(frozen=True)
class Sensitivity:
    """Norms of products of layer Jacobians at J layers `at` and P samples.

    backward:  |dy_N/dy_j|_2, (J, P); smallest: the smallest singular value of the same, (J, P)
    forward:   |dy_{j+1}/dy_0|_2, (J, P)
    random:    root mean square growth of a random perturbation of y_0: |dy_N/dy_0|_F/sqrt(D), mean over samples
    values:    singular values of dy_N/dy_0 in falling order, (P, min(M, D)), or the leading ones of a large state
    prefixes:  the same of dy_{j+1}/dy_0 for every j in `at`, (P, K_j) each
    whole:     dy_N/dy_0, (P, M, D)

    `smallest` and `whole` are None, and `values` few, where the states are too large for Jacobians.
    """

    at: list[int]
    backward: Tensor
    forward: Tensor
    random: float
    values: Tensor
    prefixes: list[Tensor]
    smallest: Tensor | None = None
    whole: Tensor | None = None


def layer_jacobians(unrolled: Unrolled) -> list[Tensor]:
    """The Jacobian of every layer in all parts of its state, (P, rows, columns) each."""
    states = unrolled.states
    return [jacobian(layer.run, states[n], flat(states[n + 1]).shape[1]) for n, layer in enumerate(unrolled.layers)]


def sensitivity(unrolled: Unrolled, layers: int = 64, steps: Sequence[Tensor] | None = None) -> Sensitivity:
    """All products, their norms at no more than `layers` evenly spread layers. Memory: one Jacobian per layer.

    steps: the `layer_jacobians`, formed if not given
    """
    states, depth = unrolled.states, unrolled.depth
    own = [state[0][0].numel() for state in states]
    steps = layer_jacobians(unrolled) if steps is None else steps
    at = evenly(range(depth), layers)
    ahead = steps[0][:, :, : own[0]]
    prefixes = [singular_values(ahead[:, : own[1]])]
    for n in range(1, depth):
        ahead = steps[n] @ ahead
        if n in at:
            prefixes.append(singular_values(ahead[:, : own[n + 1]]))
    back: Tensor | None = None
    backward: dict[int, Tensor] = {}
    smallest: dict[int, Tensor] = {}
    for n in range(depth - 1, -1, -1):
        back = steps[n][:, : own[depth]] if back is None else back @ steps[n]
        if n in at:
            values = singular_values(_on_position(back, own[n], unrolled.layers[n]))
            backward[n], smallest[n] = values[:, 0], values[:, -1]
    assert back is not None
    whole = back[:, :, : own[0]]
    return Sensitivity(
        at,
        torch.stack([backward[n] for n in at]),
        torch.stack([values[:, 0] for values in prefixes]),
        float((whole.norm(dim=(1, 2)) / whole.shape[-1] ** 0.5).mean()),
        prefixes[-1],
        prefixes,
        torch.stack([smallest[n] for n in at]),
        whole,
    )


def _on_position(S: Tensor, width: int, layer: Layer) -> Tensor:
    """S F: (P, M, columns of y and memory) -> (P, M, width)."""
    if layer.interval is not None and isinstance(layer.interval.flow.integrator, TwoStep) and S.shape[2] > width:
        return S[:, :, :width] + S[:, :, width : 2 * width]
    return S[:, :, :width]


def singular_values(S: Tensor) -> Tensor:
    """Singular values in falling order, (P, min(M, D)); nan where S is not finite."""
    bad = ~S.flatten(1).isfinite().all(1)
    values = torch.linalg.svdvals(torch.where(bad[:, None, None], torch.zeros_like(S), S))
    return torch.where(bad[:, None], torch.full_like(values, math.nan), values)


def input_jacobian(unrolled: Unrolled) -> Tensor:
    """d output/d input of the whole model, (P, outputs, inputs)."""
    rows = flat((unrolled.leave(unrolled.states[-1][0]),)).shape[1]
    model = unrolled.model
    run = model if isinstance(model, nn.Module) else _composed(model)
    return jacobian(lambda parts: (run(parts[0]),), (unrolled.x,), rows)


def _composed(layers: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return run


# ---- gradients of the weights
# ----------------------------------------------------------------------------------------


def gradient_norms(model: Any, x: Tensor, y: Tensor | None, seed: int = 0) -> list[tuple[str, float]]:
    """(place, |dL/dtheta_n|) for every layer with weights of its own, in order.

    L is the cross-entropy with labels y, or without labels the inner product of the output with a random
    vector. In a flow, theta_n are the weights that act from knot n on; weights shared by all depths have no
    place and are left out.
    """
    if not isinstance(model, nn.Module):
        return []
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss = scalar(model(x), y, seed)
        if not loss.requires_grad:  # nothing to learn
            return []
        loss.backward()
    found: list[tuple[str, float]] = []
    for name, module in model.named_modules():
        if isinstance(module, Flow):
            found += [(f"{name or 'flow'}[{n}]", v) for n, v in enumerate(_flow_gradients(module))]
        elif not list(module.children()) and not isinstance(module, nn.ParameterDict | Field):
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            if grads:
                found.append((name or "net", math.sqrt(sum(float((g**2).sum()) for g in grads))))
    model.zero_grad(set_to_none=True)
    return found


def scalar(out: Tensor, y: Tensor | None, seed: int) -> Tensor:
    """Cross-entropy with labels y, else <w, out>/B with w ~ N(0, I)."""
    if y is not None:
        return nn.functional.cross_entropy(out, y)
    w = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
    return (w * out).sum() / len(out)


def _flow_gradients(flow: Flow) -> list[float]:
    """The norm over all weights with a coefficient for every knot."""
    per_knot = (PerStep, PiecewiseLinear)
    local = [w.grad for name, w in flow.weights.items() if isinstance(flow.depths[name], per_knot)]
    if not local or any(g is None for g in local) or len({len(g) for g in local if g is not None}) > 1:
        return []
    squares = [(g.flatten(1) ** 2).sum(1) for g in local]  # type: ignore[union-attr]
    return torch.stack(squares).sum(0).sqrt().tolist()


# ---- saturated and dead units
# ----------------------------------------------------------------------------------------

_MODULES: tuple[type[nn.Module], ...] = (
    nn.Tanh, nn.Sigmoid, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Softplus, nn.SiLU, nn.Softsign, nn.GELU,
    nn.Hardtanh, Pointwise,
)  # fmt: skip


@dataclass(frozen=True)
class Activity:
    """Of one activation in one forward pass: the share of (sample, unit) pairs with |slope| < 0.01, and of
    units with such a slope at every sample."""

    place: str
    saturated: float
    dead: float


def activity(model: Any, x: Tensor) -> list[Activity]:
    """Saturation at every evaluation of an activation, in order of evaluation, over all samples x.

    `model` is changed while it runs (its activations are watched) and restored. Covers the layers of odenet's
    fields and torch's activation modules; a function inside a user's own module is not seen.
    """
    seen: list[Activity] = []
    modules = [m for root in _roots(model) for m in root.modules()]
    hooks = [
        m.register_forward_hook(lambda m, args, out: seen.append(_activity(type(m).__name__, m, args[0])))
        for m in modules
        if isinstance(m, _MODULES)
    ]
    fields = [m for m in modules if isinstance(m, Field)]
    saved = [(f, name, getattr(f, name)) for f in fields for name in ("unit", "units") if hasattr(f, name)]
    try:
        for f, name, units in saved:
            setattr(f, name, tuple(_watched(u, seen) for u in units) if name == "units" else _watched(units, seen))
        with torch.no_grad():
            _composed([model] if isinstance(model, nn.Module) else model)(x)
    finally:
        for f, name, units in saved:
            setattr(f, name, units)
        for hook in hooks:
            hook.remove()
    return seen


def _roots(model: Any) -> list[nn.Module]:
    return [m for m in ([model] if isinstance(model, nn.Module) else model) if isinstance(m, nn.Module)]


def _watched(unit: Any, seen: list[Activity]) -> Any:
    """The unit with an activation that notes the slopes at its arguments."""
    s = unit.activation

    def f(z: Tensor) -> Tensor:
        seen.append(_activity(s.name, s.f, z))
        return s.f(z)

    return dataclasses.replace(unit, activation=Activation(s.name, f, s.slope, s.primitive, s.smooth))


def _activity(place: str, f: Callable[[Tensor], Tensor], z: Tensor) -> Activity:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        out = f.activation.f(z) if isinstance(f, Pointwise) else f.forward(z) if isinstance(f, nn.Module) else f(z)
        slope = torch.autograd.grad(out.sum(), z)[0] if out.requires_grad else torch.zeros_like(z)
    low = slope.abs() < SATURATED
    return Activity(place, float(low.double().mean()), float(low.all(0).double().mean()))
