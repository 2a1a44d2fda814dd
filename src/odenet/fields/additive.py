"""Fields made of parts: stiff and not stiff, linear and nonlinear, or with their Jacobian in closed form."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..types import Params, State, Time
from .base import Field, stateful
from .rhs import check_value
from .wrap import wrap

RightHandSide: TypeAlias = Callable[..., Tensor]  # f(t, y), f(y), a module of either form, or a Field


class Composite(Field):
    """A field made of fields. Their weights stand in one dictionary under "part/weight"."""

    def __init__(self, **parts: RightHandSide) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _part(type(self).__name__, name, f) for name, f in parts.items()})
        fields = list(self._fields().values())
        self.axis = fields[0].axis
        self.statistics = frozenset(f"{name}/{s}" for name, f in self._fields().items() for s in f.statistics)
        self._keys = {name: _weight_names(name, f) for name, f in self._fields().items()}
        _share(self._keys, self._fields())

    def _fields(self) -> dict[str, Field]:
        return dict(self.parts.items())  # type: ignore[arg-type]

    @abstractmethod
    def forward(self, t: Time, y: State, p: Params) -> State:
        """The sum of the parts."""

    def of(self, part: str, p: Params) -> Params:
        """The weights of one part."""
        return {k: p[key] for k, key in self._keys[part].items() if key in p}

    def evaluate(self, part: str, t: Time, y: State, p: Params) -> State:
        """One part alone. Raises BadInput where its value does not look like y."""
        value = self.parts[part](t, y, self.of(part, p))
        if not isinstance(value, Tensor) or value.shape != y.shape or value.dtype != y.dtype:
            check_value(value, y, self.parts[part])  # type: ignore[arg-type]
        return value

    def init(self, generator: torch.Generator | None = None) -> Params:
        drawn = {f"{n}/{k}": v for n, f in self._fields().items() for k, v in f.init(generator).items()}
        return {key: drawn[key] for keys in self._keys.values() for key in keys.values()}

    def constrain(self, p: Params) -> Params:
        out = dict(p)
        for name, f in self._fields().items():
            effective = f.constrain(self.of(name, p))
            out |= {self._keys[name][k]: v for k, v in effective.items() if k in self._keys[name]}
        return out

    @property
    def module(self) -> nn.Module | None:
        """The modules among the parts, where all weights are theirs; else None."""
        held = {name: getattr(f, "module", None) for name, f in self._fields().items()}
        if any(self._keys[name] and module is None for name, module in held.items()):
            return None
        found = {name: module for name, module in held.items() if module is not None}
        return nn.ModuleDict(found) if found else None

    def stateful(self) -> str | None:
        """Why a recomputed evaluation would differ from the first one, or None."""
        return next(filter(None, map(stateful, self._fields().values())), None)


class Split(Composite):
    """y' = explicit(t, y) + implicit(t, y), the second part stiff. The state has any shape.

    explicit, implicit:  f(t, y), f(y), modules or fields
    Choose it where one cheap or nonlinear part needs no implicit treatment: advection and diffusion, slow and fast
    reactions. Made for "imex_euler", "ars222", "ars343", "kencarp3", "kencarp4", "lie_splitting", "strang_splitting";
    any other integrator sees the sum. An implicit part with a closed Jacobian is `WithJacobian(g, jac)`; where it is
    L y, write SemiLinear(L, explicit) instead. Raises BadInput for parts that are no right-hand sides.
    """

    def __init__(self, explicit: RightHandSide, implicit: RightHandSide) -> None:
        super().__init__(explicit=explicit, implicit=implicit)
        closed = all("jacobian" in f.offers for f in self._fields().values())
        self.offers = frozenset({"split", "jacobian"} if closed else {"split"})

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.explicit(t, y, p) + self.implicit(t, y, p)

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """The part that is not stiff."""
        return self.evaluate("explicit", t, y, p)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """The stiff part."""
        return self.evaluate("implicit", t, y, p)

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """df/dy, (B, D, D) or (D, D), where both parts offer theirs."""
        self.require("jacobian")
        return self._part_jacobian("explicit", t, y, p) + self._part_jacobian("implicit", t, y, p)

    @property
    def implicit_jacobian(self) -> Callable[[Time, State, Params], Tensor] | None:
        """Derivative of the stiff part in closed form, or None."""
        if "jacobian" not in self._fields()["implicit"].offers:
            return None
        return lambda t, y, p: self._part_jacobian("implicit", t, y, p)

    def implicit_matrix(self, p: Params, y: State) -> Tensor | None:
        """L in the precision of y where the stiff part is L y, else None."""
        known = getattr(self.parts["implicit"], "whole_matrix", None)
        return None if known is None else known(self.of("implicit", p), y)

    def _part_jacobian(self, part: str, t: Time, y: State, p: Params) -> Tensor:
        return self.parts[part].jacobian(t, y, self.of(part, p))  # type: ignore[operator]


class SemiLinear(Composite):
    """y' = L y + nonlinear(t, y), L along the last axis of y: (B, D), (D,) or (..., D).

    matrix:     L, (D, D), or its diagonal (D,), as for Fourier coefficients; an nn.Parameter is trained
    nonlinear:  f(t, y), f(y), a module or a field; None for y' = L y, which also has its Jacobian in closed form
    Choose it where stiffness is linear: "etdrk4" and other exponential methods take L exactly, "kencarp4" and other
    implicit-explicit ones take it implicitly without Newton's iteration, "strang_splitting" through exp(h L).
    Raises BadInput for a matrix that is not square, not floating-point or not finite.
    """

    def __init__(self, matrix: Any, nonlinear: RightHandSide | None = None) -> None:
        parts = {} if nonlinear is None else {"nonlinear": nonlinear}
        super().__init__(linear=LinearMap(matrix), **parts)
        self.offers = frozenset({"linear", "split"} if parts else {"linear", "split", "jacobian"})

    def forward(self, t: Time, y: State, p: Params) -> State:
        stiff = self.implicit(t, y, p)
        return stiff + self.evaluate("nonlinear", t, y, p) if "nonlinear" in self.parts else stiff

    def linear(self, p: Params) -> Tensor:
        """L, (D, D), or its diagonal (D,)."""
        return self.parts["linear"].matrix(self.of("linear", p))  # type: ignore[operator]

    def nonlinear(self, t: Time, y: State, p: Params) -> State:
        """f - L y."""
        return self.evaluate("nonlinear", t, y, p) if "nonlinear" in self.parts else torch.zeros_like(y)

    def explicit(self, t: Time, y: State, p: Params) -> State:
        """The part that is not stiff: the nonlinear one."""
        return self.nonlinear(t, y, p)

    def implicit(self, t: Time, y: State, p: Params) -> State:
        """L y."""
        return self.evaluate("linear", t, y, p)

    def implicit_matrix(self, p: Params, y: State) -> Tensor:
        """L in the precision of y: the stiff part is L y."""
        return on_state(self.linear(p), y)

    def whole_matrix(self, p: Params, y: State) -> Tensor | None:
        """L in the precision of y where f is L y, else None."""
        return None if "nonlinear" in self.parts else self.implicit_matrix(p, y)

    def implicit_jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """Derivative of L y, (B, n, n) for a state (B, ...) with n entries per sample, or (D, D) for a state (D,)."""
        matrix = self.implicit_matrix(p, y)
        square = torch.diag(matrix) if matrix.dim() == 1 else matrix
        if y.dim() < 2:
            return square
        copies = y[0].numel() // square.shape[0]
        block = torch.kron(torch.eye(copies).to(square), square) if copies > 1 else square
        return block.expand(y.shape[0], *block.shape)

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """df/dy where there is no nonlinear part."""
        self.require("jacobian")
        return self.implicit_jacobian(t, y, p)


class WithJacobian(Composite):
    """y' = f(t, y) with df/dy in closed form.

    f:            f(t, y), f(y), a module or a field
    jacobian:     jac(t, y) or jac(y) -> (B, D, D), or (D, D) where it is the same for all samples or y is (D,)
    approximate:  the Jacobian is not df/dy, on purpose: Newton's iteration forgives that, Rosenbrock methods lose
                  their order. Else the first one is compared with f along a random direction.
    Choose it with implicit and Rosenbrock methods ("radau_iia5", "rodas4") where the Jacobian is cheap: without it it
    costs one directional derivative per component. Raises BadInput for what is not callable and, at the first call,
    for a Jacobian of another shape or of another function.
    """

    def __init__(self, f: RightHandSide, jacobian: RightHandSide, *, approximate: bool = False) -> None:
        super().__init__(f=f)
        if not callable(jacobian):
            raise BadInput(
                f"WithJacobian takes a function jac(t, y) -> (B, D, D); got {type(jacobian).__name__}. For a constant "
                "matrix write SemiLinear(matrix), or lambda t, y: matrix."
            )
        self._derivative = (wrap(jacobian),)  # a tuple: its weights are those of f
        self._trusted = approximate
        self.offers = frozenset({"jacobian"})

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.evaluate("f", t, y, p)

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """df/dy, (B, D, D), or (D, D) for a state (D,)."""
        matrix = self._derivative[0](t, y, {})
        one = y[0].numel() if y.dim() > 1 else y.numel()
        batch = (y.shape[0],) if y.dim() > 1 else ()
        if matrix.shape not in ((one, one), (*batch, one, one), (1, y.numel(), y.numel()), (y.numel(), y.numel())):
            raise BadInput(
                f"the Jacobian of a state {tuple(y.shape)} has the shape {(*batch, one, one)} or {(one, one)}; the "
                f"function given to WithJacobian returned {tuple(matrix.shape)}."
            )
        if matrix.shape == (one, one):
            matrix = matrix.expand(*batch, one, one)
        if not self._trusted and torch._C._functorch.peek_interpreter_stack() is None:
            self._compare(matrix.detach(), t, y.detach(), p)
            self._trusted = True
        return matrix

    def _compare(self, matrix: Tensor, t: Time, y: State, p: Params) -> None:
        """Raise BadInput unless J v is the derivative of f along a random v."""
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(y)
        given = (matrix @ v.reshape(-1, matrix.shape[-1], 1)).reshape(y.shape)
        with torch.no_grad(), warnings.catch_warnings():  # the first call of forward mode warns about its own internals
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                wanted = torch.func.jvp(lambda x: self.evaluate("f", t, x, p), (y,), (v,))[1]
            except (RuntimeError, NotImplementedError):  # f has no forward mode
                return
        gap, size = float((given - wanted).abs().max()), float(wanted.abs().max())
        if gap > torch.finfo(y.dtype).eps ** 0.4 * max(size, float(given.abs().max())):
            raise BadInput(
                f"the Jacobian given to WithJacobian is not that of f: along a random direction it gives another slope "
                f"(by {gap:.3g}, where df/dy gives {size:.3g}); correct it, or write approximate=True to use it anyway."
            )


class LinearMap(Field):
    """L y along the last axis of y. A matrix that is an nn.Parameter stays its owner's."""

    def __init__(self, matrix: Any) -> None:
        super().__init__()
        self._held = (_Holder(matrix),) if isinstance(matrix, nn.Parameter) else ()
        self.register_buffer("_constant", None if self._held else _tensor(matrix), persistent=False)
        _check_matrix(self.matrix({}))

    @property
    def module(self) -> nn.Module | None:
        """What holds the parameter, or None."""
        return self._held[0] if self._held else None

    def init(self, generator: torch.Generator | None = None) -> Params:
        return {"matrix": self._held[0].matrix.detach().clone()} if self._held else {}

    def matrix(self, p: Params) -> Tensor:
        """(D, D) or (D,)."""
        if "matrix" in p:
            return p["matrix"]
        return self._held[0].matrix if self._held else self._constant  # type: ignore[return-value]

    def forward(self, t: Time, y: State, p: Params) -> State:
        matrix = on_state(self.matrix(p), y)
        return y * matrix if matrix.dim() == 1 else y @ matrix.mT


class _Holder(nn.Module):
    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix


def on_state(matrix: Tensor, y: State) -> Tensor:
    """`matrix` in the precision of y. Raises BadInput where it does not fit the last axis, or is complex and y real."""
    if y.dim() == 0 or y.shape[-1] != matrix.shape[-1]:
        raise BadInput(
            f"a matrix {tuple(matrix.shape)} acts on states with {matrix.shape[-1]} entries along the last axis; got a "
            f"state {tuple(y.shape)}."
        )
    if matrix.is_complex() and not y.is_complex():
        raise BadInput("a complex matrix acts on complex states; write y0.to(torch.complex128).")
    return matrix.to(y.dtype)


def _tensor(matrix: Any) -> Tensor:
    try:
        return matrix if isinstance(matrix, Tensor) else torch.as_tensor(matrix)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(
            f"the matrix of a SemiLinear field is a tensor (D, D), or (D,) for a diagonal; got {type(matrix).__name__}."
        ) from None


def _check_matrix(matrix: Tensor) -> None:
    shape = tuple(matrix.shape)
    if matrix.dim() not in (1, 2) or shape[0] != shape[-1] or not math.prod(shape):
        raise BadInput(f"the matrix of a SemiLinear field is square (D, D), or a diagonal (D,); got shape {shape}.")
    if not (matrix.is_floating_point() or matrix.is_complex()):
        raise BadInput(
            f"the matrix of a SemiLinear field is floating-point; got {matrix.dtype}, write matrix.double()."
        )
    if not bool(torch.isfinite(matrix.detach()).all()):
        raise BadInput("the matrix of a SemiLinear field has an entry that is NaN or infinite.")


def _part(who: str, name: str, f: RightHandSide) -> Field:
    """The right-hand side of one part as a field; raises BadInput where it cannot be one."""
    if not callable(f):
        raise BadInput(f"the {name} part of {who} is a function f(t, y), a module or a field; got {type(f).__name__}.")
    field = wrap(f)
    if "second_order" in field.offers:
        raise BadInput(
            f"the {name} part of {who} is a second-order field y'' = f, but the parts act on one first-order state; "
            "write FirstOrder(field)."
        )
    if field.dropout:
        raise BadInput(f"the {name} part of {who} has dropout, which acts on the whole slope; set its dropout to 0.")
    return field


def _weight_names(part: str, field: Field) -> dict[str, str]:
    own = getattr(field, "module", None) is not None  # weights that are drawn leave the global generator alone
    return {k: f"{part}/{k}" for k in (field.init() if own else field.init(torch.Generator()))}


def _share(keys: dict[str, dict[str, str]], fields: dict[str, Field]) -> None:
    """A parameter that two parts have in common has one name, that of its first part."""
    first: dict[int, str] = {}
    for part, field in fields.items():
        module = getattr(field, "module", None)
        for name, value in module.named_parameters() if module is not None else ():
            k = name.replace(".", "/")
            keys[part][k] = first.setdefault(id(value), keys[part][k])
