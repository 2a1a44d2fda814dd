"""Derivatives of functions of one variable in closed form: tower(x, n) is s(x), s'(x), ..., s^(n)(x).

An entry is None where the derivative is zero everywhere. n is at most 5: four derivatives, and one for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Incompatible

Derivatives: TypeAlias = list[Any]  # of Tensor | None
Tower: TypeAlias = Callable[[Tensor, int], Derivatives]
Coefficients: TypeAlias = tuple[float, ...]  # of a polynomial, the constant first


def _slope(p: Coefficients) -> Coefficients:
    return tuple(k * c for k, c in enumerate(p))[1:] or (0.0,)


def _times(p: Coefficients, q: Coefficients) -> Coefficients:
    out = [0.0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return tuple(out)


def _plus(p: Coefficients, q: Coefficients) -> Coefficients:
    n = max(len(p), len(q))
    return tuple(a + b for a, b in zip(p + (0.0,) * (n - len(p)), q + (0.0,) * (n - len(q))))


def _at(p: Coefficients, x: Tensor) -> Tensor | float:
    """p(x) by Horner's rule."""
    value: Any = 0.0
    for c in reversed(p):
        value = value * x + c if isinstance(value, Tensor) or value else c
    return value


@lru_cache
def _under(start: Coefficients, inner: Coefficients, outer: Coefficients, n: int) -> tuple[Coefficients, ...]:
    """p_1 = start, p_{k+1} = inner p_k' + outer_k p_k with outer_k = outer + (k - 1) * (-inner')."""
    found = [start]
    for k in range(1, n):
        drag = _plus(outer, _times((-(k - 1.0),), _slope(inner)))
        found.append(_plus(_times(inner, _slope(found[-1])), _times(drag, found[-1])))
    return tuple(found)


def tanh(x: Tensor, n: int) -> Derivatives:
    """tanh x: with s' = 1 - s^2 all others are polynomials in s and s'."""
    t = torch.tanh(x)
    s1 = 1.0 - t * t
    return [t, *_riccati(s1, -2.0 * t, 2.0, n)]


def sigmoid(x: Tensor, n: int) -> Derivatives:
    """1 / (1 + e^-x): s' = s (1 - s)."""
    return _sigmoid(torch.sigmoid(x), n)


def _sigmoid(g: Tensor, n: int) -> Derivatives:
    s1 = g * (1.0 - g)
    return [g, *_riccati(s1, 1.0 - 2.0 * g, 2.0, n, 1.0)]


def _riccati(s1: Tensor, slope: Tensor, b: float, n: int, c: float = 4.0) -> Derivatives:
    """s', ..., s^(n) where s'' = s' slope, slope' = -b s' and slope^2 = c - 2 b s': tanh and sigmoid."""
    if n < 2:
        return [s1][:n]
    s2 = s1 * slope
    found = [s1, s2]
    if n > 2:
        found.append(s1 * (c - 3.0 * b * s1))
    if n > 3:
        falling = c - 6.0 * b * s1
        found.append(s2 * falling)
    if n > 4:
        found.append(found[2] * falling - 6.0 * b * s2 * s2)
    return found


def softplus(x: Tensor, n: int, beta: float = 1.0, threshold: float = 20.0) -> Derivatives:
    """log(1 + e^(beta x)) / beta; linear above `threshold`, as torch has it."""
    s0 = F.softplus(x, beta, threshold)
    if not n:
        return [s0]
    scaled = x if beta == 1.0 else beta * x
    g = torch.where(scaled > threshold, 1.0, torch.sigmoid(scaled))  # as torch, which is linear there
    return [s0, *(s if k == 0 or beta == 1.0 else beta**k * s for k, s in enumerate(_sigmoid(g, n - 1)))]


def silu(x: Tensor, n: int) -> Derivatives:
    """x sigmoid(x)."""
    g = sigmoid(x, n)
    return [F.silu(x), *(torch.addcmul(k * g[k - 1], x, g[k]) for k in range(1, n + 1))]


def gelu(x: Tensor, n: int) -> Derivatives:
    """x Phi(x), Phi the normal distribution function."""
    s0 = F.gelu(x)
    if not n:
        return [s0]
    density = torch.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    s1 = torch.addcmul(0.5 * (1.0 + torch.erf(x * math.sqrt(0.5))), x, density)
    polynomials = _under((2.0, 0.0, -1.0), (1.0,), (0.0, -1.0), max(n - 1, 1))
    return [s0, s1, *(density * _at(p, x) for p in polynomials[: n - 1])]


def erf(x: Tensor, n: int) -> Derivatives:
    """erf x: Hermite polynomials times its density."""
    if not n:
        return [torch.erf(x)]
    density = torch.exp(-x * x) * (2.0 / math.sqrt(math.pi))
    return [torch.erf(x), *(density * _at(p, x) for p in _under((1.0,), (1.0,), (0.0, -2.0), n))]


def erfc(x: Tensor, n: int) -> Derivatives:
    """1 - erf x."""
    return [torch.erfc(x), *(-s for s in erf(x, n)[1:])]


def sin(x: Tensor, n: int) -> Derivatives:
    """sin x."""
    return _turn(x, n, 0)


def cos(x: Tensor, n: int) -> Derivatives:
    """cos x."""
    return _turn(x, n, 1)


def _turn(x: Tensor, n: int, start: int) -> Derivatives:
    s, c = torch.sin(x), torch.cos(x)
    around = [s, c, -s if n + start > 1 else s, -c if n + start > 2 else c]
    return [around[(start + k) % 4] for k in range(n + 1)]


def exp(x: Tensor, n: int) -> Derivatives:
    """e^x."""
    return [torch.exp(x)] * (n + 1)


def expm1(x: Tensor, n: int) -> Derivatives:
    """e^x - 1."""
    return [torch.expm1(x), *[torch.exp(x)] * n]


def sinh(x: Tensor, n: int) -> Derivatives:
    """sinh x."""
    return [(torch.sinh, torch.cosh)[k % 2](x) for k in range(n + 1)]


def cosh(x: Tensor, n: int) -> Derivatives:
    """cosh x."""
    return [(torch.cosh, torch.sinh)[k % 2](x) for k in range(n + 1)]


def _logarithm(value: Callable[[Tensor], Tensor], shift: float, base: float, x: Tensor, n: int) -> Derivatives:
    found = [value(x)]
    if n:
        inverse = 1.0 / (x + shift if shift else x)
        found.append(inverse / math.log(base) if base != math.e else inverse)
        for k in range(1, n):
            found.append(found[-1] * inverse * -float(k))
    return found


log = partial(_logarithm, torch.log, 0.0, math.e)
log1p = partial(_logarithm, torch.log1p, 1.0, math.e)
log2 = partial(_logarithm, torch.log2, 0.0, 2.0)
log10 = partial(_logarithm, torch.log10, 0.0, 10.0)


def power(x: Tensor, n: int, p: float = 2.0) -> Derivatives:
    """x^p for a number p; at x = 0 as autograd has it."""
    found: Derivatives = []
    factor = 1.0
    for k in range(n + 1):
        if factor == 0.0:
            found.append(None)
        else:
            found.append(torch.pow(x, p - k) if factor == 1.0 else factor * torch.pow(x, p - k))
        factor *= p - k
    return found


def sqrt(x: Tensor, n: int) -> Derivatives:
    """x^(1/2)."""
    return _root(torch.sqrt(x), 0.5, x, n)


def rsqrt(x: Tensor, n: int) -> Derivatives:
    """x^(-1/2)."""
    return _root(torch.rsqrt(x), -0.5, x, n)


def reciprocal(x: Tensor, n: int) -> Derivatives:
    """1 / x."""
    return _root(torch.reciprocal(x), -1.0, x, n)


def _root(value: Tensor, p: float, x: Tensor, n: int) -> Derivatives:
    found = [value]
    for k in range(n):
        found.append(found[-1] / x * (p - k) if k or p != 0.5 else 0.5 / value)
    return found


def asinh(x: Tensor, n: int) -> Derivatives:
    """asinh x: s' = (1 + x^2)^(-1/2)."""
    w = 1.0 / (1.0 + x * x)
    return [torch.asinh(x), *_rational(torch.sqrt(w), w, (0.0, -1.0), x, n)]


def atan(x: Tensor, n: int) -> Derivatives:
    """atan x: s' = 1 / (1 + x^2)."""
    w = 1.0 / (1.0 + x * x)
    return [torch.atan(x), *_rational(w, w, (0.0, -2.0), x, n)]


def _rational(weight: Tensor, w: Tensor, outer: Coefficients, x: Tensor, n: int) -> Derivatives:
    """weight w^(k-1) p_k(x), k = 1, ..., n, where w = 1/(1 + x^2) and weight' = outer w weight."""
    found = []
    for p in _under((1.0,), (1.0, 0.0, 1.0), outer, n) if n else ():
        found.append(weight * _at(p, x))
        weight = weight * w
    return found


def by_autograd(f: Callable[[Tensor], Tensor], x: Tensor, n: int) -> Derivatives:
    """The derivatives of any function that torch applies entry by entry."""
    found: Derivatives = []
    connected = x.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        own = x if connected else x.detach().requires_grad_()
        value: Tensor | None = f(own)
        for k in range(n + 1):
            found.append(value if connected or value is None else value.detach())
            if k < n:
                slope: Tensor | None = None
                if value is not None and value.requires_grad:
                    (slope,) = torch.autograd.grad(value.sum(), own, create_graph=True, allow_unused=True)
                value = slope
    return found


def kinked(name: str, f: Callable[[Tensor], Tensor], x: Tensor, n: int, order: int) -> Derivatives:
    """A function with a kink: first derivatives only."""
    if order > 1:
        raise Incompatible(
            f"{name} has a kink, so its second derivatives are zero wherever they exist and a network of it solves no "
            "equation of second order; use a smooth function such as tanh, sin, gelu or softplus."
        )
    return by_autograd(f, x, n)


def absolute(x: Tensor, n: int) -> Derivatives:
    """|x|, which has no derivative at 0."""
    if n and bool((x == 0).any()):
        raise Incompatible("abs has no derivative at 0, and was given a 0; use torch.sqrt(x * x + eps**2) or x * x.")
    return [torch.abs(x), *[torch.sign(x), *[None] * 5][:n]] if n else [torch.abs(x)]


SMOOTH: dict[str, Tower] = {
    "tanh": tanh,
    "sigmoid": sigmoid,
    "expit": sigmoid,
    "silu": silu,
    "sin": sin,
    "cos": cos,
    "exp": exp,
    "expm1": expm1,
    "sinh": sinh,
    "cosh": cosh,
    "log": log,
    "log1p": log1p,
    "log2": log2,
    "log10": log10,
    "square": power,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "reciprocal": reciprocal,
    "asinh": asinh,
    "arcsinh": asinh,
    "atan": atan,
    "arctan": atan,
    "erf": erf,
    "erfc": erfc,
    "abs": absolute,
    **{
        name: partial(by_autograd, getattr(torch, name))
        for name in ("tan", "asin", "acos", "acosh", "atanh", "erfinv", "logit", "sinc", "exp2")
    },
}
KINKED = ("relu", "leaky_relu", "elu", "selu", "celu", "hardtanh", "relu6", "hardswish", "hardsigmoid", "softsign")
