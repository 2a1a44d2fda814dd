"""Running costs: what a net pays on the way through its flows, mean over samples of int L(t, x, theta, f) dt.

    fit(net, data, penalty=kinetic(0.01) + jacobian(0.01))          the regularised neural ODE of Finlay et al. 2020
    fit(net, data, penalty=[running_cost(L, 0.1), {"h1": 1e-3}])    any L, and weights that are smooth in depth

    L(t, x, theta, f) -> (B,)      x (B, ...) the state, theta the effective weights at t, f(t, x) the right-hand side

One hook for all of them. Under explicit Runge-Kutta methods the integral has the order p of the method, else min(p, 4)
(see `flow.integral`); Euler sums h L(x_n, theta_n). A penalty passes through the flows once more, without dropout. The
control methods ("sqh", "emsa", ...) put the cost of a layer into its Hamiltonian, H_n = p . Phi_n - L_n.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible
from ..flow import Chain, Flow
from ..flow.integral import Running, integral
from ..types import Function, Params, State, Time


@dataclass(frozen=True)
class RunningCost:
    """A penalty (net, batch) -> scalar: the mean over samples of the integral of L over the flows of the net.

    start:  state at the beginning of a solve -> the L of that solve, weights of sums included
    random: whether two solves from one state have different L, as with a fresh probe
    a + b is the cost of both, in one pass. Raises BadInput for a net that is no Flow, Chain or nn.Sequential with a
    flow, Incompatible for flows that hand a memory on or as `flow.integral`.
    """

    start: Callable[[State], Running]
    random: bool = False

    def __call__(self, net: nn.Module, batch: Any) -> Tensor:
        parts = list(net.parts) if isinstance(net, Chain) else list(net) if isinstance(net, nn.Sequential) else [net]
        if not any(isinstance(part, Flow) for part in parts):
            raise BadInput(f"a running cost is paid along flows, and this {type(net).__name__} has none in its row.")
        if isinstance(net, Chain) and any(net.links):
            raise Incompatible("a running cost looks at one flow at a time, but these hand their memory on.")
        y, paid = batch[0], []
        for part in parts:
            if isinstance(part, Flow):
                y, total = integral(part, y, self.start(y))
                paid.append(total.mean())
            else:
                y = part(y)
        return torch.stack(paid).sum()

    def __add__(self, other: RunningCost) -> RunningCost:
        def start(x: State) -> Running:
            one, two = self.start(x), other.start(x)
            return lambda t, x, theta, f: one(t, x, theta, f) + two(t, x, theta, f)

        return RunningCost(start, self.random or other.random)


def running_cost(running: Running, weight: float = 1.0) -> RunningCost:
    """weight E int L(t, x, theta, f) dt for any L with values (B,). Raises BadInput unless weight >= 0."""
    weight = _weight(weight)
    return RunningCost(lambda _: lambda t, x, theta, f: weight * running(t, x, theta, f))


def kinetic(weight: float = 0.01) -> RunningCost:
    """weight E int |f|^2 dt: straight paths at constant speed, which few steps follow.

    Choose it for neural ODEs whose solver works too hard. Finlay et al. 2020 (arXiv 2002.02798).
    """
    return running_cost(lambda t, x, theta, f: _squares(f(t, x)), weight)


def jacobian(weight: float = 0.01, *, exact: bool = False, seed: int | None = None) -> RunningCost:
    """weight E int |df/dx|_F^2 dt: fields that vary slowly in space, for steps that stay large and for robustness.

    Hutchinson's estimate E |e^T df/dx|^2 with one probe e = +-1 in every entry for a whole solve, drawn afresh for the
    next one; `seed` makes it the same in all of them, which a method that compares losses needs. exact: all rows, D
    backward passes, for small D. Finlay et al. 2020 (arXiv 2002.02798). Raises BadInput unless weight >= 0.
    """
    weight = _weight(weight)

    def start(first: State) -> Running:
        probe = None if exact else _probe(first, seed)

        def running(t: Time, x: State, theta: Params, f: Function) -> Tensor:
            pull = torch.func.vjp(lambda z: f(t, z), x)[1]
            if probe is not None:
                return weight * _squares(pull(_fitted(probe, x))[0])
            width = x[0].numel()
            eye = torch.eye(width, dtype=x.dtype, device=x.device).reshape(width, 1, *x.shape[1:])
            rows = torch.func.vmap(lambda e: pull(e.expand_as(x))[0])(eye)
            return weight * rows.square().transpose(0, 1).flatten(1).sum(1)

        return running

    return RunningCost(start, random=not exact and seed is None)


def taylor(order: int = 2, weight: float = 0.01) -> RunningCost:
    """weight E int |d^k x/dt^k|^2 dt along the solution: an adaptive method of order k - 1 then takes large steps.

    k nested directional derivatives, so a cost that grows with k. taylor(1) is `kinetic`. Kelly, Bettencourt, Johnson &
    Duvenaud 2020 (arXiv 2007.04504). Raises BadInput unless order is 1, 2, ...
    """
    if not isinstance(order, int) or order < 1:
        raise BadInput(f"taylor takes the number of a derivative, 1, 2, 3, ..., got order={order!r}.")

    def running(t: Time, x: State, theta: Params, f: Function) -> Tensor:
        return _squares(_derivative(f, order)(_time(t, x), x)) if order > 1 else _squares(f(t, x))

    return running_cost(running, weight)


def hjb(weight: float = 0.01) -> RunningCost:
    """weight E int |d Phi/dt - |grad Phi|^2 / 2| dt for a field f = -grad Phi: zero where Phi solves the equation of
    Hamilton, Jacobi and Bellman, which optimal transport does, and then x'' = 0.

    Choose it, beside `kinetic`, for potentials that are learned: paths that are straight under it can be followed in
    few steps. A field offers `potential`, as fields.Descent(Phi) does; weights that vary with t count in d Phi/dt, but
    not where they jump. Onken, Wu Fung, Li & Ruthotto 2021 (arXiv 2006.00104), eq. 7, whose L = int |f|^2 / 2 is half
    of `kinetic`. Raises Incompatible for a field without a potential.
    """

    def running(t: Time, x: State, theta: Params, f: Function) -> Tensor:
        phi: Function = f.potential  # type: ignore[attr-defined]
        time = _time(t, x)
        change = _along(lambda s: phi(s, x), (time,), (torch.ones_like(time),))
        return (change - _squares(f(t, x)) / 2).abs()

    return running_cost(running, weight)


def _derivative(f: Function, order: int) -> Function:
    """(t, x) -> d^k x/dt^k where x' = f(t, x): the derivative of the one before along (1, f)."""
    if order == 1:
        return f
    before = _derivative(f, order - 1)

    def along(t: Any, x: State) -> State:
        return _along(before, (t, x), (torch.ones_like(t), f(t, x)))

    return along


def _along(g: Callable[..., Tensor], at: tuple[Tensor, ...], way: tuple[Tensor, ...]) -> Tensor:
    """The derivative of g in a direction."""
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.func.jvp(g, at, way)[1]


def _time(t: Time, x: State) -> Tensor:
    return torch.as_tensor(t, dtype=x.dtype, device=x.device)


def _squares(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


def _probe(x: State, seed: int | None) -> Tensor:
    """+1 or -1, each as likely, in the shape of x."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    bits = torch.randint(2, x.shape, generator=generator)
    return (2 * bits - 1).to(x)


def _fitted(probe: Tensor, x: State) -> Tensor:
    """The probe for a state that is (y, v) where the flow began with y: the same signs for both."""
    copies = [b // a for a, b in zip(probe.shape, x.shape)]
    return probe.repeat(copies) if any(n != 1 for n in copies) else probe


def _weight(weight: float) -> float:
    if not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
        raise BadInput(f"the weight of a running cost is a number >= 0, got {weight!r}.")
    return float(weight)
