"""What every function of torch does to a jet: the table behind `Jet`.

A rule takes the arguments of the function it is for. What is not in the table is refused with a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Incompatible
from . import jet_towers as towers
from .jet_series import compose, highest, multiply, transformed
from .jet_tape import note
from .jets import Jet

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(func: Any) -> Rule:
    """The rule of a function of torch."""
    return _rule_of(func)


@lru_cache(maxsize=2048)
def _rule_of(func: Any) -> Rule:
    name = _name(func)
    if name in RULES:
        return RULES[name]
    if name in _METADATA:
        return partial(_plainly, func)
    return partial(_refuse, name)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        return "." + func.__self__.__name__
    return name.strip("_") if name.startswith("__") else name.removeprefix("special_").removeprefix("linalg_")


def _plainly(func: Any, *args: Any, **kwargs: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _refuse(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise Incompatible(_ANSWERS.get(name) or _unknown(name))


def _unknown(name: str) -> str:
    if name.startswith("."):
        return f"a jet has no attribute {name[1:]!r}; use .parts, .channels, or .detach() for its values."
    if name.endswith("_"):
        return f"{name} changes a tensor in place, which a jet does not follow; write it as a new value, y = y + x."
    return (
        f"derivatives are not carried through torch's {name!r}; write it with sums, products, matrices and smooth "
        "functions, or take jet(..., backend='autograd')."
    )


_KINK = "a jet is not compared, since a branch hides a kink; compare y.detach(), and use torch.where on smooth pieces."
_ANSWERS = dict.fromkeys(("gt", "lt", "ge", "le", "eq", "ne", "isclose", "allclose", "bool", "sign"), _KINK)
_ANSWERS |= dict.fromkeys(
    ("max", "min", "maximum", "minimum", "amax", "amin", "clamp", "clip", "sort", "topk", "floor", "ceil", "round"),
    "max, min, clamp and rounding have kinks or jumps; use a smooth function, or torch.where on y.detach() conditions.",
)
_ANSWERS |= dict.fromkeys(
    ("batch_norm", "instance_norm", "group_norm"),
    "normalising over a batch makes a value depend on other points; use no norm, or layer_norm.",
)
_ANSWERS |= dict.fromkeys(
    ("item", "tolist", "numpy", "float", "int"), "a jet is no number; use y.detach() for its values."
)
_ANSWERS["setitem"] = "a jet is not written into; put its columns together with torch.cat or torch.stack."
_METADATA = {
    *(".shape", ".dtype", ".device", ".ndim", ".layout", ".is_cuda", ".is_sparse", ".is_quantized", ".is_meta"),
    *("size", "dim", "ndimension", "numel", "nelement", "len", "is_floating_point", "is_complex", "element_size"),
    *("get_device", ".is_mps", ".is_xpu", ".is_nested", ".is_mkldnn", ".names", "is_tensor"),
}


def _for(*names: str) -> Callable[[Rule], Rule]:
    def mark(made: Rule) -> Rule:
        for name in names:
            RULES[name] = made
        return made

    return mark


# ---- sums ----------------------------------------------------------------------------------------------------------


def _channels(*jets: Any) -> tuple[Any, ...]:
    sets = {x.channels for x in jets if isinstance(x, Jet)}
    if len(sets) != 1:
        raise Incompatible(f"two jets carry different derivatives, {' and '.join(str(list(s)) for s in sets)}.")
    return sets.pop()


def _aligned(name: str, x: Any, y: Any) -> None:
    """Refuse what would move the axis of samples."""
    jets = [z for z in (x, y) if isinstance(z, Jet)]
    deepest = max(z.dim() for z in jets)
    if any(isinstance(z, Tensor) and (z.dim() > deepest or (isinstance(z, Jet) and z.dim() < deepest)) for z in (x, y)):
        raise Incompatible(
            f"{name} of {_shape(x)} and {_shape(y)} would pair different samples; give both the same number of axes, "
            "the samples first, for instance by y[:, None] or y[:, 0]."
        )
    samples = {z.shape[0] for z in jets}
    if len(samples) > 1 or any(
        isinstance(z, Tensor) and z.dim() == deepest and z.shape[0] not in {1, *samples} for z in (x, y)
    ):
        raise Incompatible(f"{name} of {_shape(x)} and {_shape(y)}: the numbers of samples differ.")


def _shape(x: Any) -> str:
    return str(tuple(x.shape)) if isinstance(x, Tensor) else "a number"


@_for("add", "radd")
def _add(x: Any, y: Any, *, alpha: Any = 1, out: None = None) -> Any:
    if isinstance(x, Jet) and isinstance(y, Jet):
        _aligned("+", x, y)
        return Jet(torch.add(x.parts, y.parts, alpha=alpha), _channels(x, y))
    if isinstance(x, Jet):
        return _shifted(x, y if alpha == 1 else alpha * y)
    return _shifted(y if alpha == 1 else y * alpha, x)


@_for("sub", "subtract")
def _sub(x: Any, y: Any, *, alpha: Any = 1, out: None = None) -> Any:
    return _add(x, y, alpha=-alpha) if isinstance(y, Jet) else _add(x, -y, alpha=alpha)


@_for("rsub")
def _rsub(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return _sub(y, x, alpha=alpha)


def _shifted(x: Jet, b: Any) -> Jet:
    """x + b, b constant: on the values alone."""
    _aligned("+", x, b)
    if isinstance(b, Tensor):
        shape = torch.broadcast_shapes(x.shape, b.shape)
        parts = x.parts if shape == x.shape else x.parts.expand(-1, *shape)
        whole = torch.cat((parts[:1] + b, parts[1:])) if transformed() else _Shift.apply(parts, b)
        note("shift", b, None, whole)
    else:
        whole = torch.cat((x.parts[:1] + b, x.parts[1:])) if transformed() else _Shift.apply(x.parts, b)
    return Jet(whole, x.channels)


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, b: Any) -> Tensor:
        ctx.shape = b.shape if isinstance(b, Tensor) else None
        out = parts.clone()
        out[0] += b
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return g, g[0].sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None


@_for("neg", "negative")
def _neg(x: Jet) -> Jet:
    return Jet(-x.parts, x.channels)


@_for("positive", "clone", "contiguous")
def _same(x: Jet, **_: Any) -> Jet:
    return Jet(x.parts.clone(), x.channels)


# ---- products ------------------------------------------------------------------------------------------------------


@_for("mul", "multiply", "rmul")
def _mul(x: Any, y: Any, *, out: None = None) -> Jet:
    if isinstance(x, Jet) and isinstance(y, Jet):
        _aligned("*", x, y)
        return Jet(multiply(x.parts, y.parts, _channels(x, y)), x.channels)
    x, y = (x, y) if isinstance(x, Jet) else (y, x)
    _aligned("*", x, y)
    whole = x.parts * y
    if isinstance(y, Tensor):
        note("scale", y, x.parts, whole)
    return Jet(whole, x.channels)


@_for("div", "divide", "true_divide", "truediv")
def _div(x: Any, y: Any, *, rounding_mode: None = None, out: None = None) -> Jet:
    if rounding_mode is not None:
        _refuse("floor")
    if isinstance(y, Jet):
        return _mul(_entrywise(towers.reciprocal, y), x)
    return _mul(x, 1.0 / y) if isinstance(y, Tensor) and y.requires_grad else _divided(x, y)


def _divided(x: Jet, y: Any) -> Jet:
    _aligned("/", x, y)
    return Jet(x.parts / y, x.channels)


@_for("rdiv", "rtruediv")
def _rdiv(x: Jet, y: Any) -> Jet:
    return _div(y, x)


@_for("pow", "float_power")
def _pow(x: Any, p: Any, *, out: None = None) -> Jet:
    if isinstance(p, int | float) and isinstance(x, Jet):
        return _entrywise(partial(towers.power, p=p), x)
    if isinstance(p, Tensor) and not isinstance(p, Jet) and p.dim() == 0 and not p.requires_grad:
        return _pow(x, p.item())
    if isinstance(x, int | float):
        return _entrywise(towers.exp, _mul(p, math.log(x)))
    base = _entrywise(towers.log, x) if isinstance(x, Jet) else torch.log(x)
    return _entrywise(towers.exp, _mul(base, p))


@_for("rpow")
def _rpow(x: Jet, base: Any) -> Jet:
    return _pow(base, x)


@_for("addcmul")
def _addcmul(x: Any, y: Any, z: Any, *, value: Any = 1, out: None = None) -> Any:
    return x + value * (y * z)


@_for("addcdiv")
def _addcdiv(x: Any, y: Any, z: Any, *, value: Any = 1, out: None = None) -> Any:
    return x + value * (y / z)


@_for("lerp")
def _lerp(x: Any, y: Any, w: Any, *, out: None = None) -> Any:
    return x + w * (y - x)


@_for("where")
def _where(condition: Tensor, x: Any, y: Any) -> Jet:
    """Piecewise, on a plain condition."""
    some = x if isinstance(x, Jet) else y
    if isinstance(condition, Jet):
        _refuse("bool")
    _aligned("where", condition, some)
    _aligned("where", x, y)
    shape = torch.broadcast_shapes(*(z.shape for z in (condition, x, y) if isinstance(z, Tensor)))
    left, right = (_as_parts(z, some, shape) for z in (x, y))
    return Jet(torch.where(condition, left, right), _channels(x, y))


def _as_parts(x: Any, like: Jet, shape: Sequence[int]) -> Tensor:
    if isinstance(x, Jet):
        return x.parts.expand(-1, *shape)
    value = torch.as_tensor(x, dtype=like.dtype, device=like.device).expand(shape)
    return torch.cat((value[None], value.new_zeros(len(like.channels) - 1, *shape)))


# ---- functions of one variable -------------------------------------------------------------------------------------


def _entrywise(tower: towers.Tower, x: Jet) -> Jet:
    return Jet(compose(x.parts, x.channels, tower), x.channels)


def _smooth(tower: towers.Tower, x: Jet, *, out: None = None, inplace: bool = False, **_: Any) -> Jet:
    return _entrywise(tower, x)


for _key, _tower in towers.SMOOTH.items():
    RULES[_key] = partial(_smooth, _tower)


def _kinked(name: str, x: Jet, *args: Any, inplace: bool = False, **kwargs: Any) -> Jet:
    f = getattr(F, name)
    order = highest(x.channels)
    return _entrywise(partial(towers.kinked, name, lambda z: f(z, *args, **kwargs), order=order), x)


for _key in towers.KINKED:
    RULES[_key] = partial(_kinked, _key)


@_for("gelu")
def _gelu(x: Jet, approximate: str = "none") -> Jet:
    if approximate == "none":
        return _entrywise(towers.gelu, x)
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + torch.tanh(inner))  # type: ignore[return-value]


@_for("softplus")
def _softplus(x: Jet, beta: float = 1.0, threshold: float = 20.0) -> Jet:
    return _entrywise(partial(towers.softplus, beta=beta, threshold=threshold), x)


@_for("log_sigmoid", "logsigmoid")
def _log_sigmoid(x: Jet) -> Jet:
    return -F.softplus(-x, threshold=1000.0)  # type: ignore[return-value]


@_for("mish")
def _mish(x: Jet, inplace: bool = False) -> Any:
    return x * torch.tanh(F.softplus(x))


@_for("tanhshrink")
def _tanhshrink(x: Jet) -> Any:
    return x - torch.tanh(x)


# ---- other parts of the table --------------------------------------------------------------------------------------

from . import jet_axes, jet_linear  # noqa: E402, F401  (they fill the table too)
