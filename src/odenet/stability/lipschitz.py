"""Bounds of the Lipschitz constant of a network in the Euclidean norm, from both sides, and what they certify.

lower      |f(u) - f(v)|/|u - v| of the worst pair found by ascent: no bound can be smaller
upper      the product of bounds of the parts, a flow's from the structure of its field and method
layerwise  the same with 1 + h L for every step, blind to structure: what spectral norms alone give
radius     margin/(sqrt(2) L): no perturbation of the input below it changes the predicted class, since the
           difference of two scores has the constant sqrt(2) L (Tsuzuku, Sato & Sugiyama 2018)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from ..fields import Field, FirstOrder, HamiltonianJ, SecondOrder, SeparableHamiltonian
from ..fields.activations import Pointwise
from ..fields.maps import Conv
from ..flow import Flow
from ..integrators import RungeKutta, SymplecticSplitting, TwoStep
from ..nets.transfer import Pad
from .proofs import bounded_on, is_euler, layer_factor, monotone_constant, times
from .tangents import Product, directions, leading
from .unroll import Interval, Layer, Unrolled, jacobian, row

_ONE: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Tanh, nn.ReLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Softplus,
    nn.Softsign, nn.Hardtanh, nn.Softmax, nn.LogSigmoid, nn.ReLU6, Pad,
)  # fmt: skip

_ROWS = 128  # outputs up to which the Jacobian of the whole network is formed, by one backward pass


# ---- from above ----------------------------------------------------------------------------------------------------


@singledispatch
def layer_bound(layer: Any, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    """An upper bound of the Lipschitz constant of one part of a network; None where none is known.

    image: sizes of the space axes of its input; blind: use 1 + h L for every step of a flow
    A module of your own takes part with `layer_bound.register(MyLayer, lambda layer, image=(), blind=False: 1.0)`.
    """
    if type(layer).__name__ in ("AsImage", "AsSequence"):
        return 1.0
    return 1.0 if isinstance(layer, _ONE) and _plain(layer) else None


def _plain(layer: nn.Module) -> bool:
    """Slopes of at most 1: true of torch's own settings."""
    slope = getattr(layer, "negative_slope", getattr(layer, "alpha", getattr(layer, "beta", 1.0)))
    return abs(float(slope)) <= 1.0


@layer_bound.register
def _(layer: nn.Linear, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    return float(torch.linalg.matrix_norm(layer.weight.detach().double(), ord=2))


@layer_bound.register
def _(layer: nn.Conv2d, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    """Of the operator on the infinite grid; zero padding and strides only take parts of that."""
    if layer.groups != 1 or layer.padding_mode != "zeros":
        return None
    K, kernel = layer.weight.detach().double(), layer.kernel_size
    if kernel[0] == kernel[1] and kernel[0] % 2:
        return float(Conv(layer.in_channels, layer.out_channels, kernel[0], 2).norm(K))
    return float(torch.linalg.matrix_norm(K.permute(2, 3, 0, 1), ord=2).sum())


@layer_bound.register(nn.BatchNorm1d)
@layer_bound.register(nn.BatchNorm2d)
def _(layer: Any, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    """|scale|/sqrt(variance + eps) with the running statistics, as in evaluation."""
    if layer.running_var is None:
        return None
    scale = torch.ones_like(layer.running_var) if layer.weight is None else layer.weight.detach()
    return float((scale.abs() / torch.sqrt(layer.running_var + layer.eps)).max())


@layer_bound.register
def _(layer: nn.AvgPool2d, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    """k^2 entries with weight 1/k^2 each, windows that do not overlap: 1/k."""
    k, stride = layer.kernel_size, layer.stride
    if not isinstance(k, int) or stride != k or layer.padding or layer.divisor_override is not None:
        return None
    return 1.0 / k


@layer_bound.register
def _(layer: nn.AdaptiveAvgPool2d, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    return 1.0 / math.sqrt(math.prod(image)) if image and layer.output_size in (1, (1, 1)) else None


@layer_bound.register
def _(layer: nn.MaxPool2d, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    return 1.0 if layer.stride == layer.kernel_size and not layer.padding and layer.dilation == 1 else None


@layer_bound.register
def _(layer: Pointwise, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    bound = layer.activation.lipschitz
    return None if math.isnan(bound) else bound


@layer_bound.register
def _(layer: Flow, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    return flow_bound(layer, image, blind)


@torch.no_grad()
def lipschitz_upper(model: Any, x: Tensor, blind: bool = False) -> float | None:
    """The product of `layer_bound` over the parts of a Flow, Chain, nn.Sequential or list; None where one has none.

    x: one input or more, which tell the sizes of images. Holds for all inputs. Choose it for guarantees; where it is
    much larger than `lipschitz_lower`, the truth may be anywhere between.
    """
    if hasattr(model, "unrolled"):  # a recurrent net sees its input at every layer
        return None
    total = 1.0
    for part in row(model):
        bound = layer_bound(part, tuple(x.shape[2:]), blind)
        if bound is None:
            return None
        total *= bound
        x = part(x[:1])
    return total


@torch.no_grad()
def flow_bound(flow: Flow, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    """An upper bound of the Lipschitz constant of the steps of a flow; None where field or method offer none.

    Steps that are known to contract count with 1; else the smallest of what is known about them:
        explicit Runge-Kutta    1 + h L |b|^T (I - h L |A|)^{-1} 1
        forward Euler           max(1, h c - 1) for a monotone field; sqrt(1 + 2 h m + h^2 L^2), m >= lognorm, where > 0
        kicks and drifts        a product of shears (k + sqrt(k^2 + 4))/2, k = h |weight| times the half's constant
        two-step                |y_{n+1}| <= (|1 - k_n| + |g| h^p L) |y_n| + |k_n| |y_{n-1}|, followed through
    Adaptive steps depend on the input, so there is none for them.
    """
    if flow.adaptive or "noise" in flow.integrator.needs or flow.controls:
        return None
    march, theta = flow.march, flow.theta()
    pieces = march.pieces(theta)
    two_step = isinstance(flow.integrator, TwoStep)
    total, memory = 1.0, (1.0, 1.0)
    fresh = True
    for n, piece in enumerate(pieces):
        a, b = march.knots[n], march.knots[n + 1]
        interval = Interval(flow, n, a, b - a, (b - a) / march.substeps, march.substeps, march.rhs(n, piece), {})
        if two_step:
            if march.restart and march.substeps > 1:
                return None
            L = _constant(interval, image)
            if L is None:
                return None
            memory = _two_step(interval, L, memory, {k[5:]: v[0] for k, v in piece.items() if k[:5] == "coef/"}, fresh)
            fresh = False
            continue
        bound = step_bound(interval, image, blind)
        if bound is None:
            return None
        total *= bound if blind else min(bound, _known(interval, image))
    return memory[0] if two_step else total


def _two_step(
    interval: Interval, L: float, memory: tuple[float, float], coef: dict[str, Tensor], fresh: bool
) -> tuple[float, float]:
    method = interval.flow.integrator
    assert isinstance(method, TwoStep)
    k, gain = (float(v) for v in method.parameters(coef or None))
    scale = abs(interval.h) ** method.power * L
    if fresh:
        factor = gain if method.start == "paper" else gain - k if method.power == 1 else gain + k / 2
        return 1.0 + abs(factor) * scale, 1.0
    return (abs(1 - k) + abs(gain) * scale) * memory[0] + abs(k) * memory[1], memory[0]


def _known(interval: Interval, image: tuple[int, ...]) -> float:
    """What is proved about the whole interval."""
    return layer_factor(interval, image) if interval.h > 0 else math.inf


def step_bound(interval: Interval, image: tuple[int, ...] = (), blind: bool = False) -> float | None:
    """The bound of all steps of a knot interval from constants of the field (see `flow_bound`)."""
    method, h = interval.flow.integrator, abs(interval.h)
    if isinstance(method, SymplecticSplitting):
        bound = _shears(interval, image)
        return None if bound is None else bound**interval.steps
    L = _constant(interval, image)
    if not isinstance(method, RungeKutta) or L is None:
        return None
    found = [_runge_kutta(method, h * L)]
    if not blind and interval.h > 0 and is_euler(method):
        c = monotone_constant(interval, image)
        found += [] if c is None else [max(1.0, h * c - 1.0)]
        field = interval.flow.march.field
        if "lognorm" in field.offers and _steady(interval.flow):
            m = float(field.lognorm_bound(interval.rhs.weights(interval.t)))  # type: ignore[operator]
            found.append(math.sqrt(max(1.0 + 2 * h * m + (h * L) ** 2, 0.0)))
    return min(found) ** interval.steps


def _steady(flow: Flow) -> bool:
    return all(d.constant for d in flow.march.depths.values())


def _runge_kutta(method: RungeKutta, z: float) -> float:
    """1 + z |b|^T k with k_i = 1 + z sum_j |a_ij| k_j; inf where implicit stages give no bound."""
    A = torch.tensor([[abs(float(a)) for a in r] for r in method.tableau.matrix], dtype=torch.float64)
    b = torch.tensor([abs(float(w)) for w in method.tableau.weights], dtype=torch.float64)
    square = torch.zeros(len(b), len(b), dtype=torch.float64)
    for i, r in enumerate(A):
        square[i, : len(r)] = r
    k = torch.linalg.solve(torch.eye(len(b), dtype=torch.float64) - z * square, torch.ones(len(b), dtype=torch.float64))
    return float(1.0 + z * (b @ k))


def _constant(interval: Interval, image: tuple[int, ...]) -> float | None:
    """L of the field in this interval: the largest where the method looks, since bounds are convex in the weights."""
    field = interval.flow.march.field
    field = field.force if isinstance(field, SecondOrder) else field
    if "lipschitz" not in field.offers or not bounded_on(field, image):
        return None
    found = [float(field.lipschitz_bound(interval.rhs.weights(t))) for t in times(interval)]  # type: ignore[operator]
    return max(found, default=None)


def _shears(interval: Interval, image: tuple[int, ...]) -> float | None:
    method = interval.flow.integrator
    assert isinstance(method, SymplecticSplitting)
    ends = [_halves(interval.flow.march.field, interval.rhs.weights(t), image) for t in times(interval)]
    if not ends or any(e is None for e in ends):
        return None
    kick, drift = (max(e[i] for e in ends if e is not None) for i in range(2))
    total = 1.0
    for weights, constant in ((method.method.a, kick), (method.method.b, drift)):
        for weight in weights:
            k = abs(interval.h) * abs(float(weight)) * constant
            total *= (k + math.sqrt(k * k + 4.0)) / 2.0
    return total


def _halves(field: Field, p: dict[str, Tensor], image: tuple[int, ...]) -> tuple[float, float] | None:
    """Lipschitz constants of kick and drift."""
    if isinstance(field, FirstOrder):
        force = field.field.force if isinstance(field.field, SecondOrder) else field.field
        known = "lipschitz" in force.offers and bounded_on(force, image)
        return (float(force.lipschitz_bound(p)), 1.0) if known else None  # type: ignore[operator]
    if not isinstance(field, SeparableHamiltonian | HamiltonianJ) or any(u.norm != "none" for u in field.units):
        return None
    slope = field.units[0].activation.lipschitz
    if math.isnan(slope) or image:
        return None
    norms = {u.tag: float(u.map.norm(p["K" + u.tag])) for u in field.units}
    if "" in norms:
        return (norms[""] * slope, norms[""] * slope) if isinstance(field, SeparableHamiltonian) else None
    kick, drift = ("2", "1") if "1" in norms else ("_q", "_p")
    return norms[kick] ** 2 * slope, norms[drift] ** 2 * slope


@torch.no_grad()
def exact_flow_bound(flow: Flow, image: tuple[int, ...] = (), points: int = 4) -> float | None:
    """exp(integral of the field's lognorm bound, or of its Lipschitz bound) over depth: for the exact flow, to the
    accuracy of the midpoint rule where weights vary inside an interval; 1 for monotone fields. None without a bound."""
    field, march = flow.march.field, flow.march
    kind = "lognorm" if "lognorm" in field.offers else "lipschitz"
    if kind not in field.offers or not bounded_on(field, image):
        return None
    total = 0.0
    count = 1 if _steady(flow) else points
    for n, piece in enumerate(march.pieces(flow.theta())):
        a, width, rhs = march.knots[n], march.knots[n + 1] - march.knots[n], march.rhs(n, piece)
        for i in range(count):
            p = rhs.weights(a + width * (i + 0.5) / count)
            bound = field.lognorm_bound(p) if kind == "lognorm" else field.lipschitz_bound(p)  # type: ignore[operator]
            total += abs(width) / count * float(bound)
    return math.exp(min(total, 709.0))


# ---- from below ----------------------------------------------------------------------------------------------------


def lipschitz_lower(unrolled: Unrolled, steps: int = 20, size: float = 1e-2, seed: int = 0) -> float:
    """The largest |f(u) - f(v)|/|u - v| found by projected ascent over pairs, f the whole network.

    Starts at the samples, in the direction in which the Jacobian stretches most, and moves u and u - v along the
    normalised gradient of the logarithm of the ratio, |u - v| = size |u|. Choose it beside `lipschitz_upper`.
    """
    run, x = _whole(unrolled), unrolled.x.flatten(1)
    shape = unrolled.x.shape
    best, d = _steepest(unrolled, seed)
    scale = x.norm(dim=1, keepdim=True).clamp(min=1.0)
    for n in range(steps):
        u, d = x.detach().requires_grad_(), (d / d.norm(dim=1, keepdim=True)).detach().requires_grad_()
        with torch.enable_grad():
            step = size * scale * d / d.norm(dim=1, keepdim=True)
            pair = run(torch.cat((u + step, u)).reshape(-1, *shape[1:])).flatten(1)
            moved = (pair[: len(u)] - pair[len(u) :]).norm(dim=1)
            ratio = moved / step.norm(dim=1)
            if not ratio.requires_grad:
                break
            gu, gd = torch.autograd.grad(ratio.clamp(min=1e-30).log().sum(), (u, d))
        if bool(ratio.isfinite().any()):
            best = max(best, float(ratio[ratio.isfinite()].max().detach()))
        rate = 1.0 / (1 + n)
        x = (u + 0.2 * rate * scale * _unit(gu)).detach()
        d = (d + 0.5 * rate * _unit(gd)).detach()
    return best


def _unit(g: Tensor) -> Tensor:
    return torch.nan_to_num(g / g.norm(dim=1, keepdim=True).clamp(min=1e-30))


def _steepest(unrolled: Unrolled, seed: int) -> tuple[float, Tensor]:
    """The largest |df/dx|_2 at the samples, and the unit vectors that are stretched most, (P, D)."""
    whole = _whole(unrolled)
    x = unrolled.x
    rows = unrolled.leave(unrolled.states[-1][0])[0].numel()
    if rows <= _ROWS:
        J = jacobian(lambda parts: (whole(parts[0]),), (x,), rows)
        _, values, right = torch.linalg.svd(torch.nan_to_num(J), full_matrices=False)
        return float(values[:, 0].max()), right[:, 0].reshape(len(x), -1)
    layer = Layer(lambda parts: (whole(parts[0]),))
    product = Product(Unrolled(unrolled.model, x, (layer,), ((x,), (whole(x),)), lambda y: y))
    start = directions(len(x), x[0].numel(), x, seed)
    found = leading(product.push, product.pull, start, min(20, *product.shape))
    return float(found.values[:, 0].max()), found.vectors[:, :, 0]


def _whole(unrolled: Unrolled) -> Callable[[Tensor], Tensor]:
    """The network as one function."""
    model = unrolled.model
    if isinstance(model, nn.Module):
        return model

    def run(x: Tensor) -> Tensor:
        for layer in model:
            x = layer(x)
        return x

    return run


# ---- certificates --------------------------------------------------------------------------------------------------


def certified_radii(scores: Tensor, labels: Tensor, bound: float) -> Tensor:
    """margin/(sqrt(2) L) for every sample, (B,): the largest l2 perturbation that provably keeps its label; 0 where the
    prediction is wrong. scores (B, classes), bound L of the map from inputs to scores."""
    own = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], -math.inf).amax(1)
    return ((own - others) / (math.sqrt(2.0) * bound)).clamp(min=0.0)


def certified_accuracy(radii: Tensor, levels: Sequence[float]) -> list[float]:
    """Share of samples with a certified radius above each level (at level 0: those that are classified rightly)."""
    return [float((radii > level).double().mean()) for level in levels]
