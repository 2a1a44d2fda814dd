"""Any callable or nn.Module as a field."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..types import Params, State, Time
from .base import Field

_RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
_MUTATING = (nn.modules.batchnorm._NormBase,)


class Wrapped(Field):
    """f(t, y) given by a callable or module; made by `wrap`."""

    def __init__(self, f: Callable[..., Tensor], takes_time: bool, axis: int, tensor_time: bool = False) -> None:
        super().__init__()
        self._held = (f,)  # a tuple hides a module from registration: the flow or the user owns its weights
        self.takes_time = takes_time
        self.tensor_time = tensor_time
        self.axis = axis

    @property
    def inner(self) -> Callable[..., Tensor]:
        """What was wrapped."""
        return self._held[0]

    @property
    def module(self) -> nn.Module | None:
        """What was wrapped, if it is a module with weights or parts of its own."""
        return self.inner if isinstance(self.inner, nn.Module) else None

    def init(self, generator: torch.Generator | None = None) -> Params:
        """One set of weights: drawn anew by the layers' `reset_parameters`; without a generator the module's own."""
        if self.module is None:
            return {}
        fresh = copy.deepcopy(self.module)
        if generator is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
                for part in fresh.modules():
                    if hasattr(part, "reset_parameters"):
                        part.reset_parameters()  # type: ignore[operator]
        return {_key(n): v.detach().clone() for n, v in fresh.named_parameters()}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.direct(p)(t, y)

    def direct(self, p: Params) -> Callable[[Time, State], State]:
        """f(t, y) with the weights p put into the module, where p has them."""
        call = self.inner
        if self.module is not None and p and any(_key(n) in p for n, _ in self.module.named_parameters()):
            own = {n: p[_key(n)] for n, _ in self.module.named_parameters()}
            module = self.module

            def call(*args: Any) -> Tensor:
                return torch.func.functional_call(module, own, args)

        if not self.takes_time:
            return lambda t, y: call(y)
        return call if not self.tensor_time else lambda t, y: call(_tensor(t, y), y)

    def train(self, mode: bool = True) -> Wrapped:
        """As nn.Module: the module, which is not registered here, changes mode too (its dropout, its batch norm)."""
        if self.module is not None:
            self.module.train(mode)
        super().train(mode)
        return self

    def stateful(self) -> str | None:
        """Why a recomputed evaluation would differ from the first one, or None."""
        for name, part in self.module.named_modules() if self.module is not None else ():
            if isinstance(part, _RANDOM) and getattr(part, "p", 1.0) > 0:
                return f"{name or type(part).__name__} ({type(part).__name__}) draws random numbers"
            if isinstance(part, _MUTATING) and part.track_running_stats:
                return f"{name or type(part).__name__} ({type(part).__name__}) updates running statistics"
        return None

    def extra_repr(self) -> str:
        return getattr(self.inner, "__name__", type(self.inner).__name__)


def _key(name: str) -> str:
    """A weight's name without dots, which parameter containers refuse."""
    return name.replace(".", "/")


def _tensor(t: Time, y: State) -> Tensor:
    """The time as a 0-dim tensor of the real dtype of y."""
    return t if isinstance(t, Tensor) else torch.scalar_tensor(t, dtype=y.real.dtype, device=y.device)


def wrap(f: Callable[..., Tensor] | nn.Module, *, axis: int = -1, tensor_time: bool = False) -> Field:
    """A field from f(t, y), f(y) or an nn.Module of either form; a Field passes through.

    tensor_time: f gets t as a 0-dim tensor, for torch.sin(t); else a python float, for math.sin(t), which is faster

    With depth "shared" the module is called as it is and keeps its weights; otherwise every coefficient is a copy of
    them. Choose it to put any existing block under any integrator. Raises BadInput for what is not callable or takes
    neither one nor two positional arguments.
    """
    if isinstance(f, Field):
        return f
    if not callable(f):
        raise BadInput(f"wrap needs a callable f(t, y) or f(y), or an nn.Module; it was given {type(f).__name__}.")
    return Wrapped(f, _takes_time(f), axis, tensor_time)


def _takes_time(f: Callable[..., Tensor]) -> bool:
    call = f.forward if isinstance(f, nn.Module) else f
    plain = getattr(call, "__code__", None)  # of a function or a bound method: no need to build its signature
    if plain is not None and not plain.co_flags & inspect.CO_VARARGS and not call.__defaults__:
        wanted = plain.co_argcount - inspect.ismethod(call)
        if wanted in (1, 2) and not hasattr(call, "__wrapped__"):
            return wanted == 2
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return False
    required = [
        q for q in parameters if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD) and q.default is q.empty
    ]
    if len(required) == 2 or any(q.kind is q.VAR_POSITIONAL for q in parameters):
        return True
    if len(required) == 1:
        return False
    what = type(f).__name__ if isinstance(f, nn.Module) else repr(f)
    raise BadInput(f"a right-hand side is f(t, y) or f(y), but {what} has {len(required)} required arguments.")
