"""Right-hand sides with known solutions that offer every part a method may need.

Each f is g(y) - g(s(t)) + s'(t), so that y = s(t) solves y' = f exactly, whatever g is. States are y = (q, p), halves
of the last axis, with any leading axes; t is a number or a tensor (B, 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..types import State, Time

WIDTH = 4


class Forced:
    """q' = G(q, p), p' = K(q, p), smooth, nonlinear, non-autonomous, with solution s_i(t) = a_i cos(w_i t + phi_i).

    second:     y'' = f with the same right-hand side, from rest: s'(0) = 0
    coupled:    G and K depend on all of y; else G = G(p) and K = K(q) are gradients, and f is Hamiltonian
    backwards:  the field with time reversed, -f(-t, y); for second order f(-t, y)
    solvable:   df/dy is offered in closed form
    theta:      three numbers on which f depends, which a gradient may be asked for
    spoil:      what becomes of an evaluation, for systems with something wrong: from number `after` on
    calls:      evaluations, a kick or an explicit part counting as one
    """

    tolerance = None
    path = None

    def __init__(
        self, needs: frozenset[str] = frozenset(), *, coupled: bool | None = None, backwards: bool = False,
        theta: Tensor | None = None, like: Tensor | None = None, solvable: bool = False,
        spoil: Callable[[State], State] | None = None, after: int = 0,
    ) -> None:  # fmt: skip
        self._spoil, self._sound = spoil, after
        self.second = "second_order" in needs
        self.coupled = not needs & {"separable", "second_order"} if coupled is None else coupled
        self.sign = -1.0 if backwards else 1.0
        y = torch.zeros((), dtype=torch.float64) if like is None else like
        made: dict[str, Any] = {"dtype": y.real.dtype, "device": y.device}
        self.theta = torch.tensor([1.1, 0.9, 0.4], **made) if theta is None else theta
        self._a = torch.tensor([0.8, -0.6, 0.5, 0.9], **made)
        self._w = torch.tensor([1.1, 0.7, 1.3, 0.9], **made)
        self._phi = 0.0 if self.second else torch.tensor([0.3, 1.9, -0.8, 2.6], **made)
        mixing = torch.tensor([[0.9, -0.4], [0.5, 1.2]], **made)
        linear = torch.tensor([[-0.3, 0.2, 0.7, 0.0], [0.1, -0.5, 0.0, 0.6], [-0.7, 0.1, -0.2, 0.3],
                               [0.0, -0.6, 0.2, -0.4]], **made)  # fmt: skip
        self._mixing, self._linear = mixing.to(y.dtype), linear.to(y.dtype)
        self.jacobian = self._jacobian if solvable else None
        self.calls = 0
        self.counts: Counter[str] = Counter()
        self.workspace: dict[str, Any] = {}

    def exact(self, t: Time) -> Tensor:
        """s(t)."""
        return self._a * torch.cos(self._angle(t))

    def __call__(self, t: Time, y: State) -> State:
        self.calls += 1
        return self._f(t, y)

    def _f(self, t: Time, y: State) -> State:
        t = self.sign * t
        s = self.exact(t)
        f = self._g(y) - self._g(s.to(y.dtype)) + self._rate(t)
        f = f if self.second else self.sign * f
        self._sound -= 1
        return f if self._spoil is None or self._sound >= 0 else self._spoil(f)

    def _angle(self, t: Time) -> Tensor:
        return self._w * t + self._phi

    def _rate(self, t: Time) -> Tensor:
        if self.second:
            return -(self._w**2) * self.exact(t)
        return -(self._w * self._a) * torch.sin(self._angle(t))

    def _g(self, y: State) -> State:
        q, p = self.split(y)
        if self.second:  # the gradient of a potential
            return torch.cat((self._pull(q), -self.theta[0] * torch.sin(p)), -1)
        if not self.coupled:
            return torch.cat((self.theta[0] * torch.sin(p), self._pull(q)), -1)
        swapped = torch.cat((torch.sin(p), self._pull(q)), -1)
        return self.theta[0] * swapped + self.theta[2] * torch.cos(y + 0.5 * y.flip(-1))

    def _pull(self, q: State) -> State:
        return -(self.theta[1] * torch.tanh(q @ self._mixing)) @ self._mixing.mT

    def _jacobian(self, t: Time, y: State) -> Tensor:
        """df/dy, (..., 4, 4)."""
        q, p = self.split(y)
        pulled = (self.theta[1] / torch.cosh(q @ self._mixing).square()).unsqueeze(-2) * self._mixing
        matrix = y.new_zeros(*y.shape, WIDTH)
        matrix[..., 2:, :2] = -pulled @ self._mixing.mT
        matrix[..., :2, 2:] = torch.diag_embed(torch.cos(p))
        matrix = self.theta[0] * matrix
        bend = torch.diag_embed(torch.sin(y + 0.5 * y.flip(-1)))
        return self.sign * (matrix - self.theta[2] * (bend + 0.5 * bend.flip(-1)))

    # ---- separable

    def split(self, y: State) -> tuple[State, State]:
        """(q, p)."""
        return y[..., : WIDTH // 2], y[..., WIDTH // 2 :]

    def join(self, q: State, p: State) -> State:
        """y."""
        return torch.cat((q, p), -1)

    def kick(self, t: Time, q: State) -> State:
        """p'."""
        self.calls += 1
        return self.split(self._f(t, self.join(q, torch.zeros_like(q))))[1]

    def drift(self, t: Time, p: State) -> State:
        """q'."""
        return self.split(self._f(t, self.join(torch.zeros_like(p), p)))[0]

    # ---- split in two, and with a linear part

    def implicit(self, t: Time, y: State) -> State:
        """The part taken as stiff: linear, nonlinear and depending on time."""
        at = self.sign * t
        return self.sign * (y @ self._linear.mT + 0.3 * torch.sin(y) - 0.2 * self.exact(at))

    def explicit(self, t: Time, y: State) -> State:
        """f less the stiff part."""
        self.calls += 1
        return self._f(t, y) - self.implicit(t, y)

    def linear(self) -> Tensor:
        """L, (4, 4)."""
        return self.sign * self._linear

    def nonlinear(self, t: Time, y: State) -> State:
        """f - L y."""
        self.calls += 1
        return self._f(t, y) - y @ self.linear().mT


class Soliton:
    """q' = p, p' = q - 2 q^3 with solution q = sech(t + c): autonomous; y = (q, p), (8, 2), c eight numbers.

    second: q'' = q - 2 q^3 from rest, y = q = sech t, (1, 1).
    """

    tolerance = None
    path = None

    def __init__(self, needs: frozenset[str] = frozenset()) -> None:
        self.second = "second_order" in needs
        shifts = [0.0] if self.second else [-1.7, -1.2, -0.9, -0.4, 0.1, 0.5, 0.8, 1.3]
        self._c = torch.tensor(shifts, dtype=torch.float64).unsqueeze(-1)
        self._linear = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        self.counts: Counter[str] = Counter()
        self.workspace: dict[str, Any] = {}

    def exact(self, t: float) -> Tensor:
        """The solution at t."""
        q = 1 / torch.cosh(t + self._c)
        return q if self.second else torch.cat((q, -q * torch.tanh(t + self._c)), -1)

    def __call__(self, t: Time, y: State) -> State:
        if self.second:
            return y - 2 * y**3
        q, p = self.split(y)
        return self.join(p, q - 2 * q**3)

    def jacobian(self, t: Time, y: State) -> Tensor:
        """df/dy, (8, 2, 2)."""
        matrix = y.new_zeros(*y.shape, y.shape[-1])
        matrix[..., 0, -1] = 1.0
        matrix[..., -1, 0] = 1 - 6 * y[..., 0] ** 2
        return matrix

    def split(self, y: State) -> tuple[State, State]:
        """(q, p)."""
        return y[..., :1], y[..., 1:]

    def join(self, q: State, p: State) -> State:
        """y."""
        return torch.cat((q, p), -1)

    def kick(self, t: Time, q: State) -> State:
        """p'."""
        return q - 2 * q**3

    def drift(self, t: Time, p: State) -> State:
        """q'."""
        return p

    def implicit(self, t: Time, y: State) -> State:
        """The linear part."""
        return y @ self._linear

    def explicit(self, t: Time, y: State) -> State:
        """The cubic part."""
        q, p = self.split(y)
        return self.join(torch.zeros_like(p), -2 * q**3)

    nonlinear = explicit

    def linear(self) -> Tensor:
        """L, (2, 2)."""
        return self._linear


class Quadrature:
    """y' = cos(2 t + phi), whose solution is an integral: what a method makes of t alone; y: (4,).

    second: y'' = cos 2 t from rest.
    """

    tolerance = None
    path = None

    def __init__(self, needs: frozenset[str] = frozenset()) -> None:
        self.second = "second_order" in needs
        self._phi = torch.tensor([0.0] * 4 if self.second else [0.2, 1.3, 2.9, -1.1], dtype=torch.float64)
        self.counts: Counter[str] = Counter()
        self.workspace: dict[str, Any] = {}

    def exact(self, t: float) -> Tensor:
        """The solution at t."""
        angle = 2 * t + self._phi
        return (1 - torch.cos(angle)) / 4 if self.second else torch.sin(angle) / 2

    def __call__(self, t: Time, y: State) -> State:
        return torch.cos(2 * t + self._phi) + 0 * y

    def jacobian(self, t: Time, y: State) -> Tensor:
        """df/dy = 0."""
        return y.new_zeros(*y.shape, y.shape[-1])

    def split(self, y: State) -> tuple[State, State]:
        """(q, p)."""
        return y[..., :2], y[..., 2:]

    def join(self, q: State, p: State) -> State:
        """y."""
        return torch.cat((q, p), -1)

    def kick(self, t: Time, q: State) -> State:
        """p'."""
        return torch.cos(2 * t + self._phi[2:]) + 0 * q

    def drift(self, t: Time, p: State) -> State:
        """q'."""
        return torch.cos(2 * t + self._phi[:2]) + 0 * p

    def implicit(self, t: Time, y: State) -> State:
        """A third of f."""
        return self(t, y) / 3

    def explicit(self, t: Time, y: State) -> State:
        """The rest."""
        return 2 * self(t, y) / 3

    nonlinear = __call__

    def linear(self) -> Tensor:
        """Nothing."""
        return torch.zeros(4, 4, dtype=torch.float64)


Known = Forced | Soliton | Quadrature


def states(count: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Starting values (count, 4) near which nothing is special."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    if dtype.is_complex:
        return torch.complex(y, 0.3 * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)).to(dtype)
    return y.to(dtype)
