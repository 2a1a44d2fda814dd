"""Activations: the scalar functions that layers apply entry by entry, with the facts that stability needs.

    get("tanh").slope           (0.0, 1.0): bounds the Jacobian diag(f') K of a layer f(K y + b)
    get("tanh").primitive       log cosh: the potential whose gradient is a layer
    layer("parametric_relu")    a torch module, for nets that are lists of layers

A name is data: registering a function checks its stated slopes and primitive on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadInput, ClaimRefused, Incompatible
from ..registry import Registry

Scalar: TypeAlias = Callable[[Tensor], Tensor]
UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Activation:
    """A function R -> R applied to every entry of a tensor of any shape.

    f:          the function
    slope:      infimum and supremum of (f(b) - f(a)) / (b - a); (nan, nan) where f jumps or nothing is known
    primitive:  P with P' = f, or None where no closed form is at hand
    smooth:     infinitely differentiable: high-order integrators keep their order, PDE residuals exist
    when:       one sentence on when to choose it
    """

    name: str
    f: Scalar
    slope: tuple[float, float] = UNKNOWN
    primitive: Scalar | None = None
    smooth: bool = False
    cite: str = ""
    when: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        return self.f(x)

    def __repr__(self) -> str:
        lo, hi = self.slope
        return f"Activation({self.name!r}, slope=[{lo:.4g}, {hi:.4g}], smooth={self.smooth})"

    @property
    def lipschitz(self) -> float:
        """sup |f'| (nan where unknown)."""
        return max(abs(self.slope[0]), abs(self.slope[1]))


def _checked(name: str, obj: Any) -> Activation:
    """The registry's check: a callable becomes an Activation, and stated facts must hold on a grid."""
    if not isinstance(obj, Activation) and not callable(obj):
        raise BadInput(
            f"activation {name!r} must be an Activation or a function of a tensor, not {type(obj).__name__}."
        )
    a = obj if isinstance(obj, Activation) else Activation(name, obj)
    x = torch.linspace(-8.0, 8.0, 1601, dtype=torch.float64)
    y = a.f(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise BadInput(f"activation {name!r} must map a tensor to a tensor of the same shape, entry by entry.")
    _check_slope(name, a, x, y)
    _check_primitive(name, a, x, y)
    return a


def _check_slope(name: str, a: Activation, x: Tensor, y: Tensor) -> None:
    lo, hi = a.slope
    chords = y.diff() / x.diff()
    seen = (float(chords.min()), float(chords.max()))
    if seen[0] < lo - 1e-9 or seen[1] > hi + 1e-9:  # false for nan: nothing was claimed
        raise ClaimRefused(
            f"activation {name!r} states slopes in [{lo:g}, {hi:g}], but chords on [-8, 8] have slopes from "
            f"{seen[0]:.6g} to {seen[1]:.6g}; state slope=(inf f', sup f') or leave it out."
        )


def _check_primitive(name: str, a: Activation, x: Tensor, y: Tensor) -> None:
    if a.primitive is None:
        return
    mean = a.primitive(x).diff() / x.diff()  # lies between neighbouring values of f, up to curvature
    gap = (mean - (y[1:] + y[:-1]) / 2).abs() - y.diff().abs() / 2
    if float(gap.max()) > 1e-4:
        at = float(x[int(gap.argmax())])
        raise ClaimRefused(f"the primitive of activation {name!r} has a derivative other than f near x = {at:.3g}.")


ACTIVATIONS: Registry[Activation] = Registry("activation", "odenet.activations", _checked)
names, register = ACTIVATIONS.names, ACTIVATIONS.register


def get(name: str) -> Activation:
    """The activation called `name`; raises UnknownName, or Incompatible where only a layer exists."""
    if name in _LAYERS_ONLY:
        raise Incompatible(f"{name!r} has weights or random numbers of its own; use layer({name!r}), or 'leaky_relu'.")
    return ACTIVATIONS.get(name)


def resolve(x: str | Activation | Scalar) -> Activation:
    """The Activation meant by a name, an Activation or a function of one tensor.

    Raises UnknownName, and Incompatible for a module with weights: a function inside a field cannot own any.
    """
    if isinstance(x, Activation):
        return x
    if isinstance(x, str):
        return get(x)
    if isinstance(x, nn.Module) and any(True for _ in x.parameters()):
        raise Incompatible(
            f"the activation {type(x).__name__} has weights, which a field would not train; "
            "give a function without any."
        )
    if not callable(x):
        raise BadInput(f"an activation is a name, an Activation or a function of one tensor, not {type(x).__name__}.")
    return Activation(getattr(x, "__name__", type(x).__name__), x)


class Pointwise(nn.Module):
    """An Activation as a layer, shape-preserving, for nets that are lists of layers."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.f(x)

    def extra_repr(self) -> str:
        return self.activation.name


def layer(x: str | Activation | Scalar) -> nn.Module:
    """A new torch module for an activation: torch.nn's own class where it has one, else Pointwise.

    Knows two more names than `get`: "parametric_relu" (learned slope, He et al. 2015, arXiv 1502.01852) and
    "randomised_relu" (random slope in training, Xu et al. 2015, arXiv 1505.00853).
    """
    if isinstance(x, nn.Module):
        return x
    if isinstance(x, str) and x in _MODULES:
        return _MODULES[x]()
    return Pointwise(resolve(x))


_LAYERS_ONLY: dict[str, Callable[[], nn.Module]] = {"parametric_relu": nn.PReLU, "randomised_relu": nn.RReLU}
_MODULES: dict[str, Callable[[], nn.Module]] = {
    **_LAYERS_ONLY,
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hard_tanh": nn.Hardtanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "swish": nn.SiLU,
    "softsign": nn.Softsign,
    "gelu": nn.GELU,
}

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # the fixed point of Klambauer et al. 2017
_LEAK = 0.01
_SWISH_TOP = 1.0998393201288669  # f'(x) where x tanh(x / 2) = 2
_GELU_TOP = 0.5 * (1 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi)  # f'(sqrt 2)


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x * x


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40.0)  # torch's threshold of 20 is 2e-9 off in float64


def _log_cosh(x: Tensor) -> Tensor:
    return x + _softplus(-2.0 * x) - math.log(2.0)  # no |x|: second derivatives are right at 0 too


def _elu_primitive(x: Tensor, alpha: float = 1.0) -> Tensor:
    below = x.clamp(max=0.0)
    return _half_square(F.relu(x)) + alpha * (torch.expm1(below) - below)


def _gelu_primitive(x: Tensor) -> Tensor:
    cdf = 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    pdf = torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return 0.5 * ((x * x - 1.0) * cdf + x * pdf)


def _bent_primitive(x: Tensor) -> Tensor:
    return 0.5 * x * (x - 1.0) + 0.25 * (x * torch.sqrt(x * x + 1.0) + torch.asinh(x))


def _erf_primitive(x: Tensor) -> Tensor:
    return 0.5 * math.sqrt(math.pi) * torch.erf(x)


_RBF_TOP = math.sqrt(2.0 / math.e)

for _entry in (
    Activation("identity", lambda x: x, (1.0, 1.0), _half_square, True, when="A linear layer, or the last one."),
    Activation(
        "sign",
        torch.sign,
        UNKNOWN,
        torch.abs,
        False,
        "Rosenblatt 1958",
        "Binary nets; its derivative is 0 or missing.",
    ),
    Activation(
        "step",
        lambda x: 0.5 * (torch.sign(x) + 1.0),
        UNKNOWN,
        F.relu,
        False,
        "McCulloch & Pitts 1943",
        "Threshold units; 1/2 at the jump, and no gradient passes.",
    ),
    Activation(
        "sigmoid",
        torch.sigmoid,
        (0.0, 0.25),
        _softplus,
        True,
        "Rumelhart, Hinton & Williams 1986",
        "Gates and probabilities; its slopes are at most 1/4, so deep stacks of it stop learning.",
    ),
    Activation(
        "rbf",
        lambda x: torch.exp(-x * x),
        (-_RBF_TOP, _RBF_TOP),
        _erf_primitive,
        True,
        "Broomhead & Lowe 1988",
        "Local bumps; not monotone.",
    ),
    Activation(
        "tanh",
        torch.tanh,
        (0.0, 1.0),
        _log_cosh,
        True,
        "LeCun, Bottou, Orr & Müller 1998",
        "The default: smooth, bounded, slopes in (0, 1], so stability estimates hold with constant 1.",
    ),
    Activation(
        "hard_tanh",
        F.hardtanh,
        (0.0, 1.0),
        lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none"),
        False,
        "Collobert 2004",
        "A tanh of three lines.",
    ),
    Activation(
        "relu",
        torch.relu,
        (0.0, 1.0),
        lambda x: _half_square(F.relu(x)),
        False,
        "Nair & Hinton 2010",
        "Image nets; its kink limits an integrator's observed order.",
    ),
    Activation(
        "leaky_relu",
        F.leaky_relu,
        (_LEAK, 1.0),
        lambda x: 0.5 * x * F.leaky_relu(x),
        False,
        "Maas, Hannun & Ng 2013",
        "As relu where units must not die: the slope is 0.01 on the left.",
    ),
    Activation(
        "elu",
        F.elu,
        (0.0, 1.0),
        _elu_primitive,
        False,
        "Clevert, Unterthiner & Hochreiter 2016",
        "As relu with mean activations nearer to 0; continuously differentiable once.",
    ),
    Activation(
        "selu",
        F.selu,
        (0.0, _SELU_SCALE * _SELU_ALPHA),
        lambda x: _SELU_SCALE * _elu_primitive(x, _SELU_ALPHA),
        False,
        "Klambauer, Unterthiner, Mayr & Hochreiter 2017, eq. (2)",
        "Deep plain nets without normalisation, with LeCun initialisation.",
    ),
    Activation(
        "softplus",
        F.softplus,
        (0.0, 1.0),
        None,
        True,
        "Dugas et al. 2001",
        "A smooth relu; convex and positive.",
    ),
    Activation(
        "swish",
        F.silu,
        (1.0 - _SWISH_TOP, _SWISH_TOP),
        None,
        True,
        "Ramachandran, Zoph & Le 2017",
        "A smooth relu for deep nets and PDE solvers; not monotone.",
    ),
    Activation(
        "softsign",
        F.softsign,
        (0.0, 1.0),
        lambda x: x.abs() - torch.log1p(x.abs()),
        False,
        "Glorot & Bengio 2010",
        "As tanh with slower saturation; continuously differentiable once.",
    ),
    Activation(
        "bent_identity",
        lambda x: 0.5 * (torch.sqrt(x * x + 1.0) - 1.0) + x,
        (0.5, 1.5),
        _bent_primitive,
        True,
        when="Strictly increasing with slopes in (1/2, 3/2): invertible layers.",
    ),
    Activation(
        "gelu",
        F.gelu,
        (1.0 - _GELU_TOP, _GELU_TOP),
        _gelu_primitive,
        True,
        "Hendrycks & Gimpel 2016",
        "Attention blocks; x times the normal distribution function.",
    ),
    Activation(
        "sin",
        torch.sin,
        (-1.0, 1.0),
        lambda x: 1.0 - torch.cos(x),
        True,
        "Sitzmann et al. 2020",
        "Fields with fine detail (waves, images) as functions of coordinates.",
    ),
):
    ACTIVATIONS.register(_entry.name, _entry)
