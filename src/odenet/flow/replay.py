"""A function of tensors written down as the torch calls it makes, to be made again without the Python around them.

A step of a narrow net is a handful of kernels under three times as much Python. Steps that differ in their weights and
times alone make the same calls, so those of the first are written down and made again for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SUMS, PRODUCTS = (Tensor.add, torch.add), (Tensor.mul, torch.mul)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a tensor that is another one in every replay."""

    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """f(*args, **kwargs), with Slots for tensors; `out` is a tree of the Slots of what it gives, or None."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def changes(self) -> bool:
        """Whether it may write into one of its arguments."""
        return self.out is None or getattr(self.f, "__name__", "_").endswith("_") or "out" in self.kwargs


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear with a stack of matrices (M, rows, cols) and states (M, S, cols): one bmm."""
    return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)


class Writing(TorchFunctionMode):
    """Writes down every torch call that gives tensors, or nothing."""

    def __init__(self, given: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.alive: list[Any] = list(given)  # an id is that of one tensor as long as it lives
        self.known = {id(x): Slot(i) for i, x in enumerate(given)}

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if f is torch.nn.functional.linear and len(args) > 1 and args[1].dim() == 3:
            f = stacked_linear
        kwargs = kwargs or {}
        placed = self.placed(args), {k: self.placed(v) for k, v in kwargs.items()}
        out = f(*args, **kwargs)
        if out is None or _has_tensors(out):  # sizes and types are the same in every replay
            self.calls.append(Call(f, *placed, self._named(out)))
        return out

    def placed(self, tree: Any) -> Any:
        """The same with Slots for the tensors that are known."""
        if isinstance(tree, Tensor):
            return self.known.get(id(tree), tree)
        return type(tree)(map(self.placed, tree)) if type(tree) in (tuple, list) else tree

    def _named(self, out: Any) -> Any:
        if isinstance(out, (tuple, list)):
            return tuple(map(self._named, out))
        if not isinstance(out, Tensor):
            return None
        if id(out) not in self.known:
            self.known[id(out)] = Slot(len(self.alive))
            self.alive.append(out)
        return self.known[id(out)]


class Tape:
    """The calls of a function of tensors; called with others of the same shapes, it makes them again."""

    def __init__(self, calls: list[Call], result: Any, size: int) -> None:
        self.calls, self.result = _needed(_fused(calls), result), result
        self._rest: list[Any] = []  # constants, behind the `size` slots
        self._program = [(*_settled(c), self._getter(c.args, size), c.out) for c in self.calls]
        self._size = size

    def _getter(self, args: tuple[Any, ...], size: int) -> Callable[[list[Any]], Any]:
        """args from all that is held."""
        if any(type(a) in (tuple, list) for a in args):
            return lambda held: _filled(args, held)
        at = []
        for a in args:
            if type(a) is not Slot:
                self._rest.append(a)
            at.append(a.at if type(a) is Slot else size + len(self._rest) - 1)
        return itemgetter(*at) if len(at) > 1 else itemgetter(slice(at[0], at[0] + 1) if at else slice(0, 0))

    def __call__(self, *given: Tensor) -> Tensor:
        held: list[Any] = [*given, *[None] * (self._size - len(given)), *self._rest]
        for f, kwargs, get, out in self._program:
            made = f(*get(held), **{k: _filled(v, held) for k, v in kwargs.items()}) if kwargs else f(*get(held))
            if type(out) is Slot:
                held[out.at] = made
            elif out is not None:
                _spread(out, made, held)
        return _filled(self.result, held)


def write(f: Callable[..., Tensor], *given: Tensor) -> tuple[Tensor, Tape]:
    """f(*given), and the tape that gives it anew: for a function whose Python does not look at values."""
    with Writing(given) as writing:
        out = f(*given)
    return out, Tape(writing.calls, writing.placed(out), len(writing.alive))


def _settled(call: Call) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function with its constant keywords, and the others."""
    fixed = {k: v for k, v in call.kwargs.items() if not _slots(v)}
    return partial(call.f, **fixed) if fixed else call.f, {k: v for k, v in call.kwargs.items() if k not in fixed}


def _fused(calls: list[Call]) -> list[Call]:
    """With y + number * k as one kernel, where the sum follows the product."""
    made = calls[:1]
    for before, call in pairwise(calls):
        if call.f in SUMS and before.f in PRODUCTS and not (call.kwargs or before.kwargs) and len(call.args) == 2:
            (y, moved), (k, factor) = call.args, before.args
            if moved == before.out and type(factor) is float and type(y) is Slot and y != moved:
                call = Call(torch.add, (y, k), {"alpha": factor}, call.out)
        made.append(call)
    return made


def _needed(calls: list[Call], result: Any) -> list[Call]:
    """Without the calls whose value nothing uses and that write nowhere."""
    used, kept = _slots(result), list[Call]()
    for call in reversed(calls):
        if call.changes or _slots(call.out) & used:
            used |= _slots(call.args) | _slots(tuple(call.kwargs.values()))
            kept.append(call)
    return kept[::-1]


def _has_tensors(tree: Any) -> bool:
    return isinstance(tree, Tensor) or (isinstance(tree, (tuple, list)) and any(map(_has_tensors, tree)))


def _slots(tree: Any) -> set[int]:
    if type(tree) is Slot:
        return {tree.at}
    return set[int]().union(*map(_slots, tree)) if type(tree) in (tuple, list) else set()


def _filled(tree: Any, held: list[Any]) -> Any:
    """The same with tensors in the place of Slots."""
    if type(tree) is Slot:
        return held[tree.at]
    return type(tree)(_filled(x, held) for x in tree) if type(tree) in (tuple, list) else tree


def _spread(out: Any, made: Any, held: list[Any]) -> None:
    for slot, x in zip(out, made):
        if type(slot) is Slot:
            held[slot.at] = x
        elif slot is not None:
            _spread(slot, x, held)
