"""Functions of numpy arrays or of tensors, in the form that `solve` steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..fields import Field
from ..types import Params, State, Time
from .events import Event
from .state import finite, floating


class World(ABC):
    """What the user's functions take and give: arrays or tensors.

    knows_jacobian: `jacobian` is asked, not automatic differentiation
    """

    def __init__(self, fun: Any, args: Any, jac: Any, knows_jacobian: bool) -> None:
        if not callable(fun):
            raise BadInput(f"fun is a function fun(t, y), got {type(fun).__name__}.")
        if args is not None and not isinstance(args, (tuple, list)):
            raise BadInput(f"args is a tuple of further arguments of fun, got {type(args).__name__}; write args=(k,).")
        self.fun, self.args, self.jac, self.knows_jacobian = fun, tuple(args or ()), jac, knows_jacobian

    @abstractmethod
    def start(self, y0: Any) -> Tensor:
        """y0 as a tensor (n,)."""

    @abstractmethod
    def slope(self, t: Time, y: State) -> State:
        """fun(t, y, *args)."""

    @abstractmethod
    def jacobian(self, t: Time, y: State) -> Tensor:
        """df/dy, (n, n)."""

    @abstractmethod
    def scalar(self, g: Any, t: Any, y: State) -> Tensor:
        """The value of an event, 0-dim."""

    @abstractmethod
    def out(self, x: Tensor) -> Any:
        """A result in the user's world."""

    def events(self, events: Any) -> list[Event] | None:
        """scipy's events, which are not terminal unless they say so."""
        if events is None:
            return None
        listed = events if isinstance(events, (list, tuple)) else [events]
        return [self._event(e) for e in listed]

    def _event(self, g: Any) -> Event:
        if isinstance(g, Event):
            return Event(lambda t, y: self.scalar(g.g, t, y), g.terminal, g.direction)
        if not callable(g):
            raise BadInput(f"an event is a function event(t, y), got {type(g).__name__}.")
        terminal, direction = getattr(g, "terminal", False) or False, getattr(g, "direction", 0.0) or 0.0
        return Event(lambda t, y: self.scalar(g, t, y), terminal, direction)


def _flat(y: Tensor) -> Tensor:
    if y.dim() != 1 or not len(y):
        raise BadInput(
            f"y0 has one axis, (n,), got shape {tuple(y.shape)}; odenet.solve takes states of any shape, and batches."
        )
    finite(y)
    return y


class Tensors(World):
    """Functions of tensors. The time is a number, or a tensor once the function has asked for one."""

    def __init__(self, fun: Any, args: Any, jac: Any) -> None:
        super().__init__(fun, args, jac, jac is not None)
        self._tensor_time = False

    def start(self, y0: Any) -> Tensor:
        return _flat(floating(y0))

    def slope(self, t: Time, y: State) -> State:
        return self._called(self.fun, t, y)

    def jacobian(self, t: Time, y: State) -> Tensor:
        value = self._called(self.jac, t, y) if callable(self.jac) else self.jac
        return torch.as_tensor(value, dtype=y.dtype, device=y.device)

    def scalar(self, g: Any, t: Any, y: State) -> Tensor:
        value = torch.as_tensor(g(t, y, *self.args))
        if value.numel() != 1:
            raise BadInput(_one_number(g, tuple(value.shape)))
        return value.reshape(())

    def out(self, x: Tensor) -> Tensor:
        return x

    def _called(self, function: Any, t: Time, y: State) -> Any:
        if self._tensor_time and not isinstance(t, Tensor):
            t = torch.tensor(t, dtype=y.real.dtype, device=y.device)
        try:
            value = function(t, y, *self.args)
        except TypeError as problem:
            if "must be Tensor, not float" not in str(problem) or self._tensor_time:
                raise
            self._tensor_time = True  # the function wants torch.sin(t)
            return self._called(function, t, y)
        return _stacked(value, y) if isinstance(value, (list, tuple)) else value


def _stacked(value: Any, y: Tensor) -> Tensor:
    """A list of components, or of rows, as one tensor."""
    if value and isinstance(value[0], (list, tuple)):
        return torch.stack([_stacked(row, y) for row in value])
    return torch.stack([torch.as_tensor(v, dtype=y.dtype, device=y.device) for v in value])


def _one_number(g: Any, shape: tuple[int, ...]) -> str:
    name = getattr(g, "__name__", "an event")
    return f"event {name} returned shape {shape}; an event gives one number, so write one function per component."


class Arrays(World):
    """Functions of numpy arrays, in double precision."""

    def __init__(self, fun: Any, args: Any, jac: Any, vectorized: bool) -> None:
        super().__init__(fun, args, jac, True)
        self.vectorized = vectorized

    def start(self, y0: Any) -> Tensor:
        import numpy as np

        try:
            y = np.asarray(y0)
            y = y.astype(complex if np.iscomplexobj(y) else float)
        except (TypeError, ValueError):
            raise BadInput(f"y0 is an array of numbers (n,) or a tensor, got {type(y0).__name__}.") from None
        return _flat(torch.from_numpy(y))

    def slope(self, t: Time, y: State) -> State:
        value = self._columns(float(t), y.numpy().copy()[:, None])[:, 0] if self.vectorized else None
        return self._tensor(self._raw(float(t), y.numpy().copy()) if value is None else value, y)

    def jacobian(self, t: Time, y: State) -> Tensor:
        if self.jac is None:
            return self._differences(float(t), y.numpy())
        value = self.jac(float(t), y.numpy().copy(), *self.args) if callable(self.jac) else self.jac
        return self._tensor(value.toarray() if hasattr(value, "toarray") else value, y)

    def scalar(self, g: Any, t: Any, y: State) -> Tensor:
        import numpy as np

        value = np.asarray(g(float(t), y.numpy().copy(), *self.args))
        if value.size != 1:
            raise BadInput(_one_number(g, value.shape))
        return torch.tensor(float(value.reshape(())), dtype=torch.float64)

    def out(self, x: Tensor) -> Any:
        return x.detach().numpy()

    def _raw(self, t: float, y: Any) -> Any:
        return self.fun(t, y, *self.args)

    def _columns(self, t: float, y: Any) -> Any:
        """fun of the columns of y (n, k)."""
        import numpy as np

        if self.vectorized:
            return np.asarray(self._raw(t, y))
        return np.stack([np.asarray(self._raw(t, y[:, j].copy())) for j in range(y.shape[1])], axis=1)

    def _differences(self, t: float, y: Any) -> Tensor:
        """Central differences, exact for quadratic right-hand sides; the move follows the size of the component."""
        import numpy as np

        size = np.abs(y)
        move = np.cbrt(np.finfo(float).eps) * np.maximum(size, max(1e-6 * size.max(), 1e-10))
        shift = np.diag(move).astype(y.dtype)
        up, down = self._columns(t, y[:, None] + shift), self._columns(t, y[:, None] - shift)
        return torch.from_numpy((up - down) / (2 * move))

    def _tensor(self, value: Any, y: State) -> Tensor:
        """A copy, since the function may use its array again."""
        import numpy as np

        array = np.asarray(value)
        if np.iscomplexobj(array) and not y.is_complex():
            raise BadInput("fun returned complex numbers for a real y0; give y0 as complex numbers, [1 + 0j].")
        return torch.tensor(array, dtype=y.dtype)


class Given(Field):
    """The user's function as a field."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.offers = frozenset({"jacobian"} if world.knows_jacobian else ())

    def init(self, generator: torch.Generator | None = None) -> Params:
        return {}

    def forward(self, t: Time, y: State, p: Params) -> State:
        return self.world.slope(t, y)

    def direct(self, p: Params) -> Callable[[Time, State], State]:
        """fun, without the layers of a module call."""
        return self.world.slope

    def jacobian(self, t: Time, y: State, p: Params) -> Tensor:
        """df/dy, (n, n)."""
        return self.world.jacobian(t, y)
